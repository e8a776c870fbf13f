//! `fs verify`.

/// Arguments of `fs verify`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs verify`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
