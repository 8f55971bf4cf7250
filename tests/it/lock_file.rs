//! Which dependencies there must not be.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::setup::{Needs, Stage, Test};

pub(crate) const TESTS: &[Test] = &[Test {
    name: "the_lock_file_holds_one_tls_library_and_it_is_rustls_with_ring",
    needs: Needs::Nothing,
    body: one_tls_library,
}];

const BANNED: [&str; 4] = ["openssl", "native-tls", "aws-lc", "boring"];

fn one_tls_library(_: &Stage) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let text = std::fs::read_to_string(path)?;
    let names = text.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
    let names: Vec<&str> = names.collect();
    ensure!(names.contains(&"rustls") && names.contains(&"ring"), "this is not our lock file");
    let banned: Vec<&&str> = names
        .iter()
        .filter(|name| BANNED.iter().any(|b| name.starts_with(b)) && **name != "openssl-probe")
        .collect();
    ensure!(banned.is_empty(), "banned dependencies: {banned:?}");
    Ok(())
}
