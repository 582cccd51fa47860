//! Which names an expression or a text may read, and of what type they are.

use std::collections::BTreeMap;

use indexmap::IndexMap;

use crate::diagnostic::{Bag, Diagnostic, Span, did_you_mean, suggest};
use crate::expr::{Expr, ExprError, ExprTree, Read};
use crate::spec::{ExprSpec, Text};
use crate::state::{Channels, Field, Type};
use crate::template::TemplateError;

/// The fields of `run`.
const RUN: [&str; 6] = ["id", "step", "attempt", "steps_left", "user_text", "now"];

/// The names that are visible somewhere.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    /// Root names with the fields below them, where these are known.
    roots: BTreeMap<String, Root>,
    /// Channels and inputs that are there but cannot be typed.
    broken: Vec<String>,
}

#[derive(Debug, Clone)]
enum Root {
    /// Only these fields, with their types.
    Fields(BTreeMap<String, Type>),
    /// A value of this type.
    Value(Type),
}

impl Names {
    /// Returns what expressions of a graph can read: `state`, `input` and `run`.
    pub(super) fn of_graph(
        channels: &Channels,
        input: &IndexMap<String, Field>,
        broken: Vec<String>,
    ) -> Self {
        let state = channels.iter().map(|(name, channel)| (name.clone(), channel.field.ty.clone())).collect();
        let input = input.iter().map(|(name, field)| (name.clone(), field.ty.clone())).collect();
        let text = Type::String { pattern: None, min: None, max: None };
        let count = Type::Integer { min: None, max: None };
        let run = RUN.iter().map(|name| {
            let ty =
                if matches!(*name, "step" | "attempt" | "steps_left") { count.clone() } else { text.clone() };
            ((*name).to_owned(), ty)
        });
        let roots = [
            ("state".to_owned(), Root::Fields(state)),
            ("input".to_owned(), Root::Fields(input)),
            ("run".to_owned(), Root::Fields(run.collect())),
        ];
        Self { roots: roots.into(), broken }
    }

    /// Returns what a prompt file can read: its inputs.
    pub(super) fn of_prompt(inputs: &IndexMap<String, Field>, broken: Vec<String>) -> Self {
        let roots =
            inputs.iter().map(|(name, field)| (name.clone(), Root::Value(field.ty.clone()))).collect();
        Self { roots, broken }
    }

    /// Adds a name.
    pub(super) fn with(mut self, name: &str, ty: Type) -> Self {
        self.roots.insert(name.to_owned(), Root::Value(ty));
        self
    }

    /// Parses an expression and checks what it reads.
    pub(super) fn expression(&self, text: &Text, bag: &mut Bag) -> Option<Expr> {
        match Expr::parse(&text.value) {
            Ok(expr) => self.reads(expr.reads(), text, false, bag).then_some(expr),
            Err(errors) => {
                report_expr(errors, text, bag);
                None
            }
        }
    }

    /// Parses a condition, which must not be of another type than boolean.
    pub(super) fn condition(&self, text: &Text, bag: &mut Bag) -> Option<Expr> {
        let expr = self.expression(text, bag)?;
        if let Some(found) = expr.never_boolean() {
            let label = format!("this is {found}");
            bag.report(Diagnostic::error("E104", "the condition is not a boolean", text.span, label));
            return None;
        }
        match self.type_of(&expr) {
            Some(ty) if !matches!(ty, Type::Boolean | Type::Any) => {
                let finding = Diagnostic::error(
                    "E104",
                    "the condition is not a boolean",
                    text.span,
                    format!("this is {ty}"),
                );
                let help = match ty {
                    Type::Nullable(_) => format!("write  {} is not none", expr.source().trim()),
                    Type::String { .. } | Type::Enum(_) => {
                        format!("compare it, for instance  {} == 'yes'", expr.source().trim())
                    }
                    Type::List(_) | Type::Messages => format!("write  {} | length > 0", expr.source().trim()),
                    _ => format!("compare it, for instance  {} > 0", expr.source().trim()),
                };
                bag.report(finding.help(help));
                None
            }
            _ => Some(expr),
        }
    }

    /// Parses a value whose leaves are expressions.
    pub(super) fn tree(&self, spec: &ExprSpec, bag: &mut Bag) -> Option<ExprTree> {
        match spec {
            ExprSpec::Const(value, _) => Some(ExprTree::Const(value.clone())),
            ExprSpec::Text(text) => self.expression(text, bag).map(ExprTree::Expr),
            ExprSpec::List(items) => {
                let items: Vec<_> = items.iter().map(|item| self.tree(item, bag)).collect();
                items.into_iter().collect::<Option<_>>().map(ExprTree::List)
            }
            ExprSpec::Map(fields) => {
                let fields: Vec<_> =
                    fields.iter().map(|(name, spec)| Some((name.clone(), self.tree(spec, bag)?))).collect();
                fields.into_iter().collect::<Option<_>>().map(ExprTree::Map)
            }
        }
    }

    /// Returns the type of an expression that does nothing but read a name.
    pub(super) fn type_of(&self, expr: &Expr) -> Option<Type> {
        let [read] = expr.reads() else { return None };
        let source = expr.source();
        let whole = source.len() - source.trim_start().len()..source.trim_end().len();
        if read.range != whole {
            return None;
        }
        let (mut ty, rest) = match self.roots.get(&read.root)? {
            Root::Value(ty) => (ty, &read.path[..]),
            Root::Fields(fields) => (fields.get(read.path.first()?)?, &read.path[1..]),
        };
        for field in rest {
            ty = ty.field(field)?;
        }
        Some(ty.clone())
    }

    /// Checks what is read; false when something was reported.
    pub(super) fn reads(&self, reads: &[Read], text: &Text, prompt: bool, bag: &mut Bag) -> bool {
        let mut fine = true;
        for read in reads {
            if let Some(finding) = self.read(read, text, prompt) {
                bag.report(finding);
                fine = false;
            }
        }
        fine
    }

    fn read(&self, read: &Read, text: &Text, prompt: bool) -> Option<Diagnostic> {
        let span = text.locate(read.range.clone());
        if self.broken.contains(&read.root)
            || read.path.first().is_some_and(|name| self.broken.contains(name))
        {
            return None;
        }
        let Some(root) = self.roots.get(&read.root) else {
            return Some(if prompt { self.not_an_input(read, span) } else { self.unknown_root(read, span) });
        };
        let (mut ty, rest) = match root {
            Root::Value(ty) => (ty, &read.path[..]),
            Root::Fields(fields) => {
                // `state` as a whole is an object of all channels.
                let name = read.path.first()?;
                let Some(ty) = fields.get(name) else {
                    let what = if read.root == "state" { "channel" } else { "field" };
                    let what = if read.root == "input" { "input" } else { what };
                    let finding = Diagnostic::error(
                        "S401",
                        format!("unknown {what} `{}.{name}`", read.root),
                        span,
                        format!("no {what} has this name"),
                    );
                    return Some(finding.help_maybe(did_you_mean(name, fields.keys().map(String::as_str))));
                };
                (ty, &read.path[1..])
            }
        };
        for name in rest {
            match ty.non_null() {
                Type::Record(fields) => match fields.get(name) {
                    Some(field) => ty = &field.ty,
                    None => {
                        let code = if prompt { "T302" } else { "S402" };
                        let finding = Diagnostic::error(
                            code,
                            format!("unknown field `{name}`"),
                            span,
                            format!("this is {}", ty.non_null()),
                        );
                        return Some(
                            finding.help_maybe(did_you_mean(name, fields.keys().map(String::as_str))),
                        );
                    }
                },
                Type::Object => {
                    let finding = Diagnostic::error(
                        "S402",
                        format!("`object` has no field `{name}`"),
                        span,
                        "nothing is known of it",
                    );
                    return Some(finding.help("declare its fields, or use `any`"));
                }
                Type::Any | Type::List(_) | Type::Messages => return None,
                other => {
                    let code = if prompt { "T302" } else { "S402" };
                    return Some(Diagnostic::error(
                        code,
                        format!("{other} has no field `{name}`"),
                        span,
                        "no fields here",
                    ));
                }
            }
        }
        None
    }

    fn unknown_root(&self, read: &Read, span: Span) -> Diagnostic {
        let name = read.root.as_str();
        let elsewhere = match name {
            "item" | "index" => Some("`item` and `index` are there inside a `map`"),
            "error" => Some("`error` is there in handlers"),
            "result" => Some("`result` is there under `into`"),
            "args" => Some("`args` is there in tools"),
            "env" => Some("`env` is there in tools and http nodes"),
            _ => None,
        };
        if let Some(elsewhere) = elsewhere {
            return Diagnostic::error("E107", format!("`{name}` is not available here"), span, elsewhere);
        }
        let finding =
            Diagnostic::error("E102", format!("unknown name `{name}`"), span, "nothing has this name here");
        let known: Vec<&str> = self.roots.keys().map(String::as_str).collect();
        for (root, fields) in &self.roots {
            if let Root::Fields(fields) = fields
                && fields.contains_key(name)
            {
                return finding.help(format!("write `{root}.{name}`"));
            }
        }
        if let Some(near) = suggest(name, known.iter().copied()) {
            return finding.help(format!("did you mean `{near}`?"));
        }
        let names = known.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ");
        if read.path.is_empty() {
            finding.help(format!("for the text write  \"'{name}'\"; names here: {names}"))
        } else {
            finding.help(format!("names here: {names}"))
        }
    }

    fn not_an_input(&self, read: &Read, span: Span) -> Diagnostic {
        let name = &read.root;
        let finding = Diagnostic::error(
            "T302",
            format!("`{name}` is not an input of this prompt"),
            span,
            "a prompt sees only its declared inputs",
        );
        let known: Vec<&str> = self.roots.keys().map(String::as_str).collect();
        match suggest(name, known.iter().copied()) {
            Some(near) => finding.help(format!("did you mean `{near}`?")),
            None => finding.help(format!("declare it:  inputs: {{{name}: string}}")),
        }
    }
}

/// Reports what is wrong with an expression, at its place in the file.
fn report_expr(errors: Vec<ExprError>, text: &Text, bag: &mut Bag) {
    for error in errors {
        let span = text.locate(error.range);
        bag.report(Diagnostic::error(error.code, error.message, span, error.label).help_maybe(error.help));
    }
}

/// Reports what is wrong with a template; `from` is where it begins in the text.
pub(super) fn report_template(errors: Vec<TemplateError>, text: &Text, from: usize, bag: &mut Bag) {
    let place = |range: std::ops::Range<usize>| text.locate(range.start + from..range.end + from);
    for error in errors {
        let mut finding = Diagnostic::error(error.code, error.message, place(error.range), error.label);
        if let Some(related) = error.related {
            finding = finding.related(place(related.range), related.label);
        }
        bag.report(finding.help_maybe(error.help));
    }
}
