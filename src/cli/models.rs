//! `fs models`.

/// Arguments of `fs models`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs models`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
