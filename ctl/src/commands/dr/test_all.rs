//! `azdr dr test-all`

use azdr_proto::admin::StartDrTestAllRequest;
use clap::Args;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::watch;
use crate::whole::whole;

/// Run a DR test of every VM whose backups are copied to another region, in that region
///
/// Each VM is tested with the newest backup that is complete in its target region. The protected VMs are
/// not touched. Exits with 1 if any test does not pass or cannot be started. Ctrl-C ends the watching;
/// the tests go on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr dr test-all --resource-group Production-VMs")]
pub(crate) struct TestAll {
    /// How many to test at once, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(allow_negative_numbers = true, value_parser = whole::<1, 64>)]
    max_parallel: u32,
    #[command(flatten)]
    wait: Wait,
}

impl TestAll {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let (resource_group, max_parallel) = (s.resource_group().to_owned(), self.max_parallel);
        let request = StartDrTestAllRequest { resource_group, max_parallel };
        let job = s.client.start_dr_test_all(request).await?.into_inner();
        s.out.text("Running DR tests...\n");
        watch::conclude(s, job, self.wait).await
    }
}
