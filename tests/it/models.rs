//! What a run does with its models: rounds of tools, those that stand in for others, and what it all costs.

use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::step::Reply;
use graphloom::engine::{Answerer, Engine, Settings};
use graphloom::event::Usage;
use graphloom::id::{InterruptId, Seq};
use graphloom::model::Kind;
use graphloom::model::scripted::{Entry, Gate, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::Store;
use serde_json::{Value as Json, json};

use crate::support::process::Mock;
use crate::support::turn::{begin, drain, turn};
use crate::support::{Subject, owner, session};

async fn open(store: &Arc<dyn Store>, files: &[(&str, &str)], providers: impl Fn() -> Providers) -> Engine {
    let mut bag = Bag::default();
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    let folder = load_files("graphs", files.collect::<Files>(), &mut bag);
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new("test".into()) };
    Engine::open(store.clone(), catalog, providers(), settings).await.unwrap()
}

fn scripted(script: &Scripted) -> impl Fn() -> Providers {
    || Providers::scripted(script.clone()).unwrap()
}

/// Runs a turn to its end, or to the next question.
async fn say(engine: &Engine, text: &str) -> Vec<Json> {
    drain(engine, &begin(engine, text).await).await
}

/// An agent whose calls wait for a person.
const AGENT: &[(&str, &str)] = &[
    (
        "test.yaml",
        "format: 1
state: {messages: messages}
start: answer
nodes:
  answer: {kind: llm, text: Be brief., tools: [legal], reply: true, next: end}
",
    ),
    (
        "legal.yaml",
        "format: 1
input: {question: string}
state: {said: {type: string, default: none}}
start: look_up
nodes:
  look_up: {kind: set, set: {said: \"'So says the law: ' ~ input.question\"}, next: end}
output: [said]
",
    ),
    (
        "project.yaml",
        "format: 1
models: {m: {provider: demo}}
default_model: m
tools:
  legal: {graph: legal, description: Asks the legal desk., args: {question: string}, approval: always}
",
    ),
];

/// A provider refuses a round of tools without the thoughts before it; the round may come days later, in another process.
async fn thoughts(subject: Subject) {
    let thoughts = json!({"anthropic": "m", "blocks": [{"type": "thinking", "signature": "c2ln"}]});
    let calls = || Entry::calls([("legal", json!({"question": "May I?"}))]);
    let script = Scripted::new([(
        "answer",
        vec![calls().kept(thoughts.clone()), Entry::text("Yes."), Entry::text("You are welcome.")],
    )]);
    let first = open(&subject.store, AGENT, scripted(&script)).await;
    let events = say(&first, "May I?").await;
    let asked = &events.last().unwrap()["interrupts"][0];
    let id = InterruptId(asked["interrupt_id"].as_str().unwrap().into());
    first.close(Duration::ZERO, Duration::from_secs(5)).await;
    let second = open(&subject.store, AGENT, scripted(&script)).await;
    let agent = Answerer { owner: owner("acme", "bob"), agent: true };
    let answered = second.answer(&agent, vec![(id, Reply::Answer(json!("approve")))]).await.unwrap();
    let events = drain(&second, &answered).await;
    assert_eq!(events.last().unwrap()["status"], "completed", "{events:?}");
    say(&second, "Thanks.").await;
    let kept = |request: &graphloom::model::Request| -> Vec<Json> {
        request.turns.iter().filter_map(|turn| turn.kept.clone()).collect()
    };
    let requests = script.requests();
    assert_eq!(requests.iter().map(kept).collect::<Vec<_>>(), [vec![], vec![thoughts], vec![]]);
    let view = second.view(&session("s"), None).await.unwrap().unwrap();
    assert!(view.messages.iter().all(|message| message.get("kept").is_none()), "{:?}", view.messages);
}

#[tokio::test]
async fn what_a_provider_wants_back_outlives_a_pause_and_is_no_part_of_the_conversation() {
    thoughts(Subject::memory()).await;
    thoughts(Subject::sqlite().await).await;
    thoughts(Subject::postgres().await).await;
}

/// A model with two that stand in for it: one with a policy of its own, which has a third behind it.
const CHAIN: &[(&str, &str)] = &[
    (
        "test.yaml",
        "format: 1
state: {messages: messages}
limits: {cost_usd: 1}
start: answer
nodes:
  answer: {kind: llm, text: Be brief., temperature: 0.5, reply: true, next: end}
",
    ),
    (
        "project.yaml",
        "format: 1
models:
  smart: {provider: demo, fallback: [quick, spare], max_tokens: 7, price: {input: 1000000, output: 0}}
  quick: {provider: demo, fallback: [local], retry: twice, timeout: {first: 1s}}
  spare: {provider: demo}
  local: {provider: demo, timeout: 9s, price: {input: 0, output: 1000}}
default_model: smart
retries: {twice: {attempts: 2, first: 1ms, for: [server_error]}}
",
    ),
];

fn of_kind<'e>(events: &'e [Json], kind: &'e str) -> Vec<&'e Json> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

#[tokio::test]
async fn a_model_that_fails_hands_over_to_the_next_with_parameters_and_a_key_of_its_own() {
    let script = Scripted::new([(
        "answer",
        vec![
            Entry::error(Kind::Http(429)).retry_after(Duration::from_mins(1)),
            Entry::error(Kind::Http(503)),
            Entry::error(Kind::Http(503)),
            Entry::text("from the third"),
        ],
    )]);
    let engine = open(&Subject::memory().store, CHAIN, scripted(&script)).await;
    let events = say(&engine, "hi").await;
    let requests = script.requests();
    let asked: Vec<&str> = requests.iter().map(|request| request.model.as_str()).collect();
    assert_eq!(asked, ["smart", "quick", "quick", "local"]);
    let of = |field: fn(&graphloom::model::Request) -> Json| requests.iter().map(field).collect::<Vec<_>>();
    assert_eq!(of(|r| json!(r.params.max_tokens)), [json!(7), json!(null), json!(null), json!(null)]);
    assert_eq!(of(|r| json!(r.params.temperature)), vec![json!(0.5); 4], "the node speaks to all of them");
    assert_eq!(of(|r| json!(r.timeouts.total.as_secs())), [json!(120), json!(120), json!(120), json!(9)]);
    assert_eq!(of(|r| json!(r.attempt)), [json!(1), json!(2), json!(3), json!(4)]);
    let keys = of(|r| json!(r.idempotency_key));
    assert!(keys[1] == keys[2] && keys[0] != keys[1] && keys[1] != keys[3] && keys[0] != keys[3], "{keys:?}");
    let told: Vec<_> = of_kind(&events, "node.retrying").iter().map(|event| event["model"].clone()).collect();
    assert_eq!(told, [json!("quick"), json!(null), json!("local")]);
    let finished = of_kind(&events, "node.finished")[0];
    assert_eq!((&finished["model"], &finished["attempt"]), (&json!("local"), &json!(4)));
    assert_eq!(events.last().unwrap()["usage"]["model_calls"], 4, "calls that fail are calls");
    assert!(of_kind(&events, "node.reset").is_empty(), "nothing had been shown");
}

#[tokio::test]
async fn what_a_model_had_shown_is_taken_back_and_the_next_one_begins_from_zero() {
    let script = Scripted::new([(
        "answer",
        vec![Entry::chunks(["Hel", "lo"]).then_error(Kind::Connection), Entry::text("Good day")],
    )]);
    let engine = open(&Subject::memory().store, CHAIN, scripted(&script)).await;
    let events = say(&engine, "hi").await;
    let names: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    let expected = [
        "message.started",
        "message.delta",
        "message.delta",
        "node.reset",
        "node.retrying",
        "message.started",
        "message.delta",
        "message.finished",
    ];
    let of_interest = |name: &&str| name.starts_with("message") || name.starts_with("node.re");
    assert_eq!(names.into_iter().filter(of_interest).collect::<Vec<_>>(), expected);
    let view = engine.view(&session("s"), None).await.unwrap().unwrap();
    assert_eq!(view.messages[1]["content"], "Good day");
}

#[tokio::test]
async fn an_error_that_would_be_the_same_elsewhere_is_the_nodes_and_the_last_ones_when_all_fail() {
    for (kind, calls, code) in [
        (Kind::Http(400), 1, "http_400"),
        (Kind::Http(401), 1, "http_401"),
        (Kind::Schema, 1, "schema"),
        (Kind::Timeout, 4, "timeout"),
        (Kind::ServerError, 5, "server_error"),
    ] {
        let script = Scripted::always(Entry::error(kind));
        let engine = open(&Subject::memory().store, CHAIN, scripted(&script)).await;
        let events = say(&engine, "hi").await;
        assert_eq!((script.requests().len(), &of_kind(&events, "error")[0]["code"]), (calls, &json!(code)));
    }
}

/// The providers speak two protocols, and the first of them is overloaded.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_goes_on_with_a_provider_of_another_protocol() {
    let mock = Mock::start();
    let project = format!(
        "format: 1
models:
  smart: {{provider: anthropic, model: '[[status=529]]', base_url: '{0}', fallback: [spare]}}
  spare: {{provider: openai, model: mock, base_url: '{0}/v1'}}
default_model: smart
",
        mock.base
    );
    let files = [CHAIN[0], ("project.yaml", &project)]
        .map(|(name, text)| (name, text.replace("limits: {cost_usd: 1}\n", "")));
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let engine = open(&Subject::memory().store, &files, || Providers::without_secrets().unwrap()).await;
    let events = say(&engine, "[[say=Good day]]").await;
    assert_eq!(of_kind(&events, "node.finished")[0]["model"], "spare");
    assert_eq!(of_kind(&events, "message.finished")[0]["content"], "Good day");
    let calls = mock.calls(&reqwest::Client::new()).await;
    let status: Vec<_> = calls.iter().map(|call| call["status"].clone()).collect();
    assert_eq!(status, [json!(529), json!(200)]);
    assert_ne!(calls[0]["headers"]["idempotency-key"], calls[1]["headers"]["idempotency-key"]);
}

/// Some models are held to nothing, and like to talk.
#[tokio::test(flavor = "multi_thread")]
async fn a_model_with_neither_schemas_nor_tools_is_asked_for_json_in_words() {
    let graph = "\
format: 1
state: {messages: messages, mood: {enum: [happy, angry], default: angry}}
start: judge
nodes:
  judge: {kind: llm, text: What mood is the user in?, output: {enum: [happy, angry]}, into: mood, next: tell}
  tell: {kind: say, text: '{{ state.mood }}', next: end}
";
    for (provider, path) in [("openai", "/v1"), ("anthropic", "")] {
        let mock = Mock::start();
        let model = r#"[[say=Sure! {"value": "happy"} it is.]]"#;
        let project = format!(
            "format: 1\nmodels:\n  m: {{provider: {provider}, model: '{model}', base_url: '{}{path}', supports: []}}\n\
             default_model: m\n",
            mock.base
        );
        let files = [("test.yaml", graph), ("project.yaml", &project)];
        let engine = open(&Subject::memory().store, &files, || Providers::without_secrets().unwrap()).await;
        let events = say(&engine, "[[say=The user is {happy}.]]").await;
        assert_eq!(of_kind(&events, "message.finished")[0]["content"], "happy", "{provider}: {events:?}");
        let calls = mock.calls(&reqwest::Client::new()).await;
        let bodies: Vec<&Json> = calls.iter().map(|call| &call["body"]).collect();
        assert_eq!(bodies.len(), 2, "what did not fit is asked for again");
        for body in &bodies {
            let held = ["response_format", "tools", "tool_choice", "output_config"];
            assert!(held.iter().all(|key| body.get(key).is_none()), "{provider}: {body}");
            let last = body["messages"].as_array().unwrap().last().unwrap();
            assert!(last["role"] == "user" && last["content"].to_string().contains("JSON Schema"), "{last}");
        }
        let turns = bodies[1]["messages"].as_array().unwrap();
        let roles: Vec<&Json> = turns.iter().map(|turn| &turn["role"]).collect();
        assert!(roles.windows(2).all(|two| two[0] != two[1]), "{roles:?}");
    }
}

/// A typed answer, and what it may cost.
fn typed(limit: &str) -> Vec<(&'static str, String)> {
    let graph = format!(
        "format: 1
state: {{messages: messages, n: integer?}}
limits: {{{limit}}}
start: count
nodes:
  count: {{kind: llm, text: Count., output: integer, into: n, next: tell}}
  tell: {{kind: say, text: '{{{{ state.n | default(0) }}}}', next: again}}
  again: {{kind: llm, text: Count., reply: true, next: end}}
"
    );
    let project =
        "format: 1\nmodels: {m: {provider: demo, price: {input: 2, output: 10}}}\ndefault_model: m\n";
    vec![("test.yaml", graph), ("project.yaml", project.to_owned())]
}

/// Only the tokens of answers that were taken counted: a model that never answered as it should was free.
#[tokio::test]
async fn all_calls_are_paid_for_and_a_limit_of_cost_ends_the_run() {
    let used = Usage { input_tokens: 1000, output_tokens: 100, ..Usage::default() };
    let good = || Entry::text("{\"value\": 1}").usage(used);
    let bad = || Entry::text("one").usage(used);
    // What is said and cut off is guessed: four bytes are about a token.
    let cut = || Entry::text("x".repeat(400)).then_error(Kind::Connection);
    for (what, limit, count, code, cost, calls) in [
        ("good answers", "tokens: 9999", vec![good()], json!(null), 0.006, 2),
        ("an answer that is repaired", "tokens: 9999", vec![bad(), good()], json!(null), 0.009, 3),
        ("an answer that is not", "tokens: 9999", vec![bad(), bad()], json!("schema"), 0.006, 2),
        ("a limit", "cost_usd: 0.002", vec![good()], json!("limit"), 0.003, 1),
        ("an answer that is cut", "tokens: 9999", vec![cut()], json!("connection"), 0.001_006, 1),
    ] {
        let again = vec![Entry::text("well").usage(used)];
        let script = Scripted::new([("count", count), ("again", again)]);
        let files = typed(limit);
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let engine = open(&Subject::memory().store, &files, scripted(&script)).await;
        let events = say(&engine, "hi").await;
        let codes: Vec<_> = of_kind(&events, "error").iter().map(|error| error["code"].clone()).collect();
        assert_eq!(codes.first().unwrap_or(&json!(null)), &code, "{what}");
        let usage = &events.last().unwrap()["usage"];
        assert_eq!((&usage["cost_usd"], &usage["model_calls"]), (&json!(cost), &json!(calls)), "{what}");
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_is_paid_for() {
    let gate = Gate::new();
    let pieces = ["x".repeat(400), "y".to_owned()];
    let script = Scripted::new([("answer", vec![Entry::chunks(pieces).gated(&gate)])]);
    let engine = open(&Subject::memory().store, CHAIN, scripted(&script)).await;
    let start = turn("hi");
    let run = engine.start(&owner("acme", "ann"), start).await.unwrap().run;
    let mut follower = engine.follower(&owner("acme", "ann"), &run, Seq::default(), false);
    gate.open(1);
    while follower.next().await.unwrap().unwrap().event.body.name() != "message.delta" {}
    engine.cancel(&owner("acme", "ann"), run.run).await.unwrap();
    let mut end = Json::Null;
    while let Some(frame) = follower.next().await {
        end = serde_json::from_slice(&frame.unwrap().json).unwrap();
    }
    let usage = &end["usage"];
    assert_eq!((&end["status"], &usage["model_calls"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(usage["output_tokens"], 100, "what had come is guessed: four bytes are about a token");
    assert!(usage["cost_usd"].as_f64() > Some(0.0), "{usage}");
}

/// Answers of a `scripted` model, with the graph of `AGENT`: the first line that fits what was said last.
#[tokio::test]
async fn a_scripted_model_says_the_line_that_fits_what_was_said_last() {
    let script = "format: 1
models:
  m:
    provider: scripted
    script:
      - {contains: So says, text: The law is clear.}
      - {contains: Law, text: I ask., calls: [{legal: {question: Who pays?}}]}
      - {contains: broken, error: server_error}
      - {contains: refund, output: {intent: refund}}
      - {contains: hello, text: Hello there., after: 1ms}
default_model: m
tools:
  legal: {graph: legal, description: Asks the legal desk., args: {question: string}}
";
    let files = [AGENT[0], AGENT[1], ("project.yaml", script)];
    let engine = open(&Subject::memory().store, &files, || Providers::without_secrets().unwrap()).await;
    let rows = [
        ("What is the LAW?", "The law is clear.", ""),
        ("Hello!", "Hello there.", ""),
        ("I want a refund", r#"{"intent":"refund"}"#, ""),
        ("It is broken", "", "server_error"),
        ("Bye", "", "schema"),
    ];
    for (said, reply, error) in rows {
        let events = say(&engine, said).await;
        let messages = of_kind(&events, "message.finished");
        let last = messages.last().map_or(json!(""), |message| message["content"].clone());
        let failed = of_kind(&events, "error").first().map_or(json!(""), |event| event["code"].clone());
        assert_eq!((last, failed), (json!(reply), json!(error)), "{said}: {events:#?}");
    }
}
