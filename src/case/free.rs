//! What real models and services decide: values that no test can foretell.

use std::collections::BTreeSet;

use crate::expr::Expr;
use crate::spec::{ExprSpec, Graph, IntoSpec, KindSpec, NodeSpec, OutputSpec};

/// The channels and outputs of a graph that hold such values.
#[derive(Debug, Default)]
pub(super) struct Free {
    pub(super) channels: BTreeSet<String>,
    pub(super) outputs: BTreeSet<String>,
}

impl Free {
    /// Finds them in a graph whose conversation is in this channel.
    pub(super) fn of(graph: &Graph, messages: Option<&str>) -> Self {
        let nodes: Vec<&NodeSpec> = graph.nodes.iter().filter_map(|(_, node)| node.as_ref()).collect();
        let mut channels = BTreeSet::new();
        if nodes.iter().any(|node| calls_out(&node.body)) {
            channels.extend(messages.map(str::to_owned));
        }
        // What is made of such a value is one, too.
        loop {
            let before = channels.len();
            for node in &nodes {
                let own = calls_out(&node.body);
                let passes = |value: &ExprSpec| reads(value, &channels, own);
                let mut found = Vec::new();
                match &node.into {
                    Some(IntoSpec::Channel(channel)) if own => found.push(channel.value.clone()),
                    Some(IntoSpec::Map(map)) => {
                        found.extend(
                            map.iter().filter(|(_, value)| passes(value)).map(|(name, _)| name.value.clone()),
                        );
                    }
                    Some(IntoSpec::Channel(_)) | None => {}
                }
                if let KindSpec::Set { set, .. } = &node.body {
                    found.extend(
                        set.iter().filter(|(_, value)| passes(value)).map(|(name, _)| name.value.clone()),
                    );
                }
                channels.extend(found);
            }
            if channels.len() == before {
                break;
            }
        }
        let outputs = match &graph.output {
            Some(OutputSpec::Map(map)) => map
                .iter()
                .filter(|(_, value)| reads(value, &channels, false))
                .map(|(name, _)| name.value.clone())
                .collect(),
            Some(OutputSpec::Channels(_)) | None => channels.clone(),
        };
        Self { channels, outputs }
    }
}

/// Says whether a node asks a model or a service, itself or in a graph that it calls.
fn calls_out(kind: &KindSpec) -> bool {
    match kind {
        KindSpec::Llm(_)
        | KindSpec::Tool(_)
        | KindSpec::Http(_)
        | KindSpec::Graph(_)
        | KindSpec::Custom(_) => true,
        KindSpec::Map(map) => map.body.as_ref().is_some_and(|body| calls_out(&body.body)),
        KindSpec::Ask(_)
        | KindSpec::Say { .. }
        | KindSpec::Set { .. }
        | KindSpec::Route
        | KindSpec::Fail { .. } => false,
    }
}

/// Says whether a value reads one of these channels, or what a node gives that calls out.
fn reads(value: &ExprSpec, free: &BTreeSet<String>, calls_out: bool) -> bool {
    match value {
        ExprSpec::Const(..) => false,
        ExprSpec::List(items, _) => items.iter().any(|item| reads(item, free, calls_out)),
        ExprSpec::Map(fields, _) => fields.iter().any(|(_, field)| reads(field, free, calls_out)),
        ExprSpec::Text(text) => Expr::parse(&text.value).is_ok_and(|expr| {
            expr.reads().iter().any(|read| match read.root.as_str() {
                "result" => calls_out,
                "state" => read.path.first().map_or(!free.is_empty(), |channel| free.contains(channel)),
                _ => false,
            })
        }),
    }
}
