//! The store on Postgres and SQLite.
//!
//! Invariant: a write is one statement, or a transaction in a task of its own that a dropped request cannot cut in
//! two. Reads live in `read`, writes in `postgres` and `sqlite`.

mod audit;
mod base;
mod branch;
mod cache;
mod delete;
mod entity;
mod error;
mod hook;
mod keep;
pub(super) mod keys;
mod migration;
mod operate;
mod postgres;
mod put;
mod question;
mod read;
mod room;
mod row;
mod sqlite;
pub(super) mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait, DbErr, EntityTrait, RuntimeErr, Set, SqlxError, Statement, TryInsertResult, Value,
};
use tracing::error;
use uuid::Uuid;

use self::base::{Base, Desk};
use self::entity::graph_version;
use self::error::{undone, unsure};
use super::{
    Accepted, Actor, Answer, Answering, AuditFilter, Beat, Branch, Branched, Checkpoint, Claim, Commit,
    Committed, Counts, Erased, EventBatch, GraphVersion, Hook, HookCounts, HookFilter, Idempotency, Kept,
    Keyed, NewRun, News, Noted, OpenQuestion, Process, Result, Resume, Resumed, Run, RunFilter, RunState,
    Store, StoreError, Thread, Told, VersionUse, news,
};
use crate::id::{
    CacheKey, CheckpointId, HookId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey,
};

/// How long an idempotency key is remembered, in hours.
const KEY_HOURS: i64 = 24;
/// One in so many claims also forgets old idempotency keys.
const CLAIMS_PER_PURGE: u32 = 256;
/// The newest rules that this engine knows; a run that needs newer ones is left to others.
const ENGINE: i64 = 2;
/// How often a write that was undone because of another one is tried.
const TRIES: usize = 5;

/// Keeps everything in Postgres, or in one SQLite file.
#[derive(Debug, Clone)]
pub struct SqlStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Base,
    claims: AtomicU32,
    /// Nothing is encrypted here, as far as it is known.
    clear: Clear,
}

/// Whether values may be stored in the clear.
#[derive(Debug, Default)]
struct Clear {
    /// Whoever stores here encrypts nothing.
    plain: AtomicBool,
    /// All is to be encrypted since.
    over: AtomicBool,
}

/// How long a statement may stay without an answer. The database ends its statements sooner by itself, so whoever is
/// silent for so long hangs, or the way there does.
const ANSWER: Duration = Duration::from_secs(10);
/// The same for a transaction.
const TRANSACTION: Duration = Duration::from_secs(20);

/// Waits for the answer to a statement. Silence is a cut: what became of the statement is not known.
async fn answered<T>(
    statement: impl Future<Output = std::result::Result<T, DbErr>>,
) -> std::result::Result<T, DbErr> {
    tokio::time::timeout(ANSWER, statement).await.map_err(|_| silent())?
}

/// Says that no answer came.
fn silent() -> DbErr {
    let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer");
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(SqlxError::Io(error))))
}

/// Builds a statement of the back end.
fn sql<C: ConnectionTrait>(db: &C, text: impl Into<String>, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(db.get_database_backend(), text, values)
}

/// Runs a transaction to its end even when the caller is gone or does not wait for it any longer.
async fn detached<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    #[expect(
        clippy::disallowed_methods,
        reason = "it is awaited here; only a dropped request leaves it running"
    )]
    let task = tokio::spawn(work);
    match tokio::time::timeout(TRANSACTION, task).await {
        Ok(done) => done.unwrap_or_else(|e| Err(StoreError::Unknown(e.to_string()))),
        Err(_) => Err(StoreError::Unknown("the database does not answer".into())),
    }
}

/// Returns what is told of a barrier, if somebody is to be told: of a pause its notice, of an end the result.
fn told(
    next: Option<RunState>,
    notice: Option<Vec<u8>>,
    result: Option<&Option<Vec<u8>>>,
) -> Option<Vec<u8>> {
    match next? {
        RunState::Queued | RunState::Running => None,
        RunState::Interrupted => Some(notice.unwrap_or_default()),
        _ => Some(result.cloned().flatten().unwrap_or_default()),
    }
}

/// Returns what is noted of answers.
pub(super) fn notes_of(answer: &Answer) -> Vec<Noted> {
    answer.answers.iter().map(|(id, data)| Noted::answered(&answer.owner, id, data)).collect()
}

/// Sorts what a process drives by what it still owns, each with the wish for its end.
fn beat(live: &[RunId], owned: Vec<(RunId, bool)>) -> Beat {
    let still: BTreeSet<RunId> = owned.iter().map(|(run, _)| *run).collect();
    let lost = live.iter().filter(|run| !still.contains(run)).copied().collect();
    Beat { cancelled: owned.into_iter().filter(|(_, cancel)| *cancel).map(|(run, _)| run).collect(), lost }
}

impl SqlStore {
    /// Opens `postgres://user:password@host/database`, `sqlite://path?mode=rwc` or `sqlite::memory:`.
    ///
    /// # Errors
    ///
    /// `Config` for another URL and for a SQLite file that another process has open, `Unavailable` when the database
    /// does not answer.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            base: Base::open(url).await?,
            claims: AtomicU32::new(0),
            clear: Clear::default(),
        })))
    }

    /// Says that what is stored from here on is not encrypted. Then the heartbeat looks whether another process has begun to
    /// encrypt, and nothing is stored any more from then on.
    pub(super) fn in_the_clear(self) -> Self {
        self.0.clear.plain.store(true, Ordering::Relaxed);
        self
    }

    /// Fails since another process encrypts what this one would store in the clear.
    fn may_store(&self) -> Result<()> {
        if self.0.clear.over.load(Ordering::Relaxed) {
            return Err(StoreError::Config(
                "the database is encrypted since this process began, and its settings name no master key: restart it with \
                 the key"
                    .into(),
            ));
        }
        Ok(())
    }

    /// Looks whether values may still be stored in the clear.
    async fn look_for_keys(&self) -> Result<()> {
        // A SQLite file is of one process.
        let Base::Postgres(db) = self.base() else { return Ok(()) };
        if self.0.clear.plain.load(Ordering::Relaxed)
            && !self.0.clear.over.load(Ordering::Relaxed)
            && postgres::wide::is_encrypted(db).await?
        {
            self.0.clear.over.store(true, Ordering::Relaxed);
            error!(
                "The database is encrypted from now on, and the settings name no master key: nothing more is stored."
            );
        }
        self.may_store()
    }

    fn base(&self) -> &Base {
        &self.0.base
    }

    /// Reads for a request.
    fn reads(&self, tenant: &Part) -> Desk {
        self.base().reads(tenant.as_str())
    }

    /// Reads and writes for a run.
    fn works(&self, tenant: &Part) -> Desk {
        self.base().works(tenant.as_str())
    }

    /// Forgets old idempotency keys now and then; nothing depends on when.
    async fn purge(&self) -> Result<()> {
        if !self.0.claims.fetch_add(1, Ordering::Relaxed).is_multiple_of(CLAIMS_PER_PURGE) {
            return Ok(());
        }
        match self.base() {
            Base::Postgres(db) => postgres::wide::forget_keys(db).await,
            Base::Sqlite(db) => sqlite::wide::forget_keys(db).await,
        }
    }
}

/// Does one transaction on SQLite, to its end.
macro_rules! whole {
    ($db:ident, $tx:ident => $work:expr) => {{
        let db = $db.clone();
        detached(async move {
            let $tx = db.begin().await?;
            let done = $work.await?;
            $tx.commit().await?;
            Ok(done)
        })
        .await
    }};
}

impl SqlStore {
    /// Accepts a run whose input is sealed under a key of its tenant, or not. Nothing: the key is gone, with the tenant of
    /// before; nothing was stored.
    pub(super) async fn accept_under(&self, new: NewRun, sealed: Option<Uuid>) -> Result<Option<Accepted>> {
        self.may_store()?;
        match self.base() {
            Base::Postgres(db) => postgres::accept(db, &Arc::new(new), sealed).await,
            Base::Sqlite(db) => whole!(db, tx => sqlite::accept(&tx, new, sealed)),
        }
    }

    /// Answers questions; with the notes of that, for answers may be sealed.
    pub(super) async fn answer_noted(&self, answer: Answer, notes: Vec<Noted>) -> Result<Answering> {
        self.may_store()?;
        let base = self.base().clone();
        detached(async move {
            let tx = base.begin(answer.owner.tenant.as_str()).await?;
            let answered = question::answer(&tx, answer).await?;
            if matches!(answered, Answering::Claimed(_) | Answering::Stored { .. }) {
                for note in &notes {
                    audit::note(&tx, note).await?;
                }
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok(answered)
        })
        .await
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn migrate(&self) -> Result<()> {
        match self.base() {
            Base::Postgres(db) => migration::postgres(db).await,
            Base::Sqlite(db) => migration::sqlite(&db.write).await,
        }
    }

    async fn ping(&self) -> Result<()> {
        self.may_store()?;
        let desk = self.base().reads(read::DEPLOYMENT);
        let answer = match &desk {
            Desk::Postgres(lanes, _) => lanes.ping().await,
            Desk::Sqlite(db) => answered(db.ping()).await,
        };
        answer.map_err(|e| undone(&e))
    }

    async fn put_graph_version(&self, version: &GraphVersion) -> Result<()> {
        self.may_store()?;
        let (base, note) = (self.base().clone(), Noted::published(version));
        let row = graph_version::ActiveModel {
            tenant: Set(read::DEPLOYMENT.to_owned()),
            hash: Set(version.hash.clone()),
            graph: Set(version.graph.clone()),
            body: Set(version.body.clone()),
        };
        detached(async move {
            let tx = base.begin(read::DEPLOYMENT).await?;
            // Equal hashes are equal bodies, so the first one stays.
            let insert = graph_version::Entity::insert(row).on_conflict_do_nothing();
            let stored = insert.exec_without_returning(&tx).await.map_err(|e| undone(&e))?;
            if matches!(stored, TryInsertResult::Inserted(1..)) {
                audit::note(&tx, &note).await?;
            }
            tx.commit().await
        })
        .await
    }

    async fn graph_version(&self, hash: &str) -> Result<Option<GraphVersion>> {
        read::graph_version(&self.base().reads(read::DEPLOYMENT), hash).await
    }

    async fn hashes(&self, beginning: &str, limit: u32) -> Result<Vec<String>> {
        read::hashes(&self.base().reads(read::DEPLOYMENT), beginning, limit).await
    }

    async fn version_use(&self, hash: &str) -> Result<VersionUse> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::version_use(db, hash).await,
            Base::Sqlite(db) => sqlite::wide::version_use(db, hash).await,
        }
    }

    async fn paused_versions(&self) -> Result<BTreeMap<(String, String), u64>> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::paused_versions(db).await,
            Base::Sqlite(db) => sqlite::wide::paused_versions(db).await,
        }
    }

    async fn accept(&self, new: NewRun) -> Result<Accepted> {
        let keyless =
            || StoreError::Corrupt { what: "run", why: "one without a key is said to have lost it".into() };
        self.accept_under(new, None).await?.ok_or_else(keyless)
    }

    async fn branch(&self, branch: Branch) -> Result<Branched> {
        self.may_store()?;
        let base = self.base().clone();
        detached(async move {
            let tx = base.begin(branch.key.owner.tenant.as_str()).await?;
            let branched = branch::branch(&tx, branch).await?;
            if matches!(branched, Branched::Done(_)) {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok(branched)
        })
        .await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        self.may_store()?;
        match self.base() {
            Base::Postgres(db) => postgres::commit(db, commit).await,
            Base::Sqlite(db) => whole!(db, tx => sqlite::commit(&tx, commit)),
        }
    }

    async fn append_events(&self, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        self.may_store()?;
        match self.base() {
            Base::Postgres(db) => postgres::append_events(db, batches).await,
            Base::Sqlite(db) => whole!(db, tx => sqlite::append_events(&tx, batches)),
        }
    }

    async fn claim(&self, process: &Process, limit: u32) -> Result<Vec<Claim>> {
        self.may_store()?;
        self.purge().await?;
        match self.base() {
            Base::Postgres(db) => {
                let (db, process) = (db.clone(), process.clone());
                // A claim that nobody drives would look like a crash.
                detached(async move { postgres::wide::claim(&db, &process, limit).await }).await
            }
            Base::Sqlite(db) => {
                let process = process.clone();
                whole!(db, tx => sqlite::claim(&tx, &process, limit))
            }
        }
    }

    async fn heartbeat(&self, process: &Process, live: &[RunId]) -> Result<Beat> {
        self.look_for_keys().await?;
        match self.base() {
            Base::Postgres(db) => postgres::wide::heartbeat(db, process, live).await,
            Base::Sqlite(db) => {
                let (process, live) = (process.clone(), live.to_vec());
                whole!(db, tx => sqlite::heartbeat(&tx, &process, &live))
            }
        }
    }

    async fn asked(&self, process: &Process) -> Result<Vec<RunId>> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::asked(db, process).await,
            Base::Sqlite(db) => sqlite::wide::asked(db, process).await,
        }
    }

    async fn release(&self, owner: &Owner, run: RunId, fence: u64) -> Result<()> {
        let text = "update run set state = 'queued', handoffs = handoffs + 1, owner = null, boot = null, \
               lease_until = null \
             where tenant = $1 and run_id = $2 and user_id = $3 and fence = $4 and state = 'running'";
        let values = vec![
            owner.tenant.as_str().into(),
            run.0.into(),
            owner.user.as_str().into(),
            (fence as i64).into(),
        ];
        let desk = self.works(&owner.tenant);
        desk.execute_raw(sql(&desk, text, values)).await.map_err(|e| unsure(&e))?;
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
        self.may_store()?;
        let note = Noted::cancelled(owner, run, actor, rollback);
        if rollback {
            let (base, owner) = (self.base().clone(), owner.clone());
            return detached(async move {
                let tx = base.begin(owner.tenant.as_str()).await?;
                let found = branch::roll_back(&tx, &owner, run, (&result, &events), &note).await?;
                tx.commit().await?;
                Ok(found)
            })
            .await;
        }
        match self.base() {
            Base::Postgres(db) => postgres::request_cancel(db, owner, run, (result, events), &note).await,
            Base::Sqlite(db) => {
                let owner = owner.clone();
                whole!(db, tx => sqlite::request_cancel(&tx, &owner, run, (result, events), &note))
            }
        }
    }

    async fn answer(&self, answer: Answer) -> Result<Answering> {
        let notes = notes_of(&answer);
        self.answer_noted(answer, notes).await
    }

    async fn keyed(&self, owner: &Owner, key: &Idempotency) -> Result<Option<Keyed>> {
        question::keyed(&self.reads(&owner.tenant), owner, key).await
    }

    async fn answers(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        question::answers(&self.works(&owner.tenant), owner, run, "and i.closed_at is null").await
    }

    async fn given(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        question::answers(&self.reads(&owner.tenant), owner, run, "").await
    }

    async fn questions(&self, key: &ThreadKey) -> Result<Vec<OpenQuestion>> {
        question::of_thread(&self.reads(&key.owner.tenant), key).await
    }

    async fn question(&self, owner: &Owner, agent: bool, id: &InterruptId) -> Result<Option<OpenQuestion>> {
        question::one(&self.reads(&owner.tenant), owner, agent, id).await
    }

    async fn approvals(
        &self,
        tenant: &Part,
        after: Option<(DateTime<Utc>, InterruptId)>,
        limit: u32,
    ) -> Result<Vec<OpenQuestion>> {
        question::for_agents(&self.reads(tenant), tenant, after, limit).await
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
        self.may_store()?;
        let values = vec![
            owner.tenant.as_str().into(),
            run.0.into(),
            owner.user.as_str().into(),
            (fence as i64).into(),
            (step as i64).into(),
            (&*task.0).into(),
            data.into(),
        ];
        match self.base() {
            Base::Postgres(db) => postgres::put_pending(db, owner.tenant.as_str(), values).await,
            Base::Sqlite(db) => whole!(db, tx => sqlite::put_pending(&tx, values)),
        }
    }

    async fn pending(&self, owner: &Owner, run: RunId, step: u64) -> Result<Vec<(TaskId, Vec<u8>)>> {
        question::pending(&self.works(&owner.tenant), owner, run, step).await
    }

    async fn cached(&self, tenant: &Part, keys: &[CacheKey]) -> Result<Vec<(CacheKey, Vec<u8>)>> {
        cache::find(&self.works(tenant), tenant, keys).await
    }

    async fn resume(&self, resume: Resume) -> Result<Resumed> {
        self.may_store()?;
        let base = self.base().clone();
        detached(async move {
            let tx = base.begin(resume.key.owner.tenant.as_str()).await?;
            let resumed = question::resume(&tx, &resume).await?;
            if matches!(resumed, Resumed::Claimed(_) | Resumed::Queued(_)) {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok(resumed)
        })
        .await
    }

    async fn run(&self, owner: &Owner, run: RunId) -> Result<Option<Run>> {
        read::run(&self.reads(&owner.tenant), owner, run).await
    }

    async fn events(&self, owner: &Owner, run: RunId, after: Seq, limit: usize) -> Result<Vec<EventBatch>> {
        read::events(&self.reads(&owner.tenant), owner, run, after, limit).await
    }

    async fn news(&self, of: &[(Owner, RunId, Seq)], limit: usize) -> Result<Vec<News>> {
        if of.is_empty() {
            return Ok(Vec::new());
        }
        match self.base() {
            Base::Postgres(db) => postgres::wide::news(db, of, limit).await,
            Base::Sqlite(_) => news::one_by_one(self, of, limit).await,
        }
    }

    async fn thread(&self, key: &ThreadKey) -> Result<Option<Thread>> {
        read::thread(&self.reads(&key.owner.tenant), key).await
    }

    async fn threads(
        &self,
        owner: &Owner,
        before: Option<(DateTime<Utc>, ThreadId)>,
        limit: u32,
    ) -> Result<Vec<Thread>> {
        read::threads(&self.reads(&owner.tenant), owner, before, limit).await
    }

    async fn delete_thread(&self, key: &ThreadKey) -> Result<bool> {
        let (base, key) = (self.base().clone(), key.clone());
        detached(async move { delete::thread(&base, &key, Actor::User).await }).await
    }

    async fn erase(&self, tenant: &Part, user: Option<&Part>, limit: u32, before: u64) -> Result<Erased> {
        let (base, tenant, user) = (self.base().clone(), tenant.clone(), user.cloned());
        #[expect(
            clippy::disallowed_methods,
            reason = "it is awaited here; each thread is a transaction, so it may take its time"
        )]
        let task =
            tokio::spawn(async move { operate::erase(&base, &tenant, user.as_ref(), limit, before).await });
        task.await.unwrap_or_else(|e| Err(StoreError::Unknown(e.to_string())))
    }

    async fn audit(&self, filter: &AuditFilter, limit: u32) -> Result<Vec<Noted>> {
        audit::list(self.base(), filter, limit).await
    }

    async fn forget_audit(&self, age: Duration, limit: u32) -> Result<u64> {
        audit::forget(self.base(), age, limit).await
    }

    async fn runs(&self, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::runs(db, filter, limit).await,
            Base::Sqlite(db) => sqlite::wide::runs(db, filter, limit).await,
        }
    }

    async fn counts(&self) -> Result<Counts> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::counts(db).await,
            Base::Sqlite(db) => sqlite::wide::counts(db).await,
        }
    }

    async fn find_run(&self, run: RunId) -> Result<Option<Run>> {
        operate::find(self.base(), run).await
    }

    async fn retry(&self, run: RunId) -> Result<Option<Run>> {
        let base = self.base().clone();
        detached(async move { operate::retry(&base, run).await }).await
    }

    async fn overdue(&self, kept: Kept, age: Duration, limit: u32) -> Result<Vec<Run>> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::overdue(db, kept, age, limit).await,
            Base::Sqlite(db) => sqlite::wide::overdue(db, kept, age, limit).await,
        }
    }

    async fn keep_events(&self, run: &Run, kept: Kept, batches: Vec<EventBatch>) -> Result<bool> {
        self.may_store()?;
        let (base, run) = (self.base().clone(), run.clone());
        detached(async move {
            let tx = base.begin(run.key.owner.tenant.as_str()).await?;
            keep::events(tx, &run, kept, batches).await
        })
        .await
    }

    async fn forget_checkpoints(&self, age: Duration, limit: u32) -> Result<u64> {
        let base = self.base().clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "it is awaited here; each thread is a transaction, so it may take its time"
        )]
        let task = tokio::spawn(async move { keep::checkpoints(&base, age, limit).await });
        task.await.unwrap_or_else(|e| Err(StoreError::Unknown(e.to_string())))
    }

    async fn forget_cached(&self, limit: u32) -> Result<u64> {
        match self.base() {
            Base::Postgres(db) => postgres::wide::forget_cached(db, limit).await,
            Base::Sqlite(db) => sqlite::wide::forget_cached(db, limit).await,
        }
    }

    async fn read_on(&self, runs: &[(Part, RunId)], time: Duration) -> Result<()> {
        hook::read_on(self.base(), runs, time).await
    }

    async fn unread(&self, limit: u32) -> Result<Vec<Run>> {
        hook::unread(self.base(), limit).await
    }

    async fn claim_hooks(&self, lease: Duration, limit: u32) -> Result<Vec<Hook>> {
        let base = self.base().clone();
        detached(async move { hook::claim(&base, lease, limit).await }).await
    }

    async fn told(&self, tenant: &Part, hook: HookId, attempt: u32, told: Told) -> Result<()> {
        hook::told(self.base(), tenant, hook, attempt, told).await
    }

    async fn hooks(&self, filter: &HookFilter, limit: u32) -> Result<Vec<Hook>> {
        hook::list(self.base(), filter, limit).await
    }

    async fn hook_counts(&self) -> Result<HookCounts> {
        hook::counts(self.base()).await
    }

    async fn retry_hook(&self, hook: HookId) -> Result<Option<Hook>> {
        hook::retry(self.base(), hook).await
    }

    async fn forget_hooks(&self, delivered: Duration, failed: Duration, limit: u32) -> Result<u64> {
        hook::forget(self.base(), delivered, failed, limit).await
    }

    async fn discard(&self, run: RunId) -> Result<Option<Run>> {
        let base = self.base().clone();
        detached(async move { operate::discard(&base, run).await }).await
    }

    async fn chain(
        &self,
        owner: &Owner,
        thread: ThreadId,
        checkpoint: CheckpointId,
    ) -> Result<Vec<Checkpoint>> {
        read::chain(&self.reads(&owner.tenant), owner, thread, checkpoint).await
    }

    async fn history(
        &self,
        owner: &Owner,
        thread: ThreadId,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>> {
        read::history(&self.reads(&owner.tenant), owner, thread, before, limit).await
    }
}
