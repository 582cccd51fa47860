//! Reads all that a store has of the runs of a thread: for an operator, never for a request.
//!
//! Invariant: nothing is made up. What was tidied away is not there.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::follow::{PAGE, decode};
use super::heads;
use super::record::{self, Input, decode_delta, decode_frontier};
use super::step::{Frontier, Replies, Worked};
use crate::event::Event;
use crate::id::{CheckpointId, Owner, RunId, Seq, TaskId, ThreadKey};
use crate::state::State;
use crate::store::{Checkpoint, Run, RunFilter, Store, StoreError, Thread};

/// How many runs or checkpoints are read at once.
const ROWS: u32 = 200;

/// A run, with all that is stored of it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its row.
    pub run: Run,
    /// What it was started with.
    pub input: Input,
    /// What it told, as far as it is kept.
    pub events: Vec<Event>,
    /// Its checkpoints on the line that the thread stands on, oldest first.
    pub points: Vec<Point>,
    /// What people said to its questions.
    pub replies: Replies,
    /// What tasks came to in a superstep that failed.
    pub done: BTreeMap<TaskId, Worked>,
}

/// A checkpoint with its state.
#[derive(Debug, Clone)]
pub struct Point {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The one before it.
    pub parent: Option<CheckpointId>,
    /// The superstep of its run; 0 is the input.
    pub step: u64,
    /// How it came about.
    pub source: String,
    /// The whole state, private channels included.
    pub state: State,
    /// What runs next.
    pub frontier: Frontier,
    /// When it was made.
    pub at: DateTime<Utc>,
}

/// The runs of a thread.
#[derive(Debug, Default)]
pub struct StoredRuns {
    /// Those that can be read, in the order in which they changed the thread.
    pub runs: Vec<Stored>,
    /// Those of which something is damaged, and what.
    pub damaged: Vec<(RunId, StoreError)>,
}

/// Reads the newest runs of a thread that are `wanted`; those that left nothing in it are not among them. Nothing when there
/// is no such thread.
pub async fn stored(
    store: &dyn Store,
    key: &ThreadKey,
    wanted: impl Fn(&Run) -> bool,
    most: usize,
) -> Result<Option<StoredRuns>, StoreError> {
    let Some(thread) = store.thread(key).await? else { return Ok(None) };
    let mut rows: Vec<Run> = Vec::new();
    let mut before = None;
    while rows.len() < most {
        let states = Vec::new();
        let tenant = Some(key.owner.tenant.clone());
        let filter = RunFilter { states, tenant, before, thread: Some(thread.thread) };
        let found = store.runs(&filter, ROWS).await?;
        let Some(last) = found.last() else { break };
        before = Some(last.run);
        rows.extend(found.into_iter().filter(&wanted).take(most - rows.len()));
    }
    let mut rows: BTreeMap<RunId, Run> = rows.into_iter().map(|row| (row.run, row)).collect();
    let mut told = StoredRuns::default();
    for (run, points) in points(store, &key.owner, &thread, rows.keys().copied().collect()).await? {
        if let Some(row) = rows.remove(&run) {
            match read(store, row, points).await {
                Ok(run) => told.runs.push(run),
                Err(error @ StoreError::Corrupt { .. }) => told.damaged.push((run, error)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(Some(told))
}

async fn read(store: &dyn Store, run: Run, points: Vec<Point>) -> Result<Stored, StoreError> {
    let owner = &run.key.owner;
    // Of one that cannot be read a list has nothing, and the run itself says why.
    if run.input.is_empty() {
        store.run(owner, run.run).await?;
    }
    let input: Input = record::decode("run", &run.input)?;
    let (mut events, mut after) = (Vec::new(), Seq::default());
    loop {
        let batches = store.events(owner, run.run, after, PAGE).await?;
        if batches.is_empty() {
            break;
        }
        for batch in &batches {
            events.extend(decode(batch)?.into_iter().filter(|event| event.seq > after));
            after = after.max(Seq { fence: batch.fence, n: batch.last });
        }
    }
    let mut replies = Replies::new();
    for (id, bytes) in store.given(owner, run.run).await? {
        replies.insert(id, record::decode("answer", &bytes)?);
    }
    let mut done = BTreeMap::new();
    let next = points.last().map_or(1, |point| point.step + 1);
    for (task, bytes) in store.pending(owner, run.run, next).await? {
        // Besides results there are marks of calls that were begun.
        if let Ok(worked) = record::decode::<Worked>("pending", &bytes) {
            let task = task.0.split('@').next().unwrap_or(&task.0).into();
            done.insert(TaskId(task), worked);
        }
    }
    Ok(Stored { run, input, events, points, replies, done })
}

/// Reads the checkpoints of a thread from its head back until all of these runs have begun, in order, by run.
async fn points(
    store: &dyn Store,
    owner: &Owner,
    thread: &Thread,
    mut runs: BTreeSet<RunId>,
) -> Result<Vec<(RunId, Vec<Point>)>, StoreError> {
    let mut rows: Vec<Checkpoint> = Vec::new();
    let mut before = None;
    while !runs.is_empty() {
        let found = store.history(owner, thread.thread, before, ROWS).await?;
        let Some(last) = found.last() else { break };
        before = Some(last.checkpoint);
        for row in &found {
            if let (Some(run), 0) = (row.run, row.step) {
                runs.remove(&run);
            }
        }
        rows.extend(found);
    }
    rows.reverse();
    let mut by_run: Vec<(RunId, Vec<Point>)> = Vec::new();
    let mut state: Option<State> = None;
    for row in rows {
        let next = match state.take() {
            Some(mut state) => {
                state.apply(&decode_delta(&row.delta)?);
                state
            }
            None => match heads::load(store, owner, thread.thread, row.checkpoint).await? {
                Some((head, _)) => head.state,
                // It was tidied away in the meantime.
                None => continue,
            },
        };
        state = Some(next.clone());
        let Some(run) = row.run else { continue };
        let point = Point {
            checkpoint: row.checkpoint,
            parent: row.parent,
            step: row.step,
            source: row.source,
            state: next,
            frontier: decode_frontier(&row.frontier)?,
            at: row.created_at,
        };
        match by_run.last_mut() {
            Some((last, points)) if *last == run => points.push(point),
            _ => by_run.push((run, vec![point])),
        }
    }
    Ok(by_run)
}
