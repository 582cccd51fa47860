//! Writes on SQLite, each inside the one writer's transaction.
//!
//! Invariant: what a function reads cannot change before its transaction ends, since nobody else writes.

mod claim;
mod open;
pub(super) mod wide;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{DbBackend, Value};
use uuid::Uuid;

pub(super) use self::claim::claim;
pub(super) use self::open::open;
use super::base::Tx;
use super::put::{self, write};
use super::row::{Row, moment};
use super::{KEY_HOURS, audit, beat, branch, cache, question, read, room, told};
use crate::id::{CheckpointId, Owner, RunId, Seq, ThreadId};
use crate::store::{
    Accepted, Beat, Commit, Committed, EventBatch, Keyed, NewRun, Noted, OnBusy, Process, Result, Run,
    RunState, StoreError,
};

fn at(time: DateTime<Utc>) -> Value {
    moment(DbBackend::Sqlite, time)
}

fn until(lease: Duration) -> Value {
    at(TimeDelta::from_std(lease)
        .ok()
        .and_then(|lease| Utc::now().checked_add_signed(lease))
        .unwrap_or(DateTime::<Utc>::MAX_UTC))
}

async fn read_back(tx: &Tx, owner: &Owner, run: RunId) -> Result<Run> {
    let found = read::run(tx, owner, run).await?;
    found.ok_or_else(|| StoreError::Corrupt {
        what: "run",
        why: format!("{run} is gone after it was written"),
    })
}

/// Nothing: the input is `sealed` under a key that is gone.
pub(super) async fn accept(tx: &Tx, new: NewRun, sealed: Option<Uuid>) -> Result<Option<Accepted>> {
    if let Some(key) = sealed {
        let text = "select 1 from data_key where tenant = $1 and key_id = $2";
        let values = vec![new.key.owner.tenant.as_str().into(), key.into()];
        if read::row(tx, "data key", text, values).await?.is_none() {
            return Ok(None);
        }
    }
    accept_run(tx, new).await.map(Some)
}

async fn accept_run(tx: &Tx, new: NewRun) -> Result<Accepted> {
    let (tenant, user) = (new.key.owner.tenant.as_str(), new.key.owner.user.as_str());
    let now = Utc::now();
    if let Some(key) = &new.idempotency {
        let text = "select run_id, body_hash, after_fence, after_n, created_at from idempotency \
             where tenant = $1 and user_id = $2 and route = $3 and key = $4";
        let identity =
            || vec![tenant.into(), user.into(), key.route.as_str().into(), key.key.as_str().into()];
        if let Some(old) = read::row(tx, "idempotency", text, identity()).await? {
            if now - old.time("created_at")? < TimeDelta::hours(KEY_HOURS) {
                if old.get::<String>("body_hash")? != key.body_hash {
                    return Ok(Accepted::Known(Keyed::Other));
                }
                if let Some(run) = read::run(tx, &new.key.owner, RunId(old.get("run_id")?)).await? {
                    let after = Seq { fence: old.number("after_fence")?, n: old.number("after_n")? };
                    return Ok(Accepted::Known(Keyed::Same { run: Box::new(run), after }));
                }
            }
            let forget =
                "delete from idempotency where tenant = $1 and user_id = $2 and route = $3 and key = $4";
            write(tx, forget, identity()).await?;
        }
    }
    let text = "select thread_id, head, graph, hash from thread where tenant = $1 and user_id = $2 and session_id = $3";
    let identity = vec![tenant.into(), user.into(), new.key.session.as_str().into()];
    let found = read::row(tx, "thread", text, identity).await?;
    let mut other = None;
    if let Some(row) = &found {
        let (graph, hash): (String, String) = (row.get("graph")?, row.get("hash")?);
        if graph != new.graph {
            return Ok(Accepted::OtherVersion { graph, hash });
        }
        if hash != new.hash && new.from.as_ref() != Some(&hash) {
            other = Some(Accepted::OtherVersion { graph, hash });
        }
    }
    let (thread, head) = match &found {
        Some(row) => (ThreadId(row.get("thread_id")?), row.get::<Option<Uuid>>("head")?.map(CheckpointId)),
        None => (ThreadId::new(), None),
    };
    let open = "select run_id, state = 'queued' as waits, \
           state = 'interrupted' and (wake_at is null or wake_at > $3) as asks from run \
         where tenant = $1 and thread_id = $2 and state in ('queued', 'running', 'interrupted') \
           and delayed = $4 order by ord";
    let which = |delayed: bool| vec![tenant.into(), thread.0.into(), at(now), delayed.into()];
    let open = read::rows(tx, "run", open, which(new.delay.is_some())).await?;
    for row in &open {
        if row.get("asks")? {
            return Ok(Accepted::Waits);
        }
    }
    if let Some(other) = other {
        return Ok(other);
    }
    if let Some(first) = open.first() {
        if new.delay.is_none() && new.on_busy == OnBusy::Reject {
            return Ok(Accepted::Busy { active: RunId(first.get("run_id")?) });
        }
        let mut waiting = 0;
        for row in &open {
            waiting += u64::from(row.get::<bool>("waits")?);
        }
        if waiting >= u64::from(new.queue_limit) {
            return Ok(Accepted::QueueFull);
        }
    }
    let begins = open.is_empty() && new.delay.is_none();
    let free = begins && room::has_room(tx, tenant, new.run, &new.process).await?;
    if new.delay.is_none() && !free && room::is_full(tx, tenant, &new.process).await? {
        return Ok(Accepted::TenantQueueFull);
    }
    let upsert = "insert into thread (tenant, user_id, session_id, thread_id, graph, hash, accepted, created_at, updated_at) \
         values ($1, $2, $3, $4, $5, $7, 1, $6, $6) \
         on conflict (tenant, user_id, session_id) do update set accepted = accepted + 1, updated_at = $6, hash = $7";
    let values = vec![
        tenant.into(),
        user.into(),
        new.key.session.as_str().into(),
        thread.0.into(),
        new.graph.as_str().into(),
        at(now),
        new.hash.as_str().into(),
    ];
    write(tx, upsert, values).await?;
    if let Some(key) = &new.idempotency {
        let insert = "insert into idempotency (tenant, user_id, route, key, body_hash, run_id, created_at) \
             values ($1, $2, $3, $4, $5, $6, $7)";
        let values = vec![
            tenant.into(),
            user.into(),
            key.route.as_str().into(),
            key.key.as_str().into(),
            key.body_hash.as_str().into(),
            new.run.0.into(),
            at(now),
        ];
        write(tx, insert, values).await?;
    }
    let insert = "insert into run (tenant, run_id, thread_id, user_id, session_id, ord, graph, hash, input, state, \
           fence, owner, boot, lease_until, available_at, created_at, delayed, read_until, webhook, min_engine) \
         values ($1, $2, $3, $4, $5, (select coalesce(max(ord), 0) + 1 from run), $6, $7, $8, $9, $10, $11, $12, $13, \
           $14, $15, $16, $17, $18, $19)";
    let values = vec![
        tenant.into(),
        new.run.0.into(),
        thread.0.into(),
        user.into(),
        new.key.session.as_str().into(),
        new.graph.into(),
        new.hash.into(),
        new.input.into(),
        (if free { RunState::Running } else { RunState::Queued }).name().into(),
        i64::from(free).into(),
        free.then_some(new.process.instance).into(),
        free.then_some(new.process.boot).into(),
        if free { until(new.process.lease) } else { Value::BigInt(None) },
        new.delay.map_or_else(|| at(now), until),
        at(now),
        new.delay.is_some().into(),
        new.wishes.read_for.map_or(Value::BigInt(None), until),
        new.wishes.webhook.as_deref().into(),
        new.wishes.engine().into(),
    ];
    write(tx, insert, values).await?;
    let run = read_back(tx, &new.key.owner, new.run).await?;
    Ok(if free { Accepted::Claimed { run, head } } else { Accepted::Queued { run } })
}

pub(super) async fn commit(tx: &Tx, mut commit: Commit) -> Result<Committed> {
    let (pauses, forget) =
        (matches!(commit.next, Some((RunState::Interrupted, _))), question::forgets(&commit));
    if pauses {
        let cancel = "select cancel_requested from run where tenant = $1 and run_id = $2";
        let values = vec![commit.owner.tenant.as_str().into(), commit.run.0.into()];
        let cancelled = match read::row(tx, "run", cancel, values).await? {
            Some(row) => row.get("cancel_requested")?,
            None => false,
        };
        if cancelled || !commit.stopped && question::is_answered(tx, &commit).await? {
            commit.next = Some((RunState::Queued, None));
        }
    }
    let tenant = commit.owner.tenant.as_str();
    let next = commit.next.filter(|(state, _)| *state != RunState::Running);
    let goes_on = next.is_none();
    let (state, result) = next.unzip();
    let told = told(state, commit.notice, result.as_ref());
    let terminal = state.is_some_and(|s| !matches!(s, RunState::Queued | RunState::Interrupted));
    let gate = "update run set step = step + 1, crashes = case when $7 = 'dead' then crashes else 0 end, \
           state = coalesce($7, state), \
           result = case when $7 is null then result else $8 end, \
           finished_at = $9, \
           owner = case when $7 is null then owner end, \
           boot = case when $7 is null then boot end, \
           lease_until = $10, \
           read_until = case when $7 = 'interrupted' then null else read_until end \
         where tenant = $1 and run_id = $2 and user_id = $3 and thread_id = $4 and fence = $5 and step = $6 \
           and state = 'running' \
         returning cancel_requested";
    let values = vec![
        tenant.into(),
        commit.run.0.into(),
        commit.owner.user.as_str().into(),
        commit.thread.0.into(),
        (commit.fence as i64).into(),
        (commit.step as i64).into(),
        state.map(RunState::name).into(),
        result.flatten().into(),
        if terminal { at(Utc::now()) } else { Value::BigInt(None) },
        if goes_on { until(commit.lease) } else { Value::BigInt(None) },
    ];
    let Some(gate) = read::row(tx, "run", gate, values).await? else { return Ok(Committed::Lost) };
    let head: Option<Uuid> = commit.checkpoints.last().map(|c| c.checkpoint.0);
    for c in commit.checkpoints {
        put::checkpoint(tx, tenant, commit.thread, c).await?;
    }
    let kept = match commit.appended {
        None => true,
        Some((first, last)) => {
            let text = "select 1 from event where tenant = $1 and run_id = $2 and fence = $3 and first_n = $4 and last_n >= $5";
            let numbers = [commit.fence, first, last].map(|n| (n as i64).into());
            let values = [tenant.into(), commit.run.0.into()].into_iter().chain(numbers).collect();
            read::row(tx, "event", text, values).await?.is_some()
        }
    };
    if let Some(batch) = commit.events {
        put::events(tx, tenant, commit.run, batch).await?;
    }
    let moved =
        "update thread set head = coalesce($3, head), updated_at = $4 where tenant = $1 and thread_id = $2";
    write(tx, moved, vec![tenant.into(), commit.thread.0.into(), head.into(), at(Utc::now())]).await?;
    put::questions(tx, tenant, (commit.thread, commit.run), commit.questions).await?;
    let close = "update interrupt set closed_at = $4 where tenant = $1 and interrupt_id = $2 and run_id = $3";
    for id in commit.closed {
        write(tx, close, vec![tenant.into(), (&*id.0).into(), commit.run.0.into(), at(Utc::now())]).await?;
    }
    cache::put(tx, tenant, commit.thread, commit.cached).await?;
    if let Some(step) = forget {
        let settle = "delete from pending_write where tenant = $1 and run_id = $2 and step <= $3";
        write(tx, settle, vec![tenant.into(), commit.run.0.into(), step.into()]).await?;
    }
    if terminal {
        leave(tx, tenant, commit.run).await?;
    }
    if state == Some(RunState::RolledBack) {
        branch::move_back(tx, tenant, commit.thread, commit.run).await?;
    }
    if pauses {
        question::wake(tx, tenant, commit.run, commit.stopped).await?;
    }
    if let Some(told) = told {
        put::hook(tx, tenant, commit.run, &told).await?;
    }
    Ok(Committed::Done { cancel_requested: gate.get("cancel_requested")?, kept })
}

/// Lets the questions of a run be over with it.
async fn leave(tx: &Tx, tenant: &str, run: RunId) -> Result<()> {
    let text = "update interrupt set ended = true where tenant = $1 and run_id = $2 and closed_at is null";
    write(tx, text, vec![tenant.into(), run.0.into()]).await.map(|_| ())
}

pub(super) async fn append_events(tx: &Tx, batches: Vec<(Owner, RunId, EventBatch)>) -> Result<()> {
    for (owner, run, batch) in batches {
        let text = "select 1 from run where tenant = $1 and run_id = $2 and user_id = $3 and fence = $4";
        let values = vec![
            owner.tenant.as_str().into(),
            run.0.into(),
            owner.user.as_str().into(),
            (batch.fence as i64).into(),
        ];
        if read::row(tx, "run", text, values).await?.is_some() {
            put::events(tx, owner.tenant.as_str(), run, batch).await?;
        }
    }
    Ok(())
}

pub(super) async fn heartbeat(tx: &Tx, process: &Process, live: &[RunId]) -> Result<Beat> {
    let renew = "update run set lease_until = $3 where state = 'running' and owner = $1 and boot = $2 and run_id = $4";
    for run in live {
        let mine =
            vec![process.instance.as_str().into(), process.boot.into(), until(process.lease), run.0.into()];
        write(tx, renew, mine).await?;
    }
    let text = "select run_id, cancel_requested from run where state = 'running' and owner = $1 and boot = $2 \
         order by ord";
    let mine = vec![process.instance.as_str().into(), process.boot.into()];
    let rows = read::rows(tx, "run", text, mine).await?;
    let row = |row: &Row| Ok((row.get("run_id").map(RunId)?, row.get("cancel_requested")?));
    let mut owned: Vec<(RunId, bool)> = rows.iter().map(row).collect::<Result<_>>()?;
    owned.retain(|(run, _)| live.contains(run));
    Ok(beat(live, owned))
}

pub(super) async fn request_cancel(
    tx: &Tx,
    owner: &Owner,
    run: RunId,
    (result, events): (Vec<u8>, EventBatch),
    note: &Noted,
) -> Result<Option<Run>> {
    let Some(found) = read::run(tx, owner, run).await? else { return Ok(None) };
    let tenant = owner.tenant.as_str();
    match found.state {
        _ if branch::waits(&found) => {
            branch::end_waiting(tx, &found, RunState::Cancelled, (&result, &events)).await?;
        }
        RunState::Running => {
            let text = "update run set cancel_requested = true where tenant = $1 and run_id = $2";
            write(tx, text, vec![tenant.into(), run.0.into()]).await?;
        }
        _ => return Ok(Some(found)),
    }
    if !found.cancel_requested {
        audit::note(tx, note).await?;
    }
    read::run(tx, owner, run).await
}

/// Stores what a task came to, while the fence holds.
pub(super) async fn put_pending(tx: &Tx, values: Vec<Value>) -> Result<bool> {
    let gate = "select 1 from run where tenant = $1 and run_id = $2 and user_id = $3 and fence = $4 and state = 'running'";
    if read::row(tx, "run", gate, values[..4].to_vec()).await?.is_none() {
        return Ok(false);
    }
    let put = "insert into pending_write (tenant, run_id, step, task_id, data) values ($1, $2, $5, $6, $7) \
         on conflict (tenant, run_id, step, task_id) do nothing";
    write(tx, put, values).await.map(|_| true)
}
