//! `azdr`, the operator's command line: a client of the controller's admin interface.
//!
//! One file per command under `commands/<noun>/<verb>.rs`; its help text is on its argument struct.
//! Data goes to stdout, words (progress, warnings, questions, errors) to stderr. With
//! `--output json` stdout holds exactly one document, and stderr nothing but the error object, if
//! there is one.
//!
//! Exit codes: 0 done, 1 failed, 2 usage (also: the controller calls a value invalid), 3 the
//! controller cannot be reached or denies access, 130 watching was interrupted with Ctrl-C (the job
//! goes on).
//!
//! This crate must not know Azure, nor decide anything: it asks, shows, and lets the controller
//! judge every value.

mod bundle;
mod cli;
mod commands;
mod confirm;
mod context;
mod days;
mod error;
mod json;
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
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::cli::{Cli, OutputFormat};
use crate::error::CliError;
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
            ExitCode::from(error::Exit::Failed.code())
        }
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            out.error(&error);
            ExitCode::from(error.exit.code())
        }
    }
}

/// The whole command tree, for tests and shell completion.
pub fn command() -> clap::Command {
    roles::stated(Cli::command())
}

/// Help and version are answers; the rest are usage errors, as an object if JSON was asked for.
fn refuse(error: &clap::Error, args: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        // A closed pipe is no reason to complain about help that nobody reads.
        let _unread = error.print();
        return ExitCode::SUCCESS;
    }
    if asks_for_json(args) {
        let text = error.render().to_string();
        let message = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
        Output::detect(OutputFormat::Json).error(&CliError::usage(message));
    } else {
        let _unread = error.print();
    }
    ExitCode::from(error::Exit::Usage.code())
}

/// Looks for the option by hand: what failed to parse cannot be asked.
fn asks_for_json(args: &[OsString]) -> bool {
    let mut args = args.iter().filter_map(|arg| arg.to_str()).take_while(|arg| *arg != "--");
    let mut previous = "";
    args.any(|arg| {
        let found = matches!(arg, "--output=json" | "-ojson" | "-o=json")
            || (arg == "json" && matches!(previous, "--output" | "-o"));
        previous = arg;
        found
    })
}
