//! The drawing of a graph: Mermaid text for people, nodes and edges for programs.
//!
//! Invariant: pure; the same plan gives the same bytes, and no name or condition can break or steer the drawing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Map, Value as Json, json};

use crate::plan::{END, Edge, Plan, START, Target};

/// Mermaid refuses to parse more than 500 edges, and only the page that hosts it may raise that.
const MOST_EDGES: usize = 450;
/// Mermaid shows an error picture above 50 000 characters.
const MOST_BYTES: usize = 45_000;
/// Longer labels make boxes that no longer fit beside each other; the JSON form has the whole text.
const LONGEST_LABEL: usize = 60;

/// The drawing would be refused by Mermaid hosts, whose limits a document cannot raise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    /// Too many edges.
    #[error(
        "draw `{graph}`: {edges} edges, but Mermaid hosts refuse more than 500 and graphloom draws at most \
         {MOST_EDGES}; move a part into a graph of its own (`kind: graph`), or take the JSON format"
    )]
    Edges {
        /// The graph.
        graph: String,
        /// How many it has.
        edges: usize,
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

/// Draws a graph as a Mermaid flowchart that GitHub shows.
///
/// Never puts out front-matter, clicks or anything else that needs a recent or a trusting host.
pub fn mermaid(plan: &Plan) -> Result<String, TooLarge> {
    let (shapes, lines) = drawing(plan);
    if lines.len() > MOST_EDGES {
        return Err(TooLarge::Edges { graph: plan.graph.clone(), edges: lines.len() });
    }
    let mut text = String::from("flowchart TD\n");
    let mut classes: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (id, node) in shapes.iter().enumerate() {
        let look = LOOKS.iter().find(|l| l.kind == node.kind).unwrap_or(&PLAIN);
        let mut label = escape(node.name);
        if node.kind != node.name {
            label += "<br/>";
            label += &escape(node.kind);
        }
        if node.join {
            label += ", joins";
        }
        line(&mut text, format_args!("n{id}{}\"{label}\"{}", look.open, look.close));
        if !look.kind.is_empty() {
            classes.entry(look.kind).or_default().push(format!("n{id}"));
        }
    }
    for Line { source, target, condition, fan_out } in &lines {
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

/// Gives nodes and edges with whole texts; ids are those of [`mermaid`].
pub fn json(plan: &Plan) -> Json {
    let (shapes, lines) = drawing(plan);
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
            fields.into()
        })
        .collect();
    json!({ "nodes": nodes, "edges": edges })
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    // Writing into a `String` cannot fail.
    let _ok = writeln!(text, "    {content}");
}

/// Lists what is drawn: the start, the nodes breadth-first from it, unreachable ones by name, the end.
fn drawing(plan: &Plan) -> (Vec<Shape<'_>>, Vec<Line>) {
    let order = breadth_first(plan);
    let mut places: BTreeMap<Target, usize> =
        order.iter().enumerate().map(|(at, name)| (Target::Node((*name).to_owned()), at + 1)).collect();
    places.insert(Target::End, order.len() + 1);

    let mut shapes = vec![Shape { name: START, kind: START, description: None, join: false }];
    let mut lines = Vec::new();
    let mut connect = |source: usize, edges: Vec<Edge>| {
        lines.extend(edges.into_iter().filter_map(|Edge { to, condition, fan_out }| {
            places.get(&to).map(|&target| Line { source, target, condition, fan_out })
        }));
    };
    connect(0, plan.start.edges());
    for (at, name) in order.iter().enumerate() {
        let Some(node) = plan.nodes.get(*name) else { continue };
        shapes.push(Shape {
            name,
            kind: node.kind,
            description: node.description.as_deref(),
            join: plan.joins(name),
        });
        connect(at + 1, node.edges());
    }
    shapes.push(Shape { name: END, kind: END, description: None, join: false });
    (shapes, lines)
}

/// Returns every node's name: as the start reaches them, in the order written, then the others by name.
fn breadth_first(plan: &Plan) -> Vec<&str> {
    let mut order: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut targets: Vec<Target> = plan.start.edges().into_iter().map(|e| e.to).collect();
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
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use indexmap::IndexMap;
    use proptest::prelude::*;

    use super::*;
    use crate::expr::Expr;
    use crate::node::{Retry, Set};
    use crate::plan::{Limits, Next, Output, PlanNode, Rule};

    fn to(name: &str) -> Target {
        if name == END { Target::End } else { Target::Node(name.to_owned()) }
    }

    fn node(kind: &'static str, next: Next) -> PlanNode {
        PlanNode {
            kind,
            description: None,
            node: Arc::new(Set::default()),
            next,
            max_visits: None,
            join_all: true,
            retry: Retry::default(),
            timeout: Duration::MAX,
        }
    }

    fn plan(start: Next, nodes: impl IntoIterator<Item = (&'static str, PlanNode)>) -> Plan {
        Plan {
            graph: "test".into(),
            hash: String::new(),
            description: None,
            channels: BTreeMap::new(),
            messages: None,
            input: IndexMap::new(),
            output: Output::Public,
            start,
            nodes: nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect(),
            limits: Limits::default(),
            joining: BTreeSet::new(),
        }
        .seal()
    }

    fn when(source: &str, target: &str) -> Rule {
        Rule::When(Expr::parse(source).unwrap(), Next::To(to(target)))
    }

    /// Returns the lines of the drawing without header and classes.
    fn body(plan: &Plan) -> Vec<String> {
        let text = mermaid(plan).unwrap();
        let lines = text.lines().skip(1).map(|line| line.trim_start().to_owned());
        lines.filter(|line| !line.starts_with("class")).collect()
    }

    /// A graph with every sort of edge: a fan-out, a join, conditions, a bounded loop.
    fn example() -> Plan {
        let mut draft = node(
            "llm",
            Next::Rules(vec![when("state.score > 3", "publish"), Rule::Else(Next::To(to("search")))]),
        );
        draft.max_visits = Some((3, to("give_up")));
        draft.description = Some("Writes \"it\".".into());
        plan(
            Next::All(vec![to("search"), to("news")]),
            [
                ("search", node("tool", Next::To(to("draft")))),
                ("news", node("http", Next::To(to("draft")))),
                ("draft", draft),
                ("publish", node("say", Next::To(to("end")))),
                ("give_up", node("fail", Next::To(to("end")))),
                ("aside", node("route", Next::To(to("end")))),
            ],
        )
    }

    #[test]
    fn the_drawing_is_exact() {
        let expected = r#"flowchart TD
    n0(["start"])
    n1[["search<br/>tool, joins"]]
    n2[["news<br/>http"]]
    n3["draft<br/>llm, joins"]
    n4("publish<br/>say")
    n5>"give_up<br/>fail"]
    n6{"aside<br/>route"}
    n7(["end"])
    n0 ==> n1
    n0 ==> n2
    n1 --> n3
    n2 --> n3
    n3 -. "state.score #62; 3" .-> n4
    n3 -. "else" .-> n1
    n3 -. "after 3 visits" .-> n5
    n4 --> n7
    n6 --> n7
    classDef k_start stroke:#64748b,stroke-width:2px
    class n0 k_start
    classDef k_llm stroke:#2563eb,stroke-width:2px
    class n3 k_llm
    classDef k_tool stroke:#b45309,stroke-width:2px
    class n1 k_tool
    classDef k_http stroke:#0f766e,stroke-width:2px
    class n2 k_http
    classDef k_say stroke:#2563eb,stroke-width:1px
    class n4 k_say
    classDef k_route stroke:#64748b,stroke-width:1px
    class n6 k_route
    classDef k_fail stroke:#dc2626,stroke-width:2px
    class n5 k_fail
    classDef k_end stroke:#64748b,stroke-width:2px
    class n7 k_end
"#;
        assert_eq!(mermaid(&example()).unwrap(), expected);
    }

    #[test]
    fn the_json_names_what_the_drawing_shows() {
        let drawing = json(&example());
        let text = |place: &str| drawing.pointer(place).cloned().unwrap_or_default();
        assert_eq!(text("/nodes/0"), json!({"id": "n0", "name": "start", "kind": "start"}));
        let draft = json!({
            "id": "n3", "name": "draft", "kind": "llm", "description": "Writes \"it\".", "join": true,
        });
        assert_eq!(text("/nodes/3"), draft);
        assert_eq!(text("/nodes/7"), json!({"id": "n7", "name": "end", "kind": "end"}));
        let fan = json!({"source": "n0", "target": "n1", "conditional": false, "fan_out": true});
        assert_eq!(text("/edges/0"), fan);
        let loop_exit = json!({
            "source": "n3", "target": "n5", "condition": "after 3 visits", "conditional": true, "fan_out": false,
        });
        assert_eq!(text("/edges/6"), loop_exit);
    }

    /// Every one of these once broke a drawing, changed a page or showed something else.
    #[test]
    fn a_label_means_only_itself() {
        let check = |label: &str, escaped: &str| assert_eq!(escape(label), escaped, "{label}");
        check("give_up", "give_up");
        check("a < b and c != 'x'", "a #60; b and c != 'x'");
        check(r#"say "no" # & `x`"#, "say #34;no#34; #35; #38; #96;x#96;");
        check("one\ntwo\r\nthree", "one<br/>two<br/>three");
        check(r"not\na line", "not#92;na line");
        check("#34;", "#35;34#59;");
        check("$$x$$", "#36;#36;x#36;#36;");
        check("fa:fa-ban", "fa#58;fa-ban");
        check("%%{init: x}%%", "#37;#37;#123;init#58; x#125;#37;#37;");
        check("style a:#f00", "style a#58;#35;f00");
        check("__start__", "#95;#95;start#95;#95;");
        check("1. first", "1#46; first");
        check("- x", "#45; x");
        check("a*b*c", "a#42;b#42;c");
        check("[x](y)", "#91;x#93;(y)");
        check("www.example.com", "www#46;example.com");
        check("a\u{fb02}°°34¶ßb", "a#64258;°°34#182;ßb");
        check("a\0\tb", "a  b");
        check("日本 😀 é", "日本 😀 é");
        check("  ", " ");
        check("", " ");
    }

    #[test]
    fn a_long_label_is_cut_before_it_is_escaped() {
        let label = escape(&"é".repeat(61));
        assert_eq!(label.chars().count(), 60);
        assert!(label.ends_with('…'));
        assert_eq!(escape(&"<".repeat(60)), "#60;".repeat(60));
        assert_eq!(escape(&"<".repeat(61)), "#60;".repeat(59) + "…");
    }

    #[test]
    fn words_of_mermaid_are_names_like_others() {
        let next = || Next::To(to("end"));
        let names = ["graph", "subgraph", "class", "click", "a b", "start"];
        let plan = plan(Next::To(to("graph")), names.map(|name| (name, node("graph", next()))));
        let lines = body(&plan);
        assert_eq!(lines[1], r#"n1[["graph"]]"#);
        assert_eq!(lines[2], r#"n2[["a b<br/>graph"]]"#);
        assert_eq!(lines[5], r#"n5[["start<br/>graph"]]"#);
        assert!(lines.contains(&"n5 --> n7".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_conditional_fan_out_shows_both() {
        let arms =
            vec![(Expr::parse("state.a").unwrap(), to("a")), (Expr::parse("state.b").unwrap(), to("b"))];
        let start = Next::Some(arms, Box::new(Next::To(to("end"))));
        let plan = plan(start, ["b", "a"].map(|name| (name, node("set", Next::To(to("end"))))));
        let expected = [
            r#"n0(["start"])"#,
            r#"n1[("a<br/>set")]"#,
            r#"n2[("b<br/>set")]"#,
            r#"n3(["end"])"#,
            r#"n0 == "state.a" ==> n1"#,
            r#"n0 == "state.b" ==> n2"#,
            r#"n0 -. "else" .-> n3"#,
            "n1 --> n3",
            "n2 --> n3",
        ];
        assert_eq!(body(&plan), expected);
    }

    #[test]
    fn a_kind_of_the_host_program_is_drawn_without_a_class() {
        let plan = plan(Next::To(to("a")), [("a", node("my kind", Next::To(to("end"))))]);
        assert_eq!(body(&plan)[1], r#"n1["a<br/>my kind"]"#);
        assert!(!mermaid(&plan).unwrap().contains("my kind,") && !mermaid(&plan).unwrap().contains("k_my"));
    }

    /// An unsealed graph of `width` routes that all lead to the end: `2 * width` edges.
    fn wide(width: usize, name: impl Fn(usize) -> String) -> Plan {
        let mut wide = plan(Next::All((0..width).map(|at| Target::Node(name(at))).collect()), []);
        wide.nodes = (0..width).map(|at| (name(at), node("route", Next::To(Target::End)))).collect();
        wide
    }

    #[test]
    fn more_than_a_host_draws_is_refused_with_advice() {
        assert!(mermaid(&wide(225, |at| format!("n{at}"))).is_ok());
        let edges = mermaid(&wide(226, |at| format!("n{at}"))).unwrap_err();
        assert_eq!(edges, TooLarge::Edges { graph: "test".into(), edges: 452 });
        assert!(edges.to_string().contains("`kind: graph`"), "{edges}");
        let bytes = mermaid(&wide(200, |at| "<".repeat(59) + &at.to_string())).unwrap_err();
        assert!(matches!(bytes, TooLarge::Bytes { bytes: 45_001.., .. }), "{bytes}");
        assert_eq!(json(&wide(400, |at| format!("n{at}")))["edges"].as_array().unwrap().len(), 800);
    }

    proptest! {
        #[test]
        fn no_label_leaves_its_quotes(label in "\\PC*|.*|[\"#;:%{}<>&`$\\\\n_*.-]*") {
            let escaped = escape(&label);
            prop_assert!(!escaped.is_empty());
            let bare = escaped.replace("<br/>", "");
            prop_assert!(!bare.contains(['"', '<', '>', '&', '\n', '\r', '`', '%', '$', ':', '\\']), "{}", escaped);
            // Every `#` begins a number that ends.
            for part in bare.split('#').skip(1) {
                let (number, _) = part.split_once(';').unwrap();
                prop_assert!(number.parse::<u32>().is_ok_and(|n| char::from_u32(n).is_some()), "{}", escaped);
            }
        }
    }
}
