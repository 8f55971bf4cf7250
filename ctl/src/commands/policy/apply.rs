//! `azdr policy apply`

use std::path::PathBuf;

use azdr_proto::admin::{ApplyPoliciesRequest, ApplyPoliciesResponse, VmPolicyChange};
use clap::Args;

use super::group_of;
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::minute;
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;
use crate::{json, names, policy_file};

/// Set named policies, from a file, for all VMs that match their selectors, now and later
///
/// A selector is a resource group, tags, or both, and a VM must meet all of it. If several policies match
/// a VM, the one with the most conditions wins; if two have equally many, the file is refused. A policy
/// that was set with `azdr backup configure` wins over all of them. A VM that does not match any more
/// keeps its policy and its backups, and `azdr policy list` says so.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr policy apply -f policies.yaml --dry-run\n  \
    azdr policy apply -f policies.yaml\n\nA file:\n  policies:\n  - name: gold\n    select:\n      \
    resource_group: Production\n      tags: {backup: gold}\n    daily: 14\n    weekly: 8\n    \
    target_region: westus2\n    verify_every: 7d")]
pub(crate) struct Apply {
    /// The YAML file; `azdr policy schema` describes it
    #[arg(long, short = 'f', value_name = "FILE")]
    file: PathBuf,
    /// Show what would change, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove named policies that are not in the file; their VMs keep the policy that they have
    #[arg(long)]
    prune: bool,
}

impl Apply {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = ApplyPoliciesRequest {
            policies: policy_file::read_named(&self.file)?,
            prune: self.prune,
            dry_run: self.dry_run,
        };
        let answer = s.client.apply_policies(request).await?.into_inner();
        let document = json::applied(&answer);
        s.out.show(&s.out.many(&rows::APPLIED, document, |style| text(&answer, style)));
        Ok(())
    }
}

fn text(answer: &ApplyPoliciesResponse, style: Style) -> String {
    let mut text = String::new();
    let mut policies = Table::new(&["POLICY", "CHANGE", "FOR VMS WITH"]);
    for change in &answer.policies {
        let kind = names::or_dash(names::named_policy_change(change.kind));
        policies.row([change.name.clone(), kind, change.select.clone()]);
    }
    text.push_str(&policies.render(""));
    if answer.vms.is_empty() {
        text.push_str("\nNo VM matches\n");
    } else {
        let mut vms = Table::new(&["VM", "RESOURCE GROUP", "CHANGE", "POLICY", "WHY"]);
        for vm in &answer.vms {
            vms.row([
                vm.vm_name.clone(),
                names::or_dash(group_of(&vm.vm_resource_id).map(str::to_owned)),
                names::or_dash(names::vm_policy_change(vm.kind)).replace('_', " "),
                names::or_dash(Some(vm.policy.clone())),
                vm.reason.clone(),
            ]);
        }
        text.push_str(&format!("\n{}", vms.render("")));
    }
    text.push_str(&deleted(&answer.vms));
    if !answer.deletions_held.is_empty() {
        text.push_str(&format!("{}: {}\n", style.warning(), answer.deletions_held));
    }
    let sentence = if answer.dry_run {
        "Dry run: nothing was changed".to_owned()
    } else {
        style
            .headline(true, "Policies applied; new VMs that match get theirs at the next inventory")
    };
    text.push_str(&format!("\n{sentence}\n"));
    text
}

/// The backups that go at once, of all VMs.
fn deleted(vms: &[VmPolicyChange]) -> String {
    let gone: Vec<_> = vms.iter().flat_map(|vm| &vm.at_once).collect();
    if gone.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["BACKUP", "REGION", "CREATED", "TIERS", "WHY"]);
    for entry in &gone {
        let anyway = if entry.anyway { " (so does the present policy)" } else { "" };
        let tiers: Vec<String> = entry.tiers.iter().filter_map(|t| names::tier(*t)).collect();
        table.row([
            entry.recovery_point.clone(),
            entry.region.clone(),
            minute(entry.created_unix_ms),
            tiers.join(", "),
            format!("{}{anyway}", entry.reason),
        ]);
    }
    format!("\nDeleted at once, after the next backup ({}):\n{}", gone.len(), table.render("  "))
}
