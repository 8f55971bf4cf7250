//! Azure behind the client's HTTP seam: every request observed, and any of them spoilt by chance.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use azdr_arm::{HttpRequest, HttpResponse, HttpTransport, TransportError};
use azdr_env::Env;
use azure_sim::config::{Blocking, Config, Durability, Limits};
use azure_sim::seed::WorldDescription;
use azure_sim::{Dropped, Simulator};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use crate::dice::Dice;
use crate::doom::{Doom, Moment};
use crate::event::{Asked, Event};
use crate::kinds::Kind;
use crate::life::Reporter;
use crate::machines::{Machines, Planted};
use crate::record::Record;

/// How often requests go wrong: one in so many; 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// The request never arrives.
    pub lost_before: u64,
    /// It is carried out, and its answer is lost.
    pub lost_after: u64,
    /// Its answer is late by up to this long, one in twenty.
    pub delay: Duration,
    /// It arrives twice, as after a proxy's own repetition.
    pub twice: u64,
    /// 500 or 503, without effect.
    pub failing: u64,
    /// 429 with `Retry-After`.
    pub throttled: u64,
}

/// The simulator with the weather around it.
pub struct Cloud {
    /// Azure.
    pub simulator: Simulator,
    /// What runs in it.
    pub machines: Arc<Machines>,
    /// The trace and the checkers.
    pub record: Arc<Record>,
    description: WorldDescription,
    dice: Dice,
    weather: Mutex<Weather>,
}

impl Cloud {
    /// Opens a world that was described.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(
        dir: &Path,
        description: &WorldDescription,
        env: &Env,
        machines: Arc<Machines>,
        record: Arc<Record>,
        seed: u64,
    ) -> anyhow::Result<Arc<Self>> {
        let state = dir.join("azure");
        azure_sim::init(&state, description, dir, env)?;
        let config = Config {
            blocking: Blocking::Inline,
            durability: Durability::None,
            limits: Limits { polling_url_padding: 0, ..Limits::recorded() },
            seed,
            ..Config::fast(&state)
        };
        let guests = Arc::new(machines.guests.clone());
        let simulator = Simulator::open(config, env.clone(), guests)?;
        let cloud = Arc::new(Self {
            simulator,
            machines: machines.clone(),
            record,
            description: description.clone(),
            dice: Dice::new(seed, "weather"),
            weather: Mutex::default(),
        });
        machines.connect(&cloud);
        Ok(cloud)
    }

    /// From now on.
    pub fn set_weather(&self, weather: Weather) {
        *self.weather.lock().expect("only copied") = weather;
    }

    /// Tells the checkers.
    pub fn tell(&self, event: &Event) {
        self.record.tell(&self.simulator, event);
    }

    /// A request of somebody who is not azdr; its status.
    pub async fn by_somebody_else(&self, method: Method, path: &str, body: &Value) -> u16 {
        let WorldDescription { tenant, client_id, client_secret, .. } = &self.description;
        let form = format!(
            "grant_type=client_credentials&client_id={client_id}&client_secret={client_secret}\
             &scope=https://management.azure.com/.default"
        );
        let token = http::Request::post(format!("https://sim.example/{tenant}/oauth2/v2.0/token"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Bytes::from(form))
            .expect("a constant request");
        let token = self.simulator.handle(token).await;
        let token: Value = serde_json::from_slice(token.body()).unwrap_or_default();
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = http::Request::builder()
            .method(method)
            .uri(format!("https://sim.example{path}"))
            .header(
                "authorization",
                format!("Bearer {}", token["access_token"].as_str().unwrap_or_default()),
            )
            .body(body)
            .expect("paths here are ASCII");
        self.simulator.handle(request).await.status().as_u16()
    }

    async fn carry_out(
        &self,
        life: u64,
        request: &HttpRequest,
    ) -> Result<HttpResponse, TransportError> {
        let mut inner = http::Request::builder()
            .method(request.method.clone())
            .uri(request.url.as_str())
            .body(request.body.clone())
            .map_err(|e| TransportError::maybe_sent(e.to_string()))?;
        *inner.headers_mut() = request.headers.clone();
        let watched = life > 0 && !request.url.path().contains("/oauth2/");
        let asked = watched.then(|| Asked {
            life,
            method: request.method.clone(),
            path: request.url.path().to_lowercase(),
        });
        let asked = match asked {
            Some(asked) if asked.method != Method::GET => {
                let event = Event::Asked(asked);
                self.tell(&event);
                let Event::Asked(asked) = event else { unreachable!("it was made here") };
                Some(asked)
            }
            asked => asked,
        };
        let response = self.simulator.handle(inner).await;
        let status = response.status().as_u16();
        self.count(request.url.path(), status, response.body());
        if let Some(asked) = asked {
            self.tell(&Event::Answered(asked, status, false));
        }
        if response.extensions().get::<Dropped>().is_some() {
            return Err(TransportError::maybe_sent("the connection was closed"));
        }
        let (parts, body) = response.into_parts();
        Ok(HttpResponse { status: parts.status.as_u16(), headers: parts.headers, body })
    }

    /// What an answer shows of the simulator's faults.
    fn count(&self, path: &str, status: u16, body: &[u8]) {
        let says = |code: &str| body.windows(code.len()).any(|w| w == code.as_bytes());
        match status {
            503 => self.record.count(Kind::RegionDown, 1),
            409 if says("ScopeLocked") => self.record.count(Kind::Locked, 1),
            200 if path.to_ascii_lowercase().contains("operations/")
                && says("AllocationFailed") =>
            {
                self.record.count(Kind::NoCapacity, 1);
            }
            _ => {}
        }
    }

    async fn send(&self, life: u64, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        let weather = *self.weather.lock().expect("only copied");
        let happens = |one_in: u64, kind| {
            let happens = one_in > 0 && self.dice.one_in(one_in);
            self.record.count(kind, u64::from(happens));
            happens
        };
        if happens(weather.lost_before, Kind::RequestLost) {
            return Err(TransportError::maybe_sent("it never arrived"));
        }
        if happens(weather.throttled, Kind::Throttled) {
            return Ok(refusal(429, "TooManyRequests", Some(5 + self.dice.below(30))));
        }
        if happens(weather.failing, Kind::ServerError) {
            return Ok(if self.dice.one_in(2) {
                refusal(503, "ServiceUnavailable", None)
            } else {
                refusal(500, "InternalServerError", None)
            });
        }
        if self.machines.planted() == Planted::Chatty && request.method == Method::GET {
            for _ in 0..60 {
                let _ = self.carry_out(life, &request).await;
            }
        }
        if happens(weather.twice, Kind::RequestTwice) {
            // The first one's answer is nobody's.
            let _ = self.carry_out(life, &request).await;
        }
        let answer = self.carry_out(life, &request).await;
        if happens(weather.lost_after, Kind::AnswerLost) {
            return Err(TransportError::maybe_sent("its answer was lost"));
        }
        if !weather.delay.is_zero() && self.dice.one_in(20) {
            self.record.count(Kind::AnswerDelayed, 1);
            azdr_env::sleep(self.dice.between(Duration::ZERO, weather.delay)).await;
        }
        answer
    }
}

fn refusal(status: u16, code: &str, retry_after: Option<u64>) -> HttpResponse {
    let mut headers = http::HeaderMap::new();
    if let Some(seconds) = retry_after {
        headers.insert(http::header::RETRY_AFTER, seconds.into());
    }
    let body = format!(r#"{{"error":{{"code":"{code}","message":"the weather"}}}}"#);
    HttpResponse { status, headers, body: Bytes::from(body) }
}

/// One life's way to Azure.
pub struct Line {
    cloud: Arc<Cloud>,
    life: u64,
    cut: AtomicBool,
    doom: Arc<Doom>,
    reporter: OnceLock<Arc<Reporter>>,
}

impl Line {
    /// For the life of this number, from 1.
    pub fn new(cloud: Arc<Cloud>, life: u64, doom: Arc<Doom>) -> Arc<Self> {
        let (cut, reporter) = (AtomicBool::new(false), OnceLock::new());
        Arc::new(Self { cloud, life, cut, doom, reporter })
    }

    /// Whom to ask for news before something is deleted: what a deletion is judged by.
    pub fn report_to(&self, reporter: Arc<Reporter>) {
        let _ = self.reporter.set(reporter);
    }

    /// Nothing of this life reaches Azure any more.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl HttpTransport for Line {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, TransportError> {
        if self.cut.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        if request.method == Method::DELETE
            && let Some(reporter) = self.reporter.get()
        {
            reporter.report(&self.cloud).await;
        }
        self.doom.pass(Moment::BeforeRequest).await;
        let answer = self.cloud.send(self.life, request).await;
        self.doom.pass(Moment::AfterRequest).await;
        if self.cut.load(Ordering::SeqCst) {
            return std::future::pending().await;
        }
        answer
    }
}
