//! `fs tokenize`.

/// Arguments of `fs tokenize`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs tokenize`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
