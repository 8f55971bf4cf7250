//! `azdr job cancel`

use azdr_proto::admin::CancelJobRequest;
use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Ask a job to stop and undo itself
///
/// Refused past the job's point of no return. A job that is undoing already is left alone. Does not
/// wait: see azdr job watch.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr job cancel 1234")]
pub(crate) struct Cancel {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
}

impl Cancel {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let job = s.client.cancel_job(CancelJobRequest { id: self.id }).await?.into_inner();
        super::decided(s, &job, "Cancellation requested");
        Ok(())
    }
}
