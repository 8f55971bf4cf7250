//! The machine's own hooks: programs that its root has installed, run around a freeze (R20–R24), and to
//! tell how an application is (R27).
//!
//! Guided tour:
//!
//! - [`settings`]: `[hooks]` of the configuration. `checked_file`: opens a file only if nobody but root
//!   can have put it there. `installed`: which hooks there are; `azure_scripts`: the scripts of Azure
//!   Backup's configuration file as one more hook.
//! - `exec`: starts a checked descriptor; `cgroup`: what keeps its descendants together; `process`: one
//!   running verb, its limit, its output. `held`: a hook of kind `hold`, from READY to its release.
//! - `started`: the list in the run directory of what must still get its `post` or `abort`; `round`: one
//!   operation's hooks; `recovery`: what an earlier agent left behind. `checks`: the verb that belongs to
//!   no operation.
//!
//! What is run comes from files of this machine alone. The controller knows hooks by their names, in
//! what is reported; no message can choose a program, an argument or a limit (N10).
//!
//! Invariants: a verb runs from the descriptor that was checked, never from a path. Every hook whose
//! `pre` was started gets exactly one of `post` and `abort`, in reverse order; should an agent die
//! between them, the next one sees to it, and a verb that was cut short by that is run again. None runs
//! between the first FIFREEZE and the confirmed thaw: an operation waits for checks, and no check begins
//! before it is over.

mod azure_scripts;
mod cgroup;
mod checked_file;
mod checks;
mod exec;
mod held;
mod installed;
mod process;
mod recovery;
mod round;
pub mod settings;
mod started;

use std::ffi::CString;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use azdr_proto::agent::{HookKind, HookVerb};
use serde::{Deserialize, Serialize};

pub(crate) use checks::check;
pub(crate) use recovery::{is_needed as recovery_is_needed, recover};
pub(crate) use round::{Round, limit, limit_unseen, look};

/// What a hook is run for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    Pre,
    Post,
    Abort,
    Check,
}

impl Verb {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Pre => "pre",
            Self::Post => "post",
            Self::Abort => "abort",
            Self::Check => "check",
        }
    }

    const fn wire(self) -> HookVerb {
        match self {
            Self::Pre => HookVerb::Pre,
            Self::Post => HookVerb::Post,
            Self::Abort => HookVerb::Abort,
            Self::Check => HookVerb::Check,
        }
    }
}

/// Whether a hook runs to its end for each verb, or through the whole window.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// `pre`, later `post` or `abort`.
    Oneshot,
    /// Holds something from READY until its descriptor 4 ends.
    Hold,
}

impl Kind {
    const fn wire(self) -> HookKind {
        match self {
            Self::Oneshot => HookKind::Oneshot,
            Self::Hold => HookKind::Hold,
        }
    }
}

/// What becomes of an operation when a hook fails before the freeze.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing is frozen, and the backup fails.
    Fail,
    /// The freeze goes on without the hook: for the application it is as after a crash.
    CrashConsistent,
}

/// A program that was checked, with its arguments.
#[derive(Clone, Debug)]
struct Program {
    file: Arc<File>,
    /// For messages only.
    path: String,
    /// `None`: the verb and the operation's id. Else as root's configuration has them.
    arguments: Option<Vec<CString>>,
}

/// A hook that may run.
#[derive(Clone, Debug)]
pub(crate) struct Hook {
    name: String,
    kind: Kind,
    application: bool,
    pre_limit: Duration,
    post_limit: Duration,
    check_limit: Duration,
    /// For `pre` and `check`.
    pre: Program,
    /// For `post` and `abort`.
    post: Program,
}

impl Hook {
    fn program(&self, verb: Verb) -> &Program {
        match verb {
            Verb::Pre | Verb::Check => &self.pre,
            Verb::Post | Verb::Abort => &self.post,
        }
    }

    fn limit(&self, verb: Verb) -> Duration {
        match verb {
            Verb::Pre => self.pre_limit,
            Verb::Post | Verb::Abort => self.post_limit,
            Verb::Check => self.check_limit,
        }
    }
}
