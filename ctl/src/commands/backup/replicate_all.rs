//! `azdr backup replicate-all`

use azdr_proto::admin::StartReplicateAllRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::whole::whole;
use crate::{names, watch};

/// Copy to a region all backups of a VM that are missing there
///
/// The oldest goes first: Azure copies the snapshots of a disk one at a time, in the order in which they
/// were made. A backup that is older than the newest complete copy can never be copied; such ones are
/// named. Exits with 1 if any copy fails. Ctrl-C ends the watching; the copying goes on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup replicate-all prod-db-vm --target-region westus2")]
pub(crate) struct ReplicateAll {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// Region to copy them to, other than the VM's own
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    target_region: String,
    /// How many disks to copy at once, 1 to 64; the backups of one disk go one after the other
    #[arg(long, value_name = "N", default_value_t = 3)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 64>)]
    max_parallel: u32,
    #[command(flatten)]
    wait: Wait,
}

impl ReplicateAll {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartReplicateAllRequest {
            vm: s.vm(&self.vm),
            target_region: self.target_region.clone(),
            max_parallel: self.max_parallel,
        };
        let job = s.client.start_replicate_all(request).await?.into_inner();
        let (n, vm) = (job.items.len(), names::last_segment(&self.vm));
        let mut text = format!("Found {n} unreplicated {} for {vm}\n", names::backups(n));
        if n > 0 {
            let region = &self.target_region;
            let max = self.max_parallel;
            text.push_str(&format!(
                "\nReplicating to {region} in parallel (max {max} disks), the oldest backup first:\n"
            ));
        }
        s.out.text(&text);
        watch::conclude(s, job, self.wait).await
    }
}
