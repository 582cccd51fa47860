//! Where text, tags and comments of a template are, and which blocks are open: what the engine's parser
//! keeps to itself. It serves better errors, and the split of prompts.

use std::ops::Range;

use super::{Related, TemplateError};

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
    /// The tag that opened the innermost block around the piece.
    pub(super) inside: Option<Range<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text that is printed as it is.
    Text,
    /// `{{ … }}`.
    Print,
    /// `{% … %}`.
    Tag,
    /// `{# … #}`.
    Comment,
    /// From `{% raw %}` to `{% endraw %}`.
    Raw,
}

/// The tags that open a block. `set` does without `=`.
const BLOCKS: [&str; 8] = ["block", "call", "filter", "for", "if", "macro", "set", "with"];
/// All tags that do not end a block.
const TAGS: [&str; 15] = [
    "block", "call", "do", "elif", "else", "extends", "filter", "for", "from", "if", "import", "include",
    "macro", "set", "with",
];

/// How deep blocks may nest.
const DEEPEST: usize = 50;
/// The most `elif` of a template.
const MANY: usize = 100;

/// Takes a template apart. Returns as much as can be told, and what is wrong with its tags and blocks.
pub(super) fn pieces(source: &str) -> (Vec<Piece>, Vec<TemplateError>) {
    let mut scan = Scan {
        source,
        pieces: Vec::new(),
        errors: Vec::new(),
        open: Vec::new(),
        guessed: Vec::new(),
        elifs: 0,
    };
    scan.run();
    for (name, range) in std::mem::take(&mut scan.open) {
        if scan.guessed.contains(&range.start) {
            continue;
        }
        let last = source.len() - source.chars().next_back().map_or(0, char::len_utf8);
        let mut error =
            error(last..source.len(), format!("unclosed `{{% {name} %}}`"), "the template ends here");
        error.help = Some(format!("add `{{% end{name} %}}`"));
        error.related = Some(Related { label: "opened here".to_owned(), range });
        scan.errors.push(error);
    }
    (scan.pieces, scan.errors)
}

fn error(range: Range<usize>, message: impl Into<String>, label: &str) -> TemplateError {
    TemplateError {
        code: "T301",
        message: message.into(),
        label: label.to_owned(),
        help: None,
        range,
        related: None,
    }
}

struct Scan<'a> {
    source: &'a str,
    pieces: Vec<Piece>,
    errors: Vec<TemplateError>,
    open: Vec<(&'a str, Range<usize>)>,
    /// Where tags begin that were meant to open a block: what they leave open is not told as well.
    guessed: Vec<usize>,
    /// How many `elif` there were: each nests in the one before.
    elifs: usize,
}

impl Scan<'_> {
    fn run(&mut self) {
        let mut at = 0;
        while at < self.source.len() {
            let rest = &self.source[at..];
            let opening = rest.match_indices('{').find_map(|(n, _)| {
                let kind = match rest.as_bytes().get(n + 1)? {
                    b'{' => Kind::Print,
                    b'%' => Kind::Tag,
                    b'#' => Kind::Comment,
                    _ => return None,
                };
                Some((at + n, kind))
            });
            let Some((start, kind)) = opening else {
                self.push(Kind::Text, at..self.source.len());
                return;
            };
            if at < start {
                self.push(Kind::Text, at..start);
            }
            let end = match kind {
                Kind::Comment => self.source[start + 2..].find("#}").map(|n| start + 2 + n + 2),
                Kind::Print => self.closed(start + 2, "}}"),
                _ => self.closed(start + 2, "%}"),
            };
            let Some(end) = end else {
                let sign = &self.source[start..start + 2];
                self.errors.push(error(start..start + 2, format!("unclosed `{sign}`"), "opened here"));
                // Nothing can be said of blocks after it.
                self.open.clear();
                return;
            };
            if kind == Kind::Print {
                self.foreign(start..end);
            }
            at = if kind == Kind::Tag { self.tag(start..end) } else { end };
            if kind != Kind::Tag {
                self.push(kind, start..end);
            }
        }
    }

    /// Reports blocks as other template languages write them: `{{#if x}}`.
    fn foreign(&mut self, range: Range<usize>) {
        let inner = self.source[range.start + 2..range.end - 2].trim();
        let Some(block) = inner.strip_prefix('#').or_else(|| inner.strip_prefix('/')) else { return };
        let word: String = block.trim_start().chars().take_while(|c| c.is_alphanumeric()).collect();
        let rest = block.trim_start()[word.len()..].trim();
        let (message, tag) = match (inner.starts_with('#'), word.as_str()) {
            (true, "each") => ("a block of another template language", format!("{{% for x in {rest} %}}")),
            (true, "unless") => ("a block of another template language", format!("{{% if not {rest} %}}")),
            (true, _) => ("a block of another template language", format!("{{% if {rest} %}}")),
            // The opening one is told.
            (false, _) => return,
        };
        let mut found = error(range, message, "not a name");
        found.help = Some(format!("write  {tag}"));
        self.errors.push(found);
    }

    fn push(&mut self, kind: Kind, range: Range<usize>) {
        let inside = self.open.last().map(|(_, range)| range.clone());
        self.pieces.push(Piece { kind, range, inside });
    }

    /// Finds the end of a tag, past the texts and braces in it.
    fn closed(&self, start: usize, sign: &str) -> Option<usize> {
        let mut quote = None;
        let mut escaped = false;
        let mut braces = 0_usize;
        for (n, c) in self.source[start..].char_indices() {
            match quote {
                Some(_) if escaped => escaped = false,
                Some(_) if c == '\\' => escaped = true,
                Some(q) if c == q => quote = None,
                Some(_) => {}
                None if braces == 0 && self.source[start + n..].starts_with(sign) => {
                    return Some(start + n + sign.len());
                }
                None => match c {
                    '\'' | '"' => quote = Some(c),
                    '{' => braces += 1,
                    '}' => braces = braces.saturating_sub(1),
                    _ => {}
                },
            }
        }
        None
    }

    /// Takes in a tag and returns where it ends, or where the raw text that it begins does.
    fn tag(&mut self, range: Range<usize>) -> usize {
        let inner = self.source[range.start + 2..range.end - 2].trim_matches(['-', '+']).trim();
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let name = &inner[..inner.find(|c| !word(c)).unwrap_or(inner.len())];
        let at = {
            let offset = name.as_ptr() as usize - self.source.as_ptr() as usize;
            offset..offset + name.len()
        };
        if name == "raw" {
            return self.raw(range);
        }
        if let Some(ended) = name.strip_prefix("end").filter(|ended| BLOCKS.contains(ended)) {
            match self.open.last().cloned() {
                Some((open, _)) if open == ended => {
                    self.open.pop();
                }
                Some((open, opening)) => {
                    let mut found = error(
                        at,
                        format!("`{{% {name} %}}` closes a `{open}`"),
                        "does not fit the open block",
                    );
                    found.help = Some(format!("write `{{% end{open} %}}`"));
                    found.related = Some(Related { label: "opened here".to_owned(), range: opening });
                    self.errors.push(found);
                    self.open.pop();
                }
                None => self.errors.push(error(
                    at,
                    format!("`{{% {name} %}}` closes nothing"),
                    "no block is open here",
                )),
            }
            self.push(Kind::Tag, range.clone());
            return range.end;
        }
        self.push(Kind::Tag, range.clone());
        if name == "elif" {
            self.elifs += 1;
            if self.elifs == MANY {
                self.errors.push(error(at.clone(), "too many `{% elif %}`", "one too many"));
            }
        }
        match name {
            "else" | "elif" if self.open.is_empty() => {
                self.errors.push(error(
                    at,
                    format!("`{{% {name} %}}` outside a block"),
                    "no block is open here",
                ));
            }
            "set" if has_assignment(inner) => {}
            _ if BLOCKS.contains(&name) => {
                if self.open.len() == DEEPEST {
                    self.errors.push(error(at, "blocks are nested too deeply", "one level too many"));
                }
                self.open.push((name, range.clone()));
            }
            _ if TAGS.contains(&name) => {}
            // Its beginning was reported.
            "endautoescape" => {}
            _ => {
                let mut found = unknown_tag(name, at);
                // A misspelt beginning opens a block.
                let begins = found.help.as_ref().and_then(|help| help.split('`').nth(1));
                if let Some(block) = BLOCKS.into_iter().find(|block| Some(*block) == begins) {
                    self.open.push((block, range.clone()));
                    self.guessed.push(range.start);
                }
                // A misspelt end closes what is open.
                let ends = found.help.as_ref().is_some_and(|help| help.contains("`end"));
                if (ends || name.starts_with("end"))
                    && let Some((open, _)) = self.open.pop()
                {
                    found.help = Some(format!("did you mean `end{open}`?"));
                }
                self.errors.push(found);
            }
        }
        range.end
    }

    fn raw(&mut self, opening: Range<usize>) -> usize {
        let rest = &self.source[opening.end..];
        let end = rest.match_indices("{%").find_map(|(n, _)| {
            let tag = rest[n + 2..].trim_start_matches(['-', '+']).trim_start();
            let after = tag.strip_prefix("endraw")?.trim_start();
            let close = after.trim_start_matches(['-', '+']).strip_prefix("%}")?;
            Some(self.source.len() - close.len())
        });
        if let Some(end) = end {
            self.push(Kind::Raw, opening.start..end);
            return end;
        }
        let mut found = error(opening.clone(), "unclosed `{% raw %}`", "opened here");
        found.help = Some("add `{% endraw %}`".to_owned());
        self.errors.push(found);
        self.source.len()
    }
}

/// Tells `{% set x = 1 %}` from `{% set x %}`.
fn has_assignment(inner: &str) -> bool {
    let mut depth = 0_i32;
    for c in inner.chars() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            // The filters of a `set` block come after a bar, and name arguments within parentheses.
            '|' => return false,
            '=' if depth == 0 => return true,
            _ => {}
        }
    }
    false
}

fn unknown_tag(name: &str, range: Range<usize>) -> TemplateError {
    let meant = match name {
        "elseif" | "elsif" => Some("elif"),
        "foreach" => Some("for"),
        "endforeach" => Some("endfor"),
        "assign" | "let" => Some("set"),
        "render" => Some("include"),
        _ => {
            let ends =
                ["endblock", "endcall", "endfilter", "endfor", "endif", "endmacro", "endset", "endwith"];
            crate::diagnostic::suggest(name, TAGS.into_iter().chain(ends).chain(["raw", "endraw"]))
        }
    };
    let mut found = error(range, format!("unknown tag `{name}`"), "no tag has this name");
    found.help = match (meant, name) {
        (Some(meant), _) => Some(format!("did you mean `{meant}`?")),
        (None, "autoescape") => Some("drop it: nothing is escaped, prompts are not HTML".to_owned()),
        (None, "break" | "continue") => Some("write `{% for x in xs if condition %}`".to_owned()),
        (None, _) => None,
    };
    found
}
