//! Refusals, in ARM's terms.

use thiserror::Error;

/// Why the cloud refuses a request: what becomes ARM's error envelope.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{code}: {message}")]
pub struct ArmError {
    /// HTTP status.
    pub status: u16,
    /// ARM's error code.
    pub code: String,
    /// Words for people.
    pub message: String,
    /// ARM's front door answered, not the resource provider.
    pub gateway: bool,
    /// Seconds, for the `Retry-After` header.
    pub retry_after: Option<u64>,
    /// `details[].target`, and the envelope without the outer `error`: the compute provider's
    /// throttling answer.
    pub bare_target: Option<String>,
}

impl ArmError {
    /// An error with this status.
    pub fn new(status: u16, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            code: code.into(),
            message: message.into(),
            gateway: false,
            retry_after: None,
            bare_target: None,
        }
    }

    /// 400.
    pub fn bad_request(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// 400 `InvalidParameter`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "InvalidParameter", message)
    }

    /// 409.
    pub fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(409, code, message)
    }

    /// 409 `OperationNotAllowed`: wrong state, or quota.
    pub fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(409, "OperationNotAllowed", message)
    }

    /// 404 from a provider: something that the request refers to is missing.
    pub fn missing_reference(id: &str) -> Self {
        Self::new(404, "NotFound", format!("Resource {id} is not found."))
    }

    /// 404 from ARM's front door.
    pub fn resource_not_found(type_and_name: &str, group: &str) -> Self {
        Self {
            gateway: true,
            ..Self::new(
                404,
                "ResourceNotFound",
                format!(
                    "The Resource '{type_and_name}' under resource group '{group}' was not found. \
                     For more details please go to https://aka.ms/ARMResourceNotFoundFix"
                ),
            )
        }
    }

    /// 404 from ARM's front door.
    pub fn group_not_found(group: &str) -> Self {
        Self {
            gateway: true,
            ..Self::new(
                404,
                "ResourceGroupNotFound",
                format!("Resource group '{group}' could not be found."),
            )
        }
    }
}
