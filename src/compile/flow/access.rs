//! What a node reads and writes, and what is due where it reads.

use crate::compile::prompts::Prompts;
use crate::diagnostic::{Span, Spanned};
use crate::spec::{ExprSpec, Graph, IntoSpec, KindSpec, NodeSpec, OutputSpec, Text};
use crate::state::{Channels, Merge, Type};

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
    /// The value; absent for the answer of a model.
    pub(super) value: Option<&'a ExprSpec>,
}

/// What a node reads and writes.
pub(super) struct Access<'a> {
    pub(super) sites: Vec<Site<'a>>,
    pub(super) writes: Vec<Write<'a>>,
    pub(super) clears: Vec<&'a Spanned<String>>,
    /// It speaks to the user while it works, token by token: the place that says so.
    pub(super) streams: Option<Span>,
    /// It reads the conversation.
    pub(super) converses: bool,
    /// The type of a model's answer.
    pub(super) answer: Type,
    /// It has one.
    pub(super) answers: bool,
}

/// Returns what a node reads and writes.
pub(super) fn access<'a>(
    spec: &'a NodeSpec,
    answer: Type,
    graph: &'a Graph,
    channels: &Channels,
    messages: Option<&str>,
    prompts: &Prompts,
) -> Access<'a> {
    let mut access = Access {
        sites: Vec::new(),
        writes: Vec::new(),
        clears: Vec::new(),
        streams: None,
        converses: false,
        answer,
        answers: matches!(spec.body, KindSpec::Llm(_)),
    };
    match &spec.body {
        KindSpec::Say { text } => {
            access.sites.extend(text.as_ref().map(|text| Site::Template(text, Spoken::Other)));
        }
        KindSpec::Fail { error, .. } => {
            access.sites.extend(error.as_ref().map(|text| Site::Template(text, Spoken::Other)));
        }
        KindSpec::Route => {}
        KindSpec::Set { set, clear } => {
            for (channel, value) in set {
                access.written(channel, value, channels);
            }
            access.clears.extend(clear);
        }
        KindSpec::Llm(llm) => {
            access.streams = llm.reply.as_ref().filter(|reply| reply.value).map(|reply| reply.span);
            if let Some(text) = &llm.text {
                let spoken = if messages.is_some() { Spoken::System } else { Spoken::Other };
                access.sites.push(Site::Template(text, spoken));
                access.converses = messages.is_some();
            }
            for (_, value) in &llm.with {
                value.for_each_text(&mut |text| access.sites.push(Site::Expr(text, None)));
            }
            if let Some(wanted) = &llm.prompt
                && let Some(prompt) = prompts.known(&wanted.value)
            {
                access.converses = prompt.plain && messages.is_some();
                for (name, field) in &prompt.inputs {
                    let due = (!field.ty.is_nullable()).then(|| Due {
                        what: format!("input `{name}` of prompt `{}`", wanted.value),
                        ty: field.ty.clone(),
                    });
                    match llm.with.iter().find(|(with, _)| with.value == *name) {
                        // Read above; here only what is due counts.
                        Some((_, ExprSpec::Text(text))) => access.sites.push(Site::Expr(text, due)),
                        None if channels.contains_key(name) => {
                            access.sites.push(Site::Read(format!("state.{name}"), wanted.span, due));
                        }
                        None if graph.input.iter().any(|(input, _)| input.value == *name) => {
                            access.sites.push(Site::Read(format!("input.{name}"), wanted.span, due));
                        }
                        _ => {}
                    }
                }
            }
            match &llm.into {
                None => {}
                Some(IntoSpec::Channel(channel)) => access.writes.push(Write { channel, value: None }),
                Some(IntoSpec::Map(map)) => {
                    for (channel, value) in map {
                        access.written(channel, value, channels);
                    }
                }
            }
        }
    }
    access
}

impl<'a> Access<'a> {
    fn written(&mut self, channel: &'a Spanned<String>, value: &'a ExprSpec, channels: &Channels) {
        // Null joins nothing by these, whatever the channel starts with.
        let joins = |merge| matches!(merge, Merge::Add | Merge::Max | Merge::Min | Merge::Merge);
        let due = channels
            .get(&channel.value)
            .filter(|target| !target.field.ty.is_nullable() || joins(target.merge))
            .map(|target| Due {
                what: format!("channel `{}`", channel.value),
                ty: target.field.ty.non_null().clone(),
            });
        match value {
            ExprSpec::Text(text) => self.sites.push(Site::Expr(text, due)),
            other => other.for_each_text(&mut |text| self.sites.push(Site::Expr(text, None))),
        }
        self.writes.push(Write { channel, value: Some(value) });
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
