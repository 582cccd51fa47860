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
