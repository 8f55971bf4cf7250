//! The simulator: world, journal, guests and wire in one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use azdr_env::{Env, WallTime};
use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::{OnceCell, oneshot, watch};

use crate::config::{Blocking, Config, Durability};
use crate::content::{Contents, Files};
use crate::faults::{BehindTheBack, Fault, FaultPlan};
use crate::guests::{Forward, GuestDisk, GuestSpec, Guests};
use crate::latency::Latency;
use crate::persistence::{self, Journal, PersistenceError};
use crate::seed::{self, SeedError, WorldDescription};
use crate::signing::Signer;
use crate::wire::admission::Admission;
use crate::wire::{self, ArmRequest, Body, ContentPart, Dropped, FileBody, Reply, Scope};
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
    contents: Arc<dyn Contents>,
    /// `None`: the world ends with the process.
    journal: Option<Journal>,
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
        let dir = &config.state_dir;
        let (state, journal) = match config.durability {
            Durability::None => (persistence::read(dir)?.0, None),
            durability => {
                let (state, journal) = persistence::open(dir, durability)?;
                sweep(dir, &state)?;
                (state, Some(journal))
            }
        };
        let contents = guests.contents(Some(dir), config.durability);
        let contents = contents.map_err(persistence::at(dir))?;
        let contents = contents.unwrap_or_else(|| Arc::new(Files::new(dir)));
        Ok(Self::join(config, env, guests, contents, state, journal))
    }

    /// A world from a description, in memory alone: no file is read or written, except for the
    /// images that the description names (relative to `images`).
    ///
    /// # Errors
    /// The description is impossible, or the guests need files.
    pub fn in_memory(
        config: Config,
        description: &WorldDescription,
        images: &Path,
        env: Env,
        guests: Arc<dyn Guests>,
    ) -> Result<Self, SeedError> {
        let config = Config { durability: Durability::None, ..config };
        let contents = guests.contents(None, Durability::None).ok().flatten();
        let contents = contents.ok_or(SeedError::NeedsFiles)?;
        let mut state = seed::state(contents.as_ref(), description, images, &env)?;
        state.derive();
        Ok(Self::join(config, env, guests, contents, state, None))
    }

    fn join(
        config: Config,
        env: Env,
        guests: Arc<dyn Guests>,
        contents: Arc<dyn Contents>,
        mut state: State,
        journal: Option<Journal>,
    ) -> Self {
        if journal.is_none() {
            state.forget_changes();
        }
        let signer = Signer::new(&state.facts.signing_key);
        let latency = Latency::new(config.profile, config.seed);
        let world = World::new(state, config.limits.clone(), latency, env.ids.clone());
        Self(Arc::new(Inner {
            config,
            env,
            guests,
            contents,
            world: Mutex::new(world),
            journal,
            signer,
            admission: Admission::default(),
            tails: Mutex::default(),
            started: OnceCell::new(),
        }))
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
        let now = self.0.now(&self.0.world());
        *self.0.admission.plan.lock().expect("no code panics while holding this lock") =
            FaultPlan::starting(faults, now);
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
        let now = self.0.now(&self.0.world());
        let verdict = self.0.admission.judge(&request, &self.0.world, &self.0.signer, now);
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
        let mut reply = match verdict.refusal {
            Some(refusal) => refusal.into(),
            None => {
                let (injected, first) = (verdict.injected, verdict.behind_the_back);
                self.0.clone().answer_whole(request.clone(), injected, first).await
            }
        };
        if verdict.drop_after {
            return dropped();
        }
        reply.headers.extend(verdict.headers);
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
    let dir = crate::content::directory(state_dir);
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

    /// What was begun is finished even if the caller goes away.
    async fn answer_whole(
        self: Arc<Self>,
        request: Arc<ArmRequest>,
        injected: Injected,
        first: Vec<BehindTheBack>,
    ) -> Reply {
        if self.is_instant() {
            // It only ever waits for tasks that go on by themselves.
            return self.answer(request, injected, first).await;
        }
        let answer = tokio::spawn(self.answer(request, injected, first));
        answer.await.expect("a panic while changing the world ends the process")
    }

    /// Nothing here waits for a disk.
    fn is_instant(&self) -> bool {
        self.contents.is_instant() && self.journal.is_none()
    }

    async fn answer(
        self: Arc<Self>,
        request: Arc<ArmRequest>,
        injected: Injected,
        first: Vec<BehindTheBack>,
    ) -> Reply {
        let (reply, accepted, committed) = {
            let mut world = self.world();
            let now = self.now(&world);
            world.advance(now);
            for change in first {
                if let Err(error) = world.suffer(&change, now) {
                    tracing::warn!(?change, %error, "the fault plan asks for the impossible");
                }
            }
            let mut reply = wire::route(Scope {
                world: &mut world,
                request: &request,
                injected: &injected,
                signer: &self.signer,
                contents: self.contents.as_ref(),
                now,
                api_version: String::new(),
            });
            let begun = reply.operation.take();
            let begun = begun.filter(|id| !self.done_at_once(&mut world, id, now));
            let accepted = begun.and_then(|id| self.queue(&world, &id));
            (reply, accepted, self.commit(&mut world))
        };
        if let Err(error) = self.settle(committed).await {
            log_journal(&error);
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

    /// Does an operation's work here and now, if it is work on contents that wait for nothing.
    fn done_at_once(&self, world: &mut World, id: &str, now: WallTime) -> bool {
        let Some(operation) = world.state.operations.get(id) else { return true };
        if !self.is_instant() || !operation.work.iter().all(Work::is_on_contents) {
            return operation.work_done;
        }
        let work = operation.work.clone();
        let result = work.iter().try_for_each(|work| self.change_contents(work));
        world.work_finished(id, result.map_err(|error| error.to_string()), now);
        true
    }

    /// Does work on contents that machines know of by themselves.
    fn change_contents(&self, work: &Work) -> std::io::Result<()> {
        match work {
            Work::CreateEmpty { file, size_bytes } => self.contents.create_empty(file, *size_bytes),
            Work::Grow { file, size_bytes } => self.contents.grow(file, *size_bytes),
            Work::Share { source, target } => self.contents.share(source, target),
            Work::Capture { source, target, size_bytes, .. } => {
                self.contents.capture(source, target)?;
                self.contents.grow(target, *size_bytes)
            }
            Work::Start(_) | Work::PowerOff(_) | Work::Restart(_) => Ok(()),
        }
    }

    /// Appends what has changed to the journal; the lock keeps the order.
    fn commit(&self, world: &mut World) -> Result<(u64, Vec<String>), PersistenceError> {
        let ticket = match &self.journal {
            Some(journal) => journal.append(&world.state.drain_changes())?,
            None => 0,
        };
        Ok((ticket, world.state.take_garbage()))
    }

    /// Waits until the journal is on the disk; then removes contents that are gone.
    async fn settle(
        self: &Arc<Self>,
        committed: Result<(u64, Vec<String>), PersistenceError>,
    ) -> Result<(), PersistenceError> {
        let (ticket, garbage) = committed?;
        if self.is_instant() {
            self.throw_away(&garbage);
            return Ok(());
        }
        let this = self.clone();
        self.blocking(move || {
            if let Some(journal) = &this.journal {
                journal.sync(ticket)?;
            }
            this.throw_away(&garbage);
            Ok(())
        })
        .await
    }

    fn throw_away(&self, garbage: &[String]) {
        for name in garbage {
            if let Err(error) = self.contents.remove(name) {
                tracing::warn!(name, %error, "cannot remove a content");
            }
        }
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self.config.blocking {
            Blocking::Inline => work(),
            Blocking::Pool if self.is_instant() => work(),
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
            log_journal(&error);
        }
    }

    async fn perform(
        self: &Arc<Self>,
        work: Work,
        fixed: &mut Option<oneshot::Sender<()>>,
    ) -> anyhow::Result<()> {
        match work {
            Work::Capture { vm_id, source, target, size_bytes } => {
                let fixed = fixed.take();
                let at_instant: Box<dyn FnOnce() + Send> = Box::new(move || {
                    // Nobody may be waiting any more.
                    let _ = fixed.map(|fixed| fixed.send(()));
                });
                match self.contents.directory() {
                    Some(dir) => {
                        self.contents.remove(&target)?;
                        let (source, target) = (dir.join(source), dir.join(&target));
                        self.guests
                            .snapshot_disk(vm_id.as_deref(), &source, &target, at_instant)
                            .await?;
                    }
                    None => {
                        let (this, name) = (self.clone(), target.clone());
                        self.blocking(move || this.contents.capture(&source, &name)).await?;
                        at_instant();
                    }
                }
                let this = self.clone();
                self.blocking(move || this.contents.grow(&target, size_bytes)).await?;
            }
            Work::Start(vm) => {
                let spec = self.guest_spec(&vm);
                if let Some(spec) = spec {
                    self.guests.start(&spec).await?;
                }
            }
            Work::PowerOff(vm_id) => self.guests.power_off(&vm_id).await?,
            Work::Restart(vm_id) => self.guests.restart(&vm_id).await?,
            work => {
                let this = self.clone();
                self.blocking(move || this.change_contents(&work)).await?;
            }
        }
        Ok(())
    }

    /// The VM as a machine, with the disks that it has now.
    fn guest_spec(&self, id: &ArmId) -> Option<GuestSpec> {
        let world = self.world();
        let vm = world.state.vms.get(&id.key())?;
        let dir = self.contents.directory().unwrap_or(Path::new(""));
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
            log_journal(&error);
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

    async fn admin(self: &Arc<Self>, request: &Arc<ArmRequest>) -> Response<Bytes> {
        let (this, asked) = (self.clone(), request.clone());
        let on_guests =
            self.blocking(move || wire::guests::handle(this.guests.simulated(), &asked)).await;
        if let Some(reply) = on_guests {
            return self.respond(reply, request).await;
        }
        if let Some(reply) = wire::hosts::handle(&*self.guests, request).await {
            return self.respond(reply, request).await;
        }
        let (reply, committed) = {
            let mut world = self.world();
            let now = self.now(&world);
            world.advance(now);
            let reply = wire::admin::handle(&mut world, &self.admission, request, now);
            (reply, self.commit(&mut world))
        };
        if let Err(error) = self.settle(committed).await {
            log_journal(&error);
        }
        self.respond(reply, request).await
    }

    /// The HTTP response; a content of moderate size is read into its body.
    async fn respond(self: &Arc<Self>, mut reply: Reply, request: &ArmRequest) -> Response<Bytes> {
        let (mut read, mut file) = (Ok(None), None);
        match &reply.body {
            Body::Content(part) => match self.contents.directory() {
                Some(dir) if part.length > LARGEST_INLINE => {
                    file = Some(FileBody {
                        path: dir.join(&part.name),
                        offset: part.offset,
                        length: part.length,
                        then: part.then.clone(),
                    });
                }
                _ => {
                    let (this, part) = (self.clone(), part.clone());
                    read = self.blocking(move || this.read_content(&part)).await.map(Some);
                }
            },
            Body::SerialLog(vm_id) => {
                let (this, vm_id) = (self.clone(), vm_id.clone());
                read = self.blocking(move || this.read_serial_log(&vm_id)).await.map(Some);
            }
            _ => {}
        }
        if let Err(error) = &read {
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            tracing::warn!(path = request.path, %error, "cannot read a content");
            reply = Reply::empty(if missing { 404 } else { 500 });
        }
        if let Some(id) = request.header("x-ms-client-request-id")
            && request.header("x-ms-return-client-request-id") == Some("true")
        {
            reply = reply.header("x-ms-client-request-id", id);
        }
        let mut response = reply.into_response(&self.env.ids.uuid().to_string());
        if let Ok(Some(bytes)) = read {
            *response.body_mut() = bytes;
        }
        if let Some(file) = file {
            response.extensions_mut().insert(file);
        }
        response
    }

    fn read_content(&self, part: &ContentPart) -> std::io::Result<Bytes> {
        let bytes = self.contents.read(&part.name, part.offset, part.length)?;
        Ok(if part.then.is_empty() { bytes } else { [bytes, part.then.clone()].concat().into() })
    }

    fn read_serial_log(&self, vm_id: &str) -> std::io::Result<Bytes> {
        match self.guests.serial_log(vm_id) {
            Some(log) => Ok(log),
            None => Ok(std::fs::read(wire::serial_log(&self.config.state_dir, vm_id))?.into()),
        }
    }
}

fn log_journal(error: &PersistenceError) {
    tracing::error!(error = error as &dyn std::error::Error, "the journal cannot be written");
}
