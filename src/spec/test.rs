//! Tests of graphs as written.

mod expect;
mod row;

use std::time::Duration;

use serde_json::Value as Json;

use super::grammar;
use super::keys::{later, untested};
use super::reader::Reader;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, FileId, Span, Spanned};

pub use expect::{CallSpec, ExpectSpec, FailureSpec, PathSpec, PromptSpec, ReplySpec, SnapshotSpec};

/// A test file.
#[derive(Debug, Clone)]
pub struct TestFile {
    /// The file.
    pub file: FileId,
    /// The graph that is tested.
    pub graph: Option<Spanned<String>>,
    /// The cases; one for each row where there is a table.
    pub cases: Vec<CaseSpec>,
    /// Codes that are silenced in this file.
    pub allow: Vec<String>,
}

/// Names and plain values.
pub(super) type Values = Vec<(Spanned<String>, Spanned<Json>)>;

/// What a case begins with.
#[derive(Debug, Clone, Default)]
pub struct GivenSpec {
    /// The inputs of its runs.
    pub input: Values,
    /// What channels hold.
    pub state: Values,
    /// The conversation.
    pub messages: Option<Spanned<Json>>,
}

/// One case.
#[derive(Debug, Clone)]
pub struct CaseSpec {
    /// Its name; with the number of the row where the table does not make it one of its own.
    pub name: Spanned<String>,
    /// The one node that runs.
    pub only: Option<Spanned<String>>,
    /// What it begins with, the file's part included.
    pub given: GivenSpec,
    /// Its turns.
    pub turns: Vec<TurnSpec>,
}

/// One turn.
#[derive(Debug, Clone)]
pub struct TurnSpec {
    /// Where it stands.
    pub span: Span,
    /// What the user says.
    pub user: Option<Spanned<Json>>,
    /// What the models answer.
    pub script: Vec<ScriptSpec>,
    /// What is to come of it.
    pub expect: ExpectSpec,
}

/// The answers to the calls of a node.
#[derive(Debug, Clone)]
pub struct ScriptSpec {
    /// The node.
    pub node: Spanned<String>,
    /// One a call.
    pub entries: Vec<EntrySpec>,
}

/// The answer to one call.
#[derive(Debug, Clone)]
pub struct EntrySpec {
    /// Where it stands.
    pub span: Span,
    /// The answer.
    pub text: Option<String>,
    /// The call fails.
    pub error: Option<Spanned<String>>,
    /// How long it takes.
    pub after: Option<Duration>,
}

impl GivenSpec {
    /// Joins what the file gives with what the case gives; the case goes before.
    fn over(self, mut file: Self) -> Self {
        let join = |mut file: Values, case: Values| {
            file.retain(|(name, _)| !case.iter().any(|(own, _)| own.value == name.value));
            file.extend(case);
            file
        };
        file.input = join(file.input, self.input);
        file.state = join(file.state, self.state);
        file.messages = self.messages.or(file.messages);
        file
    }
}

impl Reader<'_> {
    /// Reads a test file.
    pub(super) fn test(&mut self, file: FileId, tree: &Node) -> Option<TestFile> {
        let top = Span { file, start: 0, end: 0 };
        let mut fields = self.fields(tree, &grammar::TEST, "a test file")?;
        self.format(&mut fields, top);
        let graph = fields.require(self, "tests", "tests: chat", top);
        let graph = graph.and_then(|node| self.name(node, "the id of a graph"));
        let given = fields.take("given").map(|node| self.given(node)).unwrap_or_default();
        let cases = fields.require(self, "cases", "cases: [{name: …, turns: […]}]", top);
        let mut read = Vec::new();
        for node in cases.map(|node| self.filled(node, "cases")).unwrap_or_default() {
            self.test_cases(node, &given, &mut read);
        }
        let allow = self.allow(fields.take("allow"));
        fields.finish(self, later);
        Some(TestFile { file, graph, cases: read, allow })
    }

    /// Reads a case; with a table one for each row.
    fn test_cases(&mut self, node: &Node, given: &GivenSpec, cases: &mut Vec<CaseSpec>) {
        let Some((table, name)) = self.rows(node) else { return };
        for (at, row) in table.iter().enumerate() {
            let before = self.bag.errors_in(node.span.file);
            let filled = self.filled_in(node, row.as_ref());
            let case = self.case(&filled, given);
            // What is wrong with one row is mostly wrong with all.
            let (Some(mut case), true) = (case, self.bag.errors_in(node.span.file) == before) else { return };
            // A name that the row changes says which row it is.
            if row.is_some() && name.as_deref() == Some(&case.name.value) {
                case.name.value += &format!(" (row {})", at + 1);
            }
            cases.push(case);
        }
    }

    fn case(&mut self, node: &Node, given: &GivenSpec) -> Option<CaseSpec> {
        let mut fields = self.fields(node, &grammar::CASE, "a case")?;
        let name = fields.require(self, "name", "name: greets a customer once", node.span);
        let name = name.and_then(|node| self.text(node, "the name of the case"));
        let only = fields.take("only").and_then(|node| self.name(node, "the name of a node"));
        let own = fields.take("given").map(|node| self.given(node)).unwrap_or_default();
        fields.take("table");
        let turns = fields.require(self, "turns", "turns: [{user: Hello, script: {answer: Hi}}]", node.span);
        let turns = turns.map(|node| self.filled(node, "turns")).unwrap_or_default();
        let turns: Vec<Option<TurnSpec>> = turns.iter().map(|turn| self.turn(turn)).collect();
        fields.finish(self, later);
        let name = name?;
        let name = Spanned { value: name.value, span: name.span };
        Some(CaseSpec {
            name,
            only,
            given: own.over(given.clone()),
            // What a turn that cannot be read leaves behind is not known to those after it.
            turns: turns.into_iter().collect::<Option<_>>()?,
        })
    }

    fn given(&mut self, node: &Node) -> GivenSpec {
        let Some(mut fields) = self.fields(node, &grammar::GIVEN, "`given`") else {
            return GivenSpec::default();
        };
        let given = GivenSpec {
            input: fields.take("input").map(|node| self.values(node, "inputs")).unwrap_or_default(),
            state: fields.take("state").map(|node| self.values(node, "channels")).unwrap_or_default(),
            messages: fields.take("messages").and_then(|node| {
                self.list(node, "messages");
                self.literal(node).filter(|found| found.value.is_array())
            }),
        };
        fields.finish(self, |_| None);
        given
    }

    /// Reads a map of names and plain values.
    pub(super) fn values(&mut self, node: &Node, what: &str) -> Values {
        self.names(node, &format!("{what} and values"))
            .into_iter()
            .filter_map(|(name, value)| self.literal(value).map(|found| (name, found)))
            .collect()
    }

    fn turn(&mut self, node: &Node) -> Option<TurnSpec> {
        let mut fields = self.fields(node, &grammar::TURN, "a turn")?;
        let user = fields.take("user");
        let user = match user {
            Some(said) if matches!(said.tree, Tree::Seq(_)) => self.literal(said),
            Some(said) => self
                .text(said, "what the user says")
                .map(|text| Spanned { value: Json::String(text.value), span: text.span }),
            None => None,
        };
        let script = fields.take("script").map(|node| self.script(node)).unwrap_or_default();
        let expect = match fields.take_entry("expect") {
            Some((span, node)) => self.expect(node, span),
            None => ExpectSpec::default_at(node.span),
        };
        fields.finish(self, untested);
        Some(TurnSpec { span: node.span, user, script, expect })
    }

    fn script(&mut self, node: &Node) -> Vec<ScriptSpec> {
        let mut scripts = Vec::new();
        for (name, value) in self.names(node, "nodes and their answers") {
            if name.value.contains('/') {
                let message = format!("`{}` stands for a tool of a node", name.value);
                let finding = Diagnostic::error("G102", message, name.span, "no node has such a name");
                self.bag.report(finding.help("scripts of tools are not in this build yet"));
                continue;
            }
            let items = match &value.tree {
                Tree::Seq(_) => self.filled(value, "answers"),
                _ => std::slice::from_ref(value),
            };
            let entries: Vec<Option<EntrySpec>> = items.iter().map(|item| self.entry(item)).collect();
            if let Some(entries) = entries.into_iter().collect::<Option<_>>() {
                scripts.push(ScriptSpec { node: name, entries });
            }
        }
        scripts
    }

    fn entry(&mut self, node: &Node) -> Option<EntrySpec> {
        if !matches!(node.tree, Tree::Map(_)) {
            let text = self.text(node, "an answer: a text, or a map")?;
            return Some(EntrySpec { span: text.span, text: Some(text.value), error: None, after: None });
        }
        let mut fields = self.fields(node, &grammar::ENTRY, "an answer")?;
        let odd = fields.is_odd();
        let (text, error) = (fields.take("text"), fields.take_entry("error"));
        let given = (text.is_some(), error.is_some());
        let text = text.and_then(|node| self.text(node, "a text"));
        let after = fields.take("after").and_then(|node| self.duration(node));
        let fails = error.and_then(|(_, node)| self.name(node, "a kind of error"));
        fields.finish(self, untested);
        match given {
            (true, true) => {
                let at = error.map_or(node.span, |(span, _)| span);
                let message = "`text` and `error` exclude each other";
                let finding = Diagnostic::error("G105", message, at, "a second answer");
                self.bag.report(finding.help("keep one; a list holds the answers to successive calls"));
                None
            }
            (false, false) if !odd => {
                let message = "an answer needs `text` or `error`";
                let finding = Diagnostic::error("G104", message, node.span, "no answer");
                self.bag.report(finding.help("write  {text: Hello}  or  {error: timeout}"));
                None
            }
            _ if odd => None,
            _ => Some(EntrySpec { span: node.span, text: text.map(|text| text.value), error: fails, after }),
        }
    }
}
