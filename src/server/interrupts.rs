//! Questions to people: which are open, and what is said to them.
//!
//! Invariant: a question that is for somebody else does not exist.

use std::collections::BTreeMap;
use std::sync::Arc;

use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, ApiResponse, ExtractParamOptions, Object, OpenApi};
use serde_json::Value as Json;

use super::auth::Caller;
use super::json;
use super::param::{Include, InterruptIdText, Limit, Path, Query};
use super::problem::{Code, Problem};
use super::sse::EventStream;
use super::view::{Answer, Id, Time, run_urls};
use super::{App, Tag};
use crate::engine::step::Reply;
use crate::engine::{Answered, Answerer, Approval};
use crate::event::{Group, Interrupt, Who};
use crate::id::{InterruptId, Part, RunId, ThreadKey};

/// The operations on questions.
pub(super) struct Interrupts(pub(super) Arc<App>);

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
    /// `user` or `agent`.
    who: String,
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
            Who::User => "user",
            Who::Agent => "agent",
        };
        Self {
            interrupt_id: interrupt.interrupt_id,
            run_id: Id::new(run),
            session_id: session.to_string(),
            user_id: None,
            node: interrupt.node,
            path: Some(interrupt.path).filter(|path| !path.is_empty()),
            item: interrupt.item,
            who: who.to_owned(),
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

impl From<Approval> for InterruptView {
    fn from(approval: Approval) -> Self {
        let Approval { interrupt, run, session, created_at } = approval;
        Self {
            user_id: Some(session.owner.user.to_string()),
            created_at: Some(created_at.into()),
            ..Self::new(run, &session.session, interrupt)
        }
    }
}

/// Open questions.
#[derive(Debug, Object)]
pub(super) struct InterruptList {
    /// Oldest first.
    interrupts: Vec<InterruptView>,
}

/// An answer to a question.
#[derive(Debug, Object)]
struct AnswerRequest {
    /// The answer: of the question's type, one of its options, or a text. For a call that waits for approval `approve`,
    /// `{"edit": ARGS}` or `{"reject": TEXT}`.
    answer: Json,
}

/// Answers to questions of one run.
#[derive(Debug, Object)]
struct ResumeRequest {
    /// The answers, by the ids of the questions: all are taken, or none. Without any, a run that failed goes on where
    /// it failed.
    answers: Option<BTreeMap<String, Json>>,
}

/// The body of an answer.
pub(super) struct AnswerBody(Json);

/// The body of a resume.
pub(super) struct ResumeBody(Vec<(InterruptId, Json)>);

macro_rules! extractor {
    ($body:ty, $schema:ty) => {
        impl<'a> ApiExtractor<'a> for $body {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                <$schema>::register(registry);
            }

            fn request_meta() -> Option<MetaRequest> {
                let schema = <$schema>::schema_ref();
                let content = MetaMediaType { content_type: "application/json", schema };
                Some(MetaRequest { description: None, content: vec![content], required: true })
            }

            async fn from_request(
                request: &'a Request,
                body: &mut RequestBody,
                _options: ExtractParamOptions<()>,
            ) -> poem::Result<Self> {
                let app = request.data::<Arc<App>>().ok_or_else(Problem::internal)?;
                Ok(Self::parse(json::read(request, body, app.settings.body_limit).await?)?)
            }
        }
    };
}

extractor!(AnswerBody, AnswerRequest);
extractor!(ResumeBody, ResumeRequest);

/// Takes the only field of a body.
fn only(body: Json, name: &str) -> Result<Option<Json>, Problem> {
    let Json::Object(mut fields) = body else {
        return Err(Problem::at(Code::InvalidRequest, "", "an object is due here"));
    };
    let value = fields.shift_remove(name);
    match fields.keys().next() {
        None => Ok(value),
        Some(other) => {
            let detail = format!("there is no such field; the field is {name}");
            Err(Problem::at(Code::InvalidRequest, &format!("/{}", json::escape(other)), detail))
        }
    }
}

impl AnswerBody {
    fn parse(body: Json) -> Result<Self, Problem> {
        match only(body, "answer")? {
            Some(answer) => Ok(Self(answer)),
            None => Err(Problem::at(Code::InvalidRequest, "/answer", "this field is required")),
        }
    }
}

impl ResumeBody {
    fn parse(body: Json) -> Result<Self, Problem> {
        match only(body, "answers")? {
            None => Ok(Self(Vec::new())),
            Some(Json::Object(answers)) => {
                let answers = answers.into_iter().map(|(id, answer)| (InterruptId(id.into()), answer));
                Ok(Self(answers.collect()))
            }
            Some(_) => {
                let detail = "an object is due here, with the ids of questions as keys";
                Err(Problem::at(Code::InvalidRequest, "/answers", detail))
            }
        }
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
        /// Where its events can be had again.
        #[oai(header = "Location")]
        String,
        /// Where the run can be read.
        #[oai(header = "Content-Location")]
        String,
    ),
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
        let key = ThreadKey { owner: caller.0, session: session.0 };
        self.0.engine.thread(&key).await?.ok_or_else(Problem::not_found)?;
        let open = self.0.engine.interrupts(&key).await?;
        let interrupts = open.into_iter().map(|(run, open)| InterruptView::new(run, &key.session, open));
        Ok(Answer(InterruptList { interrupts: interrupts.collect() }))
    }

    /// Lists what is asked of agents, oldest first
    ///
    /// Only for callers with the role `agent`, over all users of their tenant.
    #[oai(path = "/v1/approvals", method = "get", operation_id = "listApprovals")]
    async fn list_approvals(
        &self,
        caller: Caller,
        /// Questions at most.
        limit: Query<Limit>,
    ) -> Result<Answer<InterruptList>, Problem> {
        if !caller.1 {
            return Err(Problem::new(Code::Forbidden, "this is for callers with the role `agent`"));
        }
        let limit = limit.0.map_or(Limit::DEFAULT, |limit| limit.0);
        let open = self.0.engine.approvals(&caller.0, limit).await?;
        Ok(Answer(InterruptList { interrupts: open.into_iter().map(InterruptView::from).collect() }))
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
        /// The groups of events that the stream holds, separated by commas.
        include: Query<Include>,
        body: AnswerBody,
    ) -> Result<GoesOn, Problem> {
        let replies = vec![(interrupt.0.0, Reply::Answer(body.0))];
        self.go_on(caller, replies, include).await
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
        /// The groups of events that the stream holds, separated by commas.
        include: Query<Include>,
    ) -> Result<GoesOn, Problem> {
        self.go_on(caller, vec![(interrupt.0.0, Reply::Dismissed)], include).await
    }

    /// Goes on with a run
    ///
    /// With answers to its open questions, or where it failed. A run that failed keeps what its finished nodes did.
    #[oai(path = "/v1/threads/:session/resume", method = "post", operation_id = "resumeThread")]
    async fn resume(
        &self,
        caller: Caller,
        /// The thread's session.
        session: Path<Part>,
        /// The groups of events that the stream holds, separated by commas.
        include: Query<Include>,
        body: ResumeBody,
    ) -> Result<GoesOn, Problem> {
        let key = ThreadKey { owner: caller.0.clone(), session: session.0 };
        self.0.engine.thread(&key).await?.ok_or_else(Problem::not_found)?;
        if !body.0.is_empty() {
            let replies = body.0.into_iter().map(|(id, answer)| (id, Reply::Answer(answer))).collect();
            return self.go_on(caller, replies, include).await;
        }
        let place = self.0.stream()?;
        let answered = self.0.engine.resume(&key).await?;
        Ok(self.stream(&caller, &answered, include, place))
    }
}

impl Interrupts {
    async fn go_on(
        &self,
        caller: Caller,
        replies: Vec<(InterruptId, Reply)>,
        include: Query<Include>,
    ) -> Result<GoesOn, Problem> {
        let place = self.0.stream()?;
        let who = Answerer { owner: caller.0.clone(), agent: caller.1 };
        let answered = self.0.engine.answer(&who, replies).await?;
        Ok(self.stream(&caller, &answered, include, place))
    }

    fn stream(
        &self,
        caller: &Caller,
        answered: &Answered,
        include: Query<Include>,
        place: tokio::sync::OwnedSemaphorePermit,
    ) -> GoesOn {
        let Answered { run, after } = answered;
        let groups = include.0.map(|include| include.0).unwrap_or_default();
        // An agent follows the run of a user of his tenant.
        let owner = if caller.1 { &run.key.owner } else { &caller.0 };
        let follower = self.0.engine.follower(owner, run, *after, groups.has(Group::State));
        let stream = EventStream::Events { run: run.run, follower: Box::new(follower), groups, place };
        let (location, content_location) = run_urls(run.run);
        GoesOn::Stream(stream, run.run.to_string(), location, content_location)
    }
}
