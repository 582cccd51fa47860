//! Turns rows into the values of the trait.
//!
//! Invariant: a row that does not make sense is `Corrupt`, never a guess.

use chrono::{DateTime, Utc};
use sea_orm::{DbBackend, QueryResult, TryGetable, Value};
use uuid::Uuid;

use crate::id::{CheckpointId, HookId, Owner, Part, RunId, ThreadId, ThreadKey};
use crate::store::{
    Checkpoint, Counts, EventBatch, Hook, HookCounts, HookState, Kept, Noted, Result, Run, RunState,
    StoreError, Thread, VersionUse,
};

/// The columns that [`Row::run`] reads.
pub(super) const RUN: &str = "r.run_id, r.tenant, r.user_id, r.session_id, r.thread_id, r.graph, r.hash, r.state, \
     r.fence, r.step, r.crashes, r.cancel_requested, r.rollback, r.input, r.result, r.created_at, r.finished_at, r.kept, \
     case when r.delayed then r.available_at end as due_at, r.read_until is not null as needs_reader, r.webhook, r.lease_until, \
     r.wake_at";

/// Returns the moment as the back end stores it.
pub(super) fn moment(backend: DbBackend, at: DateTime<Utc>) -> Value {
    match backend {
        DbBackend::Postgres => at.into(),
        _ => at.timestamp_micros().into(),
    }
}

fn state(word: &str) -> Option<RunState> {
    Some(match word {
        "queued" => RunState::Queued,
        "running" => RunState::Running,
        "interrupted" => RunState::Interrupted,
        "completed" => RunState::Completed,
        "failed" => RunState::Failed,
        "cancelled" => RunState::Cancelled,
        "rolled_back" => RunState::RolledBack,
        "dead" => RunState::Dead,
        _ => return None,
    })
}

/// One row of an answer.
pub(super) struct Row {
    cells: QueryResult,
    backend: DbBackend,
    /// Which kind of row, for the error.
    what: &'static str,
}

impl Row {
    pub(super) fn new(cells: QueryResult, backend: DbBackend, what: &'static str) -> Self {
        Self { cells, backend, what }
    }

    fn corrupt(&self, why: String) -> StoreError {
        StoreError::Corrupt { what: self.what, why }
    }

    pub(super) fn get<T: TryGetable>(&self, column: &str) -> Result<T> {
        self.cells.try_get("", column).map_err(|e| self.corrupt(format!("`{column}`: {e}")))
    }

    pub(super) fn number(&self, column: &str) -> Result<u64> {
        let found: i64 = self.get(column)?;
        u64::try_from(found).map_err(|_| self.corrupt(format!("`{column}` is {found}")))
    }

    pub(super) fn time(&self, column: &str) -> Result<DateTime<Utc>> {
        self.time_or_none(column)?.ok_or_else(|| self.corrupt(format!("`{column}` is absent")))
    }

    pub(super) fn time_or_none(&self, column: &str) -> Result<Option<DateTime<Utc>>> {
        if self.backend == DbBackend::Postgres {
            return self.get(column);
        }
        let Some(micros) = self.get::<Option<i64>>(column)? else { return Ok(None) };
        let time = DateTime::from_timestamp_micros(micros);
        time.map(Some).ok_or_else(|| self.corrupt(format!("`{column}` is {micros}")))
    }

    fn part(&self, column: &str) -> Result<Part> {
        let text: String = self.get(column)?;
        text.parse().map_err(|e| self.corrupt(format!("`{column}`: {e}")))
    }

    pub(super) fn key(&self) -> Result<ThreadKey> {
        let owner = Owner { tenant: self.part("tenant")?, user: self.part("user_id")? };
        Ok(ThreadKey { owner, session: self.part("session_id")? })
    }

    pub(super) fn state(&self, column: &str) -> Result<RunState> {
        let found: String = self.get(column)?;
        state(&found).ok_or_else(|| self.corrupt(format!("`{found}` is not a state")))
    }

    /// Reads the columns of [`RUN`].
    pub(super) fn run(&self) -> Result<Run> {
        let state = self.state("state")?;
        let until = self.time_or_none("lease_until")?;
        Ok(Run {
            run: RunId(self.get("run_id")?),
            key: self.key()?,
            thread: ThreadId(self.get("thread_id")?),
            graph: self.get("graph")?,
            hash: self.get("hash")?,
            state,
            fence: self.number("fence")?,
            step: self.number("step")?,
            crashes: self.number("crashes")? as u32,
            cancel_requested: self.get("cancel_requested")?,
            rollback: self.get("rollback")?,
            input: self.get("input")?,
            result: self.get("result")?,
            created_at: self.time("created_at")?,
            finished_at: self.time_or_none("finished_at")?,
            kept: match self.number("kept")? {
                0 => Kept::Nothing,
                1 => Kept::Lean,
                _ => Kept::All,
            },
            due_at: self.time_or_none("due_at")?,
            needs_reader: self.get("needs_reader")?,
            // By the clock of this process: whoever takes the run from its owner does so under a new fence.
            lost: state == RunState::Running && until.is_some_and(|until| until < Utc::now()),
            webhook: self.get("webhook")?,
            wake_at: self.time_or_none("wake_at")?,
        })
    }

    /// Reads a batch of events.
    pub(super) fn batch(&self) -> Result<EventBatch> {
        Ok(EventBatch {
            fence: self.number("fence")?,
            first: self.number("first_n")?,
            last: self.number("last_n")?,
            data: self.get("data")?,
        })
    }

    /// Reads how many runs there are.
    pub(super) fn counts(&self) -> Result<Counts> {
        let running = self.number("running")?;
        Ok(Counts {
            queued: self.number("queued")?,
            delayed: self.number("delayed")?,
            running,
            interrupted: self.number("active")?.saturating_sub(running),
            dead: self.number("dead")?,
        })
    }

    /// Reads the columns of `HOOK` beside those of [`RUN`].
    pub(super) fn hook(&self) -> Result<Hook> {
        let word: String = self.get("hook_state")?;
        let state = HookState::ALL.into_iter().find(|state| state.name() == word);
        Ok(Hook {
            id: HookId(self.get("outbox_id")?),
            run: self.run()?,
            url: self.get("target")?,
            data: self.get("data")?,
            state: state.ok_or_else(|| self.corrupt(format!("`{word}` is not a state")))?,
            attempts: self.number("attempts")? as u32,
            error: self.get("error")?,
            created_at: self.time("hook_created_at")?,
            due_at: self.time("hook_due_at")?,
            finished_at: self.time_or_none("hook_finished_at")?,
        })
    }

    /// Reads how much there is to tell.
    pub(super) fn hook_counts(&self) -> Result<HookCounts> {
        Ok(HookCounts {
            queued: self.number("queued")?,
            delivered: self.number("delivered")?,
            failed: self.number("failed")?,
        })
    }

    /// Reads a note of an act.
    pub(super) fn noted(&self) -> Result<Noted> {
        Ok(Noted {
            id: self.get("audit_id")?,
            at: self.time("at")?,
            tenant: self.get("tenant")?,
            act: self.get("act")?,
            actor: self.get("actor")?,
            subject: self.get("subject")?,
            detail: self.get("detail")?,
        })
    }

    /// Reads what is on a graph version.
    pub(super) fn version_use(&self) -> Result<VersionUse> {
        Ok(VersionUse {
            threads: self.number("threads")?,
            open_runs: self.number("waiting")? + self.number("active")?,
            paused_runs: self.number("paused")?,
        })
    }

    /// Reads a thread beside its newest run in `last_run` and `last_state`.
    pub(super) fn thread(&self) -> Result<Thread> {
        let last: Option<Uuid> = self.get("last_run")?;
        Ok(Thread {
            key: self.key()?,
            thread: ThreadId(self.get("thread_id")?),
            head: self.get::<Option<Uuid>>("head")?.map(CheckpointId),
            graph: self.get("graph")?,
            created_at: self.time("created_at")?,
            updated_at: self.time("updated_at")?,
            last_run: match last {
                Some(run) => Some((RunId(run), self.state("last_state")?)),
                None => None,
            },
        })
    }

    pub(super) fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(Checkpoint {
            checkpoint: CheckpointId(self.get("checkpoint_id")?),
            parent: self.get::<Option<Uuid>>("parent")?.map(CheckpointId),
            run: self.get::<Option<Uuid>>("run_id")?.map(RunId),
            step: self.number("step")?,
            source: self.get("source")?,
            delta: self.get("delta")?,
            snapshot: self.get("snapshot")?,
            frontier: self.get("frontier")?,
            created_at: self.time("created_at")?,
        })
    }
}
