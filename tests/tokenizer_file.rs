//! `tokenizer.json` files that are broken, or that ask for what `fs` does not do: each gets an error that names it.

use failed_star::text::Tokenizer;
use serde_json::{Value, json};

/// A tokenizer of the 256 bytes, `ab` and `abc`, and the added token `<x>`, as a file spells it.
fn small() -> Value {
    // The byte alphabet: printable bytes as they are, the others from U+0100 on.
    let printable = |byte: &u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let chars = (0..256).filter(printable).chain(0x100..0x144).map(|char| char::from_u32(char).unwrap().to_string());
    let tokens = chars.chain(["ab".into(), "abc".into()]);
    let vocab: serde_json::Map<String, Value> = tokens.zip(0..).map(|(token, id)| (token, json!(id))).collect();
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 258, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}, byte_level]},
        "post_processor": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": [["a", "b"], ["ab", "c"]]}
    })
}

fn load(file: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(file.to_string().as_bytes(), "t.json").map_err(|error| error.to_string())
}

/// What loading says after the value at `pointer` was replaced.
fn error_with(pointer: &str, value: Value) -> String {
    let mut file = small();
    *file.pointer_mut(pointer).unwrap_or_else(|| panic!("no {pointer}")) = value;
    load(&file).err().unwrap_or_else(|| panic!("{pointer} was accepted"))
}

#[test]
fn both_spellings_of_merges_and_a_missing_normalizer() {
    let mut file = small();
    assert_eq!(load(&file).unwrap().encode("abc<x>ab"), [257, 258, 256]);
    file["model"]["merges"] = json!(["a b", "ab c"]);
    file["normalizer"] = Value::Null;
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.encode("abcab"), [257, 256]);
    assert_eq!(tokenizer.encode_with_spans("e\u{301}").normalized, None);
}

/// Trainers put added tokens into the vocabulary too.
#[test]
fn an_added_token_may_be_in_the_vocabulary() {
    let mut file = small();
    file["model"]["vocab"]["<x>"] = json!(258);
    assert_eq!(load(&file).unwrap().encode("a<x>"), [64, 258]);
    assert_eq!(load(&file).unwrap().vocab_size(), 259);
    file["model"]["vocab"]["<x>"] = json!(259);
    assert_eq!(load(&file).err().unwrap(), "t.json: added token \"<x>\" has id 258, but the vocabulary gives it 259");
    // One with a space in it has no spelling in the byte alphabet.
    let mut file = small();
    file["added_tokens"][0]["content"] = json!("é x");
    file["model"]["vocab"]["é x"] = json!(258);
    let tokenizer = load(&file).unwrap();
    assert_eq!(tokenizer.encode("é x"), [258]);
    assert_eq!(tokenizer.decode(&[258]).unwrap(), "é x".as_bytes());
}

#[test]
fn what_is_not_supported_is_named() {
    for (pointer, value, expected) in [
        ("/model/dropout", json!(0.1), "model.dropout 0.1 is not supported"),
        ("/model/unk_token", json!("<unk>"), "model.unk_token \"<unk>\""),
        ("/model/byte_fallback", json!(true), "model.byte_fallback true"),
        ("/model/fuse_unk", json!(true), "model.fuse_unk true"),
        ("/model/ignore_merges", json!(true), "model.ignore_merges true"),
        ("/model/continuing_subword_prefix", json!("##"), "model.continuing_subword_prefix \"##\""),
        ("/model/end_of_word_suffix", json!("</w>"), "model.end_of_word_suffix \"</w>\""),
        ("/model/type", json!("WordPiece"), "model.type \"WordPiece\" is not supported"),
        ("/truncation", json!({"max_length": 8}), "truncation {\"max_length\":8}"),
        ("/padding", json!({"strategy": "BatchLongest"}), "padding"),
        ("/normalizer", json!({"type": "NFKC"}), "normalizer {\"type\":\"NFKC\"}"),
        ("/decoder", json!({"type": "WordPiece"}), "decoder"),
        ("/post_processor", json!({"type": "TemplateProcessing"}), "post_processor"),
        ("/pre_tokenizer", json!({"type": "Whitespace"}), "pre_tokenizer {\"type\":\"Whitespace\"}"),
        ("/pre_tokenizer", Value::Null, "pre_tokenizer null"),
        ("/pre_tokenizer/pretokenizers/0/pattern/Regex", json!("\\d+"), "the pattern \\d+ is not supported"),
        ("/pre_tokenizer/pretokenizers/0/behavior", json!("Removed"), "\"Removed\""),
        ("/pre_tokenizer/pretokenizers/1/use_regex", json!(true), "\"use_regex\":true"),
        ("/added_tokens/0/lstrip", json!(true), "added token 258 \"<x>\": lstrip is not supported"),
        ("/added_tokens/0/rstrip", json!(true), "rstrip"),
        ("/added_tokens/0/single_word", json!(true), "single_word"),
        ("/added_tokens/0/normalized", json!(true), "normalized"),
    ] {
        let error = error_with(pointer, value);
        assert!(error.starts_with("t.json: ") && error.contains(expected), "{pointer}: {error}");
    }
    let mut file = small();
    file["model"]["cache_capacity"] = json!(1);
    assert!(load(&file).err().unwrap().contains("unknown field `cache_capacity`"));
    let unigram = br#"{"model": {"type": "Unigram", "vocab": [["a", -1.0]]}}"#;
    let error = Tokenizer::from_json(unigram, "t.json").err().unwrap().to_string();
    assert!(error.contains("model.type \"Unigram\" is not supported"), "{error}");
}

#[test]
fn broken_vocabularies_and_merges() {
    for (pointer, value, expected) in [
        ("/model/merges", json!([["a", "b"], ["ab", "zz"]]), "merge 1: right part \"zz\" is not in the vocabulary"),
        ("/model/merges", json!([["zz", "a"]]), "merge 0: left part \"zz\" is not in the vocabulary"),
        ("/model/merges", json!([["a", "c"]]), "merge 0: result \"ac\" is not in the vocabulary"),
        ("/model/merges", json!([["a", "b"], ["a", "b"]]), "merge 1 repeats merge 0"),
        ("/model/merges", json!([["a", ""]]), "merge 0: right part \"\" is not in the vocabulary"),
        ("/model/merges", json!([["a", " "]]), "merge 0 holds ' ', which is not in the byte alphabet"),
        ("/model/merges", json!(["a b c"]), "a merge is two tokens with one space between, not \"a b c\""),
        ("/model/merges", json!(["ab"]), "not \"ab\""),
        ("/model/merges", json!([["a"]]), "invalid length 1"),
        ("/model/merges", json!([["a", "b", "c"]]), "invalid length 3"),
        ("/model/merges", json!([7]), "expected a merge"),
        ("/model/vocab/ab", json!(257), "id 257 is given to two tokens, \"ab\" and \"abc\""),
        ("/model/vocab/abc", json!(4_000_000_000u32), "has id 4000000000, but with 259 tokens"),
        ("/model/vocab/abc", json!(5_000_000_000u64), "expected u32"),
        ("/model/vocab/abc", json!(-1), "expected u32"),
        ("/model/vocab/abc", json!(1.5), "expected u32"),
        ("/added_tokens/0/id", json!(300), "has id 300, but with 259 tokens"),
        ("/added_tokens/0/id", json!(257), "id 257 is given to two tokens, \"abc\" and \"<x>\""),
        ("/added_tokens/0/content", json!(""), "token 258 is empty"),
        ("/model/vocab", json!({}), "no token"),
        ("/model", Value::Null, "not a tokenizer.json that fs can read"),
    ] {
        let error = error_with(pointer, value);
        assert!(error.starts_with("t.json: ") && error.contains(expected), "{pointer}: {error}");
    }
    let with_token = |token: &str, id: u32| {
        let mut file = small();
        file["model"]["vocab"][token] = json!(id);
        load(&file).err().unwrap()
    };
    assert!(with_token("a b", 259).contains("holds ' ', which is not in the byte alphabet"));
    assert!(with_token("", 259).contains("token 259 is empty"));
    assert!(with_token("zz", 260).contains("has id 260, but with 260 tokens"));
    let mut file = small();
    file["model"]["vocab"].as_object_mut().unwrap().remove("!");
    assert!(load(&file).err().unwrap().contains("no token for the byte 0x21"));
    file["added_tokens"][0]["id"] = json!(0);
    assert!(load(&file).is_err());
    let twice = small().to_string().replace("\"ab\":256", "\"ab\":256,\"ab\":259");
    let error = Tokenizer::from_json(twice.as_bytes(), "t.json").err().unwrap().to_string();
    assert!(error.contains("token 259 is spelled \"ab\", as token 256 is"), "{error}");
}

/// Cut anywhere, or with a byte changed, the file is refused or read, but nothing panics.
#[test]
fn damaged_files_do_not_panic() {
    let whole = small().to_string().into_bytes();
    for end in (0..whole.len()).step_by(7) {
        assert!(Tokenizer::from_json(&whole[..end], "t.json").is_err());
    }
    for at in (0..whole.len()).step_by(5) {
        for byte in [b'"', b'9', b'}', 0xFF] {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            if let Ok(tokenizer) = Tokenizer::from_json(&damaged, "t.json") {
                tokenizer.encode("abc <x>");
            }
        }
    }
}
