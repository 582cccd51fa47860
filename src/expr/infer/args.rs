//! The arguments of filters, tests and functions.

use minijinja::machinery::ast::{self, CallArg};

use super::items::is_whole;
use super::typed::{Family, Typed};
use super::{Infer, index, range};
use crate::diagnostic::did_you_mean;
use crate::expr::table::{Builtin, Given, Takes};

/// The most numbers of a `range`.
const LONGEST_RANGE: u64 = 100_000;

/// The arguments of a call.
#[derive(Default)]
pub(super) struct Args {
    /// Those by place.
    pub(super) placed: Vec<Typed>,
    /// Those by name.
    pub(super) named: Vec<(String, Typed)>,
    /// One of them holds text from outside.
    pub(super) untrusted: bool,
}

impl Args {
    /// Returns the argument of a place or of a name.
    pub(super) fn get(&self, place: usize, name: &str) -> Option<&Typed> {
        let named = || self.named.iter().find(|(known, _)| known == name).map(|(_, typed)| typed);
        self.placed.get(place).or_else(named)
    }
}

impl Infer<'_> {
    /// Finds the types of arguments, and checks that each is what it has to be.
    pub(super) fn args(&mut self, sort: &str, known: Option<&Builtin>, args: &[CallArg<'_>]) -> Args {
        let mut found = Args::default();
        // Too many or too few were reported when the names were looked at.
        let known = known.filter(|known| (known.min..=known.max).contains(&args.len()));
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
            match arg {
                CallArg::Pos(_) => found.placed.push(typed),
                CallArg::Kwarg(name, _) => found.named.push(((*name).to_owned(), typed)),
                CallArg::PosSplat(_) | CallArg::KwargSplat(_) => {}
            }
        }
        found
    }

    /// Checks one argument: that it can be given like this, and what it is.
    pub(super) fn argument(
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
                let named = format!("`{}` of the {sort} `{}`", argument.name, known.name);
                if let Some(due) = unfit(argument.takes, value, typed) {
                    self.misfit(value, typed, &format!("{named} is {due}"));
                } else if n < known.min && argument.takes != Takes::Any {
                    // One that can be left out takes null for that.
                    self.some(value, typed.clone(), &named);
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

    /// Checks the numbers of a `range` that are written out.
    pub(super) fn range(&mut self, args: &[CallArg<'_>]) {
        let number = |nth: usize| match args.get(nth) {
            Some(CallArg::Pos(value)) => index(value).map(|number| (number, value)),
            _ => None,
        };
        if let Some((0, step)) = number(2) {
            let message = "`range` takes steps of 1 or more, or of -1 or less".to_owned();
            return self.fault("S403", message, range(step), "this is 0", None, None);
        }
        let Some((first, at)) = number(0) else { return };
        let (from, to, at) = match args.len() {
            1 => (0, first, at),
            _ => match number(1) {
                Some((to, at)) => (first, to, at),
                None => return,
            },
        };
        let step = match args.len() {
            3 => number(2).map(|(step, _)| step),
            _ => Some(1),
        };
        let Some(step) = step else { return };
        let forward = (from < to) == (step > 0);
        if forward && from.abs_diff(to) / step.unsigned_abs() > LONGEST_RANGE {
            let message = format!("`range` gives at most {LONGEST_RANGE} numbers");
            self.fault("S403", message, range(at), "this is more", None, None);
        }
    }
}

/// Says what an argument has to be, where it is not.
pub(super) fn unfit(takes: Takes, value: &ast::Expr<'_>, typed: &Typed) -> Option<&'static str> {
    use Family::{Boolean, List, Number, Object, Text};
    let below = |least: i64| index(value).is_some_and(|number| number < least);
    let (fits, due) = match takes {
        Takes::Any => return None,
        Takes::Text => (typed.must_be(&[Text]), "a text"),
        Takes::Number => (typed.must_be(&[Number]), "a number"),
        Takes::Divisor => (typed.must_be(&[Number]) && index(value) != Some(0), "a number other than 0"),
        Takes::Whole => (is_whole(typed), "a whole number"),
        Takes::Natural => (is_whole(typed) && !below(0), "a whole number of 0 or more"),
        Takes::Count => (is_whole(typed) && !below(1), "a whole number of 1 or more"),
        Takes::Switch => (typed.must_be(&[Boolean]), "`true` or `false`"),
        Takes::Width => {
            let fits = typed.must_be(&[Boolean]) || (typed.must_be(&[Number, Boolean]) && !below(0));
            (fits, "a whole number or `true`")
        }
        Takes::Items => (typed.must_be(&[List, Object, Text]), "a list"),
        Takes::Object => (typed.must_be(&[Object]), "an object"),
        Takes::Method => {
            let known = match value {
                ast::Expr::Const(word) => word.value.as_str(),
                _ => None,
            };
            let fits = known.is_none_or(|word| matches!(word, "common" | "ceil" | "floor"));
            (typed.must_be(&[Text]) && fits, "'common', 'ceil' or 'floor'")
        }
    };
    (!fits).then_some(due)
}
