//! Answers the requests of an editor.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use gen_lsp_types as lsp;
use lsp_server::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::complete::{At, complete};
use super::hover::{hover, why};
use super::offer::{Offer, What};
use super::place::{offset, path, range};
use super::project::{Found, Project};
use super::rename::{prepare, rename, writes};
use super::server::{Refusal, Server};
use super::symbol::{Access, Sort};
use crate::diagnostic::Lines;

/// Says what the server can do.
pub(super) fn capabilities() -> Json {
    json!({
        "positionEncoding": "utf-16",
        "textDocumentSync": {"openClose": true, "change": lsp::TextDocumentSyncKind::Incremental, "save": true},
        "completionProvider": {"triggerCharacters": [" ", ".", "/", "|", "@", "\"", "'", "[", "{"]},
        "hoverProvider": true,
        "definitionProvider": true,
        "referencesProvider": true,
        "documentHighlightProvider": true,
        "documentSymbolProvider": true,
        "renameProvider": {"prepareProvider": true},
    })
}

/// Answers a request.
pub(super) fn answer(server: &Server, method: &str, params: Json) -> Result<Json, Refusal> {
    match method {
        "textDocument/completion" => at(server, params, |_, at| {
            let (offers, replaced) = complete(at);
            let replaced = range(&Lines::of(at.text), &replaced);
            let items = offers.into_iter().enumerate().map(|(n, offer)| item(n, offer, replaced));
            Ok(json!(items.collect::<Vec<_>>()))
        }),
        "textDocument/hover" => at(server, params, |server, at| Ok(explain(server, at))),
        "textDocument/definition" => at(server, params, |server, at| Ok(definition(server, at))),
        "textDocument/references" => {
            let wanted = params.pointer("/context/includeDeclaration") != Some(&Json::Bool(false));
            at(server, params, |server, at| {
                let places = places(at).into_iter();
                let places = places.filter(|found| wanted || found.mark.access != Access::Define);
                let places = places.map(|found| (found.path.to_owned(), found.range));
                Ok(json!(locations(server, at.project, places)))
            })
        }
        "textDocument/documentHighlight" => at(server, params, |_, at| {
            let lines = Lines::of(at.text);
            let here = places(at).into_iter().filter(|found| found.path == at.path);
            let highlight = |found: Found<'_>| {
                let kind = if writes(found.mark) {
                    lsp::DocumentHighlightKind::Write
                } else {
                    lsp::DocumentHighlightKind::Read
                };
                lsp::DocumentHighlight::new(range(&lines, &found.range), Some(kind))
            };
            Ok(json!(here.map(highlight).collect::<Vec<_>>()))
        }),
        "textDocument/documentSymbol" => {
            let lsp::DocumentSymbolParams { text_document, .. } = read(params)?;
            Ok(whole(server, &text_document.uri, symbols))
        }
        "textDocument/prepareRename" => {
            at(server, params, |_, at| match prepare(at.project, at.path, at.offset) {
                None => Ok(Json::Null),
                Some(Err(why)) => Err((ErrorCode::RequestFailed, why)),
                Some(Ok((name, bytes))) => {
                    Ok(json!({"range": range(&Lines::of(at.text), &bytes), "placeholder": name}))
                }
            })
        }
        "textDocument/rename" => {
            let name = params.pointer("/newName").and_then(Json::as_str).unwrap_or_default().to_owned();
            at(server, params, |server, at| {
                let edits = rename(at.project, at.path, at.offset, &name);
                let edits = edits.map_err(|why| (ErrorCode::RequestFailed, why))?;
                Ok(workspace_edit(server, at.project, edits, &name))
            })
        }
        other => Err((ErrorCode::MethodNotFound, format!("`{other}` is not known here"))),
    }
}

fn read<T: DeserializeOwned>(params: Json) -> Result<T, Refusal> {
    serde_json::from_value(params).map_err(|error| (ErrorCode::InvalidParams, error.to_string()))
}

/// Answers what is asked of a place. Of a file without a project there is nothing to say.
fn at(
    server: &Server,
    params: Json,
    say: impl FnOnce(&Server, At<'_>) -> Result<Json, Refusal>,
) -> Result<Json, Refusal> {
    let asked: lsp::TextDocumentPositionParams = read(params)?;
    let found = file(server, &asked.text_document.uri);
    let Some((project, path, text)) = found else { return Ok(Json::Null) };
    let offset = offset(&Lines::of(text), asked.position);
    say(server, At { project, path: &path, text, offset })
}

/// Answers what is asked of a file.
fn whole<T: Serialize>(server: &Server, uri: &lsp::Uri, say: impl FnOnce(&Project, &str, &str) -> T) -> Json {
    file(server, uri).map_or(Json::Null, |(project, path, text)| json!(say(project, &path, text)))
}

/// Finds the project of an open file, the path in it, and the text.
fn file<'s>(server: &'s Server, uri: &lsp::Uri) -> Option<(&'s Project, String, &'s str)> {
    let file = path(uri)?;
    let document = server.documents.get(&file)?;
    let project = &server.projects.get(document.root.as_ref()?)?.project;
    Some((project, project.relative(&file)?, &document.text))
}

/// Says what stands at a place, and why what was found there is wrong.
fn explain(server: &Server, at: At<'_>) -> Json {
    let lines = Lines::of(at.text);
    let place = range(&lines, &(at.offset..at.offset));
    let near = server.shown(&at.project.full(at.path)).iter();
    let near = near.filter(|found| found.range.start <= place.start && place.start <= found.range.end);
    let mut said: Vec<String> = Vec::new();
    for found in near {
        if let Some(lsp::Code::String(code)) = &found.code {
            said.extend(why(code).filter(|why| !said.contains(why)));
        }
    }
    let (text, bytes) = hover(at).unzip();
    let all: Vec<String> = text.into_iter().chain(said).collect();
    if all.is_empty() {
        return Json::Null;
    }
    let content = json!({"kind": "markdown", "value": all.join("\n\n---\n\n")});
    match bytes {
        Some(bytes) => json!({"contents": content, "range": range(&lines, &bytes)}),
        None => json!({"contents": content}),
    }
}

/// Returns all places of the thing at a place.
fn places(at: At<'_>) -> Vec<Found<'_>> {
    let mark = at.project.files.get(at.path).and_then(|kept| kept.mark_at(at.offset));
    mark.map(|(mark, _)| at.project.places(&mark.symbol)).unwrap_or_default()
}

fn definition(server: &Server, at: At<'_>) -> Json {
    let mark = at.project.files.get(at.path).and_then(|kept| kept.mark_at(at.offset));
    let Some(symbol) = mark.map(|(mark, _)| mark.symbol.clone()).or_else(|| at.meant()) else {
        return Json::Null;
    };
    let place = match symbol.file() {
        Some(file) => at.project.files.contains_key(&file).then_some((file, 0..0)),
        None => at.project.definition(&symbol).map(|found| (found.path.to_owned(), found.range)),
    };
    json!(locations(server, at.project, place.into_iter()))
}

/// Turns bytes of files into places; a file's lines are counted once.
fn by_file(
    project: &Project,
    places: impl Iterator<Item = (String, Range<usize>)>,
) -> BTreeMap<PathBuf, Vec<lsp::Range>> {
    let mut files: BTreeMap<String, Vec<Range<usize>>> = BTreeMap::new();
    for (path, bytes) in places {
        files.entry(path).or_default().push(bytes);
    }
    let ranges = |(path, bytes): (String, Vec<Range<usize>>)| {
        let lines = Lines::of(project.files.get(&path).map_or("", |kept| &kept.text));
        (project.full(&path), bytes.iter().map(|bytes| range(&lines, bytes)).collect())
    };
    files.into_iter().map(ranges).collect()
}

fn locations(
    server: &Server,
    project: &Project,
    places: impl Iterator<Item = (String, Range<usize>)>,
) -> Vec<lsp::Location> {
    let located = by_file(project, places).into_iter().flat_map(|(file, ranges)| {
        let uri = server.uri(&file);
        ranges.into_iter().filter_map(move |range| Some(lsp::Location::new(uri.clone()?, range)))
    });
    located.collect()
}

fn workspace_edit(
    server: &Server,
    project: &Project,
    edits: Vec<(String, Range<usize>)>,
    name: &str,
) -> Json {
    let mut changes = serde_json::Map::new();
    let mut versioned = Vec::new();
    for (file, ranges) in by_file(project, edits.into_iter()) {
        let Some(uri) = server.uri(&file) else { continue };
        let edits: Vec<_> =
            ranges.into_iter().map(|range| lsp::TextEdit::new(range, name.to_owned())).collect();
        let version = server.documents.get(&file).map(|document| document.version);
        versioned.push(json!({"textDocument": {"uri": uri, "version": version}, "edits": edits}));
        changes.insert(uri.to_string(), json!(edits));
    }
    if server.versioned { json!({"documentChanges": versioned}) } else { json!({"changes": changes}) }
}

fn item(place: usize, offer: Offer, replaced: lsp::Range) -> lsp::CompletionItem {
    use lsp::CompletionItemKind as Kind;
    let kind = match offer.what {
        What::Node | What::Tool | What::Registered | What::Function => Kind::Function,
        What::Variable => Kind::Variable,
        What::Field => Kind::Field,
        What::File => Kind::File,
        What::Type => Kind::Class,
        What::Key => Kind::Property,
        What::Word => Kind::Keyword,
        What::Value => Kind::EnumMember,
    };
    let text = format!("{}{}", offer.label, offer.then);
    lsp::CompletionItem {
        label: offer.label,
        kind: Some(kind),
        detail: offer.detail,
        documentation: offer.doc.map(lsp::Documentation::String),
        // In the order of the language, not of the alphabet.
        sort_text: Some(format!("{place:05}")),
        text_edit: Some(lsp::CompletionItemTextEdit::TextEdit(lsp::TextEdit::new(replaced, text))),
        ..lsp::CompletionItem::default()
    }
}

/// Returns what a file defines.
fn symbols(project: &Project, path: &str, text: &str) -> Vec<lsp::DocumentSymbol> {
    let Some(kept) = project.files.get(path) else { return Vec::new() };
    let (lines, types) = (Lines::of(text), project.types());
    let defined =
        kept.marks().filter(|(mark, ..)| mark.access == Access::Define && mark.symbol.fields.is_empty());
    let symbol = |(mark, bytes, extent): (&super::symbol::Mark, Range<usize>, Range<usize>)| {
        let kind = match mark.symbol.sort {
            Sort::Node | Sort::Tool => lsp::SymbolKind::Function,
            Sort::Channel => lsp::SymbolKind::Variable,
            Sort::Input => lsp::SymbolKind::Property,
            Sort::Type => lsp::SymbolKind::Struct,
            Sort::Prompt | Sort::Partial | Sort::Graph => lsp::SymbolKind::File,
            Sort::Model | Sort::Retry | Sort::Setting => lsp::SymbolKind::Constant,
        };
        let ty = project.field(&mark.symbol, &types).map(|field| field.ty.to_string());
        let detail = ty.unwrap_or_else(|| mark.symbol.sort.word().to_owned());
        let (all, name) = (range(&lines, &extent), range(&lines, &bytes));
        lsp::DocumentSymbol::new(mark.symbol.name.clone(), Some(detail), kind, None, None, all, name, None)
    };
    defined.map(symbol).collect()
}
