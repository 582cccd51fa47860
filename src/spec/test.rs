//! Tests of graphs as written.

mod expect;
mod row;

use std::time::Duration;

use serde_json::Value as Json;

use super::fields::Fields;
use super::grammar;
use super::reader::Reader;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, FileId, Span, Spanned};

use row::Room;

pub use expect::{CallSpec, ExpectSpec, FailureSpec, PathSpec, PromptSpec, ReplySpec, SnapshotSpec};

/// A test file.
#[derive(Debug, Clone)]
pub struct TestFile {
    /// The file.
    pub file: FileId,
    /// The whole tree, for editors.
    pub tree: Node,
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
    /// What begins it.
    pub opening: OpeningSpec,
    /// What the user says.
    pub user: Option<Spanned<Json>>,
    /// What the models answer.
    pub script: Vec<ScriptSpec>,
    /// What is to come of it.
    pub expect: ExpectSpec,
}

/// What begins a turn.
#[derive(Debug, Clone)]
pub enum OpeningSpec {
    /// A run of its own.
    Run,
    /// The answer to the only open question.
    Answer(Spanned<Json>),
    /// Answers by the nodes that ask.
    Answers(Values),
    /// The run that failed goes on.
    Resume(Span),
}

/// The answers to the calls of a node.
#[derive(Debug, Clone)]
pub struct ScriptSpec {
    /// The node.
    pub node: Spanned<String>,
    /// One a call.
    pub entries: Vec<EntrySpec>,
}

/// Brings the name of a caller into one form: `each[0]/look` and `each/look[0]` are the same node for the same item. The
/// index is that of the innermost list.
pub fn caller_name(name: &str) -> String {
    let bare: Vec<&str> = name.split('/').map(|part| part.split('[').next().unwrap_or(part)).collect();
    let index = name.rfind('[').and_then(|at| name[at..].find(']').map(|end| &name[at..=at + end]));
    bare.join("/") + index.unwrap_or_default()
}

impl ScriptSpec {
    /// Says whether it is the script of a caller.
    pub fn is_of(&self, caller: &str) -> bool {
        caller_name(&self.node.value) == caller_name(caller)
    }
}

/// The answer to one call.
#[derive(Debug, Clone)]
pub struct EntrySpec {
    /// Where it stands.
    pub span: Span,
    /// The answer.
    pub answer: AnswerSpec,
    /// How long it takes.
    pub after: Option<Duration>,
}

/// What answers a call.
#[derive(Debug, Clone)]
pub enum AnswerSpec {
    /// A text.
    Text(String),
    /// A value of a type.
    Output(Json),
    /// The tools that a model calls, with their arguments; and what it says before.
    Calls(Option<String>, Vec<(String, Json)>),
    /// The result of a tool.
    Result(Json),
    /// A response.
    Response {
        /// Its status.
        status: u16,
        /// Its headers.
        headers: Vec<(String, String)>,
        /// Its body: a text, or a value that is sent as JSON.
        body: ResponseBody,
    },
    /// The call fails.
    Error(Spanned<String>),
}

/// The body of a response.
#[derive(Debug, Clone, PartialEq)]
pub enum ResponseBody {
    /// None.
    Nothing,
    /// A text.
    Text(String),
    /// A value.
    Json(Json),
}

impl AnswerSpec {
    /// Names the key that it is written with.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Text(_) => "text",
            Self::Output(_) => "output",
            Self::Calls(..) => "calls",
            Self::Result(_) => "result",
            Self::Response { .. } => "status",
            Self::Error(_) => "error",
        }
    }
}

impl EntrySpec {
    /// Returns the kind of error that it is.
    pub fn error(&self) -> Option<&Spanned<String>> {
        match &self.answer {
            AnswerSpec::Error(kind) => Some(kind),
            _ => None,
        }
    }
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
        let (mut read, mut room) = (Vec::new(), Room::default());
        for node in cases.map(|node| self.filled(node, "cases")).unwrap_or_default() {
            self.test_cases(node, &given, &mut room, &mut read);
        }
        let allow = self.allow(fields.take("allow"));
        fields.finish(self, |_| None);
        Some(TestFile { file, tree: tree.clone(), graph, cases: read, allow })
    }

    /// Reads a case; with a table one for each row.
    fn test_cases(&mut self, node: &Node, given: &GivenSpec, room: &mut Room, cases: &mut Vec<CaseSpec>) {
        let Some((table, name)) = self.rows(node) else { return };
        for (at, row) in table.iter().enumerate() {
            let before = self.bag.errors_in(node.span.file);
            let Some(filled) = self.filled_in(node, row.as_ref(), room) else { return };
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
        fields.finish(self, |_| None);
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
        let opening = self.opening(&mut fields, user.as_ref().map(|user| user.span));
        let mut script = Vec::new();
        if let Some(node) = fields.take("script") {
            self.script(node, "", &mut script);
        }
        let expect = match fields.take_entry("expect") {
            Some((span, node)) => self.expect(node, span),
            None => ExpectSpec::default_at(node.span),
        };
        fields.finish(self, |_| None);
        Some(TurnSpec { span: node.span, opening: opening?, user, script, expect })
    }

    /// Reads what begins a turn besides a message; nothing when it is said twice.
    fn opening(&mut self, fields: &mut Fields<'_>, user: Option<Span>) -> Option<OpeningSpec> {
        let answer = fields.take_entry("answer");
        let answers = fields.take_entry("answers");
        let resume = fields.take_entry("resume");
        let mut given: Vec<Span> = user.into_iter().collect();
        given.extend([answer, answers, resume].into_iter().flatten().map(|(span, _)| span));
        if let [first, second, ..] = given.as_slice() {
            let finding = Diagnostic::error("G105", "a turn begins in two ways", *second, "the second one");
            self.bag.report(finding.related(*first, "the first one").help("make two turns of it"));
            return None;
        }
        match (answer, answers, resume) {
            (Some((_, node)), ..) => self.literal(node).map(OpeningSpec::Answer),
            (_, Some((_, node)), _) => Some(OpeningSpec::Answers(self.values(node, "nodes"))),
            (.., Some((span, node))) => {
                Some(if self.boolean(node)? { OpeningSpec::Resume(span) } else { OpeningSpec::Run })
            }
            _ => Some(OpeningSpec::Run),
        }
    }

    /// Reads scripts; those of nodes within a called graph, and of items, get the names that they call by.
    fn script(&mut self, node: &Node, within: &str, scripts: &mut Vec<ScriptSpec>) {
        for (name, value) in self.names(node, "nodes and their answers") {
            let name = Spanned { value: format!("{within}{}", name.value), ..name };
            self.scripts_of(name, value, scripts);
        }
    }

    fn scripts_of(&mut self, name: Spanned<String>, value: &Node, scripts: &mut Vec<ScriptSpec>) {
        let part = |key: &str| match &value.tree {
            Tree::Map(entries) if entries.len() == 1 => {
                entries.iter().find(|(found, _)| found.as_str() == Some(key)).map(|(_, value)| value)
            }
            _ => None,
        };
        if let Some(inner) = part("nodes") {
            return self.script(inner, &format!("{}/", name.value), scripts);
        }
        if let Some(items) = part("items") {
            for (index, item) in self.filled(items, "answers").iter().enumerate() {
                let name = Spanned { value: format!("{}[{index}]", name.value), ..name };
                self.scripts_of(name, item, scripts);
            }
            return;
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

    /// Reads the answer to one call.
    pub(super) fn entry(&mut self, node: &Node) -> Option<EntrySpec> {
        if !matches!(node.tree, Tree::Map(_)) {
            let text = self.text(node, "an answer: a text, or a map")?;
            return Some(EntrySpec { span: text.span, answer: AnswerSpec::Text(text.value), after: None });
        }
        let mut fields = self.fields(node, &grammar::ENTRY, "an answer")?;
        let odd = fields.is_odd();
        let text = fields.take_entry("text");
        let (output, calls) = (fields.take_entry("output"), fields.take_entry("calls"));
        let (result, error) = (fields.take_entry("result"), fields.take_entry("error"));
        let (status, json) = (fields.take_entry("status"), fields.take_entry("json"));
        let headers = fields.take_entry("headers");
        for key in ["nodes", "items"] {
            if let Some((span, _)) = fields.take_entry(key) {
                let message = format!("`{key}` stands alone");
                let finding = Diagnostic::error("G105", message, span, "beside other keys");
                self.bag.report(finding.help(format!("write  {{{key}: …}}  and nothing else")));
                return None;
            }
        }
        let after = fields.take("after").and_then(|node| self.duration(node));
        fields.finish(self, |_| None);
        let is_response = status.is_some() || json.is_some() || headers.is_some();
        let response = status.or(json).or(headers).filter(|_| is_response);
        let said = text.filter(|_| calls.is_none() && !is_response);
        let given = [said, output, calls, result, error, response];
        let mut given = given.into_iter().flatten().map(|(span, _)| span);
        match (given.next(), given.next()) {
            (Some(first), Some(second)) => {
                let finding = Diagnostic::error("G105", "two answers to one call", second, "a second answer");
                let finding = finding.related(first, "the first one");
                self.bag.report(finding.help("keep one; a list holds the answers to successive calls"));
                return None;
            }
            (None, _) => {
                if !odd {
                    let message = "an answer needs `text`, `output`, `calls`, `result`, `json` or `error`";
                    let finding = Diagnostic::error("G104", message, node.span, "no answer");
                    self.bag.report(finding.help("write  {text: Hello}  or  {error: timeout}"));
                }
                return None;
            }
            _ => {}
        }
        let text = match text {
            Some((_, node)) => Some(self.text(node, "a text")?.value),
            None => None,
        };
        let answer = if let Some((_, node)) = output {
            AnswerSpec::Output(self.literal(node)?.value)
        } else if let Some((_, node)) = calls {
            AnswerSpec::Calls(text, self.calls(node)?)
        } else if let Some((_, node)) = result {
            AnswerSpec::Result(self.literal(node)?.value)
        } else if let Some((_, node)) = error {
            AnswerSpec::Error(self.name(node, "a kind of error")?)
        } else if is_response {
            let status = match status {
                Some((_, node)) => self.count(node, 100)?.value,
                None => 200,
            };
            let body = match (json, text) {
                (Some((_, node)), _) => ResponseBody::Json(self.literal(node)?.value),
                (None, Some(text)) => ResponseBody::Text(text),
                (None, None) => ResponseBody::Nothing,
            };
            let headers = headers.map(|(_, node)| self.names(node, "headers")).unwrap_or_default();
            let headers = headers.into_iter().filter_map(|(name, value)| {
                Some((name.value.to_ascii_lowercase(), self.text(value, "a text")?.value))
            });
            let headers = headers.collect();
            AnswerSpec::Response { status: u16::try_from(status).unwrap_or(u16::MAX), headers, body }
        } else {
            AnswerSpec::Text(text?)
        };
        (!odd).then_some(EntrySpec { span: node.span, answer, after })
    }

    /// Reads the calls of a model: maps of one tool and its arguments.
    fn calls(&mut self, node: &Node) -> Option<Vec<(String, Json)>> {
        let mut calls = Vec::new();
        for item in self.filled(node, "calls") {
            for (name, value) in self.names(item, "a tool and its arguments") {
                calls.push((name.value, self.literal(value)?.value));
            }
        }
        Some(calls)
    }
}
