//! An address behind which another server answers.

use std::time::{Duration, Instant};

use graphloom::store::sql::SqlStore;
use graphloom::store::{Accepted, Counts, Store as _};

use super::cluster::Postgres;
use super::wire::Wire;
use crate::support::process::Folder;
use crate::support::{new_run, session};

/// How long a store may take to notice that connections are gone.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_to_another_server_that_answers_at_the_address() {
    let disks = [Folder::new(), Folder::new()];
    let [ours, other] = disks.each_ref().map(|disk| Postgres::start(disk.path()));
    SqlStore::connect(&other.url("postgres", "postgres")).await.unwrap().migrate().await.unwrap();
    let wire = Wire::to(ours.port).await;
    let store =
        SqlStore::connect(&format!("postgres://postgres@127.0.0.1:{}/postgres", wire.port)).await.unwrap();
    store.migrate().await.unwrap();
    let accept = async |name: &str| store.accept(new_run(&session(name))).await;
    assert!(matches!(accept("before").await.unwrap(), Accepted::Claimed { .. }));

    wire.lead(other.port);
    wire.cut();
    let begun = Instant::now();
    let refused = loop {
        match accept("meanwhile").await {
            // The connections that were cut are noticed one after the other.
            Err(error) if error.to_string().contains("another server answers") => break error,
            Err(_) => {}
            Ok(accepted) => panic!("{accepted:?}"),
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    assert!(refused.to_string().contains("restart this process"), "{refused}");
    assert!(store.ping().await.is_err());
    let there = SqlStore::connect(&other.url("postgres", "postgres")).await.unwrap();
    assert_eq!(there.counts().await.unwrap(), Counts::default());

    wire.lead(ours.port);
    let begun = Instant::now();
    while store.ping().await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
    }
    assert!(matches!(accept("after").await.unwrap(), Accepted::Claimed { .. }));
}
