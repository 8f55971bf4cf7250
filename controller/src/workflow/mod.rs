//! The workflow engine: journalled steps with undo, in five kinds.
//!
//! | kind | is |
//! |---|---|
//! | `step` | one outside effect, at least once, with undo |
//! | `each` | the same step over a list, journalled per item, bounded parallelism |
//! | `temporary` | a step whose undo runs on success too |
//! | `hold` | a critical section: done whole, or cleaned up and tried again whole |
//! | `child` | another run, or (`children`) one for each item of a list |
//!
//! The journal is written *before* an effect may happen (`started`) and *after* it (`done`, together
//! with the step's catalogue changes, in one transaction). On failure undo runs for every step that
//! **started**, the failing one included (I7). A run ends only when its residue check, a listing of
//! Azure, shows nothing that should be gone (I5).
//!
//! The engine knows nothing of Azure, agents or backups: `S` is what steps may use. It owns retries,
//! back-off and deadlines; steps never wait on their own.

mod children;
mod context;
mod decision;
mod definition;
mod engine;
mod failure;
mod history;
mod hook;
mod lock_words;
mod queue;
mod retry;
mod runner;
#[cfg(test)]
mod tests;

pub use children::ChildEnd;
pub use context::{Done, StepCx, StepKey, StepProgress};
pub use decision::{Effect, Situation, Way};
pub use definition::{
    Accountable, Concluded, Definition, EachFn, LockKey, Outcome, ResidueFn, RunPriority,
    StepBuilder, StepFn, Version, Workflow,
};
pub use engine::{Engine, EngineConfig, ForRun};
pub use failure::{Failure, StepError};
pub use history::{History, StepRecord};
pub use hook::{StepCall, StepHook, StepOutline};
pub use retry::RetryPolicy;
