//! Gives a thing another name, at all its places or not at all.

use std::collections::BTreeSet;
use std::ops::Range;

use super::index::{Callee, Index};
use super::kept::Kept;
use super::place::unified;
use super::project::Project;
use super::symbol::{Access, Mark, Sort, Symbol};
use super::told::is_test;
use crate::diagnostic::Lines;
use crate::spec::check_name;

/// Returns the name at a place that can be changed. An error says why it cannot.
pub(super) fn prepare(
    project: &Project,
    path: &str,
    offset: usize,
) -> Option<Result<(String, Range<usize>), String>> {
    let kept = project.files.get(path)?;
    let (mark, range) = kept.mark_at(offset)?;
    Some(allowed(project, mark).map(|()| (mark.symbol.name.clone(), range)))
}

/// Returns the bytes to replace, by file.
pub(super) fn rename(
    project: &Project,
    path: &str,
    offset: usize,
    name: &str,
) -> Result<Vec<(String, Range<usize>)>, String> {
    if !project.whole {
        return Err("the project is still being read: try again".to_owned());
    }
    let kept = project.files.get(path).ok_or("this file belongs to no project")?;
    let (mark, _) = kept.mark_at(offset).ok_or("there is no name here")?;
    allowed(project, mark)?;
    let symbol = &mark.symbol;
    if let Some(why) = symbol.sort.rule().and_then(|rule| check_name(name, rule)) {
        return Err(why);
    }
    if name != symbol.name && project.names(symbol.sort, &symbol.scope).iter().any(|known| known == name) {
        return Err(format!("there is a {} `{name}` already", symbol.sort.word()));
    }
    if let Some((broken, _)) = project.files.iter().find(|(path, kept)| matters(path) && !kept.is_sound()) {
        return Err(format!("`{broken}` cannot be read: mend it first"));
    }
    if symbol.sort == Sort::Channel {
        check_channel(project, symbol, name)?;
    }
    if matches!(symbol.sort, Sort::Node | Sort::Channel) {
        check_tests(project, symbol)?;
    }
    let places = project.places(symbol);
    // What changed on the disk without a word to us must not be edited blindly.
    let stale = places.iter().find(|found| {
        let kept = &project.files[found.path];
        let stored = || std::fs::read_to_string(project.full(found.path)).ok().map(unified);
        !kept.open && stored().as_deref() != Some(&*kept.text)
    });
    if let Some(found) = stale {
        return Err(format!("`{}` changed on the disk: open it, and try again", found.path));
    }
    Ok(places.into_iter().map(|found| (found.path.to_owned(), found.range)).collect())
}

/// Says why a name cannot be changed here.
fn allowed(project: &Project, mark: &Mark) -> Result<(), String> {
    let symbol = &mark.symbol;
    if !symbol.fields.is_empty() {
        return Err("fields of a type cannot be renamed: templates may read them by other names".to_owned());
    }
    match symbol.sort {
        Sort::Prompt | Sort::Partial | Sort::Graph => {
            return Err(format!("a {} is named by its file: rename the file", symbol.sort.word()));
        }
        Sort::Input => {
            return Err("an input is named by those who call: it cannot be renamed here".to_owned());
        }
        Sort::Tool => {
            return Err("a tool is named by tests and by models: it cannot be renamed here".to_owned());
        }
        Sort::Setting => {
            return Err(
                "a setting is named by the variable that is set: it cannot be renamed here".to_owned()
            );
        }
        _ => {}
    }
    if project.definition(symbol).is_none() {
        return Err(format!("there is no {} `{}`", symbol.sort.word(), symbol.name));
    }
    Ok(())
}

/// Tells whether a file of this path can hold names.
fn matters(path: &str) -> bool {
    let read_me = path.rsplit('/').next().is_some_and(|name| name.starts_with("README"));
    super::complete::table(path).is_some() && !read_me
}

/// Refuses to rename what a test may know by a name that its table makes: a test of its graph, or of one that calls it.
fn check_tests(project: &Project, symbol: &Symbol) -> Result<(), String> {
    for (path, kept) in project.files.iter().filter(|(path, _)| is_test(path)) {
        let known = |index: &&Index| {
            index.tested.as_ref().is_none_or(|graph| calls(project, graph).contains(&symbol.scope))
        };
        let index = kept.index().filter(known);
        if let Some((index, place)) = index.and_then(|index| Some((index, index.hidden.first()?))) {
            let (line, _) = Lines::of(&index.text).utf16(place.start);
            return Err(format!(
                "line {} of `{path}` may name `{}` in a way that cannot be told",
                line + 1,
                symbol.name
            ));
        }
    }
    Ok(())
}

/// Returns the file of a graph, and those of the graphs that its nodes call.
fn calls(project: &Project, graph: &str) -> BTreeSet<String> {
    let mut files = BTreeSet::new();
    let mut todo = vec![format!("{graph}.yaml")];
    while let Some(file) = todo.pop() {
        let index = project.files.get(&file).and_then(Kept::index);
        let called = index.into_iter().flat_map(|index| index.calls.values());
        todo.extend(called.filter_map(|callee| match callee {
            Callee::Graph(graph) => Some(format!("{graph}.yaml")).filter(|file| !files.contains(file)),
            _ => None,
        }));
        files.insert(file);
    }
    files
}

/// Refuses to rename a channel that something may know by its name alone.
fn check_channel(project: &Project, symbol: &Symbol, name: &str) -> Result<(), String> {
    let graph = project.files.get(&symbol.scope);
    let index = graph.and_then(Kept::index).ok_or("the graph cannot be read")?;
    if let Some(place) = index.hidden.first() {
        let (line, _) = Lines::of(&index.text).utf16(place.start);
        return Err(format!(
            "line {} may read `state.{}` in a way that cannot be told",
            line + 1,
            symbol.name
        ));
    }
    for ask in &index.asks {
        let file = format!("prompts/{}.md", ask.prompt);
        for input in project.names(Sort::Input, &file) {
            if (input == symbol.name || input == name) && !ask.with.contains(&input) {
                return Err(format!(
                    "the input `{input}` of prompt `{}` takes the channel of its name in node `{}`: \
                     write  with: {{{input}: …}}  there first",
                    ask.prompt, ask.node
                ));
            }
        }
    }
    let free = |kept: &Kept| {
        let reads = kept.index().map(|index| &index.free[..]).unwrap_or_default();
        reads.iter().any(|(root, first)| root == "state" && (*first == symbol.name || first.is_empty()))
    };
    if let Some((path, _)) = project.files.iter().find(|(_, kept)| free(kept)) {
        return Err(format!("the partial `{path}` reads `state.{}`", symbol.name));
    }
    Ok(())
}

/// Tells whether a place changes what is there.
pub(super) fn writes(mark: &Mark) -> bool {
    mark.access != Access::Read
}
