//! `azdr backup configure`

use azdr_proto::admin::{BackupConfig, ConfigureBackupRequest, ConsistencyDemand};
use clap::builder::NonEmptyStringValueParser;
use clap::{Args, ValueEnum};

use crate::error::CliError;
use crate::json;
use crate::quantity::{count, span};
use crate::session::Session;
use crate::since;
use crate::style::Style;
use crate::whole::whole;

/// Set up or change a VM's backups: schedule, retention, copies, objectives
///
/// What is not given stays as it is. A VM that is configured for the first time begins with 7 daily
/// backups and no others, at 02:00 UTC, without copies, with consistency `prefer`, and without
/// objectives or scheduled proofs.
///
/// Retention counts periods, not age: 7 daily backups are those of the newest 7 days that have one.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  azdr backup configure critical-vm --daily-retention 7 \\\n      \
    --weekly-retention 4 --monthly-retention 12 --cross-region --target-region westus2\n  \
    azdr backup configure critical-vm --schedule \"daily 02:30\" --time-zone Europe/Berlin \\\n      \
    --rpo 36h --rto 15m --verify-every 7d --drill-every 30d"
)]
pub(crate) struct Configure {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// Of how many days to keep the daily backups, 0 (none) to 3650
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 3650>)]
    daily_retention: Option<u32>,
    /// Of how many weeks to keep the weekly backups, 0 (none) to 520
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 520>)]
    weekly_retention: Option<u32>,
    /// Of how many months to keep the monthly backups, 0 (none) to 240
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 240>)]
    monthly_retention: Option<u32>,
    /// Of how many years to keep the yearly backups, 0 (none) to 100
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<0, 100>)]
    yearly_retention: Option<u32>,
    /// Copy each backup to another region; needs --target-region, unless the VM has one already
    #[arg(long, conflicts_with = "no_cross_region")]
    cross_region: bool,
    /// Make no more copies; existing ones are kept
    #[arg(long)]
    no_cross_region: bool,
    /// Region for the copies, other than the VM's own; implies --cross-region
    #[arg(long, value_name = "REGION", conflicts_with = "no_cross_region", value_parser = NonEmptyStringValueParser::new())]
    target_region: Option<String>,
    /// When a backup is due, in the time zone of --time-zone: "daily HH:MM"
    #[arg(long, value_name = "WHEN", conflicts_with = "time", value_parser = schedule)]
    schedule: Option<String>,
    /// The same as --schedule "daily HH:MM"
    #[arg(long, value_name = "HH:MM", value_parser = NonEmptyStringValueParser::new())]
    time: Option<String>,
    /// IANA time zone of the schedule, such as Europe/Berlin
    #[arg(long, value_name = "TZ", value_parser = NonEmptyStringValueParser::new())]
    time_zone: Option<String>,
    /// What to do if the VM's file systems cannot be frozen
    #[arg(long, value_enum, value_name = "DEMAND")]
    consistency: Option<Demand>,
    #[command(flatten)]
    spans: Spans,
}

/// Objectives and proofs, as flags.
#[derive(Args, Debug)]
pub(crate) struct Spans {
    /// Objective: how old the newest restorable backup may get, 5m to 366d (m, h, d or w), or none
    #[arg(long, value_name = "SPAN", value_parser = bounded::<300, 31_622_400>)]
    pub(crate) rpo: Option<u32>,
    /// Objective: how long a restore may take, 1m to 7d, or none
    #[arg(long, value_name = "SPAN", value_parser = bounded::<60, 604_800>)]
    pub(crate) rto: Option<u32>,
    /// How often to verify the newest backup that is not proved, 1h to 366d, or none
    #[arg(long, value_name = "SPAN", value_parser = bounded::<3600, 31_622_400>)]
    pub(crate) verify_every: Option<u32>,
    /// How often to hold a DR test, in the target region or else in the VM's own, 1h to 366d, or none
    #[arg(long, value_name = "SPAN", value_parser = bounded::<3600, 31_622_400>)]
    pub(crate) drill_every: Option<u32>,
}

/// Seconds between two bounds; 0 for "none".
fn bounded<const LEAST: u32, const MOST: u32>(text: &str) -> Result<u32, String> {
    if text == "none" {
        return Ok(0);
    }
    let secs = since::span(text).ok().and_then(|d| u32::try_from(d.as_secs()).ok());
    secs.filter(|secs| (LEAST..=MOST).contains(secs)).ok_or_else(|| {
        let (least, most) = (span(LEAST), span(MOST));
        format!("must be {least} to {most}, a number with m, h, d or w, or none")
    })
}

/// The time of "daily HH:MM", which the controller checks.
fn schedule(text: &str) -> Result<String, String> {
    let time = text.strip_prefix("daily ").filter(|time| !time.trim().is_empty());
    time.map(str::to_owned)
        .ok_or_else(|| "must be \"daily HH:MM\", like \"daily 02:30\"".to_owned())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Demand {
    /// The backup fails, and leaves nothing behind
    Require,
    /// It is taken all the same, and records what was achieved
    Prefer,
    /// They are never frozen
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
            schedule_time: self.schedule.or(self.time),
            time_zone: self.time_zone,
            consistency: self.consistency.map(Demand::wire),
            rpo_secs: self.spans.rpo,
            rto_secs: self.spans.rto,
            verify_every_secs: self.spans.verify_every,
            drill_every_secs: self.spans.drill_every,
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
        warn(s, &config);
        Ok(())
    }
}

/// What the controller wants to be known.
pub(crate) fn warn(s: &Session, config: &BackupConfig) {
    for words in &config.warnings {
        s.out.words(&format!("{}: {words}", s.out.err.warning()));
    }
}

/// Objectives and proofs, for those that are set: label, value.
pub(super) fn spans(config: &BackupConfig) -> Vec<(&'static str, String)> {
    let objectives: Vec<String> = [("RPO", config.rpo_secs), ("RTO", config.rto_secs)]
        .into_iter()
        .filter(|(_, secs)| *secs > 0)
        .map(|(name, secs)| format!("{name} {}", span(secs)))
        .collect();
    let every = |secs: u32| (secs > 0).then(|| format!("every {}", span(secs)));
    [
        ("Objectives", Some(objectives.join(", ")).filter(|words| !words.is_empty())),
        ("Verification", every(config.verify_every_secs)),
        ("DR tests", every(config.drill_every_secs)),
    ]
    .into_iter()
    .filter_map(|(label, words)| Some((label, words?)))
    .collect()
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
    for (label, words) in spans(config) {
        text.push_str(&format!("  {label}: {words}\n"));
    }
    if let Some(cost) = &config.cost_when_filled {
        text.push_str(&format!("  Cost: {}\n", super::cost::line(cost)));
    }
    if config.tag_written {
        text.push_str("\nConfiguration saved to VM tags (azlin:backup-schedule)\n");
    }
    text
}
