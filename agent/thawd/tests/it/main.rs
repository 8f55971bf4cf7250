//! The thaw process against real file systems on loop devices. Needs root; ignored without.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod freeze;
#[path = "../../../tests/it/loop_mount.rs"]
mod loop_mount;
mod thawd_process;

use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    // The agent of the tests that kill it.
    if std::env::args().nth(1).as_deref() == Some(thawd_process::AGENT_ROLE) {
        thawd_process::be_an_agent();
        return;
    }
    let mut trials = Vec::new();
    for (name, needs, test) in freeze::TESTS {
        let body = move || {
            test();
            Ok::<(), Failed>(())
        };
        trials.push(match loop_mount::missing(needs) {
            None => Trial::test(*name, body),
            Some(reason) => {
                Trial::test(format!("{name} (ignored: {reason})"), body).with_ignored_flag(true)
            }
        });
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
