//! A machine that boots from a copy of a protected VM's disks carries its original's identity. This
//! module decides whether that is the case, and what such a machine may keep (I8, N16).
//!
//! - Through [`Door::Protected`] goes the machine whose vmId is the enrolled one.
//! - Through [`Door::Restored`] goes any other, and one that the controller turned away with
//!   FAILED_PRECONDITION: there nothing is frozen, and the controller decides whether anybody expects
//!   this machine.
//! - A certificate issued as durable is this machine's own from then on, with the vmId it has now. One
//!   that is not durable is for a run, lives in memory, and dies with the process.

use azdr_identity::ClientIdentity;
use azdr_proto::agent::CertificateIssued;

use crate::identity_store::StoredIdentity;
use crate::vm_id::VmId;

/// The controller's services for agents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Door {
    /// `AgentService`.
    Protected,
    /// `RestoredService`.
    Restored,
}

/// Which door this machine may try first.
pub fn door(stored: &StoredIdentity, vm: &VmId) -> Door {
    if vm.is(&stored.vm_id) { Door::Protected } else { Door::Restored }
}

/// A new certificate, and what to do with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Granted {
    /// Store it as this machine's own and connect anew.
    Own(Box<StoredIdentity>),
    /// Use it until the process ends.
    ForThisRun(ClientIdentity),
}

/// What the controller's answer to a signing request means; `key_pem` is the key that was signed.
///
/// # Errors
/// In words: the request was refused, or the certificate is not from the authority that this agent
/// trusts.
pub fn granted(
    stored: &StoredIdentity,
    vm: &VmId,
    key_pem: String,
    issued: CertificateIssued,
) -> Result<Granted, String> {
    let identity = assemble(key_pem, issued.certificate_chain_der)
        .ok_or_else(|| format!("no certificate was issued: {}", issued.reason))?;
    if identity.ca_der != stored.identity.ca_der {
        return Err("the new certificate is from another authority: not taken".to_owned());
    }
    if !issued.durable {
        return Ok(Granted::ForThisRun(identity));
    }
    let vm_id = vm.in_the_order_of(&stored.vm_id);
    // A new VM's certificate names another resource; which one is not told here.
    let same_vm = vm.is(&stored.vm_id);
    let vm_resource_id = stored.vm_resource_id.clone().filter(|id| same_vm || names(&identity, id));
    let agent_address = stored.agent_address.clone();
    Ok(Granted::Own(Box::new(StoredIdentity { vm_resource_id, vm_id, agent_address, identity })))
}

/// The holder's chain and the authority from the list that the controller sends: the certificate
/// first, the authority's last. `None` when it is too short.
pub(crate) fn assemble(key_pem: String, mut chain_der: Vec<Vec<u8>>) -> Option<ClientIdentity> {
    let ca_der = chain_der.pop()?;
    (!chain_der.is_empty()).then_some(ClientIdentity { key_pem, chain_der, ca_der })
}

fn names(identity: &ClientIdentity, vm_resource_id: &str) -> bool {
    let hash = azdr_identity::vm_hash(&vm_resource_id.to_ascii_lowercase());
    let expected = azdr_identity::Identity::agent(&hash);
    // The date only decides whether it is expired, which does not matter here.
    let found = identity.certificate(azdr_env::WallTime::from_unix_ms(0));
    matches!((found, expected), (Ok(found), Ok(expected)) if found.identity == expected)
}

#[cfg(test)]
mod tests {
    use azdr_proto::agent::VmIdSource;

    use super::*;

    const ENROLLED: &str = "da560509-fad4-4f76-a9f1-63614eda019a";
    const OTHER: &str = "11111111-2222-3333-4444-555555555555";

    fn stored() -> StoredIdentity {
        let identity =
            ClientIdentity { key_pem: String::new(), chain_der: vec![vec![1]], ca_der: vec![9] };
        StoredIdentity {
            vm_resource_id: Some("/subscriptions/s/vm".to_owned()),
            vm_id: ENROLLED.to_owned(),
            agent_address: "controller:7443".to_owned(),
            identity,
        }
    }

    fn vm(id: &str) -> VmId {
        VmId { id: id.to_owned(), source: VmIdSource::InstanceMetadata }
    }

    fn issued(chain: &[&[u8]], durable: bool) -> CertificateIssued {
        let certificate_chain_der = chain.iter().map(|der| der.to_vec()).collect();
        CertificateIssued { certificate_chain_der, reason: "because".to_owned(), durable }
    }

    #[test]
    fn only_the_enrolled_machine_takes_the_protected_door() {
        assert_eq!(door(&stored(), &vm(ENROLLED)), Door::Protected);
        assert_eq!(door(&stored(), &vm(OTHER)), Door::Restored);
    }

    #[test]
    fn a_durable_certificate_comes_with_the_vm_id_of_this_machine() {
        let granted = granted(&stored(), &vm(OTHER), "key".to_owned(), issued(&[&[2], &[9]], true));
        let Ok(Granted::Own(own)) = granted else { panic!("{granted:?}") };
        assert_eq!(own.vm_id, OTHER);
        assert_eq!(own.identity.chain_der, [[2]]);
        assert_eq!(own.vm_resource_id, None, "a new VM's name is not known here");
    }

    #[test]
    fn a_runs_certificate_never_becomes_the_machines_own() {
        let granted =
            granted(&stored(), &vm(OTHER), "key".to_owned(), issued(&[&[2], &[9]], false));
        assert!(matches!(granted, Ok(Granted::ForThisRun(_))), "{granted:?}");
    }

    #[test]
    fn a_refusal_and_another_authority_leave_the_old_certificate() {
        let refused = granted(&stored(), &vm(ENROLLED), "key".to_owned(), issued(&[], true));
        assert!(refused.unwrap_err().contains("because"));
        let foreign =
            granted(&stored(), &vm(ENROLLED), "key".to_owned(), issued(&[&[2], &[8]], true));
        assert!(foreign.unwrap_err().contains("authority"));
    }
}
