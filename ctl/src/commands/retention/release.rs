//! `azdr retention release`

use azdr_proto::admin::ReleaseRetentionRequest;
use clap::Args;

use crate::error::CliError;
use crate::json;
use crate::quantity::minute;
use crate::session::Session;

/// Let azdr delete again, after its catalogue was rebuilt from Azure
///
/// Look first at what the rebuild could not recover, at `azdr backup list` and at `azdr residue list`, and
/// make sure that no controller runs with the old database any more.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr retention release")]
pub(crate) struct Release {}

impl Release {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let answer = s.client.release_retention(ReleaseRetentionRequest {}).await?.into_inner();
        s.out.result(json::released(&answer), |style| match answer.was_held {
            true => format!(
                "{}\n  Held since {}: {}\n",
                style.headline(true, "Deletions are released"),
                minute(answer.held_since_unix_ms),
                answer.reason
            ),
            false => "Deletions were not held\n".to_owned(),
        });
        Ok(())
    }
}
