//! A controller that knows one VM well and answers as the name of a VM asks for.
//!
//! VM `missing` is not found, `invalid` an invalid argument, `denied` a permission denied, `later` a
//! failed precondition. Jobs are named by their number: see [`Story`].

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use azdr_env::{Env, WallTime};
use azdr_identity::{CertificateAuthority, Identity, PeerInfo, Serial};
use azdr_proto::admin::admin_service_server::AdminService;
use azdr_proto::admin::*;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::values;

type Answer<T> = Result<Response<T>, Status>;

/// How a job goes, by its number.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Story {
    Succeeds,
    Fails,
    Stuck,
    Cancelled,
    /// The stream breaks once, as when the controller restarts.
    BreaksOnce,
    /// The stream never comes back.
    BreaksForGood,
    NeverEnds,
    /// A drill whose test VM did not boot.
    DoesNotPass,
    /// A bulk job whose second part fails.
    PartFails,
}

const STORIES: [(&str, i64, Story); 15] = [
    ("prod-db-vm", 12, Story::Succeeds),
    ("fails", 20, Story::Fails),
    ("stuck", 21, Story::Stuck),
    ("cancelled", 22, Story::Cancelled),
    ("left stuck", 29, Story::Stuck),
    ("breaks-once", 23, Story::BreaksOnce),
    ("breaks-for-good", 24, Story::BreaksForGood),
    ("never-ends", 25, Story::NeverEnds),
    ("does-not-pass", 26, Story::DoesNotPass),
    ("copies", 40, Story::Succeeds),
    ("proofs", 41, Story::Succeeds),
    ("drills", 42, Story::Succeeds),
    ("Flaky", 43, Story::PartFails),
    ("nothing-to-do", 44, Story::Succeeds),
    ("kept", 45, Story::NeverEnds),
];

pub(crate) struct FakeController {
    watches: AtomicUsize,
    /// How often somebody has looked at the jobs of the VM `restless`.
    looks: AtomicUsize,
    ca: CertificateAuthority,
}

impl FakeController {
    pub(crate) fn new(ca: CertificateAuthority) -> Self {
        Self { watches: AtomicUsize::default(), looks: AtomicUsize::default(), ca }
    }

    fn certified(&self, csr_der: &[u8], operator: Operator) -> OperatorCertificate {
        let env = Env::system();
        let now = env.clock.wall();
        let identity = Identity::operator(&operator.name).unwrap();
        // The far end is fixed, since it is shown.
        let to = WallTime::from_unix_ms(values::NOW + 10_000 * values::DAY);
        let from = now.minus(HOUR);
        let serial = Serial::random(env.ids.as_ref());
        let issued = self.ca.issue_from_csr(csr_der, &identity, from, to, serial).unwrap();
        OperatorCertificate {
            operator: Some(operator),
            certificate_pem: issued.cert_pem(),
            ca_pem: self.ca.cert_pem(),
        }
    }
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

fn check(vm: Option<&VmRef>) -> Result<(), Status> {
    let vm = vm.cloned().unwrap_or_default();
    let (name, group) = (vm.name, vm.resource_group);
    let mut status = match name.as_str() {
        "missing" => Status::not_found(format!("no VM named {name:?} in group {group:?}")),
        "invalid" => Status::invalid_argument("daily_retention is 5000, at most 3650 are allowed"),
        "denied" => Status::permission_denied("role viewer may not do this"),
        "later" => Status::failed_precondition("no agent is connected"),
        _ => return Ok(()),
    };
    let hint = MetadataValue::from_bytes("See: azdr vm list (führt alle auf)".as_bytes());
    status.metadata_mut().insert_bin("azdr-hint-bin", hint);
    Err(status)
}

fn start(vm: Option<VmRef>, workflow: &str) -> Answer<Job> {
    check(vm.as_ref())?;
    let name = vm.unwrap_or_default().name;
    let id = STORIES.iter().find(|(vm, ..)| *vm == name).map_or(12, |(_, id, _)| *id);
    Ok(Response::new(values::begun(values::job(id, workflow))))
}

fn story(id: i64) -> Result<Story, Status> {
    let found = STORIES.iter().find(|(_, known, _)| *known == id);
    found.map(|(.., story)| *story).ok_or_else(|| Status::not_found(format!("no job {id}")))
}

fn ending(id: i64, story: Story) -> Job {
    match story {
        Story::Fails => values::failed(values::job(id, "backup"), JobState::Failed),
        Story::Cancelled => values::failed(values::job(id, "backup"), JobState::Cancelled),
        Story::Stuck => {
            let mut job = values::failed(values::job(id, "backup"), JobState::Stuck);
            job.finished_unix_ms = 0;
            job.stuck = Some(JobStuck {
                going_back: id != 29,
                may_undo: true,
                resources: vec!["/subscriptions/5b0f/resourceGroups/Production".into()],
            });
            job
        }
        Story::DoesNotPass => {
            let mut job = values::job(id, "dr_test");
            if let Some(job_result::Result::DrTest(test)) =
                job.result.as_mut().and_then(|result| result.result.as_mut())
            {
                test.passed = false;
                test.rto_ms = 0;
                test.phases.truncate(2);
                test.phases[1].ok = false;
                (test.ssh_verified, test.witness_verified) = (false, false);
            }
            job
        }
        Story::PartFails => values::bulk_with_a_failure(id),
        _ => values::job(id, workflow_of(id)),
    }
}

fn workflow_of(id: i64) -> &'static str {
    match id {
        40 => "replicate_all",
        41 => "verify_all",
        42 | 43 => "dr_test_all",
        44 => "nothing",
        _ => "backup",
    }
}

/// The policy with what is asked for, so that arguments are seen to arrive.
fn configured(r: &ConfigureBackupRequest) -> BackupConfig {
    let r = r.clone();
    let mut config = values::config();
    config.daily_retention = r.daily_retention.unwrap_or(config.daily_retention);
    config.weekly_retention = r.weekly_retention.unwrap_or(config.weekly_retention);
    config.monthly_retention = r.monthly_retention.unwrap_or(config.monthly_retention);
    config.yearly_retention = r.yearly_retention.unwrap_or(config.yearly_retention);
    config.target_region = match r.cross_region {
        Some(false) => String::new(),
        _ => r.target_region.unwrap_or(config.target_region),
    };
    config.schedule_time = r.schedule_time.unwrap_or(config.schedule_time);
    config.time_zone = r.time_zone.unwrap_or(config.time_zone);
    config.consistency = r.consistency.unwrap_or(config.consistency);
    config.rpo_secs = r.rpo_secs.unwrap_or_default();
    config.rto_secs = r.rto_secs.unwrap_or_default();
    config.verify_every_secs = r.verify_every_secs.unwrap_or_default();
    config.drill_every_secs = r.drill_every_secs.unwrap_or_default();
    config
}

fn wanted(policy: Option<&ConfigureBackupRequest>) -> Result<BackupConfig, Status> {
    let policy = policy.expect("a policy with its VM is always sent");
    check(policy.vm.as_ref())?;
    Ok(configured(policy))
}

#[tonic::async_trait]
impl AdminService for FakeController {
    async fn whoami(&self, r: Request<WhoamiRequest>) -> Answer<WhoamiResponse> {
        let info = r.extensions().get::<PeerInfo>().expect("the acceptor puts it there");
        let who = info.peer.as_ref().expect("a certificate is demanded").identity.to_string();
        assert_eq!(who, "azdr://operator/alice");
        Ok(Response::new(values::whoami()))
    }

    async fn list_vms(&self, _: Request<ListVmsRequest>) -> Answer<ListVmsResponse> {
        Ok(Response::new(values::vms()))
    }

    async fn create_agent_token(
        &self,
        r: Request<CreateAgentTokenRequest>,
    ) -> Answer<CreateAgentTokenResponse> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(values::token()))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        Ok(Response::new(values::agents()))
    }

    async fn run_preflight(&self, r: Request<RunPreflightRequest>) -> Answer<Preflight> {
        check(r.get_ref().vm.as_ref())?;
        let ready = r.get_ref().vm.as_ref().is_none_or(|vm| vm.name != "stacked");
        Ok(Response::new(values::preflight(ready)))
    }

    async fn revoke_agent(&self, r: Request<RevokeAgentRequest>) -> Answer<RevokeAgentResponse> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(RevokeAgentResponse { certificates_revoked: 1 }))
    }

    async fn configure_backup(&self, r: Request<ConfigureBackupRequest>) -> Answer<BackupConfig> {
        let r = r.into_inner();
        check(r.vm.as_ref())?;
        let mut config = configured(&r);
        if r.vm.is_some_and(|vm| vm.name == "locked") {
            config.tag_written = false;
            config.tag_problem = "the VM has a ReadOnly lock".into();
        } else if config.consistency() == ConsistencyDemand::Any {
            config.warnings = vec!["the VM has 2 disks: their backups are `uncoordinated`".into()];
        }
        Ok(Response::new(config))
    }

    async fn get_backup_config(&self, r: Request<GetBackupConfigRequest>) -> Answer<BackupConfig> {
        check(r.get_ref().vm.as_ref())?;
        if r.get_ref().vm.as_ref().is_some_and(|vm| vm.name == "drifted") {
            return Ok(Response::new(values::drifted()));
        }
        if r.get_ref().vm.as_ref().is_some_and(|vm| vm.name == "gone") {
            return Ok(Response::new(values::of_a_vm_that_is_gone()));
        }
        Ok(Response::new(values::config()))
    }

    async fn disable_backup(&self, r: Request<DisableBackupRequest>) -> Answer<BackupConfig> {
        check(r.get_ref().vm.as_ref())?;
        let (enabled, next_run_unix_ms) = (false, 0);
        Ok(Response::new(BackupConfig { enabled, next_run_unix_ms, ..values::config() }))
    }

    async fn trigger_backup(&self, r: Request<TriggerBackupRequest>) -> Answer<Job> {
        start(r.into_inner().vm, "backup")
    }

    async fn list_recovery_points(
        &self,
        r: Request<ListRecoveryPointsRequest>,
    ) -> Answer<ListRecoveryPointsResponse> {
        let r = r.into_inner();
        check(r.vm.as_ref())?;
        let mut answer = values::points();
        answer.points.retain(|point| {
            (r.tier == 0 || point.tiers.contains(&r.tier))
                && point.created_unix_ms >= r.since_unix_ms
        });
        Ok(Response::new(answer))
    }

    async fn pin_point(&self, r: Request<PinPointRequest>) -> Answer<RecoveryPoint> {
        let r = r.into_inner();
        assert_eq!(r.forever, r.until_unix_ms == 0);
        let mut point = RecoveryPoint { name: r.recovery_point, ..values::point() };
        point.pins.push(azdr_proto::admin::Pin {
            owner: "alice".into(),
            since_unix_ms: values::NOW,
            until_unix_ms: r.until_unix_ms,
            reason: r.reason,
        });
        Ok(Response::new(point))
    }

    async fn unpin_point(&self, r: Request<UnpinPointRequest>) -> Answer<RecoveryPoint> {
        let r = r.into_inner();
        let mut point = RecoveryPoint { name: r.recovery_point, ..values::point() };
        if r.owner == "bob" {
            point.pins.push(values::pin());
        }
        Ok(Response::new(point))
    }

    async fn plan_deletion(&self, r: Request<PlanDeletionRequest>) -> Answer<DeletionPlan> {
        if r.get_ref().recovery_point == "protected" {
            return Err(Status::failed_precondition(
                "protected must be kept: in eastus: pinned by alice until 2026-12-01T00:00:00Z: audit",
            ));
        }
        Ok(Response::new(values::deletion_plan()))
    }

    async fn start_deletion(&self, r: Request<StartDeletionRequest>) -> Answer<Job> {
        assert_eq!(r.get_ref().confirmation, values::deletion_plan().confirmation);
        Ok(Response::new(values::job(12, "prune")))
    }

    async fn explain_point(&self, r: Request<ExplainPointRequest>) -> Answer<PointExplanation> {
        let mut answer = values::explanation();
        let region = &r.get_ref().region;
        answer.regions.retain(|r| region.is_empty() || r.region == *region);
        Ok(Response::new(answer))
    }

    async fn list_upcoming_runs(
        &self,
        r: Request<ListUpcomingRunsRequest>,
    ) -> Answer<ListUpcomingRunsResponse> {
        check(r.get_ref().vm.as_ref())?;
        let mut answer = values::upcoming_runs();
        answer.runs.truncate(r.get_ref().count as usize);
        if r.get_ref().vm.as_ref().is_some_and(|vm| vm.name == "gone") {
            let (vm_name, gone_since_unix_ms) = ("gone".into(), values::NOW - values::DAY);
            let runs = vec![];
            answer = ListUpcomingRunsResponse { vm_name, gone_since_unix_ms, runs, ..answer };
        }
        Ok(Response::new(answer))
    }

    async fn simulate_policy(&self, r: Request<SimulatePolicyRequest>) -> Answer<PolicySimulation> {
        let r = r.into_inner();
        let mut answer = values::simulation();
        answer.policy = Some(wanted(r.policy.as_ref())?);
        answer.to_unix_ms = answer.from_unix_ms + i64::from(r.days) * values::DAY;
        answer.months[0].missed = r.outages.len() as u32;
        answer.missed_unix_ms = r.outages.iter().map(|o| o.from_unix_ms).collect();
        if let Some(basis) = &mut answer.basis {
            basis.change_per_mille = r.change_per_mille;
        }
        Ok(Response::new(answer))
    }

    async fn diff_policy(&self, r: Request<DiffPolicyRequest>) -> Answer<PolicyDiff> {
        let after = Some(wanted(r.get_ref().policy.as_ref())?);
        Ok(Response::new(PolicyDiff { after, ..values::policy_diff() }))
    }

    async fn list_policies(&self, _: Request<ListPoliciesRequest>) -> Answer<ListPoliciesResponse> {
        Ok(Response::new(values::policies()))
    }

    async fn estimate_cost(&self, r: Request<EstimateCostRequest>) -> Answer<CostEstimate> {
        let mut answer = values::cost();
        let after = wanted(r.get_ref().policy.as_ref())?;
        if after == values::config() {
            answer.new_policy = None;
        }
        Ok(Response::new(answer))
    }

    async fn plan_restore(&self, r: Request<PlanRestoreRequest>) -> Answer<RestorePlan> {
        let r = r.into_inner();
        check(r.vm.as_ref())?;
        let mut plan = values::plan();
        if !r.recovery_point.is_empty()
            && let Some(point) = &mut plan.point
        {
            point.name = r.recovery_point.clone();
        }
        if r.at_unix_ms != 0 {
            plan.chosen_because = values::chosen_because(r.at_unix_ms);
        }
        if r.target_region == "northeurope" {
            return Err(Status::failed_precondition(
                "prod-db-vm has no complete recovery point in northeurope: \
                 prod-db-vm-backup-daily-20251201-0800 is the newest in eastus; job 17 is copying \
                 one to northeurope",
            ));
        }
        if !r.target_region.is_empty() {
            values::fail_over(&mut plan, &r);
        } else if !r.new_vm_name.is_empty() {
            plan.actions = vec![format!("Create the VM {}", r.new_vm_name)];
            plan.warnings.clear();
        }
        Ok(Response::new(plan))
    }

    async fn start_restore(&self, r: Request<StartRestoreRequest>) -> Answer<Job> {
        if r.get_ref().confirmation == "failover" {
            return Ok(Response::new(values::job(12, "failover")));
        }
        assert_eq!(r.get_ref().confirmation, values::plan().confirmation);
        Ok(Response::new(values::job(12, "restore")))
    }

    async fn start_replicate(&self, r: Request<StartReplicateRequest>) -> Answer<Job> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(values::job(1234, "replicate")))
    }

    async fn get_replication_status(
        &self,
        r: Request<GetReplicationStatusRequest>,
    ) -> Answer<ReplicationStatus> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(values::replication()))
    }

    async fn start_replicate_all(&self, r: Request<StartReplicateAllRequest>) -> Answer<Job> {
        check(r.get_ref().vm.as_ref())?;
        let nothing = r.get_ref().vm.as_ref().is_some_and(|vm| vm.name == "nothing-to-do");
        let id = if nothing { 44 } else { 40 };
        Ok(Response::new(values::begun(values::job(id, workflow_of(id)))))
    }

    async fn start_verify_all(&self, r: Request<StartVerifyAllRequest>) -> Answer<Job> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(values::begun(values::job(41, workflow_of(41)))))
    }

    async fn start_dr_test_all(&self, r: Request<StartDrTestAllRequest>) -> Answer<Job> {
        let id = match r.get_ref().resource_group.as_str() {
            "Flaky" => 43,
            "none" => {
                return Err(Status::failed_precondition(
                    "no VM of \"none\" has a policy that copies its backups to another region",
                ));
            }
            _ => 42,
        };
        Ok(Response::new(values::begun(values::job(id, workflow_of(id)))))
    }

    async fn start_verify(&self, r: Request<StartVerifyRequest>) -> Answer<Job> {
        check(r.get_ref().vm.as_ref())?;
        let what = match r.get_ref().level() {
            ProofLevel::Content if r.get_ref().region == "westus2" => "verify_whole",
            ProofLevel::Content => "verify_content",
            _ => "verify",
        };
        Ok(Response::new(values::job(12, what)))
    }

    async fn start_dr_test(&self, r: Request<StartDrTestRequest>) -> Answer<Job> {
        if r.get_ref().vm.as_ref().is_some_and(|vm| vm.name == "does-not-pass") {
            return start(r.into_inner().vm, "dr_test");
        }
        check(r.get_ref().vm.as_ref())?;
        if r.get_ref().keep_secs > 0 {
            assert_eq!(r.get_ref().keep_secs, 7200);
            return Ok(Response::new(values::begun(values::job(45, "dr_test"))));
        }
        Ok(Response::new(values::job(12, "dr_test")))
    }

    async fn list_dr_tests(&self, r: Request<ListDrTestsRequest>) -> Answer<ListDrTestsResponse> {
        check(r.get_ref().vm.as_ref())?;
        // With all VMs come those that allow less.
        let is_one = r.get_ref().vm.as_ref().is_some_and(|vm| !vm.name.is_empty());
        let mut history = values::history(if is_one { 900_000 } else { 660_000 });
        // Whoever looks back to the start of the kept drill wants to know of that one.
        if r.get_ref().since_unix_ms == values::NOW - 3_600_000 {
            history.tests = vec![DrTestRecord { job_id: 45, ..history.tests.swap_remove(0) }];
        }
        Ok(Response::new(history))
    }

    async fn get_verification_report(
        &self,
        r: Request<GetVerificationReportRequest>,
    ) -> Answer<VerificationReport> {
        check(r.get_ref().vm.as_ref())?;
        let mut answer = values::verification_report();
        let name = r.into_inner().vm.unwrap_or_default().name;
        answer.vms.retain(|vm| name.is_empty() || vm.vm_name == name);
        Ok(Response::new(answer))
    }

    async fn get_dr_success_rate(
        &self,
        r: Request<GetDrSuccessRateRequest>,
    ) -> Answer<DrSuccessRate> {
        check(r.get_ref().vm.as_ref())?;
        let name = r.into_inner().vm.unwrap_or_default().name;
        Ok(Response::new(values::success_rate(&name)))
    }

    async fn list_replication_jobs(
        &self,
        r: Request<ListReplicationJobsRequest>,
    ) -> Answer<ListReplicationJobsResponse> {
        let mut answer = values::replication_jobs();
        let state = r.get_ref().state;
        answer.jobs.retain(|job| state == 0 || job.state == state);
        answer.more = answer.jobs.len() > r.get_ref().limit as usize;
        answer.jobs.truncate(r.get_ref().limit as usize);
        Ok(Response::new(answer))
    }

    async fn release_retention(
        &self,
        _: Request<ReleaseRetentionRequest>,
    ) -> Answer<ReleaseRetentionResponse> {
        Ok(Response::new(ReleaseRetentionResponse {
            was_held: true,
            held_since_unix_ms: values::NOW,
            reason: "the catalogue was rebuilt from Azure".into(),
        }))
    }

    async fn list_residue(&self, _: Request<ListResidueRequest>) -> Answer<ListResidueResponse> {
        Ok(Response::new(values::residue()))
    }

    async fn list_jobs(&self, r: Request<ListJobsRequest>) -> Answer<ListJobsResponse> {
        let vm = r.into_inner().vm;
        check(vm.as_ref())?;
        if vm.as_ref().is_some_and(|vm| vm.name == "restless") {
            // At every second look the job has got further.
            let look = self.looks.fetch_add(1, Ordering::SeqCst);
            let mut job = values::begun(values::job(12, "backup"));
            job.state = if look < 2 { JobState::Queued } else { JobState::Running } as i32;
            let jobs = vec![job, ending(20, Story::Fails)];
            return Ok(Response::new(ListJobsResponse { jobs }));
        }
        if vm.is_some_and(|vm| vm.name == "strange") {
            let jobs = values::STRANGE.iter().map(|text| values::strange_job(text)).collect();
            return Ok(Response::new(ListJobsResponse { jobs }));
        }
        let mut waiting = values::begun(values::job(27, "dr_test"));
        waiting.waiting_for = "job 12 on VM prod-db-vm".into();
        waiting.waiting_for_job = 12;
        let jobs = vec![waiting, ending(20, Story::Fails), values::job(12, "backup")];
        Ok(Response::new(ListJobsResponse { jobs }))
    }

    async fn get_job(&self, r: Request<GetJobRequest>) -> Answer<Job> {
        let id = r.get_ref().id;
        if id == 31 {
            return Ok(Response::new(values::asking()));
        }
        if id == 30 {
            return Ok(Response::new(values::job(id, "reap")));
        }
        let story = story(id)?;
        Ok(Response::new(match story {
            Story::Succeeds | Story::Fails => ending(id, story),
            Story::Stuck if id == 29 => ending(id, story),
            _ => values::begun(values::job(id, workflow_of(id))),
        }))
    }

    async fn retry_job(&self, r: Request<RetryJobRequest>) -> Answer<Job> {
        story(r.get_ref().id)?;
        Ok(Response::new(values::begun(values::job(r.get_ref().id, "backup"))))
    }

    async fn undo_job(&self, r: Request<UndoJobRequest>) -> Answer<Job> {
        story(r.get_ref().id)?;
        let mut job = values::begun(values::job(r.get_ref().id, "backup"));
        job.state = JobState::Undoing as i32;
        job.note = format!("job {} is undoing and not stuck", job.id);
        Ok(Response::new(job))
    }

    async fn abandon_job(&self, r: Request<AbandonJobRequest>) -> Answer<Job> {
        story(r.get_ref().id)?;
        let job = values::job(r.get_ref().id, "backup");
        Ok(Response::new(values::abandoned(job, &r.get_ref().reason)))
    }

    async fn cancel_job(&self, r: Request<CancelJobRequest>) -> Answer<Job> {
        story(r.get_ref().id)?;
        let mut job = values::begun(values::job(r.get_ref().id, "backup"));
        job.cancel_requested = true;
        job.state = JobState::Undoing as i32;
        Ok(Response::new(job))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Answer<FleetStatus> {
        Ok(Response::new(values::fleet_status()))
    }

    async fn approve_job(&self, r: Request<ApproveJobRequest>) -> Answer<Job> {
        match r.get_ref().id {
            31 => Ok(Response::new(Job { waits_for_approval: false, ..values::asking() })),
            id => Err(Status::permission_denied(format!(
                "operator alice has changed the policy: another one must approve job {id}"
            ))),
        }
    }

    async fn list_alerts(&self, r: Request<ListAlertsRequest>) -> Answer<ListAlertsResponse> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(values::alerts(r.get_ref())))
    }

    async fn close_alert(&self, r: Request<CloseAlertRequest>) -> Answer<Alert> {
        let r = r.into_inner();
        match r.id {
            7 => Err(Status::not_found("there is no alert 7")),
            40 => Err(Status::failed_precondition(
                "alert 40 is not open: it was resolved at 2025-12-01T12:00:00Z: job 45 has ended in the \
                 same way",
            )),
            id => Ok(Response::new(values::closed(id, r.reason))),
        }
    }

    async fn add_operator(&self, r: Request<AddOperatorRequest>) -> Answer<OperatorCertificate> {
        let r = r.into_inner();
        if r.name == "alice" {
            return Err(Status::already_exists("there is an operator alice already"));
        }
        let operator = Operator { name: r.name, role: r.role, ..values::operator() };
        Ok(Response::new(self.certified(&r.csr_der, operator)))
    }

    async fn list_operators(
        &self,
        _: Request<ListOperatorsRequest>,
    ) -> Answer<ListOperatorsResponse> {
        Ok(Response::new(values::operators()))
    }

    async fn revoke_operator(&self, r: Request<RevokeOperatorRequest>) -> Answer<Operator> {
        match r.into_inner().name.as_str() {
            "alice" => Err(Status::failed_precondition(
                "alice is the last admin whose certificate is valid: add another one first",
            )),
            name => Ok(Response::new(Operator { name: name.into(), ..values::revoked_operator() })),
        }
    }

    async fn renew_operator(
        &self,
        r: Request<RenewOperatorRequest>,
    ) -> Answer<OperatorCertificate> {
        let operator = Operator { name: "alice".into(), ..values::operator() };
        Ok(Response::new(self.certified(&r.get_ref().csr_der, operator)))
    }

    async fn get_point(&self, r: Request<GetPointRequest>) -> Answer<PointDetails> {
        let r = r.into_inner();
        check(r.vm.as_ref())?;
        Ok(Response::new(match r.recovery_point.as_str() {
            "prod-db-vm-backup-daily-20251130-0800" => values::plain_point_details(),
            "prod-db-vm-backup-daily-20251129-0800" => values::partly_frozen_point_details(),
            "prod-db-vm-backup-daily-20251128-0800" => values::older_agents_point_details(),
            _ => values::point_details(),
        }))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<Job, Status>> + Send>>;

    async fn watch_job(&self, r: Request<WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        let id = r.get_ref().id;
        let story = story(id)?;
        let first = self.watches.fetch_add(1, Ordering::SeqCst) == 0;
        let mut begun = values::begun(values::job(id, workflow_of(id)));
        if id == 45 {
            begun = values::kept(id);
        } else if story == Story::NeverEnds {
            // One line of progress, for whoever waits until the watching has begun.
            begun.steps[0] = values::job(id, "backup").steps.swap_remove(0);
        }
        let begun = Ok(begun);
        let down = || Err(Status::unavailable("the controller is shutting down"));
        let broken = match story {
            Story::BreaksOnce => first,
            Story::BreaksForGood => true,
            _ => false,
        };
        if broken && !first {
            return Err(Status::unavailable("the controller is shutting down"));
        }
        let last = if broken { down() } else { Ok(ending(id, story)) };
        let states = tokio_stream::iter(vec![begun]);
        Ok(Response::new(if story == Story::NeverEnds {
            Box::pin(states.chain(tokio_stream::pending()))
        } else {
            Box::pin(states.chain(tokio_stream::iter(vec![last])))
        }))
    }

    async fn apply_policies(
        &self,
        r: Request<ApplyPoliciesRequest>,
    ) -> Answer<ApplyPoliciesResponse> {
        let r = r.into_inner();
        if r.policies.is_empty() {
            return Err(Status::invalid_argument("two policies match one VM: db: a and b"));
        }
        Ok(Response::new(values::applied(&r)))
    }

    async fn follow_policies(&self, r: Request<FollowPoliciesRequest>) -> Answer<BackupConfig> {
        check(r.get_ref().vm.as_ref())?;
        Ok(Response::new(BackupConfig { origin: "gold".into(), ..values::config() }))
    }
}
