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
    let coverage = coverage(&parse_mountinfo(TABLE), None).unwrap();
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
    let coverage = coverage(&parse_mountinfo(TABLE), None).unwrap();
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
    let covered = coverage(&parse_mountinfo(hidden_by_same_place), None).unwrap();
    assert_eq!(places(&covered)[0], ("8:1".to_owned(), vec!["/other/place"]));

    let hidden_by_parent_folder = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 8:1 / /srv/data rw - ext4 /dev/sda rw\n\
        31 27 0:50 / /srv rw - fuse.sshfs host: rw\n";
    let covered = coverage(&parse_mountinfo(hidden_by_parent_folder), None).unwrap();
    assert_eq!(places(&covered)[0], ("8:1".to_owned(), vec![]));
    let error = open_root(&covered.file_systems[0]).unwrap_err().to_string();
    assert!(error.contains("8:1") && error.contains("hidden"), "{error}");

    let nested_not_hidden = "\
        27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        30 27 8:1 / /srv rw - ext4 /dev/sda rw\n\
        31 30 8:2 / /srv/data rw - ext4 /dev/sdb rw\n";
    let covered = coverage(&parse_mountinfo(nested_not_hidden), None).unwrap();
    assert_eq!(places(&covered)[1], ("8:2".to_owned(), vec!["/srv/data"]));
}

#[test]
fn a_configured_list_restricts_and_what_is_missing_from_the_machine_is_an_error() {
    let mounts = parse_mountinfo(TABLE);
    let only = |path: &str| coverage(&mounts, Some(&[path.into()]));
    assert_eq!(places(&only("/").unwrap()), [("254:0".to_owned(), vec!["/"])]);
    assert!(only("/").unwrap().skipped.iter().any(|s| s.reason.contains("configured")));
    assert!(only("/nowhere").unwrap_err().to_string().contains("is not mounted"));
    assert!(only("/archive").unwrap_err().to_string().contains("read-only"));
    assert!(only("/net").is_err());
}

#[test]
fn this_machines_own_table_parses() {
    let mounts = read_mounts().unwrap();
    assert!(mounts.iter().any(|mount| mount.mount_point == Path::new("/")));
}
