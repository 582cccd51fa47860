//! The live events of a run: what its owner sent, for the readers on this replica.
//!
//! Invariant: readers pull, so a slow one never slows the run; what the journal has dropped is in the
//! store.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::event::{self, Body, Event, NodeStatus, RunStatus, Scope, Sink, Usage};
use crate::id::{RunId, Seq, TaskId};
use crate::store::EventBatch;

/// What a journal holds at most once it is stored, in bytes of JSON.
const KEEP: usize = 1024 * 1024;
/// Why an attempt of an earlier owner is void.
pub(super) const GONE: &str = "the process that ran it went away";

/// What is told of a call that nobody awaits any more.
const CUT: &str = "the call was cut off";

/// An event ready for the wire.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The event.
    pub event: Event,
    /// Its compact JSON.
    pub json: Bytes,
}

impl Frame {
    /// Makes the frame of an event.
    pub fn new(run: RunId, event: Event) -> Self {
        Self { json: event.to_json(run), event }
    }

    /// Returns its place.
    pub fn seq(&self) -> Seq {
        self.event.seq
    }

    /// Says whether it is the last one of its run.
    pub fn is_last(&self) -> bool {
        matches!(self.event.body, Body::RunFinished { .. })
    }

    /// Says whether it belongs to an end from which a run may go on.
    pub(super) fn may_go_on(&self) -> bool {
        use RunStatus::{Dead, Failed, Interrupted};
        matches!(
            self.event.body,
            Body::Error { .. } | Body::RunFinished { status: Interrupted | Failed | Dead, .. }
        )
    }

    /// Says whether it tells the state, which is read only for those who ask.
    pub(super) fn is_of_state(&self) -> bool {
        matches!(self.event.body, Body::StateSnapshot { .. } | Body::StatePatch { .. })
    }

    /// Says whether it is a piece of something longer.
    pub fn is_piece(&self) -> bool {
        matches!(
            self.event.body,
            Body::MessageDelta { .. } | Body::ReasoningDelta { .. } | Body::ToolArgsDelta { .. }
        )
    }
}

#[derive(Debug)]
struct Inner {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// The number of the next event.
    next: u64,
    /// The number of the last event that readers may see.
    told: u64,
    /// Events that the store does not have yet, the oldest first.
    unstored: VecDeque<Arc<Frame>>,
    /// What was appended since the last barrier, without the pieces of what comes whole: a database that crashes may lose it.
    appended: Vec<Arc<Frame>>,
    /// How much JSON that is. What a node tells on its own goes on without an end, so over [`KEEP`] no more is held.
    appended_bytes: usize,
    /// The first and last number of the newest batch of them.
    newest: Option<(u64, u64)>,
    /// What was sent since a commit is under way: it waits, so that nothing is told before what comes first.
    waiting: Option<Vec<Arc<Frame>>>,
    /// What was begun and not ended, in the order begun.
    open: Vec<(Scope, Open)>,
}

/// A thing that has a beginning and an end in the stream.
#[derive(Debug, Clone, PartialEq)]
enum Open {
    Node {
        since: DateTime<Utc>,
    },
    Message(String),
    Reasoning(String),
    Tool {
        call_id: String,
        tool: String,
        /// The model's attempt that asks for it is over, and stays.
        stays: bool,
    },
}

impl Open {
    fn is_node(&self) -> bool {
        matches!(self, Self::Node { .. })
    }

    /// Says whether it is a call that outlives the attempt which began it.
    fn is_standing_call(&self) -> bool {
        matches!(self, Self::Tool { stays: true, .. })
    }

    /// Says whether an attempt that is void takes it back.
    fn is_of_attempt(&self) -> bool {
        !self.is_node() && !self.is_standing_call()
    }

    /// Says whether it is this call. A model begins it in its node's task, and it is made in a task of its own: they have the
    /// place of the node in common.
    fn is_call(&self, at: &Scope, id: &str, of: &Scope) -> bool {
        matches!(self, Self::Tool { call_id, .. } if call_id == id)
            && (&at.node, &at.path, at.item) == (&of.node, &of.path, of.item)
    }

    /// Says whether an event ends it.
    fn ends_by(&self, at: &Scope, body: &Body, of: &Scope) -> bool {
        let same = at.task_id == of.task_id;
        match (self, body) {
            (Self::Node { .. }, Body::NodeFinished { .. }) => same,
            (Self::Message(id), Body::MessageFinished { message_id, .. })
            | (Self::Reasoning(id), Body::ReasoningFinished { message_id }) => same && id == message_id,
            (Self::Tool { .. }, Body::ToolFinished { call_id, .. }) => self.is_call(at, call_id, of),
            _ => false,
        }
    }

    /// Returns what ends it when nothing else does.
    fn end(self) -> Body {
        match self {
            Self::Node { since } => Body::NodeFinished {
                status: NodeStatus::Cancelled,
                duration_ms: (Utc::now() - since).num_milliseconds().try_into().unwrap_or(0),
                usage: None,
                model: None,
                cached: false,
            },
            Self::Message(message_id) => {
                Body::MessageFinished { message_id, content: None, truncated: false }
            }
            Self::Reasoning(message_id) => Body::ReasoningFinished { message_id },
            Self::Tool { call_id, tool, .. } => {
                Body::ToolFinished { call_id, tool, result: None, error: Some(CUT.into()) }
            }
        }
    }
}

impl Inner {
    /// Keeps the books of what is open.
    fn note(&mut self, scope: Option<&Scope>, body: &Body, at: DateTime<Utc>) {
        if matches!(body, Body::CheckpointSaved { .. }) {
            for (_, open) in &mut self.open {
                if let Open::Tool { stays, .. } = open {
                    *stays = true;
                }
            }
        }
        let Some(scope) = scope else { return };
        let same = |other: &Scope| other.task_id == scope.task_id;
        let begun = match body {
            Body::NodeStarted { .. } => Open::Node { since: at },
            Body::MessageStarted { message_id, .. } => Open::Message(message_id.clone()),
            Body::ReasoningStarted { message_id } => Open::Reasoning(message_id.clone()),
            Body::ToolStarted { call_id, tool } => {
                Open::Tool { call_id: call_id.clone(), tool: tool.clone(), stays: false }
            }
            Body::ToolCalled { call_id, tool, .. } => {
                match self.open.iter_mut().find(|(s, open)| open.is_call(s, call_id, scope)) {
                    Some((_, Open::Tool { stays, .. })) => {
                        *stays = true;
                        return;
                    }
                    _ => Open::Tool { call_id: call_id.clone(), tool: tool.clone(), stays: true },
                }
            }
            // A reset takes back everything that the attempt showed.
            Body::NodeReset { .. } => return self.open.retain(|(s, o)| !same(s) || !o.is_of_attempt()),
            _ => return self.open.retain(|(s, open)| !open.ends_by(s, body, scope)),
        };
        self.open.push((scope.clone(), begun));
    }
}

/// The events that one owner of a run has sent.
#[derive(Debug)]
pub(super) struct Journal {
    run: RunId,
    fence: u64,
    inner: Mutex<Inner>,
    news: watch::Sender<News>,
}

/// What a waiting reader is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Sent(u64),
    Aborted,
}

/// Events with their numbers, on their way through a commit.
#[derive(Debug)]
pub(super) struct Held {
    frames: Vec<Arc<Frame>>,
    /// What was open before.
    open: Vec<(Scope, Open)>,
    /// The newest batch that was appended since the last barrier.
    pub(super) appended: Option<(u64, u64)>,
}

impl Journal {
    /// Begins the journal of an owner.
    pub(super) fn new(run: RunId, fence: u64) -> Self {
        let inner = Inner {
            frames: VecDeque::new(),
            bytes: 0,
            next: 1,
            told: 0,
            unstored: VecDeque::new(),
            appended: Vec::new(),
            appended_bytes: 0,
            newest: None,
            waiting: None,
            open: Vec::new(),
        };
        Self { run, fence, inner: Mutex::new(inner), news: watch::Sender::new(News::Sent(0)) }
    }

    /// Returns the fence of the owner.
    pub(super) fn fence(&self) -> u64 {
        self.fence
    }

    /// Takes over what earlier owners began and did not end, from all that they stored; returns where.
    pub(super) fn inherit(&self, stored: &[Event]) -> Vec<Scope> {
        let mut inner = self.lock();
        for event in stored {
            inner.note(event.scope.as_ref(), &event.body, event.at);
        }
        let mut tasks = BTreeSet::new();
        let open = inner.open.iter().map(|(scope, _)| scope.clone());
        open.filter(|scope| tasks.insert(scope.task_id.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it is held; if something did, the events would still be whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends an event to the readers at once; it is stored with the next batch.
    pub(super) fn send(&self, scope: Option<&Scope>, body: Body) {
        let mut inner = self.lock();
        let frame = self.number(&mut inner, scope, body);
        if let Some(waiting) = &mut inner.waiting {
            return waiting.push(frame);
        }
        inner.unstored.push_back(frame.clone());
        Self::publish(&mut inner, frame);
        let n = inner.next - 1;
        drop(inner);
        self.news.send_replace(News::Sent(n));
    }

    fn number(&self, inner: &mut Inner, scope: Option<&Scope>, body: Body) -> Arc<Frame> {
        let now = event::to_millis(Utc::now());
        inner.note(scope, &body, now);
        let seq = Seq { fence: self.fence, n: inner.next };
        inner.next += 1;
        let event = Event { seq, at: now, scope: scope.cloned(), body };
        Arc::new(Frame::new(self.run, event))
    }

    fn publish(inner: &mut Inner, frame: Arc<Frame>) {
        inner.bytes += frame.json.len();
        inner.told = frame.seq().n;
        inner.frames.push_back(frame);
    }

    /// Says whether a task was told to have begun, and not to have ended.
    pub(super) fn is_open(&self, task: &TaskId) -> bool {
        self.lock().open.iter().any(|(scope, open)| open.is_node() && scope.task_id == *task)
    }

    /// Ends what is open at a barrier and is ended by none of its events: messages, and the nodes that do not go on with
    /// their calls.
    pub(super) fn settle(&self, events: &[(Option<Scope>, Body)], alive: &BTreeSet<TaskId>) {
        let ends = |scope: &Scope, open: &Open| {
            events.iter().any(|(of, body)| of.as_ref().is_some_and(|of| open.ends_by(scope, body, of)))
        };
        let open: Vec<_> = self.lock().open.clone();
        for (scope, open) in open.into_iter().rev() {
            let goes_on = matches!(open, Open::Node { .. } | Open::Tool { .. });
            if !(ends(&scope, &open) || goes_on && alive.contains(&scope.task_id)) {
                self.send(Some(&scope), open.end());
            }
        }
    }

    /// Numbers events that become visible with a commit, and returns them with the batch to store: all
    /// that the store does not have, then these. What is sent before [`Journal::release`] waits for it.
    pub(super) fn hold(&self, bodies: Vec<(Option<Scope>, Body)>) -> (Held, Option<EventBatch>) {
        let mut inner = self.lock();
        let mut frames = Vec::with_capacity(bodies.len());
        let open = inner.open.clone();
        for (scope, body) in bodies {
            // Whatever is open is ended before the run is.
            let pauses = matches!(body, Body::RunFinished { status: RunStatus::Interrupted, .. });
            if matches!(body, Body::Error { .. } | Body::RunFinished { .. }) {
                // A call that a person is asked about is made when the run goes on.
                let ends = |open: &(Scope, Open)| !(pauses && open.1.is_standing_call());
                while let Some((scope, open)) = inner.open.iter().rfind(|open| ends(open)).cloned() {
                    let mut end = open.end();
                    if let Body::NodeFinished { status, .. } = &mut end
                        && pauses
                    {
                        *status = NodeStatus::Interrupted;
                    }
                    frames.push(self.number(&mut inner, Some(&scope), end));
                }
            }
            frames.push(self.number(&mut inner, scope.as_ref(), body));
        }
        let batch = self.batch(inner.unstored.iter().chain(&frames));
        inner.waiting = Some(Vec::new());
        (Held { frames, open, appended: inner.newest }, batch)
    }

    /// Forgets what a commit did not store; its numbers are not used again.
    pub(super) fn withdraw(&self, held: Held) {
        let mut inner = self.lock();
        inner.open = held.open;
        inner.waiting = None;
    }

    /// Sends what a commit has stored.
    pub(super) fn release(&self, held: Held) {
        let mut inner = self.lock();
        inner.unstored.clear();
        inner.appended.clear();
        inner.appended_bytes = 0;
        inner.newest = None;
        for frame in held.frames {
            Self::publish(&mut inner, frame);
        }
        for frame in inner.waiting.take().unwrap_or_default() {
            inner.unstored.push_back(frame.clone());
            Self::publish(&mut inner, frame);
        }
        Self::trim(&mut inner);
        let n = inner.next - 1;
        drop(inner);
        self.news.send_replace(News::Sent(n));
    }

    /// Returns what the store does not have yet.
    pub(super) fn unstored(&self) -> Option<EventBatch> {
        let inner = self.lock();
        self.batch(inner.unstored.iter())
    }

    /// Notes what a batch has stored.
    pub(super) fn stored(&self, first: u64, last: u64) {
        let mut inner = self.lock();
        while let Some(frame) = inner.unstored.pop_front_if(|frame| frame.seq().n <= last) {
            inner.newest = Some((first, last));
            if !frame.is_piece() && inner.appended_bytes < KEEP {
                inner.appended_bytes += frame.json.len();
                inner.appended.push(frame);
            }
        }
        Self::trim(&mut inner);
    }

    /// Returns what was appended since the last barrier and is not among `there`, a batch each.
    pub(super) fn appended_but(&self, there: &BTreeSet<u64>) -> Vec<EventBatch> {
        let inner = self.lock();
        let lost = inner.appended.iter().filter(|frame| !there.contains(&frame.seq().n));
        lost.filter_map(|frame| self.batch(std::iter::once(frame))).collect()
    }

    /// Returns the number of the first event that was appended since the last barrier.
    pub(super) fn first_appended(&self) -> Option<u64> {
        self.lock().appended.first().map(|frame| frame.seq().n)
    }

    fn batch<'a>(&self, frames: impl Iterator<Item = &'a Arc<Frame>>) -> Option<EventBatch> {
        let events: Vec<&Event> = frames.map(|frame| &frame.event).collect();
        let (first, last) = (events.first()?.seq.n, events.last()?.seq.n);
        Some(EventBatch { fence: self.fence, first, last, data: event::encode(&events) })
    }

    fn trim(inner: &mut Inner) {
        let stored_before = inner.unstored.front().map_or(inner.next, |frame| frame.seq().n);
        while inner.bytes > KEEP && inner.frames.front().is_some_and(|frame| frame.seq().n < stored_before) {
            if let Some(frame) = inner.frames.pop_front() {
                inner.bytes -= frame.json.len();
            }
        }
    }

    /// Ends the stream of a run whose thread was deleted: there is nothing left to store it with.
    pub(super) fn bury(&self) {
        let finished = Body::ended(RunStatus::Cancelled, Usage::default());
        let (held, _) = self.hold(vec![(None, Body::ThreadDeleted {}), (None, finished)]);
        self.release(held);
    }

    /// Tells the readers that this owner goes no further.
    pub(super) fn abort(&self) {
        self.news.send_replace(News::Aborted);
    }

    /// Returns what follows `after`. Below the fence `earlier_read` the store holds nothing after it.
    pub(super) fn read(&self, after: Seq, earlier_read: u64) -> JournalRead {
        let mut news = self.news.subscribe();
        let state = *news.borrow_and_update();
        let inner = self.lock();
        let first = inner.frames.front().map_or(inner.told + 1, |frame| frame.seq().n);
        let from = if after.fence == self.fence {
            after.n + 1
        } else if after.fence < self.fence && self.fence <= earlier_read {
            1
        } else if after.fence < self.fence {
            return JournalRead::Behind;
        } else {
            // The reader has seen a later owner.
            return JournalRead::Aborted;
        };
        if from < first && first > 1 {
            return JournalRead::Behind;
        }
        if after.fence == self.fence && after.n > inner.told {
            drop(inner);
            return if state == News::Aborted {
                JournalRead::Aborted
            } else {
                JournalRead::Ahead(Waiter(news))
            };
        }
        // Numbers that were withdrawn are not used again.
        let skip = inner.frames.partition_point(|frame| frame.seq().n < from);
        let frames: Vec<Arc<Frame>> = inner.frames.iter().skip(skip).cloned().collect();
        drop(inner);
        if !frames.is_empty() {
            JournalRead::Frames(frames)
        } else if state == News::Aborted {
            JournalRead::Aborted
        } else {
            JournalRead::Wait(Waiter(news))
        }
    }
}

/// What a reader of the journal gets.
#[derive(Debug)]
pub(super) enum JournalRead {
    /// The next frames.
    Frames(Vec<Arc<Frame>>),
    /// The journal does not reach back so far: read the store.
    Behind,
    /// The reader names a place that the owner has not come to, or has stored and not told yet.
    Ahead(Waiter),
    /// Nothing new yet.
    Wait(Waiter),
    /// The owner stopped without an end: the reader must come back.
    Aborted,
}

/// Waits for news of a journal.
#[derive(Debug)]
pub(super) struct Waiter(watch::Receiver<News>);

impl Waiter {
    /// Returns when something was sent after the read that gave this waiter, or the journal is gone.
    pub(super) async fn wait(mut self) {
        // An error means that the journal was dropped: the next read finds that out.
        let _closed = self.0.changed().await;
    }
}

impl Sink for Journal {
    fn send(&self, place: &Scope, body: Body) {
        Self::send(self, Some(place), body);
    }

    fn has_shown(&self, place: &Scope) -> bool {
        self.lock().open.iter().any(|(scope, open)| scope.task_id == place.task_id && open.is_of_attempt())
    }

    fn discard(&self, place: &Scope) {
        let shown = |(scope, open): &(Scope, Open)| scope.task_id == place.task_id && open.is_of_attempt();
        let open: Vec<_> = self.lock().open.iter().filter(|o| shown(o)).cloned().collect();
        for (scope, open) in open.into_iter().rev() {
            Self::send(self, Some(&scope), open.end());
        }
    }
}
