//! Which queued run starts next.
//!
//! By priority, then by age. Runs in flight are limited by class, so that none waits for the end of
//! less urgent ones: restores start at once, for somebody waits for their machine; drills have places of
//! their own, half as many as the rest; everything else shares the rest. So that a stream of urgent runs
//! starves nobody for ever, every eighth slot goes to the run that has waited longest, whatever its
//! priority.
//!
//! The queue is limited in the same way: what can wait never fills it for restores and drills.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::time::Duration;

use azdr_env::Monotonic;

use super::definition::RunPriority;
use super::engine::{Engine, ForRun};
use super::lock_words;
use crate::store::{LockNeed, QueueLimit, RunId, RunRow, StoreError};

/// Ready runs looked at in one go.
const PAGE: u32 = 256;
/// Every so many starts, the run that has waited longest gets the slot.
const LONGEST_WAITING_EVERY: u32 = 8;
/// How often to look at the queue and at stuck runs unasked: a safety net for the queue, every change
/// of which wakes the dispatcher.
const LOOK_AGAIN: Duration = Duration::from_secs(10 * 60);
/// How long a stuck run is left alone before it is tried again.
const STUCK_AGAIN: Duration = LOOK_AGAIN;

impl<S: ForRun + Send + Sync + 'static> Engine<S> {
    /// Starts queued runs as slots and locks become free, until the engine stops.
    pub(super) async fn dispatch(&self) {
        loop {
            if let Err(e) = self.start_queued().await {
                tracing::error!(error = %e, "the queue cannot be read");
                if self.stop_if_fenced(&e) {
                    return;
                }
            }
            if let Err(e) = self.try_stuck_runs_again().await {
                tracing::error!(error = %e, "stuck runs cannot be tried again");
                if self.stop_if_fenced(&e) {
                    return;
                }
            }
            tokio::select! {
                biased;
                () = self.inner.shutdown.cancelled() => return,
                () = self.inner.wake.notified() => {}
                () = azdr_env::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    async fn try_stuck_runs_again(&self) -> Result<(), StoreError> {
        let now = self.inner.env.clock.monotonic();
        let due: Vec<RunId> = {
            let stuck = self.inner.stuck.lock().expect("the map is only edited");
            let is_due = |since: &Monotonic| now.since(*since) >= STUCK_AGAIN;
            stuck.iter().filter(|(_, since)| is_due(since)).map(|(id, _)| *id).collect()
        };
        for id in due {
            self.try_stuck_again(id).await?;
        }
        Ok(())
    }

    async fn start_queued(&self) -> Result<(), StoreError> {
        while self.start_a_page().await? {}
        Ok(())
    }

    /// Answers whether there may be more to start.
    async fn start_a_page(&self) -> Result<bool, StoreError> {
        let store = self.store();
        let mut places = self.places();
        let mut by_priority = VecDeque::new();
        for priorities in places.priorities() {
            by_priority.extend(store.ready_runs(priorities, PAGE).await?);
        }
        if by_priority.is_empty() {
            return Ok(false);
        }
        let mut by_age = VecDeque::from(store.oldest_ready_runs(PAGE).await?);
        let mut held = store.locks().await?;
        let mut waiting = Vec::new();
        let mut seen = BTreeSet::new();
        let mut more = false;
        while let Some(row) = self.next(&mut by_priority, &mut by_age) {
            if self.inner.shutdown.is_cancelled() {
                more = false;
                break;
            }
            if !places.has_one_for(row.priority) || !seen.insert(row.id) {
                continue;
            }
            more = true;
            let needs = self.needs(&row);
            if let Some((holder, need)) = blocked(&held, &needs) {
                waiting.push((row.id, holder, need));
                continue;
            }
            let now = self.inner.env.clock.wall();
            if store.try_start_run(row.id, needs.clone(), now).await? {
                held.extend(needs.into_iter().map(|n| (n.key, row.id)));
                self.inner.starts.fetch_add(1, Ordering::Relaxed);
                places.take(row.priority);
                self.spawn(row).await?;
            }
        }
        if !waiting.is_empty() {
            store.note_waiting(waiting).await?;
            self.changed();
        }
        Ok(more)
    }

    /// The next candidate. Urgent runs come first in any case.
    fn next(
        &self,
        by_priority: &mut VecDeque<RunRow>,
        by_age: &mut VecDeque<RunRow>,
    ) -> Option<RunRow> {
        let urgent = by_priority.front().is_some_and(is_urgent);
        let starts = self.inner.starts.load(Ordering::Relaxed);
        if !urgent && starts % LONGEST_WAITING_EVERY == LONGEST_WAITING_EVERY - 1 {
            return by_age.pop_front().or_else(|| by_priority.pop_front());
        }
        by_priority.pop_front()
    }

    /// What is free among the runs in flight.
    fn places(&self) -> Places {
        let most = self.inner.config.max_running;
        let (mut drills, mut others) = ((most / 2).max(1), most);
        for priority in self.priorities_in_flight() {
            match Class::of(priority) {
                Class::Restore => {}
                Class::Drill => drills = drills.saturating_sub(1),
                Class::Other => others = others.saturating_sub(1),
            }
        }
        Places { drills, others }
    }

    /// How long the queue may get for a run of this priority.
    pub(super) fn queue_limit(&self, priority: u8) -> QueueLimit {
        let most = self.inner.max_queued.load(Ordering::Relaxed);
        let counted_to = match Class::of(priority) {
            Class::Restore | Class::Drill => DRILL,
            Class::Other => u8::MAX,
        };
        QueueLimit { most, counted_to }
    }

    fn needs(&self, row: &RunRow) -> Vec<LockNeed> {
        // Unreadable input fails in the first step, with words; here it only takes no lock.
        let keys = self.definition_of(row).and_then(|d| (d.lock_keys)(&row.input).ok());
        let need = |key: String| LockNeed { words: lock_words::words(&key), key };
        let mut needs: Vec<_> = keys.unwrap_or_default().into_iter().map(need).collect();
        needs.sort();
        needs.dedup();
        needs
    }
}

const RESTORE: u8 = RunPriority::Restore as u8;
const DRILL: u8 = RunPriority::Drill as u8;

/// Runs that share a limit.
enum Class {
    Restore,
    Drill,
    Other,
}

impl Class {
    fn of(priority: u8) -> Self {
        match priority {
            RESTORE => Self::Restore,
            DRILL => Self::Drill,
            _ => Self::Other,
        }
    }
}

/// Free places; restores need none.
struct Places {
    drills: usize,
    others: usize,
}

impl Places {
    fn has_one_for(&self, priority: u8) -> bool {
        match Class::of(priority) {
            Class::Restore => true,
            Class::Drill => self.drills > 0,
            Class::Other => self.others > 0,
        }
    }

    fn take(&mut self, priority: u8) {
        match Class::of(priority) {
            Class::Restore => {}
            Class::Drill => self.drills -= 1,
            Class::Other => self.others -= 1,
        }
    }

    /// Priorities for which there are any, the most urgent first. What has no place is not even read:
    /// it could be a hundred thousand runs.
    fn priorities(&self) -> Vec<RangeInclusive<u8>> {
        match (self.drills > 0, self.others > 0) {
            (true, true) => vec![RESTORE..=u8::MAX],
            (true, false) => vec![RESTORE..=DRILL],
            (false, true) => vec![RESTORE..=RESTORE, DRILL + 1..=u8::MAX],
            (false, false) => vec![RESTORE..=RESTORE],
        }
    }
}

/// Does not take turns with what has waited longest.
fn is_urgent(row: &RunRow) -> bool {
    row.priority <= DRILL
}

fn blocked(held: &BTreeMap<String, RunId>, needs: &[LockNeed]) -> Option<(RunId, LockNeed)> {
    needs.iter().find_map(|need| Some((*held.get(&need.key)?, need.clone())))
}
