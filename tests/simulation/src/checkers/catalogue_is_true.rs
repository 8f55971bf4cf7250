//! What the catalogue calls restorable is there. Others may delete azdr's snapshots: within a day the
//! catalogue must know, and never again call such a point restorable or proved.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_controller::store::{PointRow, SnapshotRow};
use azdr_domain::recovery_point::ProofLevel;
use azdr_env::WallTime;

use crate::life::Life;
use crate::world::World;

/// A sweep every twelve hours, and one of them may meet an Azure that does not answer.
const NOTICED: Duration = Duration::from_secs(86_400);

/// Remembers since when what is claimed is not true.
#[derive(Default)]
pub struct CatalogueIsTrue {
    untrue: BTreeMap<String, WallTime>,
}

impl CatalogueIsTrue {
    /// Compares every claim with Azure. `at_once`: a sweep has just ended, there is no excuse.
    ///
    /// # Errors
    /// A claim that has been untrue for a day.
    pub async fn look(&mut self, world: &World, life: &Life, at_once: bool) -> Result<(), String> {
        let mut all = Vec::new();
        for item in life.store.items().await.map_err(|e| e.to_string())? {
            let points = life.store.points(item.id).await.map_err(|e| e.to_string())?;
            all.push((item, points));
        }
        let (gone, now) = world.cloud.simulator.look(|azure, now| {
            let is_gone = |s: &SnapshotRow| azure.snapshots.get(s.id.key()).is_none();
            let mut gone = BTreeMap::new();
            for (item, points) in &all {
                for (point, s) in points.iter().flat_map(claimed).filter(|(_, s)| is_gone(s)) {
                    let words = format!("{} of {} in {}", point.name, item.arm_id, s.region);
                    gone.insert(s.id.key().to_owned(), words);
                }
            }
            (gone, now)
        });
        self.untrue.retain(|key, _| gone.contains_key(key));
        let mut result = Ok(());
        for (key, words) in gone {
            let since = *self.untrue.entry(key.clone()).or_insert(now);
            if at_once || now.since(since) > NOTICED {
                // Once is enough to be told.
                self.untrue.insert(key.clone(), now);
                result = Err(format!(
                    "{words} is called restorable or proved, and {key} has been gone since {since} at \
                     the latest"
                ));
            }
        }
        result
    }
}

/// The snapshots that a point is said to be restorable from, or proved by.
fn claimed(point: &PointRow) -> impl Iterator<Item = (&PointRow, &SnapshotRow)> {
    // Being deleted: it is nobody's choice any more.
    let stays = point.deleted_by.is_none();
    let proved = point.replicas.is_empty() && point.proof().0 > ProofLevel::Unproved;
    let mut regions: Vec<_> = point.snapshots.iter().map(|s| &s.region).collect();
    regions.dedup();
    regions.retain(|region| {
        stays && (proved && **region == point.region || point.is_restorable_in(region))
    });
    point.snapshots.iter().filter(move |s| regions.contains(&&s.region)).map(move |s| (point, s))
}
