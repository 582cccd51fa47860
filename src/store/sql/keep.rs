//! Forgets what is older than it is kept, in small steps.
//!
//! Invariant: a run that is not over keeps all its events, and a thread what its head stands on.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction as Tx, DbBackend, Value};
use uuid::Uuid;

use super::question::write;
use super::row::{RUN, Row, moment};
use super::{begin, end, read};
use crate::id::{Owner, RunId};
use crate::store::{EventBatch, Kept, Result, Run};

/// Returns the text with the moment that is so long ago, as its parameter `$1`: by the clock of the database where
/// several processes look at one.
fn aged<C: ConnectionTrait>(db: &C, text: &str, age: Duration) -> (String, Value) {
    if db.get_database_backend() == DbBackend::Postgres {
        let millis = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        return (text.replace("{AGO}", "now() - $1::bigint * interval '1 millisecond'"), millis.into());
    }
    let ago = TimeDelta::from_std(age).ok().and_then(|age| Utc::now().checked_sub_signed(age));
    let ago = moment(DbBackend::Sqlite, ago.unwrap_or(DateTime::<Utc>::MIN_UTC));
    (text.replace("{AGO}", "$1"), ago)
}

fn number(kept: Kept) -> i64 {
    match kept {
        Kept::Nothing => 0,
        Kept::Lean => 1,
        Kept::All => 2,
    }
}

pub(super) async fn overdue<C: ConnectionTrait>(
    db: &C,
    kept: Kept,
    age: Duration,
    limit: u32,
) -> Result<Vec<Run>> {
    // The number is part of the text, so that the planner sees that the index has it.
    let text = format!(
        "select {RUN} from run r where r.kept = {} and r.kept > 0 and r.finished_at is not null \
           and r.finished_at < {{AGO}} order by r.finished_at limit $2",
        number(kept)
    );
    let (text, ago) = aged(db, &text, age);
    let values = vec![ago, i64::from(limit).into()];
    read::rows(db, "run", &text, values).await?.iter().map(Row::run).collect()
}

pub(super) async fn events(
    tx: Tx,
    owner: &Owner,
    run: RunId,
    kept: Kept,
    batches: Vec<EventBatch>,
) -> Result<bool> {
    let tenant = owner.tenant.as_str();
    let gate = "update run set kept = $4 where tenant = $1 and run_id = $2 and user_id = $3 and kept > $4 \
         and finished_at is not null";
    let values = vec![tenant.into(), run.0.into(), owner.user.as_str().into(), number(kept).into()];
    if write(&tx, gate, values).await? == 0 {
        return Ok(false);
    }
    write(&tx, "delete from event where tenant = $1 and run_id = $2", vec![tenant.into(), run.0.into()])
        .await?;
    let put =
        "insert into event (tenant, run_id, fence, first_n, last_n, data) values ($1, $2, $3, $4, $5, $6)";
    for batch in batches {
        let values = vec![
            tenant.into(),
            run.0.into(),
            (batch.fence as i64).into(),
            (batch.first as i64).into(),
            (batch.last as i64).into(),
            batch.data.into(),
        ];
        write(&tx, put, values).await?;
    }
    end(tx).await?;
    Ok(true)
}

/// The line is what the head stands on: from the head back to the nearest snapshot.
const FORGET: &str = "with recursive line as ( \
       select c.checkpoint_id, c.parent, c.snapshot is not null as whole \
       from thread t join checkpoint c on c.tenant = t.tenant and c.thread_id = t.thread_id \
         and c.checkpoint_id = t.head \
       where t.tenant = $2 and t.thread_id = $3 \
       union all \
       select c.checkpoint_id, c.parent, c.snapshot is not null \
       from line l join checkpoint c on c.tenant = $2 and c.thread_id = $3 and c.checkpoint_id = l.parent \
       where not l.whole) \
     delete from checkpoint where tenant = $2 and thread_id = $3 and created_at < {AGO} \
       and checkpoint_id not in (select checkpoint_id from line)";

pub(super) async fn checkpoints(db: &DatabaseConnection, age: Duration, limit: u32) -> Result<u64> {
    let due = "select distinct tenant, thread_id from ( \
           select r.tenant, r.thread_id from run r where r.finished_at is not null and r.finished_at < {AGO} \
             and not r.swept order by r.finished_at limit $2) due";
    let (due, ago) = aged(db, due, age);
    let rows = read::rows(db, "run", &due, vec![ago, i64::from(limit).into()]).await?;
    for row in &rows {
        let (tenant, thread): (String, Uuid) = (row.get("tenant")?, row.get("thread_id")?);
        let tx = begin(db).await?;
        let swept = "update run set swept = true where tenant = $2 and thread_id = $3 and finished_at < {AGO} \
             and not swept";
        for text in [FORGET, swept] {
            let (text, ago) = aged(&tx, text, age);
            write(&tx, &text, vec![ago, tenant.as_str().into(), thread.into()]).await?;
        }
        end(tx).await?;
    }
    Ok(rows.len() as u64)
}
