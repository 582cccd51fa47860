//! The contract of the store, proved on every back end.

mod accept;
mod audit;
mod branch;
mod cache;
mod claim;
mod delay;
mod hook;
mod keep;
mod line;
mod news;
mod operate;
mod question;
mod race;
mod seal;
mod sql;
mod turns;
mod wall;
mod write;

/// Makes a test for each back end out of each case. What encryption does before a store it does before any, and SQLite is the
/// cheaper one; after `sealed:` come those whose statements differ with it, or that move each sort of bytes, and they are
/// tried on PostgreSQL, too.
macro_rules! on_every_store {
    (sealed: $($case:ident),* $(,)?) => {
        $crate::store::on_every_store![$($case),*];
        mod encrypted_on_postgres {
            use crate::support::{Fresh, Subject};

            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                let subject = Subject::sealed(Fresh::postgres().await).await;
                super::$case(subject.store.clone()).await;
            })*
        }
    };
    ($($case:ident),* $(,)?) => {
        $(mod $case {
            use crate::support::Subject;

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn in_memory() {
                super::$case(Subject::memory().store).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn on_sqlite() {
                let subject = Subject::sqlite().await;
                super::$case(subject.store.clone()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn on_postgres() {
                let subject = Subject::postgres().await;
                super::$case(subject.store.clone()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn encrypted_on_sqlite() {
                let subject = Subject::sealed(crate::support::Fresh::sqlite()).await;
                super::$case(subject.store.clone()).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn behind_pgbouncer() {
                let subject = Subject::behind_pgbouncer().await;
                super::$case(subject.store.clone()).await;
            }
        })*
    };
}
pub(super) use self::sql::numbers;
use on_every_store;
