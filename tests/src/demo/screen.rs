//! What people see of the story, and the record of its steps.

use std::path::Path;

use anyhow::{Result, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::cli::{Answer, Cli, line};
use crate::guest::Guest;
use crate::poll::Stopwatch;
use crate::process::last_lines;

/// A step that was tried.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) ok: bool,
    pub(super) seconds: f64,
}

/// The story's stage.
#[derive(Debug)]
pub(super) struct Screen {
    watch: Stopwatch,
    pub(super) steps: Vec<Step>,
}

impl Screen {
    pub(super) fn start() -> Self {
        Self { watch: Stopwatch::start(), steps: Vec::new() }
    }

    /// Seconds since the story began.
    pub(super) fn seconds(&self) -> f64 {
        rounded(self.watch.elapsed().as_secs_f64())
    }

    /// A step of the story: shown, timed, recorded.
    pub(super) fn step<T>(&mut self, name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("\n[{:>5.1} s] {}. {name}", self.seconds(), self.steps.len() + 1);
        let watch = Stopwatch::start();
        let result = body();
        let seconds = rounded(watch.elapsed().as_secs_f64());
        self.steps.push(Step { name: name.to_owned(), ok: result.is_ok(), seconds });
        if result.is_ok() {
            println!("  ok ({seconds:.1} s)");
        }
        result
    }

    /// Why the story ends early.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        let step = self.steps.last().map_or("preparation", |s| s.name.as_str());
        println!("\nFAILED: {step}\n  {}", format!("{error:#}").replace('\n', "\n  "));
    }

    /// The last words of the daemons, for whoever has to find out why.
    pub(super) fn logs(&self, folder: &Path) {
        for name in ["controller.log", "sim.log", "agents.log"] {
            let words = last_lines(&folder.join(name), 25);
            if !words.is_empty() {
                println!("\n--- end of {name}\n{words}");
            }
        }
    }
}

/// Prints a line that a program printed.
pub(super) fn quote(line: &str) {
    println!("    {line}");
}

/// Prints a fact.
pub(super) fn say(fact: &str) {
    println!("  - {fact}");
}

/// Runs an `azdr` command in front of everybody; it must succeed.
pub(super) fn show(azdr: &Cli, arguments: &[&str]) -> Result<Answer> {
    println!("  $ {}", line(arguments));
    let answer = azdr.run_shown(arguments, quote)?;
    ensure!(answer.code == 0, "`{}` ended with exit code {}", answer.line, answer.code);
    Ok(answer)
}

/// Runs a command in a machine in front of everybody; it must succeed.
pub(super) fn show_in(guest: &Guest, command: &str) -> Result<String> {
    println!("  {}# {command}", guest.name);
    let printed = guest.run(command)?;
    printed.lines().for_each(quote);
    Ok(printed)
}

/// A number of milliseconds in a document, in seconds.
pub(super) fn seconds(document: &Value, field: &str) -> Option<f64> {
    Some(rounded(document[field].as_f64()? / 1e3))
}

/// To tenths of a second and finer, as far as anybody cares.
pub(super) fn rounded(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}
