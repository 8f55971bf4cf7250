//! `azdr policy …`

pub(crate) mod apply;
pub(crate) mod diff;
pub(crate) mod follow;
pub(crate) mod list;
pub(crate) mod next;
pub(crate) mod schema;
pub(crate) mod show;
pub(crate) mod simulate;

use azdr_proto::admin::{BackupConfig, ConfigureBackupRequest};
use clap::Subcommand;

#[derive(Subcommand, Debug)]
pub(crate) enum Policy {
    Show(show::Show),
    List(list::List),
    Next(next::Next),
    Simulate(simulate::Simulate),
    Diff(diff::Diff),
    Apply(apply::Apply),
    Follow(follow::Follow),
    Schema(schema::Schema),
}

/// The resource group in a VM's resource ID.
fn group_of(resource_id: &str) -> Option<&str> {
    let mut parts = resource_id.split('/');
    parts.by_ref().find(|p| p.eq_ignore_ascii_case("resourceGroups"))?;
    parts.next()
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

/// A named policy's retention, in the shape of a VM's.
fn kept(policy: &ConfigureBackupRequest) -> BackupConfig {
    BackupConfig {
        daily_retention: policy.daily_retention.unwrap_or_default(),
        weekly_retention: policy.weekly_retention.unwrap_or_default(),
        monthly_retention: policy.monthly_retention.unwrap_or_default(),
        yearly_retention: policy.yearly_retention.unwrap_or_default(),
        ..BackupConfig::default()
    }
}

/// The retention, and where copies go.
fn summary(config: &BackupConfig) -> String {
    let copies = match config.target_region.as_str() {
        "" => String::new(),
        region => format!(", copied to {region}"),
    };
    format!("{} at {} {}{copies}", retention(config), config.schedule_time, config.time_zone)
}
