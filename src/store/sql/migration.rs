//! Applies the files of `migrations/`.
//!
//! Invariant: a file that was released never changes; a change is a new file.

use std::collections::BTreeSet;

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, SqlxPostgresConnector, TransactionTrait,
};
use sea_orm_migration::{MigrationName, MigrationTrait, MigratorTrait, SchemaManager};
use sqlx::postgres::PgPoolOptions;

use super::error::undone;
use super::postgres::{Postgres, wall};
use super::sql;
use crate::store::{Result, StoreError};

/// One version of the tables, as plain SQL for each back end.
struct SqlMigration {
    name: &'static str,
    postgres: &'static str,
    sqlite: &'static str,
}

impl MigrationName for SqlMigration {
    fn name(&self) -> &str {
        self.name
    }
}

#[async_trait::async_trait]
impl MigrationTrait for SqlMigration {
    async fn up(&self, manager: &SchemaManager) -> std::result::Result<(), DbErr> {
        let text = match manager.get_database_backend() {
            DbBackend::Postgres => self.postgres,
            _ => self.sqlite,
        };
        manager.get_connection().execute_unprepared(text).await.map(|_| ())
    }
}

/// Takes the two files of a migration in.
macro_rules! migration {
    ($name:literal) => {
        Box::new(SqlMigration {
            name: $name,
            postgres: include_str!(concat!("../../../migrations/postgres/", $name, ".sql")),
            sqlite: include_str!(concat!("../../../migrations/sqlite/", $name, ".sql")),
        })
    };
}

/// The one that brings the keys of tenants.
pub(super) const KEYS: &str = "m20261126_000012_data_key";

struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            migration!("m20261124_000001_init"),
            migration!("m20261124_000002_thread_version"),
            migration!("m20261126_000003_question"),
            migration!("m20261126_000004_answer_key"),
            migration!("m20261126_000005_operate"),
            migration!("m20261126_000006_retention"),
            migration!("m20261126_000007_cache"),
            migration!("m20261126_000008_rollback"),
            migration!("m20261126_000010_tenant_wall"),
            migration!("m20261126_000011_hooks"),
            migration!("m20261126_000012_data_key"),
            migration!("m20261126_000013_turns"),
            migration!("m20261127_000014_audit"),
            migration!("m20261127_000015_asked"),
        ]
    }
}

/// Names the advisory lock that replicas take in turn; any number that nobody else uses.
const LOCK: i64 = 0x6772_6170_686c_6f6d;

/// Brings the tables to this version, all or nothing.
async fn up(db: &DatabaseConnection) -> std::result::Result<(), DbErr> {
    let tx = db.begin().await?;
    if db.get_database_backend() == DbBackend::Postgres {
        // Waiting for another replica's migration may take longer than a statement is allowed to. The notices are
        // about tables that exist already.
        tx.execute_unprepared(
            "set local statement_timeout = 0; set local lock_timeout = 0; set local client_min_messages = warning",
        )
        .await?;
        tx.execute_raw(sql(&tx, "select pg_advisory_xact_lock($1)", vec![LOCK.into()])).await?;
    }
    Migrator::up(&tx, None).await?;
    tx.commit().await
}

pub(super) async fn sqlite(db: &DatabaseConnection) -> Result<()> {
    up(db).await.map_err(|e| undone(&e))
}

/// Does it as whoever logs in, if there is something to do; then looks whether the service may work.
pub(super) async fn postgres(db: &Postgres) -> Result<()> {
    let applied: BTreeSet<String> = db.applied().await?;
    let known = Migrator::migrations();
    let is_known = |name: &String| known.iter().any(|known| known.name() == name);
    if let Some(newer) = applied.iter().find(|name| !is_known(name)) {
        return Err(StoreError::Config(format!(
            "the database is of a newer version of graphloom: it has been through `{newer}`"
        )));
    }
    if known.len() > applied.len() {
        if db.pooled {
            return Err(StoreError::Config(
                "the database is behind this version, and is not changed through a pooler: run `graphloom migrate` \
                 with a URL that leads straight to PostgreSQL"
                    .into(),
            ));
        }
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(db.login.clone());
        let owner = SqlxPostgresConnector::from_sqlx_postgres_pool(pool);
        let done = up(&owner).await;
        // What is left of it is one connection.
        owner.close().await.map_err(|e| undone(&e))?;
        done.map_err(|error| match wall::told(&error) {
            Some((code, text)) if code == "42501" => StoreError::Config(format!(
                "the database is behind this version, and `{}` may not change it: run `graphloom migrate` as the owner \
                 of its tables ({text})",
                db.login.get_username()
            )),
            _ => undone(&error),
        })?;
    }
    wall::check(db).await
}
