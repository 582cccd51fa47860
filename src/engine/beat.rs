//! The heartbeat: renews the leases of the runs that this process drives, and looks in between for those that are ended
//! elsewhere.
//!
//! Invariant: it shares neither a thread nor a connection with the work, so whatever blocks the work costs no lease. A
//! process that could not renew them for so long that others may own its runs stops them by its own clock.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::recover::rest;
use super::{Live, Shared, Stop};
use crate::id::RunId;
use crate::store::StoreError;

/// Starts the thread. It ends with the last run of an engine that was closed, and with an engine that was dropped.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let (token, done) = (shared.tracker.token(), shared.done.subscribe());
    // As often as at the queue, and so soon that its connection is not pinged before.
    let look = shared.settings.poll.mul_f64(0.75);
    let work = beat(Arc::downgrade(shared), done, shared.process.lease, look);
    let (told, begun) = mpsc::sync_channel(1);
    let thread = move || {
        // Made here, because it must not be dropped within another one.
        match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) if told.send(Ok(())).is_ok() => runtime.block_on(work),
            Ok(_unheard) => {}
            Err(error) => drop(told.send(Err(error))),
        }
        drop(token);
    };
    std::thread::Builder::new().name("heartbeat".into()).spawn(thread)?;
    begun.recv().unwrap_or_else(|_| Err(io::Error::other("it ended at once")))
}

/// How long a process may work on without a heartbeat, counted from the beginning of the last good one: until then
/// nobody else takes its runs, whatever the clocks of the two say.
fn window(lease: Duration) -> Duration {
    lease * 2 / 3
}

impl Shared {
    fn good(&self) -> Instant {
        *self.good.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether a run of this process is surely still its own: its claim is as good as a heartbeat.
    pub(super) fn is_trusted(&self, live: &Live) -> bool {
        self.good().max(live.since).elapsed() < window(self.process.lease)
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let begun = Instant::now();
        let lives = self.owned();
        let runs: Vec<RunId> = lives.keys().copied().collect();
        let beat = self.store.heartbeat(&self.process, &runs).await?;
        *self.good.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        stop(&lives, &beat.cancelled, Stop::Cancel);
        stop(&lives, &beat.lost, Stop::Lost);
        Ok(())
    }

    /// Returns what this process works on now. An answer of the store is about these: a run that comes meanwhile is under
    /// another fence.
    fn owned(&self) -> BTreeMap<RunId, Arc<Live>> {
        self.lives().iter().map(|(run, live)| (*run, live.clone())).collect()
    }

    /// Ends the runs whose end somebody asked for; what cannot be asked now is learned by the heartbeat.
    async fn look(&self) {
        let lives = self.owned();
        if !lives.is_empty()
            && let Ok(asked) = self.store.asked(&self.process).await
        {
            stop(&lives, &asked, Stop::Cancel);
        }
    }

    /// Leaves all runs: somebody else may own them by now, and working on would only cost.
    fn distrust(&self) {
        let lives: Vec<_> = self.lives().values().cloned().collect();
        for live in lives.into_iter().filter(|live| !self.is_trusted(live)) {
            warn!(run = %live.run, "Run left: its lease could not be renewed.");
            live.ask(Stop::Lost);
        }
    }
}

fn stop(lives: &BTreeMap<RunId, Arc<Live>>, runs: &[RunId], why: Stop) {
    for live in runs.iter().filter_map(|run| lives.get(run)) {
        live.ask(why);
    }
}

/// Waits for the next heartbeat, and looks meanwhile for runs that are ended elsewhere; false when there is none any more.
async fn until_next(
    shared: &Weak<Shared>,
    done: &mut watch::Receiver<bool>,
    wait: Duration,
    pause: Duration,
) -> bool {
    let until = Instant::now() + wait;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !rest(done, left.min(pause)).await {
            return false;
        }
        let left = left.saturating_sub(pause);
        let Some(shared) = shared.upgrade() else { return false };
        // One that hangs must not hold up the heartbeat.
        if left.is_zero() || timeout(left, shared.look()).await.is_err() {
            return true;
        }
    }
}

async fn beat(shared: Weak<Shared>, mut done: watch::Receiver<bool>, lease: Duration, look: Duration) {
    let (pause, again) = (lease / 3, lease / 15);
    let mut wait = pause;
    while until_next(&shared, &mut done, wait, look).await {
        let Some(shared) = shared.upgrade() else { return };
        let left = || window(lease).saturating_sub(shared.good().elapsed());
        let before = left();
        if before.is_zero() {
            shared.distrust();
        }
        // A try that hangs must not hide the end of the window.
        let patience = if before.is_zero() { pause } else { before.min(pause) };
        let soon = match timeout(patience, shared.renew()).await {
            Ok(Ok(())) => pause,
            Ok(Err(error)) => {
                warn!(%error, "The leases cannot be renewed.");
                again
            }
            Err(_) => {
                warn!("The leases cannot be renewed: the store does not answer.");
                again
            }
        };
        wait = if before.is_zero() { soon } else { soon.min(left()) };
    }
}
