//! `fs generate`: continue a text.

use super::common::{self, CacheArgs, INTERRUPTED, ModelArgs, PromptArgs, SamplingArgs, print};
use failed_star::session::sampling::SamplingParams;
use failed_star::session::{Completion, Engine, Event, GenerateOptions, GeneratedToken, Session, SessionError};
use serde_json::{Value, json};
use std::io::Write;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

/// Arguments of `fs generate`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fs generate \"Once upon a time\"
  fs generate --temperature 0 --max-tokens 32 --json \"Once upon a time\"
  fs generate --model qwen3-0.6b --ids 785,6722,315 --temperature 0
  cat start.txt | fs generate --seed 7 --stop \"The end\"")]
pub struct Args {
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    cache: CacheArgs,
    /// The most tokens to generate [default: until the model stops or the context is full]
    #[arg(short = 'n', long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Stop where this text appears, and leave it out; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Stop at this token too; may be given several times
    #[arg(long, value_name = "ID")]
    stop_token: Vec<u32>,
    /// Go on where the model would stop
    #[arg(long)]
    ignore_eos: bool,
    /// Show each token's log probability and the N most likely ones
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "0")]
    logprobs: Option<usize>,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Print the continuation alone, without the prompt
    #[arg(long)]
    no_echo: bool,
    /// One JSON object at the end instead of text
    #[arg(long)]
    json: bool,
}

/// Runs `fs generate`.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    common::catch_interrupts()?;
    let engine = args.model.load()?;
    let prompt = args.prompt.tokens(&engine)?;
    let mut session = args.cache.session(&engine)?;
    let mut stop_tokens = args.stop_token.clone();
    if !args.ignore_eos {
        stop_tokens.extend(engine.stop_tokens());
    }
    let options = GenerateOptions {
        sampling: SamplingParams { logprobs: args.logprobs, ..args.sampling.params(&engine) },
        max_tokens: args.max_tokens,
        stop_tokens,
        stop_strings: args.stop.clone(),
    };

    let mut tokens = Vec::new();
    let mut output = Ok(());
    let bar = common::PromptBar::new(args.model.device.quiet);
    let mut echo = !args.no_echo && !args.json && args.logprobs.is_none();
    let completion = session.generate(&prompt, &options, &mut |event| {
        match event {
            Event::Prefill { done, total } => bar.update(done, total),
            Event::Token(token) => {
                bar.clear();
                if args.json {
                    if args.logprobs.is_some() {
                        tokens.push(logprobs(&engine, token));
                    }
                } else if args.logprobs.is_some() {
                    output = print_token(&engine, token);
                } else {
                    output = echo_prompt(&engine, &prompt, &mut echo).and_then(|()| print(&token.text));
                }
            }
            Event::Rest(text) => {
                bar.clear();
                if !args.json && args.logprobs.is_none() {
                    output = echo_prompt(&engine, &prompt, &mut echo).and_then(|()| print(text));
                }
            }
        }
        // The event at hand is printed first: its token is in the sequence, so it belongs to the text.
        if output.is_err() || INTERRUPTED.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    output?;
    // An error begins a line of its own.
    if completion.is_err() && !echo && !args.json && args.logprobs.is_none() && engine.tokenizer().is_ok() {
        print("\n")?;
    }
    let completion = match completion {
        Err(SessionError::Interrupted { .. }) => return Ok(ExitCode::from(130)),
        completion => completion?,
    };
    if args.json {
        common::print_json(&to_json(&session, &prompt, &options, &completion, args.logprobs.map(|_| tokens)))?;
    } else if engine.tokenizer().is_err() {
        let ids: Vec<String> = completion.ids.iter().map(u32::to_string).collect();
        print(format!("{}\n", ids.join(" ")))?;
    } else if args.logprobs.is_none() {
        print("\n")?;
    }
    if !args.model.device.quiet {
        let seed = if options.sampling.temperature > 0.0 {
            format!(" · seed {}", options.sampling.seed)
        } else {
            String::new()
        };
        eprintln!("{}{seed}", common::speed_line(&session, &completion.timings));
    }
    Ok(if INTERRUPTED.load(Ordering::Relaxed) { ExitCode::from(130) } else { ExitCode::SUCCESS })
}

/// Prints the prompt once, so that what follows reads as one text.
fn echo_prompt(engine: &Engine, prompt: &[u32], echo: &mut bool) -> anyhow::Result<()> {
    if std::mem::take(echo) {
        let bytes: Vec<u8> = prompt.iter().flat_map(|&id| engine.token_bytes(id)).copied().collect();
        print(&*String::from_utf8_lossy(&bytes))?;
    }
    Ok(())
}

fn token_text(engine: &Engine, id: u32) -> String {
    String::from_utf8_lossy(engine.token_bytes(id)).into_owned()
}

fn print_token(engine: &Engine, token: &GeneratedToken) -> anyhow::Result<()> {
    let top = token.top_logprobs.iter().map(|t| format!("  {:?} {:.3}", token_text(engine, t.id), t.logprob));
    let top: String = top.collect();
    let mut out = common::stdout();
    writeln!(
        out,
        "{:>7}  {:>8.4}  {:?}{top}",
        token.id,
        token.logprob.unwrap_or(f32::NAN),
        token_text(engine, token.id)
    )?;
    Ok(())
}

fn logprobs(engine: &Engine, token: &GeneratedToken) -> Value {
    let entry = |id: u32, logprob: Option<f32>| json!({"id": id, "text": token_text(engine, id), "logprob": logprob});
    let mut value = entry(token.id, token.logprob);
    value["top"] = token.top_logprobs.iter().map(|t| entry(t.id, Some(t.logprob))).collect();
    value
}

fn to_json(
    session: &Session,
    prompt: &[u32],
    options: &GenerateOptions,
    completion: &Completion,
    logprobs: Option<Vec<Value>>,
) -> Value {
    let timings = &completion.timings;
    let mut value = json!({
        "model": session.engine().name(),
        "prompt_ids": prompt,
        "ids": completion.ids,
        "text": completion.text,
        "stop_reason": completion.stop_reason,
        "seed": options.sampling.seed,
        "timings": {
            "prompt_tokens": timings.prompt_tokens,
            "cached_tokens": timings.cached_tokens,
            "prefill_seconds": timings.prefill.as_secs_f64(),
            "prefill_tokens_per_second": timings.prefill_rate(),
            "decoded_tokens": timings.decoded_tokens,
            "decode_seconds": timings.decode.as_secs_f64(),
            "decode_tokens_per_second": timings.decode_rate(),
            "decode_bytes_per_second": common::decode_bytes_per_second(session, timings),
        },
    });
    if let Some(logprobs) = logprobs {
        value["logprobs"] = logprobs.into();
    }
    value
}
