//! `azdr`, the operator's command line: a client of the controller's admin interface.
//!
//! One file per command under `commands/<noun>/<verb>.rs`; its help text is on its argument struct.
//! Data goes to stdout, words (progress, warnings, questions, errors) to stderr. In the formats that
//! programs read (`--output json`, `yaml`, `csv`) stdout holds exactly one document, and stderr nothing
//! but the error object, if there is one; see `docs/output.md`.
//!
//! Exit codes: 0 done, 1 failed, 2 usage (also: the controller calls a value invalid), 3 the
//! controller cannot be reached or denies access, 130 watching was ended with Ctrl-C (a job goes on).
//!
//! Nothing is read or started before the arguments are understood: `--help` and `--version` cost no
//! more than that.
//!
//! This crate must not know Azure, nor decide anything: it asks, shows, and lets the controller
//! judge every value.

mod again;
mod bundle;
mod cli;
mod commands;
mod confirm;
mod context;
mod days;
mod error;
mod json;
mod man_page;
mod names;
mod new_policy;
mod outcome;
mod output;
mod point_in_time;
mod policy_file;
mod progress;
mod quantity;
mod roles;
mod session;
mod since;
mod style;
mod table;
mod until;
mod watch;
mod which_point;
mod whole;
mod yaml;

use std::ffi::OsString;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, ValueEnum};

use crate::cli::{Cli, OutputFormat};
use crate::error::{CliError, Exit};
use crate::output::Output;

/// Runs the command that `args` ask for (the first is the program's name) and says how it ended.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let parsed = command().try_get_matches_from(&args);
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &args),
    };
    let out = Output::detect(cli.global.output);
    // One thread is enough: the work is waiting for the controller.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(commands::run(cli, out)),
        Err(error) => Err(CliError::failed("io", format!("cannot start: {error}"))),
    };
    match result {
        Ok(()) if output::was_lost() => {
            out.error(&CliError::failed("io", "the output could not be written (disk full?)"));
            ExitCode::from(Exit::Failed.code())
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.exit != Exit::Stopped {
                out.error(&error);
            }
            ExitCode::from(error.exit.code())
        }
    }
}

/// The whole command tree, for tests and shell completion.
pub fn command() -> clap::Command {
    roles::stated(Cli::command())
}

/// Help and version are answers; the rest are usage errors, as an object if a program reads.
fn refuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        let printed = error.print().and_then(|()| std::io::stdout().flush());
        // A closed pipe is no reason to complain about help that nobody reads.
        return match printed {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                let lost = CliError::failed("io", format!("the output could not be written: {e}"));
                Output::detect(OutputFormat::Text).error(&lost);
                ExitCode::from(Exit::Failed.code())
            }
            _ => ExitCode::SUCCESS,
        };
    }
    let out = Output::detect(asked_format(args));
    if out.is_for_programs() {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        out.error(&CliError::usage(message));
    } else {
        let _unread = error.print();
    }
    ExitCode::from(Exit::Usage.code())
}

/// Looks for the option by hand: what failed to parse cannot be asked.
fn asked_format(args: &[OsString]) -> OutputFormat {
    let args = args.iter().filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--");
    let mut asked = OutputFormat::Text;
    let mut previous = "";
    for arg in args {
        let value = match previous {
            "--output" | "-o" => Some(arg),
            _ => ["--output=", "-o=", "-o"].iter().find_map(|option| arg.strip_prefix(option)),
        };
        if let Some(Ok(format)) = value.map(|value| OutputFormat::from_str(value, false)) {
            asked = format;
        }
        previous = arg;
    }
    asked
}
