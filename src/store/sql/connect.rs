//! Opens the pools, with the settings without which neither database is safe under load.
//!
//! Invariant: a SQLite file has one process and one writing connection; whoever opens it by `mode=ro` only looks.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sea_orm::{ConnectOptions, Database, DatabaseConnection, DbErr, SqlxError};
use sqlx::Connection;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use crate::store::{Result, StoreError};

/// The connections of a store.
#[derive(Debug)]
pub(super) struct Pools {
    /// Writes, one at a time on SQLite.
    pub(super) write: DatabaseConnection,
    /// Reads.
    pub(super) read: DatabaseConnection,
    /// Heartbeats: busy pools must not cost the process its leases.
    pub(super) beat: DatabaseConnection,
    /// Held for as long as the SQLite file is open.
    _lock: Option<File>,
}

/// Connections that stay with the statements of every turn.
pub(super) const POSTGRES_LANES: usize = 8;
/// Connections to Postgres besides the one for heartbeats; what the lanes leave is for reads and transactions.
const POSTGRES_CONNECTIONS: u32 = 12;
/// Connections that read a SQLite file.
const SQLITE_READERS: u32 = 4;
/// How long an operation waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(5);

fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .acquire_timeout(ACQUIRE)
        .sqlx_logging(false)
        .record_stmt_in_spans(false);
    options
}

/// The driver's text may quote the URL and with it a password.
fn refused(what: &str) -> impl Fn(DbErr) -> StoreError {
    move |error| StoreError::Unavailable(format!("{what}: {error}"))
}

pub(super) async fn postgres(url: &str) -> Result<Pools> {
    if PgConnectOptions::from_str(url).is_err() {
        return Err(StoreError::Config(
            "the database URL cannot be read; expected `postgres://user:password@host:port/database`".into(),
        ));
    }
    // The pool would try for a while and then say only that it took too long.
    let first = async { sqlx::PgConnection::connect(url).await?.close().await };
    let why = |error: SqlxError| StoreError::Unavailable(format!("cannot connect to Postgres: {error}"));
    tokio::time::timeout(ACQUIRE, first)
        .await
        .map_err(|_| StoreError::Unavailable("cannot connect to Postgres: it does not answer".into()))?
        .map_err(why)?;
    let pool = async |connections| {
        let mut options = options(url, connections);
        options
            // A ping before each statement would double the round trips; one after a pause finds the dead.
            .test_before_acquire_if_idle_for(Duration::from_secs(1))
            .set_application_name("graphloom")
            .map_sqlx_postgres_opts(|o| {
                o.options([
                    ("statement_timeout", "5s"),
                    ("lock_timeout", "2s"),
                    ("idle_in_transaction_session_timeout", "10s"),
                    ("tcp_keepalives_idle", "10"),
                    ("tcp_user_timeout", "10s"),
                ])
            })
            // The pool pings what comes back to it, and waits as long as a host that is gone lets it.
            .map_sqlx_postgres_pool_opts(|o| {
                o.after_release(|connection, _| {
                    Box::pin(async move {
                        let ping = tokio::time::timeout(ACQUIRE, connection.ping());
                        ping.await.unwrap_or(Err(SqlxError::PoolTimedOut)).map(|()| true)
                    })
                })
            });
        Database::connect(options).await.map_err(refused("cannot connect to Postgres"))
    };
    let write = pool(POSTGRES_CONNECTIONS).await?;
    Ok(Pools { read: write.clone(), write, beat: pool(1).await?, _lock: None })
}

pub(super) async fn sqlite(url: &str) -> Result<Pools> {
    let parsed = SqliteConnectOptions::from_str(url)
        .map_err(|e| StoreError::Config(format!("the database URL cannot be read: {e}")))?;
    let memory = url.contains(":memory:") || url.contains("mode=memory");
    // Who only looks may look while another process works on it.
    let looks = url.contains("mode=ro");
    let lock = if memory || looks { None } else { Some(lock(parsed.get_filename())?) };
    let pool = async |connections, reads_only: bool| {
        let mut options = options(url, connections);
        // A connection to a database in memory is the database.
        options.idle_timeout(None).max_lifetime(None).test_before_acquire(false);
        options.map_sqlx_sqlite_opts(move |o| {
            let o = o
                .journal_mode(SqliteJournalMode::Wal)
                // With NORMAL, a power cut can take back what was answered.
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(5))
                .foreign_keys(true);
            if reads_only { o.pragma("query_only", "on") } else { o }
        });
        Database::connect(options).await.map_err(refused("cannot open the SQLite file"))
    };
    let write = pool(1, false).await?;
    let read = if memory { write.clone() } else { pool(SQLITE_READERS, true).await? };
    Ok(Pools { beat: write.clone(), write, read, _lock: lock })
}

/// Takes the file beside the database that tells a second process to stay away.
fn lock(database: &Path) -> Result<File> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| StoreError::Config(format!("cannot open `{}`: {e}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Config(format!(
            "another process uses `{}`; a SQLite file serves one process, use Postgres for several",
            database.display()
        ))),
        Err(TryLockError::Error(e)) => {
            Err(StoreError::Config(format!("cannot lock `{}`: {e}", path.display())))
        }
    }
}
