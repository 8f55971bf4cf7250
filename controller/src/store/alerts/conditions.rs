//! Conditions: what is so for a while, judged from the whole of what is known of a VM.

use std::collections::BTreeMap;

use azdr_domain::alert::{self, AlertKind, VmFacts, Words};
use azdr_domain::coverage::ExpectedTimes;
use azdr_domain::objective;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension};

use super::{cause, resolve};
use crate::store::cached::Cached;
use crate::store::fleet_status::{FleetRow, fleet_row_of};
use crate::store::{ItemId, Store, StoreError};

/// VMs whose conditions are settled in one transaction.
const SETTLED_AT_ONCE: usize = 100;
/// The cause of the one condition that is about no VM.
const SUCCESS_RATE: &str = "success_rate_low";

impl Store {
    /// Raises the conditions that have come to be so, and resolves those that are so no longer. Answers
    /// for how many VMs anything was written. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn judge_conditions(&self, now: WallTime) -> Result<usize, StoreError> {
        let fleet = self.fleet().await?;
        let open = self.read(open_conditions).await?;
        let changed = self.compute(move || changed(&fleet, &open, now)).await?;
        for items in changed.chunks(SETTLED_AT_ONCE) {
            let items = items.to_vec();
            self.write(move |c| items.iter().try_for_each(|item| settle(c, *item, now))).await?;
        }
        if self.read(move |c| success_rate(c, now).map(|(words, is)| words != is)).await? {
            self.write(move |c| settle_success_rate(c, now)).await?;
        }
        Ok(changed.len())
    }
}

/// A condition is so: its alert is opened, or its words are renewed.
fn is_so(
    c: &Connection,
    kind: AlertKind,
    item: Option<ItemId>,
    words: &Words,
    now: WallTime,
) -> Result<(), StoreError> {
    let cause = condition(kind, item);
    let is_open = c.execute_cached(
        "UPDATE alert SET what = ?2, next = ?3 WHERE cause = ?1 AND resolved_ms IS NULL",
        (&cause, &words.what, &words.next),
    )?;
    if is_open > 0 {
        return Ok(());
    }
    c.execute_cached(
        "INSERT INTO alert (kind, cause, severity, item_id, point_name, region, what, next, raised_ms,
           since_ms, times) VALUES (?1, ?2, ?3, ?4, '', '', ?5, ?6, ?7, ?7, 1)",
        (
            kind.as_str(),
            cause,
            kind.severity().as_str(),
            item.map(|i| i.0),
            &words.what,
            &words.next,
            now.unix_ms(),
        ),
    )?;
    Ok(())
}

fn condition(kind: AlertKind, item: Option<ItemId>) -> String {
    if kind == AlertKind::SuccessRateLow { SUCCESS_RATE.to_owned() } else { cause(kind, item, "") }
}

pub(super) fn has_open_condition(c: &Connection, item: ItemId) -> Result<bool, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT 1 FROM alert WHERE item_id = ?1 AND resolved_ms IS NULL AND run_id IS NULL",
    )?;
    Ok(s.exists([item.0])?)
}

/// Raises and resolves a VM's conditions, as they are now.
pub(in crate::store) fn settle(
    c: &Connection,
    item: ItemId,
    now: WallTime,
) -> Result<(), StoreError> {
    let row = fleet_row_of(c, item)?;
    let wanted = match &row {
        Some(row) => wanted(row, &mut ExpectedTimes::default(), now),
        None => vec![],
    };
    for (kind, words) in &wanted {
        is_so(c, *kind, Some(item), words, now)?;
    }
    let of_vms = |kind: &AlertKind| kind.is_condition() && *kind != AlertKind::SuccessRateLow;
    for kind in AlertKind::ALL.into_iter().filter(of_vms) {
        if !wanted.iter().any(|(k, _)| *k == kind) {
            resolve(c, &condition(kind, Some(item)), "it is so no longer", now)?;
        }
    }
    if row.is_some_and(|row| row.gone.is_some()) {
        let failed = cause(AlertKind::BackupFailed, Some(item), "");
        resolve(c, &failed, "the VM is not in Azure any more", now)?;
    }
    Ok(())
}

fn wanted(row: &FleetRow, expected: &mut ExpectedTimes, now: WallTime) -> Vec<(AlertKind, Words)> {
    row.facts(expected, now).map_or_else(Vec::new, |facts: VmFacts<'_>| facts.conditions(now))
}

/// Open conditions of VMs: kind and what they say.
fn open_conditions(c: &Connection) -> Result<Vec<(ItemId, String, String)>, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT item_id, kind, what FROM alert
         WHERE resolved_ms IS NULL AND run_id IS NULL AND item_id IS NOT NULL",
    )?;
    let rows = s.query_map([], |r| Ok((ItemId(r.get(0)?), r.get(1)?, r.get(2)?)))?;
    rows.collect::<Result<_, _>>().map_err(Into::into)
}

/// The VMs whose open conditions are not what they should be.
fn changed(fleet: &[FleetRow], open: &[(ItemId, String, String)], now: WallTime) -> Vec<ItemId> {
    let mut are: BTreeMap<ItemId, Vec<(&str, &str)>> = Default::default();
    for (item, kind, what) in open {
        are.entry(*item).or_default().push((kind, what));
    }
    let mut expected = ExpectedTimes::default();
    let mut changed = vec![];
    for row in fleet {
        let wanted = wanted(row, &mut expected, now);
        let mut should: Vec<_> =
            wanted.iter().map(|(kind, words)| (kind.as_str(), words.what.as_str())).collect();
        let mut are = are.remove(&row.item).unwrap_or_default();
        should.sort_unstable();
        are.sort_unstable();
        if should != are {
            changed.push(row.item);
        }
    }
    changed
}

/// What the share of drills that passed should be said to be, and what the open alert says.
fn success_rate(
    c: &Connection,
    now: WallTime,
) -> Result<(Option<String>, Option<String>), StoreError> {
    let open = c
        .query_row_cached(
            "SELECT what FROM alert WHERE cause = ?1 AND resolved_ms IS NULL",
            [SUCCESS_RATE],
            |r| r.get(0),
        )
        .optional()?;
    Ok((low_success_rate(c, now)?.map(|words| words.what), open))
}

fn low_success_rate(c: &Connection, now: WallTime) -> Result<Option<Words>, StoreError> {
    let since = now.minus(objective::SUCCESS_WINDOW);
    let (total, passed): (u32, u32) = c.query_row_cached(
        "SELECT count(*), coalesce(sum(passed), 0) FROM drill WHERE started_ms >= ?1",
        [since.unix_ms()],
        |r| Ok((r.get(0)?, r.get(1)?)),
    )?;
    let low = objective::meets_success_target(total as usize, passed as usize) == Some(false);
    Ok(low.then(|| alert::success_rate_low(total as usize, passed as usize)))
}

pub(super) fn settle_success_rate(c: &Connection, now: WallTime) -> Result<(), StoreError> {
    match low_success_rate(c, now)? {
        Some(words) => is_so(c, AlertKind::SuccessRateLow, None, &words, now),
        None => resolve(c, SUCCESS_RATE, "it is so no longer", now),
    }
}
