//! `azdr backup verify`

use azdr_proto::admin::StartVerifyRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::watch;
use crate::which_point::WhichPoint;

/// Prove that a backup can be restored: make a test disk of each of its snapshots, and read it
///
/// The test disks are deleted afterwards. Exits with 1 if the verification fails. Ctrl-C ends the
/// watching; the verification goes on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup verify prod-db-vm-backup-daily-20251201-0800")]
pub(crate) struct Verify {
    #[command(flatten)]
    which: WhichPoint,
    /// Verify the copy in this region instead of the original
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

impl Verify {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartVerifyRequest {
            recovery_point: self.which.point.clone(),
            vm: self.which.vm(s),
            region: self.region.unwrap_or_default(),
        };
        let job = s.client.start_verify(request).await?.into_inner();
        let name = self.which.chosen(&job);
        s.out.text(&format!("Verifying backup {name}...\n\n"));
        watch::conclude(s, job, self.wait).await
    }
}
