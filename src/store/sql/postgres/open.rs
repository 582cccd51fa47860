//! Opens the connections to Postgres, and finds out what lies between.
//!
//! Invariant: the service works as the role `graphloom_app`, whoever logs in; behind a pooler, which shares its
//! connections, whoever logs in must be no more than that.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sea_orm::SqlxError;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Row};

use super::bind::TIMES;
use super::lane::{Lanes, Speech, Waits, failed};
use crate::store::sql::ANSWER;
use crate::store::sql::error::undone;
use crate::store::{Result, StoreError};

/// Connections for what runs write, and for what requests write.
const WORKS: usize = 10;
/// Connections for what requests read.
pub(super) const READS: usize = 4;
/// Connections for what looks over all tenants.
const WIDE: usize = 2;
/// Runs wait long enough for a thousand turns that come at once.
const PATIENT: Waits = Waits { lane: Duration::from_secs(30), answer: ANSWER };
const SOON: Waits = Waits { lane: Duration::from_secs(5), answer: ANSWER };
/// A heartbeat whose connection hangs has time for another one.
const AT_ONCE: Waits = Waits { lane: Duration::from_secs(2), answer: Duration::from_secs(2) };
/// How long the first connection may take.
const FIRST: Duration = Duration::from_secs(5);
/// Who the service is in the database.
pub(super) const APP: &str = "graphloom_app";

/// Connections by purpose.
#[derive(Debug)]
pub(in crate::store::sql) struct Postgres {
    pub(in crate::store::sql) works: Lanes,
    pub(in crate::store::sql) reads: Lanes,
    pub(in crate::store::sql) wide: Lanes,
    /// Used by one thread only, to whose runtime its connection belongs.
    pub(in crate::store::sql) beats: Lanes,
    /// As whoever logs in, who may be the owner of the tables.
    pub(in crate::store::sql) login: PgConnectOptions,
    pub(in crate::store::sql) pooled: bool,
}

/// Connects within a moment, or says why not.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    let opened = tokio::time::timeout(FIRST, options.connect()).await;
    opened.map_err(|_| silent())?.map_err(|error| unconnected(&error))
}

/// Refuses a server, a database or a role whose commits do not wait for the disk: what is promised rests on that.
async fn keeps_commits(connection: &mut PgConnection) -> Result<()> {
    let shown = sqlx::raw_sql("show synchronous_commit").fetch_one(connection).await;
    let shown: String = shown.and_then(|row| row.try_get(0)).map_err(|error| unconnected(&error))?;
    if shown == "off" {
        let why = "`synchronous_commit` is off: an answered request could be lost with the server; set it to `on` for \
                   this database or role";
        return Err(StoreError::Config(why.into()));
    }
    Ok(())
}

/// Says whether a pooler lies between: it refuses the options of a connection, or they do not reach the server.
async fn is_pooled(direct: &PgConnectOptions) -> Result<bool> {
    let mut connection = match tokio::time::timeout(FIRST, direct.connect()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(SqlxError::Database(error))) if !is_busy(error.code().as_deref()) => return Ok(true),
        Ok(Err(error)) => return Err(unconnected(&error)),
        Err(_) => return Err(silent()),
    };
    let (name, value) = TIMES[0];
    let shown = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("show {name}"))).fetch_one(&mut connection).await;
    let shown: String = shown.and_then(|row| row.try_get(0)).map_err(|error| unconnected(&error))?;
    Ok(shown != value)
}

/// Says whether a code is about how the server is, and not about what it was asked.
fn is_busy(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.starts_with("53") || code.starts_with("57"))
}

/// The driver's own texts hold no password.
fn unconnected(error: &SqlxError) -> StoreError {
    StoreError::Unavailable(format!("cannot connect to Postgres: {error}"))
}

fn silent() -> StoreError {
    StoreError::Unavailable("cannot connect to Postgres: it does not answer".into())
}

pub(in crate::store::sql) async fn open(url: &str) -> Result<Postgres> {
    let login = PgConnectOptions::from_str(url).map_err(|_| {
        StoreError::Config(
            "the database URL cannot be read; expected `postgres://user:password@host:port/database`".into(),
        )
    })?;
    let login = login
        .application_name("graphloom")
        // Nothing here is a float, and poolers refuse what they do not know.
        .extra_float_digits(None)
        .disable_statement_logging();
    keeps_commits(&mut connect(&login).await?).await?;
    let direct = login.clone().options(TIMES);
    let pooled = is_pooled(&direct).await?;
    let (options, speech) = if pooled {
        (login.clone(), Speech::Text)
    } else {
        let network = [("tcp_keepalives_idle", "10"), ("tcp_user_timeout", "10s"), ("role", APP)];
        (direct.options(network), Speech::Prepared)
    };
    let known = Arc::default();
    let lanes = |count, waits| Lanes::new(options.clone(), speech, count, waits, &known);
    Ok(Postgres {
        works: lanes(WORKS, PATIENT),
        reads: lanes(READS, SOON),
        wide: lanes(WIDE, SOON),
        beats: lanes(1, AT_ONCE),
        login,
        pooled,
    })
}

impl Postgres {
    /// Reads through which migrations the tables have been.
    pub(in crate::store::sql) async fn applied(&self) -> Result<BTreeSet<String>> {
        let mut connection = connect(&self.login).await?;
        let mut read = async |text| {
            let rows = sqlx::raw_sql(text).fetch_all(&mut connection).await;
            let rows = rows.map_err(|error| match error.as_database_error() {
                Some(error) if error.code().as_deref() == Some("42501") => self.stranger(),
                _ => undone(&failed(error)),
            })?;
            let names = rows.iter().map(|row| row.try_get(0)).collect::<std::result::Result<_, _>>();
            names.map_err(|error| undone(&failed(error)))
        };
        let there: BTreeSet<String> = read(
            "select to_regclass('seaql_migrations')::text where to_regclass('seaql_migrations') is not null",
        )
        .await?;
        if there.is_empty() { Ok(there) } else { read("select version from seaql_migrations").await }
    }

    /// Says that whoever logs in may not work as the service.
    pub(super) fn stranger(&self) -> StoreError {
        let login = self.login.get_username();
        StoreError::Config(format!(
            "`{login}` may not work as `{APP}`; the owner of the tables, or an administrator, runs: grant {APP} to {login}"
        ))
    }
}
