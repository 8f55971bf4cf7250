//! `azdr policy diff`

use azdr_proto::admin::{DiffPolicyRequest, PolicyDiff, PolicyDiffEntry, PolicyDiffKind};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use super::summary;
use crate::commands::backup::explain;
use crate::error::CliError;
use crate::new_policy::NewPolicy;
use crate::output::rows;
use crate::quantity::minute;
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names};

/// Show what another policy would delete at once, keep longer, or keep shorter; nothing is changed
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr policy diff prod-db-vm --daily 3 --weekly 8\n  \
    azdr policy diff prod-db-vm -f new.yaml")]
pub(crate) struct Diff {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    #[command(flatten)]
    policy: NewPolicy,
}

impl Diff {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = DiffPolicyRequest { policy: Some(self.policy.request(s.vm(&self.vm))?) };
        let answer = s.client.diff_policy(request).await?.into_inner();
        let document = json::policy_diff(&answer);
        s.out.show(&s.out.many(&rows::DIFFERENCES, document, |style| text(&answer, style)));
        Ok(())
    }
}

fn text(answer: &PolicyDiff, style: Style) -> String {
    let mut text = format!("Policy of {}\n", answer.vm_name);
    let before = answer.before.as_ref().map_or_else(|| "none".to_owned(), summary);
    text.push_str(&format!("  Now: {before}\n"));
    text.push_str(&format!("  New: {}\n", answer.after.as_ref().map(summary).unwrap_or_default()));
    if !answer.deletions_held.is_empty() {
        let held = &answer.deletions_held;
        text.push_str(&format!("{}: {held}\n", style.warning()));
    }
    let of = |kind: PolicyDiffKind| -> Vec<&PolicyDiffEntry> {
        answer.entries.iter().filter(|e| e.kind == kind as i32).collect()
    };
    let at_once = of(PolicyDiffKind::AtOnce);
    if !at_once.is_empty() {
        let n = at_once.len();
        text.push_str(&format!("\nDeleted at once, after the next backup ({n}):\n"));
        let mut table = Table::new(&["BACKUP", "REGION", "CREATED", "TIERS", "WHY"]);
        for entry in at_once {
            let anyway = if entry.anyway { " (so does the present policy)" } else { "" };
            let [name, region, created, tiers] = start(entry, &answer.vm_name);
            table.row([name, region, created, tiers, format!("{}{anyway}", entry.reason)]);
        }
        text.push_str(&table.render("  "));
    }
    for (kind, title) in
        [(PolicyDiffKind::Shorter, "Kept shorter"), (PolicyDiffKind::Longer, "Kept longer")]
    {
        let entries = of(kind);
        if entries.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{title} ({}):\n", entries.len()));
        let mut table = Table::new(&["BACKUP", "REGION", "CREATED", "TIERS", "NOW UNTIL", "THEN"]);
        for entry in entries {
            let [name, region, created, tiers] = start(entry, &answer.vm_name);
            let (now, then) = (explain::until(&entry.before), explain::until(&entry.after));
            table.row([name, region, created, tiers, now, then]);
        }
        text.push_str(&table.render("  "));
    }
    text.push_str(&format!(
        "\n{} of the existing backups and copies change nothing\n",
        answer.unchanged
    ));
    text
}

fn start(entry: &PolicyDiffEntry, vm: &str) -> [String; 4] {
    let tiers: Vec<String> = entry.tiers.iter().filter_map(|t| names::tier(*t)).collect();
    [
        names::short_point(&entry.recovery_point, vm).to_owned(),
        entry.region.clone(),
        minute(entry.created_unix_ms),
        tiers.join(", "),
    ]
}
