//! What went wrong, in a form that people, scripts and the exit code agree on.

use std::error::Error;

use azdr_identity::{ConnectError, connect_error};
use azdr_proto::admin::Job;
use tonic::{Code, Status};

use crate::names;

/// Metadata key under which the controller says what to do next (UTF-8).
const HINT_KEY: &str = "azdr-hint-bin";

/// How the process ends when it does not succeed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It was tried, and failed.
    Failed,
    /// It was not tried: the command or one of its values is wrong.
    Usage,
    /// The controller cannot be reached, or denies access.
    NoAccess,
    /// Ctrl-C while watching a job.
    Interrupted,
    /// Ctrl-C, by which alone `--watch` ends: there is nothing to say.
    Stopped,
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NoAccess => 3,
            Self::Interrupted | Self::Stopped => 130,
        }
    }
}

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CliError {
    /// Stable, for scripts.
    pub(crate) kind: String,
    /// What failed, with the value.
    pub(crate) message: String,
    /// More facts, one line each, for people: scripts find them in the job.
    pub(crate) details: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// The job that it is about.
    pub(crate) job_id: Option<i64>,
    pub(crate) exit: Exit,
}

impl CliError {
    /// The command itself is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message.into())
    }

    /// It was tried, and failed.
    pub(crate) fn failed(kind: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, kind, message.into())
    }

    pub(crate) fn new(exit: Exit, kind: &str, message: String) -> Self {
        let details = Vec::new();
        Self { kind: kind.to_owned(), message, details, hint: None, job_id: None, exit }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self
    }

    pub(crate) fn about_job(mut self, id: i64) -> Self {
        self.job_id = Some(id);
        self
    }

    /// Whether the same question may be answered soon: the connection is to blame, or a controller that
    /// is being started.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self.kind.as_str(), "unavailable" | "not_reachable")
    }

    /// A job that ended otherwise than asked for, or waits for a person.
    pub(crate) fn job(job: &Job) -> Self {
        let state = names::job_state(job.state).unwrap_or_else(|| "unknown".to_owned());
        // A job over many VMs is of none.
        let of = match names::job_subject(job) {
            "" => String::new(),
            vm => format!(" of {vm}"),
        };
        let about = format!("job {} ({}{of})", job.id, job.workflow);
        let error = job.error.clone().unwrap_or_default();
        let kind = if error.kind.is_empty() { format!("job_{state}") } else { error.kind };
        let mut message = match state.as_str() {
            "stuck" => format!("{about} is stuck and waits for a person"),
            "cancelled" => format!("{about} was cancelled, and what it did is undone"),
            _ => format!("{about} failed"),
        };
        if !error.message.is_empty() {
            message.push_str(&format!(": {}", error.message));
        }
        let details = [("Resource", error.resource), ("Azure request id", error.azure_request_id)];
        let known = details.into_iter().filter(|(_, value)| !value.is_empty());
        let details = known.map(|(label, value)| format!("{label}: {value}")).collect();
        let next = format!("azdr job show {}", job.id);
        let hint = if error.hint.is_empty() { format!("See: {next}") } else { error.hint };
        Self { details, ..Self::failed(&kind, message).hint(hint).about_job(job.id) }
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        Self::from(&error)
    }
}

impl From<&ConnectError> for CliError {
    fn from(error: &ConnectError) -> Self {
        let mut message = error.to_string();
        let (kind, exit, hint) = match error {
            ConnectError::Unreachable { source, .. } => {
                message.push_str(&format!(": {source}"));
                (
                    "not_reachable",
                    Exit::NoAccess,
                    "Check that azdr-controller runs there and that \
                 no firewall is in between; the address is in the context file.",
                )
            }
            ConnectError::NotTrusted { .. } => (
                "not_trusted",
                Exit::NoAccess,
                "Check address and \
                 ca in the context file: this is another controller, or somebody in between.",
            ),
            ConnectError::Refused { .. } => (
                "refused",
                Exit::NoAccess,
                "Use the client bundle that azdr-controller init or azdr operator add wrote, with the \
                 certificate that is valid now; where it has ended, ask an admin for another.",
            ),
            ConnectError::BadIdentity { .. } => (
                "bad_context",
                Exit::Usage,
                "Check ca, \
                 certificate and key in the context file.",
            ),
            ConnectError::BadAddress { .. } => (
                "bad_context",
                Exit::Usage,
                "Set controller = \
                 \"host:port\" in the context file.",
            ),
        };
        Self::new(exit, kind, message).hint(hint)
    }
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        if let Some(error) = connect_error(&status) {
            return error.into();
        }
        let (exit, kind) = match status.code() {
            Code::InvalidArgument => (Exit::Usage, "invalid_argument"),
            Code::Unavailable => (Exit::NoAccess, "unavailable"),
            Code::Unauthenticated => (Exit::NoAccess, "unauthenticated"),
            Code::PermissionDenied => (Exit::NoAccess, "permission_denied"),
            Code::NotFound => (Exit::Failed, "not_found"),
            Code::AlreadyExists => (Exit::Failed, "already_exists"),
            Code::FailedPrecondition => (Exit::Failed, "failed_precondition"),
            Code::Aborted => (Exit::Failed, "aborted"),
            Code::Unimplemented => (Exit::Failed, "unimplemented"),
            Code::ResourceExhausted => (Exit::Failed, "resource_exhausted"),
            // Without an answer from the controller there is only a broken connection.
            _ if status.source().is_some() => (Exit::NoAccess, "unavailable"),
            _ => (Exit::Failed, "internal"),
        };
        let mut message = status.message().to_owned();
        let mut cause = status.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !message.contains(&words) {
                message.push_str(&format!(": {words}"));
            }
            cause = error.source();
        }
        let hint = status.metadata().get_bin(HINT_KEY).and_then(|hint| hint.to_bytes().ok());
        let hint = hint.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok());
        let mut hint = hint.unwrap_or_default();
        if message.is_empty() && status.code() == Code::Unimplemented {
            "the controller does not know this call".clone_into(&mut message);
            "Does the context file name its port for operators (listen.admin), and is it of the same version?"
                .clone_into(&mut hint);
        } else if message.is_empty() {
            message = format!("the controller answered {:?} without words", status.code());
        }
        Self::new(exit, kind, message).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_classes_of_grpc_codes() {
        for (code, exit) in [
            (Code::InvalidArgument, 2),
            (Code::Unavailable, 3),
            (Code::Unauthenticated, 3),
            (Code::PermissionDenied, 3),
            (Code::NotFound, 1),
            (Code::FailedPrecondition, 1),
            (Code::AlreadyExists, 1),
            (Code::Aborted, 1),
            (Code::Unimplemented, 1),
            (Code::Internal, 1),
            (Code::Unknown, 1),
        ] {
            assert_eq!(CliError::from(Status::new(code, "x")).exit.code(), exit, "{code:?}");
        }
    }

    #[test]
    fn a_server_that_does_not_know_the_call_is_another_or_an_older_one() {
        let error = CliError::from(Status::new(Code::Unimplemented, ""));
        assert_eq!(error.message, "the controller does not know this call");
        assert!(error.hint.unwrap().contains("port for operators"));
    }

    #[test]
    fn the_hint_comes_from_the_answers_metadata() {
        let mut status = Status::not_found("no VM named \"web-9\"");
        let hint = tonic::metadata::MetadataValue::from_bytes("Täglich: azdr vm list".as_bytes());
        status.metadata_mut().insert_bin(HINT_KEY, hint);
        let error = CliError::from(status);
        assert_eq!(error.hint.as_deref(), Some("Täglich: azdr vm list"));
        assert_eq!(error.kind, "not_found");
    }
}
