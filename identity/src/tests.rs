//! Real TLS over loopback, with the enrolment service standing in for any gRPC service: each call
//! is answered with what the server knows of its caller.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use azdr_env::{Clock, Env, ManualClock, SeededIds, WallTime};
use azdr_proto::enroll::enroll_service_client::EnrollServiceClient;
use azdr_proto::enroll::enroll_service_server::{EnrollService, EnrollServiceServer};
use azdr_proto::enroll::{EnrollRequest, EnrollResponse};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct World {
    env: Env,
    clock: Arc<ManualClock>,
    ca: CertificateAuthority,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock::at(WallTime::from_unix_ms(1_764_576_000_000)));
        let env = Env { clock: clock.clone(), ids: Arc::new(SeededIds::new(seed)) };
        let ca = CertificateAuthority::generate(&env).unwrap();
        Self { env, clock, ca }
    }

    fn now(&self) -> WallTime {
        self.clock.wall()
    }

    fn serial(&self) -> Serial {
        Serial::random(self.env.ids.as_ref())
    }

    fn issue(&self, identity: &Identity) -> (Issued, String) {
        let until = self.now().plus(30 * DAY);
        self.ca.issue_with_new_key(identity, self.now(), until, self.serial()).unwrap()
    }

    fn client(&self, identity: &Identity) -> ClientIdentity {
        let (issued, key) = self.issue(identity);
        ClientIdentity::from_pem(&key, &issued.cert_pem(), &self.ca.cert_pem()).unwrap()
    }

    fn tls(&self, auth: ClientAuth) -> ServerTls {
        let until = self.now().plus(3650 * DAY);
        let identity = Identity::Controller;
        let (issued, key) =
            self.ca.issue_with_new_key(&identity, self.now(), until, self.serial()).unwrap();
        ServerTls::new(&issued.cert_der, &key, self.ca.cert_der(), auth, self.clock.clone())
            .unwrap()
    }

    fn options(&self) -> ConnectOptions {
        ConnectOptions { clock: Some(self.clock.clone()), ..ConnectOptions::default() }
    }

    async fn connect(&self, at: &Listener, who: &ClientIdentity) -> Result<Channel, ConnectError> {
        connect_mutual_with(&at.address, who, &self.options()).await
    }
}

struct Listener {
    address: String,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(tls: ServerTls, limits: AcceptLimits) -> Listener {
    let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = serve_incoming(listener, tls, limits);
    let server = Server::builder().add_service(EnrollServiceServer::new(WhoCalls));
    let task = tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
    Listener { address, task }
}

struct WhoCalls;

#[tonic::async_trait]
impl EnrollService for WhoCalls {
    async fn enroll(&self, r: Request<EnrollRequest>) -> Result<Response<EnrollResponse>, Status> {
        let info = r.extensions().get::<PeerInfo>().expect("the acceptor puts it there");
        Err(Status::failed_precondition(match &info.peer {
            None => "nobody".to_owned(),
            Some(peer) => {
                let age = if peer.expired { "expired" } else { "current" };
                format!("{} {} {age}", peer.identity, peer.serial)
            }
        }))
    }
}

async fn who_am_i(channel: Channel) -> String {
    let answer = EnrollServiceClient::new(channel).enroll(EnrollRequest::default()).await;
    let status = answer.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    status.message().to_owned()
}

fn agent() -> Identity {
    Identity::Agent { vm_hash: vm_hash("/subscriptions/s/vm") }
}

fn operator() -> Identity {
    Identity::operator("alice").unwrap()
}

#[tokio::test]
async fn the_server_sees_whether_an_agent_or_an_operator_calls() {
    let world = World::new(1);
    let server = start(world.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    for identity in [agent(), operator()] {
        let who = world.client(&identity);
        let serial = who.certificate(world.now()).unwrap().serial;
        let channel = world.connect(&server, &who).await.unwrap();
        assert_eq!(who_am_i(channel).await, format!("{identity} {serial} current"));
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_at_connect() {
    let (world, other) = (World::new(2), World::new(3));
    let server = start(world.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let mut who = other.client(&operator());
    who.ca_der = world.ca.cert_der().to_vec();
    let error = world.connect(&server, &who).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("another authority"), "{error}");
}

#[tokio::test]
async fn a_controller_of_another_authority_is_not_trusted() {
    let (world, other) = (World::new(4), World::new(5));
    let server = start(other.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let error = world.connect(&server, &world.client(&operator())).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
}

#[tokio::test]
async fn an_agents_certificate_cannot_pose_as_the_controllers() {
    let world = World::new(6);
    let (issued, key) = world.issue(&agent());
    let refused = ServerTls::new(
        &issued.cert_der,
        &key,
        world.ca.cert_der(),
        ClientAuth::None,
        world.clock.clone(),
    );
    assert!(matches!(refused, Err(TlsSetupError::Certificate(_))));
    // And a client that met such a server would not believe it either.
    let verifier =
        verifier::ControllerVerifier::new(verifier::Trust::Authority(world.ca.cert_der().to_vec()));
    let result = rustls::client::danger::ServerCertVerifier::verify_server_cert(
        &verifier,
        &issued.cert_der.into(),
        &[],
        &"controller".try_into().unwrap(),
        &[],
        provider::unix_time(world.now()),
    );
    assert!(result.is_err());
}

#[tokio::test]
async fn an_expired_certificate_opens_only_the_door_for_restored_machines() {
    let world = World::new(7);
    let current = start(world.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let restored = start(world.tls(ClientAuth::RequireAllowExpired), AcceptLimits::default());
    let who = world.client(&agent());
    let channel = world.connect(&restored, &who).await.unwrap();
    assert!(who_am_i(channel).await.ends_with(" current"));

    world.clock.advance(400 * DAY);
    let error = world.connect(&current, &who).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("expired"), "{error}");
    let channel = world.connect(&restored, &who).await.unwrap();
    assert!(who_am_i(channel).await.ends_with(" expired"));
}

#[tokio::test]
async fn a_certificate_from_the_future_is_flagged_too() {
    let world = World::new(8);
    let restored = start(world.tls(ClientAuth::RequireAllowExpired), AcceptLimits::default());
    let (from, to) = (world.now().plus(DAY), world.now().plus(2 * DAY));
    let (issued, key) = world.ca.issue_with_new_key(&agent(), from, to, world.serial()).unwrap();
    let who = ClientIdentity::from_pem(&key, &issued.cert_pem(), &world.ca.cert_pem()).unwrap();
    let channel = world.connect(&restored, &who).await.unwrap();
    assert!(who_am_i(channel).await.ends_with(" expired"));
}

#[tokio::test]
async fn the_door_for_restored_machines_refuses_other_authorities_and_the_controllers_own() {
    let (world, other) = (World::new(9), World::new(10));
    let restored = start(world.tls(ClientAuth::RequireAllowExpired), AcceptLimits::default());
    let mut foreign = other.client(&agent());
    foreign.ca_der = world.ca.cert_der().to_vec();
    for who in [foreign, world.client(&Identity::Controller)] {
        let error = world.connect(&restored, &who).await.unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn pinning_needs_the_right_fingerprint_and_no_certificate() {
    let world = World::new(11);
    let server = start(world.tls(ClientAuth::None), AcceptLimits::default());
    let pinned = world.ca.fingerprint();
    let channel = connect_pinned_with(&server.address, &pinned, &world.options()).await.unwrap();
    assert_eq!(who_am_i(channel).await, "nobody");

    let wrong = World::new(12).ca.fingerprint();
    let error = connect_pinned_with(&server.address, &wrong, &world.options()).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
    let error = connect_pinned(&server.address, "abc").await.unwrap_err();
    assert!(matches!(error, ConnectError::BadIdentity { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_told_so_at_connect() {
    let world = World::new(13);
    let server = start(world.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let pinned = world.ca.fingerprint();
    let error = connect_pinned_with(&server.address, &pinned, &world.options()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_there_and_addresses_that_are_none_are_told_apart() {
    let world = World::new(14);
    let who = world.client(&operator());
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = connect_mutual(&free.to_string(), &who).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    for address in ["", "host", "host:port", "host:1/path"] {
        let error = connect_mutual(address, &who).await.unwrap_err();
        assert!(matches!(error, ConnectError::BadAddress { .. }), "{address}: {error:?}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_made_again_and_its_cause_is_found_meanwhile() {
    let (world, other) = (World::new(15), World::new(16));
    let ours = start(world.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let theirs = start(other.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let wire = Wire::to(&ours.address).await;
    let options = world.options();
    let who = world.client(&operator());
    let channel = connect_mutual_with(&wire.address, &who, &options).await.unwrap();
    who_am_i(channel.clone()).await;

    wire.cut_and_lead_to(&theirs.address);
    let mut client = EnrollServiceClient::new(channel.clone());
    // The call that meets the broken connection may not know the cause yet.
    let mut found = false;
    for _ in 0..100 {
        let status = client.enroll(EnrollRequest::default()).await.unwrap_err();
        if let Some(error) = connect_error(&status) {
            assert!(matches!(error, ConnectError::NotTrusted { .. }), "{error:?}");
            assert_eq!(status.code(), tonic::Code::Unavailable);
            found = true;
            break;
        }
    }
    assert!(found);

    wire.cut_and_lead_to(&ours.address);
    for _ in 0..100 {
        let status = client.enroll(EnrollRequest::default()).await.unwrap_err();
        if status.code() == tonic::Code::FailedPrecondition {
            return;
        }
    }
    panic!("the channel never came back");
}

#[tokio::test]
async fn a_server_that_falls_silent_is_noticed_and_the_next_call_reaches_it_anew() {
    let world = World::new(27);
    let server = start(world.tls(ClientAuth::RequireCurrent), AcceptLimits::default());
    let wire = Wire::to(&server.address).await;
    let options = ConnectOptions {
        keep_alive_interval: Duration::from_millis(50),
        keep_alive_timeout: Duration::from_millis(100),
        ..world.options()
    };
    let who = world.client(&operator());
    let channel = connect_mutual_with(&wire.address, &who, &options).await.unwrap();
    who_am_i(channel.clone()).await;

    wire.stall.notify_waiters();
    let mut client = EnrollServiceClient::new(channel.clone());
    let call = client.enroll(EnrollRequest::default());
    let status = tokio::time::timeout(Duration::from_secs(5), call).await.unwrap().unwrap_err();
    assert_ne!(status.code(), tonic::Code::FailedPrecondition, "{status:?}");
    who_am_i(channel).await;
}

/// A TCP proxy whose connections can be cut, and which can lead somewhere else afterwards.
struct Wire {
    address: String,
    target: Arc<Mutex<String>>,
    stall: Arc<Notify>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    acceptor: JoinHandle<()>,
}

impl Wire {
    async fn to(target: &str) -> Self {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let target = Arc::new(Mutex::new(target.to_owned()));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let stall = Arc::new(Notify::new());
        let (leads_to, open, stalled) = (target.clone(), connections.clone(), stall.clone());
        let acceptor = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let target = leads_to.lock().unwrap().clone();
                let stalled = stalled.clone();
                open.lock().unwrap().push(tokio::spawn(async move {
                    let mut far = TcpStream::connect(target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        // Both sockets stay open, and nothing moves.
                        () = stalled.notified() => std::future::pending().await,
                    }
                }));
            }
        });
        Self { address, target, stall, connections, acceptor }
    }

    fn cut_and_lead_to(&self, target: &str) {
        *self.target.lock().unwrap() = target.to_owned();
        self.connections.lock().unwrap().drain(..).for_each(|c| c.abort());
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

#[tokio::test]
async fn a_replaced_server_certificate_shows_at_the_next_handshake() {
    let world = World::new(17);
    let tls = world.tls(ClientAuth::RequireCurrent);
    let server = start(tls.clone(), AcceptLimits::default());
    let who = world.client(&operator());
    let old = world.connect(&server, &who).await.unwrap();
    // Not valid before tomorrow: whoever sees it, refuses it.
    let (from, to) = (world.now().plus(DAY), world.now().plus(9 * DAY));
    let (new, key) =
        world.ca.issue_with_new_key(&Identity::Controller, from, to, world.serial()).unwrap();
    tls.replace_certificate(&new.cert_der, &key).unwrap();
    assert!(matches!(world.connect(&server, &who).await, Err(ConnectError::NotTrusted { .. })));
    who_am_i(old).await;
    world.clock.advance(2 * DAY);
    world.connect(&server, &who).await.unwrap();

    let (_, other_key) = world.issue(&Identity::Controller);
    assert!(matches!(
        tls.replace_certificate(&new.cert_der, &other_key),
        Err(TlsSetupError::Key(_))
    ));
}

#[tokio::test]
async fn peers_that_say_nothing_do_not_hold_up_others() {
    let world = World::new(18);
    let limits = AcceptLimits { handshake_timeout: Duration::from_millis(300), ..<_>::default() };
    let server = start(world.tls(ClientAuth::RequireCurrent), limits);
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let channel = world.connect(&server, &world.client(&operator())).await.unwrap();
    who_am_i(channel).await;
    // And each of them is closed when its time is up.
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
    }
}

#[tokio::test]
async fn a_full_handshake_queue_empties_by_itself() {
    let world = World::new(19);
    let limits = AcceptLimits {
        max_handshakes: 2,
        handshake_timeout: Duration::from_millis(200),
        ..AcceptLimits::default()
    };
    let server = start(world.tls(ClientAuth::RequireCurrent), limits);
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(TcpStream::connect(&server.address).await.unwrap());
    }
    let channel = world.connect(&server, &world.client(&operator())).await.unwrap();
    who_am_i(channel).await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_a_place_is_free_again_later() {
    let world = World::new(20);
    let limits = AcceptLimits { max_connections: 1, ..AcceptLimits::default() };
    let server = start(world.tls(ClientAuth::RequireCurrent), limits);
    let who = world.client(&operator());
    let first = world.connect(&server, &who).await.unwrap();
    let error = world.connect(&server, &who).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    drop(first);
    for _ in 0..100 {
        if world.connect(&server, &who).await.is_ok() {
            return;
        }
        azdr_env::sleep(Duration::from_millis(20)).await;
    }
    panic!("the place of a closed connection is never free again");
}

#[test]
fn names_and_usages_asked_for_in_a_signing_request_are_ignored() {
    let world = World::new(21);
    let key = KeyPair::generate().unwrap();
    let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
    wish.distinguished_name.push(DnType::CommonName, "azdr://operator/root");
    let uri = "azdr://operator/root".try_into().unwrap();
    wish.subject_alt_names.push(SanType::URI(uri));
    let csr = wish.serialize_request(&key).unwrap();
    let to = world.now().plus(DAY);
    let serial = world.serial();
    let issued = world.ca.issue_from_csr(csr.der(), &agent(), world.now(), to, serial).unwrap();
    let read = PeerCertificate::from_der(&issued.cert_der, world.now()).unwrap();
    assert_eq!(read.identity, agent());
    assert_eq!(read.serial, issued.serial_hex);
    assert_eq!((read.not_before, read.not_after), (issued.not_before, issued.not_after));
    assert!(!read.expired);
    let parsed = certificate::parse(&issued.cert_der).unwrap();
    assert_eq!(parsed.public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&key));
    assert!(!String::from_utf8_lossy(&issued.cert_der).contains("evil"));
}

#[test]
fn changed_oversized_and_garbled_signing_requests_are_refused() {
    let world = World::new(22);
    let (_, csr) = generate_key_and_csr("web-1").unwrap();
    let try_it = |csr: &[u8]| {
        let to = world.now().plus(DAY);
        world.ca.issue_from_csr(csr, &agent(), world.now(), to, world.serial())
    };
    try_it(&csr).unwrap();
    let mut changed = csr.clone();
    let at = changed.windows(5).position(|w| w == b"web-1").unwrap();
    changed[at] = b'W';
    let mut longer = csr.clone();
    longer.push(0);
    for bad in [changed, longer, vec![0x30; 9000], Vec::new(), b"hello".to_vec()] {
        assert!(matches!(try_it(&bad), Err(AuthorityError::BadRequest(_))));
    }
}

#[test]
fn an_authority_is_read_back_from_pem_and_only_with_its_own_key() {
    let (world, other) = (World::new(23), World::new(24));
    let again = CertificateAuthority::from_pem(&world.ca.cert_pem(), world.ca.key_pem()).unwrap();
    assert_eq!(again.fingerprint(), world.ca.fingerprint());
    let (issued, _) = again
        .issue_with_new_key(&agent(), world.now(), world.now().plus(DAY), world.serial())
        .unwrap();
    assert!(PeerCertificate::from_der(&issued.cert_der, world.now()).is_ok());
    assert!(CertificateAuthority::from_pem(&world.ca.cert_pem(), other.ca.key_pem()).is_err());
    let (leaf, key) = world.issue(&agent());
    assert!(CertificateAuthority::from_pem(&leaf.cert_pem(), &key).is_err());
}

#[test]
fn impossible_validities_and_names_are_refused() {
    let world = World::new(25);
    let now = world.now();
    let issue = |identity: &Identity, from, to| {
        world.ca.issue_with_new_key(identity, from, to, world.serial()).map(drop)
    };
    let before = now.minus(DAY);
    assert!(matches!(issue(&agent(), now, before), Err(AuthorityError::BadValidity { .. })));
    let far = WallTime::from_unix_ms(i64::MAX);
    issue(&agent(), now, far).unwrap();
    let handmade = Identity::Operator { name: "a/../b".to_owned() };
    assert!(matches!(issue(&handmade, now, far), Err(AuthorityError::BadName(_))));
}

#[test]
fn debug_output_shows_no_key() {
    let world = World::new(26);
    let who = world.client(&operator());
    for shown in [format!("{:?}", world.ca), format!("{who:?}")] {
        assert!(!shown.contains("PRIVATE") && shown.contains("fingerprint"), "{shown}");
    }
}
