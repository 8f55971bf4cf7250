//! How a machine gets its first certificate: a one-time token, a key that never leaves it, and a
//! server that is known by its authority's fingerprint.

use std::path::{Path, PathBuf};

use azdr_identity::{AuthorityError, ConnectError, connect_pinned};
use azdr_proto::enroll::EnrollRequest;
use azdr_proto::enroll::enroll_service_client::EnrollServiceClient;
use tonic::{Code, Status};

use crate::config::{Config, ConfigError, is_host_port};
use crate::identity_store::{self, StoreError, StoredIdentity};
use crate::vm_id::{self, UnknownVm};
use crate::{VERSION, atomic_file, restored};

/// What an operator gives.
#[derive(Clone, Debug)]
pub struct Enrolment {
    /// host:port of the controller's enrolment listener.
    pub controller: String,
    /// host:port of the controller's agent listener.
    pub agent_address: String,
    /// The one-time token.
    pub token: String,
    /// SHA-256 of the controller's CA certificate.
    pub ca_fingerprint: String,
    /// Where the configuration is, or will be written.
    pub config: PathBuf,
    /// Where the identity will be kept; `None`: as configured.
    pub state_dir: Option<PathBuf>,
    /// For a configuration that is written; Azure's when `None`.
    pub instance_metadata_url: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The VM that this machine is, to the controller.
    pub vm_resource_id: String,
    /// Its vmId.
    pub vm_id: String,
    /// Where the identity is.
    pub state_dir: PathBuf,
    /// True when the configuration file was written; false when it was there.
    pub config_written: bool,
    /// The agent address of a configuration that was there, when it is another one than asked for.
    pub other_address: Option<String>,
}

/// Why a machine is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// An argument cannot be used.
    #[error("{argument} {value:?} is not of the form host:port")]
    Address {
        /// The argument.
        argument: &'static str,
        /// As given.
        value: String,
    },
    /// The configuration that is there cannot be used.
    #[error("the configuration cannot be used")]
    Config(#[from] ConfigError),
    /// The configuration cannot be written.
    #[error("cannot write {path}")]
    WriteConfig {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The identity cannot be stored.
    #[error("the identity cannot be stored")]
    Store(#[from] StoreError),
    /// The state directory cannot be written to.
    #[error("cannot write to {path}")]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// This machine does not say which one it is.
    #[error(transparent)]
    UnknownVm(#[from] UnknownVm),
    /// No key.
    #[error("cannot make a key")]
    Key(#[from] AuthorityError),
    /// No connection.
    #[error("cannot connect to enrol")]
    Connect(#[from] ConnectError),
    /// The controller said no.
    #[error("the controller refused to enrol this machine (vmId {vm_id}): {}", .status.message())]
    Refused {
        /// As claimed.
        vm_id: String,
        /// The controller's answer.
        status: Box<Status>,
    },
    /// The controller's answer is not what it should be.
    #[error("the controller's answer cannot be used: {0}")]
    Answer(&'static str),
}

impl EnrollError {
    /// What to do next; empty when the message says it all.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Refused { status, .. } => match status.code() {
                Code::Unauthenticated => {
                    "The token is unknown, has expired or was used already. Mint a new one with \
                     `azdr agent token VM` and run this again."
                }
                Code::FailedPrecondition => {
                    "The token is for another machine, or Azure reports another vmId for this VM. \
                     Check which VM the token was minted for."
                }
                Code::InvalidArgument => "Agent and controller may be of different versions.",
                _ => "Look at the controller's log, then run this again.",
            },
            Self::Connect(ConnectError::Unreachable { .. }) => {
                "Check the address and port (the enrolment listener's, not the agents'), and that \
                 the network lets this machine reach it."
            }
            Self::Connect(ConnectError::NotTrusted { .. }) => {
                "Compare --ca-fingerprint with what the controller prints at `init`. If they are \
                 equal, somebody else answers at this address: do not go on."
            }
            Self::Connect(_) | Self::Address { .. } => "See `azdr-agent enroll --help`.",
            Self::UnknownVm(_) => "Is this an Azure VM? The metadata service must be reachable.",
            Self::StateDir { .. } | Self::Store(_) | Self::WriteConfig { .. } => {
                "Run this as root."
            }
            Self::Config(_) | Self::Key(_) | Self::Answer(_) => "",
        }
    }

    /// 2 for what the caller typed, 3 for what the controller or the network says, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Address { .. }
            | Self::Connect(ConnectError::BadAddress { .. } | ConnectError::BadIdentity { .. }) => {
                2
            }
            Self::Connect(_) | Self::Refused { .. } => 3,
            _ => 1,
        }
    }
}

/// Enrols this machine. Nothing is changed on it unless the controller agrees; running it again
/// replaces the identity.
///
/// # Errors
/// See [`EnrollError`]; the token is used up only when the controller had agreed.
pub async fn enroll(enrolment: &Enrolment) -> Result<Enrolled, EnrollError> {
    check(enrolment)?;
    let there = match enrolment.config.exists() {
        true => Some(Config::load(&enrolment.config)?),
        false => None,
    };
    let config = match &there {
        Some(config) => config.clone(),
        None => {
            let state_dir = enrolment.state_dir.clone().unwrap_or(default_state_dir());
            Config::parse(&enrolment.config, &config_text(enrolment, &state_dir))?
        }
    };
    let state_dir = enrolment.state_dir.clone().unwrap_or_else(|| config.state_dir.clone());
    // Before the token is spent.
    try_state_dir(&state_dir)?;
    let vm = vm_id::read(&config.instance_metadata_url).await?;
    let (key_pem, csr_der) = azdr_identity::generate_key_and_csr("azdr-agent")?;
    let channel = connect_pinned(&enrolment.controller, &enrolment.ca_fingerprint).await?;
    let request = EnrollRequest {
        token: enrolment.token.clone(),
        csr_der,
        vm_id: vm.id.clone(),
        agent_version: VERSION.to_owned(),
    };
    let answer = EnrollServiceClient::new(channel).enroll(request).await;
    let answer = answer
        .map_err(|status| EnrollError::Refused { vm_id: vm.id.clone(), status: Box::new(status) })?
        .into_inner();
    let identity = restored::assemble(key_pem, answer.certificate_chain_der)
        .ok_or(EnrollError::Answer("it holds no certificate and authority"))?;
    let pinned = enrolment.ca_fingerprint.replace(':', "").to_ascii_lowercase();
    if azdr_identity::fingerprint(&identity.ca_der) != pinned {
        return Err(EnrollError::Answer("its authority is not the one that was pinned"));
    }
    let stored = StoredIdentity {
        vm_resource_id: Some(answer.vm_resource_id.clone()),
        vm_id: answer.vm_id.to_ascii_lowercase(),
        agent_address: enrolment.agent_address.clone(),
        identity,
    };
    identity_store::save(&state_dir, &stored)?;
    if there.is_none() {
        write_config(enrolment, &state_dir)?;
    }
    Ok(Enrolled {
        vm_resource_id: answer.vm_resource_id,
        vm_id: stored.vm_id,
        state_dir,
        config_written: there.is_none(),
        other_address: there
            .map(|config| config.controller)
            .filter(|address| *address != enrolment.agent_address),
    })
}

fn check(enrolment: &Enrolment) -> Result<(), EnrollError> {
    for (argument, value) in
        [("--controller", &enrolment.controller), ("--agent-address", &enrolment.agent_address)]
    {
        if !is_host_port(value) {
            return Err(EnrollError::Address { argument, value: value.clone() });
        }
    }
    Ok(())
}

fn default_state_dir() -> PathBuf {
    crate::config::DEFAULT_STATE_DIR.into()
}

fn try_state_dir(state_dir: &Path) -> Result<(), EnrollError> {
    use std::os::unix::fs::DirBuilderExt;
    let attempt = || {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir)?;
        atomic_file::write(state_dir, "enrolling", b"")?;
        std::fs::remove_file(state_dir.join("enrolling"))
    };
    attempt().map_err(|source| EnrollError::StateDir { path: state_dir.to_owned(), source })
}

fn config_text(enrolment: &Enrolment, state_dir: &Path) -> String {
    let url = enrolment.instance_metadata_url.as_deref();
    Config::text_for(&enrolment.agent_address, state_dir, url)
}

fn write_config(enrolment: &Enrolment, state_dir: &Path) -> Result<(), EnrollError> {
    let path = &enrolment.config;
    let attempt = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput)?;
        std::fs::create_dir_all(folder)?;
        let text = config_text(enrolment, state_dir);
        atomic_file::write(folder, &name.to_string_lossy(), text.as_bytes())
    };
    attempt().map_err(|source| EnrollError::WriteConfig { path: path.clone(), source })
}
