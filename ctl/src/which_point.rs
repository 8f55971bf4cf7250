//! How a command line names a recovery point.

use azdr_proto::admin::{Job, VmRef};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::session::Session;

/// A recovery point, and its VM where that has to be said.
#[derive(Args, Debug)]
pub(crate) struct WhichPoint {
    /// The backup: its name, or VM and time with any tier that it carries, or VM and date where one
    /// backup fits only (prod-db-vm-backup-daily-20251201)
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) point: String,
    /// Name of the VM, where the backup's name alone is not unique; then daily-20251201 or 20251201
    /// is enough
    #[arg(long, value_name = "VM", value_parser = NonEmptyStringValueParser::new())]
    vm: Option<String>,
}

impl WhichPoint {
    /// What is said of the VM: a resource group alone may be enough to tell which.
    pub(crate) fn vm(&self, s: &Session) -> Option<VmRef> {
        s.vm(self.vm.as_deref().unwrap_or_default())
    }

    /// The name of the point that the controller has found: what was typed may only describe it.
    pub(crate) fn chosen<'a>(&'a self, job: &'a Job) -> &'a str {
        if job.recovery_point.is_empty() { &self.point } else { &job.recovery_point }
    }
}
