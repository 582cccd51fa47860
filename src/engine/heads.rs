//! The states of threads at their heads: read once, then kept.
//!
//! Invariant: an entry is used only under the checkpoint id that the store names as the head.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use super::record;
use super::step::Frontier;
use crate::id::{CheckpointId, Owner, ThreadId};
use crate::state::State;
use crate::store::{Checkpoint, Store, StoreError};

/// A state and what belongs to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Head {
    /// The checkpoint; absent for a thread without one.
    pub(super) checkpoint: Option<CheckpointId>,
    /// The state at it.
    pub(super) state: State,
    /// What runs next from it.
    pub(super) frontier: Frontier,
    /// Bytes of the newest snapshot on the line.
    pub(super) snapshot_bytes: usize,
    /// Bytes of the deltas since.
    pub(super) delta_bytes: usize,
    /// Checkpoints since.
    pub(super) deltas: usize,
}

/// The heads of the threads that were used last.
#[derive(Debug)]
pub(super) struct Heads(Mutex<LruCache<ThreadId, Head>>);

impl Heads {
    /// Makes room for so many threads.
    pub(super) fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(capacity)))
    }

    /// Takes a head out, so that its owner holds the only reference to it and appends in place.
    pub(super) fn take(&self, thread: ThreadId, checkpoint: CheckpointId) -> Option<Head> {
        let head = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(&thread)?;
        (head.checkpoint == Some(checkpoint)).then_some(head)
    }

    /// Forgets the head of a deleted thread.
    pub(super) fn forget(&self, thread: ThreadId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(&thread);
    }

    /// Puts a head back.
    pub(super) fn put(&self, thread: ThreadId, head: Head) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(thread, head);
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
    head.frontier = record::decode_frontier(&last.frontier)?;
    Ok(Some((head, last)))
}
