//! Fifty drills at once, and a controller that dies all the time: nothing is left, every drill has
//! one end, and no machine of production has been touched.

use std::sync::OnceLock;

use azdr_controller::store::{RunId, RunState};
use azdr_controller::workflows::{self, backup, dr_test};
use azdr_domain::policy::PolicyChange;
use azdr_domain::recovery_point::PointName;
use azdr_env::{Ids, SeededIds};

use crate::cloud::world;
use crate::life::{Bench, Life, Prepared, vm};
use crate::meddling::{Plan, Side};
use crate::untouchable::untouchable;

/// How many machines are drilled.
const MACHINES: usize = 50;
/// Worlds of the sample.
const SAMPLE: u64 = 3;

fn names() -> Vec<String> {
    (0..MACHINES).map(|n| format!("vm{n:02}")).collect()
}

/// All machines protected, each with one recovery point.
fn prepared() -> &'static Prepared {
    static WORLD: OnceLock<Prepared> = OnceLock::new();
    let make = async {
        let names = names();
        let machines: Vec<_> = names.iter().map(|name| (name.as_str(), false)).collect();
        let bench = Bench::with(world(&machines));
        let life = bench.life().await;
        for name in &names {
            let item = bench.protect_vm(&life, vm(name), PolicyChange::default()).await;
            let input = backup::Input { item: item.id, vm: vm(name), tier: None };
            let run = workflows::new_run(backup::RUN, &input, item.id, "test");
            life.engine.submit(run).await.unwrap();
        }
        bench.keep(life).await
    };
    WORLD.get_or_init(|| {
        let thread = std::thread::spawn(|| {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            runtime.enable_time().start_paused(true).build().unwrap().block_on(make)
        });
        thread.join().unwrap()
    })
}

async fn declare_all(bench: &Bench, life: &Life) -> Vec<RunId> {
    let mut drills = Vec::new();
    for name in names() {
        let item = life.store.item(&vm(&name)).await.unwrap().unwrap();
        let point: PointName = life.points(&item).await[0].name.clone();
        let input = dr_test::Input {
            item: item.id,
            vm: vm(&name),
            point,
            region: "eastus".into(),
            resource_group: None,
            declared: Some(bench.env.clock.wall()),
            keep: std::time::Duration::ZERO,
        };
        let run = workflows::new_run(dr_test::RUN, &input, item.id, "test");
        drills.push(life.engine.submit(run).await.unwrap());
    }
    drills
}

/// Runs all drills to their ends; `crash` says at which write of each life it dies. Answers how many
/// lives and writes there were.
async fn drill(
    bench: &Bench,
    mut crash: impl FnMut(usize) -> Option<(usize, Side)>,
) -> (usize, usize) {
    let before = untouchable(bench).await;
    let mut life = bench.life().await;
    let drills = declare_all(bench, &life).await;
    let (mut lives, mut writes) = (0, 0);
    let mut planned = crash(lives);
    bench.meddler.arm(drills[0], Plan { crash: planned, ..Plan::default() });
    loop {
        lives += 1;
        let died = tokio::select! {
            biased;
            () = life.mortal.dead() => true,
            () = life.settle() => false,
        };
        let written = bench.meddler.seen().writes;
        writes += written;
        if !died {
            break;
        }
        assert_eq!(Some(written), planned.map(|(at, _)| at), "life {lives}");
        // What a start writes counts too.
        planned = crash(lives);
        bench.meddler.arm(drills[0], Plan { crash: planned, ..Plan::default() });
        life = bench.next(life).await;
    }
    for id in drills {
        let row = life.store.run(id).await.unwrap().unwrap();
        assert_eq!(row.state, RunState::Succeeded, "job {id}: {:?}", row.error);
        let journal = life.store.journal(id).await.unwrap();
        assert!(!journal.is_empty());
    }
    let after = untouchable(bench).await;
    assert_eq!(after, before);
    life.end().await;
    (lives, writes)
}

/// Writes of a start: it takes over the database.
const START: usize = 1;

/// One chain of crashes: each life gets so many writes further, and dies before or after the last. Every
/// tenth dies in its start.
async fn chain(strides: &[usize]) {
    let bench = Bench::again(prepared(), 43);
    let crash = |life: usize| {
        let side = [Side::After, Side::Before][life / strides.len() % 2];
        if life % 10 == 9 {
            return Some((START, side));
        }
        // One write of each life must get through, or there would be no end.
        let at = match (strides[life % strides.len()], side) {
            (1, Side::Before) => 2,
            (stride, _) => stride,
        };
        // The first life has been started already.
        Some((if life == 0 { at } else { at + START }, side))
    };
    let (lives, writes) = drill(&bench, crash).await;
    println!("{MACHINES} drills: {lives} lives of the controller, {writes} writes begun");
    assert!(lives > MACHINES, "only {lives} lives");
}

#[tokio::test(start_paused = true)]
async fn fifty_drills_survive_a_controller_that_dies_all_the_time() {
    chain(&[1, 3, 7, 2, 11, 5, 13, 4]).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_drills_survive_a_controller_that_dies_at_every_write() {
    chain(&[1]).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_drills_survive_a_crash_at_any_write() {
    let (_, writes) = drill(&Bench::again(prepared(), 43), |_| None).await;
    let seed = 7;
    let dice = SeededIds::new(seed);
    for _ in 0..SAMPLE {
        let at = 1 + dice.u64() as usize % writes;
        let side = if dice.u64().is_multiple_of(2) { Side::Before } else { Side::After };
        println!("{MACHINES} drills, seed {seed}: crash {side:?} write {at} of {writes}");
        let crash = |life| (life == 0).then_some((at, side));
        assert_eq!(drill(&Bench::again(prepared(), 43), crash).await.0, 2);
    }
}
