//! `Microsoft.Compute`: disks, snapshots, access to their bytes, and virtual machines.
//!
//! Requests for disks, snapshots, VM reads and VM power come from `azure_mgmt_compute`'s builders
//! through [`crate::bridge`]. Listings do not (those builders offer no `.send()`, only a stream of
//! their own response types, which fail on unknown values), nor do changes to a VM (a typed PUT or
//! PATCH drops the fields it does not know).

use azdr_domain::ArmId;
use serde_json::Value;

use crate::bridge::{DISK_API, VM_API};
use crate::client::ArmClient;
use crate::error::{AzureError, ErrorClass};
use crate::lro::{self, Action, Begin, Family, FinalResult, Started};
use crate::transport::HttpResponse;

mod access;
mod disk;
mod snapshot;
mod vm;

pub use access::{DataRanges, Sas};
pub use disk::DiskSpec;
pub use snapshot::{CopySpec, SnapshotSpec};

const DISK: &str = "Microsoft.Compute/disks";
const SNAPSHOT: &str = "Microsoft.Compute/snapshots";
const VM: &str = "Microsoft.Compute/virtualMachines";

/// A builder is given the parts of an ID; a VM's ID must not become a disk's request.
fn expect_type(id: &ArmId, resource_type: &str) -> Result<(), AzureError> {
    expect_one_of(id, &[resource_type])
}

fn expect_one_of(id: &ArmId, types: &[&str]) -> Result<(), AzureError> {
    if types.iter().any(|name| id.is_type(name)) {
        return Ok(());
    }
    let message = format!("{id} is not a {}", types.join(" or a "), id = id.as_str());
    Err(AzureError::new(ErrorClass::Invalid, "WrongResourceType", message))
}

pub(crate) fn invalid_id(error: azdr_domain::ArmIdError) -> AzureError {
    AzureError::new(ErrorClass::Invalid, "InvalidResourceId", crate::transport::describe(&error))
}

/// One of the original's properties, as the builders' type of it: nothing may get lost on the way.
fn lossless<T>(name: &str, value: Option<&Value>) -> Result<Option<T>, AzureError>
where
    T: serde::Serialize + serde::de::DeserializeOwned,
{
    let Some(value) = value else { return Ok(None) };
    let lost = || {
        let message = format!("{name} has parts that this version cannot set: {value}");
        AzureError::new(ErrorClass::Invalid, "UnsupportedProperty", message)
    };
    let typed: T = serde_json::from_value(value.clone()).map_err(|_| lost())?;
    let back = serde_json::to_value(&typed).map_err(|_| lost())?;
    if back == *value { Ok(Some(typed)) } else { Err(lost()) }
}

impl ArmClient {
    /// Turns the answer to a request of this family into an operation.
    fn begun(
        &self,
        id: &ArmId,
        action: Action,
        result: FinalResult,
        answer: Result<HttpResponse, AzureError>,
    ) -> Result<Started, AzureError> {
        let (family, api) = if id.is_type(VM) {
            (Family::VirtualMachine, VM_API)
        } else {
            (Family::Disk, DISK_API)
        };
        self.began(id, action, family, result, api, answer)
    }

    /// Turns the answer to a request into an operation. A 404 to a DELETE is success.
    pub(crate) fn began(
        &self,
        id: &ArmId,
        action: Action,
        family: Family,
        result: FinalResult,
        api: &str,
        answer: Result<HttpResponse, AzureError>,
    ) -> Result<Started, AzureError> {
        let answer = match answer {
            Err(error) if action == Action::Delete && error.is_not_found() => {
                return Ok(Started::Done(Value::Null));
            }
            other => other?,
        };
        let resource_url = self.core.url(&with_api(id, api))?.into();
        let begin = Begin { action, target: id.clone(), family, resource_url, result };
        let own = |url: &str| self.core.own_url(url).is_some();
        let mut started = lro::start(begin, &answer, own, self.core.env.clock.wall())
            .map_err(|e| e.for_resource(id.as_str()))?;
        if let Started::Running(operation) = &mut started {
            operation.retry_after =
                crate::rate_limit::retry_after(&answer, self.core.env.clock.wall());
        }
        Ok(started)
    }
}

/// The path of a resource, with the API version to read or write it.
pub(crate) fn with_api(id: &ArmId, api: &str) -> String {
    format!("{}?api-version={api}", id.as_str())
}
