//! What only a database can get wrong: start-up, the rows that stay behind, time, and broken connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use graphloom::id::InterruptId;
use graphloom::store::sql::SqlStore;
use graphloom::store::{
    Accepted, Commit, Committed, Idempotency, Keyed, NewRun, Question, Run, RunState, Store, StoreError,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use crate::support::proxy::Proxy;
use crate::support::{
    Fresh, Subject, barrier, batch, claimed, last_barrier, line, new_run, plain, process, queued, session,
};

pub(crate) async fn numbers(db: &DatabaseConnection, text: &str) -> Vec<i64> {
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

pub(super) async fn tables(db: &DatabaseConnection) -> Vec<String> {
    let text = if db.get_database_backend() == DbBackend::Postgres {
        "select table_name::text from information_schema.columns \
         where table_schema = 'public' and column_name = 'tenant' order by 1"
    } else {
        "select m.name from sqlite_master m join pragma_table_info(m.name) c \
         where m.type = 'table' and c.name = 'tenant' order by 1"
    };
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

/// Fills every table for the run, also those that have no operation yet.
pub(super) async fn fill(db: &DatabaseConnection) {
    for text in [
        "insert into pending_write (tenant, run_id, step, task_id, data) \
         select tenant, run_id, 1, 'task', input from run",
        "insert into interrupt (tenant, interrupt_id, thread_id, run_id, agent, data) \
         select tenant, hex(run_id), thread_id, run_id, false, input from run",
        "insert into cache (tenant, key, thread_id, data, expires_at) \
         select tenant, 'key', thread_id, input, created_at from run where fence > 0",
        "insert into intent (tenant, run_id, task_id, attempt, fence) select tenant, run_id, 'task', 1, 1 from run",
        "insert into outbox (tenant, outbox_id, run_id, target, data) \
         select tenant, run_id, run_id, 'https://example.com', input from run",
    ] {
        // Postgres prints a uuid where SQLite prints bytes.
        let text = match db.get_database_backend() {
            DbBackend::Postgres => text.replace("hex(run_id)", "run_id::text"),
            _ => text.to_owned(),
        };
        db.execute_unprepared(&text).await.unwrap();
    }
    let bytes = if db.get_database_backend() == DbBackend::Postgres { "'\\x00'::bytea" } else { "x'00'" };
    let blob = format!(
        "insert into blob (tenant, thread_id, hash, data) select tenant, thread_id, 'hash', {bytes} from thread"
    );
    db.execute_unprepared(&blob).await.unwrap();
}

async fn deleting_leaves_no_row(subject: Subject) {
    let Subject { store, fresh, .. } = subject;
    let url = fresh.as_ref().unwrap().url.clone();
    let idempotency = Idempotency { route: "r".into(), key: "k".into(), body_hash: "h".into() };
    let key = session("s");
    let new = NewRun { idempotency: Some(idempotency), ..new_run(&key) };
    let Accepted::Claimed { mut run, .. } = store.accept(new).await.unwrap() else { panic!() };
    queued(&*store, &key).await;
    line(&*store, &mut run, 3, 2).await;
    store.append_events(vec![(key.owner.clone(), run.run, batch(1, 1, 1, b"x"))]).await.unwrap();
    let db = plain(&url).await;
    fill(&db).await;
    let tables = tables(&db).await;
    assert_eq!(tables.len(), 14, "{tables:?}");
    let count = async |table: &String| {
        numbers(&db, &format!("select count(*) from {table} where tenant = 'acme'")).await[0]
    };
    // Versions belong to the deployment, keys to the tenant, and nothing was noted yet.
    for table in tables.iter().filter(|t| !["graph_version", "data_key", "audit"].contains(&t.as_str())) {
        assert!(count(table).await > 0, "`{table}` is not covered");
    }
    assert!(store.delete_thread(&key).await.unwrap());
    for table in &tables {
        // What is left says that it was deleted.
        assert_eq!(count(table).await, i64::from(table == "audit"), "`{table}`");
    }
}

#[tokio::test]
async fn deleting_a_thread_leaves_no_row_in_any_table_of_sqlite() {
    deleting_leaves_no_row(Subject::sqlite().await).await;
}

#[tokio::test]
async fn deleting_a_thread_leaves_no_row_in_any_table_of_postgres() {
    deleting_leaves_no_row(Subject::postgres().await).await;
}

/// Accepts, commits and appends run against deletes of the same threads; when all is quiet no row hangs in the air.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deletes_that_race_with_writers_leave_no_orphans_on_postgres() {
    let subject = Subject::postgres().await;
    let store = subject.store.clone();
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = (0..12)
        .map(|i| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..15 {
                    let key = session(&format!("s{}", (i + round) % 3));
                    if i < 3 {
                        store.delete_thread(&key).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(3)).await;
                        continue;
                    }
                    let Accepted::Claimed { run, .. } = store.accept(new_run(&key)).await.unwrap() else {
                        continue;
                    };
                    let _ = store.commit(barrier(&run)).await.unwrap();
                    let append = vec![(key.owner.clone(), run.run, batch(1, 1, 1, b"x"))];
                    store.append_events(append).await.unwrap();
                    let last = Commit {
                        step: 1,
                        events: Some(batch(1, 2, 2, b"y")),
                        ..last_barrier(&run, RunState::Completed)
                    };
                    let _ = store.commit(last).await.unwrap();
                }
            })
        })
        .collect();
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let orphans = "select count(*) from event e \
         where not exists (select 1 from run r where r.tenant = e.tenant and r.run_id = e.run_id)";
    assert_eq!(numbers(&db, orphans).await, [0]);
    let orphans = "select count(*) from run r \
         where not exists (select 1 from thread t where t.tenant = r.tenant and t.thread_id = r.thread_id)";
    assert_eq!(numbers(&db, orphans).await, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_that_start_together_migrate_once() {
    let fresh = Fresh::postgres().await;
    let starts = (0..4).map(|_| {
        let url = fresh.url.clone();
        async move { SqlStore::connect(&url).await.unwrap().migrate().await }
    });
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = starts.map(tokio::spawn).collect();
    for task in join_all(tasks).await {
        task.unwrap().unwrap();
    }
    let db = plain(&fresh.url).await;
    let files = std::fs::read_dir("migrations/postgres").unwrap().count() as i64;
    assert_eq!(numbers(&db, "select count(*) from seaql_migrations").await, [files]);
}

#[tokio::test]
async fn a_second_process_cannot_open_a_sqlite_file() {
    let fresh = Fresh::sqlite();
    let first = SqlStore::connect(&fresh.url).await.unwrap();
    let error = SqlStore::connect(&fresh.url).await.unwrap_err();
    assert!(matches!(&error, StoreError::Config(why) if why.contains("another process uses")), "{error}");
    drop(first);
    let again = async || SqlStore::connect(&fresh.url).await.is_ok();
    assert!(again().await, "the lock goes with its holder");
}

#[tokio::test]
async fn a_sqlite_file_keeps_its_runs_over_a_restart() {
    let fresh = Fresh::sqlite();
    let run = {
        let store = SqlStore::connect(&fresh.url).await.unwrap();
        store.migrate().await.unwrap();
        claimed(&store, &session("s")).await
    };
    let store = SqlStore::connect(&fresh.url).await.unwrap();
    store.migrate().await.unwrap();
    let claims = store.claim(&process("here"), 10).await.unwrap();
    assert_eq!(claims.iter().map(|c| (c.run.run, c.crashed)).collect::<Vec<_>>(), [(run.run, true)]);
}

#[tokio::test]
async fn sqlite_syncs_each_commit_and_writes_ahead() {
    let fresh = Fresh::sqlite();
    let store = SqlStore::connect(&fresh.url).await.unwrap();
    store.migrate().await.unwrap();
    let db = plain(&fresh.url).await;
    let rows =
        db.query_all_raw(Statement::from_string(DbBackend::Sqlite, "pragma journal_mode")).await.unwrap();
    assert_eq!(rows[0].try_get_by_index::<String>(0).unwrap(), "wal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_in_memory_takes_readers_and_writers_at_once() {
    let store = Arc::new(SqlStore::connect("sqlite::memory:").await.unwrap());
    store.migrate().await.unwrap();
    let turns = (0..20).map(|i| {
        let store = store.clone();
        async move {
            let run = claimed(&*store, &session(&format!("s{i}"))).await;
            store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
            store.run(&run.key.owner, run.run).await.unwrap().unwrap().state
        }
    });
    #[expect(clippy::disallowed_methods, reason = "the race needs several threads")]
    let tasks: Vec<_> = turns.map(tokio::spawn).collect();
    for task in join_all(tasks).await {
        assert_eq!(task.unwrap(), RunState::Completed);
    }
}

#[tokio::test]
async fn a_url_that_cannot_work_says_so_and_keeps_the_password() {
    for url in ["mysql://a@b/c", "postgres://[", "nonsense"] {
        let error = SqlStore::connect(url).await.unwrap_err();
        assert!(matches!(error, StoreError::Config(_)), "{url}: {error}");
    }
    let nobody = "postgres://ann:hunter2@127.0.0.1:1/db";
    let error = SqlStore::connect(nobody).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

/// Moves the clock of the stored rows instead of waiting.
async fn age(db: &DatabaseConnection, table: &str, column: &str, hours: i64) {
    let text = if db.get_database_backend() == DbBackend::Postgres {
        format!("update {table} set {column} = {column} - interval '{hours} hours'")
    } else {
        format!("update {table} set {column} = {column} - {hours} * 3600000000")
    };
    db.execute_unprepared(&text).await.unwrap();
}

async fn a_key_is_forgotten_after_a_day(subject: Subject) {
    let store = subject.store;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let keyed = |body: &str| {
        let idempotency = Idempotency { route: "r".into(), key: "k".into(), body_hash: body.into() };
        NewRun { idempotency: Some(idempotency), ..new_run(&session("s")) }
    };
    store.accept(keyed("one")).await.unwrap();
    age(&db, "idempotency", "created_at", 23).await;
    assert_eq!(store.accept(keyed("two")).await.unwrap(), Accepted::Known(Keyed::Other));
    age(&db, "idempotency", "created_at", 2).await;
    assert!(matches!(store.accept(keyed("two")).await.unwrap(), Accepted::Queued { .. }));
    assert!(matches!(store.accept(keyed("two")).await.unwrap(), Accepted::Known(Keyed::Same { .. })));
    age(&db, "idempotency", "created_at", 25).await;
    store.claim(&process("there"), 0).await.unwrap();
    assert_eq!(numbers(&db, "select count(*) from idempotency").await, [0]);
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day_on_sqlite() {
    a_key_is_forgotten_after_a_day(Subject::sqlite().await).await;
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day_on_postgres() {
    a_key_is_forgotten_after_a_day(Subject::postgres().await).await;
}

/// What agents were asked by runs that ended stayed in the index of open questions for ever.
async fn questions_of_runs_that_ended_leave_the_index_of_open_ones(subject: Subject) {
    let store = subject.store;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let ends = [RunState::Failed, RunState::Completed, RunState::Cancelled, RunState::Dead];
    for (n, state) in ends.into_iter().enumerate() {
        let run = claimed(&*store, &session(&format!("s{n}"))).await;
        let ask = |name: &str| Question {
            id: InterruptId(format!("{name}{n}").into()),
            agent: true,
            data: vec![1],
            expires_at: None,
        };
        store.commit(Commit { questions: vec![ask("left"), ask("closed")], ..barrier(&run) }).await.unwrap();
        let run = Run { step: 1, ..run };
        let closed = vec![ask("closed").id];
        let commit = Commit { closed, questions: vec![ask("last")], ..last_barrier(&run, state) };
        store.commit(commit).await.unwrap();
    }
    let indexed =
        "select count(*) from interrupt where agent and answer is null and closed_at is null and not ended";
    assert_eq!(numbers(&db, indexed).await, [0]);
    assert_eq!(numbers(&db, "select count(*) from interrupt where closed_at is not null").await, [4]);
}

#[tokio::test]
async fn questions_of_runs_that_ended_leave_the_index_of_open_ones_on_sqlite() {
    questions_of_runs_that_ended_leave_the_index_of_open_ones(Subject::sqlite().await).await;
}

#[tokio::test]
async fn questions_of_runs_that_ended_leave_the_index_of_open_ones_on_postgres() {
    questions_of_runs_that_ended_leave_the_index_of_open_ones(Subject::postgres().await).await;
}

async fn a_delayed_run_waits_and_holds_back_those_behind_it(subject: Subject) {
    let store = subject.store;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let first = claimed(&*store, &session("s")).await;
    let second = queued(&*store, &session("s")).await;
    queued(&*store, &session("s")).await;
    store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
    age(&db, "run", "available_at", -1).await;
    assert_eq!(store.claim(&process("there"), 10).await.unwrap(), []);
    age(&db, "run", "available_at", 1).await;
    let claims = store.claim(&process("there"), 10).await.unwrap();
    assert_eq!(claims.iter().map(|c| c.run.run).collect::<Vec<_>>(), [second.run]);
}

#[tokio::test]
async fn a_delayed_run_waits_and_holds_back_those_behind_it_on_sqlite() {
    a_delayed_run_waits_and_holds_back_those_behind_it(Subject::sqlite().await).await;
}

#[tokio::test]
async fn a_delayed_run_waits_and_holds_back_those_behind_it_on_postgres() {
    a_delayed_run_waits_and_holds_back_those_behind_it(Subject::postgres().await).await;
}

/// The server cuts every connection of the store while a commit waits for a lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_whose_connection_breaks_has_an_unknown_outcome() {
    let subject = Subject::postgres().await;
    let store = subject.store.clone();
    let run = claimed(&*store, &session("s")).await;
    let url = subject.fresh.as_ref().unwrap().url.clone();
    let (holder, killer) = (plain(&url).await, plain(&url).await);
    holder.execute_unprepared("begin; select 1 from run for update").await.unwrap();
    let commit = store.commit(barrier(&run));
    let kill = async {
        let waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while numbers(&killer, waiting).await != [1] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        killer
            .execute_unprepared(
                "select pg_terminate_backend(pid) from pg_stat_activity \
                 where datname = current_database() and application_name = 'graphloom'",
            )
            .await
            .unwrap();
    };
    let (outcome, ()) = tokio::join!(commit, kill);
    assert!(matches!(outcome, Err(StoreError::Unknown(_))), "{outcome:?}");
    holder.execute_unprepared("rollback").await.unwrap();
    // What the contract says to do then: read the run, and send the same again when the step is not there.
    let mut found = store.run(&run.key.owner, run.run).await;
    for _ in 0..10 {
        if found.is_ok() {
            break;
        }
        found = store.run(&run.key.owner, run.run).await;
    }
    assert_eq!(found.unwrap().unwrap().step, 0);
    assert_eq!(
        store.commit(barrier(&run)).await.unwrap(),
        Committed::Done { cancel_requested: false, kept: true }
    );
}

/// A lock that is held too long costs the statement, not the service.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_that_waits_too_long_for_a_lock_was_not_carried_out() {
    let subject = Subject::postgres().await;
    let store = subject.store.clone();
    let run = claimed(&*store, &session("s")).await;
    let holder = plain(&subject.fresh.as_ref().unwrap().url).await;
    holder.execute_unprepared("begin; select 1 from run for update").await.unwrap();
    let refused = store.commit(barrier(&run)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    // Another owner's heartbeat passes by.
    assert_eq!(store.heartbeat(&process("there"), &[run.run]).await.unwrap().lost, [run.run]);
    holder.execute_unprepared("rollback").await.unwrap();
    assert_eq!(
        store.commit(barrier(&run)).await.unwrap(),
        Committed::Done { cancel_requested: false, kept: true }
    );
}

/// A dropped caller leaves either nothing or a whole turn, and the pool stays usable.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_go_away_leave_no_open_transaction() {
    for subject in [Subject::sqlite().await, Subject::postgres().await] {
        let store = subject.store.clone();
        for i in 0..60u64 {
            let key = session(&format!("s{}", i % 3));
            let cut = Duration::from_micros(i * 50);
            let _ignored = tokio::time::timeout(cut, store.accept(new_run(&key))).await;
            let _ignored = tokio::time::timeout(cut, store.delete_thread(&key)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let run = claimed(&*store, &session("after")).await;
        store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
        let db = plain(&subject.fresh.as_ref().unwrap().url).await;
        if db.get_database_backend() == DbBackend::Postgres {
            let open = "select count(*) from pg_stat_activity \
                 where datname = current_database() and state like 'idle in transaction%'";
            assert_eq!(numbers(&db, open).await, [0]);
        }
    }
}

/// A database that hung left requests without an answer, and its connections were lost to the pool for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_that_hangs_is_told_from_a_busy_one_and_replaced_connections_serve_again() {
    let subject = Subject::postgres().await;
    let url = &subject.fresh.as_ref().unwrap().url;
    let server = url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let proxy = Proxy::to(server).await;
    let store = Arc::new(SqlStore::connect(&url.replace(server, &proxy.address)).await.unwrap());
    let run = claimed(&*store, &session("s")).await;
    // Every connection of the pools is open when the way falls silent.
    let reads = |n: usize| (0..n).map(|_| store.run(&run.key.owner, run.run));
    assert!(join_all(reads(32)).await.into_iter().all(|read| read.is_ok()));
    proxy.hang().await;
    let (read, commit) = tokio::join!(join_all(reads(32)), store.commit(barrier(&run)));
    assert!(read.iter().all(|read| matches!(read, Err(StoreError::Unavailable(_)))), "{read:?}");
    assert!(matches!(commit, Err(StoreError::Unknown(_) | StoreError::Unavailable(_))), "{commit:?}");
    proxy.replace();
    let begun = Instant::now();
    while store.run(&run.key.owner, run.run).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the pool does not recover");
    }
    assert_eq!(
        store.commit(barrier(&run)).await.unwrap(),
        Committed::Done { cancel_requested: false, kept: true }
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_commits_do_not_wait_for_the_disk_is_refused() {
    let fresh = Fresh::postgres().await;
    let name = fresh.url.rsplit_once('/').unwrap().1;
    let db = plain(&fresh.url).await;
    db.execute_unprepared(&format!("alter database {name} set synchronous_commit = off")).await.unwrap();
    let refused = SqlStore::connect(&fresh.url).await.unwrap_err();
    assert!(refused.to_string().contains("`synchronous_commit` is off"), "{refused}");
    db.execute_unprepared(&format!("alter database {name} set synchronous_commit = local")).await.unwrap();
    SqlStore::connect(&fresh.url).await.unwrap();
}
