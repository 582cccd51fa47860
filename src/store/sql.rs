//! The store on Postgres and SQLite.
//!
//! Invariant: a write is one statement, or a transaction in a task of its own that a dropped request cannot cut in
//! two. Reads live in `read`, writes in `postgres` and `sqlite`.

mod cache;
mod connect;
mod delete;
mod entity;
mod error;
mod keep;
mod migration;
mod operate;
mod postgres;
mod question;
mod read;
mod row;
mod sqlite;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, EntityTrait, RuntimeErr, Set,
    SqliteTransactionMode, SqlxError, Statement, TransactionOptions, TransactionTrait, Value,
};

use self::connect::Pools;
use self::entity::graph_version;
use self::error::{undone, unsure};
use self::postgres::Lanes;
use super::{
    Accepted, Answer, Answering, Beat, Checkpoint, Claim, Commit, Committed, Counts, EventBatch,
    GraphVersion, Idempotency, Kept, Keyed, NewRun, OpenQuestion, Process, Result, Resumed, Run, RunFilter,
    Store, StoreError, Thread, VersionUse,
};
use crate::id::{CacheKey, CheckpointId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey};

/// How long an idempotency key is remembered, in hours.
const KEY_HOURS: i64 = 24;
/// One in so many claims also forgets old idempotency keys.
const CLAIMS_PER_PURGE: u32 = 256;
/// The newest rules that this engine knows; a run that needs newer ones is left to others.
const ENGINE: i64 = 1;
/// How often a write that was undone because of another one is tried.
const TRIES: usize = 5;

/// Keeps everything in Postgres, or in one SQLite file.
#[derive(Debug, Clone)]
pub struct SqlStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pools: Pools,
    /// Absent on SQLite.
    lanes: Option<Lanes>,
    claims: AtomicU32,
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
    let silent = |_| {
        let error = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database does not answer");
        DbErr::Query(RuntimeErr::SqlxError(Arc::new(SqlxError::Io(error))))
    };
    tokio::time::timeout(ANSWER, statement).await.map_err(silent)?
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

/// Sorts what a process drives by what it still owns, each with the wish for its end.
fn beat(live: &[RunId], owned: Vec<(RunId, bool)>) -> Beat {
    let still: BTreeSet<RunId> = owned.iter().map(|(run, _)| *run).collect();
    let lost = live.iter().filter(|run| !still.contains(run)).copied().collect();
    Beat { cancelled: owned.into_iter().filter(|(_, cancel)| *cancel).map(|(run, _)| run).collect(), lost }
}

/// Begins a transaction that writes.
async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction> {
    // A deferred transaction of SQLite could find at its first write that it read too early.
    let mode = (db.get_database_backend() == DbBackend::Sqlite).then_some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    db.begin_with_options(options).await.map_err(|e| undone(&e))
}

async fn end(tx: DatabaseTransaction) -> Result<()> {
    tx.commit().await.map_err(|e| unsure(&e))
}

impl SqlStore {
    /// Opens `postgres://user:password@host/database`, `sqlite://path?mode=rwc` or `sqlite::memory:`.
    ///
    /// # Errors
    ///
    /// `Config` for another URL and for a SQLite file that another process has open, `Unavailable` when the database
    /// does not answer.
    pub async fn connect(url: &str) -> Result<Self> {
        let postgres = url.starts_with("postgres://") || url.starts_with("postgresql://");
        let pools = if postgres {
            connect::postgres(url).await?
        } else if url.starts_with("sqlite:") {
            connect::sqlite(url).await?
        } else {
            return Err(StoreError::Config("a database URL begins with `postgres://` or `sqlite:`".into()));
        };
        let lanes = postgres
            .then(|| Lanes::new(pools.write.get_postgres_connection_pool().clone(), connect::POSTGRES_LANES));
        Ok(Self(Arc::new(Inner { pools, lanes, claims: AtomicU32::new(0) })))
    }

    fn write(&self) -> DatabaseConnection {
        self.0.pools.write.clone()
    }

    fn read(&self) -> &DatabaseConnection {
        &self.0.pools.read
    }

    /// Forgets old idempotency keys now and then; nothing depends on when.
    async fn purge(&self) -> Result<()> {
        if self.0.claims.fetch_add(1, Ordering::Relaxed).is_multiple_of(CLAIMS_PER_PURGE) {
            let db = &self.0.pools.write;
            let old = Utc::now() - chrono::TimeDelta::hours(KEY_HOURS);
            let (text, values) = if self.0.lanes.is_some() {
                ("delete from idempotency where created_at <= now() - interval '24 hours'", vec![])
            } else {
                ("delete from idempotency where created_at <= $1", vec![row::moment(DbBackend::Sqlite, old)])
            };
            answered(db.execute_raw(sql(db, text, values))).await.map_err(|e| undone(&e))?;
        }
        Ok(())
    }
}

#[async_trait]
impl Store for SqlStore {
    async fn migrate(&self) -> Result<()> {
        let db = self.write();
        migration::up(&db).await.map_err(|e| undone(&e))
    }

    async fn ping(&self) -> Result<()> {
        answered(self.0.pools.beat.ping()).await.map_err(|e| undone(&e))
    }

    async fn put_graph_version(&self, version: &GraphVersion) -> Result<()> {
        let row = graph_version::ActiveModel {
            tenant: Set(read::DEPLOYMENT.to_owned()),
            hash: Set(version.hash.clone()),
            graph: Set(version.graph.clone()),
            body: Set(version.body.clone()),
        };
        // Equal hashes are equal bodies, so the first one stays.
        let insert = graph_version::Entity::insert(row).on_conflict_do_nothing();
        answered(insert.exec_without_returning(&self.0.pools.write)).await.map_err(|e| unsure(&e))?;
        Ok(())
    }

    async fn graph_version(&self, hash: &str) -> Result<Option<GraphVersion>> {
        read::graph_version(self.read(), hash).await
    }

    async fn version_use(&self, hash: &str) -> Result<VersionUse> {
        read::version_use(self.read(), hash).await
    }

    async fn paused_versions(&self) -> Result<BTreeMap<(String, String), u64>> {
        read::paused_versions(self.read()).await
    }

    async fn accept(&self, new: NewRun) -> Result<Accepted> {
        let db = self.write();
        if let Some(lanes) = &self.0.lanes {
            return postgres::accept(lanes, &db, &Arc::new(new)).await;
        }
        detached(async move {
            let tx = begin(&db).await?;
            let accepted = sqlite::accept(&tx, new).await?;
            end(tx).await?;
            Ok(accepted)
        })
        .await
    }

    async fn commit(&self, commit: Commit) -> Result<Committed> {
        if let Some(lanes) = &self.0.lanes {
            return postgres::commit(lanes, &self.write(), commit).await;
        }
        let db = self.write();
        detached(async move {
            let tx = begin(&db).await?;
            let committed = sqlite::commit(&tx, commit).await?;
            end(tx).await?;
            Ok(committed)
        })
        .await
    }

    async fn append_events(&self, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
        if batches.is_empty() {
            return Ok(());
        }
        if let Some(lanes) = &self.0.lanes {
            return postgres::append_events(lanes, batches).await;
        }
        let db = self.write();
        detached(async move {
            let tx = begin(&db).await?;
            sqlite::append_events(&tx, batches).await?;
            end(tx).await
        })
        .await
    }

    async fn claim(&self, process: &Process, limit: u32) -> Result<Vec<Claim>> {
        self.purge().await?;
        let db = self.write();
        if self.0.lanes.is_some() {
            return postgres::claim(&db, process, limit).await;
        }
        let process = process.clone();
        detached(async move {
            let tx = begin(&db).await?;
            let claims = sqlite::claim(&tx, &process, limit).await?;
            end(tx).await?;
            Ok(claims)
        })
        .await
    }

    async fn heartbeat(&self, process: &Process, live: &[RunId]) -> Result<Beat> {
        let db = self.0.pools.beat.clone();
        if self.0.lanes.is_some() {
            return postgres::heartbeat(&db, process, live).await;
        }
        let (process, live) = (process.clone(), live.to_vec());
        detached(async move {
            let tx = begin(&db).await?;
            let beat = sqlite::heartbeat(&tx, &process, &live).await?;
            end(tx).await?;
            Ok(beat)
        })
        .await
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
        let db = &self.0.pools.write;
        answered(db.execute_raw(sql(db, text, values))).await.map_err(|e| unsure(&e))?;
        Ok(())
    }

    async fn request_cancel(
        &self,
        owner: &Owner,
        run: RunId,
        result: Vec<u8>,
        events: EventBatch,
    ) -> Result<Option<Run>> {
        let db = self.write();
        if self.0.lanes.is_some() {
            return postgres::request_cancel(&db, owner, run, result, events).await;
        }
        let owner = owner.clone();
        detached(async move {
            let tx = begin(&db).await?;
            let found = sqlite::request_cancel(&tx, &owner, run, result, events).await?;
            end(tx).await?;
            Ok(found)
        })
        .await
    }

    async fn answer(&self, answer: Answer) -> Result<Answering> {
        let db = self.write();
        detached(async move {
            let tx = begin(&db).await?;
            let answered = question::answer(&tx, answer).await?;
            if matches!(answered, Answering::Claimed(_) | Answering::Stored { .. }) {
                end(tx).await?;
            } else {
                tx.rollback().await.map_err(|e| undone(&e))?;
            }
            Ok(answered)
        })
        .await
    }

    async fn keyed(&self, owner: &Owner, key: &Idempotency) -> Result<Option<Keyed>> {
        question::keyed(self.read(), owner, key).await
    }

    async fn answers(&self, owner: &Owner, run: RunId) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        question::answers(&self.0.pools.write, owner, run).await
    }

    async fn questions(&self, key: &ThreadKey) -> Result<Vec<OpenQuestion>> {
        question::of_thread(self.read(), key).await
    }

    async fn question(&self, owner: &Owner, agent: bool, id: &InterruptId) -> Result<Option<OpenQuestion>> {
        question::one(self.read(), owner, agent, id).await
    }

    async fn approvals(
        &self,
        tenant: &Part,
        after: Option<(DateTime<Utc>, InterruptId)>,
        limit: u32,
    ) -> Result<Vec<OpenQuestion>> {
        question::for_agents(self.read(), tenant, after, limit).await
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
        let values = vec![
            owner.tenant.as_str().into(),
            run.0.into(),
            owner.user.as_str().into(),
            (fence as i64).into(),
            (step as i64).into(),
            (&*task.0).into(),
            data.into(),
        ];
        if let Some(lanes) = &self.0.lanes {
            return postgres::put_pending(lanes, &values).await;
        }
        let db = self.write();
        detached(async move {
            let tx = begin(&db).await?;
            let stored = sqlite::put_pending(&tx, values).await?;
            end(tx).await?;
            Ok(stored)
        })
        .await
    }

    async fn pending(&self, owner: &Owner, run: RunId, step: u64) -> Result<Vec<(TaskId, Vec<u8>)>> {
        question::pending(&self.0.pools.write, owner, run, step).await
    }

    async fn cached(&self, tenant: &Part, keys: &[CacheKey]) -> Result<Vec<(CacheKey, Vec<u8>)>> {
        cache::find(&self.0.pools.write, tenant, keys).await
    }

    async fn resume(
        &self,
        owner: &Owner,
        run: RunId,
        process: Process,
        idempotency: Option<Idempotency>,
    ) -> Result<Resumed> {
        let (db, owner) = (self.write(), owner.clone());
        detached(async move {
            let tx = begin(&db).await?;
            let resumed = question::resume(&tx, &owner, run, &process, idempotency.as_ref()).await?;
            if matches!(resumed, Resumed::Claimed(_)) {
                end(tx).await?;
            } else {
                tx.rollback().await.map_err(|e| undone(&e))?;
            }
            Ok(resumed)
        })
        .await
    }

    async fn run(&self, owner: &Owner, run: RunId) -> Result<Option<Run>> {
        read::run(self.read(), owner, run).await
    }

    async fn events(&self, owner: &Owner, run: RunId, after: Seq, limit: usize) -> Result<Vec<EventBatch>> {
        read::events(self.read(), owner, run, after, limit).await
    }

    async fn thread(&self, key: &ThreadKey) -> Result<Option<Thread>> {
        read::thread(self.read(), key).await
    }

    async fn threads(
        &self,
        owner: &Owner,
        before: Option<(DateTime<Utc>, ThreadId)>,
        limit: u32,
    ) -> Result<Vec<Thread>> {
        read::threads(self.read(), owner, before, limit).await
    }

    async fn delete_thread(&self, key: &ThreadKey) -> Result<bool> {
        let (db, key) = (self.write(), key.clone());
        detached(async move { delete::thread(&db, &key).await }).await
    }

    async fn erase(&self, tenant: &Part, user: Option<&Part>, limit: u32) -> Result<u64> {
        let (db, tenant, user) = (self.write(), tenant.clone(), user.cloned());
        #[expect(
            clippy::disallowed_methods,
            reason = "it is awaited here; each thread is a transaction, so it may take its time"
        )]
        let task = tokio::spawn(async move { operate::erase(&db, &tenant, user.as_ref(), limit).await });
        task.await.unwrap_or_else(|e| Err(StoreError::Unknown(e.to_string())))
    }

    async fn runs(&self, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
        operate::runs(self.read(), filter, limit).await
    }

    async fn counts(&self) -> Result<Counts> {
        operate::counts(self.read()).await
    }

    async fn find_run(&self, run: RunId) -> Result<Option<Run>> {
        operate::find(self.read(), run).await
    }

    async fn retry(&self, run: RunId) -> Result<Option<Run>> {
        let db = self.write();
        detached(async move { operate::retry(begin(&db).await?, run).await }).await
    }

    async fn overdue(&self, kept: Kept, age: Duration, limit: u32) -> Result<Vec<Run>> {
        keep::overdue(self.read(), kept, age, limit).await
    }

    async fn keep_events(
        &self,
        owner: &Owner,
        run: RunId,
        kept: Kept,
        batches: Vec<EventBatch>,
    ) -> Result<bool> {
        let (db, owner) = (self.write(), owner.clone());
        detached(async move { keep::events(begin(&db).await?, &owner, run, kept, batches).await }).await
    }

    async fn forget_checkpoints(&self, age: Duration, limit: u32) -> Result<u64> {
        let db = self.write();
        #[expect(
            clippy::disallowed_methods,
            reason = "it is awaited here; each thread is a transaction, so it may take its time"
        )]
        let task = tokio::spawn(async move { keep::checkpoints(&db, age, limit).await });
        task.await.unwrap_or_else(|e| Err(StoreError::Unknown(e.to_string())))
    }

    async fn forget_cached(&self, limit: u32) -> Result<u64> {
        answered(cache::forget(&self.0.pools.write, limit)).await.map_err(|e| undone(&e))
    }

    async fn discard(&self, run: RunId) -> Result<Option<Run>> {
        let db = self.write();
        detached(async move { operate::discard(begin(&db).await?, run).await }).await
    }

    async fn chain(
        &self,
        owner: &Owner,
        thread: ThreadId,
        checkpoint: CheckpointId,
    ) -> Result<Vec<Checkpoint>> {
        read::chain(self.read(), owner, thread, checkpoint).await
    }

    async fn history(
        &self,
        owner: &Owner,
        thread: ThreadId,
        before: Option<CheckpointId>,
        limit: u32,
    ) -> Result<Vec<Checkpoint>> {
        read::history(self.read(), owner, thread, before, limit).await
    }
}
