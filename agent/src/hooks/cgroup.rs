//! A cgroup of its own for a verb, so that whatever it starts can be ended with it.
//!
//! Used where there is a cgroup v2 hierarchy that this process may write to; elsewhere the verb's
//! process group must do, which a process can leave.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::exec;

/// Between two looks at what is killed one by one.
const POLL: Duration = Duration::from_millis(10);
/// How often that is done.
const PASSES: u32 = 30;

/// A cgroup that this agent, or an earlier one, has made.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

/// Followed by the agent's process id.
const PREFIX: &str = "azdr-hook-";

/// This process's own cgroup, if there can be others below it.
fn own() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    base(&mounts, &own)
}

/// Removes those that were left because processes were in them, and are empty now. To be called while
/// this agent runs no verb.
pub(super) fn sweep() {
    let Some(Ok(entries)) = own().map(fs::read_dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let agent = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let Some(agent) = agent.and_then(|agent| agent.parse::<u32>().ok()) else { continue };
        if agent == std::process::id() || !Path::new(&format!("/proc/{agent}")).exists() {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

impl Cgroup {
    /// Makes one below this process's own, if that is possible here; `name` makes it unique among this
    /// agent's.
    pub(super) fn make(name: &str) -> Option<Self> {
        let path = own()?.join(format!("{PREFIX}{}-{name}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => {}
            // An earlier agent's, which had this one's number.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        Some(Self { path })
    }

    /// One that an earlier agent made.
    pub(super) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a process writes itself in.
    pub(super) fn entrance(&self) -> Option<File> {
        OpenOptions::new().write(true).open(self.path.join("cgroup.procs")).ok()
    }

    /// The processes in it.
    pub(super) fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Kills all that is in it: atomically, or one by one where the kernel (before 5.14) cannot. Tells how
    /// many are left, after at most 0.3 s.
    pub(super) async fn kill(&self) -> usize {
        // Not made if it is not there.
        let kill = OpenOptions::new().write(true).open(self.path.join("cgroup.kill"));
        match kill.and_then(|mut kill| kill.write_all(b"1")) {
            Ok(()) => 0,
            Err(_) => self.kill_each().await,
        }
    }

    /// Again and again, for what is started meanwhile is in no list that was read before.
    async fn kill_each(&self) -> usize {
        for _ in 0..PASSES {
            let there = self.processes();
            if there.is_empty() {
                break;
            }
            there.into_iter().for_each(exec::kill);
            azdr_env::sleep(POLL).await;
        }
        self.processes().len()
    }

    /// Removes it; one with processes in it stays.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir(&self.path);
    }
}

/// This process's own cgroup v2, as a path.
fn base(mountinfo: &str, own: &str) -> Option<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    mountinfo.lines().find_map(|line| {
        let (fields, kind) = line.split_once(" - ")?;
        let mut fields = fields.split(' ');
        let (root, place) = (fields.nth(3)?, fields.next()?);
        // Only where the whole hierarchy is shown do paths in it mean what /proc/self/cgroup says.
        let whole = root == "/" && kind.starts_with("cgroup2 ") && !place.contains('\\');
        whole.then(|| Path::new(place).join(own))
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn what_is_killed_one_by_one_is_tried_again_a_number_of_times_and_then_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        // Its list never gets shorter. A process of another namespace is shown as 0.
        fs::write(folder.path().join("cgroup.procs"), format!("0\n{}\n", child.id())).unwrap();
        assert_eq!(Cgroup::at(folder.path()).kill().await, 2);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    }

    /// A cgroup in which a process and one in a session of its own run; none where there are no cgroups.
    fn two_in_a_cgroup() -> Option<(Cgroup, std::process::Child)> {
        // Not a name that `sweep` knows: other tests call it.
        let path = own()?.join(format!("azdr-test-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let script = "echo 0 > \"$0\"/cgroup.procs; setsid sleep 600 & echo begun; wait";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines().next();
        assert_eq!(said.unwrap().unwrap(), "begun");
        Some((Cgroup::at(&path), child))
    }

    #[tokio::test]
    async fn what_left_its_session_is_killed_one_by_one_as_well() {
        let Some((cgroup, mut child)) = two_in_a_cgroup() else {
            eprintln!("SKIPPED: needs root and a cgroup v2 hierarchy");
            return;
        };
        assert_eq!(cgroup.processes().len(), 2);
        assert_eq!(cgroup.kill_each().await, 0);
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        fs::remove_dir(cgroup.path()).unwrap();
    }

    #[test]
    fn the_own_cgroup_is_found_where_the_hierarchy_is_whole() {
        let line = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let own = "4:memory:/x\n0::/system.slice/azdr-agent.service\n";
        let expected = "/sys/fs/cgroup/system.slice/azdr-agent.service";
        assert_eq!(base(line, own), Some(expected.into()));
        assert_eq!(base(line, "0::/\n"), Some("/sys/fs/cgroup".into()));
        assert_eq!(base(line, "4:memory:/x\n"), None, "no cgroup v2");
        assert_eq!(base(&line.replace(" / ", " /docker/1 "), own), None, "a part of it");
        assert_eq!(base(&line.replace("cgroup2", "tmpfs"), own), None);
    }
}
