//! The project changes while the binary serves it.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::Fresh;
use crate::support::stream::{shown, status};
use crate::support::world::{GRAPH, PROMPT, World};

/// Returns what the model is told in a turn.
async fn heard(world: &World, session: &str) -> String {
    let events = world.chat(session, "hello [[echo]]").await.rest().await;
    assert_eq!(status(&events), "completed");
    shown(&events)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_served_without_a_restart_and_one_with_errors_is_told_and_not_served() {
    let world = World::watching(Fresh::sqlite(), GRAPH).await;
    assert!(heard(&world, "s").await.contains("Be brief."));
    let mut running = world.chat("long", "[[tokens=30 delay=50ms]]").await;
    let hash = running.until("run.started").await.json["graph_hash"].clone();
    let begun = Instant::now();
    world.folder.replace("graphs/prompts/answer.md", &PROMPT.replace("brief", "kind"));
    world.reloaded("swapped", 0).await;
    println!("served {:?} after the change", begun.elapsed());
    let told = heard(&world, "s").await;
    assert!(told.contains("Be kind.") && told.matches("hello").count() >= 2, "the thread goes on: {told}");
    let graph = world.get("/v1/graphs/chat").await.json();
    assert_ne!(graph["hash"], hash);
    assert_eq!(status(&running.rest().await), "completed", "the run under way keeps its plan");
    assert_eq!(world.get("/ready").await.json(), json!({"status": "ready"}));

    world.folder.replace("graphs/chat.yaml", &GRAPH.replace("next: end", "next: ent"));
    world.reloaded("refused", 0).await;
    let ready = world.get("/ready").await;
    let stale = &ready.json()["stale"];
    assert_eq!((ready.status, &stale["errors"]), (StatusCode::OK, &json!(1)), "{ready:?}");
    let finding = &stale["findings"][0];
    assert_eq!((&finding["code"], &finding["line"]), (&json!("G201"), &json!(10)), "{finding}");
    assert!(finding["file"].as_str().unwrap().ends_with("graphs/chat.yaml"), "{finding}");
    assert_eq!(world.metric("graphloom_reload_findings").await, 1);
    let log = world.service.log();
    assert!(log.contains("error[G201]: unknown node `ent`") && log.contains("did you mean `end`?"), "{log}");
    assert!(heard(&world, "s").await.contains("Be kind."), "the last good plan goes on");

    let described = GRAPH.replace("state:", "description: Answers.\nstate:");
    world.folder.replace("graphs/chat.yaml", &described);
    world.folder.replace("graphs/other.yaml", GRAPH);
    world.reloaded("swapped", 1).await;
    assert_eq!(world.get("/ready").await.json(), json!({"status": "ready"}));
    assert_eq!(world.metric("graphloom_reload_findings").await, 0);
    assert_eq!(world.get("/v1/graphs/chat").await.json()["description"], "Answers.");
    let document = world.get("/openapi.json").await.text;
    assert!(document.contains("Graph_other_Input"), "the document is that of today's graphs");
    assert!(heard(&world, "s").await.contains("Be kind."));
    std::fs::remove_file(world.folder.path().join("graphs/other.yaml")).unwrap();
    world.reloaded("swapped", 2).await;
    assert_eq!(world.get("/v1/graphs/other").await.status, StatusCode::NOT_FOUND);
}

/// Writes files in pieces, over and over.
fn scribble(folder: &std::path::Path, stop: &AtomicBool) {
    let files = [("chat.yaml", GRAPH.to_owned()), ("prompts/answer.md", PROMPT.to_owned())];
    for round in 0_u64.. {
        for (name, text) in &files {
            let text = text.replace("Be brief.", &format!("Be brief, {round}."));
            let (half, rest) = text.split_at(text.len() * (round as usize % 7 + 1) / 9);
            let mut file = std::fs::File::create(folder.join(name)).unwrap();
            file.write_all(half.as_bytes()).unwrap();
            // Some stay halves for longer than the service waits.
            std::thread::sleep(Duration::from_millis(if round % 4 == 3 { 350 } else { 5 * (round % 8) }));
            file.write_all(rest.as_bytes()).unwrap();
        }
        // And some are whole for long enough.
        if round % 4 == 1 {
            std::thread::sleep(Duration::from_millis(350));
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Says whether a model was told one of the prompts to its end.
fn is_whole(told: &str) -> bool {
    let rest = told.split_once("Be brief").map_or("", |(_, rest)| rest);
    let rest =
        rest.strip_prefix(", ").map_or(rest, |rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    rest.starts_with('.') && rest.contains("hello")
}

/// A half that is a prompt of its own was served, when it was there for longer than a moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_written_slowly_is_served_when_it_is_whole() {
    let world = World::watching(Fresh::sqlite(), GRAPH).await;
    let mut file = std::fs::File::create(world.folder.path().join("graphs/prompts/answer.md")).unwrap();
    file.write_all(PROMPT.replace("brief", "kind").as_bytes()).unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(heard(&world, "half").await.contains("Be brief."));
    file.write_all(b"@system\nNever lie.\n").unwrap();
    drop(file);
    world.reloaded("swapped", 0).await;
    let told = heard(&world, "whole").await;
    assert!(told.contains("Be kind.") && told.contains("Never lie."), "{told}");
    assert_eq!(world.reloads("swapped").await, 1);
    // Who never closes it is not waited for without end.
    let mut file = std::fs::File::create(world.folder.path().join("graphs/prompts/answer.md")).unwrap();
    file.write_all(PROMPT.replace("brief", "calm").as_bytes()).unwrap();
    world.reloaded("swapped", 1).await;
    assert!(heard(&world, "open").await.contains("Be calm."));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_written_files_never_reach_a_client() {
    let world = World::watching(Fresh::sqlite(), GRAPH).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (folder, stop) = (world.folder.path().join("graphs"), stop.clone());
        std::thread::spawn(move || scribble(&folder, &stop))
    };
    let until = Instant::now() + Duration::from_secs(6);
    let client = async |n: usize| {
        let mut turns = 0;
        while Instant::now() < until {
            let told = heard(&world, &format!("s{n}-{turns}")).await;
            assert!(is_whole(&told), "{told}");
            turns += 1;
        }
        turns
    };
    let turns = futures_util::join!(client(0), client(1), client(2), client(3));
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    world.folder.replace("graphs/prompts/answer.md", &PROMPT.replace("brief", "whole"));
    let patience = Instant::now() + Duration::from_secs(30);
    while !heard(&world, "last").await.contains("Be whole.") {
        assert!(Instant::now() < patience, "{}", world.service.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (swapped, refused) = (world.reloads("swapped").await, world.reloads("refused").await);
    println!("turns {turns:?}, {swapped} projects served, {refused} refused");
    assert!(swapped > 2 && refused == 0, "a half was read: {swapped} {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_watch_a_change_waits_for_the_signal() {
    let mut world = World::start(Fresh::sqlite()).await;
    world.folder.write("graphs/prompts/answer.md", &PROMPT.replace("brief", "kind"));
    assert!(heard(&world, "s").await.contains("Be brief."));
    assert_eq!(world.reloads("swapped").await, 0);
    world.service.process.hang_up();
    world.reloaded("swapped", 0).await;
    assert!(heard(&world, "s").await.contains("Be kind."));
    // The folder as a whole is gone for a moment.
    let graphs = world.folder.path().join("graphs");
    let aside = world.folder.path().join("aside");
    std::fs::rename(&graphs, &aside).unwrap();
    world.service.process.hang_up();
    world.reloaded("refused", 0).await;
    let stale = world.ask(world.request(Method::GET, "/ready")).await.json()["stale"].clone();
    assert_eq!(stale["findings"][0]["code"], "M516", "{stale}");
    std::fs::rename(&aside, &graphs).unwrap();
    world.service.process.hang_up();
    world.reloaded("swapped", 1).await;
    assert_eq!(world.get("/ready").await.json(), json!({"status": "ready"}));
    world.service.process.terminate();
    assert!(world.service.process.wait());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_takes_the_place_of_the_watched_one_is_watched() {
    let world = World::watching(Fresh::sqlite(), GRAPH).await;
    let graphs = world.folder.path().join("graphs");
    for (file, text) in [("chat.yaml", GRAPH), ("prompts/answer.md", &PROMPT.replace("brief", "new"))] {
        world.folder.write(&format!("next/{file}"), text);
    }
    std::fs::copy(graphs.join("project.yaml"), world.folder.path().join("next/project.yaml")).unwrap();
    std::fs::rename(&graphs, world.folder.path().join("former")).unwrap();
    std::fs::rename(world.folder.path().join("next"), &graphs).unwrap();
    world.reloaded("swapped", 0).await;
    assert!(heard(&world, "s").await.contains("Be new."));
    world.folder.replace("graphs/prompts/answer.md", &PROMPT.replace("brief", "newer"));
    world.reloaded("swapped", 1).await;
    assert!(heard(&world, "s").await.contains("Be newer."));
}
