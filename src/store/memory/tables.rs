//! The tables of the store that forgets.
//!
//! Invariant: what is here is looked at and changed behind the store's one lock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::id::{
    CacheKey, CheckpointId, HookId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey,
};
use crate::store::{
    Checkpoint, Claim, EventBatch, GraphVersion, HookState, Idempotency, Kept, Keyed, Noted, OpenQuestion,
    Process, Run, RunState, Thread, Wishes,
};

pub(super) type Key = (Part, Part, Part);

pub(super) fn key(key: &ThreadKey) -> Key {
    (key.owner.tenant.clone(), key.owner.user.clone(), key.session.clone())
}

#[derive(Debug)]
pub(super) struct ThreadRow {
    pub(super) key: ThreadKey,
    pub(super) thread: ThreadId,
    pub(super) head: Option<CheckpointId>,
    pub(super) graph: String,
    pub(super) hash: String,
    pub(super) created_at: DateTime<Utc>,
    pub(super) updated_at: DateTime<Utc>,
    pub(super) checkpoints: BTreeMap<CheckpointId, Checkpoint>,
}

#[derive(Debug)]
pub(super) struct RunRow {
    pub(super) run: Run,
    pub(super) ord: u64,
    pub(super) instance: String,
    pub(super) boot: Uuid,
    pub(super) lease_until: DateTime<Utc>,
    /// Until then it counts as read, when that matters.
    pub(super) read_until: Option<DateTime<Utc>>,
    /// Its owner took it alone, since a process had died with it before.
    pub(super) suspect: bool,
    /// The checkpoints of its thread that are as old as it were looked at.
    pub(super) swept: bool,
    /// It waits at a breakpoint.
    pub(super) stopped: bool,
    pub(super) events: BTreeMap<(u64, u64), EventBatch>,
}

impl RunRow {
    /// Says whether nobody works on it who could end it.
    pub(super) fn waits(&self) -> bool {
        let state = self.run.state;
        matches!(state, RunState::Queued | RunState::Interrupted) || self.is_lost()
    }

    fn is_lost(&self) -> bool {
        self.run.state == RunState::Running && self.lease_until < Utc::now()
    }

    /// Returns the run as an operator sees it.
    pub(super) fn seen(&self) -> Run {
        Run { lost: self.is_lost(), ..self.run.clone() }
    }

    /// Says whether it has a batch that begins there and goes so far.
    pub(super) fn holds(&self, fence: u64, first: u64, last: u64) -> bool {
        self.events.get(&(fence, first)).is_some_and(|known| known.last >= last)
    }

    /// Stores a batch, in place of a shorter one with the same beginning.
    pub(super) fn store(&mut self, batch: EventBatch) {
        let known = self.events.get(&(batch.fence, batch.first));
        if known.is_none_or(|known| known.last < batch.last) {
            self.events.insert((batch.fence, batch.first), batch);
        }
    }
}

#[derive(Debug)]
pub(super) struct KeyRow {
    pub(super) body_hash: String,
    pub(super) run: RunId,
    pub(super) after: Seq,
    pub(super) at: DateTime<Utc>,
}

#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) threads: BTreeMap<Key, ThreadRow>,
    pub(super) runs: BTreeMap<RunId, RunRow>,
    pub(super) keys: BTreeMap<(Part, Part, String, String), KeyRow>,
    pub(super) versions: BTreeMap<String, GraphVersion>,
    pub(super) questions: BTreeMap<InterruptId, QuestionRow>,
    pub(super) pending: BTreeMap<(RunId, u64, TaskId), Vec<u8>>,
    pub(super) cache: BTreeMap<(Part, CacheKey), CacheRow>,
    pub(super) hooks: BTreeMap<HookId, HookRow>,
    pub(super) notes: VecDeque<Noted>,
    pub(super) next_ord: u64,
}

#[derive(Debug)]
pub(super) struct CacheRow {
    pub(super) thread: ThreadId,
    pub(super) data: Vec<u8>,
    pub(super) expires_at: DateTime<Utc>,
}

/// What is told; the run in it is the id of its row.
#[derive(Debug)]
pub(super) struct HookRow {
    pub(super) run: RunId,
    pub(super) url: String,
    pub(super) data: Vec<u8>,
    pub(super) state: HookState,
    pub(super) attempts: u32,
    pub(super) error: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) due_at: DateTime<Utc>,
    pub(super) finished_at: Option<DateTime<Utc>>,
}

#[derive(Debug)]
pub(super) struct QuestionRow {
    pub(super) question: OpenQuestion,
    pub(super) expires_at: Option<DateTime<Utc>>,
    pub(super) answer: Option<Vec<u8>>,
    pub(super) closed: bool,
    /// Its run is: that may be taken back.
    pub(super) over: bool,
}

impl QuestionRow {
    /// Says whether somebody may hear of it: who comes late hears who was first.
    pub(super) fn is_known(&self) -> bool {
        !self.closed && !self.over || self.answer.is_some()
    }

    /// Says whether it waits for an answer, or for the end of its time to be noted.
    pub(super) fn is_open(&self) -> bool {
        self.is_known() && self.answer.is_none()
    }

    /// Returns when its time was over without an answer.
    pub(super) fn expired(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.expires_at.filter(|at| self.answer.is_none() && *at <= now)
    }

    /// Says whether somebody may answer it.
    pub(super) fn is_for(&self, owner: &Owner, agent: bool) -> bool {
        let asked = &self.question.key.owner;
        *asked == *owner && !self.question.agent
            || agent && self.question.agent && asked.tenant == owner.tenant
    }
}

/// How long an idempotency key is remembered.
pub(super) const KEY_LIFE: chrono::TimeDelta = chrono::TimeDelta::hours(24);

pub(super) fn lease(process_lease: Duration) -> DateTime<Utc> {
    Utc::now() + chrono::TimeDelta::from_std(process_lease).unwrap_or(chrono::TimeDelta::MAX)
}

pub(super) fn ago(age: Duration) -> DateTime<Utc> {
    let age = chrono::TimeDelta::from_std(age).unwrap_or(chrono::TimeDelta::MAX);
    Utc::now().checked_sub_signed(age).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

pub(super) fn holds_thread(state: RunState) -> bool {
    matches!(state, RunState::Running | RunState::Interrupted)
}

/// Says whether a run waits for its turn on its thread; one that is delayed has no turn yet.
pub(super) fn has_turn(run: &Run) -> bool {
    run.state == RunState::Queued && run.due_at.is_none()
}

/// Says whether a run keeps others of its thread waiting.
pub(super) fn is_open(run: &Run) -> bool {
    holds_thread(run.state) || has_turn(run)
}

impl Tables {
    /// Returns the run when it is this owner's.
    pub(super) fn own(&mut self, owner: &Owner, run: RunId) -> Option<&mut RunRow> {
        self.runs.get_mut(&run).filter(|row| row.run.key.owner == *owner)
    }

    pub(super) fn thread_of(&mut self, owner: &Owner, thread: ThreadId) -> Option<&mut ThreadRow> {
        self.threads.values_mut().find(|row| row.thread == thread && row.key.owner == *owner)
    }

    /// Lists the runs of a thread in order of acceptance.
    pub(super) fn runs_of(&self, thread: ThreadId) -> Vec<&RunRow> {
        let mut rows: Vec<&RunRow> = self.runs.values().filter(|row| row.run.thread == thread).collect();
        rows.sort_by_key(|row| row.ord);
        rows
    }

    /// Returns the newest run of a thread; one that is delayed comes later.
    pub(super) fn newest(&self, thread: ThreadId) -> Option<&RunRow> {
        self.runs_of(thread).into_iter().rev().find(|row| row.run.due_at.is_none())
    }

    /// Lets the questions of a run be over with it, or not any more.
    pub(super) fn end_questions(&mut self, run: RunId, over: bool) {
        for row in self.questions.values_mut().filter(|row| row.question.run == run) {
            row.over = over;
        }
    }

    /// Says whether the time of a question of a run is over.
    pub(super) fn is_due(&self, run: RunId, now: DateTime<Utc>) -> bool {
        let due = |row: &QuestionRow| row.question.run == run && row.is_open() && row.expired(now).is_some();
        let stopped = self.runs.get(&run).is_some_and(|row| row.stopped);
        !stopped && self.questions.values().any(due)
    }

    /// Replaces what a run goes on with, and what is to come of it.
    pub(super) fn begin_with(&mut self, run: RunId, input: Option<Vec<u8>>, wishes: Wishes) {
        let Some(row) = self.runs.get_mut(&run) else { return };
        if let Some(input) = input {
            row.run.input = input;
        }
        if wishes.webhook.is_some() {
            row.run.webhook = wishes.webhook;
        }
        row.read_until = wishes.read_for.map(lease);
        row.run.needs_reader = row.read_until.is_some();
    }

    /// Finds what a key was used for.
    pub(super) fn keyed(
        &self,
        owner: &Owner,
        key: Option<&Idempotency>,
        now: DateTime<Utc>,
    ) -> Option<Keyed> {
        let key = key?;
        let place = (owner.tenant.clone(), owner.user.clone(), key.route.clone(), key.key.clone());
        let row = self.keys.get(&place).filter(|row| now - row.at < KEY_LIFE)?;
        if row.body_hash != key.body_hash {
            return Some(Keyed::Other);
        }
        let run = Box::new(self.runs.get(&row.run)?.run.clone());
        Some(Keyed::Same { run, after: row.after })
    }

    /// Notes what a key is used for.
    pub(super) fn note(
        &mut self,
        owner: &Owner,
        key: Option<Idempotency>,
        row: impl FnOnce(String) -> KeyRow,
    ) {
        if let Some(Idempotency { route, key, body_hash }) = key {
            let place = (owner.tenant.clone(), owner.user.clone(), route, key);
            self.keys.insert(place, row(body_hash));
        }
    }

    /// Makes a process the owner of a run.
    pub(super) fn take(&mut self, run: RunId, process: &Process, crashed: bool) -> Option<Claim> {
        let row = self.runs.get_mut(&run)?;
        row.run.state = RunState::Running;
        row.run.fence += 1;
        row.run.crashes += u32::from(crashed);
        row.instance.clone_from(&process.instance);
        row.boot = process.boot;
        row.lease_until = lease(process.lease);
        (row.run.result, row.run.finished_at, row.suspect) = (None, None, false);
        (row.run.kept, row.swept, row.stopped) = (Kept::All, false, false);
        let run = row.run.clone();
        let head = self.threads.get(&key(&run.key)).and_then(|thread| thread.head);
        Some(Claim { run, head, crashed })
    }

    pub(super) fn open_questions(&self, is: impl Fn(&QuestionRow) -> bool) -> Vec<OpenQuestion> {
        let now = Utc::now();
        let open = |row: &&QuestionRow| row.is_open() && row.expired(now).is_none() && is(row);
        let mut rows: Vec<_> = self.questions.values().filter(open).collect();
        rows.sort_by_key(|row| (row.question.created_at, row.question.id.clone()));
        rows.into_iter().map(|row| row.question.clone()).collect()
    }

    pub(super) fn view(&self, row: &ThreadRow) -> Thread {
        Thread {
            key: row.key.clone(),
            thread: row.thread,
            head: row.head,
            graph: row.graph.clone(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            last_run: self.newest(row.thread).map(|row| (row.run.run, row.run.state)),
        }
    }
}
