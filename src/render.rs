//! The drawing of a graph: Mermaid text for people, nodes and edges for programs.
//!
//! Invariant: pure; the same plan gives the same bytes, and no name or condition can break or steer the drawing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use crate::plan::{END, Edge, Plan, PlanNode, START, Target, ToolBody, Work};

/// Mermaid refuses to parse more than 500 edges, and only the page that hosts it may raise that.
const MOST_EDGES: usize = 450;
/// Mermaid shows an error picture above 50 000 characters.
const MOST_BYTES: usize = 45_000;
/// The most levels of called graphs that are opened.
pub const MOST_DEPTH: u32 = 10;
/// A graph that calls another twice, which calls another twice, grows with each level.
const MOST_NODES: usize = 20_000;
/// Longer labels make boxes that no longer fit beside each other; the JSON form has the whole text.
const LONGEST_LABEL: usize = 60;

/// The drawing would be refused by Mermaid hosts, whose limits a document cannot raise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Too many edges.
    #[error(
        "draw `{graph}`: {edges} edges, but Mermaid hosts refuse more than 500 and graphloom draws at most \
         {MOST_EDGES}; move a part into a graph of its own (`kind: graph`), \
         which is one box at depth 1, or take the JSON format"
    )]
    Edges {
        /// The graph.
        graph: String,
        /// How many it has.
        edges: usize,
    },
    /// Too many nodes, with those of called graphs.
    #[error("draw `{graph}`: more than {MOST_NODES} nodes; open fewer levels (`depth`)")]
    Nodes {
        /// The graph.
        graph: String,
    },
    /// Too much text.
    #[error(
        "draw `{graph}`: {bytes} bytes, but Mermaid hosts refuse more than 50000 and graphloom draws at most \
         {MOST_BYTES}; shorten names and conditions, move a part into a graph of its own (`kind: graph`), \
         or take the JSON format"
    )]
    Bytes {
        /// The graph.
        graph: String,
        /// How long the drawing would be.
        bytes: usize,
    },
}

/// A node of the drawing; its place in the list is its id.
struct Shape<'a> {
    /// The node that calls its graph.
    within: Option<usize>,
    /// What it calls is drawn inside of it.
    open: bool,
    name: &'a str,
    kind: &'a str,
    description: Option<&'a str>,
    join: bool,
}

/// An edge between two places of the list.
struct Line {
    source: usize,
    target: usize,
    condition: Option<String>,
    fan_out: bool,
    error: bool,
}

/// How a kind looks: brackets, and strokes that hold 3:1 against light and dark pages. Fills and text are the
/// theme's, so that dark pages stay readable; the label names the kind, so that nothing hangs on a colour.
struct Look {
    kind: &'static str,
    open: &'static str,
    close: &'static str,
    style: &'static str,
}

const fn look(kind: &'static str, open: &'static str, close: &'static str, style: &'static str) -> Look {
    Look { kind, open, close, style }
}

const PLAIN: Look = look("", "[", "]", "");

const LOOKS: [Look; 13] = [
    look(START, "([", "])", "stroke:#64748b,stroke-width:2px"),
    look("llm", "[", "]", "stroke:#2563eb,stroke-width:2px"),
    look("tool", "[[", "]]", "stroke:#b45309,stroke-width:2px"),
    look("http", "[[", "]]", "stroke:#0f766e,stroke-width:2px"),
    look("say", "(", ")", "stroke:#2563eb,stroke-width:1px"),
    look("ask", "[/", "/]", "stroke:#be185d,stroke-width:3px"),
    look("set", "[(", ")]", "stroke:#64748b,stroke-width:1px"),
    look("route", "{", "}", "stroke:#64748b,stroke-width:1px"),
    look("map", "{{", "}}", "stroke:#7c3aed,stroke-width:2px"),
    look("graph", "[[", "]]", "stroke:#7c3aed,stroke-width:3px"),
    look("custom", "[", "]", "stroke:#0f766e,stroke-width:1px"),
    look("fail", ">", "]", "stroke:#dc2626,stroke-width:2px"),
    look(END, "([", "])", "stroke:#64748b,stroke-width:2px"),
];

/// Draws a graph as a Mermaid flowchart that GitHub shows. The graphs that it calls are drawn inside of the nodes that call
/// them, down to `depth`; 1 draws none.
///
/// Never puts out front-matter, clicks or anything else that needs a recent or a trusting host.
pub fn mermaid(plan: &Plan, depth: u32) -> Result<String, TooLarge> {
    let (shapes, lines) = drawing(plan, depth)?;
    if lines.len() > MOST_EDGES {
        return Err(TooLarge::Edges { graph: plan.graph.clone(), edges: lines.len() });
    }
    let mut text = String::from("flowchart TD\n");
    let mut classes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    // The boxes that are open, the innermost last.
    let mut boxes: Vec<usize> = Vec::new();
    for (id, node) in shapes.iter().enumerate() {
        while boxes.last().copied() != node.within && boxes.pop().is_some() {
            line(&mut text, format_args!("end"));
        }
        let look = LOOKS.iter().find(|l| l.kind == node.kind).unwrap_or(&PLAIN);
        let mut label = escape(node.name);
        if node.kind != node.name {
            label += "<br/>";
            label += &escape(node.kind);
        }
        if node.join {
            label += ", joins";
        }
        if node.open {
            line(&mut text, format_args!("subgraph n{id}[\"{label}\"]"));
            boxes.push(id);
        } else {
            line(&mut text, format_args!("n{id}{}\"{label}\"{}", look.open, look.close));
        }
        if !look.kind.is_empty() {
            classes.entry(look.kind).or_default().push(format!("n{id}"));
        }
    }
    for _ in boxes {
        line(&mut text, format_args!("end"));
    }
    for Line { source, target, condition, fan_out, .. } in &lines {
        let label = condition.as_deref().map(escape);
        let arrow = match (label, fan_out) {
            (None, false) => "-->".to_owned(),
            (None, true) => "==>".to_owned(),
            (Some(label), false) => format!("-. \"{label}\" .->"),
            // Thick and labelled: taken together with others, each only when its condition holds.
            (Some(label), true) => format!("== \"{label}\" ==>"),
        };
        line(&mut text, format_args!("n{source} {arrow} n{target}"));
    }
    let errors: Vec<String> =
        lines.iter().enumerate().filter(|(_, line)| line.error).map(|(at, _)| at.to_string()).collect();
    if !errors.is_empty() {
        line(&mut text, format_args!("linkStyle {} stroke:#dc2626", errors.join(",")));
    }
    for look in &LOOKS {
        if let Some(ids) = classes.get(look.kind) {
            // The prefix keeps the words of the language, `graph` and `end`, out of the class names.
            line(&mut text, format_args!("classDef k_{} {}", look.kind, look.style));
            line(&mut text, format_args!("class {} k_{}", ids.join(","), look.kind));
        }
    }
    if text.len() > MOST_BYTES {
        return Err(TooLarge::Bytes { graph: plan.graph.clone(), bytes: text.len() });
    }
    Ok(text)
}

/// Gives nodes and edges with whole texts; ids are those of [`mermaid`]. A node of a called graph names the node that calls
/// it as its `parent`.
pub fn json(plan: &Plan, depth: u32) -> Result<Json, TooLarge> {
    let (shapes, lines) = drawing(plan, depth)?;
    let nodes: Vec<Json> = shapes
        .iter()
        .enumerate()
        .map(|(id, node)| {
            let mut fields = Map::new();
            fields.insert("id".into(), format!("n{id}").into());
            fields.insert("name".into(), node.name.into());
            fields.insert("kind".into(), node.kind.into());
            if let Some(description) = node.description {
                fields.insert("description".into(), description.into());
            }
            if node.join {
                fields.insert("join".into(), true.into());
            }
            if let Some(parent) = node.within {
                fields.insert("parent".into(), format!("n{parent}").into());
            }
            fields.into()
        })
        .collect();
    let edges: Vec<Json> = lines
        .into_iter()
        .map(|line| {
            let mut fields = Map::new();
            fields.insert("source".into(), format!("n{}", line.source).into());
            fields.insert("target".into(), format!("n{}", line.target).into());
            let conditional = line.condition.is_some();
            if let Some(condition) = line.condition {
                fields.insert("condition".into(), condition.into());
            }
            fields.insert("conditional".into(), conditional.into());
            fields.insert("fan_out".into(), line.fan_out.into());
            if line.error {
                fields.insert("error".into(), true.into());
            }
            fields.into()
        })
        .collect();
    Ok(json!({ "nodes": nodes, "edges": edges }))
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing into a `String` cannot fail.
    let _ok = writeln!(text, "    {content}");
}

/// Lists what is drawn: the start, the nodes breadth-first from it, unreachable ones by name, the end. What a node calls
/// follows it, as far as it is opened.
fn drawing(plan: &Plan, depth: u32) -> Result<(Vec<Shape<'_>>, Vec<Line>), TooLarge> {
    let mut drawing = Drawing { root: plan, shapes: Vec::new(), lines: Vec::new() };
    drawing.draw(plan, None, depth)?;
    // The edges of a graph stand together, in the order of its nodes, those of the caller first.
    drawing.lines.sort_by_key(|(level, _)| *level);
    Ok((drawing.shapes, drawing.lines.into_iter().map(|(_, line)| line).collect()))
}

struct Drawing<'a> {
    /// The graph that has all others.
    root: &'a Plan,
    shapes: Vec<Shape<'a>>,
    /// With the place of the caller.
    lines: Vec<(Option<usize>, Line)>,
}

impl<'a> Drawing<'a> {
    fn draw(&mut self, plan: &'a Plan, within: Option<usize>, depth: u32) -> Result<(), TooLarge> {
        let mut places = BTreeMap::new();
        let start = self.add(Shape::edge_of_graph(START, within))?;
        let mut edges = vec![(start, plan.start_edges())];
        for name in breadth_first(plan) {
            let Some(node) = plan.nodes.get(name) else { continue };
            let called = called(node).and_then(|graph| self.root.children.get(graph)).filter(|_| depth > 1);
            let shape = Shape {
                within,
                open: called.is_some(),
                name,
                kind: node.job.kind,
                description: node.description.as_deref(),
                join: plan.joins(name),
            };
            let place = self.add(shape)?;
            places.insert(Target::Node(name.to_owned()), place);
            edges.push((place, node.edges()));
            if let Some(called) = called {
                self.draw(called, Some(place), depth - 1)?;
            }
        }
        places.insert(Target::End, self.add(Shape::edge_of_graph(END, within))?);
        for (source, edges) in edges {
            let lines = edges.into_iter().filter_map(|Edge { to, condition, fan_out, error }| {
                let target = *places.get(&to)?;
                Some((within, Line { source, target, condition, fan_out, error }))
            });
            self.lines.extend(lines);
        }
        Ok(())
    }

    /// Adds a shape, and returns its place.
    fn add(&mut self, shape: Shape<'a>) -> Result<usize, TooLarge> {
        if self.shapes.len() == MOST_NODES {
            return Err(TooLarge::Nodes { graph: self.root.graph.clone() });
        }
        self.shapes.push(shape);
        Ok(self.shapes.len() - 1)
    }
}

impl<'a> Shape<'a> {
    /// Where a graph begins or ends.
    fn edge_of_graph(name: &'a str, within: Option<usize>) -> Self {
        Self { within, open: false, name, kind: name, description: None, join: false }
    }
}

/// Returns the name of the graph that a node runs.
fn called(node: &PlanNode) -> Option<&str> {
    let work = match &node.job.work {
        Work::Map(each) => &each.job.work,
        work => work,
    };
    match work {
        Work::Graph(call) => Some(&call.graph),
        Work::Tool(tool, _) => match &tool.body {
            ToolBody::Graph(graph) => Some(graph),
            ToolBody::Call(_) => None,
        },
        Work::Node(_) | Work::Ask(_) | Work::Map(_) => None,
    }
}

/// Returns every node's name: as the start reaches them, in the order written, then the others by name.
fn breadth_first(plan: &Plan) -> Vec<&str> {
    let mut order: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut targets: Vec<Target> = plan.start_edges().into_iter().map(|e| e.to).collect();
    let mut at = 0;
    loop {
        for target in targets {
            if let Target::Node(name) = target
                && let Some((name, _)) = plan.nodes.get_key_value(&name)
                && seen.insert(name)
            {
                order.push(name);
            }
        }
        let Some(node) = order.get(at).and_then(|name| plan.nodes.get(*name)) else { break };
        at += 1;
        targets = node.edges().into_iter().map(|e| e.to).collect();
    }
    order.extend(plan.nodes.keys().filter(|name| !seen.contains(name)).map(String::as_str));
    order
}

/// Makes any text safe inside a quoted Mermaid label, cut to a size that a box can hold.
///
/// Numeric entities only: named ones are escaped twice by hosts that draw without HTML.
fn escape(label: &str) -> String {
    let mut chars: Vec<char> = label.trim().replace("\r\n", "\n").chars().collect();
    if chars.len() > LONGEST_LABEL {
        chars.truncate(LONGEST_LABEL - 1);
        chars.push('…');
    }
    let mut out = String::new();
    for (at, &c) in chars.iter().enumerate() {
        let (before, after) = chars.split_at(at);
        match c {
            '\n' | '\r' | '\u{2028}' | '\u{2029}' => out.push_str("<br/>"),
            c if c.is_control() => out.push(' '),
            c if is_plain(before, c, after.get(1).copied()) => out.push(c),
            // The number's own `#` and `;` are written last, so that nothing is escaped twice.
            c => {
                let _ok = write!(out, "#{};", u32::from(c));
            }
        }
    }
    // An empty label is a syntax error.
    if out.is_empty() { " ".into() } else { out }
}

/// Says whether a character means only itself, at its place.
///
/// What does not: quotes end the label, `#` and `&` begin entities, `<` HTML, `\n` written out a line break, `$$`
/// mathematics, `fa:` an icon, `%%{` a directive that configures the page even inside a label, `style x:#` on one
/// line loses its last semicolon, and U+FB02 and U+00B6 mask entities inside Mermaid. Mermaid 11 reads every label as
/// Markdown and replaces what it does not draw (lists, links) by a message.
fn is_plain(before: &[char], c: char, after: Option<char>) -> bool {
    let in_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    match c {
        '_' => in_word(before.last().copied()) && in_word(after),
        '-' | '+' => !before.is_empty(),
        '.' | ')' => !before.iter().all(char::is_ascii_digit) && !before.ends_with(&['w', 'w', 'w']),
        ' ' | ',' | '(' | '=' | '!' | '\'' | '/' | '?' => true,
        c => !matches!(c, '\u{fb02}' | '\u{b6}') && !c.is_ascii_punctuation(),
    }
}

#[cfg(test)]
mod tests;
