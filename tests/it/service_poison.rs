//! A run that kills its process, among others that do not.

use std::time::{Duration, Instant};

use crate::support::Fresh;
use crate::support::stream::{Event, status};
use crate::support::world::World;

const POISON: &str = "[[hang key=poison]]";
const HEALTHY: &str = "[[first=1s key=healthy]]";

/// Kills the process as soon as the poison works in it, as the poison would.
async fn dies(world: &mut World, deaths: usize) -> bool {
    let patience = Instant::now() + Duration::from_mins(1);
    loop {
        let calls = world.calls().await;
        if calls.iter().filter(|call| call["body"].to_string().contains("key=poison")).count() > deaths {
            world.service.process.crash();
            return true;
        }
        let dead = world.metric("graphloom_runs{state=\"dead\"}").await;
        if dead > 0 {
            return false;
        }
        assert!(Instant::now() < patience, "neither dead nor at work: {}", world.service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_kills_its_process_is_given_up_and_takes_no_neighbour_with_it() {
    for fresh in [Fresh::sqlite(), Fresh::postgres().await] {
        let mut world = World::start(fresh).await;
        let mut streams = Vec::new();
        for (session, message) in
            [("a", HEALTHY), ("b", HEALTHY), ("poison", POISON), ("c", HEALTHY), ("d", HEALTHY)]
        {
            streams.push((session.to_owned(), world.chat(session, message).await));
        }
        for (_, stream) in &mut streams {
            stream.until("node.started").await;
        }
        // What is shown before it dies is stored, too.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut deaths = 0;
        while dies(&mut world, deaths).await {
            deaths += 1;
            assert!(deaths < 5, "it is never given up");
            world.restart();
            // Somebody new beside it, each time.
            let session = format!("new{deaths}");
            let stream = world.chat(&session, HEALTHY).await;
            streams.push((session, stream));
        }
        assert_eq!(deaths, 3);
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
