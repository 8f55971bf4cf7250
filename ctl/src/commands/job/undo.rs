//! `azdr job undo`

use azdr_proto::admin::UndoJobRequest;
use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Turn a stuck job back: give up going forward and undo what it did
///
/// Refused past the job's point of no return. A job that is stuck on its way back is tried again.
/// Does not wait: see azdr job watch.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr job undo 1234")]
pub(crate) struct Undo {
    /// Number of the job
    #[arg(allow_negative_numbers = true, value_parser = crate::whole::job)]
    id: i64,
}

impl Undo {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let job = s.client.undo_job(UndoJobRequest { id: self.id }).await?.into_inner();
        super::decided(s, &job, "Undoing");
        Ok(())
    }
}
