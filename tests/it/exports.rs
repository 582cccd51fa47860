//! `graphloom threads export`: a stored thread becomes a test file that plays it again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use graphloom::case::{self, Bench, Chosen, Export, Exporting, Report, Stage, Verdict};
use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_one, render_text};
use graphloom::engine;
use graphloom::plan::{Plan, Work};
use graphloom::spec::{self, CaseSpec, Files};
use graphloom::store::{RunState, Store};
use sea_orm::ConnectionTrait;

use crate::support::process::{Folder, binary};
use crate::support::{Fresh, Subject, owner, part, plain};

/// The path of the file that is made.
const MADE: &str = "tests/made.test.yaml";

/// A project whose cases are played, each on a store that is looked into.
struct Bed {
    folder: spec::Folder,
    bag: Bag,
    bench: Bench,
}

impl Bed {
    /// Reads a project, with these files besides.
    fn new(root: &Path, more: &[(&str, &str)]) -> Self {
        let stage = Stage::default();
        let shared = Arc::new(stage.clone());
        let providers = Providers::stand_in(shared.clone()).unwrap();
        let providers = providers.with_caller(shared.clone()).with_function(shared);
        let more: Files =
            more.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect();
        let mut bag = Bag::default();
        let folder = spec::load_over(root, more, &mut bag);
        let catalog = folder.as_ref().and_then(|folder| compile(folder, &providers, &mut bag));
        bag.sort();
        bag.drop_lints();
        let (Some(folder), Some(catalog)) = (folder, catalog) else {
            panic!("{}", render_text(&bag, false));
        };
        let (stage, root) = (Some(stage), root.to_owned());
        let bench = Bench { catalog, providers, stage, root, update: false, store: None, tape: None };
        Self { folder, bag, bench }
    }

    /// Returns the cases of all files that play a whole graph.
    fn cases(&self) -> Vec<(String, CaseSpec)> {
        let of = |(path, test): (&String, &spec::TestFile)| {
            let cases = test.cases.iter().filter(|case| case.only.is_none()).cloned();
            cases.map(|case| (path.clone(), case)).collect::<Vec<_>>()
        };
        self.folder.tests.iter().flat_map(of).collect()
    }

    /// Plays one case on a store.
    async fn play(&mut self, path: &str, case: &CaseSpec, store: Arc<dyn Store>) -> Report {
        let all = self.folder.tests.clone();
        self.folder.tests.retain(|known, _| known == path);
        self.folder.tests.get_mut(path).unwrap().cases = vec![case.clone()];
        self.bench.store = Some(store);
        let report = case::run(&self.bench, &self.folder, &Chosen::default(), &self.bag).await.unwrap();
        self.folder.tests = all;
        report
    }

    /// Exports what a case left in a store.
    async fn export(&self, graph: &str, store: &dyn Store, private: bool) -> Export {
        let key = graphloom::id::ThreadKey { owner: owner("test", "test"), session: part("test") };
        let wanted = |run: &graphloom::store::Run| run.state != RunState::RolledBack;
        let runs = engine::stored(store, &key, wanted, usize::MAX).await.unwrap().unwrap().runs;
        let plans = self.bench.catalog.graphs.values().map(|c| (c.plan.hash.clone(), on_stage(&c.plan)));
        let how = Exporting { name: "as it was".into(), private };
        case::export(graph, &runs, &plans.collect::<BTreeMap<_, _>>(), &how).unwrap().unwrap()
    }

    fn failures(&self, report: &Report) -> String {
        let mut text = String::new();
        for ran in &report.cases {
            if let Verdict::Failed(failures) = &ran.verdict {
                text.extend(failures.iter().map(|failure| render_one(&self.bag, failure, false)));
            }
        }
        text
    }
}

/// Returns a plan that knows the graphs it calls also by the ways that lead there: so they are called on a stage.
fn on_stage(plan: &Arc<Plan>) -> Arc<Plan> {
    fn ways(before: &str, level: &Plan, root: &mut Plan) {
        for (name, node) in &level.nodes {
            let work = match &node.job.work {
                Work::Map(each) => &each.job.work,
                work => work,
            };
            let Work::Graph(call) = work else { continue };
            let (way, child) = (format!("{before}{name}/"), root.children[&call.graph].clone());
            ways(&way, &child, root);
            root.children.insert(way, child);
        }
    }
    let mut root = (**plan).clone();
    ways("", plan, &mut root);
    Arc::new(root)
}

/// Plays a case, exports its thread, plays what came out, and exports that again. Nothing: something is to be filled in.
async fn plays_again(root: &Path, more: &[(&str, &str)], path: &str, case: &CaseSpec) -> Option<Export> {
    let mut bed = Bed::new(root, more);
    let subject = Subject::sqlite().await;
    let report = bed.play(path, case, subject.store.clone()).await;
    assert_eq!(bed.failures(&report), "", "{}", case.name.value);
    let graph = report.cases[0].graph.clone();
    let made = bed.export(&graph, &*subject.store, false).await;
    let what = format!("{}\n{}\n{:#?}", case.name.value, made.yaml, made.told);
    if !made.whole {
        assert!(
            made.yaml.contains("FILL IN")
                && made.told.iter().any(|told| told.contains(" got is not stored: ")),
            "{what}"
        );
        return None;
    }

    let more: Vec<(&str, &str)> = more.iter().copied().chain([(MADE, made.yaml.as_str())]).collect();
    let mut bed = Bed::new(root, &more);
    let cases: Vec<CaseSpec> = bed.folder.tests[MADE].cases.clone();
    let mut again = String::new();
    for case in &cases {
        let subject = Subject::sqlite().await;
        let report = bed.play(MADE, case, subject.store.clone()).await;
        assert_eq!(bed.failures(&report), "", "{what}");
        if cases.len() == 1 {
            again = bed.export(&graph, &*subject.store, false).await.yaml;
        }
    }
    // With a case that is given something a store holds one more run, which is no turn.
    if cases.len() == 1 {
        // An error that is played has another message, which only a comment tells.
        let plain = |yaml: &str| {
            yaml.lines().filter(|line| !line.contains("# it failed:")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(plain(&again), plain(&made.yaml), "what is exported again is the same\n{what}");
    }
    Some(made)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shipped_case_is_exported_as_one_that_plays_the_same() {
    let root = Path::new("graphs");
    let cases = Bed::new(root, &[]).cases();
    assert!(cases.len() > 20);
    for (path, case) in cases {
        let made = plays_again(root, &[], &path, &case).await;
        // What the shop answered goes through an expression, and the graph itself is what is tested.
        let gap = case.name.value == "what the shop refunds is told";
        assert_eq!(made.is_none(), gap, "{}", case.name.value);
    }
}

const PROJECT: &str = "\
format: 1
models: {m: {provider: demo}}
default_model: m
retries: {thrice: {attempts: 3, first: 1ms, for: [timeout, server_error]}}
hosts: {allow: [shop.example.com]}
types: {View: {side: {enum: [pro, contra]}, why: string}}
tools:
  look:
    http: {url: \"https://shop.example.com/look?q={{ args.q | urlencode }}\"}
    args: {q: string}
    result: [string]
  book:
    http: {method: POST, url: \"https://shop.example.com/book\"}
    args: {n: integer}
    approval: always
  weigh: {graph: weigh, description: Weighs., args: {text: string}}
  close: {graph: weigh, description: Ends it., args: {text: string}, final: true}
";

/// Fan-out into one list, structured output, tools of all sorts, a retry, a cache, emitted results, and a failure.
const DESK: &str = "\
format: 1
input: {tone: {type: string, default: calm}, shelf: {type: [string], default: []}}
state:
  messages: messages
  views: {type: [View], merge: append}
  notes: {type: [string], merge: append, keep: run}
  seen: {type: integer, merge: add}
  tags: {type: [string], merge: union}
  price: number?
  found: {type: [string], default: []}
  stock: {type: any, default: {}}
  secret: {type: string, private: true, default: none}
start: {all: [pro, contra, count]}
nodes:
  pro: {kind: llm, text: For., output: View, into: views, retry: thrice, next: fetch}
  contra: {kind: llm, text: Against., output: View, into: views, next: fetch}
  count: {kind: set, set: {seen: 1}, next: fetch}
  fetch:
    kind: http
    url: \"https://shop.example.com/price\"
    response: {price: number, unit: string}
    into: {price: result.body.price, tags: [result.body.unit]}
    retry: thrice
    on_error: [{catch: [http_404], to: note}, {catch: [timeout], to: note}]
    next: note
  note: {kind: llm, text: Note it., into: notes, next: gather}
  gather: {kind: tool, tool: look, with: {q: input.tone}, into: found, cache: {ttl: 1h}, emit: {found: result}, next: each}
  each:
    kind: map
    over: input.shelf
    do: {kind: http, url: \"https://shop.example.com/{{ item }}\", response: {n: integer}}
    on_item_error: skip
    into: {stock: {all: result}}
    next: answer
  answer: {kind: llm, text: Answer., tools: [look, book, weigh, close], reply: true, next: [{when: state.seen > 2, to: stop}, {else: end}]}
  stop: {kind: fail, code: enough, error: \"That was {{ state.seen }} times.\"}
";

const WEIGH: &str = "\
format: 1
input: {text: string}
state: {verdict: {type: string, default: \"\"}}
output: [verdict]
start: think
nodes:
  think: {kind: llm, text: Think., into: verdict, next: end}
";

const DESK_TESTS: &str = "\
format: 1
tests: desk
given: {input: {shelf: [a, b, c]}}
cases:
  - name: all of it at once
    table: [{said: \"Again, with {{ row.braces }}\"}]
    turns:
      - user: \"Line one\\n  # no comment: {{ run.x }}\\n- yes\"
        script:
          pro: [{error: timeout}, {output: {side: pro, why: \"It's \\\"fast\\\"\"}}]
          contra: {output: {side: contra, why: 'no'}}
          fetch: {json: {price: 12.5, unit: kg}}
          note: \"  spaces before, and after  \"
          gather: {result: [x, 'null', '1e3']}
          each: {items: [{json: {n: 1}}, {error: http_404}, {json: {n: 3}}]}
          answer:
            - {text: Let me look., calls: [{look: {q: hats}}, {weigh: {text: hats}}]}
            - {calls: [{look: {q: coats}}]}
            - \"There are hats.\\n\\nAnd coats.\"
          answer/look: [{result: [hat]}, {error: connection}]
          answer/weigh: {result: {verdict: light}}
      - user: '{{ row.said }}'
        script:
          pro: {output: {side: pro, why: again}}
          contra: {output: {side: contra, why: again}}
          fetch: {error: http_404}
          note: Noted.
          each: {items: [{error: timeout}, {error: timeout}, {error: timeout}]}
          answer: [{calls: [{close: {text: x}}]}]
          answer/close: {result: {verdict: closed}}
        expect: {reply: '{\"verdict\":\"closed\"}'}
      - user: Fail
        script:
          pro: {output: {side: pro, why: last}}
          contra: [{error: connection}]
        expect: {error: connection}
      - resume: true
        script:
          contra: {output: {side: contra, why: last}}
          fetch: [{error: timeout}, {error: timeout}, {error: timeout}]
          note: And noted.
          each: {items: [{json: {n: 1}}, {json: {n: 2}}, {json: {n: 3}}]}
          answer: {calls: [{book: {n: 1}}, {book: {n: 2}}]}
        expect: {paused_at: [answer, answer]}
";

/// Questions in graphs of a list, one that nobody answers in time, one that is cancelled, and a graph that replies.
const PARTY: &str = "\
format: 1
state:
  messages: messages
  names: {type: [string], default: [hat, coat]}
  sizes: {type: [any], default: []}
  sure: string?
start: each
nodes:
  each: {kind: map, over: state.names, do: {kind: graph, use: size, with: {name: item}}, into: sizes, next: greet}
  greet: {kind: graph, use: greet, next: confirm}
  confirm:
    kind: ask
    question: Sure?
    options: ['yes', 'no']
    into: sure
    timeout: 1h
    on_timeout: late
    on_error: [{catch: [dismissed], to: cancelled}]
    next: end
  late: {kind: say, text: Too late., next: end}
  cancelled: {kind: say, text: Never mind., next: end}
";

const SIZE: &str = "\
format: 1
input: {name: string}
state: {size: {type: string, default: none}, hint: {type: string, default: \"\"}}
output: [size]
start: think
nodes:
  think: {kind: llm, text: Think., into: hint, next: ask}
  ask: {kind: ask, who: agent, question: \"Which size of {{ input.name }}?\", options: [small, large], into: size, next: end}
";

const GREET: &str = "\
format: 1
state: {messages: messages}
output: {said: \"'done'\"}
start: hello
nodes:
  hello: {kind: llm, text: Greet., reply: true, next: end}
";

const PARTY_TESTS: &str = "\
format: 1
tests: party
cases:
  - name: one after the other, and then nobody
    turns:
      - user: A hat and a coat
        script: {each: {items: [{nodes: {think: big}}, {nodes: {think: small}}]}}
        expect: {paused_at: ['each/ask[0]', 'each/ask[1]']}
      - answers: {'each/ask[0]': small}
        expect: {paused_at: 'each/ask[1]'}
      - answer: large
        script: {greet: {nodes: {hello: Hello!}}, confirm: {error: timeout}}
        expect: {path: [greet, confirm, late], reply: \"Hello!\\nSure?\\nToo late.\"}
  - name: cancelled
    turns:
      - user: A hat and a coat
        script: {each: {items: [{nodes: {think: big}}, {nodes: {think: small}}]}}
        expect: {paused_at: ['each/ask[0]', 'each/ask[1]']}
      - answers: {'each/ask[0]': small, 'each/ask[1]': small}
        script: {greet: {nodes: {hello: Hello!}}, confirm: {error: dismissed}}
        expect: {path: [greet, confirm, cancelled]}
  - name: agreed
    turns:
      - user: A hat and a coat
        script: {each: {items: [{nodes: {think: big}}, {nodes: {think: small}}]}}
        expect: {paused_at: ['each/ask[0]', 'each/ask[1]']}
      - answers: {'each/ask[0]': small, 'each/ask[1]': small}
        script: {greet: {nodes: {hello: Hello!}}}
        expect: {path: [greet, confirm], paused_at: confirm}
      - user: 'yes'
        expect: {state: {sure: 'yes'}}
";

/// The projects that the shipped graphs do not have: files by path.
const MORE: [&[(&str, &str)]; 2] = [
    &[
        ("project.yaml", PROJECT),
        ("desk.yaml", DESK),
        ("weigh.yaml", WEIGH),
        ("tests/desk.test.yaml", DESK_TESTS),
    ],
    &[
        ("project.yaml", PROJECT),
        ("weigh.yaml", WEIGH),
        ("party.yaml", PARTY),
        ("size.yaml", SIZE),
        ("greet.yaml", GREET),
        ("tests/party.test.yaml", PARTY_TESTS),
    ],
];

#[tokio::test(flavor = "multi_thread")]
async fn lists_tools_retries_caches_failures_and_questions_are_exported_as_they_were() {
    let root = Path::new("no-such-folder");
    for files in MORE {
        for (path, case) in Bed::new(root, files).cases() {
            let what = case.name.value.clone();
            assert!(plays_again(root, files, &path, &case).await.is_some(), "{what}");
        }
    }
}

/// What goes into a private channel, and what goes through an expression.
const TALK: &str = "\
format: 1
input: {tone: {type: string, default: calm}}
state:
  messages: messages
  topic: string?
  turns: {type: integer, merge: add}
  secret: {type: string, private: true, default: \"\"}
start: note
nodes:
  note: {kind: llm, text: Name the topic., into: topic, next: hide}
  hide: {kind: llm, text: Think., into: secret, next: count}
  count: {kind: set, set: {turns: 1}, next: answer}
  answer: {kind: llm, text: \"Be brief. {{ state.secret }}\", reply: true, next: end}
";

fn graphloom(folder: &Folder, fresh: &Fresh, command: &[&str]) -> (i32, String, String) {
    let output = binary(folder).args(command).args(["--database-url", &fresh.url]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_prints_a_file_that_the_project_tests_from_then_on() {
    let (folder, fresh) = (Folder::new(), Fresh::sqlite());
    folder.write("graphs/talk.yaml", TALK);
    folder.write("graphs/project.yaml", "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n");
    let say = |said: &str, more: &[&str]| {
        let command = [&["chat", "talk", "--session", "ada", "-m", said], more].concat();
        let (code, out, error) = graphloom(&folder, &fresh, &command);
        assert_eq!(code, 0, "{out}{error}");
    };
    say("Is tea healthy?", &[]);
    say("And coffee?", &[]);
    say("And water?", &["--input", "tone=loud"]);
    let export = |more: &[&str]| {
        graphloom(&folder, &fresh, &[&["threads", "export", "terminal:terminal:ada"], more].concat())
    };
    let test = |file: &str| {
        folder.write("graphs/tests/talk.test.yaml", file);
        let output = binary(&folder).arg("test").output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };

    let (code, file, error) = export(&["--private", "--name", "tea is talked about"]);
    assert_eq!((code, error.as_str()), (0, ""), "{file}");
    assert!(file.contains("name: tea is talked about (1)") && file.contains("user: And coffee?"), "{file}");
    assert!(
        file.contains("tone: loud") && file.contains("secret: "),
        "other inputs are a case of their own: {file}"
    );
    let (code, out) = test(&file);
    assert!(code == 0 && out.contains("2 cases passed"), "{out}");

    let (code, file, error) = export(&["--private", "--last", "1"]);
    assert_eq!((code, error.as_str()), (0, ""), "{file}");
    assert!(file.contains("turns: 2") && file.contains("content: Is tea healthy?"), "{file}");
    let (code, out) = test(&file);
    assert!(code == 0 && out.contains("1 case passed"), "{out}");

    // Without what is private it is for somebody to fill in, and the file shows where.
    let (code, file, error) = export(&["--last", "2"]);
    assert!(code == 1 && !file.contains("secret"), "{file}{error}");
    let gap = "# not stored: its channel is private; `--private` exports it";
    assert!(file.contains(&format!("hide:\n            {gap}\n            text: FILL IN\n")), "{file}");
    let told = "turn 1: what `hide` got is not stored: its channel is private; `--private` exports it";
    assert!(error.contains(told), "{error}");
    assert!(error.contains("the private channel `secret` held something before"), "{error}");

    // Another graph than the one that the thread went by.
    folder.write("graphs/talk.yaml", &TALK.replace("into: topic, next: hide", "into: topic, next: count"));
    std::fs::remove_file(folder.path().join("graphs/tests/talk.test.yaml")).unwrap();
    let (code, file, error) = export(&["--private"]);
    assert!(code == 1 && file.contains("path: [note, hide, count, answer]"), "{file}");
    assert!(error.contains("by another version of `talk` than the project folder has"), "{error}");
    for (arguments, why) in [
        (&["threads", "export", "terminal:terminal:bob"][..], "there is no thread terminal:terminal:bob"),
        (&["threads", "export", "bob"], "its tenant, its user and its session: `tenant:user:session`"),
        (&["threads", "export", "dev:bob"], "its tenant, its user and its session: `tenant:user:session`"),
    ] {
        let (code, _, error) = graphloom(&folder, &fresh, arguments);
        assert!(code != 0 && error.contains(why), "{error}");
    }
}

/// No script stands between here: graphs that are tools, lists, requests that fail, and people, as they are served.
#[test]
fn what_the_shipped_graphs_did_when_they_were_talked_to_becomes_tests_that_pass() {
    let (folder, fresh) = (Folder::new(), Fresh::sqlite());
    let (from, to) = (Path::new("graphs"), folder.path().join("graphs"));
    let copied =
        std::process::Command::new("cp").args(["-r".as_ref(), from.as_os_str(), to.as_os_str()]).status();
    assert!(copied.unwrap().success());
    std::fs::remove_dir_all(to.join("tests")).unwrap();
    std::fs::create_dir(to.join("tests")).unwrap();
    for (number, (graph, lines)) in [
        ("chat", "Hello!\nDo you remember me?\n"),
        ("research", "Shall we write it in Rust?\n"),
        ("support", "A billing question: when does my invoice come?\nA technical question: search the articles for the printer\n"),
        ("support", "A technical problem: open a ticket, the printer is on fire\nreject not today\n"),
        ("support", "Good morning!\nI want a refund\nA-17\n"),
    ]
    .into_iter()
    .enumerate()
    {
        let session = format!("s{number}");
        let mut chat = binary(&folder);
        chat.args(["chat", graph, "--session", &session, "--database-url", &fresh.url]);
        let mut chat = chat.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
        std::io::Write::write_all(&mut chat.stdin.take().unwrap(), lines.as_bytes()).unwrap();
        let said = chat.wait_with_output().unwrap();
        let thread = format!("terminal:terminal:{session}");
        let (code, file, error) = graphloom(&folder, &fresh, &["threads", "export", &thread]);
        let told = String::from_utf8_lossy(&said.stdout);
        assert_eq!((code, error.as_str()), (0, ""), "{told}\n{file}");
        folder.write(&format!("graphs/tests/made{number}.test.yaml"), &file);
    }
    let output = binary(&folder).arg("test").output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && out.contains("5 cases passed"), "{out}");
}

/// Each has something that goes into a private channel, and stands somewhere else besides.
const VAULT: &str = "\
format: 1
state:
  messages: messages
  secret: {type: string, private: true, default: none}
  list: {type: [string], private: true, default: []}
  code: {type: string, private: true, default: none}
  open: {type: string, default: none}
start: {all: [hide, other]}
nodes:
  hide: {kind: llm, text: Hide., into: secret, next: each}
  other: {kind: llm, text: Other., into: open, next: each}
  each: {kind: map, over: \"['a', 'b']\", do: {kind: llm, text: \"{{ item }}\", tools: [weigh]}, into: list, next: ask}
  ask: {kind: ask, question: Code?, into: code, next: tell}
  tell: {kind: say, text: \"{{ state.open }}{% if false %}{{ state.secret }}{{ state.list | join }}{{ state.code }}{% endif %}\", next: end}
";

const VAULT_TESTS: &str = "\
format: 1
tests: vault
cases:
  - name: hidden
    turns:
      - user: Hello
        script: {hide: canary-hidden, other: {error: http_400}}
        expect: {error: http_400}
      - resume: true
        script:
          other: fine
          each: {items: [canary-first, [{calls: [{weigh: {text: hat}}]}, canary-second]]}
          'each[1]/weigh': {result: {verdict: light}}
        expect: {paused_at: ask}
      - answer: canary-code
        expect: {reply: fine}
  - name: failed
    turns:
      - user: Hello
        script: {hide: canary-hidden, other: {error: http_400}}
        expect: {error: http_400}
";

/// What a finished sibling of a failure had given, what items of a list had given before others, and what people answered
/// stood in the file, though it went into private channels.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_into_a_private_channel_is_shown_nowhere() {
    let files = [
        ("project.yaml", PROJECT),
        ("weigh.yaml", WEIGH),
        ("vault.yaml", VAULT),
        ("tests/vault.test.yaml", VAULT_TESTS),
    ];
    let mut bed = Bed::new(Path::new("no-such-folder"), &files);
    for (path, case) in bed.cases() {
        let subject = Subject::sqlite().await;
        let report = bed.play(&path, &case, subject.store.clone()).await;
        assert_eq!(bed.failures(&report), "");
        let (canaries, gaps): (&[&str], &[&str]) = if case.name.value == "failed" {
            (&["canary-hidden"], &["`hide` got"])
        } else {
            (
                &["canary-hidden", "canary-first", "canary-second", "canary-code"],
                &["`hide` got", "`each[0]` got", "`each[1]` got", "`ask` was answered"],
            )
        };
        let all = bed.export("vault", &*subject.store, true).await;
        for canary in canaries {
            assert!(all.yaml.contains(canary), "{canary}: {}", all.yaml);
        }
        assert!(all.whole, "{}{:?}", all.yaml, all.told);
        let public = bed.export("vault", &*subject.store, false).await;
        assert!(!public.yaml.contains("canary") && !public.whole, "{}", public.yaml);
        // A call that is not made again is filled in once.
        assert_eq!(public.told.len(), gaps.len(), "{:#?}\n{}", public.told, public.yaml);
        for gap in gaps {
            let gap = format!("what {gap} is not stored: its channel is private; `--private` exports it");
            assert!(public.told.iter().any(|told| told.ends_with(&gap)), "{gap}: {:#?}", public.told);
        }
    }
}

/// The whole export ended with `EOF while parsing`, and named no run.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_read_is_named_and_the_others_are_exported() {
    for sealed in [false, true] {
        let mut bed = Bed::new(Path::new("no-such-folder"), MORE[0]);
        let (path, case) = bed.cases().remove(0);
        let fresh = Fresh::sqlite();
        let subject = if sealed { Subject::sealed(fresh).await } else { Subject::sqlite().await };
        bed.play(&path, &case, subject.store.clone()).await;
        let db = plain(&subject.fresh.as_ref().unwrap().url).await;
        let damage = "update run set input = x'00' where ord = (select min(ord) from run)";
        db.execute_unprepared(damage).await.unwrap();
        let key = graphloom::id::ThreadKey { owner: owner("test", "test"), session: part("test") };
        let found = engine::stored(&*subject.store, &key, |_| true, usize::MAX).await.unwrap().unwrap();
        assert!(found.runs.len() > 1);
        let [(run, error)] = found.damaged.as_slice() else { panic!("{:?}", found.damaged) };
        assert!(found.runs.iter().all(|whole| whole.run.run != *run));
        assert!(!sealed || error.to_string().contains("`run.input` of tenant test"), "{error}");
        let made = bed.export("desk", &*subject.store, false).await;
        assert!(made.yaml.contains("user: "), "{}", made.yaml);
    }
}

#[test]
fn a_number_that_no_file_carries_leaves_a_gap_that_is_told() {
    let (folder, fresh) = (Folder::new(), Fresh::sqlite());
    let graph = "\
format: 1
input: {big: {type: any, default: 1}}
state: {messages: messages, kept: {type: any, default: 0}, open: {type: any, default: 0}}
start: keep
nodes:
  keep: {kind: set, set: {kept: input.big, open: \"1\"}, next: say}
  say: {kind: say, text: Kept., next: end}
";
    folder.write("graphs/talk.yaml", graph);
    folder.write("graphs/project.yaml", "format: 1\n");
    let chat = ["chat", "talk", "--session", "ada", "-m", "Hi", "--input", "big=[18446744073709551615]"];
    let (code, out, error) = graphloom(&folder, &fresh, &chat);
    assert_eq!(code, 0, "{out}{error}");
    let (code, file, error) = graphloom(&folder, &fresh, &["threads", "export", "terminal:terminal:ada"]);
    assert!(code == 1 && file.contains("FILL IN") && file.contains("reply: Kept."), "{file}{error}");
    assert!(error.contains("the input `big` of the case is left out: a whole number above"), "{error}");
    assert!(error.contains("what `kept` was to be is left out: a whole number above"), "{error}");
}

/// They were given to the case as they were.
#[test]
fn earlier_messages_of_a_private_conversation_are_left_out() {
    let (folder, fresh) = (Folder::new(), Fresh::sqlite());
    let graph = "\
format: 1
state: {messages: {type: messages, private: true}}
start: say
nodes: {say: {kind: say, text: Fine., next: end}}
";
    folder.write("graphs/talk.yaml", graph);
    folder.write("graphs/project.yaml", "format: 1\n");
    for said in ["canary", "second"] {
        let chat = ["chat", "talk", "--session", "ada", "-m", said];
        let (code, out, error) = graphloom(&folder, &fresh, &chat);
        assert_eq!(code, 0, "{out}{error}");
    }
    let export = |more: &[&str]| {
        let command = [&["threads", "export", "terminal:terminal:ada", "--last", "1"], more].concat();
        graphloom(&folder, &fresh, &command)
    };
    let (_, file, error) = export(&[]);
    assert!(file.contains("user: second") && !file.contains("canary"), "{file}{error}");
    assert!(error.contains("the private channel `messages` held something before"), "{error}");
    let (_, file, error) = export(&["--private"]);
    assert!(file.contains("canary"), "{file}{error}");
}
