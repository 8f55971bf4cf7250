//! The agent's side of a freeze: one actor, one operation at a time, independent of sessions.
//!
//! ```text
//! IDLE ─Freeze─▶ HOOK_PRE ─▶ PREPARING (survey, presync, witness, arm) ─▶ FREEZING ─▶ FROZEN ─▶ THAWING
//!   ▲               └──────────────┴─────────────────▶ HOOK_POST (post or abort) ◀──────────────┤
//!   └───────────────────────────────────────────────────────┘                       POISONED ◀──┘
//! ```
//!
//! Without hooks the two states with that name are passed over. The thaw's reply does not wait for
//! them; another Thaw of the same operation does.
//!
//! Whether the controller can be reached plays no part here: the limits are the thaw process's, and
//! an operation's result is kept until the next one, to be told when it is asked for (R7, N9).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use azdr_env::Monotonic;
use azdr_proto::agent::agent_message::Body;
use azdr_proto::agent::{
    Freeze, FreezeOutcome, FreezeReply, Heartbeat, QuiesceState, ThawCause, ThawReply,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::Agent;
use crate::hold::{self, Prepared};
use crate::hooks::{self, Round};

/// What the controller asks for.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Command {
    Freeze(Freeze),
    Renew(String),
    Thaw(String),
}

#[derive(Debug)]
struct Shared {
    state: QuiesceState,
    operation_id: String,
    lease_until: Option<Monotonic>,
    /// How long hooks may still run after the thaw, if there are any.
    hooks_pending: Option<Duration>,
    /// Where replies go: the current session, if there is one that may freeze.
    outlet: Option<UnboundedSender<Body>>,
}

/// A handle on the actor. Clones are the same.
#[derive(Clone, Debug)]
pub struct Quiesce {
    agent: Agent,
    commands: UnboundedSender<Command>,
    shared: Arc<Mutex<Shared>>,
}

impl Quiesce {
    /// Starts the actor. Must be called inside a tokio runtime; it ends with the last handle.
    pub fn start(agent: &Agent) -> Self {
        let (commands, inbox) = unbounded_channel();
        let shared = Arc::new(Mutex::new(Shared {
            state: QuiesceState::Idle,
            operation_id: String::new(),
            lease_until: None,
            hooks_pending: None,
            outlet: None,
        }));
        let view = View { shared: shared.clone() };
        let actor = Actor { agent: agent.clone(), inbox, view, last: None };
        tokio::spawn(actor.run());
        Self { agent: agent.clone(), commands, shared }
    }

    /// Sends replies to this session from now on.
    pub(crate) fn attach(&self, outlet: UnboundedSender<Body>) {
        lock(&self.shared).outlet = Some(outlet);
    }

    pub(crate) fn command(&self, command: Command) {
        // The actor ends only after the last handle.
        let _ = self.commands.send(command);
    }

    /// The state now.
    pub fn state(&self) -> QuiesceState {
        lock(&self.shared).state
    }

    /// The state in a heartbeat, from memory alone.
    pub fn heartbeat(&self) -> Heartbeat {
        let now = self.agent.env.clock.monotonic();
        let shared = lock(&self.shared);
        let left = shared.lease_until.map_or(Duration::ZERO, |until| until.since(now));
        Heartbeat {
            state: shared.state.into(),
            operation_id: shared.operation_id.clone(),
            lease_remaining_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX),
        }
    }

    /// Thaws what is held and waits until that is confirmed (N14); at most `limit`, after which the
    /// thaw process, seeing this one end, goes on alone. Hooks get their `post` or `abort` first, within
    /// their own limits.
    pub async fn end(&self, limit: Duration) {
        self.command(Command::Thaw(lock(&self.shared).operation_id.clone()));
        let mut start = self.agent.env.clock.monotonic();
        while self.state() != QuiesceState::Idle
            && self.agent.env.clock.monotonic().since(start) < limit
        {
            if self.state() == QuiesceState::HookPost {
                start = self.agent.env.clock.monotonic();
            }
            azdr_env::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an operation shows of itself, and says.
#[derive(Clone)]
pub(crate) struct View {
    shared: Arc<Mutex<Shared>>,
}

impl View {
    pub(crate) fn show(&self, state: QuiesceState) {
        lock(&self.shared).state = state;
    }

    pub(crate) fn lease_until(&self, until: Option<Monotonic>) {
        lock(&self.shared).lease_until = until;
    }

    fn hooks_pending(&self, limit: Option<Duration>) {
        lock(&self.shared).hooks_pending = limit;
    }

    fn operation(&self, id: &str) {
        lock(&self.shared).operation_id = id.to_owned();
    }

    /// Sends a reply to the session, if there is one. Replies are kept in [`Actor::last`] as well.
    pub(crate) fn say(&self, mut body: Body) {
        let shared = lock(&self.shared);
        if let (Body::ThawReply(reply), Some(limit)) = (&mut body, shared.hooks_pending) {
            reply.hooks_pending = true;
            reply.hooks_limit_ms = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
        }
        if let Some(outlet) = &shared.outlet {
            let _ = outlet.send(body);
        }
    }

    /// Answers a Freeze of another operation, if it is one.
    pub(crate) fn refuse_if_other(&self, current: &str, asked: &Freeze) -> bool {
        let other = asked.operation_id != current;
        if other {
            let reason = format!("operation {current} is not over yet");
            self.say(Body::FreezeReply(refused(&asked.operation_id, reason)));
        }
        other
    }
}

/// How the last operation went.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) freeze: FreezeReply,
    pub(crate) thaw: ThawReply,
}

struct Actor {
    agent: Agent,
    inbox: UnboundedReceiver<Command>,
    view: View,
    last: Option<Ended>,
}

impl Actor {
    async fn run(mut self) {
        if hooks::recovery_is_needed(&self.agent) {
            self.view.show(QuiesceState::HookPost);
            hooks::recover(&self.agent).await;
            self.view.show(QuiesceState::Idle);
        }
        while let Some(command) = self.inbox.recv().await {
            match command {
                Command::Freeze(freeze) => match self.last_of(&freeze.operation_id) {
                    Some(ended) => self.view.say(Body::FreezeReply(over(&ended.freeze))),
                    None => self.operate(freeze).await,
                },
                Command::Thaw(id) => {
                    let reply = match self.last_of(&id) {
                        Some(ended) => ended.thaw.clone(),
                        None => nothing_held(&id, "nothing was frozen"),
                    };
                    self.view.say(Body::ThawReply(reply));
                }
                Command::Renew(_) => {}
            }
        }
    }

    fn last_of(&self, id: &str) -> Option<&Ended> {
        self.last.as_ref().filter(|ended| ended.freeze.operation_id == id)
    }

    async fn operate(&mut self, freeze: Freeze) {
        let id = freeze.operation_id.clone();
        self.view.operation(&id);
        self.view.show(QuiesceState::Preparing);
        tracing::info!(operation = id, point = freeze.recovery_point, "preparing to freeze");
        let mut round = Round::new(&self.agent, &id);
        let prepared = self.prepare(&freeze, &mut round).await;
        self.view.hooks_pending((!round.is_empty()).then(|| round.finish_limit()));
        let mut ended = match prepared {
            Ok(prepared) => hold::run(&self.agent, &self.view, &mut self.inbox, prepared).await,
            Err(reason) => {
                tracing::warn!(operation = id, reason, "nothing was frozen");
                let mut reply = refused(&id, reason.clone());
                reply.hooks = round.results();
                reply.hook_forbids = round.forbids();
                self.view.say(Body::FreezeReply(reply.clone()));
                Ended { freeze: reply, thaw: nothing_held(&id, &reason) }
            }
        };
        self.after(&mut round, &mut ended).await;
        self.last = Some(ended);
        self.view.lease_until(None);
        self.view.operation("");
        self.view.show(QuiesceState::Idle);
    }

    /// Runs hooks and prepares, while commands are answered. A thaw ends it before anything is frozen.
    async fn prepare(&mut self, freeze: &Freeze, round: &mut Round) -> Result<Prepared, String> {
        let (agent, view) = (self.agent.clone(), self.view.clone());
        let prepare = async {
            hold::check(freeze)?;
            view.show(QuiesceState::HookPre);
            if hooks::recovery_is_needed(&agent) {
                hooks::recover(&agent).await;
            }
            round.pre().await?;
            view.show(QuiesceState::Preparing);
            hold::prepare(&agent, freeze).await
        };
        let mut prepared = std::pin::pin!(prepare);
        loop {
            let command = tokio::select! {
                biased;
                result = &mut prepared => return result,
                command = self.inbox.recv() => command,
            };
            match command {
                Some(Command::Freeze(asked)) => {
                    // A repetition is answered with the others, when there is something to say.
                    self.view.refuse_if_other(&freeze.operation_id, &asked);
                }
                Some(Command::Renew(_)) => {}
                Some(Command::Thaw(id)) => {
                    let reason = "a thaw was asked for before anything was frozen";
                    self.view.say(Body::ThawReply(nothing_held(&id, reason)));
                    return Err(reason.to_owned());
                }
                None => return Err("the agent ends".to_owned()),
            }
        }
    }

    /// Runs what hooks there are to run after a thaw that is confirmed, or when nothing was frozen, while
    /// commands are answered; adds to the result what they did.
    async fn after(&mut self, round: &mut Round, ended: &mut Ended) {
        let frozen = ended.freeze.outcome() == FreezeOutcome::Frozen;
        let unbroken = frozen && ended.thaw.unbroken;
        round.thawed();
        let mut asked = Vec::new();
        if round.is_open() {
            self.view.show(QuiesceState::HookPost);
            let mut finished = std::pin::pin!(round.finish(unbroken));
            let mut inbox_open = true;
            loop {
                let command = tokio::select! {
                    biased;
                    () = &mut finished => break,
                    command = self.inbox.recv(), if inbox_open => command,
                };
                inbox_open = command.is_some();
                match command {
                    Some(Command::Freeze(freeze)) => {
                        if !self.view.refuse_if_other(&ended.freeze.operation_id, &freeze) {
                            self.view.say(Body::FreezeReply(over(&ended.freeze)));
                        }
                    }
                    Some(Command::Thaw(id)) => asked.push(id),
                    Some(Command::Renew(_)) | None => {}
                }
            }
        }
        self.view.hooks_pending(None);
        let succeeded = round.succeeded();
        ended.thaw.hooks = round.results();
        ended.thaw.hooks_succeeded = unbroken && succeeded.is_ok();
        ended.thaw.hooks_problem = succeeded.err().unwrap_or_default();
        for id in asked {
            let mine = id == ended.thaw.operation_id;
            let reply =
                if mine { ended.thaw.clone() } else { nothing_held(&id, "nothing was frozen") };
            self.view.say(Body::ThawReply(reply));
        }
    }
}

/// The answer to a Freeze that is not begun; `reason` is for an operator.
pub fn refused(id: &str, reason: String) -> FreezeReply {
    FreezeReply {
        operation_id: id.to_owned(),
        outcome: FreezeOutcome::Refused.into(),
        reason,
        ..FreezeReply::default()
    }
}

/// The answer to a Thaw where nothing was frozen; `reason` is for an operator.
pub fn nothing_held(id: &str, reason: &str) -> ThawReply {
    ThawReply {
        operation_id: id.to_owned(),
        cause: ThawCause::NotFrozen.into(),
        reason: reason.to_owned(),
        ..ThawReply::default()
    }
}

/// The answer to a Freeze of an operation that has ended, made of the answer that it got then.
pub fn over(freeze: &FreezeReply) -> FreezeReply {
    let mut reply = freeze.clone();
    if reply.outcome() == FreezeOutcome::Frozen {
        reply.set_outcome(FreezeOutcome::Failed);
        reply.reason = "this operation's hold has already ended".to_owned();
    }
    reply
}
