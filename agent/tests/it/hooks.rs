//! Hooks around real freezes, and what a hook may do to spoil them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{
    Freeze, FreezeOutcome, FreezeReply, HookKind, HookResult, HookVerb, QuiesceState, SessionMode,
    ThawReply,
};

use crate::controller::Session;
use crate::freeze::{Scene, beat_in, freeze, freeze_reply, scene_with, thaw, thaw_reply};
use crate::loop_mount::{LoopMount, wait_for};

crate::tests! {
    hooks_run_before_the_freeze_and_in_reverse_after_the_thaw: ["mkfs.ext4"],
    a_hook_runs_in_a_clean_place: ["mkfs.ext4"],
    a_hook_is_not_spared_by_the_out_of_memory_killer_as_the_agent_is: ["mkfs.ext4"],
    ten_megabytes_of_output_hold_nobody_up: ["mkfs.ext4"],
    a_daemon_that_a_hook_leaves_behind_is_seen_and_not_waited_for: ["mkfs.ext4", "setsid"],
    a_late_hook_is_killed_with_all_that_it_started: ["mkfs.ext4", "setsid"],
    a_hook_that_ignores_sigterm_is_killed_and_gets_its_abort: ["mkfs.ext4"],
    a_failed_hook_lets_the_freeze_go_on_but_is_never_called_a_success: ["mkfs.ext4"],
    exit_codes_and_signals_are_told: ["mkfs.ext4"],
    post_writes_to_the_file_system_that_was_frozen: ["mkfs.ext4"],
    what_is_run_is_what_was_checked: ["mkfs.ext4"],
    what_others_could_change_is_refused: ["mkfs.ext4"],
    no_text_reaches_a_shell: ["mkfs.ext4"],
    a_hook_that_holds_does_so_from_before_the_freeze_until_after_the_thaw: ["mkfs.ext4"],
    a_hook_that_lost_what_it_held_is_no_success: ["mkfs.ext4"],
    a_hook_that_does_not_get_ready_is_aborted: ["mkfs.ext4"],
    an_agent_killed_between_pre_and_post_aborts_after_its_restart: ["mkfs.ext4"],
    an_agent_killed_in_a_pre_ends_it_and_aborts_after_its_restart: ["mkfs.ext4"],
    an_agent_killed_in_a_post_runs_it_again: ["mkfs.ext4"],
    what_is_not_recovered_within_the_limit_is_tried_again: ["mkfs.ext4"],
    an_abort_that_cannot_be_started_is_tried_again: ["mkfs.ext4"],
    a_post_that_cannot_be_started_is_made_good_before_the_next_operation: ["mkfs.ext4"],
    a_thaw_while_hooks_run_cuts_them_short_and_aborts: ["mkfs.ext4"],
    an_agent_told_to_end_runs_its_hooks_to_the_end: ["mkfs.ext4"],
    a_broken_hold_is_aborted: ["mkfs.ext4"],
    azures_scripts_are_run_under_our_rules: ["mkfs.ext4"],
    a_run_directory_on_a_disk_lets_no_hook_run: ["mkfs.ext4"],
    a_restored_machine_runs_no_hooks: ["mkfs.ext4"],
    systemd_units_that_were_active_are_started_again: ["mkfs.ext4"],
}

/// A folder below which only root can write, with a directory for hooks and a log that they write.
pub(crate) struct Hooks {
    pub(crate) folder: tempfile::TempDir,
}

impl Hooks {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir_in("/run").unwrap();
        fs::create_dir(folder.path().join("hooks.d")).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.text("log").lines().map(str::to_owned).collect()
    }

    /// A script with `FOLDER` filled in.
    pub(crate) fn script(&self, path: &Path, text: &str) {
        let text = text.replace("FOLDER", self.folder.path().to_str().unwrap());
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    /// Installs a hook that logs its verb and then does what `more` says; `declared` is what it says of
    /// itself.
    pub(crate) fn install(&self, name: &str, declared: &str, more: &str) {
        let text = format!(
            "#!/bin/sh\n# azdr-hook: {declared}\necho \"{name} $1 $2\" >> FOLDER/log\n{more}\n"
        );
        self.script(&self.path("hooks.d").join(name), &text);
    }

    /// Installs the shipped hook for systemd's units, with these units and this `systemctl`.
    pub(crate) fn install_units(&self, units: &str, systemctl: &str) {
        self.script(&self.path("systemctl"), systemctl);
        let mut text = include_str!("../../../deploy/hooks/systemd-units").to_owned();
        for (from, to) in [
            ("example.service", units),
            ("/run/azdr-stopped-units", "FOLDER/noted"),
            ("/usr/bin/systemctl", "FOLDER/systemctl"),
        ] {
            assert!(text.contains(from));
            text = text.replace(from, to);
        }
        self.script(&self.path("hooks.d/10-units"), &text);
    }

    /// `[hooks]`, with these lines.
    fn settings(&self, more: &str) -> String {
        format!("[hooks]\ndirectory = {:?}\n{more}\n", self.path("hooks.d"))
    }

    pub(crate) async fn scene(&self, more: &str) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mounts = vec![LoopMount::ext4(folder.path(), "disk")];
        scene_with(folder, mounts, &self.settings(more)).await
    }
}

const HOLD: &str =
    "[ $1 = pre ] || exit 0; echo READY >&3; cat <&4; echo \"released\" >> FOLDER/log";

impl Scene {
    /// Freezes, thaws, and waits for the hooks.
    pub(crate) async fn whole(&mut self, operation: &str) -> ThawReply {
        self.frozen(operation, 3_000, 10_000).await;
        self.ended(operation).await
    }

    /// Thaws and waits for the hooks.
    pub(crate) async fn ended(&mut self, operation: &str) -> ThawReply {
        let first = self.thawed(operation).await;
        self.mounts.iter().for_each(LoopMount::assert_writable);
        if !first.hooks_pending {
            return first;
        }
        assert!(!first.hooks_succeeded && first.hooks_limit_ms >= 120_000, "{first:?}");
        let last = self.thawed(operation).await;
        assert!(!last.hooks_pending && last.unbroken == first.unbroken, "{last:?}");
        last
    }

    async fn refused(&mut self, operation: &str) -> FreezeReply {
        self.session.tell(freeze(operation, 3_000, 10_000)).await;
        let reply = freeze_reply(&mut self.session).await;
        assert_eq!(reply.outcome(), FreezeOutcome::Refused, "{reply:?}");
        beat_in(&mut self.session, QuiesceState::Idle).await;
        self.mounts.iter().for_each(LoopMount::assert_writable);
        reply
    }
}

fn alone(hooks: &[HookResult]) -> &HookResult {
    let [hook] = hooks else { panic!("{hooks:?}") };
    hook
}

async fn hooks_run_before_the_freeze_and_in_reverse_after_the_thaw() {
    let hooks = Hooks::new();
    hooks.install("10-first", "oneshot", "");
    hooks.install("20-second", "oneshot application", "echo done; exit 0");
    let mut scene = hooks.scene("").await;
    assert!(scene.session.hello.hooks_limit_ms >= 120_000, "{:?}", scene.session.hello);
    scene.frozen("op-1", 3_000, 10_000).await;
    assert_eq!(hooks.log(), ["10-first pre op-1", "20-second pre op-1"]);
    let reply = scene.ended("op-1").await;
    let all =
        ["10-first pre op-1", "20-second pre op-1", "20-second post op-1", "10-first post op-1"];
    assert_eq!(hooks.log(), all);
    assert!(reply.unbroken && reply.hooks_succeeded, "{reply:?}");
    assert_eq!(reply.hooks_problem, "");
    let [first, second] = reply.hooks.as_slice() else { panic!("{reply:?}") };
    assert_eq!((first.name.as_str(), first.application), ("10-first", false));
    assert_eq!((second.kind(), second.application), (HookKind::Oneshot, true));
    let verbs: Vec<_> = second.runs.iter().map(|run| (run.verb(), run.exit_code)).collect();
    assert_eq!(verbs, [(HookVerb::Pre, Some(0)), (HookVerb::Post, Some(0))]);
    assert!(second.runs.iter().all(|run| run.succeeded && run.output == "done"), "{second:?}");
    scene.session.tell(thaw("op-1")).await;
    assert_eq!(thaw_reply(&mut scene.session).await, reply, "kept, to be asked for again");
}

async fn a_hook_runs_in_a_clean_place() {
    let hooks = Hooks::new();
    let look = "{ env | grep -v -e ^PWD= -e ^OLDPWD= -e ^_= -e ^SHLVL=; pwd; umask; readlink \
                /proc/self/fd/0; ulimit -c; id -u; } > FOLDER/$1; ls /proc/$$/fd > FOLDER/fds; \
                ps -o sid= -p $$ | tr -d ' ' > FOLDER/sid; echo $$ > FOLDER/pid";
    hooks.install("10-look", "oneshot", look);
    let mut scene = hooks.scene("").await;
    scene.whole("op-1").await;
    let expected = "LC_ALL=C\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n\
                    /\n0077\n/dev/null\n0\n0\n";
    let mut lines: Vec<_> = hooks.text("pre").lines().map(str::to_owned).collect();
    lines.get_mut(..2).unwrap().sort();
    assert_eq!(lines.join("\n") + "\n", expected);
    assert_eq!(hooks.text("sid"), hooks.text("pid"), "a session of its own");
    // 5 is the program; the shell itself has another one for it.
    let fds = hooks.text("fds");
    assert!(!fds.lines().any(|fd| fd == "3" || fd == "4"), "{fds}");
    assert!(fds.lines().count() <= 6, "{fds}");
}

async fn a_hook_is_not_spared_by_the_out_of_memory_killer_as_the_agent_is() {
    let hooks = Hooks::new();
    hooks.install("10-look", "oneshot", "cat /proc/self/oom_score_adj > FOLDER/$1");
    let mut scene = hooks.scene("").await;
    let score = format!("/proc/{}/oom_score_adj", scene.agent.id());
    // As the unit has it; any other value where only CAP_SYS_RESOURCE is missing for that.
    fs::write(&score, "-900").or_else(|_| fs::write(&score, "300")).unwrap();
    let given = fs::read_to_string(&score).unwrap();
    assert!(["-900\n", "300\n"].contains(&given.as_str()), "{given}");
    scene.whole("op-1").await;
    assert_eq!((hooks.text("pre"), hooks.text("post")), ("0\n".into(), "0\n".into()));
    assert_eq!(fs::read_to_string(&score).unwrap(), given, "the agent keeps its own");
}

async fn ten_megabytes_of_output_hold_nobody_up() {
    let hooks = Hooks::new();
    hooks.install(
        "10-loud",
        "application",
        "head -c 10485760 /dev/zero | tr '\\0' x; echo end >&2",
    );
    let mut scene = hooks.scene("").await;
    let reply = scene.whole("op-1").await;
    assert!(reply.hooks_succeeded, "{reply:?}");
    for run in &alone(&reply.hooks).runs {
        assert!(run.output.len() <= 1_024, "{}", run.output.len());
        assert!(run.output.starts_with("xxx") && run.output.ends_with("xend"), "{}", run.output);
    }
}

/// Whether the process whose id is in the file is gone, or a zombie of somebody else's.
pub(crate) fn is_gone(hooks: &Hooks, name: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", hooks.text(name).trim()));
    !stat.is_ok_and(|stat| !stat.contains(") Z "))
}

async fn a_daemon_that_a_hook_leaves_behind_is_seen_and_not_waited_for() {
    let hooks = Hooks::new();
    // It keeps the hook's output open.
    let leave = "[ $1 = pre ] || exit 0; setsid sleep 600 & echo $! > FOLDER/pid";
    hooks.install("10-daemon", "oneshot", leave);
    let mut scene = hooks.scene("").await;
    let reply = scene.whole("op-1").await;
    assert!(!is_gone(&hooks, "pid"), "what a hook has started well is its own");
    let pid = hooks.text("pid");
    assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    let run = &alone(&reply.hooks).runs[0];
    assert!(run.succeeded && run.took_ms < 5_000, "{run:?}");
    assert_eq!(run.left_behind > 0, run.in_cgroup, "{run:?}");
}

async fn a_late_hook_is_killed_with_all_that_it_started() {
    let hooks = Hooks::new();
    let late = "[ $1 = pre ] || exit 0; setsid sleep 600 & echo $! > FOLDER/daemon; \
                sleep 601 & echo $! > FOLDER/child; wait";
    hooks.install("10-late", "oneshot", late);
    let mut scene = hooks.scene("on_failure = 'fail'\npre_limit_secs = 1").await;
    let reply = scene.refused("op-1").await;
    assert!(reply.hook_forbids && reply.reason.contains("10-late"), "{reply:?}");
    assert!(reply.reason.contains("still running after 1 s"), "{reply:?}");
    assert_eq!(hooks.log(), ["10-late pre op-1", "10-late abort op-1"]);
    wait_for("its child to be killed", Duration::from_secs(5), || is_gone(&hooks, "child"));
    if alone(&reply.hooks).runs[0].in_cgroup {
        let what = "what left its process group to be killed";
        wait_for(what, Duration::from_secs(5), || is_gone(&hooks, "daemon"));
    } else {
        let pid = hooks.text("daemon");
        assert!(Command::new("kill").arg(pid.trim()).status().unwrap().success());
    }
}

async fn a_hook_that_ignores_sigterm_is_killed_and_gets_its_abort() {
    let hooks = Hooks::new();
    hooks.install("10-first", "oneshot", "");
    let deaf = "[ $1 = pre ] || exit 0; trap 'echo asked >> FOLDER/log' TERM; \
                while :; do sleep 0.1; done";
    hooks.install("20-deaf", "oneshot", deaf);
    hooks.install("30-never", "oneshot", "");
    let each = "[hooks.each.\"20-deaf\"]\npre_limit_secs = 1\non_failure = 'fail'";
    let mut scene = hooks.scene(each).await;
    let reply = scene.refused("op-1").await;
    assert!(reply.hook_forbids, "{reply:?}");
    let expected = [
        "10-first pre op-1",
        "20-deaf pre op-1",
        "asked",
        "20-deaf abort op-1",
        "10-first abort op-1",
    ];
    assert_eq!(hooks.log(), expected, "the third was not started, and gets nothing");
    let took = reply.hooks[1].runs[0].took_ms;
    assert!((3_000..6_000).contains(&took), "1 s, then 2 s after SIGTERM: {took} ms");
}

async fn a_failed_hook_lets_the_freeze_go_on_but_is_never_called_a_success() {
    let hooks = Hooks::new();
    hooks.install("10-good", "application", "");
    hooks.install("20-bad", "oneshot", "[ $1 = abort ] || { echo no disk; exit 3; }");
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 3_000, 10_000).await;
    assert_eq!(hooks.log(), ["10-good pre op-1", "20-bad pre op-1", "20-bad abort op-1"]);
    let reply = scene.ended("op-1").await;
    assert!(reply.unbroken && !reply.hooks_succeeded, "{reply:?}");
    assert_eq!(reply.hooks_problem, "hook 20-bad: exit code 3");
    assert_eq!(reply.hooks[1].runs[0].output, "no disk");
    assert_eq!(hooks.log().len(), 4);
    assert_eq!(hooks.log()[3], "10-good post op-1", "each had its one post or abort");
}

async fn exit_codes_and_signals_are_told() {
    for (ends, words, code) in [
        ("exit 77", "exit code 77", Some(77)),
        ("exit 255", "exit code 255", Some(255)),
        ("kill -9 $$", "killed by signal 9", None),
        ("kill -15 $$", "killed by signal 15", None),
    ] {
        let hooks = Hooks::new();
        hooks.install("10-ends", "application", &format!("[ $1 = post ] || exit 0; {ends}"));
        let mut scene = hooks.scene("").await;
        let reply = scene.whole("op-1").await;
        let run = &alone(&reply.hooks).runs[1];
        assert_eq!((run.verb(), run.end.as_str()), (HookVerb::Post, words));
        assert_eq!((run.exit_code, run.succeeded), (code, false));
        assert!(reply.unbroken && !reply.hooks_succeeded, "{reply:?}");
        assert_eq!(hooks.log().len(), 2, "a post that fails gets no abort");
    }
}

async fn post_writes_to_the_file_system_that_was_frozen() {
    let hooks = Hooks::new();
    let folder = tempfile::tempdir().unwrap();
    let mounts = vec![LoopMount::ext4(folder.path(), "disk")];
    let file = mounts[0].path().join("written");
    hooks.install("10-write", "application", &format!("echo \"$1\" >> {file:?}; sync {file:?}"));
    let mut scene = scene_with(folder, mounts, &hooks.settings("post_limit_secs = 5")).await;
    let reply = scene.whole("op-1").await;
    assert!(reply.hooks_succeeded, "{reply:?}");
    assert_eq!(fs::read_to_string(file).unwrap(), "pre\npost\n");
}

async fn what_is_run_is_what_was_checked() {
    let hooks = Hooks::new();
    hooks.script(&hooks.path("evil"), "#!/bin/sh\necho evil >> FOLDER/log\n");
    // Between the check of the second and its start.
    let swap = "[ $1 = pre ] || exit 0; cd FOLDER/hooks.d; rm 20-swapped; ln -s ../evil 20-swapped";
    hooks.install("10-swap", "oneshot", swap);
    hooks.install("20-swapped", "application", "");
    let mut scene = hooks.scene("").await;
    let reply = scene.whole("op-1").await;
    let expected =
        ["10-swap pre op-1", "20-swapped pre op-1", "20-swapped post op-1", "10-swap post op-1"];
    assert_eq!(hooks.log(), expected);
    assert!(reply.hooks_succeeded, "{reply:?}");
    let reply = scene.whole("op-2").await;
    assert!(reply.hooks_problem.contains("20-swapped is a symbolic link"), "{reply:?}");
    assert!(!hooks.log().contains(&"evil".to_owned()));
}

async fn what_others_could_change_is_refused() {
    type Spoil = fn(&Hooks);
    fn mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let spoilers: [(&str, Spoil); 11] = [
        ("must not be writable by group", |h| mode(h.folder.path(), 0o770)),
        ("must not be writable by group", |h| mode(&h.path("hooks.d"), 0o702)),
        ("must have 0700", |h| mode(&h.path("hooks.d/10-hook"), 0o770)),
        ("must have 0700", |h| mode(&h.path("hooks.d/10-hook"), 0o755)),
        ("must have 0700", |h| mode(&h.path("hooks.d/10-hook"), 0o4700)),
        ("must belong to root", |h| {
            chown(h.path("hooks.d/10-hook"), Some(65_534), None).unwrap();
        }),
        ("must belong to root", |h| chown(h.path("hooks.d"), Some(65_534), None).unwrap()),
        ("is a symbolic link", |h| {
            fs::rename(h.path("hooks.d/10-hook"), h.path("real")).unwrap();
            symlink(h.path("real"), h.path("hooks.d/10-hook")).unwrap();
        }),
        ("or is a symbolic link", |h| {
            fs::rename(h.path("hooks.d"), h.path("real")).unwrap();
            symlink(h.path("real"), h.path("hooks.d")).unwrap();
        }),
        ("is not a regular file", |h| {
            fs::rename(h.path("hooks.d/10-hook"), h.path("real")).unwrap();
            fs::create_dir(h.path("hooks.d/10-hook")).unwrap();
        }),
        ("NN-name", |h| {
            fs::rename(h.path("hooks.d/10-hook"), h.path("hooks.d/10-$(reboot)")).unwrap();
        }),
    ];
    for (number, (words, spoil)) in spoilers.into_iter().enumerate() {
        let hooks = Hooks::new();
        hooks.install("10-hook", "application", "");
        spoil(&hooks);
        let mut scene = hooks.scene("on_failure = 'fail'").await;
        let reply = scene.refused("op-1").await;
        assert!(reply.reason.contains(words) && reply.hook_forbids, "{number}: {reply:?}");
        assert_eq!(hooks.log(), [""; 0], "{number}");
    }
}

async fn no_text_reaches_a_shell() {
    let hooks = Hooks::new();
    let evil = format!("$(touch {})", hooks.path("evil").display());
    hooks.install(
        "10-hook",
        "application",
        "printf '%s' '$(reboot)'; printf '$(reboot) %s' \"$2\"",
    );
    // A directory's name.
    let folder = hooks.path("$(reboot); x");
    fs::rename(hooks.path("hooks.d"), &folder).unwrap();
    let azure = hooks.path("azure.json");
    let (pre, post) = (hooks.path("pre.sh"), hooks.path("post.sh"));
    for script in [&pre, &post] {
        hooks.script(script, "#!/bin/sh\nprintf '%s\\n' \"$@\" >> FOLDER/arguments\n");
    }
    let json = serde_json::json!({
        "preScriptLocation": pre, "postScriptLocation": post,
        "preScriptParams": [evil, "`reboot`", "; reboot", ""], "postScriptParams": ["$(reboot)"],
    });
    fs::write(&azure, json.to_string()).unwrap();
    fs::set_permissions(&azure, fs::Permissions::from_mode(0o600)).unwrap();
    let (mounts, more) = (tempfile::tempdir().unwrap(), "azure_scripts");
    let mount = vec![LoopMount::ext4(mounts.path(), "$(reboot) `reboot`")];
    let more = format!("[hooks]\ndirectory = {folder:?}\n{more} = {azure:?}\n");
    let mut scene = scene_with(mounts, mount, &more).await;
    scene.session.tell(freeze(&evil, 3_000, 10_000)).await;
    let refused = freeze_reply(&mut scene.session).await;
    assert!(refused.reason.contains("operation_id"), "{refused:?}");
    assert_eq!(hooks.log(), [""; 0], "no hook runs for a request that is refused");
    let Tell::Freeze(request) = freeze("op-1", 3_000, 10_000) else { unreachable!() };
    scene.session.tell(Tell::Freeze(Freeze { recovery_point: evil.clone(), ..request })).await;
    assert_eq!(freeze_reply(&mut scene.session).await.outcome(), FreezeOutcome::Frozen);
    let reply = scene.ended("op-1").await;
    assert!(reply.hooks_succeeded, "{reply:?}");
    assert_eq!(reply.hooks[0].runs[0].output, "$(reboot)$(reboot) op-1");
    assert_eq!(hooks.text("arguments"), format!("{evil}\n`reboot`\n; reboot\n\n$(reboot)\n"));
    assert!(!hooks.path("evil").exists());
}

async fn a_hook_that_holds_does_so_from_before_the_freeze_until_after_the_thaw() {
    let hooks = Hooks::new();
    hooks.install("10-hold", "hold application", HOLD);
    hooks.install("20-after", "oneshot", "");
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 3_000, 10_000).await;
    assert_eq!(hooks.log(), ["10-hold pre op-1", "20-after pre op-1"]);
    let reply = scene.ended("op-1").await;
    let all = ["10-hold pre op-1", "20-after pre op-1", "20-after post op-1", "released"];
    assert_eq!(hooks.log(), all);
    assert!(reply.hooks_succeeded, "{reply:?}");
    let hold = &reply.hooks[0];
    assert_eq!((hold.kind(), hold.problem.as_str()), (HookKind::Hold, ""));
    let runs: Vec<_> = hold.runs.iter().map(|r| (r.verb(), r.end.as_str(), r.exit_code)).collect();
    assert_eq!(runs, [(HookVerb::Pre, "READY", None), (HookVerb::Post, "exit code 0", Some(0))]);
}

async fn a_hook_that_lost_what_it_held_is_no_success() {
    for (what, words) in [
        ("echo $$ > FOLDER/pid; read x <&4", "killed by signal 9 before the thaw"),
        ("echo $$ > FOLDER/pid; trap 'echo LOST >&3' USR1; while :; do sleep 0.05; done", "LOST"),
        ("cat <&4; exit 4", "exit code 4"),
    ] {
        let hooks = Hooks::new();
        let what = format!("[ $1 = pre ] || exit 0; echo READY >&3; {what}");
        hooks.install("10-hold", "hold application", &what);
        let mut scene = hooks.scene("post_limit_secs = 2").await;
        scene.frozen("op-1", 3_000, 10_000).await;
        if words.contains("signal") || words == "LOST" {
            let signal = if words == "LOST" { "-USR1" } else { "-KILL" };
            let pid = hooks.text("pid");
            let kill = Command::new("kill").arg(signal).arg(pid.trim()).status().unwrap();
            assert!(kill.success());
            let log = hooks.folder.path().join("pid");
            let seen = || {
                let stat = format!("/proc/{}/stat", pid.trim());
                let stat = fs::read_to_string(stat).unwrap_or_default();
                // The signal's handler has run when the shell waits for its next sleep.
                words == "LOST" || !stat.contains(") S ")
            };
            wait_for("the hook to be hit", Duration::from_secs(2), seen);
            assert!(log.exists());
            // The agent looks after the thaw; a hold of one renewal gives the handler its time.
            beat_in(&mut scene.session, QuiesceState::Frozen).await;
            beat_in(&mut scene.session, QuiesceState::Frozen).await;
        }
        let reply = scene.ended("op-1").await;
        assert!(reply.unbroken && !reply.hooks_succeeded, "{words}: {reply:?}");
        assert!(reply.hooks_problem.contains(words), "{words}: {reply:?}");
        assert_eq!(hooks.log(), ["10-hold pre op-1", "10-hold abort op-1"], "{words}");
    }
}

async fn a_hook_that_does_not_get_ready_is_aborted() {
    for (what, words) in [
        ("sleep 600", "not READY within 1 s"),
        ("exit 0", "exit code 0 before it was READY"),
        ("echo STEADY >&3; sleep 600", "said \"STEADY\\n\" instead of READY"),
        ("exec 3>&-; sleep 600", "not READY within 1 s"),
    ] {
        let hooks = Hooks::new();
        let what = format!("[ $1 = pre ] || exit 0; {what}");
        hooks.install("10-hold", "hold", &what);
        let mut scene = hooks.scene("on_failure = 'fail'\npre_limit_secs = 1").await;
        let reply = scene.refused("op-1").await;
        assert!(reply.reason.contains(words), "{reply:?}");
        assert_eq!(hooks.log(), ["10-hold pre op-1", "10-hold abort op-1"]);
    }
}

/// Starts the agent again, and waits until it has seen to what was left.
async fn restarted(scene: &mut Scene) {
    scene.agent.signal("KILL");
    scene.agent.ended();
    scene.agent = scene.machine.start_agent();
    scene.session = scene.controller.protected().await;
    beat_in(&mut scene.session, QuiesceState::Idle).await;
}

async fn an_agent_killed_between_pre_and_post_aborts_after_its_restart() {
    let hooks = Hooks::new();
    hooks.install("10-first", "oneshot", "");
    hooks.install("20-hold", "hold", HOLD);
    hooks.install("30-last", "oneshot", "");
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 10_000, 25_000).await;
    restarted(&mut scene).await;
    wait_for("the last abort", Duration::from_secs(10), || {
        hooks.log().last().is_some_and(|line| line == "10-first abort op-1")
    });
    let log = hooks.log();
    let verbs: Vec<&str> = log.iter().map(String::as_str).filter(|l| *l != "released").collect();
    let expected = [
        "10-first pre op-1",
        "20-hold pre op-1",
        "30-last pre op-1",
        "30-last abort op-1",
        "20-hold abort op-1",
        "10-first abort op-1",
    ];
    assert_eq!(verbs, expected);
    let (released, aborted) = (log.iter().position(|l| l == "released").unwrap(), 4);
    assert!(released <= aborted, "the agent's death released it: {log:?}");
    assert!(scene.whole("op-2").await.unbroken);
    restarted(&mut scene).await;
    let again = hooks.log().iter().filter(|line| line.ends_with("abort op-1")).count();
    assert_eq!(again, 3, "exactly once");
}

async fn an_agent_killed_in_a_pre_ends_it_and_aborts_after_its_restart() {
    let hooks = Hooks::new();
    let slow = "[ $1 = pre ] || exit 0; echo $$ > FOLDER/pid; sleep 600";
    hooks.install("10-slow", "oneshot", slow);
    let mut scene = hooks.scene("").await;
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    beat_in(&mut scene.session, QuiesceState::HookPre).await;
    wait_for("the pre", Duration::from_secs(5), || hooks.path("pid").exists());
    restarted(&mut scene).await;
    wait_for("the abort", Duration::from_secs(10), || hooks.log().len() == 2);
    assert_eq!(hooks.log(), ["10-slow pre op-1", "10-slow abort op-1"]);
    assert!(is_gone(&hooks, "pid"), "ended before its abort");
}

async fn an_agent_killed_in_a_post_runs_it_again() {
    let hooks = Hooks::new();
    let slow = "[ $1 = post ] || exit 0; [ -e FOLDER/again ] || { touch FOLDER/again; sleep 600; }";
    hooks.install("10-slow", "oneshot", slow);
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 3_000, 10_000).await;
    scene.session.tell(thaw("op-1")).await;
    beat_in(&mut scene.session, QuiesceState::HookPost).await;
    wait_for("the post", Duration::from_secs(5), || hooks.path("again").exists());
    restarted(&mut scene).await;
    wait_for("the post again", Duration::from_secs(10), || hooks.log().len() == 3);
    assert_eq!(hooks.log(), ["10-slow pre op-1", "10-slow post op-1", "10-slow post op-1"]);
}

async fn what_is_not_recovered_within_the_limit_is_tried_again() {
    let hooks = Hooks::new();
    hooks.install("10-first", "oneshot", "");
    hooks.install("20-also", "oneshot", "[ $1 = abort ] || exit 0; exec sleep 600");
    hooks.install("30-slow", "oneshot", "[ $1 = abort ] || exit 0; exec sleep 600");
    let mut scene = hooks.scene("total_limit_secs = 4").await;
    scene.frozen("op-1", 10_000, 25_000).await;
    let aborts = |names: &[&str]| {
        let of = |name: &&str| format!("{name} abort op-1");
        names.iter().map(of).collect::<Vec<_>>()
    };
    let log = |from: usize| hooks.log().split_off(from);
    restarted(&mut scene).await;
    assert_eq!(log(3), aborts(&["30-slow"]), "it took all of the time, and has had its turn");
    // The next agent goes on where this one has stopped, and so does the next operation.
    restarted(&mut scene).await;
    assert_eq!(log(4), aborts(&["20-also"]));
    scene.frozen("op-2", 10_000, 25_000).await;
    assert_eq!(log(5)[..2], ["10-first abort op-1", "10-first pre op-2"]);
    assert!(scene.thawed("op-2").await.hooks_pending);
    assert!(scene.thawed("op-2").await.unbroken, "the answer to this one waits for the hooks");
}

async fn an_abort_that_cannot_be_started_is_tried_again() {
    let hooks = Hooks::new();
    hooks.install("10-hook", "oneshot", "");
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 10_000, 25_000).await;
    let program = hooks.path("hooks.d/10-hook");
    let good = fs::read_to_string(&program).unwrap();
    hooks.script(&program, "#!/no/such/interpreter\n");
    restarted(&mut scene).await;
    hooks.script(&program, &good);
    // Where its process would be noted.
    let notes: Vec<_> =
        (0..9).map(|n| scene.machine.run_dir().join(format!("hooks/{n}.stat"))).collect();
    let in_the_way = || notes.iter().filter(|note| fs::create_dir(note).is_ok()).count() > 0;
    assert!(in_the_way());
    restarted(&mut scene).await;
    assert_eq!(hooks.log(), ["10-hook pre op-1"], "neither could start it");
    notes.iter().for_each(|note| drop(fs::remove_dir(note)));
    assert!(scene.whole("op-2").await.unbroken);
    let expected =
        ["10-hook pre op-1", "10-hook abort op-1", "10-hook pre op-2", "10-hook post op-2"];
    assert_eq!(hooks.log(), expected);
}

async fn a_post_that_cannot_be_started_is_made_good_before_the_next_operation() {
    let hooks = Hooks::new();
    hooks.install("10-hook", "oneshot", "");
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 10_000, 25_000).await;
    // Where the process of its `post` would be noted.
    let note = scene.machine.run_dir().join("hooks/1.stat");
    fs::create_dir(&note).unwrap();
    let reply = scene.ended("op-1").await;
    assert!(reply.unbroken && !reply.hooks_succeeded, "{reply:?}");
    fs::remove_dir(&note).unwrap();
    assert!(scene.whole("op-2").await.unbroken);
    let expected =
        ["10-hook pre op-1", "10-hook abort op-1", "10-hook pre op-2", "10-hook post op-2"];
    assert_eq!(hooks.log(), expected);
}

async fn a_thaw_while_hooks_run_cuts_them_short_and_aborts() {
    let hooks = Hooks::new();
    hooks.install("10-hold", "hold", HOLD);
    hooks.install("20-slow", "oneshot", "[ $1 = pre ] || exit 0; sleep 600");
    let mut scene = hooks.scene("").await;
    scene.session.tell(freeze("op-1", 3_000, 10_000)).await;
    beat_in(&mut scene.session, QuiesceState::HookPre).await;
    wait_for("the second pre", Duration::from_secs(5), || hooks.log().len() == 2);
    scene.session.tell(thaw("op-1")).await;
    let reply = freeze_reply(&mut scene.session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Refused);
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    let expected = ["10-hold pre op-1", "20-slow pre op-1", "20-slow abort op-1", "released"];
    assert_eq!(hooks.log(), expected);
    let reply = scene.ended("op-1").await;
    assert_eq!(reply.hooks[1].problem, "cut short: the operation was ended", "{reply:?}");
}

async fn an_agent_told_to_end_runs_its_hooks_to_the_end() {
    let hooks = Hooks::new();
    hooks.install("10-first", "oneshot", "");
    hooks.install("20-hold", "hold", HOLD);
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 10_000, 25_000).await;
    scene.agent.signal("TERM");
    assert!(scene.agent.ended());
    let expected = ["10-first pre op-1", "20-hold pre op-1", "released", "10-first post op-1"];
    assert_eq!(hooks.log(), expected);
    scene.mounts[0].assert_writable();
}

async fn a_broken_hold_is_aborted() {
    let hooks = Hooks::new();
    hooks.install("10-hook", "application", "");
    let mut scene = hooks.scene("").await;
    scene.frozen("op-1", 500, 10_000).await;
    beat_in(&mut scene.session, QuiesceState::Idle).await;
    assert_eq!(hooks.log(), ["10-hook pre op-1", "10-hook abort op-1"]);
    let reply = scene.ended("op-1").await;
    assert!(!reply.unbroken && !reply.hooks_succeeded, "{reply:?}");
}

async fn azures_scripts_are_run_under_our_rules() {
    let hooks = Hooks::new();
    let (pre, post) = (hooks.path("pre.sh"), hooks.path("post.sh"));
    let called = "echo \"$0 in $(pwd)\" > FOLDER/called";
    hooks.script(
        &pre,
        &format!("#!/bin/sh\necho \"pre $# $1\" >> FOLDER/log; {called}; exec sh FOLDER/more\n"),
    );
    hooks.script(&post, "#!/bin/sh\necho \"post $# $1\" >> FOLDER/log\n");
    fs::write(hooks.path("more"), "exit 0").unwrap();
    let config = hooks.path("VMSnapshotScriptPluginConfig.json");
    let write = |go_on: bool, freeze: bool| {
        let text = serde_json::json!({
            "pluginName": "ScriptRunner", "preScriptLocation": pre, "postScriptLocation": post,
            "preScriptParams": ["a", "b"], "postScriptParams": ["c"], "preScriptNoOfRetries": 3,
            "postScriptNoOfRetries": 3, "timeoutInSeconds": 1, "continueBackupOnFailure": go_on,
            "fsFreezeEnabled": freeze, "ScriptsExecutionPollTimeSeconds": 3,
        });
        fs::write(&config, text.to_string()).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(false, true);
    hooks.install("10-own", "oneshot", "");
    let mut scene = hooks.scene(&format!("azure_scripts = {config:?}")).await;
    let reply = scene.whole("op-1").await;
    assert_eq!(hooks.log(), ["10-own pre op-1", "pre 2 a", "post 1 c", "10-own post op-1"]);
    assert!(reply.hooks_succeeded, "{reply:?}");
    assert_eq!(reply.hooks[1].name, "azure-scripts");
    // docs/hooks.md says so, to those who look for files beside a script.
    assert_eq!(hooks.text("called"), "/proc/self/fd/5 in /\n");
    // Late: killed, not left running as Azure's runner does; its post-script is its abort.
    fs::write(hooks.path("more"), "echo $$ > ${0%more}pid; exec sleep 600").unwrap();
    let late = scene.refused("op-2").await;
    assert!(late.hook_forbids && late.reason.contains("still running after 1 s"), "{late:?}");
    assert!(is_gone(&hooks, "pid"));
    assert_eq!(hooks.log()[6], "post 1 c");
    // Allowed to fail.
    write(true, true);
    fs::write(hooks.path("more"), "exit 1").unwrap();
    let reply = scene.whole("op-3").await;
    assert_eq!(reply.hooks_problem, "hook azure-scripts: exit code 1");
    // Refused: no freeze; others may read the file; a script without an interpreter.
    write(true, false);
    let reply = scene.whole("op-4").await;
    assert!(reply.hooks_problem.contains("`fsFreezeEnabled`: false"), "{reply:?}");
    write(true, true);
    fs::set_permissions(&config, fs::Permissions::from_mode(0o644)).unwrap();
    let reply = scene.whole("op-5").await;
    assert!(reply.hooks_problem.contains("must have 0600"), "{reply:?}");
    write(true, true);
    hooks.script(&pre, "echo without\n");
    let reply = scene.whole("op-6").await;
    assert!(reply.hooks_problem.contains("first line must be #!"), "{reply:?}");
    let count = |log: &[String]| log.iter().filter(|line| line.starts_with("post 1")).count();
    assert_eq!(count(&hooks.log()), 3, "a pre that was not started gets no post");
}

async fn a_run_directory_on_a_disk_lets_no_hook_run() {
    let hooks = Hooks::new();
    hooks.install("10-hook", "application", "");
    let on_disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut scene = hooks.scene("").await;
    let path = scene.machine.path("agent.toml");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix("run_dir = ") {
        Some(_) => format!("run_dir = {:?}", on_disk.path()),
        None => line.to_owned(),
    });
    fs::write(&path, lines.collect::<Vec<_>>().join("\n")).unwrap();
    restarted(&mut scene).await;
    let reply = scene.whole("op-1").await;
    assert!(reply.hooks_problem.contains("`run_dir`"), "{reply:?}");
    assert_eq!(hooks.log(), [""; 0]);
}

async fn a_restored_machine_runs_no_hooks() {
    let hooks = Hooks::new();
    hooks.install("10-hook", "application", "");
    let mut scene = hooks.scene("").await;
    scene.agent.signal("TERM");
    assert!(scene.agent.ended());
    scene.machine.becomes("11111111-2222-3333-4444-555555555555");
    scene.agent = scene.machine.start_agent();
    let mut session: Session = scene.controller.session().await;
    assert!(session.restored && session.hello.hooks_limit_ms == 0, "{:?}", session.hello);
    session.welcome(SessionMode::Restored, false).await;
    session.tell(freeze("op-1", 3_000, 10_000)).await;
    assert_eq!(freeze_reply(&mut session).await.outcome(), FreezeOutcome::Refused);
    assert_eq!(hooks.log(), [""; 0]);
}

async fn systemd_units_that_were_active_are_started_again() {
    let hooks = Hooks::new();
    // Two of three units run.
    let systemctl = "#!/bin/sh\n[ $1 = --quiet ] && shift\necho \"$1 $2\" >> FOLDER/log\n\
                     [ \"$1 $2\" != \"is-active b.service\" ]\n";
    hooks.install_units("a.service b.service c.service", systemctl);
    let mut scene = hooks.scene("").await;
    let reply = scene.whole("op-1").await;
    assert!(reply.hooks_succeeded, "{reply:?}");
    let all = [
        "is-active a.service",
        "stop a.service",
        "is-active b.service",
        "is-active c.service",
        "stop c.service",
        "start c.service",
        "start a.service",
    ];
    assert_eq!(hooks.log(), all);
    assert!(!hooks.path("noted").exists());
    scene.frozen("op-2", 10_000, 25_000).await;
    restarted(&mut scene).await;
    wait_for("the units to be started", Duration::from_secs(10), || hooks.log().len() == 14);
    assert_eq!(hooks.log().split_off(12), ["start c.service", "start a.service"]);
}
