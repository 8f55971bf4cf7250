//! Our answers beside recorded ones: the same statuses and headers, and no member missing that the
//! recording has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cloud::*;

/// Members of the recorded answer that ours does not have, for reasons of its own.
const NOT_SIMULATED: [&str; 1] = ["/tags"];

fn recording(name: &str) -> Value {
    let default = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/recordings");
    let dir = std::env::var_os("AZDR_RECORDINGS").map_or(default, PathBuf::from);
    let path = dir.join(name);
    let text = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn missing(recorded: &Value, ours: &Value, at: &str, into: &mut Vec<String>) {
    for (name, value) in recorded.as_object().into_iter().flatten() {
        let here = format!("{at}/{name}");
        match ours.get(name) {
            None if !NOT_SIMULATED.contains(&here.as_str()) => into.push(here),
            None => {}
            Some(other) => missing(value, other, &here, into),
        }
    }
}

#[tokio::test(start_paused = true)]
#[ignore = "needs the recordings: set AZDR_RECORDINGS, run with --ignored"]
async fn a_copy_is_answered_as_azure_answered_it() {
    let recording = recording("azure-cli.copystart-sequence.json");
    let recorded = |n: usize| &recording["interactions"][n]["response"];
    let cloud = Cloud::new().await;
    cloud.snapshot("snapa", "web-os").await;
    let put = cloud.start_copy("snapa", "snapb").await;
    assert_eq!(json!(put.status), recorded(0)["status"]);
    for header in ["azure-asyncoperation", "location"] {
        assert!(put.header(header).is_some() && recorded(0)["headers"][header].is_string());
    }
    let mut lacking = Vec::new();
    let running = cloud.url("GET", put.header("azure-asyncoperation").unwrap()).await.body;
    missing(&recorded(1)["body"], &running, "running", &mut lacking);
    let done = cloud.done(&put).await;
    missing(&recorded(2)["body"], &done, "done", &mut lacking);
    assert!(done["properties"]["output"]["properties"].get("completionPercent").is_none());
    let copy = cloud.get(&snapshot_path("dr", "snapb"), DISKS).await;
    missing(&recorded(3)["body"], &copy, "", &mut lacking);
    lacking.retain(|member| !member.ends_with("/tags"));
    assert_eq!(lacking, Vec::<String>::new());
}
