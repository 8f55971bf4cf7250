//! The agent's side of a freeze: one actor, one operation at a time, independent of sessions.
//!
//! ```text
//! IDLE ─Freeze─▶ PREPARING (survey, presync, witness, arm) ─▶ FREEZING ─▶ FROZEN ─▶ THAWING ─▶ IDLE
//!                                                                                    └▶ POISONED
//! ```
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
    /// thaw process, seeing this one end, goes on alone.
    pub async fn end(&self, limit: Duration) {
        self.command(Command::Thaw(lock(&self.shared).operation_id.clone()));
        let start = self.agent.env.clock.monotonic();
        while self.state() != QuiesceState::Idle
            && self.agent.env.clock.monotonic().since(start) < limit
        {
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

    fn operation(&self, id: &str) {
        lock(&self.shared).operation_id = id.to_owned();
    }

    /// Sends a reply to the session, if there is one. Replies are kept in [`Actor::last`] as well.
    pub(crate) fn say(&self, body: Body) {
        if let Some(outlet) = &lock(&self.shared).outlet {
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
        let ended = match self.prepare(&freeze).await {
            Ok(prepared) => hold::run(&self.agent, &self.view, &mut self.inbox, prepared).await,
            Err(reason) => {
                tracing::warn!(operation = id, reason, "nothing was frozen");
                let reply = refused(&id, reason.clone());
                self.view.say(Body::FreezeReply(reply.clone()));
                Ended { freeze: reply, thaw: nothing_held(&id, &reason) }
            }
        };
        self.last = Some(ended);
        self.view.lease_until(None);
        self.view.operation("");
        self.view.show(QuiesceState::Idle);
    }

    /// Prepares, while commands are answered. A thaw ends it before anything is frozen.
    async fn prepare(&mut self, freeze: &Freeze) -> Result<Prepared, String> {
        let mut prepared = std::pin::pin!(hold::prepare(&self.agent, freeze));
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
