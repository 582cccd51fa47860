//! Questions to people: which are open, and what is said to them.
//!
//! Invariant: an answer that does not fit is refused before anything of it is stored, and of several answers to one
//! question the first is taken.

use std::sync::atomic::Ordering;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use super::accept::Begun;
use super::breakpoint::Breakpoints;
use super::step::{self, Open, Replies, Reply, UNSOUGHT, World};
use super::{Engine, Start, StartError, Wishes, heads, record};
use crate::event::{Interrupt, Who};
use crate::failure::Failure;
use crate::id::{InterruptId, Owner, RunId, Seq, ThreadKey};
use crate::node::RunFacts;
use crate::plan::{Durability, Form, OnMessage, Plan};
use crate::state::Mismatch;
use crate::store::{
    self, Actor, Answer, Answering, Claim, Idempotency, Keyed, OnBusy, OpenQuestion, Resumed, Run, RunFilter,
    RunState, StoreError, Thread,
};
use crate::trace;

/// Who says something to questions.
#[derive(Debug, Clone)]
pub struct Answerer {
    /// The caller.
    pub owner: Owner,
    /// He may answer what is asked of agents.
    pub agent: bool,
}

/// What somebody says.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// By question.
    pub replies: Vec<(InterruptId, Reply)>,
    /// The thread that the questions are of; else any.
    pub thread: Option<ThreadKey>,
    /// What a run that waited is told anew.
    pub terms: Terms,
    /// Makes a repeated request find what the first one did.
    pub idempotency: Option<Idempotency>,
}

/// What a run can be told anew when it goes on; what is absent stays as it was told before.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Where it stops.
    pub breakpoints: Option<Breakpoints>,
    /// When its supersteps are stored.
    pub durability: Option<Durability>,
    /// What is to come of it besides.
    pub wishes: Wishes,
}

/// How a run goes on that nobody has to answer.
#[derive(Debug, Clone, Default)]
pub struct Resume {
    /// What it is told anew.
    pub terms: Terms,
    /// Makes a repeated request find what the first one did.
    pub idempotency: Option<Idempotency>,
}

impl From<Vec<(InterruptId, Reply)>> for Said {
    fn from(replies: Vec<(InterruptId, Reply)>) -> Self {
        Self { replies, ..Self::default() }
    }
}

/// Answers that were taken, now or by an earlier request with the same key.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The run, which goes on.
    pub run: Run,
    /// An earlier request gave the answers.
    pub replayed: bool,
    /// The last event before it does.
    pub after: Seq,
}

/// Why an answer was not taken. Nothing was stored.
///
/// ```
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let text = "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: ask, question: Sure?, options: [y, n], next: end}}";
/// # let app = graphloom::App::builder().file("chat.yaml", text).build().await?;
/// use graphloom::AnswerError;
///
/// let thread = app.thread("acme", "ada", "desk")?;
/// let waits = thread.start("chat", "Delete it").await?.finish().await?;
/// let asked = &waits.interrupts[0].interrupt_id;
/// assert!(matches!(thread.answer(asked, "perhaps").await, Err(AnswerError::Unfit(..))));
/// assert!(matches!(thread.answer("i_other", "y").await, Err(AnswerError::Unknown(_))));
/// assert!(matches!(thread.resume().await, Err(AnswerError::Waits(open)) if open[0] == *asked));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// There is no such question, or not for this caller.
    #[error("there is no open question `{0}`")]
    Unknown(InterruptId),
    /// Somebody was first.
    #[error("the question was answered by {by} at {at}")]
    Taken {
        /// The question.
        id: InterruptId,
        /// Who.
        by: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// The time of the question was over.
    #[error("the time to answer was over at {at}")]
    Expired {
        /// The question.
        id: InterruptId,
        /// When.
        at: DateTime<Utc>,
    },
    /// The questions belong to several runs.
    #[error("the questions are not of one run")]
    SeveralRuns,
    /// The answer does not fit; by JSON Pointer into it.
    #[error("the answer does not fit the question")]
    Unfit(InterruptId, Vec<Mismatch>),
    /// A part of the request does not fit the graph; by JSON Pointer into the body.
    #[error("the request does not fit the graph")]
    Unprocessable(Vec<Mismatch>),
    /// The version of the graph that the run is pinned to cannot be used here.
    #[error("{0}")]
    Version(Failure),
    /// The newest run of the thread neither failed nor waits.
    #[error("nothing waits to go on")]
    Nothing,
    /// The thread waits for answers; these questions are open.
    #[error("the thread waits for an answer")]
    Waits(Vec<String>),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The process works on as many runs as it may.
    #[error("the service works on as many runs as it may")]
    Overloaded,
    /// The process goes away.
    #[error("the service is shutting down")]
    Draining,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Engine {
    /// Lists the open questions of a thread, oldest first.
    pub async fn interrupts(&self, key: &ThreadKey) -> Result<Vec<Asked>, StoreError> {
        self.shared.store.questions(key).await?.into_iter().map(Asked::try_from).collect()
    }

    /// Lists what is asked of agents in a tenant, oldest first, after the cursor `(created_at, id)`.
    pub async fn approvals(
        &self,
        owner: &Owner,
        after: Option<(DateTime<Utc>, InterruptId)>,
        limit: u32,
    ) -> Result<Vec<Asked>, StoreError> {
        let questions = self.shared.store.approvals(&owner.tenant, after, limit).await?;
        questions.into_iter().map(Asked::try_from).collect()
    }

    /// Lists the open questions that a thread waits on; nothing when it does not wait.
    pub(super) async fn paused(&self, key: &ThreadKey) -> Result<Option<Vec<String>>, StoreError> {
        let open = self.shared.store.questions(key).await?;
        let Some(first) = open.first() else { return Ok(None) };
        let run = self.shared.store.run(&key.owner, first.run).await?;
        let waits = run.is_some_and(|run| run.state == RunState::Interrupted);
        Ok(waits.then(|| open.iter().map(|open| open.id.to_string()).collect()))
    }

    /// Says something to open questions of one run, to all of them or to none. The run goes on here when it waits.
    pub async fn answer(&self, who: &Answerer, said: impl Into<Said>) -> Result<Answered, AnswerError> {
        let said = said.into();
        let key = said.idempotency.clone();
        let outcome = self.say(who, said).await;
        // What a repeated request finds changed may be what its first one did.
        if let (Err(_), Some(key)) = (&outcome, key)
            && let Some(known) = self.shared.store.keyed(&who.owner, &key).await?
        {
            return known.try_into();
        }
        outcome
    }

    async fn say(&self, who: &Answerer, said: Said) -> Result<Answered, AnswerError> {
        let Said { replies, thread, terms, idempotency } = said;
        let shared = &self.shared;
        let wishes = terms.wishes.clone();
        self.check_webhook(wishes.webhook.as_deref())
            .map_err(|wrong| AnswerError::Unprocessable(vec![wrong]))?;
        if shared.draining.load(Ordering::Relaxed) {
            return Err(AnswerError::Draining);
        }
        if shared.is_full() {
            return Err(AnswerError::Overloaded);
        }
        let mut run: Option<OpenQuestion> = None;
        let mut answers = Vec::with_capacity(replies.len());
        for (id, reply) in replies {
            let question = shared.store.question(&who.owner, who.agent, &id).await?;
            let question = question.filter(|question| thread.as_ref().is_none_or(|on| *on == question.key));
            let question = question.ok_or_else(|| AnswerError::Unknown(id.clone()))?;
            if let Some((by, at)) = question.answered {
                return Err(AnswerError::Taken { id, by, at });
            }
            if let Some(at) = question.expired {
                return Err(AnswerError::Expired { id, at });
            }
            if run.as_ref().is_some_and(|first| first.run != question.run) {
                return Err(AnswerError::SeveralRuns);
            }
            let reply = match reply {
                Reply::Dismissed => Reply::Dismissed,
                Reply::Answer(value) => {
                    let open = self.asked(&question, &id).await?;
                    Reply::Answer(
                        fitting(&open, value).map_err(|wrong| AnswerError::Unfit(id.clone(), wrong))?,
                    )
                }
            };
            answers.push((id, record::encode(&reply)));
            run = run.or(Some(question));
        }
        let Some(first) = run else { return Err(AnswerError::SeveralRuns) };
        let input = self.told(&first.key.owner, first.run, terms).await?;
        let answer = Answer {
            owner: who.owner.clone(),
            agent: who.agent,
            run: first.run,
            key: first.key,
            answers,
            by: who.owner.user.to_string(),
            idempotency,
            process: shared.process.clone(),
            input,
            wishes: shared.wishes(&wishes),
        };
        let store = shared.store.clone();
        let answering = async move {
            let answering = store.answer(answer).await?;
            let claim = if let Answering::Claimed(claim) = &answering { Some(claim.clone()) } else { None };
            Ok((answering, claim.map(begun)))
        };
        match self.claiming(answering).await? {
            Answering::Claimed(claim) => Ok(going_on(claim)),
            Answering::Stored { run, after } => {
                shared.queue.notify_one();
                Ok(Answered { run, replayed: false, after })
            }
            Answering::Known(known) => known.try_into(),
            Answering::Taken { id, by, at } => Err(AnswerError::Taken { id, by, at }),
            Answering::Expired { id, at } => Err(AnswerError::Expired { id, at }),
            Answering::Unknown(id) => Err(AnswerError::Unknown(id)),
        }
    }

    /// Goes on with the thread's run where it is stopped, or with its newest run where it failed. What its finished nodes
    /// did is kept.
    pub async fn resume(&self, key: &ThreadKey, resume: Resume) -> Result<Answered, AnswerError> {
        let used = resume.idempotency.clone();
        let outcome = self.go_on(key, resume).await;
        if let (Err(_), Some(used)) = (&outcome, used)
            && let Some(known) = self.shared.store.keyed(&key.owner, &used).await?
        {
            return known.try_into();
        }
        outcome
    }

    async fn go_on(&self, key: &ThreadKey, resume: Resume) -> Result<Answered, AnswerError> {
        let shared = &self.shared;
        if shared.draining.load(Ordering::Relaxed) {
            return Err(AnswerError::Draining);
        }
        if shared.is_full() {
            return Err(AnswerError::Overloaded);
        }
        self.check_webhook(resume.terms.wishes.webhook.as_deref())
            .map_err(|wrong| AnswerError::Unprocessable(vec![wrong]))?;
        let thread = shared.store.thread(key).await?.ok_or(AnswerError::Nothing)?;
        let run = match (self.waiting(&thread).await?, thread.last_run) {
            (Some(run), _) if self.can_move(&thread, &run).await? => run.run,
            (Some(_), _) => {
                let open = shared.store.questions(key).await?;
                return Err(AnswerError::Waits(open.iter().map(|open| open.id.to_string()).collect()));
            }
            (None, Some((run, RunState::Failed))) => run,
            (None, _) => return Err(AnswerError::Nothing),
        };
        let wishes = shared.wishes(&resume.terms.wishes);
        let input = self.told(&key.owner, run, resume.terms).await?;
        let (store, key, process) = (shared.store.clone(), key.clone(), shared.process.clone());
        let resume = store::Resume { key, run, process, input, wishes, idempotency: resume.idempotency };
        let resuming = async move {
            let resumed = store.resume(resume).await?;
            let claim = if let Resumed::Claimed(claim) = &resumed { Some(Claim::clone(claim)) } else { None };
            Ok((resumed, claim.map(begun)))
        };
        match self.claiming(resuming).await? {
            Resumed::Claimed(claim) => Ok(going_on(*claim)),
            Resumed::Queued(run) => {
                let after = Seq { fence: run.fence, n: u64::MAX };
                Ok(Answered { run: *run, replayed: false, after })
            }
            Resumed::Known(known) => known.try_into(),
            Resumed::Nothing => Err(AnswerError::Nothing),
        }
    }

    /// Returns the run of a thread that waits.
    async fn waiting(&self, thread: &Thread) -> Result<Option<Run>, StoreError> {
        let filter = RunFilter {
            states: vec![RunState::Interrupted],
            tenant: Some(thread.key.owner.tenant.clone()),
            thread: Some(thread.thread),
            before: None,
        };
        Ok(self.shared.store.runs(&filter, 1).await?.pop())
    }

    /// Says whether a run that waits can go on by itself.
    async fn can_move(&self, thread: &Thread, run: &Run) -> Result<bool, AnswerError> {
        let (store, owner) = (&*self.shared.store, &thread.key.owner);
        let Some(head) = thread.head else { return Ok(true) };
        let Some((head, _)) = heads::load(store, owner, thread.thread, head).await? else { return Ok(false) };
        let plan = self.shared.plan(&run.graph, &run.hash).await?.map_err(AnswerError::Version)?;
        let reply = |(id, bytes): (InterruptId, Vec<u8>)| Ok((id, record::decode("answer", &bytes)?));
        let said = store.answers(owner, run.run).await?;
        let replies: Replies = said.into_iter().map(reply).collect::<Result<_, StoreError>>()?;
        let input: record::Input = record::decode("input", &run.input)?;
        let (id, step, now) = (run.run, head.step + 1, Utc::now());
        let facts = RunFacts { id, step, steps_left: 0, user_text: "".into(), now };
        let world = World { root: &plan, facts: &facts, replies: &replies, found: &UNSOUGHT, number: step };
        let planned = step::plan_step(world, &head.state, &input.input.into(), &head.frontier);
        // What cannot be planned is told by the run.
        Ok(planned.map_or(true, |planned| planned.step.tasks.is_empty() || planned.step.moves()))
    }

    /// Returns what a run goes on with that is told something anew.
    async fn told(&self, owner: &Owner, run: RunId, terms: Terms) -> Result<Option<Vec<u8>>, AnswerError> {
        if terms.breakpoints.is_none() && terms.durability.is_none() {
            return Ok(None);
        }
        let Some(run) = self.shared.store.run(owner, run).await? else { return Ok(None) };
        let plan = self.shared.plan(&run.graph, &run.hash).await?.map_err(AnswerError::Version)?;
        let wrong = terms.breakpoints.as_ref().map(|stops| stops.check(&plan)).unwrap_or_default();
        if !wrong.is_empty() {
            return Err(AnswerError::Unprocessable(wrong));
        }
        let input: record::Input = record::decode("input", &run.input)?;
        let breakpoints = terms.breakpoints.unwrap_or(input.breakpoints);
        let durability = terms.durability.or(input.durability);
        Ok(Some(record::encode(&record::Input { durability, breakpoints, ..input })))
    }

    /// Takes a plain message to a thread that waits, as its questions say. Nothing: the run was ended for it, or goes on
    /// without it. For what is no `turn` of today's graph, the run is not ended. Without a question the run is stopped, if
    /// it waits `still`.
    pub(super) async fn message(
        &self,
        key: &ThreadKey,
        start: &Start,
        plan: &Plan,
        turn: bool,
        still: bool,
    ) -> Result<Option<Answered>, StartError> {
        let questions = self.shared.store.questions(key).await?;
        if questions.is_empty() {
            // They were answered meanwhile, or their time is over.
            return if still { self.stopped(key, start).await.map(|()| None) } else { Ok(None) };
        }
        let mut open = Vec::with_capacity(questions.len());
        for question in &questions {
            match self.asked(question, &question.id).await {
                Ok(found) => open.push(found),
                // It was answered meanwhile.
                Err(AnswerError::Unknown(_)) => return Ok(None),
                Err(AnswerError::Store(error)) => return Err(error.into()),
                Err(error) => return Err(StartError::Answer(Box::new(error))),
            }
        }
        let Some(message) = &start.message else { return Err(waits(&open)) };
        if open.iter().any(|open| open.on_message == OnMessage::Restart) {
            if !turn {
                return Ok(None);
            }
            self.fits(key, plan, &plan.graph).await?;
            if let Some(question) = questions.first() {
                self.cancel(&key.owner, question.run).await?;
            }
            return Ok(None);
        }
        let mine = |open: &&Open| open.who == Who::User && open.on_message == OnMessage::Answer;
        let mut mine = open.iter().filter(mine);
        let (Some(only), None) = (mine.next(), mine.next()) else { return Err(waits(&open)) };
        if let Some(question) = questions.first() {
            self.same_input(&key.owner, question.run, &start.input).await?;
        }
        let text = super::run::user_text(Some(message));
        let value = match &only.form {
            Form::Text | Form::Options(_) => Json::String(text),
            Form::Type(ty) => match serde_json::from_str(&text) {
                Ok(value) if ty.check(&value).is_ok() => value,
                _ => Json::String(text),
            },
        };
        let who = Answerer { owner: key.owner.clone(), agent: false };
        let said = Said {
            replies: vec![(only.question.id.clone(), Reply::Answer(value))],
            thread: Some(key.clone()),
            terms: Terms {
                breakpoints: Some(start.breakpoints.clone()).filter(|some| !some.is_none()),
                durability: start.durability,
                wishes: start.wishes.clone(),
            },
            idempotency: start.idempotency.clone(),
        };
        match self.answer(&who, said).await {
            Ok(answered) => Ok(Some(answered)),
            // The run went on without it, and the message is the next turn.
            Err(AnswerError::Expired { .. } | AnswerError::Taken { .. } | AnswerError::Unknown(_)) => {
                Ok(None)
            }
            Err(AnswerError::Unfit(_, wrong)) => {
                let at = |wrong: Mismatch| Mismatch { pointer: "/message".to_owned(), ..wrong };
                Err(StartError::Unprocessable(wrong.into_iter().map(at).collect()))
            }
            Err(AnswerError::Unprocessable(wrong)) => Err(StartError::Unprocessable(wrong)),
            Err(AnswerError::KeyReused) => Err(StartError::KeyReused),
            Err(AnswerError::Overloaded) => Err(StartError::Overloaded),
            Err(AnswerError::Draining) => Err(StartError::Draining),
            Err(AnswerError::Store(error)) => Err(error.into()),
            Err(error) => Err(StartError::Answer(Box::new(error))),
        }
    }

    /// Ends a run that is stopped for a new turn, where that is asked for.
    async fn stopped(&self, key: &ThreadKey, start: &Start) -> Result<(), StartError> {
        let Some(thread) = self.shared.store.thread(key).await? else { return Ok(()) };
        let Some(run) = self.waiting(&thread).await? else { return Ok(()) };
        match start.on_busy {
            OnBusy::Enqueue | OnBusy::Reject => Err(StartError::Stopped(run.run)),
            OnBusy::Interrupt | OnBusy::Rollback => {
                self.end(&key.owner, run.run, Actor::User, start.on_busy == OnBusy::Rollback).await?;
                Ok(())
            }
        }
    }

    /// Refuses inputs beside an answer that are not those that the run began with: it would go on without them.
    async fn same_input(
        &self,
        owner: &Owner,
        run: RunId,
        given: &serde_json::Map<String, Json>,
    ) -> Result<(), StartError> {
        let shared = &self.shared;
        let run = if given.is_empty() { None } else { shared.store.run(owner, run).await? };
        let Some(run) = run else { return Ok(()) };
        let began: record::Input = record::decode("input", &run.input)?;
        let plan = shared.plan(&run.graph, &run.hash).await?.ok();
        let same = |name: &str, value: &Json| {
            let mut value = value.clone();
            if let Some(field) = plan.as_ref().and_then(|plan| plan.input.get(name)) {
                field.ty.fill(&mut value);
            }
            began.input.get(name) == Some(&value)
        };
        let why = "the message is the answer to a question, and the run keeps the inputs that it began with; leave \
                   this one out, or send it with the next turn";
        let wrong = given.iter().filter(|(name, value)| !same(name, value));
        let wrong: Vec<Mismatch> =
            wrong.map(|(name, _)| Mismatch::here(why).within(name).within("input")).collect();
        if wrong.is_empty() { Ok(()) } else { Err(StartError::Unprocessable(wrong)) }
    }

    /// Finds a question where the run has it.
    async fn asked(&self, question: &OpenQuestion, id: &InterruptId) -> Result<Open, AnswerError> {
        let shared = &self.shared;
        let unknown = || AnswerError::Unknown(id.clone());
        let owner = &question.key.owner;
        let run = shared.store.run(owner, question.run).await?.ok_or_else(unknown)?;
        let plan = shared.plan(&run.graph, &run.hash).await?.map_err(AnswerError::Version)?;
        let thread = shared.store.thread(&question.key).await?.ok_or_else(unknown)?;
        let head = thread.head.ok_or_else(unknown)?;
        let loaded = heads::load(&*shared.store, owner, thread.thread, head).await?;
        let (head, _) = loaded.ok_or_else(unknown)?;
        let (open, _) = head.frontier.held(&plan);
        open.into_iter().find(|open| open.question.id == *id).ok_or_else(unknown)
    }
}

/// An open question.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The question.
    pub interrupt: Interrupt,
    /// The run that waits.
    pub run: RunId,
    /// Whose it is, and on which session.
    pub thread: ThreadKey,
    /// When it was asked.
    pub created_at: DateTime<Utc>,
}

/// Returns what a request claimed that began earlier, with the span of this request.
fn begun(claim: Claim) -> Begun {
    let span = trace::run(&claim.run.graph, claim.run.run, &claim.run.key.owner.tenant);
    (claim, None, span)
}

/// Returns what is told of a run that goes on.
fn going_on(claim: Claim) -> Answered {
    // What it tells from now on comes under its new fence.
    let after = Seq { fence: claim.run.fence.saturating_sub(1), n: u64::MAX };
    Answered { run: claim.run, replayed: false, after }
}

impl TryFrom<OpenQuestion> for Asked {
    type Error = StoreError;

    fn try_from(question: OpenQuestion) -> Result<Self, StoreError> {
        let interrupt = record::decode("question", &question.data)?;
        let OpenQuestion { run, key, created_at, .. } = question;
        Ok(Self { interrupt, run, thread: key, created_at })
    }
}

impl TryFrom<Keyed> for Answered {
    type Error = AnswerError;

    fn try_from(known: Keyed) -> Result<Self, AnswerError> {
        match known {
            Keyed::Same { run, after } => Ok(Self { run: *run, replayed: true, after }),
            Keyed::Other => Err(AnswerError::KeyReused),
        }
    }
}

fn waits(open: &[Open]) -> StartError {
    StartError::Waits(open.iter().map(|open| open.question.id.to_string()).collect())
}

/// Checks an answer against its question, and fills in what it left out.
pub(super) fn fitting(open: &Open, mut value: Json) -> Result<Json, Vec<Mismatch>> {
    let wrong = |why: String| vec![Mismatch { pointer: String::new(), why }];
    if open.call.is_some() {
        let due = "send `approve`, `{\"edit\": ARGS}` or `{\"reject\": TEXT}`";
        return match &mut value {
            Json::String(word) if word == "approve" => Ok(value),
            Json::Object(map) if map.len() == 1 && map.get("reject").is_some_and(Json::is_string) => {
                Ok(value)
            }
            Json::Object(map) if map.len() == 1 && map.contains_key("edit") => {
                if let (Form::Type(args), Some(edit)) = (&open.form, map.get_mut("edit")) {
                    args.check(edit).map_err(|mismatch| {
                        vec![Mismatch { pointer: format!("/edit{}", mismatch.pointer), ..mismatch }]
                    })?;
                    args.fill(edit);
                }
                Ok(value)
            }
            _ => Err(wrong(due.to_owned())),
        };
    }
    open.form.take(value)
}
