//! Broken projects as people write them: each gives one finding, at its place, and mended it gives none.

use std::collections::BTreeSet;
use std::fs;

use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::Bag;
use graphloom::egress::Secret;
use graphloom::spec::{Files, load_files};

/// A project and what is found in it.
struct Case {
    name: String,
    files: Files,
    expected: Vec<String>,
}

/// Reads the cases of a folder: `=== name`, then `--- path` before each file, then `--- expect`.
fn cases(folder: &str) -> Vec<Case> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "txt"));
    paths.sort();
    let mut cases = Vec::new();
    for path in paths {
        let topic = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        for block in text.split_inclusive('\n').fold(Vec::<String>::new(), |mut blocks, line| {
            match line.strip_prefix("=== ") {
                Some(name) => blocks.push(name.to_owned()),
                None => blocks.last_mut().unwrap().push_str(line),
            }
            blocks
        }) {
            let (name, rest) = block.split_once('\n').unwrap();
            let (mut files, mut expected) = (Files::new(), Vec::new());
            for part in format!("\n{rest}").split("\n--- ").skip(1) {
                let (title, body) = part.split_once('\n').unwrap_or((part, ""));
                if title == "expect" {
                    expected = body.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
                } else {
                    let path = title.strip_prefix("graphs/").unwrap().to_owned();
                    files.insert(path, format!("{body}\n").into_bytes());
                }
            }
            cases.push(Case { name: format!("{topic}: {name}"), files, expected });
        }
    }
    cases
}

fn found(files: Files, providers: &Providers) -> Vec<String> {
    let mut bag = Bag::default();
    let folder = load_files("graphs", files, &mut bag);
    compile(&folder, providers, &mut bag);
    bag.sort();
    let shown = |f: &graphloom::diagnostic::Diagnostic| {
        let place = bag.place(f.label.span);
        format!("{} {}:{}:{}", f.code, bag.source(f.label.span.file).0, place.line, place.column)
    };
    bag.findings().iter().map(shown).collect()
}

fn check(folder: &str) -> usize {
    let cases = cases(folder);
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    let count = cases.len();
    let secrets = |name: &str| (name == "OPENAI_API_KEY").then(|| Secret::new("x"));
    let providers = Providers::lenient(Box::new(secrets)).unwrap();
    let wrong: Vec<String> = cases
        .into_iter()
        .filter_map(|case| {
            let found = found(case.files, &providers);
            (found != case.expected)
                .then(|| format!("{}\n  expected {:?}\n  found    {found:?}", case.name, case.expected))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    count
}

#[test]
fn a_slip_gives_one_finding_at_its_place_and_nothing_else() {
    assert!(check("tests/fixtures/corpus") >= 150);
}

#[test]
fn what_was_mended_gives_no_finding() {
    assert!(check("tests/fixtures/corpus/mended") >= 150);
}
