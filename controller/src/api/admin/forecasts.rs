//! What schedule and retention will do: explain, upcoming runs, simulate, diff, cost.
//!
//! All of it is computed by [`azdr_domain::forecast`] from one reading of the catalogue; nothing here
//! changes anything.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_domain::arm_id::ArmId;
use azdr_domain::cost::{Growth, MonthlyCost, PRICES_AS_OF};
use azdr_domain::forecast::{self, AtOnce, Change, Holding, Month, Outage, Start, Step};
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::proving::{self, Past};
use azdr_domain::region::Region;
use azdr_domain::retention::{Hold, LineageFact, PointFacts};
use azdr_domain::schedule;
use azdr_domain::tier::TierSet;
use azdr_env::WallTime;
use azdr_proto::admin as api;
use tonic::Status;

use super::Admin;
use super::convert::{self, kept_until, tiers};
use super::errors::unavailable;
use super::inventory::Named;
use super::points::{no_copy, parse_region};
use super::policies::{change, no_policy, shown};
use crate::reconcile::proofs::Kind;
use crate::reconcile::schedule::JITTER;
use crate::store::{Item, ItemId, PointStanding, PolicyRow};
use crate::workflows::{backup, prune};

const DAYS: std::ops::RangeInclusive<u32> = 1..=3650;
const MAX_OUTAGES: usize = 100;
/// So many VMs are looked at one by one; of more, the whole fleet is read once.
const FEW: usize = 100;

/// The catalogue of one VM, as it is.
pub(super) struct Present {
    vm: ArmId,
    home: Region,
    policy: Option<PolicyRow>,
    points: Vec<PointFacts>,
    holds: Vec<Hold>,
    lineage: Vec<LineageFact>,
    /// When points were taken, with their tiers.
    taken: Vec<(WallTime, TierSet)>,
    last_run: Option<WallTime>,
    now: WallTime,
}

impl Present {
    pub(super) fn start<'a>(&'a self, policy: Option<&'a Policy>) -> Start<'a> {
        let enabled_since = self.policy.as_ref().filter(|row| row.policy.enabled);
        Start {
            policy,
            vm_name: self.vm.name(),
            home: &self.home,
            points: &self.points,
            holds: &self.holds,
            lineage: &self.lineage,
            enabled_since: enabled_since.map_or(self.now, |row| row.enabled_since),
            last_run: self.last_run,
            gone: false,
            jitter: schedule::jitter(&self.vm, JITTER),
            now: self.now,
        }
    }

    /// What will be: [`start`](Self::start) asks what would be if the VM were there.
    pub(super) fn as_it_is(&self) -> Start<'_> {
        let gone = self.policy.as_ref().is_some_and(|row| row.gone.is_some());
        Start { gone, ..self.start(self.policy()) }
    }

    pub(super) fn policy(&self) -> Option<&Policy> {
        self.policy.as_ref().map(|row| &row.policy)
    }

    /// The policy after a change; the present one when nothing is changed.
    fn changed(&self, change: PolicyChange) -> Result<Policy, Status> {
        if change == PolicyChange::default() {
            return self.policy().cloned().ok_or_else(|| no_policy(self.vm.name()));
        }
        let change = PolicyChange { enabled: Some(true), ..change };
        let before = self.policy().cloned().unwrap_or_default();
        before.apply(&change, &self.home).map_err(|e| Status::invalid_argument(e.to_string()))
    }
}

/// A VM whose policy is another one.
pub(super) struct PolicyChanged {
    pub(super) vm: ArmId,
    pub(super) home: Region,
    pub(super) before: Option<Policy>,
    pub(super) after: Policy,
}

impl PolicyChanged {
    fn at_once(&self, points: &[PointStanding], now: WallTime) -> Vec<api::PolicyDiffEntry> {
        let (points, holds, lineage) = prune::facts(points);
        let start = |policy| Start {
            policy,
            vm_name: self.vm.name(),
            home: &self.home,
            points: &points,
            holds: &holds,
            lineage: &lineage,
            // Only what has been taken is judged.
            enabled_since: now,
            last_run: None,
            gone: false,
            jitter: Duration::ZERO,
            now,
        };
        let gone = forecast::at_once(&start(self.before.as_ref()), &start(Some(&self.after)));
        let entry = |gone: &AtOnce| api::PolicyDiffEntry {
            recovery_point: gone.point.to_string(),
            region: gone.region.to_string(),
            created_unix_ms: gone.created.unix_ms(),
            tiers: tiers(gone.tiers),
            kind: api::PolicyDiffKind::AtOnce.into(),
            reason: gone.reason.to_string(),
            anyway: gone.anyway,
            before: None,
            after: None,
        };
        gone.iter().map(entry).collect()
    }
}

impl Admin {
    async fn present(
        &self,
        vm: ArmId,
        home: Region,
        item: Option<&Item>,
    ) -> Result<Present, Status> {
        let now = self.env.clock.wall();
        let mut present = Present {
            vm,
            home,
            policy: None,
            points: vec![],
            holds: vec![],
            lineage: vec![],
            taken: vec![],
            last_run: None,
            now,
        };
        let Some(item) = item else { return Ok(present) };
        present.policy = self.store.policy(item.id).await.map_err(unavailable)?;
        let points = self.store.standings(item.id).await.map_err(unavailable)?;
        present.taken = points.iter().map(|p| (p.created, p.tiers)).collect();
        (present.points, present.holds, present.lineage) = prune::facts(&points);
        let runs = self.store.recent_runs(None, Some(item.id), Some(backup::RUN.0), 50);
        let runs = runs.await.map_err(unavailable)?;
        present.last_run = runs.iter().map(|r| r.created).filter(|at| *at <= now).max();
        Ok(present)
    }

    pub(super) async fn present_of_item(&self, item: &Item) -> Result<Present, Status> {
        let home = Region::parse(&item.location).map_err(|e| Status::internal(e.to_string()))?;
        self.present(item.arm_id.clone(), home, Some(item)).await
    }

    async fn present_of(&self, named: &Named) -> Result<Present, Status> {
        self.present(named.id.clone(), named.region()?, named.item.as_ref()).await
    }

    pub(super) async fn explain(
        &self,
        request: api::ExplainPointRequest,
    ) -> Result<api::PointExplanation, Status> {
        let (point, item) = self.find_point(&request.recovery_point, request.vm.as_ref()).await?;
        let region = match request.region.as_str() {
            "" => None,
            given => Some(parse_region("region", given)?),
        };
        let mut regions = self.explanation(&point, &item).await?;
        if let Some(region) = region {
            regions.retain(|r| r.region == region);
            if regions.is_empty() {
                return Err(no_copy(&point, &region));
            }
        }
        let now = self.env.clock.wall();
        Ok(api::PointExplanation {
            vm_name: item.arm_id.name().to_owned(),
            point: Some(convert::point(&point, &item, now, |r| self.copied(r))),
            regions,
            deletions_held: self.why_held().await?,
        })
    }

    pub(super) async fn upcoming_runs(
        &self,
        request: api::ListUpcomingRunsRequest,
    ) -> Result<api::ListUpcomingRunsResponse, Status> {
        let count = in_range("count", request.count, 10, 1..=1000)?;
        let named = self.resolve_known(request.vm.as_ref()).await?;
        let present = self.present_of(&named).await?;
        let row = present.policy.clone().ok_or_else(|| no_policy(named.id.name()))?;
        let policy = row.policy.clone();
        let (taken, now) = (present.taken, present.now);
        let (enabled, time_zone) = (policy.enabled, policy.schedule.time_zone.clone());
        let runs = self
            .store
            .compute(move || schedule::upcoming(&policy, &taken, now, count as usize))
            .await
            .map_err(unavailable)?;
        let run = |run: &schedule::Upcoming| api::UpcomingRun {
            scheduled_unix_ms: run.at.unix_ms(),
            local: time_zone.local(run.at),
            tiers: tiers(run.tiers),
        };
        let proofs = match (&named.item, runs.last()) {
            (Some(item), Some(last)) => {
                self.upcoming_proofs(item, &row, now, last.at, count as usize).await?
            }
            _ => vec![],
        };
        // The scheduler passes over it; its backups are proved all the same.
        let runs = if row.gone.is_some() { vec![] } else { runs };
        Ok(api::ListUpcomingRunsResponse {
            vm_resource_id: named.id.to_string(),
            vm_name: named.id.name().to_owned(),
            time_zone: time_zone.to_string(),
            runs: runs.iter().map(run).collect(),
            enabled,
            delay_secs: schedule::jitter(&named.id, JITTER).as_secs() as u32,
            proofs,
            gone_since_unix_ms: row.gone.map_or(0, WallTime::unix_ms),
        })
    }

    pub(super) async fn simulate(
        &self,
        request: api::SimulatePolicyRequest,
    ) -> Result<api::PolicySimulation, Status> {
        let days = in_range("days", request.days, 365, DAYS)?;
        let per_mille = per_mille(request.change_per_mille)?;
        let outages = outages(&request.outages)?;
        let wanted = request.policy.unwrap_or_default();
        let named = self.resolve_known(wanted.vm.as_ref()).await?;
        let present = self.present_of(&named).await?;
        let policy = present.changed(change(&wanted))?;
        let size_bytes = self.size_of(&named.id, named.item.as_ref()).await?;
        let growth = Growth { size_bytes, change_per_mille: per_mille };
        let now = present.now;
        let show = |p: &Policy| shown(&named.id, p, &present.taken, now);
        let (shown, before) = (show(&policy), present.policy().map(show));
        let until = now.plus(Duration::from_secs(u64::from(days) * 86_400));
        let simulated = self
            .store
            .compute(move || {
                forecast::simulate(&present.start(Some(&policy)), &outages, growth, until)
            })
            .await
            .map_err(unavailable)?;
        Ok(api::PolicySimulation {
            vm_resource_id: named.id.to_string(),
            vm_name: named.id.name().to_owned(),
            policy: Some(shown),
            from_unix_ms: now.unix_ms(),
            to_unix_ms: simulated.until.unix_ms(),
            at_start: simulated.at_start.iter().map(holding).collect(),
            months: simulated.months.iter().map(month).collect(),
            runs: simulated.steps.iter().map(run).collect(),
            missed_unix_ms: simulated.missed.iter().map(|at| at.unix_ms()).collect(),
            basis: Some(basis(growth)),
            deletions_held: self.why_held().await?,
            present_policy: before,
        })
    }

    pub(super) async fn diff(
        &self,
        request: api::DiffPolicyRequest,
    ) -> Result<api::PolicyDiff, Status> {
        let wanted = request.policy.unwrap_or_default();
        let change = change(&wanted);
        if change == PolicyChange::default() {
            return Err(Status::invalid_argument("nothing would be changed: give a new policy"));
        }
        let named = self.resolve_known(wanted.vm.as_ref()).await?;
        let present = self.present_of(&named).await?;
        let policy = present.changed(change)?;
        let show = |p: &Policy| shown(&named.id, p, &present.taken, present.now);
        let (before, after) = (present.policy().map(show), Some(show(&policy)));
        let points = present.points.len();
        let changes = self.store.compute(move || {
            forecast::diff(&present.start(present.policy()), &present.start(Some(&policy)))
        });
        let changes = changes.await.map_err(unavailable)?;
        Ok(api::PolicyDiff {
            vm_resource_id: named.id.to_string(),
            vm_name: named.id.name().to_owned(),
            before,
            after,
            unchanged: (points - changes.len()) as u32,
            entries: changes.iter().map(entry).collect(),
            deletions_held: self.why_held().await?,
        })
    }

    /// What pruning deletes after their next backups when these VMs get these policies; VMs of which
    /// nothing is deleted are left out.
    pub(super) async fn at_once(
        &self,
        changes: BTreeMap<ItemId, PolicyChanged>,
    ) -> Result<BTreeMap<ItemId, Vec<api::PolicyDiffEntry>>, Status> {
        let now = self.env.clock.wall();
        let mut found = BTreeMap::new();
        if changes.len() <= FEW {
            for (item, changed) in changes {
                let points = self.store.standings(item).await.map_err(unavailable)?;
                let entries = self.store.compute(move || changed.at_once(&points, now));
                found.insert(item, entries.await.map_err(unavailable)?);
            }
        } else {
            let each = move |found: &mut BTreeMap<_, _>, item, points: Vec<PointStanding>| {
                if let Some(changed) = changes.get(&item) {
                    found.insert(item, changed.at_once(&points, now));
                }
            };
            found = self.store.each_standings(each, found).await.map_err(unavailable)?;
        }
        found.retain(|_, entries| !entries.is_empty());
        Ok(found)
    }

    /// Verifications and drills that become due until then.
    async fn upcoming_proofs(
        &self,
        item: &Item,
        row: &PolicyRow,
        now: WallTime,
        until: WallTime,
        count: usize,
    ) -> Result<Vec<api::UpcomingProof>, Status> {
        let zone = &row.policy.schedule.time_zone;
        let mut proofs = vec![];
        for (kind, shown) in [
            (Kind::Verification, api::ProofKind::Verification),
            (Kind::Drill, api::ProofKind::Drill),
        ] {
            let Some(every) = kind.every(&row.policy) else { continue };
            let attempts =
                self.store.attempts(item.id, kind.workflow()).await.map_err(unavailable)?;
            let past = Past::of(&attempts, row.enabled_since, now);
            let due = proving::upcoming(&past, every, now, until, count);
            proofs.extend(due.into_iter().map(|at| api::UpcomingProof {
                kind: shown.into(),
                due_unix_ms: at.unix_ms(),
                local: zone.local(at),
            }));
        }
        proofs.sort_by_key(|p| (p.due_unix_ms, p.kind));
        Ok(proofs)
    }

    pub(super) async fn cost(
        &self,
        request: api::EstimateCostRequest,
    ) -> Result<api::CostEstimate, Status> {
        let per_mille = per_mille(request.change_per_mille)?;
        let wanted = request.policy.unwrap_or_default();
        let named = self.resolve_known(wanted.vm.as_ref()).await?;
        let present = self.present_of(&named).await?;
        let size_bytes = self.size_of(&named.id, named.item.as_ref()).await?;
        let growth = Growth { size_bytes, change_per_mille: per_mille };
        let chains: Vec<Vec<WallTime>> = chains(&present.points);
        let filled =
            |p: &Policy| convert::monthly_cost(MonthlyCost::when_filled(p, &present.home, growth));
        let change = change(&wanted);
        let new = match change == PolicyChange::default() {
            true => None,
            false => Some(filled(&present.changed(change)?)),
        };
        Ok(api::CostEstimate {
            vm_resource_id: named.id.to_string(),
            vm_name: named.id.name().to_owned(),
            now: Some(convert::monthly_cost(MonthlyCost::of_chains(growth, &chains))),
            present_policy: present.policy().map(filled),
            new_policy: new,
            basis: Some(basis(growth)),
        })
    }
}

/// When the points of each region were taken, oldest first.
fn chains(points: &[PointFacts]) -> Vec<Vec<WallTime>> {
    let mut regions: BTreeMap<&Region, Vec<WallTime>> = Default::default();
    for point in points {
        regions.entry(&point.region).or_default().push(point.created);
    }
    let sorted = |mut times: Vec<WallTime>| {
        times.sort_unstable();
        times
    };
    regions.into_values().map(sorted).collect()
}

fn in_range(
    field: &str,
    given: u32,
    default: u32,
    allowed: std::ops::RangeInclusive<u32>,
) -> Result<u32, Status> {
    let value = if given == 0 { default } else { given };
    if allowed.contains(&value) {
        return Ok(value);
    }
    let (low, high) = allowed.into_inner();
    Err(Status::invalid_argument(format!("{field} is {value}: it must be {low} to {high}")))
}

fn per_mille(given: u32) -> Result<u32, Status> {
    in_range("change_per_mille", given, Growth::DEFAULT_PER_MILLE, 1..=1000)
}

fn outages(given: &[api::Outage]) -> Result<Vec<Outage>, Status> {
    if given.len() > MAX_OUTAGES {
        let message = format!("{} outages: at most {MAX_OUTAGES} are allowed", given.len());
        return Err(Status::invalid_argument(message));
    }
    let outage = |o: &api::Outage| {
        let (from, to) =
            (WallTime::from_unix_ms(o.from_unix_ms), WallTime::from_unix_ms(o.to_unix_ms));
        let message = format!("the outage from {from} to {to} ends before it begins");
        if from < to { Ok(Outage { from, to }) } else { Err(Status::invalid_argument(message)) }
    };
    given.iter().map(outage).collect()
}

fn basis(growth: Growth) -> api::CostBasis {
    api::CostBasis {
        size_bytes: growth.size_bytes,
        change_per_mille: growth.change_per_mille,
        prices_as_of: PRICES_AS_OF.to_owned(),
    }
}

fn holding(holding: &Holding) -> api::RegionHolding {
    api::RegionHolding {
        region: holding.region.to_string(),
        recovery_points: holding.points,
        bytes: holding.bytes,
    }
}

fn month(month: &Month) -> api::SimulatedMonth {
    api::SimulatedMonth {
        month: month.first_day.strftime("%Y-%m").to_string(),
        partial: month.partial,
        taken: month.taken,
        late: month.late,
        missed: month.missed,
        deleted: month.deleted,
        holdings: month.holdings.iter().map(holding).collect(),
        storage_usd_cents: month.storage_cents,
        copy_usd_cents: month.copy_cents,
    }
}

fn run(step: &Step) -> api::SimulatedRun {
    api::SimulatedRun {
        scheduled_unix_ms: step.due.scheduled_for.unix_ms(),
        started_unix_ms: step.at.unix_ms(),
        late: step.due.late,
        recovery_point: step.point.to_string(),
        tiers: tiers(step.tiers),
        deleted: step
            .deleted
            .iter()
            .map(|d| api::SimulatedDeletion {
                recovery_point: d.point.to_string(),
                region: d.region.to_string(),
                reason: d.reason.to_string(),
            })
            .collect(),
    }
}

fn entry(change: &Change) -> api::PolicyDiffEntry {
    let kind = match (&change.at_once, change.is_longer()) {
        (Some(_), _) => api::PolicyDiffKind::AtOnce,
        (None, true) => api::PolicyDiffKind::Longer,
        (None, false) => api::PolicyDiffKind::Shorter,
    };
    api::PolicyDiffEntry {
        recovery_point: change.point.to_string(),
        region: change.region.to_string(),
        created_unix_ms: change.created.unix_ms(),
        tiers: tiers(change.tiers),
        kind: kind.into(),
        reason: change.at_once.as_ref().map(ToString::to_string).unwrap_or_default(),
        anyway: change.at_once_anyway,
        before: Some(kept_until(&change.before)),
        after: Some(kept_until(&change.after)),
    }
}
