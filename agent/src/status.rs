//! What this machine looks like to its own root: for people and for support, without a controller.

use std::fmt::Write as _;
use std::time::Duration;

use azdr_thawd_client::Client;

use crate::Agent;
use crate::hooks;
use crate::identity_store;
use crate::survey::survey;
use crate::vm_id;

const THAWD_LIMIT_MS: u32 = 2_000;
const SURVEY_LIMIT: Duration = Duration::from_secs(10);

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
    let socket = agent.config.thawd_socket.clone();
    let thawd = Client::connect(&socket, THAWD_LIMIT_MS).and_then(|thawd| thawd.status());
    line(
        "azdr-thawd",
        match thawd {
            Ok((_, state)) => Ok(format!("{state:?}")),
            Err(error) => Err(format!("{} does not answer: {error}", socket.display())),
        },
    );
    let only = agent.config.file_systems.clone();
    let look = move || survey(only.as_deref());
    match agent.blocking.run("look at the file systems", SURVEY_LIMIT, look).await {
        Err(stuck) => line("file systems", Err(stuck.to_string())),
        Ok(Err(error)) => line("file systems", Err(crate::chain(&error))),
        Ok(Ok(found)) => {
            for covered in found.covered {
                let place = covered.mount_point.display();
                let kind = covered.file_system_type;
                line("frozen", Ok(format!("{place} ({kind}, level {})", covered.level)));
            }
            for skipped in found.skipped {
                let place = skipped.mount.mount_point.display();
                line("not frozen", Ok(format!("{place}: {}", skipped.reason)));
            }
        }
    }
    match hooks::look(agent, "look for hooks").await {
        Err(stuck) => line("hooks", Err(stuck.to_string())),
        Ok(found) if found.is_empty() => line("hooks", Ok("none".to_owned())),
        Ok(found) => {
            for hook in found {
                line("hook", hook.describe());
            }
        }
    }
    (text, ready)
}
