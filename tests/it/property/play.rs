//! Runs a program on the engine, in as many processes as it takes, and says what is stored of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use graphloom::compile::{Catalog, Compiled, Providers, compile};
use graphloom::diagnostic::{Bag, Severity, render_text};
use graphloom::engine::record::{self, decode_delta, decode_frontier};
use graphloom::engine::step::Reply;
use graphloom::engine::{
    AnswerError, Answerer, Breakpoints, Engine, Followed, Resume, Settings, Start, Terms,
};
use graphloom::event::{self, Body};
use graphloom::id::{CheckpointId, InterruptId, Seq, ThreadKey};
use graphloom::model::ChatModel;
use graphloom::plan::Durability;
use graphloom::spec::{Files, load_files};
use graphloom::state::{Change, Delta};
use graphloom::store::sql::SqlStore;
use graphloom::store::{Checkpoint, OnBusy, RunState, Store, StoreError};
use serde_json::{Value as Json, json};
use tokio::sync::watch;

use super::model::{Barrier, Told};
use super::mortal::{Answers, Death, Fate, Mortal, RUN};
use super::reply;
use crate::support::{Fresh, Subject, owner, part, session};

/// Where programs are compiled and run, one after another.
pub(super) struct Lab {
    pub(super) fate: Arc<Fate>,
    providers: Providers,
}

/// A program that compiled.
pub(super) struct Ready<'a> {
    catalog: Catalog,
    lab: &'a Lab,
    pub(super) fate: Arc<Fate>,
    /// When its barriers are stored.
    pub(super) durability: Cell<Durability>,
    /// Where it is told to stop; then it is let go on.
    pub(super) stops: RefCell<Breakpoints>,
}

impl Lab {
    pub(super) fn new() -> Self {
        let fate = Arc::<Fate>::default();
        Self::with(Arc::new(Answers(fate.clone())), fate)
    }

    pub(super) fn with(model: Arc<dyn ChatModel>, fate: Arc<Fate>) -> Self {
        Self { fate, providers: Providers::stand_in(model).unwrap() }
    }

    /// Compiles files; else the codes of the errors, and all that is wrong in words.
    pub(super) fn ready(&self, files: &[(&str, String)]) -> Result<Ready<'_>, (Vec<&'static str>, String)> {
        let fate = self.fate.clone();
        let providers = self.providers.clone();
        let files: Files =
            files.iter().map(|(name, text)| ((*name).to_owned(), text.clone().into_bytes())).collect();
        let mut bag = Bag::default();
        let folder = load_files("graphs", files, &mut bag);
        match compile(&folder, &providers, &mut bag) {
            Some(catalog) => {
                let (durability, stops) = (Cell::new(Durability::Sync), RefCell::default());
                Ok(Ready { catalog, fate, lab: self, durability, stops })
            }
            None => {
                let errors = bag.findings().iter().filter(|found| found.severity == Severity::Error);
                Err((errors.map(|found| found.code).collect(), render_text(&bag, false)))
            }
        }
    }
}

/// A stored barrier, without what is made anew each time: ids of checkpoints and times.
pub(super) type Row = (u64, String, Vec<u8>, Vec<u8>);

/// What is left of a run.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) rows: Vec<Row>,
    pub(super) told: Told,
    /// How the run ended, as it is stored.
    pub(super) result: Vec<u8>,
    /// How often it was let go on.
    pub(super) stopped: usize,
}

/// What outlives processes besides the store.
#[derive(Default)]
struct Seen {
    asked: Vec<Vec<String>>,
    points: BTreeSet<CheckpointId>,
    stopped: usize,
}

/// Where a store is.
enum Home {
    Memory(Arc<dyn Store>),
    /// Each process opens it.
    Database(Fresh),
}

impl Home {
    async fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Database(fresh) => loop {
                match SqlStore::connect(&fresh.url).await {
                    Ok(store) => {
                        store.migrate().await.unwrap();
                        return Arc::new(store);
                    }
                    // The process before this one still has the file.
                    Err(StoreError::Config(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => panic!("{error}"),
                }
            },
        }
    }
}

/// Which store a run is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Memory,
    Sqlite,
    Postgres,
}

impl Ready<'_> {
    fn catalog(&self) -> Catalog {
        let copy = |(id, graph): (&String, &Compiled)| {
            (id.clone(), Compiled { plan: graph.plan.clone(), body: graph.body.clone() })
        };
        Catalog {
            graphs: self.catalog.graphs.iter().map(copy).collect(),
            project: self.catalog.project.clone(),
            ..Catalog::default()
        }
    }

    /// Runs it to its end. Tasks end in an order of the seed.
    pub(super) fn play(&self, on: On, seed: u64, death: Death) -> Played {
        // The clock of a database's own threads cannot be paused.
        let paused = on == On::Memory;
        self.fate.begin(seed, if paused { Duration::from_millis(1) } else { Duration::from_micros(100) });
        let life = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().start_paused(paused).build().unwrap()
        };
        let home = match on {
            On::Memory => Home::Memory(Subject::memory().store),
            On::Sqlite => Home::Database(Fresh::sqlite()),
            On::Postgres => Home::Database(life().block_on(Fresh::postgres())),
        };
        let mut noted = Seen::default();
        // A process has its own runtime: with it goes all that it was about to do.
        for _ in 0..1000 {
            let died = life().block_on(async {
                let (dead, mut watch) = watch::channel(false);
                let fate = self.fate.clone();
                let store = Arc::new(Mortal { store: home.open().await, fate, death, dead });
                tokio::select! {
                    biased;
                    _ = watch.wait_for(|dead| *dead) => true,
                    () = self.live(store, &mut noted) => false,
                }
            });
            if died {
                self.fate.bury();
            } else {
                return life().block_on(async { self.left(&*home.open().await, noted).await });
            }
        }
        panic!("the run comes to no end");
    }

    /// The life of a process: it does what there is to do, until the run is over.
    async fn live(&self, store: Arc<Mortal>, seen: &mut Seen) {
        let mut settings = Settings::new("one".into());
        settings.poll = Duration::from_millis(5);
        let providers = self.lab.providers.clone();
        let engine = Engine::open(store, self.catalog(), providers, settings).await.unwrap();
        let (owner, key) = (owner("acme", "ann"), session("s"));
        if engine.run(&owner, RUN).await.unwrap().is_none() {
            let start = Start {
                graph: "root".into(),
                session: part("s"),
                message: Some(json!("hi")),
                input: serde_json::Map::new(),
                on_busy: OnBusy::Enqueue,
                durability: Some(self.durability.get()),
                breakpoints: self.stops.borrow().clone(),
                delay: None,
                wishes: graphloom::engine::Wishes::default(),
                idempotency: None,
            };
            engine.start(&owner, start).await.unwrap();
        }
        loop {
            match engine.run(&owner, RUN).await.unwrap().unwrap().state {
                RunState::Completed | RunState::Failed => break,
                RunState::Interrupted if self.goes_on(&engine, &key).await => seen.stopped += 1,
                RunState::Interrupted => {
                    let open = engine.interrupts(&key).await.unwrap();
                    let mut questions: Vec<String> =
                        open.iter().map(|asked| asked.interrupt.question.clone()).collect();
                    questions.sort();
                    seen.asked.push(questions);
                    let said = open.into_iter().map(|asked| {
                        let question = asked.interrupt;
                        let reply = reply(&question.question);
                        let reply = reply.map_or(Reply::Dismissed, |text| Reply::Answer(json!(text)));
                        (InterruptId(question.interrupt_id.into()), reply)
                    });
                    let who = Answerer { owner: owner.clone(), agent: true };
                    engine.answer(&who, said.collect::<Vec<_>>()).await.unwrap();
                }
                RunState::Running | RunState::Queued => {
                    let followed = engine.follow(&owner, RUN, Seq::default(), false).await.unwrap();
                    if let Some(Followed::Events(mut follower)) = followed {
                        let mut last = Seq::default();
                        while let Some(Ok(frame)) = follower.next().await {
                            assert!(frame.seq() > last, "an event is told behind a later one");
                            last = frame.seq();
                            if let Body::CheckpointSaved { checkpoint_id, .. } = &frame.event.body {
                                seen.points.insert(*checkpoint_id);
                            }
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                other => panic!("the run is {other:?}"),
            }
        }
    }

    /// Lets a run go on that is stopped; false where it waits for answers.
    async fn goes_on(&self, engine: &Engine, key: &ThreadKey) -> bool {
        if self.stops.borrow().is_none() {
            return false;
        }
        match engine.resume(key, Resume { terms: Terms::default(), idempotency: None }).await {
            Ok(_) => true,
            Err(AnswerError::Waits(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads what is stored.
    async fn left(&self, store: &dyn Store, seen: Seen) -> Played {
        let Seen { asked, points, stopped } = seen;
        let (owner, key) = (owner("acme", "ann"), session("s"));
        let thread = store.thread(&key).await.unwrap().unwrap().thread;
        let mut rows = store.history(&owner, thread, None, 10_000).await.unwrap();
        rows.reverse();
        let stored: BTreeSet<CheckpointId> = rows.iter().map(|row| row.checkpoint).collect();
        assert!(points.is_subset(&stored), "a barrier was told that is not stored");
        let run = store.run(&owner, RUN).await.unwrap().unwrap();
        let result = run.result.unwrap();
        let outcome: record::Outcome = record::decode("result", &result).unwrap();
        let failed = outcome.error.map(|error| (error.node.unwrap_or_default(), error.code));
        let begun = begun(store).await;
        let told = Told {
            barriers: barriers(&rows),
            begun,
            calls: self.fate.calls().0,
            asked,
            failed,
            unset: 0,
            conflicts: 0,
        };
        let row = |row: Checkpoint| (row.step, row.source, row.delta, row.frontier);
        Played { rows: rows.into_iter().map(row).collect(), told, result, stopped }
    }
}

/// The tasks that began, once each.
async fn begun(store: &dyn Store) -> Vec<(u64, String)> {
    let mut begun = Vec::new();
    for batch in store.events(&owner("acme", "ann"), RUN, Seq::default(), usize::MAX).await.unwrap() {
        for event in event::decode(batch.fence, &batch.data).unwrap() {
            if let (Body::NodeStarted { step, resumed: false, .. }, Some(scope)) = (event.body, event.scope) {
                let path: String = scope.path.iter().map(|node| format!("{node}/")).collect();
                begun.push((step, format!("{path}{}", scope.node)));
            }
        }
    }
    begun.sort();
    begun
}

/// Puts the stored deltas together.
fn barriers(rows: &[Checkpoint]) -> Vec<Barrier> {
    let mut state: BTreeMap<String, Json> =
        ["log", "seen", "messages"].map(|n| (n.to_owned(), json!([]))).into();
    state.extend(["sum", "top", "low"].map(|n| (n.to_owned(), json!(0))));
    state.extend(["once", "last"].map(|n| (n.to_owned(), json!("none"))));
    state.insert("doc".into(), json!({}));
    let mut barriers = Vec::new();
    for row in rows {
        apply(&mut state, decode_delta(&row.delta).unwrap());
        let frontier = decode_frontier(&row.frontier).unwrap();
        let mut tokens: Vec<String> = frontier
            .tokens
            .iter()
            .map(|token| {
                let mut open: Vec<String> = token.open.iter().map(|a| format!("{}:{}", a.0, a.2)).collect();
                open.sort();
                let held = if token.held.is_some() { "+" } else { "" };
                format!("{}{held} {}", token.at, open.join(" "))
            })
            .collect();
        tokens.sort();
        barriers.push(Barrier { state: plain(&state), tokens, visits: frontier.visits });
    }
    barriers
}

fn apply(state: &mut BTreeMap<String, Json>, delta: Delta) {
    for (channel, change) in delta {
        match change {
            Change::Start(value) | Change::Set(value) => drop(state.insert(channel, value)),
            Change::Extend(items) => {
                state.entry(channel).or_insert_with(|| json!([])).as_array_mut().unwrap().extend(items);
            }
            Change::Unset => drop(state.remove(&channel)),
        }
    }
}

/// The conversation as role and text.
fn plain(state: &BTreeMap<String, Json>) -> BTreeMap<String, Json> {
    let mut state = state.clone();
    let said = |turn: &Json| {
        json!(format!("{}: {}", turn["role"].as_str().unwrap(), turn["content"].as_str().unwrap()))
    };
    if let Some(Json::Array(turns)) = state.get_mut("messages") {
        *turns = turns.iter().map(said).collect();
    }
    state
}
