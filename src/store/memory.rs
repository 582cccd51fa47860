//! The store that forgets: for tests, for `graphloom chat`, and as the plainest statement of the contract.
//!
//! Invariant: each operation holds the one lock from its first look to its last write.

mod audit;
mod branch;
mod claim;
mod hook;
mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{
    Accepted, Act, Actor, Answer, Answering, AuditFilter, Beat, Branch, Branched, Checkpoint, Claim, Commit,
    Committed, Counts, ERASED, Erased, EventBatch, GraphVersion, Hook, HookCounts, HookFilter, Idempotency,
    Kept, Keyed, NewRun, News, Noted, OnBusy, OpenQuestion, Process, Question, Result, Resume, Resumed, Run,
    RunFilter, RunState, Store, StoreError, Thread, Told, VersionUse, Wishes, news,
};
use crate::id::{
    CacheKey, CheckpointId, HookId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey,
};
use tables::{
    CacheRow, KeyRow, QuestionRow, RunRow, Tables, ThreadRow, ago, has_turn, holds_thread, is_open, key,
    lease,
};

/// Keeps everything in memory, for as long as the process lives.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Tables>);

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn migrate(&self) -> Result<()> {
        Ok(())
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }

    async fn put_graph_version(&self, version: &GraphVersion) -> Result<()> {
        let mut tables = self.lock();
        if !tables.versions.contains_key(&version.hash) {
            tables.versions.insert(version.hash.clone(), version.clone());
            tables.noted(Noted::published(version));
        }
        Ok(())
    }

    async fn graph_version(&self, hash: &str) -> Result<Option<GraphVersion>> {
        Ok(self.lock().versions.get(hash).cloned())
    }

    async fn hashes(&self, beginning: &str, limit: u32) -> Result<Vec<String>> {
        let tables = self.lock();
        let mut hashes: Vec<_> =
            tables.versions.keys().filter(|hash| hash.starts_with(beginning)).cloned().collect();
        hashes.sort();
        hashes.truncate(limit as usize);
        Ok(hashes)
    }

    async fn version_use(&self, hash: &str) -> Result<VersionUse> {
        let tables = self.lock();
        let runs = tables.runs.values().filter(|row| row.run.hash == hash).map(|row| row.run.state);
        let open = runs.filter(|state| *state == RunState::Queued || holds_thread(*state));
        let (open_runs, paused_runs) = open.fold((0, 0), |(open, paused), state| {
            (open + 1, paused + u64::from(state == RunState::Interrupted))
        });
        let threads = tables.threads.values().filter(|row| row.hash == hash).count() as u64;
        Ok(VersionUse { threads, open_runs, paused_runs })
    }

    async fn paused_versions(&self) -> Result<BTreeMap<(String, String), u64>> {
        let tables = self.lock();
        let mut counts = BTreeMap::new();
        for row in tables.runs.values().filter(|row| row.run.state == RunState::Interrupted) {
            *counts.entry((row.run.graph.clone(), row.run.hash.clone())).or_default() += 1;
        }
        Ok(counts)
    }

    async fn accept(&self, new: NewRun) -> Result<Accepted> {
        let mut tables = self.lock();
        let now = Utc::now();
        if let Some(known) = tables.keyed(&new.key.owner, new.idempotency.as_ref(), now) {
            return Ok(Accepted::Known(known));
        }
        let (thread, head) = match tables.threads.get(&key(&new.key)) {
            Some(row) => (row.thread, row.head),
            None => (ThreadId::new(), None),
        };
        let other = tables.threads.get(&key(&new.key)).and_then(|row| {
            let fits = row.hash == new.hash || new.from.as_ref() == Some(&row.hash);
            let other = Accepted::OtherVersion { graph: row.graph.clone(), hash: row.hash.clone() };
            (row.graph != new.graph || !fits).then_some((row.graph != new.graph, other))
        });
        if let Some((true, other)) = other {
            return Ok(other);
        }
        let open: Vec<(RunId, RunState)> = tables
            .runs_of(thread)
            .iter()
            .filter(|row| is_open(&row.run))
            .map(|row| (row.run.run, row.run.state))
            .collect();
        let waits =
            |(run, state): &(RunId, RunState)| *state == RunState::Interrupted && !tables.is_due(*run, now);
        if new.delay.is_none() && open.iter().any(waits) {
            return Ok(Accepted::Waits);
        }
        if let Some((_, other)) = other {
            return Ok(other);
        }
        let (in_line, delayed) = tables.waiting(thread);
        if new.delay.is_some() {
            if delayed >= new.queue_limit as usize {
                return Ok(Accepted::QueueFull);
            }
        } else if let Some((active, _)) = open.first() {
            if new.on_busy == OnBusy::Reject {
                return Ok(Accepted::Busy { active: *active });
            }
            if in_line >= new.queue_limit as usize {
                return Ok(Accepted::QueueFull);
            }
        }
        let tenant = &new.key.owner.tenant;
        let room = new.delay.is_none() && tables.has_room(new.run, tenant, &new.process);
        let free = room && open.is_empty();
        if new.delay.is_none() && !free && tables.in_line(tenant) >= new.process.tenant_queue as usize {
            return Ok(Accepted::TenantQueueFull);
        }
        let row = tables.threads.entry(key(&new.key)).or_insert_with(|| ThreadRow {
            key: new.key.clone(),
            thread,
            head: None,
            graph: new.graph.clone(),
            hash: String::new(),
            created_at: now,
            updated_at: now,
            checkpoints: BTreeMap::new(),
        });
        row.hash.clone_from(&new.hash);
        row.updated_at = now;
        let Wishes { read_for, webhook } = new.wishes;
        let run = Run {
            run: new.run,
            key: new.key,
            thread,
            graph: new.graph,
            hash: new.hash,
            state: if free { RunState::Running } else { RunState::Queued },
            fence: u64::from(free),
            step: 0,
            crashes: 0,
            cancel_requested: false,
            rollback: false,
            input: new.input,
            result: None,
            created_at: now,
            finished_at: None,
            kept: Kept::All,
            due_at: new.delay.map(lease),
            needs_reader: read_for.is_some(),
            lost: false,
            webhook,
            wake_at: None,
        };
        tables.next_ord += 1;
        let row = RunRow {
            run: run.clone(),
            ord: tables.next_ord,
            instance: new.process.instance,
            boot: new.process.boot,
            lease_until: lease(new.process.lease),
            read_until: read_for.map(lease),
            suspect: false,
            swept: false,
            stopped: false,
            events: BTreeMap::new(),
        };
        tables.runs.insert(new.run, row);
        let row = |body_hash| KeyRow { body_hash, run: new.run, after: Seq::default(), at: now };
        tables.note(&run.key.owner, new.idempotency, row);
        Ok(if free { Accepted::Claimed { run, head } } else { Accepted::Queued { run } })
    }

    async fn branch(&self, branch: Branch) -> Result<Branched> {
        Ok(self.lock().branch(branch))
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        let mut tables = self.lock();
        let now = Utc::now();
        let Some(row) = tables.own(&commit.owner, commit.run) else { return Ok(Committed::Lost) };
        let run = &mut row.run;
        if run.fence != commit.fence || run.state != RunState::Running || run.step != commit.step {
            return Ok(Committed::Lost);
        }
        run.step += 1;
        if !matches!(commit.next, Some((RunState::Dead, _))) {
            run.crashes = 0;
        }
        row.lease_until = lease(commit.lease);
        let cancel_requested = run.cancel_requested;
        if let Some((state, result)) = commit.next.clone() {
            run.state = state;
            if !holds_thread(state) && state != RunState::Queued {
                run.finished_at = Some(now);
            }
            run.result = result;
        }
        let thread_key = run.key.clone();
        let kept = commit.appended.is_none_or(|(first, last)| row.holds(commit.fence, first, last));
        if let Some(batch) = commit.events {
            row.store(batch);
        }
        // A microsecond apart, so that they are listed as they were put.
        for (place, Question { id, agent, data, expires_at }) in (0..).zip(commit.questions) {
            let question = OpenQuestion {
                id: id.clone(),
                run: commit.run,
                key: thread_key.clone(),
                thread: commit.thread,
                agent,
                data,
                created_at: now + chrono::TimeDelta::microseconds(place),
                answered: None,
                expired: None,
            };
            let row = QuestionRow { question, expires_at, answer: None, closed: false, over: false };
            tables.questions.entry(id).or_insert(row);
        }
        for id in &commit.closed {
            if let Some(row) = tables.questions.get_mut(id).filter(|row| row.question.run == commit.run) {
                row.closed = true;
            }
        }
        for entry in commit.cached {
            let row = CacheRow { thread: commit.thread, data: entry.data, expires_at: lease(entry.ttl) };
            tables.cache.insert((commit.owner.tenant.clone(), entry.key), row);
        }
        let failed = matches!(commit.next, Some((RunState::Failed | RunState::Dead, _)));
        if let Some(last) = commit.pending.filter(|_| !failed) {
            tables.pending.retain(|(run, step, _), _| *run != commit.run || *step > last);
        }
        let back = matches!(commit.next, Some((RunState::RolledBack, _)));
        match commit.next {
            Some((RunState::Interrupted, _)) => {
                let came =
                    |row: &QuestionRow| row.question.run == commit.run && !row.closed && row.answer.is_some();
                let overtaken = cancel_requested || !commit.stopped && tables.questions.values().any(came);
                if let Some(row) = tables.runs.get_mut(&commit.run) {
                    row.stopped = commit.stopped;
                    if overtaken {
                        row.run.state = RunState::Queued;
                    } else {
                        // Its stream ends here, and whoever read it has no more to read.
                        (row.read_until, row.run.needs_reader) = (None, false);
                    }
                }
                if !overtaken {
                    tables.tell(commit.run, commit.notice.unwrap_or_default());
                }
            }
            Some((state, result)) if state != RunState::Queued => {
                tables.end_questions(commit.run, true);
                tables.tell(commit.run, result.unwrap_or_default());
            }
            _ => {}
        }
        if let Some(thread) = tables.thread_of(&commit.owner, commit.thread) {
            thread.updated_at = now;
            for checkpoint in commit.checkpoints {
                thread.head = Some(checkpoint.checkpoint);
                thread.checkpoints.insert(checkpoint.checkpoint, checkpoint);
            }
        }
        if back {
            tables.move_back(commit.run);
        }
        Ok(Committed::Done { cancel_requested, kept })
    }

    async fn append_events(&self, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
        let mut tables = self.lock();
        for (owner, run, batch) in batches {
            let Some(row) = tables.own(&owner, run).filter(|row| row.run.fence == batch.fence) else {
                continue;
            };
            row.store(batch);
        }
        Ok(())
    }

    async fn claim(&self, process: &Process, limit: u32) -> Result<Vec<Claim>> {
        Ok(self.lock().claim(process, limit))
    }

    async fn heartbeat(&self, process: &Process, live: &[RunId]) -> Result<Beat> {
        let mut tables = self.lock();
        let mine = |row: &&mut RunRow| {
            let owned = row.instance == process.instance && row.boot == process.boot;
            row.run.state == RunState::Running && owned && live.contains(&row.run.run)
        };
        let mut beat = Beat { lost: live.to_vec(), ..Beat::default() };
        for row in tables.runs.values_mut().filter(mine) {
            row.lease_until = lease(process.lease);
            beat.lost.retain(|run| *run != row.run.run);
            if row.run.cancel_requested {
                beat.cancelled.push(row.run.run);
            }
        }
        Ok(beat)
    }

    async fn asked(&self, process: &Process) -> Result<Vec<RunId>> {
        let tables = self.lock();
        let asked = tables.runs.values().filter(|row| {
            let mine = row.instance == process.instance && row.boot == process.boot;
            row.run.state == RunState::Running && mine && row.run.cancel_requested
        });
        Ok(asked.map(|row| row.run.run).collect())
    }

    async fn release(&self, owner: &Owner, run: RunId, fence: u64) -> Result<()> {
        let mut tables = self.lock();
        if let Some(row) = tables.own(owner, run)
            && row.run.state == RunState::Running
            && row.run.fence == fence
        {
            row.run.state = RunState::Queued;
        }
        Ok(())
    }

    async fn request_cancel(
        &self,
        owner: &Owner,
        run: RunId,
        actor: Actor,
        rollback: bool,
        result: Vec<u8>,
        events: EventBatch,
    ) -> Result<Option<Run>> {
        let mut tables = self.lock();
        let Some(row) = tables.own(owner, run) else { return Ok(None) };
        let is_first = !row.run.cancel_requested && row.run.finished_at.is_none();
        match row.run.state {
            _ if row.waits() => {
                let state = if rollback { RunState::RolledBack } else { RunState::Cancelled };
                tables.end_waiting(run, state, result, events);
                if rollback {
                    tables.move_back(run);
                }
            }
            RunState::Running => {
                row.run.cancel_requested = true;
                row.run.rollback |= rollback;
            }
            _ => {}
        }
        if is_first {
            tables.noted(Noted::cancelled(owner, run, actor, rollback));
        }
        Ok(tables.own(owner, run).map(|row| row.run.clone()))
    }

    async fn answer(&self, answer: Answer) -> Result<Answering> {
        let mut tables = self.lock();
        let now = Utc::now();
        if answer.answers.is_empty() {
            return Ok(Answering::Unknown(InterruptId("".into())));
        }
        if let Some(known) = tables.keyed(&answer.owner, answer.idempotency.as_ref(), now) {
            return Ok(Answering::Known(known));
        }
        for (id, _) in &answer.answers {
            let row = tables
                .questions
                .get(id)
                .filter(|row| row.question.run == answer.run && row.is_for(&answer.owner, answer.agent));
            let Some(row) = row else { return Ok(Answering::Unknown(id.clone())) };
            if let Some((by, at)) = &row.question.answered {
                return Ok(Answering::Taken { id: id.clone(), by: by.clone(), at: *at });
            }
            if let Some(at) = row.expired(now) {
                return Ok(Answering::Expired { id: id.clone(), at });
            }
            if !row.is_known() {
                return Ok(Answering::Unknown(id.clone()));
            }
        }
        for (id, data) in answer.answers {
            tables.noted(Noted::answered(&answer.owner, &id, &data));
            if let Some(row) = tables.questions.get_mut(&id) {
                row.answer = Some(data);
                row.question.answered = Some((answer.by.clone(), now));
            }
        }
        let Some(row) = tables.runs.get(&answer.run) else {
            return Err(StoreError::Corrupt { what: "run", why: "its question has none".into() });
        };
        let (run, last) = (row.run.clone(), row.events.last_key_value());
        let waits = run.state == RunState::Interrupted;
        let after = if waits {
            Seq { fence: run.fence, n: u64::MAX }
        } else {
            last.map_or(Seq::default(), |(_, batch)| Seq { fence: batch.fence, n: batch.last })
        };
        let row = |body_hash| KeyRow { body_hash, run: answer.run, after, at: now };
        tables.note(&answer.owner, answer.idempotency, row);
        if !waits {
            return Ok(Answering::Stored { run, after });
        }
        tables.begin_with(answer.run, answer.input, answer.wishes);
        if !tables.has_room(run.run, &run.key.owner.tenant, &answer.process) {
            let run = tables.queue(answer.run).unwrap_or(run);
            return Ok(Answering::Stored { run, after });
        }
        match tables.take(answer.run, &answer.process, false) {
            Some(claim) => Ok(Answering::Claimed(claim)),
            None => Err(StoreError::Corrupt { what: "run", why: "it is gone".into() }),
        }
    }

    async fn keyed(&self, owner: &Owner, key: &Idempotency) -> Result<Option<Keyed>> {
        Ok(self.lock().keyed(owner, Some(key), Utc::now()))
    }

    async fn answers(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        let tables = self.lock();
        let of =
            |row: &&QuestionRow| row.question.run == run && row.question.key.owner == *owner && !row.closed;
        let rows = tables.questions.values().filter(of);
        Ok(rows.filter_map(|row| Some((row.question.id.clone(), row.answer.clone()?))).collect())
    }

    async fn given(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        let tables = self.lock();
        let of = |row: &&QuestionRow| row.question.run == run && row.question.key.owner == *owner;
        let rows = tables.questions.values().filter(of);
        Ok(rows.filter_map(|row| Some((row.question.id.clone(), row.answer.clone()?))).collect())
    }

    async fn questions(&self, key: &ThreadKey) -> Result<Vec<OpenQuestion>> {
        Ok(self.lock().open_questions(|row| row.question.key == *key))
    }

    async fn question(&self, owner: &Owner, agent: bool, id: &InterruptId) -> Result<Option<OpenQuestion>> {
        let (tables, now) = (self.lock(), Utc::now());
        let row = tables.questions.get(id).filter(|row| row.is_for(owner, agent));
        let row = row.filter(|row| row.is_known() || row.expired(now).is_some());
        Ok(row.map(|row| OpenQuestion { expired: row.expired(now), ..row.question.clone() }))
    }

    async fn approvals(
        &self,
        tenant: &Part,
        after: Option<(DateTime<Utc>, InterruptId)>,
        limit: u32,
    ) -> Result<Vec<OpenQuestion>> {
        let of = |row: &QuestionRow| {
            let place = (row.question.created_at, row.question.id.clone());
            let comes = after.as_ref().is_none_or(|after| place > *after);
            comes && row.question.agent && row.question.key.owner.tenant == *tenant
        };
        let mut open = self.lock().open_questions(of);
        open.truncate(limit as usize);
        Ok(open)
    }

    async fn put_pending(
        &self,
        owner: &Owner,
        run: RunId,
        fence: u64,
        step: u64,
        task: &TaskId,
        data: Vec<u8>,
    ) -> Result<bool> {
        let mut tables = self.lock();
        let holds = |row: &mut RunRow| row.run.fence == fence && row.run.state == RunState::Running;
        if !tables.own(owner, run).is_some_and(holds) {
            return Ok(false);
        }
        tables.pending.entry((run, step, task.clone())).or_insert(data);
        Ok(true)
    }

    async fn pending(&self, owner: &Owner, run: RunId, step: u64) -> Result<Vec<(TaskId, Vec<u8>)>> {
        let mut tables = self.lock();
        if tables.own(owner, run).is_none() {
            return Ok(Vec::new());
        }
        let of = tables.pending.iter().filter(|((of, at, _), _)| *of == run && *at == step);
        Ok(of.map(|((_, _, task), data)| (task.clone(), data.clone())).collect())
    }

    async fn cached(&self, tenant: &Part, keys: &[CacheKey]) -> Result<Vec<(CacheKey, Vec<u8>)>> {
        let (tables, now) = (self.lock(), Utc::now());
        let found = keys.iter().filter_map(|key| {
            let row = tables.cache.get(&(tenant.clone(), key.clone())).filter(|row| row.expires_at > now)?;
            Some((key.clone(), row.data.clone()))
        });
        Ok(found.collect())
    }

    async fn resume(&self, resume: Resume) -> Result<Resumed> {
        let Resume { key: ThreadKey { owner, .. }, run, process, input, wishes, idempotency } = resume;
        let (mut tables, now) = (self.lock(), Utc::now());
        if let Some(known) = tables.keyed(&owner, idempotency.as_ref(), now) {
            return Ok(Resumed::Known(known));
        }
        let Some(row) = tables.own(&owner, run) else { return Ok(Resumed::Nothing) };
        let (thread, state, fence) = (row.run.thread, row.run.state, row.run.fence);
        let newest = tables.newest(thread).is_some_and(|newest| newest.run.run == run);
        if state != RunState::Interrupted && !(newest && state == RunState::Failed) {
            return Ok(Resumed::Nothing);
        }
        let after = Seq { fence, n: u64::MAX };
        tables.note(&owner, idempotency, |body_hash| KeyRow { body_hash, run, after, at: now });
        tables.begin_with(run, input, wishes);
        if let Some(row) = tables.runs.get_mut(&run) {
            (row.run.crashes, row.run.cancel_requested, row.run.rollback) = (0, false, false);
        }
        tables.end_questions(run, false);
        if !tables.has_room(run, &owner.tenant, &process) {
            return Ok(tables.queue(run).map_or(Resumed::Nothing, |run| Resumed::Queued(Box::new(run))));
        }
        Ok(tables
            .take(run, &process, false)
            .map_or(Resumed::Nothing, |claim| Resumed::Claimed(Box::new(claim))))
    }

    async fn run(&self, owner: &Owner, run: RunId) -> Result<Option<Run>> {
        Ok(self.lock().own(owner, run).map(|row| row.run.clone()))
    }

    async fn events(&self, owner: &Owner, run: RunId, after: Seq, limit: usize) -> Result<Vec<EventBatch>> {
        let mut tables = self.lock();
        let Some(row) = tables.own(owner, run) else { return Ok(Vec::new()) };
        let mut left = limit;
        let mut batches = Vec::new();
        for batch in row.events.values().filter(|b| Seq { fence: b.fence, n: b.last } > after) {
            if !batches.is_empty() && batch.data.len() > left {
                break;
            }
            left = left.saturating_sub(batch.data.len());
            batches.push(batch.clone());
        }
        Ok(batches)
    }

    async fn news(&self, of: &[(Owner, RunId, Seq)], limit: usize) -> Result<Vec<News>> {
        news::one_by_one(self, of, limit).await
    }

    async fn thread(&self, thread: &ThreadKey) -> Result<Option<Thread>> {
        let tables = self.lock();
        Ok(tables.threads.get(&key(thread)).map(|row| tables.view(row)))
    }

    async fn threads(
        &self,
        owner: &Owner,
        before: Option<(DateTime<Utc>, ThreadId)>,
        limit: u32,
    ) -> Result<Vec<Thread>> {
        let tables = self.lock();
        let mut rows: Vec<&ThreadRow> = tables
            .threads
            .values()
            .filter(|row| row.key.owner == *owner)
            .filter(|row| before.is_none_or(|cursor| (row.updated_at, row.thread) < cursor))
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.updated_at, row.thread)));
        Ok(rows.into_iter().take(limit as usize).map(|row| tables.view(row)).collect())
    }

    async fn delete_thread(&self, thread: &ThreadKey) -> Result<bool> {
        Ok(self.lock().delete(thread, Actor::User))
    }

    async fn erase(&self, tenant: &Part, user: Option<&Part>, limit: u32, before: u64) -> Result<Erased> {
        let is_of = |owner: &Owner| owner.tenant == *tenant && user.is_none_or(|user| owner.user == *user);
        let mut tables = self.lock();
        let keys = tables.threads.values().map(|row| row.key.clone());
        let threads: Vec<ThreadKey> = keys.filter(|key| is_of(&key.owner)).take(limit as usize).collect();
        for key in &threads {
            tables.delete(key, Actor::Operator);
        }
        if !threads.is_empty() {
            return Ok(Erased::Threads(threads.len() as u64));
        }
        tables.keys.retain(|(of, by, ..), _| of != tenant || user.is_some_and(|user| by != user));
        let of_tenant = |row: &&mut QuestionRow| row.question.key.owner.tenant == *tenant;
        for row in tables.questions.values_mut().filter(of_tenant) {
            if let Some((by, _)) = &mut row.question.answered
                && user.is_some_and(|user| user.as_str() == by)
            {
                ERASED.clone_into(by);
            }
        }
        Ok(Erased::All(tables.erased(tenant, user, before)))
    }

    async fn audit(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<Noted>> {
        Ok(self.lock().audit(filter, limit))
    }

    async fn forget_audit(&self, age: Duration, limit: u32) -> Result<u64> {
        Ok(self.lock().forget_audit(age, limit))
    }

    async fn runs(&self, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
        let tables = self.lock();
        let before = filter.before.map(|run| tables.runs.get(&run).map_or(0, |row| row.ord));
        let is_asked = |row: &&RunRow| {
            let run = &row.run;
            (filter.states.is_empty() || filter.states.contains(&run.state))
                && filter.tenant.as_ref().is_none_or(|tenant| run.key.owner.tenant == *tenant)
                && before.is_none_or(|before| row.ord < before)
                && filter.thread.is_none_or(|thread| run.thread == thread)
        };
        let mut rows: Vec<&RunRow> = tables.runs.values().filter(is_asked).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.ord));
        Ok(rows.into_iter().take(limit as usize).map(RunRow::seen).collect())
    }

    async fn counts(&self) -> Result<Counts> {
        let tables = self.lock();
        let count = |state| tables.runs.values().filter(|row| row.run.state == state).count() as u64;
        let queued = tables.runs.values().filter(|row| has_turn(&row.run)).count() as u64;
        Ok(Counts {
            queued,
            delayed: count(RunState::Queued) - queued,
            running: count(RunState::Running),
            interrupted: count(RunState::Interrupted),
            dead: count(RunState::Dead),
        })
    }

    async fn find_run(&self, run: RunId) -> Result<Option<Run>> {
        Ok(self.lock().runs.get(&run).map(RunRow::seen))
    }

    async fn retry(&self, run: RunId) -> Result<Option<Run>> {
        let mut tables = self.lock();
        let dead = tables.runs.get(&run).filter(|row| row.run.state == RunState::Dead);
        let Some(thread) = dead.map(|row| row.run.thread) else { return Ok(None) };
        if tables.newest(thread).is_none_or(|newest| newest.run.run != run) {
            return Ok(None);
        }
        tables.end_questions(run, false);
        tables.noted_of_run(Act::RunRetried, run);
        Ok(tables.runs.get_mut(&run).map(|row| {
            (row.run.state, row.run.crashes, row.run.cancel_requested) = (RunState::Queued, 0, false);
            (row.run.result, row.run.finished_at, row.run.rollback) = (None, None, false);
            // Whoever read it has its end.
            (row.read_until, row.run.needs_reader) = (None, false);
            row.run.clone()
        }))
    }

    async fn overdue(&self, kept: Kept, age: Duration, limit: u32) -> Result<Vec<Run>> {
        let (tables, before) = (self.lock(), ago(age));
        let runs = tables.runs.values().map(|row| &row.run);
        let is_due = |run: &&Run| run.kept == kept && run.finished_at.is_some_and(|at| at < before);
        let mut runs: Vec<Run> = runs.filter(is_due).cloned().collect();
        runs.sort_by_key(|run| run.finished_at);
        runs.truncate(limit as usize);
        Ok(runs)
    }

    async fn keep_events(&self, run: &Run, kept: Kept, batches: Vec<EventBatch>) -> Result<bool> {
        let mut tables = self.lock();
        let is_due = |row: &&mut RunRow| {
            row.run.finished_at.is_some() && row.run.kept > kept && row.run.fence == run.fence
        };
        let Some(row) = tables.own(&run.key.owner, run.run).filter(is_due) else { return Ok(false) };
        row.events = batches.into_iter().map(|batch| ((batch.fence, batch.first), batch)).collect();
        row.run.kept = kept;
        Ok(true)
    }

    async fn forget_checkpoints(&self, age: Duration, limit: u32) -> Result<u64> {
        let (mut tables, before) = (self.lock(), ago(age));
        let is_old = |row: &RunRow| !row.swept && row.run.finished_at.is_some_and(|at| at < before);
        let due = tables.runs.values().filter(|row| is_old(row)).map(|row| row.run.thread);
        let due: BTreeSet<ThreadId> = due.take(limit as usize).collect();
        let Tables { threads, runs, .. } = &mut *tables;
        for row in runs.values_mut().filter(|row| due.contains(&row.run.thread) && is_old(row)) {
            row.swept = true;
        }
        let open: BTreeSet<ThreadId> =
            runs.values().filter(|row| is_open(&row.run)).map(|row| row.run.thread).collect();
        let rests = |row: &&mut ThreadRow| due.contains(&row.thread) && !open.contains(&row.thread);
        for row in threads.values_mut().filter(rests) {
            let (mut line, mut at) = (BTreeSet::new(), row.head);
            while let Some(checkpoint) = at.and_then(|id| row.checkpoints.get(&id)) {
                line.insert(checkpoint.checkpoint);
                at = if checkpoint.snapshot.is_some() { None } else { checkpoint.parent };
            }
            row.checkpoints.retain(|id, checkpoint| line.contains(id) || checkpoint.created_at >= before);
        }
        Ok(due.len() as u64)
    }

    async fn forget_cached(&self, limit: u32) -> Result<u64> {
        let (mut tables, now) = (self.lock(), Utc::now());
        let over = tables.cache.iter().filter(|(_, row)| row.expires_at <= now).map(|(key, _)| key.clone());
        let over: Vec<_> = over.take(limit as usize).collect();
        for key in &over {
            tables.cache.remove(key);
        }
        Ok(over.len() as u64)
    }

    async fn read_on(&self, runs: &[(Part, RunId)], time: Duration) -> Result<()> {
        self.lock().read_on(runs, time);
        Ok(())
    }

    async fn unread(&self, limit: u32) -> Result<Vec<Run>> {
        Ok(self.lock().unread(limit))
    }

    async fn claim_hooks(&self, lease: Duration, limit: u32) -> Result<Vec<Hook>> {
        Ok(self.lock().claim_hooks(lease, limit))
    }

    async fn told(&self, tenant: &Part, hook: HookId, attempt: u32, told: Told) -> Result<()> {
        self.lock().told(tenant, hook, attempt, told);
        Ok(())
    }

    async fn hooks(&self, filter: &HookFilter, limit: u32) -> Result<Vec<Hook>> {
        Ok(self.lock().hooks(filter, limit))
    }

    async fn hook_counts(&self) -> Result<HookCounts> {
        Ok(self.lock().hook_counts())
    }

    async fn retry_hook(&self, hook: HookId) -> Result<Option<Hook>> {
        Ok(self.lock().retry_hook(hook))
    }

    async fn forget_hooks(&self, delivered: Duration, failed: Duration, limit: u32) -> Result<u64> {
        Ok(self.lock().forget_hooks(delivered, failed, limit))
    }

    async fn discard(&self, run: RunId) -> Result<Option<Run>> {
        let mut tables = self.lock();
        let dead = tables.runs.get_mut(&run).filter(|row| row.run.state == RunState::Dead);
        let Some(row) = dead else { return Ok(None) };
        row.run.state = RunState::Cancelled;
        let discarded = row.run.clone();
        tables.pending.retain(|(of, ..), _| *of != run);
        tables.noted_of_run(Act::RunDiscarded, run);
        Ok(Some(discarded))
    }

    async fn chain(
        &self,
        owner: &Owner,
        thread: ThreadId,
        checkpoint: CheckpointId,
    ) -> Result<Vec<Checkpoint>> {
        let mut tables = self.lock();
        let Some(row) = tables.thread_of(owner, thread) else { return Ok(Vec::new()) };
        let mut chain = Vec::new();
        let mut at = Some(checkpoint);
        while let Some(checkpoint) = at.and_then(|id| row.checkpoints.get(&id)) {
            chain.push(checkpoint.clone());
            at = if checkpoint.snapshot.is_some() { None } else { checkpoint.parent };
        }
        chain.reverse();
        Ok(chain)
    }

    async fn history(
        &self,
        owner: &Owner,
        thread: ThreadId,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>> {
        let mut tables = self.lock();
        let Some(row) = tables.thread_of(owner, thread) else { return Ok(Vec::new()) };
        let mut at = match before {
            None => row.head,
            Some(id) => row.checkpoints.get(&id).and_then(|c| c.parent),
        };
        let mut rows = Vec::new();
        while let Some(checkpoint) = at.and_then(|id| row.checkpoints.get(&id))
            && rows.len() < limit as usize
        {
            rows.push(Checkpoint { snapshot: None, ..checkpoint.clone() });
            at = checkpoint.parent;
        }
        Ok(rows)
    }
}
