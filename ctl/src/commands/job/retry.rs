//! `azdr job retry`

use azdr_proto::admin::RetryJobRequest;
use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Try again the step at which a job is stuck
///
/// The job goes on in the direction in which it was going, and the step has all of its time again. A
/// stuck job is also tried again every 10 minutes without this. The command does not wait for the end: see
/// `azdr job watch`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr job retry 1234")]
pub(crate) struct Retry {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
}

impl Retry {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let job = s.client.retry_job(RetryJobRequest { id: self.id }).await?.into_inner();
        super::decided(s, &job, "Trying again");
        Ok(())
    }
}
