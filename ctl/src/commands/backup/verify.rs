//! `azdr backup verify`

use azdr_proto::admin::StartVerifyRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::watch;

/// Prove that a backup can be restored: make a test disk of each snapshot and read it
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup verify prod-db-vm-backup-daily-20251201-0800")]
pub(crate) struct Verify {
    /// Name of the backup
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    point: String,
    /// Verify the copy in this region instead of the original
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    region: Option<String>,
    /// Name of the VM, where the backup's name alone is not unique
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

impl Verify {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartVerifyRequest {
            recovery_point: self.point.clone(),
            // A resource group alone may be enough to tell which.
            vm: s.vm(self.vm.as_deref().unwrap_or_default()),
            region: self.region.unwrap_or_default(),
        };
        let job = s.client.start_verify(request).await?.into_inner();
        s.out.text(&format!("Verifying backup {}...\n\n", self.point));
        watch::conclude(s, job, self.wait).await
    }
}
