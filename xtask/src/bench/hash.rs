//! `cargo xtask bench hash`: how fast the content of disks is hashed on one core, in a release build.

use std::path::PathBuf;
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use super::keep;
use crate::workspace::Workspace;

#[derive(Debug, Args)]
pub(crate) struct Hash {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Fail where it is too slow: below 1 GB/s per core
    #[arg(long)]
    require: bool,
    /// Use debug builds
    #[arg(long)]
    dev: bool,
}

impl Hash {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self { json, require, dev } = self;
        let workspace = Workspace::find()?;
        let mut bench = workspace.cargo(&["run", "--package", "azdr-domain"]);
        if !dev {
            bench.arg("--release");
        }
        let output = bench
            .args(["--example", "hash_bench"])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot run cargo")?;
        ensure!(output.status.success(), "the benchmark failed");
        let figures: Value = serde_json::from_slice(&output.stdout)?;
        let hashes = [("BLAKE3", BLAKE3), ("in spans", SPANS), ("SHA-256", "sha256_gb_per_second")];
        for (name, field) in hashes {
            let speed = |which: &str| figures[field][which].as_f64().unwrap_or(0.0);
            let (median, worst) = (speed("median"), speed("worst"));
            println!("{name:<8} {median:>6.2} GB/s per core, {worst:.2} in the worst turn");
        }
        let sample = &figures["sample"];
        let column = |name: &str| sample[name].as_f64().unwrap_or(0.0);
        println!(
            "a sample of {} of {} blocks: {:.0} us to choose, {:.1} MB read, {:.0} us to hash, {:.0} us \
             to compare, {} bytes kept",
            sample["blocks"],
            sample["of"],
            column("choosing_us"),
            column("read_bytes") / 1e6,
            column("hashing_us"),
            column("comparing_us"),
            sample["kept_bytes"],
        );
        let spans = &figures["spans"];
        println!(
            "the most of a whole disk: {} spans, {} bytes kept, {:.0} us to compare",
            spans["most"],
            spans["kept_bytes"],
            spans["comparing_us"].as_f64().unwrap_or(0.0),
        );
        keep(&figures, json.as_deref())?;
        let missed = missed(&figures);
        if let Some(words) = &missed {
            println!("too slow: {words}");
        }
        Ok(if require && missed.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Blocks one by one, as a sample of them is hashed.
const BLAKE3: &str = "blake3_gb_per_second";
/// And all of a disk.
const SPANS: &str = "spans_gb_per_second";
/// What one core must do.
const GB_PER_SECOND: f64 = 1.0;

/// What is not good enough, in words.
fn missed(figures: &Value) -> Option<String> {
    let slow = |(name, field): (&str, &str)| {
        // A figure that is missing is not a good one.
        let median = figures[field]["median"].as_f64().unwrap_or(0.0);
        let words = format!("{name} at {median:.2} GB/s per core instead of {GB_PER_SECOND}");
        (median < GB_PER_SECOND).then_some(words)
    };
    let words: Vec<_> =
        [("BLAKE3", BLAKE3), ("BLAKE3 in spans", SPANS)].into_iter().filter_map(slow).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_core_is_fast_enough_or_it_is_said_how_fast_it_is() {
        let figures = |blocks: f64, spans: f64| {
            json!({
                "blake3_gb_per_second": {"median": blocks},
                "spans_gb_per_second": {"median": spans},
            })
        };
        assert_eq!(missed(&figures(1.0, 1.0)), None);
        let words = missed(&figures(0.5, 1.0)).unwrap();
        assert_eq!(words, "BLAKE3 at 0.50 GB/s per core instead of 1");
        let words = missed(&figures(1.0, 0.5)).unwrap();
        assert_eq!(words, "BLAKE3 in spans at 0.50 GB/s per core instead of 1");
        assert!(missed(&json!({})).is_some());
    }
}
