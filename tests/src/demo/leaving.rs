//! Leaving: nothing of the demo outlives it, unless it is to be kept.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::process::{self, Daemon};

/// What has to go when a signal ends the demo.
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A signal is ending the demo.
static SIGNALLED: AtomicBool = AtomicBool::new(false);

/// How long children may take to end by themselves.
const END_LIMIT: Duration = Duration::from_secs(5);

const SIGNALS: [libc::c_int; 3] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP];

/// Notes the folder that goes when a signal ends everything.
pub fn remember_folder(folder: &Path) {
    if let Ok(mut remembered) = FOLDER.lock() {
        *remembered = Some(folder.to_owned());
    }
}

/// Ends all children and removes the folder, in good order.
pub(super) fn leave(lab: Option<Lab>, folder: tempfile::TempDir) {
    if let Some(mut lab) = lab {
        // The controller first: the simulator outlives its client. If it does not end by itself, it is
        // killed, and what the story showed is no less true.
        let _ = lab.controller.stop();
        drop(lab.agents.take());
        let _ = lab.simulator.stop();
    }
    process::end_all(END_LIMIT);
    drop(folder);
}

/// Does not return once a signal is ending the demo: what is seen from then on are its effects.
pub(crate) fn halt_if_signalled() {
    while SIGNALLED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ends all children, removes the demo's folder and leaves with 128 + the signal's number when one of
/// SIGINT, SIGTERM, SIGHUP comes. To be called first, before there is any other thread.
pub fn leave_on_signals() {
    // SAFETY: the set is initialised before it is used; the calls take valid pointers to it.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in SIGNALS {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are valid.
        unsafe { libc::sigwait(&signals, &mut signal) };
        SIGNALLED.store(true, Ordering::SeqCst);
        eprintln!("\nStopping: ending everything that was started");
        process::end_all(END_LIMIT);
        if let Some(folder) = FOLDER.lock().ok().and_then(|mut folder| folder.take()) {
            let _ = std::fs::remove_dir_all(folder);
        }
        // SAFETY: ends the process without running anything of the other threads.
        unsafe { libc::_exit(128 + signal) };
    });
}

/// Leaves everything running and says how to use and how to end it.
pub(super) fn keep(lab: Lab, folder: &Path) -> Result<()> {
    let controller = lab.controller.daemon()?.id();
    let simulator = lab.simulator.daemon().context("the simulator does not run")?.id();
    let agents = lab.agents.as_ref().map(Daemon::id);
    let stop = folder.join("stop.sh");
    let mut script = "#!/bin/sh\n# Ends the demo that was kept, and removes its folder.\n\
         ends() { [ \"$(readlink \"/proc/$1/exe\")\" = \"$2\" ] && kill \"$1\"; }\n"
        .to_owned();
    for process in [Some(controller), agents, Some(simulator)].into_iter().flatten() {
        script.push_str(&format!("ends {process} {}\n", exe(process)?.display()));
    }
    script.push_str(&format!("sleep 1\nrm -rf {}\n", folder.display()));
    std::fs::write(&stop, script)?;
    println!("\nEverything is left running, in {}:", folder.display());
    println!("  export AZDR_CONTEXT={}", lab.controller.context().display());
    println!("  export PATH={}:$PATH", lab.azdr.folder().display());
    println!("  azdr vm list; azdr backup list db; azdr job list");
    for (group, name) in super::setting::MACHINES {
        if let Ok(guest) = lab.guest(group, name) {
            println!("  {}", guest.line(""));
        }
    }
    let addresses = lab.controller.addresses();
    println!("  curl http://{}/metrics", addresses.metrics);
    println!(
        "  curl --cacert {} {}/_sim/resources",
        lab.simulator.ca().display(),
        lab.simulator.endpoint()
    );
    println!(
        "Stop it (processes {controller}, {simulator} and their machines): sh {}",
        stop.display()
    );
    // Their destructors spare what is to be kept.
    drop(lab);
    Ok(())
}

fn exe(id: u32) -> Result<PathBuf> {
    Ok(std::fs::read_link(format!("/proc/{id}/exe"))?)
}
