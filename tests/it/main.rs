//! End-to-end tests: the real binaries as real processes, most against a simulated Azure without
//! machines, some with simulated and some with real ones.
//!
//! They start the binaries of the same build (`cargo build --workspace` first, as `cargo xtask test`
//! does). What needs something absent is *ignored with the reason*; where `AZDR_REQUIRE_QEMU` is set,
//! a missing QEMU is a failure instead. The operators' guide is found through `AZDR_SEEDS`.
//! `AZDR_KEEP_FAILED=1` keeps the folder of a test that failed.

mod alerts;
mod broken_disk;
mod bulk;
mod content;
mod fleet;
mod forecasts;
mod freeze_rounds;
mod getting_started;
mod guests;
mod guide;
mod interruptions;
mod lab_cases;
mod lock_file;
mod lost_answers;
mod names;
mod operators;
mod pins;
mod policies;
mod rebuild;
mod restore_refused;
mod runbook;
mod secrets;
mod setup;
mod simulated_guests;
mod soak;
mod stuck;
mod two_controllers;
mod watching;
mod whole_flow;
mod wrong_input;

use std::process::ExitCode;

use azdr_tests::cases;
use libtest_mimic::{Arguments, Trial};
use setup::{Needs, Setup, Stage};

fn main() -> ExitCode {
    let tests = [
        lock_file::TESTS,
        whole_flow::TESTS,
        content::TESTS,
        forecasts::TESTS,
        freeze_rounds::TESTS,
        fleet::TESTS,
        alerts::TESTS,
        operators::TESTS,
        names::TESTS,
        policies::TESTS,
        lost_answers::TESTS,
        wrong_input::TESTS,
        interruptions::TESTS,
        two_controllers::TESTS,
        watching::TESTS,
        stuck::TESTS,
        pins::TESTS,
        broken_disk::TESTS,
        secrets::TESTS,
        soak::TESTS,
        rebuild::TESTS,
        restore_refused::TESTS,
        runbook::TESTS,
        guide::TESTS,
        getting_started::TESTS,
        bulk::TESTS,
        simulated_guests::TESTS,
        guests::TESTS,
    ];
    let setup = Setup::find();
    let tests = tests.concat();
    let named = tests.iter().map(|test| trial(&setup, test.name.to_owned(), test.needs, test.body));
    let small = cases::ALL.iter().map(|case| (case, Needs::Guests));
    let debian = cases::ON_DEBIAN.iter().map(|case| (case, Needs::DebianGuests));
    let cases = small.chain(debian).map(|(case, needs)| {
        let body = move |stage: &Stage| lab_cases::run(stage, case);
        trial(&setup, lab_cases::test_name(case), needs, body)
    });
    let trials = named.chain(cases).collect();
    let mut arguments = Arguments::from_args();
    // Each test is several processes already.
    arguments.test_threads.get_or_insert(2);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A test as it is shown: ignored, with the reason in its name, where it cannot run.
fn trial(
    setup: &Setup,
    name: String,
    needs: Needs,
    body: impl FnOnce(&Stage) -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    let is_required = needs == Needs::Guests && setup.guests_are_required;
    match setup.obstacle(needs) {
        None => {
            let setup = setup.clone();
            Trial::test(name, move || Ok(setup.run(needs, body)?))
        }
        Some(reason) if is_required => Trial::test(name, move || Err(reason.into())),
        Some(reason) => {
            Trial::test(format!("{name} (ignored: {reason})"), || Ok(())).with_ignored_flag(true)
        }
    }
}
