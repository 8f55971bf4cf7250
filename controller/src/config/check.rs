//! Turns the file as written into a configuration, or into an error that says what to write instead.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use azdr_domain::content::{ALL, MOST_SAMPLED, Sampling};
use azdr_domain::{ArmId, NameKind, Region};
use url::Url;

use super::address::SourceAddress;
use super::{
    Advertise, Backup, CLIENT_SECRET_VARIABLE, Cloud, CloudName, Config, ConfigError, Content,
    Credential, Drill, DrillAccess, Listen, PollPace, Retention, Scheduler, SecretText, file,
};
use crate::reconcile::proofs::ProofBudget;

const PUBLIC_ENDPOINT: &str = "https://management.azure.com/";

/// The longest name of a region, for which a resource group's name must leave room.
const REGION_LIMIT: usize = 40;

pub(super) struct Checker<'a> {
    pub(super) path: &'a Path,
    pub(super) variable: &'a dyn Fn(&str) -> Option<String>,
}

pub(super) type Checked<T> = Result<T, ConfigError>;

impl Checker<'_> {
    pub(super) fn config(&self, file: file::File) -> Checked<Config> {
        if file.data_dir.as_os_str().is_empty() {
            return Err(self.wrong("data_dir", "", "it must name a folder"));
        }
        let cloud = self.cloud(file.cloud)?;
        let listen = self.listen(&file.listen)?;
        Ok(Config {
            data_dir: file.data_dir,
            credential: self.credential(file.credential)?,
            advertise: self.advertise(&file.advertise, &listen)?,
            backup: self.backup(file.backup)?,
            content: Content { sampled_blocks: self.sampling(&file.content.sampled_blocks)? },
            retention: self.retention(&file.retention)?,
            drill: self.drill(file.drill, &cloud)?,
            probe: self.probe(file.probe)?,
            scheduler: self.scheduler(&file.scheduler)?,
            cloud,
            listen,
        })
    }

    fn sampling(&self, given: &toml::Value) -> Checked<Sampling> {
        let number = given.as_integer().and_then(|n| u32::try_from(n).ok());
        match number.filter(|n| *n <= MOST_SAMPLED) {
            Some(blocks) => Ok(Sampling::Blocks(blocks)),
            None if given.as_str() == Some(ALL) => Ok(Sampling::All),
            None => {
                let value = given.as_str().map_or_else(|| given.to_string(), str::to_owned);
                let allowed = format!("it must be 0 to {MOST_SAMPLED}, or \"{ALL}\"");
                Err(self.wrong("content.sampled_blocks", value, &allowed))
            }
        }
    }

    fn scheduler(&self, given: &file::Scheduler) -> Checked<Scheduler> {
        let seconds =
            |field: &str, value, most| self.number(field, value, 1, most).map(Duration::from_secs);
        let at_once = |field: &str, value| self.number(field, value, 0, 100).map(|n| n as usize);
        Ok(Scheduler {
            enabled: given.enabled,
            tick: seconds("scheduler.tick_secs", given.tick_secs, 3600)?,
            inventory: seconds("scheduler.inventory_secs", given.inventory_secs, 86_400)?,
            proofs: ProofBudget {
                verifications: at_once("scheduler.max_verifications", given.max_verifications)?,
                drills: at_once("scheduler.max_drills", given.max_drills)?,
            },
        })
    }

    pub(super) fn wrong(
        &self,
        field: &str,
        value: impl fmt::Display,
        allowed: &str,
    ) -> ConfigError {
        ConfigError::Value {
            path: self.path.to_owned(),
            field: field.to_owned(),
            value: value.to_string(),
            allowed: allowed.to_owned(),
        }
    }

    fn parsed<T: FromStr<Err = &'static str>>(&self, field: &str, value: &str) -> Checked<T> {
        value.parse().map_err(|allowed| self.wrong(field, value, allowed))
    }

    pub(super) fn number(&self, field: &str, value: u64, least: u64, most: u64) -> Checked<u64> {
        if (least..=most).contains(&value) {
            return Ok(value);
        }
        Err(self.wrong(field, value, &format!("it must be {least} to {most}")))
    }

    /// A GUID, or what stands for one in a simulator; lower-case, since Azure ignores its case.
    fn id(&self, field: &str, value: &str) -> Checked<String> {
        let valid = (1..=64).contains(&value.len())
            && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if valid {
            return Ok(value.to_ascii_lowercase());
        }
        Err(self.wrong(field, value, "it must be 1 to 64 letters, digits or hyphens"))
    }

    fn url(&self, field: &str, value: &str) -> Checked<Url> {
        let url = Url::parse(value).ok().filter(|url| {
            url.scheme() == "https"
                && url.has_host()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none()
                && url.username().is_empty()
                && url.password().is_none()
        });
        let allowed = "it must be an https URL without a path, like https://management.azure.com";
        url.ok_or_else(|| self.wrong(field, value, allowed))
    }

    fn cloud(&self, cloud: file::Cloud) -> Checked<Cloud> {
        let name = match cloud.name.as_str() {
            "AzureCloud" => CloudName::AzureCloud,
            "simulated" => CloudName::Simulated,
            other => {
                return Err(self.wrong("cloud.name", other, "it must be AzureCloud or simulated"));
            }
        };
        let endpoint = match (name, cloud.endpoint) {
            (_, Some(endpoint)) => self.url("cloud.endpoint", &endpoint)?,
            (CloudName::AzureCloud, None) => {
                Url::parse(PUBLIC_ENDPOINT).expect("a constant that parses")
            }
            (CloudName::Simulated, None) => {
                return Err(self.wrong("cloud.endpoint", "", "a simulated cloud needs one"));
            }
        };
        let authority = match (name, cloud.authority) {
            (_, Some(authority)) => Some(self.url("cloud.authority", &authority)?),
            // Without one, credentials would go to Azure's own.
            (CloudName::Simulated, None) => Some(endpoint.clone()),
            (CloudName::AzureCloud, None) => None,
        };
        self.same_cloud(name, &endpoint, authority.as_ref())?;
        let mut subscriptions = vec![];
        for subscription in &cloud.subscriptions {
            let id = self.id("cloud.subscriptions", subscription)?;
            if subscriptions.contains(&id) {
                let allowed = "each subscription is listed once";
                return Err(self.wrong("cloud.subscriptions", subscription, allowed));
            }
            subscriptions.push(id);
        }
        if subscriptions.is_empty() {
            return Err(self.wrong("cloud.subscriptions", "[]", "list at least one"));
        }
        subscriptions.sort();
        let poll_pace = match (cloud.poll_pace.as_str(), name) {
            ("azure", _) => PollPace::Azure,
            ("quick", CloudName::Simulated) => PollPace::Quick,
            (other, CloudName::Simulated) => {
                return Err(self.wrong("cloud.poll_pace", other, "it must be azure or quick"));
            }
            (other, CloudName::AzureCloud) => {
                return Err(self.wrong(
                    "cloud.poll_pace",
                    other,
                    "with AzureCloud it must be azure",
                ));
            }
        };
        Ok(Cloud {
            name,
            endpoint,
            authority,
            tenant_id: self.id("cloud.tenant_id", &cloud.tenant_id)?,
            subscriptions,
            ca_certificate_pem: match cloud.ca_certificate {
                Some(path) => Some(self.certificates(&path)?),
                None => None,
            },
            poll_pace,
        })
    }

    /// A simulated cloud is never Azure, and Azure is nothing else (invariant I11).
    fn same_cloud(&self, name: CloudName, endpoint: &Url, authority: Option<&Url>) -> Checked<()> {
        if name == CloudName::AzureCloud && endpoint.as_str() != PUBLIC_ENDPOINT {
            let allowed = "with AzureCloud it must be https://management.azure.com";
            return Err(self.wrong("cloud.endpoint", endpoint, allowed));
        }
        if name == CloudName::Simulated {
            let urls = [("cloud.endpoint", Some(endpoint)), ("cloud.authority", authority)];
            for (field, url) in urls {
                if let Some(url) = url.filter(|url| is_microsofts(url)) {
                    return Err(self.wrong(field, url, "a simulated cloud cannot be Azure itself"));
                }
            }
        }
        Ok(())
    }

    fn certificates(&self, path: &Path) -> Checked<Vec<u8>> {
        let unreadable = |source| ConfigError::Unreadable {
            path: path.to_owned(),
            named_by: "cloud.ca_certificate",
            source,
        };
        let pem = std::fs::read_to_string(path).map_err(unreadable)?;
        if !pem.contains("-----BEGIN CERTIFICATE-----") {
            let allowed = "it must name a PEM file with certificates";
            return Err(self.wrong("cloud.ca_certificate", path.display(), allowed));
        }
        Ok(pem.into_bytes())
    }

    fn credential(&self, credential: file::Credential) -> Checked<Credential> {
        const FIELD: &str = "credential.kind";
        let file::Credential { kind, client_id, client_secret_file } = credential;
        let client_id = match client_id {
            Some(id) => Some(self.id("credential.client_id", &id)?),
            None => None,
        };
        if kind != "client_secret" && client_secret_file.is_some() {
            let allowed = "credential.client_secret_file goes with client_secret";
            return Err(self.wrong(FIELD, kind, allowed));
        }
        match (kind.as_str(), client_id) {
            ("managed_identity", client_id) => Ok(Credential::ManagedIdentity { client_id }),
            ("workload_identity", None) => Ok(Credential::WorkloadIdentity),
            ("azure_cli", None) => Ok(Credential::AzureCli),
            ("client_secret", Some(client_id)) => {
                let secret = self.client_secret(client_secret_file.as_deref())?;
                Ok(Credential::ClientSecret { client_id, secret })
            }
            ("client_secret", None) => {
                Err(self.wrong("credential.client_id", "", "client_secret needs one"))
            }
            ("workload_identity" | "azure_cli", Some(id)) => {
                let allowed = format!("{kind} takes none");
                Err(self.wrong("credential.client_id", id, &allowed))
            }
            _ => {
                let allowed =
                    "it must be managed_identity, workload_identity, client_secret or azure_cli";
                Err(self.wrong(FIELD, kind, allowed))
            }
        }
    }

    fn client_secret(&self, file: Option<&Path>) -> Checked<SecretText> {
        const FIELD: &str = "credential.client_secret_file";
        let variable = (self.variable)(CLIENT_SECRET_VARIABLE).filter(|secret| !secret.is_empty());
        let secret = match (file, variable) {
            (Some(path), Some(_)) => {
                let allowed = format!("{CLIENT_SECRET_VARIABLE} is set too, and only one can be");
                return Err(self.wrong(FIELD, path.display(), &allowed));
            }
            (None, None) => {
                let allowed = format!("set it, or {CLIENT_SECRET_VARIABLE} in the environment");
                return Err(self.wrong(FIELD, "", &allowed));
            }
            (None, Some(secret)) => secret,
            (Some(path), None) => std::fs::read_to_string(path).map_err(|source| {
                ConfigError::Unreadable { path: path.to_owned(), named_by: FIELD, source }
            })?,
        };
        let secret = secret.trim_end_matches(['\r', '\n']);
        if secret.is_empty() {
            return Err(self.wrong(FIELD, "", "the secret is empty"));
        }
        Ok(SecretText(secret.to_owned()))
    }

    fn listen(&self, listen: &file::Listen) -> Checked<Listen> {
        let all = [
            ("listen.admin", &listen.admin),
            ("listen.agent", &listen.agent),
            ("listen.enroll", &listen.enroll),
            ("listen.metrics", &listen.metrics),
        ];
        let mut seen: Vec<SocketAddr> = vec![];
        for (field, value) in all {
            let address: SocketAddr = value.parse().map_err(|_| {
                self.wrong(field, value, "it must be an IP address and port, like 127.0.0.1:7443")
            })?;
            if address.port() != 0 && seen.contains(&address) {
                return Err(self.wrong(field, value, "another listener has this address"));
            }
            seen.push(address);
        }
        Ok(Listen { admin: seen[0], agent: seen[1], enroll: seen[2], metrics: seen[3] })
    }

    fn advertise(&self, advertise: &file::Advertise, listen: &Listen) -> Checked<Advertise> {
        let one = |field: &str, value: &Option<String>, bound: SocketAddr| match value {
            Some(value) => self.parsed(field, value).map(Some),
            None if bound.ip().is_unspecified() => {
                let allowed =
                    format!("the listener is bound to {bound}: set the host:port that reaches it");
                Err(self.wrong(field, "", &allowed))
            }
            None => Ok(None),
        };
        Ok(Advertise {
            admin: one("advertise.admin", &advertise.admin, listen.admin)?,
            agent: one("advertise.agent", &advertise.agent, listen.agent)?,
            enroll: one("advertise.enroll", &advertise.enroll, listen.enroll)?,
        })
    }

    fn backup(&self, backup: file::Backup) -> Checked<Backup> {
        let prefix = backup.snapshot_resource_group_prefix;
        // Nothing in a region's name is shorter or stranger than this.
        let longest = format!("{prefix}{}", "x".repeat(REGION_LIMIT));
        if NameKind::ResourceGroup.check(&longest).is_err() {
            let allowed = "it must be at most 50 letters, digits, -_.()";
            return Err(self.wrong("backup.snapshot_resource_group_prefix", prefix, allowed));
        }
        let hold = self.number("backup.hold_limit_ms", backup.hold_limit_ms, 1000, 25_000)?;
        let lease = self.number("backup.lease_ms", backup.lease_ms, 2000, 10_000)?;
        let holds =
            self.number("backup.max_concurrent_holds", backup.max_concurrent_holds, 1, 256)?;
        Ok(Backup {
            snapshot_resource_group_prefix: prefix,
            hold_limit: Duration::from_millis(hold),
            lease: Duration::from_millis(lease),
            max_concurrent_holds: holds as usize,
        })
    }

    fn retention(&self, retention: &file::Retention) -> Checked<Retention> {
        let percent = retention.approve_above_percent;
        let points = retention.approve_above_points;
        let percent = self.number("retention.approve_above_percent", percent, 0, 100)?;
        let points = self.number("retention.approve_above_points", points, 0, 1_000_000)?;
        Ok(Retention { approve_above_percent: percent as u32, approve_above_points: points as u32 })
    }

    fn drill(&self, drill: file::Drill, cloud: &Cloud) -> Checked<Drill> {
        let mut subnets = BTreeMap::new();
        for (region, subnet) in &drill.subnets {
            let field = format!("drill.subnets.{region}");
            let region = Region::parse(region).map_err(|_| {
                self.wrong("drill.subnets", region, "it must be a region, like westus2")
            })?;
            subnets.insert(region, self.subnet(&field, subnet, cloud)?);
        }
        let source = match &drill.allowed_source {
            Some(source) => Some(self.parsed::<SourceAddress>("drill.allowed_source", source)?),
            None => None,
        };
        let access = match (drill.access.as_str(), source) {
            ("none", _) => DrillAccess::None,
            ("public-ip", Some(allowed_source)) => DrillAccess::PublicIp { allowed_source },
            ("public-ip", None) => {
                return Err(self.wrong("drill.allowed_source", "", "public-ip needs it"));
            }
            ("subnet", _) if subnets.is_empty() => {
                return Err(self.wrong("drill.subnets", "", "subnet needs at least one"));
            }
            ("subnet", _) => DrillAccess::Subnet { subnets },
            (other, _) => {
                let allowed = "it must be public-ip, subnet or none";
                return Err(self.wrong("drill.access", other, allowed));
            }
        };
        Ok(Drill { access })
    }

    fn subnet(&self, field: &str, value: &str, cloud: &Cloud) -> Checked<ArmId> {
        let is_subnet = |id: &ArmId| id.is_type("Microsoft.Network/virtualNetworks/subnets");
        let id = ArmId::parse(value)
            .ok()
            .filter(is_subnet)
            .ok_or_else(|| self.wrong(field, value, "it must be the resource ID of a subnet"))?;
        if !cloud.subscriptions.contains(&id.subscription().to_ascii_lowercase()) {
            let allowed = "it must lie in one of cloud.subscriptions";
            return Err(self.wrong(field, value, allowed));
        }
        Ok(id)
    }
}

fn is_microsofts(url: &Url) -> bool {
    const DOMAINS: [&str; 6] = [
        "azure.com",
        "azure.net",
        "azure.us",
        "usgovcloudapi.net",
        "chinacloudapi.cn",
        "microsoftonline.com",
    ];
    let host = url.host_str().unwrap_or_default().trim_end_matches('.');
    DOMAINS.iter().any(|d| host == *d || host.ends_with(&format!(".{d}")))
}
