//! The keys under which values are sealed, as they are stored: wrapped, of no use to whoever reads the database.
//!
//! Invariant: a key is never changed, only wrapped anew; it goes with its tenant.

use sea_orm::{ConnectionTrait, Value};
use uuid::Uuid;

use super::base::{Base, Desk};
use super::error::unsure;
use super::postgres;
use super::put::write;
use super::read::{self, DEPLOYMENT};
use super::{SqlStore, audit, detached, sql, sqlite};
use crate::store::{Actor, Noted, Result, StoreError};

/// A data key of a tenant, wrapped by a master key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct KeyRow {
    pub(in crate::store) key: Uuid,
    /// The name of the master key.
    pub(in crate::store) master: String,
    pub(in crate::store) wrapped: Vec<u8>,
    /// Of the deployment's key: what stood before it is not all sealed yet.
    pub(in crate::store) converting: bool,
}

/// How many tenants are read at once.
const TENANTS: u32 = 500;

impl SqlStore {
    /// Says whether there is a table of keys: the database may be older, or empty.
    pub(in crate::store) async fn has_keys(&self) -> Result<bool> {
        match self.base() {
            Base::Postgres(db) => Ok(db.applied().await?.contains(super::migration::KEYS)),
            Base::Sqlite(db) => {
                let text = "select 1 from sqlite_master where type = 'table' and name = 'data_key'";
                let found = read::row(&Desk::Sqlite(db.read.clone()), "data key", text, Vec::new()).await?;
                Ok(found.is_some())
            }
        }
    }

    /// Reads the keys of a tenant, the newest first.
    pub(in crate::store) async fn data_keys(&self, tenant: &str) -> Result<Vec<KeyRow>> {
        let text = "select key_id, master, wrapped, converting from data_key where tenant = $1 \
             order by created_at desc, key_id desc";
        let rows = read::rows(&self.base().works(tenant), "data key", text, vec![tenant.into()]).await?;
        let row = |row: &super::row::Row| {
            Ok(KeyRow {
                key: row.get("key_id")?,
                master: row.get("master")?,
                wrapped: row.get("wrapped")?,
                converting: row.get("converting")?,
            })
        };
        rows.iter().map(row).collect()
    }

    async fn change(&self, tenant: &str, text: &str, mut values: Vec<Value>) -> Result<u64> {
        values.insert(0, tenant.into());
        let desk = self.base().works(tenant);
        let done = desk.execute_raw(sql(&desk, text, values)).await.map_err(|e| unsure(&e))?;
        Ok(done.rows_affected())
    }

    pub(in crate::store) async fn put_data_key(
        &self,
        tenant: &str,
        row: &KeyRow,
        actor: Actor,
    ) -> Result<()> {
        let text =
            "insert into data_key (tenant, key_id, master, wrapped, converting) values ($1, $2, $3, $4, $5)";
        let KeyRow { key, master, wrapped, converting } = row.clone();
        let values = vec![tenant.into(), key.into(), master.into(), wrapped.into(), converting.into()];
        let (base, note) = (self.base().clone(), Noted::key_made(tenant, key, actor));
        detached(async move {
            let tx = base.begin(&note.tenant).await?;
            write(&tx, text, values).await?;
            audit::note(&tx, &note).await?;
            tx.commit().await
        })
        .await
    }

    /// Stores a key as another master key wraps it.
    pub(in crate::store) async fn rewrap(&self, tenant: &str, row: &KeyRow) -> Result<()> {
        let text = "update data_key set master = $3, wrapped = $4 where tenant = $1 and key_id = $2";
        let values = vec![row.key.into(), row.master.as_str().into(), row.wrapped.clone().into()];
        self.change(tenant, text, values).await.map(drop)
    }

    /// Notes that all is sealed, or not yet.
    pub(in crate::store) async fn set_converting(&self, converting: bool) -> Result<()> {
        let text = "update data_key set converting = $2 where tenant = $1";
        match self.change(DEPLOYMENT, text, vec![converting.into()]).await? {
            0 => Err(StoreError::Corrupt { what: "data key", why: "that of the database is gone".into() }),
            _ => Ok(()),
        }
    }

    /// Lists the tenants that have a thread or a key, and the deployment.
    pub(in crate::store) async fn tenants(&self) -> Result<Vec<String>> {
        let mut all = vec![DEPLOYMENT.to_owned()];
        let mut after = String::new();
        loop {
            let page = match self.base() {
                Base::Postgres(db) => postgres::wide::tenants(db, &after, TENANTS).await?,
                Base::Sqlite(db) => sqlite::wide::tenants(db, &after, TENANTS).await?,
            };
            let Some(last) = page.last() else { return Ok(all) };
            after.clone_from(last);
            all.extend(page.into_iter().filter(|tenant| tenant != DEPLOYMENT));
        }
    }

    /// Says whether several processes may be on the database at once.
    pub(in crate::store) fn is_shared(&self) -> bool {
        matches!(self.base(), Base::Postgres(_))
    }

    /// Says whether anything is stored of anybody, or a graph.
    pub(in crate::store) async fn is_used(&self) -> Result<bool> {
        let text = "select 1 from graph_version where tenant = $1 limit 1";
        let desk = self.base().works(DEPLOYMENT);
        let version = read::row(&desk, "graph version", text, vec![DEPLOYMENT.into()]).await?;
        Ok(version.is_some() || self.tenants().await?.len() > 1)
    }

    /// Writes a SQLite file anew, so that nothing is left in it of what stood there before. On PostgreSQL that is the work of
    /// its vacuum.
    pub(in crate::store) async fn scrub(&self) -> Result<()> {
        let Base::Sqlite(db) = self.base() else { return Ok(()) };
        for text in ["vacuum", "pragma wal_checkpoint(truncate)"] {
            db.write.execute_unprepared(text).await.map_err(|e| super::error::undone(&e))?;
        }
        Ok(())
    }
}
