//! Alerts: what somebody should look at.

use azdr_domain::alert::{AlertKind, CLOSING_REASON_LIMIT, Severity};
use azdr_env::WallTime;
use azdr_proto::admin as api;
use tonic::{Code, Status};

use super::Admin;
use super::errors::{hinted, unavailable};
use super::reason::reason;
use crate::store::{AlertFilter, AlertRow, Closing};

/// How many one call lists when it does not say.
const DEFAULT_LIMIT: u32 = 100;
/// How many it lists at most.
const MAX_LIMIT: u32 = 1000;

impl Admin {
    pub(super) async fn alerts(
        &self,
        request: api::ListAlertsRequest,
    ) -> Result<api::ListAlertsResponse, Status> {
        let limit = match request.limit {
            0 => DEFAULT_LIMIT,
            limit @ 1..=MAX_LIMIT => limit,
            limit => {
                let words = format!("limit cannot be {limit}: it must be 1 to {MAX_LIMIT}");
                return Err(Status::invalid_argument(words));
            }
        };
        let severity = match api::AlertSeverity::try_from(request.severity) {
            Ok(api::AlertSeverity::Unspecified) => None,
            Ok(api::AlertSeverity::Medium) => Some(Severity::Medium),
            Ok(api::AlertSeverity::High) => Some(Severity::High),
            Ok(api::AlertSeverity::Critical) => Some(Severity::Critical),
            Err(_) => {
                let words = format!("severity cannot be {}: there is none", request.severity);
                return Err(Status::invalid_argument(words));
            }
        };
        let kind = match request.kind.as_str() {
            "" => None,
            text => Some(AlertKind::parse(text).ok_or_else(|| unknown_kind(text))?),
        };
        let is_named = |vm: &api::VmRef| !vm.name.is_empty() || !vm.resource_group.is_empty();
        let items = match request.vm.as_ref().filter(|vm| is_named(vm)) {
            Some(vm) => {
                let items = self.subjects(Some(vm)).await?;
                Some(items.into_iter().map(|item| item.id).collect())
            }
            None => None,
        };
        let filter = AlertFilter {
            items,
            severity,
            kind,
            open: request.open,
            since: Some(WallTime::from_unix_ms(request.since_unix_ms)),
            before: Some(request.before_id).filter(|id| *id > 0),
            limit,
        };
        let (rows, more) = self.store.alerts(filter).await.map_err(unavailable)?;
        Ok(api::ListAlertsResponse { alerts: rows.into_iter().map(shown).collect(), more })
    }

    pub(super) async fn close_alert(
        &self,
        by: String,
        request: api::CloseAlertRequest,
    ) -> Result<api::Alert, Status> {
        let id = request.id;
        let reason = reason("closing an alert", &request.reason, CLOSING_REASON_LIMIT)?;
        let now = self.env.clock.wall();
        let closing = self.store.close_alert(id, by.clone(), reason.clone(), now).await;
        match closing.map_err(unavailable)? {
            Closing::Closed(alert) => {
                tracing::info!(alert = id, kind = alert.kind, by, reason, "closed");
                Ok(shown(alert))
            }
            Closing::Already(alert) => Err(hinted(
                Code::FailedPrecondition,
                format!("alert {id} is not open: {}", ended(&alert)),
                "see `azdr alert list --open`",
            )),
            Closing::WaitsForAPerson(run) => Err(hinted(
                Code::FailedPrecondition,
                format!(
                    "alert {id} cannot be closed: job {run} waits for a person until it has ended"
                ),
                &format!(
                    "see `azdr job show {run}`; then `azdr job retry {run}`, `azdr job undo {run}` or, as \
                     an admin, `azdr job abandon {run} --reason TEXT`"
                ),
            )),
            Closing::Unknown => Err(hinted(
                Code::NotFound,
                format!("there is no alert {id}"),
                "see `azdr alert list`; resolved ones are kept for 400 days",
            )),
        }
    }
}

/// How an alert that is not open has ended.
fn ended(alert: &AlertRow) -> String {
    let at = alert.resolved.map(|at| format!(" at {at}")).unwrap_or_default();
    let why = alert.resolution.as_deref().unwrap_or_default();
    match &alert.closed_by {
        Some(by) => format!("{by} closed it{at}: {why}"),
        None => format!("it was resolved{at}: {why}"),
    }
}

fn unknown_kind(text: &str) -> Status {
    let known: Vec<&str> = AlertKind::ALL.into_iter().map(AlertKind::as_str).collect();
    Status::invalid_argument(format!("kind cannot be {text:?}: it must be {}", known.join(", ")))
}

fn shown(row: AlertRow) -> api::Alert {
    api::Alert {
        id: row.id,
        kind: row.kind,
        severity: severity(&row.severity).into(),
        vm_name: row.vm.as_ref().map(|vm| vm.name().to_owned()).unwrap_or_default(),
        vm_resource_id: row.vm.map(|vm| vm.to_string()).unwrap_or_default(),
        job_id: row.run.map_or(0, |run| run.0),
        recovery_point: row.point,
        region: row.region,
        what: row.what,
        next_step: row.next,
        raised_unix_ms: row.raised.unix_ms(),
        resolved_unix_ms: row.resolved.map_or(0, WallTime::unix_ms),
        resolution: row.resolution.unwrap_or_default(),
        since_unix_ms: row.since.unix_ms(),
        times: row.times,
        closed_by: row.closed_by.unwrap_or_default(),
        lasts: row.lasts,
    }
}

fn severity(text: &str) -> api::AlertSeverity {
    match Severity::parse(text) {
        Some(Severity::Medium) => api::AlertSeverity::Medium,
        Some(Severity::High) => api::AlertSeverity::High,
        Some(Severity::Critical) => api::AlertSeverity::Critical,
        None => api::AlertSeverity::Unspecified,
    }
}
