//! Events: what becomes of a run, and what it has measured.

use std::time::Duration;

use azdr_domain::alert::{self, AlertKind, FailedJob, Words};
use azdr_domain::objective;
use azdr_env::WallTime;
use rusqlite::Connection;

use super::conditions::{has_condition, settle, settle_success_rate};
use super::{Event, cause, raise, resolve};
use crate::mutation::{Mutation, planted};
use crate::store::cached::Cached;
use crate::store::items::parse_arm_id;
use crate::store::policies::read_policy;
use crate::store::{ItemId, RunId, RunState, StoreError};

/// A run, as far as alerts are concerned.
struct Run {
    id: RunId,
    workflow: String,
    item: Option<ItemId>,
    vm: String,
    point: String,
    region: String,
    /// The tag or the disk that it was to delete.
    target: String,
    /// A person asked for it to be deleted: no retention.
    chosen: bool,
    why: String,
    hint: String,
    failure: String,
    /// What a restore took, if it was measured.
    restored: Option<Duration>,
}

impl Run {
    fn read(c: &Connection, id: RunId) -> Result<Self, StoreError> {
        let run = c.query_row_cached(
            "SELECT r.workflow, r.item_id, i.arm_id, r.input_json ->> '$.point',
               r.input_json ->> '$.region', coalesce(r.input_json ->> '$.tag',
               r.input_json ->> '$.disk'), r.input_json ->> '$.chosen' IS NOT NULL,
               r.error_json ->> '$.message', r.error_json ->> '$.hint', r.error_json ->> '$.kind',
               r.result_json ->> '$.restore.rto_ms'
             FROM run r LEFT JOIN item i ON i.id = r.item_id WHERE r.id = ?1",
            [id.0],
            |r| {
                let text =
                    |column| r.get::<_, Option<String>>(column).map(Option::unwrap_or_default);
                let vm = r.get::<_, Option<String>>(2)?;
                let vm = vm.map(|id| parse_arm_id(&id, 2)).transpose()?;
                let restored: Option<i64> = r.get(10)?;
                Ok(Self {
                    id,
                    workflow: r.get(0)?,
                    item: r.get::<_, Option<i64>>(1)?.map(ItemId),
                    vm: vm.map(|vm| vm.name().to_owned()).unwrap_or_default(),
                    point: text(3)?,
                    region: text(4)?,
                    target: text(5)?,
                    chosen: r.get(6)?,
                    why: text(7)?,
                    hint: text(8)?,
                    failure: text(9)?,
                    restored: restored
                        .filter(|ms| *ms > 0)
                        .map(|ms| Duration::from_millis(ms.unsigned_abs())),
                })
            },
        )?;
        Ok(run)
    }

    /// What a success of the same ends.
    fn cause(&self, kind: AlertKind) -> String {
        let Self { item, point, region, target, workflow, .. } = self;
        match kind {
            AlertKind::VerificationFailed => verification(*item, point, region),
            AlertKind::ReplicationFailed => cause(kind, *item, region),
            AlertKind::CleanupFailed => cause(kind, *item, &format!("{workflow} {target}")),
            _ => cause(kind, *item, ""),
        }
    }

    fn failed(&self, kind: AlertKind, cause: String) -> Event {
        let why = if self.why.is_empty() { "no reason is recorded" } else { &self.why };
        let told = FailedJob {
            job: self.id.0,
            vm: &self.vm,
            point: &self.point,
            region: &self.region,
            why,
            hint: &self.hint,
        };
        self.event(kind, cause, told.words(kind))
    }

    fn event(&self, kind: AlertKind, cause: String, words: Words) -> Event {
        Event {
            kind,
            cause,
            item: self.item,
            run: self.id,
            point: self.point.clone(),
            region: self.region.clone(),
            words,
        }
    }

    /// Nothing is amiss, though it failed: what was wanted is so, or a person was told why not.
    fn is_no_matter(&self) -> bool {
        self.chosen || self.failure == "already_replicated"
    }
}

fn verification(item: Option<ItemId>, point: &str, region: &str) -> String {
    cause(AlertKind::VerificationFailed, item, &format!("{point} in {region}"))
}

/// A run's new state: raises what it gives cause for, and resolves what it ends. Called in the
/// transaction that writes the state, after everything else of it.
pub(in crate::store) fn of_state(
    c: &Connection,
    id: RunId,
    state: RunState,
    now: WallTime,
) -> Result<(), StoreError> {
    let matters = state == RunState::Stuck || state.is_terminal();
    if !matters || planted(Mutation::AlertsForgotten) {
        return Ok(());
    }
    let run = Run::read(c, id)?;
    let stuck = cause(AlertKind::JobStuck, None, &format!("job {id}"));
    if state == RunState::Stuck {
        // The part that it waits for says so itself.
        if run.failure == "child_stuck" {
            return Ok(());
        }
        return raise(c, &run.failed(AlertKind::JobStuck, stuck), now);
    }
    // Not before: it is tried again by itself from time to time, which must not alert anew each time.
    resolve(c, &stuck, &format!("the job has ended: {}", state.as_str()), now)?;
    if let Some(kind) = AlertKind::of_failed(&run.workflow) {
        let cause = run.cause(kind);
        let is_drill = kind == AlertKind::DrTestFailed;
        match state {
            RunState::Failed if run.is_no_matter() => {}
            // That it is gone is said already.
            RunState::Failed if kind == AlertKind::BackupFailed && is_gone(c, run.item)? => {}
            // Its machine was kept, and the keeping failed: the test itself has passed.
            RunState::Failed if is_drill && has_passed(c, id)? => {}
            RunState::Failed => raise(c, &run.failed(kind, cause), now)?,
            // Those with a measurement are resolved by that: see `drill_recorded` and `proved`.
            RunState::Succeeded if !is_drill && kind != AlertKind::VerificationFailed => {
                resolve(c, &cause, &format!("job {id} has succeeded"), now)?;
            }
            _ => {}
        }
    }
    if let (RunState::Succeeded, Some(took)) = (state, run.restored) {
        judge_time(c, &run, took, now)?;
    }
    match run.item {
        Some(item) if has_condition(c, item)? => settle(c, item, now),
        _ => Ok(()),
    }
}

fn is_gone(c: &Connection, item: Option<ItemId>) -> Result<bool, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT 1 FROM policy WHERE item_id = ?1 AND enabled AND gone_ms IS NOT NULL",
    )?;
    Ok(s.exists([item.map(|i| i.0)])?)
}

fn has_passed(c: &Connection, id: RunId) -> Result<bool, StoreError> {
    let mut s = c.prepare_cached("SELECT 1 FROM drill WHERE run_id = ?1 AND passed = 1")?;
    Ok(s.exists([id.0])?)
}

/// A recovery was timed.
fn judge_time(c: &Connection, run: &Run, took: Duration, now: WallTime) -> Result<(), StoreError> {
    let policy = match run.item {
        Some(item) => read_policy(c, item)?.map(|row| row.policy),
        None => None,
    };
    let target = objective::rto_target(policy.as_ref());
    let cause = run.cause(AlertKind::RtoExceeded);
    if objective::in_time(target, took) {
        return resolve(c, &cause, &format!("job {} was in time", run.id), now);
    }
    let words = alert::too_slow(run.id.0, &run.vm, took, target);
    raise(c, &run.event(AlertKind::RtoExceeded, cause, words), now)
}

/// A drill was recorded, by this run.
pub(in crate::store) fn drill_recorded(
    c: &Connection,
    id: RunId,
    passed: bool,
    rto_ms: Option<u64>,
    now: WallTime,
) -> Result<(), StoreError> {
    let run = Run::read(c, id)?;
    if passed {
        let cause = run.cause(AlertKind::DrTestFailed);
        resolve(c, &cause, &format!("job {id} has passed"), now)?;
    }
    if let Some(ms) = rto_ms.filter(|_| passed) {
        judge_time(c, &run, Duration::from_millis(ms), now)?;
    }
    settle_success_rate(c, now)
}

/// A point was proved in a region.
pub(in crate::store) fn proved(
    c: &Connection,
    run: RunId,
    item: ItemId,
    point: &str,
    region: &str,
    now: WallTime,
) -> Result<(), StoreError> {
    resolve(c, &verification(Some(item), point, region), &format!("job {run} has proved it"), now)
}

/// A point, or its copy in one region, is gone: nobody has to verify it any more.
pub(in crate::store) fn point_gone(
    c: &Connection,
    item: ItemId,
    point: &str,
    region: Option<&str>,
    now: WallTime,
) -> Result<(), StoreError> {
    c.execute_cached(
        "UPDATE alert SET resolved_ms = ?4, resolution = 'the backup is deleted'
         WHERE item_id = ?1 AND resolved_ms IS NULL AND kind = ?5 AND point_name = ?2
           AND (?3 IS NULL OR region = ?3)",
        (item.0, point, region, now.unix_ms(), AlertKind::VerificationFailed.as_str()),
    )?;
    Ok(())
}
