//! The messages between the agent and the thaw process: fixed layout, little-endian, one message
//! per packet of a SOCK_SEQPACKET socket.
//!
//! Encoding and decoding never allocate. Every message starts with a magic number that carries the
//! version, its kind and the operation id; a message that does not parse is refused, never guessed.

/// The most file systems that one operation can hold.
pub const MAX_FILE_SYSTEMS: usize = 64;
/// The longest message in bytes.
pub const MAX_MESSAGE: usize = 4096;
/// The longest operation id in bytes.
pub const OPERATION_ID_LEN: usize = 64;
/// From the first FIFREEZE to the last one's return; over this, everything is thawed again.
pub const FREEZE_LIMIT_MS: u32 = 3_000;
/// The shortest and longest lease.
pub const LEASE_RANGE_MS: (u32, u32) = (500, 10_000);
/// The shortest and longest hold limit.
pub const HOLD_LIMIT_RANGE_MS: (u32, u32) = (1_000, 25_000);

const MAGIC: u32 = 0x617a_7401;

/// An operation's id: at most 64 bytes, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OperationId([u8; OPERATION_ID_LEN]);

impl OperationId {
    /// No operation.
    pub const NONE: Self = Self([0; OPERATION_ID_LEN]);

    /// From 1 to 64 characters of `[0-9a-z-]`; `None` for anything else.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: &u8| b.is_ascii_digit() || b.is_ascii_lowercase() || *b == b'-';
        if text.is_empty() || text.len() > OPERATION_ID_LEN || !text.as_bytes().iter().all(allowed)
        {
            return None;
        }
        let mut bytes = [0; OPERATION_ID_LEN];
        bytes.iter_mut().zip(text.as_bytes()).for_each(|(to, from)| *to = *from);
        Some(Self(bytes))
    }

    /// The id as text; empty for [`OperationId::NONE`].
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|b| *b == 0).unwrap_or(OPERATION_ID_LEN);
        self.0.get(..end).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }
}

impl std::fmt::Debug for OperationId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the agent asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Get everything ready. The descriptors of the file systems' roots come with this message, one
    /// per level, in the same order.
    Prepare(Prepare),
    /// Freeze what was prepared.
    Freeze(OperationId),
    /// Extend the lease to its full length from now.
    Renew(OperationId),
    /// Thaw. Whatever the id says, everything held is thawed.
    Thaw(OperationId),
    /// Say which state this process is in.
    Status,
    /// Say how an operation ended; only the last one's result is kept.
    LastResult(OperationId),
}

/// An operation's limits and order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// Names the operation.
    pub operation: OperationId,
    /// See [`LEASE_RANGE_MS`].
    pub lease_ms: u32,
    /// See [`HOLD_LIMIT_RANGE_MS`].
    pub hold_limit_ms: u32,
    /// How many file systems.
    pub count: u8,
    /// Nesting level of each: level 0 is frozen first and thawed last.
    pub levels: [u8; MAX_FILE_SYSTEMS],
}

/// What the thaw process answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// Everything is ready; nothing is frozen yet.
    Armed(OperationId),
    /// All file systems are frozen and the lease runs.
    Frozen(Report),
    /// Everything that was frozen has been thawed; also the end of an operation that failed.
    Thawed(Report),
    /// Nothing was done.
    Refused(OperationId, Refusal),
    /// The answer to [`Request::Status`]; also sent unasked when a thaw cannot be confirmed.
    Status(OperationId, State),
}

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Refusal {
    /// The message does not parse, or a limit is out of range.
    Malformed = 1,
    /// Another operation is not over yet.
    Busy = 2,
    /// The operation is not known, or not in the state that the request needs.
    UnknownOperation = 3,
    /// Memory, threads or the freezer could not be made ready.
    NotReady = 4,
    /// This process is about to end.
    ShuttingDown = 5,
}

/// The thaw process's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum State {
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
    /// A thaw could not be confirmed within a second: retried for ever, new operations refused.
    Poisoned = 6,
}

/// Why an operation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cause {
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
    /// This process was told to end.
    Shutdown = 5,
    /// A FIFREEZE failed, blocked past the limit, or the freezer died.
    FreezeFailed = 6,
    /// The operation ended before anything was frozen.
    NotFrozen = 7,
}

/// What became of one file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// Never touched.
    Untouched = 0,
    /// FIFREEZE was refused by the kernel: see `freeze_errno`. Never thawed by us.
    NotFrozen = 1,
    /// Frozen now.
    Frozen = 2,
    /// Thawed by our first FITHAW.
    Thawed = 3,
    /// Somebody else had thawed it before us.
    ThawedByOther = 4,
    /// FIFREEZE or FITHAW has not returned yet.
    InFlight = 5,
}

/// One file system's part of a [`Report`]. Times are CLOCK_MONOTONIC in nanoseconds, 0 = never.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What became of it.
    pub outcome: Outcome,
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

impl Entry {
    const EMPTY: Self = Self {
        outcome: Outcome::Untouched,
        freeze_errno: 0,
        first_thaw_errno: 0,
        from_ns: 0,
        frozen_ns: 0,
        to_ns: 0,
    };
}

/// Facts about an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// The operation.
    pub operation: OperationId,
    /// Why it ended.
    pub cause: Cause,
    /// Its hold limit.
    pub hold_limit_ms: u32,
    count: u8,
    entries: [Entry; MAX_FILE_SYSTEMS],
}

impl Report {
    /// A report on `entries`, in the order of [`Prepare`]; what exceeds 64 is left out.
    pub fn new(
        operation: OperationId,
        cause: Cause,
        hold_limit_ms: u32,
        entries: impl Iterator<Item = Entry>,
    ) -> Self {
        let mut report =
            Self { operation, cause, hold_limit_ms, count: 0, entries: [Entry::EMPTY; 64] };
        for (to, from) in report.entries.iter_mut().zip(entries) {
            *to = from;
            report.count += 1;
        }
        report
    }

    /// One entry per file system, in the order of [`Prepare`].
    pub fn entries(&self) -> &[Entry] {
        self.entries.get(..usize::from(self.count)).unwrap_or(&[])
    }

    /// From the first FIFREEZE to the last return of `end`; 0 when nothing was frozen.
    fn span_ms(&self, end: impl Fn(&Entry) -> u64) -> u32 {
        let touched = || self.entries().iter().filter(|e| e.from_ns > 0);
        let from = touched().map(|e| e.from_ns).min().unwrap_or(0);
        let to = touched().map(end).max().unwrap_or(0);
        u32::try_from(to.saturating_sub(from).div_ceil(1_000_000)).unwrap_or(u32::MAX)
    }

    /// From the first FIFREEZE to the last one's return.
    pub fn freeze_ms(&self) -> u32 {
        self.span_ms(|e| e.frozen_ns)
    }

    /// From the first FIFREEZE to the last FITHAW's return.
    pub fn window_ms(&self) -> u32 {
        self.span_ms(|e| e.to_ns)
    }

    /// True only if every file system was frozen by us, held until the agent asked, thawed by our
    /// first FITHAW, and the window kept to the hold limit. An empty report is never unbroken.
    pub fn unbroken(&self) -> bool {
        self.cause == Cause::Command
            && !self.entries().is_empty()
            && self.entries().iter().all(|e| e.outcome == Outcome::Thawed)
            && self.window_ms() <= self.hold_limit_ms
    }
}

/// Writes numbers into a message; what does not fit is dropped, which [`MAX_MESSAGE`] rules out.
struct Writer<'a> {
    buf: &'a mut [u8; MAX_MESSAGE],
    len: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        if let Some(to) = self.buf.get_mut(self.len..self.len + bytes.len()) {
            to.copy_from_slice(bytes);
            self.len += bytes.len();
        }
        self
    }

    fn head(&mut self, kind: u8, operation: &OperationId) -> &mut Self {
        self.bytes(&MAGIC.to_le_bytes()).bytes(&[kind]).bytes(&operation.0)
    }
}

/// Reads numbers from a message; every read past its end is `None`.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[b]| b)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn head(&mut self) -> Option<(u8, OperationId)> {
        if self.u32()? != MAGIC {
            return None;
        }
        Some((self.u8()?, OperationId(self.take()?)))
    }
}

impl Request {
    /// Writes the message into `buf` and returns its length.
    pub fn encode(&self, buf: &mut [u8; MAX_MESSAGE]) -> usize {
        let mut w = Writer { buf, len: 0 };
        match self {
            Self::Prepare(p) => {
                w.head(1, &p.operation).bytes(&p.lease_ms.to_le_bytes());
                w.bytes(&p.hold_limit_ms.to_le_bytes()).bytes(&[p.count]).bytes(&p.levels);
            }
            Self::Freeze(operation) => _ = w.head(2, operation),
            Self::Renew(operation) => _ = w.head(3, operation),
            Self::Thaw(operation) => _ = w.head(4, operation),
            Self::Status => _ = w.head(5, &OperationId::NONE),
            Self::LastResult(operation) => _ = w.head(6, operation),
        }
        w.len
    }

    /// Reads a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let (kind, operation) = r.head()?;
        Some(match kind {
            1 => Self::Prepare(Prepare {
                operation,
                lease_ms: r.u32()?,
                hold_limit_ms: r.u32()?,
                count: r.u8()?,
                levels: r.take()?,
            }),
            2 => Self::Freeze(operation),
            3 => Self::Renew(operation),
            4 => Self::Thaw(operation),
            5 => Self::Status,
            6 => Self::LastResult(operation),
            _ => return None,
        })
    }
}

impl Reply {
    /// Writes the message into `buf` and returns its length.
    pub fn encode(&self, buf: &mut [u8; MAX_MESSAGE]) -> usize {
        let mut w = Writer { buf, len: 0 };
        match self {
            Self::Armed(operation) => _ = w.head(1, operation),
            Self::Frozen(report) => encode_report(&mut w, 2, report),
            Self::Thawed(report) => encode_report(&mut w, 3, report),
            Self::Refused(operation, refusal) => _ = w.head(4, operation).bytes(&[*refusal as u8]),
            Self::Status(operation, state) => _ = w.head(5, operation).bytes(&[*state as u8]),
        }
        w.len
    }

    /// Reads a message; `None` when it is not one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut r = Reader(bytes);
        let (kind, operation) = r.head()?;
        Some(match kind {
            1 => Self::Armed(operation),
            2 => Self::Frozen(decode_report(&mut r, operation)?),
            3 => Self::Thawed(decode_report(&mut r, operation)?),
            4 => Self::Refused(operation, refusal(r.u8()?)?),
            5 => Self::Status(operation, state(r.u8()?)?),
            _ => return None,
        })
    }
}

fn encode_report(w: &mut Writer<'_>, kind: u8, report: &Report) {
    w.head(kind, &report.operation).bytes(&[report.cause as u8]);
    w.bytes(&report.hold_limit_ms.to_le_bytes()).bytes(&[report.count]);
    for entry in report.entries() {
        w.bytes(&[entry.outcome as u8]).bytes(&entry.freeze_errno.to_le_bytes());
        w.bytes(&entry.first_thaw_errno.to_le_bytes()).bytes(&entry.from_ns.to_le_bytes());
        w.bytes(&entry.frozen_ns.to_le_bytes()).bytes(&entry.to_ns.to_le_bytes());
    }
}

fn decode_report(r: &mut Reader<'_>, operation: OperationId) -> Option<Report> {
    let (cause, hold_limit_ms, count) = (cause(r.u8()?)?, r.u32()?, r.u8()?);
    if usize::from(count) > MAX_FILE_SYSTEMS {
        return None;
    }
    let mut report = Report { operation, cause, hold_limit_ms, count, entries: [Entry::EMPTY; 64] };
    for entry in report.entries.iter_mut().take(usize::from(count)) {
        *entry = Entry {
            outcome: outcome(r.u8()?)?,
            freeze_errno: r.i32()?,
            first_thaw_errno: r.i32()?,
            from_ns: r.u64()?,
            frozen_ns: r.u64()?,
            to_ns: r.u64()?,
        };
    }
    Some(report)
}

fn find<T: Copy>(all: &[T], byte: u8, code: impl Fn(T) -> u8) -> Option<T> {
    all.iter().copied().find(|value| code(*value) == byte)
}

fn refusal(byte: u8) -> Option<Refusal> {
    use Refusal::{Busy, Malformed, NotReady, ShuttingDown, UnknownOperation};
    find(&[Malformed, Busy, UnknownOperation, NotReady, ShuttingDown], byte, |v| v as u8)
}

fn state(byte: u8) -> Option<State> {
    use State::{Armed, Freezing, Frozen, Idle, Poisoned, Thawing};
    find(&[Idle, Armed, Freezing, Frozen, Thawing, Poisoned], byte, |v| v as u8)
}

fn cause(byte: u8) -> Option<Cause> {
    use Cause::{AgentDied, Command, FreezeFailed, HoldLimit, LeaseExpired, NotFrozen, Shutdown};
    const NONE: Cause = Cause::None;
    let all =
        [NONE, Command, LeaseExpired, HoldLimit, AgentDied, Shutdown, FreezeFailed, NotFrozen];
    find(&all, byte, |v| v as u8)
}

fn outcome(byte: u8) -> Option<Outcome> {
    use Outcome::{Frozen, InFlight, NotFrozen, Thawed, ThawedByOther, Untouched};
    find(&[Untouched, NotFrozen, Frozen, Thawed, ThawedByOther, InFlight], byte, |v| v as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(outcome: Outcome) -> Entry {
        Entry {
            outcome,
            from_ns: 1_000_000,
            frozen_ns: 2_000_000,
            to_ns: 9_000_000,
            ..Entry::EMPTY
        }
    }

    #[test]
    fn every_message_survives_encoding_and_fits() {
        let operation = OperationId::new("0af3-op").unwrap();
        let mut levels = [0; MAX_FILE_SYSTEMS];
        levels[63] = 7;
        let prepare =
            Prepare { operation, lease_ms: 3_000, hold_limit_ms: 10_000, count: 64, levels };
        for request in [
            Request::Prepare(prepare),
            Request::Freeze(operation),
            Request::Renew(operation),
            Request::Thaw(operation),
            Request::Status,
            Request::LastResult(operation),
        ] {
            let mut buf = [0; MAX_MESSAGE];
            let len = request.encode(&mut buf);
            assert_eq!(Request::decode(&buf[..len]), Some(request));
            assert_eq!(Request::decode(&buf[..len - 1]), None, "a cut message is refused");
        }
        let full = Report::new(
            operation,
            Cause::HoldLimit,
            10_000,
            [entry(Outcome::ThawedByOther); 64].into_iter(),
        );
        for reply in [
            Reply::Armed(operation),
            Reply::Frozen(full),
            Reply::Thawed(full),
            Reply::Refused(operation, Refusal::Busy),
            Reply::Status(operation, State::Poisoned),
        ] {
            let mut buf = [0; MAX_MESSAGE];
            let len = reply.encode(&mut buf);
            assert_eq!(Reply::decode(&buf[..len]), Some(reply));
            assert_eq!(Reply::decode(&buf[..len - 1]), None, "a cut message is refused");
        }
    }

    #[test]
    fn an_operation_id_takes_only_what_the_interface_allows() {
        assert!(OperationId::new(&"a".repeat(64)).is_some());
        for bad in ["", "A", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(OperationId::new(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn only_a_freeze_held_to_our_own_thaw_within_the_limit_is_unbroken() {
        let report = |cause, limit, outcomes: &[Outcome]| {
            Report::new(OperationId::NONE, cause, limit, outcomes.iter().map(|o| entry(*o)))
        };
        let whole = [Outcome::Thawed, Outcome::Thawed];
        assert!(report(Cause::Command, 10, &whole).unbroken());
        assert!(!report(Cause::Command, 7, &whole).unbroken(), "8 ms is over 7");
        assert!(!report(Cause::LeaseExpired, 10, &whole).unbroken());
        assert!(!report(Cause::Command, 10, &[]).unbroken());
        for other in [Outcome::ThawedByOther, Outcome::NotFrozen, Outcome::Untouched] {
            assert!(!report(Cause::Command, 10, &[Outcome::Thawed, other]).unbroken());
        }
    }
}
