//! Syntax errors of expressions, told in the words of those who know other languages.

use std::ops::Range;

use minijinja::machinery::{ast, parse_expr};

use super::ExprError;
use super::node::TOO_DEEP;

/// The longest expression, in bytes. It bounds how deep a chain of operators can nest.
const LONGEST: usize = 8 * 1024;

/// How deep brackets, signs before a value and choices may nest, taken together: the parser goes down a dozen functions
/// for each, on whatever stack it has.
const DEEPEST: usize = 64;

/// Finds where a text nests too deeply to be parsed.
pub(crate) fn too_deep(source: &str) -> Option<usize> {
    let plain = without_texts(source);
    // How deep it was before each open bracket, and how deep its first item begins.
    let mut open: Vec<(usize, usize)> = Vec::new();
    let (mut first, mut depth, mut signs) = (0, 0, 0);
    let mut at = 0;
    while let Some(c) = plain[at..].chars().next() {
        let word = plain[at..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(plain.len() - at);
        let token = &plain[at..at + word.max(c.len_utf8())];
        match token {
            "-" | "not" => signs += 1,
            "(" | "[" | "{" => {
                open.push((first, depth));
                depth += signs + 1;
                (first, signs) = (depth, 0);
            }
            ")" | "]" | "}" => {
                (first, depth) = open.pop().unwrap_or_default();
                signs = 0;
            }
            // `x if c else y`: what follows is within the choice.
            "else" => (depth, signs) = (depth + 1, 0),
            "," => (depth, signs) = (first, 0),
            token if token.trim().is_empty() => {}
            _ => signs = 0,
        }
        if depth + signs > DEEPEST {
            return Some(at);
        }
        at += token.len();
    }
    None
}

/// Parses an expression.
pub(super) fn parse(source: &str) -> Result<ast::Expr<'_>, ExprError> {
    if source.trim().is_empty() {
        return Err(error(0..source.len(), "an expression is missing", "nothing here"));
    }
    if source.len() > LONGEST {
        let message = format!("an expression has at most {LONGEST} bytes");
        return Err(error(0..source.len(), &message, &format!("{} bytes", source.len())));
    }
    if let Some(at) = too_deep(source) {
        return Err(error(within(source, Some(at..at)), TOO_DEEP, "one level too many"));
    }
    if let Some(found) = braces(source) {
        return Err(found);
    }
    parse_expr(source).map_err(|found| {
        foreign_word(source, false).unwrap_or_else(|| {
            let range = within(source, found.range());
            error(range, found.detail().unwrap_or("the expression has no meaning"), "here")
        })
    })
}

fn error(range: Range<usize>, message: &str, label: &str) -> ExprError {
    ExprError { code: "E101", message: message.to_owned(), label: label.to_owned(), help: None, range }
}

/// Moves a range into the source, onto whole characters, and makes it at least one of them long.
pub(crate) fn within(source: &str, range: Option<Range<usize>>) -> Range<usize> {
    let Range { start, end } = range.unwrap_or(0..source.len());
    let start = source.floor_char_boundary(start.min(source.len()));
    let end = source.ceil_char_boundary(end.clamp(start, source.len()));
    if start < end {
        return start..end;
    }
    match source[start..].chars().next() {
        Some(c) => start..start + c.len_utf8(),
        None => source.floor_char_boundary(start.saturating_sub(1))..start,
    }
}

/// Returns the source with the insides of text literals blanked, byte for byte, so that signs can be
/// looked for.
fn without_texts(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut quote = None;
    let mut escaped = false;
    for c in source.chars() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(q) if c == q => {
                quote = None;
                out.push(c);
                continue;
            }
            Some(_) => {}
            None => {
                if c == '\'' || c == '"' {
                    quote = Some(c);
                }
                out.push(c);
                continue;
            }
        }
        out.extend(std::iter::repeat_n(' ', c.len_utf8()));
    }
    out
}

/// Finds the braces of a template or of a shell variable.
fn braces(source: &str) -> Option<ExprError> {
    let plain = without_texts(source);
    if plain.contains("{{") || plain.contains("{%") {
        return Some(ExprError {
            code: "E105",
            message: "braces in an expression".to_owned(),
            label: "this is already an expression".to_owned(),
            help: bare(source).map(|fixed| format!("write  {fixed}")),
            range: 0..source.len(),
        });
    }
    let start = plain.find("${")?;
    let end = plain[start..].find('}').map_or(source.len(), |n| start + n + 1);
    Some(ExprError {
        code: "E105",
        message: "`${…}` in an expression".to_owned(),
        label: "nothing is put in here".to_owned(),
        help: Some(
            "a secret is written {secret: NAME} where it is used; for a setting write env.NAME".to_owned(),
        ),
        range: start..end,
    })
}

/// Returns the expression that the author of `{{ … }}` meant.
pub(super) fn bare(source: &str) -> Option<String> {
    if source.contains("{%") {
        return None;
    }
    let dropped = source.replace("{{", "").replace("}}", "");
    let dropped = dropped.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut pieces = Vec::new();
    let mut rest = source.trim();
    while let Some(start) = rest.find("{{") {
        let end = rest[start..].find("}}").map(|n| start + n)?;
        pieces.push(literal(&rest[..start]));
        pieces.push(Some(rest[start + 2..end].trim().to_owned()));
        rest = &rest[end + 2..];
    }
    pieces.push(literal(rest));
    let joined = pieces.into_iter().flatten().collect::<Vec<_>>().join(" ~ ");
    [dropped, joined].into_iter().find(|fixed| parse_expr(fixed).is_ok())
}

fn literal(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")))
}

/// Finds the first sign or word that belongs to another language. Where the text is a tag that `assigns`,
/// a lone `=` is right.
pub(crate) fn foreign_word(source: &str, assigns: bool) -> Option<ExprError> {
    const SIGNS: [(&str, &str); 11] = [
        ("===", "write `==`"),
        ("!==", "write `!=`"),
        ("&&", "write `and`"),
        ("||", "write `or`"),
        ("??", "write `x | default(y)`"),
        ("?.", "write `.`, and test with `is defined` where a field may be missing"),
        ("<>", "write `!=`"),
        ("=~", "there are no regular expressions; a type has a `pattern:`"),
        ("=>", "write `>=`, or map with `x | map(attribute='name')`"),
        ("\u{201c}", "write straight quotes: 'text'"),
        ("\u{2018}", "write straight quotes: 'text'"),
    ];
    const WORDS: [(&str, &str); 5] = [
        ("AND", "write `and`"),
        ("OR", "write `or`"),
        ("NOT", "write `not`"),
        ("contains", "write it the other way round:  y in x"),
        ("matches", "there are no regular expressions; a type has a `pattern:`"),
    ];
    let plain = without_texts(source);
    let mut depth = 0_i32;
    for (at, c) in plain.char_indices() {
        let rest = &plain[at..];
        let found = |sign: &str, help: String| {
            let mut found = error(at..at + sign.len(), &format!("`{sign}` is not an operator here"), "here");
            found.help = Some(help);
            Some(found)
        };
        if let Some((sign, help)) = SIGNS.iter().find(|(sign, _)| rest.starts_with(sign)) {
            return found(sign, (*help).to_owned());
        }
        let before = plain[..at].chars().next_back();
        let after = rest[c.len_utf8()..].chars().next();
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '!' if after != Some('=') => return found("!", "write `not`".to_owned()),
            '=' if after == Some('=') || matches!(before, Some('=' | '!' | '<' | '>')) => {}
            // Within parentheses it names an argument.
            '=' if depth == 0 && !assigns => return found("=", "write `==`".to_owned()),
            '?' => return found("?", conditional(source, at)),
            _ => {}
        }
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        if !word(before)
            && let Some((name, help)) = WORDS
                .iter()
                .find(|(name, _)| rest.starts_with(name) && !word(rest[name.len()..].chars().next()))
        {
            return found(name, (*help).to_owned());
        }
    }
    None
}

/// Turns `c ? x : y` into `x if c else y`.
fn conditional(source: &str, mark: usize) -> String {
    let (condition, rest) = (source[..mark].trim(), &source[mark + 1..]);
    let colon = without_texts(rest).find(':');
    let fixed = colon
        .map(|colon| format!("{} if {condition} else {}", rest[..colon].trim(), rest[colon + 1..].trim()));
    match fixed {
        Some(fixed) if parse_expr(&fixed).is_ok() => format!("write `{fixed}`"),
        _ => "write `x if c else y`".to_owned(),
    }
}
