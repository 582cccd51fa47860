//! Reads, the same on both back ends.
//!
//! Invariant: every read names the tenant and the user, so what belongs to somebody else does not exist. Only what
//! belongs to the deployment is for nobody in particular.

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Value};

use super::entity::graph_version;
use super::error::undone;
use super::row::{RUN, Row, moment};
use super::sql;
use crate::id::{CheckpointId, Owner, RunId, Seq, ThreadId, ThreadKey};
use crate::store::{Checkpoint, EventBatch, GraphVersion, Result, Run, StoreError, Thread};

/// The tenant of what belongs to the deployment; nobody can have this name.
pub(super) const DEPLOYMENT: &str = "*";

/// Reads rows.
pub(super) async fn rows<C: ConnectionTrait>(
    db: &C,
    what: &'static str,
    text: &str,
    values: Vec<Value>,
) -> Result<Vec<Row>> {
    let rows = db.query_all_raw(sql(db, text, values)).await.map_err(|e| undone(&e))?;
    let backend = db.get_database_backend();
    Ok(rows.into_iter().map(|row| Row::new(row, backend, what)).collect())
}

/// Reads at most one row.
pub(super) async fn row<C: ConnectionTrait>(
    db: &C,
    what: &'static str,
    text: &str,
    values: Vec<Value>,
) -> Result<Option<Row>> {
    Ok(rows(db, what, text, values).await?.into_iter().next())
}

pub(super) async fn graph_version<C: ConnectionTrait>(db: &C, hash: &str) -> Result<Option<GraphVersion>> {
    let key = (DEPLOYMENT.to_owned(), hash.to_owned());
    let found = graph_version::Entity::find_by_id(key).one(db).await.map_err(|e| undone(&e))?;
    Ok(found.map(|row| GraphVersion { graph: row.graph, hash: row.hash, body: row.body }))
}

pub(super) async fn hashes<C: ConnectionTrait>(db: &C, beginning: &str, limit: u32) -> Result<Vec<String>> {
    graph_version::Entity::find()
        .select_only()
        .column(graph_version::Column::Hash)
        .filter(graph_version::Column::Tenant.eq(DEPLOYMENT))
        .filter(graph_version::Column::Hash.starts_with(beginning))
        .order_by_asc(graph_version::Column::Hash)
        .limit(u64::from(limit))
        .into_tuple()
        .all(db)
        .await
        .map_err(|e| undone(&e))
}

pub(super) async fn run<C: ConnectionTrait>(db: &C, owner: &Owner, run: RunId) -> Result<Option<Run>> {
    let text = format!("select {RUN} from run r where r.tenant = $1 and r.run_id = $2 and r.user_id = $3");
    let values = vec![owner.tenant.as_str().into(), run.0.into(), owner.user.as_str().into()];
    row(db, "run", &text, values).await?.map(|row| row.run()).transpose()
}

pub(super) async fn events<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    run: RunId,
    after: Seq,
    limit: usize,
) -> Result<Vec<EventBatch>> {
    // The running total is the database's work, so that a long stream is never read whole to send its first page.
    let text = "select fence, first_n, last_n, data from ( \
           select e.fence, e.first_n, e.last_n, e.data, \
             row_number() over page as place, sum(length(e.data)) over page as total \
           from run r join event e on e.tenant = r.tenant and e.run_id = r.run_id \
           where r.tenant = $1 and r.user_id = $2 and r.run_id = $3 \
             and e.fence >= $4 and (e.fence > $4 or e.last_n > $5) \
           window page as (order by e.fence, e.first_n rows unbounded preceding) \
         ) paged where place = 1 or total <= $6 order by fence, first_n";
    let values = vec![
        owner.tenant.as_str().into(),
        owner.user.as_str().into(),
        run.0.into(),
        (after.fence as i64).into(),
        // Behind all of an owner is no number of the database.
        i64::try_from(after.n).unwrap_or(i64::MAX).into(),
        i64::try_from(limit).unwrap_or(i64::MAX).into(),
    ];
    rows(db, "event", text, values).await?.iter().map(Row::batch).collect()
}

/// Threads beside their newest run.
const THREAD: &str = "select t.tenant, t.user_id, t.session_id, t.thread_id, t.head, t.created_at, t.updated_at, \
       t.graph, r.run_id as last_run, r.state as last_state \
     from thread t left join run r on r.tenant = t.tenant and r.run_id = ( \
       select x.run_id from run x where x.tenant = t.tenant and x.thread_id = t.thread_id and not x.delayed \
       order by x.ord desc limit 1) \
     where t.tenant = $1 and t.user_id = $2";

pub(super) async fn thread<C: ConnectionTrait>(db: &C, key: &ThreadKey) -> Result<Option<Thread>> {
    let text = format!("{THREAD} and t.session_id = $3");
    let Owner { tenant, user } = &key.owner;
    let values = vec![tenant.as_str().into(), user.as_str().into(), key.session.as_str().into()];
    row(db, "thread", &text, values).await?.map(|row| row.thread()).transpose()
}

pub(super) async fn threads<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    before: Option<(DateTime<Utc>, ThreadId)>,
    limit: u32,
) -> Result<Vec<Thread>> {
    let mut values: Vec<Value> =
        vec![owner.tenant.as_str().into(), owner.user.as_str().into(), i64::from(limit).into()];
    let mut cursor = "";
    if let Some((updated_at, thread)) = before {
        values.extend([moment(db.get_database_backend(), updated_at), thread.0.into()]);
        cursor = "and (t.updated_at, t.thread_id) < ($4, $5)";
    }
    let text = format!("{THREAD} {cursor} order by t.updated_at desc, t.thread_id desc limit $3");
    rows(db, "thread", &text, values).await?.iter().map(Row::thread).collect()
}

pub(super) async fn chain<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    thread: ThreadId,
    checkpoint: CheckpointId,
) -> Result<Vec<Checkpoint>> {
    // The recursion carries ids only; the bytes are joined to them at the end.
    let text = "with recursive line as ( \
           select c.checkpoint_id, c.parent, c.snapshot is not null as whole, 0 as depth \
           from thread t join checkpoint c on c.tenant = t.tenant and c.thread_id = t.thread_id \
           where t.tenant = $1 and t.user_id = $2 and t.thread_id = $3 and c.checkpoint_id = $4 \
           union all \
           select c.checkpoint_id, c.parent, c.snapshot is not null, l.depth + 1 \
           from line l join checkpoint c on c.tenant = $1 and c.thread_id = $3 and c.checkpoint_id = l.parent \
           where not l.whole) \
         select c.checkpoint_id, c.parent, c.run_id, c.step, c.source, c.delta, c.snapshot, c.frontier, c.created_at \
         from line l join checkpoint c on c.tenant = $1 and c.thread_id = $3 and c.checkpoint_id = l.checkpoint_id \
         order by l.depth desc";
    let values =
        vec![owner.tenant.as_str().into(), owner.user.as_str().into(), thread.0.into(), checkpoint.0.into()];
    let found = rows(db, "checkpoint", text, values).await?;
    let chain: Vec<Checkpoint> = found.iter().map(Row::checkpoint).collect::<Result<_>>()?;
    match chain.first() {
        Some(first) if first.snapshot.is_none() && first.parent.is_some() => Err(StoreError::Corrupt {
            what: "checkpoint",
            why: format!("{} has lost the line that it stands on", first.checkpoint),
        }),
        _ => Ok(chain),
    }
}

pub(super) async fn history<C: ConnectionTrait>(
    db: &C,
    owner: &Owner,
    thread: ThreadId,
    before: Option<CheckpointId>,
    limit: u32,
) -> Result<Vec<Checkpoint>> {
    let (first, mut values): (&str, Vec<Value>) = match before {
        None => ("t.head", Vec::new()),
        Some(before) => (
            "(select b.parent from checkpoint b \
              where b.tenant = t.tenant and b.thread_id = t.thread_id and b.checkpoint_id = $5)",
            vec![before.0.into()],
        ),
    };
    let text = format!(
        "with recursive line as ( \
           select c.checkpoint_id, c.parent, 1 as depth \
           from thread t join checkpoint c on c.tenant = t.tenant and c.thread_id = t.thread_id \
             and c.checkpoint_id = {first} \
           where t.tenant = $1 and t.user_id = $2 and t.thread_id = $3 \
           union all \
           select c.checkpoint_id, c.parent, l.depth + 1 \
           from line l join checkpoint c on c.tenant = $1 and c.thread_id = $3 and c.checkpoint_id = l.parent \
           where l.depth < $4) \
         select c.checkpoint_id, c.parent, c.run_id, c.step, c.source, c.delta, null as snapshot, c.frontier, \
           c.created_at \
         from line l join checkpoint c on c.tenant = $1 and c.thread_id = $3 and c.checkpoint_id = l.checkpoint_id \
         order by l.depth limit $4"
    );
    let mut all = vec![
        owner.tenant.as_str().into(),
        owner.user.as_str().into(),
        thread.0.into(),
        i64::from(limit).into(),
    ];
    all.append(&mut values);
    let found = rows(db, "checkpoint", &text, all).await?;
    found.iter().map(Row::checkpoint).collect()
}
