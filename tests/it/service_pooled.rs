//! The service behind a PgBouncer in transaction mode with two connections for all.

use futures_util::future::join_all;
use graphloom::store::Store;
use reqwest::StatusCode;

use crate::support::Fresh;
use crate::support::pgbouncer::PgBouncer;
use crate::support::process::Service;
use crate::support::stream::{shown, status};
use crate::support::world::{World, now};

#[tokio::test(flavor = "multi_thread")]
async fn behind_pgbouncer_chats_go_on_side_by_side_and_over_a_crash() {
    let mut fresh = Fresh::postgres().await;
    fresh.open().await.migrate().await.unwrap();
    let role = fresh.role("app", "in role graphloom_app").await;
    let bouncer = PgBouncer::start(&fresh, &role);
    fresh.url.clone_from(&bouncer.url);
    let mut world = World::start(fresh).await;
    let turns = (0..8).map(|i| {
        let world = &world;
        async move { world.chat(&format!("s{i}"), &format!("[[say=it's_{i}]]")).await.rest().await }
    });
    for (i, events) in join_all(turns).await.iter().enumerate() {
        assert_eq!((status(events), shown(events)), ("completed", format!("it's_{i}")));
    }
    let mut open = world.chat("s0", "[[tokens=200 delay=20ms]]").await;
    let run = open.run();
    let first = open.next().await.unwrap().id;
    world.service.process.crash();
    world.restart();
    let events = world.follow(&run, &first).await.rest().await;
    assert_eq!(status(&events), "completed", "{events:?}");
    let messages = world.messages("s0").await;
    assert_eq!(messages.len(), 4, "{messages:?}");
    // What one replica ends is ended by the other, which asks for it.
    let two = Service::start(&world.folder, &world.fresh.url, "two");
    let mut open = world.chat("s1", "[[tokens=900 delay=50ms]]").await;
    open.until("message.delta").await;
    let asked = now();
    let cancel = world.http.post(format!("{}/v1/runs/{}/cancel", two.base, open.run()));
    assert_eq!(world.ask(cancel).await.status, StatusCode::ACCEPTED);
    let events = open.rest().await;
    assert_eq!(status(&events), "cancelled");
    assert!(now() - asked <= 2500, "{} ms", now() - asked);
}
