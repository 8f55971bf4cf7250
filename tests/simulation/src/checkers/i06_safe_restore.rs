//! I6: an in-place restore never deletes the disks it replaces; one that fails leaves the VM on its
//! old disks and in the power state it had.

use std::collections::BTreeMap;

use azdr_controller::store::{RunId, RunState};
use azdr_env::WallTime;
use azure_sim::world::{Power, State};

use super::Checker;
use crate::event::Event;
use crate::record::View;

/// How long replaced disks are kept.
const KEPT: std::time::Duration = std::time::Duration::from_secs(7 * 86_400);

/// A VM as it stands: its disks and whether it runs.
type Standing = (Vec<String>, bool);

/// See the module.
#[derive(Default)]
pub(super) struct SafeRestore {
    /// Disks that were ever a protected VM's, and when they last were.
    disks: BTreeMap<String, WallTime>,
    /// Of restores in flight: the VM, and how it stood before.
    before: BTreeMap<RunId, (String, Standing)>,
    /// How each VM last stood while nothing was restored there.
    standing: BTreeMap<String, Standing>,
}

fn standing(azure: &State, vm: &str) -> Option<Standing> {
    let vm = azure.vms.get(vm)?;
    let mut disks: Vec<_> = vm.disks.iter().map(|d| d.disk.to_string().to_lowercase()).collect();
    disks.sort();
    Some((disks, matches!(vm.power, Power::Running | Power::Starting)))
}

fn is_production(key: &str) -> bool {
    key.contains("/resourcegroups/prod/") || key.contains("/resourcegroups/twins/")
}

impl Checker for SafeRestore {
    fn invariant(&self) -> &'static str {
        "I6"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        match event {
            Event::LifeBegins(1) => {
                for (key, _) in view.azure.vms.iter() {
                    if let Some(now) = standing(view.azure, key) {
                        self.disks.extend(now.0.iter().map(|d| (d.clone(), view.now)));
                        self.standing.insert(key.clone(), now);
                    }
                }
            }
            Event::Asked(asked) => {
                let Some(key) = asked.deletes("microsoft.compute/disks") else { return Ok(()) };
                let Some(disk) = view.azure.disks.get(key) else { return Ok(()) };
                if let Some(vm) = &disk.managed_by
                    && is_production(&vm.to_string().to_lowercase())
                    && !disk.common.tags.contains_key("azdr:owner")
                {
                    return Err(format!("{key} is attached to {vm} and not of azdr's making"));
                }
                if let Some(last) = self.disks.get(key)
                    && view.now.since(*last) < KEPT
                {
                    return Err(format!("{key} was a VM's disk until {last}"));
                }
            }
            Event::Run { id, workflow, input, state, .. } if workflow == "restore_in_place" => {
                let vm = input["vm"].as_str().unwrap_or_default().to_lowercase();
                match state {
                    RunState::Queued | RunState::Running => {
                        if let Some(now) = self.standing.get(&vm) {
                            let before = (vm.clone(), now.clone());
                            self.before.entry(*id).or_insert(before);
                        }
                    }
                    RunState::Failed | RunState::Cancelled => {
                        let before = self.before.remove(id);
                        let now = standing(view.azure, &vm);
                        // Another restore may have begun already.
                        let alone = !self.before.values().any(|(other, _)| *other == vm);
                        if let (Some((_, before)), Some(now), true) = (before, now, alone)
                            && before != now
                        {
                            return Err(format!(
                                "job {id} is {} and {vm} stands {now:?} instead of {before:?}",
                                state.as_str()
                            ));
                        }
                    }
                    RunState::Succeeded => {
                        self.before.remove(id);
                        if let Some(now) = standing(view.azure, &vm) {
                            self.disks.extend(now.0.iter().map(|d| (d.clone(), view.now)));
                            self.standing.insert(vm, now);
                        }
                    }
                    RunState::Undoing | RunState::Stuck => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}
