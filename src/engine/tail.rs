//! Follows runs that other processes own, all of them by one look at the store.
//!
//! Invariant: a reader pulls what is here at its own pace; what was dropped is in the store. No reader asks the store again
//! and again by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tracing::warn;

use super::Shared;
use super::follow::{PAGE, decode, rests};
use super::journal::Frame;
use super::recover::rest;
use crate::id::{Owner, RunId, Seq};
use crate::store::{News, StoreError};

/// How often it is looked for news.
pub(super) const TAIL: Duration = Duration::from_millis(250);
/// How often a database that is away is asked before readers are sent away.
pub(super) const PATIENCE: u32 = 20;
/// What is kept of a run for readers that are a little behind, in bytes of JSON.
const KEEP: usize = 256 * 1024;

/// What is new of one run, for all who follow it here.
#[derive(Debug)]
pub(super) struct Tail {
    owner: Owner,
    run: RunId,
    inner: Mutex<Inner>,
    news: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// All that comes after this place is here.
    from: Seq,
    /// How far it was read.
    to: Seq,
    stands: Stands,
}

/// Where a run stands, as far as it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    /// It tells nothing more by itself, or it was deleted: look at it.
    Still,
    /// The database was away for too long, or what it has cannot be read.
    Lost,
}

/// What a reader of a tail gets.
#[derive(Debug)]
pub(super) enum TailRead {
    /// The next frames.
    Frames(Vec<Arc<Frame>>),
    /// There may be something to read in the store that is not here. Whoever finds nothing waits.
    Behind(Changes),
    /// Nothing new yet.
    Wait(Changes),
    /// Come back later.
    Lost,
}

/// Waits for a change since the read that gave it.
#[derive(Debug)]
pub(super) struct Changes(watch::Receiver<u64>);

impl Changes {
    pub(super) async fn wait(mut self) {
        // An error means that nobody looks any more, which the reader learns elsewhere.
        let _closed = self.0.changed().await;
    }
}

impl Tail {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what comes after a place.
    pub(super) fn read(&self, after: Seq) -> TailRead {
        let mut news = self.news.subscribe();
        news.borrow_and_update();
        let changes = Changes(news);
        let inner = self.lock();
        if after < inner.from {
            return TailRead::Behind(changes);
        }
        let first = inner.frames.partition_point(|frame| frame.seq() <= after);
        let frames: Vec<Arc<Frame>> = inner.frames.iter().skip(first).cloned().collect();
        match inner.stands {
            _ if !frames.is_empty() => TailRead::Frames(frames),
            Stands::Open => TailRead::Wait(changes),
            Stands::Still => TailRead::Behind(changes),
            Stands::Lost => TailRead::Lost,
        }
    }

    /// Takes what is new; nothing: the run was deleted.
    fn take(&self, news: Option<&News>) {
        let mut inner = self.lock();
        let before = (inner.to, inner.stands);
        inner.stands = match news {
            Some(news) if !rests(news.state) => Stands::Open,
            _ => Stands::Still,
        };
        for batch in news.into_iter().flat_map(|news| &news.batches) {
            let events = match decode(batch) {
                Ok(events) => events,
                Err(error) => {
                    warn!(run = %self.run, %error, "Events cannot be read.");
                    inner.stands = Stands::Lost;
                    break;
                }
            };
            for event in events.into_iter().filter(|event| event.seq > inner.to).collect::<Vec<_>>() {
                let frame = Arc::new(Frame::new(self.run, event));
                inner.to = frame.seq();
                inner.bytes += frame.json.len();
                inner.frames.push_back(frame);
            }
        }
        while inner.bytes > KEEP
            && let Some(frame) = inner.frames.pop_front()
        {
            inner.bytes -= frame.json.len();
            inner.from = frame.seq();
        }
        let changed = before != (inner.to, inner.stands);
        drop(inner);
        if changed {
            self.news.send_modify(|version| *version += 1);
        }
    }

    fn lose(&self) {
        self.lock().stands = Stands::Lost;
        self.news.send_modify(|version| *version += 1);
    }
}

/// The runs that are followed.
#[derive(Debug, Default)]
pub(super) struct Tails {
    runs: Mutex<BTreeMap<RunId, Weak<Tail>>>,
    /// Wakes who looks for news when there is something to look for.
    wanted: Notify,
}

impl Tails {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<RunId, Weak<Tail>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is new of a run; for its first reader from a place on, which must be stored: others share what it
    /// gets. It is looked at for as long as somebody has it.
    pub(super) fn of(&self, owner: &Owner, run: RunId, after: Seq) -> Arc<Tail> {
        let mut runs = self.lock();
        if let Some(tail) = runs.get(&run).and_then(Weak::upgrade) {
            return tail;
        }
        let inner = Inner { frames: VecDeque::new(), bytes: 0, from: after, to: after, stands: Stands::Open };
        let (owner, inner, news) = (owner.clone(), Mutex::new(inner), watch::Sender::new(0));
        let tail = Arc::new(Tail { owner, run, inner, news });
        runs.insert(run, Arc::downgrade(&tail));
        drop(runs);
        self.wanted.notify_one();
        tail
    }

    fn all(&self) -> Vec<Arc<Tail>> {
        let mut runs = self.lock();
        runs.retain(|_, tail| tail.strong_count() > 0);
        runs.values().filter_map(Weak::upgrade).collect()
    }
}

/// Looks for news of all runs that are followed and are not this process's, until the engine is closed.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut closed = shared.closed.subscribe();
    let mut failed = 0;
    while !*closed.borrow() {
        let tails = shared.tails.all();
        if tails.is_empty() {
            tokio::select! {
                () = shared.tails.wanted.notified() => {}
                _ = closed.changed() => {}
            }
            continue;
        }
        match look(&shared, &tails).await {
            Ok(()) => failed = 0,
            Err(error) => {
                failed += 1;
                if failed % PATIENCE == 1 {
                    warn!(%error, "Runs of other processes cannot be followed.");
                }
                let gone = !matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_));
                if gone || failed >= PATIENCE {
                    for tail in &tails {
                        tail.lose();
                    }
                }
            }
        }
        // Whoever reads on at once is not looked for any more.
        drop(tails);
        rest(&mut closed, TAIL).await;
    }
}

async fn look(shared: &Shared, tails: &[Arc<Tail>]) -> Result<(), StoreError> {
    let of: Vec<(Owner, RunId, Seq)> =
        tails.iter().map(|tail| (tail.owner.clone(), tail.run, tail.lock().to)).collect();
    let news = shared.store.news(&of, PAGE).await?;
    metrics::counter!("graphloom_tail_looks_total").increment(1);
    for tail in tails {
        tail.take(news.iter().find(|news| news.run == tail.run));
    }
    Ok(())
}
