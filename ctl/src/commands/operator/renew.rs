//! `azdr operator renew`

use azdr_identity::{ClientIdentity, connect_mutual, generate_key_and_csr};
use azdr_proto::admin::admin_service_client::AdminServiceClient;
use azdr_proto::admin::{RenewOperatorRequest, WhoamiRequest};
use clap::Args;

use crate::bundle;
use crate::error::CliError;
use crate::json;
use crate::quantity::minute;
use crate::session::Session;

/// Renew your own key and certificate, in place of those that the context file names
///
/// This is possible while the present certificate is valid; afterwards an admin must let you in again,
/// with `azdr operator add NAME --role ROLE --replace`. An interruption does no harm: the present
/// certificate stays valid until the new one is used for the first time.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr operator renew")]
pub(crate) struct Renew {}

impl Renew {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let (key_pem, csr_der) = generate_key_and_csr("operator")
            .map_err(|e| CliError::failed("io", format!("cannot make a key: {e}")))?;
        let answer = s.client.renew_operator(RenewOperatorRequest { csr_der }).await?.into_inner();
        let identity = ClientIdentity::from_pem(&key_pem, &answer.certificate_pem, &answer.ca_pem)
            .map_err(|e| CliError::failed("internal", e.to_string()))?;
        bundle::replace(&s.context_file, &key_pem, &answer.certificate_pem, &identity)?;
        // Only now the old certificate ends.
        let channel = connect_mutual(&s.controller, &identity).await?;
        AdminServiceClient::new(channel).whoami(WhoamiRequest {}).await?;
        let mut operator = answer.operator.unwrap_or_default();
        operator.renewal_pending = false;
        if let Ok(certificate) = identity.certificate(s.clock.wall()) {
            operator.certificate_expires_unix_ms = certificate.not_after.unix_ms();
        }
        let until = minute(operator.certificate_expires_unix_ms);
        s.out.result(json::operator(&operator), |style| {
            style.headline(true, &format!("Your certificate is valid until {until} UTC"))
        });
        Ok(())
    }
}
