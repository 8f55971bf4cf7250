//! The store: one SQLite database that holds the catalogue, the journal, and all coordination state.
//!
//! One connection writes. Writes are queued, and whatever waits is committed together (group
//! commit); a caller gets its answer after the commit, and `synchronous=FULL` makes that mean "on
//! disk" (I9). Each queued write is its own savepoint: one that fails takes nothing of the others
//! with it. Reads use connections of their own.
//!
//! Writes run on tokio's blocking pool in production and inline in simulation
//! ([`Executor`]); never on a bare thread, which would break paused time.
//!
//! Nothing here knows Azure or the workflows: rows in, rows out.

mod agents;
pub mod change;
mod deletion_hold;
mod error;
mod items;
mod journal;
mod pins;
mod points;
mod progress;
mod rebuild;
mod residue;
mod runs;
mod stamp;

pub use agents::{AgentCertificate, CertificateScope, ExpectedInstance, OperatorRow};
pub use change::CatalogueChange;
pub use deletion_hold::DeletionHold;
pub use error::StoreError;
pub use items::{Item, ItemId, PolicyRow};
pub use journal::{Event, JournalEntry};
pub use pins::StalePins;
pub use points::{DrillRow, PointRow, ProofRow, ReplicaRow, ReplicaState, SnapshotRow};
pub use progress::Progress;
pub use rebuild::{Rebuild, RebuiltItem, RebuiltPoint, RebuiltReplica};
pub use residue::{KeptDisk, REBUILD, Rebuilt};
pub use runs::{NewRun, RunId, RunRow, RunState};
pub use stamp::Stamp;

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

mod migrations {
    refinery::embed_migrations!("src/store/migrations");
}

/// At most this many writes share a commit.
const MAX_BATCH: usize = 256;
/// At most this many writes wait; further callers wait to be let in.
const QUEUE: usize = 4096;
/// Reading connections kept open.
const READERS: usize = 8;

/// Where blocking work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Executor {
    /// tokio's blocking pool.
    BlockingPool,
    /// The calling task: deterministic, for simulation.
    Inline,
}

/// A queued write: runs inside a savepoint, then answers after the commit.
type Write = Box<dyn FnOnce(&Connection) -> Answer + Send>;
/// Sends the caller its answer; the argument is the commit's failure, if any.
type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    executor: Executor,
    queue: mpsc::Sender<Write>,
    /// The writing connection, used directly when inline.
    writer: Arc<Mutex<Connection>>,
    readers: Mutex<Vec<Connection>>,
    path: std::path::PathBuf,
}

impl Store {
    /// Opens (or creates) the database and brings its schema up to date.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be opened, another process has it (a second controller), or a migration
    /// fails; the database is then as it was.
    pub fn open(path: &Path, executor: Executor) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        configure(&connection)?;
        // Held for the life of the process: two controllers on one database would both recover the
        // same runs.
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migrations::migrations::runner()
            .run(&mut connection)
            .map_err(|e| StoreError::Migration(e.to_string()))?;
        let writer = Arc::new(Mutex::new(connection));
        let (queue, waiting) = mpsc::channel(QUEUE);
        if executor == Executor::BlockingPool {
            tokio::spawn(write_loop(waiting, writer.clone()));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                executor,
                queue,
                writer,
                readers: Mutex::new(Vec::new()),
                path: path.to_owned(),
            }),
        })
    }

    /// Whether writes are still taken. They are not after one has panicked.
    pub fn is_open(&self) -> bool {
        self.inner.executor == Executor::Inline || !self.inner.queue.is_closed()
    }

    /// Runs `f` in a transaction and answers after its commit. `f` failing rolls back what it did.
    ///
    /// # Errors
    /// What `f` returns, or why the commit failed; then nothing of it happened.
    pub async fn write<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let (send, receive) = oneshot::channel();
        let write: Write = Box::new(move |connection| {
            let result = in_savepoint(connection, f);
            Box::new(move |commit_failure| {
                let answer = match (result, commit_failure) {
                    (Err(e), _) => Err(e),
                    (Ok(_), Some(e)) => Err(e.duplicate()),
                    (Ok(value), None) => Ok(value),
                };
                // The caller may have gone; what it asked for has been done all the same.
                let _ = send.send(answer);
            })
        });
        match self.inner.executor {
            Executor::Inline => commit_batch(&self.inner.writer, vec![write]),
            Executor::BlockingPool => {
                self.inner.queue.send(write).await.map_err(|_| StoreError::Closed)?;
            }
        }
        receive.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs `f` on a connection of its own, which sees everything committed so far.
    ///
    /// # Errors
    /// What `f` returns, or why no connection could be opened.
    pub async fn read<T, F>(&self, f: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let inner = self.inner.clone();
        let work = move || {
            let connection = inner.reader()?;
            let result = f(&connection);
            let mut readers = inner.readers.lock().expect("readers are only pushed and popped");
            if readers.len() < READERS {
                readers.push(connection);
            }
            result
        };
        match self.inner.executor {
            Executor::Inline => work(),
            Executor::BlockingPool => {
                tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
            }
        }
    }
}

impl Inner {
    fn reader(&self) -> Result<Connection, StoreError> {
        if let Some(c) = self.readers.lock().expect("readers are only pushed and popped").pop() {
            return Ok(c);
        }
        let connection = Connection::open(&self.path)?;
        configure(&connection)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(connection)
    }
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(())
}

async fn write_loop(mut waiting: mpsc::Receiver<Write>, writer: Arc<Mutex<Connection>>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let work = std::mem::take(&mut batch);
        let writer = writer.clone();
        // A panic in one write poisons the lock and is seen by every later caller as `Closed`.
        if tokio::task::spawn_blocking(move || commit_batch(&writer, work)).await.is_err() {
            tracing::error!("a write to the store panicked; the store is closed");
            return;
        }
    }
}

fn commit_batch(writer: &Mutex<Connection>, batch: Vec<Write>) {
    let mut connection = writer.lock().expect("a panicking write closes the store");
    let outcome = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(StoreError::from)
        .map(|transaction| {
            let answers: Vec<Answer> = batch.into_iter().map(|w| w(&transaction)).collect();
            let failure = transaction.commit().err().map(StoreError::from);
            for answer in answers {
                answer(failure.as_ref());
            }
        });
    if let Err(e) = outcome {
        // BEGIN failed: the writes were dropped unanswered, which their callers see as `Closed`.
        tracing::error!(error = %e, "the store could not begin a transaction");
    }
}

fn in_savepoint<T>(
    connection: &Connection,
    f: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    connection.execute_batch("SAVEPOINT one_write")?;
    match f(connection) {
        Ok(value) => {
            connection.execute_batch("RELEASE one_write")?;
            Ok(value)
        }
        Err(e) => {
            connection.execute_batch("ROLLBACK TO one_write; RELEASE one_write")?;
            Err(e)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir, executor: Executor) -> Store {
        Store::open(&dir.path().join("azdr.db"), executor).unwrap()
    }

    async fn count(store: &Store) -> i64 {
        store
            .read(|c| Ok(c.query_row("SELECT count(*) FROM operator", [], |r| r.get(0))?))
            .await
            .unwrap()
    }

    fn insert(name: String) -> impl FnOnce(&Connection) -> Result<(), StoreError> + Send {
        move |c| {
            c.execute("INSERT INTO operator VALUES (?1, 'viewer', 'serial', 0, NULL)", [name])?;
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_failing_write_takes_nothing_of_its_neighbours_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, Executor::BlockingPool);
        let writes = (0..100).map(|i| {
            let store = store.clone();
            // Every fifth name is taken already.
            tokio::spawn(async move { store.write(insert(format!("o{}", i % 80))).await })
        });
        let mut refused = 0;
        for write in writes.collect::<Vec<_>>() {
            refused += usize::from(write.await.unwrap().is_err());
        }
        assert_eq!(refused, 20);
        assert_eq!(count(&store).await, 80);
    }

    #[tokio::test]
    async fn what_was_answered_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        for executor in [Executor::BlockingPool, Executor::Inline] {
            let store = open(&dir, executor);
            let before = count(&store).await;
            store.write(insert(format!("{executor:?}"))).await.unwrap();
            drop(store);
            assert_eq!(count(&open(&dir, Executor::Inline)).await, before + 1);
        }
    }
}
