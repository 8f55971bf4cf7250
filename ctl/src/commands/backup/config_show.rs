//! `azdr backup config-show`

use azdr_proto::admin::{
    BackupConfig, GetBackupConfigRequest, Objective, ObjectiveState, TierStatus,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::configure::{OBJECTIVES, cross_region, retention, spans, warn};
use crate::again::{self, Again};
use crate::error::CliError;
use crate::names::or_dash;
use crate::quantity::{millis, minute, span};
use crate::session::Session;
use crate::style::Style;
use crate::{json, names};

/// Show a VM's backup configuration, and how many backups there are of each tier
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr backup config-show prod-db-vm")]
pub(crate) struct ConfigShow {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    #[command(flatten)]
    again: Again,
}

impl ConfigShow {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = GetBackupConfigRequest { vm: s.vm(&self.vm) };
        let mut last = BackupConfig::default();
        again::show(s, self.again, async |s: &mut Session| {
            last = s.client.get_backup_config(request.clone()).await?.into_inner();
            Ok(s.out.one(json::backup_config(&last), |style| text(&last, style)))
        })
        .await?;
        warn(s, &last);
        Ok(())
    }
}

pub(super) fn text(config: &BackupConfig, style: Style) -> String {
    let mut text = format!("Backup Configuration for {}:\n", config.vm_name);
    let status = if config.enabled { "Enabled" } else { "Disabled" };
    text.push_str(&format!("  Status: {status}\n"));
    for (label, kept) in retention(config) {
        let last = match tier(config, label).map_or(0, |tier| tier.last_unix_ms) {
            0 => "never".to_owned(),
            at => minute(at),
        };
        text.push_str(&format!("  {label} retention: {kept} (last: {last})\n"));
    }
    text.push_str(&format!("  Cross-region: {}\n", cross_region(config, style)));
    let counts: Vec<String> = config
        .tiers
        .iter()
        .filter_map(|tier| Some(format!("{}: {}", names::tier(tier.tier)?, tier.recovery_points)))
        .collect();
    let counts = match counts.as_slice() {
        [] => String::new(),
        counts => format!(" ({})", counts.join(", ")),
    };
    text.push_str(&format!("  Total backups: {}{counts}\n", config.total_recovery_points));
    let next = match config.next_run_unix_ms {
        0 => String::new(),
        at => format!(" (next: {} UTC)", minute(at)),
    };
    let (time, zone) = (&config.schedule_time, &config.time_zone);
    text.push_str(&format!("  Schedule: {time} {zone}{next}\n"));
    if let Some(demand) = names::consistency_demand(config.consistency) {
        text.push_str(&format!("  Consistency: {demand}\n"));
    }
    let judged: Vec<String> = [
        config.rpo_objective.as_ref().map(|o| objective("RPO", o, rpo(o))),
        config.rto_objective.as_ref().map(|o| objective("RTO", o, rto(o))),
    ]
    .into_iter()
    .flatten()
    .collect();
    // What is judged is not said twice.
    for (label, words) in
        spans(config).into_iter().filter(|(l, _)| judged.is_empty() || *l != OBJECTIVES)
    {
        text.push_str(&format!("  {label}: {words}\n"));
    }
    text.push_str(&judged.concat());
    if !config.origin.is_empty() {
        let problem = match config.origin_problem.as_str() {
            "" => String::new(),
            problem => format!(" ({problem})"),
        };
        text.push_str(&format!("  From: policy {}{problem}\n", config.origin));
    }
    if let Some(drift) = &config.tag_drift {
        let since = minute(drift.since_unix_ms);
        text.push_str(&format!("  VM tag: {} (since {since} UTC)\n", drift.words));
    }
    if config.gone_since_unix_ms != 0 {
        let since = minute(config.gone_since_unix_ms);
        text.push_str(&format!(
            "  VM: not in Azure any more (known since {since} UTC): no backup is begun until it is back, and \
             its tag is left alone\n"
        ));
    } else if !config.tag_written && !config.tag_problem.is_empty() {
        text.push_str(&format!("  VM tag: not written ({})\n", config.tag_problem));
    }
    text
}

/// "RTO of 15m (the default): unknown, no DR test yet".
fn objective(name: &str, objective: &Objective, why: String) -> String {
    let default = if objective.by_default { " (the default)" } else { "" };
    let target = span(objective.target_secs);
    let state = or_dash(names::objective_state(objective.state));
    format!("  {name} of {target}{default}: {state}, {why}\n")
}

fn rpo(objective: &Objective) -> String {
    match objective.measured_unix_ms {
        0 => "no restorable backup yet".to_owned(),
        at => format!("the newest restorable backup is of {}", minute(at)),
    }
}

fn rto(objective: &Objective) -> String {
    match (objective.measured_unix_ms, objective.measured_ms) {
        (0, _) => "no DR test yet".to_owned(),
        (at, 0) if objective.state() == ObjectiveState::Missed => {
            format!("the last DR test ({}) failed", minute(at))
        }
        (at, 0) => format!("the last DR test ({}) could not time it", minute(at)),
        (at, ms) => format!("the last DR test ({}) took {}", minute(at), millis(ms)),
    }
}

fn tier<'a>(config: &'a BackupConfig, label: &str) -> Option<&'a TierStatus> {
    let named = |tier: &&TierStatus| {
        names::tier(tier.tier).is_some_and(|name| name.eq_ignore_ascii_case(label))
    };
    config.tiers.iter().find(named)
}
