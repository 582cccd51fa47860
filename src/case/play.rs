//! Plays the turns of a case on a thread in memory.
//!
//! Invariant: a turn goes the way of every run: `Engine::start`, then its stream to the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use super::stage::{Calls, Scene};
use super::{Bench, Error};
use crate::compile::{Catalog, Compiled};
use crate::diagnostic::Spanned;
use crate::engine::record::{self, Input, Outcome};
use crate::engine::step::{Frontier, Reply};
use crate::engine::{
    AnswerError, Answered, Answerer, Breakpoints, Engine, Resume, Settings, Start, StartError, Started,
    Wishes,
};
use crate::event::{Body, Event, Interrupt, RunStatus, Scope, Usage};
use crate::id::{CheckpointId, InterruptId, Owner, Part, RunId, TaskId, ThreadKey};
use crate::model::Request;
use crate::plan::{Next, Output, Plan, Target};
use crate::spec::{CaseSpec, OpeningSpec, TurnSpec, caller_name};
use crate::state::{Change, Delta, Mismatch, State};
use crate::store::memory::MemoryStore;
use crate::store::{self, Accepted, Checkpoint, Commit, NewRun, OnBusy, Run, RunState, Store, StoreError};

/// What came of a turn.
pub(super) struct Played {
    /// All events, in order.
    pub(super) events: Vec<Event>,
    /// The state after it.
    pub(super) state: State,
    /// The calls of models; none where real ones were asked.
    pub(super) requests: Vec<Request>,
    /// What nodes and tools sent to anything else that a script stands for, call by call.
    pub(super) others: Calls,
    /// The run was refused.
    pub(super) refused: Option<String>,
}

impl Played {
    /// Returns the nodes that started, by superstep.
    pub(super) fn path(&self) -> Vec<Vec<String>> {
        path(&self.events)
    }
}

/// Returns the nodes of the graph itself that started, by superstep.
pub(super) fn path<'e>(events: impl IntoIterator<Item = &'e Event>) -> Vec<Vec<String>> {
    let mut steps: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for event in events {
        if let (Body::NodeStarted { step, resumed: false, .. }, Some(place)) = (&event.body, &event.scope)
            && place.path.is_empty()
        {
            steps.entry(*step).or_default().push(place.node.clone());
        }
    }
    steps.into_values().collect()
}

/// The thread of a case.
pub(super) struct Thread<'a> {
    bench: &'a Bench,
    case: &'a CaseSpec,
    store: Arc<dyn Store>,
    key: ThreadKey,
    plan: Arc<Plan>,
}

impl<'a> Thread<'a> {
    pub(super) fn new(bench: &'a Bench, plan: &Plan, case: &'a CaseSpec) -> Result<Self, Error> {
        let mut plan = plan.clone();
        if let Some(only) = &case.only {
            plan.start = Next::To(Target::Node(only.value.clone()));
            plan.nodes.retain(|name, _| *name == only.value);
            for node in plan.nodes.values_mut() {
                node.next = Next::To(Target::End);
                node.max_visits = None;
            }
            // What the other nodes would have written is not there to be given.
            plan.output = Output::Public;
        }
        let name: Part = "test".parse()?;
        let owner = Owner { tenant: name.clone(), user: name.clone() };
        let key = ThreadKey { owner, session: name };
        let store = bench.store.clone().unwrap_or_else(|| Arc::new(MemoryStore::new()));
        Ok(Self { bench, case, store, key, plan: Arc::new(plan.seal()) })
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Plays a turn.
    pub(super) async fn turn(&mut self, number: usize) -> Result<Played, Error> {
        if number == 0 {
            self.seed().await?;
        }
        let turn = &self.case.turns[number];
        let scripted = self.bench.stage.as_ref().map(|stage| stage.put_on(&turn.script));
        let mut settings = Settings::new("test".into());
        // Who looks after the queue also lets a run go on whose question nobody answers in time.
        (settings.claims, settings.poll) = (1, Duration::from_millis(5));
        let store: Arc<dyn Store> = self.store.clone();
        let catalog = self.catalog(number == 0, turn);
        let engine = Engine::open(store, catalog, self.bench.providers.clone(), settings).await?;
        let mut played = Played {
            events: Vec::new(),
            state: State::default(),
            requests: Vec::new(),
            others: Calls::new(),
            refused: None,
        };
        let mut settled = BTreeSet::new();
        match self.begin(&engine, turn).await? {
            Ok(Answered { mut run, mut after, .. }) => loop {
                let mut follower = engine.follower(&self.key.owner, &run, after, true);
                while let Some(frame) = follower.next().await {
                    let lost = |_| StoreError::Unavailable("the run was lost".into());
                    played.events.push(frame.map_err(lost)?.event.clone());
                }
                let Some(scene) = &scripted else { break };
                let on = self.unanswered(&engine, scene, &run, &played.events, &mut settled).await?;
                let Some(on) = on else { break };
                // As for everybody who reads the events later, the pause is over.
                played.events.pop();
                (run, after) = (on.run, on.after);
            },
            Err(why) => played.refused = Some(why),
        }
        played.state = engine.state(&self.key).await?;
        engine.close(Duration::ZERO, Duration::from_secs(5)).await;
        if let Some(scene) = scripted {
            (played.requests, played.others) = (scene.requests(), scene.others());
        }
        Ok(played)
    }

    /// Begins a turn; else says why it cannot begin.
    async fn begin(&self, engine: &Engine, turn: &TurnSpec) -> Result<Result<Answered, String>, Error> {
        let answer = match &turn.opening {
            OpeningSpec::Run => return self.start(engine, turn).await,
            OpeningSpec::Resume(_) => {
                return match engine.resume(&self.key, Resume::default()).await {
                    Ok(answered) => Ok(Ok(answered)),
                    Err(AnswerError::Store(error)) => Err(error.into()),
                    Err(error) => Ok(Err(error.to_string())),
                };
            }
            OpeningSpec::Answer(value) => vec![(None, value)],
            OpeningSpec::Answers(all) => all.iter().map(|(name, value)| (Some(&name.value), value)).collect(),
        };
        let open = engine.interrupts(&self.key).await?;
        let asks: Vec<String> = open.iter().map(|open| asker(&open.interrupt)).collect();
        let mut replies = Vec::new();
        for (name, value) in answer {
            let mut found = open
                .iter()
                .zip(&asks)
                .filter(|(_, asks)| name.is_none_or(|name| caller_name(name) == **asks));
            let (Some((only, _)), None) = (found.next(), found.next()) else {
                let asked = if asks.is_empty() {
                    "nothing is asked".into()
                } else {
                    format!("asked: {}", asks.join(", "))
                };
                return Ok(Err(match name {
                    Some(name) => format!("`{name}` does not ask once; {asked}"),
                    None => format!("`answer` needs one open question; {asked}"),
                }));
            };
            let id = InterruptId(only.interrupt.interrupt_id.as_str().into());
            replies.push((id, Reply::Answer(value.value.clone())));
        }
        let who = Answerer { owner: self.key.owner.clone(), agent: true };
        match engine.answer(&who, replies).await {
            Ok(answered) => Ok(Ok(answered)),
            Err(AnswerError::Store(error)) => Err(error.into()),
            Err(AnswerError::Unfit(_, wrong)) => Ok(Err(sentences(&wrong))),
            Err(error) => Ok(Err(error.to_string())),
        }
    }

    /// Ends questions as the script says, without an answer. Returns where the run goes on then.
    async fn unanswered(
        &self,
        engine: &Engine,
        scene: &Scene,
        run: &Run,
        events: &[Event],
        settled: &mut BTreeSet<String>,
    ) -> Result<Option<Answered>, Error> {
        let (seq, open) = match events.last() {
            Some(Event { seq, body: Body::RunFinished { interrupts, .. }, .. }) => (*seq, interrupts),
            _ => return Ok(None),
        };
        let (mut late, mut dismissed) = (false, Vec::new());
        for event in events {
            let Body::InterruptRequested { interrupt: asked } = &event.body else { continue };
            // A call that waits for approval is no question of its own: the script of its node is the model's.
            if asked.tool.is_some() || !settled.insert(asked.interrupt_id.clone()) {
                continue;
            }
            let end = scene.end(&asker(asked));
            // The time of a question may be over before the run comes to wait for it.
            if !open.iter().any(|open| open.interrupt_id == asked.interrupt_id) {
                continue;
            }
            match end.as_deref() {
                Some("dismissed") => {
                    dismissed.push((InterruptId(asked.interrupt_id.as_str().into()), Reply::Dismissed));
                }
                Some(_) => late = true,
                None => {}
            }
        }
        if !dismissed.is_empty() {
            let who = Answerer { owner: self.key.owner.clone(), agent: true };
            return match engine.answer(&who, dismissed).await {
                Ok(answered) => Ok(Some(answered)),
                Err(AnswerError::Store(error)) => Err(error.into()),
                Err(error) => Err(StoreError::Unavailable(error.to_string()).into()),
            };
        }
        if !late {
            return Ok(None);
        }
        // Whoever looks after the queue lets it go on.
        loop {
            let on = engine.run(&self.key.owner, run.run).await?.filter(|on| on.fence > seq.fence);
            if let Some(run) = on {
                return Ok(Some(Answered { run, replayed: false, after: seq }));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn start(&self, engine: &Engine, turn: &TurnSpec) -> Result<Result<Answered, String>, Error> {
        let start = Start {
            graph: self.plan.graph.clone(),
            session: self.key.session.clone(),
            message: turn.user.as_ref().map(|user| user.value.clone()),
            input: values(&self.case.given.input),
            durability: None,
            on_busy: OnBusy::Reject,
            breakpoints: Breakpoints::default(),
            delay: None,
            wishes: Wishes::default(),
            idempotency: None,
        };
        Ok(match engine.start(&self.key.owner, start).await {
            Ok(Started { run, replayed, after }) => Ok(Answered { run, replayed, after }),
            Err(StartError::Unprocessable(wrong)) => Err(sentences(&wrong)),
            Err(StartError::Incompatible(why)) => Err(why),
            Err(StartError::Waits(_)) => {
                Err("the run of the turn before waits for an answer; a turn with `answer` gives it".into())
            }
            Err(error) => return Err(error.into()),
        })
    }

    /// Returns what the engine serves. What is given for a channel with `keep: run` holds in the first turn.
    fn catalog(&self, first: bool, turn: &TurnSpec) -> Catalog {
        let mut plan = self.plan.clone();
        if let Some(stage) = &self.bench.stage {
            let mut dressed = (*plan).clone();
            stage.dress(&mut dressed, self.case, &turn.script);
            plan = Arc::new(dressed);
        }
        if first && !self.case.given.state.is_empty() {
            let mut keeping = (*plan).clone();
            for (name, _) in &self.case.given.state {
                if let Some(channel) = keeping.channels.get_mut(&name.value) {
                    channel.per_run = false;
                }
            }
            plan = Arc::new(keeping);
        }
        let graphs = [(plan.graph.clone(), Compiled { plan, body: Vec::new() })];
        Catalog { graphs: graphs.into(), ..Catalog::default() }
    }

    /// Lets a run that did nothing else leave what the case is given.
    async fn seed(&self) -> Result<(), Error> {
        let given = &self.case.given;
        let mut delta: Delta = given
            .state
            .iter()
            .map(|(name, value)| (name.value.clone(), Change::Set(self.filled(&name.value, &value.value))))
            .collect();
        if let (Some(messages), Some(channel)) = (&given.messages, &self.plan.messages) {
            delta.insert(channel.clone(), Change::Set(named(messages.value.clone())));
        }
        if delta.is_empty() {
            return Ok(());
        }
        let process = Settings::new("given".into()).process;
        let new = NewRun {
            run: RunId::new(),
            key: self.key.clone(),
            graph: self.plan.graph.clone(),
            hash: self.plan.hash.clone(),
            input: record::encode(&Input { input: json!({}), ..Input::default() }),
            on_busy: OnBusy::Reject,
            queue_limit: 1,
            process: process.clone(),
            idempotency: None,
            from: None,
            delay: None,
            wishes: store::Wishes::default(),
        };
        let Accepted::Claimed { run, .. } = self.store.accept(new).await? else {
            return Err(StoreError::Unavailable("the thread of the case is taken".into()).into());
        };
        let outcome =
            Outcome { status: RunStatus::Completed, output: None, usage: Usage::default(), error: None };
        // It is the state of this version: `migrate` has nothing to do.
        let plan = self.plan.hash.get(..12).unwrap_or(&self.plan.hash);
        let checkpoint = Checkpoint {
            checkpoint: CheckpointId::new(),
            parent: None,
            run: Some(run.run),
            step: 0,
            source: "update".into(),
            delta: record::encode_delta(&delta),
            snapshot: None,
            frontier: record::encode(&Frontier { plan: plan.to_owned(), ..Frontier::default() }),
            created_at: chrono::Utc::now(),
        };
        let commit = Commit {
            cached: Vec::new(),
            owner: self.key.owner.clone(),
            thread: run.thread,
            run: run.run,
            fence: run.fence,
            step: run.step,
            checkpoints: vec![checkpoint],
            questions: Vec::new(),
            closed: Vec::new(),
            pending: None,
            events: None,
            appended: None,
            next: Some((RunState::Completed, Some(record::encode(&outcome)))),
            notice: None,
            stopped: false,
            lease: process.lease,
        };
        self.store.commit(commit).await?;
        Ok(())
    }

    /// Puts in what a value of the channel may leave out.
    fn filled(&self, channel: &str, value: &Json) -> Json {
        let mut value = value.clone();
        if let Some(channel) = self.plan.channels.get(channel) {
            channel.field.ty.fill(&mut value);
        }
        if Some(channel) == self.plan.messages.as_deref() { named(value) } else { value }
    }
}

/// Names who asks, as a test has it.
pub(super) fn asker(open: &Interrupt) -> String {
    let mut place = Scope::new(&*open.node, TaskId("".into()), 1);
    place.path.clone_from(&open.path);
    place.item = open.item;
    place.caller()
}

/// Gives messages without an id one.
fn named(messages: Json) -> Json {
    let Json::Array(items) = messages else { return messages };
    let name = |(n, mut item): (usize, Json)| {
        if let Json::Object(message) = &mut item
            && !message.contains_key("id")
        {
            message.insert("id".into(), json!(format!("given_{}", n + 1)));
        }
        item
    };
    items.into_iter().enumerate().map(name).collect()
}

fn values(given: &[(Spanned<String>, Spanned<Json>)]) -> Map<String, Json> {
    given.iter().map(|(name, value)| (name.value.clone(), value.value.clone())).collect()
}

fn sentences(wrong: &[Mismatch]) -> String {
    wrong.iter().map(|m| format!("{}: {}", m.pointer, m.why)).collect::<Vec<_>>().join("\n")
}
