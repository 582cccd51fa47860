//! The JSON Schemas: held against files, and shown by the editor that reads them.

use std::fs;
use std::path::{Path, PathBuf};

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::spec::grammar::{self, Map, Named};
use graphloom::spec::{Files, SchemaFile, load_files};
use jsonschema::Validator;
use serde_json::{Value as Json, json};

use crate::service_clients::{check_installed, npm};

/// What `check` says of files whose shape is wrong; a schema refuses them, too.
const STRUCTURAL: [&str; 18] = [
    "E105", "G101", "G102", "G103", "G104", "G105", "G106", "G202", "G206", "G215", "G220", "G221", "M502",
    "M504", "M511", "M513", "S409", "Y008",
];

/// What a schema accepts nevertheless. Y008 is only a lint: to YAML 1.2 the value is a text. The others are a matter
/// of names and of order.
const ACCEPTED: [&str; 17] = [
    "E105-variable-in-a-header",
    "G105-empty-reason",
    "M504-key-in-a-header",
    "M504-password-in-a-header",
    "G105-mcp-file-by-hand",
    "S409-a-type-without-an-end",
    "M502-effort-that-the-provider-does-not-know",
    "M502-nobody-asks",
    "M513-rule-never-reached",
    "M513-retry-of-a-post",
    "G221-answer-of-an-agent",
    "Y008-no-without-quotes",
    "G105-drop-of-a-channel-of-today",
    "G105-migration-into-a-channel-of-a-run",
    "G105-migration-of-a-name-twice",
    "G105-rename-of-a-channel-of-today",
    "G105-two-names-become-one",
];

/// Mistakes in the YAML that leave a wrong shape behind: no value, or a key that is half an expression. Others leave
/// what could be meant, or no YAML at all.
const REFUSED: [&str; 7] = [
    "Y004-tag",
    "Y006-cut-by-a-comma",
    "Y006-empty-file",
    "Y006-empty-value",
    "M501-policy-by-a-number",
    "M505-secret-in-a-body",
    "M510-unknown-method",
];

/// The schemas in use.
struct Schemas {
    graph: Validator,
    project: Validator,
    prompt: Validator,
    test: Validator,
}

impl Schemas {
    fn new() -> Self {
        let validator = |file: SchemaFile| jsonschema::draft7::new(&file.schema()).unwrap();
        Self {
            graph: validator(SchemaFile::Graph),
            project: validator(SchemaFile::Project),
            prompt: validator(SchemaFile::Prompt),
            test: validator(SchemaFile::Test),
        }
    }

    /// Returns what is wrong with each file of a project folder. A file that is no YAML is left out.
    fn check(&self, folder: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        for path in files(folder) {
            let relative = path.strip_prefix(folder).unwrap().display().to_string();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let (schema, text) = match relative.as_str() {
                "project.yaml" => (&self.project, text.as_str()),
                name if !name.contains('/') && name.ends_with(".yaml") => (&self.graph, text.as_str()),
                name if name.ends_with(".test.yaml") => (&self.test, text.as_str()),
                name if name.starts_with("prompts/") => match front_matter(&text) {
                    Some(matter) => (&self.prompt, matter),
                    None => continue,
                },
                _ => continue,
            };
            // As YAML 1.2 has it and editors do: `no` is a text.
            let options = serde_yaml::options! { strict_booleans: true };
            let Ok(value) = serde_yaml::from_str_with_options::<Json>(text, options) else { continue };
            wrong.extend(schema.iter_errors(&value).map(|e| format!("{relative}{}: {e}", e.instance_path())));
        }
        wrong
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { &mut folders } else { &mut files }.push(path);
        }
    }
    files.sort();
    files
}

fn front_matter(text: &str) -> Option<&str> {
    let (matter, _) = text.strip_prefix("---\n")?.split_once("\n---\n")?;
    Some(matter)
}

/// `BLESS=1` writes the files anew; `graphloom schema --write schema` does the same.
#[test]
fn the_checked_in_schemas_are_what_the_grammar_gives() {
    for file in SchemaFile::ALL {
        let path = Path::new("schema").join(file.name());
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, file.text()).unwrap();
        }
        let same = fs::read_to_string(&path).unwrap_or_default() == file.text();
        assert!(same, "{} is not what the code gives; run `graphloom schema --write schema`", path.display());
    }
}

#[test]
fn a_schema_accepts_what_check_accepts() {
    let schemas = Schemas::new();
    for folder in ["graphs", "tests/fixtures/valid/language"] {
        assert_eq!(schemas.check(Path::new(folder)), Vec::<String>::new(), "{folder}");
    }
}

#[test]
fn a_schema_refuses_a_file_of_the_wrong_shape() {
    let schemas = Schemas::new();
    let mut wrong = Vec::new();
    for entry in fs::read_dir("tests/fixtures/invalid").unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let structural = STRUCTURAL.contains(&&name[..4]) || REFUSED.contains(&name);
        let due = structural && !ACCEPTED.contains(&name);
        let found = schemas.check(&path.join("graphs"));
        if found.is_empty() == due {
            wrong.push(format!("{name}: {}", if due { "accepted".to_owned() } else { found.join("\n") }));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_key_is_documented_wherever_it_stands() {
    fn walk(value: &Json, at: &str, silent: &mut Vec<String>) {
        // What tells one kind from another repeats keys without their texts.
        for (name, inner) in value.as_object().into_iter().flatten().filter(|(name, _)| *name != "if") {
            let at = format!("{at}/{name}");
            if name == "properties" {
                let told = |key: &Json| key == &json!(false) || key["description"].is_string();
                let keys = inner.as_object().unwrap().iter().filter(|(_, key)| !told(key));
                silent.extend(keys.map(|(key, _)| format!("{at}/{key}")));
            }
            walk(inner, &at, silent);
        }
        for inner in value.as_array().into_iter().flatten() {
            walk(inner, at, silent);
        }
    }
    let mut silent = Vec::new();
    for file in SchemaFile::ALL {
        walk(&file.schema(), file.name(), &mut silent);
    }
    assert_eq!(silent, Vec::<String>::new());
}

/// Returns what an editor offers and tells where `‸` stands in a graph with this node.
fn document(node: &str) -> Json {
    let head = "# yaml-language-server: $schema=../schema/graph.json\nformat: 1\nstate: {messages: messages}\nstart: a\n";
    json!({"path": "graphs/new.yaml", "text": format!("{head}nodes:\n  a:\n{node}")})
}

#[test]
fn an_editor_completes_the_keys_of_a_kind_tells_what_a_key_does_and_flags_unknown_ones() {
    check_installed();
    let fresh = [
        document("    kind: say\n    text: Hello\n    next: end\n    ‸\n"),
        document("    kind: llm\n    text: Hello\n    reply: true\n    next: end\n    ‸\n"),
        document("    kind: ‸\n"),
        document("    kind: llm\n    text: Hello\n    his‸tory: {last: 3}\n    reply: true\n    next: end\n"),
        document("    kind: say\n    txt: Hello\n    text: Hello\n    next: end\n"),
        document("    kind: say\n    text: Hello\n    reply: true\n    next: end\n"),
    ];
    let shipped = [
        "articles",
        "chat",
        "project",
        "refund",
        "research",
        "support",
        "tests/articles.test",
        "tests/chat.test",
        "tests/refund.test",
        "tests/research.test",
        "tests/support.test",
    ]
    .map(|name| {
        let path = format!("graphs/{name}.yaml");
        json!({"path": path, "text": fs::read_to_string(&path).unwrap()})
    });
    let documents: Json = fresh.into_iter().chain(shipped).collect();
    let answers = npm("editor", &documents.to_string(), &[]);
    let offered = |at: usize| -> Vec<&str> {
        let mut labels: Vec<&str> =
            answers[at]["completions"].as_object().unwrap().keys().map(|k| &**k).collect();
        labels.sort_unstable();
        labels
    };
    let keys = |map: &Map, there: &[&str]| {
        let mut keys: Vec<&str> = map.names().filter(|key| !there.contains(key)).collect();
        keys.sort_unstable();
        keys
    };
    assert_eq!(offered(0), keys(&grammar::SAY, &["kind", "text", "next"]));
    assert_eq!(offered(1), keys(&grammar::LLM, &["kind", "text", "reply", "next"]));
    let mut kinds: Vec<&str> = grammar::KINDS.iter().map(|kind| kind.name).collect();
    kinds.sort_unstable();
    assert_eq!(offered(2), kinds);
    let told = grammar::LLM.key("history").unwrap().doc;
    assert_eq!(answers[1]["completions"]["history"], told);
    assert!(answers[3]["hover"].as_str().unwrap().starts_with(told), "{}", answers[3]);
    assert_eq!(answers[4]["problems"], json!(["8: Property txt is not allowed."]));
    assert_eq!(answers[5]["problems"], json!(["9: Property reply is not allowed."]));
    for at in [3].into_iter().chain(6..13) {
        assert_eq!(answers[at]["problems"], json!([]), "{}", documents[at]["path"]);
    }
}

/// The kinds of errors and the built-in types are listed in `compile`, too.
#[test]
fn a_word_that_a_schema_offers_is_one_to_check() {
    let words = |named: Named| named.words().iter().map(|word| word.name).collect::<Vec<_>>();
    let project = format!(
        "format: 1\nretries: {{r: {{attempts: 2, for: [{}]}}}}\n",
        words(Named::ErrorKind).join(", ")
    );
    let state: Vec<String> = words(Named::Type).iter().map(|name| format!("{name}_it: {name}")).collect();
    let graph = format!(
        "format: 1\nstate: {{{}}}\nstart: a\nnodes: {{a: {{kind: say, text: Hi, retry: r, next: end}}}}\n",
        state.join(", ")
    );
    let files = [("chat.yaml", graph), ("project.yaml", project)];
    let files: Files = files.map(|(name, text)| (name.to_owned(), text.into_bytes())).into();
    let mut bag = Bag::default();
    let folder = load_files("", files, &mut bag);
    compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
    assert!(!bag.has_errors(), "{}", render_text(&bag, false));
}
