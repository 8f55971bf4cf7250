//! `azdr job undo`

use azdr_proto::admin::UndoJobRequest;
use clap::Args;

use crate::error::CliError;
use crate::session::Session;

/// Turn a stuck job back: undo what it has done
///
/// This is refused when the job is past its point of no return. A job that is stuck while it is being
/// undone is tried again. The command does not wait for the end: see `azdr job watch`.
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
