//! ARM's REST on top of the [world](crate::world): paths, api-versions, tokens, long-running
//! operations, error envelopes.
//!
//! Everything here is synchronous and works on a locked world; reading contents, waiting and
//! journalling are the [`Simulator`](crate::Simulator)'s. Paths match without regard to case.

pub(crate) mod admin;
pub(crate) mod admission;
pub(crate) mod auth;
mod boot;
mod buckets;
mod disks;
mod document;
mod errors;
pub(crate) mod guests;
pub(crate) mod hosts;
mod listing;
mod lro;
mod metadata;
mod network;
mod operations;
mod reply;
mod request;
mod resources;
mod rights;
mod router;
mod sas;
mod scopes;
mod times;
mod versions;
mod vms;

pub(crate) use boot::serial_log;
pub(crate) use metadata::handle as handle_metadata;
pub(crate) use reply::{Body, ContentPart, Reply};
pub use reply::{Dropped, FileBody};
pub(crate) use request::ArmRequest;
pub(crate) use router::{Scope, route};
