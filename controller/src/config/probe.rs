//! `[probe]`: how restored machines are looked at from outside, and with which key.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::check::{Checked, Checker};
use super::{ConfigError, Probe, file};
use crate::ssh_probe::{ProbeKey, ProbeLogin};

const KEY_FILE: &str = "probe.key_file";
/// A private key has less than 1 KiB.
const MOST_BYTES: u64 = 64 * 1024;

impl Checker<'_> {
    pub(super) fn probe(&self, given: file::Probe) -> Checked<Probe> {
        let seconds =
            |field: &str, value, most| self.number(field, value, 1, most).map(Duration::from_secs);
        let connect_limit = seconds("probe.connect_timeout_secs", given.connect_timeout_secs, 60)?;
        let login_limit = seconds("probe.login_timeout_secs", given.login_timeout_secs, 300)?;
        let login = match (given.user, given.key_file) {
            (None, None) => None,
            (Some(user), Some(path)) => Some(ProbeLogin {
                user: self.user(user)?,
                key: self.key(&path)?,
                connect_limit,
                login_limit,
            }),
            (Some(_), None) => {
                return Err(self.wrong(KEY_FILE, "", "probe.user is set, and needs it"));
            }
            (None, Some(_)) => {
                return Err(self.wrong("probe.user", "", "probe.key_file is set, and needs it"));
            }
        };
        let ssh_port = self.number("probe.ssh_port", given.ssh_port, 1, 65_535)? as u16;
        Ok(Probe { ssh_port, login })
    }

    fn user(&self, user: String) -> Checked<String> {
        let is_plain = |c: char| !c.is_whitespace() && !c.is_control();
        if (1..=64).contains(&user.len()) && user.chars().all(is_plain) {
            return Ok(user);
        }
        let allowed = "it must be a user's name of at most 64 bytes, without spaces";
        Err(self.wrong("probe.user", user, allowed))
    }

    /// A key that others can read is everybody's.
    fn key(&self, path: &Path) -> Checked<ProbeKey> {
        let unreadable = |source: io::Error| ConfigError::Unreadable {
            path: path.to_owned(),
            named_by: KEY_FILE,
            source,
        };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > MOST_BYTES {
            return Err(self.wrong(KEY_FILE, path.display(), ProbeKey::ALLOWED));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let allowed = format!(
                "it must be readable by its owner alone (mode 0600 or 0400), and has mode {mode:04o}"
            );
            return Err(self.wrong(KEY_FILE, path.display(), &allowed));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        ProbeKey::parse(&text)
            .ok_or_else(|| self.wrong(KEY_FILE, path.display(), ProbeKey::ALLOWED))
    }
}
