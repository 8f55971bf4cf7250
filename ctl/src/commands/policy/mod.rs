//! `azdr policy …`

pub(crate) mod diff;
pub(crate) mod list;
pub(crate) mod next;
pub(crate) mod show;
pub(crate) mod simulate;

use azdr_proto::admin::BackupConfig;
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Policy {
    Show(show::Show),
    List(list::List),
    Next(next::Next),
    Simulate(simulate::Simulate),
    Diff(diff::Diff),
}

/// "7 daily, 4 weekly, 12 monthly".
fn retention(config: &BackupConfig) -> String {
    let tiers = [
        (config.daily_retention, "daily"),
        (config.weekly_retention, "weekly"),
        (config.monthly_retention, "monthly"),
        (config.yearly_retention, "yearly"),
    ];
    let kept = tiers.iter().filter(|(n, _)| *n > 0).map(|(n, tier)| format!("{n} {tier}"));
    kept.collect::<Vec<_>>().join(", ")
}

/// The retention, and where copies go.
fn summary(config: &BackupConfig) -> String {
    let copies = match config.target_region.as_str() {
        "" => String::new(),
        region => format!(", copied to {region}"),
    };
    format!("{} at {} {}{copies}", retention(config), config.schedule_time, config.time_zone)
}
