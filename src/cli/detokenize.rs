//! `fs detokenize`.

/// Arguments of `fs detokenize`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs detokenize`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
