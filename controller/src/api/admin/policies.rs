//! Policies: configure, show, disable.

use std::collections::BTreeMap;

use azdr_domain::arm_id::ArmId;
use azdr_domain::cost::{Growth, MonthlyCost};
use azdr_domain::interval::Interval;
use azdr_domain::policy::{ConsistencyDemand as Demand, Policy, PolicyChange, PolicyError};
use azdr_domain::policy_tag::POLICY_TAG;
use azdr_domain::region::{Region, nearest};
use azdr_domain::schedule;
use azdr_domain::selection::{Decision, Present, decide};
use azdr_domain::tier::TierSet;
use azdr_env::WallTime;
use azdr_proto::admin::{
    AgentState, BackupConfig, ConfigureBackupRequest, ConsistencyDemand, DisableBackupRequest,
    GetBackupConfigRequest, TierStatus,
};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::errors::{hinted, unavailable};
use super::objectives::Objectives;
use crate::mutation::{Mutation, planted};
use crate::reconcile::inventory;
use crate::reconcile::tags::{Asked, mirror};
use crate::store::{Item, PolicyRow};

impl Admin {
    pub(super) async fn configure(
        &self,
        by: String,
        request: ConfigureBackupRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let vm = named
            .in_azure("only a VM that exists can be protected; its recovery points are kept")?;
        let change = PolicyChange { enabled: Some(true), ..change(&request) };
        // Checked before the row is made: a refused policy changes nothing.
        let region = named.region()?;
        let before = match &named.item {
            Some(item) => self.store.policy(item.id).await.map_err(unavailable)?,
            None => None,
        };
        let policy = before
            .as_ref()
            .map(|row| row.policy.clone())
            .unwrap_or_default()
            .apply(&change, &region)
            .map_err(|e| Status::invalid_argument(e.to_string()))?;
        let mut warnings = vec![];
        if let Some(target) =
            policy.target_region.as_ref().filter(|_| request.target_region.is_some())
        {
            warnings.extend(self.check_region(target).await?);
        }
        if let Some(name) = before.as_ref().and_then(|row| row.origin.as_ref()) {
            warnings.push(format!(
                "the policy came from {name}; from now on it is set by hand, which wins over every \
                 selector; `azdr policy follow {}` ends that",
                named.id.name()
            ));
        }
        let item = self.item_of(&named).await?;
        if planted(Mutation::AnswerBeforeCommit) && self.env.ids.u64().is_multiple_of(4) {
            return Ok(shown(&item.arm_id, &policy, &[], self.env.clock.wall()));
        }
        let apply = move |present: Option<&Policy>| {
            present.cloned().unwrap_or_default().apply(&change, &region)
        };
        warnings.extend(self.store_policy(&item, by, apply).await?);
        let mut config = self.config_of(&item).await?;
        config.warnings.extend(warnings);
        config.warnings.extend(self.advice(&item, vm, &config).await?);
        Ok(config)
    }

    pub(super) async fn show_config(
        &self,
        request: GetBackupConfigRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let item = named.item.ok_or_else(|| no_policy(named.id.name()))?;
        let mut config = self.config_of(&item).await?;
        if let Some(vm) = &named.vm {
            config.warnings.extend(self.advice(&item, vm, &config).await?);
        }
        Ok(config)
    }

    pub(super) async fn disable(
        &self,
        by: String,
        request: DisableBackupRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let item = named.item.ok_or_else(|| no_policy(named.id.name()))?;
        let row = self.store.policy(item.id).await.map_err(unavailable)?;
        row.ok_or_else(|| no_policy(item.arm_id.name()))?;
        let off = |present: Option<&Policy>| {
            Ok(Policy { enabled: false, ..present.cloned().unwrap_or_default() })
        };
        let warnings = self.store_policy(&item, by, off).await?;
        let mut config = self.config_of(&item).await?;
        config.warnings.extend(warnings);
        Ok(config)
    }

    /// Changes a policy and mirrors it; answers what a person should know of that.
    async fn store_policy(
        &self,
        item: &Item,
        by: String,
        change: impl FnOnce(Option<&Policy>) -> Result<Policy, PolicyError> + Send + 'static,
    ) -> Result<Vec<String>, Status> {
        let now = self.env.clock.wall();
        let changed = self.store.change_policy(item.id, by, now, change).await;
        let before = changed.map_err(unavailable)?;
        let mut before = before.map_err(|e| Status::invalid_argument(e.to_string()))?;
        let present = async || {
            let row = self.store.policy(item.id).await.map_err(unavailable)?;
            row.ok_or_else(|| no_policy(item.arm_id.name()))
        };
        let mut words = vec![];
        let mut row = present().await?;
        loop {
            let asked = Asked::ByPerson { before: before.as_ref() };
            let replaced = mirror(&self.store, &self.services.azure, now, item, &row, asked).await;
            words.extend(
                replaced.map_err(unavailable)?.map(|drift| {
                    format!("the VM's tag {POLICY_TAG} was replaced: {}", drift.words)
                }),
            );
            // Somebody else may have changed it meanwhile, and written their tag before this one.
            let after = present().await?;
            if after.policy == row.policy {
                return Ok(words);
            }
            before = Some(std::mem::replace(&mut row, after).policy);
        }
    }

    /// Whether the subscriptions have such a region; a warning where that cannot be known.
    pub(super) async fn check_region(&self, target: &Region) -> Result<Option<String>, Status> {
        let known = match self.azure_regions().await {
            Ok(known) => known,
            Err(e) => {
                return Ok(Some(format!(
                    "whether there is a region {target} could not be checked: {}",
                    e.message()
                )));
            }
        };
        if known.contains(target) {
            return Ok(None);
        }
        let near: Vec<&str> = nearest(target, &known).into_iter().map(Region::as_str).collect();
        let meant = match near.as_slice() {
            [] => {
                let all: Vec<&str> = known.iter().map(Region::as_str).collect();
                format!("they have {}", all.join(", "))
            }
            near => format!("did you mean {}?", near.join(" or ")),
        };
        Err(Status::invalid_argument(format!(
            "target_region cannot be \"{target}\": the subscriptions have no such region; {meant}"
        )))
    }

    /// What to know of a VM's policy beside what it says.
    async fn advice(
        &self,
        item: &Item,
        vm: &azdr_arm::Vm,
        config: &BackupConfig,
    ) -> Result<Vec<String>, Status> {
        let mut advice = vec![];
        let disks = 1 + vm.data_disks.len();
        let frozen = match config.consistency() {
            ConsistencyDemand::Any => Some("the policy never freezes it"),
            ConsistencyDemand::Require => None,
            _ => match self.agent_state(item).await? {
                AgentState::Connected => None,
                _ => Some("no agent of it is connected to freeze it"),
            },
        };
        if let (2.., Some(why)) = (disks, frozen) {
            advice.push(format!(
                "the VM has {disks} disks, and {why}: their backups are `uncoordinated`, the order of \
                 writes across disks is not kept"
            ));
        }
        if (1..86_400).contains(&config.rpo_secs) {
            advice.push(format!(
                "one backup a day cannot meet an RPO of {}",
                Interval::from_secs(config.rpo_secs)
            ));
        }
        if config.origin.is_empty()
            && let Some(seen) = inventory::seen(vm)
        {
            let policies = self.store.named_policies().await.map_err(unavailable)?;
            let decision = decide(&policies, &seen.id, &seen.tags, &seen.region, Present::ByHand);
            if let Decision::ByHand { instead_of: Some(_) } = decision {
                advice.push(decision.to_string());
            }
        }
        Ok(advice)
    }

    pub(super) async fn config_of(&self, item: &Item) -> Result<BackupConfig, Status> {
        let row = self.store.policy(item.id).await.map_err(unavailable)?;
        let row = row.ok_or_else(|| no_policy(item.arm_id.name()))?;
        let points = self.store.point_tiers(item.id).await.map_err(unavailable)?;
        let size = self.size_of(&item.arm_id, Some(item)).await?;
        let now = self.env.clock.wall();
        let objectives = self.objectives(item.id, now).await?;
        Ok(config(item, row, &points, size, objectives, now))
    }

    /// Every VM's policy, as [`config_of`](Self::config_of) shows one.
    pub(super) async fn all_configs(
        &self,
        rows: &[(Item, PolicyRow)],
    ) -> Result<Vec<BackupConfig>, Status> {
        let mut points = self.store.all_point_tiers().await.map_err(unavailable)?;
        let (listed, newest) = (self.listed_sizes(), self.store.newest_sizes(None).await);
        let newest = newest.map_err(unavailable)?;
        let now = self.env.clock.wall();
        let mut objectives = self.all_objectives(now).await?;
        let rows = rows.to_vec();
        let configs = move || {
            let of_vm = |(item, row): (Item, PolicyRow)| {
                let size = listed.get(item.arm_id.key()).or(newest.get(&item.id));
                let points = points.remove(&item.id).unwrap_or_default();
                let size = size.copied().unwrap_or(0);
                let objectives = objectives.remove(&item.id).unwrap_or_default();
                config(&item, row, &points, size, objectives, now)
            };
            rows.into_iter().map(of_vm).collect()
        };
        self.store.compute(configs).await.map_err(unavailable)
    }

    /// Provisioned size of the VM's disks: by Azure's word, else by the newest point's; 0 when neither
    /// is known.
    pub(super) async fn size_of(&self, vm: &ArmId, item: Option<&Item>) -> Result<u64, Status> {
        if let Some(size) = self.listed_size(vm) {
            return Ok(size);
        }
        let Some(item) = item else { return Ok(0) };
        let sizes = self.store.newest_sizes(Some(item.id)).await.map_err(unavailable)?;
        Ok(sizes.get(&item.id).copied().unwrap_or(0))
    }
}

/// A VM's policy with all that is known of it; `size_bytes` is 0 where its disks' size is not known.
fn config(
    item: &Item,
    row: PolicyRow,
    points: &[(WallTime, TierSet)],
    size_bytes: u64,
    objectives: Objectives,
    now: WallTime,
) -> BackupConfig {
    let mut config = shown(&item.arm_id, &row.policy, points, now);
    let growth = Growth { size_bytes, change_per_mille: Growth::DEFAULT_PER_MILLE };
    if let (1.., Ok(home)) = (size_bytes, Region::parse(&item.location)) {
        config.cost_when_filled =
            Some(convert::monthly_cost(MonthlyCost::when_filled(&row.policy, &home, growth)));
    }
    (config.rpo_objective, config.rto_objective) = objectives;
    if let Some(since) = row.gone {
        // The scheduler passes over it.
        (config.gone_since_unix_ms, config.next_run_unix_ms) = (since.unix_ms(), 0);
    }
    config.tag_written = row.tag_problem.is_none();
    config.tag_problem = row.tag_problem.unwrap_or_default();
    config.tag_drift = row.tag_drift.as_ref().map(convert::tag_drift);
    config.origin = row.origin.map(String::from).unwrap_or_default();
    config.origin_problem = row.origin_problem.unwrap_or_default();
    config
}

/// What a request would change; `enabled` is not among it.
pub(super) fn change(request: &ConfigureBackupRequest) -> PolicyChange {
    PolicyChange {
        enabled: None,
        daily: request.daily_retention,
        weekly: request.weekly_retention,
        monthly: request.monthly_retention,
        yearly: request.yearly_retention,
        cross_region: request.cross_region,
        target_region: request.target_region.clone(),
        schedule_time: request.schedule_time.clone(),
        time_zone: request.time_zone.clone(),
        consistency: match request.consistency() {
            ConsistencyDemand::Unspecified => None,
            ConsistencyDemand::Require => Some(Demand::Require),
            ConsistencyDemand::Prefer => Some(Demand::Prefer),
            ConsistencyDemand::Any => Some(Demand::Any),
        },
        rpo_secs: request.rpo_secs,
        rto_secs: request.rto_secs,
        verify_every_secs: request.verify_every_secs,
        drill_every_secs: request.drill_every_secs,
    }
}

/// A policy with what the catalogue has for it; of the tag nothing is said.
pub(super) fn shown(
    vm: &ArmId,
    policy: &Policy,
    points: &[(WallTime, TierSet)],
    now: WallTime,
) -> BackupConfig {
    let mut tiers: BTreeMap<_, (u32, i64)> = BTreeMap::new();
    for (created, carried) in points {
        // Each point counts once, under its highest tier; every tier it carries is as recent.
        for tier in carried.iter() {
            let entry = tiers.entry(tier).or_default();
            entry.0 += u32::from(carried.highest() == Some(tier));
            entry.1 = entry.1.max(created.unix_ms());
        }
    }
    let next = schedule::next_run(policy, points, now);
    BackupConfig {
        vm_resource_id: vm.to_string(),
        vm_name: vm.name().to_owned(),
        enabled: policy.enabled,
        daily_retention: policy.retention.daily,
        weekly_retention: policy.retention.weekly,
        monthly_retention: policy.retention.monthly,
        yearly_retention: policy.retention.yearly,
        target_region: policy.target_region.as_ref().map(ToString::to_string).unwrap_or_default(),
        schedule_time: policy.schedule.time.to_string(),
        time_zone: policy.schedule.time_zone.as_str().to_owned(),
        consistency: demand(policy.consistency).into(),
        tiers: tiers
            .into_iter()
            .map(|(tier, (count, last))| TierStatus {
                tier: convert::tier(tier).into(),
                recovery_points: count,
                last_unix_ms: last,
            })
            .collect(),
        total_recovery_points: points.len() as u32,
        next_run_unix_ms: next.map_or(0, |at| at.unix_ms()),
        tag_written: true,
        rpo_secs: secs(policy.rpo),
        rto_secs: secs(policy.rto),
        verify_every_secs: secs(policy.verify_every),
        drill_every_secs: secs(policy.drill_every),
        ..BackupConfig::default()
    }
}

pub(super) fn demand(demand: Demand) -> ConsistencyDemand {
    match demand {
        Demand::Require => ConsistencyDemand::Require,
        Demand::Prefer => ConsistencyDemand::Prefer,
        Demand::Any => ConsistencyDemand::Any,
    }
}

fn secs(span: Option<Interval>) -> u32 {
    span.map_or(0, Interval::as_secs)
}

pub(super) fn no_policy(vm: &str) -> Status {
    hinted(
        Code::NotFound,
        format!("{vm} has no backup policy"),
        &format!("set one with `azdr backup configure {vm} --daily-retention 7`"),
    )
}
