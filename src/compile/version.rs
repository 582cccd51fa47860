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
    let text = |path: &str| {
        let content = folder.files.get(path)?;
        Some((path.to_owned(), String::from_utf8_lossy(content).into_owned()))
    };
    let prompts: Vec<(String, String)> =
        used.iter().filter_map(|path| text(&format!("prompts/{path}"))).collect();
    // Comments, key order and the look of the YAML are no part of a version; models and retries belong
    // to the deployment.
    let types = folder.project.tree.as_ref().and_then(|tree| match &tree.tree {
        Tree::Map(entries) => entries.iter().find(|(key, _)| key.as_str() == Some("types")),
        _ => None,
    });
    let canonical = serde_json::json!({
        "graph": graph.tree.to_json(),
        "id": graph.id,
        "types": types.map(|(_, types)| types.to_json()),
        "prompts": prompts.iter().map(|(path, text)| (path.clone(), Json::String(text.clone()))).collect::<serde_json::Map<_, _>>(),
    });
    let hash = sha256_hex(sorted(canonical).to_string().as_bytes());
    let own = [format!("{}.yaml", graph.id), "project.yaml".to_owned()];
    let files = own.iter().filter_map(|path| text(path)).chain(prompts).collect();
    // Serialising texts into memory cannot fail.
    (hash, serde_json::to_vec(&Body { v: 1, files }).unwrap_or_default())
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

/// Makes a plan again from the body that was stored with it. Models and retries are those of `project`, the text of
/// today's project.yaml: they belong to the deployment, and old ones may be gone with their secrets.
pub fn revive(body: &[u8], graph: &str, project: &[u8], providers: &Providers) -> Result<Arc<Plan>, String> {
    let body: Body = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    if body.v != 1 {
        return Err(format!("its format {} is newer than this build", body.v));
    }
    let files: Files = body.files.into_iter().map(|(path, text)| (path, text.into_bytes())).collect();
    let mut bag = Bag::trusting();
    let mut folder = load_files("", files, &mut bag);
    // A project of texts alone needs no project.yaml.
    let today = Some(project).filter(|text| !text.is_empty());
    let today: Files = today.map(|text| ("project.yaml".to_owned(), text.to_vec())).into_iter().collect();
    let today = load_files("", today, &mut bag).project;
    folder.project = Project { types: folder.project.types, tree: folder.project.tree, ..today };
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
