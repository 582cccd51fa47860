use std::sync::Arc;

use indexmap::IndexMap;
use proptest::prelude::*;

use super::*;
use crate::expr::Expr;
use crate::node::Set;
use crate::plan::{Catch, GraphCall, Job, Next, Pattern, PlanNode, Rule, Work};

fn to(name: &str) -> Target {
    if name == END { Target::End } else { Target::Node(name.to_owned()) }
}

fn node(kind: &'static str, next: Next) -> PlanNode {
    PlanNode::new(Job::new(kind, Work::Node(Arc::new(Set::default()))), next)
}

fn plan(start: Next, nodes: impl IntoIterator<Item = (&'static str, PlanNode)>) -> Plan {
    let nodes = nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect();
    Plan { nodes, ..Plan::new("test", start) }.seal()
}

fn when(source: &str, target: &str) -> Rule {
    Rule::When(Expr::parse(source).unwrap(), Next::To(to(target)))
}

/// Returns the lines of the drawing without header and classes.
fn body(plan: &Plan) -> Vec<String> {
    let text = mermaid(plan, 1).unwrap();
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
    assert_eq!(mermaid(&example(), 1).unwrap(), expected);
}

#[test]
fn the_json_names_what_the_drawing_shows() {
    let drawing = json(&example(), 1).unwrap();
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
    let arms = vec![(Expr::parse("state.a").unwrap(), to("a")), (Expr::parse("state.b").unwrap(), to("b"))];
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
fn an_error_edge_is_dashed_red_and_names_its_errors() {
    let mut ask = node("llm", Next::To(to("end")));
    let kinds = vec![Pattern::Kind("timeout".into()), Pattern::Code("busy".into())];
    ask.on_error = vec![Catch { errors: Some(kinds), to: to("wait") }, Catch { errors: None, to: to("end") }];
    let mut stop = node("fail", Next::To(to("end")));
    stop.on_error = vec![Catch { errors: None, to: to("wait") }];
    let wait = node("say", Next::To(to("end")));
    let mut plan =
        plan(Next::All(vec![to("ask"), to("stop")]), [("ask", ask), ("stop", stop), ("wait", wait)]);
    plan.on_limit = Some(to("wait"));
    let expected = [
        "n0 ==> n1",
        "n0 ==> n2",
        r#"n0 -. "on_limit" .-> n3"#,
        "n1 --> n4",
        r#"n1 -. "on_error#58; timeout, code busy" .-> n3"#,
        r#"n1 -. "on_error" .-> n4"#,
        r#"n2 -. "on_error" .-> n3"#,
        "n3 --> n4",
        "linkStyle 2,4,5,6 stroke:#dc2626",
    ];
    assert_eq!(body(&plan)[5..], expected);
    let edge = json!({
        "source": "n1", "target": "n3", "condition": "on_error: timeout, code busy", "conditional": true,
        "fan_out": false, "error": true,
    });
    assert_eq!(json(&plan, 1).unwrap()["edges"][4], edge);
}

/// A node that runs another graph.
fn calls(graph: &str, next: Next) -> PlanNode {
    let call = GraphCall { graph: graph.into(), with: IndexMap::new(), keeps: false };
    PlanNode::new(Job::new("graph", Work::Graph(Arc::new(call))), next)
}

/// `twice` calls `inner` two times, which calls itself.
fn nested() -> Plan {
    let inner = plan(Next::To(to("again")), [("again", calls("inner", Next::To(to("end"))))]);
    let mut outer = plan(
        Next::To(to("one")),
        [("one", calls("inner", Next::To(to("two")))), ("two", calls("inner", Next::To(to("end"))))],
    );
    outer.nodes.get_mut("one").unwrap().on_error = vec![Catch { errors: None, to: to("two") }];
    outer.children = BTreeMap::from([("inner".to_owned(), Arc::new(inner))]);
    outer
}

#[test]
fn a_called_graph_is_drawn_inside_of_its_caller_as_deep_as_it_is_asked_for() {
    let expected = [
        r#"n0(["start"])"#,
        r#"subgraph n1["one<br/>graph"]"#,
        r#"n2(["start"])"#,
        r#"n3[["again<br/>graph"]]"#,
        r#"n4(["end"])"#,
        "end",
        r#"subgraph n5["two<br/>graph"]"#,
        r#"n6(["start"])"#,
        r#"n7[["again<br/>graph"]]"#,
        r#"n8(["end"])"#,
        "end",
        r#"n9(["end"])"#,
        "n0 --> n1",
        "n1 --> n5",
        r#"n1 -. "on_error" .-> n5"#,
        "n5 --> n9",
        "n2 --> n3",
        "n3 --> n4",
        "n6 --> n7",
        "n7 --> n8",
        "linkStyle 2 stroke:#dc2626",
    ];
    let lines = |depth| {
        let text = mermaid(&nested(), depth).unwrap();
        let lines = text.lines().skip(1).map(|line| line.trim_start().to_owned());
        lines.filter(|line| !line.starts_with("class")).collect::<Vec<_>>()
    };
    assert_eq!(lines(2), expected);
    assert_eq!(lines(1)[1], r#"n1[["one<br/>graph"]]"#);
    // Two boxes that are open end one after the other.
    assert_eq!(lines(3)[6..10], [r#"n6(["end"])"#, "end", r#"n7(["end"])"#, "end"]);
    let drawing = json(&nested(), 2).unwrap();
    assert_eq!(drawing["nodes"][3], json!({"id": "n3", "name": "again", "kind": "graph", "parent": "n1"}));
    assert_eq!(drawing["nodes"][5]["parent"], Json::Null);
}

#[test]
fn levels_that_double_are_refused() {
    let inner = |name| (name, calls("inner", Next::To(to("end"))));
    let mut doubles = plan(Next::All(vec![to("one"), to("two")]), ["one", "two"].map(inner));
    doubles.children = BTreeMap::from([("inner".to_owned(), Arc::new(doubles.clone()))]);
    let most = (1..=20).find(|depth| json(&doubles, *depth).is_err());
    assert_eq!(most, Some(13), "2^12 boxes with four shapes each are more than {MOST_NODES}");
}

#[test]
fn a_kind_of_the_host_program_is_drawn_without_a_class() {
    let plan = plan(Next::To(to("a")), [("a", node("my kind", Next::To(to("end"))))]);
    assert_eq!(body(&plan)[1], r#"n1["a<br/>my kind"]"#);
    assert!(!mermaid(&plan, 1).unwrap().contains("my kind,") && !mermaid(&plan, 1).unwrap().contains("k_my"));
}

/// An unsealed graph of `width` routes that all lead to the end: `2 * width` edges.
fn wide(width: usize, name: impl Fn(usize) -> String) -> Plan {
    let mut wide = plan(Next::All((0..width).map(|at| Target::Node(name(at))).collect()), []);
    wide.nodes = (0..width).map(|at| (name(at), node("route", Next::To(Target::End)))).collect();
    wide
}

#[test]
fn more_than_a_host_draws_is_refused_with_advice() {
    assert!(mermaid(&wide(225, |at| format!("n{at}")), 1).is_ok());
    let edges = mermaid(&wide(226, |at| format!("n{at}")), 1).unwrap_err();
    assert_eq!(edges, TooLarge::Edges { graph: "test".into(), edges: 452 });
    assert!(edges.to_string().contains("`kind: graph`"), "{edges}");
    let bytes = mermaid(&wide(200, |at| "<".repeat(59) + &at.to_string()), 1).unwrap_err();
    assert!(matches!(bytes, TooLarge::Bytes { bytes: 45_001.., .. }), "{bytes}");
    assert_eq!(json(&wide(400, |at| format!("n{at}")), 1).unwrap()["edges"].as_array().unwrap().len(), 800);
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
