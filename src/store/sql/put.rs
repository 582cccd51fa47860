//! Writes that are the same on both back ends.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ConnectionTrait, DbBackend, Value};

use uuid::Uuid;

use super::base::Tx;
use super::error::undone;
use super::row::moment;
use super::sql;
use crate::id::{RunId, ThreadId};
use crate::store::{Checkpoint, EventBatch, Question, Result};

/// Returns the text with the clock of the back end, whose time decides what is over; and not the time at which a
/// transaction began, for it may have waited.
pub(super) fn timed<C: ConnectionTrait>(db: &C, text: &str) -> String {
    let (now, day_ago) = match db.get_database_backend() {
        DbBackend::Postgres => ("clock_timestamp()", "now() - interval '24 hours'"),
        _ => (
            "cast(unixepoch('subsec') * 1000000 as integer)",
            "cast((unixepoch('subsec') - 86400) * 1000000 as integer)",
        ),
    };
    text.replace("{NOW}", now).replace("{DAY_AGO}", day_ago)
}

/// Returns how the moment that is so long from now stands in a text, and its value there; nothing for no time. By the clock
/// of the database where several processes look at one.
pub(super) fn from_now<C: ConnectionTrait>(db: &C, place: &str, time: Option<Duration>) -> (String, Value) {
    if db.get_database_backend() == DbBackend::Postgres {
        let millis = time.map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        return (format!("clock_timestamp() + {place}::bigint * interval '1 millisecond'"), millis.into());
    }
    let at = |time| TimeDelta::from_std(time).ok().and_then(|time| Utc::now().checked_add_signed(time));
    let micros = time.map(|time| at(time).unwrap_or(DateTime::<Utc>::MAX_UTC).timestamp_micros());
    (place.to_owned(), micros.into())
}

/// Writes, and returns the number of rows.
pub(super) async fn write<C: ConnectionTrait>(db: &C, text: &str, values: Vec<Value>) -> Result<u64> {
    let done = db.execute_raw(sql(db, text, values)).await.map_err(|e| undone(&e))?;
    Ok(done.rows_affected())
}

/// Stores a checkpoint of a thread.
pub(super) async fn checkpoint(tx: &Tx, tenant: &str, thread: ThreadId, c: Checkpoint) -> Result<()> {
    let text = "insert into checkpoint (tenant, thread_id, checkpoint_id, parent, run_id, step, source, delta, snapshot, \
           frontier, created_at) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    let values = vec![
        tenant.into(),
        thread.0.into(),
        c.checkpoint.0.into(),
        c.parent.map(|id| id.0).into(),
        c.run.map(|id| id.0).into(),
        (c.step as i64).into(),
        c.source.into(),
        c.delta.into(),
        c.snapshot.into(),
        c.frontier.into(),
        moment(tx.get_database_backend(), c.created_at),
    ];
    write(tx, text, values).await.map(|_| ())
}

/// Stores a batch, in place of a shorter one with the same beginning.
pub(super) async fn events(tx: &Tx, tenant: &str, run: RunId, batch: EventBatch) -> Result<()> {
    let text = "insert into event (tenant, run_id, fence, first_n, last_n, data) values ($1, $2, $3, $4, $5, $6) \
         on conflict (tenant, run_id, fence, first_n) do update set last_n = excluded.last_n, data = excluded.data \
         where event.last_n < excluded.last_n";
    let values = vec![
        tenant.into(),
        run.0.into(),
        (batch.fence as i64).into(),
        (batch.first as i64).into(),
        (batch.last as i64).into(),
        batch.data.into(),
    ];
    write(tx, text, values).await.map(|_| ())
}

/// Has the end or the pause of a run told, when somebody is to be told.
pub(super) async fn hook(tx: &Tx, tenant: &str, run: RunId, data: &[u8]) -> Result<()> {
    let text = "insert into outbox (tenant, outbox_id, run_id, target, data, available_at, created_at) \
         select tenant, $3, run_id, webhook, $4, {NOW}, {NOW} from run \
         where tenant = $1 and run_id = $2 and webhook is not null";
    let values = vec![tenant.into(), run.0.into(), Uuid::now_v7().into(), data.to_vec().into()];
    write(tx, &timed(tx, text), values).await.map(|_| ())
}

/// Stores questions of a run; one that is there stays as it is.
pub(super) async fn questions(
    tx: &Tx,
    tenant: &str,
    (thread, run): (ThreadId, RunId),
    questions: Vec<Question>,
) -> Result<()> {
    let text = "insert into interrupt (tenant, interrupt_id, thread_id, run_id, agent, data, expires_at, created_at) \
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (tenant, interrupt_id) do nothing";
    let (now, backend) = (Utc::now(), tx.get_database_backend());
    // A microsecond apart, so that they are listed as they were put.
    for (place, Question { id, agent, data, expires_at }) in (0..).zip(questions) {
        let expires = match (expires_at, backend) {
            (Some(at), backend) => moment(backend, at),
            (None, DbBackend::Postgres) => Value::ChronoDateTimeUtc(None),
            (None, _) => Value::BigInt(None),
        };
        let values = vec![
            tenant.into(),
            (&*id.0).into(),
            thread.0.into(),
            run.0.into(),
            agent.into(),
            data.into(),
            expires,
            moment(backend, now + TimeDelta::microseconds(place)),
        ];
        write(tx, text, values).await?;
    }
    Ok(())
}
