//! Tools as written become tools that can be called.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::calls::Reach;
use super::custom;
use super::declared::Declared;
use super::heads::Head;
use super::json_schema::lenient;
use super::mcp::Servers;
use super::names::Names;
use super::outside::Outside;
use super::prompts::Prompts;
use super::request::{self, RequestDraft, Surroundings};
use super::types::Types;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, UNTAKEN, did_you_mean};
use crate::plan::{Effects, ToolBody, ToolPlan};
use crate::spec::{Folder, McpSignature, McpTools, ToolBodySpec, ToolSpec};
use crate::state::{Field, Type};
use crate::template::Templates;
use crate::tool::Tool;
use crate::tool::http::HttpTool;
use crate::tool::mcp::{self, McpTool, Server};

/// A checked tool that still lacks the closed set of templates.
#[derive(Debug)]
pub(super) struct ToolDraft {
    pub(super) name: Spanned<String>,
    description: String,
    pub(super) args: IndexMap<String, Field>,
    /// It may have others: only its host program knows.
    pub(super) open: bool,
    /// Where its arguments are declared.
    declared: Names,
    pub(super) result: Type,
    pub(super) approval: bool,
    pub(super) is_final: bool,
    effects: Effects,
    /// What it does outside, with the graph that it may run.
    pub(super) reach: Reach,
    body: Body,
    /// The partials of its texts.
    pub(super) used: BTreeSet<String>,
}

#[derive(Debug)]
enum Body {
    Request(Box<RequestDraft>),
    Custom(Arc<dyn Tool>),
    Graph(String),
    Mcp { server: String, tool: String, signature: Arc<McpSignature> },
}

/// The tools of a project.
#[derive(Debug, Default)]
pub(super) struct Tools {
    pub(super) known: BTreeMap<String, ToolDraft>,
    /// Tools that are there but wrong.
    pub(super) broken: BTreeSet<String>,
    /// The tools of MCP servers, by server, and whether they are known.
    servers: BTreeMap<String, bool>,
}

impl Tools {
    /// Checks the tools of a project.
    pub(super) fn read(
        folder: &Folder,
        types: &Types,
        heads: &BTreeMap<String, Head<'_>>,
        outside: &Outside<'_>,
        servers: &Servers,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> Self {
        let mut tools =
            Self { broken: folder.project.broken_tools.iter().cloned().collect(), ..Self::default() };
        let named = folder.project.mcp.iter().map(|(name, _)| &name.value).chain(&servers.broken);
        tools.servers = named.map(|name| (name.clone(), servers.is_known(name))).collect();
        for (name, spec) in &folder.project.tools {
            // What is wrong with a server was told there.
            if matches!(&spec.body, ToolBodySpec::Mcp(mcp) if !servers.is_known(&mcp.server)) {
                continue;
            }
            match tool(name, spec, folder, types, heads, outside, prompts, bag) {
                Some(draft) => drop(tools.known.insert(name.value.clone(), draft)),
                None => drop(tools.broken.insert(name.value.clone())),
            }
        }
        tools
    }

    /// Finds a tool by its name. Nothing: it is reported, here or where it is wrong.
    pub(super) fn find(&self, name: &Spanned<String>, unsure: bool, bag: &mut Bag) -> Option<&ToolDraft> {
        let found = self.known.get(&name.value);
        if found.is_none() && !unsure && !self.broken.contains(&name.value) {
            if let Some((server, tool)) = name.value.split_once('.')
                && let Some(is_known) = self.servers.get(server)
            {
                if *is_known {
                    bag.report(self.no_such(name, server, tool));
                }
                return None;
            }
            let message = format!("unknown tool `{}`", name.value);
            let finding = Diagnostic::error("M506", message, name.span, "project.yaml declares no such tool");
            let known = self.known.keys().chain(&self.broken).map(String::as_str);
            bag.report(match known.clone().next() {
                Some(_) => finding.help_maybe(did_you_mean(&name.value, known)),
                None => finding
                    .help("declare it in project.yaml:  tools: {search_kb: {http: {url: …}, args: {…}}}"),
            });
        }
        found
    }

    /// Explains that a server does not have a tool, or that graphs may not call it.
    fn no_such(&self, name: &Spanned<String>, server: &str, tool: &str) -> Diagnostic {
        let message = format!("the MCP server `{server}` has no tool `{tool}` for graphs");
        let label = format!("not in {}, or not under its `tools`", McpTools::path(server));
        let finding = Diagnostic::error("M506", message, name.span, label);
        let of_server = self.known.keys().filter(|known| known.split('.').next() == Some(server));
        let near = did_you_mean(&name.value, of_server.map(String::as_str));
        let new = format!("should it be new, ask the server:  graphloom mcp pull {server}");
        finding.help(near.unwrap_or(new))
    }
}

#[expect(clippy::too_many_arguments, reason = "a tool is checked against all that it names")]
fn tool(
    name: &Spanned<String>,
    spec: &ToolSpec,
    folder: &Folder,
    types: &Types,
    heads: &BTreeMap<String, Head<'_>>,
    outside: &Outside<'_>,
    prompts: &mut Prompts,
    bag: &mut Bag,
) -> Option<ToolDraft> {
    if name.value.len() > 64 && !matches!(spec.body, ToolBodySpec::Mcp(_)) {
        let message = "the name of a tool is too long for providers";
        let label = format!("{} characters", name.value.len());
        bag.report(Diagnostic::error("M507", message, name.span, label).help("take 64 or fewer"));
        return None;
    }
    let mut broken = spec.broken.clone();
    let mut args = IndexMap::new();
    for (arg, ty) in spec.args.iter().flatten() {
        match types.field(ty, bag) {
            Some(field) => drop(args.insert(arg.value.clone(), field)),
            None => broken.push(arg.value.clone()),
        }
    }
    let is_broken = !broken.is_empty();
    let mut result = match &spec.result {
        Some(ty) => Some(types.field(ty, bag)?.ty),
        None => None,
    };
    let mut declared = Declared::default();
    declared.add(Some("args"), spec.args.as_deref().unwrap_or_default(), &folder.project);
    let names = Names::of_tool(&args, broken, declared);
    let mut names = names.with_settings(outside.settings(), &folder.project.broken_env);
    let mut used = BTreeSet::new();
    let (mut inner, mut open) = (None, false);
    let (body, default) = match &spec.body {
        ToolBodySpec::Http(request) => {
            let place = format!("project.yaml#tools.{}", name.value);
            let written = spec.result.as_ref().map(crate::spec::TypeSpec::span);
            let around = Surroundings {
                place: &place,
                names: &names,
                outside,
                typed: written,
                alone: true,
                of_operator: false,
            };
            let response = result.clone().unwrap_or(Type::Any);
            let draft = request::request(request, response, &around, prompts, &mut used, bag)?;
            (Body::Request(Box::new(draft)), request::effects(request))
        }
        ToolBodySpec::Custom(registered) => {
            let found = custom::find(registered, outside, bag)?;
            match (&spec.args, &found.args) {
                (None, Some(known)) => args.clone_from(known),
                (None, None) => open = true,
                (Some(_), Some(known)) if !is_broken => {
                    let what = format!("`{}`", registered.value);
                    let takes = Takes {
                        code: "M506",
                        what: &what,
                        who: "the function",
                        noun: "argument",
                        fields: known,
                        declared: &|_| None,
                        broken: &[],
                        own: None,
                    };
                    inputs(name, &args, &names, registered.span, &takes, bag)?;
                }
                _ => {}
            }
            result = Some(gives(result, found.result, spec, registered, bag)?);
            (Body::Custom(found.function), Effects::AtMostOnce)
        }
        ToolBodySpec::Graph(graph) => {
            let head = find_graph(graph, folder, heads, bag)?;
            inner = Some(head.reach);
            match &spec.args {
                None => args.clone_from(&head.input),
                Some(_) if !is_broken => {
                    let what = format!("graph `{}`", graph.value);
                    let takes = Takes {
                        code: "S414",
                        what: &what,
                        who: "the graph",
                        noun: "input",
                        fields: &head.input,
                        declared: &|input| head.names.declared(&format!("input.{input}")),
                        broken: &head.broken,
                        own: Some(&head.names),
                    };
                    inputs(name, &args, &names, graph.span, &takes, bag)?;
                }
                Some(_) => {}
            }
            result = Some(gives(result, head.gives.clone(), spec, graph, bag)?);
            (Body::Graph(graph.value.clone()), Effects::None)
        }
        ToolBodySpec::Mcp(mcp) => {
            let signature = Arc::new(mcp.signature.clone());
            match lenient(&signature.input_schema, name) {
                Type::Record(fields) => args = fields,
                // It takes what the types here cannot say; the server looks at it.
                _ => open = true,
            }
            let mut declared = Declared::default();
            for arg in &mcp.args {
                declared.insert(format!("args.{}", arg.value), arg.span);
            }
            names = Names::of_tool(&args, Vec::new(), declared);
            let output = signature.output_schema.as_ref();
            result = Some(output.map_or(Type::STRING, |schema| lenient(schema, name)));
            (Body::Mcp { server: mcp.server.clone(), tool: mcp.tool.clone(), signature }, Effects::AtMostOnce)
        }
    };
    if is_broken {
        return None;
    }
    let effects = spec.effects.as_ref().map_or(default, |effects| effects_of(effects.value));
    let own = Reach { effects, unasked: effects, outside: true };
    Some(ToolDraft {
        name: name.clone(),
        description: spec.description.as_ref().map(|text| text.value.clone()).unwrap_or_default(),
        args,
        open,
        declared: names,
        result: result.unwrap_or(Type::Any),
        approval: spec.approval,
        is_final: spec.is_final,
        effects,
        reach: inner.filter(|_| spec.effects.is_none()).unwrap_or(own),
        body,
        used,
    })
}

/// What a tool gives its arguments to.
struct Takes<'t> {
    code: &'static str,
    /// ``graph `legal` ``.
    what: &'t str,
    /// `the graph`, or `the function`.
    who: &'static str,
    /// `input` or `argument`.
    noun: &'static str,
    fields: &'t IndexMap<String, Field>,
    /// Where one of them is declared.
    declared: &'t dyn Fn(&str) -> Option<Span>,
    /// Those that are there but wrong.
    broken: &'t [String],
    /// What it reads itself, where that is a graph.
    own: Option<&'t Names>,
}

/// Checks the arguments of a tool against what it gives them to.
fn inputs(
    tool: &Spanned<String>,
    args: &IndexMap<String, Field>,
    names: &Names,
    called: Span,
    takes: &Takes<'_>,
    bag: &mut Bag,
) -> Option<()> {
    let Takes { code, what, who, noun, fields, declared, broken, own } = takes;
    let declared_here = |finding: Diagnostic, name: &str| match declared(name) {
        Some(at) => finding.related(at, format!("{who} declares it here")),
        None => finding,
    };
    let mut fine = true;
    for (arg, field) in args {
        let at = names.declared(&format!("args.{arg}")).unwrap_or(tool.span);
        let Some(input) = fields.get(arg) else {
            if bag.is_trusting() || broken.iter().any(|broken| broken == arg || broken == crate::spec::ANY) {
                continue;
            }
            let message = format!("{what} has no {noun} `{arg}`");
            let finding = Diagnostic::error(code, message, at, UNTAKEN);
            let finding = finding.related(called, *who);
            let finding = finding.help_maybe(did_you_mean(arg, fields.keys().map(String::as_str)));
            match own {
                Some(own) => own.give(arg, finding),
                None => bag.report(finding),
            }
            fine = false;
            continue;
        };
        if !input.ty.accepts(&field.ty) && !bag.is_trusting() {
            let message = format!("{noun} `{arg}` of {what} is {}", input.ty);
            let finding = Diagnostic::error(code, message, at, format!("this is {}", field.ty));
            bag.report(declared_here(finding, arg));
            fine = false;
        }
    }
    let due = |(name, field): &(&String, &Field)| !args.contains_key(*name) && !field.may_be_left_out();
    for (input, field) in fields.iter().filter(due).filter(|_| !bag.is_trusting()).collect::<Vec<_>>() {
        let message = format!("{noun} `{input}` of {what} has no value");
        let label = format!("no argument is called `{input}`");
        let finding = declared_here(Diagnostic::error(code, message, tool.span, label), input);
        bag.report(finding.help(format!("add it to `args`:  {input}: {}", field.ty)));
        fine = false;
    }
    fine.then_some(())
}

/// Takes what is called at its word for the result, or checks that it gives what is declared.
fn gives(
    declared: Option<Type>,
    given: Type,
    spec: &ToolSpec,
    called: &Spanned<String>,
    bag: &mut Bag,
) -> Option<Type> {
    let Some(due) = declared else { return Some(given) };
    if due.accepts(&given) || bag.is_trusting() {
        return Some(due);
    }
    let (code, what, who) = match &spec.body {
        ToolBodySpec::Graph(_) => ("S414", "graph ", "the graph"),
        _ => ("M506", "", "the function"),
    };
    let message = format!("{what}`{}` does not give {due}", called.value);
    let label = due.differs(&given).map_or_else(|| format!("it gives {given}"), |(_, how)| how);
    let at = spec.result.as_ref().map_or(called.span, crate::spec::TypeSpec::span);
    bag.report(Diagnostic::error(code, message, at, label).related(called.span, who));
    None
}

/// Finds a graph that something calls. Nothing: it is reported, here or where it is wrong.
pub(super) fn find_graph<'h, 'a>(
    name: &Spanned<String>,
    folder: &Folder,
    heads: &'h BTreeMap<String, Head<'a>>,
    bag: &mut Bag,
) -> Option<&'h Head<'a>> {
    let found = heads.get(&name.value);
    if found.is_none() && !folder.broken_graphs.contains(&name.value) {
        let message = format!("there is no graph `{}`", name.value);
        let finding =
            Diagnostic::error("G107", message, name.span, format!("looked for {}.yaml", name.value));
        let bare = name.value.trim_end_matches(".yaml");
        // The file may be there in another spelling.
        let same = |path: &&String| {
            let stem = path.strip_suffix(".yaml").or_else(|| path.strip_suffix(".yml"));
            stem.is_some_and(|stem| stem.eq_ignore_ascii_case(&name.value))
        };
        if let Some(sibling) = folder.unread.iter().find(same) {
            bag.retract("G108", sibling);
            bag.report(finding.help(format!("`{sibling}` is there: rename it to `{}.yaml`", name.value)));
            return None;
        }
        let help = if heads.contains_key(bare) {
            Some(format!("write `{bare}`: without the ending"))
        } else {
            did_you_mean(&name.value, heads.keys().map(String::as_str))
        };
        bag.report(finding.help_maybe(help));
    }
    found
}

/// Reads `effects`.
pub(super) fn effects_of(word: &str) -> Effects {
    match word {
        "none" => Effects::None,
        "idempotent" => Effects::Idempotent,
        _ => Effects::AtMostOnce,
    }
}

impl ToolDraft {
    /// Returns the server, the tool and its signature, where it is a tool of an MCP server.
    pub(super) fn of_mcp(&self) -> Option<(&str, &str, &Arc<McpSignature>)> {
        match &self.body {
            Body::Mcp { server, tool, signature } => Some((server, tool, signature)),
            _ => None,
        }
    }

    /// Returns where an argument is declared.
    pub(super) fn declared(&self, arg: &str) -> Option<Span> {
        self.declared.declared(&format!("args.{arg}"))
    }

    /// Makes the tool, now that all templates are there.
    pub(super) fn finish(&self, templates: &Templates, servers: &BTreeMap<String, Arc<Server>>) -> ToolPlan {
        let mut schema = None;
        let body = match &self.body {
            Body::Graph(name) => ToolBody::Graph(name.clone()),
            Body::Request(request) => ToolBody::Call(Arc::new(HttpTool(request.finish(templates)))),
            Body::Custom(function) => ToolBody::Call(Arc::clone(function)),
            Body::Mcp { server, tool, signature } => {
                schema = Some(Json::Object(signature.input_schema.clone()));
                // Where a server is wrong, there is no catalog.
                let nowhere = || mcp::Server::nowhere(server);
                ToolBody::Call(Arc::new(McpTool {
                    server: servers.get(server).map_or_else(nowhere, Arc::clone),
                    tool: tool.clone(),
                    signature: Arc::clone(signature),
                    result: self.result.clone(),
                }))
            }
        };
        ToolPlan {
            name: self.name.value.clone(),
            description: self.description.clone(),
            args: if self.open { Type::Object } else { Type::Record(self.args.clone()) },
            schema,
            result: self.result.clone(),
            approval: self.approval,
            is_final: self.is_final,
            effects: self.effects,
            body,
        }
    }
}
