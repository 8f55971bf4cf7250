//! Agents' certificates, enrolment tokens, and restored instances that are expected.

use std::collections::BTreeMap;

use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension};

use super::cached::Cached;
use super::{ItemId, RunId, Store, StoreError};

/// What a certificate is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CertificateScope {
    /// A VM's own identity.
    Vm,
    /// One run with a restored instance.
    Run(RunId),
}

/// An agent's certificate as issued.
#[derive(Clone, Debug)]
pub struct AgentCertificate {
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Whose.
    pub item: ItemId,
    /// What it is good for.
    pub scope: CertificateScope,
    /// End of its validity.
    pub not_after: WallTime,
    /// A newer one has been issued to the same VM.
    pub superseded: bool,
    /// Not to be accepted anywhere.
    pub revoked: bool,
}

/// A restored instance that a run waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExpectedInstance {
    /// Whose agent it carries.
    pub item: ItemId,
    /// The run that made it.
    pub run: RunId,
    /// Its certificate becomes the VM's own.
    pub durable: bool,
    /// The VM that it becomes, if a new one.
    pub own_item: Option<ItemId>,
}

impl Store {
    /// Stores a one-time token's hash.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn add_token(
        &self,
        hash: String,
        item: ItemId,
        by: String,
        now: WallTime,
        expires: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute_cached(
                "INSERT INTO enrolment_token VALUES (?1, ?2, ?3, ?4, ?5, NULL)",
                (hash, item.0, by, now.unix_ms(), expires.unix_ms()),
            )?;
            Ok(())
        })
        .await
    }

    /// The item a token is for, while it is unused and unexpired; does not consume it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn token_item(
        &self,
        hash: &str,
        now: WallTime,
    ) -> Result<Result<ItemId, &'static str>, StoreError> {
        let hash = hash.to_owned();
        self.read(move |c| {
            let row = c
                .query_row_cached(
                    "SELECT item_id, expires_ms, used_ms FROM enrolment_token WHERE hash = ?1",
                    [hash],
                    |r| Ok((r.get(0)?, r.get::<_, i64>(1)?, r.get::<_, Option<i64>>(2)?)),
                )
                .optional()?;
            Ok(match row {
                None => Err("unknown"),
                Some((_, _, Some(_))) => Err("used already"),
                Some((_, expires, None)) if expires <= now.unix_ms() => Err("expired"),
                Some((item, _, None)) => Ok(ItemId(item)),
            })
        })
        .await
    }

    /// Consumes a token and records the certificate issued for it, in one transaction.
    ///
    /// # Errors
    /// `Refused` when the token was used or expired meanwhile; then nothing is recorded.
    pub async fn consume_token(
        &self,
        hash: String,
        vm_guid: String,
        serial: String,
        not_after: WallTime,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let item = c
                .query_row_cached(
                    "UPDATE enrolment_token SET used_ms = ?2
                     WHERE hash = ?1 AND used_ms IS NULL AND expires_ms > ?2 RETURNING item_id",
                    (hash, now.unix_ms()),
                    |r| r.get(0).map(ItemId),
                )
                .optional()?
                .ok_or_else(|| StoreError::Refused("the token is used or expired".into()))?;
            c.execute_cached("UPDATE item SET vm_guid = ?2 WHERE id = ?1", (item.0, vm_guid))?;
            insert_certificate(c, &serial, item, CertificateScope::Vm, not_after, now)
        })
        .await
    }

    /// Records a renewed or run-scoped certificate, asked for with the certificate `shown`. Earlier
    /// ones are superseded when this one is first used, not now: the answer may be lost.
    ///
    /// # Errors
    /// `Refused` when the certificate shown has been revoked meanwhile.
    pub async fn add_certificate(
        &self,
        serial: String,
        item: ItemId,
        scope: CertificateScope,
        not_after: WallTime,
        shown: Option<String>,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            if let Some(shown) = shown {
                let good = c.query_row_cached(
                    "SELECT count(*) FROM agent_certificate
                     WHERE serial = ?1 AND revoked_ms IS NULL",
                    [shown],
                    |r| r.get::<_, i64>(0),
                )?;
                if good == 0 {
                    return Err(StoreError::Refused("this certificate is revoked".into()));
                }
            }
            insert_certificate(c, &serial, item, scope, not_after, now)
        })
        .await
    }

    /// A certificate that this controller issued.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn certificate(&self, serial: &str) -> Result<Option<AgentCertificate>, StoreError> {
        let serial = serial.to_owned();
        self.read(move |c| {
            let row = c
                .query_row_cached(
                    "SELECT item_id, scope, run_id, not_after_ms, superseded_ms IS NOT NULL,
                       revoked_ms IS NOT NULL FROM agent_certificate WHERE serial = ?1",
                    [&serial],
                    |r| {
                        let run: Option<i64> = r.get(2)?;
                        Ok(AgentCertificate {
                            serial: serial.clone(),
                            item: ItemId(r.get(0)?),
                            scope: run
                                .map_or(CertificateScope::Vm, |r| CertificateScope::Run(RunId(r))),
                            not_after: WallTime::from_unix_ms(r.get(3)?),
                            superseded: r.get(4)?,
                            revoked: r.get(5)?,
                        })
                    },
                )
                .optional()?;
            Ok(row)
        })
        .await
    }

    /// Takes in a certificate that was issued before the catalogue was rebuilt, when it is first shown;
    /// `None` when there is no reason to believe that. It is superseded at once when a newer one of
    /// the VM is known.
    ///
    /// # Errors
    /// When the database cannot be read or written.
    pub async fn take_in_certificate(
        &self,
        item: ItemId,
        serial: String,
        issued: WallTime,
        not_after: WallTime,
        now: WallTime,
    ) -> Result<Option<AgentCertificate>, StoreError> {
        let taken = serial.clone();
        self.write(move |c| {
            let before: Option<i64> = c
                .query_row_cached(
                    "SELECT before_ms FROM unrecorded_certificates WHERE item_id = ?1",
                    [item.0],
                    |r| r.get(0),
                )
                .optional()?;
            if before.is_none_or(|before| issued.unix_ms() > before) {
                return Ok(());
            }
            c.execute_cached(
                "INSERT INTO agent_certificate
                 SELECT ?1, ?2, 'vm', NULL, ?3, ?4, CASE WHEN EXISTS (
                   SELECT 1 FROM agent_certificate
                   WHERE item_id = ?2 AND scope = 'vm' AND issued_ms > ?3) THEN ?5 END, NULL
                 ON CONFLICT (serial) DO NOTHING",
                (taken, item.0, issued.unix_ms(), not_after.unix_ms(), now.unix_ms()),
            )?;
            Ok(())
        })
        .await?;
        self.certificate(&serial).await
    }

    /// Whether the VM's agent may come back with a certificate from before the rebuild, and a recovery
    /// point shows that it had one.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn may_have_agent(&self, item: ItemId) -> Result<bool, StoreError> {
        self.read(move |c| {
            Ok(c.query_row_cached(
                "SELECT EXISTS (SELECT 1 FROM unrecorded_certificates WHERE item_id = ?1)
                   AND EXISTS (SELECT 1 FROM point WHERE item_id = ?1 AND nonce <> '')",
                [item.0],
                |r| r.get(0),
            )?)
        })
        .await
    }

    /// The end of validity of a VM's newest own certificate.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn newest_certificate(
        &self,
        item: ItemId,
    ) -> Result<Option<AgentCertificate>, StoreError> {
        let serial = self
            .read(move |c| {
                Ok(c.query_row_cached(
                    "SELECT serial FROM agent_certificate WHERE item_id = ?1 AND scope = 'vm'
                     ORDER BY issued_ms DESC, rowid DESC LIMIT 1",
                    [item.0],
                    |r| r.get::<_, String>(0),
                )
                .optional()?)
            })
            .await?;
        match serial {
            Some(serial) => self.certificate(&serial).await,
            None => Ok(None),
        }
    }

    /// Of each VM that has a certificate of its own the newest: when it ends, and whether it is revoked.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn newest_certificates(
        &self,
    ) -> Result<BTreeMap<ItemId, (WallTime, bool)>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(
                "SELECT item_id, not_after_ms, revoked_ms IS NOT NULL FROM agent_certificate
                 WHERE scope = 'vm' ORDER BY item_id, issued_ms, rowid",
            )?;
            let rows = s.query_map([], |r| {
                Ok((ItemId(r.get(0)?), (WallTime::from_unix_ms(r.get(1)?), r.get(2)?)))
            })?;
            // The last one of an item stays.
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// Revokes all of a VM's certificates; answers how many were not revoked before.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn revoke_certificates(
        &self,
        item: ItemId,
        now: WallTime,
    ) -> Result<u32, StoreError> {
        self.write(move |c| {
            // A token that was minted before must not let the revoked one back in.
            c.execute_cached(
                "UPDATE enrolment_token SET expires_ms = ?2 WHERE item_id = ?1
                   AND used_ms IS NULL AND expires_ms > ?2",
                (item.0, now.unix_ms()),
            )?;
            // Nor one from before a rebuild, which nobody has recorded.
            c.execute_cached("DELETE FROM unrecorded_certificates WHERE item_id = ?1", [item.0])?;
            Ok(c.execute_cached(
                "UPDATE agent_certificate SET revoked_ms = ?2
                 WHERE item_id = ?1 AND revoked_ms IS NULL",
                (item.0, now.unix_ms()),
            )? as u32)
        })
        .await
    }

    /// Remembers the hello of a protected VM's agent; the certificate that it shows supersedes the
    /// VM's earlier ones from now on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn agent_hello(
        &self,
        item: ItemId,
        serial: String,
        version: String,
        boot_id: String,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            c.execute_cached(
                "UPDATE agent_certificate SET superseded_ms = ?3
                 WHERE item_id = ?1 AND scope = 'vm' AND superseded_ms IS NULL AND serial <> ?2
                   AND rowid < (SELECT rowid FROM agent_certificate WHERE serial = ?2)",
                (item.0, serial, now.unix_ms()),
            )?;
            c.execute_cached(
                "INSERT OR REPLACE INTO agent VALUES (?1, ?2, ?3, ?4)",
                (item.0, version, boot_id, now.unix_ms()),
            )?;
            Ok(())
        })
        .await
    }

    /// Version, boot id and time of every agent's last hello.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn agents(&self) -> Result<Vec<(ItemId, String, String, WallTime)>, StoreError> {
        self.read(|c| {
            let mut s =
                c.prepare_cached("SELECT item_id, version, boot_id, last_hello_ms FROM agent")?;
            let rows = s.query_map([], |r| {
                Ok((ItemId(r.get(0)?), r.get(1)?, r.get(2)?, WallTime::from_unix_ms(r.get(3)?)))
            })?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// The run that waits for a restored instance with this vmId.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn expected_instance(
        &self,
        vm_guid: &str,
    ) -> Result<Option<ExpectedInstance>, StoreError> {
        let vm_guid = vm_guid.to_owned();
        self.read(move |c| {
            Ok(c.query_row_cached(
                "SELECT item_id, run_id, durable, own_item_id FROM expected_instance
                 WHERE vm_guid = ?1",
                [vm_guid],
                |r| {
                    Ok(ExpectedInstance {
                        item: ItemId(r.get(0)?),
                        run: RunId(r.get(1)?),
                        durable: r.get(2)?,
                        own_item: r.get::<_, Option<i64>>(3)?.map(ItemId),
                    })
                },
            )
            .optional()?)
        })
        .await
    }
}

fn insert_certificate(
    c: &Connection,
    serial: &str,
    item: ItemId,
    scope: CertificateScope,
    not_after: WallTime,
    now: WallTime,
) -> Result<(), StoreError> {
    let (scope, run) = match scope {
        CertificateScope::Vm => ("vm", None),
        CertificateScope::Run(run) => ("run", Some(run.0)),
    };
    c.execute_cached(
        "INSERT INTO agent_certificate VALUES (?1, ?2, ?3, ?4, ?5, ?6, NULL, NULL)",
        (serial, item.0, scope, run, now.unix_ms(), not_after.unix_ms()),
    )?;
    Ok(())
}
