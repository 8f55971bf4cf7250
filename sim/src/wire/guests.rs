//! Simulated machines, for whoever plays their agents from another process:
//!
//! | request | does |
//! |---|---|
//! | `GET /_sim/guests` | lists the machines that are up: vmId, boot id, disks, freezes |
//! | `POST /_sim/guests/{vm_id}/freeze` | stops all writing |
//! | `POST /_sim/guests/{vm_id}/thaw` | lets it go on; answers how long it was stopped |
//! | `GET`, `PUT`, `DELETE /_sim/guests/{vm_id}/file?path=/mnt/lun0/witness` | reads, writes, removes a file; `DELETE` with `/` at the end: everything under it, on that disk |
//! | `POST /_sim/guests/{vm_id}/reboot` | restarts the machine, from inside |
//! | `POST /_sim/guests/check` `{"disks": [uniqueId, …]}` | whether disks or snapshots are from one instant |

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::reply::{Body, Reply};
use super::request::ArmRequest;
use crate::guests::simulated::{Consistency, GuestError, SimulatedGuests};
use crate::world::ArmError;

#[derive(Deserialize)]
struct Check {
    disks: Vec<String>,
}

impl From<GuestError> for ArmError {
    fn from(error: GuestError) -> Self {
        let (status, code) = match &error {
            GuestError::NotUp(_) => (404, "NotUp"),
            GuestError::NotMounted(_) => (404, "NotMounted"),
            GuestError::Frozen(_) => (409, "Frozen"),
            GuestError::NotFrozen(_) => (409, "NotFrozen"),
            GuestError::Disk(_) => (507, "Disk"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// Answers a request for `/_sim/guests`; `None`: it is for something else.
pub(crate) fn handle(guests: Option<&SimulatedGuests>, request: &ArmRequest) -> Option<Reply> {
    if request.lower.get(1).is_none_or(|second| second != "guests") {
        return None;
    }
    let missing = || ArmError::new(404, "NotFound", "No such path, or no simulated machines.");
    let reply = guests.ok_or_else(missing).and_then(|guests| answer(guests, request));
    Some(reply.unwrap_or_else(Reply::from))
}

fn answer(guests: &SimulatedGuests, request: &ArmRequest) -> Result<Reply, ArmError> {
    let path: Vec<&str> = request.lower.iter().skip(2).map(String::as_str).collect();
    let file = request.param("path").unwrap_or_default();
    match (&request.method, &path[..]) {
        (&Method::GET, []) => Ok(Reply::json(200, json!(guests.machines()))),
        (&Method::POST, ["check"]) => {
            let Check { disks } = request.json()?;
            let found = guests.check(disks.iter().map(String::as_str));
            let holds = !matches!(found, Consistency::Torn { .. });
            Ok(Reply::json(200, json!({"holds": holds, "found": found.to_string()})))
        }
        (&Method::POST, [vm_id, "freeze"]) => {
            guests.freeze(vm_id)?;
            Ok(Reply::empty(204))
        }
        (&Method::POST, [vm_id, "thaw"]) => {
            let frozen = guests.thaw(vm_id)?;
            let ms = u64::try_from(frozen.as_millis()).unwrap_or(u64::MAX);
            Ok(Reply::json(200, json!({"frozen_ms": ms})))
        }
        (&Method::POST, [vm_id, "reboot"]) => {
            guests.reboot(vm_id)?;
            Ok(Reply::empty(204))
        }
        (&Method::GET, [vm_id, "file"]) => match guests.read_file(vm_id, file)? {
            Some(content) => Ok(Reply { body: Body::Bytes(content), ..Reply::empty(200) }),
            None => Err(ArmError::new(404, "NotFound", format!("There is no file {file}."))),
        },
        (&Method::PUT, [vm_id, "file"]) => {
            guests.write_file(vm_id, file, request.body.clone())?;
            Ok(Reply::empty(204))
        }
        (&Method::DELETE, [vm_id, "file"]) => {
            guests.remove_file(vm_id, file)?;
            Ok(Reply::empty(204))
        }
        _ => Err(ArmError::new(404, "NotFound", "No such admin path.")),
    }
}
