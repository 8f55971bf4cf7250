use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A machine made by hand: its processes, mount table and sysfs.
pub(crate) struct Machine(tempfile::TempDir);

impl Machine {
    pub(crate) fn new(table: &str) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        let roots = machine.scope().roots;
        fs::create_dir_all(roots.proc.join("self/ns")).unwrap();
        symlink("mnt:[1]", roots.proc.join("self/ns/mnt")).unwrap();
        fs::write(roots.proc.join("self/mountinfo"), table).unwrap();
        fs::create_dir_all(roots.sys.join("dev/block")).unwrap();
        fs::create_dir_all(roots.sys.join("class/block")).unwrap();
        machine
    }

    pub(crate) fn scope(&self) -> Scope {
        let root = self.0.path();
        let folder = |name| root.join(name);
        let roots = Roots {
            proc: folder("proc"),
            sys: folder("sys"),
            dev: folder("dev"),
            run: folder("run"),
            waagent: folder("waagent"),
        };
        Scope { roots, choice: Choice::default() }
    }

    /// A disk on the controller of data disks, or with `device_id` on another.
    pub(crate) fn disk(&self, name: &str, number: &str, lun: u32, device_id: &str) -> PathBuf {
        let sys = self.scope().roots.sys;
        let controller = sys.join(format!("devices/{name}"));
        let device = controller.join(format!("host0/target/0:0:0:{lun}"));
        let block = device.join("block").join(name);
        fs::create_dir_all(&block).unwrap();
        fs::write(controller.join("device_id"), format!("{{{device_id}}}\n")).unwrap();
        symlink(&device, block.join("device")).unwrap();
        fs::write(block.join("size"), "2048\n").unwrap();
        symlink(&block, sys.join("dev/block").join(number)).unwrap();
        symlink(&block, sys.join("class/block").join(name)).unwrap();
        block
    }

    fn process(&self, pid: u32, name: &str) {
        let folder = self.scope().roots.proc.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
    }
}

pub(crate) const DATA: &str = "f8b3781b-1e82-4818-a1c3-63d806ec15bb";
pub(crate) const OS: &str = "f8b3781a-1e82-4818-a1c3-63d806ec15bb";
const TABLE: &str = "\
    27 1 8:0 / / rw - ext4 /dev/sda rw\n\
    30 27 8:16 / /mnt rw - ext4 /dev/sdb rw\n\
    31 27 8:32 / /data rw - xfs /dev/sdc rw\n\
    32 27 8:48 / /opt/CrowdStrike rw - ext4 /dev/sdd rw\n";

fn machine() -> Machine {
    let machine = Machine::new(TABLE);
    machine.disk("sda", "8:0", 0, OS);
    machine.disk("sdb", "8:16", 1, OS);
    machine.disk("sdc", "8:32", 0, DATA);
    machine.disk("sdd", "8:48", 3, DATA);
    machine
}

fn shown(plan: &Plan) -> Vec<(String, u8, String)> {
    let line = |planned: &Planned| {
        let disks: Vec<String> = planned.disks.iter().map(disks::in_words).collect();
        (planned.file_system.mounts[0].place(), planned.level, disks.join(", "))
    };
    plan.file_systems.iter().map(line).collect()
}

fn line(place: &str, level: u8, disks: &str) -> (String, u8, String) {
    (place.to_owned(), level, disks.to_owned())
}

#[test]
fn the_temporary_disk_is_left_out_and_every_file_system_knows_its_disks() {
    let plan = plan(&machine().scope()).unwrap();
    assert_eq!(
        shown(&plan),
        [
            line("/", 1, "OS disk (sda)"),
            line("/data", 0, "LUN 0 (sdc)"),
            line("/opt/CrowdStrike", 0, "LUN 3 (sdd)"),
        ]
    );
    let skipped: Vec<_> = plan.skipped.iter().map(|s| (s.mount.place(), s.reason)).collect();
    assert_eq!(skipped.len(), 1);
    assert!(skipped[0].0 == "/mnt" && skipped[0].1.contains("temporary disk"), "{skipped:?}");
}

#[test]
fn what_is_left_out_is_told_with_its_disks_and_zfs_without() {
    let machine = machine();
    let proc = machine.scope().roots.proc;
    let zfs = "40 27 0:40 / /tank rw - zfs tank rw\n";
    fs::write(proc.join("self/mountinfo"), format!("{TABLE}{zfs}")).unwrap();
    let only = Some(vec![PathBuf::from("/")]);
    let scope = Scope { choice: Choice { only, ..Choice::default() }, ..machine.scope() };
    let plan = plan(&scope).unwrap();
    assert_eq!(shown(&plan), [line("/", 0, "OS disk (sda)")]);
    let survey = Survey { covered: Vec::new(), skipped: plan.skipped };
    let told: Vec<_> = survey
        .skipped_reports()
        .into_iter()
        .map(|r| {
            let disks: Vec<String> = r.disks.iter().map(disks::in_words).collect();
            (r.mount_point, r.disks_known, disks.join(", "))
        })
        .collect();
    let told_of = |place: &str| told.iter().find(|(at, ..)| at == place).unwrap();
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told_of("/data"), &("/data".to_owned(), true, "LUN 0 (sdc)".to_owned()));
    assert_eq!(told_of("/mnt"), &("/mnt".to_owned(), true, "temporary disk (sdb)".to_owned()));
    assert_eq!(told_of("/tank"), &("/tank".to_owned(), false, String::new()));
}

#[test]
fn of_many_that_are_left_out_the_others_are_counted_and_what_matters_stays() {
    let machine = machine();
    let proc = machine.scope().roots.proc;
    let zfs = |n: u32| format!("{} 27 0:{n} / /tank/{n} rw - zfs tank/{n} rw\n", 1_000 + n);
    let many: String = (100..400).map(zfs).collect();
    let long = format!("50 27 0:99 / /{} rw - zfs tank rw\n", "é".repeat(600));
    fs::write(proc.join("self/mountinfo"), format!("{TABLE}{long}{many}")).unwrap();
    let only = Some(vec![PathBuf::from("/")]);
    let scope = Scope { choice: Choice { only, ..Choice::default() }, ..machine.scope() };
    let found = plan(&scope).unwrap();
    let all = found.skipped.len();
    assert_eq!(all, 304, "three disks, and what is of no known one");
    let root = Arc::new(OwnedFd::from(fs::File::open("/proc").unwrap()));
    let covered = |planned: Planned| Covered {
        device: planned.file_system.device,
        file_system_type: String::new(),
        mount_point: "/".into(),
        uuid: String::new(),
        root: root.clone(),
        level: 0,
        disks: planned.disks,
    };
    let covered = found.file_systems.into_iter().map(covered).collect();
    let told = Survey { covered, skipped: found.skipped }.skipped_reports();
    assert_eq!(told.len(), 128);
    let first: Vec<_> = told.iter().take(3).map(|r| r.mount_point.as_str()).collect();
    assert_eq!(first, ["/mnt", "/data", "/opt/CrowdStrike"], "on disks without anything frozen");
    assert!(told[3].mount_point.ends_with("é…"), "{}", told[3].mount_point);
    assert!(told.iter().all(|r| r.mount_point.len() <= 512));
    let last = &told[127];
    assert_eq!(last.mount_point, format!("{} others", all - 127));
    assert!(last.reason.contains("more than 128") && !last.disks_known, "{last:?}");
    assert_eq!(last.state(), FileSystemState::Skipped);
}

#[test]
fn what_a_daemon_needs_that_is_asked_first_is_frozen_last() {
    let machine = machine();
    machine.process(70, "sshd");
    machine.process(71, "falcon-sensor");
    let plan = plan(&machine.scope()).unwrap();
    assert_eq!(shown(&plan)[2], line("/opt/CrowdStrike", 1, "LUN 3 (sdd)"));
    assert_eq!(shown(&plan)[1].1, 0);
}

#[test]
fn a_stack_that_is_not_known_or_a_circle_is_refused() {
    let machine = machine();
    let sys = machine.scope().roots.sys;
    fs::create_dir_all(sys.join("devices/drbd0")).unwrap();
    symlink(sys.join("devices/drbd0"), sys.join("dev/block/147:0")).unwrap();
    let proc = machine.scope().roots.proc;
    let with =
        |more: &str| fs::write(proc.join("self/mountinfo"), format!("{TABLE}{more}")).unwrap();
    with("40 27 147:0 / /drbd rw - ext4 /dev/drbd0 rw\n");
    let error = plan(&machine.scope()).unwrap_err().to_string();
    assert!(error.contains("/drbd lies on drbd0"), "{error}");
    let only = |place: &str| Scope {
        choice: Choice { only: Some(vec![place.into()]), ..Choice::default() },
        ..machine.scope()
    };
    assert_eq!(shown(&plan(&only("/data")).unwrap()).len(), 1, "what is left out does not matter");
    for (n, file) in [(1, "/two/image"), (2, "/one/image")] {
        let folder = sys.join(format!("devices/loop{n}/loop"));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("backing_file"), file).unwrap();
        let number = sys.join(format!("dev/block/7:{n}"));
        symlink(sys.join(format!("devices/loop{n}")), number).unwrap();
    }
    with("40 27 7:1 / /one rw - ext4 /dev/loop1 rw\n41 27 7:2 / /two rw - ext4 /dev/loop2 rw\n");
    let error = plan(&machine.scope()).unwrap_err().to_string();
    assert!(error.contains("depends on itself"), "{error}");
}

#[test]
fn a_file_system_on_disks_of_which_one_has_no_snapshot_is_named() {
    let disk = |kind: DiskKind, lun, name: &str| Disk { kind: kind.into(), lun, name: name.into() };
    let root = fs::File::open("/proc").unwrap();
    let survey = Survey {
        covered: vec![Covered {
            device: Device { major: 253, minor: 0 },
            file_system_type: "xfs".to_owned(),
            mount_point: "/data".into(),
            uuid: String::new(),
            root: Arc::new(root.into()),
            level: 0,
            disks: vec![disk(DiskKind::Data, 0, "sdc"), disk(DiskKind::Data, 3, "sdd")],
        }],
        skipped: Vec::new(),
    };
    let (zero, three) = (disk(DiskKind::Data, 0, ""), disk(DiskKind::Data, 3, ""));
    assert_eq!(survey.check_disks(&[zero.clone(), three]), Ok(()));
    let error = survey.check_disks(&[zero]).unwrap_err();
    assert!(error.contains("/data spans") && error.contains("LUN 3 (sdd)"), "{error}");
}
