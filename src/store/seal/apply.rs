//! What an operator does about encryption: seal what stands, wrap data keys anew, make new ones.
//!
//! Invariant: each step leaves a database that can be gone on with; whatever is done twice changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::place::{Column, DEPLOYMENT, Place};
use super::value::{Bond, DataKey, MARK, Sealed};
use super::{SealedStore, StoreError};
use crate::id::{Owner, Part};
use crate::store::sql::SqlStore;
use crate::store::sql::keys::KeyRow;
use crate::store::sql::words::{OF_TENANT, Replaced, Table, Words};
use crate::store::{Actor, Result, Store};

/// How encryption stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// What is stored is sealed, or on the way there.
    pub on: bool,
    /// Not all is sealed yet.
    pub converting: bool,
    /// How many tenants have a data key.
    pub tenants: usize,
    /// How many data keys each master key wraps.
    pub masters: BTreeMap<String, usize>,
}

/// A value of a row, and where it stands.
struct Cell {
    column: &'static str,
    place: Place,
    /// Whose the run is, where it may have been ended from outside.
    end: Option<Owner>,
    bytes: Vec<u8>,
}

/// Returns the values of a row that are sealed.
fn cells(tenant: &str, words: Words) -> Result<Vec<Cell>> {
    let cell = |column, place, bytes| Cell { column, place, end: None, bytes };
    Ok(match words {
        Words::Run { key, run, input, result } => {
            let owner = key.owner.clone();
            let mut cells = vec![cell("input", Place::input(&key, run), input)];
            cells.extend(result.map(|bytes| Cell {
                end: Some(owner.clone()),
                ..cell("result", Place::result(&owner, run), bytes)
            }));
            cells
        }
        Words::Checkpoint { owner, thread, checkpoint: c } => {
            let place = |column| Place::checkpoint(&owner, thread, &c, column);
            let mut cells = vec![
                cell("delta", place(Column::Delta), c.delta.clone()),
                cell("frontier", place(Column::Frontier), c.frontier.clone()),
            ];
            let snapshot = c.snapshot.clone();
            cells.extend(snapshot.map(|bytes| cell("snapshot", place(Column::Snapshot), bytes)));
            cells
        }
        Words::Event { owner, run, batch } => {
            let place = Place::event(&owner, run, (batch.fence, batch.first, batch.last));
            vec![Cell { end: Some(owner), ..cell("data", place, batch.data) }]
        }
        Words::Pending { owner, run, step, task, data } => {
            vec![cell("data", Place::pending(&owner, run, step, &task), data)]
        }
        Words::Question { owner, thread, run, id, data, answer } => {
            let mut cells = vec![cell("data", Place::question(&owner, thread, run, &id), data)];
            cells.extend(answer.map(|bytes| cell("answer", Place::answer(&owner, run, &id), bytes)));
            cells
        }
        Words::Cached { key, data } => {
            let corrupt =
                |_| StoreError::Corrupt { what: "cached result", why: "its tenant has no name".into() };
            vec![cell("data", Place::cached(&tenant.parse().map_err(corrupt)?, &key), data)]
        }
        // Once it was told, nothing is left.
        Words::Hook { data, .. } if data.is_empty() => Vec::new(),
        Words::Hook { owner, run, data } => {
            vec![Cell { end: Some(owner.clone()), ..cell("data", Place::result(&owner, run), data) }]
        }
        Words::Version(version) => {
            vec![cell("body", Place::version(&version.hash, &version.graph), version.body)]
        }
    })
}

impl SealedStore {
    /// Seals what stands in the clear, and what is sealed under an older data key of its tenant, under the newest. Stopped
    /// in the middle, it goes on from there the next time. `told` hears of each tenant how many values that were. What
    /// stands in the clear is taken while encryption was never on for the whole database; later only when it is asked for
    /// with `clear`, for then nobody knows who put it there. Where encryption begins, `pause` is how long processes without
    /// it are given to notice that.
    pub async fn apply(&self, clear: bool, pause: Duration, mut told: impl FnMut(&str, u64)) -> Result<u64> {
        self.sql.migrate().await?;
        let rows = self.sql.data_keys(DEPLOYMENT).await?;
        for row in &rows {
            self.keys.masters.unwrap(DEPLOYMENT, row)?;
        }
        let begun = rows.iter().any(|row| row.converting);
        let clear = clear || begun || rows.is_empty();
        // From here on nothing starts that would store in the clear.
        if rows.is_empty() {
            let (_, row) = self.keys.masters.make(DEPLOYMENT)?;
            let is_shared = self.sql.is_shared() && self.sql.is_used().await?;
            self.sql.put_data_key(DEPLOYMENT, &KeyRow { converting: true, ..row }, Actor::Operator).await?;
            if is_shared {
                tokio::time::sleep(pause).await;
            }
        } else if clear && !begun {
            self.sql.set_converting(true).await?;
        }
        let mut all = 0;
        for tenant in self.sql.tenants().await? {
            let sealed = self.apply_to(&tenant, clear).await?;
            if sealed > 0 {
                told(&tenant, sealed);
            }
            all += sealed;
        }
        if clear {
            self.sql.scrub().await?;
            self.sql.set_converting(false).await?;
        }
        Ok(all)
    }

    async fn apply_to(&self, tenant: &str, clear: bool) -> Result<u64> {
        let key = self.keys.current(tenant).await?;
        let tables: &[Table] = if tenant == DEPLOYMENT { &[Table::Version] } else { &OF_TENANT };
        let mut done = 0;
        for table in tables {
            let mut after = None;
            loop {
                let rows = self.sql.words(tenant, *table, after.as_deref()).await?;
                let Some(last) = rows.last() else { break };
                after = Some(last.at.clone());
                let mut replaced = Vec::new();
                for row in rows {
                    let mut values = Vec::new();
                    for cell in cells(tenant, row.words)? {
                        values.extend(self.anew(&key, cell, clear).await?);
                    }
                    if !values.is_empty() {
                        replaced.push((row.at, values));
                    }
                }
                if !replaced.is_empty() {
                    done += self.sql.replace(tenant, *table, replaced).await?;
                }
            }
        }
        Ok(done)
    }

    /// Seals a value under a key; nothing when it is already.
    async fn anew(&self, key: &DataKey, cell: Cell, clear: bool) -> Result<Option<Replaced>> {
        let Cell { column, place, end, bytes: old } = cell;
        let new = if clear && old.first() != Some(&MARK) {
            key.seal(&place, &old)?
        } else {
            let sealed = Sealed::read(&place, &old)?;
            if sealed.key == key.id {
                return Ok(None);
            }
            let stays = if sealed.bond == Bond::Owner { end.as_ref().map(Place::end) } else { None };
            let plain = self.open(place.clone(), end.as_ref(), &old).await?;
            key.seal(stays.as_ref().unwrap_or(&place), &plain)?
        };
        Ok(Some(Replaced { column, old, new }))
    }

    /// Wraps every data key that another master key wraps by the first one; returns how many that were. Tenants come until
    /// none of them has such a key, for a process can make one meanwhile. The key of the database comes last: as long as a
    /// start asks for an older master key, something may need it.
    pub async fn rewrap(&self) -> Result<usize> {
        self.deployment().await?;
        let mut all = 0;
        loop {
            let mut done = 0;
            for tenant in self.sql.tenants().await?.iter().filter(|tenant| *tenant != DEPLOYMENT) {
                done += self.rewrap_of(tenant).await?;
            }
            all += done;
            if done == 0 {
                return Ok(all + self.rewrap_of(DEPLOYMENT).await?);
            }
        }
    }

    async fn rewrap_of(&self, tenant: &str) -> Result<usize> {
        let (masters, mut done) = (&self.keys.masters, 0);
        for row in self.sql.data_keys(tenant).await? {
            let raw = masters.unwrap(tenant, &row)?;
            if row.master != masters.name() {
                self.sql.rewrap(tenant, &masters.wrap(tenant, row.key, &raw)?).await?;
                done += 1;
            }
        }
        Ok(done)
    }

    /// Returns the keys of the database. Fails where it has none.
    async fn deployment(&self) -> Result<Vec<KeyRow>> {
        let rows =
            if self.sql.has_keys().await? { self.sql.data_keys(DEPLOYMENT).await? } else { Vec::new() };
        if rows.is_empty() {
            return Err(StoreError::Config(
                "the database is not encrypted, so it has no keys to change: `graphloom encryption apply` encrypts it"
                    .into(),
            ));
        }
        Ok(rows)
    }

    /// Makes a new data key for a tenant that there is. What it has sealed before stays under the older ones until [`Self::apply`].
    pub async fn renew(&self, tenant: &Part) -> Result<()> {
        let rows = self.deployment().await?;
        self.check(&rows).await?;
        if !self.sql.tenants().await?.iter().any(|known| known == tenant.as_str()) {
            return Err(StoreError::Config(format!(
                "there is no tenant `{tenant}`: nothing is stored of it"
            )));
        }
        self.keys.renew(tenant.as_str(), Actor::Operator).await.map(drop)
    }

    /// Looks how encryption stands; it takes no master key.
    pub async fn status(sql: &SqlStore) -> Result<Status> {
        let mut status = Status::default();
        if !sql.has_keys().await? {
            return Ok(status);
        }
        for tenant in sql.tenants().await? {
            let rows = sql.data_keys(&tenant).await?;
            if tenant == DEPLOYMENT {
                status.on = !rows.is_empty();
                status.converting = rows.iter().any(|row| row.converting);
            } else {
                status.tenants += usize::from(!rows.is_empty());
            }
            for row in rows {
                *status.masters.entry(row.master).or_default() += 1;
            }
        }
        Ok(status)
    }
}
