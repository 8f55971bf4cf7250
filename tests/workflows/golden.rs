//! Golden journals: what a whole run of each version of each workflow journals.
//!
//! A journal of an older version must still be finished. So a step list, and the documents that its
//! steps leave, may change only with a new version; the files here are what was shipped. With
//! `AZDR_GOLDEN=write` they are written anew: for a new workflow or version, never for one that has
//! been shipped.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use azdr_controller::store::{Event, JournalEntry, RunId, RunState, Store};
use azdr_controller::workflow::Definition;
use azdr_controller::workflows::{self, Services};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cases::Case;
use crate::cloud::Spoil;
use crate::life::Life;
use crate::properties::world;

#[derive(Serialize, Deserialize)]
struct Golden {
    workflow: String,
    version: u32,
    /// The journal, without checkpoints: those are forgotten again on the way.
    entries: Vec<Entry>,
    /// A checkpoint of each step that left one.
    checkpoints: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    step: String,
    item: String,
    event: String,
    payload: Value,
}

impl From<&JournalEntry> for Entry {
    fn from(e: &JournalEntry) -> Self {
        Self {
            step: e.step.clone(),
            item: e.item.clone(),
            event: e.event.as_str().to_owned(),
            payload: e.payload.clone(),
        }
    }
}

fn file(workflow: &str, version: u32) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("workflows/golden");
    folder.join(format!("{workflow}-v{version}.json"))
}

fn read(workflow: &str, version: u32) -> Golden {
    let path = file(workflow, version);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| {
        panic!("{}: {e}; write it with AZDR_GOLDEN=write", path.display());
    });
    serde_json::from_str(&text).unwrap()
}

/// Field names and types of a document. Elements of one list have one shape.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => "bool".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "string".into(),
        Value::Array(list) => {
            let mut shapes: Vec<Value> = list.iter().map(shape).collect();
            shapes.dedup();
            Value::Array(shapes)
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(k, v)| (k.clone(), shape(v)));
            Value::Object(fields.collect::<Map<_, _>>())
        }
    }
}

fn lines(golden: &Golden) -> Vec<String> {
    let entry = |e: &Entry| format!("{} {} {}", e.step, e.event, shape(&e.payload));
    let checkpoint = |(step, v): (&String, &Value)| format!("{step} checkpoint {}", shape(v));
    golden.entries.iter().map(entry).chain(golden.checkpoints.iter().map(checkpoint)).collect()
}

fn without_checkpoints(journal: &[JournalEntry]) -> Vec<Entry> {
    journal.iter().filter(|e| e.event != Event::Checkpoint).map(Entry::from).collect()
}

/// Every file, with the first case of its workflow: what tells its other cases apart is in their inputs.
fn files() -> Vec<(Golden, Case)> {
    let folder = file("x", 1).parent().unwrap().to_owned();
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let golden: Golden =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(path, file(&golden.workflow, golden.version));
        let case = Case::ALL.into_iter().find(|case| case.workflow() == golden.workflow);
        let case = case.unwrap_or_else(|| panic!("{}: no case", path.display()));
        (golden, case)
    };
    paths.into_iter().map(read).collect()
}

/// A whole run: its journal, its Azure requests, and what exists afterwards.
async fn whole_run(case: Case, version: u32) -> (Golden, usize, RunState, Vec<String>) {
    let bench = case.bench();
    let life = bench.life().await;
    let mut run = case.prepare(&bench, &life).await;
    run.version = version;
    life.settle().await;
    bench.cloud.count_from_here(None);
    let id = life.engine.submit(run).await.unwrap();
    let checkpoints: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let watching = tokio::spawn(collect(life.store.clone(), id, &life, checkpoints.clone()));
    let row = life.ended(id).await;
    watching.abort();
    let requests = bench.cloud.requests();
    let entries = without_checkpoints(&life.store.journal(id).await.unwrap());
    life.settle().await;
    let end = world(&bench.cloud.listing().await);
    life.end().await;
    let checkpoints = checkpoints.lock().unwrap().clone();
    let golden = Golden { workflow: case.workflow().into(), version, entries, checkpoints };
    (golden, requests, row.state, end)
}

/// Collects the first checkpoint of each step.
fn collect(
    store: Store,
    id: RunId,
    life: &Life,
    found: Arc<Mutex<BTreeMap<String, Value>>>,
) -> impl Future<Output = ()> + Send + use<> {
    let mut changes = life.engine.subscribe();
    async move {
        loop {
            changes.changed().await;
            for e in store.journal(id).await.unwrap() {
                if e.event == Event::Checkpoint && !e.payload.is_null() {
                    found.lock().unwrap().entry(e.step).or_insert(e.payload);
                }
            }
        }
    }
}

#[test]
fn every_version_of_every_workflow_has_a_golden_journal() {
    for definition in workflows::all() {
        let golden = read(definition.name, definition.version.0);
        assert_eq!((&*golden.workflow, golden.version), (definition.name, definition.version.0));
    }
}

#[test]
fn every_version_that_was_shipped_is_still_there() {
    let all = workflows::all();
    for (golden, _) in files() {
        assert!(
            all.iter().any(|d| is_of(d, &golden)),
            "version {} of {} is gone: its journals could not be finished",
            golden.version,
            golden.workflow
        );
    }
}

fn is_of(definition: &Definition<Services>, golden: &Golden) -> bool {
    (definition.name, definition.version.0) == (&*golden.workflow, golden.version)
}

#[tokio::test(start_paused = true)]
async fn what_a_run_journals_changes_only_with_a_new_version() {
    let newest: BTreeMap<_, _> = workflows::all().into_iter().map(|d| (d.name, d)).collect();
    // New runs are of the newest version.
    for definition in newest.into_values() {
        let case = Case::ALL.into_iter().find(|case| case.workflow() == definition.name).unwrap();
        let (today, _, state, _) = whole_run(case, definition.version.0).await;
        assert_eq!(state, RunState::Succeeded, "{case:?}");
        if std::env::var("AZDR_GOLDEN").is_ok_and(|v| v == "write") {
            let path = file(&today.workflow, today.version);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let text = serde_json::to_string_pretty(&today).unwrap() + "\n";
            std::fs::write(path, text).unwrap();
            continue;
        }
        let golden = read(&today.workflow, today.version);
        assert_eq!(
            lines(&today),
            lines(&golden),
            "{case:?} journals something else than version {} did when it was shipped: journals \
             that exist could not be finished; make a new version and keep the old one",
            today.version
        );
    }
}

/// Crashes a run just before its `n`th Azure request, puts the golden rows into the place of what it
/// has journalled, and lets the engine finish it.
async fn finish_golden(case: Case, golden: &Golden, n: usize) -> (usize, RunState, Vec<String>) {
    let bench = case.bench();
    let life = bench.life().await;
    let mut run = case.prepare(&bench, &life).await;
    run.version = golden.version;
    life.settle().await;
    bench.cloud.count_from_here(Some((n, Spoil::CrashBefore)));
    let id = life.engine.submit(run).await.unwrap();
    life.mortal.dead().await;
    life.engine.kill();
    life.end().await;
    bench.cloud.count_from_here(None);
    let store = bench.store();
    let rows = store.journal(id).await.unwrap().len();
    replace(&store, id, golden).await;
    let life = bench.life().await;
    let row = life.ended(id).await;
    life.settle().await;
    let end = world(&bench.cloud.listing().await);
    life.end().await;
    (rows, row.state, end)
}

async fn replace(store: &Store, id: RunId, golden: &Golden) {
    let journal = store.journal(id).await.unwrap();
    let ours = without_checkpoints(&journal);
    let theirs = golden.entries[..ours.len()].to_vec();
    for (our, their) in ours.iter().zip(&theirs) {
        assert_eq!((&our.step, &our.event), (&their.step, &their.event));
    }
    let write = store.write(move |c| {
        c.execute("DELETE FROM journal WHERE run_id = ?1 AND event <> 'checkpoint'", [id.0])?;
        // Checkpoints come last: they belong to what is under way.
        c.execute("UPDATE journal SET seq = seq + 100000 WHERE run_id = ?1", [id.0])?;
        for (seq, e) in theirs.iter().enumerate() {
            c.execute(
                "INSERT INTO journal VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6)",
                (id.0, seq as i64 + 1, &e.step, &e.item, &e.event, e.payload.to_string()),
            )?;
        }
        Ok(())
    });
    write.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_golden_journal_that_ends_anywhere_is_finished_by_todays_code() {
    for (golden, case) in files() {
        let what = format!("version {} of {}", golden.version, golden.workflow);
        let (_, requests, state, end) = whole_run(case, golden.version).await;
        let mut stopped_at = BTreeSet::new();
        let mut before = BTreeSet::new();
        before.extend((1..=PLACES).map(|n| (requests * n / PLACES).max(1)));
        for n in before {
            let (rows, ended, left) = finish_golden(case, &golden, n).await;
            assert_eq!((ended, &left), (state, &end), "{what} before request {n}, {rows} rows");
            stopped_at.insert(rows);
        }
        assert!(stopped_at.len() > 1, "{what} was stopped at {stopped_at:?} only");
    }
}

/// Spread over a run's requests: so many ends of each journal are tried.
const PLACES: usize = 10;
