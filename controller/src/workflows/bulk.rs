//! Many jobs as one: copies of all of a VM's points, proofs of all of them, drills of many VMs.
//!
//! | step | effect | undo |
//! |---|---|---|
//! | `parts` (children) | a run for each part, so many at a time | cancels those that are not over |
//! | `refusals` | fails if something could not even be started | – |
//!
//! It touches nothing itself. A part that fails leaves the others alone; the whole has failed when any
//! part has (I10). It is a run like any other: it goes on when its operator's command is gone, and when
//! the controller was killed.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{StepCx, Workflow};
use crate::store::{NewRun, RunState};
use crate::workflow::{
    ChildEnd, Concluded, Definition, Done, Failure, Outcome, RunPriority, StepError, StepKey,
    Version,
};

/// What a bulk run is told: everything was decided when it was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// For people and the API.
    pub what: What,
    /// How many parts run at once; at least one does.
    pub max_parallel: usize,
    /// In the order in which they start.
    pub parts: Vec<Part>,
    /// What should be done and cannot: counts as failed.
    pub refused: Vec<Refused>,
    /// What need not be done, or can never be; counts as nothing.
    pub skipped: Vec<Refused>,
}

/// What is done many times.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Copies to another region.
    Replicate,
    /// Proofs of level `restorable`.
    Verify,
    /// DR tests.
    DrTest,
}

impl What {
    /// As the API says it: the workflow of its parts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Replicate => "replicate",
            Self::Verify => "verify",
            Self::DrTest => "dr_test",
        }
    }
}

/// One part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Unique: a recovery point, or a VM's resource ID.
    pub key: String,
    /// For people.
    pub name: String,
    /// What is started.
    pub run: NewRun,
}

/// Something that is not started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// For people.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Name, version, priority.
pub const RUN: (&str, u32, RunPriority) = ("bulk", 1, RunPriority::Drill);

/// The step whose children the parts are.
pub const PARTS: StepKey<ChildEnd> = StepKey::new("parts");
const REFUSALS: StepKey<()> = StepKey::new("refusals");

/// First copies of large disks take days, one after the other.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60 * 24 * 3600);

/// The step list.
pub fn workflow() -> Definition<super::Services> {
    Workflow::new(RUN.0, Version(RUN.1), RUN.2)
        .run_within(LIMIT)
        .children(PARTS, "Running the parts", |input: &Input| input.max_parallel, parts)
        .step(REFUSALS, "Looking at what could not be started", refusals)
        .no_undo("reads its input only")
        .makes_nothing("its parts are jobs of their own")
        .conclude(conclude)
        .build()
}

fn parts(cx: &StepCx<Input>) -> Result<Vec<(String, NewRun)>, StepError> {
    let parts = &cx.input.parts;
    let keys: BTreeSet<_> = parts.iter().map(|p| &p.key).collect();
    debug_assert_eq!(keys.len(), parts.len(), "the API makes keys unique");
    Ok(parts.iter().map(|p| (p.key.clone(), p.run.clone())).collect())
}

async fn refusals(cx: &StepCx<Input>) -> Result<Done<()>, StepError> {
    let refused = &cx.input.refused;
    let Some(first) = refused.first() else { return Ok(Done::new(())) };
    let n = refused.len();
    let message = format!("{n} could not be started: {}: {}", first.name, first.why);
    Err(StepError::Fail(Failure::new("not_started", message)))
}

fn conclude(cx: &StepCx<Input>, _: &Outcome) -> Result<Concluded, StepError> {
    let input = &cx.input;
    let ends = cx.child_ends(PARTS)?;
    let succeeded = ends
        .iter()
        .filter(|(_, end)| end.as_ref().is_some_and(|e| e.state == RunState::Succeeded))
        .count();
    let total = input.parts.len() + input.refused.len();
    let skipped: Vec<Value> =
        input.skipped.iter().map(|s| json!({"name": s.name, "why": s.why})).collect();
    let result = json!({"bulk": {
        "what": input.what.as_str(),
        "total": total,
        "succeeded": succeeded,
        "failed": total - succeeded,
        "skipped": skipped,
    }});
    Ok(Concluded { result: Some(result), changes: Vec::new() })
}
