//! What differs between two versions of a project, as far as it means something.
//!
//! Invariant: pure, and graphs with one hash do not differ.

mod states;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value as Json;

use crate::compile::{Catalog, Compiled, stored_canonical};
use crate::plan::{Edge, Plan, START};
use crate::state::{Channel, Field, Type};

pub use states::{Effect, Fate};

/// How something of the one is in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// Only the new one has it.
    Added,
    /// Only the old one has it.
    Removed,
    /// Both have it, not alike.
    Changed,
}

/// A graph that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GraphDiff {
    /// Its id.
    pub graph: String,
    /// Whether both have it.
    pub change: Sign,
    /// The hash of the old version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub old: Option<String>,
    /// The hash of the new version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new: Option<String>,
    /// What changed in a graph that both have.
    pub changes: Vec<Change>,
    /// What becomes of the states of threads that are of the old version.
    pub states: Vec<Effect>,
}

/// Something that changed in a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// How.
    pub change: Sign,
    /// What sort of thing: `node edge prompt channel input type tool graph schema setting`.
    pub what: &'static str,
    /// Its name.
    pub name: String,
    /// What of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Compares the graphs of two projects by their ids; returns those that differ.
pub fn compare(old: &Catalog, new: &Catalog) -> Result<Vec<GraphDiff>, String> {
    let ids: BTreeSet<&String> = old.graphs.keys().chain(new.graphs.keys()).collect();
    let mut graphs = Vec::new();
    for id in ids {
        let pair = (old.graphs.get(id), new.graphs.get(id));
        let hash = |side: Option<&Compiled>| side.map(|side| side.plan.hash.clone());
        let (old_hash, new_hash) = (hash(pair.0), hash(pair.1));
        if old_hash == new_hash {
            continue;
        }
        let (change, changes, states) = match pair {
            (Some(old), Some(new)) => {
                (Sign::Changed, changes(id, old, new)?, states::effects(&old.plan, &new.plan))
            }
            (None, _) => (Sign::Added, Vec::new(), Vec::new()),
            (Some(_), None) => (Sign::Removed, Vec::new(), Vec::new()),
        };
        graphs.push(GraphDiff { graph: id.clone(), change, old: old_hash, new: new_hash, changes, states });
    }
    Ok(graphs)
}

/// Collects changes.
struct Changes(Vec<Change>);

impl Changes {
    fn push(&mut self, change: Sign, what: &'static str, name: &str, detail: impl Into<String>) {
        self.0.push(Change { change, what, name: name.to_owned(), detail: detail.into() });
    }

    /// Compares two maps; `about` describes one side that stands alone, `between` what changed.
    fn maps<K: Ord + AsRef<str>, V>(
        &mut self,
        what: &'static str,
        (old, new): (&BTreeMap<K, V>, &BTreeMap<K, V>),
        about: impl Fn(&V) -> String,
        between: impl Fn(&str, &V, &V) -> Vec<String>,
    ) {
        let names: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
        for name in names {
            match (old.get(name), new.get(name)) {
                (Some(old), Some(new)) => {
                    let details = between(name.as_ref(), old, new);
                    if !details.is_empty() {
                        self.push(Sign::Changed, what, name.as_ref(), details.join(", "));
                    }
                }
                (Some(old), None) => self.push(Sign::Removed, what, name.as_ref(), about(old)),
                (None, Some(new)) => self.push(Sign::Added, what, name.as_ref(), about(new)),
                (None, None) => {}
            }
        }
    }
}

fn changes(id: &str, old: &Compiled, new: &Compiled) -> Result<Vec<Change>, String> {
    let forms = (stored_canonical(&old.body, id)?, stored_canonical(&new.body, id)?);
    let graphs = (&forms.0["graph"], &forms.1["graph"]);
    let edges = (edges(&old.plan), edges(&new.plan));
    let mut changes = Changes(Vec::new());

    let from = |edges: &'_ BTreeSet<Way>, name: &str| -> Vec<Way> {
        edges.iter().filter(|way| way.0 == name).cloned().collect()
    };
    let same_way = |name: &str| from(&edges.0, name) == from(&edges.1, name);
    let nodes = (object(&graphs.0["nodes"]), object(&graphs.1["nodes"]));
    let kind = |node: &&Json| node["kind"].as_str().unwrap_or_default().to_owned();
    changes.maps("node", (&nodes.0, &nodes.1), kind, |name, old, new| {
        let of =
            |edges: &BTreeSet<Way>| edges.iter().filter(|way| way.0 == name).cloned().collect::<Vec<_>>();
        let rerouted = of(&edges.0) != of(&edges.1);
        // The edges say it better.
        keys(old, new).into_iter().filter(|key| !(rerouted && ROUTES.contains(&key.as_str()))).collect()
    });
    for way in edges.0.difference(&edges.1) {
        changes.push(Sign::Removed, "edge", &format!("{} -> {}", way.0, way.1.to.name()), condition(&way.1));
    }
    for way in edges.1.difference(&edges.0) {
        changes.push(Sign::Added, "edge", &format!("{} -> {}", way.0, way.1.to.name()), condition(&way.1));
    }
    if graphs.0["start"] != graphs.1["start"] && same_way(START) {
        changes.push(Sign::Changed, "setting", START, "the order of its rules");
    }
    let prompts = (object(&forms.0["prompts"]), object(&forms.1["prompts"]));
    changes.maps("prompt", (&prompts.0, &prompts.1), |_| String::new(), |_, old, new| lines(old, new));
    changes.maps("channel", (&old.plan.channels, &new.plan.channels), about_channel, |_, old, new| {
        between_channels(old, new)
    });
    let inputs =
        |plan: &Plan| plan.input.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>();
    let inputs = (inputs(&old.plan), inputs(&new.plan));
    let about_input =
        |field: &Field| format!("{}{}", field.ty, if field.may_be_left_out() { "" } else { ", required" });
    changes.maps("input", (&inputs.0, &inputs.1), about_input, |_, old, new| between_fields(old, new));
    let types = (object(&forms.0["types"]), object(&forms.1["types"]));
    let alike = |_: &str, old: &&Json, new: &&Json| if old == new { Vec::new() } else { vec![String::new()] };
    changes.maps("type", (&types.0, &types.1), |_| String::new(), alike);

    // What the graph calls, and what its types are made of, is part of its version.
    let body = |tool: &&Json| {
        let kinds = ["http", "custom", "graph"];
        kinds.into_iter().find(|kind| tool.get(kind).is_some()).unwrap_or_default().to_owned()
    };
    let tools = (object(&forms.0["tools"]), object(&forms.1["tools"]));
    changes.maps("tool", (&tools.0, &tools.1), body, |_, old, new| paths(old, new));
    for (what, key) in [("tool", "mcp"), ("graph", "children"), ("schema", "schemas")] {
        let parts = (object(&forms.0[key]), object(&forms.1[key]));
        changes.maps(what, (&parts.0, &parts.1), |_| String::new(), |_, old, new| paths(old, new));
    }

    // A function is compared where both sides know it: a program without a registry knows none.
    let functions = (object(&forms.0["custom"]), object(&forms.1["custom"]));
    let (mut then, mut now) = functions.clone();
    then.retain(|name, _| functions.1.contains_key(name));
    now.retain(|name, _| functions.0.contains_key(name));
    changes.maps(
        "function",
        (&then, &now),
        |_| String::new(),
        |_, old, new| {
            if old == new { Vec::new() } else { vec![format!("{} -> {}", text(old), text(new))] }
        },
    );

    let settings = |graph| {
        let mut settings: BTreeMap<String, &Json> = object(graph);
        settings.retain(|key, _| !["nodes", "start", "state", "input"].contains(&key.as_str()));
        settings
    };
    let settings = (settings(graphs.0), settings(graphs.1));
    changes.maps(
        "setting",
        (&settings.0, &settings.1),
        |_| String::new(),
        |_, old, new| match (old, new) {
            _ if old == new => Vec::new(),
            (Json::Object(_), Json::Object(_)) => keys(old, new),
            _ => vec![String::new()],
        },
    );
    if changes.0.is_empty() && functions.0.len() != functions.1.len() {
        let about = "known on one side only: `--registry FILE` tells of them";
        changes.push(Sign::Changed, "function", "signatures", about);
    }
    if changes.0.is_empty() {
        // The hashes differ, so something does: perhaps how a type is written.
        changes.push(Sign::Changed, "setting", "the file", "only how something is written");
    }
    Ok(changes.0)
}

/// The keys of a node that are told as edges.
const ROUTES: [&str; 4] = ["next", "max_visits", "on_max", "on_error"];

/// An edge with the node that it leaves.
type Way = (String, Edge);

fn edges(plan: &Plan) -> BTreeSet<Way> {
    let start = plan.start_edges().into_iter().map(|edge| (START.to_owned(), edge));
    let nodes = plan.nodes.iter();
    start.chain(nodes.flat_map(|(name, node)| node.edges().into_iter().map(|e| (name.clone(), e)))).collect()
}

fn condition(edge: &Edge) -> String {
    match (&edge.condition, edge.fan_out) {
        (Some(condition), _) if edge.error => condition.clone(),
        (Some(condition), _) => format!("if {condition}"),
        (None, true) => "beside others".into(),
        (None, false) => String::new(),
    }
}

/// Returns the entries of an object; none of anything else.
fn object(json: &Json) -> BTreeMap<String, &Json> {
    json.as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value)).collect()
}

fn text(json: &Json) -> &str {
    json.as_str().unwrap_or_default()
}

/// Returns the keys in which two objects differ; something when one is none.
fn keys(old: &Json, new: &Json) -> Vec<String> {
    let (old, new) = (object(old), object(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|key| old.get(*key) != new.get(*key)).cloned().collect()
}

/// Returns where two objects differ: the keys, and within what both have the keys below.
fn paths(old: &Json, new: &Json) -> Vec<String> {
    let below = |key: String| match (&old[&key], &new[&key]) {
        (old @ Json::Object(_), new @ Json::Object(_)) => {
            keys(old, new).into_iter().map(|inner| format!("{key}.{inner}")).collect()
        }
        _ => vec![key],
    };
    keys(old, new).into_iter().flat_map(below).collect()
}

/// Counts the lines of a text that came and went.
fn lines(old: &Json, new: &Json) -> Vec<String> {
    if old == new {
        return Vec::new();
    }
    let count = |text: &Json| {
        let mut count: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.as_str().unwrap_or_default().lines() {
            *count.entry(line.to_owned()).or_default() += 1;
        }
        count
    };
    let (old, new) = (count(old), count(new));
    let more = |a: &BTreeMap<String, usize>, b: &BTreeMap<String, usize>| {
        a.iter().map(|(line, n)| n.saturating_sub(b.get(line).copied().unwrap_or(0))).sum::<usize>()
    };
    vec![format!("+{} -{} lines", more(&new, &old), more(&old, &new))]
}

fn about_channel(channel: &Channel) -> String {
    let merge = if channel.merge == crate::state::Merge::default_of(&channel.field.ty) {
        String::new()
    } else {
        format!(", merge {}", channel.merge)
    };
    format!("{}{merge}", channel.field.ty)
}

fn between_channels(old: &Channel, new: &Channel) -> Vec<String> {
    let mut details = between_fields(&old.field, &new.field);
    if old.merge != new.merge {
        details.push(format!("merge {} -> {}", old.merge, new.merge));
    }
    if old.private != new.private {
        details.push(if new.private { "private" } else { "not private" }.into());
    }
    if old.per_run != new.per_run {
        details.push(format!("keep: {}", if new.per_run { "run" } else { "thread" }));
    }
    details
}

fn between_fields(old: &Field, new: &Field) -> Vec<String> {
    let mut details = Vec::new();
    if old.ty != new.ty {
        details.push(between_types(&old.ty, &new.ty));
    }
    if old.default != new.default {
        let shown = |value: &Option<Json>| value.as_ref().map_or("none".into(), Json::to_string);
        details.push(format!("default {} -> {}", shown(&old.default), shown(&new.default)));
    }
    if old.description != new.description {
        details.push("description".into());
    }
    details
}

/// Says how two types differ; the rules of a type are not part of its name.
fn between_types(old: &Type, new: &Type) -> String {
    let (old, new) = (old.to_string(), new.to_string());
    if old == new { format!("rules of {new}") } else { format!("{old} -> {new}") }
}
