//! Changing the state of a thread, and forking it.
//!
//! Invariant: neither lets anything go on; that is for a resume.

use std::collections::BTreeMap;

use poem_openapi::{ApiResponse, Object};
use serde_json::{Map, Value as Json};

use super::App;
use super::body::{Fields, Parsed, expected};
use super::param::{Header, IdempotencyKey};
use super::problem::Problem;
use super::view::{Answer, CheckpointOverview, Id, Status};
use crate::engine::{Branched, Fork, Update};
use crate::id::{CheckpointId, Part};
use crate::store::Idempotency;

/// A change of a thread's state, in the name of a node.
#[derive(Debug, Object)]
pub(super) struct UpdateRequest {
    /// What is written, by channel: each joins by the channel's merge.
    values: BTreeMap<String, Json>,
    /// The node that it is written as, `start` or `end`. Its edges, on the state after the change, say what runs next.
    as_node: String,
    /// The paused graph that is changed, by the nodes that called it, as `children` of the state names them. Absent: the
    /// thread's own.
    path: Option<Vec<String>>,
}

/// A new thread that goes on from a checkpoint.
#[derive(Debug, Object)]
pub(super) struct ForkRequest {
    /// The new conversation, chosen by the client; letters, digits and `. _ @ -`. Absent: a name is made.
    #[oai(validator(pattern = "^[A-Za-z0-9._@-]{1,128}$"))]
    session_id: Option<String>,
    /// Where it goes on; absent: at the head of the thread.
    #[oai(validator(pattern = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"))]
    checkpoint: Option<String>,
}

/// Where a thread stands after an update or a fork.
#[derive(Debug, Clone, PartialEq, Object)]
#[oai(rename = "Branch", skip_serializing_if_is_none)]
pub(super) struct BranchView {
    /// The conversation.
    session_id: String,
    /// The run that goes on from there, with the input of the one before.
    run_id: Id,
    /// `interrupted`: it goes on when the thread is resumed, or its questions are answered. `completed`: nothing is left to do.
    status: Status,
    /// The checkpoint that the thread stands at; absent when it was deleted meanwhile.
    checkpoint: Option<CheckpointOverview>,
    /// Its public state there.
    state: Option<Json>,
}

/// The body of an update.
pub(super) struct UpdateBody {
    pub(super) update: Update,
    pub(super) hash: String,
}

/// The body of a fork.
pub(super) struct ForkBody {
    pub(super) fork: Fork,
    pub(super) hash: String,
}

impl Parsed for UpdateBody {
    type Schema = UpdateRequest;

    fn parse(body: Json) -> Result<Self, Problem> {
        let mut fields = Fields::of(body, &["values", "as_node", "path"])?;
        let values = match fields.take("values") {
            None => fields.add("/values", "this field is required"),
            Some(Json::Object(values)) => Some(values),
            Some(other) => fields.add::<Map<String, Json>>("/values", expected("an object", &other)),
        };
        let as_node = match fields.take("as_node") {
            None => fields.add("/as_node", "this field is required"),
            Some(Json::String(node)) => Some(node),
            Some(other) => fields.add("/as_node", expected("the name of a node", &other)),
        };
        let path = fields.names("path", None).unwrap_or_default();
        let hash = fields.hash.clone();
        let update = values.zip(as_node).map(|(values, as_node)| Self {
            update: Update { values, as_node, path, ..Update::default() },
            hash,
        });
        fields.end(update)
    }
}

impl Parsed for ForkBody {
    type Schema = ForkRequest;

    fn parse(body: Json) -> Result<Self, Problem> {
        let mut fields = Fields::of(body, &["session_id", "checkpoint"])?;
        let session = fields.parsed::<Part>("session_id", "a text of letters, digits and `. _ @ -`");
        let checkpoint = fields.parsed::<CheckpointId>("checkpoint", "the id of a checkpoint");
        let hash = fields.hash.clone();
        fields.end(Some(Self { fork: Fork { session, checkpoint, ..Fork::default() }, hash }))
    }
}

/// The answer of operations that make a run from outside.
#[derive(ApiResponse)]
pub(super) enum BranchReply {
    /// Where the thread stands.
    #[oai(status = 200)]
    Done(
        Answer<BranchView>,
        /// The run that goes on from there.
        #[oai(header = "X-Run-Id")]
        String,
        /// An earlier request with the same key did it.
        #[oai(header = "Idempotent-Replayed")]
        Option<bool>,
    ),
}

/// Returns the key of a request as the store knows it.
pub(super) fn used(key: Header<IdempotencyKey>, route: String, body_hash: String) -> Option<Idempotency> {
    key.0.map(|key| Idempotency { route, key: key.0, body_hash })
}

/// Says where a thread stands after an update or a fork.
pub(super) async fn reply(app: &App, branched: Branched) -> Result<BranchReply, Problem> {
    let Branched { run, replayed } = branched;
    let view = app.engine.view(&run.key, None).await?;
    let (checkpoint, state) = view.map(|view| (view.checkpoint.map(Into::into), view.state)).unzip();
    let answer = BranchView {
        session_id: run.key.session.to_string(),
        run_id: Id::new(run.run),
        status: run.state.into(),
        checkpoint: checkpoint.flatten(),
        state,
    };
    Ok(BranchReply::Done(Answer(answer), run.run.to_string(), replayed.then_some(true)))
}
