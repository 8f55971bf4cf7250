//! Facts about this machine's health, each independent of the others (R27). A test that could not
//! be made is unknown, never a pass.

use std::os::fd::AsFd;
use std::time::Duration;

use azdr_proto::agent::{FactState, HealthFact, HealthReport, QuiesceState, Witness};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Agent;
use crate::survey::{Survey, roots};
use crate::witness::{self, MAX_WITNESSES};

const SURVEY_LIMIT: Duration = Duration::from_secs(10);
const WRITE_LIMIT: Duration = Duration::from_secs(5);
const SSHD: &str = "127.0.0.1:22";
const SSHD_LIMIT: Duration = Duration::from_secs(2);

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

/// Looks at the machine. Nothing is written to it unless `state` is idle.
pub async fn report(agent: &Agent, request_id: String, state: QuiesceState) -> HealthReport {
    let boot = boot_id();
    let mut facts = vec![match boot.is_empty() {
        false => fact("boot", FactState::Pass, boot.clone()),
        true => fact("boot", FactState::Unknown, "no boot id".to_owned()),
    }];
    let mut witnesses = Vec::new();
    if state == QuiesceState::Idle {
        match look(agent).await {
            Ok(found) => {
                facts.extend(writable(agent, &found).await);
                witnesses = read_witnesses(agent, found).await;
            }
            Err(reason) => facts.push(fact("file-systems", FactState::Fail, reason)),
        }
    } else {
        let reason = "a freeze is under way: nothing was written".to_owned();
        facts.push(fact("file-systems", FactState::Unknown, reason));
    }
    facts.push(sshd(SSHD).await);
    HealthReport { request_id, boot_id: boot, uptime_secs: uptime_secs(), facts, witnesses }
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

async fn look(agent: &Agent) -> Result<Survey, String> {
    let scope = agent.scope();
    let call = move || roots(&scope);
    match agent.blocking.run("look at the file systems", SURVEY_LIMIT, call).await {
        Ok(found) => found.map_err(|error| crate::chain(&error)),
        Err(stuck) => Err(stuck.to_string()),
    }
}

async fn read_witnesses(agent: &Agent, found: Survey) -> Vec<Witness> {
    let call = move || {
        let read = found.covered.iter().filter_map(|covered| {
            match witness::read(covered.root.as_fd(), &covered.mount_point) {
                Ok(witness) => Some(witness),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => {
                    let place = covered.mount_point.display();
                    tracing::warn!(%error, "cannot read the witness on {place}");
                    None
                }
            }
        });
        read.take(MAX_WITNESSES).collect()
    };
    agent.blocking.run("reading of witnesses", SURVEY_LIMIT, call).await.unwrap_or_else(|stuck| {
        tracing::warn!("{stuck}");
        Vec::new()
    })
}

async fn writable(agent: &Agent, found: &Survey) -> Vec<HealthFact> {
    let mut facts = Vec::new();
    for covered in &found.covered {
        let place = covered.mount_point.to_string_lossy();
        let root = covered.root.clone();
        let call = move || witness::try_write(root.as_fd());
        let what = format!("test write to {place}");
        let (state, detail) = match agent.blocking.run(what, WRITE_LIMIT, call).await {
            Ok(Ok(())) => (FactState::Pass, covered.file_system_type.clone()),
            Ok(Err(error)) => (FactState::Fail, error.to_string()),
            Err(stuck) => (FactState::Fail, stuck.to_string()),
        };
        facts.push(fact(&format!("file-system-writable:{place}"), state, detail));
    }
    facts
}

/// A banner alone is a hint, no proof of a usable machine: the controller logs in from outside.
async fn sshd(address: &str) -> HealthFact {
    let banner = async {
        let mut start = [0; 4];
        TcpStream::connect(address).await?.read_exact(&mut start).await.map(|_| start)
    };
    match timeout(SSHD_LIMIT, banner).await {
        Ok(Ok(start)) if start == *b"SSH-" => {
            fact("sshd", FactState::Pass, format!("banner on {address}"))
        }
        Ok(Ok(_)) => fact("sshd", FactState::Fail, format!("no SSH banner on {address}")),
        Ok(Err(error)) => fact("sshd", FactState::Fail, format!("{address}: {error}")),
        Err(_) => fact("sshd", FactState::Fail, format!("{address}: no banner within 2 s")),
    }
}

fn fact(name: &str, state: FactState, detail: String) -> HealthFact {
    HealthFact { name: name.to_owned(), state: state.into(), detail }
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
        let state = |fact: HealthFact| fact.state();
        let ssh = a_server_that_says(b"SSH-2.0-OpenSSH\r\n").await;
        assert_eq!(state(sshd(&ssh).await), FactState::Pass);
        let other = a_server_that_says(b"HTTP/1.1 400").await;
        assert_eq!(state(sshd(&other).await), FactState::Fail);
        assert_eq!(state(sshd("127.0.0.1:1").await), FactState::Fail);
    }
}
