//! Claims runs on SQLite.
//!
//! Invariant: the one writer looks and takes in one transaction, so nobody comes between.

use chrono::Utc;
use sea_orm::Value;
use uuid::Uuid;

use super::{at, read_back, until};
use crate::id::CheckpointId;
use crate::store::sql::base::Tx;
use crate::store::sql::put::write;
use crate::store::sql::row::{RUN, Row};
use crate::store::sql::{ENGINE, read, room};
use crate::store::turns::{self, Asking};
use crate::store::{Claim, Process, Result};

/// Runs beside the head of their thread.
const FOUND: &str = "run r join thread t on t.tenant = r.tenant and t.thread_id = r.thread_id";
/// Those whose owner is gone; the values begin with the process and the time.
const LOST: &str = "r.state = 'running' and (r.lease_until < $3 or (r.owner = $1 and r.boot <> $2))";
/// Those whose turn on their thread it is; the third value is the time.
const READY: &str = "r.state = 'queued' and not r.delayed and r.available_at <= $3 \
     and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id \
       and a.state in ('running', 'interrupted')) \
     and not exists (select 1 from run a where a.tenant = r.tenant and a.thread_id = r.thread_id \
       and a.state = 'queued' and not a.delayed and a.ord < r.ord)";
/// Those that wait for an answer whose time is over; the third value is the time.
const DUE: &str = "r.state = 'interrupted' and r.wake_at <= $3";

/// Lets what is delayed take its place behind the other runs of its thread when it is due: one of a thread at a time, so
/// that several do so in the order of their times.
const WAKE: &str = "update run set delayed = false, ord = (select coalesce(max(ord), 0) + 1 from run) \
     where (tenant, run_id) = ( \
       select d.tenant, d.run_id from run d where d.state = 'queued' and d.delayed and d.available_at <= $1 \
       order by d.available_at, d.ord limit 1)";

struct Looking<'a> {
    tx: &'a Tx,
    /// Process, boot, time.
    values: Vec<Value>,
}

impl Looking<'_> {
    async fn find(&self, which: &str, more: Vec<Value>) -> Result<Vec<Row>> {
        let text = format!(
            "select {RUN}, r.state = 'running' as crashed, r.ord, t.head from {FOUND} \
             where {which} and r.min_engine <= {ENGINE} order by r.ord"
        );
        // The limit is the last of the values, and those that a text does not name are not given.
        let limit = self.values.len() + more.len();
        let values = self.values.iter().cloned().chain(more).collect();
        read::rows(self.tx, "run", &format!("{text} limit ${limit}"), values).await
    }
}

pub(in crate::store::sql) async fn claim(tx: &Tx, process: &Process, limit: u32) -> Result<Vec<Claim>> {
    while write(tx, WAKE, vec![at(Utc::now())]).await? > 0 {}
    let values = vec![process.instance.as_str().into(), process.boot.into(), at(Utc::now())];
    let looking = Looking { tx, values };
    let mut found = Vec::new();
    if limit > 0 {
        let alone = format!(
            "r.crashes > 0 and r.state in ('queued', 'running') and (({LOST}) or ({READY})) \
             and not exists (select 1 from run a where a.crashes > 0 and a.state in ('queued', 'running') \
               and a.suspect and a.state = 'running' and a.owner = $1 and a.boot = $2 and a.lease_until >= $3)"
        );
        found.extend(looking.find(&alone, vec![1.into()]).await?);
    }
    let suspects = found.len();
    let lost = format!("r.crashes = 0 and {LOST}");
    found.extend(looking.find(&lost, vec![left(limit, &found).into()]).await?);
    let most = left(limit, &found);
    if most > 0 {
        found.extend(others(&looking, process, most as usize).await?);
    }
    let mut claims = Vec::new();
    for (place, row) in found.iter().enumerate() {
        claims.push(taken(tx, process, row, place < suspects).await?);
    }
    Ok(claims)
}

fn left(limit: u32, found: &[Row]) -> i64 {
    i64::from(limit).saturating_sub_unsigned(found.len() as u64)
}

/// Finds runs that begin or go on, tenant by tenant.
async fn others(looking: &Looking<'_>, process: &Process, most: usize) -> Result<Vec<Row>> {
    // One step through the index for each tenant.
    let text = "with recursive waiting (tenant) as ( \
           select min(tenant) from run where state = 'queued' and not delayed \
           union all \
           select (select min(r.tenant) from run r where r.state = 'queued' and not r.delayed and r.tenant > w.tenant) \
           from waiting w where w.tenant is not null) \
         select tenant from waiting where tenant is not null \
         union select tenant from run where state = 'interrupted' and wake_at <= $1";
    let rows = read::rows(looking.tx, "run", text, vec![at(Utc::now())]).await?;
    let tenants: Vec<String> = rows.iter().map(|row| row.get("tenant")).collect::<Result<_>>()?;
    let share = turns::share(most, tenants.len()) as i64;
    let mut asking = Vec::new();
    for tenant in tenants {
        let working = room::working(looking.tx, &tenant).await?;
        let mut ready = Vec::new();
        for which in [format!("r.crashes = 0 and {READY}"), DUE.to_owned()] {
            let which = format!("r.tenant = $4 and {which}");
            for row in looking.find(&which, vec![tenant.as_str().into(), share.into()]).await? {
                ready.push((row.number("ord")?, row));
            }
        }
        ready.sort_by_key(|(place, _)| *place);
        asking.push(Asking { working, ready });
    }
    Ok(turns::choose(asking, most, process.tenant_runs))
}

async fn taken(tx: &Tx, process: &Process, row: &Row, suspect: bool) -> Result<Claim> {
    let run = row.run()?;
    let crashed: bool = row.get("crashed")?;
    let text = "update run set state = 'running', fence = fence + 1, crashes = crashes + $3, owner = $4, boot = $5, \
           lease_until = $6, suspect = $7 where tenant = $1 and run_id = $2";
    let values = vec![
        run.key.owner.tenant.as_str().into(),
        run.run.0.into(),
        i64::from(crashed).into(),
        process.instance.as_str().into(),
        process.boot.into(),
        until(process.lease),
        suspect.into(),
    ];
    write(tx, text, values).await?;
    let run = read_back(tx, &run.key.owner, run.run).await?;
    Ok(Claim { run, head: row.get::<Option<Uuid>>("head")?.map(CheckpointId), crashed })
}
