//! `cache`: results that are kept for a tenant, and what they are found by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Catalog, Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::{Engine, Settings, Start};
use graphloom::event::Usage;
use graphloom::id::Owner;
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::plan::Work;
use graphloom::spec::{Files, load_files};
use graphloom::store::Store;
use serde_json::{Value as Json, json};

use crate::support::turn::{rest, turn};
use crate::support::{Subject, owner, part};

const PROJECT: &str = "\
format: 1
default_model: m
models: {m: {provider: demo}, other: {provider: demo}}
tools: {look: {graph: topic, description: Looks., args: {text: string}}}
";
const TRIAGE: &str = "\
format: 1
state: {messages: messages, topic: {type: string, default: none}}
start: triage
nodes:
  triage: {kind: llm, text: Topic?, into: topic, cache: {ttl: 1h}, emit: {seen: result}, next: tell}
  tell: {kind: say, text: \"It is {{ state.topic }}.\", next: end}
output: [topic]
";
/// What other graphs of these tests call.
const TOPIC: &str = "\
format: 1
input: {text: string}
state: {topic: {type: string, default: none}}
start: find
nodes:
  find: {kind: llm, text: \"Topic of {{ input.text }}?\", into: topic, next: end}
output: [topic]
";

fn catalog(files: &[(&str, &str)], providers: &Providers) -> Catalog {
    let mut bag = Bag::default();
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec()));
    let folder = load_files("graphs", files.collect::<Files>(), &mut bag);
    compile(&folder, providers, &mut bag).unwrap_or_else(|| panic!("{}", render_text(&bag, false)))
}

async fn open(store: &Arc<dyn Store>, graph: &str, script: &Scripted) -> Engine {
    let providers = || Providers::scripted(script.clone()).unwrap();
    let files = [("test.yaml", graph), ("topic.yaml", TOPIC), ("project.yaml", PROJECT)];
    // An engine of the same name would take its runs for what an earlier one has left.
    let name = graphloom::id::RunId::new().to_string();
    let settings = Settings { poll: Duration::from_millis(20), ..Settings::new(name) };
    Engine::open(store.clone(), catalog(&files, &providers()), providers(), settings).await.unwrap()
}

async fn play(engine: &Engine, owner: &Owner, start: Start) -> Vec<Json> {
    let run = engine.start(owner, start).await.unwrap().run;
    rest(engine.follower(owner, &run, graphloom::id::Seq::default(), false)).await
}

/// Says something in a session of its own.
async fn say(engine: &Engine, owner: &Owner, session: &str, text: &str) -> Vec<Json> {
    play(engine, owner, Start { session: part(session), ..turn(text) }).await
}

fn of<'e>(events: &'e [Json], kind: &'e str) -> impl Iterator<Item = &'e Json> {
    events.iter().filter(move |event| event["type"] == kind)
}

/// The nodes that ended, those without work with a star.
fn ended(events: &[Json]) -> Vec<String> {
    let star = |event: &Json| if event["cached"] == true { "*" } else { "" };
    of(events, "node.finished").map(|e| format!("{}{}", e["node"].as_str().unwrap(), star(e))).collect()
}

fn prompts(script: &Scripted) -> Vec<String> {
    let words = |content: &Json| content.as_str().unwrap().to_owned();
    script.requests().iter().map(|request| words(&request.turns[0].content)).collect()
}

async fn the_same_is_not_asked_again(subject: Subject) {
    let usage = Usage { input_tokens: 7, output_tokens: 3, ..Usage::default() };
    let answers = ["billing", "shipping", "other"].map(|text| Entry::text(text).usage(usage));
    let script = Scripted::new([("triage", answers.to_vec())]);
    let engine = open(&subject.store, TRIAGE, &script).await;
    let first = say(&engine, &owner("acme", "ann"), "one", "My bill?").await;
    assert_eq!(ended(&first), ["triage", "tell"]);
    // Another user of the tenant, another thread.
    let again = say(&engine, &owner("acme", "bob"), "two", "My bill?").await;
    assert_eq!(ended(&again), ["triage*", "tell"]);
    let hit = of(&again, "node.finished").next().unwrap();
    assert_eq!((hit.get("usage"), hit.get("model")), (None, None));
    assert_eq!(of(&again, "node.started").count(), 2);
    assert_eq!(of(&again, "custom").next().unwrap()["data"], "billing");
    assert_eq!(of(&again, "message.finished").next().unwrap()["content"], "It is billing.");
    let end = again.last().unwrap();
    assert_eq!((&end["output"], &end["usage"]["input_tokens"]), (&json!({"topic": "billing"}), &json!(0)));
    // Another tenant, and another question.
    assert_eq!(ended(&say(&engine, &owner("bolt", "ann"), "one", "My bill?").await)[0], "triage");
    assert_eq!(ended(&say(&engine, &owner("acme", "ann"), "three", "My parcel?").await)[0], "triage");
    assert_eq!(script.requests().len(), 3);
    // What a thread gave goes with it.
    let key = graphloom::id::ThreadKey { owner: owner("acme", "ann"), session: part("one") };
    assert!(engine.delete_thread(&key).await.unwrap());
    let script = Scripted::new([("triage", vec![Entry::text("bills")])]);
    let next = open(&subject.store, TRIAGE, &script).await;
    assert_eq!(ended(&say(&next, &owner("acme", "bob"), "four", "My bill?").await), ["triage", "tell"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_is_not_asked_again_within_a_tenant_on_any_store() {
    the_same_is_not_asked_again(Subject::memory()).await;
    the_same_is_not_asked_again(Subject::sqlite().await).await;
    the_same_is_not_asked_again(Subject::postgres().await).await;
}

/// Items, graphs and models with tools: what is kept is what comes of the whole work, however many supersteps it takes.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_has_a_result_can_be_kept() {
    let graph = |nodes: &str| {
        format!(
            "format: 1\ninput: {{texts: [string]}}\nstate: {{found: {{type: [any], default: []}}}}\nstart: a\n\
             nodes:\n{nodes}\noutput: [found]\n"
        )
    };
    let each = "  a: {kind: map, over: input.texts, into: found, next: end, do: {kind: graph, use: topic, \
                with: {text: item}, cache: {ttl: 1h, key: item | upper}}}";
    let list = "  a: {kind: map, over: input.texts, into: found, next: end, cache: {ttl: 1h}, do: {kind: llm, \
                text: \"Topic of {{ item }}?\"}}";
    let called = "  a: {kind: graph, use: topic, with: {text: \"input.texts | first | default('')\"}, cache: {ttl: 1h}, next: end, \
                  into: {found: '[result.topic]'}}";
    let agent = "  a: {kind: llm, text: \"{{ input.texts | first | default('') }}\", tools: [look], cache: {ttl: 1h}, next: end, \
                 into: {found: '[result]'}}";
    // The texts of one run after the other, what the model is asked, and which nodes end without work.
    for (nodes, texts, asked, stars) in [
        (each, ["a b", "b c", "B"].as_slice(), "Topic of a? Topic of b? Topic of c?", 0),
        (list, &["a b", "a b", "b a"], "Topic of a? Topic of b? Topic of b? Topic of a?", 1),
        (called, &["a", "a", "b"], "Topic of a? Topic of b?", 1),
        (agent, &["a", "a"], "a Topic of t? a", 1),
    ] {
        let call = Entry::calls([("look", json!({"text": "t"}))]);
        let own = match nodes {
            _ if nodes == agent => vec![call, Entry::text("Done.")],
            _ => vec![Entry::text("x"); 4],
        };
        let script = Scripted::new([("a", own), ("*", vec![Entry::text("x"); 4])]);
        let engine = open(&Subject::memory().store, &graph(nodes), &script).await;
        let mut found = 0;
        for (nth, texts) in texts.iter().enumerate() {
            let texts: Vec<&str> = texts.split(' ').collect();
            let input = serde_json::Map::from_iter([("texts".to_owned(), json!(texts))]);
            let start = Start { message: None, input, session: part(&format!("s{nth}")), ..turn("") };
            let events = play(&engine, &owner("acme", "ann"), start).await;
            assert_eq!(events.last().unwrap()["status"], "completed", "{nodes}: {events:?}");
            found += ended(&events).iter().filter(|node| node.ends_with('*')).count();
        }
        let mut sent = prompts(&script);
        let mut asked: Vec<&str> = asked.split_inclusive(['?']).map(str::trim).collect();
        if nodes == agent {
            asked = vec!["a", "Topic of t?", "a"];
        }
        sent.sort();
        asked.sort_unstable();
        assert_eq!((sent, found), (asked.into_iter().map(str::to_owned).collect(), stars), "{nodes}");
    }
}

/// What stands for all that a node is made of.
fn definitions(files: &[(&str, &str)]) -> BTreeMap<String, String> {
    let catalog = catalog(files, &Providers::without_secrets().unwrap());
    let mut found = BTreeMap::new();
    for (name, node) in &catalog.graphs["test"].plan.nodes {
        found.extend(node.job.cache.as_ref().map(|cache| (name.clone(), cache.of.clone())));
        if let Work::Map(each) = &node.job.work {
            found.extend(each.job.cache.as_ref().map(|cache| (format!("{name}.do"), cache.of.clone())));
        }
    }
    found
}

#[test]
fn an_edit_of_what_a_node_is_made_of_forgets_its_results_and_no_other_edit_does() {
    let graph = "\
format: 1
state: {topic: {type: string, default: none}, log: {type: [any], merge: append}}
start: a
nodes:
  a: {kind: llm, prompt: p, into: topic, cache: {ttl: 1h}, next: b}
  b: {kind: graph, use: topic, with: {text: state.topic}, cache: {ttl: 1h}, into: {log: '[result]'}, next: c}
  c: {kind: map, over: state.log, into: log, do: {kind: llm, text: C, cache: {ttl: 1h, key: item}}, next: end}
";
    let project = "format: 1\ndefault_model: m\nmodels: {m: {provider: demo}, n: {provider: demo}}\n\
                   types: {T: {x: string}}\n";
    let prompt = "---\ndescription: Asks.\n---\n@user\n{% include \"_partials/x.md\" %}\n";
    let files: [(&str, &str); 5] = [
        ("test.yaml", graph),
        ("topic.yaml", TOPIC),
        ("project.yaml", project),
        ("prompts/p.md", prompt),
        ("prompts/_partials/x.md", "Topic?"),
    ];
    let before = definitions(&files);
    assert_eq!(before.len(), 3);
    for (file, from, to, changed) in [
        (
            "test.yaml",
            "into: topic, cache: {ttl: 1h}, next: b",
            "into: topic, cache: {ttl: 2h}, next: c",
            "b",
        ),
        ("test.yaml", "text: C", "text: D", "b c.do"),
        ("test.yaml", "prompt: p,", "prompt: p, temperature: 0,", "a b"),
        ("prompts/p.md", "@user", "@system", "a b"),
        ("prompts/_partials/x.md", "Topic?", "Topic, please?", "a b"),
        ("project.yaml", "m: {provider: demo}", "m: {provider: demo, max_tokens: 9}", "a b c.do"),
        ("project.yaml", "n: {provider: demo}", "n: {provider: demo, max_tokens: 9}", "b"),
        ("project.yaml", "x: string", "x: integer", "a b c.do"),
        ("topic.yaml", "Topic of", "Theme of", "b"),
    ] {
        let edited: Vec<(&str, String)> = files
            .iter()
            .map(|(name, text)| {
                (*name, if *name == file { text.replace(from, to) } else { (*text).to_owned() })
            })
            .collect();
        let edited: Vec<(&str, &str)> = edited.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let after = definitions(&edited);
        let differ: Vec<&str> =
            before.iter().filter(|(name, of)| after[*name] != **of).map(|(name, _)| name.as_str()).collect();
        assert_eq!(differ.join(" "), changed, "{file}: {from}");
    }
}
