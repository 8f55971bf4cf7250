//! What an agent may say without being asked, and how often it is written down.

use azdr_proto::agent::{ControllerMessage, Freeze, FreezeReply, ThawReply};
use tokio::sync::mpsc::Receiver;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;
use crate::store::{Executor, ItemId};

const VM: ItemId = ItemId(1);

/// A session of the VM's own agent that is listened to.
struct Listened {
    agents: Agents,
    says: mpsc::UnboundedSender<Result<AgentMessage, Status>>,
    told: Receiver<ControllerMessage>,
    _folder: tempfile::TempDir,
}

impl Listened {
    async fn new() -> Self {
        let env = Env::simulated(1);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db"), Executor::Inline).unwrap();
        let item = "INSERT INTO item VALUES (1, 'vm', 'k', '/x', 'eastus', NULL, 0)";
        store.write(move |c| Ok(c.execute_batch(item)?)).await.unwrap();
        let agents = Agents {
            store,
            fleet: Fleet::new(env.clock.clone()),
            authority: Arc::new(CertificateAuthority::generate(&env).unwrap()),
            env,
            presence: Presence { silence_limit: Duration::from_secs(3600), ..Presence::default() },
        };
        let (outbox, told) = mpsc::channel(OUTBOX);
        let far = WallTime::from_unix_ms(i64::MAX / 2);
        let session = agents.fleet.join(|id, arrival| {
            let (kind, hello) = (SessionKind::Protected, Hello::default());
            Session::new(id, VM, kind, hello, arrival, far, outbox)
        });
        let (says, incoming) = mpsc::unbounded_channel();
        let listening = agents.clone();
        tokio::spawn(async move {
            let vm = ArmId::resource_group_id("00000000-0000-0000-0000-000000000001", "g").unwrap();
            listening.listen(&session, &vm, "serial", UnboundedReceiverStream::new(incoming)).await;
        });
        Self { agents, says, told, _folder: folder }
    }

    /// Lets the agent say this; returns once it was heard.
    async fn say(&self, body: FromAgent) {
        let mut changes = self.agents.fleet.changes();
        self.says.send(Ok(AgentMessage { body: Some(body) })).unwrap();
        changes.changed().await;
    }

    /// Lets the agent report this problem; the one that is kept then.
    async fn report(&self, request_id: &str, problem: &str) -> String {
        let (request_id, problems) = (request_id.to_owned(), vec![problem.to_owned()]);
        let report = PreflightReport { request_id, problems, ..PreflightReport::default() };
        self.say(FromAgent::Preflight(report)).await;
        self.agents.store.preflights().await.unwrap()[&VM].problems[0].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_preflight_that_nobody_asked_for_is_kept_once_a_minute() {
    let mut agent = Listened::new().await;
    assert_eq!(agent.report("", "first").await, "first");
    assert_eq!(agent.report("", "second").await, "first");
    assert_eq!(agent.report("made up", "third").await, "first");
    let fleet = agent.agents.fleet.clone();
    let limit = Duration::from_secs(60);
    let asked = tokio::spawn(async move { fleet.preflight(VM, "r".to_owned(), limit).await });
    agent.told.recv().await.unwrap();
    assert_eq!(agent.report("r", "asked for").await, "asked for");
    assert_eq!(asked.await.unwrap().unwrap().problems, ["asked for"]);
    assert_eq!(agent.report("r", "again").await, "asked for", "it was answered");
    tokio::time::advance(UNASKED_PREFLIGHT).await;
    assert_eq!(agent.report("", "later").await, "later");
}

#[tokio::test(start_paused = true)]
async fn of_a_reason_no_more_is_taken_in_than_is_kept() {
    let mut agent = Listened::new().await;
    let long = "é\n".repeat(1_000_000);
    let fleet = agent.agents.fleet.clone();
    let limit = Duration::from_secs(60);
    let thaw = tokio::spawn(async move { fleet.thaw(VM, "o".to_owned(), limit).await });
    agent.told.recv().await.unwrap();
    let reply = ThawReply {
        operation_id: "o".to_owned(),
        reason: long.clone(),
        hooks_problem: long.clone(),
        ..ThawReply::default()
    };
    agent.say(FromAgent::ThawReply(reply)).await;
    let thawed = thaw.await.unwrap().unwrap();

    let fleet = agent.agents.fleet.clone();
    let freeze = Freeze { operation_id: "o".to_owned(), ..Freeze::default() };
    let frozen = tokio::spawn(async move { fleet.freeze(VM, freeze, limit).await });
    agent.told.recv().await.unwrap();
    let reply = FreezeReply { operation_id: "o".into(), reason: long, ..FreezeReply::default() };
    agent.say(FromAgent::FreezeReply(reply)).await;
    let refused = frozen.await.unwrap().unwrap();

    for kept in [thawed.reason, thawed.hooks_problem, refused.reason] {
        assert_eq!((kept.chars().count(), kept.contains('\n')), (512, false));
    }
}
