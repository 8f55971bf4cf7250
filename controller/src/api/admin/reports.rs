//! Reports: what verifications and DR tests have shown. The judging is the domain's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_domain::interval::Interval;
use azdr_domain::objective::{self, Judgement};
use azdr_domain::recovery_point::ProofLevel;
use azdr_domain::rto::{
    BOUND_CONFIDENCE_PERCENT, BOUND_SHARE_PERCENT, Bound, Compliance, Statistics,
};
use azdr_domain::verification::{Attempt, Summary, Verdict, verdict};
use azdr_env::WallTime;
use azdr_proto::admin::{
    DrCompliance, DrStatistics, DrSuccess, DrSuccessRate, FailedVerification,
    GetDrSuccessRateRequest, GetVerificationReportRequest, RtoBound, VerificationReport,
    VerificationSummary, VmRef, VmVerification,
};
use tonic::{Code, Status};

use super::Admin;
use super::errors::{hinted, unavailable};
use super::objectives;
use crate::store::{DrillRow, Item, ItemId, PointAttempts, ProofRow};

/// Of more VMs than this a report names few backups of each: all of a fleet's would be more than anybody
/// reads, and than fits into an answer.
const NAMED_IN_FULL: usize = 100;
/// So few.
const NAMED_PER_VM: usize = 10;

impl Admin {
    /// The catalogue's VMs that a report is about: the named one, those of a group, or all.
    ///
    /// # Errors
    /// `NOT_FOUND` when a name or a group is given and nothing fits: a report about nothing looks like
    /// a good one.
    pub(super) async fn subjects(&self, vm: Option<&VmRef>) -> Result<Vec<Item>, Status> {
        if let Some(vm) = vm.filter(|v| !v.name.is_empty()) {
            return Ok(self.resolve_known(Some(vm)).await?.item.into_iter().collect());
        }
        let mut items = self.store.items().await.map_err(unavailable)?;
        let group = vm.map(|v| v.resource_group.trim()).filter(|g| !g.is_empty());
        if let Some(group) = group {
            items.retain(|i| i.arm_id.resource_group().eq_ignore_ascii_case(group));
            if items.is_empty() {
                return Err(hinted(
                    Code::NotFound,
                    format!("no VM of resource group {group:?} has backups or a policy"),
                    "see `azdr vm list`",
                ));
            }
        }
        Ok(items)
    }

    pub(super) async fn report_verifications(
        &self,
        request: GetVerificationReportRequest,
    ) -> Result<VerificationReport, Status> {
        let since = WallTime::from_unix_ms(request.since_unix_ms);
        let items = self.subjects(request.vm.as_ref()).await?;
        let only = (items.len() == 1).then(|| items[0].id);
        let named = if items.len() <= NAMED_IN_FULL { usize::MAX } else { NAMED_PER_VM };
        let wanted: BTreeMap<ItemId, Item> = items.iter().map(|i| (i.id, i.clone())).collect();
        let each = move |found: &mut BTreeMap<_, _>, id, points: Vec<PointAttempts>| {
            if let Some(item) = wanted.get(&id) {
                found.insert(id, verification_of(item, &points, since, named));
            }
        };
        let reports = self.store.each_attempts(only, each, BTreeMap::new()).await;
        let mut reports = reports.map_err(unavailable)?;
        let protected = self.store.enabled_policies().await.map_err(unavailable)?;
        let protected: BTreeSet<ItemId> = protected.into_iter().map(|(item, _)| item.id).collect();
        let mut overall = Summary::default();
        let mut vms = Vec::new();
        for item in items {
            let (vm, summary) = match reports.remove(&item.id) {
                Some(report) => report,
                None if protected.contains(&item.id) => verification_of(&item, &[], since, named),
                None => continue,
            };
            overall.merge(&summary);
            vms.push(vm);
        }
        Ok(VerificationReport { vms, overall: Some(shown(&overall)) })
    }

    pub(super) async fn success_rate(
        &self,
        request: GetDrSuccessRateRequest,
    ) -> Result<DrSuccessRate, Status> {
        let since = WallTime::from_unix_ms(request.since_unix_ms);
        let items = self.subjects(request.vm.as_ref()).await?;
        let mut drills: BTreeMap<_, (u32, u32)> = BTreeMap::new();
        for drill in self.store.drills(None, since).await.map_err(unavailable)? {
            let (total, passed) = drills.entry(drill.item).or_default();
            *total += 1;
            *passed += u32::from(drill.passed);
        }
        let policies = self.store.enabled_policies().await.map_err(unavailable)?;
        let copied = policies.iter().filter(|(_, row)| row.policy.target_region.is_some());
        let copied: BTreeSet<ItemId> = copied.map(|(item, _)| item.id).collect();
        let mut overall = (0, 0);
        let (mut vms, mut untested) = (Vec::new(), Vec::new());
        for item in items {
            let Some((total, passed)) = drills.remove(&item.id) else {
                if copied.contains(&item.id) {
                    untested.push(item.arm_id.to_string());
                }
                continue;
            };
            overall = (overall.0 + total, overall.1 + passed);
            vms.push(DrSuccess {
                vm_resource_id: item.arm_id.to_string(),
                vm_name: item.arm_id.name().to_owned(),
                ..success(total, passed)
            });
        }
        let (total, passed) = overall;
        let compliance = Compliance::of(total as usize, passed as usize, untested.len());
        Ok(DrSuccessRate {
            vms,
            overall: Some(success(total, passed)),
            target_per_mille: objective::SUCCESS_TARGET_PER_MILLE,
            compliance: match compliance {
                Compliance::Passing => DrCompliance::Passing,
                Compliance::Failing => DrCompliance::Failing,
                Compliance::Incomplete => DrCompliance::Incomplete,
                Compliance::NoTests => DrCompliance::NoTests,
            }
            .into(),
            untested,
        })
    }
}

fn success(total: u32, passed: u32) -> DrSuccess {
    DrSuccess {
        total,
        passed,
        failed: total - passed,
        meets_target: objective::meets_success_target(total as usize, passed as usize)
            == Some(true),
        ..DrSuccess::default()
    }
}

/// `points`: newest first; so many are named at most where they failed, and where nobody has tried.
fn verification_of<'a>(
    item: &Item,
    points: &'a [PointAttempts],
    since: WallTime,
    named: usize,
) -> (VmVerification, Summary) {
    let mut summary = Summary::default();
    let (mut failed, mut unverified) = (Vec::new(), Vec::new());
    for point in points {
        let attempt = |p: &'a ProofRow| Attempt {
            region: &p.region,
            at: p.at,
            passed: p.passed,
            content: p.level == ProofLevel::Content,
            detail: &p.detail,
        };
        let attempts: Vec<Attempt<'_>> = point.attempts.iter().map(attempt).collect();
        let verdict = verdict(&attempts, since);
        summary.add(&verdict);
        match verdict {
            Verdict::Unverified { .. } if unverified.len() < named => {
                unverified.push(point.name.clone());
            }
            Verdict::Failed { at, region, detail } if failed.len() < named => {
                failed.push(FailedVerification {
                    recovery_point: point.name.clone(),
                    region: region.to_owned(),
                    failed_unix_ms: at.unix_ms(),
                    error: detail.to_owned(),
                })
            }
            _ => {}
        }
    }
    let vm = VmVerification {
        vm_resource_id: item.arm_id.to_string(),
        vm_name: item.arm_id.name().to_owned(),
        summary: Some(shown(&summary)),
        failed,
        unverified,
    };
    (vm, summary)
}

fn shown(summary: &Summary) -> VerificationSummary {
    VerificationSummary {
        total: summary.total,
        passed: summary.passed,
        failed: summary.failed,
        unverified: summary.unverified(),
        verified_earlier: summary.earlier,
        last_verified_unix_ms: summary.last.map_or(0, WallTime::unix_ms),
        content_compared: summary.content,
    }
}

/// What DR tests have measured; `target` is what each may take, `of_all` what is shown for all of them.
pub(super) fn statistics(
    drills: &[DrillRow],
    of_all: Interval,
    target: impl Fn(&DrillRow) -> Interval,
) -> DrStatistics {
    let is_in_time = |drill: &&DrillRow| {
        objective::judge_rto(target(drill), Some(objectives::shown(drill))) == Judgement::Met
    };
    let within_target = drills.iter().filter(is_in_time).count() as u32;
    let times = drills.iter().map(|d| d.rto_ms.filter(|_| d.passed).map(Duration::from_millis));
    let s = Statistics::of(times);
    let ms = |d: Option<Duration>| d.map_or(0, |d| d.as_millis() as u64);
    let (rto_ms, tests_needed) = match s.bound {
        Bound::Within(d) => (d.as_millis() as u64, 0),
        Bound::None => (0, 0),
        Bound::NotEnough { needed } => (0, needed as u32),
    };
    DrStatistics {
        total: s.total as u32,
        passed: s.passed as u32,
        failed: s.failed() as u32,
        average_rto_ms: ms(s.average),
        median_rto_ms: ms(s.median),
        worst_rto_ms: ms(s.worst),
        target_rto_ms: objectives::millis(of_all),
        within_target,
        bound: Some(RtoBound {
            share_percent: BOUND_SHARE_PERCENT,
            confidence_percent: BOUND_CONFIDENCE_PERCENT,
            rto_ms,
            tests_needed,
        }),
    }
}
