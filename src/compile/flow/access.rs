//! What a node reads and writes, and what is due where it reads.

use indexmap::IndexMap;

use crate::compile::custom;
use crate::compile::heads::Head;
use crate::compile::names::Names;
use crate::compile::nodes::{Gives, Shared, locals, takes_null};
use crate::compile::prompts::Prompts;
use crate::diagnostic::{Span, Spanned};
use crate::spec::{CacheSpec, ExprSpec, Graph, IntoSpec, KindSpec, LlmSpec, NodeSpec, OutputSpec, Text};
use crate::state::{Channels, Field, Type};

/// A place where a node reads.
pub(super) enum Site<'a> {
    /// An expression; with what is due there, where null does not fit.
    Expr(&'a Text, Option<Due>),
    /// A template.
    Template(&'a Text, Spoken),
    /// A channel or input by its path, such as one of the same name as a prompt's input.
    Read(String, Span, Option<Due>),
}

/// Who hears a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    /// The model, as its instructions.
    System,
    /// Anybody else.
    Other,
}

/// Where a value goes that must not be null.
pub(super) struct Due {
    /// What takes it: ``channel `order` ``.
    pub(super) what: String,
    pub(super) ty: Type,
}

/// A write.
pub(super) struct Write<'a> {
    pub(super) channel: &'a Spanned<String>,
    /// The value; absent for the whole result.
    pub(super) value: Option<&'a ExprSpec>,
}

/// What a node reads and writes.
pub(super) struct Access<'a> {
    /// What it reads before it works.
    pub(super) sites: Vec<Site<'a>>,
    /// What it reads for each item of a list.
    pub(super) items: Vec<Site<'a>>,
    /// The names that are there for that: the item, and its place.
    locals: Vec<(String, Type)>,
    /// The list that the items come from.
    pub(super) over: Option<&'a ExprSpec>,
    /// What it reads where its result is there.
    pub(super) results: Vec<Site<'a>>,
    pub(super) writes: Vec<Write<'a>>,
    pub(super) clears: Vec<&'a Spanned<String>>,
    /// It speaks to the user while it works, token by token: the place that says so.
    pub(super) streams: Option<Span>,
    /// It reads the conversation.
    pub(super) converses: bool,
    /// The type of its result.
    pub(super) result: Type,
    /// The type of what a channel takes of it.
    pub(super) taken: Type,
    /// Its result comes from outside: from a person, or from another side.
    pub(super) outside: bool,
    /// The tools that a model may call in it.
    pub(super) tools: &'a [Spanned<String>],
    /// How many of `sites` and of `items` are of its work; those that follow are of the keys of its cache.
    pub(super) work: (usize, usize),
}

/// Returns what a node reads and writes.
pub(super) fn access<'a>(
    spec: &'a NodeSpec,
    gives: &Gives,
    head: &'a Head<'a>,
    names: &Names,
    prompts: &Prompts,
    shared: &'a Shared<'a>,
) -> Access<'a> {
    let mut access = Access {
        sites: Vec::new(),
        items: Vec::new(),
        locals: Vec::new(),
        over: None,
        results: Vec::new(),
        writes: Vec::new(),
        clears: Vec::new(),
        streams: None,
        converses: false,
        result: gives.result.clone(),
        taken: gives.taken.clone(),
        outside: false,
        tools: &[],
        work: (0, 0),
    };
    match &spec.body {
        KindSpec::Set { set, clear } => {
            for (channel, value) in set {
                let site = written(channel, value, &head.channels);
                access.sites.extend(site);
                access.writes.push(Write { channel, value: Some(value) });
            }
            access.clears.extend(clear);
        }
        KindSpec::Map(map) => {
            access.locals = locals(map, names);
            access.over = map.over.as_ref();
            let list = Due { what: "`over`".to_owned(), ty: Type::List(Box::new(Type::Any)) };
            access.sites.extend(map.over.as_ref().map(|over| read(over, Some(list))).unwrap_or_default());
            if let Some(body) = &map.body {
                let before = access.sites.len();
                access.body(&body.body, head, prompts, shared);
                access.items = access.sites.split_off(before);
            }
        }
        body => access.body(body, head, prompts, shared),
    }
    access.work = (access.sites.len(), access.items.len());
    let key = |cache: &'a Option<CacheSpec>| cache.as_ref().and_then(|cache| cache.key.as_ref());
    access.sites.extend(key(&spec.cache).map(|key| read(key, None)).unwrap_or_default());
    if let KindSpec::Map(map) = &spec.body
        && let Some(body) = &map.body
    {
        access.items.extend(key(&body.cache).map(|key| read(key, None)).unwrap_or_default());
    }
    match &spec.into {
        None => {}
        Some(IntoSpec::Channel(channel)) => access.writes.push(Write { channel, value: None }),
        Some(IntoSpec::Map(map)) => {
            for (channel, value) in map {
                access.results.extend(written(channel, value, &head.channels));
                access.writes.push(Write { channel, value: Some(value) });
            }
        }
    }
    for (_, value) in &spec.emit {
        value.for_each_text(&mut |text| access.results.push(Site::Expr(text, None)));
    }
    access
}

/// Returns what a write reads.
fn written<'a>(channel: &Spanned<String>, value: &'a ExprSpec, channels: &Channels) -> Vec<Site<'a>> {
    let due = channels.get(&channel.value).filter(|target| !takes_null(target)).map(|target| Due {
        what: format!("channel `{}`", channel.value),
        ty: target.field.ty.non_null().clone(),
    });
    read(value, due)
}

/// Returns what a value reads; what is due counts where the value is one expression.
fn read(value: &ExprSpec, due: Option<Due>) -> Vec<Site<'_>> {
    if let ExprSpec::Text(text) = value {
        return vec![Site::Expr(text, due)];
    }
    let mut sites = Vec::new();
    value.for_each_text(&mut |text| sites.push(Site::Expr(text, None)));
    sites
}

impl<'a> Access<'a> {
    /// Returns all places where the node reads.
    pub(super) fn all(&self) -> impl Iterator<Item = &Site<'a>> {
        self.sites.iter().chain(&self.items).chain(&self.results)
    }

    /// Returns the names that are there for an item.
    pub(super) fn locals(&self) -> &[(String, Type)] {
        &self.locals
    }

    /// Adds the names that are there for an item.
    pub(super) fn with_locals(&self, names: Names) -> Names {
        self.locals.iter().fold(names, |names, (name, ty)| names.with(name, ty.clone()))
    }

    /// Takes in what a node, or the body of a `map`, does.
    fn body(&mut self, spec: &'a KindSpec, head: &'a Head<'a>, prompts: &Prompts, shared: &'a Shared<'a>) {
        match spec {
            KindSpec::Llm(llm) => self.llm(llm, head, prompts),
            KindSpec::Say { text } | KindSpec::Fail { error: text, .. } => {
                self.sites.extend(text.as_ref().map(|text| Site::Template(text, Spoken::Other)));
            }
            KindSpec::Ask(ask) => {
                self.outside = true;
                self.sites.extend(ask.question.as_ref().map(|text| Site::Template(text, Spoken::Other)));
            }
            KindSpec::Http(http) => {
                self.outside = true;
                let texts = http.request.texts().into_iter();
                self.sites.extend(texts.map(|(_, text)| Site::Template(text, Spoken::Other)));
            }
            KindSpec::Tool(node) => {
                self.outside = true;
                let tool = node.tool.as_ref().and_then(|name| shared.tools.known.get(&name.value));
                let name = node.tool.as_ref().map_or("", |name| name.value.as_str());
                let what = |arg: &str| format!("argument `{arg}` of tool `{name}`");
                self.with(&node.with, tool.map(|tool| &tool.args), what);
            }
            KindSpec::Graph(node) => {
                let called = node.graph.as_ref().and_then(|name| shared.heads.get(&name.value));
                let name = node.graph.as_ref().map_or("", |name| name.value.as_str());
                let what = |input: &str| format!("input `{input}` of graph `{name}`");
                self.with(&node.with, called.map(|called| &called.input), what);
                self.outside = called.is_some_and(|called| called.reach.outside);
                self.streams = node
                    .graph
                    .as_ref()
                    .filter(|_| called.is_some_and(|called| called.speech.streams))
                    .map(|name| name.span);
            }
            KindSpec::Custom(node) => {
                self.outside = true;
                let name = node.name.as_ref().map_or("", |name| name.value.as_str());
                let fields = custom::args(name, shared.outside.registry());
                self.with(&node.with, fields.as_ref(), |arg| format!("argument `{arg}` of `{name}`"));
            }
            KindSpec::Map(_) | KindSpec::Set { .. } | KindSpec::Route => {}
        }
    }

    /// Takes in the values that are given to a tool or a graph.
    fn with(
        &mut self,
        with: &'a [(Spanned<String>, ExprSpec)],
        fields: Option<&IndexMap<String, Field>>,
        what: impl Fn(&str) -> String,
    ) {
        for (name, value) in with {
            let field = fields.and_then(|fields| fields.get(&name.value));
            let due = field.filter(|field| !field.ty.is_nullable());
            let due = due.map(|field| Due { what: what(&name.value), ty: field.ty.clone() });
            self.sites.extend(read(value, due));
        }
    }

    fn llm(&mut self, llm: &'a LlmSpec, head: &'a Head<'a>, prompts: &Prompts) {
        let messages = head.messages.is_some();
        self.tools = &llm.tools;
        self.outside = !llm.tools.is_empty();
        self.streams = llm.reply.as_ref().filter(|reply| reply.value).map(|reply| reply.span);
        if let Some(text) = &llm.text {
            let spoken = if messages { Spoken::System } else { Spoken::Other };
            self.sites.push(Site::Template(text, spoken));
            self.converses = messages;
        }
        for (_, value) in &llm.with {
            value.for_each_text(&mut |text| self.sites.push(Site::Expr(text, None)));
        }
        let Some(wanted) = &llm.prompt else { return };
        let Some(prompt) = prompts.known(&wanted.value) else { return };
        self.converses = prompt.plain && messages;
        for (name, field) in &prompt.inputs {
            let due = (!field.ty.is_nullable()).then(|| Due {
                what: format!("input `{name}` of prompt `{}`", wanted.value),
                ty: field.ty.clone(),
            });
            match llm.with.iter().find(|(with, _)| with.value == *name) {
                // Read above; here only what is due counts.
                Some((_, ExprSpec::Text(text))) => self.sites.push(Site::Expr(text, due)),
                None if head.channels.contains_key(name) => {
                    self.sites.push(Site::Read(format!("state.{name}"), wanted.span, due));
                }
                None if head.graph.input.iter().any(|(input, _)| input.value == *name) => {
                    self.sites.push(Site::Read(format!("input.{name}"), wanted.span, due));
                }
                _ => {}
            }
        }
    }
}

/// Returns what is read where a run ends.
pub(super) fn output(graph: &Graph) -> Vec<Site<'_>> {
    match &graph.output {
        None => Vec::new(),
        Some(OutputSpec::Channels(names)) => {
            names.iter().map(|name| Site::Read(format!("state.{}", name.value), name.span, None)).collect()
        }
        Some(OutputSpec::Map(map)) => {
            let mut sites = Vec::new();
            for (_, value) in map {
                value.for_each_text(&mut |text| sites.push(Site::Expr(text, None)));
            }
            sites
        }
    }
}
