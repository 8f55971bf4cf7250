//! What a machine's SSH shows from outside: facts with three values, beside those that the machine tells of
//! itself ([`crate::machine_evidence`]).
//!
//! | fact | required | a pass is | fails when | unknown |
//! |---|---|---|---|---|
//! | `ssh-host-key` | where one is known | one of the machine's host keys | it is another one | nobody answered, or none is known |
//! | `ssh-login` | where a probe key is configured and there is a way | the probe logged in, and its token came back | the login is refused, or the token does not come back | nobody answered |
//!
//! The host keys of a machine are those of the capture, and those that its own agent names now: some images
//! make new ones when they find themselves on a new VM. An agent is believed because it has shown the
//! recovery point's witness on a connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use crate::machine_evidence::{Fact, FactState, one_line};

/// The fact of who answers.
pub const HOST_KEY: &str = "ssh-host-key";
/// The fact of whether the machine can be worked with.
pub const LOGIN: &str = "ssh-login";

/// Which SSH host keys the machine may show, as fingerprints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostKeys {
    /// Kept with the recovery point; empty: none are known.
    pub at_capture: Vec<String>,
    /// Named by the machine's own agent, now; empty: it names none.
    pub told: Vec<String>,
}

impl HostKeys {
    /// Whether a machine with this key may be logged in to: of a key that is known to be another one's, no.
    pub fn allow(&self, shown: &str) -> bool {
        let has = |keys: &[String]| keys.iter().any(|key| key == shown);
        !self.are_known() || has(&self.at_capture) || has(&self.told)
    }

    fn are_known(&self) -> bool {
        !self.at_capture.is_empty() || !self.told.is_empty()
    }
}

/// How far a look from outside came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// No probe key is configured.
    NotConfigured,
    /// No address of the machine leads from here to it.
    NoWay,
    /// There is an address, and no SSH server has answered there.
    Silent(SocketAddr),
    /// The probe tried to log in.
    Attempt(Attempt),
}

/// An attempt to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where.
    pub address: SocketAddr,
    /// The fingerprint of the key that the server proved to have; `None`: it came to none.
    pub host_key: Option<String>,
    /// How it ended.
    pub end: End,
}

/// How an attempt to log in ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// There was no login to be had, in words: no evidence.
    NoAnswer(String),
    /// The host key is not one of the machine's; the probe went no further.
    OtherHostKey,
    /// The server takes neither this user nor this key, or not for a login.
    Refused,
    /// The probe was logged in, and its token did not come back, in words.
    NoToken(String),
    /// The token came back.
    TokenBack {
        /// The boot that answered; empty: not told.
        boot_id: String,
        /// From the first packet to the token.
        took: Duration,
    },
}

/// The facts; `agents_boot_id` is the boot of the machine whose agent has reported, `now_unix_ms` the
/// controller's clock.
pub fn facts(
    look: &Look,
    keys: &HostKeys,
    agents_boot_id: Option<&str>,
    now_unix_ms: i64,
) -> Vec<Fact> {
    let fact = |name: &str, (state, detail): (FactState, String), required| Fact {
        name: name.to_owned(),
        state,
        detail,
        at_unix_ms: now_unix_ms,
        required,
    };
    let unknown = |words: &str| (FactState::Unknown, words.to_owned());
    let attempt = match look {
        Look::NotConfigured => {
            return vec![fact(LOGIN, unknown("no probe key is configured"), false)];
        }
        Look::NoWay => {
            return vec![fact(LOGIN, unknown("no address leads to the machine's SSH"), false)];
        }
        Look::Silent(address) => {
            let words = format!("no SSH server has answered at {address}");
            let no_key = unknown("no key was shown");
            return vec![
                fact(HOST_KEY, no_key, keys.are_known()),
                fact(LOGIN, (FactState::Unknown, words), true),
            ];
        }
        Look::Attempt(attempt) => attempt,
    };
    vec![
        fact(HOST_KEY, host_key(attempt.host_key.as_deref(), keys), keys.are_known()),
        fact(LOGIN, login(attempt, agents_boot_id), true),
    ]
}

fn host_key(shown: Option<&str>, keys: &HostKeys) -> (FactState, String) {
    let has = |keys: &[String]| shown.is_some_and(|shown| keys.iter().any(|key| key == shown));
    match shown {
        None => (FactState::Unknown, "no key was shown".to_owned()),
        Some(shown) if has(&keys.at_capture) => {
            (FactState::Pass, format!("{shown}, as at the capture"))
        }
        Some(shown) if has(&keys.told) => {
            let before = match keys.at_capture.as_slice() {
                [] => "none was known at the capture".to_owned(),
                known => format!("at the capture it had {}", known.join(", ")),
            };
            (FactState::Pass, format!("{shown}, as its own agent says; {before}"))
        }
        Some(shown) if !keys.are_known() => {
            (FactState::Unknown, format!("{shown}; no host key was known at the capture"))
        }
        Some(shown) => {
            let known = [&keys.at_capture[..], &keys.told].concat();
            (FactState::Fail, format!("{shown} is none of the machine's: {}", known.join(", ")))
        }
    }
}

fn login(attempt: &Attempt, agents_boot_id: Option<&str>) -> (FactState, String) {
    let address = attempt.address;
    match &attempt.end {
        End::NoAnswer(why) => (FactState::Unknown, format!("{address}: {}", one_line(why))),
        End::OtherHostKey => (
            FactState::Unknown,
            format!("{address}: not tried, since another machine's host key was shown"),
        ),
        End::Refused => (FactState::Fail, format!("{address}: user or key was refused")),
        End::NoToken(why) => (
            FactState::Fail,
            format!("{address}: logged in, and the token did not come back: {}", one_line(why)),
        ),
        End::TokenBack { boot_id, .. } if is_other_boot(boot_id, agents_boot_id) => (
            FactState::Fail,
            format!(
                "{address}: boot {} answers, and the agent's is {}",
                one_line(boot_id),
                agents_boot_id.unwrap_or_default()
            ),
        ),
        End::TokenBack { took, .. } => {
            let took = took.as_millis();
            (FactState::Pass, format!("{address}: a token came back ({took} ms)"))
        }
    }
}

/// Whether two machines have answered where one was asked.
fn is_other_boot(answered: &str, agents: Option<&str>) -> bool {
    agents.is_some_and(|agents| !agents.is_empty() && !answered.is_empty() && agents != answered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use FactState::{Fail, Pass, Unknown};

    const A: &str = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    const B: &str = "SHA256:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA";

    fn keys(at_capture: &[&str], told: &[&str]) -> HostKeys {
        let owned = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect();
        HostKeys { at_capture: owned(at_capture), told: owned(told) }
    }

    fn address() -> SocketAddr {
        "10.0.0.4:22".parse().expect("an address")
    }

    fn ended(host_key: Option<&str>, end: End) -> Look {
        Look::Attempt(Attempt { address: address(), host_key: host_key.map(str::to_owned), end })
    }

    fn back(boot_id: &str) -> End {
        End::TokenBack { boot_id: boot_id.to_owned(), took: Duration::from_millis(12) }
    }

    fn judged(look: &Look, keys: &HostKeys) -> Vec<(String, FactState, bool)> {
        let facts = facts(look, keys, Some("boot 2"), 1000);
        facts.into_iter().map(|f| (f.name, f.state, f.required)).collect()
    }

    fn both(key: (FactState, bool), login: FactState) -> Vec<(String, FactState, bool)> {
        vec![(HOST_KEY.to_owned(), key.0, key.1), (LOGIN.to_owned(), login, true)]
    }

    #[test]
    fn a_host_key_is_the_captures_or_the_agents_or_it_is_another_machines() {
        for (known, shown, state, required) in [
            (keys(&[A], &[]), A, Pass, true),
            (keys(&[A, B], &[]), B, Pass, true),
            (keys(&[A], &[B]), B, Pass, true),
            (keys(&[], &[B]), B, Pass, true),
            (keys(&[A], &[]), B, Fail, true),
            (keys(&[], &[A]), B, Fail, true),
            (keys(&[], &[]), B, Unknown, false),
        ] {
            assert_eq!(known.allow(shown), state != Fail, "{known:?} {shown}");
            let look = ended(Some(shown), back("boot 2"));
            assert_eq!(judged(&look, &known), both((state, required), Pass), "{known:?} {shown}");
        }
    }

    #[test]
    fn another_host_key_is_told_with_those_that_were_expected() {
        let told = facts(&ended(Some(B), End::OtherHostKey), &keys(&[A], &[]), None, 1000);
        assert!(told[0].detail.contains(A) && told[0].detail.contains(B), "{told:?}");
        let states: Vec<_> = told.iter().map(|fact| fact.state).collect();
        assert_eq!(states, [Fail, Unknown], "what was not tried is not known");
    }

    #[test]
    fn a_login_that_is_refused_or_without_its_token_fails_and_silence_is_unknown() {
        for (end, state) in [
            (End::NoAnswer("connection refused".to_owned()), Unknown),
            (End::Refused, Fail),
            (End::NoToken("read-only".to_owned()), Fail),
            (back(""), Pass),
            (back("boot 2"), Pass),
            (back("boot 1"), Fail),
        ] {
            let known = keys(&[A], &[]);
            let expected = both((Pass, true), state);
            assert_eq!(judged(&ended(Some(A), end.clone()), &known), expected, "{end:?}");
        }
        let silent = judged(&Look::Silent(address()), &keys(&[A], &[]));
        assert_eq!(silent, both((Unknown, true), Unknown));
    }

    #[test]
    fn without_a_key_or_a_way_nothing_is_decided() {
        for look in [Look::NotConfigured, Look::NoWay] {
            let expected = vec![(LOGIN.to_owned(), Unknown, false)];
            assert_eq!(judged(&look, &keys(&[A], &[])), expected);
        }
    }

    #[test]
    fn words_of_the_other_side_are_short_and_plain() {
        let words = format!("\u{1b}[31m{}", "x".repeat(1000));
        let told = facts(&ended(Some(A), End::NoToken(words)), &keys(&[A], &[]), None, 1000);
        assert!(told[1].detail.len() < 700 && !told[1].detail.contains('\u{1b}'), "{told:?}");
    }
}
