//! After a drill and after a restore the controller logs in to the machine from outside (Dropbear and busybox
//! on the other side): the host key is the one of the capture, a token comes back, nothing is left behind.

use anyhow::{Context, Result, ensure};

use super::machine::{DB, LIMIT, agent_is_ready, back_up, db};
use super::{Case, Figures, Place};
use crate::judge;
use crate::protection::protect;

pub(super) const CASE: Case = Case {
    name: "ssh-login",
    shows: "restored machines are logged in to from outside, after their host key was recognised",
    rounds: None,
    run,
};

fn run(place: &Place) -> Result<Figures> {
    let (mut lab, guest) = db(place)?;
    let key = guest.key().display();
    let probe = format!("[probe]\nuser = \"root\"\nkey_file = \"{key}\"\n\n[drill]");
    lab.controller.reconfigure("[drill]", &probe)?;
    lab.controller.stop()?;
    lab.controller.start()?;
    agent_is_ready(&lab, DB)?;
    protect(&lab, DB, &["--consistency", "require"])?;
    back_up(&lab)?;
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
    let home = guest.run("ls -A /root")?;
    ensure!(!home.contains("azdr-probe"), "the probe has left a file: {home}");
    judge::at_rest(&lab, &[DB])?;
    Ok(figures)
}
