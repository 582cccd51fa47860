//! Tools of MCP servers: real ones, by both transports, and what happens when they go away or change.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use graphloom::compile::{Catalog, Providers, compile, mcp_servers};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::egress::Secret;
use graphloom::engine::{Engine, Settings};
use graphloom::spec::{Files, McpTools, load_files};
use graphloom::store::memory::MemoryStore;
use serde_json::{Value as Json, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::owner;
use crate::support::process::{Folder, Process, Service, binary};
use crate::support::turn::{begin, drain};

/// Returns where a script of the tests' clients is.
fn script(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    assert!(path.exists(), "{}: `npm ci` in tests/clients installs it", path.display());
    path.display().to_string()
}

fn everything() -> String {
    script("node_modules/@modelcontextprotocol/server-everything/dist/index.js")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a server that listens, and waits until it does.
fn listen(arguments: &[&str], port: u16, env: &[(&str, &str)], folder: &Folder) -> Process {
    let child = Command::new("node")
        .args(arguments)
        .env("PORT", port.to_string())
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.path().join("server.log")).unwrap())
        .spawn()
        .unwrap();
    let process = Process::of(child);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        std::thread::sleep(Duration::from_millis(10));
    }
    process
}

fn providers() -> Providers {
    let secrets = |name: &str| (name == "TOKEN").then(|| Secret::new("sk-canary"));
    Providers::new(Box::new(secrets)).unwrap()
}

/// Asks the servers of a project what their tools are, as `mcp pull` does, and returns the project with that.
async fn pulled(project: &str, graph: &str) -> Files {
    let files = [("test.yaml", graph), ("project.yaml", project)];
    let mut files: Files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).into();
    let mut bag = Bag::default();
    let folder = load_files("graphs", files.clone(), &mut bag);
    let servers = mcp_servers(&folder, &providers(), &mut bag);
    for server in servers.unwrap_or_else(|| panic!("{}", render_text(&bag, false))) {
        let tools = Box::pin(server.tools()).await.unwrap();
        files.insert(McpTools::path(server.name()), McpTools::new((*tools).clone()).text().into_bytes());
    }
    files
}

fn compiled(files: Files, providers: &Providers) -> Catalog {
    let mut bag = Bag::default();
    let folder = load_files("graphs", files, &mut bag);
    let catalog = compile(&folder, providers, &mut bag);
    bag.sort();
    catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)))
}

async fn open(files: Files, providers: Providers) -> Engine {
    let catalog = compiled(files, &providers);
    let store = Arc::new(MemoryStore::new());
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new("test".into()) };
    Engine::open(store, catalog, providers, settings).await.unwrap()
}

/// Runs a turn, and returns what it gave.
async fn run(engine: &Engine, text: &str) -> Json {
    let begun = begin(engine, text).await;
    let events = drain(engine, &begun).await;
    let last = events.last().unwrap();
    assert_eq!(last["status"], "completed", "{last:#}");
    last["output"].clone()
}

/// Returns the lines of a server's log, when one of them is there.
async fn logged(log: &Path, line: &str) -> Vec<String> {
    for _ in 0..1000 {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.iter().any(|known| known == line) {
            return lines;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{line:?} is not in {:?}", std::fs::read_to_string(log))
}

/// A graph that calls one tool, and keeps what comes of it or why nothing does.
fn calls(tool: &str, with: &str, more: &str) -> String {
    format!(
        "format: 1
state: {{messages: messages, a: {{type: any, optional: true}}, why: {{type: string, default: none}}}}
output: {{a: state.a, why: state.why}}
allow: {{G216: a test}}
start: call
nodes:
  call: {{kind: tool, tool: {tool}, with: {with}, into: a, {more}next: end, on_error: note}}
  note: {{kind: set, set: {{why: \"error.kind ~ ' ' ~ error.code ~ ': ' ~ error.message\"}}, next: end}}
"
    )
}

/// What two transports are.
fn ways(port: u16, stdio: &str) -> [String; 2] {
    let command = json!(["node", stdio, "stdio"]);
    [
        format!("format: 1\nmcp: {{all: {{command: {command}}}}}\n"),
        format!("format: 1\nmcp: {{all: {{url: \"http://127.0.0.1:{port}/mcp\"}}}}\n"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tools_of_the_reference_server_are_called_over_both_transports() {
    let (folder, port, everything) = (Folder::new(), free_port(), everything());
    let _server = listen(&[&everything, "streamableHttp"], port, &[], &folder);
    let graph = "format: 1
state: {messages: messages, sum: string, weather: {type: any, optional: true}, degrees: {type: number, default: 0}}
output: [sum, degrees]
start: add
nodes:
  add: {kind: tool, tool: all.get-sum, with: {a: 2, b: 40}, into: sum, next: look}
  look:
    kind: tool
    tool: all.get-structured-content
    with: {location: \"'Chicago'\"}
    into: {weather: result, degrees: result.temperature}
    next: tell
  tell: {kind: say, text: \"{{ state.sum }} {{ state.weather | tojson }}\", next: end}
";
    for project in ways(port, &everything) {
        let engine = open(pulled(&project, graph).await, providers()).await;
        for _ in 0..2 {
            let output = run(&engine, "hi").await;
            assert_eq!(output["sum"], "The sum of 2 and 40 is 42.", "{project}: {output}");
            assert!(output["degrees"].as_f64().unwrap() > 0.0, "{project}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_calls_a_tool_of_a_server_by_a_name_that_providers_take() {
    let answers = [
        json!({"tool_calls": [{"index": 0, "id": "c1", "function": {"name": "all__get-sum", "arguments": "{\"a\": 1}"}}]}),
        json!({"tool_calls": [{"index": 0, "id": "c2", "function": {"name": "all__get-sum", "arguments": "{\"a\": 1, \"b\": 2}"}}]}),
        json!({"content": "Three."}),
    ];
    let provider = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = provider.local_addr().unwrap();
    let project = format!(
        "format: 1
models: {{m: {{provider: openai, model: m, base_url: \"http://{address}/v1\"}}}}
default_model: m
mcp: {{all: {{command: {}, tools: [get-sum], effects: none}}}}
",
        json!(["node", everything(), "stdio"])
    );
    let graph = "format: 1
state: {messages: messages}
start: answer
nodes:
  answer: {kind: llm, text: Be brief., tools: [all.get-sum], reply: true, next: end}
";
    let engine = open(pulled(&project, graph).await, providers()).await;
    let serve = async {
        let mut asked = Vec::new();
        for answer in &answers {
            let (mut socket, _) = provider.accept().await.unwrap();
            let (mut read, mut piece) = (Vec::new(), vec![0; 65536]);
            let body = loop {
                let n = socket.read(&mut piece).await.unwrap();
                read.extend_from_slice(&piece[..n]);
                let text = String::from_utf8_lossy(&read).into_owned();
                if let Some((_, body)) = text.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str::<Json>(body)
                {
                    break body;
                }
            };
            asked.push(body);
            let chunk = json!({"choices": [{"index": 0, "delta": answer}]});
            let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
            let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
            let text = format!("{head}data: {chunk}\n\ndata: {end}\n\ndata: [DONE]\n\n");
            socket.write_all(text.as_bytes()).await.unwrap();
        }
        asked
    };
    let talk = async {
        let begun = begin(&engine, "What is 1 + 2?").await;
        drain(&engine, &begun).await
    };
    let (asked, events) = tokio::join!(serve, talk);
    assert_eq!(events.last().unwrap()["status"], "completed", "{:#}", events.last().unwrap());
    let function = &asked[0]["tools"][0]["function"];
    assert_eq!(function["name"], "all__get-sum");
    assert_eq!(function["parameters"]["required"], json!(["a", "b"]), "as the server says it");
    let said = |n: usize| asked[n]["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert!(said(1).as_str().unwrap().contains("the field `b` is missing"), "never made: {}", said(1));
    assert_eq!(said(2), "The sum of 1 and 2 is 3.");
    let called: Vec<&Json> = events.iter().filter(|event| event["type"] == "tool.called").collect();
    assert_eq!(called.len(), 1);
    assert_eq!((&called[0]["tool"], &called[0]["args"]), (&json!("all.get-sum"), &json!({"a": 1, "b": 2})));
}

/// A server of our own, which tells what is done to it.
struct Own {
    folder: Folder,
    port: u16,
}

impl Own {
    fn new() -> Self {
        Self { folder: Folder::new(), port: free_port() }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn listen(&self, env: &[(&str, &str)]) -> Process {
        let log = self.log().display().to_string();
        let env: Vec<(&str, &str)> = env.iter().copied().chain([("LOG", log.as_str())]).collect();
        listen(&[&script("mcp-server.mjs")], self.port, &env, &self.folder)
    }

    /// A project with it as `docs`, which listens.
    fn project(&self, more: &str) -> String {
        format!("format: 1\nmcp: {{docs: {{url: \"http://127.0.0.1:{}/mcp\"{more}}}}}\n", self.port)
    }

    /// A project with it as `docs`, which is started.
    fn program(&self, more: &str) -> String {
        let (command, log) = (json!(["node", script("mcp-server.mjs")]), self.log());
        format!("format: 1\nmcp: {{docs: {{command: {command}, env: {{LOG: {}{more}}}}}}}\n", log.display())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_fit_the_server_results_their_schema_and_failures_are_of_the_kind_tool() {
    let own = Own::new();
    for (tool, with, a, why) in [
        (
            "docs.search",
            "{query: \"'refunds'\", sort: null}",
            json!({"hits": [{"id": "a-1", "title": "About refunds"}], "total": 1}),
            "none",
        ),
        ("docs.order", "{item: \"'tea'\"}", json!("ordered tea"), "none"),
        ("docs.order", "{item: \"'moon'\"}", Json::Null, "tool tool: `docs.order`: the moon is not for sale"),
    ] {
        let engine = open(pulled(&own.program(""), &calls(tool, with, "")).await, providers()).await;
        assert_eq!(run(&engine, "hi").await, json!({"a": a, "why": why}), "{tool} {with}");
    }
    let lines = logged(&own.log(), "search {\"query\":\"refunds\"}").await;
    assert!(lines.contains(&"order tea with a key".to_owned()), "{lines:?}");
}

/// A program gets what is given to it, and a server what signs the service in; nothing else of the service.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_go_where_they_are_named_and_nowhere_else() {
    let own = Own::new();
    let graph = calls("docs.search", "{query: \"'x'\"}", "");
    let files = pulled(&own.program(", TOKEN: {secret: TOKEN}"), &graph).await;
    drop(files);
    let text = std::fs::read_to_string(own.log()).unwrap();
    let seen: Vec<&str> = text.lines().next().unwrap().split(' ').skip(2).collect();
    let inherited = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];
    let foreign: Vec<&&str> =
        seen.iter().filter(|name| !inherited.contains(name) && !["LOG", "TOKEN"].contains(name)).collect();
    assert!(foreign.is_empty() && seen.contains(&"TOKEN"), "{seen:?}");

    let _server = own.listen(&[("TOKEN", "sk-canary")]);
    let signed = own.project(", auth: {bearer: {secret: TOKEN}}");
    let files = pulled(&signed, &graph).await;
    let output = run(&open(files.clone(), providers()).await, "hi").await;
    assert_eq!((&output["a"]["total"], &output["why"]), (&json!(1), &json!("none")));
    let mut unsigned = files;
    unsigned.insert("project.yaml".into(), own.project("").into_bytes());
    let output = run(&open(unsigned, providers()).await, "hi").await;
    assert_eq!(output["why"], "http_401 http_401: the MCP server `docs`: it answered 401");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_dies_within_a_call_fails_it_and_is_connected_again_when_it_is_back() {
    let own = Own::new();
    let mut server = own.listen(&[]);
    let slow = calls("docs.slow", "{ms: 60000}", "");
    let engine = open(pulled(&own.project(""), &slow).await, providers()).await;
    let turn = async { run(&engine, "hi").await };
    let kill = async {
        logged(&own.log(), "slow begins").await;
        server.crash();
    };
    let (output, ()) = tokio::join!(turn, kill);
    assert!(output["why"].as_str().unwrap().starts_with("connection connection: "), "{output}");
    // Nobody is there: it is told at once.
    let output = run(&engine, "hi").await;
    assert!(output["why"].as_str().unwrap().contains("no connection to `127.0.0.1"), "{output}");

    // The same connection, and a server that has forgotten its session.
    let mut server = own.listen(&[]);
    let order = calls("docs.order", "{item: \"'tea'\"}", "");
    let engine = open(pulled(&own.project(""), &order).await, providers()).await;
    for _ in 0..2 {
        assert_eq!(run(&engine, "hi").await["a"], "ordered tea");
        server.crash();
        server = own.listen(&[]);
    }
    let text = std::fs::read_to_string(own.log()).unwrap();
    assert_eq!(text.matches("order tea").count(), 2, "{text}");

    // A program that is gone is started again.
    let files = pulled(&own.program(""), &order).await;
    let engine = open(files, providers()).await;
    assert_eq!(run(&engine, "hi").await["a"], "ordered tea");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_waits_for_is_cancelled_at_the_server() {
    for http in [true, false] {
        let own = Own::new();
        let _server = http.then(|| own.listen(&[]));
        // A node gives up sooner than its server.
        let project = if http { own.project("") } else { own.program("") };
        let files = pulled(&project, &calls("docs.slow", "{ms: 60000}", "timeout: 3s, ")).await;
        let engine = open(files, providers()).await;
        engine.catalog().mcp[0].server.tools().await.unwrap();
        let output = run(&engine, "hi").await;
        assert_eq!(output["why"], "timeout timeout: the node takes longer than 3 s", "{http}");
        logged(&own.log(), "slow is cancelled").await;
        std::fs::remove_file(own.log()).unwrap();

        let files = pulled(&project, &calls("docs.slow", "{ms: 60000}", "")).await;
        let engine = open(files, providers()).await;
        let begun = begin(&engine, "hi").await;
        logged(&own.log(), "slow begins").await;
        engine.cancel(&owner("acme", "ann"), begun.run.run).await.unwrap();
        logged(&own.log(), "slow is cancelled").await;
    }
    let own = Own::new();
    let _server = own.listen(&[]);
    let files = pulled(&own.project(", timeout: 2s"), &calls("docs.slow", "{ms: 60000}", "")).await;
    let engine = open(files, providers()).await;
    engine.catalog().mcp[0].server.tools().await.unwrap();
    let output = run(&engine, "hi").await;
    assert_eq!(output["why"], "timeout timeout: the MCP server `docs` did not answer within 2 s");
    logged(&own.log(), "slow is cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_is_not_what_the_project_knows_is_not_called() {
    let own = Own::new();
    let mut server = own.listen(&[]);
    let graph = "format: 1
state: {messages: messages, n: {type: integer, default: 0}, why: {type: string, default: none}}
output: [n, why]
allow: {G216: a test, S405: a test}
start: [{when: run.user_text == 'swap', to: swap}, {else: search}]
nodes:
  swap: {kind: tool, tool: docs.swap, next: search, on_error: note}
  search: {kind: tool, tool: docs.search, with: {query: \"'x'\"}, into: {n: result.total}, next: end, on_error: note}
  note: {kind: set, set: {why: \"error.kind ~ ' ' ~ error.code ~ ': ' ~ error.message\", n: 0}, next: end}
";
    let files = pulled(&own.program(""), graph).await;
    let engine = open(files.clone(), providers()).await;
    assert_eq!(run(&engine, "hi").await, json!({"n": 1, "why": "none"}));
    // It says so itself, at the latest when it has answered.
    run(&engine, "swap").await;
    let why = "tool tool_changed: `search` of the MCP server `docs` is not what it was: description; look at it, and \
               write it down:  graphloom mcp pull docs";
    let mut output = Json::Null;
    for _ in 0..100 {
        output = run(&engine, "hi").await;
        if output["why"] == why {
            break;
        }
    }
    assert_eq!(output, json!({"n": 0, "why": why}));
    // It comes back with another tool of the name.
    let mut files = files;
    files.insert("project.yaml".into(), own.project("").into_bytes());
    let engine = open(files, providers()).await;
    assert_eq!(run(&engine, "hi").await, json!({"n": 1, "why": "none"}));
    server.crash();
    let _server = own.listen(&[("SEARCH", "Searches everything.")]);
    assert_eq!(run(&engine, "hi").await, json!({"n": 0, "why": why}));
}

fn graphloom(folder: &Folder, arguments: &[&str]) -> (i32, String) {
    let output = binary(folder).args(arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

#[test]
fn the_commands_write_down_what_tools_are_and_a_service_does_not_start_on_others() {
    let own = Own::new();
    let folder = &own.folder;
    folder.write("graphs/test.yaml", &calls("docs.search", "{query: \"'x'\"}", ""));
    folder.write("graphs/project.yaml", &own.project(""));
    let (code, said) = graphloom(folder, &["check"]);
    assert!(code == 1 && said.contains("graphloom mcp pull docs"), "{said}");
    let (code, said) = graphloom(folder, &["mcp", "pull"]);
    assert!(code == 1 && said.contains("error: the MCP server `docs`: no connection to"), "{said}");

    let mut server = own.listen(&[]);
    assert_eq!(graphloom(folder, &["mcp", "pull"]), (0, "mcp/docs.json: 4 tools\n".to_owned()));
    assert_eq!(
        graphloom(folder, &["mcp", "check", "docs"]),
        (0, "mcp/docs.json: as it is written\n".to_owned())
    );
    let (code, said) = graphloom(folder, &["check"]);
    assert_eq!(code, 0, "{said}");
    let (code, said) = graphloom(folder, &["mcp", "check", "dogs"]);
    assert!(code == 2 && said.contains("no MCP server `dogs`; there are: docs"), "{said}");

    server.crash();
    let mut server = own.listen(&[("SEARCH", "Searches everything.")]);
    let (code, said) = graphloom(folder, &["mcp", "check"]);
    assert_eq!((code, &*said), (1, "mcp/docs.json: not as it is written\n  ~ search: description\n"));
    let serve = ["serve", "--bind", "127.0.0.1:0", "--database-url", "memory:"];
    let (code, said) = graphloom(folder, &serve);
    assert_eq!(code, 1, "{said}");
    let told = "error[M506]: `search` of the MCP server `docs` is not what it was";
    assert!(said.contains(told) && said.contains("graphs/mcp/docs.json:"), "{said}");
    let (code, said) = graphloom(folder, &["mcp", "pull", "docs"]);
    assert_eq!((code, &*said), (0, "mcp/docs.json: 4 tools\n  ~ search: description\n"));
    assert_eq!(graphloom(folder, &["mcp", "check"]).0, 0);
    server.crash();
}

/// It was waited for until it was killed, however soon the service had to be gone.
#[test]
fn a_program_that_does_not_end_keeps_no_service_that_has_to() {
    let own = Own::new();
    let folder = &own.folder;
    let command = json!(["sh", "-c", format!("node {}; sleep 60", script("mcp-server.mjs"))]);
    folder.write("graphs/project.yaml", &format!("format: 1\nmcp: {{docs: {{command: {command}}}}}\n"));
    folder.write("graphs/test.yaml", &calls("docs.search", "{query: \"'x'\"}", ""));
    folder.write("graphloom.toml", "[drain]\nnotice_seconds = 0\nruns_seconds = 1\nexit_seconds = 1\n");
    let (code, said) = graphloom(folder, &["mcp", "pull"]);
    assert_eq!(code, 0, "{said}");
    let mut service = Service::start(folder, "memory:", "one");
    let begun = Instant::now();
    service.process.terminate();
    assert!(service.process.wait());
    assert!(begun.elapsed() < Duration::from_millis(1900), "{:?}", begun.elapsed());
}

/// A case needs no server, and a recording none when it is played.
#[test]
fn cases_script_tools_of_servers_and_recordings_hold_them() {
    let own = Own::new();
    let folder = &own.folder;
    folder.write("graphs/test.yaml", &calls("docs.order", "{item: \"'tea'\"}", ""));
    folder.write("graphs/project.yaml", &own.project(", approval: always"));
    folder.write(
        "graphs/tests/test.test.yaml",
        "format: 1\ntests: test\ncases:\n  - name: orders\n    turns:\n      - user: hi\n        expect: {paused_at: call}\n      \
         - answer: approve\n        script: {call: {result: ordered tea}}\n        expect: {output: {a: ordered tea}}\n",
    );
    let mut server = own.listen(&[]);
    assert_eq!(graphloom(folder, &["mcp", "pull"]).0, 0);
    let (code, said) = graphloom(folder, &["test", "--record", "tapes"]);
    assert_eq!(code, 0, "{said}");
    server.crash();
    for arguments in [&["test"][..], &["test", "--replay", "tapes"]] {
        let (code, said) = graphloom(folder, arguments);
        assert_eq!(code, 0, "{arguments:?}: {said}");
    }
    let text = std::fs::read_to_string(own.log()).unwrap();
    assert_eq!(text.matches("order tea").count(), 1, "{text}");
}

/// What a graph calls is of its version; where it goes is not, and a stored version keeps what it knew.
#[tokio::test(flavor = "multi_thread")]
async fn a_version_holds_what_tools_are_and_not_where_they_are() {
    let own = Own::new();
    let files = pulled(&own.program(""), &calls("docs.search", "{query: \"'x'\"}", "")).await;
    let hash = |files: &Files| {
        let catalog = compiled(files.clone(), &providers());
        (catalog.graphs["test"].plan.hash.clone(), catalog.graphs["test"].body.clone())
    };
    let (first, body) = hash(&files);
    let with = |path: &str, change: &dyn Fn(String) -> String| {
        let mut files = files.clone();
        let text = String::from_utf8(files[path].clone()).unwrap();
        files.insert(path.to_owned(), change(text).into_bytes());
        hash(&files).0
    };
    assert_eq!(with("project.yaml", &|_| own.project(", timeout: 5s")), first);
    assert_ne!(with("project.yaml", &|_| own.project(", approval: always")), first);
    assert_ne!(with("mcp/docs.json", &|text| text.replace("help centre", "web")), first);
    assert_eq!(
        with("mcp/docs.json", &|text| text.replace("Orders something", "Orders")),
        first,
        "not called"
    );

    let today = own.project("").into_bytes();
    let plan = graphloom::compile::revive(&body, "test", &today, &providers()).unwrap();
    assert_eq!(plan.nodes["call"].job.effects, graphloom::plan::Effects::None);
    let gone = graphloom::compile::revive(&body, "test", b"format: 1\n", &providers());
    assert!(gone.unwrap_err().contains("unknown tool `docs.search`"));
}
