//! The graphs: what is served, how it looks, and talking to it.
//!
//! Invariant: a run is started in one place, and streaming it is the only way it is told.

use std::sync::Arc;

use poem_openapi::payload::PlainText;
use poem_openapi::{ApiResponse, Object, OpenApi, ResponseContent};
use serde_json::Value as Json;

use super::auth::Caller;
use super::body::Body;
use super::invoke::drain;
use super::param::{
    Depth, DiagramFormat, GraphId, Header, IdempotencyKey, LastEvent, Path, Preferences, Query,
};
use super::problem::{Code, Problem};
use super::schema;
use super::sse::EventStream;
use super::turn::Turn;
use super::view::{Answer, InvokeResult, NOT_UNDONE, RunView, run_urls};
use super::{App, Tag};
use crate::engine::{Followed, Follower, Start, Started};
use crate::event::Group;
use crate::id::{EventId, Owner};
use crate::plan::{Edge, Plan, START};
use crate::render;
use crate::store::{Idempotency, OnBusy, Run};

/// The operations on graphs.
pub(super) struct Graphs(pub(super) Arc<App>);

/// The graphs that are served.
#[derive(Debug, Object)]
pub(super) struct GraphList {
    /// By id.
    graphs: Vec<GraphOverview>,
}

/// A graph in short.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
struct GraphOverview {
    /// Its id: the name of its file.
    id: String,
    /// The hash of its canonical form.
    hash: String,
    /// For people.
    description: Option<String>,
    /// It holds a conversation: `message` may be sent.
    chat: bool,
}

/// A graph.
#[derive(Debug, Object)]
#[oai(rename = "Graph", skip_serializing_if_is_none)]
pub(super) struct GraphView {
    /// Its id: the name of its file.
    id: String,
    /// The hash of its canonical form.
    hash: String,
    /// For people.
    description: Option<String>,
    /// It holds a conversation: `message` may be sent.
    chat: bool,
    /// Its nodes, by name.
    nodes: Vec<NodeView>,
    /// Its edges, those of the start first.
    edges: Vec<EdgeView>,
    /// The JSON Schema of `input`.
    input: Json,
    /// The JSON Schema of the output.
    output: Json,
    /// The JSON Schema of the public state.
    state: Json,
}

/// A node of a graph.
#[derive(Debug, Object)]
#[oai(rename = "Node", skip_serializing_if_is_none)]
struct NodeView {
    /// Its name.
    name: String,
    /// Its kind.
    kind: String,
    /// For people.
    description: Option<String>,
}

/// An edge of a graph.
#[derive(Debug, Object)]
#[oai(rename = "Edge", skip_serializing_if_is_none)]
struct EdgeView {
    /// The node that is left, or `start`.
    from: String,
    /// The node that comes next, or `end`.
    to: String,
    /// The condition of a conditional edge; `on_error`, with the errors if not all, and `on_limit` for those of errors.
    condition: Option<String>,
}

/// A drawing.
#[derive(ResponseContent)]
pub(super) enum Diagram {
    /// A Mermaid flowchart.
    Mermaid(PlainText<String>),
    /// Nodes and edges.
    Json(Answer<Json>),
}

/// A drawing.
#[derive(ApiResponse)]
pub(super) enum DiagramReply {
    /// The drawing.
    #[oai(status = 200)]
    Ok(Diagram),
}

/// The answer of `chat`.
#[derive(ApiResponse)]
pub(super) enum ChatReply {
    /// The run's events, then `[DONE]`.
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
        /// An earlier request with the same key started the run.
        #[oai(header = "Idempotent-Replayed")]
        Option<bool>,
        /// What is not done with `on_busy: rollback`.
        #[oai(header = "X-Notice")]
        Option<String>,
    ),
}

/// The answer of `invoke`.
#[derive(ApiResponse)]
pub(super) enum InvokeReply {
    /// How the run ended.
    #[oai(status = 200)]
    Done(
        Answer<InvokeResult>,
        /// The run.
        #[oai(header = "X-Run-Id")]
        String,
        /// Where the run can be read.
        #[oai(header = "Content-Location")]
        String,
        /// An earlier request with the same key started the run.
        #[oai(header = "Idempotent-Replayed")]
        Option<bool>,
        /// What is not done with `on_busy: rollback`.
        #[oai(header = "X-Notice")]
        Option<String>,
    ),
    /// The run is accepted, and goes on without the client.
    #[oai(status = 202)]
    Accepted(
        Answer<RunView>,
        /// The run.
        #[oai(header = "X-Run-Id")]
        String,
        /// Where the run can be read.
        #[oai(header = "Location")]
        String,
        /// `respond-async`.
        #[oai(header = "Preference-Applied")]
        String,
        /// An earlier request with the same key started the run.
        #[oai(header = "Idempotent-Replayed")]
        Option<bool>,
        /// What is not done with `on_busy: rollback`.
        #[oai(header = "X-Notice")]
        Option<String>,
    ),
}

#[OpenApi(tag = "Tag::Graphs")]
#[expect(clippy::unused_async, reason = "an operation is an async function, also when it waits for nothing")]
impl Graphs {
    /// Lists the graphs
    #[oai(path = "/v1/graphs", method = "get", operation_id = "listGraphs")]
    async fn list_graphs(&self, _caller: Caller) -> Result<Answer<GraphList>, Problem> {
        let catalog = self.0.engine.catalog();
        let graphs = catalog.graphs.values().map(|compiled| {
            let plan = &compiled.plan;
            GraphOverview {
                id: plan.graph.clone(),
                hash: plan.hash.clone(),
                description: plan.description.clone(),
                chat: plan.messages.is_some(),
            }
        });
        Ok(Answer(GraphList { graphs: graphs.collect() }))
    }

    /// Describes a graph
    #[oai(path = "/v1/graphs/:graph", method = "get", operation_id = "getGraph")]
    async fn get_graph(
        &self,
        _caller: Caller,
        /// The graph's id.
        graph: Path<GraphId>,
    ) -> Result<Answer<GraphView>, Problem> {
        Ok(Answer(view(&*self.plan(&graph.0)?)))
    }

    /// Draws a graph
    #[oai(path = "/v1/graphs/:graph/diagram", method = "get", operation_id = "getDiagram")]
    async fn get_diagram(
        &self,
        _caller: Caller,
        /// The graph's id.
        graph: Path<GraphId>,
        /// How it is written.
        format: Query<DiagramFormat>,
        /// How many levels are drawn: at 1 a call of another graph is one box, at 2 that graph is drawn inside of it, and so
        /// on. In JSON a node inside of another one names it as its `parent`.
        depth: Query<Depth>,
    ) -> Result<DiagramReply, Problem> {
        let (plan, depth) = (self.plan(&graph.0)?, depth.0.map_or(1, |depth| depth.0));
        let too_large = |error: render::TooLarge| Problem::new(Code::InvalidParameter, error.to_string());
        let diagram = match format.0.unwrap_or(DiagramFormat::Mermaid) {
            DiagramFormat::Mermaid => {
                Diagram::Mermaid(PlainText(render::mermaid(&plan, depth).map_err(too_large)?))
            }
            DiagramFormat::Json => Diagram::Json(Answer(render::json(&plan, depth).map_err(too_large)?)),
        };
        Ok(DiagramReply::Ok(diagram))
    }

    /// Takes a turn and streams the run
    ///
    /// The stream ends with `[DONE]`; a stream that ends without it was cut: repeat the request with
    /// `Last-Event-ID`. Such a request goes on with that run and never starts one.
    #[oai(path = "/v1/graphs/:graph/chat", method = "post", operation_id = "chat")]
    async fn chat(
        &self,
        caller: Caller,
        /// The graph's id.
        graph: Path<GraphId>,
        /// Makes a repeated request find the run of the first one.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        /// Goes on after this event of a run.
        #[oai(name = "Last-Event-ID")]
        last: Header<LastEvent>,
        turn: Body<Turn>,
    ) -> Result<ChatReply, Problem> {
        let turn = turn.0;
        let (groups, notice) = (turn.groups, notice(&turn));
        let place = self.0.stream()?;
        let stream = |run: &Run, follower: Option<Follower>, replayed: bool| {
            let (location, content_location) = run_urls(run.run);
            let stream = follower.map_or(EventStream::Complete, |follower| EventStream::Events {
                run: run.run,
                follower: Box::new(follower),
                groups,
                place,
            });
            let replayed = replayed.then_some(true);
            ChatReply::Stream(stream, run.run.to_string(), location, content_location, replayed, notice)
        };
        if let Some(LastEvent(Some(last))) = last.0 {
            let (run, follower) = self.resume(&caller.owner, &graph.0, &turn, last).await?;
            return Ok(stream(&run, follower, false));
        }
        let Started { run, replayed, after } =
            self.start("chat", &caller.owner, graph.0, key.0, turn).await?;
        let follower = self.0.engine.follower(&caller.owner, &run, after, groups.has(Group::State));
        Ok(stream(&run, Some(follower), replayed))
    }

    /// Takes a turn and answers when the run is over
    ///
    /// A run that failed is an answer too: look at `status`. With `Prefer: respond-async` the answer comes as soon as the run
    /// is accepted, with the status 202.
    #[oai(path = "/v1/graphs/:graph/invoke", method = "post", operation_id = "invoke")]
    async fn invoke(
        &self,
        caller: Caller,
        /// The graph's id.
        graph: Path<GraphId>,
        /// Makes a repeated request find the run of the first one.
        #[oai(name = "Idempotency-Key")]
        key: Header<IdempotencyKey>,
        /// `respond-async` (RFC 7240): answers as soon as the run is accepted. What else is preferred is ignored.
        #[oai(name = "Prefer")]
        prefer: Header<Preferences>,
        turn: Body<Turn>,
    ) -> Result<InvokeReply, Problem> {
        let notice = notice(&turn.0);
        let at_once = prefer.0.is_some_and(|prefer| prefer.respond_async);
        if at_once && turn.0.wishes.needs_reader {
            let why = "with `Prefer: respond-async` nobody reads the run: leave one of the two out";
            return Err(Problem::at(Code::Unprocessable, "/on_disconnect", why));
        }
        let started = self.start("invoke", &caller.owner, graph.0, key.0, turn.0).await?;
        let Started { run, replayed, after } = started;
        if at_once {
            let (id, (_, location)) = (run.run.to_string(), run_urls(run.run));
            let view = Answer(RunView::try_from(run)?);
            let applied = Preferences::RESPOND_ASYNC.to_owned();
            let replayed = replayed.then_some(true);
            return Ok(InvokeReply::Accepted(view, id, location, applied, replayed, notice));
        }
        let mut follower = self.0.engine.follower(&caller.owner, &run, after, false);
        let result = drain(&run, &mut follower).await?;
        let (_, content_location) = run_urls(run.run);
        let replayed = replayed.then_some(true);
        Ok(InvokeReply::Done(Answer(result), run.run.to_string(), content_location, replayed, notice))
    }
}

/// Says what a rollback does not do.
fn notice(turn: &Turn) -> Option<String> {
    (turn.on_busy == OnBusy::Rollback).then(|| NOT_UNDONE.to_owned())
}

impl Graphs {
    fn plan(&self, graph: &GraphId) -> Result<Arc<Plan>, Problem> {
        let unknown = || Problem::new(Code::GraphNotFound, "`GET /v1/graphs` lists the graphs");
        self.0.engine.graph(&graph.0).ok_or_else(unknown)
    }

    async fn start(
        &self,
        operation: &str,
        owner: &Owner,
        graph: GraphId,
        key: Option<IdempotencyKey>,
        turn: Turn,
    ) -> Result<Started, Problem> {
        let idempotency = key.map(|key| Idempotency {
            route: format!("{operation}/{}", graph.0),
            key: key.0,
            body_hash: turn.hash,
        });
        let start = Start {
            graph: graph.0,
            session: turn.session,
            message: turn.message,
            input: turn.input,
            on_busy: turn.on_busy,
            durability: turn.durability,
            breakpoints: turn.breakpoints,
            delay: turn.delay,
            wishes: turn.wishes,
            idempotency,
        };
        let started = self.0.engine.start(owner, start).await?;
        // That of an earlier request may be over for long.
        Problem::forgotten(&started.run)?;
        Ok(started)
    }

    /// Finds the run that a cut stream told of; no follower when the client has everything.
    async fn resume(
        &self,
        owner: &Owner,
        graph: &GraphId,
        turn: &Turn,
        last: EventId,
    ) -> Result<(Run, Option<Follower>), Problem> {
        let run = self.0.engine.run(owner, last.run).await?.ok_or_else(Problem::not_found)?;
        if run.key.session != turn.session || run.graph != graph.0 {
            let detail = "`Last-Event-ID` is of a run of another thread or graph";
            return Err(Problem::new(Code::InvalidEventId, detail));
        }
        let state = turn.groups.has(Group::State);
        let found = self.0.engine.follow(owner, last.run, last.seq, state).await?;
        match found.ok_or_else(Problem::not_found)? {
            Followed::Events(follower) => Ok((run, Some(follower))),
            Followed::Complete => Ok((run, None)),
            Followed::Forgotten(run) => {
                Problem::forgotten(&run)?;
                Ok((run, None))
            }
        }
    }
}

fn view(plan: &Plan) -> GraphView {
    let mut edges = Vec::new();
    let mut add = |from: &str, taken: Vec<Edge>| {
        edges.extend(taken.into_iter().map(|edge| EdgeView {
            from: from.to_owned(),
            to: edge.to.name().to_owned(),
            condition: edge.condition,
        }));
    };
    add(START, plan.start_edges());
    for (name, node) in &plan.nodes {
        add(name, node.edges());
    }
    let nodes = plan.nodes.iter().map(|(name, node)| NodeView {
        name: name.clone(),
        kind: node.job.kind.to_owned(),
        description: node.description.clone(),
    });
    GraphView {
        id: plan.graph.clone(),
        hash: plan.hash.clone(),
        description: plan.description.clone(),
        chat: plan.messages.is_some(),
        nodes: nodes.collect(),
        edges,
        input: schema::alone(plan, schema::input),
        output: schema::alone(plan, schema::output),
        state: schema::alone(plan, schema::state),
    }
}
