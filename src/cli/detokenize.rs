//! `fs detokenize`.

use super::common::{print, read_stdin};
use anyhow::{Context, bail};
use failed_star::weights::ModelSource;

/// Arguments of `fs detokenize`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  fs detokenize --model qwen3-0.6b 785 6722 315 9625
  fs detokenize --model qwen3-0.6b 785,6722,315,9625
  echo '[785, 6722, 315, 9625]' | fs detokenize --model qwen3-0.6b
  fs tokenize --json 'Hello' | fs detokenize")]
pub struct Args {
    /// Token ids, with spaces or commas between; read from stdin if none are given, there also as a JSON list or as what
    /// `fs tokenize --json` prints
    ids: Vec<String>,
    /// A model's name, directory or file
    #[arg(short, long, value_name = "MODEL")]
    model: Option<String>,
}

/// Runs `fs detokenize`: writes the exact bytes, without a newline.
pub fn run(args: Args) -> anyhow::Result<()> {
    let ids = if args.ids.is_empty() {
        parse_input(&read_stdin()?).context("stdin")?
    } else {
        parse_ids(&args.ids.join(" "))?
    };
    let tokenizer = ModelSource::resolve(args.model.as_deref())?.tokenizer()?;
    print(tokenizer.decode(&ids)?)
}

/// A JSON list, an object with a list called `ids`, or plain ids.
fn parse_input(input: &str) -> anyhow::Result<Vec<u32>> {
    #[derive(serde::Deserialize)]
    struct Tokenized {
        ids: Vec<u32>,
    }
    match input.trim_start().as_bytes().first() {
        Some(b'[') => serde_json::from_str(input).context("a JSON list of token ids expected"),
        Some(b'{') => Ok(serde_json::from_str::<Tokenized>(input).context("a JSON object with \"ids\" expected")?.ids),
        _ => parse_ids(input),
    }
}

/// Ids with white space or commas between them.
fn parse_ids(input: &str) -> anyhow::Result<Vec<u32>> {
    let words = input.split(|char: char| char.is_whitespace() || char == ',').filter(|word| !word.is_empty());
    let parse = |word: &str| match word.parse() {
        Ok(id) => Ok(id),
        Err(_) => bail!("{word:?} is not a token id: whole numbers from 0 to {} are", u32::MAX),
    };
    words.map(parse).collect()
}
