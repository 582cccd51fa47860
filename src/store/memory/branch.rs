//! Runs that begin from outside.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::tables::{KeyRow, QuestionRow, RunRow, Tables, ThreadRow, is_open, key};
use crate::id::{CheckpointId, RunId, Seq, ThreadId};
use crate::store::{Branch, Branched, EventBatch, Kept, OpenQuestion, Origin, Question, Run, RunState};

impl Tables {
    /// Stores a run from outside.
    pub(super) fn branch(&mut self, branch: Branch) -> Branched {
        let now = Utc::now();
        if let Some(known) = self.keyed(&branch.key.owner, branch.idempotency.as_ref(), now) {
            return Branched::Known(known);
        }
        let place = key(&branch.key);
        let thread = match &branch.origin {
            Origin::Head { head, result, events } => {
                let Some(row) = self.threads.get(&place) else { return Branched::Gone };
                let (thread, at) = (row.thread, row.head);
                if thread != branch.thread {
                    return Branched::Moved;
                }
                let runs = self.runs_of(thread).into_iter().filter(|row| is_open(&row.run));
                let open: Vec<(RunId, RunState)> = runs.map(|row| (row.run.run, row.run.state)).collect();
                if let Some((busy, _)) = open.iter().find(|(_, state)| *state != RunState::Interrupted) {
                    return Branched::Busy(*busy);
                }
                if at != *head {
                    return Branched::Moved;
                }
                for (run, _) in open {
                    self.end_waiting(run, RunState::Cancelled, result.clone(), events.clone());
                }
                thread
            }
            Origin::Thread(source) => {
                if self.thread_of(&branch.key.owner, *source).is_none() {
                    return Branched::Gone;
                }
                if self.threads.contains_key(&place) {
                    return Branched::Exists;
                }
                branch.thread
            }
        };
        Branched::Done(Box::new(self.begin_branch(branch, thread, now)))
    }

    /// Ends a run that waits for its turn or for a person.
    pub(super) fn end_waiting(&mut self, run: RunId, state: RunState, result: Vec<u8>, events: EventBatch) {
        let Some(row) = self.runs.get_mut(&run) else { return };
        // The end of a run that had an owner sorts after all that the owner sent.
        row.run.fence += u64::from(row.run.fence > 0);
        let events = EventBatch { fence: row.run.fence, ..events };
        row.run.state = state;
        row.run.cancel_requested = true;
        row.run.result = Some(result.clone());
        row.run.finished_at = Some(Utc::now());
        row.events.insert((events.fence, events.first), events);
        self.end_questions(run, true);
        self.pending.retain(|(of, ..), _| *of != run);
        self.tell(run, result);
    }

    /// Moves the head of a thread back to before a run; of an update or a fork, to what it went on from.
    pub(super) fn move_back(&mut self, run: RunId) {
        let Some(of) = self.runs.get(&run).map(|row| key(&row.run.key)) else { return };
        let Some(thread) = self.threads.get_mut(&of) else { return };
        let is_of = |id: &CheckpointId| thread.checkpoints.get(id).is_some_and(|row| row.run == Some(run));
        let first = thread
            .checkpoints
            .values()
            .find(|row| row.run == Some(run) && row.parent.is_none_or(|parent| !is_of(&parent)));
        if let Some(first) = first {
            let outside = matches!(first.source.as_str(), "fork" | "update");
            thread.head = if outside { Some(first.checkpoint) } else { first.parent };
            thread.updated_at = Utc::now();
        }
    }

    fn begin_branch(&mut self, branch: Branch, thread: ThreadId, now: DateTime<Utc>) -> Run {
        let row = self.threads.entry(key(&branch.key)).or_insert_with(|| ThreadRow {
            key: branch.key.clone(),
            thread,
            head: None,
            graph: branch.graph.clone(),
            hash: String::new(),
            created_at: now,
            updated_at: now,
            checkpoints: BTreeMap::new(),
        });
        row.hash.clone_from(&branch.hash);
        row.updated_at = now;
        row.head = Some(branch.checkpoint.checkpoint);
        row.checkpoints.insert(branch.checkpoint.checkpoint, branch.checkpoint);
        let run = Run {
            run: branch.run,
            key: branch.key,
            thread,
            graph: branch.graph,
            hash: branch.hash,
            state: branch.state,
            fence: 1,
            step: 1,
            crashes: 0,
            cancel_requested: false,
            rollback: false,
            input: branch.input,
            result: branch.result,
            created_at: now,
            finished_at: (branch.state != RunState::Interrupted).then_some(now),
            kept: Kept::All,
            due_at: None,
            needs_reader: false,
            lost: false,
            webhook: None,
            wake_at: None,
        };
        // A microsecond apart, so that they are listed as they were put.
        for (place, Question { id, agent, data, expires_at }) in (0..).zip(branch.questions) {
            let question = OpenQuestion {
                id: id.clone(),
                run: run.run,
                key: run.key.clone(),
                thread,
                agent,
                data,
                created_at: now + chrono::TimeDelta::microseconds(place),
                answered: None,
                expired: None,
            };
            let row = QuestionRow { question, expires_at, answer: None, closed: false, over: false };
            self.questions.insert(id, row);
        }
        self.next_ord += 1;
        let row = RunRow {
            run: run.clone(),
            ord: self.next_ord,
            instance: String::new(),
            boot: Uuid::nil(),
            lease_until: now,
            read_until: None,
            suspect: false,
            swept: false,
            stopped: branch.stopped,
            events: BTreeMap::from([((branch.events.fence, branch.events.first), branch.events)]),
        };
        self.runs.insert(run.run, row);
        let row = |body_hash| KeyRow { body_hash, run: run.run, after: Seq::default(), at: now };
        self.note(&run.key.owner, branch.idempotency, row);
        run
    }
}
