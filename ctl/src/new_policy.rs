//! The flags of a policy that is only thought of: nothing is changed by them.

use std::path::PathBuf;

use azdr_proto::admin::{ConfigureBackupRequest, VmRef};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::commands::backup::configure::{Demand, Spans};
use crate::error::CliError;
use crate::policy_file;
use crate::whole::whole;

/// What is not given stays as it is in the VM's policy.
#[derive(Args, Debug)]
#[command(next_help_heading = "New policy; what is not given stays as it is")]
pub(crate) struct NewPolicy {
    /// A YAML file with some of the fields that `azdr policy show` prints
    #[arg(long = "policy", short = 'f', value_name = "FILE", conflicts_with_all = [
        "daily", "weekly", "monthly", "yearly", "target_region", "no_cross_region", "time",
        "time_zone", "consistency", "rpo", "rto", "verify_every", "drill_every",
    ])]
    file: Option<PathBuf>,
    /// Of how many days to keep the daily backups, 0 (none) to 3650
    #[arg(long, visible_alias = "daily-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 3650>)]
    daily: Option<u32>,
    /// Of how many weeks to keep the weekly backups, 0 (none) to 520
    #[arg(long, visible_alias = "weekly-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 520>)]
    weekly: Option<u32>,
    /// Of how many months to keep the monthly backups, 0 (none) to 240
    #[arg(long, visible_alias = "monthly-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 240>)]
    monthly: Option<u32>,
    /// Of how many years to keep the yearly backups, 0 (none) to 100
    #[arg(long, visible_alias = "yearly-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 100>)]
    yearly: Option<u32>,
    /// Region for the copies, other than the VM's own
    #[arg(long, value_name = "REGION", conflicts_with = "no_cross_region", value_parser = NonEmptyStringValueParser::new())]
    target_region: Option<String>,
    /// Make no more copies
    #[arg(long)]
    no_cross_region: bool,
    /// When a backup is due, in the time zone of --time-zone
    #[arg(long, value_name = "HH:MM", value_parser = NonEmptyStringValueParser::new())]
    time: Option<String>,
    /// IANA time zone of the schedule, such as Europe/Berlin
    #[arg(long, value_name = "TZ", value_parser = NonEmptyStringValueParser::new())]
    time_zone: Option<String>,
    /// What to do if the VM's file systems cannot be frozen: require, prefer or any, as for `azdr backup
    /// configure`
    #[arg(long, value_enum, value_name = "DEMAND", hide_possible_values = true)]
    consistency: Option<Demand>,
    #[command(flatten)]
    spans: Spans,
}

impl NewPolicy {
    /// As the interface takes it.
    ///
    /// # Errors
    /// When the file cannot be read or says something that is not allowed.
    pub(crate) fn request(self, vm: Option<VmRef>) -> Result<ConfigureBackupRequest, CliError> {
        if let Some(file) = &self.file {
            return Ok(ConfigureBackupRequest { vm, ..policy_file::read(file)? });
        }
        Ok(ConfigureBackupRequest {
            vm,
            daily_retention: self.daily,
            weekly_retention: self.weekly,
            monthly_retention: self.monthly,
            yearly_retention: self.yearly,
            cross_region: match (self.no_cross_region, &self.target_region) {
                (true, _) => Some(false),
                (false, Some(_)) => Some(true),
                (false, None) => None,
            },
            target_region: self.target_region,
            schedule_time: self.time,
            time_zone: self.time_zone,
            consistency: self.consistency.map(Demand::wire),
            rpo_secs: self.spans.rpo,
            rto_secs: self.spans.rto,
            verify_every_secs: self.spans.verify_every,
            drill_every_secs: self.spans.drill_every,
        })
    }
}
