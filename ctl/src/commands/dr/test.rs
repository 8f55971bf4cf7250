//! `azdr dr test`

use azdr_proto::admin::StartDrTestRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::{names, watch};

/// Boot a VM from a backup in an isolated network, check it, measure the time, clean up
///
/// The protected VM is not touched. A test that does not pass exits with 1.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr dr test prod-db-vm \
    --backup prod-db-vm-backup-weekly-20251124-0800 --test-region westus2")]
pub(crate) struct Test {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// The backup, as `azdr backup show` takes it; the newest one restorable in the test region if not
    /// given
    #[arg(long, value_name = "POINT", value_parser = NonEmptyStringValueParser::new())]
    backup: Option<String>,
    /// Region to test in; the target region of the VM's backups if not given
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    test_region: Option<String>,
    /// Resource group to test in; one of its own, deleted afterwards, if not given
    #[arg(long, value_name = "GROUP", value_parser = NonEmptyStringValueParser::new())]
    test_resource_group: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

impl Test {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = StartDrTestRequest {
            vm: s.vm(&self.vm),
            recovery_point: self.backup.unwrap_or_default(),
            test_region: self.test_region.unwrap_or_default(),
            test_resource_group: self.test_resource_group.unwrap_or_default(),
        };
        let job = s.client.start_dr_test(request).await?.into_inner();
        s.out.text(&format!("Starting DR test for {}...", names::last_segment(&self.vm)));
        watch::conclude(s, job, self.wait).await
    }
}
