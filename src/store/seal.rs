//! Encryption at rest: whatever holds anybody's words is sealed on its way into the SQL stores, and opened on its way out.
//!
//! Neither the engine nor the statements know of it: this stands before the SQL store and is one itself. Without master
//! keys it is not there. Invariant: with it nothing is read that was not sealed for the place where it stands; only
//! [`SealedStore::apply`] takes what was stored before.

mod apply;
mod keys;
mod master;
mod place;
mod store;
mod value;
mod write;

use std::sync::Arc;

use tracing::warn;

pub use self::apply::Status;
use self::keys::Keys;
pub use self::master::{Masters, new_master};
use self::place::{Column, DEPLOYMENT, Place};
use self::value::{Bond, DataKey, Sealed};
use super::sql::SqlStore;
use super::sql::keys::KeyRow;
use super::{Checkpoint, EventBatch, Hook, Keyed, OpenQuestion, Result, Run, Store, StoreError};
use crate::id::{InterruptId, Owner, RunId, ThreadId};

/// Keeps everything in a SQL store, and nothing that anybody said in the clear.
#[derive(Debug)]
pub struct SealedStore {
    sql: SqlStore,
    keys: Keys,
}

/// Says whether what is stored is at fault, whoever reads it.
fn is_broken(error: &StoreError) -> bool {
    matches!(error, StoreError::Corrupt { .. })
}

/// Says whether this cannot be read, and something else may be: it is broken, or under a key that this process has not.
fn is_unreadable(error: &StoreError) -> bool {
    is_broken(error) || matches!(error, StoreError::Config(_))
}

/// Returns the store as the settings want it: sealed when there are master keys. Fails where that is not how the database
/// stands.
pub async fn over(sql: SqlStore, masters: Option<Masters>) -> Result<Arc<dyn Store>> {
    let there = sql.has_keys().await?;
    let rows = if there { sql.data_keys(DEPLOYMENT).await? } else { Vec::new() };
    let Some(masters) = masters else {
        return match rows.first() {
            None => Ok(Arc::new(sql.in_the_clear())),
            Some(row) => Err(StoreError::Config(format!(
                "the database is encrypted under the master key `{0}`, and the settings name none: name `{0}` among the keys \
                 under [encryption]; encryption is not turned off by leaving it out",
                row.master
            ))),
        };
    };
    let store = SealedStore::new(sql, masters);
    if there {
        store.check(&rows).await?;
    }
    Ok(Arc::new(store))
}

impl SealedStore {
    /// Stands before a store, whatever is in it.
    pub fn new(sql: SqlStore, masters: Masters) -> Self {
        Self { keys: Keys::new(sql.clone(), masters), sql }
    }

    /// Fails unless all is sealed under a data key that the master keys unwrap. These are the deployment's keys; without
    /// one nothing was sealed yet.
    async fn check(&self, rows: &[KeyRow]) -> Result<()> {
        let refused = |why: &str| Err(StoreError::Config(why.to_owned()));
        if rows.is_empty() && self.sql.is_used().await? {
            return refused(
                "the settings name master keys, and the database holds what was stored without: stop the service, and run \
                 `graphloom encryption apply`",
            );
        }
        if rows.iter().any(|row| row.converting) {
            return refused(
                "not all of the database is encrypted yet: run `graphloom encryption apply` again, which goes on where it was",
            );
        }
        for row in rows {
            self.keys.masters.unwrap(DEPLOYMENT, row)?;
        }
        Ok(())
    }

    async fn key(&self, owner: &Owner) -> Result<Arc<DataKey>> {
        self.keys.current(owner.tenant.as_str()).await
    }

    /// Opens what stands at a place; where a run may have been ended from outside, also the word of that.
    async fn open(&self, place: Place, end: Option<&Owner>, bytes: &[u8]) -> Result<Vec<u8>> {
        let sealed = Sealed::read(&place, bytes)?;
        let place = match (sealed.bond, end) {
            (Bond::Row, _) => place,
            (Bond::Owner, Some(owner)) => Place::end(owner),
            (Bond::Owner, None) => return Err(place.broken("was sealed for another place")),
        };
        let Some(key) = self.keys.of(place.tenant(), sealed.key).await? else {
            let why = format!(
                "is sealed under the data key {}, which its tenant does not have (any more)",
                sealed.key
            );
            return Err(place.broken(&why));
        };
        key.open(&place, &sealed)
    }

    async fn opened_run(&self, mut run: Run) -> Result<Run> {
        run.input = self.open(Place::input(&run.key, run.run), None, &run.input).await?;
        if let Some(result) = &run.result {
            let owner = &run.key.owner;
            run.result = Some(self.open(Place::result(owner, run.run), Some(owner), result).await?);
        }
        Ok(run)
    }

    /// Opens a run. One of which this holds keeps no other: nothing is left of what it was started with and came to.
    async fn opened_unless(&self, run: Run, lost: fn(&StoreError) -> bool) -> Result<Run> {
        let id = run.run;
        let bare = Run { input: Vec::new(), result: run.result.is_some().then(Vec::new), ..run.clone() };
        match self.opened_run(run).await {
            Err(error) if lost(&error) => {
                warn!(run = %id, %error, "What a run was started with, or came to, cannot be read.");
                Ok(bare)
            }
            opened => opened,
        }
    }

    async fn opened_runs(&self, runs: Vec<Run>) -> Result<Vec<Run>> {
        let mut opened = Vec::with_capacity(runs.len());
        for run in runs {
            opened.push(self.opened_unless(run, is_unreadable).await?);
        }
        Ok(opened)
    }

    /// Opens what is told of a run. Of one of which this holds nothing is left, so that it is given up and keeps no other.
    async fn opened_hook(&self, mut hook: Hook, lost: fn(&StoreError) -> bool) -> Result<Hook> {
        if !hook.data.is_empty() {
            let owner = &hook.run.key.owner;
            let place = Place::result(owner, hook.run.run);
            hook.data = match self.open(place, Some(owner), &hook.data).await {
                Err(error) if lost(&error) => {
                    warn!(webhook = %hook.id, %error, "What is to be told of a run cannot be read.");
                    Vec::new()
                }
                data => data?,
            };
        }
        hook.run = self.opened_unless(hook.run, lost).await?;
        Ok(hook)
    }

    async fn opened_hooks(&self, hooks: Vec<Hook>) -> Result<Vec<Hook>> {
        let mut opened = Vec::with_capacity(hooks.len());
        for hook in hooks {
            opened.push(self.opened_hook(hook, is_unreadable).await?);
        }
        Ok(opened)
    }

    async fn opened_or_none(&self, run: Option<Run>) -> Result<Option<Run>> {
        match run {
            Some(run) => self.opened_run(run).await.map(Some),
            None => Ok(None),
        }
    }

    async fn opened_keyed(&self, known: Keyed) -> Result<Keyed> {
        Ok(match known {
            Keyed::Same { run, after } => Keyed::Same { run: Box::new(self.opened_run(*run).await?), after },
            Keyed::Other => Keyed::Other,
        })
    }

    async fn opened_question(&self, mut question: OpenQuestion) -> Result<OpenQuestion> {
        let place = Place::question(&question.key.owner, question.thread, question.run, &question.id);
        question.data = self.open(place, None, &question.data).await?;
        Ok(question)
    }

    async fn opened_answers(
        &self,
        owner: &Owner,
        run: RunId,
        mut answers: Vec<(InterruptId, Vec<u8>)>,
    ) -> Result<Vec<(InterruptId, Vec<u8>)>> {
        for (id, said) in &mut answers {
            *said = self.open(Place::answer(owner, run, id), None, said).await?;
        }
        Ok(answers)
    }

    async fn open_events(&self, owner: &Owner, run: RunId, batch: &mut EventBatch) -> Result<()> {
        let place = Place::event(owner, run, (batch.fence, batch.first, batch.last));
        batch.data = self.open(place, Some(owner), &batch.data).await?;
        Ok(())
    }

    async fn opened_line(
        &self,
        owner: &Owner,
        thread: ThreadId,
        mut line: Vec<Checkpoint>,
    ) -> Result<Vec<Checkpoint>> {
        for c in &mut line {
            let place = |c: &Checkpoint, column| Place::checkpoint(owner, thread, c, column);
            c.delta = self.open(place(c, Column::Delta), None, &c.delta).await?;
            c.frontier = self.open(place(c, Column::Frontier), None, &c.frontier).await?;
            if let Some(snapshot) = &c.snapshot {
                c.snapshot = Some(self.open(place(c, Column::Snapshot), None, snapshot).await?);
            }
        }
        Ok(line)
    }
}
