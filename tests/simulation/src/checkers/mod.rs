//! The invariants I1 to I12, that the schedule is kept, and that what the catalogue says of Azure is true: each in a file of its own, each a look at the *world*: at what Azure
//! holds, what machines were told, what the API promised. None of them asks the controller what it
//! believes.
//!
//! A checker is told of every event in order and keeps what it needs. [`Event::Asked`] comes before
//! Azure carries the request out, so that a deletion can be judged by what is still there.

mod announced;
mod catalogue_is_true;
mod i01_keep;
mod i02_lineage;
mod i03_thaw;
mod i04_honest_consistency;
mod i05_no_residue;
mod i06_safe_restore;
mod i07_effect_once;
mod i08_clone_safety;
mod i09_durable_answers;
mod i10_one_truth;
mod i11_pinned_cloud;
mod i12_budget;
mod schedule_is_kept;

pub use catalogue_is_true::CatalogueIsTrue;
pub use i09_durable_answers::Promises;
pub use i11_pinned_cloud::{another_cloud_is_refused, another_controller_is_refused};

use crate::event::Event;
use crate::record::View;

/// Watches one invariant.
pub trait Checker: Send {
    /// `I1` to `I12`, or `schedule`.
    fn invariant(&self) -> &'static str;

    /// Takes in what has happened.
    ///
    /// # Errors
    /// What was seen that must not be.
    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String>;
}

/// One of each.
pub fn all() -> Vec<Box<dyn Checker>> {
    vec![
        Box::new(i01_keep::Keep::default()),
        Box::new(i02_lineage::Lineage::default()),
        Box::new(i03_thaw::Thaw::default()),
        Box::new(i04_honest_consistency::HonestConsistency::default()),
        Box::new(i05_no_residue::NoResidue::default()),
        Box::new(i06_safe_restore::SafeRestore::default()),
        Box::new(i07_effect_once::EffectOnce),
        Box::new(i08_clone_safety::CloneSafety),
        Box::new(i10_one_truth::OneTruth::default()),
        Box::new(i12_budget::Budget),
        Box::new(schedule_is_kept::ScheduleIsKept::default()),
    ]
}
