//! Forgets what is older than it is kept, in small steps.
//!
//! Invariant: a run that is not over keeps all its events and what its thread was before it, and a thread what its head
//! stands on.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, Value};

use super::base::{Base, Tx};
use super::put::{self, write};
use super::{postgres, sqlite};
use crate::id::Owner;
use crate::store::{EventBatch, Kept, Result, Run};

/// Returns the text with the moment that is so long ago, as its parameter `$3`: by the clock of the database where
/// several processes look at one.
fn aged(tx: &Tx, text: &str, age: Duration) -> (String, Value) {
    if tx.get_database_backend() == DbBackend::Postgres {
        return (
            text.replace("{AGO}", "now() - $3::bigint * interval '1 millisecond'"),
            postgres::millis(age),
        );
    }
    (text.replace("{AGO}", "$3"), sqlite::wide::ago(age))
}

pub(super) fn number(kept: Kept) -> i64 {
    match kept {
        Kept::Nothing => 0,
        Kept::Lean => 1,
        Kept::All => 2,
    }
}

pub(super) async fn events(tx: Tx, run: &Run, kept: Kept, batches: Vec<EventBatch>) -> Result<bool> {
    let (Owner { tenant, user }, fence, run) = (&run.key.owner, run.fence as i64, run.run);
    let tenant = tenant.as_str();
    // Who goes on with it does so under another fence, and has more to tell than what was read.
    let gate = "update run set kept = $4 where tenant = $1 and run_id = $2 and user_id = $3 and kept > $4 \
         and fence = $5 and finished_at is not null";
    let values = vec![tenant.into(), run.0.into(), user.as_str().into(), number(kept).into(), fence.into()];
    if write(&tx, gate, values).await? == 0 {
        return Ok(false);
    }
    write(&tx, "delete from event where tenant = $1 and run_id = $2", vec![tenant.into(), run.0.into()])
        .await?;
    for batch in batches {
        put::events(&tx, tenant, run, batch).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// The line is what the head stands on: from the head back to the nearest snapshot.
const FORGET: &str = "with recursive line as ( \
       select c.checkpoint_id, c.parent, c.snapshot is not null as whole \
       from thread t join checkpoint c on c.tenant = t.tenant and c.thread_id = t.thread_id \
         and c.checkpoint_id = t.head \
       where t.tenant = $1 and t.thread_id = $2 \
       union all \
       select c.checkpoint_id, c.parent, c.snapshot is not null \
       from line l join checkpoint c on c.tenant = $1 and c.thread_id = $2 and c.checkpoint_id = l.parent \
       where not l.whole) \
     delete from checkpoint where tenant = $1 and thread_id = $2 and created_at < {AGO} \
       and checkpoint_id not in (select checkpoint_id from line) \
       and not exists (select 1 from run r where r.tenant = $1 and r.thread_id = $2 \
         and r.state in ('queued', 'running', 'interrupted') and not r.delayed)";

pub(super) async fn checkpoints(base: &Base, age: Duration, limit: u32) -> Result<u64> {
    let due = match base {
        Base::Postgres(db) => postgres::wide::unswept(db, age, limit).await?,
        Base::Sqlite(db) => sqlite::wide::unswept(db, age, limit).await?,
    };
    for (tenant, thread) in &due {
        let tx = base.begin(tenant).await?;
        let swept = "update run set swept = true where tenant = $1 and thread_id = $2 and finished_at < {AGO} \
             and not swept";
        for text in [FORGET, swept] {
            let (text, ago) = aged(&tx, text, age);
            write(&tx, &text, vec![tenant.as_str().into(), (*thread).into(), ago]).await?;
        }
        tx.commit().await?;
    }
    Ok(due.len() as u64)
}
