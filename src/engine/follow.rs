//! Follows the events of a run: what is stored, then what is live, from any replica.
//!
//! Invariant: each event after the cursor once, in order; a stream without `run.finished` was cut.

use std::collections::VecDeque;
use std::sync::Arc;

use chrono::Utc;

use super::journal::{Frame, JournalRead};
use super::memory::Strain;
use super::readers::Reader;
use super::states::States;
use super::tail::{PATIENCE, TAIL, Tail, TailRead};
use super::{Engine, Live, is_over};
use crate::event::{self, Body, Event, RunStatus, Usage};
use crate::id::{Owner, RunId, Seq};
use crate::store::{EventBatch, Kept, Run, RunState, StoreError};

/// The place of `run.started`.
const FIRST: Seq = Seq { fence: 0, n: 1 };
/// How much of the table is read at once, in bytes.
pub(super) const PAGE: usize = 256 * 1024;

/// The owner of the run went away before its end: come back with the last id.
///
/// ```
/// use graphloom::{Aborted, Turn};
///
/// async fn told(mut turn: Turn) {
///     while let Some(event) = turn.next().await {
///         match event {
///             Ok(event) => println!("{}", event.body.name()),
///             Err(Aborted) => println!("another process goes on with run {}", turn.run()),
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the run goes on elsewhere")]
pub struct Aborted;

/// A run's events after a place.
pub enum Followed {
    /// They are told by this reader.
    Events(Follower),
    /// The run is over and the place was its last event.
    Complete,
    /// The run is over, and its events are not kept any more.
    Forgotten(Run),
}

/// Reads a run's events one by one.
pub struct Follower {
    engine: Engine,
    owner: Owner,
    run: RunId,
    cursor: Seq,
    ahead: VecDeque<Arc<Frame>>,
    /// It counts as a reader, where that matters.
    _reader: Option<Reader>,
    /// `run.started`.
    first: Arc<Frame>,
    /// The owner in this process that it hears; kept to the end, so that the end need not be read from the store.
    heard: Option<Arc<Live>>,
    /// What is new of a run that another process owns, once all that was stored is read.
    tail: Option<Arc<Tail>>,
    /// Where the state can be read; absent when the reader does not want it.
    states: Option<States>,
    /// The fence below which the store has nothing after the cursor.
    earlier_read: u64,
    /// The cursor is the place of an event that was read, not only one that the reader named.
    certain: bool,
    done: bool,
}

/// Where a run stands in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    Open,
    Over,
    Deleted,
}

impl Engine {
    /// Follows a run of this owner after a place; nothing when there is no such run. The state is told when
    /// `state` says so.
    pub async fn follow(
        &self,
        owner: &Owner,
        run: RunId,
        after: Seq,
        state: bool,
    ) -> Result<Option<Followed>, StoreError> {
        let Some(row) = self.shared.store.run(owner, run).await? else { return Ok(None) };
        if row.kept == Kept::Nothing {
            return Ok(Some(Followed::Forgotten(row)));
        }
        let mut follower = self.follower(owner, &row, after, state);
        if after.fence > row.fence {
            follower.rewind();
        } else if rests(row.state) && after > Seq::default() {
            follower.fill().await?;
            if follower.ahead.is_empty() {
                if follower.knows(after).await? {
                    return Ok(Some(Followed::Complete));
                }
                follower.rewind();
            }
        }
        Ok(Some(Followed::Events(follower)))
    }

    /// Follows a run whose row is at hand.
    pub fn follower(&self, owner: &Owner, row: &Run, after: Seq, state: bool) -> Follower {
        // It follows from the row, so that it is there as soon as the row is.
        let body = Body::RunStarted {
            session_id: row.key.session.to_string(),
            graph: row.graph.clone(),
            graph_hash: row.hash.clone(),
        };
        let event = Event { seq: FIRST, at: event::to_millis(row.created_at), scope: None, body };
        let first = Arc::new(Frame::new(row.run, event));
        Follower {
            engine: self.clone(),
            owner: owner.clone(),
            run: row.run,
            cursor: after.max(FIRST),
            ahead: if after < FIRST { VecDeque::from([first.clone()]) } else { VecDeque::new() },
            _reader: Reader::of(&self.shared, row),
            first,
            heard: self.shared.live(row.run),
            tail: None,
            states: state.then(|| States::of(row)),
            // The first owner has fence 1, and all that is below it was told above.
            earlier_read: 1,
            certain: false,
            done: false,
        }
    }
}

/// Says whether a run tells nothing more by itself.
pub(super) fn rests(state: RunState) -> bool {
    is_over(state) || state == RunState::Interrupted
}

/// Reads a stored batch.
pub(super) fn decode(batch: &EventBatch) -> Result<Vec<Event>, StoreError> {
    event::decode(batch.fence, &batch.data)
        .map_err(|e| StoreError::Corrupt { what: "event", why: e.to_string() })
}

impl Follower {
    /// Returns the run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// Returns the next event; nothing after `run.finished`.
    pub async fn next(&mut self) -> Option<Result<Arc<Frame>, Aborted>> {
        loop {
            if let Some(frame) = self.ahead.front().cloned() {
                // Taken only when it is whole: a caller that stops waiting loses nothing.
                let told = if frame.is_of_state() {
                    self.with_state(&frame).await
                } else if frame.may_go_on() {
                    // Where the run went on since, its next owner tells the rest.
                    self.went_on(&frame).await.map(|on| if on { None } else { Some(frame) })
                } else {
                    Ok(Some(frame))
                };
                match told {
                    Ok(Some(frame)) => {
                        self.pop();
                        return Some(Ok(frame));
                    }
                    Ok(None) => {
                        if let Some(frame) = self.ahead.pop_front() {
                            self.moved(frame.seq());
                            if frame.is_last() {
                                self.heard = None;
                            }
                        }
                        continue;
                    }
                    Err(aborted) => {
                        self.done = true;
                        return Some(Err(aborted));
                    }
                }
            }
            if self.done {
                return None;
            }
            if let Err(aborted) = self.wait().await {
                self.done = true;
                return Some(Err(aborted));
            }
        }
    }

    /// Returns what can be had at once: the next event without waiting for one.
    pub fn ready(&mut self) -> Option<Arc<Frame>> {
        if self.ahead.is_empty()
            && !self.done
            && let Some(live) = &self.heard
            && let JournalRead::Frames(frames) = live.journal.read(self.cursor, self.earlier_read)
        {
            self.ahead.extend(frames);
        }
        // What has to be read first is left to `next`.
        let front = self.ahead.front()?;
        if front.is_of_state() || front.may_go_on() { None } else { self.pop() }
    }

    fn pop(&mut self) -> Option<Arc<Frame>> {
        let frame = self.ahead.pop_front()?;
        self.moved(frame.seq());
        self.done |= frame.is_last();
        Some(frame)
    }

    fn moved(&mut self, to: Seq) {
        self.certain |= to >= self.cursor;
        self.cursor = self.cursor.max(to);
    }

    /// Says whether a run that paused or failed went on since.
    async fn went_on(&self, end: &Frame) -> Result<bool, Aborted> {
        for _ in 0..PATIENCE {
            match self.engine.shared.store.run(&self.owner, self.run).await {
                Ok(row) => {
                    let stays = |row: &Run| {
                        // One that was given up and put away has no other end; any other cancel has a fence of its own.
                        let ends =
                            [RunState::Interrupted, RunState::Failed, RunState::Dead, RunState::Cancelled];
                        ends.contains(&row.state) && row.fence == end.seq().fence
                    };
                    return Ok(row.is_some_and(|row| !stays(&row)));
                }
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => tokio::time::sleep(TAIL).await,
                Err(_) => break,
            }
        }
        Err(Aborted)
    }

    /// Waits until something is ahead, or there is nothing to wait for.
    async fn wait(&mut self) -> Result<(), Aborted> {
        let shared = self.engine.shared.clone();
        let claimed = shared.claimed.notified();
        let mut closed = shared.closed.subscribe();
        if self.heard.is_none() {
            self.heard = shared.live(self.run);
            self.tail = self.tail.take().filter(|_| self.heard.is_none());
        }
        let Some(live) = self.heard.clone() else {
            if *closed.borrow_and_update() {
                return Err(Aborted);
            }
            let changes = match self.tail.as_ref().map(|tail| tail.read(self.cursor)) {
                Some(TailRead::Frames(frames)) => {
                    self.ahead.extend(frames);
                    return Ok(());
                }
                Some(TailRead::Lost) => return Err(Aborted),
                Some(TailRead::Wait(changes)) => changes,
                Some(TailRead::Behind(_)) if shared.memory.strain() >= Strain::Readers => {
                    return Err(Aborted);
                }
                // What is far behind is read from the store, at the reader's own pace.
                behind => {
                    let stands = self.fill_patiently().await?;
                    if !self.ahead.is_empty() {
                        return Ok(());
                    }
                    match stands {
                        Stands::Open => {}
                        // Everything is read and the end is missing: the store lost it.
                        Stands::Over => return Err(Aborted),
                        Stands::Deleted => {
                            self.bury();
                            return Ok(());
                        }
                    }
                    let Some(TailRead::Behind(changes)) = behind else {
                        let from = self.stored_place().await;
                        self.tail = Some(shared.tails.of(&self.owner, self.run, from));
                        return Ok(());
                    };
                    changes
                }
            };
            tokio::select! {
                () = claimed => {}
                () = changes.wait() => {}
                _ = closed.changed() => {}
            }
            return Ok(());
        };
        match live.journal.read(self.cursor, self.earlier_read) {
            JournalRead::Frames(frames) => self.ahead.extend(frames),
            JournalRead::Wait(waiter) => waiter.wait().await,
            JournalRead::Aborted => return Err(Aborted),
            // The barrier is stored before it is told: who reads the store in between waits for the owner.
            JournalRead::Ahead(waiter) if self.certain => waiter.wait().await,
            JournalRead::Ahead(_) => self.rewind(),
            JournalRead::Behind if self.certain && shared.memory.strain() >= Strain::Readers => {
                return Err(Aborted);
            }
            JournalRead::Behind => {
                let fence = live.journal.fence();
                let stands = self.fill_patiently().await?;
                if !self.ahead.is_empty() {
                } else if stands == Stands::Deleted {
                    self.bury();
                } else if self.cursor.fence == fence {
                    // Its owner forgot what it believed to be stored, so somebody else has the run.
                    return Err(Aborted);
                } else {
                    self.earlier_read = fence;
                }
            }
        }
        Ok(())
    }

    /// Tells the run from its start: the place that the client named is not in it.
    fn rewind(&mut self) {
        let seq = Seq { fence: 0, n: 0 };
        let at = event::to_millis(Utc::now());
        let event = Event { seq, at, scope: None, body: Body::StreamRewound {} };
        self.ahead = VecDeque::from([Arc::new(Frame::new(self.run, event)), self.first.clone()]);
        (self.cursor, self.earlier_read) = (FIRST, 1);
    }

    /// Returns a place of the run that is stored, from which on the tail of all its readers may begin. What a client named
    /// need not be one: behind it there would be nothing for anybody. Then all is looked at once more.
    async fn stored_place(&mut self) -> Seq {
        self.certain = self.certain || self.knows(self.cursor).await.unwrap_or_default();
        if self.certain { self.cursor } else { FIRST }
    }

    /// Says whether the run has an event at this place.
    async fn knows(&self, place: Seq) -> Result<bool, StoreError> {
        let before = Seq { n: place.n.saturating_sub(1), ..place };
        let batches = self.engine.shared.store.events(&self.owner, self.run, before, 1).await?;
        let Some(batch) = batches.first() else { return Ok(place <= FIRST) };
        Ok(decode(batch)?.iter().any(|event| event.seq == place))
    }

    /// Reads the next page, also when the database is away for a moment: a reader need not come back for that.
    async fn fill_patiently(&mut self) -> Result<Stands, Aborted> {
        for _ in 0..PATIENCE {
            match self.fill().await {
                Ok(stands) => return Ok(stands),
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => tokio::time::sleep(TAIL).await,
                Err(_) => break,
            }
        }
        Err(Aborted)
    }

    /// Reads the next page of the table; says where the run stands.
    async fn fill(&mut self) -> Result<Stands, StoreError> {
        let store = &self.engine.shared.store;
        // The row before the events: when it says over, the last event is there to be read.
        let stands = match store.run(&self.owner, self.run).await? {
            None => Stands::Deleted,
            Some(row) if rests(row.state) => Stands::Over,
            Some(_) => Stands::Open,
        };
        for batch in store.events(&self.owner, self.run, self.cursor, PAGE).await? {
            let events = decode(&batch)?;
            let after = self.ahead.back().map_or(self.cursor, |frame| frame.seq());
            let new = events.into_iter().filter(|event| event.seq > after);
            self.ahead.extend(new.map(|event| Arc::new(Frame::new(self.run, event))));
        }
        if stands == Stands::Over
            && self.ahead.is_empty()
            && store.run(&self.owner, self.run).await?.is_none()
        {
            // The thread was deleted between the two reads.
            return Ok(Stands::Deleted);
        }
        Ok(stands)
    }

    /// Fills in the state that an event tells; nothing when the reader does not want it, or the thread is gone.
    async fn with_state(&self, frame: &Frame) -> Result<Option<Arc<Frame>>, Aborted> {
        let Some(states) = &self.states else { return Ok(None) };
        for _ in 0..PATIENCE {
            match states.tell(&self.engine.shared, &self.owner, &frame.event.body).await {
                Ok(body) => {
                    let event = |body| Event { body, ..frame.event.clone() };
                    return Ok(body.map(|body| Arc::new(Frame::new(self.run, event(body)))));
                }
                Err(StoreError::Unavailable(_) | StoreError::Unknown(_)) => tokio::time::sleep(TAIL).await,
                Err(_) => break,
            }
        }
        Err(Aborted)
    }

    /// Ends the stream of a run whose thread was deleted.
    fn bury(&mut self) {
        let finished = Body::ended(RunStatus::Cancelled, Usage::default());
        // A reader of what an answer brings begins behind all of an owner.
        let Seq { fence, n } = match self.cursor {
            Seq { fence, n: u64::MAX } => Seq { fence: fence + 1, n: 0 },
            cursor => cursor,
        };
        for (n, body) in (n + 1..).zip([Body::ThreadDeleted {}, finished]) {
            let seq = Seq { fence, n };
            let event = Event { seq, at: event::to_millis(Utc::now()), scope: None, body };
            self.ahead.push_back(Arc::new(Frame::new(self.run, event)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::watch;

    use super::super::Settings;
    use super::super::journal::Journal;
    use super::*;
    use crate::compile::{Catalog, Providers};
    use crate::id::{Part, ThreadKey};
    use crate::store::memory::MemoryStore;
    use crate::store::{Accepted, NewRun, OnBusy, Store};

    /// A reader that read a barrier from the store before its owner told it was sent back to the start, again and again.
    #[tokio::test]
    async fn what_is_stored_and_not_told_yet_rewinds_nobody() {
        let store = Arc::new(MemoryStore::new());
        let settings = Settings { claims: 0, ..Settings::new("one".into()) };
        let providers = Providers::without_secrets().unwrap();
        let engine = Engine::open(store.clone(), Catalog::default(), providers, settings).await.unwrap();
        let part = || "a".parse::<Part>().unwrap();
        let key = ThreadKey { owner: Owner { tenant: part(), user: part() }, session: part() };
        let new = NewRun {
            run: RunId::new(),
            key: key.clone(),
            graph: "g".into(),
            hash: "h".into(),
            input: Vec::new(),
            on_busy: OnBusy::Reject,
            queue_limit: 1,
            process: engine.shared.process.clone(),
            idempotency: None,
            from: None,
            delay: None,
            wishes: crate::store::Wishes::default(),
        };
        let Accepted::Claimed { run, .. } = store.accept(new).await.unwrap() else { panic!() };
        let journal = Arc::new(Journal::new(run.run, run.fence));
        let live = Live {
            run: run.run,
            key: key.clone(),
            thread: run.thread,
            accepted: None,
            journal: journal.clone(),
            stop: watch::Sender::new(None),
            since: std::time::Instant::now(),
        };
        engine.shared.lives().insert(run.run, Arc::new(live));
        let store_and_hold = async |body| {
            let (held, batch) = journal.hold(vec![(None, body)]);
            store.append_events(vec![(key.owner.clone(), run.run, batch.unwrap())]).await.unwrap();
            held
        };
        let mut follower = engine.follower(&key.owner, &run, Seq::default(), false);
        // As behind an answer: what is older has to be looked for in the store.
        follower.earlier_read = 0;
        let held = store_and_hold(Body::ThreadDeleted {}).await;
        for name in ["run.started", "thread.deleted"] {
            assert_eq!(follower.next().await.unwrap().unwrap().event.body.name(), name);
        }
        let early = tokio::time::timeout(Duration::from_millis(20), follower.next()).await;
        assert!(early.is_err(), "it waits until the owner tells what it has stored");
        journal.release(held);
        let held = store_and_hold(Body::ended(RunStatus::Completed, Usage::default())).await;
        journal.release(held);
        assert_eq!(follower.next().await.unwrap().unwrap().event.body.name(), "run.finished");
        assert!(follower.next().await.is_none());
    }
}
