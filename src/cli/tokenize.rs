//! `fs tokenize`.

use super::common::{print, read_stdin, read_text};
use failed_star::text::Encoding;
use failed_star::weights::ModelSource;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Arguments of `fs tokenize`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fs tokenize 'Once upon a time'
  fs tokenize --model qwen3-0.6b --trace ' naïve café'
  fs tokenize --file story.txt --json | jq '.ids | length'
  echo -n 'Hello' | fs tokenize --ids | fs detokenize")]
pub struct Args {
    /// The text; read from stdin if neither this nor --file is given
    text: Option<String>,
    /// Read the text from this file
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,
    /// A model's name, directory or file
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
    /// Print one JSON object: ids, pieces, spans, normalized (with --trace: every step)
    #[arg(long)]
    json: bool,
    /// Show each step: NFC, pieces, bytes, and each merge with its rank
    #[arg(long)]
    trace: bool,
    /// Print only the ids, on one line
    #[arg(long, conflicts_with_all = ["json", "trace"])]
    ids: bool,
}

/// Runs `fs tokenize`.
pub fn run(args: Args) -> anyhow::Result<()> {
    let text = match (args.text, &args.file) {
        (Some(text), _) => text,
        (None, Some(file)) => read_text(file)?,
        (None, None) => read_stdin()?,
    };
    let tokenizer = ModelSource::resolve(args.model.as_deref())?.tokenizer()?;
    let output = if args.trace {
        let trace = tokenizer.trace(&text);
        if args.json { serde_json::to_string(&trace)? + "\n" } else { trace.to_string() }
    } else if args.ids {
        let ids: Vec<String> = tokenizer.encode(&text).iter().map(u32::to_string).collect();
        ids.join(" ") + "\n"
    } else {
        let Encoding { ids, spans, normalized } = tokenizer.encode_with_spans(&text);
        let bytes = normalized.as_ref().unwrap_or(&text).as_bytes();
        let pieces: Vec<_> = spans.iter().map(|span| String::from_utf8_lossy(&bytes[span.clone()])).collect();
        if args.json {
            let spans: Vec<[usize; 2]> = spans.iter().map(|span| [span.start, span.end]).collect();
            let object = serde_json::json!({ "ids": ids, "pieces": pieces, "spans": spans, "normalized": normalized });
            object.to_string() + "\n"
        } else {
            table(&ids, &pieces, &spans, normalized.as_deref())?
        }
    };
    print(output)
}

/// One line a token: id, byte span, piece.
fn table(
    ids: &[u32],
    pieces: &[impl std::fmt::Debug],
    spans: &[std::ops::Range<usize>],
    normalized: Option<&str>,
) -> Result<String, std::fmt::Error> {
    let mut table = String::new();
    if let Some(text) = normalized {
        writeln!(table, "The text was brought into NFC; spans count the bytes of {text:?}")?;
    }
    for ((id, piece), span) in ids.iter().zip(pieces).zip(spans) {
        writeln!(table, "{id:>7}  {:<12}  {piece:?}", format!("{}..{}", span.start, span.end))?;
    }
    Ok(table)
}
