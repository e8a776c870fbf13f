//! The Qwen3 tokenizer: recorded cases, round trips, spans, and inputs made to be slow.

use failed_star::text::{StreamDecoder, Tokenizer, TracePart};
use proptest::prelude::*;
use std::io::Read;
use std::sync::LazyLock;
use unicode_normalization::UnicodeNormalization;

static QWEN3: LazyLock<Tokenizer> = LazyLock::new(|| {
    let mut json = Vec::new();
    let packed = include_bytes!("../models/qwen3-0.6b/tokenizer.json.gz");
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut json).unwrap();
    Tokenizer::from_json(&json, "tokenizer.json").unwrap()
});

#[test]
fn recorded_cases() {
    #[derive(serde::Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }
    #[derive(serde::Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
        decoded: String,
    }
    let golden: Golden = serde_json::from_str(include_str!("golden/tokenizer.json")).unwrap();
    assert_eq!(golden.cases.len(), 14);
    for Case { text, ids, decoded } in golden.cases {
        assert_eq!(QWEN3.encode(&text), ids, "{text:?}");
        assert_eq!(QWEN3.decode(&ids).unwrap(), decoded.as_bytes(), "{text:?}");
    }
}

#[test]
fn ids_and_texts_of_single_tokens() {
    assert_eq!(QWEN3.vocab_size(), 151_669);
    assert_eq!(QWEN3.token_id("<|im_end|>"), Some(151_645));
    assert_eq!(QWEN3.token_id("</think>"), Some(151_668));
    assert_eq!(QWEN3.token_id(" Paris"), Some(12_095));
    assert_eq!(QWEN3.token_id(" no such token"), None);
    assert_eq!(QWEN3.token_bytes(12_095), Some(" Paris".as_bytes()));
    assert!(QWEN3.is_special(151_645) && !QWEN3.is_special(151_667) && !QWEN3.is_special(0));
    for id in [151_669, u32::MAX] {
        assert_eq!(QWEN3.token_bytes(id), None);
        let error = QWEN3.decode(&[0, id]).unwrap_err().to_string();
        assert_eq!(error, format!("token id {id} is outside the vocabulary of 151669 tokens"));
    }
    assert!(QWEN3.encode("").is_empty());
}

#[test]
fn spans_and_normalized_text() {
    let plain = QWEN3.encode_with_spans("café 🚀<think>");
    assert_eq!(plain.normalized, None);
    assert_eq!(plain.spans, [0..2, 2..5, 5..8, 8..9, 9..10, 10..17]);
    let decomposed = QWEN3.encode_with_spans("cafe\u{301}");
    assert_eq!(decomposed.normalized.as_deref(), Some("café"));
    assert_eq!(decomposed.spans, [0..2, 2..5]);
    // An added token is taken out before NFC: the overlay does not turn its `>` into `≯`.
    let glued = QWEN3.encode_with_spans("<think>\u{338}");
    assert_eq!(glued.ids[0], 151_667);
    assert_eq!(glued.normalized, None);
}

#[test]
fn trace_shows_each_merge() {
    let trace = QWEN3.trace("lowe\u{301}r<|im_end|>");
    assert_eq!(trace.normalized, "lowér<|im_end|>");
    assert_eq!(trace.ids, QWEN3.encode("lowér<|im_end|>"));
    let TracePart::Piece { symbols, merges, ids, span, .. } = &trace.parts[0] else { panic!("a piece comes first") };
    assert_eq!(symbols.join(" "), "l o w Ã © r");
    assert_eq!(*span, [0, 6]);
    // The lowest rank comes first, and the symbols after the last merge are the tokens.
    assert_eq!((merges[0].left.as_str(), merges[0].right.as_str()), ("o", "w"));
    assert_eq!(merges.last().unwrap().symbols.len(), ids.len());
    assert!(matches!(&trace.parts[1], TracePart::AddedToken { id: 151_645, span: [6, 16], .. }));
    assert!(trace.to_string().contains("o + w"), "{trace}");
}

/// Tokens of a text, for the tests that need any text.
fn texts() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        any::<char>().prop_map(String::from),
        "[a-zA-Z]{1,9}",
        "[ \t\r\n\u{A0}\u{3000}]{1,4}",
        prop::sample::select(vec![
            "'S",
            "e\u{301}",
            "각",
            "<|im_end|>",
            "<think>",
            "<|im",
            "👩‍👩‍👧",
            "\u{338}",
            "１２",
            "不"
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(fragment, 0..12).prop_map(|fragments| fragments.concat())
}

proptest! {
    /// `decode(encode(x))` is x with all but the added tokens in NFC; the spans cut that text, and a trace agrees.
    #[test]
    fn nothing_is_lost(text in texts()) {
        let encoding = QWEN3.encode_with_spans(&text);
        let decoded = QWEN3.decode(&encoding.ids).unwrap();
        let expected = encoding.normalized.as_deref().unwrap_or(&text);
        prop_assert_eq!(&decoded, expected.as_bytes());
        if !["<|im_end|>", "<think>"].iter().any(|added| text.contains(added)) {
            prop_assert_eq!(expected, text.nfc().collect::<String>());
        }
        for (span, &id) in encoding.spans.iter().zip(&encoding.ids) {
            prop_assert_eq!(&decoded[span.clone()], QWEN3.token_bytes(id).unwrap());
        }
        prop_assert_eq!(QWEN3.trace(&text).ids, encoding.ids);
    }

    /// A stream of random tokens, most of them broken UTF-8, shows the text of the whole.
    #[test]
    fn streamed_tokens_show_the_text_of_the_whole(ids in prop::collection::vec(0u32..151_669, 0..40)) {
        let mut decoder = StreamDecoder::default();
        let mut text: String = ids.iter().map(|&id| decoder.push(QWEN3.token_bytes(id).unwrap())).collect();
        text.push_str(&decoder.finish());
        prop_assert_eq!(text, String::from_utf8_lossy(&QWEN3.decode(&ids).unwrap()).into_owned());
    }
}

/// A megabyte that is one piece, or one run of white space, or one run of marks. If any step looked at all that came
/// before, this would take minutes; the bound is far above what a slow machine needs.
#[test]
fn no_input_takes_quadratic_time() {
    let megabyte = |pattern: &str| pattern.repeat((1 << 20) / pattern.len());
    let patterns = [
        "a",
        "ab",
        " ",
        "\n",
        " \n",
        "\t ",
        "\u{10FFFF}",
        "!",
        "<",
        "<|im_",
        "1",
        "不",
        "\u{301}",
        "\u{345}\u{334}",
        "'s",
        "\0",
    ];
    for pattern in patterns {
        let text = megabyte(pattern) + "x";
        let start = std::time::Instant::now();
        let ids = QWEN3.encode(&text);
        let seconds = start.elapsed().as_secs_f64();
        println!("{pattern:?}: {} tokens in {seconds:.3} s", ids.len());
        assert!(seconds < 20.0, "{pattern:?} took {seconds} s");
        assert_eq!(QWEN3.decode(&ids).unwrap().len(), QWEN3.normalized(&text).unwrap_or(text).len());
    }
}
