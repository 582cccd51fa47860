//! The contract of the store, proved on every back end.

mod accept;
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

/// Makes a test for each back end out of each case.
macro_rules! on_every_store {
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
            async fn encrypted_on_postgres() {
                let subject = Subject::sealed(crate::support::Fresh::postgres().await).await;
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
use on_every_store;
