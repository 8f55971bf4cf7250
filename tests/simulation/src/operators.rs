//! Operators who issue commands at random, through the admin API below TLS.

use azdr_controller::store::RunId;
use azdr_env::WallTime;
use azdr_proto::admin::admin_service_server::AdminService;
use azdr_proto::admin::{
    AbandonJobRequest, BackupConfig, CancelJobRequest, ConfigureBackupRequest,
    DisableBackupRequest, Job, JobState, ListJobsRequest, ListRecoveryPointsRequest,
    PinPointRequest, PlanDeletionRequest, PlanRestoreRequest, RecoveryPoint,
    ReleaseRetentionRequest, RetryJobRequest, StartDeletionRequest, StartDrTestRequest,
    StartReplicateRequest, StartRestoreRequest, StartVerifyRequest, TriggerBackupRequest,
    UndoJobRequest, UnpinPointRequest, VmRef,
};
use tonic::{Response, Status};

use crate::checkers::Promises;
use crate::dice::Dice;
use crate::event::{Event, Pin, Policy};
use crate::life::Life;
use crate::world::{AWAY, World, machine, schedule, vm_key};

/// What operators know: nothing that the API has not told them.
pub struct Operators {
    dice: Dice,
    vms: usize,
    new_vms: u32,
    /// A VM that a drill was asked for, and that will be backed up while it runs.
    pub in_between: Option<usize>,
    /// What they were promised.
    pub promises: Promises,
}

impl Operators {
    /// Of a fleet of so many VMs.
    pub fn new(world: &World, vms: usize) -> Self {
        Self {
            dice: world.dice("operators"),
            vms,
            new_vms: 0,
            in_between: None,
            promises: Promises::default(),
        }
    }

    /// Puts every VM under a policy.
    ///
    /// # Errors
    /// The API's.
    pub async fn protect_all(&mut self, world: &World, life: &Life) -> Result<(), Status> {
        for n in 0..self.vms {
            let (zone, time) = schedule(n);
            // Every other VM is copied to another region.
            let cross_region = n % 2 == 0;
            let request = ConfigureBackupRequest {
                cross_region: Some(cross_region),
                target_region: cross_region.then(|| AWAY.to_owned()),
                schedule_time: Some(time),
                time_zone: Some(zone.to_owned()),
                ..with_counts([7, 4, 12, 0])
            };
            self.configure(world, life, n, request).await?;
        }
        Ok(())
    }

    async fn configure(
        &mut self,
        world: &World,
        life: &Life,
        n: usize,
        request: ConfigureBackupRequest,
    ) -> Result<(), Status> {
        let request = ConfigureBackupRequest { vm: Some(reference(n)), ..request };
        let answer = life.admin.configure_backup(life.request(request)).await?;
        self.promised_policy(world, n, answer.into_inner());
        Ok(())
    }

    async fn disable(&mut self, world: &World, life: &Life, n: usize) -> Result<(), Status> {
        let request = DisableBackupRequest { vm: Some(reference(n)) };
        let answer = life.admin.disable_backup(life.request(request)).await?;
        self.promised_policy(world, n, answer.into_inner());
        Ok(())
    }

    fn promised_policy(&mut self, world: &World, n: usize, config: BackupConfig) {
        let policy = Policy {
            vm: key(n),
            counts: [
                config.daily_retention,
                config.weekly_retention,
                config.monthly_retention,
                config.yearly_retention,
            ],
            enabled: config.enabled,
            time: config.schedule_time,
            zone: config.time_zone,
        };
        world.cloud.tell(&Event::PolicyPromised(policy.clone()));
        self.promises.policy(policy);
    }

    /// What a careful operator does every day: now and then a verification, now and then a drill.
    pub async fn prove_something(&mut self, world: &World, life: &Life) {
        self.decide_stuck(world, life).await;
        for n in 0..self.vms {
            let job = match self.dice.below(30) {
                0..4 => self.verify(life, n).await,
                4 => self.drill(life, n).await,
                _ => continue,
            };
            self.promised_job(world, job);
        }
    }

    fn promised_job(&mut self, world: &World, job: Answer) -> Option<RunId> {
        let id = RunId(job.ok().flatten()?.into_inner().id);
        world.cloud.tell(&Event::JobPromised(id));
        self.promises.job(id);
        Some(id)
    }

    /// One command, of any kind. What the API refuses is its right.
    pub async fn command(&mut self, world: &World, life: &Life) {
        let n = self.dice.below(self.vms as u64) as usize;
        let job = match self.dice.below(120) {
            0..18 => self.trigger(life, n).await,
            18..31 => self.verify(life, n).await,
            31..45 => {
                self.in_between = Some(n);
                self.drill(life, n).await
            }
            45..54 => self.replicate(life, n).await,
            54..63 => self.restore(life, n, None).await,
            63..67 => {
                self.new_vms += 1;
                let name = format!("restored{}", self.new_vms);
                self.restore(life, n, Some(name)).await
            }
            67..79 => self.cancel(life).await,
            79..88 => self.pin(world, life, n).await,
            88..93 => self.unpin(world, life, n).await,
            93..99 => self.delete(world, life, n).await,
            99..103 => self.meddle(life).await,
            103..106 => {
                let _ = self.disable(world, life, n).await;
                return;
            }
            106 => {
                let request = ReleaseRetentionRequest::default();
                let _ = life.admin.release_retention(life.request(request)).await;
                return;
            }
            107..110 => {
                // Another time, another zone.
                let (zone, time) = schedule(self.dice.below(24) as usize);
                let time_zone = self.dice.one_in(2).then(|| zone.to_owned());
                let schedule_time = Some(time);
                let request =
                    ConfigureBackupRequest { schedule_time, time_zone, ..Default::default() };
                let _ = self.configure(world, life, n, request).await;
                return;
            }
            _ => {
                let counts = [
                    1 + self.dice.below(10) as u32,
                    self.dice.below(5) as u32,
                    self.dice.below(4) as u32,
                    0,
                ];
                // One that was off is on again by this.
                let _ = self.configure(world, life, n, with_counts(counts)).await;
                return;
            }
        };
        self.promised_job(world, job);
    }

    /// A drill of any VM.
    pub async fn try_a_drill(&mut self, world: &World, life: &Life) {
        let n = self.dice.below(self.vms as u64) as usize;
        let job = self.drill(life, n).await;
        self.promised_job(world, job);
    }

    /// A backup of one VM.
    pub async fn back_up(&mut self, world: &World, life: &Life, n: usize) {
        let job = self.trigger(life, n).await;
        self.promised_job(world, job);
    }

    async fn pin(&mut self, world: &World, life: &Life, n: usize) -> Answer {
        let Some(point) = self.point(life, n).await? else { return Ok(None) };
        let now = world.env.clock.wall();
        let days = self.dice.below(20);
        let forever = days == 0;
        let until = (!forever).then(|| now.plus(std::time::Duration::from_secs(days * 86_400)));
        let request = PinPointRequest {
            recovery_point: point.name.clone(),
            vm: Some(reference(n)),
            until_unix_ms: until.map_or(0, WallTime::unix_ms),
            forever,
            reason: "it may be needed".into(),
        };
        life.admin.pin_point(life.request(request)).await?;
        let pin = Pin { vm: key(n), point: point.name, until };
        world.cloud.tell(&Event::PinPromised(pin.clone()));
        self.promises.pin(pin);
        Ok(None)
    }

    async fn unpin(&mut self, world: &World, life: &Life, n: usize) -> Answer {
        let points = self.points(life, n).await?;
        let pinned: Vec<_> = points.iter().filter(|p| !p.pins.is_empty()).collect();
        let Some(point) = self.dice.pick(&pinned) else { return Ok(None) };
        let request = UnpinPointRequest {
            recovery_point: point.name.clone(),
            vm: Some(reference(n)),
            owner: String::new(),
        };
        life.admin.unpin_point(life.request(request)).await?;
        let (vm, point) = (key(n), point.name.clone());
        world.cloud.tell(&Event::PinTaken { vm: vm.clone(), point: point.clone() });
        self.promises.no_pin(vm, point);
        Ok(None)
    }

    async fn delete(&self, world: &World, life: &Life, n: usize) -> Answer {
        let Some(point) = self.point(life, n).await? else { return Ok(None) };
        let region = self.dice.one_in(2).then(|| AWAY.to_owned());
        let request = PlanDeletionRequest {
            recovery_point: point.name.clone(),
            vm: Some(reference(n)),
            region: region.clone().unwrap_or_default(),
        };
        let plan = life.admin.plan_deletion(life.request(request)).await?.into_inner();
        // It may begin before the answer is here.
        let event = Event::DeletionPromised { vm: key(n), point: point.name, region };
        world.cloud.tell(&event);
        let request = StartDeletionRequest { confirmation: plan.confirmation };
        life.admin.start_deletion(life.request(request)).await.map(Some)
    }

    /// Somebody retries, undoes or cancels a job that did not ask for it.
    async fn meddle(&self, life: &Life) -> Answer {
        let jobs = self.jobs(life).await?;
        let Some(id) = self.dice.pick(&jobs).map(|job| job.id) else { return Ok(None) };
        if self.dice.one_in(2) {
            life.admin.retry_job(life.request(RetryJobRequest { id })).await?;
        } else {
            life.admin.undo_job(life.request(UndoJobRequest { id })).await?;
        }
        Ok(None)
    }

    /// What people do about jobs that wait for them: mostly another try, now and then giving up.
    async fn decide_stuck(&mut self, world: &World, life: &Life) {
        let Ok(jobs) = self.jobs(life).await else { return };
        for job in jobs.iter().filter(|j| j.state() == JobState::Stuck) {
            let id = job.id;
            match self.dice.below(6) {
                0 => {
                    let request = AbandonJobRequest { id, reason: "nobody knows any more".into() };
                    world.cloud.tell(&Event::Abandoned(RunId(id)));
                    let _ = life.admin.abandon_job(life.request(request)).await;
                }
                1 => {
                    let _ = life.admin.undo_job(life.request(UndoJobRequest { id })).await;
                }
                _ => {
                    let _ = life.admin.retry_job(life.request(RetryJobRequest { id })).await;
                }
            }
        }
    }

    async fn jobs(&self, life: &Life) -> Result<Vec<Job>, Status> {
        let request = ListJobsRequest { limit: 50, ..Default::default() };
        Ok(life.admin.list_jobs(life.request(request)).await?.into_inner().jobs)
    }

    async fn points(&self, life: &Life, n: usize) -> Result<Vec<RecoveryPoint>, Status> {
        let request = ListRecoveryPointsRequest { vm: Some(reference(n)), ..Default::default() };
        Ok(life.admin.list_recovery_points(life.request(request)).await?.into_inner().points)
    }

    /// A point of the VM: the newest, or any.
    async fn point(&self, life: &Life, n: usize) -> Result<Option<RecoveryPoint>, Status> {
        let points = self.points(life, n).await?;
        let newest = self.dice.one_in(2);
        let chosen = if newest { points.first() } else { self.dice.pick(&points) };
        Ok(chosen.cloned())
    }

    async fn trigger(&self, life: &Life, n: usize) -> Answer {
        let request = TriggerBackupRequest { vm: Some(reference(n)), tier: 0 };
        life.admin.trigger_backup(life.request(request)).await.map(Some)
    }

    async fn verify(&self, life: &Life, n: usize) -> Answer {
        let Some(point) = self.point(life, n).await? else { return Ok(None) };
        let region = if self.dice.one_in(3) { AWAY.to_owned() } else { String::new() };
        let (recovery_point, vm) = (point.name, Some(reference(n)));
        let request = StartVerifyRequest { recovery_point, vm, region, level: 0 };
        life.admin.start_verify(life.request(request)).await.map(Some)
    }

    async fn drill(&self, life: &Life, n: usize) -> Answer {
        let Some(point) = self.point(life, n).await? else { return Ok(None) };
        let away = self.dice.one_in(2);
        let region = if away { AWAY.to_owned() } else { point.region.clone() };
        let request = StartDrTestRequest {
            vm: Some(reference(n)),
            recovery_point: point.name,
            test_region: region,
            test_resource_group: String::new(),
            ..<_>::default()
        };
        life.admin.start_dr_test(life.request(request)).await.map(Some)
    }

    async fn replicate(&self, life: &Life, n: usize) -> Answer {
        let Some(point) = self.point(life, n).await? else { return Ok(None) };
        let request = StartReplicateRequest {
            recovery_point: point.name,
            vm: Some(reference(n)),
            target_region: AWAY.to_owned(),
        };
        life.admin.start_replicate(life.request(request)).await.map(Some)
    }

    async fn restore(&self, life: &Life, n: usize, new_vm: Option<String>) -> Answer {
        let Some(point) = self.point(life, n).await? else { return Ok(None) };
        let request = PlanRestoreRequest {
            vm: Some(reference(n)),
            recovery_point: point.name,
            new_vm_name: new_vm.unwrap_or_default(),
            ..<_>::default()
        };
        let plan = life.admin.plan_restore(life.request(request)).await?.into_inner();
        let request = StartRestoreRequest { confirmation: plan.confirmation };
        life.admin.start_restore(life.request(request)).await.map(Some)
    }

    async fn cancel(&mut self, life: &Life) -> Answer {
        let jobs = self.jobs(life).await?;
        let open = |j: &&Job| {
            matches!(j.state(), JobState::Queued | JobState::Running | JobState::Undoing)
        };
        let open: Vec<_> = jobs.iter().filter(open).collect();
        if let Some(job) = self.dice.pick(&open) {
            let answer =
                life.admin.cancel_job(life.request(CancelJobRequest { id: job.id })).await?;
            // A note says that it had no effect.
            if answer.into_inner().note.is_empty() {
                self.promises.cancelled(RunId(job.id));
            }
        }
        Ok(None)
    }
}

type Answer = Result<Option<Response<Job>>, Status>;

fn reference(n: usize) -> VmRef {
    let (resource_group, name) = machine(n);
    VmRef { name, resource_group }
}

fn key(n: usize) -> String {
    let (group, name) = machine(n);
    vm_key(&group, &name)
}

fn with_counts(counts: [u32; 4]) -> ConfigureBackupRequest {
    ConfigureBackupRequest {
        daily_retention: Some(counts[0]),
        weekly_retention: Some(counts[1]),
        monthly_retention: Some(counts[2]),
        yearly_retention: Some(counts[3]),
        ..ConfigureBackupRequest::default()
    }
}
