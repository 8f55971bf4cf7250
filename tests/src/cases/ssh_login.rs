//! After a drill and after a restore the controller logs in to the machine from outside: the host key is the
//! one of the capture, a token comes back, nothing is left behind. The other side is Dropbear and busybox, and,
//! on Debian, OpenSSH with PAM: there the account is nobody's in particular, its shell is slow and has much to
//! say, and the first attempt comes while the machine lets nobody but root in (pam_nologin).

use anyhow::{Context, Result, ensure};

use super::machine::{DB, LIMIT, agent_is_ready, back_up, db};
use super::{Case, Figures, Place, debian};
use crate::guest::Guest;
use crate::judge;
use crate::lab::Lab;
use crate::protection::protect;

pub(super) const CASE: Case = Case {
    name: "ssh-login",
    shows: "restored machines are logged in to from outside, after their host key was recognised",
    rounds: None,
    run,
};

pub(super) const ON_DEBIAN: Case = Case {
    name: "ssh-login-pam",
    shows: "the same with OpenSSH and PAM, which turns the first login away while the machine boots",
    rounds: None,
    run: run_on_debian,
};

/// Of the probe, on Debian.
const USER: &str = "azdr-probe";

/// An account like any other: with PAM's modules, a message of the day, and a start file that is slow and talks.
/// From its next boot on the machine keeps out all but root until somebody has been turned away.
const PREPARE: &str = r#"
useradd --create-home --shell /bin/bash azdr-probe
install -d -m 0700 -o azdr-probe -g azdr-probe /home/azdr-probe/.ssh
install -m 0600 -o azdr-probe -g azdr-probe /root/.ssh/authorized_keys /home/azdr-probe/.ssh/
echo 'Authorised use only. All of it is logged.' >/etc/motd
sed -i '1i echo "welcome to $(hostname)"; sleep 2' /home/azdr-probe/.bashrc
mkdir -p /etc/systemd/system/systemd-user-sessions.service.d
cat >/etc/systemd/system/systemd-user-sessions.service.d/late.conf <<'EOF'
[Service]
ExecStartPre=/bin/sh -c 'until journalctl --quiet --boot --unit ssh | grep -q "Access denied for user azdr-probe"; do sleep 1; done'
EOF
sync
"#;

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = db(place)?;
    is_logged_in_to(&mut lab, &guest, "root", "/root")
}

fn run_on_debian(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = debian::db(place)?;
    let settings = guest.run("sshd -T")?;
    ensure!(settings.lines().any(|line| line == "usepam yes"), "sshd has no PAM: {settings}");
    guest.run(PREPARE)?;
    let mut figures = is_logged_in_to(&mut lab, &guest, USER, "/home/azdr-probe")?;
    // The restored machine's own word that it was so.
    let log = guest.run("journalctl --quiet --boot --unit ssh --output cat")?;
    let count = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    let away = count("Access denied for user azdr-probe by PAM account configuration");
    ensure!(away > 0, "nobody was turned away: {log}");
    ensure!(count("Accepted publickey for azdr-probe") > 0, "nobody was let in: {log}");
    figures.push(format!("turned away before that: {away}"));
    Ok(figures)
}

/// Drills and restores the machine, with a probe that logs in as `user`.
fn is_logged_in_to(lab: &mut Lab, guest: &Guest, user: &str, home: &str) -> Result<Figures> {
    let key = guest.key().display();
    let probe = format!("[probe]\nuser = \"{user}\"\nkey_file = \"{key}\"\n\n[drill]");
    lab.controller.reconfigure("[drill]", &probe)?;
    lab.controller.stop()?;
    lab.controller.start()?;
    agent_is_ready(lab, DB)?;
    protect(lab, DB, &["--consistency", "require"])?;
    back_up(lab)?;
    lab.settle(LIMIT)?;
    let line = format!("ssh-ed25519 {}", guest.host_key()?);
    let host_key = azdr_identity::ssh_fingerprint(&line).context("a host key")?;

    lab.azdr.run(&["dr", "test", DB, "--test-region", "eastus"])?.ok()?;
    let drill = &lab.azdr.newest_job("dr_test")?["result"]["dr_test"];
    lab.azdr.run(&["backup", "restore", DB, "--yes"])?.ok()?;
    let restore = &lab.azdr.newest_job("restore_in_place")?["result"]["restore"];
    ensure!(restore["unconfirmed"].is_null(), "{restore:#}");
    let mut figures = Figures::new();
    for (what, result) in [("drill", drill), ("restore", restore)] {
        ensure!(result["witness_verified"] == true, "{result:#}");
        ensure!(result["ssh_verified"] == true, "{result:#}");
        let fact = |name: &str| {
            let facts = result["evidence"].as_array()?;
            facts.iter().find(|fact| fact["name"] == name)
        };
        let login = fact("ssh-login").context("nothing is known of a login")?;
        ensure!(login["state"] == "pass" && login["required"] == true, "{login:#}");
        let shown = fact("ssh-host-key").context("nothing is known of a host key")?;
        ensure!(shown["state"] == "pass" && shown["required"] == true, "{shown:#}");
        let detail = shown["detail"].as_str().context("words")?;
        ensure!(detail == format!("{host_key}, as at the capture"), "{detail}");
        figures.push(format!("{what}: {}", login["detail"].as_str().context("words")?));
    }
    let found = guest.run(&format!("ls -A {home}"))?;
    ensure!(!found.contains(".azdr-probe"), "the probe has left a file: {found}");
    judge::at_rest(lab, &[DB])?;
    Ok(figures)
}
