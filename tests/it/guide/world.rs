//! The world of the guide, as it is when its reader begins: the VMs that it names, with backups of the
//! dates and tiers that it names, taken when they are dated.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use azdr_env::WallTime;
use azdr_tests::simulated_machines::SimulatedMachine;
use azdr_tests::{Lab, LabSpec, Vm, World, judge};
use serde_json::{Value, json};

use super::NAME;
use super::terminal::{Seen, type_in};
use crate::setup::Stage;
use crate::simulated_guests::agent_is_connected;

pub(super) const SETTLE: Duration = Duration::from_secs(120);
/// Of the machines that the guide calls production.
pub(super) const GROUP: &str = "Production-VMs";
/// The VM that most of the guide is about.
pub(super) const DB: &str = "prod-db-vm";
const MACHINES: [(&str, &str); 5] = [
    (GROUP, DB),
    (GROUP, "prod-app-vm"),
    (GROUP, "critical-vm"),
    ("Staging", "staging-vm"),
    ("Development", "my-vm"),
];

/// A time of the guide: December's days follow November's. UTC.
pub(super) fn november(day: i64, hour: i64, minute: i64) -> WallTime {
    const FIRST: i64 = 1_761_955_200;
    WallTime::from_unix_ms((FIRST + (day - 1) * 86_400 + hour * 3_600 + minute * 60) * 1_000)
}

/// The world while the guide is followed.
pub(super) struct Stay {
    pub(super) lab: Lab,
}

impl Stay {
    pub(super) fn begin(stage: &Stage) -> Result<Self> {
        let vm = |(group, name)| Vm::new(group, name).with_data_disk().with_public_ip();
        let mut vms: Vec<Vm> = MACHINES.into_iter().map(vm).collect();
        vms[0].data_disks.push(azdr_tests::DataDisk::default());
        // Somebody has made the group in which drills may take place.
        vms.push(Vm { running: false, ..Vm::new("DR-Testing", "jump-host") });
        let spec = LabSpec::with_simulated_guests(World { vms });
        let mut lab = Lab::start_at(stage.programs()?, &stage.folder, spec, november(1, 8, 0))?;
        // A drill's machine is to be reached from outside.
        let drill = "[drill]\nallowed_source = \"127.0.0.1\"";
        lab.controller.reconfigure("[drill]", drill)?;
        lab.controller.reconfigure("access = \"none\"", "access = \"public-ip\"")?;
        lab.controller.start()?;
        let bin = stage.folder.join("bin");
        std::fs::create_dir(&bin)?;
        std::os::unix::fs::symlink(stage.programs()?.path("azdr"), bin.join(NAME))?;
        let mut stay = Self { lab };
        for (group, name) in MACHINES {
            stay.lab.enrol_simulated(&stay.lab.machine(group, name)?)?;
            agent_is_connected(&stay.lab, name)?;
        }
        stay.history()?;
        Ok(stay)
    }

    /// What there is before the guide begins, on the first of December at half past seven.
    fn history(&mut self) -> Result<()> {
        let tiers = ["--weekly-retention", "4", "--monthly-retention", "12"];
        let copied = ["--cross-region", "--target-region", "westus2"];
        let policy = ["backup", "configure", DB, "--daily-retention", "7"];
        self.azdr(&[&policy[..], &tiers, &copied].concat())?;
        // Of the first of a month, and of two weeks whose Sunday was missed: the next one makes it up.
        for day in [1, 17, 24] {
            self.at(november(day, 8, 0))?;
            self.back_up(DB)?;
        }
        self.azdr(&["backup", "verify", &point("weekly-20251124-0800")])?;
        self.azdr(&["dr", "test", DB, "--test-region", "westus2"])?;
        self.azdr(&["backup", "configure", DB, "--no-cross-region"])?;
        self.at(november(25, 8, 0))?;
        self.back_up(DB)?;
        self.staging_has_a_bad_backup()?;
        for day in 26..=30 {
            self.at(november(day, 8, 0))?;
            self.back_up(DB)?;
        }
        self.at(november(31, 7, 0))?;
        self.machine()?.write(FILE, AT_SEVEN)?;
        self.back_up(DB)?;
        self.at(november(31, 7, 30))
    }

    /// One whose verification fails.
    fn staging_has_a_bad_backup(&self) -> Result<()> {
        self.azdr(&["backup", "configure", "staging-vm", "--daily-retention", "7"])?;
        self.azdr(&["backup", "configure", "staging-vm", "--weekly-retention", "0"])?;
        self.azdr(&["backup", "configure", "staging-vm", "--monthly-retention", "0"])?;
        self.back_up("staging-vm")?;
        self.fault(json!({
            "match": {"method": "PUT", "resource_type": "Microsoft.Compute/disks", "count": 9},
            "action": {"fail_operation": {"code": "DiskSizeMismatch",
                "message": "Disk size mismatch (expected 64GB, got 0GB)"}},
        }))?;
        let verify = ["backup", "verify", "staging-vm-backup-daily-20251125-0800"];
        let answer = self.lab.azdr.run(&verify)?;
        ensure!(answer.code == 1, "{}", answer.words());
        self.no_faults()
    }

    /// Lets time pass until then; agents are back.
    pub(super) fn at(&mut self, time: WallTime) -> Result<()> {
        if self.lab.now() < time {
            self.lab.let_pass_until(time)?;
            for (_, name) in MACHINES {
                agent_is_connected(&self.lab, name)?;
            }
        }
        Ok(())
    }

    /// A command of the operator's between the guide's lines.
    pub(super) fn azdr(&self, arguments: &[&str]) -> Result<()> {
        self.lab.azdr.run(arguments)?.ok().map(drop)
    }

    pub(super) fn json(&self, arguments: &[&str]) -> Result<Value> {
        self.lab.azdr.json(arguments)
    }

    /// Takes a backup and waits for its copy, if it gets one.
    pub(super) fn back_up(&self, vm: &str) -> Result<()> {
        self.azdr(&["backup", "trigger", vm])?;
        self.settle()
    }

    pub(super) fn settle(&self) -> Result<()> {
        self.lab.settle(SETTLE)
    }

    pub(super) fn fault(&self, fault: Value) -> Result<()> {
        self.lab.simulator.set_faults(&json!([fault]))
    }

    pub(super) fn no_faults(&self) -> Result<()> {
        self.lab.simulator.set_faults(&json!([]))
    }

    /// A line of the guide.
    pub(super) fn types(&self, line: &str, answers: &[&str]) -> Result<Seen> {
        let folder = self.lab.folder();
        let mut shell = self.lab.azdr.shell(line);
        let path = std::env::var("PATH").unwrap_or_default();
        shell.env("PATH", format!("{}:{path}", folder.join("bin").display())).current_dir(folder);
        type_in(shell, answers)
    }

    /// For whoever keeps the folder: all that was typed and shown.
    pub(super) fn note(&self, text: &str) -> Result<()> {
        let path = self.lab.folder().join("guide.txt");
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        Ok(file?.write_all(text.as_bytes())?)
    }

    /// The machine of most of the guide.
    pub(super) fn machine(&self) -> Result<SimulatedMachine> {
        self.lab.machine(GROUP, DB)
    }

    /// A recovery point as the guide calls it.
    pub(super) fn point(&self, name: &str) -> Result<Value> {
        Ok(self.json(&["backup", "show", name])?["point"].clone())
    }

    /// Whether a point is complete in the other region.
    pub(super) fn is_copied(&self, name: &str) -> Result<()> {
        let point = self.point(name)?;
        let replicas = point["replicas"].as_array().cloned().unwrap_or_default();
        let complete =
            replicas.iter().any(|r| r["region"] == "westus2" && r["state"] == "complete");
        ensure!(complete, "{name} is not copied: {point:#}");
        Ok(())
    }

    /// The newest DR test.
    pub(super) fn newest_drill(&self) -> Result<Value> {
        let history = self.json(&["dr", "test-history", DB])?;
        history["tests"].get(0).cloned().context("no DR test")
    }

    /// Nothing is stuck or left over.
    pub(super) fn end(self) -> Result<()> {
        let names = MACHINES.map(|(_, name)| name);
        judge::at_rest(&self.lab, &[&names[..], &["prod-db-vm-restored"]].concat())
    }
}

/// A file that the guide wants back.
pub(super) const FILE: &str = "/data/critical-files";
pub(super) const AT_SEVEN: &[u8] = b"as it was at seven";

/// A point of the main VM.
pub(super) fn point(rest: &str) -> String {
    format!("{DB}-backup-{rest}")
}
