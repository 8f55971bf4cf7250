//! `azdr backup …`

pub(crate) mod config_show;
pub(crate) mod configure;
pub(crate) mod cost;
pub(crate) mod delete;
pub(crate) mod disable;
pub(crate) mod explain;
pub(crate) mod list;
pub(crate) mod pin;
pub(crate) mod replicate;
pub(crate) mod replicate_all;
pub(crate) mod replication_jobs;
pub(crate) mod replication_status;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod trigger;
pub(crate) mod unpin;
pub(crate) mod verification_report;
pub(crate) mod verify;
pub(crate) mod verify_all;

use azdr_proto::admin::{ListRecoveryPointsRequest, RecoveryPoint, Tier, VmRef};
use clap::{Subcommand, ValueEnum};

use crate::error::CliError;
use crate::session::Session;

#[derive(Subcommand, Debug)]
pub(crate) enum Backup {
    Configure(configure::Configure),
    ConfigShow(config_show::ConfigShow),
    Disable(disable::Disable),
    Trigger(trigger::Trigger),
    List(list::List),
    Show(show::Show),
    Restore(restore::Restore),
    Replicate(replicate::Replicate),
    ReplicateAll(replicate_all::ReplicateAll),
    ReplicationStatus(replication_status::ReplicationStatus),
    ReplicationJobs(replication_jobs::ReplicationJobs),
    Verify(verify::Verify),
    VerifyAll(verify_all::VerifyAll),
    VerificationReport(verification_report::VerificationReport),
    Pin(pin::Pin),
    Unpin(unpin::Unpin),
    Delete(delete::Delete),
    Explain(explain::Explain),
    Cost(cost::Cost),
}

/// A retention tier on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum TierName {
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

impl From<TierName> for Tier {
    fn from(name: TierName) -> Self {
        match name {
            TierName::Daily => Self::Daily,
            TierName::Weekly => Self::Weekly,
            TierName::Monthly => Self::Monthly,
            TierName::Yearly => Self::Yearly,
        }
    }
}

fn tier_or_all(name: Option<TierName>) -> i32 {
    name.map_or(Tier::Unspecified, Tier::from) as i32
}

/// All recovery points of a VM, newest first.
async fn all_points(s: &mut Session, vm: Option<VmRef>) -> Result<Vec<RecoveryPoint>, CliError> {
    let request =
        ListRecoveryPointsRequest { vm, tier: Tier::Unspecified as i32, since_unix_ms: 0 };
    Ok(s.client.list_recovery_points(request).await?.into_inner().points)
}
