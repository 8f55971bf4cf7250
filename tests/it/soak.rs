//! The short form of `cargo xtask soak`.

use anyhow::{Context, Result};
use azdr_tests::soak::{self, Options};

use crate::setup::{Needs, Stage, Test};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "a_mixed_load_survives_the_controllers_death_at_random_instants",
    needs: Needs::Programs,
    body: short,
}];

fn short(stage: &Stage) -> Result<()> {
    let programs = stage.programs.clone().context("the programs are not built")?;
    let options = Options { programs, folder: stage.folder.clone(), kills: 5, seed: 1 };
    println!("{}", soak::run(&options)?);
    Ok(())
}
