//! `azdr completion`

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::error::CliError;
use crate::output::Output;

/// Print the script with which a shell completes commands, options and their values
///
/// Names of VMs, backups and jobs are not completed: no controller is asked.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    azdr completion bash > ~/.local/share/bash-completion/completions/azdr\n  \
    azdr completion zsh > ~/.zfunc/_azdr    # with fpath+=~/.zfunc before compinit\n  \
    azdr completion fish > ~/.config/fish/completions/azdr.fish\n  \
    azdr completion powershell >> $PROFILE\n  \
    azdr completion elvish >> ~/.config/elvish/rc.elv")]
pub(crate) struct Completion {
    /// The shell that is to complete
    #[arg(value_enum)]
    shell: Shell,
}

/// A shell that can complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

impl Shell {
    fn writer(self) -> clap_complete::Shell {
        match self {
            Self::Bash => clap_complete::Shell::Bash,
            Self::Zsh => clap_complete::Shell::Zsh,
            Self::Fish => clap_complete::Shell::Fish,
            Self::Powershell => clap_complete::Shell::PowerShell,
            Self::Elvish => clap_complete::Shell::Elvish,
        }
    }
}

impl Completion {
    /// Needs no controller.
    pub(crate) fn run(self, out: Output) -> Result<(), CliError> {
        let mut script = Vec::new();
        let shell = self.shell.writer();
        clap_complete::generate(shell, &mut crate::command(), "azdr", &mut script);
        let script = String::from_utf8(script)
            .map_err(|e| CliError::failed("internal", format!("the script is no text: {e}")))?;
        out.result(json!({ "shell": shell.to_string(), "script": script }), |_| script);
        Ok(())
    }
}
