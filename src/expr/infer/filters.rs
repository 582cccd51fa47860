//! What filters take and give.

use std::ops::Range;

use minijinja::machinery::ast::{self, CallArg};

use super::typed::{self, Family, Typed};
use super::{Infer, facts, in_branches, index, range};
use crate::diagnostic::did_you_mean;
use crate::expr::Place;
use crate::expr::table::{Builtin, FILTERS, Given, Gives, Takes, find};
use crate::state::{Type, either, nullable};

/// The arguments of a call.
pub(super) struct Args {
    /// Those by place.
    pub(super) placed: Vec<Typed>,
    /// One of them holds text from outside.
    pub(super) untrusted: bool,
}

impl Infer<'_> {
    pub(super) fn filter(&mut self, filter: &ast::Filter<'_>, whole: Range<usize>) -> Typed {
        let builtin = find(FILTERS, filter.name);
        let Some(value) = &filter.expr else {
            // The body of a `{% filter %}` block is a text.
            self.args("filter", builtin, &filter.args);
            return Typed::of(Type::STRING);
        };
        if matches!(filter.name, "default" | "d") {
            let given = self.maybe(value);
            let other = self.args("filter", builtin, &filter.args).placed.into_iter().next();
            let other = other.unwrap_or_else(|| Typed::of(Type::STRING));
            if given.null {
                return other;
            }
            let path = given.path.clone();
            let some = Typed { ty: given.ty.non_null().clone(), path: None, ..given };
            return Typed { path, ..some.union(other) };
        }
        let given = self.expr(value);
        let args = self.args("filter", builtin, &filter.args).placed;
        // These say something of null too.
        if given.may_be_null() && matches!(filter.name, "tojson" | "bool") {
            return Typed { untrusted: given.untrusted, ..known(filter.name) };
        }
        let given = self.some(value, given, "a filter");
        let untrusted = given.untrusted || args.iter().any(|arg| arg.untrusted);
        let typed = self.filtered(filter, value, &given, &args, whole);
        match filter.name {
            // Fenced text cannot pass for an instruction; numbers and booleans are no text.
            "quoted" => Typed { untrusted: false, ..typed },
            _ => Typed { untrusted, ..typed },
        }
    }

    /// Finds the types of arguments, and checks that each is what it has to be.
    pub(super) fn args(&mut self, sort: &str, known: Option<&Builtin>, args: &[CallArg<'_>]) -> Args {
        let mut found = Args { placed: Vec::new(), untrusted: false };
        for (n, arg) in args.iter().enumerate() {
            let (CallArg::Pos(value)
            | CallArg::Kwarg(_, value)
            | CallArg::PosSplat(value)
            | CallArg::KwargSplat(value)) = arg;
            let typed = self.expr(value);
            found.untrusted |= typed.untrusted;
            if let Some(known) = known.filter(|known| !known.args.is_empty()) {
                self.argument(sort, known, (n, arg), value, &typed);
            }
            if matches!(arg, CallArg::Pos(_)) {
                found.placed.push(typed);
            }
        }
        found
    }

    /// Checks one argument: that it can be given like this, and what it is.
    fn argument(
        &mut self,
        sort: &str,
        known: &Builtin,
        (n, arg): (usize, &CallArg<'_>),
        value: &ast::Expr<'_>,
        typed: &Typed,
    ) {
        let named = || known.args.iter().filter(|arg| arg.given != Given::Place).map(|arg| arg.name);
        let argument = match arg {
            CallArg::Pos(_) => known.at(n),
            CallArg::Kwarg(name, _) => known.named(name),
            CallArg::PosSplat(_) | CallArg::KwargSplat(_) => return,
        };
        match (argument, arg) {
            (Some(argument), _) => {
                if let Some(due) = unfit(argument.takes, value, typed) {
                    let message = format!("`{}` of the {sort} `{}` is {due}", argument.name, known.name);
                    self.misfit(value, typed, &message);
                }
            }
            (None, CallArg::Kwarg(name, _)) => {
                let message = format!("the {sort} `{}` has no argument `{name}`", known.name);
                let help = did_you_mean(name, named().collect::<Vec<_>>());
                self.fault("E103", message, range(value), "no argument has this name", help, None);
            }
            (None, _) => {
                let message = format!("the {sort} `{}` takes its arguments by name", known.name);
                let text = self.text(value);
                let help = named().next().map(|name| format!("write  {}({name}={text})", known.name));
                self.fault("E103", message, range(value), "has no name", help, None);
            }
        }
    }

    fn filtered(
        &mut self,
        filter: &ast::Filter<'_>,
        value: &ast::Expr<'_>,
        given: &Typed,
        args: &[Typed],
        whole: Range<usize>,
    ) -> Typed {
        let name = filter.name;
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
            | "string" | "format" => {
                if given.may_be(&[Family::List, Family::Object]) {
                    self.raw(value, given);
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
                if given.may_be(&[Family::List]) {
                    self.raw(value, given);
                }
                Typed::of(Type::STRING)
            }
            "tojson" => Typed::of(Type::STRING),
            "bool" => Typed::of(Type::Boolean),
            "int" | "float" => {
                if given.may_be(&[Family::List, Family::Object]) {
                    self.refuse(value, given, name, "a number or a text");
                }
                Typed::of(if name == "int" { Type::INTEGER } else { Type::NUMBER })
            }
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
                if !given.must_be(&[Family::List]) {
                    self.refuse(value, given, name, "a conversation");
                }
                Typed::of(Type::STRING)
            }
            "items" | "dictsort" => {
                if !given.must_be(&[Family::Object]) {
                    self.refuse(value, given, name, "an object");
                }
                list(Type::Any)
            }
            "first" | "last" | "min" | "max" if family == Family::Text => {
                if matches!(name, "min" | "max") {
                    self.refuse(value, given, name, "a list");
                }
                Typed::of(Type::STRING)
            }
            "reverse" if family == Family::Text => Typed::of(Type::STRING),
            "list" if matches!(family, Family::Text | Family::Object) => {
                list(if family == Family::Text { Type::STRING } else { Type::Any })
            }
            "attr" => match filter.args.first() {
                Some(CallArg::Pos(ast::Expr::Const(key))) => match key.value.as_str() {
                    Some(key) => self.field(value, Typed { path: None, ..given.clone() }, key, whole),
                    None => Typed::any(),
                },
                _ => Typed::any(),
            },
            "first" | "last" | "min" | "max" | "sum" | "sort" | "unique" | "reverse" | "list" | "join"
            | "map" | "select" | "reject" | "selectattr" | "rejectattr" | "batch" | "slice" | "groupby"
            | "zip" | "chain" => {
                let object = name == "chain" && family == Family::Object;
                if !object && !given.must_be(&[Family::List]) {
                    self.refuse(value, given, name, "a list");
                    return known(name);
                }
                if unknown {
                    return known(name);
                }
                let item = given.items().unwrap_or(Type::Any);
                self.of_list(filter, value, given, &item, args)
            }
            _ => known(name),
        }
    }

    /// The filters of a list whose items have a known type.
    fn of_list(
        &mut self,
        filter: &ast::Filter<'_>,
        value: &ast::Expr<'_>,
        given: &Typed,
        item: &Type,
        args: &[Typed],
    ) -> Typed {
        let list = |ty: Type| Typed::of(Type::List(Box::new(ty)));
        match filter.name {
            "first" | "last" => self.one_of(value, given, item),
            "min" | "max" => {
                let by = self.attribute(filter, item);
                let of = Typed::of(item.clone());
                let odd = of.may_be(&[Family::Object, Family::List]) || of.family() == Family::Mixed;
                if by.is_none() && odd {
                    self.refuse(value, given, filter.name, "a list of numbers or texts");
                }
                self.one_of(value, given, item)
            }
            "sum" => {
                let of = self.attribute(filter, item).unwrap_or_else(|| item.clone());
                match of.non_null() {
                    Type::Integer { .. } => Typed::of(Type::INTEGER),
                    Type::Number { .. } => Typed::of(Type::NUMBER),
                    _ if Typed::of(of.clone()).must_be(&[Family::Number]) => Typed::any(),
                    _ => {
                        self.refuse(value, given, "sum", "a list of numbers");
                        Typed::of(Type::NUMBER)
                    }
                }
            }
            "sort" | "unique" => {
                self.attribute(filter, item);
                list(item.clone())
            }
            // What is not null is left.
            "reject" if text_arg(filter, 0).is_some_and(|(test, _)| test == "none") => {
                list(item.non_null().clone())
            }
            "select" if filter.args.is_empty() => list(item.non_null().clone()),
            "select" if text_arg(filter, 0).is_some_and(|(test, _)| tested(&test).is_some()) => {
                let wanted = text_arg(filter, 0).and_then(|(test, _)| tested(&test));
                let left = item.non_null().each().iter().filter(|ty| match typed::family(ty) {
                    Family::Unknown => true,
                    family => Some(family) == wanted,
                });
                list(left.cloned().reduce(either).unwrap_or_else(|| item.non_null().clone()))
            }
            "reverse" | "list" | "select" | "reject" => list(item.clone()),
            "selectattr" | "rejectattr" => {
                let Some((name, at)) = text_arg(filter, 0) else { return list(item.clone()) };
                self.attribute_of(item, &name, at);
                // What is left has the field, and it is not null.
                let test = text_arg(filter, 1).map(|(test, _)| test);
                let some = match (filter.name, test.as_deref()) {
                    ("selectattr", None) | ("rejectattr", Some("none")) => true,
                    ("selectattr", Some(test)) => {
                        !matches!(test, "none" | "undefined" | "defined" | "ne" | "!=" | "false")
                    }
                    _ => false,
                };
                match item.non_null() {
                    Type::Record(fields) if some => {
                        let mut fields = fields.clone();
                        if let Some(field) = fields.get_mut(&name) {
                            field.ty = field.ty.non_null().clone();
                        }
                        list(Type::Record(fields))
                    }
                    _ => list(item.clone()),
                }
            }
            "join" => {
                let by = match text_arg(filter, 1) {
                    Some((name, at)) => Some(self.attribute_of(item, &name, at)),
                    None => self.attribute(filter, item),
                };
                let of = by.unwrap_or_else(|| item.clone());
                if matches!(of, Type::Nullable(_)) {
                    let message = "`join` prints each item as text, and one may be null".to_owned();
                    let help = format!("leave null out:  {} | reject('none') | join(', ')", self.text(value));
                    self.fault(
                        "S412",
                        message,
                        range(value),
                        format!("this is {given}"),
                        Some(help),
                        given.path.clone(),
                    );
                } else if Typed::of(of).may_be(&[Family::List, Family::Object]) {
                    let example = match item {
                        Type::Record(fields) => fields.keys().next().map_or("name", String::as_str),
                        _ => "name",
                    };
                    let code = if self.place == Place::Template { "T308" } else { "S403" };
                    let help =
                        format!("name a field:  {} | join(', ', attribute='{example}')", self.text(value));
                    let message = "`join` prints each item as text".to_owned();
                    self.fault(
                        code,
                        message,
                        range(value),
                        format!("this is {given}"),
                        Some(help),
                        given.path.clone(),
                    );
                }
                Typed::of(Type::STRING)
            }
            "map" => match self.attribute(filter, item) {
                Some(of) => list(of),
                None => {
                    let named = text_arg(filter, 0).and_then(|(name, _)| find(FILTERS, &name));
                    match named.map(|known| known.gives) {
                        Some(Gives::Text) => list(Type::STRING),
                        Some(Gives::Boolean) => list(Type::Boolean),
                        _ => list(Type::Any),
                    }
                }
            },
            "batch" | "slice" => list(Type::List(Box::new(item.clone()))),
            "groupby" => {
                if let Some((name, at)) = text_arg(filter, 0) {
                    self.attribute_of(item, &name, at);
                }
                // A group is a record and a pair at once.
                list(Type::Any)
            }
            "chain" => {
                let more: Option<Vec<Type>> = args.iter().map(Typed::items).collect();
                list(more.map_or(Type::Any, |more| more.into_iter().fold(item.clone(), either)))
            }
            _ => list(Type::Any),
        }
    }

    /// Returns the type of an item that is there unless the list is empty. A conversation is never empty in a run.
    fn one_of(&self, value: &ast::Expr<'_>, given: &Typed, item: &Type) -> Typed {
        let filled = self.filled(value);
        let conversation = matches!(given.ty, Type::Messages);
        Typed::of(if filled || conversation { item.clone() } else { nullable(item.clone()) })
    }

    /// Says whether a list is known to have items: it is written out, perhaps in another order, or was asked for.
    pub(super) fn filled(&self, expr: &ast::Expr<'_>) -> bool {
        if facts::path_of(expr).is_some_and(|path| self.facts.is_some(&format!("{path}[]"))) {
            return true;
        }
        match expr {
            ast::Expr::List(list) => !list.items.is_empty(),
            ast::Expr::Tuple(list) => !list.items.is_empty(),
            ast::Expr::Filter(filter)
                if matches!(
                    filter.name,
                    "sort" | "reverse" | "unique" | "list" | "map" | "default" | "d"
                ) =>
            {
                filter.expr.as_ref().is_some_and(|list| self.filled(list))
            }
            ast::Expr::IfExpr(cond) => {
                self.filled(&cond.true_expr) && cond.false_expr.as_ref().is_some_and(|list| self.filled(list))
            }
            ast::Expr::BinOp(op) if matches!(op.op, ast::BinOpKind::Add) => {
                self.filled(&op.left) || self.filled(&op.right)
            }
            _ => false,
        }
    }

    /// Returns the type of the field that `attribute=` names.
    fn attribute(&mut self, filter: &ast::Filter<'_>, item: &Type) -> Option<Type> {
        filter
            .args
            .iter()
            .find_map(|arg| match arg {
                CallArg::Kwarg("attribute", value @ ast::Expr::Const(name)) => {
                    Some((name.value.as_str()?.to_owned(), range(value)))
                }
                _ => None,
            })
            .map(|(name, at)| self.attribute_of(item, &name, at))
    }

    /// Returns the type of a field of the items, which `a.b` reaches into.
    fn attribute_of(&mut self, item: &Type, name: &str, at: Range<usize>) -> Type {
        let mut ty = item.clone();
        for part in name.split('.') {
            ty = match ty.non_null() {
                Type::Union(all) if all.iter().all(|ty| matches!(ty, Type::Record(_) | Type::Any)) => {
                    match in_branches(all, part) {
                        (Some(ty), true) => ty,
                        _ => {
                            let message = format!("not all items have a field `{part}`");
                            self.fault(self.no_field, message, at, format!("an item is {item}"), None, None);
                            return Type::Any;
                        }
                    }
                }
                Type::Record(fields) => match fields.get(part) {
                    Some(field) => field.ty.opened(),
                    None => {
                        let message = format!("the items have no field `{part}`");
                        let help = did_you_mean(part, fields.keys().map(String::as_str));
                        self.fault(self.no_field, message, at, format!("an item is {item}"), help, None);
                        return Type::Any;
                    }
                },
                Type::Any => return Type::Any,
                Type::List(item) if part.parse::<usize>().is_ok() => item.opened(),
                other => {
                    let message = format!("the items have no field `{part}`");
                    self.fault(self.no_field, message, at, format!("an item is {other}"), None, None);
                    return Type::Any;
                }
            };
        }
        ty
    }

    fn refuse(&mut self, value: &ast::Expr<'_>, given: &Typed, filter: &str, takes: &str) {
        self.misfit(value, given, &format!("the filter `{filter}` takes {takes}"));
    }
}

/// The type that a filter's name tells.
fn known(name: &str) -> Typed {
    match find(FILTERS, name).map(|known| known.gives) {
        Some(Gives::Boolean) => Typed::of(Type::Boolean),
        Some(Gives::Number) if matches!(name, "length" | "count" | "int") => Typed::of(Type::INTEGER),
        Some(Gives::Number) => Typed::of(Type::NUMBER),
        Some(Gives::Text) => Typed::of(Type::STRING),
        Some(Gives::List) => Typed::of(Type::List(Box::new(Type::Any))),
        _ => Typed::any(),
    }
}

/// Says what an argument has to be, where it is not. Null stands for none at all.
fn unfit(takes: Takes, value: &ast::Expr<'_>, typed: &Typed) -> Option<&'static str> {
    use Family::{Boolean, List, Number, Object, Text};
    let (families, due): (&[Family], _) = match takes {
        Takes::Any => return None,
        Takes::Text => (&[Text], "a text"),
        Takes::Whole => (&[Number], "a whole number"),
        Takes::Count => (&[Number], "a whole number of 1 or more"),
        Takes::Switch => (&[Boolean], "`true` or `false`"),
        Takes::Width => (&[Number, Boolean], "a whole number or `true`"),
        Takes::Items => (&[List, Object, Text], "a list"),
    };
    let below = takes == Takes::Count && index(value).is_some_and(|number| number < 1);
    (below || !typed.must_be(families)).then_some(due)
}

/// Returns what a test of values asks for.
fn tested(test: &str) -> Option<Family> {
    Some(match test {
        "string" => Family::Text,
        "number" | "integer" => Family::Number,
        "boolean" => Family::Boolean,
        "mapping" => Family::Object,
        "sequence" => Family::List,
        _ => return None,
    })
}

/// Returns a text that is the nth argument, and its place.
fn text_arg(filter: &ast::Filter<'_>, nth: usize) -> Option<(String, Range<usize>)> {
    match filter.args.get(nth) {
        Some(CallArg::Pos(value @ ast::Expr::Const(name))) => {
            Some((name.value.as_str()?.to_owned(), range(value)))
        }
        _ => None,
    }
}
