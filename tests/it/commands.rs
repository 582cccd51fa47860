//! The commands, as a person or a script runs them.

use std::io::{Read as _, Write as _};
use std::process::{Command, Output, Stdio};

use graphloom::store::sql::SqlStore;
use graphloom::store::{RunState, Store};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};

use crate::support::process::{Folder, binary};
use crate::support::{Fresh, claimed, last_barrier, new_run, session};

const GRAPH: &str = "format: 1\nstate: {messages: messages}\ninput: {name: {type: string, default: you}}\nstart: hello\n\
     nodes:\n  hello: {kind: say, text: \"Hello {{ input.name }}, you said {{ run.user_text }}.\", next: end}\n";

fn project() -> Folder {
    let folder = Folder::new();
    folder.write("graphs/hello.yaml", GRAPH);
    folder
}

/// Runs a command line, and returns its exit code with what it printed.
fn run(command: &mut Command, input: &str) -> (i32, String, String) {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that reads nothing may have ended already.
    let _ignored = child.stdin.take().unwrap().write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn graphloom(folder: &Folder, arguments: &[&str]) -> (i32, String, String) {
    run(binary(folder).args(arguments), "")
}

#[test]
fn check_prints_findings_to_standard_output_and_says_by_its_code_what_they_weigh() {
    let folder = project();
    assert_eq!(
        graphloom(&folder, &["check"]),
        (0, "1 graph: no errors, no warnings, no lints\n".into(), String::new())
    );
    folder.write(
        "graphs/project.yaml",
        "format: 1\nmodels:\n  m: {provider: openai, model: x, api_key: {secret: NO_SUCH}}\n",
    );
    let (code, out, _) = graphloom(&folder, &["check"]);
    assert_eq!(code, 0, "a missing secret is a warning: {out}");
    assert!(out.contains("warning[M503]"), "{out}");
    assert_eq!(graphloom(&folder, &["check", "--deny-warnings"]).0, 1);
    folder.write("graphs/hello.yaml", &GRAPH.replace("next: end", "next: ent"));
    let (code, out, _) = graphloom(&folder, &["check"]);
    assert_eq!(code, 1);
    assert!(out.contains("hello.yaml:6:") && out.contains("did you mean `end`?"), "{out}");
    let (code, out, _) = graphloom(&folder, &["check", "--format", "json"]);
    let report: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((code, report["findings"].as_array().map(Vec::is_empty)), (1, Some(false)), "{report}");
}

#[test]
fn check_speaks_to_code_scanning_and_to_workflows() {
    let folder = project();
    folder.write("graphs/hello.yaml", &GRAPH.replace("next: end", "next: ent"));
    let (code, out, _) = graphloom(&folder, &["check", "--format", "github"]);
    assert!(code == 1 && out.starts_with("::error file=") && out.contains(",title=G201::"), "{out}");
    let (code, out, _) = graphloom(&folder, &["check", "--format", "sarif"]);
    let log: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &log["runs"][0]["results"][0]["ruleId"]), (1, &"G201".into()));
}

/// Cases failed, one after the other, and none of them named the setting.
#[test]
fn tests_name_a_setting_that_has_no_value() {
    let folder = Folder::new();
    folder
        .write("graphs/project.yaml", "format: 1\nhosts: {allow: [shop.example.com]}\nenv: {SHOP_URL: {}}\n");
    folder.write(
        "graphs/shop.yaml",
        "format: 1\nstate: {messages: messages, order: any}\nstart: fetch\nnodes:\n  \
         fetch: {kind: http, url: \"{{ env.SHOP_URL }}/orders\", into: order, next: tell}\n  \
         tell: {kind: say, text: \"{{ state.order | tojson }}\", next: end}\n",
    );
    folder.write(
        "graphs/tests/shop.test.yaml",
        "format: 1\ntests: shop\ncases: [{name: x, turns: [{user: Hello, script: {fetch: {status: 200, json: 1}}}]}]\n",
    );
    let (code, _, error) = graphloom(&folder, &["test"]);
    assert!(code == 1 && error.contains("the setting `SHOP_URL` has no value"), "{error}");
}

#[test]
fn a_project_that_is_not_there_or_holds_no_graph_is_no_project() {
    let folder = Folder::new();
    let (code, out, error) = graphloom(&folder, &["check"]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(error.contains("cannot read the project"), "{error}");
    std::fs::create_dir(folder.path().join("graphs")).unwrap();
    let (code, _, error) = graphloom(&folder, &["check"]);
    assert!(code == 2 && error.contains("there is no graph in"), "{code} {error}");
    let (code, _, error) = graphloom(&folder, &["--bind", "127.0.0.1:0"]);
    assert!(code == 1 && error.contains("there is no graph in"), "{code} {error}");
}

const TALK: &str = "\
format: 1
state: {messages: messages, topic: string, mood: string, log: {type: [string], merge: append}}
start: note
nodes:
  note: {kind: set, set: {topic: run.user_text, mood: \"'fine'\", log: [run.user_text]}, next: tell}
  tell: {kind: say, text: \"{{ state.topic }} {{ state.mood }} {{ state.log | length }}\", next: end}
";

#[test]
fn diff_tells_what_changed_and_what_becomes_of_threads() {
    let folder = project();
    folder.write("graphs/talk.yaml", TALK);
    folder.write("other/hello.yaml", &GRAPH.replace("format: 1", "# The same.\nformat: 1"));
    folder.write("other/talk.yaml", TALK);
    let diff = |arguments: &[&str]| graphloom(&folder, &[&["diff", "graphs", "other"], arguments].concat());
    assert_eq!(diff(&[]), (0, String::new(), String::new()), "a comment is no difference");
    folder.write("other/tests/talk.test.yaml", "format: 1\ntests: nobody\ncases: [{name: x, trns: []}]\n");
    assert_eq!(diff(&[]), (0, String::new(), String::new()), "what is wrong with tests is not looked at");

    folder.write(
        "other/talk.yaml",
        "format: 1\nstate: {messages: messages, subject: {type: string, default: none}, log: {type: [integer], merge: append}}\n\
         input: {tone: string}\nmigrate: [{rename: {topic: subject}}]\nlimits: {steps: 9}\nstart: tell\nnodes:\n  \
         tell:\n    kind: say\n    text: \"{{ state.subject }} {{ input.tone }} {{ state.log | length }}\"\n    \
         next: [{when: input.tone == 'rude', to: stop}, {else: end}]\n  stop: {kind: fail, error: No.}\n",
    );
    std::fs::remove_file(folder.path().join("other/hello.yaml")).unwrap();
    let (code, out, error) = diff(&[]);
    let told = out.lines().map(str::trim_end).filter(|line| !line.contains(" graph ")).collect::<Vec<_>>();
    assert_eq!((code, error.as_str()), (1, ""), "{out}");
    assert_eq!(
        told,
        [
            "  Its threads cannot go on; runs that are not over end on their version.",
            "  - node note: set",
            "  + node stop: fail",
            "  ~ node tell: text",
            "  - edge note -> tell",
            "  - edge start -> note",
            "  - edge tell -> end",
            "  + edge start -> tell",
            "  + edge tell -> end: if else",
            "  + edge tell -> stop: if input.tone == 'rude'",
            "  ~ channel log: [string] -> [integer]",
            "  - channel mood: string",
            "  + channel subject: string",
            "  - channel topic: string",
            "  + input tone: string, required",
            "  + setting limits",
            "  + setting migrate",
            "  The next run of a thread is refused with 409 `state_incompatible` where its state does not fit:",
            "    `log` may not fit: [string] -> [integer]",
            "    `mood` is kept aside, and seen again when a channel has that name",
            "    `topic` moves to `subject`",
            "    To let such threads go on, give the channel another name, and rules under `migrate:`.",
            "  Runs that are under way, wait or are paused end on the old version.",
        ]
    );
    let (code, out, _) = diff(&["--format", "json"]);
    let report: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["equal"]), (1, &false.into()));
    let [hello, talk] = &report["graphs"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&hello["graph"], &hello["change"]), (&"hello".into(), &"removed".into()));
    assert_eq!((&talk["may_refuse"], &talk["states"][0]["effect"]), (&true.into(), &"refused".into()));
    assert_eq!(talk["old"].as_str().unwrap().len(), 64);
}

/// What a graph calls is part of its version; it was told as `only how something is written`.
#[test]
fn diff_tells_what_changed_in_tools_called_graphs_and_schema_files() {
    let folder = project();
    let graph = "format: 1\nstate: {messages: messages, hits: any, order: {schema: schemas/order.json, optional: true}, view: any}\n\
                 start: search\nnodes:\n  \
                 search: {kind: tool, tool: search_kb, with: {query: run.user_text}, into: hits, next: ask}\n  \
                 ask: {kind: graph, use: legal, into: view, next: tell}\n  \
                 tell: {kind: say, text: \"{{ state.hits | tojson }}\", next: end}\nallow: {S405: later}\n";
    let legal = "format: 1\nstate: {a: {type: string, default: x}}\nstart: think\nnodes:\n  think: {kind: set, set: {a: \"'y'\"}, next: end}\n";
    let project = "format: 1\nhosts: {allow: [kb.example.com]}\ntools:\n  search_kb:\n    description: Searches.\n    \
                   http: {url: \"https://kb.example.com/{{ args.query | urlencode }}\"}\n    args: {query: string}\n";
    let schema = "{\"type\": \"object\", \"properties\": {\"id\": {\"type\": \"string\"}}}";
    for side in ["graphs", "other"] {
        std::fs::create_dir_all(folder.path().join(side).join("schemas")).unwrap();
        folder.write(&format!("{side}/desk.yaml"), graph);
        folder.write(&format!("{side}/hello.yaml"), GRAPH);
        folder.write(&format!("{side}/legal.yaml"), legal);
        folder.write(&format!("{side}/project.yaml"), project);
        folder.write(&format!("{side}/schemas/order.json"), schema);
    }
    let told = || {
        let (code, out, error) = graphloom(&folder, &["diff", "graphs", "other"]);
        assert_eq!(error, "", "{out}");
        let lines = out.lines().skip_while(|line| !line.contains("graph desk:")).skip(1);
        let lines = lines.take_while(|line| !line.starts_with("  The next"));
        (code, lines.map(str::trim).map(str::to_owned).collect::<Vec<_>>())
    };
    assert_eq!(told(), (0, Vec::new()));
    let more = project.replace("query: string", "query: string, limit: {type: integer, default: 5}");
    folder.write("other/project.yaml", &(more + "    effects: none\n"));
    assert_eq!(told(), (1, vec!["~ tool search_kb: args.limit, effects".to_owned()]));
    folder.write("other/project.yaml", project);
    folder.write("other/legal.yaml", &legal.replace("'y'", "'z'"));
    assert_eq!(told(), (1, vec!["~ graph legal: nodes.think".to_owned()]));
    folder.write("other/legal.yaml", legal);
    folder.write("other/schemas/order.json", &schema.replace("\"id\": {", "\"no\": {"));
    let (_, lines) = told();
    assert!(
        lines.contains(&"~ schema schemas/order.json: properties.id, properties.no".to_owned()),
        "{lines:?}"
    );
}

#[test]
fn diff_says_by_its_code_that_it_could_not_compare() {
    let folder = project();
    folder.write("broken/hello.yaml", &GRAPH.replace("next: end", "next: ent"));
    let hash = "0".repeat(64);
    let url = format!("sqlite://{}/none.db?mode=rwc", folder.path().display());
    for (arguments, told) in [
        (vec!["diff", "graphs", "broken"], "error[G201]"),
        (vec!["diff", "graphs", "nowhere"], "neither a folder nor the hash"),
        (vec!["diff", &hash, "graphs", "--database-url", &url], "cannot open the database"),
        (vec!["--database-url", "memory:", "diff", &hash, "graphs"], "has no graph version"),
    ] {
        let (code, out, error) = graphloom(&folder, &arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}");
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    assert!(!folder.path().join("none.db").exists());
}

#[test]
fn render_prints_the_drawing_and_an_unknown_graph_names_those_there_are() {
    let folder = project();
    let (code, out, _) = graphloom(&folder, &["render", "hello"]);
    assert!(code == 0 && out.starts_with("flowchart TD\n"), "{code} {out}");
    let (code, out, _) = graphloom(&folder, &["render", "hello", "--format", "json"]);
    assert_eq!(code, 0);
    serde_json::from_str::<Json>(&out).unwrap();
    let (code, _, error) = graphloom(&folder, &["render", "hell"]);
    assert!(code != 0 && error.contains("hello"), "{code} {error}");
}

#[test]
fn chat_answers_one_message_or_line_by_line_and_keeps_nothing_unless_told() {
    let folder = project();
    let (code, out, error) = graphloom(&folder, &["chat", "hello", "--message", "hi", "--input", "name=Ann"]);
    assert_eq!((code, out.as_str()), (0, "Hello Ann, you said hi.\n"), "{error}");
    let (code, out, _) = run(binary(&folder).args(["chat", "hello"]), "one\n\ntwo\n");
    assert_eq!((code, out.as_str()), (0, "Hello you, you said one.\nHello you, you said two.\n"));
    let (code, _, error) = graphloom(&folder, &["chat", "hello", "-m", "hi", "--input", "nme=Ann"]);
    assert!(code == 1 && error.contains("/input/nme"), "{code} {error}");
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "only the project is there");
}

/// It used to take the database from its flag alone.
#[tokio::test]
async fn chat_keeps_its_thread_where_the_settings_say_and_leaves_the_runs_of_a_service_alone() {
    let folder = project();
    let fresh = Fresh::postgres().await;
    let store = SqlStore::connect(&fresh.url).await.unwrap();
    store.migrate().await.unwrap();
    // Its lease is over: a claimer would take it.
    let mut left = new_run(&session("s"));
    left.process.lease = std::time::Duration::ZERO;
    store.accept(left.clone()).await.unwrap();
    folder.write("graphloom.toml", &format!("database_url = \"{}\"\n", fresh.url));
    let turn = |text: &str| graphloom(&folder, &["chat", "hello", "-m", text, "--session", "kept"]);
    assert_eq!((turn("one").0, turn("two").0), (0, 0));
    let owner = crate::support::owner("terminal", "terminal");
    let threads = store.threads(&owner, None, 10).await.unwrap();
    assert_eq!((threads.len(), threads[0].key.session.as_str()), (1, "kept"));
    assert_eq!(store.run(&left.key.owner, left.run).await.unwrap().unwrap().fence, 1);
}

/// A turn that was interrupted held its session for ever: the next one waited behind it without a word.
#[test]
fn a_chat_that_is_interrupted_ends_its_turn_and_one_that_is_killed_is_gone_on_with() {
    let folder = project();
    folder.write("graphs/project.yaml", "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n");
    let slow = "format: 1\nstate: {messages: messages}\nstart: a\nnodes:\n  \
        a: {kind: llm, text: \"{{ run.user_text }}\", reply: true, next: end}\n";
    folder.write("graphs/slow.yaml", slow);
    let url = format!("sqlite://{}/kept.db?mode=rwc", folder.path().display());
    let arguments = ["chat", "slow", "--database-url", &url, "--message"];
    let long = "a long story ".repeat(40);
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut child = binary(&folder).args(arguments).arg(&long).stdout(Stdio::piped()).spawn().unwrap();
        let mut first = [0];
        child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
        let status = child.wait_with_output().unwrap().status;
        assert_eq!(status.code(), (signal == Signal::SIGINT).then_some(130), "{status}");
    }
    let (code, out, error) = run(binary(&folder).args(arguments).arg("short"), "");
    assert!(code == 0 && out.contains("short"), "{code} {error}");
}

/// Two questions at once took the line for a message, which was refused for ever; so was an answer where messages are
/// none.
#[test]
fn chat_asks_one_question_after_another_and_takes_a_line_for_the_answer_where_messages_are_none() {
    let folder = Folder::new();
    folder.write(
        "graphs/two.yaml",
        "format: 1\nstate: {messages: messages, a: string?, b: string?}\nstart: {all: [a, b]}\nnodes:\n  \
         a: {kind: ask, question: Who?, on_message: refuse, into: a, next: done}\n  \
         b: {kind: ask, who: agent, question: Sure?, options: [ok, stop], into: b, next: done}\n  \
         done: {kind: say, text: \"{{ state.a | default('-') }} {{ state.b | default('-') }}\", next: end}\n",
    );
    folder.write(
        "graphs/one.yaml",
        "format: 1\nstate: {messages: messages, a: string?}\nstart: a\nnodes:\n  \
         a: {kind: ask, question: Who?, on_message: refuse, into: a, next: done}\n  \
         done: {kind: say, text: \"It is {{ state.a | default('-') }}.\", next: end}\n",
    );
    let (code, out, error) = run(binary(&folder).args(["chat", "two"]), "hi\nme\nperhaps\nok\n");
    assert!(code == 0 && out.ends_with("me ok\n"), "{code} {out} {error}");
    let asked = ["[a asks] Who?", "[b asks] Sure? [ok, stop]", "the next line answers `a`", "ok, stop\n"];
    for text in asked {
        assert!(error.contains(text), "{text}: {error}");
    }
    let (code, out, error) = run(binary(&folder).args(["chat", "one"]), "hi\nme\n");
    assert!(code == 0 && out.ends_with("It is me.\n"), "{code} {out} {error}");
    // Who comes back is shown what is open, and nothing that he says is an answer before.
    let url = format!("sqlite://{}/kept.db?mode=rwc", folder.path().display());
    let chat = |lines: &str| run(binary(&folder).args(["chat", "two", "--database-url", &url]), lines);
    chat("hi\n");
    let (code, out, error) = chat("hello?\nme\nok\n");
    assert!(code == 0 && out.ends_with("me ok\n"), "{code} {out} {error}");
}

/// What a run did when nobody answered was not told, and the next line ended the chat with an error.
#[test]
fn chat_tells_what_comes_of_a_question_that_nobody_answers() {
    use std::io::BufRead as _;
    let folder = Folder::new();
    folder.write(
        "graphs/late.yaml",
        "format: 1\nstate: {messages: messages, a: string?}\nstart: a\nnodes:\n  \
         a: {kind: ask, who: agent, question: Who?, timeout: 1s, on_timeout: late, into: a, next: end}\n  \
         late: {kind: say, text: Nobody decided., next: end}\n",
    );
    let mut command = binary(&folder);
    command.args(["chat", "late"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"hi\n").unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("Nobody decided."));
    // The conversation goes on.
    input.write_all(b"again\n").unwrap();
    assert_eq!(lines.next().as_deref(), Some("Nobody decided."));
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn runs_that_were_given_up_are_listed_shown_tried_again_and_put_away() {
    let folder = Folder::new();
    let fresh = Fresh::sqlite();
    let store = SqlStore::connect(&fresh.url).await.unwrap();
    store.migrate().await.unwrap();
    let mut lost = Vec::new();
    for name in ["s", "t"] {
        let run = claimed(&store, &session(name)).await;
        store.commit(last_barrier(&run, RunState::Dead)).await.unwrap();
        lost.push(run.run.to_string());
    }
    claimed(&store, &session("u")).await;
    drop(store);
    let runs = |arguments: &[&str]| {
        graphloom(&folder, &[&["runs", "--database-url", &fresh.url], arguments].concat())
    };
    let (code, out, error) = runs(&["list"]);
    assert!(code == 0 && out.lines().count() == 3 && out.contains("acme:ann:s"), "{out}{error}");
    let (_, out, _) = runs(&["list", "--state", "dead", "--format", "json"]);
    let listed: Json = serde_json::from_str(&out).unwrap();
    let ids: Vec<&str> =
        listed["runs"].as_array().unwrap().iter().map(|run| run["run_id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&lost[1], &lost[0]]);
    let (code, out, error) = graphloom(&folder, &["runs", "show", &lost[0], "--database-url", &fresh.url]);
    assert!(code == 0 && out.contains(&lost[0]), "{out}{error}");
    let (code, out, _) = runs(&["show", &lost[0]]);
    assert!(
        code == 0 && out.contains("status            dead") && out.contains("session           s"),
        "{out}"
    );
    let (code, out, _) = runs(&["retry", &lost[0]]);
    assert!(code == 0 && out.contains("in the queue again"), "{out}");
    let (code, _, error) = runs(&["retry", &lost[0]]);
    assert!(code == 1 && error.contains("`queued`"), "{error}");
    assert_eq!(runs(&["discard", &lost[1]]).0, 0);
    let (_, out, _) = runs(&["list", "--state", "dead"]);
    assert_eq!(out, "There are no such runs.\n");
    let (code, _, error) = runs(&["show", "01890000-0000-7000-8000-000000000000"]);
    assert!(code == 1 && error.contains("there is no run"), "{error}");
    let erase = |arguments: &[&str]| {
        graphloom(
            &folder,
            &[&["erase", "--database-url", &fresh.url, "--tenant", "acme"], arguments].concat(),
        )
    };
    let (code, _, error) = erase(&["--user", "ann"]);
    assert!(code == 1 && error.contains("`--yes`"), "{error}");
    let (code, out, _) = erase(&["--user", "ann", "--yes"]);
    assert!(code == 0 && out.contains("3 threads deleted"), "{out}");
    let receipt = out.lines().find_map(|line| line.strip_prefix("Receipt ")).unwrap().replace(": ", "  ");
    let (_, out, _) = runs(&["list"]);
    assert_eq!(out, "There are no such runs.\n");
    let audit = |arguments: &[&str]| {
        graphloom(&folder, &[&["audit", "--database-url", &fresh.url], arguments].concat())
    };
    let (code, out, error) = audit(&[]);
    assert!(code == 0 && out.lines().next() == Some(receipt.as_str()), "{out}{error}{receipt}");
    let acts: Vec<&str> = out.lines().map(|line| line.split("  ").nth(2).unwrap().trim()).collect();
    let thread = "thread.deleted";
    assert_eq!(acts, ["user.erased", thread, thread, thread, "run.discarded", "run.retried"]);
    let (_, out, _) = audit(&["--of", &lost[0], "--format", "json"]);
    let noted: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((&noted["notes"][0]["act"], &noted["notes"][1]), (&json!("run.retried"), &Json::Null));
    assert_eq!(audit(&["--tenant", "bolt"]).1, "There is nothing.\n");
    let (code, _, error) = audit(&["--since", "yesterday"]);
    assert!(code == 2 && error.contains("--since"), "{error}");
}

#[test]
fn a_thread_is_looked_into_stopped_changed_forked_and_gone_on_with() {
    let folder = project();
    let fresh = Fresh::sqlite();
    let at = |command: &str, arguments: &[&str]| {
        graphloom(&folder, &[&[command, "--database-url", &fresh.url], arguments].concat())
    };
    let (code, out, error) = at("chat", &["hello", "-m", "hi", "--interrupt-before", "hello"]);
    assert!(code == 0 && out.is_empty() && error.contains("[stopped before hello;"), "{out}{error}");
    let (_, _, error) = at("chat", &["hello", "-m", "more"]);
    assert!(error.contains("the run is stopped"), "{error}");
    let (code, out, error) = at("chat", &["hello", "--resume"]);
    assert!(code == 0 && out == "Hello you, you said hi.\n", "{out}{error}");
    let key = "terminal:terminal:terminal";
    let (_, out, _) = at("threads", &["list", "terminal:terminal"]);
    assert!(out.contains("completed") && out.contains("terminal"), "{out}");
    let (_, out, error) = at("threads", &["history", key, "--format", "json"]);
    let history: Json = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert_eq!(history["checkpoints"][1]["next"][0], "hello");
    let input = history["checkpoints"][1]["checkpoint"].as_str().unwrap();
    let (_, out, _) = at("threads", &["state", key, "--checkpoint", input]);
    let state: Json = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (state["state"]["messages"].as_array().unwrap().len(), &state["checkpoint"]["step"]),
        (1, &0.into())
    );
    let (code, out, error) = at("threads", &["fork", key, "other", "--checkpoint", input]);
    assert!(code == 0 && out.contains("terminal:terminal:other stands there; run "), "{out}{error}");
    let (code, _, error) = at("threads", &["fork", key, "other"]);
    assert!(code == 1 && error.contains("is taken"), "{error}");
    let words = "messages=[{\"role\": \"user\", \"content\": \"bye\"}]";
    let (code, out, error) =
        at("threads", &["update", "terminal:terminal:other", "--as-node", "start", words]);
    assert!(code == 0 && out.contains("is interrupted"), "{out}{error}");
    let (_, out, _) = at("chat", &["hello", "--session", "other", "--resume"]);
    assert_eq!(out, "Hello you, you said bye.\n");
    // The flag stands behind the action as well as before it.
    let behind = |arguments: &[&str]| {
        graphloom(&folder, &[&["threads"], arguments, &["--database-url", &fresh.url]].concat())
    };
    let (code, out, error) = behind(&["fork", key, "again", "--checkpoint", input]);
    assert!(code == 0 && out.contains("terminal:terminal:again stands there"), "{out}{error}");
    let again = "terminal:terminal:again";
    let (code, _, error) = behind(&["resume", again, "--interrupt-after", "helo"]);
    assert!(code == 1 && error.contains("/interrupt_after/0: there is no node `helo`"), "{error}");
    let (code, out, error) = behind(&["resume", again]);
    let over: Json = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    assert_eq!((code, &over["status"], &over["interrupts"]), (0, &"completed".into(), &json!([])));
    assert_eq!(over["messages"], json!([{"node": "hello", "content": "Hello you, you said hi."}]));
    for (arguments, why) in [
        (["resume", again].as_slice(), "nothing waits to go on"),
        (&["resume", "terminal:terminal:nobody"], "there is no thread terminal:terminal:nobody"),
    ] {
        let (code, _, error) = behind(arguments);
        assert!(code == 1 && error.contains(why), "{error}");
    }
    let twice = graphloom(
        &folder,
        &["--database-url", "memory:", "threads", "list", "terminal:terminal", "--database-url", &fresh.url],
    );
    assert!(twice.0 == 0 && twice.1.lines().count() == 3, "what stands last counts: {}{}", twice.1, twice.2);
    let (code, _, error) = at("threads", &["update", key, "--as-node", "x", "y=1"]);
    assert!(code == 1 && error.contains("/values/y") && error.contains("/as_node"), "{error}");
    let (code, _, error) = at("threads", &["state", "a:b:c"]);
    assert!(code == 1 && error.contains("there is no thread a:b:c"), "{error}");
}

#[test]
fn key_prints_the_lines_for_the_settings_with_the_role_that_was_asked_for() {
    let folder = Folder::new();
    let (code, out, _) = graphloom(&folder, &["key", "--tenant", "acme", "--user", "bot"]);
    assert!(code == 0 && !out.contains("roles"), "{out}");
    let (code, out, _) = graphloom(&folder, &["key", "--tenant", "acme", "--user", "bot", "--role", "agent"]);
    let lines = out.split_once("[[auth.keys]]").unwrap().1;
    let key: toml::Table = toml::from_str(lines).unwrap();
    assert_eq!((code, key["roles"].to_string()), (0, "[\"agent\"]".to_owned()), "{out}");
}

#[tokio::test]
async fn migrate_makes_the_tables_and_can_be_repeated() {
    let folder = Folder::new();
    let fresh = Fresh::postgres().await;
    for arguments in [["migrate", "--database-url", &fresh.url], ["--database-url", &fresh.url, "migrate"]] {
        let (code, out, error) = graphloom(&folder, &arguments);
        assert_eq!((code, out.as_str()), (0, "The database is at this version.\n"), "{error}");
    }
    let (code, _, error) = graphloom(&folder, &["migrate", "--database-url", "mysql://x"]);
    assert!(code == 1 && error.contains("postgres://"), "{code} {error}");
}

#[test]
fn openapi_prints_the_document_that_is_checked_in_and_with_graphs_their_schemas() {
    let folder = project();
    let (code, out, _) = graphloom(&folder, &["openapi"]);
    assert!(code == 0 && out == std::fs::read_to_string("openapi.json").unwrap());
    let (code, out, _) = graphloom(&folder, &["openapi", "--with-graphs"]);
    let document: Json = serde_json::from_str(&out).unwrap();
    assert!(code == 0 && document.to_string().contains("Graph_hello_Input"), "{code}");
}

#[test]
fn schema_prints_one_of_the_schemas_that_are_checked_in_or_writes_them_all() {
    let folder = Folder::new();
    let (code, out, _) = graphloom(&folder, &["schema", "graph"]);
    assert!(code == 0 && out == std::fs::read_to_string("schema/graph.json").unwrap());
    assert_eq!(graphloom(&folder, &["schema", "--write", "for/editors"]), (0, String::new(), String::new()));
    for name in ["graph.json", "project.json", "prompt.json", "test.json"] {
        let written = std::fs::read_to_string(folder.path().join("for/editors").join(name)).unwrap();
        assert!(written == std::fs::read_to_string(format!("schema/{name}")).unwrap(), "{name}");
    }
    let (code, _, error) = graphloom(&folder, &["schema"]);
    assert!(code == 2 && error.contains("graphloom schema <FILE>"), "{code} {error}");
}

#[test]
fn flags_of_serve_stand_without_the_command_and_not_before_another_one() {
    let folder = project();
    let (code, out, _) = graphloom(&folder, &["--help"]);
    for flag in ["--graphs <DIR>", "--bind <ADDR>", "--database-url <URL>", "GRAPHLOOM_BIND", "DATABASE_URL"]
    {
        assert!(code == 0 && out.contains(flag), "{flag}: {out}");
    }
    for (flag, arguments) in [
        ("bind", ["--bind", "127.0.0.1:1", "check"].as_slice()),
        ("bind", &["--bind", "127.0.0.1:1", "runs", "list"]),
        ("database-url", &["--database-url", "memory:", "check"]),
    ] {
        let (code, _, error) = graphloom(&folder, arguments);
        assert!(code == 2 && error.contains(&format!("`--{flag}` is a flag of `serve`")), "{code} {error}");
    }
    // Refused before the database is touched.
    let (code, _, error) =
        graphloom(&folder, &["--bind", "0.0.0.0:0", "--database-url", "sqlite://x.db?mode=rwc"]);
    assert!(code == 1 && error.contains("only loopback addresses"), "{code} {error}");
    assert!(!folder.path().join("x.db").exists());
}

#[test]
fn an_editor_that_goes_away_or_talks_nonsense_ends_the_language_server() {
    let folder = project();
    let (code, out, err) = run(binary(&folder).arg("lsp"), "");
    assert_eq!((code, out.as_str(), err.as_str()), (1, "", ""), "it went away without a word");
    let message = |text: &str| format!("Content-Length: {}\r\n\r\n{text}", text.len());
    for nonsense in ["Hello\r\n\r\n".to_owned(), message("{"), message("[1, 2]")] {
        let (code, out, err) = run(binary(&folder).arg("lsp"), &nonsense);
        assert_eq!((code, out.as_str()), (1, ""), "{nonsense}");
        assert!(
            err.starts_with("error: the editor cannot be understood") && !err.contains("panick"),
            "{err}"
        );
    }
    let early = message(r#"{"jsonrpc":"2.0","id":1,"method":"textDocument/hover","params":{}}"#)
        + &message(r#"{"jsonrpc":"2.0","method":"exit"}"#);
    let (code, out, _) = run(binary(&folder).arg("lsp"), &early);
    assert!(code == 1 && out.contains("-32002"), "{out}");
}

/// The schema comes with the crate whose types were made from it.
fn sarif_schema() -> Json {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let out = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
        .arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
        .output()
        .unwrap();
    let metadata: Json = serde_json::from_slice(&out.stdout).unwrap();
    let package =
        metadata["packages"].as_array().unwrap().iter().find(|p| p["name"] == "serde-sarif").unwrap();
    let manifest = std::path::Path::new(package["manifest_path"].as_str().unwrap());
    let text = std::fs::read_to_string(manifest.with_file_name("src").join("schema.json")).unwrap();
    // The pattern of `language`, which is not used here, is no regular expression.
    let text = text.replace(r"^[a-zA-Z]{2}|^[a-zA-Z]{2}-[a-zA-Z]{2}]?$", r"^[a-zA-Z]{2}(-[a-zA-Z]{2})?$");
    serde_json::from_str(&text).unwrap()
}

/// Every finding of every fixture, as SARIF: valid by the official schema, and read by its own types.
#[test]
fn sarif_is_what_its_official_schema_asks_for() {
    let validator = jsonschema::validator_for(&sarif_schema()).unwrap();
    let providers = graphloom::compile::Providers::without_secrets().unwrap();
    let mut results = 0;
    for fixture in std::fs::read_dir("tests/fixtures/invalid").unwrap() {
        let mut bag = graphloom::diagnostic::Bag::default();
        if let Some(folder) = graphloom::spec::load(&fixture.unwrap().path().join("graphs"), &mut bag) {
            graphloom::compile::compile(&folder, &providers, &mut bag);
        }
        bag.sort();
        let log = graphloom::diagnostic::render_sarif(&bag);
        let wrong: Vec<String> = validator.iter_errors(&log).map(|error| error.to_string()).collect();
        assert_eq!(wrong, Vec::<String>::new(), "{log:#}");
        let read: serde_sarif::sarif::Sarif = serde_json::from_value(log).unwrap();
        results += read.runs[0].results.as_ref().map_or(0, Vec::len);
    }
    assert!(results > 100);
}

#[test]
fn check_does_not_look_for_secrets_when_it_is_told_so() {
    let folder = Folder::new();
    folder.write(
        "graphs/project.yaml",
        "format: 1\nmodels: {m: {provider: openai, model: x, api_key: {secret: NOT_SET_ANYWHERE}}}\ndefault_model: m\n",
    );
    folder.write(
        "graphs/chat.yaml",
        "format: 1\nstate: {messages: messages}\nstart: a\nnodes: {a: {kind: llm, text: Hi, reply: true, next: end}}\n",
    );
    let (code, out, _) = graphloom(&folder, &["check", "--deny-warnings"]);
    assert!(code == 1 && out.contains("M503"), "{out}");
    let (code, out, _) = graphloom(&folder, &["check", "--deny-warnings", "--no-secrets"]);
    assert!(code == 0 && !out.contains("M503"), "{out}");
}
