//! Writes on Postgres: one statement each, so one round trip and nothing to cut in two.
//!
//! Invariant: what the owner of a run writes is fed by a CTE that found the run under its fence. The CTEs of a statement see
//! the tables as of its start; only rows that were locked are as new as their lock. The first value of each statement is
//! the tenant.

mod accept;
mod bind;
mod commit;
mod identity;
mod lane;
mod open;
mod tx;
pub(super) mod wall;
pub(super) mod wide;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use sea_orm::sea_query::ArrayType;
use sea_orm::{DbBackend, DbErr, QueryResult, Value};
use uuid::Uuid;

pub(super) use self::accept::accept;
pub(super) use self::commit::commit;
pub(super) use self::lane::Lanes;
pub(super) use self::open::{Postgres, open};
pub(super) use self::tx::Tx;
use super::base::Desk;
use super::error::{is_race, unsure};
use super::row::{RUN, Row};
use super::{TRIES, audit, read};
use crate::id::{Owner, RunId};
use crate::store::{EventBatch, Noted, Result, Run, StoreError};

/// Returns a lease as the statements take it.
pub(super) fn millis(lease: Duration) -> Value {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX).into()
}

pub(super) fn array(sort: ArrayType, cells: Vec<Value>) -> Value {
    Value::Array(sort, Some(Box::new(cells)))
}

/// Runs a statement, and again when another one was in its way.
async fn query(
    lanes: &Lanes,
    tenant: Option<&str>,
    text: &str,
    values: Vec<Value>,
) -> std::result::Result<Vec<QueryResult>, DbErr> {
    let (text, values): (Arc<str>, _) = (text.into(), Arc::new(values));
    let mut answer = lanes.run(tenant, text.clone(), values.clone()).await;
    for _ in 1..TRIES {
        if !answer.as_ref().is_err_and(is_race) {
            break;
        }
        answer = lanes.run(tenant, text.clone(), values.clone()).await;
    }
    Ok(answer?.rows.into_iter().map(QueryResult::from).collect())
}

/// The commit of these rows does not wait for the disk: a crash of the database can take the last moments of a stream,
/// which is the price of streaming at the speed of models. The lock keeps a deleted run from getting rows.
const APPEND: &str = "insert into event (tenant, run_id, fence, first_n, last_n, data) \
     select $1, b.run_id, b.fence, b.first_n, b.last_n, b.data \
     from (select set_config('synchronous_commit', 'off', true) as off) s \
     cross join unnest($2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[]) \
       as b (user_id, run_id, fence, first_n, last_n, data) \
     join run r on r.tenant = $1 and r.run_id = b.run_id and r.user_id = b.user_id and r.fence = b.fence \
     where s.off is not null \
     for key share of r \
     on conflict (tenant, run_id, fence, first_n) do update set last_n = excluded.last_n, data = excluded.data \
     where event.last_n < excluded.last_n";
/// The longest batch of each place.
type Longest = BTreeMap<(RunId, u64, u64), (Owner, EventBatch)>;
/// How many tenants' events are stored at once.
const APPENDS: usize = 4;

pub(super) async fn append_events(db: &Postgres, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
    // A statement may touch a row once, and locks are taken in one order.
    let mut tenants: BTreeMap<String, Longest> = BTreeMap::new();
    for (owner, run, batch) in batches {
        let longest = tenants.entry(owner.tenant.as_str().to_owned()).or_default();
        match longest.entry((run, batch.fence, batch.first)) {
            Entry::Vacant(place) => {
                place.insert((owner, batch));
            }
            Entry::Occupied(mut place) if place.get().1.last < batch.last => {
                place.insert((owner, batch));
            }
            Entry::Occupied(_) => {}
        }
    }
    let appends = tenants.into_iter().map(|(tenant, longest)| async move {
        let mut columns: [Vec<Value>; 6] = Default::default();
        for ((run, ..), (owner, batch)) in longest {
            let cells: [Value; 6] = [
                owner.user.as_str().into(),
                run.0.into(),
                (batch.fence as i64).into(),
                (batch.first as i64).into(),
                (batch.last as i64).into(),
                batch.data.into(),
            ];
            for (column, cell) in columns.iter_mut().zip(cells) {
                column.push(cell);
            }
        }
        let sorts = [
            ArrayType::String,
            ArrayType::Uuid,
            ArrayType::BigInt,
            ArrayType::BigInt,
            ArrayType::BigInt,
            ArrayType::Bytes,
        ];
        let mut values: Vec<Value> = vec![tenant.as_str().into()];
        values.extend(sorts.into_iter().zip(columns).map(|(sort, cells)| array(sort, cells)));
        query(&db.works, Some(&tenant), APPEND, values).await.map(drop).map_err(|e| unsure(&e))
    });
    // One tenant after another would make many wait for each other.
    stream::iter(appends.collect::<Vec<_>>()).buffer_unordered(APPENDS).try_collect().await
}

/// Nobody works on the run who could end it.
const WAITS: &str = "(state in ('queued', 'interrupted') or state = 'running' and lease_until < now())";
/// The end of a run that had an owner comes under a new fence, so that it sorts after all that the owner sent. Whether the wish
/// is the first is told by the run as it was before.
const CANCEL: &str = "with r as ( \
       update run set cancel_requested = true, \
         fence = fence + case when {WAITS} and fence > 0 then 1 else 0 end, \
         result = case when {WAITS} then $4 else result end, \
         finished_at = case when {WAITS} then now() end, \
         owner = case when not {WAITS} then owner end, \
         boot = case when not {WAITS} then boot end, \
         lease_until = case when not {WAITS} then lease_until end, \
         state = case when {WAITS} then 'cancelled' else state end \
       where tenant = $1 and run_id = $2 and user_id = $3 and state in ('queued', 'running', 'interrupted') \
       returning *), \
     news as ( \
       insert into event (tenant, run_id, fence, first_n, last_n, data) \
       select $1, $2, r.fence, $5, $6, $7 from r where r.state = 'cancelled'), \
     hook as ( \
       insert into outbox (tenant, outbox_id, run_id, target, data) \
       select $1, $8::uuid, $2, r.webhook, $4 from r where r.state = 'cancelled' and r.webhook is not null), \
     settled as ( \
       delete from pending_write p using r where r.state = 'cancelled' and p.tenant = $1 and p.run_id = $2), \
     ended as ( \
       update interrupt i set ended = true from r \
       where r.state = 'cancelled' and i.tenant = $1 and i.run_id = $2 and i.closed_at is null), \
     noted as ( \
       insert into audit (tenant, audit_id, at, act, actor, subject, detail) \
       select $1, $9, $10, $11, $12, $13, $14 from r \
       where not exists (select 1 from run b where b.tenant = $1 and b.run_id = $2 and b.cancel_requested)) \
     select {RUN} from r";

pub(super) async fn request_cancel(
    db: &Postgres,
    owner: &Owner,
    run: RunId,
    (result, events): (Vec<u8>, EventBatch),
    note: &Noted,
) -> Result<Option<Run>> {
    let tenant = owner.tenant.as_str();
    let mut values = vec![
        tenant.into(),
        run.0.into(),
        owner.user.as_str().into(),
        result.into(),
        (events.first as i64).into(),
        (events.last as i64).into(),
        events.data.into(),
        Uuid::now_v7().into(),
    ];
    values.extend(audit::columns(DbBackend::Postgres, note));
    let text = CANCEL.replace("{RUN}", RUN).replace("{WAITS}", WAITS);
    let rows = query(&db.works, Some(tenant), &text, values).await.map_err(|e| unsure(&e))?;
    match rows.into_iter().next() {
        Some(row) => Row::new(row, DbBackend::Postgres, "run").run().map(Some),
        // It is over already, or it never was.
        None => read::run(&Desk::Postgres(db.works.clone(), tenant.to_owned()), owner, run).await,
    }
}

/// The lock waits for a claim, and then sees its fence. It is so weak that heartbeats pass by.
const PUT_PENDING: &str = "with gate as materialized ( \
       select 1 from run where tenant = $1 and run_id = $2 and user_id = $3 and fence = $4 and state = 'running' \
       for key share), \
     put as ( \
       insert into pending_write (tenant, run_id, step, task_id, data) select $1, $2, $5, $6, $7 from gate \
       on conflict (tenant, run_id, step, task_id) do nothing) \
     select 1 from gate";

pub(super) async fn put_pending(db: &Postgres, tenant: &str, values: Vec<Value>) -> Result<bool> {
    let rows = query(&db.works, Some(tenant), PUT_PENDING, values).await.map_err(|e| unsure(&e))?;
    Ok(!rows.is_empty())
}

/// Says that a statement met others in its way each time.
fn contended(what: &str) -> StoreError {
    StoreError::Unavailable(format!("{what} met another one {TRIES} times"))
}
