//! PostgreSQL under load, its tables on one disk and its log on the other, is backed up with the hook that
//! keeps it in backup mode, and without any hook; both are restored. It recovers each time by replaying its
//! log and says nothing else; no committed transfer is lost, none is half there; and what the backup is
//! called is what it was: `application`, and `filesystem`, which for a database is as after a crash.

use anyhow::{Context, Result, ensure};

use super::machine::{BOOT, DB, LIMIT, agent_is_ready, back_up, is_writable, text};
use super::{Case, Figures, Place, debian};
use crate::guest::Guest;
use crate::judge;
use crate::poll::{Look, until};

pub(super) const CASE: Case = Case {
    name: "postgresql",
    shows: "PostgreSQL under load is restored from a backup with its hook and from one without any",
    rounds: None,
    run,
};

const HOOK: &str = "/etc/azdr/hooks.d/10-postgresql";
/// A transfer between two accounts, which is written down in the same transaction.
const TRANSFER: &str = "\\set a random(1, 50)\n\\set b random(51, 100)\n\\set d random(1, 9)\n\
    BEGIN;\n\
    UPDATE account SET balance = balance - :d WHERE id = :a;\n\
    UPDATE account SET balance = balance + :d WHERE id = :b;\n\
    INSERT INTO transfer VALUES (:a, :b, :d);\n\
    COMMIT;\n";
/// Accounts that do not have what their transfers say.
const WRONG: &str = "SELECT count(*) FROM account WHERE balance <> 1000 \
    - coalesce((SELECT sum(d) FROM transfer WHERE a = id), 0) \
    + coalesce((SELECT sum(d) FROM transfer WHERE b = id), 0)";
const COUNT: &str = "SELECT count(*) FROM transfer";

fn run(place: &Place) -> Result<Figures> {
    let (lab, guest) = debian::db(place)?;
    prepare(&guest)?;
    let mut figures = Figures::new();
    for (name, level, words) in [
        ("with its hook", "application", "with its application hooks"),
        ("without any", "filesystem", "applications are as after a crash"),
    ] {
        match level {
            "application" => install_hook(&guest)?,
            _ => guest.run(&format!("rm {HOOK}")).map(drop)?,
        }
        start_load(&guest)?;
        let before = number(&guest, COUNT)?;
        let point = back_up(&lab)?;
        let after = number(&guest, COUNT)?;
        let said = text(&point, "consistency");
        let reason = text(&point, "consistency_reason");
        ensure!(said == level && reason.contains(words), "{name}: {said}: {reason}");
        guest.run("systemctl stop load")?;
        sql(&guest, "DROP TABLE transfer")?;

        lab.azdr
            .run(&["backup", "restore", DB, "--backup", text(&point, "name"), "--yes"])?
            .ok()?;
        let result = &lab.azdr.newest_job("restore_in_place")?["result"]["restore"];
        ensure!(result["witness_verified"] == true, "{name}: {result:#}");
        guest.await_ssh(BOOT)?;
        answers(&guest)?;
        let log = recovery(&guest)?;
        let surprises = surprises(&log);
        ensure!(surprises.is_empty(), "{name}: the server said: {}", surprises.join("\n"));
        let found = number(&guest, COUNT)?;
        ensure!(
            (before..=after).contains(&found),
            "{name}: {found} transfers, there were {before} before the backup and {after} after it"
        );
        let wrong = number(&guest, WRONG)?;
        ensure!(wrong == 0, "{name}: {wrong} accounts do not have what their transfers say");
        agent_is_ready(&lab, DB)?;
        is_writable(&guest)?;
        figures.push(format!("{name}: {level}, {found} transfers of {before} to {after}"));
    }
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}

/// Accounts in a table space on the data disk; the log stays on the OS disk.
fn prepare(guest: &Guest) -> Result<()> {
    answers(guest)?;
    guest.run("install -d -o postgres -g postgres -m 0700 /data/tables")?;
    guest.run("runuser -u postgres -- createdb bench")?;
    for statement in [
        "CREATE TABLESPACE data LOCATION '/data/tables'",
        "CREATE TABLE account (id int PRIMARY KEY, balance int) TABLESPACE data",
        "CREATE TABLE transfer (a int, b int, d int) TABLESPACE data",
        "INSERT INTO account SELECT id, 1000 FROM generate_series(1, 100) AS id",
    ] {
        sql(guest, statement)?;
    }
    guest.write("/var/lib/postgresql/transfer.sql", TRANSFER.as_bytes())
}

fn install_hook(guest: &Guest) -> Result<()> {
    guest.run(&format!(
        "install -d -m 0755 /etc/azdr/hooks.d && \
         install -m 0700 /usr/share/doc/azdr-agent/hooks/postgresql-hold {HOOK}"
    ))?;
    Ok(())
}

/// Two clients, fifty transfers a second if the machine can; returns when some are committed.
fn start_load(guest: &Guest) -> Result<()> {
    guest.run(
        "systemd-run --quiet --unit=load --uid=postgres \
         $(ls /usr/lib/postgresql/*/bin/pgbench) --no-vacuum --client=2 --rate=50 --time=3600 \
         --file=/var/lib/postgresql/transfer.sql bench",
    )?;
    let before = number(guest, COUNT)?;
    until("transfers are committed", LIMIT, || {
        let now = number(guest, COUNT)?;
        Ok(if now > before + 20 {
            Look::Done(())
        } else {
            Look::Waiting(format!("{now} transfers"))
        })
    })
}

/// Waits until the server takes statements.
fn answers(guest: &Guest) -> Result<()> {
    until("PostgreSQL answers", LIMIT, || {
        let ended = guest.try_run("runuser -u postgres -- pg_isready")?;
        Ok(match ended.status.success() {
            true => Look::Done(()),
            false => Look::Waiting(format!("{}{}", ended.stdout, ended.stderr)),
        })
    })
}

/// What the server has logged since it found that it had been interrupted.
fn recovery(guest: &Guest) -> Result<String> {
    let since =
        "/was interrupted/ { said = \"\" } { said = said $0 \"\\n\" } END { printf \"%s\", said }";
    let said = guest.run(&format!("awk '{since}' /var/log/postgresql/*.log"))?;
    for expected in
        ["was interrupted", "redo starts at", "redo done at", "ready to accept connections"]
    {
        ensure!(said.contains(expected), "the server did not recover: no {expected:?} in {said}");
    }
    Ok(said)
}

/// Lines that an orderly recovery does not have.
fn surprises(log: &str) -> Vec<&str> {
    let bad = ["PANIC", "FATAL", "ERROR", "WARNING", "could not", "corrupt", "missing"];
    // Whoever asks whether it is ready yet is told no.
    let is_bad = |line: &&str| {
        bad.iter().any(|word| line.contains(word)) && !line.contains("the database system is")
    };
    log.lines().filter(is_bad).collect()
}

fn number(guest: &Guest, query: &str) -> Result<u64> {
    let answer = sql(guest, query)?;
    answer.parse().with_context(|| format!("`{query}` answered {answer}"))
}

fn sql(guest: &Guest, statement: &str) -> Result<String> {
    guest.run(&format!("runuser -u postgres -- psql -XqtA -d bench -c \"{statement}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orderly_recovery_has_no_surprises() {
        let orderly = "LOG:  database system was interrupted; last known up at 2026-01-01\n\
                       FATAL:  the database system is starting up\n\
                       LOG:  redo starts at 0/1A2B3C8\n\
                       LOG:  invalid record length at 0/1A30000: wanted 24, got 0\n\
                       LOG:  redo done at 0/1A2FFC8\n";
        assert!(surprises(orderly).is_empty());
        let torn =
            "LOG:  redo starts at 0/1A2B3C8\nPANIC:  could not locate a valid checkpoint record\n";
        assert_eq!(surprises(torn).len(), 1);
    }
}
