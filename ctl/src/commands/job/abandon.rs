//! `azdr job abandon`

use azdr_proto::admin::AbandonJobRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::session::Session;

/// End a stuck job as it is: what it left in Azure is yours from then on
///
/// The job ends as failed, and its locks and leases are released: other jobs may work on the VM again.
/// Nothing is deleted or put back. What is left is named and recorded in the job, and azdr does not look
/// after it any more. Try `azdr job retry` and `azdr job undo` first.
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  azdr job abandon 1234 --reason \"the resource group was deleted\""
)]
pub(crate) struct Abandon {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
    /// Why, for whoever reads the record later
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
}

impl Abandon {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = AbandonJobRequest { id: self.id, reason: self.reason };
        let job = s.client.abandon_job(request).await?.into_inner();
        super::decided(s, &job, "Abandoned");
        Ok(())
    }
}
