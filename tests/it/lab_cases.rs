//! The cases of `cargo xtask lab`, each a test, with fewer repetitions.

use anyhow::{Context, Result};
use azdr_tests::cases::{Case, Place};

use crate::setup::{PATIENCE, Stage};

/// The name of a case's test.
pub(crate) fn test_name(case: &Case) -> String {
    format!("lab_{}", case.name.replace('-', "_"))
}

/// Runs a case.
pub(crate) fn run(stage: &Stage, case: &Case) -> Result<()> {
    let place = Place {
        programs: stage.programs()?.clone(),
        image: stage.image.clone().context("there is no guest image")?,
        folder: stage.folder.clone(),
        rounds: case.rounds.map_or(1, |rounds| rounds.in_tests),
        patience: PATIENCE,
    };
    let figures = (case.run)(&place)?;
    println!("{}: {}", case.name, figures.join("; "));
    Ok(())
}
