//! `azdr backup verify-all`

use azdr_proto::admin::StartVerifyAllRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::whole::whole;
use crate::{names, watch};

/// Verify all backups of a VM that are not proved yet, each as `azdr backup verify` does
///
/// The newest goes first. Exits with 1 if any verification fails. Ctrl-C ends the watching; the
/// verifications go on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup verify-all prod-db-vm --max-parallel 2")]
pub(crate) struct VerifyAll {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// How many to verify at once, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 64>)]
    max_parallel: u32,
    #[command(flatten)]
    wait: Wait,
}

impl VerifyAll {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let (vm, max_parallel) = (s.vm(&self.vm), self.max_parallel);
        let request = StartVerifyAllRequest { vm, max_parallel };
        let job = s.client.start_verify_all(request).await?.into_inner();
        let (n, vm) = (job.items.len(), names::last_segment(&self.vm));
        let mut text = format!("Found {n} unverified {} for {vm}\n", names::backups(n));
        if n > 0 {
            text.push_str(&format!("\nVerifying in parallel (max {max_parallel}):\n"));
        }
        s.out.text(&text);
        watch::conclude(s, job, self.wait).await
    }
}
