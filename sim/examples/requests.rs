//! How long the simulator takes per request, in process, on paused time: microseconds of processor
//! time for each kind of request in a world of 10 machines and 1,000, then 10,000 snapshots.
//!
//! `cargo run --release -p azure-sim --example requests`

#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Env, sleep};
use azure_sim::Simulator;
use azure_sim::config::{Blocking, Config, Durability, Limits};
use azure_sim::guests::none::NoGuests;
use azure_sim::latency::Profile;
use azure_sim::seed::WorldDescription;
use bytes::Bytes;
use http::{Request, Response};
use serde_json::{Value, json};

const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";
const DISKS: &str = "2024-03-02";
const VMS: &str = "2024-07-01";
const MACHINES: usize = 10;
const ROUNDS: usize = 400;

struct Bench {
    simulator: Simulator,
    token: String,
}

/// What this process has used of the processors: other processes do not count.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is valid.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

fn world() -> Value {
    let vms: Vec<Value> = (0..MACHINES)
        .map(|n| {
            json!({
                "name": format!("vm{n}"), "resource_group": "prod", "location": "eastus",
                "size": "Standard_D2s_v3",
                "os_disk": {"name": format!("vm{n}-os"), "size_gb": 32},
                "data_disks": [{"name": format!("vm{n}-data"), "size_gb": 64}],
            })
        })
        .collect();
    json!({
        "subscription": SUBSCRIPTION, "tenant": TENANT, "client_id": "client",
        "client_secret": "secret", "regions": ["eastus", "westus"],
        "resource_groups": [{"name": "prod", "location": "eastus"}], "vms": vms,
    })
}

impl Bench {
    async fn send(&self, method: &str, url: &str, body: &Value) -> Response<Bytes> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header("authorization", &self.token)
            .body(body)
            .unwrap();
        let response = self.simulator.handle(request).await;
        assert!(response.status().is_success(), "{method} {url}: {response:?}");
        response
    }

    async fn arm(&self, method: &str, path: &str, version: &str, body: Value) -> Response<Bytes> {
        let join = if path.contains('?') { '&' } else { '?' };
        let url = format!(
            "https://management.azure.com/subscriptions/{SUBSCRIPTION}{path}{join}api-version={version}"
        );
        self.send(method, &url, &body).await
    }

    /// Microseconds per call of `work`, which does not count the time that it lets pass.
    async fn measure(&self, name: &str, mut work: impl AsyncFnMut(usize)) {
        let begin = processor_time();
        for n in 0..ROUNDS {
            work(n).await;
        }
        let took = processor_time() - begin;
        println!("  {name:<34} {:>9.1} µs", took.as_secs_f64() * 1e6 / ROUNDS as f64);
        sleep(Duration::from_secs(600)).await;
    }
}

fn snapshot(name: &str) -> String {
    format!("/resourceGroups/prod/providers/Microsoft.Compute/snapshots/{name}")
}

fn id(path: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}{path}")
}

fn snapshot_body(disk: &str, run: usize) -> Value {
    json!({
        "location": "eastus", "tags": {"run": run.to_string()},
        "properties": {"incremental": true, "creationData": {
            "createOption": "Copy",
            "sourceResourceId": id(&format!("/resourceGroups/prod/providers/Microsoft.Compute/disks/{disk}")),
        }},
    })
}

async fn open(dir: &std::path::Path) -> Bench {
    let env = Env::simulated(1);
    let description: WorldDescription = serde_json::from_value(world()).unwrap();
    azure_sim::init(&dir.join("state"), &description, dir, &env).unwrap();
    let config = Config {
        profile: Profile::Fast,
        limits: Limits { snapshots_per_disk: 5_000, token_secs: 1_000_000, ..Limits::default() },
        blocking: Blocking::Inline,
        durability: Durability::None,
        ..Config::fast(dir.join("state"))
    };
    let guests = Arc::new(NoGuests::new(Blocking::Inline));
    let simulator = Simulator::open(config, env, guests).unwrap();
    let form = "grant_type=client_credentials&client_id=client&client_secret=secret&scope=https%3A%2F%2Fmanagement.azure.com%2F.default";
    let request = Request::post(format!("https://login.example/{TENANT}/oauth2/v2.0/token"))
        .body(Bytes::from(form))
        .unwrap();
    let answer = simulator.handle(request).await;
    let answer: Value = serde_json::from_slice(answer.body()).unwrap();
    let token = format!("Bearer {}", answer["access_token"].as_str().unwrap());
    Bench { simulator, token }
}

async fn run(snapshots: usize) {
    println!("{MACHINES} machines, {snapshots} snapshots");
    let dir = tempfile::tempdir().unwrap();
    let bench = open(dir.path()).await;
    for n in 0..snapshots {
        let kind = if n % 2 == 0 { "os" } else { "data" };
        let disk = format!("vm{}-{kind}", n / 2 % MACHINES);
        bench.arm("PUT", &snapshot(&format!("s{n}")), DISKS, snapshot_body(&disk, n / 20)).await;
        if n % 10 == 0 {
            sleep(Duration::from_millis(100)).await;
        }
    }
    sleep(Duration::from_secs(1)).await;
    bench
        .measure("GET snapshot", async |n| {
            bench.arm("GET", &snapshot(&format!("s{}", n % snapshots)), DISKS, Value::Null).await;
        })
        .await;
    let mut polls = Vec::new();
    bench
        .measure("PUT snapshot", async |n| {
            let body = snapshot_body(&format!("vm{}-os", n % MACHINES), 999_999);
            let answer = bench.arm("PUT", &snapshot(&format!("new{n}")), DISKS, body).await;
            let url = answer.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
            polls.push(url);
        })
        .await;
    bench
        .measure("poll of an operation", async |n| {
            bench.send("GET", &polls[n], &Value::Null).await;
        })
        .await;
    bench
        .measure("GET VM with instanceView", async |n| {
            let path = format!(
                "/resourceGroups/prod/providers/Microsoft.Compute/virtualMachines/vm{}?$expand=instanceView",
                n % MACHINES
            );
            bench.arm("GET", &path, VMS, Value::Null).await;
        })
        .await;
    bench
        .measure("listing by tag and value (20 hits)", async |_| {
            let path =
                "/resources?$filter=tagName%20eq%20%27run%27%20and%20tagValue%20eq%20%277%27";
            bench.arm("GET", path, "2021-04-01", Value::Null).await;
        })
        .await;
    bench
        .measure("page of snapshots (100)", async |_| {
            let path = "/resourceGroups/prod/providers/Microsoft.Compute/snapshots";
            bench.arm("GET", path, DISKS, Value::Null).await;
        })
        .await;
    bench
        .measure("POST beginGetAccess", async |n| {
            let path = format!("{}/beginGetAccess", snapshot(&format!("s{}", n % snapshots)));
            let body = json!({"access": "Read", "durationInSeconds": 600});
            bench.arm("POST", &path, DISKS, body).await;
        })
        .await;
    bench
        .measure("PUT disk from a snapshot", async |n| {
            let path = format!("/resourceGroups/prod/providers/Microsoft.Compute/disks/r{n}");
            let body = json!({"location": "eastus", "properties": {"creationData": {
                "createOption": "Copy", "sourceResourceId": id(&snapshot(&format!("s{}", n % snapshots))),
            }}});
            bench.arm("PUT", &path, DISKS, body).await;
        })
        .await;
    bench
        .measure("DELETE snapshot", async |n| {
            bench.arm("DELETE", &snapshot(&format!("new{n}")), DISKS, Value::Null).await;
        })
        .await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    tokio::time::pause();
    run(1_000).await;
    run(10_000).await;
}
