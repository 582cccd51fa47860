//! What operators do: look over all tenants, give runs that were given up another chance, erase users and tenants.
//!
//! Invariant: nothing here serves a request.

use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction as Tx, DbBackend, Value};

use super::question::{timed, write};
use super::row::{RUN, Row};
use super::{begin, delete, end, read};
use crate::id::{Part, RunId, ThreadKey};
use crate::store::{Counts, ERASED, Result, Run, RunFilter};

pub(super) async fn runs<C: ConnectionTrait>(db: &C, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
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
        text.push_str(&format!(" and r.run_id < ${}", values.len()));
    }
    if let Some(thread) = filter.thread {
        values.push(thread.0.into());
        text.push_str(&format!(" and r.thread_id = ${}", values.len()));
    }
    text.push_str(" order by r.run_id desc limit $1");
    read::rows(db, "run", &text, values).await?.iter().map(Row::run).collect()
}

pub(super) async fn counts<C: ConnectionTrait>(db: &C) -> Result<Counts> {
    // One by one, because each state has an index of its own; a list of all has none.
    let text = "select (select count(*) from run where state = 'queued') as queued, \
         (select count(*) from run where state = 'running') as running, \
         (select count(*) from run where state in ('running', 'interrupted')) as active, \
         (select count(*) from run where state = 'dead') as dead";
    let Some(row) = read::row(db, "run", text, Vec::new()).await? else { return Ok(Counts::default()) };
    let running = row.number("running")?;
    Ok(Counts {
        queued: row.number("queued")?,
        running,
        interrupted: row.number("active")?.saturating_sub(running),
        dead: row.number("dead")?,
    })
}

pub(super) async fn find<C: ConnectionTrait>(db: &C, run: RunId) -> Result<Option<Run>> {
    let text = format!("select {RUN} from run r where r.run_id = $1");
    read::row(db, "run", &text, vec![run.0.into()]).await?.map(|row| row.run()).transpose()
}

/// Finds a run that was given up, and keeps others from it until the transaction ends.
async fn dead(tx: &Tx, run: RunId) -> Result<Option<Run>> {
    let lock = if tx.get_database_backend() == DbBackend::Postgres { " for update" } else { "" };
    let text = format!("select {RUN} from run r where r.run_id = $1 and r.state = 'dead'{lock}");
    read::row(tx, "run", &text, vec![run.0.into()]).await?.map(|row| row.run()).transpose()
}

/// Puts a run that was given up back into the queue, while it is the newest of its thread.
pub(super) async fn retry(tx: Tx, run: RunId) -> Result<Option<Run>> {
    let Some(found) = dead(&tx, run).await? else { return Ok(None) };
    let tenant = found.key.owner.tenant.as_str();
    if tx.get_database_backend() == DbBackend::Postgres {
        // Whoever accepts a run has this lock.
        let lock = "select 1 from thread where tenant = $1 and thread_id = $2 for no key update";
        read::row(&tx, "thread", lock, vec![tenant.into(), found.thread.0.into()]).await?;
    }
    let newer = "select 1 from run r join run x on x.tenant = r.tenant and x.thread_id = r.thread_id \
           and x.ord > r.ord where r.tenant = $1 and r.run_id = $2 limit 1";
    let identity = || vec![tenant.into(), run.0.into()];
    if read::row(&tx, "run", newer, identity()).await?.is_some() {
        return Ok(None);
    }
    for text in [
        "update run set state = 'queued', crashes = 0, cancel_requested = false, result = null, finished_at = null, \
           kept = 2, swept = false, \
           owner = null, boot = null, lease_until = null, available_at = {NOW} where tenant = $1 and run_id = $2",
        "update interrupt set ended = false where tenant = $1 and run_id = $2",
    ] {
        write(&tx, &timed(&tx, text), identity()).await?;
    }
    let retried = find(&tx, run).await?;
    end(tx).await?;
    Ok(retried)
}

/// Cancels a run that was given up.
pub(super) async fn discard(tx: Tx, run: RunId) -> Result<Option<Run>> {
    let Some(found) = dead(&tx, run).await? else { return Ok(None) };
    let tenant = found.key.owner.tenant.as_str();
    for text in [
        "update run set state = 'cancelled' where tenant = $1 and run_id = $2",
        "delete from pending_write where tenant = $1 and run_id = $2",
    ] {
        write(&tx, text, vec![tenant.into(), run.0.into()]).await?;
    }
    let discarded = find(&tx, run).await?;
    end(tx).await?;
    Ok(discarded)
}

/// The tables of a tenant that could hold a row when its threads are gone.
const OF_TENANT: [&str; 10] = [
    "thread",
    "run",
    "checkpoint",
    "event",
    "pending_write",
    "interrupt",
    "intent",
    "outbox",
    "idempotency",
    "blob",
];

/// Deletes some threads of a tenant or of one of its users; when there is none, the rest.
pub(super) async fn erase(
    db: &DatabaseConnection,
    tenant: &Part,
    user: Option<&Part>,
    limit: u32,
) -> Result<u64> {
    let mut values: Vec<Value> = vec![tenant.as_str().into(), i64::from(limit).into()];
    let mut of_user = "";
    if let Some(user) = user {
        values.push(user.as_str().into());
        of_user = "and user_id = $3";
    }
    let text = format!("select tenant, user_id, session_id from thread where tenant = $1 {of_user} limit $2");
    let rows = read::rows(db, "thread", &text, values).await?;
    let threads: Vec<ThreadKey> = rows.iter().map(Row::key).collect::<Result<_>>()?;
    for key in &threads {
        delete::thread(db, key).await?;
    }
    if threads.is_empty() {
        let tx = begin(db).await?;
        match user {
            None => {
                for table in OF_TENANT {
                    let text = format!("delete from {table} where tenant = $1");
                    write(&tx, &text, vec![tenant.as_str().into()]).await?;
                }
            }
            Some(user) => {
                let identity = || -> Vec<Value> { vec![tenant.as_str().into(), user.as_str().into()] };
                // Keys of answers on threads of others.
                write(&tx, "delete from idempotency where tenant = $1 and user_id = $2", identity()).await?;
                let text = format!(
                    "update interrupt set answered_by = '{ERASED}' where tenant = $1 and answered_by = $2"
                );
                write(&tx, &text, identity()).await?;
            }
        }
        end(tx).await?;
    }
    Ok(threads.len() as u64)
}
