//! `azdr job approve`

use azdr_proto::admin::ApproveJobRequest;
use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Let a job begin that would delete many backups at once
///
/// A pruning that would delete more of a VM's backups than the controller's limit waits for this
/// approval, by another operator than the one who changed the policy last. `azdr job show ID` lists what
/// it would delete; `azdr job cancel ID` keeps all of it.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr job approve 1234")]
pub(crate) struct Approve {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
}

impl Approve {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let job = s.client.approve_job(ApproveJobRequest { id: self.id }).await?.into_inner();
        super::decided(s, &job, "Approved");
        Ok(())
    }
}
