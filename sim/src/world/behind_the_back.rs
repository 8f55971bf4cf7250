//! What happens to resources without anybody asking ARM for it: nothing protects them, no operation
//! is recorded, nothing else is put right.

use azdr_env::WallTime;

use super::locks::{LockProperties, LockRequest};
use super::{ArmError, ArmId, Kind, World};
use crate::faults::BehindTheBack;

/// The name of the fault plan's locks.
const LOCK: &str = "fault-plan";

impl World {
    /// A resource vanishes; its machine keeps running, its users keep referring to it.
    ///
    /// # Errors
    /// 404: there is none.
    pub fn vanish(&mut self, id: &str, now: WallTime) -> Result<(), ArmError> {
        let id = self.existing(id)?;
        self.remove(&id, now);
        Ok(())
    }

    /// A disk or snapshot gets another name in its group, and is otherwise what it was.
    ///
    /// # Errors
    /// 404: there is none. 409: the name is taken. 400: it is something else.
    pub fn rename(&mut self, id: &str, to: &str) -> Result<(), ArmError> {
        let id = self.existing(id)?;
        let new = ArmId::new(&id.subscription, &id.group, id.kind, to);
        if self.state.common(&new).is_some() {
            return Err(ArmError::conflict("Conflict", format!("{new} exists already.")));
        }
        match id.kind {
            Kind::Disk => {
                let Some(mut disk) = self.state.disks.remove(&id.key()) else { return Ok(()) };
                disk.common.id = new.clone();
                self.state.note_grant(&disk.volume, &new);
                self.state.disks.insert(new.key(), disk);
            }
            Kind::Snapshot => {
                let Some(mut snapshot) = self.state.snapshots.remove(&id.key()) else {
                    return Ok(());
                };
                self.state.unindex_snapshot(&id.key(), &snapshot);
                snapshot.common.id = new.clone();
                self.state.note_grant(&snapshot.volume, &new);
                self.state.index_snapshot(&new.key(), &snapshot);
                self.state.snapshots.insert(new.key(), snapshot);
            }
            _ => {
                return Err(ArmError::bad_request(
                    "BadRequest",
                    "Only disks and snapshots are renamed.",
                ));
            }
        }
        Ok(())
    }

    /// What the fault plan wants.
    pub(crate) fn suffer(&mut self, change: &BehindTheBack, now: WallTime) -> Result<(), ArmError> {
        match change {
            BehindTheBack::Delete(id) => self.vanish(id, now),
            BehindTheBack::Rename(id, to) => self.rename(id, to),
            BehindTheBack::Lock(scope, level) => {
                let properties = LockProperties { level: level.clone(), notes: None };
                self.put_lock(scope, LOCK, LockRequest { properties }).map(|_| ())
            }
            BehindTheBack::Unlock(scope) => {
                self.delete_lock(scope, LOCK);
                Ok(())
            }
        }
    }

    fn existing(&self, id: &str) -> Result<ArmId, ArmError> {
        let missing = || ArmError::new(404, "NotFound", format!("There is no {id}."));
        let id = ArmId::parse(id).ok_or_else(missing)?;
        self.state.common(&id).map(|common| common.id.clone()).ok_or_else(missing)
    }
}
