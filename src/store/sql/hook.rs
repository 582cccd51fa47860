//! Who reads a run, and who is told of its end.
//!
//! Invariant: what is told is taken by one process at a time, and what came of it is noted for the row that was taken.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DbBackend, Value};
use tracing::warn;
use uuid::Uuid;

use super::base::{Base, Desk, Sqlite, Tx};
use super::postgres::{self, Postgres};
use super::put::{self, timed, write};
use super::read;
use super::row::{RUN, Row, moment};
use super::sqlite::wide::ago;
use crate::id::{HookId, Part, RunId};
use crate::store::{Hook, HookCounts, HookFilter, Result, Run, StoreError, Told};

/// The columns that [`Row::hook`] reads beside those of a run.
const HOOK: &str = "o.outbox_id, o.target, o.data, o.state as hook_state, o.attempts, o.error, \
     o.created_at as hook_created_at, o.available_at as hook_due_at, o.finished_at as hook_finished_at";

/// Notes that runs of a tenant are read, in one order; on Postgres one whose row somebody holds is left out.
async fn read_by<C: ConnectionTrait>(db: &C, tenant: &str, runs: &[RunId], time: Duration) -> Result<()> {
    if db.get_database_backend() == DbBackend::Postgres {
        let (until, time) = put::from_now(db, "$3", Some(time));
        let text = format!(
            "with mine as materialized ( \
               select r.run_id from run r where r.tenant = $1 and r.run_id = any($2::uuid[]) \
                 and r.read_until is not null order by r.run_id for no key update skip locked) \
             update run r set read_until = {until} from mine m where r.tenant = $1 and r.run_id = m.run_id"
        );
        let ids = runs.iter().map(|run| run.0.into()).collect();
        return write(db, &text, vec![tenant.into(), postgres::array(ArrayType::Uuid, ids), time])
            .await
            .map(|_| ());
    }
    for run in runs {
        let (until, time) = put::from_now(db, "$3", Some(time));
        let text = format!(
            "update run set read_until = {until} where tenant = $1 and run_id = $2 and read_until is not null"
        );
        write(db, &text, vec![tenant.into(), run.0.into(), time]).await?;
    }
    Ok(())
}

/// Notes that runs are read.
pub(super) async fn read_on(base: &Base, runs: &[(Part, RunId)], time: Duration) -> Result<()> {
    let mut tenants: BTreeMap<&str, Vec<RunId>> = BTreeMap::new();
    for (tenant, run) in runs {
        tenants.entry(tenant.as_str()).or_default().push(*run);
    }
    for (tenant, runs) in tenants {
        read_by(&base.works(tenant), tenant, &runs, time).await?;
    }
    Ok(())
}

/// Lists runs that were to end when nobody reads them, and that nobody reads.
pub(super) async fn unread(base: &Base, limit: u32) -> Result<Vec<Run>> {
    let db = match base {
        Base::Postgres(db) => return postgres::wide::unread(db, limit).await,
        Base::Sqlite(db) => db,
    };
    let text = format!(
        "select {RUN} from run r where r.state in ('queued', 'running') and r.read_until < $1 \
           and not r.cancel_requested order by r.read_until limit $2"
    );
    let values = vec![moment(DbBackend::Sqlite, Utc::now()), i64::from(limit).into()];
    read::rows(&Desk::Sqlite(db.read.clone()), "run", &text, values).await?.iter().map(Row::run).collect()
}

/// Takes what is due on SQLite.
async fn claim_on_sqlite(tx: &Tx, lease: Duration, limit: u32) -> Result<Vec<Hook>> {
    let now = Utc::now();
    let until = TimeDelta::from_std(lease).ok().and_then(|lease| now.checked_add_signed(lease));
    let text = "select tenant, outbox_id from outbox where state = 'queued' and available_at <= $1 \
         order by available_at limit $2";
    let values = vec![moment(DbBackend::Sqlite, now), i64::from(limit).into()];
    let mut taken = Vec::new();
    for row in read::rows(tx, "webhook", text, values).await? {
        let (tenant, id): (String, Uuid) = (row.get("tenant")?, row.get("outbox_id")?);
        let text = "update outbox set attempts = attempts + 1, available_at = $3 \
             where tenant = $1 and outbox_id = $2";
        let until = moment(DbBackend::Sqlite, until.unwrap_or(now));
        write(tx, text, vec![tenant.as_str().into(), id.into(), until]).await?;
        taken.extend(readable(one(tx, &tenant, HookId(id)).await)?);
    }
    Ok(taken)
}

async fn one<C: ConnectionTrait>(db: &C, tenant: &str, id: HookId) -> Result<Option<Hook>> {
    let text = format!(
        "select {RUN}, {HOOK} from outbox o join run r on r.tenant = o.tenant and r.run_id = o.run_id \
         where o.tenant = $1 and o.outbox_id = $2"
    );
    read::row(db, "webhook", &text, vec![tenant.into(), id.0.into()]).await?.map(|row| row.hook()).transpose()
}

/// Passes over a row that cannot be read, perhaps of a newer build: it keeps no other from being told.
fn readable(found: Result<Option<Hook>>) -> Result<Option<Hook>> {
    match found {
        Err(StoreError::Corrupt { what, why }) => {
            warn!(what, why, "A webhook cannot be told.");
            Ok(None)
        }
        found => found,
    }
}

/// Takes what is due.
pub(super) async fn claim(base: &Base, lease: Duration, limit: u32) -> Result<Vec<Hook>> {
    match base {
        Base::Postgres(db) => {
            let mut hooks = Vec::new();
            for (tenant, id, attempts) in postgres::wide::claim_outbox(db, lease, limit).await? {
                // It is gone with its thread, or somebody else's by now.
                let found = readable(one(&base.works(&tenant), &tenant, id).await)?;
                hooks.extend(found.filter(|hook| hook.attempts == attempts));
            }
            Ok(hooks)
        }
        Base::Sqlite(db) => {
            let tx = db.begin().await?;
            let taken = claim_on_sqlite(&tx, lease, limit).await?;
            tx.commit().await?;
            Ok(taken)
        }
    }
}

/// Notes what came of a try.
pub(super) async fn told(base: &Base, tenant: &Part, hook: HookId, attempt: u32, told: Told) -> Result<()> {
    let (tenant, desk) = (tenant.as_str(), base.works(tenant.as_str()));
    let mut values: Vec<Value> = vec![tenant.into(), hook.0.into()];
    let text = match told {
        // What was told is not needed any more.
        Told::Delivered => {
            values.push(Value::from(Vec::<u8>::new()));
            "update outbox set state = 'delivered', data = $3, error = null, finished_at = {NOW} \
             where tenant = $1 and outbox_id = $2 and state = 'queued'"
                .to_owned()
        }
        Told::Again { error, after } => {
            let (until, time) = put::from_now(&desk, "$5", Some(after));
            values.extend([i64::from(attempt).into(), error.into(), time]);
            format!(
                "update outbox set error = $4, available_at = {until} \
                 where tenant = $1 and outbox_id = $2 and attempts = $3 and state = 'queued'"
            )
        }
        Told::GivenUp { error } => {
            values.extend([i64::from(attempt).into(), error.into()]);
            "update outbox set state = 'failed', error = $4, finished_at = {NOW} \
             where tenant = $1 and outbox_id = $2 and attempts = $3 and state = 'queued'"
                .to_owned()
        }
    };
    write(&desk, &timed(&desk, &text), values).await.map(|_| ())
}

async fn ids_on_sqlite(db: &Sqlite, filter: &HookFilter, limit: u32) -> Result<Vec<(String, HookId)>> {
    let mut values: Vec<Value> = vec![i64::from(limit).into()];
    let mut text = "select tenant, outbox_id from outbox where true".to_owned();
    if !filter.states.is_empty() {
        // Words of ours.
        let words: Vec<String> = filter.states.iter().map(|state| format!("'{}'", state.name())).collect();
        text.push_str(&format!(" and state in ({})", words.join(", ")));
    }
    if let Some(tenant) = &filter.tenant {
        values.push(tenant.as_str().into());
        text.push_str(&format!(" and tenant = ${}", values.len()));
    }
    if let Some(id) = filter.id {
        values.push(id.0.into());
        text.push_str(&format!(" and outbox_id = ${}", values.len()));
    }
    text.push_str(" order by created_at desc, outbox_id desc limit $1");
    let rows = read::rows(&Desk::Sqlite(db.read.clone()), "webhook", &text, values).await?;
    rows.iter().map(|row| Ok((row.get("tenant")?, HookId(row.get("outbox_id")?)))).collect()
}

/// Lists what is told of runs.
pub(super) async fn list(base: &Base, filter: &HookFilter, limit: u32) -> Result<Vec<Hook>> {
    let ids = match base {
        Base::Postgres(db) => postgres::wide::list_outbox(db, filter, limit).await?,
        Base::Sqlite(db) => ids_on_sqlite(db, filter, limit).await?,
    };
    let mut hooks = Vec::new();
    for (tenant, id) in ids {
        hooks.extend(one(&base.reads(&tenant), &tenant, id).await?);
    }
    Ok(hooks)
}

/// Counts the same.
pub(super) async fn counts(base: &Base) -> Result<HookCounts> {
    let db = match base {
        Base::Postgres(db) => return postgres::wide::count_outbox(db).await,
        Base::Sqlite(db) => db,
    };
    let text = "select (select count(*) from outbox where state = 'queued') as queued, \
         (select count(*) from outbox where state = 'delivered' and finished_at is not null) as delivered, \
         (select count(*) from outbox where state = 'failed' and finished_at is not null) as failed";
    let row = read::row(&Desk::Sqlite(db.read.clone()), "webhook", text, Vec::new()).await?;
    row.map_or_else(|| Ok(HookCounts::default()), |row| row.hook_counts())
}

/// Has it told again from now on.
pub(super) async fn retry(base: &Base, hook: HookId) -> Result<Option<Hook>> {
    let filter = HookFilter { id: Some(hook), ..HookFilter::default() };
    let Some(found) = list(base, &filter, 1).await?.pop() else { return Ok(None) };
    let tenant = found.run.key.owner.tenant.as_str();
    let desk = base.works(tenant);
    let text = "update outbox set state = 'queued', attempts = 0, available_at = {NOW}, finished_at = null \
         where tenant = $1 and outbox_id = $2 and state <> 'delivered'";
    if write(&desk, &timed(&desk, text), vec![tenant.into(), hook.0.into()]).await? == 0 {
        return Ok(None);
    }
    one(&desk, tenant, hook).await
}

/// Forgets what was told or given up so long ago.
pub(super) async fn forget(base: &Base, delivered: Duration, failed: Duration, limit: u32) -> Result<u64> {
    let db: &Postgres = match base {
        Base::Postgres(db) => db,
        Base::Sqlite(db) => {
            let text = "delete from outbox where (tenant, outbox_id) in ( \
                   select tenant, outbox_id from outbox where finished_at is not null \
                     and (state = 'delivered' and finished_at < $1 or state = 'failed' and finished_at < $2) \
                   limit $3)";
            let values = vec![ago(delivered), ago(failed), i64::from(limit).into()];
            return write(&Desk::Sqlite(db.write.clone()), text, values).await;
        }
    };
    postgres::wide::forget_outbox(db, delivered, failed, limit).await
}
