//! When no freeze is begun because of how the machine is at this moment (R19). What passes by itself is
//! told here; what somebody must put right is told by the survey.

use std::fs;
use std::time::Duration;

use azdr_env::WallTime;

use crate::processes::{Process, processes};
use crate::roots::Roots;

/// Share of time in which no task could go on for want of memory, over 10 s, in per cent: thawing may
/// then have to wait as well.
const MOST_PRESSURE: f64 = 10.0;
/// A shutdown that is planned for within this time is taken to be under way.
const SHUTDOWN_SOON: Duration = Duration::from_secs(120);
/// Programs that shut the machine down.
const ENDING: &[&str] = &["shutdown", "reboot", "poweroff", "halt", "systemd-shutdow"];
/// Programs that repair or resize file systems.
const REPAIRING: &[&str] =
    &["fsck", "e2fsck", "xfs_repair", "btrfsck", "resize2fs", "xfs_growfs", "tune2fs", "xfs_admin"];

/// Why nothing is frozen now; empty when nothing speaks against it. What cannot be read speaks for
/// nothing: a kernel without pressure figures is not refused for that. A machine that has been up for
/// less than `least_uptime` is still mounting and checking.
pub fn obstacles(roots: &Roots, now: WallTime, least_uptime: Duration) -> Vec<String> {
    let running = processes(&roots.proc);
    let all = [
        uptime(roots, least_uptime),
        memory_pressure(roots),
        planned_shutdown(roots, now),
        shutdown(&running),
        repair(&running),
        remount(roots, &running),
    ];
    all.into_iter().flatten().collect()
}

fn uptime(roots: &Roots, least: Duration) -> Option<String> {
    let text = fs::read_to_string(roots.proc.join("uptime")).ok()?;
    let up: f64 = text.split_whitespace().next()?.parse().ok()?;
    (up < least.as_secs_f64())
        .then(|| format!("the machine has been up for {up:.0} s; {} s are needed", least.as_secs()))
}

fn memory_pressure(roots: &Roots) -> Option<String> {
    let text = fs::read_to_string(roots.proc.join("pressure/memory")).ok()?;
    let full = text.lines().find_map(|line| line.strip_prefix("full "))?;
    let value = full.split(' ').find_map(|field| field.strip_prefix("avg10="))?;
    let full: f64 = value.parse().ok()?;
    (full > MOST_PRESSURE).then(|| {
        format!(
            "memory pressure: all tasks waited for memory in {value} % of the last 10 s; \
             {MOST_PRESSURE} % are allowed"
        )
    })
}

/// systemd's note of a shutdown to come: `USEC=` microseconds since 1970.
fn planned_shutdown(roots: &Roots, now: WallTime) -> Option<String> {
    let text = fs::read_to_string(roots.run.join("systemd/shutdown/scheduled")).ok()?;
    let at = text.lines().find_map(|line| line.strip_prefix("USEC="))?.parse::<i64>().ok()?;
    let soon = now.plus(SHUTDOWN_SOON).unix_ms();
    (at / 1_000 <= soon).then(|| "a shutdown is planned within two minutes".to_owned())
}

fn shutdown(running: &[Process]) -> Option<String> {
    let found = running.iter().find(|process| ENDING.contains(&process.name.as_str()))?;
    Some(format!("the machine is shutting down ({}, process {})", found.name, found.pid))
}

fn repair(running: &[Process]) -> Option<String> {
    let repairs = |process: &&Process| {
        REPAIRING.contains(&process.name.as_str()) || process.name.starts_with("fsck.")
    };
    let found = running.iter().find(repairs)?;
    let Process { name, pid } = found;
    Some(format!("a file system is being checked or changed ({name}, process {pid})"))
}

fn remount(roots: &Roots, running: &[Process]) -> Option<String> {
    let remounts = |process: &&Process| {
        let path = roots.proc.join(process.pid.to_string()).join("cmdline");
        process.name == "mount"
            && fs::read(path).is_ok_and(|text| String::from_utf8_lossy(&text).contains("remount"))
    };
    let found = running.iter().find(remounts)?;
    Some(format!("a file system is being remounted (process {})", found.pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST_UPTIME: Duration = Duration::from_secs(60);

    /// A quiet machine; the folder goes with the test.
    fn machine() -> (tempfile::TempDir, Roots) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name| folder.path().join(name);
        let roots = Roots {
            proc: at("proc"),
            sys: at("sys"),
            dev: at("dev"),
            run: at("run"),
            waagent: at("waagent"),
        };
        fs::create_dir_all(roots.proc.join("pressure")).unwrap();
        fs::create_dir_all(roots.run.join("systemd/shutdown")).unwrap();
        fs::write(roots.proc.join("uptime"), "60.00 100.00\n").unwrap();
        write_pressure(&roots, "10.00");
        process(&roots, 1, "systemd", "/sbin/init");
        process(&roots, 50, "mount", "mount\0/dev/sdb\0/data");
        (folder, roots)
    }

    fn write_pressure(roots: &Roots, full: &str) {
        let text = format!(
            "some avg10=90.00 avg60=90.00 avg300=90.00 total=1\n\
             full avg10={full} avg60=99.00 avg300=99.00 total=1\n"
        );
        fs::write(roots.proc.join("pressure/memory"), text).unwrap();
    }

    fn process(roots: &Roots, pid: u32, name: &str, arguments: &str) {
        let folder = roots.proc.join(pid.to_string());
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("comm"), format!("{name}\n")).unwrap();
        fs::write(folder.join("cmdline"), arguments).unwrap();
    }

    fn now() -> WallTime {
        WallTime::from_unix_ms(1_764_676_800_000)
    }

    #[track_caller]
    fn refused(roots: &Roots, words: &str) {
        let found = obstacles(roots, now(), LEAST_UPTIME);
        assert!(found.len() == 1 && found[0].contains(words), "{words}: {found:?}");
    }

    #[test]
    fn a_quiet_machine_is_not_refused_and_neither_is_one_that_tells_nothing() {
        let (folder, roots) = machine();
        assert_eq!(obstacles(&roots, now(), LEAST_UPTIME), Vec::<String>::new());
        fs::remove_dir_all(folder.path().join("proc")).unwrap();
        assert_eq!(obstacles(&roots, now(), LEAST_UPTIME), Vec::<String>::new());
    }

    #[test]
    fn a_machine_that_has_just_started_is_refused() {
        let (_folder, roots) = machine();
        fs::write(roots.proc.join("uptime"), "59.99 1.00\n").unwrap();
        refused(&roots, "up for");
    }

    #[test]
    fn memory_pressure_is_refused() {
        let (_folder, roots) = machine();
        write_pressure(&roots, "10.01");
        refused(&roots, "10.01 %");
    }

    #[test]
    fn a_shutdown_is_refused() {
        let (_folder, roots) = machine();
        process(&roots, 1, "systemd-shutdow", "");
        refused(&roots, "shutting down");
    }

    #[test]
    fn a_shutdown_that_is_planned_soon_is_refused_and_one_for_tonight_is_not() {
        let (_folder, roots) = machine();
        let plan = |ms: i64| {
            let text = format!("USEC={}\nWARN_WALL=1\nMODE=reboot\n", ms * 1_000);
            fs::write(roots.run.join("systemd/shutdown/scheduled"), text).unwrap();
        };
        plan(now().unix_ms() + 121_000);
        assert_eq!(obstacles(&roots, now(), LEAST_UPTIME), Vec::<String>::new());
        plan(now().unix_ms() + 119_000);
        refused(&roots, "planned");
    }

    #[test]
    fn a_check_of_a_file_system_is_refused() {
        for name in ["fsck.ext4", "xfs_repair", "e2fsck"] {
            let (_folder, roots) = machine();
            process(&roots, 60, name, "");
            refused(&roots, name);
        }
    }

    #[test]
    fn a_remount_is_refused() {
        let (_folder, roots) = machine();
        process(&roots, 50, "mount", "mount\0-o\0remount,ro\0/data");
        refused(&roots, "remounted");
    }
}
