//! `fs chat`.

/// Arguments of `fs chat`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs chat`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
