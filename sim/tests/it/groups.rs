//! Resource groups, tags, locks, listings.

use serde_json::{Value, json};

use crate::cloud::*;

#[tokio::test(start_paused = true)]
async fn deleting_a_group_announces_a_location_only_and_leaves_nothing() {
    let cloud = Cloud::new().await;
    let made =
        cloud.arm("PUT", "/resourcegroups/drill", RESOURCES, json!({"location": "eastus"})).await;
    assert_eq!(
        (made.status, &made.body["properties"]["provisioningState"]),
        (201, &json!("Succeeded"))
    );
    let delete = cloud.arm("DELETE", "/resourcegroups/prod", RESOURCES, Value::Null).await;
    assert_eq!((delete.status, delete.bytes.len()), (202, 0));
    assert!(delete.header("azure-asyncoperation").is_none());
    let location = delete.header("location").unwrap();
    assert!(location.contains("/operationresults/"));
    assert_eq!(cloud.url("GET", location).await.status, 202);
    wait(300).await;
    let done = cloud.url("GET", location).await;
    assert_eq!((done.status, done.bytes.len()), (200, 0));
    let left = cloud.get("/resources", RESOURCES).await;
    assert_eq!(left["value"], json!([]));
    let head = cloud.arm("HEAD", "/resourcegroups/prod", RESOURCES, Value::Null).await;
    assert_eq!(head.status, 404);
}

#[tokio::test(start_paused = true)]
async fn resources_are_found_by_tag() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let tags = format!("{}/providers/Microsoft.Resources/tags/default", snapshot_path("prod", "s"));
    let body = json!({"operation": "Merge", "properties": {"tags": {"run": "42", "Owner": "x"}}});
    let merged = cloud.arm("PATCH", &tags, RESOURCES, body).await;
    assert_eq!((merged.status, &merged.body["properties"]["tags"]["run"]), (200, &json!("42")));
    let find = async |filter: &str| {
        let filter = filter.replace(' ', "%20").replace('\'', "%27");
        cloud.arm("GET", &format!("/resources?$filter={filter}"), RESOURCES, Value::Null).await
    };
    let found = find("tagName eq 'run' and tagValue eq '42'").await.body;
    assert_eq!(found["value"].as_array().unwrap().len(), 1);
    assert_eq!(found["value"][0]["name"], "s");
    assert!(found["value"][0].get("tags").is_none(), "as documented");
    let found = find("tagname eq 'owner'").await.body;
    assert_eq!(found["value"][0]["tags"]["Owner"], "x");
    assert_eq!(find("tagName eq 'run' and tagValue eq '43'").await.body["value"], json!([]));
    let mixed = find("tagName eq 'run' and resourceType eq 'Microsoft.Compute/snapshots'").await;
    assert_eq!((mixed.status, mixed.code()), (400, "InvalidFilterInQueryString"));
    let disks = find("resourceType eq 'Microsoft.Compute/disks'").await.body;
    assert_eq!(disks["value"].as_array().unwrap().len(), 3);

    let body = json!({"operation": "Delete", "properties": {"tags": {"run": "42"}}});
    cloud.arm("PATCH", &tags, RESOURCES, body).await;
    assert_eq!(cloud.get(&snapshot_path("prod", "s"), DISKS).await["tags"], json!({"Owner": "x"}));
    let long = json!({"operation": "Merge", "properties": {"tags": {"long": "v".repeat(257)}}});
    assert_eq!(cloud.arm("PATCH", &tags, RESOURCES, long).await.status, 400);
}

#[tokio::test(start_paused = true)]
async fn locks_bind_what_is_below_them() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    let lock = "/resourceGroups/prod/providers/Microsoft.Authorization/locks/keep";
    let body = json!({"properties": {"level": "CanNotDelete", "notes": "ours"}});
    assert_eq!(cloud.arm("PUT", lock, "2016-09-01", body).await.status, 201);
    let delete = cloud.arm("DELETE", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
    assert_eq!((delete.status, delete.code()), (409, "ScopeLocked"));
    assert_eq!(
        cloud.arm("DELETE", "/resourceGroups/prod", RESOURCES, Value::Null).await.status,
        409
    );
    assert_eq!(cloud.arm("POST", &format!("{WEB}/restart"), VMS, Value::Null).await.status, 202);
    assert_eq!(cloud.arm("DELETE", lock, "2016-09-01", Value::Null).await.status, 200);
    cloud.ok("DELETE", &snapshot_path("prod", "s"), DISKS, Value::Null).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_only_lock_forbids_actions_too_and_binds_one_resource_alone() {
    let cloud = Cloud::new().await;
    cloud.snapshot("s", "web-os").await;
    cloud.snapshot("other", "web-os").await;
    let path = snapshot_path("prod", "s");
    let lock = format!("{path}/providers/Microsoft.Authorization/locks/still");
    let body = json!({"properties": {"level": "ReadOnly"}});
    let put = cloud.arm("PUT", &lock, "2016-09-01", body.clone()).await;
    assert_eq!((put.status, &put.body["properties"]["level"]), (201, &json!("ReadOnly")));
    assert_eq!(cloud.arm("PUT", &lock, "2016-09-01", body.clone()).await.status, 200);
    let grant = json!({"access": "Read", "durationInSeconds": 600});
    for (method, path, body) in [
        ("POST", format!("{path}/beginGetAccess"), grant.clone()),
        ("PATCH", path.clone(), json!({"tags": {"a": "b"}})),
        ("DELETE", path.clone(), Value::Null),
    ] {
        let refused = cloud.arm(method, &path, DISKS, body).await;
        assert_eq!((refused.status, refused.code()), (409, "ScopeLocked"), "{method} {path}");
    }
    assert_eq!(cloud.arm("GET", &path, DISKS, Value::Null).await.status, 200);
    let other = format!("{}/beginGetAccess", snapshot_path("prod", "other"));
    assert_eq!(cloud.arm("POST", &other, DISKS, grant).await.status, 202);
    let above = "/resourceGroups/prod/providers/Microsoft.Authorization/locks/all";
    assert_eq!(cloud.arm("PUT", above, "2016-09-01", body).await.status, 201);
    let listed = cloud
        .arm(
            "GET",
            "/resourceGroups/prod/providers/Microsoft.Authorization/locks",
            "2016-09-01",
            Value::Null,
        )
        .await;
    assert_eq!(listed.body["value"].as_array().map(Vec::len), Some(2));
    let restart = cloud.arm("POST", &format!("{WEB}/restart"), VMS, Value::Null).await;
    assert_eq!((restart.status, restart.code()), (409, "ScopeLocked"));
    let new = json!({"location": "eastus", "properties": {"creationData": {"createOption": "Empty"}, "diskSizeGB": 1}});
    let created = cloud.arm("PUT", &disk_path("new"), DISKS, new).await;
    assert_eq!((created.status, created.code()), (409, "ScopeLocked"));
}
