//! `azdr ssh`, which is refused: azdr has no shell on any VM, by design.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;

/// Not a way into a VM: azdr opens no shells, and tells the ssh command line to run instead
///
/// Always exits with 2.
#[derive(Args, Debug)]
#[command(hide = true, after_help = "Example:\n  azdr ssh prod-db-vm 'systemctl status'")]
pub(crate) struct Ssh {
    /// Host name of the VM
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// Command to run there
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Ssh {
    pub(crate) fn refuse(&self) -> CliError {
        let mut line = format!("ssh {}", quoted(&self.vm));
        if !self.command.is_empty() {
            // ssh joins its arguments and lets the remote shell read them: one quoted argument arrives
            // there as it was given here.
            line.push_str(&format!(" {}", quoted(&self.command.join(" "))));
        }
        CliError::usage(format!("azdr does not open shells on VMs (asked for: {})", self.vm))
            .hint(format!("Run: {line}"))
    }
}

/// For a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./@:=".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
