//! What the tests share: a fresh store of each kind, and short ways to say who asks for what.

pub(crate) mod collector;
pub(crate) mod pgbouncer;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod receiver;
pub(crate) mod schema;
pub(crate) mod stream;
pub(crate) mod turn;
pub(crate) mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use graphloom::id::{CheckpointId, Owner, Part, RunId, ThreadId, ThreadKey};
use graphloom::store::memory::MemoryStore;
use graphloom::store::seal::{self, Masters};
use graphloom::store::sql::SqlStore;
use graphloom::store::{
    Accepted, Checkpoint, Commit, Erased, EventBatch, NewRun, Noted, OnBusy, Process, Resume, Run, RunState,
    Store, StoreError, Wishes,
};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use sha2::Digest as _;
use uuid::Uuid;

use pgbouncer::PgBouncer;

/// A database of its own for one test, gone when dropped.
pub(crate) struct Fresh {
    /// The URL for [`SqlStore::connect`].
    pub(crate) url: String,
    cleanup: Cleanup,
}

enum Cleanup {
    Database(String),
    Directory(PathBuf),
}

/// Of the roles that tests make, which need one where the server does not trust.
pub(crate) const PASSWORD: &str = "secret";
/// The sorts of roles that tests make.
const ROLES: [&str; 3] = ["owner", "app", "other"];

/// Returns the server that makes databases for tests.
fn server() -> String {
    #[expect(
        clippy::disallowed_methods,
        reason = "the script that starts a private server tells its address so"
    )]
    let url = std::env::var("TEST_DATABASE_URL");
    url.unwrap_or_else(|_| "postgres://postgres@127.0.0.1:5432".to_owned()).trim_end_matches('/').to_owned()
}

/// Opens one connection without any of the store's settings.
pub(crate) async fn plain(url: &str) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap_or_else(|e| panic!("cannot connect to {url}: {e}"))
}

impl Fresh {
    /// Makes an empty database on the Postgres server.
    pub(crate) async fn postgres() -> Self {
        let name = format!("gl_{}", Uuid::now_v7().simple());
        let admin = plain(&format!("{}/postgres", server())).await;
        admin.execute_unprepared(&format!("create database {name}")).await.unwrap();
        admin.close().await.unwrap();
        Self { url: format!("{}/{name}", server()), cleanup: Cleanup::Database(name) }
    }

    /// Returns the name of the database on the Postgres server.
    fn name(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }

    /// Returns the URL for somebody else.
    pub(crate) fn url_of(&self, role: &str) -> String {
        let (_, place) = self.url.rsplit_once('@').unwrap();
        format!("postgres://{role}:{PASSWORD}@{place}")
    }

    /// Makes a role that may log in, gone with the database; `sort` is part of its name.
    pub(crate) async fn role(&self, sort: &str, options: &str) -> String {
        let (db, role) = (plain(&self.url).await, format!("{}_{sort}", self.name()));
        let text = format!("create role {role} login password '{PASSWORD}' {options}");
        db.execute_unprepared(&text).await.unwrap();
        db.close().await.unwrap();
        role
    }

    /// Opens a store of its own.
    pub(crate) async fn open(&self) -> SqlStore {
        SqlStore::connect(&self.url).await.unwrap()
    }

    /// Makes a directory for a SQLite file.
    pub(crate) fn sqlite() -> Self {
        let directory = std::env::temp_dir().join(format!("gl_{}", Uuid::now_v7().simple()));
        std::fs::create_dir(&directory).unwrap();
        let url = format!("sqlite://{}/test.db?mode=rwc", directory.display());
        Self { url, cleanup: Cleanup::Directory(directory) }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        match &self.cleanup {
            Cleanup::Directory(directory) => {
                let _ignored = std::fs::remove_dir_all(directory);
            }
            Cleanup::Database(name) => {
                // A runtime of its own: the test's may be on its way out, and must not be blocked.
                let mut drop = vec![format!("drop database if exists {name} with (force)")];
                drop.extend(ROLES.map(|sort| format!("drop role if exists {name}_{sort}")));
                let work = std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let admin = plain(&format!("{}/postgres", server())).await;
                        for text in &drop {
                            admin.execute_unprepared(text).await.unwrap();
                        }
                    });
                });
                let _ignored = work.join();
            }
        }
    }
}

/// A migrated store of one kind with what it stands on.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    /// Stands between, or not.
    pub(crate) _bouncer: Option<PgBouncer>,
    /// Absent for the memory.
    pub(crate) fresh: Option<Fresh>,
}

impl Subject {
    pub(crate) fn memory() -> Self {
        Self { store: Arc::new(MemoryStore::new()), fresh: None, _bouncer: None }
    }

    pub(crate) async fn sqlite() -> Self {
        Self::on(Fresh::sqlite()).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::on(Fresh::postgres().await).await
    }

    /// The same on Postgres through a PgBouncer, whose few connections change their user with each transaction.
    pub(crate) async fn behind_pgbouncer() -> Self {
        let subject = Self::postgres().await;
        let fresh = subject.fresh.unwrap();
        let role = fresh.role("app", "in role graphloom_app").await;
        let bouncer = PgBouncer::start(&fresh, &role);
        let store = SqlStore::connect(&bouncer.url).await.unwrap();
        store.migrate().await.unwrap();
        Self { store: Arc::new(store), fresh: Some(fresh), _bouncer: Some(bouncer) }
    }

    /// A store before which all that anybody says is encrypted.
    pub(crate) async fn sealed(fresh: Fresh) -> Self {
        Self { store: sealed(&fresh, &["ONE"]).await.unwrap(), fresh: Some(fresh), _bouncer: None }
    }

    async fn on(fresh: Fresh) -> Self {
        let store = SqlStore::connect(&fresh.url).await.unwrap();
        store.migrate().await.unwrap();
        Self { store: Arc::new(store), fresh: Some(fresh), _bouncer: None }
    }
}

/// Returns a master key for a name.
pub(crate) fn master(name: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(name))
}

/// Returns the master keys of these names.
pub(crate) fn masters(names: &[&str]) -> Masters {
    let keys: Vec<String> = names.iter().map(|name| master(name)).collect();
    Masters::new(names.iter().copied().zip(keys.iter().map(String::as_str))).unwrap()
}

/// Opens a store under master keys, or without, as the service does.
pub(crate) async fn sealed(fresh: &Fresh, names: &[&str]) -> Result<Arc<dyn Store>, StoreError> {
    let keys = (!names.is_empty()).then(|| masters(names));
    let store = seal::over(SqlStore::connect(&fresh.url).await?, keys).await?;
    store.migrate().await?;
    Ok(store)
}

/// Erases a tenant or one of its users, two threads at a time; returns how many there were, and what is noted of it.
pub(crate) async fn erase(store: &dyn Store, tenant: &str, user: Option<&str>) -> (u64, Noted) {
    let (user, mut threads) = (user.map(part), 0);
    loop {
        match store.erase(&part(tenant), user.as_ref(), 2, threads).await.unwrap() {
            Erased::Threads(more) => threads += more,
            Erased::All(note) => return (threads, note),
        }
    }
}

pub(crate) fn part(text: &str) -> Part {
    text.parse().unwrap()
}

pub(crate) fn owner(tenant: &str, user: &str) -> Owner {
    Owner { tenant: part(tenant), user: part(user) }
}

/// Returns the session of tenant `acme` and user `ann`.
pub(crate) fn session(name: &str) -> ThreadKey {
    ThreadKey { owner: owner("acme", "ann"), session: part(name) }
}

/// Returns a process whose claims hold for a minute.
pub(crate) fn process(instance: &str) -> Process {
    Process {
        instance: instance.to_owned(),
        boot: Uuid::now_v7(),
        lease: Duration::from_mins(1),
        tenant_runs: None,
        tenant_queue: 1000,
    }
}

/// Returns the wish of a process to go on with a run.
pub(crate) fn resume(key: &ThreadKey, run: RunId, instance: &str) -> Resume {
    Resume {
        key: key.clone(),
        run,
        process: process(instance),
        input: None,
        wishes: Wishes::default(),
        idempotency: None,
    }
}

/// Returns a plain run of process `here`.
pub(crate) fn new_run(key: &ThreadKey) -> NewRun {
    NewRun {
        run: RunId::new(),
        key: key.clone(),
        graph: "support".to_owned(),
        hash: "hash-1".to_owned(),
        input: b"hello".to_vec(),
        on_busy: OnBusy::Enqueue,
        queue_limit: 10,
        process: process("here"),
        idempotency: None,
        from: None,
        delay: None,
        wishes: Wishes::default(),
    }
}

/// Accepts a plain run that must start at once.
pub(crate) async fn claimed(store: &dyn Store, key: &ThreadKey) -> Run {
    match store.accept(new_run(key)).await.unwrap() {
        Accepted::Claimed { run, .. } => run,
        other => panic!("not claimed: {other:?}"),
    }
}

/// Accepts a plain run that must wait.
pub(crate) async fn queued(store: &dyn Store, key: &ThreadKey) -> Run {
    match store.accept(new_run(key)).await.unwrap() {
        Accepted::Queued { run } => run,
        other => panic!("not queued: {other:?}"),
    }
}

/// Returns a commit of the run's next step without anything in it.
pub(crate) fn barrier(run: &Run) -> Commit {
    Commit {
        cached: Vec::new(),
        questions: Vec::new(),
        closed: Vec::new(),
        pending: None,
        owner: run.key.owner.clone(),
        thread: run.thread,
        run: run.run,
        fence: run.fence,
        step: run.step,
        checkpoints: Vec::new(),
        events: None,
        appended: None,
        next: None,
        notice: None,
        stopped: false,
        lease: Duration::from_mins(1),
    }
}

/// Returns the commit that ends the run.
pub(crate) fn last_barrier(run: &Run, state: RunState) -> Commit {
    Commit { next: Some((state, Some(b"the end".to_vec()))), ..barrier(run) }
}

/// Returns a checkpoint of the run after `parent`; `whole` makes it a snapshot.
pub(crate) fn checkpoint(run: &Run, parent: Option<CheckpointId>, step: u64, whole: bool) -> Checkpoint {
    Checkpoint {
        checkpoint: CheckpointId::new(),
        parent,
        run: Some(run.run),
        step,
        source: "step".to_owned(),
        delta: format!("delta {step}").into_bytes(),
        snapshot: whole.then(|| format!("state {step}").into_bytes()),
        frontier: format!("frontier {step}").into_bytes(),
        created_at: chrono::DateTime::from_timestamp_micros(1_700_000_000_000_000 + step as i64).unwrap(),
    }
}

pub(crate) fn batch(fence: u64, first: u64, last: u64, data: &[u8]) -> EventBatch {
    EventBatch { fence, first, last, data: data.to_vec() }
}

/// Commits `count` checkpoints one after another, each `every`th a snapshot, and returns them.
pub(crate) async fn line(store: &dyn Store, run: &mut Run, count: u64, every: u64) -> Vec<Checkpoint> {
    let mut made: Vec<Checkpoint> = Vec::new();
    for step in 0..count {
        let next = checkpoint(run, made.last().map(|c| c.checkpoint), step, step % every == 0);
        let commit = Commit { checkpoints: vec![next.clone()], ..barrier(run) };
        assert_eq!(
            store.commit(commit).await.unwrap(),
            graphloom::store::Committed::Done { cancel_requested: false, kept: true }
        );
        run.step += 1;
        made.push(next);
    }
    made
}

/// Returns a thread id that no store knows.
pub(crate) fn nowhere() -> ThreadId {
    ThreadId::new()
}

/// Makes a test on each store of functions that take one; after `threads:` on two threads.
macro_rules! over_every_store {
    (threads: $($test:ident),* $(,)?) => {
        $($crate::support::over_every_store!(@ $test ((flavor = "multi_thread", worker_threads = 2)));)*
    };
    (@ $test:ident ($($how:tt)*)) => {
        mod $test {
            #[tokio::test $($how)*]
            async fn in_memory() {
                super::$test($crate::support::Subject::memory()).await;
            }

            #[tokio::test $($how)*]
            async fn on_sqlite() {
                super::$test($crate::support::Subject::sqlite().await).await;
            }

            #[tokio::test $($how)*]
            async fn on_postgres() {
                super::$test($crate::support::Subject::postgres().await).await;
            }
        }
    };
    ($($test:ident),* $(,)?) => {
        $($crate::support::over_every_store!(@ $test ());)*
    };
}
pub(crate) use over_every_store;
