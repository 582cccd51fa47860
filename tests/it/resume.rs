//! Runs that failed, paused or lost their process, and what they go on with.

use std::time::Duration;

use graphloom::engine::step::Reply;
use graphloom::engine::{Answerer, Engine, Resume, Start};
use graphloom::event::Usage;
use graphloom::id::{InterruptId, RunId};
use graphloom::model::Kind;
use graphloom::model::scripted::{Entry, Gate, Scripted};
use graphloom::store::OnBusy;
use serde_json::{Value as Json, json};

use crate::handlers::{end, follow, of_kind, open, open_all, start};
use crate::support::turn::turn;
use crate::support::{Subject, owner, session};

/// Resumes the run and returns what it tells from then on.
async fn resume(engine: &Engine, run: RunId) -> Vec<Json> {
    assert_eq!(engine.resume(&session("s"), Resume::default()).await.unwrap().run.run, run);
    let events = follow(engine, run).await;
    assert_eq!(of_kind(&events, "run.finished").count(), 1, "from its start, a run is told with one end");
    events
}

async fn conversation(engine: &Engine) -> Vec<String> {
    let view = engine.view(&session("s"), None).await.unwrap().unwrap();
    view.messages.iter().map(|m| m["content"].as_str().unwrap().to_owned()).collect()
}

fn silent() -> Scripted {
    Scripted::new([("", Vec::new())])
}

/// A run whose first edges could not be chosen was taken for one at its end.
async fn a_run_that_could_not_begin(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
  facts: {type: any, default: {}}
start: [{when: state.facts.n > 1, to: tell}, {else: tell}]
nodes:
  tell: {kind: say, text: done, next: end}
";
    let engine = open(&subject.store, graph, &silent()).await;
    let run = start(&engine).await;
    let first = end(&follow(&engine, run).await).clone();
    assert_eq!(first["status"], "failed");
    let again = resume(&engine, run).await;
    assert_eq!(end(&again)["status"], "failed", "{again:?}");
    assert_eq!(of_kind(&again, "error").next().unwrap()["code"], "template");
    assert_eq!(conversation(&engine).await, ["hi"]);
}

async fn limits_that_were_used_up(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
  n: {type: integer, merge: add}
start: count
limits: {steps: 3, tokens: 8}
nodes:
  count:
    kind: set
    set: {n: 1}
    max_visits: 9
    on_max: d
    next: [{when: state.n < 3, to: count}, {else: d}]
  d: {kind: llm, text: hm, reply: true, next: e}
  e: {kind: llm, text: hm, reply: true, next: end}
";
    let usage = Usage { input_tokens: 8, output_tokens: 1, ..Usage::default() };
    let script = Scripted::new([
        ("d", vec![Entry::text("4").usage(usage)]),
        ("e", vec![Entry::text("5").usage(usage)]),
    ]);
    let engine = open(&subject.store, graph, &script).await;
    let run = start(&engine).await;
    let limit = |events: &[Json]| of_kind(events, "error").next().map(|error| error["message"].to_string());
    let steps = "\"the run needs more than 3 supersteps\"".to_owned();
    assert_eq!(limit(&follow(&engine, run).await), Some(steps));
    assert_eq!(limit(&resume(&engine, run).await), Some("\"the run needs more than 8 tokens\"".into()));
    let events = resume(&engine, run).await;
    assert_eq!((limit(&events), end(&events)["status"].as_str()), (None, Some("completed")));
    assert_eq!(conversation(&engine).await, ["hi", "4", "5"]);
}

async fn the_newest_words_of_the_user(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
start: ask
nodes:
  ask: {kind: ask, question: 'Who?', next: tell}
  tell: {kind: say, text: \"You said {{ run.user_text }}.\", next: end}
";
    let engine = open(&subject.store, graph, &silent()).await;
    let run = start(&engine).await;
    let events = follow(&engine, run).await;
    let id = InterruptId(end(&events)["interrupts"][0]["interrupt_id"].as_str().unwrap().into());
    let ann = Answerer { owner: owner("acme", "ann"), agent: false };
    engine.answer(&ann, vec![(id, Reply::Answer(json!("me")))]).await.unwrap();
    follow(&engine, run).await;
    assert_eq!(conversation(&engine).await, ["hi", "Who?", "me", "You said me."]);
}

/// The text of a run that was taken over before its first barrier was that of the turn before.
async fn the_words_of_a_turn_that_is_taken_over(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
start: tell
nodes:
  tell: {kind: llm, text: \"{{ run.user_text }}\", reply: true, next: end}
";
    let gate = Gate::new();
    let first = Scripted::new([("tell", vec![Entry::text("one"), Entry::text("never").gated(&gate)])]);
    let dying = crate::handlers::open_dying(&subject.store, graph, &first).await;
    let run = start(&dying).await;
    follow(&dying, run).await;
    let second = turn("again");
    let run = dying.start(&owner("acme", "ann"), second).await.unwrap().run.run;
    first.wait_for_calls(2).await;
    let script = Scripted::new([("tell", vec![Entry::text("two")])]);
    let heir = open(&subject.store, graph, &script).await;
    assert_eq!(end(&follow(&heir, run).await)["status"], "completed");
    assert_eq!(script.requests()[0].turns[0].content, "again");
}

/// Tokens of what was done beside a failure counted twice after a resume, or those of the failure not at all.
async fn the_tokens_of_a_failed_superstep(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
  x: string?
  y: string?
start: {all: [fine, weak]}
nodes:
  fine: {kind: llm, text: f, into: x, next: end}
  weak: {kind: llm, text: w, into: y, next: end}
";
    let usage = Usage { input_tokens: 8, output_tokens: 1, ..Usage::default() };
    let script = Scripted::new([
        ("fine", vec![Entry::text("x").usage(usage)]),
        ("weak", vec![Entry::error(Kind::Timeout), Entry::text("y").usage(usage)]),
    ]);
    let engine = open(&subject.store, graph, &script).await;
    let run = start(&engine).await;
    let failed = end(&follow(&engine, run).await).clone();
    let resumed = end(&resume(&engine, run).await).clone();
    assert_eq!((failed["status"].as_str(), resumed["status"].as_str()), (Some("failed"), Some("completed")));
    let tokens = |end: &Json| end["usage"]["input_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&resumed), tokens(&failed) + 8, "{failed} {resumed}");
}

/// What a finished sibling had said was taken back after a crash, and not told again.
async fn what_was_said_before_a_crash(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
start: {all: [quick, slow]}
nodes:
  quick: {kind: llm, text: q, reply: true, next: end}
  slow: {kind: llm, text: s, next: end, into: x}
"
    .replace("  messages: messages\n", "  messages: messages\n  x: string?\n");
    let gate = Gate::new();
    let first = Scripted::new([
        ("quick", vec![Entry::text("quick words")]),
        ("slow", vec![Entry::text("never").gated(&gate)]),
    ]);
    let dying = crate::handlers::open_dying(&subject.store, &graph, &first).await;
    let run = start(&dying).await;
    first.wait_for_calls(2).await;
    let owner = owner("acme", "ann");
    while subject.store.pending(&owner, run, 1).await.unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = Scripted::new([("slow", vec![Entry::text("slow words")])]);
    let heir = open(&subject.store, &graph, &second).await;
    let events = follow(&heir, run).await;
    assert_eq!(end(&events)["status"], "completed");
    let mut shown = String::new();
    for event in events.iter().filter(|event| event["node"] == "quick") {
        match event["type"].as_str().unwrap() {
            "node.reset" => shown.clear(),
            "message.delta" => shown += event["delta"].as_str().unwrap(),
            _ => {}
        }
    }
    assert_eq!(shown, "quick words");
    assert_eq!(second.requests().len(), 1);
}

/// The time of a `graph` or `map` node was accepted and never kept.
async fn the_time_of_a_node_with_parts(subject: Subject) {
    let graph = "\
format: 1
state:
  messages: messages
  list: {type: [integer], default: [1, 2]}
  out: {type: [any], merge: append}
start: each
nodes:
  each:
    kind: map
    over: state.list
    do: {kind: llm, text: \"{{ item }}\"}
    on_item_error: skip
    timeout: 300ms
    on_error: late
    into: {out: result}
    next: end
  late: {kind: say, text: \"{{ error.node }} {{ error.kind }}\", next: end}
";
    let gate = Gate::new();
    let script = Scripted::new([
        ("each[0]", vec![Entry::text("1")]),
        ("each[1]", vec![Entry::text("2").gated(&gate)]),
    ]);
    let engine = open(&subject.store, graph, &script).await;
    let run = start(&engine).await;
    let events = tokio::time::timeout(Duration::from_secs(10), follow(&engine, run)).await.unwrap();
    assert_eq!(end(&events)["status"], "completed", "{events:#?}");
    assert_eq!(conversation(&engine).await, ["hi", "each timeout"]);
}

const PROJECT: &str = "\
format: 1
models: {m: {provider: demo}}
default_model: m
tools:
  buy: {graph: shop, description: Buys., args: {what: string}, effects: none}
  sell: {graph: shop, description: Sells., args: {what: string}, approval: always, effects: none}
";
const SHOP: &str = "\
format: 1
input: {what: string}
state: {answer: string?}
start: serve
nodes:
  serve: {kind: llm, text: 'serve {{ input.what }}', into: answer, next: end}
output: {answer: state.answer}
";

/// What a model's tools did stays done when the run does not come to its end, and the model has to know it in the next one.
async fn what_was_done_before(subject: Subject) {
    let graph = |more: &str| {
        format!(
            "format: 1\nstate: {{messages: messages}}\nstart: answer\n{more}nodes:\n  \
             answer: {{kind: llm, text: Trade., tools: [buy, sell], reply: true, next: end}}\n  \
             sorry: {{kind: say, text: Sorry., next: end}}\n"
        )
    };
    let calls = |tool: &str| Entry::text("I trade.").and_calls([(tool.to_owned(), json!({"what": "tea"}))]);
    let (fails, done) = (Entry::error(Kind::ServerError), Entry::text("Well."));
    let said = "{\"answer\":\"sold\"}";
    let unknown = "The call was cancelled; whether it had an effect is not known.";
    let unmade = "The call was not made: nobody allowed it.";
    let limit = "limits: {calls: 2}\non_limit: sorry\n";
    let caught = "on_error: [{catch: [any], to: sorry}]\n";
    for (what, more, tool, result, between) in [
        ("a failure", "", "buy", said, ""),
        ("a failure that is handled", caught, "buy", said, "Sorry."),
        ("a limit", limit, "buy", said, "Sorry."),
        ("a stop", "", "buy", unknown, ""),
        ("a question", "", "sell", unmade, ""),
    ] {
        let gate = Gate::new();
        let sold = if what == "a stop" { done.clone().gated(&gate) } else { Entry::text("sold") };
        let answers = match tool {
            "buy" if result == said && more != limit => vec![calls(tool), fails.clone(), done.clone()],
            _ => vec![calls(tool), done.clone()],
        };
        let script = Scripted::new([("answer", answers), ("answer/serve", vec![sold])]);
        let files =
            [("test.yaml", graph(more)), ("shop.yaml", SHOP.into()), ("project.yaml", PROJECT.into())];
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let engine = open_all(&subject.store, &files, &script, 64).await;
        let run = start(&engine).await;
        if what == "a stop" {
            script.wait_for_calls(2).await;
        } else {
            follow(&engine, run).await;
        }
        if tool == "sell" {
            engine.cancel(&owner("acme", "ann"), run).await.unwrap();
        }
        let on_busy = OnBusy::Interrupt;
        let next = engine.start(&owner("acme", "ann"), Start { on_busy, ..turn("and?") }).await.unwrap();
        let events = follow(&engine, next.run.run).await;
        assert_eq!(end(&events)["status"], "completed", "{what}: {events:?}");
        let asked = script.requests().pop().unwrap().turns;
        let turns: Vec<String> = asked[1..]
            .iter()
            .map(|turn| format!("{:?} {}", turn.role, turn.content.as_str().unwrap()))
            .collect();
        let mut expected = vec!["User hi".to_owned(), "Assistant I trade.".into(), format!("Tool {result}")];
        expected.extend((!between.is_empty()).then(|| format!("Assistant {between}")));
        expected.push("User and?".to_owned());
        assert_eq!(turns, expected, "{what}");
        assert_eq!((asked[2].tool_calls.len(), asked[3].tool_call_id.is_some()), (1, true));
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
        assert!(engine.delete_thread(&session("s")).await.unwrap());
    }
}

macro_rules! over_every_store {
    ($($test:ident),*) => {
        $(mod $test {
            use super::*;

            #[tokio::test]
            async fn on_every_store() {
                super::$test(Subject::memory()).await;
                super::$test(Subject::sqlite().await).await;
                super::$test(Subject::postgres().await).await;
            }
        })*
    };
}

over_every_store!(
    a_run_that_could_not_begin,
    limits_that_were_used_up,
    the_newest_words_of_the_user,
    the_words_of_a_turn_that_is_taken_over,
    the_tokens_of_a_failed_superstep,
    what_was_said_before_a_crash,
    what_was_done_before,
    the_time_of_a_node_with_parts
);
