//! From the YAML as written to plans: one file a pass, all findings in one bag.
//!
//! Invariant: a plan exists only when its whole project has no error.

mod calls;
mod cases;
mod custom;
mod declared;
mod edges;
mod flow;
mod handlers;
mod heads;
mod includes;
mod json_schema;
mod knots;
mod lacks;
mod mcp;
mod migrate;
mod models;
mod names;
mod nodes;
mod outside;
mod prompts;
mod providers;
mod request;
mod shape;
mod tools;
mod types;
mod unused;
mod version;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use crate::diagnostic::{Bag, Diagnostic, SHOWN, Severity, Span, Spanned, did_you_mean};
use crate::node::Retry;
use crate::plan::{Durability, Limits, Plan, Sealed, ToolPlan};
use crate::spec::{AnswerSpec, Folder, Graph, LimitsSpec, RetentionSpec, RetrySpec, ToolBodySpec};
use crate::template::Templates;
use crate::tool::mcp::Server;
use calls::{Calls, calls, check_depth, check_ways_out};
use edges::Edges;
use flow::Flow;
use handlers::{Handlers, check_kind};
use heads::{Head, heads};
use mcp::Servers;
use models::Model;
use nodes::{Draft, Scene, Shared};
use outside::Outside;
use prompts::Prompts;
use tools::{ToolDraft, Tools};
use unused::Used;

pub use custom::{Function, functions};
pub use json_schema::lenient;
pub use mcp::{McpUse, mcp_servers, report_drift};
pub use names::{error_fields, run_fields};
pub use providers::Providers;
pub(crate) use providers::entry_of;
pub use types::Types;
pub use version::{revive, revive_as_stored, stored_canonical};

/// The compiled graphs of a project.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By id.
    pub graphs: BTreeMap<String, Compiled>,
    /// The text of project.yaml; empty when there is none.
    pub project: Vec<u8>,
    /// The chat turns of each prompt, rendered with its `sample`; nothing of one that has none.
    pub previews: BTreeMap<String, Option<Vec<Json>>>,
    /// How long what is over is kept.
    pub retention: RetentionSpec,
    /// The MCP servers that graphs call.
    pub mcp: Vec<McpUse>,
}

/// A compiled graph and what it was compiled from.
#[derive(Debug)]
pub struct Compiled {
    /// What the engine runs.
    pub plan: Arc<Plan>,
    /// The files it was compiled from, as they were: [`revive`] makes the plan again of them.
    pub body: Vec<u8>,
}

/// Errors of the work of nodes, which leave their ways on and what they write as they are.
const OF_WORK: [&str; 8] = ["G104", "M501", "T301", "T302", "T303", "T304", "T305", "T307"];

/// The most nodes of a graph.
const MAX_NODES: usize = 10_000;
/// A graph with its checked nodes, before all templates are there.
struct Checked<'a> {
    graph: &'a Graph,
    drafts: Vec<Draft>,
    plan: Plan,
    used: BTreeSet<String>,
}

/// Compiles a project. Nothing: the bag holds an error.
pub fn compile(folder: &Folder, providers: &Providers, bag: &mut Bag) -> Option<Catalog> {
    if bag.is_trusting() || folder.files.contains_key("project.yaml") {
        return compile_all(folder, providers, bag);
    }
    // What would be silent beside a file that cannot be read is what looks into it.
    let mut beside = bag.clone();
    let catalog = compile_all(folder, providers, bag);
    if !bag.has_errors() {
        return catalog;
    }
    compile_all(&folder.without_project(), providers, &mut beside);
    let gone = |f: &&Diagnostic| f.severity == Severity::Error && !beside.findings().contains(f);
    let lookups: Vec<_> = bag.findings().iter().filter(gone).cloned().collect();
    let place = |f: &&Diagnostic| (bag.source(f.label.span.file).0, f.label.span.start);
    // One name says more of itself: it may be misspelt.
    if let (Some(first), true) = (lookups.iter().min_by_key(place), lookups.len() > 1) {
        let (message, label) = ("`project.yaml` is missing", "this is looked up there");
        let finding = Diagnostic::error("G107", message, first.label.span, label).help(
            "write it beside the graphs; the smallest one with a model, which answers offline:  \
             {format: 1, models: {demo: {provider: demo}}, default_model: demo}",
        );
        bag.take_back(&lookups);
        bag.report(finding.note(format!("{} names and models are looked up there", lookups.len())));
    }
    None
}

fn compile_all(folder: &Folder, providers: &Providers, bag: &mut Bag) -> Option<Catalog> {
    // All that follows goes through what graphs call.
    if !bag.is_trusting() && !check_depth(folder, bag) {
        silence(folder, bag);
        return None;
    }
    let types = Types::of_folder(folder, bag);
    let retries = retries(folder, bag);
    let outside = Outside::new(&folder.project, providers, bag);
    let (models, broken_models) = models::models(folder, providers, &outside, &retries, bag);
    let mut prompts = Prompts::read(folder, &types, bag);
    let heads = heads(folder, &types, bag);
    let servers = Servers::read(folder, &outside, &mut prompts, bag);
    let tools = Tools::read(folder, &types, &heads, &outside, &servers, &mut prompts, bag);
    let shared = Shared {
        project: &folder.project,
        types: &types,
        unread: &folder.unread,
        models: &models,
        broken_models: &broken_models,
        used_models: RefCell::default(),
        modelless: RefCell::default(),
        default_model: folder.project.default_model.as_ref(),
        retries: &retries,
        used_retries: RefCell::default(),
        folder,
        heads: &heads,
        tools: &tools,
        used_tools: RefCell::default(),
        outside: &outside,
    };
    check_default_model(folder, &shared, bag);
    check_cost(&folder.project.limits, &shared, bag);
    check_lines(folder, &tools, bag);
    let checked: Vec<Checked<'_>> =
        heads.values().filter_map(|head| check_graph(head, &shared, &mut prompts, bag)).collect();
    for head in heads.values() {
        head.names.report_lacks(bag);
    }
    report_modelless(&shared.modelless.take(), bag);
    if !bag.has_errors() {
        let plans: Vec<_> = checked.iter().map(|checked| (checked.graph, &checked.plan)).collect();
        check_ways_out(&plans, &folder.project, bag);
    }
    report_unused(folder, &shared, &types, &prompts, bag);
    let (templates, previews) = prompts.freeze(folder, bag);
    // The node that replies may be the one that is wrong.
    if !bag.has_errors() {
        checked.iter().filter_map(|checked| silent(checked, &heads)).for_each(|finding| bag.report(finding));
    }
    // Whoever drops a part says why. Should nobody have, no graph runs without it.
    if !bag.has_errors() {
        let whole =
            |id: &String| checked.iter().any(|c| c.graph.id == *id && c.drafts.len() == c.graph.nodes.len());
        for graph in folder.graphs.values().filter(|graph| !whole(&graph.id)) {
            let message = format!("graph `{}` cannot be compiled", graph.id);
            bag.report(Diagnostic::error("G105", message, graph.top, "a part of it is not understood"));
        }
    }
    if bag.has_errors() {
        // What the graphs that are sound say of their tests is told in the same pass.
        let plans = checked.iter().filter_map(|Checked { graph, plan, .. }| {
            Some((graph.id.as_str(), (plan, &heads.get(&graph.id)?.gives)))
        });
        let plans = plans.collect();
        cases::check_tests(folder, &plans, false, bag);
        cases::check_beside(folder, bag);
        silence(folder, bag);
        return None;
    }
    let servers = servers.finish(&templates, providers);
    let catalog = finish(folder, checked, &tools, &servers, &templates, &outside);
    let catalog = Catalog { previews, ..catalog };
    let plans = catalog.graphs.iter();
    let plans = plans.filter_map(|(id, graph)| Some((id.as_str(), (&*graph.plan, &heads.get(id)?.gives))));
    let plans = plans.collect();
    cases::check_tests(folder, &plans, true, bag);
    silence(folder, bag);
    (!bag.has_errors()).then_some(catalog)
}

/// Makes the plans of graphs that are sound, each with those that it calls.
fn finish(
    folder: &Folder,
    checked: Vec<Checked<'_>>,
    tools: &Tools,
    servers: &BTreeMap<String, Arc<Server>>,
    templates: &Templates,
    outside: &Outside<'_>,
) -> Catalog {
    let project = folder.files.get("project.yaml").cloned().unwrap_or_default();
    let tool_plans: BTreeMap<String, Arc<ToolPlan>> = tools
        .known
        .iter()
        .map(|(name, tool)| (name.clone(), Arc::new(tool.finish(templates, servers))))
        .collect();
    let mut plans: BTreeMap<String, (Plan, Calls)> = BTreeMap::new();
    let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let own: BTreeMap<String, BTreeSet<String>> =
        checked.iter().map(|checked| (checked.graph.id.clone(), checked.used.clone())).collect();
    for Checked { graph, drafts, mut plan, .. } in checked {
        let calls = calls(graph, &folder.graphs, &folder.project);
        // What those need that it calls, it needs itself.
        let graphs = calls.graphs.iter().chain([&graph.id]).filter_map(|id| own.get(id));
        let of_tools = calls.tools.iter().filter_map(|name| Some(&tools.known.get(name)?.used));
        let used = graphs.chain(of_tools).flatten().cloned().collect();
        let (hash, body) = version::version(folder, graph, &calls, &used, outside.registry());
        let finish = |draft: Draft| {
            let definition = draft
                .cached()
                .map(|cached| version::definition(folder, graph, &cached, &hash, outside.values()));
            draft.finish(templates, &tool_plans, &definition.unwrap_or_default())
        };
        plan.nodes = drafts.into_iter().map(finish).collect();
        plan.hash = hash;
        bodies.insert(graph.id.clone(), body);
        plans.insert(graph.id.clone(), (plan.seal(), calls));
    }
    // Of a graph that is called there is a second plan, which knows no others.
    let called: BTreeSet<&String> = plans.values().flat_map(|(_, calls)| &calls.graphs).collect();
    let single: BTreeMap<String, Arc<Plan>> =
        called.iter().filter_map(|id| Some(((*id).clone(), Arc::new(plans.get(*id)?.0.clone())))).collect();
    let retention = folder.project.retention;
    let called: BTreeSet<&String> = plans.values().flat_map(|(_, calls)| &calls.tools).collect();
    let mcp = uses(called.into_iter().filter_map(|name| tools.known.get(name)), servers);
    let mut catalog = Catalog { project, retention, mcp, ..Catalog::default() };
    for (id, (mut plan, calls)) in plans {
        let children = calls.graphs.iter().filter_map(|id| Some((id.clone(), Arc::clone(single.get(id)?))));
        plan.children = children.collect();
        metrics::counter!("graphloom_graphs_compiled_total").increment(1);
        let body = bodies.remove(&id).unwrap_or_default();
        catalog.graphs.insert(id, Compiled { plan: Arc::new(plan), body });
    }
    catalog
}

/// Returns which tools of MCP servers are called.
fn uses<'t>(
    called: impl Iterator<Item = &'t ToolDraft>,
    servers: &BTreeMap<String, Arc<Server>>,
) -> Vec<McpUse> {
    let mut uses: BTreeMap<&str, McpUse> = BTreeMap::new();
    for tool in called {
        let Some((server, name, signature)) = tool.of_mcp() else { continue };
        let Some(known) = servers.get(server) else { continue };
        let of_server = uses
            .entry(server)
            .or_insert_with(|| McpUse { server: Arc::clone(known), tools: BTreeMap::new() });
        of_server.tools.insert(name.to_owned(), (Arc::clone(signature), tool.name.span));
    }
    uses.into_values().collect()
}

fn retries(folder: &Folder, bag: &mut Bag) -> BTreeMap<String, Retry> {
    let mut retries = BTreeMap::new();
    for (name, spec) in &folder.project.retries {
        retries.insert(name.value.clone(), retry(spec, bag));
    }
    retries
}

fn retry(spec: &RetrySpec, bag: &mut Bag) -> Retry {
    let default = Retry::default();
    for kind in &spec.kinds {
        check_kind(kind, bag);
    }
    Retry {
        attempts: u32::try_from(spec.attempts).unwrap_or(u32::MAX),
        first: spec.first.unwrap_or(default.first),
        factor: spec.factor.unwrap_or(default.factor),
        max: spec.max.unwrap_or(default.max),
        kinds: spec.kinds.iter().map(|kind| kind.value.clone()).collect(),
    }
}

fn check_default_model(folder: &Folder, shared: &Shared<'_>, bag: &mut Bag) {
    let Some(name) = &folder.project.default_model else { return };
    shared.used_models.borrow_mut().insert(name.value.clone());
    let broken = shared.project.unsure || shared.broken_models.contains(&name.value);
    if !shared.models.contains_key(&name.value) && !broken {
        let finding = Diagnostic::error(
            "M501",
            format!("unknown model `{}`", name.value),
            name.span,
            "`models` declares no such model",
        );
        bag.report(finding.help_maybe(did_you_mean(&name.value, shared.models.keys().map(String::as_str))));
    }
}

/// Reports nodes that name no model, where nothing else names one for them: one default would do for all.
fn report_modelless(nodes: &[Spanned<String>], bag: &mut Bag) {
    let Some((first, others)) = nodes.split_first() else { return };
    let message = format!("node `{}` has no model", first.value);
    let mut finding = Diagnostic::error("G104", message, first.span, "`model` is missing");
    for other in others.iter().take(SHOWN) {
        finding = finding.related(other.span, format!("`{}` has none either", other.value));
    }
    if others.len() > SHOWN {
        finding = finding.note(format!("{} nodes have no model", nodes.len()));
    }
    bag.report(finding.help("write  model: <name>, or  default_model: <name>  in project.yaml"));
}

fn check_graph<'a>(
    head: &Head<'a>,
    shared: &Shared<'_>,
    prompts: &mut Prompts,
    bag: &mut Bag,
) -> Option<Checked<'a>> {
    let graph = head.graph;
    if graph.nodes.len() > MAX_NODES {
        let message = format!("the graph has {} nodes", graph.nodes.len());
        bag.report(
            Diagnostic::error("M516", message, graph.top, "the limit is 10 000").help("split the graph"),
        );
        return None;
    }
    check_cost(&graph.limits, shared, bag);
    let limits = graph.limits.or(&shared.project.limits);
    let Head { channels, broken, input, messages, names, .. } = head;
    let untyped =
        shared.project.unsure || shared.project.file.is_some_and(|project| bag.errors_in(project) > 0);
    let edges = Edges::new(graph, untyped);
    nodes::use_defaults(&graph.defaults, shared);
    let start = graph.start.as_ref().and_then(|start| edges.next(start, start.span(), names, bag));
    let migration = migrate::migration(&graph.migrate, channels, names, broken, bag);
    let handlers = Handlers::new(graph);
    let with_error = names.clone().with_error();
    let on_error = match &graph.on_error {
        Some(spec) => handlers::resolve(spec, None, &edges, bag),
        None => Some(Vec::new()),
    };
    let on_limit = graph.on_limit.as_ref().map(|name| edges.target(name, bag));
    let mut scene = Scene {
        graph,
        limits: &limits,
        shared,
        edges: &edges,
        names,
        handlers: &handlers,
        on_error: on_error.as_deref().unwrap_or_default(),
        channels,
        broken_channels: broken,
        input,
        messages: messages.as_deref(),
        silent: std::cell::Cell::default(),
        used: BTreeSet::new(),
        sketches: Vec::new(),
    };
    let mut drafts = Vec::new();
    for (name, spec) in &graph.nodes {
        scene.names = if handlers.handles(&name.value) { &with_error } else { names };
        if let Some(spec) = spec
            && let Some(draft) = scene.node(name, spec, prompts, bag)
        {
            drafts.push(draft);
        }
    }
    let Scene { used, sketches, silent, .. } = scene;
    on_error?;
    let plan = Plan {
        graph: graph.id.clone(),
        hash: String::new(),
        description: graph.description.clone(),
        channels: channels.clone(),
        messages: messages.clone(),
        input: input.clone(),
        output: head.output.clone()?,
        start: start?,
        nodes: drafts.iter().map(Draft::outline).collect(),
        limits: limits_of(&limits),
        durability: graph
            .durability
            .as_ref()
            .and_then(|word| Durability::named(word.value))
            .unwrap_or_default(),
        migration,
        on_limit: on_limit.map_or(Some(None), |to| to.map(Some))?,
        children: BTreeMap::new(),
        sealed: Sealed::default(),
    }
    .seal();
    // A graph with a broken node is not judged as a whole.
    let known = drafts.len() + sketches.len() == graph.nodes.len() && !graph.broken_nodes;
    let harmless = |finding: &Diagnostic| {
        finding.severity != Severity::Error
            || finding.label.span.file != graph.file
            || OF_WORK.contains(&finding.code)
    };
    let of_work = bag.findings().iter().all(harmless) && !silent.get() && !head.names.lacks_any();
    if known && !bag.is_trusting() && (sketches.is_empty() || of_work) {
        let outline = (!sketches.is_empty()).then(|| {
            let mut nodes = plan.nodes.clone();
            nodes.extend(sketches.iter().map(|sketch| (sketch.name.clone(), sketch.node.clone())));
            Plan { nodes, ..plan.clone() }.seal()
        });
        let outline = outline.as_ref().unwrap_or(&plan);
        let sound = shape::check_shape(graph, outline, limits.steps.as_ref(), bag);
        if sound && of_work {
            let of_drafts = drafts.iter().map(|draft| (&draft.name, &draft.gives));
            let gives: BTreeMap<_, _> =
                of_drafts.chain(sketches.iter().map(|sketch| (&sketch.name, &sketch.gives))).collect();
            let gives: Vec<_> =
                graph.nodes.iter().filter_map(|(name, _)| gives.get(&name.value).copied()).collect();
            let whole = sketches.is_empty() && bag.errors_in(graph.file) == 0;
            Flow::new(head, &handlers, with_error, prompts, shared, &gives).check(whole, bag);
        }
    }
    Some(Checked { graph, drafts, plan, used })
}

/// Checks the tools that scripted models call.
fn check_lines(folder: &Folder, tools: &Tools, bag: &mut Bag) {
    // A version that was stored runs with the models of today, which may call tools of today.
    let models = folder.project.models.iter().filter(|_| !bag.is_trusting());
    let lines: Vec<_> = models.flat_map(|(_, model)| &model.script).collect();
    for line in lines {
        let AnswerSpec::Calls(_, calls) = &line.entry.answer else { continue };
        for (name, _) in calls {
            let name = Spanned { value: name.clone(), span: line.entry.span };
            tools.find(&name, folder.project.unsure, bag);
        }
    }
}

/// Tells a limit of cost that counts nothing, because no model has a price.
fn check_cost(limits: &LimitsSpec, shared: &Shared<'_>, bag: &mut Bag) {
    let priced = |model: &Model| model.price.is_some();
    if let Some(cost) = limits.cost_usd.as_ref().filter(|_| !shared.models.values().any(priced)) {
        let message = "a limit of cost, and no model has a price";
        let finding = Diagnostic::lint("G224", message, cost.span, "every run costs nothing");
        bag.report(finding.help("add  price: {input: 3, output: 15}  to the models of project.yaml"));
    }
}

fn limits_of(spec: &LimitsSpec) -> Limits {
    let default = Limits::default();
    Limits {
        steps: spec.steps.as_ref().map_or(default.steps, |steps| steps.value),
        time: spec.time.unwrap_or(default.time).max(Duration::from_millis(1)),
        calls: spec.calls.unwrap_or(default.calls),
        tokens: spec.tokens.unwrap_or(default.tokens),
        cost_nano_usd: spec.cost_usd.as_ref().map_or(default.cost_nano_usd, |usd| (usd.value * 1e9) as u64),
        parallel: spec.parallel.map_or(default.parallel, |n| n as usize),
    }
}

/// Warns of a conversation in which nobody ever replies.
fn silent(checked: &Checked<'_>, heads: &BTreeMap<String, Head<'_>>) -> Option<Diagnostic> {
    let messages = checked.plan.messages.as_ref()?;
    // A node that is missing here may be the one that replies.
    if checked.drafts.len() < checked.graph.nodes.len()
        || checked.drafts.iter().any(|draft| draft.replies(heads))
    {
        return None;
    }
    let (name, _) = checked.graph.state.iter().find(|(name, _)| name.value == *messages)?;
    let finding =
        Diagnostic::warning("G216", "nobody ever replies in this graph", name.span, "holds a conversation");
    Some(finding.help("add  reply: true  to an `llm` node, or a `say` node"))
}

/// Warns of what nothing uses.
fn report_unused(folder: &Folder, shared: &Shared<'_>, types: &Types, prompts: &Prompts, bag: &mut Bag) {
    let used = Used::new(folder, bag);
    if used.knows("prompt") {
        prompts.report_unused(folder, &used, bag);
    }
    let mut dead = |what: &str, name: &crate::diagnostic::Spanned<String>| {
        if !used.knows(what) || used.mentioned(&name.value, 1) {
            return;
        }
        let message = format!("{what} `{}` is not used", name.value);
        bag.report(Diagnostic::warning("M517", message, name.span, "nothing names it"));
    };
    for (name, _) in
        folder.project.models.iter().filter(|(name, _)| !shared.used_models.borrow().contains(&name.value))
    {
        dead("model", name);
    }
    let by_models: BTreeSet<&str> = folder
        .project
        .models
        .iter()
        .filter_map(|(_, model)| Some(model.retry.as_ref()?.value.as_str()))
        .collect();
    for (name, _) in &folder.project.retries {
        if !by_models.contains(name.value.as_str()) && !shared.used_retries.borrow().contains(&name.value) {
            dead("retry policy", name);
        }
    }
    for (name, tool) in &folder.project.tools {
        // A server has the tools that it has.
        let own = !matches!(tool.body, ToolBodySpec::Mcp(_));
        if own && !shared.used_tools.borrow().contains(&name.value) {
            dead("tool", name);
        }
    }
    for (name, _) in &folder.project.mcp {
        let is_of = |tool: &String| tool.split('.').next() == Some(&name.value);
        if !shared.used_tools.borrow().iter().any(is_of) {
            dead("MCP server", name);
        }
    }
    for (what, name) in shared.outside.unused() {
        dead(what, &name);
    }
    for name in types.unused(&folder.project.types) {
        dead("type", name);
    }
}

/// Silences what `allow` names, in its file or node.
fn silence(folder: &Folder, bag: &mut Bag) {
    let whole = |file| Span { file, start: 0, end: u32::MAX };
    let project = folder.project.file.map(|file| (file, &folder.project.allow));
    let prompts = folder.prompts.values().map(|prompt| (prompt.file, &prompt.allow));
    let graphs = folder.graphs.values().map(|graph| (graph.file, &graph.allow));
    let tests = folder.tests.values().map(|test| (test.file, &test.allow));
    for (file, codes) in project.into_iter().chain(prompts).chain(graphs).chain(tests) {
        for code in codes {
            bag.allow(code, whole(file));
        }
    }
    for (_, spec) in folder.graphs.values().flat_map(|graph| &graph.nodes) {
        if let Some(spec) = spec {
            for code in &spec.allow {
                bag.allow(code, spec.extent);
            }
        }
    }
}
