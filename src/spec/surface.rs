//! Mistakes of the YAML surface that are clearer in the text than in what a parser makes of it.

use serde_yaml::granit_parser::{ErrorKind, ScanError};

use super::parse::{MAX_DEPTH, Source};
use crate::diagnostic::{Diagnostic, Span};

/// Looks for what would confuse the parser: NUL, and tabs in the indent.
pub(super) fn before_parsing(source: &Source<'_>) -> Option<Diagnostic> {
    if let Some(at) = source.text.find('\0') {
        let span = source.span(at, at + 1);
        let finding = Diagnostic::error("Y001", "a NUL character (U+0000)", span, "no part of any text");
        return Some(finding.help("remove it"));
    }
    let mut at = 0;
    let mut block: Option<usize> = None;
    for line in source.text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches([' ', '\t']).len();
        let blank = line.trim().is_empty();
        // Within a block scalar a tab behind the indent is text.
        let spaces = line.len() - line.trim_start_matches(' ').len();
        let inside = block.is_some_and(|outer| spaces > outer);
        if !inside && line.starts_with("<<<<<<< ") {
            let span = source.span(at, at + line.trim_end().len());
            let finding = Diagnostic::error("Y001", "a conflict of a merge", span, "left by git");
            return Some(finding.help(
                "keep one of the two versions, and remove the lines that begin with <<<<<<<, ======= and >>>>>>>",
            ));
        }
        if !blank && !inside {
            block = line.trim_end().ends_with(['|', '>']).then_some(indent);
            if let Some(tab) = line[..indent].find('\t') {
                let span = source.span(at + tab, at + tab + 1);
                let finding =
                    Diagnostic::error("Y001", "a tab in the indent", span, "YAML indents with spaces only");
                return Some(finding.help("use two spaces"));
            }
        }
        at += line.len();
    }
    None
}

/// Finds a character that was pasted for another one: curly quotes, spaces that do not break or show.
pub(super) fn typography(text: &str) -> Option<(usize, char, &'static str)> {
    text.char_indices().find_map(|(at, c)| {
        let meant = match c {
            '\u{201c}' | '\u{201d}' | '\u{201e}' => "`\"`",
            '\u{2018}' | '\u{2019}' => "`'`",
            '\u{a0}' | '\u{202f}' => "a space",
            '\u{200b}' | '\u{200c}' | '\u{200d}' | '\u{2060}' | '\u{feff}' => "nothing",
            _ => return None,
        };
        Some((at, c, meant))
    })
}

/// Says whether a character was pasted for a quote.
pub(super) fn is_quote(c: char) -> bool {
    ('\u{2018}'..='\u{201e}').contains(&c)
}

/// Reports a pasted character by its code point.
pub(super) fn pasted(span: Span, c: char, meant: &str) -> Diagnostic {
    let name = match c {
        '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{2018}' | '\u{2019}' => "a curly quote",
        '\u{a0}' | '\u{202f}' => "a no-break space",
        _ => "a character without width",
    };
    let message = format!("{name} (U+{:04X})", c as u32);
    Diagnostic::error("Y001", message, span, "pasted from a text editor")
        .help(format!("replace it by {meant}"))
}

/// After so many the rest of a file is not looked at.
const QUOTES: usize = 200;

/// Finds the curly quotes that other values behind a place begin with.
pub(super) fn more_quotes(source: &Source<'_>, after: usize) -> impl Iterator<Item = Diagnostic> {
    let value = |head: &str| {
        let key = head.strip_suffix(": ").and_then(|head| head.split([' ', '{', ',']).next_back());
        let named = key
            .is_some_and(|key| !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        (named || head.ends_with(['[', '{']) || head.trim() == "-")
            && outside_quotes(head)
            && !head.contains('#')
    };
    let quotes = source.text.char_indices().filter(move |(at, c)| *at >= after && is_quote(*c));
    quotes.take(QUOTES).filter_map(move |(at, _)| {
        let line = source.text[..at].rfind('\n').map_or(0, |at| at + 1);
        let (_, c, meant) = typography(&source.text[at..]).filter(|_| value(&source.text[line..at]))?;
        Some(pasted(source.span(at, at + c.len_utf8()), c, meant))
    })
}

/// Reports `{{ … }}` outside quotes, from its first brace on.
pub(super) fn braces(source: &Source<'_>, start: usize) -> Diagnostic {
    let line = &source.text[start..source.line_end(start)];
    let end = line.find("}}").map_or(2, |end| end + 2);
    let span = source.span(start, start + end.min(line.len()));
    Diagnostic::error("Y003", "braces outside quotes", span, "YAML reads `{{` as a map")
        .help("put the whole text into double quotes; in an expression key drop the braces")
}

/// Says what a piece of an expression leaves open: a parenthesis or a quote. `)` stands for one that
/// closes more than it opens.
pub(super) fn opens(text: &str) -> Option<char> {
    let mut depth = 0_i32;
    let mut quote = None;
    let mut before = ' ';
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) => quote = quote.filter(|_| c != open),
            // An apostrophe within a word opens nothing.
            (None, '\'' | '"') if !before.is_alphanumeric() => quote = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            _ => {}
        }
        before = c;
    }
    match depth {
        _ if quote.is_some() => quote,
        1.. => Some('('),
        0 => None,
        _ => Some(')'),
    }
}

/// Turns the parser's error into a finding. `last` is where the parser was before.
pub(super) fn explain(source: &Source<'_>, error: &ScanError, last: usize) -> Diagnostic {
    let text = source.text;
    let mut at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    // At the end of the text the last line that says something is shown.
    if text[at..].trim().is_empty() {
        at = text.trim_end().len().saturating_sub(1);
    }
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let word = text[at..].find(|c: char| c.is_whitespace()).map_or(text.len() - at, |end| end);
    let first = text[at..].chars().next().map_or(0, char::len_utf8);
    let span = source.span(at, at + word.max(first));
    let line = text[..at].rfind('\n').map_or(0, |at| at + 1);
    let line_text = &text[line..source.line_end(at)];

    if let Some(start) = line_text.find("{{").filter(|start| outside_quotes(&line_text[..*start]))
        && line + start <= at
    {
        return braces(source, line + start);
    }
    if let Some(directive) = text.lines().next().filter(|first| first.starts_with('%')) {
        let span = source.span(0, directive.trim_end().len());
        return Diagnostic::error("Y001", "a directive of YAML", span, "nothing is read from it")
            .help("remove the line: every file is YAML 1.2");
    }
    let near = text[..line].trim_end().rfind('\n').map_or(0, |at| at + 1);
    let block = &text[near..source.line_end(at)];
    if let Some((offset, c, meant)) = typography(block) {
        return pasted(source.span(near + offset, near + offset + c.len_utf8()), c, meant);
    }
    if let Some(finding) = super::slips::slip(source, error.kind(), at) {
        return finding;
    }
    let whole = "put the whole value into double quotes, and a text in it into single ones";
    match error.kind() {
        ErrorKind::InvalidTrailingDoubleQuotedScalar | ErrorKind::InvalidTrailingSingleQuotedScalar => {
            Diagnostic::error("Y006", "text after a closing quote", span, "YAML ends the value at the quote")
                .help(whole)
        }
        ErrorKind::MappingValueNotAllowed if !line_text.trim_start().starts_with(':') => {
            let colon = source.span(at, at + 1);
            Diagnostic::error(
                "Y006",
                "`: ` inside a text without quotes",
                colon,
                "YAML reads a key before it",
            )
            .help("put the text into double quotes")
        }
        ErrorKind::ExpectedFlowMappingSeparator | ErrorKind::ExpectedFlowSequenceSeparator
            if text[at..].starts_with(['[', '{']) =>
        {
            let message = "a bracket cuts the expression";
            Diagnostic::error("Y006", message, source.span(at, at + 1), "YAML ends the value here")
                .help(whole)
        }
        ErrorKind::RecursionLimitExceeded => Diagnostic::error(
            "Y007",
            "the file is nested too deeply",
            source.span(at, at + first),
            "one level too many",
        )
        .help(format!("nest at most {MAX_DEPTH} levels")),
        ErrorKind::UnexpectedCharacter { character } => {
            let message = format!("a text cannot begin with `{character}`");
            Diagnostic::error("Y001", message, span, "this character has a meaning in YAML")
                .help("put the text into quotes")
        }
        ErrorKind::ExpectedBlockMappingKey
        | ErrorKind::ExpectedBlockSequenceEntry
        | ErrorKind::InvalidIndentation => misindented(source, line, at, last).unwrap_or_else(|| {
            Diagnostic::error("Y001", "this is not YAML", span, error.kind().to_string())
                .help("look at the indent, the colons and the quotes here and in the line before")
        }),
        ErrorKind::CommentInterceptedScalar => {
            let message = "` #` cuts a text of several lines";
            Diagnostic::error("Y006", message, source.span(at, at + 1), "YAML reads a comment from here on")
                .help("put the text into double quotes, or write it as a block after `|`")
        }
        ErrorKind::UnclosedQuotedScalar => {
            Diagnostic::error("Y001", "a quote without an end", span, "it opens here").help("close the quote")
        }
        kind => Diagnostic::error("Y001", "this is not YAML", span, kind.to_string())
            .help("look at the brackets, the colons and the quotes here and in the line before"),
    }
}

/// Shows both lines of an indent that fits nowhere.
fn misindented(source: &Source<'_>, line: usize, at: usize, last: usize) -> Option<Diagnostic> {
    let text = source.text;
    let indent = |line: usize| text[line..].len() - text[line..].trim_start_matches(' ').len();
    let before = text[..line.min(last.max(1))].trim_end().rfind('\n').map_or(0, |at| at + 1);
    if line == 0 || at != line + indent(line) {
        return None;
    }
    let here = source.span(at, source.line_end(at));
    let there = before + indent(before);
    let message = "the indent fits no line before it";
    let finding = Diagnostic::error("Y001", message, here, format!("indented by {}", indent(line)));
    let finding = finding.related(
        source.span(there, source.line_end(there).max(there + 1)),
        format!("indented by {}", indent(before)),
    );
    Some(finding.help("indent entries of one map or list alike"))
}

/// Says whether a line up to a place leaves no quote open.
fn outside_quotes(before: &str) -> bool {
    before.matches('"').count().is_multiple_of(2) && before.matches('\'').count().is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_open_where_a_bracket_or_a_quote_is() {
        for (text, expected) in [
            ("f(a", Some('(')),
            ("b)", Some(')')),
            ("f(a)", None),
            ("state.x == 'a", Some('\'')),
            ("don't", None),
            ("the users' own", None),
            ("x == ')'", None),
        ] {
            assert_eq!(opens(text), expected, "{text}");
        }
    }
}
