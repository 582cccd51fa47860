//! Checks the rules by which states of older versions are brought to this one.
//!
//! Invariant: a rule leads from names that no channel has to channels, so that none undoes another.

use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::expr::{ExprTree, Facts, Typed, infer};
use crate::plan::Migration;
use crate::spec::{ANY, ExprSpec, MigrateSpec};
use crate::state::{Channels, Merge};

use super::names::{BY_FLOW, Names};
use super::nodes::{misfit, takes};

/// Checks the rules of a graph; those with a mistake are left out.
pub(super) fn migration(
    rules: &[MigrateSpec],
    channels: &Channels,
    names: &Names,
    broken: &[String],
    bag: &mut Bag,
) -> Migration {
    let mut check =
        Check { channels, broken, names: names.clone().without_run(), bag, migration: Migration::default() };
    for rule in rules {
        match rule {
            MigrateSpec::Rename(pairs) => check.renames(pairs),
            MigrateSpec::Drop(name) => check.drop(name),
            MigrateSpec::Default(values) => values.iter().for_each(|(name, spec)| check.default(name, spec)),
        }
    }
    check.migration
}

struct Check<'a> {
    channels: &'a Channels,
    broken: &'a [String],
    names: Names,
    bag: &'a mut Bag,
    migration: Migration,
}

impl Check<'_> {
    fn renames(&mut self, pairs: &[(Spanned<String>, Spanned<String>)]) {
        for (at, (old, new)) in pairs.iter().enumerate() {
            if !self.is_channel(new) | !self.is_old(old) {
                continue;
            }
            let earlier = pairs[..at].iter().find(|(_, earlier)| earlier.value == new.value);
            if let Some((_, earlier)) = earlier {
                let message = format!("two names become `{}`", new.value);
                let finding = Diagnostic::error("G105", message, new.span, "the second one");
                let finding = finding.related(earlier.span, "the first one");
                self.bag.report(
                    finding.help("write them as two items: the first of which a state has a value counts"),
                );
            } else if self.migration.renames.iter().any(|(known, _)| *known == old.value) {
                self.twice(old);
            } else {
                self.migration.renames.push((old.value.clone(), new.value.clone()));
            }
        }
    }

    fn drop(&mut self, name: &Spanned<String>) {
        if !self.is_old(name) {
            return;
        }
        if self.migration.drops.contains(&name.value) {
            return self.twice(name);
        }
        self.migration.drops.push(name.value.clone());
    }

    fn default(&mut self, name: &Spanned<String>, spec: &ExprSpec) {
        let tree = self.names.tree(spec, self.bag);
        if !self.is_channel(name) {
            return;
        }
        let Some(tree) = tree else { return };
        // No way leads here on which a channel was written, or was asked for.
        let mut fine = true;
        spec.for_each_text(&mut |text| {
            let (_, faults) = infer(&text.value, &self.names.roots, &Facts::default());
            let by_flow = |code: &str| BY_FLOW.contains(&code);
            fine &= self.names.faults(faults, by_flow, |range| text.locate(range), self.bag);
        });
        if !fine {
            return;
        }
        if let Some((at, why)) = self.misfit(name, spec, &tree) {
            let message = format!("`{}` holds {}", name.value, self.channels[&name.value].field.ty);
            let finding = Diagnostic::error("S403", message, at, why);
            let declared = self.names.declared(&format!("state.{}", name.value));
            return self.bag.report(match declared {
                Some(at) => finding.related(at, "declared here"),
                None => finding,
            });
        }
        if self.migration.defaults.contains_key(&name.value) {
            return self.twice(name);
        }
        self.migration.defaults.insert(name.value.clone(), tree);
    }

    /// Says why a value does not fit its channel, as far as its type is known.
    fn misfit(&self, name: &Spanned<String>, spec: &ExprSpec, tree: &ExprTree) -> Option<(Span, String)> {
        let ty = &self.channels.get(&name.value)?.field.ty;
        if let ExprTree::Const(value) = tree {
            return ty.check(value).err().map(|mismatch| (spec.span(), mismatch.why));
        }
        let typed = self.names.type_of_tree(tree, &Facts::default());
        // Nothing joins here: the value is the whole of what the channel holds.
        let fits =
            |typed: &Typed| takes(Merge::Replace, ty, typed) && (ty.is_nullable() || !typed.may_be_null());
        (!fits(&typed)).then(|| misfit(&self.names, spec, &typed, ty, &fits))
    }

    /// Sees to it that a value is kept where it goes.
    fn is_channel(&mut self, name: &Spanned<String>) -> bool {
        let Some(channel) = self.channels.get(&name.value) else {
            if self.is_broken(&name.value) {
                return false;
            }
            let message = format!("unknown channel `{}`", name.value);
            let finding = Diagnostic::error("S401", message, name.span, "no channel has this name");
            self.bag.report(
                finding.help_maybe(did_you_mean(&name.value, self.channels.keys().map(String::as_str))),
            );
            return false;
        };
        if channel.per_run {
            let message = format!("`{}` begins anew with each run", name.value);
            let finding = Diagnostic::error("G105", message, name.span, "what is put here is never seen");
            self.bag.report(finding.help("take the rule out, or `keep: run` away from the channel"));
        }
        !channel.per_run
    }

    /// Sees to it that a name of old is none of today.
    fn is_old(&mut self, name: &Spanned<String>) -> bool {
        let today = self.channels.contains_key(&name.value);
        if today {
            let message = format!("`{}` is a channel of this graph", name.value);
            let finding =
                Diagnostic::error("G105", message, name.span, "a name that only older versions have is due");
            self.bag.report(finding.help("to begin a channel anew, give it another name"));
        }
        !today && !self.is_broken(&name.value)
    }

    /// Says whether a name is there but cannot be read, or may be.
    fn is_broken(&self, name: &str) -> bool {
        self.broken.iter().any(|broken| broken == name || broken == ANY)
    }

    fn twice(&mut self, name: &Spanned<String>) {
        let message = format!("a second rule for `{}`", name.value);
        let finding = Diagnostic::error("G105", message, name.span, "only the first would count");
        self.bag.report(finding.help("take one of them out"));
    }
}
