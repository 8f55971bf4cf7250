//! Sends recorded requests, and compares the answers.

use std::collections::BTreeSet;
use std::time::Duration;

use azdr_env::{WallTime, sleep};
use azure_sim::config::Limits;
use azure_sim::latency::Profile;
use serde_json::{Value, json};

use crate::cassette::Interaction;
use crate::cloud::{Answer, Cloud, TENANT};

/// The recorders' subscription.
const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000000";

/// What a client acts on. Everything else is caching, counting or tracing.
const HEADERS: [&str; 6] = [
    "azure-asyncoperation",
    "location",
    "etag",
    "azure-asyncnotification",
    "x-ms-failure-cause",
    "retry-after",
];

/// Path, API version, body.
type Put = (String, &'static str, Value);

/// How a recording is replayed.
#[derive(Clone, Copy)]
pub(crate) struct Replay {
    /// What must be there before.
    before: fn() -> Vec<Put>,
    /// What was PUT, where that was not recorded.
    unrecorded: fn() -> Value,
    /// Requests whose URL contains one of these are left out: what the simulator does not have.
    left_out: &'static [&'static str],
    /// Differences that are known, by the end of their path, and why.
    known: &'static [(&'static str, &'static str)],
    /// The recorder kept the times.
    has_times: bool,
}

fn nothing() -> Vec<Put> {
    Vec::new()
}

fn group(name: &str, location: &str) -> Put {
    let path = format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{name}");
    (path, "2021-04-01", json!({"location": location}))
}

/// A snapshot in another region, as the transcript's note describes it; its own request is not recorded.
fn snapshot_to_copy() -> Vec<Put> {
    let (there, here) =
        ("cli_test_completion_percent1_000001", "cli_test_completion_percent2_000002");
    let compute = |group: &str, rest: &str| {
        format!(
            "/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Compute/{rest}"
        )
    };
    let disk = json!({"location": "westus", "sku": {"name": "Premium_LRS"}, "properties": {
        "creationData": {"createOption": "Empty"}, "diskSizeGB": 200}});
    let snapshot = json!({"location": "westus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": compute(there, "disks/disk1")}}});
    vec![
        group(there, "westus"),
        group(here, "eastus"),
        (compute(there, "disks/disk1"), "2023-04-02", disk),
        (compute(there, "snapshots/snapa"), "2023-04-02", snapshot),
    ]
}

/// The start of a copy, as the transcript's answers show it.
fn copy_start() -> Value {
    let group = "cli_test_completion_percent1_000001";
    let source = format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/{group}/providers/Microsoft.Compute/snapshots/snapa"
    );
    json!({"location": "eastus", "tags": {}, "properties": {"incremental": true,
        "creationData": {"createOption": "CopyStart", "sourceResourceId": source}}})
}

pub(crate) const COPY_START: Replay = Replay {
    before: snapshot_to_copy,
    unrecorded: copy_start,
    left_out: &[],
    known: &[("/tags", "whether the request had an empty list of tags is not recorded")],
    has_times: true,
};

pub(crate) const SNAPSHOTS_AND_SAS: Replay = Replay {
    before: || vec![group("rgname", "eastus")],
    unrecorded: || Value::Null,
    left_out: &["/images/"],
    known: &[("/creationData/sourceUri", "the stub repeats a name of before 2021 for the source")],
    has_times: true,
};

fn os_disk() -> String {
    format!(
        "/subscriptions/{SUBSCRIPTION}/resourceGroups/disks/providers/Microsoft.Compute/disks/disk1"
    )
}

fn a_disk() -> Vec<Put> {
    let disk = json!({"location": "eastus2", "properties": {
        "creationData": {"createOption": "Empty"}, "diskSizeGB": 127}});
    vec![group("disks", "eastus2"), (os_disk(), "2024-03-02", disk)]
}

const FROM_IMAGE: &str = "the recorded machine was made from a marketplace image";
const GROUPS_TAGS: &str = "a policy of the recorders' subscription tags groups";

pub(crate) const VIRTUAL_MACHINES: Replay = Replay {
    before: a_disk,
    unrecorded: || Value::Null,
    left_out: &[],
    known: &[
        ("#0: nothing at /tags", GROUPS_TAGS),
        ("/storageProfile/imageReference", FROM_IMAGE),
        ("/properties/osProfile", FROM_IMAGE),
    ],
    has_times: false,
};

pub(crate) const INTERFACES: Replay = Replay {
    before: nothing,
    unrecorded: || Value::Null,
    left_out: &[],
    known: &[("status 202 instead of 200", "Azure answers both: the other recording has 202")],
    has_times: false,
};

/// The operation that the latest answer announced.
#[derive(Default)]
struct Announced {
    operation: Option<String>,
    location: Option<String>,
    /// Of something that was left out.
    left_out: bool,
}

impl Replay {
    pub(crate) async fn run(self, recorded: &[Interaction]) -> Result<(), String> {
        let world = json!({
            "subscription": SUBSCRIPTION, "tenant": TENANT,
            "client_id": "client", "client_secret": "secret",
            "regions": ["eastus", "eastus2", "westus"], "resource_groups": [], "vms": [],
        });
        let cloud = Cloud::of(Limits::default(), Profile::Recorded, world).await;
        for (path, version, body) in (self.before)() {
            let url = format!("https://management.azure.com{path}?api-version={version}");
            let answer = cloud.send("PUT", &url, &[], body).await;
            assert!((200..300).contains(&answer.status), "{answer:?}");
            ended(&cloud, answer.header("azure-asyncoperation")).await;
        }
        let mut announced = Announced::default();
        let (mut different, mut compared, mut met) = (Vec::new(), 0, BTreeSet::new());
        for (n, theirs) in recorded.iter().enumerate() {
            let url = theirs.url.to_lowercase();
            let is_poll = url.is_empty() || url.contains("operations/") || url.contains("results/");
            if self.left_out.iter().any(|part| url.contains(part)) {
                announced = Announced { left_out: true, ..Announced::default() };
                continue;
            }
            if is_poll && announced.left_out {
                continue;
            }
            let ours = match is_poll {
                true => match poll(&cloud, theirs, &url, &announced).await {
                    Some(ours) => ours,
                    None => {
                        different.push(format!("#{n}: nothing to poll for {}", theirs.url));
                        continue;
                    }
                },
                false => self.request(&cloud, theirs).await,
            };
            if !is_poll && theirs.method != "GET" {
                let header = |name: &str| ours.header(name).map(str::to_owned);
                announced = Announced {
                    operation: header("azure-asyncoperation"),
                    location: header("location"),
                    left_out: false,
                };
            }
            let path = theirs.url.split('?').next().and_then(|url| url.rsplit('/').next());
            let about = format!("{} {} #{n}", theirs.method, path.unwrap_or_default());
            compared += 1;
            let before = different.len();
            compare(theirs, &ours, &mut different);
            if self.has_times {
                compare_times(theirs, &ours, &mut different);
            }
            let new = different.split_off(before).into_iter();
            for line in new.map(|line| format!("{about}: {line}")) {
                match self.known.iter().position(|(end, _)| line.ends_with(end)) {
                    Some(known) => drop(met.insert(known)),
                    None => different.push(line),
                }
            }
            // The recorders drop polls: what had ended for them must have ended here.
            ended_unless_recorded(&cloud, recorded.get(n + 1), &announced).await;
        }
        for (n, (end, why)) in self.known.iter().enumerate() {
            if !met.contains(&n) {
                different.push(format!("not different any more: {end} ({why})"));
            }
        }
        println!("{compared} of {} answers compared", recorded.len());
        if different.is_empty() { Ok(()) } else { Err(different.join("\n")) }
    }
}

impl Replay {
    async fn request(&self, cloud: &Cloud, theirs: &Interaction) -> Answer {
        let conditions: Vec<_> =
            theirs.if_match.iter().map(|value| ("if-match", value.as_str())).collect();
        let mut sent = match (&theirs.sent, theirs.method.as_str()) {
            (Value::Null, "PUT") => (self.unrecorded)(),
            (sent, _) => sent.clone(),
        };
        // There is no marketplace: a machine gets a disk that is there.
        let profile = &mut sent["properties"]["storageProfile"];
        if profile["osDisk"]["createOption"] == "FromImage" {
            let disk = json!({"createOption": "Attach", "osType": "Windows", "caching": "ReadWrite",
                "managedDisk": {"id": os_disk()}});
            *profile = json!({"osDisk": disk});
            sent["properties"].as_object_mut().map(|properties| properties.remove("osProfile"));
        }
        cloud.send(&theirs.method, &theirs.url, &conditions, sent).await
    }
}

/// Waits for an operation's end, if there is one.
async fn ended(cloud: &Cloud, operation: Option<&str>) {
    let Some(url) = operation else { return };
    while cloud.url("GET", url).await.body["status"] == "InProgress" {
        sleep(Duration::from_millis(200)).await;
    }
}

/// Where the next recorded request is no poll, the recorders' client had waited without one.
async fn ended_unless_recorded(cloud: &Cloud, next: Option<&Interaction>, announced: &Announced) {
    let next_is_poll = next.is_some_and(|next| {
        let url = next.url.to_lowercase();
        url.is_empty() || url.contains("operations/") || url.contains("results/")
    });
    if !next_is_poll {
        ended(cloud, announced.operation.as_deref()).await;
        // A PUT that changes nothing announces nothing, and takes its time.
        sleep(Duration::from_secs(60)).await;
    }
}

/// Polls our own operation, in the way in which theirs was, until it stands as theirs stood.
async fn poll(
    cloud: &Cloud,
    theirs: &Interaction,
    url: &str,
    announced: &Announced,
) -> Option<Answer> {
    let by_location = url.contains("monitor=true") || url.contains("results/");
    let ours = if by_location { &announced.location } else { &announced.operation };
    let ours = ours.as_deref()?;
    let status = theirs.body.as_ref().map(|body| &body["status"]);
    let runs = status.is_some_and(|s| s == "InProgress") || theirs.status == 202;
    loop {
        let answer = cloud.url("GET", ours).await;
        let running = answer.body["status"] == "InProgress" || answer.status == 202;
        if runs || !running {
            return Some(answer);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn compare(theirs: &Interaction, ours: &Answer, different: &mut Vec<String>) {
    if theirs.status != ours.status {
        if !ours.body.is_null() {
            different.push(format!("answered {}", ours.body));
        }
        different.push(format!("status {} instead of {}", ours.status, theirs.status));
        return;
    }
    for name in HEADERS {
        match (theirs.headers.iter().any(|h| h == name), ours.header(name).is_some()) {
            (true, false) => different.push(format!("no header {name}")),
            (false, true) => different.push(format!("a header {name}")),
            _ => {}
        }
    }
    if let Some(body) = &theirs.body {
        compare_members(body, &ours.body, "", different);
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn compare_members(theirs: &Value, ours: &Value, at: &str, different: &mut Vec<String>) {
    if kind(theirs) != kind(ours) {
        different.push(format!("{} instead of {} at {at}/", kind(ours), kind(theirs)));
        return;
    }
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, value) in theirs {
                match ours.get(name) {
                    None => different.push(format!("nothing at {at}/{name}")),
                    Some(other) => {
                        compare_members(value, other, &format!("{at}/{name}"), different)
                    }
                }
            }
        }
        // Theirs may hold more than one; each must be like some of ours.
        (Value::Array(theirs), Value::Array(ours)) => {
            for (n, value) in theirs.iter().enumerate() {
                match ours.get(n).or(ours.last()) {
                    None => different.push(format!("an empty list at {at}/")),
                    Some(other) => compare_members(value, other, &format!("{at}/{n}"), different),
                }
            }
        }
        _ => {}
    }
}

/// An operation took about as long as theirs: the same order of magnitude.
fn compare_times(theirs: &Interaction, ours: &Answer, different: &mut Vec<String>) {
    let took = |record: &Value| {
        let at = |name: &str| record[name].as_str()?.parse::<WallTime>().ok();
        Some(at("endTime")?.since(at("startTime")?).as_secs_f64())
    };
    if let (Some(theirs), Some(ours)) = (theirs.body.as_ref().and_then(took), took(&ours.body))
        && !(theirs / 10.0..=theirs * 10.0).contains(&ours)
    {
        different.push(format!("it took {ours} s instead of {theirs} s"));
    }
}
