//! The closed list of filters, tests and functions, with what they take and give.

/// What a filter or function gives, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// It depends on what it is given.
    Unknown,
    /// `true` or `false`.
    Boolean,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
}

/// A filter, test or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// The fewest arguments in parentheses.
    pub min: usize,
    /// The most arguments in parentheses.
    pub max: usize,
    /// What it gives.
    pub gives: Gives,
    /// Its arguments in order. Of one that takes many, the last stands for all that follow; empty where anything goes.
    pub args: &'static [Argument],
}

/// An argument of a filter, test or function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Argument {
    /// What it is called.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// How it is given.
    pub given: Given,
}

/// What an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Whatever there is.
    Any,
    /// A text.
    Text,
    /// A number.
    Number,
    /// A number to divide by.
    Divisor,
    /// A whole number.
    Whole,
    /// A whole number of 0 or more.
    Natural,
    /// A whole number of 1 or more.
    Count,
    /// `true` or `false`.
    Switch,
    /// A whole number, or `true` for the usual one.
    Width,
    /// What has items: a list, an object, a text.
    Items,
    /// An object.
    Object,
    /// One of the ways to round.
    Method,
}

/// How an argument is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// By its place.
    Place,
    /// By its name.
    Name,
    /// By one or the other.
    Either,
}

const MANY: usize = usize::MAX;

const fn builtin(name: &'static str, min: usize, max: usize, gives: Gives) -> Builtin {
    with(name, min, max, gives, &[])
}

const fn with(
    name: &'static str,
    min: usize,
    max: usize,
    gives: Gives,
    args: &'static [Argument],
) -> Builtin {
    Builtin { name, min, max, gives, args }
}

const fn test(name: &'static str, arguments: usize) -> Builtin {
    const OTHER: &[Argument] = &[place("other", Takes::Any)];
    with(name, arguments, arguments, Gives::Boolean, OTHER)
}

const fn place(name: &'static str, takes: Takes) -> Argument {
    Argument { name, takes, given: Given::Place }
}

const fn named(name: &'static str, takes: Takes) -> Argument {
    Argument { name, takes, given: Given::Name }
}

const fn either(name: &'static str, takes: Takes) -> Argument {
    Argument { name, takes, given: Given::Either }
}

/// What `sort` and its like look at.
const CASE: Argument = named("case_sensitive", Takes::Switch);
const REVERSE: Argument = named("reverse", Takes::Switch);
const ATTRIBUTE: Argument = named("attribute", Takes::Text);

/// Every filter, sorted. HTML escaping has no place in prompts, so its filters are left out.
pub const FILTERS: &[Builtin] = &[
    builtin("abs", 0, 0, Gives::Number),
    with("attr", 1, 1, Gives::Unknown, &[place("name", Takes::Any)]),
    with("batch", 1, 2, Gives::List, &[place("count", Takes::Count), place("fill", Takes::Any)]),
    builtin("bool", 0, 0, Gives::Boolean),
    builtin("capitalize", 0, 0, Gives::Text),
    with("chain", 1, MANY, Gives::Unknown, &[place("more", Takes::Items)]),
    builtin("count", 0, 0, Gives::Number),
    with("d", 0, 2, Gives::Unknown, &[place("value", Takes::Any), either("boolean", Takes::Switch)]),
    with("default", 0, 2, Gives::Unknown, &[place("value", Takes::Any), either("boolean", Takes::Switch)]),
    with("dictsort", 0, 3, Gives::List, &[named("by", Takes::Text), CASE, REVERSE]),
    builtin("first", 0, 0, Gives::Unknown),
    with("float", 0, 1, Gives::Unknown, &[either("default", Takes::Any)]),
    builtin("format", 0, MANY, Gives::Text),
    with(
        "groupby",
        1,
        3,
        Gives::List,
        &[either("attribute", Takes::Text), named("default", Takes::Any), CASE],
    ),
    with(
        "indent",
        0,
        3,
        Gives::Text,
        &[either("width", Takes::Natural), either("first", Takes::Switch), either("blank", Takes::Switch)],
    ),
    with("int", 0, 2, Gives::Unknown, &[either("default", Takes::Any), either("base", Takes::Count)]),
    builtin("items", 0, 0, Gives::List),
    with("join", 0, 2, Gives::Text, &[either("d", Takes::Text), either("attribute", Takes::Text)]),
    builtin("last", 0, 0, Gives::Unknown),
    builtin("last_text", 0, 0, Gives::Text),
    builtin("length", 0, 0, Gives::Number),
    builtin("lines", 0, 0, Gives::List),
    builtin("list", 0, 0, Gives::List),
    builtin("lower", 0, 0, Gives::Text),
    builtin("map", 1, MANY, Gives::List),
    with("max", 0, 2, Gives::Unknown, &[ATTRIBUTE, CASE]),
    with("min", 0, 2, Gives::Unknown, &[ATTRIBUTE, CASE]),
    builtin("quoted", 0, 0, Gives::Text),
    builtin("reject", 0, MANY, Gives::List),
    builtin("rejectattr", 1, MANY, Gives::List),
    with(
        "replace",
        2,
        3,
        Gives::Text,
        &[place("from", Takes::Any), place("to", Takes::Any), either("count", Takes::Whole)],
    ),
    builtin("reverse", 0, 0, Gives::Unknown),
    with("round", 0, 2, Gives::Number, &[either("precision", Takes::Whole), either("method", Takes::Method)]),
    builtin("select", 0, MANY, Gives::List),
    builtin("selectattr", 1, MANY, Gives::List),
    with("slice", 1, 2, Gives::List, &[place("count", Takes::Count), place("fill", Takes::Any)]),
    with("sort", 0, 3, Gives::List, &[ATTRIBUTE, CASE, REVERSE]),
    with("split", 0, 2, Gives::List, &[place("separator", Takes::Text), place("most", Takes::Whole)]),
    builtin("string", 0, 0, Gives::Text),
    with("sum", 0, 2, Gives::Number, &[either("attribute", Takes::Text), either("start", Takes::Number)]),
    builtin("title", 0, 0, Gives::Text),
    with("tojson", 0, 1, Gives::Text, &[either("indent", Takes::Width)]),
    with("trim", 0, 1, Gives::Text, &[place("signs", Takes::Any)]),
    with("unique", 0, 2, Gives::List, &[ATTRIBUTE, CASE]),
    builtin("upper", 0, 0, Gives::Text),
    builtin("urlencode", 0, 0, Gives::Text),
    with("zip", 1, MANY, Gives::List, &[place("more", Takes::Items)]),
];

/// Every test (`x is odd`), sorted. Those that are signs stand in `select` and its like only.
pub const TESTS: &[Builtin] = &[
    test("!=", 1),
    test("<", 1),
    test("<=", 1),
    test("==", 1),
    test(">", 1),
    test(">=", 1),
    test("boolean", 0),
    test("defined", 0),
    with("divisibleby", 1, 1, Gives::Boolean, &[place("by", Takes::Divisor)]),
    with("endingwith", 1, 1, Gives::Boolean, &[place("end", Takes::Text)]),
    test("eq", 1),
    test("equalto", 1),
    test("even", 0),
    test("false", 0),
    test("float", 0),
    test("ge", 1),
    test("greaterthan", 1),
    test("gt", 1),
    test("in", 1),
    test("int", 0),
    test("integer", 0),
    test("iterable", 0),
    test("le", 1),
    test("lessthan", 1),
    test("lower", 0),
    test("lt", 1),
    test("mapping", 0),
    test("ne", 1),
    test("none", 0),
    test("number", 0),
    test("odd", 0),
    test("sameas", 1),
    test("sequence", 0),
    with("startingwith", 1, 1, Gives::Boolean, &[place("beginning", Takes::Text)]),
    test("string", 0),
    test("true", 0),
    test("undefined", 0),
    test("upper", 0),
];

/// Every function, sorted.
pub const FUNCTIONS: &[Builtin] = &[
    builtin("dict", 0, MANY, Gives::Object),
    with(
        "range",
        1,
        3,
        Gives::List,
        &[place("from", Takes::Whole), place("to", Takes::Whole), place("step", Takes::Whole)],
    ),
];

/// The functions that only templates have.
pub const TEMPLATE_FUNCTIONS: &[Builtin] = &[builtin("namespace", 0, MANY, Gives::Object)];

impl Builtin {
    /// Returns the argument that stands at a place, those by name left aside.
    pub(super) fn at(&self, place: usize) -> Option<&'static Argument> {
        let by_place = || self.args.iter().filter(|arg| arg.given != Given::Name);
        by_place().nth(place).or_else(|| by_place().next_back().filter(|_| self.max == MANY))
    }

    /// Returns the argument of a name.
    pub(super) fn named(&self, name: &str) -> Option<&'static Argument> {
        self.args.iter().find(|arg| arg.name == name && arg.given != Given::Place)
    }
}

/// Returns the entry of a name.
pub(crate) fn find(table: &'static [Builtin], name: &str) -> Option<&'static Builtin> {
    table.iter().find(|builtin| builtin.name == name)
}
