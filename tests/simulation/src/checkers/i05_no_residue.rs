//! I5: when a run is over, everything it made that was meant to be temporary is gone, as a listing of
//! Azure shows.

use std::collections::BTreeSet;

use azdr_controller::store::{RunId, RunState};
use azure_sim::world::Kind;

use super::Checker;
use crate::event::Event;
use crate::record::View;

/// See the module.
#[derive(Default)]
pub(super) struct NoResidue {
    /// Given up by a person, who was told what is left.
    abandoned: BTreeSet<RunId>,
}

impl Checker for NoResidue {
    fn invariant(&self) -> &'static str {
        "I5"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        if let Event::Abandoned(id) = event {
            self.abandoned.insert(*id);
        }
        let Event::Run { id, workflow, state, .. } = event else { return Ok(()) };
        if !state.is_terminal() || self.abandoned.contains(id) {
            return Ok(());
        }
        let own = format!("1nstall.{id}");
        let is_own = |tags: &azure_sim::world::Tags| tags.has("azdr:run", &own);
        // What the run was for stays: points and copies, the restored VM and what it is made of.
        let stays = |kind: Kind| match (workflow.as_str(), kind) {
            _ if *state != RunState::Succeeded => false,
            ("backup" | "replicate", Kind::Snapshot) => true,
            ("restore_in_place", Kind::Disk) => true,
            ("restore_new_vm", _) => true,
            _ => false,
        };
        let left: Vec<String> = view
            .azure
            .all_common("/", None)
            .filter(|(_, common)| is_own(&common.tags) && !stays(common.id.kind))
            .map(|(key, common)| format!("{key} ({})", common.provisioning))
            .collect();
        let groups = view.azure.groups.iter().filter(|(_, g)| is_own(&g.tags));
        let left: Vec<_> = left.into_iter().chain(groups.map(|(key, _)| key.clone())).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(format!("job {id} ({workflow}) is {} and left {left:?}", state.as_str()))
    }
}
