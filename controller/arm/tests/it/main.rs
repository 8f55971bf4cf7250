//! The client over real TLS, and against what Azure really sent (`AZURE.md` G).
//!
//! The recordings are found through `AZDR_RECORDINGS`, by default next to the workspace. Where they
//! are absent their tests are *ignored with a reason*, which the standard harness cannot do at run
//! time: hence libtest-mimic.

#![expect(clippy::unwrap_used, reason = "a test binary, with a harness of its own")]

mod cassette;
mod replays;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Builder;

fn recordings() -> PathBuf {
    std::env::var_os("AZDR_RECORDINGS")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/recordings"))
}

fn main() -> ExitCode {
    let folder = recordings();
    let replays = replays::ALL.iter().map(|(name, file, test)| {
        let path = folder.join(file);
        let absent = !path.is_file();
        let shown = if absent {
            format!("{name} [no recording {file}: set AZDR_RECORDINGS]")
        } else {
            (*name).to_owned()
        };
        let test = move || {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(test(cassette::Cassette::load(&path)));
            Ok(())
        };
        Trial::test(shown, test).with_ignored_flag(absent)
    });
    let wires = wire::ALL.iter().map(|(name, test)| {
        Trial::test(*name, move || {
            Builder::new_current_thread().enable_all().build()?.block_on(test());
            Ok(())
        })
    });
    let trials = replays.chain(wires).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
