//! candle's quantized Qwen3, timed on request: `candle-peer MODEL.gguf`, one JSON request a line on stdin, one JSON answer a
//! line on stdout, as `../bench.py` describes them. Threads are candle's business: RAYON_NUM_THREADS, CANDLE_NUM_THREADS.

use anyhow::Context;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_qwen3::ModelWeights;
use serde_json::{Value, json};
use std::io::{BufRead, Write};
use std::time::Instant;

/// Prompt tokens that go through the model at a time.
const CHUNK: usize = 512;

fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: candle-peer MODEL.gguf")?;
    let mut file = std::fs::File::open(&path).with_context(|| path.clone())?;
    let content = Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    // A model whose cache holds some tokens, so that each round starts from the same depth: its caches cannot be rewound.
    let mut filled: Option<(usize, ModelWeights)> = None;

    let mut out = std::io::stdout();
    writeln!(out, "{}", json!({ "ready": true, "version": "candle-transformers 0.11.1" }))?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let number = |name: &str| request[name].as_u64().map(|n| n as usize).with_context(|| name.to_string());
        let (tokens, depth) = (number("tokens")?, number("depth")?);
        let seconds = match request["phase"].as_str() {
            Some("prefill") => {
                model.clear_kv_cache();
                fill(&mut model, 0, depth)?;
                let started = Instant::now();
                fill(&mut model, depth, depth + tokens)?;
                started.elapsed()
            }
            Some("decode") => {
                if filled.as_ref().is_none_or(|(filled, _)| *filled != depth) {
                    model.clear_kv_cache();
                    fill(&mut model, 0, depth)?;
                    // The cache grows by doubling; that must not fall into the time.
                    fill(&mut model, depth, depth + 1)?;
                    filled = Some((depth, model.clone()));
                }
                let (_, filled) = filled.as_ref().context("filled above")?;
                let mut model = filled.clone();
                let started = Instant::now();
                for at in depth + 1..=depth + tokens {
                    fill(&mut model, at, at + 1)?;
                }
                started.elapsed()
            }
            _ => anyhow::bail!("phase: prefill or decode"),
        };
        writeln!(out, "{}", json!({ "seconds": seconds.as_secs_f64() }))?;
    }
    Ok(())
}

/// Runs arbitrary tokens at positions `from..to`.
fn fill(model: &mut ModelWeights, from: usize, to: usize) -> anyhow::Result<()> {
    for first in (from..to).step_by(CHUNK) {
        let ids: Vec<u32> = (first..to.min(first + CHUNK)).map(|i| (i as u32 * 7919 + 11) % 50_000).collect();
        let input = Tensor::new(ids, &Device::Cpu)?.unsqueeze(0)?;
        model.forward(&input, first)?;
    }
    Ok(())
}
