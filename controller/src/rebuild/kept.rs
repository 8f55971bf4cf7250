//! Disks that restores have replaced, from their tags.
//!
//! They are the originals of somebody's machine, and azdr deletes them one day: so what is not beyond
//! doubt is left alone, and the report says so.

use azdr_arm::Disk;

use crate::store::RebuiltKept;
use crate::workflows::tags::{self, KeptTags};

/// The disks of `installation` that are kept, and what was not taken up, in words.
pub fn read(disks: &[Disk], installation: &str) -> (Vec<RebuiltKept>, Vec<String>) {
    let (mut kept, mut lost) = (Vec::new(), Vec::new());
    for disk in disks {
        let Some(id) = disk.id.clone() else { continue };
        let name = id.name().to_owned();
        let mut leave = |why: &str| lost.push(format!("disk {name}: {why}; it is left as it is"));
        match tags::read_kept(&disk.tags) {
            Err(why) => leave(why),
            Ok(KeptTags { by, .. }) if by.installation != installation => {}
            Ok(KeptTags { disk, .. }) if disk != id => {
                leave(&format!("its tags are those of {}", disk.name()));
            }
            Ok(_) if disk.managed_by.is_some() => {
                leave("a restore had replaced it, and it is attached again");
            }
            Ok(KeptTags { by, until, vm, .. }) => kept.push(RebuiltKept {
                disk: id,
                vm,
                location: disk.location.clone().unwrap_or_default(),
                until,
                run: by.run,
            }),
        }
    }
    (kept, lost)
}
