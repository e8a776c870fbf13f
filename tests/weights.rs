//! Safetensors files and shards: what the official implementation writes reads back the same, what it refuses
//! is refused, and every way in which a file can lie ends in an error that says which.

use failed_star::model::expected::{Problem, Report, compare, expected_tensors};
use failed_star::weights::{Checkpoint, Config, DType, SharedBytes};
use proptest::prelude::*;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};
use std::path::Path;

/// A file from a header's text and the bytes after it, with nothing made right.
fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// As `file`, with the header padded so that the data begins at a multiple of 8.
fn padded(header: Value, data: &[u8]) -> Vec<u8> {
    let mut header = header.to_string();
    header.push_str(&" ".repeat(header.len().next_multiple_of(8) - header.len()));
    file(&header, data)
}

fn read(bytes: Vec<u8>) -> Result<Checkpoint, String> {
    Checkpoint::from_bytes(SharedBytes::from_vec(bytes), "w.safetensors").map_err(|error| error.to_string())
}

fn refused(bytes: Vec<u8>, words: &[&str]) {
    let error = read(bytes).expect_err(&format!("accepted, but should say {words:?}"));
    for word in ["w.safetensors"].iter().chain(words) {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

fn entry(dtype: &str, shape: &[usize], begin: usize, end: usize) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] })
}

/// Tensors as the official implementation writes them.
fn official(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        (*name, TensorView::new(*dtype, shape.clone(), data).expect("a valid tensor"))
    });
    safetensors::serialize(views, None).expect("valid tensors")
}

fn sample() -> Vec<u8> {
    official(&[
        ("a.weight", Dtype::F32, vec![2, 3], (0..24).collect()),
        ("b.weight", Dtype::BF16, vec![5], (100..110).collect()),
        ("c.weight", Dtype::F16, vec![1, 2, 2], (30..38).collect()),
        ("empty", Dtype::F32, vec![0, 7], vec![]),
        ("scalar", Dtype::F32, vec![], 1.5f32.to_le_bytes().to_vec()),
    ])
}

#[test]
fn official_files_read_back_the_same() {
    let bytes = sample();
    let ours = read(bytes.clone()).expect("a valid file");
    let theirs = SafeTensors::deserialize(&bytes).expect("a valid file");
    assert_eq!(ours.tensors().count(), theirs.len());
    for (name, view) in theirs.tensors() {
        let tensor = ours.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert_eq!(tensor.shape, view.shape(), "{name}");
        assert_eq!(&*tensor.data, view.data(), "{name}");
        assert_eq!(tensor.dtype.name(), format!("{:?}", view.dtype()), "{name}");
        let at = tensor.offset as usize;
        assert_eq!(&bytes[at..at + tensor.data.len()], &*tensor.data, "{name} lies at its offset");
    }
    assert_eq!(ours.get("scalar").map(|tensor| tensor.to_f32()), Some(vec![1.5]));
    assert_eq!(ours.get("empty").map(|tensor| tensor.to_f32()), Some(vec![]));
}

#[test]
fn every_dtype_widens_exactly() {
    let values = [0.0f32, -0.0, 1.0, -2.5, 0.15625, 384.0];
    let f32s: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let f16s: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let bf16s: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let bytes = official(&[
        ("f32", Dtype::F32, vec![6], f32s),
        ("f16", Dtype::F16, vec![6], f16s),
        ("bf16", Dtype::BF16, vec![6], bf16s),
    ]);
    let checkpoint = read(bytes).expect("a valid file");
    for tensor in checkpoint.tensors() {
        let bits: Vec<u32> = tensor.to_f32().iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, values.map(f32::to_bits), "{}", tensor.name);
    }
}

#[test]
fn bytes_at_any_address_can_be_read_as_numbers() {
    let bytes = sample();
    for shift in 0..8 {
        // A static slice that begins `shift` bytes past whatever address the allocator chose.
        let mut store = vec![0; bytes.len() + 8];
        store[shift..shift + bytes.len()].copy_from_slice(&bytes);
        let store: &'static [u8] = store.leak();
        let shifted = SharedBytes::from_static(&store[shift..shift + bytes.len()]);
        let checkpoint = Checkpoint::from_bytes(shifted, "w").expect("a valid file");
        for tensor in checkpoint.tensors() {
            assert_eq!(tensor.to_f32().len(), tensor.elements());
        }
    }
}

#[test]
fn truncated_anywhere_is_refused() {
    let bytes = sample();
    for length in 0..bytes.len() {
        assert!(read(bytes[..length].to_vec()).is_err(), "cut to {length} of {} bytes", bytes.len());
    }
    refused(vec![], &["found 0 bytes"]);
    refused(bytes[..100].to_vec(), &["truncated"]);
    refused(bytes[..bytes.len() - 1].to_vec(), &["`c.weight`", "truncated", "download it again"]);
}

#[test]
fn oversized_and_lying_header_lengths_are_refused() {
    for length in [u64::MAX, 1 << 63, 100_000_001] {
        refused([&length.to_le_bytes()[..], b"{}"].concat(), &[&length.to_string(), "100000000"]);
    }
    refused([&100_000_000u64.to_le_bytes()[..], b"{}"].concat(), &["100000000", "only 2 follow"]);
    refused(file("", b""), &["does not begin with `{`"]);
    refused(file(" {}", b""), &["does not begin with `{`"]);
    refused(file("{", b""), &["header at byte 8"]);
    refused(file("{}x", b""), &["header at byte 8"]);
    assert_eq!(read(file("{}  ", b"")).expect("no tensors at all").tensors().count(), 0);
}

#[test]
fn overlaps_gaps_and_tails_are_refused() {
    let two = |first: (usize, usize), second: (usize, usize), data: usize| {
        let shape = |(begin, end): (usize, usize)| [(end - begin) / 4];
        padded(
            json!({
                "first": entry("F32", &shape(first), first.0, first.1),
                "second": entry("F32", &shape(second), second.0, second.1),
            }),
            &vec![0; data],
        )
    };
    assert!(read(two((0, 8), (8, 16), 16)).is_ok());
    assert!(read(two((8, 16), (0, 8), 16)).is_ok(), "the header's order is free");
    refused(two((0, 8), (4, 12), 12), &["`second`", "overlaps", "`first`"]);
    refused(two((0, 8), (0, 8), 8), &["overlaps"]);
    refused(two((0, 8), (12, 16), 16), &["`second`", "4 bytes before it", "gap"]);
    refused(two((4, 8), (8, 16), 16), &["`first`", "4 bytes before it"]);
    refused(two((0, 8), (8, 16), 20), &["4 bytes", "end of the file", "no tensor"]);
    refused(two((0, 8), (8, 16), 12), &["`second`", "truncated"]);
}

#[test]
fn lengths_shapes_and_dtypes_that_lie_are_refused() {
    let one = |value: Value| padded(json!({ "t": value }), &[0; 16]);
    assert!(read(one(entry("F32", &[2, 2], 0, 16))).is_ok());
    refused(one(entry("F32", &[2, 3], 0, 16)), &["`t`", "[0, 16]", "24 bytes", "F32 [2, 3]"]);
    refused(one(entry("BF16", &[2, 2], 0, 16)), &["`t`", "8 bytes"]);
    refused(one(entry("F32", &[4], 16, 0)), &["`t`", "[16, 0]"]);
    refused(one(entry("F32", &[usize::MAX, 2], 0, 16)), &["`t`", "64 bits"]);
    refused(one(entry("F32", &[1 << 62], 0, 16)), &["`t`", "64 bits"]);
    refused(one(entry("F32", &[1 << 32, 1 << 32, 0], 0, 0)), &["`t`", "64 bits"]);
    refused(one(entry("F32", &[usize::MAX / 4], 0, usize::MAX / 4 * 4)), &["`t`", "truncated"]);
    for dtype in ["F64", "I64", "F8_E4M3", "f32", ""] {
        refused(one(entry(dtype, &[2], 0, 16)), &["`t`", &format!("dtype `{dtype}`"), "F32, F16, BF16"]);
    }
    for bad in [
        json!([]),
        json!({ "dtype": "F32", "shape": [4] }),
        json!({ "dtype": "F32", "shape": [-4], "data_offsets": [0, 16] }),
        json!({ "dtype": "F32", "shape": [4.5], "data_offsets": [0, 16] }),
        json!({ "dtype": "F32", "shape": "4", "data_offsets": [0, 16] }),
        json!({ "dtype": "F32", "shape": [4], "data_offsets": [0] }),
        json!({ "dtype": "F32", "shape": [4], "data_offsets": [0, 16, 32] }),
        json!({ "dtype": "F32", "shape": [4], "data_offsets": [-1, 16] }),
        json!({ "dtype": "F32", "shape": [4], "data_offsets": [0, 16], "scale": 2 }),
    ] {
        refused(one(bad), &["header at byte 8", "`t`"]);
    }
    refused(padded(json!({ "__metadata__": { "step": 1 } }), b""), &["__metadata__"]);
}

#[test]
fn errors_about_long_text_are_short() {
    let long = "x".repeat(1_000_000);
    for header in [
        json!({ "t": { "dtype": "F32", "shape": [1], "data_offsets": [0, 4], &long: 1 } }),
        json!({ "t": long }),
        json!({ &long: entry("F32", &[2], 0, 4) }),
        json!({ "t": entry(&long, &[1], 0, 4) }),
        json!({ "t": entry("F32", &vec![1; 100_000], 0, 4) }),
    ] {
        let error = read(padded(header, &[0; 4])).expect_err("not valid");
        assert!(error.len() < 1000, "{} bytes", error.len());
    }
}

#[test]
fn duplicate_names_are_refused() {
    let t = entry("F32", &[2], 0, 8);
    refused(file(&format!("{{\"t\":{t},\"t\":{t}}}"), &[0; 8]), &["`t`", "twice"]);
    let twice = r#"{"t":{"dtype":"F32","dtype":"F16","shape":[2],"data_offsets":[0,8]}}"#;
    refused(file(twice, &[0; 8]), &["`t`", "duplicate field"]);
}

#[test]
fn misaligned_tensors_are_refused() {
    // An odd header: nothing after it is aligned.
    let header = json!({ "t": entry("BF16", &[2], 0, 4) }).to_string();
    let odd = " ".repeat(1 - header.len() % 2);
    refused(file(&format!("{header}{odd}"), &[0; 4]), &["`t`", "misaligned", "multiple of 2"]);
    // A good header, but an F32 tensor after one BF16 value.
    let both = json!({ "a": entry("BF16", &[1], 0, 2), "b": entry("F32", &[1], 2, 6) });
    refused(padded(both, &[0; 6]), &["`b`", "misaligned", "multiple of 4"]);
}

#[test]
fn control_characters_in_names_do_not_reach_the_terminal() {
    let error = read(padded(json!({ "\u{1b}[2J": entry("F64", &[1], 0, 8) }), &[0; 8])).expect_err("unknown dtype");
    assert!(!error.contains('\u{1b}') && error.contains("\\u{1b}[2J"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Damage anywhere: no panic; what is accepted can be read; what the official implementation refuses is refused.
    #[test]
    fn damaged_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
                                 cut in prop::option::of(any::<prop::sample::Index>())) {
        check_damaged(sample(), changes, cut)?;
    }

    /// Digits are where the lies are: only the header's numbers change.
    #[test]
    fn damaged_numbers_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), b'0'..=b'9'), 1..4)) {
        let mut bytes = sample();
        let header = 8..8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let digits: Vec<usize> = header.filter(|&at| bytes[at].is_ascii_digit()).collect();
        for (index, digit) in changes {
            bytes[digits[index.index(digits.len())]] = digit;
        }
        check_damaged(bytes, vec![], None)?;
    }
}

fn check_damaged(
    mut bytes: Vec<u8>,
    changes: Vec<(prop::sample::Index, u8)>,
    cut: Option<prop::sample::Index>,
) -> Result<(), TestCaseError> {
    for (index, byte) in changes {
        // Three of four changes go to the length and the header.
        let end = if byte % 4 == 0 { bytes.len() } else { bytes.len().min(400) };
        let at = index.index(end);
        bytes[at] = byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    let official = SafeTensors::deserialize(&bytes).is_ok();
    let ours = read(bytes);
    prop_assert!(official || ours.is_err(), "only fs accepts it");
    if let Ok(checkpoint) = ours {
        for tensor in checkpoint.tensors() {
            prop_assert_eq!(tensor.to_f32().len(), tensor.elements());
        }
    }
    Ok(())
}

// Shards.

fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(dir.join(name), bytes).expect("a writable directory");
}

const INDEX: &str = "model.safetensors.index.json";

/// A directory with two shards, `s1.safetensors` (a, b) and `s2.safetensors` (c), and this index.
fn sharded(weight_map: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let f32s = |n: u8| vec![n; 8];
    let s1 = official(&[("a", Dtype::F32, vec![2], f32s(1)), ("b", Dtype::F32, vec![2], f32s(2))]);
    write(dir.path(), "s1.safetensors", s1);
    write(dir.path(), "s2.safetensors", official(&[("c", Dtype::F32, vec![2], f32s(3))]));
    write(dir.path(), INDEX, json!({ "metadata": { "total_size": 24 }, "weight_map": weight_map }).to_string());
    dir
}

fn whole() -> Value {
    json!({ "a": "s1.safetensors", "b": "s1.safetensors", "c": "s2.safetensors" })
}

fn open_refused(dir: &tempfile::TempDir, words: &[&str]) {
    let error = Checkpoint::open(dir.path()).expect_err(&format!("accepted, but should say {words:?}")).to_string();
    for word in words {
        assert!(error.contains(word), "{error:?} does not say {word:?}");
    }
}

#[test]
fn shards_read_as_one() {
    let dir = sharded(whole());
    for path in [dir.path().to_path_buf(), dir.path().join(INDEX)] {
        let checkpoint = Checkpoint::open(&path).expect("valid shards");
        let found: Vec<_> = checkpoint.tensors().map(|t| (t.name.as_str(), t.data[0])).collect();
        assert_eq!(found, [("a", 1), ("b", 2), ("c", 3)]);
        assert!(checkpoint.get("c").is_some_and(|tensor| tensor.file.ends_with("s2.safetensors")));
    }
    let one = Checkpoint::open(&dir.path().join("s1.safetensors")).expect("one shard alone");
    assert_eq!(one.tensors().count(), 2);
}

#[test]
fn missing_shards_are_all_listed() {
    let mut map = whole();
    map["d"] = json!("s3.safetensors");
    map["e"] = json!("s4.safetensors");
    open_refused(&sharded(map), &[INDEX, "2 of 4 shards", "s3.safetensors, s4.safetensors"]);
}

#[test]
fn an_index_that_lies_is_refused() {
    let without = |name: &str| {
        let mut map = whole();
        map.as_object_mut().expect("an object").remove(name);
        map
    };
    let with = |name: &str, shard: &str| {
        let mut map = whole();
        map[name] = json!(shard);
        map
    };
    open_refused(&sharded(with("d", "s2.safetensors")), &["`d`", "not in s2.safetensors"]);
    open_refused(&sharded(with("b", "s2.safetensors")), &["`b`", "lies in s1.safetensors", "says s2.safetensors"]);
    open_refused(&sharded(without("b")), &["s1.safetensors holds tensor `b`", "does not list"]);

    let dir = sharded(whole());
    let again = official(&[("c", Dtype::F32, vec![2], vec![0; 8]), ("a", Dtype::F32, vec![2], vec![0; 8])]);
    write(dir.path(), "s2.safetensors", again);
    open_refused(&dir, &["`a`", "lies in s2.safetensors", "says s1.safetensors"]);

    let dir = sharded(whole());
    for (index, word) in [
        (r#"{"metadata": {}}"#, "weight_map"),
        (r#"{"weight_map": ["a"]}"#, "weight_map"),
        (r#"{"weight_map": {"a": 1}}"#, "`a`"),
        (r#"{"weight_map": {"a": "s1.safetensors", "a": "s2.safetensors"}}"#, "twice"),
        (r#"{"weight_map": "#, "not a valid index"),
        ("[]", "not a valid index"),
    ] {
        write(dir.path(), INDEX, index);
        open_refused(&dir, &[INDEX, word]);
    }
}

#[test]
fn an_index_cannot_lead_out_of_its_directory() {
    for name in [
        "../s1.safetensors",
        "/etc/s1.safetensors",
        "sub/s1.safetensors",
        "..\\s1.safetensors",
        "C:s1.safetensors",
        "..",
        "",
        ".safetensors",
        "s1.bin",
        "s1\0.safetensors",
    ] {
        let mut map = whole();
        map["c"] = json!(name);
        open_refused(&sharded(map), &[INDEX, "`c`", "plain name"]);
    }
}

#[test]
fn what_is_no_weights_file_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    open_refused(&dir, &["no weights", "model.safetensors"]);
    write(dir.path(), "model.safetensors", b"");
    open_refused(&dir, &["empty"]);
    write(dir.path(), "model.bin", b"x");
    let error = Checkpoint::open(&dir.path().join("model.bin")).expect_err("another format").to_string();
    assert!(error.contains(".safetensors file"), "{error}");
    let error = Checkpoint::open(&dir.path().join("none.safetensors")).expect_err("no such file").to_string();
    assert!(error.contains("none.safetensors"), "{error}");
    std::fs::create_dir(dir.path().join("dir.safetensors")).expect("a writable directory");
    assert!(Checkpoint::open(&dir.path().join("dir.safetensors")).is_err());
}

#[test]
fn the_single_file_is_preferred_to_the_index() {
    let dir = sharded(whole());
    write(dir.path(), "model.safetensors", official(&[("only", Dtype::F32, vec![1], vec![0; 4])]));
    assert!(Checkpoint::open(dir.path()).expect("a valid file").get("only").is_some());
}

/// The real Qwen3-0.6B's tensors at their real size, in a file that is a hole but for its header.
#[cfg(target_os = "linux")]
#[test]
fn a_file_of_the_real_size_is_opened_without_being_read() {
    let json = include_bytes!("golden/configs/qwen3-0.6b.json");
    let config = Config::from_json(json, "config.json").expect("a real configuration");
    let mut tensors = expected_tensors(&config);
    tensors.push(("lm_head.weight".into(), vec![151_936, 1024]));
    let (mut header, mut end) = (json!({}), 0);
    for (name, shape) in &tensors {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header[name] = entry("BF16", shape, begin, end);
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    write(dir.path(), "model.safetensors", padded(header, b""));
    let file = std::fs::OpenOptions::new().append(true).open(dir.path().join("model.safetensors")).expect("a file");
    file.set_len(file.metadata().expect("a length").len() + end as u64).expect("a sparse file");

    let checkpoint = Checkpoint::open(dir.path()).expect("a valid file");
    assert_eq!(checkpoint.tensors().count(), 311);
    assert_eq!(checkpoint.tensors().map(|tensor| tensor.elements()).sum::<usize>(), 751_632_384);
    let report = compare(&config, &checkpoint);
    assert!(report.is_ok() && report.other_dtypes.is_empty(), "{report}");
}

// The report.

fn config(changes: Value) -> Config {
    let mut config = json!({
        "model_type": "qwen3", "vocab_size": 20, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "rope_theta": 10000, "torch_dtype": "float32", "tie_word_embeddings": true,
    });
    for (field, value) in changes.as_object().expect("an object") {
        config[field] = value.clone();
    }
    Config::from_json(config.to_string().as_bytes(), "config.json").expect("a valid configuration")
}

fn report(config: &Config, tensors: &[(String, Vec<usize>)]) -> Report {
    let tensors: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| (name.as_str(), Dtype::F32, shape.clone(), vec![0; 4 * shape.iter().product::<usize>()]))
        .collect();
    compare(config, &read(official(&tensors)).expect("a valid file"))
}

#[test]
fn what_is_expected_fits_with_bias_tied_and_untied() {
    for (changes, count) in [
        (json!({}), 2 + 2 * 11),
        (json!({ "attention_bias": true }), 2 + 2 * 15),
        (json!({ "tie_word_embeddings": false }), 3 + 2 * 11),
        (json!({ "num_key_value_heads": 1 }), 2 + 2 * 11),
        (json!({ "num_key_value_heads": 4 }), 2 + 2 * 11),
    ] {
        let config = config(changes);
        let expected = expected_tensors(&config);
        assert_eq!(expected.len(), count);
        let report = report(&config, &expected);
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn a_tied_head_may_be_stored_but_must_fit() {
    let config = config(json!({}));
    let mut tensors = expected_tensors(&config);
    tensors.push(("lm_head.weight".into(), vec![20, 8]));
    assert!(report(&config, &tensors).is_ok());
    tensors.last_mut().expect("the head").1 = vec![8, 20];
    let report = report(&config, &tensors);
    assert!(matches!(&report.problems[..], [Problem::Shape { name, .. }] if name == "lm_head.weight"), "{report}");
}

#[test]
fn every_difference_is_reported_at_once() {
    let config = config(json!({ "tie_word_embeddings": false, "torch_dtype": "bfloat16" }));
    let mut tensors = expected_tensors(&config);
    tensors.retain(|(name, _)| name != "lm_head.weight" && name != "model.layers.1.mlp.up_proj.weight");
    tensors.push(("model.layers.2.mlp.up_proj.weight".into(), vec![12, 8]));
    tensors.push(("extra".into(), vec![1]));
    for (name, shape) in &mut tensors {
        if name == "model.layers.0.self_attn.q_proj.weight" {
            *shape = vec![8, 24];
        }
    }
    let report = report(&config, &tensors);
    assert!(!report.is_ok());
    assert_eq!(report.problems.len(), 5);
    assert_eq!(report.other_dtypes.keys().collect::<Vec<_>>(), [&DType::F32]);
    let text = report.to_string();
    for line in [
        "missing     lm_head.weight: expected [20, 8]",
        "missing     model.layers.1.mlp.up_proj.weight: expected [12, 8]",
        "unexpected  extra: [1] in w.safetensors",
        "unexpected  model.layers.2.mlp.up_proj.weight: [12, 8]",
        "wrong shape model.layers.0.self_attn.q_proj.weight: found [8, 24], expected [24, 8]",
        "2 missing, 2 unexpected, 1 mis-shaped",
        "are F32, not the dtype that config.json names",
    ] {
        assert!(text.contains(line), "{text}\ndoes not say {line:?}");
    }
}
