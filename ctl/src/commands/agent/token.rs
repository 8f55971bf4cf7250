//! `azdr agent token`

use std::time::Duration;

use azdr_proto::admin::CreateAgentTokenRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::quantity::second;
use crate::session::Session;
use crate::{json, since};

/// Make a one-time token with which the agent of a VM enrols
///
/// The token is shown once, and works once, for this VM only.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr agent token prod-db-vm --valid-for 2h")]
pub(crate) struct Token {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
    /// For how long it can be used: 1m to 7d (m, h or d)
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = since::span)]
    valid_for: Duration,
}

impl Token {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        // A span too large for the field is too large for the controller: it says so.
        let valid_secs = u32::try_from(self.valid_for.as_secs()).unwrap_or(u32::MAX);
        let vm = s.vm(&self.vm);
        // 0 would stand for the default.
        if valid_secs == 0 {
            return Err(CliError::usage("--valid-for must be at least 1m"));
        }
        let request = CreateAgentTokenRequest { vm, valid_secs };
        let answer = s.client.create_agent_token(request).await?.into_inner();
        s.out.result(json::agent_token(&answer), |_| {
            format!(
                "Token: {}\nValid until: {}\nVM: {}\nEnrolment address: {}\nAgent address: {}\n\
                 CA fingerprint: {}\n",
                answer.token,
                second(answer.expires_unix_ms),
                answer.vm_resource_id,
                answer.enroll_address,
                answer.agent_address,
                answer.ca_fingerprint
            )
        });
        s.out
            .words("\nIt is not shown again. Give it to the agent on that VM, and to nobody else.");
        Ok(())
    }
}
