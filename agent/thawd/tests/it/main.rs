//! The thaw process against real file systems on loop devices. Needs root; ignored without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod death;
mod freeze;
mod limits;
#[allow(dead_code, reason = "not all of it is for both test programs that it is a part of")]
#[path = "../../../tests/it/loop_mount.rs"]
mod loop_mount;
mod parked;
mod permission;
mod size;
mod strict;
mod thawd_process;
mod two_disks;
mod window;

use libtest_mimic::{Arguments, Failed, Trial};

#[global_allocator]
static ALLOCATOR: strict::Allocator = strict::Allocator;

/// Name, tools that it needs, body.
type Test = (&'static str, &'static [&'static str], fn());

/// Registers the tests of a module.
macro_rules! tests {
    ($($name:ident: $needs:expr),* $(,)?) => {
        /// Every test here, with the tools that it needs.
        pub(crate) const TESTS: &[crate::Test] = &[$((stringify!($name), &$needs, $name)),*];
    };
}
use tests;

fn main() {
    match std::env::args().collect::<Vec<_>>().as_slice() {
        // The agent of the tests that kill it.
        [_, role, args @ ..] if role == thawd_process::AGENT_ROLE => {
            return thawd_process::be_an_agent(args);
        }
        [_, role] if role == limits::HOG_ROLE => return limits::be_a_memory_hog(),
        [_, role, socket] if role == thawd_process::STRICT_ROLE => {
            return strict::be_a_thaw_process(socket);
        }
        _ => {}
    }
    let sized = |name, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok::<(), Failed>(())
        })
    };
    let mut trials = vec![
        sized(
            "it_has_fewer_than_a_thousand_lines_of_code",
            size::it_has_fewer_than_a_thousand_lines_of_code,
        ),
        sized(
            "it_depends_on_libc_and_its_messages_only",
            size::it_depends_on_libc_and_its_messages_only,
        ),
        sized("it_knows_no_date", size::it_knows_no_date),
    ];
    for (name, needs, test) in [
        freeze::TESTS,
        window::TESTS,
        death::TESTS,
        parked::TESTS,
        permission::TESTS,
        limits::TESTS,
        two_disks::TESTS,
    ]
    .concat()
    {
        let body = move || {
            test();
            Ok::<(), Failed>(())
        };
        trials.push(match loop_mount::missing(needs) {
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
