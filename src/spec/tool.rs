//! Tools as written, and what project.yaml says of hosts, secrets and settings.

use super::fields::Fields;
use super::grammar;
use super::mcp::McpToolSpec;
use super::project::Project;
use super::reader::Reader;
use super::request::RequestSpec;
use super::text::Text;
use super::tree::{Node, Tree};
use super::types::TypeSpec;
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// A tool.
#[derive(Debug, Clone)]
pub struct ToolSpec {
    /// What is called.
    pub body: ToolBodySpec,
    /// What it is for.
    pub description: Option<Text>,
    /// Its arguments; nothing where they are not written.
    pub args: Option<Vec<(Spanned<String>, TypeSpec)>>,
    /// The type of its result.
    pub result: Option<TypeSpec>,
    /// `none`, `idempotent` or `at_most_once`.
    pub effects: Option<Spanned<&'static str>>,
    /// A person is asked before each call.
    pub approval: bool,
    /// Its result is the answer of the loop.
    pub is_final: bool,
    /// Names of arguments that cannot be read.
    pub broken: Vec<String>,
}

/// What a tool calls.
#[derive(Debug, Clone)]
pub enum ToolBodySpec {
    /// A request.
    Http(Box<RequestSpec>),
    /// What a host program has registered.
    Custom(Spanned<String>),
    /// A graph.
    Graph(Spanned<String>),
    /// A tool of an MCP server.
    Mcp(Box<McpToolSpec>),
}

/// A host, with its port where that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The name in small letters, or an address.
    pub host: String,
    /// The port.
    pub port: Option<u16>,
    /// Where it is written.
    pub span: Span,
}

/// A setting.
#[derive(Debug, Clone)]
pub struct EnvSpec {
    /// The value where the variable is not set.
    pub default: Option<String>,
}

const BODIES: [&str; 3] = ["http", "custom", "graph"];

impl Reader<'_> {
    /// Reads `tools`, `mcp`, `hosts`, `secrets` and `env` of project.yaml.
    pub(super) fn outside(&mut self, fields: &mut Fields<'_>, project: &mut Project) {
        for (name, node) in fields.take("tools").map(|n| self.names(n, "tools")).unwrap_or_default() {
            let fits = self.identifier(&name, "a tool");
            match self.tool(&name, node) {
                Some(tool) if fits => project.tools.push((name, tool)),
                _ => Self::broken(name.value, &mut project.broken_tools),
            }
        }
        self.mcp(fields, project);
        if let Some((span, node)) = fields.take_entry("hosts") {
            let errors = self.bag.errors_in(span.file);
            project.hosts = self.hosts(node).unwrap_or_default();
            project.broken_hosts = self.bag.errors_in(span.file) > errors;
            project.hosts_key = Some(span);
        }
        for (name, node) in fields.take("secrets").map(|n| self.names(n, "secrets")).unwrap_or_default() {
            let fits = self.variable(&name, "a secret");
            if let Some(hosts) = self.secret_rule(&name, node).filter(|_| fits) {
                project.secrets.push((name, hosts));
            }
        }
        for (name, node) in fields.take("env").map(|n| self.names(n, "settings")).unwrap_or_default() {
            let fits = self.variable(&name, "a setting");
            match self.env(&name, node) {
                Some(env) if fits => project.env.push((name, env)),
                _ => project.broken_env.push(name.value),
            }
        }
    }

    fn tool(&mut self, name: &Spanned<String>, node: &Node) -> Option<ToolSpec> {
        let errors = self.bag.errors_in(name.span.file);
        let mut fields = self.fields(node, &grammar::TOOL, format!("tool `{}`", name.value))?;
        let given: Vec<Span> = BODIES.iter().filter_map(|key| fields.place(key)).collect();
        match given.as_slice() {
            [] if !fields.is_odd() => {
                let message = format!("tool `{}` needs `http`, `custom` or `graph`", name.value);
                let finding = Diagnostic::error("G104", message, name.span, "it calls nothing");
                self.bag.report(finding.help("write  http: {url: \"https://kb.example.com/search\"}"));
            }
            [first, second, ..] => {
                let message = format!("tool `{}` calls two things", name.value);
                let finding = Diagnostic::error("G105", message, *second, "the second one");
                self.bag.report(finding.related(*first, "the first one").help("keep one of them"));
            }
            _ => {}
        }
        let (mut body, mut response) = (None, None);
        if let Some(node) = fields.take("http")
            && let Some((request, ty)) = self.http_call(name, node)
        {
            body = Some(ToolBodySpec::Http(Box::new(request)));
            response = ty;
        }
        if let Some(node) = fields.take("custom") {
            body = self.name(node, "a registered name").map(ToolBodySpec::Custom).or(body);
        }
        if let Some(node) = fields.take("graph") {
            body = self.name(node, "the name of a graph").map(ToolBodySpec::Graph).or(body);
        }
        let mut broken = Vec::new();
        let args = fields.take("args").map(|node| match &node.tree {
            Tree::Map(entries) if entries.is_empty() => Vec::new(),
            _ => self.typed(node, "an argument", false, &mut broken),
        });
        let result = fields.take_entry("result");
        if let (Some((span, _)), Some((first, _))) = (result, &response) {
            let message = "`response` and `result` say the same";
            let finding = Diagnostic::error("G105", message, span, "said again");
            self.bag.report(finding.related(*first, "said here").help("keep one of them"));
        }
        let result = result.and_then(|(_, node)| self.ty(node, false)).or(response.map(|(_, ty)| ty));
        let description = fields.take("description").and_then(|node| self.text(node, "a text"));
        let effects = fields.take("effects").and_then(|node| self.effects(node));
        let approval = fields.take("approval").and_then(|node| self.word(node, &["always"])).is_some();
        let is_final = fields.take("final").and_then(|node| self.boolean(node)).unwrap_or(false);
        fields.finish(self, |_| None);
        // What a wrong part was meant to say, nobody knows.
        if self.bag.errors_in(name.span.file) > errors {
            return None;
        }
        Some(ToolSpec { body: body?, description, args, result, effects, approval, is_final, broken })
    }

    fn http_call(
        &mut self,
        name: &Spanned<String>,
        node: &Node,
    ) -> Option<(RequestSpec, Option<(Span, TypeSpec)>)> {
        let mut fields =
            self.fields(node, &grammar::HTTP_CALL, format!("the request of tool `{}`", name.value))?;
        let request = self.request(&mut fields, node.span);
        let response =
            fields.take_entry("response").and_then(|(span, node)| Some((span, self.ty(node, false)?)));
        fields.finish(self, |_| None);
        Some((request, response))
    }

    fn hosts(&mut self, node: &Node) -> Option<Vec<HostSpec>> {
        if let Tree::Seq(_) = node.tree {
            let message = "expected a map, found a list";
            let finding = Diagnostic::error("G105", message, node.span, "found a list");
            self.bag.report(finding.help("write  hosts: {allow: [kb.example.com]}"));
            return None;
        }
        let mut fields = self.fields(node, &grammar::HOSTS, "`hosts`")?;
        let allow = fields.require(self, "allow", "hosts: {allow: [kb.example.com]}", node.span);
        let hosts = allow.map(|node| self.host_list(node));
        fields.finish(self, |_| None);
        hosts
    }

    fn host_list(&mut self, node: &Node) -> Vec<HostSpec> {
        self.list(node, "hosts").iter().filter_map(|item| self.host(item)).collect()
    }

    /// Reads a host, with or without a port.
    fn host(&mut self, node: &Node) -> Option<HostSpec> {
        let name = self.name(node, "a host")?;
        let text = name.value.as_str();
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
        let bare = bare.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = split_port(bare);
        let port = match port.map(str::parse::<u16>) {
            None => Ok(None),
            Some(Ok(port)) if port > 0 => Ok(Some(port)),
            Some(_) => Err(()),
        };
        let letters = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if bare == text && !host.is_empty() && host.bytes().all(letters) && port.is_ok() {
            return Some(HostSpec { host: host.to_ascii_lowercase(), port: port.ok()?, span: name.span });
        }
        let message = format!("`{text}` is not a host");
        let finding = Diagnostic::error("M510", message, name.span, "a name is due, with or without a port");
        let fits = !host.is_empty() && host.bytes().all(letters);
        let meant = if fits { host } else { "kb.example.com" };
        self.bag.report(finding.help(format!("write  {meant}  or  \"{meant}:8443\"")));
        None
    }

    fn secret_rule(&mut self, name: &Spanned<String>, node: &Node) -> Option<Vec<HostSpec>> {
        let mut fields = self.fields(node, &grammar::SECRET_RULE, format!("secret `{}`", name.value))?;
        let hosts = fields.require(self, "hosts", "hosts: [shop.example.com]", name.span);
        let hosts = hosts.map(|node| {
            self.filled(node, "hosts");
            self.host_list(node)
        });
        fields.finish(self, |_| None);
        hosts
    }

    fn env(&mut self, name: &Spanned<String>, node: &Node) -> Option<EnvSpec> {
        let mut fields = self.fields(node, &grammar::ENV, format!("setting `{}`", name.value))?;
        let default = fields.take("default").and_then(|node| self.text(node, "a text"));
        fields.finish(self, |_| None);
        Some(EnvSpec { default: default.map(|text| text.value) })
    }

    /// Checks the name of a variable.
    pub(super) fn variable(&mut self, name: &Spanned<String>, what: &str) -> bool {
        let text = name.value.as_str();
        let first = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return true;
        }
        let message = format!("`{text}` cannot be the name of {what}");
        let finding = Diagnostic::error("G106", message, name.span, "a variable is letters, digits and _");
        let meant: String = text
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        self.bag.report(finding.help(format!("write `{meant}`")));
        false
    }
}

/// Splits a port from a host; an address of version 6 stands in brackets.
fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    }
}
