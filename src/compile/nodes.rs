//! Nodes as written become nodes that run.

mod llm;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::edges::Edges;
use super::handlers::{self, Handlers};
use super::names::Names;
use super::prompts::Prompts;
use super::shape;
use super::types::Types;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::expr::{ExprTree, Facts, Typed};
use crate::model::{ChatModel, Params, Timeouts};
use crate::node::{Bind, Clip, Fail, Llm, Node, Output, Piece, Retry, Say, Set};
use crate::plan::{Catch, Effects, Job, Next, PlanNode, Sent, Target, Work};
use crate::spec::{
    ANY, DefaultsSpec, ExprSpec, Graph, KindSpec, LlmSpec, NodeSpec, ParamsSpec, Project, TimeoutSpec,
};
use crate::state::{Channels, Field, Merge, ROLES, Type};
use crate::template::Templates;

/// How long one attempt of a node may take unless something else is said.
const NODE_TIMEOUT: Duration = Duration::from_mins(2);

/// A model that can be called.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) chat: Arc<dyn ChatModel>,
    pub(super) params: ParamsSpec,
    pub(super) timeout: TimeoutSpec,
    pub(super) retry: Option<Spanned<String>>,
    /// It answers in JSON that fits a schema.
    pub(super) schemas: bool,
}

/// What all graphs of a project share.
pub(super) struct Shared<'a> {
    pub(super) project: &'a Project,
    pub(super) types: &'a Types,
    /// Files that no rule claims.
    pub(super) unread: &'a [String],
    pub(super) models: &'a BTreeMap<String, Model>,
    pub(super) broken_models: &'a BTreeSet<String>,
    pub(super) used_models: std::cell::RefCell<BTreeSet<String>>,
    pub(super) default_model: Option<&'a Spanned<String>>,
    pub(super) retries: &'a BTreeMap<String, Retry>,
    pub(super) used_retries: std::cell::RefCell<BTreeSet<String>>,
}

/// A checked node that still lacks the closed set of templates.
pub(super) struct Draft {
    pub(super) name: String,
    kind: &'static str,
    description: Option<String>,
    body: Body,
    next: Next,
    on_error: Vec<Catch>,
    max_visits: Option<(u64, Target)>,
    join_all: bool,
    retry: Retry,
    timeout: Duration,
}

enum Body {
    Llm(Box<LlmDraft>),
    Say { text: String },
    Set { clear: Vec<String>, set: IndexMap<String, ExprTree> },
    Fail { error: String, code: Option<String> },
}

struct LlmDraft {
    model: Arc<dyn ChatModel>,
    pieces: Vec<Piece>,
    binds: Option<Vec<Bind>>,
    clip: Clip,
    output: Option<Output>,
    params: Params,
    timeouts: Timeouts,
    reply: Option<String>,
    stream: bool,
    into: Sent,
}

/// A graph's surroundings while its nodes are checked.
pub(super) struct Scene<'a> {
    pub(super) graph: &'a Graph,
    pub(super) shared: &'a Shared<'a>,
    pub(super) edges: &'a Edges<'a>,
    pub(super) names: &'a Names,
    pub(super) handlers: &'a Handlers<'a>,
    /// The graph's rules for errors.
    pub(super) on_error: &'a [Catch],
    pub(super) channels: &'a Channels,
    pub(super) broken_channels: &'a [String],
    pub(super) input: &'a IndexMap<String, Field>,
    pub(super) messages: Option<&'a str>,
    /// Somebody wants a conversation, and there is none.
    pub(super) silent: std::cell::Cell<bool>,
    /// Prompts and partials that the graph uses, for its stored version.
    pub(super) used: BTreeSet<String>,
}

impl Scene<'_> {
    /// Checks one node.
    pub(super) fn node(
        &mut self,
        name: &Spanned<String>,
        spec: &NodeSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> Option<Draft> {
        let key = spec.next_key.unwrap_or(name.span);
        let next = match &spec.next {
            Some(next) => self.edges.next(next, key, self.names, bag),
            None if spec.kind.value == "fail" => Some(Next::To(Target::End)),
            None => None,
        };
        let bounded = shape::check_bound(name, spec, bag);
        let on_max = spec.on_max.as_ref().map(|to| self.edges.target(to, bag));
        let own = match &spec.on_error {
            Some(rules) => handlers::resolve(rules, Some(name), self.edges, bag),
            None => Some(Vec::new()),
        };
        let settings = self.settings(spec, bag);
        let body = self.body(name, spec, prompts, bag);
        let max_visits = match (&spec.max_visits, on_max) {
            (Some(visits), Some(to)) => Some((visits.value, to?)),
            (None, Some(to)) => {
                to?;
                None
            }
            _ => None,
        };
        let (retry, timeout) = settings?;
        if !bounded || spec.partial {
            return None;
        }
        Some(Draft {
            name: name.value.clone(),
            kind: spec.kind.value,
            description: spec.description.clone(),
            body: body?,
            next: next?,
            on_error: self.handlers.edges(&name.value, spec, own?, self.on_error),
            max_visits,
            join_all: spec.join.as_ref().is_none_or(|join| join.value == "all"),
            retry,
            timeout,
        })
    }

    /// Finds retry policy and timeout. Node before graph before model.
    fn settings(&self, spec: &NodeSpec, bag: &mut Bag) -> Option<(Retry, Duration)> {
        let defaults = &self.graph.defaults;
        let model = self.model_of(spec);
        let name = spec.retry.as_ref().or(defaults.retry.as_ref());
        let name = name.or_else(|| model.and_then(|model| model.retry.as_ref()));
        let retry = match name {
            None => Retry::default(),
            Some(name) => self.retry(name, bag)?,
        };
        let timeouts = [spec.timeout, defaults.timeout, model.map(|m| m.timeout).unwrap_or_default()];
        let timeout = timeouts.iter().find_map(|t| t.total).unwrap_or(NODE_TIMEOUT);
        if let (Some(own), Some(span), Some(limit)) =
            (spec.timeout.total, spec.timeout.span, self.graph.limits.time)
        {
            let all = own.saturating_mul(retry.attempts);
            if all > limit && !bag.is_trusting() {
                let label = match retry.attempts {
                    1 => format!("{own:?} of a run that may take {limit:?}"),
                    n => format!("{n} attempts of {own:?} take {all:?}, the run may take {limit:?}"),
                };
                let message = "a node may take longer than its run";
                let finding = Diagnostic::error("G218", message, span, label);
                bag.report(finding.help("shorten the timeout, or raise `limits: {time: …}`"));
                return None;
            }
        }
        Some((retry, timeout))
    }

    fn retry(&self, name: &Spanned<String>, bag: &mut Bag) -> Option<Retry> {
        if let Some(retry) = self.shared.retries.get(&name.value) {
            self.shared.used_retries.borrow_mut().insert(name.value.clone());
            return Some(retry.clone());
        }
        let project = self.shared.project;
        if project.unsure || project.broken.contains(&name.value) {
            return None;
        }
        let finding = Diagnostic::error(
            "M501",
            format!("unknown retry policy `{}`", name.value),
            name.span,
            "project.yaml declares no such policy",
        );
        bag.report(
            finding.help_maybe(did_you_mean(&name.value, self.shared.retries.keys().map(String::as_str))),
        );
        None
    }

    fn model_name<'s>(&'s self, spec: &'s LlmSpec) -> Option<&'s Spanned<String>> {
        spec.model.as_ref().or(self.graph.defaults.model.as_ref()).or(self.shared.default_model)
    }

    fn model_of(&self, spec: &NodeSpec) -> Option<&Model> {
        match &spec.body {
            KindSpec::Llm(llm) => self.shared.models.get(&self.model_name(llm)?.value),
            _ => None,
        }
    }

    fn body(
        &mut self,
        name: &Spanned<String>,
        spec: &NodeSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> Option<Body> {
        match &spec.body {
            KindSpec::Llm(llm) => self.llm(name, llm, spec, prompts, bag).map(|llm| Body::Llm(Box::new(llm))),
            KindSpec::Say { text } => {
                let messages = self.conversation("`say`", spec.kind.span, bag);
                let text = text.as_ref().and_then(|text| self.text(name, "text", text, prompts, bag));
                messages?;
                Some(Body::Say { text: text? })
            }
            KindSpec::Set { set, clear } => {
                let mut fine = true;
                let mut values = IndexMap::new();
                for (channel, value) in set {
                    let known = self.channel(channel, bag);
                    let tree = self.names.tree(value, bag);
                    match (known, tree) {
                        (true, Some(tree)) => {
                            fine &= self.fits(self.names, channel, value, &tree, bag);
                            values.insert(channel.value.clone(), tree);
                        }
                        _ => fine = false,
                    }
                }
                for channel in clear {
                    fine &= self.channel(channel, bag);
                }
                let clear = clear.iter().map(|channel| channel.value.clone()).collect();
                fine.then_some(Body::Set { clear, set: values })
            }
            KindSpec::Route => Some(Body::Set { clear: Vec::new(), set: IndexMap::new() }),
            KindSpec::Fail { error, code } => {
                let error = error.as_ref().and_then(|text| self.text(name, "error", text, prompts, bag));
                Some(Body::Fail { error: error?, code: code.clone() })
            }
        }
    }

    /// Returns the channel of the conversation, which whoever replies needs.
    fn conversation(&self, what: &str, span: Span, bag: &mut Bag) -> Option<String> {
        let told = self.silent.replace(self.messages.is_none());
        // Where all of the state is missing, that is told already.
        let missing = self.graph.state.is_empty() && bag.errors_in(self.graph.file) > 0;
        if self.messages.is_none() && self.broken_channels.is_empty() && !told && !missing {
            let message = format!("{what} in a graph without a conversation");
            let finding = Diagnostic::error("G223", message, span, "no channel has the type `messages`");
            bag.report(finding.help("add  messages: messages  under `state`"));
        }
        self.messages.map(str::to_owned)
    }

    fn text(
        &mut self,
        name: &Spanned<String>,
        key: &str,
        text: &crate::spec::Text,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> Option<String> {
        let template = format!("{}.yaml#{}.{key}", self.graph.id, name.value);
        let (template, includes) = prompts.text(&template, text, self.names, bag)?;
        self.used.extend(includes);
        Some(template)
    }

    /// Says whether a name is there but cannot be read, or may be.
    fn is_broken(&self, name: &str) -> bool {
        self.broken_channels.iter().any(|broken| broken == name || broken == ANY)
    }

    /// Checks that a channel exists.
    fn channel(&self, name: &Spanned<String>, bag: &mut Bag) -> bool {
        if self.channels.contains_key(&name.value) {
            return true;
        }
        if !self.is_broken(&name.value) {
            let finding = Diagnostic::error(
                "S401",
                format!("unknown channel `{}`", name.value),
                name.span,
                "no channel has this name",
            );
            bag.report(
                finding.help_maybe(did_you_mean(&name.value, self.channels.keys().map(String::as_str))),
            );
        }
        false
    }

    /// Checks a written value against its channel, as far as its type is known. Whether it may be null is a matter of
    /// the way that leads here: see `flow`.
    fn fits(
        &self,
        names: &Names,
        channel: &Spanned<String>,
        spec: &ExprSpec,
        tree: &ExprTree,
        bag: &mut Bag,
    ) -> bool {
        let Some(target) = self.channels.get(&channel.value).filter(|_| !bag.is_trusting()) else {
            return true;
        };
        let typed = names.type_of_tree(tree, &Facts::default());
        let mut span = spec.span();
        let why = match tree {
            ExprTree::Const(value)
                if value.is_null()
                    && matches!(target.merge, Merge::Add | Merge::Max | Merge::Min | Merge::Merge) =>
            {
                Some(format!("null cannot join by `{}`", target.merge))
            }
            ExprTree::Const(value) if !joins_items(target.merge) => {
                target.field.ty.check(value).err().map(|mismatch| mismatch.why)
            }
            _ if takes(target.merge, &target.field.ty, &typed) => None,
            _ if target.merge == Merge::Messages => {
                Some("a turn is {role: …, content: …}, with a role that there is".to_owned())
            }
            _ => Some(match target.field.ty.differs(&typed.ty) {
                Some((field, how)) => {
                    span = spec.key(&field).unwrap_or(span);
                    how
                }
                None => format!("this is {typed}"),
            }),
        };
        let Some(why) = why else { return true };
        let message = format!("`{}` holds {}", channel.value, target.field.ty);
        let finding = Diagnostic::error("S403", message, span, why);
        let declared = names.declared(&format!("state.{}", channel.value));
        bag.report(match declared {
            Some(at) => finding.related(at, "declared here"),
            None => finding,
        });
        false
    }
}

fn joins_items(merge: Merge) -> bool {
    matches!(merge, Merge::Append | Merge::Union)
}

/// Says whether a value of this type can join a conversation: a turn, a list of such, or what removes one. Content is
/// checked when it is written.
fn joins_conversation(ty: &Type) -> bool {
    match ty {
        Type::Any | Type::Messages | Type::Object => true,
        Type::List(item) => joins_conversation(item.non_null()),
        Type::Record(fields) if fields.contains_key("remove") => true,
        Type::Record(fields) => {
            let role = fields.get("role").is_some_and(|role| match role.ty.non_null() {
                Type::Enum(values) => values.iter().all(|value| ROLES.contains(&value.as_str())),
                Type::String { .. } | Type::Any => true,
                _ => false,
            });
            role && fields.contains_key("content")
        }
        _ => false,
    }
}

/// Says whether a write of this type can join a channel; null is looked at elsewhere.
pub(super) fn takes(merge: Merge, channel: &Type, written: &Typed) -> bool {
    if written.null {
        return true;
    }
    let ty = written.ty.non_null();
    match (merge, channel.non_null()) {
        (Merge::Messages, _) => joins_conversation(ty),
        (Merge::Append | Merge::Union, Type::List(item)) => {
            written.empty || channel.accepts(ty) || item.accepts(&written.ty)
        }
        // Fields that are not written stay.
        (Merge::Merge, Type::Record(due)) => match ty {
            Type::Record(given) => {
                given.iter().all(|(name, field)| due.get(name).is_some_and(|due| due.ty.accepts(&field.ty)))
            }
            ty => channel.accepts(ty),
        },
        (_, Type::List(_)) if written.empty => true,
        _ => channel.accepts(ty),
    }
}

/// Counts a graph's default model as used.
pub(super) fn use_defaults(defaults: &DefaultsSpec, shared: &Shared<'_>) {
    let Some(model) = &defaults.model else { return };
    shared.used_models.borrow_mut().insert(model.value.clone());
}

impl Draft {
    /// Says whether the node speaks to the user.
    pub(super) fn replies(&self) -> bool {
        match &self.body {
            Body::Say { .. } => true,
            Body::Llm(llm) => llm.reply.is_some(),
            _ => false,
        }
    }

    /// Returns the type of a model's answer, when it is no text.
    pub(super) fn answer(&self) -> Option<&Type> {
        match &self.body {
            Body::Llm(llm) => llm.output.as_ref().map(|output| &output.ty),
            _ => None,
        }
    }

    /// Returns the node's edges without its work, to judge the shape of the graph by.
    pub(super) fn outline(&self) -> (String, PlanNode) {
        let job = Job::new(self.kind, Work::Node(Arc::new(Set::default())));
        let node = PlanNode {
            on_error: self.on_error.clone(),
            max_visits: self.max_visits.clone(),
            join_all: self.join_all,
            ..PlanNode::new(job, self.next.clone())
        };
        (self.name.clone(), node)
    }

    /// Makes the node, now that all templates are there.
    pub(super) fn finish(self, templates: &Templates) -> (String, PlanNode) {
        let mut into = Sent::Nothing;
        let node: Arc<dyn Node> = match self.body {
            Body::Llm(llm) => {
                into = llm.into;
                Arc::new(Llm {
                    model: llm.model,
                    templates: templates.clone(),
                    pieces: llm.pieces,
                    binds: llm.binds,
                    clip: llm.clip,
                    output: llm.output,
                    tools: Arc::from([]),
                    max_rounds: 8,
                    params: llm.params,
                    timeouts: llm.timeouts,
                    reply: llm.reply.is_some(),
                    stream: llm.stream,
                })
            }
            Body::Say { text } => Arc::new(Say { templates: templates.clone(), text }),
            Body::Set { clear, set } => Arc::new(Set { clear, set }),
            Body::Fail { error, code } => Arc::new(Fail { templates: templates.clone(), error, code }),
        };
        let job = Job {
            effects: Effects::None,
            retry: self.retry,
            timeout: self.timeout,
            ..Job::new(self.kind, Work::Node(node))
        };
        let node = PlanNode {
            description: self.description,
            into,
            on_error: self.on_error,
            max_visits: self.max_visits,
            join_all: self.join_all,
            ..PlanNode::new(job, self.next)
        };
        (self.name, node)
    }
}
