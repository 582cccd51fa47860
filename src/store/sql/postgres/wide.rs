//! What looks over all tenants: functions of the role `graphloom_claimer`, which sees states and ids and nothing that
//! anybody said. Rows are read for the tenant of each id.
//!
//! Invariant: no statement here names a table.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sea_orm::sea_query::ArrayType;
use sea_orm::{DbBackend, DbErr, QueryResult, Value};
use uuid::Uuid;

use super::open::READS;
use super::{Lanes, Postgres, array, is_race, millis, query};
use crate::id::{CheckpointId, HookId, Owner, Part, RunId, Seq};
use crate::store::sql::base::Desk;
use crate::store::sql::error::{undone, unsure};
use crate::store::sql::row::{RUN, Row};
use crate::store::sql::{ENGINE, audit, beat, keep, read};
use crate::store::{
    AuditFilter, Beat, Claim, Counts, HookCounts, HookFilter, Kept, News, Process, Result, Run, RunFilter,
    VersionUse,
};

async fn rows(lanes: &Lanes, what: &'static str, text: &str, values: Vec<Value>) -> Result<Vec<Row>> {
    let answer = lanes.run(None, text, values).await.map_err(|e| undone(&e))?;
    let row = |row| Row::new(QueryResult::from(row), DbBackend::Postgres, what);
    Ok(answer.rows.into_iter().map(row).collect())
}

fn uuids(runs: impl IntoIterator<Item = RunId>) -> Value {
    array(ArrayType::Uuid, runs.into_iter().map(|run| run.0.into()).collect())
}

/// A run that is this process's now.
struct Taken {
    run: RunId,
    fence: u64,
    crashed: bool,
    place: u64,
}

pub(in crate::store::sql) async fn claim(db: &Postgres, process: &Process, limit: u32) -> Result<Vec<Claim>> {
    let text = "select tenant, run_id, fence, crashed, ord from claim_runs($1, $2, $3, $4, $5, $6)";
    let values = |limit: u32| -> Vec<Value> {
        vec![
            process.instance.as_str().into(),
            process.boot.into(),
            millis(process.lease),
            i64::from(limit).into(),
            ENGINE.into(),
            process.tenant_runs.map(i64::from).into(),
        ]
    };
    // The index over the threads is the backstop of the race between two claimers; one run at a time, only the run
    // that lost has to wait.
    let rows = match db.wide.run(None, text, values(limit)).await {
        Err(error) if is_race(&error) => query(&db.wide, None, text, values(limit.min(1))).await,
        done => done.map(|answer| answer.rows.into_iter().map(QueryResult::from).collect()),
    };
    let mut tenants: BTreeMap<String, Vec<Taken>> = BTreeMap::new();
    for row in rows.map_err(|e| unsure(&e))? {
        let row = Row::new(row, DbBackend::Postgres, "run");
        let taken = Taken {
            run: RunId(row.get("run_id")?),
            fence: row.number("fence")?,
            crashed: row.get("crashed")?,
            place: row.number("ord")?,
        };
        tenants.entry(row.get("tenant")?).or_default().push(taken);
    }
    let (mut claims, mut failure) = (Vec::new(), None);
    for (tenant, taken) in tenants {
        match claimed(db, &tenant, &taken).await {
            Ok(found) => claims.extend(found),
            Err(error) => {
                // Nobody drives them: without this they would look like those of a process that died.
                give_back(db, &tenant, &taken).await;
                failure = Some(error);
            }
        }
    }
    claims.sort_by_key(|(place, _)| *place);
    match failure {
        Some(error) if claims.is_empty() => Err(error),
        _ => Ok(claims.into_iter().map(|(_, claim)| claim).collect()),
    }
}

/// Reads claimed runs, each with the head of its thread. That is later than the claim, so no commit of a former owner
/// can come after it.
async fn claimed(db: &Postgres, tenant: &str, taken: &[Taken]) -> Result<Vec<(u64, Claim)>> {
    let text = format!(
        "select {RUN}, t.head from run r join thread t on t.tenant = r.tenant and t.thread_id = r.thread_id \
         where r.tenant = $1 and r.run_id = any($2::uuid[]) and r.state = 'running'"
    );
    let desk = Desk::Postgres(db.wide.clone(), tenant.to_owned());
    let values = vec![tenant.into(), uuids(taken.iter().map(|taken| taken.run))];
    let mut claims = Vec::new();
    for row in read::rows(&desk, "run", &text, values).await? {
        let run = row.run()?;
        // Under another fence it is somebody else's by now.
        let Some(taken) = taken.iter().find(|taken| taken.run == run.run && taken.fence == run.fence) else {
            continue;
        };
        let head = row.get::<Option<Uuid>>("head")?.map(CheckpointId);
        claims.push((taken.place, Claim { run, head, crashed: taken.crashed }));
    }
    Ok(claims)
}

async fn give_back(db: &Postgres, tenant: &str, taken: &[Taken]) {
    let text = "update run r set state = 'queued', owner = null, boot = null, lease_until = null \
         from unnest($2::uuid[], $3::bigint[]) as mine (run_id, fence) \
         where r.tenant = $1 and r.run_id = mine.run_id and r.fence = mine.fence and r.state = 'running'";
    let fences = taken.iter().map(|taken| (taken.fence as i64).into()).collect();
    let values =
        vec![tenant.into(), uuids(taken.iter().map(|taken| taken.run)), array(ArrayType::BigInt, fences)];
    // Whatever keeps it from that keeps them until their leases run out.
    let _lost = db.wide.run(Some(tenant), text, values).await;
}

pub(in crate::store::sql) async fn heartbeat(
    db: &Postgres,
    process: &Process,
    live: &[RunId],
) -> Result<Beat> {
    let text = "select run_id, cancel_requested from beat_runs($1, $2, $3, $4::uuid[])";
    let live_ids = uuids(live.iter().copied());
    let values = vec![process.instance.as_str().into(), process.boot.into(), millis(process.lease), live_ids];
    let rows = query(&db.beats, None, text, values).await.map_err(|e| unsure(&e))?;
    let row =
        |row: QueryResult| Ok((row.try_get("", "run_id").map(RunId)?, row.try_get("", "cancel_requested")?));
    let owned =
        rows.into_iter().map(row).collect::<std::result::Result<_, DbErr>>().map_err(|e| undone(&e))?;
    Ok(beat(live, owned))
}

/// Says whether all is to be encrypted. It is asked with the heartbeat.
pub(in crate::store::sql) async fn is_encrypted(db: &Postgres) -> Result<bool> {
    let text = "select 1 from data_key where tenant = $1 limit 1";
    let values = vec![read::DEPLOYMENT.into()];
    let answer = db.beats.run(Some(read::DEPLOYMENT), text, values).await.map_err(|e| undone(&e))?;
    Ok(!answer.rows.is_empty())
}

pub(in crate::store::sql) async fn asked(db: &Postgres, process: &Process) -> Result<Vec<RunId>> {
    let values = vec![process.instance.as_str().into(), process.boot.into()];
    let found = rows(&db.beats, "run", "select run_id from asked_runs($1, $2)", values).await?;
    found.iter().map(|row| row.get("run_id").map(RunId)).collect()
}

/// Forgets old idempotency keys.
pub(in crate::store::sql) async fn forget_keys(db: &Postgres) -> Result<()> {
    db.wide.run(None, "select forget_keys()", Vec::new()).await.map(drop).map_err(|e| undone(&e))
}

/// Deletes results that are over.
pub(in crate::store::sql) async fn forget_cached(db: &Postgres, limit: u32) -> Result<u64> {
    let found =
        rows(&db.wide, "cached result", "select forget_cached($1) as deleted", vec![i64::from(limit).into()])
            .await?;
    found.first().map_or(Ok(0), |row| row.number("deleted"))
}

/// Lists notes of acts, newest first.
pub(in crate::store::sql) async fn audit(
    db: &Postgres,
    filter: &AuditFilter,
    limit: u32,
) -> Result<Vec<Row>> {
    let text = "select tenant, audit_id, at, act, actor, subject, detail from list_audit($1::text, $2, $3::text[], $4)";
    let names = filter.names().map_or_else(Vec::new, |names| names.map(Value::from).into());
    let names = array(ArrayType::String, names);
    let since = audit::since(DbBackend::Postgres, filter);
    rows(&db.wide, "note", text, vec![filter.tenant.as_deref().into(), since, names, i64::from(limit).into()])
        .await
}

/// Deletes old notes.
pub(in crate::store::sql) async fn forget_audit(db: &Postgres, age: Duration, limit: u32) -> Result<u64> {
    let values = vec![millis(age), i64::from(limit).into()];
    let found = rows(&db.wide, "note", "select forget_audit($1, $2) as deleted", values).await?;
    found.first().map_or(Ok(0), |row| row.number("deleted"))
}

/// Reads the runs of such rows of ids, in their order.
async fn runs_of(db: &Postgres, ids: Vec<Row>) -> Result<Vec<Run>> {
    let mut tenants: BTreeMap<String, Vec<RunId>> = BTreeMap::new();
    let mut order = Vec::new();
    for row in ids {
        let run = RunId(row.get("run_id")?);
        tenants.entry(row.get("tenant")?).or_default().push(run);
        order.push(run);
    }
    let text = format!("select {RUN} from run r where r.tenant = $1 and r.run_id = any($2::uuid[])");
    let mut found = BTreeMap::new();
    for (tenant, runs) in tenants {
        let desk = Desk::Postgres(db.wide.clone(), tenant.clone());
        for row in read::rows(&desk, "run", &text, vec![tenant.into(), uuids(runs)]).await? {
            let run = row.run()?;
            found.insert(run.run, run);
        }
    }
    Ok(order.into_iter().filter_map(|run| found.remove(&run)).collect())
}

pub(in crate::store::sql) async fn runs(db: &Postgres, filter: &RunFilter, limit: u32) -> Result<Vec<Run>> {
    let text = "select tenant, run_id from list_runs($1::text[], $2::text, $3::uuid, $4::uuid, $5)";
    let states = filter.states.iter().map(|state| state.name().into()).collect();
    let values = vec![
        array(ArrayType::String, states),
        filter.tenant.as_ref().map(Part::as_str).into(),
        filter.before.map(|run| run.0).into(),
        filter.thread.map(|thread| thread.0).into(),
        i64::from(limit).into(),
    ];
    runs_of(db, rows(&db.wide, "run", text, values).await?).await
}

pub(in crate::store::sql) async fn find(db: &Postgres, run: RunId) -> Result<Option<Run>> {
    let text = "select tenant, run_id from find_run($1)";
    let ids = rows(&db.wide, "run", text, vec![run.0.into()]).await?;
    Ok(runs_of(db, ids).await?.into_iter().next())
}

/// Reads where runs stand, of all tenants at once, and then what is new of them, by tenant and of several tenants at once.
pub(in crate::store::sql) async fn news(
    db: &Postgres,
    of: &[(Owner, RunId, Seq)],
    limit: usize,
) -> Result<Vec<News>> {
    let text = "select run_id, state, last_fence, last_n from run_heads($1::text[], $2::uuid[])";
    let tenants = of.iter().map(|(owner, ..)| owner.tenant.as_str().into()).collect();
    let values = vec![array(ArrayType::String, tenants), uuids(of.iter().map(|(_, run, _)| *run))];
    let mut found = BTreeMap::new();
    for row in rows(&db.wide, "run", text, values).await? {
        let last = match row.get::<Option<i64>>("last_fence")? {
            Some(_) => Seq { fence: row.number("last_fence")?, n: row.number("last_n")? },
            None => Seq::default(),
        };
        let run = RunId(row.get("run_id")?);
        found.insert(run, (last, News { run, state: row.state("state")?, batches: Vec::new() }));
    }
    let mut behind: BTreeMap<&str, Vec<(&Owner, RunId, Seq)>> = BTreeMap::new();
    for (owner, run, after) in of {
        if found.get(run).is_some_and(|(last, _)| last > after) {
            behind.entry(owner.tenant.as_str()).or_default().push((owner, *run, *after));
        }
    }
    // What is read here can be newer than what was read above, and never older.
    let text = "select w.run_id, p.fence, p.first_n, p.last_n, p.data \
         from unnest($2::uuid[], $3::text[], $4::bigint[], $5::bigint[]) as w (run_id, user_id, fence, n) \
         join run r on r.tenant = $1 and r.run_id = w.run_id and r.user_id = w.user_id cross join lateral ( \
           select e.fence, e.first_n, e.last_n, e.data, \
             row_number() over page as place, sum(length(e.data)) over page as total \
           from event e where e.tenant = $1 and e.run_id = w.run_id \
             and e.fence >= w.fence and (e.fence > w.fence or e.last_n > w.n) \
           window page as (order by e.fence, e.first_n rows unbounded preceding)) p \
         where p.place = 1 or p.total <= $6 order by w.run_id, p.fence, p.first_n";
    let number = |n: u64| Value::from(i64::try_from(n).unwrap_or(i64::MAX));
    let mut pages = Vec::new();
    for (tenant, runs) in behind {
        let desk = Desk::Postgres(db.reads.clone(), tenant.to_owned());
        let values = vec![
            tenant.into(),
            uuids(runs.iter().map(|(_, run, _)| *run)),
            array(ArrayType::String, runs.iter().map(|(owner, ..)| owner.user.as_str().into()).collect()),
            array(ArrayType::BigInt, runs.iter().map(|(.., after)| number(after.fence)).collect()),
            array(ArrayType::BigInt, runs.iter().map(|(.., after)| number(after.n)).collect()),
            number(limit as u64),
        ];
        pages.push(async move { read::rows(&desk, "event", text, values).await });
    }
    // More would only wait for each other's connections.
    let mut pages = stream::iter(pages).buffer_unordered(READS);
    while let Some(rows) = pages.try_next().await? {
        for row in rows {
            if let Some((_, news)) = found.get_mut(&RunId(row.get("run_id")?)) {
                news.batches.push(row.batch()?);
            }
        }
    }
    Ok(found.into_values().map(|(_, news)| news).collect())
}

pub(in crate::store::sql) async fn counts(db: &Postgres) -> Result<Counts> {
    let text = "select queued, delayed, running, active, dead from count_runs()";
    let Some(row) = rows(&db.wide, "run", text, Vec::new()).await?.into_iter().next() else {
        return Ok(Counts::default());
    };
    row.counts()
}

pub(in crate::store::sql) async fn overdue(
    db: &Postgres,
    kept: Kept,
    age: Duration,
    limit: u32,
) -> Result<Vec<Run>> {
    let text = "select tenant, run_id from overdue_runs($1, $2, $3)";
    let values = vec![keep::number(kept).into(), millis(age), i64::from(limit).into()];
    runs_of(db, rows(&db.wide, "run", text, values).await?).await
}

/// Returns threads whose checkpoints may be old enough to be forgotten.
pub(in crate::store::sql) async fn unswept(
    db: &Postgres,
    age: Duration,
    limit: u32,
) -> Result<Vec<(String, Uuid)>> {
    let text = "select tenant, thread_id from unswept_threads($1, $2)";
    let found = rows(&db.wide, "run", text, vec![millis(age), i64::from(limit).into()]).await?;
    found.iter().map(|row| Ok((row.get("tenant")?, row.get("thread_id")?))).collect()
}

/// Lists runs that were to end when nobody reads them, and that nobody reads.
pub(in crate::store::sql) async fn unread(db: &Postgres, limit: u32) -> Result<Vec<Run>> {
    let text = "select tenant, run_id from unread_runs($1)";
    runs_of(db, rows(&db.wide, "run", text, vec![i64::from(limit).into()]).await?).await
}

/// Takes what is to be told and is due; returns whose it is, its id, and the number of this try.
pub(in crate::store::sql) async fn claim_outbox(
    db: &Postgres,
    lease: Duration,
    limit: u32,
) -> Result<Vec<(String, HookId, u32)>> {
    let text = "select tenant, outbox_id, attempts from claim_outbox($1, $2)";
    let found = rows(&db.wide, "webhook", text, vec![millis(lease), i64::from(limit).into()]).await?;
    let taken =
        |row: &Row| Ok((row.get("tenant")?, HookId(row.get("outbox_id")?), row.number("attempts")? as u32));
    found.iter().map(taken).collect()
}

pub(in crate::store::sql) async fn list_outbox(
    db: &Postgres,
    filter: &HookFilter,
    limit: u32,
) -> Result<Vec<(String, HookId)>> {
    let text = "select tenant, outbox_id from list_outbox($1::text[], $2::text, $3::uuid, $4)";
    let states = filter.states.iter().map(|state| state.name().into()).collect();
    let values = vec![
        array(ArrayType::String, states),
        filter.tenant.as_ref().map(Part::as_str).into(),
        filter.id.map(|id| id.0).into(),
        i64::from(limit).into(),
    ];
    let found = rows(&db.wide, "webhook", text, values).await?;
    found.iter().map(|row| Ok((row.get("tenant")?, HookId(row.get("outbox_id")?)))).collect()
}

pub(in crate::store::sql) async fn count_outbox(db: &Postgres) -> Result<HookCounts> {
    let text = "select queued, delivered, failed from count_outbox()";
    let found = rows(&db.wide, "webhook", text, Vec::new()).await?;
    found.first().map_or_else(|| Ok(HookCounts::default()), Row::hook_counts)
}

pub(in crate::store::sql) async fn forget_outbox(
    db: &Postgres,
    delivered: Duration,
    failed: Duration,
    limit: u32,
) -> Result<u64> {
    let values = vec![millis(delivered), millis(failed), i64::from(limit).into()];
    let text = "select forget_outbox($1, $2, $3) as deleted";
    let found = rows(&db.wide, "webhook", text, values).await?;
    found.first().map_or(Ok(0), |row| row.number("deleted"))
}

pub(in crate::store::sql) async fn version_use(db: &Postgres, hash: &str) -> Result<VersionUse> {
    let text = "select threads, waiting, active, paused from use_of_version($1)";
    match rows(&db.wide, "graph version", text, vec![hash.into()]).await?.first() {
        Some(row) => row.version_use(),
        None => Ok(VersionUse::default()),
    }
}

pub(in crate::store::sql) async fn paused_versions(db: &Postgres) -> Result<BTreeMap<(String, String), u64>> {
    let text = "select graph, hash, paused from paused_versions()";
    let found = rows(&db.wide, "graph version", text, Vec::new()).await?;
    found.iter().map(|row| Ok(((row.get("graph")?, row.get("hash")?), row.number("paused")?))).collect()
}

/// Lists tenants after one of them.
pub(in crate::store::sql) async fn tenants(db: &Postgres, after: &str, limit: u32) -> Result<Vec<String>> {
    let text = "select tenant from list_tenants($1, $2)";
    let found = rows(&db.wide, "tenant", text, vec![after.into(), i64::from(limit).into()]).await?;
    found.iter().map(|row| row.get("tenant")).collect()
}
