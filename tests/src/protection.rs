//! The policy that machines of labs and tests get.

use anyhow::Result;

use crate::lab::Lab;

/// Gives a VM a policy. Daily backups only, so that the date of a test run does not matter.
///
/// # Errors
/// When the controller refuses.
pub fn protect(lab: &Lab, vm: &str, more: &[&str]) -> Result<()> {
    let daily = ["--daily-retention", "2", "--weekly-retention", "0"];
    let none = ["--monthly-retention", "0", "--yearly-retention", "0"];
    lab.azdr.run(&[&["backup", "configure", vm], &daily[..], &none, more].concat())?.ok()?;
    Ok(())
}

/// Protects a VM and keeps each of its backups.
///
/// # Errors
/// When the controller refuses.
pub fn protect_and_keep_all(lab: &Lab, vm: &str) -> Result<()> {
    protect(lab, vm, &[])?;
    lab.azdr.run(&["backup", "configure", vm, "--daily-retention", "100"])?.ok()?;
    Ok(())
}
