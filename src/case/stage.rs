//! What stands in for the world: models, tools, requests and called graphs play the script of the turn that is on.
//!
//! Invariant: nothing is made up. A call that no entry is left for fails, and the judge says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::stream::BoxStream;
use serde_json::{Value as Json, json};

use crate::failure::{ErrorKind, Failure};
use crate::model::scripted::{Entry, Scripted};
use crate::model::{ChatModel, Chunk, Kind, ModelError, Request};
use crate::node::{Attempt, Done, Node, Outcome};
use crate::plan::{Plan, PlanNode, ToolBody, ToolPlan, Work};
use crate::spec::{AnswerSpec, EntrySpec, ResponseBody, ScriptSpec};
use crate::tool::http::{self, Caller, Response};
use crate::tool::{Call, Tool};

/// Stands in for all that a project calls. Clones are one stage.
#[derive(Debug, Clone)]
pub struct Stage(Arc<ArcSwap<Scene>>);

/// The script of one turn, and what was asked of it.
#[derive(Debug)]
pub(super) struct Scene {
    /// What models say.
    models: Scripted,
    script: Vec<ScriptSpec>,
    /// How often each caller of anything else called.
    calls: Mutex<BTreeMap<String, usize>>,
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

    /// Puts the stage in the place of the tools of a graph, and of the graphs that it calls where a script says what they
    /// give.
    pub(super) fn dress(&self, plan: &mut Plan, script: &[ScriptSpec]) {
        self.dress_nodes("", plan, script);
        for child in plan.children.values_mut() {
            let mut dressed = (**child).clone();
            self.dress_nodes("*/", &mut dressed, script);
            *child = Arc::new(dressed);
        }
    }

    fn dress_nodes(&self, within: &str, plan: &mut Plan, script: &[ScriptSpec]) {
        for (name, node) in &mut plan.nodes {
            self.dress_node(&format!("{within}{name}"), node, script);
        }
    }

    fn dress_node(&self, name: &str, node: &mut PlanNode, script: &[ScriptSpec]) {
        let gives = |script: &&ScriptSpec| {
            script.node.value == name
                && script
                    .entries
                    .iter()
                    .all(|entry| matches!(entry.answer, AnswerSpec::Output(_) | AnswerSpec::Error(_)))
        };
        for tool in node.job.tools.values_mut() {
            *tool = self.tool(tool);
        }
        match &mut node.job.work {
            Work::Tool(tool, _) => *tool = self.tool(tool),
            work @ Work::Graph(_) if script.iter().any(|script| gives(&script)) => {
                *work = Work::Node(Arc::new(self.clone()));
            }
            Work::Map(each) => {
                let mut job = each.job.clone();
                for tool in job.tools.values_mut() {
                    *tool = self.tool(tool);
                }
                if let Work::Tool(tool, _) = &mut job.work {
                    *tool = self.tool(tool);
                }
                *each = Arc::new(crate::plan::Each {
                    over: each.over.clone(),
                    name: each.name.clone(),
                    job,
                    at_once: each.at_once,
                    on_error: each.on_error,
                });
            }
            _ => {}
        }
    }

    fn tool(&self, tool: &ToolPlan) -> Arc<ToolPlan> {
        Arc::new(ToolPlan {
            name: tool.name.clone(),
            description: tool.description.clone(),
            args: tool.args.clone(),
            result: tool.result.clone(),
            approval: tool.approval,
            is_final: tool.is_final,
            effects: tool.effects,
            body: ToolBody::Call(Arc::new(self.clone())),
        })
    }
}

impl Scene {
    fn new(script: &[ScriptSpec]) -> Self {
        Self { models: models(script), script: script.to_vec(), calls: Mutex::default() }
    }

    fn calls(&self) -> MutexGuard<'_, BTreeMap<String, usize>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the calls of models.
    pub(super) fn requests(&self) -> Vec<Request> {
        self.models.requests()
    }

    /// Returns who else called, and how often.
    pub(super) fn others(&self) -> BTreeMap<String, usize> {
        self.calls().clone()
    }

    /// Takes the next entry of a caller that is no model.
    async fn take(&self, from: &str) -> Result<EntrySpec, Failure> {
        let number = {
            let mut calls = self.calls();
            let number = calls.entry(from.to_owned()).or_default();
            *number += 1;
            *number - 1
        };
        let script = self.script.iter().find(|script| script.node.value == from);
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
        let entries = script.entries.iter().map(|spec| {
            let entry = match &spec.answer {
                // The check knows all names of kinds; what it does not know is no kind.
                AnswerSpec::Error(kind) => Entry::error(Kind::named(&kind.value).unwrap_or(Kind::Schema)),
                AnswerSpec::Text(text) => Entry::chunks(words(text)),
                AnswerSpec::Output(value) => Entry::text(answer(value)),
                AnswerSpec::Calls(text, calls) => {
                    Entry::chunks(words(text.as_deref().unwrap_or_default())).and_calls(calls.clone())
                }
                AnswerSpec::Result(_) | AnswerSpec::Response { .. } => Entry::text(""),
            };
            entry.after(spec.after.unwrap_or_default())
        });
        (script.node.value.clone(), entries.collect())
    }))
}

/// Writes a value as a model does: what is no object is the field `value` of one, since providers take objects only.
fn answer(value: &Json) -> String {
    match value {
        Json::Object(_) => value.to_string(),
        other => json!({"value": other}).to_string(),
    }
}

/// Cuts an answer into words, as a model sends it.
fn words(text: &str) -> Vec<&str> {
    text.split_inclusive(' ').collect()
}

#[async_trait]
impl ChatModel for Stage {
    async fn stream(
        &self,
        request: Request,
    ) -> Result<BoxStream<'static, Result<Chunk, ModelError>>, ModelError> {
        self.0.load_full().models.stream(request).await
    }
}

#[async_trait]
impl Tool for Stage {
    async fn call(&self, call: &Call) -> Result<Json, Failure> {
        let entry = self.0.load_full().take(&call.caller).await?;
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
    async fn send(&self, from: &str, _request: http::Request) -> Result<Response, Failure> {
        let entry = self.0.load_full().take(from).await?;
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
        let entry = self.0.load_full().take(&attempt.emit.place().caller()).await?;
        let result = match entry.answer {
            AnswerSpec::Output(value) => value,
            _ => Json::Null,
        };
        Ok(Done { result, ..Done::default() }.into())
    }
}
