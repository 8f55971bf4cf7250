//! What has happened to the fleet, oldest first: the runs that made what the catalogue holds.
//!
//! Which points there are is what azdr's own rules leave of five years of backups
//! ([`azdr_domain::forecast`]); the rest, up to the number that was asked for, are backups that people
//! have taken by hand, which live as long as their day.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use azdr_domain::cost::Growth;
use azdr_domain::forecast::{self, Start};
use azdr_domain::policy::Policy;
use azdr_domain::recovery_point::PointName;
use azdr_domain::region::Region;
use azdr_domain::schedule;
use azdr_domain::tier::{Tier, TierSet};
use azdr_env::WallTime;

use crate::fleet::{Dice, Fleet, HOME, Vm};

const DAY: Duration = Duration::from_secs(86_400);
/// How long ago backups began.
const AGE: u32 = 5 * 365 + 1;
/// As in production.
const JITTER: Duration = Duration::from_secs(15 * 60);

/// A run that has succeeded, or not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Past {
    pub(crate) at_ms: i64,
    pub(crate) what: What,
    /// Its place in the fleet.
    pub(crate) vm: u32,
    /// Its place among the VM's points, oldest first.
    pub(crate) point: u16,
    pub(crate) passed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Backup,
    Replicate,
    Verify,
    Drill,
}

/// A recovery point to be.
pub(crate) struct Point {
    pub(crate) name: PointName,
    pub(crate) at: WallTime,
    pub(crate) tiers: TierSet,
}

pub(crate) struct History {
    /// By VM, oldest first.
    pub(crate) points: Vec<Vec<Point>>,
    pub(crate) runs: Vec<Past>,
}

impl History {
    /// `points_per_vm` on average, and so many times the number of VMs in all.
    pub(crate) fn new(
        fleet: &Fleet,
        points_per_vm: usize,
        seed: u64,
        now: WallTime,
    ) -> anyhow::Result<Self> {
        let home = Region::parse(HOME)?;
        let kept: Vec<Vec<(WallTime, TierSet)>> =
            fleet.policies.iter().map(|named| kept(&named.policy, &home, now)).collect();
        let planned: usize = fleet.vms.iter().map(|vm| kept[vm.kind].len()).sum();
        let wanted = points_per_vm * fleet.vms.len();
        ensure!(planned <= wanted, "the policies keep {planned} points of {wanted}");
        let by_hand = wanted - planned;
        let mut dice = Dice(seed ^ 1);
        let (mut points, mut runs) = (Vec::with_capacity(fleet.vms.len()), Vec::new());
        for (n, vm) in fleet.vms.iter().enumerate() {
            let extra = (n + 1) * by_hand / fleet.vms.len() - n * by_hand / fleet.vms.len();
            let of_vm = points_of(vm, &fleet.policies[vm.kind].policy, &kept[vm.kind], extra);
            add_runs(&mut runs, n as u32, &fleet.policies[vm.kind].policy, &of_vm, &mut dice, now);
            points.push(of_vm);
        }
        runs.sort_unstable();
        Ok(Self { points, runs })
    }
}

/// What is left today of a VM that has had this policy all the time, oldest first.
fn kept(policy: &Policy, home: &Region, now: WallTime) -> Vec<(WallTime, TierSet)> {
    let began = now.minus(DAY * AGE);
    let start = Start {
        policy: Some(policy),
        vm_name: "vm",
        home,
        points: &[],
        holds: &[],
        lineage: &[],
        enabled_since: began,
        last_run: None,
        gone: false,
        jitter: Duration::ZERO,
        now: began,
    };
    let growth = Growth { size_bytes: 1 << 30, change_per_mille: Growth::DEFAULT_PER_MILLE };
    let simulated = forecast::simulate(&start, &[], growth, now.minus(JITTER));
    let gone: BTreeSet<&PointName> = simulated
        .steps
        .iter()
        .flat_map(|step| &step.deleted)
        .filter(|d| d.region == *home)
        .map(|d| &d.point)
        .collect();
    let left = simulated.steps.iter().filter(|step| !gone.contains(&step.point));
    left.map(|step| (step.at, step.tiers)).collect()
}

fn points_of(vm: &Vm, policy: &Policy, kept: &[(WallTime, TierSet)], extra: usize) -> Vec<Point> {
    let jitter = schedule::jitter(&vm.id, JITTER);
    let mut times: Vec<(WallTime, TierSet)> =
        kept.iter().map(|(at, tiers)| (at.plus(jitter), *tiers)).collect();
    let lowest = policy.retention.tiers().iter().last().unwrap_or(Tier::Daily);
    // Three hours after the scheduled one, on the newest days; a second one a day for more.
    let days = times.len();
    for n in 0..extra {
        let (day, round) = (times[days - 1 - n % days].0, (n / days) as u32);
        times.push((
            day.plus(Duration::from_secs(3 * 3600 + 60)).plus(Duration::from_secs(600) * round),
            TierSet::only(lowest),
        ));
    }
    times.sort_unstable_by_key(|(at, _)| *at);
    let name = |at, tiers: TierSet| {
        PointName::choose(vm.id.name(), tiers.highest().unwrap_or(Tier::Daily), at, |_| false)
    };
    times.into_iter().map(|(at, tiers)| Point { name: name(at, tiers), at, tiers }).collect()
}

fn add_runs(
    runs: &mut Vec<Past>,
    vm: u32,
    policy: &Policy,
    points: &[Point],
    dice: &mut Dice,
    now: WallTime,
) {
    let last = points.len() - 1;
    for (n, point) in points.iter().enumerate() {
        let at_ms = point.at.unix_ms();
        let mut add = |what, later_ms: i64, passed| {
            let at_ms = (at_ms + later_ms).min(now.unix_ms() - 60_000);
            runs.push(Past { at_ms, what, vm, point: n as u16, passed });
        };
        add(What::Backup, 0, true);
        if policy.target_region.is_some() {
            // The newest copies are whole: the next one is a delta to them.
            add(What::Replicate, 1_800_000, n + 5 > last || dice.below(100) > 0);
        }
        // Often enough that none is due before the day is over.
        let verified = policy.verify_every.is_some() && (n == last || dice.below(7) == 0);
        if verified {
            add(What::Verify, 7_200_000, n == last || dice.below(100) > 0);
        }
        let drilled = policy.drill_every.is_some() && (n == last || dice.below(40) == 0);
        if drilled {
            add(What::Drill, 10_800_000, n == last || dice.below(20) > 0);
        }
    }
}
