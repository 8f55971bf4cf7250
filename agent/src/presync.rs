//! Writing dirty data to disk before the window, so that FIFREEZE has little left to write (R16).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use azdr_env::Env;

use crate::blocking::{Blocking, Stuck};

/// A round this short shows that the writers are kept up with.
const SHORT: Duration = Duration::from_millis(100);
const MAX_ROUNDS: u32 = 4;
const LIMIT: Duration = Duration::from_secs(20);

/// Syncs all file systems in parallel, round after round, until a round is short; at most 4 rounds
/// and 20 s, after which the freeze goes on anyway. Returns the time spent.
///
/// # Errors
/// An earlier sync is still blocked: nothing can be frozen then.
pub async fn presync(
    env: &Env,
    blocking: &Blocking,
    roots: &[(String, Arc<OwnedFd>)],
) -> Result<Duration, Stuck> {
    let start = env.clock.monotonic();
    let spent = || env.clock.monotonic().since(start);
    for _ in 0..MAX_ROUNDS {
        let round = env.clock.monotonic();
        let left = LIMIT.saturating_sub(spent());
        let mut calls = tokio::task::JoinSet::new();
        for (place, root) in roots {
            let (what, root, blocking) =
                (format!("sync of {place}"), root.clone(), blocking.clone());
            calls.spawn(async move {
                let sync = move || crate::kernel::sync_file_system(root.as_fd());
                (what.clone(), blocking.run(what, left, sync).await)
            });
        }
        let mut late = false;
        while let Some(done) = calls.join_next().await {
            match done {
                Ok((_, Ok(Ok(())))) => {}
                Ok((what, Ok(Err(error)))) => tracing::warn!(%error, "{what} failed"),
                Ok((_, Err(stuck @ Stuck::Before { .. }))) => return Err(stuck),
                Ok((_, Err(stuck))) => {
                    tracing::warn!("{stuck}: the freeze will take longer");
                    late = true;
                }
                Err(error) => tracing::warn!(%error, "a sync ended unexpectedly"),
            }
        }
        if late || env.clock.monotonic().since(round) < SHORT {
            break;
        }
    }
    Ok(spent())
}
