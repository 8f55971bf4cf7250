//! What the catalogue calls restorable is there. Others may delete azdr's snapshots: within a day the
//! catalogue must know, and never again call such a point restorable or proved.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_domain::recovery_point::ProofLevel;
use azdr_env::WallTime;

use crate::life::Life;
use crate::world::World;

/// A sweep every eight hours, and one of them may meet an Azure that does not answer.
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
        let mut claims = Vec::new();
        for item in life.store.items().await.map_err(|e| e.to_string())? {
            for point in life.store.points(item.id).await.map_err(|e| e.to_string())? {
                // Being deleted: it is nobody's choice any more.
                if point.deleted_by.is_some() {
                    continue;
                }
                let proved = point.proof().0 > ProofLevel::Unproved;
                let home = point.region.clone();
                let mut regions: Vec<_> = point.snapshots.iter().map(|s| &s.region).collect();
                regions.dedup();
                for region in regions {
                    let restorable = point.is_restorable_in(region);
                    let proved = proved && *region == home && point.replicas.is_empty();
                    for s in point.snapshots_in(region) {
                        if restorable || proved {
                            let words = format!("{} of {} in {region}", point.name, item.arm_id);
                            claims.push((s.id.key().to_owned(), words));
                        }
                    }
                }
            }
        }
        let (gone, now) = world.cloud.simulator.look(|azure, now| {
            let gone = claims.into_iter().filter(|(key, _)| azure.snapshots.get(key).is_none());
            (gone.collect::<BTreeMap<_, _>>(), now)
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
