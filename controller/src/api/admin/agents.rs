//! Agents: tokens, who is connected, revocation.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_proto::admin::{
    Agent, AgentState, CreateAgentTokenRequest, CreateAgentTokenResponse, ListAgentsResponse,
    RevokeAgentRequest, RevokeAgentResponse,
};
use tonic::Status;

use super::Admin;
use super::errors::unavailable;
use crate::fleet::SessionKind;
use crate::pki::EnrolmentToken;

impl Admin {
    pub(super) async fn mint_token(
        &self,
        by: String,
        request: CreateAgentTokenRequest,
    ) -> Result<CreateAgentTokenResponse, Status> {
        let valid = match request.valid_secs {
            0 => 3600,
            secs @ 60..=604_800 => secs,
            other => {
                return Err(Status::invalid_argument(format!(
                    "valid_secs cannot be {other}: 60 to 604800"
                )));
            }
        };
        let named = self.resolve(request.vm.as_ref()).await?;
        named.in_azure("an agent can be enrolled only on a VM that exists")?;
        let item = self.item_of(&named).await?;
        let token = EnrolmentToken::mint(&*self.env.ids);
        let now = self.env.clock.wall();
        let expires = now.plus(Duration::from_secs(valid.into()));
        let hash = token.hash().as_str().to_owned();
        self.store.add_token(hash, item.id, by, now, expires).await.map_err(unavailable)?;
        Ok(CreateAgentTokenResponse {
            token: token.expose().to_owned(),
            expires_unix_ms: expires.unix_ms(),
            ca_fingerprint: self.authority.fingerprint(),
            enroll_address: self.enroll_address.clone(),
            agent_address: self.agent_address.clone(),
            vm_resource_id: item.arm_id.to_string(),
        })
    }

    pub(super) async fn all_agents(&self) -> Result<ListAgentsResponse, Status> {
        let mut agents = Vec::new();
        let known = self.store.agents().await.map_err(unavailable)?;
        let known: BTreeMap<_, _> = known.iter().map(|last| (last.0, last)).collect();
        let certificates = self.store.newest_certificates().await.map_err(unavailable)?;
        for item in self.store.items().await.map_err(unavailable)? {
            let certificate = certificates.get(&item.id).copied();
            let state = self.agent_state_by(item.id, certificate);
            if state == AgentState::NotEnrolled {
                continue;
            }
            let session = self.fleet.protected(item.id);
            let last = known.get(&item.id);
            agents.push(Agent {
                vm_resource_id: item.arm_id.to_string(),
                vm_name: item.arm_id.name().to_owned(),
                state: state.into(),
                version: last.map(|l| l.1.clone()).unwrap_or_default(),
                boot_id: last.map(|l| l.2.clone()).unwrap_or_default(),
                last_seen_unix_ms: session
                    .as_ref()
                    .map(|s| s.last_seen())
                    .or(last.map(|l| l.3))
                    .map_or(0, |at| at.unix_ms()),
                certificate_expires_unix_ms: certificate.map_or(0, |(ends, _)| ends.unix_ms()),
                can_freeze: session.as_ref().is_some_and(|s| s.hello.can_freeze),
                restored_instance: false,
                quarantined: false,
                instance_vm_id: item.vm_guid.clone().unwrap_or_default(),
            });
        }
        for session in self.fleet.sessions() {
            let SessionKind::Restored { run } = &session.kind else { continue };
            let item = self.store.item_by_id(session.item).await.map_err(unavailable)?;
            agents.push(Agent {
                vm_resource_id: item.arm_id.to_string(),
                vm_name: item.arm_id.name().to_owned(),
                state: AgentState::Connected.into(),
                version: session.hello.agent_version.clone(),
                boot_id: session.hello.boot_id.clone(),
                last_seen_unix_ms: session.last_seen().unix_ms(),
                certificate_expires_unix_ms: session.certificate_expires.unix_ms(),
                can_freeze: false,
                restored_instance: true,
                quarantined: run.is_none(),
                instance_vm_id: session.hello.vm_id.clone(),
            });
        }
        Ok(ListAgentsResponse { agents })
    }

    pub(super) async fn revoke(
        &self,
        request: RevokeAgentRequest,
    ) -> Result<RevokeAgentResponse, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let item = self.item_of(&named).await?;
        let now = self.env.clock.wall();
        let revoked = self.store.revoke_certificates(item.id, now).await.map_err(unavailable)?;
        // Live streams end now, not at their next reconnect.
        self.fleet.expel(item.id);
        Ok(RevokeAgentResponse { certificates_revoked: revoked })
    }
}
