//! The second wall between tenants: row-level security holds the service whatever its queries ask for.

use std::time::Duration;

use graphloom::store::sql::SqlStore;
use graphloom::store::{Accepted, Idempotency, NewRun, RunState, Store, StoreError};
use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

use super::sql::{fill, numbers, tables};
use crate::support::pgbouncer::PgBouncer;
use crate::support::{
    Fresh, Subject, batch, claimed, last_barrier, line, new_run, owner, part, plain, process, session,
};

async fn texts(db: &DatabaseConnection, text: &str) -> Vec<String> {
    let rows = db.query_all_raw(Statement::from_string(DbBackend::Postgres, text)).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

/// Returns a database with a row of `acme` in every table, and one connection to it.
async fn full() -> (Subject, DatabaseConnection) {
    let subject = Subject::postgres().await;
    let idempotency = Idempotency { route: "r".into(), key: "k".into(), body_hash: "h".into() };
    let key = session("s");
    let new = NewRun { idempotency: Some(idempotency), ..new_run(&key) };
    let Accepted::Claimed { mut run, .. } = subject.store.accept(new).await.unwrap() else { panic!() };
    line(&*subject.store, &mut run, 1, 1).await;
    subject.store.append_events(vec![(key.owner.clone(), run.run, batch(1, 1, 1, b"x"))]).await.unwrap();
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    fill(&db).await;
    for text in [
        "insert into graph_version (tenant, hash, graph, body) values ('acme', 'h', 'g', '\\x00')",
        "insert into data_key (tenant, key_id, master, wrapped) values ('acme', gen_random_uuid(), 'm', '\\x00')",
        "insert into audit (tenant, audit_id, at, act, actor, subject) values ('acme', gen_random_uuid(), now(), 'a', 'b', 'c')",
    ] {
        db.execute_unprepared(text).await.unwrap();
    }
    (subject, db)
}

#[tokio::test]
async fn every_table_of_tenants_has_a_wall_and_leads_its_key_with_the_tenant() {
    let subject = Subject::postgres().await;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let walled = "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace \
           and c.relkind in ('r', 'p') and c.relrowsecurity and c.relforcerowsecurity \
           and exists (select 1 from pg_policy p where p.polrelid = c.oid and p.polname = 'tenant' \
             and p.polcmd = '*' and p.polroles = '{0}' \
             and pg_get_expr(p.polqual, c.oid) like '%tenant = NULLIF(current_setting(''graphloom.tenant''%') \
           and exists (select 1 from pg_index i join pg_attribute a on a.attrelid = c.oid \
             and a.attnum = i.indkey[0] where i.indrelid = c.oid and i.indisprimary and a.attname = 'tenant') \
           and has_table_privilege('graphloom_app', c.oid, 'insert') \
           and has_table_privilege('graphloom_app', c.oid, 'delete') = (c.relname <> 'audit') order by 1";
    assert_eq!(
        texts(&db, walled).await,
        tables(&db).await,
        "a migration calls `guard_tenants` for each table"
    );
    let others = "select c.relname::text from pg_class c where c.relnamespace = 'public'::regnamespace \
           and c.relkind in ('r', 'p', 'v', 'm', 'f') and not exists (select 1 from pg_attribute a \
             where a.attrelid = c.oid and a.attname = 'tenant')";
    assert_eq!(texts(&db, others).await, ["seaql_migrations"]);
}

/// Counts the rows of a table as somebody, in a transaction that names a tenant or none.
async fn seen(db: &DatabaseConnection, role: &str, tenant: Option<&str>, table: &str) -> i64 {
    let set = tenant.map_or_else(String::new, |tenant| format!("set local graphloom.tenant = '{tenant}';"));
    db.execute_unprepared(&format!("begin; {set} set local role {role}")).await.unwrap();
    let count = numbers(db, &format!("select count(*) from {table}")).await;
    db.execute_unprepared("rollback").await.unwrap();
    count[0]
}

#[tokio::test]
async fn without_a_tenant_no_row_is_seen_and_with_one_only_its_own() {
    let (subject, db) = full().await;
    let owner = subject.fresh.as_ref().unwrap().role("owner", "").await;
    for table in tables(&db).await {
        db.execute_unprepared(&format!("alter table {table} owner to {owner}")).await.unwrap();
        let roles = ["graphloom_app", &owner];
        // The service reads no note.
        for role in roles.into_iter().skip(usize::from(table == "audit")) {
            for (tenant, rows) in [(None, 0), (Some(""), 0), (Some("beta"), 0), (Some("acme"), 1)] {
                let seen = seen(&db, role, tenant, &table).await;
                assert_eq!(seen.min(1), rows, "`{table}` as {role} for {tenant:?}");
            }
        }
    }
}

/// Row-level security alone: no statement here says whose rows it is about.
#[tokio::test]
async fn a_query_that_forgot_its_tenant_reaches_no_row_of_another() {
    let (_subject, db) = full().await;
    let beta = "begin; set local graphloom.tenant = 'beta'; set local role graphloom_app";
    let mut all = tables(&db).await;
    // Of notes it can do nothing of this, not even with its own.
    all.retain(|table| table != "audit");
    for table in &all {
        for text in [
            format!("delete from {table}"),
            format!("update {table} set tenant = 'beta'"),
            format!("select 1 from {table} for update"),
        ] {
            db.execute_unprepared(beta).await.unwrap();
            let reached = db.execute_unprepared(&text).await.unwrap().rows_affected();
            db.execute_unprepared("rollback").await.unwrap();
            assert_eq!(reached, 0, "{text}");
        }
        // A row of another tenant cannot be made, and one's own cannot be given away.
        let copy = format!(
            "create temp table copied as table {table}; alter table copied drop column if exists ord"
        );
        db.execute_unprepared(&format!("{copy}; grant all on copied to graphloom_app")).await.unwrap();
        let columns = texts(
            &db,
            "select string_agg(quote_ident(attname), ', ') from pg_attribute \
             where attrelid = 'copied'::regclass and attnum > 0 and not attisdropped",
        );
        let columns = columns.await.remove(0);
        db.execute_unprepared(beta).await.unwrap();
        let made = format!("insert into {table} ({columns}) select {columns} from copied");
        let error = db.execute_unprepared(&made).await.unwrap_err().to_string();
        db.execute_unprepared("rollback; drop table copied").await.unwrap();
        assert!(error.contains("row-level security"), "`{table}`: {error}");
    }
    for table in &all {
        assert!(seen(&db, "graphloom_app", Some("acme"), table).await > 0, "`{table}` lost its rows");
    }
}

#[tokio::test]
async fn what_looks_over_all_tenants_reads_nothing_that_anybody_said() {
    let subject = Subject::postgres().await;
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    let columns = "select distinct table_name || '.' || column_name from information_schema.column_privileges \
         where grantee = 'graphloom_claimer' and table_schema = 'public' and column_name in ('user_id', \
           'session_id', 'input', 'result', 'data', 'answer', 'answered_by', 'key', 'body', 'delta', 'snapshot', \
           'frontier', 'wrapped')";
    // The key of a result that is kept is a digest.
    assert_eq!(texts(&db, columns).await, ["cache.key"]);
    let wide = "select proname::text from pg_proc where pronamespace = 'public'::regnamespace and prosecdef \
         and (pg_get_userbyid(proowner) <> 'graphloom_claimer' or has_function_privilege('public', oid, 'execute'))";
    assert_eq!(texts(&db, wide).await, Vec::<String>::new());
    let members = "select pg_get_userbyid(member)::text from pg_auth_members \
         where pg_get_userbyid(roleid) = 'graphloom_claimer' and pg_get_userbyid(member) = 'graphloom_app'";
    assert_eq!(texts(&db, members).await, Vec::<String>::new());
}

async fn refused(url: &str) -> String {
    let store = SqlStore::connect(url).await.unwrap();
    match store.migrate().await {
        Err(StoreError::Config(why)) => why,
        other => panic!("{url}: {other:?}"),
    }
}

/// One owns the tables and changes them, the other serves.
#[tokio::test]
async fn an_owner_and_a_service_of_their_own_need_no_superuser() {
    let fresh = Fresh::postgres().await;
    let (owner, app) = (fresh.role("owner", "").await, fresh.role("app", "").await);
    let (db, name) = (plain(&fresh.url).await, fresh.url.rsplit_once('/').unwrap().1);
    db.execute_unprepared(&format!("alter database {name} owner to {owner}")).await.unwrap();
    let (owner_url, app_url) = (fresh.url_of(&owner), fresh.url_of(&app));
    // Another test may have made the roles: they are of the server, not of the database.
    let why = refused(&app_url).await;
    assert!(why.contains("run `graphloom migrate` as the owner of its tables"), "{why}");
    let make = "do $$ begin create role graphloom_app nologin; exception when duplicate_object or unique_violation \
         then null; end $$; do $$ begin create role graphloom_claimer nologin; exception when duplicate_object or \
         unique_violation then null; end $$";
    db.execute_unprepared(make).await.unwrap();
    let why = refused(&owner_url).await;
    let grant = format!("grant graphloom_app, graphloom_claimer to {owner}");
    assert!(why.contains(&grant), "{why}");
    db.execute_unprepared(&grant).await.unwrap();
    SqlStore::connect(&owner_url).await.unwrap().migrate().await.unwrap();
    let why = refused(&app_url).await;
    let grant = format!("grant graphloom_app to {app}");
    assert!(why.contains(&grant), "{why}");
    db.execute_unprepared(&grant).await.unwrap();
    let store = SqlStore::connect(&app_url).await.unwrap();
    store.migrate().await.unwrap();
    let run = claimed(&store, &session("s")).await;
    assert_eq!(store.claim(&process("there"), 10).await.unwrap(), []);
    store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
    // There is nothing to do the second time, whoever asks for it.
    SqlStore::connect(&owner_url).await.unwrap().migrate().await.unwrap();
}

#[tokio::test]
async fn a_wall_with_a_hole_keeps_the_service_from_starting() {
    let subject = Subject::postgres().await;
    let url = &subject.fresh.as_ref().unwrap().url;
    let db = plain(url).await;
    db.execute_unprepared("alter table blob no force row level security").await.unwrap();
    let why = refused(url).await;
    assert!(why.contains("does not hold the tables blob"), "{why}");
    db.execute_unprepared("alter table blob force row level security").await.unwrap();
    SqlStore::connect(url).await.unwrap().migrate().await.unwrap();
    db.execute_unprepared(
        "insert into seaql_migrations (version, applied_at) values ('m29991231_000001_later', 0)",
    )
    .await
    .unwrap();
    let why = refused(url).await;
    assert!(why.contains("newer version of graphloom"), "{why}");
}

/// Through a pooler nobody becomes another role, so whoever logs in must be harmless.
#[tokio::test]
async fn through_a_pooler_only_a_harmless_role_may_serve() {
    let subject = Subject::postgres().await;
    let fresh = subject.fresh.as_ref().unwrap();
    let db = plain(&fresh.url).await;
    let role = fresh.role("other", "superuser").await;
    let bouncer = PgBouncer::start(fresh, &role);
    let why = refused(&bouncer.url).await;
    assert!(why.contains("superuser") && why.contains("in role graphloom_app"), "{why}");
    db.execute_unprepared(&format!("alter role {role} nosuperuser")).await.unwrap();
    let why = refused(&bouncer.url).await;
    assert!(why.contains(&format!("grant graphloom_app to {role}")), "{why}");
    db.execute_unprepared(&format!("grant graphloom_app to {role}")).await.unwrap();
    SqlStore::connect(&bouncer.url).await.unwrap().migrate().await.unwrap();
    db.execute_unprepared("delete from seaql_migrations where version like '%wall'").await.unwrap();
    let why = refused(&bouncer.url).await;
    assert!(why.contains("straight to PostgreSQL"), "{why}");
}

/// A request that goes away in the middle of whatever it does leaves no connection to the next that is still its tenant's.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_goes_away_leaves_its_tenant_to_nobody() {
    for subject in [Subject::postgres().await, Subject::behind_pgbouncer().await] {
        let store = subject.store.clone();
        let mine = claimed(&*store, &session("mine")).await;
        let beta = owner("beta", "ann");
        for i in 0..500_u64 {
            let cut = Duration::from_micros(i * 7 % 1500);
            let key = session(&format!("s{}", i % 3));
            let _ignored = tokio::time::timeout(cut, store.accept(new_run(&key))).await;
            let _ignored = tokio::time::timeout(cut, store.threads(&key.owner, None, 3)).await;
            let _ignored = tokio::time::timeout(cut, store.delete_thread(&key)).await;
            assert_eq!(store.run(&beta, mine.run).await.unwrap(), None);
            assert_eq!(store.threads(&beta, None, 3).await.unwrap(), []);
        }
        let patience = std::time::Instant::now() + Duration::from_secs(10);
        let db = plain(&subject.fresh.as_ref().unwrap().url).await;
        let open = "select count(*) from pg_stat_activity \
             where datname = current_database() and state like 'idle in transaction%'";
        while numbers(&db, open).await != [0] {
            assert!(std::time::Instant::now() < patience, "a transaction stayed open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let key = graphloom::id::ThreadKey { owner: beta, session: part("s") };
        let run = claimed(&*store, &key).await;
        store.commit(last_barrier(&run, RunState::Completed)).await.unwrap();
        assert_eq!(store.run(&mine.key.owner, mine.run).await.unwrap().unwrap().run, mine.run);
    }
}
