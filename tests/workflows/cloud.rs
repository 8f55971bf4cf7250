//! The simulator behind the client's HTTP seam, with every request counted and any one of them
//! spoilt.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use azdr_arm::{HttpRequest, HttpResponse, HttpTransport, TransportError};
use azdr_controller::store::StoreError;
use azdr_env::Env;
use azure_sim::config::{Blocking, Config, Durability};
use azure_sim::faults::{Action, Fault, Match};
use azure_sim::guests::none::NoGuests;
use azure_sim::seed::WorldDescription;
use azure_sim::{Dropped, Simulator};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::folder;
use crate::meddling::Mortal;

pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
pub(crate) const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";

/// What happens to the chosen request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// It never arrives.
    Before,
    /// It is carried out, and its answer is lost.
    After,
    /// It is under way for long: nobody hears of it any more, and a later freeze is late for it.
    Late,
    /// The controller dies just before it is sent.
    CrashBefore,
    /// The controller dies when it has been carried out.
    CrashAfter,
    /// It is refused.
    Refuse,
    /// The operation that it begins, if it begins one, takes this much longer.
    Prolong(Duration),
    /// It is carried out, and then somebody sets the controller's clock by so many seconds.
    Jump(i64),
}

pub(crate) struct Cloud {
    pub(crate) simulator: Simulator,
    pub(crate) dir: tempfile::TempDir,
    requests: AtomicUsize,
    spoil: Mutex<Option<(usize, Spoil)>>,
    late: Mutex<Option<HttpRequest>>,
    /// `METHOD path` of every request since the last reset.
    log: Mutex<Vec<String>>,
    /// How often each `METHOD path` that changes something was accepted since the last reset.
    carried_out: Mutex<BTreeMap<String, usize>>,
    /// `uniqueId` (of machines: `vmId`) of every resource that has been seen under a path, in any life,
    /// since the path was deleted last.
    identities: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// Something is under way that a later request may find done.
    restless: AtomicBool,
    /// The request to be spoilt has begun an operation.
    prolonged: AtomicBool,
    /// How long each read of a disk's bytes takes, in seconds.
    pub(crate) read_takes: AtomicU64,
    /// Reads of disks' bytes.
    reads: Mutex<Reads>,
    /// By how many seconds the controller's wall clock is wrong.
    pub(crate) wrong_by: Arc<AtomicI64>,
    /// Ticks whenever there may be something new to see.
    pub(crate) changes: watch::Sender<u64>,
}

/// What was read of disks' bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reads {
    /// How often.
    pub(crate) count: usize,
    under_way: usize,
    /// The most at the same time.
    pub(crate) at_once: usize,
    /// The most bytes at a time.
    pub(crate) largest: u64,
}

/// A world of running machines in `prod`: names, and whether there is a data disk.
pub(crate) fn world(machines: &[(&str, bool)]) -> Value {
    let vm = |(name, data): &(&str, bool)| {
        let data = if *data {
            json!([{"lun": 3, "name": format!("{name}-data"), "size_gb": 1}])
        } else {
            json!([])
        };
        json!({
            "name": name, "resource_group": "prod", "location": "eastus",
            "size": "Standard_D2s_v3", "public_ip": false, "running": true,
            "os_disk": {"name": format!("{name}-os"), "size_gb": 1}, "data_disks": data,
        })
    };
    json!({
        "subscription": SUBSCRIPTION, "tenant": TENANT,
        "client_id": "client", "client_secret": "secret", "regions": ["eastus", "westus2"],
        "resource_groups": [{"name": "prod", "location": "eastus"}],
        "vms": machines.iter().map(vm).collect::<Vec<_>>(),
    })
}

/// The same world, in which the machines' disks are raw images: small, and with data.
pub(crate) fn world_of_images(name: &str, os: &Path, data: &Path) -> Value {
    let mut world = world(&[(name, true)]);
    let vm = &mut world["vms"][0];
    vm["os_disk"] = json!({"name": format!("{name}-os"), "image": os});
    vm["data_disks"] = json!([{"lun": 3, "name": format!("{name}-data"), "image": data}]);
    world
}

/// Where the simulator's state is, inside a world's folder.
const STATE: &str = "state";

impl Cloud {
    /// A new world, which is journalled, so that an image can be made of it.
    pub(crate) fn create(env: &Env, world: Value) -> Arc<Self> {
        let dir = folder::new();
        let state = dir.path().join(STATE);
        let description: WorldDescription = serde_json::from_value(world).unwrap();
        azure_sim::init(&state, &description, dir.path(), env).unwrap();
        Self::of(dir, env, Durability::Written)
    }

    /// The world of an image; it lives as long as this.
    pub(crate) fn again(env: &Env, image: &folder::Image) -> Arc<Self> {
        let dir = folder::new();
        image.restore(dir.path());
        // The tests crash the controller, never the simulator.
        Self::of(dir, env, Durability::None)
    }

    fn of(dir: tempfile::TempDir, env: &Env, durability: Durability) -> Arc<Self> {
        let config = Config {
            blocking: Blocking::Inline,
            durability,
            ..Config::fast(dir.path().join(STATE))
        };
        let guests = Arc::new(NoGuests::new(Blocking::Inline));
        Arc::new(Self {
            simulator: Simulator::open(config, env.clone(), guests).unwrap(),
            dir,
            requests: AtomicUsize::new(0),
            spoil: Mutex::new(None),
            late: Mutex::new(None),
            log: Mutex::default(),
            carried_out: Mutex::default(),
            identities: Mutex::default(),
            restless: AtomicBool::new(true),
            prolonged: AtomicBool::new(false),
            read_takes: AtomicU64::new(0),
            reads: Mutex::default(),
            wrong_by: Arc::default(),
            changes: watch::channel(0).0,
        })
    }

    /// From now on requests count from one; the `n`th is spoilt.
    pub(crate) fn count_from_here(&self, spoil: Option<(usize, Spoil)>) {
        self.requests.store(0, Ordering::SeqCst);
        self.log.lock().unwrap().clear();
        self.carried_out.lock().unwrap().clear();
        *self.spoil.lock().unwrap() = spoil;
        *self.reads.lock().unwrap() = Reads::default();
    }

    /// What was read of disks' bytes since then.
    pub(crate) fn reads(&self) -> Reads {
        *self.reads.lock().unwrap()
    }

    /// Takes its time over a request that reads a disk's bytes.
    async fn take_time(&self, request: &HttpRequest) {
        let range = request.headers.get(http::header::RANGE).and_then(|range| range.to_str().ok());
        let Some((first, last)) = range.and_then(|r| r.strip_prefix("bytes=")?.split_once('-'))
        else {
            return;
        };
        {
            let mut reads = self.reads.lock().unwrap();
            reads.count += 1;
            reads.under_way += 1;
            reads.at_once = reads.at_once.max(reads.under_way);
            let length = last.parse::<u64>().unwrap() - first.parse::<u64>().unwrap() + 1;
            reads.largest = reads.largest.max(length);
        }
        let under_way = UnderWay(&self.reads);
        let takes = self.read_takes.load(Ordering::SeqCst);
        if takes > 0 {
            azdr_env::sleep(Duration::from_secs(takes)).await;
        }
        drop(under_way);
    }

    /// What was under way arrives now, if it still is.
    pub(crate) async fn late_arrives(&self) {
        let late = self.late.lock().unwrap().take();
        if let Some(request) = late {
            self.answer(request).await.unwrap();
            self.restless.store(true, Ordering::SeqCst);
        }
    }

    /// Requests since then.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// How often each request that changes something was carried out since then, in all lives, whether
    /// or not anybody got the answer.
    pub(crate) fn writes(&self) -> BTreeMap<String, usize> {
        self.carried_out.lock().unwrap().clone()
    }

    /// Paths under which more than one resource has been seen: what was to be made once was made anew.
    pub(crate) fn made_twice(&self) -> Vec<String> {
        let identities = self.identities.lock().unwrap();
        identities.iter().filter(|(_, ids)| ids.len() > 1).map(|(path, _)| path.clone()).collect()
    }

    fn note_identity(&self, method: &http::Method, path: &str, body: &[u8]) {
        let mut identities = self.identities.lock().unwrap();
        if method == http::Method::DELETE {
            identities.remove(path);
            return;
        }
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return };
        // The record of an operation shows its resource too; only what is read at its own path counts.
        let is_own = body["id"].as_str().is_some_and(|id| id.eq_ignore_ascii_case(path));
        let id = ["uniqueId", "vmId"].iter().find_map(|name| body["properties"][name].as_str());
        if let Some(id) = id.filter(|_| is_own) {
            identities.entry(path.to_owned()).or_default().insert(id.to_owned());
        }
    }

    /// The `n`th request since then.
    pub(crate) fn request(&self, n: usize) -> String {
        self.log.lock().unwrap().get(n - 1).cloned().unwrap_or_default()
    }

    /// Whether the request that was to be prolonged has begun an operation.
    pub(crate) fn has_prolonged(&self) -> bool {
        self.prolonged.load(Ordering::SeqCst)
    }

    /// Carries a request out; the operation that it begins takes longer.
    async fn prolong(
        &self,
        request: HttpRequest,
        by: Duration,
    ) -> Result<HttpResponse, TransportError> {
        let action = Action::ProlongOperationMs(by.as_millis() as u64);
        self.simulator.set_faults(vec![Fault { matching: Match::default(), action }]);
        let answer = self.answer(request).await;
        self.simulator.set_faults(Vec::new());
        let begun = answer.as_ref().is_ok_and(|a| {
            let shows = |name: &str| a.headers.contains_key(name);
            a.status < 300 && (shows("azure-asyncoperation") || a.status == 202)
        });
        self.prolonged.store(begun, Ordering::SeqCst);
        answer
    }

    /// What exists: told by the simulator, not by azdr.
    pub(crate) async fn listing(&self) -> Value {
        let request = http::Request::get("https://sim/_sim/resources").body(Bytes::new()).unwrap();
        let listing: Value =
            serde_json::from_slice(self.simulator.handle(request).await.body()).unwrap();
        self.restless.store(listing["unfinished_operations"] != 0, Ordering::SeqCst);
        listing
    }

    /// The file with the bytes of a disk or snapshot, by its `uniqueId`.
    pub(crate) fn bytes_of(&self, unique_id: &str) -> PathBuf {
        self.dir.path().join(STATE).join("disks").join(format!("{unique_id}.raw"))
    }

    /// A machine's whole document, as Azure shows it: etag, tags, disks, power state.
    pub(crate) async fn machine(&self, name: &str) -> Value {
        let ask = async |request: http::Request<Bytes>| -> Value {
            serde_json::from_slice(self.simulator.handle(request).await.body()).unwrap()
        };
        let form = "grant_type=client_credentials&client_id=client&client_secret=secret\
                    &scope=https%3A%2F%2Fmanagement.azure.com%2F.default";
        let token = http::Request::post(format!("https://sim/{TENANT}/oauth2/v2.0/token"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .unwrap();
        let token = ask(token).await["access_token"].as_str().unwrap().to_owned();
        let url = format!(
            "https://sim/subscriptions/{SUBSCRIPTION}/resourceGroups/prod/providers/\
             Microsoft.Compute/virtualMachines/{name}?api-version=2024-07-01&$expand=instanceView"
        );
        let get = http::Request::get(url).header("authorization", format!("Bearer {token}"));
        let machine = ask(get.body(Bytes::new()).unwrap()).await;
        assert!(machine["etag"].is_string() || machine["id"].is_string(), "{machine}");
        machine
    }

    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let mut inner = http::Request::builder()
            .method(request.method.clone())
            .uri(request.url.as_str())
            .body(request.body.clone())
            .unwrap();
        *inner.headers_mut() = request.headers.clone();
        let response = self.simulator.handle(inner).await;
        if response.extensions().get::<Dropped>().is_some() {
            return Err(TransportError::maybe_sent("the connection was closed"));
        }
        let (parts, body) = response.into_parts();
        if parts.status.is_success() {
            self.note_identity(&request.method, request.url.path(), &body);
            if request.method != http::Method::GET && !request.url.path().contains("/oauth2/") {
                let words = format!("{} {}", request.method, request.url.path());
                *self.carried_out.lock().unwrap().entry(words).or_default() += 1;
            }
        }
        Ok(HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

/// A read that has not ended; whoever asked may stop waiting for it.
struct UnderWay<'a>(&'a Mutex<Reads>);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way -= 1;
    }
}

/// The way to Azure of one life of a controller.
pub(crate) struct Line {
    pub(crate) cloud: Arc<Cloud>,
    pub(crate) mortal: Arc<Mortal>,
}

#[async_trait]
impl HttpTransport for Line {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let cut = |_| TransportError::maybe_sent("the controller is dead");
        self.mortal.alive().await.map_err(cut)?;
        let cloud = &self.cloud;
        if request.url.path().contains("/oauth2/") {
            return cloud.answer(request).await;
        }
        let reads = request.method == http::Method::GET;
        let n = cloud.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let words = format!("{} {}", request.method, request.url.path());
        cloud.log.lock().unwrap().push(words);
        let spoil = cloud.spoil.lock().unwrap().filter(|(at, _)| *at == n).map(|(_, how)| how);
        cloud.take_time(&request).await;
        let answer = match spoil {
            Some(Spoil::Before) => Err(TransportError::maybe_sent("spoilt before its effect")),
            Some(Spoil::Late) => {
                *cloud.late.lock().unwrap() = Some(request);
                Err(TransportError::maybe_sent("under way"))
            }
            Some(Spoil::After) => {
                cloud.answer(request).await?;
                Err(TransportError::maybe_sent("spoilt after its effect"))
            }
            Some(Spoil::CrashBefore) => {
                self.mortal.die().await;
                Err(cut(StoreError::Closed))
            }
            Some(Spoil::CrashAfter) => {
                let _ = cloud.answer(request).await;
                self.mortal.die().await;
                Err(cut(StoreError::Closed))
            }
            Some(Spoil::Refuse) => Ok(HttpResponse {
                status: 403,
                headers: http::HeaderMap::new(),
                body: Bytes::from_static(
                    br#"{"error":{"code":"AuthorizationFailed","message":"not allowed"}}"#,
                ),
            }),
            Some(Spoil::Jump(seconds)) => {
                let answer = cloud.answer(request).await;
                cloud.wrong_by.fetch_add(seconds, Ordering::SeqCst);
                answer
            }
            Some(Spoil::Prolong(by)) => cloud.prolong(request, by).await,
            None => cloud.answer(request).await,
        };
        if !reads || cloud.restless.load(Ordering::SeqCst) {
            cloud.restless.store(true, Ordering::SeqCst);
            cloud.changes.send_modify(|n| *n += 1);
        }
        self.mortal.alive().await.map_err(cut)?;
        answer
    }
}
