//! Encryption at rest as people meet it: what real turns leave in the database, and what the commands say.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::step::Reply;
use graphloom::engine::{Answerer, Engine, Fork, Settings, Start, Wishes};
use graphloom::id::{InterruptId, Seq};
use graphloom::model::Kind;
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::{Idempotency, Store};
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use serde_json::{Value as Json, json};

use crate::support::process::{Folder, binary};
use crate::support::turn::{drain, rest, turn};
use crate::support::world::{ENCRYPTED, World};
use crate::support::{Fresh, Subject, owner, part, plain, sealed, session};

const PROJECT: &str = "\
format: 1
default_model: m
models: {m: {provider: demo}}
tools: {look: {graph: looks, description: Looks., args: {text: string}}}
";
const LOOKS: &str = "\
format: 1
input: {text: string}
state: {found: {type: string, default: none}}
start: find
nodes:
  find: {kind: set, set: {found: \"'found canary ' ~ input.text\"}, next: end}
output: [found]
";
/// A canary in each place where somebody says something: people, the model, a tool, whoever wrote the graph.
const DESK: &str = "\
format: 1
state:
  messages: messages
  note: {type: string, default: none}
  both: {type: [string], merge: append}
start: triage
nodes:
  triage: {kind: llm, text: \"Topic of {{ run.user_text }}, a canary?\", into: note, cache: {ttl: 1h}, next: agent}
  agent: {kind: llm, text: Help., tools: [look], reply: true, next: ask}
  ask: {kind: ask, question: \"Is it {{ state.note }}?\", into: note, next: {all: [left, right]}}
  left: {kind: llm, text: Left?, into: {both: '[result]'}, next: done}
  right: {kind: llm, text: Right?, into: {both: '[result]'}, next: done}
  done: {kind: say, text: \"{{ state.both | join(' ') }}\", next: end}
output: [note, both]
";

/// Where nobody takes what webhooks are told, so that it is still to tell.
const NOBODY: &str = "127.0.0.1:1";

async fn open(store: &Arc<dyn Store>, script: &Scripted) -> Engine {
    let private = || vec![NOBODY.parse().unwrap()];
    let providers = || Providers::scripted(script.clone()).unwrap().with_private(private());
    let files = [("test.yaml", DESK), ("looks.yaml", LOOKS), ("project.yaml", PROJECT)];
    let files = files.into_iter().map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
    let mut bag = Bag::default();
    let folder = load_files("graphs", files.collect::<Files>(), &mut bag);
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    // An engine of the same name would take its runs for what an earlier one has left.
    let name = graphloom::id::RunId::new().to_string();
    let key = format!("whsec_{}", crate::support::master("webhooks")).parse().unwrap();
    let settings =
        Settings { poll: Duration::from_millis(20), webhook_keys: vec![key], ..Settings::new(name) };
    Engine::open(store.clone(), catalog, providers(), settings).await.unwrap()
}

/// Says something in a session, answers what is asked, and returns how it ends.
async fn talk(engine: &Engine, name: &str) -> Json {
    let owner = owner("acme", "ann");
    let idempotency =
        Some(Idempotency { route: "chat/test".into(), key: name.into(), body_hash: "b".into() });
    let wishes = Wishes { webhook: Some(format!("http://{NOBODY}/hook")), ..Wishes::default() };
    let start = Start { session: part(name), wishes, idempotency, ..turn("my canary") };
    let run = engine.start(&owner, start).await.unwrap().run;
    rest(engine.follower(&owner, &run, Seq::default(), false)).await;
    let asked = engine.interrupts(&session(name)).await.unwrap().remove(0).interrupt;
    let reply = (InterruptId(asked.interrupt_id.as_str().into()), Reply::Answer(json!("no, a canary")));
    let answerer = Answerer { owner, agent: false };
    let on = engine.answer(&answerer, vec![reply]).await.unwrap();
    drain(engine, &on).await.pop().unwrap()
}

/// Turns with tools, a question, its answer, a result that is kept and found, a failure beside a result, and a fork.
async fn turns(store: &Arc<dyn Store>) {
    let call = || Entry::calls([("look", json!({"text": "the canary call"}))]);
    let said = || Entry::text("a canary, I say");
    let script = Scripted::new([
        ("triage", vec![Entry::text("the canary topic")]),
        ("agent", vec![call(), said(), call(), said()]),
        ("left", vec![Entry::text("left canary"), Entry::text("left canary")]),
        ("right", vec![Entry::text("right canary"), Entry::error(Kind::Http(400))]),
    ]);
    let engine = open(store, &script).await;
    let end = talk(&engine, "s").await;
    assert_eq!(end["output"], json!({"note": "no, a canary", "both": ["left canary", "right canary"]}));
    assert_eq!(talk(&engine, "t").await["status"], "failed");
    let fork = Fork { session: Some(part("f")), ..Fork::default() };
    engine.fork(&session("s"), &fork).await.unwrap();
    let view = engine.view(&session("f"), None).await.unwrap().unwrap();
    assert!(view.messages.iter().any(|turn| turn["content"].to_string().contains("canary, I say")));
}

/// Returns the columns of any table in which the canary is, as text or bytes.
async fn sings(fresh: &Fresh) -> BTreeSet<String> {
    let db = plain(&fresh.url).await;
    let postgres = db.get_database_backend() == DbBackend::Postgres;
    let texts = async |text: &str| -> Vec<(String, String)> {
        let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap();
        rows.iter().map(|row| (row.try_get_by_index(0).unwrap(), row.try_get_by_index(1).unwrap())).collect()
    };
    let columns = texts(if postgres {
        "select table_name::text, column_name::text from information_schema.columns where table_schema = 'public'"
    } else {
        "select m.name, c.name from sqlite_master m join pragma_table_info(m.name) c where m.type = 'table'"
    });
    let mut found = BTreeSet::new();
    for (table, column) in columns.await {
        // As the hex digits of its bytes, whatever the type.
        let hex = if postgres {
            format!(
                "encode(convert_to(case when left({column}::text, 2) = '\\x' then '' else {column}::text end, 'UTF8'), 'hex') || {column}::text"
            )
        } else {
            format!("lower(hex({column}))")
        };
        let text =
            format!("select '{table}', '{column}' from {table} where {hex} like '%63616e617279%' limit 1");
        found.extend(texts(&text).await.into_iter().map(|(table, column)| format!("{table}.{column}")));
    }
    db.close().await.unwrap();
    found
}

/// Says whether the canary is in the file of SQLite, or in what it wrote ahead.
fn sings_in_files(fresh: &Fresh) -> bool {
    let Some(path) = fresh.url.strip_prefix("sqlite://").and_then(|rest| rest.split('?').next()) else {
        return false;
    };
    [String::new(), "-wal".into(), "-shm".into(), "-journal".into()].iter().any(|end| {
        let bytes = std::fs::read(format!("{path}{end}")).unwrap_or_default();
        bytes.windows(6).any(|window| window == b"canary")
    })
}

/// What is encrypted, as the guide lists it.
const WORDS: [&str; 12] = [
    "cache.data",
    "checkpoint.delta",
    "checkpoint.frontier",
    "checkpoint.snapshot",
    "event.data",
    "graph_version.body",
    "interrupt.answer",
    "interrupt.data",
    "outbox.data",
    "pending_write.data",
    "run.input",
    "run.result",
];

async fn what_anybody_says_is_in_no_column(fresh: [Fresh; 2]) {
    let [clear, hidden] = fresh;
    let file = clear.url.starts_with("sqlite");
    let store = sealed(&clear, &[]).await.unwrap();
    turns(&store).await;
    assert_eq!(sings(&clear).await, WORDS.map(str::to_owned).into(), "the test looks where the words are");
    assert_eq!(sings_in_files(&clear), file);
    let guide = std::fs::read_to_string("docs/src/operating/encryption.md").unwrap();
    for column in WORDS {
        assert!(guide.contains(&format!("`{column}`")), "the guide does not name `{column}`");
    }
    let store = sealed(&hidden, &["ONE"]).await.unwrap();
    turns(&store).await;
    assert_eq!(sings(&hidden).await, BTreeSet::new());
    assert!(!sings_in_files(&hidden));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_says_is_in_no_column_of_postgres() {
    what_anybody_says_is_in_no_column([Fresh::postgres().await, Fresh::postgres().await]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_anybody_says_is_in_no_column_of_sqlite_and_not_in_its_files() {
    what_anybody_says_is_in_no_column([Fresh::sqlite(), Fresh::sqlite()]).await;
}

/// A checkpoint that cannot be read fails its run, with the reason in the log, and takes nothing else along.
#[tokio::test(flavor = "multi_thread")]
async fn a_turn_on_a_damaged_thread_fails_and_others_go_on() {
    let subject = Subject::sealed(Fresh::sqlite()).await;
    let script = Scripted::always(Entry::text("fine"));
    let engine = open(&subject.store, &script).await;
    assert_eq!(talk(&engine, "s").await["status"], "completed");
    let db = plain(&subject.fresh.as_ref().unwrap().url).await;
    db.execute_unprepared("update checkpoint set delta = x'00ff'").await.unwrap();
    drop(engine);
    let engine = open(&subject.store, &script).await;
    assert!(engine.view(&session("s"), None).await.is_err());
    let owner = owner("acme", "ann");
    let run = engine.start(&owner, turn("and now?")).await.unwrap().run;
    let end = rest(engine.follower(&owner, &run, Seq::default(), false)).await.pop().unwrap();
    assert_eq!(end["status"], "failed", "{end}");
    assert_eq!(talk(&engine, "t").await["status"], "completed");
}

/// Runs a command in a folder, and returns its exit code with what it said.
fn run(folder: &Folder, url: &str, args: &[&str]) -> (i32, String, String) {
    let out = binary(folder).args(args).env("GRAPHLOOM_DATABASE_URL", url).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

/// From a service that stores in the clear to an encrypted one, its keys made anew, and no way back.
async fn an_operator_turns_encryption_on(fresh: Fresh) {
    let mut world = World::start(fresh).await;
    world.chat("s", "hello [[say=canary]]").await.rest().await;
    let before = world.messages("s").await;
    world.service.process.terminate();
    assert!(world.service.process.wait());
    let url = world.fresh.url.clone();
    let settings = std::fs::read_to_string(world.folder.path().join("graphloom.toml")).unwrap();
    let said = |args: &[&str]| run(&world.folder, &url, args);
    assert_eq!(said(&["encryption", "status"]).1, "Encryption: off.\n");
    let (code, _, error) = said(&["encryption", "apply"]);
    assert!(code == 1 && error.contains("the settings name no master key"), "{error}");
    world.folder.write("graphloom.toml", &format!("{ENCRYPTED}{settings}"));
    let (code, _, error) = said(&["serve", "--bind", "127.0.0.1:0"]);
    assert!(code == 1 && error.contains("holds what was stored without"), "{error}");
    for command in [&["encryption", "rewrap"][..], &["encryption", "renew", "dev"]] {
        let (code, out, error) = said(command);
        assert!(code == 1 && error.contains("the database is not encrypted"), "{out}{error}");
    }
    let (code, out, error) = said(&["encryption", "apply"]);
    assert!(
        code == 0 && out.starts_with("All is encrypted; ") && error.contains("tenant dev"),
        "{out}{error}"
    );
    assert_eq!(sings(&world.fresh).await, BTreeSet::new());
    assert!(!sings_in_files(&world.fresh));
    // Another master key.
    let key = said(&["encryption", "new-key"]).1;
    world.folder.write("secrets/NEXT", &key);
    let next = ENCRYPTED.replace("[\"MASTER\"]", "[\"NEXT\", \"MASTER\"]");
    world.folder.write("graphloom.toml", &format!("{next}{settings}"));
    assert_eq!(
        said(&["encryption", "rewrap"]).1,
        "The first master key wraps all data keys; 2 keys changed.\n"
    );
    let next = ENCRYPTED.replace("MASTER", "NEXT");
    world.folder.write("graphloom.toml", &format!("{next}{settings}"));
    let (code, _, error) = said(&["encryption", "renew", "nobody"]);
    assert!(code == 1 && error.contains("there is no tenant `nobody`"), "{error}");
    assert_eq!(said(&["encryption", "renew", "dev"]).0, 0);
    let told = said(&["encryption", "status"]).1;
    assert_eq!(told, "Encryption: on.\nData keys: of 1 tenant.\nMaster key NEXT: wraps 3 data keys.\n");
    world.restart();
    assert_eq!(world.messages("s").await, before);
    world.chat("s", "again [[say=more]]").await.rest().await;
    let runs = |args: &[&str]| run(&world.folder, &world.fresh.url, args);
    let (code, listed, error) = runs(&["runs", "list", "--state", "completed", "--format", "json"]);
    assert!(code == 0 && !listed.contains("unreadable"), "{listed}{error}");
    world.service.process.terminate();
    assert!(world.service.process.wait());
    // Without the key nothing starts, and nothing is looked at.
    std::fs::remove_file(world.folder.path().join("secrets/NEXT")).unwrap();
    for (text, why) in [
        (format!("{next}{settings}"), "there is no secret `NEXT`, which the settings name as a master key"),
        (settings.clone(), "encrypted under the master key `NEXT`, and the settings name none"),
        (format!("{ENCRYPTED}{settings}"), "master key `NEXT`, which the settings do not name"),
    ] {
        world.folder.write("graphloom.toml", &text);
        for command in ["serve --bind 127.0.0.1:0", "runs list", "threads list dev:dev", "migrate"] {
            let (code, _, error) = runs(&command.split(' ').collect::<Vec<_>>());
            assert!(code > 0 && error.contains(why), "{command}: {error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_turns_encryption_on_for_postgres() {
    an_operator_turns_encryption_on(Fresh::postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_turns_encryption_on_for_sqlite() {
    an_operator_turns_encryption_on(Fresh::sqlite()).await;
}
