//! What lies around in Azure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use azdr_domain::cost::PRICES_AS_OF;
use azdr_env::WallTime;
use azdr_proto::admin::{ListResidueResponse, OtherInstallation, ResidueResource};
use tonic::Status;

use super::Admin;
use super::errors::{azure, unavailable};
use crate::reconcile::residue::{Found, Sweep, SweepError, What};

/// How long a sweep is good for.
const FRESH: Duration = Duration::from_secs(60);

impl Admin {
    pub(super) async fn residue(&self) -> Result<ListResidueResponse, Status> {
        // A restore that has ended since has left disks that are kept, and people look for them.
        let kept = self.store.kept_disks().await.map_err(unavailable)?;
        let knows_all = |sweep: &Arc<Sweep>| {
            let found: BTreeSet<&str> = sweep.found.iter().map(|found| found.id.key()).collect();
            kept.iter().all(|kept| found.contains(kept.disk.key()))
        };
        let sweep = match self.sweeper.fresh(FRESH).filter(knows_all) {
            Some(sweep) => sweep,
            None => self.sweeper.sweep(&self.stamp.subscriptions).await.map_err(|e| match e {
                SweepError::Store(e) => unavailable(e),
                SweepError::Azure(e) => azure(&e),
            })?,
        };
        Ok(ListResidueResponse {
            as_of_unix_ms: sweep.at.unix_ms(),
            resources: sweep.found.iter().map(resource).collect(),
            others: sweep
                .others
                .iter()
                .map(|((installation, resource_type), resources)| OtherInstallation {
                    installation: installation.clone(),
                    resource_type: resource_type.clone(),
                    resources: *resources,
                })
                .collect(),
            monthly_cost_usd_cents: sweep.found.iter().filter_map(|f| f.monthly_cents).sum(),
            prices_as_of: PRICES_AS_OF.to_owned(),
            held: sweep.held.clone().unwrap_or_default(),
        })
    }
}

fn resource(found: &Found) -> ResidueResource {
    let ms = |at: Option<WallTime>| at.map_or(0, WallTime::unix_ms);
    let (reaped, after, left_because) = match &found.what {
        What::Reaped => (true, None, String::new()),
        What::ReapedAfter(at) => (true, Some(*at), String::new()),
        What::Person(why) => (false, None, why.clone()),
    };
    ResidueResource {
        resource_id: found.id.to_string(),
        resource_type: found.resource_type.clone(),
        created_unix_ms: ms(found.created),
        monthly_cost_usd_cents: found.monthly_cents,
        job_id: found.run.map_or(0, |run| run.0),
        workflow: found.workflow.clone().unwrap_or_default(),
        reason: found.why.clone(),
        reaped,
        reaped_after_unix_ms: ms(after),
        left_because,
    }
}
