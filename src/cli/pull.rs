//! `fs pull`.

/// Arguments of `fs pull`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs pull`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
