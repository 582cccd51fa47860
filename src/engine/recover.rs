//! The background work of an engine: claims and the storing of deltas.
//!
//! Invariant: safety rests on the fence alone; time only decides how soon a run is taken over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{Span, info, warn};

use super::Shared;
use super::memory::Strain;

/// How often deltas are stored.
const FLUSH: Duration = Duration::from_millis(100);
/// The same while the database is away.
const FLUSH_AWAY: Duration = Duration::from_secs(2);

/// Starts the background work. Each ends by itself when the engine is closed, and never in the middle of a round: a
/// claim that nobody drives would look like a crash. Deltas are stored as long as a run is driven.
pub(super) fn start(shared: &Arc<Shared>) {
    let tracker = &shared.tracker;
    tracker.spawn(claim(shared.clone()));
    tracker.spawn(store_deltas(shared.clone()));
    tracker.spawn(super::readers::watch(shared.clone()));
    tracker.spawn(super::memory::watch(shared.clone()));
    if !shared.settings.webhook_keys.is_empty() {
        tracker.spawn(super::hook::tell(shared.clone()));
    }
    tracker.spawn(super::tail::watch(shared.clone()));
    // Who works on nothing of others tidies nothing up either.
    if shared.settings.claims > 0 {
        tracker.spawn(super::tidy::tidy(shared.clone()));
    }
}

/// Waits between two rounds; false when the engine was closed.
pub(super) async fn rest(closed: &mut watch::Receiver<bool>, time: Duration) -> bool {
    // The sender lives as long as what it closes.
    tokio::time::timeout(time, closed.wait_for(|closed| *closed)).await.is_err()
}

async fn claim(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    while !*closed.borrow() {
        if shared.leaving.load(Ordering::Relaxed) {
            // Woken by the end alone.
            rest(&mut closed, Duration::MAX).await;
            return;
        }
        let room = shared.settings.runs.saturating_sub(shared.lives().len());
        let limit = match shared.memory.strain() {
            Strain::None => shared.settings.claims.min(u32::try_from(room).unwrap_or(u32::MAX)),
            _ => 0,
        };
        let asked = Instant::now();
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
                    if claim.run.crashes > u32::from(claim.crashed) {
                        info!(run = %claim.run.run, crashes = claim.run.crashes, "Run taken alone: its process died before.");
                        metrics::counter!("graphloom_quarantined_total").increment(1);
                    }
                    shared.launch(claim, None, asked, Span::none());
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
            _ = rest(&mut closed, wait) => {}
        }
    }
}

async fn store_deltas(shared: Arc<Shared>) {
    let mut done = shared.done.subscribe();
    let mut wait = FLUSH;
    while rest(&mut done, wait).await {
        // All that was sent meanwhile is encoded again each time: a database that is away is not asked so often.
        wait = if flush(&shared).await { FLUSH } else { (wait * 2).min(FLUSH_AWAY) };
    }
    // What was sent before the end is worth a last batch.
    flush(&shared).await;
}

/// Stores what was sent and is not stored; false when the database did not take it.
async fn flush(shared: &Shared) -> bool {
    let mut lives: Vec<_> = shared.lives().values().cloned().collect();
    lives.sort_by_key(|live| live.run);
    let mut journals = Vec::new();
    let mut batches = Vec::new();
    for live in lives {
        if let Some(batch) = live.journal.unstored() {
            journals.push((live.journal.clone(), batch.first, batch.last));
            batches.push((live.key.owner.clone(), live.run, batch));
        }
    }
    if batches.is_empty() {
        return true;
    }
    match shared.store.append_events(batches).await {
        Ok(()) => journals.iter().for_each(|(journal, first, last)| journal.stored(*first, *last)),
        Err(error) => {
            warn!(%error, "Deltas could not be stored; the next batch has them.");
            return false;
        }
    }
    true
}
