use super::*;

const TABLE: &str = r"22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 8:17 / /data\040disk\134x ro,relatime - xfs /dev/sdb1 rw,attr2
41 27 8:17 /sub /bind rw - xfs /dev/sdb1 rw,attr2
42 27 8:33 / /archive rw - ext4 /dev/sdc1 ro,noatime
43 27 8:1 / /boot/efi rw - vfat /dev/sda1 rw
44 27 0:50 / /net rw - nfs4 server:/export rw
45 27 0:51 /@ /btr rw - btrfs /dev/sdd rw,subvolid=256
46 45 0:51 /@home /btr/home rw - btrfs /dev/sdd rw,subvolid=257
malformed line
";

fn places(coverage: &Coverage) -> Vec<(String, Vec<&str>)> {
    coverage
        .file_systems
        .iter()
        .map(|f| {
            let mounts = f.mounts.iter().map(|m| m.mount_point.to_str().unwrap()).collect();
            (f.device.to_string(), mounts)
        })
        .collect()
}

#[test]
fn each_superblock_is_covered_once_and_its_best_place_comes_first() {
    let coverage = coverage(&parse_mountinfo(TABLE, Seen::Here), &Choice::default()).unwrap();
    assert_eq!(
        places(&coverage),
        [
            ("0:51".to_owned(), vec!["/btr", "/btr/home"]),
            ("8:17".to_owned(), vec!["/data disk\\x", "/bind"]),
            ("254:0".to_owned(), vec!["/"]),
        ]
    );
}

#[test]
fn a_read_only_mount_of_a_writable_superblock_is_covered_and_a_read_only_superblock_is_not() {
    let coverage = coverage(&parse_mountinfo(TABLE, Seen::Here), &Choice::default()).unwrap();
    let skipped: Vec<_> = coverage
        .skipped
        .iter()
        .map(|s| (s.mount.mount_point.to_str().unwrap(), s.reason))
        .collect();
    assert_eq!(
        skipped,
        [("/boot/efi", "its type is not on the list of what is frozen"), ("/archive", "read-only")]
    );
}

#[test]
fn what_names_no_device_and_is_on_disks_all_the_same_is_named() {
    let table = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 0:40 / /tank rw - zfs tank rw,xattr\n\
        31 30 0:41 / /tank/data rw - zfs tank/data rw,xattr\n\
        32 27 0:42 / /flash rw - ubifs ubi0:data rw\n\
        33 27 0:43 / /new rw - kindofnextyear pool/a rw\n\
        34 27 8:1 / /windows rw - fuseblk /dev/sda1 rw\n\
        35 27 0:44 / /sys rw - sysfs sysfs rw\n\
        36 27 0:45 / /run rw - tmpfs tmpfs rw\n\
        37 27 0:46 / /dev rw - devtmpfs /dev rw\n\
        38 27 0:47 / /net rw - nfs4 server:/export rw\n\
        39 27 0:48 / /merged rw - overlay overlay rw,upperdir=/up\n\
        40 27 0:49 / /far rw - fuse.sshfs host: rw\n\
        41 27 0:50 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    let coverage = coverage(&parse_mountinfo(table, Seen::Here), &Choice::default()).unwrap();
    let skipped: Vec<_> = coverage.skipped.iter().map(|s| (s.mount.place(), s.reason)).collect();
    let because = "its type is not on the list of what is frozen";
    let named = ["/tank", "/tank/data", "/flash", "/new", "/windows"];
    assert_eq!(skipped, named.map(|place| (place.to_owned(), because)));
    assert_eq!(places(&coverage), [("254:0".to_owned(), vec!["/"])]);
}

#[test]
fn escapes_are_undone_byte_by_byte() {
    assert_eq!(unescape(r"/a\040b\011c\012d\134e"), Path::new("/a b\tc\nd\\e"));
    assert_eq!(unescape(r"/ä\0"), Path::new(r"/ä\0"));
    assert_eq!(unescape(r"/a\08x"), Path::new(r"/a\08x"));
    assert_eq!(unescape(r"/x\134040"), Path::new(r"/x\040"));
}

#[test]
fn a_mount_under_another_is_not_opened_by_its_path() {
    let hidden_by_same_place = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 8:1 / /data rw - ext4 /dev/sda rw\n\
        31 30 0:50 / /data rw - nfs4 server:/x rw\n\
        32 27 8:1 / /other/place rw - ext4 /dev/sda rw\n";
    let covered =
        coverage(&parse_mountinfo(hidden_by_same_place, Seen::Here), &Choice::default()).unwrap();
    assert_eq!(places(&covered)[0], ("8:1".to_owned(), vec!["/other/place"]));

    let hidden_by_parent_folder = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 8:1 / /srv/data rw - ext4 /dev/sda rw\n\
        31 27 0:50 / /srv rw - fuse.sshfs host: rw\n";
    let covered =
        coverage(&parse_mountinfo(hidden_by_parent_folder, Seen::Here), &Choice::default())
            .unwrap();
    assert_eq!(places(&covered)[0], ("8:1".to_owned(), vec![]));
    let error = open_root(Path::new("/proc"), &covered.file_systems[0]).unwrap_err().to_string();
    assert!(error.contains("8:1") && error.contains("hidden"), "{error}");

    let nested_not_hidden = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 8:1 / /srv rw - ext4 /dev/sda rw\n\
        31 30 8:2 / /srv/data rw - ext4 /dev/sdb rw\n";
    let covered =
        coverage(&parse_mountinfo(nested_not_hidden, Seen::Here), &Choice::default()).unwrap();
    assert_eq!(places(&covered)[1], ("8:2".to_owned(), vec!["/srv/data"]));
}

#[test]
fn a_configured_list_restricts_and_what_is_missing_from_the_machine_is_an_error() {
    let mounts = parse_mountinfo(TABLE, Seen::Here);
    let only = |path: &str| {
        coverage(&mounts, &Choice { only: Some(vec![path.into()]), ..Choice::default() })
    };
    assert_eq!(places(&only("/").unwrap()), [("254:0".to_owned(), vec!["/"])]);
    assert!(only("/").unwrap().skipped.iter().any(|s| s.reason.contains("configured")));
    assert!(only("/nowhere").unwrap_err().to_string().contains("is not mounted"));
    assert!(only("/archive").unwrap_err().to_string().contains("read-only"));
    assert!(only("/net").is_err());
}

#[test]
fn the_way_to_a_mount_never_leads_through_what_may_not_answer() {
    let behind_a_file_server = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 0:50 / /net rw - nfs4 server:/x rw\n\
        31 30 8:1 / /net/data rw - ext4 /dev/sda rw\n";
    let mounts = parse_mountinfo(behind_a_file_server, Seen::Here);
    let covered = coverage(&mounts, &Choice::default()).unwrap();
    assert_eq!(places(&covered)[0], ("8:1".to_owned(), vec![]));
    let error = open_root(Path::new("/proc"), &covered.file_systems[0]).unwrap_err().to_string();
    assert!(error.contains("may never answer"), "{error}");
}

#[test]
fn what_only_a_container_has_mounted_is_covered_and_its_paths_are_not_the_machines() {
    let own = "27 1 254:0 / / rw - ext4 /dev/vda rw\n30 27 8:1 / /data rw - xfs /dev/sda rw\n";
    let container = "\
        60 50 0:70 / / rw - overlay overlay rw,upperdir=/var/lib/x/diff,workdir=/w\n\
        61 60 8:1 /volume /var rw - xfs /dev/sda rw\n\
        62 60 8:9 / /own rw - ext4 /dev/sdc rw\n";
    let mut mounts = parse_mountinfo(own, Seen::Here);
    mounts.extend(parse_mountinfo(container, Seen::By(99)));
    assert_eq!(mounts[2].upper.as_deref(), Some(Path::new("/var/lib/x/diff")));
    let all = coverage(&mounts, &Choice::default()).unwrap();
    assert_eq!(
        places(&all),
        [
            ("8:1".to_owned(), vec!["/data", "/var"]),
            ("8:9".to_owned(), vec!["/own"]),
            ("254:0".to_owned(), vec!["/"]),
        ]
    );
    assert_eq!(
        all.file_systems[1].mounts[0].way(Path::new("/proc")),
        Path::new("/proc/99/root/own")
    );
    let last: Vec<_> = all.file_systems.iter().map(|file_system| file_system.last).collect();
    assert_eq!(last, [false, false, true], "/var of a container is no reason to wait");
    let only = |path: &str| Choice { only: Some(vec![path.into()]), ..Choice::default() };
    assert!(coverage(&mounts, &only("/own")).unwrap_err().to_string().contains("is not mounted"));
}

#[test]
fn types_can_be_added_and_further_devices_are_found_in_the_options() {
    let table = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 8:1 / /data rw - xfs /dev/sda rw,logdev=/dev/sdb,rtdev=/dev/sdc\n\
        31 27 8:5 / /more rw - bcachefs /dev/sdd rw\n";
    let mounts = parse_mountinfo(table, Seen::Here);
    assert_eq!(mounts[1].more_sources, [Path::new("/dev/sdb"), Path::new("/dev/sdc")]);
    assert_eq!(coverage(&mounts, &Choice::default()).unwrap().file_systems.len(), 2);
    let choice = Choice { more_types: vec!["bcachefs".to_owned()], ..Choice::default() };
    assert_eq!(coverage(&mounts, &choice).unwrap().file_systems.len(), 3);
    for kind in ["nfs4", "fuse.sshfs", "cifs", "9p", "ceph", "autofs", "overlay", ""] {
        assert!(!may_be_added(kind), "{kind}");
    }
}
