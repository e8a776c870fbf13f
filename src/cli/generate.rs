//! `fs generate`.

/// Arguments of `fs generate`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs generate`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
