//! Shipped graphs and versions of graphs.

use std::collections::BTreeMap;
use std::path::Path;

use graphloom::compile::{Catalog, Providers, compile, revive};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::spec::{self, Files, load_files};

fn check(files: Files) -> (Option<Catalog>, Bag) {
    let mut bag = Bag::default();
    let folder = load_files("graphs", files, &mut bag);
    let catalog = compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
    bag.sort();
    (catalog, bag)
}

/// Reads a folder of fixtures as a project.
fn files(root: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_none_or(|name| name != "expected.txt") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                files.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    files
}

#[test]
fn every_shipped_graph_compiles_without_a_finding() {
    let mut bag = Bag::default();
    let folder = spec::load(Path::new("graphs"), &mut bag).unwrap();
    let catalog = compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
    assert_eq!(render_text(&bag, false), "");
    let graphs = catalog.unwrap().graphs;
    assert_eq!(graphs.keys().collect::<Vec<_>>(), ["articles", "chat", "refund", "research", "support"]);
}

#[test]
fn a_stored_version_gives_the_plan_with_the_same_hash_again() {
    let (catalog, _) = check(files(Path::new("graphs")));
    let providers = Providers::without_secrets().unwrap();
    let Catalog { graphs, project, .. } = catalog.unwrap();
    let hashes: BTreeMap<String, String> = graphs
        .into_iter()
        .map(|(graph, compiled)| {
            let again = revive(&compiled.body, &graph, &project, &providers).unwrap();
            assert_eq!(again.hash, compiled.plan.hash, "{graph}");
            (graph, again.hash.clone())
        })
        .collect();
    let mut changed = files(Path::new("graphs"));
    let tone = changed.get_mut("prompts/_partials/tone.md").unwrap();
    tone.extend(b"Never swear.\n");
    let comment = changed.get_mut("support.yaml").unwrap();
    comment.extend(b"# a comment\n");
    let (catalog, _) = check(changed);
    let catalog = catalog.unwrap();
    assert_ne!(catalog.graphs["chat"].plan.hash, hashes["chat"], "a partial is part of the version");
    let mut commented = files(Path::new("graphs"));
    commented.get_mut("support.yaml").unwrap().extend(b"# a comment\n");
    let (catalog, _) = check(commented);
    assert_eq!(catalog.unwrap().graphs["support"].plan.hash, hashes["support"], "a comment is not");
}

/// A version stands for all that it calls, and can be made again of its body alone.
#[test]
fn a_version_holds_the_graphs_tools_and_schemas_that_it_calls() {
    let graph = "format: 1\nstate: {messages: messages, order: {schema: schemas/order.json, optional: true}}\nstart: ask\n\
                 nodes:\n  ask: {kind: graph, use: legal, with: {question: run.user_text}, next: tell}\n  \
                 tell: {kind: llm, text: \"{{ state.order | tojson }}\", tools: [search], reply: true, next: end}\n";
    let legal = "format: 1\ninput: {question: string}\nstate: {messages: messages}\nstart: answer\n\
                 nodes:\n  answer: {kind: llm, prompt: legal/answer, with: {question: input.question}, reply: true, next: end}\n";
    let prompt = "---\ninputs: {question: string}\n---\n{{ question }}\n";
    let project = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\ntools:\n  \
                   search: {http: {url: \"{{ env.KB }}/s?q={{ args.q | urlencode }}\"}, args: {q: string}}\n  \
                   other: {http: {url: \"{{ env.KB }}/o\"}}\n\
                   env: {KB: {default: \"https://kb.example.com\"}}\nhosts: {allow: [kb.example.com]}\n";
    let base = [
        ("chat.yaml", graph),
        ("legal.yaml", legal),
        ("prompts/legal/answer.md", prompt),
        ("schemas/order.json", "{\"type\": \"object\"}"),
        ("project.yaml", project),
    ];
    let version = |changed: &[(&str, &str, &str)]| {
        let text = |path: &str, text: &str| {
            changed.iter().filter(|(at, ..)| *at == path).fold(text.to_owned(), |text, (_, from, to)| {
                assert!(text.contains(from), "{from}");
                text.replace(from, to)
            })
        };
        let files = base.map(|(path, file)| (path.to_owned(), text(path, file).into_bytes()));
        let (catalog, bag) = check(files.into());
        let mut catalog = catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false)));
        catalog.graphs.remove("chat").unwrap()
    };
    let first = version(&[]);
    let providers = Providers::without_secrets().unwrap();
    let again = revive(&first.body, "chat", project.as_bytes(), &providers).unwrap();
    assert_eq!(again.hash, first.plan.hash);
    assert_eq!(again.children.keys().collect::<Vec<_>>(), ["legal"]);
    for (what, change, same) in [
        ("the called graph", ("legal.yaml", "prompt: legal", "temperature: 0, prompt: legal"), false),
        ("its prompt", ("prompts/legal/answer.md", "{{ question }}", "Answer: {{ question }}"), false),
        ("the schema", ("schemas/order.json", "\"object\"", "\"string\""), false),
        ("a tool that is used", ("project.yaml", "/s?q=", "/find?q="), false),
        ("one that is not", ("project.yaml", "/o\"", "/p\""), true),
        ("a setting", ("project.yaml", "default: \"https://kb", "default: \"http://kb"), true),
    ] {
        assert_eq!(version(&[change]).plan.hash == first.plan.hash, same, "{what}");
    }
    // Where a request may go is a matter of today.
    let closed = project.replace("allow: [kb.example.com]", "allow: []");
    let why = revive(&first.body, "chat", closed.as_bytes(), &providers).unwrap_err();
    assert!(why.contains("is not listed under `hosts`"), "{why}");
}

/// A run that was pinned before a deploy called the old model, or failed because that model's key was gone.
#[test]
fn a_stored_version_keeps_its_types_and_calls_the_models_of_today() {
    let project =
        |models: &str, types: &str| format!("format: 1\nmodels: {{{models}}}\ndefault_model: m\n{types}");
    let graph = "format: 1\nstate: {t: T}\nstart: a\nnodes:\n  a: {kind: set, set: {t: {ok: true}}, next: b}\n  \
                 b: {kind: llm, text: hi, reply: true, next: end}\n";
    let old = project(
        "m: {provider: openai, model: gpt-5, api_key: {secret: GONE}}",
        "types: {T: {ok: boolean}}\n",
    );
    let graph = graph.replace("state: {t: T}", "state: {messages: messages, t: T}");
    let files = Files::from([
        ("project.yaml".to_owned(), old.into_bytes()),
        ("g.yaml".to_owned(), graph.into_bytes()),
    ]);
    let (catalog, bag) = check(files);
    let compiled = &catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false))).graphs["g"];
    let strict = Providers::new(Box::new(|_| None)).unwrap();
    let again = revive(&compiled.body, "g", project("m: {provider: demo}", "").as_bytes(), &strict);
    assert_eq!(again.unwrap().hash, compiled.plan.hash);
    let gone = revive(&compiled.body, "g", b"format: 1\nmodels: {n: {provider: demo}}\n", &strict);
    let why = gone.unwrap_err();
    assert!(why.contains("model"), "{why}");
}

/// A build that checks more must not lose the runs of one that checked less: each of these was once accepted.
#[test]
fn a_version_that_todays_checks_refuse_still_runs_for_those_who_wait_on_it() {
    let providers = Providers::without_secrets().unwrap();
    for code in ["E104", "E106", "S402", "S403", "S404", "S406", "S412", "T308"] {
        for fixture in std::fs::read_dir("tests/fixtures/invalid").unwrap() {
            let folder = fixture.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            // Literals of another type were refused from the start.
            if !name.starts_with(code) || name == "E104-a-number" || name.starts_with("S403-") {
                continue;
            }
            let files = files(&folder.join("graphs"));
            let text = |content: &Vec<u8>| String::from_utf8_lossy(content).into_owned();
            let project = files.get("project.yaml").map(text).unwrap_or_default();
            let graph =
                files.keys().find_map(|path| path.strip_suffix(".yaml").filter(|id| *id != "project"));
            let graph = graph.unwrap().to_owned();
            let stored: BTreeMap<String, String> =
                files.iter().map(|(path, content)| (path.clone(), text(content))).collect();
            let body = serde_json::to_vec(&serde_json::json!({"v": 1, "files": stored})).unwrap();
            let revived = revive(&body, &graph, project.as_bytes(), &providers);
            assert!(revived.is_ok(), "{name}: {revived:?}");
        }
    }
}
