//! `/metrics`, `/healthz`, `/readyz`: plain HTTP, on loopback unless configured otherwise.
//!
//! Figures are derived from the same catalogue and terminal states as everything else (I10), at the
//! moment they are scraped.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use azdr_domain::alert::AlertKind;
use azdr_domain::coverage::ExpectedTimes;
use azdr_domain::objective::{self, Judgement};
use azdr_env::{Env, WallTime};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::fleet::{Fleet, SessionKind};
use crate::reconcile::residue::{Sweep, Sweeper, What};
use crate::store::{FleetRow, Item, ItemId, Store, StoreError};
use crate::workflows::Services;

/// What the endpoints show.
#[derive(Clone)]
pub struct Health {
    store: Store,
    fleet: Fleet,
    services: Arc<Services>,
    env: Env,
    ready: Arc<AtomicBool>,
    residue: Option<Sweeper>,
    recorder: Arc<metrics_exporter_prometheus::PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Health {
    /// Not ready yet.
    pub fn new(store: Store, fleet: Fleet, services: Arc<Services>, env: Env) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let ready = Arc::new(AtomicBool::new(false));
        let recorder = Arc::new(recorder);
        Self { store, fleet, services, env, ready, residue: None, recorder, handle }
    }

    /// Also shows what this finds.
    pub fn with_residue(mut self, sweeper: Sweeper) -> Self {
        self.residue = Some(sweeper);
        self
    }

    /// From here on the controller takes work. A latch: it stays until the process drains.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Serves until `stop`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        listener: tokio::net::TcpListener,
        stop: tokio_util::sync::CancellationToken,
    ) -> std::io::Result<()> {
        let router = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .with_state(self);
        axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
    }

    async fn render(&self) -> Result<String, StoreError> {
        let runs = self.store.run_counts().await?;
        let items = self.store.items().await?;
        let items: BTreeMap<ItemId, Item> = items.into_iter().map(|item| (item.id, item)).collect();
        let protected = self.store.enabled_policies().await?;
        let points = self.store.point_summary().await?;
        let drills = self.store.drills(None, WallTime::from_unix_ms(0)).await?;
        let now = self.env.clock.wall();
        let held = self.store.deletion_hold().await?;
        let missing = self.store.missing_snapshots().await?;
        let fleet = self.store.fleet().await?;
        let alerts = self.store.open_alerts().await?;
        let sweep = self.residue.as_ref().and_then(Sweeper::last);
        metrics::with_local_recorder(&*self.recorder, || {
            for (workflow, state, count) in runs {
                metrics::gauge!("azdr_jobs", "workflow" => workflow, "state" => state)
                    .set(count as f64);
            }
            metrics::gauge!("azdr_database_writable").set(if self.store.trouble().is_none() {
                1.0
            } else {
                0.0
            });
            metrics::gauge!("azdr_protected_vms").set(protected.len() as f64);
            let sessions = self.fleet.sessions();
            let live = sessions.iter().filter(|s| s.kind == SessionKind::Protected).count();
            let quarantined =
                sessions.iter().filter(|s| s.kind == SessionKind::Restored { run: None }).count();
            metrics::gauge!("azdr_agents_connected").set(live as f64);
            metrics::gauge!("azdr_instances_quarantined").set(quarantined as f64);
            for (item, count, newest) in points {
                let Some(item) = items.get(&item) else { continue };
                let vm = item.arm_id.to_string();
                metrics::gauge!("azdr_recovery_points", "vm" => vm.clone()).set(f64::from(count));
                metrics::gauge!("azdr_newest_recovery_point_age_seconds", "vm" => vm)
                    .set(now.since(newest).as_secs_f64());
            }
            // Newest first: the first of each VM is its last drill.
            let mut seen = std::collections::BTreeSet::new();
            for drill in drills {
                let Some(item) = items.get(&drill.item) else { continue };
                if !seen.insert(item.id) {
                    continue;
                }
                let vm = item.arm_id.to_string();
                metrics::gauge!("azdr_last_dr_test_passed", "vm" => vm.clone())
                    .set(f64::from(u8::from(drill.passed)));
                if let Some(rto) = drill.rto_ms {
                    metrics::gauge!("azdr_last_dr_test_rto_seconds", "vm" => vm)
                        .set(rto as f64 / 1000.0);
                }
            }
            show_objectives(&fleet, now);
            for kind in AlertKind::ALL {
                let open = alerts.iter().find(|(k, ..)| *k == kind).map_or(0, |(.., n)| *n);
                let severity = kind.severity().as_str();
                metrics::gauge!("azdr_alerts_open", "kind" => kind.as_str(), "severity" => severity)
                    .set(f64::from(open));
            }
            metrics::gauge!("azdr_snapshots_missing").set(missing as f64);
            metrics::gauge!("azdr_deletions_held").set(f64::from(u8::from(held.is_some())));
            if let Some(sweep) = &sweep {
                show_residue(sweep);
            }
            let counters = self.services.azure.counters();
            metrics::counter!("azdr_azure_requests_total").absolute(counters.requests);
            metrics::counter!("azdr_azure_throttled_total").absolute(counters.throttled);
        });
        Ok(self.handle.render())
    }
}

/// What policies ask for, and whether it is so; 0 for a VM whose policy asks for none, or is off.
fn show_objectives(fleet: &[FleetRow], now: WallTime) {
    let mut expected = ExpectedTimes::default();
    for row in fleet.iter().filter(|row| row.policy.is_some()) {
        let facts = row.facts(&mut expected, now).filter(|facts| facts.gone.is_none());
        let rpo = facts.as_ref().and_then(|f| Some((f.policy.rpo?, f.rpo(now)?)));
        let rto = facts.as_ref().map(|f| {
            let target = objective::rto_target(Some(f.policy));
            (target, objective::judge_rto(target, row.last_drill))
        });
        for (name, objective, judged) in
            [("azdr_rpo_objective_seconds", "rpo", rpo), ("azdr_rto_objective_seconds", "rto", rto)]
        {
            let vm = row.vm.to_string();
            let target = judged.map_or(0.0, |(target, _)| f64::from(target.as_secs()));
            metrics::gauge!(name, "vm" => vm.clone()).set(target);
            for (state, judgement) in [
                ("met", Judgement::Met),
                ("missed", Judgement::Missed),
                ("unknown", Judgement::Unknown),
            ] {
                let is_so = judged.is_some_and(|(_, j)| j == judgement);
                metrics::gauge!("azdr_objective", "vm" => vm.clone(), "objective" => objective,
                    "state" => state)
                .set(f64::from(u8::from(is_so)));
            }
        }
    }
}

/// What the last sweep found: what azdr deletes by itself, and what a person must look at.
fn show_residue(sweep: &Sweep) {
    for (fate, left) in [("reaped", false), ("left", true)] {
        let found: Vec<_> =
            sweep.found.iter().filter(|f| matches!(f.what, What::Person(_)) == left).collect();
        let cents: u64 = found.iter().filter_map(|f| f.monthly_cents).sum();
        metrics::gauge!("azdr_residue_resources", "fate" => fate).set(found.len() as f64);
        metrics::gauge!("azdr_residue_monthly_cost_dollars", "fate" => fate)
            .set(cents as f64 / 100.0);
    }
    metrics::gauge!("azdr_residue_looked_up_timestamp_seconds")
        .set(sweep.at.unix_ms() as f64 / 1e3);
}

/// Longest wait for the database's answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

async fn ready(State(health): State<Health>) -> (StatusCode, String) {
    match readiness(&health.store, health.ready.load(Ordering::Acquire)).await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Why the controller is not ready, in words.
async fn readiness(store: &Store, latched: bool) -> Result<(), String> {
    if !latched || !store.is_open() {
        return Err("starting or stopping".to_owned());
    }
    // Writing is what fails first, and what everything needs.
    tokio::select! {
        written = store.check_writable() => written.map_err(|e| e.to_string()),
        () = azdr_env::sleep(PATIENCE) => Err("the database does not answer".to_owned()),
    }
}

async fn metrics(State(health): State<Health>) -> Result<String, StatusCode> {
    health.render().await.map_err(|e| {
        tracing::error!(error = %e, "metrics cannot be read");
        StatusCode::SERVICE_UNAVAILABLE
    })
}

/// Binds the metrics listener.
///
/// # Errors
/// When the address is taken or not ours.
pub async fn bind(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(address).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Executor;

    #[tokio::test]
    async fn a_full_disk_makes_it_not_ready_in_words_and_only_as_long_as_it_lasts() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Executor::BlockingPool).unwrap();
        assert_eq!(readiness(&store, false).await, Err("starting or stopping".to_owned()));
        assert_eq!(readiness(&store, true).await, Ok(()));
        let pages = |n: u32| store.with_writer(|c| c.pragma_update(None, "max_page_count", n));
        pages(1).unwrap();
        // A few pages are free still.
        let fill = async |store: &Store| {
            let big = |c: &rusqlite::Connection| {
                Ok(c.execute("INSERT INTO write_probe VALUES (zeroblob(1000))", [])?)
            };
            while store.write(big).await.is_ok() {}
        };
        fill(&store).await;
        let words = "the database cannot be written: its disk is full (database or disk is full)";
        assert_eq!(readiness(&store, true).await, Err(words.to_owned()));
        pages(1_000_000).unwrap();
        assert_eq!(readiness(&store, true).await, Ok(()));
    }
}
