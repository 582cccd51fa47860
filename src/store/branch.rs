//! Runs that begin from outside: on a thread whose state was changed, or on a new thread that goes on from another.
//!
//! Invariant: nothing of it is stored but all of it, and never beside a run that works or waits for its turn.

use super::{Checkpoint, EventBatch, Idempotency, Keyed, Question, Run, RunState};
use crate::id::{CheckpointId, RunId, ThreadId, ThreadKey};

/// A run that begins from outside, with the checkpoint that it goes on from.
#[derive(Debug, Clone)]
pub struct Branch {
    /// What it is a branch of.
    pub origin: Origin,
    /// The run.
    pub run: RunId,
    /// Its thread.
    pub key: ThreadKey,
    /// The row of that thread, also of one that is made for it.
    pub thread: ThreadId,
    /// The graph's id.
    pub graph: String,
    /// The hash of the plan.
    pub hash: String,
    /// What it starts with.
    pub input: Vec<u8>,
    /// What it goes on from; becomes the head of the thread.
    pub checkpoint: Checkpoint,
    /// The questions that are open there.
    pub questions: Vec<Question>,
    /// What is told of it so far, under fence 1.
    pub events: EventBatch,
    /// `Interrupted` until it goes on, or `Completed` when nothing is left to do.
    pub state: RunState,
    /// How it ended, when it did.
    pub result: Option<Vec<u8>>,
    /// It goes on when it is resumed or answered, and not because the time of a question is over.
    pub stopped: bool,
    /// Makes a repeated request find the run of the first.
    pub idempotency: Option<Idempotency>,
}

/// What a run from outside is a branch of.
#[derive(Debug, Clone)]
pub enum Origin {
    /// Its own thread, which stands there. A run that waits on it is ended.
    Head {
        /// The head of the thread.
        head: Option<CheckpointId>,
        /// How the run that waits ended.
        result: Vec<u8>,
        /// The end of its stream.
        events: EventBatch,
    },
    /// Another thread of the same owner, which must be there; that of the run must not.
    Thread(ThreadId),
}

/// What became of a run from outside. Nothing was stored, unless it was done.
#[derive(Debug, Clone, PartialEq)]
pub enum Branched {
    /// All of it is stored.
    Done(Box<Run>),
    /// The idempotency key was used before.
    Known(Keyed),
    /// A run of the thread works, or waits for its turn.
    Busy(RunId),
    /// The head of the thread is another one.
    Moved,
    /// The thread that it is a branch of is not there.
    Gone,
    /// The thread that it would make is there.
    Exists,
}
