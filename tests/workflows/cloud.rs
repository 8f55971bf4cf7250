//! The simulator behind the client's HTTP seam, with every request counted and any one of them
//! spoilt.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use azdr_arm::{HttpRequest, HttpResponse, HttpTransport, TransportError};
use azdr_env::Env;
use azure_sim::config::{Blocking, Config, Durability};
use azure_sim::guests::none::NoGuests;
use azure_sim::seed::WorldDescription;
use azure_sim::{Dropped, Simulator};
use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) const SUBSCRIPTION: &str = "00000000-0000-0000-0000-000000000001";
pub(crate) const TENANT: &str = "00000000-0000-0000-0000-0000000000aa";

/// What happens to the chosen request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// It never arrives.
    Before,
    /// It is carried out, and its answer is lost.
    After,
    /// The controller dies just before it is sent.
    CrashBefore,
    /// The controller dies when it has been carried out.
    CrashAfter,
    /// It and every later one of its method is refused for good.
    Refuse,
}

pub(crate) struct Cloud {
    pub(crate) simulator: Simulator,
    pub(crate) dir: tempfile::TempDir,
    requests: AtomicUsize,
    spoil: Mutex<Option<(usize, Spoil)>>,
    /// `METHOD path` of every request since the last reset.
    log: Mutex<Vec<String>>,
    pub(crate) crashed: tokio::sync::Notify,
}

fn world() -> Value {
    let vm = |name: &str, group: &str, data: bool| {
        let data = if data {
            json!([{"lun": 3, "name": format!("{name}-data"), "size_gb": 1}])
        } else {
            json!([])
        };
        json!({
            "name": name, "resource_group": group, "location": "eastus",
            "size": "Standard_D2s_v3", "public_ip": false, "running": true,
            "os_disk": {"name": format!("{name}-os"), "size_gb": 1}, "data_disks": data,
        })
    };
    json!({
        "subscription": SUBSCRIPTION, "tenant": TENANT,
        "client_id": "client", "client_secret": "secret", "regions": ["eastus", "westus2"],
        "resource_groups": [{"name": "prod", "location": "eastus"}],
        "vms": [vm("db", "prod", true), vm("other", "prod", false)],
    })
}

impl Cloud {
    pub(crate) fn new(env: &Env) -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let description: WorldDescription = serde_json::from_value(world()).unwrap();
        azure_sim::init(&state, &description, dir.path(), env).unwrap();
        Arc::new(Self {
            simulator: open(&state, env),
            dir,
            requests: AtomicUsize::new(0),
            spoil: Mutex::new(None),
            log: Mutex::default(),
            crashed: tokio::sync::Notify::new(),
        })
    }

    /// From now on requests count from one; the `n`th is spoilt.
    pub(crate) fn count_from_here(&self, spoil: Option<(usize, Spoil)>) {
        self.requests.store(0, Ordering::SeqCst);
        self.log.lock().unwrap().clear();
        *self.spoil.lock().unwrap() = spoil;
    }

    /// Requests since then.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The `n`th request since then.
    pub(crate) fn request(&self, n: usize) -> String {
        self.log.lock().unwrap().get(n - 1).cloned().unwrap_or_default()
    }

    /// What exists: told by the simulator, not by azdr.
    pub(crate) async fn listing(&self) -> Value {
        let request = http::Request::get("https://sim/_sim/resources").body(Bytes::new()).unwrap();
        serde_json::from_slice(self.simulator.handle(request).await.body()).unwrap()
    }

    async fn die(&self) -> ! {
        self.crashed.notify_one();
        std::future::pending().await
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
        Ok(HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

fn open(state: &Path, env: &Env) -> Simulator {
    let config = Config {
        blocking: Blocking::Inline,
        // The tests crash the controller, never the simulator.
        durability: Durability::None,
        ..Config::fast(state)
    };
    Simulator::open(config, env.clone(), Arc::new(NoGuests::new(Blocking::Inline))).unwrap()
}

#[async_trait]
impl HttpTransport for Cloud {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        if request.url.path().contains("/oauth2/") {
            return self.answer(request).await;
        }
        let n = self.requests.fetch_add(1, Ordering::SeqCst) + 1;
        let words = format!("{} {}", request.method, request.url.path());
        self.log.lock().unwrap().push(words);
        let spoil = self.spoil.lock().unwrap().filter(|(at, _)| *at <= n);
        match spoil {
            Some((at, Spoil::Before)) if at == n => {
                Err(TransportError::maybe_sent("spoilt before its effect"))
            }
            Some((at, Spoil::After)) if at == n => {
                self.answer(request).await?;
                Err(TransportError::maybe_sent("spoilt after its effect"))
            }
            Some((at, Spoil::CrashBefore)) if at == n => self.die().await,
            Some((at, Spoil::CrashAfter)) if at == n => {
                let _ = self.answer(request).await;
                self.die().await
            }
            Some((at, Spoil::Refuse)) if at == n => Ok(HttpResponse {
                status: 403,
                headers: http::HeaderMap::new(),
                body: Bytes::from_static(
                    br#"{"error":{"code":"AuthorizationFailed","message":"not allowed"}}"#,
                ),
            }),
            _ => self.answer(request).await,
        }
    }
}
