//! Questions that only a person can answer.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::CliError;

/// Somebody agreed to lose something. Only [`ask`] and [`given`] make one, so that no destructive
/// function can be called without.
#[derive(Debug)]
pub(crate) struct Confirmed(());

/// `--yes` was given.
pub(crate) fn given(yes: bool) -> Option<Confirmed> {
    yes.then_some(Confirmed(()))
}

/// Asks for a whole "yes" on the terminal.
pub(crate) fn ask(question: &str) -> Result<Confirmed, CliError> {
    needs_terminal("confirm it", "Add --yes to go on without asking.")?;
    match read_answer(&format!("{question} (yes/no): "))?.as_str() {
        "yes" => Ok(Confirmed(())),
        _ => Err(CliError::failed("declined", "not confirmed: nothing was changed")),
    }
}

/// Asks for a number from 1 to `count`.
pub(crate) fn choose(question: &str, count: usize) -> Result<usize, CliError> {
    let answer = read_answer(&format!("{question} (1-{count}): "))?;
    match answer.parse::<usize>() {
        Ok(number) if (1..=count).contains(&number) => Ok(number - 1),
        _ => Err(CliError::usage(format!("{answer:?} is not a number from 1 to {count}"))),
    }
}

/// A usage error unless a person sits at both ends.
pub(crate) fn needs_terminal(purpose: &str, otherwise: &str) -> Result<(), CliError> {
    if io::stdin().is_terminal() && io::stderr().is_terminal() {
        return Ok(());
    }
    Err(CliError::usage(format!("there is no terminal on which to {purpose}")).hint(otherwise))
}

fn read_answer(prompt: &str) -> Result<String, CliError> {
    let mut stderr = io::stderr();
    let asked = stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush());
    let mut line = String::new();
    asked
        .and_then(|()| io::stdin().lock().read_line(&mut line))
        .map_err(|e| CliError::failed("io", format!("cannot read the answer: {e}")))?;
    Ok(line.trim().to_owned())
}
