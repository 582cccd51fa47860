//! `graphloom test`: cases beside a graph, as a person or a CI server runs them.

use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

use crate::support::process::{Folder, binary};

/// A graph with a choice, a fan-out, a retry, a bounded loop, a private channel and an error of its own.
const GRAPH: &str = "\
format: 1
input: {topic: {enum: [talk, views, stop], default: talk}}
state:
  messages: messages
  views: {type: [string], merge: append, keep: run}
  secret: {type: string, optional: true, private: true}
start: choose
nodes:
  choose:
    kind: set
    set: {secret: input.topic}
    next:
      - match: input.topic
        cases: {talk: answer, views: {all: [pro, contra]}, stop: stop}
  answer: {kind: llm, text: Be brief., max_tokens: 50, reply: true, retry: twice, next: end}
  pro: {kind: llm, text: For., into: views, next: join}
  contra: {kind: llm, text: Against., into: views, next: join}
  join: {kind: say, text: \"{{ state.views | join(' ') }}\", next: end}
  stop: {kind: fail, code: closed, error: We are closed.}
output: {views: state.views, topic: state.secret}
";

const PROJECT: &str = "\
format: 1
models: {m: {provider: demo}}
default_model: m
retries: {twice: {attempts: 2, first: 30s, for: [timeout, rate_limit]}}
";

fn project(tests: &str) -> Folder {
    let folder = Folder::new();
    folder.write("graphs/desk.yaml", GRAPH);
    folder.write("graphs/project.yaml", PROJECT);
    std::fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    folder.write("graphs/tests/desk.test.yaml", &format!("format: 1\ntests: desk\ncases:\n{tests}"));
    folder
}

pub(crate) fn test(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    let output = binary(folder).arg("test").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Indents a case as an item of the list of cases.
fn case(turns: &str) -> String {
    format!("  - name: a case\n    turns:\n{turns}")
}

/// Every assertion that holds.
const HOLDS: &str = "\x20 - name: talks
    turns:
      - user: Hello
        script: {answer: [{error: timeout}, Hi there]}
        expect:
          path: [choose, answer]
          reply: {equals: Hi there, contains: there, matches: '^Hi', max_words: 2}
          calls: {answer: {times: 2, with: {max_tokens: 50}}}
          attempts: {answer: 2}
          events: [run.started, node.retrying, message.finished, run.finished]
          state: {secret: talk, views: []}
          output: {topic: talk}
          prompt: {answer: {contains: [Be brief., Hello]}}
      - user: Again
        script: {answer: Yes}
        expect: {state: {messages: [{role: user, content: Hello}, {role: assistant, content: Hi there}, {role: user, content: Again}, {role: assistant, content: 'Yes'}]}}
  - name: has two views
    given: {input: {topic: views}}
    turns:
      - user: Hello
        script: {pro: {text: good, after: 30ms}, contra: bad}
        expect: {path: [choose, [pro, contra], join], output: {views: [bad, good]}, reply: bad good}
  - name: is closed
    given: {input: {topic: stop}}
    turns:
      - user: Hello
        expect: {error: {kind: failed, code: closed, message: closed}, path: {contains_in_order: [choose, stop], never: [answer]}}
      - user: Hello?
        expect: {error: closed}
  - name: joins {{ row.views }}
    only: join
    table: [{views: [a, b], said: a b}, {views: [c], said: c}]
    given: {state: {views: '{{ row.views }}'}, messages: [{role: user, content: before}]}
    turns:
      - expect: {path: [join], reply: '{{ row.said }}', state: {messages: [{role: user, content: before}, {role: assistant, content: '{{ row.said }}'}]}}
";

#[test]
fn what_holds_passes_and_all_of_the_graph_is_run_through() {
    let folder = project(HOLDS);
    let (code, out, error) = test(&folder, &["--min-edges", "100", "--min-nodes", "100"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.contains("ok   desk: joins [\"a\",\"b\"]\n"), "{out}");
    assert!(out.contains("desk: 6 of 6 nodes run, 9 of 9 edges taken\n"), "{out}");
    assert!(out.ends_with("5 cases passed, 0 failed; 100 % of the nodes, 100 % of the edges\n"), "{out}");
}

/// Each turn is wrong in one way; the finding stands at its place and says what was found.
#[test]
fn what_does_not_hold_is_told_at_its_place() {
    let talk = |expect: &str| {
        format!("      - user: Hello\n        script: {{answer: Hi}}\n        expect: {expect}\n")
    };
    let talked = [
        ("{path: [choose, stop]}", ":8:33", "here the run went to answer"),
        ("{path: {never: [answer]}}", ":8:33", "it starts"),
        (
            "{path: {contains_in_order: [answer, choose]}}",
            ":8:53",
            "it starts, but not after those before it",
        ),
        ("{state: {secret: views}}", ":8:34", "found \"talk\""),
        ("{output: {views: [a]}}", ":8:34", "found []"),
        ("{reply: Hello}", ":8:25", "reply: \"Hi\""),
        ("{reply: {contains: [H, x]}}", ":8:40", "this is not in it"),
        ("{reply: {matches: '^i'}}", ":8:35", "it does not match this"),
        ("{calls: {answer: 2}}", ":8:34", "found 1 call"),
        ("{calls: {answer: {with: {max_tokens: 9}}}}", ":8:54", "found 50"),
        ("{attempts: {answer: 2}}", ":8:37", "found 1 attempt"),
        ("{error: timeout}", ":8:25", "the run was to fail, and completed"),
        ("{events: [message.finished, node.reset]}", ":8:45", "it never comes"),
        ("{prompt: {answer: {contains: Goodbye}}}", ":8:46", "this is not in it"),
    ];
    let mut all: Vec<(String, &str, &str)> =
        talked.into_iter().map(|(expect, place, found)| (talk(expect), place, found)).collect();
    let failed = "      - user: Hello\n        script: {answer: {error: http_400}}\n";
    all.push((failed.to_owned(), ":6:9", "error: http_400 in node `answer`"));
    all.push((
        format!("{failed}        expect: {{error: timeout}}\n"),
        ":8:25",
        "neither its kind nor its code",
    ));
    all.push(("      - user: Hello\n".to_owned(), ":6:9", "`answer` calls a model and has no script"));
    let short = "      - user: Hello\n        script: {answer: {error: timeout}}\n";
    all.push((short.to_owned(), ":7:18", "2 calls, 1 answer"));
    let long = "      - user: Hello\n        script: {answer: [Hi, Ho]}\n";
    all.push((long.to_owned(), ":7:18", "1 call, 2 answers"));
    let mut wrong = Vec::new();
    for (turn, place, found) in all {
        let folder = project(&case(&turn));
        let (code, out, error) = test(&folder, &[]);
        let at = format!("graphs/tests/desk.test.yaml{place}\n");
        let told = out.matches("error[failed]").count();
        if code != 1 || told != 1 || !out.contains(&at) || !out.contains(found) {
            wrong.push(format!("{at}{found}\n{code}: {out}{error}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A graph of calls of every kind, and one that it calls in two ways, alone and by another one.
const CALLS: [(&str, &str); 4] = [
    (
        "desk",
        "\
format: 1
input: {words: {type: [string], default: []}}
state: {messages: messages, order: any, views: {type: [any], default: []}, ruling: any, note: {type: string, default: none}, picked: {type: string, default: none}}
start: search
nodes:
  search: {kind: tool, tool: search_kb, with: {query: run.user_text}, emit: {found: result}, retry: twice, on_error: note, next: fetch}
  fetch: {kind: http, url: 'https://shop.example.com/orders', response: {id: string}, into: order, retry: twice, on_error: note, next: each}
  each: {kind: map, over: input.words, do: {kind: graph, use: legal, with: {question: item}}, on_item_error: 'null', into: views, next: rule}
  rule: {kind: graph, use: court, with: {question: run.user_text}, into: ruling, on_error: note, next: pick}
  pick: {kind: ask, question: 'Ship {{ state.order.id }}?', options: ['yes', 'no'], into: picked, next: tell}
  note: {kind: set, set: {note: error.node, order: \"{'id': 'none'}\", ruling: null}, next: tell}
  tell: {kind: say, text: '{{ state.note }} {{ state.picked }} {{ state.views | tojson }} {{ state.ruling | tojson }}', next: end}
",
    ),
    (
        "court",
        "\
format: 1
input: {question: string}
state: {ruling: {type: string, default: none}, legal: any}
output: {ruling: state.ruling, legal: state.legal}
start: ask_legal
nodes:
  ask_legal: {kind: graph, use: legal, with: {question: input.question}, into: legal, next: judge}
  judge: {kind: llm, text: 'Judge {{ input.question }}.', into: ruling, next: end}
",
    ),
    (
        "legal",
        "\
format: 1
input: {question: string}
state: {opinion: {type: string, default: none}}
output: [opinion]
start: think
nodes:
  think: {kind: llm, text: 'Think of {{ input.question }}.', tools: [search_kb], into: opinion, retry: twice, next: end}
",
    ),
    (
        "project",
        "\
format: 1
models: {m: {provider: demo}}
default_model: m
retries: {twice: {attempts: 2, first: 1h, max: 1h, for: [timeout]}}
tools: {search_kb: {description: Searches., http: {url: 'https://kb.example.com/{{ args.query | urlencode }}'}, args: {query: string}, result: [string]}}
hosts: {allow: [shop.example.com, kb.example.com]}
",
    ),
];

/// Scripts of everything that calls. Those of graphs as items, and within called graphs, were never looked at, and their
/// retries waited as long as they say.
const PLAYED: &str = "\x20 - name: goes into every graph
    given: {input: {words: [a, b]}}
    turns:
      - user: Hello
        script:
          search: [{error: timeout}, {result: [found]}]
          fetch: [{error: timeout}, {status: 200, json: {id: A-17}}]
          each:
            items:
              - {nodes: {think: [{error: timeout}, first]}}
              - {nodes: {think: [{calls: [{search_kb: {query: b}}]}, second], think/search_kb: {result: [b]}}}
          rule: {nodes: {ask_legal: {nodes: {think: [{error: timeout}, third]}}, judge: fine}}
        expect:
          path: [search, fetch, each, rule, pick]
          paused_at: pick
          ask: 'Ship A-17?'
          attempts: {search: 2, fetch: 2, each: 1}
          calls: {search: 2, fetch: 2, 'each[0]/think': 2, 'each[1]/think/search_kb': 1, rule/judge: 1}
          state: {views: [{opinion: first}, {opinion: second}], ruling: {ruling: fine, legal: {opinion: third}}}
      - answer: 'yes'
        expect: {path: [tell], reply: {contains: 'none yes'}}
  - name: takes graphs for what they give
    given: {input: {words: [a, b]}}
    turns:
      - user: Hello
        script:
          search: {result: []}
          fetch: {json: {id: A-17}}
          each: {items: [{output: {opinion: first}}, {error: timeout}]}
          rule: {nodes: {ask_legal: {output: {opinion: third}}, judge: fine}}
        expect: {paused_at: pick, state: {views: [{opinion: first}, null], ruling: {ruling: fine, legal: {opinion: third}}}}
      - answer: 'no'
        expect: {reply: {contains: 'none no'}}
  - name: notes a tool that failed
    turns:
      - user: Hello
        script: {search: {error: http_404}}
        expect: {path: [search, note, tell], reply: {contains: search none}}
  - name: notes a request that failed
    turns:
      - user: Hello
        script: {search: {result: []}, fetch: {status: 404}}
        expect: {path: [search, fetch, note, tell], reply: {contains: fetch none}}
  - name: notes a graph that failed
    turns:
      - user: Hello
        script: {search: {result: []}, fetch: {json: {id: A-17}}, rule: {error: tool}}
        expect: {path: [search, fetch, each, rule, note, tell], reply: {contains: rule none}}
";

#[test]
fn everything_that_calls_is_scripted_wherever_it_stands() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    for (name, text) in CALLS {
        folder.write(&format!("graphs/{name}.yaml"), text);
    }
    folder.write("graphs/tests/desk.test.yaml", &format!("format: 1\ntests: desk\ncases:\n{PLAYED}"));
    let (code, out, error) = test(&folder, &["desk", "--min-nodes", "100", "--min-edges", "100"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.contains("desk: 7 of 7 nodes run, 11 of 11 edges taken\n"), "{out}");
}

/// What a case tells of the calls of models only could be told.
#[test]
fn calls_are_held_against_what_they_are_made_with() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    for (name, text) in CALLS {
        folder.write(&format!("graphs/{name}.yaml"), text);
    }
    let called = PLAYED.split("  - name: takes").next().unwrap();
    let run = |sent: &str| {
        let cases = called.replace("rule/judge: 1}", &format!("rule/judge: 1, {sent}}}"));
        let cases = cases
            .replace("search: 2, fetch: 2, 'each[0]", "'each[0]")
            .replace(", 'each[1]/think/search_kb': 1", "");
        folder.write("graphs/tests/desk.test.yaml", &format!("format: 1\ntests: desk\ncases:\n{cases}"));
        let (code, out, error) = test(&folder, &["desk"]);
        (code, out + &error)
    };
    for holds in [
        "search: {times: 2, with: {query: Hello}}",
        "'each[1]/think/search_kb': {with: {query: b}}",
        "fetch: {with: {method: GET, url: 'https://shop.example.com/orders', body: null}}",
    ] {
        let (code, out) = run(holds);
        assert_eq!(code, 0, "{holds}: {out}");
    }
    for (wrong, told) in [
        ("search: {with: {query: Bye}}", r#"found "Hello""#),
        (
            "'each[1]/think/search_kb': {with: {query: c}}",
            "`each[1]/think/search_kb` calls with another `query`",
        ),
        ("fetch: {with: {method: POST}}", r#"found "GET""#),
        ("pick: {with: {x: 1}}", "nothing is known of what a question is called with"),
        ("rule: {with: {x: 1}}", "nothing is known of what a graph is called with"),
        ("fetch: {with: {address: x}}", "there are: `method`, `url`, `headers`, `body`"),
        ("search: {with: {querry: x}}", "did you mean `query`?"),
        ("search: {with: {query: 1}}", "`query` cannot hold this"),
        ("note: {with: {x: 1}}", "`note` calls nothing"),
        (
            "'each[0]/think/search_kb': {with: {query: b}}",
            "`each[0]/think/search_kb` is to call, and does not",
        ),
    ] {
        let (code, out) = run(wrong);
        assert!(code != 0 && out.contains(told), "{wrong}: {out}");
    }
}

#[test]
fn a_path_goes_on_where_the_visits_of_a_node_are_used_up() {
    let folder = project(&case("      - {user: Hi, expect: {path: [a, b, a, b, done]}}\n"));
    folder.write(
        "graphs/desk.yaml",
        "format: 1
state: {messages: messages}
start: a
nodes:
  a: {kind: say, text: A, max_visits: 2, on_max: done, next: b}
  b: {kind: say, text: B, next: a}
  done: {kind: say, text: Done, next: end}
",
    );
    let (code, out, error) = test(&folder, &[]);
    assert_eq!(code, 0, "{out}{error}");
}

#[test]
fn targets_and_a_filter_choose_and_too_little_coverage_fails() {
    let folder = project(HOLDS);
    for arguments in [["desk", "--filter", "closed"], ["graphs/tests/desk.test.yaml", "--filter", "closed"]] {
        let (code, out, _) = test(&folder, &arguments);
        assert!(code == 0 && out.contains("1 case passed"), "{out}");
        assert!(out.contains("never run: answer\n"), "{out}");
        assert!(out.contains("never taken: choose -> answer (input.topic = talk)\n"), "{out}");
    }
    let (code, out, _) = test(&folder, &["--filter", "closed", "--min-edges", "80"]);
    assert!(code == 1 && out.contains("too little is tested: 22 % of the edges, 80 % are due\n"), "{out}");
    for (arguments, why) in
        [(vec!["desc"], "`desc` is no graph and no test file"), (vec!["--filter", "nobody"], "no case fits")]
    {
        let (code, out, error) = test(&folder, &arguments);
        assert!(code == 2 && out.is_empty() && error.contains(why), "{out}{error}");
    }
    folder.write("graphs/desk.yaml", &GRAPH.replace("start: choose", "start: chose"));
    let (code, _, error) = test(&folder, &[]);
    assert!(code == 2 && error.contains("did you mean `choose`?"), "{error}");
    let (code, _, error) = test(&Folder::new(), &[]);
    assert!(code == 2 && error.contains("cannot read the project"), "{error}");
}

#[test]
fn a_snapshot_is_written_when_asked_for_and_compared_with_after_that() {
    let turn = "      - user: Hello\n        script: {answer: Hi}\n        expect: {prompt: {answer: {snapshot: true}}}\n";
    let folder = project(&case(turn));
    let (code, out, _) = test(&folder, &[]);
    assert!(code == 1 && out.contains("has no snapshot yet") && out.contains("--update"), "{out}");
    assert_eq!(test(&folder, &["--update"]).0, 0);
    let path = folder.path().join("graphs/tests/snapshots/desk/a-case.answer.md");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "@system\nBe brief.\n@user\nHello\n");
    assert_eq!(test(&folder, &[]).0, 0);
    folder.write("graphs/desk.yaml", &GRAPH.replace("Be brief.", "Be long."));
    let (code, out, _) = test(&folder, &[]);
    assert_eq!(code, 1);
    for line in ["a-case.answer.md:2", "expected: `Be brief.`", "found: `Be long.`"] {
        assert!(out.contains(line), "{out}");
    }
    // A snapshot is a file of the project.
    assert_eq!(binary(&folder).args(["check", "--deny-warnings"]).output().unwrap().status.code(), Some(0));
}

#[test]
fn a_report_is_for_programs_and_for_servers_of_ci() {
    let folder = project(&(HOLDS.to_owned() + "  - {name: '<lacks> & a script', turns: [{user: Hello}]}\n"));
    let (code, out, _) = test(&folder, &["--format", "json", "--junit", "report.xml"]);
    let report: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["cases"].as_array().unwrap().len()), (1, 6));
    let last = &report["cases"][5];
    assert_eq!((&last["status"], &last["failures"][0]["line"]), (&"failed".into(), &39.into()), "{last}");
    assert_eq!(report["cases"][1]["path"], serde_json::json!([[["choose"], ["contra", "pro"], ["join"]]]));
    assert_eq!(report["summary"]["edges_percent"], 100, "{report}");
    let xml = std::fs::read_to_string(folder.path().join("report.xml")).unwrap();
    for part in [
        r#"<testsuites name="graphloom" tests="6" skipped="0" failures="1" errors="0""#,
        r#"/graphs/tests/desk.test.yaml" tests="6""#,
        r#"<testcase name="&lt;lacks&gt; &amp; a script" classname="desk""#,
        "calls a model and has no script",
    ] {
        assert!(xml.contains(part), "{part}\n{xml}");
    }
}

/// The built-in model says what no script says.
#[test]
fn real_models_are_asked_when_wanted_and_what_needs_scripts_is_passed_over() {
    let tests = "  - name: talks\n    turns:\n      - user: Hello\n        script: {answer: Hi}\n        \
        expect: {path: [choose, answer], reply: {equals: Hi, contains: demo model}, calls: {answer: 7}}\n  \
        - name: fails\n    turns:\n      - {user: Hello, script: {answer: {error: http_400}}, expect: {error: http_400}}\n  \
        - name: views\n    given: {input: {topic: views}}\n    turns:\n      - user: Hello\n        \
        script: {pro: Yes., contra: No.}\n        \
        expect: {state: {views: [No., Yes.], secret: views}, output: {views: [No., Yes.], topic: views}}\n";
    let folder = project(tests);
    let (code, out, error) = test(&folder, &["--live"]);
    assert_eq!(code, 0, "what a model wrote is not foretold: {out}{error}");
    assert!(
        out.contains("skip desk: fails: ") && out.contains("2 cases passed, 0 failed, 1 skipped"),
        "{out}"
    );
    let folder = project(&tests.replace("secret: views", "secret: talk"));
    let (code, out, _) = test(&folder, &["--live"]);
    assert!(code == 1 && out.contains("`state.secret` is another value"), "what the graph wrote is: {out}");
    let (code, out, _) = test(&folder, &[]);
    assert!(code == 1 && out.contains("FAIL desk: talks\nok   desk: fails\n"), "{out}");
}

#[test]
fn the_shipped_graphs_are_tested_along_every_edge() {
    let program = env!("CARGO_BIN_EXE_graphloom");
    let output =
        Command::new(program).args(["test", "--min-edges", "100"]).current_dir(Path::new(".")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A model fails by a script, and the one that stands in for it plays the next entry.
#[test]
fn a_script_makes_a_model_fail_and_the_next_one_answers() {
    let cases = case(
        "      - user: Hello
        script: {answer: [{error: http_529}, {error: rate_limit}, Hi there]}
        expect: {path: [choose, answer], reply: Hi there, attempts: {answer: 3}, calls: {answer: {times: 3}}}
      - user: Hello
        script: {answer: {error: http_401}}
        expect: {error: {code: http_401}}
",
    );
    let folder = project(&cases);
    let chain = "models: {m: {provider: demo, fallback: [n]}, n: {provider: demo}}";
    folder.write("graphs/project.yaml", &PROJECT.replace("models: {m: {provider: demo}}", chain));
    let (code, out, err) = test(&folder, &[]);
    assert_eq!(code, 0, "{out}{err}");
}
