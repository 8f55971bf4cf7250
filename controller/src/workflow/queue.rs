//! Which queued run starts next.
//!
//! By priority, then by age. Restores and drills do not count against the limit of runs in flight:
//! somebody waits for them. So that a stream of urgent runs starves nobody for ever, every eighth slot
//! goes to the run that has waited longest, whatever its priority.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Duration;

use azdr_env::Monotonic;

use super::definition::RunPriority;
use super::engine::{Engine, ForRun};
use super::lock_words;
use crate::store::{LockNeed, RunId, RunRow, StoreError};

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
        let mut by_priority = VecDeque::from(store.ready_runs(PAGE).await?);
        if by_priority.front().is_none_or(|first| !self.has_room_for(first)) {
            return Ok(false);
        }
        let mut by_age = VecDeque::from(store.oldest_ready_runs(PAGE).await?);
        let mut held = store.locks().await?;
        let mut waiting = Vec::new();
        let mut seen = BTreeSet::new();
        let mut more = false;
        while let Some(row) = self.next(&mut by_priority, &mut by_age) {
            if self.inner.shutdown.is_cancelled() || !self.has_room_for(&row) {
                more = false;
                break;
            }
            if !seen.insert(row.id) {
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

    fn has_room_for(&self, row: &RunRow) -> bool {
        is_urgent(row) || self.active_count() < self.inner.config.max_running
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

/// Somebody waits for a restore or a drill: those do not wait for a thousand copies.
fn is_urgent(row: &RunRow) -> bool {
    row.priority <= RunPriority::Drill as u8
}

fn blocked(held: &BTreeMap<String, RunId>, needs: &[LockNeed]) -> Option<(RunId, LockNeed)> {
    needs.iter().find_map(|need| Some((*held.get(&need.key)?, need.clone())))
}
