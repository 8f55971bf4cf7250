//! `azdr-controller init`: the certificate authority, its export, the first admin's bundle, and the
//! records that make the database belong to one cloud.
//!
//! The order makes it safe to kill and run again: the authority is written first and found again by
//! the next attempt, the records last and in one transaction. A database with a stamp *is*
//! initialised, and then nothing is touched any more.
//!
//! This module knows no database: whoever calls it says whether there is a stamp, and records what
//! [`init`] hands over.

use std::error::Error;
use std::path::PathBuf;

use azdr_env::Env;
use azdr_identity::{AuthorityError, CertificateAuthority};

use crate::config::{Advertise, Config, ConfigArgs};
use crate::pki::export::write_export;
use crate::pki::{
    AuthorityFile, AuthorityFileError, BundleError, ExportError, OperatorBundle,
    OperatorCertificate, Passphrase, WorkFactor, create_private_dir,
};

/// Arguments of `azdr-controller init`.
#[derive(clap::Args, Debug, Clone)]
pub struct InitArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would become help text")]
    pub config: ConfigArgs,
    /// Name of the first operator, who gets the role admin
    #[arg(long, value_name = "NAME")]
    pub admin: String,
    /// New folder for the admin's certificate, key and context file
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// New file for the encrypted certificate authority; keep it away from this machine
    #[arg(long, value_name = "FILE")]
    pub export: PathBuf,
    /// File with the passphrase of the export, at least 12 characters
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: PathBuf,
}

/// Why the controller was not initialised.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// It is already.
    #[error("{} is initialised already", data_dir.display())]
    Initialised {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The bundle has to say where the controller is, and nobody knows yet.
    #[error("set advertise.admin: listen.admin has port 0, which is known only once it is bound")]
    NoAddress,
    /// The data directory cannot be made.
    #[error("cannot create the data directory {}", data_dir.display())]
    DataDir {
        /// The data directory.
        data_dir: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No authority could be made.
    #[error("cannot make a certificate authority")]
    Authority(#[source] AuthorityError),
    /// The authority's file.
    #[error(transparent)]
    AuthorityFile(#[from] AuthorityFileError),
    /// The export.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The records could not be written; running `init` again goes on from there.
    #[error("cannot record the new controller in its database")]
    Record(#[source] Box<dyn Error + Send + Sync>),
}

/// What the database must hold, in one transaction, for the controller to be initialised.
#[derive(Debug, Clone)]
pub struct FirstRecords {
    /// The cloud's name for the stamp.
    pub cloud: &'static str,
    /// The tenant for the stamp.
    pub tenant_id: String,
    /// The subscriptions for the stamp, sorted.
    pub subscriptions: Vec<String>,
    /// The first operator, with the role `admin`.
    pub admin: OperatorCertificate,
}

/// What was made, for people.
#[derive(Debug, Clone)]
pub struct InitReport {
    /// What agents pin.
    pub ca_fingerprint: String,
    /// The admin's folder.
    pub bundle: PathBuf,
    /// The encrypted authority.
    pub export: PathBuf,
    /// Where the bundle says the controller is.
    pub controller: String,
}

/// Makes the data directory, before a database is opened in it.
///
/// # Errors
/// When it cannot be made.
pub fn create_data_dir(config: &Config) -> Result<(), InitError> {
    create_private_dir(&config.data_dir)
        .map_err(|source| InitError::DataDir { data_dir: config.data_dir.clone(), source })
}

/// Makes everything that a new controller needs. `stamped` says whether the database has a stamp;
/// `record` writes the records.
///
/// # Errors
/// With nothing recorded. Running it again goes on with the same authority; a bundle that was written
/// before the failure has to be removed first, since its certificate was never recorded.
pub async fn init<E: Error + Send + Sync + 'static>(
    args: &InitArgs,
    config: &Config,
    env: &Env,
    work: WorkFactor,
    stamped: bool,
    record: impl AsyncFnOnce(FirstRecords) -> Result<(), E>,
) -> Result<InitReport, InitError> {
    if stamped {
        return Err(InitError::Initialised { data_dir: config.data_dir.clone() });
    }
    if config.advertise.admin.is_none() && config.listen.admin.port() == 0 {
        return Err(InitError::NoAddress);
    }
    let controller = Advertise::address(&config.advertise.admin, config.listen.admin);
    // All that a person can have got wrong comes before the first file.
    let passphrase = Passphrase::from_file(&args.passphrase_file)?;
    if args.bundle.symlink_metadata().is_ok() {
        return Err(BundleError::Exists { path: args.bundle.clone() }.into());
    }
    create_data_dir(config)?;
    let authority = authority(config, env)?;
    let (bundle, admin) = OperatorBundle::issue(&authority, &args.admin, &controller, env)?;
    write_export(&args.export, &authority, &passphrase, work)?;
    bundle.write(&args.bundle)?;
    let records = FirstRecords {
        cloud: config.cloud.name.as_str(),
        tenant_id: config.cloud.tenant_id.clone(),
        subscriptions: config.cloud.subscriptions.clone(),
        admin,
    };
    record(records).await.map_err(|e| InitError::Record(Box::new(e)))?;
    Ok(InitReport {
        ca_fingerprint: authority.fingerprint(),
        bundle: args.bundle.clone(),
        export: args.export.clone(),
        controller,
    })
}

/// The authority of an earlier attempt, or a new one.
fn authority(config: &Config, env: &Env) -> Result<CertificateAuthority, InitError> {
    let file = AuthorityFile::in_dir(&config.data_dir);
    match file.load() {
        Err(AuthorityFileError::Missing { .. }) => {
            let authority = CertificateAuthority::generate(env).map_err(InitError::Authority)?;
            file.create(&authority)?;
            Ok(authority)
        }
        loaded => Ok(loaded?),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::pki::import_authority;

    const CONFIG: &str = r#"
data_dir = "state"
listen = { admin = "127.0.0.1:7443", agent = "127.0.0.1:0", enroll = "127.0.0.1:0" }
[cloud]
name = "simulated"
endpoint = "https://127.0.0.1:8443"
tenant_id = "t"
subscriptions = ["s"]
[credential]
kind = "managed_identity"
"#;

    fn setup(dir: &Path, config: &str) -> (InitArgs, Config) {
        std::fs::write(dir.join("azdr.toml"), config).unwrap();
        std::fs::write(dir.join("passphrase"), "correct horse battery\n").unwrap();
        let args = InitArgs {
            config: ConfigArgs { config: dir.join("azdr.toml"), ..Default::default() },
            admin: "alice".to_owned(),
            bundle: dir.join("alice"),
            export: dir.join("ca.age"),
            passphrase_file: dir.join("passphrase"),
        };
        let config = Config::load(&args.config, |_| None).unwrap();
        (args, config)
    }

    async fn run(
        args: &InitArgs,
        config: &Config,
        stamped: bool,
        fail: bool,
    ) -> (Result<InitReport, InitError>, Option<FirstRecords>) {
        let mut recorded = None;
        let work = WorkFactor::TESTS_ONLY;
        let record = async |records: FirstRecords| {
            recorded = Some(records);
            if fail { Err(std::io::Error::other("disk full")) } else { Ok(()) }
        };
        let result = init(args, config, &Env::system(), work, stamped, record).await;
        (result, recorded)
    }

    #[tokio::test]
    async fn a_new_controller_gets_authority_export_bundle_and_records() {
        let dir = tempfile::tempdir().unwrap();
        let (args, config) = setup(dir.path(), CONFIG);
        let (report, records) = run(&args, &config, false, false).await;
        let (report, records) = (report.unwrap(), records.unwrap());
        assert_eq!(report.controller, "127.0.0.1:7443");
        assert_eq!((records.cloud, records.admin.name.as_str()), ("simulated", "alice"));
        let kept = AuthorityFile::in_dir(&config.data_dir).load().unwrap();
        assert_eq!(kept.fingerprint(), report.ca_fingerprint);
        let passphrase = Passphrase::from_file(&args.passphrase_file).unwrap();
        let export = import_authority(&std::fs::read(&args.export).unwrap(), &passphrase).unwrap();
        assert_eq!(export.fingerprint(), report.ca_fingerprint);
        assert!(args.bundle.join("context.toml").is_file());
    }

    #[tokio::test]
    async fn an_attempt_that_failed_at_the_end_can_be_repeated_with_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let (args, config) = setup(dir.path(), CONFIG);
        let (failed, records) = run(&args, &config, false, true).await;
        assert!(matches!(failed, Err(InitError::Record(_))));
        let first = AuthorityFile::in_dir(&config.data_dir).load().unwrap().fingerprint();
        let (again, _) = run(&args, &config, false, false).await;
        assert!(matches!(again, Err(InitError::Bundle(BundleError::Exists { .. }))));
        std::fs::remove_dir_all(&args.bundle).unwrap();
        let (again, second) = run(&args, &config, false, false).await;
        assert_eq!(again.unwrap().ca_fingerprint, first);
        let serial = |r: Option<FirstRecords>| r.unwrap().admin.issued.serial_hex;
        assert_ne!(serial(records), serial(second));
    }

    #[tokio::test]
    async fn what_a_person_got_wrong_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (args, config) = setup(dir.path(), CONFIG);
        let (done, _) = run(&args, &config, true, false).await;
        assert!(matches!(done, Err(InitError::Initialised { .. })));
        std::fs::write(&args.passphrase_file, "short").unwrap();
        let (weak, _) = run(&args, &config, false, false).await;
        assert!(matches!(weak, Err(InitError::Export(ExportError::WeakPassphrase { .. }))));
        let (args, config) = setup(dir.path(), &CONFIG.replace("127.0.0.1:7443", "127.0.0.1:0"));
        let (nowhere, _) = run(&args, &config, false, false).await;
        assert!(matches!(nowhere, Err(InitError::NoAddress)));
        assert!(!config.data_dir.exists() && !args.export.exists() && !args.bundle.exists());
    }
}
