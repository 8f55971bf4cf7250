//! How a command line names a recovery point.

use azdr_proto::admin::{Job, VmRef};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::session::Session;

/// A recovery point, and its VM where that has to be said.
#[derive(Args, Debug)]
pub(crate) struct WhichPoint {
    /// The backup, by its name (prod-db-vm-backup-daily-20251201-0800). Any tier that it carries may stand
    /// in the name, and the time may be left out if the day has one such backup only
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) point: String,
    /// Name of the VM, for a backup's name that several VMs have; daily-20251201 or 20251201 is then
    /// enough of a name
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
