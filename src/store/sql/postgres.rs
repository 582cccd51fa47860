//! Writes on Postgres: one statement each, so one round trip and nothing to cut in two.
//!
//! Invariant: what the owner of a run writes is fed by a CTE that found the run under its fence. The CTEs of a statement see
//! the tables as of its start; only rows that were locked are as new as their lock.

mod accept;
mod commit;
mod lane;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DatabaseConnection, DbErr, QueryResult, Value};
use uuid::Uuid;

pub(super) use self::accept::accept;
pub(super) use self::commit::commit;
pub(super) use self::lane::Lanes;
use super::error::{is_race, undone, unsure};
use super::row::{RUN, Row};
use super::{ENGINE, TRIES, answered, beat, read, sql};
use crate::id::{CheckpointId, Owner, RunId};
use crate::store::{Beat, Claim, EventBatch, Process, Result, Run, StoreError};

/// Returns a lease as the statements take it.
fn millis(lease: Duration) -> Value {
    i64::try_from(lease.as_millis()).unwrap_or(i64::MAX).into()
}

/// Runs a statement again when another one was in its way.
async fn query(
    db: &DatabaseConnection,
    text: &str,
    values: Vec<Value>,
) -> std::result::Result<Vec<QueryResult>, DbErr> {
    let statement = sql(db, text, values);
    for _ in 1..TRIES {
        match answered(db.query_all_raw(statement.clone())).await {
            Err(error) if is_race(&error) => {}
            done => return done,
        }
    }
    answered(db.query_all_raw(statement)).await
}

/// Does the same on a lane.
async fn hot(lanes: &Lanes, text: &str, values: &[Value]) -> std::result::Result<Vec<QueryResult>, DbErr> {
    for _ in 1..TRIES {
        match lanes.query(text, values).await {
            Err(error) if is_race(&error) => {}
            done => return done,
        }
    }
    lanes.query(text, values).await
}

/// The commit of these rows does not wait for the disk: a crash of the database can take the last moments of a stream,
/// which is the price of streaming at the speed of models. The lock keeps a deleted run from getting rows.
const APPEND: &str = "insert into event (tenant, run_id, fence, first_n, last_n, data) \
     select b.tenant, b.run_id, b.fence, b.first_n, b.last_n, b.data \
     from (select set_config('synchronous_commit', 'off', true) as off) s \
     cross join unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bytea[]) \
       as b (tenant, user_id, run_id, fence, first_n, last_n, data) \
     join run r on r.tenant = b.tenant and r.run_id = b.run_id and r.user_id = b.user_id and r.fence = b.fence \
     where s.off is not null \
     for key share of r \
     on conflict (tenant, run_id, fence, first_n) do update set last_n = excluded.last_n, data = excluded.data \
     where event.last_n < excluded.last_n";

pub(super) async fn append_events(lanes: &Lanes, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
    // A statement may touch a row once, and locks are taken in one order.
    let mut longest: BTreeMap<(RunId, u64, u64), (Owner, EventBatch)> = BTreeMap::new();
    for (owner, run, batch) in batches {
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
    let mut columns: [Vec<Value>; 7] = Default::default();
    for ((run, ..), (owner, batch)) in longest {
        let cells: [Value; 7] = [
            owner.tenant.as_str().into(),
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
        ArrayType::String,
        ArrayType::Uuid,
        ArrayType::BigInt,
        ArrayType::BigInt,
        ArrayType::BigInt,
        ArrayType::Bytes,
    ];
    let values =
        sorts.into_iter().zip(columns).map(|(sort, cells)| Value::Array(sort, Some(Box::new(cells))));
    hot(lanes, APPEND, &values.collect::<Vec<_>>()).await.map_err(|e| unsure(&e))?;
    Ok(())
}

/// The locks are strong so that a result which the former owner still writes is waited out, or waits and then finds another
/// fence. The thread is locked to read its head: as of the statement's start it could be older than the last commit of
/// the run's former owner.
const CLAIM: &str = "with lost as materialized ( \
       select r.tenant, r.run_id, true as crashed, r.ord from run r \
       where r.state = 'running' and (r.lease_until < now() or (r.owner = $1 and r.boot <> $2)) \
         and r.min_engine <= $5 \
       order by r.ord limit $4 for update skip locked), \
     ready as materialized ( \
       select r.tenant, r.run_id, false as crashed, r.ord from run r \
       where r.state = 'queued' and r.available_at <= now() and r.min_engine <= $5 \
         and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id \
           and a.state in ('running', 'interrupted')) \
         and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id \
           and a.state = 'queued' and a.ord < r.ord) \
       order by r.ord limit $4 for update of r skip locked), \
     due as materialized ( \
       select r.tenant, r.run_id, false as crashed, r.ord from run r \
       where r.state = 'interrupted' and r.wake_at <= now() and r.min_engine <= $5 \
       order by r.ord limit $4 for update skip locked), \
     pick as materialized ( \
       select * from lost union all select * from due union all select * from ready limit $4), \
     taken as ( \
       update run r set state = 'running', fence = r.fence + 1, crashes = r.crashes + p.crashed::int, \
         owner = $1, boot = $2, lease_until = now() + $3::bigint * interval '1 millisecond' \
       from pick p where r.tenant = p.tenant and r.run_id = p.run_id \
       returning r.*, p.crashed) \
     select {RUN}, r.ord, r.crashed, t.head \
     from taken r join thread t on t.tenant = r.tenant and t.thread_id = r.thread_id for share of t";

pub(super) async fn claim(db: &DatabaseConnection, process: &Process, limit: u32) -> Result<Vec<Claim>> {
    let text = CLAIM.replace("{RUN}", RUN);
    let values = |limit: u32| -> Vec<Value> {
        vec![
            process.instance.as_str().into(),
            process.boot.into(),
            millis(process.lease),
            i64::from(limit).into(),
            ENGINE.into(),
        ]
    };
    // The index over the threads is the backstop of the race between two claimers; one run at a time, only the run
    // that lost has to wait.
    let rows = match answered(db.query_all_raw(sql(db, text.as_str(), values(limit)))).await {
        Err(error) if is_race(&error) => query(db, &text, values(limit.min(1))).await,
        done => done,
    };
    let rows = rows.map_err(|e| unsure(&e))?;
    let mut claims = Vec::with_capacity(rows.len());
    for row in rows {
        let row = Row::new(row, db.get_database_backend(), "run");
        let head = row.get::<Option<Uuid>>("head")?.map(CheckpointId);
        claims.push((row.number("ord")?, Claim { run: row.run()?, head, crashed: row.get("crashed")? }));
    }
    claims.sort_by_key(|(ord, _)| *ord);
    Ok(claims.into_iter().map(|(_, claim)| claim).collect())
}

/// A row that its own commit has locked is skipped: the commit renews that lease, and one slow commit must not hold up
/// the others' heartbeat.
const BEAT: &str = "with mine as materialized ( \
       select tenant, run_id from run \
       where state = 'running' and owner = $1 and boot = $2 and run_id = any($4::uuid[]) \
       for no key update skip locked), \
     beat as ( \
       update run r set lease_until = now() + $3::bigint * interval '1 millisecond' \
       from mine m where r.tenant = m.tenant and r.run_id = m.run_id) \
     select run_id, cancel_requested from run where state = 'running' and owner = $1 and boot = $2 \
       and run_id = any($4::uuid[]) order by ord";

pub(super) async fn heartbeat(db: &DatabaseConnection, process: &Process, live: &[RunId]) -> Result<Beat> {
    let ids = Value::Array(ArrayType::Uuid, Some(Box::new(live.iter().map(|run| run.0.into()).collect())));
    let values = vec![process.instance.as_str().into(), process.boot.into(), millis(process.lease), ids];
    let rows = query(db, BEAT, values).await.map_err(|e| unsure(&e))?;
    let row =
        |row: QueryResult| Ok((row.try_get("", "run_id").map(RunId)?, row.try_get("", "cancel_requested")?));
    let owned =
        rows.into_iter().map(row).collect::<std::result::Result<_, DbErr>>().map_err(|e| undone(&e))?;
    Ok(beat(live, owned))
}

/// The end of a run that had an owner comes under a new fence, so that it sorts after all that the owner sent.
const CANCEL: &str = "with r as ( \
       update run set cancel_requested = true, \
         fence = fence + case when state in ('queued', 'interrupted') and fence > 0 then 1 else 0 end, \
         result = case when state in ('queued', 'interrupted') then $4 else result end, \
         finished_at = case when state in ('queued', 'interrupted') then now() end, \
         state = case when state in ('queued', 'interrupted') then 'cancelled' else state end \
       where tenant = $1 and run_id = $2 and user_id = $3 and state in ('queued', 'running', 'interrupted') \
       returning *), \
     news as ( \
       insert into event (tenant, run_id, fence, first_n, last_n, data) \
       select $1, $2, r.fence, $5, $6, $7 from r where r.state = 'cancelled'), \
     settled as ( \
       delete from pending_write p using r where r.state = 'cancelled' and p.tenant = $1 and p.run_id = $2), \
     ended as ( \
       update interrupt i set ended = true from r \
       where r.state = 'cancelled' and i.tenant = $1 and i.run_id = $2 and i.closed_at is null) \
     select {RUN} from r";

pub(super) async fn request_cancel(
    db: &DatabaseConnection,
    owner: &Owner,
    run: RunId,
    result: Vec<u8>,
    events: EventBatch,
) -> Result<Option<Run>> {
    let values = vec![
        owner.tenant.as_str().into(),
        run.0.into(),
        owner.user.as_str().into(),
        result.into(),
        (events.first as i64).into(),
        (events.last as i64).into(),
        events.data.into(),
    ];
    let rows = query(db, &CANCEL.replace("{RUN}", RUN), values).await.map_err(|e| unsure(&e))?;
    match rows.into_iter().next() {
        Some(row) => Row::new(row, db.get_database_backend(), "run").run().map(Some),
        // It is over already, or it never was.
        None => read::run(db, owner, run).await,
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

pub(super) async fn put_pending(lanes: &Lanes, values: &[Value]) -> Result<bool> {
    let rows = hot(lanes, PUT_PENDING, values).await.map_err(|e| unsure(&e))?;
    Ok(!rows.is_empty())
}

/// Says that a statement met others in its way each time.
fn contended(what: &str) -> StoreError {
    StoreError::Unavailable(format!("{what} met another one {TRIES} times"))
}
