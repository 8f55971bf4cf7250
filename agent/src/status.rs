//! What this machine looks like to its own root: for people and for support, without a controller. Who
//! it is, and the [`preflight`].

use std::fmt::Write as _;

use azdr_proto::agent::QuiesceState;

use crate::Agent;
use crate::hooks;
use crate::identity_store;
use crate::preflight::{self, preflight};
use crate::vm_id;

/// The status as text, and whether this machine could be frozen now.
pub async fn status(agent: &Agent) -> (String, bool) {
    let mut text = String::new();
    let mut ready = true;
    let mut line = |name: &str, value: Result<String, String>| {
        ready &= value.is_ok();
        let value = value.unwrap_or_else(|reason| format!("PROBLEM: {reason}"));
        let _ = writeln!(text, "{:<16}{value}", format!("{name}:"));
    };
    line("controller", Ok(agent.config.controller.clone()));
    let stored = identity_store::load(&agent.config.state_dir);
    let vm = vm_id::read(&agent.config.instance_metadata_url).await;
    match &stored {
        Err(error) => line("identity", Err(crate::chain(error))),
        Ok(stored) => {
            line("vm", Ok(stored.vm_resource_id.clone().unwrap_or("unknown".to_owned())));
            line("enrolled vmId", Ok(stored.vm_id.clone()));
            let certificate = stored.identity.certificate(agent.env.clock.wall());
            line(
                "certificate",
                match certificate {
                    Ok(found) if found.expired => Err(format!("expired at {}", found.not_after)),
                    Ok(found) => Ok(format!("valid until {}", found.not_after)),
                    Err(error) => Err(crate::chain(&error)),
                },
            );
        }
    }
    line(
        "this vmId",
        match (vm, stored) {
            (Ok(vm), Ok(stored)) if !vm.is(&stored.vm_id) => {
                Err(format!("{} (not the enrolled one: this is a restored machine)", vm.id))
            }
            (Ok(vm), _) => Ok(format!("{} ({})", vm.id, vm.source.as_str_name())),
            (Err(error), _) => Err(error.to_string()),
        },
    );
    match hooks::look(agent, "look for hooks").await {
        Err(stuck) => line("hooks", Err(stuck.to_string())),
        Ok(found) if found.is_empty() => line("hooks", Ok("none".to_owned())),
        Ok(found) => {
            for hook in found {
                line("hook", hook.describe());
            }
        }
    }
    let report = preflight(agent, "", || QuiesceState::Idle).await;
    text.push_str(&preflight::text(&report));
    (text, ready && report.ready)
}
