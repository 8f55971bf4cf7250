//! `azdr vm list`

use azdr_proto::admin::{ListVmsRequest, ListVmsResponse};
use clap::Args;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::names::or_dash;
use crate::output::rows;
use crate::quantity::{minute, size};
use crate::session::Session;
use crate::table::Table;
use crate::{json, names};

/// List the VMs in the controller's subscriptions, and how each is protected
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  azdr vm list\n  azdr vm list --output csv > vms.csv")]
pub(crate) struct List {
    #[command(flatten)]
    again: Again,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_vms(ListVmsRequest {}).await?.into_inner();
            Ok(s.out.many(&rows::VMS, json::vms(&answer), |_| text(&answer)))
        })
        .await
    }
}

fn text(answer: &ListVmsResponse) -> String {
    if answer.vms.is_empty() {
        return "No VMs in the controller's subscriptions".to_owned();
    }
    let mut table = Table::new(&[
        "NAME",
        "RESOURCE GROUP",
        "REGION",
        "POWER",
        "DISKS",
        "SIZE",
        "PROTECTED",
        "AGENT",
        "BACKUPS",
        "NEWEST (UTC)",
    ]);
    for vm in &answer.vms {
        table.row([
            vm.name.clone(),
            vm.resource_group.clone(),
            vm.location.clone(),
            or_dash(Some(vm.power_state.clone())),
            vm.disks.to_string(),
            size(vm.size_bytes),
            if vm.protected { "yes" } else { "no" }.to_owned(),
            or_dash(names::agent_state(vm.agent)).replace('_', " "),
            vm.recovery_points.to_string(),
            minute(vm.newest_recovery_point_unix_ms),
        ]);
    }
    table.render("")
}
