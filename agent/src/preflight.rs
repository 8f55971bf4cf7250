//! Whether a freeze would go well, asked long before one is needed (R14). Opens the roots of the file
//! systems that a freeze would cover, and has no other effect.
//!
//! Two kinds of reasons speak against a freeze: *problems* last until somebody does something, and make
//! the verdict; what *passes* by itself (a machine that has just started, another freezer at work) is
//! shown and is no verdict. A freeze by somebody else cannot be seen beforehand: only a write would tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use azdr_proto::agent::{
    Disk, DiskKind, NotCovered, PreflightFileSystem, PreflightReport, QuiesceState,
};
use azdr_thawd_client::{Client, MAX_FILE_SYSTEMS};
use serde_json::{Value, json};

use crate::bounds::{self, MOST_DISKS, MOST_NOT_FROZEN, clip};
use crate::mounts::{Mount, Skipped, device_of};
use crate::namespaces::read_mounts;
use crate::processes::processes;
use crate::roots::Roots;
use crate::safe_freeze_lock;
use crate::survey::{Plan, Planned, Scope, open, plan};
use crate::unfrozen_disks::{Used, unfrozen_disks};
use crate::{Agent, conditions, disks, placement};

/// For the whole look: a disk that does not answer is a problem of its own.
const LIMIT: Duration = Duration::from_secs(10);
const THAWD_LIMIT: Duration = Duration::from_secs(2);
const THAWD_LIMIT_MS: u32 = 1_000;
/// Entries of a list of texts.
const MOST_TEXTS: usize = 32;
/// Programs that freeze file systems when their hypervisor asks for it.
const FREEZERS: &[&str] = &["qemu-ga", "vmtoolsd"];
/// Names of the extensions of Azure Backup and Site Recovery begin so.
const EXTENSIONS: &str = "Microsoft.Azure.RecoveryServices.";
/// Block devices without data of their own: optical drives, memory, image files of others.
const NO_DATA: &[&str] = &["sr", "ram", "zram", "loop", "fd"];

/// Looks, and reports within 15 s. `request_id`: of whoever asked; empty: nobody did. `state`: tells what
/// the agent is doing, which may change meanwhile.
pub async fn preflight(
    agent: &Agent,
    request_id: &str,
    state: impl Fn() -> QuiesceState,
) -> PreflightReport {
    let begun = agent.env.clock.monotonic();
    let now = agent.env.clock.wall();
    let (scope, config) = (agent.scope(), agent.config.clone());
    let mut found = Found::default();
    let thawd = match state() {
        QuiesceState::Idle => thaw_process(agent).await,
        _ => None,
    };
    let least_uptime = agent.least_uptime();
    let look = move || {
        let mut found = look(&scope, &config.safe_freeze_lock);
        found.passing.extend(conditions::obstacles(&scope.roots, now, least_uptime));
        found.problems.extend(placement::misplaced(&scope, &config));
        let lock = config.safe_freeze_lock.clone();
        (found, safe_freeze_lock::is_held(&lock).then_some(lock))
    };
    let (looked, lock) = match agent.blocking.run("preflight", LIMIT, look).await {
        Ok(looked) => looked,
        Err(stuck) => {
            found.problems.push(format!("file systems: {stuck}"));
            (Found::default(), None)
        }
    };
    found.add(looked);
    if state() == QuiesceState::Idle {
        found.problems.extend(thawd);
        found.passing.extend(lock.map(|lock| {
            let lock = lock.display();
            format!("Azure Backup or Site Recovery is freezing: somebody holds {lock}")
        }));
    } else {
        // While it serves an operation, the thaw process answers nobody else; and the lock is ours.
        found.passing.push("an operation is under way".to_owned());
    }
    let took = agent.env.clock.monotonic().since(begun);
    PreflightReport {
        request_id: request_id.to_owned(),
        taken_at_unix_ms: now.unix_ms(),
        took_ms: u32::try_from(took.as_millis()).unwrap_or(u32::MAX),
        ready: found.problems.is_empty(),
        problems: short(found.problems),
        passing: short(found.passing),
        file_systems: found.file_systems,
        not_covered: found.not_covered,
        foreign_tools: short(found.foreign_tools),
    }
}

async fn thaw_process(agent: &Agent) -> Option<String> {
    let socket = agent.config.thawd_socket.clone();
    let ask = move || Client::connect(&socket, THAWD_LIMIT_MS).and_then(|thawd| thawd.status());
    let reason = match agent.blocking.run("azdr-thawd", THAWD_LIMIT, ask).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => error.to_string(),
        Err(stuck) => stuck.to_string(),
    };
    let socket = agent.config.thawd_socket.display();
    Some(format!("azdr-thawd at {socket} does not answer: {reason}"))
}

#[derive(Default)]
struct Found {
    problems: Vec<String>,
    passing: Vec<String>,
    file_systems: Vec<PreflightFileSystem>,
    not_covered: Vec<NotCovered>,
    foreign_tools: Vec<String>,
}

impl Found {
    fn add(&mut self, other: Self) {
        self.problems.extend(other.problems);
        self.passing.extend(other.passing);
        self.file_systems.extend(other.file_systems);
        self.not_covered.extend(other.not_covered);
        self.foreign_tools.extend(other.foreign_tools);
    }
}

/// May block on a stuck disk.
fn look(scope: &Scope, lock: &Path) -> Found {
    let mut found = Found { foreign_tools: foreign_tools(&scope.roots), ..Found::default() };
    let mounts = read_mounts(&scope.roots.proc).unwrap_or_default();
    let used = used(&scope.roots, &mounts);
    match plan(scope) {
        Ok(planned) => {
            found.not_covered = unfrozen_disks(&scope.roots.sys, &planned, &used);
            let Plan { file_systems, skipped } = planned;
            match file_systems.len() {
                0 => found.problems.push("there is no file system to freeze".to_owned()),
                n if n > MAX_FILE_SYSTEMS => {
                    found
                        .problems
                        .push(format!("{n} file systems are more than {MAX_FILE_SYSTEMS}"));
                }
                _ => {}
            }
            // Every one that cannot be opened is named, not the first alone.
            let opened =
                file_systems.iter().filter_map(|planned| open(&scope.roots, planned).err());
            found.problems.extend(opened.map(|error| error.to_string()));
            found.problems.extend(file_systems.iter().filter_map(torn));
            found.file_systems = in_order(&file_systems);
            found.not_covered.extend(skipped.iter().map(not_frozen));
        }
        Err(error) => found.problems.push(crate::chain(&error)),
    }
    found.problems.extend(lock_is_out_of_reach(&mounts, lock));
    found.not_covered.extend(swap_and_raw(&scope.roots, &used));
    bounds::shorten(&mut found.not_covered, MOST_NOT_FROZEN, |count| {
        let (what, reason) = bounds::others(count);
        NotCovered { what, kind: "various".to_owned(), reason }
    });
    found
}

/// A file system that every freeze will be refused for: one of its disks is never in a snapshot.
fn torn(planned: &Planned) -> Option<String> {
    let never = |disk: &&Disk| matches!(disk.kind(), DiskKind::Temporary | DiskKind::Unknown);
    let found: Vec<String> = planned.disks.iter().filter(never).map(disks::in_words).collect();
    let place = planned.file_system.mounts.first().map(Mount::place).unwrap_or_default();
    (planned.disks.len() > 1 && !found.is_empty())
        .then(|| format!("{place} spans disks of which no snapshot is taken: {}", found.join(", ")))
}

/// Where nobody can make the lock, we cannot hold it.
fn lock_is_out_of_reach(mounts: &[Mount], lock: &Path) -> Option<String> {
    let device = device_of(lock, mounts)?;
    let mount = mounts.iter().find(|mount| mount.device == device)?;
    mount.read_only.then(|| {
        format!(
            "field `safe_freeze_lock`: {} is on a read-only file system; without Azure Backup on this \
             machine it may be anywhere",
            lock.display()
        )
    })
}

fn in_order(planned: &[Planned]) -> Vec<PreflightFileSystem> {
    let mut planned: Vec<&Planned> = planned.iter().collect();
    planned.sort_by_key(|planned| planned.level);
    let shown = |planned: &&Planned| PreflightFileSystem {
        mount_point: clip(planned.file_system.mounts.first().map(Mount::place).unwrap_or_default()),
        file_system_type: planned.file_system.file_system_type.clone(),
        device: planned.file_system.device.to_string(),
        level: planned.level.into(),
        disks: planned.disks.iter().take(MOST_DISKS).cloned().collect(),
    };
    planned.iter().take(MAX_FILE_SYSTEMS).map(shown).collect()
}

fn not_frozen(skipped: &Skipped) -> NotCovered {
    NotCovered {
        what: clip(skipped.mount.place()),
        kind: clip(skipped.mount.file_system_type.clone()),
        reason: skipped.reason.to_owned(),
    }
}

/// Swap by its places, files included.
fn swaps(roots: &Roots) -> Vec<String> {
    let swaps = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    let places = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    places.map(str::to_owned).collect()
}

fn used(roots: &Roots, mounts: &[Mount]) -> Used {
    let swap: Vec<String> =
        swaps(roots).iter().filter_map(|s| Some(s.strip_prefix("/dev/")?.to_owned())).collect();
    let mut raw = raw_devices(roots, mounts);
    raw.retain(|name| !swap.contains(name));
    Used { swap, raw }
}

/// What is written to without a file system.
fn swap_and_raw(roots: &Roots, used: &Used) -> Vec<NotCovered> {
    let entry = |what: String, kind: &str, reason: &str| NotCovered {
        what: clip(what),
        kind: kind.to_owned(),
        reason: reason.to_owned(),
    };
    let mut found: Vec<NotCovered> = swaps(roots)
        .into_iter()
        .map(|swap| entry(swap, "swap", "swap is written to while file systems are frozen"))
        .collect();
    found.extend(used.raw.iter().map(|name| {
        let reason = "nothing is mounted from it: whoever writes to it directly is not stopped";
        entry(format!("/dev/{name}"), "raw", reason)
    }));
    found
}

/// Block devices with a size that nothing is mounted from, and that no other device lies on.
fn raw_devices(roots: &Roots, mounts: &[Mount]) -> Vec<String> {
    let mounted: BTreeSet<String> = mounts.iter().map(|mount| mount.device.to_string()).collect();
    let members = btrfs_members(roots);
    let has_any =
        |folder: &Path| fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let mut raw = BTreeMap::new();
    for entry in fs::read_dir(roots.sys.join("class/block")).into_iter().flatten().flatten() {
        let (name, folder) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        let read = |file: &str| fs::read_to_string(folder.join(file)).unwrap_or_default();
        let partitioned = fs::read_dir(&folder).is_ok_and(|mut entries| {
            entries.any(|e| e.is_ok_and(|e| e.path().join("partition").exists()))
        });
        let no_data = NO_DATA.iter().any(|kind| {
            name.strip_prefix(kind)
                .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        });
        let used = mounted.contains(read("dev").trim()) || members.contains(&name);
        let empty = read("size").trim().parse::<u64>().unwrap_or(0) == 0;
        if !(no_data || used || empty || partitioned || has_any(&folder.join("holders"))) {
            raw.insert(name, ());
        }
    }
    raw.into_keys().collect()
}

fn btrfs_members(roots: &Roots) -> BTreeSet<String> {
    let systems = fs::read_dir(roots.sys.join("fs/btrfs")).into_iter().flatten().flatten();
    let devices = systems.flat_map(|system| fs::read_dir(system.path().join("devices")));
    let devices = devices.flatten().flatten();
    devices.map(|device| device.file_name().to_string_lossy().into_owned()).collect()
}

/// Other programs here that freeze file systems.
fn foreign_tools(roots: &Roots) -> Vec<String> {
    let extensions = fs::read_dir(&roots.waagent).into_iter().flatten().flatten();
    let mut tools: BTreeSet<String> = extensions
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with(EXTENSIONS) && !name.ends_with(".zip"))
        .map(|name| format!("Azure Backup or Site Recovery: extension {name}"))
        .collect();
    let freezers = processes(&roots.proc);
    let freezers = freezers.iter().filter(|process| FREEZERS.contains(&process.name.as_str()));
    tools.extend(freezers.map(|p| format!("{} runs (process {})", p.name, p.pid)));
    tools.into_iter().collect()
}

fn short(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().take(MOST_TEXTS).map(clip).collect()
}

/// The report for people, a line each.
pub fn text(report: &PreflightReport) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{:<16}{value}", format!("{name}:"));
    };
    line("preflight", if report.ready { "ready" } else { "NOT READY" }.to_owned());
    for problem in &report.problems {
        line("PROBLEM", problem.clone());
    }
    for passing in &report.passing {
        line("not now", passing.clone());
    }
    for found in &report.file_systems {
        let PreflightFileSystem { mount_point, file_system_type: kind, level, .. } = found;
        let on: Vec<String> = found.disks.iter().map(disks::in_words).collect();
        let on = if on.is_empty() { String::new() } else { format!(" on {}", on.join(", ")) };
        line("frozen", format!("{mount_point} ({kind}, level {level}){on}"));
    }
    for found in &report.not_covered {
        let NotCovered { what, kind, reason } = found;
        line("not frozen", format!("{what} ({kind}): {reason}"));
    }
    for tool in &report.foreign_tools {
        line("other freezer", tool.clone());
    }
    text
}

/// The report for programs.
pub fn document(report: &PreflightReport) -> Value {
    let file_system = |found: &PreflightFileSystem| {
        let disk = |disk: &Disk| {
            let kind = disk.kind().as_str_name().trim_start_matches("DISK_KIND_").to_lowercase();
            let lun = (disk.kind() == DiskKind::Data).then_some(disk.lun);
            json!({ "name": disk.name, "kind": kind, "lun": lun })
        };
        json!({
            "mount_point": found.mount_point,
            "file_system_type": found.file_system_type,
            "device": found.device,
            "level": found.level,
            "disks": found.disks.iter().map(disk).collect::<Vec<_>>(),
        })
    };
    let not_covered = |found: &NotCovered| json!({ "what": found.what, "kind": found.kind, "reason": found.reason });
    json!({
        "ready": report.ready,
        "taken_at_unix_ms": report.taken_at_unix_ms,
        "took_ms": report.took_ms,
        "problems": report.problems,
        "passing": report.passing,
        "file_systems": report.file_systems.iter().map(file_system).collect::<Vec<_>>(),
        "not_covered": report.not_covered.iter().map(not_covered).collect::<Vec<_>>(),
        "foreign_tools": report.foreign_tools,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_raw_devices_and_other_freezers_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let roots = Roots {
            proc: at("proc"),
            sys: at("sys"),
            dev: at("dev"),
            run: at("run"),
            waagent: at("waagent"),
        };
        let write = |path: std::path::PathBuf, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let swaps = "Filename\tType\tSize\tUsed\tPriority\n/dev/sdb2 partition 1 0 -2\n/swapfile file 1 0 -3\n";
        write(roots.proc.join("swaps"), swaps);
        write(roots.proc.join("70/comm"), "qemu-ga\n");
        write(roots.proc.join("71/comm"), "qemu-gallery\n");
        for name in ["VMSnapshotLinux-1.0.9", "VMSnapshotLinux-1.0.9.zip"] {
            write(roots.waagent.join(format!("{EXTENSIONS}{name}/x")), "");
        }
        write(roots.waagent.join("Microsoft.Azure.Monitor-1/x"), "");
        let block = |name: &str, number: &str, size: &str| {
            let folder = roots.sys.join("class/block").join(name);
            write(folder.join("dev"), number);
            write(folder.join("size"), size);
            folder
        };
        let disk = block("sda", "8:0", "100\n");
        write(disk.join("sda1/partition"), "1");
        block("sda1", "8:1", "100\n");
        block("sdb2", "8:18", "100\n");
        write(block("sdc", "8:32", "100\n").join("holders/dm-0/x"), "");
        block("dm-0", "253:0", "100\n");
        block("sdd", "8:48", "0\n");
        block("loop0", "7:0", "100\n");
        block("sde", "8:64", "100\n");
        write(roots.sys.join("fs/btrfs/aaaa/devices/sde/x"), "");
        let table = "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let mounts = crate::mounts::parse_mountinfo(table, crate::mounts::Seen::Here);
        let found: Vec<_> = swap_and_raw(&roots, &used(&roots, &mounts))
            .into_iter()
            .map(|n| (n.what, n.kind))
            .collect();
        let expected = [("/dev/sdb2", "swap"), ("/swapfile", "swap"), ("/dev/dm-0", "raw")];
        assert_eq!(found, expected.map(|(what, kind)| (what.to_owned(), kind.to_owned())));
        assert_eq!(
            foreign_tools(&roots),
            [
                "Azure Backup or Site Recovery: extension \
                 Microsoft.Azure.RecoveryServices.VMSnapshotLinux-1.0.9",
                "qemu-ga runs (process 70)",
            ]
        );
    }

    #[test]
    fn what_every_freeze_would_be_refused_for_is_a_problem() {
        let disk =
            |kind: DiskKind, name: &str| Disk { kind: kind.into(), lun: 0, name: name.into() };
        let table = "27 1 8:1 / / rw - ext4 /dev/sda1 rw\n28 27 8:2 / /etc rw - ext4 /dev/x ro\n";
        let mounts = crate::mounts::parse_mountinfo(table, crate::mounts::Seen::Here);
        let choice = crate::mounts::Choice::default();
        let root = crate::mounts::coverage(&mounts, &choice).unwrap().file_systems.remove(0);
        let on = |disks: &[Disk]| {
            torn(&Planned { file_system: root.clone(), level: 0, disks: disks.to_vec() })
        };
        let (os, data) = (disk(DiskKind::Os, "sda"), disk(DiskKind::Data, "sdc"));
        let temporary = disk(DiskKind::Temporary, "sdb");
        assert_eq!(on(&[os.clone(), data]), None);
        assert_eq!(on(&[disk(DiskKind::Unknown, "vda")]), None, "one disk is whole");
        let words = on(&[os, temporary]).unwrap();
        assert_eq!(words, "/ spans disks of which no snapshot is taken: temporary disk (sdb)");
        assert_eq!(lock_is_out_of_reach(&mounts, Path::new("/run/lock")), None);
        assert!(lock_is_out_of_reach(&mounts, Path::new("/etc/azure/lock")).is_some());
    }

    #[test]
    fn the_report_reads_well_and_is_bounded() {
        let report = PreflightReport {
            ready: false,
            problems: short(vec!["x".repeat(600); 40]),
            passing: vec!["the machine has been up for 3 s; 60 s are needed".to_owned()],
            file_systems: vec![PreflightFileSystem {
                mount_point: "/data".to_owned(),
                file_system_type: "xfs".to_owned(),
                device: "253:0".to_owned(),
                level: 0,
                disks: vec![Disk { kind: DiskKind::Data.into(), lun: 3, name: "sdd".to_owned() }],
            }],
            not_covered: vec![NotCovered {
                what: "/boot/efi".to_owned(),
                kind: "vfat".to_owned(),
                reason: "its type is not on the list of what is frozen".to_owned(),
            }],
            ..PreflightReport::default()
        };
        assert!(report.problems.len() == 32 && report.problems.iter().all(|p| p.len() <= 512));
        let said = text(&report);
        for line in [
            "preflight:      NOT READY\n",
            "not now:        the machine has been up for 3 s; 60 s are needed\n",
            "frozen:         /data (xfs, level 0) on LUN 3 (sdd)\n",
            "not frozen:     /boot/efi (vfat): its type is not on the list of what is frozen\n",
        ] {
            assert!(said.contains(line), "{line:?} in {said}");
        }
        let document = document(&report);
        assert_eq!(document["file_systems"][0]["disks"][0]["lun"], 3);
        assert_eq!(document["file_systems"][0]["disks"][0]["kind"], "data");
        assert_eq!(document["ready"], false);
    }
}
