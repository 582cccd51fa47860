//! What a superstep costs without a store: planning, and folding the results of no-op nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use graphloom::engine::step::{Finished, apply, begin, plan_step};
use graphloom::event::Usage;
use graphloom::id::RunId;
use graphloom::node::{RunFacts, Set};
use graphloom::plan::{Job, Next, Plan, PlanNode, Target, Work};
use graphloom::state::{Channel, Field, Merge, State, Type, Write};
use serde_json::{Value as Json, json};

fn node(next: Next) -> PlanNode {
    PlanNode::new(Job::new("set", Work::Node(Arc::new(Set::default()))), next)
}

fn plan(start: Next, nodes: BTreeMap<String, PlanNode>) -> Plan {
    let list = Field { ty: Type::List(Box::new(Type::Any)), default: None, description: None };
    let log = Channel { field: list, merge: Merge::Append, private: false, per_run: false };
    Plan { channels: BTreeMap::from([("log".to_owned(), log)]), nodes, ..Plan::new("bench", start) }.seal()
}

fn superstep(c: &mut Criterion) {
    let run = RunId::default();
    let input = Arc::new(json!({}));
    let facts =
        RunFacts { id: run, step: 1, steps_left: 1, user_text: "".into(), now: chrono::DateTime::default() };
    let to = |name: &str| Target::Node(name.to_owned());
    let mut group = c.benchmark_group("superstep");
    for history in [0_usize, 10_000] {
        let line = plan(Next::To(to("a")), BTreeMap::from([("a".to_owned(), node(Next::To(to("a"))))]));
        let mut state = State::initial(&line.channels);
        let items: Vec<Json> = (0..history).map(|n| json!({"n": n})).collect();
        let writes = [(
            graphloom::id::TaskId("t".into()),
            vec![Write::Put { channel: "log".into(), value: json!(items) }],
        )];
        state = graphloom::state::fold(&line.channels, &state, &writes).expect("the log takes a list").0;
        let frontier = begin(&line, &state, &input, &facts).expect("a plain edge").0;
        group.bench_function(BenchmarkId::new("one no-op node, items in the state", history), |b| {
            b.iter(|| {
                let step = plan_step(&line, run, &frontier, 1).expect("one task");
                let results = vec![Ok(Finished { writes: Vec::new(), usage: Usage::default() })];
                apply(&line, &state, &frontier, &step, results, &input, &facts).expect("no writes")
            });
        });
        group.bench_function(BenchmarkId::new("one appended item, items in the state", history), |b| {
            b.iter(|| {
                let step = plan_step(&line, run, &frontier, 1).expect("one task");
                let writes = vec![Write::Put { channel: "log".into(), value: json!({"n": 1}) }];
                let results = vec![Ok(Finished { writes, usage: Usage::default() })];
                apply(&line, &state, &frontier, &step, results, &input, &facts).expect("an append")
            });
        });
    }
    let names: Vec<String> = (0..1000).map(|n| format!("n{n}")).collect();
    let mut nodes: BTreeMap<String, PlanNode> =
        names.iter().map(|name| (name.clone(), node(Next::To(to("join"))))).collect();
    nodes.insert("join".to_owned(), node(Next::To(Target::End)));
    let wide = plan(Next::All(names.iter().map(|n| to(n)).collect()), nodes);
    let state = State::initial(&wide.channels);
    let frontier = begin(&wide, &state, &input, &facts).expect("a fan-out").0;
    group.bench_function("a fan-out of 1 000 no-op nodes", |b| {
        b.iter(|| {
            let step = plan_step(&wide, run, &frontier, 1).expect("1 000 tasks");
            let results =
                vec![Ok(Finished { writes: Vec::new(), usage: Usage::default() }); step.tasks.len()];
            apply(&wide, &state, &frontier, &step, results, &input, &facts).expect("no writes")
        });
    });
    group.finish();
}

criterion_group!(benches, superstep);
criterion_main!(benches);
