//! What an operator is given: a folder with a certificate, its key, the authority's certificate, and
//! the context file that the CLI reads.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use azdr_env::Env;
use azdr_identity::{AuthorityError, CertificateAuthority, Identity, Issued, Serial};

use super::private_files::{create_private_dir, draft_of, folder_of, sync_dir, write_synced};

/// How long an operator's certificate is valid at most: two years. The CLI warns before it ends, and
/// renews it.
pub const OPERATOR_LIFETIME: Duration = Duration::from_secs(2 * 365 * 24 * 3600);

/// Clocks of clients may be behind by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The name or the authority does not allow it.
    #[error("cannot issue a certificate to operator \"{name}\"")]
    Issue {
        /// The operator.
        name: String,
        /// Why.
        #[source]
        source: AuthorityError,
    },
    /// The folder exists: it may hold somebody's only key.
    #[error("{} exists already: name another folder, or remove it", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The folder cannot be written.
    #[error("cannot write the bundle {}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A certificate that was made for an operator, and has to be recorded before it is any use.
#[derive(Debug, Clone)]
pub struct OperatorCertificate {
    /// The operator's name.
    pub name: String,
    /// What was issued.
    pub issued: Issued,
}

/// The content of the folder.
pub struct OperatorBundle {
    controller: String,
    ca_pem: String,
    certificate_pem: String,
    key_pem: String,
}

impl OperatorBundle {
    /// Issues a certificate to an operator. `controller` is the `host:port` that their CLI calls.
    ///
    /// # Errors
    /// When the name is not an operator's, see [`Identity::operator`].
    pub fn issue(
        authority: &CertificateAuthority,
        name: &str,
        controller: &str,
        env: &Env,
    ) -> Result<(Self, OperatorCertificate), BundleError> {
        let refused = |source| BundleError::Issue { name: name.to_owned(), source };
        let identity = Identity::operator(name).map_err(|e| refused(e.into()))?;
        let now = env.clock.wall();
        let (issued, key_pem) = authority
            .issue_with_new_key(
                &identity,
                now.minus(CLOCK_SKEW),
                now.plus(OPERATOR_LIFETIME),
                Serial::random(env.ids.as_ref()),
            )
            .map_err(refused)?;
        let bundle = Self {
            controller: controller.to_owned(),
            ca_pem: authority.cert_pem(),
            certificate_pem: issued.cert_pem(),
            key_pem,
        };
        Ok((bundle, OperatorCertificate { name: name.to_owned(), issued }))
    }

    /// Writes the folder, with mode 0700 and the key 0600: whole, or not at all.
    ///
    /// # Errors
    /// [`BundleError::Exists`] when there is something of this name.
    pub fn write(&self, folder: &Path) -> Result<(), BundleError> {
        if folder.symlink_metadata().is_ok() {
            return Err(BundleError::Exists { path: folder.to_owned() });
        }
        self.write_whole(folder)
            .map_err(|source| BundleError::Io { path: folder.to_owned(), source })
    }

    fn write_whole(&self, folder: &Path) -> io::Result<()> {
        let draft = draft_of(folder)?;
        if draft.exists() {
            std::fs::remove_dir_all(&draft)?;
        }
        create_private_dir(&draft)?;
        let write =
            |name: &str, text: &str, mode| write_synced(&draft.join(name), text.as_bytes(), mode);
        write("ca.pem", &self.ca_pem, 0o644)?;
        write("client.pem", &self.certificate_pem, 0o644)?;
        write("client.key", &self.key_pem, 0o600)?;
        write("context.toml", &self.context(), 0o644)?;
        sync_dir(&draft)?;
        // Onto an empty folder at most: a rename does not replace one that has something in it.
        std::fs::rename(&draft, folder)?;
        sync_dir(&folder_of(folder))
    }

    fn context(&self) -> String {
        let controller = toml::Value::String(self.controller.clone());
        format!(
            "# Read by `azdr --context-file`; paths are relative to this file.\n\
             controller = {controller}\n\
             ca = \"ca.pem\"\n\
             certificate = \"client.pem\"\n\
             key = \"client.key\"\n"
        )
    }
}

impl std::fmt::Debug for OperatorBundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OperatorBundle")
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use azdr_identity::ClientIdentity;

    use super::*;

    #[test]
    fn a_bundle_is_whole_private_and_readable_by_the_cli() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("alice");
        let env = Env::system();
        let authority = CertificateAuthority::generate(&env).unwrap();
        let (bundle, certificate) =
            OperatorBundle::issue(&authority, "alice", "dr.example.org:7443", &env).unwrap();
        bundle.write(&folder).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(mode(&folder.join("client.key")), 0o600);

        let text = std::fs::read_to_string(folder.join("context.toml")).unwrap();
        let context: toml::Table = toml::from_str(&text).unwrap();
        let file = |key: &str| folder.join(context[key].as_str().unwrap());
        assert_eq!(context["controller"].as_str().unwrap(), "dr.example.org:7443");
        let identity = ClientIdentity::load(&file("key"), &file("certificate"), &file("ca"));
        let identity = identity.unwrap();
        let shown = identity.certificate(env.clock.wall()).unwrap();
        assert_eq!(shown.serial, certificate.issued.serial_hex);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(!format!("{bundle:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_folder_that_exists_is_left_alone_and_a_left_draft_does_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::system();
        let authority = CertificateAuthority::generate(&env).unwrap();
        let (bundle, _) = OperatorBundle::issue(&authority, "bob", "h:1", &env).unwrap();
        let error = bundle.write(dir.path()).unwrap_err();
        assert!(matches!(error, BundleError::Exists { .. }));
        let folder = dir.path().join("bob");
        std::fs::create_dir(draft_of(&folder).unwrap()).unwrap();
        std::fs::write(draft_of(&folder).unwrap().join("client.key"), "half").unwrap();
        bundle.write(&folder).unwrap();
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 4);
    }

    #[test]
    fn a_name_that_no_operator_can_have_is_refused() {
        let env = Env::system();
        let authority = CertificateAuthority::generate(&env).unwrap();
        let error = OperatorBundle::issue(&authority, "a/b", "h:1", &env).unwrap_err();
        assert!(error.to_string().contains("a/b"));
    }
}
