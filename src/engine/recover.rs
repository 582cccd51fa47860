//! The background work of an engine: claims, leases and the storing of deltas.
//!
//! Invariant: safety rests on the fence alone; time only decides how soon a run is taken over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Shared, Stop};

/// How often deltas are stored.
const FLUSH: Duration = Duration::from_millis(100);

/// Starts the background work.
pub(super) fn start(shared: &Arc<Shared>) {
    for work in [Work::Claim, Work::Heartbeat, Work::Flush] {
        let shared = shared.clone();
        shared.tracker.clone().spawn(async move {
            let mut closed = shared.closed.subscribe();
            tokio::select! {
                () = work.run(&shared) => {}
                _ = closed.wait_for(|closed| *closed) => {}
            }
            if matches!(work, Work::Flush) {
                // What was sent before the end is worth a last batch.
                flush(&shared).await;
            }
        });
    }
}

#[derive(Debug, Clone, Copy)]
enum Work {
    Claim,
    Heartbeat,
    Flush,
}

impl Work {
    async fn run(self, shared: &Arc<Shared>) {
        match self {
            Self::Claim => claim(shared).await,
            Self::Heartbeat => heartbeat(shared).await,
            Self::Flush => loop {
                tokio::time::sleep(FLUSH).await;
                flush(shared).await;
            },
        }
    }
}

async fn claim(shared: &Arc<Shared>) {
    loop {
        let room = shared.settings.runs.saturating_sub(shared.lives().len());
        let limit = shared.settings.claims.min(u32::try_from(room).unwrap_or(u32::MAX));
        let claims =
            if limit == 0 { Ok(Vec::new()) } else { shared.store.claim(&shared.process, limit).await };
        match claims {
            Ok(claims) => {
                let again = !claims.is_empty();
                for claim in claims {
                    if claim.crashed {
                        info!(run = %claim.run.run, fence = claim.run.fence, "Run taken over from a dead process.");
                        metrics::counter!("graphloom_lease_steals_total").increment(1);
                    }
                    shared.launch(claim, true);
                }
                if again {
                    continue;
                }
            }
            Err(error) => warn!(%error, "The queue cannot be read."),
        }
        // Replicas that started together should not look together.
        let wait = shared.settings.poll.mul_f64(0.75 + fastrand::f64() / 2.0);
        tokio::select! {
            () = shared.queue.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn heartbeat(shared: &Arc<Shared>) {
    let lease = shared.process.lease;
    let mut good = Instant::now();
    loop {
        tokio::time::sleep(lease / 3).await;
        let begun = Instant::now();
        let mut live: Vec<_> = shared.lives().keys().copied().collect();
        live.sort_unstable();
        match shared.store.heartbeat(&shared.process, &live).await {
            Ok(cancelled) => {
                good = begun;
                for run in cancelled {
                    if let Some(live) = shared.live(run) {
                        live.ask(Stop::Cancel);
                    }
                }
            }
            Err(error) => warn!(%error, "The leases cannot be renewed."),
        }
        // Somebody else may own the runs by now: working on would only cost.
        if good.elapsed() > lease * 2 / 3 {
            let lives: Vec<_> = shared.lives().values().cloned().collect();
            for live in lives {
                warn!(run = %live.run, "Run left: its lease could not be renewed.");
                live.ask(Stop::Lost);
            }
        }
    }
}

async fn flush(shared: &Arc<Shared>) {
    let mut lives: Vec<_> = shared.lives().values().cloned().collect();
    lives.sort_by_key(|live| live.run);
    let mut journals = Vec::new();
    let mut batches = Vec::new();
    for live in lives {
        if let Some(batch) = live.journal.unstored() {
            journals.push((live.journal.clone(), batch.last));
            batches.push((live.key.owner.clone(), live.run, batch));
        }
    }
    if batches.is_empty() {
        return;
    }
    match shared.store.append_events(batches).await {
        Ok(()) => journals.iter().for_each(|(journal, last)| journal.stored(*last)),
        Err(error) => warn!(%error, "Deltas could not be stored; the next batch has them."),
    }
}
