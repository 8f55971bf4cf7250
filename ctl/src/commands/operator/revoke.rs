//! `azdr operator revoke`

use azdr_proto::admin::RevokeOperatorRequest;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::session::Session;

/// Shut an operator out, from their next call on
///
/// The jobs that they have started go on, and their pins stay. The last admin cannot be revoked.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr operator revoke bob")]
pub(crate) struct Revoke {
    /// Name of the operator
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
}

impl Revoke {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = RevokeOperatorRequest { name: self.name };
        let operator = s.client.revoke_operator(request).await?.into_inner();
        s.out.result(json::operator(&operator), |style| {
            let sentence = format!("Operator {} is not let in any more", operator.name);
            style.headline(true, &sentence)
        });
        Ok(())
    }
}
