//! The simulator's fault plan: what goes wrong inside Azure.
//!
//! Replacing a plan makes azure-sim count anew, so what a fault has still to do is carried over, and
//! what it has done is counted.

use azure_sim::faults::{Action, Fault};
use bytes::Bytes;
use serde_json::Value;

use crate::cloud::Cloud;
use crate::kinds::Kind;

/// The plan as it stands.
#[derive(Default)]
pub struct Trouble {
    plan: Vec<(Option<Kind>, Fault)>,
}

impl Trouble {
    /// Adds a fault. `kind` is counted for each request that it acts on; `None` where matching says
    /// nothing (a region that is down is seen by its answers).
    pub async fn add(&mut self, cloud: &Cloud, kind: Option<Kind>, fault: Fault) {
        self.take_stock(cloud).await;
        self.plan.push((kind, fault));
        self.put(cloud);
    }

    /// Ends what lasts.
    pub async fn end(&mut self, cloud: &Cloud, which: impl Fn(&Action) -> bool) {
        self.take_stock(cloud).await;
        self.plan.retain(|(_, fault)| !which(&fault.action));
        self.put(cloud);
    }

    /// Ends all of it.
    pub async fn end_all(&mut self, cloud: &Cloud) {
        self.end(cloud, |_| true).await;
    }

    fn put(&self, cloud: &Cloud) {
        cloud.simulator.set_faults(self.plan.iter().map(|(_, fault)| fault.clone()).collect());
    }

    async fn take_stock(&mut self, cloud: &Cloud) {
        if self.plan.is_empty() {
            return;
        }
        let request = http::Request::get("https://sim.example/_sim/faults").body(Bytes::new());
        let request = request.expect("a constant request");
        let answer = cloud.simulator.handle(request).await;
        let matched: Vec<Value> = serde_json::from_slice(answer.body()).unwrap_or_default();
        let mut matched = matched.iter().map(|f| f["matched"].as_u64().unwrap_or_default());
        self.plan.retain_mut(|(kind, fault)| {
            let seen = matched.next().unwrap_or_default();
            let Some(kind) = kind else { return true };
            let first = fault.matching.nth.unwrap_or(1);
            let left = fault.matching.count.unwrap_or(1);
            let acted = (seen + 1).saturating_sub(first).min(left);
            cloud.record.count(*kind, acted);
            fault.matching.nth = Some(first.saturating_sub(seen).max(1));
            fault.matching.count = Some(left - acted);
            left > acted
        });
    }
}
