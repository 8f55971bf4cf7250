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
        let lasting = self.read(lasting_conditions).await?;
        let changed = self.compute(move || changed(&fleet, &lasting, now)).await?;
        for items in changed.chunks(SETTLED_AT_ONCE) {
            let items = items.to_vec();
            self.write(move |c| items.iter().try_for_each(|item| settle(c, *item, now))).await?;
        }
        if self.read(move |c| is_success_rate_outdated(c, now)).await? {
            self.write(move |c| settle_success_rate(c, now)).await?;
        }
        Ok(changed.len())
    }
}

/// A condition is so: its alert is opened, or its words are renewed. One that a person has closed stays
/// so as long as it lasts.
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
    let is_closed = c
        .prepare_cached(
            "SELECT 1 FROM alert WHERE cause = ?1 AND closed_by IS NOT NULL AND run_id IS NULL
               AND ended_ms IS NULL",
        )?
        .exists([&cause])?;
    if is_open > 0 || is_closed {
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

/// A condition is not so, or no longer: it may be raised anew from now on.
fn is_not_so(
    c: &Connection,
    kind: AlertKind,
    item: Option<ItemId>,
    now: WallTime,
) -> Result<(), StoreError> {
    let cause = condition(kind, item);
    resolve(c, &cause, "it is so no longer", now)?;
    c.execute_cached(
        "UPDATE alert SET ended_ms = ?2 WHERE cause = ?1 AND closed_by IS NOT NULL
           AND run_id IS NULL AND ended_ms IS NULL",
        (cause, now.unix_ms()),
    )?;
    Ok(())
}

fn condition(kind: AlertKind, item: Option<ItemId>) -> String {
    if kind == AlertKind::SuccessRateLow { SUCCESS_RATE.to_owned() } else { cause(kind, item, "") }
}

/// Whether a condition of the VM is open, or closed by a person while it was so: each by its index.
pub(super) const HAS_CONDITION: &str =
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM alert WHERE item_id = ?1 AND resolved_ms IS NULL AND run_id IS NULL)
       OR EXISTS (SELECT 1 FROM alert WHERE item_id = ?1 AND closed_by IS NOT NULL AND run_id IS NULL
         AND ended_ms IS NULL)";

pub(super) fn has_condition(c: &Connection, item: ItemId) -> Result<bool, StoreError> {
    Ok(c.prepare_cached(HAS_CONDITION)?.exists([item.0])?)
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
            is_not_so(c, kind, Some(item), now)?;
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

/// A condition of a VM: its kind, and what its open alert says; `None` for one that a person has closed,
/// of which nothing more is said.
type Lasting = (ItemId, String, Option<String>);

/// Conditions of VMs that were so when they were last judged.
fn lasting_conditions(c: &Connection) -> Result<Vec<Lasting>, StoreError> {
    let mut s = c.prepare_cached(
        "SELECT item_id, kind, what FROM alert
         WHERE resolved_ms IS NULL AND run_id IS NULL AND item_id IS NOT NULL
         UNION ALL SELECT item_id, kind, NULL FROM alert
         WHERE closed_by IS NOT NULL AND run_id IS NULL AND ended_ms IS NULL AND item_id IS NOT NULL",
    )?;
    let rows = s.query_map([], |r| Ok((ItemId(r.get(0)?), r.get(1)?, r.get(2)?)))?;
    rows.collect::<Result<_, _>>().map_err(Into::into)
}

/// The VMs whose conditions are not what they should be.
fn changed(fleet: &[FleetRow], lasting: &[Lasting], now: WallTime) -> Vec<ItemId> {
    let mut are: BTreeMap<ItemId, BTreeMap<&str, Option<&str>>> = Default::default();
    for (item, kind, what) in lasting {
        are.entry(*item).or_default().insert(kind, what.as_deref());
    }
    let mut expected = ExpectedTimes::default();
    let mut changed = vec![];
    for row in fleet {
        let wanted = wanted(row, &mut expected, now);
        let are = are.remove(&row.item).unwrap_or_default();
        let is_said = |(kind, words): &(AlertKind, Words)| {
            let is = are.get(kind.as_str());
            is.is_some_and(|what| what.is_none_or(|what| what == words.what))
        };
        if wanted.len() != are.len() || !wanted.iter().all(is_said) {
            changed.push(row.item);
        }
    }
    changed
}

/// Whether what is said of the share of drills that passed is not what should be.
fn is_success_rate_outdated(c: &Connection, now: WallTime) -> Result<bool, StoreError> {
    let said: Option<Option<String>> = c
        .query_row_cached(
            "SELECT CASE WHEN resolved_ms IS NULL THEN what END FROM alert WHERE cause = ?1
               AND (resolved_ms IS NULL OR (closed_by IS NOT NULL AND ended_ms IS NULL))",
            [SUCCESS_RATE],
            |r| r.get(0),
        )
        .optional()?;
    Ok(match (low_success_rate(c, now)?, said) {
        (Some(words), Some(said)) => said.is_some_and(|said| said != words.what),
        (wanted, said) => wanted.is_some() != said.is_some(),
    })
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
        None => is_not_so(c, AlertKind::SuccessRateLow, None, now),
    }
}
