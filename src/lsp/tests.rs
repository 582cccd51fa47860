use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::json;

use super::check::{Job, check};
use super::complete::{At, complete};
use super::hover::hover;
use super::project::Project;
use super::rename::{prepare, rename};

mod told;
mod under;

const PROJECT: &str = "\
format: 1
models:
  smart: {provider: demo, retry: standard}
  backup: {provider: demo}
default_model: smart
retries:
  standard: {attempts: 3, for: [timeout]}
types:
  Triage:
    intent: {enum: [billing, other]}
    note: string?
";

const GRAPH: &str = "\
format: 1
input:
  topic: {enum: [a, b], default: a, description: What it is about.}
state:
  messages: messages
  triage: Triage
  turns: {type: integer, merge: add}
start: classify
nodes:
  classify:
    kind: llm
    prompt: chat/classify
    with: {topic: input.topic}
    into: triage
    next:
      - match: state.triage.intent
        cases: {billing: answer, other: end}
  answer:
    kind: llm
    description: Says it.
    text: \"🦀 Hello {{ input.topic }} {{ state.turns }}\"
    reply: true
    next: end
";

const PROMPT: &str = "\
---
inputs:
  messages: messages
  topic: string
  hints: [Triage]
---
@system
{% include \"_partials/tone.md\" %}
{{ topic }}{% for hint in hints %}{{ hint.note }}{% endfor %}
@messages messages
";

/// Returns a project in which a file has another text, and that file's cursor: the place of `‸`.
fn project(path: &str, text: &str) -> (Project, String, usize) {
    let at = text.find('‸').unwrap_or(0);
    let text = text.replace('‸', "");
    let mut project = Project::new(PathBuf::from("/p"));
    let files = [
        ("project.yaml", PROJECT),
        ("help.yaml", GRAPH),
        ("prompts/chat/classify.md", PROMPT),
        ("prompts/_partials/tone.md", "Be kind.\n"),
    ];
    for (path, text) in files {
        project.files.entry(path.to_owned()).or_default().set(text.into(), true);
    }
    project.settle();
    project.whole = true;
    project.files.entry(path.to_owned()).or_default().set(text.as_str().into(), true);
    project.settle();
    (project, text, at)
}

/// Returns a project with a piece of one of its files replaced.
fn changed(path: &str, piece: &str, by: &str) -> (Project, String, usize) {
    let text = match path {
        "project.yaml" => PROJECT,
        "help.yaml" => GRAPH,
        _ => PROMPT,
    };
    assert!(text.contains(piece), "{piece}");
    project(path, &text.replacen(piece, by, 1))
}

/// Completes at `‸`; the first offers, in the order given.
fn offers(path: &str, (project, text, offset): (Project, String, usize)) -> String {
    let (offers, replaced) = complete(At { project: &project, path, text: &text, offset });
    assert!(text.get(replaced).is_some());
    offers.iter().map(|offer| offer.label.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn names_are_offered_where_they_belong_also_in_a_text_that_is_not_yaml() {
    let help = "help.yaml";
    for (piece, by, expected) in [
        ("start: classify", "start: ‸", "classify answer end"),
        ("start: classify", "start: cl‸assify", "classify answer end"),
        ("reply: true\n    next: end", "reply: true\n    next: ‸", "classify answer end"),
        ("next: end\n", "next: {all: [answer, ‸", "classify answer end"),
        ("other: end}", "other: ‸}", "classify answer end"),
        ("other: end}", "‸", "other"),
        ("reply: true", "on_max: ‸", "classify answer end"),
        ("reply: true", "on_error: ‸", "classify answer end"),
        ("reply: true", "on_error:\n      - {catch: [timeout], to: ‸}", "classify answer end"),
        ("start: classify", "on_limit: ‸\nstart: classify", "classify answer end"),
        ("reply: true", "on_error: answer\n    model: ‸", "smart backup"),
        ("reply: true", "model: ‸", "smart backup"),
        ("reply: true", "retry: ‸", "standard"),
        ("reply: true", "reply: ‸", "true false"),
        ("reply: true", "stream: ‸", "tokens final none"),
        ("reply: true", "join: ‸", "all each"),
        ("prompt: chat/classify", "prompt: ch‸", "chat/classify"),
        ("prompt: chat/classify", "prompt: chat/‸", "chat/classify"),
        ("into: triage", "into: ‸", "messages triage turns"),
        ("into: triage", "into:\n      ‸", "messages triage turns"),
        ("into: triage", "into: {‸", "messages triage turns"),
        ("with: {topic: input.topic}", "with: {‸}", "messages topic hints"),
        ("with: {topic: input.topic}", "with: {topic: input.topic, ‸}", "messages hints"),
        ("with: {topic: input.topic}", "with: {topic: input.‸}", "topic"),
        ("match: state.triage.intent", "match: state.‸", "messages triage turns"),
        ("match: state.triage.intent", "match: state.triage.‸", "intent note"),
        ("match: state.triage.intent", "when: \"state.triage.intent == '‸", "billing other"),
        ("cases: {billing: answer, other: end}", "‸", "cases"),
        ("      - match: state.triage.intent", "      - ‸", "match"),
        ("reply: true\n    next: end", "next:\n      - ‸", "when to match cases else"),
        ("reply: true\n    next: end", "next:\n      - when: state.‸", "messages triage turns"),
        ("reply: true\n    next: end", "next:\n      - when: true\n        ‸", "to"),
        ("{{ state.turns }}", "{{ state.‸", "messages triage turns"),
        ("{{ state.turns }}", "{{ run.‸ }}", "id step attempt steps_left user_text now"),
        ("{{ state.turns }}", "{{ error.‸ }}\n    on_error: answer", "kind message node code"),
        ("{{ state.turns }}", "{% include '‸", "_partials/tone.md"),
        ("{{ state.turns }}", "‸", ""),
        ("triage: Triage\n", "triage: ‸\n", "Triage string integer number boolean object any messages"),
        ("triage: Triage\n", "triage: [‸\n", "Triage string integer number boolean object any messages"),
        ("merge: add", "merge: ‸", "replace append add union merge first max min messages"),
        ("merge: add", "keep: ‸", "thread run"),
        ("kind: llm\n    desc", "kind: ‸\n    desc", "llm tool http say ask set route map graph custom fail"),
        ("start: classify", "output: [‸]\nstart: classify", "messages triage turns"),
        ("start: classify", "defaults: {model: ‸}\nstart: classify", "smart backup"),
        ("start: classify", "# start: ‸", ""),
        ("start: classify", "description: ‸", ""),
    ] {
        assert_eq!(offers(help, changed(help, piece, by)), expected, "{by}");
    }
}

#[test]
fn keys_are_offered_by_kind_and_without_those_that_are_there() {
    let help = "help.yaml";
    for (piece, by, some, none) in [
        ("    reply: true", "    ‸", "prompt with into reply max_visits", "kind description clear"),
        ("    kind: llm\n    desc", "    kind: say\n    ‸\n    desc", "retry", "prompt text set"),
        ("    kind: llm\n    desc", "    ‸\n    desc", "kind prompt", "description set error"),
        ("answer:\n", "extra: {kind: set, ‸}\n  answer:\n", "set clear next", "kind prompt"),
        ("format: 1\n", "format: 1\n‸\n", "description limits defaults allow output", "state nodes"),
        (
            "turns: {type: integer, merge: add}",
            "turns: {type: integer, ‸",
            "merge default min private",
            "type",
        ),
        ("format: 1\n", "format: 1\nlimits: {‸}\n", "steps time tokens parallel", "format"),
        ("    reply: true", "    history: {‸}", "last tokens", "reply"),
        ("format: 1\n", "format: 1\nallow: {‸}\n", "G216 M517", "G201"),
    ] {
        let found = offers(help, changed(help, piece, by));
        let is = |key: &str| found.split(' ').any(|found| found == key);
        assert!(some.split(' ').all(is), "{by}: {found}");
        assert!(!none.split(' ').any(is), "{by}: {found}");
    }
}

#[test]
fn the_other_files_of_a_project_have_their_own_offers() {
    let prompt = "prompts/chat/classify.md";
    for (path, piece, by, expected) in [
        ("project.yaml", "default_model: smart", "default_model: ‸", "smart backup"),
        ("project.yaml", "retry: standard", "retry: ‸", "standard"),
        ("project.yaml", "provider: demo}", "provider: ‸}", "openai anthropic demo scripted"),
        (
            "project.yaml",
            "note: string?",
            "note: [‸]",
            "Triage string integer number boolean object any messages",
        ),
        (prompt, "@messages messages", "@messages ‸", "messages hints"),
        (prompt, "@messages messages", "@‸", "@system @user @assistant @messages"),
        (prompt, "{{ topic }}", "{{ ‸", "messages topic hints range dict debug"),
        (prompt, "{{ hint.note }}", "{{ hint.‸", "intent note"),
        (prompt, "_partials/tone.md", "_par‸", "_partials/tone.md"),
        (prompt, "topic: string", "topic: ‸", "Triage string integer number boolean object any messages"),
        (prompt, "inputs:", "‸\ninputs:", "description sample model allow"),
    ] {
        let found = offers(path, changed(path, piece, by));
        assert!(
            found == expected || (by == "{{ ‸" && found.starts_with("messages topic hints ")),
            "{by}: {found}"
        );
    }
    let found = offers(prompt, changed(prompt, "{{ topic }}", "{{ topic | ‸"));
    assert!(found.starts_with("abs ") && found.contains(" quoted "), "{found}");
    let partial = "prompts/_partials/tone.md";
    assert_eq!(offers(partial, project(partial, "Be {{ hints[0].‸")), "intent note");
}

#[test]
fn a_hover_says_what_a_name_is() {
    for (path, piece, by, expected) in [
        (
            "help.yaml",
            "match: state.triage.intent",
            "match: state.tri‸age.intent",
            "**channel** `state.triage`: `{intent: enum(billing, other), note: string?}`",
        ),
        (
            "help.yaml",
            "state.triage.intent",
            "state.triage.in‸tent",
            "**field** `state.triage.intent`: `enum(billing, other)`",
        ),
        ("help.yaml", "  turns:", "  tu‸rns:", "merge `add` · starts as `0`"),
        ("help.yaml", "triage: Triage", "tri‸age: Triage", "Written by `classify`."),
        ("help.yaml", "input.topic }", "input.to‸pic }", "default `\"a\"`\n\nWhat it is about."),
        ("help.yaml", "  answer:", "  ans‸wer:", "kind `llm`\n\nSays it.\n\nComes from `classify`."),
        ("help.yaml", "start: classify", "start: cl‸assify", "Comes from `start`.\n\nLeads to `answer`."),
        (
            "help.yaml",
            "chat/classify",
            "chat/cl‸assify",
            "inputs:\n- `messages`: `messages`\n- `topic`: `string`",
        ),
        ("help.yaml", "chat/classify", "chat/cla‸sify", "There is no prompt of this name."),
        (
            "help.yaml",
            "triage: Triage",
            "triage: Tri‸age",
            "```yaml\nTriage:\n  intent: {enum: [billing, other]}\n  note: string?\n```",
        ),
        ("help.yaml", "    reply: true", "    re‸ply: true", "**key** `reply`\n\nSays the answer"),
        ("help.yaml", "merge: add", "mer‸ge: add", "**key** `merge`"),
        ("project.yaml", "retry: standard", "retry: stan‸dard", "standard: {attempts: 3, for: [timeout]}"),
        ("project.yaml", "format: 1", "format: 1\nallow: {M5‸17: why}", "# M517: an entry that nobody uses"),
        ("prompts/chat/classify.md", "{{ topic }}", "{{ top‸ic }}", "**input** `topic`: `string`"),
    ] {
        let (project, text, offset) = changed(path, piece, by);
        let (said, _) = hover(At { project: &project, path, text: &text, offset }).unwrap_or_default();
        assert!(said.contains(expected), "{by}: {said}");
    }
}

#[test]
fn definitions_are_found_across_files() {
    for (path, piece, by, expected) in [
        ("help.yaml", "start: classify", "start: cl‸assify", "help.yaml classify"),
        ("help.yaml", "billing: answer", "billing: ans‸wer", "help.yaml answer"),
        ("help.yaml", "state.turns", "state.tur‸ns", "help.yaml turns"),
        ("help.yaml", "triage: Triage", "triage: Tri‸age", "project.yaml Triage"),
        ("help.yaml", "triage.intent", "triage.int‸ent", "project.yaml intent"),
        ("help.yaml", "with: {topic", "with: {to‸pic", "prompts/chat/classify.md topic"),
        ("prompts/chat/classify.md", "{{ topic", "{{ to‸pic", "prompts/chat/classify.md topic"),
        ("project.yaml", "default_model: smart", "default_model: sm‸art", "project.yaml smart"),
        ("prompts/chat/classify.md", "[Triage]", "[Tri‸age]", "project.yaml Triage"),
    ] {
        let (project, _, offset) = changed(path, piece, by);
        let (mark, _) = project.files[path].mark_at(offset).unwrap_or_else(|| panic!("{by}"));
        let found = project.definition(&mark.symbol).unwrap_or_else(|| panic!("{by}"));
        let text = &project.files[found.path].text[found.range.clone()];
        assert_eq!(format!("{} {text}", found.path), expected, "{by}");
    }
}

/// A project whose nodes call tools, graphs and addresses.
const CALLS: [(&str, &str); 3] = [
    (
        "project.yaml",
        "\
format: 1
tools:
  search_kb:
    description: Searches.
    http: {url: \"{{ env.KB_URL }}/{{ args.query | urlencode }}\"}
    args: {query: string, limit: {type: integer, default: 5, description: The most hits.}}
    result: [{query: string}]
  ask_legal: {graph: legal, description: Asks.}
env: {KB_URL: {default: \"https://kb.example.com\"}, SHOP: {}}
",
    ),
    (
        "desk.yaml",
        "\
format: 1
state: {messages: messages, hits: any, view: any}
start: search
nodes:
  search:
    kind: tool
    tool: search_kb
    with: {query: run.user_text}
    into: hits
    next: ask
  ask: {kind: graph, use: legal, with: {question: run.user_text}, into: view, next: each}
  each:
    kind: map
    over: state.hits
    do: {kind: tool, tool: search_kb, with: {limit: 1}}
    next: fetch
  fetch: {kind: http, url: \"{{ env.SHOP }}/x\", into: hits, next: answer}
  answer: {kind: llm, text: Help., tools: [search_kb], reply: true, next: end}
",
    ),
    (
        "legal.yaml",
        "\
format: 1
description: Gives an opinion.
input: {question: string, urgent: {type: boolean, default: false}}
state: {opinion: any}
start: think
nodes:
  think: {kind: set, set: {opinion: input.question}, next: end}
",
    ),
];

/// Returns that project with a piece of a file in other words, and the place of `‸`.
fn calls(path: &str, piece: &str, by: &str) -> (Project, String, usize) {
    reworded(Project::new(PathBuf::from("/p")), &CALLS, (path, piece, by))
}

/// Opens files, then puts other words in the place of a piece of one; returns its text, and the place of `‸`.
fn reworded(
    mut project: Project,
    files: &[(&str, &str)],
    (path, piece, by): (&str, &str, &str),
) -> (Project, String, usize) {
    let (mut found, mut at) = (String::new(), 0);
    for (name, text) in files {
        // First as it is: what cannot be read later is remembered.
        project.files.entry((*name).to_owned()).or_default().set((*text).into(), true);
        project.settle();
        if *name == path {
            assert!(text.contains(piece), "{piece}");
            let text = text.replacen(piece, by, 1);
            at = text.find('‸').unwrap();
            found = text.replace('‸', "");
        }
    }
    project.files.entry(path.to_owned()).or_default().set(found.as_str().into(), true);
    project.settle();
    project.whole = true;
    (project, found, at)
}

#[test]
fn tools_graphs_and_settings_are_offered_explained_and_found() {
    for (path, piece, by, expected) in [
        ("desk.yaml", "tool: search_kb", "tool: ‸", "search_kb ask_legal"),
        ("desk.yaml", "tools: [search_kb]", "tools: [‸]", "search_kb ask_legal"),
        ("desk.yaml", "use: legal", "use: ‸", "desk legal"),
        ("desk.yaml", "with: {query: run.user_text}", "with: {‸}", "query limit"),
        ("desk.yaml", "with: {limit: 1}", "with: {limit: 1, ‸}", "query"),
        ("desk.yaml", "with: {question: run.user_text}", "with: {‸}", "question urgent"),
        ("desk.yaml", "{{ env.SHOP }}", "{{ env.‸ }}", "KB_URL SHOP"),
        ("project.yaml", "{{ env.KB_URL }}", "{{ env.‸ }}", "KB_URL SHOP"),
        ("project.yaml", "{{ args.query ", "{{ args.‸ ", "query limit"),
        ("project.yaml", "graph: legal", "graph: ‸", "desk legal"),
    ] {
        assert_eq!(offers(path, calls(path, piece, by)), expected, "{by}");
    }
    for (path, piece, by, definition, said) in [
        (
            "desk.yaml",
            "tool: search_kb",
            "tool: sea‸rch_kb",
            "project.yaml search_kb",
            "description: Searches.",
        ),
        ("desk.yaml", "[search_kb]", "[sea‸rch_kb]", "project.yaml search_kb", "**tool** `search_kb`"),
        (
            "desk.yaml",
            "with: {query",
            "with: {qu‸ery",
            "project.yaml query",
            "**argument** `search_kb.query`: `string`",
        ),
        ("desk.yaml", "with: {limit", "with: {li‸mit", "project.yaml limit", "default `5`\n\nThe most hits."),
        (
            "desk.yaml",
            "with: {question",
            "with: {ques‸tion",
            "legal.yaml question",
            "`input.question`: `string`",
        ),
        (
            "desk.yaml",
            "use: legal",
            "use: le‸gal",
            "legal.yaml",
            "Gives an opinion.\n\ninputs:\n- `question`: `string`",
        ),
        ("project.yaml", "graph: legal", "graph: le‸gal", "legal.yaml", "**graph** `legal`"),
        ("desk.yaml", "env.SHOP", "env.SH‸OP", "project.yaml SHOP", "**setting** `env.SHOP`"),
        ("project.yaml", "args.query", "args.que‸ry", "project.yaml query", "**argument** `search_kb.query`"),
    ] {
        let (project, text, offset) = calls(path, piece, by);
        let (hovered, _) = hover(At { project: &project, path, text: &text, offset }).unwrap_or_default();
        assert!(hovered.contains(said), "{by}: {hovered}");
        let (mark, _) = project.files[path].mark_at(offset).unwrap_or_else(|| panic!("{by}"));
        let found = match mark.symbol.file() {
            Some(file) => file,
            None => {
                let found = project.definition(&mark.symbol).unwrap_or_else(|| panic!("{by}"));
                format!("{} {}", found.path, &project.files[found.path].text[found.range.clone()])
            }
        };
        assert_eq!(found, definition, "{by}");
    }
    let (project, _, offset) = calls("desk.yaml", "tool: search_kb", "tool: sea‸rch_kb");
    let why = rename(&project, "desk.yaml", offset, "find").unwrap_err();
    assert!(why.contains("tests"), "{why}");
}

/// The tests of the project of the calls; what a table makes of names is in two of them.
const TABLES: [(&str, &str); 2] = [
    (
        "tests/desk.test.yaml",
        "\
format: 1
tests: desk
cases:
  - name: \"it comes to {{ row.node }}\"
    table: [{node: fetch}]
    turns: [{user: Hello, expect: {path: [search, \"{{ row.node }}\"]}}]
",
    ),
    (
        "tests/legal.test.yaml",
        "\
format: 1
tests: legal
cases:
  - name: x
    table: [{node: ink}]
    turns: [{user: Hello, expect: {path: [\"th{{ row.node }}\"]}}]
",
    ),
];

/// Free texts name no nodes, and tests of a graph name none of the graphs that call it: a rename was refused by the
/// title of a case in the test of another graph.
#[test]
fn a_rename_is_refused_only_where_a_test_of_the_graph_may_hide_the_name() {
    let files: Vec<(&str, &str)> = CALLS.into_iter().chain(TABLES).collect();
    let project = || Project::new(PathBuf::from("/p"));
    let other = |path, piece, by| renamed(path, reworded(project(), &files, (path, piece, by)), "other");
    let all = other("desk.yaml", "start: search", "start: sea‸rch").unwrap();
    assert!(all.contains("start: other") && all.contains("path: [other,"), "{all}");
    let all = other("desk.yaml", "next: fetch", "next: fe‸tch").unwrap();
    assert!(all.contains("table: [{node: other}]") && all.contains("comes to {{ row.node }}"), "{all}");
    let why = other("legal.yaml", "start: think", "start: thi‸nk").unwrap_err();
    assert!(why.contains("line 6 of `tests/legal.test.yaml`"), "{why}");
}

/// A rename right after opening waits until the project is read; it was refused.
#[test]
fn a_rename_waits_until_its_project_is_read() {
    let root = std::env::temp_dir().join(format!("gl_{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir_all(root.join("prompts/chat")).unwrap();
    std::fs::create_dir_all(root.join("prompts/_partials")).unwrap();
    let files = [
        ("project.yaml", PROJECT),
        ("help.yaml", GRAPH),
        ("prompts/chat/classify.md", PROMPT),
        ("prompts/_partials/tone.md", "Be kind.\n"),
    ];
    for (path, text) in files {
        std::fs::write(root.join(path), text).unwrap();
    }
    let (jobs, todo) = std::sync::mpsc::channel();
    let (said, heard) = std::sync::mpsc::channel();
    let send = move |message| said.send(message).unwrap();
    let mut server = super::server::Server::new(Box::new(send), jobs, super::Functions::default());
    let mut tell = |message: serde_json::Value| {
        let message: lsp_server::Message = serde_json::from_value(message).unwrap();
        assert_eq!(server.hear(message), None);
    };
    let uri = format!("file://{}", root.join("help.yaml").display());
    let at = GRAPH.find("start: classify").unwrap() + 8;
    let line = GRAPH[..at].matches('\n').count();
    let character = at - GRAPH[..at].rfind('\n').unwrap() - 1;
    tell(json!({"id": 1, "method": "initialize", "params": {"capabilities": {}}}));
    let document = json!({"uri": uri, "languageId": "yaml", "version": 1, "text": GRAPH});
    tell(json!({"method": "textDocument/didOpen", "params": {"textDocument": document}}));
    tell(json!({"id": 2, "method": "textDocument/rename", "params": {
        "textDocument": {"uri": uri}, "position": {"line": line, "character": character}, "newName": "sort",
    }}));
    let answers = || -> Vec<serde_json::Value> {
        heard.try_iter().map(|message| serde_json::to_value(message).unwrap()).collect()
    };
    assert_eq!(answers().len(), 1, "only the first request is answered");
    server.start_checks(std::time::Instant::now());
    let job = todo.try_recv().expect("it is not put off until the editor is still");
    let providers = crate::compile::Providers::without_secrets().unwrap();
    server.adopt(check(job, &providers));
    std::fs::remove_dir_all(&root).unwrap();
    let answers = answers();
    let answer = answers.iter().find(|answer| answer["id"] == 2).unwrap_or_else(|| panic!("{answers:?}"));
    assert!(answer["result"]["changes"].is_object(), "{answer}");
}

/// Renames at `‸` and returns the changed files, or why not.
fn renamed(path: &str, (project, _, offset): (Project, String, usize), name: &str) -> Result<String, String> {
    let mut edits = rename(&project, path, offset, name)?;
    edits.sort_by_key(|(path, range)| (path.clone(), std::cmp::Reverse(range.start)));
    let mut texts = std::collections::BTreeMap::new();
    for (path, range) in edits {
        let text = texts.entry(path.clone()).or_insert_with(|| project.files[&path].text.to_string());
        text.replace_range(range, name);
    }
    Ok(texts.into_iter().map(|(path, text)| format!("--- {path}\n{text}")).collect())
}

#[test]
fn a_node_is_renamed_at_all_its_places() {
    let help = "help.yaml";
    let all = renamed(help, changed(help, "start: classify", "start: cl‸assify"), "sort").unwrap();
    let expected = GRAPH.replace("start: classify", "start: sort").replace("  classify:", "  sort:");
    assert_eq!(all, format!("--- help.yaml\n{expected}"), "the prompt keeps its name");
    let all = renamed("project.yaml", changed("project.yaml", "  Triage:", "  Tri‸age:"), "Sorted").unwrap();
    assert!(all.contains("  Sorted:") && all.contains("triage: Sorted") && all.contains("[Sorted]"), "{all}");
    let turns = renamed(help, changed(help, "state.turns", "state.tu‸rns"), "count").unwrap();
    assert!(turns.contains("  count: {type") && turns.contains("{{ state.count }}"), "{turns}");
}

#[test]
fn a_rename_that_is_not_sure_is_refused_with_a_reason() {
    let help = "help.yaml";
    for (piece, by, name, expected) in [
        ("start: classify", "start: cl‸assify", "answer", "there is a node `answer` already"),
        ("start: classify", "start: cl‸assify", "end", "this name is taken"),
        ("start: classify", "start: cl‸assify", "My Node", "write `my_node`"),
        ("start: classify", "start: some‸thing", "x", "there is no node `something`"),
        (
            "messages: messages",
            "mess‸ages: messages",
            "talk",
            "the input `messages` of prompt `chat/classify`",
        ),
        ("chat/classify", "chat/cl‸assify", "x", "rename the file"),
        ("input.topic", "input.to‸pic", "x", "an input is named by those who call"),
        ("{{ state.turns }}", "{{ state.tu‸rns }}{{ state | tojson }}", "x", "line 21 may read"),
        ("{{ state.turns }}", "{{ state.tu‸rns }}{{ state. }}", "x", "there is no name here"),
        ("{{ state.turns }}", "{{ state.tu‸rns }}", "hints", "the input `hints` of prompt"),
        ("triage.intent", "triage.int‸ent", "x", "fields of a type"),
    ] {
        let refused = renamed(help, changed(help, piece, by), name).unwrap_err();
        assert!(refused.contains(expected), "{by}: {refused}");
    }
    let broken =
        GRAPH.replace("start: classify", "start: cl‸assify").replace("next: end", "next: {all: [answer,");
    let refused = renamed(help, project(help, &broken), "x").unwrap_err();
    assert!(refused.contains("`help.yaml` cannot be read"), "{refused}");
    let (project, _, offset) = changed(help, "next: end", "next: en‸d");
    assert_eq!(prepare(&project, help, offset), None);
}

#[test]
fn no_text_and_no_place_is_too_odd() {
    let texts =
        [GRAPH, PROJECT, PROMPT, "{{[[", "- - -\n  :\n", "\u{feff}a: \"", "a: |\r\n", "🦀: {🦀: [🦀", "---"];
    for path in
        ["help.yaml", "project.yaml", "prompts/chat/classify.md", "prompts/_partials/tone.md", "x/y.txt"]
    {
        for text in texts {
            // Each beginning is what somebody who types it has.
            for end in (0..=text.len()).step_by(7).map(|end| text.floor_char_boundary(end)) {
                let (project, text, _) = project(path, &text[..end]);
                for offset in [0, end / 2, end].map(|at| text.floor_char_boundary(at)) {
                    let at = At { project: &project, path, text: &text, offset };
                    let (_, replaced) = complete(at);
                    assert!(text.get(replaced).is_some());
                    hover(at);
                    let _refused = rename(&project, path, offset, "x");
                }
            }
        }
    }
}

#[test]
fn a_project_is_checked_with_what_is_open_in_the_place_of_what_is_stored() {
    let root = std::env::temp_dir().join(format!("gl_{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir_all(root.join("prompts")).unwrap();
    for (path, content) in [
        ("project.yaml", PROJECT.as_bytes().to_vec()),
        ("help.yaml", b"format: 1\n\xff\xfe".to_vec()),
        ("stored.yaml", b"format: 9".to_vec()),
        ("huge.yaml", b"# x\n".repeat(300_000)),
        ("prompts/a.md", b"{{ x }}\n".to_vec()),
    ] {
        std::fs::write(root.join(path), content).unwrap();
    }
    let open = [("stored.yaml", "format: 1\n🦀: x\n"), ("new.yaml", "{[")];
    let open = open.map(|(path, text)| (path.to_owned(), text.into())).into();
    let providers = crate::compile::Providers::without_secrets().unwrap();
    let checked = check(Job { root: root.clone(), open, change: 7 }, &providers);
    let codes = |path: &str| {
        let found = checked.findings.get(&root.join(path)).map(Vec::as_slice).unwrap_or_default();
        let code = |found: &gen_lsp_types::Diagnostic| match &found.code {
            Some(gen_lsp_types::Code::String(code)) => code.clone(),
            _ => String::new(),
        };
        found.iter().map(code).collect::<Vec<_>>().join(" ")
    };
    let found: BTreeMap<&str, String> =
        ["project.yaml", "help.yaml", "stored.yaml", "huge.yaml", "new.yaml", "prompts/a.md"]
            .map(|path| (path, codes(path)))
            .into();
    std::fs::remove_dir_all(&root).unwrap();
    let expected = [
        ("project.yaml", ""),
        ("help.yaml", "Y007"),
        ("stored.yaml", "G102"),
        ("huge.yaml", "Y007"),
        ("new.yaml", "Y001"),
        ("prompts/a.md", "T302"),
    ];
    assert_eq!(found, expected.map(|(path, codes)| (path, codes.to_owned())).into());
    assert_eq!(checked.change, 7);
    assert!(checked.files["project.yaml"].1.is_some() && checked.files["help.yaml"].1.is_none());
}
