//! Slips behind a syntax error that the text around it shows better than the parser's words.

use serde_yaml::granit_parser::ErrorKind;

use super::parse::Source;
use super::surface::opens;
use crate::diagnostic::Diagnostic;

/// What to write where YAML takes a part of a value for something else.
const WHOLE: &str = "put the whole value into double quotes, and a text in it into single ones";

/// Looks for the slip behind an error at a byte of the text.
pub(super) fn slip(source: &Source<'_>, kind: &ErrorKind, at: usize) -> Option<Diagnostic> {
    let text = source.text;
    let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
    if let Some(finding) = commented(source, line) {
        return Some(finding);
    }
    match kind {
        ErrorKind::MappingValueNotAllowed => {
            unspaced(source, line).or_else(|| pushed(source, line, at)).or_else(|| unclosed(source, at))
        }
        ErrorKind::UnclosedQuotedScalar
        | ErrorKind::InvalidTrailingDoubleQuotedScalar
        | ErrorKind::InvalidTrailingSingleQuotedScalar => {
            escape(source, at).or_else(|| comma(source, line, at))
        }
        ErrorKind::UnexpectedCharacter { character: '%' } if text[..at].ends_with('{') => {
            let end = text[at..].find("%}").map_or(at + 1, |end| at + end + 2);
            let span = source.span(at - 1, end.min(source.line_end(at)));
            let finding =
                Diagnostic::error("Y003", "a template tag outside quotes", span, "YAML reads `{` as a map");
            Some(finding.help("put the whole text into double quotes, or write it as a block after `|`"))
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator
            if text[at..].starts_with(": ") =>
        {
            unclosed(source, at).or_else(|| {
                let span = source.span(at, at + 1);
                let message = "`: ` inside a text without quotes";
                let finding = Diagnostic::error("Y006", message, span, "YAML reads a key before it");
                Some(finding.help("put the text into double quotes"))
            })
        }
        _ => escape(source, at).or_else(|| trailing(source, line, at)).or_else(|| unclosed(source, at)),
    }
}

/// ` #` within a map or list in one line: what closes it is read as a comment. Looks at a line and the one before.
fn commented(source: &Source<'_>, line: usize) -> Option<Diagnostic> {
    let lines = [Some(line), before(source.text, line).map(|(start, _)| start)];
    lines.into_iter().flatten().find_map(|start| {
        let text = &source.text[start..source.line_end(start)];
        let (mut depth, mut quote, mut last) = (0, None, ' ');
        for (n, c) in text.char_indices() {
            match (quote, c) {
                (Some(q), c) => quote = (c != q).then_some(q),
                (None, '#') if last == ' ' && depth > 0 => {
                    let closes =
                        text[n..].matches(['}', ']']).count() > text[n..].matches(['{', '[']).count();
                    let finding = Diagnostic::error(
                        "Y006",
                        "` #` cuts the value",
                        source.span(start + n, start + n + 1),
                        "YAML reads a comment from here on",
                    );
                    return closes.then(|| finding.help("put the whole value into double quotes"));
                }
                (None, '\'' | '"') if !last.is_alphanumeric() => quote = Some(c),
                (None, '{' | '[') => depth += 1,
                (None, '}' | ']') => depth -= 1,
                _ => {}
            }
            last = c;
        }
        None
    })
}

/// The word of a line that is `word:` or `word: …`.
fn key(line: &str) -> Option<&str> {
    let (word, rest) = line.trim_start().split_once(':')?;
    let name = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    (name && (rest.is_empty() || rest.starts_with(' '))).then_some(word)
}

/// Returns the line before, and where it begins.
fn before(text: &str, line: usize) -> Option<(usize, &str)> {
    let end = text[..line].trim_end().len();
    let start = text[..end].rfind('\n').map_or(0, |at| at + 1);
    (end > start).then(|| (start, &text[start..end]))
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// `kind:say` on the line before: the parser reads one text over both lines.
fn unspaced(source: &Source<'_>, line: usize) -> Option<Diagnostic> {
    let (start, earlier) = before(source.text, line)?;
    let (word, rest) = earlier.trim().split_once(':')?;
    let name = !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if !name || rest.is_empty() || rest.starts_with(' ') || rest.starts_with("//") || rest.contains(": ") {
        return None;
    }
    let from = start + indent(earlier);
    let span = source.span(from, from + earlier.trim().len());
    let finding = Diagnostic::error("Y001", "no space after the colon", span, "YAML reads one word");
    Some(finding.help(format!("write  {word}: {rest}")))
}

/// A key that is indented more than its sisters goes on with the text of the line before.
fn pushed(source: &Source<'_>, line: usize, at: usize) -> Option<Diagnostic> {
    let text = source.text;
    let here = &text[line..source.line_end(line)];
    let word = key(here)?;
    let from = line + indent(here);
    if from + word.len() != at {
        return None;
    }
    let (start, earlier) = before(text, line)?;
    let sister = earlier.trim_start().trim_start_matches("- ");
    key(sister)?;
    let column = earlier.len() - sister.len();
    if indent(here) <= column {
        return None;
    }
    let finding = Diagnostic::error(
        "Y001",
        "the indent fits no line before it",
        source.span(from, source.line_end(from)),
        format!("indented by {}", indent(here)),
    );
    let finding =
        finding.related(source.span(start + column, start + earlier.len()), format!("indented by {column}"));
    Some(finding.help("indent entries of one map or list alike"))
}

/// A comma within a flow map cuts an expression: what stands before it leaves a quote or a bracket open.
fn comma(source: &Source<'_>, line: usize, at: usize) -> Option<Diagnostic> {
    let here = &source.text[line..at];
    for (n, _) in here.match_indices(',') {
        let value = here[..n].rfind(": ").map(|colon| colon + 2)?;
        let part = &here[value..n];
        if !part.starts_with(['\'', '"'])
            && here[..value].contains('{')
            && opens(part).is_some_and(|open| open != ')')
        {
            let span = source.span(line + value, line + n + 1);
            let finding = Diagnostic::error(
                "Y006",
                "a comma cuts the expression",
                span,
                "YAML ends the value at the comma",
            );
            return Some(finding.help(WHOLE));
        }
    }
    None
}

/// A backslash that means nothing within double quotes.
fn escape(source: &Source<'_>, at: usize) -> Option<Diagnostic> {
    let rest = &source.text[at..source.line_end(at)];
    let inner = rest.strip_prefix('"')?;
    let mut chars = inner.char_indices();
    while let Some((n, c)) = chars.next() {
        match c {
            '"' => return None,
            '\\' => {
                let (_, escaped) = chars.next()?;
                if !"0abtnvfre \"/\\N_LPxuU\t".contains(escaped) {
                    let from = at + 1 + n;
                    let span = source.span(from, from + 1 + escaped.len_utf8());
                    let finding = Diagnostic::error(
                        "Y001",
                        format!("`\\{escaped}` means nothing in double quotes"),
                        span,
                        "not an escape",
                    );
                    return Some(finding.help("in single quotes a backslash stays what it is"));
                }
            }
            _ => {}
        }
    }
    None
}

/// A text that goes on after a bracket which opened it.
fn trailing(source: &Source<'_>, line: usize, at: usize) -> Option<Diagnostic> {
    let here = source.text[line..at].trim_end();
    let rest = &source.text[at..];
    if !here.ends_with([']', '}']) || !rest.starts_with(|c: char| c.is_alphanumeric()) {
        return None;
    }
    let end = source.line_end(at);
    let finding = Diagnostic::error(
        "Y006",
        "text after a closing bracket",
        source.span(at, end),
        "YAML ends the value at the bracket",
    );
    Some(finding.help("put the whole text into double quotes"))
}

/// A bracket without an end, when the parser gave up on a later line.
fn unclosed(source: &Source<'_>, at: usize) -> Option<Diagnostic> {
    let mut open: Vec<(usize, char)> = Vec::new();
    let (mut quote, mut before) = (None, '\n');
    let mut comment = false;
    for (n, c) in source.text[..at].char_indices() {
        match (quote, c) {
            _ if comment => comment = c != '\n',
            (Some(q), c) => quote = (c != q).then_some(q),
            (None, '#') if before.is_whitespace() => comment = true,
            (None, '\'' | '"') if !before.is_alphanumeric() => quote = Some(c),
            // A bracket opens something only where a value can begin.
            (None, '{' | '[') if !open.is_empty() || starts_value(&source.text[..n]) => open.push((n, c)),
            (None, '}' | ']') => drop(open.pop()),
            _ => {}
        }
        before = c;
    }
    let (from, bracket) = *open.last()?;
    if !source.text[from..at].contains('\n') {
        return None;
    }
    let close = if bracket == '{' { '}' } else { ']' };
    let span = source.span(from, from + 1);
    let finding = Diagnostic::error("Y001", format!("a `{bracket}` without an end"), span, "it opens here");
    Some(finding.help(format!("close it with `{close}`")))
}

fn starts_value(text: &str) -> bool {
    let line = text[text.rfind('\n').map_or(0, |at| at + 1)..].trim_end();
    line.is_empty() || line.ends_with(':') || line.ends_with('-')
}
