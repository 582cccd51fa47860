//! What looks over all tenants.
//!
//! Invariant: nothing here serves a request.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ConnectionTrait, DbBackend, Value};
use uuid::Uuid;

use crate::id::RunId;
use crate::store::sql::base::{Desk, Sqlite};
use crate::store::sql::error::undone;
use crate::store::sql::put::{timed, write};
use crate::store::sql::row::{RUN, Row, moment};
use crate::store::sql::{KEY_HOURS, audit, keep, read, sql};
use crate::store::{AuditFilter, Counts, Kept, Process, Result, Run, RunFilter, VersionUse};

fn reads(db: &Sqlite) -> Desk {
    Desk::Sqlite(db.read.clone())
}

/// Returns the moment that is so long ago.
pub(in crate::store::sql) fn ago(age: Duration) -> Value {
    let ago = TimeDelta::from_std(age).ok().and_then(|age| Utc::now().checked_sub_signed(age));
    moment(DbBackend::Sqlite, ago.unwrap_or(DateTime::<Utc>::MIN_UTC))
}

pub(in crate::store::sql) async fn asked(db: &Sqlite, process: &Process) -> Result<Vec<RunId>> {
    let text =
        "select run_id from run where state = 'running' and cancel_requested and owner = $1 and boot = $2";
    let values = vec![process.instance.as_str().into(), process.boot.into()];
    let found = read::rows(&reads(db), "run", text, values).await?;
    found.iter().map(|row| row.get("run_id").map(RunId)).collect()
}

/// Forgets old idempotency keys.
pub(in crate::store::sql) async fn forget_keys(db: &Sqlite) -> Result<()> {
    let desk = Desk::Sqlite(db.write.clone());
    let old = Duration::from_hours(KEY_HOURS.unsigned_abs());
    let forget = sql(&desk, "delete from idempotency where created_at <= $1", vec![ago(old)]);
    desk.execute_raw(forget).await.map(drop).map_err(|e| undone(&e))
}

/// Deletes results that are over.
pub(in crate::store::sql) async fn forget_cached(db: &Sqlite, limit: u32) -> Result<u64> {
    let desk = Desk::Sqlite(db.write.clone());
    let text = "delete from cache where (tenant, key) in ( \
           select tenant, key from cache where expires_at <= {NOW} order by expires_at limit $1)";
    write(&desk, &timed(&desk, text), vec![i64::from(limit).into()]).await
}

/// Lists notes of acts, newest first.
pub(in crate::store::sql) async fn audit(db: &Sqlite, filter: &AuditFilter, limit: u32) -> Result<Vec<Row>> {
    let text = "select tenant, audit_id, at, act, actor, subject, detail from audit \
         where ($1 is null or tenant = $1) and ($2 is null or at >= $2) \
           and ($3 is null or subject in ($3, $4) or actor in ($3, $4)) order by at desc, audit_id desc limit $5";
    let [hash, name] = filter.names().map_or([None, None], |names| names.map(Some));
    let since = audit::since(DbBackend::Sqlite, filter);
    let values =
        vec![filter.tenant.as_deref().into(), since, hash.into(), name.into(), i64::from(limit).into()];
    read::rows(&reads(db), "note", text, values).await
}

/// Deletes old notes.
pub(in crate::store::sql) async fn forget_audit(db: &Sqlite, age: Duration, limit: u32) -> Result<u64> {
    let text = "delete from audit where (tenant, audit_id) in ( \
           select tenant, audit_id from audit where at < $1 order by at limit $2)";
    write(&Desk::Sqlite(db.write.clone()), text, vec![ago(age), i64::from(limit).into()]).await
}

pub(in crate::store::sql) async fn runs(db: &Sqlite, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
    let mut values: Vec<Value> = vec![i64::from(limit).into()];
    let mut text = format!("select {RUN} from run r where true");
    if !filter.states.is_empty() {
        // Words of ours; as values they would keep the planner from the indices of the states.
        let words: Vec<String> = filter.states.iter().map(|state| format!("'{}'", state.name())).collect();
        text.push_str(&format!(" and r.state in ({})", words.join(", ")));
    }
    if let Some(tenant) = &filter.tenant {
        values.push(tenant.as_str().into());
        text.push_str(&format!(" and r.tenant = ${}", values.len()));
    }
    if let Some(before) = filter.before {
        values.push(before.0.into());
        text.push_str(&format!(" and r.ord < (select b.ord from run b where b.run_id = ${})", values.len()));
    }
    if let Some(thread) = filter.thread {
        values.push(thread.0.into());
        text.push_str(&format!(" and r.thread_id = ${}", values.len()));
    }
    text.push_str(" order by r.ord desc limit $1");
    read::rows(&reads(db), "run", &text, values).await?.iter().map(Row::run).collect()
}

pub(in crate::store::sql) async fn find(db: &Sqlite, run: RunId) -> Result<Option<Run>> {
    let text = format!("select {RUN} from run r where r.run_id = $1");
    read::row(&reads(db), "run", &text, vec![run.0.into()]).await?.map(|row| row.run()).transpose()
}

pub(in crate::store::sql) async fn counts(db: &Sqlite) -> Result<Counts> {
    // One by one, because each state has an index of its own; a list of all has none.
    let text = "select (select count(*) from run where state = 'queued' and not delayed) as queued, \
         (select count(*) from run where state = 'queued' and delayed) as delayed, \
         (select count(*) from run where state = 'running') as running, \
         (select count(*) from run where state in ('running', 'interrupted')) as active, \
         (select count(*) from run where state = 'dead') as dead";
    let row = read::row(&reads(db), "run", text, Vec::new()).await?;
    row.map_or_else(|| Ok(Counts::default()), |row| row.counts())
}

pub(in crate::store::sql) async fn overdue(
    db: &Sqlite,
    kept: Kept,
    age: Duration,
    limit: u32,
) -> Result<Vec<Run>> {
    // The number is part of the text, so that the planner sees that the index has it.
    let text = format!(
        "select {RUN} from run r where r.kept = {} and r.kept > 0 and r.finished_at is not null \
           and r.finished_at < $1 order by r.finished_at limit $2",
        keep::number(kept)
    );
    let values = vec![ago(age), i64::from(limit).into()];
    read::rows(&reads(db), "run", &text, values).await?.iter().map(Row::run).collect()
}

/// Returns threads whose checkpoints may be old enough to be forgotten.
pub(in crate::store::sql) async fn unswept(
    db: &Sqlite,
    age: Duration,
    limit: u32,
) -> Result<Vec<(String, Uuid)>> {
    let text = "select distinct tenant, thread_id from ( \
           select r.tenant, r.thread_id from run r where r.finished_at is not null and r.finished_at < $1 \
             and not r.swept order by r.finished_at limit $2) due";
    let rows = read::rows(&reads(db), "run", text, vec![ago(age), i64::from(limit).into()]).await?;
    rows.iter().map(|row| Ok((row.get("tenant")?, row.get("thread_id")?))).collect()
}

pub(in crate::store::sql) async fn version_use(db: &Sqlite, hash: &str) -> Result<VersionUse> {
    // In two parts, because each state has an index of its own; a list of all three has none.
    let text = "select (select count(*) from thread where hash = $1) as threads, \
         (select count(*) from run where hash = $1 and state = 'queued') as waiting, \
         (select count(*) from run where hash = $1 and state in ('running', 'interrupted')) as active, \
         (select count(*) from run where hash = $1 and state = 'interrupted') as paused";
    let row = read::row(&reads(db), "graph version", text, vec![hash.into()]).await?;
    row.map_or_else(|| Ok(VersionUse::default()), |row| row.version_use())
}

pub(in crate::store::sql) async fn paused_versions(db: &Sqlite) -> Result<BTreeMap<(String, String), u64>> {
    let text =
        "select graph, hash, count(*) as paused from run where state = 'interrupted' group by graph, hash";
    let rows = read::rows(&reads(db), "graph version", text, Vec::new()).await?;
    rows.into_iter().map(|row| Ok(((row.get("graph")?, row.get("hash")?), row.number("paused")?))).collect()
}

/// Lists tenants after one of them.
pub(in crate::store::sql) async fn tenants(db: &Sqlite, after: &str, limit: u32) -> Result<Vec<String>> {
    let text = "select tenant from thread where tenant > $1 union select tenant from data_key where tenant > $1 \
         order by tenant limit $2";
    let found = read::rows(&reads(db), "tenant", text, vec![after.into(), i64::from(limit).into()]).await?;
    found.iter().map(|row| row.get("tenant")).collect()
}
