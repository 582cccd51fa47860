//! What there is to say of the thing at a place.

use std::ops::Range;

use super::complete::{At, reach, table};
use super::cursor::{Cursor, Place, cursor};
use super::project::{Found, Project};
use super::symbol::{Access, Sort, Symbol};
use crate::compile::Types;
use crate::diagnostic::code_info;
use crate::spec::grammar::Shape;
use crate::state::Field;

/// The longest piece of YAML that is shown, in lines.
const LINES: usize = 12;

/// Returns a text in Markdown, and the bytes that it is about.
pub(super) fn hover(at: At<'_>) -> Option<(String, Range<usize>)> {
    let kept = at.project.files.get(at.path)?;
    if let Some((mark, range)) = kept.mark_at(at.offset) {
        return Some((about(at.project, &mark.symbol), range));
    }
    if let Some(said) = at.under() {
        return Some(said);
    }
    let Range { start, end } = at.word()?;
    let name = &at.text[start..end];
    if let Some(info) = code_info(name) {
        return Some((info.page.to_owned(), start..end));
    }
    if !at.text[end..].starts_with(':') {
        return None;
    }
    let (text, offset) = At { offset: end, ..at }.yaml_part()?;
    let cursor = cursor(text, offset);
    if !matches!(cursor.place, Place::Key | Place::Item) {
        return None;
    }
    let key = reach(Shape::Map(table(at.path)?), &cursor, text).key(&cursor, name)?;
    Some((format!("**key** `{}`\n\n{}", key.name, key.doc), start..end))
}

/// Says why a finding of a code is one, as its page begins.
pub(super) fn why(code: &str) -> Option<String> {
    let page = code_info(code)?.page;
    let (_, text) = page.split_once("\n\n")?;
    let text = text.split("\n## ").next().unwrap_or_default().trim();
    Some(format!("**{code}** {text}\n\n`graphloom explain {code}` shows an example."))
}

/// Says what is known of a thing.
fn about(project: &Project, symbol: &Symbol) -> String {
    let types = project.types();
    let mut said = head(project, symbol, &types);
    let definition = project.definition(symbol);
    let known = definition.is_some() || symbol.file().is_some_and(|file| project.files.contains_key(&file));
    if !known && project.whole {
        said.push(format!("There is no {} of this name.", symbol.sort.word()));
    }
    match symbol.sort {
        Sort::Node => said.extend(ways(project, symbol, definition.as_ref())),
        Sort::Channel if symbol.fields.is_empty() => {
            let places = project.places(symbol);
            let written = named(places.iter().filter(|found| found.mark.access == Access::Write));
            if !written.is_empty() {
                said.push(format!("Written by {written}."));
            }
        }
        Sort::Prompt => said.extend(inputs(project, symbol, &types)),
        Sort::Graph => {
            let kept = symbol.file().and_then(|file| project.files.get(&file));
            let mut lines = kept.into_iter().flat_map(|kept| kept.text.lines());
            said.extend(lines.find_map(|line| line.strip_prefix("description: ")).map(str::to_owned));
            said.extend(inputs(project, symbol, &types));
        }
        Sort::Model | Sort::Retry | Sort::Type | Sort::Tool | Sort::Setting if symbol.fields.is_empty() => {
            let piece = definition.as_ref().and_then(|found| piece(project, found));
            said.extend(piece.map(|piece| format!("```yaml\n{piece}\n```")));
        }
        _ => {}
    }
    said.join("\n\n")
}

/// Returns the first line: what it is, its name and its type.
fn head(project: &Project, symbol: &Symbol, types: &Types) -> Vec<String> {
    let word = match (symbol.sort, symbol.fields.len()) {
        (sort, 0) => sort.word(),
        (Sort::Tool, 1) => "argument",
        _ => "field",
    };
    let root = match symbol.sort {
        Sort::Channel => "state.",
        Sort::Input if !symbol.scope.starts_with("prompts/") => "input.",
        Sort::Setting => "env.",
        _ => "",
    };
    let name = std::iter::once(&symbol.name).chain(&symbol.fields).cloned().collect::<Vec<_>>().join(".");
    let field = project.field(symbol, types);
    let ty = field.as_ref().filter(|_| symbol.sort != Sort::Type || !symbol.fields.is_empty());
    let ty = ty.map_or_else(String::new, |field| format!(": `{}`", field.ty));
    let mut said = vec![format!("**{word}** `{root}{name}`{ty}")];
    let rules = rules(project, symbol, field.as_ref(), types);
    if !rules.is_empty() {
        said.push(rules.join(" · "));
    }
    said.extend(field.and_then(|field| field.description));
    said
}

/// Returns how a channel or an input works, in a few words.
fn rules(project: &Project, symbol: &Symbol, field: Option<&Field>, types: &Types) -> Vec<String> {
    let mut rules = Vec::new();
    if symbol.sort == Sort::Channel && symbol.fields.is_empty() {
        if let Some(channel) = project.channel(symbol, types) {
            rules.push(format!("merge `{}`", channel.merge));
            rules.push(match channel.start() {
                Some(start) => format!("starts as `{start}`"),
                None => "unset at first".to_owned(),
            });
            rules.extend(channel.private.then(|| "private".to_owned()));
            rules.extend(channel.per_run.then(|| "anew with each run".to_owned()));
        }
    } else if let Some(default) = field.and_then(|field| field.default.as_ref()) {
        rules.push(format!("default `{default}`"));
    }
    rules
}

/// Says what leads to a node and where it leads.
fn ways(project: &Project, symbol: &Symbol, definition: Option<&Found<'_>>) -> Vec<String> {
    let mut said = Vec::new();
    if let Some(found) = definition
        && let Some(kept) = project.files.get(found.path)
    {
        let block = &kept.text[found.extent.clone()];
        let body = block.split_once(':').map_or(block, |(_, body)| body);
        if let Some(kind) = Cursor::value_in(body, "kind") {
            said.push(format!("kind `{kind}`"));
        }
        if let Some(description) = Cursor::value_in(body, "description") {
            said.push(description.to_owned());
        }
    }
    // A test names a node without leading to it.
    let places = project.places(symbol);
    let leads = |found: &&Found<'_>| found.mark.access != Access::Define && found.path == symbol.scope;
    let from = named(places.iter().filter(leads));
    if !from.is_empty() {
        said.push(format!("Comes from {from}."));
    }
    let edges = project.marks().filter(|found| {
        let other = &found.mark.symbol;
        other.sort == Sort::Node
            && other.scope == symbol.scope
            && found.mark.access == Access::Read
            && found.mark.within.as_ref() == Some(&symbol.name)
    });
    let mut to: Vec<String> = edges.map(|found| format!("`{}`", found.mark.symbol.name)).collect();
    to.dedup();
    if !to.is_empty() {
        said.push(format!("Leads to {}.", to.join(", ")));
    }
    said
}

/// Lists the nodes that places are in; `start` stands for the top of the file.
fn named<'f, 'p: 'f>(places: impl Iterator<Item = &'f Found<'p>>) -> String {
    let mut names: Vec<String> =
        places.map(|found| format!("`{}`", found.mark.within.as_deref().unwrap_or("start"))).collect();
    names.sort();
    names.dedup();
    names.join(", ")
}

/// Lists the inputs of a prompt.
fn inputs(project: &Project, symbol: &Symbol, types: &Types) -> Option<String> {
    let file = symbol.file()?;
    let names = project.names(Sort::Input, &file);
    let line = |name: &String| match project.field(&Symbol::new(Sort::Input, &file, name), types) {
        Some(field) => format!("- `{name}`: `{}`", field.ty),
        None => format!("- `{name}`"),
    };
    let lines: Vec<String> = names.iter().map(line).collect();
    (!lines.is_empty()).then(|| format!("inputs:\n{}", lines.join("\n")))
}

/// Returns the YAML of a definition, as far as it is short.
fn piece(project: &Project, found: &Found<'_>) -> Option<String> {
    // What a server says of itself is told in other words.
    if found.path.ends_with(".json") {
        return None;
    }
    let text = project.files.get(found.path)?.text.get(found.extent.clone())?.to_owned();
    let mut lines: Vec<&str> = text.lines().take(LINES + 1).collect();
    if lines.len() > LINES {
        lines[LINES] = "…";
    }
    let indent = lines.iter().skip(1).filter(|line| !line.trim().is_empty());
    let indent = indent.map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0).saturating_sub(2);
    let cut = |line: &&str| line.get(indent..).filter(|_| line.starts_with(' ')).unwrap_or(line).to_owned();
    Some(lines.iter().map(cut).collect::<Vec<_>>().join("\n"))
}
