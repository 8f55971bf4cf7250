//! The trace of a simulation, and the checkers that follow it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};

use azdr_env::WallTime;
use azure_sim::Simulator;
use azure_sim::world::State;

use crate::checkers::{self, Checker};
use crate::event::Event;
use crate::kinds::{Kind, Tally};

/// Lines that are shown with a violation.
const CONTEXT: usize = 200;

/// An invariant did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// `I1` to `I12`, `schedule` or `catalogue`.
    pub invariant: &'static str,
    /// When, by the true clock.
    pub at: WallTime,
    /// What was seen.
    pub what: String,
    /// What had happened before it.
    pub before: Vec<String>,
}

/// What checkers see of the world.
pub struct View<'a> {
    /// Everything in Azure.
    pub azure: &'a State,
    /// The true time.
    pub now: WallTime,
}

/// The trace and the checkers.
pub struct Record {
    inner: Mutex<Inner>,
}

struct Inner {
    hasher: DefaultHasher,
    events: u64,
    latest: VecDeque<String>,
    checkers: Vec<Box<dyn Checker>>,
    violations: Vec<Violation>,
    tally: Tally,
    /// Everything, where it is asked for.
    whole: Option<Vec<String>>,
}

impl Record {
    /// With all checkers.
    pub fn new(keep_whole: bool) -> Self {
        let inner = Inner {
            hasher: DefaultHasher::new(),
            events: 0,
            latest: VecDeque::new(),
            checkers: checkers::all(),
            violations: Vec::new(),
            tally: Tally::default(),
            whole: keep_whole.then(Vec::new),
        };
        Self { inner: Mutex::new(inner) }
    }

    /// Takes in what has happened (or, for [`Event::Asked`], is about to happen).
    pub fn tell(&self, simulator: &Simulator, event: &Event) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.events += 1;
        simulator.look(|azure, now| {
            let line = format!("{now} {event}");
            line.hash(&mut inner.hasher);
            if let Some(whole) = &mut inner.whole {
                whole.push(line.clone());
            }
            if inner.latest.len() == CONTEXT {
                inner.latest.pop_front();
            }
            inner.latest.push_back(line);
            let view = View { azure, now };
            for checker in &mut inner.checkers {
                if let Err(what) = checker.see(event, &view) {
                    let before = inner.latest.iter().cloned().collect();
                    let invariant = checker.invariant();
                    inner.violations.push(Violation { invariant, at: now, what, before });
                }
            }
        });
    }

    /// Notes a violation that was found outside the checkers' event stream.
    pub fn violated(&self, invariant: &'static str, at: WallTime, what: String) {
        let mut inner = self.lock();
        let before = inner.latest.iter().cloned().collect();
        inner.violations.push(Violation { invariant, at, what, before });
    }

    /// A fault has happened, so often.
    pub fn count(&self, kind: Kind, times: u64) {
        self.lock().tally.add(kind, times);
    }

    /// What has gone wrong so far.
    pub fn tally(&self) -> Tally {
        self.lock().tally.clone()
    }

    /// What did not hold so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// Hash over all events in order, and their number.
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.lock();
        (inner.hasher.finish(), inner.events)
    }

    /// Every event, if they were kept.
    pub fn whole(&self) -> Vec<String> {
        self.lock().whole.clone().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("checkers do not panic")
    }
}
