//! Whatever holds anybody's words, table by table, in pages: for what seals what was stored before.
//!
//! Invariant: a value is replaced only while it is what was read, so nothing that the service writes meanwhile is lost.

use sea_orm::Value;
use uuid::Uuid;

use super::base::Tx;
use super::put::write;
use super::read;
use super::row::Row;
use super::{SqlStore, detached};
use crate::id::{CacheKey, InterruptId, Owner, RunId, TaskId, ThreadId, ThreadKey};
use crate::store::{Checkpoint, EventBatch, GraphVersion, Result};

/// How many rows are read at once; each may be a state of some megabytes.
const PAGE: u64 = 20;

/// A table with words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Table {
    Run,
    Checkpoint,
    Event,
    Pending,
    Question,
    Cache,
    Hook,
    Version,
}

/// The tables of a tenant.
pub(in crate::store) const OF_TENANT: [Table; 7] =
    [Table::Run, Table::Checkpoint, Table::Event, Table::Pending, Table::Question, Table::Cache, Table::Hook];

/// The words of a row, with what it is.
#[derive(Debug)]
pub(in crate::store) enum Words {
    Run {
        key: ThreadKey,
        run: RunId,
        input: Vec<u8>,
        result: Option<Vec<u8>>,
    },
    Checkpoint {
        owner: Owner,
        thread: ThreadId,
        checkpoint: Box<Checkpoint>,
    },
    Event {
        owner: Owner,
        run: RunId,
        batch: EventBatch,
    },
    Pending {
        owner: Owner,
        run: RunId,
        step: u64,
        task: TaskId,
        data: Vec<u8>,
    },
    Question {
        owner: Owner,
        thread: ThreadId,
        run: RunId,
        id: InterruptId,
        data: Vec<u8>,
        answer: Option<Vec<u8>>,
    },
    Cached {
        key: CacheKey,
        data: Vec<u8>,
    },
    Hook {
        owner: Owner,
        run: RunId,
        data: Vec<u8>,
    },
    Version(GraphVersion),
}

/// A row with words.
#[derive(Debug)]
pub(in crate::store) struct Worded {
    /// Its key, without the tenant.
    pub(in crate::store) at: Vec<Value>,
    pub(in crate::store) words: Words,
}

/// A value that takes the place of another.
#[derive(Debug)]
pub(in crate::store) struct Replaced {
    pub(in crate::store) column: &'static str,
    pub(in crate::store) old: Vec<u8>,
    pub(in crate::store) new: Vec<u8>,
}

/// What a part of a key is.
#[derive(Clone, Copy)]
enum Sort {
    Id,
    Number,
    Text,
}

/// How a table is read.
struct Shape {
    name: &'static str,
    what: &'static str,
    /// Its key, without the tenant.
    key: &'static [(&'static str, Sort)],
    /// What says whose a row is, when it does not itself.
    whose: &'static str,
    columns: &'static str,
}

const OF_RUN: &str = "join run r on r.tenant = x.tenant and r.run_id = x.run_id";

impl Table {
    fn shape(self) -> Shape {
        let (name, what, key, whose, columns): (_, _, &[(&str, Sort)], _, _) = match self {
            Self::Run => (
                "run",
                "run",
                &[("run_id", Sort::Id)],
                "",
                "x.tenant, x.user_id, x.session_id, x.run_id, x.input, x.result",
            ),
            Self::Checkpoint => (
                "checkpoint",
                "checkpoint",
                &[("thread_id", Sort::Id), ("checkpoint_id", Sort::Id)],
                "join thread t on t.tenant = x.tenant and t.thread_id = x.thread_id",
                "t.tenant, t.user_id, t.session_id, x.thread_id, x.checkpoint_id, x.parent, x.run_id, x.step, x.source, \
                   x.delta, x.snapshot, x.frontier, x.created_at",
            ),
            Self::Event => (
                "event",
                "event",
                &[("run_id", Sort::Id), ("fence", Sort::Number), ("first_n", Sort::Number)],
                OF_RUN,
                "r.tenant, r.user_id, r.session_id, x.run_id, x.fence, x.first_n, x.last_n, x.data",
            ),
            Self::Pending => (
                "pending_write",
                "pending write",
                &[("run_id", Sort::Id), ("step", Sort::Number), ("task_id", Sort::Text)],
                OF_RUN,
                "r.tenant, r.user_id, r.session_id, x.run_id, x.step, x.task_id, x.data",
            ),
            Self::Question => (
                "interrupt",
                "question",
                &[("interrupt_id", Sort::Text)],
                OF_RUN,
                "r.tenant, r.user_id, r.session_id, x.thread_id, x.run_id, x.interrupt_id, x.data, x.answer",
            ),
            Self::Cache => ("cache", "cached result", &[("key", Sort::Text)], "", "x.key, x.data"),
            Self::Hook => (
                "outbox",
                "webhook",
                &[("outbox_id", Sort::Id)],
                OF_RUN,
                "r.tenant, r.user_id, r.session_id, x.outbox_id, x.run_id, x.data",
            ),
            Self::Version => {
                ("graph_version", "graph version", &[("hash", Sort::Text)], "", "x.hash, x.graph, x.body")
            }
        };
        Shape { name, what, key, whose, columns }
    }

    fn words(self, row: &Row) -> Result<Words> {
        let owner = || row.key().map(|key| key.owner);
        let (run, thread) = (|| row.get("run_id").map(RunId), || row.get("thread_id").map(ThreadId));
        Ok(match self {
            Self::Run => Words::Run {
                key: row.key()?,
                run: run()?,
                input: row.get("input")?,
                result: row.get("result")?,
            },
            Self::Checkpoint => Words::Checkpoint {
                owner: owner()?,
                thread: thread()?,
                checkpoint: Box::new(row.checkpoint()?),
            },
            Self::Event => Words::Event { owner: owner()?, run: run()?, batch: row.batch()? },
            Self::Pending => Words::Pending {
                owner: owner()?,
                run: run()?,
                step: row.number("step")?,
                task: TaskId(row.get::<String>("task_id")?.into()),
                data: row.get("data")?,
            },
            Self::Question => Words::Question {
                owner: owner()?,
                thread: thread()?,
                run: run()?,
                id: InterruptId(row.get::<String>("interrupt_id")?.into()),
                data: row.get("data")?,
                answer: row.get("answer")?,
            },
            Self::Cache => {
                Words::Cached { key: CacheKey(row.get::<String>("key")?.into()), data: row.get("data")? }
            }
            Self::Hook => Words::Hook { owner: owner()?, run: run()?, data: row.get("data")? },
            Self::Version => Words::Version(GraphVersion {
                graph: row.get("graph")?,
                hash: row.get("hash")?,
                body: row.get("body")?,
            }),
        })
    }
}

/// Returns the names of a key as a row value, each with a prefix.
fn names(key: &[(&str, Sort)], prefix: &str) -> String {
    let names: Vec<String> = key.iter().map(|(name, _)| format!("{prefix}{name}")).collect();
    names.join(", ")
}

fn numbered(from: usize, count: usize) -> String {
    let places: Vec<String> = (from..from + count).map(|n| format!("${n}")).collect();
    places.join(", ")
}

impl SqlStore {
    /// Reads the words of a tenant's rows in a table after one of them.
    pub(in crate::store) async fn words(
        &self,
        tenant: &str,
        table: Table,
        after: Option<&[Value]>,
    ) -> Result<Vec<Worded>> {
        let Shape { name, what, key, whose, columns } = table.shape();
        let mut values: Vec<Value> = vec![tenant.into()];
        let mut from = String::new();
        if let Some(after) = after {
            values.extend_from_slice(after);
            from = format!("and ({}) > ({})", names(key, "x."), numbered(2, after.len()));
        }
        let text = format!(
            "select {columns} from {name} x {whose} where x.tenant = $1 {from} order by {} limit {PAGE}",
            names(key, "x.")
        );
        let rows = read::rows(&self.base().works(tenant), what, &text, values).await?;
        let worded = |row: &Row| {
            let part = |(name, sort): &(&str, Sort)| {
                Ok(match sort {
                    Sort::Id => row.get::<Uuid>(name)?.into(),
                    Sort::Number => row.get::<i64>(name)?.into(),
                    Sort::Text => row.get::<String>(name)?.into(),
                })
            };
            Ok(Worded { at: key.iter().map(part).collect::<Result<_>>()?, words: table.words(row)? })
        };
        rows.iter().map(worded).collect()
    }

    /// Replaces values of rows, in one transaction; returns how many were still there.
    pub(in crate::store) async fn replace(
        &self,
        tenant: &str,
        table: Table,
        rows: Vec<(Vec<Value>, Vec<Replaced>)>,
    ) -> Result<u64> {
        let (base, tenant) = (self.base().clone(), tenant.to_owned());
        detached(async move {
            let tx = base.begin(&tenant).await?;
            let mut done = 0;
            for (at, values) in rows {
                for value in values {
                    done += replace_one(&tx, &tenant, table, &at, value).await?;
                }
            }
            tx.commit().await?;
            Ok(done)
        })
        .await
    }
}

async fn replace_one(tx: &Tx, tenant: &str, table: Table, at: &[Value], value: Replaced) -> Result<u64> {
    let (Shape { name, key, .. }, Replaced { column, old, new }) = (table.shape(), value);
    let text = format!(
        "update {name} set {column} = $2 where tenant = $1 and {column} = $3 and ({}) = ({})",
        names(key, ""),
        numbered(4, at.len())
    );
    let mut values: Vec<Value> = vec![tenant.into(), new.into(), old.into()];
    values.extend_from_slice(at);
    write(tx, &text, values).await
}
