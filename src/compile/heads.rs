//! What the outside of a graph is: its state, its inputs, what it gives. Known of all graphs before any node is looked
//! at, because nodes call graphs.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use super::calls::{Reach, Speech, reach, speech};
use super::declared::Declared;
use super::names::Names;
use super::types::Types;
use crate::diagnostic::{Bag, Diagnostic, Spanned, did_you_mean};
use crate::expr::{ExprTree, Facts};
use crate::plan::Output;
use crate::spec::{ANY, Folder, Graph, OutputSpec};
use crate::state::{Channels, Field, Type};

/// The outside of a graph.
#[derive(Debug)]
pub(super) struct Head<'a> {
    pub(super) graph: &'a Graph,
    pub(super) channels: Channels,
    /// Names of channels and inputs that are there but cannot be read.
    pub(super) broken: Vec<String>,
    pub(super) input: IndexMap<String, Field>,
    /// The channel of the conversation.
    pub(super) messages: Option<String>,
    pub(super) names: Names,
    /// What a run gives; nothing where that is wrong.
    pub(super) output: Option<Output>,
    /// The type of that.
    pub(super) gives: Type,
    pub(super) speech: Speech,
    pub(super) reach: Reach,
}

/// Reads the outsides of all graphs.
pub(super) fn heads<'a>(folder: &'a Folder, types: &Types, bag: &mut Bag) -> BTreeMap<String, Head<'a>> {
    let graphs = folder.graphs.values();
    graphs.map(|graph| (graph.id.clone(), head(graph, folder, types, bag))).collect()
}

fn head<'a>(graph: &'a Graph, folder: &Folder, types: &Types, bag: &mut Bag) -> Head<'a> {
    let (channels, mut broken) = types.channels(&graph.state, bag);
    broken.extend(graph.broken.iter().cloned());
    let mut input = IndexMap::new();
    for (name, spec) in &graph.input {
        match types.field(spec, bag) {
            Some(field) => drop(input.insert(name.value.clone(), field)),
            None => broken.push(name.value.clone()),
        }
    }
    let messages = conversation(graph, &channels, bag);
    let mut declared = Declared::default();
    declared.add(Some("state"), &graph.state, &folder.project);
    declared.add(Some("input"), &graph.input, &folder.project);
    let names = Names::of_graph(&channels, &input, broken.clone(), declared);
    let output = output(graph, &names, &channels, &broken, bag);
    let gives =
        output.as_ref().map_or(Type::Any, |output| gives(output, &names, &channels, messages.as_deref()));
    let speech = speech(graph, &folder.graphs);
    let reach = reach(graph, &folder.graphs, &folder.project);
    Head { graph, channels, broken, input, messages, names, output, gives, speech, reach }
}

/// Finds the channel that holds the conversation.
fn conversation(graph: &Graph, channels: &Channels, bag: &mut Bag) -> Option<String> {
    let is = |name: &str| channels.get(name).is_some_and(|c| matches!(c.field.ty.non_null(), Type::Messages));
    let mut found = graph.state.iter().map(|(name, _)| name).filter(|name| is(&name.value));
    let first = found.next()?;
    if let Some(second) = found.next() {
        let finding =
            Diagnostic::error("G223", "two channels hold a conversation", second.span, "the second one");
        bag.report(finding.related(first.span, "the first one").help("keep one, and make the other a list"));
    }
    Some(first.value.clone())
}

fn output(
    graph: &Graph,
    names: &Names,
    channels: &Channels,
    broken: &[String],
    bag: &mut Bag,
) -> Option<Output> {
    match &graph.output {
        None => Some(Output::Public),
        Some(OutputSpec::Channels(list)) => {
            let mut fine = true;
            let is_broken = |name: &str| broken.iter().any(|broken| broken == name || broken == ANY);
            for name in
                list.iter().filter(|name| channels.contains_key(&name.value) || !is_broken(&name.value))
            {
                let Some(wrong) = wrong_output(name, channels) else { continue };
                if !channels.contains_key(&name.value) {
                    names.lack(&name.value);
                }
                bag.report(wrong);
                fine = false;
            }
            fine.then(|| Output::Channels(list.iter().map(|name| name.value.clone()).collect()))
        }
        Some(OutputSpec::Map(map)) => {
            let entries: Vec<Option<(String, ExprTree)>> =
                map.iter().map(|(name, spec)| Some((name.value.clone(), names.tree(spec, bag)?))).collect();
            entries.into_iter().collect::<Option<_>>().map(Output::Map)
        }
    }
}

fn wrong_output(name: &Spanned<String>, channels: &Channels) -> Option<Diagnostic> {
    match channels.get(&name.value) {
        None => {
            let message = format!("unknown channel `{}`", name.value);
            let finding = Diagnostic::error("S401", message, name.span, "no channel has this name");
            Some(finding.help_maybe(did_you_mean(&name.value, channels.keys().map(String::as_str))))
        }
        Some(channel) if channel.private => {
            let message = format!("`{}` is private", name.value);
            let finding = Diagnostic::error("S401", message, name.span, "never shown");
            Some(finding.help("write an expression over it, or take `private` away"))
        }
        Some(_) => None,
    }
}

/// Returns the type of what a run gives.
fn gives(output: &Output, names: &Names, channels: &Channels, messages: Option<&str>) -> Type {
    let of = |name: &String| channels.get(name).map_or(Type::Any, |channel| channel.field.ty.clone());
    let fields: IndexMap<String, Field> = match output {
        Output::Channels(list) => list.iter().map(|name| (name.clone(), Field::of(of(name)))).collect(),
        Output::Map(map) => map
            .iter()
            .map(|(name, tree)| {
                (name.clone(), Field::of(names.type_of_tree(tree, &Facts::default()).whole()))
            })
            .collect(),
        Output::Public => channels
            .iter()
            .filter(|(name, channel)| !channel.private && Some(name.as_str()) != messages)
            .map(|(name, channel)| {
                // What nobody has written is left out.
                let ty = match of(name) {
                    ty if channel.start().is_none() && !ty.is_nullable() => Type::Nullable(Box::new(ty)),
                    ty => ty,
                };
                (name.clone(), Field::of(ty))
            })
            .collect(),
    };
    Type::Record(fields)
}
