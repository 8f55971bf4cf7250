//! How a workflow is written down: a list of named steps, each with its undo beside it.
//!
//! Plain builder calls. A step without an undo states the reason, or it does not compile: the
//! builder hands the workflow back only from `undo` or `no_undo`. Neither does a workflow that does not
//! say what it leaves: only `residue` and `makes_nothing` lead to `build`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use azdr_domain::residue::Leaves;
use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::children::ChildEnd;
use super::context::{Done, RawCx, StepCx, StepKey, to_document};
use super::failure::{Failure, StepError};
use crate::store::{CatalogueChange, NewRun, RunState};

/// A version of a step list: a journal written by one version is finished by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(pub u32);

/// Something that only one run may work on at a time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LockKey(pub String);

/// Who goes first when runs wait for each other (I12).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum RunPriority {
    /// Somebody waits for their machine.
    Restore = 0,
    /// DR tests.
    Drill = 1,
    /// Backups.
    Backup = 2,
    /// Copies to another region.
    Replicate = 3,
    /// Proofs.
    Verify = 4,
    /// Everything else.
    Housekeeping = 5,
}

/// How a run ended, for [`Accountable::conclude`].
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// All steps are done and all temporaries are gone.
    Succeeded,
    /// Turned back and undone.
    Failed(Failure),
    /// Turned back on request and undone.
    Cancelled,
}

/// What is written together with a run's terminal state.
#[derive(Default)]
pub struct Concluded {
    /// For the API; plain data.
    pub result: Option<Value>,
    /// Catalogue changes of the end: a failed drill counts too.
    pub changes: Vec<CatalogueChange>,
}

pub(super) struct RawDone {
    pub(super) output: Value,
    pub(super) changes: Vec<CatalogueChange>,
}

pub(super) type Act<S> =
    Arc<dyn Fn(RawCx<S>, Value) -> BoxFuture<'static, Result<RawDone, StepError>> + Send + Sync>;
type Items<S> = Arc<dyn Fn(RawCx<S>) -> Result<Vec<(String, Value)>, StepError> + Send + Sync>;
type MakeChildren<S> =
    Arc<dyn Fn(RawCx<S>) -> Result<Vec<(String, NewRun)>, StepError> + Send + Sync>;
type MakeChild<S> = Arc<dyn Fn(RawCx<S>) -> Result<NewRun, StepError> + Send + Sync>;
type Parallel = Arc<dyn Fn(&Value) -> Result<usize, StepError> + Send + Sync>;
type LockKeys = Arc<dyn Fn(&Value) -> Result<Vec<String>, StepError> + Send + Sync>;
type Conclude<S> = Arc<dyn Fn(RawCx<S>, &Outcome) -> Result<Concluded, StepError> + Send + Sync>;
pub(super) type Residue<S> =
    Arc<dyn Fn(RawCx<S>) -> BoxFuture<'static, Result<Vec<String>, StepError>> + Send + Sync>;

/// What kind of step it is.
pub(super) enum Kind<S> {
    /// One outside effect, at least once.
    Step(Act<S>),
    /// The same step over a list known by then.
    Each { items: Items<S>, act: Act<S>, parallel: Parallel },
    /// A critical section: done whole, or cleaned up and tried again whole.
    Hold { act: Act<S>, attempts: u32 },
    /// Another run.
    Child(MakeChild<S>),
    /// Other runs.
    Children { make: MakeChildren<S>, parallel: Parallel },
}

/// One line of a step list.
pub(super) struct Node<S> {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) kind: Kind<S>,
    pub(super) undo: Option<Act<S>>,
    /// Its undo runs on success too.
    pub(super) temporary: bool,
    /// From here on, forward or stuck.
    pub(super) point_of_no_return: bool,
    pub(super) deadline: Duration,
    /// Of its undo.
    pub(super) undo_deadline: Duration,
}

/// A registered workflow: its step list, with the input's type erased.
pub struct Definition<S> {
    /// As stored with each run.
    pub name: &'static str,
    /// Of the step list.
    pub version: Version,
    /// Who goes first.
    pub priority: RunPriority,
    pub(super) nodes: Vec<Node<S>>,
    pub(super) lock_keys: LockKeys,
    pub(super) conclude: Option<Conclude<S>>,
    pub(super) residue: Option<Residue<S>>,
    /// What a run leaves that has succeeded.
    leaves: Leaves,
    /// How long a run may take, forward.
    pub(super) run_limit: Duration,
}

impl<S> Definition<S> {
    /// Names and titles of the steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = (&'static str, &'static str)> + '_ {
        self.nodes.iter().map(|n| (n.name, n.title))
    }

    /// Whether a run with this history can only go forward any more.
    pub fn past_point_of_no_return(&self, history: &super::history::History) -> bool {
        self.nodes
            .iter()
            .filter(|n| n.point_of_no_return)
            .any(|n| history.records_of(n.name).any(|(_, r)| r.may_have_happened()))
    }

    /// What a run that ended in this state was meant to leave in Azure (I5).
    pub fn leaves(&self, state: RunState) -> Leaves {
        match (self.leaves, state) {
            // It makes nothing: what carries its tag is somebody else's doing.
            (Leaves::Machine, _) if self.residue.is_none() => Leaves::Machine,
            (leaves, RunState::Succeeded) => leaves,
            // What was undone leaves nothing.
            _ => Leaves::Nothing,
        }
    }

    pub(super) fn node(&self, name: &str) -> Option<&Node<S>> {
        self.nodes.iter().find(|n| n.name == name)
    }
}

/// Gives the list that an `each` or `children` go over: key and payload of each item.
pub(super) type ListItems<S, I, T> = fn(&StepCx<S, I>) -> Result<Vec<(String, T)>, StepError>;

/// A workflow under construction.
pub struct Workflow<S, I> {
    definition: Definition<S>,
    input: std::marker::PhantomData<fn(I)>,
}

/// A step of a workflow, before its undo is stated.
pub struct StepBuilder<S, I> {
    workflow: Workflow<S, I>,
    node: Node<S>,
}

/// An `async fn(&StepCx<S, I>) -> Result<Done<O>, StepError>`.
pub trait StepFn<'a, S: 'a, I: 'a, O>: Send + Sync + 'static {
    /// What it returns when called.
    type Future: Future<Output = Result<Done<O>, StepError>> + Send + 'a;
    /// Calls it.
    fn call(&self, cx: &'a StepCx<S, I>) -> Self::Future;
}

impl<'a, S: 'a, I: 'a, O, F, Fut> StepFn<'a, S, I, O> for F
where
    F: Fn(&'a StepCx<S, I>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Done<O>, StepError>> + Send + 'a,
{
    type Future = Fut;
    fn call(&self, cx: &'a StepCx<S, I>) -> Fut {
        self(cx)
    }
}

/// An `async fn(&StepCx<S, I>, &T) -> Result<Done<O>, StepError>`: a step of an `each`.
pub trait EachFn<'a, S: 'a, I: 'a, T: 'a, O>: Send + Sync + 'static {
    /// What it returns when called.
    type Future: Future<Output = Result<Done<O>, StepError>> + Send + 'a;
    /// Calls it.
    fn call(&self, cx: &'a StepCx<S, I>, item: &'a T) -> Self::Future;
}

impl<'a, S: 'a, I: 'a, T: 'a, O, F, Fut> EachFn<'a, S, I, T, O> for F
where
    F: Fn(&'a StepCx<S, I>, &'a T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Done<O>, StepError>> + Send + 'a,
{
    type Future = Fut;
    fn call(&self, cx: &'a StepCx<S, I>, item: &'a T) -> Fut {
        self(cx, item)
    }
}

/// An `async fn(&StepCx<S, I>) -> Result<Vec<String>, StepError>`: what a listing still shows.
pub trait ResidueFn<'a, S: 'a, I: 'a>: Send + Sync + 'static {
    /// What it returns when called.
    type Future: Future<Output = Result<Vec<String>, StepError>> + Send + 'a;
    /// Calls it.
    fn call(&self, cx: &'a StepCx<S, I>) -> Self::Future;
}

impl<'a, S: 'a, I: 'a, F, Fut> ResidueFn<'a, S, I> for F
where
    F: Fn(&'a StepCx<S, I>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<String>, StepError>> + Send + 'a,
{
    type Future = Fut;
    fn call(&self, cx: &'a StepCx<S, I>) -> Fut {
        self(cx)
    }
}

/// A step's time limit unless it says otherwise.
const STEP_DEADLINE: Duration = Duration::from_secs(30 * 60);

/// A run's time limit unless its workflow says otherwise: far beyond what is normal, and short enough
/// that somebody hears of it while it matters. A first copy of a large disk takes days.
fn run_limit(priority: RunPriority) -> Duration {
    const HOUR: Duration = Duration::from_secs(3600);
    match priority {
        RunPriority::Backup => 6 * HOUR,
        RunPriority::Restore | RunPriority::Drill => 12 * HOUR,
        RunPriority::Verify | RunPriority::Housekeeping => 24 * HOUR,
        RunPriority::Replicate => 14 * 24 * HOUR,
    }
}

impl<S, I> Workflow<S, I>
where
    S: Send + Sync + 'static,
    I: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// An empty step list. `name` is stored with every run and never changes.
    pub fn new(name: &'static str, version: Version, priority: RunPriority) -> Self {
        Self {
            definition: Definition {
                name,
                version,
                priority,
                nodes: Vec::new(),
                lock_keys: Arc::new(|_| Ok(Vec::new())),
                conclude: None,
                residue: None,
                leaves: Leaves::Machine,
                run_limit: run_limit(priority),
            },
            input: std::marker::PhantomData,
        }
    }

    /// What a run locks before its first step and until its end. Taken all at once.
    pub fn lock_keys(mut self, keys: fn(&I) -> Vec<LockKey>) -> Self {
        self.definition.lock_keys = Arc::new(move |input| {
            let input: I = parse_input(input)?;
            Ok(keys(&input).into_iter().map(|k| k.0).collect())
        });
        self
    }

    /// How long a run may go forward in all, across restarts, not counting the queue. Then it turns
    /// back; past the point of no return it gets stuck. Default: 6 hours for backups, 12 for restores
    /// and drills, 14 days for copies, 24 hours for the rest.
    pub fn run_within(mut self, limit: Duration) -> Self {
        self.definition.run_limit = limit;
        self
    }

    /// One outside effect, at least once.
    pub fn step<O, F>(self, key: StepKey<O>, title: &'static str, f: F) -> StepBuilder<S, I>
    where
        O: Serialize + 'static,
        F: for<'a> StepFn<'a, S, I, O>,
    {
        let act = step_act::<S, I, O, F>(f);
        self.node(key.name, title, Kind::Step(act), false)
    }

    /// A step whose undo runs on success too: test resources, access grants.
    pub fn temporary<O, F>(self, key: StepKey<O>, title: &'static str, f: F) -> StepBuilder<S, I>
    where
        O: Serialize + 'static,
        F: for<'a> StepFn<'a, S, I, O>,
    {
        let act = step_act::<S, I, O, F>(f);
        self.node(key.name, title, Kind::Step(act), true)
    }

    /// The same step over a list: `items` gives each item a key (journalled; unique and stable) and
    /// is asked once, then the list is journalled. At most `parallel` at a time.
    pub fn each<T, O, F>(
        self,
        key: StepKey<O>,
        title: &'static str,
        parallel: usize,
        items: ListItems<S, I, T>,
        f: F,
    ) -> StepBuilder<S, I>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        O: Serialize + 'static,
        F: for<'a> EachFn<'a, S, I, T, O>,
    {
        self.each_at_once(key, title, Arc::new(move |_| Ok(parallel)), items, f)
    }

    /// The same; how many at a time is read from the input (at least one).
    pub fn each_as_told<T, O, F>(
        self,
        key: StepKey<O>,
        title: &'static str,
        parallel: fn(&I) -> usize,
        items: ListItems<S, I, T>,
        f: F,
    ) -> StepBuilder<S, I>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        O: Serialize + 'static,
        F: for<'a> EachFn<'a, S, I, T, O>,
    {
        let parallel: Parallel = Arc::new(move |input| Ok(parallel(&parse_input(input)?)));
        self.each_at_once(key, title, parallel, items, f)
    }

    fn each_at_once<T, O, F>(
        self,
        key: StepKey<O>,
        title: &'static str,
        parallel: Parallel,
        items: ListItems<S, I, T>,
        f: F,
    ) -> StepBuilder<S, I>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        O: Serialize + 'static,
        F: for<'a> EachFn<'a, S, I, T, O>,
    {
        let act = each_act::<S, I, T, O, F>(f);
        let items: Items<S> = Arc::new(move |raw| {
            let list = items(&typed(raw)?)?;
            Ok(list.into_iter().map(|(k, t)| (k, to_document(&t))).collect())
        });
        self.node(key.name, title, Kind::Each { items, act, parallel }, false)
    }

    /// A critical section that is never resumed: done whole, or (after a crash too) undone and tried
    /// again whole under a new operation id, at most `attempts` times in all.
    pub fn hold<O, F>(
        self,
        key: StepKey<O>,
        title: &'static str,
        attempts: u32,
        f: F,
    ) -> StepBuilder<S, I>
    where
        O: Serialize + 'static,
        F: for<'a> StepFn<'a, S, I, O>,
    {
        let act = step_act::<S, I, O, F>(f);
        self.node(key.name, title, Kind::Hold { act, attempts }, false)
    }

    /// Starts another run and waits for it. Its result is this step's output; when it does not
    /// succeed, this step fails. Turning back cancels it and waits for its end.
    pub fn child(
        self,
        key: StepKey<Value>,
        title: &'static str,
        make: fn(&StepCx<S, I>) -> Result<NewRun, StepError>,
    ) -> Self {
        let make: MakeChild<S> = Arc::new(move |raw| make(&typed(raw)?));
        self.starts_runs(key.name, title, Kind::Child(make))
    }

    /// Starts a run for each item of a list and waits for all of them, at most as many at a time as
    /// `parallel` reads from the input (at least one).
    /// `make` gives each a key (unique and stable) and is asked once, then the list is journalled.
    /// One that fails leaves the others alone; this step fails when all are over and any did not
    /// succeed. Turning back cancels those that are not over and starts no more. How each ended:
    /// [`StepCx::child_ends`]. A child that is stuck gives its place to the next; when only stuck ones
    /// are left, this run is stuck until they are over. It must not hold a lock that a child needs.
    pub fn children(
        self,
        key: StepKey<ChildEnd>,
        title: &'static str,
        parallel: fn(&I) -> usize,
        make: ListItems<S, I, NewRun>,
    ) -> Self {
        let make: MakeChildren<S> = Arc::new(move |raw| make(&typed(raw)?));
        let parallel: Parallel = Arc::new(move |input| Ok(parallel(&parse_input(input)?)));
        self.starts_runs(key.name, title, Kind::Children { make, parallel })
    }

    fn starts_runs(mut self, name: &'static str, title: &'static str, kind: Kind<S>) -> Self {
        self.definition.nodes.push(Node {
            name,
            title,
            kind,
            undo: None,
            temporary: false,
            point_of_no_return: false,
            deadline: Duration::MAX,
            undo_deadline: Duration::MAX,
        });
        self
    }

    /// What it leaves, when it has succeeded (undone it leaves nothing), and how that is looked up. `f`
    /// is asked at the end, after undo or clean-up: which resources of this run does a *listing* still
    /// show that should be gone (I5)? While there are any the run does not end.
    pub fn residue<F: for<'a> ResidueFn<'a, S, I>>(
        mut self,
        leaves: Leaves,
        f: F,
    ) -> Accountable<S, I> {
        let f = Arc::new(f);
        self.definition.leaves = leaves;
        self.definition.residue = Some(Arc::new(move |raw| {
            let f = f.clone();
            Box::pin(async move { f.call(&typed::<S, I>(raw)?).await })
        }));
        Accountable(self)
    }

    /// It makes nothing that carries its tag, so there is nothing to look up; `reason` is for the
    /// reader.
    pub fn makes_nothing(self, reason: &'static str) -> Accountable<S, I> {
        debug_assert!(!reason.is_empty());
        Accountable(self)
    }

    fn node(
        self,
        name: &'static str,
        title: &'static str,
        kind: Kind<S>,
        temporary: bool,
    ) -> StepBuilder<S, I> {
        let node = Node {
            name,
            title,
            kind,
            undo: None,
            temporary,
            point_of_no_return: false,
            deadline: STEP_DEADLINE,
            undo_deadline: STEP_DEADLINE,
        };
        StepBuilder { workflow: self, node }
    }
}

/// A workflow that has said what it leaves: without that there is no building it.
pub struct Accountable<S, I>(Workflow<S, I>);

impl<S, I> Accountable<S, I>
where
    S: Send + Sync + 'static,
    I: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// Pure: what is written together with the terminal state, however the run ended.
    pub fn conclude(
        mut self,
        f: fn(&StepCx<S, I>, &Outcome) -> Result<Concluded, StepError>,
    ) -> Self {
        self.0.definition.conclude = Some(Arc::new(move |raw, outcome| f(&typed(raw)?, outcome)));
        self
    }

    /// The finished step list.
    ///
    /// # Panics
    /// When two steps have one name.
    pub fn build(self) -> Definition<S> {
        let definition = self.0.definition;
        let mut names: Vec<_> = definition.nodes.iter().map(|n| n.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), definition.nodes.len(), "step names are unique");
        definition
    }
}

impl<S, I> StepBuilder<S, I>
where
    S: Send + Sync + 'static,
    I: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// The items of this `each` are temporary: their undo runs on success too.
    pub fn temporary_items(mut self) -> Self {
        self.node.temporary = true;
        self
    }

    /// Retries and waits of this step, and those of its undo, end after this long.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.node.deadline = deadline;
        self.node.undo_deadline = deadline;
        self
    }

    /// The same of a step that works for long, and whose undo takes no longer than others.
    pub fn works_within(mut self, deadline: Duration) -> Self {
        self.node.deadline = deadline;
        self
    }

    /// From the start of this step on the run goes forward, or gets stuck; it does not turn back.
    pub fn point_of_no_return(mut self) -> Self {
        self.node.point_of_no_return = true;
        self
    }

    /// Its undo. Runs whenever the step has *started*: it finds its target from the input and
    /// earlier outputs, deletes only what carries this run's tag, and tolerates that nothing
    /// happened.
    pub fn undo<F: for<'a> StepFn<'a, S, I, ()>>(mut self, f: F) -> Workflow<S, I> {
        self.node.undo = Some(step_act::<S, I, (), F>(f));
        self.finish()
    }

    /// The undo of one item of an `each`.
    pub fn undo_each<T, F>(mut self, f: F) -> Workflow<S, I>
    where
        T: Serialize + DeserializeOwned + Send + Sync + 'static,
        F: for<'a> EachFn<'a, S, I, T, ()>,
    {
        self.node.undo = Some(each_act::<S, I, T, (), F>(f));
        self.finish()
    }

    /// It needs none; `reason` is for the reader.
    pub fn no_undo(self, reason: &'static str) -> Workflow<S, I> {
        debug_assert!(!reason.is_empty());
        self.finish()
    }

    fn finish(mut self) -> Workflow<S, I> {
        self.workflow.definition.nodes.push(self.node);
        self.workflow
    }
}

fn typed<S, I: DeserializeOwned>(raw: RawCx<S>) -> Result<StepCx<S, I>, StepError> {
    Ok(StepCx { input: parse_input(&raw.run.input)?, raw })
}

fn parse_input<I: DeserializeOwned>(input: &Value) -> Result<I, StepError> {
    I::deserialize(input)
        .map_err(|e| StepError::fail("internal", format!("the run's input cannot be read: {e}")))
}

fn step_act<S, I, O, F>(f: F) -> Act<S>
where
    S: Send + Sync + 'static,
    I: DeserializeOwned + Send + Sync + 'static,
    O: Serialize + 'static,
    F: for<'a> StepFn<'a, S, I, O>,
{
    let f = Arc::new(f);
    Arc::new(move |raw, _| {
        let f = f.clone();
        Box::pin(async move {
            let cx = typed::<S, I>(raw)?;
            let done = f.call(&cx).await?;
            Ok(RawDone { output: to_document(&done.output), changes: done.changes })
        })
    })
}

fn each_act<S, I, T, O, F>(f: F) -> Act<S>
where
    S: Send + Sync + 'static,
    I: DeserializeOwned + Send + Sync + 'static,
    T: DeserializeOwned + Send + Sync + 'static,
    O: Serialize + 'static,
    F: for<'a> EachFn<'a, S, I, T, O>,
{
    let f = Arc::new(f);
    Arc::new(move |raw, item| {
        let f = f.clone();
        Box::pin(async move {
            let cx = typed::<S, I>(raw)?;
            let item: T = parse_input(&item)?;
            let done = f.call(&cx, &item).await?;
            Ok(RawDone { output: to_document(&done.output), changes: done.changes })
        })
    })
}
