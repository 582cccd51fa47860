//! What can be written next in an expression or a template.

use super::project::below;
use super::symbol::Symbol;
use crate::expr::{Builtin, FILTERS, FUNCTIONS, TESTS};
use crate::state::{Field, Type};

/// One thing that can be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) label: String,
    /// What is written behind it.
    pub(super) then: &'static str,
    pub(super) what: What,
    /// Its type, in a few words.
    pub(super) detail: Option<String>,
    /// What it is, in a sentence.
    pub(super) doc: Option<String>,
}

/// What an offer is, for its sign in an editor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Node,
    Tool,
    /// A function of a host program.
    Registered,
    Variable,
    Field,
    File,
    Type,
    Key,
    Word,
    Value,
    Function,
}

impl Offer {
    pub(super) fn new(label: impl Into<String>, what: What) -> Self {
        Self { label: label.into(), then: "", what, detail: None, doc: None }
    }

    pub(super) fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub(super) fn doc(mut self, doc: Option<impl Into<String>>) -> Self {
        self.doc = doc.map(Into::into);
        self
    }

    pub(super) fn then(mut self, then: &'static str) -> Self {
        self.then = then;
        self
    }

    /// Offers a value with its type.
    pub(super) fn typed(name: &str, what: What, field: &Field) -> Self {
        Self::new(name, what).detail(field.ty.to_string()).doc(field.description.as_deref())
    }
}

/// The names at the root of an expression.
#[derive(Debug, Default)]
pub(super) struct Roots {
    pub(super) names: Vec<(String, Root)>,
    /// What of the project they stand for, where they do; a name that is empty comes next in the chain.
    pub(super) origins: Vec<(String, Symbol)>,
}

#[derive(Debug)]
pub(super) enum Root {
    /// Only these names below it.
    Fields(Vec<(String, Field)>),
    /// A value.
    Value(Field),
}

impl Roots {
    /// Adds a name for the items of a list, which a chain tells.
    pub(super) fn bind(&mut self, name: &str, of: &str) {
        let chain: Vec<&str> = of.split('.').collect();
        let field = self.resolve(&chain).map(|field| match field.ty.non_null() {
            Type::List(item) => Field::of(item.opened()),
            Type::Messages => Field::of(Type::List(Box::new(Type::Messages))),
            _ => Field::of(Type::Any),
        });
        self.origins.extend(self.meant(&chain).map(|symbol| (name.to_owned(), symbol)));
        self.names.push((name.to_owned(), Root::Value(field.unwrap_or_else(|| Field::of(Type::Any)))));
    }

    /// Returns the thing of the project that a chain leads to.
    pub(super) fn meant(&self, chain: &[&str]) -> Option<Symbol> {
        let (first, rest) = chain.split_first()?;
        let mut symbol = self.origins.iter().rev().find(|(name, _)| name == first)?.1.clone();
        let mut rest = rest.iter().filter(|name| name.parse::<usize>().is_err());
        if symbol.name.is_empty() {
            (*rest.next()?).clone_into(&mut symbol.name);
        }
        symbol.fields.extend(rest.map(|name| (*name).to_owned()));
        Some(symbol)
    }

    /// Returns the type of a chain such as `state.hits[0].title`.
    pub(super) fn resolve(&self, chain: &[&str]) -> Option<Field> {
        let (first, rest) = chain.split_first()?;
        let (start, rest) =
            match self.names.iter().rev().find(|(name, _)| name == first).map(|(_, root)| root)? {
                Root::Value(field) => (field.clone(), rest),
                Root::Fields(fields) => {
                    let (name, rest) = rest.split_first()?;
                    (fields.iter().find(|(known, _)| known == name)?.1.clone(), rest)
                }
            };
        rest.iter()
            .filter(|name| name.parse::<usize>().is_err())
            .try_fold(start, |field, name| below(&field.ty, name))
    }

    /// Returns what can follow a chain and a dot.
    fn fields(&self, chain: &[&str]) -> Vec<Offer> {
        if let [root] = chain
            && let Some((_, Root::Fields(fields))) = self.names.iter().rev().find(|(name, _)| name == root)
        {
            let offer = |(name, field): &(String, Field)| Offer::typed(name, What::Variable, field);
            return fields.iter().map(offer).collect();
        }
        let Some(field) = self.resolve(chain) else { return Vec::new() };
        let indexed = chain.last().is_some_and(|last| last.parse::<usize>().is_ok());
        match field.ty.non_null() {
            Type::Record(fields) => {
                fields.iter().map(|(name, field)| Offer::typed(name, What::Field, field)).collect()
            }
            Type::List(item) if indexed => match item.opened().non_null() {
                Type::Record(fields) => {
                    fields.iter().map(|(name, field)| Offer::typed(name, What::Field, field)).collect()
                }
                _ => Vec::new(),
            },
            Type::Messages if indexed => turn(),
            _ => Vec::new(),
        }
    }
}

/// The fields of a chat turn.
fn turn() -> Vec<Offer> {
    ["id", "role", "content"].map(|name| Offer::new(name, What::Field)).into()
}

/// Returns the parts of the chain at the end of an expression: `state.hits[0].ti`.
pub(super) fn chain(before: &str) -> Vec<&str> {
    let chained = |c: char| is_word(c) || matches!(c, '.' | '[' | ']');
    let chain = &before[before.trim_end_matches(chained).len()..];
    if !chain.contains('.') {
        return vec![chain];
    }
    chain.split(['.', '[']).map(|part| part.trim_end_matches(']')).collect()
}

/// Returns what the word at the end of an expression is one of: the filters behind `|`, the tests behind `is`.
pub(super) fn table(before: &str) -> Option<(&'static str, &'static [Builtin])> {
    let lead = before.trim_end_matches(is_word).trim_end();
    if lead.ends_with('|') && !lead.ends_with("||") {
        return Some(("filter", FILTERS));
    }
    let last_word = |text: &str| text.rsplit(|c: char| !is_word(c)).next().unwrap_or_default().to_owned();
    let tests = last_word(lead) == "is"
        || (last_word(lead) == "not" && last_word(lead[..lead.len() - 3].trim_end()) == "is");
    tests.then_some(("test", TESTS))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Returns what can be written at the end of an expression.
pub(super) fn expression(before: &str, roots: &Roots) -> Vec<Offer> {
    if let Some(quote) = open_quote(before) {
        return literals(&before[..quote], roots);
    }
    let segments = chain(before);
    if let [all @ .., _] = segments.as_slice()
        && !all.is_empty()
    {
        // `a[` begins a subscript, of which nothing is known.
        return roots.fields(all);
    }
    if let Some((_, table)) = table(before) {
        return builtins(table);
    }
    let root = |(name, root): &(String, Root)| match root {
        Root::Fields(_) => Offer::new(name, What::Variable),
        Root::Value(field) => Offer::typed(name, What::Variable, field),
    };
    roots.names.iter().map(root).chain(builtins(FUNCTIONS)).collect()
}

/// Offers the texts that a value can be: behind `state.topic == '`.
fn literals(before: &str, roots: &Roots) -> Vec<Offer> {
    let Some(left) = before.trim_end().strip_suffix("==").or_else(|| before.trim_end().strip_suffix("!="))
    else {
        return Vec::new();
    };
    let left = left.trim_end();
    let chain = &left[left.trim_end_matches(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.')).len()..];
    match roots.resolve(&chain.split('.').collect::<Vec<_>>()).map(|field| field.ty) {
        Some(ty) => match ty.non_null() {
            Type::Enum(values) => values.iter().map(|value| Offer::new(value, What::Value)).collect(),
            _ => Vec::new(),
        },
        None => Vec::new(),
    }
}

/// Finds the quote that is open at the end of an expression.
fn open_quote(text: &str) -> Option<usize> {
    let mut open = None;
    for (at, c) in text.char_indices() {
        match open {
            Some((_, quote)) if quote == c => open = None,
            None if matches!(c, '\'' | '"') => open = Some((at, c)),
            _ => {}
        }
    }
    open.map(|(at, _)| at)
}

/// Offers filters, tests or functions; tests that are signs stand in the arguments of filters only.
fn builtins(table: &[Builtin]) -> Vec<Offer> {
    let words = table.iter().filter(|known| known.name.starts_with(|c: char| c.is_ascii_alphabetic()));
    let offer = |known: &Builtin| {
        let detail = arguments(known);
        let offer = Offer::new(known.name, What::Function);
        if detail.is_empty() { offer } else { offer.detail(detail) }
    };
    words.map(offer).collect()
}

/// Says how many arguments a filter, a test or a function takes; nothing where it takes none.
pub(super) fn arguments(known: &Builtin) -> String {
    match (known.min, known.max) {
        (0, 0) => String::new(),
        (min, max) if min == max => format!("({min})"),
        (min, usize::MAX) => format!("({min}…)"),
        (min, max) => format!("({min}…{max})"),
    }
}

/// What can be written at the end of a template.
pub(super) enum Within<'t> {
    /// Text.
    Text,
    /// An expression.
    Expression(&'t str),
    /// The name of a file to include.
    Include,
}

/// Finds out where the end of a template is.
pub(super) fn within(before: &str) -> Within<'_> {
    let openers = ["{{", "{%", "{#"];
    let opener = openers.iter().filter_map(|sign| Some((before.rfind(sign)?, *sign))).max();
    let Some((at, sign)) = opener else { return Within::Text };
    let inner = before[at + 2..].trim_start_matches(['-', '+']);
    let closer = match sign {
        "{{" => "}}",
        "{%" => "%}",
        _ => "#}",
    };
    if sign == "{#" || inner.contains(closer) {
        return Within::Text;
    }
    if sign == "{{" {
        return Within::Expression(inner);
    }
    let inner = inner.trim_start();
    let (tag, rest) = inner.split_once(' ').unwrap_or((inner, ""));
    match tag {
        _ if tag.len() == inner.len() => Within::Text,
        "include" | "import" | "from" | "extends" if rest.trim_start().starts_with(['"', '\'']) => {
            Within::Include
        }
        "for" => rest.split_once(" in ").map_or(Within::Text, |(_, of)| Within::Expression(of)),
        "set" => rest.split_once('=').map_or(Within::Text, |(_, value)| Within::Expression(value)),
        "if" | "elif" | "with" | "do" | "filter" | "call" => Within::Expression(rest),
        _ => Within::Text,
    }
}

/// Binds the names of the loops around the end of a template.
pub(super) fn bind_loops(before: &str, roots: &mut Roots) {
    let mut open: Vec<(&str, &str)> = Vec::new();
    for tag in before.split("{%").skip(1) {
        let inner = tag.split("%}").next().unwrap_or_default().trim_matches(['-', '+', ' ']);
        if let Some((name, of)) = inner.strip_prefix("for ").and_then(|rest| rest.split_once(" in ")) {
            open.push((name.trim(), of.trim()));
        } else if inner.starts_with("endfor") {
            open.pop();
        }
    }
    for (name, of) in open {
        roots.bind(name, of);
    }
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;

    use super::*;

    fn roots() -> Roots {
        let hit: IndexMap<String, Field> =
            [("title".to_owned(), Field::of(Type::STRING)), ("score".to_owned(), Field::of(Type::NUMBER))]
                .into();
        let state = vec![
            ("hits".to_owned(), Field::of(Type::List(Box::new(Type::Record(hit.clone()))))),
            ("best".to_owned(), Field::of(Type::Nullable(Box::new(Type::Record(hit))))),
            ("topic".to_owned(), Field::of(Type::Enum(vec!["a".to_owned(), "b".to_owned()]))),
        ];
        let names = vec![
            ("state".to_owned(), Root::Fields(state)),
            ("result".to_owned(), Root::Value(Field::of(Type::STRING))),
        ];
        Roots { names, ..Roots::default() }
    }

    #[test]
    fn an_expression_goes_on_with_what_fits_its_end() {
        for (before, expected) in [
            ("sta", "state result dict"),
            ("state.", "hits best topic"),
            ("not state.hi", "hits best topic"),
            ("state.best.", "title score"),
            ("state.hits[0].", "title score"),
            ("state.hits.", ""),
            ("state.nothing.", ""),
            ("other.", ""),
            ("state.topic == '", "a b"),
            ("state.topic in ['", ""),
            ("'state.", ""),
            ("f(state.best.", "title score"),
            ("", "state result dict"),
        ] {
            let found: Vec<String> =
                expression(before, &roots()).into_iter().map(|offer| offer.label).take(3).collect();
            assert_eq!(found.join(" "), expected, "{before}");
        }
        let starts = |before: &str| expression(before, &roots())[0].label.clone();
        assert_eq!(starts("state.hits | "), "abs");
        assert_eq!(starts("state.hits|le"), "abs");
        assert_eq!(starts("state.topic is "), "boolean");
        assert_eq!(starts("state.topic is not de"), "boolean");
        assert_eq!(starts("a || "), "state");
    }

    #[test]
    fn a_template_has_expressions_in_its_tags_only() {
        for (before, expected) in [
            ("Hello {{ input.", Some(" input.")),
            ("{{ a }} b", None),
            ("{% if state.", Some("state.")),
            ("{% for q in hits.", Some("hits.")),
            ("{% for q", None),
            ("{%- set x = state.", Some(" state.")),
            ("{# {{ a", Some(" a")),
            ("{# a", None),
            ("{% i", None),
        ] {
            let found = match within(before) {
                Within::Expression(text) => Some(text),
                _ => None,
            };
            assert_eq!(found, expected, "{before}");
        }
        assert!(matches!(within("{% include \"_par"), Within::Include));
    }

    #[test]
    fn the_name_of_a_loop_has_the_type_of_an_item() {
        let mut roots = roots();
        bind_loops("{% for x in a %}{% endfor %}{% for h in state.hits %}{{ h.", &mut roots);
        let found: Vec<String> = expression("h.", &roots).into_iter().map(|offer| offer.label).collect();
        assert_eq!(found, ["title", "score"]);
        assert!(expression("x.", &roots).is_empty());
    }
}
