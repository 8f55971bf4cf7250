//! Agents at the message seam: one per running machine, which says hello when its machine comes up,
//! freezes and thaws when told, and shows the witness of the last freeze that its disks have seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_controller::fleet::{Fleet, Session, SessionKind};
use azdr_controller::store::Store;
use azdr_env::{Env, WallTime};
use azdr_proto::agent::agent_message::Body as FromAgent;
use azdr_proto::agent::controller_message::Body as ToAgent;
use azdr_proto::agent::{FreezeOutcome, FreezeReply, Hello, ThawCause, ThawReply, Witness};
use tokio::sync::mpsc;

use crate::cloud::Cloud;

/// What the disks of the world carry: the witness of the last freeze, by disk content file. Snapshots
/// and copies are followed through the store's points instead: a machine made from a point shows that
/// point's nonce.
#[derive(Default)]
pub(crate) struct Guests {
    /// The last freeze of a protected machine: recovery point and nonce.
    frozen: Mutex<Option<(String, String)>>,
    pub(crate) behaviour: Mutex<Behaviour>,
    thaws: AtomicUsize,
}

/// How agents behave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Behaviour {
    #[default]
    Well,
    /// No agent connects (any more).
    Absent,
    /// It refuses to freeze.
    RefusesToFreeze,
    /// Its lease ran out in between, and it says so.
    BrokenHold,
    /// It freezes, and never answers the thaw.
    SilentAfterFreeze,
    /// The machine shows a witness that is not the point's.
    WrongWitness,
}

/// Runs the agents of one life of the controller.
pub(crate) async fn run(
    cloud: Arc<Cloud>,
    guests: Arc<Guests>,
    fleet: Fleet,
    store: Store,
    env: Env,
) {
    let mut up: BTreeMap<String, (Arc<Session>, bool)> = BTreeMap::new();
    loop {
        let listing = cloud.listing().await;
        let machines = listing["resources"].as_array().unwrap().clone();
        let mut running = BTreeMap::new();
        for m in machines.iter().filter(|m| m["vm_id"].is_string()) {
            if m["power"].as_str().is_some_and(|p| p.eq_ignore_ascii_case("running")) {
                running.insert(m["vm_id"].as_str().unwrap().to_owned(), m.clone());
            }
        }
        let absent = guests.behaves() == Behaviour::Absent;
        up.retain(|id, (session, _)| {
            let stays = running.contains_key(id) && !absent && !session.is_over();
            if !stays {
                fleet.leave(session);
            }
            stays
        });
        let items = store.items().await.unwrap();
        for (vm_id, machine) in running {
            let id = machine["id"].as_str().unwrap();
            // A machine that has become a VM of its own comes back as that one.
            let as_own = items.iter().find(|i| id.eq_ignore_ascii_case(i.arm_id.as_str()));
            let known = up.get(&vm_id).is_some_and(|(_, own)| *own == as_own.is_some());
            let Some(item) = as_own.or(items.first()).filter(|_| !absent && !known) else {
                continue;
            };
            let own = as_own.is_some();
            if !own && !id.contains("dr-test") && !id.contains("restored") {
                continue;
            }
            let witnesses = guests.witnesses();
            let hello = Hello {
                vm_id: vm_id.clone(),
                boot_id: env.ids.uuid().to_string(),
                witnesses,
                can_freeze: true,
                ..Hello::default()
            };
            let kind =
                if own { SessionKind::Protected } else { SessionKind::Restored { run: None } };
            let (outbox, inbox) = mpsc::channel(16);
            let far = WallTime::from_unix_ms(i64::MAX / 2);
            let session =
                fleet.join(|n, now| Session::new(n, item.id, kind, hello, now, far, outbox));
            tokio::spawn(answer(session.clone(), inbox, guests.clone(), env.clone()));
            up.insert(vm_id, (session, own));
        }
        azdr_env::sleep(Duration::from_millis(100)).await;
    }
}

impl Guests {
    /// How often a machine was told to thaw.
    pub(crate) fn thaws(&self) -> usize {
        self.thaws.load(Ordering::SeqCst)
    }

    fn behaves(&self) -> Behaviour {
        *self.behaviour.lock().unwrap()
    }

    fn witnesses(&self) -> Vec<Witness> {
        let mut frozen = self.frozen.lock().unwrap().clone();
        if self.behaves() == Behaviour::WrongWitness {
            frozen = Some(("db-backup-daily-20200101-0000".into(), "0".repeat(64)));
        }
        let witness = |(point, nonce): (String, String)| {
            ["/", "/data"].map(|mount| Witness {
                mount_point: mount.into(),
                recovery_point: point.clone(),
                nonce: nonce.clone(),
                ..Witness::default()
            })
        };
        frozen.map(witness).map(Vec::from).unwrap_or_default()
    }
}

/// Obeys, as an agent whose machine behaves.
async fn answer(
    session: Arc<Session>,
    mut inbox: mpsc::Receiver<azdr_proto::agent::ControllerMessage>,
    guests: Arc<Guests>,
    env: Env,
) {
    while let Some(message) = inbox.recv().await {
        if matches!(message.body, Some(ToAgent::Thaw(_))) {
            guests.thaws.fetch_add(1, Ordering::SeqCst);
        }
        let reply = match message.body {
            Some(ToAgent::Freeze(f)) if guests.behaves() == Behaviour::RefusesToFreeze => {
                FromAgent::FreezeReply(FreezeReply {
                    operation_id: f.operation_id,
                    outcome: FreezeOutcome::Refused.into(),
                    reason: "somebody else has frozen /".into(),
                    ..FreezeReply::default()
                })
            }
            Some(ToAgent::Freeze(f)) => {
                *guests.frozen.lock().unwrap() = Some((f.recovery_point, f.nonce));
                FromAgent::FreezeReply(FreezeReply {
                    operation_id: f.operation_id,
                    outcome: FreezeOutcome::Frozen.into(),
                    ..FreezeReply::default()
                })
            }
            Some(ToAgent::Thaw(_)) if guests.behaves() == Behaviour::SilentAfterFreeze => continue,
            Some(ToAgent::Thaw(t)) if guests.behaves() == Behaviour::BrokenHold => {
                FromAgent::ThawReply(ThawReply {
                    operation_id: t.operation_id,
                    unbroken: false,
                    cause: ThawCause::LeaseExpired.into(),
                    reason: "the lease ran out".into(),
                    window_ms: 3000,
                    ..ThawReply::default()
                })
            }
            Some(ToAgent::Thaw(t)) => FromAgent::ThawReply(ThawReply {
                operation_id: t.operation_id,
                unbroken: true,
                cause: ThawCause::Command.into(),
                window_ms: 321,
                ..ThawReply::default()
            }),
            _ => continue,
        };
        session.receive(reply, env.clock.wall());
    }
}
