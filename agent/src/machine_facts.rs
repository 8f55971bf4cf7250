//! Facts about the machine as a whole, judged from texts: what should be mounted, what its kernel and
//! its init say, whether it has a way out. Nothing here waits for a disk or the network.

use std::path::{Path, PathBuf};

use azdr_proto::agent::FactState;

use crate::mounts::{Mount, unescape};

/// A fact's state and its words.
pub(crate) type Judged = (FactState, String);

/// File systems of disks: network mounts say nothing about a disk, and are not looked at (N7).
const ON_DISKS: [&str; 8] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "vfat", "auto"];

/// How many lines or names a fact's words hold.
const SHOWN: usize = 5;

/// Whether every file system of /etc/fstab that is on a disk is mounted as written there. One that may be
/// absent (`nofail`) or is not mounted at boot (`noauto`) may be; where it is mounted it must be right.
/// `only`: nothing but these mount points. `uuid_of`: of what is mounted, empty where not known.
pub(crate) fn fstab(
    text: &str,
    mounts: &[Mount],
    only: Option<&[PathBuf]>,
    uuid_of: impl Fn(&Mount) -> String,
) -> Judged {
    let (mut right, mut wrong, mut absent) = (0, Vec::new(), Vec::new());
    for entry in text.lines().filter_map(Entry::parse) {
        let chosen = only.is_none_or(|paths| paths.contains(&entry.mount_point));
        if !chosen || !ON_DISKS.contains(&entry.file_system_type.as_str()) {
            continue;
        }
        let place = entry.mount_point.display();
        // The last one mounted there is the one that is seen; that of PID 1 comes after this process's.
        let is_it = |m: &&Mount| m.is_plain() && m.mount_point == entry.mount_point;
        let Some(mount) = mounts.iter().rev().find(is_it) else {
            match entry.has("nofail") || entry.has("noauto") {
                true => absent.push(place.to_string()),
                false => wrong.push(format!("{place} is not mounted")),
            }
            continue;
        };
        let found = uuid_of(mount);
        match entry.uuid() {
            Some(uuid) if !found.is_empty() && !found.eq_ignore_ascii_case(uuid) => {
                wrong.push(format!("{place} is {found}, and should be {uuid}"));
            }
            _ if mount.read_only && !entry.has("ro") => {
                wrong.push(format!("{place} is read-only"));
            }
            _ => right += 1,
        }
    }
    if !wrong.is_empty() {
        return (FactState::Fail, some_of(&wrong));
    }
    let absent = match absent.is_empty() {
        true => String::new(),
        false => format!("; not mounted, and need not be: {}", some_of(&absent)),
    };
    (FactState::Pass, format!("{right} as written in /etc/fstab{absent}"))
}

struct Entry {
    source: String,
    mount_point: PathBuf,
    file_system_type: String,
    options: Vec<String>,
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let source = fields.next().filter(|field| !field.starts_with('#'))?.to_owned();
        let mount_point = unescape(fields.next()?);
        let file_system_type = fields.next()?.to_owned();
        let options = fields.next().unwrap_or("defaults").split(',').map(str::to_owned).collect();
        Some(Self { source, mount_point, file_system_type, options })
    }

    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|found| found == option)
    }

    /// The UUID by which the file system is named, if it is.
    fn uuid(&self) -> Option<&str> {
        let quoted = self.source.strip_prefix("UUID=");
        let uuid = quoted.or_else(|| self.source.strip_prefix("/dev/disk/by-uuid/"))?;
        Some(uuid.trim_matches('"'))
    }
}

/// What init says: the answer of `systemctl is-system-running`, and the failed units.
pub(crate) fn systemd(state: &str, failed: &[String]) -> Judged {
    match (state, failed) {
        ("running", []) => (FactState::Pass, "running".to_owned()),
        ("initializing" | "starting", _) => (FactState::Unknown, "still starting".to_owned()),
        ("" | "offline" | "unknown", _) => {
            (FactState::Unknown, "systemd does not say how it is".to_owned())
        }
        (state, []) => (FactState::Fail, state.to_owned()),
        (state, failed) => (FactState::Fail, format!("{state}; failed: {}", some_of(failed))),
    }
}

/// What file systems said in the kernel's log: that a journal was replayed is expected after a restore
/// (xfs always says so) and is no sign of harm; that one is damaged is.
pub(crate) fn journal_recovery<'a>(lines: impl Iterator<Item = &'a str>) -> Judged {
    let (mut replayed, mut damaged) = (Vec::new(), Vec::new());
    for line in lines {
        let is_of_file_system = ["EXT4-fs", "XFS", "BTRFS", "F2FS-fs", "JBD2"]
            .iter()
            .any(|name| line.split_whitespace().next().is_some_and(|word| word.starts_with(name)));
        if !is_of_file_system {
            continue;
        }
        let says = |words: &[&str]| words.iter().any(|word| line.contains(word));
        if says(&[
            "EXT4-fs error",
            "orruption",
            "remounting filesystem read-only",
            "Remounting filesystem",
            "shutting down",
            "Please unmount",
            "aborting journal",
            "Aborting journal",
            "BTRFS error",
            "BTRFS critical",
        ]) {
            damaged.push(line.trim().to_owned());
        } else if says(&["recovery complete", "Ending recovery", "replaying log", "start tree-log"])
        {
            replayed.push(line.trim().to_owned());
        }
    }
    match (damaged.is_empty(), replayed.is_empty()) {
        (false, _) => (FactState::Fail, some_of(&damaged)),
        (true, false) => (FactState::Pass, format!("as expected: {}", some_of(&replayed))),
        (true, true) => (FactState::Pass, "no journal was replayed".to_owned()),
    }
}

/// Whether packets have a way out and names a server, from /proc/net/route, /proc/net/ipv6_route and
/// /etc/resolv.conf. Nothing is sent: in an isolated network nobody would answer.
pub(crate) fn network(route: &str, ipv6_route: &str, resolv_conf: &str) -> Judged {
    let v4 = route.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, destination) = (fields.next()?, fields.next()?);
        let mask = fields.nth(5)?;
        (destination == "00000000" && mask == "00000000").then(|| device.to_owned())
    });
    let v6 = ipv6_route.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (destination, device) = (fields.first()?, fields.last()?);
        let is_default = destination.bytes().all(|b| b == b'0') && fields.get(1) == Some(&"00");
        (is_default && *device != "lo").then(|| (*device).to_owned())
    });
    let server = resolv_conf.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    match (v4.or(v6), server) {
        (Some(device), Some(server)) => {
            (FactState::Pass, format!("default route by {device}, name server {server}"))
        }
        (None, _) => (FactState::Fail, "no default route".to_owned()),
        (_, None) => (FactState::Fail, "no name server in /etc/resolv.conf".to_owned()),
    }
}

/// How full a file system is for others than root.
pub(crate) fn free_space(bytes: u64, of_bytes: u64, files: Option<u64>) -> Judged {
    let percent = if of_bytes == 0 { 0 } else { u128::from(bytes) * 100 / u128::from(of_bytes) };
    match (bytes, files) {
        (0, _) => (FactState::Fail, "full".to_owned()),
        (_, Some(0)) => (FactState::Fail, "no more files can be made".to_owned()),
        _ => (FactState::Pass, format!("{percent}% free")),
    }
}

fn some_of(words: &[String]) -> String {
    let shown = words.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The texts that are read; a missing file is an empty one.
pub(crate) fn read(path: &str) -> String {
    String::from_utf8_lossy(&std::fs::read(Path::new(path)).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mounts::{Seen, parse_mountinfo};

    const MOUNTS: &str = "\
        20 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
        21 20 8:33 / /data rw - xfs /dev/sdc1 rw\n\
        22 20 8:49 / /old rw - ext4 /dev/sdd1 ro,errors=remount-ro\n\
        23 20 0:50 / /mnt/nfs rw - nfs server:/ rw\n";

    fn uuid(mount: &Mount) -> String {
        match mount.mount_point.to_str() {
            Some("/data") => "AAAA-1111".to_owned(),
            _ => String::new(),
        }
    }

    /// The machine's own mounts, and those of a container that has other disks at the same paths.
    fn mounts() -> Vec<Mount> {
        let container =
            "80 79 8:65 / / rw - ext4 /dev/sde1 ro\n81 80 8:81 / /data rw - ext4 /dev/sdf1 ro\n";
        let mut mounts = parse_mountinfo(MOUNTS, Seen::Here);
        mounts.extend(parse_mountinfo(container, Seen::By(4_000)));
        mounts
    }

    fn judge(text: &str) -> Judged {
        fstab(text, &mounts(), None, uuid)
    }

    #[test]
    fn every_mount_of_fstab_must_be_there_writable_and_the_right_one() {
        let good = "# comment\nUUID=\"aaaa-1111\" /data xfs defaults 0 2\n\
            /dev/sda1 / ext4 errors=remount-ro 0 1\nserver:/x /gone nfs defaults 0 0\n\
            /dev/sde1 /spare ext4 defaults,nofail 0 0\n/dev/sdd1 /old ext4 ro 0 0\nnone /x tmpfs";
        let (state, words) = judge(good);
        assert_eq!(state, FactState::Pass, "{words}");
        assert_eq!(words, "3 as written in /etc/fstab; not mounted, and need not be: /spare");
        for (line, why) in [
            ("/dev/sde1 /gone ext4 defaults 0 2", "/gone is not mounted"),
            ("/dev/sdd1 /old ext4 defaults 0 2", "/old is read-only"),
            ("UUID=bbbb-2222 /data xfs defaults,nofail", "/data is AAAA-1111, and should be"),
        ] {
            let (state, words) = judge(line);
            assert_eq!(state, FactState::Fail);
            assert!(words.contains(why), "{words}");
        }
        let only = [PathBuf::from("/data")];
        let gone = "/dev/sde1 /gone ext4 defaults 0 2";
        assert_eq!(fstab(gone, &mounts(), Some(&only), uuid).0, FactState::Pass);
    }

    #[test]
    fn a_replayed_journal_is_healthy_and_a_damaged_one_is_not() {
        let xfs = "XFS (sdc1): Mounting V5 Filesystem\nXFS (sdc1): Starting recovery (logdev: \
            internal)\nXFS (sdc1): Ending recovery (logdev: internal)\nEXT4-fs (sda1): recovery \
            complete\nrandom: XFS is only mentioned here: Corruption";
        let (state, words) = journal_recovery(xfs.lines());
        assert_eq!(state, FactState::Pass);
        assert!(words.contains("Ending recovery") && words.contains("sda1"), "{words}");
        assert_eq!(journal_recovery("".lines()).1, "no journal was replayed");
        let harm = "EXT4-fs error (device sda1): ext4_lookup:1785: inode #2\n\
            XFS (sdc1): Corruption detected. Unmount and run xfs_repair";
        for line in harm.lines() {
            assert_eq!(journal_recovery(line.lines()).0, FactState::Fail, "{line}");
        }
    }

    #[test]
    fn init_that_is_still_starting_is_not_known_and_a_failed_unit_fails() {
        assert_eq!(systemd("running", &[]).0, FactState::Pass);
        assert_eq!(systemd("starting", &[]).0, FactState::Unknown);
        assert_eq!(systemd("", &[]).0, FactState::Unknown);
        let (state, words) = systemd("degraded", &["mysql.service".to_owned()]);
        assert_eq!((state, words.as_str()), (FactState::Fail, "degraded; failed: mysql.service"));
        assert_eq!(systemd("maintenance", &[]).0, FactState::Fail);
    }

    #[test]
    fn a_way_out_is_a_default_route_and_a_name_server() {
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let v4 = format!("{head}eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n");
        let local = format!("{head}eth0\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n");
        let resolv = "# x\nnameserver 168.63.129.16\n";
        assert_eq!(network(&v4, "", resolv).0, FactState::Pass);
        assert_eq!(network(&local, "", resolv).1, "no default route");
        assert!(network(&v4, "", "").1.contains("name server"));
        let zero = "0".repeat(32);
        let v6 = format!("{zero} 00 {zero} 00 fe80 00000400 1 0 00000003 eth1\n");
        assert!(network(&local, &v6, resolv).1.contains("eth1"));
        let unreachable = format!("{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo\n");
        assert_eq!(network(&local, &unreachable, resolv).0, FactState::Fail);
    }

    #[test]
    fn a_file_system_without_room_for_users_is_full() {
        assert_eq!(free_space(0, 100, Some(5)).0, FactState::Fail);
        assert_eq!(free_space(50, 100, Some(0)).0, FactState::Fail);
        assert_eq!(free_space(50, 200, None), (FactState::Pass, "25% free".to_owned()));
    }
}
