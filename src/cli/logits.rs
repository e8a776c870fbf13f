//! `fs logits`: the most likely next tokens.

use super::common::{self, CacheArgs, ModelArgs, PromptArgs};
use failed_star::session::sampling::{TokenLogprob, log_softmax_top};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;

/// Arguments of `fs logits`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fs logits \"Once upon a\" --top 5
  fs logits --model qwen3-0.6b --ids 785,6722,315 --json")]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// How many tokens to show
    #[arg(long, default_value_t = 10, value_name = "N")]
    top: usize,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `fs logits`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let engine = args.model.load()?;
    let ids = args.prompt.tokens(&engine)?;
    let mut session = args.cache.session(&engine)?;
    let logits = session.evaluate(&ids)?;
    let text = |id| String::from_utf8_lossy(engine.token_bytes(id)).into_owned();
    let top = log_softmax_top(logits, args.top)?;
    if args.json {
        let top: Vec<_> = top
            .iter()
            .map(|t| json!({"id": t.id, "logit": t.logit, "logprob": t.logprob, "text": text(t.id)}))
            .collect();
        common::print_json(&json!({"ids": ids, "top": top}))?;
    } else {
        let mut out = common::stdout();
        writeln!(out, "{:>7}  {:>9}  {:>9}  {:>7}  text", "id", "logit", "logprob", "prob")?;
        for TokenLogprob { id, logit, logprob } in top {
            let percent = 100.0 * logprob.exp();
            writeln!(out, "{id:>7}  {logit:>9.4}  {logprob:>9.4}  {percent:>6.2}%  {:?}", text(id))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
