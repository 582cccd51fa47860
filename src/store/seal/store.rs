//! The operations of the store: what goes in is sealed, what comes out is opened.
//!
//! Invariant: an operation takes and returns what it does without encryption; so whatever can be returned is named, and what
//! comes new has to be opened as well.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tracing::{debug, warn};

use super::place::{DEPLOYMENT, Place};
use super::{SealedStore, is_broken, is_unreadable, write};
use crate::id::{
    CacheKey, CheckpointId, HookId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey,
};
use crate::store::sql::notes_of;
use crate::store::{
    Accepted, Actor, Answer, Answering, AuditFilter, Beat, Branch, Branched, Checkpoint, Claim, Commit,
    Committed, Counts, Erased, EventBatch, GraphVersion, Hook, HookCounts, HookFilter, Idempotency, Kept,
    Keyed, NewRun, News, Noted, OpenQuestion, Process, Result, Resume, Resumed, Run, RunFilter, Store,
    StoreError, Thread, Told, VersionUse,
};

/// How often a run is sealed anew whose tenant was erased meanwhile.
const TRIES: usize = 3;

#[async_trait]
impl Store for SealedStore {
    async fn migrate(&self) -> Result<()> {
        self.sql.migrate().await?;
        let rows = self.sql.data_keys(DEPLOYMENT).await?;
        self.check(&rows).await?;
        // The first start makes the key by which every later one knows that all is sealed.
        self.keys.current(DEPLOYMENT).await.map(drop)
    }

    async fn ping(&self) -> Result<()> {
        self.sql.ping().await
    }

    async fn put_graph_version(&self, version: &GraphVersion) -> Result<()> {
        let place = Place::version(&version.hash, &version.graph);
        let body = self.keys.current(DEPLOYMENT).await?.seal(&place, &version.body)?;
        self.sql.put_graph_version(&GraphVersion { body, ..version.clone() }).await
    }

    async fn graph_version(&self, hash: &str) -> Result<Option<GraphVersion>> {
        let Some(mut version) = self.sql.graph_version(hash).await? else { return Ok(None) };
        version.body = self.open(Place::version(&version.hash, &version.graph), None, &version.body).await?;
        Ok(Some(version))
    }

    async fn hashes(&self, beginning: &str, limit: u32) -> Result<Vec<String>> {
        self.sql.hashes(beginning, limit).await
    }

    async fn version_use(&self, hash: &str) -> Result<VersionUse> {
        self.sql.version_use(hash).await
    }

    async fn paused_versions(&self) -> Result<BTreeMap<(String, String), u64>> {
        self.sql.paused_versions().await
    }

    async fn accept(&self, new: NewRun) -> Result<Accepted> {
        let tenant = new.key.owner.tenant.as_str();
        for _ in 0..TRIES {
            let key = self.key(&new.key.owner).await?;
            let input = key.seal(&Place::input(&new.key, new.run), &new.input)?;
            let sealed = NewRun { input, ..new.clone() };
            let Some(accepted) = self.sql.accept_under(sealed, Some(key.id)).await? else {
                // The tenant was erased by another process.
                self.keys.forget(tenant);
                continue;
            };
            // What was stored is what was given.
            let given = |run: Run| Run { input: new.input.clone(), ..run };
            return Ok(match accepted {
                Accepted::Claimed { run, head } => Accepted::Claimed { run: given(run), head },
                Accepted::Queued { run } => Accepted::Queued { run: given(run) },
                Accepted::Known(known) => Accepted::Known(self.opened_keyed(known).await?),
                refused @ (Accepted::OtherVersion { .. }
                | Accepted::Waits
                | Accepted::Busy { .. }
                | Accepted::QueueFull
                | Accepted::TenantQueueFull) => refused,
            });
        }
        Err(StoreError::Unavailable(format!("the tenant `{tenant}` is erased again and again")))
    }

    async fn branch(&self, mut branch: Branch) -> Result<Branched> {
        write::branch(&*self.key(&branch.key.owner).await?, &mut branch)?;
        Ok(match self.sql.branch(branch).await? {
            Branched::Done(run) => Branched::Done(Box::new(self.opened_run(*run).await?)),
            Branched::Known(known) => Branched::Known(self.opened_keyed(known).await?),
            refused @ (Branched::Busy(_) | Branched::Moved | Branched::Gone | Branched::Exists) => refused,
        })
    }

    async fn commit(&self, mut commit: Commit) -> Result<Committed> {
        write::commit(&*self.key(&commit.owner).await?, &mut commit)?;
        self.sql.commit(commit).await
    }

    async fn append_events(&self, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
        let mut sealed = Vec::with_capacity(batches.len());
        for (owner, run, mut batch) in batches {
            match self.key(&owner).await {
                Ok(key) => {
                    write::events(&key, &owner, run, &mut batch)?;
                    sealed.push((owner, run, batch));
                }
                // They are of many tenants.
                Err(error @ StoreError::Config(_)) => {
                    debug!(run = %run, %error, "What a run told is not stored before its barrier.");
                }
                Err(error) => return Err(error),
            }
        }
        self.sql.append_events(sealed).await
    }

    async fn claim(&self, process: &Process, limit: u32) -> Result<Vec<Claim>> {
        let (mut claims, mut failure) = (Vec::new(), None);
        for claim in self.sql.claim(process, limit).await? {
            let (owner, id, fence) = (claim.run.key.owner.clone(), claim.run.run, claim.run.fence);
            match self.opened_unless(claim.run, is_broken).await {
                // One that is broken fails when it is driven, as any that cannot be read. One whose key is not among those of
                // this process is for another.
                Ok(run) => claims.push(Claim { run, ..claim }),
                Err(error) => {
                    // Nobody drives it: without this it would look like that of a process that died.
                    let _until_its_lease_is_over = self.sql.release(&owner, id, fence).await;
                    // Of a key that is not here it was told, and the next look would find the same.
                    failure = (!matches!(error, StoreError::Config(_))).then_some(error).or(failure);
                }
            }
        }
        match failure {
            Some(error) if claims.is_empty() => Err(error),
            _ => Ok(claims),
        }
    }

    async fn heartbeat(&self, process: &Process, live: &[RunId]) -> Result<Beat> {
        self.sql.heartbeat(process, live).await
    }

    async fn asked(&self, process: &Process) -> Result<Vec<RunId>> {
        self.sql.asked(process).await
    }

    async fn release(&self, owner: &Owner, run: RunId, fence: u64) -> Result<()> {
        self.sql.release(owner, run, fence).await
    }

    async fn request_cancel(
        &self,
        owner: &Owner,
        run: RunId,
        actor: Actor,
        rollback: bool,
        mut result: Vec<u8>,
        mut events: EventBatch,
    ) -> Result<Option<Run>> {
        let Some(found) = self.sql.run(owner, run).await? else { return Ok(None) };
        // By the key that it is sealed under it is known whether that in memory still is the tenant's.
        self.opened_unless(found, is_broken).await?;
        write::end(&*self.key(owner).await?, owner, &mut result, &mut events)?;
        let run = self.sql.request_cancel(owner, run, actor, rollback, result, events).await?;
        self.opened_or_none(run).await
    }

    async fn answer(&self, mut answer: Answer) -> Result<Answering> {
        let notes = notes_of(&answer);
        write::answer(&*self.key(&answer.owner).await?, &mut answer)?;
        Ok(match self.sql.answer_noted(answer, notes).await? {
            Answering::Claimed(claim) => {
                Answering::Claimed(Claim { run: self.opened_run(claim.run).await?, ..claim })
            }
            Answering::Stored { run, after } => Answering::Stored { run: self.opened_run(run).await?, after },
            Answering::Known(known) => Answering::Known(self.opened_keyed(known).await?),
            refused @ (Answering::Taken { .. } | Answering::Expired { .. } | Answering::Unknown(_)) => {
                refused
            }
        })
    }

    async fn keyed(&self, owner: &Owner, key: &Idempotency) -> Result<Option<Keyed>> {
        match self.sql.keyed(owner, key).await? {
            Some(known) => self.opened_keyed(known).await.map(Some),
            None => Ok(None),
        }
    }

    async fn answers(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        self.opened_answers(owner, run, self.sql.answers(owner, run).await?).await
    }

    async fn given(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        self.opened_answers(owner, run, self.sql.given(owner, run).await?).await
    }

    async fn questions(&self, key: &ThreadKey) -> Result<Vec<OpenQuestion>> {
        let mut questions = Vec::new();
        for question in self.sql.questions(key).await? {
            questions.push(self.opened_question(question).await?);
        }
        Ok(questions)
    }

    async fn question(&self, owner: &Owner, agent: bool, id: &InterruptId) -> Result<Option<OpenQuestion>> {
        match self.sql.question(owner, agent, id).await? {
            Some(question) => self.opened_question(question).await.map(Some),
            None => Ok(None),
        }
    }

    async fn approvals(
        &self,
        tenant: &Part,
        mut after: Option<(DateTime<Utc>, InterruptId)>,
        limit: u32,
    ) -> Result<Vec<OpenQuestion>> {
        let mut questions: Vec<OpenQuestion> = Vec::new();
        loop {
            let left = limit.saturating_sub(u32::try_from(questions.len()).unwrap_or(u32::MAX));
            let found = self.sql.approvals(tenant, after, left).await?;
            // A page is full while there are more, or whoever asks would take it for the last.
            let full = found.len() == left as usize;
            after = found.last().map(|last| (last.created_at, last.id.clone()));
            for question in found {
                let (id, run) = (question.id.clone(), question.run);
                match self.opened_question(question).await {
                    Err(error) if is_broken(&error) => {
                        warn!(question = %id, run = %run, %error, "A question cannot be read.");
                    }
                    opened => questions.push(opened?),
                }
            }
            if !full || questions.len() >= limit as usize {
                return Ok(questions);
            }
        }
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
        let data = self.key(owner).await?.seal(&Place::pending(owner, run, step, task), &data)?;
        self.sql.put_pending(owner, run, fence, step, task, data).await
    }

    async fn pending(&self, owner: &Owner, run: RunId, step: u64) -> Result<Vec<(TaskId, Vec<u8>)>> {
        let mut pending = self.sql.pending(owner, run, step).await?;
        for (task, data) in &mut pending {
            *data = self.open(Place::pending(owner, run, step, task), None, data).await?;
        }
        Ok(pending)
    }

    async fn cached(&self, tenant: &Part, keys: &[CacheKey]) -> Result<Vec<(CacheKey, Vec<u8>)>> {
        let mut cached = self.sql.cached(tenant, keys).await?;
        for (key, data) in &mut cached {
            *data = self.open(Place::cached(tenant, key), None, data).await?;
        }
        Ok(cached)
    }

    async fn resume(&self, mut resume: Resume) -> Result<Resumed> {
        if let Some(input) = &mut resume.input {
            let key = self.key(&resume.key.owner).await?;
            *input = key.seal(&Place::input(&resume.key, resume.run), input)?;
        }
        Ok(match self.sql.resume(resume).await? {
            Resumed::Claimed(claim) => {
                let run = self.opened_run(claim.run.clone()).await?;
                Resumed::Claimed(Box::new(Claim { run, ..*claim }))
            }
            Resumed::Queued(run) => Resumed::Queued(Box::new(self.opened_run(*run).await?)),
            Resumed::Known(known) => Resumed::Known(self.opened_keyed(known).await?),
            Resumed::Nothing => Resumed::Nothing,
        })
    }

    async fn run(&self, owner: &Owner, run: RunId) -> Result<Option<Run>> {
        self.opened_or_none(self.sql.run(owner, run).await?).await
    }

    async fn events(&self, owner: &Owner, run: RunId, after: Seq, limit: usize) -> Result<Vec<EventBatch>> {
        let mut batches = self.sql.events(owner, run, after, limit).await?;
        for batch in &mut batches {
            self.open_events(owner, run, batch).await?;
        }
        Ok(batches)
    }

    async fn news(&self, of: &[(Owner, RunId, Seq)], limit: usize) -> Result<Vec<News>> {
        let owners: BTreeMap<RunId, &Owner> = of.iter().map(|(owner, run, _)| (*run, owner)).collect();
        let mut found = self.sql.news(of, limit).await?;
        for News { run, batches, .. } in &mut found {
            let Some(owner) = owners.get(run) else { continue };
            for batch in batches {
                match self.open_events(owner, *run, batch).await {
                    // Of what cannot be opened nothing is left, which sends only those away who read this run.
                    Err(error) if is_unreadable(&error) => {
                        warn!(run = %run, %error, "What a run told cannot be read.");
                        batch.data = Vec::new();
                    }
                    opened => opened?,
                }
            }
        }
        Ok(found)
    }

    async fn thread(&self, key: &ThreadKey) -> Result<Option<Thread>> {
        self.sql.thread(key).await
    }

    async fn threads(
        &self,
        owner: &Owner,
        before: Option<(DateTime<Utc>, ThreadId)>,
        limit: u32,
    ) -> Result<Vec<Thread>> {
        self.sql.threads(owner, before, limit).await
    }

    async fn delete_thread(&self, key: &ThreadKey) -> Result<bool> {
        self.sql.delete_thread(key).await
    }

    async fn erase(&self, tenant: &Part, user: Option<&Part>, limit: u32, before: u64) -> Result<Erased> {
        let erased = self.sql.erase(tenant, user, limit, before).await;
        if user.is_none() {
            self.keys.forget(tenant.as_str());
        }
        erased
    }

    async fn audit(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<Noted>> {
        self.sql.audit(filter, limit).await
    }

    async fn forget_audit(&self, age: Duration, limit: u32) -> Result<u64> {
        self.sql.forget_audit(age, limit).await
    }

    async fn runs(&self, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
        self.opened_runs(self.sql.runs(filter, limit).await?).await
    }

    async fn counts(&self) -> Result<Counts> {
        self.sql.counts().await
    }

    async fn find_run(&self, run: RunId) -> Result<Option<Run>> {
        self.opened_or_none(self.sql.find_run(run).await?).await
    }

    async fn retry(&self, run: RunId) -> Result<Option<Run>> {
        let retried = self.sql.retry(run).await?;
        Ok(self.opened_runs(retried.into_iter().collect()).await?.pop())
    }

    async fn overdue(&self, kept: Kept, age: Duration, limit: u32) -> Result<Vec<Run>> {
        self.opened_runs(self.sql.overdue(kept, age, limit).await?).await
    }

    async fn keep_events(&self, run: &Run, kept: Kept, mut batches: Vec<EventBatch>) -> Result<bool> {
        if !batches.is_empty() {
            let owner = &run.key.owner;
            let key = self.key(owner).await?;
            for batch in &mut batches {
                write::events(&key, owner, run.run, batch)?;
            }
        }
        self.sql.keep_events(run, kept, batches).await
    }

    async fn forget_checkpoints(&self, age: Duration, limit: u32) -> Result<u64> {
        self.sql.forget_checkpoints(age, limit).await
    }

    async fn forget_cached(&self, limit: u32) -> Result<u64> {
        self.sql.forget_cached(limit).await
    }

    async fn read_on(&self, runs: &[(Part, RunId)], time: Duration) -> Result<()> {
        self.sql.read_on(runs, time).await
    }

    async fn unread(&self, limit: u32) -> Result<Vec<Run>> {
        self.opened_runs(self.sql.unread(limit).await?).await
    }

    async fn claim_hooks(&self, lease: Duration, limit: u32) -> Result<Vec<Hook>> {
        let mut hooks = Vec::new();
        for hook in self.sql.claim_hooks(lease, limit).await? {
            let id = hook.id;
            match self.opened_hook(hook, is_broken).await {
                // Another process may have its key: it is told when this lease is over.
                Err(error @ StoreError::Config(_)) => {
                    debug!(webhook = %id, %error, "What is to be told of a run cannot be read here.");
                }
                opened => hooks.push(opened?),
            }
        }
        Ok(hooks)
    }

    async fn told(&self, tenant: &Part, hook: HookId, attempt: u32, told: Told) -> Result<()> {
        self.sql.told(tenant, hook, attempt, told).await
    }

    async fn hooks(&self, filter: &HookFilter, limit: u32) -> Result<Vec<Hook>> {
        self.opened_hooks(self.sql.hooks(filter, limit).await?).await
    }

    async fn hook_counts(&self) -> Result<HookCounts> {
        self.sql.hook_counts().await
    }

    async fn retry_hook(&self, hook: HookId) -> Result<Option<Hook>> {
        let retried = self.sql.retry_hook(hook).await?;
        Ok(self.opened_hooks(retried.into_iter().collect()).await?.pop())
    }

    async fn forget_hooks(&self, delivered: Duration, failed: Duration, limit: u32) -> Result<u64> {
        self.sql.forget_hooks(delivered, failed, limit).await
    }

    async fn discard(&self, run: RunId) -> Result<Option<Run>> {
        let discarded = self.sql.discard(run).await?;
        Ok(self.opened_runs(discarded.into_iter().collect()).await?.pop())
    }

    async fn chain(
        &self,
        owner: &Owner,
        thread: ThreadId,
        checkpoint: CheckpointId,
    ) -> Result<Vec<Checkpoint>> {
        self.opened_line(owner, thread, self.sql.chain(owner, thread, checkpoint).await?).await
    }

    async fn history(
        &self,
        owner: &Owner,
        thread: ThreadId,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>> {
        self.opened_line(owner, thread, self.sql.history(owner, thread, before, limit).await?).await
    }
}
