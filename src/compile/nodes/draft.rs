//! Nodes that are checked, and what becomes of them when all templates and tools are there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use crate::compile::custom::Unregistered;
use crate::compile::heads::Head;
use crate::compile::request::RequestDraft;
use crate::expr::ExprTree;
use crate::model::ToolSpec;
use crate::node::{Bind, Clip, Custom, Fail, Link, Llm, Offered, Output, Piece, Retry, Say, Set, parameters};
use crate::plan::{
    Ask, Cache, Catch, Each, Effects, Fallback, Form, GraphCall, ItemError, Job, Next, OnMessage, PlanNode,
    Sent, Target, ToolPlan, Work,
};
use crate::state::Type;
use crate::template::Templates;

/// A checked node that still lacks the closed set of templates.
pub(in crate::compile) struct Draft {
    pub(in crate::compile) name: String,
    pub(in crate::compile) job: JobDraft,
    /// What comes of it, for `into` and `emit`.
    pub(in crate::compile) gives: Gives,
    pub(in crate::compile) description: Option<String>,
    pub(in crate::compile) into: Sent,
    pub(in crate::compile) emit: IndexMap<String, ExprTree>,
    pub(in crate::compile) next: Next,
    /// Prompts and partials that it uses itself.
    pub(in crate::compile) used: BTreeSet<String>,
    pub(in crate::compile) on_error: Vec<Catch>,
    pub(in crate::compile) max_visits: Option<(u64, Target)>,
    pub(in crate::compile) join_all: bool,
}

/// How long a result is kept, and by what it is found again.
#[derive(Clone)]
pub(in crate::compile) struct CacheDraft {
    pub(in crate::compile) ttl: Duration,
    pub(in crate::compile) key: Option<ExprTree>,
}

/// What a node, or the body of a `map`, does.
pub(in crate::compile) struct JobDraft {
    pub(in crate::compile) kind: &'static str,
    pub(in crate::compile) body: Body,
    /// The tools that a model may call.
    pub(in crate::compile) tools: Vec<String>,
    pub(in crate::compile) fails_by_tools: bool,
    pub(in crate::compile) effects: Effects,
    pub(in crate::compile) cache: Option<CacheDraft>,
    pub(in crate::compile) retry: Retry,
    pub(in crate::compile) timeout: Duration,
    pub(in crate::compile) model: Option<String>,
    pub(in crate::compile) fallbacks: Vec<Fallback>,
}

/// What the results that a node keeps depend on.
pub(in crate::compile) struct Cached<'d> {
    pub(in crate::compile) node: &'d str,
    /// Prompts and partials.
    pub(in crate::compile) used: &'d BTreeSet<String>,
    /// Models, by name.
    pub(in crate::compile) models: Vec<&'d str>,
    /// It calls graphs or tools.
    pub(in crate::compile) calls: bool,
}

/// What comes of a node.
#[derive(Debug, Clone)]
pub(in crate::compile) struct Gives {
    /// The type of `result`.
    pub(in crate::compile) result: Type,
    /// The type of what `into: NAME` takes.
    pub(in crate::compile) taken: Type,
    /// What that is, for messages.
    pub(in crate::compile) what: String,
    /// The code of a channel that does not take it.
    pub(in crate::compile) code: &'static str,
}

impl Gives {
    pub(in crate::compile) fn of(ty: Type, what: impl Into<String>) -> Self {
        Self { result: ty.clone(), taken: ty, what: what.into(), code: "S403" }
    }

    /// Makes what comes of a node that is wrong: it fits everywhere.
    pub(in crate::compile) fn unknown() -> Self {
        Self::of(Type::Any, "the result")
    }
}

pub(in crate::compile) enum Body {
    Llm(Box<LlmDraft>),
    Say { text: String },
    Set { clear: Vec<String>, set: IndexMap<String, ExprTree> },
    Fail { error: String, code: Option<String> },
    Tool { tool: String, with: IndexMap<String, ExprTree> },
    Request(Box<RequestDraft>),
    Ask(AskDraft),
    Graph { graph: String, with: IndexMap<String, ExprTree>, keeps: bool },
    Map(Box<EachDraft>),
    Custom(Box<Custom>),
}

pub(in crate::compile) struct LlmDraft {
    pub(in crate::compile) links: Vec<Link>,
    pub(in crate::compile) pieces: Vec<Piece>,
    pub(in crate::compile) binds: Option<Vec<Bind>>,
    pub(in crate::compile) clip: Clip,
    pub(in crate::compile) output: Option<Output>,
    pub(in crate::compile) reply: Option<String>,
    pub(in crate::compile) stream: bool,
    pub(in crate::compile) max_rounds: u64,
}

pub(in crate::compile) struct AskDraft {
    pub(in crate::compile) question: String,
    pub(in crate::compile) messages: Option<String>,
    pub(in crate::compile) form: Form,
    pub(in crate::compile) timeout: Option<(Duration, Target)>,
    pub(in crate::compile) on_message: OnMessage,
}

pub(in crate::compile) struct EachDraft {
    pub(in crate::compile) over: ExprTree,
    pub(in crate::compile) name: String,
    pub(in crate::compile) job: JobDraft,
    pub(in crate::compile) at_once: Option<usize>,
    pub(in crate::compile) on_error: ItemError,
}

impl JobDraft {
    /// Says whether it speaks to the user.
    fn replies(&self, heads: &BTreeMap<String, Head<'_>>) -> bool {
        match &self.body {
            Body::Say { .. } => true,
            Body::Llm(llm) => llm.reply.is_some(),
            Body::Ask(ask) => ask.messages.is_some(),
            Body::Graph { graph, .. } => heads.get(graph).is_some_and(|head| head.speech.speaks),
            Body::Map(each) => each.job.replies(heads),
            _ => false,
        }
    }

    /// Says whether a result of it is kept, or one for an item.
    fn is_cached(&self) -> bool {
        self.cache.is_some() || matches!(&self.body, Body::Map(each) if each.job.is_cached())
    }

    /// Says whether it calls graphs or tools.
    fn calls(&self) -> bool {
        match &self.body {
            Body::Llm(_) => !self.tools.is_empty(),
            Body::Map(each) => each.job.calls(),
            Body::Request(_) => false,
            _ => true,
        }
    }

    /// Returns the models that it calls: its own, and those that stand in for it.
    fn models(&self) -> Vec<&str> {
        match &self.body {
            Body::Map(each) => each.job.models(),
            Body::Llm(llm) => llm.links.iter().map(|link| link.name.as_str()).collect(),
            _ => Vec::new(),
        }
    }

    /// Makes the job, now that all templates and tools are there. `definition` stands for all that it is made of.
    fn finish(self, templates: &Templates, tools: &BTreeMap<String, Arc<ToolPlan>>, definition: &str) -> Job {
        let answer = match &self.body {
            Body::Llm(llm) => llm.output.as_ref().map(|output| output.ty.clone()),
            Body::Custom(custom) => Some(custom.result.clone()),
            _ => None,
        };
        let offered =
            || self.tools.iter().filter_map(|name| Some((name.clone(), Arc::clone(tools.get(name)?))));
        let work = match self.body {
            Body::Llm(llm) => Work::Node(Arc::new(Llm {
                links: llm.links,
                templates: templates.clone(),
                pieces: llm.pieces,
                binds: llm.binds,
                clip: llm.clip,
                output: llm.output,
                tools: offered().map(|(_, tool)| offer(&tool)).collect(),
                max_rounds: llm.max_rounds,
                reply: llm.reply.is_some(),
                stream: llm.stream,
            })),
            Body::Say { text } => Work::Node(Arc::new(Say { templates: templates.clone(), text })),
            Body::Set { clear, set } => Work::Node(Arc::new(Set { clear, set })),
            Body::Fail { error, code } => {
                Work::Node(Arc::new(Fail { templates: templates.clone(), error, code }))
            }
            Body::Tool { tool, with } => match tools.get(&tool) {
                Some(tool) => Work::Tool(Arc::clone(tool), Arc::new(with)),
                None => Work::Node(Arc::new(Unregistered(tool))),
            },
            Body::Request(request) => Work::Node(Arc::new(request.finish(templates))),
            Body::Ask(ask) => Work::Ask(Arc::new(Ask {
                templates: templates.clone(),
                question: ask.question,
                messages: ask.messages,
                form: ask.form,
                timeout: ask.timeout,
                on_message: ask.on_message,
            })),
            Body::Graph { graph, with, keeps } => Work::Graph(Arc::new(GraphCall { graph, with, keeps })),
            Body::Map(each) => Work::Map(Arc::new(Each {
                over: each.over,
                name: each.name,
                // An item is not the list.
                job: each.job.finish(templates, tools, &format!("{definition}.do")),
                at_once: each.at_once,
                on_error: each.on_error,
            })),
            Body::Custom(custom) => Work::Node(Arc::new(*custom)),
        };
        Job {
            tools: offered().collect(),
            fails_by_tools: self.fails_by_tools,
            answer,
            effects: self.effects,
            cache: self.cache.map(|CacheDraft { ttl, key }| Cache { ttl, key, of: definition.to_owned() }),
            retry: self.retry,
            timeout: self.timeout,
            model: self.model,
            fallbacks: self.fallbacks,
            ..Job::new(self.kind, work)
        }
    }
}

/// Returns what a model is told of a tool.
fn offer(tool: &ToolPlan) -> Offered {
    Offered {
        spec: ToolSpec {
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.schema.clone().unwrap_or_else(|| parameters(&tool.args)),
        },
        args: tool.args.clone(),
        is_final: tool.is_final,
    }
}

/// What is known of a node whose work is wrong.
pub(in crate::compile) struct Sketch {
    pub(in crate::compile) name: String,
    pub(in crate::compile) node: PlanNode,
    pub(in crate::compile) gives: Gives,
}

impl Draft {
    /// Says whether the node speaks to the user.
    pub(in crate::compile) fn replies(&self, heads: &BTreeMap<String, Head<'_>>) -> bool {
        self.job.replies(heads)
    }

    /// Returns the node's edges without its work, to judge the shape of the graph by.
    pub(in crate::compile) fn outline(&self) -> (String, PlanNode) {
        let work = match &self.job.body {
            Body::Ask(ask) => Work::Ask(Arc::new(Ask {
                templates: crate::template::Set::new().freeze(),
                question: String::new(),
                messages: None,
                form: Form::Text,
                timeout: ask.timeout.clone(),
                on_message: ask.on_message,
            })),
            _ => Work::Node(Arc::new(Set::default())),
        };
        let node = PlanNode {
            on_error: self.on_error.clone(),
            max_visits: self.max_visits.clone(),
            join_all: self.join_all,
            ..PlanNode::new(Job::new(self.job.kind, work), self.next.clone())
        };
        (self.name.clone(), node)
    }

    /// Returns what has to be known of it for the results that are kept; nothing where none are.
    pub(in crate::compile) fn cached(&self) -> Option<Cached<'_>> {
        let job = &self.job;
        let cached =
            || Cached { node: &self.name, used: &self.used, models: job.models(), calls: job.calls() };
        job.is_cached().then(cached)
    }

    /// Makes the node, now that all templates and tools are there.
    pub(in crate::compile) fn finish(
        self,
        templates: &Templates,
        tools: &BTreeMap<String, Arc<ToolPlan>>,
        definition: &str,
    ) -> (String, PlanNode) {
        let node = PlanNode {
            description: self.description,
            into: self.into,
            emit: self.emit,
            on_error: self.on_error,
            max_visits: self.max_visits,
            join_all: self.join_all,
            ..PlanNode::new(self.job.finish(templates, tools, definition), self.next)
        };
        (self.name, node)
    }
}
