//! The DR test, its history, and the proof that nothing is left over.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::screen::{Screen, say, seconds, show};
use super::summary::{DrTest, Ssh, Summary, phases_of};
use crate::lab::Lab;
use crate::world::TARGET_REGION;

const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Boots the replica in an isolated network of the other region.
pub(super) fn test(lab: &Lab, screen: &mut Screen, summary: &mut Summary) -> Result<()> {
    screen.step("DR test: boot the copy in the other region, in an isolated network", || {
        show(&lab.azdr, &["dr", "test", "db", "--test-region", TARGET_REGION])?;
        let job = lab.azdr.newest_job("dr_test")?;
        let result = &job["result"]["dr_test"];
        let is = |name: &str| result[name].as_bool().unwrap_or_default();
        let residue = result["residue"].as_array().into_iter().flatten();
        summary.dr_test = Some(DrTest {
            passed: is("passed"),
            region: TARGET_REGION.to_owned(),
            rto_seconds: seconds(result, "rto_ms"),
            phases: phases_of(result),
            ssh_verified: summary.ssh.of(is("ssh_verified")),
            witness_verified: is("witness_verified"),
            residue: residue.filter_map(|id| Some(id.as_str()?.to_owned())).collect(),
        });
        ensure!(is("passed"), "the DR test did not pass: {result}");
        ensure!(is("witness_verified"), "its agent did not show the recovery point: {result}");
        let without_ssh = matches!(summary.ssh, Ssh::Not(_));
        ensure!(without_ssh || is("ssh_verified"), "SSH was not verified: {result}");
        Ok(())
    })
}

/// Shows past DR tests.
pub(super) fn history(lab: &Lab, screen: &mut Screen) -> Result<()> {
    screen.step("Show the history of DR tests", || {
        show(&lab.azdr, &["dr", "test-history", "db"])?;
        let answer = lab.azdr.json(&["dr", "test-history", "db"])?;
        let tests = answer["tests"].as_array().context("tests")?;
        ensure!(tests.len() == 1 && tests[0]["passed"] == true, "the history is {answer}");
        Ok(())
    })
}

/// Asks Azure itself what there is. `restored` are the machines that run on disks of ours.
pub(super) fn residue(
    lab: &Lab,
    screen: &mut Screen,
    summary: &mut Summary,
    restored: &[&str],
) -> Result<()> {
    screen.step("List Azure, without azdr: nothing is left over", || {
        lab.settle(SETTLE_LIMIT)?;
        let listing = lab.simulator.listing()?;
        for resource in listing.resources() {
            say(&format!("{:<10} {}", resource.location(), resource.id()));
        }
        let mut left = listing.temporary(restored, &lab.kept_disks()?);
        let drills = listing.groups().into_iter().filter(|name| name.starts_with("azdr-drill"));
        left.extend(drills.map(|name| format!("group {name}")));
        if let Some(test) = &mut summary.dr_test {
            test.residue.extend(
                left.iter().filter(|id| !test.residue.contains(id)).cloned().collect::<Vec<_>>(),
            );
        }
        ensure!(left.is_empty(), "left over: {}", left.join(", "));
        let snapshots = listing.snapshots().len();
        ensure!(snapshots == 4, "{snapshots} snapshots instead of 2 and their copies");
        show(&lab.azdr, &["job", "list"]).map(drop)
    })
}
