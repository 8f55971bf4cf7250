//! `azdr policy list`

use azdr_proto::admin::{BackupConfig, ListPoliciesRequest, ListPoliciesResponse};
use clap::Args;

use super::retention;
use crate::error::CliError;
use crate::quantity::{dollars, minute};
use crate::session::Session;
use crate::table::Table;
use crate::{json, names};

/// List all policies, also those of VMs that are gone from Azure
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr policy list")]
pub(crate) struct List {}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let answer = s.client.list_policies(ListPoliciesRequest {}).await?.into_inner();
        s.out.result(json::policies(&answer), |_| text(&answer));
        Ok(())
    }
}

fn text(answer: &ListPoliciesResponse) -> String {
    if answer.policies.is_empty() {
        return "No VM has a backup policy. Set one: azdr backup configure VM\n".to_owned();
    }
    let mut table = Table::new(&[
        "VM",
        "RESOURCE GROUP",
        "STATUS",
        "KEEPS",
        "SCHEDULE",
        "COPIES TO",
        "NEXT RUN (UTC)",
        "PER MONTH",
    ]);
    for policy in &answer.policies {
        table.row([
            policy.vm_name.clone(),
            group(policy),
            if policy.enabled { "enabled" } else { "disabled" }.to_owned(),
            retention(policy),
            format!("{} {}", policy.schedule_time, policy.time_zone),
            names::or_dash(Some(policy.target_region.clone())),
            minute(policy.next_run_unix_ms),
            policy
                .cost_when_filled
                .as_ref()
                .map_or_else(|| "-".to_owned(), |c| format!("~${}", dollars(c.total_usd_cents))),
        ]);
    }
    let policies = answer.policies.len() as u32;
    let noun = if policies == 1 { "policy" } else { "policies" };
    format!(
        "{}\n{policies} {noun}. Costs are estimates with every tier filled: azdr backup cost VM\n",
        table.render("")
    )
}

/// The resource group in the VM's resource ID.
fn group(policy: &BackupConfig) -> String {
    let mut parts = policy.vm_resource_id.split('/');
    let group = parts.by_ref().find(|p| p.eq_ignore_ascii_case("resourceGroups"));
    names::or_dash(group.and_then(|_| parts.next()).map(str::to_owned))
}
