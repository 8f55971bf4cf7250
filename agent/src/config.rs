//! The agent's configuration file.
//!
//! It says where things are, never who this machine is: the vmId is read from the machine alone, so
//! that a copied configuration cannot pass for another VM (I8).

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::mounts::{Choice, may_be_added};

/// Where the configuration is, unless told otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/azdr/agent.toml";
/// Where the identity is kept, unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/azdr";
/// Where it is noted which hooks are under way, unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/azdr";
/// Azure's instance metadata service.
pub const DEFAULT_METADATA_URL: &str = "http://169.254.169.254";

const MOST_LEAST_UPTIME_S: u64 = 3600;
const METADATA_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));

/// The whole file. Unknown fields are refused.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// host:port of the controller's agent listener.
    pub controller: String,
    /// Directory of the identity; private to root.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// Base URL of the instance metadata service: 169.254.169.254 or, for tests, loopback.
    #[serde(default = "default_metadata_url")]
    pub instance_metadata_url: String,
    /// The thaw process's socket.
    #[serde(default = "default_thawd_socket")]
    pub thawd_socket: PathBuf,
    /// When given, only file systems mounted at these places are frozen, probed and searched for
    /// witnesses. When not, all on the allow-list are.
    #[serde(default)]
    pub file_systems: Option<Vec<PathBuf>>,
    /// Where it is noted which hooks are under way: on a tmpfs, private to root.
    #[serde(default = "default_run_dir")]
    pub run_dir: PathBuf,
    /// This machine's own programs around a freeze.
    #[serde(default)]
    pub hooks: crate::hooks::settings::Settings,
    /// Types of file systems that are frozen beside ext2/3/4, xfs, btrfs and f2fs: bcachefs, jfs, nilfs2,
    /// reiserfs.
    #[serde(default)]
    pub more_file_system_types: Vec<String>,
    /// Nothing is frozen before the machine has been up for so many seconds: 0 to 3600.
    #[serde(default = "default_least_uptime")]
    pub least_uptime_s: u64,
    /// The lock that Azure Backup and Site Recovery hold while they freeze: another path for tests only.
    #[serde(default = "default_safe_freeze_lock")]
    pub safe_freeze_lock: PathBuf,
}

fn default_least_uptime() -> u64 {
    60
}

fn default_safe_freeze_lock() -> PathBuf {
    crate::safe_freeze_lock::DEFAULT_LOCK.into()
}

fn default_state_dir() -> PathBuf {
    DEFAULT_STATE_DIR.into()
}

fn default_run_dir() -> PathBuf {
    DEFAULT_RUN_DIR.into()
}

fn default_metadata_url() -> String {
    DEFAULT_METADATA_URL.to_owned()
}

fn default_thawd_socket() -> PathBuf {
    azdr_thawd_client::DEFAULT_SOCKET.into()
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML, or a field is unknown, missing or of the wrong kind.
    #[error("{path}: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Names line, field and what is allowed.
        reason: String,
    },
    /// A value is not allowed.
    #[error("{path}: field `{field}`: {value:?} is not allowed: {allowed}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// As given.
        value: String,
        /// What is.
        allowed: &'static str,
    },
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Names the file, the field and what is allowed.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Checks the file's text; `path` is for messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::Parse {
            path: path.to_owned(),
            reason: error.to_string().trim_end().to_owned(),
        })?;
        let refuse = |field, value: &str, allowed| {
            Err(ConfigError::Value {
                path: path.to_owned(),
                field,
                value: value.to_owned(),
                allowed,
            })
        };
        if !is_host_port(&config.controller) {
            return refuse("controller", &config.controller, "must be host:port");
        }
        if metadata_authority(&config.instance_metadata_url).is_none() {
            return refuse(
                "instance_metadata_url",
                &config.instance_metadata_url,
                "must be http://169.254.169.254, or http://ADDRESS:PORT on loopback",
            );
        }
        let absolute = "must be an absolute path";
        let paths = [
            ("state_dir", &config.state_dir),
            ("thawd_socket", &config.thawd_socket),
            ("run_dir", &config.run_dir),
            ("safe_freeze_lock", &config.safe_freeze_lock),
        ];
        for (field, value) in paths {
            if !value.is_absolute() {
                return refuse(field, &value.to_string_lossy(), absolute);
            }
        }
        config
            .hooks
            .check()
            .map_err(|reason| ConfigError::Parse { path: path.to_owned(), reason })?;
        if config.least_uptime_s > MOST_LEAST_UPTIME_S {
            let given = config.least_uptime_s.to_string();
            return refuse("least_uptime_s", &given, "must be 0 to 3600, in seconds");
        }
        if let Some(other) = config.more_file_system_types.iter().find(|t| !may_be_added(t)) {
            let allowed = "must be among bcachefs, jfs, nilfs2, reiserfs: file systems of one machine, on \
                           its own disks";
            return refuse("more_file_system_types", other, allowed);
        }
        match &config.file_systems {
            Some(paths) if paths.is_empty() => {
                refuse("file_systems", "[]", "must name at least one mount point, or be left out")
            }
            Some(paths) => match paths.iter().find(|path| !path.is_absolute()) {
                Some(path) => refuse("file_systems", &path.to_string_lossy(), absolute),
                None => Ok(config),
            },
            None => Ok(config),
        }
    }

    /// Which of the machine's file systems are frozen, probed and searched for witnesses.
    pub fn choice(&self) -> Choice {
        Choice { only: self.file_systems.clone(), more_types: self.more_file_system_types.clone() }
    }

    /// A file for a newly enrolled machine; Azure's metadata service unless another is given.
    pub fn text_for(controller: &str, state_dir: &Path, metadata_url: Option<&str>) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let metadata_url = metadata_url
            .map(|url| format!("instance_metadata_url = {}\n", quoted(url)))
            .unwrap_or_default();
        format!(
            "# Written by `azdr-agent enroll`.\n\
             # The controller's agent listener, host:port.\n\
             controller = {}\n\
             # Where the identity is kept.\n\
             state_dir = {}\n\
             {metadata_url}\
             # Only these mount points are frozen; all of ext2/3/4, xfs, btrfs, f2fs when left out.\n\
             # file_systems = [\"/\", \"/data\"]\n",
            quoted(controller),
            quoted(&state_dir.to_string_lossy()),
        )
    }
}

/// True for `host:port`, with a port.
pub fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|c: char| c.is_whitespace() || c == '/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

/// `address:port` of an allowed metadata URL.
pub(crate) fn metadata_authority(url: &str) -> Option<String> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let with_port = match authority.parse::<IpAddr>() {
        Ok(_) => format!("{authority}:80"),
        Err(_) => authority.to_owned(),
    };
    let address: std::net::SocketAddr = with_port.parse().ok()?;
    (address.ip() == METADATA_ADDRESS || address.ip().is_loopback()).then_some(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Config::parse(Path::new("/etc/azdr/agent.toml"), text).unwrap_err().to_string()
    }

    #[test]
    fn what_enrolment_writes_can_be_read() {
        let text = Config::text_for("azdr.example:7443", Path::new("/var/lib/a \"b\""), None);
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        assert_eq!(config.controller, "azdr.example:7443");
        assert_eq!(config.state_dir, Path::new("/var/lib/a \"b\""));
        assert_eq!(config.instance_metadata_url, DEFAULT_METADATA_URL);
        assert_eq!(config.thawd_socket, Path::new(azdr_thawd_client::DEFAULT_SOCKET));
        assert_eq!(config.file_systems, None);
        let url = "http://127.0.0.1:4000";
        let text = Config::text_for("azdr.example:7443", Path::new("/x"), Some(url));
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        assert_eq!(config.instance_metadata_url, url);
    }

    #[test]
    fn errors_name_the_file_the_field_and_what_is_allowed() {
        let unknown = error("controller = 'c:1'\nvm_id = 'x'");
        for part in ["/etc/azdr/agent.toml", "`vm_id`", "`file_systems`", "line 2"] {
            assert!(unknown.contains(part), "{unknown}");
        }
        let address = error("controller = 'nowhere'");
        for part in ["/etc/azdr/agent.toml", "`controller`", "\"nowhere\"", "host:port"] {
            assert!(address.contains(part), "{address}");
        }
        assert!(error("state_dir = '/x'").contains("missing field `controller`"));
        assert!(error("controller = 'c:1'\nstate_dir = 'x'").contains("absolute path"));
        assert!(error("controller = 'c:1'\nfile_systems = []").contains("at least one"));
        assert!(error("controller = 'c:1'\nfile_systems = ['data']").contains("\"data\""));
        let remote = error("controller = 'c:1'\nmore_file_system_types = ['jfs', 'nfs4']");
        assert!(remote.contains("`more_file_system_types`: \"nfs4\""), "{remote}");
        let late = error("controller = 'c:1'\nleast_uptime_s = 3601");
        assert!(
            late.contains("`least_uptime_s`: \"3601\"") && late.contains("0 to 3600"),
            "{late}"
        );
    }

    #[test]
    fn only_azures_metadata_service_or_loopback_may_say_who_this_machine_is() {
        for (url, expected) in [
            ("http://169.254.169.254", Some("169.254.169.254:80")),
            ("http://169.254.169.254/", Some("169.254.169.254:80")),
            ("http://127.0.0.1:4000", Some("127.0.0.1:4000")),
            ("http://[::1]:4000", Some("[::1]:4000")),
            ("http://10.0.0.1:80", None),
            ("http://localhost:80", None),
            ("https://127.0.0.1:80", None),
            ("http://127.0.0.1:80/path", None),
        ] {
            assert_eq!(metadata_authority(url).as_deref(), expected, "{url}");
        }
    }
}
