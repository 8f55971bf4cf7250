//! Our answers beside recorded ones (`AZURE.md` G): every recorded request is sent to the simulator, and
//! its answer must have the same status, the same of the headers that a client acts on, and every member
//! that Azure's has, of the same type, all the way down.
//!
//! The recordings are found through `AZDR_RECORDINGS`, by default next to the workspace. Where they are
//! absent their tests are *ignored with a reason*, which the standard harness cannot do at run time:
//! hence libtest-mimic.

mod cassette;
#[path = "../it/cloud.rs"]
#[expect(dead_code, reason = "shared with the other tests, which use all of it")]
mod cloud;
mod replay;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use replay::Replay;
use tokio::runtime::Builder;

/// File, what of it is replayed.
const ALL: [(&str, Replay); 4] = [
    ("azure-cli.copystart-sequence.json", replay::COPY_START),
    ("compute-20.0.0.snapshots_and_sas.yaml", replay::SNAPSHOTS_AND_SAS),
    ("virtualmachineclient.AZURECLOUD.yaml", replay::VIRTUAL_MACHINES),
    ("interfaceclient.AZURECLOUD.yaml", replay::INTERFACES),
];

fn recordings() -> PathBuf {
    std::env::var_os("AZDR_RECORDINGS")
        .map(PathBuf::from)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/recordings"))
}

fn main() -> ExitCode {
    let folder = recordings();
    let trials = ALL.into_iter().map(|(file, replay)| {
        let path = folder.join(file);
        let absent = !path.is_file();
        let name = format!("azure_s_answers_in_{}_are_ours", file.replace(['.', '-'], "_"));
        let shown = match absent {
            true => format!("{name} [no recording {file}: set AZDR_RECORDINGS]"),
            false => name,
        };
        let test = move || {
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
            runtime.block_on(replay.run(&cassette::load(&path)))?;
            Ok(())
        };
        Trial::test(shown, test).with_ignored_flag(absent)
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
