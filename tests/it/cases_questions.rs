//! `graphloom test`: questions that nobody answers, as scripts have them end.

use crate::cases::test;
use crate::support::process::Folder;

/// Questions with and without a limit, beside each other and in a called graph.
const GRAPHS: [(&str, &str); 3] = [
    (
        "desk",
        "\
format: 1
input: {both: {type: boolean, default: false}}
state: {messages: messages, size: {type: string, default: none}, colour: {type: string, default: none}}
start: [{when: input.both, to: {all: [size, colour]}}, {else: size}]
nodes:
  size: {kind: ask, question: Which size?, into: size, timeout: 2d, on_timeout: usual, on_error: [{catch: [dismissed], to: dropped}], next: tell}
  usual: {kind: set, set: {size: \"'usual'\"}, next: tell}
  dropped: {kind: say, text: 'As you like: {{ error.kind }}.', next: end}
  colour: {kind: ask, who: agent, question: Which colour?, into: colour, next: tell}
  tell: {kind: say, text: '{{ state.size }} {{ state.colour }}', next: end}
",
    ),
    (
        "caller",
        "\
format: 1
state: {messages: messages}
start: call
nodes:
  call: {kind: graph, use: desk, next: end}
",
    ),
    ("project", "format: 1\n"),
];

const CASES: &str = "\
format: 1
tests: desk
cases:
  - name: nobody answers in time
    turns:
      - user: A shirt, please.
        script: {size: {error: timeout}}
        expect: {path: [size, usual, tell], reply: {contains: usual none}, calls: {size: 1}, events: [interrupt.requested, edge.taken, run.finished]}
      - user: Another one.
        expect: {paused_at: size}
      - user: large
        expect: {path: [tell], reply: large none}
  - name: somebody cancels it
    turns:
      - user: A shirt, please.
        script: {size: {error: dismissed}}
        expect: {path: [size, dropped], reply: {contains: 'As you like: dismissed.'}}
  - name: one of two is late
    given: {input: {both: true}}
    turns:
      - user: A shirt, please.
        script: {size: {error: timeout}}
        expect: {path: {contains_in_order: [size, usual], never: [tell]}, paused_at: colour}
      - answer: red
        expect: {path: [tell], reply: usual red}
  - name: both are cancelled
    given: {input: {both: true}}
    turns:
      - user: A shirt, please.
        script: {size: {error: dismissed}, colour: {error: dismissed}}
        expect: {error: dismissed}
";

const CALLED: &str = "\
format: 1
tests: caller
cases:
  - name: nobody answers a called graph in time
    turns:
      - user: A shirt, please.
        script: {call: {nodes: {size: {error: timeout}}}}
        expect: {path: [call], reply: {contains: usual none}}
";

/// The edge behind `on_timeout` could be taken by no case.
#[test]
fn a_question_ends_without_an_answer_when_its_script_says_so() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    for (name, text) in GRAPHS {
        folder.write(&format!("graphs/{name}.yaml"), text);
    }
    folder.write("graphs/tests/desk.test.yaml", CASES);
    folder.write("graphs/tests/caller.test.yaml", CALLED);
    let (code, out, error) = test(&folder, &["--min-edges", "100"]);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");

    let unused = CASES
        .replace("script: {size: {error: timeout}}", "script: {size: [{error: timeout}, {error: timeout}]}");
    folder.write("graphs/tests/desk.test.yaml", &unused);
    let (code, out, _) = test(&folder, &["desk"]);
    let told = out.matches("`size` leaves an answer of its script").count();
    assert_eq!((code, told), (1, 2), "{out}");
}

/// A graph that calls another one, by itself and for each item, and these ask.
const WAYS: [(&str, &str); 3] = [
    (
        "desk",
        "\
format: 1
state: {messages: messages, one: any, all: {type: [any], default: []}, list: {type: [string], default: [p, q]}, size: {type: integer, default: 0}}
start: g
nodes:
  g: {kind: graph, use: kid, with: {w: \"'x'\"}, into: {one: result.r}, next: each}
  each: {kind: map, over: state.list, do: {kind: graph, use: kid, with: {w: item}}, into: all, next: size}
  size: {kind: ask, question: How many?, schema: integer, into: size, next: tell}
  tell: {kind: say, text: '{{ state.one }} {{ state.all | tojson }} {{ state.size }}', next: end}
",
    ),
    (
        "kid",
        "\
format: 1
input: {w: string}
state: {r: {type: string, default: ''}}
output: [r]
start: get
nodes: {get: {kind: ask, who: agent, question: '{{ input.w }}?', options: [a, b], into: r, next: end}}
",
    ),
    ("project", "format: 1\n"),
];

const WAITS: &str = "\
format: 1
tests: desk
cases:
  - name: asks everywhere
    turns:
      - user: Hello
        expect: {path: [g], paused_at: g/get, ask: 'x?'}
      - answer: a
        expect: {path: [each], paused_at: ['each/get[0]', 'each[1]/get']}
      - answers: {'each/get[1]': b, 'each[0]/get': a}
        expect: {path: [size], paused_at: size, state: {all: [{r: a}, {r: b}]}}
      - answer: 3
        expect: {path: [tell], reply: {contains: 'a '}}
";

/// No test could name who asks in a called graph: the check took `g` and `g/get`, and neither held when it ran.
#[test]
fn a_question_of_a_called_graph_and_of_an_item_is_named_by_its_way() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path().join("graphs/tests")).unwrap();
    for (name, text) in WAYS {
        folder.write(&format!("graphs/{name}.yaml"), text);
    }
    let run = |test_file: &str| {
        folder.write("graphs/tests/desk.test.yaml", test_file);
        test(&folder, &["--min-nodes", "100"])
    };
    let (code, out, error) = run(WAITS);
    assert_eq!((code, error.as_str()), (0, ""), "{out}");
    assert!(out.contains("kid: 1 of 1 nodes run"), "what was called has run: {out}");
    // What the check tells, and what the run.
    for (piece, by, told) in [
        ("paused_at: g/get", "paused_at: g", "there are: `g/get`"),
        ("paused_at: g/get", "paused_at: g/gte", "did you mean `get`?"),
        ("paused_at: g/get", "paused_at: size/get", "`size` calls no graph"),
        ("paused_at: g/get", "paused_at: tell", "`tell` never asks anybody"),
        ("answer: a", "answer: c", "one of these is due: a, b"),
        ("answer: 3", "answer: many", "this is no answer to `size`"),
        ("'each/get[1]': b", "'each/get[1]': c", "this is no answer to `each/get[1]`"),
        ("'each/get[1]': b", "'each/gte[1]': b", "did you mean `get`?"),
        (
            "paused_at: ['each/get[0]', 'each[1]/get']",
            "paused_at: each/get",
            "it waits at each/get[0], each/get[1]",
        ),
    ] {
        assert!(WAITS.contains(piece), "{piece}");
        let (code, out, error) = run(&WAITS.replace(piece, by));
        let all = out + &error;
        assert!(code != 0 && all.contains(told), "{by}: {all}");
    }
    // The help can be written down as it is; a case that stops short of it is told how to go on.
    for (until, piece, told) in [
        ("      - answer: a\n", "path: [g], paused_at: g/get, ", "add  expect: {paused_at: g/get}"),
        (
            "      - answers:",
            ", paused_at: ['each/get[0]', 'each[1]/get']",
            "add  expect: {paused_at: [\"each/get[0]\", \"each/get[1]\"]}",
        ),
    ] {
        let (short, _) = WAITS.split_once(until).unwrap();
        assert!(short.contains(piece), "{piece}");
        let (code, out, error) = run(&short.replace(piece, ""));
        assert!(code != 0 && out.contains(told), "{piece}: {out}{error}");
    }
}
