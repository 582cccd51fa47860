//! Where a node goes next.

use super::{Key, Map, Named, Shape, Shared, Word, due, key, word};

/// Any form of `next`.
pub static NEXT: Shared = Shared {
    name: "next",
    doc: "Where to go: a node or `end`; a list of rules, of which the first that matches wins; `all` of several nodes; \
          or `some` of them.",
    shape: Shape::OneOf(&FORMS),
};

static FORMS: [Shape; 7] = [
    NODE,
    Shape::Filled(&Shape::OneOf(&RULES)),
    Shape::Map(&ALL),
    Shape::Map(&SOME),
    Shape::Map(&WHEN),
    Shape::Map(&MATCH),
    Shape::Map(&ELSE),
];

static RULES: [Shape; 3] = [Shape::Map(&WHEN), Shape::Map(&MATCH), Shape::Map(&ELSE)];

const NODE: Shape = Shape::Name(Named::Node);

/// A fan-out to several nodes.
pub static ALL: Map = Map {
    name: "all",
    doc: "A fan-out: all of these nodes run in the next superstep.",
    groups: &[&ALL_KEYS],
    rules: &[],
};

static ALL_KEYS: [Key; 1] =
    [due("all", Shape::Filled(&NODE), "The nodes that run in the next superstep, all of them: `[a, b]`.")];

/// A fan-out by conditions.
pub static SOME: Map = Map {
    name: "some",
    doc: "A fan-out by conditions: every branch whose condition holds is taken.",
    groups: &[&SOME_KEYS],
    rules: &[],
};

static SOME_KEYS: [Key; 2] = [
    due(
        "some",
        Shape::Filled(&Shape::Map(&BRANCH)),
        "The branches; every one whose `when` holds is taken: `[{when: input.docs, to: search_docs}, …]`.",
    ),
    due("else", Shape::Shared(&NEXT), "Where to go when no branch is taken."),
];

/// A branch of `some`.
pub static BRANCH: Map = Map {
    name: "branch",
    doc: "A branch that is taken when its condition holds.",
    groups: &[&BRANCH_KEYS],
    rules: &[],
};

static BRANCH_KEYS: [Key; 2] = [
    due("when", Shape::Expression, "The condition: an expression that is true or false, without braces."),
    due("to", Shape::OneOf(&BRANCH_TO), "The node of this branch, or `end`; several with `{all: […]}`."),
];

static BRANCH_TO: [Shape; 2] = [NODE, Shape::Map(&ALL)];

/// A rule with a condition.
pub static WHEN: Map = Map {
    name: "when",
    doc: "A rule with a condition: `when: state.done` and `to: end`.",
    groups: &[&WHEN_KEYS],
    rules: &[],
};

static WHEN_KEYS: [Key; 2] = [
    due(
        "when",
        Shape::Expression,
        "The condition: an expression that is true or false, without braces. It sees the state with the node's own \
         writes.",
    ),
    due("to", Shape::Shared(&NEXT), "Where to go when the condition holds."),
];

/// A rule with cases.
pub static MATCH: Map = Map {
    name: "match",
    doc: "A rule with cases: `match: state.topic` and `cases: {billing: a, other: b}`.",
    groups: &[&MATCH_KEYS],
    rules: &[],
};

static MATCH_KEYS: [Key; 2] = [
    due("match", Shape::Expression, "The expression whose value chooses the case, without braces."),
    due(
        "cases",
        Shape::Names(Named::Case, &Shape::Shared(&NEXT)),
        "Where to go, by value. All values of an enum have to be there, or an `else` follows; `null:` is the case of a \
         missing value.",
    ),
];

/// A rule without a condition.
pub static ELSE: Map =
    Map { name: "else", doc: "The last rule: `else: answer`.", groups: &[&ELSE_KEYS], rules: &[] };

static ELSE_KEYS: [Key; 1] =
    [due("else", Shape::Shared(&NEXT), "Where to go when no rule before it matches.")];

/// The keys of all rules, for one that has none of `when`, `match` and `else`.
pub static RULE: Map =
    Map { name: "rule", doc: "A rule.", groups: &[&WHEN_KEYS, &MATCH_KEYS, &ELSE_KEYS], rules: &[] };

/// `next` of a node.
pub(super) const NEXT_KEY: Key = key(
    "next",
    Shape::Shared(&NEXT),
    "Where to go next: a node, `end`, a list of rules, `{all: […]}` or `{some: […], else: …}`.",
);

/// The name of a node, or `end`.
pub(super) const TO: Shape = NODE;

/// Any form of `on_error`.
pub static ON_ERROR: Shared = Shared {
    name: "on_error",
    doc: "Where an error goes: a node or `end`; or a list of rules, of which the first that matches wins.",
    shape: Shape::OneOf(&ERROR_FORMS),
};

static ERROR_FORMS: [Shape; 2] = [NODE, Shape::Filled(&Shape::OneOf(&ERROR_RULES))];

static ERROR_RULES: [Shape; 2] = [Shape::Map(&CATCH), Shape::Map(&OTHERWISE)];

/// A rule for some errors.
pub static CATCH: Map = Map {
    name: "catch",
    doc: "A rule for some errors: `catch: [timeout, http_5xx]` and `to: apologise`.",
    groups: &[&CATCH_KEYS],
    rules: &[],
};

static CATCH_KEYS: [Key; 2] = [
    due(
        "catch",
        Shape::Filled(&Shape::OneOf(&CAUGHT)),
        "The errors that the rule is for, by kind or by code: `[timeout, http_404, {code: no_stock}]`.",
    ),
    due("to", NODE, "The node that handles these errors, or `end`."),
];

static CAUGHT: [Shape; 2] = [Shape::Name(Named::ErrorKind), Shape::Map(&CODE)];

/// The code of an error.
pub static CODE: Map = Map { name: "code", doc: "An error by its code.", groups: &[&CODE_KEYS], rules: &[] };

static CODE_KEYS: [Key; 1] = [due("code", Shape::Name(Named::ErrorCode), "The `code` of a `fail` node.")];

/// The rule for all other errors.
pub static OTHERWISE: Map = Map {
    name: "otherwise",
    doc: "The last rule, for all other errors: `else: apologise`.",
    groups: &[&OTHERWISE_KEYS],
    rules: &[],
};

static OTHERWISE_KEYS: [Key; 1] =
    [due("else", NODE, "The node that handles every error that no rule before it matches, or `end`.")];

/// The keys of all rules of `on_error`, for one that has neither `catch` nor `else`.
pub static ERROR_RULE: Map = Map {
    name: "error_rule",
    doc: "A rule for errors.",
    groups: &[&CATCH_KEYS, &OTHERWISE_KEYS],
    rules: &[],
};

pub(super) static END: [Word; 1] = [word("end", "The end of this branch.")];
