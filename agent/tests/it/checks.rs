//! The verb `check`: when it runs, what it may do to spoil the answer, and what is told of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{
    AppProbe, FactState, FreezeOutcome, HealthReport, ProbeHealth, QuiesceState, SessionMode,
};

use crate::controller::Session;
use crate::freeze::{Scene, beat_in, freeze, freeze_reply};
use crate::hooks::{Hooks, is_gone};
use crate::loop_mount::wait_for;

crate::tests! {
    a_check_says_pass_fail_or_that_it_is_not_known: ["mkfs.ext4"],
    no_check_runs_unless_it_is_asked_for: ["mkfs.ext4"],
    a_check_that_hangs_is_killed_with_all_that_it_started: ["mkfs.ext4", "setsid"],
    ten_megabytes_of_a_checks_output_hold_nobody_up: ["mkfs.ext4"],
    checks_run_at_once_and_never_pile_up: ["mkfs.ext4"],
    a_check_that_may_not_run_or_is_gone_is_not_known: ["mkfs.ext4"],
    nothing_is_left_of_a_check_that_has_answered: ["mkfs.ext4"],
    a_lost_session_leaves_a_check_to_its_limit: ["mkfs.ext4"],
    a_freeze_waits_for_checks_and_none_runs_in_the_window: ["mkfs.ext4"],
    a_restored_machine_runs_checks_when_asked_and_nothing_else: ["mkfs.ext4"],
    systemd_units_are_checked: ["mkfs.ext4"],
}

/// What is told while hooks run for something else.
const BUSY: [(&str, FactState, &str); 1] =
    [("hooks", FactState::Unknown, "hooks run for something else: no check was begun")];

/// A health report with the checks that were asked for.
pub(crate) async fn checked(session: &mut Session) -> HealthReport {
    ask(session, true).await;
    answer(session).await
}

async fn ask(session: &mut Session, run_checks: bool) {
    let request_id = "r".to_owned();
    session.tell(Tell::ProbeHealth(ProbeHealth { request_id, run_checks })).await;
}

async fn answer(session: &mut Session) -> HealthReport {
    session.hear(|said| if let Said::Health(h) = said { Some(h) } else { None }).await
}

/// Waits until a check is seen at work. The agent is heard meanwhile, so that what it was asked for leaves.
async fn until(session: &mut Session, seen: impl Fn() -> bool) {
    let begins = async {
        while !seen() {
            beat_in(session, QuiesceState::Idle).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), begins).await.expect("the check begins");
}

/// Name, state and words of each.
fn told(report: &HealthReport) -> Vec<(&str, FactState, &str)> {
    let probe = |probe| {
        let AppProbe { name, detail, .. }: &AppProbe = probe;
        (name.as_str(), probe.state(), detail.as_str())
    };
    report.app_probes.iter().map(probe).collect()
}

fn alone(report: &HealthReport) -> &AppProbe {
    let [probe] = report.app_probes.as_slice() else { panic!("{report:?}") };
    probe
}

/// The verbs that hooks were run with, without ids.
fn verbs(hooks: &Hooks) -> Vec<String> {
    let verb = |line: String| line.rsplit_once(' ').unwrap().0.to_owned();
    hooks.log().into_iter().map(verb).collect()
}

async fn a_check_says_pass_fail_or_that_it_is_not_known() {
    let hooks = Hooks::new();
    hooks.install("10-good", "oneshot check", "echo looking; echo 'all is well'; echo");
    hooks.install("20-bad", "hold check", "echo 'nobody answers' >&2; exit 3");
    hooks.install("30-quiet", "check", "");
    hooks.install("40-killed", "check", "echo so far; kill -9 $$");
    hooks.install("50-without", "oneshot application", "");
    hooks.install("60-told-so", "oneshot", "echo configured");
    hooks.script(&hooks.path("hooks.d/70-no-sh"), "#!/no/sh\n# azdr-hook: check\n");
    let each = "[hooks.each.\"60-told-so\"]\ncheck = true";
    let mut scene = hooks.scene(each).await;
    let report = checked(&mut scene.session).await;
    let no_sh =
        format!("{}: its interpreter is not there", hooks.path("hooks.d/70-no-sh").display());
    assert_eq!(
        told(&report),
        [
            ("10-good", FactState::Pass, "all is well"),
            ("20-bad", FactState::Fail, "exit code 3: nobody answers"),
            ("30-quiet", FactState::Pass, "exit code 0"),
            ("40-killed", FactState::Unknown, "killed by signal 9: so far"),
            ("60-told-so", FactState::Pass, "configured"),
            ("70-no-sh", FactState::Unknown, no_sh.as_str()),
        ]
    );
    let mut run = verbs(&hooks);
    run.sort();
    let expected =
        ["10-good check", "20-bad check", "30-quiet check", "40-killed check", "60-told-so check"];
    assert_eq!(run, expected);
    // A check is no part of a freeze, and the freeze tells which hooks have one.
    let reply = scene.whole("op-1").await;
    let has: Vec<_> = reply.hooks.iter().map(|hook| hook.check).collect();
    assert_eq!(has, [true, true, true, true, false, true, true], "{reply:?}");
    assert!(reply.hooks.iter().all(|hook| hook.runs.len() <= 3));
}

async fn no_check_runs_unless_it_is_asked_for() {
    let hooks = Hooks::new();
    hooks.install("10-db", "check", "");
    let mut scene = hooks.scene("").await;
    ask(&mut scene.session, false).await;
    assert_eq!(answer(&mut scene.session).await.app_probes, []);
    assert_eq!(hooks.log(), [""; 0]);
}

async fn a_check_that_hangs_is_killed_with_all_that_it_started() {
    let hooks = Hooks::new();
    let hang = "trap '' TERM; setsid sleep 600 & echo $! > FOLDER/daemon; \
                sleep 601 & echo $! > FOLDER/child; echo waiting; while :; do wait; done";
    hooks.install("10-hangs", "check", hang);
    let mut scene = hooks.scene("check_limit_secs = 1").await;
    let report = checked(&mut scene.session).await;
    let probe = alone(&report);
    assert_eq!(probe.state(), FactState::Unknown);
    assert_eq!(probe.detail, "still running after 1 s, killed: waiting");
    // 1 s, 2 s after SIGTERM, and at most 5 s until SIGKILL is seen to have worked.
    assert!((3_000..9_000).contains(&probe.took_ms), "{probe:?}");
    wait_for("its child to be killed", Duration::from_secs(5), || is_gone(&hooks, "child"));
    // What has left its process group is killed where there are cgroups.
    if !is_gone(&hooks, "daemon") {
        let pid = hooks.text("daemon");
        crate::machine::signal("KILL", pid.trim().parse().unwrap());
    }
    assert!(report.facts.iter().any(|fact| fact.name == "fstab"), "the others were looked at");
}

async fn ten_megabytes_of_a_checks_output_hold_nobody_up() {
    let hooks = Hooks::new();
    let loud = "head -c 10485760 /dev/zero | tr '\\0' x; printf '\\033[2J'; printf '%02000d' 7 >&2";
    hooks.install("10-loud", "check", loud);
    let mut scene = hooks.scene("").await;
    let report = checked(&mut scene.session).await;
    let probe = alone(&report);
    assert_eq!(probe.state(), FactState::Pass);
    assert!(probe.detail.len() <= 512 && probe.detail.starts_with("000"), "{probe:?}");
    assert!(!probe.detail.chars().any(char::is_control), "{probe:?}");
}

async fn checks_run_at_once_and_never_pile_up() {
    let hooks = Hooks::new();
    // Each waits for the other.
    let both = "touch FOLDER/began-NAME; \
                while [ ! -e FOLDER/began-OTHER ] || [ ! -e FOLDER/go ]; do sleep 0.02; done";
    for (name, own, other) in [("10-a", "a", "b"), ("20-b", "b", "a")] {
        hooks.install(name, "check", &both.replace("NAME", own).replace("OTHER", other));
    }
    let mut scene = hooks.scene("check_limit_secs = 30").await;
    ask(&mut scene.session, true).await;
    let began = || hooks.path("began-a").exists() && hooks.path("began-b").exists();
    until(&mut scene.session, began).await;
    // Another request meanwhile: it is answered, and starts none of them again.
    let second = checked(&mut scene.session).await;
    assert_eq!(told(&second), BUSY, "not taken for a machine without checks");
    fs::write(hooks.path("go"), "").unwrap();
    let first = answer(&mut scene.session).await;
    assert!(first.app_probes.iter().all(|probe| probe.state() == FactState::Pass), "{first:?}");
    assert_eq!(hooks.log().len(), 2);
}

async fn a_check_that_may_not_run_or_is_gone_is_not_known() {
    let hooks = Hooks::new();
    hooks.install("10-open", "check", "");
    hooks.install("20-good", "check", "");
    // Whoever could write to it could have taken its word out.
    hooks.install("30-open-too", "oneshot", "");
    hooks.install("40-open-without", "oneshot", "");
    hooks.install("50-says-more", "check thoroughly", "");
    for open in ["10-open", "30-open-too", "40-open-without"] {
        let mode = fs::Permissions::from_mode(0o777);
        fs::set_permissions(hooks.path("hooks.d").join(open), mode).unwrap();
    }
    fs::write(hooks.path("hooks.d/README"), "").unwrap();
    let each = "[hooks.each.40-open-without]\ncheck = false\n\
                [hooks.each.60-gone]\ncheck = true\n[hooks.each.70-gone]\napplication = true";
    let mut scene = hooks.scene(each).await;
    let report = checked(&mut scene.session).await;
    let told = told(&report);
    let states: Vec<_> = told.iter().map(|(name, state, _)| (*name, *state)).collect();
    assert_eq!(
        states,
        [
            ("10-open", FactState::Unknown),
            ("20-good", FactState::Pass),
            ("30-open-too", FactState::Unknown),
            ("50-says-more", FactState::Unknown),
            ("60-gone", FactState::Unknown),
        ],
        "{told:?}"
    );
    for (at, why) in [(0, "0700"), (2, "0700"), (3, "thoroughly"), (4, "not there")] {
        assert!(told[at].2.contains(why), "{told:?}");
    }
    assert_eq!(verbs(&hooks), ["20-good check"]);
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(hooks.path("hooks.d"), open).unwrap();
    let report = checked(&mut scene.session).await;
    let of_all = report.app_probes.iter().find(|probe| probe.name == "hooks").unwrap();
    assert_eq!(of_all.state(), FactState::Unknown, "{report:?}");
    assert!(of_all.detail.contains("hooks.d"), "{of_all:?}");
    assert_eq!(hooks.log().len(), 1, "none is run");
}

async fn nothing_is_left_of_a_check_that_has_answered() {
    let hooks = Hooks::new();
    hooks.install("10-forks", "check", "sleep 600 & echo $! > FOLDER/left; echo fine");
    let mut scene = hooks.scene("").await;
    let report = checked(&mut scene.session).await;
    assert_eq!(told(&report), [("10-forks", FactState::Pass, "fine")]);
    assert!(!hooks.text("left").is_empty());
    wait_for("its child to be killed", Duration::from_secs(20), || is_gone(&hooks, "left"));
}

async fn a_lost_session_leaves_a_check_to_its_limit() {
    let hooks = Hooks::new();
    hooks.install("10-hangs", "check", "echo $$ > FOLDER/pid; exec sleep 600");
    let mut scene = hooks.scene("check_limit_secs = 2").await;
    ask(&mut scene.session, true).await;
    until(&mut scene.session, || !hooks.text("pid").is_empty()).await;
    scene.session = {
        let old = scene.session;
        drop(old);
        scene.controller.protected().await
    };
    let mut gone = async || {
        while !is_gone(&hooks, "pid") {
            beat_in(&mut scene.session, QuiesceState::Idle).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone()).await.expect("it is ended");
}

async fn a_freeze_waits_for_checks_and_none_runs_in_the_window() {
    let hooks = Hooks::new();
    let check = "[ $1 = check ] || exit 0; while [ ! -e FOLDER/go ]; do sleep 0.02; done; \
                 echo \"10-slow ended $2\" >> FOLDER/log";
    hooks.install("10-slow", "check", check);
    let mut scene = hooks.scene("check_limit_secs = 30").await;
    ask(&mut scene.session, true).await;
    until(&mut scene.session, || hooks.log().len() == 1).await;
    scene.session.tell(freeze("op-1", 10_000, 25_000)).await;
    beat_in(&mut scene.session, QuiesceState::HookPre).await;
    assert_eq!(verbs(&hooks), ["10-slow check"], "it is under way, and the freeze waits");
    fs::write(hooks.path("go"), "").unwrap();
    // Both answers come, in whatever order.
    let (mut probed, mut frozen) = (None, None);
    while probed.is_none() || frozen.is_none() {
        let pick = |said| match said {
            Said::Health(_) | Said::FreezeReply(_) => Some(said),
            _ => None,
        };
        match scene.session.hear(pick).await {
            Said::Health(report) => probed = Some(report),
            Said::FreezeReply(reply) => frozen = Some(reply),
            _ => unreachable!("picked"),
        }
    }
    assert_eq!(alone(&probed.unwrap()).state(), FactState::Pass);
    assert_eq!(frozen.unwrap().outcome(), FreezeOutcome::Frozen);
    assert_eq!(verbs(&hooks), ["10-slow check", "10-slow ended", "10-slow pre"]);
    let report = checked(&mut scene.session).await;
    let frozen = report.facts.iter().any(|fact| fact.name == "file-systems");
    assert!(frozen && report.app_probes.is_empty() && hooks.log().len() == 3, "{report:?}");
    assert!(scene.ended("op-1").await.unbroken);
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    assert_eq!(alone(&checked(&mut scene.session).await).state(), FactState::Pass, "afterwards");
}

/// The machine boots as another one, and gets in by the other door.
async fn restored(scene: &mut Scene, mode: SessionMode) -> Session {
    scene.agent.signal("TERM");
    assert!(scene.agent.ended());
    scene.machine.becomes("11111111-2222-3333-4444-555555555555");
    scene.agent = scene.machine.start_agent();
    let session = scene.controller.session().await;
    assert!(session.restored);
    session.welcome(mode, false).await;
    session
}

async fn a_restored_machine_runs_checks_when_asked_and_nothing_else() {
    let hooks = Hooks::new();
    hooks.install("10-db", "application check", "echo \"as after a $1\"");
    let mut scene = hooks.scene("").await;
    // In quarantine nothing is answered at all.
    let mut session = restored(&mut scene, SessionMode::Quarantined).await;
    ask(&mut session, true).await;
    for _ in 0..2 {
        beat_in(&mut session, QuiesceState::Idle).await;
    }
    assert_eq!(hooks.log(), [""; 0]);
    let mut session = restored(&mut scene, SessionMode::Restored).await;
    session.tell(freeze("op-1", 3_000, 10_000)).await;
    assert_eq!(freeze_reply(&mut session).await.outcome(), FreezeOutcome::Refused);
    ask(&mut session, false).await;
    assert_eq!(answer(&mut session).await.app_probes, []);
    assert_eq!(hooks.log(), [""; 0]);
    let report = checked(&mut session).await;
    assert_eq!(told(&report), [("10-db", FactState::Pass, "as after a check")]);
    assert_eq!(verbs(&hooks), ["10-db check"]);
}

async fn systemd_units_are_checked() {
    let hooks = Hooks::new();
    // Whatever is in the file does not run.
    let systemctl = "#!/bin/sh\n[ $1 = --quiet ] && shift\n[ $1 = is-active ] || exit 9\n\
                     ! grep -qx \"$2\" FOLDER/down\n";
    fs::write(hooks.path("down"), "").unwrap();
    hooks.install_units("a.service b.service", systemctl);
    let mut scene = hooks.scene("").await;
    let up = checked(&mut scene.session).await;
    assert_eq!(told(&up), [("10-units", FactState::Pass, "active: a.service b.service")]);
    fs::write(hooks.path("down"), "b.service\n").unwrap();
    let down = checked(&mut scene.session).await;
    let words = "exit code 1: not active: b.service";
    assert_eq!(told(&down), [("10-units", FactState::Fail, words)]);
}
