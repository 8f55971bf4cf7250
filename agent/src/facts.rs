//! The thaw process's report in the words of the interface. Nothing here is better than the report:
//! `unbroken` needs positive evidence, and any doubt takes it away (N11, I4).

use std::io;

use azdr_env::WallTime;
use azdr_proto::agent::{
    FileSystemReport, FileSystemState, FileSystemWindow, ThawCause, ThawReply,
};
use azdr_thawd_client::{Cause, Entry, FREEZE_LIMIT_MS, Outcome, Report};

use crate::canary::Sight;
use crate::presync::Presync;
use crate::survey::{Covered, Survey};

const THAW_PROCESS_DIED: &str =
    "azdr-thawd's process for this operation died; its other one thawed";

/// One line per covered file system.
pub(crate) fn file_system_reports(
    report: &Report,
    survey: &Survey,
    presync: &Presync,
) -> Vec<FileSystemReport> {
    let lines = survey.covered.iter().zip(report.entries());
    lines
        .map(|(covered, entry)| match entry.outcome {
            Outcome::Frozen => {
                let note = presync.over_limit(&covered.mount_point.to_string_lossy());
                covered.report(FileSystemState::Frozen, note.unwrap_or_default().to_owned())
            }
            _ => covered.report(FileSystemState::Failed, outcome_in_words(entry)),
        })
        .collect()
}

fn outcome_in_words(entry: &Entry) -> String {
    match entry.outcome {
        Outcome::Waiting | Outcome::Untouched => "not reached".to_owned(),
        Outcome::Frozen => "frozen".to_owned(),
        Outcome::NotFrozen if entry.freeze_errno == libc::EBUSY => {
            "somebody else has frozen it".to_owned()
        }
        Outcome::NotFrozen => io::Error::from_raw_os_error(entry.freeze_errno).to_string(),
        Outcome::Thawed => "frozen, and thawed again".to_owned(),
        Outcome::ThawedByOther => "somebody else thawed it".to_owned(),
        Outcome::InFlight => "its freeze or thaw has not ended".to_owned(),
    }
}

/// Why an operation ended without FROZEN.
pub(crate) fn why_not_frozen(report: &Report, survey: &Survey) -> String {
    match report.cause {
        Cause::Command => "a thaw was asked for".to_owned(),
        Cause::AgentDied => "azdr-thawd lost this agent".to_owned(),
        Cause::Shutdown => "azdr-thawd was told to end".to_owned(),
        Cause::ThawProcessDied => THAW_PROCESS_DIED.to_owned(),
        _ => {
            let lines = || survey.covered.iter().zip(report.entries());
            let place = |covered: &Covered| covered.mount_point.display().to_string();
            if let Some((covered, entry)) = lines().find(|(_, e)| e.outcome == Outcome::NotFrozen) {
                return format!("{}: {}", place(covered), outcome_in_words(entry));
            }
            let late = lines().filter(|(_, entry)| was_late(report, entry));
            let late: Vec<String> = late.map(|(covered, _)| place(covered)).collect();
            match late.as_slice() {
                [] => "not everything was frozen within 3 s".to_owned(),
                late => format!("{} was not frozen within 3 s", late.join(", ")),
            }
        }
    }
}

/// Whether a file system's freeze was begun, and had not ended when the time for all of them was over.
fn was_late(report: &Report, entry: &Entry) -> bool {
    let begun = |entry: &Entry| (entry.from_ns > 0).then_some(entry.from_ns);
    let Some(first) = report.entries().iter().filter_map(begun).min() else { return false };
    let over = first + u64::from(FREEZE_LIMIT_MS) * 1_000_000;
    begun(entry).is_some() && (entry.frozen_ns == 0 || entry.frozen_ns >= over)
}

/// The facts of a thaw that was asked for at `asked_ns` (0: never); `sights` are what the canaries show,
/// none if they were not sent; `wall` is the date now.
pub(crate) fn thaw_reply(
    report: &Report,
    survey: &Survey,
    presync: &Presync,
    sights: &[Sight],
    asked_ns: u64,
    wall: WallTime,
) -> ThawReply {
    let monotonic_now = azdr_thawd_client::monotonic_ns();
    let unix_ms = |ns: u64| {
        let ago_ms = monotonic_now.saturating_sub(ns) / 1_000_000;
        wall.unix_ms().saturating_sub_unsigned(ago_ms)
    };
    let sight_of = |index: usize| sights.get(index).copied().unwrap_or_default();
    let doubt = |index: usize, covered: &Covered, entry: &Entry| {
        let seen = match entry.outcome {
            // Of a freeze that ended otherwise, the cause says enough.
            Outcome::Thawed if report.cause == Cause::Command && !sights.is_empty() => {
                sight_of(index).doubt(entry.frozen_ns, asked_ns)
            }
            Outcome::Thawed => None,
            _ => Some(outcome_in_words(entry)),
        };
        // However well it was frozen: what applications have written may be missing.
        let unwritten = presync.failure(&covered.mount_point.to_string_lossy());
        let doubts: Vec<String> = unwritten.into_iter().chain(seen).collect();
        (!doubts.is_empty()).then(|| doubts.join("; "))
    };
    let window = |(index, (covered, entry)): (usize, (&Covered, &Entry))| {
        let first_thaw_succeeded = entry.to_ns > 0 && entry.first_thaw_errno == 0;
        let sight = sight_of(index);
        FileSystemWindow {
            mount_point: covered.mount_point.to_string_lossy().into_owned(),
            frozen_from_ns: entry.from_ns,
            frozen_to_ns: entry.to_ns,
            frozen_from_unix_ms: unix_ms(entry.from_ns),
            frozen_to_unix_ms: unix_ms(entry.to_ns),
            first_thaw_succeeded,
            canary_blocked: sight.blocked_ns > 0,
            canary_released_ns: sight.released_ns,
            // Whom somebody else released may be scheduled no sooner than after our own order.
            canary_released_by_thaw: first_thaw_succeeded && sight.released_by_thaw(asked_ns),
            reason: doubt(index, covered, entry).unwrap_or_default(),
        }
    };
    let lines = || survey.covered.iter().zip(report.entries()).enumerate();
    let mut reply = ThawReply {
        operation_id: report.operation.as_str().to_owned(),
        unbroken: report.unbroken() && report.entries().len() == survey.covered.len(),
        cause: cause(report.cause).into(),
        reason: why_broken(report, survey),
        windows: lines().filter(|(_, (_, e))| e.from_ns > 0).map(window).collect(),
        window_ms: report.window_ms(),
        ..ThawReply::default()
    };
    for (index, (covered, entry)) in lines().filter(|(_, (_, e))| e.outcome == Outcome::Thawed) {
        if let Some(doubt) = doubt(index, covered, entry) {
            spoil(&mut reply, &format!("{}: {doubt}", covered.mount_point.display()));
        }
    }
    reply
}

fn cause(cause: Cause) -> ThawCause {
    match cause {
        Cause::None => ThawCause::Unspecified,
        Cause::Command => ThawCause::Command,
        Cause::LeaseExpired => ThawCause::LeaseExpired,
        Cause::HoldLimit => ThawCause::HoldLimit,
        Cause::AgentDied => ThawCause::AgentDied,
        Cause::Shutdown | Cause::ThawProcessDied => ThawCause::Shutdown,
        Cause::FreezeFailed => ThawCause::FreezeFailed,
        Cause::NotFrozen => ThawCause::NotFrozen,
    }
}

fn why_broken(report: &Report, survey: &Survey) -> String {
    if report.unbroken() {
        return String::new();
    }
    let mut reasons: Vec<String> = survey
        .covered
        .iter()
        .zip(report.entries())
        .filter(|(_, entry)| entry.outcome != Outcome::Thawed)
        .map(|(covered, entry)| {
            format!("{}: {}", covered.mount_point.display(), outcome_in_words(entry))
        })
        .collect();
    let (window, limit) = (report.window_ms(), report.hold_limit_ms);
    reasons.extend(match report.cause {
        Cause::Command if window > limit => Some(format!("held {window} ms, allowed {limit} ms")),
        Cause::Command | Cause::None => None,
        Cause::LeaseExpired => Some("the lease was not renewed in time".to_owned()),
        Cause::HoldLimit => Some(format!("the hold limit of {limit} ms passed")),
        Cause::AgentDied => Some("azdr-thawd lost this agent".to_owned()),
        Cause::Shutdown => Some("azdr-thawd was told to end".to_owned()),
        Cause::ThawProcessDied => Some(THAW_PROCESS_DIED.to_owned()),
        Cause::FreezeFailed => Some("the freeze did not complete".to_owned()),
        Cause::NotFrozen => Some("nothing was frozen".to_owned()),
    });
    reasons.join("; ")
}

/// The facts when the thaw process died or did not run, and the agent thawed: there are no windows to
/// show.
pub(crate) fn thaw_reply_without_thawd(id: &str, results: &[io::Result<()>]) -> ThawReply {
    let by_us = results.iter().filter(|result| result.is_ok()).count();
    ThawReply {
        operation_id: id.to_owned(),
        unbroken: false,
        cause: ThawCause::Shutdown.into(),
        reason: format!(
            "azdr-thawd died or was stopped; the agent thawed {by_us} of {} file systems, the others \
             were not frozen",
            results.len()
        ),
        ..ThawReply::default()
    }
}

/// Takes `unbroken` away, with one more reason.
pub(crate) fn spoil(reply: &mut ThawReply, reason: &str) {
    reply.unbroken = false;
    if !reply.reason.is_empty() {
        reply.reason.push_str("; ");
    }
    reply.reason.push_str(reason);
}
