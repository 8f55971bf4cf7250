//! What agents last said of whether their machines could be frozen.

use std::collections::BTreeMap;

use azdr_env::WallTime;
use azdr_proto::agent::PreflightReport;

use super::cached::Cached;
use super::{ItemId, Store, StoreError};

/// Reasons that are kept.
const MOST: usize = 16;
/// Bytes that are kept of each.
const LONGEST: usize = 512;

/// A verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Preflight {
    /// When it was told, by this process's clock.
    pub at: WallTime,
    /// Nothing stands in the way of a freeze.
    pub ready: bool,
    /// What does, in words.
    pub problems: Vec<String>,
}

impl Preflight {
    /// What is kept of a report: an agent may say anything, at any length. One that names problems is not
    /// ready, whatever it says.
    pub fn of(report: &PreflightReport, at: WallTime) -> Self {
        let cut = |text: &String| text[..text.floor_char_boundary(LONGEST)].to_owned();
        let problems: Vec<String> = report.problems.iter().take(MOST).map(cut).collect();
        Self { at, ready: report.ready && problems.is_empty(), problems }
    }
}

impl Store {
    /// Keeps a VM's verdict in the place of its last one.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn keep_preflight(
        &self,
        item: ItemId,
        preflight: Preflight,
    ) -> Result<(), StoreError> {
        let problems = serde_json::to_string(&preflight.problems);
        let problems = problems.map_err(StoreError::corrupt("preflight"))?;
        self.write(move |c| {
            c.execute_cached(
                "INSERT OR REPLACE INTO preflight VALUES (?1, ?2, ?3, ?4)",
                (item.0, preflight.at.unix_ms(), preflight.ready, problems),
            )?;
            Ok(())
        })
        .await
    }

    /// Every VM's last verdict.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn preflights(&self) -> Result<BTreeMap<ItemId, Preflight>, StoreError> {
        self.read(|c| {
            let mut s =
                c.prepare_cached("SELECT item_id, at_ms, ready, problems_json FROM preflight")?;
            let mut rows = s.query([])?;
            let mut found = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let problems = serde_json::from_str(&row.get::<_, String>(3)?);
                let preflight = Preflight {
                    at: WallTime::from_unix_ms(row.get(1)?),
                    ready: row.get(2)?,
                    problems: problems.map_err(StoreError::corrupt("preflight"))?,
                };
                found.insert(ItemId(row.get(0)?), preflight);
            }
            Ok(found)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Executor;

    #[tokio::test]
    async fn the_last_verdict_is_kept_within_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        let item = "INSERT INTO item VALUES (1, 'vm', 'k', '/x', 'eastus', NULL, 0)";
        store.write(move |c| Ok(c.execute_batch(item)?)).await.unwrap();
        let at = WallTime::from_unix_ms(7);
        let long = PreflightReport {
            ready: true,
            problems: vec!["ä".repeat(400); 40],
            ..PreflightReport::default()
        };
        let kept = Preflight::of(&long, at);
        assert!(!kept.ready, "it names problems");
        assert_eq!((kept.problems.len(), kept.problems[0].len()), (16, 512));
        store.keep_preflight(ItemId(1), kept.clone()).await.unwrap();
        assert_eq!(store.preflights().await.unwrap()[&ItemId(1)], kept);
        let ready = Preflight { at, ready: true, problems: Vec::new() };
        store.keep_preflight(ItemId(1), ready.clone()).await.unwrap();
        assert_eq!(store.preflights().await.unwrap(), BTreeMap::from([(ItemId(1), ready)]));
    }
}
