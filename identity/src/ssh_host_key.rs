//! The identity of a machine as SSH knows it: its host keys, by their fingerprints.
//!
//! They lie on a machine's disks, so a machine that is made from these has them too: whoever answers there
//! with another key is somebody else, or has made new ones.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// How OpenSSH begins a fingerprint of this kind.
const PREFIX: &str = "SHA256:";

/// The fingerprint of a public key, given as OpenSSH writes it to a file (`ssh-ed25519 AAAA… comment`), in the
/// form in which `ssh-keygen -l` prints it: `SHA256:` and 43 characters of base64. `None` for what is no such
/// line.
pub fn ssh_fingerprint(line: &str) -> Option<String> {
    let mut words = line.split_whitespace();
    let (name, blob) = (words.next()?, STANDARD.decode(words.next()?).ok()?);
    // The key itself begins with its algorithm's name: a line that says something else is damaged.
    let length = u32::try_from(name.len()).ok()?.to_be_bytes();
    let is_key = blob.strip_prefix(&length)?.starts_with(name.as_bytes());
    let hashed = digest(&SHA256, &blob);
    is_key.then(|| format!("{PREFIX}{}", STANDARD_NO_PAD.encode(hashed)))
}

/// Whether a text has the form of [`ssh_fingerprint`]'s answer.
pub fn is_ssh_fingerprint(text: &str) -> bool {
    let hashed = text.strip_prefix(PREFIX).and_then(|rest| STANDARD_NO_PAD.decode(rest).ok());
    hashed.is_some_and(|bytes| bytes.len() == SHA256_OUTPUT_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "ssh-ed25519 \
        AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ root@db";

    #[test]
    fn a_fingerprint_is_that_of_ssh_keygen() {
        let found = ssh_fingerprint(LINE).unwrap();
        assert_eq!(found, "SHA256:T7SvZ2cslqpPj6nKzitCBHHlpVF3r3MvLwmFL0fk0IE");
        assert!(is_ssh_fingerprint(&found));
    }

    #[test]
    fn what_is_no_public_key_has_none() {
        let other = LINE.replace("ssh-ed25519", "ssh-rsa");
        for line in ["", "# comment", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 !", &other] {
            assert_eq!(ssh_fingerprint(line), None, "{line:?}");
        }
        for text in ["", "SHA256:", "SHA256:AAAA", "MD5:00:11", &LINE[12..40]] {
            assert!(!is_ssh_fingerprint(text), "{text:?}");
        }
    }
}
