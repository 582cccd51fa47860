//! What a superstep costs without a store: planning, and folding the results of no-op nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use graphloom::engine::step::{Ended, Replies, UNSOUGHT, Worked, World, apply, begin, plan_step};
use graphloom::id::RunId;
use graphloom::node::{Done, RunFacts, Set};
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

#[expect(clippy::unnecessary_wraps, reason = "a barrier takes what may be missing")]
fn done(writes: Vec<Write>) -> Ended {
    Some(Worked::new(1, Ok(Done { writes, ..Done::default() }.into())))
}

fn world<'a>(root: &'a Plan, facts: &'a RunFacts, replies: &'a Replies) -> World<'a> {
    World { root, facts, replies, found: &UNSOUGHT, number: 1 }
}

fn superstep(c: &mut Criterion) {
    let run = RunId::default();
    let input = Arc::new(json!({}));
    let facts =
        RunFacts { id: run, step: 1, steps_left: 1, user_text: "".into(), now: chrono::DateTime::default() };
    let replies = Replies::new();
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
                let step = plan_step(world(&line, &facts, &replies), &state, &input, &frontier)
                    .expect("one task")
                    .step;
                let results = vec![done(Vec::new())];
                apply(world(&line, &facts, &replies), &state, &input, &frontier, step, results)
                    .expect("no writes")
            });
        });
        group.bench_function(BenchmarkId::new("one appended item, items in the state", history), |b| {
            b.iter(|| {
                let step = plan_step(world(&line, &facts, &replies), &state, &input, &frontier)
                    .expect("one task")
                    .step;
                let writes = vec![Write::Put { channel: "log".into(), value: json!({"n": 1}) }];
                let results = vec![done(writes)];
                apply(world(&line, &facts, &replies), &state, &input, &frontier, step, results)
                    .expect("an append")
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
            let step = plan_step(world(&wide, &facts, &replies), &state, &input, &frontier)
                .expect("1 000 tasks")
                .step;
            let results = vec![done(Vec::new()); step.tasks.len()];
            apply(world(&wide, &facts, &replies), &state, &input, &frontier, step, results)
                .expect("no writes")
        });
    });
    group.finish();
}

criterion_group!(benches, superstep);
criterion_main!(benches);
