//! The table of parity: each of its names is that of a test, and no line of the facts that it answers is left out.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::tidy::rust_files;

/// What the facts about LangGraph number as known to go wrong.
const FAULTS: std::ops::RangeInclusive<u32> = 1..=25;

/// What the facts list as due before one claims parity, by the words that a line of the table begins with. What belongs to the
/// service around a runtime is named in the text above the table.
const FEATURES: [&str; 51] = [
    "supersteps, writes",
    "merge order",
    "reducers",
    "`add_messages`",
    "`Overwrite`",
    "values of one run only",
    "`Send`",
    "conditional edges",
    "several targets",
    "`Command(goto=…)`",
    "`Command(update=…)`",
    "`Command(resume=…)`",
    "barrier and deferred joins",
    "sub-graphs with a namespace",
    "scopes of a sub-graph's state: per invocation, per thread",
    "the third scope",
    "keys shared",
    "static interrupts",
    "dynamic interrupts",
    "several questions",
    "schema of an answer",
    "retry policy",
    "run timeout",
    "cache of a node's writes",
    "error handlers",
    "recursion limit",
    "`max_concurrency`",
    "durability `sync`",
    "durability `async` and `exit`",
    "pending writes",
    "`get_state`",
    "`update_state(as_node)`",
    "fork, and replay",
    "store with namespaces",
    "stream modes `values`, `updates`",
    "stream mode `messages`",
    "stream mode `custom`",
    "stream mode `tasks`",
    "stream mode `checkpoints`",
    "stream mode `debug`",
    "the sub-graph of each event",
    "double texting: enqueue",
    "double texting: interrupt",
    "double texting: rollback",
    "cancel, keep",
    "cancel with rollback",
    "join, wait",
    "background runs",
    "delayed runs",
    "batch runs",
    "drain on shutdown",
];

/// Returns the whole names of the tests that a file holds, as the runner prints them without the name of the store.
fn tests_of(path: &Path, names: &mut BTreeSet<String>) {
    let text = fs::read_to_string(path).unwrap();
    let mut place: Vec<&str> = path.iter().map(|part| part.to_str().unwrap()).collect();
    // The tests over faults are a module of the others.
    place.drain(..if place.starts_with(&["tests", "it"]) { 2 } else { 1 });
    let file = place.pop().unwrap().trim_end_matches(".rs");
    place.extend((!["mod", "main", "lib"].contains(&file)).then_some(file));

    // A macro makes a module of each function that it is given, with a test for each store.
    let made = text.split("_every_store!").skip(1).filter_map(|rest| rest.split([')', ']']).next());
    let made: BTreeSet<&str> =
        made.flat_map(|list| list.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
    let (mut inner, mut marked) = (Vec::new(), false);
    for line in text.lines() {
        let code = line.trim_start();
        if let Some(name) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(" {")) {
            inner = vec![name];
        } else if line.starts_with('}') {
            inner.clear();
        }
        let function =
            code.split_once("fn ").filter(|(before, _)| ["", "async ", "pub(super) async "].contains(before));
        match function.and_then(|(_, rest)| rest.split(['(', '<']).next()) {
            Some(name) if marked || made.contains(name) => {
                names.insert(
                    place.iter().chain(&inner).chain([&name]).copied().collect::<Vec<_>>().join("::"),
                );
                marked = false;
            }
            Some(_) => {}
            None => {
                marked = code.starts_with("#[") && code.contains("test")
                    || marked && code.starts_with(['#', '/', ')']);
            }
        }
    }
}

/// Returns the rows of the table under a heading: what it is, and what shows it.
fn rows<'t>(table: &'t str, heading: &str) -> Vec<(&'t str, &'t str)> {
    let part = table.split("\n## ").find(|part| part.starts_with(heading)).unwrap();
    let lines = part.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| What"));
    let row = |line: &'t str| {
        let (what, rest) = line.trim_start_matches("| ").split_once(" | ").unwrap();
        (what, rest.trim_end_matches(" |").rsplit_once(" | ").unwrap().1)
    };
    lines.map(row).collect()
}

#[test]
fn the_table_leaves_out_no_line_of_the_facts_and_names_only_tests_that_are_there() {
    let mut names = BTreeSet::new();
    for folder in ["src", "tests"] {
        for path in rust_files(Path::new(folder)) {
            tests_of(&path, &mut names);
        }
    }
    assert!(names.len() > 500, "the tests were not found: {}", names.len());
    let table = fs::read_to_string("tests/parity.md").unwrap();
    let (can, wrong) = (rows(&table, "What it can do"), rows(&table, "Where it is known to go wrong"));
    let mut missing = Vec::new();
    for (what, shown) in can.iter().chain(&wrong) {
        let shown_by: Vec<&str> =
            shown.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect();
        if shown_by.is_empty() && !shown.starts_with("open: ") && !shown.starts_with("left out: ") {
            missing.push(format!("no test, and neither open nor left out with a reason: {what}"));
        }
        let gone = shown_by.into_iter().filter(|name| !names.contains(*name));
        missing.extend(gone.map(|name| format!("there is no test {name}")));
    }
    for feature in FEATURES {
        if can.iter().filter(|(what, _)| what.starts_with(feature)).count() != 1 {
            missing.push(format!("not in the table once: {feature}"));
        }
    }
    let number = |what: &str| what.split_once(": ").and_then(|(number, _)| number.parse::<u32>().ok());
    let numbers: BTreeSet<u32> = wrong.iter().filter_map(|(what, _)| number(what)).collect();
    assert_eq!(numbers, FAULTS.collect(), "the faults of the facts");
    assert_eq!(missing, Vec::<String>::new());
}
