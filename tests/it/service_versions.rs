//! Threads go on when their graph changes, or are told why not.

use reqwest::StatusCode;
use serde_json::{Value as Json, json};

use crate::support::Fresh;
use crate::support::process::binary;
use crate::support::stream::status;
use crate::support::world::World;

const FIRST: &str = "\
format: 1
state: {messages: messages, topic: string, mood: string, log: {type: [string], merge: append}}
start: note
nodes:
  note: {kind: set, set: {topic: run.user_text, mood: \"'fine'\", log: [run.user_text]}, next: tell}
  tell: {kind: say, text: \"About {{ state.topic }}, {{ state.mood }}.\", next: end}
";
const SECOND: &str = "\
format: 1
state: {talk: messages, subject: {type: string, default: none}, log: {type: [string], merge: append}, size: {type: integer, default: 0}}
migrate:
  - rename: {messages: talk, topic: subject}
  - drop: mood
  - default: {size: state.log | length + 10}
start: tell
nodes:
  tell: {kind: say, text: \"Still {{ state.subject }}, {{ state.size }}.\", next: grow}
  grow: {kind: set, set: {size: state.size + 1}, next: end}
";
/// The subject is of another type, and no rule says what becomes of the old one.
const THIRD: &str = "\
format: 1
state: {talk: messages, subject: {type: [string], default: []}, size: {type: integer, default: 0}}
migrate: [{rename: {messages: talk}}]
start: tell
nodes:
  tell: {kind: say, text: \"{{ state.size }} and {{ state.subject | length }}\", next: end}
";
const FOURTH: &str = "\
format: 1
state: {talk: messages, title: {type: string, default: none}, size: {type: integer, default: 0}}
migrate:
  - rename: {messages: talk}
  - rename: {subject: title}
  - rename: {topic: title}
start: tell
nodes:
  tell: {kind: say, text: \"{{ state.title }}, {{ state.size }}.\", next: end}
";

/// Says something, and returns the whole conversation.
async fn turn(world: &World, session: &str, text: &str) -> Vec<String> {
    assert_eq!(status(&world.chat(session, text).await.rest().await), "completed");
    world.messages(session).await.into_iter().map(|(_, text)| text).collect()
}

async fn state(world: &World, session: &str) -> Json {
    let mut state = world.get(&format!("/v1/threads/{session}/state")).await.json()["state"].clone();
    let values = state.as_object_mut().unwrap();
    values.remove("messages");
    values.remove("talk");
    state
}

async fn hash(world: &World) -> String {
    world.get("/v1/graphs/chat").await.json()["hash"].as_str().unwrap().to_owned()
}

/// Compares as an operator does, while the service runs.
fn diff(world: &World, old: &str, new: &str) -> (i32, Json) {
    let arguments = ["diff", old, new, "--format", "json", "--database-url", &world.fresh.url];
    let output = binary(&world.folder).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{error}"));
    assert_eq!(error, "");
    (output.status.code().unwrap(), report)
}

async fn migrates(fresh: Fresh) {
    let mut world = World::watching(fresh, FIRST).await;
    let first = hash(&world).await;
    assert_eq!(diff(&world, &first, "graphs"), (0, json!({"equal": true, "graphs": []})));
    let said = ["tea", "About tea, fine."];
    for session in ["kept", "old"] {
        assert_eq!(turn(&world, session, "tea").await, said);
    }
    world.folder.replace("graphs/chat.yaml", SECOND);
    world.reloaded("swapped", 0).await;
    let second = hash(&world).await;
    let (code, report) = diff(&world, &first[..12], &second);
    assert_eq!((code, &report["graphs"][0]["may_refuse"]), (1, &json!(false)), "{report}");
    let on_old = |threads| json!({"threads": threads, "open_runs": 0, "paused_runs": 0});
    assert_eq!(report["graphs"][0]["on_old"], on_old(2));
    let taken = json!({"subject": "tea", "log": ["tea"], "size": 11});
    assert_eq!(state(&world, "kept").await, taken, "what the next run will find");
    assert_eq!(world.messages("kept").await.len(), 2);
    assert_eq!(turn(&world, "kept", "more").await, [&said[..], &["more", "Still tea, 11."]].concat());
    // The first checkpoint of the run holds what the rules made: another process reads it from there.
    world.service.process.terminate();
    assert!(world.service.process.wait());
    world.restart();
    let talk = turn(&world, "kept", "and").await;
    assert_eq!(talk[4..], ["and", "Still tea, 12."]);
    assert_eq!(state(&world, "kept").await, json!({"subject": "tea", "log": ["tea"], "size": 13}));

    world.folder.replace("graphs/chat.yaml", THIRD);
    let (code, report) = diff(&world, &second, "graphs");
    assert_eq!((code, &report["graphs"][0]["may_refuse"]), (1, &json!(true)), "{report}");
    assert_eq!(report["graphs"][0]["on_old"], on_old(1), "one of two has gone on");
    world.reloaded("swapped", 0).await;
    let refused = world.ask(world.turn("kept", "no")).await;
    assert_eq!(
        (refused.status, &refused.json()["code"]),
        (StatusCode::CONFLICT, &json!("state_incompatible"))
    );
    assert!(refused.json()["detail"].as_str().unwrap().contains("`subject`"), "{refused:?}");
    assert_eq!(world.messages("kept").await.len(), 6, "nothing was stored");
    world.folder.replace("graphs/chat.yaml", FOURTH);
    world.reloaded("swapped", 1).await;
    assert_eq!(turn(&world, "kept", "go on").await.last().unwrap(), "tea, 13.");
    // It comes from the first version, which had another name for it.
    assert_eq!(turn(&world, "old", "go on").await.last().unwrap(), "tea, 0.");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_an_older_version_goes_on_as_the_rules_say_on_postgres() {
    migrates(Fresh::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_of_an_older_version_goes_on_as_the_rules_say_on_sqlite() {
    migrates(Fresh::sqlite()).await;
}
