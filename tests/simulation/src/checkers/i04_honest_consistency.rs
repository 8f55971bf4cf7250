//! I4: `filesystem` is recorded only where one unbroken freeze covers every snapshot.
//!
//! Judged by the machines' own record of their freezes and by what Azure says of its snapshots. That
//! the disks' contents are of one instant is looked at too, by the simulation's end
//! ([`crate::scenario`]).

use std::collections::BTreeMap;

use azdr_env::WallTime;

use super::Checker;
use super::announced::{Points, snapshots_of, tag};
use crate::event::Event;
use crate::record::View;

/// See the module.
#[derive(Default)]
pub(super) struct HonestConsistency {
    points: Points,
    /// By operation: machine, from, to.
    freezes: BTreeMap<String, (String, WallTime, Option<WallTime>)>,
}

impl Checker for HonestConsistency {
    fn invariant(&self) -> &'static str {
        "I4"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        match event {
            Event::Frozen { vm_id, operation } => {
                self.freezes.insert(operation.clone(), (vm_id.clone(), view.now, None));
            }
            Event::Thawed { operation, .. } => {
                if let Some((_, _, to)) = self.freezes.get_mut(operation) {
                    *to = Some(view.now);
                }
            }
            _ => {}
        }
        let announced = self.points.see(event, view.azure, view.now);
        let Event::Run { workflow, result, .. } = event else { return Ok(()) };
        let Some((vm, name)) = announced else { return Ok(()) };
        if workflow != "backup" {
            return Ok(());
        }
        let region = self.points.all[&(vm.clone(), name.clone())].home.clone();
        let vm_guid = view.azure.vms.get(&vm).map(|vm| vm.vm_id.clone());
        for (key, snapshot) in snapshots_of(view.azure, &vm, &name, &region) {
            let said = tag(snapshot, "azdr:consistency").unwrap_or("none");
            let told = result["backup"]["consistency"].as_str().unwrap_or(said);
            if said != told {
                return Err(format!("{key} is tagged {said}, the job says {told}"));
            }
            if said != "filesystem" && said != "application" {
                continue;
            }
            let operation = tag(snapshot, "azdr:operation").unwrap_or_default();
            let Some((frozen_vm, from, to)) = self.freezes.get(operation) else {
                return Err(format!("{key} is {said}, and no machine was frozen for {operation}"));
            };
            if vm_guid.as_ref().is_some_and(|id| id != frozen_vm) {
                return Err(format!("{key} is {said}, and another machine was frozen"));
            }
            let at = snapshot.common.created;
            if at < *from || to.is_none_or(|to| at > to) {
                return Err(format!(
                    "{key} is {said} and of {at}: frozen was from {from} to {to:?}"
                ));
            }
        }
        Ok(())
    }
}
