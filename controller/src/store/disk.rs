//! Whether the database can be written: a full disk, a lost one, a read-only one.
//!
//! SQLite answers such trouble to whichever statement meets it, and may roll back the whole
//! transaction. It is remembered until a write succeeds again, for `/readyz` and for people.

use std::sync::Mutex;

use rusqlite::ErrorCode;

use super::cached::Cached;
use super::{Store, StoreError};

/// What is in the way of writing, in words.
#[derive(Default)]
pub(super) struct Trouble(Mutex<Option<String>>);

impl Trouble {
    pub(super) fn set(&self, now: Option<String>) {
        let mut known = self.0.lock().expect("nothing panics while it is held");
        match (&*known, &now) {
            (None, Some(words)) => tracing::error!(words, "the database cannot be written"),
            (Some(_), None) => tracing::warn!("the database can be written again"),
            _ => {}
        }
        *known = now;
    }
}

impl Store {
    /// Why the last write failed, if the disk was to blame.
    pub fn trouble(&self) -> Option<String> {
        self.inner.sink.trouble.0.lock().expect("nothing panics while it is held").clone()
    }

    /// Tries to write: room for some pages, given back at once.
    ///
    /// # Errors
    /// `Unwritable` in words.
    pub async fn check_writable(&self) -> Result<(), StoreError> {
        self.write(|c| {
            c.execute_cached("INSERT INTO write_probe VALUES (zeroblob(32768))", [])?;
            c.execute_cached("DELETE FROM write_probe", [])?;
            Ok(())
        })
        .await
    }
}

/// The words for trouble with the disk; `None` for any other failure.
pub(super) fn words(e: &StoreError) -> Option<String> {
    match e {
        StoreError::Sqlite(cause) => {
            let what = match cause.sqlite_error_code()? {
                ErrorCode::DiskFull => "its disk is full",
                ErrorCode::ReadOnly => "it is read-only",
                ErrorCode::SystemIoFailure => "its disk fails",
                ErrorCode::CannotOpen => "its files cannot be opened",
                ErrorCode::PermissionDenied => "its files may not be written",
                _ => return None,
            };
            Some(format!("{what} ({cause})"))
        }
        StoreError::Unwritable(words) => Some(words.clone()),
        _ => None,
    }
}
