//! `on_error` as written.

use super::grammar::{CATCH, CODE, ERROR_RULE, OTHERWISE};
use super::reader::Reader;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// Where errors go; a plain name is one rule for all of them.
#[derive(Debug, Clone, PartialEq)]
pub struct OnErrorSpec {
    /// The rules, of which the first that matches wins.
    pub rules: Vec<CatchSpec>,
}

/// One rule.
#[derive(Debug, Clone, PartialEq)]
pub struct CatchSpec {
    /// The errors that it is for; absent: all of them.
    pub errors: Option<Vec<ErrorSpec>>,
    /// Where they go.
    pub to: Spanned<String>,
    /// The place to point at.
    pub span: Span,
}

/// What a rule catches.
#[derive(Debug, Clone, PartialEq)]
pub enum ErrorSpec {
    /// Errors of a kind.
    Kind(Spanned<String>),
    /// Errors with a code.
    Code(Spanned<String>),
}

impl ErrorSpec {
    /// Returns the place to point at.
    pub fn span(&self) -> Span {
        match self {
            Self::Kind(name) | Self::Code(name) => name.span,
        }
    }
}

impl Reader<'_> {
    /// Reads any form of `on_error`.
    pub(super) fn on_error(&mut self, node: &Node) -> Option<OnErrorSpec> {
        match &node.tree {
            Tree::Str(_) => {
                let to = self.name(node, "the name of a node")?;
                let span = to.span;
                Some(OnErrorSpec { rules: vec![CatchSpec { errors: None, to, span }] })
            }
            Tree::Seq(items) if !items.is_empty() => {
                let rules: Vec<_> = items.iter().map(|item| self.catch(item)).collect();
                // A list with a broken rule is not judged.
                Some(OnErrorSpec { rules: rules.into_iter().collect::<Option<_>>()? })
            }
            _ => {
                self.wrong(node, "the name of a node, or a list of rules");
                None
            }
        }
    }

    fn catch(&mut self, node: &Node) -> Option<CatchSpec> {
        let mut fields = self.fields(node, &ERROR_RULE, "a rule for errors")?;
        let mut rule = None;
        if let Some((span, caught)) = fields.take_entry("catch") {
            fields.becomes(&CATCH);
            let to = fields.require(self, "to", "to: apologise", node.span);
            let errors: Vec<_> =
                self.filled(caught, "error kinds").iter().map(|item| self.caught(item)).collect();
            let errors: Option<Vec<_>> = errors.into_iter().collect();
            let to = to.and_then(|to| self.name(to, "the name of a node"));
            if let Some((errors, to)) = errors.filter(|errors| !errors.is_empty()).zip(to) {
                rule = Some(CatchSpec { errors: Some(errors), to, span });
            }
        } else if let Some((span, to)) = fields.take_entry("else") {
            fields.becomes(&OTHERWISE);
            let to = self.name(to, "the name of a node");
            rule = to.map(|to| CatchSpec { errors: None, to, span });
        } else {
            if !fields.is_odd() {
                let message = "a rule for errors needs `catch` or `else`";
                let finding = Diagnostic::error("G104", message, node.span, "which errors?");
                self.bag.report(finding.help("write  - {catch: [timeout], to: apologise}"));
            }
            fields.take("to");
        }
        let odd = fields.is_odd();
        fields.finish(self, |key| {
            let known = ERROR_RULE.key(key).is_some();
            known
                .then(|| "a rule is for some errors (`catch` and `to`) or for all others (`else`)".to_owned())
        });
        rule.filter(|_| !odd)
    }

    fn caught(&mut self, node: &Node) -> Option<ErrorSpec> {
        if !matches!(node.tree, Tree::Map(_)) {
            return self.name(node, "the kind of an error").map(ErrorSpec::Kind);
        }
        let mut fields = self.fields(node, &CODE, "an error")?;
        let code = fields.require(self, "code", "{code: no_stock}", node.span);
        let code = code.and_then(|code| self.name(code, "a code"));
        fields.finish(self, |_| None);
        code.map(ErrorSpec::Code)
    }
}
