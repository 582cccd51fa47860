//! What the filters of lists give.

use std::ops::Range;

use minijinja::machinery::ast::{self, CallArg};

use super::args::Args;
use super::facts::{self, KINDS};
use super::fields::in_branches;
use super::filters::Named;
use super::typed::{Family, Typed};
use super::{Infer, group, index, range};
use crate::diagnostic::did_you_mean;
use crate::expr::Place;
use crate::expr::table::{Builtin, FILTERS, TESTS, find};
use crate::state::{Type, either, nullable};

impl Infer<'_> {
    /// The filters of a list whose items have a known type.
    pub(super) fn of_list(
        &mut self,
        filter: Named<'_, '_>,
        value: &ast::Expr<'_>,
        given: &Typed,
        item: &Type,
        args: &Args,
    ) -> Typed {
        let list = |ty: Type| Typed::of(Type::List(Box::new(ty)));
        match filter.name {
            "first" | "last" => self.one_of(value, item),
            "min" | "max" => {
                let by = self.attribute(filter, item);
                let of = Typed::of(item.clone());
                let odd = of.may_be(&[Family::Object, Family::List]) || of.family() == Family::Mixed;
                if by.is_none() && odd {
                    self.refuse(value, given, filter.name, "a list of numbers or texts");
                }
                self.one_of(value, item)
            }
            "sum" => {
                let of = self.attribute(filter, item).unwrap_or_else(|| item.clone());
                if matches!(of, Type::Nullable(_)) {
                    let message = "`sum` takes each item, and one may be null".to_owned();
                    self.one_null(message, value, given);
                }
                let start = args.get(1, "start").map(|start| start.ty.clone());
                match of.non_null() {
                    Type::Integer { .. } if start.is_none_or(|ty| matches!(ty, Type::Integer { .. })) => {
                        Typed::of(Type::INTEGER)
                    }
                    Type::Integer { .. } | Type::Number { .. } => Typed::of(Type::NUMBER),
                    _ if Typed::of(of.clone()).must_be(&[Family::Number]) => Typed::any(),
                    _ => {
                        self.refuse(value, given, "sum", "a list of numbers");
                        Typed::of(Type::NUMBER)
                    }
                }
            }
            "sort" | "unique" => {
                self.attribute(filter, item);
                Typed { parts: given.parts.clone(), ..list(item.clone()) }
            }
            "reverse" | "list" => Typed { parts: given.parts.clone(), ..list(item.clone()) },
            "select" | "reject" => {
                let test = filter.text(0);
                if let Some((test, _)) = &test {
                    self.test_of_each(filter, 0, test, value, item, args);
                }
                let test = test.as_ref().map(|(test, _)| test.as_str());
                Typed { parts: given.parts.clone(), ..list(left(filter, 0, test, item, args)) }
            }
            "selectattr" | "rejectattr" => {
                let Some((name, at)) = filter.text(0) else { return list(item.clone()) };
                let of = self.attribute_of(item, &name, at);
                let test = filter.text(1);
                if let Some((test, _)) = &test {
                    self.test_of_each(filter, 1, test, value, &of, args);
                }
                let test = test.as_ref().map(|(test, _)| test.as_str());
                let ty = left(filter, 1, test, &of, args);
                match item.non_null() {
                    Type::Record(fields) => {
                        let mut fields = fields.clone();
                        let proven = filter.name == "selectattr" && !ty.is_nullable();
                        if let Some(field) = fields.get_mut(&name) {
                            field.ty = ty;
                        }
                        let left = Type::Record(fields);
                        let null = matches!(item, Type::Nullable(_)) && !proven;
                        list(if null { nullable(left) } else { left })
                    }
                    _ => list(item.clone()),
                }
            }
            "join" => {
                let by = match filter.text(1) {
                    Some((name, at)) => Some(self.attribute_of(item, &name, at)),
                    None => self.attribute(filter, item),
                };
                let of = by.unwrap_or_else(|| item.clone());
                if matches!(of, Type::Nullable(_)) {
                    let message = "`join` prints each item as text, and one may be null".to_owned();
                    self.one_null(message, value, given);
                } else if Typed::of(of).may_be(&[Family::List, Family::Object]) {
                    let list = self.text(value);
                    let help = match item {
                        Type::Record(fields) => {
                            let field = fields.keys().next().map_or("name", String::as_str);
                            format!("name a field:  {list} | join(', ', attribute='{field}')")
                        }
                        Type::Union(_) => {
                            format!("take the texts alone:  {list} | select('string') | join(', ')")
                        }
                        _ => format!("name a field:  {list} | join(', ', attribute='name')"),
                    };
                    let code = if self.place == Place::Template { "T308" } else { "S403" };
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
            // Both at once were reported before.
            "map" if filter.by_name("attribute").is_some() && !args.placed.is_empty() => list(Type::Any),
            "map" => match (self.mapped(filter, value, given, item, args), filter.text(0)) {
                (Some(of), _) => list(of),
                (None, Some((name, at))) => {
                    // What has exactly these parts has a first and a last.
                    let end = given.parts.as_deref().and_then(|parts| match name.as_str() {
                        "first" => parts.first(),
                        "last" => parts.last(),
                        _ => None,
                    });
                    if let Some(end) = end {
                        return list(end.clone());
                    }
                    let Some(known) = find(FILTERS, &name) else { return list(Type::Any) };
                    let call = Named { name: known.name, args: filter.args.get(1..).unwrap_or_default() };
                    let rest =
                        Args { placed: args.placed.get(1..).unwrap_or_default().to_vec(), ..Args::default() };
                    if !self.rest_fits("filter", known, call.args, &rest) {
                        return list(Type::Any);
                    }
                    let named = format!("`map('{name}')`");
                    // What is known of the list is not known of each of its items: one may be empty.
                    let end = item.is_list() && matches!(known.name, "first" | "last" | "min" | "max");
                    let made = self.of_each(&named, value, item, |infer, item| {
                        let made = infer.applied(call, value, item, &rest, at);
                        if end { made.union(Typed::null()) } else { made }
                    });
                    list(made.whole())
                }
                (None, None) => list(Type::Any),
            },
            "batch" | "slice" => {
                let fill = args.placed.get(1).map_or_else(|| item.clone(), Typed::whole);
                let part = either(item.clone(), fill);
                // Where rows are filled up, all are of one length.
                let count = match filter.args {
                    [CallArg::Pos(count), _] if filter.name == "batch" => index(count),
                    _ => None,
                };
                let count = count.and_then(|count| usize::try_from(count).ok()).filter(|count| *count <= 32);
                let parts = count.map(|count| vec![part.clone(); count]);
                Typed { parts, ..list(Type::List(Box::new(part))) }
            }
            "groupby" => {
                let key = match filter.text(0) {
                    Some((name, at)) => Some(self.attribute_of(item, &name, at)),
                    None => self.attribute(filter, item),
                };
                let key = match args.get(usize::MAX, "default") {
                    Some(default) => either(key.unwrap_or(Type::Any), default.whole()),
                    None => key.unwrap_or(Type::Any),
                };
                let parts = vec![key.clone(), Type::List(Box::new(item.clone()))];
                Typed { parts: Some(parts), ..list(group(key, item.clone())) }
            }
            "zip" => {
                let more = args.placed.iter().map(|arg| match arg.family() {
                    Family::Text | Family::Object => Type::STRING,
                    _ => arg.items().unwrap_or(Type::Any),
                });
                Typed::rows(std::iter::once(item.clone()).chain(more).collect())
            }
            "chain" => {
                let more: Option<Vec<Type>> = args.placed.iter().map(Typed::items).collect();
                list(more.map_or(Type::Any, |more| more.into_iter().fold(item.clone(), either)))
            }
            _ => list(Type::Any),
        }
    }

    /// Finds the type of the field that `map(attribute=…)` takes of each item.
    fn mapped(
        &mut self,
        filter: Named<'_, '_>,
        value: &ast::Expr<'_>,
        given: &Typed,
        item: &Type,
        args: &Args,
    ) -> Option<Type> {
        let before = self.faults.len();
        // An item of each list: what has exactly these parts has that one.
        if let (Some(parts), Some(nth)) = (&given.parts, filter.by_name("attribute").and_then(written))
            && let Some(part) = nth.parse::<usize>().ok().and_then(|nth| parts.get(nth))
        {
            return Some(part.clone());
        }
        let of = self.attribute(filter, item)?;
        if self.faults.len() > before {
            return Some(of);
        }
        let path = filter.by_name("attribute").and_then(written);
        let path = path.as_deref();
        if let Some(default) = args.get(usize::MAX, "default") {
            return Some(either(of, default.whole()));
        }
        if let Some(path) = path
            && self.may_be_short(item, path)
        {
            let message = format!("`{path}` of an item may be unset");
            let help = "give a value instead:  map(attribute=…, default=…)".to_owned();
            self.fault("S404", message, range(value), "a list may be shorter", Some(help), None);
            return Some(of);
        }
        // A field of null is nothing at all, which no later filter takes for null.
        if let Some(path) = path {
            match path.rsplit_once('.') {
                None if matches!(item, Type::Nullable(_)) => {
                    self.one_null(
                        "`map` takes a field of each item, and one may be null".to_owned(),
                        value,
                        given,
                    );
                }
                Some((holder, _))
                    if matches!(self.attribute_of(item, holder, range(value)), Type::Nullable(_)) =>
                {
                    self.one_null(format!("`{holder}` of an item may be null"), value, given);
                }
                _ => {}
            }
        }
        Some(of)
    }

    /// Says whether a path leads to an item of a list by its number.
    fn may_be_short(&mut self, item: &Type, path: &str) -> bool {
        let mut ty = item.clone();
        path.split('.').any(|part| {
            let short = ty.is_list() && part.parse::<usize>().is_ok();
            ty = self.attribute_of(&ty, part, 0..0);
            short
        })
    }

    /// Reports that null is among the items.
    fn one_null(&mut self, message: String, value: &ast::Expr<'_>, given: &Typed) {
        let help = format!("leave null out:  {} | reject('none')", self.text(value));
        let label = format!("this is {given}");
        self.fault("S412", message, range(value), label, Some(help), given.path.clone());
    }

    /// Checks a test that is asked of each item: the name of the test is the nth argument.
    fn test_of_each(
        &mut self,
        filter: Named<'_, '_>,
        nth: usize,
        test: &str,
        value: &ast::Expr<'_>,
        item: &Type,
        args: &Args,
    ) {
        let Some(known) = find(TESTS, test) else { return };
        let rest = filter.args.get(nth + 1..).unwrap_or_default();
        let placed = args.placed.get(nth + 1..).unwrap_or_default().to_vec();
        if !self.rest_fits("test", known, rest, &Args { placed: placed.clone(), ..Args::default() }) {
            return;
        }
        let first = match rest.first() {
            Some(CallArg::Pos(other)) => Some(other).zip(placed.first()),
            _ => None,
        };
        // Asked of null, a test is false and does not fail.
        let named = format!("`{}('{test}')`", filter.name);
        self.of_each(&named, value, &item.non_null().opened(), |infer, item| {
            infer.tested(test, (value, &item), first);
            item
        });
    }

    /// Checks the arguments that are handed on to a filter or a test; false where they are too many or too few, which
    /// was reported before.
    fn rest_fits(&mut self, sort: &str, known: &Builtin, rest: &[CallArg<'_>], args: &Args) -> bool {
        let placed = rest.iter().all(|arg| matches!(arg, CallArg::Pos(_)));
        if !placed || !(known.min..=known.max).contains(&rest.len()) {
            return false;
        }
        for (n, (arg, typed)) in rest.iter().zip(&args.placed).enumerate() {
            if let (CallArg::Pos(value), false) = (arg, known.args.is_empty()) {
                self.argument(sort, known, (n, arg), value, typed);
            }
        }
        true
    }

    /// Returns the type of an item that is there unless the list is empty.
    fn one_of(&self, value: &ast::Expr<'_>, item: &Type) -> Typed {
        Typed::of(if self.filled(value) { item.clone() } else { nullable(item.clone()) })
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

    /// Returns the type of the field that `attribute=` names; of several, of the last.
    fn attribute(&mut self, filter: Named<'_, '_>, item: &Type) -> Option<Type> {
        let name = filter.by_name("attribute")?;
        let at = range(name);
        match written(name) {
            Some(names) if filter.name == "sort" => {
                names.split(',').map(|name| self.attribute_of(item, name.trim(), at.clone())).last()
            }
            Some(name) => Some(self.attribute_of(item, &name, at)),
            None => Some(Type::Any),
        }
    }

    /// Returns the type of a field of the items, which `a.b` reaches into.
    fn attribute_of(&mut self, item: &Type, name: &str, at: Range<usize>) -> Type {
        let mut ty = item.clone();
        let mut null = false;
        for part in name.split('.') {
            null |= matches!(ty, Type::Nullable(_));
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
        if null { nullable(ty) } else { ty }
    }
}

/// Returns the name of a field that is written out, or the number of an item.
fn written(name: &ast::Expr<'_>) -> Option<String> {
    match name {
        ast::Expr::Const(literal) if literal.value.is_integer() => Some(literal.value.to_string()),
        ast::Expr::Const(literal) => literal.value.as_str().map(str::to_owned),
        _ => None,
    }
}

/// Returns what the items are that a test has left.
fn left(filter: Named<'_, '_>, nth: usize, test: Option<&str>, item: &Type, args: &Args) -> Type {
    let some = || item.non_null().clone();
    if filter.name.starts_with("reject") {
        return if test == Some("none") { some() } else { item.clone() };
    }
    let kinds = KINDS.iter().find(|(kind, _)| test == Some(kind)).map(|(_, families)| families);
    if let Some(families) = kinds {
        let left = item.non_null().each().iter().filter(|ty| {
            let family = Typed::of((*ty).clone()).family();
            family == Family::Unknown || families.contains(&family)
        });
        return left.cloned().reduce(either).unwrap_or_else(some);
    }
    let other = args.placed.get(nth + 1);
    match test {
        None | Some("true" | "int" | "integer" | "float" | "odd" | "even") => some(),
        // Null is less than whatever is not null.
        Some("eq" | "equalto" | "==" | "gt" | "greaterthan" | ">" | "ge" | ">=")
            if other.is_some_and(|other| !other.may_be_null() && !other.may_be_any()) =>
        {
            some()
        }
        Some("in") if other.and_then(Typed::items).is_some_and(|item| !item.is_nullable()) => some(),
        _ => item.clone(),
    }
}
