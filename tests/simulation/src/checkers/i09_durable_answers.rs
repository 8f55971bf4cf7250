//! I9: what the API acknowledged survives every crash: jobs, policies, pins, and that there is no pin
//! any more.

use std::collections::{BTreeMap, BTreeSet};

use azdr_controller::store::{Item, RunId};
use azdr_domain::arm_id::ArmId;
use azdr_env::WallTime;

use crate::event::{Pin, Policy};
use crate::life::Life;

/// Everything that operators were promised.
#[derive(Default)]
pub struct Promises {
    jobs: BTreeSet<RunId>,
    /// Jobs that were to be cancelled.
    cancelled: BTreeSet<RunId>,
    /// The last of each VM.
    policies: BTreeMap<String, Policy>,
    /// By VM and point.
    pins: BTreeMap<(String, String), Option<Pin>>,
}

impl Promises {
    /// A job.
    pub fn job(&mut self, id: RunId) {
        self.jobs.insert(id);
    }

    /// A job's end.
    pub fn cancelled(&mut self, id: RunId) {
        self.cancelled.insert(id);
    }

    /// A policy, instead of the VM's last.
    pub fn policy(&mut self, policy: Policy) {
        self.policies.insert(policy.vm.clone(), policy);
    }

    /// A pin.
    pub fn pin(&mut self, pin: Pin) {
        self.pins.insert((pin.vm.clone(), pin.point.clone()), Some(pin));
    }

    /// No pin any more.
    pub fn no_pin(&mut self, vm: String, point: String) {
        self.pins.insert((vm, point), None);
    }

    /// Looks for all of it in a new life; what is missing, the first of its kind.
    pub async fn broken(&self, life: &Life, now: WallTime) -> Vec<String> {
        let kinds = [
            self.jobs_are_kept(life).await,
            self.policies_are_kept(life).await,
            self.pins_are_kept(life, now).await,
        ];
        kinds.into_iter().filter_map(Result::err).collect()
    }

    async fn jobs_are_kept(&self, life: &Life) -> Result<(), String> {
        for id in &self.jobs {
            match life.store.run(*id).await {
                Ok(Some(row)) => {
                    let goes_on = !row.cancel_requested && !row.state.is_terminal();
                    if goes_on && self.cancelled.contains(id) {
                        return Err(format!("job {id} was to be cancelled and goes on"));
                    }
                }
                Ok(None) => return Err(format!("job {id} was acknowledged and is not there")),
                Err(e) => return Err(format!("job {id} cannot be read: {e}")),
            }
        }
        Ok(())
    }

    async fn policies_are_kept(&self, life: &Life) -> Result<(), String> {
        for promised in self.policies.values() {
            let found = self.policy_of(life, &promised.vm).await?;
            if found.as_ref() != Some(promised) {
                return Err(format!("policy {promised:?} was acknowledged, there is {found:?}"));
            }
        }
        Ok(())
    }

    async fn pins_are_kept(&self, life: &Life, now: WallTime) -> Result<(), String> {
        for ((vm, point), promised) in &self.pins {
            self.pin_is_kept(life, vm, point, promised.as_ref(), now).await?;
        }
        Ok(())
    }

    async fn policy_of(&self, life: &Life, vm: &str) -> Result<Option<Policy>, String> {
        let Some(item) = item(life, vm).await? else { return Ok(None) };
        let row = life.store.policy(item.id).await.map_err(|e| e.to_string())?;
        Ok(row.map(|row| {
            let kept = &row.policy.retention;
            Policy {
                vm: vm.to_owned(),
                counts: [kept.daily, kept.weekly, kept.monthly, kept.yearly],
                enabled: row.policy.enabled,
                time: row.policy.schedule.time.to_string(),
                zone: row.policy.schedule.time_zone.as_str().to_owned(),
            }
        }))
    }

    async fn pin_is_kept(
        &self,
        life: &Life,
        vm: &str,
        point: &str,
        promised: Option<&Pin>,
        now: WallTime,
    ) -> Result<(), String> {
        let item = item(life, vm).await?.ok_or_else(|| format!("{vm} is not there any more"))?;
        let all = life.store.points_named(point).await.map_err(|e| e.to_string())?;
        let found = all.into_iter().find(|p| p.item == item.id);
        let pins = found.as_ref().map(|p| p.pins.as_slice()).unwrap_or_default();
        match promised {
            None if pins.is_empty() => Ok(()),
            None => Err(format!("pin of {point} was taken away, and is there: {pins:?}")),
            // Lapsed, and the point may be gone.
            Some(pin) if pin.until.is_some_and(|until| until < now) => Ok(()),
            Some(pin) if pins.iter().any(|p| p.until == pin.until) => Ok(()),
            Some(pin) => Err(format!("pin {pin:?} was acknowledged, there is {pins:?}")),
        }
    }
}

async fn item(life: &Life, vm: &str) -> Result<Option<Item>, String> {
    let id = ArmId::parse(vm).map_err(|e| e.to_string())?;
    life.store.item(&id).await.map_err(|e| e.to_string())
}
