//! Runs, their locks and their leases.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use azdr_domain::proving::Attempt;
use azdr_env::WallTime;
use rusqlite::types::Value as Sql;
use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cached::Cached;
use super::error::to_json;
use super::journal::{self, Event};
use super::{ItemId, Store, StoreError, alerts, repetition};

/// A run's number; users see it as the job id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub i64);

impl std::fmt::Display for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a run stands. The last three are terminal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Waits for its locks.
    Queued,
    /// Goes forward.
    Running,
    /// Goes back.
    Undoing,
    /// Waits for a person; keeps its locks and leases.
    Stuck,
    /// Done.
    Succeeded,
    /// Not done, and undone.
    Failed,
    /// Given up on request, and undone.
    Cancelled,
}

impl RunState {
    /// Whether the run is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As written to the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Undoing => "undoing",
            Self::Stuck => "stuck",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Queued,
            Self::Running,
            Self::Undoing,
            Self::Stuck,
            Self::Succeeded,
            Self::Failed,
            Self::Cancelled,
        ]
        .into_iter()
        .find(|s| s.as_str() == text)
    }
}

/// A run to be started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewRun {
    /// Name of a registered workflow.
    pub workflow: String,
    /// Version of its step list.
    pub version: u32,
    /// The workflow's input.
    pub input: Value,
    /// Smaller goes first.
    pub priority: u8,
    /// What it is about.
    pub item: Option<ItemId>,
    /// The run that waits for it.
    pub parent: Option<RunId>,
    /// Operator, `schedule`, or `job N`.
    pub requested_by: String,
}

/// A run as stored.
#[derive(Clone, Debug)]
pub struct RunRow {
    /// Its number.
    pub id: RunId,
    /// Name of its workflow.
    pub workflow: String,
    /// Version of its step list.
    pub version: u32,
    /// The workflow's input.
    pub input: Value,
    /// Where it stands.
    pub state: RunState,
    /// Smaller goes first.
    pub priority: u8,
    /// What it is about.
    pub item: Option<ItemId>,
    /// Operator, `schedule`, or `job N`.
    pub requested_by: String,
    /// When it was asked for.
    pub created: WallTime,
    /// When it got its locks.
    pub started: Option<WallTime>,
    /// When it became terminal.
    pub finished: Option<WallTime>,
    /// Somebody asked it to stop.
    pub cancel_requested: bool,
    /// What it waits for, in words.
    pub waiting_for: Option<String>,
    /// The run that holds a lock which this one needs.
    pub waiting_for_job: Option<RunId>,
    /// The run that waits for it.
    pub parent: Option<RunId>,
    /// For how long it has been driven, by monotonic clocks.
    pub spent: Duration,
    /// Why it failed, as plain data.
    pub error: Option<Value>,
    /// What it achieved, as plain data.
    pub result: Option<Value>,
}

/// A lock that a run needs before it starts.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockNeed {
    /// As stored.
    pub key: String,
    /// For people.
    pub words: String,
}

/// Most runs that wait in the queue. A step's follow-up runs may exceed it: each comes from a run that
/// has left the queue.
pub const MAX_QUEUED: u32 = 100_000;

/// Whether one more run may wait.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimit {
    /// So many may.
    pub most: u32,
    /// Of those, only runs of this priority and of more urgent ones count.
    pub counted_to: u8,
}

impl QueueLimit {
    /// Any number may wait.
    pub const NONE: Self = Self { most: u32::MAX, counted_to: u8::MAX };
}

impl Store {
    /// Queues a run; it is durable when this returns.
    ///
    /// # Errors
    /// `QueueFull` when the limit is reached, or when the database cannot be written.
    pub async fn queue_run(
        &self,
        run: NewRun,
        limit: QueueLimit,
        now: WallTime,
    ) -> Result<RunId, StoreError> {
        self.write(move |c| {
            check_queue(c, limit)?;
            insert_run(c, &run, now)
        })
        .await
    }

    /// Queues a run, unless an equal one is queued that has not started: then it answers that one.
    ///
    /// # Errors
    /// As [`queue_run`](Self::queue_run).
    pub async fn queue_run_once(
        &self,
        run: NewRun,
        limit: QueueLimit,
        now: WallTime,
    ) -> Result<RunId, StoreError> {
        self.write(move |c| {
            if let Some(id) = queued_equal(c, &run)? {
                return Ok(id);
            }
            check_queue(c, limit)?;
            insert_run(c, &run, now)
        })
        .await
    }

    /// Queues a run and journals it as started by a step of its parent, in one transaction.
    ///
    /// # Errors
    /// `QueueFull` when the limit is reached, or when the database cannot be written.
    pub async fn queue_child(
        &self,
        parent: RunId,
        step: &'static str,
        item: String,
        run: NewRun,
        limit: QueueLimit,
        now: WallTime,
    ) -> Result<RunId, StoreError> {
        self.write(move |c| {
            check_queue(c, limit)?;
            let id = insert_run(c, &run, now)?;
            journal::append(c, parent, step, &item, Event::Started, &Value::from(id.0), now)?;
            Ok(id)
        })
        .await
    }

    /// Takes all of a queued run's locks at once and marks it running; or notes what it waits for.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn try_start_run(
        &self,
        id: RunId,
        mut needs: Vec<LockNeed>,
        now: WallTime,
    ) -> Result<bool, StoreError> {
        needs.sort();
        needs.dedup();
        self.write(move |c| {
            // The caller's list may be old: one that was cancelled meanwhile must not take locks,
            // which nobody would give back.
            if read_run(c, id)?.is_none_or(|r| r.state != RunState::Queued) {
                return Ok(false);
            }
            for need in &needs {
                let holder = c
                    .prepare_cached("SELECT run_id FROM lock WHERE key = ?1 AND run_id <> ?2")?
                    .query_row((&need.key, id.0), |r| r.get::<_, i64>(0))
                    .optional()?;
                if let Some(holder) = holder {
                    set_waiting(c, id, RunId(holder), need)?;
                    return Ok(false);
                }
            }
            for need in &needs {
                c.execute_cached(
                    "INSERT OR IGNORE INTO lock (key, run_id, taken_ms) VALUES (?1, ?2, ?3)",
                    (&need.key, id.0, now.unix_ms()),
                )?;
            }
            let changed = c.execute_cached(
                "UPDATE run SET state = 'running', started_ms = ?2, waiting_for = NULL,
                   waiting_for_job = NULL
                 WHERE id = ?1 AND state = 'queued'",
                (id.0, now.unix_ms()),
            )?;
            Ok(changed == 1)
        })
        .await
    }

    /// Notes for queued runs which other run holds a lock that they need. They are not ready before
    /// that one is over.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn note_waiting(
        &self,
        waiting: Vec<(RunId, RunId, LockNeed)>,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            for (id, holder, need) in &waiting {
                // The lock may have been given back meanwhile: then nobody would wake this one.
                let held = c
                    .prepare_cached("SELECT 1 FROM lock WHERE key = ?1 AND run_id = ?2")?
                    .exists((&need.key, holder.0))?;
                if held {
                    set_waiting(c, *id, *holder, need)?;
                }
            }
            Ok(())
        })
        .await
    }

    /// All locks and who holds them.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn locks(&self) -> Result<BTreeMap<String, RunId>, StoreError> {
        self.read(|c| {
            let mut statement = c.prepare_cached("SELECT key, run_id FROM lock")?;
            let rows = statement.query_map([], |r| Ok((r.get(0)?, RunId(r.get(1)?))))?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// Lets a stuck run go on, with its whole time again: journals what was decided and sets its new
    /// state. Answers the state that it is in instead when it is not stuck; then nothing happens.
    ///
    /// # Errors
    /// `Missing` when there is no such run, or when the database cannot be written.
    pub async fn resume_stuck(
        &self,
        id: RunId,
        entries: Vec<(Event, Value)>,
        state: RunState,
        now: WallTime,
    ) -> Result<Option<RunState>, StoreError> {
        self.write(move |c| {
            let run = read_run(c, id)?.ok_or_else(|| StoreError::Missing(format!("job {id}")))?;
            if run.state != RunState::Stuck {
                return Ok(Some(run.state));
            }
            for (event, payload) in &entries {
                journal::append(c, id, "", "", *event, payload, now)?;
            }
            repetition::forget_all(c, id)?;
            repetition::set_spent(c, id, Duration::ZERO)?;
            set_state(c, id, state, now)?;
            Ok(None)
        })
        .await
    }

    /// Notes that somebody asked a run to stop; `decided` is journalled, once. A queued run is cancelled
    /// at once.
    ///
    /// # Errors
    /// `Missing` when there is no such run, `Refused` when it is over.
    pub async fn request_cancel(
        &self,
        id: RunId,
        decided: Value,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let run = read_run(c, id)?.ok_or_else(|| StoreError::Missing(format!("job {id}")))?;
            if run.state.is_terminal() {
                return Err(StoreError::Refused(format!(
                    "job {id} is over already: {}",
                    run.state.as_str()
                )));
            }
            if !run.cancel_requested {
                journal::append(c, id, "", "", Event::Decided, &decided, now)?;
            }
            c.execute_cached("UPDATE run SET cancel_requested = 1 WHERE id = ?1", [id.0])?;
            if run.state == RunState::Queued {
                set_state(c, id, RunState::Cancelled, now)?;
            }
            Ok(())
        })
        .await
    }

    /// One run.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn run(&self, id: RunId) -> Result<Option<RunRow>, StoreError> {
        self.read(move |c| read_run(c, id)).await
    }

    /// The states of these runs, and of all runs after `after`, by number: without their documents.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn run_states(
        &self,
        these: Vec<RunId>,
        after: RunId,
    ) -> Result<BTreeMap<RunId, RunState>, StoreError> {
        let state = |id: i64, text: String| match RunState::parse(&text) {
            Some(state) => Ok((RunId(id), state)),
            None => Err(StoreError::Refused(format!("unknown run state {text:?}"))),
        };
        self.read(move |c| {
            let mut found = BTreeMap::new();
            let mut one = c.prepare_cached("SELECT state FROM run WHERE id = ?1")?;
            for id in these {
                if let Some(text) = one.query_row([id.0], |r| r.get(0)).optional()? {
                    found.extend([state(id.0, text)?]);
                }
            }
            let mut later = c.prepare_cached("SELECT id, state FROM run WHERE id > ?1")?;
            let mut rows = later.query([after.0])?;
            while let Some(r) = rows.next()? {
                found.extend([state(r.get(0)?, r.get(1)?)?]);
            }
            Ok(found)
        })
        .await
    }

    /// Queued runs in the order in which they should start.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn queued_runs(&self, limit: u32) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |c| {
            select(c, "WHERE state = 'queued' ORDER BY priority, id LIMIT ?1", [limit])
        })
        .await
    }

    /// Queued runs of these priorities that are not known to wait for a lock, in the order in which
    /// they should start.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn ready_runs(
        &self,
        priorities: RangeInclusive<u8>,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |c| {
            let ready = "WHERE state = 'queued' AND waiting_for_job IS NULL
                         AND priority BETWEEN ?1 AND ?2 ORDER BY priority, id LIMIT ?3";
            select(c, ready, (priorities.start(), priorities.end(), limit))
        })
        .await
    }

    /// The same, the longest waiting first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn oldest_ready_runs(&self, limit: u32) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |c| {
            let ready = "WHERE state = 'queued' AND waiting_for_job IS NULL ORDER BY id LIMIT ?1";
            select(c, ready, [limit])
        })
        .await
    }

    /// Runs that have started and are not over, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn unfinished_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read(|c| select(c, "WHERE state IN ('running', 'undoing', 'stuck') ORDER BY id", []))
            .await
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn recent_runs(
        &self,
        state: Option<RunState>,
        item: Option<ItemId>,
        workflow: Option<&'static str>,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |c| {
            // Only what is asked for: with a condition that may be absent no index is used, and a
            // catalogue has millions of runs.
            let wanted: [(&str, Option<Sql>); 3] = [
                ("state = ?", state.map(|state| state.as_str().to_owned().into())),
                ("item_id = ?", item.map(|item| item.0.into())),
                ("workflow = ?", workflow.map(|workflow| workflow.to_owned().into())),
            ];
            let wanted: Vec<(&str, Sql)> =
                wanted.into_iter().filter_map(|(column, value)| Some((column, value?))).collect();
            let conditions: Vec<&str> = wanted.iter().map(|(condition, _)| *condition).collect();
            let filter = match conditions.is_empty() {
                true => String::new(),
                false => format!("WHERE {}", conditions.join(" AND ")),
            };
            let values = wanted.into_iter().map(|(_, value)| value).chain([limit.into()]);
            let newest = format!("{filter} ORDER BY id DESC LIMIT ?");
            select(c, &newest, rusqlite::params_from_iter(values))
        })
        .await
    }

    /// The newest runs of a workflow for any of the items, in any of the states (none given: in all),
    /// newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn runs_of(
        &self,
        workflow: &'static str,
        states: Vec<RunState>,
        items: BTreeSet<ItemId>,
        limit: u32,
    ) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |c| {
            let states: Vec<&str> = states.iter().map(|s| s.as_str()).collect();
            let items: Vec<i64> = items.iter().map(|i| i.0).collect();
            select(
                c,
                "WHERE workflow = ?1 AND (?2 = '[]' OR state IN (SELECT value FROM json_each(?2)))
                   AND item_id IN (SELECT value FROM json_each(?3)) ORDER BY id DESC LIMIT ?4",
                (workflow, to_json(&states), to_json(&items), limit),
            )
        })
        .await
    }

    /// The runs that a run has started, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn children_of(&self, parent: RunId) -> Result<Vec<RunRow>, StoreError> {
        self.read(move |c| select(c, "WHERE parent_run_id = ?1 ORDER BY id", [parent.0])).await
    }

    /// The newest run of a workflow for an item, and where it stands.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn latest_run(
        &self,
        item: ItemId,
        workflow: &'static str,
    ) -> Result<Option<(RunId, RunState)>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT id, state FROM run WHERE item_id = ?1 AND workflow = ?2
                 ORDER BY id DESC LIMIT 1",
            )?;
            let row = s
                .query_row((item.0, workflow), |r| Ok((r.get(0)?, r.get::<_, String>(1)?)))
                .optional()?;
            row.map(|(id, state)| match RunState::parse(&state) {
                Some(state) => Ok((RunId(id), state)),
                None => Err(StoreError::Refused(format!("unknown run state {state:?}"))),
            })
            .transpose()
        })
        .await
    }

    /// When a run of a workflow for an item was last asked for, not after `now`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn last_asked_for(
        &self,
        item: ItemId,
        workflow: &'static str,
        now: WallTime,
    ) -> Result<Option<WallTime>, StoreError> {
        self.read(move |c| {
            let at: Option<i64> = c.query_row_cached(
                "SELECT max(created_ms) FROM run
                 WHERE item_id = ?1 AND workflow = ?2 AND created_ms <= ?3",
                (item.0, workflow, now.unix_ms()),
                |r| r.get(0),
            )?;
            Ok(at.map(WallTime::from_unix_ms))
        })
        .await
    }

    /// Runs of a workflow that are not over: what each is about, and where it stands.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn unfinished_of(
        &self,
        workflow: &'static str,
    ) -> Result<Vec<(Option<ItemId>, RunState)>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT item_id, state FROM run
                 WHERE state IN ('queued', 'running', 'undoing', 'stuck') AND workflow = ?1",
            )?;
            let rows = s.query_map([workflow], |r| {
                Ok((r.get::<_, Option<i64>>(0)?.map(ItemId), r.get::<_, String>(1)?))
            })?;
            rows.map(|row| {
                let (item, state) = row?;
                match RunState::parse(&state) {
                    Some(state) => Ok((item, state)),
                    None => Err(StoreError::Refused(format!("unknown run state {state:?}"))),
                }
            })
            .collect()
        })
        .await
    }

    /// The newest runs of a workflow for an item that are over, newest first, at most 100.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn attempts(
        &self,
        item: ItemId,
        workflow: &'static str,
    ) -> Result<Vec<Attempt>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached(
                "SELECT created_ms, finished_ms, state = 'succeeded' FROM run
                 WHERE item_id = ?1 AND workflow = ?2 AND finished_ms IS NOT NULL
                 ORDER BY id DESC LIMIT 100",
            )?;
            let rows = s.query_map((item.0, workflow), |r| {
                Ok(Attempt {
                    begun: WallTime::from_unix_ms(r.get(0)?),
                    ended: WallTime::from_unix_ms(r.get(1)?),
                    passed: r.get(2)?,
                })
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// How many runs are in each state of each workflow.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn run_counts(&self) -> Result<Vec<(String, String, u64)>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(
                "SELECT workflow, state, count(*) FROM run GROUP BY workflow, state",
            )?;
            let rows =
                s.query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, i64>(2)? as u64)))?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }
}

fn check_queue(c: &Connection, limit: QueueLimit) -> Result<(), StoreError> {
    let all: u32 = c.query_row_cached("SELECT n FROM queue_length", [], |r| r.get(0))?;
    if all < limit.most {
        return Ok(());
    }
    // Only a full queue is counted.
    let queued: u32 = c.query_row_cached(
        "SELECT count(*) FROM run WHERE state = 'queued' AND priority <= ?1",
        [limit.counted_to],
        |r| r.get(0),
    )?;
    if queued < limit.most { Ok(()) } else { Err(StoreError::QueueFull { queued }) }
}

fn set_waiting(
    c: &Connection,
    id: RunId,
    holder: RunId,
    need: &LockNeed,
) -> Result<(), StoreError> {
    c.prepare_cached(
        "UPDATE run SET waiting_for = ?2, waiting_for_job = ?3 WHERE id = ?1 AND state = 'queued'",
    )?
    .execute((id.0, format!("job {holder} on {}", need.words), holder.0))?;
    Ok(())
}

pub(super) fn insert_run(c: &Connection, run: &NewRun, now: WallTime) -> Result<RunId, StoreError> {
    c.prepare_cached(
        "INSERT INTO run (workflow, version, input_json, state, priority, item_id, parent_run_id,
           requested_by, created_ms) VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute((
        &run.workflow,
        run.version,
        to_json(&run.input),
        run.priority,
        run.item.map(|i| i.0),
        run.parent.map(|p| p.0),
        &run.requested_by,
        now.unix_ms(),
    ))?;
    Ok(RunId(c.last_insert_rowid()))
}

/// A queued run that will do the same, whoever asked for it.
pub(super) fn queued_equal(c: &Connection, run: &NewRun) -> Result<Option<RunId>, StoreError> {
    let id = c
        .prepare_cached(
            "SELECT id FROM run WHERE state = 'queued' AND item_id IS ?1 AND workflow = ?2
               AND version = ?3 AND input_json = ?4 AND parent_run_id IS ?5 ORDER BY id LIMIT 1",
        )?
        .query_row(
            (
                run.item.map(|i| i.0),
                &run.workflow,
                run.version,
                to_json(&run.input),
                run.parent.map(|p| p.0),
            ),
            |r| r.get(0),
        )
        .optional()?;
    Ok(id.map(RunId))
}

/// Refuses when a run is not in this state.
pub(super) fn check_state(c: &Connection, id: RunId, wanted: RunState) -> Result<(), StoreError> {
    let run = read_run(c, id)?.ok_or_else(|| StoreError::Missing(format!("job {id}")))?;
    if run.state == wanted {
        return Ok(());
    }
    let (is, wanted) = (run.state.as_str(), wanted.as_str());
    Err(StoreError::Refused(format!("job {id} is {is} by now, not {wanted} any more")))
}

/// The new state, with all that follows from it: every state is written here.
pub(super) fn set_state(
    c: &Connection,
    id: RunId,
    state: RunState,
    now: WallTime,
) -> Result<(), StoreError> {
    let finished = state.is_terminal().then(|| now.unix_ms());
    c.prepare_cached(
        "UPDATE run SET state = ?2, finished_ms = ?3, waiting_for = NULL, waiting_for_job = NULL
         WHERE id = ?1",
    )?
    .execute((id.0, state.as_str(), finished))?;
    if state.is_terminal() {
        repetition::forget_all(c, id)?;
        // Those behind its locks are looked at again.
        c.prepare_cached("UPDATE run SET waiting_for_job = NULL WHERE waiting_for_job = ?1")?
            .execute([id.0])?;
        c.execute_cached("DELETE FROM lock WHERE run_id = ?1", [id.0])?;
        c.execute_cached("DELETE FROM lease WHERE run_id = ?1", [id.0])?;
        c.execute_cached("DELETE FROM expected_instance WHERE run_id = ?1", [id.0])?;
    }
    alerts::of_state(c, id, state, now)
}

const SELECT: &str = "SELECT id, workflow, version, input_json, state, item_id, requested_by,
  created_ms, started_ms, finished_ms, cancel_requested, waiting_for, error_json, result_json,
  priority, waiting_for_job, parent_run_id, spent_ms FROM run ";

fn read_run(c: &Connection, id: RunId) -> Result<Option<RunRow>, StoreError> {
    Ok(select(c, "WHERE id = ?1", [id.0])?.pop())
}

fn select<P: rusqlite::Params>(
    c: &Connection,
    filter: &str,
    params: P,
) -> Result<Vec<RunRow>, StoreError> {
    let mut statement = c.prepare_cached(&format!("{SELECT}{filter}"))?;
    let rows = statement.query_map(params, |r| Ok(run_row(r)))?;
    rows.map(|r| r.map_err(StoreError::from).and_then(|r| r)).collect()
}

fn run_row(r: &Row<'_>) -> Result<RunRow, StoreError> {
    let document = |column: usize| -> Result<Option<Value>, StoreError> {
        r.get::<_, Option<String>>(column)?
            .map(|t| serde_json::from_str(&t).map_err(StoreError::corrupt("run document")))
            .transpose()
    };
    let time = |column: usize| -> Result<Option<WallTime>, StoreError> {
        Ok(r.get::<_, Option<i64>>(column)?.map(WallTime::from_unix_ms))
    };
    let state: String = r.get(4)?;
    Ok(RunRow {
        id: RunId(r.get(0)?),
        workflow: r.get(1)?,
        version: r.get(2)?,
        input: document(3)?.unwrap_or(Value::Null),
        state: RunState::parse(&state)
            .ok_or_else(|| StoreError::Refused(format!("unknown run state {state:?}")))?,
        item: r.get::<_, Option<i64>>(5)?.map(ItemId),
        requested_by: r.get(6)?,
        created: WallTime::from_unix_ms(r.get(7)?),
        started: time(8)?,
        finished: time(9)?,
        cancel_requested: r.get(10)?,
        waiting_for: r.get(11)?,
        error: document(12)?,
        result: document(13)?,
        priority: r.get(14)?,
        waiting_for_job: r.get::<_, Option<i64>>(15)?.map(RunId),
        parent: r.get::<_, Option<i64>>(16)?.map(RunId),
        spent: Duration::from_millis(r.get::<_, i64>(17)?.unsigned_abs()),
    })
}
