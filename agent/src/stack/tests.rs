//! Trees made by hand after the kernel's documentation of sysfs (Documentation/ABI: block, dm, md,
//! btrfs; admin-guide: bcache): no machine with such volumes was at hand.

use std::os::unix::fs::symlink;

use super::*;
use crate::mounts::{Seen, parse_mountinfo};

/// A machine's sysfs.
struct Sys(tempfile::TempDir);

impl Sys {
    fn new() -> Self {
        let sys = Self(tempfile::tempdir().unwrap());
        for folder in ["dev/block", "class/block", "fs/btrfs"] {
            fs::create_dir_all(sys.0.path().join(folder)).unwrap();
        }
        sys
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn block(&self, place: &str, number: &str) -> PathBuf {
        let folder = self.path().join("devices").join(place);
        fs::create_dir_all(folder.join("slaves")).unwrap();
        symlink(&folder, self.path().join("dev/block").join(number)).unwrap();
        symlink(&folder, self.path().join("class/block").join(folder.file_name().unwrap()))
            .unwrap();
        folder
    }

    fn disk(&self, name: &str, number: &str) {
        let folder = self.block(&format!("bus/{name}"), number);
        fs::create_dir_all(folder.join("device")).unwrap();
    }

    fn partition(&self, disk: &str, name: &str, number: &str) {
        let folder = self.block(&format!("bus/{disk}/{name}"), number);
        fs::write(folder.join("partition"), "1\n").unwrap();
    }

    fn loop_device(&self, name: &str, number: &str, file: &str) {
        let folder = self.block(&format!("virtual/{name}"), number);
        fs::create_dir(folder.join("loop")).unwrap();
        fs::write(folder.join("loop/backing_file"), format!("{file}\n")).unwrap();
    }

    /// `kind`: dm, md, bcache.
    fn stacked(&self, kind: &str, name: &str, number: &str, slaves: &[&str]) -> PathBuf {
        let folder = self.block(&format!("virtual/{name}"), number);
        fs::create_dir(folder.join(kind)).unwrap();
        for slave in slaves {
            let class = self.path().join("class/block").join(slave);
            symlink(fs::canonicalize(class).unwrap(), folder.join("slaves").join(slave)).unwrap();
        }
        folder
    }

    fn volume(&self, name: &str, number: &str, volume: &str, slaves: &[&str]) {
        let folder = self.stacked("dm", name, number, slaves);
        fs::write(folder.join("dm/name"), format!("{volume}\n")).unwrap();
    }

    fn btrfs(&self, uuid: &str, devices: &[&str]) {
        let folder = self.path().join("fs/btrfs").join(uuid).join("devices");
        fs::create_dir_all(&folder).unwrap();
        for device in devices {
            let class = self.path().join("class/block").join(device);
            symlink(fs::canonicalize(class).unwrap(), folder.join(device)).unwrap();
        }
    }

    /// Disks and unknowns of the file system that is mounted at `place`, with its dependencies.
    fn of(&self, table: &str, place: &str) -> (Vec<String>, Vec<String>, BTreeSet<Device>) {
        let mounts = parse_mountinfo(table, Seen::Here);
        let device = mounts.iter().find(|m| m.mount_point == Path::new(place)).unwrap().device;
        let grounds = grounds(self.path(), [device].into_iter(), &mounts);
        let ground = &grounds[&device];
        let unknown = ground.unknown.iter().cloned().collect();
        (disks(device, &grounds).into_iter().collect(), unknown, ground.below.clone())
    }
}

const NONE: &[String] = &[];

fn device(text: &str) -> Device {
    text.parse().unwrap()
}

#[test]
fn partitions_volumes_arrays_and_caches_lead_to_their_disks() {
    let sys = Sys::new();
    for (n, name) in ["sda", "sdb", "sdc", "sdd", "sde", "nvme0n1"].into_iter().enumerate() {
        sys.disk(name, &format!("8:{}", n * 16));
    }
    sys.partition("sda", "sda1", "8:1");
    sys.partition("sdb", "sdb1", "8:17");
    // LVM over a partition and a disk; multipath over two paths with a partition on it; an array of two
    // with encryption over it; bcache.
    sys.volume("dm-0", "253:0", "vg-data", &["sda1", "sdc"]);
    sys.volume("dm-1", "253:1", "mpatha", &["sdd", "sde"]);
    sys.volume("dm-2", "253:2", "mpatha1", &["dm-1"]);
    sys.stacked("md", "md0", "9:0", &["sdb1", "sdc"]);
    sys.volume("dm-3", "253:3", "secret", &["md0"]);
    sys.stacked("bcache", "bcache0", "252:0", &["sdd", "nvme0n1"]);
    let table = "\
        27 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 27 253:0 / /lvm rw - ext4 /dev/mapper/vg-data rw\n\
        31 27 253:2 / /multipath rw - xfs /dev/mapper/mpatha1 rw\n\
        32 27 253:3 / /crypt rw - xfs /dev/mapper/secret rw\n\
        33 27 252:0 / /cached rw - ext4 /dev/bcache0 rw\n\
        34 27 8:32 / /logged rw - xfs /dev/sdc rw,logdev=/dev/sdb1,rtdev=/dev/mapper/mpatha\n";
    for (place, expected) in [
        ("/", &["sda"][..]),
        ("/lvm", &["sda", "sdc"]),
        ("/multipath", &["sdd", "sde"]),
        ("/crypt", &["sdb", "sdc"]),
        ("/cached", &["nvme0n1", "sdd"]),
        ("/logged", &["sdb", "sdc", "sdd", "sde"]),
    ] {
        let (disks, unknown, below) = sys.of(table, place);
        assert_eq!(
            (&disks[..], &unknown[..]),
            (&expected.iter().map(|d| d.to_string()).collect::<Vec<_>>()[..], NONE),
            "{place}"
        );
        assert!(below.is_empty(), "{place}");
    }
}

#[test]
fn all_devices_of_a_btrfs_are_found_by_any_one_of_them() {
    let sys = Sys::new();
    sys.disk("sdb", "8:16");
    sys.disk("sdc", "8:32");
    sys.disk("sdd", "8:48");
    sys.volume("dm-0", "253:0", "vg-b", &["sdd"]);
    sys.btrfs("aaaa", &["sdb"]);
    sys.btrfs("bbbb", &["sdc", "dm-0"]);
    let table = "\
        27 1 0:40 / / rw - btrfs /dev/sdb rw\n\
        30 27 0:41 /@ /b rw - btrfs /dev/sdc rw\n\
        31 27 0:41 /@home /b/home rw - btrfs /dev/sdc rw\n\
        32 27 0:42 / /lost rw - btrfs /dev/sdz rw\n";
    assert_eq!(sys.of(table, "/").0, ["sdb"]);
    assert_eq!(sys.of(table, "/b").0, ["sdc", "sdd"]);
    let by_volume = table.replace("/dev/sdc", "/dev/mapper/vg-b");
    assert_eq!(sys.of(&by_volume, "/b").0, ["sdc", "sdd"]);
    assert!(sys.of(table, "/lost").1[0].contains("/dev/sdz"));
}

#[test]
fn image_files_are_found_below_partitions_and_volumes_and_their_disks_below_them() {
    let sys = Sys::new();
    sys.disk("sda", "8:0");
    sys.disk("sdb", "8:16");
    sys.loop_device("loop3", "7:3", "/data/disk image");
    sys.block("virtual/loop3/loop3p1", "259:1");
    fs::write(sys.path().join("devices/virtual/loop3/loop3p1/partition"), "1\n").unwrap();
    sys.volume("dm-0", "253:0", "vol", &["loop3p1"]);
    sys.loop_device("loop4", "7:4", "/vol/inner.img");
    let table = "\
        27 1 8:0 / / rw - ext4 /dev/sda rw\n\
        30 27 8:16 / /data rw - ext4 /dev/sdb rw\n\
        31 27 253:0 / /vol rw - ext4 /dev/mapper/vol rw\n\
        32 27 7:4 / /inner rw - xfs /dev/loop4 rw\n\
        33 27 0:60 / /ram rw - tmpfs tmpfs rw\n";
    let (disks, unknown, below) = sys.of(table, "/inner");
    assert_eq!(below, BTreeSet::from([device("253:0")]));
    assert_eq!((&disks[..], &unknown[..]), (&["sdb".to_owned()][..], NONE));
    assert_eq!(sys.of(table, "/vol").2, BTreeSet::from([device("8:16")]));
    sys.loop_device("loop5", "7:5", "/ram/image");
    let in_memory = format!("{table}34 27 7:5 / /mem rw - ext4 /dev/loop5 rw\n");
    assert_eq!(sys.of(&in_memory, "/mem"), (vec![], vec![], BTreeSet::from([device("0:60")])));
}

#[test]
fn a_kind_that_is_not_known_is_said_and_not_guessed_at() {
    let sys = Sys::new();
    sys.disk("sda", "8:0");
    sys.disk("nbd0", "43:0");
    sys.block("virtual/drbd0", "147:0");
    sys.stacked("dm", "dm-7", "253:7", &[]);
    sys.volume("dm-8", "253:8", "half", &["sda", "drbd0"]);
    sys.block("virtual/loop9", "7:9");
    for (number, words) in [
        ("43:0", "nbd0"),
        ("147:0", "drbd0"),
        ("253:7", "dm-7"),
        ("253:8", "drbd0"),
        ("7:9", "loop9"),
        ("8:99", "8:99"),
    ] {
        let table = format!("27 1 {number} / / rw - ext4 /dev/x rw\n");
        let unknown = sys.of(&table, "/").1;
        assert!(unknown.len() == 1 && unknown[0].contains(words), "{number}: {unknown:?}");
    }
    sys.block("virtual/zram0", "251:0");
    let memory = "27 1 251:0 / / rw - ext4 /dev/zram0 rw\n";
    assert_eq!(sys.of(memory, "/"), (vec![], vec![], BTreeSet::new()));
    let lower = "27 1 0:70 / / rw - fuse.sshfs host: rw\n";
    assert!(sys.of(lower, "/").1[0].contains("fuse.sshfs"));
}

#[test]
fn an_overlay_lies_where_its_writes_go() {
    let sys = Sys::new();
    sys.disk("sda", "8:0");
    let host = "\
        27 1 8:0 / / rw - ext4 /dev/sda rw\n\
        30 27 0:70 / /merged rw - overlay overlay rw,lowerdir=/l,upperdir=/var/x/diff\n";
    assert_eq!(
        sys.of(host, "/merged"),
        (vec!["sda".into()], vec![], BTreeSet::from([device("8:0")]))
    );
    let inside = "27 1 0:70 / / rw - overlay overlay rw,upperdir=/var/x/diff\n";
    assert_eq!(sys.of(inside, "/"), (vec![], vec![], BTreeSet::new()));
}
