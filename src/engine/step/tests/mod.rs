mod going;

use super::*;
use crate::id::RunId;
use crate::node::{Done, Set};
use crate::plan::{Catch, Job, Next, Pattern, PlanNode, Work};
use crate::state::{Channel, Field, Merge, Type, Write};

/// Reads `a>b,c` as: `a` goes to `b` and `c`; `a>b!3:x` bounds `a` to 3 visits, then `x`; `a*` joins each; `a>b?h` sends
/// errors of `a` to `h`, `a>b?timeout=h` those of one kind.
fn plan(text: &str) -> Plan {
    let target = |name: &str| if name == "end" { Target::End } else { Target::Node(name.to_owned()) };
    let next = |text: &str| match text.split(',').map(target).collect::<Vec<_>>().as_slice() {
        [one] => Next::To(one.clone()),
        many => Next::All(many.to_vec()),
    };
    let mut start = Next::To(Target::End);
    let mut nodes = BTreeMap::new();
    for rule in text.split_whitespace() {
        let (from, rest) = rule.split_once('>').unwrap();
        let mut rest = rest.split('?');
        let (rest, errors) = (rest.next().unwrap(), rest);
        let on_error = errors.map(|rule| match rule.split_once('=') {
            None => Catch { errors: None, to: target(rule) },
            Some((kind, to)) => Catch { errors: Some(vec![Pattern::Kind(kind.to_owned())]), to: target(to) },
        });
        let (to, bound) = rest.split_once('!').map_or((rest, None), |(to, bound)| (to, Some(bound)));
        if from == "start" {
            start = next(to);
            continue;
        }
        let max_visits = bound.map(|bound| {
            let (most, to) = bound.split_once(':').unwrap();
            (most.parse().unwrap(), target(to))
        });
        let job = Job::new("route", Work::Node(Arc::new(Set::default())));
        let node = PlanNode {
            on_error: on_error.collect(),
            max_visits,
            join_all: !from.ends_with('*'),
            ..PlanNode::new(job, next(to))
        };
        nodes.insert(from.trim_end_matches('*').to_owned(), node);
    }
    Plan { nodes, ..Plan::new("test", start) }.seal()
}

fn facts() -> RunFacts {
    RunFacts {
        id: RunId::default(),
        step: 1,
        steps_left: 1,
        user_text: "".into(),
        now: chrono::DateTime::default(),
    }
}

/// Runs a plan without state and returns its supersteps, `a b | c`.
fn path(text: &str) -> String {
    path_with(text, &[])
}

/// The same with failures: `a timeout` fails `a` on each visit. A node with an error shows it: `h<a timeout>`.
fn path_with(text: &str, failing: &[&str]) -> String {
    let plan = plan(text);
    let kinds =
        [ErrorKind::Timeout, ErrorKind::Http(503), ErrorKind::Http(404), ErrorKind::Failed, ErrorKind::Limit];
    let failure = |node: &str| {
        let kind = failing.iter().find_map(|f| f.strip_prefix(node)?.strip_prefix(' '))?;
        Some(Failure::new(kinds.into_iter().find(|k| k.name() == kind).unwrap(), "no"))
    };
    let (input, state) = (Arc::new(Json::Null), State::default());
    let mut frontier = begin(&plan, &state, &input, &facts()).unwrap().0;
    let mut steps = Vec::new();
    for number in 1..30 {
        // What is stored is all that the next superstep knows.
        frontier = serde_json::from_value(serde_json::to_value(&frontier).unwrap()).unwrap();
        let facts = facts();
        let replies = Replies::new();
        let world = World { root: &plan, facts: &facts, replies: &replies, found: &UNSOUGHT, number };
        let step = match plan_step(world, &state, &input, &frontier) {
            Ok(planned) => planned.step,
            Err(failure) => {
                steps.push(failure.kind.name());
                break;
            }
        };
        if step.tasks.is_empty() {
            break;
        }
        let shown = |task: &Task| match &task.error {
            Some(error) => format!("{}<{} {}>", task.node, error.node, error.kind),
            None => task.node.clone(),
        };
        steps.push(step.tasks.iter().map(shown).collect::<Vec<_>>().join(" "));
        let ended = |task: &Task| match failure(&task.node) {
            Some(failure) => Worked::new(1, Err(failure)),
            None => done(Vec::new(), Usage::default()),
        };
        let results = step.tasks.iter().map(|task| Some(ended(task))).collect();
        frontier = match apply(world, &state, &input, &frontier, step, results) {
            Ok(applied) => applied.frontier,
            Err(unhandled) => {
                let Unhandled { node, failure, .. } = *unhandled;
                steps.push(format!("{node} fails: {}", failure.kind.name()));
                break;
            }
        };
    }
    steps.join(" | ")
}

#[test]
fn an_error_goes_where_the_rules_say_and_its_siblings_go_on() {
    for (what, plan, failing, expected) in [
        ("nothing handles it", "start>a a>end", "a timeout", "a | a fails: timeout"),
        ("a handler", "start>a a>b?h b>end h>end", "a timeout", "a | h<a timeout>"),
        ("no failure", "start>a a>b?h b>end h>end", "", "a | b"),
        ("the end handles it", "start>a a>b?end b>end", "a timeout", "a"),
        (
            "the first rule that matches",
            "start>a a>end?timeout=t?h t>end h>end",
            "a timeout",
            "a | t<a timeout>",
        ),
        ("another kind", "start>a a>end?timeout=t?h t>end h>end", "a failed", "a | h<a failed>"),
        (
            "a wider kind",
            "start>a a>end?http_4xx=t?server_error=h t>end h>end",
            "a http_503",
            "a | h<a http_503>",
        ),
        ("no rule for it", "start>a a>end?http_4xx=h h>end", "a http_503", "a | a fails: http_503"),
        ("a limit is not caught", "start>a a>end?h h>end", "a limit", "a | a fails: limit"),
        ("a sibling goes on", "start>a,b a>j?h b>c c>j j>end h>end", "a timeout", "a b | c h<a timeout> | j"),
        (
            "a join waits for the handler of a branch",
            "start>a,b a>j?h b>j h>i i>j j>end",
            "a timeout",
            "a b | h<a timeout> | i<a timeout> | j",
        ),
        (
            "a handler runs once for each failure, also one that says to join",
            "start>a,b,c a>j?h b>j?h c>j h>j j>end",
            "a timeout,b failed",
            "a b c | h<a timeout> h<b failed> | j",
        ),
        (
            "a handler that a way leads to joins, and has no error",
            "start>a,b a>h?h b>h?h h>end",
            "a timeout",
            "a b | h",
        ),
        (
            "a handler that fails goes to its own handler, with the newer error",
            "start>a a>end?h h>end?i i>end",
            "a timeout,h failed",
            "a | h<a timeout> | i<h failed>",
        ),
        (
            "of several errors at a join the first sender's is read",
            "start>a,b a>end?h b>end?i h>j i>j j>end",
            "a timeout,b failed",
            "a b | h<a timeout> i<b failed> | j<a timeout>",
        ),
        (
            "a visit that failed is a visit",
            "start>a a>end!2:z?h h>a z>end",
            "a timeout",
            "a | h<a timeout> | a | h<a timeout> | z",
        ),
        (
            "the tasks of one node run in the order of those that sent them",
            "start>x,y x>end?h y>end?h h>i i>end",
            "x timeout,y failed",
            "x y | h<x timeout> h<y failed> | i<x timeout> i<y failed>",
        ),
        (
            "an error goes through a diversion as far as every way has one",
            "start>a a>end?h h>h!1:z z>end",
            "a timeout",
            "a | h<a timeout> | z<a timeout>",
        ),
    ] {
        let failing: Vec<&str> = failing.split(',').collect();
        assert_eq!(path_with(plan, &failing), expected, "{what}: {plan}");
    }
}

fn done(writes: Vec<Write>, usage: Usage) -> Worked {
    Worked::new(1, Ok(Done { writes, usage, ..Done::default() }.into()))
}

/// A channel that holds one value, and tasks that write it in one superstep.
fn writers(text: &str, writes: &[(&str, Json)]) -> Result<(Option<Json>, Vec<String>), String> {
    let mut plan = plan(text);
    let field = Field { ty: Type::INTEGER, default: None, description: None };
    plan.channels
        .insert("x".into(), Channel { field, merge: Merge::Replace, private: false, per_run: false });
    let error = |from: &str| Caught::new(from, &Failure::new(ErrorKind::Timeout, "late"));
    let token = |at: &str, from: &str| Token {
        at: at.into(),
        from: from.into(),
        open: BTreeSet::new(),
        error: plan.has_error(at).then(|| error(from)),
        held: None,
    };
    let from = ["p", "q", "r"];
    let tokens = writes.iter().zip(from).map(|((at, _), from)| token(at, from)).collect();
    let frontier = Frontier { tokens, ..Frontier::default() };
    let (input, state) = (Arc::new(Json::Null), State::initial(&plan.channels));
    let (facts, replies) = (facts(), Replies::new());
    let world = World { root: &plan, facts: &facts, replies: &replies, found: &UNSOUGHT, number: 1 };
    let step = plan_step(world, &state, &input, &frontier).unwrap().step;
    let result = |(_, value): &(&str, Json)| {
        let write = Write::Put { channel: "x".into(), value: value.clone() };
        Some(done(vec![write], Usage::default()))
    };
    let results = writes.iter().map(result).collect();
    match apply(world, &state, &input, &frontier, step, results) {
        Ok(applied) => {
            let to = |edge: &Taken| format!("{}>{}", edge.from, edge.to.name());
            Ok((applied.state.json("x"), applied.edges.iter().map(to).collect()))
        }
        Err(unhandled) => Err(format!("{}: {}", unhandled.node, unhandled.failure.kind.name())),
    }
}

#[test]
fn what_cannot_join_is_the_failure_of_its_task_and_handlers_yield_to_the_last() {
    let one = |n: i64| serde_json::json!(n);
    let wrong = serde_json::json!("text");
    let edges = |all: &[&str]| all.iter().map(|edge| (*edge).to_owned()).collect::<Vec<_>>();
    let plan = "start>a,b a>end?h b>end?h h>end";
    assert_eq!(
        writers(plan, &[("h", one(1)), ("h", one(2))]),
        Ok((Some(one(2)), edges(&["h>end", "h>end"])))
    );
    assert_eq!(writers(plan, &[("a", one(1)), ("b", one(2))]), Ok((Some(one(1)), edges(&["a>end", "b>h"]))));
    assert_eq!(
        writers(plan, &[("a", wrong.clone()), ("b", one(2))]),
        Ok((Some(one(2)), edges(&["a>h", "b>end"])))
    );
    assert_eq!(writers(plan, &[("a", one(1)), ("h", one(2))]), Err("h: merge".into()));
    assert_eq!(writers("start>a a>end", &[("a", wrong)]), Err("a: merge".into()));
}

#[test]
fn a_limit_ends_every_branch_keeps_what_is_done_and_goes_on_with_the_error() {
    let mut plan = plan("start>a,b a>j b>j j>end l>m m>end");
    plan.on_limit = Some(Target::Node("l".into()));
    let plan = plan.seal();
    let (input, state) = (Arc::new(Json::Null), State::default());
    let (facts, replies) = (facts(), Replies::new());
    let frontier = begin(&plan, &state, &input, &facts).unwrap().0;
    let world = |number| World { root: &plan, facts: &facts, replies: &replies, found: &UNSOUGHT, number };
    let step = plan_step(world(7), &state, &input, &frontier).unwrap().step;
    let usage = Usage { input_tokens: 3, output_tokens: 4, ..Usage::default() };
    let results = vec![Some(done(Vec::new(), usage)), None];
    let failure = Failure::new(ErrorKind::Limit, "too long");
    let to = Target::Node("l".into());
    for (limit, granted) in [
        (Limit::Steps, Granted { steps: Some(7), ..Granted::default() }),
        (Limit::Calls, Granted { calls: Some(0), ..Granted::default() }),
        (Limit::Tokens, Granted { tokens: Some(7), ..Granted::default() }),
        (Limit::Time, Granted { time: true, ..Granted::default() }),
    ] {
        let (step, results) = (step.clone(), results.clone());
        let applied = divert(world(7), &state, &input, &frontier, step, results, (limit, &to), &failure);
        assert_eq!(applied.frontier.granted, granted);
        assert!(applied.frontier.granted.has(limit));
        assert_eq!(applied.frontier.usage, usage);
        assert_eq!(applied.edges[0].condition, Some(format!("on_limit: {}", limit.name())));
        let next = plan_step(world(8), &state, &input, &applied.frontier).unwrap().step;
        assert_eq!(next.tasks.len(), 1);
        assert_eq!(next.tasks[0].error.as_ref().unwrap().kind, "limit");
    }
}

/// A record of the time before there were handlers.
#[test]
fn an_old_frontier_is_read_and_one_without_errors_is_written_as_before() {
    let old = r#"{"tokens":[{"at":"a","from":"start"}],"usage":{"input_tokens":0,"output_tokens":0,"model_calls":0},"plan":"x"}"#;
    let frontier: Frontier = serde_json::from_str(old).unwrap();
    assert_eq!(frontier.tokens[0].error, None);
    let written: Json = serde_json::to_value(&frontier).unwrap();
    let keys: Vec<&String> = written.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["tokens", "usage", "plan"]);
    assert_eq!(written["tokens"][0], serde_json::json!({"at": "a", "from": "start"}));
}

#[test]
fn branches_meet_as_the_rule_says() {
    for (what, plan, expected) in [
        ("a line", "start>a a>b b>end", "a | b"),
        ("a run without nodes", "start>end", ""),
        ("even branches", "start>a,b a>c b>c c>end", "a b | c"),
        ("uneven branches", "start>a,b a>c b>d d>e e>c c>end", "a b | d | e | c"),
        ("a branch that ends early", "start>a,b a>end b>c c>d d>end", "a b | c | d"),
        ("a join with one branch left", "start>a,b,x a>j b>j x>end j>end", "a b x | j"),
        ("nested fan-outs", "start>a,b a>c,d c>j d>j j>k b>k k>end", "a b | c d | j | k"),
        ("two joins behind each other", "start>a,b a>j b>j j>k b2>k k>end", "a b | j | k"),
        ("join: each", "start>a,b a>c b>d d>c c*>end", "a b | c d | c"),
        (
            "a fan-out in a loop joins in each round",
            "start>a a>b,c b>j c>d d>j j>a!2:end",
            "a | b c | d | j | a | b c | d | j | a | b c | d",
        ),
        (
            "joins that only wait for one another run together",
            "start>a,b a>j b>k j>k!5:end k>j!5:end",
            "a b | j k | j k | j k | j k | j k",
        ),
        (
            "a supervisor may be fan-out and join",
            "start>s s>a,b!3:end a>s b>c c>s",
            "s | a b | c | s | a b | c | s | a b | c",
        ),
    ] {
        assert_eq!(path(plan), expected, "{what}: {plan}");
    }
}

#[test]
fn a_bounded_node_is_left_by_its_other_edge_and_bounds_that_only_send_on_are_an_error() {
    assert_eq!(path("start>a a>a!3:b b>end"), "a | a | a | b");
    assert_eq!(path("start>a,b a>c b>c c*>end!1:d d>end"), "a b | c d");
    assert_eq!(path("start>a a>b!1:b b>a!1:a"), "a | b | limit");
}

/// A join that is spent only after the branch that it waits for was sent to the end looked like a circle.
#[test]
fn bounded_nodes_that_wait_for_one_another_are_spent_one_after_another() {
    assert_eq!(path("start>a a>w,a!2:w w>end!1:end?a"), "a | w | a");
}

/// Each diversion used to count, so that many branches at bounded nodes looked like a circle.
#[test]
fn many_branches_may_be_sent_away_from_one_bounded_node_after_another() {
    let plan = "start>a,b,c,d,e a>x b>x c>x d>x e>x x*>end!1:y y*>end!1:z z*>end!1:end";
    assert_eq!(path(plan), "a b c d e | x y z");
}
