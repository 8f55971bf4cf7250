//! `azdr job cancel`

use azdr_proto::admin::CancelJobRequest;
use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Ask a job to stop, and to undo what it has done
///
/// This is refused when the job is past its point of no return. A job that is being undone already is
/// left alone. The command does not wait for the end: see `azdr job watch`.
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
