//! Tasks that take more than one superstep.
#![expect(clippy::unnecessary_wraps, reason = "leaves give results")]

use indexmap::IndexMap;
use serde_json::json;

use super::super::begin::LeafWork;
use super::*;
use crate::expr::{Expr, ExprTree};
use crate::node::{Answered, Retry, Round, Wanted};
use crate::plan::{
    Ask, Catch, Each, Effects, Form, GraphCall, ItemError, OnMessage, Sent, ToolBody, ToolPlan, Work,
};
use crate::template;
use crate::tool::{Call, Tool};

/// Stands for a call; the tests say what comes of it.
#[derive(Debug)]
struct Nothing;

#[async_trait::async_trait]
impl Tool for Nothing {
    async fn call(&self, _call: &Call) -> Result<Json, Failure> {
        Ok(Json::Null)
    }
}

fn expr(source: &str) -> ExprTree {
    ExprTree::Expr(Expr::parse(source).unwrap())
}

fn node(work: Work, into: &str, next: &str) -> PlanNode {
    let kind = match &work {
        Work::Node(_) => "llm",
        Work::Ask(_) => "ask",
        Work::Tool(..) => "tool",
        Work::Graph(_) => "graph",
        Work::Map(_) => "map",
    };
    let next = if next == "end" { Target::End } else { Target::Node(next.into()) };
    let into = if into.is_empty() { Sent::Nothing } else { Sent::Channel(into.into()) };
    PlanNode { into, ..PlanNode::new(Job::new(kind, work), Next::To(next)) }
}

fn leaf() -> Work {
    Work::Node(Arc::new(Set::default()))
}

fn tool(approval: bool) -> Arc<ToolPlan> {
    tool_of("t", approval, ToolBody::Call(Arc::new(Nothing)))
}

fn tool_of(name: &str, approval: bool, body: ToolBody) -> Arc<ToolPlan> {
    let args = Type::Record([("n".to_owned(), Field::of(Type::INTEGER))].into_iter().collect());
    Arc::new(ToolPlan {
        name: name.into(),
        description: String::new(),
        args,
        schema: None,
        result: Type::Any,
        approval,
        is_final: false,
        effects: crate::plan::Effects::None,
        body,
    })
}

fn ask(question: &str, timeout: Option<Target>) -> Work {
    let mut templates = template::Set::new();
    templates.add("q", question).unwrap();
    Work::Ask(Arc::new(Ask {
        templates: templates.freeze(),
        question: "q".into(),
        messages: None,
        form: Form::Text,
        timeout: timeout.map(|to| (Duration::from_mins(1), to)),
        on_message: OnMessage::Refuse,
    }))
}

fn graph(name: &str, with: &str) -> Work {
    let with = match with {
        "" => IndexMap::new(),
        source => IndexMap::from([("x".to_owned(), expr(source))]),
    };
    Work::Graph(Arc::new(GraphCall { graph: name.into(), with, keeps: true }))
}

fn map(job: Work, on_error: ItemError) -> Work {
    let job = Job::new(if matches!(job, Work::Graph(_)) { "graph" } else { "llm" }, job);
    let (over, name) = (expr("[1, 2, 3]"), "item".into());
    Work::Map(Arc::new(Each { over, name, job, at_once: None, on_error }))
}

fn plan_of(name: &str, start: &[&str], nodes: Vec<(&str, PlanNode)>) -> Plan {
    let start = start.iter().map(|name| Target::Node((*name).to_owned())).collect();
    let field = |ty| Field { ty, default: None, description: None };
    let channel = |ty, merge| Channel { field: field(ty), merge, private: false, per_run: false };
    let list = Type::List(Box::new(Type::Any));
    Plan {
        channels: BTreeMap::from([
            ("r".to_owned(), channel(Type::Any, Merge::Replace)),
            ("log".to_owned(), channel(list, Merge::Append)),
        ]),
        nodes: nodes.into_iter().map(|(name, node)| (name.to_owned(), node)).collect(),
        ..Plan::new(name, Next::All(start))
    }
}

/// A run of which only the work of its leaves and the answers of people come from outside.
struct Run {
    plan: Plan,
    state: State,
    frontier: Frontier,
    replies: Replies,
    number: u64,
    now: i64,
    /// The leaves that take so long that the time of the task around them is over.
    late: Vec<String>,
    /// The leaves of each superstep, or `-` for one without any.
    told: Vec<String>,
}

impl Run {
    fn new(plan: Plan, children: Vec<Plan>) -> Self {
        let children = children.into_iter().map(|plan| (plan.graph.clone(), Arc::new(plan.seal()))).collect();
        let plan = Plan { children, ..plan }.seal();
        let state = State::initial(&plan.channels);
        let frontier = begin(&plan, &state, &Arc::new(json!({})), &facts()).unwrap().0;
        let replies = Replies::new();
        Self { plan, state, frontier, replies, number: 0, now: 0, late: Vec::new(), told: Vec::new() }
    }

    /// Goes on until the run ends, waits or fails.
    fn go(&mut self, leaf: impl Fn(&str, &Leaf<'_>) -> Result<Outcome, Failure>) -> String {
        for _ in 0..20 {
            self.frontier = serde_json::from_str(&serde_json::to_string(&self.frontier).unwrap()).unwrap();
            let now = chrono::DateTime::from_timestamp(self.now, 0).unwrap();
            let (facts, input) = (RunFacts { now, ..facts() }, Arc::new(json!({})));
            let number = self.number + 1;
            let world =
                World { root: &self.plan, facts: &facts, replies: &self.replies, found: &UNSOUGHT, number };
            let planned = plan_step(world, &self.state, &input, &self.frontier).unwrap();
            if planned.step.tasks.is_empty() {
                return "over".into();
            }
            if !planned.step.moves() {
                return "waits".into();
            }
            let name = |leaf: &Leaf<'_>| {
                let place = &leaf.place;
                let mut name = place.path.iter().chain([&place.node]).cloned().collect::<Vec<_>>().join("/");
                if let Some(item) = place.item {
                    name += &format!("[{item}]");
                }
                match &leaf.work {
                    LeafWork::Node(_, None) => name,
                    LeafWork::Node(_, Some(_)) => name + "+",
                    LeafWork::Tool(_, called) => {
                        format!("{name}:{}({})", called.id.len().min(2), called.args)
                    }
                }
            };
            let names: Vec<String> = planned.leaves.iter().map(name).collect();
            self.told.push(if names.is_empty() { "-".into() } else { names.join(" ") });
            let work = |(name, work): (&String, &Leaf<'_>)| {
                let mut worked =
                    Worked::new(1, work.done.clone().map_or_else(|| leaf(name, work), |done| done.result));
                worked.late =
                    work.clocks.first().filter(|_| self.late.contains(name)).map(|(task, _)| task.clone());
                Some(worked)
            };
            let ended = names.iter().zip(&planned.leaves).map(work).collect();
            match apply(world, &self.state, &input, &self.frontier, planned.step, ended) {
                Ok(applied) => (self.state, self.frontier) = (applied.state, applied.frontier),
                Err(unhandled) => return format!("{} fails: {}", unhandled.node, unhandled.failure.code),
            }
            self.number = number;
        }
        "goes on for ever".into()
    }

    /// Answers the open question of this rank.
    fn answer(&mut self, rank: usize, reply: Reply) {
        let (open, _) = self.frontier.held(&self.plan);
        self.replies.insert(open[rank].question.id.clone(), reply);
    }

    fn questions(&self) -> Vec<String> {
        self.frontier.held(&self.plan).0.into_iter().map(|open| open.question.text).collect()
    }
}

fn gives(result: Json) -> Result<Outcome, Failure> {
    Ok(Done { result, ..Done::default() }.into())
}

fn wants(calls: &[i64]) -> Result<Outcome, Failure> {
    let wanted = |n: &i64| Wanted { id: format!("c{n}"), tool: "t".into(), args: Ok(json!({"n": n})) };
    let calls = calls.iter().map(wanted).collect();
    Ok(Outcome::More(Round { memo: json!("m"), calls, ..Round::default() }))
}

fn no() -> Result<Outcome, Failure> {
    Err(Failure::new(ErrorKind::Timeout, "late"))
}

/// A node `a` that calls tools beside `b`, and their join.
fn agent(approval: bool) -> Run {
    let mut a = node(leaf(), "r", "j");
    a.job.tools.insert("t".into(), tool(approval));
    let nodes = vec![
        ("a", a),
        ("b", node(leaf(), "", "c")),
        ("c", node(leaf(), "", "j")),
        ("j", node(leaf(), "log", "end")),
    ];
    Run::new(plan_of("test", &["a", "b"], nodes), Vec::new())
}

fn agents(name: &str, leaf: &Leaf<'_>) -> Result<Outcome, Failure> {
    match (name, &leaf.work) {
        ("a", _) => wants(&[1, 2]),
        ("a+", LeafWork::Node(_, Some(back))) => {
            assert_eq!(back.memo, json!("m"));
            gives(json!(
                back.answers.iter().map(|Answered { result, .. }| result.clone()).collect::<Vec<_>>()
            ))
        }
        (_, LeafWork::Tool(_, called)) if called.args["n"] == 2 => no(),
        (_, LeafWork::Tool(_, called)) => gives(called.args["n"].clone()),
        _ => gives(Json::Null),
    }
}

#[test]
fn a_node_that_calls_tools_is_a_live_branch_and_each_round_a_superstep() {
    let mut run = agent(false);
    assert_eq!(run.go(agents), "over");
    assert_eq!(run.told, ["a b", "a:2({\"n\":1}) a:2({\"n\":2}) c", "a+", "j"]);
    assert_eq!(run.state.json("r"), Some(json!([{"Ok": 1}, {"Err": "late"}])));
}

/// A call of a tool that there is not made the node fail after the calls beside it were begun, and their results were
/// taken for those of its siblings.
#[test]
fn a_call_that_cannot_be_made_is_answered_to_the_model_and_takes_no_result_of_another() {
    let mut a = node(leaf(), "r", "j");
    a.job.tools.insert("t".into(), tool(false));
    a.job.tools.insert("g".into(), tool_of("g", false, ToolBody::Graph("child".into())));
    let nodes = || vec![("a", a.clone()), ("b", node(leaf(), "log", "j")), ("j", node(leaf(), "", "end"))];
    let works = |name: &str, leaf: &Leaf<'_>| match (name, &leaf.work) {
        ("a", _) => {
            let wanted =
                |tool: &str| Wanted { id: tool.into(), tool: tool.into(), args: Ok(json!({"n": 1})) };
            let calls = ["t", "none", "g", "t"].map(wanted).into();
            Ok(Outcome::More(Round { calls, ..Round::default() }))
        }
        ("a+", LeafWork::Node(_, Some(back))) => {
            gives(json!(back.answers.iter().map(|answered| answered.result.clone()).collect::<Vec<_>>()))
        }
        (_, LeafWork::Tool(..)) => gives(json!("called")),
        (name, _) => gives(json!(name)),
    };
    // The graph wants an input that its callers do not give.
    let x = Field { ty: Type::INTEGER, default: None, description: None };
    let strict = Plan { input: IndexMap::from([("x".to_owned(), x)]), ..child() };
    let mut run = Run::new(plan_of("test", &["a", "b"], nodes()), vec![strict]);
    assert_eq!(run.go(works), "over");
    let expected = json!([{"Ok": "called"}, {"Err": "there is no tool `none`"}, {"Err": "the input `x` is missing"}, {"Ok": "called"}]);
    assert_eq!(run.state.json("r"), Some(expected));
    assert_eq!(run.state.json("log"), Some(json!(["b"])));
    assert_eq!(run.told, ["a b", "a:1({\"n\":1}) a:1({\"n\":1})", "a+", "j"]);
}

#[test]
fn a_call_waits_for_approval_and_what_was_answered_is_kept() {
    let mut run = agent(true);
    assert_eq!(run.go(agents), "waits");
    assert_eq!(run.told, ["a b", "c"]);
    assert_eq!(run.questions(), ["May `t` be called?"; 2]);
    run.answer(1, Reply::Answer(json!({"reject": "too dear"})));
    assert_eq!(run.go(agents), "waits");
    assert_eq!(run.questions().len(), 1);
    run.answer(0, Reply::Answer(json!({"edit": {"n": 7}})));
    assert_eq!(run.go(agents), "over");
    assert_eq!(run.told[2..], ["-", "a:2({\"n\":7})", "a+", "j"]);
    assert_eq!(run.state.json("r"), Some(json!([{"Ok": 7}, {"Err": "a person refused the call: too dear"}])));
    let mut run = agent(true);
    assert_eq!(run.go(agents), "waits");
    run.answer(0, Reply::Dismissed);
    assert_eq!(run.go(agents), "a fails: dismissed");
}

#[test]
fn a_question_waits_for_its_answer_or_its_time_and_the_others_go_on() {
    let nodes = || {
        let late = Some(Target::Node("late".into()));
        vec![
            ("a", node(ask("Who?", late), "r", "j")),
            ("b", node(leaf(), "", "c")),
            ("c", node(leaf(), "", "j")),
            ("j", node(leaf(), "", "end")),
            ("late", node(leaf(), "", "j")),
        ]
    };
    let run = || Run::new(plan_of("test", &["a", "b"], nodes()), Vec::new());
    let works = |_: &str, _: &Leaf<'_>| gives(Json::Null);
    let mut answered = run();
    assert_eq!(answered.go(works), "waits");
    assert_eq!((answered.told.join(" | "), answered.questions()), ("b | c".into(), vec!["Who?".into()]));
    answered.answer(0, Reply::Answer(json!("me")));
    assert_eq!(answered.go(works), "over");
    assert_eq!(answered.told[2..], ["-", "j"]);
    assert_eq!(answered.state.json("r"), Some(json!("me")));
    let mut late = run();
    assert_eq!(late.go(works), "waits");
    late.now = 59;
    assert_eq!(late.go(works), "waits");
    late.now = 60;
    assert_eq!(late.go(works), "over");
    assert_eq!(late.told[2..], ["-", "late", "j"]);
    let mut dismissed = run();
    assert_eq!(dismissed.go(works), "waits");
    dismissed.answer(0, Reply::Dismissed);
    assert_eq!(dismissed.go(works), "a fails: dismissed");
}

/// A graph of two nodes, whose state counts its runs.
fn child() -> Plan {
    let nodes = vec![("p", node(leaf(), "r", "q")), ("q", node(leaf(), "log", "end"))];
    let x = Field { ty: Type::Any, default: None, description: None };
    Plan { input: IndexMap::from([("x".to_owned(), x)]), ..plan_of("child", &["p"], nodes) }
}

#[test]
fn a_called_graph_goes_in_step_with_its_caller_and_gives_its_output() {
    let nodes = vec![
        ("a", node(graph("child", "state.log | length"), "r", "j")),
        ("b", node(leaf(), "", "j")),
        ("j", node(graph("child", "state.r.r"), "log", "end")),
    ];
    let mut run = Run::new(plan_of("test", &["a", "b"], nodes), vec![child()]);
    let inputs = |name: &str, leaf: &Leaf<'_>| match name {
        "a/p" | "j/p" => gives(leaf.input["x"].clone()),
        name => gives(json!(name)),
    };
    assert_eq!(run.go(inputs), "over");
    assert_eq!(run.told, ["a/p b", "a/q", "j/p", "j/q"]);
    assert_eq!(run.state.json("r"), Some(json!({"r": 0, "log": ["a/q"]})));
    assert_eq!(run.state.json("log"), Some(json!([{"r": 0, "log": ["j/q"]}])));
    // What it kept is there in its node's next call.
    let kept = run.frontier.kept.get("a").unwrap();
    assert_eq!(kept.state.json("log"), Some(json!(["a/q"])));
}

#[test]
fn a_called_graph_that_fails_is_the_failure_of_its_node_and_a_retry_goes_on_where_it_failed() {
    let nodes = |attempts| {
        let mut a = node(graph("child", "1"), "r", "end");
        a.job.retry = Retry { attempts, kinds: vec!["any".into()], ..Retry::default() };
        vec![("a", a)]
    };
    let failing = std::cell::Cell::new(1);
    let works = |name: &str, _: &Leaf<'_>| {
        if name == "a/q" && failing.replace(failing.get() - 1) > 0 { no() } else { gives(json!(1)) }
    };
    let mut run = Run::new(plan_of("test", &["a"], nodes(1)), vec![child()]);
    assert_eq!(run.go(works), "a fails: timeout");
    failing.set(1);
    let mut run = Run::new(plan_of("test", &["a"], nodes(2)), vec![child()]);
    assert_eq!(run.go(works), "over");
    assert_eq!(run.told, ["a/p", "a/q", "a/q"]);
}

/// A retry did everything beside the failure again, and under other ids: a call could be made twice.
#[test]
fn a_retry_of_a_called_graph_does_nothing_again_that_was_done_and_knows_its_tasks_by_the_same_ids() {
    let nodes = vec![
        ("done", node(leaf(), "log", "end")),
        ("fails", node(leaf(), "r", "end")),
        ("inner", node(graph("leaf", ""), "log", "end")),
    ];
    let child = plan_of("child", &["done", "fails", "inner"], nodes);
    let inner = plan_of("leaf", &["x"], vec![("x", node(leaf(), "r", "end"))]);
    let caller = |effects| {
        let mut a = node(graph("child", ""), "r", "end");
        a.job.retry = Retry { attempts: 2, kinds: vec!["any".into()], ..Retry::default() };
        let mut children = vec![child.clone(), inner.clone()];
        children[0].nodes.get_mut("fails").unwrap().job.effects = effects;
        Run::new(plan_of("test", &["a"], vec![("a", a)]), children)
    };
    let calls = std::cell::RefCell::new(Vec::new());
    let works = |name: &str, leaf: &Leaf<'_>| {
        let mut calls = calls.borrow_mut();
        calls.push((name.to_owned(), leaf.place.task_id.clone()));
        match name {
            "a/fails" if calls.iter().filter(|(name, _)| name == "a/fails").count() == 1 => no(),
            name => gives(json!(name)),
        }
    };
    let mut run = caller(Effects::Idempotent);
    assert_eq!(run.go(works), "over");
    assert_eq!(run.state.json("r").unwrap()["log"], json!(["a/done", {"r": "a/inner/x", "log": []}]));
    let told = calls.take();
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a/done", "a/fails", "a/inner/x", "a/fails"]);
    assert_eq!(told[1].1, told[3].1);
    // What must not happen twice is not tried again.
    let mut run = caller(Effects::AtMostOnce);
    assert_eq!(run.go(works), "a fails: timeout");
    assert_eq!(calls.take().len(), 3);
}

#[test]
fn the_time_of_a_called_graph_and_of_a_list_is_that_of_all_that_is_in_it() {
    let limited = |work| {
        let mut a = node(work, "r", "end");
        a.job.timeout = Duration::from_secs(1);
        a.job.retry = Retry { attempts: 2, kinds: vec!["timeout".into()], ..Retry::default() };
        a
    };
    let works = |name: &str, _: &Leaf<'_>| if name.ends_with('p') { no() } else { gives(json!(1)) };
    // The handler within is not asked: it is the failure of the node.
    let mut nodes = vec![("p", node(leaf(), "r", "end")), ("h", node(leaf(), "r", "end"))];
    nodes[0].1.on_error = vec![Catch { errors: None, to: Target::Node("h".into()) }];
    let mut run = Run::new(
        plan_of("test", &["a"], vec![("a", limited(graph("child", "")))]),
        vec![plan_of("child", &["p"], nodes)],
    );
    run.late = vec!["a/p".into()];
    assert_eq!(run.go(works), "a fails: timeout");
    assert_eq!(run.told, ["a/p", "a/p"]);
    // Nor is it when the graph is at its end with it.
    let mut p = node(leaf(), "r", "end");
    p.on_error = vec![Catch { errors: None, to: Target::End }];
    let mut run = Run::new(
        plan_of("test", &["a"], vec![("a", limited(graph("child", "")))]),
        vec![plan_of("child", &["p"], vec![("p", p)])],
    );
    run.late = vec!["a/p".into()];
    assert_eq!(run.go(works), "a fails: timeout");
    let failing = |name: &str, _: &Leaf<'_>| if name == "a[1]" { no() } else { gives(json!(name)) };
    for late in [false, true] {
        let nodes = vec![("a", limited(map(leaf(), ItemError::Skip)))];
        let mut run = Run::new(plan_of("test", &["a"], nodes), Vec::new());
        run.late = if late { vec!["a[1]".into()] } else { Vec::new() };
        let expected = if late { "a fails: timeout" } else { "over" };
        assert_eq!(run.go(failing), expected);
    }
    // The items that failed are tried again, and no others.
    let first = std::cell::Cell::new(true);
    let weak = |name: &str, _: &Leaf<'_>| {
        if name == "a[1]" && first.take() { no() } else { gives(json!(name)) }
    };
    let nodes = vec![("a", limited(map(leaf(), ItemError::Fail)))];
    let mut run = Run::new(plan_of("test", &["a"], nodes), Vec::new());
    assert_eq!(run.go(weak), "over");
    assert_eq!(run.told, ["a[0] a[1] a[2]", "a[1]"]);
    assert_eq!(run.state.json("r"), Some(json!(["a[0]", "a[1]", "a[2]"])));
}

#[test]
fn a_map_is_one_superstep_in_the_order_of_its_list() {
    let works = |name: &str, leaf: &Leaf<'_>| match name {
        "m[1]" => no(),
        _ => gives(json!([&leaf.locals[0].1, &leaf.locals[1].1])),
    };
    for (on_error, expected) in [
        (ItemError::Skip, Ok(json!([[1, 0], [3, 2]]))),
        (ItemError::Null, Ok(json!([[1, 0], null, [3, 2]]))),
        (ItemError::Fail, Err("m fails: timeout")),
    ] {
        let nodes = vec![("m", node(map(leaf(), on_error), "r", "end"))];
        let mut run = Run::new(plan_of("test", &["m"], nodes), Vec::new());
        let came = run.go(works);
        assert_eq!(run.told, ["m[0] m[1] m[2]"]);
        match expected {
            Ok(list) => assert_eq!((came.as_str(), run.state.json("r")), ("over", Some(list))),
            Err(why) => assert_eq!(came, why),
        }
    }
}

/// All items began at once, whatever `max_parallel` said.
#[test]
fn no_more_graphs_of_a_map_are_under_way_than_it_allows() {
    let works = |name: &str, _: &Leaf<'_>| gives(json!(name));
    let mut each = node(map(graph("child", ""), ItemError::Fail), "r", "end");
    let Work::Map(inner) = &mut each.job.work else { panic!("it is a map") };
    Arc::get_mut(inner).unwrap().at_once = Some(2);
    let nodes = vec![("m", each)];
    let mut run = Run::new(plan_of("test", &["m"], nodes), vec![child()]);
    assert_eq!(run.go(works), "over");
    assert_eq!(run.told, ["m/p[0] m/p[1]", "m/q[0] m/q[1]", "m/p[2]", "m/q[2]"]);
    assert_eq!(run.state.json("r").unwrap().as_array().unwrap().len(), 3);
}

#[test]
fn the_items_of_a_map_are_asked_at_once_and_answered_in_any_order() {
    let asks = vec![("p", node(leaf(), "", "q")), ("q", node(ask("Item {{ input.x }}?", None), "r", "end"))];
    let asking = Plan { input: child().input, ..plan_of("child", &["p"], asks) };
    let nodes = vec![("m", node(map(graph("child", "item"), ItemError::Fail), "r", "end"))];
    let mut run = Run::new(plan_of("test", &["m"], nodes), vec![asking]);
    let works = |_: &str, _: &Leaf<'_>| gives(Json::Null);
    assert_eq!(run.go(works), "waits");
    assert_eq!(run.told, ["m/p[0] m/p[1] m/p[2]", "-"]);
    assert_eq!(run.questions(), ["Item 1?", "Item 2?", "Item 3?"]);
    for (rank, answer) in [(2, "c"), (0, "a"), (0, "b")] {
        run.answer(rank, Reply::Answer(json!(answer)));
        run.go(works);
    }
    assert_eq!(
        run.state.json("r"),
        Some(json!([{"r": "a", "log": []}, {"r": "b", "log": []}, {"r": "c", "log": []}]))
    );
}

#[test]
fn graphs_that_call_each_other_too_deep_end_the_run() {
    let nodes = || vec![("a", node(graph("child", ""), "", "end"))];
    let mut run = Run::new(plan_of("test", &["a"], nodes()), vec![plan_of("child", &["a"], nodes())]);
    assert_eq!(run.go(|_, _| gives(Json::Null)), "a fails: limit");
}
