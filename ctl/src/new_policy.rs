//! The flags of a policy that is only thought of: nothing is changed by them.

use std::path::PathBuf;

use azdr_proto::admin::{ConfigureBackupRequest, VmRef};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::commands::backup::configure::Demand;
use crate::error::CliError;
use crate::policy_file;
use crate::whole::whole;

/// What is not given stays as it is in the VM's policy.
#[derive(Args, Debug)]
#[command(next_help_heading = "New policy; what is not given stays as it is")]
pub(crate) struct NewPolicy {
    /// A YAML file with some of daily, weekly, monthly, yearly, time, time_zone, consistency and
    /// target_region; `azdr policy show` prints one
    #[arg(long = "policy", short = 'f', value_name = "FILE", conflicts_with_all = [
        "daily", "weekly", "monthly", "yearly", "target_region", "no_cross_region", "time",
        "time_zone", "consistency",
    ])]
    file: Option<PathBuf>,
    /// For how many days to keep daily backups, 0 to 3650
    #[arg(long, visible_alias = "daily-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 3650>)]
    daily: Option<u32>,
    /// For how many weeks to keep weekly backups, 0 to 520
    #[arg(long, visible_alias = "weekly-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 520>)]
    weekly: Option<u32>,
    /// For how many months to keep monthly backups, 0 to 240
    #[arg(long, visible_alias = "monthly-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 240>)]
    monthly: Option<u32>,
    /// For how many years to keep yearly backups, 0 to 100
    #[arg(long, visible_alias = "yearly-retention", value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 100>)]
    yearly: Option<u32>,
    /// Region of the copies
    #[arg(long, value_name = "REGION", conflicts_with = "no_cross_region", value_parser = NonEmptyStringValueParser::new())]
    target_region: Option<String>,
    /// No copies
    #[arg(long)]
    no_cross_region: bool,
    /// When the daily run is due, in the time zone
    #[arg(long, value_name = "HH:MM", value_parser = NonEmptyStringValueParser::new())]
    time: Option<String>,
    /// IANA time zone of the schedule
    #[arg(long, value_name = "TZ", value_parser = NonEmptyStringValueParser::new())]
    time_zone: Option<String>,
    /// What to do when file systems cannot be frozen: require, prefer or any
    #[arg(long, value_enum, value_name = "DEMAND", hide_possible_values = true)]
    consistency: Option<Demand>,
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
        })
    }
}
