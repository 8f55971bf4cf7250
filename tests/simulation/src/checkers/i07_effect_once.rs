//! I7: running any step or undo again changes nothing more: one snapshot per disk of a point and
//! region, one test VM per drill. And only what azdr made is ever deleted.

use super::Checker;
use super::announced::{belongs_to, tag};
use crate::event::Event;
use crate::record::View;
use crate::strangers::OWNER;

/// See the module.
pub(super) struct EffectOnce;

impl Checker for EffectOnce {
    fn invariant(&self) -> &'static str {
        "I7"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        match event {
            Event::Asked(asked) if asked.method == http::Method::DELETE => {
                // Group deletions and sub-resources are judged by what they hold.
                let found =
                    view.azure.all_common(&asked.path, None).find(|(key, _)| **key == asked.path);
                let Some((key, common)) = found else { return Ok(()) };
                if common.tags.contains_key(OWNER) {
                    return Err(format!("{key} is somebody's, and its deletion was asked for"));
                }
                // Disks that a restore has replaced go when their days are over: I6 judges that.
                if view.azure.disks.get(key).is_some_and(|disk| disk.managed_by.is_none()) {
                    return Ok(());
                }
                if common.tags.get("azdr:owner").map(String::as_str) != Some("azdr") {
                    return Err(format!("{key} is not azdr's, and its deletion was asked for"));
                }
            }
            Event::Answered(asked, 200..300, _) => {
                let Some(key) = asked.puts("microsoft.compute/snapshots") else { return Ok(()) };
                let Some(new) = view.azure.snapshots.get(key) else { return Ok(()) };
                let Some(point) = belongs_to(new) else { return Ok(()) };
                let lun = tag(new, "azdr:lun");
                let twin = view.azure.snapshots.iter().find(|(other, s)| {
                    s.common.tags.has("azdr:point", &point.1)
                        && s.common.location == new.common.location
                        && tag(s, "azdr:lun") == lun
                        && *other != key
                        && belongs_to(s).as_ref() == Some(&point)
                });
                if let Some((twin, _)) = twin {
                    return Err(format!("{key} and {twin} are of one disk and one point"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
