//! Deletes a thread with all that hangs on it.
//!
//! Invariant: locks are taken in the order of a commit, runs before their thread, and the thread's lock keeps new
//! runs away until the rows are gone.

use std::time::{Duration, Instant};

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use uuid::Uuid;

use super::base::Base;
use super::error::{is_locked, is_race, undone};
use super::{audit, sql};
use crate::id::ThreadKey;
use crate::store::{Actor, Noted, Result};

/// Each statement knows the tenant as $1 and the thread as $2.
const ROWS: [&str; 11] = [
    "delete from idempotency \
     where tenant = $1 and run_id in (select run_id from run where tenant = $1 and thread_id = $2)",
    "delete from event where tenant = $1 and run_id in (select run_id from run where tenant = $1 and thread_id = $2)",
    "delete from pending_write \
     where tenant = $1 and run_id in (select run_id from run where tenant = $1 and thread_id = $2)",
    "delete from intent where tenant = $1 and run_id in (select run_id from run where tenant = $1 and thread_id = $2)",
    "delete from outbox where tenant = $1 and run_id in (select run_id from run where tenant = $1 and thread_id = $2)",
    "delete from interrupt where tenant = $1 and thread_id = $2",
    "delete from cache where tenant = $1 and thread_id = $2",
    "delete from blob where tenant = $1 and thread_id = $2",
    "delete from checkpoint where tenant = $1 and thread_id = $2",
    "delete from run where tenant = $1 and thread_id = $2",
    "delete from thread where tenant = $1 and thread_id = $2",
];

/// How long it leaves the thread to others between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// How long a delete tries to get a busy thread for itself.
const PATIENCE: Duration = Duration::from_secs(5);

/// Deletes the thread, and notes that; false when there was none.
pub(super) async fn thread(base: &Base, key: &ThreadKey, actor: Actor) -> Result<bool> {
    let start = Instant::now();
    loop {
        let tx = base.begin(key.owner.tenant.as_str()).await?;
        let error = match rows(&tx, key).await {
            Ok(found) => {
                if found {
                    audit::note(&tx, &Noted::deleted(key, actor)).await?;
                }
                tx.commit().await?;
                return Ok(found);
            }
            Err(error) => error,
        };
        let again = (is_race(&error) || is_locked(&error)) && start.elapsed() < PATIENCE;
        if !again {
            // Dropped, the transaction rolls back by itself, also on a broken connection.
            return Err(undone(&error));
        }
        tx.rollback().await?;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn rows<C: ConnectionTrait>(tx: &C, key: &ThreadKey) -> std::result::Result<bool, DbErr> {
    let (tenant, user) = (key.owner.tenant.as_str(), key.owner.user.as_str());
    let identity = || vec![tenant.into(), user.into(), key.session.as_str().into()];
    let mut find =
        "select thread_id from thread where tenant = $1 and user_id = $2 and session_id = $3".to_owned();
    if tx.get_database_backend() == DbBackend::Postgres {
        let runs = "select 1 from thread t join run r on r.tenant = t.tenant and r.thread_id = t.thread_id \
             where t.tenant = $1 and t.user_id = $2 and t.session_id = $3 order by r.ord for update of r";
        tx.execute_raw(sql(tx, runs, identity())).await?;
        find.push_str(" for update");
    }
    let Some(found) = tx.query_one_raw(sql(tx, find, identity())).await? else { return Ok(false) };
    let thread: Uuid = found.try_get("", "thread_id")?;
    if tx.get_database_backend() == DbBackend::Postgres {
        // Those accepted until the thread was locked; without it they could still append events behind our back. One
        // of them can wait for the thread with its first commit, so we must not wait for it.
        let runs = "select 1 from run where tenant = $1 and thread_id = $2 order by ord for update nowait";
        tx.execute_raw(sql(tx, runs, vec![tenant.into(), thread.into()])).await?;
    }
    for text in ROWS {
        tx.execute_raw(sql(tx, text, vec![tenant.into(), thread.into()])).await?;
    }
    Ok(true)
}
