//! Policies: configure, show, disable.

use std::collections::BTreeMap;

use azdr_domain::arm_id::ArmId;
use azdr_domain::cost::{Growth, MonthlyCost};
use azdr_domain::policy::{ConsistencyDemand as Demand, Policy, PolicyChange};
use azdr_domain::region::Region;
use azdr_domain::schedule;
use azdr_domain::tier::TierSet;
use azdr_env::WallTime;
use azdr_proto::admin::{
    BackupConfig, ConfigureBackupRequest, ConsistencyDemand, DisableBackupRequest,
    GetBackupConfigRequest, ListPoliciesResponse, TierStatus,
};
use tonic::{Code, Status};

use super::Admin;
use super::convert;
use super::errors::{hinted, unavailable};
use crate::mutation::{Mutation, planted};
use crate::store::{Item, PolicyRow};

/// The VM's tag that mirrors its policy.
pub(crate) const POLICY_TAG: &str = "azlin:backup-schedule";

impl Admin {
    pub(super) async fn configure(
        &self,
        by: String,
        request: ConfigureBackupRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        named.in_azure("only a VM that exists can be protected; its recovery points are kept")?;
        let change = PolicyChange { enabled: Some(true), ..change(&request) };
        // Checked before the row is made: a refused policy changes nothing.
        let region = named.region()?;
        let before = match &named.item {
            Some(item) => self.store.policy(item.id).await.map_err(unavailable)?,
            None => None,
        };
        let before = before.map(|row| row.policy).unwrap_or_default();
        let policy =
            before.apply(&change, &region).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let item = self.item_of(&named).await?;
        if planted(Mutation::AnswerBeforeCommit) && self.env.ids.u64().is_multiple_of(4) {
            return Ok(shown(&item.arm_id, &policy, &[], self.env.clock.wall()));
        }
        self.store_policy(&item, policy, by).await?;
        self.config_of(&item).await
    }

    pub(super) async fn show_config(
        &self,
        request: GetBackupConfigRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let item = named.item.ok_or_else(|| no_policy(named.id.name()))?;
        self.config_of(&item).await
    }

    pub(super) async fn disable(
        &self,
        by: String,
        request: DisableBackupRequest,
    ) -> Result<BackupConfig, Status> {
        let named = self.resolve(request.vm.as_ref()).await?;
        let item = named.item.ok_or_else(|| no_policy(named.id.name()))?;
        let row = self.store.policy(item.id).await.map_err(unavailable)?;
        let mut policy = row.ok_or_else(|| no_policy(item.arm_id.name()))?.policy;
        policy.enabled = false;
        self.store_policy(&item, policy, by).await?;
        self.config_of(&item).await
    }

    async fn store_policy(&self, item: &Item, policy: Policy, by: String) -> Result<(), Status> {
        let now = self.env.clock.wall();
        let tag = policy.tag_value();
        self.store.set_policy(item.id, policy, by, now).await.map_err(unavailable)?;
        mirror(&self.store, &self.services.azure, item, tag).await.map_err(unavailable)
    }

    pub(super) async fn config_of(&self, item: &Item) -> Result<BackupConfig, Status> {
        let row = self.store.policy(item.id).await.map_err(unavailable)?;
        let PolicyRow { policy, tag_problem, .. } =
            row.ok_or_else(|| no_policy(item.arm_id.name()))?;
        let points = self.store.point_tiers(item.id).await.map_err(unavailable)?;
        let size = self.size_of(&item.arm_id, Some(item)).await?;
        let now = self.env.clock.wall();
        let mut config = shown(&item.arm_id, &policy, &points, now);
        let growth = Growth { size_bytes: size, change_per_mille: Growth::DEFAULT_PER_MILLE };
        if let (1.., Ok(home)) = (size, Region::parse(&item.location)) {
            config.cost_when_filled =
                Some(convert::monthly_cost(MonthlyCost::when_filled(&policy, &home, growth)));
        }
        config.tag_written = tag_problem.is_none();
        config.tag_problem = tag_problem.unwrap_or_default();
        Ok(config)
    }

    pub(super) async fn all_policies(&self) -> Result<ListPoliciesResponse, Status> {
        let mut policies = vec![];
        for (item, _) in self.store.policies().await.map_err(unavailable)? {
            policies.push(self.config_of(&item).await?);
        }
        Ok(ListPoliciesResponse { policies })
    }

    /// Provisioned size of the VM's disks: by Azure's word, else by the newest point's; 0 when neither
    /// is known.
    pub(super) async fn size_of(&self, vm: &ArmId, item: Option<&Item>) -> Result<u64, Status> {
        if let Some(size) = self.listed_size(vm) {
            return Ok(size);
        }
        let Some(item) = item else { return Ok(0) };
        let points = self.store.points(item.id).await.map_err(unavailable)?;
        Ok(points.first().map_or(0, |p| p.size_bytes))
    }
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
        consistency: match policy.consistency {
            Demand::Require => ConsistencyDemand::Require,
            Demand::Prefer => ConsistencyDemand::Prefer,
            Demand::Any => ConsistencyDemand::Any,
        }
        .into(),
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
        tag_problem: String::new(),
        cost_when_filled: None,
    }
}

/// Writes the VM's tag as a merge and records whether that worked. The store is the truth; a tag that
/// could not be written is shown, and tried again by the scheduler.
///
/// # Errors
/// When the store cannot be written.
pub(crate) async fn mirror(
    store: &crate::store::Store,
    azure: &azdr_arm::ArmClient,
    item: &Item,
    tag: String,
) -> Result<(), crate::store::StoreError> {
    store.set_tag_problem(item.id, Some("not written yet".to_owned())).await?;
    let written = azure.merge_tags(&item.arm_id, [(POLICY_TAG.to_owned(), tag)].into()).await;
    let problem = written.err().map(|e| format!("{} ({})", e.message, e.code));
    if let Some(problem) = &problem {
        tracing::warn!(vm = %item.arm_id, problem, "the VM's policy tag could not be written");
    }
    store.set_tag_problem(item.id, problem).await
}

pub(super) fn no_policy(vm: &str) -> Status {
    hinted(
        Code::NotFound,
        format!("{vm} has no backup policy"),
        &format!("set one with `azdr backup configure {vm} --daily-retention 7`"),
    )
}
