//! The store: one SQLite database that holds the catalogue, the journal, and all coordination state.
//!
//! One connection writes. Writes are queued, and whatever waits is committed together (group
//! commit); a caller gets its answer after the commit, and `synchronous=FULL` makes that mean "on
//! disk" (I9). Each of several writes is its own savepoint: one that fails takes nothing of the others
//! with it. Reads use connections of their own, or inline the writing one.
//!
//! Writes run on tokio's blocking pool in production and inline in simulation
//! ([`Executor`]); never on a bare thread, which would break paused time.
//!
//! Nothing here knows Azure or the workflows: rows in, rows out.

mod agents;
mod alerts;
mod approvals;
mod cached;
pub mod change;
mod content;
mod deletion_hold;
mod disk;
mod error;
mod fence;
mod fleet_status;
mod items;
mod journal;
mod missing;
mod operators;
mod pins;
mod points;
mod policies;
mod preflights;
mod progress;
mod rebuild;
mod repetition;
mod residue;
mod runs;
mod stamp;
mod standing;

pub use agents::{AgentCertificate, CertificateScope, ExpectedInstance};
pub use alerts::{AlertFilter, AlertRow, Closing};
pub use approvals::Approval;
pub use change::CatalogueChange;
pub use content::ContentRow;
pub use deletion_hold::DeletionHold;
pub use error::StoreError;
pub use fleet_status::{FleetRow, OpenRuns};
pub use items::{Item, ItemId};
pub use journal::{Event, JournalEntry};
pub use missing::CataloguedSnapshot;
pub use operators::{OperatorCertificateRow, OperatorRow};
pub use pins::StalePins;
pub use points::{
    DrillRow, PointAttempts, PointRow, ProofRow, ReplicaRow, ReplicaState, SnapshotRow,
};
pub use policies::{NOT_WRITTEN_YET, PolicyRow, TagDrift, VmSeen};
pub use preflights::Preflight;
pub use progress::{Entry, Progress};
pub use rebuild::{Rebuild, RebuiltItem, RebuiltKept, RebuiltPoint, RebuiltReplica};
pub use repetition::Repetition;
pub use residue::{KeptDisk, REBUILD, Rebuilt};
pub use runs::{LockNeed, MAX_QUEUED, NewRun, QueueLimit, RunId, RunRow, RunState};
pub use stamp::Stamp;
pub use standing::{Attempted, Part, PointStanding};

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use disk::Trouble;
use futures::future::BoxFuture;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
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

/// A queued write: runs where it is told to, then answers after the commit. Without a transaction, it
/// only answers why.
type Write = Box<dyn FnOnce(Result<Place<'_>, &StoreError>) -> Written + Send>;
/// Where a write runs.
#[derive(Clone, Copy)]
struct Place<'a> {
    transaction: &'a Connection,
    /// Nobody else is in the transaction: when it fails, all of it is rolled back.
    alone: bool,
}
/// What has become of a write before the commit.
struct Written {
    answer: Answer,
    succeeded: bool,
    /// The disk is to blame.
    trouble: Option<String>,
}
/// Sends the caller its answer; the argument is the commit's failure, if any.
type Answer = Box<dyn FnOnce(Option<&StoreError>) + Send>;

/// The tests' seam around every write: a crash just before one, and one between the commit and its
/// answer, are a gate that does not let it pass (any more). In production there is none.
pub trait WriteGate: Send + Sync {
    /// Before a write; with an error it does not happen.
    fn before(&self) -> BoxFuture<'_, Result<(), StoreError>>;
    /// After its commit, before its caller learns of it; with an error the caller never does.
    fn after(&self) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// Where writes end.
#[derive(Clone)]
struct Sink {
    /// The writing connection.
    connection: Arc<Mutex<Connection>>,
    trouble: Arc<Trouble>,
    /// How many transactions were committed.
    commits: Arc<AtomicU64>,
}

/// A handle on the store; cheap to clone.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    /// Carried by every write, when the handle is a controller's.
    epoch: Option<i64>,
}

struct Inner {
    executor: Executor,
    gate: Option<Arc<dyn WriteGate>>,
    queue: mpsc::Sender<Write>,
    /// Used directly when inline.
    sink: Sink,
    readers: Mutex<Vec<Connection>>,
    path: std::path::PathBuf,
}

impl Store {
    /// Opens (or creates) the database and brings its schema up to date.
    ///
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the file cannot be opened or a migration fails; the database is then as it was. Another
    /// process that has it open is no error: [`take_over`](Self::take_over) decides who writes.
    pub fn open(path: &Path, executor: Executor) -> Result<Self, StoreError> {
        Self::open_gated(path, executor, None)
    }

    /// The same with a gate around every write, for tests.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        path: &Path,
        executor: Executor,
        gate: Arc<dyn WriteGate>,
    ) -> Result<Self, StoreError> {
        Self::open_gated(path, executor, Some(gate))
    }

    fn open_gated(
        path: &Path,
        executor: Executor,
        gate: Option<Arc<dyn WriteGate>>,
    ) -> Result<Self, StoreError> {
        let mut connection = Connection::open(path)?;
        configure(&connection)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        migrations::migrations::runner()
            .run(&mut connection)
            .map_err(|e| StoreError::Migration(e.to_string()))?;
        let sink = Sink {
            connection: Arc::new(Mutex::new(connection)),
            trouble: Arc::default(),
            commits: Arc::default(),
        };
        let (queue, waiting) = mpsc::channel(QUEUE);
        if executor == Executor::BlockingPool {
            tokio::spawn(write_loop(waiting, sink.clone()));
        }
        Ok(Self {
            inner: Arc::new(Inner {
                executor,
                gate,
                queue,
                sink,
                readers: Mutex::new(Vec::new()),
                path: path.to_owned(),
            }),
            epoch: None,
        })
    }

    /// A number that grows with every transaction of this handle and its clones: as long as it is the
    /// same, what was read before is still so. (Another controller that writes stops this one.)
    pub fn commits(&self) -> u64 {
        self.inner.sink.commits.load(Ordering::SeqCst)
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
        if let Some(gate) = &self.inner.gate {
            gate.before().await?;
        }
        let (send, receive) = oneshot::channel();
        let epoch = self.epoch;
        let write: Write = Box::new(move |transaction| {
            let result = match transaction {
                Ok(place) => in_place(place, |c| {
                    fence::check(c, epoch)?;
                    f(c)
                }),
                Err(e) => Err(e.duplicate()),
            };
            let trouble = result.as_ref().err().and_then(disk::words);
            let result = match &trouble {
                Some(words) => Err(StoreError::Unwritable(words.clone())),
                None => result,
            };
            let succeeded = result.is_ok();
            let answer: Answer = Box::new(move |commit_failure| {
                let answer = match (result, commit_failure) {
                    (Err(e), _) => Err(e),
                    (Ok(_), Some(e)) => Err(e.duplicate()),
                    (Ok(value), None) => Ok(value),
                };
                // The caller may have gone; what it asked for has been done all the same.
                let _ = send.send(answer);
            });
            Written { answer, succeeded, trouble }
        });
        match self.inner.executor {
            Executor::Inline => commit_batch(&self.inner.sink, vec![write]),
            Executor::BlockingPool => {
                self.inner.queue.send(write).await.map_err(|_| StoreError::Closed)?;
            }
        }
        let answer = receive.await.map_err(|_| StoreError::Closed)?;
        if let (Some(gate), Ok(_)) = (&self.inner.gate, &answer) {
            gate.after().await?;
        }
        answer
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
        if inner.executor == Executor::Inline {
            // Between transactions, since nothing else runs; its page cache is warm.
            return f(&inner.sink.connection());
        }
        let work = move || {
            let connection = inner.reader()?;
            let result = f(&connection);
            let mut readers = inner.readers.lock().expect("readers are only pushed and popped");
            if readers.len() < READERS {
                readers.push(connection);
            }
            result
        };
        self.compute(work).await?
    }

    /// Runs what takes long without waiting for anything where the store's own work runs.
    ///
    /// # Errors
    /// When the runtime is shutting down.
    pub async fn compute<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match self.inner.executor {
            Executor::Inline => Ok(work()),
            Executor::BlockingPool => {
                tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)
            }
        }
    }
}

#[cfg(test)]
impl Store {
    /// Does something to the writing connection itself, outside any transaction.
    pub(crate) fn with_writer<T>(&self, f: impl FnOnce(&Connection) -> T) -> T {
        f(&self.inner.sink.connection())
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
    // Otherwise SQLite plans a cached statement anew whenever a bound value changes that a partial
    // index might depend on: half of the time that reading costs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(256);
    Ok(())
}

async fn write_loop(mut waiting: mpsc::Receiver<Write>, sink: Sink) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while waiting.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let work = std::mem::take(&mut batch);
        let sink = sink.clone();
        let committed = tokio::task::spawn_blocking(move || commit_batch(&sink, work));
        // A panic in one write poisons the lock and is seen by every later caller as `Closed`.
        if committed.await.is_err() {
            tracing::error!("a write to the store panicked; the store is closed");
            return;
        }
    }
}

impl Sink {
    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().expect("a panicking write closes the store")
    }
}

/// Runs the writes in one transaction, and answers each after the commit. When the transaction cannot
/// begin or is gone before the commit, nothing of the batch has happened, and every answer says so.
fn commit_batch(sink: &Sink, batch: Vec<Write>) {
    let connection = sink.connection();
    let mut answers: Vec<Answer> = Vec::with_capacity(batch.len());
    let mut in_the_way = None;
    let mut failure = None;
    match begin(&connection) {
        Ok(()) => {
            let place = Place { transaction: &connection, alone: batch.len() == 1 };
            let mut kept = true;
            for write in batch {
                let written = match &failure {
                    None => write(Ok(place)),
                    Some(e) => write(Err(e)),
                };
                kept = !place.alone || written.succeeded;
                answers.push(written.answer);
                in_the_way = in_the_way.or(written.trouble);
                // After some failures SQLite rolls everything back by itself. What ran from here on
                // would be on its own, outside any transaction.
                if failure.is_none() && connection.is_autocommit() {
                    let words = in_the_way.clone().unwrap_or_else(|| "rolled back".to_owned());
                    failure = Some(StoreError::Unwritable(words));
                }
            }
            if failure.is_none() && kept {
                failure = commit(&connection).err().map(|e| unwritable(e.into()));
            }
        }
        Err(e) => {
            let e = unwritable(e.into());
            tracing::error!(error = %e, "the store could not begin a transaction");
            answers.extend(batch.into_iter().map(|write| write(Err(&e)).answer));
            failure = Some(e);
        }
    }
    // After a lone write that failed, or a failed commit, the transaction is still open.
    if !connection.is_autocommit()
        && let Err(e) = connection.execute_batch("ROLLBACK")
    {
        tracing::error!(error = %e, "the store could not roll back");
    }
    sink.trouble.set(in_the_way.or_else(|| failure.as_ref().and_then(disk::words)));
    // Also when nothing came of it: a look too many does no harm. Before the first answer.
    sink.commits.fetch_add(1, Ordering::SeqCst);
    drop(connection);
    for answer in answers {
        answer(failure.as_ref());
    }
}

/// Says in words that the disk is to blame, where it is.
fn unwritable(e: StoreError) -> StoreError {
    disk::words(&e).map_or(e, StoreError::Unwritable)
}

fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
}

fn commit(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("COMMIT")?.execute([]).map(drop)
}

fn in_place<T>(
    place: Place<'_>,
    f: impl FnOnce(&Connection) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let connection = place.transaction;
    if place.alone {
        return f(connection);
    }
    connection.prepare_cached("SAVEPOINT one_write")?.execute([])?;
    match f(connection) {
        Ok(value) => {
            connection.prepare_cached("RELEASE one_write")?.execute([])?;
            Ok(value)
        }
        // Rolled back as a whole already.
        Err(e) if connection.is_autocommit() => Err(e),
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

    #[tokio::test]
    async fn an_answered_write_is_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        for executor in [Executor::BlockingPool, Executor::Inline] {
            let store = open(&dir, executor);
            let pragma = |name: &str| {
                store.with_writer(|c| {
                    c.pragma_query_value(None, name, |r| r.get::<_, rusqlite::types::Value>(0))
                })
            };
            // FULL: every commit syncs the log before it is answered.
            assert_eq!(pragma("synchronous"), Ok(2.into()), "{executor:?}");
            assert_eq!(pragma("journal_mode"), Ok("wal".to_owned().into()), "{executor:?}");
            assert_eq!(pragma("foreign_keys"), Ok(1.into()), "{executor:?}");
        }
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
    async fn a_lone_write_that_fails_leaves_nothing_and_the_next_one_is_as_any() {
        let dir = tempfile::tempdir().unwrap();
        for executor in [Executor::BlockingPool, Executor::Inline] {
            let path = dir.path().join(format!("{executor:?}.db"));
            let store = Store::open(&path, executor).unwrap();
            let refused = store.write(|c| {
                insert("half".into())(c)?;
                Err::<(), _>(StoreError::Refused("no".into()))
            });
            assert!(matches!(refused.await, Err(StoreError::Refused(_))));
            assert_eq!(store.trouble(), None);
            assert_eq!(count(&store).await, 0);
            store.write(insert("whole".into())).await.unwrap();
            assert_eq!(count(&store).await, 1);
        }
    }

    #[tokio::test]
    async fn commits_are_counted_before_they_are_answered_and_reads_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, Executor::BlockingPool);
        let before = store.commits();
        count(&store).await;
        assert_eq!(store.commits(), before);
        store.clone().write(insert("one".into())).await.unwrap();
        assert_eq!(store.commits(), before + 1);
    }

    /// Lets nothing pass on one side of a write.
    struct Closed {
        before: bool,
    }

    impl WriteGate for Closed {
        fn before(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            Box::pin(async { if self.before { Err(StoreError::Closed) } else { Ok(()) } })
        }

        fn after(&self) -> BoxFuture<'_, Result<(), StoreError>> {
            Box::pin(async { Err(StoreError::Closed) })
        }
    }

    #[tokio::test]
    async fn a_gate_stands_before_a_write_and_between_its_commit_and_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        for executor in [Executor::BlockingPool, Executor::Inline] {
            let path = dir.path().join(format!("{executor:?}.db"));
            for (before, count_after) in [(true, 0), (false, 1)] {
                let gate = Arc::new(Closed { before });
                let store = Store::open_with(&path, executor, gate).unwrap();
                assert!(store.write(insert("one".into())).await.is_err());
                assert_eq!(count(&store).await, count_after);
            }
        }
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

    #[tokio::test]
    async fn a_transaction_that_cannot_begin_is_answered_with_its_error() {
        let dir = tempfile::tempdir().unwrap();
        for executor in [Executor::BlockingPool, Executor::Inline] {
            let store = open(&dir, executor);
            // Somebody else is writing, for longer than we wait.
            let other = Connection::open(dir.path().join("azdr.db")).unwrap();
            other.execute_batch("BEGIN IMMEDIATE").unwrap();
            store.with_writer(|c| c.busy_timeout(std::time::Duration::ZERO)).unwrap();
            let writes = (0..3).map(|i| store.write(insert(format!("{executor:?}{i}"))));
            for answer in futures::future::join_all(writes).await {
                let e = answer.unwrap_err();
                assert_eq!(e.to_string(), "the commit failed: database is locked");
            }
            other.execute_batch("ROLLBACK").unwrap();
            store.write(insert(format!("{executor:?}"))).await.unwrap();
        }
        assert_eq!(count(&open(&dir, Executor::Inline)).await, 2);
    }

    #[tokio::test]
    async fn when_the_disk_is_full_nothing_of_a_batch_is_answered_as_done_and_lost() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, Executor::BlockingPool);
        store.with_writer(|c| c.pragma_update(None, "max_page_count", 1)).unwrap();
        let mut done = 0;
        for round in 0..40 {
            let writes = (0..50).map(|i| {
                store.write(move |c| {
                    let big = "x".repeat(if i % 7 == 0 { 9000 } else { 20 });
                    let sql = "INSERT INTO operator VALUES (?1, 'viewer', ?2, 0, NULL)";
                    c.execute(sql, (format!("{round}-{i}"), big))?;
                    Ok(())
                })
            });
            for answer in futures::future::join_all(writes).await {
                match answer {
                    Ok(()) => done += 1,
                    Err(e) => assert!(matches!(e, StoreError::Unwritable(_)), "{e:?}"),
                }
            }
        }
        assert!(store.trouble().is_some());
        assert_eq!(count(&store).await, done);
        store.with_writer(|c| c.pragma_update(None, "max_page_count", 1_000_000)).unwrap();
        store.write(insert("last".into())).await.unwrap();
        assert_eq!(store.trouble(), None);
    }
}
