//! `azdr backup configure`

use azdr_proto::admin::{BackupConfig, ConfigureBackupRequest, ConsistencyDemand};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::error::CliError;
use crate::json;
use crate::quantity::count;
use crate::session::Session;
use crate::style::Style;
use crate::whole::whole;

/// Set up or change a VM's backups: schedule, retention, replication
///
/// What is not given stays as it is or, for a VM that had no backups yet, takes its default.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup configure critical-vm --daily-retention 7 \
    --weekly-retention 4 --monthly-retention 12 --cross-region --target-region westus2")]
pub(crate) struct Configure {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// For how many days to keep daily backups, 0 to 3650; 0 for none
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 3650>)]
    daily_retention: Option<u32>,
    /// For how many weeks to keep weekly backups, 0 to 520; 0 for none
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 520>)]
    weekly_retention: Option<u32>,
    /// For how many months to keep monthly backups, 0 to 240; 0 for none
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 240>)]
    monthly_retention: Option<u32>,
    /// For how many years to keep yearly backups, 0 to 100; 0 for none
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 100>)]
    yearly_retention: Option<u32>,
    /// Copy each backup to the target region
    #[arg(long, conflicts_with = "no_cross_region")]
    cross_region: bool,
    /// End the copying; existing copies are kept
    #[arg(long)]
    no_cross_region: bool,
    /// Region of the copies, other than the VM's own; switches the copying on
    #[arg(long, value_name = "REGION", conflicts_with = "no_cross_region", value_parser = NonEmptyStringValueParser::new())]
    target_region: Option<String>,
    /// When the daily run is due, in the time zone
    #[arg(long, value_name = "HH:MM", value_parser = NonEmptyStringValueParser::new())]
    time: Option<String>,
    /// IANA time zone of the schedule, such as Europe/Berlin
    #[arg(long, value_name = "TZ", value_parser = NonEmptyStringValueParser::new())]
    time_zone: Option<String>,
    /// What to do when file systems cannot be frozen
    #[arg(long, value_enum, value_name = "DEMAND")]
    consistency: Option<Demand>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Demand {
    /// Fail, and leave nothing behind
    Require,
    /// Take the backup all the same, and record what was achieved
    Prefer,
    /// Never freeze
    Any,
}

impl Demand {
    /// As the interface says it.
    pub(crate) fn wire(self) -> i32 {
        match self {
            Self::Require => ConsistencyDemand::Require.into(),
            Self::Prefer => ConsistencyDemand::Prefer.into(),
            Self::Any => ConsistencyDemand::Any.into(),
        }
    }
}

impl Configure {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let on = (self.cross_region || self.target_region.is_some()).then_some(true);
        let request = ConfigureBackupRequest {
            vm: s.vm(&self.vm),
            daily_retention: self.daily_retention,
            weekly_retention: self.weekly_retention,
            monthly_retention: self.monthly_retention,
            yearly_retention: self.yearly_retention,
            cross_region: if self.no_cross_region { Some(false) } else { on },
            target_region: self.target_region,
            schedule_time: self.time,
            time_zone: self.time_zone,
            consistency: self.consistency.map(Demand::wire),
        };
        let config = s.client.configure_backup(request).await?.into_inner();
        s.out.result(json::backup_config(&config), |style| text(&config, style));
        if !config.tag_written {
            let warning = s.out.err.warning();
            s.out.words(&format!(
                "{warning}: the configuration is saved, but not mirrored in the VM's tag \
                 azlin:backup-schedule: {}",
                config.tag_problem
            ));
        }
        Ok(())
    }
}

/// What each tier keeps, for the tiers that are on: label, unit, count.
pub(super) fn retention(config: &BackupConfig) -> Vec<(&'static str, String)> {
    [
        ("Daily", "day", config.daily_retention),
        ("Weekly", "week", config.weekly_retention),
        ("Monthly", "month", config.monthly_retention),
        ("Yearly", "year", config.yearly_retention),
    ]
    .into_iter()
    .filter(|(_, _, n)| *n > 0)
    .map(|(label, unit, n)| (label, count(n, unit)))
    .collect()
}

/// "enabled → westus2".
pub(super) fn cross_region(config: &BackupConfig, style: Style) -> String {
    match config.target_region.as_str() {
        "" => "disabled".to_owned(),
        region => format!("enabled {} {region}", style.arrow()),
    }
}

pub(super) fn text(config: &BackupConfig, style: Style) -> String {
    let sentence = format!("Backup schedule configured for {}", config.vm_name);
    let mut text = format!("{}\n", style.headline(true, &sentence));
    for (label, kept) in retention(config) {
        text.push_str(&format!("  {label} retention: {kept}\n"));
    }
    text.push_str(&format!("  Cross-region replication: {}\n", cross_region(config, style)));
    if let Some(cost) = &config.cost_when_filled {
        text.push_str(&format!("  Cost: {}\n", super::cost::line(cost)));
    }
    if config.tag_written {
        text.push_str("\nConfiguration saved to VM tags (azlin:backup-schedule)\n");
    }
    text
}
