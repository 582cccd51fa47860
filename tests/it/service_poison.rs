//! A run that kills its process, among others that do not.

use std::time::{Duration, Instant};

use sea_orm::DbBackend;

use crate::store::numbers;
use crate::support::stream::{Event, status};
use crate::support::world::{GRAPH, World};
use crate::support::{Fresh, plain};

const POISON: &str = "[[hang key=poison]]";
/// Long enough to be at work when the process dies.
const HEALTHY: &str = "[[first=400ms key=healthy]]";
/// How long each step may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until an event is stored: what was shown and is not would die with the process.
async fn is_stored(world: &World, event: &Event) {
    let run = event.json["run_id"].as_str().unwrap();
    let db = plain(&world.fresh.url).await;
    let id = match db.get_database_backend() {
        DbBackend::Postgres => format!("'{run}'::uuid"),
        _ => format!("x'{}'", run.replace('-', "")),
    };
    let there = format!(
        "select count(*) from event where run_id = {id} and fence = {} and last_n >= {}",
        event.json["epoch"], event.json["seq"]
    );
    let patience = Instant::now() + PATIENCE;
    while numbers(&db, &there).await[0] == 0 {
        assert!(Instant::now() < patience, "it is not stored: {}", world.service.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    db.close().await.unwrap();
}

/// Kills the process as soon as the poison works in it, as the poison would. False: it was given up.
async fn dies(world: &mut World, deaths: usize) -> bool {
    let patience = Instant::now() + PATIENCE;
    loop {
        let calls = world.calls().await;
        if calls.iter().filter(|call| call["body"].to_string().contains("key=poison")).count() > deaths {
            world.service.process.crash();
            return true;
        }
        if world.metric("graphloom_runs{state=\"dead\"}").await > 0 {
            return false;
        }
        assert!(Instant::now() < patience, "neither dead nor at work: {}", world.service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_kills_its_process_is_given_up_and_takes_no_neighbour_with_it() {
    let more = "[limits]\ncrashes = 4\n";
    for (fresh, settings, most, neighbours) in
        [(Fresh::sqlite(), "", 3, ["a", "b", "c"].as_slice()), (Fresh::postgres().await, more, 4, &["a"])]
    {
        let mut world = World::with_settings(fresh, GRAPH, settings).await;
        let mut streams = Vec::new();
        for session in neighbours {
            streams.push(((*session).to_owned(), world.chat(session, HEALTHY).await));
        }
        streams.push(("poison".to_owned(), world.chat("poison", POISON).await));
        // Those who take over have the same node at work, and tell its start no second time.
        for (_, stream) in &mut streams {
            is_stored(&world, &stream.until("node.started").await).await;
        }
        let mut deaths = 0;
        while dies(&mut world, deaths).await {
            deaths += 1;
            assert!(deaths < 6, "it is never given up");
            world.restart();
            // Somebody new beside it, each time.
            let session = format!("new{deaths}");
            let stream = world.chat(&session, HEALTHY).await;
            streams.push((session, stream));
        }
        assert_eq!(deaths, most);
        for (session, stream) in &streams {
            let run = stream.run();
            let events = world.follow(&run, &format!("{run}:0-0")).await.rest().await;
            let kinds: Vec<&str> = events.iter().map(Event::kind).collect();
            if session == "poison" {
                assert_eq!(status(&events), "dead");
                assert!(
                    kinds.ends_with(&["node.reset", "node.finished", "error", "run.finished"]),
                    "{kinds:?}"
                );
                let error = &events[events.len() - 2].json;
                assert_eq!(
                    (&error["code"], &error["node"]),
                    (&"gave_up".into(), &"answer".into()),
                    "{error}"
                );
            } else {
                assert_eq!(status(&events), "completed", "{session}: {kinds:?}");
            }
        }
        let open = "graphloom_attempts_given_up_total{graph=\"chat\",node=\"answer\"}";
        assert_eq!(world.metric(open).await, 1);
        assert!(world.metric("graphloom_quarantined_total").await >= 1, "{}", world.service.log());
        assert!(world.service.log().contains("Run given up"), "{}", world.service.log());
    }
}
