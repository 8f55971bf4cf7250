//! I8: no command meant for a protected VM reaches a machine made from its recovery points.

use super::Checker;
use crate::event::Event;
use crate::record::View;

/// See the module.
pub(super) struct CloneSafety;

impl Checker for CloneSafety {
    fn invariant(&self) -> &'static str {
        "I8"
    }

    fn see(&mut self, event: &Event, _view: &View<'_>) -> Result<(), String> {
        match event {
            Event::Told { vm_id, own: false, what: "freeze" | "thaw" } => Err(format!(
                "machine {vm_id} is a restored instance and was told to freeze or thaw"
            )),
            Event::ToldUnwelcomed { vm_id, what } => Err(format!(
                "machine {vm_id} was told to {what} before it knew whether it is protected or restored"
            )),
            _ => Ok(()),
        }
    }
}
