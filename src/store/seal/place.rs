//! Where a value stands. It is sealed together with that, so that a copy of it opens nowhere else.
//!
//! Invariant: what makes a place is written with its lengths, so that no two places are written alike.

use uuid::Uuid;

use super::value::Bond;
use crate::id::{CacheKey, InterruptId, Owner, Part, RunId, TaskId, ThreadId, ThreadKey};
use crate::store::{Checkpoint, StoreError};

/// The tenant of what belongs to the deployment.
pub(super) const DEPLOYMENT: &str = "*";

/// A column of a row.
#[derive(Debug, Clone)]
pub(super) struct Place {
    column: &'static str,
    bond: Bond,
    /// By name, the tenant first.
    parts: Vec<(&'static str, Cell)>,
}

#[derive(Debug, Clone)]
enum Cell {
    Text(String),
    Id(Option<Uuid>),
    Number(u64),
}

/// A column of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) enum Column {
    Delta,
    Snapshot,
    Frontier,
}

impl Place {
    fn new(column: &'static str, tenant: &str) -> Self {
        Self { column, bond: Bond::Row, parts: Vec::new() }.text("tenant", tenant)
    }

    fn of(column: &'static str, owner: &Owner) -> Self {
        Self::new(column, owner.tenant.as_str()).text("user", owner.user.as_str())
    }

    fn with(mut self, name: &'static str, cell: Cell) -> Self {
        self.parts.push((name, cell));
        self
    }

    fn text(self, name: &'static str, text: &str) -> Self {
        self.with(name, Cell::Text(text.to_owned()))
    }

    fn id(self, name: &'static str, id: Uuid) -> Self {
        self.with(name, Cell::Id(Some(id)))
    }

    fn number(self, name: &'static str, number: u64) -> Self {
        self.with(name, Cell::Number(number))
    }

    pub(super) fn input(key: &ThreadKey, run: RunId) -> Self {
        Self::of("run.input", &key.owner).text("session", key.session.as_str()).id("run", run.0)
    }

    pub(super) fn result(owner: &Owner, run: RunId) -> Self {
        Self::of("run.result", owner).id("run", run.0)
    }

    /// The word that a run was ended from outside, wherever it stands.
    pub(super) fn end(owner: &Owner) -> Self {
        Self { bond: Bond::Owner, ..Self::of("end", owner) }
    }

    pub(super) fn checkpoint(owner: &Owner, thread: ThreadId, c: &Checkpoint, column: Column) -> Self {
        let column = match column {
            Column::Delta => "checkpoint.delta",
            Column::Snapshot => "checkpoint.snapshot",
            Column::Frontier => "checkpoint.frontier",
        };
        Self::of(column, owner)
            .id("thread", thread.0)
            .id("checkpoint", c.checkpoint.0)
            .with("parent", Cell::Id(c.parent.map(|parent| parent.0)))
            .with("run", Cell::Id(c.run.map(|run| run.0)))
            .number("step", c.step)
    }

    /// By fence, first number and last.
    pub(super) fn event(owner: &Owner, run: RunId, (fence, first, last): (u64, u64, u64)) -> Self {
        let of = Self::of("event.data", owner).id("run", run.0);
        of.number("fence", fence).number("first", first).number("last", last)
    }

    pub(super) fn pending(owner: &Owner, run: RunId, step: u64, task: &TaskId) -> Self {
        Self::of("pending_write.data", owner).id("run", run.0).number("step", step).text("task", &task.0)
    }

    pub(super) fn question(owner: &Owner, thread: ThreadId, run: RunId, id: &InterruptId) -> Self {
        let of = Self::of("interrupt.data", owner).id("thread", thread.0);
        of.id("run", run.0).text("interrupt", &id.0)
    }

    pub(super) fn answer(owner: &Owner, run: RunId, id: &InterruptId) -> Self {
        Self::of("interrupt.answer", owner).id("run", run.0).text("interrupt", &id.0)
    }

    pub(super) fn cached(tenant: &Part, key: &CacheKey) -> Self {
        Self::new("cache.data", tenant.as_str()).text("key", &key.0)
    }

    pub(super) fn version(hash: &str, graph: &str) -> Self {
        Self::new("graph_version.body", DEPLOYMENT).text("hash", hash).text("graph", graph)
    }

    /// A data key itself, under a master key.
    pub(super) fn wrapped(tenant: &str, key: Uuid, master: &str) -> Self {
        Self::new("data_key.wrapped", tenant).id("key", key).text("master", master)
    }

    /// Returns the tenant under whose keys the value is sealed.
    pub(super) fn tenant(&self) -> &str {
        match self.parts.first() {
            Some((_, Cell::Text(tenant))) => tenant,
            _ => DEPLOYMENT,
        }
    }

    pub(super) fn bond(&self) -> Bond {
        self.bond
    }

    /// Returns what is authenticated with a value that is led by `head`.
    pub(super) fn bound(&self, head: &[u8]) -> Vec<u8> {
        let mut bound = Vec::with_capacity(256);
        let mut part = |bytes: &[u8]| {
            bound.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
            bound.extend_from_slice(bytes);
        };
        part(head);
        part(self.column.as_bytes());
        for (_, cell) in &self.parts {
            match cell {
                Cell::Text(text) => part(text.as_bytes()),
                Cell::Id(id) => part(id.as_ref().map_or(&[], |id| id.as_bytes())),
                Cell::Number(number) => part(&number.to_be_bytes()),
            }
        }
        bound
    }

    /// Says what is wrong with what stands there.
    pub(super) fn broken(&self, why: &str) -> StoreError {
        StoreError::Corrupt { what: "value", why: format!("{self} {why}") }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` of ", self.column)?;
        for (at, (name, cell)) in self.parts.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            match cell {
                Cell::Text(text) => write!(f, "{name} {text}")?,
                Cell::Id(Some(id)) => write!(f, "{name} {id}")?,
                Cell::Id(None) => write!(f, "no {name}")?,
                Cell::Number(number) => write!(f, "{name} {number}")?,
            }
        }
        Ok(())
    }
}
