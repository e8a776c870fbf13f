//! What the course's pages about Metal say, run: the sentences in which planted mistakes end, and a sum in a GPU's order.

#![cfg(all(feature = "metal-standin", not(target_os = "macos")))]

#[path = "support/metal.rs"]
mod metal;

use failed_star::backend::Backend;
use failed_star::backend::metal::objc::{MESSAGES, Type};
use failed_star::backend::reference::Reference;
use failed_star::weights::{DType, SharedBytes, Tensor};
use serde_json::Value;
use std::collections::BTreeSet;

/// The numbers and sentences that pages show.
fn shown(file: &str) -> Value {
    let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
    let data = SharedBytes::from_vec(values.iter().flat_map(|v| v.to_le_bytes()).collect()).aligned();
    Tensor { name: "w".into(), dtype: DType::F32, shape: shape.into(), data, file: "f".into(), offset: 0 }
}

/// One row of 300 ones: more columns than a threadgroup has threads.
fn rms_norm<B: Backend>(backend: &B) -> Result<Vec<f32>, String> {
    let ones = [1.0; 300];
    let weight = backend.load(&tensor(&[300], &ones)).unwrap();
    let (mut x, mut out) = (backend.buffer(300), backend.buffer(300));
    backend.write(&mut x, &ones);
    backend.rms_norm(&mut out, &x, &weight, 0.0, 1);
    backend.read(&out, 300).map_err(|error| error.message)
}

/// 300 ones plus 300 ones: a threadgroup's threads are more than what is left for the last.
fn add<B: Backend>(backend: &B) -> Result<Vec<f32>, String> {
    let (mut x, mut y) = (backend.buffer(300), backend.buffer(300));
    backend.write(&mut x, &[1.0; 300]);
    backend.write(&mut y, &[1.0; 300]);
    backend.add(&mut x, &y, 300);
    backend.read(&x, 300).map_err(|error| error.message)
}

/// `message` with each `line N` as that line's text, so that it does not change when a comment grows.
fn with_code(message: &str, source: &str) -> String {
    let mut parts = message.split("line ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        let line: usize = part[..digits].parse().expect("a line is a number");
        text += &format!("`{}`{}", source.lines().nth(line - 1).expect("the source has it").trim(), &part[digits..]);
    }
    text
}

/// Threads run in an order that depends on what ran before, and buffers without a name are counted: another test's, too.
fn without_numbers(message: &str) -> String {
    message.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[test]
fn planted_mistakes_end_in_the_sentences_that_pages_show() {
    if !metal::checked() {
        return;
    }
    let (mut all_found, mut all_shown) = (Vec::new(), Vec::new());
    for fault in shown("metal.json")["faults"].as_array().unwrap() {
        let text = |name: &str| fault[name].as_str().unwrap();
        let file = text("file");
        let (directory, metal) = metal::planted(file, text("right"), text("wrong"), true);
        let source = std::fs::read_to_string(directory.path().join(file)).unwrap();
        let result = if file == "add.metal" { add(&metal) } else { rms_norm(&metal) };
        let found = with_code(&result.expect_err("the mistake is found"), &source);
        all_found.push(without_numbers(&found));
        all_shown.push(without_numbers(text("message")));
    }
    assert_eq!(all_found, all_shown);
}

#[test]
fn a_gpu_adds_in_another_order() {
    let all = shown("worked.json");
    let numbers = |name: &str| -> Vec<f32> { serde_json::from_value(all["order"][name].clone()).unwrap() };
    let (x, ones) = (numbers("x"), tensor(&[1, 4], &[1.0; 4]));
    fn sum<B: Backend>(backend: &B, x: &[f32], ones: &Tensor) -> Vec<f32> {
        let weight = backend.load(ones).unwrap();
        let (mut input, mut out) = (backend.buffer(x.len()), backend.buffer(1));
        backend.write(&mut input, x);
        backend.linear(&mut out, &input, &weight, 1);
        backend.read(&out, 1).unwrap()
    }
    assert_eq!(sum(&Reference, &x, &ones), numbers("left_to_right"));
    assert_eq!(sum(&metal::metal(true), &x, &ones), numbers("butterfly"));
}

#[test]
fn the_table_of_messages_is_as_long_as_pages_say() {
    let messages = &shown("metal.json")["messages"];
    let receivers: BTreeSet<_> = MESSAGES.iter().map(|message| message.receiver).collect();
    let with_sizes = MESSAGES.iter().filter(|message| message.arguments.contains(&Type::Size)).count();
    let found = serde_json::json!({
        "all": MESSAGES.len(), "receivers": receivers.len(), "with_a_struct_by_value": with_sizes,
    });
    assert_eq!(*messages, found);
}
