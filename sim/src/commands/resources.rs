//! `azure-sim resources`.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

/// Lists what exists in a state directory, without running it.
#[derive(Args)]
pub(crate) struct Resources {
    /// The state directory.
    #[arg(long)]
    state: PathBuf,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Resources {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let listing = azure_sim::listing(&self.state)
            .with_context(|| format!("cannot read {}", self.state.display()))?;
        if self.json {
            println!("{listing:#}");
            return Ok(());
        }
        for resource in listing["resources"].as_array().into_iter().flatten() {
            let text = |name: &str| resource[name].as_str().unwrap_or_default().to_owned();
            let power = resource["power"].as_str().map(|p| format!("  {p}")).unwrap_or_default();
            println!(
                "{:<12} {:<10} {}{power}",
                text("location"),
                text("provisioning_state"),
                text("id")
            );
        }
        Ok(())
    }
}
