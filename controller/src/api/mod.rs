//! gRPC services: thin. They parse, authorise, call, and convert.

pub mod admin;
pub mod agent_service;
pub mod enroll_service;

/// What agents are told when the store fails; the cause is for the log.
fn unavailable(e: crate::store::StoreError) -> tonic::Status {
    tracing::error!(error = %e, cause = ?e, "the store does not answer");
    tonic::Status::unavailable("the controller's database does not answer")
}
