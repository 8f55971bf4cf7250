//! What the packages install: units that systemd accepts, and scripts that thaw before anything goes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::tests;

tests! {
    systemd_accepts_the_units: ["systemd-analyze"],
    an_upgrade_stops_the_agent_before_the_programs_are_replaced: ["unshare"],
    a_removal_stops_the_agent_before_the_thaw_process: ["unshare"],
    an_agent_that_does_not_end_stops_the_package_manager: ["unshare"],
    what_is_installed_without_systemd_calls_nothing: ["unshare"],
}

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

async fn systemd_accepts_the_units() {
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for name in ["azdr-thawd.service", "azdr-agent.service"] {
        let text = fs::read_to_string(deploy("systemd").join(name)).unwrap();
        // The programs need not be installed here; systemd looks whether they are.
        let text = text.replace("/usr/sbin/azdr-thawd", "/bin/true");
        let text = text.replace("/usr/sbin/azdr-agent", "/bin/true");
        // An option that makes a mount namespace would hide the machine's own mounts.
        for option in
            ["ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "PrivateMounts"]
        {
            assert!(!text.lines().any(|line| line.starts_with(option)), "{name}: {option}");
        }
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        units.push(path);
    }
    let verified =
        Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output().unwrap();
    let words = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success() && words.is_empty(), "{words}");
}

/// Runs a package's script where systemd is or is not running, with a `systemctl` that writes down how
/// it is called, and fails to stop `failing`.
fn run(script: &str, arguments: &[&str], systemd: bool, failing: &str) -> (Output, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let systemctl = folder.path().join("systemctl");
    let text = format!(
        "#!/bin/sh\necho \"$*\" >> {}/calls\ncase \"$*\" in *'{failing}') exit 1;; esac\n",
        folder.path().display()
    );
    fs::write(&systemctl, text).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let make = if systemd { "mkdir -p /run/systemd/system;" } else { "" };
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-ec"])
        .arg(format!("mount -t tmpfs none /run; {make} script=$1; shift; sh -e \"$script\" \"$@\""))
        .arg("sh")
        .arg(deploy(script))
        .args(arguments)
        .env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.path().display()))
        .output()
        .unwrap();
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap_or_default();
    (output, calls.lines().map(str::to_owned).collect())
}

/// The calls of a script that succeeds.
fn calls(script: &str, arguments: &[&str]) -> Vec<String> {
    let (output, calls) = run(script, arguments, true, "nothing");
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    calls
}

async fn an_upgrade_stops_the_agent_before_the_programs_are_replaced() {
    let stop = ["stop azdr-agent.service"];
    assert_eq!(calls("deb/prerm", &["upgrade", "0.2.0"]), stop);
    assert_eq!(calls("rpm/pre", &["2"]), stop);
    assert_eq!(calls("rpm/pre", &["1"]), [""; 0], "the first one has nothing to stop");
    let start = [
        "daemon-reload",
        "enable azdr-thawd.service azdr-agent.service",
        "restart azdr-thawd.service",
        "start azdr-agent.service",
    ];
    assert_eq!(calls("deb/postinst", &["configure", "0.1.0"]), start);
    for given_up in ["abort-upgrade", "abort-remove", "abort-deconfigure"] {
        let again = start.map(|call| call.replace("restart", "start"));
        assert_eq!(calls("deb/postinst", &[given_up, "0.1.0"]), again, "{given_up}");
    }
    assert_eq!(calls("rpm/post", &["2"]), start);
    assert_eq!(calls("rpm/preun", &["1"]), [""; 0], "the new one is running by then");
}

async fn a_removal_stops_the_agent_before_the_thaw_process() {
    // Nothing comes before the first: it may be what everything else has to wait for.
    let stop = [
        "stop azdr-agent.service",
        "stop azdr-thawd.service",
        "disable azdr-agent.service azdr-thawd.service",
    ];
    assert_eq!(calls("deb/prerm", &["remove"]), stop);
    assert_eq!(calls("rpm/preun", &["0"]), stop);
    assert_eq!(calls("rpm/postun", &["0"]), ["daemon-reload"]);
}

async fn an_agent_that_does_not_end_stops_the_package_manager() {
    for (script, argument) in [
        ("deb/prerm", "upgrade"),
        // dpkg's second attempt, with the new package's script.
        ("deb/prerm", "failed-upgrade"),
        ("deb/prerm", "remove"),
        ("rpm/pre", "2"),
        ("rpm/preun", "0"),
    ] {
        let (output, calls) = run(script, &[argument], true, "azdr-agent.service");
        assert!(!output.status.success(), "{script} {argument}");
        assert_eq!(calls.len(), 1, "{script} {argument}: {calls:?}");
    }
}

async fn what_is_installed_without_systemd_calls_nothing() {
    for (script, argument) in [
        ("deb/prerm", "remove"),
        ("deb/postinst", "configure"),
        ("deb/postrm", "remove"),
        ("rpm/pre", "2"),
        ("rpm/post", "1"),
        ("rpm/preun", "0"),
        ("rpm/postun", "0"),
    ] {
        let (output, calls) = run(script, &[argument], false, "nothing");
        assert!(output.status.success(), "{script} {argument}");
        assert_eq!(calls, [""; 0], "{script} {argument}");
    }
}
