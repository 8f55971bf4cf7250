//! The agent's identity on disk: one file, so that key, certificate and authority always belong
//! together, whenever the machine stops.
//!
//! A restored instance finds its original's identity here. Whether it may use it is decided in
//! [`crate::restored`], by the `vm_id` that is stored with it.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use azdr_identity::ClientIdentity;
use serde::{Deserialize, Serialize};

use crate::atomic_file;

/// The file's name in the state directory.
pub const FILE: &str = "identity.json";
const FORMAT: u32 = 1;

/// Who this agent is to its controller.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredIdentity {
    /// ARM resource ID of the VM; unknown after a restore to a new VM, until it is enrolled anew.
    pub vm_resource_id: Option<String>,
    /// The vmId that the certificate was issued for, as read from Azure by the controller.
    pub vm_id: String,
    /// host:port of the controller's agent listener at enrolment.
    pub agent_address: String,
    /// Key, certificate and authority.
    pub identity: ClientIdentity,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    format: u32,
    vm_resource_id: Option<String>,
    vm_id: String,
    agent_address: String,
    ca_fingerprint: String,
    key_pem: String,
    chain_pem: String,
    ca_pem: String,
}

/// The identity cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none: this machine is not enrolled.
    #[error("{path} does not exist: this machine is not enrolled (run `azdr-agent enroll`)")]
    NotEnrolled {
        /// The file.
        path: PathBuf,
    },
    /// The disk's fault.
    #[error("cannot {verb} {path}")]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not one of ours.
    #[error("{path} cannot be used: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// In words; never quotes a key.
        reason: String,
    },
}

/// Reads the identity.
///
/// # Errors
/// See [`StoreError`].
pub fn load(state_dir: &Path) -> Result<StoredIdentity, StoreError> {
    let path = state_dir.join(FILE);
    let text = fs::read_to_string(&path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => StoreError::NotEnrolled { path: path.clone() },
        _ => StoreError::Io { verb: "read", path: path.clone(), source },
    })?;
    decode(&path, &text)
}

/// Reads the content of the file at `path`.
///
/// # Errors
/// [`StoreError::Content`].
pub fn decode(path: &Path, text: &str) -> Result<StoredIdentity, StoreError> {
    let bad = |reason: String| StoreError::Content { path: path.to_owned(), reason };
    // serde's message could quote the text, and with it the key.
    let found: OnDisk = serde_json::from_str(text)
        .map_err(|e| bad(format!("line {} is not as expected", e.line())))?;
    if found.format != FORMAT {
        return Err(bad(format!("format {} is not known, only {FORMAT} is", found.format)));
    }
    let identity = ClientIdentity::from_pem(&found.key_pem, &found.chain_pem, &found.ca_pem)
        .map_err(|e| bad(e.to_string()))?;
    Ok(StoredIdentity {
        vm_resource_id: found.vm_resource_id,
        vm_id: found.vm_id,
        agent_address: found.agent_address,
        identity,
    })
}

/// The file's content.
///
/// # Errors
/// Never, as far as known: the format takes any text.
pub fn encode(identity: &StoredIdentity) -> std::io::Result<Vec<u8>> {
    let on_disk = OnDisk {
        format: FORMAT,
        vm_resource_id: identity.vm_resource_id.clone(),
        vm_id: identity.vm_id.clone(),
        agent_address: identity.agent_address.clone(),
        ca_fingerprint: azdr_identity::fingerprint(&identity.identity.ca_der),
        key_pem: identity.identity.key_pem.clone(),
        chain_pem: identity.identity.chain_pem(),
        ca_pem: identity.identity.ca_pem(),
    };
    Ok(serde_json::to_vec_pretty(&on_disk)?)
}

/// Writes the identity; the old one stays until the new one is safely on disk.
///
/// # Errors
/// See [`StoreError`].
pub fn save(state_dir: &Path, identity: &StoredIdentity) -> Result<(), StoreError> {
    let failed = |source| StoreError::Io { verb: "write", path: state_dir.join(FILE), source };
    let text = encode(identity).map_err(failed)?;
    DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
    atomic_file::write(state_dir, FILE, &text).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use azdr_env::{Clock, Env, SystemClock};
    use azdr_identity::{CertificateAuthority, Identity, Serial};

    use super::*;

    fn an_identity() -> StoredIdentity {
        let env = Env::system();
        let ca = CertificateAuthority::generate(&env).unwrap();
        let now = SystemClock::new().wall();
        let until = now.plus(std::time::Duration::from_secs(3600));
        let name = Identity::agent(&azdr_identity::vm_hash("/subscriptions/s/vm")).unwrap();
        let serial = Serial::random(env.ids.as_ref());
        let (issued, key) = ca.issue_with_new_key(&name, now, until, serial).unwrap();
        StoredIdentity {
            vm_resource_id: Some("/subscriptions/s/vm".to_owned()),
            vm_id: "da560509-fad4-4f76-a9f1-63614eda019a".to_owned(),
            agent_address: "controller:7443".to_owned(),
            identity: ClientIdentity::from_pem(&key, &issued.cert_pem(), &ca.cert_pem()).unwrap(),
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let state_dir = folder.path().join("new/azdr");
        let identity = an_identity();
        save(&state_dir, &identity).unwrap();
        assert_eq!(load(&state_dir).unwrap(), identity);
        assert_eq!(fs::metadata(state_dir.join(FILE)).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&state_dir).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_missing_and_a_damaged_file_say_what_to_do_and_show_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let missing = load(folder.path()).unwrap_err().to_string();
        assert!(missing.contains("azdr-agent enroll"), "{missing}");
        fs::write(folder.path().join(FILE), "{\"key_pem\": \"SECRET\", \"x\": 1}").unwrap();
        let damaged = load(folder.path()).unwrap_err().to_string();
        assert!(damaged.contains(FILE) && !damaged.contains("SECRET"), "{damaged}");
    }
}
