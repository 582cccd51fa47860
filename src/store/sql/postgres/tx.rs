//! A transaction of several statements.
//!
//! Invariant: a connection comes back only after `commit` or `rollback` was answered; a transaction that is dropped, or
//! that broke, takes its connection along.

use sea_orm::{DbErr, ExecResult, QueryResult, Statement};
use tokio::sync::Mutex;

use super::bind;
use super::lane::{Answer, Held, Lanes, Speech};

/// A transaction of a tenant.
#[derive(Debug)]
pub(in crate::store::sql) struct Tx {
    tenant: String,
    held: Mutex<Held>,
}

impl Lanes {
    /// Begins a transaction; it knows its tenant from the first round trip on.
    pub(in crate::store::sql) async fn begin(&self, tenant: &str) -> Result<Tx, DbErr> {
        let mut held = self.take().await?;
        // An error may come after the transaction began: then the connection is dropped.
        held.text(&format!("begin; {}", bind::opening(Some(tenant)))).await?;
        Ok(Tx { tenant: tenant.to_owned(), held: Mutex::new(held) })
    }
}

impl Tx {
    pub(in crate::store::sql) async fn commit(self) -> Result<(), DbErr> {
        self.end("commit").await
    }

    pub(in crate::store::sql) async fn rollback(self) -> Result<(), DbErr> {
        self.end("rollback").await
    }

    async fn end(self, word: &str) -> Result<(), DbErr> {
        let mut held = self.held.into_inner();
        held.text(word).await?;
        held.back();
        Ok(())
    }

    async fn say(&self, statement: Statement) -> Result<Answer, DbErr> {
        let (tenant, values) = (Some(self.tenant.as_str()), statement.values.map_or_else(Vec::new, |v| v.0));
        let mut held = self.held.lock().await;
        match held.speech() {
            Speech::Prepared => held.prepared(tenant, &statement.sql, &values).await,
            Speech::Text => held.text(&bind::written(tenant, &statement.sql, &values)?).await,
        }
    }

    pub(in crate::store::sql) async fn execute(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        Ok(self.say(statement).await?.done.into())
    }

    pub(in crate::store::sql) async fn query(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        Ok(self.say(statement).await?.rows.into_iter().map(QueryResult::from).collect())
    }
}
