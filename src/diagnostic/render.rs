//! Prints findings: for people as rustc does, for programs as JSON.

use std::collections::BTreeMap;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Level, Renderer, Snippet};
use serde_json::{Value as Json, json};

use super::{Bag, Diagnostic, FileId, Label, Severity};

/// Prints the findings for people, as rustc does.
pub fn render_text(bag: &Bag, color: bool) -> String {
    let masked = masked_sources(bag);
    let mut out = String::new();
    for finding in &bag.findings {
        out += &render(bag, &masked, finding, color);
    }
    if bag.left_out() > 0 {
        out += &bag.left_out().to_string();
        out += " more findings are not shown\n";
    }
    out
}

/// Prints one finding for people, over the sources of a bag.
pub fn render_one(bag: &Bag, finding: &Diagnostic, color: bool) -> String {
    render(bag, &BTreeMap::new(), finding, color)
}

fn render(bag: &Bag, masked: &BTreeMap<FileId, String>, finding: &Diagnostic, color: bool) -> String {
    let renderer = if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii);
    let level = match finding.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Lint => Level::WARNING.with_name("lint"),
    };
    // Files in the order in which the finding names them; the primary one first.
    let mut files: Vec<(FileId, Vec<(AnnotationKind, &Label)>)> = Vec::new();
    let labels = std::iter::once((AnnotationKind::Primary, &finding.label))
        .chain(finding.related.iter().map(|label| (AnnotationKind::Context, label)));
    for (kind, label) in labels {
        match files.iter_mut().find(|(file, _)| *file == label.span.file) {
            Some((_, labels)) => labels.push((kind, label)),
            None => files.push((label.span.file, vec![(kind, label)])),
        }
    }
    let mut elements: Vec<Element<'_>> = Vec::new();
    for (file, labels) in &files {
        let (path, text) = bag.source(*file);
        let text = masked.get(file).map_or(text, String::as_str);
        // Only the lines from the first label to the last: a long file costs no more than a short one.
        let (first, last) = labels.iter().fold((text.len(), 0), |(first, last), (_, label)| {
            (first.min(label.span.start as usize), last.max(label.span.end as usize).min(text.len()))
        });
        let first = text[..floor(text, first)].rfind('\n').map_or(0, |at| at + 1);
        let last = floor(text, last);
        let last = text[last..].find('\n').map_or(text.len(), |at| last + at + 1);
        let line = text[..first].matches('\n').count() + 1;
        let mut snippet = Snippet::source(&text[first..last]).path(path).line_start(line);
        for (kind, label) in labels {
            let (start, end) = (label.span.start as usize, label.span.end as usize);
            let range = start.min(last) - first..end.min(last) - first;
            snippet = snippet.annotation(kind.span(range).label(&*label.text));
        }
        elements.push(snippet.into());
    }
    if let Some(help) = &finding.help {
        elements.push(Level::HELP.message(&**help).into());
    }
    for note in &finding.notes {
        elements.push(Level::NOTE.message(&**note).into());
    }
    let title = level.primary_title(&*finding.message).id(finding.code);
    renderer.render(&[title.elements(elements)]) + "\n\n"
}

/// Returns the last place at or before `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Returns the sources that hold a key, with stars in its place: whatever line is shown, it shows no secret.
fn masked_sources(bag: &Bag) -> BTreeMap<FileId, String> {
    let mut masked = BTreeMap::new();
    for label in bag.findings.iter().filter(|f| f.code == "M504").map(|f| &f.label) {
        let text = masked.entry(label.span.file).or_insert_with(|| bag.source(label.span.file).1.to_owned());
        let range = label.span.start as usize..label.span.end as usize;
        if text.get(range.clone()).is_some() {
            text.replace_range(range.clone(), &"*".repeat(range.len()));
        }
    }
    masked
}

/// Returns the findings for programs, in the shape that `check --format json` prints.
pub fn render_json(bag: &Bag) -> Json {
    let (errors, warnings, lints) = bag.counts();
    json!({
        "findings": bag.findings.iter().map(|f| finding_json(bag, f)).collect::<Vec<_>>(),
        "summary": {"errors": errors, "warnings": warnings, "lints": lints},
    })
}

/// Returns one finding for programs, over the sources of a bag.
pub fn finding_json(bag: &Bag, f: &Diagnostic) -> Json {
    let at = |label: &Label| {
        let place = bag.place(label.span);
        json!({
            "file": bag.source(label.span.file).0,
            "line": place.line,
            "column": place.column,
            "end_line": place.end_line,
            "end_column": place.end_column,
            "label": label.text,
        })
    };
    let severity = match f.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Lint => "lint",
    };
    let mut json = json!({"code": f.code, "severity": severity, "message": f.message});
    if let (Some(object), Json::Object(place)) = (json.as_object_mut(), at(&f.label)) {
        object.extend(place);
        object.insert("related".into(), f.related.iter().map(at).collect());
        if let Some(help) = &f.help {
            object.insert("help".into(), json!(help));
        }
        object.insert("notes".into(), json!(f.notes));
    }
    json
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    #[test]
    fn a_finding_prints_as_rustc_does_with_columns_in_code_points() {
        let mut bag = Bag::default();
        let text = "a: über anwser\nb: x\n";
        let file = bag.add_source("graphs/chat.yaml", text);
        let start = text.find("anwser").unwrap() as u32;
        let span = Span { file, start, end: start + 6 };
        let b = text.rfind('b').map(|at| at as u32).unwrap();
        let b = Span { file, start: b, end: b + 1 };
        bag.report(
            Diagnostic::error("G201", "unknown node `anwser`", span, "no node has this name")
                .related(b, "a node with a similar name is defined here")
                .help("did you mean `answer`?"),
        );
        let printed = render_text(&bag, false);
        assert!(
            printed.starts_with("error[G201]: unknown node `anwser`\n --> graphs/chat.yaml:1:9\n"),
            "{printed}"
        );
        assert!(printed.contains("^^^^^^ no node has this name"), "{printed}");
        assert!(printed.contains("= help: did you mean `answer`?"), "{printed}");
        let json = render_json(&bag);
        assert_eq!(
            (&json["findings"][0]["column"], &json["findings"][0]["end_column"]),
            (&json!(9), &json!(15))
        );
    }
}
