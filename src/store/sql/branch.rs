//! Runs that begin from outside, the same on both back ends.
//!
//! Invariant: locks are taken in the order of a commit, the run that waits before its thread; the thread's lock keeps new
//! runs away, and what is read behind it decides.

use sea_orm::{ConnectionTrait, DbBackend, Value};
use uuid::Uuid;

use super::base::Tx;
use super::error::{is_race, undone};
use super::put::{self, timed, write};
use super::question;
use super::row::RUN;
use super::{audit, read, sql};
use crate::id::{CheckpointId, Owner, RunId, Seq, ThreadId};
use crate::store::{Branch, Branched, EventBatch, Noted, Origin, Result, Run, RunState, StoreError};

/// Stores a run from outside. The transaction is worth keeping only when it was done.
pub(super) async fn branch(tx: &Tx, branch: Branch) -> Result<Branched> {
    if let Some(known) = known(tx, &branch).await? {
        return Ok(known);
    }
    let thread = match &branch.origin {
        Origin::Head { head, result, events } => at_head(tx, &branch, *head, (result, events)).await?,
        Origin::Thread(source) => new_thread(tx, &branch, *source).await?,
    };
    let thread = match thread {
        Ok(thread) => thread,
        Err(refused) => return Ok(refused),
    };
    if !insert_run(tx, &branch, thread).await? {
        // Somebody else's run took the thread.
        return Ok(Branched::Moved);
    }
    let owner = &branch.key.owner;
    let key = branch.idempotency.as_ref();
    if let Some(known) = question::note(tx, owner, key, branch.run, Seq::default()).await? {
        return Ok(Branched::Known(known));
    }
    let (tenant, run) = (owner.tenant.as_str(), branch.run);
    let moved = "update thread set head = $3, hash = $4, accepted = accepted + 1, updated_at = {NOW} \
         where tenant = $1 and thread_id = $2";
    let values = vec![
        tenant.into(),
        thread.0.into(),
        branch.checkpoint.checkpoint.0.into(),
        branch.hash.as_str().into(),
    ];
    write(tx, &timed(tx, moved), values).await?;
    put::checkpoint(tx, tenant, thread, branch.checkpoint.clone()).await?;
    put::events(tx, tenant, run, branch.events.clone()).await?;
    put::questions(tx, tenant, (thread, run), branch.questions.clone()).await?;
    if branch.state == RunState::Interrupted {
        question::wake(tx, tenant, run, branch.stopped).await?;
    }
    let gone = || StoreError::Corrupt { what: "run", why: format!("{run} is gone after it was written") };
    let stored = read::run(tx, owner, run).await?.ok_or_else(gone)?;
    Ok(Branched::Done(Box::new(stored)))
}

async fn known(tx: &Tx, branch: &Branch) -> Result<Option<Branched>> {
    let Some(key) = &branch.idempotency else { return Ok(None) };
    Ok(question::keyed(tx, &branch.key.owner, key).await?.map(Branched::Known))
}

fn lock(tx: &Tx, strength: &'static str) -> &'static str {
    if tx.get_database_backend() == DbBackend::Postgres { strength } else { "" }
}

/// Takes the thread of an update, and ends the run that waits on it.
async fn at_head(
    tx: &Tx,
    branch: &Branch,
    head: Option<CheckpointId>,
    end: (&[u8], &EventBatch),
) -> Result<std::result::Result<ThreadId, Branched>> {
    let owner = &branch.key.owner;
    let identity = || -> Vec<Value> {
        vec![owner.tenant.as_str().into(), owner.user.as_str().into(), branch.key.session.as_str().into()]
    };
    let text = format!(
        "select {RUN} from run r join thread t on t.tenant = r.tenant and t.thread_id = r.thread_id \
         where t.tenant = $1 and t.user_id = $2 and t.session_id = $3 and r.state = 'interrupted'{}",
        lock(tx, " for update of r")
    );
    let waiting = read::row(tx, "run", &text, identity()).await?.map(|row| row.run()).transpose()?;
    let text = format!(
        "select thread_id, head from thread where tenant = $1 and user_id = $2 and session_id = $3{}",
        lock(tx, " for no key update")
    );
    let Some(row) = read::row(tx, "thread", &text, identity()).await? else { return Ok(Err(Branched::Gone)) };
    let thread = ThreadId(row.get("thread_id")?);
    let at = row.get::<Option<Uuid>>("head")?.map(CheckpointId);
    let open = "select run_id, state = 'interrupted' as waits from run where tenant = $1 and thread_id = $2 \
         and state in ('queued', 'running', 'interrupted') and not delayed order by ord";
    let values = vec![owner.tenant.as_str().into(), thread.0.into()];
    for row in read::rows(tx, "run", open, values).await? {
        let run = RunId(row.get("run_id")?);
        if waiting.as_ref().is_none_or(|waiting| waiting.run != run) {
            // One that waits since it was looked for is the work of another branch.
            let moved = row.get::<bool>("waits")?;
            return Ok(Err(if moved { Branched::Moved } else { Branched::Busy(run) }));
        }
    }
    if at != head || thread != branch.thread {
        return Ok(Err(Branched::Moved));
    }
    if let Some(run) = waiting {
        end_waiting(tx, &run, RunState::Cancelled, end).await?;
    }
    Ok(Ok(thread))
}

/// Says whether nobody works on a run who could end it.
pub(super) fn waits(run: &Run) -> bool {
    matches!(run.state, RunState::Queued | RunState::Interrupted) || run.lost
}

/// Ends a run that waits for its turn, for a person or for an owner, and is locked.
pub(super) async fn end_waiting(
    tx: &Tx,
    run: &Run,
    state: RunState,
    (result, events): (&[u8], &EventBatch),
) -> Result<()> {
    let tenant = run.key.owner.tenant.as_str();
    let identity = || -> Vec<Value> { vec![tenant.into(), run.run.0.into()] };
    // The end of a run that had an owner sorts after all that the owner sent.
    let fence = run.fence + u64::from(run.fence > 0);
    let text = "update run set state = $3, cancel_requested = true, fence = $4, result = $5, finished_at = {NOW}, \
           owner = null, boot = null, lease_until = null where tenant = $1 and run_id = $2";
    let mut values = identity();
    values.extend([state.name().into(), (fence as i64).into(), result.to_vec().into()]);
    write(tx, &timed(tx, text), values).await?;
    put::events(tx, tenant, run.run, EventBatch { fence, ..events.clone() }).await?;
    for text in [
        "delete from pending_write where tenant = $1 and run_id = $2",
        "update interrupt set ended = true where tenant = $1 and run_id = $2 and closed_at is null",
    ] {
        write(tx, text, identity()).await?;
    }
    put::hook(tx, tenant, run.run, result).await
}

/// Asks for the end of a run, with which the head of its thread moves back.
pub(super) async fn roll_back(
    tx: &Tx,
    owner: &Owner,
    run: RunId,
    end: (&[u8], &EventBatch),
    note: &Noted,
) -> Result<Option<Run>> {
    let tenant = owner.tenant.as_str();
    let found = question::locked(tx, tenant, run).await?;
    let Some(found) = found.filter(|found| found.key.owner == *owner) else { return Ok(None) };
    match found.state {
        _ if waits(&found) => {
            end_waiting(tx, &found, RunState::RolledBack, end).await?;
            move_back(tx, tenant, found.thread, run).await?;
        }
        RunState::Running => {
            let text =
                "update run set cancel_requested = true, rollback = true where tenant = $1 and run_id = $2";
            write(tx, text, vec![tenant.into(), run.0.into()]).await?;
        }
        _ => return Ok(Some(found)),
    }
    if !found.cancel_requested {
        audit::note(tx, note).await?;
    }
    read::run(tx, owner, run).await
}

/// Moves the head of a thread back to before a run; of an update or a fork, to what it went on from. A run without a
/// checkpoint moved nothing.
pub(super) async fn move_back<C: ConnectionTrait>(
    db: &C,
    tenant: &str,
    thread: ThreadId,
    run: RunId,
) -> Result<()> {
    let first = "select c.checkpoint_id, c.parent, c.source from checkpoint c \
         where c.tenant = $1 and c.thread_id = $2 and c.run_id = $3 and not exists ( \
           select 1 from checkpoint p where p.tenant = $1 and p.thread_id = $2 and p.checkpoint_id = c.parent \
             and p.run_id = $3) limit 1";
    let identity = || -> Vec<Value> { vec![tenant.into(), thread.0.into()] };
    let mut values = identity();
    values.push(run.0.into());
    let Some(row) = read::row(db, "checkpoint", first, values).await? else { return Ok(()) };
    let outside = matches!(row.get::<String>("source")?.as_str(), "fork" | "update");
    let head: Option<Uuid> =
        if outside { Some(row.get("checkpoint_id")?) } else { row.get::<Option<Uuid>>("parent")? };
    let text = "update thread set head = $3, updated_at = {NOW} where tenant = $1 and thread_id = $2";
    let mut values = identity();
    values.push(head.into());
    write(db, &timed(db, text), values).await.map(|_| ())
}

/// Makes the thread of a fork, while that which it comes from is there.
async fn new_thread(
    tx: &Tx,
    branch: &Branch,
    source: ThreadId,
) -> Result<std::result::Result<ThreadId, Branched>> {
    let owner = &branch.key.owner;
    let (tenant, user) = (owner.tenant.as_str(), owner.user.as_str());
    // So weak that the runs of the thread pass by; whoever deletes it waits, or was first.
    let text = format!(
        "select 1 from thread where tenant = $1 and user_id = $2 and thread_id = $3{}",
        lock(tx, " for key share")
    );
    let values = vec![tenant.into(), user.into(), source.0.into()];
    if read::row(tx, "thread", &text, values).await?.is_none() {
        return Ok(Err(Branched::Gone));
    }
    let thread = branch.thread;
    let insert = "insert into thread (tenant, user_id, session_id, thread_id, graph, hash, created_at, updated_at) \
         values ($1, $2, $3, $4, $5, $6, {NOW}, {NOW}) on conflict (tenant, user_id, session_id) do nothing";
    let values = vec![
        tenant.into(),
        user.into(),
        branch.key.session.as_str().into(),
        thread.0.into(),
        branch.graph.as_str().into(),
        branch.hash.as_str().into(),
    ];
    if write(tx, &timed(tx, insert), values).await? == 0 {
        // A request with the same key may have made it meanwhile.
        return Ok(Err(known(tx, branch).await?.unwrap_or(Branched::Exists)));
    }
    Ok(Ok(thread))
}

/// Stores the run; false when another one holds the thread.
async fn insert_run(tx: &Tx, branch: &Branch, thread: ThreadId) -> Result<bool> {
    let owner = &branch.key.owner;
    let ord = match tx.get_database_backend() {
        DbBackend::Postgres => ("", ""),
        _ => ("ord, ", "(select coalesce(max(ord), 0) + 1 from run), "),
    };
    let text = format!(
        "insert into run ({}tenant, run_id, thread_id, user_id, session_id, graph, hash, input, state, result, fence, step, \
           finished_at, available_at, created_at) \
         values ({}$1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 1, 1, case when $9 = 'interrupted' then null else {{NOW}} end, \
           {{NOW}}, {{NOW}})",
        ord.0, ord.1
    );
    let values = vec![
        owner.tenant.as_str().into(),
        branch.run.0.into(),
        thread.0.into(),
        owner.user.as_str().into(),
        branch.key.session.as_str().into(),
        branch.graph.as_str().into(),
        branch.hash.as_str().into(),
        branch.input.clone().into(),
        branch.state.name().into(),
        branch.result.clone().into(),
    ];
    match tx.execute_raw(sql(tx, timed(tx, &text), values)).await {
        Err(error) if is_race(&error) => Ok(false),
        done => done.map(|_| true).map_err(|e| undone(&e)),
    }
}
