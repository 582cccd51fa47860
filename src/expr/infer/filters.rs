//! What filters take and give.

use std::ops::Range;

use minijinja::machinery::ast::{self, CallArg};

use super::args::{Args, unfit};
use super::format::slots;
use super::typed::{Family, Typed};
use super::{Infer, is_turn, range};
use crate::expr::table::{FILTERS, Gives, find};
use crate::state::{Type, either};

/// A filter or a test by its name, with its arguments.
#[derive(Clone, Copy)]
pub(super) struct Named<'n, 'a> {
    pub(super) name: &'n str,
    pub(super) args: &'n [CallArg<'a>],
}

impl Named<'_, '_> {
    /// Returns a text that is the nth argument, and its place.
    pub(super) fn text(&self, nth: usize) -> Option<(String, Range<usize>)> {
        match self.args.get(nth) {
            Some(CallArg::Pos(value @ ast::Expr::Const(name))) => {
                Some((name.value.as_str()?.to_owned(), range(value)))
            }
            _ => None,
        }
    }

    /// Returns what an argument is that is given by its name.
    pub(super) fn by_name(&self, wanted: &str) -> Option<&ast::Expr<'_>> {
        self.args.iter().find_map(|arg| match arg {
            CallArg::Kwarg(name, value) if *name == wanted => Some(value),
            _ => None,
        })
    }
}

impl Infer<'_> {
    pub(super) fn filter(&mut self, expr: &ast::Expr<'_>, filter: &ast::Filter<'_>) -> Typed {
        let builtin = find(FILTERS, filter.name);
        let lenient = std::mem::replace(&mut self.lenient, false);
        let call = Named { name: filter.name, args: &filter.args };
        // The body of a `{% filter %}` block is a text: there is no expression of it.
        let (value, given) = match &filter.expr {
            Some(value) if matches!(filter.name, "default" | "d") => (value, self.maybe(value)),
            Some(value) => (value, self.expr(value)),
            None => (expr, Typed::of(Type::STRING)),
        };
        let args = self.args("filter", builtin, &filter.args);
        // Only a field may be missing where a value need not be there: the value that it is read from has to be.
        let given = if filter.name == "attr" { self.some(value, given, "a field") } else { given };
        self.lenient = lenient && filter.name == "attr";
        let typed = self.applied(call, value, given, &args, range(expr));
        self.lenient = lenient;
        typed
    }

    /// Finds the type of what a filter gives of a value.
    pub(super) fn applied(
        &mut self,
        call: Named<'_, '_>,
        value: &ast::Expr<'_>,
        given: Typed,
        args: &Args,
        whole: Range<usize>,
    ) -> Typed {
        if matches!(call.name, "default" | "d") {
            let other = args.placed.first().cloned().unwrap_or_else(|| Typed::of(Type::STRING));
            if given.null {
                return other;
            }
            let path = given.path.clone();
            let some = Typed { ty: given.ty.non_null().clone(), path: None, ..given };
            return Typed { path, ..some.union(other) };
        }
        if !matches!(call.name, "attr") && self.is_macro(value) {
            return known(call.name);
        }
        // These say something of null too.
        if given.may_be_null() && matches!(call.name, "tojson" | "bool") {
            return Typed { untrusted: given.untrusted, ..known(call.name) };
        }
        let given = self.some(value, given, "a filter");
        let untrusted = given.untrusted || args.untrusted;
        let before = self.faults.len();
        let typed = self.filtered(call, value, &given, args, whole);
        // One finding is enough for one mistake: nothing is known of what comes of it.
        let typed = if self.faults.len() > before { Typed::any() } else { typed };
        match call.name {
            // Fenced text cannot pass for an instruction; numbers and booleans are no text.
            "quoted" => Typed { untrusted: false, ..typed },
            _ => Typed { untrusted, ..typed },
        }
    }

    fn filtered(
        &mut self,
        call: Named<'_, '_>,
        value: &ast::Expr<'_>,
        given: &Typed,
        args: &Args,
        whole: Range<usize>,
    ) -> Typed {
        let name = call.name;
        let family = given.family();
        let unknown = family == Family::Unknown;
        let list = |ty: Type| Typed::of(Type::List(Box::new(ty)));
        match name {
            "length" | "count" => {
                if given.may_be(&[Family::Number, Family::Boolean]) {
                    self.refuse(value, given, name, "a list, a text or an object");
                }
                Typed::of(Type::INTEGER)
            }
            "upper" | "lower" | "title" | "capitalize" | "trim" | "replace" | "indent" | "quoted"
            | "string" => {
                if given.may_be(&[Family::List, Family::Object]) {
                    self.raw(value, given);
                }
                Typed::of(Type::STRING)
            }
            "format" => {
                if !given.must_be(&[Family::Text]) {
                    self.refuse(value, given, name, "a text");
                } else if given.literal {
                    self.format(call, value, given, args);
                } else if !unknown {
                    let message = "the format is not written out".to_owned();
                    let help = "write it where it is used:  '%s: %d' | format(…)".to_owned();
                    self.fault(
                        "S403",
                        message,
                        range(value),
                        "may take other values",
                        Some(help),
                        given.path.clone(),
                    );
                }
                Typed::of(Type::STRING)
            }
            "split" | "lines" => {
                if !given.must_be(&[Family::Text]) {
                    self.refuse(value, given, name, "a text");
                }
                list(Type::STRING)
            }
            "urlencode" => {
                let pairs = match &given.ty {
                    Type::Record(fields) => fields
                        .values()
                        .any(|field| Typed::of(field.ty.clone()).may_be(&[Family::List, Family::Object])),
                    _ => false,
                };
                if pairs || given.may_be(&[Family::List]) {
                    self.raw(value, given);
                }
                Typed::of(Type::STRING)
            }
            "tojson" => Typed::of(Type::STRING),
            "bool" => Typed::of(Type::Boolean),
            "int" | "float" => self.parsed(name, value, given, args.get(0, "default")),
            "abs" | "round" => {
                if !given.must_be(&[Family::Number]) {
                    self.refuse(value, given, name, "a number");
                }
                match given.ty {
                    Type::Integer { .. } => Typed::of(Type::INTEGER),
                    _ if unknown => Typed::any(),
                    _ => Typed::of(Type::NUMBER),
                }
            }
            "last_text" => {
                let turns = given.items().is_none_or(|item| item.non_null().each().iter().all(is_turn));
                if !given.must_be(&[Family::List]) || !(turns || given.empty) {
                    self.refuse(value, given, name, "a conversation");
                }
                Typed::of(Type::STRING)
            }
            "items" | "dictsort" => {
                if !given.must_be(&[Family::Object]) {
                    self.refuse(value, given, name, "an object");
                }
                let values = match &given.ty {
                    Type::Record(fields) => fields.values().map(|field| field.ty.opened()).reduce(either),
                    _ => None,
                };
                Typed::rows(vec![Type::STRING, values.unwrap_or(Type::Any)])
            }
            "first" | "last" | "min" | "max" if family == Family::Text => {
                if matches!(name, "min" | "max") {
                    self.refuse(value, given, name, "a list");
                }
                Typed::of(Type::STRING)
            }
            "reverse" if family == Family::Text => Typed::of(Type::STRING),
            "list" if matches!(family, Family::Text | Family::Object) => list(Type::STRING),
            "attr" => match call.text(0) {
                Some((key, _)) => self.field(value, Typed { path: None, ..given.clone() }, &key, whole),
                None => {
                    if !unknown && !self.lenient {
                        let message = "the field may be missing".to_owned();
                        let help =
                            "write its name in quotes, or give a value instead with `default`".to_owned();
                        self.fault("S404", message, whole, "its name is not written out", Some(help), None);
                    }
                    Typed::any()
                }
            },
            "first" | "last" | "min" | "max" | "sum" | "sort" | "unique" | "reverse" | "list" | "join"
            | "map" | "select" | "reject" | "selectattr" | "rejectattr" | "batch" | "slice" | "groupby"
            | "zip" | "chain" => {
                let object = name == "chain" && family == Family::Object;
                if !object && !given.must_be(&[Family::List]) {
                    self.refuse(value, given, name, "a list");
                    return known(name);
                }
                if unknown || object {
                    return known(name);
                }
                let item = given.items().unwrap_or(Type::Any);
                self.of_list(call, value, given, &item, args)
            }
            _ => known(name),
        }
    }

    /// The number that is written in a text, or else another value.
    fn parsed(&mut self, name: &str, value: &ast::Expr<'_>, given: &Typed, default: Option<&Typed>) -> Typed {
        if given.may_be(&[Family::List, Family::Object]) {
            self.refuse(value, given, name, "a number or a text");
        }
        let number = Typed::of(if name == "int" { Type::INTEGER } else { Type::NUMBER });
        let written = |text: &String| text.parse::<f64>().is_ok();
        let fails = |ty: &Type| match ty {
            Type::Enum(values) => !values.iter().all(written),
            ty => Typed::of(ty.clone()).family() == Family::Text,
        };
        // Null is no value to take instead.
        match default.filter(|default| !default.may_be_null()) {
            Some(default) if !given.must_be(&[Family::Number, Family::Boolean]) => {
                number.union(Typed { path: None, literal: false, ..default.clone() })
            }
            None if given.ty.non_null().each().iter().any(fails) => {
                let message = "the text may be no number".to_owned();
                let zero = if name == "int" { "0" } else { "0.0" };
                let help = format!("say what to take then:  {} | {name}({zero})", self.text(value));
                let label = format!("this is {given}");
                self.fault("S403", message, range(value), label, Some(help), given.path.clone());
                number
            }
            _ => number,
        }
    }

    /// Checks that a format that is written out gets what it takes.
    fn format(&mut self, call: Named<'_, '_>, value: &ast::Expr<'_>, format: &Typed, args: &Args) {
        let Type::Enum(texts) = &format.ty else { return };
        let [text] = texts.as_slice() else { return };
        let Some(slots) = slots(text) else {
            let message = "this is no format".to_owned();
            let help = "a value goes to `%s` or `%d`, and a percent sign is `%%`".to_owned();
            return self.fault("S403", message, range(value), "a `%` without a meaning", Some(help), None);
        };
        let unpacked = |arg: &CallArg<'_>| matches!(arg, CallArg::PosSplat(_) | CallArg::KwargSplat(_));
        // What a format takes by name is looked for when it runs.
        if call.args.iter().any(unpacked) || slots.iter().any(|slot| slot.field.is_some()) {
            return;
        }
        for (n, slot) in slots.iter().enumerate() {
            let (Some(CallArg::Pos(arg)), Some(typed)) = (call.args.get(n), args.placed.get(n)) else {
                let message = format!("the format takes {} values", slots.len());
                let label = format!("{} given", args.placed.len());
                return self.fault("S403", message, range(value), label, None, None);
            };
            match unfit(slot.takes, arg, typed) {
                Some(due) => self.misfit(arg, typed, &format!("the format takes {due} here")),
                None => self.printable(arg, typed.clone()),
            }
        }
    }

    /// Finds out what a filter makes of each item, and reports what it cannot take as one finding on the list.
    pub(super) fn of_each(
        &mut self,
        named: &str,
        value: &ast::Expr<'_>,
        item: &Type,
        run: impl FnOnce(&mut Self, Typed) -> Typed,
    ) -> Typed {
        let before = self.faults.len();
        let typed = run(self, Typed::of(item.clone()));
        let mut inner = self.faults.split_off(before).into_iter();
        let Some(first) = inner.next() else { return typed };
        let list = self.text(value);
        let (message, help) = match (first.error.code, item) {
            ("S412", _) => (
                format!("{named} takes each item, and one may be null"),
                Some(format!("leave null out:  {list} | reject('none') | {}", named.trim_matches('`'))),
            ),
            (_, Type::Record(fields)) => (
                format!("{named} of each item: {}", first.error.message),
                fields.keys().next().map(|field| format!("name a field:  {list} | map(attribute='{field}')")),
            ),
            _ if matches!(named, "`map('int')`" | "`map('float')`") => (
                format!("{named} of each item: {}", first.error.message),
                Some(format!("say what to take then:  {list} | {}, 0)", named.trim_matches(['`', ')']))),
            ),
            _ => (format!("{named} of each item: {}", first.error.message), None),
        };
        self.fault(first.error.code, message, range(value), format!("an item is {item}"), help, None);
        Typed::any()
    }

    pub(super) fn refuse(&mut self, value: &ast::Expr<'_>, given: &Typed, filter: &str, takes: &str) {
        self.misfit(value, given, &format!("the filter `{filter}` takes {takes}"));
    }
}

/// The type that a filter's name tells.
fn known(name: &str) -> Typed {
    match find(FILTERS, name).map(|known| known.gives) {
        Some(Gives::Boolean) => Typed::of(Type::Boolean),
        Some(Gives::Number) if matches!(name, "length" | "count") => Typed::of(Type::INTEGER),
        Some(Gives::Number) => Typed::of(Type::NUMBER),
        Some(Gives::Text) => Typed::of(Type::STRING),
        Some(Gives::List) => Typed::of(Type::List(Box::new(Type::Any))),
        _ => Typed::any(),
    }
}
