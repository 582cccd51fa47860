//! Reads graphs off tapes of bytes, so that a failure shrinks by leaving nodes out and by zeroes: zero is the plainest
//! choice.

use proptest::prelude::*;

use super::graph::{
    Cond, Do, Flavour, Form, Graph, Into, Kind, More, Next, Node, Over, Program, Prompt, To, Value, targets,
};

/// The bytes that one node is read from.
pub(super) type Tape = [u8; 24];

/// What two graphs are read from: the one that runs, and the one that it calls.
#[derive(Debug, Clone)]
pub(super) struct Tapes {
    root: (Tape, Vec<Tape>),
    child: (Tape, Vec<Tape>),
}

/// Makes tapes of up to so many nodes.
pub(super) fn tapes(most: usize) -> impl Strategy<Value = Tapes> {
    let graph = |most| (any::<Tape>(), proptest::collection::vec(any::<Tape>(), 1..=most));
    (graph(most), graph(most.min(4))).prop_map(|(root, child)| Tapes { root, child })
}

/// Reads bytes as choices.
pub(super) struct Reader<'a>(std::slice::Iter<'a, u8>);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    pub(super) fn pick(&mut self, n: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % n.max(1)
    }

    pub(super) fn byte(&mut self) -> usize {
        self.pick(256)
    }
}

impl Program {
    pub(super) fn read(tapes: &Tapes, flavour: Flavour) -> Self {
        let graph = |(head, nodes): &(Tape, Vec<Tape>), called| Graph::read(head, nodes, called, flavour);
        Self { root: graph(&tapes.root, false), child: graph(&tapes.child, true) }
    }
}

impl Graph {
    fn read(head: &Tape, tapes: &[Tape], called: bool, flavour: Flavour) -> Self {
        let count = tapes.len();
        let mut head = Reader(head.iter());
        // The last node may take the errors of the others.
        let on_error = (head.pick(4) == 3 && count > 1).then_some(count - 1);
        let start = next(&mut head, None, count, false);
        let nodes: Vec<Node> =
            tapes.iter().enumerate().map(|(at, tape)| Node::read(tape, at, count, called, flavour)).collect();
        let mut plain = vec![false; count];
        let mut failing = vec![false; count];
        for to in targets(&start).into_iter().flatten() {
            plain[to] = true;
        }
        for node in &nodes {
            let onward = if matches!(node.kind, Kind::Fail) { Vec::new() } else { targets(&node.next) };
            for to in onward.into_iter().chain(node.bound.iter().map(|(_, to)| *to)).flatten() {
                plain[to] = true;
            }
            for to in node.catches.iter().filter_map(|(_, to)| *to) {
                failing[to] = true;
            }
        }
        let mut graph = Self { start, nodes, on_error: None, covered: vec![false; count], called };
        if let Some(handler) = on_error {
            let (from_start, behind) = (graph.reached(&targets(&graph.start)), graph.reached(&[on_error]));
            for at in 0..count {
                let all =
                    graph.nodes[at].catches.iter().any(|(kind, _)| kind.is_none_or(|kind| kind == "any"));
                graph.covered[at] = from_start[at] && !behind[at] && !all;
                failing[handler] |= graph.covered[at];
            }
            graph.on_error = on_error;
        }
        for (at, node) in graph.nodes.iter_mut().enumerate() {
            node.handles = failing[at] && !plain[at];
            if let (Kind::Set(writes, _), false) = (&mut node.kind, node.handles) {
                for (_, value) in writes.iter_mut().filter(|(_, value)| *value == Value::Error) {
                    *value = Value::Tag;
                }
            }
        }
        graph
    }
}

/// Reads a target: the end, a node further on, or where it is allowed one before.
fn target(byte: usize, from: Option<usize>, count: usize, back: bool) -> To {
    let first = from.map_or(0, |from| from + 1);
    let ahead = count - first;
    if let Some(from) = from.filter(|_| back && byte >= 176) {
        return Some((byte - 176) % (from + 1));
    }
    // From the start and in the middle the end is rare, else little happens.
    let choice = byte % (ahead * 3 + 1);
    if choice == 0 { None } else { Some(first + (choice - 1) % ahead) }
}

fn cond(byte: usize, count: usize) -> Cond {
    let k = (byte / 8) as i64;
    match byte % 5 {
        0 => Cond::SumIs(k % 2),
        1 => Cond::TopAbove(k % 4),
        2 => Cond::Seen(k as usize % count),
        3 if k % 2 == 0 => Cond::LogLonger(k / 2 % 5),
        3 => Cond::NoteSet,
        _ => Cond::InputEven,
    }
}

fn next(tape: &mut Reader<'_>, from: Option<usize>, count: usize, back: bool) -> Next {
    let form = tape.pick(10);
    let mut to = || target(tape.byte(), from, count, back);
    let to = [to(), to(), to(), to()];
    let conds = [cond(tape.byte(), count), cond(tape.byte(), count)];
    let all = |of: &[To]| {
        let mut distinct: Vec<To> = Vec::new();
        for to in of {
            if !distinct.contains(to) {
                distinct.push(*to);
            }
        }
        if distinct.len() > 1 { Form::All(distinct) } else { Form::To(distinct[0]) }
    };
    match form {
        0 | 1 => Next::Plain(Form::To(to[0])),
        2 | 3 => Next::Plain(all(&to[..2])),
        4 | 5 => Next::Plain(all(&to[..3])),
        6 if to[0] != to[1] && conds[0] != conds[1] => {
            Next::Some(vec![(conds[0], to[0]), (conds[1], to[1])], all(&to[2..]))
        }
        7 if conds[0] != conds[1] => {
            Next::Rules(vec![(conds[0], all(&to[..1])), (conds[1], all(&to[1..3]))], all(&to[3..]))
        }
        8 => Next::Rules(vec![(conds[0], all(&to[..2]))], all(&to[2..])),
        _ => Next::Rules(vec![(conds[0], all(&to[..1]))], all(&to[1..2])),
    }
}

impl Node {
    fn read(tape: &Tape, at: usize, count: usize, called: bool, flavour: Flavour) -> Self {
        let plain = flavour == Flavour::Plain;
        let mut tape = Reader(tape.iter());
        // Names are ordered otherwise than places.
        let name = format!("{}{at}", char::from(b"cadbfe"[tape.pick(6)]));
        let (kind, detail) = (tape.byte(), tape.byte());
        let mut writes: Vec<(&'static str, Value)> = Vec::new();
        for n in 0..3 {
            let write = write(tape.byte(), tape.byte(), plain);
            let more = n == 0 || detail >> n & 1 == 1;
            if more && writes.iter().all(|(channel, _)| *channel != write.0) {
                writes.push(write);
            }
        }
        let cleared = if plain { ["note"; 4] } else { ["log", "seen", "sum", "once"] };
        let clears = if detail % 8 == 7 { Some(cleared[detail / 64]) } else { None };
        let clears = clears.filter(|_| kind % 2 == 1);
        let prompt = Prompt { flaky: detail & 1 == 1, retry: detail & 2 == 2, more: More::Nothing };
        let more = [More::Nothing, More::Cache, More::Tools, More::Tools][detail / 16 % 4];
        // A called graph calls no graph.
        let more = if called && more == More::Tools { More::Nothing } else { more };
        let kind = match kind % 32 {
            11.. if plain => {
                let flaky = Prompt { flaky: kind % 32 > 24, retry: false, ..prompt };
                Kind::Llm(flaky, [Into::Last, Into::Note, Into::Log, Into::Length][detail / 4 % 4])
            }
            0..=7 => Kind::Set(writes, clears),
            8..=10 => Kind::Route,
            11 if !called => Kind::Say,
            12 | 13 if !called => Kind::Graph(detail >= 200),
            14 if !called => Kind::Map(Over::Numbers, Do::Graph, ["fail", "skip"][detail % 2]),
            15..=17 => Kind::Map(
                [Over::Numbers, Over::Seen][detail / 4 % 2],
                Do::Llm(prompt),
                ["fail", "skip", "null"][detail / 8 % 3],
            ),
            18 | 19 => Kind::Ask,
            20 => Kind::Fail,
            _ => Kind::Llm(
                Prompt { more, ..prompt },
                [Into::Log, Into::Once, Into::Length, Into::Last][detail / 4 % 4],
            ),
        };
        let (bounded, each) = (tape.pick(4), tape.pick(6) == 5);
        let back = bounded > 0;
        let next = next(&mut tape, Some(at), count, back);
        let on_max = target(tape.byte(), Some(at), count, false);
        let pattern = tape.pick(16);
        // An error does not lead to its own node.
        let mut to = || target(tape.byte(), Some(at), count, back).filter(|to| *to != at);
        let to = [to(), to()];
        let catches = match pattern {
            0..=5 => Vec::new(),
            6..=10 => vec![(None, to[0])],
            11 => vec![(Some("rate_limit"), to[0]), (None, to[1])],
            12 => vec![(Some("http_5xx"), to[0]), (None, to[1])],
            13 => vec![(Some("dismissed"), to[0]), (Some("failed"), to[1])],
            14 => vec![(Some("connection"), to[0])],
            _ => vec![(Some("any"), to[0])],
        };
        let leads_back = |to: &To| to.is_some_and(|to| to <= at);
        let loops = targets(&next).iter().any(leads_back) || catches.iter().any(|(_, to)| leads_back(to));
        let bound = loops.then_some((bounded as u64, on_max));
        // What cannot fail has no rules for errors.
        let fails = !matches!(kind, Kind::Route | Kind::Say | Kind::Set(..));
        let catches = if fails { catches } else { Vec::new() };
        let loops = targets(&next).iter().any(leads_back) || catches.iter().any(|(_, to)| leads_back(to));
        let bound = bound.filter(|_| loops);
        Self { name, kind, next, each, bound, catches, handles: false }
    }
}

fn write(channel: usize, value: usize, plain: bool) -> (&'static str, Value) {
    let text = [Value::Tag, Value::TagSum, Value::Error][value % 3];
    let number = [Value::Number(1 + (value / 4 % 3) as i64), Value::Sum, Value::TopPlus, Value::LogLength];
    if plain && channel % 16 < 10 {
        return match channel % 16 {
            0..=2 => ("last", text),
            3..=5 => ("note", text),
            _ => ("log", Value::Note),
        };
    }
    match channel % 16 {
        0..=4 => ("log", [Value::Tag, Value::TagSum, Value::Pair, Value::Error][value % 4]),
        5..=7 => ("seen", [Value::Tag, Value::Pair][value % 2]),
        8..=10 => ("sum", number[value % 4]),
        11 => ("top", number[value % 4]),
        12 => ("low", [Value::Number(-((value / 4 % 3) as i64)), Value::Number(-4)][value % 2]),
        13 => ("doc", Value::Object),
        14 => ("once", text),
        _ => ("last", text),
    }
}
