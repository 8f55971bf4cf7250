//! The operators' guide, command line by command line: each that it prints is run, as it is printed, at a
//! terminal, against a live controller and a simulated Azure on the guide's own dates, and has an
//! expectation here ([`story`]): how it ends, what it tells and in which order, and what the world is
//! like afterwards.
//!
//! The guide is found through `AZDR_SEEDS`, by default next to the workspace; where it is absent these
//! tests are shown as ignored.

pub(crate) mod lines;
mod story;
pub(crate) mod terminal;
mod world;

use std::collections::BTreeSet;
use std::fmt::Write;

use anyhow::{Result, bail, ensure};
use lines::Line;
use story::{FOREIGN, STORY, Step};
use terminal::Seen;
use world::Stay;

use crate::setup::{Needs, Stage, Test};

/// The command's name in the guide.
const NAME: &str = "azlin";

pub(crate) const TESTS: &[Test] = &[
    Test {
        name: "the_guides_command_lines_are_read_as_a_shell_reads_them",
        needs: Needs::Nothing,
        body: lines::example,
    },
    Test {
        name: "every_command_line_of_the_guide_has_an_expectation_and_every_expectation_a_line",
        needs: Needs::Guide,
        body: coverage,
    },
    Test {
        name: "every_command_line_of_the_guide_does_what_the_guide_says",
        needs: Needs::GuideAndPrograms,
        body: told,
    },
];

fn coverage(stage: &Stage) -> Result<()> {
    let guide = lines::read(&stage.guide()?, NAME)?;
    let (ours, foreign): (Vec<&Line>, Vec<&Line>) =
        guide.commands.iter().partition(|l| l.runs(NAME));
    ensure!(ours.len() > 50, "only {} command lines are found in the guide", ours.len());
    for (position, line) in ours.iter().enumerate() {
        match STORY.get(position) {
            Some(step) if step.line == line.text => {}
            step => bail!(
                "line {}: the guide has\n  {}\nwhere this expects\n  {}",
                line.number,
                line.text,
                step.map_or("nothing more", |s| s.line)
            ),
        }
    }
    let surplus: Vec<&str> = STORY.iter().skip(ours.len()).map(|s| s.line).collect();
    ensure!(surplus.is_empty(), "the guide has no such lines: {surplus:#?}");
    // Other programs' commands are known, too: none of ours hides among them.
    let found: BTreeSet<&str> = foreign.iter().map(|line| line.text.as_str()).collect();
    let known: BTreeSet<&str> = FOREIGN.iter().copied().collect();
    ensure!(found == known, "the guide's other commands are {found:#?}, known are {known:#?}");
    for mention in &guide.mentions {
        let told = STORY.iter().any(|step| step.line.starts_with(&mention.text));
        ensure!(told, "line {}: {:?} is in no expectation", mention.number, mention.text);
    }
    Ok(())
}

/// All of them, in the guide's order; what is wrong is told together.
fn told(stage: &Stage) -> Result<()> {
    let mut stay = Stay::begin(stage)?;
    let mut wrong = String::new();
    for step in STORY {
        if let Err((seen, error)) = play(&mut stay, step) {
            let screen = seen.map(|seen| format!("\nexit {}\n{}", seen.code, seen.screen));
            let _ = writeln!(wrong, "$ {}\n{error:#}{}", step.line, screen.unwrap_or_default());
        }
    }
    ensure!(wrong.is_empty(), "{wrong}");
    stay.end()
}

fn play(stay: &mut Stay, step: &Step) -> Result<(), (Option<Seen>, anyhow::Error)> {
    let alone = |error| (None, error);
    if let Some(before) = step.before {
        before(stay).map_err(|e| alone(e.context("before it")))?;
    }
    let seen = stay.types(step.line, step.answers).map_err(alone)?;
    stay.note(&format!("$ {}\n{}--- exit {}\n\n", step.line, seen.screen, seen.code))
        .map_err(alone)?;
    let found = (|| {
        ensure!(seen.code == step.code, "exit code {} instead of {}", seen.code, step.code);
        seen.tells(step.told)?;
        step.after.map_or(Ok(()), |after| after(stay, &seen))
    })();
    found.map_err(|error| (Some(seen), error))
}
