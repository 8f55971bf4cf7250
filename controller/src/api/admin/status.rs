//! The whole fleet on one screen.

use std::collections::{BTreeMap, BTreeSet};

use azdr_arm::Vm as AzureVm;
use azdr_domain::alert::Severity;
use azdr_domain::arm_id::ArmId;
use azdr_domain::coverage::ExpectedTimes;
use azdr_domain::objective::{self, Judgement, LastDrill};
use azdr_domain::residue::RunTag;
use azdr_env::WallTime;
use azdr_proto::admin as api;
use tonic::Status;

use super::Admin;
use super::errors::unavailable;
use crate::store::{FleetRow, ItemId};
use crate::workflows::tags;

/// Most VMs and jobs that are named.
const NAMED: usize = 10;

impl Admin {
    pub(super) async fn status(&self) -> Result<api::FleetStatus, Status> {
        let now = self.env.clock.wall();
        let listed = self.last_listed().await;
        let fleet = self.store.fleet().await.map_err(unavailable)?;
        let (open, points) = self.store.open_runs().await.map_err(unavailable)?;
        let alerts = self.store.open_alerts().await.map_err(unavailable)?;
        let alerts = |severity: Severity| -> u32 {
            alerts.iter().filter(|(_, s, _)| *s == severity).map(|(_, _, count)| count).sum()
        };
        let unfinished: BTreeSet<i64> = match &listed {
            Ok((_, vms)) if vms.iter().any(|vm| self.run_of(vm).is_some()) => {
                let runs = self.store.unfinished_runs().await.map_err(unavailable)?;
                runs.iter().map(|r| r.id.0).collect()
            }
            _ => BTreeSet::new(),
        };
        let preflights = self.store.preflights().await.map_err(unavailable)?;
        let not_ready = preflights.iter().filter(|(_, p)| !p.ready).map(|(item, _)| *item);
        let mut status = api::FleetStatus {
            preflight_not_ready: not_ready_to_freeze(&fleet, &not_ready.collect()),
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
            alerts_critical: alerts(Severity::Critical),
            alerts_high: alerts(Severity::High),
            alerts_medium: alerts(Severity::Medium),
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
    let (mut due, mut not_asked_for, mut failed) = <(Part, Part, Part)>::default();
    let (mut rpo, mut rto) = <(Objective, Objective)>::default();
    let mut gone = Part::default();
    let mut expected = ExpectedTimes::default();
    for vm in fleet {
        let Some(facts) = vm.facts(&mut expected, now) else { continue };
        if vm.gone.is_some() {
            gone.add(vm);
            continue;
        }
        let policy = facts.policy;
        match vm.newest {
            None => never.add(vm),
            Some(_) if facts.is_overdue() => overdue.add(vm),
            Some(_) => covered += 1,
        }
        let failed_last = vm.proof_failed > vm.proved;
        if vm.newest.is_some()
            && (failed_last || objective::proof_is_due(policy, vm.proved, vm.unproved_since, now))
        {
            unproved.add(vm);
        }
        match objective::drill_is_due(policy, vm.drilled, now) {
            None => not_asked_for.add(vm),
            Some(true) => due.add(vm),
            Some(false) => {}
        }
        if vm.last_drill == Some(LastDrill::Failed) {
            failed.add(vm);
        }
        rpo.count(vm, facts.rpo(now));
        let target = objective::rto_target(Some(policy));
        rto.count(vm, Some(objective::judge_rto(target, vm.last_drill)));
    }
    api::FleetStatus {
        covered,
        overdue: overdue.shown(),
        never_backed_up: never.shown(),
        unproved: unproved.shown(),
        drills_due: due.shown(),
        drills_not_asked_for: not_asked_for.shown(),
        drills_failed: failed.shown(),
        rpo: rpo.shown(),
        rto: rto.shown(),
        not_covered: Part::default().shown(),
        gone: gone.shown(),
        ..api::FleetStatus::default()
    }
}

/// VMs that are to be backed up, whose agent has said that they could not be frozen.
fn not_ready_to_freeze(fleet: &[FleetRow], not_ready: &BTreeSet<ItemId>) -> Option<api::FleetPart> {
    let mut part = Part::default();
    let protected = |vm: &&FleetRow| {
        vm.gone.is_none() && vm.policy.as_ref().is_some_and(|policy| policy.enabled)
    };
    fleet
        .iter()
        .filter(|vm| not_ready.contains(&vm.item))
        .filter(protected)
        .for_each(|vm| part.add(vm));
    part.shown()
}

/// How many VMs meet an objective.
#[derive(Default)]
struct Objective {
    met: u32,
    missed: Part,
    unknown: u32,
    not_asked_for: u32,
}

impl Objective {
    fn count(&mut self, vm: &FleetRow, judgement: Option<Judgement>) {
        match judgement {
            Some(Judgement::Met) => self.met += 1,
            Some(Judgement::Missed) => self.missed.add(vm),
            Some(Judgement::Unknown) => self.unknown += 1,
            None => self.not_asked_for += 1,
        }
    }

    fn shown(self) -> Option<api::FleetObjective> {
        Some(api::FleetObjective {
            met: self.met,
            missed: self.missed.shown(),
            unknown: self.unknown,
            not_asked_for: self.not_asked_for,
        })
    }
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
    use std::time::Duration;

    use azdr_domain::interval::Interval;
    use azdr_domain::policy::Policy;

    use super::*;

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
            unproved_since: None,
            newest_restorable: newest,
            last_drill: None,
            drilled: None,
            gone: None,
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

    fn with(mut row: FleetRow, change: impl FnOnce(&mut Policy)) -> FleetRow {
        change(Arc::make_mut(row.policy.as_mut().unwrap()));
        row
    }

    fn hours_ago(hours: i64) -> Option<WallTime> {
        Some(WallTime::from_unix_ms(NOW - hours * 3_600_000))
    }

    fn names(part: Option<api::FleetPart>) -> Vec<String> {
        let longest = part.unwrap().longest;
        let name = |id: &str| id[id.len() - 4..].to_owned();
        longest.iter().map(|v| name(&v.vm_resource_id)).collect()
    }

    #[test]
    fn a_proof_that_failed_last_or_is_older_than_the_policy_wants_is_shown() {
        let daily = |row: FleetRow| {
            let row = FleetRow { unproved_since: row.proved, ..row };
            with(row, |p| p.verify_every = Some(Interval::days(1)))
        };
        let status = judge(
            &[
                FleetRow { proved: hours_ago(9), proof_failed: hours_ago(8), ..vm(1, Some(3)) },
                FleetRow { proved: hours_ago(7), proof_failed: hours_ago(8), ..vm(2, Some(3)) },
                // Without an interval one proof is enough.
                FleetRow { proved: hours_ago(999), ..vm(3, Some(3)) },
                daily(FleetRow { proved: hours_ago(27), ..vm(4, Some(3)) }),
                daily(FleetRow { proved: hours_ago(25), ..vm(5, Some(3)) }),
            ],
            WallTime::from_unix_ms(NOW),
        );
        assert_eq!(names(status.unproved), ["vm01", "vm04"]);
    }

    #[test]
    fn drills_are_due_by_the_policys_own_interval_and_by_none_of_ours() {
        let weekly = |row| with(row, |p| p.drill_every = Some(Interval::days(7)));
        let replicated = with(vm(1, Some(3)), |p| p.target_region = "westus2".parse().ok());
        let status = judge(
            &[
                replicated,
                weekly(vm(2, Some(3))),
                weekly(FleetRow { drilled: hours_ago(7 * 24), ..vm(3, Some(3)) }),
                weekly(FleetRow { drilled: hours_ago(7 * 24 - 1), ..vm(4, Some(3)) }),
                FleetRow { last_drill: Some(LastDrill::Failed), ..vm(5, Some(3)) },
            ],
            WallTime::from_unix_ms(NOW),
        );
        assert_eq!(names(status.drills_due), ["vm02", "vm03"]);
        assert_eq!(names(status.drills_not_asked_for), ["vm01", "vm05"]);
        assert_eq!(names(status.drills_failed), ["vm05"]);
    }

    #[test]
    fn objectives_are_met_missed_or_not_known() {
        let rpo = |row| with(row, |p| p.rpo = Some(Interval::hours(24)));
        let took = |minutes: u64| Some(LastDrill::Took(Duration::from_secs(minutes * 60)));
        let slow = with(vm(5, Some(3)), |p| p.rto = Some(Interval::minutes(5)));
        let status = judge(
            &[
                rpo(vm(1, Some(24))),
                rpo(vm(2, Some(25))),
                // Its newest backup is not whole any more.
                rpo(FleetRow { newest_restorable: hours_ago(30), ..vm(3, Some(3)) }),
                FleetRow { last_drill: took(15), ..vm(4, Some(3)) },
                FleetRow { last_drill: took(6), ..slow },
                FleetRow { gone: hours_ago(1), ..rpo(vm(6, Some(900))) },
            ],
            WallTime::from_unix_ms(NOW),
        );
        let (rpo, rto) = (status.rpo.unwrap(), status.rto.unwrap());
        assert_eq!((rpo.met, rpo.unknown, rpo.not_asked_for), (1, 0, 2));
        assert_eq!(names(rpo.missed), ["vm02", "vm03"]);
        assert_eq!((rto.met, rto.unknown, rto.not_asked_for), (1, 3, 0));
        assert_eq!(names(rto.missed), ["vm05"]);
        assert_eq!(names(status.gone), ["vm06"]);
        assert_eq!(status.overdue.unwrap().vms, 2, "the one that is gone is not among them");
    }

    #[test]
    fn vms_that_could_not_be_frozen_are_counted_while_they_are_to_be_backed_up() {
        let off = with(vm(3, Some(3)), |p| p.enabled = false);
        let gone = FleetRow { gone: hours_ago(1), ..vm(4, Some(3)) };
        let fleet = [vm(1, Some(3)), vm(2, Some(3)), off, gone, vm(5, None)];
        let not_ready = [2, 3, 4, 5, 99].map(ItemId).into();
        assert_eq!(names(not_ready_to_freeze(&fleet, &not_ready)), ["vm05", "vm02"]);
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
