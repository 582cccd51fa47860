//! Who reads runs here, and the end of those that nobody reads anywhere.
//!
//! Invariant: a run ends for want of readers only after nobody was seen to read it for the grace, by the clock of the store.
//! That a reader is here is said again and again, so one that dies with its process is none.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::recover::rest;
use super::{Engine, Shared};
use crate::id::{Part, RunId};
use crate::store::{Actor, Run, StoreError};

/// How many runs are ended in one step.
const STEP: u32 = 50;

/// How many read each run that needs a reader.
pub(super) type Readers = HashMap<(Part, RunId), usize>;

/// A reader of a run, for as long as it lives.
pub(super) struct Reader {
    shared: Arc<Shared>,
    of: (Part, RunId),
}

impl Reader {
    /// Counts a reader of a run that needs one.
    pub(super) fn of(shared: &Arc<Shared>, run: &Run) -> Option<Self> {
        let of = (run.key.owner.tenant.clone(), run.run);
        run.needs_reader.then(|| {
            *shared.readers().entry(of.clone()).or_default() += 1;
            Self { shared: shared.clone(), of }
        })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut readers = self.shared.readers();
        if let Some(count) = readers.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&self.of);
            }
        }
    }
}

/// How often it is said who reads, and looked for what nobody reads.
fn beat(grace: Duration) -> Duration {
    (grace / 5).min(Duration::from_secs(2))
}

/// How long a run counts as read after it was said. The reader may have gone right before the next word, which may be late.
pub(super) fn hold(grace: Duration) -> Duration {
    grace + beat(grace) * 2
}

impl Shared {
    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says who reads here, as long as a run is driven, and ends the runs that nobody reads anywhere. Not at once after the
/// start, nor after an outage of the store: whoever read before is given the time to come back, and to say so.
pub(super) async fn watch(shared: Arc<Shared>) {
    let grace = shared.settings.unread;
    let (pause, mut since) = (beat(grace), Instant::now());
    let mut done = shared.done.subscribe();
    while rest(&mut done, pause).await {
        let mut read: Vec<_> = shared.readers().keys().cloned().collect();
        read.sort_unstable();
        let noted = if read.is_empty() { Ok(()) } else { shared.store.read_on(&read, hold(grace)).await };
        let looked = match noted {
            Ok(()) if since.elapsed() > hold(grace) => end_unread(&shared).await,
            noted => noted,
        };
        if let Err(error) = looked {
            warn!(%error, "It cannot be noted which runs are read.");
            // While the store was away nobody could say that he reads.
            since = Instant::now();
        }
    }
}

async fn end_unread(shared: &Arc<Shared>) -> Result<(), StoreError> {
    let engine = Engine { shared: shared.clone() };
    for run in shared.store.unread(STEP).await? {
        match engine.end(&run.key.owner, run.run, Actor::Service, false).await {
            Ok(_) => info!(run = %run.run, "Run cancelled: nobody reads it."),
            // One that is broken, or sealed under a key that is not here, must not keep the others.
            Err(error @ (StoreError::Corrupt { .. } | StoreError::Config(_))) => {
                warn!(run = %run.run, %error, "Nobody reads a run, and it cannot be cancelled.");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
