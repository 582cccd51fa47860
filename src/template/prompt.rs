//! The body of a prompt file, split at its role markers before anything is rendered.
//!
//! Invariant: a role comes from the file's own lines, so that data can never forge one.

use std::ops::Range;

use super::pieces::{Kind, Piece, pieces};
use super::{Related, TemplateError, parsed};

/// Who says a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionRole {
    /// `@system`.
    System,
    /// `@user`.
    User,
    /// `@assistant`.
    Assistant,
}

/// A piece of a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    /// A message; its text is a template of its own.
    Text {
        /// Who says it.
        role: SectionRole,
        /// The text, as bytes of the body.
        range: Range<usize>,
    },
    /// The turns of an input of type `messages`.
    Messages {
        /// The input; none where no marker was written and the conversation is meant.
        name: Option<String>,
        /// The name, as bytes of the body.
        range: Range<usize>,
    },
}

/// A line that is a marker, or was meant to be one.
struct Marker<'a> {
    /// The line, without its end.
    line: Range<usize>,
    /// The word after `@`.
    word: &'a str,
    /// What follows the word, and where.
    rest: &'a str,
    indented: bool,
}

const WORDS: [&str; 4] = ["system", "user", "assistant", "messages"];

/// Splits a prompt's body into messages. The whole body is parsed first, so that a block which holds a
/// marker is seen; each text is a template of its own afterwards, and what one sets another does not see. What is wrong
/// with names is told of each text, or here where there are none.
pub fn split(body: &str) -> Result<Vec<Section>, Vec<TemplateError>> {
    let whole = parsed("prompt", body)?;
    let (pieces, _) = pieces(body);
    let mut errors = Vec::new();
    let mut found: Vec<(Range<usize>, Section)> = Vec::new();
    for marker in markers(body) {
        match section(body, &pieces, &marker) {
            Ok(Some(section)) => found.push((marker.line, section)),
            Ok(None) => {}
            Err(error) => errors.push(*error),
        }
    }
    // What stands around a wrong marker may belong to it.
    if !errors.is_empty() {
        return Err(sorted(errors, whole.errors));
    }
    if found.is_empty() {
        let range = trimmed(body, 0..body.len());
        if is_empty(body, &pieces, &range) {
            return Err(vec![error(0..body.len(), "the prompt is empty", "nothing here")]);
        }
        return Ok(vec![
            Section::Text { role: SectionRole::System, range },
            Section::Messages { name: None, range: body.len()..body.len() },
        ]);
    }
    if let Some((first, _)) = found.first() {
        let before = trimmed(body, 0..first.start);
        if !is_empty(body, &pieces, &before) {
            let mut stray = error(before, "text before the first marker", "belongs to no message");
            stray.help = Some("write `@system` above it".to_owned());
            errors.push(stray);
        }
    }
    let mut sections = Vec::new();
    for (n, (line, section)) in found.iter().enumerate() {
        let end = found.get(n + 1).map_or(body.len(), |(next, _)| next.start);
        let range = trimmed(body, line.end..end);
        let empty = is_empty(body, &pieces, &range);
        match section {
            Section::Text { role, .. } if !empty => {
                sections.push(Section::Text { role: *role, range });
            }
            Section::Text { .. } => {
                errors.push(error(line.clone(), "a message without text", "nothing follows"));
            }
            Section::Messages { .. } if empty => sections.push(section.clone()),
            Section::Messages { .. } => {
                let mut stray = error(range, "text after `@messages`", "belongs to no message");
                stray.help = Some("write `@user`, `@assistant` or `@system` above it".to_owned());
                errors.push(stray);
            }
        }
    }
    if errors.is_empty() {
        return Ok(sections);
    }
    Err(sorted(errors, whole.errors))
}

fn sorted(mut errors: Vec<TemplateError>, more: Vec<TemplateError>) -> Vec<TemplateError> {
    errors.extend(more);
    errors.sort_by_key(|error| (error.range.start, error.range.end));
    errors
}

/// Returns the markers of a file that must have none, because others include it.
pub fn check_partial(body: &str) -> Vec<TemplateError> {
    let (pieces, _) = pieces(body);
    let marker = |marker: Marker<'_>| match section(body, &pieces, &marker) {
        Ok(None) => None,
        _ => Some(escaped(
            error(marker.line, "a role marker in a partial", "the file that includes it sets the roles"),
            marker.word,
        )),
    };
    markers(body).filter_map(marker).collect()
}

/// Returns the lines that hold nothing but `@word`, or what looks like a marker written wrong.
fn markers(body: &str) -> impl Iterator<Item = Marker<'_>> {
    let mut at = 0;
    body.split_inclusive('\n').filter_map(move |line| {
        let start = at;
        at += line.len();
        let text = line.trim_end();
        let indent = text.len() - text.trim_start().len();
        let after = text[indent..].strip_prefix('@')?;
        let word =
            &after[..after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len())];
        let rest = &after[word.len()..];
        let known = WORDS.contains(&word);
        let spaced = rest.starts_with([' ', '\t']);
        // `@system:`, `@user Hello` in the first column and `@messages history` say a role.
        let marker = match rest.trim() {
            "" => true,
            ":" => known,
            name => {
                let meant = word == "messages"
                    || (!name.contains(' ') && crate::diagnostic::suggest(word, ["messages"]).is_some());
                (meant && spaced) || (known && indent == 0 && (spaced || rest.starts_with(':')))
            }
        };
        // Indented text may well begin with `@`, unless it says a role.
        let meant = !word.is_empty() && marker && (indent == 0 || known);
        meant.then(|| Marker { line: start..start + text.len(), word, rest, indented: indent > 0 })
    })
}

/// Reads a marker; nothing where the line is not text but part of a comment or a tag.
fn section(body: &str, pieces: &[Piece], marker: &Marker<'_>) -> Result<Option<Section>, Box<TemplateError>> {
    let at = marker.line.clone();
    let fail = |message: &str, label: &str| Box::new(escaped(error(at.clone(), message, label), marker.word));
    let piece = pieces.iter().find(|piece| piece.range.contains(&marker.line.start));
    let Some(piece) = piece else { return Ok(None) };
    // What a role is followed by is text where no message can begin.
    let said = marker.word != "messages" && !matches!(marker.rest.trim(), "" | ":");
    if said && (piece.kind != Kind::Text || piece.inside.is_some()) {
        return Ok(None);
    }
    match piece.kind {
        Kind::Text => {}
        Kind::Comment if WORDS.contains(&marker.word) => {
            return Err(fail("a role marker inside a comment", "starts no message"));
        }
        Kind::Raw => return Err(fail("a role marker inside `{% raw %}`", "starts no message")),
        Kind::Comment | Kind::Print | Kind::Tag => return Ok(None),
    }
    let role = match marker.word {
        "system" => Some(SectionRole::System),
        "user" => Some(SectionRole::User),
        "assistant" => Some(SectionRole::Assistant),
        "messages" => None,
        word => {
            let mut found = fail(&format!("unknown role marker `@{word}`"), "no such role");
            if let Some(near) = crate::diagnostic::suggest(&word.to_lowercase(), WORDS) {
                found.help = Some(format!("did you mean `@{near}`? for text write {{{{ '@{word}' }}}}"));
            }
            return Err(found);
        }
    };
    if let Some(opening) = &piece.inside {
        let mut found = fail("a role marker inside a block", "roles are fixed before anything is rendered");
        found.related = Some(Related { label: "the block begins here".to_owned(), range: opening.clone() });
        return Err(found);
    }
    if marker.indented {
        return Err(fail("a role marker that is indented", "a marker stands in column 1"));
    }
    match role {
        Some(role) if marker.rest.trim().is_empty() => {
            Ok(Some(Section::Text { role, range: at.end..at.end }))
        }
        Some(_) => {
            let mut found = fail("a role marker stands alone on its line", "something follows");
            found.help = Some(match marker.rest.trim() {
                ":" => format!("write `@{}`", marker.word),
                _ => {
                    format!("put what follows on the next line; for text write {{{{ '@{}' }}}}", marker.word)
                }
            });
            Err(found)
        }
        None => {
            let name = marker.rest.trim();
            if name.contains(' ') {
                return Err(fail("`@messages` takes the name of one input", "several words follow"));
            }
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
                let mut found = fail("`@messages` takes the name of an input", "no name follows");
                found.help = Some("write `@messages messages`".to_owned());
                return Err(found);
            }
            let range = body[..at.end].len() - name.len()..at.end;
            Ok(Some(Section::Messages { name: Some(name.to_owned()), range }))
        }
    }
}

fn error(range: Range<usize>, message: &str, label: &str) -> TemplateError {
    TemplateError {
        code: "T307",
        message: message.to_owned(),
        label: label.to_owned(),
        help: None,
        range,
        related: None,
    }
}

fn escaped(mut error: TemplateError, word: &str) -> TemplateError {
    error.help = Some(format!("for text write {{{{ '@{word}' }}}}"));
    error
}

/// Narrows a range to what is between its outer blank lines and its end.
fn trimmed(body: &str, range: Range<usize>) -> Range<usize> {
    let text = &body[range.clone()];
    let end = range.start + text.trim_end().len();
    let start = range.start + (text.len() - text.trim_start().len());
    if start >= end {
        return end..end;
    }
    // The first line keeps its indent.
    let start = body[range.start..start].rfind('\n').map_or(range.start, |n| range.start + n + 1);
    start..end
}

/// Tells whether a range holds nothing that could print: only space and comments.
fn is_empty(body: &str, pieces: &[Piece], range: &Range<usize>) -> bool {
    pieces.iter().all(|piece| {
        let common = piece.range.start.max(range.start)..piece.range.end.min(range.end);
        common.is_empty()
            || match piece.kind {
                Kind::Comment => true,
                Kind::Text => body[common].trim().is_empty(),
                Kind::Print | Kind::Tag | Kind::Raw => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shows sections as `role: text`, or the errors as `place: message`.
    fn shown(body: &str) -> Vec<String> {
        match split(body) {
            Ok(sections) => sections
                .into_iter()
                .map(|section| match section {
                    Section::Text { role, range } => format!("{role:?}: {}", &body[range]),
                    Section::Messages { name, range } => {
                        assert_eq!(name.as_deref().unwrap_or_default(), &body[range]);
                        format!("Messages: {}", name.unwrap_or_default())
                    }
                })
                .collect(),
            Err(errors) => errors
                .into_iter()
                .map(|e| format!("{} {:?}: {}", e.code, &body[e.range], e.message))
                .collect(),
        }
    }

    #[test]
    fn a_body_is_split_at_its_markers() {
        for (body, expected) in [
            (
                "@system\nBe kind.\n@messages messages\n@user\nSay hi.\n",
                vec!["System: Be kind.", "Messages: messages", "User: Say hi."],
            ),
            ("Be kind.\n", vec!["System: Be kind.", "Messages: "]),
            (
                "\n{# why #}\n@user  \r\n  indented\n\nmore\n\n@assistant\n{{ x }}",
                vec!["User:   indented\n\nmore", "Assistant: {{ x }}"],
            ),
            (
                "@system\n{% if x %}\n@user said so\n{% endif %}mail a@user.org",
                vec!["System: {% if x %}\n@user said so\n{% endif %}mail a@user.org"],
            ),
            ("@user\n{{ '@system' }}\n", vec!["User: {{ '@system' }}"]),
            ("@user\n{#\n@todo\n#}x", vec!["User: {#\n@todo\n#}x"]),
            ("@messages a\n{# note #} {# two #}\n@messages b", vec!["Messages: a", "Messages: b"]),
        ] {
            assert_eq!(shown(body), expected, "{body:?}");
        }
    }

    #[test]
    fn what_looks_like_a_marker_and_is_none_is_an_error() {
        for (body, expected) in [
            ("@sytem\nx", vec!["T307 \"@sytem\": unknown role marker `@sytem`"]),
            ("@user\nx\n@everyone\n", vec!["T307 \"@everyone\": unknown role marker `@everyone`"]),
            ("@system:\nx", vec!["T307 \"@system:\": a role marker stands alone on its line"]),
            (
                "@user Please read:\nx",
                vec!["T307 \"@user Please read:\": a role marker stands alone on its line"],
            ),
            ("@user: Hi", vec!["T307 \"@user: Hi\": a role marker stands alone on its line"]),
            (" @user\nx", vec!["T307 \" @user\": a role marker that is indented"]),
            ("@messages\n", vec!["T307 \"@messages\": `@messages` takes the name of an input"]),
            ("{% if x %}\n@user\n{% endif %}\n", vec!["T307 \"@user\": a role marker inside a block"]),
            (
                "{% for m in ms %}x\n@messages ms\n{% endfor %}\n",
                vec!["T307 \"@messages ms\": a role marker inside a block"],
            ),
            ("{% raw %}\n@user\n{% endraw %}\n", vec!["T307 \"@user\": a role marker inside `{% raw %}`"]),
            ("{#\n@user\n#}\n", vec!["T307 \"@user\": a role marker inside a comment"]),
            ("Hello\n@user\nx", vec!["T307 \"Hello\": text before the first marker"]),
            ("@user\n\n@system\nx", vec!["T307 \"@user\": a message without text"]),
            ("@user\n{# only a note #}", vec!["T307 \"@user\": a message without text"]),
            ("@messages m\nx", vec!["T307 \"x\": text after `@messages`"]),
            ("", vec!["T307 \"\": the prompt is empty"]),
            ("@user\n{% if x %}", vec!["T301 \"}\": unclosed `{% if %}`"]),
        ] {
            assert_eq!(shown(body), expected, "{body:?}");
        }
    }

    #[test]
    fn the_help_names_the_role_that_was_meant_and_the_escape() {
        let help = |body: &str| split(body).unwrap_err()[0].help.clone().unwrap_or_default();
        assert_eq!(help("@sytem\nx"), "did you mean `@system`? for text write {{ '@sytem' }}");
        assert_eq!(help("@here\nx"), "for text write {{ '@here' }}");
        let body = "{% if x %}\n@user\n{% endif %}";
        let related = split(body).unwrap_err()[0].related.clone().unwrap();
        assert_eq!(&body[related.range], "{% if x %}");
    }
}
