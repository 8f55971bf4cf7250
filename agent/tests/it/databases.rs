//! The shipped hooks against real databases (hard test 19): what they hold is held for the whole window,
//! as a second session sees it, and is let go when the agent dies.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use azdr_proto::agent::{FactState, FreezeOutcome, HookVerb, QuiesceState};

use crate::checks::checked;
use crate::freeze::{Scene, beat_in, freeze, freeze_reply, scene_with};
use crate::loop_mount::{LoopMount, wait_for};

crate::tests! {
    postgresql_makes_a_checkpoint_before_the_freeze: ["mkfs.ext4", "initdb", "psql", "setpriv"],
    postgresql_is_in_backup_mode_for_the_whole_window: ["mkfs.ext4", "initdb", "psql", "setpriv"],
    a_lost_backup_session_is_no_success: ["mkfs.ext4", "initdb", "psql", "setpriv"],
    mariadb_is_locked_for_the_whole_window: ["mkfs.ext4", "mariadb-install-db", "mariadbd", "mysql"],
    a_lost_lock_is_no_success: ["mkfs.ext4", "mariadb-install-db", "mariadbd", "mysql"],
    a_lock_behind_a_long_statement_is_given_up: ["mkfs.ext4", "mariadb-install-db", "mariadbd", "mysql"],
    the_checks_of_postgresql_need_its_answer: ["mkfs.ext4", "initdb", "psql", "setpriv"],
    the_check_of_mariadb_needs_its_answer: ["mkfs.ext4", "mariadb-install-db", "mariadbd", "mysql"],
}

const LIMIT: Duration = Duration::from_secs(60);
/// After the agent's kill -9.
const RELEASED: Duration = Duration::from_secs(1);

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).current_dir("/").output().unwrap()
}

/// Standard output of something that succeeds.
#[track_caller]
fn said(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Id of a user of this system, or that of nobody.
fn user(names: &[&str]) -> (String, u32) {
    let all = fs::read_to_string("/etc/passwd").unwrap();
    let of = |name: &&str| {
        let line = all.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        Some(((*name).to_owned(), line.split(':').nth(2)?.parse().ok()?))
    };
    names.iter().find_map(of).expect("nobody is always there")
}

/// A server of this test's own, ended when it is dropped.
struct Server {
    child: Child,
    kind: &'static str,
    socket: PathBuf,
    user: String,
    folder: tempfile::TempDir,
}

impl Server {
    /// A folder that the server's user can write to.
    fn folder(uid: u32) -> tempfile::TempDir {
        let folder = tempfile::tempdir_in("/run").unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("hooks.d")).unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        let tmp = folder.path().join("tmp");
        fs::create_dir(&tmp).unwrap();
        for own in [&data, &tmp] {
            chown(own, Some(uid), None).unwrap();
            fs::set_permissions(own, fs::Permissions::from_mode(0o700)).unwrap();
        }
        folder
    }

    fn postgresql() -> Self {
        let (user, uid) = user(&["postgres", "nobody"]);
        let folder = Self::folder(uid);
        let data = folder.path().join("data").display().to_string();
        let become_user = ["--reuid", &user, "--clear-groups", "--"];
        let options = ["-D", &data, "-A", "trust", "-U", &user, "--no-sync", "--no-locale"];
        said(&run("setpriv", &[&become_user[..], &["initdb"], &options[..]].concat()));
        let options = ["-D", &data, "-k", &data, "-h", "", "-F", "-p", "5432"];
        let child = Command::new("setpriv")
            .args([&become_user[..], &["postgres"], &options[..]].concat())
            .current_dir("/")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let socket = data.into();
        let server = Self { child, kind: "postgresql", socket, user, folder };
        wait_for("PostgreSQL", LIMIT, || server.ask("SELECT 1").status.success());
        server
    }

    fn mariadb() -> Self {
        let (user, uid) = user(&["mysql", "nobody"]);
        let folder = Self::folder(uid);
        let data = folder.path().join("data");
        let socket = data.join("sock");
        let datadir = format!("--datadir={}", data.display());
        let run_as = format!("--user={user}");
        // A server that starts removes what others have left in the folder, or have not left yet.
        let tmpdir = format!("--tmpdir={}", folder.path().join("tmp").display());
        let quiet = ["--auth-root-authentication-method=socket", "--skip-test-db"];
        said(&run(
            "mariadb-install-db",
            &[&["--no-defaults", &datadir, &run_as, &tmpdir], &quiet[..]].concat(),
        ));
        let child = Command::new("mariadbd")
            .args(["--no-defaults", &datadir, &run_as, &tmpdir, "--skip-networking"])
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", data.join("pid").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self { child, kind: "mariadb", socket, user, folder };
        wait_for("MariaDB", LIMIT, || server.ask("SELECT 1").status.success());
        server
    }

    /// What a session of its own says.
    fn ask(&self, sql: &str) -> Output {
        self.client(sql).output().unwrap()
    }

    fn client(&self, sql: &str) -> Command {
        let socket = self.socket.to_str().unwrap();
        let mut command = match self.kind {
            "postgresql" => {
                let mut command = Command::new("psql");
                command.args(["-X", "-A", "-t", "-q", "-h", socket, "-U", &self.user, "-d"]);
                command.args(["postgres", "-c", sql]);
                command
            }
            _ => {
                let mut command = Command::new("mysql");
                command.args(["--no-defaults", "--batch", "--skip-column-names"]);
                command.arg(format!("--socket={socket}")).args(["-e", sql]);
                command
            }
        };
        command.stdin(Stdio::null()).current_dir("/");
        command
    }

    /// Installs a shipped hook, with the settings at its top changed.
    fn install(&self, shipped: &str, changes: &[(&str, &str)]) {
        let mut text = shipped.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        let path = self.folder.path().join("hooks.d/10-database");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    }

    fn install_postgresql(&self, shipped: &str) {
        let socket = format!("socket={}", self.socket.display());
        let user = format!("user={}", self.user);
        self.install(shipped, &[("socket=/var/run/postgresql", &socket), ("user=postgres", &user)]);
    }

    fn install_mariadb(&self) {
        let socket = format!("socket={}", self.socket.display());
        let own = [
            ("socket=/run/mysqld/mysqld.sock", socket.as_str()),
            ("mysql --protocol", "mysql --no-defaults --protocol"),
            ("lock_wait_secs=10", "lock_wait_secs=1"),
        ];
        self.install(include_str!("../../../deploy/hooks/mysql-hold"), &own);
    }

    async fn scene(&self) -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let mounts = vec![LoopMount::ext4(folder.path(), "disk")];
        let directory: &Path = &self.folder.path().join("hooks.d");
        let more = format!("[hooks]\ndirectory = {directory:?}\npost_limit_secs = 20\n");
        scene_with(folder, mounts, &more).await
    }

    fn in_backup_mode(&self) -> bool {
        let (uses, forced) = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%azdr holds%' \
             AND pid <> pg_backend_pid()",
            "SELECT count(*) FROM pg_ls_dir('.') AS f WHERE f = 'backup_label'",
        );
        assert_eq!(said(&self.ask(forced)), "0", "the label is the session's");
        said(&self.ask(uses)) != "0"
    }

    /// Whether a second session cannot write.
    fn is_locked(&self) -> bool {
        let insert = "SET SESSION lock_wait_timeout = 1; INSERT INTO test.t VALUES (1)";
        let answer = self.ask(insert);
        let errors = String::from_utf8_lossy(&answer.stderr);
        assert!(answer.status.success() || errors.contains("Lock wait timeout"), "{errors}");
        !answer.status.success()
    }
}

impl Server {
    fn stop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let pid = self.child.id().to_string();
        // PostgreSQL's fast shutdown; MariaDB's is SIGTERM.
        let signal = if self.kind == "postgresql" { "INT" } else { "TERM" };
        let _ = Command::new("kill").args(["-s", signal, &pid]).status();
        let _ = self.child.wait();
    }

    /// What the installed hook's check says of it as it runs, and when it is stopped.
    async fn expect_checked(mut self, answer: &str) {
        let mut scene = self.scene().await;
        let up = checked(&mut scene.session).await.app_probes.swap_remove(0);
        assert_eq!(up.state(), FactState::Pass, "{up:?}");
        assert!(up.detail.starts_with(answer) && up.detail.ends_with(" answers"), "{up:?}");
        self.stop();
        let down = checked(&mut scene.session).await.app_probes.swap_remove(0);
        assert_eq!(down.state(), FactState::Fail, "{down:?}");
        assert!(down.detail.starts_with("exit code ") && down.detail.len() > 30, "{down:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

const CHECKPOINT: &str = include_str!("../../../deploy/hooks/postgresql-checkpoint");
const BACKUP_MODE: &str = include_str!("../../../deploy/hooks/postgresql-hold");

async fn postgresql_makes_a_checkpoint_before_the_freeze() {
    let server = Server::postgresql();
    server.install_postgresql(CHECKPOINT);
    let place = || said(&server.ask("SELECT checkpoint_lsn FROM pg_control_checkpoint()"));
    let mut scene = server.scene().await;
    let before = place();
    scene.frozen("op-1", 3_000, 10_000).await;
    assert_ne!(place(), before);
    let reply = scene.ended("op-1").await;
    assert_eq!(reply.hooks_problem, "", "{reply:?}");
    assert!(!reply.hooks_succeeded, "a checkpoint alone is no application consistency");
}

async fn postgresql_is_in_backup_mode_for_the_whole_window() {
    let server = Server::postgresql();
    server.install_postgresql(BACKUP_MODE);
    let mut scene = server.scene().await;
    assert!(!server.in_backup_mode());
    scene.frozen("op-1", 10_000, 10_000).await;
    assert!(server.in_backup_mode());
    said(&server.ask("CREATE TABLE t (n int); INSERT INTO t VALUES (1)"));
    assert!(server.in_backup_mode());
    let reply = scene.ended("op-1").await;
    assert!(reply.hooks_succeeded, "{reply:?}");
    assert!(!server.in_backup_mode());
    // The same, but the agent is killed.
    scene.frozen("op-2", 10_000, 10_000).await;
    assert!(server.in_backup_mode());
    scene.agent.signal("KILL");
    wait_for("the session's end", RELEASED, || !server.in_backup_mode());
}

async fn a_lost_backup_session_is_no_success() {
    let server = Server::postgresql();
    server.install_postgresql(BACKUP_MODE);
    let mut scene = server.scene().await;
    scene.frozen("op-1", 10_000, 10_000).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE query LIKE '%azdr holds%' AND pid <> pg_backend_pid()";
    said(&server.ask(end));
    assert!(!server.in_backup_mode());
    let reply = scene.ended("op-1").await;
    assert!(reply.unbroken && !reply.hooks_succeeded, "{reply:?}");
    let runs = &reply.hooks[0].runs;
    let verbs: Vec<_> = runs.iter().map(|run| (run.verb(), run.succeeded)).collect();
    let expected = [(HookVerb::Pre, true), (HookVerb::Post, false), (HookVerb::Abort, true)];
    assert_eq!(verbs, expected, "{reply:?}");
}

async fn mariadb_is_locked_for_the_whole_window() {
    let server = Server::mariadb();
    server.install_mariadb();
    said(&server.ask("CREATE DATABASE IF NOT EXISTS test; CREATE TABLE test.t (n int)"));
    let mut scene = server.scene().await;
    assert!(!server.is_locked());
    scene.frozen("op-1", 10_000, 10_000).await;
    assert!(server.is_locked());
    assert_eq!(said(&server.ask("SELECT count(*) FROM test.t")), "1", "reading is possible");
    assert!(server.is_locked());
    let reply = scene.ended("op-1").await;
    assert!(reply.hooks_succeeded, "{reply:?}");
    assert!(!server.is_locked());
    // A writer that waits, and goes on when the agent is killed.
    scene.frozen("op-2", 10_000, 10_000).await;
    assert!(server.is_locked());
    let mut writer = server.client("INSERT INTO test.t VALUES (2)").spawn().unwrap();
    let waits = "SELECT count(*) FROM information_schema.processlist \
                 WHERE state LIKE 'Waiting for%lock' AND info LIKE 'INSERT%'";
    wait_for("the writer to wait", LIMIT, || said(&server.ask(waits)) == "1");
    scene.agent.signal("KILL");
    wait_for("the writer to go on", RELEASED, || writer.try_wait().unwrap().is_some());
    assert!(!server.is_locked());
}

async fn a_lost_lock_is_no_success() {
    let server = Server::mariadb();
    server.install_mariadb();
    let mut scene = server.scene().await;
    scene.frozen("op-1", 10_000, 10_000).await;
    let id = "SELECT id FROM information_schema.processlist WHERE command = 'Sleep'";
    let id = said(&server.ask(id));
    said(&server.ask(&format!("KILL {id}")));
    let reply = scene.ended("op-1").await;
    assert!(reply.unbroken && !reply.hooks_succeeded, "{reply:?}");
    assert!(reply.hooks_problem.starts_with("hook 10-database: exit code 1"), "{reply:?}");
}

async fn a_lock_behind_a_long_statement_is_given_up() {
    let server = Server::mariadb();
    server.install_mariadb();
    said(&server.ask("CREATE DATABASE IF NOT EXISTS test; CREATE TABLE test.t (n int)"));
    let mut scene = server.scene().await;
    let long = "INSERT INTO test.t SELECT SLEEP(600)";
    let mut long = server.client(long).stderr(Stdio::null()).spawn().unwrap();
    let runs = "SELECT id FROM information_schema.processlist WHERE info LIKE 'INSERT%'";
    wait_for("the long statement", LIMIT, || !said(&server.ask(runs)).is_empty());
    scene.session.tell(freeze("op-1", 10_000, 10_000)).await;
    let reply = freeze_reply(&mut scene.session).await;
    assert_eq!(reply.outcome(), FreezeOutcome::Frozen, "{reply:?}");
    let reply = scene.ended("op-1").await;
    assert!(!reply.hooks_succeeded, "{reply:?}");
    let pre = &reply.hooks[0].runs[0];
    assert!(pre.output.contains("Lock wait timeout") && pre.took_ms < 10_000, "{pre:?}");
    said(&server.ask(&format!("KILL {}", said(&server.ask(runs)))));
    long.wait().unwrap();
    beat_in(&mut scene.session, QuiesceState::Idle).await;
}

async fn the_checks_of_postgresql_need_its_answer() {
    for shipped in [CHECKPOINT, BACKUP_MODE] {
        let server = Server::postgresql();
        server.install_postgresql(shipped);
        server.expect_checked("PostgreSQL ").await;
    }
}

async fn the_check_of_mariadb_needs_its_answer() {
    let server = Server::mariadb();
    server.install_mariadb();
    server.expect_checked("MySQL ").await;
}
