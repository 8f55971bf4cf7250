//! Errors as the API says them: a code, a message that names the value, and what to do next.

use tonic::{Code, Status};

use crate::store::StoreError;

/// Metadata key of the hint (UTF-8).
const HINT: &str = "azdr-hint-bin";

/// A status with a hint.
pub(super) fn hinted(code: Code, message: impl Into<String>, hint: &str) -> Status {
    let mut status = Status::new(code, message);
    if !hint.is_empty() {
        let value = tonic::metadata::MetadataValue::from_bytes(hint.as_bytes());
        status.metadata_mut().insert_bin(HINT, value);
    }
    status
}

/// The store does not answer.
pub(super) fn unavailable(e: StoreError) -> Status {
    match e {
        StoreError::Missing(what) => Status::not_found(format!("there is no {what}")),
        StoreError::Refused(why) => Status::failed_precondition(why),
        full @ StoreError::QueueFull { .. } => hinted(
            Code::ResourceExhausted,
            full.to_string(),
            "see azdr job list --state queued; cancel what is not needed, or wait",
        ),
        unwritable @ StoreError::Unwritable(_) => hinted(
            Code::Unavailable,
            format!("nothing was changed: {unwritable}"),
            "mend the controller's disk; it goes on by itself, without a restart",
        ),
        fenced @ StoreError::Fenced { .. } => {
            hinted(Code::Unavailable, fenced.to_string(), "use the newer controller")
        }
        other => {
            tracing::error!(error = %other, cause = ?other, "the store does not answer");
            hinted(
                Code::Unavailable,
                "the controller's database does not answer",
                "see the controller's log; is its disk full?",
            )
        }
    }
}

/// Azure does not answer, or says no.
pub(super) fn azure(e: &azdr_arm::AzureError) -> Status {
    let failure = crate::workflows::azure::failure(e);
    let code = match e.class {
        azdr_arm::ErrorClass::NotFound => Code::NotFound,
        _ => Code::FailedPrecondition,
    };
    let id = failure.azure_request_id.as_deref().unwrap_or("none");
    hinted(code, format!("{} [request {id}]", failure.message), &failure.hint)
}
