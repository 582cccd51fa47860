//! What is known of values that no name of the project stands for, and of what servers and host programs say.

use std::sync::Arc;

use super::*;
use crate::compile::{Providers, functions};
use crate::tool::custom::Registry;

const FILES: [(&str, &str); 6] = [
    (
        "project.yaml",
        "\
format: 1
tools:
  open_ticket: {custom: \"tickets::open\"}
  search_kb: {description: Searches., http: {url: \"https://kb.example.com/\"}, result: {pages: [Hit], total: integer}}
mcp: {docs: {url: \"https://mcp.example.com/mcp\"}}
types:
  Hit: {title: string, score: {type: number, description: How near it is.}}
",
    ),
    (
        "mcp/docs.json",
        r#"{"format": 1, "tools": {"search": {
  "description": "Searches the manual.",
  "inputSchema": {"type": "object", "properties": {
    "query": {"type": "string", "description": "Words to look for."},
    "limit": {"type": "integer"}}, "required": ["query"]},
  "outputSchema": {"type": "object", "properties": {"found": {"type": "boolean"}}, "required": ["found"]}}}}
"#,
    ),
    (
        "desk.yaml",
        "\
format: 1
input: {topic: string}
state: {messages: messages, hits: [Hit], page: any, note: Hit}
start: ask
nodes:
  ask: {kind: tool, tool: docs.search, with: {query: run.user_text}, into: {page: result.found}, next: find}
  find: {kind: tool, tool: search_kb, into: {hits: result.pages}, emit: {all: result.total}, next: each}
  each:
    kind: map
    over: state.hits
    do: {kind: tool, tool: docs.search, with: {query: item.title, limit: index + 1}}
    next: named
  named:
    kind: map
    over: state.note.all
    as: part
    do: {kind: llm, text: \"{{ part | tojson }}\"}
    next: weigh
  weigh: {kind: custom, use: \"words::weigh\", with: {word: input.topic}, into: {page: result.grams}, next: kid}
  kid: {kind: graph, use: kid, into: {page: result.last}, next: triage}
  triage: {kind: llm, text: Sort., output: Hit, into: {note: result}, next: choose}
  choose: {kind: ask, question: Which?, options: [a, b], into: {page: result}, next: say}
  say: {kind: say, text: \"{% for h in state.hits %}{{ h.title }}{% endfor %}\", next: end}
",
    ),
    (
        "kid.yaml",
        "\
format: 1
state: {messages: messages, last: Hit, secret: {type: string, private: true, default: ''}}
start: think
nodes:
  think: {kind: llm, text: Think., output: Hit, into: last, next: end}
",
    ),
    (
        "prompts/sum.md",
        "\
---
inputs: {hits: [Hit]}
---
{% for h in hits %}{{ h.title | upper }}{% endfor %}
",
    ),
    ("prompts/_partials/tone.md", "Be kind.\n"),
];

/// What a host program says of its functions.
const REGISTERED: &str = r#"{"format": 1, "custom": {
  "tickets::open": {"args": {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]},
                    "result": {"type": "string"}},
  "words::weigh": {"args": {"type": "object", "properties": {"word": {"type": "string", "description": "One word."}},
                            "required": ["word"]},
                   "result": {"type": "object", "properties": {"grams": {"type": "number"}}, "required": ["grams"]}}}}"#;

/// Returns the project with a piece of a file in other words, and the place of `‸`.
fn values(path: &str, piece: &str, by: &str) -> (Project, String, usize) {
    let registry = Registry::from_json(REGISTERED).unwrap();
    let providers = Providers::without_secrets().unwrap().with_registry(Some(registry));
    let functions = Arc::new(functions(&providers));
    let project = || Project { functions: Arc::clone(&functions), ..Project::new(PathBuf::from("/p")) };
    let mut sound = project();
    for (name, text) in FILES {
        sound.files.entry(name.to_owned()).or_default().set(text.into(), true);
        sound.settle();
        assert!(name.starts_with("prompts/_") || sound.files[name].is_sound(), "{name}");
    }
    reworded(project(), &FILES, (path, piece, by))
}

#[test]
fn values_of_nodes_and_lists_are_offered_with_their_fields() {
    let desk = "desk.yaml";
    for (path, piece, by, expected) in [
        (desk, "query: item.title", "query: item.‸", "title score"),
        (desk, "query: item.title", "query: ‸", "state input run item index"),
        (desk, "{{ part |", "{{ ‸ |", "state input run part index"),
        (desk, "{page: result.found}", "{page: result.‸}", "found"),
        (desk, "{hits: result.pages}", "{hits: result.‸}", "pages total"),
        (desk, "{all: result.total}", "{all: result.‸}", "pages total"),
        (desk, "{page: result.grams}", "{page: result.‸}", "grams"),
        (desk, "{page: result.last}", "{page: result.‸}", "last"),
        (desk, "{note: result}", "{note: result.‸}", "title score"),
        (desk, "{{ h.title }}", "{{ h.‸ }}", "title score"),
        // What a host program has registered.
        ("project.yaml", "\"tickets::open\"", "‸", "tickets::open words::weigh"),
        (desk, "use: \"words::weigh\"", "use: ‸", "tickets::open words::weigh"),
        (desk, "{word: input.topic}", "{‸}", "word"),
        (desk, "tool: search_kb,", "tool: open_ticket, with: {‸},", "subject"),
        (desk, "{query: run.user_text}", "{‸}", "query limit"),
    ] {
        let found = offers(path, values(path, piece, by));
        let all = found == expected || (by.contains("‸ ") || by == "query: ‸") && found.starts_with(expected);
        assert!(all, "{by}: {found}");
    }
    // A name with a sign in it is replaced as a whole.
    for (path, piece, by, label, typed) in [
        (
            desk,
            "tool: docs.search, with: {query: run",
            "tool: docs.se‸, with: {query: run",
            "docs.search",
            "docs.se",
        ),
        ("project.yaml", "\"tickets::open\"", "\"tickets::o‸\"", "tickets::open", "tickets::o"),
        (desk, "into: {hits: result.pages}", "into: {hits: result.pa‸}", "pages", "pa"),
    ] {
        let (project, text, offset) = values(path, piece, by);
        let (offers, replaced) = complete(At { project: &project, path, text: &text, offset });
        assert!(offers.iter().any(|offer| offer.label == label), "{by}: {offers:?}");
        assert_eq!(&text[replaced], typed, "{by}");
    }
    let (project, text, offset) = values(desk, "{query: run.user_text}", "{‸}");
    let (found, _) = complete(At { project: &project, path: desk, text: &text, offset });
    let told = |n: usize| (found[n].detail.as_deref(), found[n].doc.as_deref());
    assert_eq!(told(0), (Some("string"), Some("Words to look for.")));
}

#[test]
fn values_are_explained_and_lead_to_their_types() {
    let desk = "desk.yaml";
    for (path, piece, by, said, definition) in [
        (desk, "item.title", "item.ti‸tle", "**value** `item.title`: `string`", "project.yaml title"),
        (desk, "item.title", "it‸em.title", "**value** `item`: `{title: string, score: number}`", ""),
        (desk, "index + 1", "ind‸ex + 1", "**value** `index`: `integer`", ""),
        (desk, "result.pages", "result.pa‸ges", "**value** `result.pages`: `[", ""),
        (desk, "run.user_text", "run.user_te‸xt", "The text of the new turn of the user", ""),
        (desk, "| tojson", "| toj‸son", "**filter** `tojson", ""),
        (desk, "{{ h.title", "{{ h.ti‸tle", "**value** `h.title`: `string`", "project.yaml title"),
        (
            desk,
            "options: [a, b], into: {page: result}",
            "options: [a, b], into: {page: re‸sult}",
            "`enum(a, b)`",
            "",
        ),
        ("prompts/sum.md", "h.title", "h.ti‸tle", "**value** `h.title`: `string`", "project.yaml title"),
        ("prompts/sum.md", "h.title", "h‸.title", "`{title: string, score: number}`", "prompts/sum.md hits"),
        (
            desk,
            "tool: docs.search",
            "tool: docs.sea‸rch",
            "`{query: string, limit: integer?}`\n\nSearches the manual.",
            "mcp/docs.json search",
        ),
        (
            desk,
            "with: {query: run",
            "with: {que‸ry: run",
            "**argument** `docs.search.query`: `string`\n\nWords to look for.",
            "mcp/docs.json query",
        ),
    ] {
        let (project, text, offset) = values(path, piece, by);
        let at = At { project: &project, path, text: &text, offset };
        let (hovered, _) = hover(at).unwrap_or_default();
        assert!(hovered.contains(said), "{by}: {hovered}");
        let mark = project.files[path].mark_at(offset).map(|(mark, _)| mark.symbol.clone());
        let found = mark.or_else(|| at.meant()).and_then(|symbol| project.definition(&symbol));
        let told = found
            .map(|found| format!("{} {}", found.path, &project.files[found.path].text[found.range.clone()]));
        if !definition.is_empty() {
            assert_eq!(told.as_deref(), Some(definition), "{by}");
        }
    }
}
