//! The messages between the agent and the thaw process: one fixed layout each way, in the machine's
//! byte order, over a stream socket of this machine.
//!
//! Every message starts with a magic number that carries the version. One of another length ends the
//! connection; another magic or an unknown number is refused, never guessed. Nobody reads a number as
//! an enum without [`Ask::from_number`] and the like.
//!
//! A crate of its own, plain data without dependencies, so that neither side has the other's code in it:
//! the agent nothing of what freezes, and the privileged process nothing that it does not need.

use std::ops::RangeInclusive;

/// Where the agent finds the thaw process, unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/azdr/thawd.sock";
/// The most file systems that one operation can hold.
pub const MAX_FILE_SYSTEMS: usize = 64;
/// From the first FIFREEZE to the last one's return; over this, everything is thawed again.
pub const FREEZE_LIMIT_MS: u32 = 3_000;
/// The shortest and longest lease.
pub const LEASE_RANGE_MS: RangeInclusive<u32> = 500..=10_000;
/// The shortest and longest hold limit.
pub const HOLD_LIMIT_RANGE_MS: RangeInclusive<u32> = 1_000..=25_000;
/// The first word of every message.
pub const MAGIC: u32 = 0x617a_7402;

/// Names an operation; what the bytes say is the agent's business.
pub type OperationId = [u8; 64];
/// No operation.
pub const NO_OPERATION: OperationId = [0; 64];

/// Enums that cross the socket as numbers.
macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $value:ident = $number:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u32)]
        pub enum $name { $($(#[$about])* $value = $number,)* }

        impl $name {
            /// The value with this number, if there is one.
            pub fn from_number(number: u32) -> Option<Self> {
                [$(Self::$value),*].into_iter().find(|value| *value as u32 == number)
            }
        }
    )*};
}

numbers! {
    /// What the agent asks for.
    Ask {
        /// Get everything ready. The descriptors of the file systems' roots come with this message,
        /// one per level, in the same order.
        Prepare = 1,
        /// Freeze what was prepared.
        Freeze = 2,
        /// Extend the lease to its full length from now.
        Renew = 3,
        /// Thaw. Whatever the id says, everything held is thawed.
        Thaw = 4,
        /// Say which state this program is in.
        Status = 5,
        /// Say how an operation ended; only the last one's result is kept.
        LastResult = 6,
    }

    /// What the thaw process answers.
    Answer {
        /// Everything is ready; nothing is frozen yet.
        Armed = 1,
        /// All file systems are frozen and the lease runs.
        Frozen = 2,
        /// Everything that was frozen has been thawed; also the end of an operation that failed.
        Thawed = 3,
        /// Nothing was done; the code is a [`Refusal`].
        Refused = 4,
        /// The code is a [`State`]; also sent unasked when a thaw cannot be confirmed.
        Status = 5,
    }

    /// Why a request was refused.
    Refusal {
        /// The message does not parse, or a limit is out of range.
        Malformed = 1,
        /// Another operation is not over yet.
        Busy = 2,
        /// The operation is not known, or not in the state that the request needs.
        UnknownOperation = 3,
        /// Memory, threads, the freezer or the seccomp filter could not be made ready.
        NotReady = 4,
    }

    /// The thaw process's state.
    State {
        /// Nothing is held.
        Idle = 1,
        /// Ready to freeze.
        Armed = 2,
        /// FIFREEZE calls are in flight.
        Freezing = 3,
        /// Everything is frozen.
        Frozen = 4,
        /// FITHAW calls are in flight.
        Thawing = 5,
        /// A thaw could not be confirmed within a second: retried for ever, operations refused.
        Poisoned = 6,
    }

    /// Why an operation ended.
    Cause {
        /// Not ended yet.
        None = 0,
        /// The agent asked.
        Command = 1,
        /// No renewal came in time.
        LeaseExpired = 2,
        /// The absolute limit passed.
        HoldLimit = 3,
        /// The agent's process or connection is gone.
        AgentDied = 4,
        /// This program was told to end.
        Shutdown = 5,
        /// A FIFREEZE failed, blocked past the limit, or the freezer died.
        FreezeFailed = 6,
        /// The operation ended before anything was frozen.
        NotFrozen = 7,
        /// The operation's process died or hung; the supervisor thawed.
        ThawProcessDied = 8,
    }

    /// What became of one file system. The arrows are in `slots`.
    Outcome {
        /// Not touched yet.
        Waiting = 0,
        /// FIFREEZE or FITHAW has not returned yet.
        InFlight = 1,
        /// Frozen now.
        Frozen = 2,
        /// FIFREEZE was refused by the kernel: see `freeze_errno`. Never thawed by us.
        NotFrozen = 3,
        /// Never touched.
        Untouched = 4,
        /// Thawed by our first successful FITHAW.
        Thawed = 5,
        /// Somebody else had thawed it before us.
        ThawedByOther = 6,
    }
}

/// The agent's message.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Request {
    /// [`MAGIC`].
    pub magic: u32,
    /// An [`Ask`].
    pub ask: u32,
    /// The operation.
    pub operation: OperationId,
    /// See [`LEASE_RANGE_MS`]; this and the rest matter to [`Ask::Prepare`] only.
    pub lease_ms: u32,
    /// See [`HOLD_LIMIT_RANGE_MS`].
    pub hold_limit_ms: u32,
    /// How many file systems.
    pub count: u32,
    /// Nesting level of each: level 0 is frozen first and thawed last.
    pub levels: [u8; MAX_FILE_SYSTEMS],
}

/// The thaw process's message.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Reply {
    /// [`MAGIC`].
    pub magic: u32,
    /// An [`Answer`].
    pub answer: u32,
    /// The operation.
    pub operation: OperationId,
    /// A [`Refusal`], [`State`] or [`Cause`]: the answer says which.
    pub code: u32,
    /// The operation's hold limit.
    pub hold_limit_ms: u32,
    /// Calls between ARMED and now that the seccomp filters, or the kernel, refused with EPERM.
    pub refused_calls: u32,
    /// How many of the entries count.
    pub count: u32,
    /// One per file system, in the order of the request.
    pub entries: [Entry; MAX_FILE_SYSTEMS],
}

/// One file system's part. Times are CLOCK_MONOTONIC in nanoseconds, 0 = never.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// An [`Outcome`].
    pub outcome: u32,
    /// Its nesting level.
    pub level: u32,
    /// What FIFREEZE failed with, or 0.
    pub freeze_errno: i32,
    /// What the first FITHAW returned: 0, or an errno such as EINVAL.
    pub first_thaw_errno: i32,
    /// Just before FIFREEZE.
    pub from_ns: u64,
    /// When FIFREEZE had returned.
    pub frozen_ns: u64,
    /// When FITHAW had returned.
    pub to_ns: u64,
}

// Messages cross the socket as they are in memory: integers only, for which every bit pattern is a
// value, and no room for padding.
const _: () = assert!(size_of::<Request>() == 5 * 4 + 64 + MAX_FILE_SYSTEMS);
const _: () = assert!(size_of::<Reply>() == 6 * 4 + 64 + MAX_FILE_SYSTEMS * (4 * 4 + 3 * 8));

impl Reply {
    /// A message without entries.
    pub fn new(answer: Answer, operation: OperationId, code: u32) -> Self {
        // SAFETY: integers only, for which zeros are a value.
        let empty = unsafe { std::mem::zeroed() };
        Self { magic: MAGIC, answer: answer as u32, operation, code, ..empty }
    }
}
