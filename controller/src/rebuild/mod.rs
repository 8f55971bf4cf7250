//! `azdr-controller rebuild`: a lost database, from what Azure still shows.
//!
//! | from | comes |
//! |---|---|
//! | the encrypted export | the certificate authority |
//! | the configuration | cloud, tenant, subscriptions of the stamp |
//! | tags of snapshots and copies | the installation, recovery points, replicas, pins ([`points`]) |
//! | tags of disks that restores have replaced | until when they are kept ([`kept`]) |
//! | the VMs' tag `azlin:backup-schedule`, their `vmId` | items and policies |
//!
//! Everything is read first and written last, in one transaction with the stamp: a database without a
//! stamp is not used by anything, and rebuilding goes on with the same authority. Afterwards nothing
//! is deleted until an admin has looked at the report and released it: what would have kept a point
//! may be among the things that were lost.

pub mod kept;
pub mod listing;
pub mod points;

use std::path::{Path, PathBuf};

use azdr_arm::{ArmClient, AzureError};
use azdr_domain::policy::Policy;
use azdr_domain::policy_tag::{self, POLICY_TAG, PolicyTag};
use azdr_domain::region::Region;
use azdr_env::{Env, WallTime};
use azdr_identity::CertificateAuthority;

use crate::config::{Advertise, Config, ConfigArgs};
use crate::pki::export::import_authority;
use crate::pki::{
    AuthorityFile, AuthorityFileError, BundleError, ExportError, OperatorBundle, Passphrase,
};
use crate::store::{DeletionHold, Rebuild, RebuiltItem, Stamp, Store, StoreError};
use crate::workflows::tags;
use listing::Listing;

/// Runs since the newest one that left a tag: their numbers must not be given again.
const RUNS_WITHOUT_TRACE: i64 = 1000;

/// Arguments of `azdr-controller rebuild`.
#[derive(clap::Args, Debug, Clone)]
pub struct RebuildArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "a doc comment would become help text")]
    pub config: ConfigArgs,
    /// Rebuild from the tags in the configuration's subscriptions (there is no other source)
    #[arg(long, required = true)]
    pub from_azure: bool,
    /// The encrypted certificate authority that `init` wrote
    #[arg(long, value_name = "FILE")]
    pub ca_export: PathBuf,
    /// File with the passphrase of the export
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: PathBuf,
    /// Name of the first operator, who gets the role admin; others are not recovered
    #[arg(long, value_name = "NAME")]
    pub admin: String,
    /// New folder for the admin's certificate, key and context file
    #[arg(long, value_name = "DIR")]
    pub bundle: PathBuf,
    /// Which installation, where the subscriptions show the recovery points of several
    #[arg(long, value_name = "ID")]
    pub installation: Option<String>,
}

/// Why nothing was rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The data directory is in use, or was.
    #[error("{} is not empty ({found}): rebuild into an empty data directory", data_dir.display())]
    NotEmpty {
        /// The data directory.
        data_dir: PathBuf,
        /// What is there.
        found: String,
    },
    /// The bundle has to say where the controller is.
    #[error("set advertise.admin: listen.admin has port 0, which is known only once it is bound")]
    NoAddress,
    /// Nothing of azdr's is there.
    #[error("no recovery point of azdr is in these subscriptions: nothing to rebuild from")]
    Nothing,
    /// Whose?
    #[error("these subscriptions show recovery points of {found}: say which with --installation")]
    Several {
        /// Installations with their number of snapshots.
        found: String,
    },
    /// Not this one.
    #[error(
        "no recovery point of installation {wanted} is in these subscriptions, only of {found}"
    )]
    NotThere {
        /// As asked for.
        wanted: String,
        /// Installations with their number of snapshots.
        found: String,
    },
    /// The export or its passphrase.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The export's file.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The authority's file.
    #[error(transparent)]
    AuthorityFile(#[from] AuthorityFileError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Azure.
    #[error("Azure does not show everything that is needed")]
    Azure(#[source] AzureError),
    /// The database; nothing is in it, and rebuilding can be tried again.
    #[error("cannot record what was rebuilt")]
    Store(#[from] StoreError),
}

/// What was rebuilt, for people.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The installation whose points these are.
    pub installation: String,
    /// VMs that have a policy or recovery points.
    pub vms: usize,
    /// Those of them with a policy.
    pub policies: usize,
    /// Recovery points.
    pub points: usize,
    /// Their copies in other regions.
    pub replicas: usize,
    /// People's holds on them.
    pub pins: usize,
    /// Disks that restores have replaced and that are kept for some days.
    pub kept_disks: usize,
    /// What could not be recovered, one thing each.
    pub lost: Vec<String>,
}

/// What no rebuild can recover: it is nowhere but in the database.
const NEVER: [&str; 4] = [
    "proofs: every recovery point counts as unproved until it is verified again",
    "the history of jobs and DR tests",
    "operators other than the new admin, and revocations of agents' certificates: revoke again with \
     `azdr agent revoke` what must not come back",
    "jobs that were under way: what they left is shown by `azdr residue list`",
];

/// Rebuilds a controller's data directory; the caller holds its lock and has opened its database.
///
/// # Errors
/// With nothing recorded; it can be tried again. A bundle that was written before the failure has to
/// be removed first, since its certificate was never recorded.
pub async fn rebuild(
    args: &RebuildArgs,
    config: &Config,
    env: &Env,
    azure: &ArmClient,
    store: &Store,
) -> Result<Report, RebuildError> {
    if config.advertise.admin.is_none() && config.listen.admin.port() == 0 {
        return Err(RebuildError::NoAddress);
    }
    let controller = Advertise::address(&config.advertise.admin, config.listen.admin);
    // All that a person can have got wrong comes before the first file.
    let authority = authority(&args.ca_export, &args.passphrase_file)?;
    if args.bundle.symlink_metadata().is_ok() {
        return Err(BundleError::Exists { path: args.bundle.clone() }.into());
    }
    let file = AuthorityFile::in_dir(&config.data_dir);
    let present = match file.load() {
        Err(AuthorityFileError::Missing { .. }) => false,
        loaded => match loaded?.fingerprint() == authority.fingerprint() {
            true => true,
            false => return Err(not_empty(&config.data_dir, "another certificate authority")),
        },
    };
    if store.read_stamp().await?.is_some() {
        return Err(not_empty(&config.data_dir, "a database that is in use"));
    }
    let listing = listing::read(azure, &config.cloud.subscriptions).await;
    let listing = listing.map_err(RebuildError::Azure)?;
    let installation = choose(&listing, args.installation.as_deref())?;
    let now = env.clock.wall();
    let (mut rebuild, report) = plan(&listing, &installation, now);
    let mut subscriptions = config.cloud.subscriptions.clone();
    subscriptions.sort();
    rebuild.stamp = Stamp {
        cloud: config.cloud.name.as_str().to_owned(),
        tenant_id: config.cloud.tenant_id.clone(),
        subscriptions,
        installation,
    };
    let (bundle, admin) = OperatorBundle::issue(&authority, &args.admin, &controller, env)?;
    if !present {
        file.create(&authority)?;
    }
    bundle.write(&args.bundle)?;
    rebuild.admin = (admin.name, admin.issued.serial_hex);
    store.rebuild(rebuild, now).await?;
    Ok(report)
}

/// Refuses a data directory with anything in it but what an interrupted rebuild leaves.
///
/// # Errors
/// `NotEmpty`.
pub fn expect_empty(data_dir: &Path) -> Result<(), RebuildError> {
    let Ok(entries) = std::fs::read_dir(data_dir) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "lock" && name != "authority.pem" && !name.starts_with("azdr.db") {
            return Err(not_empty(data_dir, &name));
        }
    }
    Ok(())
}

fn not_empty(data_dir: &Path, found: &str) -> RebuildError {
    RebuildError::NotEmpty { data_dir: data_dir.to_owned(), found: found.to_owned() }
}

fn authority(export: &Path, passphrase: &Path) -> Result<CertificateAuthority, RebuildError> {
    let passphrase = Passphrase::from_file(passphrase)?;
    let content = std::fs::read(export)
        .map_err(|source| RebuildError::Read { path: export.to_owned(), source })?;
    Ok(import_authority(&content, &passphrase)?)
}

fn choose(listing: &Listing, wanted: Option<&str>) -> Result<String, RebuildError> {
    let all = listing.installations();
    let words: Vec<_> = all.iter().map(|(id, n)| format!("{id} ({n} snapshots)")).collect();
    let found = words.join(", ");
    match (wanted, all.len()) {
        (_, 0) => Err(RebuildError::Nothing),
        (Some(wanted), _) if all.contains_key(wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => Err(RebuildError::NotThere { wanted: wanted.to_owned(), found }),
        (None, 1) => Ok(all.into_keys().next().expect("one")),
        (None, _) => Err(RebuildError::Several { found }),
    }
}

/// The catalogue that a listing leads to. The caller fills in stamp and admin.
pub fn plan(listing: &Listing, installation: &str, now: WallTime) -> (Rebuild, Report) {
    let points::Points { by_vm: mut points, mut lost } =
        points::read(&listing.snapshots, installation);
    for (other, count) in listing.installations() {
        if other != installation {
            let plural = if count == 1 { "snapshot of" } else { "snapshots of" };
            lost.push(format!("{count} {plural} installation {other}: left alone"));
        }
    }
    let mut items = Vec::new();
    for vm in &listing.vms {
        let Some(id) = vm.id.clone() else { continue };
        let own = points.remove(id.key()).unwrap_or_default();
        let policy =
            policy(vm, !own.is_empty() || !is_others(listing, installation, &id), &mut lost);
        // Also one without either: its agent may have enrolled, and is to find its VM again.
        let location = vm.location.clone().unwrap_or_default();
        items.push(RebuiltItem {
            location: Region::parse(&location).map_or(location, |r| r.to_string()),
            vm_guid: vm.vm_id.as_ref().map(|guid| guid.to_ascii_lowercase()),
            id,
            policy,
            points: own,
        });
    }
    for own in points.into_values() {
        let Some(newest) = own.last() else { continue };
        let description = &newest.point.description;
        lost.push(format!(
            "{} is not in Azure any more: its policy is not known, its recovery points ({}) are kept",
            description.id.name(),
            own.len()
        ));
        items.push(RebuiltItem {
            id: description.id.clone(),
            location: description.location.to_string(),
            vm_guid: Some(description.vm_id.clone()).filter(|guid| !guid.is_empty()),
            policy: None,
            points: own,
        });
    }
    let (kept_disks, left) = kept::read(&listing.kept, installation);
    lost.extend(left);
    let all = || items.iter().flat_map(|i| &i.points);
    let report = Report {
        installation: installation.to_owned(),
        vms: items.iter().filter(|i| i.policy.is_some() || !i.points.is_empty()).count(),
        policies: items.iter().filter(|i| i.policy.is_some()).count(),
        points: all().count(),
        replicas: all().flat_map(|p| &p.replicas).filter(|r| r.problem.is_none()).count(),
        pins: all().map(|p| p.pins.len()).sum(),
        kept_disks: kept_disks.len(),
        lost: lost.into_iter().chain(NEVER.map(str::to_owned)).collect(),
    };
    let highest = listing.runs.get(installation).copied().unwrap_or_default();
    let rebuild = Rebuild {
        stamp: Stamp {
            cloud: String::new(),
            tenant_id: String::new(),
            subscriptions: Vec::new(),
            installation: installation.to_owned(),
        },
        admin: (String::new(), String::new()),
        items,
        kept_disks,
        run: highest + RUNS_WITHOUT_TRACE,
        hold: DeletionHold {
            since: now,
            reason:
                "the catalogue was rebuilt from Azure; look at what it could not recover, make \
                     sure that no controller runs on the old one, then `azdr retention release`"
                    .to_owned(),
        },
    };
    (rebuild, report)
}

/// Whether only other installations have recovery points of a VM: then its policy is theirs.
fn is_others(listing: &Listing, installation: &str, vm: &azdr_domain::arm_id::ArmId) -> bool {
    let ours = |s: &azdr_arm::Snapshot| {
        let tag = tags::value(&s.tags, tags::RUN).unwrap_or_default();
        tag.split_once('.').is_some_and(|(of, _)| of == installation)
    };
    let of_vm = |s: &azdr_arm::Snapshot| {
        let said = tags::read_snapshot(&s.tags).vm;
        azdr_domain::arm_id::ArmId::parse(&said).as_ref() == Ok(vm)
    };
    listing.snapshots.iter().any(|s| !ours(s) && of_vm(s))
}

/// What the VM's tag says of its policy.
fn policy(vm: &azdr_arm::Vm, is_ours: bool, lost: &mut Vec<String>) -> Option<Policy> {
    let name = vm.id.as_ref().map_or("?", |id| id.name());
    let value = tags::value(&vm.tags, POLICY_TAG)?;
    let mut lose = |why: &str| {
        lost.push(format!(
            "the policy of {name}: {why}; set it again with `azdr backup configure {name}`"
        ));
        None
    };
    match PolicyTag::parse(value) {
        PolicyTag::Policy(_) if !is_ours => lose("another installation has its recovery points"),
        PolicyTag::Policy(policy) => {
            if let Some(origin) = policy_tag::origin(value) {
                lost.push(format!(
                    "the named policy {origin}: {name} keeps what it said as a policy of its own; apply the \
                     file again, then `azdr policy follow {name}`"
                ));
            }
            Some(policy)
        }
        PolicyTag::Digest(_) => lose("it was too long for its tag"),
        PolicyTag::Foreign => lose("its tag was not written by azdr"),
        PolicyTag::Newer(version) => lose(&format!("its tag is of a newer version ({version})")),
        PolicyTag::Corrupt(why) => lose(&format!("its tag is damaged ({why})")),
    }
}
