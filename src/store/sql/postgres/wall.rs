//! Looks whether the wall between tenants holds the service, before it serves anybody.

use sea_orm::{DbBackend, DbErr, QueryResult, RuntimeErr, SqlxError};

use super::Postgres;
use super::open::APP;
use crate::store::sql::error::undone;
use crate::store::sql::row::Row;
use crate::store::{Result, StoreError};

const CHECK: &str = "select r.rolname::text as me, r.rolsuper or r.rolbypassrls as passes, \
       pg_has_role(current_user, t.relowner, 'member') as owns, \
       pg_has_role(current_user, 'graphloom_claimer', 'member') as claims, \
       has_table_privilege('run', 'insert') and has_table_privilege('run', 'delete') as works, \
       (select string_agg(c.relname::text, ', ' order by c.relname) from pg_class c \
          where c.relnamespace = t.relnamespace and c.relkind in ('r', 'p') \
            and exists (select 1 from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant') \
            and not (c.relrowsecurity and c.relforcerowsecurity)) as open \
     from pg_roles r, pg_class t where r.rolname = current_user and t.oid = 'run'::regclass";

/// Returns the code and the text of an error of the database.
pub(in crate::store::sql) fn told(error: &DbErr) -> Option<(String, String)> {
    let (DbErr::Conn(RuntimeErr::SqlxError(error))
    | DbErr::Exec(RuntimeErr::SqlxError(error))
    | DbErr::Query(RuntimeErr::SqlxError(error))) = error
    else {
        return None;
    };
    let SqlxError::Database(error) = &**error else { return None };
    Some((error.code().unwrap_or_default().into_owned(), error.message().to_owned()))
}

fn refused(why: String) -> StoreError {
    StoreError::Config(why)
}

/// Fails unless row-level security holds whoever the service is in the database.
pub(in crate::store::sql) async fn check(db: &Postgres) -> Result<()> {
    let answer = db.works.run(None, CHECK, Vec::new()).await.map_err(|error| match told(&error) {
        Some((code, _)) if code == "42501" => db.stranger(),
        _ => undone(&error),
    })?;
    let Some(row) = answer.rows.into_iter().next() else {
        return Err(refused("the database is not at this version, migrate it first".into()));
    };
    let row = Row::new(QueryResult::from(row), DbBackend::Postgres, "role");
    let me: String = row.get("me")?;
    if let Some(open) = row.get::<Option<String>>("open")? {
        return Err(refused(format!(
            "row-level security does not hold the tables {open}; their owner runs for each: \
             select guard_tenants('TABLE')"
        )));
    }
    let why = if row.get("passes")? {
        "is a superuser or passes row-level security by"
    } else if row.get("owns")? {
        "owns the tables, and could lift row-level security from them"
    } else if row.get("claims")? {
        "is a member of `graphloom_claimer`, which sees the runs of all tenants"
    } else if !row.get::<bool>("works")? {
        return Err(refused(format!("`{me}` may not write to the tables: run: grant {APP} to {me}")));
    } else {
        return Ok(());
    };
    Err(refused(if db.pooled {
        format!(
            "`{me}` {why}, and through a pooler the service stays who it logs in as. Log in as a member of `{APP}` \
             and of nothing else: create role NAME login password '…' in role {APP}; or connect without the pooler"
        )
    } else {
        format!("`{me}` {why}; an administrator takes that from it, and the service starts")
    }))
}
