//! A simulator in process, on paused time, and short words for talking to it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Env, sleep};
use azure_sim::config::{Blocking, Config, Durability, Limits};
use azure_sim::guests::none::NoGuests;
use azure_sim::latency::Profile;
use azure_sim::seed::WorldDescription;
use azure_sim::{Dropped, PersistenceError, Simulator};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
pub(crate) const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";
pub(crate) const DISKS: &str = "2024-03-02";
pub(crate) const VMS: &str = "2024-07-01";
pub(crate) const NETWORKS: &str = "2024-05-01";
pub(crate) const RESOURCES: &str = "2021-04-01";

pub(crate) struct Cloud {
    pub(crate) simulator: Simulator,
    pub(crate) dir: tempfile::TempDir,
    env: Env,
    limits: Limits,
    profile: Profile,
    token: String,
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) bytes: Bytes,
    pub(crate) body: Value,
    pub(crate) dropped: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

pub(crate) fn world() -> Value {
    json!({
        "subscription": SUBSCRIPTION, "tenant": TENANT,
        "client_id": "client", "client_secret": "secret",
        "regions": ["eastus", "westus"],
        "resource_groups": [
            {"name": "prod", "location": "eastus", "tags": {"env": "prod"}},
            {"name": "dr", "location": "westus"},
        ],
        "vms": [{
            "name": "web", "resource_group": "prod", "location": "eastus",
            "size": "Standard_D2s_v3", "public_ip": true, "tags": {"role": "web"},
            "os_disk": {"name": "web-os", "image": "root.raw"},
            "data_disks": [
                {"name": "web-data", "size_bytes": 8 << 20},
                {"name": "web-logs", "size_bytes": 8 << 20, "lun": 3},
            ],
        }],
    })
}

fn open(dir: &Path, env: &Env, limits: &Limits, profile: Profile) -> Simulator {
    // A process that another test is just starting has a copy of every descriptor until its exec, of
    // the lock's too.
    for _ in 0..400 {
        match try_open(dir, env, limits, profile) {
            Err(PersistenceError::InUse { .. }) => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            other => return other.unwrap(),
        }
    }
    panic!("the state directory stays in use");
}

fn try_open(
    dir: &Path,
    env: &Env,
    limits: &Limits,
    profile: Profile,
) -> Result<Simulator, PersistenceError> {
    let config = Config {
        state_dir: dir.join("state"),
        profile,
        seed: 7,
        limits: limits.clone(),
        blocking: Blocking::Inline,
        durability: Durability::Written,
    };
    let guests = Arc::new(NoGuests::new(Blocking::Inline));
    Simulator::open(config, env.clone(), guests)
}

/// The root disk's content: recognisable, and mostly a hole.
pub(crate) fn root_image(dir: &Path) {
    use std::os::unix::fs::FileExt;
    let image = std::fs::File::create(dir.join("root.raw")).unwrap();
    image.set_len(8 << 20).unwrap();
    image.write_all_at(b"first version", 4096).unwrap();
}

impl Cloud {
    pub(crate) async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    pub(crate) async fn with(limits: Limits) -> Self {
        Self::of(limits, Profile::Fast, world()).await
    }

    pub(crate) async fn of(limits: Limits, profile: Profile, world: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::simulated(1);
        root_image(dir.path());
        let description: WorldDescription = serde_json::from_value(world).unwrap();
        azure_sim::init(&dir.path().join("state"), &description, dir.path(), &env).unwrap();
        let simulator = open(dir.path(), &env, &limits, profile);
        Self { profile, ..Self::around(simulator, dir, env, limits) }.signed_in().await
    }

    /// A simulator that was opened elsewhere.
    pub(crate) fn around(
        simulator: Simulator,
        dir: tempfile::TempDir,
        env: Env,
        limits: Limits,
    ) -> Self {
        Self { simulator, dir, env, limits, profile: Profile::Fast, token: String::new() }
    }

    pub(crate) async fn signed_in(mut self) -> Self {
        self.token = self.get_token().await;
        // Not in the instant in which the world was made.
        sleep(Duration::from_secs(60)).await;
        self
    }

    /// What the simulator's clock shows.
    pub(crate) fn simulator_clock(&self) -> azdr_env::WallTime {
        self.env.clock.wall()
    }

    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Forgets everything in memory, as a crash does, and opens the state again.
    pub(crate) async fn reopen(self) -> Self {
        let Self { simulator, dir, env, limits, profile, token } = self;
        simulator.shut_down().await;
        drop(simulator);
        let simulator = open(dir.path(), &env, &limits, profile);
        Self { simulator, dir, env, limits, profile, token }
    }

    async fn get_token(&self) -> String {
        let form = "grant_type=client_credentials&client_id=client&client_secret=secret&scope=https%3A%2F%2Fmanagement.azure.com%2F.default";
        let request = Request::post(format!("https://login.example/{TENANT}/oauth2/v2.0/token"))
            .body(Bytes::from(form))
            .unwrap();
        let answer = read(self.simulator.handle(request).await);
        answer.body["access_token"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", format!("Bearer {}", self.token));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        read(self.simulator.handle(request.body(body).unwrap()).await)
    }

    pub(crate) async fn arm(&self, method: &str, path: &str, version: &str, body: Value) -> Answer {
        let join = if path.contains('?') { '&' } else { '?' };
        let url = format!(
            "https://management.azure.com/subscriptions/{SUBSCRIPTION}{path}{join}api-version={version}"
        );
        self.send(method, &url, &[], body).await
    }

    pub(crate) async fn url(&self, method: &str, url: &str) -> Answer {
        self.send(method, url, &[], Value::Null).await
    }

    pub(crate) async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        self.send(method, &format!("https://management.azure.com/_sim/{path}"), &[], body).await
    }

    pub(crate) async fn faults(&self, plan: Value) {
        assert_eq!(self.admin("PUT", "faults", plan).await.status, 204);
    }

    /// Polls the operation that `answer` announced until it has ended; its last record.
    pub(crate) async fn done(&self, answer: &Answer) -> Value {
        let url = answer
            .header("azure-asyncoperation")
            .unwrap_or_else(|| panic!("no operation: {answer:?}"));
        for _ in 0..200 {
            let poll = self.url("GET", url).await;
            assert_eq!(poll.status, 200, "{poll:?}");
            if poll.body["status"] != "InProgress" {
                return poll.body;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("the operation does not end");
    }

    /// Sends, expects acceptance and waits for success.
    pub(crate) async fn ok(&self, method: &str, path: &str, version: &str, body: Value) -> Answer {
        let answer = self.arm(method, path, version, body).await;
        assert!((200..300).contains(&answer.status), "{answer:?}");
        if answer.header("azure-asyncoperation").is_some() {
            let record = self.done(&answer).await;
            assert_eq!(record["status"], "Succeeded", "{record}");
        }
        answer
    }

    pub(crate) async fn snapshot(&self, name: &str, disk: &str) -> Answer {
        let body = json!({
            "location": "eastus",
            "properties": {"incremental": true, "creationData": {
                "createOption": "Copy", "sourceResourceId": disk_id(disk),
            }},
        });
        self.ok("PUT", &snapshot_path("prod", name), DISKS, body).await
    }

    pub(crate) async fn start_copy(&self, source: &str, target: &str) -> Answer {
        let body = json!({
            "location": "westus",
            "properties": {"incremental": true, "creationData": {
                "createOption": "CopyStart",
                "sourceResourceId": format!("/subscriptions/{SUBSCRIPTION}{}", snapshot_path("prod", source)),
            }},
        });
        self.arm("PUT", &snapshot_path("dr", target), DISKS, body).await
    }

    pub(crate) async fn get(&self, path: &str, version: &str) -> Value {
        let answer = self.arm("GET", path, version, Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// A new disk in `prod` from a snapshot there.
    pub(crate) async fn disk_from(&self, name: &str, snapshot: &str) {
        let body = json!({
            "location": "eastus",
            "properties": {"creationData": {
                "createOption": "Copy",
                "sourceResourceId": format!("/subscriptions/{SUBSCRIPTION}{}", snapshot_path("prod", snapshot)),
            }},
        });
        self.ok("PUT", &disk_path(name), DISKS, body).await;
    }

    pub(crate) fn content(&self, unique_id: &Value) -> PathBuf {
        self.dir.path().join(format!("state/disks/{}.raw", unique_id.as_str().unwrap()))
    }
}

fn read(response: Response<Bytes>) -> Answer {
    let dropped = response.extensions().get::<Dropped>().is_some();
    let (parts, bytes) = response.into_parts();
    Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        bytes,
        dropped,
    }
}

pub(crate) fn disk_path(name: &str) -> String {
    format!("/resourceGroups/prod/providers/Microsoft.Compute/disks/{name}")
}

pub(crate) fn disk_id(name: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}{}", disk_path(name))
}

pub(crate) fn snapshot_path(group: &str, name: &str) -> String {
    format!("/resourceGroups/{group}/providers/Microsoft.Compute/snapshots/{name}")
}

pub(crate) const WEB: &str = "/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/web";

pub(crate) async fn wait(ms: u64) {
    sleep(Duration::from_millis(ms)).await;
}
