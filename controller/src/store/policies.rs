//! Policies: a VM's own, the named ones, and which VM has its policy from which.
//!
//! [`Store::follow_selectors`] decides and writes in one transaction, so that a person's choice of the
//! same moment is never written over.

use std::collections::BTreeMap;

use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::{Policy, PolicyError};
use azdr_domain::policy_tag::Drift;
use azdr_domain::region::Region;
use azdr_domain::selection::{Decision, NamedPolicy, PolicyName, Present, decide};
use azdr_env::WallTime;
use rusqlite::{Connection, Row};
use serde::{Deserialize, Serialize};

use super::cached::Cached;
use super::error::to_json;
use super::items::{ensure_vm, item_by_key};
use super::{Item, ItemId, Store, StoreError, alerts};

/// Why a tag is not written, until Azure has been asked for the first time.
pub const NOT_WRITTEN_YET: &str = "not written yet";

/// Why the tag of a VM is not written that Azure has no more.
const VM_GONE: &str = "the VM is not in Azure any more";

/// A VM's policy as stored.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    /// What it says.
    pub policy: Policy,
    /// When backups were last switched on: earlier due times are not caught up.
    pub enabled_since: WallTime,
    /// Why the VM's tag could not be written, if it could not.
    pub tag_problem: Option<String>,
    /// Since when Azure has the VM no more, as far as is known: its tag is not written then.
    pub gone: Option<WallTime>,
    /// When the tag was last written; 1970 for never.
    pub tag_written: WallTime,
    /// What the tag shows instead of the policy, as last seen.
    pub tag_drift: Option<TagDrift>,
    /// The named policy that it came from; `None`: a person has set it for this VM.
    pub origin: Option<PolicyName>,
    /// Why that one is not followed any more.
    pub origin_problem: Option<String>,
}

impl PolicyRow {
    /// As the rules of selection see it.
    pub fn present(row: Option<&Self>) -> Present<'_> {
        match row {
            None => Present::Nothing,
            Some(row) => match &row.origin {
                None => Present::ByHand,
                Some(by) => Present::Selected { by, policy: &row.policy },
            },
        }
    }
}

/// What a tag shows instead of the policy, and since when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagDrift {
    /// What.
    pub drift: Drift,
    /// Since when it has been seen.
    pub since: WallTime,
}

/// A VM as a listing of Azure shows it.
#[derive(Clone, Debug)]
pub struct VmSeen {
    /// Its resource ID.
    pub id: ArmId,
    /// Its region.
    pub region: Region,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

impl Store {
    /// A VM's policy.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policy(&self, id: ItemId) -> Result<Option<PolicyRow>, StoreError> {
        self.read(move |c| read_policy(c, id)).await
    }

    /// Stores a VM's policy as a person has set it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_policy(
        &self,
        id: ItemId,
        policy: Policy,
        by: String,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| write_policy(c, id, &policy, None, &by, now)).await
    }

    /// Stores what a person makes of a VM's policy, and answers what it was. `change` is given the policy as
    /// it is in this transaction: of two who change it at once neither takes back what the other did.
    ///
    /// # Errors
    /// When the database cannot be written; inside, what `change` refuses: then nothing is changed.
    pub async fn change_policy(
        &self,
        id: ItemId,
        by: String,
        now: WallTime,
        change: impl FnOnce(Option<&Policy>) -> Result<Policy, PolicyError> + Send + 'static,
    ) -> Result<Result<Option<Policy>, PolicyError>, StoreError> {
        self.write(move |c| {
            let before = read_policy(c, id)?.map(|row| row.policy);
            match change(before.as_ref()) {
                Ok(policy) => write_policy(c, id, &policy, None, &by, now).map(|()| Ok(before)),
                Err(refused) => Ok(Err(refused)),
            }
        })
        .await
    }

    /// Records whether the VM's tag could be written; `None`: it was, now.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_tag_problem(
        &self,
        id: ItemId,
        problem: Option<String>,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute_cached(
                "UPDATE policy SET tag_problem = ?2,
                   tag_drift_json = CASE WHEN ?2 IS NULL THEN NULL ELSE tag_drift_json END,
                   tag_written_ms = CASE WHEN ?2 IS NULL THEN ?3 ELSE tag_written_ms END
                 WHERE item_id = ?1",
                (id.0, &problem, now.unix_ms()),
            )?;
            // What could be written to is there.
            match problem {
                None => set_back(c, id, None, now),
                Some(_) => Ok(()),
            }
        })
        .await
    }

    /// Records that Azure has the VM no more; the first sight counts. Its tag is left alone from then on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_vm_gone(&self, id: ItemId, now: WallTime) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute_cached(
                "UPDATE policy SET gone_ms = coalesce(gone_ms, ?2), tag_problem = ?3
                 WHERE item_id = ?1",
                (id.0, now.unix_ms(), VM_GONE),
            )?;
            alerts::settle(c, id, now)
        })
        .await
    }

    /// Records that Azure has the VM again: its tag is to be written anew.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_vm_back(&self, id: ItemId, now: WallTime) -> Result<(), StoreError> {
        self.write(move |c| set_back(c, id, Some(NOT_WRITTEN_YET), now)).await
    }

    /// Records what the VM's tag was seen to show instead of its policy; the first sight counts.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_tag_drift(
        &self,
        id: ItemId,
        drift: Option<Drift>,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let Some(row) = read_policy(c, id)? else { return Ok(()) };
            if row.tag_drift.as_ref().map(|d| &d.drift) == drift.as_ref() {
                return Ok(());
            }
            let drift = drift.map(|drift| to_json(&TagDrift { drift, since: now }));
            c.execute_cached(
                "UPDATE policy SET tag_drift_json = ?2 WHERE item_id = ?1",
                (id.0, drift),
            )?;
            Ok(())
        })
        .await
    }

    /// All named policies, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn named_policies(&self) -> Result<Vec<NamedPolicy>, StoreError> {
        self.read(read_named).await
    }

    /// Stores named policies, and removes some: all or nothing. No VM's policy is changed by it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn set_named_policies(
        &self,
        set: Vec<NamedPolicy>,
        remove: Vec<PolicyName>,
        by: String,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            for p in &set {
                c.execute_cached(
                    "INSERT INTO named_policy VALUES (?1, ?2, ?3, ?4, ?5)
                     ON CONFLICT (name) DO UPDATE SET select_json = excluded.select_json,
                       policy_json = excluded.policy_json, updated_ms = excluded.updated_ms,
                       updated_by = excluded.updated_by
                     WHERE select_json <> excluded.select_json
                        OR policy_json <> excluded.policy_json",
                    (p.name.as_str(), to_json(&p.select), to_json(&p.policy), now.unix_ms(), &by),
                )?;
            }
            for name in &remove {
                c.execute_cached("DELETE FROM named_policy WHERE name = ?1", [name.as_str()])?;
            }
            Ok(())
        })
        .await
    }

    /// Gives these VMs the named policies that match them, and notes where a VM does not follow its
    /// own any more. Answers the items whose policy is another one now; their tags are not written yet.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn follow_selectors(
        &self,
        vms: Vec<VmSeen>,
        now: WallTime,
    ) -> Result<Vec<ItemId>, StoreError> {
        self.write(move |c| {
            let policies = read_named(c)?;
            let mut changed = vec![];
            for vm in &vms {
                changed.extend(follow(c, &policies, vm, false, now)?);
            }
            Ok(changed)
        })
        .await
    }

    /// Ends the policy that a person has set for a VM in favour of the named one that matches it.
    ///
    /// # Errors
    /// `Refused` with the reason where not exactly one matches and fits; nothing is changed then.
    pub async fn hand_over(&self, vm: VmSeen, now: WallTime) -> Result<ItemId, StoreError> {
        self.write(move |c| {
            let policies = read_named(c)?;
            if let Some(item) = follow(c, &policies, &vm, true, now)? {
                return Ok(item);
            }
            let decision = decide(&policies, &vm.id, &vm.tags, &vm.region, Present::Nothing);
            Err(StoreError::Refused(format!("{}: {decision}", vm.id.name())))
        })
        .await
    }

    /// All enabled policies with their items.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn enabled_policies(&self) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        let all = self.policies().await?;
        Ok(all.into_iter().filter(|(_, row)| row.policy.enabled).collect())
    }

    /// Policies, with their items, that could not be written to the VM's tag; not those of VMs that are
    /// gone.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policies_not_mirrored(&self) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        self.policies_where("tag_problem IS NOT NULL AND gone_ms IS NULL").await
    }

    /// All policies with their items.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn policies(&self) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        self.policies_where("TRUE").await
    }

    async fn policies_where(
        &self,
        condition: &'static str,
    ) -> Result<Vec<(Item, PolicyRow)>, StoreError> {
        self.read(move |c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT id, arm_id, location, vm_guid, {POLICY} FROM item
                 JOIN policy ON policy.item_id = item.id WHERE {condition} ORDER BY arm_key"
            ))?;
            let mut rows = statement.query([])?;
            let mut result = Vec::new();
            // A fleet has few policies, and reading one costs more than all the rest of its row.
            let mut known: BTreeMap<String, Policy> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let policy = policy_row(row, 4, |text| {
                    if let Some(policy) = known.get(text) {
                        return Ok(policy.clone());
                    }
                    let policy: Policy =
                        serde_json::from_str(text).map_err(StoreError::corrupt("policy"))?;
                    known.insert(text.to_owned(), policy.clone());
                    Ok(policy)
                })?;
                result.push((super::items::item(row)?, policy));
            }
            Ok(result)
        })
        .await
    }
}

/// Decides about one VM and writes it. `hand_over`: even where a person has set its policy.
fn follow(
    c: &Connection,
    policies: &[NamedPolicy],
    vm: &VmSeen,
    hand_over: bool,
    now: WallTime,
) -> Result<Option<ItemId>, StoreError> {
    let item = item_by_key(c, vm.id.key())?;
    let row = match &item {
        Some(item) => read_policy(c, item.id)?,
        None => None,
    };
    let present = match PolicyRow::present(row.as_ref()) {
        Present::ByHand if hand_over => Present::Nothing,
        present => present,
    };
    let decision = decide(policies, &vm.id, &vm.tags, &vm.region, present);
    if let Decision::Enrol(named) | Decision::Change(named) = &decision {
        let item = ensure_vm(c, &vm.id, vm.region.as_str(), None::<&str>, now)?;
        let by = format!("policy {}", named.name);
        write_policy(c, item.id, &named.policy, Some(&named.name), &by, now)?;
        return Ok(Some(item.id));
    }
    if let (Some(item), Some(row)) = (item, row)
        && row.origin.is_some()
        && !hand_over
    {
        let problem = match &decision {
            Decision::Same(_) => None,
            other => Some(other.to_string()),
        };
        if problem != row.origin_problem {
            c.execute_cached(
                "UPDATE policy SET origin_problem = ?2 WHERE item_id = ?1",
                (item.id.0, problem),
            )?;
        }
    }
    Ok(None)
}

fn set_back(
    c: &Connection,
    id: ItemId,
    tag_problem: Option<&str>,
    now: WallTime,
) -> Result<(), StoreError> {
    let was_gone = c.execute_cached(
        "UPDATE policy SET gone_ms = NULL, tag_problem = ?2
         WHERE item_id = ?1 AND gone_ms IS NOT NULL",
        (id.0, tag_problem),
    )?;
    if was_gone > 0 { alerts::settle(c, id, now) } else { Ok(()) }
}

fn write_policy(
    c: &Connection,
    id: ItemId,
    policy: &Policy,
    origin: Option<&PolicyName>,
    by: &str,
    now: WallTime,
) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT INTO policy (item_id, policy_json, enabled, enabled_since_ms, updated_ms, updated_by,
           origin, tag_problem) VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7)
         ON CONFLICT (item_id) DO UPDATE SET policy_json = excluded.policy_json,
           enabled_since_ms = CASE WHEN enabled THEN enabled_since_ms
             ELSE excluded.enabled_since_ms END,
           enabled = excluded.enabled, updated_ms = excluded.updated_ms,
           updated_by = excluded.updated_by, origin = excluded.origin, origin_problem = NULL,
           tag_problem = excluded.tag_problem",
        (
            id.0,
            to_json(policy),
            policy.enabled,
            now.unix_ms(),
            by,
            origin.map(PolicyName::as_str),
            NOT_WRITTEN_YET,
        ),
    )?;
    Ok(())
}

fn read_named(c: &Connection) -> Result<Vec<NamedPolicy>, StoreError> {
    let mut s =
        c.prepare_cached("SELECT name, select_json, policy_json FROM named_policy ORDER BY name")?;
    let rows = s.query_map([], |r| {
        Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?, r.get::<_, String>(2)?))
    })?;
    rows.map(|row| {
        let (name, select, policy) = row?;
        Ok(NamedPolicy {
            name: parse_name(name)?,
            select: serde_json::from_str(&select).map_err(StoreError::corrupt("selector"))?,
            policy: serde_json::from_str(&policy).map_err(StoreError::corrupt("policy"))?,
        })
    })
    .collect()
}

fn parse_name(name: String) -> Result<PolicyName, StoreError> {
    name.parse()
        .map_err(|_| StoreError::Refused(format!("stored policy name {name:?} is malformed")))
}

/// What [`policy_row`] reads.
const POLICY: &str =
    "policy_json, enabled_since_ms, tag_problem, tag_written_ms, tag_drift_json, origin,
    origin_problem, gone_ms";

pub(super) fn read_policy(c: &Connection, id: ItemId) -> Result<Option<PolicyRow>, StoreError> {
    let mut statement =
        c.prepare_cached(&format!("SELECT {POLICY} FROM policy WHERE item_id = ?1"))?;
    let mut rows = statement.query([id.0])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let parse = |text: &str| serde_json::from_str(text).map_err(StoreError::corrupt("policy"));
    policy_row(row, 0, parse).map(Some)
}

/// `from`: the first of its columns; `parse` reads what the policy says.
fn policy_row(
    r: &Row<'_>,
    from: usize,
    parse: impl FnOnce(&str) -> Result<Policy, StoreError>,
) -> Result<PolicyRow, StoreError> {
    let drift: Option<String> = r.get(from + 4)?;
    let origin: Option<String> = r.get(from + 5)?;
    Ok(PolicyRow {
        policy: parse(r.get_ref(from)?.as_str().map_err(rusqlite::Error::from)?)?,
        enabled_since: WallTime::from_unix_ms(r.get(from + 1)?),
        tag_problem: r.get(from + 2)?,
        tag_written: WallTime::from_unix_ms(r.get(from + 3)?),
        tag_drift: drift
            .map(|d| serde_json::from_str(&d).map_err(StoreError::corrupt("tag drift")))
            .transpose()?,
        origin: origin.map(parse_name).transpose()?,
        origin_problem: r.get(from + 6)?,
        gone: r.get::<_, Option<i64>>(from + 7)?.map(WallTime::from_unix_ms),
    })
}
