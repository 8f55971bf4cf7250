//! What policies ask for, held against what was measured. The judging is the domain's.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_domain::interval::Interval;
use azdr_domain::objective::{self, Judgement, LastDrill};
use azdr_domain::policy::Policy;
use azdr_env::WallTime;
use azdr_proto::admin as api;
use tonic::Status;

use super::Admin;
use super::errors::unavailable;
use crate::store::{DrillRow, FleetRow, ItemId};

/// A VM's: RPO, RTO.
pub(super) type Objectives = (Option<api::Objective>, Option<api::Objective>);

impl Admin {
    /// A VM's objectives, where its policy is on and the VM there.
    pub(super) async fn objectives(
        &self,
        item: ItemId,
        now: WallTime,
    ) -> Result<Objectives, Status> {
        let row = self.store.fleet_vm(item).await.map_err(unavailable)?;
        let Some(row) = row else { return Ok(Objectives::default()) };
        let drills = self.store.drills(Some(item), WallTime::from_unix_ms(0));
        let drills = drills.await.map_err(unavailable)?;
        Ok(of(&row, drills.first(), now))
    }

    /// Every VM's, in a few reads.
    pub(super) async fn all_objectives(
        &self,
        now: WallTime,
    ) -> Result<BTreeMap<ItemId, Objectives>, Status> {
        let fleet = self.store.fleet().await.map_err(unavailable)?;
        let drills = self.store.drills(None, WallTime::from_unix_ms(0));
        let mut last = BTreeMap::new();
        for drill in drills.await.map_err(unavailable)? {
            last.entry(drill.item).or_insert(drill);
        }
        let of_row = |row: &FleetRow| (row.item, of(row, last.get(&row.item), now));
        Ok(fleet.iter().map(of_row).collect())
    }
}

fn of(row: &FleetRow, last: Option<&DrillRow>, now: WallTime) -> Objectives {
    let Some(policy) = row.policy.as_deref().filter(|p| p.enabled && row.gone.is_none()) else {
        return Objectives::default();
    };
    (rpo(policy, row, now), Some(rto(policy, last)))
}

fn rpo(policy: &Policy, row: &FleetRow, now: WallTime) -> Option<api::Objective> {
    let target = policy.rpo?;
    let newest = row.newest_restorable;
    let judgement = objective::judge_rpo(target, newest, row.enabled_since, now);
    Some(api::Objective {
        target_secs: target.as_secs(),
        by_default: false,
        state: state(judgement).into(),
        measured_ms: newest.map_or(0, |at| now.since(at).as_millis() as u64),
        measured_unix_ms: newest.map_or(0, WallTime::unix_ms),
    })
}

fn rto(policy: &Policy, last: Option<&DrillRow>) -> api::Objective {
    let target = objective::rto_target(Some(policy));
    api::Objective {
        target_secs: target.as_secs(),
        by_default: policy.rto.is_none(),
        state: state(objective::judge_rto(target, last.map(shown))).into(),
        measured_ms: last.and_then(|d| d.rto_ms).unwrap_or(0),
        measured_unix_ms: last.map_or(0, |d| d.started.unix_ms()),
    }
}

/// What a drill has shown.
pub(super) fn shown(drill: &DrillRow) -> LastDrill {
    match (drill.passed, drill.rto_ms) {
        (false, _) => LastDrill::Failed,
        (true, None) => LastDrill::Unmeasured,
        (true, Some(ms)) => LastDrill::Took(Duration::from_millis(ms)),
    }
}

/// As the API says it.
pub(super) fn state(judgement: Judgement) -> api::ObjectiveState {
    match judgement {
        Judgement::Met => api::ObjectiveState::Met,
        Judgement::Missed => api::ObjectiveState::Missed,
        Judgement::Unknown => api::ObjectiveState::Unknown,
    }
}

/// A span in milliseconds.
pub(super) fn millis(span: Interval) -> u64 {
    span.duration().as_millis() as u64
}
