//! Mistakes made on purpose, so that tests can show that they are noticed.
//!
//! Compiled only with the feature `mutations`, which the simulation asks for and no binary that is
//! built by itself has. Without it nothing is ever planted; a release build of `azdr-controller` with it
//! is refused.

/// A mistake; each breaks one invariant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mutation {
    /// I1: pruning keeps one daily point, whatever the policy says.
    PruneIgnoresPolicy = 1,
    /// I1: pruning takes points that runs hold (and keeps one daily point, so that it gets to them).
    PruneIgnoresLeases,
    /// I2: pruning forgets what copies need (and keeps one daily point).
    PruneForgetsLineage,
    /// I4: every point is recorded as `filesystem`.
    ConsistencyClaimed,
    /// I5: temporaries stay, and nobody looks.
    CleanUpForgotten,
    /// I6: a restore deletes the disks that it has replaced.
    RestoreDeletesDisks,
    /// I7: each attempt to take a snapshot uses another name.
    NamesVary,
    /// I8: a restored instance is asked in its original's stead.
    CloneIsAsked,
    /// I9: some jobs, policies and pins are acknowledged and never written.
    AnswerBeforeCommit,
    /// I10: a run that succeeds is first recorded as failed.
    TwoTruths,
    /// I11: the data directory is not locked.
    SecondControllerAllowed,
    /// I11: a database opens against any cloud.
    StampIgnored,
    /// The schedule does not see the backups that were begun already.
    ScheduleForgets,
    /// Schedule: a VM that is gone is backed up as though it were there.
    GoneBackedUp,
    /// The schedule takes every time for one of UTC.
    ZoneIgnored,
    /// Nobody looks whether Azure still has what the catalogue names.
    MissingUnnoticed,
    /// I1: pruning does not see pins.
    PruneIgnoresPins,
    /// I7: an undo deletes what has the name of what it made, whoever made it.
    UndoIgnoresTag,
    /// I10: how a run has ended gives cause for no alert.
    AlertsForgotten,
}

#[cfg(feature = "mutations")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Makes this mistake from now on, in the whole process.
    pub fn plant(mutation: super::Mutation) {
        PLANTED.store(mutation as u8, Ordering::SeqCst);
    }

    pub(crate) fn planted(mutation: super::Mutation) -> bool {
        PLANTED.load(Ordering::Relaxed) == mutation as u8
    }
}

#[cfg(feature = "mutations")]
pub use switch::plant;
#[cfg(feature = "mutations")]
pub(crate) use switch::planted;

/// Whether to make this mistake: never, in this build.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn planted(_mutation: Mutation) -> bool {
    false
}
