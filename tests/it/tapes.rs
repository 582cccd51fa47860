//! Traffic of providers, recorded and played back: by `graphloom test`, and cut wherever a network may cut it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::egress::{Secret, Tape};
use graphloom::engine::{Engine, Settings};
use graphloom::id::Seq;
use graphloom::spec::{Files, load_files};
use graphloom::store::memory::MemoryStore;
use serde_json::{Value as Json, json};

use crate::support::process::{Folder, Mock, binary};
use crate::support::turn::turn;
use crate::support::{owner, session};

/// Two nodes that ask providers of two protocols.
const GRAPH: &str = "\
format: 1
state: {messages: messages, mood: {type: string, default: calm}}
start: judge
nodes:
  judge: {kind: llm, text: Judge the mood., model: quick, into: mood, next: answer}
  answer: {kind: llm, text: \"Answer. The mood: {{ state.mood }}\", reply: true, next: end}
";

const CASES: &str = "\
format: 1
tests: desk
cases:
  - name: answers twice
    turns:
      - user: \"[[say=Good day, 世界]] Hello\"
        script: {judge: calm, answer: Hello}
        expect: {path: [judge, answer], reply: {contains: 世界}}
      - user: \"[[say=Bye]]\"
        script: {judge: calm, answer: Bye}
        expect: {reply: {contains: Bye}}
";

fn test(folder: &Folder, arguments: &[&str], key: Option<&str>) -> (i32, String) {
    let mut command = binary(folder);
    command.arg("test").args(arguments).envs(key.map(|key| ("MODEL_KEY", key)));
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

/// Returns the only file of a folder of folders.
fn only(folder: &Path) -> std::path::PathBuf {
    let inner = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<_> = fs::read_dir(inner).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    files.remove(0)
}

#[test]
fn what_was_recorded_is_played_without_a_network_and_a_request_that_differs_fails_its_case() {
    let folder = Folder::new();
    let mock = Mock::start();
    let project = format!(
        "format: 1
models:
  smart: {{provider: anthropic, model: mock, base_url: '{0}', api_key: {{secret: MODEL_KEY}}}}
  quick: {{provider: openai, model: mock, base_url: '{0}/v1', api_key: {{secret: MODEL_KEY}}}}
default_model: smart
",
        mock.base
    );
    fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    folder.write("graphs/desk.yaml", GRAPH);
    folder.write("graphs/project.yaml", &project);
    folder.write("graphs/tests/desk.test.yaml", CASES);
    let (code, said) = test(&folder, &["--record", "tapes"], Some("sk-canary"));
    assert_eq!(code, 0, "{said}");
    let tape = only(&folder.path().join("tapes"));
    assert!(tape.file_name().unwrap().to_str().unwrap().starts_with("answers-twice-"), "{tape:?}");
    let text = fs::read_to_string(&tape).unwrap();
    assert!(!text.contains("sk-canary") && !text.to_lowercase().contains("authorization"), "{text}");
    let kept: Json = serde_json::from_str(&text).unwrap();
    assert_eq!(kept["calls"].as_array().unwrap().len(), 4);

    // Nobody listens any more, and nobody knows the key.
    drop(mock);
    let (code, said) = test(&folder, &["--replay", "tapes"], None);
    assert_eq!(code, 0, "{said}");
    folder.write("graphs/desk.yaml", &GRAPH.replace("Judge the mood", "Guess the mood"));
    let (code, said) = test(&folder, &["--replay", "tapes"], None);
    assert_eq!(code, 1, "{said}");
    let told = "is not recorded: at `/messages/0/content` the recording has \"Judge the mood.\", this call has \"Guess";
    assert!(said.contains(told), "{said}");

    folder.write("graphs/desk.yaml", GRAPH);
    folder.write("graphs/tests/desk.test.yaml", CASES.split("      - user: \"[[say=Bye").next().unwrap());
    let (code, said) = test(&folder, &["--replay", "tapes"], None);
    assert!(code == 1 && said.contains("2 of 4 recorded calls were not made"), "{said}");
    fs::write(&tape, "{\"format\": 9, \"calls\": []}").unwrap();
    let (code, said) = test(&folder, &["--replay", "tapes"], None);
    assert!(code == 1 && said.contains("its format is 9"), "{said}");
    fs::remove_file(&tape).unwrap();
    let (code, said) = test(&folder, &["--replay", "tapes"], None);
    assert!(code == 1 && said.contains("there is no recording"), "{said}");
}

const TEXT: &str = "Grüße aus der 世界 🌍.";

/// Runs a turn whose model is answered from a tape, and returns its events and the texts of the conversation.
async fn play(provider: &str, tape: &Tape) -> (Vec<Json>, Vec<Json>) {
    let graph = "format: 1
state: {messages: messages}
start: answer
nodes:
  answer: {kind: llm, text: Be brief., reply: true, next: end}
";
    let project = format!(
        "format: 1
models: {{m: {{provider: {provider}, model: m1, api_key: {{secret: KEY}}, retry: twice}}}}
default_model: m
retries: {{twice: {{attempts: 2, first: 1ms, for: [connection]}}}}
"
    );
    let files = [("test.yaml", graph), ("project.yaml", &project)];
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let secrets = |_: &str| Some(Secret::new("sk-secret"));
    let providers = || Providers::new(Box::new(secrets)).unwrap().taped(tape.clone());
    let mut bag = Bag::default();
    let folder = load_files("graphs", Files::from(files), &mut bag);
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let store = Arc::new(MemoryStore::new());
    let engine = Engine::open(store, catalog, providers(), Settings::new("test".into())).await.unwrap();
    let start = turn("hi");
    let run = engine.start(&owner("acme", "ann"), start).await.unwrap().run;
    let mut follower = engine.follower(&owner("acme", "ann"), &run, Seq::default(), false);
    let mut events = Vec::new();
    while let Some(frame) = follower.next().await {
        events.push(serde_json::from_slice(&frame.expect("the stream was cut").json).unwrap());
    }
    let view = engine.view(&session("s"), None).await.unwrap().unwrap();
    (events, view.messages.iter().map(|message| message["content"].clone()).collect())
}

/// An answer that is cut is asked for again: whatever had come of it is taken back, and nothing is said twice or left out.
#[tokio::test]
async fn an_answer_that_is_cut_anywhere_is_said_once_and_whole() {
    let folder = Folder::new();
    let path = folder.path().join("cut.json");
    for provider in ["openai", "anthropic"] {
        let recorded = fs::read_to_string(format!("tests/fixtures/tapes/{provider}.json")).unwrap();
        let recorded: Json = serde_json::from_str(&recorded).unwrap();
        let call = &recorded["calls"][0];
        let frames = call["response"]["frames"].as_array().unwrap();
        assert!(frames.len() > 12, "{provider}");
        let mut again = 0;
        for at in 0..=frames.len() {
            // The connection breaks, or the other side closes it.
            for breaks in [true, false] {
                let what = format!("{provider} cut after {at} of {} pieces ({breaks})", frames.len());
                let mut cut = call.clone();
                cut["response"]["frames"] = json!(frames[..at]);
                cut["response"]["cut"] = json!(breaks);
                fs::write(&path, json!({"format": 1, "calls": [cut, call]}).to_string()).unwrap();
                let tape = Tape::player();
                tape.insert(&path).unwrap();
                let (events, conversation) = play(provider, &tape).await;
                assert_eq!(events.last().unwrap()["status"], "completed", "{what}: {events:?}");
                assert_eq!(conversation, ["hi", TEXT], "{what}");
                let mut shown = String::new();
                for event in &events {
                    match event["type"].as_str().unwrap() {
                        "node.reset" => shown.clear(),
                        "message.delta" => shown += event["delta"].as_str().unwrap(),
                        _ => {}
                    }
                }
                assert_eq!(shown, TEXT, "{what}");
                // Once a reason for the end has come, the answer is whole, and the second call is not made.
                again += usize::from(tape.eject().unwrap().is_empty());
            }
        }
        assert!(again > frames.len() && again < 2 * frames.len() + 2, "{provider}: {again}");
    }
}
