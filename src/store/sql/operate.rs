//! What operators do: look over all tenants, give runs that were given up another chance, erase users and tenants.
//!
//! Invariant: nothing here serves a request.

use sea_orm::{ConnectionTrait, DbBackend, Value};

use super::base::{Base, Tx};
use super::put::{timed, write};
use super::row::{RUN, Row};
use super::{audit, delete, postgres, read, sqlite};
use crate::id::{Owner, Part, RunId, ThreadKey};
use crate::store::{Act, Actor, ERASED, Erased, Noted, Result, Run};

/// Finds a run of any tenant.
pub(super) async fn find(base: &Base, run: RunId) -> Result<Option<Run>> {
    match base {
        Base::Postgres(db) => postgres::wide::find(db, run).await,
        Base::Sqlite(db) => sqlite::wide::find(db, run).await,
    }
}

/// Finds a run that was given up, and keeps others from it until the transaction ends.
async fn dead(base: &Base, run: RunId) -> Result<Option<(Tx, Run)>> {
    let Some(Owner { tenant, .. }) = find(base, run).await?.map(|run| run.key.owner) else { return Ok(None) };
    let tx = base.begin(tenant.as_str()).await?;
    let lock = if tx.get_database_backend() == DbBackend::Postgres { " for update" } else { "" };
    let text =
        format!("select {RUN} from run r where r.tenant = $1 and r.run_id = $2 and r.state = 'dead'{lock}");
    match read::row(&tx, "run", &text, vec![tenant.as_str().into(), run.0.into()]).await? {
        Some(row) => Ok(Some((tx, row.run()?))),
        None => tx.rollback().await.map(|()| None),
    }
}

/// Puts a run that was given up back into the queue, while it is the newest of its thread.
pub(super) async fn retry(base: &Base, run: RunId) -> Result<Option<Run>> {
    let Some((tx, found)) = dead(base, run).await? else { return Ok(None) };
    let tenant = found.key.owner.tenant.as_str();
    if tx.get_database_backend() == DbBackend::Postgres {
        // Whoever accepts a run has this lock.
        let lock = "select 1 from thread where tenant = $1 and thread_id = $2 for no key update";
        read::row(&tx, "thread", lock, vec![tenant.into(), found.thread.0.into()]).await?;
    }
    let newer = "select 1 from run r join run x on x.tenant = r.tenant and x.thread_id = r.thread_id \
           and x.ord > r.ord and not x.delayed where r.tenant = $1 and r.run_id = $2 limit 1";
    let identity = || vec![tenant.into(), run.0.into()];
    if read::row(&tx, "run", newer, identity()).await?.is_some() {
        return tx.rollback().await.map(|()| None);
    }
    for text in [
        "update run set state = 'queued', crashes = 0, cancel_requested = false, rollback = false, result = null, finished_at = null, \
           kept = 2, swept = false, read_until = null, \
           owner = null, boot = null, lease_until = null, available_at = {NOW} where tenant = $1 and run_id = $2",
        "update interrupt set ended = false where tenant = $1 and run_id = $2",
    ] {
        write(&tx, &timed(&tx, text), identity()).await?;
    }
    audit::note(&tx, &Noted::of_run(&found.key.owner.tenant, Act::RunRetried, run)).await?;
    let retried = read::run(&tx, &found.key.owner, run).await?;
    tx.commit().await?;
    Ok(retried)
}

/// Cancels a run that was given up.
pub(super) async fn discard(base: &Base, run: RunId) -> Result<Option<Run>> {
    let Some((tx, found)) = dead(base, run).await? else { return Ok(None) };
    let tenant = found.key.owner.tenant.as_str();
    for text in [
        "update run set state = 'cancelled' where tenant = $1 and run_id = $2",
        "delete from pending_write where tenant = $1 and run_id = $2",
    ] {
        write(&tx, text, vec![tenant.into(), run.0.into()]).await?;
    }
    audit::note(&tx, &Noted::of_run(&found.key.owner.tenant, Act::RunDiscarded, run)).await?;
    let discarded = read::run(&tx, &found.key.owner, run).await?;
    tx.commit().await?;
    Ok(discarded)
}

/// The tables of a tenant that could hold a row when its threads are gone.
const OF_TENANT: [&str; 11] = [
    // With it, what backups still hold of the tenant cannot be read any more. First, for runs are accepted under a lock of
    // it: those that came before are found by what follows, and none comes after.
    "data_key",
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
    base: &Base,
    tenant: &Part,
    user: Option<&Part>,
    limit: u32,
    before: u64,
) -> Result<Erased> {
    let mut values: Vec<Value> = vec![tenant.as_str().into(), i64::from(limit).into()];
    let mut of_user = "";
    if let Some(user) = user {
        values.push(user.as_str().into());
        of_user = "and user_id = $3";
    }
    let text = format!("select tenant, user_id, session_id from thread where tenant = $1 {of_user} limit $2");
    let rows = read::rows(&base.works(tenant.as_str()), "thread", &text, values).await?;
    let threads: Vec<ThreadKey> = rows.iter().map(Row::key).collect::<Result<_>>()?;
    for key in &threads {
        delete::thread(base, key, Actor::Operator).await?;
    }
    if !threads.is_empty() {
        return Ok(Erased::Threads(threads.len() as u64));
    }
    let tx = base.begin(tenant.as_str()).await?;
    let note = Noted::erased(tenant, user, before);
    match user {
        None => {
            for table in OF_TENANT {
                let text = format!("delete from {table} where tenant = $1");
                write(&tx, &text, vec![tenant.as_str().into()]).await?;
            }
            audit::erase(&tx, tenant, &note).await?;
        }
        Some(user) => {
            let identity = || -> Vec<Value> { vec![tenant.as_str().into(), user.as_str().into()] };
            // Keys of answers on threads of others.
            write(&tx, "delete from idempotency where tenant = $1 and user_id = $2", identity()).await?;
            let text = format!(
                "update interrupt set answered_by = '{ERASED}' where tenant = $1 and answered_by = $2"
            );
            write(&tx, &text, identity()).await?;
            audit::note(&tx, &note).await?;
        }
    }
    tx.commit().await?;
    Ok(Erased::All(note))
}
