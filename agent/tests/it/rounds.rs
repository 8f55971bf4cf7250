//! Many freezes under load, with everything that may die dying at random. From a seed; as many as
//! `AZDR_FREEZE_ROUNDS` says (20), from `AZDR_FREEZE_SEED` (1).
//!
//! After every round nothing is frozen, and `unbroken` was said only of a freeze in which no writer
//! got a byte through and nobody thawed. In the end it prints how long file systems were frozen.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use azdr_env::{Ids, SeededIds};
use azdr_proto::agent::agent_message::Body as Said;
use azdr_proto::agent::{FreezeOutcome, FreezeReply, QuiesceState, ThawReply};

use crate::foreign_freezer;
use crate::freeze::{Scene, beat_in, freeze, scene_of, thaw};
use crate::loop_mount::{LoopMount, Writer, missing, wait_for};

crate::tests! {
    rounds_of_freezes_with_random_deaths_leave_nothing_frozen: ["mkfs.ext4"],
}

const LEASE_MS: u32 = 1_000;
const LIMIT_MS: u32 = 5_000;

/// What happens in a round.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    Nothing,
    AgentKilled,
    OperationKilled,
    SupervisorKilled,
    BothHalvesKilled,
    NetworkCut,
    ThawedAndFrozenByOther,
    AgentKilledWhileFreezing,
    OperationKilledWhileFreezing,
    FreezerKilledWhileFreezing,
    SupervisorKilledWhileFreezing,
}

impl Event {
    /// Every second round is left alone.
    fn from(dice: u64) -> Self {
        use Event::*;
        const DEATHS: [Event; 10] = [
            AgentKilled,
            OperationKilled,
            SupervisorKilled,
            BothHalvesKilled,
            NetworkCut,
            ThawedAndFrozenByOther,
            AgentKilledWhileFreezing,
            OperationKilledWhileFreezing,
            FreezerKilledWhileFreezing,
            SupervisorKilledWhileFreezing,
        ];
        if dice.is_multiple_of(2) { Nothing } else { DEATHS[(dice / 2 % 10) as usize] }
    }

    fn while_freezing(self) -> bool {
        self >= Event::AgentKilledWhileFreezing
    }

    /// Whether the freeze may be whole all the same.
    fn may_be_unbroken(self) -> bool {
        use Event::*;
        // Whoever was not needed any more, or was killed too early or late to matter.
        matches!(self, Nothing | SupervisorKilled) || self.while_freezing()
    }
}

#[derive(Default)]
struct Tally {
    rounds: BTreeMap<Event, u32>,
    unbroken: BTreeMap<Event, u32>,
    /// Of undisturbed rounds, in µs: the whole window, and what of it is not the time held.
    windows: Vec<u64>,
    beyond: Vec<u64>,
    /// Why undisturbed rounds were not unbroken.
    doubts: Vec<String>,
}

async fn rounds_of_freezes_with_random_deaths_leave_nothing_frozen() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect(name))
    };
    let (rounds, seed) = (number("AZDR_FREEZE_ROUNDS", 20), number("AZDR_FREEZE_SEED", 1));
    let dice = SeededIds::new(seed);
    let folder = tempfile::tempdir().unwrap();
    // One of each, where there is xfs.
    let with_xfs = missing(&["mkfs.xfs"]).is_none();
    let other = if with_xfs { LoopMount::xfs } else { LoopMount::ext4 };
    let mounts = vec![LoopMount::ext4(folder.path(), "ext4"), other(folder.path(), "other")];
    println!("on ext4 and {}", if with_xfs { "xfs" } else { "ext4 (needs mkfs.xfs)" });
    let mut scene = scene_of(folder, mounts).await;
    let writers: Vec<_> = scene.mounts.iter().map(|mount| Writer::start(mount.path())).collect();
    let mut tally = Tally::default();
    for round in 0..rounds {
        let event = Event::from(dice.u64());
        let offset = Duration::from_micros(dice.u64() % 80_000);
        one_round(&mut scene, &format!("op-{round}"), event, offset, &mut tally).await;
        for (mount, writer) in scene.mounts.iter().zip(&writers) {
            writer.assert_goes_on(Duration::from_secs(10));
            assert!(!mount.thaw(), "round {round}, {event:?}, seed {seed}: left frozen");
        }
    }
    drop(writers);
    scene.mounts.iter().for_each(LoopMount::assert_writable);
    wait_for("the canaries' end", Duration::from_secs(5), || scene.agent.children().is_empty());
    show(&mut tally, rounds, seed);
    let of = |counts: &BTreeMap<Event, u32>| counts.get(&Event::Nothing).copied().unwrap_or(0);
    let (undisturbed, proved) = (of(&tally.rounds), of(&tally.unbroken));
    let enough = undisturbed > 0 && proved * 2 >= undisturbed;
    assert!(enough || rounds < 10, "too few freezes could be proved: {:?}", tally.doubts);
}

async fn one_round(
    scene: &mut Scene,
    operation: &str,
    event: Event,
    offset: Duration,
    tally: &mut Tally,
) {
    *tally.rounds.entry(event).or_default() += 1;
    scene.session.tell(freeze(operation, LEASE_MS, LIMIT_MS)).await;
    if event.while_freezing() {
        // The agent prepares for a while: from then on.
        let began = async {
            while scene.thawd.children().is_empty() {
                azdr_env::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), began).await.expect("it prepares");
        azdr_env::sleep(offset).await;
        kill(scene, event);
        if event == Event::AgentKilledWhileFreezing {
            return recover(scene).await;
        }
    }
    let reply = freeze_reply_to(scene, operation).await;
    let frozen = reply.outcome() == FreezeOutcome::Frozen;
    let before = sizes(&scene.mounts);
    if frozen && !event.while_freezing() {
        // The time that snapshots take.
        azdr_env::sleep(offset).await;
        kill(scene, event);
        match event {
            Event::AgentKilled => return recover(scene).await,
            Event::NetworkCut => {
                scene.session.cut();
                scene.session = scene.controller.protected().await;
                beat_in(&mut scene.session, QuiesceState::Idle).await;
            }
            _ => {}
        }
    }
    let after = sizes(&scene.mounts);
    scene.session.tell(thaw(operation)).await;
    let reply = thaw_reply_to(scene, operation).await;
    let as_said = format!("{operation}, {event:?}: {reply:?}");
    if reply.unbroken {
        assert!(frozen && before == after, "written while frozen: {as_said}");
        assert!(event.may_be_unbroken(), "{as_said}");
        *tally.unbroken.entry(event).or_default() += 1;
    }
    if event == Event::Nothing {
        let from = reply.windows.iter().map(|w| w.frozen_from_ns).min().unwrap_or(0);
        let to = reply.windows.iter().map(|w| w.frozen_to_ns).max().unwrap_or(0);
        let window = (to - from) / 1_000;
        tally.windows.push(window);
        tally.beyond.push(window.saturating_sub(offset.as_micros() as u64));
        if !reply.unbroken {
            tally.doubts.push(reply.reason);
        }
    }
    recover(scene).await;
}

fn kill(scene: &mut Scene, event: Event) {
    use Event::*;
    let operation = scene.thawd.children().last().copied();
    // What is about to end by itself may be gone.
    let kill = |pid: Option<u32>| {
        if let Some(pid) = pid.filter(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            let _ =
                std::process::Command::new("kill").args(["-s", "KILL", &pid.to_string()]).output();
        }
    };
    match event {
        Nothing | NetworkCut => {}
        AgentKilled | AgentKilledWhileFreezing => {
            scene.agent.signal("KILL");
            assert!(!scene.agent.ended());
        }
        OperationKilled | OperationKilledWhileFreezing => kill(operation),
        SupervisorKilled | SupervisorKilledWhileFreezing | BothHalvesKilled => {
            scene.thawd.signal("KILL");
            assert!(!scene.thawd.ended());
            // The supervisor first: otherwise it thaws.
            kill(operation.filter(|_| event == BothHalvesKilled));
        }
        FreezerKilledWhileFreezing => {
            let place = |pid| format!("/proc/{pid}/task/{pid}/children");
            let children = operation.and_then(|pid| std::fs::read_to_string(place(pid)).ok());
            kill(children.and_then(|text| text.split_whitespace().last()?.parse().ok()));
        }
        ThawedAndFrozenByOther => {
            assert!(scene.mounts[0].thaw());
            use std::os::fd::AsFd;
            foreign_freezer::freeze(scene.mounts[0].root().as_fd()).unwrap();
        }
    }
}

/// Starts what has died, and waits until the agent is connected and idle.
async fn recover(scene: &mut Scene) {
    if scene.thawd.has_ended() {
        scene.thawd = scene.machine.start_thawd();
    }
    if scene.agent.has_ended() {
        scene.agent = scene.machine.start_agent();
        scene.session = scene.controller.protected().await;
    }
    beat_in(&mut scene.session, QuiesceState::Idle).await;
}

async fn freeze_reply_to(scene: &mut Scene, operation: &str) -> FreezeReply {
    let pick = |said| match said {
        Said::FreezeReply(reply) if reply.operation_id == operation => Some(reply),
        _ => None,
    };
    scene.session.hear(pick).await
}

async fn thaw_reply_to(scene: &mut Scene, operation: &str) -> ThawReply {
    let pick = |said| match said {
        Said::ThawReply(reply) if reply.operation_id == operation => Some(reply),
        _ => None,
    };
    scene.session.hear(pick).await
}

/// What the writers have written: a size is read without a wait, and grows only when nothing is frozen.
fn sizes(mounts: &[LoopMount]) -> Vec<u64> {
    mounts.iter().map(|m| std::fs::metadata(m.path().join("written")).unwrap().len()).collect()
}

fn show(tally: &mut Tally, rounds: u64, seed: u64) {
    println!("{rounds} rounds from seed {seed}:");
    for (event, count) in &tally.rounds {
        let unbroken = tally.unbroken.get(event).unwrap_or(&0);
        println!("  {event:?}: {count}, of which unbroken: {unbroken}");
    }
    for (name, times) in [("window", &mut tally.windows), ("beyond the hold", &mut tally.beyond)] {
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len() - 1));
        if let (Some(p50), Some(p99), Some(max)) = (at(50), at(99), times.last()) {
            let ms = |us: &u64| *us as f64 / 1_000.0;
            println!(
                "  {name}: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
                ms(p50),
                ms(p99),
                ms(max)
            );
        }
    }
    for doubt in &tally.doubts {
        println!("  undisturbed and not unbroken: {doubt}");
    }
}
