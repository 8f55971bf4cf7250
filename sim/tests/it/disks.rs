//! Disks, snapshots and access to their contents.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::os::unix::fs::FileExt;

use serde_json::{Value, json};

use crate::cloud::*;

fn overwrite(path: &std::path::Path, text: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(text, 4096).unwrap();
}

fn read(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = vec![0; 13];
    std::fs::File::open(path).unwrap().read_exact_at(&mut bytes, 4096).unwrap();
    bytes
}

#[tokio::test(start_paused = true)]
async fn a_second_put_succeeds_and_keeps_the_old_content() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let before = cloud.get(&snapshot_path("prod", "s"), DISKS).await;
    let disk = cloud.get(&disk_path("web-os"), DISKS).await;
    overwrite(&cloud.content(&disk["properties"]["uniqueId"]), b"later version");
    wait(1000).await;
    assert_eq!(cloud.snapshot("s", "web-os").await.status, 202);
    let after = cloud.get(&snapshot_path("prod", "s"), DISKS).await;
    assert_eq!(after["properties"]["timeCreated"], before["properties"]["timeCreated"]);
    assert_eq!(after["properties"]["uniqueId"], before["properties"]["uniqueId"]);
    assert_eq!(read(&cloud.content(&after["properties"]["uniqueId"])), b"first version");
    cloud.disk_from("restored", "s").await;
    let restored = cloud.get(&disk_path("restored"), DISKS).await;
    assert_eq!(read(&cloud.content(&restored["properties"]["uniqueId"])), b"first version");
    assert_eq!(restored["properties"]["osType"], "Linux");
    assert_eq!(
        restored["properties"]["creationData"]["sourceUniqueId"],
        after["properties"]["uniqueId"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_put_that_is_repeated_while_it_is_under_way_waits_for_the_first() {
    let cloud = Cloud::new().await;
    let body = json!({"location": "eastus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": disk_id("web-os")}}});
    let first = cloud.arm("PUT", &snapshot_path("prod", "s"), DISKS, body.clone()).await;
    let second = cloud.arm("PUT", &snapshot_path("prod", "s"), DISKS, body).await;
    assert_eq!(second.status, 202);
    assert_eq!(first.header("azure-asyncoperation"), second.header("azure-asyncoperation"));
    cloud.done(&second).await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_one_disk_are_a_family_and_full_ones_are_not() {
    let cloud = Cloud::new().await;
    cloud.snapshot("a", "web-os").await;
    cloud.snapshot("b", "web-os").await;
    cloud.snapshot("c", "web-data").await;
    let family = async |name: &str| {
        cloud.get(&snapshot_path("prod", name), DISKS).await["properties"]["incrementalSnapshotFamilyId"].clone()
    };
    assert!(family("a").await.is_string());
    assert_eq!(family("a").await, family("b").await);
    assert_ne!(family("a").await, family("c").await);
    let body = json!({"location": "eastus", "properties": {"creationData": {
        "createOption": "Copy", "sourceUri": disk_id("web-os")}}});
    cloud.ok("PUT", &snapshot_path("prod", "full"), DISKS, body).await;
    assert!(family("full").await.is_null());
    assert_eq!(
        cloud.get(&snapshot_path("prod", "full"), DISKS).await["properties"]["incremental"],
        false
    );
}

#[tokio::test(start_paused = true)]
async fn the_number_of_snapshots_of_a_disk_is_limited() {
    let limits = azure_sim::config::Limits {
        snapshots_per_disk: 3,
        snapshots_per_disk_in_5_minutes: Some(2),
        ..Default::default()
    };
    let cloud = Cloud::with(limits).await;
    let body = json!({"location": "eastus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": disk_id("web-os")}}});
    cloud.snapshot("a", "web-os").await;
    cloud.snapshot("b", "web-os").await;
    let hasty = cloud.arm("PUT", &snapshot_path("prod", "c"), DISKS, body.clone()).await;
    assert_eq!((hasty.status, hasty.code()), (409, "OperationNotAllowed"));
    wait(300_000).await;
    cloud.snapshot("c", "web-os").await;
    wait(300_000).await;
    let many = cloud.arm("PUT", &snapshot_path("prod", "d"), DISKS, body).await;
    assert_eq!((many.status, many.code()), (409, "OperationNotAllowed"));
}

#[tokio::test(start_paused = true)]
async fn an_access_grant_gives_ranges_until_it_ends_and_protects_what_it_reads() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let path = snapshot_path("prod", "s");
    let grant = json!({"access": "Read", "durationInSeconds": 600});
    let begin = cloud.arm("POST", &format!("{path}/beginGetAccess"), DISKS, grant.clone()).await;
    assert_eq!((begin.status, begin.bytes.len()), (202, 0));
    let record = cloud.done(&begin).await;
    let sas = record["properties"]["output"]["accessSAS"].as_str().unwrap().to_owned();
    let result = cloud.url("GET", begin.header("location").unwrap()).await;
    assert_eq!(result.body["accessSAS"], sas);
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["diskState"], "ActiveSAS");
    let delete = cloud.arm("DELETE", &path, DISKS, Value::Null).await;
    assert_eq!((delete.status, delete.code()), (409, "OperationNotAllowed"));

    let total = (8 << 20) + 512;
    let head = cloud.url("HEAD", &sas).await;
    assert_eq!(head.header("content-length"), Some(total.to_string().as_str()));
    let part = cloud.send("GET", &sas, &[("range", "bytes=4096-4108")], Value::Null).await;
    assert_eq!((part.status, &part.bytes[..]), (206, &b"first version"[..]));
    assert_eq!(part.header("content-range"), Some(format!("bytes 4096-4108/{total}").as_str()));
    let tail = cloud.send("GET", &sas, &[("range", "bytes=8388607-")], Value::Null).await;
    assert_eq!((tail.bytes.len(), &tail.bytes[1..9]), (513, &b"conectix"[..]));
    let beyond = cloud.send("GET", &sas, &[("range", "bytes=99999999-")], Value::Null).await;
    assert_eq!(beyond.status, 416);
    assert_eq!(cloud.url("GET", &sas).await.bytes.len(), total);
    let pages = cloud.url("GET", &format!("{sas}&comp=pagelist")).await;
    assert!(String::from_utf8_lossy(&pages.bytes).contains("<PageRange><Start>4096</Start>"));
    assert_eq!(cloud.url("GET", &sas.replace("sig=", "sig=x")).await.status, 403);

    cloud.ok("POST", &format!("{path}/endGetAccess"), DISKS, Value::Null).await;
    assert_eq!(cloud.url("GET", &sas).await.status, 403);
    cloud.ok("POST", &format!("{path}/beginGetAccess"), DISKS, grant).await;
    wait(600_000).await;
    assert_eq!(cloud.get(&path, DISKS).await["properties"]["diskState"], "Unattached");
    cloud.ok("DELETE", &path, DISKS, Value::Null).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_of_a_running_vm_can_be_neither_exported_nor_deleted_nor_resized() {
    let cloud = Cloud::new().await;
    let path = disk_path("web-os");
    let grant = json!({"access": "Read", "durationInSeconds": 600});
    for (method, path, body) in [
        ("POST", format!("{path}/beginGetAccess"), grant),
        ("DELETE", path.clone(), Value::Null),
        ("PATCH", path.clone(), json!({"properties": {"diskSizeGB": 10}})),
    ] {
        let answer = cloud.arm(method, &path, DISKS, body).await;
        assert_eq!((answer.status, answer.code()), (409, "OperationNotAllowed"), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deleted_disk_takes_its_content_with_it() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.disk_from("spare", "s").await;
    let content =
        cloud.content(&cloud.get(&disk_path("spare"), DISKS).await["properties"]["uniqueId"]);
    assert!(content.exists());
    cloud.ok("DELETE", &disk_path("spare"), DISKS, Value::Null).await;
    assert!(!content.exists());
}
