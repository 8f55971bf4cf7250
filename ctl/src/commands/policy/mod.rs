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

use crate::names;
use crate::quantity::span;
use crate::style::Style;
use crate::table::Table;

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

/// All that a policy says, in one line.
fn summary(config: &BackupConfig) -> String {
    let mut parts =
        vec![format!("{} at {} {}", retention(config), config.schedule_time, config.time_zone)];
    if !config.target_region.is_empty() {
        parts.push(format!("copied to {}", config.target_region));
    }
    for (words, secs) in [
        ("RPO", config.rpo_secs),
        ("RTO", config.rto_secs),
        ("verified every", config.verify_every_secs),
        ("DR test every", config.drill_every_secs),
    ] {
        if secs > 0 {
            parts.push(format!("{words} {}", span(secs)));
        }
    }
    parts.join(", ")
}

/// What another policy changes, field by field: label, now, then. Empty without a present one.
fn changes(before: Option<&BackupConfig>, after: &BackupConfig) -> Vec<[String; 3]> {
    let Some(before) = before else { return vec![] };
    let (before, after) = (fields(before), fields(after));
    let changed = before.into_iter().zip(after).filter(|(then, now)| then.1 != now.1);
    changed.map(|((label, then), (_, now))| [label.to_owned(), then, now]).collect()
}

fn fields(config: &BackupConfig) -> [(&'static str, String); 9] {
    let or = |text: &str, none: &str| if text.is_empty() { none } else { text }.to_owned();
    let every = |secs: u32, none: &str| if secs == 0 { none.to_owned() } else { span(secs) };
    [
        ("Status", if config.enabled { "enabled" } else { "disabled" }.to_owned()),
        ("Retention", retention(config)),
        ("Schedule", format!("{} {}", config.schedule_time, config.time_zone)),
        ("Copied to", or(&config.target_region, "nowhere")),
        ("Consistency", names::or_dash(names::consistency_demand(config.consistency))),
        ("RPO", every(config.rpo_secs, "none")),
        ("RTO", every(config.rto_secs, "none")),
        ("Verified every", every(config.verify_every_secs, "never")),
        ("DR test every", every(config.drill_every_secs, "never")),
    ]
}

/// The changes, one in a line.
fn changed(before: Option<&BackupConfig>, after: &BackupConfig, style: Style) -> String {
    let mut table = Table::default();
    let changes = changes(before, after);
    if changes.is_empty() {
        return String::new();
    }
    for [label, then, now] in changes {
        table.row([label, format!("{then} {} {now}", style.arrow())]);
    }
    format!("  Changes:\n{}", table.render("    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_that_changes_is_named_and_no_other() {
        let before = BackupConfig {
            enabled: true,
            daily_retention: 7,
            schedule_time: "02:00".into(),
            time_zone: "UTC".into(),
            ..BackupConfig::default()
        };
        assert_eq!(changes(Some(&before), &before), [[""; 3]; 0]);
        assert_eq!(changes(None, &before), [[""; 3]; 0], "all of it is new");
        let after = BackupConfig {
            time_zone: "Europe/Berlin".into(),
            rpo_secs: 36 * 3600,
            rto_secs: 900,
            verify_every_secs: 7 * 86_400,
            drill_every_secs: 30 * 86_400,
            ..before.clone()
        };
        let changes = changes(Some(&before), &after);
        let words: Vec<String> = changes.iter().map(|c| c.join("; ")).collect();
        assert_eq!(
            words,
            [
                "Schedule; 02:00 UTC; 02:00 Europe/Berlin",
                "RPO; none; 36h",
                "RTO; none; 15m",
                "Verified every; never; 7d",
                "DR test every; never; 30d",
            ]
        );
        assert_eq!(
            summary(&after),
            "7 daily at 02:00 Europe/Berlin, RPO 36h, RTO 15m, verified every 7d, DR test every 30d"
        );
    }
}
