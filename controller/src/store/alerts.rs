//! Alerts: written in the transaction of the terminal state, or of the measurement, that they come from
//! (I10), so that none is lost or doubled by a crash.
//!
//! What gives cause for one, and its words, is [`azdr_domain::alert`]'s. Two unique indexes hold that a
//! run gives at most one alert of a cause, and that a cause has at most one open one. Conditions depend
//! on time too: [`Store::judge_conditions`] is asked from time to time, and again in the transaction of
//! every terminal state of a VM that has one open.

mod conditions;
mod events;

use azdr_domain::alert::{AlertKind, Severity, Words};
use azdr_domain::arm_id::ArmId;
use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};

pub(super) use conditions::settle;
pub(super) use events::{drill_recorded, of_state, point_gone, proved};

use super::cached::Cached;
use super::error::to_json;
use super::items::parse_arm_id;
use super::{ItemId, RunId, Store, StoreError};

/// Rows that are deleted in one transaction.
const FORGOTTEN_AT_ONCE: u32 = 1000;

/// An alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertRow {
    /// Its number; later ones are higher.
    pub id: i64,
    /// [`AlertKind::as_str`].
    pub kind: String,
    /// [`Severity::as_str`].
    pub severity: String,
    /// The VM that it is about.
    pub vm: Option<ArmId>,
    /// The run that it comes from; a condition comes from none.
    pub run: Option<RunId>,
    /// The recovery point that it is about, or empty.
    pub point: String,
    /// The region that it is about, or empty.
    pub region: String,
    /// What happened.
    pub what: String,
    /// What to do next.
    pub next: String,
    /// When it was raised.
    pub raised: WallTime,
    /// When the first of the same cause was raised, without a success since then.
    pub since: WallTime,
    /// How many of the same cause there were since then.
    pub times: u32,
    /// When it was resolved.
    pub resolved: Option<WallTime>,
    /// By what; where `closed_by` is set, the reason that they gave.
    pub resolution: Option<String>,
    /// The person who closed it.
    pub closed_by: Option<String>,
    /// It is a condition, and was closed while it was so, which it still is.
    pub lasts: bool,
}

/// What became of a wish to close an alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is closed now.
    Closed(AlertRow),
    /// It was resolved before, by itself or by a person; nothing was changed.
    Already(AlertRow),
    /// It says that this run waits for a person, and cannot be closed before it has ended (I5).
    WaitsForAPerson(RunId),
    /// There is none of this number.
    Unknown,
}

/// Which alerts to list.
#[derive(Clone, Debug, Default)]
pub struct AlertFilter {
    /// Of these VMs only.
    pub items: Option<Vec<ItemId>>,
    /// At least so severe.
    pub severity: Option<Severity>,
    /// Of this kind only.
    pub kind: Option<AlertKind>,
    /// Only those that are not resolved.
    pub open: bool,
    /// Raised or resolved at or after this; those that are open always.
    pub since: Option<WallTime>,
    /// Only those with a lower number: the next page.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u32,
}

const ALERTS: &str = "SELECT a.id, a.kind, a.severity, i.arm_id, a.run_id, a.point_name, a.region,
    a.what, a.next, a.raised_ms, a.since_ms, a.times, a.resolved_ms, a.resolution, a.closed_by,
    a.closed_by IS NOT NULL AND a.run_id IS NULL AND a.ended_ms IS NULL
  FROM alert a LEFT JOIN item i ON i.id = a.item_id";

impl Store {
    /// Alerts, newest first, and how many fit the filter beyond those.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn alerts(&self, filter: AlertFilter) -> Result<(Vec<AlertRow>, u64), StoreError> {
        self.read(move |c| {
            let wanted = "WHERE (?1 IS NULL OR a.item_id IN (SELECT value FROM json_each(?1)))
               AND a.severity IN (SELECT value FROM json_each(?2))
               AND (?3 IS NULL OR a.kind = ?3) AND (NOT ?4 OR a.resolved_ms IS NULL)
               AND (a.resolved_ms IS NULL OR a.resolved_ms >= ?5) AND a.id < ?6";
            let severities: Vec<&str> = Severity::ALL
                .into_iter()
                .filter(|s| filter.severity.is_none_or(|least| *s >= least))
                .map(Severity::as_str)
                .collect();
            let values = (
                filter.items.as_ref().map(to_json),
                to_json(&severities),
                filter.kind.map(AlertKind::as_str),
                filter.open,
                filter.since.map_or(i64::MIN, WallTime::unix_ms),
                filter.before.unwrap_or(i64::MAX),
            );
            let all: i64 = c.query_row_cached(
                &format!("SELECT count(*) FROM alert a {wanted}"),
                values.clone(),
                |r| r.get(0),
            )?;
            let (items, severities, kind, open, since, before) = values;
            let mut s =
                c.prepare_cached(&format!("{ALERTS} {wanted} ORDER BY a.id DESC LIMIT ?7"))?;
            let rows =
                s.query_map((items, severities, kind, open, since, before, filter.limit), row)?;
            let rows: Vec<AlertRow> = rows.collect::<Result<_, _>>()?;
            let beyond = all.unsigned_abs() - rows.len() as u64;
            Ok((rows, beyond))
        })
        .await
    }

    /// Closes an open alert by hand. A condition that is closed stays so as long as it lasts, and is
    /// raised anew when it is so again after that.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn close_alert(
        &self,
        id: i64,
        by: String,
        reason: String,
        now: WallTime,
    ) -> Result<Closing, StoreError> {
        self.write(move |c| {
            let Some(alert) = one(c, id)? else { return Ok(Closing::Unknown) };
            if alert.resolved.is_some() {
                return Ok(Closing::Already(alert));
            }
            if let (Some(AlertKind::JobStuck), Some(run)) =
                (AlertKind::parse(&alert.kind), alert.run)
            {
                return Ok(Closing::WaitsForAPerson(run));
            }
            c.execute_cached(
                "UPDATE alert SET resolved_ms = ?2, closed_by = ?3, resolution = ?4 WHERE id = ?1",
                (id, now.unix_ms(), &by, &reason),
            )?;
            Ok(one(c, id)?.map_or(Closing::Unknown, Closing::Closed))
        })
        .await
    }

    /// The kinds of the alerts that come from a run, resolved ones included.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn alerts_of(&self, run: RunId) -> Result<Vec<String>, StoreError> {
        self.read(move |c| {
            let mut s = c.prepare_cached("SELECT kind FROM alert WHERE run_id = ?1 ORDER BY id")?;
            let rows = s.query_map([run.0], |r| r.get(0))?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// How many alerts are open: by kind and severity.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open_alerts(&self) -> Result<Vec<(AlertKind, Severity, u32)>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(
                "SELECT kind, severity, count(*) FROM alert WHERE resolved_ms IS NULL
                 GROUP BY kind, severity ORDER BY kind, severity",
            )?;
            let rows = s.query_map([], |r| {
                Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get(2)?))
            })?;
            rows.map(|row| {
                let (kind, severity, count) = row?;
                let known = AlertKind::parse(&kind).zip(Severity::parse(&severity));
                let unknown = || StoreError::Refused(format!("unknown alert {kind} {severity}"));
                known.map(|(k, s)| (k, s, count)).ok_or_else(unknown)
            })
            .collect()
        })
        .await
    }

    /// Deletes alerts that were resolved before a time, events of before then that nothing has
    /// followed, and the oldest resolved ones beyond `most` in all. Conditions that last are kept, those
    /// that were closed too: they would be raised anew.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn forget_alerts(&self, before: WallTime, most: u32) -> Result<usize, StoreError> {
        let mut forgotten = 0;
        loop {
            let n = self
                .write(move |c| {
                    let old = c.execute_cached(
                        "DELETE FROM alert WHERE id IN (SELECT id FROM alert
                           WHERE (resolved_ms < ?1 AND (closed_by IS NULL OR run_id IS NOT NULL
                               OR ended_ms IS NOT NULL))
                             OR (run_id IS NOT NULL AND raised_ms < ?1 AND resolved_ms IS NULL)
                           LIMIT ?2)",
                        (before.unix_ms(), FORGOTTEN_AT_ONCE),
                    )?;
                    let beyond = c.execute_cached(
                        "DELETE FROM alert WHERE id IN (SELECT id FROM alert
                           WHERE resolved_ms IS NOT NULL AND (closed_by IS NULL
                             OR run_id IS NOT NULL OR ended_ms IS NOT NULL) ORDER BY id
                           LIMIT min(?2, max(0, (SELECT count(*) FROM alert) - ?1)))",
                        (most, FORGOTTEN_AT_ONCE),
                    )?;
                    Ok(old + beyond)
                })
                .await?;
            forgotten += n;
            if n == 0 {
                return Ok(forgotten);
            }
        }
    }
}

fn one(c: &Connection, id: i64) -> Result<Option<AlertRow>, StoreError> {
    let found = c.query_row_cached(&format!("{ALERTS} WHERE a.id = ?1"), [id], row);
    found.optional().map_err(Into::into)
}

/// A cause: a kind, and what it is about.
fn cause(kind: AlertKind, item: Option<ItemId>, scope: &str) -> String {
    let kind = kind.as_str();
    match item {
        Some(ItemId(item)) => format!("{kind}/item {item}/{scope}"),
        None => format!("{kind}//{scope}"),
    }
}

/// An event as a row.
struct Event {
    kind: AlertKind,
    cause: String,
    item: Option<ItemId>,
    run: RunId,
    point: String,
    region: String,
    words: Words,
}

/// Raises an event. One that is open of the same cause gives way to it; the same one again is left.
fn raise(c: &Connection, event: &Event, now: WallTime) -> Result<(), StoreError> {
    let known = c
        .prepare_cached("SELECT 1 FROM alert WHERE run_id = ?1 AND cause = ?2")?
        .exists((event.run.0, &event.cause))?;
    if known {
        return Ok(());
    }
    let before: Option<(i64, u32)> = c
        .query_row_cached(
            "SELECT since_ms, times FROM alert WHERE cause = ?1 AND resolved_ms IS NULL",
            [&event.cause],
            |r| Ok((r.get(0)?, r.get(1)?)),
        )
        .optional()?;
    resolve(c, &event.cause, &format!("job {} has ended in the same way", event.run), now)?;
    let (since, times) = before.unwrap_or((now.unix_ms(), 0));
    c.execute_cached(
        "INSERT INTO alert (kind, cause, severity, item_id, run_id, point_name, region, what, next,
           raised_ms, since_ms, times) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        (
            event.kind.as_str(),
            &event.cause,
            event.kind.severity().as_str(),
            event.item.map(|i| i.0),
            event.run.0,
            &event.point,
            &event.region,
            &event.words.what,
            &event.words.next,
            now.unix_ms(),
            since,
            times.saturating_add(1),
        ),
    )?;
    Ok(())
}

/// Resolves the open alert of a cause, if there is one.
fn resolve(c: &Connection, cause: &str, by: &str, now: WallTime) -> Result<(), StoreError> {
    c.execute_cached(
        "UPDATE alert SET resolved_ms = ?2, resolution = ?3
         WHERE cause = ?1 AND resolved_ms IS NULL",
        (cause, now.unix_ms(), by),
    )?;
    Ok(())
}

fn row(r: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let vm = r.get::<_, Option<String>>(3)?;
    Ok(AlertRow {
        id: r.get(0)?,
        kind: r.get(1)?,
        severity: r.get(2)?,
        vm: vm.map(|id| parse_arm_id(&id, 3)).transpose()?,
        run: r.get::<_, Option<i64>>(4)?.map(RunId),
        point: r.get(5)?,
        region: r.get(6)?,
        what: r.get(7)?,
        next: r.get(8)?,
        raised: WallTime::from_unix_ms(r.get(9)?),
        since: WallTime::from_unix_ms(r.get(10)?),
        times: r.get(11)?,
        resolved: r.get::<_, Option<i64>>(12)?.map(WallTime::from_unix_ms),
        resolution: r.get(13)?,
        closed_by: r.get(14)?,
        lasts: r.get(15)?,
    })
}

#[cfg(test)]
mod tests;
