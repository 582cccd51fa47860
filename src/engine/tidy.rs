//! Forgets what is older than it is kept.
//!
//! Invariant: it works in small steps, and what it does twice, here or in another process, changes nothing.

use std::sync::Arc;
use std::time::Duration;

use tracing::warn;

use super::follow::{PAGE, decode};
use super::recover::rest;
use super::{Shared, reload};
use crate::event::{self, Body, Event};
use crate::id::Seq;
use crate::store::{EventBatch, Kept, Run, StoreError};

/// How many runs, threads or results are looked at in one step.
const STEP: u32 = 50;

/// How long it is kept that a webhook was told.
const TOLD: Duration = Duration::from_hours(24);
/// How long that it was given up: for an operator to see, and to try again.
const GIVEN_UP: Duration = Duration::from_hours(30 * 24);

/// Looks now and then for what is over for long enough.
pub(super) async fn tidy(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    while rest(&mut closed, shared.settings.tidy).await {
        let mut more = true;
        while more && !*closed.borrow() {
            more = step(&shared).await.unwrap_or_else(|error| {
                warn!(%error, "What is over cannot be tidied up.");
                false
            });
        }
    }
}

/// Does one step; true when there is more to do.
async fn step(shared: &Shared) -> Result<bool, StoreError> {
    let store = &*shared.store;
    let retention = reload::retention(shared);
    let with_pieces = store.overdue(Kept::All, shared.settings.pieces, STEP).await?;
    let mut done = 0;
    for run in &with_pieces {
        match lean(shared, run).await {
            Ok(lean) => {
                store.keep_events(run, Kept::Lean, lean).await?;
                done += 1;
            }
            // One that is broken, or sealed under a key that is not here, must not keep the others.
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Config(_))) => {
                warn!(run = %run.run, %error, "The events of a run stay as they are.");
            }
            Err(error) => return Err(error),
        }
    }
    // What is broken comes again with the next look, and not at once.
    let mut more = with_pieces.len() == STEP as usize && done > 0;
    if let Some(age) = retention.events {
        let old = store.overdue(Kept::Lean, age, STEP).await?;
        for run in &old {
            store.keep_events(run, Kept::Nothing, Vec::new()).await?;
        }
        more |= old.len() == STEP as usize;
    }
    if let Some(age) = retention.checkpoints {
        // So many runs may be of one thread.
        more |= store.forget_checkpoints(age, STEP).await? > 0;
    }
    if let Some(age) = retention.audit {
        more |= store.forget_audit(age, STEP).await? == u64::from(STEP);
    }
    more |= store.forget_cached(STEP).await? == u64::from(STEP);
    more |= store.forget_hooks(TOLD, GIVEN_UP, STEP).await? == u64::from(STEP);
    Ok(more)
}

/// Returns the events of a run without the pieces of messages. Places stay, so that a client goes on from any of them.
async fn lean(shared: &Shared, run: &Run) -> Result<Vec<EventBatch>, StoreError> {
    let (mut after, mut lean) = (Seq::default(), Vec::new());
    loop {
        let batches = shared.store.events(&run.key.owner, run.run, after, PAGE).await?;
        let Some(last) = batches.last() else { return Ok(lean) };
        after = Seq { fence: last.fence, n: last.last };
        for batch in batches {
            let whole = |event: &Event| {
                !matches!(
                    event.body,
                    Body::MessageDelta { .. } | Body::ReasoningDelta { .. } | Body::ToolArgsDelta { .. }
                )
            };
            match decode(&batch) {
                Ok(mut events) => {
                    events.retain(whole);
                    if !events.is_empty() {
                        lean.push(EventBatch { data: event::encode(&events), ..batch });
                    }
                }
                // What this build cannot read is left as it is.
                Err(error) => {
                    warn!(run = %run.run, %error, "Events of a run stay as they are.");
                    lean.push(batch);
                }
            }
        }
    }
}
