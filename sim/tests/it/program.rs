//! The program itself: ready line, `kill -9`, restart, SIGTERM.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use azdr_env::sleep;
use azure_sim::guests::simulated::BOOTABLE;
use bytes::Bytes;
use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};

use crate::cloud::{DISKS, SUBSCRIPTION, TENANT, disk_id, root_image, snapshot_path, world};

/// The running program; killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn azure_sim() -> Command {
    Command::new(env!("CARGO_BIN_EXE_azure-sim"))
}

async fn run(dir: &Path) -> (Program, Value) {
    run_with(dir, &[]).await
}

async fn run_with(dir: &Path, more: &[&str]) -> (Program, Value) {
    let ready = dir.join("ready.json");
    let _ = std::fs::remove_file(&ready);
    let child = azure_sim()
        .args(["run", "--state", "state", "--ready-file", "ready.json"])
        .args(more)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let program = Program(child);
    for _ in 0..500 {
        if let Ok(text) = std::fs::read(&ready) {
            return (program, serde_json::from_slice(&text).unwrap());
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the program does not get ready");
}

struct Caller {
    client: Client,
    base: String,
    token: String,
}

impl Caller {
    async fn new(ready: &Value) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = std::fs::read(ready["ca_path"].as_str().unwrap()).unwrap();
        let ca = Certificate::from_pem(&ca).unwrap();
        let client = Client::builder().tls_certs_only([ca]).build().unwrap();
        let base = ready["arm_endpoint"].as_str().unwrap().to_owned();
        let form = "grant_type=client_credentials&client_id=client&client_secret=secret";
        let url = format!("{base}/{TENANT}/oauth2/v2.0/token");
        let answer = client.post(url).body(form).send().await.unwrap().bytes().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        Self { client, base, token: answer["access_token"].as_str().unwrap().to_owned() }
    }

    async fn arm(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let url = format!("{}/subscriptions/{SUBSCRIPTION}{path}?api-version={DISKS}", self.base);
        let request = self.client.request(method, url).bearer_auth(&self.token);
        let response = request.body(body.to_string()).send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default())
    }

    async fn admin(&self, method: Method, path: &str, body: &'static str) -> (u16, Bytes) {
        let url = format!("{}/_sim/{path}", self.base);
        let response = self.client.request(method, url).body(body).send().await.unwrap();
        (response.status().as_u16(), response.bytes().await.unwrap())
    }

    /// The one simulated machine.
    async fn machine(&self) -> Value {
        let (status, listed) = self.admin(Method::GET, "guests", "").await;
        assert_eq!(status, 200);
        serde_json::from_slice::<Value>(&listed).unwrap()[0].clone()
    }
}

#[tokio::test]
async fn simulated_machines_keep_their_disks_over_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = world();
    let files = json!({BOOTABLE: "elf"});
    world["vms"][0]["os_disk"] = json!({"name": "web-os", "size_bytes": 8 << 20, "files": files});
    std::fs::write(dir.path().join("world.json"), world.to_string()).unwrap();
    let init = azure_sim()
        .args(["init", "--state", "state", "--world", "world.json"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(init.status.success(), "{init:?}");
    let simulated = ["--guests", "simulated"];
    let (mut program, ready) = run_with(dir.path(), &simulated).await;
    let caller = Caller::new(&ready).await;
    let before = caller.machine().await;
    let at = |what: &str| format!("guests/{}/{what}", before["vm_id"].as_str().unwrap());
    let file = at("file?path=/mnt/lun0/witness");
    assert_eq!(caller.admin(Method::PUT, &file, "nonce").await.0, 204);
    assert_eq!(caller.admin(Method::POST, &at("freeze"), "").await.0, 204);
    program.0.kill().unwrap();
    program.0.wait().unwrap();

    let (_program, ready) = run_with(dir.path(), &simulated).await;
    let caller = Caller::new(&ready).await;
    assert_eq!(caller.admin(Method::GET, &file, "").await, (200, Bytes::from("nonce")));
    let after = caller.machine().await;
    assert_ne!(after["boot_id"], before["boot_id"]);
    assert_eq!((&after["torn"], &after["frozen_ms"]), (&json!(false), &Value::Null));
    assert_eq!(after["disks"], before["disks"]);
}

#[tokio::test]
async fn what_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    root_image(dir.path());
    std::fs::write(dir.path().join("world.json"), world().to_string()).unwrap();
    let init = azure_sim()
        .args(["init", "--state", "state", "--world", "world.json"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(init.status.success(), "{init:?}");
    let (mut program, ready) = run(dir.path()).await;
    let caller = Caller::new(&ready).await;
    let body = json!({"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    let disk = crate::cloud::disk_path("new");
    assert_eq!(caller.arm(Method::PUT, &disk, body).await.0, 202);
    program.0.kill().unwrap();
    program.0.wait().unwrap();

    let (mut program, ready) = run(dir.path()).await;
    let caller = Caller::new(&ready).await;
    let mut found = caller.arm(Method::GET, &disk, json!({})).await;
    for _ in 0..100 {
        assert_eq!(found.0, 200);
        if found.1["properties"]["provisioningState"] == "Succeeded" {
            break;
        }
        sleep(Duration::from_millis(20)).await;
        found = caller.arm(Method::GET, &disk, json!({})).await;
    }
    assert_eq!(found.1["properties"]["provisioningState"], "Succeeded");
    let body = json!({"location": "eastus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": disk_id("new")}}});
    assert_eq!(caller.arm(Method::PUT, &snapshot_path("prod", "s"), body).await.0, 202);

    let pid = program.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(program.0.wait().unwrap().success());
    let listed = azure_sim()
        .args(["resources", "--state", "state"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("/snapshots/s"));
}
