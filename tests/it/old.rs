//! What earlier builds stored, and what this one makes of it.
//!
//! Each folder of `tests/fixtures/checkpoints` is what one build left behind in the middle of its work: its project, its
//! database as SQLite and as PostgreSQL write it down, and what was in it (`before`) and came of it (`after`). Such a folder
//! is kept for ever and never changed. A build that stores something in another way adds one:
//!
//! ```console
//! $ mkdir tests/fixtures/checkpoints/0.2.0 && cp -r tests/fixtures/checkpoints/0.1.0/graphs $_
//! $ BLESS=0.2.0 cargo nextest run old::what_this   # needs `pg_dump`
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::step::Reply;
use graphloom::engine::{Answerer, Engine, Resume, Settings, Start, Stored, stored};
use graphloom::event::{Body, Interrupt};
use graphloom::id::{InterruptId, ThreadKey};
use graphloom::model::Kind;
use graphloom::model::scripted::{Entry, Gate, Scripted};
use graphloom::spec;
use graphloom::store::sql::SqlStore;
use graphloom::store::{RunState, Store};
use sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value as Json, json};

use crate::support::turn::{drain, rest, turn};
use crate::support::{Fresh, Subject, owner, part, plain, session};

const FOLDER: &str = "tests/fixtures/checkpoints";
/// The build whose folder today's is like.
const NEWEST: &str = "0.1.0";
const SESSIONS: [&str; 5] = ["talked", "asked", "failed", "cut", "later"];

/// Opens an engine on a project; one without claims leaves alone what others left behind.
async fn open(store: &Arc<dyn Store>, build: &Path, script: Scripted, claims: u32) -> Engine {
    let providers = || Providers::scripted(script.clone()).unwrap();
    let mut bag = Bag::default();
    let folder = spec::load(&build.join("graphs"), &mut bag).unwrap();
    let catalog = compile(&folder, &providers(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let settings = Settings { poll: Duration::from_millis(20), claims, ..Settings::new("test".into()) };
    Engine::open(store.clone(), catalog, providers(), settings).await.unwrap()
}

fn say(graph: &str, name: &str, text: &str) -> Start {
    Start { graph: graph.into(), session: part(name), ..turn(text) }
}

/// Says something, and reads until the run pauses or ends.
async fn play(engine: &Engine, start: Start) {
    let started = engine.start(&owner("acme", "ann"), start).await.unwrap();
    rest(engine.follower(&owner("acme", "ann"), &started.run, started.after, false)).await;
}

/// Answers the first open question of a thread that is `wanted`.
async fn answer(engine: &Engine, key: &ThreadKey, wanted: impl Fn(&Interrupt) -> bool) {
    let asked = engine.interrupts(key).await.unwrap();
    let asked = &asked.iter().find(|asked| wanted(&asked.interrupt)).unwrap().interrupt;
    let said = match (&asked.tool, asked.options.last(), asked.item) {
        (Some(_), ..) => json!("approve"),
        (_, Some(option), _) => json!(option),
        (.., item) => json!(format!("view {}", item.unwrap_or_default())),
    };
    let agent = Answerer { owner: owner("acme", "ann"), agent: true };
    let id = InterruptId(asked.interrupt_id.as_str().into());
    let answered = engine.answer(&agent, vec![(id, Reply::Answer(said))]).await.unwrap();
    drain(engine, &answered).await;
}

/// Brings a database into the middle of everything: a long conversation, questions of which some are answered, a failed run, one
/// that is cut off between two supersteps, one that is due later.
async fn work(store: &Arc<dyn Store>, build: &Path) -> Engine {
    let hang = Gate::new();
    let script = Scripted::new([
        ("answer", (1..=14).map(|n| Entry::chunks([format!("{n}, "), "you say.".into()])).collect()),
        ("help", vec![Entry::calls([("look_up", json!({"word": "loom"}))])]),
        ("left", vec![Entry::text("left"), Entry::text("left again")]),
        ("right", vec![Entry::error(Kind::Timeout), Entry::text("never").gated(&hang)]),
    ]);
    let engine = open(store, build, script.clone(), 0).await;
    for n in 1..=14 {
        play(&engine, say("talk", "talked", &format!("\u{1f9f5} turn {n}"))).await;
    }
    play(&engine, say("people", "asked", "hi")).await;
    answer(&engine, &session("asked"), |asked| !asked.options.is_empty()).await;
    answer(&engine, &session("asked"), |asked| asked.item == Some(1)).await;
    play(&engine, say("pair", "failed", "hi")).await;
    let later = Start { delay: Some(Duration::from_secs(1)), ..say("talk", "later", "at last") };
    engine.start(&owner("acme", "ann"), later).await.unwrap();
    engine.start(&owner("acme", "ann"), say("pair", "cut", "hi")).await.unwrap();
    script.wait_for_calls(19).await;
    // What was done beside the one that hangs is stored, and that this one began.
    let began =
        |run: &Stored| run.events.iter().filter(|e| matches!(e.body, Body::NodeStarted { .. })).count();
    while let [run] = &runs(store, "cut").await[..]
        && (run.done.is_empty() || began(run) < 3)
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    engine
}

async fn runs(store: &Arc<dyn Store>, name: &str) -> Vec<Stored> {
    let found = stored(&**store, &session(name), |_| true, 100).await.unwrap().unwrap_or_default();
    assert!(found.damaged.is_empty(), "{name}: {:?}", found.damaged);
    found.runs
}

/// Tells what a thread holds, and of its last two runs what they did, without what differs from time to time.
async fn told(store: &Arc<dyn Store>, name: &str) -> Json {
    let runs = runs(store, name).await;
    let count = runs.len();
    let last: Vec<Json> = runs
        .into_iter()
        .skip(count.saturating_sub(2))
        .map(|run| {
            let mut events: Vec<String> = run
                .events
                .iter()
                .map(|event| serde_json::to_value(&event.body).unwrap())
                .filter(|event| event["type"] != "message.delta")
                .map(|event| format!("{} {}", event["type"].as_str().unwrap(), event["node"].as_str().unwrap_or("")))
                .collect();
            // Siblings speak in any order.
            events.sort();
            let points: Vec<Json> = run
                .points
                .iter()
                .map(|point| {
                    let next: Vec<&str> = point.frontier.tokens.iter().map(|token| &*token.at).collect();
                    json!({"step": point.step, "source": point.source, "next": next})
                })
                .collect();
            json!({
                "state": format!("{:?}", run.run.state),
                "answers": run.replies.len(),
                "done": run.done.len(),
                "events": events,
                "checkpoints": points,
                "values": run.points.last().map(|point| stateless(serde_json::to_value(&point.state).unwrap())),
            })
        })
        .collect();
    json!({"runs": count, "last": last})
}

/// Leaves out the ids that a run made up.
fn stateless(mut value: Json) -> Json {
    match &mut value {
        Json::Object(object) => {
            if object.contains_key("role") {
                object.remove("id");
                object.remove("tool_call_id");
            }
            object.values_mut().for_each(|value| *value = stateless(value.take()));
        }
        Json::Array(items) => items.iter_mut().for_each(|value| *value = stateless(value.take())),
        _ => {}
    }
    value
}

/// Goes on with all that was left, and with what nobody had to do with.
async fn go_on(store: &Arc<dyn Store>, build: &Path) {
    let engine = open(store, build, Scripted::always(Entry::text("so be it")), 64).await;
    let mut left = SESSIONS.map(session).to_vec();
    while let Some(key) = left.pop() {
        let held = runs(store, key.session.as_str()).await;
        match held.last().map(|run| run.run.state) {
            Some(RunState::Interrupted) => {
                answer(&engine, &key, |_| true).await;
                left.push(key);
            }
            Some(RunState::Failed) => {
                let answered = engine.resume(&key, Resume::default()).await.unwrap();
                drain(&engine, &answered).await;
                left.push(key);
            }
            Some(RunState::Completed) => {
                let graph = &held.last().unwrap().run.graph;
                // A graph that asks would ask again.
                if graph != "people" {
                    play(&engine, say(graph, key.session.as_str(), "and now?")).await;
                }
            }
            // It goes on by itself.
            _ => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                left.push(key);
            }
        }
    }
}

/// Holds a database against what its build said of it, before and after.
async fn hold(store: Arc<dyn Store>, build: &Path, what: &str) -> [BTreeMap<String, Json>; 2] {
    let mut all = [BTreeMap::new(), BTreeMap::new()];
    for (n, map) in all.iter_mut().enumerate() {
        if n == 1 {
            let done = tokio::time::timeout(Duration::from_secs(30), go_on(&store, build)).await;
            assert!(done.is_ok(), "{what}: not all that was left came to its end");
        }
        for name in SESSIONS {
            map.insert(name.to_owned(), told(&store, name).await);
        }
    }
    all
}

fn expected(build: &Path) -> [BTreeMap<String, Json>; 2] {
    ["before.json", "after.json"]
        .map(|file| serde_json::from_slice(&std::fs::read(build.join(file)).unwrap()).unwrap())
}

fn assert_same(found: &[BTreeMap<String, Json>; 2], expected: &[BTreeMap<String, Json>; 2], what: &str) {
    for (when, found, expected) in [("before", &found[0], &expected[0]), ("after", &found[1], &expected[1])] {
        for (name, expected) in expected {
            let text = |json: &Json| serde_json::to_string_pretty(json).unwrap();
            assert_eq!(text(&found[name]), text(expected), "{what}: {name}, {when}");
        }
    }
}

/// Writes a SQLite database down.
async fn dump_sqlite(url: &str) -> String {
    let db = plain(url).await;
    let rows = async |text: &str| {
        let rows = db.query_all_raw(Statement::from_string(db.get_database_backend(), text)).await.unwrap();
        rows.iter().map(|row| row.try_get_by_index::<String>(0).unwrap()).collect::<Vec<_>>()
    };
    let schema = "from sqlite_master where sql is not null and name not like 'sqlite_%' and type";
    let tables = rows(&format!("select sql {schema} = 'table' order by rowid")).await;
    let mut lines: Vec<String> = tables.into_iter().map(|sql| format!("{sql};")).collect();
    for table in rows(&format!("select name {schema} = 'table' order by rowid")).await {
        let columns = rows(&format!("select name from pragma_table_info('{table}')")).await;
        let values =
            columns.iter().map(|name| format!("quote(\"{name}\")")).collect::<Vec<_>>().join("||','||");
        lines.extend(
            rows(&format!("select 'insert into \"{table}\" values('||{values}||');' from \"{table}\"")).await,
        );
    }
    lines.extend(rows(&format!("select sql||';' {schema} <> 'table' order by rowid")).await);
    lines.join("\n") + "\n"
}

/// Writes a PostgreSQL database down, so that whoever runs the tests can own it.
fn dump_postgres(url: &str) -> String {
    let printed = std::process::Command::new("pg_dump").args(["--inserts", url]).output().unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let text = String::from_utf8(printed.stdout).unwrap();
    let kept =
        text.lines().filter(|line| !line.starts_with("--") && !line.starts_with('\\') && !line.is_empty());
    kept.map(|line| line.replace("OWNER TO postgres", "OWNER TO CURRENT_USER") + "\n").collect()
}

/// Makes a store of what was written down.
async fn restore(fresh: Fresh, text: &str) -> Subject {
    let db = plain(&fresh.url).await;
    db.execute_unprepared(text).await.unwrap();
    db.close().await.unwrap();
    let store = SqlStore::connect(&fresh.url).await.unwrap();
    store.migrate().await.unwrap();
    Subject { store: Arc::new(store), fresh: Some(fresh), _bouncer: None }
}

async fn empty(file: &str) -> Fresh {
    if file == "sqlite.sql" { Fresh::sqlite() } else { Fresh::postgres().await }
}

#[tokio::test]
async fn what_any_earlier_build_stored_is_read_and_goes_on() {
    // The roles that its tables are granted to.
    let _made = Subject::postgres().await;
    let builds: Vec<PathBuf> =
        std::fs::read_dir(FOLDER).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(builds.iter().any(|build| build.ends_with(NEWEST)));
    for build in builds {
        for file in ["sqlite.sql", "postgres.sql"] {
            let text = std::fs::read_to_string(build.join(file)).unwrap();
            let subject = restore(empty(file).await, &text).await;
            let what = format!("{} of {}", file, build.display());
            assert_same(&hold(subject.store.clone(), &build, &what).await, &expected(&build), &what);
        }
    }
}

/// The folder of the newest build is what this one would write, so a change of what is stored is seen.
#[tokio::test]
async fn what_this_build_stores_is_what_the_newest_folder_holds() {
    let bless = std::env::var_os("BLESS").map(|name| name.into_string().unwrap());
    let build = Path::new(FOLDER).join(bless.as_deref().unwrap_or(NEWEST));
    for file in ["sqlite.sql", "postgres.sql"] {
        let subject = if file == "sqlite.sql" { Subject::sqlite().await } else { Subject::postgres().await };
        let url = &subject.fresh.as_ref().unwrap().url;
        let _dying = work(&subject.store, &build).await;
        let text = if file == "sqlite.sql" {
            Some(dump_sqlite(url).await)
        } else {
            bless.is_some().then(|| dump_postgres(url))
        };
        // Without `pg_dump` the next process goes on with the database itself.
        let again = match &text {
            Some(text) => restore(empty(file).await, text).await,
            None => subject,
        };
        let found = hold(again.store.clone(), &build, file).await;
        if let (Some(text), true) = (&text, bless.is_some()) {
            std::fs::write(build.join(file), text).unwrap();
            for (file, map) in ["before.json", "after.json"].iter().zip(&found) {
                std::fs::write(build.join(file), serde_json::to_string_pretty(map).unwrap() + "\n").unwrap();
            }
        }
        assert_same(&found, &expected(&build), file);
    }
}
