//! Operators who issue commands at random, through the admin API below TLS.

use azdr_controller::store::RunId;
use azdr_proto::admin::admin_service_server::AdminService;
use azdr_proto::admin::{
    CancelJobRequest, ConfigureBackupRequest, Job, JobState, ListJobsRequest,
    ListRecoveryPointsRequest, PlanRestoreRequest, RecoveryPoint, StartDrTestRequest,
    StartReplicateRequest, StartRestoreRequest, StartVerifyRequest, TriggerBackupRequest, VmRef,
};
use tonic::{Response, Status};

use crate::dice::Dice;
use crate::event::{Event, Policy};
use crate::life::Life;
use crate::world::{AWAY, World, machine, vm_key};

/// What operators know: nothing that the API has not told them.
pub struct Operators {
    dice: Dice,
    vms: usize,
    new_vms: u32,
    /// A VM that a drill was asked for, and that will be backed up while it runs.
    pub in_between: Option<usize>,
}

impl Operators {
    /// Of a fleet of so many VMs.
    pub fn new(world: &World, vms: usize) -> Self {
        Self { dice: world.dice("operators"), vms, new_vms: 0, in_between: None }
    }

    /// Puts every VM under a policy.
    ///
    /// # Errors
    /// The API's.
    pub async fn protect_all(&self, world: &World, life: &Life) -> Result<(), Status> {
        for n in 0..self.vms {
            let counts = [7, 4, 12, 0];
            // Every other VM is copied to another region.
            self.configure(world, life, n, counts, Some(n % 2 == 0)).await?;
        }
        Ok(())
    }

    async fn configure(
        &self,
        world: &World,
        life: &Life,
        n: usize,
        counts: [u32; 4],
        cross_region: Option<bool>,
    ) -> Result<(), Status> {
        let request = ConfigureBackupRequest {
            vm: Some(reference(n)),
            daily_retention: Some(counts[0]),
            weekly_retention: Some(counts[1]),
            monthly_retention: Some(counts[2]),
            yearly_retention: Some(counts[3]),
            cross_region,
            target_region: (cross_region == Some(true)).then(|| AWAY.to_owned()),
            schedule_time: Some(format!("{:02}:{:02}", n % 24, (n * 7) % 60)),
            ..ConfigureBackupRequest::default()
        };
        life.admin.configure_backup(life.request(request)).await?;
        let (group, name) = machine(n);
        let vm = vm_key(&group, &name);
        world.cloud.tell(&Event::PolicyPromised(Policy { vm, counts }));
        Ok(())
    }

    /// What a careful operator does every day: now and then a verification, now and then a drill.
    pub async fn prove_something(&self, world: &World, life: &Life) {
        for n in 0..self.vms {
            let job = match self.dice.below(30) {
                0..4 => self.verify(life, n).await,
                4 => self.drill(life, n).await,
                _ => continue,
            };
            if let Ok(Some(job)) = job {
                world.cloud.tell(&Event::JobPromised(RunId(job.into_inner().id)));
            }
        }
    }

    /// One command, of any kind; the job that was acknowledged. What the API refuses is its right.
    pub async fn command(&mut self, world: &World, life: &Life) -> Option<RunId> {
        let n = self.dice.below(self.vms as u64) as usize;
        let job = match self.dice.below(100) {
            0..20 => self.trigger(life, n).await,
            20..35 => self.verify(life, n).await,
            35..50 => {
                self.in_between = Some(n);
                self.drill(life, n).await
            }
            50..60 => self.replicate(life, n).await,
            60..70 => self.restore(life, n, None).await,
            70..74 => {
                self.new_vms += 1;
                let name = format!("restored{}", self.new_vms);
                self.restore(life, n, Some(name)).await
            }
            74..86 => self.cancel(life).await,
            _ => {
                let counts = [
                    1 + self.dice.below(10) as u32,
                    self.dice.below(5) as u32,
                    self.dice.below(4) as u32,
                    0,
                ];
                let _ = self.configure(world, life, n, counts, None).await;
                return None;
            }
        };
        let id = RunId(job.ok().flatten()?.into_inner().id);
        world.cloud.tell(&Event::JobPromised(id));
        Some(id)
    }

    /// A backup of one VM.
    pub async fn back_up(&self, world: &World, life: &Life, n: usize) -> Option<RunId> {
        let id = RunId(self.trigger(life, n).await.ok().flatten()?.into_inner().id);
        world.cloud.tell(&Event::JobPromised(id));
        Some(id)
    }

    /// A point of the VM: the newest, or any.
    async fn point(&self, life: &Life, n: usize) -> Result<Option<RecoveryPoint>, Status> {
        let request = ListRecoveryPointsRequest { vm: Some(reference(n)), ..Default::default() };
        let points =
            life.admin.list_recovery_points(life.request(request)).await?.into_inner().points;
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
        let request =
            StartVerifyRequest { recovery_point: point.name, vm: Some(reference(n)), region };
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
        };
        let plan = life.admin.plan_restore(life.request(request)).await?.into_inner();
        let request = StartRestoreRequest { confirmation: plan.confirmation };
        life.admin.start_restore(life.request(request)).await.map(Some)
    }

    async fn cancel(&self, life: &Life) -> Answer {
        let request = ListJobsRequest { limit: 50, ..Default::default() };
        let jobs = life.admin.list_jobs(life.request(request)).await?.into_inner().jobs;
        let open = |j: &&Job| {
            matches!(j.state(), JobState::Queued | JobState::Running | JobState::Undoing)
        };
        let open: Vec<_> = jobs.iter().filter(open).collect();
        if let Some(job) = self.dice.pick(&open) {
            life.admin.cancel_job(life.request(CancelJobRequest { id: job.id })).await?;
        }
        Ok(None)
    }
}

type Answer = Result<Option<Response<Job>>, Status>;

fn reference(n: usize) -> VmRef {
    let (resource_group, name) = machine(n);
    VmRef { name, resource_group }
}
