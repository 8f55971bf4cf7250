//! What people and tests ask of the simulator itself, outside ARM's name space:
//!
//! | request | does |
//! |---|---|
//! | `GET`, `PUT`, `DELETE /_sim/faults` | shows, replaces, clears the fault plan |
//! | `GET`, `DELETE /_sim/requests` | shows, resets the request counters (`?latest=true`: and the latest requests) |
//! | `GET /_sim/resources` | lists everything that exists |
//! | `POST /_sim/clock/advance` `{"ms": 1000}` | lets simulated time jump |
//! | `POST /_sim/resources/delete` `{"id": …}` | lets a resource vanish, whatever protects it |
//! | `POST /_sim/resources/rename` `{"id": …, "to": …}` | gives a disk or snapshot another name |
//! | `PUT`, `DELETE /_sim/assignments/{client}` `[{"scope": …, "actions": […]}]` | gives a principal these rights only, all rights |
//!
//! and of machines: what their hosts do is in `hosts.rs`, simulated ones are in `guests.rs`.

use azdr_env::WallTime;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admission::Admission;
use super::reply::Reply;
use super::request::ArmRequest;
use crate::faults::{Fault, FaultPlan};
use crate::world::{ArmError, Assignment, Kind, World};

/// The number in [`State::numbers`](crate::world::State) that is added to the clock.
pub(crate) const CLOCK_OFFSET_MS: &str = "clock_offset_ms";

#[derive(Deserialize)]
struct Advance {
    ms: i64,
}

#[derive(Deserialize)]
struct Renamed {
    id: String,
    #[serde(default)]
    to: String,
}

/// Answers an admin request.
pub(crate) fn handle(
    world: &mut World,
    admission: &Admission,
    request: &ArmRequest,
    now: WallTime,
) -> Reply {
    answer(world, admission, request, now).unwrap_or_else(Reply::from)
}

fn answer(
    world: &mut World,
    admission: &Admission,
    request: &ArmRequest,
    now: WallTime,
) -> Result<Reply, ArmError> {
    let path: Vec<&str> = request.lower.iter().skip(1).map(String::as_str).collect();
    let plan = || admission.plan.lock().expect("no code panics while holding this lock");
    match (&request.method, &path[..]) {
        (&Method::GET, ["faults"]) => {
            let faults: Vec<Value> = plan()
                .progress()
                .map(|(fault, seen)| json!({"fault": fault, "matched": seen}))
                .collect();
            Ok(Reply::json(200, json!(faults)))
        }
        (&Method::PUT | &Method::POST, ["faults"]) => {
            let faults: Vec<Fault> = request.json()?;
            *plan() = FaultPlan::starting(faults, now);
            Ok(Reply::empty(204))
        }
        (&Method::DELETE, ["faults"]) => {
            *plan() = FaultPlan::default();
            Ok(Reply::empty(204))
        }
        (&Method::GET, ["requests"]) => {
            let latest = request.param("latest").is_some_and(|v| v != "false");
            Ok(Reply::json(200, admission.counted(latest)))
        }
        (&Method::DELETE, ["requests"]) => {
            admission.reset();
            Ok(Reply::empty(204))
        }
        (&Method::GET, ["resources"]) => Ok(Reply::json(200, resources(world))),
        (&Method::POST, ["resources", "delete"]) => {
            let Renamed { id, .. } = request.json()?;
            world.vanish(&id, now)?;
            Ok(Reply::empty(204))
        }
        (&Method::POST, ["resources", "rename"]) => {
            let Renamed { id, to } = request.json()?;
            world.rename(&id, &to)?;
            Ok(Reply::empty(204))
        }
        (&Method::PUT, ["assignments", _]) => {
            let assignments: Vec<Assignment> = request.json()?;
            world.state.assignments.insert(request.segments[2].clone(), assignments);
            Ok(Reply::empty(204))
        }
        (&Method::DELETE, ["assignments", _]) => {
            world.state.assignments.remove(&request.segments[2]);
            Ok(Reply::empty(204))
        }
        (&Method::POST, ["clock", "advance"]) => {
            let Advance { ms } = request.json()?;
            let offset = world.state.numbers.get(CLOCK_OFFSET_MS).copied().unwrap_or(0) + ms;
            world.state.numbers.insert(CLOCK_OFFSET_MS.to_owned(), offset);
            Ok(Reply::json(200, json!({"offset_ms": offset})))
        }
        _ => Err(ArmError::new(404, "NotFound", "No such admin path.")),
    }
}

/// Everything that exists, in short.
pub(crate) fn resources(world: &World) -> Value {
    let state = &world.state;
    let groups: Vec<Value> = state
        .groups
        .iter()
        .map(|(_, g)| json!({"subscription": g.subscription, "name": g.name, "location": g.location, "tags": g.tags, "deleting": g.deleting}))
        .collect();
    let resources: Vec<Value> = state
        .all_common("/", None)
        .map(|(key, common)| {
            let mut entry = json!({
                "id": common.id.to_string(),
                "type": common.id.kind.type_name(),
                "location": common.location,
                "tags": common.tags,
                "provisioning_state": common.provisioning,
            });
            match common.id.kind {
                Kind::Vm => {
                    if let Some(vm) = state.vms.get(key) {
                        entry["vm_id"] = json!(vm.vm_id);
                        entry["power"] = json!(vm.power);
                        entry["disks"] = vm
                            .disks
                            .iter()
                            .map(|d| json!({"lun": d.lun, "id": d.disk.to_string(), "caching": d.caching}))
                            .collect();
                        entry["reachable_at"] = json!(
                            world
                                .ways_in(vm)
                                .iter()
                                .map(|(ip, port)| format!("{ip}:{port}"))
                                .collect::<Vec<_>>()
                        );
                    }
                }
                Kind::Disk => {
                    if let Some(disk) = state.disks.get(key) {
                        entry["managed_by"] =
                            json!(disk.managed_by.as_ref().map(ToString::to_string));
                        entry["size_bytes"] = json!(disk.volume.size_bytes);
                        entry["access_until"] = json!(disk.volume.grant.as_ref().map(|g| g.expires));
                        entry["file"] = json!(disk.volume.file());
                    }
                }
                Kind::Snapshot => {
                    if let Some(snapshot) = state.snapshots.get(key) {
                        entry["incremental"] = json!(snapshot.incremental);
                        entry["access_until"] = json!(snapshot.volume.grant.as_ref().map(|g| g.expires));
                        entry["source"] = json!(
                            snapshot.volume.creation.source.as_ref().map(ToString::to_string)
                        );
                        entry["file"] = json!(snapshot.volume.file());
                    }
                }
                _ => {}
            }
            entry
        })
        .collect();
    let unfinished =
        state.operations.iter().filter(|(_, operation)| operation.outcome.is_none()).count();
    json!({"groups": groups, "resources": resources, "unfinished_operations": unfinished})
}
