//! MCP servers as written become servers that can be called.
//!
//! Invariant: nothing is connected here. What the tools are stands in the project.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::declared::Declared;
use super::names::Names;
use super::outside::Outside;
use super::prompts::Prompts;
use super::providers::Providers;
use super::request::{self, RequestDraft, Surroundings};
use super::types::Types;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned, did_you_mean};
use crate::egress::{Secret, Target};
use crate::failure::{ErrorKind, Failure};
use crate::spec::{Folder, HeaderSpec, McpReach, McpSignature, McpSpec, McpTools};
use crate::state::Type;
use crate::template::Templates;
use crate::tool::mcp::{Drift, Server, TIMEOUT, Way};

/// A checked server that still lacks the closed set of templates.
#[derive(Debug)]
struct ServerDraft {
    way: WayDraft,
    timeout: Duration,
}

#[derive(Debug)]
enum WayDraft {
    Url(Box<RequestDraft>),
    Program { command: Vec<String>, env: Vec<(String, Secret)> },
}

/// The servers of a project.
#[derive(Debug, Default)]
pub(super) struct Servers {
    known: BTreeMap<String, ServerDraft>,
    /// Servers whose tools are not known, or that are wrong: the bag says why.
    pub(super) broken: BTreeSet<String>,
}

/// A server, and what graphs call of it.
#[derive(Debug)]
pub struct McpUse {
    /// The server.
    pub server: Arc<Server>,
    /// The tools that are called, by the server's names, with what the project has written down of them, and where.
    pub tools: BTreeMap<String, (Arc<McpSignature>, Span)>,
}

impl Servers {
    /// Checks the servers of a project.
    pub(super) fn read(folder: &Folder, outside: &Outside<'_>, prompts: &mut Prompts, bag: &mut Bag) -> Self {
        let mut servers =
            Self { broken: folder.project.broken_mcp.iter().cloned().collect(), ..Self::default() };
        for (name, spec) in &folder.project.mcp {
            let known = is_written_down(name, spec, folder, bag);
            match server(name, spec, folder, outside, prompts, bag).filter(|_| known) {
                Some(draft) => drop(servers.known.insert(name.value.clone(), draft)),
                None => drop(servers.broken.insert(name.value.clone())),
            }
        }
        for (name, (file, _)) in &folder.mcp {
            let is_known = servers.known.contains_key(name) || servers.broken.contains(name);
            if !is_known && !folder.project.unsure && !bag.is_trusting() {
                let message = format!("there is no MCP server `{name}`");
                let finding = Diagnostic::warning("M517", message, file.place(&[]), "its tools are not used");
                bag.report(finding.help(format!("delete {}", McpTools::path(name))));
            }
        }
        servers
    }

    /// Says whether a server is there and sound.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// Makes the servers, now that all templates are there.
    pub(super) fn finish(
        &self,
        templates: &Templates,
        providers: &Providers,
    ) -> BTreeMap<String, Arc<Server>> {
        let finish = |(name, draft): (&String, &ServerDraft)| {
            let (tape, client) = providers.client().without_tape();
            let nowhere = |failure: Failure| Way::Nowhere(failure);
            let way = match &draft.way {
                _ if providers.is_scripted() => {
                    nowhere(Failure::new(ErrorKind::Failed, "no script answers in its place"))
                }
                // The operator wrote it, as the address of a model: it may be private.
                WayDraft::Url(request) => match request.finish(templates).fixed() {
                    Ok((url, headers)) => match Target::of(&url) {
                        Ok(target) => Way::Url { client: client.allowing(target), url, headers },
                        Err(error) => nowhere(Failure::new(ErrorKind::Failed, error.to_string())),
                    },
                    Err(failure) => nowhere(failure),
                },
                WayDraft::Program { command, env } => {
                    Way::Program { command: command.clone(), env: env.clone() }
                }
            };
            (name.clone(), providers.mcp().server(name, way, draft.timeout, tape))
        };
        self.known.iter().map(finish).collect()
    }
}

/// Says whether the project has written down what the tools of a server are.
fn is_written_down(name: &Spanned<String>, spec: &McpSpec, folder: &Folder, bag: &mut Bag) -> bool {
    let path = McpTools::path(&name.value);
    let Some((_, written)) = folder.mcp.get(&name.value) else {
        if !folder.broken_mcp.contains(&name.value) && !bag.is_trusting() {
            let message = format!("the tools of the MCP server `{}` are not written down", name.value);
            let finding = Diagnostic::error("M506", message, name.span, format!("looked for {path}"));
            bag.report(finding.help(format!("ask the server:  graphloom mcp pull {}", name.value)));
            return false;
        }
        // A stored version holds the files of those servers alone that it calls.
        return bag.is_trusting();
    };
    let mut fine = true;
    for tool in spec.tools.iter().flatten().filter(|tool| !written.tools.contains_key(&tool.value)) {
        if bag.is_trusting() {
            continue;
        }
        let message = format!("the MCP server `{}` has no tool `{}`", name.value, tool.value);
        let finding = Diagnostic::error("M506", message, tool.span, format!("{path} has no such tool"));
        let near = did_you_mean(&tool.value, written.tools.keys().map(String::as_str));
        let new = format!("should it be new, ask the server:  graphloom mcp pull {}", name.value);
        bag.report(finding.help(near.unwrap_or(new)));
        fine = false;
    }
    fine
}

fn server(
    name: &Spanned<String>,
    spec: &McpSpec,
    folder: &Folder,
    outside: &Outside<'_>,
    prompts: &mut Prompts,
    bag: &mut Bag,
) -> Option<ServerDraft> {
    let way = match &spec.reach {
        McpReach::Url(request) => {
            let names = Names::of_tool(&indexmap::IndexMap::new(), Vec::new(), Declared::default());
            let names = names.without("args");
            let names = names.with_settings(outside.settings(), &folder.project.broken_env);
            let place = format!("project.yaml#mcp.{}", name.value);
            let around = Surroundings {
                place: &place,
                names: &names,
                outside,
                typed: None,
                alone: true,
                of_operator: true,
            };
            let mut used = BTreeSet::new();
            let draft = request::request(request, Type::Any, &around, prompts, &mut used, bag)?;
            WayDraft::Url(Box::new(draft))
        }
        McpReach::Program { command, env } => {
            let mut fine = true;
            let mut given = Vec::new();
            for (variable, value) in env {
                match value {
                    HeaderSpec::Text(text) => {
                        given.push((variable.value.clone(), Secret::new(text.value.clone())));
                    }
                    HeaderSpec::Secret(secret) => {
                        fine &= outside.may_go_to_a_program(secret, bag);
                        match outside.secret(secret, bag) {
                            Ok(secret) => given.extend(secret.map(|secret| (variable.value.clone(), secret))),
                            Err(()) => fine = false,
                        }
                    }
                }
            }
            fine.then_some(())?;
            WayDraft::Program { command: command.iter().map(|word| word.value.clone()).collect(), env: given }
        }
    };
    Some(ServerDraft { way, timeout: spec.timeout.unwrap_or(TIMEOUT) })
}

/// Makes the MCP servers of a project, to ask them what their tools are: nothing else of the project is looked at.
/// Nothing: the bag holds an error.
pub fn mcp_servers(folder: &Folder, providers: &Providers, bag: &mut Bag) -> Option<Vec<Arc<Server>>> {
    let errors = bag.counts().0;
    let outside = Outside::new(&folder.project, providers, bag);
    let mut prompts = Prompts::read(&Folder::default(), &Types::default(), bag);
    let mut known = BTreeMap::new();
    for (name, spec) in &folder.project.mcp {
        let draft = server(name, spec, folder, &outside, &mut prompts, bag);
        known.extend(draft.map(|draft| (name.value.clone(), draft)));
    }
    let (templates, _) = prompts.freeze(&Folder::default(), bag);
    let servers = Servers { known, broken: BTreeSet::new() };
    (bag.counts().0 == errors).then(|| servers.finish(&templates, providers).into_values().collect())
}

/// Reports a tool that is not what the project has written down.
pub fn report_drift(server: &str, tool: &str, drift: &Drift, at: Span, bag: &mut Bag) {
    let (message, label) = match drift {
        Drift::Gone => (
            format!("the MCP server `{server}` has no tool `{tool}` any more"),
            "it does not list it".to_owned(),
        ),
        Drift::Changed(parts) => {
            let parts = parts.iter().map(|part| format!("`{part}`")).collect::<Vec<_>>().join(", ");
            (format!("`{tool}` of the MCP server `{server}` is not what it was"), format!("another {parts}"))
        }
    };
    let finding = Diagnostic::error("M506", message, at, label);
    bag.report(
        finding.help(format!("write it down, and look at what changed:  graphloom mcp pull {server}")),
    );
}
