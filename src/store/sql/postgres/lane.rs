//! Connections that stay checked out for the statements of every turn.
//!
//! The driver's pool pings a connection each time that it comes back, a second round trip for each statement.
//! Invariant: a connection goes back to its lane only after the whole answer was read; one whose caller went away
//! goes to the pool, which knows how to clean it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnAcquireErr, DbErr, QueryResult, RuntimeErr, SqlxError, Value};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgDatabaseError, PgSeverity};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Connection, PgPool, Postgres};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::answered;

/// How long a caller waits for a lane: long enough for a thousand turns that come at once. A database that is gone
/// is noticed by those who have one.
const WAIT: Duration = Duration::from_secs(30);
/// After such a pause the connection may be dead without our knowing.
const DOUBT: Duration = Duration::from_secs(1);

/// A fixed number of connections, each with the time of its last use.
#[derive(Debug)]
pub(in crate::store::sql) struct Lanes {
    pool: PgPool,
    free: Semaphore,
    idle: Mutex<Vec<(PoolConnection<Postgres>, Instant)>>,
}

/// Tells whether the connection outlived the error; in doubt it did not.
fn still_there(error: &DbErr) -> bool {
    let DbErr::Query(RuntimeErr::SqlxError(error)) = error else { return false };
    let SqlxError::Database(error) = &**error else { return false };
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|e| e.severity() == PgSeverity::Error)
}

fn failed(error: SqlxError) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

impl Lanes {
    pub(in crate::store::sql) fn new(pool: PgPool, lanes: usize) -> Self {
        Self { pool, free: Semaphore::new(lanes), idle: Mutex::default() }
    }

    async fn connection(&self) -> Result<PoolConnection<Postgres>, DbErr> {
        loop {
            // The newest first: under little load few connections stay warm.
            let last = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match last {
                None => break,
                Some((connection, used)) if used.elapsed() < DOUBT => return Ok(connection),
                Some((mut connection, _)) => {
                    let ping = connection.ping();
                    if answered(async { ping.await.map_err(failed) }).await.is_ok() {
                        return Ok(connection);
                    }
                    // The pool would ping it once more, for as long as a host that is gone lets it wait.
                    drop(connection.detach());
                }
            }
        }
        self.pool.acquire().await.map_err(|error| match error {
            SqlxError::PoolTimedOut => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
            error => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))),
        })
    }

    /// Runs one statement by itself.
    pub(super) async fn query(&self, text: &str, values: &[Value]) -> Result<Vec<QueryResult>, DbErr> {
        let timeout = || DbErr::ConnectionAcquire(ConnAcquireErr::Timeout);
        let _lane = tokio::time::timeout(WAIT, self.free.acquire())
            .await
            .map_err(|_| timeout())?
            .map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))?;
        let mut connection = self.connection().await?;
        let mut query = sqlx::query(AssertSqlSafe(text));
        for value in values {
            query = bind(query, value)?;
        }
        let fetch = query.fetch_all(&mut *connection);
        let answer = answered(async { fetch.await.map_err(failed) }).await;
        if answer.as_ref().map_or_else(still_there, |_| true) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push((connection, Instant::now()));
        } else {
            drop(connection.detach());
        }
        Ok(answer?.into_iter().map(QueryResult::from).collect())
    }
}

type Bound<'q> = Query<'q, Postgres, PgArguments>;

fn bind<'q>(query: Bound<'q>, value: &'q Value) -> Result<Bound<'q>, DbErr> {
    Ok(match value {
        Value::Bool(v) => query.bind(v),
        Value::BigInt(v) => query.bind(v),
        Value::String(v) => query.bind(v.as_deref()),
        Value::Bytes(v) => query.bind(v.as_deref()),
        Value::Uuid(v) => query.bind(v),
        Value::ChronoDateTimeUtc(v) => query.bind(v),
        Value::Array(ArrayType::String, Some(cells)) => query.bind(strings(cells)),
        Value::Array(ArrayType::BigInt, Some(cells)) => query.bind(numbers(cells)),
        Value::Array(ArrayType::Uuid, Some(cells)) => query.bind(uuids(cells)),
        Value::Array(ArrayType::Bytes, Some(cells)) => query.bind(bytes(cells)),
        other => return Err(DbErr::Type(format!("a statement cannot take {other:?}"))),
    })
}

fn strings(cells: &[Value]) -> Vec<Option<&str>> {
    cells.iter().map(|cell| if let Value::String(v) = cell { v.as_deref() } else { None }).collect()
}

fn numbers(cells: &[Value]) -> Vec<Option<i64>> {
    cells.iter().map(|cell| if let Value::BigInt(v) = cell { *v } else { None }).collect()
}

fn uuids(cells: &[Value]) -> Vec<Option<Uuid>> {
    cells.iter().map(|cell| if let Value::Uuid(v) = cell { *v } else { None }).collect()
}

fn bytes(cells: &[Value]) -> Vec<Option<&[u8]>> {
    cells.iter().map(|cell| if let Value::Bytes(v) = cell { v.as_deref() } else { None }).collect()
}
