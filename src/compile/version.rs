//! A graph's version: the hash of its canonical form, and the body from which it is compiled again.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Providers, compile};
use crate::diagnostic::{Bag, render_text};
use crate::id::sha256_hex;
use crate::plan::Plan;
use crate::spec::{Files, Folder, Graph, Project, Tree, load_files};

/// The stored body of a version.
#[derive(Serialize, Deserialize)]
struct Body {
    v: u8,
    files: std::collections::BTreeMap<String, String>,
}

/// Returns the hash and the body of a graph. `used` are the files below prompts/ that it uses.
pub(super) fn version(folder: &Folder, graph: &Graph, used: &BTreeSet<String>) -> (String, Vec<u8>) {
    let hash = sha256_hex(canonical(folder, graph, used).to_string().as_bytes());
    let own = [format!("{}.yaml", graph.id), "project.yaml".to_owned()];
    let files = own.into_iter().chain(used.iter().map(|path| format!("prompts/{path}")));
    let files = files.filter_map(|path| Some((path.clone(), text(folder, &path)?))).collect();
    // Serialising texts into memory cannot fail.
    (hash, serde_json::to_vec(&Body { v: 1, files }).unwrap_or_default())
}

fn text(folder: &Folder, path: &str) -> Option<String> {
    folder.files.get(path).map(|content| String::from_utf8_lossy(content).into_owned())
}

/// Returns what the hash of a graph stands for. Comments, key order and the look of the YAML are no part of it; models
/// and retries belong to the deployment.
fn canonical(folder: &Folder, graph: &Graph, used: &BTreeSet<String>) -> Json {
    let types = folder.project.tree.as_ref().and_then(|tree| match &tree.tree {
        Tree::Map(entries) => entries.iter().find(|(key, _)| key.as_str() == Some("types")),
        _ => None,
    });
    let prompt = |path: &String| {
        let path = format!("prompts/{path}");
        text(folder, &path).map(|text| (path, Json::String(text)))
    };
    sorted(serde_json::json!({
        "graph": graph.tree.to_json(),
        "id": graph.id,
        "types": types.map(|(_, types)| types.to_json()),
        "prompts": used.iter().filter_map(prompt).collect::<serde_json::Map<_, _>>(),
    }))
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
    let body: Body = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if body.v != 1 {
        return Err(format!("its format {} is newer than this build", body.v));
    }
    Ok(body.files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect())
}

/// Returns what the hash of a stored version stands for: `graph`, `types` and `prompts`, as they were written.
pub fn stored_canonical(body: &[u8], graph: &str) -> Result<Json, String> {
    let files = files(body)?;
    let used = files.keys().filter_map(|path| path.strip_prefix("prompts/")).map(str::to_owned).collect();
    let folder = load_files("", files, &mut Bag::trusting());
    let graph = folder.graphs.get(graph).ok_or("the body holds another graph")?;
    Ok(canonical(&folder, graph, &used))
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
    folder.project = Project { types: folder.project.types, tree: folder.project.tree, ..today };
    plan(&folder, graph, providers, bag)
}

/// Makes a plan again to look at, with the models that its project had then.
pub fn revive_as_stored(body: &[u8], graph: &str, providers: &Providers) -> Result<Arc<Plan>, String> {
    let mut bag = Bag::trusting();
    let folder = load_files("", files(body)?, &mut bag);
    plan(&folder, graph, providers, bag)
}

fn plan(folder: &Folder, graph: &str, providers: &Providers, mut bag: Bag) -> Result<Arc<Plan>, String> {
    match compile(folder, providers, &mut bag) {
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
