//! A graph's version: the hash of its canonical form, and the body from which it is compiled again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::calls::{Calls, calls};
use super::nodes::Cached;
use super::{Providers, compile, custom};
use crate::diagnostic::{Bag, render_text};
use crate::id::sha256_hex;
use crate::plan::Plan;
use crate::spec::{
    Files, Folder, Graph, McpToolSpec, McpTools, Node, Project, ToolBodySpec, ToolSpec, Tree, load_files,
};
use crate::tool::custom::Registry;

/// The stored body of a version.
#[derive(Serialize, Deserialize)]
struct Body {
    v: u8,
    files: BTreeMap<String, String>,
    /// The signatures of the functions that it calls.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    custom: BTreeMap<String, String>,
}

/// Returns the hash and the body of a graph. `calls` is what it calls, `used` the files below prompts/ that it and what
/// it calls use.
pub(super) fn version(
    folder: &Folder,
    graph: &Graph,
    calls: &Calls,
    used: &BTreeSet<String>,
    registry: Option<&Registry>,
) -> (String, Vec<u8>) {
    let told = |name: &String| Some((name.clone(), custom::told(name, registry)?));
    let custom = calls.custom.iter().filter_map(told).collect();
    let hash = sha256_hex(canonical(folder, graph, calls, used, &custom).to_string().as_bytes());
    let own = [format!("{}.yaml", graph.id), "project.yaml".to_owned()];
    let called = calls.graphs.iter().map(|id| format!("{id}.yaml"));
    let files = own.into_iter().chain(called).chain(used.iter().map(|path| format!("prompts/{path}")));
    let files = files.chain(mcp(folder, calls).map(|(_, _, mcp)| McpTools::path(&mcp.server)));
    let files: BTreeSet<String> = files.chain(schemas(folder, graph, calls, used)).collect();
    let files = files.into_iter().filter_map(|path| Some((path.clone(), text(folder, &path)?))).collect();
    // Serialising texts into memory cannot fail.
    (hash, serde_json::to_vec(&Body { v: 1, files, custom }).unwrap_or_default())
}

fn text(folder: &Folder, path: &str) -> Option<String> {
    folder.files.get(path).map(|content| String::from_utf8_lossy(content).into_owned())
}

/// Returns the entry of a section of project.yaml.
fn section<'f>(folder: &'f Folder, name: &str) -> Option<&'f Node> {
    entry(folder.project.tree.as_ref()?, name)
}

/// Returns the tools that a graph calls, as they are written.
fn tools<'f>(folder: &'f Folder, calls: &Calls) -> Vec<(String, &'f Node)> {
    let Some(Tree::Map(entries)) = section(folder, "tools").map(|tools| &tools.tree) else {
        return Vec::new();
    };
    let named = entries.iter().filter_map(|(key, tool)| Some((key.as_str()?.to_owned(), tool)));
    named.filter(|(name, _)| calls.tools.contains(name)).collect()
}

/// Returns the tools of MCP servers that a graph calls.
fn mcp<'f>(
    folder: &'f Folder,
    calls: &Calls,
) -> impl Iterator<Item = (&'f str, &'f ToolSpec, &'f McpToolSpec)> {
    let called = folder.project.tools.iter().filter(|(name, _)| calls.tools.contains(&name.value));
    called.filter_map(|(name, tool)| match &tool.body {
        ToolBodySpec::Mcp(mcp) => Some((name.value.as_str(), tool, &**mcp)),
        _ => None,
    })
}

/// Returns the schema files that a graph and what it calls name.
fn schemas(folder: &Folder, graph: &Graph, calls: &Calls, used: &BTreeSet<String>) -> BTreeSet<String> {
    fn named(node: &Node, found: &mut BTreeSet<String>) {
        match &node.tree {
            Tree::Seq(items) => items.iter().for_each(|item| named(item, found)),
            Tree::Map(entries) => {
                for (key, value) in entries {
                    if key.as_str() == Some("schema") {
                        found.extend(value.as_str().map(str::to_owned));
                    }
                    named(value, found);
                }
            }
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    named(&graph.tree, &mut found);
    for called in calls.graphs.iter().filter_map(|id| folder.graphs.get(id)) {
        named(&called.tree, &mut found);
    }
    for (_, tool) in tools(folder, calls) {
        named(tool, &mut found);
    }
    if let Some(types) = section(folder, "types") {
        named(types, &mut found);
    }
    found.retain(|path| folder.schemas.contains_key(path));
    // The inputs of prompts are types, too.
    let matter = |path: &String| {
        let text = text(folder, &format!("prompts/{path}")).unwrap_or_default();
        folder.schemas.keys().filter(|schema| text.contains(schema.as_str())).cloned().collect::<Vec<_>>()
    };
    found.extend(used.iter().flat_map(matter));
    found
}

/// Returns what the hash of a graph stands for. Comments, key order and the look of the YAML are no part of it; models,
/// retries, hosts, secrets and settings belong to the deployment.
fn canonical(
    folder: &Folder,
    graph: &Graph,
    calls: &Calls,
    used: &BTreeSet<String>,
    custom: &BTreeMap<String, String>,
) -> Json {
    let prompt = |path: &String| {
        let path = format!("prompts/{path}");
        text(folder, &path).map(|text| (path, Json::String(text)))
    };
    let mut whole = serde_json::json!({
        "graph": graph.tree.to_json(),
        "id": graph.id,
        "types": section(folder, "types").map(Node::to_json),
        "prompts": used.iter().filter_map(prompt).collect::<serde_json::Map<_, _>>(),
    });
    // A graph that has none of these keeps its hash.
    let mut add = |key: &str, values: serde_json::Map<String, Json>| {
        if !values.is_empty() {
            whole[key] = Json::Object(values);
        }
    };
    add("tools", tools(folder, calls).into_iter().map(|(name, tool)| (name, tool.to_json())).collect());
    let called = mcp(folder, calls).map(|(name, tool, mcp)| {
        let mut form = serde_json::to_value(&mcp.signature).unwrap_or_default();
        form["effects"] = tool.effects.as_ref().map(|effects| effects.value).into();
        form["approval"] = tool.approval.into();
        (name.to_owned(), form)
    });
    add("mcp", called.collect());
    let called =
        calls.graphs.iter().filter_map(|id| Some((id.clone(), folder.graphs.get(id)?.tree.to_json())));
    add("children", called.collect());
    let schema = |path: String| {
        let json = folder.schemas.get(&path)?.json.clone();
        Some((path, json))
    };
    add("custom", custom.iter().map(|(name, signature)| (name.clone(), signature.as_str().into())).collect());
    add("schemas", schemas(folder, graph, calls, used).into_iter().filter_map(schema).collect());
    sorted(whole)
}

/// Returns the hash of all that the results of a node depend on besides what it reads. Of a node that calls nothing it
/// stays the same when other parts of the graph change. `whole` is the graph's own hash, `settings` are those of today.
pub(super) fn definition(
    folder: &Folder,
    graph: &Graph,
    cached: &Cached<'_>,
    whole: &str,
    settings: &BTreeMap<&str, Option<String>>,
) -> String {
    /// What a node has besides its work.
    const AROUND: [&str; 14] = [
        "next",
        "on_error",
        "into",
        "emit",
        "description",
        "allow",
        "max_visits",
        "on_max",
        "join",
        "retry",
        "timeout",
        "effects",
        "cache",
        "on_item_error",
    ];
    let nodes = entry(&graph.tree, "nodes");
    let mut does = nodes.and_then(|nodes| entry(nodes, cached.node)).map(Node::to_json).unwrap_or_default();
    let key = does.pointer("/cache/key").cloned();
    if let Json::Object(does) = &mut does {
        does.retain(|key, _| !AROUND.contains(&key.as_str()));
    }
    let models: BTreeMap<&str, Option<Json>> = match section(folder, "models").map(|models| &models.tree) {
        Some(Tree::Map(entries)) => {
            let named = entries.iter().filter_map(|(name, model)| Some((name.as_str()?, model)));
            let is_asked = |name: &str| cached.calls || cached.models.contains(&name);
            named
                .filter(|(name, _)| is_asked(name))
                .map(|(name, model)| (name, Some(model.to_json())))
                .collect()
        }
        _ => BTreeMap::new(),
    };
    let prompts: BTreeMap<&String, _> =
        cached.used.iter().map(|path| (path, text(folder, &format!("prompts/{path}")))).collect();
    let schemas: BTreeMap<String, &Json> = schemas(folder, graph, &Calls::default(), cached.used)
        .into_iter()
        .filter_map(|path| Some((path.clone(), &folder.schemas.get(&path)?.json)))
        .collect();
    let parts = serde_json::json!({
        "graph": graph.id,
        "node": cached.node,
        "does": does,
        "key": key,
        "asked": cached.models,
        "models": models,
        "types": section(folder, "types").map(Node::to_json),
        "prompts": prompts,
        "schemas": schemas,
        "calls": cached.calls.then_some((whole, settings)),
        "servers": section(folder, "mcp").filter(|_| cached.calls).map(Node::to_json),
    });
    sha256_hex(sorted(parts).to_string().as_bytes())
}

/// Returns the value of a key.
fn entry<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    match &node.tree {
        Tree::Map(entries) => {
            entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
        }
        _ => None,
    }
}

/// Puts sections of another project in the place of those of this one.
fn with_sections(project: Option<Node>, of: Option<&Node>, names: &[&str]) -> Option<Node> {
    let Some(mut project) = project else { return of.cloned() };
    if let Tree::Map(entries) = &mut project.tree {
        entries.retain(|(key, _)| !key.as_str().is_some_and(|key| names.contains(&key)));
        if let Some(Node { tree: Tree::Map(theirs), .. }) = of {
            let is_named = |key: &Node| key.as_str().is_some_and(|key| names.contains(&key));
            entries.extend(theirs.iter().filter(|(key, _)| is_named(key)).cloned());
        }
    }
    Some(project)
}

/// Sorts the keys of every object.
fn sorted(json: Json) -> Json {
    match json {
        Json::Object(object) => {
            let mut entries: Vec<(String, Json)> = object.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
        Json::Array(items) => items.into_iter().map(sorted).collect(),
        other => other,
    }
}

/// Returns the files of a stored body.
fn files(body: &[u8]) -> Result<Files, String> {
    Ok(parts(body)?.0)
}

/// Returns the files of a stored body, and the signatures of functions.
fn parts(body: &[u8]) -> Result<(Files, BTreeMap<String, String>), String> {
    let body: Body = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if body.v != 1 {
        return Err(format!("its format {} is newer than this build", body.v));
    }
    Ok((body.files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect(), body.custom))
}

/// Returns what the hash of a stored version stands for: `graph`, `types` and `prompts`, as they were written.
pub fn stored_canonical(body: &[u8], graph: &str) -> Result<Json, String> {
    let (files, custom) = parts(body)?;
    let used = files.keys().filter_map(|path| path.strip_prefix("prompts/")).map(str::to_owned).collect();
    let folder = load_files("", files, &mut Bag::trusting());
    let graph = folder.graphs.get(graph).ok_or("the body holds another graph")?;
    let calls = calls(graph, &folder.graphs, &folder.project);
    Ok(canonical(&folder, graph, &calls, &used, &custom))
}

/// Makes a plan again from the body that was stored with it. Models and retries are those of `project`, the text of
/// today's project.yaml: they belong to the deployment, and old ones may be gone with their secrets.
pub fn revive(body: &[u8], graph: &str, project: &[u8], providers: &Providers) -> Result<Arc<Plan>, String> {
    let mut bag = Bag::trusting();
    let mut folder = load_files("", files(body)?, &mut bag);
    // A project of texts alone needs no project.yaml.
    let today = Some(project).filter(|text| !text.is_empty());
    let today: Files = today.map(|text| ("project.yaml".to_owned(), text.to_vec())).into_iter().collect();
    let today = load_files("", today, &mut bag).project;
    let then = folder.project;
    // Types and tools are of then; what belongs to the deployment is of today, with what tools of then need besides.
    let mut env = today.env.clone();
    env.extend(
        then.env.into_iter().filter(|(name, _)| !today.env.iter().any(|(now, _)| now.value == name.value)),
    );
    folder.project = Project {
        types: then.types,
        tools: then.tools,
        broken_tools: then.broken_tools,
        tree: with_sections(today.tree.clone(), then.tree.as_ref(), &["types", "tools"]),
        env,
        ..today
    };
    plan(folder, graph, providers, bag)
}

/// Makes a plan again to look at, with the models that its project had then.
pub fn revive_as_stored(body: &[u8], graph: &str, providers: &Providers) -> Result<Arc<Plan>, String> {
    let mut bag = Bag::trusting();
    let folder = load_files("", files(body)?, &mut bag);
    plan(folder, graph, providers, bag)
}

fn plan(mut folder: Folder, graph: &str, providers: &Providers, mut bag: Bag) -> Result<Arc<Plan>, String> {
    if let Some(of) = folder.graphs.get(graph) {
        // The body has what this graph calls. Tools of others may call graphs that are not in it.
        let used = calls(of, &folder.graphs, &folder.project).tools;
        folder.project.tools.retain(|(name, _)| used.contains(&name.value));
    }
    match compile(&folder, providers, &mut bag) {
        Some(mut catalog) => match catalog.graphs.remove(graph) {
            Some(compiled) => Ok(compiled.plan),
            None => Err("the body holds another graph".into()),
        },
        None => {
            bag.sort();
            Err(render_text(&bag, false))
        }
    }
}
