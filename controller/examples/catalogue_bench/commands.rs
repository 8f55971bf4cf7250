//! Whole processes of the `azdr` command, from their start to their end.

use std::process::Stdio;
use std::time::Duration;

use anyhow::ensure;
use azdr_env::Env;
use serde_json::{Value, json};

use crate::processes::Places;

/// Before those that count; their answers are looked at.
pub(crate) const WARM_UP: usize = 3;

/// A command with its target.
pub(crate) struct Measured {
    /// As people read it.
    pub(crate) words: &'static str,
    /// Milliseconds; none: it is only looked at.
    pub(crate) target_ms: Option<f64>,
    /// How often it is run.
    pub(crate) times: usize,
    /// The arguments of each time.
    pub(crate) arguments: Box<dyn Fn(usize) -> Vec<String>>,
    /// What its answer must contain, each time another.
    pub(crate) answers: Box<dyn Fn(usize) -> String>,
}

impl Measured {
    /// Runs it as often as it says, checks the first answers, and answers the figures.
    pub(crate) fn run(&self, places: &Places, env: &Env) -> anyhow::Result<Value> {
        for n in 0..WARM_UP {
            let output = self.command(places, n).output()?;
            let (stdout, stderr) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let expected = (self.answers)(n);
            ensure!(
                output.status.success() && stdout.contains(&expected),
                "azdr {}: no {expected:?} in the answer:\n{stdout}{stderr}",
                (self.arguments)(n).join(" ")
            );
        }
        let mut spent = Vec::with_capacity(self.times);
        for n in 0..self.times {
            let mut command = self.command(places, WARM_UP + n);
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let begun = env.clock.monotonic();
            let status = command.status()?;
            spent.push(env.clock.monotonic().since(begun));
            ensure!(status.success(), "azdr {} failed", (self.arguments)(WARM_UP + n).join(" "));
        }
        Ok(figures(self.words, self.target_ms, spent))
    }

    fn command(&self, places: &Places, n: usize) -> std::process::Command {
        let mut command = places.program("azdr");
        command.args((self.arguments)(n)).env("AZDR_CONTEXT", places.file("admin/context.toml"));
        command
    }
}

/// The median, and the time that 99 of 100 did not exceed.
pub(crate) fn figures(what: &str, target_ms: Option<f64>, mut spent: Vec<Duration>) -> Value {
    spent.sort_unstable();
    let at = |hundredths: usize| {
        let ms = spent[(spent.len() * hundredths).div_ceil(100) - 1].as_secs_f64() * 1000.0;
        (ms * 100.0).round() / 100.0
    };
    let mut figures =
        json!({"what": what, "n": spent.len(), "median_ms": at(50), "p99_ms": at(99)});
    if let Some(target_ms) = target_ms {
        figures["target_ms"] = json!(target_ms);
    }
    figures
}
