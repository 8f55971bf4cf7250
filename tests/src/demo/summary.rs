//! What comes of the story.

use serde::Serialize;
use serde_json::Value;

use super::screen::{Screen, Step};
use crate::lab::Machines;

/// The whole summary; the JSON document has these fields.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Summary {
    /// Every check held.
    pub(super) ok: bool,
    /// `qemu`, `simulated` or `none`.
    pub(super) guests: &'static str,
    /// Why they are not `qemu`, if they might have been.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guests_reason: Option<String>,
    pub(super) seconds: f64,
    pub(super) steps: Vec<Step>,
    pub(super) backup: Option<Backup>,
    pub(super) replication: Option<Replication>,
    pub(super) verification: Option<Verification>,
    pub(super) restore: Option<Restore>,
    pub(super) dr_test: Option<DrTest>,
    pub(super) azure: Option<Azure>,
    /// What the demo does not show.
    pub(super) not_shown: Vec<&'static str>,
    /// What can be found out by SSH.
    #[serde(skip)]
    pub(super) ssh: Ssh,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Backup {
    pub(super) point: String,
    pub(super) consistency: String,
    pub(super) disks: usize,
    pub(super) frozen_ms: u64,
    pub(super) seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Replication {
    pub(super) region: String,
    pub(super) seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Verification {
    pub(super) disks: usize,
    pub(super) bytes_read: u64,
    pub(super) seconds: f64,
}

/// A part of a recovery's time.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) seconds: f64,
}

/// What SSH from outside said of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Ssh {
    /// Whether it answered.
    Verified(bool),
    /// Why nobody could be asked.
    Not(&'static str),
}

impl Ssh {
    /// What azdr says, where machines have SSH servers.
    pub(super) fn of(&self, verified: bool) -> Self {
        match self {
            Self::Verified(_) => Self::Verified(verified),
            Self::Not(why) => Self::Not(why),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Restore {
    pub(super) rto_seconds: Option<f64>,
    pub(super) phases: Vec<Phase>,
    /// Checked from outside: marker, hash and the invariant across disks.
    pub(super) data_intact: bool,
    /// By azdr.
    pub(super) ssh_verified: Ssh,
    /// By azdr, from the agent.
    pub(super) witness_verified: bool,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct DrTest {
    pub(super) passed: bool,
    pub(super) region: String,
    pub(super) rto_seconds: Option<f64>,
    pub(super) phases: Vec<Phase>,
    pub(super) ssh_verified: Ssh,
    pub(super) witness_verified: bool,
    /// What a listing of Azure shows of the drill afterwards.
    pub(super) residue: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Azure {
    pub(super) requests: u64,
    pub(super) throttled: u64,
}

impl Summary {
    pub(super) fn new(machines: &Machines, reason: Option<String>) -> Self {
        let mut not_shown = vec![
            "application consistency (hooks in the guest)",
            "quotas and latencies of the real Azure (the simulator runs its fast profile)",
        ];
        let (guests, more, ssh) = match machines {
            Machines::Real(_) => ("qemu", &[][..], Ssh::Verified(false)),
            Machines::Simulated => (
                "simulated",
                &[
                    "a real Linux: its boot, its file systems, azdr-thawd",
                    "SSH from outside, and the isolated network's way in",
                ][..],
                Ssh::Not("not with simulated guests"),
            ),
            Machines::Records => (
                "none",
                &["agents, quiesced backup, disaster, restore in place, DR test: they need guests"]
                    [..],
                Ssh::Not("not without guests"),
            ),
        };
        not_shown.extend(more);
        Self {
            ok: false,
            guests,
            guests_reason: reason,
            ssh,
            seconds: 0.0,
            steps: Vec::new(),
            backup: None,
            replication: None,
            verification: None,
            restore: None,
            dr_test: None,
            azure: None,
            not_shown,
        }
    }

    /// Takes the record of steps over.
    pub(super) fn finish(&mut self, screen: &Screen) {
        self.steps.clone_from(&screen.steps);
        self.seconds = screen.seconds();
        self.ok = !self.steps.is_empty() && self.steps.iter().all(|step| step.ok);
    }

    pub(super) fn json(&self) -> String {
        format!("{:#}\n", serde_json::to_value(self).unwrap_or(Value::Null))
    }

    pub(super) fn words(&self) -> String {
        let mut lines = vec![format!("\nSummary (guests: {})", self.guests)];
        let mut line = |text: String| lines.push(format!("  {text}"));
        if let Some(reason) = &self.guests_reason {
            line(format!("No qemu      {reason}"));
        }
        if let Some(b) = &self.backup {
            line(format!(
                "Backup       {} disks, {} consistency, frozen for {} ms, {:.1} s in all",
                b.disks, b.consistency, b.frozen_ms, b.seconds
            ));
        }
        if let Some(r) = &self.replication {
            line(format!("Replication  complete in {} after {:.1} s", r.region, r.seconds));
        }
        if let Some(v) = &self.verification {
            let (count, unit) = match v.bytes_read {
                bytes @ 0..0x10_0000 => (bytes >> 10, "KiB"),
                bytes => (bytes >> 20, "MiB"),
            };
            line(format!(
                "Verification {} test disks made and {count} {unit} read, {:.1} s",
                v.disks, v.seconds
            ));
        }
        if let Some(r) = &self.restore {
            line(format!(
                "Restore      RTO {} ({}); data {}, SSH {}, recovery point {} by the agent",
                seconds(r.rto_seconds),
                phases(&r.phases),
                if r.data_intact { "intact" } else { "NOT INTACT" },
                ssh(r.ssh_verified),
                if r.witness_verified { "shown" } else { "not shown" },
            ));
        }
        if let Some(d) = &self.dr_test {
            let residue = match d.residue.len() {
                0 => "nothing left behind".to_owned(),
                n => format!("{n} RESOURCES LEFT BEHIND"),
            };
            line(format!(
                "DR test      {} in {}: RTO {} ({}); SSH {}, recovery point {} by the agent; {residue}",
                if d.passed { "passed" } else { "FAILED" },
                d.region,
                seconds(d.rto_seconds),
                phases(&d.phases),
                ssh(d.ssh_verified),
                if d.witness_verified { "shown" } else { "not shown" },
            ));
        }
        if let Some(a) = &self.azure {
            line(format!("Azure        {} requests, {} throttled", a.requests, a.throttled));
        }
        line(format!("Not shown    {}", self.not_shown.join("; ")));
        let failed: Vec<&str> =
            self.steps.iter().filter(|s| !s.ok).map(|s| s.name.as_str()).collect();
        let verdict = match failed[..] {
            [] if self.ok => "every check held".to_owned(),
            [] => "nothing was shown".to_owned(),
            _ => format!("FAILED: {}", failed.join("; ")),
        };
        line(format!("{} steps in {:.1} s: {verdict}", self.steps.len(), self.seconds));
        lines.join("\n")
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), |s| format!("{s:.1} s"))
}

fn ssh(ssh: Ssh) -> &'static str {
    match ssh {
        Ssh::Verified(true) => "verified",
        Ssh::Verified(false) => "not verified",
        Ssh::Not(why) => why,
    }
}

fn phases(phases: &[Phase]) -> String {
    let each = phases.iter().map(|p| format!("{} {:.1} s", p.name, p.seconds));
    each.collect::<Vec<_>>().join(", ")
}

/// The phases in a job's result.
pub(super) fn phases_of(result: &Value) -> Vec<Phase> {
    let phases = result["phases"].as_array().into_iter().flatten();
    phases
        .map(|phase| Phase {
            name: phase["name"].as_str().unwrap_or_default().to_owned(),
            seconds: super::screen::seconds(phase, "millis").unwrap_or_default(),
        })
        .collect()
}
