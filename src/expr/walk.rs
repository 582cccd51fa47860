//! What an expression reads, and what is wrong with it, as far as its text tells.

use std::ops::Range;

use minijinja::machinery::ast::{self, BinOpKind, CallArg, UnaryOpKind};
use minijinja::value::ValueKind;

use super::node::TOO_DEEP;
use super::places::{chain, range};
use super::syntax::within;
use super::table::{Builtin, FILTERS, FUNCTIONS, Gives, TEMPLATE_FUNCTIONS, TESTS, find};
use super::words::{filter_for, replacement};
use super::{ExprError, Read};
use crate::diagnostic::suggest;

/// Where an expression stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In an expression key: operands of `and`, `or` and `not` are booleans.
    Key,
    /// In a template: everything is true or false there, and there are macros.
    Template,
}

/// How deep an expression may nest: it bounds the stack of all that goes through it.
const DEEPEST: usize = 100;

/// Goes through expressions and collects what they read and what is wrong with them.
pub(crate) struct Walk<'a> {
    /// The text that the places are in.
    pub(crate) source: &'a str,
    /// Where the expressions stand.
    pub(crate) place: Place,
    /// The names that are bound around the expression; a name of these is no read.
    pub(crate) bound: Vec<&'a str>,
    /// What is read, in the order written.
    pub(crate) reads: Vec<Read>,
    /// What is wrong.
    pub(crate) errors: Vec<ExprError>,
    /// How deep the walk is.
    depth: usize,
    too_deep: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(source: &'a str, place: Place) -> Self {
        Self {
            source,
            place,
            bound: Vec::new(),
            reads: Vec::new(),
            errors: Vec::new(),
            depth: 0,
            too_deep: false,
        }
    }

    fn is_bound(&self, name: &str) -> bool {
        self.bound.contains(&name)
    }

    /// Goes through one expression.
    pub(crate) fn expr(&mut self, expr: &ast::Expr<'a>) {
        if self.depth >= DEEPEST {
            return self.refuse(expr);
        }
        self.depth += 1;
        self.parts(expr);
        self.depth -= 1;
    }

    /// Reports that an expression nests too deeply, once.
    fn refuse(&mut self, expr: &ast::Expr<'a>) {
        if !std::mem::replace(&mut self.too_deep, true) {
            let at = range(expr);
            self.errors.push(ExprError {
                code: "E101",
                message: TOO_DEEP.to_owned(),
                label: "here".to_owned(),
                help: Some("split it, for instance with `{% set %}`".to_owned()),
                range: within(self.source, Some(at.start..at.start)),
            });
        }
    }

    fn parts(&mut self, expr: &ast::Expr<'a>) {
        match expr {
            ast::Expr::Var(var) => self.read(var.id, Vec::new(), range(expr)),
            ast::Expr::Const(_) => {}
            ast::Expr::GetAttr(_) | ast::Expr::GetItem(_) => self.chain(expr),
            ast::Expr::Slice(slice) => {
                self.expr(&slice.expr);
                for part in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    self.expr(part);
                }
            }
            ast::Expr::UnaryOp(op) => {
                if matches!(op.op, UnaryOpKind::Not) {
                    self.boolean(&op.expr);
                }
                self.expr(&op.expr);
            }
            ast::Expr::BinOp(op) => {
                match op.op {
                    BinOpKind::ScAnd => {
                        self.boolean(&op.left);
                        self.boolean(&op.right);
                    }
                    BinOpKind::ScOr => self.alternatives(op),
                    _ => {}
                }
                self.expr(&op.left);
                self.expr(&op.right);
            }
            ast::Expr::Compare(compare) => {
                self.expr(&compare.expr);
                for op in &compare.ops {
                    self.expr(&op.expr);
                }
            }
            ast::Expr::IfExpr(cond) => {
                self.boolean(&cond.test_expr);
                self.expr(&cond.true_expr);
                self.expr(&cond.test_expr);
                match &cond.false_expr {
                    Some(other) => self.expr(other),
                    None => self.errors.push(ExprError {
                        code: "E101",
                        message: "an `if` in an expression needs an `else`".to_owned(),
                        label: "gives nothing when the condition is false".to_owned(),
                        help: Some("write `x if c else y`".to_owned()),
                        range: range(expr),
                    }),
                }
            }
            ast::Expr::Filter(filter) => {
                if let Some(inner) = &filter.expr {
                    self.expr(inner);
                }
                self.args(&filter.args);
                self.filter(filter.name, name_range(filter.name, filter.span()), &filter.args);
            }
            ast::Expr::Test(test) => {
                self.expr(&test.expr);
                self.args(&test.args);
                self.known("test", TESTS, test.name, name_range(test.name, test.span()), &test.args);
            }
            ast::Expr::Call(call) => self.call(call, range(expr)),
            ast::Expr::List(list) => list.items.iter().for_each(|item| self.expr(item)),
            ast::Expr::Tuple(tuple) => tuple.items.iter().for_each(|item| self.expr(item)),
            ast::Expr::Map(map) => {
                for (key, value) in map.keys.iter().zip(&map.values) {
                    self.expr(key);
                    self.expr(value);
                }
            }
        }
    }

    pub(crate) fn args(&mut self, args: &[CallArg<'a>]) {
        for arg in args {
            match arg {
                CallArg::Pos(expr) | CallArg::Kwarg(_, expr) => self.expr(expr),
                CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                    self.expr(expr);
                    if self.place == Place::Key {
                        self.errors.push(ExprError {
                            code: "E101",
                            message: "arguments cannot be unpacked here".to_owned(),
                            label: "write the arguments one by one".to_owned(),
                            help: None,
                            range: range(expr),
                        });
                    }
                }
            }
        }
    }

    fn read(&mut self, root: &str, path: Vec<String>, range: Range<usize>) {
        if self.is_bound(root) {
            return;
        }
        let spelt = match root {
            "null" | "Null" | "NULL" | "nil" | "undefined" | "NONE" => Some("none"),
            "TRUE" => Some("true"),
            "FALSE" => Some("false"),
            _ => None,
        };
        match spelt {
            Some(spelt) => self.errors.push(ExprError {
                code: "E102",
                message: format!("unknown name `{root}`"),
                label: "no such name".to_owned(),
                help: Some(format!("write `{spelt}`")),
                range: range.start..range.start + root.len(),
            }),
            None if root == "self" && self.place == Place::Template => self.no_self(range),
            None => {
                let near = suggest(root, self.bound.iter().copied()).map(str::to_owned);
                self.reads.push(Read { root: root.to_owned(), path, near, range });
            }
        }
    }

    /// What a block prints cannot be asked for: it might be itself.
    fn no_self(&mut self, range: Range<usize>) {
        self.errors.push(ExprError {
            code: "E102",
            message: "there is no `self` here".to_owned(),
            label: "nothing has this name".to_owned(),
            help: Some("write a macro:  {% macro name() %}…{% endmacro %}  and  {{ name() }}".to_owned()),
            range,
        });
    }

    /// A name with the fields and fixed subscripts that follow it. A subscript that is computed ends what
    /// is known of the path.
    fn chain(&mut self, expr: &ast::Expr<'a>) {
        match chain(expr) {
            Some((_, path)) if self.depth + path.len() > DEEPEST => self.refuse(expr),
            Some((root, path)) => self.read(root, path, range(expr)),
            None => match expr {
                ast::Expr::GetAttr(attr) => self.expr(&attr.expr),
                ast::Expr::GetItem(item) => {
                    self.expr(&item.expr);
                    self.expr(&item.subscript_expr);
                }
                other => self.expr(other),
            },
        }
    }

    pub(crate) fn call(&mut self, call: &ast::Call<'a>, whole: Range<usize>) {
        match &call.expr {
            ast::Expr::Var(var) => {
                self.args(&call.args);
                if self.is_bound(var.id) {
                    return;
                }
                if self.place == Place::Template && find(TEMPLATE_FUNCTIONS, var.id).is_some() {
                    return;
                }
                let at = range(&call.expr);
                if let Some(known) = find(FUNCTIONS, var.id) {
                    self.arity("function", known, at, &call.args);
                } else {
                    let help = self.function_help(var.id, &call.args);
                    self.unknown("function", var.id, at, help);
                }
            }
            ast::Expr::GetAttr(attr) => {
                self.args(&call.args);
                // Modules and `loop` of a template have functions of their own: what each of them has is known with
                // the types.
                let root = chain(&attr.expr).map(|(root, _)| root);
                if root.is_some_and(|root| self.is_bound(root)) {
                    return;
                }
                if root == Some("self") && self.place == Place::Template {
                    return self.no_self(range(&attr.expr));
                }
                self.expr(&attr.expr);
                let object = &self.source[range(&attr.expr)];
                let help = match filter_for(attr.name) {
                    Some(filter) => {
                        let args = self.written(&call.args);
                        let args = if args.is_empty() { args } else { format!("({args})") };
                        format!("write `{object} | {filter}{args}`")
                    }
                    None => "there are no methods; filters are written `x | name`".to_owned(),
                };
                let at = whole.start + object.len()..whole.end;
                self.unknown("function", attr.name, at, Some(help));
            }
            other => {
                self.expr(other);
                self.args(&call.args);
                self.unknown("function", &self.source[range(other)], whole, None);
            }
        }
    }

    fn function_help(&self, name: &str, args: &[CallArg<'a>]) -> Option<String> {
        if let Some(filter) = filter_for(name)
            && let [CallArg::Pos(value), rest @ ..] = args
        {
            let value = &self.source[range(value)];
            let rest = self.written(rest);
            let rest = if rest.is_empty() { rest } else { format!("({rest})") };
            return Some(format!("write `{value} | {filter}{rest}`"));
        }
        let functions = FUNCTIONS.iter().map(|known| known.name);
        suggest(name, functions).map(|near| format!("did you mean `{near}`?"))
    }

    fn written(&self, args: &[CallArg<'a>]) -> String {
        let arg = |arg: &CallArg<'a>| match arg {
            CallArg::Kwarg(name, expr) => format!("{name}={}", &self.source[range(expr)]),
            CallArg::Pos(expr) | CallArg::PosSplat(expr) | CallArg::KwargSplat(expr) => {
                self.source[range(expr)].to_owned()
            }
        };
        args.iter().map(arg).collect::<Vec<_>>().join(", ")
    }

    /// Checks a filter, and the filters and tests that its arguments name.
    pub(crate) fn filter(&mut self, name: &str, at: Range<usize>, args: &[CallArg<'a>]) {
        self.known("filter", FILTERS, name, at.clone(), args);
        let named = match name {
            "map" => Some(("filter", FILTERS, 0)),
            "select" | "reject" => Some(("test", TESTS, 0)),
            "selectattr" | "rejectattr" => Some(("test", TESTS, 1)),
            _ => None,
        };
        if let Some((sort, table, nth)) = named {
            self.handed_on(name, at.clone(), (sort, table), nth, args);
        }
        let by_name = |wanted: &str| {
            args.iter().any(|arg| matches!(arg, CallArg::Kwarg(name, _) if *name == wanted) || unpacked(arg))
        };
        let first = matches!(args.first(), Some(CallArg::Pos(_)));
        if matches!(name, "map" | "groupby") && !first && !by_name("attribute") && !args.is_empty() {
            let help = Some(format!("write  {name}(attribute='name')"));
            self.wrong(format!("the filter `{name}` lacks its `attribute`"), "no field is named", help, at);
        }
    }

    /// Checks the filter or the test that another filter hands its items to.
    fn handed_on(
        &mut self,
        name: &str,
        at: Range<usize>,
        (sort, table): (&str, &'static [Builtin]),
        nth: usize,
        args: &[CallArg<'a>],
    ) {
        let named = |arg: &CallArg<'_>| match arg {
            CallArg::Kwarg(given, _) if name == "map" => !matches!(*given, "attribute" | "default"),
            CallArg::Kwarg(..) => true,
            _ => false,
        };
        if args.iter().any(named) {
            let message = format!("`{name}` hands its arguments on by their places");
            return self.wrong(message, "one has a name", None, at);
        }
        let Some(CallArg::Pos(arg)) = args.get(nth) else { return };
        let literal = match arg {
            ast::Expr::Const(literal) => literal.value.as_str(),
            _ => None,
        };
        let Some(named) = literal else {
            let message = format!("`{name}` takes the name of a {sort}");
            return self.wrong(message, "not a text in quotes", None, range(arg));
        };
        match find(table, named) {
            Some(known) if args.iter().all(|arg| matches!(arg, CallArg::Pos(_))) => {
                self.arity(sort, known, range(arg), args.get(nth + 1..).unwrap_or_default());
            }
            Some(_) if args.iter().any(unpacked) => {}
            Some(_) => {
                let message = format!("`{name}` takes a field or a {sort}, not both");
                self.wrong(message, "beside `attribute`", None, range(arg));
            }
            None => {
                let help = replacement(sort, named, table);
                self.unknown(sort, named, range(arg), help);
            }
        }
    }

    fn wrong(&mut self, message: String, label: &str, help: Option<String>, range: Range<usize>) {
        self.errors.push(ExprError { code: "E103", message, label: label.to_owned(), help, range });
    }

    fn known(
        &mut self,
        sort: &str,
        table: &'static [Builtin],
        name: &str,
        at: Range<usize>,
        args: &[CallArg<'a>],
    ) {
        if let Some(known) = find(table, name) {
            self.arity(sort, known, at, args);
        } else {
            let help = replacement(sort, name, table);
            self.unknown(sort, name, at, help);
        }
    }

    fn unknown(&mut self, sort: &str, name: &str, range: Range<usize>, help: Option<String>) {
        self.errors.push(ExprError {
            code: "E103",
            message: format!("unknown {sort} `{name}`"),
            label: format!("no {sort} has this name"),
            help: help.or_else(|| Some(format!("there are: {}", all_of(sort)))),
            range,
        });
    }

    fn arity(&mut self, sort: &str, known: &Builtin, range: Range<usize>, args: &[CallArg<'a>]) {
        if (known.min..=known.max).contains(&args.len()) || args.iter().any(unpacked) {
            return;
        }
        let due = match (known.min, known.max) {
            (0, 0) => "no arguments".to_owned(),
            (1, 1) => "one argument".to_owned(),
            (min, max) if min == max => format!("{min} arguments"),
            (min, usize::MAX) => format!("{min} or more arguments"),
            (min, max) => format!("{min} to {max} arguments"),
        };
        self.errors.push(ExprError {
            code: "E103",
            message: format!("the {sort} `{}` takes {due}, not {}", known.name, args.len()),
            label: format!("takes {due}"),
            help: None,
            range,
        });
    }

    /// Refuses an operand that cannot be a boolean.
    fn boolean(&mut self, expr: &ast::Expr<'a>) {
        if self.place != Place::Key {
            return;
        }
        if let Some(found) = no_boolean(expr) {
            self.errors.push(ExprError {
                code: "E104",
                message: "a condition is `true` or `false`".to_owned(),
                label: format!("this is {found}"),
                help: None,
                range: range(expr),
            });
        }
    }

    /// The operands of a chain of `or`, of which `x == 'a' or 'b'` is worth a word of its own.
    fn alternatives(&mut self, op: &ast::BinOp<'a>) {
        if self.place != Place::Key {
            return;
        }
        if let (ast::Expr::BinOp(left), ast::Expr::Const(right)) = (&op.left, &op.right)
            && matches!(left.op, BinOpKind::Eq)
            && right.value.kind() != ValueKind::Bool
        {
            let text = |expr| &self.source[range(expr)];
            let fixed = format!("{} in [{}, {}]", text(&left.left), text(&left.right), text(&op.right));
            self.errors.push(ExprError {
                code: "E104",
                message: "a condition is `true` or `false`".to_owned(),
                label: "this is always compared with nothing".to_owned(),
                help: Some(format!("write `{fixed}`")),
                range: range(&op.right),
            });
            return;
        }
        self.boolean(&op.left);
        self.boolean(&op.right);
    }
}

pub(super) fn unpacked(arg: &CallArg<'_>) -> bool {
    matches!(arg, CallArg::PosSplat(_) | CallArg::KwargSplat(_))
}

/// Says what an expression gives when that cannot be a boolean.
pub(super) fn no_boolean(expr: &ast::Expr<'_>) -> Option<&'static str> {
    match expr {
        ast::Expr::Const(literal) => match literal.value.kind() {
            ValueKind::Bool => None,
            ValueKind::None => Some("null"),
            ValueKind::Number => Some("a number"),
            _ => Some("a text"),
        },
        ast::Expr::List(_) | ast::Expr::Tuple(_) | ast::Expr::Slice(_) => Some("a list"),
        ast::Expr::Map(_) => Some("an object"),
        ast::Expr::UnaryOp(op) => matches!(op.op, UnaryOpKind::Neg).then_some("a number"),
        ast::Expr::BinOp(op) => match op.op {
            BinOpKind::Concat => Some("a text"),
            BinOpKind::Add => Some("a sum"),
            BinOpKind::Sub
            | BinOpKind::Mul
            | BinOpKind::Div
            | BinOpKind::FloorDiv
            | BinOpKind::Rem
            | BinOpKind::Pow => Some("a number"),
            _ => None,
        },
        ast::Expr::Filter(filter) => match find(FILTERS, filter.name)?.gives {
            Gives::Number => Some("a number"),
            Gives::Text => Some("a text"),
            Gives::List => Some("a list"),
            Gives::Object => Some("an object"),
            Gives::Unknown | Gives::Boolean => None,
        },
        _ => None,
    }
}

/// Lists the names of a sort that stand in words.
fn all_of(sort: &str) -> String {
    let table = match sort {
        "filter" => FILTERS,
        "test" => TESTS,
        _ => FUNCTIONS,
    };
    let words =
        table.iter().map(|known| known.name).filter(|name| name.starts_with(|c: char| c.is_alphabetic()));
    words.collect::<Vec<_>>().join(", ")
}

fn name_range(name: &str, span: minijinja::machinery::Span) -> Range<usize> {
    let start = span.start_offset as usize;
    start..start + name.len()
}
