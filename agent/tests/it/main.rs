//! The real agent and the real thaw process against a controller made for these tests, over real
//! TLS. Tests that freeze loop devices need root, and are ignored without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checks;
mod controller;
mod databases;
mod dirty;
mod enroll;
mod evidence;
mod foreign_freezer;
mod freeze;
mod health;
mod hooks;
mod loop_mount;
mod machine;
mod packaging;
mod preflight;
mod restored;
mod rounds;

use libtest_mimic::{Arguments, Failed, Trial};

/// Name, tools that it needs (none: it does not need root either), body.
pub(crate) type Test = (&'static str, &'static [&'static str], fn());

/// Registers the tests of a module, all `async fn`.
macro_rules! tests {
    ($($name:ident: $needs:expr),* $(,)?) => {
        /// Every test here.
        pub(crate) const TESTS: &[crate::Test] =
            &[$((stringify!($name), &$needs, || crate::block_on($name()))),*];
    };
}
pub(crate) use tests;

/// Runs a test's future; threads that it leaves behind are not waited for.
pub(crate) fn block_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let run = std::panic::AssertUnwindSafe(|| runtime.block_on(test));
    let outcome = std::panic::catch_unwind(run);
    runtime.shutdown_background();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

fn suites() -> Vec<&'static [Test]> {
    vec![
        checks::TESTS,
        databases::TESTS,
        dirty::TESTS,
        enroll::TESTS,
        evidence::TESTS,
        freeze::TESTS,
        health::TESTS,
        hooks::TESTS,
        packaging::TESTS,
        preflight::TESTS,
        restored::TESTS,
        rounds::TESTS,
    ]
}

fn main() {
    if let [_, role, socket] = std::env::args().collect::<Vec<_>>().as_slice()
        && role == machine::THAWD_ROLE
    {
        azdr_thawd::run(std::path::Path::new(socket)).unwrap();
        return;
    }
    let mut trials = Vec::new();
    for (name, needs, test) in suites().concat() {
        let missing = if needs.is_empty() { None } else { loop_mount::missing(needs) };
        let body = move || {
            test();
            Ok::<(), Failed>(())
        };
        trials.push(match missing {
            None => Trial::test(name, body),
            Some(reason) => {
                Trial::test(format!("{name} (ignored: {reason})"), body).with_ignored_flag(true)
            }
        });
    }
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials);
    loop_mount::assert_nobody_waits();
    conclusion.exit();
}
