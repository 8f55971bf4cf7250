//! What a machine's SSH shows from outside: with a real login, where a probe key is configured.
//!
//! What it means is decided in `azdr_domain::ssh_evidence`; how it is done is in [`crate::ssh_probe`].

use std::net::SocketAddr;
use std::time::Duration;

use azdr_domain::machine_evidence::{Evidence, Fact, FactState};
use azdr_domain::ssh_evidence::{self, End, HostKeys, LOGIN, Look};

use super::StepCx;
use super::evidence::{AgentsWord, Expected, captured, is_overdue, session_of};
use crate::workflow::StepError;

/// Random bytes of a token.
const TOKEN: usize = 16;
/// Pause before another attempt: each leaves lines in the machine's log.
const AGAIN: Duration = Duration::from_secs(15);
/// The same after a refusal: machines ban who is refused too often, by custom five times in ten minutes.
const AFTER_REFUSAL: Duration = Duration::from_secs(150);

/// What is known of the way to a machine's SSH.
#[derive(Clone, Copy, Debug)]
pub struct FromOutside {
    /// Where it is; `None`: nothing leads there.
    pub address: Option<SocketAddr>,
    /// A banner was read there.
    pub answered: bool,
}

/// Looks once, and again until what is required is there or the time is over.
///
/// # Errors
/// `NotYet` while a login may still succeed; when the catalogue cannot be read.
pub async fn look<I>(
    cx: &StepCx<I>,
    expected: &Expected,
    agent: AgentsWord,
    way: FromOutside,
) -> Result<Vec<Fact>, StepError> {
    let services = cx.services();
    let env = cx.env();
    let (_, record) = captured(services, expected).await?;
    let session = match agent {
        AgentsWord::Reported => session_of(services, expected).await?,
        AgentsWord::NotExpected | AgentsWord::Silent => None,
    };
    let hello = session.as_ref().map(|session| &session.hello);
    let keys = HostKeys {
        at_capture: record.ssh_host_keys,
        told: hello.map(|hello| hello.ssh_host_keys.clone()).unwrap_or_default(),
    };
    let look = match (&services.settings.probe_login, way.address) {
        (None, _) => Look::NotConfigured,
        (Some(_), None) => Look::NoWay,
        // That has been waited for already.
        (Some(_), Some(address)) if !way.answered => Look::Silent(address),
        (Some(login), Some(address)) => {
            let token = env.ids.hex(TOKEN);
            Look::Attempt(login.attempt(address, &keys, &token, &*env.clock).await)
        }
    };
    let boot_id = hello.map(|hello| hello.boot_id.as_str());
    let facts = ssh_evidence::facts(&look, &keys, boot_id, env.clock.wall().unix_ms());
    let awaited = facts.iter().find(|fact| fact.required && fact.state != FactState::Pass);
    match (look, awaited) {
        (Look::Attempt(attempt), Some(fact)) if !is_overdue(cx) => {
            let what = format!("waiting for {}: {}", fact.name, fact.detail);
            let pause = if attempt.end == End::Refused { AFTER_REFUSAL } else { AGAIN };
            Err(StepError::not_yet(what, pause))
        }
        _ => Ok(facts),
    }
}

/// Whether SSH has shown that the machine is up: by a login where one is asked for, else by its banner.
pub fn is_verified(answered: bool, evidence: Option<&Evidence>) -> bool {
    let facts = evidence.map(|evidence| &evidence.facts[..]).unwrap_or_default();
    let login = facts.iter().find(|fact| fact.required && fact.name == LOGIN);
    login.map_or(answered, |fact| fact.state == FactState::Pass)
}
