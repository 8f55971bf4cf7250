//! The messages as the agent thinks of them, and their way into and out of the fixed layout of
//! [`azdr_thawd_protocol`].

use azdr_thawd_protocol::{
    self as wire, Answer, Ask, Cause, MAGIC, MAX_FILE_SYSTEMS, Outcome, Refusal, State,
};

use crate::{Entry, Report};

/// The longest operation id in bytes.
const OPERATION_ID_LEN: usize = size_of::<wire::OperationId>();

/// An operation's id: at most 64 bytes, padded with zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct OperationId(wire::OperationId);

impl OperationId {
    /// No operation.
    pub const NONE: Self = Self(wire::NO_OPERATION);

    /// From 1 to 64 characters of `[0-9a-z-]`; `None` for anything else.
    pub fn new(text: &str) -> Option<Self> {
        let allowed = |b: &u8| b.is_ascii_digit() || b.is_ascii_lowercase() || *b == b'-';
        if text.is_empty() || text.len() > OPERATION_ID_LEN || !text.as_bytes().iter().all(allowed)
        {
            return None;
        }
        let mut bytes = wire::NO_OPERATION;
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
    /// See [`Ask::Prepare`]; [`crate::Client::prepare`] sends the descriptors with it.
    Prepare(Prepare),
    /// See [`Ask::Freeze`].
    Freeze(OperationId),
    /// See [`Ask::Renew`].
    Renew(OperationId),
    /// See [`Ask::Thaw`].
    Thaw(OperationId),
    /// See [`Ask::Status`].
    Status,
    /// See [`Ask::LastResult`].
    LastResult(OperationId),
}

/// An operation's limits and order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prepare {
    /// Names the operation.
    pub operation: OperationId,
    /// See [`wire::LEASE_RANGE_MS`].
    pub lease_ms: u32,
    /// See [`wire::HOLD_LIMIT_RANGE_MS`].
    pub hold_limit_ms: u32,
    /// How many file systems.
    pub count: u8,
    /// Nesting level of each: level 0 is frozen first and thawed last.
    pub levels: [u8; MAX_FILE_SYSTEMS],
}

/// What the thaw process answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// See [`Answer::Armed`].
    Armed(OperationId),
    /// See [`Answer::Frozen`].
    Frozen(Report),
    /// See [`Answer::Thawed`].
    Thawed(Report),
    /// See [`Answer::Refused`].
    Refused(OperationId, Refusal),
    /// See [`Answer::Status`].
    Status(OperationId, State),
}

impl Request {
    /// The message.
    pub(crate) fn encode(&self) -> wire::Request {
        match *self {
            Self::Prepare(prepare) => wire::Request {
                lease_ms: prepare.lease_ms,
                hold_limit_ms: prepare.hold_limit_ms,
                count: prepare.count.into(),
                levels: prepare.levels,
                ..plain(Ask::Prepare, prepare.operation)
            },
            Self::Freeze(operation) => plain(Ask::Freeze, operation),
            Self::Renew(operation) => plain(Ask::Renew, operation),
            Self::Thaw(operation) => plain(Ask::Thaw, operation),
            Self::Status => plain(Ask::Status, OperationId::NONE),
            Self::LastResult(operation) => plain(Ask::LastResult, operation),
        }
    }
}

/// A message without values.
fn plain(ask: Ask, operation: OperationId) -> wire::Request {
    wire::Request {
        magic: MAGIC,
        ask: ask as u32,
        operation: operation.0,
        lease_ms: 0,
        hold_limit_ms: 0,
        count: 0,
        levels: [0; MAX_FILE_SYSTEMS],
    }
}

impl Reply {
    /// Reads a message; `None` when it is not one.
    pub(crate) fn decode(message: &wire::Reply) -> Option<Self> {
        if message.magic != MAGIC {
            return None;
        }
        let operation = OperationId(message.operation);
        Some(match Answer::from_number(message.answer)? {
            Answer::Armed => Self::Armed(operation),
            Answer::Frozen => Self::Frozen(report(message)?),
            Answer::Thawed => Self::Thawed(report(message)?),
            Answer::Refused => Self::Refused(operation, Refusal::from_number(message.code)?),
            Answer::Status => Self::Status(operation, State::from_number(message.code)?),
        })
    }
}

fn report(message: &wire::Reply) -> Option<Report> {
    let count = usize::try_from(message.count).ok()?;
    let mut entries = [Entry::UNTOUCHED; MAX_FILE_SYSTEMS];
    for (to, from) in entries.iter_mut().zip(message.entries.get(..count)?) {
        *to = Entry {
            outcome: Outcome::from_number(from.outcome)?,
            freeze_errno: from.freeze_errno,
            first_thaw_errno: from.first_thaw_errno,
            from_ns: from.from_ns,
            frozen_ns: from.frozen_ns,
            to_ns: from.to_ns,
        };
    }
    Some(Report {
        operation: OperationId(message.operation),
        cause: Cause::from_number(message.code)?,
        hold_limit_ms: message.hold_limit_ms,
        refused_calls: message.refused_calls,
        count,
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_id_takes_only_what_the_interface_allows() {
        assert!(OperationId::new(&"a".repeat(64)).is_some());
        for bad in ["", "A", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert!(OperationId::new(bad).is_none(), "{bad}");
        }
        assert_eq!(OperationId::new("0af3-op").unwrap().as_str(), "0af3-op");
        assert_eq!(OperationId::NONE.as_str(), "");
    }

    #[test]
    fn a_request_says_all_that_it_was_made_of() {
        let operation = OperationId::new("0af3-op").unwrap();
        let mut levels = [0; MAX_FILE_SYSTEMS];
        levels[63] = 7;
        let prepare =
            Prepare { operation, lease_ms: 3_000, hold_limit_ms: 10_000, count: 64, levels };
        for (request, ask) in [
            (Request::Prepare(prepare), Ask::Prepare),
            (Request::Freeze(operation), Ask::Freeze),
            (Request::Renew(operation), Ask::Renew),
            (Request::Thaw(operation), Ask::Thaw),
            (Request::LastResult(operation), Ask::LastResult),
        ] {
            let message = request.encode();
            assert_eq!((message.magic, Ask::from_number(message.ask)), (MAGIC, Some(ask)));
            assert_eq!(message.operation, operation.0);
        }
        assert_eq!(Request::Status.encode().operation, wire::NO_OPERATION);
        let message = Request::Prepare(prepare).encode();
        assert_eq!((message.lease_ms, message.hold_limit_ms, message.count), (3_000, 10_000, 64));
        assert_eq!(message.levels, levels);
    }

    #[test]
    fn a_reply_with_any_unknown_number_is_refused() {
        let operation = OperationId::new("op").unwrap();
        let good = wire::Reply {
            count: 64,
            hold_limit_ms: 10_000,
            refused_calls: 3,
            ..wire::Reply::new(Answer::Thawed, operation.0, Cause::ThawProcessDied as u32)
        };
        let Some(Reply::Thawed(report)) = Reply::decode(&good) else { panic!("a good one") };
        assert_eq!((report.operation, report.cause), (operation, Cause::ThawProcessDied));
        assert_eq!((report.entries().len(), report.hold_limit_ms), (64, 10_000));
        assert_eq!(report.refused_calls, 3);
        let mut outcome = good;
        outcome.entries[63].outcome = 99;
        for bad in [
            wire::Reply { magic: MAGIC - 1, ..good },
            wire::Reply { answer: 0, ..good },
            wire::Reply { code: 99, ..good },
            wire::Reply { count: 65, ..good },
            outcome,
            wire::Reply::new(Answer::Refused, operation.0, 0),
            wire::Reply::new(Answer::Status, operation.0, 7),
        ] {
            assert_eq!(Reply::decode(&bad), None);
        }
    }
}
