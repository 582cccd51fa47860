//! Accepts a run on Postgres.
//!
//! Invariant: a run is stored only by a statement that saw every run that was accepted on its thread before it.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DbBackend, QueryResult, Value};
use uuid::Uuid;

use super::{Lanes, Postgres, contended, is_race, millis};
use crate::id::{CheckpointId, RunId, Seq, ThreadId};
use crate::store::sql::base::{Desk, Tx};
use crate::store::sql::error::{undone, unsure};
use crate::store::sql::room::{AT_WORK, OTHERS_WAIT};
use crate::store::sql::row::Row;
use crate::store::sql::{TRIES, detached, read, sql};
use crate::store::{Accepted, Kept, Keyed, NewRun, OnBusy, Result, Run, RunState, StoreError};

/// The statement looks as of its start, then takes the thread's lock, perhaps after waiting for another accept. The
/// counter tells whether one came between: then nothing more is stored, and the answer is `raced`. The key that the input is
/// sealed under is locked: whoever erases the tenant takes the key first, so he waits and finds the run, or the key is gone.
static ACCEPT: LazyLock<String> = LazyLock::new(|| {
    TEXT.replace("{OTHERS_WAIT}", OTHERS_WAIT)
        .replace("{AT_WORK}", AT_WORK)
        .replace("{NOW}", "now()")
        .replace("{RUN}", "$6")
});
const TEXT: &str = "with sealing as materialized ( \
       select 1 from data_key d where d.tenant = $1 and d.key_id = $23::uuid for key share), \
     old as materialized ( \
       select run_id, body_hash = $16 as same, after_fence, after_n, created_at <= now() - interval '24 hours' as expired from idempotency \
       where tenant = $1 and user_id = $2 and route = $14 and key = $15), \
     seen as materialized ( \
       select t.accepted, t.graph, t.hash, \
         coalesce( \
           (select r.run_id from run r where r.tenant = t.tenant and r.thread_id = t.thread_id \
              and r.state in ('running', 'interrupted')), \
           (select r.run_id from run r where r.tenant = t.tenant and r.thread_id = t.thread_id \
              and r.state = 'queued' and not r.delayed order by r.ord limit 1)) as active, \
         (select count(*) from run r where r.tenant = t.tenant and r.thread_id = t.thread_id \
            and r.state = 'queued' and r.delayed = ($18::bigint is not null)) as waiting, \
         exists (select 1 from run r where r.tenant = t.tenant and r.thread_id = t.thread_id \
            and r.state = 'interrupted' and (r.wake_at is null or r.wake_at > now())) as asks \
       from thread t where t.tenant = $1 and t.user_id = $2 and t.session_id = $3), \
     verdict as materialized ( \
       select s.active, s.graph, s.hash, coalesce(s.accepted, 0) + 1 as turn, case \
         when exists (select 1 from old) then 'known' \
         when $23::uuid is not null and not exists (select 1 from sealing) then 'keyless' \
         when s.graph <> $5 then 'other' \
         when s.asks and $18::bigint is null then 'waits' \
         when s.hash <> $7 and s.hash <> coalesce($17, $7) then 'other' \
         when s.active is null and $18::bigint is null and ($22::bigint is null \
           or (select count(*) from run r where r.tenant = $1 and {AT_WORK}) < $22 and not {OTHERS_WAIT}) \
           then 'running' \
         when s.active is not null and $9 and $18::bigint is null then 'busy' \
         when (s.active is not null or $18::bigint is not null) and s.waiting >= $10 then 'full' \
         when $18::bigint is null and (select count(*) from ( \
           select 1 from run r where r.tenant = $1 and r.state = 'queued' and not r.delayed limit $24) q) >= $24 \
           then 'crowded' \
         else 'queued' end as word \
       from (select 1) always left join seen s on true), \
     held as ( \
       insert into thread (tenant, user_id, session_id, thread_id, graph, hash, accepted) \
       select $1, $2, $3, $4, $5, $7, 1 from verdict where word in ('running', 'queued') \
       on conflict (tenant, user_id, session_id) do update \
         set accepted = thread.accepted + 1, updated_at = now(), \
           hash = case when thread.accepted + 1 = (select turn from verdict) then excluded.hash else thread.hash end \
       returning thread_id, head, accepted), \
     turn as materialized ( \
       select h.thread_id, h.head, v.word from held h join verdict v on v.turn = h.accepted), \
     keyed as ( \
       insert into idempotency (tenant, user_id, route, key, body_hash, run_id) \
       select $1, $2, $14, $15, $16, $6 from turn where $15 is not null), \
     stored as ( \
       insert into run (tenant, run_id, thread_id, user_id, session_id, graph, hash, input, state, fence, owner, boot, \
         lease_until, delayed, available_at, read_until, webhook, min_engine) \
       select $1, $6, t.thread_id, $2, $3, $5, $7, $8, t.word, \
         case when t.word = 'running' then 1 else 0 end, \
         case when t.word = 'running' then $11 end, \
         case when t.word = 'running' then $12::uuid end, \
         case when t.word = 'running' then now() + $13::bigint * interval '1 millisecond' end, \
         $18::bigint is not null, now() + coalesce($18::bigint, 0) * interval '1 millisecond', \
         now() + $19::bigint * interval '1 millisecond', $20::text, $21::bigint \
       from turn t returning created_at, available_at) \
     select case when v.word in ('running', 'queued') and t.thread_id is null then 'raced' else v.word end as word, \
       v.active, v.graph, v.hash, o.run_id as first_run, o.same, o.after_fence, o.after_n, o.expired, t.thread_id, t.head, s.created_at, s.available_at \
     from verdict v left join old o on true left join turn t on true left join stored s on true";

/// What one try came to.
enum Tried {
    Accepted(Box<Accepted>),
    /// The key was used for the same request.
    Known(RunId, Seq),
    /// The key is old: it may be used again once it is gone.
    Expired,
    /// Another accept came between.
    Raced,
    /// The key that the input is sealed under is gone, with the tenant of before.
    Keyless,
}

fn time(of: Option<Duration>) -> Value {
    of.map_or(Value::BigInt(None), millis)
}

fn values(new: &NewRun, sealed: Option<Uuid>) -> Vec<Value> {
    let key = new.idempotency.as_ref();
    vec![
        new.key.owner.tenant.as_str().into(),
        new.key.owner.user.as_str().into(),
        new.key.session.as_str().into(),
        ThreadId::new().0.into(),
        new.graph.as_str().into(),
        new.run.0.into(),
        new.hash.as_str().into(),
        new.input.clone().into(),
        (new.on_busy == OnBusy::Reject).into(),
        i64::from(new.queue_limit).into(),
        new.process.instance.as_str().into(),
        new.process.boot.into(),
        millis(new.process.lease),
        key.map(|key| key.route.as_str()).into(),
        key.map(|key| key.key.as_str()).into(),
        key.map(|key| key.body_hash.as_str()).into(),
        new.from.as_deref().into(),
        time(new.delay),
        time(new.wishes.read_for),
        new.wishes.webhook.as_deref().into(),
        new.wishes.engine().into(),
        new.process.tenant_runs.map(i64::from).into(),
        sealed.into(),
        i64::from(new.process.tenant_queue).into(),
    ]
}

/// Reads the only row of the answer.
fn read_answer(rows: Vec<QueryResult>, new: &NewRun) -> Result<Tried> {
    match rows.into_iter().next() {
        Some(row) => tried(&Row::new(row, DbBackend::Postgres, "run"), new),
        None => Err(StoreError::Corrupt { what: "run", why: "accepting it gave no answer".into() }),
    }
}

fn tried(row: &Row, new: &NewRun) -> Result<Tried> {
    let word: String = row.get("word")?;
    Ok(match word.as_str() {
        "raced" => Tried::Raced,
        "keyless" => Tried::Keyless,
        "known" if row.get("expired")? => Tried::Expired,
        "known" if row.get("same")? => {
            let after = Seq { fence: row.number("after_fence")?, n: row.number("after_n")? };
            Tried::Known(RunId(row.get("first_run")?), after)
        }
        "known" => Tried::Accepted(Box::new(Accepted::Known(Keyed::Other))),
        "busy" => Tried::Accepted(Box::new(Accepted::Busy { active: RunId(row.get("active")?) })),
        "other" => {
            let (graph, hash) = (row.get("graph")?, row.get("hash")?);
            Tried::Accepted(Box::new(Accepted::OtherVersion { graph, hash }))
        }
        "waits" => Tried::Accepted(Box::new(Accepted::Waits)),
        "full" => Tried::Accepted(Box::new(Accepted::QueueFull)),
        "crowded" => Tried::Accepted(Box::new(Accepted::TenantQueueFull)),
        word => {
            let thread = ThreadId(row.get("thread_id")?);
            let times = (row.time("created_at")?, row.time("available_at")?);
            Tried::Accepted(Box::new(if word == "running" {
                let head = row.get::<Option<Uuid>>("head")?.map(CheckpointId);
                Accepted::Claimed { run: stored(new, thread, RunState::Running, times), head }
            } else {
                Accepted::Queued { run: stored(new, thread, RunState::Queued, times) }
            }))
        }
    })
}

/// Returns the new run as it was stored.
fn stored(
    new: &NewRun,
    thread: ThreadId,
    state: RunState,
    (created_at, available_at): (DateTime<Utc>, DateTime<Utc>),
) -> Run {
    Run {
        run: new.run,
        key: new.key.clone(),
        thread,
        graph: new.graph.clone(),
        hash: new.hash.clone(),
        state,
        fence: u64::from(state == RunState::Running),
        step: 0,
        crashes: 0,
        cancel_requested: false,
        rollback: false,
        input: new.input.clone(),
        result: None,
        created_at,
        finished_at: None,
        kept: Kept::All,
        due_at: new.delay.map(|_| available_at),
        needs_reader: new.wishes.read_for.is_some(),
        lost: false,
        webhook: new.wishes.webhook.clone(),
        wake_at: None,
    }
}

/// Tries again behind the thread's lock, so that nobody can come between.
async fn locked(db: &Lanes, new: &NewRun, sealed: Option<Uuid>) -> Result<Tried> {
    const LOCK: &str = "insert into thread (tenant, user_id, session_id, thread_id, graph, hash) \
         values ($1, $2, $3, $4, $5, $6) \
         on conflict (tenant, user_id, session_id) do update set accepted = thread.accepted";
    let mut lock_values = values(new, sealed);
    lock_values.truncate(7);
    // The sixth is the run.
    lock_values.remove(5);
    let tx = Tx::Postgres(db.begin(new.key.owner.tenant.as_str()).await.map_err(|e| undone(&e))?);
    let work = async {
        if let Some(key) = sealed {
            // Before the thread, as without this transaction.
            const KEY: &str = "select 1 from data_key where tenant = $1 and key_id = $2 for key share";
            let tenant = new.key.owner.tenant.as_str();
            tx.query_all_raw(sql(&tx, KEY, vec![tenant.into(), key.into()])).await?;
        }
        tx.execute_raw(sql(&tx, LOCK, lock_values)).await?;
        tx.query_all_raw(sql(&tx, ACCEPT.as_str(), values(new, sealed))).await
    };
    let outcome = match work.await {
        Ok(rows) => read_answer(rows, new),
        Err(error) if is_race(&error) => Ok(Tried::Raced),
        Err(error) => Err(undone(&error)),
    };
    let keep = matches!(&outcome, Ok(Tried::Accepted(accepted))
        if matches!(**accepted, Accepted::Claimed { .. } | Accepted::Queued { .. }));
    if keep {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    outcome
}

/// Forgets a key that is old, or whose run is gone.
async fn forget(desk: &Desk, new: &NewRun, run: Option<RunId>) -> Result<()> {
    let Some(key) = &new.idempotency else { return Ok(()) };
    let text = "delete from idempotency where tenant = $1 and user_id = $2 and route = $3 and key = $4 \
         and (created_at <= now() - interval '24 hours' or run_id = $5)";
    let values = vec![
        new.key.owner.tenant.as_str().into(),
        new.key.owner.user.as_str().into(),
        key.route.as_str().into(),
        key.key.as_str().into(),
        run.map(|run| run.0).into(),
    ];
    desk.execute_raw(sql(desk, text, values)).await.map_err(|e| undone(&e))?;
    Ok(())
}

/// Nothing: the input is `sealed` under a key that is gone.
pub(in crate::store::sql) async fn accept(
    db: &Postgres,
    new: &Arc<NewRun>,
    sealed: Option<Uuid>,
) -> Result<Option<Accepted>> {
    let tenant = new.key.owner.tenant.as_str();
    let desk = Desk::Postgres(db.works.clone(), tenant.to_owned());
    for number in 0..TRIES {
        let tried = if number == 0 {
            match desk.query_all_raw(sql(&desk, ACCEPT.as_str(), values(new, sealed))).await {
                Ok(rows) => read_answer(rows, new)?,
                Err(error) if is_race(&error) => Tried::Raced,
                Err(error) => return Err(unsure(&error)),
            }
        } else {
            let (works, new) = (db.works.clone(), new.clone());
            detached(async move { locked(&works, &new, sealed).await }).await?
        };
        match tried {
            Tried::Accepted(accepted) => return Ok(Some(*accepted)),
            Tried::Known(first, after) => match read::run(&desk, &new.key.owner, first).await? {
                Some(run) => return Ok(Some(Accepted::Known(Keyed::Same { run: Box::new(run), after }))),
                None => forget(&desk, new, Some(first)).await?,
            },
            Tried::Expired => forget(&desk, new, None).await?,
            Tried::Keyless => return Ok(None),
            Tried::Raced => {}
        }
    }
    Err(contended("accepting a run"))
}
