//! What is done with an input that a fuzz program found: shared by those programs (`tests/fuzz`) and by the test that
//! does it again with what they kept.
//!
//! An input is a text of files: a line `--- PATH` before each. What stands before the first such line is a file without
//! a name.

use std::ops::Range;
use std::sync::LazyLock;

use graphloom::compile::{Catalog, Providers, compile, revive_as_stored};
use graphloom::diagnostic::{Bag, CODES, Span, render_github, render_json, render_sarif, render_text};
use graphloom::diff::compare;
use graphloom::expr::{Expr, Facts, Root, Roots, Scope, Slot, infer, narrow};
use graphloom::render::{json, mermaid};
use graphloom::spec::{Files, load_files};
use graphloom::state::{Field, Type};
use graphloom::template::prompt::{check_partial, split};
use graphloom::template::{Set, check_types, reads, unbraced};
use serde_json::json;

/// What is done with an input.
pub type Drive = fn(&[u8]);

/// The programs by name, and what each does.
pub const TARGETS: [(&str, Drive); 3] = [("reader", reader), ("compiler", compiler), ("template", template)];

/// Takes a file of inputs apart: the length of each stands on a line of its own before it.
pub fn unpack(mut packed: &[u8]) -> Vec<Vec<u8>> {
    let mut inputs = Vec::new();
    while let Some(end) = packed.iter().position(|&byte| byte == b'\n') {
        let head = std::str::from_utf8(&packed[..end]).expect("a head is a text");
        let length: usize =
            head.strip_prefix("@ ").and_then(|n| n.parse().ok()).expect("a head is `@ LENGTH`");
        inputs.push(packed[end + 1..][..length].to_vec());
        packed = &packed[end + 1 + length + 1..];
    }
    inputs
}

/// Takes an input apart: the names of its files and their contents.
fn parts(input: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut parts = vec![(String::new(), Vec::new())];
    for line in input.split_inclusive(|&byte| byte == b'\n') {
        match line.strip_prefix(b"--- ") {
            Some(path) => parts.push((String::from_utf8_lossy(path).trim_end().to_owned(), Vec::new())),
            None => parts.last_mut().expect("it begins with one").1.extend_from_slice(line),
        }
    }
    parts
}

fn files(input: &[u8]) -> Files {
    parts(input).into_iter().filter(|(path, content)| !path.is_empty() || !content.is_empty()).collect()
}

/// Reads files as those of a project.
pub fn reader(input: &[u8]) {
    let mut bag = Bag::default();
    load_files("graphs", files(input), &mut bag);
    check_findings(bag);
}

/// Compiles a project, and does with it what does not run it.
pub fn compiler(input: &[u8]) {
    let mut bag = Bag::default();
    let catalog = compiled(files(input), &mut bag);
    assert_ne!(catalog.is_some(), bag.has_errors(), "there are plans, or errors say why not");
    check_findings(bag);
    let Some(catalog) = catalog else { return };
    for (id, compiled) in &catalog.graphs {
        // A host may refuse a large drawing.
        drop(mermaid(&compiled.plan, 10));
        drop(json(&compiled.plan, 10));
        // What is stored must be found again, or runs that wait cannot go on.
        match revive_as_stored(&compiled.body, id, &PROVIDERS) {
            Ok(plan) => {
                assert_eq!(plan.hash, compiled.plan.hash, "the stored version of `{id}` is another one");
            }
            Err(why) => panic!("the stored version of `{id}` cannot be read: {why}"),
        }
    }
    for (old, new) in [(&*BASE, &catalog), (&catalog, &*BASE)] {
        let graphs = compare(old, new).expect("stored bodies can be read");
        for graph in &graphs {
            drop(graph.text());
        }
    }
    assert_eq!(compare(&catalog, &catalog), Ok(Vec::new()), "a project does not differ from itself");
}

static PROVIDERS: LazyLock<Providers> =
    LazyLock::new(|| Providers::lenient(Box::new(|_| None)).expect("the defaults are right"));

/// What projects are compared with: a graph under the name that most inputs use.
static BASE: LazyLock<Catalog> = LazyLock::new(|| {
    let graph = "format: 1\ninput: {a: string?}\nstate: {messages: messages, log: {type: [string], merge: append}}\n\
                 start: answer\nnodes:\n  answer: {kind: llm, text: Hi., reply: true, next: note}\n  \
                 note: {kind: set, set: {log: \"'x'\"}, next: [{when: input.a is none, to: end}, {else: answer2}]}\n  \
                 answer2: {kind: say, text: \"{{ state.log | join }}\", next: end}\n";
    let project = "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n";
    let files = [("chat.yaml", graph), ("project.yaml", project)];
    let mut bag = Bag::default();
    compiled(files.map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec())).into(), &mut bag)
        .expect("the project has no mistake")
});

fn compiled(files: Files, bag: &mut Bag) -> Option<Catalog> {
    let folder = load_files("graphs", files, bag);
    compile(&folder, &PROVIDERS, bag)
}

/// Holds findings to what is said of them: a known code, a place within the file, and that they can be printed.
fn check_findings(mut bag: Bag) {
    bag.sort();
    for finding in bag.findings() {
        assert!(!finding.message.ends_with("cannot be compiled"), "nobody says why: {}", finding.message);
        assert!(CODES.iter().any(|info| info.code == finding.code), "the code {} is unknown", finding.code);
        for label in std::iter::once(&finding.label).chain(&finding.related) {
            let Span { file, start, end } = label.span;
            let (path, text) = bag.source(file);
            let range = start as usize..end as usize;
            assert!(
                text.get(range).is_some(),
                "{} at {start}..{end} of {path}: {}",
                finding.code,
                finding.message
            );
        }
    }
    drop((render_text(&bag, true), render_json(&bag), render_sarif(&bag), render_github(&bag)));
}

/// Reads a text as an expression, as a template and as a prompt, and evaluates and renders what can be. The further
/// parts of the input are partials.
pub fn template(input: &[u8]) {
    let parts: Vec<(String, String)> = parts(input)
        .into_iter()
        .map(|(name, part)| (name, String::from_utf8_lossy(&part).into_owned()))
        .collect();
    let Some(((_, source), partials)) = parts.split_first() else { return };
    let scope = scope();
    expression(source, &scope);
    unbraced(source).inspect(|(range, _)| within(source, range));
    match split(source) {
        Ok(sections) => drop(sections),
        Err(errors) => errors.iter().for_each(|error| within(source, &error.range)),
    }
    for error in &check_partial(source) {
        within(source, &error.range);
    }
    let mut set = Set::new();
    let sound = |(name, text): &&(String, String)| set.add(name, text).is_ok();
    let partials: Vec<&(String, String)> = partials.iter().filter(sound).collect();
    match set.add("main", source) {
        Ok(parsed) => {
            assert_eq!(reads(source).as_ref(), Ok(&parsed), "reading it twice gives the same");
            for read in &parsed.reads {
                within(source, &read.range);
            }
            for (_, range) in &parsed.includes {
                within(source, range);
            }
        }
        Err(errors) => {
            for error in &errors {
                within(source, &error.range);
            }
            return;
        }
    }
    let part = |name: &str| {
        let found = partials.iter().find(|(known, _)| known == name);
        found.map(|(_, text)| text.as_str())
    };
    let found = check_types(source, &ROOTS, &Facts::default(), "S402", &part);
    for (name, fault) in &found.faults {
        within(name.as_deref().map_or(source, |name| part(name).unwrap_or_default()), &fault.error.range);
    }
    // What is missing is found when it is rendered.
    if let Err(error) = set.freeze().render("main", &scope)
        && let Some(range) = &error.range
    {
        within(source, range);
    }
}

fn expression(source: &str, scope: &Scope) {
    let expr = match Expr::parse(source) {
        Ok(expr) => expr,
        Err(errors) => return errors.iter().for_each(|error| within(source, &error.range)),
    };
    for read in expr.reads() {
        within(source, &read.range);
    }
    let (_, faults) = infer(source, &ROOTS, &narrow(source, true));
    for fault in &faults {
        within(source, &fault.error.range);
    }
    for failed in [expr.eval(scope).err(), expr.eval_bool(scope).err()].into_iter().flatten() {
        if let Some(range) = &failed.range {
            within(source, range);
        }
    }
}

fn within(source: &str, range: &Range<usize>) {
    assert!(source.get(range.clone()).is_some(), "{range:?} of {source:?}");
}

/// The names that inputs can read: one of each type.
static ROOTS: LazyLock<Roots> = LazyLock::new(|| {
    let triage =
        [("intent", Type::Enum(vec!["billing".to_owned(), "other".to_owned()])), ("score", Type::NUMBER)];
    let record = triage.map(|(name, ty)| (name.to_owned(), Field::of(ty))).into_iter().collect();
    let fields = [
        ("text", Type::STRING),
        ("count", Type::INTEGER),
        ("score", Type::NUMBER),
        ("flag", Type::Boolean),
        ("maybe", Type::Nullable(Box::new(Type::STRING))),
        ("log", Type::List(Box::new(Type::STRING))),
        ("triage", Type::Record(record)),
        ("doc", Type::Object),
        ("any", Type::Any),
        ("messages", Type::Messages),
    ];
    let slot = |(name, ty): (&str, Type)| {
        (name.to_owned(), Slot { unset: name == "score", untrusted: true, ..Slot::of(ty) })
    };
    Roots::from([
        ("state".to_owned(), Root::Fields(fields.map(slot).into())),
        ("item".to_owned(), Root::Value(Slot::of(Type::Any))),
    ])
});

/// Values for these names.
fn scope() -> Scope {
    let state = json!({
        "text": "a text, ä\u{1f600}", "count": 3, "flag": true, "maybe": null, "log": ["a", "b", "c"],
        "triage": {"intent": "billing", "score": 0.5}, "doc": {"a": {"b": [1, -2.5, 1e300]}}, "any": [0, "", null, [[]]],
        "messages": [{"id": "1", "role": "user", "content": "hi"}, {"id": "2", "role": "assistant", "content": [{"type": "text", "text": "ho"}]}],
    });
    Scope::new().value("state", state).value("item", json!({"n": i64::MAX, "m": i64::MIN, "s": "x"}))
}
