//! Writes a barrier on Postgres: one statement, also with questions and with what is not pending any more.
//!
//! Invariant: only a run that pauses takes a transaction, since it must not wait for what was said to it before, and one that
//! is rolled back, since it looks for where its thread was.

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, QueryResult, Value};
use uuid::Uuid;

use super::{Lanes, Postgres, array, millis, query};
use crate::store::sql::base::Tx;
use crate::store::sql::error::{undone, unsure};
use crate::store::sql::{branch, detached, question, read, sql, told};
use crate::store::{CacheEntry, Commit, Committed, EventBatch, Question, Result, RunState};

const COMMIT: &str = "with gate as ( \
       update run set step = step + 1, crashes = case when $7 = 'dead' then crashes else 0 end, \
         state = coalesce($7, state), \
         result = case when $7 is null then result else $8 end, \
         finished_at = case when $9 then now() end, \
         owner = case when $7 is null then owner end, \
         boot = case when $7 is null then boot end, \
         lease_until = case when $7 is null then now() + $10::bigint * interval '1 millisecond' end, \
         read_until = case when $7 = 'interrupted' then null else read_until end \
       where tenant = $1 and run_id = $2 and user_id = $3 and thread_id = $4 and fence = $5 and step = $6 \
         and state = 'running' \
       returning cancel_requested, webhook), \
     head as ( \
       update thread set head = coalesce($11, head), updated_at = now() from gate \
       where tenant = $1 and thread_id = $4), \
     news as ( \
       insert into event (tenant, run_id, fence, first_n, last_n, data) \
       select $1, $2, $12, $13, $14, $15 from gate where $15 is not null \
       on conflict (tenant, run_id, fence, first_n) do update set last_n = excluded.last_n, data = excluded.data \
       where event.last_n < excluded.last_n)";

/// The types of a checkpoint, which a bare `values` list does not infer.
const CHECKPOINT: [&str; 9] =
    ["uuid", "uuid", "uuid", "bigint", "text", "bytea", "bytea", "bytea", "timestamptz"];

pub(in crate::store::sql) async fn commit(db: &Postgres, commit: Commit) -> Result<Committed> {
    let works = db.works.clone();
    match commit.next {
        Some((RunState::Interrupted, _)) => {
            return detached(async move { pause(&works, commit).await }).await;
        }
        Some((RunState::RolledBack, _)) => {
            return detached(async move { roll_back(&works, commit).await }).await;
        }
        _ => {}
    }
    let tenant = commit.owner.tenant.clone();
    let (text, values) = barrier(commit);
    let rows = query(&db.works, Some(tenant.as_str()), &text, values).await.map_err(|e| unsure(&e))?;
    committed(&rows)
}

/// Writes the barrier of a run that pauses. Its row is locked first: what was said to it before is seen, and what comes
/// later finds the barrier.
async fn pause(db: &Lanes, mut commit: Commit) -> Result<Committed> {
    let (tenant, run) = (commit.owner.tenant.clone(), commit.run);
    let tx = Tx::Postgres(db.begin(tenant.as_str()).await.map_err(|e| undone(&e))?);
    let lock = "select cancel_requested from run where tenant = $1 and run_id = $2 and fence = $3 for update";
    let values = vec![tenant.as_str().into(), run.0.into(), (commit.fence as i64).into()];
    let Some(row) = read::row(&tx, "run", lock, values).await? else {
        tx.rollback().await?;
        return Ok(Committed::Lost);
    };
    let stopped = commit.stopped;
    if row.get("cancel_requested")? || !stopped && question::is_answered(&tx, &commit).await? {
        commit.next = Some((RunState::Queued, None));
    }
    let (text, values) = barrier(commit);
    let rows = tx.query_all_raw(sql(&tx, text, values)).await.map_err(|e| undone(&e))?;
    let outcome = committed(&rows)?;
    if outcome == Committed::Lost {
        tx.rollback().await?;
        return Ok(outcome);
    }
    question::wake(&tx, tenant.as_str(), run, stopped).await?;
    tx.commit().await?;
    Ok(outcome)
}

/// Writes the end of a run that takes back what it did to its thread.
async fn roll_back(db: &Lanes, commit: Commit) -> Result<Committed> {
    let (tenant, thread, run) = (commit.owner.tenant.clone(), commit.thread, commit.run);
    let tx = Tx::Postgres(db.begin(tenant.as_str()).await.map_err(|e| undone(&e))?);
    let (text, values) = barrier(commit);
    let rows = tx.query_all_raw(sql(&tx, text, values)).await.map_err(|e| undone(&e))?;
    let outcome = committed(&rows)?;
    if outcome == Committed::Lost {
        tx.rollback().await?;
        return Ok(outcome);
    }
    branch::move_back(&tx, tenant.as_str(), thread, run).await?;
    tx.commit().await?;
    Ok(outcome)
}

/// Makes the statement of a barrier.
fn barrier(commit: Commit) -> (String, Vec<Value>) {
    let forget = question::forgets(&commit);
    let next = commit.next.filter(|(state, _)| *state != RunState::Running);
    let (state, result) = next.unzip();
    let told = told(state, commit.notice, result.as_ref());
    let terminal = state.is_some_and(|s| !matches!(s, RunState::Queued | RunState::Interrupted));
    let events = commit.events.as_ref();
    let number = |of: fn(&EventBatch) -> u64| Value::BigInt(events.map(|batch| of(batch) as i64));
    let mut values: Vec<Value> = vec![
        commit.owner.tenant.as_str().into(),
        commit.run.0.into(),
        commit.owner.user.as_str().into(),
        commit.thread.0.into(),
        (commit.fence as i64).into(),
        (commit.step as i64).into(),
        state.map(RunState::name).into(),
        result.flatten().into(),
        terminal.into(),
        millis(commit.lease),
        commit.checkpoints.last().map(|c| c.checkpoint.0).into(),
        number(|batch| batch.fence),
        number(|batch| batch.first),
        number(|batch| batch.last),
        commit.events.map(|batch| batch.data).into(),
    ];
    let mut text = COMMIT.to_owned();
    let rows = |values: &[Value], count: usize, sorts: &[&str]| {
        let row = |row: usize| {
            let first = values.len() + 1 + row * sorts.len();
            let cells = sorts.iter().enumerate().map(|(i, sort)| format!("${}::{sort}", first + i));
            format!("({})", cells.collect::<Vec<_>>().join(", "))
        };
        (0..count).map(row).collect::<Vec<_>>().join(", ")
    };
    if !commit.checkpoints.is_empty() {
        text.push_str(
            ", line as ( \
               insert into checkpoint (tenant, thread_id, checkpoint_id, parent, run_id, step, source, delta, \
                 snapshot, frontier, created_at) \
               select $1, $4, c.* from gate, (values ",
        );
        text.push_str(&rows(&values, commit.checkpoints.len(), &CHECKPOINT));
        text.push_str(") c)");
        for c in commit.checkpoints {
            values.extend([
                c.checkpoint.0.into(),
                c.parent.map(|id| id.0).into(),
                c.run.map(|id| id.0).into(),
                (c.step as i64).into(),
                c.source.into(),
                c.delta.into(),
                c.snapshot.into(),
                c.frontier.into(),
                c.created_at.into(),
            ]);
        }
    }
    if !commit.questions.is_empty() {
        // A statement takes 65 535 values, and a list may put more questions: a column is one value. They are a microsecond
        // apart, so that they are listed as they were put.
        let first = values.len() + 1;
        text.push_str(&format!(
            ", asked as ( \
               insert into interrupt (tenant, thread_id, run_id, interrupt_id, agent, data, expires_at, created_at, ended) \
               select $1, $4, $2, q.id, q.agent <> 0, q.data, 'epoch'::timestamptz + q.expires * interval '1 microsecond', \
                 now() + (q.place - 1) * interval '1 microsecond', $9 \
               from gate, unnest(${}::text[], ${}::bigint[], ${}::bytea[], ${}::bigint[]) \
                 with ordinality as q (id, agent, data, expires, place) \
               on conflict (tenant, interrupt_id) do nothing)",
            first,
            first + 1,
            first + 2,
            first + 3,
        ));
        let mut columns: [Vec<Value>; 4] = Default::default();
        for Question { id, agent, data, expires_at } in commit.questions {
            columns[0].push((&*id.0).into());
            columns[1].push(i64::from(agent).into());
            columns[2].push(data.into());
            columns[3].push(expires_at.map(|at| at.timestamp_micros()).into());
        }
        let sorts = [ArrayType::String, ArrayType::BigInt, ArrayType::Bytes, ArrayType::BigInt];
        values.extend(sorts.into_iter().zip(columns).map(|(sort, column)| array(sort, column)));
    }
    if !commit.cached.is_empty() {
        // Columns, as above. Sorted, so that two barriers with the same keys do not wait for each other.
        let first = values.len() + 1;
        text.push_str(&format!(
            ", kept as ( \
               insert into cache (tenant, thread_id, key, data, expires_at) \
               select $1, $4, c.key, c.data, now() + c.ttl * interval '1 millisecond' \
               from gate, unnest(${}::text[], ${}::bytea[], ${}::bigint[]) as c (key, data, ttl) order by c.key \
               on conflict (tenant, key) do update set thread_id = excluded.thread_id, data = excluded.data, \
                 expires_at = excluded.expires_at)",
            first,
            first + 1,
            first + 2,
        ));
        let mut columns: [Vec<Value>; 3] = Default::default();
        for CacheEntry { key, data, ttl } in commit.cached {
            columns[0].push((&*key.0).into());
            columns[1].push(data.into());
            columns[2].push(millis(ttl));
        }
        let sorts = [ArrayType::String, ArrayType::Bytes, ArrayType::BigInt];
        values.extend(sorts.into_iter().zip(columns).map(|(sort, column)| array(sort, column)));
    }
    if terminal || !commit.closed.is_empty() {
        let ids = commit.closed.iter().map(|id| (&*id.0).into()).collect();
        values.push(array(ArrayType::String, ids));
        // A statement may touch a row once.
        text.push_str(&format!(
            ", over as ( \
               update interrupt i set ended = $9, \
                 closed_at = case when i.interrupt_id = any(${0}::text[]) then now() else i.closed_at end from gate \
               where i.tenant = $1 and i.run_id = $2 and i.closed_at is null \
                 and ($9 or i.interrupt_id = any(${0}::text[])))",
            values.len()
        ));
    }
    if let Some(step) = forget {
        values.push(step.into());
        text.push_str(&format!(
            ", settled as ( \
               delete from pending_write p using gate \
               where p.tenant = $1 and p.run_id = $2 and p.step <= ${}::bigint)",
            values.len()
        ));
    }
    if let Some(told) = told {
        text.push_str(&format!(
            ", hook as ( \
               insert into outbox (tenant, outbox_id, run_id, target, data) \
               select $1, ${}::uuid, $2, webhook, ${}::bytea from gate where webhook is not null)",
            values.len() + 1,
            values.len() + 2,
        ));
        values.extend([Uuid::now_v7().into(), told.into()]);
    }
    // As of the start of the statement: what this barrier stores does not count.
    text.push_str(" select cancel_requested, ");
    match commit.appended {
        None => text.push_str("true"),
        Some((first, last)) => {
            text.push_str(&format!(
                "exists (select from event where tenant = $1 and run_id = $2 and fence = $5 \
                   and first_n = ${}::bigint and last_n >= ${}::bigint)",
                values.len() + 1,
                values.len() + 2,
            ));
            values.extend([first, last].map(|n| Value::from(n as i64)));
        }
    }
    text.push_str(" as kept from gate");
    (text, values)
}

fn committed(rows: &[QueryResult]) -> Result<Committed> {
    match rows.first() {
        None => Ok(Committed::Lost),
        Some(row) => {
            let said = |name| row.try_get("", name).map_err(|e| undone(&e));
            Ok(Committed::Done { cancel_requested: said("cancel_requested")?, kept: said("kept")? })
        }
    }
}
