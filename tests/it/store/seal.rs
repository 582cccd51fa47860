//! Encryption before the SQL stores: what is sealed opens where it was put, under its keys, and nowhere else.

use std::sync::Arc;
use std::time::Duration;

use graphloom::id::{CacheKey, InterruptId, Owner, RunId, Seq, TaskId, ThreadKey};
use graphloom::store::seal::{SealedStore, Status, over};
use graphloom::store::sql::SqlStore;
use graphloom::store::{
    Accepted, Actor, Answer, Answering, CacheEntry, Commit, EventBatch, GraphVersion, HookFilter, NewRun,
    Question, Result, Run, RunFilter, RunState, Store, StoreError, Told, Wishes,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use crate::support::{
    Fresh, barrier, batch, checkpoint, claimed, erase, last_barrier, masters, new_run, owner, part, plain,
    process, queued, sealed, session,
};

/// Makes a test on each database of functions that take one.
macro_rules! on_both {
    ($($test:ident),* $(,)?) => {
        $(mod $test {
            #[tokio::test(flavor = "multi_thread")]
            async fn on_sqlite() {
                super::$test(crate::support::Fresh::sqlite()).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn on_postgres() {
                super::$test(crate::support::Fresh::postgres().await).await;
            }
        })*
    };
}

on_both![
    a_value_that_stands_elsewhere_is_refused_with_its_place,
    a_database_opens_under_its_master_key_alone,
    keys_are_wrapped_anew_and_made_anew,
    what_was_stored_before_is_encrypted_in_steps,
    a_tenant_that_is_erased_takes_its_keys_along,
    a_run_that_cannot_be_read_keeps_no_other,
    a_webhook_that_cannot_be_read_keeps_no_other,
    news_that_cannot_be_read_keep_no_other,
    a_tenant_whose_key_is_unknown_keeps_no_other,
    a_question_that_cannot_be_read_keeps_no_other,
    a_cancel_is_sealed_under_a_key_that_the_tenant_has,
    no_step_of_a_change_of_master_keys_shuts_a_replica_out,
    a_database_without_encryption_has_no_keys_to_change,
];

/// A thread with something in each column that holds words.
struct Full {
    key: ThreadKey,
    run: Run,
    pending: TaskId,
}

fn thread(tenant: &str, user: &str, name: &str) -> ThreadKey {
    ThreadKey { owner: owner(tenant, user), session: part(name) }
}

fn cache_key(key: &ThreadKey) -> CacheKey {
    CacheKey(format!("k-{}", key.session).into())
}

/// Accepts a run of which somebody is told.
async fn watched(store: &dyn Store, key: &ThreadKey) -> Run {
    let wishes = Wishes { webhook: Some("https://example.com/hook".into()), ..Wishes::default() };
    match store.accept(NewRun { wishes, ..new_run(key) }).await.unwrap() {
        Accepted::Claimed { run, .. } | Accepted::Queued { run } => run,
        other => panic!("{other:?}"),
    }
}

async fn full(store: &dyn Store, key: ThreadKey) -> Full {
    let mut run = watched(store, &key).await;
    let first = checkpoint(&run, None, 0, true);
    let second = checkpoint(&run, Some(first.checkpoint), 1, true);
    let id = InterruptId(format!("i-{}", run.run).into());
    let question = Question { id: id.clone(), agent: false, data: b"canary asks".to_vec(), expires_at: None };
    let entry =
        CacheEntry { key: cache_key(&key), data: b"canary kept".to_vec(), ttl: Duration::from_hours(1) };
    let commit = Commit {
        checkpoints: vec![first, second],
        questions: vec![question],
        cached: vec![entry],
        events: Some(batch(1, 1, 2, b"canary told")),
        ..barrier(&run)
    };
    store.commit(commit).await.unwrap();
    run.step += 1;
    store.append_events(vec![(key.owner.clone(), run.run, batch(1, 3, 4, b"canary on"))]).await.unwrap();
    let pending = TaskId("task".into());
    for step in [1, 2] {
        assert!(
            store.put_pending(&key.owner, run.run, 1, step, &pending, b"canary did".to_vec()).await.unwrap()
        );
    }
    let answer = Answer {
        owner: key.owner.clone(),
        agent: false,
        run: run.run,
        key: key.clone(),
        answers: vec![(id, b"canary says".to_vec())],
        by: "ann".into(),
        idempotency: None,
        process: process("here"),
        input: None,
        wishes: Wishes::default(),
    };
    assert!(matches!(store.answer(answer).await.unwrap(), Answering::Stored { .. }));
    let end = Some((RunState::Failed, Some(b"canary ends".to_vec())));
    store.commit(Commit { next: end, ..barrier(&run) }).await.unwrap();
    let version =
        GraphVersion { graph: "g".into(), hash: key.session.to_string(), body: b"canary: 1".to_vec() };
    store.put_graph_version(&version).await.unwrap();
    Full { run: store.run(&key.owner, run.run).await.unwrap().unwrap(), key, pending }
}

/// Reads everything of a thread.
async fn read(store: &dyn Store, full: &Full) -> Result<Vec<Vec<u8>>> {
    let (owner, id) = (&full.key.owner, full.run.run);
    let run = store.run(owner, id).await?.unwrap();
    let thread = store.thread(&full.key).await?.unwrap();
    let mut all = vec![run.input, run.result.unwrap()];
    let mut line = store.history(owner, thread.thread, None, 10).await?;
    for point in [line[1].checkpoint, line[0].checkpoint] {
        line.extend(store.chain(owner, thread.thread, point).await?);
    }
    for c in line {
        all.extend([c.delta, c.frontier, c.snapshot.unwrap_or_default()]);
    }
    all.extend(store.events(owner, id, Seq::default(), 9000).await?.into_iter().map(|batch| batch.data));
    for step in [1, 2] {
        all.extend(store.pending(owner, id, step).await?.into_iter().map(|(_, data)| data));
    }
    let id = InterruptId(format!("i-{id}").into());
    all.push(store.question(owner, false, &id).await?.unwrap().data);
    all.extend(store.answers(owner, full.run.run).await?.into_iter().map(|(_, data)| data));
    all.extend(store.cached(&owner.tenant, &[cache_key(&full.key)]).await?.into_iter().map(|(_, data)| data));
    all.push(store.graph_version(full.key.session.as_str()).await?.unwrap().body);
    let filter = HookFilter { tenant: Some(owner.tenant.clone()), ..HookFilter::default() };
    let hooks = store.hooks(&filter, 10).await?;
    all.extend(hooks.into_iter().filter(|hook| hook.run.run == full.run.run).map(|hook| hook.data));
    assert_eq!(full.pending, TaskId("task".into()));
    Ok(all)
}

/// The columns that hold words, each in a row of the thread `{of}`.
const PLACES: [(&str, &str, &str); 14] = [
    ("run", "input", "{of}"),
    ("run", "result", "{of}"),
    ("checkpoint", "delta", "run_id = {run} and step = 0"),
    ("checkpoint", "delta", "run_id = {run} and step = 1"),
    ("checkpoint", "frontier", "run_id = {run} and step = 0"),
    ("checkpoint", "snapshot", "run_id = {run} and step = 0"),
    ("event", "data", "run_id = {run} and first_n = 1"),
    ("event", "data", "run_id = {run} and first_n = 3"),
    ("pending_write", "data", "run_id = {run} and step = 1"),
    ("pending_write", "data", "run_id = {run} and step = 2"),
    ("interrupt", "data", "run_id = {run}"),
    ("interrupt", "answer", "run_id = {run}"),
    ("cache", "data", "tenant = {tenant} and key = {key}"),
    ("graph_version", "body", "hash = {hash}"),
];

fn row(place: &str, key: &ThreadKey) -> String {
    let (tenant, user) = (&key.owner.tenant, &key.owner.user);
    let of = format!("tenant = '{tenant}' and user_id = '{user}' and session_id = '{}'", key.session);
    place
        .replace("{run}", &format!("(select run_id from run where {of})"))
        .replace("{of}", &of)
        .replace("{tenant}", &format!("'{tenant}'"))
        .replace("{key}", &format!("'{}'", cache_key(key).0))
        .replace("{hash}", &format!("'{}'", key.session))
}

async fn raw(
    db: &DatabaseConnection,
    (table, column, place): (&str, &str, &str),
    key: &ThreadKey,
) -> Vec<u8> {
    let text = format!("select {column} from {table} where {}", row(place, key));
    let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap();
    assert_eq!(rows.len(), 1, "{table}.{column}");
    rows[0].try_get_by_index(0).unwrap()
}

async fn put(
    db: &DatabaseConnection,
    (table, column, place): (&str, &str, &str),
    key: &ThreadKey,
    bytes: &[u8],
) {
    let text = format!("update {table} set {column} = $1 where {}", row(place, key));
    let put = Statement::from_sql_and_values(db.get_database_backend(), text, [bytes.to_vec().into()]);
    assert_eq!(db.execute_raw(put).await.unwrap().rows_affected(), 1);
}

async fn a_value_that_stands_elsewhere_is_refused_with_its_place(fresh: Fresh) {
    let store = sealed(&fresh, &["ONE"]).await.unwrap();
    let mine = full(&*store, thread("acme", "ann", "s")).await;
    let mut others = Vec::new();
    // Another thread, another user, another tenant.
    for (tenant, user, name) in [("acme", "ann", "t"), ("acme", "bob", "u"), ("bolt", "ann", "s")] {
        others.push(full(&*store, thread(tenant, user, name)).await.key);
    }
    let whole = read(&*store, &mine).await.unwrap();
    assert_eq!(whole.len(), 23, "each column was read");
    let db = plain(&fresh.url).await;
    let (key, here) = (&mine.key, 10);
    for place @ (table, column, _) in PLACES {
        let own = raw(&db, place, key).await;
        let mut foreign = Vec::new();
        for other in &others {
            // What is kept for a tenant, and graphs, have no users.
            if raw(&db, place, other).await != own {
                foreign.push(("of another thread", raw(&db, place, other).await));
            }
        }
        for elsewhere in PLACES.iter().filter(|other| **other != place) {
            foreign.push(("of another column or row", raw(&db, *elsewhere, key).await));
        }
        assert!(foreign.len() > here, "{table}.{column}");
        let mut flipped = own.clone();
        *flipped.last_mut().unwrap() ^= 1;
        foreign.extend([
            ("in the clear", b"{\"v\":1,\"r\":\"canary\"}".to_vec()),
            ("empty", Vec::new()),
            ("cut", own[..own.len() - 1].to_vec()),
            ("cut in the head", own[..10].to_vec()),
            ("damaged", flipped),
            ("of a later format", [&[own[0], 9][..], &own[2..]].concat()),
            ("of no key", [&own[..3], &[7; 16][..], &own[19..]].concat()),
        ]);
        for (what, bytes) in foreign {
            put(&db, place, key, &bytes).await;
            let error = read(&*store, &mine).await.unwrap_err();
            let StoreError::Corrupt { why, .. } = &error else { panic!("{table}.{column} {what}: {error}") };
            let named = format!("`{table}.{column}` of tenant ");
            assert!(why.starts_with(&named) && !why.contains("canary"), "{table}.{column} {what}: {why}");
        }
        put(&db, place, key, &own).await;
        assert_eq!(read(&*store, &mine).await.unwrap(), whole);
    }
    // A row that says to be another one.
    for (change, back) in [
        ("update checkpoint set step = 7 where step = 1", "update checkpoint set step = 1 where step = 7"),
        ("update event set last_n = 9 where last_n = 4", "update event set last_n = 4 where last_n = 9"),
        ("update event set fence = 2 where first_n = 3", "update event set fence = 1 where first_n = 3"),
        (
            "update run set session_id = 'moved' where thread_id = {s}",
            "update run set session_id = 's' where thread_id = {s}",
        ),
        (
            "update interrupt set thread_id = {t} where thread_id = {s}",
            "update interrupt set thread_id = {s} where run_id = (select run_id from run where thread_id = {s})",
        ),
    ] {
        let [change, back] = [change, back].map(|text| {
            let thread = |name: &str| {
                format!("(select thread_id from thread where tenant = 'acme' and user_id = 'ann' and session_id = '{name}')")
            };
            text.replace("{s}", &thread("s")).replace("{t}", &thread("t"))
        });
        db.execute_unprepared(&change).await.unwrap();
        assert!(matches!(read(&*store, &mine).await, Err(StoreError::Corrupt { .. })), "{change}");
        db.execute_unprepared(&back).await.unwrap();
        assert_eq!(read(&*store, &mine).await.unwrap(), whole, "{back}");
    }
}

async fn refused(fresh: &Fresh, names: &[&str]) -> String {
    match sealed(fresh, names).await {
        Err(StoreError::Config(why)) => why,
        Err(other) => panic!("{names:?}: {other}"),
        Ok(_) => panic!("{names:?}: it opened"),
    }
}

async fn a_database_opens_under_its_master_key_alone(fresh: Fresh) {
    let mine = full(&*sealed(&fresh, &["ONE"]).await.unwrap(), session("s")).await;
    let why = refused(&fresh, &[]).await;
    assert!(why.contains("encrypted under the master key `ONE`, and the settings name none"), "{why}");
    let why = refused(&fresh, &["TWO"]).await;
    assert!(why.contains("under the master key `ONE`, which the settings do not name"), "{why}");
    let db = plain(&fresh.url).await;
    db.execute_unprepared("update data_key set master = 'TWO'").await.unwrap();
    let why = refused(&fresh, &["TWO"]).await;
    assert!(
        why.contains("the master key `TWO` is not the one that the database is encrypted under"),
        "{why}"
    );
    db.execute_unprepared("update data_key set master = 'ONE'").await.unwrap();
    let store = sealed(&fresh, &["TWO", "ONE"]).await.unwrap();
    assert_eq!(read(&*store, &mine).await.unwrap()[0], b"hello");
    // Whoever only looks is held as well.
    drop(store);
    let sql = SqlStore::connect(&fresh.url).await.unwrap();
    assert!(matches!(over(sql, None).await.err(), Some(StoreError::Config(_))));
}

/// Returns under which keys the inputs of a tenant's runs are sealed.
async fn keys_of_inputs(db: &DatabaseConnection, tenant: &str) -> usize {
    let text = format!("select distinct substr(input, 4, 16) from run where tenant = '{tenant}'");
    db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap().len()
}

fn status(tenants: usize, masters: &[(&str, usize)]) -> Status {
    let masters = masters.iter().map(|(name, keys)| ((*name).to_owned(), *keys)).collect();
    Status { on: true, converting: false, tenants, masters }
}

async fn keys_are_wrapped_anew_and_made_anew(fresh: Fresh) {
    let acme = full(&*sealed(&fresh, &["ONE"]).await.unwrap(), session("s")).await;
    let whole = read(&*sealed(&fresh, &["ONE"]).await.unwrap(), &acme).await.unwrap();
    let bolt = full(&*sealed(&fresh, &["TWO", "ONE"]).await.unwrap(), thread("bolt", "bob", "b")).await;
    let db = plain(&fresh.url).await;
    let sql = SqlStore::connect(&fresh.url).await.unwrap();
    let both = SealedStore::new(sql.clone(), masters(&["TWO", "ONE"]));
    assert_eq!(SealedStore::status(&sql).await.unwrap(), status(2, &[("ONE", 2), ("TWO", 1)]));
    assert_eq!((both.rewrap().await.unwrap(), both.rewrap().await.unwrap()), (2, 0));
    assert_eq!(SealedStore::status(&sql).await.unwrap(), status(2, &[("TWO", 3)]));
    // The older one is not needed any more.
    let two = SealedStore::new(sql.clone(), masters(&["TWO"]));
    assert_eq!(read(&two, &acme).await.unwrap(), whole);
    // A process that has the old data key learns of the new one by what it reads.
    two.renew(&part("acme")).await.unwrap();
    let next = claimed(&two, &session("t")).await;
    assert_eq!(both.run(&next.key.owner, next.run).await.unwrap().unwrap().input, b"hello");
    assert_eq!(keys_of_inputs(&db, "acme").await, 2);
    assert_eq!(read(&two, &acme).await.unwrap(), whole);
    let mut told = Vec::new();
    let sealed = two
        .apply(false, Duration::ZERO, |tenant, values| told.push((tenant.to_owned(), values)))
        .await
        .unwrap();
    assert_eq!(told, [("acme".to_owned(), sealed)]);
    assert_eq!(two.apply(false, Duration::ZERO, |_, _| ()).await.unwrap(), 0);
    assert_eq!(keys_of_inputs(&db, "acme").await, 1);
    for store in [&two, &both] {
        assert_eq!(read(store, &acme).await.unwrap(), whole);
        read(store, &bolt).await.unwrap();
    }
}

/// Counts the values, and on SQLite the files, that say `canary`.
async fn said(fresh: &Fresh) -> usize {
    let db = plain(&fresh.url).await;
    let mut count = 0;
    for (table, column) in [
        ("run", "input"),
        ("run", "result"),
        ("checkpoint", "delta"),
        ("checkpoint", "snapshot"),
        ("event", "data"),
        ("pending_write", "data"),
        ("interrupt", "data"),
        ("interrupt", "answer"),
        ("cache", "data"),
        ("graph_version", "body"),
        ("outbox", "data"),
    ] {
        let word = if db.get_database_backend() == DbBackend::Postgres {
            format!("select count(*) from {table} where position('canary'::bytea in {column}) > 0")
        } else {
            format!("select count(*) from {table} where instr({column}, x'63616e617279') > 0")
        };
        count += super::sql::numbers(&db, &word).await[0] as usize;
    }
    db.close().await.unwrap();
    if let Some(path) = fresh.url.strip_prefix("sqlite://").and_then(|rest| rest.split('?').next()) {
        for file in [path.to_owned(), format!("{path}-wal")] {
            let bytes = std::fs::read(file).unwrap_or_default();
            count += usize::from(bytes.windows(6).any(|window| window == b"canary"));
        }
    }
    count
}

async fn what_was_stored_before_is_encrypted_in_steps(fresh: Fresh) {
    let clear = sealed(&fresh, &[]).await.unwrap();
    let (mut all, mut whole) = (Vec::new(), Vec::new());
    for (tenant, name) in [("acme", "s"), ("acme", "t"), ("bolt", "u")] {
        all.push(full(&*clear, thread(tenant, "ann", name)).await);
    }
    // More than one page.
    let key = session("long");
    let mut long = claimed(&*clear, &key).await;
    crate::support::line(&*clear, &mut long, 45, 10).await;
    for full in &all {
        whole.push(read(&*clear, full).await.unwrap());
    }
    drop(clear);
    assert!(said(&fresh).await > 20);
    let why = refused(&fresh, &["ONE"]).await;
    assert!(why.contains("`graphloom encryption apply`"), "{why}");
    {
        let store = SealedStore::new(SqlStore::connect(&fresh.url).await.unwrap(), masters(&["ONE"]));
        assert!(store.apply(false, Duration::ZERO, |_, _| ()).await.unwrap() > 100);
        assert_eq!(store.apply(false, Duration::ZERO, |_, _| ()).await.unwrap(), 0);
    }
    assert_eq!(said(&fresh).await, 0);
    let db = plain(&fresh.url).await;
    db.execute_unprepared("update data_key set converting = true where tenant = '*'").await.unwrap();
    let why = refused(&fresh, &["ONE"]).await;
    assert!(why.contains("not all of the database is encrypted yet"), "{why}");
    {
        let store = SealedStore::new(SqlStore::connect(&fresh.url).await.unwrap(), masters(&["ONE"]));
        assert_eq!(store.apply(false, Duration::ZERO, |_, _| ()).await.unwrap(), 0);
    }
    let store = sealed(&fresh, &["ONE"]).await.unwrap();
    for (full, whole) in all.iter().zip(&whole) {
        assert_eq!(&read(&*store, full).await.unwrap(), whole);
    }
    let line = store.history(&key.owner, long.thread, None, 100).await.unwrap();
    assert_eq!((line.len(), line[44].delta.as_slice()), (45, &b"delta 0"[..]));
    drop(store);
    // What somebody put there since is taken only where that is asked for.
    put(&db, PLACES[0], &all[0].key, b"planted").await;
    let store = SealedStore::new(SqlStore::connect(&fresh.url).await.unwrap(), masters(&["ONE"]));
    let error = store.apply(false, Duration::ZERO, |_, _| ()).await.unwrap_err().to_string();
    assert!(
        error.contains("`run.input` of tenant acme, user ann, session s")
            && error.contains("is not encrypted"),
        "{error}"
    );
    assert_eq!(store.apply(true, Duration::ZERO, |_, _| ()).await.unwrap(), 1);
    assert_eq!(read(&store, &all[0]).await.unwrap()[0], b"planted");
}

async fn a_tenant_that_is_erased_takes_its_keys_along(fresh: Fresh) {
    drop(sealed(&fresh, &["ONE"]).await.unwrap());
    let sql = SqlStore::connect(&fresh.url).await.unwrap();
    let process = || SealedStore::new(sql.clone(), masters(&["ONE"]));
    let (one, two) = (process(), process());
    let key = session("s");
    let acme = full(&one, key.clone()).await;
    let bolt = full(&one, thread("bolt", "ann", "t")).await;
    read(&two, &acme).await.unwrap();
    let db = plain(&fresh.url).await;
    let backup = raw(&db, PLACES[0], &key).await;
    erase(&one, "acme", None).await;
    assert_eq!(super::sql::numbers(&db, "select count(*) from data_key where tenant = 'acme'").await, [0]);
    read(&two, &bolt).await.unwrap();
    // Another process still has the key in memory, and must not store anything under it.
    let Accepted::Claimed { run, .. } = two.accept(new_run(&key)).await.unwrap() else { panic!() };
    two.commit(Commit { events: Some(batch(1, 1, 1, b"new")), ..barrier(&run) }).await.unwrap();
    let fresh_process = process();
    let found = fresh_process.run(&key.owner, run.run).await.unwrap().unwrap();
    assert_eq!(found.input, b"hello");
    let events = fresh_process.events(&key.owner, run.run, Seq::default(), 99).await.unwrap();
    assert_eq!(events, [EventBatch { fence: 1, first: 1, last: 1, data: b"new".to_vec() }]);
    // What a backup has of before is lost.
    put(&db, PLACES[0], &key, &backup).await;
    let error = two.run(&key.owner, run.run).await.unwrap_err().to_string();
    assert!(error.contains("which its tenant does not have (any more)"), "{error}");
}

/// The key was read as of the start of the statement, and erased last: a run that was accepted meanwhile was left under a key
/// that is gone, so that nobody could ever read it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_is_accepted_while_its_tenant_is_erased_is_erased_or_can_be_read() {
    let fresh = Fresh::postgres().await;
    drop(sealed(&fresh, &["ONE"]).await.unwrap());
    let (holder, watcher) = (plain(&fresh.url).await, plain(&fresh.url).await);
    for is_known in [false, true] {
        let accepting = SealedStore::new(fresh.open().await, masters(&["ONE"]));
        let erasing = SealedStore::new(fresh.open().await, masters(&["ONE"]));
        let tenant = if is_known { "acme" } else { "bolt" };
        // The tenant has a key, and no thread.
        let first = thread(tenant, "ann", "first");
        claimed(&accepting, &first).await;
        accepting.delete_thread(&first).await.unwrap();
        // Somebody else begins the same thread, or holds it: the accept has looked, and waits.
        let key = thread(tenant, "ann", "s");
        let begun = format!(
            "begin; insert into thread (tenant, user_id, session_id, thread_id, graph, hash) \
             values ('{tenant}', 'ann', 's', gen_random_uuid(), 'support', 'hash-1')"
        );
        holder.execute_unprepared(&begun).await.unwrap();
        let accept = async {
            let accepted = accepting.accept(new_run(&key)).await.unwrap();
            assert!(matches!(accepted, Accepted::Claimed { .. }), "{accepted:?}");
        };
        let erased = std::sync::atomic::AtomicBool::new(false);
        let waiting = async |count: i64| {
            let text = "select count(*) from pg_stat_activity \
                 where datname = current_database() and wait_event_type = 'Lock'";
            while super::sql::numbers(&watcher, text).await[0] < count
                && !erased.load(std::sync::atomic::Ordering::Relaxed)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let erase = async {
            waiting(1).await;
            let done = erasing.erase(&part(tenant), None, 10, 0).await;
            erased.store(true, std::sync::atomic::Ordering::Relaxed);
            done.unwrap();
        };
        let release = async {
            waiting(2).await;
            let end = if is_known { "commit" } else { "rollback" };
            holder.execute_unprepared(end).await.unwrap();
        };
        tokio::join!(accept, erase, release);
        let other = SealedStore::new(fresh.open().await, masters(&["ONE"]));
        for run in accepting.runs(&RunFilter::default(), 10).await.unwrap() {
            let run = other.run(&run.key.owner, run.run).await.unwrap().unwrap();
            assert_eq!(run.input, b"hello");
        }
        let orphans = "select count(*) from run r where not exists ( \
             select 1 from thread t where t.tenant = r.tenant and t.thread_id = r.thread_id)";
        assert_eq!(super::sql::numbers(&watcher, orphans).await, [0]);
    }
}

/// Returns what runs of all tenants were started with, by tenant.
async fn inputs(store: &dyn Store) -> Vec<(String, Vec<u8>)> {
    let runs = store.runs(&RunFilter::default(), 10).await.unwrap();
    let mut all: Vec<_> = runs.into_iter().map(|run| (run.key.owner.tenant.to_string(), run.input)).collect();
    all.sort();
    all
}

async fn a_run_that_cannot_be_read_keeps_no_other(fresh: Fresh) {
    let store: Arc<dyn Store> = sealed(&fresh, &["ONE"]).await.unwrap();
    let queue = async |tenant: &str| {
        let key = thread(tenant, "ann", "s");
        let first = claimed(&*store, &key).await;
        let second = queued(&*store, &key).await;
        store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
        (key.owner, second.run)
    };
    let broken: (Owner, RunId) = queue("acme").await;
    let sound = queue("bolt").await;
    let db = plain(&fresh.url).await;
    let text = "update run set input = substr(input, 1, 50) where state = 'queued' and tenant = 'acme'";
    db.execute_unprepared(text).await.unwrap();
    let error = store.run(&broken.0, broken.1).await.unwrap_err().to_string();
    assert!(error.contains(&format!("run {}", broken.1)) && error.contains("is damaged"), "{error}");
    assert_eq!(
        inputs(&*store).await,
        [
            ("acme".to_owned(), Vec::new()),
            ("acme".to_owned(), b"hello".to_vec()),
            ("bolt".to_owned(), b"hello".to_vec()),
            ("bolt".to_owned(), b"hello".to_vec()),
        ]
    );
    let claims = store.claim(&process("there"), 10).await.unwrap();
    let mut taken: Vec<_> = claims.iter().map(|claim| (claim.run.run, claim.run.input.as_slice())).collect();
    taken.sort();
    let mut expected = vec![(broken.1, &b""[..]), (sound.1, &b"hello"[..])];
    expected.sort();
    assert_eq!(taken, expected);
}

async fn a_webhook_that_cannot_be_read_keeps_no_other(fresh: Fresh) {
    let store = sealed(&fresh, &["ONE"]).await.unwrap();
    for tenant in ["acme", "bolt"] {
        let key = thread(tenant, "ann", "s");
        let first = watched(&*store, &key).await;
        let second = watched(&*store, &key).await;
        store.commit(last_barrier(&first, RunState::Completed)).await.unwrap();
        // Ended from outside.
        let (result, events) = (b"cancelled".to_vec(), batch(0, 1, 1, b"cancelled"));
        store.request_cancel(&key.owner, second.run, Actor::User, false, result, events).await.unwrap();
    }
    let db = plain(&fresh.url).await;
    // That of another tenant.
    let text = "update outbox set data = (select data from outbox where tenant = 'acme' limit 1) \
         where tenant = 'bolt' and created_at = (select min(created_at) from outbox where tenant = 'bolt')";
    db.execute_unprepared(text).await.unwrap();
    let mut told: Vec<_> = store.claim_hooks(Duration::from_mins(1), 10).await.unwrap();
    told.sort_by_key(|hook| (hook.run.key.owner.tenant.to_string(), hook.created_at));
    let data: Vec<_> = told.iter().map(|hook| hook.data.as_slice()).collect();
    assert_eq!(data, [&b"the end"[..], b"cancelled", b"", b"cancelled"]);
    assert!(told.iter().all(|hook| hook.run.input == b"hello"));
    // What was told is gone, and nothing is left to seal.
    for hook in &told {
        let tenant = &hook.run.key.owner.tenant;
        store.told(tenant, hook.id, hook.attempts, Told::Delivered).await.unwrap();
    }
    drop(store);
    let store = SealedStore::new(SqlStore::connect(&fresh.url).await.unwrap(), masters(&["ONE"]));
    assert_eq!(store.apply(false, Duration::ZERO, |_, _| ()).await.unwrap(), 0);
    assert!(store.hooks(&HookFilter::default(), 10).await.unwrap().iter().all(|hook| hook.data.is_empty()));
}

async fn news_that_cannot_be_read_keep_no_other(fresh: Fresh) {
    let store = sealed(&fresh, &["ONE"]).await.unwrap();
    let broken = full(&*store, thread("acme", "ann", "s")).await;
    let sound = full(&*store, thread("acme", "ann", "t")).await;
    put(&plain(&fresh.url).await, PLACES[7], &broken.key, b"planted").await;
    let of = [&broken, &sound].map(|full| (full.key.owner.clone(), full.run.run, Seq::default()));
    let found = store.news(&of, 9000).await.unwrap();
    let told = |full: &Full| {
        let news = found.iter().find(|news| news.run == full.run.run).unwrap();
        news.batches.iter().map(|batch| batch.data.as_slice()).collect::<Vec<_>>()
    };
    assert_eq!(told(&broken), [&b"canary told"[..], b""]);
    assert_eq!(told(&sound), [&b"canary told"[..], b"canary on"]);
}

/// News, events, lists and webhooks of all tenants failed as a whole.
async fn a_tenant_whose_key_is_unknown_keeps_no_other(fresh: Fresh) {
    let before = sealed(&fresh, &["ONE"]).await.unwrap();
    let mut runs = Vec::new();
    for tenant in ["acme", "bolt"] {
        let first = watched(&*before, &thread(tenant, "ann", "s")).await;
        let events = Some(batch(1, 1, 2, b"told"));
        before.commit(Commit { events, ..last_barrier(&first, RunState::Completed) }).await.unwrap();
        let unread = thread(tenant, "ann", "t");
        let wishes = Wishes { read_for: Some(Duration::ZERO), ..Wishes::default() };
        let accepted = before.accept(NewRun { wishes, ..new_run(&unread) }).await.unwrap();
        let Accepted::Claimed { run, .. } = accepted else { panic!("{accepted:?}") };
        runs.push((first, run));
    }
    let db = plain(&fresh.url).await;
    db.execute_unprepared("update data_key set master = 'GONE' where tenant = 'acme'").await.unwrap();
    drop(before);
    // A process that has not met the tenant.
    let store = sealed(&fresh, &["ONE"]).await.unwrap();
    let of: Vec<_> = runs.iter().map(|(run, _)| (run.key.owner.clone(), run.run, Seq::default())).collect();
    let mut told: Vec<_> = Vec::new();
    for news in store.news(&of, 9000).await.unwrap() {
        told.extend(news.batches.into_iter().map(|batch| (news.run == runs[1].0.run, batch.data)));
    }
    told.sort();
    assert_eq!(told, [(false, Vec::new()), (true, b"told".to_vec())]);
    let batches = runs.iter().map(|(_, run)| (run.key.owner.clone(), run.run, batch(1, 1, 1, b"on")));
    store.append_events(batches.collect()).await.unwrap();
    let sound = &runs[1].1;
    let events = store.events(&sound.key.owner, sound.run, Seq::default(), 9000).await.unwrap();
    assert_eq!(events, [batch(1, 1, 1, b"on")]);
    let hello = |runs: Vec<Run>| {
        let mut inputs: Vec<_> =
            runs.into_iter().map(|run| (run.key.owner.tenant.to_string(), run.input)).collect();
        inputs.sort();
        inputs
    };
    let expected = [("acme".to_owned(), Vec::new()), ("bolt".to_owned(), b"hello".to_vec())];
    assert_eq!(hello(store.unread(10).await.unwrap()), expected);
    assert_eq!(
        hello(store.overdue(graphloom::store::Kept::All, Duration::ZERO, 10).await.unwrap()),
        expected
    );
    assert_eq!(store.runs(&RunFilter::default(), 10).await.unwrap().len(), 4);
    assert_eq!(store.hooks(&HookFilter::default(), 10).await.unwrap().len(), 2);
    // What one process cannot read may be told by another, when the lease is over.
    let due = store.claim_hooks(Duration::from_mins(1), 10).await.unwrap();
    let due: Vec<_> = due.iter().map(|hook| (hook.run.run, hook.data.as_slice())).collect();
    assert_eq!(due, [(runs[1].0.run, &b"the end"[..])]);
    let key = thread("acme", "ann", "u");
    assert!(matches!(store.accept(new_run(&key)).await, Err(StoreError::Config(_))));
    // A look into the queue that finds only what others can read is no error: it was one each second.
    db.execute_unprepared("update run set state = 'queued' where tenant = 'acme' and state = 'running'")
        .await
        .unwrap();
    assert_eq!(store.claim(&process("late"), 10).await.unwrap(), []);
}

/// Beside `encryption apply` it went on to store in the clear, and nobody noticed.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_keys_stores_nothing_more_once_encryption_begins() {
    let fresh = Fresh::postgres().await;
    let plain = sealed(&fresh, &[]).await.unwrap();
    let run = claimed(&*plain, &session("s")).await;
    let (me, live) = (process("here"), [run.run]);
    plain.heartbeat(&me, &live).await.unwrap();
    let sql = SqlStore::connect(&fresh.url).await.unwrap();
    let operator = SealedStore::new(sql, masters(&["ONE"]));
    operator.apply(false, Duration::ZERO, |_, _| ()).await.unwrap();
    let refused = |why: StoreError| matches!(why, StoreError::Config(why) if why.contains("encrypted since"));
    assert!(refused(plain.heartbeat(&me, &live).await.unwrap_err()));
    assert!(refused(plain.ping().await.unwrap_err()));
    assert!(refused(plain.accept(new_run(&session("t"))).await.unwrap_err()));
    assert!(refused(plain.commit(barrier(&run)).await.unwrap_err()));
    assert!(refused(plain.claim(&me, 10).await.unwrap_err()));
    let events = vec![(run.key.owner.clone(), run.run, batch(1, 1, 1, b"x"))];
    assert!(refused(plain.append_events(events).await.unwrap_err()));
    assert_eq!(operator.apply(false, Duration::ZERO, |_, _| ()).await.unwrap(), 0);
}

async fn a_question_that_cannot_be_read_keeps_no_other(fresh: Fresh) {
    let store = sealed(&fresh, &["ONE"]).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        let key = session(name);
        let run = claimed(&*store, &key).await;
        let question = Question {
            id: InterruptId(name.into()),
            agent: true,
            data: name.as_bytes().to_vec(),
            expires_at: None,
        };
        let next = Some((RunState::Interrupted, None));
        store.commit(Commit { questions: vec![question], next, ..barrier(&run) }).await.unwrap();
    }
    let db = plain(&fresh.url).await;
    for name in ["a", "c"] {
        put(&db, ("interrupt", "data", "run_id = {run}"), &session(name), b"planted").await;
    }
    let tenant = part("acme");
    let mut after = None;
    for due in [vec!["b"], vec!["d"], vec![]] {
        let page = store.approvals(&tenant, after.clone(), 1).await.unwrap();
        let said: Vec<_> = page.iter().map(|open| String::from_utf8(open.data.clone()).unwrap()).collect();
        assert_eq!(said, due);
        after = page.last().map(|open| (open.created_at, open.id.clone()));
    }
    assert_eq!(store.approvals(&tenant, None, 10).await.unwrap().len(), 2);
    assert!(store.question(&owner("acme", "ann"), true, &InterruptId("a".into())).await.is_err());
}

/// The end was sealed under the key in memory, also when the tenant had been erased and was there again under another; and a
/// tenant got a key for a run that was not there.
async fn a_cancel_is_sealed_under_a_key_that_the_tenant_has(fresh: Fresh) {
    drop(sealed(&fresh, &["ONE"]).await.unwrap());
    let sql = SqlStore::connect(&fresh.url).await.unwrap();
    let process = || SealedStore::new(sql.clone(), masters(&["ONE"]));
    let (one, two, key) = (process(), process(), session("s"));
    let run = claimed(&two, &key).await;
    // By what it reads it has the key in memory.
    two.run(&key.owner, run.run).await.unwrap();
    erase(&one, "acme", None).await;
    claimed(&one, &key).await;
    let waiting = watched(&one, &key).await;
    let cancel = async |run: RunId, owner: &Owner| {
        two.request_cancel(owner, run, Actor::User, false, b"cancelled".to_vec(), batch(0, 1, 1, b"ended"))
            .await
            .unwrap()
    };
    let cancelled = cancel(waiting.run, &key.owner).await.unwrap();
    assert_eq!((cancelled.state, cancelled.result), (RunState::Cancelled, Some(b"cancelled".to_vec())));
    let other = process();
    let found = other.run(&key.owner, waiting.run).await.unwrap().unwrap();
    assert_eq!(found.result, Some(b"cancelled".to_vec()));
    let events = other.events(&key.owner, waiting.run, Seq::default(), 99).await.unwrap();
    assert_eq!(events, [batch(0, 1, 1, b"ended")]);
    let hooks = other.hooks(&HookFilter::default(), 10).await.unwrap();
    assert_eq!(hooks.iter().map(|hook| hook.data.as_slice()).collect::<Vec<_>>(), [b"cancelled"]);
    for (run, owner) in [(RunId::new(), owner("ghost", "ann")), (waiting.run, owner("bolt", "ann"))] {
        assert_eq!(cancel(run, &owner).await, None);
    }
    let db = plain(&fresh.url).await;
    let keys = "select count(*) from data_key where tenant in ('ghost', 'bolt')";
    assert_eq!(super::sql::numbers(&db, keys).await, [0]);
}

/// The steps that the guide names: whatever is made by a replica after a step is read by one from before it.
async fn no_step_of_a_change_of_master_keys_shuts_a_replica_out(fresh: Fresh) {
    drop(sealed(&fresh, &["ONE"]).await.unwrap());
    let sql = SqlStore::connect(&fresh.url).await.unwrap();
    let steps = [&["ONE"][..], &["ONE", "TWO"], &["TWO", "ONE"], &["TWO"]];
    for (number, step) in steps.windows(2).enumerate() {
        let [before, after] = step else { panic!() };
        if number == 2 {
            let Err(StoreError::Config(why)) = over(sql.clone(), Some(masters(&["TWO"]))).await else {
                panic!()
            };
            assert!(why.contains("under the master key `ONE`, which the settings do not name"), "{why}");
            assert!(SealedStore::new(sql.clone(), masters(before)).rewrap().await.unwrap() > 0);
        }
        let (before, after) =
            (SealedStore::new(sql.clone(), masters(before)), SealedStore::new(sql.clone(), masters(after)));
        for (one, other, name) in [(&before, &after, "old"), (&after, &before, "new")] {
            let key = thread(&format!("{name}{number}"), "ann", "s");
            let run = claimed(one, &key).await;
            assert_eq!(other.run(&key.owner, run.run).await.unwrap().unwrap().input, b"hello");
        }
    }
    assert!(over(sql, Some(masters(&["TWO"]))).await.is_ok());
}

async fn a_database_without_encryption_has_no_keys_to_change(fresh: Fresh) {
    for migrated in [false, true] {
        if migrated {
            drop(sealed(&fresh, &[]).await.unwrap());
        }
        let store = SealedStore::new(SqlStore::connect(&fresh.url).await.unwrap(), masters(&["ONE"]));
        for refused in [store.rewrap().await.map(drop), store.renew(&part("acme")).await] {
            let Err(StoreError::Config(why)) = refused else { panic!("{migrated}: {refused:?}") };
            assert!(
                why.contains("is not encrypted") && why.contains("`graphloom encryption apply`"),
                "{why}"
            );
        }
    }
}
