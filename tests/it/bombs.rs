//! Small things that a careless reader makes large: each is refused, at its place, or is taken as what it is. What they
//! cost is measured in `benches/README.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::Bag;
use graphloom::spec::{Files, load, load_files};

const PROJECT: &str = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n";

/// Returns what is found in a project as `CODE file:line:column`, each code and file once.
fn found(files: &[(&str, String)]) -> Vec<String> {
    let mut bag = Bag::default();
    let files: Files =
        files.iter().map(|(path, text)| ((*path).to_owned(), text.clone().into_bytes())).collect();
    let folder = load_files("", files, &mut bag);
    compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
    shown(bag)
}

fn shown(mut bag: Bag) -> Vec<String> {
    bag.sort();
    let mut told: Vec<(&str, &str)> = Vec::new();
    let mut shown = Vec::new();
    for finding in bag.findings() {
        let (path, place) = (bag.source(finding.label.span.file).0, bag.place(finding.label.span));
        if !told.contains(&(finding.code, path)) {
            told.push((finding.code, path));
            shown.push(format!("{} {path}:{}:{}", finding.code, place.line, place.column));
        }
    }
    shown
}

/// A graph that says a text by a prompt.
fn graph_of_prompt() -> String {
    "format: 1\nstate: {messages: messages}\nstart: a\nnodes:\n  a: {kind: llm, prompt: p, reply: true, next: end}\n".to_owned()
}

/// A graph with an expression, on line 4.
fn graph_of_expression(expression: &str) -> String {
    format!(
        "format: 1\nstate: {{messages: messages, x: {{type: any, default: 1}}}}\nstart:\n  - when: >-\n      {expression}\n    to: a\n  - else: a\nnodes:\n  \
         a: {{kind: say, text: Hi., next: end}}\n"
    )
}

#[test]
fn a_file_that_is_nested_too_deeply_is_refused_where_it_begins_to_be() {
    let n = 10_000;
    let stairs: String = (0..1_000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    let dashes: String = (0..1_000).map(|depth| format!("{}-\n", " ".repeat(depth))).collect();
    for (what, text) in [
        ("lists", "[".repeat(n)),
        ("maps", "{a: ".repeat(n)),
        ("both", "[{a: ".repeat(n)),
        ("closed lists", "[".repeat(n) + &"]".repeat(n)),
        ("keys", "{[".repeat(n)),
        ("dashes", "- ".repeat(n)),
        ("question marks", "? ".repeat(n)),
        ("dashes and keys", "- a:\n  ".to_owned() + &"- ".repeat(n)),
        ("stairs of keys", stairs),
        ("stairs of dashes", dashes),
    ] {
        for (path, before) in
            [("chat.yaml", ""), ("project.yaml", ""), ("tests/a.test.yaml", ""), ("prompts/p.md", "---\n")]
        {
            let after = if before.is_empty() { "" } else { "\n---\nHi.\n" };
            let found = found(&[(path, format!("{before}{text}{after}"))]);
            assert!(
                found.len() == 1 && found[0].starts_with(&format!("Y007 {path}:")),
                "{what} in {path}: {found:?}"
            );
        }
    }
}

#[test]
fn no_alias_and_no_anchor_is_followed() {
    let mut text = String::from("x-a: &a [x, x, x, x, x, x, x, x, x]\n");
    for (from, to) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        let _ok = writeln!(text, "x-{to}: &{to} [{}*{from}]", format!("*{from}, ").repeat(8));
    }
    for (text, expected) in [
        (text, "Y005 chat.yaml:1:6"),
        ("x-a: &a [*a]\n".to_owned(), "Y005 chat.yaml:1:6"),
        ("x-a: *b\n".to_owned(), "Y005 chat.yaml:1:6"),
        ("x-a: {<<: *b}\n".to_owned(), "Y005 chat.yaml:1:11"),
        (format!("x-a: [{}]\n", "&a x, ".repeat(100_000)), "Y005 chat.yaml:1:7"),
    ] {
        assert_eq!(found(&[("chat.yaml", text)]), [expected]);
    }
}

#[test]
fn json_that_is_nested_too_deeply_is_refused_at_its_place() {
    for text in [
        "[".repeat(10_000),
        "{\"items\": ".repeat(10_000),
        "{\"items\": ".repeat(10_000) + "{}" + &"}".repeat(10_000),
    ] {
        let graph = graph_of_expression("state.x is none")
            .replace("type: any, default: 1", "schema: schemas/a.json, optional: true");
        let found = found(&[("chat.yaml", graph), ("schemas/a.json", text)]);
        assert!(found.len() == 1 && found[0].starts_with("S410 schemas/a.json:1:"), "{found:?}");
    }
}

/// Ways to put an expression into another one: `X` is the inner one.
const AROUND: &[&str] = &[
    "(X)",
    "[X]",
    "not X",
    "-X",
    "X + 1",
    "1 + X",
    "X ~ 'a'",
    "'a' ~ X",
    "X * 2",
    "2 ** X",
    "X | string",
    "X | default('a')",
    "'a' | default(X)",
    "(X | default('a')) | default('b')",
    "X if state.x else 1",
    "1 if X else 2",
    "1 if state.x == 1 else X",
    "1 if (X if X else X) else 2",
    "{'a': X}",
    "{X: 1}",
    "X.a",
    "X['a']",
    "[1][X]",
    "X and true",
    "true and X",
    "(X and X)",
    "X or true",
    "(X or X)",
    "not (X and true)",
    "X == 1",
    "1 < X",
    "X < 1 < 2",
    "1 in [X]",
    "X in [1]",
    "X is defined",
    "X is none",
    "(X is none) or (X is defined)",
    "range(X)",
    "dict(a=X)",
    "X[1:2]",
    "[1, 2][X:X]",
    "[X] | map('string') | list",
    "X | map(attribute=X)",
    "(X == 1 and X != 2)",
];

/// Puts an expression into itself, up to a length.
fn nested(around: &str, depth: usize, longest: usize) -> String {
    let mut text = "state.x".to_owned();
    for _ in 0..depth {
        let next = around.replace('X', &text);
        if next.len() > longest {
            break;
        }
        text = next;
    }
    text
}

/// Whatever is put into whatever, as deep as its length allows: it is refused at its place or taken, before anybody
/// notices and on a stack of 2 MiB, as threads have it.
#[test]
fn an_expression_that_is_nested_deeply_is_refused_or_taken() {
    for around in AROUND {
        for depth in [30, 62, 100, 100_000] {
            let text = nested(around, depth, 8_000);
            for finding in found(&[("chat.yaml", graph_of_expression(&text))]) {
                assert!(
                    finding.contains(" chat.yaml:5:") || finding.contains(" chat.yaml:4:"),
                    "{around} × {depth}: {finding}"
                );
            }
            let prompt =
                format!("Hi {{{{ {text} }}}} {{% if {text} %}}x{{% endif %}}\n").replace("state.x", "x");
            let prompt = format!("---\ninputs: {{x: any}}\n---\n{prompt}");
            let graph = graph_of_prompt().replace("prompt: p,", "prompt: p, with: {x: 1},");
            let files =
                [("chat.yaml", graph), ("project.yaml", PROJECT.to_owned()), ("prompts/p.md", prompt)];
            for finding in found(&files) {
                assert!(finding.contains(" prompts/p.md:4:"), "{around} × {depth}: {finding}");
            }
        }
    }
    for sign in [
        "(",
        "[",
        "{",
        "{1:",
        "not ",
        "-",
        "x[",
        "f(",
        "x.",
        "x|",
        "x|f(",
        "1 if ",
        "1 if x else ",
        "'",
        "\"",
        "~",
        "1+",
    ] {
        let text = sign.repeat(8_000 / sign.len());
        let found = found(&[("chat.yaml", graph_of_expression(&text))]);
        assert!(found.len() == 1 && found[0].starts_with('E'), "{sign}: {found:?}");
    }
    let text = "1+".repeat(100_000) + "1";
    assert_eq!(found(&[("chat.yaml", graph_of_expression(&text))]), ["E101 chat.yaml:5:7"]);
}

#[test]
fn blocks_of_a_template_that_are_nested_too_deeply_are_refused() {
    let n = 10_000;
    for (open, close) in [
        ("{% if true %}", "{% endif %}"),
        ("{% for x in [] %}", "{% endfor %}"),
        ("{% filter upper %}", "{% endfilter %}"),
        ("{% set x %}", "{% endset %}"),
        ("{% with x = 1 %}", "{% endwith %}"),
        ("{% macro m() %}", "{% endmacro %}"),
        ("{% call m() %}", "{% endcall %}"),
        ("{% block a %}", "{% endblock %}"),
        ("{% if true %}{% elif true %}", "{% endif %}"),
        ("{% if true %}{% else %}", "{% endif %}"),
        ("{% if true %}{% endif %}{% elif true %}", ""),
        ("{{", "}}"),
        ("{%", "%}"),
        ("{#", ""),
        ("{% raw %}", "{% endraw %}"),
    ] {
        for text in [open.repeat(n), format!("{}Hi.{}\n", open.repeat(n), close.repeat(n))] {
            let files = [
                ("chat.yaml", graph_of_prompt()),
                ("project.yaml", PROJECT.to_owned()),
                ("prompts/p.md", text),
            ];
            let found = found(&files);
            let fine = found.iter().all(|f| f.starts_with("T30") && f.contains(" prompts/p.md:"));
            assert!(fine && !found.is_empty(), "{open}: {found:?}");
        }
    }
    let elif = format!("{{% if true %}}{}{{% endif %}}", "{% elif true %}".repeat(n));
    let files =
        [("chat.yaml", graph_of_prompt()), ("project.yaml", PROJECT.to_owned()), ("prompts/p.md", elif)];
    let found = found(&files);
    assert!(found.len() == 1 && found[0].starts_with("T301 prompts/p.md:1:"), "{found:?}");
}

/// What a partial includes is bounded, however it is put together.
#[test]
fn includes_that_grow_or_lead_back_are_refused_where_they_are_written() {
    let include = |n: usize| format!("{{% include \"_partials/p{n}.md\" %}}");
    let partials = |count: usize, text: &dyn Fn(usize) -> String| -> Vec<(String, String)> {
        (0..count).map(|n| (format!("prompts/_partials/p{n}.md"), text(n))).collect()
    };
    for (what, partials, expected) in [
        ("itself", partials(1, &|_| include(0)), "T305 prompts/_partials/p0.md:1:12"),
        ("a circle", partials(3, &|n| include((n + 1) % 3)), "T305 prompts/_partials/p0.md:1:12"),
        (
            "a chain",
            partials(5_000, &|n| if n < 4_999 { include(n + 1) } else { "x".into() }),
            "T305 prompts/_partials/p",
        ),
        (
            "twice each",
            partials(30, &|n| if n < 29 { include(n + 1).repeat(2) } else { "x".into() }),
            "T305 prompts/_partials/p",
        ),
        (
            "each all after it",
            partials(300, &|n| (n + 1..300).map(include).collect()),
            "T305 prompts/_partials/p",
        ),
        ("a long circle", partials(5_000, &|n| include((n + 1) % 5_000)), "T305 prompts/_partials/p"),
    ] {
        let mut files = vec![("chat.yaml", graph_of_prompt()), ("project.yaml", PROJECT.to_owned())];
        files.push(("prompts/p.md", format!("Hi. {}", include(0))));
        files.extend(partials.iter().map(|(path, text)| (path.as_str(), text.clone())));
        let found = found(&files);
        assert!(found.first().is_some_and(|first| first.starts_with(expected)), "{what}: {found:?}");
        assert!(found.iter().all(|f| f.starts_with("T305")), "{what}: {found:?}");
    }
}

/// What a graph calls is stored with it, and the engine goes only so deep.
#[test]
fn a_long_chain_of_graphs_is_refused() {
    let graph = |next: usize, last: usize| {
        let node = if next < last { format!("kind: graph, use: g{next}") } else { "kind: route".to_owned() };
        format!("format: 1\nstart: a\nnodes:\n  a: {{{node}, next: end}}\n")
    };
    for (links, expected) in
        [(17, Vec::new()), (18, vec!["G214 g0.yaml:4:25"]), (3_000, vec!["G214 g2982.yaml:4:25"])]
    {
        let names: Vec<String> = (0..links).map(|n| format!("g{n}.yaml")).collect();
        let files: Vec<(&str, String)> =
            names.iter().enumerate().map(|(n, name)| (name.as_str(), graph(n + 1, links))).collect();
        assert_eq!(found(&files), expected, "{links}");
    }
}

/// What was meant is looked for among all names: once for each name that is told, not for each that is wrong.
#[test]
fn thousands_of_unknown_names_are_told_as_a_few_are() {
    let nodes: String = (0..9_990).map(|n| format!("  n{n}: {{kind: route, next: x{n}}}\n")).collect();
    assert_eq!(
        found(&[("chat.yaml", format!("format: 1\nstart: n0\nnodes:\n{nodes}"))]),
        ["G201 chat.yaml:4:27"]
    );
    let channels: String = (0..5_000).map(|n| format!("  c{n}: string?\n")).collect();
    let reads: String = (0..20_000).map(|n| format!(" {{{{ state.x{n} }}}}")).collect();
    let nodes = format!("start: a\nnodes:\n  a: {{kind: say, text: \"{reads}\", next: end}}\n");
    let graph = format!("format: 1\nstate:\n  messages: messages\n{channels}{nodes}");
    assert_eq!(found(&[("chat.yaml", graph)]), ["S401 chat.yaml:5006:29"]);
}

/// A table of cases multiplies what is written.
#[test]
fn a_table_that_fills_in_too_much_is_refused() {
    let test = |rows: String, turns: &str| {
        format!("format: 1\ntests: chat\ncases:\n  - name: a\n    table:\n{rows}    turns:\n{turns}")
    };
    let rows: String = (0..5_000).map(|n| format!("      - {{a: {n}}}\n")).collect();
    let turns = "      - {user: \"{{ row.a }}\"}\n".repeat(5_000);
    let long = format!("      - {{a: {}}}\n", "x".repeat(400_000));
    let often = format!("      - {{user: \"{}\"}}\n", "{{ row.a }}".repeat(40_000));
    for text in [test(rows, &turns), test(long, &often)] {
        let files = [
            ("chat.yaml", graph_of_prompt()),
            ("project.yaml", PROJECT.to_owned()),
            ("prompts/p.md", "Hi.\n".into()),
        ];
        let mut files = files.to_vec();
        files.push(("tests/chat.test.yaml", text));
        assert_eq!(found(&files), ["Y007 tests/chat.test.yaml:5:5"]);
    }
}

/// A folder of a test, gone when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("graphloom-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Returns what is found, with places that do not depend on where the folder is.
    fn found(&self) -> Vec<String> {
        let mut bag = Bag::default();
        if let Some(folder) = load(&self.0, &mut bag) {
            compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
        }
        let shown = shown(bag);
        shown.into_iter().map(|f| f.replace(&format!("{}/", self.0.display()), "")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_huge_file_of_any_sort_is_refused_before_it_is_read() {
    for path in [
        "chat.yaml",
        "project.yaml",
        "prompts/a.md",
        "prompts/_partials/a.md",
        "schemas/a.json",
        "tests/a.test.yaml",
    ] {
        let folder = Folder::new(&format!("large-{}", path.replace('/', "-")));
        let file = folder.0.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::File::create(&file).unwrap().set_len(100 * 1024 * 1024).unwrap();
        assert_eq!(folder.found(), [format!("Y007 {path}:1:1")]);
    }
}

#[cfg(unix)]
#[test]
fn links_that_lead_in_circles_or_outside_are_refused() {
    use std::os::unix::fs::symlink;
    let link = |folder: &Path, at: &str, to: &str| {
        let at = folder.join(at);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        symlink(to, at).unwrap();
    };
    let folder = Folder::new("link-out");
    link(&folder.0, "chat.yaml", "/dev/zero");
    link(&folder.0, "prompts/etc", "/etc");
    assert_eq!(folder.found(), ["T305 chat.yaml:1:1", "T305 prompts/etc:1:1"]);

    let folder = Folder::new("link-circle");
    link(&folder.0, "prompts/a", ".");
    link(&folder.0, "prompts/b", ".");
    assert_eq!(folder.found(), ["T305 prompts/a:1:1", "T305 prompts/b:1:1"]);

    // Each folder leads to the next by two ways.
    let folder = Folder::new("link-double");
    for n in 0..16 {
        link(&folder.0, &format!("prompts/d{n}/a"), &format!("../d{}", n + 1));
        link(&folder.0, &format!("prompts/d{n}/b"), &format!("../d{}", n + 1));
    }
    fs::create_dir_all(folder.0.join("prompts/d16")).unwrap();
    let found = folder.found();
    assert!(found.len() == 1 && found[0].starts_with("M516 prompts/"), "{found:?}");
}
