//! Rules of the house that the compiler does not know.

mod interface;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Returns every Rust file of a folder, sorted.
pub(super) fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Returns the module that a file of `src` belongs to.
fn module(file: &Path) -> String {
    let relative = file.strip_prefix("src").unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

#[test]
fn a_module_uses_only_those_above_it() {
    let lib = std::fs::read_to_string("src/lib.rs").unwrap();
    let order: BTreeMap<&str, usize> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .enumerate()
        .map(|(at, name)| (name, at))
        .collect();
    assert!(order.len() > 10, "the modules of src/lib.rs were not found");
    let mut wrong = Vec::new();
    for file in rust_files(Path::new("src")) {
        let own = module(&file);
        let Some(place) = order.get(own.as_str()) else { continue };
        // What tests use does not shape the house.
        if file.components().any(|part| ["tests.rs", "tests"].iter().any(|name| part.as_os_str() == *name)) {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + "crate::".len()..];
            // `crate::{a::b, c}` names several, and `crate::a::b` one.
            let names = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default().split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let ident = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
                let used: String = name.trim_start().chars().take_while(ident).collect();
                if order.get(used.as_str()).is_some_and(|other| other > place) {
                    wrong.push(format!("{} uses `{used}`, which stands below `{own}`", file.display()));
                }
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn an_outside_crate_has_one_home() {
    let homes = [
        ("serde_yaml", vec!["spec"]),
        ("minijinja", vec!["expr", "template"]),
        ("sea_orm", vec!["store"]),
        ("sqlx", vec!["store"]),
        ("reqwest", vec!["egress"]),
        ("rmcp", vec!["tool"]),
        ("chacha20poly1305", vec!["store"]),
        ("poem", vec!["server"]),
        ("poem_openapi", vec!["server"]),
        ("clap", vec!["config", "cli"]),
        ("lsp_server", vec!["lsp"]),
        ("gen_lsp_types", vec!["lsp"]),
        ("quick_junit", vec!["case"]),
        ("annotate_snippets", vec!["diagnostic"]),
        ("notify", vec!["cli"]),
        ("opentelemetry", vec!["trace"]),
        ("opentelemetry_http", vec!["trace"]),
        ("opentelemetry_otlp", vec!["trace"]),
        ("opentelemetry_sdk", vec!["trace"]),
        ("tracing_opentelemetry", vec!["trace"]),
    ];
    let mut wrong = Vec::new();
    for file in rust_files(Path::new("src")) {
        let own = module(&file);
        let text = std::fs::read_to_string(&file).unwrap();
        for (name, home) in &homes {
            let used = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{name}::")) && !code.contains(&format!("::{name}::"))
            });
            if used && !home.contains(&own.as_str()) {
                wrong.push(format!("{} uses {name}, whose home is {}", file.display(), home.join(", ")));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
