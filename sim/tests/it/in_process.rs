//! Worlds in memory alone: for simulations on one thread and paused time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::sync::Arc;

use azdr_env::Env;
use azure_sim::Simulator;
use azure_sim::config::{Blocking, Config, Durability, Limits};
use azure_sim::guests::none::NoGuests;
use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::cloud::*;

fn in_memory(limits: Limits) -> Cloud {
    let images = tempfile::tempdir().unwrap();
    root_image(images.path());
    let env = Env::simulated(1);
    let config = Config {
        seed: 7,
        limits: limits.clone(),
        blocking: Blocking::Inline,
        ..Config::fast("/nonexistent/state")
    };
    let description = serde_json::from_value(world()).unwrap();
    let guests = Arc::new(NoGuests::new(Blocking::Inline));
    let simulator =
        Simulator::in_memory(config, &description, images.path(), env.clone(), guests).unwrap();
    Cloud::around(simulator, images, env, limits)
}

/// Everything that was answered, in a run of a little of everything.
async fn a_run() -> String {
    let cloud = in_memory(Limits::default()).signed_in().await;
    let mut seen = String::new();
    let mut note = |answer: Answer| {
        seen.push_str(&format!("{} {:?} {:?}\n", answer.status, answer.headers, answer.bytes));
    };
    note(cloud.snapshot("s1", "web-os").await);
    note(cloud.snapshot("s2", "web-data").await);
    note(cloud.start_copy("s1", "c1").await);
    wait(3000).await;
    cloud.disk_from("restored", "s1").await;
    note(cloud.ok("POST", &format!("{WEB}/deallocate"), VMS, Value::Null).await);
    note(cloud.ok("POST", &format!("{WEB}/start"), VMS, Value::Null).await);
    note(cloud.arm("GET", "/resources", RESOURCES, Value::Null).await);
    note(cloud.arm("GET", &snapshot_path("dr", "c1"), DISKS, Value::Null).await);
    note(cloud.admin("GET", "requests?latest=true", Value::Null).await);
    seen
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_give_equal_answers_to_the_last_byte() {
    let first = a_run().await;
    assert_eq!(first, a_run().await);
    assert!(first.contains("completionPercent"));
}

#[tokio::test(start_paused = true)]
async fn a_world_in_memory_has_contents() {
    let cloud = in_memory(Limits::default()).signed_in().await;
    cloud.snapshot("s", "web-os").await;
    let grant = json!({"access": "Read", "durationInSeconds": 600});
    let sas = format!("{}/beginGetAccess", snapshot_path("prod", "s"));
    let granted = cloud.arm("POST", &sas, DISKS, grant).await;
    let record = cloud.done(&granted).await;
    let url = record["properties"]["output"]["accessSAS"].as_str().unwrap();
    let range = [("range", "bytes=4096-4108")];
    let part = cloud.send("GET", url, &range, Value::Null).await;
    assert_eq!((part.status, &part.bytes[..]), (206, &b"first version"[..]));
    let ranges = cloud.url("GET", &format!("{url}&comp=pagelist")).await;
    assert!(String::from_utf8_lossy(&ranges.bytes).contains("<Start>4096</Start>"));
    cloud.arm("POST", &sas.replace("begin", "end"), DISKS, Value::Null).await;
    assert_eq!(cloud.send("GET", url, &range, Value::Null).await.status, 403);
}

#[tokio::test(start_paused = true)]
async fn without_durability_a_state_directory_is_read_and_never_written() {
    let dir = tempfile::tempdir().unwrap();
    root_image(dir.path());
    let env = Env::simulated(1);
    let state = dir.path().join("state");
    let description = serde_json::from_value(world()).unwrap();
    azure_sim::init(&state, &description, dir.path(), &env).unwrap();
    let files = || {
        let all = std::fs::read_dir(&state)
            .unwrap()
            .chain(std::fs::read_dir(state.join("disks")).unwrap());
        let mut all: Vec<_> = all
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.path(), entry.metadata().unwrap().modified().unwrap()))
            .collect();
        all.sort();
        all
    };
    let before = files();
    let config =
        Config { blocking: Blocking::Inline, durability: Durability::None, ..Config::fast(&state) };
    let guests = Arc::new(NoGuests::new(Blocking::Inline));
    let simulator = Simulator::open(config, env.clone(), guests).unwrap();
    let cloud = Cloud::around(simulator, dir, env, Limits::default()).signed_in().await;
    cloud.snapshot("s", "web-os").await;
    cloud.disk_from("restored", "s").await;
    cloud.ok("DELETE", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
    assert_eq!(before, files());
}

#[tokio::test(start_paused = true)]
async fn records_of_operations_expire() {
    let limits = Limits { operation_record_secs: 600, ..Limits::default() };
    let cloud = in_memory(limits).signed_in().await;
    let put = cloud.snapshot("s", "web-os").await;
    let url = put.header("azure-asyncoperation").unwrap();
    wait(500_000).await;
    assert_eq!(cloud.url("GET", url).await.status, 200);
    wait(200_000).await;
    assert_eq!(cloud.url("GET", url).await.status, 404);
    assert_eq!(cloud.get(&snapshot_path("prod", "s"), DISKS).await["name"], "s");
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_nothing_half_done() {
    let cloud = in_memory(Limits::default()).signed_in().await;
    let request = Request::post(format!(
        "https://management.azure.com/subscriptions/{SUBSCRIPTION}{WEB}/powerOff?api-version={VMS}"
    ));
    let request = request.header("authorization", cloud.authorization());
    let answer = cloud.simulator.handle(request.body(Bytes::new()).unwrap());
    drop(futures::FutureExt::now_or_never(answer));
    wait(1000).await;
    let view = cloud.get(&format!("{WEB}/instanceView"), VMS).await;
    assert_eq!(view["statuses"][1]["code"], "PowerState/stopped");
}
