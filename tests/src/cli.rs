//! The `azdr` command.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Daemon, Ended, Lifetime, run};
use crate::programs::Programs;

/// Restores and drills wait for machines to boot.
const LIMIT: Duration = Duration::from_secs(420);

/// `azdr` with a context.
#[derive(Clone, Debug)]
pub struct Cli {
    programs: Programs,
    context: PathBuf,
}

/// How a command ended.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
    /// From its start to its end.
    pub took: Duration,
}

impl Answer {
    fn new(line: String, ended: Ended) -> Self {
        Self {
            line,
            code: ended.status.code().unwrap_or(-1),
            stdout: ended.stdout,
            stderr: ended.stderr,
            took: ended.took,
        }
    }

    /// Itself, if the command succeeded.
    ///
    /// # Errors
    /// When it did not, with all that it printed.
    pub fn ok(self) -> Result<Self> {
        ensure!(
            self.code == 0,
            "`{}` ended with exit code {}\n{}{}",
            self.line,
            self.code,
            self.stdout,
            self.stderr
        );
        Ok(self)
    }

    /// The document that it printed, with success.
    ///
    /// # Errors
    /// When it failed, or printed none.
    pub fn json(self) -> Result<Value> {
        let answer = self.ok()?;
        serde_json::from_str(&answer.stdout)
            .with_context(|| format!("`{}` printed {}", answer.line, answer.stdout))
    }

    /// Both outputs.
    pub fn words(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Cli {
    /// `azdr` with a context file.
    pub fn new(programs: &Programs, context: &Path) -> Self {
        Self { programs: programs.clone(), context: context.to_owned() }
    }

    /// The same with another context file.
    #[must_use]
    pub fn with_context(&self, context: &Path) -> Self {
        Self { programs: self.programs.clone(), context: context.to_owned() }
    }

    /// Where the program is.
    pub fn folder(&self) -> PathBuf {
        let program = self.programs.path("azdr");
        program.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// A shell that runs a command line with this context.
    pub fn shell(&self, line: &str) -> Command {
        let mut shell = self.programs.shell(line);
        shell.env("AZDR_CONTEXT", &self.context);
        shell
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.programs.command("azdr");
        command.args(arguments).env("AZDR_CONTEXT", &self.context);
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Runs a command to its end, whatever it is.
    ///
    /// # Errors
    /// When it cannot be run, or does not end.
    pub fn run(&self, arguments: &[&str]) -> Result<Answer> {
        let ended = run(self.command(arguments), LIMIT, None)?;
        Ok(Answer::new(line(arguments), ended))
    }

    /// Runs a command and gives each line that it prints to `show`, as it comes.
    ///
    /// # Errors
    /// When it cannot be run, or does not end.
    pub fn run_shown(&self, arguments: &[&str], show: fn(&str)) -> Result<Answer> {
        let ended = run(self.command(arguments), LIMIT, Some(show))?;
        Ok(Answer::new(line(arguments), ended))
    }

    /// The document that a command prints with `--output json`.
    ///
    /// # Errors
    /// When it fails.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.run(&[arguments, &["--output", "json"]].concat())?.json()
    }

    /// Starts a command in the background.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, arguments: &[&str], log: &Path) -> Result<Daemon> {
        Daemon::start("azdr", self.command(arguments), log, Lifetime::OfStarter)
    }

    /// A job as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub fn job(&self, id: i64) -> Result<Value> {
        self.json(&["job", "show", &id.to_string()])
    }

    /// Starts a job without waiting for it; returns its number.
    ///
    /// # Errors
    /// When it is refused.
    pub fn start_job(&self, arguments: &[&str]) -> Result<i64> {
        let job = self.json(&[arguments, &["--no-wait"]].concat())?;
        job["id"].as_i64().with_context(|| format!("no job in {job}"))
    }

    /// All jobs, newest first.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn jobs(&self) -> Result<Vec<Value>> {
        let answer = self.json(&["job", "list", "--limit", "1000"])?;
        Ok(answer["jobs"].as_array().cloned().unwrap_or_default())
    }

    /// The newest job of a workflow.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest_job(&self, workflow: &str) -> Result<Value> {
        let found = self.jobs()?.into_iter().find(|job| job["workflow"] == workflow);
        let id = found.and_then(|job| job["id"].as_i64());
        self.job(id.with_context(|| format!("there is no job of {workflow}"))?)
    }

    /// Recovery points of a VM, newest first.
    ///
    /// # Errors
    /// When the controller does not answer.
    pub fn points(&self, vm: &str) -> Result<Vec<Value>> {
        let answer = self.json(&["backup", "list", vm])?;
        Ok(answer["points"].as_array().cloned().unwrap_or_default())
    }
}

/// How a person would type it.
pub fn line(arguments: &[&str]) -> String {
    let quoted =
        arguments.iter().map(|word| match word.contains([' ', '"', '$']) || word.is_empty() {
            true => format!("'{word}'"),
            false => (*word).to_owned(),
        });
    format!("azdr {}", quoted.collect::<Vec<_>>().join(" "))
}
