//! What a witness says, in a form that can be hashed and sealed.
//!
//! A witness is a file on a file system that is about to be frozen (`DESIGN.md`: *Witness*). Whoever can
//! write to a disk can write any file there; only who has the operation's key can seal it. The key is
//! derived by the controller from its authority's own, sent with the freeze, and on no disk that is
//! captured. So a restored machine that shows a sealed witness shows a file that was written for that
//! operation, as it was written.

use std::fmt;

use azdr_proto::agent::Witness;
use ring::{digest, hmac};

use crate::identity::hex;

/// What one witness says, but for the other witnesses of its operation.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as the fields of the message `Witness` in agent.proto")]
pub struct WitnessClaims<'a> {
    pub format: u32,
    pub vm_id: &'a str,
    pub disk: &'a str,
    pub disk_unique_id: &'a str,
    pub file_system_uuid: &'a str,
    pub mount_point: &'a str,
    pub operation_id: &'a str,
    pub recovery_point: &'a str,
    pub nonce: &'a str,
    pub sequence: u32,
    pub written_at_unix_ms: i64,
    pub boot_id: &'a str,
    pub written_at_monotonic_ns: u64,
}

impl<'a> From<&'a Witness> for WitnessClaims<'a> {
    fn from(witness: &'a Witness) -> Self {
        Self {
            format: witness.format,
            vm_id: &witness.vm_id,
            disk: &witness.disk,
            disk_unique_id: &witness.disk_unique_id,
            file_system_uuid: &witness.file_system_uuid,
            mount_point: &witness.written_at_mount_point,
            operation_id: &witness.operation_id,
            recovery_point: &witness.recovery_point,
            nonce: &witness.nonce,
            sequence: witness.sequence,
            written_at_unix_ms: witness.written_at_unix_ms,
            boot_id: &witness.boot_id,
            written_at_monotonic_ns: witness.written_at_monotonic_ns,
        }
    }
}

impl WitnessClaims<'_> {
    /// SHA-256 over all fields, each with its length: 64 lower-case hexadecimal digits.
    pub fn digest(&self) -> String {
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_be_bytes());
            hash.update(bytes);
        };
        add(b"azdr witness");
        add(&self.format.to_be_bytes());
        add(self.vm_id.as_bytes());
        add(self.disk.as_bytes());
        add(self.disk_unique_id.as_bytes());
        add(self.file_system_uuid.as_bytes());
        add(self.mount_point.as_bytes());
        add(self.operation_id.as_bytes());
        add(self.recovery_point.as_bytes());
        add(self.nonce.as_bytes());
        add(&self.sequence.to_be_bytes());
        add(&self.written_at_unix_ms.to_be_bytes());
        add(self.boot_id.as_bytes());
        add(&self.written_at_monotonic_ns.to_be_bytes());
        hex(hash.finish().as_ref())
    }
}

/// The key of one operation's witnesses: a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct WitnessKey([u8; 32]);

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WitnessKey(…)")
    }
}

impl WitnessKey {
    /// The key as it is sent; `None`: it has not 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// To be sent to the agent that writes the witnesses, and to nobody else.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The key of this operation's witnesses, from an authority's private key.
    pub(crate) fn derive(authority_key_der: &[u8], operation_id: &str) -> Self {
        let root = hmac::Key::new(hmac::HMAC_SHA256, authority_key_der);
        let root = hmac::sign(&root, b"azdr witnesses");
        let root = hmac::Key::new(hmac::HMAC_SHA256, root.as_ref());
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&root, operation_id.as_bytes()).as_ref());
        Self(key)
    }

    /// Seals the witness with this digest, one of an operation's `digests`.
    pub fn seal(&self, digest: &str, digests: &[String]) -> String {
        hex(hmac::sign(&self.key(), &sealed(digest, digests)).as_ref())
    }

    /// Whether `seal` was made by [`seal`](Self::seal) of the same.
    pub fn has_sealed(&self, digest: &str, digests: &[String], seal: &str) -> bool {
        let bytes = |at: usize| u8::from_str_radix(seal.get(at..at + 2)?, 16).ok();
        let tag: Option<Vec<u8>> = (0..seal.len()).step_by(2).map(bytes).collect();
        let verified =
            |tag: Vec<u8>| hmac::verify(&self.key(), &sealed(digest, digests), &tag).is_ok();
        tag.is_some_and(verified)
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.0)
    }
}

/// Digests are of one length: joined, they say one thing only.
fn sealed(digest: &str, digests: &[String]) -> Vec<u8> {
    let all = std::iter::once(digest).chain(digests.iter().map(String::as_str));
    all.collect::<Vec<_>>().join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims<'a>(mount_point: &'a str, nonce: &'a str) -> WitnessClaims<'a> {
        WitnessClaims {
            format: 2,
            vm_id: "v",
            disk: "os",
            disk_unique_id: "",
            file_system_uuid: "u",
            mount_point,
            operation_id: "op-1",
            recovery_point: "p",
            nonce,
            sequence: 1,
            written_at_unix_ms: 5,
            boot_id: "b",
            written_at_monotonic_ns: 7,
        }
    }

    #[test]
    fn a_digest_tells_every_field_and_its_borders_apart() {
        let one = claims("/", "ab").digest();
        assert_eq!(one, claims("/", "ab").digest());
        assert_ne!(one, claims("/a", "b").digest());
        assert_ne!(one, WitnessClaims { sequence: 2, ..claims("/", "ab") }.digest());
        assert_ne!(one, WitnessClaims { disk: "lun 0", ..claims("/", "ab") }.digest());
        assert_eq!(one.len(), 64);
    }

    #[test]
    fn a_seal_holds_for_its_operation_and_for_what_was_sealed_alone() {
        let key = WitnessKey::derive(b"authority", "op-1");
        let (one, two) = (claims("/", "n").digest(), claims("/data", "n").digest());
        let both = [one.clone(), two.clone()];
        let seal = key.seal(&one, &both);
        assert!(key.has_sealed(&one, &both, &seal));
        assert!(!key.has_sealed(&two, &both, &seal));
        assert!(!key.has_sealed(&one, &both[..1], &seal), "a witness less");
        assert!(!WitnessKey::derive(b"authority", "op-2").has_sealed(&one, &both, &seal));
        assert!(!WitnessKey::derive(b"another", "op-1").has_sealed(&one, &both, &seal));
        for wrong in ["", "x", "zz", &seal[..62], "é"] {
            assert!(!key.has_sealed(&one, &both, wrong), "{wrong:?}");
        }
        assert_eq!(WitnessKey::from_bytes(key.expose()), Some(key.clone()));
        assert_eq!(WitnessKey::from_bytes(&[1; 31]), None);
        assert_eq!(format!("{key:?}"), "WitnessKey(…)");
    }
}
