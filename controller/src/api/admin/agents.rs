//! Agents: tokens, who is connected, revocation.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_proto::admin::{
    self as api, Agent, AgentState, CreateAgentTokenRequest, CreateAgentTokenResponse,
    ListAgentsResponse, RevokeAgentRequest, RevokeAgentResponse,
};
use azdr_proto::agent::DiskKind;
use tonic::{Code, Status};

use super::Admin;
use super::errors::{hinted, unavailable};
use crate::fleet::SessionKind;
use crate::pki::EnrolmentToken;

/// An agent answers within 15 s.
const PREFLIGHT_LIMIT: Duration = Duration::from_secs(20);
const MOST_TEXTS: usize = 32;
const MOST_DISKS: usize = 65;
/// Bytes of a text in a preflight.
const LONGEST_TEXT: usize = 512;

fn disk_kind(kind: DiskKind) -> api::PreflightDiskKind {
    match kind {
        DiskKind::Os => api::PreflightDiskKind::Os,
        DiskKind::Data => api::PreflightDiskKind::Data,
        DiskKind::Temporary => api::PreflightDiskKind::Temporary,
        DiskKind::Unknown => api::PreflightDiskKind::Unspecified,
    }
}

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
        let mut preflights = self.store.preflights().await.map_err(unavailable)?;
        let certificates = self.store.newest_certificates().await.map_err(unavailable)?;
        for item in self.store.items().await.map_err(unavailable)? {
            let certificate = certificates.get(&item.id).copied();
            let state = self.agent_state_by(item.id, certificate);
            if state == AgentState::NotEnrolled {
                continue;
            }
            let session = self.fleet.protected(item.id);
            let last = known.get(&item.id);
            let preflight = preflights.remove(&item.id);
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
                preflight_unix_ms: preflight.as_ref().map_or(0, |p| p.at.unix_ms()),
                preflight_ready: preflight.as_ref().is_some_and(|p| p.ready),
                preflight_problems: preflight.map(|p| p.problems).unwrap_or_default(),
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
                ..Agent::default()
            });
        }
        Ok(ListAgentsResponse { agents })
    }

    /// The agent keeps to its bounds, and is held to them.
    pub(super) async fn preflight(
        &self,
        request: api::RunPreflightRequest,
    ) -> Result<api::Preflight, Status> {
        let named = self.resolve_known(request.vm.as_ref()).await?;
        let item = self.item_of(&named).await?;
        let id = self.env.ids.hex(16);
        let report = self.fleet.preflight(item.id, id, PREFLIGHT_LIMIT).await.map_err(|e| {
            let hint = "see azdr agent list; on the machine itself: azdr-agent preflight";
            hinted(Code::FailedPrecondition, format!("{}: {e}", item.arm_id.name()), hint)
        })?;
        let cut = |text: String| match text.len() > LONGEST_TEXT {
            true => text[..text.floor_char_boundary(LONGEST_TEXT)].to_owned(),
            false => text,
        };
        let texts =
            |texts: Vec<String>| texts.into_iter().take(MOST_TEXTS).map(cut).collect::<Vec<_>>();
        let disk = |disk: azdr_proto::agent::Disk| api::PreflightDisk {
            kind: disk_kind(disk.kind()).into(),
            lun: disk.lun,
            name: cut(disk.name),
        };
        let file_system = |f: azdr_proto::agent::PreflightFileSystem| api::PreflightFileSystem {
            mount_point: cut(f.mount_point),
            file_system_type: cut(f.file_system_type),
            device: cut(f.device),
            level: f.level,
            disks: f.disks.into_iter().take(MOST_DISKS).map(disk).collect(),
        };
        let not_covered = |n: azdr_proto::agent::NotCovered| api::PreflightNotCovered {
            what: cut(n.what),
            kind: cut(n.kind),
            reason: cut(n.reason),
        };
        let problems = texts(report.problems);
        Ok(api::Preflight {
            vm_resource_id: item.arm_id.to_string(),
            taken_unix_ms: self.env.clock.wall().unix_ms(),
            took_ms: report.took_ms,
            ready: report.ready && problems.is_empty(),
            problems,
            passing: texts(report.passing),
            file_systems: report.file_systems.into_iter().take(64).map(file_system).collect(),
            not_covered: report.not_covered.into_iter().take(128).map(not_covered).collect(),
            foreign_tools: texts(report.foreign_tools),
        })
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
