//! Errors as data, and limits that lead somewhere: graphs in YAML, a scripted model, and every store.

use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::{Engine, Followed, Settings};
use graphloom::event::Usage;
use graphloom::id::{RunId, Seq};
use graphloom::model::Kind;
use graphloom::model::scripted::{Entry, Gate, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::Store;
use serde_json::{Value as Json, json};

use crate::support::turn::{rest, turn};
use crate::support::{Subject, owner, session};

const PROJECT: &str = "format: 1\ndefault_model: m\nmodels: {m: {provider: demo}}\n\
                       retries: {twice: {attempts: 2, first: 1ms, for: [any]}}\n";

/// Two views at once, what went wrong, and an answer from what there is.
const RESEARCH: &str = "\
format: 1
state:
  messages: messages
  pro: {type: string, default: none}
  contra: {type: string, default: none}
  log: {type: [string], merge: append}
start: {all: [look_for, look_against]}
on_error: note
nodes:
  look_for: {kind: llm, text: For?, into: pro, next: tell}
  look_against: {kind: llm, text: Against?, into: contra, next: tell}
  note:
    kind: set
    set: {log: \"[error.node ~ ' ' ~ error.kind ~ ' ' ~ error.code]\"}
    next: explain
  explain: {kind: llm, text: \"Explain {{ error.kind }}: {{ error.message }}\", into: {log: '[result]'}, next: tell}
  tell: {kind: say, text: \"{{ state.pro }}, {{ state.contra }}, {{ state.log | join('; ') }}\", next: end}
output: [pro, contra, log]
";

pub(crate) async fn open(store: &Arc<dyn Store>, graph: &str, script: &Scripted) -> Engine {
    open_with(store, graph, script, 64).await
}

/// Opens an engine that will die: it takes nothing back from the next one of its name.
pub(crate) async fn open_dying(store: &Arc<dyn Store>, graph: &str, script: &Scripted) -> Engine {
    open_with(store, graph, script, 0).await
}

async fn open_with(store: &Arc<dyn Store>, graph: &str, script: &Scripted, claims: u32) -> Engine {
    open_all(store, &[("test.yaml", graph)], script, claims).await
}

/// Opens an engine that serves several graphs.
pub(crate) async fn open_all(
    store: &Arc<dyn Store>,
    graphs: &[(&str, &str)],
    script: &Scripted,
    claims: u32,
) -> Engine {
    let providers = || Providers::scripted(script.clone()).unwrap();
    let mut bag = Bag::default();
    let files = [("project.yaml", PROJECT)].into_iter().chain(graphs.iter().copied());
    let files = files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let folder = load_files("graphs", files.collect::<Files>(), &mut bag);
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let settings = Settings { poll: Duration::from_millis(20), claims, ..Settings::new("test".into()) };
    Engine::open(store.clone(), catalog, providers(), settings).await.unwrap()
}

pub(crate) async fn start(engine: &Engine) -> RunId {
    engine.start(&owner("acme", "ann"), turn("hi")).await.unwrap().run.run
}

/// Follows a run to its end.
pub(crate) async fn follow(engine: &Engine, run: RunId) -> Vec<Json> {
    let stream = engine.follow(&owner("acme", "ann"), run, Seq::default(), false).await.unwrap();
    let Some(Followed::Events(follower)) = stream else { panic!("nothing to follow") };
    rest(follower).await
}

/// Runs a graph on memory to its end.
async fn play(graph: &str, script: &Scripted) -> Vec<Json> {
    let engine = open(&Subject::memory().store, graph, script).await;
    let run = start(&engine).await;
    follow(&engine, run).await
}

pub(crate) fn of_kind<'e>(events: &'e [Json], kind: &'e str) -> impl Iterator<Item = &'e Json> {
    events.iter().filter(move |event| event["type"] == kind)
}

/// Tells the edges taken: `a>b`, with the condition behind it.
fn edges(events: &[Json]) -> Vec<String> {
    let text = |value: &Json| value.as_str().map(str::to_owned);
    of_kind(events, "edge.taken")
        .map(|edge| {
            let condition = text(&edge["condition"]).map(|c| format!(" {c}")).unwrap_or_default();
            format!("{}>{}{condition}", text(&edge["from"]).unwrap(), text(&edge["to"]).unwrap())
        })
        .collect()
}

fn statuses(events: &[Json]) -> Vec<String> {
    let text =
        |event: &Json| format!("{} {}", event["node"].as_str().unwrap(), event["status"].as_str().unwrap());
    of_kind(events, "node.finished").map(text).collect()
}

pub(crate) fn end(events: &[Json]) -> &Json {
    let last = events.last().unwrap();
    assert_eq!(last["type"], "run.finished");
    last
}

async fn conversation(engine: &Engine) -> Vec<String> {
    let view = engine.view(&session("s"), None).await.unwrap().unwrap();
    view.messages.iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
}

/// The graph's rules would lead round in a circle if they covered their handler, or what it leads to.
#[tokio::test]
async fn the_rules_of_a_graph_cover_neither_their_handler_nor_what_it_leads_to() {
    let node =
        |name: &str, next: &str| format!("  {name}: {{kind: llm, text: Go., reply: true, next: {next}}}\n");
    let nodes = node("look", "end") + &node("note", "explain") + &node("explain", "end");
    let graph =
        format!("format: 1\nstate: {{messages: messages}}\nstart: look\non_error: note\nnodes:\n{nodes}");
    for (failing, way, status) in [
        ("look", vec!["look>note on_error: timeout", "note>explain", "explain>end"], "completed"),
        ("look note", vec!["look>note on_error: timeout"], "failed"),
        ("look explain", vec!["look>note on_error: timeout", "note>explain"], "failed"),
    ] {
        let entry = |name| {
            let fails = failing.split(' ').any(|failing| failing == name);
            if fails { Entry::error(Kind::Timeout) } else { Entry::text("x") }
        };
        let script = Scripted::new(["look", "note", "explain"].map(|name| (name, vec![entry(name)])));
        let events = play(&graph, &script).await;
        assert_eq!(edges(&events)[1..], way, "{failing}");
        assert_eq!(end(&events)["status"], status, "{failing}");
    }
}

async fn one_failure(subject: Subject) {
    let script = Scripted::new([
        ("look_for", vec![Entry::error(Kind::Timeout)]),
        ("look_against", vec![Entry::text("dear")]),
        ("explain", vec![Entry::text("too slow")]),
    ]);
    let engine = open(&subject.store, RESEARCH, &script).await;
    let run = start(&engine).await;
    let events = follow(&engine, run).await;
    assert_eq!(
        edges(&events),
        [
            "start>look_for",
            "start>look_against",
            "look_against>tell",
            "look_for>note on_error: timeout",
            "note>explain",
            "explain>tell",
            "tell>end"
        ]
    );
    let mut told = statuses(&events);
    told.truncate(2);
    told.sort();
    assert_eq!(told, ["look_against completed", "look_for failed"]);
    assert_eq!(end(&events)["status"], "completed");
    assert_eq!(of_kind(&events, "error").count(), 0, "an error that is handled is no error of the run");
    let said = "none, dear, look_for timeout timeout; too slow";
    assert_eq!(conversation(&engine).await, ["hi", said]);
    let asked = script.requests().into_iter().find(|request| request.node == "explain").unwrap();
    assert_eq!(asked.turns[0].content, "Explain timeout: scripted error Timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_data_and_its_sibling_keeps_its_result_on_every_store() {
    one_failure(Subject::memory()).await;
    one_failure(Subject::sqlite().await).await;
    one_failure(Subject::postgres().await).await;
}

/// The process dies after the failure was stored and before its handler was done.
async fn crash_before_the_handler(subject: Subject) {
    let script = |explain: Entry| {
        Scripted::new([
            ("look_for", vec![Entry::error(Kind::RateLimit)]),
            ("look_against", vec![Entry::error(Kind::ServerError)]),
            ("explain", vec![explain.clone(), explain]),
        ])
    };
    let gate = Gate::new();
    let first = script(Entry::text("never said").gated(&gate));
    let dying = open_dying(&subject.store, RESEARCH, &first).await;
    let run = start(&dying).await;
    first.wait_for_calls(4).await;
    // The next process has the same name and another boot, as after kill -9.
    let second = script(Entry::text("well"));
    let heir = open(&subject.store, RESEARCH, &second).await;
    let events = follow(&heir, run).await;
    assert_eq!(end(&events)["status"], "completed");
    assert_eq!(
        end(&events)["output"]["log"],
        json!(["look_against server_error server_error", "look_for rate_limit rate_limit", "well", "well"])
    );
    // Only what was not done is done again, and with the errors of the dead process.
    let mut asked: Vec<(String, Json)> = second
        .requests()
        .into_iter()
        .map(|request| (request.node.clone(), request.turns[0].content.clone()))
        .collect();
    asked.sort_by_key(|(_, text)| text.to_string());
    let due = |kind: &str, error: &str| {
        ("explain".to_owned(), json!(format!("Explain {kind}: scripted error {error}")))
    };
    assert_eq!(asked, [due("rate_limit", "RateLimit"), due("server_error", "ServerError")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_a_failure_and_its_handler_loses_no_error_on_any_store() {
    crash_before_the_handler(Subject::memory()).await;
    crash_before_the_handler(Subject::sqlite().await).await;
    crash_before_the_handler(Subject::postgres().await).await;
}

#[tokio::test]
async fn an_error_is_handled_after_the_last_attempt_and_what_was_shown_is_taken_back() {
    let graph = "\
format: 1
state: {messages: messages}
start: answer
nodes:
  answer:
    kind: llm
    text: Answer.
    reply: true
    retry: twice
    on_error: [{catch: [schema], to: end}, {catch: [connection, http_5xx], to: sorry}]
    next: end
  sorry: {kind: say, text: \"Sorry, {{ error.kind }}.\", next: end}
";
    let script =
        Scripted::new([("answer", vec![Entry::text("half an ans").cut(), Entry::text("half").cut()])]);
    let store = Subject::memory().store;
    let engine = open(&store, graph, &script).await;
    let run = start(&engine).await;
    let events = follow(&engine, run).await;
    assert_eq!(script.requests().len(), 2);
    assert_eq!(edges(&events)[1..], ["answer>sorry on_error: connection", "sorry>end"]);
    let contents: Vec<&Json> = of_kind(&events, "message.finished").map(|event| &event["content"]).collect();
    assert_eq!(contents, [&Json::Null, &json!("Sorry, connection.")]);
    assert_eq!(conversation(&engine).await, ["hi", "Sorry, connection."]);
}

#[tokio::test]
async fn errors_go_by_code_by_the_graph_when_the_node_does_not_say_and_else_end_the_run() {
    let graph = |own: &str| {
        format!(
            "format: 1\nstate: {{messages: messages}}\nstart: look\n\
             on_error: [{{catch: [timeout], to: tell}}, {{catch: [{{code: no_stock}}], to: tell}}]\n\
             nodes:\n  look: {{kind: llm, text: Look., into: {{}}, {own}next: stop}}\n  \
             stop: {{kind: fail, error: Nothing there., code: no_stock}}\n  \
             tell: {{kind: say, text: \"{{{{ error.node }}}}: {{{{ error.message }}}}\", next: end}}\n"
        )
    };
    let look = |entry: Entry| Scripted::new([("look", vec![entry])]);
    for (own, entry, edge, status) in [
        ("", Entry::text("x"), "stop>tell on_error: failed", "completed"),
        ("", Entry::error(Kind::Timeout), "look>tell on_error: timeout", "completed"),
        (
            "on_error: [{catch: [http_404], to: end}], ",
            Entry::error(Kind::Http(404)),
            "look>end on_error: http_404",
            "completed",
        ),
        (
            "on_error: [{catch: [http_404], to: end}], ",
            Entry::error(Kind::Timeout),
            "look>tell on_error: timeout",
            "completed",
        ),
        ("on_error: [{catch: [http_404], to: end}], ", Entry::error(Kind::Schema), "start>look", "failed"),
    ] {
        let events = play(&graph(own), &look(entry)).await;
        let taken = edges(&events);
        assert!(taken.iter().any(|taken| taken == edge), "{own}{edge}: {taken:?}");
        assert_eq!(end(&events)["status"], status, "{own}{edge}");
    }
}

/// What is found out only when writes are folded is a failure of the node, too.
#[tokio::test]
async fn a_write_that_does_not_fit_and_a_rule_that_fails_are_errors_of_their_node() {
    let graph = "\
format: 1
state:
  messages: messages
  data: {type: any, default: {n: many}}
  n: {type: integer, default: 0}
start: {all: [count, ask]}
nodes:
  count: {kind: set, set: {n: state.data.n}, on_error: [{catch: [merge], to: tell}], next: end}
  ask:
    kind: say
    text: Which one?
    next:
      - when: state.data.n > 3
        to: end
      - else: end
    on_error: [{catch: [template], to: tell}]
  tell: {kind: say, text: \"{{ error.node }} {{ error.kind }}\", next: end}
output: {n: state.n}
";
    let store = Subject::memory().store;
    let engine = open(&store, graph, &Scripted::always(Entry::text("x"))).await;
    let run = start(&engine).await;
    let events = follow(&engine, run).await;
    assert_eq!(edges(&events)[2..4], ["ask>tell on_error: template", "count>tell on_error: merge"]);
    assert_eq!(statuses(&events), ["ask failed", "count failed", "tell completed", "tell completed"]);
    assert_eq!(end(&events)["output"], json!({"n": 0}));
    assert_eq!(conversation(&engine).await, ["hi", "ask template", "count merge"]);
    let contents: Vec<&Json> = of_kind(&events, "message.finished").map(|event| &event["content"]).collect();
    assert_eq!(contents[0], &Json::Null, "what failed at the barrier takes back what it said");
}

const BOUNDED: &str = "\
format: 1
state:
  messages: messages
  log: {type: [string], merge: append}
limits: {LIMIT}
on_limit: wrap_up
start: work
nodes:
  work: {kind: llm, text: Work., into: {log: '[result]'}, max_visits: 50, on_max: end, next: work}
  wrap_up:
    kind: llm
    text: \"End it: {{ error.kind }} {{ error.code }}, {{ error.message }}\"
    into: {log: \"[error.kind ~ ' ' ~ result]\"}
    next: WAY
output: [log]
";

fn bounded(limit: &str, way: &str) -> String {
    BOUNDED.replace("LIMIT", limit).replace("WAY", way)
}

#[tokio::test]
async fn a_limit_leads_on_once_and_ends_the_run_the_second_time() {
    let usage = Usage { input_tokens: 6, output_tokens: 4, ..Usage::default() };
    let script = || Scripted::always(Entry::text("x").usage(usage));
    for (limit, works) in [("steps: 3", 3), ("tokens: 25", 3), ("calls: 3", 3)] {
        let name = limit.split(':').next().unwrap();
        let taken = format!("start>wrap_up on_limit: {name}");
        let events = play(&bounded(limit, "end"), &script()).await;
        assert_eq!(end(&events)["status"], "completed", "{limit}");
        let mut log = vec![json!("x"); works];
        log.push(json!("limit x"));
        assert_eq!(end(&events)["output"], json!({"log": log}), "{limit}");
        assert_eq!(edges(&events).iter().filter(|edge| **edge == taken).count(), 1);
        // From there it may go on with as much again, and no further.
        let events = play(&bounded(limit, "work"), &script()).await;
        assert_eq!(end(&events)["status"], "failed", "{limit}");
        let error = of_kind(&events, "error").next().unwrap();
        assert_eq!(error["code"], "limit");
        let calls = statuses(&events).len();
        assert_eq!(calls, works * 2, "{limit}: {:?}", statuses(&events));
    }
}

#[tokio::test]
async fn when_the_time_is_over_calls_are_cancelled_and_finished_siblings_stay() {
    let graph = "\
format: 1
state:
  messages: messages
  log: {type: [string], merge: append}
limits: {time: 200ms}
on_limit: wrap_up
start: {all: [quick, slow]}
nodes:
  quick: {kind: llm, text: Quick., into: {log: '[result]'}, next: never}
  slow: {kind: llm, text: Slow., reply: true, next: never}
  never: {kind: route, next: end}
  wrap_up: {kind: llm, text: \"End it: {{ error.kind }}\", into: {log: '[result]'}, next: AGAIN}
output: [log]
";
    let gate = Gate::new();
    gate.open(1);
    let script = |wrap_up: Entry| {
        Scripted::new([
            ("quick", vec![Entry::text("quick")]),
            ("slow", vec![Entry::chunks(["a", "b"]).gated(&gate)]),
            ("wrap_up", vec![wrap_up]),
        ])
    };
    let once = script(Entry::text("done"));
    let events = play(&graph.replace("AGAIN", "end"), &once).await;
    once.wait_for_cancelled(1).await;
    assert_eq!(end(&events)["status"], "completed");
    assert_eq!(end(&events)["output"], json!({"log": ["quick", "done"]}));
    let mut told = statuses(&events);
    told.sort();
    assert_eq!(told, ["quick completed", "slow cancelled", "wrap_up completed"]);
    let opened = of_kind(&events, "message.started").count();
    let contents: Vec<&Json> = of_kind(&events, "message.finished").map(|event| &event["content"]).collect();
    assert_eq!((opened, contents), (1, vec![&Json::Null]));
    assert!(edges(&events).contains(&"start>wrap_up on_limit: time".to_owned()), "{:?}", edges(&events));
    // As much again, and then the end.
    let twice = script(Entry::text("never").gated(&Gate::new()));
    let events = play(&graph.replace("AGAIN", "end"), &twice).await;
    assert_eq!(end(&events)["status"], "failed");
    assert_eq!(of_kind(&events, "error").next().unwrap()["code"], "limit");
}

/// A limit that is used up is stored before anything follows from it.
async fn crash_after_a_limit(subject: Subject) {
    let usage = Usage { input_tokens: 6, output_tokens: 4, ..Usage::default() };
    let script = |wrap_up: Entry| {
        let work = vec![Entry::text("x").usage(usage); 9];
        Scripted::new([("work", work), ("wrap_up", vec![wrap_up])])
    };
    let graph = bounded("tokens: 25", "end");
    let first = script(Entry::text("never").gated(&Gate::new()));
    let dying = open_dying(&subject.store, &graph, &first).await;
    let run = start(&dying).await;
    first.wait_for_calls(4).await;
    let second = script(Entry::text("well"));
    let heir = open(&subject.store, &graph, &second).await;
    let events = follow(&heir, run).await;
    assert_eq!(end(&events)["output"], json!({"log": ["x", "x", "x", "limit well"]}));
    let asked: Vec<String> = second.requests().into_iter().map(|request| request.node).collect();
    assert_eq!(asked, ["wrap_up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_a_limit_goes_on_where_it_leads_on_every_store() {
    crash_after_a_limit(Subject::memory()).await;
    crash_after_a_limit(Subject::sqlite().await).await;
    crash_after_a_limit(Subject::postgres().await).await;
}
