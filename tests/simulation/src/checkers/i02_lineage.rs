//! I2: a snapshot that is being copied, or that is the last fully copied one of its disk, is not
//! deleted: the next copy is a delta to it, on both sides.

use super::Checker;
use super::announced::{Points, belongs_to, taken};
use crate::event::Event;
use crate::record::View;

/// See the module.
#[derive(Default)]
pub(super) struct Lineage {
    points: Points,
}

impl Checker for Lineage {
    fn invariant(&self) -> &'static str {
        "I2"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        self.points.see(event, view.azure, view.now);
        let Event::Asked(asked) = event else { return Ok(()) };
        let Some(key) = asked.deletes("microsoft.compute/snapshots") else { return Ok(()) };
        let Some(snapshot) = view.azure.snapshots.get(key) else { return Ok(()) };
        let copied_now = view.azure.snapshots.iter().find(|(_, copy)| {
            let of_this = copy.volume.creation.source.as_ref();
            copy.progress.as_ref().is_some_and(|p| p.error.is_none())
                && copy.percent(view.now) < 100.0
                && of_this.is_some_and(|s| s.to_string().eq_ignore_ascii_case(key))
        });
        if let Some((copy, _)) = copied_now {
            return Err(format!("{key} is being copied to {copy}"));
        }
        let Some((vm, name)) = belongs_to(snapshot) else { return Ok(()) };
        let region = snapshot.common.location.clone();
        let key = (vm, name);
        let Some(point) = self.points.all.get(&key) else { return Ok(()) };
        if !self.points.is_whole(&key, &region) {
            return Ok(());
        }
        // Where somebody else has broken the copy, none is a base any more.
        let whole = point.regions.iter().filter(|(_, gone)| gone.is_none()).map(|(r, _)| r);
        for target in whole.filter(|r| **r != point.home) {
            let all = self.points.of(&key.0, target, view.now);
            let newest = all.last().map(|(name, _)| (*name).to_owned());
            // A copy may be whole before the job that made it has ended.
            let own = taken(&key.1).unwrap_or(point.created);
            let whole = self.points.complete(view.azure, view.now, &key.0, target);
            let newer_is_whole = whole.keys().filter_map(|n| taken(n)).any(|at| at > own);
            if newest.as_deref() == Some(key.1.as_str()) && !newer_is_whole {
                return Err(format!("{} is the last one copied to {target}", key.1));
            }
        }
        self.points.gone(&key, &region);
        Ok(())
    }
}
