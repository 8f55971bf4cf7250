//! Starts the verifications and drills that policies ask for, inside a budget.
//!
//! Due times are [`azdr_domain::proving`]'s. What is longest overdue goes first. A VM never has two of a
//! kind at once, whoever asked for them; those of operators count against the budget too. A stuck one
//! waits for a person: it does not take the budget's place, and its VM gets no other. After a crash the
//! store shows what was queued, so that nothing is started twice. The backups of a VM that is gone from
//! Azure are the last copy of it: they are proved as those of any other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use azdr_domain::interval::Interval;
use azdr_domain::policy::Policy;
use azdr_domain::proving::Past;
use azdr_domain::recovery_point::ProofLevel;
use azdr_env::WallTime;
use tokio_util::sync::CancellationToken;

use super::Reconciler;
use crate::store::{Item, ItemId, NewRun, PointRow, PolicyRow, RunId, RunState, StoreError};
use crate::workflows::{backup, dr_test, new_run, verify};

/// How often due proofs are looked up at most.
const TICK: Duration = Duration::from_secs(60);

/// How many may be under way at once; 0: the schedule starts none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofBudget {
    /// Verifications.
    pub verifications: usize,
    /// Drills.
    pub drills: usize,
}

impl Default for ProofBudget {
    fn default() -> Self {
        Self { verifications: 4, drills: 1 }
    }
}

/// A kind of proof.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// Of the newest unproved point, where it was taken.
    Verification,
    /// In the target region, or else where the VM is.
    Drill,
}

impl Kind {
    /// The workflow that makes it.
    pub const fn workflow(self) -> &'static str {
        match self {
            Self::Verification => verify::RUN.0,
            Self::Drill => dr_test::RUN.0,
        }
    }

    /// How often the policy wants one.
    pub const fn every(self, policy: &Policy) -> Option<Interval> {
        match self {
            Self::Verification => policy.verify_every,
            Self::Drill => policy.drill_every,
        }
    }
}

/// How long a VM is not looked at again for which there was nothing to prove, without a new backup.
const IDLE: Duration = Duration::from_secs(3600);

/// VMs for which there was nothing to prove, since when, and with the newest backup and proof of then.
/// Forgetting it costs time and changes nothing.
#[derive(Default)]
pub struct Idle(BTreeMap<(Kind, ItemId), (Newest, WallTime)>);

type Newest = (Option<RunId>, Option<RunId>);

impl Reconciler {
    /// Starts due verifications and drills, until `stop`.
    pub async fn keep_proofs(self, budget: ProofBudget, tick: Duration, stop: CancellationToken) {
        let mut idle = Idle::default();
        loop {
            if let Err(e) = self.start_due_proofs(budget, &mut idle).await {
                tracing::error!(error = %e, cause = ?e, "due proofs could not be looked up");
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = azdr_env::sleep(tick.min(TICK)) => {}
            }
        }
    }

    /// Starts what is due and fits into the budget.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub async fn start_due_proofs(
        &self,
        budget: ProofBudget,
        idle: &mut Idle,
    ) -> Result<(), StoreError> {
        let policies = self.store.enabled_policies().await?;
        let kinds = [(Kind::Verification, budget.verifications), (Kind::Drill, budget.drills)];
        for (kind, most) in kinds {
            let unfinished = self.store.unfinished_of(kind.workflow()).await?;
            let busy: BTreeSet<ItemId> = unfinished.iter().filter_map(|(i, _)| *i).collect();
            let running = unfinished.iter().filter(|(_, state)| *state != RunState::Stuck).count();
            let mut room = most.saturating_sub(running);
            if room == 0 {
                continue;
            }
            for (_, item, row) in self.due(kind, &policies, &busy).await? {
                if self.start_proof(kind, item, row, idle).await? {
                    room -= 1;
                    if room == 0 {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// VMs for which one is due, the longest overdue first.
    async fn due<'a>(
        &self,
        kind: Kind,
        policies: &'a [(Item, PolicyRow)],
        busy: &BTreeSet<ItemId>,
    ) -> Result<Vec<(WallTime, &'a Item, &'a PolicyRow)>, StoreError> {
        let now = self.env.clock.wall();
        let mut due = vec![];
        for (item, row) in policies {
            let Some(every) = kind.every(&row.policy) else { continue };
            if busy.contains(&item.id) {
                continue;
            }
            let attempts = self.store.attempts(item.id, kind.workflow()).await?;
            let at = Past::of(&attempts, row.enabled_since, now).due_at(every);
            if at <= now {
                due.push((at, item, row));
            }
        }
        due.sort_by(|a, b| (a.0, a.1.arm_id.key()).cmp(&(b.0, b.1.arm_id.key())));
        Ok(due)
    }

    /// Whether there was something to prove.
    async fn start_proof(
        &self,
        kind: Kind,
        item: &Item,
        row: &PolicyRow,
        idle: &mut Idle,
    ) -> Result<bool, StoreError> {
        let latest = async |workflow| -> Result<Option<RunId>, StoreError> {
            Ok(self.store.latest_run(item.id, workflow).await?.map(|(id, _)| id))
        };
        let newest = (latest(backup::RUN.0).await?, latest(kind.workflow()).await?);
        let now = self.env.clock.wall();
        if let Some((then, since)) = idle.0.get(&(kind, item.id))
            && *then == newest
            && (*since..since.plus(IDLE)).contains(&now)
        {
            return Ok(false);
        }
        let points = self.store.points(item.id).await?;
        let Some(run) = self.proof_of(kind, item, &row.policy, &points) else {
            // While a backup is under way, its point may come any moment.
            let backup = self.store.latest_run(item.id, backup::RUN.0).await?;
            if backup.is_none_or(|(_, state)| state.is_terminal()) {
                idle.0.insert((kind, item.id), (newest, now));
            }
            return Ok(false);
        };
        tracing::info!(vm = %item.arm_id, workflow = kind.workflow(), "a proof is due");
        self.engine.submit(run).await?;
        Ok(true)
    }

    /// The run that proves the newest point that it can.
    fn proof_of(
        &self,
        kind: Kind,
        item: &Item,
        policy: &Policy,
        points: &[PointRow],
    ) -> Option<NewRun> {
        let by = "schedule";
        match kind {
            Kind::Verification => {
                let point = newest_unproved(points)?;
                let input = verify::Input {
                    item: item.id,
                    vm: item.arm_id.clone(),
                    point: point.name.clone(),
                    region: point.region.clone(),
                    level: verify::Level::Restorable,
                };
                Some(new_run(verify::RUN, &input, item.id, by))
            }
            Kind::Drill => {
                let region = match &policy.target_region {
                    Some(target) => target.as_str(),
                    None => item.location.as_str(),
                };
                let point =
                    points.iter().find(|p| p.is_restorable_in(region) && p.deleted_by.is_none())?;
                let input = dr_test::Input {
                    item: item.id,
                    vm: item.arm_id.clone(),
                    point: point.name.clone(),
                    region: region.to_owned(),
                    resource_group: None,
                    // Its turn comes when it comes; the RTO counts from there.
                    declared: None,
                    keep: Duration::ZERO,
                };
                Some(new_run(dr_test::RUN, &input, item.id, by))
            }
        }
    }
}

/// The newest point, of those newest first, whose disks are all there and that nothing proves.
fn newest_unproved(points: &[PointRow]) -> Option<&PointRow> {
    points.iter().find(|p| {
        p.deleted_by.is_none()
            && p.is_restorable_in(&p.region)
            && p.proof().0 == ProofLevel::Unproved
    })
}
