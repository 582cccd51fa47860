//! What the nodes of a plan do. Models, requests and texts are the matter of a [`Node`]; whatever is made of other parts,
//! the engine composes itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::Target;
use crate::expr::{ExprTree, Scope};
use crate::failure::Failure;
use crate::node::{Node, Retry};
use crate::state::{Mismatch, Type, Write};
use crate::template::Templates;
use crate::tool::Tool;

/// What a node, or the body of a `map`, does.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its kind, as written.
    pub kind: &'static str,
    /// The work.
    pub work: Work,
    /// The tools that a model may call in it, by name.
    pub tools: BTreeMap<String, Arc<ToolPlan>>,
    /// A tool that fails is the failure of the node; else the model is told.
    pub fails_by_tools: bool,
    /// The type of a model's answer, where it is no text; of what a host program's function gives.
    pub answer: Option<Type>,
    /// What a call does outside.
    pub effects: Effects,
    /// How long its result is kept.
    pub cache: Option<Cache>,
    /// How often a failed attempt is made again.
    pub retry: Retry,
    /// How long one attempt may take.
    pub timeout: Duration,
    /// The model that it calls, by its name in project.yaml.
    pub model: Option<String>,
    /// The models that stand in for that one, in order.
    pub fallbacks: Vec<Fallback>,
}

/// How long a result is kept, and by what it is found again.
#[derive(Debug, Clone)]
pub struct Cache {
    /// How long it is kept.
    pub ttl: Duration,
    /// By what it is found again; absent: by all that the job reads.
    pub key: Option<ExprTree>,
    /// Stands for all that the job is made of: what was made otherwise has other results.
    pub of: String,
}

/// A model that stands in for another one.
#[derive(Debug, Clone)]
pub struct Fallback {
    /// Its name in project.yaml.
    pub model: String,
    /// How often a failed attempt is made again with it.
    pub retry: Retry,
    /// How long one attempt may take.
    pub timeout: Duration,
}

impl Job {
    /// Makes a job that is tried once and takes as long as it takes.
    pub fn new(kind: &'static str, work: Work) -> Self {
        Self {
            kind,
            work,
            tools: BTreeMap::new(),
            fails_by_tools: false,
            answer: None,
            effects: Effects::None,
            cache: None,
            retry: Retry::default(),
            timeout: Duration::MAX,
            model: None,
            fallbacks: Vec::new(),
        }
    }
}

impl Job {
    /// Returns the model, the policy and the timeout of a link of the chain: 0 is the job's own.
    pub fn link(&self, link: usize) -> (Option<&str>, &Retry, Duration) {
        match link.checked_sub(1).and_then(|nth| self.fallbacks.get(nth)) {
            Some(Fallback { model, retry, timeout }) => (Some(model), retry, *timeout),
            None => (self.model.as_deref(), &self.retry, self.timeout),
        }
    }
}

impl Job {
    /// Says whether an agent is asked in it: by a question, or before a call.
    pub(super) fn asks_agents(&self) -> bool {
        let by_work = match &self.work {
            Work::Ask(ask) => ask.messages.is_none(),
            Work::Tool(tool, _) => tool.approval,
            Work::Map(each) => each.job.asks_agents(),
            Work::Node(_) | Work::Graph(_) => false,
        };
        by_work || self.tools.values().any(|tool| tool.approval)
    }
}

/// The work of a job.
#[derive(Debug, Clone)]
pub enum Work {
    /// What one node does by itself, in one or more rounds.
    Node(Arc<dyn Node>),
    /// A question to a person.
    Ask(Arc<Ask>),
    /// One call of a tool, with its arguments by name.
    Tool(Arc<ToolPlan>, Arc<IndexMap<String, ExprTree>>),
    /// Another graph.
    Graph(Arc<GraphCall>),
    /// The same for each item of a list.
    Map(Arc<Each>),
}

/// What a call does outside of the run, from the weakest to the strongest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Effects {
    /// Nothing.
    None,
    /// Twice is as good as once.
    #[default]
    Idempotent,
    /// It must not happen twice.
    AtMostOnce,
}

/// A question to a person.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The project's templates.
    pub templates: Templates,
    /// The template of the question.
    pub question: String,
    /// The channel of the conversation, where question and answer are turns of it: the user is asked. Else an agent is.
    pub messages: Option<String>,
    /// What an answer must be.
    pub form: Form,
    /// After this time the branch goes there.
    pub timeout: Option<(Duration, Target)>,
    /// What a plain message of the user does while the question is open.
    pub on_message: OnMessage,
}

/// What an answer must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Form {
    /// Any text.
    Text,
    /// One of these texts.
    Options(Vec<String>),
    /// A value of this type.
    Type(Type),
}

impl Form {
    /// Checks an answer, and fills in what it left out.
    pub fn take(&self, mut value: Json) -> Result<Json, Vec<Mismatch>> {
        let wrong = |why: String| vec![Mismatch { pointer: String::new(), why }];
        match self {
            Self::Text if value.as_str().is_some_and(|text| !text.trim().is_empty()) => Ok(value),
            Self::Text => Err(wrong("a text is due".to_owned())),
            Self::Options(options) => {
                let given = value.as_str().map(str::trim).unwrap_or_default();
                // People write `Approve` where `approve` is meant.
                let meant = options.iter().find(|option| option.as_str() == given);
                let meant =
                    meant.or_else(|| options.iter().find(|option| option.eq_ignore_ascii_case(given)));
                match meant {
                    Some(option) => Ok(Json::String(option.clone())),
                    None => Err(wrong(format!("one of these is due: {}", options.join(", ")))),
                }
            }
            Self::Type(ty) => {
                ty.check(&value).map_err(|mismatch| vec![mismatch])?;
                ty.fill(&mut value);
                Ok(value)
            }
        }
    }
}

/// What a plain message of the user does while a question is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMessage {
    /// It is the answer.
    Answer,
    /// It is refused.
    Refuse,
    /// The run is ended, and a new one begins with it.
    Restart,
}

/// A call of another graph.
#[derive(Debug)]
pub struct GraphCall {
    /// The graph, by its name in [`Plan::children`](super::Plan::children).
    pub graph: String,
    /// Its inputs.
    pub with: IndexMap<String, ExprTree>,
    /// Its state stays with the calling node from call to call; else each call begins anew.
    pub keeps: bool,
}

/// The same work for each item of a list.
#[derive(Debug, Clone)]
pub struct Each {
    /// The list.
    pub over: ExprTree,
    /// The name of an item in the body's expressions and texts.
    pub name: String,
    /// What is done for an item: never a question, and never another list.
    pub job: Job,
    /// The most items that are worked on at once.
    pub at_once: Option<usize>,
    /// What an item is worth that failed.
    pub on_error: ItemError,
}

/// What an item is worth that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemError {
    /// The failure of the whole node.
    Fail,
    /// Nothing: the list is shorter.
    Skip,
    /// Null.
    Null,
}

/// A declared tool.
#[derive(Debug)]
pub struct ToolPlan {
    /// Its name.
    pub name: String,
    /// What it is for, for models.
    pub description: String,
    /// The type of its arguments: a record.
    pub args: Type,
    /// The JSON Schema of its arguments for models, where it says more than the type.
    pub schema: Option<Json>,
    /// The type of its result.
    pub result: Type,
    /// A person is asked before each call.
    pub approval: bool,
    /// Its result is the answer of the loop that calls it.
    pub is_final: bool,
    /// What a call does outside.
    pub effects: Effects,
    /// What is called.
    pub body: ToolBody,
}

/// What a tool is.
#[derive(Debug)]
pub enum ToolBody {
    /// A call.
    Call(Arc<dyn Tool>),
    /// A graph, by its name in [`Plan::children`](super::Plan::children).
    Graph(String),
}

/// Where a node's result goes.
#[derive(Debug, Clone, Default)]
pub enum Sent {
    /// Nowhere.
    #[default]
    Nothing,
    /// Into a channel.
    Channel(String),
    /// Into channels, by expressions over `result`.
    Map(IndexMap<String, ExprTree>),
}

impl Sent {
    /// Returns the writes that carry a result to its channels. `scope` has the name `result`.
    pub fn writes(&self, result: &Json, scope: impl FnOnce() -> Scope) -> Result<Vec<Write>, Failure> {
        match self {
            Self::Nothing => Ok(Vec::new()),
            Self::Channel(channel) => {
                Ok(vec![Write::Put { channel: channel.clone(), value: result.clone() }])
            }
            Self::Map(map) => {
                let scope = scope();
                let put = |(channel, tree): (&String, &ExprTree)| {
                    Ok(Write::Put { channel: channel.clone(), value: tree.eval(&scope)? })
                };
                map.iter().map(put).collect()
            }
        }
    }
}
