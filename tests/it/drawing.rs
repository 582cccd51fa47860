//! Drawings, as the real Mermaid reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::expr::Expr;
use graphloom::node::Set;
use graphloom::plan::{Catch, GraphCall, Job, Next, Pattern, Plan, PlanNode, Rule, Target, Work};
use graphloom::render::{self, mermaid};
use graphloom::spec::load;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value as Json, json};

/// Lets Mermaid read texts, and returns what it understood of each.
fn read_by_mermaid(texts: &[String]) -> Vec<Json> {
    let mut npm = Command::new("npm")
        .args(["run", "--silent", "mermaid"])
        .current_dir("tests/clients")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("npm runs; `scripts/test` installs it");
    npm.stdin.take().unwrap().write_all(json!(texts).to_string().as_bytes()).unwrap();
    let output = npm.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\nwhen nothing is installed, run `npm ci` in tests/clients");
    let answer: Json = serde_json::from_slice(&output.stdout).unwrap();
    answer["drawings"].as_array().unwrap().clone()
}

fn node(next: Next) -> PlanNode {
    PlanNode::new(Job::new("set", Work::Node(Arc::new(Set::default()))), next)
}

fn calls(graph: &str) -> PlanNode {
    let call = GraphCall { graph: graph.into(), with: indexmap::IndexMap::new(), keeps: false };
    PlanNode::new(Job::new("graph", Work::Graph(Arc::new(call))), Next::To(Target::End))
}

fn plan(start: Next, nodes: BTreeMap<String, PlanNode>) -> Plan {
    Plan { nodes, ..Plan::new("drawing", start) }.seal()
}

/// Makes texts of pieces that mean something to Mermaid, to Markdown or to a browser, and of any other characters.
fn hostile() -> impl Strategy<Value = String> {
    let known: Vec<String> = [
        "style x:#f00;¦classDef a:#1;¦%%{init: {}}%%¦%%¦fa:fa-ban¦$$x$$¦`b`¦\\n¦#34;¦&amp;¦<b>¦\"¦ﬂ°°34¶ß¦__a__¦*b*¦~~~",
        "1. x¦- y¦[a](b)¦http://x.y¦www.a.b¦end¦graph¦}}¦]]¦)¦|¦;¦^¦@{¦:::¦-->¦🦀¦日本¦ ",
    ]
    .iter()
    .flat_map(|row| row.split('¦').map(str::to_owned))
    .collect();
    let piece = prop_oneof![4 => proptest::sample::select(known), 1 => "[^\\p{C}\\p{Z}]"];
    proptest::collection::vec(piece, 1..4)
        .prop_map(|pieces| pieces.concat().trim().to_owned())
        .prop_filter("an empty name", |text| !text.is_empty())
}

#[test]
fn mermaid_reads_every_label_as_it_was_written() {
    let mut runner = TestRunner::deterministic();
    let names: BTreeSet<String> =
        (0..600).map(|_| hostile().new_tree(&mut runner).unwrap().current()).collect();
    let names: Vec<String> = names.into_iter().filter(|name| name.chars().count() <= 45).collect();
    let texts = names.chunks(100).map(|names| {
        let cases = names.iter().map(|name| (json!(name), Next::To(Target::Node(name.clone())))).collect();
        let start = Next::Rules(vec![Rule::Match(Expr::parse("state.x").unwrap(), cases)]);
        // Every other one is a box with a graph inside.
        let boxes = [false, true].into_iter().cycle();
        let nodes = names.iter().zip(boxes).map(|(name, a_box)| {
            (name.clone(), if a_box { calls("inner") } else { node(Next::To(Target::End)) })
        });
        let mut plan = plan(start, nodes.collect());
        plan.children.insert("inner".to_owned(), Arc::new(Plan::new("inner", Next::To(Target::End))));
        mermaid(&plan, 2).unwrap()
    });
    let drawings = read_by_mermaid(&texts.collect::<Vec<_>>());
    let mut read = Vec::new();
    for drawing in &drawings {
        for node in drawing["nodes"].as_array().unwrap() {
            let label = node["label"].as_str().unwrap();
            if let Some(name) = label.strip_suffix("\nset").or_else(|| label.strip_suffix("\ngraph")) {
                let to_it = |edge: &&Json| edge["target"] == node["id"];
                let edge = drawing["edges"].as_array().unwrap().iter().find(to_it).unwrap();
                assert_eq!(edge["label"], format!("state.x = {name}"));
                read.push(name.to_owned());
            }
        }
    }
    read.sort();
    assert_eq!(read, names);
}

#[test]
fn mermaid_reads_the_graphs_of_this_project() {
    let mut bag = Bag::default();
    let folder = load(Path::new("graphs"), &mut bag).unwrap();
    let catalog = compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
    let catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
    let mut errors = plan(
        Next::To(Target::Node("ask".into())),
        ["ask", "sorry"].map(|name| (name.to_owned(), node(Next::To(Target::End)))).into(),
    );
    let sorry = Target::Node("sorry".into());
    errors.on_limit = Some(sorry.clone());
    let catch = Catch { errors: Some(vec![Pattern::Kind("timeout".into())]), to: sorry };
    errors.nodes.get_mut("ask").unwrap().on_error.push(catch);
    let compiled = catalog.graphs.values().map(|compiled| &*compiled.plan);
    let plans: Vec<&Plan> = compiled.chain([&errors]).collect();
    let drawn = plans.iter().flat_map(|plan| [1, 10].map(|depth| (*plan, depth)));
    let drawn: Vec<(&Plan, u32)> = drawn.collect();
    let texts: Vec<String> = drawn.iter().map(|(plan, depth)| mermaid(plan, *depth).unwrap()).collect();
    let mut within = 0;
    for ((plan, depth), drawing) in drawn.into_iter().zip(read_by_mermaid(&texts)) {
        let expected = render::json(plan, depth).unwrap();
        let sizes = |drawing: &Json| ["nodes", "edges"].map(|part| drawing[part].as_array().unwrap().len());
        assert_eq!(sizes(&drawing), sizes(&expected), "{}", plan.graph);
        let read = drawing["nodes"].as_array().unwrap();
        for expected in expected["nodes"].as_array().unwrap() {
            let node = read.iter().find(|node| node["id"] == expected["id"]).unwrap();
            assert_eq!(node["label"].as_str().unwrap().lines().next(), expected["name"].as_str());
            assert_eq!(node["parent"], expected["parent"], "{}: {node}", plan.graph);
            within += usize::from(node["parent"].is_string());
        }
    }
    assert!(within > 0, "the graphs of the project call others");
}
