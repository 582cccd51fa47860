//! Whether a tenant may have one more run, at work or in the queue.

use sea_orm::ConnectionTrait;

use super::put::timed;
use super::read;
use crate::id::RunId;
use crate::store::{Process, Result};

/// Holds where another run of the tenant `$1` than `{RUN}` could begin or go on, and waits for a process: whoever comes later
/// does not go before it. Whether a run is the first of its thread is one probe of an index for each, as in `claim_runs`;
/// what waits for a process to take it alone holds nobody up.
pub(super) const OTHERS_WAIT: &str = "(exists ( \
     select 1 from run r where r.tenant = $1 and r.state = 'queued' and not r.delayed and r.available_at <= {NOW} \
       and r.crashes = 0 and r.run_id <> {RUN} \
       and (select true from run b where b.tenant = r.tenant and b.thread_id = r.thread_id \
         and b.state in ('running', 'interrupted') limit 1) is null \
       and r.ord = (select b.ord from run b where b.tenant = r.tenant and b.thread_id = r.thread_id \
         and b.state = 'queued' and not b.delayed order by b.ord limit 1)) \
   or exists ( \
     select 1 from run r where r.tenant = $1 and r.state = 'interrupted' and r.wake_at <= {NOW} and r.run_id <> {RUN}))";

/// Says which runs are at work, in a text whose `{NOW}` is filled in: not those that wait to be taken alone.
pub(super) const AT_WORK: &str = "r.state = 'running' and (r.crashes = 0 or r.lease_until >= {NOW})";

/// Counts the runs of a tenant that are at work.
pub(super) async fn working<C: ConnectionTrait>(db: &C, tenant: &str) -> Result<u64> {
    let text = timed(db, &format!("select count(*) as working from run r where r.tenant = $1 and {AT_WORK}"));
    let row = read::row(db, "run", &text, vec![tenant.into()]).await?;
    row.map_or(Ok(0), |row| row.number("working"))
}

/// Says whether a run of a tenant may be one more at work: there is room, and no other waits for it.
pub(super) async fn has_room<C: ConnectionTrait>(
    db: &C,
    tenant: &str,
    run: RunId,
    process: &Process,
) -> Result<bool> {
    let Some(most) = process.tenant_runs else { return Ok(true) };
    if working(db, tenant).await? >= u64::from(most) {
        return Ok(false);
    }
    let text = timed(db, &format!("select 1 where {}", OTHERS_WAIT.replace("{RUN}", "$2")));
    let others = read::row(db, "run", &text, vec![tenant.into(), run.0.into()]).await?;
    Ok(others.is_none())
}

/// Says whether as many runs of a tenant wait for their turn as may. It looks at no more than that.
pub(super) async fn is_full<C: ConnectionTrait>(db: &C, tenant: &str, process: &Process) -> Result<bool> {
    let text = "select count(*) as waiting from ( \
         select 1 from run where tenant = $1 and state = 'queued' and not delayed limit $2) q";
    let most = i64::from(process.tenant_queue);
    let row = read::row(db, "run", text, vec![tenant.into(), most.into()]).await?;
    Ok(row.map_or(Ok(0), |row| row.number("waiting"))? >= u64::from(process.tenant_queue))
}
