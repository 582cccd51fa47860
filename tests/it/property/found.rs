//! What the properties found, each as the smallest graph that shows it.

use super::mortal::Death;
use super::play::{Lab, On, Played};

fn play(graph: &str) -> Played {
    let lab = Lab::new();
    let project = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n";
    let files = [("project.yaml", project.to_owned()), ("root.yaml", graph.to_owned())];
    let ready = lab.ready(&files).unwrap_or_else(|(_, text)| panic!("{text}"));
    ready.play(On::Memory, 1, Death::Never)
}

/// They were ordered by what their errors say: by the code, then by the message.
#[test]
fn tasks_of_one_node_are_ordered_by_the_tasks_that_sent_them() {
    let graph = "\
format: 1
state: {messages: messages, log: {type: [string], merge: append}}
start: {all: [x, y]}
nodes:
  x: {kind: fail, error: late, code: z, on_error: first}
  y: {kind: fail, error: early, code: a, on_error: first}
  first: {kind: set, set: {log: \"'first ' ~ error.node\"}, next: then}
  then: {kind: set, set: {log: \"'then ' ~ error.node\"}, next: end}
output: [log]
";
    let told = play(graph).told;
    let log = &told.barriers.last().unwrap().state["log"];
    assert_eq!(*log, serde_json::json!(["first x", "first y", "then x", "then y"]));
}

/// It ran again beside its own open question, although the answer leads back to it.
#[test]
fn a_join_waits_for_its_own_open_question_when_a_way_leads_from_it_to_itself() {
    let graph = "\
format: 1
state: {messages: messages, n: {type: integer, merge: add}, log: {type: [string], merge: append}}
start: {all: [ask, work]}
nodes:
  ask: {kind: ask, who: agent, question: \"After {{ state.n }}?\", into: {log: result}, next: work}
  work: {kind: set, set: {n: 1}, next: ask, max_visits: 2, on_max: end}
output: [n, log]
";
    let asked = play(graph).told.asked;
    assert_eq!(asked, [["After 0?"], ["After 1?"]]);
}

/// It was taken for a circle: the join waits until the other branch is sent to the end, and is then spent itself.
#[test]
fn bounded_nodes_that_wait_for_one_another_may_be_spent_one_after_another() {
    let graph = "\
format: 1
state: {messages: messages, n: {type: integer, merge: add}}
start: again
nodes:
  again: {kind: set, set: {n: 1}, next: {all: [work, again]}, max_visits: 2, on_max: work}
  work: {kind: set, set: {n: 1}, next: end, max_visits: 1, on_max: end, on_error: again}
output: [n]
";
    let told = play(graph).told;
    assert_eq!((told.failed, told.begun.len()), (None, 3));
}
