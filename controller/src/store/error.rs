//! What can go wrong with the store.

use thiserror::Error;

/// Why a read or write did not happen. A failed write changed nothing.
#[derive(Debug, Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the database answered an error")]
    Sqlite(#[from] rusqlite::Error),
    /// The commit that several writes shared failed.
    #[error("the commit failed: {0}")]
    Commit(String),
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date: {0}")]
    Migration(String),
    /// A stored document cannot be read.
    #[error("a stored {what} cannot be read")]
    Corrupt {
        /// What it should have been.
        what: &'static str,
        /// Why it is not.
        #[source]
        source: serde_json::Error,
    },
    /// The row that was to be changed is not there.
    #[error("there is no {0}")]
    Missing(String),
    /// The change is refused by a rule of the catalogue.
    #[error("{0}")]
    Refused(String),
    /// Too many runs wait already.
    #[error("{queued} jobs are queued already; no more are taken before some have started")]
    QueueFull {
        /// So many.
        queued: u32,
    },
    /// The disk is full, failing or read-only. Nothing is lost; it passes when the cause does.
    #[error("the database cannot be written: {0}")]
    Unwritable(String),
    /// A newer controller has opened the database: this one must stop.
    #[error("a newer controller has opened the database (epoch {newest}, ours is {ours})")]
    Fenced {
        /// Of the handle that was refused.
        ours: i64,
        /// In the database.
        newest: i64,
    },
    /// The store has shut down.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// The same failure once more, for another caller that shared the commit.
    pub(super) fn duplicate(&self) -> Self {
        match self {
            Self::Unwritable(words) => Self::Unwritable(words.clone()),
            Self::Sqlite(e) => Self::Commit(e.to_string()),
            other => Self::Commit(other.to_string()),
        }
    }

    /// Wraps a document's parse error.
    pub(super) fn corrupt(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Corrupt { what, source }
    }
}

/// Writes a document for a `_json` column.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("our documents have string keys and no failing Serialize")
}
