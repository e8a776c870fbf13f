//! GGUF: a file is a whole model, and every way in which one can lie ends in an error that says which.

use failed_star::model::expected::{compare, expected_tensors};
use failed_star::text::{TokenKind, Tokenizer};
use failed_star::weights::gguf::{Gguf, Header, config, names, tokenizer, write};
use failed_star::weights::{Config, DType, ModelSource, RopeScaling, SharedBytes};
use proptest::prelude::*;
use serde_json::json;

fn read(bytes: Vec<u8>) -> Result<Gguf, String> {
    Gguf::from_bytes(SharedBytes::from_vec(bytes), "m.gguf").map_err(|error| error.to_string())
}

/// The file is refused with an error that says all of `words`.
#[track_caller]
fn refused(bytes: Vec<u8>, words: &[&str]) {
    let error = read(bytes).expect_err(&format!("accepted, but should say {words:?}"));
    says(&error, words);
}

#[track_caller]
fn says(error: &str, words: &[&str]) {
    for word in ["m.gguf"].iter().chain(words) {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

/// A file's bytes with nothing made right.
#[derive(Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn start(version: u32, tensors: u64, keys: u64) -> Raw {
        Raw(b"GGUF".to_vec()).u32(version).u64(tensors).u64(keys)
    }
    fn bytes(mut self, bytes: &[u8]) -> Raw {
        self.0.extend(bytes);
        self
    }
    fn u32(self, n: u32) -> Raw {
        self.bytes(&n.to_le_bytes())
    }
    fn u64(self, n: u64) -> Raw {
        self.bytes(&n.to_le_bytes())
    }
    fn text(self, text: &str) -> Raw {
        self.u64(text.len() as u64).bytes(text.as_bytes())
    }
    fn alignment(self, n: u32) -> Raw {
        self.text("general.alignment").u32(4).u32(n)
    }
    fn tensor(self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> Raw {
        let raw = self.text(name).u32(sizes.len() as u32);
        sizes.iter().fold(raw, |raw, &n| raw.u64(n)).u32(kind).u64(offset)
    }
    /// Zeros up to the alignment, and `data` more.
    fn data(mut self, data: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + data, 0);
        self.0
    }
}

/// A file with one tensor and 64 bytes of data.
fn one(name: &str, sizes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    Raw::start(3, 1, 0).tensor(name, sizes, kind, offset).data(64)
}

#[test]
fn what_is_no_gguf_file_is_named() {
    refused(b"GGU".to_vec(), &["truncated"]);
    refused(b"PK\x03\x04 and more".to_vec(), &["found \"PK\\", "GGUF"]);
    for version in [0, 1, 4, 99] {
        refused(Raw::start(version, 0, 0).0, &[&format!("version {version}"), "2 and 3", "byte 4"]);
    }
    refused(Raw::start(3u32.swap_bytes(), 0, 0).0, &["big-endian", "version 3"]);
}

#[test]
fn counts_are_held_against_the_bytes_that_are_left() {
    refused(Raw::start(3, u64::MAX, 0).0, &["the number of tensors is 18446744073709551615", "byte 8"]);
    refused(Raw::start(3, 0, 1 << 40).0, &["the number of keys", "byte 16"]);
    refused(
        Raw::start(3, 0, 1).text("k").u32(8).u64(u64::MAX).0,
        &["`k`", "its text takes 18446744073709551615 bytes"],
    );
    refused(Raw::start(3, 0, 1).u64(1 << 50).bytes(&[0; 9]).0, &["a key takes", "byte 32"]);
    // Lists: of numbers, of strings, of lists.
    for kind in [0, 4, 8, 9, 12] {
        let list = Raw::start(3, 0, 1).text("k").u32(9).u32(kind).u64(1 << 60).0;
        refused(list, &["`k`", "its number of items is 1152921504606846976"]);
    }
    let string = Raw::start(3, 0, 1).text("k").u32(9).u32(8).u64(1).u64(1 << 60).0;
    refused(string, &["`k`", "an item takes 1152921504606846976 bytes"]);
}

#[test]
fn values_are_what_their_types_say() {
    refused(Raw::start(3, 0, 1).text("k").u32(13).u64(0).0, &["`k`", "type is 13", "0 to 12"]);
    refused(Raw::start(3, 0, 1).text("k").u32(7).bytes(&[2]).0, &["`k`", "2 is not a bool"]);
    refused(Raw::start(3, 0, 1).text("k").u32(8).u64(1).bytes(&[0xFF]).0, &["`k`", "not UTF-8"]);
    refused(Raw::start(3, 0, 1).u64(1).bytes(&[0xFF]).u32(4).u32(0).0, &["a key is not UTF-8"]);
    let key = |raw: Raw| raw.text("k").u32(4).u32(1);
    refused(key(key(Raw::start(3, 0, 2))).0, &["`k`", "twice", "byte 41"]);
    let nested = (0..6).fold(Raw::start(3, 0, 1).text("k").u32(9), |raw, _| raw.u32(9).u64(1));
    refused(nested.u32(0).u64(1).bytes(&[7]).0, &["`k`", "more than 4 deep"]);
    let nested = (0..2).fold(Raw::start(3, 0, 1).text("k").u32(9), |raw, _| raw.u32(9).u64(1));
    assert!(read(nested.u32(0).u64(1).bytes(&[7]).0).is_ok(), "lists in lists are valid");
}

#[test]
fn alignment_is_a_power_of_two() {
    for wrong in [0, 24, 1 << 31] {
        refused(Raw::start(3, 0, 1).alignment(wrong).0, &["`general.alignment`", &wrong.to_string(), "power of two"]);
    }
    refused(
        Raw::start(3, 0, 1).text("general.alignment").u32(8).text("32").0,
        &["`general.alignment`", "power of two"],
    );
    refused(one("t", &[4], 0, 16), &["`t`", "offset 16 is not a multiple", "32"]);
    // An alignment below an element's size is valid, a tensor that uses it is not.
    refused(Raw::start(3, 1, 1).alignment(1).tensor("odd", &[4], 0, 1).data(64), &["`odd`", "misaligned", "4 bytes"]);
}

/// Versions 2 and 3 differ in nothing but what big-endian machines write; version 1 counted in 32 bits.
#[test]
fn versions_2_and_3_are_read() {
    for version in [2, 3] {
        assert!(read(Raw::start(version, 1, 0).tensor("t", &[4, 2], 0, 0).data(64)).is_ok(), "version {version}");
    }
    for version in [0, 1, 4] {
        refused(Raw::start(version, 0, 0).0, &["version", &version.to_string()]);
    }
}

#[test]
fn tensors_have_a_shape_that_fits_into_the_file() {
    assert!(read(one("t", &[4, 2], 0, 32)).is_ok());
    refused(one("t", &[], 0, 0), &["`t`", "0 dimensions"]);
    refused(one("t", &[1; 5], 0, 0), &["`t`", "5 dimensions", "1 to 4"]);
    refused(one("t", &[1 << 40, 1 << 40], 0, 0), &["`t`", "64 bits"]);
    refused(one("t", &[1 << 62], 0, 0), &["`t`", "64 bits"]);
    refused(one("t", &[4], 0, u64::MAX - 31), &["`t`", "ends at byte 18446744073709551615", "truncated"]);
    refused(one("t", &[64], 0, u64::MAX - 31), &["`t`", "offset", "beyond"]);
    refused(one("t", &[17], 0, 0), &["`t`", "ends at byte", "truncated"]);
    refused(one("t", &[33], 8, 0), &["`t`", "rows of 33", "Q8_0", "32"]);
    refused(one("t", &[128, 2], 12, 0), &["`t`", "rows of 128", "Q4_K", "256"]);
    let two = |other: u64| Raw::start(3, 2, 0).tensor("a", &[12], 0, 0).tensor("b", &[4], 0, other).data(128);
    assert!(read(two(64)).is_ok());
    refused(two(32), &["`b`", "overlaps tensor `a`"]);
    let hidden = Raw::start(3, 3, 0).tensor("a", &[24], 0, 0).tensor("e", &[0], 0, 32).tensor("b", &[4], 0, 64);
    refused(hidden.data(128), &["`b`", "overlaps tensor `a`"]);
    let twice = Raw::start(3, 2, 0).tensor("a", &[4], 0, 0).tensor("a", &[4], 0, 32).data(64);
    refused(twice, &["`a`", "twice"]);
}

#[test]
fn unknown_tensor_types_are_named() {
    refused(one("t", &[32], 6, 0), &["`t`", "6 (Q5_0)", "it reads F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K"]);
    refused(one("t", &[32], 4_000_000_000, 0), &["`t`", "4000000000 (unknown)"]);
}

/// The embedded story model as a GGUF file.
#[cfg(feature = "embedded-model")]
fn stories() -> Vec<u8> {
    let source = ModelSource::resolve(Some("stories")).expect("embedded");
    let (model, tokenizer) = (source.config().expect("valid"), source.tokenizer().expect("valid"));
    let mut header = Header::default();
    header.text("general.architecture", "qwen3");
    config::write(&mut header, &model, "stories").expect("it has keys");
    config::write_generation(&mut header, &source.generation_config().expect("valid"));
    let files = tokenizer::TokenizerFiles {
        tokenizer: &tokenizer,
        rows: model.vocab_size,
        end_tokens: &model.eos_token_id,
        bos_token: model.bos_token_id,
        chat_template: Some("{{ messages[0].content }}!"),
    };
    tokenizer::write(&mut header, &files);
    let checkpoint = source.require_checkpoint().expect("embedded");
    let mut data = Vec::new();
    for tensor in checkpoint.tensors() {
        header.tensor(&names::to_gguf(&tensor.name).expect("a name"), tensor.dtype, &tensor.shape);
        data.extend_from_slice(&tensor.data);
        data.resize(data.len() + write::padding(data.len() as u64), 0);
    }
    assert_eq!(header.data_bytes(), data.len() as u64);
    [header.to_bytes(), data].concat()
}

#[cfg(feature = "embedded-model")]
#[test]
fn one_file_is_a_whole_model() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tales.gguf");
    std::fs::write(&path, stories()).expect("a writable directory");
    let ours = ModelSource::resolve(path.to_str()).expect("valid");
    let theirs = ModelSource::resolve(Some("stories")).expect("embedded");
    assert_eq!(ours.name(), "tales");

    let (mut config, expected) = (ours.config().expect("valid"), theirs.config().expect("valid"));
    assert_eq!(config.eos_token_id, [4095, 4093], "the end of a turn and of a text");
    (config.eos_token_id, config.dtype) = (expected.eos_token_id.clone(), expected.dtype);
    assert_eq!(config, expected);
    assert_eq!(ours.generation_config().unwrap(), theirs.generation_config().unwrap());

    let (mapped, embedded) = (ours.require_checkpoint().expect("valid"), theirs.require_checkpoint().expect("valid"));
    assert!(compare(&config, &mapped).is_ok());
    for tensor in embedded.tensors() {
        let other = mapped.get(&tensor.name).unwrap_or_else(|| panic!("{} is missing", tensor.name));
        assert_eq!((&other.shape, other.dtype, &*other.data), (&tensor.shape, tensor.dtype, &*tensor.data));
    }
    assert_same_tokenizer(&ours.tokenizer().expect("valid"), &theirs.tokenizer().expect("valid"));
    let messages = [failed_star::text::Message::new("user", "hi")];
    let rendered = ours.chat_template().expect("valid").expect("there").render(&messages, &Default::default());
    assert_eq!(rendered.expect("renders"), "hi!");
}

/// Both are the same tokenizer: the same tokens with the same bytes, marks and merges, and the same ids for texts.
#[cfg(feature = "embedded-model")]
fn assert_same_tokenizer(ours: &Tokenizer, theirs: &Tokenizer) {
    assert!(ours.tokens().eq(theirs.tokens()));
    assert!(ours.merges().eq(theirs.merges()));
    for text in
        ["Once upon a time", "<|im_start|>user\n e\u{301}t\u{e9} 12345\r\n\n  it's<|im_end|><think>", "日本 🦀\t\0"]
    {
        assert_eq!(ours.encode(text), theirs.encode(text), "{text:?}");
    }
}

/// The real vocabulary, with the rows that the embedding has beyond it.
#[cfg(feature = "embedded-model")]
#[test]
fn the_tokenizer_of_qwen3_comes_back_the_same() {
    let source = ModelSource::resolve(Some("qwen3-0.6b")).expect("embedded");
    let theirs = source.tokenizer().expect("valid");
    let mut header = Header::default();
    let files = tokenizer::TokenizerFiles {
        tokenizer: &theirs,
        rows: 151_936,
        end_tokens: &[151_645],
        bos_token: Some(151_643),
        chat_template: None,
    };
    tokenizer::write(&mut header, &files);
    let gguf = read(header.to_bytes()).expect("valid");
    let tokens = gguf.texts("tokenizer.ggml.tokens").unwrap().unwrap();
    assert_eq!((tokens.len(), tokens[151_669], tokens[151_935]), (151_936, "[PAD151669]", "[PAD151935]"));
    assert_eq!(gguf.end_tokens().unwrap(), [151_645, 151_643]);
    assert_same_tokenizer(&gguf.tokenizer().expect("valid"), &theirs);
}

/// A small valid file: all kinds of values, two tensors.
fn small() -> Vec<u8> {
    let mut header = Header::default();
    header.text("general.architecture", "qwen3");
    header.u32("qwen3.block_count", 2);
    header.f32("qwen3.rope.freq_base", 1e6);
    header.flag("tokenizer.ggml.add_bos_token", false);
    header.texts("tokenizer.ggml.tokens", ["a", "b", "<|im_end|>"].into_iter());
    header.i32s("tokenizer.ggml.token_type", [1, 1, 3].into_iter());
    header.texts("tokenizer.ggml.merges", ["a b"].into_iter());
    header.text("tokenizer.ggml.model", "gpt2");
    header.text("tokenizer.ggml.pre", "qwen2");
    header.tensor("token_embd.weight", DType::Q8_0, &[2, 32]);
    header.tensor("output_norm.weight", DType::F32, &[3]);
    [header.to_bytes(), vec![1; header.data_bytes() as usize]].concat()
}

/// Everything that a file is asked, for its errors only.
fn ask(bytes: Vec<u8>) {
    if let Ok(gguf) = read(bytes) {
        let _ = (gguf.config(), gguf.tokenizer(), gguf.generation_config(), gguf.chat_template_text());
        for tensor in gguf.checkpoint().tensors() {
            tensor.to_f32();
        }
    }
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let whole = small();
    assert!(read(whole.clone()).is_ok());
    let gguf = read(whole.clone()).unwrap();
    let end = gguf.tensors.iter().map(|tensor| tensor.offset as usize + tensor.data.len()).max().unwrap();
    for length in 0..end {
        let error = read(whole[..length].to_vec()).expect_err(&format!("{length} of {end} bytes"));
        says(&error, &[]);
    }
}

#[test]
fn no_single_changed_byte_panics() {
    let whole = small();
    for at in 0..whole.len() {
        for change in [1u8, 0x80, 0xFF, 0x10] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            ask(bytes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_changed_file_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = small();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        ask(bytes);
    }
}

/// A configuration's keys; `change` may add some.
fn configured(change: impl Fn(&mut Header)) -> Result<Config, String> {
    let mut header = Header::default();
    header.text("general.architecture", "qwen3");
    let json = json!({
        "model_type": "qwen3", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
        "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    });
    let mut model = Config::from_json(json.to_string().as_bytes(), "config.json").expect("valid");
    model.rope_scaling = RopeScaling::Yarn {
        factor: 4.0,
        original_max_position_embeddings: 32,
        attention_factor: Some(1.5),
        beta_fast: 24.0,
        beta_slow: 2.0,
        truncate: true,
    };
    config::write(&mut header, &model, "config.json").expect("it has keys");
    change(&mut header);
    read(header.to_bytes()).expect("valid").config().map_err(|error| error.to_string())
}

#[test]
fn yarn_has_keys() {
    let config = configured(|_| {}).expect("valid");
    let RopeScaling::Yarn { factor, original_max_position_embeddings, attention_factor, beta_fast, beta_slow, .. } =
        config.rope_scaling
    else {
        panic!("{config:?}")
    };
    assert_eq!((factor, original_max_position_embeddings, beta_fast, beta_slow), (4.0, 32, 24.0, 2.0));
    assert!((attention_factor.expect("there") - 1.5).abs() < 1e-6);
    assert_eq!((config.vocab_size, config.head_dim, config.rope_theta), (100, 32, 1e6));
    assert_eq!(config.rms_norm_eps, 1e-6);
}

#[test]
fn keys_that_ask_for_another_model_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Header), words: &[&str]| {
        says(&configured(change).expect_err("refused"), words);
    };
    refused(&|h| h.u32("qwen3.attention.sliding_window", 64), &["`qwen3.attention.sliding_window`", "not implement"]);
    refused(&|h| h.u32("qwen3.rope.dimension_count", 16), &["`qwen3.rope.dimension_count`", "found 16", "32"]);
    refused(
        &|h| h.u32("tokenizer.ggml.eos_token_id", 100),
        &["`tokenizer.ggml.eos_token_id`", "found 100", "of the 100 tokens"],
    );
    refused(
        &|h| h.u32("tokenizer.ggml.bos_token_id", u32::MAX),
        &["`tokenizer.ggml.bos_token_id`", "found 4294967295"],
    );
    refused(&|h| h.u32("split.count", 2), &["`split.count`", "llama-gguf-split"]);

    let alone = |change: &dyn Fn(&mut Header)| {
        let mut header = Header::default();
        change(&mut header);
        read(header.to_bytes()).expect("valid").config().expect_err("refused").to_string()
    };
    says(&alone(&|h| h.text("general.architecture", "llama")), &["`general.architecture`", "llama", "qwen3"]);
    says(&alone(&|_| {}), &["`general.architecture`", "nothing"]);
    let wrong = alone(&|h| {
        h.text("general.architecture", "qwen3");
        h.text("qwen3.attention.head_count", "many");
    });
    says(&wrong, &["`qwen3.attention.head_count`", "many", "whole number"]);
}

#[test]
fn a_tokenizer_of_another_family_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Header), words: &[&str]| {
        let mut header = Header::default();
        header.text("tokenizer.ggml.model", "gpt2");
        change(&mut header);
        match read(header.to_bytes()).expect("valid").tokenizer() {
            Ok(_) => panic!("accepted, but should say {words:?}"),
            Err(error) => says(&error.to_string(), words),
        }
    };
    refused(&|h| h.text("tokenizer.ggml.pre", "llama-bpe"), &["`tokenizer.ggml.pre`", "llama-bpe", "qwen2"]);
    let qwen2 = |h: &mut Header| h.text("tokenizer.ggml.pre", "qwen2");
    refused(&|h| qwen2(h), &["`tokenizer.ggml.tokens`", "missing"]);
    let tokens = |h: &mut Header, types: &[i32]| {
        qwen2(h);
        h.texts("tokenizer.ggml.tokens", ["a", "b"].into_iter());
        h.i32s("tokenizer.ggml.token_type", types.iter().copied());
    };
    refused(&|h| tokens(h, &[1]), &["`tokenizer.ggml.token_type`", "1 types for 2 tokens"]);
    refused(&|h| tokens(h, &[1, 6]), &["token 1 \"b\" is of type 6"]);
    refused(&|h| tokens(h, &[1, 1]), &["`tokenizer.ggml.merges`", "missing"]);
    let whole = |h: &mut Header| {
        tokens(h, &[1, 1]);
        h.texts("tokenizer.ggml.merges", ["a b"].into_iter());
    };
    refused(&|h| whole(h), &["no token for the byte"]);
    let bos = |h: &mut Header| {
        whole(h);
        h.flag("tokenizer.ggml.add_bos_token", true);
    };
    refused(&|h| bos(h), &["`tokenizer.ggml.add_bos_token`", "found true"]);
    assert!(Tokenizer::from_parts(&[("a", TokenKind::Control), ("a", TokenKind::Control)], &[]).is_err());
}

/// Expected names and shapes survive the way through a file; `inspect` and `generate` read one.
#[cfg(feature = "embedded-model")]
#[test]
fn commands_take_a_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("tales.gguf");
    std::fs::write(&path, stories()).expect("a writable directory");
    let run = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_fs")).args(args).output().expect("fs runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let path = path.to_str().expect("UTF-8");
    let table = run(&["inspect", path]);
    for word in ["qwen3.block_count", "tokenizer.ggml.tokens", "[string; 4096]", "every tensor that"] {
        assert!(table.contains(word), "{word:?} is missing in {table}");
    }
    let count = expected_tensors(&ModelSource::resolve(Some("stories")).unwrap().config().unwrap()).len();
    assert!(table.contains(&format!("in {count} tensors")), "{table}");
    let tell = |model: &str| run(&["generate", "--model", model, "--temperature", "0", "-n", "24", "Once upon a time"]);
    assert_eq!(tell(path), tell("stories"));
}
