//! The SSH host keys of this machine, by their fingerprints. A machine that is made from its disks has them
//! too, so whoever shows another key there is not it.
//!
//! Only public halves are read. Either all keys of the server are known or none is told: of a key that is
//! missing here the controller would say that it is another machine's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use azdr_identity::ssh_fingerprint;

/// More keys than any server has.
const MOST_KEYS: usize = 16;
/// A public key has less than 1 KiB, a configuration little more.
const MOST_BYTES: u64 = 64 * 1024;

/// The fingerprints of all host keys below `etc`, sorted; empty where there is no SSH server.
///
/// # Errors
/// In words, when not all of them can be known.
pub(crate) fn fingerprints(etc: &Path) -> Result<Vec<String>, String> {
    let mut keys = BTreeSet::new();
    for folder in ["ssh", "dropbear"] {
        let is_key = |name: &str| name.contains("_host_") && name.ends_with("_key");
        keys.extend(files(&etc.join(folder), is_key)?);
    }
    keys.extend(configured(etc)?);
    if keys.len() > MOST_KEYS {
        return Err(format!("{} host keys are more than {MOST_KEYS}", keys.len()));
    }
    let known: Result<BTreeSet<String>, String> = keys.iter().map(|key| fingerprint(key)).collect();
    Ok(known?.into_iter().collect())
}

/// The keys that OpenSSH's configuration names, where there are such files: distributions name some that
/// their machines may not have. What it includes from other folders than its own is not followed.
fn configured(etc: &Path) -> Result<Vec<PathBuf>, String> {
    let mut configurations = vec![etc.join("ssh/sshd_config")];
    configurations.extend(files(&etc.join("ssh/sshd_config.d"), |name| name.ends_with(".conf"))?);
    let mut keys = Vec::new();
    for path in configurations {
        match text(&path) {
            Ok(text) => keys.extend(text.lines().filter_map(host_key)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", path.display())),
        }
    }
    keys.retain(|key| key.exists());
    Ok(keys)
}

/// The file of a line `HostKey FILE`.
fn host_key(line: &str) -> Option<PathBuf> {
    let line = line.trim_start();
    let (keyword, value) = line.split_once(|c: char| c.is_whitespace() || c == '=')?;
    let value = value.trim_matches(|c: char| c.is_whitespace() || c == '=' || c == '"');
    (keyword.eq_ignore_ascii_case("HostKey") && !value.is_empty()).then(|| PathBuf::from(value))
}

/// The public half lies beside the key.
fn fingerprint(key: &Path) -> Result<String, String> {
    let mut public = key.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    let line = text(&public).map_err(|error| format!("{}: {error}", public.display()))?;
    ssh_fingerprint(&line).ok_or_else(|| format!("{}: no public key of SSH", public.display()))
}

fn files(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: io::Error| format!("{}: {error}", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        if entry.file_name().to_str().is_some_and(&wanted) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str = "AAAAC3NzaC1lZDI1NTE5AAAAILcXCbLBPh1jmvWHfgYzCF4jOKWJ3yhfRhFeKKYMWDpi";

    fn etc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = etc.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        etc
    }

    fn line(blob: &str) -> String {
        format!("ssh-ed25519 {blob} root@db\n")
    }

    fn known(files: &[(&str, &str)]) -> Result<Vec<String>, String> {
        fingerprints(etc(files).path())
    }

    #[test]
    fn the_keys_of_both_servers_are_known_by_their_public_halves() {
        let (one, two) = (line(KEY), line(OTHER));
        let found = known(&[
            ("ssh/ssh_host_ed25519_key", "private"),
            ("ssh/ssh_host_ed25519_key.pub", &one),
            ("ssh/moduli", "not a key"),
            ("dropbear/dropbear_ed25519_host_key", "private"),
            ("dropbear/dropbear_ed25519_host_key.pub", &two),
        ]);
        let mut expected = [ssh_fingerprint(&one).unwrap(), ssh_fingerprint(&two).unwrap()];
        expected.sort();
        assert_eq!(found.unwrap(), expected);
        assert_eq!(known(&[]), Ok(vec![]), "there is no server");
    }

    #[test]
    fn keys_that_the_servers_configuration_names_are_known_too() {
        let elsewhere = etc(&[("key", "private"), ("key.pub", &line(KEY))]);
        let named = format!("  hostkey = \"{}\"\n", elsewhere.path().join("key").display());
        let absent = "HostKey /nowhere/ssh_host_rsa_key\n#HostKey /etc/passwd\nPort 22\n";
        for place in ["ssh/sshd_config", "ssh/sshd_config.d/10-keys.conf"] {
            let found = known(&[("ssh/sshd_config", absent), (place, &named)]);
            assert_eq!(found.unwrap(), [ssh_fingerprint(&line(KEY)).unwrap()], "{place}");
        }
    }

    #[test]
    fn nothing_is_told_when_one_of_them_is_not_known() {
        let whole = line(KEY);
        let first = [("ssh/ssh_host_a_key", "private"), ("ssh/ssh_host_a_key.pub", whole.as_str())];
        for more in [
            vec![("ssh/ssh_host_b_key", "private")],
            vec![("ssh/ssh_host_b_key", "private"), ("ssh/ssh_host_b_key.pub", "damaged")],
            vec![("dropbear/dropbear_rsa_host_key", "private")],
        ] {
            let told = known(&[&first[..], &more].concat());
            assert!(told.as_ref().is_err_and(|why| why.contains(".pub")), "{told:?}");
        }
    }
}
