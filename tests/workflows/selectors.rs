//! Named policies: VMs are enrolled by themselves, and nobody loses protection by a tag.

use std::collections::BTreeMap;
use std::time::Duration;

use azdr_controller::reconcile::Reconciler;
use azdr_controller::store::{PolicyRow, RunId};
use azdr_domain::arm_id::ArmId;
use azdr_domain::policy::{Policy, PolicyChange};
use azdr_domain::policy_tag::{DriftKind, POLICY_TAG, PolicyTag};
use azdr_domain::selection::{NamedPolicy, Selector};

use crate::cloud::{SUBSCRIPTION, world};
use crate::life::{Bench, Life, vm};
use crate::meddling::{Plan, Side};

fn reconciler(bench: &Bench, life: &Life) -> Reconciler {
    Reconciler {
        store: life.store.clone(),
        engine: life.engine.clone(),
        services: life.services.clone(),
        env: bench.env.clone(),
    }
}

fn gold() -> NamedPolicy {
    let change = PolicyChange { daily: Some(14), ..PolicyChange::default() };
    NamedPolicy {
        name: "gold".parse().unwrap(),
        select: Selector::new(None, [("backup".to_owned(), "gold".to_owned())].into()).unwrap(),
        policy: Policy::default().apply_anywhere(&change).unwrap(),
    }
}

async fn set(bench: &Bench, life: &Life, named: NamedPolicy) {
    let now = bench.env.clock.wall();
    life.store.set_named_policies(vec![named], vec![], "alice".into(), now).await.unwrap();
}

async fn tag(life: &Life, vm: &ArmId, name: &str, value: &str) {
    let tags = BTreeMap::from([(name.to_owned(), value.to_owned())]);
    life.services.azure.merge_tags(vm, tags).await.unwrap();
}

async fn take_inventory(bench: &Bench, life: &Life) {
    // A listing of Azure may be a little old.
    tokio::time::advance(Duration::from_secs(300)).await;
    reconciler(bench, life).take_inventory(&[SUBSCRIPTION.to_owned()]).await.unwrap();
}

async fn row(life: &Life, vm: &ArmId) -> Option<PolicyRow> {
    let item = life.store.item(vm).await.unwrap()?;
    life.store.policy(item.id).await.unwrap()
}

async fn tag_of(life: &Life, vm: &ArmId) -> Option<String> {
    life.services.azure.get_tags(vm).await.unwrap().remove(POLICY_TAG)
}

#[tokio::test(start_paused = true)]
async fn a_vm_is_enrolled_when_it_matches_and_keeps_its_policy_when_it_does_not_any_more() {
    let bench = Bench::new();
    let life = bench.life().await;
    set(&bench, &life, gold()).await;
    take_inventory(&bench, &life).await;
    assert!(row(&life, &vm("other")).await.is_none());

    tag(&life, &vm("other"), "Backup", "gold").await;
    take_inventory(&bench, &life).await;
    let enrolled = row(&life, &vm("other")).await.unwrap();
    assert_eq!(enrolled.policy, gold().policy);
    assert_eq!(enrolled.origin, Some(gold().name));
    assert_eq!((enrolled.tag_problem, enrolled.origin_problem), (None, None));
    let shown = tag_of(&life, &vm("other")).await.unwrap();
    assert!(shown.ends_with(" from=gold"), "{shown}");
    assert!(row(&life, &vm("db")).await.is_none());

    // The policy changes, and so does the VM's.
    let mut changed = gold();
    changed.policy.retention.daily = 21;
    set(&bench, &life, changed.clone()).await;
    take_inventory(&bench, &life).await;
    assert_eq!(row(&life, &vm("other")).await.unwrap().policy, changed.policy);
    let shown = tag_of(&life, &vm("other")).await.unwrap();
    assert!(PolicyTag::parse(&shown).mirrors(&changed.policy), "{shown}");

    // The tag goes: the VM keeps what it has, and that is said; it comes back.
    tag(&life, &vm("other"), "Backup", "none").await;
    take_inventory(&bench, &life).await;
    let kept = row(&life, &vm("other")).await.unwrap();
    assert_eq!(kept.policy, changed.policy);
    assert!(kept.policy.enabled);
    let problem = kept.origin_problem.unwrap();
    assert!(problem.contains("does not match gold any more"), "{problem}");
    tag(&life, &vm("other"), "Backup", "gold").await;
    take_inventory(&bench, &life).await;
    assert_eq!(row(&life, &vm("other")).await.unwrap().origin_problem, None);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_a_person_sets_wins_until_it_is_handed_over() {
    let bench = Bench::new();
    let life = bench.life().await;
    set(&bench, &life, gold()).await;
    let own = PolicyChange { daily: Some(3), ..PolicyChange::default() };
    let item = bench.protect_vm(&life, vm("other"), own).await;
    tag(&life, &vm("other"), "backup", "gold").await;
    take_inventory(&bench, &life).await;
    let kept = row(&life, &vm("other")).await.unwrap();
    assert_eq!((kept.policy.retention.daily, kept.origin), (3, None));

    let seen = |tags: &[(&str, &str)]| azdr_controller::store::VmSeen {
        id: vm("other"),
        region: "eastus".parse().unwrap(),
        tags: tags.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
    };
    let now = bench.env.clock.wall();
    let refused = life.store.hand_over(seen(&[]), now).await.unwrap_err().to_string();
    assert!(refused.contains("no selector matches it"), "{refused}");
    let handed = life.store.hand_over(seen(&[("backup", "gold")]), now).await.unwrap();
    assert_eq!(handed, item.id);
    let followed = row(&life, &vm("other")).await.unwrap();
    assert_eq!((followed.policy, followed.origin), (gold().policy, Some(gold().name)));
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_tag_is_reported_and_written_over_by_nobody() {
    let bench = Bench::new();
    let life = bench.life().await;
    tag(&life, &vm("other"), "backup", "gold").await;
    tag(&life, &vm("other"), POLICY_TAG, "nightly at 3").await;
    set(&bench, &life, gold()).await;
    for _ in 0..2 {
        take_inventory(&bench, &life).await;
        assert_eq!(tag_of(&life, &vm("other")).await.unwrap(), "nightly at 3");
        let enrolled = row(&life, &vm("other")).await.unwrap();
        let problem = enrolled.tag_problem.unwrap();
        assert!(problem.contains("not written by azdr: \"nightly at 3\""), "{problem}");
        assert_eq!(enrolled.tag_drift.unwrap().drift.kind, DriftKind::Foreign);
    }
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn drift_is_noted_with_its_first_sight_and_goes_when_it_is_mended() {
    let bench = Bench::new();
    let life = bench.life().await;
    tag(&life, &vm("other"), "backup", "gold").await;
    set(&bench, &life, gold()).await;
    take_inventory(&bench, &life).await;
    take_inventory(&bench, &life).await;
    assert_eq!(row(&life, &vm("other")).await.unwrap().tag_drift, None);
    let mine = tag_of(&life, &vm("other")).await.unwrap();

    let edited = mine.replace("d=14", "d=1");
    tag(&life, &vm("other"), POLICY_TAG, &edited).await;
    take_inventory(&bench, &life).await;
    let first = row(&life, &vm("other")).await.unwrap().tag_drift.unwrap();
    assert_eq!(first.drift.kind, DriftKind::Edited);
    take_inventory(&bench, &life).await;
    // It is the same still, and nobody has written over it.
    assert_eq!(row(&life, &vm("other")).await.unwrap().tag_drift.unwrap(), first);
    assert_eq!(tag_of(&life, &vm("other")).await.unwrap(), edited);

    life.services.azure.remove_tags(&vm("other"), &[POLICY_TAG.to_owned()]).await.unwrap();
    take_inventory(&bench, &life).await;
    let missing = row(&life, &vm("other")).await.unwrap().tag_drift.unwrap();
    assert_eq!(missing.drift.kind, DriftKind::Missing);
    assert!(missing.since > first.since);
    tag(&life, &vm("other"), POLICY_TAG, &mine).await;
    take_inventory(&bench, &life).await;
    assert_eq!(row(&life, &vm("other")).await.unwrap().tag_drift, None);
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_azdr_has_made_is_nobodys_to_select() {
    let bench = Bench::new();
    let life = bench.life().await;
    tag(&life, &vm("other"), "backup", "gold").await;
    tag(&life, &vm("other"), "azdr:owner", "azdr").await;
    set(&bench, &life, gold()).await;
    take_inventory(&bench, &life).await;
    assert!(row(&life, &vm("other")).await.is_none());
    life.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_around_any_write_of_an_inventory_is_made_good_by_the_next() {
    let mut crashes = 0;
    for side in [Side::Before, Side::After] {
        for write in 1..=3 {
            let bench = Bench::with(world(&[("a", false), ("b", false)]));
            let mut life = bench.life().await;
            for name in ["a", "b"] {
                tag(&life, &vm(name), "backup", "gold").await;
            }
            set(&bench, &life, gold()).await;
            bench.meddler.arm(RunId(0), Plan { crash: Some((write, side)), ..Plan::default() });
            let crashed = tokio::select! {
                biased;
                () = life.mortal.dead() => true,
                _ = async {
                    tokio::time::advance(Duration::from_secs(300)).await;
                    let loops = reconciler(&bench, &life);
                    loops.take_inventory(&[SUBSCRIPTION.to_owned()]).await
                } => false,
            };
            // A crash that has not come by now must not come later.
            bench.meddler.arm(RunId(0), Plan::default());
            if crashed {
                crashes += 1;
                life = bench.next(life).await;
            }
            take_inventory(&bench, &life).await;
            for name in ["a", "b"] {
                let enrolled = row(&life, &vm(name)).await.unwrap();
                assert_eq!(enrolled.origin, Some(gold().name), "write {write} {side:?}");
                assert_eq!(enrolled.tag_problem, None, "write {write} {side:?}");
                let shown = tag_of(&life, &vm(name)).await.unwrap();
                assert!(PolicyTag::parse(&shown).mirrors(&gold().policy));
            }
            life.end().await;
        }
    }
    assert_eq!(crashes, 6);
}
