//! `azure-sim init`.

use std::path::PathBuf;

use anyhow::Context;
use azdr_env::Env;
use azure_sim::seed::WorldDescription;
use clap::Args;

/// Makes a state directory from a description of a world.
#[derive(Args)]
pub(crate) struct Init {
    /// The directory to make.
    #[arg(long)]
    state: PathBuf,
    /// The description (JSON); image paths in it are relative to it.
    #[arg(long)]
    world: PathBuf,
}

impl Init {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = std::fs::read(&self.world)
            .with_context(|| format!("cannot read {}", self.world.display()))?;
        let description: WorldDescription = serde_json::from_slice(&text)
            .with_context(|| format!("cannot understand {}", self.world.display()))?;
        let images = self.world.parent().map(PathBuf::from).unwrap_or_default();
        azure_sim::init(&self.state, &description, &images, &Env::system())
            .with_context(|| format!("cannot initialise {}", self.state.display()))?;
        eprintln!("initialised {}", self.state.display());
        Ok(())
    }
}
