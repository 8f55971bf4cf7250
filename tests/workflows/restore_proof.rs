//! The restore proves itself: hard tests 21 and 22 of the agent, as far as the controller judges.

use azdr_controller::fleet::SessionKind;
use azdr_controller::store::{PointRow, RunRow, RunState};
use azdr_controller::workflows::{self, dr_test, restore_in_place};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::ProofLevel;
use azdr_proto::agent::FactState;
use serde_json::Value;

use crate::agents::Behaviour;
use crate::cases::{back_up, take};
use crate::life::{Bench, Life, db};

/// Takes two points, the second of which is tried out on machines that behave like this.
async fn two_points(bench: &Bench, life: &Life, behaviour: Behaviour) -> PointRow {
    two_points_of(bench, life, Behaviour::Well, behaviour).await
}

/// Of a machine that behaves like this when they are taken.
async fn two_points_of(
    bench: &Bench,
    life: &Life,
    taken: Behaviour,
    behaviour: Behaviour,
) -> PointRow {
    let item = bench.protect(life, PolicyChange::default()).await;
    bench.agents_behave(taken).await;
    take(life, &item).await;
    tokio::time::advance(std::time::Duration::from_secs(86_400)).await;
    take(life, &item).await;
    bench.agents_behave(behaviour).await;
    life.points(&item).await.remove(0)
}

async fn run<I: serde::Serialize>(
    life: &Life,
    of: (&'static str, u32, azdr_controller::workflow::RunPriority),
    input: &I,
    point: &PointRow,
) -> (RunRow, PointRow) {
    let run = workflows::new_run(of, input, point.item, "test");
    let id = life.engine.submit(run).await.unwrap();
    let row = life.ended(id).await;
    life.settle().await;
    let points = life.store.points_named(point.name.as_str()).await.unwrap();
    (row, points.into_iter().next().unwrap())
}

/// Drills a point; the run as it ended, and the point after it.
pub(crate) async fn drill(life: &Life, point: &PointRow) -> (RunRow, PointRow) {
    let input = dr_test::Input {
        item: point.item,
        vm: db(),
        point: point.name.clone(),
        region: "eastus".into(),
        resource_group: None,
        declared: None,
        keep: std::time::Duration::ZERO,
    };
    run(life, dr_test::RUN, &input, point).await
}

/// Restores a point in place; the run as it ended, and the point after it.
pub(crate) async fn restore(bench: &Bench, life: &Life, point: &PointRow) -> (RunRow, PointRow) {
    let declared = bench.env.clock.wall();
    let input =
        restore_in_place::Input { item: point.item, vm: db(), point: point.name.clone(), declared };
    run(life, restore_in_place::RUN, &input, point).await
}

/// The facts of a drill's result that are not a pass, by name; without the login, for which nobody has a key
/// here.
fn not_passed(result: &Value) -> Vec<String> {
    let facts = result["evidence"].as_array().unwrap().iter().filter(|f| f["name"] != "ssh-login");
    facts.filter(|f| f["state"] != "pass").map(|f| f["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn the_capture_notes_what_every_file_system_must_show() {
    let bench = Bench::new();
    let life = bench.life().await;
    let point = two_points(&bench, &life, Behaviour::Well).await;
    let noted = bench.store().capture(&point.operation_id).await.unwrap().unwrap().witnesses;
    let places: Vec<_> = noted.iter().map(|w| (&*w.mount_point, &*w.disk)).collect();
    assert_eq!(places, [("/", "os"), ("/data", "lun 3")]);
    assert!(noted.iter().all(|w| w.digest.len() == 64 && w.vm_id.len() == 36), "{noted:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drill_whose_every_disk_shows_the_point_and_that_is_well_proves_it() {
    let bench = Bench::new();
    let life = bench.life().await;
    let point = two_points(&bench, &life, Behaviour::Well).await;
    let (row, point) = drill(&life, &point).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    assert_eq!(point.proof().0, ProofLevel::Booted);
    let result = &row.result.unwrap()["dr_test"];
    assert_eq!((not_passed(result), &result["passed"]), (vec![], &Value::Bool(true)));
    let names = result["evidence"].to_string();
    assert!(names.contains("witness:/data") && names.contains("free-space:/"), "{names}");
}

/// A disk of which nothing was frozen can be any disk: the machine is well and right as far as it can be told,
/// and the point is not proved.
#[tokio::test(start_paused = true)]
async fn a_disk_without_a_witness_is_named_and_keeps_the_point_unproved() {
    let bench = Bench::new();
    let life = bench.life().await;
    let behaviour = Behaviour::LeavesOutData;
    let point = two_points_of(&bench, &life, behaviour, behaviour).await;
    let (row, point) = drill(&life, &point).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    assert_eq!(point.proof().0, ProofLevel::Unproved);
    assert!(!point.proof_failed(), "nothing speaks against it");
    let result = &row.result.unwrap()["dr_test"];
    assert_eq!(not_passed(result), ["witness:lun 3"]);
    let evidence = result["evidence"].as_array().unwrap();
    let fact = evidence.iter().find(|f| f["name"] == "witness:lun 3").unwrap();
    assert_eq!((&fact["state"], &fact["required"]), (&"unknown".into(), &true.into()), "{fact}");

    let (row, point) = restore(&bench, &life, &point).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    let unconfirmed = row.result.unwrap()["restore"]["unconfirmed"].as_str().unwrap().to_owned();
    assert!(unconfirmed.contains("witness:lun 3: no file system of this disk"), "{unconfirmed}");
    assert_eq!(point.proof().0, ProofLevel::Unproved);
}

/// An agent that does not recognise its disks has witnesses on all of them all the same.
#[tokio::test(start_paused = true)]
async fn disks_that_the_agent_does_not_recognise_do_not_withhold_the_proof() {
    let bench = Bench::new();
    let life = bench.life().await;
    let behaviour = Behaviour::KnowsNoDisks;
    let point = two_points_of(&bench, &life, behaviour, behaviour).await;
    let (row, point) = drill(&life, &point).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    assert_eq!(point.proof().0, ProofLevel::Booted);
    let result = &row.result.unwrap()["dr_test"];
    assert_eq!(not_passed(result), ["witness:os", "witness:lun 3"]);
    let evidence = result["evidence"].as_array().unwrap();
    let fact = evidence.iter().find(|f| f["name"] == "witness:lun 3").unwrap();
    assert_eq!(fact["required"], false, "{fact}");
}

/// One that recognises the OS disk knows that what it froze elsewhere is not on the point's other disk.
#[tokio::test(start_paused = true)]
async fn a_witness_on_a_foreign_disk_does_not_stand_for_a_disk_of_the_point() {
    let bench = Bench::new();
    let life = bench.life().await;
    let behaviour = Behaviour::FreezesElsewhere;
    let point = two_points_of(&bench, &life, behaviour, behaviour).await;
    let (row, point) = drill(&life, &point).await;
    assert_eq!(row.state, RunState::Succeeded, "{:?}", row.error);
    assert_eq!(point.proof().0, ProofLevel::Unproved);
    assert!(!point.proof_failed(), "nothing speaks against it");
    assert_eq!(not_passed(&row.result.unwrap()["dr_test"]), ["witness:lun 3"]);
}

/// Hard test 21: restored disk 2 from an older point, a witness copied from another VM, and likes of it.
#[tokio::test(start_paused = true)]
async fn disks_that_do_not_belong_together_are_named_and_prove_nothing() {
    for (behaviour, kind, words) in [
        (
            Behaviour::OlderDataDisk,
            "wrong_witness",
            "/data (lun 3) shows the witness of db-backup-",
        ),
        (Behaviour::OlderDataDisk, "wrong_witness", "which is older"),
        (
            Behaviour::ForeignDataDisk,
            "wrong_witness",
            "/data (lun 3) shows the witness of another VM",
        ),
        (Behaviour::CopiedWitness, "wrong_witness", "copy of another file system's witness"),
        (Behaviour::AlteredWitness, "wrong_witness", "/data (lun 3) shows an altered witness"),
        (Behaviour::NoDataDisk, "unhealthy", "/data (lun 3) shows no witness"),
    ] {
        let bench = Bench::new();
        let life = bench.life().await;
        let point = two_points(&bench, &life, behaviour).await;
        let (row, point) = drill(&life, &point).await;
        assert_eq!(row.state, RunState::Failed, "{behaviour:?}");
        let error = row.error.unwrap();
        assert_eq!(error["kind"], kind, "{behaviour:?}: {error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{behaviour:?}: {message}");
        assert_eq!(point.proof().0, ProofLevel::Unproved, "{behaviour:?}");
        assert!(point.proof_failed(), "{behaviour:?}: it was tried");
        life.end().await;
    }
}

/// Hard test 21: a read-only root, a full disk, a stuck write, with an sshd that answers.
#[tokio::test(start_paused = true)]
async fn a_machine_that_cannot_be_worked_with_is_unhealthy_however_well_sshd_answers() {
    for name in [
        "file-system-writable:/",
        "file-system-writable:/data",
        "free-space:/data",
        "fstab",
        "boot",
    ] {
        let bench = Bench::new();
        let life = bench.life().await;
        let point = two_points(&bench, &life, Behaviour::Says(name, FactState::Fail)).await;
        let (row, point) = drill(&life, &point).await;
        let error = row.error.unwrap();
        assert_eq!((row.state, &error["kind"]), (RunState::Failed, &Value::from("unhealthy")));
        assert!(error["message"].as_str().unwrap().contains(name), "{error}");
        let result = &row.result.unwrap()["dr_test"];
        assert_eq!(
            (not_passed(result), &result["passed"]),
            (vec![name.to_owned()], &Value::Bool(false))
        );
        assert_eq!((point.proof().0, point.proof_failed()), (ProofLevel::Unproved, true));
        life.end().await;
    }
}

/// Missing evidence is unknown, never a pass: the machine came up, and nothing is proved.
#[tokio::test(start_paused = true)]
async fn what_was_not_looked_at_withholds_the_proof_and_is_named() {
    for behaviour in [
        Behaviour::Says("fstab", FactState::Unknown),
        Behaviour::Omits("fstab"),
        Behaviour::Omits("free-space:/data"),
    ] {
        let bench = Bench::new();
        let life = bench.life().await;
        let point = two_points(&bench, &life, behaviour).await;
        let (row, point) = drill(&life, &point).await;
        assert_eq!(row.state, RunState::Succeeded, "{behaviour:?}: {:?}", row.error);
        assert_eq!(point.proof().0, ProofLevel::Unproved, "{behaviour:?}");
        assert!(!point.proof_failed(), "{behaviour:?}: nothing speaks against it");
        let result = &row.result.unwrap()["dr_test"];
        assert_eq!(not_passed(result).len(), 1, "{behaviour:?}: {result}");
        life.end().await;
    }
}

/// Hard test 21: recovery lines alone are healthy, and so is what an isolated network does to a machine.
#[tokio::test(start_paused = true)]
async fn what_is_expected_of_a_restored_machine_withholds_nothing() {
    for name in ["journal-recovery", "sshd"] {
        let bench = Bench::new();
        let life = bench.life().await;
        let point = two_points(&bench, &life, Behaviour::Says(name, FactState::Fail)).await;
        let (row, point) = drill(&life, &point).await;
        assert_eq!(row.state, RunState::Succeeded, "{name}: {:?}", row.error);
        assert_eq!(point.proof().0, ProofLevel::Booted, "{name}");
        assert_eq!(not_passed(&row.result.unwrap()["dr_test"]), [name], "it is shown");
        life.end().await;
    }
}

/// What an application's own check says counts; one that the point's machine had and that is not heard
/// of is unknown.
#[tokio::test(start_paused = true)]
async fn the_check_of_an_application_decides_over_the_proof() {
    let had_it = Behaviour::HooksSucceed;
    for (taken, tried, state, proved) in [
        (had_it, Behaviour::Checks(FactState::Pass), RunState::Succeeded, true),
        (had_it, Behaviour::Checks(FactState::Fail), RunState::Failed, false),
        (had_it, Behaviour::Checks(FactState::Unknown), RunState::Succeeded, false),
        (had_it, Behaviour::Well, RunState::Succeeded, false),
        (Behaviour::Well, Behaviour::Well, RunState::Succeeded, true),
        (Behaviour::Well, Behaviour::Checks(FactState::Fail), RunState::Failed, false),
    ] {
        let bench = Bench::new();
        let life = bench.life().await;
        let point = two_points_of(&bench, &life, taken, tried).await;
        let (row, point) = drill(&life, &point).await;
        assert_eq!(row.state, state, "{taken:?} {tried:?}: {:?}", row.error);
        let proof = if proved { ProofLevel::Booted } else { ProofLevel::Unproved };
        assert_eq!(point.proof().0, proof, "{taken:?} {tried:?}");
        let named: Vec<_> = (!proved).then(|| "app:10-db".to_owned()).into_iter().collect();
        assert_eq!(not_passed(&row.result.unwrap()["dr_test"]), named, "{taken:?} {tried:?}");
        if state == RunState::Failed {
            let message = row.error.unwrap()["message"].as_str().unwrap().to_owned();
            assert!(message.contains("app:10-db: the database's last line (7 ms)"), "{message}");
        }
        life.end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restore_in_place_turns_back_from_mixed_disks_and_keeps_a_machine_that_is_not_well() {
    for (behaviour, state, doubt) in [
        (Behaviour::OlderDataDisk, RunState::Failed, ""),
        (Behaviour::NoDataDisk, RunState::Succeeded, "/data (lun 3) shows no witness"),
        (Behaviour::Says("free-space:/", FactState::Fail), RunState::Succeeded, "free-space:/"),
        (Behaviour::Well, RunState::Succeeded, ""),
    ] {
        let bench = Bench::new();
        let life = bench.life().await;
        let point = two_points(&bench, &life, behaviour).await;
        let (row, point) = restore(&bench, &life, &point).await;
        assert_eq!(row.state, state, "{behaviour:?}: {:?}", row.error);
        let result = row.result.unwrap_or_default();
        let unconfirmed = result["restore"]["unconfirmed"].as_str().unwrap_or_default();
        assert!(unconfirmed.contains(doubt), "{behaviour:?}: {unconfirmed}");
        let well = behaviour == Behaviour::Well;
        assert_eq!(unconfirmed.is_empty(), doubt.is_empty(), "{behaviour:?}: {unconfirmed}");
        let proof = if well { ProofLevel::Booted } else { ProofLevel::Unproved };
        assert_eq!(point.proof().0, proof, "{behaviour:?}");
        life.end().await;
    }
}

/// Hard test 22: a clone boots beside its live source, with the same keys. Its source's session stays, and
/// the source alone is frozen by the backup that is taken meanwhile.
#[tokio::test(start_paused = true)]
async fn a_clone_beside_its_live_source_is_never_frozen_and_leaves_it_untouched() {
    let bench = Bench::new();
    let life = bench.life().await;
    let point = two_points(&bench, &life, Behaviour::Well).await;
    let source = life.services.fleet.protected(point.item).unwrap();
    let input = dr_test::Input {
        item: point.item,
        vm: db(),
        point: point.name.clone(),
        region: "eastus".into(),
        resource_group: None,
        declared: None,
        keep: std::time::Duration::from_secs(600),
    };
    let kept = workflows::new_run(dr_test::KEPT, &input, point.item, "test");
    let id = life.engine.submit(kept).await.unwrap();
    let is_clone = |s: &std::sync::Arc<azdr_controller::fleet::Session>| {
        matches!(s.kind, SessionKind::Restored { .. }) && s.item == point.item
    };
    let mut changes = life.services.fleet.changes();
    while !life.services.fleet.sessions().iter().any(is_clone) {
        changes.changed().await;
    }
    let item = life.store.items().await.unwrap().remove(0);
    let before = bench.guests.freezes();
    let backup = life.engine.submit(back_up(&item)).await.unwrap();
    assert_eq!(life.ended(backup).await.state, RunState::Succeeded);
    let frozen: Vec<_> = bench.guests.freezes().split_off(before.len());
    assert_eq!(frozen, [&*source.hello.vm_id], "the source, once, and never the clone");
    assert!(!source.is_over(), "the source's session was not touched");
    assert!(life.services.fleet.sessions().iter().any(is_clone), "and the clone is still there");
    life.engine.cancel(id, "test").await.unwrap();
    life.ended(id).await;
}
