//! Questions to people, results that outlive their process, and runs that go on: the same on both back ends.
//!
//! Invariant: whoever decides by what is said to a run holds the lock of its row; each statement of a transaction sees
//! what was committed before that lock was had.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ConnectionTrait, DbBackend, Value};
use uuid::Uuid;

use super::base::Tx;
use super::error::{is_race, undone};
use super::put::{self, timed, write};
use super::row::{RUN, Row, moment};
use super::{read, room, sql};
use crate::id::{CheckpointId, InterruptId, Owner, Part, RunId, Seq, TaskId, ThreadId, ThreadKey};
use crate::store::{
    Answer, Answering, Claim, Commit, Idempotency, Keyed, OpenQuestion, Process, Result, Resume, Resumed,
    Run, RunState, StoreError, Wishes,
};

/// Questions beside their runs.
const QUESTION: &str = "select i.interrupt_id, i.run_id, i.agent, i.data, i.created_at, i.answered_by, i.answered_at, \
       i.expires_at, {NOW} as now, i.thread_id, r.tenant, r.user_id, r.session_id \
     from interrupt i join run r on r.tenant = i.tenant and r.run_id = i.run_id where i.tenant = $1";
/// The questions that are not over: of runs that are not over, and not closed.
const OPEN: &str = "i.closed_at is null and r.state in ('queued', 'running', 'interrupted')";
/// The questions that can be answered.
const ANSWERABLE: &str = "i.answer is null and (i.expires_at is null or i.expires_at > {NOW})";

fn open(row: &Row) -> Result<OpenQuestion> {
    let answered: Option<String> = row.get("answered_by")?;
    let expired = if answered.is_none() { expired(row)? } else { None };
    Ok(OpenQuestion {
        id: InterruptId(row.get::<String>("interrupt_id")?.into()),
        run: RunId(row.get("run_id")?),
        key: row.key()?,
        thread: ThreadId(row.get("thread_id")?),
        agent: row.get("agent")?,
        data: row.get("data")?,
        created_at: row.time("created_at")?,
        answered: match answered {
            Some(by) => Some((by, row.time("answered_at")?)),
            None => None,
        },
        expired,
    })
}

/// Returns when the time of a question without an answer was over.
fn expired(row: &Row) -> Result<Option<DateTime<Utc>>> {
    let now = row.time("now")?;
    Ok(row.time_or_none("expires_at")?.filter(|at| *at <= now))
}

/// Lists the open questions of a thread.
pub(super) async fn of_thread<C: ConnectionTrait>(db: &C, key: &ThreadKey) -> Result<Vec<OpenQuestion>> {
    let text = format!(
        "{QUESTION} and {OPEN} and {ANSWERABLE} and i.thread_id = ( \
           select t.thread_id from thread t where t.tenant = $1 and t.user_id = $2 and t.session_id = $3) \
         order by i.created_at, i.interrupt_id"
    );
    let Owner { tenant, user } = &key.owner;
    let values = vec![tenant.as_str().into(), user.as_str().into(), key.session.as_str().into()];
    read::rows(db, "question", &timed(db, &text), values).await?.iter().map(open).collect()
}

/// Reads a question that somebody may answer.
pub(super) async fn one<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    agent: bool,
    id: &InterruptId,
) -> Result<Option<OpenQuestion>> {
    let text = format!(
        "{QUESTION} and i.interrupt_id = $2 and (i.answer is not null or i.expires_at <= {{NOW}} or {OPEN}) \
         and (r.user_id = $3 and not i.agent or $4 and i.agent)"
    );
    let values =
        vec![owner.tenant.as_str().into(), (&*id.0).into(), owner.user.as_str().into(), agent.into()];
    read::row(db, "question", &timed(db, &text), values).await?.map(|row| open(&row)).transpose()
}

/// Lists what is asked of agents.
pub(super) async fn for_agents<C: ConnectionTrait>(
    db: &C,
    tenant: &Part,
    after: Option<(DateTime<Utc>, InterruptId)>,
    limit: u32,
) -> Result<Vec<OpenQuestion>> {
    let mut values: Vec<Value> = vec![tenant.as_str().into(), i64::from(limit).into()];
    let mut cursor = "";
    if let Some((created_at, id)) = after {
        values.extend([moment(db.get_database_backend(), created_at), (&*id.0).into()]);
        cursor = "and (i.created_at, i.interrupt_id) > ($3, $4)";
    }
    let text = format!(
        "{QUESTION} and {OPEN} and not i.ended and i.agent and {ANSWERABLE} {cursor} \
         order by i.created_at, i.interrupt_id limit $2"
    );
    read::rows(db, "question", &timed(db, &text), values).await?.iter().map(open).collect()
}

/// Reads the answers to the questions of a run, of those of which this holds.
pub(super) async fn answers<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    run: RunId,
    which: &str,
) -> Result<Vec<(InterruptId, Vec<u8>)>> {
    let text = format!(
        "select i.interrupt_id, i.answer from interrupt i \
         join run r on r.tenant = i.tenant and r.run_id = i.run_id \
         where i.tenant = $1 and i.run_id = $2 and r.user_id = $3 and i.answer is not null {which}"
    );
    let values = vec![owner.tenant.as_str().into(), run.0.into(), owner.user.as_str().into()];
    let rows = read::rows(db, "question", &text, values).await?;
    let answer = |row: &Row| Ok((InterruptId(row.get::<String>("interrupt_id")?.into()), row.get("answer")?));
    rows.iter().map(answer).collect()
}

/// Reads a run of a tenant, and keeps others from it until the transaction ends.
pub(super) async fn locked(tx: &Tx, tenant: &str, run: RunId) -> Result<Option<Run>> {
    let lock = if tx.get_database_backend() == DbBackend::Postgres { " for update" } else { "" };
    let text = format!("select {RUN} from run r where r.tenant = $1 and r.run_id = $2{lock}");
    read::row(tx, "run", &text, vec![tenant.into(), run.0.into()]).await?.map(|row| row.run()).transpose()
}

/// Puts a run that is locked into the queue. Nothing: it is gone.
async fn queue(tx: &Tx, run: &Run) -> Result<Option<Run>> {
    let tenant = run.key.owner.tenant.as_str();
    let text = "update run set state = 'queued', wake_at = null, result = null, finished_at = null, kept = 2, \
           swept = false where tenant = $1 and run_id = $2";
    write(tx, text, vec![tenant.into(), run.run.0.into()]).await?;
    read::run(tx, &run.key.owner, run.run).await
}

/// Makes a process the owner of a run that is locked. Nothing: another run took the thread first, and the transaction is
/// void.
async fn taken(tx: &Tx, run: &Run, process: &Process) -> Result<Option<Claim>> {
    let tenant = run.key.owner.tenant.as_str();
    let now = Utc::now();
    let (lease, backend) = (TimeDelta::from_std(process.lease).ok(), tx.get_database_backend());
    // Leases are the database's time wherever several processes look at one.
    let (until, lease) = if backend == DbBackend::Postgres {
        let millis = i64::try_from(process.lease.as_millis()).unwrap_or(i64::MAX);
        ("now() + $5::bigint * interval '1 millisecond'", Value::from(millis))
    } else {
        let until = lease.and_then(|lease| now.checked_add_signed(lease)).unwrap_or(DateTime::<Utc>::MAX_UTC);
        ("$5", moment(backend, until))
    };
    let text = format!(
        "update run set state = 'running', fence = fence + 1, owner = $3, boot = $4, lease_until = {until}, \
           wake_at = null, result = null, finished_at = null, kept = 2, swept = false where tenant = $1 and run_id = $2"
    );
    let values =
        vec![tenant.into(), run.run.0.into(), process.instance.as_str().into(), process.boot.into(), lease];
    match tx.execute_raw(sql(tx, text, values)).await {
        Err(error) if is_race(&error) => return Ok(None),
        done => done.map_err(|e| undone(&e))?,
    };
    let text = format!(
        "select {RUN}, t.head from run r join thread t on t.tenant = r.tenant and t.thread_id = r.thread_id \
         where r.tenant = $1 and r.run_id = $2"
    );
    let row = read::row(tx, "run", &text, vec![tenant.into(), run.run.0.into()]).await?;
    let gone =
        || StoreError::Corrupt { what: "run", why: format!("{} is gone after it was written", run.run) };
    let row = row.ok_or_else(gone)?;
    let head = row.get::<Option<Uuid>>("head")?.map(CheckpointId);
    Ok(Some(Claim { run: row.run()?, head, crashed: false }))
}

/// Finds what a key was used for.
pub(super) async fn keyed<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    key: &Idempotency,
) -> Result<Option<Keyed>> {
    let text = format!(
        "select {RUN}, k.body_hash = $5 as same, k.after_fence, k.after_n \
         from idempotency k join run r on r.tenant = k.tenant and r.run_id = k.run_id \
         where k.tenant = $1 and k.user_id = $2 and k.route = $3 and k.key = $4 and k.created_at > {{DAY_AGO}}"
    );
    let mut values = place(owner, key);
    values.push(key.body_hash.as_str().into());
    let Some(row) = read::row(db, "idempotency", &timed(db, &text), values).await? else { return Ok(None) };
    if !row.get::<bool>("same")? {
        return Ok(Some(Keyed::Other));
    }
    let after = Seq { fence: row.number("after_fence")?, n: row.number("after_n")? };
    Ok(Some(Keyed::Same { run: Box::new(row.run()?), after }))
}

/// Returns what identifies a key.
fn place(owner: &Owner, key: &Idempotency) -> Vec<Value> {
    let Owner { tenant, user } = owner;
    vec![tenant.as_str().into(), user.as_str().into(), key.route.as_str().into(), key.key.as_str().into()]
}

/// Notes what a key is used for, unless it was used for something before.
pub(super) async fn note(
    tx: &Tx,
    owner: &Owner,
    key: Option<&Idempotency>,
    run: RunId,
    after: Seq,
) -> Result<Option<Keyed>> {
    let Some(key) = key else { return Ok(None) };
    let old = "delete from idempotency where tenant = $1 and user_id = $2 and route = $3 and key = $4 \
         and created_at <= {DAY_AGO}";
    write(tx, &timed(tx, old), place(owner, key)).await?;
    let text = "insert into idempotency (tenant, user_id, route, key, body_hash, run_id, after_fence, after_n) \
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (tenant, user_id, route, key) do nothing";
    let mut values = place(owner, key);
    let number = |n: u64| Value::from(i64::try_from(n).unwrap_or(i64::MAX));
    values.extend([key.body_hash.as_str().into(), run.0.into(), number(after.fence), number(after.n)]);
    if write(tx, text, values).await? > 0 {
        return Ok(None);
    }
    let gone = || StoreError::Unavailable("an idempotency key was taken and is gone".into());
    keyed(tx, owner, key).await?.ok_or_else(gone).map(Some)
}

/// Returns the place of the last event of a run that is stored.
async fn last<C: ConnectionTrait>(db: &C, tenant: &str, run: RunId) -> Result<Seq> {
    let text = "select fence, last_n from event where tenant = $1 and run_id = $2 \
         order by fence desc, first_n desc limit 1";
    match read::row(db, "event", text, vec![tenant.into(), run.0.into()]).await? {
        Some(row) => Ok(Seq { fence: row.number("fence")?, n: row.number("last_n")? }),
        None => Ok(Seq::default()),
    }
}

/// Answers questions of one run, all of them or none.
pub(super) async fn answer(tx: &Tx, answer: Answer) -> Result<Answering> {
    let tenant = answer.owner.tenant.as_str();
    let unknown = || {
        let first = answer.answers.first().map(|(id, _)| id.clone());
        first.unwrap_or_else(|| InterruptId("".into()))
    };
    let active =
        |run: &Run| matches!(run.state, RunState::Queued | RunState::Running | RunState::Interrupted);
    // Who answers nothing is nobody: only a question says whose run it is.
    let Some(run) = locked(tx, tenant, answer.run).await?.filter(|_| !answer.answers.is_empty()) else {
        return Ok(Answering::Unknown(unknown()));
    };
    if let Some(key) = &answer.idempotency
        && let Some(known) = keyed(tx, &answer.owner, key).await?
    {
        return Ok(Answering::Known(known));
    }
    let find = "select agent, answered_by, answered_at, expires_at, {NOW} as now, closed_at is null as open \
         from interrupt where tenant = $1 and interrupt_id = $2 and run_id = $3";
    let find = timed(tx, find);
    for (id, _) in &answer.answers {
        let values = vec![tenant.into(), (&*id.0).into(), run.run.0.into()];
        let row = read::row(tx, "question", &find, values).await?;
        let allowed = match &row {
            None => false,
            Some(row) if row.get("agent")? => answer.agent,
            Some(_) => run.key.owner == answer.owner,
        };
        let Some(row) = row.filter(|_| allowed) else { return Ok(Answering::Unknown(id.clone())) };
        if let Some(by) = row.get::<Option<String>>("answered_by")? {
            return Ok(Answering::Taken { id: id.clone(), by, at: row.time("answered_at")? });
        }
        if let Some(at) = expired(&row)? {
            return Ok(Answering::Expired { id: id.clone(), at });
        }
        if !active(&run) || !row.get::<bool>("open")? {
            return Ok(Answering::Unknown(id.clone()));
        }
    }
    let waits = run.state == RunState::Interrupted;
    let after = if waits { Seq { fence: run.fence, n: u64::MAX } } else { last(tx, tenant, run.run).await? };
    if let Some(known) = note(tx, &answer.owner, answer.idempotency.as_ref(), run.run, after).await? {
        return Ok(Answering::Known(known));
    }
    let put = "update interrupt set answer = $3, answered_by = $4, answered_at = $5 \
         where tenant = $1 and interrupt_id = $2";
    for (id, data) in answer.answers {
        let now = moment(tx.get_database_backend(), Utc::now());
        let values = vec![tenant.into(), (&*id.0).into(), data.into(), answer.by.as_str().into(), now];
        write(tx, put, values).await?;
    }
    if waits {
        begin_with(tx, &run, answer.input, &answer.wishes).await?;
        if !room::has_room(tx, tenant, run.run, &answer.process).await? {
            let run = queue(tx, &run).await?.unwrap_or(run);
            return Ok(Answering::Stored { run, after });
        }
        let claim = taken(tx, &run, &answer.process).await?;
        let claim = claim.ok_or_else(|| StoreError::Unavailable("another run took the thread".into()))?;
        return Ok(Answering::Claimed(claim));
    }
    Ok(Answering::Stored { run, after })
}

/// Replaces what a run goes on with, and what is to come of it.
async fn begin_with(tx: &Tx, run: &Run, input: Option<Vec<u8>>, wishes: &Wishes) -> Result<()> {
    let (until, time) = put::from_now(tx, "$5", wishes.read_for);
    let text = format!(
        "update run set input = coalesce($3, input), webhook = coalesce($4, webhook), read_until = {until}, \
           min_engine = case when min_engine < $6 then $6 else min_engine end \
         where tenant = $1 and run_id = $2"
    );
    let values = vec![
        run.key.owner.tenant.as_str().into(),
        run.run.0.into(),
        input.into(),
        wishes.webhook.as_deref().into(),
        time,
        wishes.engine().into(),
    ];
    write(tx, &text, values).await.map(|_| ())
}

/// Goes on with a run that failed, while it is the newest of its thread, or that waits.
pub(super) async fn resume(tx: &Tx, resume: &Resume) -> Result<Resumed> {
    let Resume { key: ThreadKey { owner, .. }, process, .. } = resume;
    let (tenant, idempotency) = (owner.tenant.as_str(), resume.idempotency.as_ref());
    let run = locked(tx, tenant, resume.run).await?;
    if let Some(key) = idempotency
        && let Some(known) = keyed(tx, owner, key).await?
    {
        return Ok(Resumed::Known(known));
    }
    let rests = |run: &Run| matches!(run.state, RunState::Failed | RunState::Interrupted);
    let Some(run) = run.filter(|run| run.key.owner == *owner && rests(run)) else {
        return Ok(Resumed::Nothing);
    };
    if tx.get_database_backend() == DbBackend::Postgres {
        // Whoever accepts a run has this lock.
        let lock = "select 1 from thread where tenant = $1 and thread_id = $2 for no key update";
        read::row(tx, "thread", lock, vec![tenant.into(), run.thread.0.into()]).await?;
    }
    let text = "select 1 from run r join run x on x.tenant = r.tenant and x.thread_id = r.thread_id \
           and x.ord > r.ord and not x.delayed where r.tenant = $1 and r.run_id = $2 limit 1";
    // Those behind one that waits do so, too.
    let newer = read::row(tx, "run", text, vec![tenant.into(), run.run.0.into()]).await?.is_some();
    if newer && run.state == RunState::Failed {
        return Ok(Resumed::Nothing);
    }
    let after = Seq { fence: run.fence, n: u64::MAX };
    if let Some(known) = note(tx, owner, idempotency, run.run, after).await? {
        return Ok(Resumed::Known(known));
    }
    for text in [
        "update run set crashes = 0, cancel_requested = false, rollback = false where tenant = $1 and run_id = $2",
        "update interrupt set ended = false where tenant = $1 and run_id = $2",
    ] {
        write(tx, text, vec![tenant.into(), run.run.0.into()]).await?;
    }
    begin_with(tx, &run, resume.input.clone(), &resume.wishes).await?;
    if !room::has_room(tx, tenant, run.run, process).await? {
        return Ok(queue(tx, &run).await?.map_or(Resumed::Nothing, |run| Resumed::Queued(Box::new(run))));
    }
    Ok(taken(tx, &run, process).await?.map_or(Resumed::Nothing, |claim| Resumed::Claimed(Box::new(claim))))
}

/// Says whether a run that is to pause has got an answer already. The gate's row must be locked.
pub(super) async fn is_answered<C: ConnectionTrait>(db: &C, commit: &Commit) -> Result<bool> {
    let text = "select interrupt_id from interrupt \
         where tenant = $1 and run_id = $2 and answer is not null and closed_at is null";
    let values = vec![commit.owner.tenant.as_str().into(), commit.run.0.into()];
    let rows = read::rows(db, "question", text, values).await?;
    for row in rows {
        let id: String = row.get("interrupt_id")?;
        if commit.closed.iter().all(|closed| *closed.0 != *id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns up to which superstep a barrier takes away what is pending: a run that failed keeps it, for it may go on.
pub(super) fn forgets(commit: &Commit) -> Option<i64> {
    let stays = matches!(commit.next, Some((RunState::Failed | RunState::Dead, _)));
    commit.pending.filter(|_| !stays).map(|step| i64::try_from(step).unwrap_or(i64::MAX))
}

/// Notes when a run that pauses goes on by itself; never from a breakpoint.
pub(super) async fn wake(tx: &Tx, tenant: &str, run: RunId, stopped: bool) -> Result<()> {
    let text = if stopped {
        "update run set wake_at = null where tenant = $1 and run_id = $2"
    } else {
        "update run set wake_at = (select min(i.expires_at) from interrupt i \
           where i.tenant = $1 and i.run_id = $2 and i.answer is null and i.closed_at is null) \
         where tenant = $1 and run_id = $2"
    };
    write(tx, text, vec![tenant.into(), run.0.into()]).await.map(|_| ())
}

/// Reads what tasks of a superstep came to.
pub(super) async fn pending<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    run: RunId,
    step: u64,
) -> Result<Vec<(TaskId, Vec<u8>)>> {
    let text = "select p.task_id, p.data from pending_write p join run r on r.tenant = p.tenant and r.run_id = p.run_id \
         where p.tenant = $1 and p.run_id = $2 and r.user_id = $3 and p.step = $4 order by p.task_id";
    let values =
        vec![owner.tenant.as_str().into(), run.0.into(), owner.user.as_str().into(), (step as i64).into()];
    let rows = read::rows(db, "pending write", text, values).await?;
    rows.iter().map(|row| Ok((TaskId(row.get::<String>("task_id")?.into()), row.get("data")?))).collect()
}
