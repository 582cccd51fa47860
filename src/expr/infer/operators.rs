//! The types that operators and tests take.

use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind, UnaryOpKind};

use super::typed::{Family, Typed, family};
use super::{Infer, Local, index, range};
use crate::diagnostic::did_you_mean;
use crate::expr::Place;
use crate::expr::table::{TESTS, find};
use crate::state::Type;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Order,
    In,
}

pub(super) fn comparison(op: CompareOpKind) -> Comparison {
    match op {
        CompareOpKind::Eq | CompareOpKind::Ne => Comparison::Equal,
        CompareOpKind::In | CompareOpKind::NotIn => Comparison::In,
        _ => Comparison::Order,
    }
}

/// An operand and what is known of it.
type Operand<'o, 'a> = (&'o ast::Expr<'a>, &'o Typed);

impl Infer<'_> {
    pub(super) fn unary(&mut self, op: &ast::UnaryOp<'_>) -> Typed {
        if matches!(op.op, UnaryOpKind::Not) {
            self.condition(&op.expr);
            return Typed::of(Type::Boolean);
        }
        let typed = self.expr(&op.expr);
        self.number(&op.expr, typed)
    }

    pub(super) fn binary(&mut self, op: &ast::BinOp<'_>) -> Typed {
        match op.op {
            BinOpKind::ScAnd | BinOpKind::ScOr => {
                let left = self.condition(&op.left);
                let before = self.assume(&op.left, matches!(op.op, BinOpKind::ScAnd));
                let right = self.condition(&op.right);
                self.facts = before;
                if self.place == Place::Key {
                    return Typed::of(Type::Boolean);
                }
                // A template gives one of the two; what `or` gives of its left side is true, and so not null.
                let left = match op.op {
                    BinOpKind::ScOr if left.null => return right,
                    BinOpKind::ScOr => Typed { ty: left.ty.non_null().clone(), path: None, ..left },
                    _ => left,
                };
                left.union(right)
            }
            BinOpKind::Eq | BinOpKind::Ne => self.compared(op, Comparison::Equal),
            BinOpKind::In => self.compared(op, Comparison::In),
            BinOpKind::Lt | BinOpKind::Lte | BinOpKind::Gt | BinOpKind::Gte => {
                self.compared(op, Comparison::Order)
            }
            BinOpKind::Concat => {
                let (left, right) = (self.expr(&op.left), self.expr(&op.right));
                let untrusted = left.untrusted || right.untrusted;
                self.printable(&op.left, left);
                self.printable(&op.right, right);
                Typed { untrusted, ..Typed::of(Type::STRING) }
            }
            BinOpKind::Add => self.sum(op),
            _ => {
                let (left, right) = (self.expr(&op.left), self.expr(&op.right));
                let left = self.number(&op.left, left);
                let right = self.number(&op.right, right);
                let divides = matches!(op.op, BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem);
                if divides && index(&op.right) == Some(0) {
                    let message = "this divides by zero".to_owned();
                    self.fault("S403", message, range(&op.right), "this is 0", None, None);
                }
                if matches!(op.op, BinOpKind::Pow)
                    && let (Some(base), Some(power)) = (index(&op.left), index(&op.right))
                    && let Ok(power) = u32::try_from(power)
                    && base.checked_pow(power).is_none()
                {
                    let message = "the number needs more than 64 bits".to_owned();
                    self.fault(
                        "S403",
                        message,
                        range(&op.left).start..range(&op.right).end,
                        "too large",
                        None,
                        None,
                    );
                }
                let natural = matches!(&op.right, ast::Expr::Const(n) if n.value.as_usize().is_some());
                let whole = match op.op {
                    BinOpKind::Div => false,
                    BinOpKind::Pow => natural,
                    _ => true,
                };
                match (left.ty, right.ty) {
                    (Type::Integer { .. }, Type::Integer { .. }) if whole => Typed::of(Type::INTEGER),
                    _ => Typed::of(Type::NUMBER),
                }
            }
        }
    }

    fn compared(&mut self, op: &ast::BinOp<'_>, how: Comparison) -> Typed {
        let (left, right) = (self.expr(&op.left), self.expr(&op.right));
        self.compare(how, (&op.left, &left), (&op.right, &right));
        Typed::of(Type::Boolean)
    }

    /// Numbers add up, texts and lists are put together.
    fn sum(&mut self, op: &ast::BinOp<'_>) -> Typed {
        let (left, right) = (self.expr(&op.left), self.expr(&op.right));
        let left = self.some(&op.left, left, "a sum");
        let right = self.some(&op.right, right, "a sum");
        let untrusted = left.untrusted || right.untrusted;
        for (expr, typed) in [(&op.left, &left), (&op.right, &right)] {
            if !typed.must_be(&[Family::Number, Family::Text, Family::List]) {
                self.misfit(expr, typed, "`+` takes numbers, texts or lists");
                return Typed::any();
            }
        }
        let ty = match (left.family(), right.family()) {
            (Family::Unknown, _) | (_, Family::Unknown) => Type::Any,
            (Family::Number, Family::Number) => match (&left.ty, &right.ty) {
                (Type::Integer { .. }, Type::Integer { .. }) => Type::INTEGER,
                _ => Type::NUMBER,
            },
            (Family::Text, Family::Text) => Type::STRING,
            (Family::List, Family::List) => left.clone().union(right.clone()).ty,
            _ => {
                let message = format!("`+` of {left} and {right}");
                let help = matches!(
                    (left.family(), right.family()),
                    (Family::Text, Family::Number) | (Family::Number, Family::Text)
                )
                .then(|| {
                    format!("to make one text write  {} ~ {}", self.text(&op.left), self.text(&op.right))
                });
                let mixed = left.family() == Family::Mixed;
                let (at, odd) = if mixed { (&op.left, left) } else { (&op.right, right) };
                self.fault("S403", message, range(at), format!("this is {odd}"), help, odd.path);
                Type::Any
            }
        };
        Typed { untrusted, ..Typed::of(ty) }
    }

    /// Takes an operand that must be a number.
    pub(super) fn number(&mut self, expr: &ast::Expr<'_>, typed: Typed) -> Typed {
        let typed = self.some(expr, typed, "arithmetic");
        match typed.ty {
            Type::Integer { .. } => Typed::of(Type::INTEGER),
            Type::Number { .. } => Typed::of(Type::NUMBER),
            _ if typed.must_be(&[Family::Number]) => Typed::any(),
            _ => {
                self.misfit(expr, &typed, "arithmetic takes numbers");
                Typed::any()
            }
        }
    }

    /// Takes an operand that becomes text.
    pub(super) fn printable(&mut self, expr: &ast::Expr<'_>, typed: Typed) {
        if self.is_macro(expr) {
            return;
        }
        let typed = self.some(expr, typed, "a text");
        if typed.may_be(&[Family::List, Family::Object]) {
            self.raw(expr, &typed);
        }
    }

    /// Reports a macro, or a file of such, that stands where a value is due; says whether it was one.
    pub(crate) fn is_macro(&mut self, expr: &ast::Expr<'_>) -> bool {
        let ast::Expr::Var(var) = expr else { return false };
        let (message, help) = match self.local(var.id) {
            Some(Local::Macro(_)) => ("a macro is no text", format!("call it:  {}(…)", var.id)),
            Some(Local::Module(_)) => {
                ("a file is no text", format!("call one of its macros:  {}.name(…)", var.id))
            }
            _ => return false,
        };
        self.fault("T308", message.to_owned(), range(expr), "this is no value", Some(help), None);
        true
    }

    /// Reports a list or an object where a text is due.
    pub(crate) fn raw(&mut self, expr: &ast::Expr<'_>, typed: &Typed) {
        let what = if typed.may_be(&[Family::List]) { "a list" } else { "an object" };
        let field = match &typed.ty {
            Type::Record(fields) => {
                fields.keys().next().map(|field| format!(", or a field such as `{field}`"))
            }
            Type::Messages => Some(", or `| last_text`".to_owned()),
            Type::List(_) => Some(", `| join(', ')`, or a loop".to_owned()),
            _ => None,
        };
        let help = match expr {
            // A text, or a list of parts.
            ast::Expr::GetAttr(attr) if attr.name == "content" && typed.may_be(&[Family::Text]) => {
                let turn = self.text(&attr.expr);
                format!("for its text write  [{turn}] | last_text  or ask before  {turn}.content is string")
            }
            _ => format!("write  {} | tojson{}", self.text(expr), field.unwrap_or_default()),
        };
        let code = if self.place == Place::Template { "T308" } else { "S403" };
        let message = if typed.may_be(&[Family::Text]) {
            format!("this may be {what}, which is no text")
        } else {
            format!("{what} is no text")
        };
        self.fault(code, message, range(expr), format!("this is {typed}"), Some(help), typed.path.clone());
    }

    /// Takes a condition, or an operand of `and`, `or` and `not`.
    pub(crate) fn condition(&mut self, expr: &ast::Expr<'_>) -> Typed {
        let typed = self.expr(expr);
        if self.place == Place::Key && !typed.is_condition() {
            let help = boolean_help(self.text(expr), &typed.ty);
            let label = format!("this is {typed}");
            let message = "a condition is `true` or `false`".to_owned();
            self.fault("E104", message, range(expr), label, Some(help), typed.path.clone());
        }
        typed
    }

    pub(super) fn compare(&mut self, how: Comparison, left: Operand<'_, '_>, right: Operand<'_, '_>) {
        match how {
            Comparison::Equal => self.equal(left, right),
            Comparison::Order => self.order(left, right),
            Comparison::In => self.member(left, right),
        }
    }

    fn equal(&mut self, left: Operand<'_, '_>, right: Operand<'_, '_>) {
        if left.1.null || right.1.null {
            return;
        }
        let (a, b) = (left.1.family(), right.1.family());
        if a == Family::Unknown || b == Family::Unknown {
            return;
        }
        if a != b || a == Family::Mixed {
            // The literal is what most likely has to change.
            let (odd, other) =
                if is_literal(left.0) && !is_literal(right.0) { (left, right) } else { (right, left) };
            self.different(odd, other);
        } else if let (Type::Enum(a), Type::Enum(b)) = (left.1.ty.non_null(), right.1.ty.non_null())
            && !a.iter().any(|value| b.contains(value))
        {
            self.no_value(left, right);
        }
    }

    /// Reports a comparison of values that can never be equal.
    fn different(&mut self, odd: Operand<'_, '_>, other: Operand<'_, '_>) {
        let message = format!("{} is compared with {}", other.1, odd.1);
        let text = self.text(odd.0);
        let bare = text.trim_matches(['\'', '"']);
        let help = match (odd.1.family(), other.1.family()) {
            (Family::Text, Family::Number) if bare.parse::<f64>().is_ok() => {
                Some(format!("write  {bare}  without quotes"))
            }
            (Family::Text, Family::Boolean)
                if matches!(bare, "true" | "false" | "True" | "False" | "yes" | "no") =>
            {
                let word = if matches!(bare, "true" | "True" | "yes") { "true" } else { "false" };
                Some(format!("write  {word}  without quotes"))
            }
            (Family::Number | Family::Boolean, Family::Text) => Some(format!("for a text write  '{text}'")),
            (_, Family::List) => {
                Some(format!("to look into the list write  {text} in {}", self.text(other.0)))
            }
            _ => None,
        };
        let label = format!("this is {}", odd.1);
        self.fault("E106", message, range(odd.0), label, help, other.1.path.clone());
    }

    /// Reports a text that an enum does not have.
    fn no_value(&mut self, left: Operand<'_, '_>, right: Operand<'_, '_>) {
        let (odd, other) = if left.1.literal && !right.1.literal { (left, right) } else { (right, left) };
        let (Type::Enum(found), Type::Enum(values)) = (odd.1.ty.non_null(), other.1.ty.non_null()) else {
            return;
        };
        if odd.1.literal && other.1.literal {
            return;
        }
        let (message, help) = match found.as_slice() {
            [one] => (
                format!("`{one}` is not a value of {}", self.named(other.0, other.1)),
                did_you_mean(one, values.iter().map(String::as_str)),
            ),
            _ => (format!("{} and {} have no value in common", odd.1, other.1), None),
        };
        self.fault("E106", message, range(odd.0), "never equal", help, other.1.path.clone());
    }

    fn order(&mut self, left: Operand<'_, '_>, right: Operand<'_, '_>) {
        let a = self.some(left.0, left.1.clone(), "an order");
        let b = self.some(right.0, right.1.clone(), "an order");
        for (expr, typed) in [(left.0, &a), (right.0, &b)] {
            if typed.may_be(&[Family::Boolean, Family::List, Family::Object]) {
                let help = (typed.family() == Family::List)
                    .then(|| format!("for its length write  {} | length", self.text(expr)));
                let message = "only numbers and texts have an order".to_owned();
                self.fault(
                    "E106",
                    message,
                    range(expr),
                    format!("this is {typed}"),
                    help,
                    typed.path.clone(),
                );
                return;
            }
        }
        let (one, other) = (a.family(), b.family());
        let alike = one == other && one != Family::Mixed;
        if !alike && one != Family::Unknown && other != Family::Unknown {
            let swap = is_literal(left.0) && !is_literal(right.0);
            if swap {
                self.different((left.0, &a), (right.0, &b));
            } else {
                self.different((right.0, &b), (left.0, &a));
            }
        }
    }

    fn member(&mut self, item: Operand<'_, '_>, holder: Operand<'_, '_>) {
        let held = self.some(holder.0, holder.1.clone(), "`in`");
        match held.family() {
            Family::List => self.member_of(item, holder, &held),
            Family::Text | Family::Object => {
                let item_typed = self.some(item.0, item.1.clone(), "`in`");
                if !item_typed.must_be(&[Family::Text]) {
                    self.never_in(item, &held, item.1.path.clone());
                }
            }
            Family::Unknown => {}
            Family::Number | Family::Boolean | Family::Mixed => {
                self.misfit(holder.0, &held, "`in` takes a list, a text or an object");
            }
        }
    }

    /// Looks at a value that is looked for in a list. Where the list holds nothing of its kind, that fails.
    fn member_of(&mut self, item: Operand<'_, '_>, holder: Operand<'_, '_>, held: &Typed) {
        let of = Typed::of(held.items().unwrap_or(Type::Any));
        let kinds: Vec<Family> = of.ty.non_null().each().iter().map(family).collect();
        let written = match holder.0 {
            ast::Expr::List(list) => list.items.as_slice(),
            _ => &[],
        };
        // Each text of a list that is written out is looked at on its own.
        let mut told = false;
        for other in written {
            if let ast::Expr::Const(literal) = other
                && let Some(text) = literal.value.as_str()
            {
                let before = self.faults.len();
                self.equal(item, (other, &Typed::text(text)));
                told |= self.faults.len() > before;
            }
        }
        // A list that is written out holds each of its kinds; of another, nobody knows which it holds.
        let all_there = !written.is_empty() || self.place == Place::Template || kinds.len() == 1;
        let unknown = kinds.contains(&Family::Unknown) || matches!(of.ty, Type::Nullable(_)) || of.null;
        if told || unknown || item.1.null || held.empty {
        } else if !item.1.must_be(&kinds) || !(all_there || item.1.family() == Family::Unknown) {
            self.never_in(item, held, held.path.clone());
        } else if written.is_empty()
            && let (Type::Enum(a), Type::Enum(b)) = (item.1.ty.non_null(), of.ty.non_null())
            && !a.iter().any(|value| b.contains(value))
        {
            let of = Typed { path: held.path.clone(), ..of };
            self.no_value(item, (holder.0, &of));
        }
    }

    /// Reports a value that is looked for where nothing of its type can be.
    fn never_in(&mut self, item: Operand<'_, '_>, held: &Typed, about: Option<String>) {
        let message = format!("{} is looked for in {held}", item.1);
        self.fault("E106", message, range(item.0), format!("this is {}", item.1), None, about);
    }

    pub(super) fn test(&mut self, test: &ast::Test<'_>) -> Typed {
        let typed = match test.name {
            "defined" | "undefined" => self.maybe(&test.expr),
            _ => self.expr(&test.expr),
        };
        let given = self.args("test", find(TESTS, test.name), &test.args).placed;
        let first = match test.args.first() {
            Some(ast::CallArg::Pos(value)) => Some(value).zip(given.first()),
            _ => None,
        };
        self.tested(test.name, (&test.expr, &typed), first);
        Typed::of(Type::Boolean)
    }

    /// Checks that a test can be asked of a value.
    pub(super) fn tested(
        &mut self,
        test: &str,
        operand: Operand<'_, '_>,
        other: Option<(&ast::Expr<'_>, &Typed)>,
    ) {
        let (expr, typed) = operand;
        match (test, other) {
            ("odd" | "even" | "divisibleby", _) => {
                let typed = self.some(expr, typed.clone(), "a test");
                if !typed.must_be(&[Family::Number]) {
                    self.misfit(expr, &typed, &format!("`is {test}` takes a number"));
                }
            }
            ("startingwith" | "endingwith" | "lower" | "upper", _) => {
                let typed = self.some(expr, typed.clone(), "a test");
                if !typed.must_be(&[Family::Text]) {
                    self.misfit(expr, &typed, &format!("`is {test}` takes a text"));
                }
            }
            ("eq" | "equalto" | "ne" | "sameas" | "==" | "!=", Some(other)) => self.equal(operand, other),
            (
                "lt" | "lessthan" | "le" | "gt" | "greaterthan" | "ge" | "<" | "<=" | ">" | ">=",
                Some(other),
            ) => self.order(operand, other),
            ("in", Some(other)) => self.member(operand, other),
            _ => {}
        }
    }
}

/// Says how to make a condition of a value.
pub(crate) fn boolean_help(text: &str, ty: &Type) -> String {
    match ty {
        Type::Nullable(inner) if matches!(**inner, Type::Boolean) => format!("write  {text} == true"),
        Type::Nullable(_) => format!("write  {text} is not none"),
        Type::String { .. } => format!("compare it, for instance  {text} == 'yes'"),
        Type::Enum(values) => {
            let value = values.first().map_or("yes", String::as_str);
            format!("compare it, for instance  {text} == '{value}'")
        }
        Type::List(_) | Type::Messages => format!("write  {text} | length > 0"),
        Type::Object | Type::Record(_) => format!("compare one of the fields of  {text}"),
        _ => format!("compare it, for instance  {text} > 0"),
    }
}

fn is_literal(expr: &ast::Expr<'_>) -> bool {
    matches!(expr, ast::Expr::Const(_))
}
