//! What the host does to a machine, whatever the machine is:
//!
//! | request | does |
//! |---|---|
//! | `POST /_sim/machines/{vm_id}/pause` | lets it stand still, its clock with it |
//! | `POST /_sim/machines/{vm_id}/resume` | lets it go on |

use http::Method;

use super::reply::Reply;
use super::request::ArmRequest;
use crate::guests::Guests;
use crate::world::ArmError;

/// Answers a request for `/_sim/machines`; `None`: it is for something else.
pub(crate) async fn handle(guests: &dyn Guests, request: &ArmRequest) -> Option<Reply> {
    let path: Vec<&str> = request.lower.iter().skip(1).map(String::as_str).collect();
    let done = match (&request.method, &path[..]) {
        (&Method::POST, ["machines", vm_id, "pause"]) => guests.pause(vm_id).await,
        (&Method::POST, ["machines", vm_id, "resume"]) => guests.resume(vm_id).await,
        _ => return None,
    };
    Some(match done {
        Ok(()) => Reply::empty(204),
        Err(error) => ArmError::new(409, "NotPossible", format!("{error:#}")).into(),
    })
}
