//! MCP servers as written, and the files that hold what their tools are.
//!
//! Invariant: what a tool of a server is stands in the project's own files, so that it is read without the server.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::fields::Fields;
use super::grammar;
use super::json::JsonFile;
use super::project::Project;
use super::reader::Reader;
use super::request::{HeaderSpec, RequestSpec};
use super::text::Text;
use super::tool::{ToolBodySpec, ToolSpec};
use super::tree::{Node, Tree};
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned};

/// An MCP server.
#[derive(Debug, Clone)]
pub struct McpSpec {
    /// How it is reached.
    pub reach: McpReach,
    /// The tools that graphs may call; all where nothing is said.
    pub tools: Option<Vec<Spanned<String>>>,
    /// `none`, `idempotent` or `at_most_once`, for all of its tools.
    pub effects: Option<Spanned<&'static str>>,
    /// A person is asked before each call.
    pub approval: bool,
    /// How long a call may take.
    pub timeout: Option<Duration>,
}

/// How an MCP server is reached.
#[derive(Debug, Clone)]
pub enum McpReach {
    /// It listens at an address.
    Url(Box<RequestSpec>),
    /// It is a program, which is started.
    Program {
        /// The program and its arguments.
        command: Vec<Spanned<String>>,
        /// Variables of its environment.
        env: Vec<(Spanned<String>, HeaderSpec)>,
    },
}

/// What a server says of a tool, as the protocol has it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct McpSignature {
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The JSON Schema of its arguments.
    pub input_schema: Map<String, Json>,
    /// The JSON Schema of its result, where that is not a text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_schema: Option<Map<String, Json>>,
    /// What a call does.
    #[serde(default, skip_serializing_if = "McpHints::is_silent")]
    pub annotations: McpHints,
}

/// What a server says of the effects of a tool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct McpHints {
    /// It changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_hint: Option<bool>,
    /// It may take something away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destructive_hint: Option<bool>,
    /// Twice is as good as once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent_hint: Option<bool>,
    /// It deals with the world outside of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_world_hint: Option<bool>,
}

impl McpHints {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over like this")]
    fn is_silent(&self) -> bool {
        *self == Self::default()
    }
}

impl McpSignature {
    /// Returns what a call does outside, in the words of `effects`.
    pub fn effects(&self) -> &'static str {
        let McpHints { read_only_hint, idempotent_hint, .. } = self.annotations;
        match (read_only_hint, idempotent_hint) {
            (Some(true), _) => "none",
            (_, Some(true)) => "idempotent",
            _ => "at_most_once",
        }
    }

    /// Names what differs from another one: keys of the file.
    pub fn differs(&self, other: &Self) -> Vec<&'static str> {
        let parts = [
            ("description", self.description == other.description),
            ("inputSchema", self.input_schema == other.input_schema),
            ("outputSchema", self.output_schema == other.output_schema),
            ("annotations", self.annotations == other.annotations),
        ];
        parts.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
    }
}

/// A tool of a server.
#[derive(Debug, Clone)]
pub struct McpToolSpec {
    /// The server, by its name in the project.
    pub server: String,
    /// The tool, by the server's name.
    pub tool: String,
    /// What it is.
    pub signature: McpSignature,
    /// Where its arguments stand, by name.
    pub args: Vec<Spanned<String>>,
}

/// The tools of a server, as they were written down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct McpTools {
    format: u64,
    /// The tools by the server's names.
    pub tools: BTreeMap<String, McpSignature>,
}

/// The format of the files that this build writes and reads.
const FORMAT: u64 = 1;

impl McpTools {
    /// Takes the tools of a server.
    pub fn new(tools: BTreeMap<String, McpSignature>) -> Self {
        Self { format: FORMAT, tools }
    }

    /// Returns the path of the file of a server, within the project.
    pub fn path(server: &str) -> String {
        format!("mcp/{server}.json")
    }

    /// Writes the file.
    pub fn text(&self) -> String {
        // Texts and JSON into memory cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Reads a file. Nothing: the bag says why.
    pub(super) fn read(file: &JsonFile, bag: &mut Bag) -> Option<Self> {
        let wrong = match serde_json::from_value::<Self>(file.json.clone()) {
            Ok(tools) if tools.format == FORMAT => return Some(tools),
            Ok(tools) => format!("its format is {}, this build knows {FORMAT}", tools.format),
            Err(error) => error.to_string(),
        };
        let message = "the tools of an MCP server cannot be read";
        let finding = Diagnostic::error("G105", message, file.place(&[]), wrong);
        bag.report(finding.help("write the file anew:  graphloom mcp pull"));
        None
    }
}

impl Project {
    /// Adds the tools of the servers whose files are there, as `server.tool`.
    pub(super) fn add_mcp_tools(&mut self, files: &BTreeMap<String, (JsonFile, McpTools)>) {
        for (server, (file, known)) in files {
            // A stored version has the files alone: what calls are is of then, where they go is of today.
            let entry = self.mcp.iter().find(|(name, _)| name.value == *server).map(|(_, spec)| spec);
            let listed = entry.and_then(|entry| entry.tools.as_ref());
            for (tool, signature) in &known.tools {
                if listed.is_some_and(|listed| listed.iter().all(|name| name.value != *tool)) {
                    continue;
                }
                let place = |rest: &[&str]| {
                    let keys = ["tools", tool].into_iter().chain(rest.iter().copied());
                    file.place(&keys.map(str::to_owned).collect::<Vec<_>>())
                };
                let properties = signature.input_schema.get("properties").and_then(Json::as_object);
                let args = properties.into_iter().flatten().map(|(name, _)| Spanned {
                    value: name.clone(),
                    span: place(&["inputSchema", "properties", name]),
                });
                let span = place(&[]);
                let effects = entry.and_then(|entry| entry.effects.clone());
                let body = McpToolSpec {
                    server: server.clone(),
                    tool: tool.clone(),
                    signature: signature.clone(),
                    args: args.collect(),
                };
                let spec = ToolSpec {
                    body: ToolBodySpec::Mcp(Box::new(body)),
                    description: signature.description.as_ref().map(|text| Text::verbatim(text, span)),
                    args: None,
                    result: None,
                    effects: effects.or(Some(Spanned { value: signature.effects(), span })),
                    approval: entry.is_some_and(|entry| entry.approval),
                    is_final: false,
                    broken: Vec::new(),
                };
                self.tools.push((Spanned { value: format!("{server}.{tool}"), span }, spec));
            }
        }
    }
}

impl Reader<'_> {
    /// Reads `mcp` of project.yaml.
    pub(super) fn mcp(&mut self, fields: &mut Fields<'_>, project: &mut Project) {
        for (name, node) in fields.take("mcp").map(|n| self.names(n, "MCP servers")).unwrap_or_default() {
            let fits = self.identifier(&name, "an MCP server");
            match self.mcp_server(&name, node) {
                Some(server) if fits => project.mcp.push((name, server)),
                _ => project.broken_mcp.push(name.value),
            }
        }
    }

    fn mcp_server(&mut self, name: &Spanned<String>, node: &Node) -> Option<McpSpec> {
        let errors = self.bag.errors_in(name.span.file);
        let mut fields = self.fields(node, &grammar::MCP, format!("MCP server `{}`", name.value))?;
        let (url, command) = (fields.take_entry("url"), fields.take_entry("command"));
        match (url, command) {
            (None, None) if !fields.is_odd() => {
                let message = format!("MCP server `{}` needs `url` or `command`", name.value);
                let finding = Diagnostic::error("G104", message, name.span, "it is nowhere");
                self.bag.report(finding.help("write  url: \"https://mcp.example.com/mcp\""));
            }
            (Some((first, _)), Some((second, _))) => {
                let message = format!("MCP server `{}` is in two places", name.value);
                let finding = Diagnostic::error("G105", message, second, "the second one");
                self.bag.report(finding.related(first, "the first one").help("keep one of them"));
            }
            _ => {}
        }
        let (headers, auth, env) =
            (fields.take_entry("headers"), fields.take_entry("auth"), fields.take_entry("env"));
        self.only_with("url", url.is_some(), &[("headers", headers), ("auth", auth)]);
        self.only_with("command", command.is_some(), &[("env", env)]);
        let url = url.and_then(|(_, node)| self.text(node, "a URL"));
        let headers = headers.map(|(_, node)| self.headers(node)).unwrap_or_default();
        let auth = auth.and_then(|(_, node)| self.auth(node));
        let command = command.map(|(_, node)| self.command(node));
        let env = env.map(|(_, node)| self.variables(node)).unwrap_or_default();
        let tools = fields.take("tools").map(|node| {
            let items = self.filled(node, "names of tools");
            items.iter().filter_map(|item| self.name(item, "the name of a tool")).collect()
        });
        let effects = fields.take("effects").and_then(|node| self.effects(node));
        let approval = fields.take("approval").and_then(|node| self.word(node, &["always"])).is_some();
        let timeout = fields.take("timeout").and_then(|node| self.time(node));
        fields.finish(self, |_| None);
        if self.bag.errors_in(name.span.file) > errors {
            return None;
        }
        let reach = match (url, command) {
            (Some(url), _) => {
                let request = RequestSpec { method: None, url: Some(url), headers, body: None, auth };
                McpReach::Url(Box::new(request))
            }
            (_, Some(command)) => McpReach::Program { command, env },
            _ => return None,
        };
        Some(McpSpec { reach, tools, effects, approval, timeout })
    }

    /// Reports keys that say nothing without another one.
    fn only_with(&mut self, due: &str, is_there: bool, keys: &[(&str, Option<(Span, &Node)>)]) {
        for (key, entry) in keys {
            if let Some((at, _)) = entry.filter(|_| !is_there) {
                let message = format!("`{key}` without `{due}`");
                let finding = Diagnostic::error("G102", message, at, format!("`{key}` belongs to `{due}`"));
                self.bag.report(finding.help(format!("remove `{key}`")));
            }
        }
    }

    /// Reads a program and its arguments: no shell is between, so each is one item.
    fn command(&mut self, node: &Node) -> Vec<Spanned<String>> {
        if let Tree::Str(text) = &node.tree {
            let message = "expected a list, found a text";
            let finding = Diagnostic::error("G105", message, node.span, "no shell takes it apart");
            let words: Vec<&str> = text.split_whitespace().collect();
            self.bag.report(finding.help(format!("write  command: [{}]", words.join(", "))));
            return Vec::new();
        }
        let items = self.filled(node, "a program and its arguments");
        items.iter().filter_map(|item| self.name(item, "a program or an argument")).collect()
    }

    fn variables(&mut self, node: &Node) -> Vec<(Spanned<String>, HeaderSpec)> {
        let mut variables = Vec::new();
        for (name, value) in self.names(node, "variables") {
            let fits = self.variable(&name, "a variable");
            let value = match value.tree {
                Tree::Map(_) => self.secret(value).map(HeaderSpec::Secret),
                _ => {
                    let name = self.name(value, "a text, or {secret: NAME}");
                    name.map(|name| HeaderSpec::Text(Text::verbatim(&name.value, name.span)))
                }
            };
            variables.extend(value.filter(|_| fits).map(|value| (name, value)));
        }
        variables
    }
}
