//! The tokenizer's speed: `cargo bench --bench tokenizer`.
//!
//! Encodes the WikiText-2 test text on one thread, by turns with this crate and with `tokenizers`, so that a machine that
//! slows down slows both; prints medians. With `--step` it is the Rust half of `tools/bench-tokenizer`: each line
//! on stdin asks for one encoding, answered by its seconds and its number of tokens.

use failed_star::text::Tokenizer;
use std::hint::black_box;
use std::io::{BufRead, Read};
use std::time::Instant;

const TOKENIZER: &[u8] = include_bytes!("../models/qwen3-0.6b/tokenizer.json.gz");
const WIKITEXT: &[u8] = include_bytes!("../tests/data/wikitext-2-test.txt.xz");

fn main() {
    let mut text = String::new();
    lzma_rust2::XzReader::new(WIKITEXT, false).read_to_string(&mut text).expect("a text");
    let unpack = || {
        let mut json = Vec::new();
        flate2::read::GzDecoder::new(TOKENIZER).read_to_end(&mut json).expect("a gzip file");
        json
    };
    let json = unpack();
    let load = || Tokenizer::from_json(&json, "tokenizer.json").expect("a tokenizer");
    let ours = load();
    if std::env::args().any(|arg| arg == "--step") {
        for _ in std::io::stdin().lock().lines() {
            let (seconds, ids) = time(|| ours.encode(&text));
            println!("{seconds} {}", ids.len());
        }
        return;
    }

    let theirs = tokenizers::Tokenizer::from_bytes(&json).expect("a tokenizer");
    let (mut unpacking, mut loading, mut encoding, mut oracle) = (vec![], vec![], vec![], vec![]);
    for round in 0..9 {
        unpacking.push(time(unpack).0);
        loading.push(time(load).0);
        // Several runs to one of the oracle's, which takes as long as twenty of ours.
        encoding.extend((0..5).map(|_| time(|| ours.encode(&text)).0));
        if round % 3 == 0 {
            // A new one each time: `tokenizers` keeps a cache from run to run.
            let fresh = tokenizers::Tokenizer::from_bytes(&json).expect("a tokenizer");
            oracle.push(time(|| fresh.encode_fast(text.as_str(), false).expect("ids")).0);
        }
    }
    let ids = ours.encode(&text);
    let expected = theirs.encode_fast(text.as_str(), false).expect("ids");
    assert_eq!(ids, expected.get_ids(), "the ids must be equal for the times to be comparable");

    let megabytes = text.len() as f64 / 1e6;
    let (encoding, oracle) = (megabytes / median(encoding), megabytes / median(oracle));
    println!("unpack tokenizer.json.gz    {:7.1} ms", 1e3 * median(unpacking));
    println!("Tokenizer::from_json        {:7.1} ms", 1e3 * median(loading));
    println!("encode WikiText-2 test, {} tokens, one thread", ids.len());
    println!("  failed_star               {encoding:7.1} MB/s");
    println!("  tokenizers                {oracle:7.1} MB/s");
    println!("  ratio                     {:7.1}", encoding / oracle);
}

fn time<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = black_box(work());
    (start.elapsed().as_secs_f64(), result)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
