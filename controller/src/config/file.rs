//! The configuration file as written, before anything in it is checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::ConfigArgs;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) data_dir: PathBuf,
    pub(super) cloud: Cloud,
    pub(super) credential: Credential,
    #[serde(default)]
    pub(super) listen: Listen,
    #[serde(default)]
    pub(super) advertise: Advertise,
    #[serde(default)]
    pub(super) backup: Backup,
    #[serde(default)]
    pub(super) content: Content,
    #[serde(default)]
    pub(super) retention: Retention,
    #[serde(default)]
    pub(super) drill: Drill,
    #[serde(default)]
    pub(super) probe: Probe,
    #[serde(default)]
    pub(super) scheduler: Scheduler,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cloud {
    pub(super) name: String,
    pub(super) endpoint: Option<String>,
    pub(super) authority: Option<String>,
    pub(super) tenant_id: String,
    pub(super) subscriptions: Vec<String>,
    pub(super) ca_certificate: Option<PathBuf>,
    #[serde(default = "azure")]
    pub(super) poll_pace: String,
}

fn azure() -> String {
    "azure".to_owned()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Credential {
    pub(super) kind: String,
    pub(super) client_id: Option<String>,
    pub(super) client_secret_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Listen {
    pub(super) admin: String,
    pub(super) agent: String,
    pub(super) enroll: String,
    pub(super) metrics: String,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            admin: "0.0.0.0:7443".to_owned(),
            agent: "0.0.0.0:7444".to_owned(),
            enroll: "0.0.0.0:7445".to_owned(),
            metrics: "127.0.0.1:9464".to_owned(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Advertise {
    pub(super) admin: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) enroll: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Backup {
    pub(super) snapshot_resource_group_prefix: String,
    pub(super) hold_limit_ms: u64,
    pub(super) lease_ms: u64,
    pub(super) max_concurrent_holds: u64,
}

impl Default for Backup {
    fn default() -> Self {
        Self {
            snapshot_resource_group_prefix: "azdr-".to_owned(),
            hold_limit_ms: 10_000,
            lease_ms: 3_000,
            max_concurrent_holds: 8,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Content {
    /// A number or a word.
    pub(super) sampled_blocks: toml::Value,
}

impl Default for Content {
    fn default() -> Self {
        Self { sampled_blocks: i64::from(azdr_domain::content::DEFAULT_SAMPLE).into() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Retention {
    pub(super) approve_above_percent: u64,
    pub(super) approve_above_points: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { approve_above_percent: 20, approve_above_points: 5 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Drill {
    pub(super) access: String,
    pub(super) allowed_source: Option<String>,
    pub(super) subnets: BTreeMap<String, String>,
}

impl Default for Drill {
    fn default() -> Self {
        Self { access: "none".to_owned(), allowed_source: None, subnets: BTreeMap::new() }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Probe {
    pub(super) ssh_port: u64,
    pub(super) user: Option<String>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) connect_timeout_secs: u64,
    pub(super) login_timeout_secs: u64,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            ssh_port: 22,
            user: None,
            key_file: None,
            connect_timeout_secs: 5,
            login_timeout_secs: 30,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Scheduler {
    pub(super) enabled: bool,
    pub(super) tick_secs: u64,
    pub(super) inventory_secs: u64,
    pub(super) max_verifications: u64,
    pub(super) max_drills: u64,
}

impl Default for Scheduler {
    fn default() -> Self {
        Self {
            enabled: true,
            tick_secs: 30,
            inventory_secs: 300,
            max_verifications: 4,
            max_drills: 1,
        }
    }
}

impl File {
    /// Makes the file's relative paths relative to its folder.
    pub(super) fn anchor_paths(&mut self, folder: &Path) {
        self.data_dir = folder.join(&self.data_dir);
        let secret = &mut self.credential.client_secret_file;
        for path in [&mut self.cloud.ca_certificate, secret, &mut self.probe.key_file] {
            *path = path.take().map(|p| folder.join(p));
        }
    }

    /// Replaces what the command line or the environment says otherwise.
    pub(super) fn override_with(&mut self, args: &ConfigArgs) {
        fn replace<T: Clone>(target: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                *target = value.clone();
            }
        }
        fn replace_optional<T: Clone>(target: &mut Option<T>, value: &Option<T>) {
            if value.is_some() {
                *target = value.clone();
            }
        }
        replace(&mut self.data_dir, &args.data_dir);
        replace_optional(&mut self.cloud.endpoint, &args.cloud_endpoint);
        replace_optional(&mut self.cloud.authority, &args.cloud_authority);
        replace_optional(&mut self.cloud.ca_certificate, &args.cloud_ca_certificate);
        replace(&mut self.listen.admin, &args.listen_admin);
        replace(&mut self.listen.agent, &args.listen_agent);
        replace(&mut self.listen.enroll, &args.listen_enroll);
        replace(&mut self.listen.metrics, &args.listen_metrics);
        replace_optional(&mut self.advertise.admin, &args.advertise_admin);
        replace_optional(&mut self.advertise.agent, &args.advertise_agent);
        replace_optional(&mut self.advertise.enroll, &args.advertise_enroll);
    }
}
