//! `azdr agent preflight`

use azdr_proto::admin::{
    Preflight as Report, PreflightDisk, PreflightDiskKind, PreflightFileSystem,
    PreflightNotCovered, RunPreflightRequest,
};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;

use crate::error::CliError;
use crate::json;
use crate::quantity::count;
use crate::session::Session;
use crate::style::Style;
use crate::table::Table;

/// Ask a VM's agent whether the VM could be frozen now
///
/// Shows which file systems a freeze would cover, in which order and on which disks; what is left out,
/// and why; and what stands in the way. Nothing is changed on the VM. Agents look by themselves as well,
/// whenever they connect and daily: see `azdr agent list`.
///
/// Exit code 1 also when the VM is not ready. What is `not now` passes by itself, and does not count.
/// The answer is there within 20 seconds, and names at most 64 file systems.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  azdr agent preflight prod-db-vm")]
pub(crate) struct Preflight {
    /// Name of the VM, or its ARM resource ID
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    vm: String,
}

impl Preflight {
    pub(crate) async fn run(self, s: &mut Session) -> Result<(), CliError> {
        let request = RunPreflightRequest { vm: s.vm(&self.vm) };
        let answer = s.client.run_preflight(request).await?.into_inner();
        s.out.result(json::preflight::preflight(&answer), |style| text(&self.vm, &answer, style));
        if answer.ready {
            return Ok(());
        }
        let problems = count(answer.problems.len() as u32, "problem");
        let message = format!("{} cannot be frozen: {problems}", self.vm);
        let hint = "mend what is named, then ask again";
        Err(CliError::failed("not_ready", message).hint(hint))
    }
}

fn text(vm: &str, answer: &Report, style: Style) -> String {
    let verdict = if answer.ready { "can be frozen" } else { "CANNOT be frozen" };
    let mut text = style.headline(answer.ready, &format!("{vm} {verdict}"));
    text.push('\n');
    for (label, lines) in [("Problem", &answer.problems), ("Not now", &answer.passing)] {
        lines.iter().for_each(|line| text.push_str(&format!("{label}: {line}\n")));
    }
    if !answer.file_systems.is_empty() {
        let mut table = Table::new(&["FROZEN", "TYPE", "LEVEL", "DISKS"]);
        for found in &answer.file_systems {
            let PreflightFileSystem { mount_point, file_system_type, level, disks, .. } = found;
            let disks: Vec<String> = disks.iter().map(disk).collect();
            table.row([
                mount_point.clone(),
                file_system_type.clone(),
                level.to_string(),
                disks.join(", "),
            ]);
        }
        text.push_str(&format!("\n{}", table.render("")));
    }
    if !answer.not_covered.is_empty() {
        let mut table = Table::new(&["NOT FROZEN", "TYPE", "WHY"]);
        for PreflightNotCovered { what, kind, reason } in &answer.not_covered {
            table.row([what.clone(), kind.clone(), reason.clone()]);
        }
        text.push_str(&format!("\n{}", table.render("")));
    }
    if !answer.foreign_tools.is_empty() {
        text.push_str("\nOther programs there that freeze file systems:\n");
        answer.foreign_tools.iter().for_each(|tool| text.push_str(&format!("  {tool}\n")));
    }
    text
}

fn disk(disk: &PreflightDisk) -> String {
    let PreflightDisk { lun, name, .. } = disk;
    match disk.kind() {
        PreflightDiskKind::Os => format!("OS disk ({name})"),
        PreflightDiskKind::Data => format!("LUN {lun} ({name})"),
        PreflightDiskKind::Temporary => format!("temporary disk ({name})"),
        PreflightDiskKind::Unspecified => format!("{name} (no disk of Azure's)"),
    }
}
