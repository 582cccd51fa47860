//! The types of expressions, known before anything runs.
//!
//! Invariant: what is refused here would fail when it runs, or would always give the same answer. What cannot be
//! known has the type `any` and is left to the run.

mod args;
mod branches;
mod facts;
mod fields;
mod filters;
mod format;
mod items;
mod lists;
mod locals;
mod operators;
mod typed;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use minijinja::machinery::ast;
use minijinja::value::ValueKind;

pub use branches::odd_part;
pub use facts::Facts;
pub(crate) use locals::{Around, Called, Local, Macro, Module, SpaceField};
pub(crate) use operators::boolean_help;
pub(crate) use typed::Family;
pub use typed::Typed;

use super::places::{chain, index, range, whole};
use super::{ExprError, Place, syntax};
use crate::state::{Field, ROLES, Type, either};

/// What a name stands for.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its type.
    pub ty: Type,
    /// It starts without a value: it has one only where the facts say so.
    pub unset: bool,
    /// Its texts come from outside: from people, from tools, or from a model that read such.
    pub untrusted: bool,
    /// It begins as an object without fields, which writes fill one by one.
    pub gradual: bool,
    /// It is a list of lists that have exactly these parts each.
    pub parts: Option<Vec<Type>>,
}

/// A name at the root of an expression.
#[derive(Debug, Clone)]
pub enum Root {
    /// Only its fields are values: `state`, `input`, `run`.
    Fields(BTreeMap<String, Slot>),
    /// A value.
    Value(Slot),
}

/// The names that an expression can read.
pub type Roots = BTreeMap<String, Root>;

/// What is wrong with the types of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, and where.
    pub error: ExprError,
    /// The path whose declaration disagrees: `state.triage.intent`.
    pub about: Option<String>,
}

impl Slot {
    /// Makes a slot that always has a value, from the project itself.
    pub fn of(ty: Type) -> Self {
        Self { ty, unset: false, untrusted: false, gradual: false, parts: None }
    }
}

/// Goes through expressions and finds their types.
pub(crate) struct Infer<'e> {
    /// The text that the places are in.
    pub(crate) source: &'e str,
    /// Where the expressions stand.
    pub(crate) place: Place,
    /// The names of the surroundings.
    pub(crate) roots: &'e Roots,
    /// The names that the template itself binds, the innermost last.
    pub(crate) locals: Vec<(String, Local)>,
    /// What is known here.
    pub(crate) facts: Facts,
    /// The code of a field that does not exist.
    pub(crate) no_field: &'static str,
    /// What is wrong.
    pub(crate) faults: Vec<Fault>,
    /// The macros that were called.
    pub(crate) called: Vec<Called>,
    /// The fields of namespaces, by their keys.
    pub(crate) spaces: BTreeMap<Rc<str>, BTreeMap<String, SpaceField>>,
    /// Within the operand of `is defined` and `default`, which take a name without a value.
    lenient: bool,
}

/// Finds the type of an expression that has been parsed before.
pub fn infer(source: &str, roots: &Roots, facts: &Facts) -> (Typed, Vec<Fault>) {
    let mut infer = Infer::new(source, Place::Key, roots, facts.clone(), "S402");
    let typed = match syntax::parse(source) {
        Ok(expr) => infer.expr(&expr),
        // Reported when it was parsed.
        Err(_) => Typed::any(),
    };
    (typed, infer.faults)
}

/// Returns what is known where a condition that has been parsed before gave `truth`.
pub fn narrow(source: &str, truth: bool) -> Facts {
    syntax::parse(source).map(|expr| facts::narrow(&expr, truth, Place::Key)).unwrap_or_default()
}

impl<'e> Infer<'e> {
    pub(crate) fn new(
        source: &'e str,
        place: Place,
        roots: &'e Roots,
        facts: Facts,
        no_field: &'static str,
    ) -> Self {
        Self {
            source,
            place,
            roots,
            locals: Vec::new(),
            facts,
            no_field,
            faults: Vec::new(),
            called: Vec::new(),
            spaces: BTreeMap::new(),
            lenient: false,
        }
    }

    pub(crate) fn fault(
        &mut self,
        code: &'static str,
        message: String,
        range: Range<usize>,
        label: impl Into<String>,
        help: Option<String>,
        about: Option<String>,
    ) {
        let range = self.whole(range);
        let error = ExprError { code, message, label: label.into(), help, range };
        self.faults.push(Fault { error, about });
    }

    fn text(&self, expr: &ast::Expr<'_>) -> &'e str {
        self.source.get(self.whole(range(expr))).unwrap_or_default().trim()
    }

    /// Takes in the parenthesis that an expression begins with, which the parser's places leave out.
    fn whole(&self, range: Range<usize>) -> Range<usize> {
        whole(self.source, range)
    }

    /// Goes on with what a condition tells; returns what was known before.
    pub(crate) fn assume(&mut self, condition: &ast::Expr<'_>, truth: bool) -> Facts {
        let more = facts::narrow(condition, truth, self.place);
        let before = self.facts.clone();
        self.facts.extend(&more);
        before
    }

    /// Goes on with what a loop tells of the list that it goes through: it has items, and one for each of its numbers.
    pub(crate) fn gone_through(&mut self, iter: &ast::Expr<'_>, path: Option<&str>, target: Option<&str>) {
        if let Some(path) = path {
            self.facts.fill(format!("{path}[]"));
            self.facts.define(format!("{path}.[loop.index0]"));
        }
        // `{% for i in range(xs | length) %}`
        if let ast::Expr::Call(call) = iter
            && matches!(&call.expr, ast::Expr::Var(name) if name.id == "range")
            && let [ast::CallArg::Pos(length)] = call.args.as_slice()
            && let (Some(list), Some(target)) = (facts::length_of(length), target)
        {
            self.facts.define(format!("{list}.[{target}]"));
        }
    }

    /// Finds the type of an expression.
    pub(crate) fn expr(&mut self, expr: &ast::Expr<'_>) -> Typed {
        match expr {
            ast::Expr::Var(var) => self.name(var.id, range(expr)),
            ast::Expr::Const(literal) => match literal.value.kind() {
                ValueKind::None => Typed::null(),
                ValueKind::Bool => Typed::of(Type::Boolean),
                ValueKind::Number if literal.value.is_integer() => Typed::of(Type::INTEGER),
                ValueKind::Number => Typed::of(Type::NUMBER),
                _ => Typed::text(literal.value.as_str().unwrap_or_default()),
            },
            ast::Expr::GetAttr(attr) => {
                if let ast::Expr::Var(root) = &attr.expr
                    && let Some(found) = self.root_field(root.id, attr.name, range(expr))
                {
                    return found;
                }
                let object = self.holder(&attr.expr);
                self.field(&attr.expr, object, attr.name, range(expr))
            }
            ast::Expr::GetItem(item) => self.item(item, range(expr)),
            ast::Expr::Slice(slice) => {
                let held = self.expr(&slice.expr);
                for bound in [&slice.start, &slice.stop, &slice.step].into_iter().flatten() {
                    let typed = self.expr(bound);
                    if !typed.null && !items::is_whole(&typed) {
                        self.misfit(bound, &typed, "a slice goes from one whole number to another");
                    }
                }
                if let Some(step) = slice.step.as_ref().filter(|step| index(step) == Some(0)) {
                    let message = "a slice takes steps of 1 or more, or of -1 or less".to_owned();
                    self.fault("S403", message, range(step), "this is 0", None, None);
                }
                let held = self.some(&slice.expr, held, "a slice");
                match held.family() {
                    Family::List => Typed { path: None, ..held },
                    Family::Text => Typed { ty: Type::STRING, path: None, ..held },
                    _ if held.must_be(&[Family::List, Family::Text]) => Typed::any().trust(&held),
                    _ => {
                        self.misfit(&slice.expr, &held, "a slice takes a list or a text");
                        Typed::any()
                    }
                }
            }
            ast::Expr::UnaryOp(op) => self.unary(op),
            ast::Expr::BinOp(op) => self.binary(op),
            ast::Expr::Compare(compare) => {
                let mut left = (&compare.expr, self.expr(&compare.expr));
                for op in &compare.ops {
                    let right = self.expr(&op.expr);
                    self.compare(operators::comparison(op.op), (left.0, &left.1), (&op.expr, &right));
                    left = (&op.expr, right);
                }
                Typed::of(Type::Boolean)
            }
            ast::Expr::IfExpr(cond) => {
                self.condition(&cond.test_expr);
                let before = self.assume(&cond.test_expr, true);
                let then = self.expr(&cond.true_expr);
                self.facts = before;
                match &cond.false_expr {
                    Some(other) => {
                        let before = self.assume(&cond.test_expr, false);
                        let other = self.expr(other);
                        self.facts = before;
                        then.union(other)
                    }
                    None => then,
                }
            }
            ast::Expr::Filter(filter) => self.filter(expr, filter),
            ast::Expr::Test(test) => self.test(test),
            ast::Expr::Call(call) => self.call(call),
            ast::Expr::List(list) => self.list(&list.items),
            ast::Expr::Tuple(tuple) => self.list(&tuple.items),
            ast::Expr::Map(map) => self.map(map),
        }
    }

    /// Finds the type of an operand that may have no value: a name with its fields, or an item of a list that may be
    /// empty. What stands deeper has to have one.
    fn maybe(&mut self, expr: &ast::Expr<'_>) -> Typed {
        let part = match expr {
            ast::Expr::GetItem(_) | ast::Expr::GetAttr(_) => true,
            ast::Expr::Filter(filter) => filter.name == "attr",
            _ => false,
        };
        if !part && facts::path_of(expr).is_none() {
            return self.expr(expr);
        }
        let before = std::mem::replace(&mut self.lenient, true);
        let typed = self.expr(expr);
        self.lenient = before;
        typed
    }

    /// Finds the type of what a field or an item is read from. It has to be set even where they need not.
    fn holder(&mut self, expr: &ast::Expr<'_>) -> Typed {
        let before = std::mem::replace(&mut self.lenient, false);
        let typed = self.expr(expr);
        self.lenient = before;
        typed
    }

    fn name(&mut self, name: &str, range: Range<usize>) -> Typed {
        if let Some(local) = self.local(name).cloned() {
            return self.local_value(&local, name, range);
        }
        match self.roots.get(name) {
            Some(Root::Value(slot)) => self.slot(slot, name.to_owned(), range),
            // `state` as a whole: an object of whatever is set.
            Some(Root::Fields(fields)) => {
                let untrusted = fields.values().any(|slot| slot.untrusted);
                Typed { untrusted, ..Typed::of(Type::Object) }
            }
            None => Typed::any(),
        }
    }

    fn list(&mut self, items: &[ast::Expr<'_>]) -> Typed {
        let items: Vec<Typed> = items.iter().map(|item| self.expr(item)).collect();
        Typed::list(items.into_iter())
    }

    fn map(&mut self, map: &ast::Map<'_>) -> Typed {
        let mut fields = Vec::new();
        let mut known = true;
        for (key, value) in map.keys.iter().zip(&map.values) {
            let typed = self.expr(value);
            let name = match key {
                ast::Expr::Const(name) => name.value.as_str(),
                _ => None,
            };
            if name.is_none() {
                let typed = self.expr(key);
                let typed = self.some(key, typed, "the name of a field");
                if !typed.must_be(&[Family::Text]) {
                    self.misfit(key, &typed, "a field has a text for its name");
                }
            }
            known &= name.is_some();
            fields.push((name.unwrap_or_default().to_owned(), typed));
        }
        let record = Typed::record(fields.into_iter());
        // An object whose keys are computed has fields that are looked for when it runs.
        if known { record } else { Typed { untrusted: record.untrusted, ..Typed::any() } }
    }

    /// Says what an expression is called in a message.
    fn named(&self, expr: &ast::Expr<'_>, typed: &Typed) -> String {
        match &typed.path {
            Some(path) => format!("`{path}`"),
            None => format!("`{}`", self.text(expr)),
        }
    }

    /// Takes a value that must not be null.
    pub(crate) fn some(&mut self, expr: &ast::Expr<'_>, typed: Typed, who: &str) -> Typed {
        if !typed.null && !matches!(typed.ty, Type::Nullable(_)) {
            return typed;
        }
        if !self.lenient {
            let named = self.named(expr, &typed);
            let (message, label) = if typed.null {
                (format!("{who} of null"), "this is null".to_owned())
            } else {
                (format!("{named} may be null here"), format!("this is {}", typed.ty))
            };
            let text = named.trim_matches('`');
            // A filter takes what stands right before it.
            let value = match expr {
                ast::Expr::IfExpr(_)
                | ast::Expr::BinOp(_)
                | ast::Expr::UnaryOp(_)
                | ast::Expr::Compare(_)
                | ast::Expr::Test(_) => format!("({text})"),
                _ => text.to_owned(),
            };
            let help = format!("give a value for null:  {value} | default(…){}", self.guard(expr));
            self.fault("S412", message, range(expr), label, Some(help), typed.path.clone());
            if let Some(path) = &typed.path {
                self.facts.fill(path.clone());
            }
        }
        Typed { ty: typed.ty.non_null().clone(), null: false, ..typed }
    }

    /// Says how to ask before whether a value is there, where a condition can tell.
    fn guard(&self, expr: &ast::Expr<'_>) -> String {
        let text = self.text(expr);
        let list = match expr {
            ast::Expr::Filter(filter) if facts::end_of(expr).is_some() => filter.expr.as_ref(),
            _ => None,
        };
        match (self.place, list) {
            (Place::Key, Some(list)) => format!("  or guard it with  {} | length > 0", self.text(list)),
            (Place::Template, Some(list)) => format!("  or guard it with  {{% if {} %}}", self.text(list)),
            (Place::Key, None) if facts::path_of(expr).is_some() => {
                format!("  or guard it with  {text} is not none")
            }
            (Place::Template, None) if facts::path_of(expr).is_some() => {
                format!("  or guard it with  {{% if {text} %}}")
            }
            (Place::Key, None) => String::new(),
            (Place::Template, None) => {
                format!("  or name it first:  {{% set x = {text} %}}{{% if x %}}")
            }
        }
    }

    /// Reports an operand of the wrong type.
    fn misfit(&mut self, expr: &ast::Expr<'_>, typed: &Typed, message: &str) {
        let label = format!("this is {typed}");
        self.fault("S403", message.to_owned(), range(expr), label, None, typed.path.clone());
    }
}

/// The type of a chat turn, as far as it is known: its content is a text, or a list of parts.
fn turn() -> Type {
    let content = either(Type::STRING, Type::List(Box::new(Type::Any)));
    let role = Type::Enum(ROLES.iter().map(|&role| role.to_owned()).collect());
    let fields = [("id", Type::STRING), ("role", role), ("content", content)];
    Type::Record(fields.into_iter().map(|(name, ty)| (name.to_owned(), Field::of(ty))).collect())
}

/// Says whether a value can be a chat turn.
fn is_turn(ty: &Type) -> bool {
    match ty {
        Type::Any | Type::Object => true,
        Type::Record(fields) => fields.contains_key("role") && fields.contains_key("content"),
        _ => false,
    }
}

/// Tells a group of `groupby` from an object with the same fields, such as one that was stored. No YAML holds this character.
const GROUP: &str = "\0groupby";

/// The type of a group of `groupby`: an object, and, until it is stored, a list of its two fields.
fn group(key: Type, items: Type) -> Type {
    let fields = [("grouper", key), ("list", Type::List(Box::new(items)))];
    let field = |ty| Field { description: Some(GROUP.to_owned()), ..Field::of(ty) };
    Type::Record(fields.into_iter().map(|(name, ty)| (name.to_owned(), field(ty))).collect())
}

/// Returns what a group is made of.
pub(crate) fn parts_of_group(ty: &Type) -> Option<Vec<Type>> {
    match ty {
        Type::Record(fields)
            if fields.keys().eq(["grouper", "list"])
                && fields.values().all(|field| field.description.as_deref() == Some(GROUP)) =>
        {
            Some(fields.values().map(|field| field.ty.clone()).collect())
        }
        _ => None,
    }
}

/// Returns the type of what only those chat turns have that call tools, or answer for them.
fn of_calls(object: &Type, name: &str) -> Option<Type> {
    let ty = match name {
        "tool_calls" => Type::List(Box::new(Type::Any)),
        "tool_call_id" => Type::STRING,
        _ => return None,
    };
    (*object == turn()).then_some(ty)
}

#[cfg(test)]
mod tests;
