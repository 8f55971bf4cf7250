//! What operators call. One file per noun; this one wires them to the generated trait.
//!
//! Each call names the role that it needs; the operator's certificate must be the current one of an
//! operator who is not revoked.

mod agents;
mod alerts;
mod authorise;
mod bulk;
mod confirmations;
mod convert;
mod deletions;
mod drills;
mod errors;
mod forecasts;
mod inventory;
mod jobs;
mod named_policies;
mod objectives;
mod operators;
mod pins;
mod point_details;
mod points;
mod policies;
mod reason;
mod replication;
mod reports;
mod residue;
mod restores;
mod retention;
mod status;
mod which_point;

use std::pin::Pin;
use std::sync::Arc;

use azdr_env::Env;
use azdr_identity::CertificateAuthority;
use azdr_proto::admin::admin_service_server::AdminService;
use azdr_proto::admin::*;
use futures::Stream;
use tonic::{Request, Response, Status};

pub use confirmations::Confirmations;
pub use inventory::Inventory;

use crate::fleet::Fleet;
use crate::reconcile::residue::Sweeper;
use crate::store::{Stamp, Store};
use crate::workflow::Engine;
use crate::workflows::Services;
use authorise::Role;

/// The admin API.
#[derive(Clone)]
pub struct Admin {
    /// The catalogue.
    pub store: Store,
    /// Runs.
    pub engine: Engine<Services>,
    /// Agents.
    pub fleet: Fleet,
    /// What workflows see; read here for settings and Azure.
    pub services: Arc<Services>,
    /// Clock and ids.
    pub env: Env,
    /// For fingerprints.
    pub authority: Arc<CertificateAuthority>,
    /// The VMs of the subscriptions.
    pub inventory: Inventory,
    /// Restores and deletions that were planned and wait for their confirmation.
    pub confirmations: Confirmations,
    /// Woken when a pin has changed, to have the tags in Azure follow.
    pub pins_changed: Arc<tokio::sync::Notify>,
    /// Looks for what nobody wants any more.
    pub sweeper: Sweeper,
    /// Which cloud this is.
    pub stamp: Stamp,
    /// host:port that agents are told for enrolment.
    pub enroll_address: String,
    /// host:port that agents are told for their sessions.
    pub agent_address: String,
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn whoami(&self, request: Request<WhoamiRequest>) -> Answer<WhoamiResponse> {
        let operator = self.authorise(&request, Role::Viewer).await?;
        Ok(Response::new(WhoamiResponse {
            operator: operator.name,
            role: operator.role,
            controller_version: env!("CARGO_PKG_VERSION").to_owned(),
            cloud: self.stamp.cloud.clone(),
            subscriptions: self.stamp.subscriptions.clone(),
            deletions_held: self.why_held().await?,
        }))
    }

    async fn list_vms(&self, request: Request<ListVmsRequest>) -> Answer<ListVmsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        Ok(Response::new(self.list_all_vms().await?))
    }

    async fn create_agent_token(
        &self,
        request: Request<CreateAgentTokenRequest>,
    ) -> Answer<CreateAgentTokenResponse> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.mint_token(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.all_agents().await.map(Response::new)
    }

    async fn run_preflight(&self, request: Request<RunPreflightRequest>) -> Answer<Preflight> {
        self.authorise(&request, Role::Operator).await?;
        self.preflight(request.into_inner()).await.map(Response::new)
    }

    async fn revoke_agent(
        &self,
        request: Request<RevokeAgentRequest>,
    ) -> Answer<RevokeAgentResponse> {
        self.authorise(&request, Role::Admin).await?;
        self.revoke(request.into_inner()).await.map(Response::new)
    }

    async fn configure_backup(
        &self,
        request: Request<ConfigureBackupRequest>,
    ) -> Answer<BackupConfig> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.configure(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn get_backup_config(
        &self,
        request: Request<GetBackupConfigRequest>,
    ) -> Answer<BackupConfig> {
        self.authorise(&request, Role::Viewer).await?;
        self.show_config(request.into_inner()).await.map(Response::new)
    }

    async fn disable_backup(&self, request: Request<DisableBackupRequest>) -> Answer<BackupConfig> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.disable(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn trigger_backup(&self, request: Request<TriggerBackupRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.trigger(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn list_recovery_points(
        &self,
        request: Request<ListRecoveryPointsRequest>,
    ) -> Answer<ListRecoveryPointsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.list_points(request.into_inner()).await.map(Response::new)
    }

    async fn pin_point(&self, request: Request<PinPointRequest>) -> Answer<RecoveryPoint> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.pin(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn unpin_point(&self, request: Request<UnpinPointRequest>) -> Answer<RecoveryPoint> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.unpin(operator, request.into_inner()).await.map(Response::new)
    }

    async fn plan_deletion(&self, request: Request<PlanDeletionRequest>) -> Answer<DeletionPlan> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.plan_to_delete(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn start_deletion(&self, request: Request<StartDeletionRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.confirm_deletion(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn explain_point(
        &self,
        request: Request<ExplainPointRequest>,
    ) -> Answer<PointExplanation> {
        self.authorise(&request, Role::Viewer).await?;
        self.explain(request.into_inner()).await.map(Response::new)
    }

    async fn list_upcoming_runs(
        &self,
        request: Request<ListUpcomingRunsRequest>,
    ) -> Answer<ListUpcomingRunsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.upcoming_runs(request.into_inner()).await.map(Response::new)
    }

    async fn simulate_policy(
        &self,
        request: Request<SimulatePolicyRequest>,
    ) -> Answer<PolicySimulation> {
        self.authorise(&request, Role::Viewer).await?;
        self.simulate(request.into_inner()).await.map(Response::new)
    }

    async fn diff_policy(&self, request: Request<DiffPolicyRequest>) -> Answer<PolicyDiff> {
        self.authorise(&request, Role::Viewer).await?;
        self.diff(request.into_inner()).await.map(Response::new)
    }

    async fn list_policies(
        &self,
        request: Request<ListPoliciesRequest>,
    ) -> Answer<ListPoliciesResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.all_policies().await.map(Response::new)
    }

    async fn estimate_cost(&self, request: Request<EstimateCostRequest>) -> Answer<CostEstimate> {
        self.authorise(&request, Role::Viewer).await?;
        self.cost(request.into_inner()).await.map(Response::new)
    }

    async fn plan_restore(&self, request: Request<PlanRestoreRequest>) -> Answer<RestorePlan> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.make_restore_plan(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn start_restore(&self, request: Request<StartRestoreRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.confirm_restore(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn start_replicate(&self, request: Request<StartReplicateRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.replicate(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn get_replication_status(
        &self,
        request: Request<GetReplicationStatusRequest>,
    ) -> Answer<ReplicationStatus> {
        self.authorise(&request, Role::Viewer).await?;
        self.replication_status(request.into_inner()).await.map(Response::new)
    }

    async fn start_verify(&self, request: Request<StartVerifyRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.verify(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn start_dr_test(&self, request: Request<StartDrTestRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.dr_test(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn list_dr_tests(
        &self,
        request: Request<ListDrTestsRequest>,
    ) -> Answer<ListDrTestsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.dr_tests(request.into_inner()).await.map(Response::new)
    }

    async fn release_retention(
        &self,
        request: Request<ReleaseRetentionRequest>,
    ) -> Answer<ReleaseRetentionResponse> {
        let operator = self.authorise(&request, Role::Admin).await?;
        self.release(&operator.name).await.map(Response::new)
    }

    async fn list_residue(
        &self,
        request: Request<ListResidueRequest>,
    ) -> Answer<ListResidueResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.residue().await.map(Response::new)
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Answer<ListJobsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.jobs(request.into_inner()).await.map(Response::new)
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Answer<Job> {
        self.authorise(&request, Role::Viewer).await?;
        self.job(request.into_inner().id).await.map(Response::new)
    }

    async fn cancel_job(&self, request: Request<CancelJobRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.cancel(operator.name, request.into_inner().id).await.map(Response::new)
    }

    async fn retry_job(&self, request: Request<RetryJobRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.retry(operator.name, request.into_inner().id).await.map(Response::new)
    }

    async fn undo_job(&self, request: Request<UndoJobRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.undo(operator.name, request.into_inner().id).await.map(Response::new)
    }

    async fn abandon_job(&self, request: Request<AbandonJobRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Admin).await?;
        self.abandon(operator.name, request.into_inner()).await.map(Response::new)
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<Job, Status>> + Send>>;

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        let operator = self.authorise(&request, Role::Viewer).await?;
        let id = request.into_inner().id;
        self.job(id).await?;
        Ok(Response::new(Box::pin(self.clone().watch(id, operator.name))))
    }

    async fn get_point(&self, request: Request<GetPointRequest>) -> Answer<PointDetails> {
        self.authorise(&request, Role::Viewer).await?;
        self.point_details(request.into_inner()).await.map(Response::new)
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Answer<FleetStatus> {
        self.authorise(&request, Role::Viewer).await?;
        self.status().await.map(Response::new)
    }

    async fn get_verification_report(
        &self,
        request: Request<GetVerificationReportRequest>,
    ) -> Answer<VerificationReport> {
        self.authorise(&request, Role::Viewer).await?;
        self.report_verifications(request.into_inner()).await.map(Response::new)
    }

    async fn get_dr_success_rate(
        &self,
        request: Request<GetDrSuccessRateRequest>,
    ) -> Answer<DrSuccessRate> {
        self.authorise(&request, Role::Viewer).await?;
        self.success_rate(request.into_inner()).await.map(Response::new)
    }

    async fn list_replication_jobs(
        &self,
        request: Request<ListReplicationJobsRequest>,
    ) -> Answer<ListReplicationJobsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.replication_jobs(request.into_inner()).await.map(Response::new)
    }
    async fn start_replicate_all(&self, request: Request<StartReplicateAllRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.replicate_all(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn start_verify_all(&self, request: Request<StartVerifyAllRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.verify_all(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn start_dr_test_all(&self, request: Request<StartDrTestAllRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.dr_test_all(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn apply_policies(
        &self,
        request: Request<ApplyPoliciesRequest>,
    ) -> Answer<ApplyPoliciesResponse> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.apply(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn follow_policies(
        &self,
        request: Request<FollowPoliciesRequest>,
    ) -> Answer<BackupConfig> {
        self.authorise(&request, Role::Operator).await?;
        self.follow(request.into_inner()).await.map(Response::new)
    }

    async fn approve_job(&self, request: Request<ApproveJobRequest>) -> Answer<Job> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.approve(operator.name, request.into_inner().id).await.map(Response::new)
    }

    async fn list_alerts(&self, request: Request<ListAlertsRequest>) -> Answer<ListAlertsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.alerts(request.into_inner()).await.map(Response::new)
    }

    async fn close_alert(&self, request: Request<CloseAlertRequest>) -> Answer<Alert> {
        let operator = self.authorise(&request, Role::Operator).await?;
        self.close_alert(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn add_operator(
        &self,
        request: Request<AddOperatorRequest>,
    ) -> Answer<OperatorCertificate> {
        let operator = self.authorise(&request, Role::Admin).await?;
        self.add_an_operator(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn list_operators(
        &self,
        request: Request<ListOperatorsRequest>,
    ) -> Answer<ListOperatorsResponse> {
        self.authorise(&request, Role::Viewer).await?;
        self.all_operators().await.map(Response::new)
    }

    async fn revoke_operator(&self, request: Request<RevokeOperatorRequest>) -> Answer<Operator> {
        let operator = self.authorise(&request, Role::Admin).await?;
        self.revoke_an_operator(operator.name, request.into_inner()).await.map(Response::new)
    }

    async fn renew_operator(
        &self,
        request: Request<RenewOperatorRequest>,
    ) -> Answer<OperatorCertificate> {
        let operator = self.authorise(&request, Role::Viewer).await?;
        self.renew_myself(operator, request.into_inner()).await.map(Response::new)
    }
}
