//! The simulator: world, journal, guests and wire in one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use azdr_env::{Env, WallTime};
use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::{OnceCell, oneshot, watch};

use crate::config::{Blocking, Config};
use crate::content;
use crate::faults::{Fault, FaultPlan};
use crate::guests::{Forward, GuestDisk, GuestSpec, Guests};
use crate::latency::Latency;
use crate::persistence::{self, Journal, PersistenceError};
use crate::signing::Signer;
use crate::wire::admission::Admission;
use crate::wire::{self, ArmRequest, Body, Dropped, FileBody, Reply, Scope};
use crate::world::{ArmError, ArmId, Facts, Injected, Operation, Power, State, Work, World};

/// The largest part of a content that is put into a response's own body; a larger one stays a
/// [`FileBody`] extension.
const LARGEST_INLINE: u64 = 64 << 20;

/// A running simulator. Clones are handles to the same one.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    config: Config,
    env: Env,
    guests: Arc<dyn Guests>,
    world: Mutex<World>,
    journal: Journal,
    signer: Signer,
    admission: Admission,
    /// The end of the work on each VM's machine: work on one machine is done in the order of
    /// acceptance.
    tails: Mutex<BTreeMap<String, watch::Receiver<bool>>>,
    started: OnceCell<()>,
}

/// Work that was accepted and journalled, and is to be started.
struct Accepted {
    operation: Operation,
    after: Option<watch::Receiver<bool>>,
    done: watch::Sender<bool>,
}

/// Everything that exists in a state directory, read without taking it.
///
/// # Errors
/// It is not a state directory.
pub fn listing(state_dir: &Path) -> Result<serde_json::Value, PersistenceError> {
    let (state, _) = persistence::read(state_dir)?;
    let latency = Latency::new(crate::latency::Profile::Fast, 0);
    let world = World::new(state, Default::default(), latency, Arc::new(azdr_env::OsIds));
    Ok(wire::admin::resources(&world))
}

impl Simulator {
    /// Opens a state directory and takes it for this process. Machines are started by
    /// [`start`](Self::start), or with the first request.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(
        config: Config,
        env: Env,
        guests: Arc<dyn Guests>,
    ) -> Result<Self, PersistenceError> {
        let (state, journal) = persistence::open(&config.state_dir, config.durability)?;
        sweep(&config.state_dir, &state)?;
        let signer = Signer::new(&state.facts.signing_key);
        let latency = Latency::new(config.profile, config.seed);
        let world = World::new(state, config.limits.clone(), latency, env.ids.clone());
        Ok(Self(Arc::new(Inner {
            config,
            env,
            guests,
            world: Mutex::new(world),
            journal,
            signer,
            admission: Admission::default(),
            tails: Mutex::default(),
            started: OnceCell::new(),
        })))
    }

    /// What the world was made with.
    pub fn facts(&self) -> Facts {
        self.0.world().state.facts.clone()
    }

    /// Shows everything that exists now, without a request: for whoever checks a client from beside
    /// the wire.
    pub fn look<T>(&self, look: impl FnOnce(&State, WallTime) -> T) -> T {
        let mut world = self.0.world();
        let now = self.0.now(&world);
        world.advance(now);
        look(&world.state, now)
    }

    /// Replaces the fault plan.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        *self.0.admission.plan.lock().expect("no code panics while holding this lock") =
            FaultPlan::new(faults);
    }

    /// Starts the machines that run according to the state, and takes interrupted work up again.
    /// Later calls do nothing.
    pub async fn start(&self) {
        self.0.started.get_or_init(|| self.0.clone().resume()).await;
    }

    /// Ends all machines. The state still says that they run: opening it again starts them.
    pub async fn shut_down(&self) {
        self.0.guests.shut_down().await;
    }

    /// Answers a request for ARM, the token endpoint, a shared access signature or `/_sim`.
    ///
    /// A [`Dropped`] extension on the response means: no answer, the connection is closed. A
    /// [`FileBody`] extension means: the body is (a large) part of that file.
    pub async fn handle(&self, request: Request<Bytes>) -> Response<Bytes> {
        self.start().await;
        let request = Arc::new(ArmRequest::read(request));
        if request.lower.first().is_some_and(|first| first == "_sim") {
            return self.0.admin(&request).await;
        }
        let verdict = self.0.admission.judge(&request, &self.0.world);
        if !verdict.delay.is_zero() {
            azdr_env::sleep(verdict.delay).await;
        }
        let dropped = || {
            self.0.admission.count(&request, None);
            let mut response = Response::new(Bytes::new());
            response.extensions_mut().insert(Dropped);
            response
        };
        if verdict.drop_before {
            return dropped();
        }
        let reply = match verdict.refusal {
            Some(refusal) => refusal.into(),
            // On a task of its own: what was begun is finished even if the caller goes away.
            None => tokio::spawn(self.0.clone().answer(request.clone(), verdict.injected))
                .await
                .expect("a panic while changing the world ends the process"),
        };
        if verdict.drop_after {
            return dropped();
        }
        self.0.admission.count(&request, Some(reply.status));
        self.0.respond(reply, &request).await
    }

    /// Answers a request to the metadata listener.
    pub async fn handle_metadata(&self, request: Request<Bytes>) -> Response<Bytes> {
        self.start().await;
        let request = ArmRequest::read(request);
        let reply = {
            let world = self.0.world();
            let now = self.0.now(&world);
            wire::handle_metadata(&world, &request, &self.0.signer, now)
        };
        self.0.respond(reply, &request).await
    }
}

/// Removes contents that nothing refers to: what a crash left behind.
fn sweep(state_dir: &Path, state: &State) -> Result<(), PersistenceError> {
    let dir = content::directory(state_dir);
    let known = state.content_files();
    for entry in std::fs::read_dir(&dir).map_err(persistence::at(&dir))? {
        let entry = entry.map_err(persistence::at(&dir))?;
        if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
            tracing::info!(file = %entry.path().display(), "removing an orphaned content");
            std::fs::remove_file(entry.path()).map_err(persistence::at(&dir))?;
        }
    }
    Ok(())
}

impl Inner {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("a panic while changing the world ends the process")
    }

    /// The simulated time.
    fn now(&self, world: &World) -> WallTime {
        let offset = world.state.numbers.get(wire::admin::CLOCK_OFFSET_MS).copied().unwrap_or(0);
        let wall = self.env.clock.wall();
        let offset_abs = Duration::from_millis(offset.unsigned_abs());
        if offset >= 0 { wall.plus(offset_abs) } else { wall.minus(offset_abs) }
    }

    async fn answer(self: Arc<Self>, request: Arc<ArmRequest>, injected: Injected) -> Reply {
        let (reply, accepted, committed) = {
            let mut world = self.world();
            let now = self.now(&world);
            world.advance(now);
            let mut reply = wire::route(Scope {
                world: &mut world,
                request: &request,
                injected: &injected,
                signer: &self.signer,
                state_dir: &self.config.state_dir,
                now,
                api_version: String::new(),
            });
            let accepted = reply.operation.take().and_then(|id| self.queue(&world, &id));
            (reply, accepted, self.commit(&mut world))
        };
        if let Err(error) = self.settle(committed).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the journal cannot be written"
            );
            return ArmError::new(
                500,
                "InternalServerError",
                "The simulator cannot write its journal.",
            )
            .into();
        }
        if let Some(accepted) = accepted {
            // Whatever happens, the instant of a snapshot is fixed before its PUT is answered.
            let _ = self.begin_work(accepted).await;
        }
        reply
    }

    /// Appends what has changed to the journal; the lock keeps the order.
    fn commit(&self, world: &mut World) -> Result<(u64, Vec<String>), PersistenceError> {
        let changes = world.state.drain_changes();
        let ticket = self.journal.append(&changes)?;
        Ok((ticket, world.state.take_garbage()))
    }

    /// Waits until the journal is on the disk; then removes contents that are gone.
    async fn settle(
        self: &Arc<Self>,
        committed: Result<(u64, Vec<String>), PersistenceError>,
    ) -> Result<(), PersistenceError> {
        let (ticket, garbage) = committed?;
        let this = self.clone();
        self.blocking(move || {
            this.journal.sync(ticket)?;
            for file in garbage {
                let path = content::directory(&this.config.state_dir).join(file);
                if let Err(error) = std::fs::remove_file(&path)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a content");
                }
            }
            Ok(())
        })
        .await
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.config.blocking {
            Blocking::Inline => work(),
            Blocking::Pool => {
                tokio::task::spawn_blocking(work).await.expect("blocking work does not panic")
            }
        }
    }

    /// Puts an operation's work at the end of its VM's queue.
    fn queue(&self, world: &World, id: &str) -> Option<Accepted> {
        let operation = world.state.operations.get(id).filter(|o| !o.work_done)?.clone();
        let (done, tail) = watch::channel(false);
        let after = operation.vm().and_then(|vm| {
            let mut tails = self.tails.lock().expect("no code panics while holding this lock");
            tails.retain(|_, tail| !*tail.borrow() && tail.has_changed().is_ok());
            tails.insert(vm.key(), tail)
        });
        Some(Accepted { operation, after, done })
    }

    /// Starts the work; what is returned resolves once the instants of captures are fixed.
    fn begin_work(self: &Arc<Self>, accepted: Accepted) -> oneshot::Receiver<()> {
        let (fixed, instant) = oneshot::channel();
        let this = self.clone();
        let Accepted { operation, after, done } = accepted;
        let captures = operation.work.iter().any(|w| matches!(w, Work::Capture { .. }));
        let mut fixed = Some(fixed);
        if !captures {
            fixed = None;
        }
        tokio::spawn(async move {
            if let Some(mut after) = after {
                // An error means that its owner is gone, hence done.
                let _ = after.wait_for(|done| *done).await;
            }
            let mut result = Ok(());
            for work in operation.work {
                result = this.perform(work, &mut fixed).await;
                if result.is_err() {
                    break;
                }
            }
            drop(fixed);
            let result = result.map_err(|error| {
                tracing::warn!(
                    operation = operation.id,
                    error = format!("{error:#}"),
                    "work failed"
                );
                format!("{error:#}")
            });
            this.finish_work(&operation.id, result).await;
            let _ = done.send(true);
        });
        instant
    }

    async fn finish_work(self: &Arc<Self>, operation: &str, result: Result<(), String>) {
        let committed = {
            let mut world = self.world();
            let now = self.now(&world);
            world.work_finished(operation, result, now);
            self.commit(&mut world)
        };
        if let Err(error) = self.settle(committed).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the journal cannot be written"
            );
        }
    }

    async fn perform(
        self: &Arc<Self>,
        work: Work,
        fixed: &mut Option<oneshot::Sender<()>>,
    ) -> anyhow::Result<()> {
        let dir = content::directory(&self.config.state_dir);
        match work {
            Work::CreateEmpty { file, size_bytes } => {
                let path = dir.join(file);
                self.blocking(move || {
                    remove_partial(&path)?;
                    content::create_empty(&path, size_bytes)
                })
                .await?;
            }
            Work::Grow { file, size_bytes } => {
                let path = dir.join(file);
                self.blocking(move || content::grow(&path, size_bytes)).await?;
            }
            Work::Share { source, target } => {
                let (source, target) = (dir.join(source), dir.join(target));
                self.blocking(move || content::share(&source, &target)).await?;
            }
            Work::Capture { vm_id, source, target, size_bytes } => {
                let (source, target) = (dir.join(source), dir.join(target));
                let fixed = fixed.take();
                let at_instant = Box::new(move || {
                    // Nobody may be waiting any more.
                    let _ = fixed.map(|fixed| fixed.send(()));
                });
                remove_partial(&target)?;
                self.guests.snapshot_disk(vm_id.as_deref(), &source, &target, at_instant).await?;
                self.blocking(move || content::grow(&target, size_bytes)).await?;
            }
            Work::Start(vm) => {
                let spec = self.guest_spec(&vm);
                if let Some(spec) = spec {
                    self.guests.start(&spec).await?;
                }
            }
            Work::PowerOff(vm_id) => self.guests.power_off(&vm_id).await?,
            Work::Restart(vm_id) => self.guests.restart(&vm_id).await?,
        }
        Ok(())
    }

    /// The VM as a machine, with the disks that it has now.
    fn guest_spec(&self, id: &ArmId) -> Option<GuestSpec> {
        let world = self.world();
        let vm = world.state.vms.get(&id.key())?;
        let dir = content::directory(&self.config.state_dir);
        let disks = vm.disks.iter().filter_map(|attached| {
            let volume = world.volume(&attached.disk)?;
            Some(GuestDisk { lun: attached.lun, path: dir.join(volume.file()) })
        });
        let forwards = world
            .ways_in(vm)
            .into_iter()
            .map(|(address, port)| Forward { listen: (address, port).into(), guest_port: port });
        Some(GuestSpec {
            vm_id: vm.vm_id.clone(),
            name: id.name.clone(),
            disks: disks.collect(),
            forwards: forwards.collect(),
            serial_log: wire::serial_log(&self.config.state_dir, &vm.vm_id),
        })
    }

    /// After opening: machines that run are started, interrupted work is taken up again.
    async fn resume(self: Arc<Self>) {
        let (interrupted, running, committed) = {
            let mut world = self.world();
            let again: Vec<Accepted> = world
                .interrupted()
                .into_iter()
                .filter_map(|operation| self.queue(&world, &operation.id))
                .collect();
            let now = self.now(&world);
            world.advance(now);
            let running: Vec<ArmId> = world
                .state
                .vms
                .iter()
                .filter(|(_, vm)| vm.power == Power::Running)
                .map(|(_, vm)| vm.common.id.clone())
                .collect();
            (again, running, self.commit(&mut world))
        };
        if let Err(error) = self.settle(committed).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the journal cannot be written"
            );
        }
        for vm in running {
            let Some(spec) = self.guest_spec(&vm) else { continue };
            if let Err(error) = self.guests.start(&spec).await {
                tracing::error!(%vm, error = format!("{error:#}"), "cannot start a machine");
            }
        }
        for accepted in interrupted {
            self.begin_work(accepted);
        }
    }

    async fn admin(self: &Arc<Self>, request: &ArmRequest) -> Response<Bytes> {
        let (reply, committed) = {
            let mut world = self.world();
            let now = self.now(&world);
            world.advance(now);
            let reply = wire::admin::handle(&mut world, &self.admission, request);
            (reply, self.commit(&mut world))
        };
        if let Err(error) = self.settle(committed).await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the journal cannot be written"
            );
        }
        self.respond(reply, request).await
    }

    /// The HTTP response; a content of moderate size is read into its body.
    async fn respond(&self, mut reply: Reply, request: &ArmRequest) -> Response<Bytes> {
        let mut read = None;
        if let Body::File(file) = &reply.body
            && file.length <= LARGEST_INLINE
        {
            let file = file.clone();
            match self.blocking(move || read_part(&file)).await {
                Ok(bytes) => read = Some(bytes),
                Err(error) => {
                    tracing::error!(path = request.path, %error, "cannot read a content");
                    reply = Reply::empty(500);
                }
            }
        }
        if let Some(id) = request.header("x-ms-client-request-id")
            && request.header("x-ms-return-client-request-id") == Some("true")
        {
            reply = reply.header("x-ms-client-request-id", id);
        }
        let mut response = reply.into_response(&self.env.ids.uuid().to_string());
        if let Some(bytes) = read {
            response.extensions_mut().remove::<FileBody>();
            *response.body_mut() = bytes;
        }
        response
    }
}

fn remove_partial(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn read_part(part: &FileBody) -> std::io::Result<Bytes> {
    use std::os::unix::fs::FileExt;
    let length = usize::try_from(part.length).map_err(std::io::Error::other)?;
    let mut bytes = vec![0; length];
    if length > 0 {
        std::fs::File::open(&part.path)?.read_exact_at(&mut bytes, part.offset)?;
    }
    bytes.extend_from_slice(&part.then);
    Ok(Bytes::from(bytes))
}
