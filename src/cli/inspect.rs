//! `fs inspect`.

/// Arguments of `fs inspect`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs inspect`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
