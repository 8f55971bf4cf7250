//! What happens in a simulation, as the checkers and the trace are told.

use std::fmt;

use azdr_controller::store::{RunId, RunState};
use azdr_env::WallTime;
use http::Method;
use serde_json::Value;

/// A request to Azure.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Which life of the controller sent it; 0: somebody else.
    pub life: u64,
    /// Its method.
    pub method: Method,
    /// Lower-case path.
    pub path: String,
}

impl Asked {
    /// The key of the resource when this asks for its deletion, and it is of that ARM type (lower
    /// case, as `microsoft.compute/disks`).
    pub fn deletes(&self, kind: &str) -> Option<&str> {
        (self.method == Method::DELETE && is_of(&self.path, kind)).then_some(self.path.as_str())
    }

    /// The key of the resource when this writes it, and it is of that ARM type.
    pub fn puts(&self, kind: &str) -> Option<&str> {
        (self.method == Method::PUT && is_of(&self.path, kind)).then_some(self.path.as_str())
    }
}

fn is_of(path: &str, kind: &str) -> bool {
    let mut parts = path.rsplitn(3, '/');
    let (Some(_name), Some(last), Some(front)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((provider, of)) = kind.split_once('/') else { return false };
    last == of && front.ends_with(provider)
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// Azure is about to carry out a request: the world is still as it was before.
    Asked(Asked),
    /// Azure has answered it with this status, whether or not the answer arrived. `injected`: the
    /// status is a fault's.
    Answered(Asked, u16, bool),
    /// A machine's file systems are frozen.
    Frozen {
        /// Azure's vmId.
        vm_id: String,
        /// Of the capture.
        operation: String,
    },
    /// They are thawed.
    Thawed {
        /// Azure's vmId.
        vm_id: String,
        /// Of the capture.
        operation: String,
    },
    /// A machine's agent was told to do something.
    Told {
        /// Azure's vmId.
        vm_id: String,
        /// It is the protected VM itself, and not a machine made from a recovery point.
        own: bool,
        /// `freeze`, `thaw`, …
        what: &'static str,
    },
    /// A machine was told something before the welcome, which says what it is to the controller.
    ToldUnwelcomed {
        /// Azure's vmId.
        vm_id: String,
        /// `freeze`, `thaw`, …
        what: &'static str,
    },
    /// The API acknowledged a job.
    JobPromised(RunId),
    /// The API acknowledged a policy.
    PolicyPromised(Policy),
    /// The API acknowledged a pin.
    PinPromised(Pin),
    /// The API acknowledged that a point is pinned no more.
    PinTaken {
        /// Key of the VM.
        vm: String,
        /// The point's name.
        point: String,
    },
    /// The API acknowledged that a point is to be deleted, or its copy in one region.
    DeletionPromised {
        /// Key of the VM.
        vm: String,
        /// The point's name.
        point: String,
        /// Its copy there only; `None`: all of it.
        region: Option<String>,
    },
    /// A person has given a run up: what it leaves is theirs.
    Abandoned(RunId),
    /// Somebody who is not azdr is about to delete this.
    TakenAway(String),
    /// A run is seen in a new state.
    Run {
        /// Its number.
        id: RunId,
        /// Its workflow.
        workflow: String,
        /// Its input.
        input: Value,
        /// Where it stands.
        state: RunState,
        /// What it achieved.
        result: Value,
        /// Why it failed.
        error: Value,
        /// The kinds of the alerts that have come of it; `None`: nobody could look.
        alerts: Option<Vec<String>>,
    },
    /// A new life of the controller begins.
    LifeBegins(u64),
    /// It was killed or has ended.
    LifeEnds(u64),
    /// The controller's clock was set this far from the truth; 0: right again.
    ClockSet(i64),
    /// Somebody or something outside azdr did this.
    Disturbance(String),
}

/// What an operator asked to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Key of the VM.
    pub vm: String,
    /// Counts per tier: daily, weekly, monthly, yearly.
    pub counts: [u32; 4],
    /// Whether it is on.
    pub enabled: bool,
    /// `HH:MM` in the zone.
    pub time: String,
    /// IANA name.
    pub zone: String,
}

/// An operator's hold on a point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// Key of the VM.
    pub vm: String,
    /// The point's name.
    pub point: String,
    /// `None`: for ever.
    pub until: Option<WallTime>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked(a) => write!(f, "{}> {} {}", a.life, a.method, a.path),
            Self::Answered(a, status, _) => {
                write!(f, "{}< {} {} {status}", a.life, a.method, a.path)
            }
            Self::Frozen { vm_id, operation } => write!(f, "frozen {vm_id} {operation}"),
            Self::Thawed { vm_id, operation } => write!(f, "thawed {vm_id} {operation}"),
            Self::Told { vm_id, own, what } => write!(f, "told {vm_id} {own} {what}"),
            Self::ToldUnwelcomed { vm_id, what } => write!(f, "told unwelcomed {vm_id} {what}"),
            Self::JobPromised(id) => write!(f, "promised job {id}"),
            Self::PolicyPromised(p) => {
                let Policy { vm, counts, enabled, time, zone } = p;
                write!(f, "promised policy {vm} {counts:?} {time} {zone} on: {enabled}")
            }
            Self::PinPromised(p) => write!(f, "promised pin {} {} {:?}", p.vm, p.point, p.until),
            Self::PinTaken { vm, point } => write!(f, "promised no pin {vm} {point}"),
            Self::DeletionPromised { vm, point, region } => {
                write!(f, "promised deletion {vm} {point} {region:?}")
            }
            Self::Abandoned(run) => write!(f, "promised to abandon {run}"),
            Self::TakenAway(key) => write!(f, "somebody deletes {key}"),
            Self::Run { id, workflow, state, error, .. } => {
                write!(f, "run {id} {workflow} {}", state.as_str())?;
                match &error["kind"] {
                    Value::String(kind) => write!(f, " {kind} {}", error["message"]),
                    _ => Ok(()),
                }
            }
            Self::LifeBegins(n) => write!(f, "life {n} begins"),
            Self::LifeEnds(n) => write!(f, "life {n} ends"),
            Self::ClockSet(ms) => write!(f, "the controller's clock is set {ms} ms wrong"),
            Self::Disturbance(what) => write!(f, "disturbance: {what}"),
        }
    }
}
