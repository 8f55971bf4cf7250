//! azdr's client of Azure Resource Manager (DESIGN §5).
//!
//! A guided tour, from the wire upwards; each module knows only those before it.
//!
//! | module | owns |
//! |---|---|
//! | [`transport`](HttpTransport) | HTTP: the seam where tests and the in-process simulator take over |
//! | `pipeline`, `credential` | azure_core's pipeline over that seam; bearer tokens |
//! | `error` | [`AzureError`]: what went wrong, in classes that decide what to do next |
//! | `budget`, `rate_limit` | who may send now (I12) |
//! | `lro` | long-running operations as plain data and pure transitions |
//! | `client` | [`ArmClient`]: one request, from the budget to a classified answer |
//! | `bridge` | `azure_mgmt_compute` as mere request builders |
//! | `compute`, `network`, `resources` | calls, in our nouns |
//! | `operations` | [`ArmClient::poll`] |
//! | `views` | what azdr reads of Azure's answers |
//!
//! Calls are named for what they are: `get_*` and `list_*` read; `ensure_*` is done when it returns;
//! `begin_*` starts an [`Operation`], which the caller journals and polls. Every call may be repeated;
//! deleting a missing thing succeeds; each says what holds after a time-out. Nothing is retried in
//! here (but for one repeat after 401): retries and deadlines are the engine's.
//!
//! Tokens and SAS signatures are in no log, no `Debug` and no error.
//!
//! This crate must not know azdr's catalogue.

mod bridge;
mod budget;
mod client;
mod compute;
mod credential;
mod error;
mod lro;
mod network;
mod operations;
mod pipeline;
mod rate_limit;
mod resources;
mod secret;
#[cfg(test)]
mod testing;
mod transport;
mod views;

pub use budget::{ClassCounters, Counters, OperationClass, Priority};
pub use client::{ArmClient, ArmConfig, PUBLIC_AUDIENCE, Reservation};
pub use compute::{CopySpec, DataRanges, DiskSpec, Sas, SnapshotSpec};
pub use credential::{CredentialConfig, Tokens};
pub use error::{AzureError, ErrorClass};
pub use lro::{Operation, PollPace, Progress, Started};
pub use secret::Secret;
pub use transport::{
    HttpRequest, HttpResponse, HttpTransport, NetworkTransport, Sent, TransportError,
};
pub use views::{
    CopyError, DataDisk, Disk, NetworkInterface, OsDisk, PowerState, PublicIp, ResourceGroup,
    ResourceSummary, Snapshot, Vm, WantedTags,
};
