use super::*;
use crate::node::{Node, Retry, Set};
use crate::plan::{Limits, Migration, Output, PlanNode};
use std::time::Duration;

/// Reads `a>b,c` as: `a` goes to `b` and `c`; `a>b!3:x` bounds `a` to 3 visits, then `x`; `a*` joins each.
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
        let (to, bound) = rest.split_once('!').map_or((rest, None), |(to, bound)| (to, Some(bound)));
        if from == "start" {
            start = next(to);
            continue;
        }
        let node: Arc<dyn Node> = Arc::new(Set::default());
        let max_visits = bound.map(|bound| {
            let (most, to) = bound.split_once(':').unwrap();
            (most.parse().unwrap(), target(to))
        });
        let node = PlanNode {
            kind: "route",
            description: None,
            node,
            next: next(to),
            max_visits,
            join_all: !from.ends_with('*'),
            retry: Retry::default(),
            timeout: Duration::MAX,
        };
        nodes.insert(from.trim_end_matches('*').to_owned(), node);
    }
    Plan {
        graph: "test".into(),
        hash: String::new(),
        description: None,
        channels: BTreeMap::new(),
        messages: None,
        input: indexmap::IndexMap::new(),
        output: Output::Public,
        start,
        nodes,
        limits: Limits::default(),
        migration: Migration::default(),
        joining: BTreeSet::new(),
    }
    .seal()
}

/// Runs a plan without state and returns its supersteps, `a b | c`.
fn path(text: &str) -> String {
    let plan = plan(text);
    let (run, input, state) = (RunId::default(), Arc::new(Json::Null), State::default());
    let facts =
        RunFacts { id: run, step: 1, steps_left: 1, user_text: "".into(), now: chrono::DateTime::default() };
    let mut frontier = begin(&plan, &state, &input, &facts).unwrap().0;
    let mut steps = Vec::new();
    for number in 1..30 {
        let step = match plan_step(&plan, run, &frontier, number) {
            Ok(step) => step,
            Err(failure) => {
                steps.push(failure.kind.name());
                break;
            }
        };
        if step.tasks.is_empty() {
            break;
        }
        steps.push(step.tasks.iter().map(|t| t.node.as_str()).collect::<Vec<_>>().join(" "));
        let results = vec![Finished { writes: Vec::new(), usage: Usage::default() }; step.tasks.len()];
        frontier = apply(&plan, &state, &frontier, &step, results, &input, &facts).unwrap().frontier;
    }
    steps.join(" | ")
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

/// Each diversion used to count, so that many branches at bounded nodes looked like a circle.
#[test]
fn many_branches_may_be_sent_away_from_one_bounded_node_after_another() {
    let plan = "start>a,b,c,d,e a>x b>x c>x d>x e>x x*>end!1:y y*>end!1:z z*>end!1:end";
    assert_eq!(path(plan), "a b c d e | x y z");
}
