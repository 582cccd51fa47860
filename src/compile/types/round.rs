//! Types that contain themselves.

use std::collections::BTreeMap;

use super::{Specs, Types, is_small};
use crate::compile::knots::{is_round, knots};
use crate::diagnostic::{Bag, Diagnostic};
use crate::spec::{Base, TypeSpec};
use crate::state::{Field, Knot, Named, Type};

/// How a type mentions another one.
#[derive(Debug, Clone, Copy, Default)]
struct Within {
    /// In what may be null, or in a list, which may be empty: so a value can end before it.
    ends: bool,
    /// In a record or a list: so a value goes on by it.
    part: bool,
}

impl Types {
    /// Resolves types that lead to one another.
    pub(super) fn tie(&mut self, round: &[&str], specs: &Specs<'_>, bag: &mut Bag) {
        if is_endless(round, specs, bag) {
            self.known.extend(round.iter().map(|name| ((*name).to_owned(), Field::of(Type::Any))));
            return;
        }
        // What is said of them besides their parts is taken from one another: until nothing changes.
        let mut silent = if bag.is_trusting() { Bag::trusting() } else { Bag::default() };
        let mut found: BTreeMap<&str, Field> = BTreeMap::new();
        let outside = |name: &str, found: Option<&Field>| {
            let named = Type::Named(Named::within(name));
            match found {
                Some(field) if matches!(field.ty, Type::Nullable(_)) => {
                    Field { ty: Type::Nullable(Box::new(named)), ..field.clone() }
                }
                Some(field) => Field { ty: named, ..field.clone() },
                None => Field::of(named),
            }
        };
        for _ in 0..=round.len() + 1 {
            for &name in round {
                self.known.insert(name.to_owned(), outside(name, found.get(name)));
            }
            let mut resolve = |name: &str| self.field(&specs[name].1, &mut silent);
            let more: BTreeMap<&str, Field> = round
                .iter()
                .map(|name| (*name, resolve(name).unwrap_or_else(|| Field::of(Type::Any))))
                .collect();
            if more == found {
                break;
            }
            found = more;
        }
        // Another name of a type is made of the same.
        let made = |name: &str| {
            let mut ty = found[name].ty.non_null();
            while let Type::Named(other) = ty
                && let Some(field) = found.get(other.name.as_str())
            {
                ty = field.ty.non_null();
            }
            ty.clone()
        };
        let knot = Knot::tie(round.iter().map(|name| ((*name).to_owned(), made(name))).collect());
        for (&name, field) in &found {
            let ty = Named::of(&knot, name).open();
            let ty = if field.ty.is_nullable() { crate::state::nullable(ty) } else { ty };
            self.known.insert(name.to_owned(), Field { ty, ..field.clone() });
        }
        // Now that they are known, what is wrong with them is told.
        for name in round {
            let (declared, spec) = specs[name];
            let fine = self.field(spec, bag).is_some_and(|field| is_small(declared, &field.ty, bag));
            if !fine {
                self.known.insert((*name).to_owned(), Field::of(Type::Any));
            }
        }
        // That they name each other is no use of them.
        self.used.get_mut().retain(|name| !round.contains(&name.as_str()));
        self.rounds.push(round.iter().map(|name| (*name).to_owned()).collect());
    }
}

/// Reports types whose values would have no end.
fn is_endless(round: &[&str], specs: &Specs<'_>, bag: &mut Bag) -> bool {
    let edges = |wanted: fn(Within) -> bool| -> BTreeMap<&str, Vec<&str>> {
        let edges = round.iter().map(|name| {
            let mut found = Vec::new();
            within(&specs[name].1, Within::default(), &mut found);
            let next = found.into_iter().filter(|(_, how)| wanted(*how)).map(|(name, _)| name);
            (*name, next.filter(|name| round.contains(name)).collect())
        });
        edges.collect()
    };
    let mut found = false;
    for (edges, label) in [
        (edges(|how| !how.ends), "a value of it would have no end"),
        (edges(|how| !how.part), "it is nothing but itself"),
    ] {
        for part in knots(&edges).into_iter().filter(|part| is_round(part, &edges)) {
            if std::mem::replace(&mut found, true) {
                continue;
            }
            let mut names: Vec<_> = part.iter().map(|name| &specs[name].0).collect();
            names.sort_by_key(|name| name.span);
            let message = format!("type `{}` contains itself", names[0].value);
            let finding = Diagnostic::error("S409", message, names[0].span, label);
            let finding = names[1..]
                .iter()
                .fold(finding, |finding, name| finding.related(name.span, "by way of this one"));
            let name = &names[0].value;
            bag.report(finding.help(format!(
                "let a value end: take a list of it,  [{name}] , or let it be null,  {name}?"
            )));
        }
    }
    found
}

/// Returns the names that a type mentions.
pub(super) fn mentions(spec: &TypeSpec) -> Vec<&str> {
    let mut found = Vec::new();
    within(spec, Within::default(), &mut found);
    found.into_iter().map(|(name, _)| name).collect()
}

/// Collects the names that a type mentions, and how.
fn within<'s>(spec: &'s TypeSpec, how: Within, found: &mut Vec<(&'s str, Within)>) {
    let part = Within { part: true, ..how };
    match spec {
        TypeSpec::Name { name, nullable } => {
            found.push((&name.value, Within { ends: how.ends || *nullable, ..how }));
        }
        TypeSpec::List(item, _) => within(item, Within { ends: true, part: true }, found),
        TypeSpec::Record(fields, _) => fields.iter().for_each(|(_, spec)| within(spec, part, found)),
        TypeSpec::Descriptor(d) => {
            let how = Within { ends: how.ends || d.optional, ..how };
            match &d.base {
                Base::Type(spec) => within(spec, how, found),
                Base::Enum(_) | Base::Schema(_) => {}
                Base::Fields(fields) => {
                    let part = Within { part: true, ..how };
                    for (_, spec) in fields {
                        within(spec, part, found);
                    }
                }
            }
        }
    }
}
