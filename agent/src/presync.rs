//! Writing dirty data to disk before the window, so that FIFREEZE has little left to write (R16).
//!
//! What goes wrong here is told with the recovery point. Data that could not be written is a reason against
//! its file system: some kernels' FIFREEZE drops that error, and the freeze then goes well. Data that
//! was not all written in time is none: FIFREEZE writes it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use azdr_env::Env;

use crate::blocking::{Blocking, Stuck};

/// How long it may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A round this short shows that the writers are kept up with.
    short: Duration,
    rounds: u32,
    total: Duration,
}

const LIMITS: Limits =
    Limits { short: Duration::from_millis(100), rounds: 4, total: Duration::from_secs(20) };

/// How it went, by the place where each file system is mounted.
#[derive(Clone, Debug, Default)]
pub struct Presync {
    /// The time that it took.
    pub spent: Duration,
    over_limit: BTreeMap<String, String>,
    /// A sync that is over its limit adds to this when it ends: FIFREEZE waits for it.
    failures: Failures,
}

#[derive(Clone, Debug, Default)]
struct Failures(Arc<Mutex<BTreeMap<String, String>>>);

impl Failures {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first: the kernel tells of each loss once.
    fn add(&self, place: &str, error: &str) {
        let words = format!("its data could not be written out before the freeze: {error}");
        self.lock().entry(place.to_owned()).or_insert(words);
    }
}

impl Presync {
    /// Why data that was written to this file system may be missing on its disk, in words, as far as is known
    /// by now.
    pub fn failure(&self, place: &str) -> Option<String> {
        self.failures.lock().get(place).cloned()
    }

    /// That this file system's data was not all written within the limits, in words.
    pub fn over_limit(&self, place: &str) -> Option<&str> {
        self.over_limit.get(place).map(String::as_str)
    }
}

/// Syncs all file systems in parallel, round after round, until a round is short; at most 4 rounds
/// and 20 s, after which the freeze goes on anyway.
///
/// # Errors
/// An earlier sync is still blocked: nothing can be frozen then.
pub async fn presync(
    env: &Env,
    blocking: &Blocking,
    roots: &[(String, Arc<OwnedFd>)],
) -> Result<Presync, Stuck> {
    let sync = |root: &OwnedFd| crate::kernel::sync_file_system(root.as_fd());
    let done = presync_within(LIMITS, env, blocking, roots, sync).await?;
    for (place, words) in done.failures.lock().iter().chain(&done.over_limit) {
        tracing::warn!("{place}: {words}");
    }
    Ok(done)
}

async fn presync_within(
    limits: Limits,
    env: &Env,
    blocking: &Blocking,
    roots: &[(String, Arc<OwnedFd>)],
    sync: impl Fn(&OwnedFd) -> io::Result<()> + Clone + Send + 'static,
) -> Result<Presync, Stuck> {
    let start = env.clock.monotonic();
    let mut presync = Presync::default();
    for round in 1..=limits.rounds {
        let begun = env.clock.monotonic();
        let left = limits.total.saturating_sub(begun.since(start));
        let mut calls = tokio::task::JoinSet::new();
        for (place, root) in roots {
            let (place, root, sync) = (place.clone(), root.clone(), sync.clone());
            let (env, blocking) = (env.clone(), blocking.clone());
            let failures = presync.failures.clone();
            calls.spawn(async move {
                let what = format!("sync of {place}");
                let (of, failed) = (place.clone(), failures.clone());
                let call = move || {
                    if let Err(error) = sync(&root) {
                        failed.add(&of, &error.to_string());
                    }
                };
                let ended = blocking.run(what, left, call).await;
                if let Err(stuck @ Stuck::Panicked { .. }) = &ended {
                    failures.add(&place, &stuck.to_string());
                }
                (place, ended, env.clock.monotonic().since(begun))
            });
        }
        // What counts is how the last round ends.
        presync.over_limit.clear();
        let mut late = false;
        while let Some(ended) = calls.join_next().await {
            let words = match ended {
                Ok((_, Err(stuck @ Stuck::Before { .. }), _)) => return Err(stuck),
                Ok((place, Err(Stuck::Late { .. }), _)) => {
                    late = true;
                    let limit = limits.total.as_secs();
                    let words = format!(
                        "its data was not all written out within {limit} s before the freeze"
                    );
                    Some((place, words))
                }
                Ok((place, _, took)) if took >= limits.short => {
                    let took = took.as_millis();
                    let words = format!(
                        "its data was not all written out before the freeze: round {round} of that \
                         still took {took} ms"
                    );
                    Some((place, words))
                }
                Ok(_) => None,
                Err(error) => {
                    tracing::warn!(%error, "a sync ended unexpectedly");
                    None
                }
            };
            presync.over_limit.extend(words);
        }
        if late || env.clock.monotonic().since(begun) < limits.short {
            break;
        }
    }
    presync.spent = env.clock.monotonic().since(start);
    Ok(presync)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::mpsc::channel;

    use super::*;

    const PLENTY: Duration = Duration::from_secs(60);

    fn roots() -> Vec<(String, Arc<OwnedFd>)> {
        let open = || Arc::new(std::fs::File::open("/dev/null").unwrap().into());
        vec![("/".to_owned(), open()), ("/data".to_owned(), open())]
    }

    #[tokio::test]
    async fn an_error_of_one_round_stays_one_when_the_next_goes_well() {
        let roots = roots();
        let (data, calls) = (roots[1].1.clone(), Arc::new(AtomicU32::new(0)));
        let counted = calls.clone();
        let sync = move |root: &OwnedFd| {
            use std::os::fd::AsRawFd;
            // The kernel tells of it once.
            let first = root.as_raw_fd() == data.as_raw_fd() && counted.fetch_add(1, SeqCst) == 0;
            if first { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
        };
        let limits = Limits { short: Duration::ZERO, rounds: 3, total: PLENTY };
        let (env, blocking) = (Env::system(), Blocking::default());
        let done = presync_within(limits, &env, &blocking, &roots, sync).await.unwrap();
        assert_eq!(calls.load(SeqCst), 3, "no round is that short");
        let failure = done.failure("/data").unwrap();
        assert!(failure.contains("could not be written") && failure.contains("os error 5"));
        assert_eq!(done.failure("/"), None);
        let words = done.over_limit("/").unwrap();
        assert!(words.contains("round 3 of that still took"), "{words}");
    }

    #[tokio::test]
    async fn a_round_that_is_short_leaves_nothing_to_tell() {
        let limits = Limits { short: PLENTY, rounds: 4, total: PLENTY };
        let (env, blocking) = (Env::system(), Blocking::default());
        let done = presync_within(limits, &env, &blocking, &roots(), |_| Ok(())).await.unwrap();
        for place in ["/", "/data"] {
            assert_eq!((done.over_limit(place), done.failure(place)), (None, None));
        }
    }

    #[tokio::test]
    async fn a_late_sync_is_noted_and_its_error_still_counts() {
        let roots = roots();
        let (data, (release, wait)) = (roots[1].1.clone(), channel::<()>());
        let wait = Arc::new(Mutex::new(wait));
        let sync = move |root: &OwnedFd| {
            use std::os::fd::AsRawFd;
            if root.as_raw_fd() != data.as_raw_fd() {
                return Ok(());
            }
            let _ = wait.lock().unwrap().recv();
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        };
        let limits = Limits { short: PLENTY, rounds: 4, total: Duration::from_millis(20) };
        let (env, blocking) = (Env::system(), Blocking::default());
        let done = presync_within(limits, &env, &blocking, &roots, sync).await.unwrap();
        assert!(done.over_limit("/data").unwrap().contains("not all written out within"));
        assert_eq!(done.failure("/data"), None, "not known yet");
        drop(release);
        let told = async {
            while done.failure("/data").is_none() {
                azdr_env::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PLENTY, told).await.unwrap();
        assert!(done.failure("/data").unwrap().contains("os error 28"));
    }
}
