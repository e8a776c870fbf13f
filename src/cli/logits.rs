//! `fs logits`.

/// Arguments of `fs logits`.
#[derive(clap::Args)]
pub struct Args {}

/// Runs `fs logits`.
pub fn run(_args: Args) -> anyhow::Result<()> {
    anyhow::bail!("not built yet")
}
