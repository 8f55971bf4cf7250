//! `azdr whoami`

use azdr_proto::admin::WhoamiRequest;
use clap::Args;

use crate::error::CliError;
use crate::json;
use crate::session::Session;

/// Show who you are to the controller, and to which cloud and subscriptions it is bound
///
/// It is also the quickest check that the controller and the context file are in order.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr whoami")]
pub(crate) struct Whoami {}

impl Whoami {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let answer = s.client.whoami(WhoamiRequest {}).await?.into_inner();
        let controller = &s.controller;
        s.out.result(json::whoami(&answer), |_| {
            let held = match answer.deletions_held.as_str() {
                "" => String::new(),
                why => format!("Deletions: {why}\n"),
            };
            format!(
                "Operator: {}\nRole: {}\nController: {controller} (azdr {})\nCloud: {}\n\
                 Subscriptions: {}\n{held}",
                answer.operator,
                answer.role,
                answer.controller_version,
                answer.cloud,
                answer.subscriptions.join(", ")
            )
        });
        Ok(())
    }
}
