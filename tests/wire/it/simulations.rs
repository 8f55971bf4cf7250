//! What must hold on the wire.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_controller::parts::Parts;
use azdr_env::sleep;
use azdr_proto::admin::{
    AgentState, ListAgentsRequest, RevokeAgentRequest, RunPreflightRequest, VmRef,
};
use azdr_proto::agent::{Freeze, FreezeOutcome};

use crate::network::{CONTROLLER, Machine, World, admin, finish, now};

/// Every simulation by name.
pub(crate) const ALL: [(&str, fn()); 6] = [
    ("a_session_comes_back_after_a_partition", a_session_comes_back),
    ("a_frozen_machine_thaws_when_the_network_is_cut", a_lease_expires),
    ("what_a_controller_acknowledged_is_there_after_its_crash", acknowledged),
    ("an_agent_that_restarts_unseen_replaces_its_old_session", replaced),
    ("messages_that_are_held_back_do_not_end_a_session", held_back),
    ("a_preflight_is_kept_and_can_be_asked_for", preflight),
];

const AGENT: &str = "agent";
const CLIENT: &str = "operator";
/// As the controller asks: after so long a silence a machine is not there.
const SILENCE: Duration = Duration::from_secs(35);

fn simulation<'a>() -> turmoil::Sim<'a> {
    turmoil::Builder::new()
        .rng_seed(7)
        .tick_duration(Duration::from_millis(10))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(20))
        .tcp_capacity(4096)
        .simulation_duration(Duration::from_secs(600))
        .build()
}

fn nothing_besides(_: Parts, _: Machine) {}

/// Looks every 50 ms until it is so; fails after `limit`.
async fn until(limit: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = now();
    while !holds().await {
        assert!(now() - begun < limit, "not within {limit:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
    now() - begun
}

/// What the controller tells an operator of the one agent.
async fn shown(operator: &azdr_identity::ClientIdentity) -> Option<AgentState> {
    let answer = admin(operator).await.list_agents(ListAgentsRequest {}).await.ok()?.into_inner();
    answer.agents.first().map(azdr_proto::admin::Agent::state)
}

fn a_session_comes_back() {
    let world = World::new();
    let machine = world.machine("db", 1);
    let mut simulation = simulation();
    world.controller(&mut simulation, nothing_besides, &machine);
    world.agent(&mut simulation, AGENT, &machine);
    let operator = world.operator();
    simulation.client(CLIENT, async move {
        let is = async |state| shown(&operator).await == Some(state);
        let soon = Duration::from_secs(10);
        until(soon, "connected", async || is(AgentState::Connected).await).await;
        turmoil::partition(AGENT, CONTROLLER);
        let noticed = until(SILENCE + soon, "missed", async || is(AgentState::Disconnected).await);
        let noticed = noticed.await;
        assert!(noticed > Duration::from_secs(5), "missed after {noticed:?} already");
        sleep(Duration::from_secs(30)).await;
        assert!(is(AgentState::Disconnected).await);
        turmoil::repair(AGENT, CONTROLLER);
        until(soon, "back", async || is(AgentState::Connected).await).await;
        Ok(())
    });
    simulation.run().unwrap();
}

fn preflight() {
    let world = World::new();
    let machine = world.machine("db", 1);
    let mut simulation = simulation();
    world.controller(&mut simulation, nothing_besides, &machine);
    world.agent(&mut simulation, AGENT, &machine);
    let operator = world.operator();
    simulation.client(CLIENT, async move {
        let kept = async || {
            let answer = admin(&operator).await.list_agents(ListAgentsRequest {}).await;
            let agent = answer.ok().and_then(|a| a.into_inner().agents.into_iter().next());
            agent.filter(|agent| agent.preflight_unix_ms > 0)
        };
        let soon = Duration::from_secs(10);
        until(soon, "told by itself", async || kept().await.is_some()).await;
        let told = kept().await.unwrap();
        assert!(told.preflight_ready && told.preflight_problems.is_empty(), "{told:?}");
        sleep(soon).await;
        let vm = Some(VmRef { name: told.vm_resource_id.clone(), ..VmRef::default() });
        let ask = async || {
            admin(&operator).await.run_preflight(RunPreflightRequest { vm: vm.clone() }).await
        };
        let asked = ask().await.unwrap().into_inner();
        assert!(asked.ready && !asked.file_systems.is_empty(), "{asked:?}");
        let again = kept().await.unwrap();
        assert!(again.preflight_unix_ms > told.preflight_unix_ms, "the newer verdict is kept");
        turmoil::partition(AGENT, CONTROLLER);
        let refused = ask().await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains("ended before it answered"), "{refused:?}");
        Ok(())
    });
    simulation.run().unwrap();
}

const OPERATION: &str = "1-1-0a0b0c0d";

/// Freezes the machine as soon as its agent is there, for as long as the lease can be renewed.
fn hold_it(parts: Parts, machine: Machine) {
    tokio::spawn(async move {
        let fleet = parts.services.fleet.clone();
        while fleet.protected(machine.item).is_none() {
            sleep(Duration::from_millis(50)).await;
        }
        let freeze = Freeze {
            operation_id: OPERATION.into(),
            recovery_point: "db-backup-daily-20251201-0800".into(),
            nonce: "nonce".into(),
            hold_limit_ms: 25_000,
            lease_ms: 3_000,
            ..Freeze::default()
        };
        let reply = fleet.freeze(machine.item, freeze, Duration::from_secs(10)).await.unwrap();
        assert_eq!(reply.outcome(), FreezeOutcome::Frozen, "{reply:?}");
        loop {
            fleet.renew_lease(machine.item, OPERATION.into()).await;
            sleep(Duration::from_secs(1)).await;
        }
    });
}

fn a_lease_expires() {
    let world = World::new();
    let machine = world.machine("db", 1);
    let mut simulation = simulation();
    world.controller(&mut simulation, hold_it, &machine);
    world.agent(&mut simulation, AGENT, &machine);
    let fleet = world.fleet.clone();
    simulation.client(CLIENT, async move {
        let inside = machine.inside.clone();
        let soon = Duration::from_secs(10);
        until(soon, "frozen", async || inside.is_frozen()).await;
        // Beyond the lease: it is renewed.
        sleep(Duration::from_secs(8)).await;
        assert!(inside.is_frozen(), "thawed though its lease was renewed");
        turmoil::partition(AGENT, CONTROLLER);
        let lease = Duration::from_secs(3);
        let thawed =
            until(lease + Duration::from_millis(500), "thawed", async || !inside.is_frozen());
        let thawed = thawed.await;
        assert!(thawed > Duration::from_secs(1), "thawed after {thawed:?} already");
        sleep(SILENCE + soon).await;
        turmoil::repair(AGENT, CONTROLLER);
        let fleet = fleet.lock().unwrap().clone().unwrap();
        let item = machine.item;
        until(soon, "back", async || fleet.protected(item).is_some_and(|s| !s.is_over())).await;
        // It says what happened, and stays thawed whatever is renewed.
        let told = fleet.thaw(item, OPERATION.into(), soon).await.unwrap();
        assert!(!told.unbroken, "{told:?}");
        assert_eq!(told.reason, "the lease was not renewed in time");
        assert!(!inside.is_frozen());
        Ok(())
    });
    simulation.run().unwrap();
}

fn acknowledged() {
    let world = World::new();
    let machines: Vec<_> = (1..=40).map(|n| world.machine(&format!("vm-{n}"), n)).collect();
    let mut simulation = simulation();
    world.controller(&mut simulation, nothing_besides, &machines[0]);
    world.agent(&mut simulation, AGENT, &machines[0]);
    let operator = world.operator();
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let (said, all) = (acknowledged.clone(), machines.clone());
    simulation.client(CLIENT, async move {
        let mut client = admin(&operator).await;
        for machine in all {
            let vm = VmRef { name: machine.vm.to_string(), resource_group: String::new() };
            match client.revoke_agent(RevokeAgentRequest { vm: Some(vm) }).await {
                Ok(_) => said.lock().unwrap().push(machine.item),
                // The controller has died; what it did not answer is not asked for again.
                Err(_) => client = admin(&operator).await,
            }
        }
        Ok(())
    });
    // In the middle of the revocations the controller dies, and is back a little later.
    while acknowledged.lock().unwrap().len() < 15 {
        simulation.step().unwrap();
    }
    simulation.crash(CONTROLLER);
    let before = acknowledged.lock().unwrap().clone();
    for _ in 0..200 {
        simulation.step().unwrap();
    }
    let store = world.store();
    for item in &before {
        let newest = finish(store.newest_certificate(*item)).unwrap().unwrap();
        assert!(newest.revoked, "the acknowledged revocation of {item:?} is lost");
    }
    drop(store);
    simulation.bounce(CONTROLLER);
    simulation.run().unwrap();
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.len() >= 38, "{}", acknowledged.len());
    let store = world.store();
    for item in acknowledged.iter() {
        assert!(finish(store.newest_certificate(*item)).unwrap().unwrap().revoked);
    }
    // Revoked is revoked: its agent has not come back either.
    let fleet = world.fleet.lock().unwrap().clone().unwrap();
    assert!(fleet.protected(machines[0].item).is_none());
}

fn replaced() {
    let world = World::new();
    let machine = world.machine("db", 1);
    let mut simulation = simulation();
    world.controller(&mut simulation, nothing_besides, &machine);
    world.agent(&mut simulation, AGENT, &machine);
    let session = || {
        let fleet = world.fleet.lock().unwrap().clone()?;
        fleet.protected(machine.item)
    };
    let step_until = |simulation: &mut turmoil::Sim<'_>, limit: u32, holds: &dyn Fn() -> bool| {
        for _ in 0..limit * 100 {
            if holds() {
                return;
            }
            simulation.step().unwrap();
        }
        panic!("not within {limit} s");
    };
    step_until(&mut simulation, 10, &|| session().is_some());
    let old = session().unwrap();
    assert_eq!(old.hello.boot_id, "boot 1");
    // It restarts where the controller cannot see it: the old connection looks alive.
    simulation.partition(AGENT, CONTROLLER);
    simulation.crash(AGENT);
    step_until(&mut simulation, 2, &|| true);
    simulation.repair(AGENT, CONTROLLER);
    assert!(!old.is_over(), "the crash was seen");
    simulation.bounce(AGENT);
    let begun = simulation.elapsed();
    step_until(&mut simulation, 10, &|| session().is_some_and(|s| s.hello.boot_id == "boot 2"));
    assert!(simulation.elapsed() - begun < SILENCE, "the old session had to be missed first");
    assert!(old.is_over(), "two sessions of one machine");
    // What is left of the old one takes nothing from the new one.
    let new = session().unwrap();
    for _ in 0..6000 {
        simulation.step().unwrap();
    }
    assert_eq!(session().unwrap().id, new.id);
    assert!(!new.is_over());
}

fn held_back() {
    let world = World::new();
    let machine = world.machine("db", 1);
    let mut simulation = simulation();
    world.controller(&mut simulation, nothing_besides, &machine);
    world.agent(&mut simulation, AGENT, &machine);
    let fleet = world.fleet.clone();
    simulation.client(CLIENT, async move {
        let session = || fleet.lock().unwrap().clone()?.protected(machine.item);
        until(Duration::from_secs(10), "connected", async || session().is_some()).await;
        let first = session().unwrap();
        // Shorter than what either side takes for the other's death.
        for _ in 0..4 {
            turmoil::hold(AGENT, CONTROLLER);
            sleep(Duration::from_secs(6)).await;
            turmoil::release(AGENT, CONTROLLER);
            sleep(Duration::from_secs(12)).await;
        }
        let last = session().unwrap();
        assert_eq!(last.id, first.id, "a slow network ended the session");
        assert!(last.last_seen() > first.since.plus(Duration::from_secs(60)));
        Ok(())
    });
    simulation.run().unwrap();
}
