//! What every run has begun, finished and undone.

use azdr_env::WallTime;
use rusqlite::Connection;
use serde_json::Value;

use super::error::to_json;
use super::{RunId, Store, StoreError};

/// What happened to a step (or to one item of an `each`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The list that an `each` goes over; payload: the items.
    Items,
    /// Its effect may have happened from here on; payload: facts fixed before it, such as a hold's
    /// operation id or a child's run id.
    Started,
    /// Something to resume from, such as the handle of a long Azure operation; payload: that.
    Checkpoint,
    /// It is done; payload: its output.
    Done,
    /// It failed for good; payload: why.
    Failed,
    /// Its undo has begun.
    UndoStarted,
    /// It is undone.
    Undone,
    /// The run turned back; payload: why. The step is empty.
    TurnedBack,
    /// A person decided about a stuck run; payload: what, who, why. The step is empty.
    Decided,
}

impl Event {
    /// As written to the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Started => "started",
            Self::Checkpoint => "checkpoint",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::UndoStarted => "undo_started",
            Self::Undone => "undone",
            Self::TurnedBack => "turned_back",
            Self::Decided => "decided",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Self::Items,
            Self::Started,
            Self::Checkpoint,
            Self::Done,
            Self::Failed,
            Self::UndoStarted,
            Self::Undone,
            Self::TurnedBack,
            Self::Decided,
        ]
        .into_iter()
        .find(|e| e.as_str() == text)
    }
}

/// A journal entry.
#[derive(Clone, Debug)]
pub struct JournalEntry {
    /// When.
    pub at: WallTime,
    /// Which step; empty for the run itself.
    pub step: String,
    /// Which item of an `each`; else empty.
    pub item: String,
    /// What happened.
    pub event: Event,
    /// What is to be remembered with it.
    pub payload: Value,
}

impl Store {
    /// A run's journal, in order.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn journal(&self, id: RunId) -> Result<Vec<JournalEntry>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(
                "SELECT at_ms, step, item, event, payload_json FROM journal
                 WHERE run_id = ?1 ORDER BY seq",
            )?;
            let mut rows = statement.query([id.0])?;
            let mut entries = Vec::new();
            while let Some(r) = rows.next()? {
                let event: String = r.get(3)?;
                let payload: String = r.get(4)?;
                entries.push(JournalEntry {
                    at: WallTime::from_unix_ms(r.get(0)?),
                    step: r.get(1)?,
                    item: r.get(2)?,
                    event: Event::parse(&event).ok_or_else(|| {
                        StoreError::Refused(format!("unknown journal event {event:?}"))
                    })?,
                    payload: serde_json::from_str(&payload)
                        .map_err(StoreError::corrupt("journal payload"))?,
                });
            }
            Ok(entries)
        })
        .await
    }
}

pub(super) fn append(
    c: &Connection,
    run: RunId,
    step: &str,
    item: &str,
    event: Event,
    payload: &Value,
    now: WallTime,
) -> Result<(), StoreError> {
    // Only the last of these counts: a step that is tried for days leaves one of each.
    if matches!(event, Event::Checkpoint | Event::Failed) {
        c.prepare_cached(
            "DELETE FROM journal WHERE run_id = ?1 AND step = ?2 AND item = ?3 AND event = ?4",
        )?
        .execute((run.0, step, item, event.as_str()))?;
    }
    // One row of values: a SELECT as the source would be copied to a table of its own first.
    c.prepare_cached(
        "INSERT INTO journal
         VALUES (?1, 1 + coalesce((SELECT max(seq) FROM journal WHERE run_id = ?1), 0),
                 ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute((run.0, now.unix_ms(), step, item, event.as_str(), to_json(payload)))?;
    Ok(())
}
