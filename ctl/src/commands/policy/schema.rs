//! `azdr policy schema`

use clap::Args;

use crate::error::CliError;
use crate::output::Output;
use crate::policy_file;

/// Print the JSON schema of the files that `azdr policy apply` reads
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr policy schema > policy.schema.json")]
pub(crate) struct Schema {}

impl Schema {
    /// Needs no controller.
    pub(crate) fn run(self, out: Output) -> Result<(), CliError> {
        out.foreign(policy_file::schema());
        Ok(())
    }
}
