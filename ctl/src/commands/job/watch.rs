//! `azdr job watch`

use azdr_proto::admin::GetJobRequest;
use clap::Args;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::watch;
use crate::whole::whole;

/// Watch a job to its end; exits with 1 if it does not succeed
///
/// Ctrl-C ends the watching with exit code 130; the job goes on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr job watch 1234")]
pub(crate) struct Watch {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
    /// If the controller is lost while watching: for how many seconds to try again, 0 to 86400
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<0, 86_400>)]
    reconnect_for: u32,
}

impl Watch {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let job = s.client.get_job(GetJobRequest { id: self.id }).await?.into_inner();
        let wait = Wait { no_wait: false, reconnect_for: self.reconnect_for };
        watch::conclude(s, job, wait).await
    }
}
