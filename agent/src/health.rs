//! Facts about this machine's health, each independent of the others (R27). A test that could not
//! be made is unknown, never a pass. Nothing is judged here as a whole: the controller does that, with
//! what it has seen from outside.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use azdr_env::Env;
use azdr_proto::agent::{FactState, HealthFact, HealthReport, ProbeHealth, QuiesceState, Witness};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::machine_facts::{self, Judged};
use crate::namespaces::read_mounts;
use crate::roots::Roots;
use crate::survey::{Covered, Mounted, roots};
use crate::witness::{self, MAX_WITNESSES};
use crate::{Agent, file_system_uuid, hooks, kernel};

/// What the controller may expect to be in a report.
const VERSION: u32 = 1;
const SURVEY_LIMIT: Duration = Duration::from_secs(10);
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// The limit of a test write is its child's; the call that waits for it gets a little longer.
const AFTER_LIMIT: Duration = Duration::from_secs(1);
const COMMAND_LIMIT: Duration = Duration::from_secs(5);
const SSHD: &str = "127.0.0.1:22";
const SSHD_LIMIT: Duration = Duration::from_secs(2);
/// How much of the kernel's log is looked at.
const KERNEL_LOG_LINES: usize = 20_000;

/// /proc/sys/kernel/random/boot_id, or empty.
pub fn boot_id() -> String {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.unwrap_or_default().trim().to_owned()
}

/// Seconds since boot, or 0.
pub fn uptime_secs() -> u64 {
    let read = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    read.split('.').next().and_then(|secs| secs.parse().ok()).unwrap_or(0)
}

/// Looks at the machine, and runs its hooks' checks if the request says so. Unless `state` is idle nothing
/// is written to it, and no program is started.
pub async fn report(agent: &Agent, probe: ProbeHealth, state: QuiesceState) -> HealthReport {
    let boot = boot_id();
    let env = &agent.env;
    let mut facts = vec![match boot.is_empty() {
        false => fact(env, "boot", (FactState::Pass, boot.clone())),
        true => fact(env, "boot", (FactState::Unknown, "no boot id".to_owned())),
    }];
    let (mut witnesses, mut app_probes) = (Vec::new(), Vec::new());
    if state == QuiesceState::Idle {
        let checks =
            async { if probe.run_checks { hooks::check(agent).await } else { Vec::new() } };
        // At once: each has limits of its own, and the controller waits for the longest alone.
        let (on_disks, others, checked) = tokio::join!(disks(agent), machine(agent), checks);
        facts.extend(on_disks.0);
        facts.extend(others);
        (witnesses, app_probes) = (on_disks.1, checked);
    } else {
        let reason = "a freeze is under way: nothing was looked at".to_owned();
        facts.push(fact(env, "file-systems", (FactState::Unknown, reason)));
    }
    HealthReport {
        request_id: probe.request_id,
        boot_id: boot,
        uptime_secs: uptime_secs(),
        facts,
        witnesses,
        version: VERSION,
        wall_unix_ms: env.clock.wall().unix_ms(),
        app_probes,
    }
}

/// Facts about the file systems, and their witnesses.
async fn disks(agent: &Agent) -> (Vec<HealthFact>, Vec<Witness>) {
    let env = &agent.env;
    let found = match look(agent).await {
        Ok(found) => found,
        Err(reason) => {
            return (vec![fact(env, "file-systems", (FactState::Fail, reason))], Vec::new());
        }
    };
    let mut facts = Vec::new();
    if !found.out_of_reach.is_empty() {
        let judged = (FactState::Fail, found.out_of_reach.join(", "));
        facts.push(fact(env, "file-systems", judged));
    }
    facts.extend(file_systems(agent, &found).await);
    (facts, read_witnesses(agent, found).await)
}

/// Facts about the machine as a whole.
async fn machine(agent: &Agent) -> Vec<HealthFact> {
    let (fstab, systemd, journals, sshd) =
        tokio::join!(fstab(agent), systemd(agent), journal_recovery(agent), sshd(SSHD));
    let read = machine_facts::read;
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    let network = machine_facts::network(&v4, &v6, &read("/etc/resolv.conf"));
    let judged = [
        ("fstab", fstab),
        ("systemd", systemd),
        ("journal-recovery", journals),
        ("network", network),
        ("sshd", sshd),
    ];
    judged.map(|(name, judged)| fact(&agent.env, name, judged)).into()
}

/// The witnesses on this machine's file systems; none when they cannot be looked at.
pub async fn witnesses(agent: &Agent) -> Vec<Witness> {
    match look(agent).await {
        Ok(found) => read_witnesses(agent, found).await,
        Err(reason) => {
            tracing::warn!(reason, "cannot look for witnesses");
            Vec::new()
        }
    }
}

async fn look(agent: &Agent) -> Result<Mounted, String> {
    let scope = agent.scope();
    let call = move || roots(&scope);
    match agent.blocking.run("look at the file systems", SURVEY_LIMIT, call).await {
        Ok(found) => found.map_err(|error| crate::chain(&error)),
        Err(stuck) => Err(stuck.to_string()),
    }
}

async fn read_witnesses(agent: &Agent, found: Mounted) -> Vec<Witness> {
    let roots = agent.roots.clone();
    let call = move || {
        // One that nobody can write to still shows what it is.
        let all = found.writable.iter().chain(&found.read_only);
        all.filter_map(|on| read_witness(on, &roots)).take(MAX_WITNESSES).collect()
    };
    agent.blocking.run("reading of witnesses", SURVEY_LIMIT, call).await.unwrap_or_else(|stuck| {
        tracing::warn!("{stuck}");
        Vec::new()
    })
}

fn read_witness(covered: &Covered, roots: &Roots) -> Option<Witness> {
    match witness::read(covered.root.as_fd(), &covered.mount_point) {
        Ok(witness) => {
            let found = covered.place(roots);
            Some(Witness {
                found_on_disk: found.disk,
                found_file_system_uuid: found.file_system_uuid,
                ..witness
            })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            let place = covered.mount_point.display();
            tracing::warn!(%error, "cannot read the witness on {place}");
            None
        }
    }
}

/// Test writes to all file systems at once, and how full they are.
async fn file_systems(agent: &Agent, found: &Mounted) -> Vec<HealthFact> {
    let mut writes = JoinSet::new();
    for covered in &found.writable {
        let (agent, covered) = (agent.clone(), covered.clone());
        writes.spawn(async move {
            let place = covered.mount_point.to_string_lossy().into_owned();
            let written = writable(&agent, &covered, &place).await;
            let room = match kernel::room(covered.root.as_fd()) {
                Ok(room) => machine_facts::free_space(room.bytes, room.of_bytes, room.files),
                Err(error) => (FactState::Unknown, error.to_string()),
            };
            [
                fact(&agent.env, &format!("file-system-writable:{place}"), written),
                fact(&agent.env, &format!("free-space:{place}"), room),
            ]
        });
    }
    let mut facts: Vec<HealthFact> = writes.join_all().await.into_iter().flatten().collect();
    facts.extend(found.read_only.iter().map(|covered| {
        let place = covered.mount_point.display();
        let read_only = (FactState::Fail, "read-only".to_owned());
        fact(&agent.env, &format!("file-system-writable:{place}"), read_only)
    }));
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    facts
}

async fn writable(agent: &Agent, covered: &Covered, place: &str) -> Judged {
    let root = covered.root.clone();
    let call = move || kernel::try_write(root.as_fd(), witness::FOLDER, WRITE_LIMIT);
    let what = format!("test write to {place}");
    match agent.blocking.run(what, WRITE_LIMIT + AFTER_LIMIT, call).await {
        Ok(Ok(())) => (FactState::Pass, covered.file_system_type.clone()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => (
            FactState::Fail,
            format!("a test write did not end within {} s", WRITE_LIMIT.as_secs()),
        ),
        Ok(Err(error)) => (FactState::Fail, error.to_string()),
        Err(stuck) => (FactState::Fail, stuck.to_string()),
    }
}

async fn fstab(agent: &Agent) -> Judged {
    let scope = agent.scope();
    let call = move || {
        let text = match std::fs::read_to_string("/etc/fstab") {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return (FactState::Unknown, format!("/etc/fstab: {error}")),
        };
        let only = scope.choice.only.as_deref();
        match read_mounts(&scope.roots.proc) {
            Ok(mounts) => machine_facts::fstab(&text, &mounts, only, |mount| {
                file_system_uuid::by_link(&scope.roots, mount.device)
            }),
            Err(error) => (FactState::Unknown, format!("the mount table: {error}")),
        }
    };
    let judged = agent.blocking.run("look at /etc/fstab", SURVEY_LIMIT, call).await;
    judged.unwrap_or_else(|stuck| (FactState::Unknown, stuck.to_string()))
}

async fn systemd(agent: &Agent) -> Judged {
    if !Path::new("/run/systemd/system").exists() {
        return (FactState::Unknown, "systemd does not run here".to_owned());
    }
    let ask = |args: &[&str]| -> io::Result<String> {
        let answer = Command::new("systemctl").args(args).output()?;
        Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
    };
    let call = move || {
        let state = ask(&["is-system-running"])?;
        let failed =
            ask(&["list-units", "--state=failed", "--plain", "--no-legend", "--no-pager"])?;
        let names = failed.lines().filter_map(|line| line.split_whitespace().next());
        let names: Vec<String> = names.map(str::to_owned).collect();
        Ok::<_, io::Error>(machine_facts::systemd(state.trim(), &names))
    };
    match agent.blocking.run("question to systemd", COMMAND_LIMIT, call).await {
        Ok(Ok(judged)) => judged,
        Ok(Err(error)) => (FactState::Unknown, format!("systemctl: {error}")),
        Err(stuck) => (FactState::Unknown, stuck.to_string()),
    }
}

async fn journal_recovery(agent: &Agent) -> Judged {
    match agent.blocking.run("look at the kernel's log", COMMAND_LIMIT, kernel_log).await {
        Ok(Ok(lines)) => machine_facts::journal_recovery(lines.iter().map(String::as_str)),
        Ok(Err(error)) => (FactState::Unknown, format!("/dev/kmsg: {error}")),
        Err(stuck) => (FactState::Unknown, stuck.to_string()),
    }
}

/// The messages in the kernel's ring, without their heads.
fn kernel_log() -> io::Result<Vec<String>> {
    let mut log =
        std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
    let (mut lines, mut record) = (Vec::new(), [0; 8192]);
    while lines.len() < KERNEL_LOG_LINES {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(n) => {
                let text = String::from_utf8_lossy(record.get(..n).unwrap_or_default());
                let message = text.split_once(';').map_or(&*text, |(_, message)| message);
                lines.extend(message.lines().next().map(str::to_owned));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // Older messages were overwritten meanwhile: the next read goes on with what there is.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => return Err(error),
        }
    }
    Ok(lines)
}

/// A banner alone is a hint, no proof of a usable machine: the controller logs in from outside.
async fn sshd(address: &str) -> Judged {
    let banner = async {
        let mut start = [0; 4];
        TcpStream::connect(address).await?.read_exact(&mut start).await.map(|_| start)
    };
    match timeout(SSHD_LIMIT, banner).await {
        Ok(Ok(start)) if start == *b"SSH-" => (FactState::Pass, format!("banner on {address}")),
        Ok(Ok(_)) => (FactState::Fail, format!("no SSH banner on {address}")),
        Ok(Err(error)) => (FactState::Fail, format!("{address}: {error}")),
        Err(_) => (FactState::Fail, format!("{address}: no banner within 2 s")),
    }
}

fn fact(env: &Env, name: &str, (state, detail): Judged) -> HealthFact {
    let at_unix_ms = env.clock.wall().unix_ms();
    HealthFact { name: name.to_owned(), state: state.into(), detail, at_unix_ms }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    async fn a_server_that_says(words: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(words).await.unwrap();
        });
        address
    }

    #[tokio::test]
    async fn only_an_ssh_banner_passes() {
        let state = |judged: Judged| judged.0;
        let ssh = a_server_that_says(b"SSH-2.0-OpenSSH\r\n").await;
        assert_eq!(state(sshd(&ssh).await), FactState::Pass);
        let other = a_server_that_says(b"HTTP/1.1 400").await;
        assert_eq!(state(sshd(&other).await), FactState::Fail);
        assert_eq!(state(sshd("127.0.0.1:1").await), FactState::Fail);
    }
}
