//! Tests of graphs, as an editor sees them.

use super::*;

const PROJECT: &str = "\
format: 1
models: {demo: {provider: demo}}
default_model: demo
tools:
  search_kb: {description: Searches., http: {url: \"https://kb.example.com/\"}, args: {query: string}}
";

const DESK: &str = "\
format: 1
input: {topic: string}
state: {messages: messages, hits: any, all: [string]}
output: [hits]
start: find
nodes:
  find: {kind: tool, tool: search_kb, with: {query: input.topic}, into: hits, next: {all: [call, each]}}
  call: {kind: graph, use: kid, into: {hits: result.said}, next: answer}
  each: {kind: map, over: state.all, do: {kind: graph, use: kid}, next: answer}
  answer: {kind: llm, text: Help., tools: [search_kb], reply: true, next: end}
";

const KID: &str = "\
format: 1
state: {said: any}
output: {said: state.said}
start: think
nodes:
  think: {kind: llm, text: Think., into: said, next: wonder}
  wonder: {kind: ask, who: agent, question: Which?, into: said, next: end}
";

const TEST: &str = "\
format: 1
tests: desk
given: {input: {topic: a}, state: {hits: []}}
cases:
  - name: all of it
    table: [{first: find, said: find it}, {first: find, said: ''}]
    turns:
      - user: Please find {{ row.said }}.
        script:
          find: [{result: []}]
          answer: [{calls: [{search_kb: {query: x}}]}, {text: Hi.}]
          answer/search_kb: {result: []}
          call: {nodes: {think: find}}
          each: {items: [{nodes: {think: Done.}}, {error: timeout}]}
        expect:
          path: [\"{{ row.first }}\", [call, each]]
          state: {hits: find}
          output: {hits: []}
          paused_at: [call/wonder, \"each/wonder[1]\"]
          calls: {answer: 2, answer/search_kb: {with: {query: x}}}
          attempts: {find: 1}
          prompt: {call/think: {contains: x}}
          events: [run.finished]
      - answers: {call/wonder: x, \"each/wonder[1]\": y}
        expect: {path: {contains_in_order: [answer], never: [find]}}
";

const TESTS: &str = "tests/desk.test.yaml";

/// Returns the project with a piece of a file in other words, and the place of `‸`.
fn told(path: &str, piece: &str, by: &str) -> (Project, String, usize) {
    let files = [("project.yaml", PROJECT), ("desk.yaml", DESK), ("kid.yaml", KID), (TESTS, TEST)];
    reworded(Project::new(PathBuf::from("/p")), &files, (path, piece, by))
}

/// A project with one test let nothing be renamed.
#[test]
fn what_a_test_names_is_renamed_with_it() {
    for (path, piece, by, name, places) in [
        // In the table, script, attempts and path; not in texts and values.
        ("desk.yaml", "start: find", "start: fi‸nd", "seek", 5),
        ("desk.yaml", "  call:", "  ca‸ll:", "ask_kid", 5),
        ("desk.yaml", "  each:", "  ea‸ch:", "every", 4),
        ("desk.yaml", "  answer:", "  ans‸wer:", "reply", 5),
        ("desk.yaml", "into: hits", "into: hi‸ts", "found", 3),
        ("kid.yaml", "start: think", "start: th‸ink", "muse", 3),
        ("kid.yaml", "  wonder:", "  won‸der:", "muse", 4),
        (TESTS, "call/wonder,", "call/won‸der,", "muse", 4),
        (TESTS, "call/wonder,", "ca‸ll/wonder,", "ask_kid", 5),
        (TESTS, "state: {hits", "state: {hi‸ts", "found", 3),
        (TESTS, "table: [{first: find", "table: [{first: fi‸nd", "seek", 5),
    ] {
        let all = renamed(path, told(path, piece, by), name).unwrap_or_else(|why| panic!("{by}: {why}"));
        let (_, test) = all.split_once(TESTS).unwrap_or_else(|| panic!("{by}: {all}"));
        assert_eq!(test.matches(name).count(), places, "{by}: {test}");
        let (_, _, offset) = told(path, piece, by);
        let (project, ..) = told(path, piece, by);
        let old = project.files[path].mark_at(offset).unwrap().0.symbol.name.clone();
        let undone = test.replace(name, &old);
        assert_eq!(undone.trim_start_matches('\n'), TEST, "{by}");
    }
    for (piece, by, expected) in [
        // The value is a name here and a part of a text there.
        ("find {{ row.said", "{{ row.first", "line 5 of `tests/desk.test.yaml` may name `find`"),
        ("never: [find]", "never: [\"fi{{ row.said }}\"]", "may name `find` in a way that cannot be told"),
    ] {
        let (mut project, _, offset) = told("desk.yaml", "start: find", "start: fi‸nd");
        assert!(TEST.contains(piece), "{piece}");
        project.files.get_mut(TESTS).unwrap().set(TEST.replacen(piece, by, 1).into(), true);
        project.settle();
        let why = rename(&project, "desk.yaml", offset, "seek").unwrap_err();
        assert!(why.contains(expected), "{by}: {why}");
    }
}

#[test]
fn a_read_me_beside_prompts_is_no_file_of_the_project() {
    let (mut project, _, offset) = told("desk.yaml", "start: find", "start: fi‸nd");
    project.files.entry("prompts/README.md".to_owned()).or_default().set("hello".into(), false);
    assert!(rename(&project, "desk.yaml", offset, "seek").is_ok());
}

#[test]
fn a_test_is_offered_the_names_of_what_it_tests() {
    for (piece, by, expected) in [
        ("tests: desk", "tests: ‸", "desk kid"),
        ("{topic: a}", "{‸}", "topic"),
        ("state: {hits: []}", "state: {‸}", "messages hits all"),
        ("name: all of it", "name: all of it\n    only: ‸", "find call each answer"),
        ("          find: [{result: []}]\n", "          ‸\n", "find"),
        ("call: {nodes: {think: find}}", "call: {nodes: {‸}}", "think wonder"),
        ("[{nodes: {think: Done.}}", "[{nodes: {‸}}", "think wonder"),
        ("answer/search_kb: {result", "answer/‸: {result", "search_kb"),
        ("[{search_kb: {query: x}}]", "[{‸}]", "search_kb"),
        ("[{search_kb: {query: x}}]", "[{search_kb: {‸}}]", "query"),
        ("[\"{{ row.first }}\", [call, each]]", "[‸]", "find call each answer"),
        ("[\"{{ row.first }}\", [call, each]]", "[find, [‸]]", "find call each answer"),
        ("state: {hits: find}", "state: {‸}", "messages hits all"),
        ("output: {hits: []}", "output: {‸}", "messages hits all"),
        ("[call/wonder, \"each/wonder[1]\"]", "‸", "find call each answer"),
        ("[call/wonder, \"each/wonder[1]\"]", "call/‸", "think wonder"),
        ("\"each/wonder[1]\"]", "\"each[0]/‸\"]", "think wonder"),
        ("{with: {query: x}}", "{with: {‸}}", "query"),
        ("attempts: {find: 1}", "attempts: {‸}", "find call each answer"),
        ("never: [find]", "never: [‸]", "find call each answer"),
    ] {
        let found = offers(TESTS, told(TESTS, piece, by));
        let (fits, all) = (found.starts_with(expected), expected == "find");
        assert!(found == expected || (all && fits), "{by}: {found}");
    }
    let found = offers(TESTS, told(TESTS, "[run.finished]", "[‸]"));
    assert!(found.starts_with("run.started "), "{found}");
}

#[test]
fn a_name_in_a_test_leads_to_the_graph() {
    for (piece, by, definition, said) in [
        (
            "          find: [",
            "          fi‸nd: [",
            "desk.yaml find",
            "**node** `find`\n\nkind `tool`\n\nComes from `start`.",
        ),
        ("call/wonder,", "call/won‸der,", "kid.yaml wonder", "kind `ask`\n\nComes from `think`."),
        ("{think: Done.}", "{thi‸nk: Done.}", "kid.yaml think", "kind `llm`"),
        ("state: {hits: []}", "state: {hi‸ts: []}", "desk.yaml hits", "Written by `call`, `find`."),
        ("{topic: a}", "{to‸pic: a}", "desk.yaml topic", "**input** `input.topic`: `string`"),
        ("answer/search_kb: {result", "answer/sea‸rch_kb: {result", "project.yaml search_kb", "Searches."),
        ("{with: {query", "{with: {que‸ry", "project.yaml query", "**argument** `search_kb.query`: `string`"),
        ("output: {hits", "output: {hi‸ts", "desk.yaml hits", "**channel** `state.hits`"),
    ] {
        let (project, text, offset) = told(TESTS, piece, by);
        let (hovered, _) =
            hover(At { project: &project, path: TESTS, text: &text, offset }).unwrap_or_default();
        assert!(hovered.contains(said), "{by}: {hovered}");
        let (mark, _) = project.files[TESTS].mark_at(offset).unwrap_or_else(|| panic!("{by}"));
        let found = project.definition(&mark.symbol).unwrap_or_else(|| panic!("{by}"));
        let name = &project.files[found.path].text[found.range.clone()];
        assert_eq!(format!("{} {name}", found.path), definition, "{by}");
    }
}
