//! The controller's own trust: its certificate authority on disk and in an encrypted export, what
//! operators are given, and the one-time tokens with which agents enrol.
//!
//! What a certificate says and how it is made is `azdr_identity`'s; which certificates are revoked is
//! the store's. Private keys are written with mode 0600 and whole or not at all, and never shown.

pub mod authority_files;
pub mod bundle;
pub mod enrolment_token;
pub mod export;
mod private_files;

pub use authority_files::{AuthorityFile, AuthorityFileError};
pub use bundle::{BundleError, OperatorBundle, OperatorCertificate};
pub use enrolment_token::{BadToken, EnrolmentToken, TokenHash};
pub use export::{ExportError, Passphrase, WorkFactor, export_authority, import_authority};
pub use private_files::create_private_dir;
