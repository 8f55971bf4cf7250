//! `azdr agent revoke`

use azdr_proto::admin::RevokeAgentRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::quantity::count;
use crate::session::Session;

/// Revoke the certificates of a VM's agent, and end its connection at once
///
/// The agent can come back only with a new token: see `azdr agent token`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr agent revoke prod-db-vm")]
pub(crate) struct Revoke {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
}

impl Revoke {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = RevokeAgentRequest { vm: s.vm(&self.vm) };
        let answer = s.client.revoke_agent(request).await?.into_inner();
        s.out.result(json::revoked(&answer), |style| {
            let revoked = count(answer.certificates_revoked, "certificate");
            style.headline(true, &format!("{revoked} revoked for {}", self.vm))
        });
        Ok(())
    }
}
