//! `cargo xtask bench`: measures this machine as it is, in release builds.
//!
//! One file per benchmark: it builds what is measured, runs the program that measures (an example of
//! `azdr-controller`, `azdr-domain` or `azdr-agent`, or `azdr-agent-bench`), shows the figures, and says which are not
//! good enough.

mod agent;
mod catalogue;
mod hash;
mod quiesce;
mod store;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::Value;

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// Durable commits per second, how long each takes, and a start with 1,000 unfinished runs
    Store(store::Store),
    /// What an idle agent costs its machine: size of the file, memory, processor time
    Agent(agent::Agent),
    /// How long an operator waits for answers about 1,000,000 recovery points of 10,000 VMs
    Catalogue(catalogue::Catalogue),
    /// How fast blocks of disks are hashed on one core (BLAKE3), and what a sample costs
    Hash(hash::Hash),
    /// How long file systems are frozen: with and without pre-flush, one and six, and the thaw
    Quiesce(quiesce::Quiesce),
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Store(store) => store.run(),
            Self::Agent(agent) => agent.run(),
            Self::Catalogue(catalogue) => catalogue.run(),
            Self::Hash(hash) => hash.run(),
            Self::Quiesce(quiesce) => quiesce.run(),
        }
    }
}

/// Writes the figures as JSON, where that was asked for.
fn keep(figures: &Value, path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    std::fs::write(path, format!("{figures:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}
