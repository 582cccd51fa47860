//! Opens a SQLite file, with the settings without which it is not safe under load.
//!
//! Invariant: a SQLite file has one process and one writing connection; whoever opens it by `mode=ro` only looks.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sea_orm::{ConnectOptions, Database};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use crate::store::sql::base::Sqlite;
use crate::store::{Result, StoreError};

/// Connections that read a SQLite file.
const SQLITE_READERS: u32 = 4;
/// How long an operation waits for a free connection.
const ACQUIRE: Duration = Duration::from_secs(5);

pub(in crate::store::sql) async fn open(url: &str) -> Result<Sqlite> {
    let parsed = SqliteConnectOptions::from_str(url)
        .map_err(|e| StoreError::Config(format!("the database URL cannot be read: {e}")))?;
    let memory = url.contains(":memory:") || url.contains("mode=memory");
    // Who only looks may look while another process works on it.
    let looks = url.contains("mode=ro");
    let lock = if memory || looks { None } else { Some(lock(parsed.get_filename())?) };
    let pool = async |connections, reads_only: bool| {
        let mut options = ConnectOptions::new(url);
        options.max_connections(connections).acquire_timeout(ACQUIRE).sqlx_logging(false);
        options.record_stmt_in_spans(false);
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
        let refused = |error| StoreError::Unavailable(format!("cannot open the SQLite file: {error}"));
        Database::connect(options).await.map_err(refused)
    };
    let write = pool(1, false).await?;
    let read = if memory { write.clone() } else { pool(SQLITE_READERS, true).await? };
    Ok(Sqlite { write, read, _lock: lock })
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
