//! The agents of simulated machines, each played as if it ran on its machine: enrolled over the real
//! enrolment service, in session with the real controller over mutual TLS, obeying its requests by
//! what `/_sim/guests` lets one do to a machine.
//!
//! - [`play`] looks which machines are up and gives each an agent, which ends with the machine.
//! - `machine` is what an agent knows of its machine: identity and witnesses are files on its disks, so
//!   that copies carry them.
//! - `session` is one session with the controller; `hold` freezes and thaws, under lease and hold
//!   limit, whatever becomes of the session.
//!
//! Formats, doors, and what becomes of a certificate are azdr-agent's own code. Deliberately absent: a
//! thaw process of its own (a player that is killed leaves its machines frozen), renewal by date.

mod hold;
mod machine;
mod session;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use azdr_agent::restored::{Door, door};
use azdr_agent::vm_id::VmId;
use azdr_env::Env;
use azdr_identity::{ClientIdentity, ConnectError, connect_mutual};
use azdr_proto::agent::VmIdSource;
use tokio::task::{AbortHandle, JoinSet};
use tonic::Code;
use tonic::transport::Channel;

use crate::simulated_machines::{Listed, SimulatedMachines};
use hold::Holds;
use machine::Machine;
pub use machine::{CONFIG, Inside, identity_path};
use session::{End, Session};

/// Between two looks at which machines are up.
const LOOK: Duration = Duration::from_millis(100);
/// From a machine's start until its agent runs: as in life, later than Azure calls it started.
const BOOT: Duration = Duration::from_secs(1);
/// Between two attempts to hold a session, and between two looks for an identity.
const PAUSE: Duration = Duration::from_millis(250);

/// Gives every simulated machine that is up an agent, until it is dropped.
pub async fn play(machines: SimulatedMachines, env: Env) {
    let mut owner = JoinSet::new();
    let mut agents: BTreeMap<(String, String), AbortHandle> = BTreeMap::new();
    loop {
        let all = machines.clone();
        let listed = tokio::task::spawn_blocking(move || all.list()).await;
        // A simulator that does not answer may be back soon, with the same machines.
        if let Ok(Ok(listed)) = listed {
            let is_up = |(vm_id, boot_id): &(String, String)| {
                listed.iter().any(|m| m.vm_id == *vm_id && m.boot_id == *boot_id)
            };
            agents.retain(|boot, agent| {
                let up = is_up(boot);
                if !up {
                    tracing::info!(vm_id = boot.0, "the machine has ended");
                    agent.abort();
                }
                up
            });
            for found in listed {
                let boot = (found.vm_id.clone(), found.boot_id.clone());
                agents.entry(boot).or_insert_with(|| {
                    tracing::info!(vm_id = found.vm_id, name = found.name, "a machine is up");
                    let inside = Arc::new(machines.machine(&found.name, &found.vm_id));
                    owner.spawn(live(inside, found, env.clone(), over_tcp()))
                });
            }
        }
        while owner.try_join_next().is_some() {}
        azdr_env::sleep(LOOK).await;
    }
}

/// Makes a connection to an address with an identity.
pub type Connect = Arc<
    dyn Fn(String, ClientIdentity) -> Pin<Box<dyn Future<Output = Connected> + Send>> + Send + Sync,
>;
type Connected = Result<Channel, ConnectError>;

fn over_tcp() -> Connect {
    Arc::new(|address, identity| Box::pin(async move { connect_mutual(&address, &identity).await }))
}

/// An agent's life: find out who we are, connect, hold a session, pause, again.
pub async fn live(inside: Arc<dyn Inside>, listed: Listed, env: Env, network: Connect) {
    let machine = Machine::new(inside, &listed, env);
    azdr_env::sleep(BOOT).await;
    let holds = Holds::start(&machine);
    let mut for_this_run = None;
    loop {
        match connect(&machine, &holds, for_this_run.as_ref(), &network).await {
            Ok(Some(End::NewIdentity)) => {
                tracing::info!(name = machine.name(), "a new certificate is in use");
                for_this_run = None;
                continue;
            }
            Ok(Some(End::ForThisRun(identity))) => {
                for_this_run = Some(identity);
                continue;
            }
            Ok(Some(End::Closed)) => tracing::info!(name = machine.name(), "the session ended"),
            Ok(None) => {}
            Err(error) => {
                for_this_run = None;
                tracing::warn!(name = machine.name(), error = format!("{error:#}"), "no session");
            }
        }
        azdr_env::sleep(PAUSE).await;
    }
}

/// One session; `None`: the machine is not enrolled (yet).
async fn connect(
    machine: &Machine,
    holds: &Holds,
    for_this_run: Option<&ClientIdentity>,
    network: &Connect,
) -> Result<Option<End>> {
    let Some(stored) = machine.identity().await? else { return Ok(None) };
    let vm = VmId { id: machine.vm_id().to_owned(), source: VmIdSource::InstanceMetadata };
    let first = door(&stored, &vm);
    let identity = for_this_run.filter(|_| first == Door::Restored).unwrap_or(&stored.identity);
    let channel = network(stored.agent_address.clone(), identity.clone()).await;
    let channel = channel.context("no connection")?;
    let mut session = Session { machine, holds, vm: &vm, stored: &stored, door: first };
    let held = match session.hold(channel.clone()).await {
        Err(status) if first == Door::Protected && status.code() == Code::FailedPrecondition => {
            session.door = Door::Restored;
            session.hold(channel).await
        }
        held => held,
    };
    held.map(Some).context("the controller did not welcome this agent")
}
