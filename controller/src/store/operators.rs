//! Operators: who may call, as what, with which certificate. Private keys never come here.

use azdr_env::WallTime;
use rusqlite::{Connection, OptionalExtension, Row};

use super::cached::Cached;
use super::{Store, StoreError};

/// Who may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorRow {
    /// Name in the certificate.
    pub name: String,
    /// `viewer`, `operator` or `admin`.
    pub role: String,
    /// The certificate that is theirs now.
    pub certificate_serial: String,
    /// When that ends; not known before it was first shown, where `init` has made it.
    pub expires: Option<WallTime>,
    /// A renewed certificate that was not shown yet.
    pub pending_serial: Option<String>,
    /// When and by whom they were let in; by nobody: by `init` or `rebuild`.
    pub added: (WallTime, Option<String>),
    /// When and by whom they were shut out.
    pub revoked: Option<(WallTime, String)>,
}

/// A certificate that was issued to an operator.
#[derive(Clone, Debug)]
pub struct OperatorCertificateRow {
    /// Lower-case hexadecimal.
    pub serial: String,
    /// Until when it is valid.
    pub not_after: WallTime,
}

const SELECT: &str = "SELECT o.name, o.role, o.certificate_serial,
    (SELECT not_after_ms FROM operator_certificate c WHERE c.serial = o.certificate_serial),
    (SELECT serial FROM operator_certificate c WHERE c.operator = o.name AND c.pending),
    o.created_ms,
    (SELECT by_operator FROM operator_event e WHERE e.operator = o.name
       AND e.event IN ('added', 'replaced') ORDER BY id DESC LIMIT 1),
    o.revoked_ms,
    (SELECT by_operator FROM operator_event e WHERE e.operator = o.name AND e.event = 'revoked'
       ORDER BY id DESC LIMIT 1)
  FROM operator o ";

impl Store {
    /// An operator by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn operator(&self, name: &str) -> Result<Option<OperatorRow>, StoreError> {
        let name = name.to_owned();
        self.read(move |c| read(c, &name)).await
    }

    /// All operators, revoked ones included, by name.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn operators(&self) -> Result<Vec<OperatorRow>, StoreError> {
        self.read(|c| {
            let mut s = c.prepare_cached(&format!("{SELECT} ORDER BY o.name"))?;
            let rows = s.query_map([], row)?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
    }

    /// Lets an operator in: a new one, one who was revoked, or with `replace` one who is there already,
    /// whose old certificate ends with this.
    ///
    /// # Errors
    /// `Refused` when there is one of this name and `replace` is not set, when another one's name differs
    /// in case only, or when nobody would be admin any more.
    pub async fn add_operator(
        &self,
        name: String,
        role: &'static str,
        certificate: OperatorCertificateRow,
        replace: bool,
        by: String,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            let alike: Option<String> = c
                .query_row_cached(
                    "SELECT name FROM operator WHERE name = ?1 COLLATE NOCASE AND name <> ?1",
                    [&name],
                    |r| r.get(0),
                )
                .optional()?;
            if let Some(alike) = alike {
                let why =
                    format!("there is an operator {alike}: names must differ in more than case");
                return Err(StoreError::Refused(why));
            }
            let there = read(c, &name)?.filter(|o| o.revoked.is_none());
            if there.is_some() && !replace {
                return Err(StoreError::Refused(format!("there is an operator {name} already")));
            }
            if there.is_some_and(|o| o.role == "admin") && role != "admin" {
                refuse_last_admin(c, &name, now)?;
            }
            let event = if replace { "replaced" } else { "added" };
            c.execute_cached(
                "INSERT INTO operator VALUES (?1, ?2, ?3, ?4, NULL)
                 ON CONFLICT (name) DO UPDATE SET role = excluded.role, revoked_ms = NULL,
                   certificate_serial = excluded.certificate_serial,
                   created_ms = excluded.created_ms",
                (&name, role, &certificate.serial, now.unix_ms()),
            )?;
            c.execute_cached("DELETE FROM operator_certificate WHERE operator = ?1", [&name])?;
            insert_certificate(c, &name, &certificate, false, now)?;
            note(c, &name, event, &by, now)
        })
        .await
    }

    /// Shuts an operator out; answers whether they were in.
    ///
    /// # Errors
    /// `Missing` when there is none of this name, `Refused` when nobody else is admin.
    pub async fn revoke_operator(
        &self,
        name: String,
        by: String,
        now: WallTime,
    ) -> Result<bool, StoreError> {
        self.write(move |c| {
            let row =
                read(c, &name)?.ok_or_else(|| StoreError::Missing(format!("operator {name}")))?;
            if row.revoked.is_some() {
                return Ok(false);
            }
            if row.role == "admin" {
                refuse_last_admin(c, &name, now)?;
            }
            c.execute_cached(
                "UPDATE operator SET revoked_ms = ?2 WHERE name = ?1",
                (&name, now.unix_ms()),
            )?;
            c.execute_cached(
                "DELETE FROM operator_certificate WHERE operator = ?1 AND pending",
                [&name],
            )?;
            note(c, &name, "revoked", &by, now)?;
            Ok(true)
        })
        .await
    }

    /// Takes down a renewed certificate: the present one stays valid until this one is first shown.
    ///
    /// # Errors
    /// `Refused` when the operator was revoked meanwhile.
    pub async fn renew_operator(
        &self,
        name: String,
        certificate: OperatorCertificateRow,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            if read(c, &name)?.is_none_or(|o| o.revoked.is_some()) {
                return Err(StoreError::Refused(format!("operator {name} is revoked")));
            }
            c.execute_cached(
                "DELETE FROM operator_certificate WHERE operator = ?1 AND pending",
                [&name],
            )?;
            insert_certificate(c, &name, &certificate, true, now)?;
            note(c, &name, "renewed", &name, now)
        })
        .await
    }

    /// An operator has shown this certificate, which is theirs: from now on it is the only one.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub async fn operator_showed(
        &self,
        name: String,
        certificate: OperatorCertificateRow,
        now: WallTime,
    ) -> Result<(), StoreError> {
        self.write(move |c| {
            // Between the caller's look and this, they may have been revoked or replaced.
            let theirs = read(c, &name)?.is_some_and(|o| {
                o.revoked.is_none()
                    && (o.certificate_serial == certificate.serial
                        || o.pending_serial.as_ref() == Some(&certificate.serial))
            });
            if !theirs {
                return Ok(());
            }
            c.execute_cached(
                "UPDATE operator SET certificate_serial = ?2 WHERE name = ?1",
                (&name, &certificate.serial),
            )?;
            c.execute_cached(
                "DELETE FROM operator_certificate WHERE operator = ?1 AND (NOT pending OR serial = ?2)",
                (&name, &certificate.serial),
            )?;
            insert_certificate(c, &name, &certificate, false, now)
        })
        .await
    }
}

fn insert_certificate(
    c: &Connection,
    name: &str,
    certificate: &OperatorCertificateRow,
    pending: bool,
    now: WallTime,
) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT INTO operator_certificate VALUES (?1, ?2, ?3, ?4, ?5)",
        (&certificate.serial, name, now.unix_ms(), certificate.not_after.unix_ms(), pending),
    )?;
    Ok(())
}

fn note(
    c: &Connection,
    name: &str,
    event: &str,
    by: &str,
    now: WallTime,
) -> Result<(), StoreError> {
    c.execute_cached(
        "INSERT INTO operator_event (at_ms, operator, event, role, by_operator)
         SELECT ?1, name, ?2, role, ?3 FROM operator WHERE name = ?4",
        (now.unix_ms(), event, by, name),
    )?;
    Ok(())
}

/// Somebody must be able to let others in. An admin whose certificate has ended is none.
fn refuse_last_admin(c: &Connection, name: &str, now: WallTime) -> Result<(), StoreError> {
    let mut s = c.prepare_cached(&format!(
        "{SELECT} WHERE o.role = 'admin' AND o.revoked_ms IS NULL AND o.name <> ?1"
    ))?;
    let others: Vec<OperatorRow> = s.query_map([name], row)?.collect::<Result<_, _>>()?;
    if others.iter().any(|o| o.expires.is_none_or(|at| at > now)) {
        return Ok(());
    }
    Err(StoreError::Refused(format!(
        "{name} is the last admin whose certificate is valid: add another one first"
    )))
}

fn read(c: &Connection, name: &str) -> Result<Option<OperatorRow>, StoreError> {
    Ok(c.query_row_cached(&format!("{SELECT} WHERE o.name = ?1"), [name], row).optional()?)
}

fn row(r: &Row<'_>) -> rusqlite::Result<OperatorRow> {
    let time = |column| r.get::<_, Option<i64>>(column).map(|ms| ms.map(WallTime::from_unix_ms));
    Ok(OperatorRow {
        name: r.get(0)?,
        role: r.get(1)?,
        certificate_serial: r.get(2)?,
        expires: time(3)?,
        pending_serial: r.get(4)?,
        added: (WallTime::from_unix_ms(r.get(5)?), r.get(6)?),
        revoked: match time(7)? {
            Some(at) => Some((at, r.get::<_, Option<String>>(8)?.unwrap_or_default())),
            None => None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Executor;

    fn at(ms: i64) -> WallTime {
        WallTime::from_unix_ms(ms)
    }

    fn certificate(serial: &str) -> OperatorCertificateRow {
        OperatorCertificateRow { serial: serial.into(), not_after: at(1000) }
    }

    async fn store(dir: &tempfile::TempDir) -> Store {
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        add(&store, "alice", "admin", "a1", false).await.unwrap();
        store
    }

    async fn add(
        store: &Store,
        name: &str,
        role: &'static str,
        serial: &str,
        replace: bool,
    ) -> Result<(), StoreError> {
        let (name, by) = (name.to_owned(), "alice".to_owned());
        store.add_operator(name, role, certificate(serial), replace, by, at(1)).await
    }

    async fn revoke(store: &Store, name: &str, now: i64) -> Result<bool, StoreError> {
        store.revoke_operator(name.to_owned(), "alice".to_owned(), at(now)).await
    }

    #[tokio::test]
    async fn somebody_always_remains_who_is_admin_and_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        add(&store, "bob", "operator", "b1", false).await.unwrap();
        assert!(matches!(revoke(&store, "alice", 2).await, Err(StoreError::Refused(_))));
        assert!(matches!(
            add(&store, "alice", "viewer", "a2", true).await,
            Err(StoreError::Refused(_))
        ));
        add(&store, "bob", "admin", "b2", true).await.unwrap();
        // Bob's certificate has ended by then.
        assert!(matches!(revoke(&store, "alice", 1000).await, Err(StoreError::Refused(_))));
        assert!(revoke(&store, "alice", 999).await.unwrap());
        assert!(!revoke(&store, "alice", 999).await.unwrap());
        assert!(matches!(revoke(&store, "bob", 2).await, Err(StoreError::Refused(_))));
        assert!(matches!(revoke(&store, "eve", 2).await, Err(StoreError::Missing(_))));
    }

    #[tokio::test]
    async fn a_name_is_given_once_and_again_after_it_was_revoked() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        add(&store, "bob", "viewer", "b1", false).await.unwrap();
        for name in ["bob", "BOB"] {
            let again = add(&store, name, "viewer", "b2", false).await;
            assert!(matches!(again, Err(StoreError::Refused(_))), "{name}");
        }
        revoke(&store, "bob", 5).await.unwrap();
        let bob = store.operator("bob").await.unwrap().unwrap();
        assert_eq!(bob.revoked, Some((at(5), "alice".to_owned())));
        add(&store, "bob", "operator", "b3", false).await.unwrap();
        let bob = store.operator("bob").await.unwrap().unwrap();
        assert_eq!((bob.role.as_str(), bob.certificate_serial.as_str()), ("operator", "b3"));
        assert_eq!((bob.revoked, bob.expires), (None, Some(at(1000))));
    }

    #[tokio::test]
    async fn a_renewed_certificate_ends_the_old_one_when_it_is_first_shown() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(&dir).await;
        let alice = || async { store.operator("alice").await.unwrap().unwrap() };
        let name = || "alice".to_owned();
        // Interrupted once: nobody has this one.
        store.renew_operator(name(), certificate("lost"), at(2)).await.unwrap();
        store.renew_operator(name(), certificate("a2"), at(3)).await.unwrap();
        assert_eq!(alice().await.pending_serial.as_deref(), Some("a2"));
        store.operator_showed(name(), certificate("a1"), at(4)).await.unwrap();
        assert_eq!(
            alice().await.pending_serial.as_deref(),
            Some("a2"),
            "the old one is still good"
        );
        store.operator_showed(name(), certificate("lost"), at(4)).await.unwrap();
        assert_eq!(alice().await.certificate_serial, "a1");
        store.operator_showed(name(), certificate("a2"), at(5)).await.unwrap();
        let now = alice().await;
        assert_eq!((now.certificate_serial.as_str(), now.pending_serial), ("a2", None));
        revoke(&store, "alice", 6).await.unwrap_err();
    }
}
