//! When to ask for a new certificate: when the controller says so, and at two thirds of its life.

use std::time::Duration;

use azdr_env::{Env, Monotonic, WallTime};
use azdr_identity::ClientIdentity;

/// After a refusal or without an answer.
const ASK_AGAIN: Duration = Duration::from_secs(600);

/// The state of one session's renewal.
pub(crate) struct Renewal {
    due: Option<WallTime>,
    asked_at: Option<Monotonic>,
    /// The key of the open request.
    key_pem: Option<String>,
}

impl Renewal {
    /// For the certificate in use; `now` at once.
    pub(crate) fn new(env: &Env, identity: &ClientIdentity, now: bool) -> Self {
        let wall = env.clock.wall();
        let due = match identity.certificate(wall) {
            _ if now => Some(wall),
            Ok(found) => Some(two_thirds(found.not_before, found.not_after)),
            Err(error) => {
                tracing::warn!(error = crate::chain(&error), "cannot tell when to renew");
                None
            }
        };
        Self { due, asked_at: None, key_pem: None }
    }

    /// Never asks: for a session that must keep quiet.
    pub(crate) fn never() -> Self {
        Self { due: None, asked_at: None, key_pem: None }
    }

    /// A signing request, when it is time for one.
    pub(crate) fn request(&mut self, env: &Env) -> Option<Vec<u8>> {
        let now = env.clock.monotonic();
        let asked = self.asked_at.is_some_and(|at| now.since(at) < ASK_AGAIN);
        if asked || self.due.is_none_or(|due| env.clock.wall() < due) {
            return None;
        }
        self.asked_at = Some(now);
        match azdr_identity::generate_key_and_csr("azdr-agent") {
            Ok((key_pem, csr_der)) => {
                self.key_pem = Some(key_pem);
                Some(csr_der)
            }
            Err(error) => {
                tracing::error!(error = crate::chain(&error), "cannot make a key");
                None
            }
        }
    }

    /// The key that an issued certificate belongs to; `None` when none was asked for.
    pub(crate) fn take_key(&mut self) -> Option<String> {
        self.key_pem.take()
    }
}

fn two_thirds(from: WallTime, to: WallTime) -> WallTime {
    from.plus(to.since(from) / 3 * 2)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use azdr_env::{ManualClock, SeededIds};

    use super::*;

    #[test]
    fn an_agent_asks_when_it_is_due_and_not_again_for_a_while() {
        let clock = Arc::new(ManualClock::at(WallTime::from_unix_ms(0)));
        let env = Env { clock: clock.clone(), ids: Arc::new(SeededIds::new(1)) };
        let due = Some(WallTime::from_unix_ms(5_000));
        let mut renewal = Renewal { due, asked_at: None, key_pem: None };
        clock.advance(Duration::from_millis(4_999));
        assert!(renewal.request(&env).is_none() && renewal.take_key().is_none());
        clock.advance(Duration::from_millis(1));
        assert!(renewal.request(&env).is_some());
        assert!(renewal.take_key().is_some() && renewal.take_key().is_none());
        clock.advance(ASK_AGAIN - Duration::from_millis(1));
        assert!(renewal.request(&env).is_none(), "asked and not answered, or refused");
        clock.advance(Duration::from_millis(1));
        assert!(renewal.request(&env).is_some());
        assert!(Renewal::never().request(&env).is_none());
    }

    #[test]
    fn a_certificate_of_thirty_days_is_renewed_after_twenty() {
        let day = |n: i64| WallTime::from_unix_ms(n * 86_400_000);
        assert_eq!(two_thirds(day(100), day(130)), day(120));
    }
}
