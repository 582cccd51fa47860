//! Random graphs: what they are made of, and where their edges lead.

/// Which graphs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    Any,
    /// Mostly writers of channels with one value, and readers of one that has none at first.
    Plain,
}

/// Where an edge leads: a node by its number; none: the end.
pub(super) type To = Option<usize>;

/// What is read off a state to decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cond {
    SumIs(i64),
    TopAbove(i64),
    Seen(usize),
    LogLonger(i64),
    InputEven,
    NoteSet,
}

/// One target, or several at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    To(To),
    All(Vec<To>),
}

/// What comes after a node.
#[derive(Debug, Clone)]
pub(super) enum Next {
    Plain(Form),
    Some(Vec<(Cond, To)>, Form),
    Rules(Vec<(Cond, Form)>, Form),
}

/// A value to write, as an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// The node's name.
    Tag,
    /// The name and the sum.
    TagSum,
    /// A list of the name and `x`.
    Pair,
    /// What the error says; in handlers only.
    Error,
    /// The channel that has no value at first.
    Note,
    Number(i64),
    Sum,
    TopPlus,
    LogLength,
    /// `{a: the sum, NAME: 1}`.
    Object,
}

/// What a node does.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Route,
    Set(Vec<(&'static str, Value)>, Option<&'static str>),
    /// Whether its prompt may fail, and whether it is tried again.
    Llm(Prompt, Into),
    Say,
    Ask,
    /// Over what; what is done with each item; what becomes of an item that fails.
    Map(Over, Do, &'static str),
    /// Calls the other graph; the state of it stays with the node.
    Graph(bool),
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prompt {
    pub(super) flaky: bool,
    pub(super) retry: bool,
    pub(super) more: More,
}

/// What a node has that asks the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum More {
    Nothing,
    /// What the model says is kept.
    Cache,
    /// It may call the other graph.
    Tools,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Into {
    Log,
    Once,
    Last,
    Note,
    Length,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Seen,
    Numbers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Do {
    Llm(Prompt),
    Graph,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) next: Next,
    pub(super) each: bool,
    pub(super) bound: Option<(u64, To)>,
    /// Kinds of errors, none: all; and where they go.
    pub(super) catches: Vec<(Option<&'static str>, To)>,
    /// Only errors lead to it.
    pub(super) handles: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Graph {
    pub(super) start: Next,
    pub(super) nodes: Vec<Node>,
    pub(super) on_error: Option<usize>,
    /// The nodes whose errors go to it that their own rules do not catch: all but the handler and what it leads to.
    pub(super) covered: Vec<bool>,
    /// It is called: it has no conversation, and gives a text and a number.
    pub(super) called: bool,
}

/// The graph that runs, and the one that it calls.
#[derive(Debug, Clone)]
pub(super) struct Program {
    pub(super) root: Graph,
    pub(super) child: Graph,
}

impl Graph {
    /// Where an edge of any sort can lead from a node.
    pub(super) fn successors(&self, at: usize) -> Vec<usize> {
        let node = &self.nodes[at];
        let mut all: Vec<usize> = Vec::new();
        if !matches!(node.kind, Kind::Fail) {
            all.extend(targets(&node.next).into_iter().flatten());
        }
        all.extend(node.bound.iter().filter_map(|(_, to)| *to));
        all.extend(node.catches.iter().filter_map(|(_, to)| *to));
        all.extend(self.on_error.filter(|_| self.covered[at]));
        all
    }

    /// How many choices are of several targets.
    pub(super) fn fan_outs(&self) -> usize {
        let several = |form: &Form| usize::from(matches!(form, Form::All(_)));
        let of = |next: &Next| match next {
            Next::Plain(form) => several(form),
            Next::Some(_, form) => 1 + several(form),
            Next::Rules(rules, form) => {
                rules.iter().map(|(_, form)| several(form)).sum::<usize>() + several(form)
            }
        };
        of(&self.start) + self.nodes.iter().map(|node| of(&node.next)).sum::<usize>()
    }

    /// Whether no node can run twice: no way leads in a circle, and where ways meet their branches join.
    pub(super) fn runs_each_once(&self) -> bool {
        let circle = |node: &Node| node.bound.is_some();
        !self.nodes.iter().any(|node| node.each || node.handles || circle(node))
    }

    /// The nodes that some lead to.
    pub(super) fn reached(&self, from: &[To]) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut todo: Vec<usize> = from.iter().copied().flatten().collect();
        while let Some(at) = todo.pop() {
            if !std::mem::replace(&mut reached[at], true) {
                todo.extend(self.successors(at));
            }
        }
        reached
    }
}

/// All targets of a `next`.
pub(super) fn targets(next: &Next) -> Vec<To> {
    let form = |form: &Form| match form {
        Form::To(to) => vec![*to],
        Form::All(all) => all.clone(),
    };
    match next {
        Next::Plain(one) => form(one),
        Next::Some(arms, other) => arms.iter().map(|(_, to)| *to).chain(form(other)).collect(),
        Next::Rules(rules, other) => rules.iter().flat_map(|(_, to)| form(to)).chain(form(other)).collect(),
    }
}
