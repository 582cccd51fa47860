//! What stands in for the world: models, tools, requests and called graphs play the script of the turn that is on.
//!
//! Invariant: nothing is made up. A call that no entry is left for fails, and the judge says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::{Value as Json, json};

use crate::compile::entry_of;
use crate::failure::{ErrorKind, Failure};
use crate::model::scripted::Scripted;
use crate::model::{ChatModel, Chunk, Kind, ModelError, Request};
use crate::node::{Attempt, Done, Node, Outcome};
use crate::plan::{Ask, Each, GraphCall, Job, Plan, ToolBody, ToolPlan, Work};
use crate::spec::{AnswerSpec, CaseSpec, EntrySpec, ResponseBody, ScriptSpec, caller_name};
use crate::tool::http::{self, Caller, Response};
use crate::tool::{Call, Tool};

/// Stands in for all that a project calls. Clones are one stage.
#[derive(Debug, Clone)]
pub struct Stage(Arc<ArcSwap<Scene>>);

/// What was sent, by caller and call.
pub(super) type Calls = BTreeMap<String, Vec<Json>>;

/// The script of one turn, and what was asked of it.
#[derive(Debug)]
pub(super) struct Scene {
    /// What models say.
    models: Scripted,
    script: Vec<ScriptSpec>,
    /// What each caller of anything else sent, call by call.
    calls: Mutex<Calls>,
}

impl Default for Stage {
    fn default() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Scene::new(&[]))))
    }
}

impl Stage {
    /// Puts the script of a turn on, and returns it, to be asked what came of it.
    pub(super) fn put_on(&self, script: &[ScriptSpec]) -> Arc<Scene> {
        let scene = Arc::new(Scene::new(script));
        self.0.store(Arc::clone(&scene));
        scene
    }

    /// Puts the stage in the place of the tools of a graph, and of the graphs that it calls where the script of the turn
    /// says what they give. A graph that a script of the case looks into is dressed for each way that leads there.
    pub(super) fn dress(&self, plan: &mut Plan, case: &CaseSpec, script: &[ScriptSpec]) {
        let mut fitting = Fitting {
            stage: self,
            gives: script
                .iter()
                .filter(|script| gives(script))
                .map(|script| bare(&script.node.value))
                .collect(),
            late: script
                .iter()
                .filter(|script| script.entries.iter().any(|entry| is(entry, "timeout")))
                .map(|script| bare(&script.node.value))
                .collect(),
            within: case
                .turns
                .iter()
                .flat_map(|turn| &turn.script)
                .map(|script| bare(&script.node.value))
                .collect(),
            graphs: plan.children.clone(),
            dressed: BTreeMap::new(),
        };
        for (name, child) in fitting.graphs.clone() {
            let mut child = (*child).clone();
            for node in child.nodes.values_mut() {
                fitting.job(&mut node.job);
            }
            fitting.dressed.insert(name, Arc::new(child));
        }
        fitting.level("", plan);
        plan.children = fitting.dressed;
    }

    fn tool(&self, tool: &ToolPlan) -> Arc<ToolPlan> {
        Arc::new(ToolPlan {
            name: tool.name.clone(),
            description: tool.description.clone(),
            args: tool.args.clone(),
            schema: tool.schema.clone(),
            result: tool.result.clone(),
            approval: tool.approval,
            is_final: tool.is_final,
            effects: tool.effects,
            body: ToolBody::Call(Arc::new(self.clone())),
        })
    }
}

/// Says whether a script gives what a whole graph gives.
fn gives(script: &ScriptSpec) -> bool {
    script.entries.iter().all(|entry| matches!(entry.answer, AnswerSpec::Output(_) | AnswerSpec::Error(_)))
}

/// Says whether an entry is this error.
fn is(entry: &EntrySpec, error: &str) -> bool {
    entry.error().is_some_and(|kind| kind.value == error)
}

/// Returns the name of a caller, whichever item it is for.
fn bare(name: &str) -> String {
    let name = caller_name(name);
    name.split('[').next().unwrap_or(&name).to_owned()
}

/// A plan on its way onto the stage.
struct Fitting<'s> {
    stage: &'s Stage,
    /// Who may be a called graph, and is answered as a whole.
    gives: BTreeSet<String>,
    /// Who may be a question, and is not answered in time.
    late: BTreeSet<String>,
    /// All who are answered, in any turn: what is in the middle of its work is found again in the next one.
    within: BTreeSet<String>,
    /// The graphs that can be called, as they are.
    graphs: BTreeMap<String, Arc<Plan>>,
    dressed: BTreeMap<String, Arc<Plan>>,
}

impl Fitting<'_> {
    /// Dresses a graph that is called on one way.
    fn level(&mut self, before: &str, plan: &mut Plan) {
        for (name, node) in &mut plan.nodes {
            self.job(&mut node.job);
            let name = format!("{before}{name}");
            match &mut node.job.work {
                Work::Map(each) => {
                    let mut job = each.job.clone();
                    self.call(&name, &mut job.work);
                    *each = Arc::new(Each { job, ..(**each).clone() });
                }
                work => self.call(&name, work),
            }
        }
    }

    /// Dresses a call of a graph, or a question that nobody is to answer in time.
    fn call(&mut self, name: &str, work: &mut Work) {
        if let Work::Ask(ask) = work
            && self.late.contains(name)
            && let Some((_, to)) = &ask.timeout
        {
            *ask = Arc::new(Ask { timeout: Some((Duration::ZERO, to.clone())), ..(**ask).clone() });
        }
        let Work::Graph(call) = work else { return };
        if self.gives.contains(name) {
            *work = Work::Node(Arc::new(self.stage.clone()));
            return;
        }
        let inner = format!("{name}/");
        let looks = self.within.range(inner.clone()..).next().is_some_and(|next| next.starts_with(&inner));
        let Some(child) = self.graphs.get(&call.graph).filter(|_| looks) else { return };
        let mut child = (**child).clone();
        self.level(&inner, &mut child);
        *call = Arc::new(GraphCall { graph: inner.clone(), with: call.with.clone(), keeps: call.keeps });
        self.dressed.insert(inner, Arc::new(child));
    }

    /// Dresses what a job does besides calling a graph. Nobody waits for a script to calm down.
    fn job(&self, job: &mut Job) {
        let others = job.fallbacks.iter_mut().map(|other| &mut other.retry);
        for retry in others.chain([&mut job.retry]) {
            (retry.first, retry.max) = (Duration::ZERO, Duration::ZERO);
        }
        for tool in job.tools.values_mut() {
            *tool = self.stage.tool(tool);
        }
        match &mut job.work {
            Work::Tool(tool, _) => *tool = self.stage.tool(tool),
            Work::Map(each) => {
                let mut inner = each.job.clone();
                self.job(&mut inner);
                *each = Arc::new(Each { job: inner, ..(**each).clone() });
            }
            _ => {}
        }
    }
}

impl Scene {
    fn new(script: &[ScriptSpec]) -> Self {
        Self { models: models(script), script: script.to_vec(), calls: Mutex::default() }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the calls of models.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.models.requests()
    }

    /// Returns who else called, and what was sent.
    pub(super) fn others(&self) -> Calls {
        self.calls().clone()
    }

    /// Counts a question of the turn, and says how its script has it end; nothing when it has none.
    pub(super) fn end(&self, asker: &str) -> Option<String> {
        let script = self.script.iter().find(|script| script.is_of(asker))?;
        let mut calls = self.calls();
        let questions = calls.entry(caller_name(asker)).or_default();
        questions.push(Json::Null);
        Some(script.entries.get(questions.len() - 1)?.error()?.value.clone())
    }

    /// Takes the next entry of a caller that is no model.
    async fn take(&self, from: &str, sent: Json) -> Result<EntrySpec, Failure> {
        let number = {
            let mut calls = self.calls();
            let calls = calls.entry(caller_name(from)).or_default();
            calls.push(sent);
            calls.len() - 1
        };
        let script = self.script.iter().find(|script| script.is_of(from));
        let entry = script.and_then(|script| script.entries.get(number)).cloned();
        let missing = || Failure::new(ErrorKind::Tool, format!("`{from}` has no script"));
        let entry = entry.ok_or_else(missing)?;
        tokio::time::sleep(entry.after.unwrap_or_default()).await;
        match &entry.answer {
            AnswerSpec::Error(kind) => Err(failure(&kind.value)),
            _ => Ok(entry),
        }
    }
}

/// Makes the failure that a script names.
fn failure(kind: &str) -> Failure {
    let kind = match Kind::named(kind) {
        Some(kind) => Failure::from(ModelError::new(kind, "")).kind,
        None => ErrorKind::Tool,
    };
    Failure::new(kind, format!("scripted error {}", kind.name()))
}

fn models(script: &[ScriptSpec]) -> Scripted {
    Scripted::new(script.iter().map(|script| {
        let entries = script.entries.iter().map(entry_of);
        (caller_name(&script.node.value), entries.collect())
    }))
}

/// Writes a request as a test has it; a body that is JSON as the value that it is.
fn sent(request: &http::Request) -> Json {
    let headers = request.headers.iter().filter(|(_, value)| !value.is_sensitive());
    let headers = headers.map(|(name, value)| {
        (name.as_str().to_owned(), Json::from(String::from_utf8_lossy(value.as_bytes()).into_owned()))
    });
    let body = request.body.as_ref().map(|body| serde_json::from_str(body).unwrap_or_else(|_| json!(body)));
    json!({
        "method": request.method.as_str(),
        "url": request.url.as_str(),
        "headers": headers.collect::<serde_json::Map<_, _>>(),
        "body": body,
    })
}

#[async_trait]
impl ChatModel for Stage {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        let node = caller_name(&request.node);
        self.0.load_full().models.stream(Request { node, ..request }).await
    }
}

#[async_trait]
impl Tool for Stage {
    async fn call(&self, call: &Call) -> Result<Json, Failure> {
        let entry = self.0.load_full().take(&call.caller, (*call.args).clone()).await?;
        Ok(match entry.answer {
            AnswerSpec::Result(value)
            | AnswerSpec::Output(value)
            | AnswerSpec::Response { body: ResponseBody::Json(value), .. } => value,
            AnswerSpec::Text(text) => Json::String(text),
            _ => Json::Null,
        })
    }
}

#[async_trait]
impl Caller for Stage {
    async fn send(&self, from: &str, request: http::Request) -> Result<Response, Failure> {
        let entry = self.0.load_full().take(from, sent(&request)).await?;
        let response = |status, headers: Vec<(String, String)>, body: ResponseBody| {
            let (kind, body) = match body {
                ResponseBody::Nothing => (None, Vec::new()),
                ResponseBody::Text(text) => (Some("text/plain"), text.into_bytes()),
                ResponseBody::Json(value) => (Some("application/json"), value.to_string().into_bytes()),
            };
            let mut headers: indexmap::IndexMap<String, String> = headers.into_iter().collect();
            if let Some(kind) = kind {
                headers.entry("content-type".into()).or_insert_with(|| kind.into());
            }
            Response { status, headers, body }
        };
        Ok(match entry.answer {
            AnswerSpec::Response { status, headers, body } => response(status, headers, body),
            AnswerSpec::Text(text) => response(200, Vec::new(), ResponseBody::Text(text)),
            AnswerSpec::Result(value) | AnswerSpec::Output(value) => {
                response(200, Vec::new(), ResponseBody::Json(value))
            }
            AnswerSpec::Calls(..) | AnswerSpec::Error(_) => response(200, Vec::new(), ResponseBody::Nothing),
        })
    }
}

/// A called graph that does not run.
#[async_trait]
impl Node for Stage {
    async fn run(&self, attempt: &Attempt) -> Result<Outcome, Failure> {
        let entry = self.0.load_full().take(&attempt.emit.place().caller(), Json::Null).await?;
        let result = match entry.answer {
            AnswerSpec::Output(value) => value,
            _ => Json::Null,
        };
        Ok(Done { result, ..Done::default() }.into())
    }
}
