//! Questions to people: which are open, and what is said to them.
//!
//! Invariant: whoever may not answer a question cannot tell it from one that does not exist. The user of a thread sees
//! what is asked on it, also of agents.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem_openapi::{ApiResponse, Enum, Object, OpenApi};
use serde_json::Value as Json;

use super::auth::Caller;
use super::body::{Body, DurabilityChoice, EventGroup, Fields, Parsed, Stops};
use super::json::escape;
use super::param::{Header, IdempotencyKey, Include, InterruptIdText, Limit, Path, Query, QuestionCursor};
use super::problem::{Code, Problem};
use super::sse::{EventStream, Groups};
use super::turn::OnDisconnectChoice;
use super::view::{Answer, Id, Time, run_urls};
use super::{App, Tag};
use crate::engine::step::Reply;
use crate::engine::{AnswerError, Answered, Answerer, Asked, Resume, Said, Terms};
use crate::event::{Group, Interrupt, Who};
use crate::id::{InterruptId, Part, RunId, ThreadKey, hex};
use crate::state::Mismatch;
use crate::store::Idempotency;

/// The operations on questions.
pub(super) struct Interrupts(pub(super) Arc<App>);

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enum)]
#[oai(rename = "Who", rename_all = "lowercase")]
pub(super) enum WhoView {
    /// The user of the conversation.
    User,
    /// Somebody with the role `agent`.
    Agent,
}

/// A question to a person, on which a branch of the run waits.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "OpenInterrupt", skip_serializing_if_is_none)]
pub(super) struct InterruptView {
    /// Its id, by which it is answered.
    interrupt_id: String,
    /// The run that waits.
    run_id: Id,
    /// The conversation.
    session_id: String,
    /// The user whose conversation it is; only told to agents.
    user_id: Option<String>,
    /// The node that asks.
    node: String,
    /// The nodes that called the graphs around it, outermost first; absent at the root.
    path: Option<Vec<String>>,
    /// The index within the innermost `map` around it.
    item: Option<u64>,
    /// Who is asked.
    who: WhoView,
    /// The question.
    question: String,
    /// The answers to choose from.
    options: Option<Vec<String>>,
    /// The JSON Schema of the answer.
    schema: Option<Json>,
    /// The tool whose call waits for approval: `approve`, `{"edit": ARGS}` or `{"reject": TEXT}`.
    tool: Option<String>,
    /// The arguments of that call.
    args: Option<Json>,
    /// When it was asked.
    created_at: Option<Time>,
    /// When it can be answered no more.
    expires_at: Option<Time>,
}

impl InterruptView {
    pub(super) fn new(run: RunId, session: &Part, interrupt: Interrupt) -> Self {
        let who = match interrupt.who {
            Who::User => WhoView::User,
            Who::Agent => WhoView::Agent,
        };
        Self {
            interrupt_id: interrupt.interrupt_id,
            run_id: Id::new(run),
            session_id: session.to_string(),
            user_id: None,
            node: interrupt.node,
            path: Some(interrupt.path).filter(|path| !path.is_empty()),
            item: interrupt.item,
            who,
            question: interrupt.question,
            options: Some(interrupt.options).filter(|options| !options.is_empty()),
            schema: interrupt.schema,
            tool: interrupt.tool,
            args: interrupt.args,
            created_at: None,
            expires_at: interrupt.expires_at.map(Time::from),
        }
    }
}

impl From<Asked> for InterruptView {
    fn from(asked: Asked) -> Self {
        let Asked { interrupt, run, thread, created_at } = asked;
        Self {
            user_id: Some(thread.owner.user.to_string()),
            created_at: Some(created_at.into()),
            ..Self::new(run, &thread.session, interrupt)
        }
    }
}

/// Open questions.
#[derive(Debug, Object)]
pub(super) struct InterruptList {
    /// Oldest first.
    interrupts: Vec<InterruptView>,
}

/// A page of open questions to agents.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub(super) struct ApprovalPage {
    /// Oldest first.
    interrupts: Vec<InterruptView>,
    /// Send it as `cursor` for the next page; absent on the last one.
    next_cursor: Option<String>,
}

/// An answer to a question.
#[derive(Debug, Object)]
pub(super) struct AnswerRequest {
    /// The answer: of the question's type, one of its options, or a text. For a call that waits for approval `approve`,
    /// `{"edit": ARGS}` or `{"reject": TEXT}`.
    answer: Json,
    /// The groups of events that the stream holds. Default: `messages`, `nodes`, `tools`.
    include: Option<Vec<EventGroup>>,
}

/// How a run goes on: with answers to its questions, or without.
#[derive(Debug, Object)]
pub(super) struct ResumeRequest {
    /// The answers, by the ids of the questions: all are taken, or none. Without any, a run that is stopped goes on, and
    /// one that failed does where it failed.
    answers: Option<BTreeMap<String, Json>>,
    /// Where the run stops from here on, in the place of what it was told before: before these nodes begin.
    interrupt_before: Option<Stops>,
    /// The same after these nodes ended.
    interrupt_after: Option<Stops>,
    /// When its supersteps are stored from here on, in the place of what it was told before.
    durability: Option<DurabilityChoice>,
    /// What becomes of the run when nobody reads it any more. Default: `continue`.
    on_disconnect: Option<OnDisconnectChoice>,
    /// Where the end of the run is told, and each pause, in the place of what it was told before.
    webhook: Option<String>,
    /// The groups of events that the stream holds. Default: `messages`, `nodes`, `tools`.
    include: Option<Vec<EventGroup>>,
}

/// The body of an answer.
pub(super) struct AnswerBody {
    answer: Json,
    groups: Groups,
    hash: String,
}

/// The body of a resume.
pub(super) struct ResumeBody {
    answers: Vec<(InterruptId, Json)>,
    terms: Terms,
    groups: Groups,
    hash: String,
}

impl Parsed for AnswerBody {
    type Schema = AnswerRequest;

    fn parse(body: Json) -> Result<Self, Problem> {
        let mut fields = Fields::of(body, &["answer", "include"])?;
        let answer = match fields.take("answer") {
            None => fields.add("/answer", "this field is required"),
            answer => answer,
        };
        let (groups, hash) = (fields.include(), fields.hash.clone());
        fields.end(answer.map(|answer| Self { answer, groups, hash }))
    }
}

impl Parsed for ResumeBody {
    type Schema = ResumeRequest;

    fn parse(body: Json) -> Result<Self, Problem> {
        let known = [
            "answers",
            "interrupt_before",
            "interrupt_after",
            "durability",
            "on_disconnect",
            "webhook",
            "include",
        ];
        let mut fields = Fields::of(body, &known)?;
        let answers = fields.object("answers").into_iter();
        let answers = answers.map(|(id, answer)| (InterruptId(id.into()), answer)).collect();
        let (breakpoints, durability) = (fields.breakpoints(), fields.durability());
        let terms = Terms { breakpoints, durability, wishes: fields.wishes() };
        let (groups, hash) = (fields.include(), fields.hash.clone());
        fields.end(Some(Self { answers, terms, groups, hash }))
    }
}

/// The answer of operations that let a run go on.
#[derive(ApiResponse)]
pub(super) enum GoesOn {
    /// The run's events from here on, then `[DONE]`.
    #[oai(status = 200)]
    Stream(
        EventStream,
        /// The run.
        #[oai(header = "X-Run-Id")]
        String,
        /// Where its events can be had again; absent when the run is of another user.
        #[oai(header = "Location")]
        Option<String>,
        /// Where the run can be read; absent when the run is of another user.
        #[oai(header = "Content-Location")]
        Option<String>,
        /// An earlier request with the same key was taken.
        #[oai(header = "Idempotent-Replayed")]
        Option<bool>,
    ),
}

/// The place after a question in the list. Opaque to clients.
fn cursor(asked: &Asked) -> String {
    let at = asked.created_at.timestamp_nanos_opt().unwrap_or(i64::MAX);
    format!("{}{}", hex(&at.to_be_bytes()), asked.interrupt.interrupt_id.trim_start_matches("i_"))
}

#[OpenApi(tag = "Tag::Interrupts")]
impl Interrupts {
    /// Lists the open questions of a thread, oldest first
    #[oai(path = "/v1/threads/:session/interrupts", method = "get", operation_id = "listInterrupts")]
    async fn list_interrupts(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
    ) -> Result<Answer<InterruptList>, Problem> {
        let key = ThreadKey { owner: caller.owner, session: session.0 };
        self.0.engine.thread(&key).await?.ok_or_else(Problem::not_found)?;
        let open = self.0.engine.interrupts(&key).await?;
        // Whose it is, the owner knows.
        let view = |asked| InterruptView { user_id: None, ..InterruptView::from(asked) };
        Ok(Answer(InterruptList { interrupts: open.into_iter().map(view).collect() }))
    }

    /// Lists what is asked of agents, oldest first
    ///
    /// Only for callers with the role `agent`, over all users of their tenant.
    #[oai(path = "/v1/approvals", method = "get", operation_id = "listApprovals")]
    async fn list_approvals(
        &self,
        caller: Caller,
        /// `next_cursor` of the page before.
        cursor: Query<QuestionCursor>,
        /// Questions on a page.
        limit: Query<Limit>,
    ) -> Result<Answer<ApprovalPage>, Problem> {
        if !caller.agent {
            return Err(Problem::new(Code::Forbidden, "this is for callers with the role `agent`"));
        }
        let limit = limit.0.map_or(Limit::DEFAULT, |limit| limit.0) as usize;
        let after = cursor.0.map(|cursor| cursor.0);
        // One more than asked for tells whether there is a next page.
        let mut open = self.0.engine.approvals(&caller.owner, after, limit as u32 + 1).await?;
        let more = open.len() > limit;
        open.truncate(limit);
        let next_cursor = open.last().filter(|_| more).map(self::cursor);
        Ok(Answer(ApprovalPage { interrupts: open.into_iter().map(Into::into).collect(), next_cursor }))
    }

    /// Answers a question
    ///
    /// The run goes on, and its events are streamed. Of several answers the first is taken.
    #[oai(path = "/v1/interrupts/:interrupt/answer", method = "post", operation_id = "answerInterrupt")]
    async fn answer(
        &self,
        caller: Caller,
        /// The question.
        interrupt: Path<InterruptIdText>,
        /// Makes a repeated request find what the first one did.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        body: Body<AnswerBody>,
    ) -> Result<GoesOn, Problem> {
        let (id, AnswerBody { answer, groups, hash }) = (interrupt.0.0, body.0);
        let idempotency = used(key, format!("answer/{id}"), hash);
        let said = Said { replies: vec![(id, Reply::Answer(answer))], idempotency, ..Said::default() };
        self.say(caller, said, groups, |_| "/answer".to_owned()).await
    }

    /// Cancels a question
    ///
    /// The node that asks fails with the kind `dismissed`, which the graph may handle.
    #[oai(path = "/v1/interrupts/:interrupt/cancel", method = "post", operation_id = "cancelInterrupt")]
    async fn cancel(
        &self,
        caller: Caller,
        /// The question.
        interrupt: Path<InterruptIdText>,
        /// Makes a repeated request find what the first one did.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        /// The groups of events that the stream holds, separated by commas.
        include: Query<Include>,
    ) -> Result<GoesOn, Problem> {
        let id = interrupt.0.0;
        let idempotency = used(key, format!("cancel/{id}"), String::new());
        let said = Said { replies: vec![(id, Reply::Dismissed)], idempotency, ..Said::default() };
        let groups = include.0.map(|include| include.0).unwrap_or_default();
        self.say(caller, said, groups, |_| String::new()).await
    }

    /// Goes on with a run
    ///
    /// With answers to its open questions, from where it is stopped, or where it failed. A run that failed keeps what its
    /// finished nodes did.
    #[oai(path = "/v1/threads/:session/resume", method = "post", operation_id = "resumeThread")]
    async fn resume(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// Makes a repeated request find what the first one did.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        body: Body<ResumeBody>,
    ) -> Result<GoesOn, Problem> {
        let ResumeBody { answers, terms, groups, hash } = body.0;
        let idempotency = used(key, format!("resume/{}", session.0), hash);
        let thread = ThreadKey { owner: caller.owner.clone(), session: session.0 };
        self.0.engine.thread(&thread).await?.ok_or_else(Problem::not_found)?;
        if !answers.is_empty() {
            let replies = answers.into_iter().map(|(id, answer)| (id, Reply::Answer(answer))).collect();
            let said = Said { replies, thread: Some(thread), terms, idempotency };
            return self.say(caller, said, groups, |id| format!("/answers/{}", escape(&id.0))).await;
        }
        let place = self.0.stream()?;
        let answered = self.0.engine.resume(&thread, Resume { terms, idempotency }).await?;
        self.stream(&caller, answered, groups, place)
    }
}

/// Returns the key of a request as the store knows it.
fn used(key: Header<IdempotencyKey>, route: String, body_hash: String) -> Option<Idempotency> {
    key.0.map(|key| Idempotency { route, key: key.0, body_hash })
}

impl Interrupts {
    /// Says something to questions; `place` tells where in the body.
    async fn say(
        &self,
        caller: Caller,
        said: Said,
        groups: Groups,
        place: impl Fn(&InterruptId) -> String,
    ) -> Result<GoesOn, Problem> {
        let permit = self.0.stream()?;
        let who = Answerer { owner: caller.owner.clone(), agent: caller.agent };
        let answered = self.0.engine.answer(&who, said).await.map_err(|error| match error {
            AnswerError::Unfit(id, wrong) => {
                let at = |wrong: Mismatch| Mismatch { pointer: place(&id) + &wrong.pointer, ..wrong };
                AnswerError::Unfit(id.clone(), wrong.into_iter().map(at).collect())
            }
            error => error,
        })?;
        self.stream(&caller, answered, groups, permit)
    }

    fn stream(
        &self,
        caller: &Caller,
        answered: Answered,
        groups: Groups,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<GoesOn, Problem> {
        let Answered { run, replayed, after } = answered;
        Problem::forgotten(&run)?;
        // An agent hears what comes of his answer; the run itself is its user's.
        let follower = self.0.engine.follower(&run.key.owner, &run, after, groups.has(Group::State));
        let stream = EventStream::Events { run: run.run, follower: Box::new(follower), groups, place };
        let urls = (run.key.owner == caller.owner).then(|| run_urls(run.run));
        let (location, content_location) = urls.unzip();
        let replayed = replayed.then_some(true);
        Ok(GoesOn::Stream(stream, run.run.to_string(), location, content_location, replayed))
    }
}
