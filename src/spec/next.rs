//! `next` and `start` as written.

use serde_json::Value as Json;

use super::grammar::{ALL, BRANCH, ELSE, MATCH, RULE, SOME, WHEN};
use super::reader::Reader;
use super::text::Text;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// Where a node goes next, as written.
#[derive(Debug, Clone, PartialEq)]
pub enum NextSpec {
    /// A name.
    To(Spanned<String>),
    /// `{all: […]}`.
    All(Vec<Spanned<String>>, Span),
    /// `{some: [{when, to}, …], else: …}`.
    Some(Vec<(Text, Vec<Spanned<String>>)>, Option<Box<NextSpec>>, Span),
    /// A list of rules.
    Rules(Vec<RuleSpec>, Span),
}

/// One rule of a list.
#[derive(Debug, Clone, PartialEq)]
pub enum RuleSpec {
    /// `{when, to}`.
    When(Text, NextSpec),
    /// `{match, cases}`, with the place of the word `match`.
    Match(Text, Span, Vec<(Spanned<Json>, NextSpec)>),
    /// `{else}`.
    Else(NextSpec, Span),
}

impl NextSpec {
    /// Returns the place to point at.
    pub fn span(&self) -> Span {
        match self {
            Self::To(name) => name.span,
            Self::All(_, span) | Self::Some(_, _, span) | Self::Rules(_, span) => *span,
        }
    }
}

impl NextSpec {
    /// Returns every name that it leads to.
    pub fn targets(&self) -> Vec<&Spanned<String>> {
        match self {
            Self::To(name) => vec![name],
            Self::All(names, _) => names.iter().collect(),
            Self::Some(arms, otherwise, _) => {
                let otherwise = otherwise.iter().flat_map(|next| next.targets());
                arms.iter().flat_map(|(_, to)| to).chain(otherwise).collect()
            }
            Self::Rules(rules, _) => rules.iter().flat_map(RuleSpec::targets).collect(),
        }
    }
}

impl RuleSpec {
    fn targets(&self) -> Vec<&Spanned<String>> {
        match self {
            Self::When(_, next) | Self::Else(next, _) => next.targets(),
            Self::Match(_, _, cases) => cases.iter().flat_map(|(_, next)| next.targets()).collect(),
        }
    }

    /// Returns the place to point at.
    pub fn span(&self) -> Span {
        match self {
            Self::When(when, _) => when.span,
            Self::Match(_, span, _) | Self::Else(_, span) => *span,
        }
    }
}

impl Reader<'_> {
    /// Reads any form of `next`.
    pub(super) fn next(&mut self, node: &Node) -> Option<NextSpec> {
        match &node.tree {
            Tree::Str(_) => self.name(node, "the name of a node").map(NextSpec::To),
            Tree::Seq(items) if !items.is_empty() && items.iter().all(|item| item.as_str().is_some()) => {
                let names: Vec<&str> = items.iter().filter_map(Node::as_str).collect();
                let finding = Diagnostic::error(
                    "G220",
                    "a list of names is no `next`",
                    node.span,
                    "all of them, or one of them?",
                );
                self.bag
                    .report(finding.help(format!("for all of them write  {{all: [{}]}}", names.join(", "))));
                None
            }
            Tree::Seq(items) if items.is_empty() => {
                self.wrong(node, "at least one rule");
                None
            }
            Tree::Seq(items) => {
                let rules: Vec<Option<RuleSpec>> = items.iter().map(|item| self.rule(item)).collect();
                // A list with a broken rule is not judged: what is missing may be what is broken.
                let rules: Option<Vec<RuleSpec>> = rules.into_iter().collect();
                rules.map(|rules| NextSpec::Rules(rules, node.span))
            }
            Tree::Map(entries) => {
                let is = |key: &str| entries.iter().any(|(name, _)| name.as_str() == Some(key));
                if is("all") {
                    self.all(node).map(|names| NextSpec::All(names, node.span))
                } else if is("some") {
                    self.some(node)
                } else {
                    // One rule without the dash reads as a list of one.
                    let rule = self.rule(node)?;
                    Some(NextSpec::Rules(vec![rule], node.span))
                }
            }
            _ => {
                self.wrong(node, "the name of a node, or rules");
                None
            }
        }
    }

    fn all(&mut self, node: &Node) -> Option<Vec<Spanned<String>>> {
        let mut fields = self.fields(node, &ALL, "a fan-out")?;
        let names = fields.require(self, "all", "all: [search_docs, search_web]", node.span);
        let names: Vec<_> = names
            .map(|names| self.filled(names, "names"))
            .unwrap_or_default()
            .iter()
            .filter_map(|item| self.name(item, "the name of a node"))
            .collect();
        self.once(&names, "the branch");
        fields.finish(self, |_| None);
        (!names.is_empty()).then_some(names)
    }

    fn some(&mut self, node: &Node) -> Option<NextSpec> {
        let mut fields = self.fields(node, &SOME, "a fan-out")?;
        let arms = fields.take("some")?;
        let arms: Vec<Option<(Text, Vec<Spanned<String>>)>> = self
            .filled(arms, "conditions and names")
            .iter()
            .map(|item| {
                let mut arm = self.fields(item, &BRANCH, "a branch")?;
                let when = arm.require(self, "when", "{when: input.docs, to: search_docs}", item.span);
                let to = arm.require(self, "to", "{when: input.docs, to: search_docs}", item.span);
                let when = when.and_then(|when| self.expression(when));
                let to = to.and_then(|to| self.branch(to));
                arm.finish(self, |_| None);
                when.zip(to)
            })
            .collect();
        let otherwise = fields.take("else").and_then(|node| self.next(node)).map(Box::new);
        fields.finish(self, |_| None);
        if arms.is_empty() {
            return None;
        }
        Some(NextSpec::Some(arms.into_iter().collect::<Option<_>>()?, otherwise, node.span))
    }

    /// Reads where a branch of `some` leads to: a node, or all of several.
    fn branch(&mut self, node: &Node) -> Option<Vec<Spanned<String>>> {
        match node.tree {
            Tree::Map(_) => self.all(node),
            _ => self.name(node, "the name of a node").map(|name| vec![name]),
        }
    }

    fn rule(&mut self, node: &Node) -> Option<RuleSpec> {
        let mut fields = self.fields(node, &RULE, "a rule")?;
        let rule = if let Some(when) = fields.take("when") {
            fields.becomes(&WHEN);
            let to = fields.require(self, "to", "to: answer", node.span);
            let when = self.expression(when);
            let to = to.and_then(|to| self.next(to));
            when.zip(to).map(|(when, to)| RuleSpec::When(when, to))
        } else if let Some((span, on)) = fields.take_entry("match") {
            fields.becomes(&MATCH);
            let cases = fields.require(self, "cases", "cases: {billing: answer_billing}", node.span);
            let on = self.expression(on);
            let cases = cases.and_then(|cases| self.cases(cases));
            on.zip(cases).map(|(on, cases)| RuleSpec::Match(on, span, cases))
        } else if let (Some(to), 1) = (fields.look("to").and_then(Node::as_str), fields.len()) {
            let message = "a target without a condition";
            let finding = Diagnostic::error("G105", message, node.span, "a map for a name");
            self.bag.report(finding.help(format!("write  {to}  alone")));
            return None;
        } else if let Some((span, to)) = fields.take_entry("else") {
            fields.becomes(&ELSE);
            self.next(to).map(|to| RuleSpec::Else(to, span))
        } else {
            if !fields.is_odd() {
                let finding = Diagnostic::error(
                    "G104",
                    "a rule needs `when`, `match` or `else`",
                    node.span,
                    "no condition",
                );
                self.bag.report(finding.help("write  - when: state.done  and below  to: answer"));
            }
            for part in ["to", "cases"] {
                fields.take(part);
            }
            None
        };
        let odd = fields.is_odd();
        fields.finish(self, |key| {
            RULE.key(key)
                .is_some()
                .then(|| format!("a rule has one condition: write `{key}` into one of its own"))
        });
        rule.filter(|_| !odd)
    }

    fn cases(&mut self, node: &Node) -> Option<Vec<(Spanned<Json>, NextSpec)>> {
        let Tree::Map(entries) = &node.tree else {
            self.wrong(node, "a map of values and nodes");
            return None;
        };
        let case = |(key, value): &(Node, Node)| {
            let next = self.next(value)?;
            Some((Spanned { value: key.to_json(), span: key.span }, next))
        };
        let cases: Vec<_> = entries.iter().map(case).collect();
        cases.into_iter().collect()
    }
}
