//! `migrate:` as written.

use super::grammar;
use super::reader::Reader;
use super::text::ExprSpec;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Spanned};

/// One rule of `migrate`.
#[derive(Debug, Clone)]
pub enum MigrateSpec {
    /// `{rename: {old: new}}`.
    Rename(Vec<(Spanned<String>, Spanned<String>)>),
    /// `{drop: name}`.
    Drop(Spanned<String>),
    /// `{default: {name: expr}}`.
    Default(Vec<(Spanned<String>, ExprSpec)>),
}

impl Reader<'_> {
    /// Reads the rules by which states of older versions are brought to this one.
    pub(super) fn migrate(&mut self, node: &Node) -> Vec<MigrateSpec> {
        self.filled(node, "rules").iter().filter_map(|item| self.migrate_rule(item)).collect()
    }

    fn migrate_rule(&mut self, node: &Node) -> Option<MigrateSpec> {
        let mut fields = self.fields(node, &grammar::MIGRATION, "a rule of `migrate`")?;
        let places = ["rename", "drop", "default"].map(|key| fields.place(key));
        if let [first, second, ..] = places.iter().flatten().collect::<Vec<_>>()[..] {
            let finding = Diagnostic::error("G105", "two rules in one item", *second, "the second one");
            let finding = finding.related(*first, "the first one");
            self.bag.report(finding.help("write each as an item of its own:  - drop: name"));
            return None;
        }
        let rule = match (fields.take("rename"), fields.take("drop"), fields.take("default")) {
            (Some(names), ..) => {
                let pairs = self.names(names, "old names and channels").into_iter();
                let pair = |(old, new)| {
                    let fits = self.identifier(&old, "a channel");
                    Some((old, self.name(new, "the name of a channel").filter(|_| fits)?))
                };
                Some(MigrateSpec::Rename(pairs.filter_map(pair).collect()))
            }
            (_, Some(name), _) => self.name(name, "a name").map(MigrateSpec::Drop),
            (_, _, Some(values)) => Some(MigrateSpec::Default(self.expressions(values))),
            // A misspelt rule.
            _ if matches!(&node.tree, Tree::Map(entries) if entries.iter().any(is_key)) => None,
            _ => {
                let message = "a rule of `migrate` needs `rename`, `drop` or `default`";
                let finding = Diagnostic::error("G104", message, node.span, "none of them");
                self.bag.report(finding.help("write  - rename: {old_name: new_name}"));
                None
            }
        };
        fields.finish(self, |_| None);
        rule
    }
}

fn is_key((key, _): &(Node, Node)) -> bool {
    key.as_str().is_none_or(|key| !key.starts_with("x-"))
}
