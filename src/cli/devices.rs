//! `fs devices`: what a model can run on here.

use super::common;
use failed_star::session::devices::{Device, devices};

/// Arguments of `fs devices`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  fs devices
  fs devices --json | jq -r '.[] | select(.auto).backend'")]
pub struct Args {
    /// One JSON array instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs `fs devices`.
pub fn run(args: Args) -> anyhow::Result<()> {
    let devices = devices();
    if args.json {
        return common::print_json(&serde_json::to_value(devices)?);
    }
    let mut text = String::new();
    for Device { backend, auto, device, details } in devices {
        let auto = if auto { " (auto)" } else { "" };
        let device = device.unwrap_or_else(|| "not here".into());
        text += &format!("{backend:<9}  {device}{auto} · {}\n", details.join(" · "));
    }
    common::print(text)
}
