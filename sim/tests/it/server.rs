//! The same over real TLS, with real time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::sync::Arc;
use std::time::Duration;

use azdr_env::{Env, sleep};
use azure_sim::config::{Blocking, Config};
use azure_sim::guests::none::NoGuests;
use azure_sim::seed::WorldDescription;
use azure_sim::{Simulator, server};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cloud::{
    DISKS, RESOURCES, SUBSCRIPTION, TENANT, disk_id, root_image, snapshot_path, world,
};

struct Served {
    client: Client,
    base: String,
    metadata: String,
    token: String,
    simulator: Simulator,
    _dir: tempfile::TempDir,
    _tasks: tokio::task::JoinSet<()>,
}

impl Served {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        root_image(dir.path());
        let state = dir.path().join("state");
        let description: WorldDescription = serde_json::from_value(world()).unwrap();
        azure_sim::init(&state, &description, dir.path(), &Env::system()).unwrap();
        let guests = Arc::new(NoGuests::new(Blocking::Pool));
        let simulator = Simulator::open(Config::fast(&state), Env::system(), guests).unwrap();
        let arm = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metadata = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", arm.local_addr().unwrap());
        let metadata_base = format!("http://{}", metadata.local_addr().unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        let tls = server::tls::server_config(&state).unwrap();
        tasks.spawn(server::serve_arm(simulator.clone(), arm, tls));
        tasks.spawn(server::serve_metadata(simulator.clone(), metadata));
        // Another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let ca = Certificate::from_pem(&std::fs::read(state.join("ca.pem")).unwrap()).unwrap();
        let client = Client::builder().tls_certs_only([ca]).build().unwrap();
        let token = json_of(
            client
                .post(format!("{base}/{TENANT}/oauth2/v2.0/token"))
                .body("grant_type=client_credentials&client_id=client&client_secret=secret&scope=https://management.azure.com/.default")
                .send()
                .await
                .unwrap(),
        )
        .await["access_token"]
            .as_str()
            .unwrap()
            .to_owned();
        Self { client, base, metadata: metadata_base, token, simulator, _dir: dir, _tasks: tasks }
    }

    fn arm(&self, method: reqwest::Method, path: &str, version: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/subscriptions/{SUBSCRIPTION}{path}?api-version={version}", self.base);
        self.client.request(method, url).bearer_auth(&self.token)
    }
}

async fn json_of(response: reqwest::Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_over_tls() {
    let served = Served::new().await;
    let body = json!({"location": "eastus", "properties": {"incremental": true, "creationData": {
        "createOption": "Copy", "sourceResourceId": disk_id("web-os")}}});
    let put = served
        .arm(reqwest::Method::PUT, &snapshot_path("prod", "s"), DISKS)
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    assert_eq!(put.status(), 202);
    let url = put.headers()["azure-asyncoperation"].to_str().unwrap().to_owned();
    assert!(url.starts_with(&served.base));
    let mut status = json!("InProgress");
    for _ in 0..100 {
        status = json_of(served.client.get(&url).bearer_auth(&served.token).send().await.unwrap())
            .await["status"]
            .clone();
        if status != "InProgress" {
            break;
        }
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status, "Succeeded");
    let got =
        served.arm(reqwest::Method::GET, &snapshot_path("prod", "s"), DISKS).send().await.unwrap();
    assert_eq!(json_of(got).await["properties"]["provisioningState"], "Succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_request_ends_its_connection() {
    let served = Served::new().await;
    let plan = json!([{"match": {"method": "DELETE"}, "action": "drop_after"}]);
    served.simulator.set_faults(serde_json::from_value(plan).unwrap());
    let request = served.arm(reqwest::Method::DELETE, "/resourceGroups/dr", RESOURCES);
    assert!(request.send().await.is_err());
    for _ in 0..100 {
        let head = served
            .arm(reqwest::Method::HEAD, "/resourceGroups/dr", RESOURCES)
            .send()
            .await
            .unwrap();
        if head.status() == 404 {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("the group was not deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_metadata_come_over_plain_http() {
    let served = Served::new().await;
    let resource = "resource=https%3A%2F%2Fmanagement.azure.com%2F";
    let url = format!(
        "{}/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}",
        served.metadata
    );
    assert_eq!(served.client.get(&url).send().await.unwrap().status(), 400);
    let token =
        json_of(served.client.get(&url).header("metadata", "true").send().await.unwrap()).await;
    assert!(token["expires_on"].is_string());
    let list = format!("{}/subscriptions?api-version={RESOURCES}", served.base);
    let bearer = token["access_token"].as_str().unwrap();
    assert_eq!(served.client.get(&list).bearer_auth(bearer).send().await.unwrap().status(), 200);

    let url = format!("{}/msi/token?api-version=2019-08-01&{resource}", served.metadata);
    assert_eq!(served.client.get(&url).send().await.unwrap().status(), 401);
    let secret = served.simulator.facts().identity_header;
    let token = served.client.get(&url).header("x-identity-header", secret).send().await.unwrap();
    assert_eq!(token.status(), 200);

    let vm = served
        .arm(reqwest::Method::GET, crate::cloud::WEB, crate::cloud::VMS)
        .send()
        .await
        .unwrap();
    let vm_id = json_of(vm).await["properties"]["vmId"].as_str().unwrap().to_owned();
    let url =
        format!("{}/vm/{vm_id}/metadata/instance/compute?api-version=2021-02-01", served.metadata);
    let compute =
        json_of(served.client.get(&url).header("metadata", "true").send().await.unwrap()).await;
    assert_eq!((&compute["name"], &compute["resourceGroupName"]), (&json!("web"), &json!("prod")));
}
