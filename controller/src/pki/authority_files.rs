//! The certificate authority in the data directory.
//!
//! Certificate and key are in one file, `authority.pem` with mode 0600, so that there is never one
//! without the other.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use azdr_identity::{AuthorityError, CertificateAuthority};

use super::private_files::write_new;

/// Where an authority is kept.
#[derive(Debug, Clone)]
pub struct AuthorityFile {
    path: PathBuf,
}

/// The authority's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityFileError {
    /// There is none: `init` or `rebuild` makes it.
    #[error("there is no certificate authority at {}: run `azdr-controller init`", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is one, and it is left alone.
    #[error("there is a certificate authority at {} already", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Others could read the key, or could have.
    #[error("{} has mode {mode:03o}: others can read the private key, it must be 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It does not hold an authority.
    #[error("{} does not hold a certificate authority", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// It cannot be read or written.
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
}

impl AuthorityFile {
    /// The one of a data directory.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self { path: data_dir.join("authority.pem") }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a new authority; on the disk when this returns.
    ///
    /// # Errors
    /// [`AuthorityFileError::Exists`] when there is one.
    pub fn create(&self, authority: &CertificateAuthority) -> Result<(), AuthorityFileError> {
        write_new(&self.path, to_text(authority).as_bytes(), 0o600).map_err(|source| {
            let path = self.path.clone();
            match source.kind() {
                io::ErrorKind::AlreadyExists => AuthorityFileError::Exists { path },
                _ => AuthorityFileError::Io { action: "write", path, source },
            }
        })
    }

    /// Reads the authority.
    ///
    /// # Errors
    /// [`AuthorityFileError::Missing`] when there is none; the others when it is not to be trusted.
    pub fn load(&self) -> Result<CertificateAuthority, AuthorityFileError> {
        let path = self.path.clone();
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => AuthorityFileError::Missing { path: path.clone() },
            _ => AuthorityFileError::Io { action: "read", path: path.clone(), source },
        };
        let mode = std::fs::metadata(&path).map_err(&unreadable)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(AuthorityFileError::Exposed { path, mode });
        }
        let text = std::fs::read_to_string(&path).map_err(&unreadable)?;
        from_text(&text).map_err(|source| AuthorityFileError::Invalid { path, source })
    }
}

/// Certificate and key, one after the other: a secret.
pub(super) fn to_text(authority: &CertificateAuthority) -> String {
    let (certificate, key) = (authority.cert_pem(), authority.key_pem());
    format!("{}\n{}\n", certificate.trim_end(), key.trim_end())
}

/// Reads what [`to_text`] wrote.
pub(super) fn from_text(text: &str) -> Result<CertificateAuthority, AuthorityError> {
    const END: &str = "-----END CERTIFICATE-----\n";
    let split = text.find(END).map_or(text.len(), |at| at + END.len());
    let (certificate, key) = text.split_at(split);
    CertificateAuthority::from_pem(certificate, key)
}

#[cfg(test)]
mod tests {
    use azdr_env::Env;

    use super::*;

    #[test]
    fn what_was_created_is_loaded_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = AuthorityFile::in_dir(dir.path());
        assert!(matches!(file.load(), Err(AuthorityFileError::Missing { .. })));
        let authority = CertificateAuthority::generate(&Env::system()).unwrap();
        file.create(&authority).unwrap();
        assert_eq!(file.load().unwrap().fingerprint(), authority.fingerprint());
        let other = CertificateAuthority::generate(&Env::system()).unwrap();
        assert!(matches!(file.create(&other), Err(AuthorityFileError::Exists { .. })));
        assert_eq!(file.load().unwrap().fingerprint(), authority.fingerprint());
    }

    #[test]
    fn a_key_that_others_can_read_or_that_is_damaged_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = AuthorityFile::in_dir(dir.path());
        file.create(&CertificateAuthority::generate(&Env::system()).unwrap()).unwrap();
        let chmod = |mode| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        chmod(0o640);
        assert!(file.load().unwrap_err().to_string().contains("640"));
        chmod(0o600);
        let text = std::fs::read_to_string(file.path()).unwrap();
        std::fs::write(file.path(), &text[..text.len() / 2]).unwrap();
        let error = file.load().unwrap_err();
        assert!(matches!(error, AuthorityFileError::Invalid { .. }));
    }
}
