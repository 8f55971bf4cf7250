//! How an agent gets its first certificate.

use std::sync::Arc;
use std::time::Duration;

use azdr_arm::ArmClient;
use azdr_env::Env;
use azdr_identity::{CertificateAuthority, Identity, Serial};
use azdr_proto::enroll::enroll_service_server::EnrollService;
use azdr_proto::enroll::{EnrollRequest, EnrollResponse};
use tonic::{Request, Response, Status};

use super::agent_service::CERTIFICATE_LIFETIME;
use super::unavailable;
use crate::pki::enrolment_token::TokenHash;
use crate::store::{Store, StoreError};

/// Longest fields that are looked at.
const MAX_TOKEN: usize = 256;
const MAX_CSR: usize = 8 * 1024;

/// Serves enrolment, without client certificates: the token is what is shown.
#[derive(Clone)]
pub struct Enrolment {
    /// Tokens, items, certificates.
    pub store: Store,
    /// Clock and ids.
    pub env: Env,
    /// Signs.
    pub authority: Arc<CertificateAuthority>,
    /// Says which vmId the VM really has.
    pub azure: ArmClient,
}

#[tonic::async_trait]
impl EnrollService for Enrolment {
    async fn enroll(
        &self,
        request: Request<EnrollRequest>,
    ) -> Result<Response<EnrollResponse>, Status> {
        let request = request.into_inner();
        if request.token.len() > MAX_TOKEN || request.csr_der.len() > MAX_CSR {
            return Err(Status::invalid_argument("token or signing request is too long"));
        }
        let hash = TokenHash::of_presented(&request.token).map_err(|_| refused())?;
        let hash = hash.as_str().to_owned();
        let now = self.env.clock.wall();
        let item = match self.store.token_item(&hash, now).await.map_err(unavailable)? {
            Ok(id) => self.store.item_by_id(id).await.map_err(unavailable)?,
            Err(why) => {
                // The caller learns only that it is no good; the log says why.
                tracing::warn!(why, "an enrolment token was refused");
                return Err(refused());
            }
        };
        // The enrolled vmId is Azure's word, never the agent's.
        let vm = self.azure.get_vm(&item.arm_id).await.map_err(|e| {
            tracing::error!(vm = %item.arm_id, error = %e, "Azure does not tell the VM's vmId");
            Status::unavailable("Azure does not answer now; the token is still good: try again")
        })?;
        let vm_id = vm.vm_id.unwrap_or_default().to_ascii_lowercase();
        if vm_id.is_empty() || vm_id != request.vm_id.to_ascii_lowercase() {
            return Err(Status::failed_precondition(format!(
                "this token is for a VM whose vmId is {vm_id}, this machine says {}: run it on {}",
                request.vm_id.chars().take(64).collect::<String>(),
                item.arm_id.name(),
            )));
        }
        let identity = Identity::agent(&item.arm_id.hash_hex())
            .map_err(|e| Status::internal(e.to_string()))?;
        let issued = self
            .authority
            .issue_from_csr(
                &request.csr_der,
                &identity,
                now.minus(Duration::from_secs(3600)),
                now.plus(CERTIFICATE_LIFETIME),
                Serial::random(&*self.env.ids),
            )
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        self.store
            .consume_token(hash, vm_id.clone(), issued.serial_hex, issued.not_after, now)
            .await
            .map_err(|e| match e {
                StoreError::Refused(_) => refused(),
                other => unavailable(other),
            })?;
        tracing::info!(vm = %item.arm_id, agent = request.agent_version, "agent enrolled");
        Ok(Response::new(EnrollResponse {
            certificate_chain_der: vec![issued.cert_der, self.authority.cert_der().to_vec()],
            vm_resource_id: item.arm_id.to_string(),
            vm_id,
        }))
    }
}

fn refused() -> Status {
    Status::unauthenticated(
        "the enrolment token is not valid (unknown, expired or used): get a new one with \
         `azdr agent token VM`",
    )
}
