//! Which of the VM's disks a block device is, as Azure attaches them.
//!
//! SCSI disks are told by their controller on the VMBus (`device_id`, as in Azure's udev rules for
//! storage): the OS disk and the temporary disk have ids or LUNs of their own, data disks have the LUN
//! that Azure's API shows. NVMe disks are told by the controller's model and the namespace: remote
//! disks' namespace 1 is the OS disk, namespace n is LUN n − 2; every other controller of Azure's is
//! the machine's own, temporary storage. What is none of these is not guessed at.

use std::fs;
use std::path::Path;

use azdr_proto::agent::{Disk, DiskKind};

const OS_ID: &str = "00000000-0000-";
const TEMPORARY_ID: &str = "00000000-0001-";
const OS_CONTROLLER: &str = "f8b3781a-1e82-4818-a1c3-63d806ec15bb";
const DATA_CONTROLLER: &str = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";
const REMOTE_NVME: &str = "MSFT NVMe Accelerator";
const LOCAL_NVME: &str = "Microsoft NVMe Direct Disk";

/// The disk that the kernel calls `name`.
pub(crate) fn disk(sys: &Path, name: &str) -> Disk {
    let (kind, lun) = kind_and_lun(sys, name).unwrap_or((DiskKind::Unknown, 0));
    Disk { kind: kind.into(), lun, name: name.to_owned() }
}

fn kind_and_lun(sys: &Path, name: &str) -> Option<(DiskKind, u32)> {
    let block = fs::canonicalize(sys.join("class/block").join(name)).ok()?;
    if let Ok(model) = fs::read_to_string(block.join("device/model"))
        && name.starts_with("nvme")
    {
        return nvme(model.trim(), &block);
    }
    let device = fs::canonicalize(block.join("device")).ok()?;
    // Host, channel, target, LUN.
    let lun: u32 = device.file_name()?.to_str()?.rsplit_once(':')?.1.parse().ok()?;
    let id =
        device.ancestors().find_map(|folder| fs::read_to_string(folder.join("device_id")).ok())?;
    let id = id.trim().trim_matches(['{', '}']);
    match (id, lun) {
        (id, _) if id.starts_with(OS_ID) => Some((DiskKind::Os, 0)),
        (id, _) if id.starts_with(TEMPORARY_ID) => Some((DiskKind::Temporary, 0)),
        (OS_CONTROLLER, 0) => Some((DiskKind::Os, 0)),
        (OS_CONTROLLER, 1) => Some((DiskKind::Temporary, 0)),
        (DATA_CONTROLLER, lun) => Some((DiskKind::Data, lun)),
        _ => None,
    }
}

fn nvme(model: &str, block: &Path) -> Option<(DiskKind, u32)> {
    if model.starts_with(LOCAL_NVME) {
        return Some((DiskKind::Temporary, 0));
    }
    let namespace = fs::read_to_string(block.join("nsid")).ok()?.trim().parse::<u32>().ok()?;
    match namespace {
        _ if !model.starts_with(REMOTE_NVME) => None,
        0 => None,
        1 => Some((DiskKind::Os, 0)),
        n => Some((DiskKind::Data, n - 2)),
    }
}

/// A disk in words.
pub(crate) fn in_words(disk: &Disk) -> String {
    match disk.kind() {
        DiskKind::Os => format!("OS disk ({})", disk.name),
        DiskKind::Data => format!("LUN {} ({})", disk.lun, disk.name),
        DiskKind::Temporary => format!("temporary disk ({})", disk.name),
        DiskKind::Unknown => format!("{} (no disk of Azure's)", disk.name),
    }
}

/// The disks in a witness's words, joined with ` + `: `os`, `lun N`, `temporary`, or the kernel's name where
/// it is none of these; empty when there are none.
pub(crate) fn names(disks: &[Disk]) -> String {
    let name = |disk: &Disk| match disk.kind() {
        DiskKind::Os => "os".to_owned(),
        DiskKind::Data => format!("lun {}", disk.lun),
        DiskKind::Temporary => "temporary".to_owned(),
        DiskKind::Unknown => disk.name.clone(),
    };
    in_order(disks).map(name).collect::<Vec<_>>().join(" + ")
}

/// World-wide names or serial numbers, in the same order; those that sysfs does not tell are left out.
pub(crate) fn unique_ids(sys: &Path, disks: &[Disk]) -> String {
    let id = |disk: &Disk| {
        let folder = sys.join("class/block").join(&disk.name);
        let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
        let found = ["wwid", "device/wwid", "device/serial", "serial"].into_iter().find_map(read);
        found.map(|text| text.trim().to_owned()).filter(|id| !id.is_empty())
    };
    in_order(disks).filter_map(id).collect::<Vec<_>>().join(" + ")
}

/// The kernel's names change from boot to boot, places in Azure do not.
fn in_order(disks: &[Disk]) -> impl Iterator<Item = &Disk> {
    let mut sorted: Vec<&Disk> = disks.iter().collect();
    sorted.sort_by_key(|disk| (disk.kind, disk.lun, &disk.name));
    sorted.into_iter()
}

/// Which disks of a file system that lies on several are not among those of which snapshots are taken:
/// such a snapshot would be torn, frozen or not. None when nothing is known of the snapshots, or the
/// file system lies on one disk, which is taken as a whole or not at all.
pub(crate) fn outside<'a>(disks: &'a [Disk], snapshots: &[Disk]) -> Vec<&'a Disk> {
    let is_taken = |disk: &&Disk| {
        let same = |taken: &Disk| match disk.kind() {
            DiskKind::Os => taken.kind() == DiskKind::Os,
            DiskKind::Data => taken.kind() == DiskKind::Data && taken.lun == disk.lun,
            DiskKind::Temporary | DiskKind::Unknown => false,
        };
        snapshots.iter().any(same)
    };
    if snapshots.is_empty() || disks.len() < 2 {
        return Vec::new();
    }
    disks.iter().filter(|disk| !is_taken(disk)).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A disk as sysfs shows it; made by hand after Azure's udev rules for storage.
    fn scsi(sys: &Path, name: &str, device_id: &str, lun: u32) {
        let bus = sys.join(format!("devices/VMBUS:00/{name}-controller"));
        let device = bus.join(format!("host0/target0:0:0/0:0:0:{lun}"));
        fs::create_dir_all(device.join("block").join(name)).unwrap();
        fs::write(bus.join("device_id"), format!("{{{device_id}}}\n")).unwrap();
        symlink(&device, device.join("block").join(name).join("device")).unwrap();
        fs::create_dir_all(sys.join("class/block")).unwrap();
        symlink(device.join("block").join(name), sys.join("class/block").join(name)).unwrap();
    }

    fn nvme(sys: &Path, name: &str, model: &str, namespace: u32) {
        let controller = sys.join(format!("devices/pci/{name}-controller"));
        fs::create_dir_all(controller.join(name)).unwrap();
        fs::write(controller.join("model"), format!("{model}              \n")).unwrap();
        fs::write(controller.join(name).join("nsid"), format!("{namespace}\n")).unwrap();
        symlink(&controller, controller.join(name).join("device")).unwrap();
        fs::create_dir_all(sys.join("class/block")).unwrap();
        symlink(controller.join(name), sys.join("class/block").join(name)).unwrap();
    }

    #[test]
    fn disks_are_told_by_their_controller() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        scsi(sys, "sda", OS_CONTROLLER, 0);
        scsi(sys, "sdb", OS_CONTROLLER, 1);
        scsi(sys, "sr0", OS_CONTROLLER, 2);
        scsi(sys, "sdc", DATA_CONTROLLER, 0);
        scsi(sys, "sdd", DATA_CONTROLLER, 63);
        scsi(sys, "sde", "00000000-0000-8899-0000-000000000000", 0);
        scsi(sys, "sdf", "00000000-0001-8899-0000-000000000000", 0);
        scsi(sys, "sdg", "d8b3781b-1e82-4818-a1c3-63d806ec15bb", 4);
        nvme(sys, "nvme0n1", "MSFT NVMe Accelerator v1.0", 1);
        nvme(sys, "nvme0n2", "MSFT NVMe Accelerator v1.0", 2);
        nvme(sys, "nvme0n9", "MSFT NVMe Accelerator v1.0", 9);
        nvme(sys, "nvme1n1", "Microsoft NVMe Direct Disk v2", 1);
        nvme(sys, "nvme2n1", "Samsung SSD", 1);
        for (name, words) in [
            ("sda", "OS disk (sda)"),
            ("sdb", "temporary disk (sdb)"),
            ("sr0", "sr0 (no disk of Azure's)"),
            ("sdc", "LUN 0 (sdc)"),
            ("sdd", "LUN 63 (sdd)"),
            ("sde", "OS disk (sde)"),
            ("sdf", "temporary disk (sdf)"),
            ("sdg", "sdg (no disk of Azure's)"),
            ("nvme0n1", "OS disk (nvme0n1)"),
            ("nvme0n2", "LUN 0 (nvme0n2)"),
            ("nvme0n9", "LUN 7 (nvme0n9)"),
            ("nvme1n1", "temporary disk (nvme1n1)"),
            ("nvme2n1", "nvme2n1 (no disk of Azure's)"),
            ("vda", "vda (no disk of Azure's)"),
        ] {
            assert_eq!(in_words(&disk(sys, name)), words);
        }
    }

    #[test]
    fn a_witness_names_disks_by_their_place_in_azure_and_by_what_is_written_on_them() {
        let sys = tempfile::tempdir().unwrap();
        let sys = sys.path();
        scsi(sys, "sda", OS_CONTROLLER, 0);
        scsi(sys, "sdb", OS_CONTROLLER, 1);
        scsi(sys, "sdc", DATA_CONTROLLER, 12);
        scsi(sys, "sdd", DATA_CONTROLLER, 3);
        fs::write(sys.join("class/block/sdc/device/wwid"), "naa.60022480\n").unwrap();
        let of = |names: &[&str]| {
            let disks: Vec<Disk> = names.iter().map(|name| disk(sys, name)).collect();
            (super::names(&disks), unique_ids(sys, &disks))
        };
        let words = |names: &str, ids: &str| (names.to_owned(), ids.to_owned());
        assert_eq!(of(&["sda"]), words("os", ""));
        assert_eq!(of(&["sdb"]), words("temporary", ""));
        assert_eq!(of(&["sdc", "sdd"]), words("lun 3 + lun 12", "naa.60022480"));
        assert_eq!(of(&["vda"]), words("vda", ""), "no place in Azure");
        assert_eq!(of(&[]), words("", ""), "on no disk of its own");
    }

    #[test]
    fn a_file_system_on_several_disks_needs_all_of_them_in_the_snapshots() {
        let disk = |kind: DiskKind, lun| Disk { kind: kind.into(), lun, name: String::new() };
        let (os, one, two) =
            (disk(DiskKind::Os, 0), disk(DiskKind::Data, 1), disk(DiskKind::Data, 2));
        let (temporary, unknown) = (disk(DiskKind::Temporary, 0), disk(DiskKind::Unknown, 0));
        let taken = [os.clone(), one.clone()];
        assert_eq!(outside(&[os.clone(), one.clone()], &taken), Vec::<&Disk>::new());
        assert_eq!(outside(&[one.clone(), two.clone()], &taken), [&two]);
        assert_eq!(outside(&[one.clone(), temporary.clone()], &taken), [&temporary]);
        assert_eq!(outside(&[one.clone(), unknown.clone()], &taken), [&unknown]);
        assert_eq!(
            outside(std::slice::from_ref(&two), &taken),
            Vec::<&Disk>::new(),
            "one disk is whole"
        );
        assert_eq!(outside(&[one, two], &[]), Vec::<&Disk>::new(), "nothing is known");
    }
}
