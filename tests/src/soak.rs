//! A mixed load on a controller that is killed again and again (`cargo xtask soak`).
//!
//! Operators ask for backups, copies, verifications, restores, drills, and for jobs to stop, change
//! policies, pin and delete recovery points, with the real command and from a seed; meanwhile the
//! controller is killed with SIGKILL at instants from the same seed, some of them while it is starting,
//! and started again. What is checked, after each start and at rest:
//!
//! - every job whose number was answered is there, and has at most one terminal state, at rest exactly
//!   one (I9, I10); no job is stuck, none failed for a mistake of ours;
//! - policies and pins are what was answered last (I9); a pinned point is there, with all its snapshots
//!   in Azure, and each machine keeps a point (I1); a point whose deletion succeeded is gone;
//! - nothing temporary is left in the simulated Azure, its snapshots are the catalogue's, and azdr itself
//!   finds no residue (I5);
//! - the machines of production run on complete sets of disks, and the disks that restores have replaced
//!   are there (I6).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use azdr_env::{Ids, SeededIds};
use serde_json::Value;

use crate::cli::{Cli, line};
use crate::judge;
use crate::lab::{Lab, LabSpec};
use crate::poll::{Stopwatch, pause};
use crate::programs::Programs;
use crate::world::{TARGET_REGION, Vm, World};

/// How to soak.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binaries.
    pub programs: Programs,
    /// Where everything of it is put.
    pub folder: PathBuf,
    /// How often the controller is killed.
    pub kills: usize,
    /// Of the load and of the instants.
    pub seed: u64,
}

/// What came of it, when every check held.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Kills of the controller.
    pub kills: usize,
    /// Of those, while it was starting.
    pub while_starting: usize,
    /// Policies, pins and their removals that were answered.
    pub decisions: usize,
    /// Jobs whose number was answered.
    pub acknowledged: usize,
    /// Requests that were refused, or lost with the controller.
    pub unanswered: usize,
    /// Jobs by workflow and state, with the kind of failure; follow-up jobs included, the latest 1000.
    pub jobs: BTreeMap<String, usize>,
    /// From the start of the process until it was ready, all runs taken up: the longest.
    pub longest_recovery: Duration,
    /// The same on average.
    pub mean_recovery: Duration,
    /// In all.
    pub took: Duration,
}

/// Operators at work.
const OPERATORS: u64 = 3;
/// The longest time between a start and the next kill.
const LONGEST_LIFE_MS: u64 = 1500;
/// The longest time between the beginning of a start and a kill that comes before its end.
const LONGEST_START_MS: u64 = 250;
/// The longest pause of an operator.
const LONGEST_PAUSE_MS: u64 = 400;
/// After so many kills the load rests, and everything is checked.
const KILLS_BETWEEN_RESTS: usize = 20;
/// For everything that is under way to end.
const REST_LIMIT: Duration = Duration::from_secs(600);

/// Machines and their disks.
const MACHINES: [(&str, usize); 4] = [("db", 2), ("web", 1), ("app", 1), ("queue", 2)];

/// What operators know.
#[derive(Debug, Default)]
struct Book {
    /// What was asked, and the terminal state that was seen, by the number that was answered.
    answered: BTreeMap<i64, (String, Option<String>)>,
    unanswered: usize,
    /// Policies and pins that were answered.
    decisions: usize,
    /// What a machine's daily retention may be: what was answered last, and what was asked for since
    /// then without an answer.
    retention: BTreeMap<&'static str, Vec<u32>>,
    /// Points with a pin: `None` where an unanswered request may have changed it.
    pinned: BTreeMap<String, Option<bool>>,
}

struct Load<'a> {
    azdr: &'a Cli,
    book: &'a Mutex<Book>,
    /// Held for reading while a command runs: whoever writes has rest.
    turn: &'a RwLock<()>,
    over: &'a AtomicBool,
    dice: SeededIds,
    operator: u64,
}

/// Soaks.
///
/// # Errors
/// When a check does not hold, with what was seen instead.
pub fn run(options: &Options) -> Result<Summary> {
    let watch = Stopwatch::start();
    let mut lab = prepare(options)?;
    let azdr = lab.azdr.clone();
    let (book, turn, over) = (Mutex::default(), RwLock::new(()), AtomicBool::new(false));
    let (mut recoveries, mut while_starting) = (Vec::new(), 0);
    let ended = thread::scope(|scope| {
        for operator in 1..=OPERATORS {
            let dice = SeededIds::new(options.seed.wrapping_mul(1000).wrapping_add(operator));
            let (azdr, book, turn, over) = (&azdr, &book, &turn, &over);
            scope.spawn(move || Load { azdr, book, turn, over, dice, operator }.work());
        }
        let ended =
            kill_and_check(options, &mut lab, &book, &turn, &mut recoveries, &mut while_starting);
        over.store(true, Ordering::SeqCst);
        ended
    });
    ended?;
    at_rest(&lab, &book).context("at the end")?;
    lab.controller.stop()?;
    lab.controller.start()?;
    at_rest(&lab, &book).context("after a last, orderly restart")?;
    let mut summary = Summary { kills: options.kills, while_starting, ..Summary::default() };
    for job in lab.azdr.jobs()? {
        let mut what = format!("{} {}", text(&job, "workflow"), text(&job, "state"));
        if job["state"] == "failed" {
            let job = lab.azdr.job(job["id"].as_i64().context("a job's number")?)?;
            what += &format!(": {}", text(&job["error"], "kind"));
        }
        *summary.jobs.entry(what).or_default() += 1;
    }
    let book = locked(&book);
    summary.acknowledged = book.answered.len();
    summary.unanswered = book.unanswered;
    summary.decisions = book.decisions;
    summary.longest_recovery = recoveries.iter().copied().max().unwrap_or_default();
    let count = u32::try_from(recoveries.len().max(1)).unwrap_or(u32::MAX);
    summary.mean_recovery = recoveries.iter().sum::<Duration>() / count;
    summary.took = watch.elapsed();
    Ok(summary)
}

/// A world whose machines have a policy and a recovery point.
fn prepare(options: &Options) -> Result<Lab> {
    let machine = |(name, disks): (&str, usize)| match disks {
        1 => Vm::new("prod", name),
        _ => Vm::new("prod", name).with_data_disk(),
    };
    let world = World { vms: MACHINES.map(machine).into() };
    let lab = Lab::start(&options.programs, &options.folder, LabSpec::without_guests(world))?;
    for (name, _) in MACHINES {
        let keep = ["--daily-retention", "3", "--weekly-retention", "0"];
        let none = ["--monthly-retention", "0", "--yearly-retention", "0"];
        lab.azdr.run(&[&["backup", "configure", name][..], &keep, &none].concat())?.ok()?;
        lab.azdr.run(&["backup", "trigger", name])?.ok()?;
    }
    Ok(lab)
}

fn kill_and_check(
    options: &Options,
    lab: &mut Lab,
    book: &Mutex<Book>,
    turn: &RwLock<()>,
    recoveries: &mut Vec<Duration>,
    while_starting: &mut usize,
) -> Result<()> {
    let dice = SeededIds::new(options.seed);
    for kill in 1..=options.kills {
        pause(Duration::from_millis(dice.u64() % LONGEST_LIFE_MS));
        lab.controller.kill();
        if dice.u64().is_multiple_of(3) {
            lab.controller.launch()?;
            pause(Duration::from_millis(dice.u64() % LONGEST_START_MS));
            lab.controller.kill();
            *while_starting += 1;
        }
        let watch = Stopwatch::start();
        lab.controller.start().with_context(|| format!("after kill {kill}"))?;
        recoveries.push(watch.elapsed());
        known(lab, book).with_context(|| format!("after kill {kill}"))?;
        if kill % KILLS_BETWEEN_RESTS == 0 {
            let _rest = turn.write().unwrap_or_else(PoisonError::into_inner);
            at_rest(lab, book).with_context(|| format!("at rest after kill {kill}"))?;
        }
    }
    Ok(())
}

/// Every job that was answered is there; one that was over still is, in the same way.
fn known(lab: &Lab, book: &Mutex<Book>) -> Result<()> {
    let before: Vec<i64> = locked(book).answered.keys().copied().collect();
    let listed: BTreeMap<i64, Value> =
        lab.azdr.jobs()?.into_iter().filter_map(|job| Some((job["id"].as_i64()?, job))).collect();
    for id in before {
        let job = match listed.get(&id) {
            Some(job) => job.clone(),
            // The list has an end.
            None => {
                lab.azdr.job(id).with_context(|| format!("job {id} was answered and is gone"))?
            }
        };
        let state = text(&job, "state");
        let mut book = locked(book);
        let Some((asked, ended)) = book.answered.get_mut(&id) else { continue };
        if let Some(ended) = ended {
            ensure!(*ended == state, "job {id} (`{asked}`) was {ended} and is {state}");
        }
        if is_terminal(&state) {
            *ended = Some(state);
        }
    }
    Ok(())
}

fn is_terminal(state: &str) -> bool {
    ["succeeded", "failed", "cancelled"].contains(&state)
}

/// Waits until everything has ended, and checks everything.
fn at_rest(lab: &Lab, book: &Mutex<Book>) -> Result<()> {
    lab.settle(REST_LIMIT)?;
    known(lab, book)?;
    for (id, (asked, ended)) in &locked(book).answered {
        ensure!(ended.is_some(), "job {id} (`{asked}`) has not ended");
    }
    let jobs = lab.azdr.jobs()?;
    for job in &jobs {
        let state = text(job, "state");
        ensure!(is_terminal(&state), "at rest a job is {state}: {job:#}");
        if state == "failed" {
            let job = lab.azdr.job(job["id"].as_i64().context("a job's number")?)?;
            ensure!(job["error"]["kind"] != "internal", "a mistake of ours: {job:#}");
        }
    }
    let listing = lab.simulator.listing()?;
    let mut machines: Vec<String> = MACHINES.iter().map(|(name, _)| (*name).to_owned()).collect();
    for (name, disks) in MACHINES {
        let attached = listing.disks_of(listing.vm("prod", name)?);
        ensure!(attached.len() == disks, "{name} has {attached:#?}");
    }
    for vm in listing.vms() {
        let Some(tag) = vm.tag(crate::listing::RUN_TAG) else { continue };
        let run = tag.rsplit('.').next().and_then(|n| n.parse::<i64>().ok());
        let job = lab.azdr.job(run.with_context(|| format!("{} is tagged {tag}", vm.id()))?)?;
        let meant = job["workflow"] == "restore_new_vm" && job["state"] == "succeeded";
        ensure!(meant, "{} is there in spite of {job:#}", vm.id());
        machines.push(vm.id().to_owned());
    }
    let machines: Vec<&str> = machines.iter().map(String::as_str).collect();
    judge::at_rest(lab, &machines)?;
    decisions_are_kept(lab, &locked(book))?;
    deletions_are_real(lab, &locked(book))?;
    nothing_but_kept_disks_lies_around(lab)
}

/// I1 and I9: of policies and pins what was answered, and a point for every machine.
fn decisions_are_kept(lab: &Lab, book: &Book) -> Result<()> {
    for (vm, possible) in &book.retention {
        let config = lab.azdr.json(&["backup", "config-show", vm])?;
        let is = config["daily_retention"].as_u64().and_then(|n| u32::try_from(n).ok());
        let is = is.with_context(|| format!("{vm} has no daily retention: {config:#}"))?;
        ensure!(possible.contains(&is), "{vm} retains {is} days, answered were {possible:?}");
    }
    let mut pins = BTreeMap::new();
    for (vm, _) in MACHINES {
        let points = lab.azdr.points(vm)?;
        ensure!(!points.is_empty(), "{vm} has no recovery point any more");
        for point in points {
            let count = point["pins"].as_array().map_or(0, Vec::len);
            pins.insert(text(&point, "name"), count > 0);
        }
    }
    for (point, pinned) in &book.pinned {
        match (pinned, pins.get(point)) {
            // Its snapshots are there: all snapshots of the catalogue are.
            (Some(true), Some(true)) | (Some(false), Some(false) | None) | (None, _) => {}
            (_, is) => bail!("{point}: pinned {pinned:?} was answered, and it is {is:?}"),
        }
    }
    Ok(())
}

/// A point whose deletion succeeded is gone; another one may have its name since.
fn deletions_are_real(lab: &Lab, book: &Book) -> Result<()> {
    for (id, (asked, ended)) in &book.answered {
        let point = asked.strip_prefix("azdr backup delete ").and_then(|a| a.split(' ').next());
        let (Some(point), Some("succeeded")) = (point, ended.as_deref()) else { continue };
        let (vm, _) = point.split_once("-backup-").context("a point's name")?;
        let still = lab.azdr.points(vm)?.into_iter().find(|p| p["name"] == point);
        let Some(still) = still else { continue };
        let job = lab.azdr.job(*id)?;
        let newer = text(&still, "created_at") > text(&job, "finished_at");
        ensure!(newer, "job {id} has deleted {still:#}");
    }
    Ok(())
}

/// I5 and I6: azdr's own sweep finds nothing but the disks that restores have replaced, and those are
/// all still there.
fn nothing_but_kept_disks_lies_around(lab: &Lab) -> Result<()> {
    let lower = |ids: Vec<String>| ids.into_iter().map(|id| id.to_lowercase());
    let kept: Vec<String> = lower(lab.kept_disks()?).collect();
    let listing = lab.simulator.listing()?;
    let there: Vec<String> =
        lower(listing.disks().iter().map(|disk| disk.id().to_owned()).collect()).collect();
    let lost: Vec<&String> = kept.iter().filter(|id| !there.contains(id)).collect();
    ensure!(lost.is_empty(), "replaced disks are gone: {lost:#?}");
    let residue = lab.azdr.json(&["residue", "list"])?;
    for found in residue["resources"].as_array().into_iter().flatten() {
        let id = text(found, "resource_id").to_lowercase();
        ensure!(kept.contains(&id), "residue: {found:#}");
    }
    Ok(())
}

impl Load<'_> {
    /// One operator's work, until it is over.
    fn work(&self) {
        for n in 0.. {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            {
                let _turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
                // The controller is away all the time.
                if self.ask(n).is_err() {
                    locked(self.book).unanswered += 1;
                }
            }
            pause(Duration::from_millis(self.dice.u64() % LONGEST_PAUSE_MS));
        }
    }

    fn one_of<'t, T>(&self, all: &'t [T]) -> Result<&'t T> {
        let count = u64::try_from(all.len())?;
        ensure!(count > 0, "there is none");
        Ok(&all[usize::try_from(self.dice.u64() % count)?])
    }

    fn ask(&self, n: usize) -> Result<()> {
        let (vm, _) = self.one_of(&MACHINES)?;
        let copy = format!("{vm}-copy-{}-{n}", self.operator);
        match self.dice.u64() % 26 {
            0..=6 => self.start(&["backup", "trigger", vm]),
            7..=8 => self.start(&["backup", "restore", vm, "--yes"]),
            9 => self.start(&["backup", "restore", vm, "--new-vm", &copy]),
            10..=11 => self.start(&["dr", "test", vm, "--test-region", "eastus"]),
            12..=13 => self.start(&["backup", "verify", &self.point(vm)?]),
            14..=15 => {
                let point = self.point(vm)?;
                self.start(&["backup", "replicate", &point, "--target-region", TARGET_REGION])
            }
            16..=17 => self.configure(),
            18..=20 => self.pin(),
            21..=22 => self.delete(),
            _ => self.cancel(),
        }
    }

    /// The machine about which nobody else decides: what was answered last is known.
    fn own(&self) -> Result<&'static str> {
        let n = usize::try_from(self.operator)?;
        MACHINES.get(n).map(|(name, _)| *name).context("an operator without a machine")
    }

    fn configure(&self) -> Result<()> {
        let (vm, days) = (self.own()?, u32::try_from(2 + self.dice.u64() % 3)?);
        // Whatever becomes of the answer, from here on it may be so.
        locked(self.book).retention.entry(vm).or_insert_with(|| vec![3]).push(days);
        let days_text = days.to_string();
        self.azdr.run(&["backup", "configure", vm, "--daily-retention", &days_text])?.ok()?;
        let mut book = locked(self.book);
        book.retention.insert(vm, vec![days]);
        book.decisions += 1;
        Ok(())
    }

    /// Pins a point, or takes the pin back.
    fn pin(&self) -> Result<()> {
        let point = self.point(self.own()?)?;
        let before = locked(self.book).pinned.get(&point).copied().flatten();
        let pins = before != Some(true);
        locked(self.book).pinned.insert(point.clone(), None);
        let answer = match pins {
            true => {
                let reason = ["--until", "forever", "--reason", "a soak"];
                self.azdr.run(&[&["backup", "pin", &point], &reason[..]].concat())?
            }
            false => self.azdr.run(&["backup", "unpin", &point])?,
        };
        answer.ok()?;
        let mut book = locked(self.book);
        book.pinned.insert(point, Some(pins));
        book.decisions += 1;
        Ok(())
    }

    /// The oldest point that nothing holds, as far as anybody knows.
    fn delete(&self) -> Result<()> {
        let points = self.azdr.points(self.own()?)?;
        let oldest = points.last().context("no point")?["name"].as_str().context("its name")?;
        self.start(&["backup", "delete", oldest, "--yes"])
    }

    fn point(&self, vm: &str) -> Result<String> {
        let points = self.azdr.points(vm)?;
        let names: Vec<&str> = points.iter().filter_map(|p| p["name"].as_str()).collect();
        Ok((*self.one_of(&names)?).to_owned())
    }

    fn start(&self, arguments: &[&str]) -> Result<()> {
        let id = self.azdr.start_job(arguments)?;
        locked(self.book).answered.insert(id, (line(arguments), None));
        Ok(())
    }

    /// Asks one of the latest jobs to stop; that it is over already is no failure.
    fn cancel(&self) -> Result<()> {
        let latest: Vec<i64> = locked(self.book).answered.keys().rev().take(5).copied().collect();
        let id = self.one_of(&latest)?.to_string();
        let answer = self.azdr.run(&["job", "cancel", &id])?;
        if answer.words().contains("not found") {
            bail!("job {id} was answered and is gone");
        }
        Ok(())
    }
}

fn text(document: &Value, field: &str) -> String {
    document[field].as_str().unwrap_or_default().to_owned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} kills in {:.0} s, {} of them while it was starting; {} jobs and {} decisions answered, \
             {} requests not; recovery {:.2} s at most, {:.2} s on average",
            self.kills,
            self.took.as_secs_f64(),
            self.while_starting,
            self.acknowledged,
            self.decisions,
            self.unanswered,
            self.longest_recovery.as_secs_f64(),
            self.mean_recovery.as_secs_f64(),
        )?;
        for (what, count) in &self.jobs {
            writeln!(f, "  {count:5} {what}")?;
        }
        write!(f, "nothing lost, nothing left")
    }
}
