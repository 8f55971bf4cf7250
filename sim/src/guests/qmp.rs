//! A client of QEMU's machine protocol (QMP): commands with answers, and events.
//!
//! One task owns the connection; a command may be given up by its caller at any time without
//! harming the stream. Every command has a time limit. It must not know what the machine is for.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

/// QEMU answers at once unless the host is very busy; then the guest is not served either.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// The process ended, or closed the connection.
    #[error("the machine ended before it answered {command}")]
    Closed { command: String },
    /// No answer in time; whether the command took effect is unknown.
    #[error("the machine did not answer {command} within {} s", COMMAND_LIMIT.as_secs())]
    TimedOut { command: String },
    /// QEMU said no.
    #[error("the machine refused {command}: {reason}")]
    Refused { command: String, reason: String },
}

/// Something that happened in the machine.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// QEMU's name for it, for example `BLOCK_JOB_COMPLETED`.
    pub(crate) name: String,
    /// Its `data`; null when it has none.
    pub(crate) data: Value,
}

type Answer = Result<Value, String>;

/// The connection to one machine. Dropping it closes it.
#[derive(Debug)]
pub(crate) struct Qmp {
    outgoing: mpsc::UnboundedSender<String>,
    shared: Arc<Mutex<Shared>>,
}

/// What callers and the connection's task have in common.
#[derive(Debug, Default)]
struct Shared {
    last_id: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Answer>>,
    subscribers: Vec<mpsc::UnboundedSender<Event>>,
    closed: bool,
}

impl Qmp {
    /// Negotiates on a fresh connection. QEMU greets once it has built the machine, so this also
    /// waits for that.
    pub(crate) async fn connect(stream: UnixStream) -> Result<Self, QmpError> {
        let (outgoing, commands) = mpsc::unbounded_channel();
        let shared = Arc::new(Mutex::new(Shared::default()));
        tokio::spawn(serve(stream, commands, Arc::clone(&shared)));
        let qmp = Self { outgoing, shared };
        // The greeting needs no waiting for: QEMU reads the command after having sent it.
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Runs one command and returns its `return`.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let closed = || QmpError::Closed { command: command.into() };
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut shared = self.shared.lock().expect("no code panics while holding this lock");
            if shared.closed {
                return Err(closed());
            }
            shared.last_id += 1;
            let id = shared.last_id;
            shared.waiting.insert(id, answer);
            id
        };
        let line = json!({ "execute": command, "arguments": arguments, "id": id });
        self.outgoing.send(format!("{line}\n")).map_err(|_| closed())?;
        match tokio::time::timeout(COMMAND_LIMIT, answered).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(reason))) => Err(QmpError::Refused { command: command.into(), reason }),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(QmpError::TimedOut { command: command.into() }),
        }
    }

    /// Whether the other side has gone: no command will be answered any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.shared.lock().expect("no code panics while holding this lock").closed
    }

    /// All events from now on; ends when the connection does.
    pub(crate) fn events(&self) -> mpsc::UnboundedReceiver<Event> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut shared = self.shared.lock().expect("no code panics while holding this lock");
        if !shared.closed {
            shared.subscribers.push(sender);
        }
        receiver
    }
}

/// Owns the connection until either side closes it.
async fn serve(
    stream: UnixStream,
    mut commands: mpsc::UnboundedReceiver<String>,
    shared: Arc<Mutex<Shared>>,
) {
    let ended = exchange(stream, &mut commands, &shared).await;
    if let Err(e) = ended {
        tracing::debug!(error = %e, "the QMP connection broke");
    }
    let mut shared = shared.lock().expect("no code panics while holding this lock");
    // Dropping the senders tells everyone who waits.
    *shared = Shared { closed: true, ..Shared::default() };
}

async fn exchange(
    stream: UnixStream,
    commands: &mut mpsc::UnboundedReceiver<String>,
    shared: &Mutex<Shared>,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                Some(line) => shared
                    .lock()
                    .expect("no code panics while holding this lock")
                    .receive(&line),
                None => return Ok(()),
            },
            command = commands.recv() => match command {
                Some(command) => writer.write_all(command.as_bytes()).await?,
                None => return Ok(()),
            },
        }
    }
}

impl Shared {
    /// Hands a line of QEMU's to whoever waits for it. The greeting is for nobody.
    fn receive(&mut self, line: &str) {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            tracing::warn!(line, "the machine sent something that is not JSON");
            return;
        };
        if let Some(name) = message["event"].as_str() {
            let event = Event { name: name.into(), data: message["data"].clone() };
            self.subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
        } else if let Some(waiting) = message["id"].as_u64().and_then(|id| self.waiting.remove(&id))
        {
            let answer = match message.get("error") {
                Some(error) => Err(error["desc"].as_str().unwrap_or("no reason given").into()),
                None => Ok(message["return"].clone()),
            };
            // The caller may have given up.
            let _ = waiting.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that greets, answers `qmp_capabilities`, and then plays `script`: for each further
    /// command the lines to send, with `ID` replaced by the command's id.
    async fn peer(stream: UnixStream, script: Vec<Vec<&'static str>>) {
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        writer.write_all(b"{\"QMP\": {\"version\": {}}}\n").await.unwrap();
        let answers = std::iter::once(vec![r#"{"return": {}, "id": ID}"#]).chain(script);
        for answer in answers {
            let line = lines.next_line().await.unwrap().unwrap();
            let id = serde_json::from_str::<Value>(&line).unwrap()["id"].to_string();
            for line in answer {
                writer.write_all(line.replace("ID", &id).as_bytes()).await.unwrap();
                writer.write_all(b"\n").await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn answers_find_their_commands_and_events_their_subscribers() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(peer(
            theirs,
            vec![
                vec![
                    r#"{"event": "JOB_STATUS_CHANGE", "data": {"id": "a"}}"#,
                    r#"{"return": {"running": true}, "id": ID}"#,
                ],
                vec![r#"{"error": {"class": "GenericError", "desc": "no such node"}, "id": ID}"#],
            ],
        ));
        let qmp = Qmp::connect(ours).await.unwrap();
        let mut events = qmp.events();
        assert_eq!(qmp.execute("query-status", json!({})).await.unwrap()["running"], true);
        assert_eq!(events.recv().await.unwrap().data["id"], "a");
        let refused = qmp.execute("blockdev-del", json!({"node-name": "x"})).await.unwrap_err();
        assert_eq!(refused.to_string(), "the machine refused blockdev-del: no such node");
    }

    #[tokio::test]
    async fn everyone_who_waits_hears_of_the_end() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Answers one command with nothing at all, then hangs up.
        tokio::spawn(peer(theirs, vec![vec![]]));
        let qmp = Qmp::connect(ours).await.unwrap();
        let mut events = qmp.events();
        let unanswered = qmp.execute("query-jobs", json!({})).await.unwrap_err();
        assert!(matches!(unanswered, QmpError::Closed { .. }), "{unanswered}");
        assert!(events.recv().await.is_none());
        assert!(qmp.is_closed());
        let afterwards = qmp.execute("stop", json!({})).await.unwrap_err();
        assert!(matches!(afterwards, QmpError::Closed { .. }), "{afterwards}");
        assert!(qmp.events().recv().await.is_none());
    }
}
