//! Types that contain themselves: wherever types are used, and nowhere without an end.

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, Severity};
use graphloom::spec::{Files, load_files};
use serde_json::{Value as Json, json};

use crate::support::process::{Folder, binary};

const TYPES: &str = "  Tree:
    value: {type: integer, max: 9}
    children: {type: [Tree], default: []}
  Folder: {name: string, files: [File], above: 'Folder?'}
  File: {name: string, within: Above, tags: Tags}
  Above: {type: Folder, optional: true}
  Tags: {type: [Tags], default: []}
";

const GRAPH: &str = r#"format: 1
input: {tree: Tree, folder: Above}
state:
  messages: messages
  tree: Tree
  forest: {type: [Tree], merge: append}
  files: {type: [File], merge: append}
  values: {type: [integer], merge: append}
start: think
nodes:
  think: {kind: llm, text: Make a tree., output: Tree, into: tree, next: keep}
  keep:
    kind: set
    set:
      forest: "state.tree.children + [input.tree, {'value': 7, 'children': [state.tree]}]"
      files: input.folder.files if input.folder is not none else []
    next: each
  each:
    kind: map
    over: state.forest
    as: tree
    do: {kind: llm, text: "{{ tree.children | length }}", output: integer}
    into: values
    next: plant
  plant:
    kind: tool
    tool: plant
    with: {tree: "state.forest | last | default(state.tree)"}
    into: {values: result.children | length}
    next: look
  look: {kind: ask, question: Which tree?, who: agent, schema: Tree, into: forest, next: tell}
  tell:
    kind: say
    text: "{% for t in state.forest %}{{ t.value }}:{{ t.children | map(attribute='value') | join(',') }} {% endfor %}"
    next: end
output:
  forest: state.forest
  files: state.files
  values: state.values
  first: (state.forest | first | default(state.tree)).children
  loose: "input.folder is none or (input.folder.files | first | default({'within': none})).within is none"
"#;

fn project() -> String {
    format!(
        "format: 1\nmodels: {{m: {{provider: demo}}}}\ndefault_model: m\n\
         hosts: {{allow: [x.example.com]}}\n\
         tools: {{plant: {{http: {{method: GET, url: 'https://x.example.com/{{{{ args.tree.value }}}}'}}, args: {{tree: Tree}}, result: Tree}}}}\ntypes:\n{TYPES}"
    )
}

const CASES: &str = "\
format: 1
tests: wood
given: {input: {tree: {value: 1}}}
cases:
  - name: a tree grows
    turns:
      - user: Go
        script:
          think: {output: {value: 2, children: [{value: 3, children: [{value: 4}]}]}}
          each: {items: [{output: 0}, {output: 1}, {output: 2}]}
          plant: {result: {value: 5, children: [{value: 6}, {value: 7}]}}
        expect: {paused_at: look, state: {values: [0, 1, 2, 2]}}
      - answer: {value: 8, children: [{value: 9}]}
        expect: {reply: '3:4 1: 7:2 8:9 '}
";

fn found(files: &[(&str, &str)]) -> Vec<String> {
    let mut bag = Bag::default();
    let files: Files =
        files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
    let folder = load_files("", files, &mut bag);
    compile(&folder, &Providers::lenient(Box::new(|_| None)).unwrap(), &mut bag);
    bag.sort();
    let shown = |f: &graphloom::diagnostic::Diagnostic| {
        let place = bag.place(f.label.span);
        format!("{} {}:{} {}", f.code, place.line, place.column, f.label.text)
    };
    let errors = bag.findings().iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(shown).collect()
}

#[test]
fn a_graph_of_trees_is_checked_run_and_described() {
    let folder = Folder::new();
    folder.write("graphs/project.yaml", &project());
    folder.write("graphs/wood.yaml", GRAPH);
    std::fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    folder.write("graphs/tests/wood.test.yaml", CASES);
    let run = |arguments: &[&str]| {
        let output = binary(&folder).args(arguments).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, printed, told) = run(&["test"]);
    assert_eq!(code, Some(0), "{printed}{told}");

    // The document says what a tree is once, and a validator takes and refuses what the engine does.
    let (code, document, told) = run(&["openapi", "--with-graphs"]);
    assert_eq!(code, Some(0), "{told}");
    let document: Json = serde_json::from_str(&document).unwrap();
    let schemas = &document["components"]["schemas"];
    let tree = json!({"$ref": "#/components/schemas/Graph_wood_Type_Tree"});
    assert_eq!(schemas["Graph_wood_State"]["properties"]["tree"], tree);
    assert_eq!(schemas["Graph_wood_Type_Tree"]["properties"]["children"]["items"], tree);
    assert_eq!(schemas["Graph_wood_Input"]["properties"]["folder"]["nullable"], true);
    let schema =
        json!({"components": document["components"], "$ref": "#/components/schemas/Graph_wood_Input"});
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (input, fits) in [
        (json!({"tree": {"value": 1}}), true),
        (json!({"tree": {"value": 1, "children": [{"value": 2, "children": [{"value": 3}]}]}}), true),
        (json!({"tree": {"value": 1, "children": [{"value": 2, "children": [{"value": 10}]}]}}), false),
        (json!({"tree": {"value": 1, "children": [{"children": []}]}}), false),
        (
            json!({"tree": {"value": 1}, "folder": {"name": "a", "files": [{"name": "b", "tags": [[], [[]]]}]}}),
            true,
        ),
        (
            json!({"tree": {"value": 1}, "folder": {"name": "a", "files": [{"name": "b", "tags": [[], [1]]}]}}),
            false,
        ),
    ] {
        assert_eq!(validator.is_valid(&input), fits, "{input}");
        let wanted = format!("tree={}", input["tree"]);
        let given = format!("folder={}", input["folder"]);
        let (_, _, told) = run(&["chat", "wood", "--message", "Go", "--input", &wanted, "--input", &given]);
        assert_eq!(!told.contains("does not take this"), fits, "{input}: {told}");
    }
}

#[test]
fn a_mistake_within_a_type_that_contains_itself_is_found_at_its_place() {
    for (types, graph, expected) in [
        ("A: {b: B}, B: {a: A}", "", "S409 3:4 a value of it would have no end"),
        ("A: B, B: 'A?'", "", "S409 3:4 it is nothing but itself"),
        ("A: {n: {type: 'A?', default: {}}}", "", "S408 3:33 leaves out the field that it is the default of"),
        (
            "A: {n: 'A?', x: {type: [A], default: [{n: 1}]}}",
            "",
            "S408 3:41 expected an object, found an integer",
        ),
        ("A: {v: string, all: [A], b: Bee}", "", "S409 3:32 no type has this name"),
        (
            "A: {v: string, all: [A]}",
            "a: {kind: set, set: {x: 'state.x.all[0].all[0].w'}, next: end}",
            "S402 6:51 this is {v: string, all: [A]}",
        ),
        (
            "A: {v: string, all: [A]}",
            "a: {kind: set, set: {x: {v: \"'a'\", all: [{v: \"'b'\", all: [{v: 1, all: []}]}]}}, next: end}",
            "S403 6:66 this is integer",
        ),
        (
            "A: {v: string, all: [A]}",
            "a: {kind: say, text: '{{ state.x }}', next: end}",
            "T308 6:29 this is {v: string, all: [A]}",
        ),
        (
            "A: {v: string, all: [A]}",
            "a: {kind: set, set: {x: state.x.all}, next: end}",
            "S403 6:28 this is [A]",
        ),
        // The shapes are the same, whatever they are called.
        (
            "A: {v: string, all: [A]}, B: {v: string, all: [B]}",
            "a: {kind: set, set: {x: state.y}, next: end}",
            "",
        ),
        (
            "A: {v: string, all: [A]}, B: {v: integer, all: [B]}",
            "a: {kind: set, set: {x: state.y}, next: end}",
            "S403 6:28 the field `v` is integer, not string",
        ),
    ] {
        let project = format!("format: 1\ntypes:\n  {{{types}}}\n");
        let default = "{type: A, default: {v: a, all: []}}";
        let y = if types.contains("B: {v") { ", y: {type: B, default: {v: a, all: []}}" } else { "" };
        let y = if types.contains("integer") { ", y: {type: B, default: {v: 1, all: []}}" } else { y };
        let state = if graph.is_empty() { "x: 'A?'".to_owned() } else { format!("x: {default}{y}") };
        let nodes = if graph.is_empty() { "a: {kind: set, set: {x: none}, next: end}" } else { graph };
        let text = format!(
            "format: 1\nstate:\n  {{messages: messages, {state}}}\nstart: a\nnodes:\n  {{{nodes}}}\n"
        );
        let found = found(&[("project.yaml", &project), ("g.yaml", &text)]);
        assert_eq!(found.join("; "), expected, "{types}\n{text}");
    }
}
