//! The encrypted export of the certificate authority.
//!
//! Losing the database must not lose the authority: `init` writes this file, people keep it elsewhere,
//! and `rebuild` asks for it. It is an age file (<https://age-encryption.org/v1>) with a passphrase,
//! so that `age --decrypt` opens it without azdr.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use age::scrypt;
use age::secrecy::SecretString;
use azdr_identity::{AuthorityError, CertificateAuthority};

use super::authority_files::{from_text, to_text};
use super::private_files::write_new;

/// The fewest characters of a passphrase: the file may lie around for years.
pub const PASSPHRASE_MINIMUM: usize = 12;

/// The most work that an import does; a file that asks for more is refused (4 GiB of memory).
const WORK_LIMIT: u8 = 22;

/// The largest export that is read.
const SIZE_LIMIT: usize = 64 * 1024;

/// Why there is no export, or it is not opened.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The passphrase is too short.
    #[error("the passphrase in {} must have at least {PASSPHRASE_MINIMUM} characters", path.display())]
    WeakPassphrase {
        /// The file that holds it.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Encryption failed.
    #[error("cannot encrypt the certificate authority")]
    Encrypt(#[source] age::EncryptError),
    /// Another passphrase, or not an export at all.
    #[error("the export cannot be opened: another passphrase, or not an export of azdr")]
    Decrypt(#[source] age::DecryptError),
    /// It opened, and holds something else.
    #[error("the export does not hold a certificate authority")]
    Content(#[source] Option<AuthorityError>),
}

/// What the export is encrypted with. Not shown by `Debug`.
#[derive(Clone)]
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Reads it from a file; line ends at its end do not belong to it.
    ///
    /// # Errors
    /// When it has fewer than [`PASSPHRASE_MINIMUM`] characters, or the file cannot be read.
    pub fn from_file(path: &Path) -> Result<Self, ExportError> {
        let text = std::fs::read_to_string(path).map_err(|source| ExportError::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        Self::new(text.trim_end_matches(['\r', '\n']))
            .ok_or_else(|| ExportError::WeakPassphrase { path: path.to_owned() })
    }

    /// A passphrase, if it is long enough.
    pub fn new(text: &str) -> Option<Self> {
        (text.chars().count() >= PASSPHRASE_MINIMUM)
            .then(|| Self(SecretString::from(text.to_owned())))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// How much work each guess of the passphrase costs: 2ⁿ rounds of scrypt, 2ⁿ KiB of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkFactor(u8);

impl WorkFactor {
    /// 2¹⁷: 128 MiB, a fraction of a second.
    pub const NORMAL: Self = Self(17);
    /// Next to none: for tests.
    pub const TESTS_ONLY: Self = Self(2);
}

/// Encrypts an authority.
///
/// # Errors
/// When encryption fails.
pub fn export_authority(
    authority: &CertificateAuthority,
    passphrase: &Passphrase,
    work: WorkFactor,
) -> Result<Vec<u8>, ExportError> {
    let mut recipient = scrypt::Recipient::new(passphrase.0.clone());
    // Not what this machine happens to do in a second: a build without optimisation would export a
    // weaker file, and a fast one needs gigabytes.
    recipient.set_work_factor(work.0);
    age::encrypt(&recipient, to_text(authority).as_bytes()).map_err(ExportError::Encrypt)
}

/// Opens what [`export_authority`] made.
///
/// # Errors
/// [`ExportError::Decrypt`] for another passphrase or a damaged file.
pub fn import_authority(
    export: &[u8],
    passphrase: &Passphrase,
) -> Result<CertificateAuthority, ExportError> {
    if export.len() > SIZE_LIMIT {
        return Err(ExportError::Content(None));
    }
    let mut identity = scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(WORK_LIMIT);
    let text = age::decrypt(&identity, export).map_err(ExportError::Decrypt)?;
    let text = String::from_utf8(text).map_err(|_| ExportError::Content(None))?;
    from_text(&text).map_err(|e| ExportError::Content(Some(e)))
}

/// Writes an export with mode 0600, or leaves one of the same authority that is there already.
///
/// # Errors
/// When the file cannot be written, or holds something else.
pub fn write_export(
    path: &Path,
    authority: &CertificateAuthority,
    passphrase: &Passphrase,
    work: WorkFactor,
) -> Result<(), ExportError> {
    let export = export_authority(authority, passphrase, work)?;
    let io = |action, source| ExportError::Io { action, path: path.to_owned(), source };
    match write_new(path, &export, 0o600) {
        Err(exists) if exists.kind() == io::ErrorKind::AlreadyExists => {
            let present = std::fs::read(path).map_err(|e| io("read", e))?;
            match import_authority(&present, passphrase) {
                Ok(same) if same.fingerprint() == authority.fingerprint() => Ok(()),
                _ => Err(io("write", exists)),
            }
        }
        written => written.map_err(|e| io("write", e)),
    }
}

#[cfg(test)]
mod tests {
    use azdr_env::Env;

    use super::*;

    fn authority() -> CertificateAuthority {
        CertificateAuthority::generate(&Env::system()).unwrap()
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text).unwrap()
    }

    #[test]
    fn an_export_opens_with_its_passphrase_only() {
        let authority = authority();
        let secret = passphrase("correct horse battery");
        let export = export_authority(&authority, &secret, WorkFactor::TESTS_ONLY).unwrap();
        assert!(export.starts_with(b"age-encryption.org/v1\n"));
        assert!(!String::from_utf8_lossy(&export).contains("PRIVATE KEY"));
        let opened = import_authority(&export, &secret).unwrap();
        assert_eq!(opened.fingerprint(), authority.fingerprint());
        assert_eq!(opened.key_pem().trim(), authority.key_pem().trim());
        let wrong = import_authority(&export, &passphrase("incorrect horse battery"));
        assert!(matches!(wrong, Err(ExportError::Decrypt(_))));
        let cut = import_authority(&export[..export.len() - 1], &secret);
        assert!(matches!(cut, Err(ExportError::Decrypt(_))));
    }

    #[test]
    fn an_export_is_written_once_and_never_replaces_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.age");
        let (mine, secret) = (authority(), passphrase("correct horse battery"));
        write_export(&path, &mine, &secret, WorkFactor::TESTS_ONLY).unwrap();
        write_export(&path, &mine, &secret, WorkFactor::TESTS_ONLY).unwrap();
        let other = write_export(&path, &authority(), &secret, WorkFactor::TESTS_ONLY);
        assert!(matches!(other, Err(ExportError::Io { action: "write", .. })));
        let kept = import_authority(&std::fs::read(&path).unwrap(), &secret).unwrap();
        assert_eq!(kept.fingerprint(), mine.fingerprint());
    }

    #[test]
    fn a_short_passphrase_is_refused_and_none_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        std::fs::write(&path, "short\n").unwrap();
        let error = Passphrase::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("12") && !error.contains("short\n"));
        std::fs::write(&path, "long enough now\r\n").unwrap();
        let read = Passphrase::from_file(&path).unwrap();
        assert!(!format!("{read:?}").contains("long"));
    }
}
