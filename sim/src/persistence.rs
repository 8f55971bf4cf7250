//! The journal: every change, before it is answered.
//!
//! A state directory holds `facts.json` (what never changes), `state.json` (a checkpoint) and
//! `journal.{n}.jsonl` (one line per request that changed something since). Opening replays the
//! journal, writes a new checkpoint and begins a new journal. A torn last line was never answered
//! and is dropped.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::config::Durability;
use crate::world::{Change, Facts, State};

/// The state directory cannot be used.
#[derive(Debug, Error)]
pub enum PersistenceError {
    /// Reading or writing failed.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("cannot understand {path}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another process uses the directory.
    #[error("{path} is in use by another simulator")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> PersistenceError {
    let path = path.to_owned();
    move |source| PersistenceError::Io { path, source }
}

fn format(path: &Path) -> impl FnOnce(serde_json::Error) -> PersistenceError {
    let path = path.to_owned();
    move |source| PersistenceError::Format { path, source }
}

#[derive(Serialize, Deserialize)]
struct Checkpoint {
    journal: u64,
    changes: Vec<Change>,
}

/// Appends changes and makes them durable, many at a time.
#[derive(Debug)]
pub(crate) struct Journal {
    durability: Durability,
    path: PathBuf,
    appender: Mutex<Appender>,
    synced: Mutex<u64>,
    /// Held for as long as the directory is in use.
    _lock: File,
}

#[derive(Debug)]
struct Appender {
    file: File,
    appended: u64,
}

impl Journal {
    /// Appends the changes of one request and returns a ticket for [`sync`](Self::sync). Call it in
    /// the order of the changes.
    pub(crate) fn append(&self, changes: &[Change]) -> Result<u64, PersistenceError> {
        let mut appender = self.appender.lock().expect("no code panics while holding this lock");
        if !changes.is_empty() {
            let mut line = serde_json::to_vec(changes).map_err(format(&self.path))?;
            line.push(b'\n');
            appender.file.write_all(&line).map_err(at(&self.path))?;
            appender.appended += 1;
        }
        Ok(appender.appended)
    }

    /// Returns once everything up to the ticket is on the disk. Callers at the same time share one
    /// flush.
    pub(crate) fn sync(&self, ticket: u64) -> Result<(), PersistenceError> {
        if self.durability != Durability::Fsync {
            return Ok(());
        }
        let mut synced = self.synced.lock().expect("no code panics while holding this lock");
        if *synced >= ticket {
            return Ok(());
        }
        let (file, upto) = {
            let appender = self.appender.lock().expect("no code panics while holding this lock");
            (appender.file.try_clone().map_err(at(&self.path))?, appender.appended)
        };
        file.sync_data().map_err(at(&self.path))?;
        *synced = upto;
        Ok(())
    }
}

/// Writes the first state of a new directory.
pub(crate) fn create(dir: &Path, state: &mut State) -> Result<(), PersistenceError> {
    let facts = dir.join("facts.json");
    let bytes = serde_json::to_vec_pretty(&state.facts).map_err(format(&facts))?;
    write_durably(&facts, &bytes)?;
    checkpoint(dir, 0, state)
}

fn checkpoint(dir: &Path, journal: u64, state: &mut State) -> Result<(), PersistenceError> {
    let path = dir.join("state.json");
    let changes = state.all_as_changes();
    let bytes = serde_json::to_vec(&Checkpoint { journal, changes }).map_err(format(&path))?;
    write_durably(&path, &bytes)
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), PersistenceError> {
    let new = path.with_extension("new");
    let mut file = File::create(&new).map_err(at(&new))?;
    file.write_all(bytes).map_err(at(&new))?;
    file.sync_all().map_err(at(&new))?;
    std::fs::rename(&new, path).map_err(at(path))?;
    sync_dir(path.parent().unwrap_or(path))
}

pub(crate) fn sync_dir(dir: &Path) -> Result<(), PersistenceError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(at(dir))
}

fn journal_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("journal.{number}.jsonl"))
}

/// Reads the state without changing the directory.
pub(crate) fn read(dir: &Path) -> Result<(State, u64), PersistenceError> {
    let path = dir.join("facts.json");
    let bytes = std::fs::read(&path).map_err(at(&path))?;
    let facts: Facts = serde_json::from_slice(&bytes).map_err(format(&path))?;
    let mut state = State::new(facts);
    let path = dir.join("state.json");
    let bytes = std::fs::read(&path).map_err(at(&path))?;
    let checkpoint: Checkpoint = serde_json::from_slice(&bytes).map_err(format(&path))?;
    for change in &checkpoint.changes {
        state.apply(change).map_err(format(&path))?;
    }
    let path = journal_path(dir, checkpoint.journal);
    match File::open(&path) {
        Ok(file) => replay(&mut state, file, &path)?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(at(&path)(e)),
    }
    state.derive();
    Ok((state, checkpoint.journal))
}

fn replay(state: &mut State, file: File, path: &Path) -> Result<(), PersistenceError> {
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(at(path))?;
        if read == 0 || line.last() != Some(&b'\n') {
            return Ok(());
        }
        let changes: Vec<Change> = serde_json::from_slice(&line).map_err(format(path))?;
        for change in &changes {
            state.apply(change).map_err(format(path))?;
        }
    }
}

/// Takes the directory for this process, reads the state and begins a new journal.
pub(crate) fn open(
    dir: &Path,
    durability: Durability,
) -> Result<(State, Journal), PersistenceError> {
    let path = dir.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(at(&path))?;
    if lock.try_lock().is_err() {
        return Err(PersistenceError::InUse { path });
    }
    let (mut state, old) = read(dir)?;
    let number = old + 1;
    let path = journal_path(dir, number);
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .map_err(at(&path))?;
    checkpoint(dir, number, &mut state)?;
    let stale = journal_path(dir, old);
    match std::fs::remove_file(&stale) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&stale)(e)),
        _ => {}
    }
    let appender = Mutex::new(Appender { file, appended: 0 });
    Ok((state, Journal { durability, path, appender, synced: Mutex::new(0), _lock: lock }))
}
