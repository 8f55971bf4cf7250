//! The whole fleet on one screen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_arm::Vm as AzureVm;
use azdr_domain::arm_id::ArmId;
use azdr_domain::coverage;
use azdr_domain::policy::Policy;
use azdr_domain::residue::RunTag;
use azdr_env::WallTime;
use azdr_proto::admin as api;
use tonic::Status;

use super::Admin;
use super::errors::unavailable;
use crate::store::FleetRow;
use crate::workflows::tags;

/// How often a VM whose backups are replicated is to pass a DR test.
const DRILL_EVERY: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most VMs and jobs that are named.
const NAMED: usize = 10;

impl Admin {
    pub(super) async fn status(&self) -> Result<api::FleetStatus, Status> {
        let now = self.env.clock.wall();
        let listed = self.last_listed().await;
        let fleet = self.store.fleet().await.map_err(unavailable)?;
        let (open, points) = self.store.open_runs().await.map_err(unavailable)?;
        let unfinished: BTreeSet<i64> = match &listed {
            Ok((_, vms)) if vms.iter().any(|vm| self.run_of(vm).is_some()) => {
                let runs = self.store.unfinished_runs().await.map_err(unavailable)?;
                runs.iter().map(|r| r.id.0).collect()
            }
            _ => BTreeSet::new(),
        };
        let mut status = api::FleetStatus {
            as_of_unix_ms: now.unix_ms(),
            recovery_points: points,
            jobs_queued: open.queued,
            jobs_running: open.running,
            jobs_undoing: open.undoing,
            jobs_stuck: open.stuck.len() as u32,
            stuck_job_ids: open.stuck.iter().take(NAMED).map(|run| run.0).collect(),
            residue: self.sweeper.last().map(|sweep| api::FleetResidue {
                as_of_unix_ms: sweep.at.unix_ms(),
                resources: sweep.found.len() as u32,
                monthly_cost_usd_cents: sweep.found.iter().filter_map(|f| f.monthly_cents).sum(),
            }),
            deletions_held: self.why_held().await?,
            ..judge(&fleet, now)
        };
        match listed {
            Ok((age, vms)) => {
                status.vms_listed_unix_ms = now.minus(age).unix_ms();
                let is_temporary =
                    |vm: &AzureVm| self.run_of(vm).is_some_and(|run| unfinished.contains(&run));
                let vms = vms.iter().filter(|vm| !is_temporary(vm)).filter_map(|vm| vm.id.as_ref());
                compare(&mut status, vms, &fleet);
            }
            Err(e) => status.vms_unknown = e.message().to_owned(),
        }
        Ok(status)
    }

    /// The run of ours that has made a VM.
    fn run_of(&self, vm: &AzureVm) -> Option<i64> {
        let tag = RunTag::parse(tags::value(&vm.tags, tags::RUN)?)?;
        (tag.installation == self.stamp.installation).then_some(tag.run)
    }
}

/// VMs by how long they have waited, the longest first.
#[derive(Default)]
struct Part(Vec<(Option<WallTime>, ArmId)>);

impl Part {
    fn add(&mut self, vm: &FleetRow) {
        self.0.push((vm.newest, vm.vm.clone()));
    }

    fn shown(mut self) -> Option<api::FleetPart> {
        let vms = self.0.len() as u32;
        self.0.sort();
        let shown = |(newest, vm): (Option<WallTime>, ArmId)| api::FleetVm {
            vm_resource_id: vm.to_string(),
            newest_recovery_point_unix_ms: newest.map_or(0, WallTime::unix_ms),
        };
        let longest = self.0.into_iter().take(NAMED).map(shown).collect();
        Some(api::FleetPart { vms, longest })
    }
}

/// What the catalogue alone says.
fn judge(fleet: &[FleetRow], now: WallTime) -> api::FleetStatus {
    let mut covered = 0;
    let (mut overdue, mut never, mut unproved) = <(Part, Part, Part)>::default();
    let (mut due, mut failed) = <(Part, Part)>::default();
    // Looking up a time zone's calendar takes long for one VM, and a fleet has few schedules.
    let mut expected: BTreeMap<(String, String), Option<WallTime>> = BTreeMap::new();
    for vm in fleet {
        let Some(policy) = vm.policy.as_deref().filter(|p| p.enabled) else { continue };
        let schedule = (policy.schedule.time.to_string(), policy.schedule.time_zone.to_string());
        let expected = *expected.entry(schedule).or_insert_with(|| coverage::expected(policy, now));
        match vm.newest {
            None => never.add(vm),
            Some(newest) if is_overdue(policy, vm, expected, newest) => overdue.add(vm),
            Some(_) => covered += 1,
        }
        if vm.newest.is_some() && (vm.proved.is_none() || vm.proof_failed > vm.proved) {
            unproved.add(vm);
        }
        let recently = vm.drilled.is_some_and(|at| now.since(at) < DRILL_EVERY);
        if policy.target_region.is_some() && !recently {
            due.add(vm);
        }
        if vm.last_drill_passed == Some(false) {
            failed.add(vm);
        }
    }
    api::FleetStatus {
        covered,
        overdue: overdue.shown(),
        never_backed_up: never.shown(),
        unproved: unproved.shown(),
        drills_due: due.shown(),
        drills_failed: failed.shown(),
        not_covered: Part::default().shown(),
        gone: Part::default().shown(),
        ..api::FleetStatus::default()
    }
}

fn is_overdue(
    policy: &Policy,
    vm: &FleetRow,
    expected: Option<WallTime>,
    newest: WallTime,
) -> bool {
    expected.is_some_and(|expected| {
        let lowest = |_| vm.newest_of_lowest;
        coverage::is_overdue(policy, vm.enabled_since, expected, newest, lowest)
    })
}

/// What Azure has without a policy, and the other way round.
fn compare<'a>(
    status: &mut api::FleetStatus,
    listed: impl Iterator<Item = &'a ArmId>,
    fleet: &[FleetRow],
) {
    let listed: BTreeMap<&str, &ArmId> = listed.map(|id| (id.key(), id)).collect();
    let known: BTreeMap<&str, &FleetRow> = fleet.iter().map(|vm| (vm.vm.key(), vm)).collect();
    let on = |vm: &FleetRow| vm.policy.as_ref().is_some_and(|p| p.enabled);
    let (mut uncovered, mut gone) = <(Part, Part)>::default();
    for (key, id) in &listed {
        match known.get(key) {
            Some(vm) if on(vm) => {}
            Some(vm) => uncovered.add(vm),
            None => uncovered.0.push((None, (*id).clone())),
        }
    }
    for vm in fleet.iter().filter(|vm| on(vm) && !listed.contains_key(vm.vm.key())) {
        gone.add(vm);
    }
    status.vms = listed.len() as u32;
    status.not_covered = uncovered.shown();
    status.gone = gone.shown();
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::ItemId;

    const NOW: i64 = 1_764_676_800_000; // 2025-12-02 12:00 UTC

    fn vm(n: i64, newest_hours_ago: Option<i64>) -> FleetRow {
        let mut policy = Policy { enabled: true, ..Policy::default() };
        policy.schedule.time = "08:00".parse().unwrap();
        let newest = newest_hours_ago.map(|h| WallTime::from_unix_ms(NOW - h * 3_600_000));
        let id = format!(
            "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm{n:02}"
        );
        FleetRow {
            item: ItemId(n),
            vm: ArmId::parse(&id).unwrap(),
            policy: Some(Arc::new(policy)),
            enabled_since: WallTime::from_unix_ms(0),
            newest,
            oldest: newest,
            newest_of_lowest: newest,
            proved: newest,
            proof_failed: None,
            last_drill_passed: None,
            drilled: None,
        }
    }

    #[test]
    fn each_vm_with_a_policy_is_covered_overdue_or_never_backed_up() {
        let mut fleet: Vec<_> = (0..12).map(|n| vm(n, Some(24 + n))).collect();
        fleet.extend([vm(20, Some(3)), vm(21, None)]);
        let off = Policy { enabled: false, ..Policy::default() };
        fleet.push(FleetRow { policy: Some(Arc::new(off)), ..vm(22, None) });
        fleet.push(FleetRow { policy: None, ..vm(23, Some(90)) });
        let status = judge(&fleet, WallTime::from_unix_ms(NOW));
        let overdue = status.overdue.unwrap();
        assert_eq!((status.covered, overdue.vms, overdue.longest.len()), (1, 12, 10));
        assert!(overdue.longest[0].vm_resource_id.ends_with("/vm11"), "{overdue:?}");
        assert_eq!(status.never_backed_up.unwrap().vms, 1);
        assert_eq!(status.unproved.unwrap().vms, 0);
    }

    #[test]
    fn a_proof_that_failed_last_and_a_drill_that_failed_last_are_shown() {
        let at = |hours: i64| Some(WallTime::from_unix_ms(NOW - hours * 3_600_000));
        let failed = FleetRow { proved: at(9), proof_failed: at(8), ..vm(1, Some(3)) };
        let mended = FleetRow { proved: at(7), proof_failed: at(8), ..vm(2, Some(3)) };
        let replicated = |mut row: FleetRow| {
            let policy = row.policy.as_deref().cloned().unwrap();
            let target_region = Some("westus2".parse().unwrap());
            row.policy = Some(Arc::new(Policy { target_region, ..policy }));
            row
        };
        let drilled = FleetRow {
            last_drill_passed: Some(false),
            drilled: at(29 * 24),
            ..replicated(vm(3, Some(3)))
        };
        let due = FleetRow { drilled: at(30 * 24), ..replicated(vm(4, Some(3))) };
        let status = judge(&[failed, mended, drilled, due], WallTime::from_unix_ms(NOW));
        let name = |part: Option<api::FleetPart>| {
            let longest = part.unwrap().longest;
            longest
                .iter()
                .map(|v| v.vm_resource_id[v.vm_resource_id.len() - 4..].to_owned())
                .collect()
        };
        let [unproved, failed, due]: [Vec<String>; 3] =
            [status.unproved, status.drills_failed, status.drills_due].map(name);
        assert_eq!(
            (unproved, failed, due),
            (vec!["vm01".into()], vec!["vm03".into()], vec!["vm04".into()])
        );
    }

    #[test]
    fn azure_and_the_catalogue_are_compared_both_ways_and_without_case() {
        let fleet = [vm(1, Some(3)), vm(2, Some(3)), FleetRow { policy: None, ..vm(3, Some(3)) }];
        let upper = ArmId::parse(&fleet[0].vm.to_string().replace("vm01", "VM01")).unwrap();
        let listed = [upper, fleet[2].vm.clone(), vm(4, None).vm];
        let mut status = judge(&fleet, WallTime::from_unix_ms(NOW));
        compare(&mut status, listed.iter(), &fleet);
        assert_eq!(status.vms, 3);
        assert_eq!(status.not_covered.unwrap().vms, 2);
        assert_eq!(status.gone.unwrap().longest[0].vm_resource_id, fleet[1].vm.to_string());
    }
}
