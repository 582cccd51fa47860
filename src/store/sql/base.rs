//! The two databases, and those who speak to them: the desk says one statement at a time, the transaction several.
//!
//! Invariant: whoever speaks acts for one tenant, and on Postgres sees the rows of no other.

use std::fs::File;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};

use super::error::{undone, unsure};
use super::postgres::{self, Lanes, Postgres};
use super::{answered, sqlite};
use crate::store::{Result, StoreError};

/// Where everything is kept.
#[derive(Debug, Clone)]
pub(super) enum Base {
    Postgres(Arc<Postgres>),
    Sqlite(Arc<Sqlite>),
}

/// The connections to a SQLite file.
#[derive(Debug)]
pub(super) struct Sqlite {
    /// Writes, one at a time.
    pub(super) write: DatabaseConnection,
    pub(super) read: DatabaseConnection,
    /// Held for as long as the file is open.
    pub(super) _lock: Option<File>,
}

/// Says statements for a tenant, each a transaction by itself.
#[derive(Debug)]
pub(super) enum Desk {
    Postgres(Lanes, String),
    Sqlite(DatabaseConnection),
}

/// A transaction of a tenant that writes.
#[derive(Debug)]
pub(super) enum Tx {
    Postgres(postgres::Tx),
    Sqlite(DatabaseTransaction),
}

impl Base {
    /// Opens what a URL names.
    pub(super) async fn open(url: &str) -> Result<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(Arc::new(postgres::open(url).await?)));
        }
        if url.starts_with("sqlite:") {
            return Ok(Self::Sqlite(Arc::new(sqlite::open(url).await?)));
        }
        Err(StoreError::Config("a database URL begins with `postgres://` or `sqlite:`".into()))
    }

    /// Reads for a request.
    pub(super) fn reads(&self, tenant: &str) -> Desk {
        match self {
            Self::Postgres(db) => Desk::Postgres(db.reads.clone(), tenant.to_owned()),
            Self::Sqlite(db) => Desk::Sqlite(db.read.clone()),
        }
    }

    /// Reads and writes for a run.
    pub(super) fn works(&self, tenant: &str) -> Desk {
        match self {
            Self::Postgres(db) => Desk::Postgres(db.works.clone(), tenant.to_owned()),
            Self::Sqlite(db) => Desk::Sqlite(db.write.clone()),
        }
    }

    pub(super) async fn begin(&self, tenant: &str) -> Result<Tx> {
        match self {
            Self::Postgres(db) => db.works.begin(tenant).await.map(Tx::Postgres).map_err(|e| undone(&e)),
            Self::Sqlite(db) => db.begin().await,
        }
    }
}

impl Sqlite {
    pub(super) async fn begin(&self) -> Result<Tx> {
        // A deferred transaction could find at its first write that it read too early.
        let mode = Some(SqliteTransactionMode::Immediate);
        let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
        self.write.begin_with_options(options).await.map(Tx::Sqlite).map_err(|e| undone(&e))
    }
}

impl Tx {
    pub(super) async fn commit(self) -> Result<()> {
        match self {
            Self::Postgres(tx) => tx.commit().await,
            Self::Sqlite(tx) => tx.commit().await,
        }
        .map_err(|e| unsure(&e))
    }

    pub(super) async fn rollback(self) -> Result<()> {
        match self {
            Self::Postgres(tx) => tx.rollback().await,
            Self::Sqlite(tx) => tx.rollback().await,
        }
        .map_err(|e| undone(&e))
    }
}

#[async_trait]
impl ConnectionTrait for Desk {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Postgres(..) => DbBackend::Postgres,
            Self::Sqlite(_) => DbBackend::Sqlite,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> std::result::Result<ExecResult, DbErr> {
        match self {
            Self::Postgres(lanes, tenant) => lanes.execute(tenant, statement).await,
            Self::Sqlite(db) => answered(db.execute_raw(statement)).await,
        }
    }

    async fn execute_unprepared(&self, text: &str) -> std::result::Result<ExecResult, DbErr> {
        self.execute_raw(Statement::from_string(self.get_database_backend(), text)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> std::result::Result<Option<QueryResult>, DbErr> {
        Ok(self.query_all_raw(statement).await?.into_iter().next())
    }

    async fn query_all_raw(&self, statement: Statement) -> std::result::Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Postgres(lanes, tenant) => lanes.query(tenant, statement).await,
            Self::Sqlite(db) => answered(db.query_all_raw(statement)).await,
        }
    }
}

#[async_trait]
impl ConnectionTrait for Tx {
    fn get_database_backend(&self) -> DbBackend {
        match self {
            Self::Postgres(_) => DbBackend::Postgres,
            Self::Sqlite(_) => DbBackend::Sqlite,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> std::result::Result<ExecResult, DbErr> {
        match self {
            Self::Postgres(tx) => tx.execute(statement).await,
            Self::Sqlite(tx) => answered(tx.execute_raw(statement)).await,
        }
    }

    async fn execute_unprepared(&self, text: &str) -> std::result::Result<ExecResult, DbErr> {
        self.execute_raw(Statement::from_string(self.get_database_backend(), text)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> std::result::Result<Option<QueryResult>, DbErr> {
        Ok(self.query_all_raw(statement).await?.into_iter().next())
    }

    async fn query_all_raw(&self, statement: Statement) -> std::result::Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Postgres(tx) => tx.query(statement).await,
            Self::Sqlite(tx) => answered(tx.query_all_raw(statement)).await,
        }
    }
}
