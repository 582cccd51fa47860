//! Real clients of others against the binary: npm packages read its document, its streams and its drawings.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use crate::support::Fresh;
use crate::support::process::binary;
use crate::support::world::World;

const CLIENTS: &str = "tests/clients";

/// Runs a script of `package.json` with this on its standard input, and returns the JSON line that it prints last.
pub(crate) fn npm(script: &str, input: &str, environment: &[(&str, &str)]) -> Json {
    let mut child = Command::new("npm")
        .args(["run", "--silent", script])
        .current_dir(CLIENTS)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("npm: {e}; `scripts/test` installs it"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "npm run {script}: {out}\n{err}");
    out.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

pub(crate) fn check_installed() {
    let installed = Path::new(CLIENTS).join("node_modules").is_dir();
    assert!(installed, "the npm packages are not installed: run `scripts/test`, or `npm ci` in {CLIENTS}");
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_and_standard_clients_read_the_streams() {
    check_installed();
    let world = World::start(Fresh::postgres().await).await;
    world.folder.write("openapi.json", &world.get("/openapi.json").await.text);
    let document = world.folder.path().join("openapi.json").display().to_string();
    let base = world.service.base.clone();
    // In threads of their own: a child's output is waited for there.
    let run = async |script: &'static str, session: &'static str, message: &'static str| {
        let (base, document) = (base.clone(), document.clone());
        let work = move || {
            let environment =
                [("BASE_URL", &*base), ("OPENAPI", &*document), ("SESSION", session), ("MESSAGE", message)];
            npm(script, "", &environment)
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    };
    run("build", "none", "").await;
    let chat = run("chat", "chat", "[[tokens=20]]").await;
    assert_eq!((&chat["done"], &chat["reconnects"]), (&Json::from(true), &Json::from(0)), "{chat}");
    assert!(chat["text"].as_str().unwrap().contains("tok18"), "{chat}");
    let resumed = run("resume", "resume", "[[tokens=40 delay=20ms]]").await;
    assert_eq!((&resumed["done"], &resumed["reconnects"]), (&Json::from(true), &Json::from(1)), "{resumed}");
    assert!(resumed["text"].as_str().unwrap().contains("tok38"), "{resumed}");
    for session in ["chat", "resume"] {
        assert_eq!(world.messages(session).await.len(), 2, "{session}: one turn was taken");
    }
    let followed = run("follow", "follow", "").await;
    assert_eq!(followed["done"], true, "{followed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mermaid_reads_the_drawings_of_the_binary() {
    check_installed();
    let world = World::start(Fresh::sqlite()).await;
    let mut drawings = Vec::new();
    for (graphs, name) in [("", "chat"), ("graphs", "chat"), ("graphs", "research"), ("graphs", "support")] {
        let mut command = binary(&world.folder);
        if !graphs.is_empty() {
            command = Command::new(env!("CARGO_BIN_EXE_graphloom"));
            command.args(["--graphs", graphs]);
        }
        let output = command.args(["render", name]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        drawings.push(String::from_utf8(output.stdout).unwrap());
    }
    let served = world.get("/v1/graphs/chat/diagram").await.text;
    assert_eq!(served, drawings[0], "the service and the command draw the same");
    let texts = Json::from(drawings).to_string();
    let result = tokio::task::spawn_blocking(move || npm("mermaid", &texts, &[])).await.unwrap();
    assert_eq!((&result["parsed"], &result["refused"]), (&Json::from(4), &Json::from(0)), "{result}");
}

const DESK: &str = r#"# A help desk.
format: 1
input:
  name: {type: string, default: you}
state:
  messages: messages
  turns: {type: integer, merge: add}   # how often somebody wrote
start: greet
nodes:
  greet:
    kind: say
    text: "🦀🦀 Hello {{ input.nme }} {{ state.turns }}"
    next: count
  answer:
    kind: llm
    prompt: chat/answer
    reply: true
    next: end
  count: {kind: set, set: {turns: 1}, next: answer}
"#;

#[test]
fn an_editor_is_told_offered_and_led_by_the_language_server() {
    check_installed();
    let files = json!({
        "project.yaml": "format: 1\nmodels:\n  demo: {provider: demo}\ndefault_model: demo\n",
        "help.yaml": DESK,
        "prompts/chat/answer.md":
            "---\ninputs:\n  messages: messages\n---\n@system\nBe kind.\n@messages messages\n@user\nGo on.\n",
    });
    let said = npm("lsp", &files.to_string(), &[("GRAPHLOOM", env!("CARGO_BIN_EXE_graphloom"))]);
    let place = |line: u32, character: u32| json!({"line": line, "character": character});
    let at = |line, from, to| json!({"start": place(line, from), "end": place(line, to)});
    for (what, expected) in [
        ("encoding", json!("utf-16")),
        ("quote", json!("input.nme")),
        ("broken", json!(["greet", "answer", "count", "end"])),
        ("next", json!(["greet", "answer", "count", "end"])),
        ("definition", json!(["help.yaml:9:2"])),
        ("prompt", json!(["prompts/chat/answer.md:0:0"])),
        (
            "hover",
            json!(
                "**channel** `state.turns`: `integer`\n\nmerge `add` · starts as `0`\n\nWritten by `count`."
            ),
        ),
        ("hovered", json!(5)),
        ("references", json!(2)),
        ("highlights", json!([3, 2])),
        ("placeholder", json!("greet")),
        ("taken", json!("-32803: there is a node `answer` already")),
        ("file", json!("-32803: a prompt is named by its file: rename the file")),
        ("version", json!(true)),
        ("renamed", json!(["help.yaml:9:2"])),
        ("watched", json!(["workspace/didChangeWatchedFiles"])),
        ("unknown", json!("-32601: `textDocument/nothing` is not known here")),
        ("far", json!(null)),
        ("down", json!("-32600: the server was shut down")),
        ("code", json!(0)),
    ] {
        assert_eq!(said[what], expected, "{what}: {said}");
    }
    assert_eq!(said["mistake"]["range"], at(11, 25, 34), "two code units an emoji");
    let message = "unknown input `input.nme`: no input has this name\ndid you mean `name`?";
    assert_eq!(said["mistake"]["message"], message);
    let why = said["why"].as_str().unwrap();
    assert!(why.starts_with("**input** `input.nme`") && why.contains("\n\n---\n\n**S401** "), "{why}");
    assert_eq!(said["item"]["label"], "messages");
    assert_eq!(said["item"]["textEdit"]["range"], at(11, 51, 51));
    assert!(said["odd"].as_str().unwrap().starts_with("-32602: "), "{said}");
    assert_eq!(said["symbols"][2], "turns: integer");
}
