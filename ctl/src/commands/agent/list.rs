//! `azdr agent list`

use azdr_proto::admin::{Agent, ListAgentsRequest, ListAgentsResponse};
use clap::Args;

use crate::again::{self, Again};
use crate::error::CliError;
use crate::names::or_dash;
use crate::output::rows;
use crate::quantity::minute;
use crate::session::Session;
use crate::table::Table;
use crate::{json, names};

/// List the agents: which are connected, which can freeze, which run where they should not
///
/// PREFLIGHT is what the agent last said of whether its VM could be frozen: it looks whenever it connects
/// and daily. `azdr agent preflight VM` has it look again and shows everything.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr agent list")]
pub(crate) struct List {
    #[command(flatten)]
    again: Again,
}

impl List {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        again::show(s, self.again, async |s: &mut Session| {
            let answer = s.client.list_agents(ListAgentsRequest {}).await?.into_inner();
            Ok(s.out.many(&rows::AGENTS, json::agents(&answer), |_| text(&answer)))
        })
        .await
    }
}

fn text(answer: &ListAgentsResponse) -> String {
    if answer.agents.is_empty() {
        return "No agents\nEnrol one: azdr agent token VM".to_owned();
    }
    let mut table = Table::new(&[
        "VM",
        "STATE",
        "CAN FREEZE",
        "VERSION",
        "LAST SEEN (UTC)",
        "CERTIFICATE UNTIL",
        "PREFLIGHT",
        "NOTE",
    ]);
    for agent in &answer.agents {
        table.row([
            agent.vm_name.clone(),
            or_dash(names::agent_state(agent.state)).replace('_', " "),
            if agent.can_freeze { "yes" } else { "no" }.to_owned(),
            or_dash(Some(agent.version.clone())),
            minute(agent.last_seen_unix_ms),
            minute(agent.certificate_expires_unix_ms),
            verdict(agent).to_owned(),
            note(agent),
        ]);
    }
    table.render("")
}

fn note(agent: &Agent) -> String {
    let instance = &agent.instance_vm_id;
    match (agent.quarantined, agent.restored_instance) {
        (true, _) => format!("QUARANTINED: restored instance {instance} that nobody asked for"),
        (false, true) => format!("restored instance {instance}"),
        (false, false) => match agent.preflight_problems.as_slice() {
            [] => String::new(),
            [only] => only.clone(),
            [first, more @ ..] => format!("{first} (and {} more)", more.len()),
        },
    }
}

/// Of the last preflight, if there was one.
fn verdict(agent: &Agent) -> &'static str {
    match (agent.preflight_unix_ms, agent.preflight_ready) {
        (0, _) => "-",
        (_, true) => "ready",
        (_, false) => "NOT READY",
    }
}
