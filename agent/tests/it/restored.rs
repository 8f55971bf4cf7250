//! Machines that boot from a copy of another one's disks, and certificates.

use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::controller_message::Body as Tell;
use azdr_proto::agent::{
    CertificateIssued, Freeze, FreezeOutcome, ProbeHealth, QuiesceState, RunPreflight, SessionMode,
    VmIdSource,
};

use crate::controller::Session;
use crate::machine::{VM_ID, enrolled};

crate::tests! {
    an_enrolled_machine_says_who_it_is_and_keeps_beating: [],
    a_restored_machine_uses_the_other_door_and_never_freezes: [],
    a_durable_certificate_makes_a_restored_machine_the_vm: [],
    a_runs_certificate_is_not_stored: [],
    a_machine_that_is_turned_away_tries_the_other_door: [],
    a_quarantined_machine_stays_and_keeps_quiet: [],
    a_quarantined_machine_connects_to_nobody_but_the_controller: ["strace"],
    a_certificate_is_renewed_when_the_controller_says_so: [],
    a_lost_session_is_opened_again: [],
}

const OTHER: &str = "11111111-2222-3333-4444-555555555555";

async fn beat(session: &mut Session) -> QuiesceState {
    session.hear(|said| if let Said::Heartbeat(h) = said { Some(h.state()) } else { None }).await
}

async fn csr(session: &mut Session) -> Vec<u8> {
    session
        .hear(|said| if let Said::RenewCertificate(r) = said { Some(r.csr_der) } else { None })
        .await
}

fn freeze() -> Tell {
    Tell::Freeze(Freeze {
        operation_id: "op-1".to_owned(),
        recovery_point: "point".to_owned(),
        nonce: "ab".repeat(32),
        ..Freeze::default()
    })
}

async fn freeze_outcome(session: &mut Session) -> FreezeOutcome {
    session
        .hear(|said| if let Said::FreezeReply(r) = said { Some(r.outcome()) } else { None })
        .await
}

async fn an_enrolled_machine_says_who_it_is_and_keeps_beating() {
    let (machine, mut controller) = enrolled(&[]).await;
    let _agent = machine.start_agent();
    let mut session = controller.protected().await;
    assert_eq!(session.hello.vm_id, VM_ID);
    assert_eq!(session.hello.vm_id_source(), VmIdSource::InstanceMetadata);
    assert!(!session.hello.boot_id.is_empty() && !session.hello.hostname.is_empty());
    assert!(!session.hello.can_freeze, "no thaw process runs");
    for _ in 0..3 {
        assert_eq!(beat(&mut session).await, QuiesceState::Idle);
    }
    session.tell(freeze()).await;
    assert_eq!(freeze_outcome(&mut session).await, FreezeOutcome::Refused);
    session
        .tell(Tell::ProbeHealth(ProbeHealth { request_id: "r1".to_owned(), ..<_>::default() }))
        .await;
    let health = session.hear(|said| if let Said::Health(h) = said { Some(h) } else { None }).await;
    assert_eq!(health.request_id, "r1");
    assert_eq!(health.boot_id, session.hello.boot_id);
    for name in ["boot", "file-systems", "sshd"] {
        assert!(health.facts.iter().any(|fact| fact.name == name), "{health:?}");
    }
}

async fn a_restored_machine_uses_the_other_door_and_never_freezes() {
    let (machine, mut controller) = enrolled(&[]).await;
    machine.becomes(OTHER);
    let _agent = machine.start_agent();
    let mut session = controller.session().await;
    assert!(session.restored);
    assert_eq!(session.hello.vm_id, OTHER);
    session.welcome(SessionMode::Restored, false).await;
    session.tell(freeze()).await;
    assert_eq!(freeze_outcome(&mut session).await, FreezeOutcome::Refused);
    assert_eq!(beat(&mut session).await, QuiesceState::Idle);
}

async fn a_durable_certificate_makes_a_restored_machine_the_vm() {
    let (machine, mut controller) = enrolled(&[]).await;
    machine.becomes(OTHER);
    let before = std::fs::read_to_string(machine.path("state/identity.json")).unwrap();
    let _agent = machine.start_agent();
    let mut session = controller.session().await;
    assert!(session.restored);
    session.welcome(SessionMode::Restored, true).await;
    let csr_der = csr(&mut session).await;
    session.tell(Tell::CertificateIssued(controller.issue(&csr_der, true))).await;

    let session = controller.protected().await;
    assert_eq!(session.hello.vm_id, OTHER, "through the normal door now");
    let after = std::fs::read_to_string(machine.path("state/identity.json")).unwrap();
    assert!(before.contains(VM_ID) && after.contains(OTHER) && !after.contains(VM_ID));
}

async fn a_runs_certificate_is_not_stored() {
    let (machine, mut controller) = enrolled(&[]).await;
    machine.becomes(OTHER);
    let before = std::fs::read(machine.path("state/identity.json")).unwrap();
    let _agent = machine.start_agent();
    let mut session = controller.session().await;
    session.welcome(SessionMode::Restored, true).await;
    let csr_der = csr(&mut session).await;
    session.tell(Tell::CertificateIssued(controller.issue(&csr_der, false))).await;
    let mut session = controller.session().await;
    assert!(session.restored, "still a restored machine");
    session.welcome(SessionMode::Restored, false).await;
    beat(&mut session).await;
    assert_eq!(std::fs::read(machine.path("state/identity.json")).unwrap(), before);
}

async fn a_machine_that_is_turned_away_tries_the_other_door() {
    let (machine, mut controller) = enrolled(&[]).await;
    controller.turn_away(true);
    let _agent = machine.start_agent();
    let session = controller.session().await;
    assert!(session.restored);
    assert_eq!(session.hello.vm_id, VM_ID);
    session.welcome(SessionMode::Quarantined, false).await;
    controller.turn_away(false);
    drop(session);
    controller.protected().await;
}

async fn a_quarantined_machine_stays_and_keeps_quiet() {
    let (machine, mut controller) = enrolled(&[]).await;
    machine.becomes(OTHER);
    let _agent = machine.start_agent();
    let mut session = controller.session().await;
    session.welcome(SessionMode::Quarantined, true).await;
    session
        .tell(Tell::ProbeHealth(ProbeHealth { request_id: "r1".to_owned(), ..<_>::default() }))
        .await;
    for _ in 0..2 {
        let state = session
            .hear(|said| match said {
                Said::Heartbeat(h) => Some(h.state()),
                other => panic!("not quiet: {other:?}"),
            })
            .await;
        assert_eq!(state, QuiesceState::Idle);
    }
}

/// Whatever it is asked for, and also when it connects anew. The metadata service, which tells it who it is, is
/// the machine's own.
async fn a_quarantined_machine_connects_to_nobody_but_the_controller() {
    let (machine, mut controller) = enrolled(&[]).await;
    machine.becomes(OTHER);
    let trace = machine.path("trace");
    let calls = "trace=connect,bind,listen,sendto,sendmsg,sendmmsg";
    let agent = machine.start_traced_agent(&["-e", calls, "-o", trace.to_str().unwrap()]);
    for request in ["r1", "r2"] {
        let mut session = controller.session().await;
        session.welcome(SessionMode::Quarantined, true).await;
        let request_id = request.to_owned();
        session.tell(Tell::RunPreflight(RunPreflight { request_id: request_id.clone() })).await;
        session.tell(Tell::ProbeHealth(ProbeHealth { request_id, run_checks: true })).await;
        session.tell(freeze()).await;
        assert_eq!(freeze_outcome(&mut session).await, FreezeOutcome::Refused);
        assert_eq!(beat(&mut session).await, QuiesceState::Idle);
    }
    drop(agent);
    let trace = std::fs::read_to_string(trace).unwrap();
    let calls: Vec<&str> =
        trace.lines().filter(|line| line.contains("sa_family=AF_INET")).collect();
    let port = |address: &str| {
        let port = address.rsplit(':').next().unwrap().trim_end_matches('/').to_owned();
        format!("htons({port}), sin_addr=inet_addr(\"127.0.0.1\")")
    };
    let (controller, metadata) = (port(&controller.agent_address), port(machine.metadata_url()));
    let to = |address: &str| calls.iter().filter(|call| call.contains(address)).count();
    assert!(to(&controller) >= 2 && to(&metadata) >= 2, "{calls:#?}");
    assert_eq!(to(&controller) + to(&metadata), calls.len(), "{calls:#?}");
    assert!(calls.iter().all(|call| call.contains("connect(")), "{calls:#?}");
}

async fn a_certificate_is_renewed_when_the_controller_says_so() {
    let (machine, mut controller) = enrolled(&[]).await;
    let before = std::fs::read(machine.path("state/identity.json")).unwrap();
    let _agent = machine.start_agent();
    let mut session = controller.session().await;
    session.welcome(SessionMode::Protected, true).await;
    let csr_der = csr(&mut session).await;
    let reason = "not now".to_owned();
    let refusal = CertificateIssued { reason, durable: true, ..CertificateIssued::default() };
    session.tell(Tell::CertificateIssued(refusal)).await;
    // One that was not asked for is not taken.
    session.tell(Tell::CertificateIssued(controller.issue(&csr_der, true))).await;
    beat(&mut session).await;
    drop(session);

    let mut session = controller.session().await;
    assert_eq!(std::fs::read(machine.path("state/identity.json")).unwrap(), before);
    session.welcome(SessionMode::Protected, true).await;
    let csr_der = csr(&mut session).await;
    session.tell(Tell::CertificateIssued(controller.issue(&csr_der, true))).await;
    controller.protected().await;
    assert_ne!(std::fs::read(machine.path("state/identity.json")).unwrap(), before);
}

async fn a_lost_session_is_opened_again() {
    let (machine, mut controller) = enrolled(&[]).await;
    let mut agent = machine.start_agent();
    drop(controller.protected().await);
    let session = controller.protected().await;
    agent.signal("TERM");
    assert!(agent.ended(), "{}", machine.log());
    drop(session);
}
