//! graphloom inside another program: its functions in the graphs, and the graphs in its hands.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use graphloom::compile::{Catalog, Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::spec::{Files, load_files};
use graphloom::{
    App, Body, BuildError, Context, Durability, ErrorKind, Failure, Fork, Function, Registry, Request,
    Resume, RunStatus, StartError, Update,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tokio::sync::Notify;

use crate::support::process::{Folder, binary, example};

/// What a ticket needs.
#[derive(Deserialize, JsonSchema)]
struct OpenTicket {
    /// In a few words.
    subject: String,
    #[serde(default)]
    urgent: bool,
    to: Option<Desk>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Desk {
    Orders,
    /// Whoever is there.
    Any,
}

#[derive(Serialize, JsonSchema)]
struct Ticket {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    tags: BTreeMap<String, String>,
}

async fn open(args: OpenTicket, _: Context) -> Result<Ticket, Failure> {
    let desk = match args.to {
        Some(Desk::Orders) => "O",
        Some(Desk::Any) | None => "A",
    };
    let id = format!("{desk}-{}{}", args.subject, if args.urgent { "!" } else { "" });
    Ok(Ticket { id, note: None, tags: BTreeMap::new() })
}

async fn double(args: Number, _: Context) -> Result<i64, Failure> {
    match args.n {
        13 => panic!("no luck"),
        n if n < 0 => {
            Err(Failure { code: "negative".into(), ..Failure::new(ErrorKind::Tool, "less than nothing") })
        }
        n => Ok(n * 2),
    }
}

#[derive(Deserialize, JsonSchema)]
struct Number {
    n: i64,
}

async fn text(args: String, _: Context) -> Result<String, Failure> {
    Ok(args)
}

fn registry() -> Registry {
    Registry::new().custom("tickets::open", open).custom("sums::double", double).custom("odd::text", text)
}

fn compiled(project: &str, graph: &str, providers: &Providers) -> (Option<Catalog>, String) {
    let files = [("project.yaml", project), ("desk.yaml", graph)];
    let files = files.into_iter().filter(|(_, text)| !text.is_empty());
    let files: Files = files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).collect();
    let mut bag = Bag::default();
    let catalog = compile(&load_files("", files, &mut bag), providers, &mut bag);
    bag.sort();
    (catalog, render_text(&bag, false))
}

fn known() -> Providers {
    Providers::without_secrets().unwrap().with_registry(Some(registry()))
}

const DESK: &str = "\
format: 1
input: {n: {type: integer, default: 1}}
state: {ticket: Ticket?, id: string?}
output: {id: state.id}
start: open
nodes:
  open: {kind: tool, tool: open_ticket, with: {subject: \"'x'\"}, into: ticket, next: end}
";

/// The last column is what is found, by its code and message; nothing where the project is right.
#[test]
fn a_tool_is_held_against_the_function_that_it_calls() {
    let tool = |body: &str| {
        let ticket = "types: {Ticket: {id: string, note: string?, tags: object}}";
        format!("format: 1\n{ticket}\ntools: {{open_ticket: {{{body}}}}}\n")
    };
    for (body, found) in [
        ("custom: 'tickets::open'", ""),
        (
            "custom: 'tickets::open', args: {subject: string, urgent: boolean?}",
            "argument `urgent` of `tickets::open` is boolean",
        ),
        (
            "custom: 'tickets::open', args: {subject: string, to: {enum: [any]}}, result: Ticket",
            "argument `to` of tool `open_ticket` has no value",
        ),
        (
            "custom: 'tickets::open', args: {subject: string, to: {enum: [any, nobody], optional: true}}",
            "argument `to` of `tickets::open` is enum(orders, any)?",
        ),
        ("custom: 'tickets::open', args: {subjct: string}", "`tickets::open` has no argument `subjct`"),
        (
            "custom: 'tickets::open', args: {urgent: boolean}",
            "argument `subject` of `tickets::open` has no value",
        ),
        (
            "custom: 'tickets::open', args: {subject: string}, result: {id: integer}",
            "`tickets::open` does not give {id: integer}",
        ),
        (
            "custom: 'tickets::opn', args: {subject: string}, result: Ticket",
            "`tickets::opn` is not registered",
        ),
        (
            "custom: 'odd::text', args: {subject: string}, result: Ticket",
            "`odd::text` cannot be called with arguments by name",
        ),
    ] {
        let (catalog, printed) = compiled(&tool(body), DESK, &known());
        assert_eq!(catalog.is_some(), found.is_empty(), "{body}:\n{printed}");
        assert!(printed.contains(found), "{body}:\n{printed}");
        if found.contains("opn") {
            assert!(printed.contains("did you mean `tickets::open`?"), "{printed}");
        }
    }
}

#[test]
fn a_node_is_typed_by_the_function_that_it_calls() {
    let graph = |node: &str| {
        format!(
            "format: 1\ninput: {{n: integer?}}\nstate: {{id: string?, ids: {{type: [integer], default: []}}}}\noutput: [id, ids]\nstart: open\n\
             nodes:\n  open: {{{node}, next: end}}\n"
        )
    };
    for (node, found) in [
        ("kind: custom, use: 'tickets::open', with: {subject: \"'x'\"}, into: {id: result.id}", ""),
        (
            "kind: custom, use: 'tickets::open', with: {subject: \"'x'\"}, into: {id: result.idd}",
            "error[S402]",
        ),
        (
            "kind: custom, use: 'tickets::open', with: {subject: 3}, into: {id: result.id}",
            "error[M507]: argument `subject` of `tickets::open` is string",
        ),
        (
            "kind: custom, use: 'tickets::open', with: {sbject: \"'x'\"}, into: {id: result.id}",
            "error[M507]: `tickets::open` has no argument `sbject`",
        ),
        (
            "kind: custom, use: 'tickets::open', into: {id: result.id}",
            "error[M507]: argument `subject` of `tickets::open` has no value",
        ),
        ("kind: custom, use: 'sums::double', with: {n: input.n}, into: {id: \"'x'\"}", "error[S412]"),
        ("kind: custom, use: 'sums::double', with: {n: 1}, into: id", "error[S403]"),
        ("kind: custom, use: 'sums::dubble', with: {n: 1}", "error[M506]: `sums::dubble` is not registered"),
        ("kind: custom, use: 'sums::double', with: {n: 1}, retry: x", "M513"),
        (
            "kind: map, over: '[1, 2]', do: {kind: custom, use: 'sums::double', with: {n: item}}, into: ids",
            "",
        ),
        (
            "kind: map, over: \"['a']\", do: {kind: custom, use: 'sums::double', with: {n: item}}, into: ids",
            "error[M507]",
        ),
    ] {
        let project = if node.contains("retry") {
            "format: 1\nretries: {x: {attempts: 2, for: [timeout]}}"
        } else {
            ""
        };
        let (_, printed) = compiled(project, &graph(node), &known());
        let clean = found.is_empty() && !printed.contains("error");
        assert!(clean || !found.is_empty() && printed.contains(found), "{node}:\n{printed}");
    }
}

#[test]
fn a_signature_is_part_of_the_version_of_a_graph_and_told_by_diff() {
    async fn triple(args: Text, _: Context) -> Result<i64, Failure> {
        Ok(args.n.len() as i64)
    }
    #[derive(Deserialize, JsonSchema)]
    struct Text {
        n: String,
    }
    let graph = "format: 1\nstate: {n: any}\noutput: [n]\nstart: a\n\
                 nodes: {a: {kind: custom, use: 'sums::double', with: {n: state.n}, into: n, next: end}}";
    let graph = graph.replace("state: {n: any}", "state: {n: {type: any, default: 1}}");
    let with = |registry| Providers::without_secrets().unwrap().with_registry(registry);
    let [then, now, unknown] = [Some(registry()), Some(Registry::new().custom("sums::double", triple)), None]
        .map(|registry| {
            let (catalog, printed) = compiled("", &graph, &with(registry));
            catalog.unwrap_or_else(|| panic!("{printed}"))
        });
    let told = |old: &Catalog, new: &Catalog| {
        let graphs = graphloom::diff::compare(old, new).unwrap();
        graphs.iter().map(graphloom::diff::GraphDiff::text).collect::<String>()
    };
    assert!(
        told(&then, &now).contains("{n: integer} -> integer -> {n: string} -> integer"),
        "{}",
        told(&then, &now)
    );
    assert!(told(&then, &unknown).contains("known on one side only"), "{}", told(&then, &unknown));
    assert_eq!(told(&then, &then), "");
}

fn sums(node: &str) -> graphloom::Builder {
    let graph = format!(
        "format: 1\ninput: {{n: {{type: integer, default: 21}}}}\nstate: {{n: any, why: string?}}\noutput: [n, why]\nstart: work\n\
         nodes:\n  work: {{kind: custom, with: {{n: input.n}}, into: n, next: end, {node}}}\n  \
         caught: {{kind: set, set: {{why: error.kind ~ ' ' ~ error.code}}, next: end}}\n"
    );
    let graph =
        if node.contains("caught") { graph } else { graph.split("  caught").next().unwrap().to_owned() };
    let graph = graph.replace("state: {n: any,", "state: {n: {type: any, default: 0},");
    let project =
        "format: 1\nretries: {again: {attempts: 3, first: 1ms, for: [timeout, tool, server_error]}}\n";
    App::builder().file("sums.yaml", graph).file("project.yaml", project).registry(registry())
}

async fn output(app: &App, request: Request) -> (RunStatus, Json) {
    let thread = app.thread("acme", "ada", "desk").unwrap();
    let finished = thread.start("sums", request).await.unwrap().finish().await.unwrap();
    (finished.status, finished.output.unwrap_or_default())
}

#[tokio::test]
async fn a_failure_or_a_panic_of_a_function_is_that_of_its_node_and_of_nothing_else() {
    let app = sums("use: 'sums::double', on_error: caught").build().await.unwrap();
    for (n, expected) in [
        (21, json!({"n": 42, "why": null})),
        (-1, json!({"n": 42, "why": "tool negative"})),
        (13, json!({"n": 42, "why": "server_error internal"})),
        (2, json!({"n": 4, "why": "server_error internal"})),
    ] {
        assert_eq!(output(&app, Request::new().input("n", n)).await, (RunStatus::Completed, expected), "{n}");
    }
}

/// What must not happen twice is not tried again, unless the graph says that it may; then all attempts have one key.
#[tokio::test]
async fn a_function_is_called_once_unless_a_repeated_call_does_no_harm() {
    for (effects, calls) in [("", 1), (", effects: idempotent, retry: again", 3)] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = seen.clone();
        let function = move |args: Number, context: Context| {
            note.lock().unwrap().push((context.attempt, context.idempotency_key.clone()));
            assert_eq!((context.tenant(), context.user(), context.session()), ("acme", "ada", "desk"));
            async move {
                if context.attempt < 3 { Err(Failure::new(ErrorKind::Timeout, "late")) } else { Ok(args.n) }
            }
        };
        let app = sums(&format!("use: 'sums::late'{effects}"))
            .custom("sums::late", function)
            .build()
            .await
            .unwrap();
        let (status, _) = output(&app, Request::new()).await;
        assert_eq!(status == RunStatus::Completed, calls == 3);
        let seen = seen.lock().unwrap();
        let attempts: Vec<u32> = seen.iter().map(|(attempt, _)| *attempt).collect();
        assert_eq!(attempts, (1..=calls).collect::<Vec<_>>(), "{effects}");
        assert!(seen.iter().all(|(_, key)| *key == seen[0].1));
    }
}

/// Tells when it is dropped.
struct Guard(Arc<Notify>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn what_is_cancelled_or_late_is_dropped() {
    let dropped = Arc::new(Notify::new());
    let waits = |dropped: &Arc<Notify>| {
        let dropped = dropped.clone();
        move |_: Number, context: Context| {
            let guard = Guard(dropped.clone());
            async move {
                context.emit("waits", json!({}));
                std::future::pending::<()>().await;
                drop(guard);
                Ok::<i64, Failure>(0)
            }
        }
    };
    let late = sums("use: 'sums::waits', timeout: 20ms, on_error: caught");
    let app = late.custom("sums::waits", waits(&dropped)).build().await.unwrap();
    assert_eq!(output(&app, Request::new()).await.1["why"], "timeout timeout");
    dropped.notified().await;

    let app = sums("use: 'sums::waits'").custom("sums::waits", waits(&dropped)).build().await.unwrap();
    let thread = app.thread("acme", "ada", "desk").unwrap();
    let mut turn = thread.start("sums", Request::new()).await.unwrap();
    while let Some(event) = turn.next().await {
        if let Body::Custom { .. } = event.unwrap().body {
            app.cancel(thread.owner(), turn.run()).await.unwrap().unwrap();
        }
    }
    dropped.notified().await;
    assert_eq!(turn.finish().await.unwrap().status, RunStatus::Cancelled, "what was read before counts");
}

#[tokio::test]
async fn a_list_goes_through_a_function_item_by_item() {
    let most = Arc::new(AtomicU32::new(0));
    let count = most.clone();
    let function = move |args: Number, _: Context| {
        let count = count.clone();
        async move {
            count.fetch_add(1, Ordering::Relaxed);
            if args.n == 2 { Err(Failure::new(ErrorKind::Tool, "two")) } else { Ok(args.n * 10) }
        }
    };
    let graph = "format: 1\nstate: {all: [integer?]}\noutput: [all]\nstart: each\nnodes:\n  each:\n    kind: map\n    \
                 over: '[1, 2, 3]'\n    on_item_error: 'null'\n    do: {kind: custom, use: 'sums::tens', with: {n: item}}\n    \
                 into: all\n    next: end\n";
    let graph = graph.replace("[integer?]", "{type: ['integer?'], default: []}").replace("'null'", "null");
    let app = App::builder().file("sums.yaml", graph).custom("sums::tens", function).build().await.unwrap();
    assert_eq!(output(&app, Request::new()).await, (RunStatus::Completed, json!({"all": [10, null, 30]})));
    assert_eq!(most.load(Ordering::Relaxed), 3);
}

/// A type is a function like any other, and holds what it counts in.
struct Shelf(AtomicU32);

impl Function for Shelf {
    const NAME: &'static str = "shelf::take";
    type Args = Number;
    type Output = i64;

    async fn call(&self, Number { n }: Number, context: Context) -> Result<i64, Failure> {
        assert_eq!(context.caller, "take");
        if n < 0 {
            return Err(Failure::new(ErrorKind::Tool, "nothing is put back"));
        }
        tokio::task::yield_now().await;
        Ok(i64::from(self.0.fetch_sub(1, Ordering::Relaxed)))
    }
}

/// A run is stopped, looked at, changed and gone on with; what was before is gone on with, too, beside it.
#[tokio::test]
async fn a_thread_is_stopped_looked_at_changed_forked_and_gone_on_with() {
    let fresh = crate::support::Fresh::sqlite();
    let graph = "format: 1\ninput: {n: {type: integer, default: 1}}\nstate: {left: {type: integer, default: 0}, told: {type: integer, default: 0}, \
                 secret: {type: integer, default: 0, private: true}}\noutput: [left, told]\nstart: take\nnodes:\n  \
                 take: {kind: custom, use: 'shelf::take', with: {n: input.n}, into: left, next: tell}\n  \
                 tell: {kind: set, set: {told: state.left + state.secret}, next: end}\n";
    let builder = App::builder().file("shelf.yaml", graph).store(&fresh.url);
    let app = builder.function(Shelf(7.into())).build().await.unwrap();
    let thread = app.thread("acme", "ada", "desk").unwrap();
    assert!(thread.history(None, 10).await.unwrap().is_empty());
    assert!(matches!(thread.update(Update::as_node("take")).await, Err(StartError::NotFound)));
    let wrong = Request::new().interrupt_after(["tale"]);
    let Err(StartError::Unprocessable(wrong)) = thread.start("shelf", wrong).await else { panic!() };
    assert_eq!(wrong[0].pointer, "/interrupt_after/0");

    let request = Request::new().interrupt_before(["*"]).durability(Durability::Exit);
    let stopped = thread.start("shelf", request).await.unwrap().finish().await.unwrap();
    assert_eq!((stopped.status, stopped.interrupts.len()), (RunStatus::Interrupted, 0));
    // Where it stops was told for every node, and is told anew.
    let on = Resume::new().interrupt_after(["take"]).durability(Durability::Sync);
    assert_eq!(thread.resume_with(on).await.unwrap().finish().await.unwrap().status, RunStatus::Interrupted);
    let points = thread.history(None, 10).await.unwrap();
    assert_eq!(points.iter().map(|point| point.next.join(" ")).collect::<Vec<_>>(), ["tell", "take"]);
    let before = thread.view_at(points[1].checkpoint).await.unwrap().unwrap();
    assert_eq!((&before.state["left"], &before.state["secret"]), (&json!(0), &Json::Null));
    assert_eq!(thread.view().await.unwrap().unwrap().state["left"], 7);

    let refused = thread.update(Update::as_node("take").value("secret", 1)).await;
    assert!(matches!(refused, Err(StartError::Unprocessable(_))), "{refused:?}");
    let changed = Update::as_node("take").value("left", 40).value("secret", 2).private();
    let run = thread.update(changed).await.unwrap();
    let over = thread.resume().await.unwrap().finish().await.unwrap();
    assert_eq!((over.run, over.output), (run, Some(json!({"left": 40, "told": 42}))));

    let session = || "again".parse::<graphloom::Part>().unwrap();
    let again = thread.fork(Fork::new().session(session()).checkpoint(points[1].checkpoint)).await.unwrap();
    assert_eq!((again.session(), again.owner()), (&session(), thread.owner()));
    let over = again.resume().await.unwrap().finish().await.unwrap();
    assert_eq!(over.output, Some(json!({"left": 6, "told": 6})), "it took another one");
    let taken = thread.fork(Fork::new().session(session())).await;
    assert!(matches!(taken, Err(StartError::Exists)));
    assert_eq!(thread.view().await.unwrap().unwrap().state["told"], 42, "the first one stays as it is");
}

#[tokio::test]
async fn a_program_is_refused_with_all_that_check_would_say() {
    let error = sums("use: 'sums::dubble'").build().await.err().unwrap();
    let BuildError::Findings(findings) = &error else { panic!("{error}") };
    assert!(error.to_string().contains(&findings.to_string()));
    assert!(
        findings.to_string().contains("error[M506]: `sums::dubble` is not registered\n --> sums.yaml:7:"),
        "{findings}"
    );
    // Whoever registers nothing at all is told so.
    let alone = App::builder()
        .file("sums.yaml", "format: 1\nstart: a\nnodes: {a: {kind: custom, use: 'x::y', next: end}}");
    assert!(alone.build().await.err().unwrap().to_string().contains("no host program has registered it"));
    let nowhere = App::builder().file("a.yaml", "format: 1\nstart: a\nnodes: {a: {kind: fail, error: no}}");
    let error = nowhere.store("sqlite:///no/such/folder/x.db").build().await.err().unwrap();
    assert!(matches!(error, BuildError::Store(_)), "{error}");
    // Whoever prints all sources of an error reads it once.
    assert!(std::error::Error::source(&error).is_none());
}

/// A run that is interrupted by the end of its program is gone on with by the next one under the same name.
#[tokio::test]
async fn a_thread_outlives_its_program() {
    let fresh = crate::support::Fresh::sqlite();
    let graph = "format: 1\nstate: {messages: messages}\nstart: sure\nnodes:\n  sure: {kind: ask, question: Sure?, next: done}\n  \
                 done: {kind: say, text: Done., next: end}\n";
    let program = || App::builder().file("chat.yaml", graph).store(&fresh.url).instance("desk").build();
    let app = program().await.unwrap();
    let thread = app.thread("acme", "ada", "desk").unwrap();
    let waits = thread.start("chat", "Delete it").await.unwrap().finish().await.unwrap();
    assert_eq!(waits.reply(), Some("Sure?"));
    app.close().await;
    // Whoever holds the file has it.
    drop((thread, app));
    let app = program().await.unwrap();
    let thread = app.thread("acme", "ada", "desk").unwrap();
    assert_eq!(app.thread("acme", "bob", "desk").unwrap().questions().await.unwrap(), []);
    let question = thread.questions().await.unwrap().remove(0).interrupt_id;
    let turn = thread.answer(&question, "yes").await.unwrap();
    assert_eq!(turn.finish().await.unwrap().reply(), Some("Done."));
    assert!(thread.answer(&question, "yes").await.is_err());
    app.close().await;
}

#[tokio::test]
async fn a_program_serves_its_graphs_until_it_is_told_to_stop() {
    use graphloom::server::{Auth, Settings, Word};
    let app = sums("use: 'sums::double'").build().await.unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopping = async {
        let _gone = stopped.await;
        Word::Interrupt
    };
    let asked = async {
        let url = format!("http://{taken}/v1/graphs/sums/invoke");
        let body = json!({"session_id": "s", "input": {"n": 4}});
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = loop {
            match client.post(&url).json(&body).send().await {
                Ok(answer) => break answer,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let answer: Json = answer.json().await.unwrap();
        stop.send(()).unwrap();
        answer
    };
    let (served, answer) = tokio::join!(app.serve(Settings::new(taken, Auth::None), stopping), asked);
    served.unwrap();
    assert_eq!(answer["output"]["n"], 8, "{answer}");
}

#[test]
fn the_example_streams_through_its_tool_and_its_node() {
    let output = example("embed").output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[0], "[weighed: {\"words\":5}]");
    assert!(lines[1].contains("My printer is on fire"), "{said}");
    assert_eq!(lines[2], "[open_ticket]");
    assert!(lines[3].starts_with("acme-") && lines[3].ends_with("is with the desk, soon."), "{said}");
    assert_eq!(lines[4], "Completed after 1 model call");
}

/// The commands know the functions of the program that they are part of; `graphloom` knows them by a file, and cannot run them.
#[test]
fn a_program_has_all_commands_and_tells_others_what_it_registers() {
    let folder = Folder::new();
    folder.write("graphs/desk.yaml", "format: 1\nstate: {n: integer?}\noutput: [n]\nstart: weigh\nnodes:\n  weigh: {kind: custom, use: 'words::weigh', with: {text: \"'one two'\"}, into: n, next: end}\n");
    folder.write(
        "graphs/tests/desk.test.yaml",
        "format: 1\ntests: desk\ncases:\n  - name: weighs\n    turns:\n      - script: {weigh: {result: 7}}\n        expect: {path: [weigh], output: {n: 7}}\n",
    );
    let run = |command: &mut std::process::Command, arguments: &[&str]| {
        let output = command.current_dir(folder.path()).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let host = |arguments: &[&str]| run(&mut example("embed"), arguments);
    let plain = |arguments: &[&str]| run(&mut binary(&folder), arguments);
    let clean = "1 graph: no errors, no warnings, no lints\n";

    assert_eq!(host(&["check"]).1, clean);
    let (code, said, _) = plain(&["check"]);
    assert!(code == 0 && said.contains("lint[M506]") && said.contains("--registry FILE"), "{said}");

    let (code, registry, _) = host(&["registry"]);
    assert_eq!(code, 0);
    folder.write("registry.json", &registry);
    assert_eq!(plain(&["check", "--registry", "registry.json"]).1, clean);
    for command in ["check", "test"] {
        assert_eq!(plain(&[command, "--registry", "registry.json"]).0, 0, "{command}");
    }
    let (code, said, told) = host(&["test"]);
    assert!(code == 0 && said.contains("ok   desk: weighs"), "{said}{told}");
    let (code, _, told) = plain(&["chat", "desk", "-m", "x", "--registry", "registry.json"]);
    assert!(code == 1 && told.contains("its code is not here"), "{told}");
    folder.write("registry.json", &registry.replace("\"format\": 1", "\"format\": 2"));
    let (code, _, told) = plain(&["check", "--registry", "registry.json"]);
    assert!(code == 1 && told.contains("newer than this build"), "{told}");

    let text = std::fs::read_to_string(folder.path().join("graphs/desk.yaml")).unwrap();
    folder.write("graphs/desk.yaml", &text.replace("words::weigh", "words::weight"));
    let (code, said, _) = host(&["check"]);
    assert!(code == 1 && said.contains("did you mean `words::weigh`?"), "{said}");
    folder.write("graphs/desk.yaml", &text);
    let wrong = "format: 1\ntests: desk\ncases:\n  - name: weighs\n    turns:\n      - script: {weigh: {result: seven}}\n        expect: {path: [weigh]}\n";
    folder.write("graphs/tests/desk.test.yaml", wrong);
    let (code, said, _) = host(&["check"]);
    assert!(code == 1 && said.contains("error[M514]: this is no answer of a function"), "{said}");
}
