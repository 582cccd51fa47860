//! The states of threads at their heads: read once, then kept.
//!
//! Invariant: an entry is used only under the checkpoint id that the store names as the head.

use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::record;
use super::step::Frontier;
use crate::id::{CheckpointId, Owner, RunId, ThreadId};
use crate::state::State;
use crate::store::{Checkpoint, Store, StoreError};

/// A state and what belongs to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    /// The checkpoint; absent for a thread without one.
    pub(super) checkpoint: Option<CheckpointId>,
    /// The run that made it.
    pub(super) run: Option<RunId>,
    /// The state at it.
    pub(super) state: State,
    /// The superstep of its run.
    pub(super) step: u64,
    /// What runs next from it.
    pub(super) frontier: Frontier,
    /// Bytes of the newest snapshot on the line.
    pub(super) snapshot_bytes: usize,
    /// Bytes of the deltas since.
    pub(super) delta_bytes: usize,
    /// Checkpoints since.
    pub(super) deltas: usize,
}

impl Head {
    /// About what the state takes in memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.snapshot_bytes + self.delta_bytes
    }
}

/// The heads of the threads that were used last, up to a number of bytes.
#[derive(Debug)]
pub(super) struct Heads {
    kept: Mutex<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    heads: LruCache<ThreadId, Head>,
    bytes: usize,
}

impl Kept {
    fn pop(&mut self, thread: ThreadId) -> Option<Head> {
        let head = self.heads.pop(&thread)?;
        self.bytes -= head.size();
        Some(head)
    }
}

impl Heads {
    /// Makes room for so many threads, and for so many bytes.
    pub(super) fn new(capacity: NonZeroUsize, bytes: usize) -> Self {
        Self { kept: Mutex::new(Kept { heads: LruCache::new(capacity), bytes: 0 }), bytes }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a head out, so that its owner holds the only reference to it and appends in place.
    pub(super) fn take(&self, thread: ThreadId, checkpoint: CheckpointId) -> Option<Head> {
        let head = self.lock().pop(thread)?;
        (head.checkpoint == Some(checkpoint)).then_some(head)
    }

    /// Forgets the head of a deleted thread.
    pub(super) fn forget(&self, thread: ThreadId) {
        self.lock().pop(thread);
    }

    /// Forgets all heads that nobody works on.
    pub(super) fn clear(&self) {
        let mut kept = self.lock();
        kept.heads.clear();
        kept.bytes = 0;
    }

    /// Puts a head back.
    pub(super) fn put(&self, thread: ThreadId, head: Head) {
        let mut kept = self.lock();
        kept.pop(thread);
        kept.bytes += head.size();
        if let Some((_, oldest)) = kept.heads.push(thread, head) {
            kept.bytes -= oldest.size();
        }
        while kept.bytes > self.bytes
            && let Some((_, oldest)) = kept.heads.pop_lru()
        {
            kept.bytes -= oldest.size();
        }
    }
}

/// Reads the state at a checkpoint from the store; nothing when the thread has no such checkpoint.
pub(super) async fn load(
    store: &dyn Store,
    owner: &Owner,
    thread: ThreadId,
    checkpoint: CheckpointId,
) -> Result<Option<(Head, Checkpoint)>, StoreError> {
    let chain = store.chain(owner, thread, checkpoint).await?;
    let Some(last) = chain.last().cloned() else { return Ok(None) };
    let mut head = Head { checkpoint: Some(checkpoint), ..Head::default() };
    for row in &chain {
        if let Some(snapshot) = &row.snapshot {
            head.state = State::decode(snapshot)
                .map_err(|e| StoreError::Corrupt { what: "snapshot", why: e.to_string() })?;
            (head.snapshot_bytes, head.delta_bytes, head.deltas) = (snapshot.len(), 0, 0);
        } else {
            head.state.apply(&record::decode_delta(&row.delta)?);
            head.delta_bytes += row.delta.len();
            head.deltas += 1;
        }
    }
    (head.step, head.run) = (last.step, last.run);
    head.frontier = record::decode_frontier(&last.frontier)?;
    Ok(Some((head, last)))
}
