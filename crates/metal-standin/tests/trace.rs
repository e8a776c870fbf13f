//! The trace of a threadgroup, and the fixture that the course's threadgroup stepper shows: `rms_norm` as it runs here.
//! `UPDATE_FIXTURES=1 cargo test -p metal-standin --test trace` writes it anew.

#![cfg(not(target_os = "macos"))]

mod common;

use common::{Bench, Kernel};
use metal_standin::compiler::{Library, Source, Target};
use metal_standin::cpu::{Event, Options, Trace};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::Path;

const COLUMNS: u32 = 1024;
const LANES: usize = 32;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// One row through `metal/rms_norm.metal`, and its result.
fn rms_norm() -> (Trace, Vec<f32>) {
    let text = std::fs::read_to_string(root().join("metal/rms_norm.metal")).unwrap();
    let source = Source { text, language_version: 0x3_0001, macros: Vec::new(), fast_math: true };
    let bench = Bench::new(Options { check: true, shuffle: None });
    let compiled = Library::compile(&source).unwrap().build("rms_norm", &[], Target::Cpu).unwrap();
    let kernel = Kernel::compiled(&bench, compiled, &[]).unwrap();
    let x: Vec<f32> = (0..COLUMNS).map(|i| (i % 17) as f32 - 8.0).collect();
    let shape = bench.shared(&[COLUMNS, 1e-6_f32.to_bits()]).label("shape");
    let (x, weight) = (bench.shared(&x).label("x"), bench.shared(&[1_f32; COLUMNS as usize]).label("weight"));
    let out = bench.shared(&[0_f32; COLUMNS as usize]).label("out");
    bench.executor.record([0, 0, 0]);
    bench.run(vec![kernel.dispatch(&[&shape, &x, &weight, &out], [256, 1, 1], [256, 1, 1])]).unwrap();
    let values = out.read();
    (bench.executor.recorded(), values)
}

/// A SIMD-group's lanes side by side: what each did the n-th time at a line, in the order in which its first lane did it.
fn steps(trace: &Trace) -> Vec<Value> {
    let mut steps: Vec<(Event, Vec<Option<usize>>)> = Vec::new();
    // Which step a lane's next event of a kind belongs to: counted for each thread since the last meeting.
    let mut seen: HashMap<(u32, u32, usize, bool), usize> = HashMap::new();
    let mut places: HashMap<(u32, u32, usize, bool, usize), usize> = HashMap::new();
    for &event in &trace.events {
        let Event::Access { thread, line, memory, offset, write, .. } = event else {
            let lanes = if let Event::Exchange { lanes, .. } = event { lanes } else { !0 };
            steps.push((event, (0..LANES).map(|lane| (lanes >> lane & 1 != 0).then_some(0)).collect()));
            continue;
        };
        let count = seen.entry((thread, line, memory, write)).or_default();
        let simdgroup = thread / LANES as u32;
        let place = *places.entry((simdgroup, line, memory, write, *count)).or_insert_with(|| {
            steps.push((event, vec![None; LANES]));
            steps.len() - 1
        });
        *count += 1;
        steps[place].1[thread as usize % LANES] = Some(offset);
    }
    steps.into_iter().map(|(event, lanes)| shown(event, &lanes)).collect()
}

fn shown(event: Event, lanes: &[Option<usize>]) -> Value {
    let taking_part = lanes.iter().enumerate().filter(|(_, offset)| offset.is_some());
    let mask = taking_part.fold(0_u32, |mask, (lane, _)| mask | 1 << lane);
    match event {
        Event::Access { line, memory, size, write, .. } => json!({
            "simdgroup": event.simdgroup(), "line": line, "does": if write { "write" } else { "read" },
            "memory": memory, "size": size, "lanes": mask, "offsets": offsets(lanes),
        }),
        Event::Exchange { line, size, .. } => json!({
            "simdgroup": event.simdgroup(), "line": line, "does": "exchange", "size": size, "lanes": mask,
        }),
        Event::SimdgroupBarrier { .. } => json!({"simdgroup": event.simdgroup(), "does": "simdgroup_barrier"}),
        Event::Barrier { line } => json!({"line": line, "does": "barrier"}),
    }
}

/// Offsets of the lanes that take part: where they are evenly apart, the first and the distance say it all.
fn offsets(lanes: &[Option<usize>]) -> Value {
    let all: Vec<i64> = lanes.iter().flatten().map(|&offset| offset as i64).collect();
    let stride = all.get(1).map_or(0, |second| second - all[0]);
    match all.windows(2).all(|pair| pair[1] - pair[0] == stride) {
        true => json!({"first": all[0], "stride": stride}),
        false => json!(all),
    }
}

#[test]
fn the_steppers_fixture_is_what_the_kernel_does_today() {
    let (trace, values) = rms_norm();
    let scale = |values: &[f32]| (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32 + 1e-6).sqrt();
    assert!((scale(&values) - 1.0).abs() < 1e-5, "the row was not normed");
    let mut text = format!(
        "{{\n\"kernel\": \"rms_norm\", \"source\": \"metal/rms_norm.metal\", \"columns\": {COLUMNS}, \"threads\": 256,\n\"memory\": {},\n\"steps\": [\n",
        json!(trace.memory)
    );
    let lines: Vec<String> = steps(&trace).iter().map(Value::to_string).collect();
    text += &lines.join(",\n");
    text += "\n]}\n";
    let path = root().join("tests/golden/threadgroup.json");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let fixture = std::fs::read_to_string(&path).unwrap();
    assert!(fixture == text, "{} is of another kernel; UPDATE_FIXTURES=1 writes it anew", path.display());
}

#[test]
fn every_access_and_every_meeting_is_in_the_trace() {
    let (trace, _) = rms_norm();
    let count = |label: &str, written: bool| {
        let memory = trace.memory.iter().position(|memory| memory.contains(label)).unwrap();
        let is = |event: &&Event| matches!(event, Event::Access { memory: m, write, .. } if (*m, *write) == (memory, written));
        trace.events.iter().filter(is).count()
    };
    let columns = COLUMNS as usize;
    // `fma(in[i], in[i], sum)` reads twice, and the second loop once more.
    assert_eq!((count("`x`", false), count("`x`", true)), (3 * columns, 0));
    assert_eq!((count("`weight`", false), count("`out`", true)), (columns, columns));
    // The first lane of each SIMD-group writes its sum; every thread reads all eight.
    assert_eq!((count("sums", true), count("sums", false)), (8, 256 * 8));
    let exchanges = trace.events.iter().filter(|event| matches!(event, Event::Exchange { lanes: u32::MAX, .. }));
    assert_eq!(exchanges.clone().count() % 8, 0);
    assert!(exchanges.count() >= 8);
    let barriers = trace.events.iter().filter(|event| matches!(event, Event::Barrier { .. }));
    assert_eq!(barriers.count(), 1);
}

#[test]
fn only_the_threadgroup_that_was_asked_for_is_recorded_and_only_then() {
    let bench = Bench::checked();
    let kernel = Kernel::new(&bench, "copy", "KERNEL(copy) { BUFFER(device float, 0)[t->grid[0]] = 1; }");
    let out = bench.shared(&[0_f32; 96]).label("out");
    let run = || bench.run(vec![kernel.dispatch(&[&out], [96, 1, 1], [32, 1, 1])]).unwrap();
    run();
    assert_eq!(bench.executor.recorded(), Trace::default());
    bench.executor.record([1, 0, 0]);
    run();
    let trace = bench.executor.recorded();
    assert_eq!(trace.events.len(), 32);
    assert!(matches!(trace.events[0], Event::Access { thread: 0, offset: 128, size: 4, write: true, .. }));
    run();
    assert_eq!(bench.executor.recorded(), Trace::default());
}
