//! A run's journal, folded: what every step has begun, finished and undone.
//!
//! Pure: entries in, state out. The runner decides from this alone what comes next, whether the
//! entries were written a moment ago or before a crash.

use std::collections::BTreeMap;

use azdr_env::WallTime;
use serde_json::Value;

use super::failure::Failure;
use crate::store::{Event, RunId};

/// What has become of one step, or of one item of an `each`.
#[derive(Clone, Debug, Default)]
pub struct StepRecord {
    /// When it first began.
    pub started: Option<WallTime>,
    /// The payload of every `Started`: one per attempt of a hold.
    pub attempts: Vec<Value>,
    /// What to resume from.
    pub checkpoint: Option<Value>,
    /// Its output.
    pub done: Option<(WallTime, Value)>,
    /// Why it failed for good.
    pub failed: Option<Value>,
    /// Its undo has begun (again).
    pub undo_started: bool,
    /// It is undone since its last start.
    pub undone: Option<WallTime>,
    /// Position among all first starts: undo goes in the opposite order.
    pub order: usize,
}

impl StepRecord {
    /// Whether its effect may be in the world.
    pub fn may_have_happened(&self) -> bool {
        self.started.is_some() && self.undone.is_none()
    }

    /// The run that it started, of a step that starts runs.
    pub fn child(&self) -> Option<RunId> {
        self.attempts.last()?.as_i64().map(RunId)
    }
}

/// A run's journal, folded.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: BTreeMap<(String, String), StepRecord>,
    items: BTreeMap<String, Vec<(String, Value)>>,
    turned_back: Option<Option<Failure>>,
    turned_back_at: Option<WallTime>,
    decisions: Vec<(WallTime, Value)>,
    starts: usize,
    latest: Option<WallTime>,
}

impl History {
    /// Takes in the next entry.
    pub fn apply(&mut self, at: WallTime, step: &str, item: &str, event: Event, payload: &Value) {
        self.latest = self.latest.max(Some(at));
        if event == Event::TurnedBack {
            // Null stands for a cancellation.
            self.turned_back = Some(serde_json::from_value(payload.clone()).unwrap_or_default());
            self.turned_back_at = Some(at);
            return;
        }
        if event == Event::Decided {
            self.decisions.push((at, payload.clone()));
            return;
        }
        if event == Event::Items {
            let items = serde_json::from_value(payload.clone()).unwrap_or_default();
            self.items.insert(step.to_owned(), items);
            return;
        }
        let starts = &mut self.starts;
        let record = self.records.entry((step.to_owned(), item.to_owned())).or_default();
        match event {
            Event::Started => {
                if record.started.is_none() {
                    *starts += 1;
                    record.order = *starts;
                    record.started = Some(at);
                }
                record.attempts.push(payload.clone());
                record.undone = None;
                record.undo_started = false;
                record.checkpoint = None;
                record.done = None;
            }
            Event::Checkpoint => {
                record.checkpoint = (!payload.is_null()).then(|| payload.clone());
            }
            Event::Done => {
                record.done = Some((at, payload.clone()));
                record.failed = None;
            }
            Event::Failed => record.failed = Some(payload.clone()),
            Event::UndoStarted => {
                record.undo_started = true;
                // What the step could have resumed is not what its undo may resume.
                record.checkpoint = None;
            }
            Event::Undone => record.undone = Some(at),
            Event::Items | Event::TurnedBack | Event::Decided => unreachable!("handled above"),
        }
    }

    /// What has become of a step (`item` is empty unless it is an `each`).
    pub fn record(&self, step: &str, item: &str) -> Option<&StepRecord> {
        self.records.get(&(step.to_owned(), item.to_owned()))
    }

    /// All records of a step: one, or one per item of an `each`.
    pub fn records_of<'a>(
        &'a self,
        step: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a StepRecord)> + 'a {
        self.records.iter().filter(move |((s, _), _)| s == step).map(|((_, i), r)| (i.as_str(), r))
    }

    /// The list that an `each` goes over, once it has been fixed: key and payload of each item.
    pub fn items(&self, step: &str) -> Option<&[(String, Value)]> {
        self.items.get(step).map(Vec::as_slice)
    }

    /// Whether the run has turned back; the inner `None` means on request.
    pub fn turned_back(&self) -> Option<&Option<Failure>> {
        self.turned_back.as_ref()
    }

    /// When it turned back.
    pub fn turned_back_at(&self) -> Option<WallTime> {
        self.turned_back_at
    }

    /// What people decided about it while it was stuck, oldest first.
    pub fn decisions(&self) -> &[(WallTime, Value)] {
        &self.decisions
    }

    /// The time of its latest entry.
    pub fn latest(&self) -> Option<WallTime> {
        self.latest
    }

    /// Everything whose effect may be in the world, last begun first.
    pub fn to_undo(&self) -> Vec<(String, String)> {
        let mut open: Vec<_> = self.records.iter().filter(|(_, r)| r.may_have_happened()).collect();
        open.sort_by_key(|(_, r)| std::cmp::Reverse(r.order));
        open.into_iter().map(|(key, _)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn history(entries: &[(&str, &str, Event)]) -> History {
        let mut history = History::default();
        for (i, (step, item, event)) in entries.iter().enumerate() {
            let at = WallTime::from_unix_ms(i as i64);
            history.apply(at, step, item, *event, &json!(i));
        }
        history
    }

    #[test]
    fn undo_covers_what_started_and_was_not_undone_last_begun_first() {
        let h = history(&[
            ("a", "", Event::Started),
            ("a", "", Event::Done),
            ("b", "1", Event::Started),
            ("b", "2", Event::Started),
            ("b", "1", Event::Done),
            ("c", "", Event::Started),
            ("c", "", Event::Failed),
            ("b", "2", Event::Undone),
        ]);
        let expected = [("c", ""), ("b", "1"), ("a", "")];
        assert_eq!(h.to_undo(), expected.map(|(s, i)| (s.to_owned(), i.to_owned())));
    }

    #[test]
    fn a_second_attempt_of_a_hold_opens_it_again() {
        let h = history(&[
            ("hold", "", Event::Started),
            ("hold", "", Event::Undone),
            ("hold", "", Event::Started),
        ]);
        let record = h.record("hold", "").unwrap();
        assert_eq!(record.attempts, [json!(0), json!(2)]);
        assert!(record.may_have_happened());
    }
}
