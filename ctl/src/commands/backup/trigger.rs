//! `azdr backup trigger`

use azdr_proto::admin::{
    BackupConfig, GetBackupConfigRequest, Job, Tier, TriggerBackupRequest, job_result,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::{TierName, tier_or_all};
use crate::cli::Wait;
use crate::error::CliError;
use crate::session::Session;
use crate::{json, names, outcome, watch};

/// Take a backup of a VM now
///
/// Its tiers follow from the date, as for scheduled backups, unless one is given. Ctrl-C ends the
/// watching; the backup goes on.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup trigger prod-db-vm --tier weekly")]
pub(crate) struct Trigger {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// Have it carry this tier
    #[arg(long, value_enum)]
    tier: Option<TierName>,
    #[command(flatten)]
    wait: Wait,
}

impl Trigger {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = TriggerBackupRequest { vm: s.vm(&self.vm), tier: tier_or_all(self.tier) };
        let job = s.client.trigger_backup(request).await?.into_inner();
        s.out.text(&format!("Creating backup for {}...", names::last_segment(&self.vm)));
        if self.wait.no_wait {
            return watch::conclude(s, job, self.wait).await;
        }
        let job = watch::to_end(s, job, self.wait).await?;
        let text = self.text(s, &job).await;
        s.out.result(json::job(&job), |_| text);
        watch::verdict(&job)
    }

    async fn text(&self, s: &mut Session, job: &Job) -> String {
        let style = s.out.out;
        let result = job.result.as_ref().and_then(|result| result.result.as_ref());
        let (true, Some(job_result::Result::Backup(result))) = (s.out.is_text(), result) else {
            return outcome::of(job, style);
        };
        let tier = result.point.as_ref().and_then(|point| point.tiers.first().copied());
        // Only decorates the answer: if it cannot be had, the backup is no less done.
        let config = s.client.get_backup_config(GetBackupConfigRequest { vm: s.vm(&self.vm) });
        let config = config.await.ok().map(tonic::Response::into_inner);
        let kept = config.zip(tier).and_then(|(config, tier)| retention(&config, tier));
        outcome::backup(job, result, kept, style)
    }
}

fn retention(config: &BackupConfig, tier: i32) -> Option<u32> {
    let kept = match Tier::try_from(tier).ok()? {
        Tier::Unspecified => 0,
        Tier::Daily => config.daily_retention,
        Tier::Weekly => config.weekly_retention,
        Tier::Monthly => config.monthly_retention,
        Tier::Yearly => config.yearly_retention,
    };
    (kept > 0).then_some(kept)
}
