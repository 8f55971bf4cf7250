//! `azdr policy list`

use azdr_proto::admin::{BackupConfig, ListPoliciesRequest, ListPoliciesResponse, VmSelector};
use clap::Args;

use super::{group_of, retention};
use crate::again::{self, Again};
use crate::error::CliError;
use crate::output::rows;
use crate::quantity::{dollars, minute};
use crate::session::Session;
use crate::table::Table;
use crate::{json, names};

/// List all policies, also of VMs that are gone from Azure, and the VMs that no policy covers
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr policy list")]
pub(crate) struct List {
    #[command(flatten)]
    again: Again,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_policies(ListPoliciesRequest {}).await?.into_inner();
            Ok(s.out.many(&rows::POLICIES, json::policies(&answer), |_| text(&answer)))
        })
        .await
    }
}

fn text(answer: &ListPoliciesResponse) -> String {
    let mut text = String::new();
    if answer.policies.is_empty() {
        text.push_str("No VM has a backup policy. Set one: azdr backup configure VM\n");
    } else {
        text.push_str(&policies(&answer.policies));
    }
    if !answer.named.is_empty() {
        let mut table = Table::new(&["POLICY", "KEEPS", "VMS", "FOR VMS WITH"]);
        for named in &answer.named {
            let policy = named.policy.clone().unwrap_or_default();
            let kept = retention(&super::kept(&policy));
            let vms = named.vms.to_string();
            let select = named.select.as_ref().map(selector).unwrap_or_default();
            table.row([named.name.clone(), kept, vms, select]);
        }
        text.push_str(&format!("\nNamed policies:\n{}", table.render("  ")));
    }
    if !answer.uncovered_unknown.is_empty() {
        let why = &answer.uncovered_unknown;
        text.push_str(&format!("\nWhich VMs are not covered is not known: {why}\n"));
    } else if !answer.uncovered.is_empty() {
        let mut table = Table::new(&["VM", "RESOURCE GROUP", "REGION", "WHY"]);
        for vm in &answer.uncovered {
            table.row([
                vm.vm_name.clone(),
                vm.resource_group.clone(),
                names::or_dash(Some(vm.location.clone())),
                vm.reason.clone(),
            ]);
        }
        let n = answer.uncovered.len();
        text.push_str(&format!("\nNOT COVERED by any policy ({n}):\n{}", table.render("  ")));
    }
    text
}

fn policies(policies: &[BackupConfig]) -> String {
    let mut table = Table::new(&[
        "VM",
        "RESOURCE GROUP",
        "STATUS",
        "KEEPS",
        "SCHEDULE",
        "COPIES TO",
        "NEXT RUN (UTC)",
        "PER MONTH",
        "FROM",
    ]);
    for policy in policies {
        let from = match policy.origin.as_str() {
            "" => "by hand".to_owned(),
            name => format!("policy {name}"),
        };
        table.row([
            policy.vm_name.clone(),
            names::or_dash(group_of(&policy.vm_resource_id).map(str::to_owned)),
            if policy.enabled { "enabled" } else { "disabled" }.to_owned(),
            retention(policy),
            format!("{} {}", policy.schedule_time, policy.time_zone),
            names::or_dash(Some(policy.target_region.clone())),
            minute(policy.next_run_unix_ms),
            policy
                .cost_when_filled
                .as_ref()
                .map_or_else(|| "-".to_owned(), |c| format!("~${}", dollars(c.total_usd_cents))),
            from,
        ]);
    }
    let n = policies.len();
    let noun = if n == 1 { "policy" } else { "policies" };
    let notes: String = policies.iter().flat_map(notes).collect();
    format!(
        "{}\n{n} {noun}. Costs are estimates with every tier filled: azdr backup cost VM\n{notes}",
        table.render("")
    )
}

/// What is wrong with a policy that is stored well.
fn notes(policy: &BackupConfig) -> Vec<String> {
    let vm = &policy.vm_name;
    let mut notes = vec![];
    if !policy.origin_problem.is_empty() {
        notes.push(format!("  {vm}: {}\n", policy.origin_problem));
    }
    if let Some(drift) = &policy.tag_drift {
        notes.push(format!("  {vm}: {}\n", drift.words));
    } else if !policy.tag_written && !policy.tag_problem.is_empty() {
        notes.push(format!("  {vm}: its tag is not written: {}\n", policy.tag_problem));
    }
    notes
}

/// "resource group prod, tag backup=gold".
fn selector(select: &VmSelector) -> String {
    let mut words = vec![];
    if !select.resource_group.is_empty() {
        words.push(format!("resource group {}", select.resource_group));
    }
    let tags: std::collections::BTreeMap<_, _> = select.tags.iter().collect();
    words.extend(tags.into_iter().map(|(name, value)| format!("tag {name}={value}")));
    words.join(", ")
}
