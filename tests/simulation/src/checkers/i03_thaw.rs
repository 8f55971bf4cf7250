//! I3: no file system stays frozen longer than the hold limit, whatever happens.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_env::WallTime;

use super::Checker;
use crate::event::Event;
use crate::record::View;

/// The limit that the controller asks for, and a little for the thaw itself.
const LIMIT: Duration = Duration::from_millis(10_500);

/// See the module.
#[derive(Default)]
pub(super) struct Thaw {
    frozen: BTreeMap<String, WallTime>,
}

impl Checker for Thaw {
    fn invariant(&self) -> &'static str {
        "I3"
    }

    fn see(&mut self, event: &Event, view: &View<'_>) -> Result<(), String> {
        match event {
            Event::Frozen { vm_id, .. } => {
                self.frozen.insert(vm_id.clone(), view.now);
            }
            Event::Thawed { vm_id, .. } => {
                if let Some(since) = self.frozen.remove(vm_id)
                    && view.now.since(since) > LIMIT
                {
                    let long = view.now.since(since).as_millis();
                    return Err(format!("machine {vm_id} was frozen for {long} ms"));
                }
            }
            _ => {}
        }
        let over = self.frozen.iter().find(|(_, since)| view.now.since(**since) > LIMIT);
        if let Some((vm_id, since)) = over.map(|(id, s)| (id.clone(), *s)) {
            // Once is enough to be told.
            self.frozen.remove(&vm_id);
            return Err(format!("machine {vm_id} is frozen since {since}"));
        }
        Ok(())
    }
}
