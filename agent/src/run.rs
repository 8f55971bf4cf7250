//! The daemon's outer loop: find out who we are, connect, hold a session, back off, again.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use azdr_env::Ids;
use azdr_identity::{ClientIdentity, ConnectError, ConnectOptions, connect_mutual_over};
use tonic::Code;

use crate::Agent;
use crate::identity_store::{self, StoreError, StoredIdentity};
use crate::quiesce::Quiesce;
use crate::remembered::Remembered;
use crate::restored::{Door, door};
use crate::session::{End, Session};
use crate::vm_id::{self, VmId};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a thaw may take before this process ends anyway; the thaw process then goes on alone.
pub(crate) const THAW_LIMIT: Duration = Duration::from_secs(5);
const LOAD_LIMIT: Duration = Duration::from_secs(10);

/// Serves the controller until `shutdown`; thaws before it returns.
pub async fn run(agent: &Agent, shutdown: impl Future<Output = ()>) {
    let quiesce = Quiesce::start(agent);
    tokio::select! {
        biased;
        () = shutdown => tracing::info!("told to end"),
        () = connect_for_ever(agent, &quiesce) => {}
    }
    quiesce.end(THAW_LIMIT).await;
}

async fn connect_for_ever(agent: &Agent, quiesce: &Quiesce) {
    let mut pause = Backoff::default();
    let mut for_this_run = None;
    let remembered = Arc::new(Remembered::new(quiesce));
    loop {
        match connect(agent, quiesce, &remembered, for_this_run.as_ref()).await {
            Ok(End::NewIdentity) => {
                remembered.forget_identity();
                tracing::info!("a new certificate is in use");
                for_this_run = None;
                pause = Backoff::default();
                continue;
            }
            Ok(End::ForThisRun(identity)) => {
                for_this_run = Some(identity);
                pause = Backoff::default();
                continue;
            }
            Ok(End::Closed(status)) => {
                let status = status.map(|status| status.to_string()).unwrap_or_default();
                tracing::warn!(status, "the session ended");
                pause = Backoff::default();
            }
            Err(error) => {
                // A run's certificate that is no longer taken must not lock this machine out.
                for_this_run = None;
                tracing::warn!(error = crate::chain(&error), "no session");
            }
        }
        azdr_env::sleep(pause.next(agent.env.ids.as_ref())).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum NoSession {
    #[error("this machine's identity")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stuck(#[from] crate::blocking::Stuck),
    #[error(transparent)]
    UnknownVm(#[from] vm_id::UnknownVm),
    #[error("cannot connect")]
    Connect(#[from] ConnectError),
    #[error("the controller did not welcome this agent")]
    Refused(#[source] tonic::Status),
}

async fn connect(
    agent: &Agent,
    quiesce: &Quiesce,
    remembered: &Arc<Remembered>,
    for_this_run: Option<&ClientIdentity>,
) -> Result<End, NoSession> {
    let (stored, vm) = remembered.who(who(agent)).await?;
    let first = door(&stored, &vm);
    // What was issued for a run of a restored machine is not for the protected door.
    let identity = for_this_run.filter(|_| first == Door::Restored).unwrap_or(&stored.identity);
    let dialled = remembered.clone();
    let dial = move |name: String| {
        let dialled = dialled.clone();
        async move { dialled.dial(&name).await }
    };
    let (address, options) = (&agent.config.controller, ConnectOptions::default());
    let channel = connect_mutual_over(address, identity, &options, dial).await?;
    let mut session =
        Session { agent, quiesce, remembered, vm: &vm, stored: &stored, identity, door: first };
    match session.hold(channel.clone()).await {
        Err(status) if first == Door::Protected && status.code() == Code::FailedPrecondition => {
            tracing::warn!(reason = status.message(), "trying as a restored machine");
            session.door = Door::Restored;
            session.hold(channel).await.map_err(NoSession::Refused)
        }
        other => other.map_err(NoSession::Refused),
    }
}

/// Reads who this machine is.
async fn who(agent: &Agent) -> Result<(StoredIdentity, VmId), NoSession> {
    let state_dir = agent.config.state_dir.clone();
    let load = move || identity_store::load(&state_dir);
    let stored = agent.blocking.run("loading of the identity", LOAD_LIMIT, load).await??;
    Ok((stored, vm_id::read(&agent.config.instance_metadata_url).await?))
}

/// Pauses that double up to a minute, each cut at random, so that agents do not come in step.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    fn next(&mut self, ids: &dyn Ids) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        self.failures += 1;
        let share = (ids.u64() % 1_000) as u32;
        longest / 2 + longest / 2 * share / 1_000
    }
}

#[cfg(test)]
mod tests {
    use azdr_env::SeededIds;

    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_differ_between_agents() {
        let pauses = |seed| {
            let (ids, mut backoff) = (SeededIds::new(seed), Backoff::default());
            (0..10).map(|_| backoff.next(&ids)).collect::<Vec<_>>()
        };
        for (attempt, pause) in pauses(1).into_iter().enumerate() {
            let longest = Duration::from_secs(1 << attempt).min(LONGEST_PAUSE);
            assert!(longest / 2 <= pause && pause <= longest, "{attempt}: {pause:?}");
        }
        assert_ne!(pauses(1), pauses(2));
    }
}
