//! `azdr backup verify`

use azdr_proto::admin::StartVerifyRequest;
use clap::Args;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::watch;

/// Prove that a backup can be restored: make a test disk of each snapshot and read it
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup verify prod-db-vm-backup-daily-20251201-0800")]
pub(crate) struct Verify {
    /// Name of the backup
    point: String,
    /// Verify the copy in this region instead of the original
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// Name of the VM, where the backup's name alone is not unique
    #[arg(long, value_name = "VM")]
    vm: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

impl Verify {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartVerifyRequest {
            recovery_point: self.point.clone(),
            vm: self.vm.as_deref().and_then(|vm| s.vm(vm)),
            region: self.region.unwrap_or_default(),
        };
        let job = s.client.start_verify(request).await?.into_inner();
        s.out.text(&format!("Verifying backup {}...\n\n", self.point));
        watch::conclude(s, job, self.wait).await
    }
}
