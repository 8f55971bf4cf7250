//! The controller's configuration: one TOML file, and overrides from environment and command line.
//!
//! Everything is read and checked before anything is bound or opened, and each error names the file,
//! the field, the value and what is allowed. Secrets are not in the file: it names where they are.
//! Relative paths in the file are relative to it.

mod address;
mod check;
mod file;
mod probe;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use azdr_domain::content::Sampling;
use azdr_domain::{ArmId, Region};
use url::Url;

use crate::reconcile::proofs::ProofBudget;
use crate::ssh_probe::ProbeLogin;

pub use address::{HostPort, SourceAddress};

/// The environment variable that holds the client secret, where no file does.
pub const CLIENT_SECRET_VARIABLE: &str = "AZDR_CLIENT_SECRET";

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}, named by {named_by}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The option or field that names it.
        named_by: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML, has an unknown field, or lacks one.
    #[error("{} is not a valid configuration: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong.
        message: String,
    },
    /// A value is not allowed.
    #[error("{}: {field} cannot be \"{value}\": {allowed}", path.display())]
    Value {
        /// The file; the value may come from the environment or the command line instead.
        path: PathBuf,
        /// The field, with its table.
        field: String,
        /// The value, empty when there is none.
        value: String,
        /// What would be allowed.
        allowed: String,
    },
}

/// Overrides from the command line and the environment; they win over the file.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, env = "AZDR_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Where the database and the certificate authority are kept
    #[arg(long, env = "AZDR_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Azure Resource Manager, or a simulator of it
    #[arg(long, env = "AZDR_CLOUD_ENDPOINT", value_name = "URL")]
    pub cloud_endpoint: Option<String>,
    /// Issuer of Azure tokens
    #[arg(long, env = "AZDR_CLOUD_AUTHORITY", value_name = "URL")]
    pub cloud_authority: Option<String>,
    /// PEM file with certificates to trust for Azure, besides the machine's own
    #[arg(long, env = "AZDR_CLOUD_CA_CERTIFICATE", value_name = "FILE")]
    pub cloud_ca_certificate: Option<PathBuf>,
    /// Address of the operators' listener
    #[arg(long, env = "AZDR_LISTEN_ADMIN", value_name = "IP:PORT")]
    pub listen_admin: Option<String>,
    /// Address of the agents' listener
    #[arg(long, env = "AZDR_LISTEN_AGENT", value_name = "IP:PORT")]
    pub listen_agent: Option<String>,
    /// Address of the enrolment listener
    #[arg(long, env = "AZDR_LISTEN_ENROLL", value_name = "IP:PORT")]
    pub listen_enroll: Option<String>,
    /// Address of /metrics
    #[arg(long, env = "AZDR_LISTEN_METRICS", value_name = "IP:PORT")]
    pub listen_metrics: Option<String>,
    /// How operators reach the controller
    #[arg(long, env = "AZDR_ADVERTISE_ADMIN", value_name = "HOST:PORT")]
    pub advertise_admin: Option<String>,
    /// How agents reach the controller
    #[arg(long, env = "AZDR_ADVERTISE_AGENT", value_name = "HOST:PORT")]
    pub advertise_agent: Option<String>,
    /// How new agents reach the enrolment listener
    #[arg(long, env = "AZDR_ADVERTISE_ENROLL", value_name = "HOST:PORT")]
    pub advertise_enroll: Option<String>,
}

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where the database and the certificate authority are kept.
    pub data_dir: PathBuf,
    /// Which cloud.
    pub cloud: Cloud,
    /// How to sign in to it.
    pub credential: Credential,
    /// What to bind.
    pub listen: Listen,
    /// How others reach it.
    pub advertise: Advertise,
    /// Capture.
    pub backup: Backup,
    /// What is hashed after a backup.
    pub content: Content,
    /// When a pruning asks.
    pub retention: Retention,
    /// Drills.
    pub drill: Drill,
    /// Probes of restored machines.
    pub probe: Probe,
    /// Scheduled runs.
    pub scheduler: Scheduler,
}

/// Which cloud the controller is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloudName {
    /// `AzureCloud`: the public cloud.
    AzureCloud,
    /// `simulated`: never Azure itself (invariant I11).
    Simulated,
}

impl CloudName {
    /// As in the file and in the database's stamp.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AzureCloud => "AzureCloud",
            Self::Simulated => "simulated",
        }
    }
}

/// How often Azure's operations are polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PollPace {
    /// As Azure's budgets demand.
    Azure,
    /// As fast as a simulator likes; not allowed with `AzureCloud`.
    Quick,
}

/// The cloud.
#[derive(Debug, Clone)]
pub struct Cloud {
    /// Its name, stamped into the database.
    pub name: CloudName,
    /// Resource Manager, https. Default for `AzureCloud`: `https://management.azure.com`.
    pub endpoint: Url,
    /// Who issues tokens, https. Default for `AzureCloud`: `None`, Azure's own; for `simulated`: the
    /// endpoint, so that no credential ever reaches Azure.
    pub authority: Option<Url>,
    /// The Entra tenant, lower-case.
    pub tenant_id: String,
    /// At least one; lower-case, sorted, each once.
    pub subscriptions: Vec<String>,
    /// PEM certificates to trust for it, besides the machine's own.
    pub ca_certificate_pem: Option<Vec<u8>>,
    /// How often operations are polled.
    pub poll_pace: PollPace,
}

/// How to sign in to the cloud.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// The machine's own identity.
    ManagedIdentity {
        /// Which one, where it has several.
        client_id: Option<String>,
    },
    /// A Kubernetes service account, described by its usual environment variables.
    WorkloadIdentity,
    /// A service principal with a password.
    ClientSecret {
        /// Its application id.
        client_id: String,
        /// Its password.
        secret: SecretText,
    },
    /// Whoever is signed in to `az`.
    AzureCli,
}

/// A text that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(String);

impl SecretText {
    /// The text, for what needs it: never for a log, an error or the journal.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// What to bind. Port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// Operators; default `0.0.0.0:7443`.
    pub admin: SocketAddr,
    /// Agents; default `0.0.0.0:7444`.
    pub agent: SocketAddr,
    /// Enrolment; default `0.0.0.0:7445`.
    pub enroll: SocketAddr,
    /// Prometheus; default `127.0.0.1:9464`.
    pub metrics: SocketAddr,
}

/// How others reach the listeners: what tokens and contexts say. `None`: at the address that is bound,
/// which then is not a wildcard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advertise {
    /// Operators.
    pub admin: Option<HostPort>,
    /// Agents.
    pub agent: Option<HostPort>,
    /// Enrolment.
    pub enroll: Option<HostPort>,
}

impl Advertise {
    /// What to tell others of a listener that is bound to `bound`.
    pub fn address(advertised: &Option<HostPort>, bound: SocketAddr) -> String {
        advertised.as_ref().map_or_else(|| bound.to_string(), ToString::to_string)
    }
}

/// Capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Snapshots of a region go into the group of this prefix and the region's name; default `azdr-`.
    pub snapshot_resource_group_prefix: String,
    /// The longest freeze, 1 to 25 s; default 10 s.
    pub hold_limit: Duration,
    /// A freeze that is not renewed ends after this, 2 to 10 s; default 3 s.
    pub lease: Duration,
    /// Freezes at the same time, 1 to 256; default 8.
    pub max_concurrent_holds: usize,
}

/// Hashes of what was backed up, for proofs of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// How many blocks of 64 KiB are read and hashed of each disk after each backup, 0 to 10,000, or
    /// everything (`all`). Default 300; 0: none.
    pub sampled_blocks: Sampling,
}

/// How much a pruning may delete of a VM's recovery points before it asks a second person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Per cent of the VM's points, 0 to 100; default 20. 100: it never asks.
    pub approve_above_percent: u32,
    /// So many are never asked about, 0 to 1,000,000; default 5.
    pub approve_above_points: u32,
}

/// How the controller reaches a drill's machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrillAccess {
    /// By a public address whose security group admits this source only.
    PublicIp {
        /// The controller's address as Azure sees it.
        allowed_source: SourceAddress,
    },
    /// In the customer's drill subnet of the region.
    Subnet {
        /// At least one.
        subnets: BTreeMap<Region, ArmId>,
    },
    /// Not at all: the evidence is the agent's.
    None,
}

/// Drills.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drill {
    /// Default: `none`.
    pub access: DrillAccess,
}

/// Probes of restored machines.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Default 22.
    pub ssh_port: u16,
    /// How to log in; `None`, the default: only a banner is read.
    pub login: Option<ProbeLogin>,
}

/// Scheduled runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// Whether scheduled runs are started at all; default true.
    pub enabled: bool,
    /// How often the schedule is looked at, 1 s to 1 h; default 30 s.
    pub tick: Duration,
    /// How often the VMs are looked at for selectors and tags, 1 s to 1 day; default 5 min.
    pub inventory: Duration,
    /// How many verifications and drills may be under way when the schedule starts one, 0 to 100 each;
    /// default 4 and 1.
    pub proofs: ProofBudget,
}

impl Config {
    /// Reads and checks everything. `variable` reads the environment.
    ///
    /// # Errors
    /// At the first thing that cannot be used.
    pub fn load(
        args: &ConfigArgs,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let path = &args.config;
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.clone(),
            named_by: "--config",
            source,
        })?;
        let mut file: file::File = toml::from_str(&text).map_err(|e| ConfigError::Syntax {
            path: path.clone(),
            message: e.to_string().trim_end().to_owned(),
        })?;
        file.anchor_paths(path.parent().unwrap_or(Path::new("")));
        file.override_with(args);
        check::Checker { path, variable: &variable }.config(file)
    }

    /// The resource group of a region's snapshots.
    pub fn snapshot_resource_group(&self, region: &Region) -> String {
        format!("{}{region}", self.backup.snapshot_resource_group_prefix)
    }
}
