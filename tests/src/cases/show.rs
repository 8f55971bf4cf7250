//! Cases in front of people: a line each as it ends, and a last one that counts.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Case, Figures, Place};
use crate::demo::{halt_if_signalled, remember_folder};
use crate::poll::Stopwatch;
use crate::process::last_lines;
use crate::programs::{GuestImage, Programs};

/// How the cases are to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binaries.
    pub programs: Programs,
    /// What machines run.
    pub image: GuestImage,
    /// Which.
    pub cases: Vec<&'static Case>,
    /// How often those are done over that are; at least 1; `None`: as they say themselves.
    pub rounds: Option<u32>,
    /// Leave each case's folder, and say how to look at what is in it.
    pub keep: bool,
    /// How long to wait for the end of another lab on this machine.
    pub patience: Duration,
}

/// Runs the cases one after the other, also past one that fails; returns whether none did.
///
/// # Errors
/// When a case has no folder to take place in.
pub fn run(options: &Options) -> Result<bool> {
    let since = Stopwatch::start();
    let mut failed = Vec::new();
    for case in &options.cases {
        if !run_one(options, case)? {
            failed.push(case.name);
        }
    }
    let (all, minutes) = (options.cases.len(), since.elapsed().as_secs_f64() / 60.0);
    let words = match &failed[..] {
        [] => String::new(),
        names => format!(", {} failed: {}", names.len(), names.join(", ")),
    };
    println!("{} of {all} cases hold{words} ({minutes:.1} min)", all - failed.len());
    Ok(failed.is_empty())
}

fn run_one(options: &Options, case: &Case) -> Result<bool> {
    let folder = tempfile::Builder::new().prefix(&format!("azdr-lab-{}-", case.name)).tempdir();
    let folder = folder.context("cannot make a folder for a case")?;
    remember_folder(folder.path());
    let place = Place {
        programs: options.programs.clone(),
        image: options.image.clone(),
        folder: folder.path().to_owned(),
        rounds: options.rounds.or(case.rounds.map(|rounds| rounds.by_default)).unwrap_or(1),
        patience: options.patience,
    };
    let watch = Stopwatch::start();
    let ended = (case.run)(&place);
    // What failed because a signal has ended everything, did not fail.
    halt_if_signalled();
    println!("{}", line(case, watch.elapsed(), &ended));
    if ended.is_err() {
        for log in ["controller.log", "sim.log"] {
            println!("--- end of {log}\n{}", last_lines(&place.folder.join(log), 25));
        }
    }
    if options.keep {
        println!("{}", how_to_look(options, &folder.keep()));
    }
    Ok(ended.is_ok())
}

/// One case: its name, how it ended, how long it took, and what it measured or why it failed.
fn line(case: &Case, took: Duration, ended: &Result<Figures>) -> String {
    let (word, words) = match ended {
        Ok(figures) => ("ok", figures.join("; ")),
        Err(error) => ("FAILED", format!("{error:#}")),
    };
    format!("{:<34} {word:<6} {:>6.1} s  {words}", case.name, took.as_secs_f64())
        .trim_end()
        .to_owned()
}

/// Where the files are, and what can be done with them.
fn how_to_look(options: &Options, folder: &Path) -> String {
    let (image, folder) = (&options.image, folder.display());
    format!(
        "  kept in {folder}: controller.log, sim.log, and in sim the world: consoles (serial), disks and \
         snapshots (disks)\n  \
         look into one:   debugfs -R 'ls -l /' {folder}/sim/disks/FILE\n  \
         boot them again: {} run --state {folder}/sim --guests qemu --memory-mib {} --kernel {} --initrd {}\n  \
         log in:          ssh -i {} root@ADDRESS (its arm_endpoint/_sim/resources: reachable_at)\n  \
         remove it:       rm -r {folder}",
        options.programs.path("azure-sim").display(),
        image.memory_mib,
        image.kernel.display(),
        image.initrd.display(),
        image.ssh_key.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases;

    #[test]
    fn a_case_is_a_line_with_its_figures_or_the_reason() {
        let case = cases::named(cases::ALL, "full-cycle").unwrap();
        let took = Duration::from_millis(12_340);
        let held = line(case, took, &Ok(vec!["10 cycles".to_owned(), "30.1 s at most".to_owned()]));
        assert!(held.starts_with("full-cycle "), "{held}");
        assert!(held.ends_with("ok       12.3 s  10 cycles; 30.1 s at most"), "{held}");
        let error = anyhow::anyhow!("the payload has changed").context("cycle 3");
        let failed = line(case, took, &Err(error));
        assert!(failed.ends_with("FAILED   12.3 s  cycle 3: the payload has changed"), "{failed}");
    }
}
