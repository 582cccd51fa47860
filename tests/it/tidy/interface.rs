//! What a program can use stands on one page, whole, and each item of it is shown at work.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{module, rust_files};

const TYPES: [&str; 3] = ["pub struct ", "pub enum ", "pub trait "];
/// Types within traits of others.
const INNER: [&str; 2] = ["Item", "Output"];
const FUNCTIONS: [&str; 4] = ["pub fn ", "pub async fn ", "pub const fn ", "fn "];

/// A file of `src`: its module, and its lines.
struct File {
    module: String,
    lines: Vec<String>,
}

/// Returns what `src/lib.rs` hands on, by module and name.
fn handed_on(lib: &str) -> Vec<(&str, &str)> {
    let mut items = Vec::new();
    for line in lib.split("\npub use ").skip(1) {
        let line = line.split(';').next().unwrap();
        let names = line.rsplit("::").next().unwrap().trim_matches(['{', '}', '\n']);
        let module = line.split("::").next().unwrap();
        let names = names.split(',').map(|name| name.split(" as ").next().unwrap().trim());
        items.extend(names.filter(|name| !name.is_empty()).map(|name| (module, name)));
    }
    items
}

/// Returns the name that a line defines, if it begins with one of these words.
fn defined<'l>(line: &'l str, words: &[&str]) -> Option<&'l str> {
    let rest = words.iter().find_map(|word| line.strip_prefix(word))?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// Returns the types that a text names.
fn types_in(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with(|c: char| c.is_ascii_uppercase()) && !INNER.contains(word))
}

/// An item, as its text tells.
struct Told {
    name: String,
    /// Its comment shows how it is used.
    example: bool,
    /// The types that whoever uses it comes to see.
    types: BTreeSet<String>,
}

impl File {
    fn read(path: &Path) -> Self {
        let lines = fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
        Self { module: module(path), lines }
    }

    /// Tells of the item in a line; nothing of what is hidden.
    fn told(&self, name: String, at: usize, types: &str) -> Option<Told> {
        let above = self.lines[..at].iter().rev().map(|line| line.trim());
        let above: Vec<&str> =
            above.take_while(|line| line.starts_with("///") || line.starts_with("#[")).collect();
        let example = above.iter().any(|line| line.starts_with("/// ```"));
        let types = types_in(types).map(str::to_owned).collect();
        (!above.contains(&"#[doc(hidden)]")).then_some(Told { name, example, types })
    }

    /// Returns the lines within the braces that begin in this one.
    fn inside(&self, at: usize) -> std::ops::Range<usize> {
        if !self.lines[at].ends_with('{') {
            return at..at;
        }
        let length = self.lines[at + 1..].iter().position(|line| line.starts_with('}')).unwrap();
        at + 1..at + 1 + length
    }

    /// Returns what the fields of a type, and those of its variants, are.
    fn fields(&self, at: usize) -> String {
        let (head, is_struct) = (&self.lines[at], self.lines[at].starts_with("pub struct"));
        let tuple = head.split_once("(pub ").map(|(_, of)| of).unwrap_or_default();
        let within = self.lines[self.inside(at)].iter().map(|line| line.trim());
        let within =
            within.filter(|line| !line.starts_with(['/', '#']) && (!is_struct || line.starts_with("pub ")));
        within
            .filter_map(|line| line.split_once([':', '(']).map(|(_, of)| of))
            .chain([tuple])
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Returns the functions of a block, each with its signature.
    fn functions(&self, of: &str, at: usize, words: &[&str]) -> Vec<Told> {
        let function = |at: usize| {
            let name = defined(self.lines[at].strip_prefix("    ")?, words)?;
            let signature = self.lines[at..].iter().map(|line| line.split(['{', ';']));
            let mut text = String::new();
            for mut parts in signature {
                text += parts.next().unwrap_or_default();
                if parts.next().is_some() {
                    break;
                }
            }
            self.told(format!("{of}::{name}"), at, &text)
        };
        self.inside(at).filter_map(function).collect()
    }

    /// Tells of a type and its functions, as far as they stand in this file.
    fn item(&self, name: &str) -> Vec<Told> {
        let mut all = Vec::new();
        for (at, line) in self.lines.iter().enumerate() {
            // The ids are made by a macro.
            let made = self.module == "id" && line.trim() == name;
            if made || defined(line, &TYPES) == Some(name) {
                all.extend(self.told(name.to_owned(), at, &self.fields(at)));
                if line.starts_with("pub trait ") {
                    all.extend(self.functions(name, at, &FUNCTIONS));
                }
            } else if line.starts_with("impl")
                && !line.contains(" for ")
                && types_in(line).any(|ty| ty == name)
            {
                all.extend(self.functions(name, at, &FUNCTIONS[..3]));
            }
        }
        all
    }
}

#[test]
fn every_item_of_the_interface_has_an_example_and_names_only_items_of_it() {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let shown = |(before, after): &(&str, &str)| after.starts_with("pub mod ") && *before != "#[doc(hidden)]";
    let shown: Vec<&str> = lib.lines().zip(lib.lines().skip(1)).filter(shown).map(|(_, line)| line).collect();
    assert_eq!(shown, ["pub mod cli;"], "the house is not shown");

    let files: Vec<File> = rust_files(Path::new("src")).iter().map(|path| File::read(path)).collect();
    let ours: BTreeSet<&str> =
        files.iter().flat_map(|file| &file.lines).filter_map(|line| defined(line, &TYPES)).collect();
    let items = handed_on(&lib);
    let mut all = Vec::new();
    for (module, name) in &items {
        let told: Vec<Told> =
            files.iter().filter(|file| file.module == *module).flat_map(|file| file.item(name)).collect();
        assert!(told.iter().any(|told| told.name == *name), "`{name}` of `{module}` was not found");
        all.extend(told);
    }
    let cli = File::read(Path::new("src/cli/mod.rs"));
    let open =
        cli.lines.iter().enumerate().filter_map(|(at, line)| Some((at, defined(line, &FUNCTIONS[..3])?)));
    all.extend(open.filter_map(|(at, name)| cli.told(format!("cli::{name}"), at, &cli.lines[at])));

    let mut wrong = Vec::new();
    for told in &all {
        if !told.example {
            wrong.push(format!("{} has no example", told.name));
        }
        let handed_on = |ty: &str| items.iter().any(|(_, name)| *name == ty);
        let foreign = told.types.iter().filter(|ty| ours.contains(ty.as_str()) && !handed_on(ty));
        wrong.extend(
            foreign.map(|ty| format!("{} names `{ty}`, which the crate does not hand on", told.name)),
        );
    }
    assert!(all.len() > 130, "the items are not read: {}", all.len());
    assert_eq!(wrong, Vec::<String>::new());
}
