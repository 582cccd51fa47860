//! Connections for one purpose, so that what is busy with another cannot use them up.
//!
//! They stay open between statements, and nothing pings them each time, which would be a second round trip. Invariant: a
//! connection comes back only after the whole answer was read and outside of any transaction. Statements run in tasks
//! of their own, so a caller that goes away changes nothing; whatever breaks costs the connection.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use sea_orm::{ConnAcquireErr, DbErr, ExecResult, QueryResult, RuntimeErr, SqlxError, Statement, Value};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgQueryResult, PgRow, PgSeverity};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Either, Execute, Executor, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::bind;
use super::identity::{self, Identity, Known};
use crate::store::sql::{TRANSACTION, silent};

/// After such a pause the connection may be dead without our knowing.
const DOUBT: Duration = Duration::from_secs(1);
/// What is unused for so long is closed.
const IDLE: Duration = Duration::from_mins(10);
/// What is older is closed, so that connections move when the server did.
const AGE: Duration = Duration::from_mins(30);
/// How long opening a connection may take, tries included.
const OPEN: Duration = Duration::from_secs(5);
/// The pause before a server that is not there, or not yet, is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    /// Prepared once for each connection.
    Prepared,
    /// As one text: behind a pooler, where the next statement may meet another connection of the server.
    Text,
}

/// How long it is waited.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    /// For a lane. A server that is gone is noticed by those who have one.
    pub(super) lane: Duration,
    /// For the answer to a statement; silence costs the connection.
    pub(super) answer: Duration,
}

/// At most so many connections, and those that are not in use.
#[derive(Debug, Clone)]
pub(in crate::store::sql) struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: PgConnectOptions,
    speech: Speech,
    waits: Waits,
    free: Arc<Semaphore>,
    /// Who answers, the same for all lanes of a store.
    known: Arc<Known>,
    /// The last used at the end.
    idle: Mutex<VecDeque<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: PgConnection,
    server: Option<Identity>,
    born: Instant,
    used: Instant,
}

/// What a statement answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) rows: Vec<PgRow>,
    pub(super) done: PgQueryResult,
}

/// A connection in use. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct Held {
    connection: PgConnection,
    server: Option<Identity>,
    born: Instant,
    home: Lanes,
    _lane: OwnedSemaphorePermit,
}

/// Tells whether the connection outlived the error; in doubt it did not.
fn still_there(error: &SqlxError) -> bool {
    let SqlxError::Database(error) = error else { return false };
    error.try_downcast_ref::<PgDatabaseError>().is_some_and(|e| e.severity() == PgSeverity::Error)
}

pub(super) fn failed(error: SqlxError) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

/// Tells whether a server may be there in a moment: it starts, or a failover is under way.
fn comes_back(error: &SqlxError) -> bool {
    match error {
        SqlxError::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        SqlxError::Database(error) => error.code().as_deref() == Some("57P03"),
        _ => false,
    }
}

impl Lanes {
    pub(super) fn new(
        options: PgConnectOptions,
        speech: Speech,
        lanes: usize,
        waits: Waits,
        known: &Arc<Known>,
    ) -> Self {
        let (free, known) = (Arc::new(Semaphore::new(lanes)), known.clone());
        Self(Arc::new(Inner { options, speech, waits, free, known, idle: Mutex::default() }))
    }

    async fn lane(&self) -> Result<OwnedSemaphorePermit, DbErr> {
        let lane = tokio::time::timeout(self.0.waits.lane, self.0.free.clone().acquire_owned()).await;
        let lane = lane.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?;
        lane.map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed))
    }

    fn idle(&self) -> Option<Idle> {
        self.0.idle.lock().unwrap_or_else(PoisonError::into_inner).pop_back()
    }

    async fn held(&self, lane: OwnedSemaphorePermit) -> Result<Held, DbErr> {
        // The newest first: under little load few connections stay warm.
        while let Some(Idle { mut connection, server, born, used }) = self.idle() {
            if born.elapsed() > AGE || !self.0.known.is_current(server) {
                continue;
            }
            if used.elapsed() > DOUBT {
                match tokio::time::timeout(self.0.waits.answer, connection.ping()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) | Err(_) => continue,
                }
            }
            return Ok(Held { connection, server, born, home: self.clone(), _lane: lane });
        }
        let open = async {
            let mut connection = loop {
                match self.0.options.connect().await {
                    Err(error) if comes_back(&error) => tokio::time::sleep(PAUSE).await,
                    done => break done?,
                }
            };
            let server = identity::of(&mut connection).await?;
            Ok((connection, server))
        };
        let opened = tokio::time::timeout(OPEN, open).await;
        let (connection, server) = opened
            .map_err(|_| DbErr::ConnectionAcquire(ConnAcquireErr::Timeout))?
            .map_err(|error| DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))))?;
        self.0.known.meet(server).map_err(|why| DbErr::Conn(RuntimeErr::Internal(why)))?;
        Ok(Held { connection, server, born: Instant::now(), home: self.clone(), _lane: lane })
    }

    /// Waits for a connection.
    pub(super) async fn take(&self) -> Result<Held, DbErr> {
        self.held(self.lane().await?).await
    }

    /// Runs one statement by itself, for a tenant or for nobody.
    pub(super) async fn run(
        &self,
        tenant: Option<&str>,
        text: impl Into<Arc<str>>,
        values: impl Into<Arc<Vec<Value>>>,
    ) -> Result<Answer, DbErr> {
        let (text, values) = (text.into(), values.into());
        let lane = self.lane().await?;
        let (home, tenant) = (self.clone(), tenant.map(str::to_owned));
        #[expect(
            clippy::disallowed_methods,
            reason = "it is awaited here; only a dropped request leaves it running"
        )]
        let task = tokio::spawn(async move {
            let mut held = home.held(lane).await?;
            let answer = match home.0.speech {
                Speech::Prepared => held.prepared(tenant.as_deref(), &text, &values).await,
                Speech::Text => held.text(&bind::alone(tenant.as_deref(), &text, &values)?).await,
            };
            held.settle(answer)
        });
        match tokio::time::timeout(TRANSACTION, task).await {
            Ok(done) => done.unwrap_or_else(|_| Err(failed(SqlxError::WorkerCrashed))),
            Err(_) => Err(silent()),
        }
    }

    /// Answers when the database does.
    pub(in crate::store::sql) async fn ping(&self) -> Result<(), DbErr> {
        self.run(None, "select 1", Vec::new()).await.map(drop)
    }

    /// Runs one statement of a tenant by itself.
    pub(in crate::store::sql) async fn execute(
        &self,
        tenant: &str,
        statement: Statement,
    ) -> Result<ExecResult, DbErr> {
        let values = statement.values.map_or_else(Vec::new, |values| values.0);
        Ok(self.run(Some(tenant), statement.sql, values).await?.done.into())
    }

    /// Runs one statement of a tenant by itself, and returns its rows.
    pub(in crate::store::sql) async fn query(
        &self,
        tenant: &str,
        statement: Statement,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let values = statement.values.map_or_else(Vec::new, |values| values.0);
        Ok(self
            .run(Some(tenant), statement.sql, values)
            .await?
            .rows
            .into_iter()
            .map(QueryResult::from)
            .collect())
    }
}

impl Held {
    pub(super) fn speech(&self) -> Speech {
        self.home.0.speech
    }

    /// Sends a statement that the connection knows, or learns.
    pub(super) async fn prepared(
        &mut self,
        tenant: Option<&str>,
        text: &str,
        values: &[Value],
    ) -> Result<Answer, DbErr> {
        let mut query = sqlx::query(AssertSqlSafe(text));
        for (place, value) in values.iter().enumerate() {
            query = bind::bind(query, tenant.filter(|_| place == 0), value)?;
        }
        if tenant.is_some() && values.is_empty() {
            return Err(bind::nameless());
        }
        self.answered(query).await
    }

    async fn answered<'q>(&mut self, query: impl Execute<'q, Postgres> + 'q) -> Result<Answer, DbErr> {
        let answer = tokio::time::timeout(self.home.0.waits.answer, collect(&mut self.connection, query));
        answer.await.map_err(|_| silent())?.map_err(failed)
    }

    /// Sends statements as one text, which are one transaction unless they begin or end one. The answer is that of the last.
    pub(super) async fn text(&mut self, text: &str) -> Result<Answer, DbErr> {
        self.answered(sqlx::raw_sql(AssertSqlSafe(text))).await
    }

    /// Gives the connection back, unless the error may have broken it.
    pub(super) fn settle<T>(self, answer: Result<T, DbErr>) -> Result<T, DbErr> {
        let well = match &answer {
            Err(DbErr::Query(RuntimeErr::SqlxError(error))) => still_there(error),
            Err(_) => false,
            Ok(_) => true,
        };
        if well {
            self.back();
        }
        answer
    }

    /// Gives the connection back. No transaction is open on it.
    pub(super) fn back(self) {
        let Self { connection, server, born, home, _lane } = self;
        let now = Instant::now();
        let mut idle = home.0.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.used.elapsed() < IDLE);
        idle.push_back(Idle { connection, server, born, used: now });
    }
}

async fn collect<'q>(
    connection: &mut PgConnection,
    query: impl Execute<'q, Postgres> + 'q,
) -> Result<Answer, SqlxError> {
    let mut answer = Answer::default();
    let mut steps = connection.fetch_many(query);
    // The rows that are there are of a statement that is over.
    let mut over = false;
    while let Some(step) = steps.try_next().await? {
        match step {
            Either::Left(done) => {
                if std::mem::replace(&mut over, true) {
                    answer.rows.clear();
                }
                answer.done = done;
            }
            Either::Right(row) => {
                if std::mem::take(&mut over) {
                    answer.rows.clear();
                }
                answer.rows.push(row);
            }
        }
    }
    Ok(answer)
}
