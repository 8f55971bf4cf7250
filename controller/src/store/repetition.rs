//! How often a step has been called again, and for how long: what back-off and deadlines need to go
//! on after a restart. One row per step, so that a copy that waits for days does not fill the journal.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_env::WallTime;
use rusqlite::Connection;

use super::{RunId, Store, StoreError};

/// A series of calls of one step (or of one item of an `each`), in one direction. Durations are sums
/// of monotonic time: neither a jump of the wall clock nor the time between two processes is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repetition {
    /// Failures in a row.
    pub attempts: u32,
    /// Time since the first of them.
    pub failing: Duration,
    /// Time since the step began.
    pub spent: Duration,
    /// The pause that had begun when this was written.
    pub pause: Duration,
    /// When that pause is over.
    pub not_before: Option<WallTime>,
}

impl Store {
    /// Remembers a step's repetition, and for how long its run has been driven in all.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note_repetition(
        &self,
        run: RunId,
        step: &str,
        item: &str,
        repetition: Repetition,
        run_spent: Duration,
    ) -> Result<(), StoreError> {
        let (step, item) = (step.to_owned(), item.to_owned());
        self.write(move |c| {
            c.prepare_cached(
                "INSERT OR REPLACE INTO repetition VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute((
                run.0,
                step,
                item,
                repetition.attempts,
                millis(repetition.failing),
                millis(repetition.spent),
                millis(repetition.pause),
                repetition.not_before.map_or(0, WallTime::unix_ms),
            ))?;
            set_spent(c, run, run_spent)
        })
        .await
    }

    /// The repetitions of a run's steps, by step and item.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn repetitions(
        &self,
        run: RunId,
    ) -> Result<BTreeMap<(String, String), Repetition>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT step, item, attempts, failing_ms, spent_ms, pause_ms, not_before_ms
                 FROM repetition WHERE run_id = ?1",
            )?;
            let duration = |ms: i64| Duration::from_millis(ms.unsigned_abs());
            let rows = statement.query_map([run.0], |r| {
                let repetition = Repetition {
                    attempts: r.get(2)?,
                    failing: duration(r.get(3)?),
                    spent: duration(r.get(4)?),
                    pause: duration(r.get(5)?),
                    not_before: Some(WallTime::from_unix_ms(r.get(6)?)),
                };
                Ok(((r.get(0)?, r.get(1)?), repetition))
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }
}

pub(super) fn forget(c: &Connection, run: RunId, step: &str, item: &str) -> Result<(), StoreError> {
    c.prepare_cached("DELETE FROM repetition WHERE run_id = ?1 AND step = ?2 AND item = ?3")?
        .execute((run.0, step, item))?;
    Ok(())
}

pub(super) fn forget_all(c: &Connection, run: RunId) -> Result<(), StoreError> {
    c.prepare_cached("DELETE FROM repetition WHERE run_id = ?1")?.execute([run.0])?;
    Ok(())
}

pub(super) fn set_spent(c: &Connection, run: RunId, spent: Duration) -> Result<(), StoreError> {
    c.prepare_cached("UPDATE run SET spent_ms = ?2 WHERE id = ?1")?
        .execute((run.0, millis(spent)))?;
    Ok(())
}

fn millis(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}
