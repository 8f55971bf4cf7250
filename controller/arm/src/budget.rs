//! The request budget: azdr slows down by itself and does not run into avoidable 429s (I12).
//!
//! One token bucket per subscription and [`OperationClass`], with the sizes of `AZURE.md` A.5. A
//! request takes a token of its class before it is sent; who must wait, waits by [`Priority`], then
//! in order of arrival. Azure's own `x-ms-ratelimit-remaining-*` headers lower a bucket's level when
//! they know better (somebody else uses the same limit) and never raise it. A throttled answer
//! empties its bucket for a while.
//!
//! **Reservations.** A machine is frozen while its snapshots are requested, so nothing may wait
//! then. [`Budget::reserve`] waits beforehand until *every* subscription's buckets can serve `n`
//! snapshot writes on top of what others have reserved; requests sent through the reservation do not
//! wait, everybody else leaves the reserved tokens alone. Which subscription will be used need not be
//! said: holds are few and short, so the caution costs nothing.
//!
//! This module knows neither ARM's URLs nor HTTP. Time is the environment's monotonic clock.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use azdr_env::{Env, Monotonic};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::error::{AzureError, ErrorClass};

/// Whose requests go first when they must wait. The first listed goes first.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Somebody waits for a machine to come back.
    Restore,
    /// A drill, whose time counts.
    Drill,
    /// Taking recovery points.
    #[default]
    Backup,
    /// Copying them to other regions.
    Replicate,
    /// Reading them.
    Verify,
    /// Pruning, inventory, residue.
    Housekeeping,
}

/// What Azure counts together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationClass {
    /// GET.
    Reads,
    /// PUT, PATCH and POST.
    Writes,
    /// DELETE.
    Deletes,
    /// Creating and copying snapshots, granting and revoking access to them: counted in addition to
    /// [`OperationClass::Writes`], by the disk resource provider.
    HighCostSnapshot,
}

impl OperationClass {
    /// Burst, and tokens per second.
    fn size(self) -> (f64, f64) {
        match self {
            Self::Reads => (250.0, 25.0),
            Self::Writes | Self::Deletes => (200.0, 10.0),
            // The provider allows 1000 in 3 minutes (and 8000 in 30). A burst of half of that and a
            // refill of half of that per window never exceed it, wherever a window begins.
            Self::HighCostSnapshot => (500.0, 500.0 / 180.0),
        }
    }
}

/// What was asked of Azure since this client was made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Requests sent, repeats after 401 included.
    pub requests: u64,
    /// Answers that told us to slow down (429).
    pub throttled: u64,
    /// The same by class. A snapshot write is counted under two classes.
    pub by_class: BTreeMap<OperationClass, ClassCounters>,
}

/// The part of [`Counters`] that one class has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClassCounters {
    /// Requests sent.
    pub requests: u64,
    /// Answers that told us to slow down.
    pub throttled: u64,
}

/// No request waits longer than this for its turn.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

type Key = (String, OperationClass);

pub(crate) struct Budget {
    env: Env,
    state: Mutex<State>,
    /// Somebody left a queue, or tokens came back.
    changed: Notify,
}

#[derive(Default)]
struct State {
    buckets: BTreeMap<Key, Bucket>,
    queues: BTreeMap<Key, BTreeSet<(Priority, u64)>>,
    /// Snapshot writes that are reserved and not yet sent.
    reserved: u32,
    arrivals: u64,
    counters: Counters,
}

struct Bucket {
    level: f64,
    filled: Monotonic,
    /// Azure told us to wait until then.
    closed_until: Option<Monotonic>,
}

impl Bucket {
    fn new(class: OperationClass, now: Monotonic) -> Self {
        Self { level: class.size().0, filled: now, closed_until: None }
    }

    fn fill(&mut self, class: OperationClass, now: Monotonic) {
        let (burst, per_second) = class.size();
        let elapsed = now.since(self.filled).as_secs_f64();
        self.level = (self.level + elapsed * per_second).min(burst);
        self.filled = now;
        if self.closed_until.is_some_and(|until| until <= now) {
            self.closed_until = None;
        }
    }

    /// How long until it holds `tokens`; `None` when it does.
    fn wait_for(&self, class: OperationClass, tokens: f64, now: Monotonic) -> Option<Duration> {
        if let Some(until) = self.closed_until {
            return Some(until.since(now).max(Duration::from_millis(1)));
        }
        let (burst, per_second) = class.size();
        let missing = tokens.min(burst) - self.level;
        (missing > 1e-9).then(|| Duration::from_secs_f64(missing / per_second + 0.001))
    }
}

impl Budget {
    pub(crate) fn new(env: Env) -> Arc<Self> {
        Arc::new(Self { env, state: Mutex::default(), changed: Notify::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while holding this lock")
    }

    pub(crate) fn counters(&self) -> Counters {
        self.lock().counters.clone()
    }

    /// Takes one token of `class`, after waiting for it.
    ///
    /// # Errors
    /// `Throttled` when its turn did not come within five minutes; nothing was sent then.
    pub(crate) async fn acquire(
        &self,
        subscription: &str,
        class: OperationClass,
        priority: Priority,
    ) -> Result<(), AzureError> {
        let key = (subscription.to_owned(), class);
        let snapshot_write =
            matches!(class, OperationClass::Writes | OperationClass::HighCostSnapshot);
        self.wait(key.clone(), priority, |state, now| {
            let reserved = if snapshot_write { f64::from(state.reserved) } else { 0.0 };
            let bucket = state.bucket(&key, now);
            let wait = bucket.wait_for(class, 1.0 + reserved, now);
            if wait.is_none() {
                bucket.level -= 1.0;
            }
            wait
        })
        .await
    }

    /// Waits until `n` snapshot writes can be sent at once, and keeps that room.
    pub(crate) async fn reserve(self: &Arc<Self>, n: u32, priority: Priority) -> Arc<Passes> {
        let key = ("*".to_owned(), OperationClass::HighCostSnapshot);
        let waited = self
            .wait(key, priority, |state, now| {
                let wanted = f64::from(n + state.reserved);
                let mut longest = None;
                for (key, bucket) in &mut state.buckets {
                    if matches!(key.1, OperationClass::Writes | OperationClass::HighCostSnapshot) {
                        bucket.fill(key.1, now);
                        longest = longest.max(bucket.wait_for(key.1, wanted, now));
                    }
                }
                if longest.is_none() {
                    state.reserved += n;
                }
                longest
            })
            .await;
        if waited.is_err() {
            // The buckets never had that room: go on, and let the requests wait their turn.
            tracing::warn!(writes = n, "no room for a reservation of snapshot writes");
            return Arc::new(Passes { budget: self.clone(), left: Mutex::new(0) });
        }
        Arc::new(Passes { budget: self.clone(), left: Mutex::new(n) })
    }

    /// Queues under `key` and asks `attempt` until it needs no more waiting.
    async fn wait(
        &self,
        key: Key,
        priority: Priority,
        mut attempt: impl FnMut(&mut State, Monotonic) -> Option<Duration>,
    ) -> Result<(), AzureError> {
        let ticket = Ticket::draw(self, key, priority);
        let deadline = self.env.clock.monotonic().plus(LONGEST_WAIT);
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();

            let now = self.env.clock.monotonic();
            let wait = {
                let mut state = self.lock();
                if state.is_first(&ticket) {
                    match attempt(&mut state, now) {
                        None => return Ok(()),
                        Some(wait) => wait,
                    }
                } else {
                    LONGEST_WAIT
                }
            };
            if now >= deadline {
                let message = "too many requests are waiting; nothing was sent";
                return Err(AzureError::new(ErrorClass::Throttled, "ClientBudget", message));
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = azdr_env::sleep(wait.min(deadline.since(now))) => {}
            }
        }
    }

    /// Counts a request that is about to be sent.
    pub(crate) fn count_request(&self, classes: &[OperationClass]) {
        let mut state = self.lock();
        state.counters.requests += 1;
        for class in classes {
            state.counters.by_class.entry(*class).or_default().requests += 1;
        }
    }

    /// Lowers a bucket to what Azure says is left.
    pub(crate) fn learn(&self, subscription: &str, class: OperationClass, remaining: f64) {
        let now = self.env.clock.monotonic();
        let mut state = self.lock();
        let bucket = state.bucket(&(subscription.to_owned(), class), now);
        bucket.level = bucket.level.min(remaining);
    }

    /// Counts a throttled answer, and closes the bucket for `pause`.
    pub(crate) fn throttled(
        &self,
        subscription: &str,
        classes: &[OperationClass],
        close: Option<OperationClass>,
        pause: Duration,
    ) {
        let now = self.env.clock.monotonic();
        let mut state = self.lock();
        state.counters.throttled += 1;
        for class in classes {
            state.counters.by_class.entry(*class).or_default().throttled += 1;
        }
        if let Some(class) = close {
            let bucket = state.bucket(&(subscription.to_owned(), class), now);
            bucket.level = bucket.level.min(0.0);
            bucket.closed_until = bucket.closed_until.max(Some(now.plus(pause)));
        }
    }
}

impl State {
    fn bucket(&mut self, key: &Key, now: Monotonic) -> &mut Bucket {
        let bucket = self.buckets.entry(key.clone()).or_insert_with(|| Bucket::new(key.1, now));
        bucket.fill(key.1, now);
        bucket
    }

    fn is_first(&self, ticket: &Ticket<'_>) -> bool {
        self.queues.get(&ticket.key).and_then(BTreeSet::first) == Some(&ticket.place)
    }
}

/// A place in a queue; given up when dropped, so that a cancelled request blocks nobody.
struct Ticket<'a> {
    budget: &'a Budget,
    key: Key,
    place: (Priority, u64),
}

impl<'a> Ticket<'a> {
    fn draw(budget: &'a Budget, key: Key, priority: Priority) -> Self {
        let mut state = budget.lock();
        state.arrivals += 1;
        let place = (priority, state.arrivals);
        state.queues.entry(key.clone()).or_default().insert(place);
        Self { budget, key, place }
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.budget.lock();
        if let Some(queue) = state.queues.get_mut(&self.key) {
            queue.remove(&self.place);
            if queue.is_empty() {
                state.queues.remove(&self.key);
            }
        }
        drop(state);
        self.budget.changed.notify_waiters();
    }
}

/// Reserved snapshot writes; what is not used is given back when dropped.
pub(crate) struct Passes {
    budget: Arc<Budget>,
    left: Mutex<u32>,
}

impl Passes {
    /// Uses one, without waiting. `false` when none is left.
    pub(crate) fn take(&self, subscription: &str) -> bool {
        let mut left = self.left.lock().expect("no code panics while holding this lock");
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let now = self.budget.env.clock.monotonic();
        let mut state = self.budget.lock();
        state.reserved -= 1;
        for class in [OperationClass::Writes, OperationClass::HighCostSnapshot] {
            state.bucket(&(subscription.to_owned(), class), now).level -= 1.0;
        }
        true
    }
}

impl Passes {
    /// Gives back what is not used.
    pub(crate) fn release(&self) {
        let mut left = self.left.lock().expect("no code panics while holding this lock");
        if *left > 0 {
            self.budget.lock().reserved -= std::mem::take(&mut *left);
            self.budget.changed.notify_waiters();
        }
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests;
