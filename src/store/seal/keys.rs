//! The data keys of tenants, as far as they are in use.
//!
//! Invariant: so many tenants at most are in memory, and a key that is let go is wiped.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tracing::warn;
use uuid::Uuid;

use super::master::Masters;
use super::value::DataKey;
use crate::store::sql::SqlStore;
use crate::store::sql::keys::KeyRow;
use crate::store::{Actor, Result, StoreError};

/// Of how many tenants keys are in memory.
const TENANTS: NonZeroUsize = NonZeroUsize::new(4096).expect("it is no zero");

/// How long it is not told again that the keys of a tenant cannot be read.
const SILENCE: Duration = Duration::from_hours(1);

/// The data keys of a tenant, the newest first; never none.
type Ring = Arc<[Arc<DataKey>]>;

#[derive(Debug)]
pub(super) struct Keys {
    sql: SqlStore,
    pub(super) masters: Masters,
    known: Mutex<LruCache<String, Ring>>,
    /// Of whom it was told that their keys cannot be read here, and when.
    told: Mutex<LruCache<(String, String), Instant>>,
    /// Held by whoever makes a key, so that a tenant gets one of a process.
    making: tokio::sync::Mutex<()>,
}

impl Keys {
    pub(super) fn new(sql: SqlStore, masters: Masters) -> Self {
        Self {
            sql,
            masters,
            known: Mutex::new(LruCache::new(TENANTS)),
            told: Mutex::new(LruCache::new(TENANTS)),
            making: tokio::sync::Mutex::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, LruCache<String, Ring>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the keys of a tenant from the database.
    async fn stored(&self, tenant: &str) -> Result<Option<Ring>> {
        let mut ring = Vec::new();
        for row in self.sql.data_keys(tenant).await? {
            let raw =
                self.masters.unwrap(tenant, &row).inspect_err(|error| self.tell(tenant, &row, error))?;
            ring.push(Arc::new(DataKey::new(row.key, &raw)));
        }
        if ring.is_empty() {
            return Ok(None);
        }
        let ring: Ring = ring.into();
        self.known().put(tenant.to_owned(), ring.clone());
        Ok(Some(ring))
    }

    /// Says that keys of a tenant cannot be read here: now and then, for it is asked for again and again.
    fn tell(&self, tenant: &str, row: &KeyRow, error: &StoreError) {
        metrics::counter!("graphloom_unknown_master_keys_total").increment(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (tenant.to_owned(), row.master.clone());
        if told.get(&place).is_none_or(|at| at.elapsed() > SILENCE) {
            told.put(place, Instant::now());
            warn!(tenant, master = row.master, %error, "What is stored of a tenant cannot be read here; other processes may.");
        }
    }

    /// Returns the key under which values of a tenant are sealed from now on; makes the first one.
    pub(super) async fn current(&self, tenant: &str) -> Result<Arc<DataKey>> {
        let known = self.known().get(tenant).map(|ring| ring[0].clone());
        if let Some(key) = known {
            return Ok(key);
        }
        if let Some(ring) = self.stored(tenant).await? {
            return Ok(ring[0].clone());
        }
        let _making = self.making.lock().await;
        match self.stored(tenant).await? {
            Some(ring) => Ok(ring[0].clone()),
            None => self.renew(tenant, Actor::Service).await,
        }
    }

    /// Makes a new key for a tenant. What is sealed under the older ones stays.
    pub(super) async fn renew(&self, tenant: &str, actor: Actor) -> Result<Arc<DataKey>> {
        let (raw, row) = self.masters.make(tenant)?;
        self.sql.put_data_key(tenant, &row, actor).await?;
        self.forget(tenant);
        Ok(Arc::new(DataKey::new(row.key, &raw)))
    }

    /// Returns a key of a tenant. Nothing: there is none, or no more.
    pub(super) async fn of(&self, tenant: &str, key: Uuid) -> Result<Option<Arc<DataKey>>> {
        let find = |ring: &Ring| ring.iter().find(|known| known.id == key).cloned();
        let known = self.known().get(tenant).and_then(find);
        if known.is_some() {
            return Ok(known);
        }
        // Another process may have made it, or the tenant was erased and is here again.
        self.forget(tenant);
        Ok(self.stored(tenant).await?.as_ref().and_then(find))
    }

    /// Lets the keys of a tenant go.
    pub(super) fn forget(&self, tenant: &str) {
        self.known().pop(tenant);
    }
}
