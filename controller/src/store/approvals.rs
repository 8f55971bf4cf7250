//! Runs that wait for a second person. Such a run is queued and waits for itself: it holds no lock and
//! takes no place among those that run, and neither time nor a restart changes that.

use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension};
use serde_json::json;

use super::cached::Cached;
use super::journal::{self, Event};
use super::runs::{insert_run, set_state};
use super::{ItemId, NewRun, RunId, RunState, Store, StoreError};

/// What came of approving a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Approval {
    /// It starts when its turn comes.
    Taken,
    /// Somebody had approved it before.
    Already,
    /// It does not wait for approval.
    NotAsked,
    /// Whoever changed the policy must not approve what comes of it.
    SamePerson,
}

impl Store {
    /// Who last changed an item's policy; none where it has none.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policy_changed_by(&self, item: ItemId) -> Result<Option<String>, StoreError> {
        self.read(move |c| policy_by(c, Some(item.0))).await
    }

    /// Approves a run that waits for it, and takes down who did. Neither who last changed the policy may,
    /// nor anybody in `not_by`.
    ///
    /// # Errors
    /// `Missing` when there is no such run.
    pub async fn approve(
        &self,
        id: RunId,
        by: String,
        not_by: Vec<String>,
        now: WallTime,
    ) -> Result<Approval, StoreError> {
        self.write(move |c| {
            let row: Option<(bool, Option<i64>)> = c
                .query_row_cached(
                    "SELECT state = 'queued' AND waiting_for_job IS id, item_id FROM run WHERE id = ?1",
                    [id.0],
                    |r| Ok((r.get(0)?, r.get(1)?)),
                )
                .optional()?;
            let (waits, item) = row.ok_or_else(|| StoreError::Missing(format!("job {id}")))?;
            if !waits {
                let approved: bool = c.query_row_cached(
                    "SELECT EXISTS (SELECT 1 FROM journal WHERE run_id = ?1 AND event = 'decided'
                       AND payload_json ->> 'decision' = 'approve')",
                    [id.0],
                    |r| r.get(0),
                )?;
                return Ok(if approved { Approval::Already } else { Approval::NotAsked });
            }
            if not_by.contains(&by) || policy_by(c, item)?.as_ref() == Some(&by) {
                return Ok(Approval::SamePerson);
            }
            let decided = json!({"decision": "approve", "by": by, "reason": ""});
            journal::append(c, id, "", "", Event::Decided, &decided, now)?;
            c.execute_cached(
                "UPDATE run SET waiting_for = NULL, waiting_for_job = NULL WHERE id = ?1",
                [id.0],
            )?;
            Ok(Approval::Taken)
        })
        .await
    }
}

fn policy_by(c: &Connection, item: Option<i64>) -> Result<Option<String>, StoreError> {
    let sql = "SELECT updated_by FROM policy WHERE item_id = ?1";
    Ok(c.query_row_cached(sql, [item], |r| r.get(0)).optional()?)
}

fn waiting(c: &Connection, item: Option<ItemId>) -> Result<Option<RunId>, StoreError> {
    let sql = "SELECT id FROM run WHERE item_id = ?1 AND state = 'queued' AND waiting_for_job = id";
    let found = c.query_row_cached(sql, [item.map(|i| i.0)], |r| r.get(0).map(RunId));
    Ok(found.optional()?)
}

pub(super) fn ask(
    c: &Connection,
    run: &NewRun,
    words: &str,
    now: WallTime,
) -> Result<(), StoreError> {
    if waiting(c, run.item)?.is_some() {
        return Ok(());
    }
    let id = insert_run(c, run, now)?;
    c.execute_cached(
        "UPDATE run SET waiting_for = ?2, waiting_for_job = ?1 WHERE id = ?1",
        (id.0, format!("{words} {id}")),
    )?;
    Ok(())
}

pub(super) fn withdraw(c: &Connection, item: ItemId, now: WallTime) -> Result<(), StoreError> {
    match waiting(c, Some(item))? {
        Some(id) => {
            c.execute_cached("UPDATE run SET cancel_requested = 1 WHERE id = ?1", [id.0])?;
            set_state(c, id, RunState::Cancelled, now)
        }
        None => Ok(()),
    }
}
