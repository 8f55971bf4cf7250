//! Which disk of Azure a file system is on, as far as the machine tells.
//!
//! A name of the kernel (`sdb`) changes from boot to boot. What stays is the place at which Azure attaches
//! a disk; the rules that Azure's images install show it as links below /dev/disk/azure. Nothing is decided
//! from this: it names the disk for people.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::mounts::Device;
use crate::survey::Covered;
use crate::witness::Place;

/// The disk's name where it is one that Azure gives a machine anew with every start: in no snapshot.
pub(crate) const TEMPORARY: &str = "temporary";

/// The file system as its witness names it.
pub(crate) fn place(covered: &Covered) -> Place {
    let found = Disk::of(covered.device, Path::new("/sys"), Path::new("/dev"));
    let file_system_uuid = match covered.uuid.as_str() {
        "" => uuid_by_link(covered.device, Path::new("/sys"), Path::new("/dev")),
        uuid => uuid.to_owned(),
    };
    Place {
        mount_point: covered.mount_point.to_string_lossy().into_owned(),
        file_system_uuid,
        disk: found.name,
        disk_unique_id: found.unique_id,
    }
}

/// A disk, or several that one file system is spread over, joined with ` + `.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Disk {
    /// `os`, `lun N`, or the device's name; empty when the file system is on no disk of its own.
    name: String,
    /// World-wide name or serial number, as far as known.
    unique_id: String,
}

impl Disk {
    /// Follows partitions, LVM and md to the disks below, by sysfs.
    fn of(device: Device, sys: &Path, dev: &Path) -> Self {
        let mut disks = BTreeSet::new();
        if let Some(node) = node(device, sys) {
            below(&node, &mut disks, 8);
        }
        let (mut names, mut ids) = (Vec::new(), Vec::new());
        for disk in disks {
            names.push(place_in_azure(&disk, dev).unwrap_or_else(|| disk.clone()));
            let folder = sys.join("class/block").join(&disk);
            let files = ["wwid", "device/wwid", "device/serial", "serial"];
            let read = |file: &&str| fs::read_to_string(folder.join(file)).ok();
            let id = files.iter().find_map(read).unwrap_or_default().trim().to_owned();
            ids.extend((!id.is_empty()).then_some(id));
        }
        Self { name: names.join(" + "), unique_id: ids.join(" + ") }
    }
}

/// The kernel's name of a block device.
fn node(device: Device, sys: &Path) -> Option<std::path::PathBuf> {
    fs::canonicalize(sys.join("dev/block").join(device.to_string())).ok()
}

/// The disks that a block device lies on. A circle ends with the depth.
fn below(node: &Path, disks: &mut BTreeSet<String>, depth: u32) {
    let slaves: Vec<_> =
        fs::read_dir(node.join("slaves")).into_iter().flatten().flatten().collect();
    if depth > 0 && !slaves.is_empty() {
        let found = slaves.iter().filter_map(|slave| fs::canonicalize(slave.path()).ok());
        return found.for_each(|slave| below(&slave, disks, depth - 1));
    }
    let disk = if node.join("partition").exists() { node.parent() } else { Some(node) };
    let name = disk.and_then(Path::file_name);
    disks.extend(name.map(|name| name.to_string_lossy().into_owned()));
}

/// The disk's place by the links of Azure's udev rules: of SCSI, and of NVMe.
fn place_in_azure(disk: &str, dev: &Path) -> Option<String> {
    let azure = dev.join("disk/azure");
    let leads_here = |link: &Path| {
        let target = fs::read_link(link).ok();
        target.and_then(|t| t.file_name().map(|name| name == disk)).unwrap_or(false)
    };
    if ["root", "os"].iter().any(|name| leads_here(&azure.join(name))) {
        return Some("os".to_owned());
    }
    let links = |folder: &str| fs::read_dir(azure.join(folder)).into_iter().flatten().flatten();
    let local = links("local/by-index").chain(links("local/by-serial"));
    if leads_here(&azure.join("resource")) || local.into_iter().any(|l| leads_here(&l.path())) {
        return Some(TEMPORARY.to_owned());
    }
    ["scsi1", "data/by-lun"].iter().find_map(|folder| {
        let links = fs::read_dir(azure.join(folder)).ok()?;
        links.flatten().find_map(|link| {
            let name = link.file_name().into_string().ok()?;
            let lun: u32 = name.strip_prefix("lun").unwrap_or(&name).parse().ok()?;
            leads_here(&link.path()).then(|| format!("lun {lun}"))
        })
    })
}

/// The file system's UUID as udev has read it, for kernels that do not tell (before 6.9); empty: unknown.
pub(crate) fn uuid_by_link(device: Device, sys: &Path, dev: &Path) -> String {
    let Some(node) = node(device, sys) else { return String::new() };
    let links = fs::read_dir(dev.join("disk/by-uuid")).into_iter().flatten().flatten();
    let leads_here = |link: &fs::DirEntry| {
        let target = fs::read_link(link.path()).ok();
        target.is_some_and(|target| target.file_name() == node.file_name())
    };
    let found = links.filter(leads_here).find_map(|link| link.file_name().into_string().ok());
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A machine with an OS disk with a partition, two data disks under one volume, and a loop device.
    fn machine() -> (tempfile::TempDir, tempfile::TempDir) {
        let (sys, dev) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let node = |path: &str, number: &str| {
            let path = sys.path().join("devices").join(path);
            fs::create_dir_all(&path).unwrap();
            for folder in ["dev/block", "class/block"] {
                fs::create_dir_all(sys.path().join(folder)).unwrap();
            }
            symlink(&path, sys.path().join("dev/block").join(number)).unwrap();
            let name = path.file_name().unwrap();
            symlink(&path, sys.path().join("class/block").join(name)).unwrap();
            path
        };
        node("sda", "8:0");
        fs::write(node("sda/sda1", "8:1").join("partition"), "1").unwrap();
        let sdc = node("sdc", "8:32");
        let nvme = node("nvme0n2", "259:2");
        fs::create_dir(sdc.join("device")).unwrap();
        fs::write(sdc.join("device/wwid"), "naa.60022480\n").unwrap();
        let volume = node("dm-0", "253:0");
        fs::create_dir(volume.join("slaves")).unwrap();
        symlink(&sdc, volume.join("slaves/sdc")).unwrap();
        symlink(&nvme, volume.join("slaves/nvme0n2")).unwrap();
        node("loop7", "7:7");
        for folder in ["scsi1", "data/by-lun"] {
            fs::create_dir_all(dev.path().join("disk/azure").join(folder)).unwrap();
        }
        fs::create_dir_all(dev.path().join("disk/by-uuid")).unwrap();
        let link = |target: &str, name: &str| {
            symlink(target, dev.path().join("disk").join(name)).unwrap();
        };
        link("../../sda", "azure/root");
        node("sdb", "8:16");
        link("../../sdb", "azure/resource");
        link("../../../sdc", "azure/scsi1/lun3");
        link("../../../../nvme0n2", "azure/data/by-lun/12");
        link("../../sda1", "by-uuid/1234-abcd");
        (sys, dev)
    }

    #[test]
    fn a_file_system_is_on_the_disks_below_it_named_by_their_place_in_azure() {
        let (sys, dev) = machine();
        let of = |device: &str| Disk::of(device.parse().unwrap(), sys.path(), dev.path());
        assert_eq!(of("8:1").name, "os");
        let spread = of("253:0");
        assert_eq!(spread.name, "lun 12 + lun 3");
        assert_eq!(spread.unique_id, "naa.60022480");
        assert_eq!(of("8:16").name, TEMPORARY);
        assert_eq!(of("7:7").name, "loop7", "no place in Azure");
        assert_eq!(of("0:42"), Disk::default(), "btrfs has a number of its own");
    }

    #[test]
    fn a_uuid_is_found_by_its_link() {
        let (sys, dev) = machine();
        let of = |device: &str| uuid_by_link(device.parse().unwrap(), sys.path(), dev.path());
        assert_eq!(of("8:1"), "1234-abcd");
        assert_eq!(of("8:32"), "");
    }
}
