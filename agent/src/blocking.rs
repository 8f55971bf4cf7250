//! Calls that may block for ever on a frozen or broken disk, each with a limit.
//!
//! A thread in such a call cannot be killed, so after the limit it is left behind. To leave at most
//! one behind per purpose, the next call for the same purpose is refused until it has come back.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

/// A call that did not come back.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Stuck {
    /// Not within its limit.
    #[error("{what} did not end within {} s", .limit.as_secs())]
    Late {
        /// The purpose.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// An earlier call for the same purpose has still not come back.
    #[error("an earlier {what} is still blocked")]
    Before {
        /// The purpose.
        what: String,
    },
    /// The call panicked.
    #[error("{what} failed unexpectedly")]
    Panicked {
        /// The purpose.
        what: String,
    },
}

/// Runs blocking calls on threads of their own. Clones share the knowledge of what is out.
#[derive(Clone, Debug, Default)]
pub struct Blocking {
    out: Arc<Mutex<BTreeSet<String>>>,
}

/// Removes the purpose when the call comes back, or panics.
struct Out {
    all: Blocking,
    what: String,
}

impl Drop for Out {
    fn drop(&mut self) {
        self.all.out().remove(&self.what);
    }
}

impl Blocking {
    fn out(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `call`, named `what` in messages, for at most `limit`.
    ///
    /// Dropping the future leaves the call behind, as the limit does.
    ///
    /// # Errors
    /// See [`Stuck`].
    pub async fn run<T: Send + 'static>(
        &self,
        what: impl Into<String>,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stuck> {
        let what = what.into();
        if !self.out().insert(what.clone()) {
            return Err(Stuck::Before { what });
        }
        let out = Out { all: self.clone(), what: what.clone() };
        let thread = tokio::task::spawn_blocking(move || {
            let _out = out;
            call()
        });
        match timeout(limit, thread).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(Stuck::Panicked { what }),
            Err(_) => Err(Stuck::Late { what, limit }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_call_that_does_not_come_back_is_left_and_not_repeated_until_it_does() {
        let blocking = Blocking::default();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let limit = Duration::from_millis(20);
        let late = blocking.run("write", limit, move || wait.recv()).await;
        assert!(matches!(late, Err(Stuck::Late { .. })));
        let again = blocking.run("write", limit, || ()).await;
        assert_eq!(again, Err(Stuck::Before { what: "write".to_owned() }));
        assert_eq!(blocking.run("other", limit, || 7).await, Ok(7));
        drop(release);
        let mut answer = Err(Stuck::Before { what: String::new() });
        for _ in 0..500 {
            answer = blocking.run("write", limit, || ()).await;
            if answer.is_ok() {
                break;
            }
            azdr_env::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(answer, Ok(()));
    }
}
