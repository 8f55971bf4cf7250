//! The story that `cargo xtask demo` tells, with the real programs: protect, back up, replicate,
//! verify, destroy, restore, drill, and prove that nothing is left over.
//!
//! - `story` is the order of events; `setting`, `protection`, `disaster` and `drill` are its chapters,
//!   each a few steps. `simulated` is what is different where machines are simulated.
//! - `screen` shows commands and what they print, and keeps the record of steps.
//! - `summary` is what comes of it: words and JSON. Every figure is measured.
//! - `leaving` sees to it that nothing of it outlives the demo, unless it is to be kept.

mod disaster;
mod drill;
mod leaving;
mod protection;
mod screen;
mod setting;
mod simulated;
mod story;
mod summary;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

pub use leaving::{leave_on_signals, remember_folder};

pub(crate) use leaving::halt_if_signalled;

use crate::lab::Machines;
use crate::programs::Programs;
use screen::Screen;
use summary::Summary;

/// How the demo is to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binaries.
    pub programs: Programs,
    /// What machines are. If mere records, the story is shorter.
    pub machines: Machines,
    /// Why they are not real, if somebody wondered.
    pub reason: Option<String>,
    /// Where the summary is written as JSON.
    pub json: Option<PathBuf>,
    /// Leave everything running.
    pub keep: bool,
    /// How long to wait for the end of another lab on this machine.
    pub patience: Duration,
}

/// Tells the story; returns whether every check held.
///
/// # Errors
/// When the story cannot be told at all, or its summary cannot be written.
pub fn run(options: &Options) -> Result<bool> {
    let folder = tempfile::Builder::new()
        .prefix("azdr-demo-")
        .tempdir()
        .context("cannot make a folder for the demo")?;
    remember_folder(folder.path());
    let mut screen = Screen::start();
    let mut summary = Summary::new(&options.machines, options.reason.clone());
    let (lab, told) = story::tell(options, folder.path(), &mut screen, &mut summary);
    halt_if_signalled();
    if let Err(error) = &told {
        screen.failed(error);
        screen.logs(folder.path());
    }
    summary.finish(&screen);
    match lab {
        Some(lab) if options.keep => {
            leaving::keep(lab, &folder.keep())?;
        }
        lab => leaving::leave(lab, folder),
    }
    halt_if_signalled();
    println!("{}", summary.words());
    if let Some(path) = &options.json {
        std::fs::write(path, summary.json())
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("Summary written to {}", path.display());
    }
    Ok(summary.ok)
}
