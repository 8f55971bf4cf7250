//! Every call of the admin API, as the manual (`admin.proto`) lists them, by operators of every role.
//!
//! The manual's `Role:` is the table: a new call without it fails here, and so does one that demands
//! another role than it says.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use azdr_arm::{
    ArmClient, ArmConfig, CredentialConfig, HttpRequest, HttpResponse, HttpTransport, PollPace,
    Secret, Tokens, TransportError,
};
use azdr_env::Env;
use azdr_identity::{CertificateAuthority, Identity, PeerCertificate, PeerInfo};
use azdr_proto::admin::admin_service_server::AdminServiceServer;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::*;
use crate::api::agent_service::Presence;
use crate::parts::Given;
use crate::store::{Executor, Stamp, Store};
use crate::workflow::{EngineConfig, RetryPolicy};
use crate::workflows::{self, DeletionLimit, DrillAccess, ProbeAddress, Settings};

const SERVICE: &str = "azdr.admin.v1.AdminService";
const SERIAL: &str = "0a";
const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

/// The calls, each with the role that the manual says.
fn manual() -> BTreeMap<String, Role> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto/proto");
    let set = protox::compile(["admin.proto"], [folder]).unwrap();
    let file = set.file.iter().find(|f| f.name() == "admin.proto").unwrap();
    let comments = &file.source_code_info.as_ref().unwrap().location;
    let service = file.service.iter().position(|s| s.name() == "AdminService").unwrap();
    let calls = file.service[service].method.iter().enumerate();
    calls
        .map(|(n, call)| {
            // Service (field 6 of a file), method (field 2 of a service).
            let path = [6, service as i32, 2, n as i32];
            let comment = comments.iter().find(|l| l.path == path).unwrap().leading_comments();
            let said = comment.trim().strip_prefix("Role: ").unwrap_or_else(|| {
                panic!("the comment of {} does not begin with its role: {comment:?}", call.name())
            });
            let word: String = said.chars().take_while(char::is_ascii_alphabetic).collect();
            let role = Role::parse(&word);
            (call.name().to_owned(), role.unwrap_or_else(|| panic!("{}: {word:?}", call.name())))
        })
        .collect()
}

/// Azure does not answer: who may call what does not depend on it.
struct Unreachable;

#[tonic::async_trait]
impl HttpTransport for Unreachable {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, TransportError> {
        Err(TransportError::maybe_sent("Azure is unreachable"))
    }
}

/// The admin API on an empty database with an operator of each role, named after it.
async fn admin(folder: &Path) -> Admin {
    let env = Env::simulated(1);
    let store = Store::open(&folder.join("db"), Executor::Inline).unwrap();
    for role in ROLES {
        let sql = "INSERT INTO operator VALUES (?1, ?1, ?2, 0, NULL)";
        store.write(move |c| Ok(c.execute(sql, [role.as_str(), SERIAL])?)).await.unwrap();
    }
    let endpoint: url::Url = "https://azure.invalid/".parse().unwrap();
    let config = ArmConfig {
        authority: Some(endpoint.clone()),
        endpoint,
        pace: PollPace::quick(),
        ..ArmConfig::public_cloud(CredentialConfig::ClientSecret {
            tenant_id: "00000000-0000-0000-0000-0000000000aa".into(),
            client_id: "client".into(),
            client_secret: Secret::new("secret"),
        })
    };
    let azure =
        ArmClient::with_transport(config, env.clone(), Arc::new(Unreachable), Tokens::Configured);
    let given = Given {
        store,
        azure,
        authority: Arc::new(CertificateAuthority::generate(&env).unwrap()),
        env,
        settings: settings(),
        stamp: Stamp {
            cloud: "simulated".into(),
            tenant_id: String::new(),
            subscriptions: vec!["00000000-0000-0000-0000-000000000001".into()],
            installation: "1nstall".into(),
        },
        max_holds: 1,
        engine: EngineConfig { max_running: 1, retry: RetryPolicy::QUICK },
        definitions: workflows::all(),
        presence: Presence::default(),
        enroll_address: "controller:7443".into(),
        agent_address: "controller:7444".into(),
    };
    given.assemble().admin
}

fn settings() -> Settings {
    Settings {
        installation: "1nstall".into(),
        agent_address: None,
        snapshot_group_prefix: "azdr-".into(),
        hold_limit: Duration::from_secs(10),
        hold_lease: Duration::from_secs(3),
        drill_access: DrillAccess::None,
        probe_address: ProbeAddress::None,
        ssh_port: 22,
        probe_login: None,
        boot_limit: Duration::from_secs(1),
        copy_stall_limit: Duration::from_secs(1),
        keep_replaced: Duration::from_secs(1),
        deletion_limit: DeletionLimit { percent: 20, points: 5 },
        look_again: Duration::from_secs(1),
        sampled_blocks: azdr_domain::content::Sampling::Blocks(0),
        read_for: Duration::from_secs(10),
        look_again_at_copy: Duration::from_secs(1),
    }
}

fn peer(admin: &Admin, identity: Identity) -> PeerInfo {
    let now = admin.env.clock.wall();
    PeerInfo {
        peer: Some(PeerCertificate {
            identity,
            serial: SERIAL.into(),
            not_before: now,
            not_after: now.plus(Duration::from_secs(3600)),
            expired: false,
            fingerprint: String::new(),
        }),
        remote_addr: ([127, 0, 0, 1], 1).into(),
    }
}

/// Makes a call with an empty message, through the generated service, as a certificate's owner.
async fn call(admin: &Admin, call: &str, peer: Option<PeerInfo>) -> Result<(), Status> {
    let mut service = Grpc::new(AdminServiceServer::new(admin.clone()));
    let mut request = Request::new(());
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let path: PathAndQuery = format!("/{SERVICE}/{call}").parse().unwrap();
    let codec = ProstCodec::<(), ()>::default();
    service.unary(request, path, codec).await.map(|_| ())
}

fn refused(answer: &Result<(), Status>) -> bool {
    answer.as_ref().is_err_and(|e| e.code() == Code::PermissionDenied)
}

#[tokio::test(start_paused = true)]
async fn every_call_demands_the_role_that_the_manual_says() {
    let folder = tempfile::tempdir().unwrap();
    let admin = admin(folder.path()).await;
    let manual = manual();
    assert!(manual.len() >= 36, "{manual:?}");
    for (name, needed) in &manual {
        for role in ROLES {
            let operator = Identity::Operator { name: role.as_str().into() };
            let answer = call(&admin, name, Some(peer(&admin, operator))).await;
            if let Err(e) = &answer {
                assert_ne!(e.code(), Code::Unimplemented, "{name}: {e}");
            }
            assert_eq!(refused(&answer), role < *needed, "{name} by {role:?}: {answer:?}");
            if let Some(e) = answer.err().filter(|_| role < *needed) {
                let (is, needs) = (role.as_str(), needed.as_str());
                let words = format!("operator {is} is {is}; this needs role {needs}");
                assert_eq!(e.message(), words, "{name}");
            }
        }
        let agent = Identity::Agent { vm_hash: "0".repeat(64) };
        assert!(refused(&call(&admin, name, Some(peer(&admin, agent))).await), "{name}");
        let nobody = call(&admin, name, None).await.unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated, "{name}");
    }
}

/// What a viewer may call only reads: it is named so.
#[test]
fn a_viewer_is_refused_everything_that_changes_something() {
    let reading = ["List", "Get", "Watch", "Explain", "Simulate", "Diff", "Estimate", "Whoami"];
    for (name, role) in manual() {
        // Changes nothing but the caller's own certificate, which everybody may.
        let own = name == "RenewOperator";
        let reads = own || reading.iter().any(|verb| name.starts_with(verb));
        assert!(reads || role > Role::Viewer, "{name} needs role {}", role.as_str());
    }
}

#[test]
fn what_cannot_be_taken_back_needs_an_admin() {
    let manual = manual();
    for name in ["RevokeAgent", "ReleaseRetention", "AbandonJob"] {
        assert_eq!(manual[name], Role::Admin, "{name}");
    }
    for name in ["RetryJob", "UndoJob", "CancelJob", "PinPoint", "UnpinPoint", "StartDeletion"] {
        assert_eq!(manual[name], Role::Operator, "{name}");
    }
}
