use azdr_domain::interval::Interval;
use azdr_domain::policy::Policy;
use azdr_domain::recovery_point::PointName;
use serde_json::{Value, json};

use super::*;
use crate::store::{CatalogueChange, Executor, NewRun, Progress, QueueLimit, RunState};

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 2025-12-02 12:00 UTC.
const NOON: i64 = 1_764_676_800_000;
const VM: &str = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/db";
const POINT: &str = "db-backup-daily-20251201-0800";

fn at(ms: i64) -> WallTime {
    WallTime::from_unix_ms(ms)
}

struct World {
    store: Store,
    item: ItemId,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db"), Executor::Inline).unwrap();
        let vm = ArmId::parse(VM).unwrap();
        let item = store.ensure_vm(vm, "eastus".into(), None, at(0)).await.unwrap();
        Self { store, item: item.id, _dir: dir }
    }

    /// With a policy that is on since 1970, and a point of this time; earlier ones were not kept.
    async fn protected(policy: Policy, point: i64) -> Self {
        let world = Self::new().await;
        world.store.set_policy(world.item, policy, "alice".into(), at(0)).await.unwrap();
        world.point("db-backup-daily-19700102-0000", DAY).await;
        world.sql("DELETE FROM point".into()).await;
        world.point(POINT, point).await;
        world
    }

    async fn sql(&self, sql: String) {
        self.store.write(move |c| Ok(c.execute_batch(&sql)?)).await.unwrap();
    }

    async fn point(&self, name: &str, ms: i64) {
        self.sql(format!(
            "INSERT INTO point (item_id, name, region, created_ms, tiers_json, consistency,
               consistency_reason, frozen_ms, size_bytes, operation_id, nonce, description_json, run_id)
               VALUES ({}, '{name}', 'eastus', {ms}, '[\"daily\"]', 'crash', '', 0, 0, '', '', '{{}}', 1);
             INSERT INTO snapshot (point_id, region, lun, arm_key, arm_id, source_disk_id,
               source_disk_unique_id, size_bytes)
               SELECT id, 'eastus', -1, name, name, '', '', 1 FROM point WHERE name = '{name}';",
            self.item.0
        ))
        .await;
    }

    async fn run(&self, workflow: &str, input: Value) -> RunId {
        let run = NewRun {
            workflow: workflow.into(),
            version: 1,
            input,
            priority: 3,
            item: Some(self.item),
            parent: None,
            requested_by: "test".into(),
        };
        self.store.queue_run(run, QueueLimit::NONE, at(0)).await.unwrap()
    }

    /// Starts a run and brings it to this state.
    async fn ends(&self, workflow: &str, input: Value, state: RunState, ms: i64) -> RunId {
        let id = self.run(workflow, input).await;
        self.becomes(id, state, vec![], ms).await;
        id
    }

    async fn becomes(&self, id: RunId, state: RunState, changes: Vec<CatalogueChange>, ms: i64) {
        let error = json!({"kind": "some", "message": format!("why {ms}"), "hint": ""});
        let error = (state != RunState::Succeeded).then_some(error);
        let progress = Progress { state: Some(state), error, changes, ..Progress::default() };
        self.store.record(id, progress, at(ms)).await.unwrap();
    }

    fn drill(&self, ms: i64, rto: Option<i64>) -> CatalogueChange {
        CatalogueChange::AddDrill {
            item: self.item,
            name: PointName::parse(POINT).unwrap(),
            region: "westus2".into(),
            started: at(ms),
            passed: rto.is_some(),
            rto_ms: rto.map(|ms| ms as u64),
            error: None,
        }
    }

    async fn list(&self, open: bool) -> Vec<AlertRow> {
        let filter = AlertFilter { open, limit: 100, ..AlertFilter::default() };
        self.store.alerts(filter).await.unwrap().0
    }

    /// Kinds of the open ones, the oldest first.
    async fn open(&self) -> Vec<String> {
        self.list(true).await.into_iter().rev().map(|a| a.kind).collect()
    }
}

#[tokio::test]
async fn a_failed_backup_is_one_alert_which_the_next_success_ends() {
    let world = World::new().await;
    let first = world.ends("backup", json!({}), RunState::Failed, 10).await;
    // What a crash after the commit makes happen again.
    world.becomes(first, RunState::Failed, vec![], 11).await;
    let open = world.list(true).await;
    assert_eq!(open.len(), 1, "{open:?}");
    let alert = &open[0];
    assert_eq!((alert.kind.as_str(), alert.severity.as_str()), ("backup_failed", "high"));
    assert_eq!((alert.run, alert.raised, alert.times), (Some(first), at(10), 1));
    assert_eq!(alert.what, "the backup of db failed: why 10");
    assert_eq!(alert.vm.as_ref().unwrap().to_string(), VM);
    // It fails once more: an alert of its own, and still one that is open.
    let second = world.ends("backup", json!({}), RunState::Failed, 20).await;
    let open = world.list(true).await;
    assert_eq!((open.len(), open[0].run, open[0].times), (1, Some(second), 2));
    assert_eq!((open[0].since, open[0].raised), (at(10), at(20)));
    // A copy says nothing of backups, a cancelled backup neither; a backup does.
    world.ends("replicate", json!({"region": "westus2"}), RunState::Succeeded, 30).await;
    world.ends("backup", json!({}), RunState::Cancelled, 35).await;
    assert_eq!(world.open().await, ["backup_failed"]);
    let good = world.ends("backup", json!({}), RunState::Succeeded, 40).await;
    assert_eq!(world.open().await, [""; 0]);
    let all = world.list(false).await;
    assert_eq!(all.iter().map(|a| a.run).collect::<Vec<_>>(), [Some(second), Some(first)]);
    assert_eq!(all[0].resolved, Some(at(40)));
    assert_eq!(all[0].resolution.as_deref(), Some(&*format!("job {good} has succeeded")));
    world.ends("backup", json!({}), RunState::Failed, 50).await;
    assert_eq!(world.list(true).await[0].times, 1, "another cause begins anew");
}

#[tokio::test]
async fn the_terminal_state_and_its_alert_are_written_together_or_not_at_all() {
    let world = World::new().await;
    let id = world.run("backup", json!({})).await;
    world.sql("ALTER TABLE alert RENAME TO away".into()).await;
    let failed = Progress { state: Some(RunState::Failed), ..Progress::default() };
    world.store.record(id, failed.clone(), at(10)).await.unwrap_err();
    assert_eq!(world.store.run(id).await.unwrap().unwrap().state, RunState::Queued);
    world.sql("ALTER TABLE away RENAME TO alert".into()).await;
    world.store.record(id, failed, at(20)).await.unwrap();
    assert_eq!(world.open().await, ["backup_failed"]);
}

#[tokio::test]
async fn what_is_repeated_after_a_crash_cannot_be_doubled() {
    let world = World::new().await;
    world.ends("backup", json!({}), RunState::Failed, 10).await;
    let again = "INSERT INTO alert (kind, cause, severity, run_id, point_name, region, what, next,
                   raised_ms, since_ms, times, resolved_ms)
                 SELECT kind, cause, severity, run_id, '', '', '', '', 0, 0, 1, 5 FROM alert";
    let copied = world.store.write(move |c| Ok(c.execute(again, [])?)).await;
    assert!(format!("{:?}", copied.unwrap_err()).contains("UNIQUE"), "the run's");
    let open = "INSERT INTO alert (kind, cause, severity, point_name, region, what, next,
                  raised_ms, since_ms, times)
                SELECT kind, cause, severity, '', '', '', '', 0, 0, 1 FROM alert";
    let copied = world.store.write(move |c| Ok(c.execute(open, [])?)).await;
    assert!(format!("{:?}", copied.unwrap_err()).contains("UNIQUE"), "the cause's");
}

#[tokio::test]
async fn a_stuck_job_alerts_once_until_it_is_over() {
    let world = World::new().await;
    let id = world.ends("restore_in_place", json!({}), RunState::Stuck, 10).await;
    // It is tried again by itself, in vain.
    world.becomes(id, RunState::Undoing, vec![], 20).await;
    world.becomes(id, RunState::Stuck, vec![], 30).await;
    let open = world.list(true).await;
    assert_eq!((open.len(), open[0].raised), (1, at(10)), "{open:?}");
    assert_eq!(open[0].what, format!("job {id} is stuck and waits for a person: why 10"));
    world.becomes(id, RunState::Failed, vec![], 40).await;
    assert_eq!(world.open().await, [""; 0]);
    // One that waits for a part of its own has nothing to add to what that part says.
    let id = world.run("bulk", json!({})).await;
    let error = Some(json!({"kind": "child_stuck", "message": "job 7 is stuck"}));
    let waits = Progress { state: Some(RunState::Stuck), error, ..Progress::default() };
    world.store.record(id, waits, at(50)).await.unwrap();
    assert_eq!(world.open().await, [""; 0]);
}

#[tokio::test]
async fn each_workflows_failure_is_its_own_kind_and_ends_with_its_own_success() {
    let world = World::new().await;
    let copy = |region: &str| json!({"point": POINT, "region": region});
    world.ends("replicate", copy("westus2"), RunState::Failed, 1).await;
    world.ends("replicate", copy("northeurope"), RunState::Failed, 2).await;
    world.ends("prune", json!({}), RunState::Failed, 3).await;
    world.ends("remove_kept_disk", json!({"disk": "/d/1"}), RunState::Failed, 4).await;
    world.ends("bulk", json!({}), RunState::Failed, 5).await;
    let kinds = ["replication_failed", "replication_failed", "cleanup_failed", "cleanup_failed"];
    assert_eq!(world.open().await, kinds);
    world.ends("replicate", copy("westus2"), RunState::Succeeded, 6).await;
    world.ends("prune", json!({}), RunState::Succeeded, 7).await;
    let open = world.list(true).await;
    assert_eq!((open.len(), open[1].region.as_str()), (2, "northeurope"), "{open:?}");
    assert_eq!(open[1].point, POINT);
    // What was wanted is so already, and what a person chose to delete is no retention.
    let id = world.run("replicate", copy("eastus2")).await;
    let error = Some(json!({"kind": "already_replicated", "message": "it is there"}));
    let failed = Progress { state: Some(RunState::Failed), error, ..Progress::default() };
    world.store.record(id, failed, at(8)).await.unwrap();
    world.ends("prune", json!({"chosen": {"point": POINT}}), RunState::Failed, 9).await;
    assert_eq!(world.list(true).await.len(), 2);
}

#[tokio::test]
async fn a_drill_is_held_against_the_rto_of_its_policy_or_else_of_the_guide() {
    let world = World::new().await;
    let region = json!({"point": POINT, "region": "westus2"});
    let drill = async |rto: Option<i64>, state, ms| {
        let id = world.run("dr_test", region.clone()).await;
        world.becomes(id, state, vec![world.drill(ms, rto)], ms).await;
        id
    };
    drill(Some(15 * MINUTE), RunState::Succeeded, NOON).await;
    assert_eq!(world.open().await, [""; 0]);
    let slow = drill(Some(15 * MINUTE + 1000), RunState::Succeeded, NOON + 1).await;
    let open = world.list(true).await;
    assert_eq!((open[0].kind.as_str(), open[0].run), ("rto_exceeded", Some(slow)));
    assert_eq!(open[0].what, "recovering db took 15m 01s, its RTO is 15m");
    let patient = Policy { rto: Some(Interval::hours(1)), ..Policy::default() };
    world.store.set_policy(world.item, patient, "alice".into(), at(0)).await.unwrap();
    drill(Some(50 * MINUTE), RunState::Succeeded, NOON + 2).await;
    assert!(!world.open().await.contains(&"rto_exceeded".to_owned()), "in time by its policy");

    // One of four fails: critical, and the share is too low until the failure is 30 days old.
    drill(None, RunState::Failed, NOON + 3).await;
    let open = world.list(true).await;
    let failed = open.iter().find(|a| a.kind == "dr_test_failed").unwrap();
    assert_eq!((failed.severity.as_str(), failed.point.as_str()), ("critical", POINT));
    let low = open.iter().find(|a| a.kind == "success_rate_low").unwrap();
    assert_eq!(low.what, "3 of 4 DR tests of the last 30 days passed, less than 99.9 %");
    assert_eq!((low.run, low.vm.as_ref()), (None, None));
    drill(Some(MINUTE), RunState::Succeeded, NOON + 4).await;
    assert!(!world.open().await.contains(&"dr_test_failed".to_owned()));
    let low = world.list(true).await.into_iter().find(|a| a.kind == "success_rate_low").unwrap();
    assert_eq!((low.raised, &low.what[..6]), (at(NOON + 3), "4 of 5"), "one alert, new words");
    // What becomes of a VM's own conditions is nothing to it.
    world.store.set_vm_gone(world.item, at(NOON + 4)).await.unwrap();
    world.store.set_vm_back(world.item, at(NOON + 4)).await.unwrap();
    assert!(world.list(true).await.contains(&low));
    world.store.judge_conditions(at(NOON + 30 * DAY + 3)).await.unwrap();
    assert!(world.open().await.contains(&"success_rate_low".to_owned()), "not yet");
    world.store.judge_conditions(at(NOON + 30 * DAY + 4)).await.unwrap();
    assert!(!world.open().await.contains(&"success_rate_low".to_owned()));
}

#[tokio::test]
async fn a_drill_that_passed_has_not_failed_when_keeping_its_machine_does() {
    let world = World::new().await;
    let id = world.run("dr_test_kept", json!({"point": POINT, "region": "westus2"})).await;
    let passed = vec![world.drill(NOON, Some(MINUTE))];
    let recorded = Progress { changes: passed, ..Progress::default() };
    world.store.record(id, recorded, at(NOON)).await.unwrap();
    world.becomes(id, RunState::Failed, vec![], NOON + HOUR).await;
    assert_eq!(world.open().await, [""; 0]);
}

#[tokio::test]
async fn a_restore_that_took_too_long_is_said_too() {
    let world = World::new().await;
    let id = world.run("restore_in_place", json!({"point": POINT})).await;
    let done = |rto_ms: i64| Progress {
        state: Some(RunState::Succeeded),
        result: Some(json!({"restore": {"rto_ms": rto_ms}})),
        ..Progress::default()
    };
    world.store.record(id, done(20 * MINUTE), at(10)).await.unwrap();
    assert_eq!(world.open().await, ["rto_exceeded"]);
    // Nobody could be asked whether this one is up: it says nothing.
    let id = world.run("restore_in_place", json!({"point": POINT})).await;
    world.store.record(id, done(0), at(20)).await.unwrap();
    assert_eq!(world.open().await, ["rto_exceeded"]);
}

#[tokio::test]
async fn a_failed_verification_ends_with_a_proof_of_that_copy_or_with_the_backup() {
    let world = World::protected(Policy::default(), NOON).await;
    world.point("db-backup-daily-20251202-0800", NOON).await;
    let verify = async |point: &str| {
        world.ends("verify", json!({"point": point, "region": "eastus"}), RunState::Failed, 1).await
    };
    verify(POINT).await;
    verify("db-backup-daily-20251202-0800").await;
    let proof = |region: &str| CatalogueChange::AddProof {
        item: world.item,
        name: PointName::parse(POINT).unwrap(),
        region: region.into(),
        level: "restorable".into(),
        passed: true,
        detail: String::new(),
    };
    let id = world.run("verify", json!({})).await;
    world.becomes(id, RunState::Succeeded, vec![proof("westus2")], 5).await;
    assert_eq!(world.list(true).await.len(), 2, "another copy");
    let id = world.run("verify", json!({})).await;
    world.becomes(id, RunState::Succeeded, vec![proof("eastus")], 6).await;
    let open = world.list(true).await;
    assert_eq!((open.len(), open[0].point.as_str()), (1, "db-backup-daily-20251202-0800"));
    let name = PointName::parse("db-backup-daily-20251202-0800").unwrap();
    let gone = CatalogueChange::RemovePoint { item: world.item, name };
    let id = world.run("prune", json!({})).await;
    world.becomes(id, RunState::Succeeded, vec![gone], 7).await;
    assert_eq!(world.open().await, [""; 0]);
}

#[tokio::test]
async fn a_condition_is_one_alert_as_long_as_it_lasts() {
    let policy = Policy { rpo: Some(Interval::hours(24)), ..Policy::default() };
    let world = World::protected(policy, NOON).await;
    let judge = async |ms| world.store.judge_conditions(at(ms)).await.unwrap();
    // Never verified, and the policy is old.
    assert_eq!(judge(NOON).await, 1);
    assert_eq!(world.open().await, ["verification_overdue"]);
    assert_eq!(judge(NOON + MINUTE).await, 0, "it is said already");
    assert_eq!(judge(NOON + 24 * HOUR + 1000).await, 1);
    let three = ["verification_overdue", "backup_overdue", "rpo_missed"];
    assert_eq!(world.open().await, three);
    assert_eq!(judge(NOON + 2 * DAY).await, 0);
    let rpo = world.list(true).await.into_iter().find(|a| a.kind == "rpo_missed").unwrap();
    assert_eq!((rpo.severity.as_str(), rpo.raised), ("critical", at(NOON + 24 * HOUR + 1000)));
    // The backup's own terminal state ends them, without the loop.
    world.point("db-backup-daily-20251204-1200", NOON + 2 * DAY).await;
    world.ends("backup", json!({}), RunState::Succeeded, NOON + 2 * DAY + 1).await;
    assert_eq!(world.open().await, ["verification_overdue"]);
    assert_eq!(judge(NOON + 2 * DAY + 1).await, 0);
    // Its snapshots vanish: the older one counts, and is too old.
    world.sql("UPDATE snapshot SET missing_ms = 1 WHERE arm_id LIKE '%1204%'".into()).await;
    assert_eq!(judge(NOON + 2 * DAY + 2).await, 1);
    assert_eq!(world.open().await, ["verification_overdue", "rpo_missed"]);
    assert_eq!(world.list(false).await.len(), 4, "twice missed, twice said");
}

#[tokio::test]
async fn a_vm_that_is_gone_is_one_alert_until_it_is_back() {
    let policy = Policy { rpo: Some(Interval::hours(24)), ..Policy::default() };
    let world = World::protected(policy, NOON).await;
    let late = NOON + 2 * DAY;
    world.store.judge_conditions(at(late)).await.unwrap();
    assert_eq!(world.open().await.len(), 3);
    world.ends("backup", json!({}), RunState::Failed, late).await;
    world.store.set_vm_gone(world.item, at(late + 1)).await.unwrap();
    // It cannot but fail.
    world.ends("backup", json!({}), RunState::Failed, late + 1).await;
    world.store.set_vm_gone(world.item, at(late + 2)).await.unwrap();
    assert_eq!(world.open().await, ["vm_gone"]);
    let row = world.store.policy(world.item).await.unwrap().unwrap();
    assert_eq!(row.gone, Some(at(late + 1)), "the first sight counts");
    assert_eq!(row.tag_problem.as_deref(), Some("the VM is not in Azure any more"));
    assert!(world.store.policies_not_mirrored().await.unwrap().is_empty(), "its tag is left alone");
    world.store.set_vm_back(world.item, at(late + 3)).await.unwrap();
    assert_eq!(world.open().await.len(), 3, "what was so is so again");
    let waiting = world.store.policies_not_mirrored().await.unwrap();
    assert_eq!(waiting[0].1.tag_problem.as_deref(), Some("not written yet"));
    // Switched off, nothing is asked of it.
    let off = Policy { enabled: false, ..Policy::default() };
    world.store.set_policy(world.item, off, "alice".into(), at(late)).await.unwrap();
    world.store.judge_conditions(at(late + 4)).await.unwrap();
    assert_eq!(world.open().await, [""; 0]);
}

#[tokio::test]
async fn a_list_is_bounded_filtered_and_goes_on_where_it_ended() {
    let world = World::new().await;
    for n in 1..=3 {
        let region = format!("region{n}");
        world.ends("replicate", json!({"region": region}), RunState::Failed, n * 10).await;
    }
    world.ends("dr_test", json!({}), RunState::Failed, 40).await;
    world.ends("replicate", json!({"region": "region1"}), RunState::Succeeded, 50).await;
    let list = async |filter: AlertFilter| {
        let (rows, more) = world.store.alerts(filter).await.unwrap();
        (rows.iter().map(|a| a.raised.unix_ms()).collect::<Vec<_>>(), more)
    };
    let all = AlertFilter { limit: 2, ..AlertFilter::default() };
    assert_eq!(list(all.clone()).await, (vec![40, 30], 2));
    let third = world.list(false).await[1].id;
    assert_eq!(list(AlertFilter { before: Some(third), ..all.clone() }).await, (vec![20, 10], 0));
    let critical = Some(Severity::Critical);
    assert_eq!(list(AlertFilter { severity: critical, ..all.clone() }).await, (vec![40], 0));
    let kind = Some(AlertKind::ReplicationFailed);
    let copies = AlertFilter { kind, open: true, ..all.clone() };
    assert_eq!(list(copies).await, (vec![30, 20], 0));
    // Resolved at 50: not since 51. Those that are open are, whenever they were raised.
    let since = |ms| AlertFilter { since: Some(at(ms)), limit: 9, ..AlertFilter::default() };
    assert_eq!(list(since(50)).await.0.len(), 4);
    assert_eq!(list(since(51)).await.0, [40, 30, 20]);
    let nobody = AlertFilter { items: Some(vec![]), ..all.clone() };
    assert_eq!(list(nobody).await, (vec![], 0));
    let this = AlertFilter { items: Some(vec![world.item]), ..all };
    assert_eq!(list(this).await.1, 2);
    let open = world.store.open_alerts().await.unwrap();
    let counted = [
        (AlertKind::DrTestFailed, Severity::Critical, 1),
        (AlertKind::ReplicationFailed, Severity::High, 2),
    ];
    assert_eq!(open, counted);
}

#[tokio::test]
async fn old_alerts_are_forgotten_and_conditions_that_last_are_not() {
    let world = World::protected(Policy::default(), NOON).await;
    world.store.judge_conditions(at(NOON)).await.unwrap();
    for n in 0..5 {
        world.ends("backup", json!({}), RunState::Failed, NOON + n).await;
    }
    let forget = async |before, most| world.store.forget_alerts(at(before), most).await.unwrap();
    assert_eq!(forget(NOON, 100).await, 0);
    // Three resolved ones beyond the bound of three; open ones are no part of it.
    assert_eq!(forget(NOON, 3).await, 3);
    assert_eq!(world.open().await, ["verification_overdue", "backup_failed"]);
    assert_eq!(world.list(false).await.len(), 3);
    // All events are old by now, also the one that nothing has followed.
    assert_eq!(forget(NOON + DAY, 100).await, 2);
    assert_eq!(world.open().await, ["verification_overdue"]);
    let newest = world.ends("backup", json!({}), RunState::Failed, NOON + DAY).await;
    let open = world.list(true).await;
    let last = open.iter().find(|a| a.run == Some(newest)).unwrap();
    assert_eq!(last.id, 7, "numbers are not used again");
}

#[tokio::test]
async fn the_end_of_a_run_asks_for_conditions_by_index() {
    let world = World::new().await;
    let plan: Vec<String> = world
        .store
        .read(|c| {
            let mut s = c.prepare(&format!("EXPLAIN QUERY PLAN {}", conditions::HAS_CONDITION))?;
            let rows = s.query_map([1], |r| r.get(3))?;
            rows.collect::<Result<_, _>>().map_err(Into::into)
        })
        .await
        .unwrap();
    for index in ["alert_open_by_item", "alert_closed_by_item"] {
        assert!(plan.iter().any(|l| l.contains(index)), "at every end of a run: {plan:?}");
    }
    assert!(!plan.iter().any(|line| line.contains("SCAN alert")), "{plan:?}");
}

#[tokio::test]
async fn what_is_proved_stays_so_until_a_newer_backup_has_waited_too_long() {
    let world = World::protected(Policy::default(), NOON).await;
    let overdue = async |ms| {
        world.store.judge_conditions(at(ms)).await.unwrap();
        world.open().await.contains(&"verification_overdue".to_owned())
    };
    assert!(overdue(NOON).await, "of the points that were not kept none was ever proved");
    let proof = CatalogueChange::AddProof {
        item: world.item,
        name: PointName::parse(POINT).unwrap(),
        region: "eastus".into(),
        level: "restorable".into(),
        passed: true,
        detail: String::new(),
    };
    let id = world.run("verify", json!({"point": POINT, "region": "eastus"})).await;
    world.becomes(id, RunState::Succeeded, vec![proof], NOON + HOUR).await;
    assert!(!world.open().await.contains(&"verification_overdue".to_owned()), "at once");
    assert!(!overdue(NOON + 30 * DAY).await, "there is nothing new to prove");
    world.point("db-backup-daily-20260101-1200", NOON + 30 * DAY).await;
    assert!(!overdue(NOON + 37 * DAY).await);
    assert!(overdue(NOON + 37 * DAY + 3 * HOUR).await);
}

impl World {
    async fn close(&self, id: i64, ms: i64) -> Closing {
        let closed = self.store.close_alert(id, "bob".into(), "known".into(), at(ms));
        closed.await.unwrap()
    }

    /// The number of the open one of this kind.
    async fn open_one(&self, kind: &str) -> i64 {
        self.list(true).await.iter().find(|a| a.kind == kind).unwrap().id
    }
}

#[tokio::test]
async fn an_event_that_is_closed_says_by_whom_and_the_next_failure_is_a_new_one() {
    let world = World::new().await;
    world.ends("dr_test", json!({}), RunState::Failed, 10).await;
    world.ends("dr_test", json!({}), RunState::Failed, 20).await;
    let id = world.open_one("dr_test_failed").await;
    let Closing::Closed(alert) = world.close(id, 30).await else { panic!("it was open") };
    assert_eq!((alert.resolved, alert.closed_by.as_deref()), (Some(at(30)), Some("bob")));
    assert_eq!((alert.resolution.as_deref(), alert.lasts), (Some("known"), false));
    assert_eq!(world.open().await, [""; 0]);
    assert_eq!(world.list(false).await[0], alert, "the list says the same");
    // Twice, one that ended by itself, and one that there never was.
    assert_eq!(world.close(id, 40).await, Closing::Already(alert));
    let Closing::Already(first) = world.close(id - 1, 40).await else { panic!("it was resolved") };
    assert_eq!((first.closed_by, first.resolved), (None, Some(at(20))));
    assert_eq!(world.close(id + 1, 40).await, Closing::Unknown);
    world.ends("dr_test", json!({}), RunState::Failed, 50).await;
    let open = world.list(true).await;
    assert_eq!((open.len(), open[0].times, open[0].since), (1, 1, at(50)), "it begins anew");
    // What a run says once is not said again after a crash, closed or not.
    let id = open[0].id;
    world.close(id, 60).await;
    world.becomes(open[0].run.unwrap(), RunState::Failed, vec![], 70).await;
    assert_eq!(world.open().await, [""; 0]);
}

#[tokio::test]
async fn a_closed_condition_stays_closed_while_it_lasts_and_is_new_when_it_comes_again() {
    let policy = Policy { rpo: Some(Interval::hours(24)), ..Policy::default() };
    let world = World::protected(policy, NOON).await;
    let judge = async |ms| world.store.judge_conditions(at(ms)).await.unwrap();
    let late = NOON + 2 * DAY;
    judge(late).await;
    let rpo = world.open_one("rpo_missed").await;
    let Closing::Closed(alert) = world.close(rpo, late + 1).await else { panic!("it was open") };
    assert!(alert.lasts);
    let others = ["backup_overdue", "verification_overdue"];
    assert_eq!(judge(late + MINUTE).await, 0, "nothing is written each time");
    assert_eq!(world.open().await, others);
    // The end of a job of the VM judges too, and the alerts that are old are deleted.
    world.ends("restore_in_place", json!({}), RunState::Failed, late + HOUR).await;
    world.store.forget_alerts(at(late + DAY), 1).await.unwrap();
    judge(late + DAY).await;
    assert_eq!(world.open().await, others, "still the same occurrence");
    assert!(world.list(false).await.contains(&alert), "it is kept as long as it lasts");
    // A backup ends it; the others are resolved, and it is not any more than it was.
    world.point("db-backup-daily-20251206-1200", late + 2 * DAY).await;
    world.ends("backup", json!({}), RunState::Succeeded, late + 2 * DAY).await;
    let told = world.list(false).await.into_iter().find(|a| a.id == rpo).unwrap();
    assert_eq!((told.resolved, told.lasts), (Some(at(late + 1)), false));
    assert_eq!(told.closed_by.as_deref(), Some("bob"));
    judge(late + 2 * DAY + HOUR).await;
    assert_eq!(world.open().await, ["verification_overdue"]);
    judge(late + 4 * DAY).await;
    assert!(world.open_one("rpo_missed").await > rpo, "it came again");
    // And can be closed again.
    let again = world.open_one("rpo_missed").await;
    assert!(matches!(world.close(again, late + 4 * DAY).await, Closing::Closed(_)));
    world.store.forget_alerts(at(late + 5 * DAY), 100).await.unwrap();
    let left: Vec<i64> = world.list(false).await.iter().map(|a| a.id).collect();
    assert!(
        left.contains(&again) && !left.contains(&rpo),
        "one that has ended is forgotten: {left:?}"
    );
}

#[tokio::test]
async fn a_closed_condition_ends_by_time_and_by_the_policy_too() {
    let world = World::protected(Policy::default(), NOON).await;
    world.store.judge_conditions(at(NOON)).await.unwrap();
    world.close(world.open_one("verification_overdue").await, NOON + 1).await;
    let off = Policy { enabled: false, ..Policy::default() };
    world.store.set_policy(world.item, off, "alice".into(), at(NOON + 2)).await.unwrap();
    assert_eq!(world.store.judge_conditions(at(NOON + 3)).await.unwrap(), 1);
    assert!(world.list(false).await.iter().all(|a| !a.lasts));
    assert_eq!(world.store.judge_conditions(at(NOON + 4)).await.unwrap(), 0);
    // Gone, closed, back, and gone once more.
    world.store.set_policy(world.item, Policy::default(), "alice".into(), at(0)).await.unwrap();
    world.store.set_vm_gone(world.item, at(NOON + 5)).await.unwrap();
    let gone = world.open_one("vm_gone").await;
    world.close(gone, NOON + 6).await;
    world.store.set_vm_gone(world.item, at(NOON + 7)).await.unwrap();
    world.store.judge_conditions(at(NOON + 8)).await.unwrap();
    assert_eq!(world.open().await, [""; 0]);
    world.store.set_vm_back(world.item, at(NOON + 9)).await.unwrap();
    world.store.set_vm_gone(world.item, at(NOON + 10)).await.unwrap();
    assert!(world.open_one("vm_gone").await > gone);
}

#[tokio::test]
async fn a_closed_success_rate_stays_closed_until_it_was_high_enough() {
    let world = World::new().await;
    let drill = async |rto: Option<i64>, state, ms| {
        let id = world.run("dr_test", json!({"region": "westus2"})).await;
        world.becomes(id, state, vec![world.drill(ms, rto)], ms).await;
    };
    drill(None, RunState::Failed, NOON).await;
    let low = world.open_one("success_rate_low").await;
    world.close(low, NOON + 1).await;
    drill(Some(MINUTE), RunState::Succeeded, NOON + 2).await;
    world.store.judge_conditions(at(NOON + 3)).await.unwrap();
    assert_eq!(world.open().await, [""; 0], "other words, the same occurrence");
    // The failure is no longer among those that count.
    world.store.judge_conditions(at(NOON + 30 * DAY + 1)).await.unwrap();
    assert!(world.list(false).await.iter().all(|a| !a.lasts));
    drill(None, RunState::Failed, NOON + 31 * DAY).await;
    assert!(world.open_one("success_rate_low").await > low);
}

#[tokio::test]
async fn that_a_job_waits_for_a_person_cannot_be_closed() {
    let world = World::new().await;
    let run = world.ends("restore_in_place", json!({}), RunState::Stuck, 10).await;
    let id = world.open_one("job_stuck").await;
    assert_eq!(world.close(id, 20).await, Closing::WaitsForAPerson(run));
    assert_eq!(world.open().await, ["job_stuck"]);
}
