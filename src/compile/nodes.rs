//! Nodes as written become nodes that run.

mod ask;
mod cache;
mod call;
mod draft;
mod llm;
mod map;
mod misfit;
mod sent;
mod turns;
mod words;
mod write;

use draft::{AskDraft, Body, EachDraft, JobDraft, LlmDraft, Sketch};
pub(super) use draft::{Cached, Draft, Gives};
pub(super) use map::locals;
pub(super) use misfit::misfit;
pub(super) use write::{rules_of, taken_type, takes, takes_null, within_rules};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use indexmap::IndexMap;

use super::calls::speech;
use super::edges::Edges;
use super::handlers::{self, Handlers};
use super::heads::Head;
use super::models::{Model, chain};
use super::names::Names;
use super::outside::Outside;
use super::prompts::Prompts;
use super::request;
use super::shape;
use super::tools::{Tools, effects_of};
use super::types::Types;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::node::{Retry, Set};
use crate::plan::{Catch, Effects, Fallback, Job, Next, PlanNode, Target, Work};
use crate::spec::{
    ANY, CacheSpec, DefaultsSpec, Folder, Graph, IntoSpec, KindSpec, LimitsSpec, LlmSpec, NodeSpec, Project,
    TimeoutSpec,
};
use crate::state::{Channels, Field, Type};

/// How long one attempt of a node may take unless something else is said.
const NODE_TIMEOUT: Duration = Duration::from_mins(2);

/// What all graphs of a project share.
pub(super) struct Shared<'a> {
    pub(super) project: &'a Project,
    pub(super) types: &'a Types,
    /// Files that no rule claims.
    pub(super) unread: &'a [String],
    pub(super) models: &'a BTreeMap<String, Model>,
    pub(super) broken_models: &'a BTreeSet<String>,
    pub(super) used_models: std::cell::RefCell<BTreeSet<String>>,
    /// The nodes that name no model, nor does anything for them.
    pub(super) modelless: std::cell::RefCell<Vec<Spanned<String>>>,
    pub(super) default_model: Option<&'a Spanned<String>>,
    pub(super) retries: &'a BTreeMap<String, Retry>,
    pub(super) used_retries: std::cell::RefCell<BTreeSet<String>>,
    pub(super) folder: &'a Folder,
    pub(super) heads: &'a BTreeMap<String, Head<'a>>,
    pub(super) tools: &'a Tools,
    pub(super) used_tools: std::cell::RefCell<BTreeSet<String>>,
    pub(super) outside: &'a Outside<'a>,
}

/// What is checked: a node, or the body of a `map`.
pub(super) struct Step<'s> {
    /// The node.
    pub(super) name: &'s Spanned<String>,
    kind: &'s Spanned<&'static str>,
    retry: Option<&'s Spanned<String>>,
    timeout: TimeoutSpec,
    effects: Option<&'s Spanned<&'static str>>,
    cache: Option<&'s CacheSpec>,
    /// Somebody takes its result.
    taken: bool,
    /// It is the body of a `map`.
    item: bool,
    /// A part of the node cannot be read.
    partial: bool,
    /// Where it takes its result, if that is one channel.
    channel: Option<&'s Spanned<String>>,
}

/// A graph's surroundings while its nodes are checked.
pub(super) struct Scene<'a> {
    pub(super) graph: &'a Graph,
    /// Those of the graph, and of the project.
    pub(super) limits: &'a LimitsSpec,
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
    /// Nodes whose work is wrong.
    pub(super) sketches: Vec<Sketch>,
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
        let channel = match &spec.into {
            Some(IntoSpec::Channel(channel)) => Some(channel),
            _ => None,
        };
        let step = Step {
            name,
            kind: &spec.kind,
            retry: spec.retry.as_ref(),
            timeout: spec.timeout,
            effects: spec.effects.as_ref(),
            cache: spec.cache.as_ref(),
            taken: spec.into.is_some(),
            item: false,
            partial: spec.partial,
            channel,
        };
        let before = std::mem::take(&mut self.used);
        let (job, gives) = self.job(&step, &spec.body, prompts, bag);
        let used = std::mem::replace(&mut self.used, before);
        self.used.extend(used.iter().cloned());
        let untyped = matches!(&spec.body, KindSpec::Http(http) if http.response.is_none());
        let into = self.sent(spec, &gives, untyped, bag);
        let emit = self.events(spec, &gives, untyped, bag);
        let max_visits = match (&spec.max_visits, on_max) {
            (Some(visits), Some(to)) => Some((visits.value, to?)),
            (None, Some(to)) => {
                to?;
                None
            }
            _ => None,
        };
        if !bounded || spec.partial {
            return None;
        }
        let (into, emit, next) = (into?, emit?, next?);
        let on_error = self.handlers.edges(&name.value, spec, own?, self.on_error);
        let join_all = spec.join.as_ref().is_none_or(|join| join.value == "all");
        let Some(job) = job else {
            // What it writes is known as far as that has a type. Some have ways on of their own.
            let typed = spec.into.is_none() || gives.taken != Type::Any;
            if typed && !matches!(spec.body, KindSpec::Ask(_) | KindSpec::Map(_)) {
                let job = Job::new(spec.kind.value, Work::Node(Arc::new(Set::default())));
                let node = PlanNode { on_error, max_visits, join_all, ..PlanNode::new(job, next) };
                self.sketches.push(Sketch { name: name.value.clone(), node, gives });
            }
            return None;
        };
        Some(Draft {
            name: name.value.clone(),
            job,
            gives,
            description: spec.description.clone(),
            into,
            emit,
            next,
            used,
            on_error,
            max_visits,
            join_all,
        })
    }

    /// Checks what a node, or the body of a `map`, does. What comes of it is known, as far as it can be, also where the
    /// rest is wrong.
    fn job(
        &mut self,
        step: &Step<'_>,
        spec: &KindSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> (Option<JobDraft>, Gives) {
        let (body, gives) = self.body(step, spec, prompts, bag);
        let effects = match step.effects {
            Some(effects) => effects_of(effects.value),
            None => self.effects(spec),
        };
        let settings = self.settings(step, spec, effects, bag);
        let cache = match step.cache {
            None => Some(None),
            Some(cache) => self.cache(step, cache, spec, bag).map(Some),
        };
        let (tools, fails_by_tools) = match spec {
            KindSpec::Llm(llm) => (
                llm.tools.iter().map(|tool| tool.value.clone()).collect(),
                llm.on_tool_error.as_ref().is_some_and(|word| word.value == "fail"),
            ),
            _ => (Vec::new(), false),
        };
        let mut links = settings.into_iter().flatten();
        let job = body.zip(links.next()).zip(cache).map(|((body, first), cache)| JobDraft {
            kind: step.kind.value,
            body,
            tools,
            fails_by_tools,
            effects,
            cache,
            retry: first.retry,
            timeout: first.timeout,
            model: self.model_of(spec).map(|_| first.model),
            fallbacks: links.collect(),
        });
        (job, gives)
    }

    /// Returns what a call does outside, by what is called.
    fn effects(&self, spec: &KindSpec) -> Effects {
        match spec {
            KindSpec::Http(http) => request::effects(&http.request),
            KindSpec::Custom(_) => Effects::AtMostOnce,
            KindSpec::Tool(node) => {
                let tool = node.tool.as_ref().and_then(|tool| self.shared.tools.known.get(&tool.value));
                tool.map_or(Effects::None, |tool| tool.reach.effects)
            }
            KindSpec::Graph(node) => {
                let head = node.graph.as_ref().and_then(|name| self.shared.heads.get(&name.value));
                head.map_or(Effects::None, |head| head.reach.effects)
            }
            KindSpec::Map(map) => map.body.as_ref().map_or(Effects::None, |body| match &body.effects {
                Some(effects) => effects_of(effects.value),
                None => self.effects(&body.body),
            }),
            _ => Effects::None,
        }
    }

    /// Finds retry policy and timeout of the model and of each that stands in for it; of what calls none, there is one
    /// without a name. Node before graph before model.
    fn settings(
        &self,
        step: &Step<'_>,
        spec: &KindSpec,
        effects: Effects,
        bag: &mut Bag,
    ) -> Option<Vec<Fallback>> {
        let chain = self.model_of(spec).map(|model| chain(model, self.shared.models)).unwrap_or_default();
        let mut links = Vec::new();
        for model in chain.iter().map(|model| Some(*model)).chain(chain.is_empty().then_some(None)) {
            links.push(self.link(step, spec, effects, model, bag)?);
        }
        // What must not happen twice is not tried elsewhere.
        links.truncate(if effects == Effects::AtMostOnce { 1 } else { links.len() });
        // The timeout of the graph holds for what may take its time, unless a node has its own.
        let works =
            matches!(spec, KindSpec::Llm(_) | KindSpec::Tool(_) | KindSpec::Http(_) | KindSpec::Custom(_));
        let layers = [Some(step.timeout), works.then_some(self.graph.defaults.timeout)];
        let own = layers.into_iter().flatten().find_map(|timeout| Some((timeout.total?, timeout.span?)));
        if let (Some((own, span)), Some(limit)) = (own, self.limits.time) {
            let attempts = links.iter().fold(0_u32, |sum, link| sum.saturating_add(link.retry.attempts));
            let all = own.saturating_mul(attempts);
            let told = || bag.findings().iter().any(|f| f.code == "G218" && f.label.span == span);
            if all > limit && !bag.is_trusting() && !told() {
                let label = match attempts {
                    1 => format!("{own:?} of a run that may take {limit:?}"),
                    n => format!("{n} attempts of {own:?} take {all:?}, the run may take {limit:?}"),
                };
                let message = "a node may take longer than its run";
                let finding = Diagnostic::error("G218", message, span, label);
                bag.report(finding.help("shorten the timeout, or raise `limits: {time: …}`"));
                return None;
            }
        }
        Some(links)
    }

    fn link(
        &self,
        step: &Step<'_>,
        spec: &KindSpec,
        effects: Effects,
        model: Option<&Model>,
        bag: &mut Bag,
    ) -> Option<Fallback> {
        let defaults = &self.graph.defaults;
        let name = step.retry.or(defaults.retry.as_ref());
        let name = name.or_else(|| model.and_then(|model| model.retry.as_ref()));
        let mut retry = match name {
            None => Retry::default(),
            Some(name) => self.retry(name, bag)?,
        };
        if effects == Effects::AtMostOnce && retry.attempts > 1 {
            if let Some(name) = step.retry.filter(|_| !bag.is_trusting()) {
                let message = "a call that must not happen twice is tried again";
                let finding = Diagnostic::error("M513", message, name.span, "may make it a second time");
                let finding = match step.effects {
                    Some(effects) => finding.related(effects.span, "says so"),
                    None => finding.related(step.kind.span, "what it calls is `at_most_once`"),
                };
                bag.report(finding.help(
                    "write  effects: idempotent  where the other side knows a call again, or remove `retry`",
                ));
                return None;
            }
            // What holds for all nodes is not meant for these.
            retry = Retry::default();
        }
        let timeouts = [step.timeout, defaults.timeout, model.map(|m| m.timeout).unwrap_or_default()];
        let timeout = match spec {
            // Their parts have timeouts of their own, and a person may take long.
            KindSpec::Graph(_) | KindSpec::Map(_) | KindSpec::Ask(_) => {
                step.timeout.total.unwrap_or(Duration::MAX)
            }
            _ => timeouts.iter().find_map(|t| t.total).unwrap_or(NODE_TIMEOUT),
        };
        let model = model.map(|model| model.name.value.clone()).unwrap_or_default();
        Some(Fallback { model, retry, timeout })
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
            finding
                .help("declare it in project.yaml:  retries: {standard: {attempts: 3, for: [timeout, connection]}}")
                .help_maybe(did_you_mean(&name.value, self.shared.retries.keys().map(String::as_str))),
        );
        None
    }

    fn model_name<'s>(&'s self, spec: &'s LlmSpec) -> Option<&'s Spanned<String>> {
        spec.model.as_ref().or(self.graph.defaults.model.as_ref()).or(self.shared.default_model)
    }

    fn model_of(&self, spec: &KindSpec) -> Option<&Model> {
        match spec {
            KindSpec::Llm(llm) => self.shared.models.get(&self.model_name(llm)?.value),
            _ => None,
        }
    }

    fn body(
        &mut self,
        step: &Step<'_>,
        spec: &KindSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> (Option<Body>, Gives) {
        let nothing = || Gives::of(Type::Nullable(Box::new(Type::Any)), "the result");
        match spec {
            KindSpec::Llm(llm) => {
                let (draft, gives) = self.llm(step, llm, prompts, bag);
                (draft.map(|llm| Body::Llm(Box::new(llm))), gives)
            }
            KindSpec::Tool(node) => self.tool_node(step, node, bag),
            KindSpec::Http(http) => self.http(step, http, prompts, bag),
            KindSpec::Ask(ask) => self.ask(step, ask, prompts, bag),
            KindSpec::Map(map) => self.map(step, map, prompts, bag),
            KindSpec::Graph(node) => self.graph_node(step, node, bag),
            KindSpec::Custom(node) => self.custom(step, node, bag),
            KindSpec::Say { text } => {
                let messages = self.conversation("`say`", step.kind.span, bag);
                let text = text.as_ref().and_then(|text| self.text(step, "text", text, prompts, bag));
                let body = messages.and(text).map(|text| Body::Say { text });
                (body, Gives::of(Type::STRING, "the text"))
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
                (fine.then_some(Body::Set { clear, set: values }), nothing())
            }
            KindSpec::Route => (Some(Body::Set { clear: Vec::new(), set: IndexMap::new() }), nothing()),
            KindSpec::Fail { error, code } => {
                let error = error.as_ref().and_then(|text| self.text(step, "error", text, prompts, bag));
                (error.map(|error| Body::Fail { error, code: code.clone() }), nothing())
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
            self.names.miss("messages", finding.help("add  messages: messages  under `state`"));
        }
        self.messages.map(str::to_owned)
    }

    /// Says whether somebody speaks where there is no conversation: that is told, and not what it is missing for.
    fn is_silent(&self) -> bool {
        self.silent.get() || (self.messages.is_none() && speech(self.graph, &BTreeMap::new()).speaks)
    }

    /// Returns where the texts of a node stand, for the names of their templates.
    fn place(&self, step: &Step<'_>) -> String {
        let item = if step.item { ".do" } else { "" };
        format!("{}.yaml#{}{item}", self.graph.id, step.name.value)
    }

    fn text(
        &mut self,
        step: &Step<'_>,
        key: &str,
        text: &crate::spec::Text,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> Option<String> {
        let template = format!("{}.{key}", self.place(step));
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
            self.names.lack(&name.value);
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
}

/// Counts a graph's default model as used.
pub(super) fn use_defaults(defaults: &DefaultsSpec, shared: &Shared<'_>) {
    let Some(model) = &defaults.model else { return };
    shared.used_models.borrow_mut().insert(model.value.clone());
}
