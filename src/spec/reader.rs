//! Reads trees into typed parts, and collects every mistake on the way.
//!
//! Invariant: a part that cannot be read is reported once and left out; what depends on it is not reported.

use std::collections::BTreeMap;

use super::grammar::{self, RESERVED};
use super::surface;
use super::text::Text;
use super::tree::{Node, Style, Tree};
use crate::diagnostic::{
    Bag, CODES, Diagnostic, Severity, Span, Spanned, code_info, look_alike, our_letters, suggest,
};

/// What is due where an expression stands.
const EXPRESSION: &str = "an expression";

/// Collects findings while trees are read.
pub(super) struct Reader<'a> {
    pub(super) bag: &'a mut Bag,
}

impl Node {
    /// Returns the bytes from the first to the last that belong to the value.
    pub fn extent(&self) -> Span {
        let end = match &self.tree {
            Tree::Seq(items) => items.iter().map(|n| n.extent().end).max(),
            Tree::Map(entries) => entries.iter().map(|(key, n)| n.extent().end.max(key.span.end)).max(),
            _ => None,
        };
        Span { end: self.span.end.max(end.unwrap_or(0)), ..self.span }
    }
}

impl Reader<'_> {
    /// Reports a value of the wrong sort.
    pub(super) fn wrong(&mut self, node: &Node, expected: &str) {
        let finding = if node.style == Style::Absent {
            Diagnostic::error(
                "Y006",
                format!("expected {expected}, found nothing"),
                node.span,
                "an empty value",
            )
            .help(match expected {
                _ if expected.starts_with("a map") => {
                    "write what belongs to it below it, indented, or remove the key"
                }
                _ => "write the value, or remove the key",
            })
        } else {
            let label = format!("found {}", node.sort());
            let message = format!("expected {expected}, found {}", node.sort());
            let finding = Diagnostic::error("G105", message, node.span, label);
            finding.help_maybe(self.example(node, expected))
        };
        self.bag.report(finding);
    }

    /// Shows what is due in the place of a value of the wrong sort.
    fn example(&self, node: &Node, expected: &str) -> Option<String> {
        let raw = self.raw(node);
        Some(match expected {
            "`true` or `false`" => "write  true  or  false".to_owned(),
            "a duration like `30s`" => "write  30s".to_owned(),
            "a number" => "write a number, such as  0.5".to_owned(),
            "a text" => "write one text, in quotes where it holds braces, `: ` or ` #`".to_owned(),
            "a map of nodes" => {
                "write the name of each node with what belongs to it:  answer: {kind: say, text: Hello, next: end}"
                    .to_owned()
            }
            _ if expected.starts_with("a list of ") && matches!(node.tree, Tree::Str(_)) && !raw.contains('\n') => {
                format!("write  [{raw}]")
            }
            _ if expected.starts_with("a map of ") => "write  name: value , one for each".to_owned(),
            _ if expected.starts_with("a whole number") => "write digits alone, such as  3".to_owned(),
            _ if expected.starts_with("the name of ") => "write one name alone".to_owned(),
            _ => return None,
        })
    }

    /// Opens a map whose keys are names of the author's choice.
    pub(super) fn names<'n>(&mut self, node: &'n Node, what: &str) -> Vec<(Spanned<String>, &'n Node)> {
        let Tree::Map(entries) = &node.tree else {
            self.wrong(node, &format!("a map of {what}"));
            return Vec::new();
        };
        let mut names = Vec::new();
        for (key, value) in entries {
            match key.as_str() {
                Some(name) if name.contains(' ') && value.style == Style::Absent => {
                    let (word, rest) = name.split_once(' ').unwrap_or((name, ""));
                    let finding =
                        Diagnostic::error("Y001", "no colon after the key", key.span, "YAML reads one key");
                    self.bag.report(finding.help(format!("write  {word}: {rest}")));
                }
                Some(name) => names.push((Spanned { value: name.to_owned(), span: key.span }, value)),
                None => self.wrong(key, "a name"),
            }
        }
        names
    }

    /// Opens a list.
    pub(super) fn list<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        if let Tree::Seq(items) = &node.tree {
            items
        } else {
            self.wrong(node, &format!("a list of {what}"));
            &[]
        }
    }

    /// Reads a list that holds something.
    pub(super) fn filled<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Node] {
        if matches!(&node.tree, Tree::Seq(items) if items.is_empty()) {
            let finding = Diagnostic::error(
                "G105",
                format!("an empty list of {what}"),
                node.span,
                "at least one is due",
            );
            self.bag.report(finding);
        }
        self.list(node, what)
    }

    /// Checks that nothing is in a list twice.
    pub(super) fn once(&mut self, items: &[Spanned<String>], what: &str) {
        // A version that was stored stays as it is.
        if self.bag.is_trusting() {
            return;
        }
        let mut known = BTreeMap::new();
        for item in items {
            let first = *known.entry(item.value.as_str()).or_insert(item.span);
            if first != item.span {
                let message = format!("{what} `{}` is there twice", item.value);
                let finding = Diagnostic::error("G105", message, item.span, "the second one");
                self.bag.report(finding.related(first, "the first one").help("remove one of them"));
            }
        }
    }

    /// Reads a text.
    pub(super) fn text(&mut self, node: &Node, expected: &str) -> Option<Text> {
        let text = self.words(node, expected)?;
        self.uncommented(node, &text, if expected == EXPRESSION { "expression" } else { "text" })?;
        Some(text)
    }

    /// Reads a text that is a name or one of several words: a comment may stand close behind it.
    pub(super) fn words(&mut self, node: &Node, expected: &str) -> Option<Text> {
        if Self::is_secret(node) {
            self.no_secret(node);
            return None;
        }
        match &node.tree {
            Tree::Str(value) if !(node.style == Style::Plain && zero_padded(value)) => {
                Some(Text::new(node, value, self.bag))
            }
            Tree::Str(value) => {
                let finding = Diagnostic::error(
                    "Y008",
                    "a number with leading zeros",
                    node.span,
                    "a text to some, a number to others",
                );
                self.bag.report(finding.help(format!("quote it: \"{value}\"")));
                None
            }
            Tree::Int(_) | Tree::Float(_) | Tree::Bool(_) if node.style == Style::Row => {
                Some(Text::at(&node.to_json().to_string(), node.span))
            }
            Tree::Int(_) | Tree::Float(_) | Tree::Bool(_) => {
                let raw = self.raw(node).to_owned();
                let message = format!("expected {expected}, found {}", node.sort());
                let label = format!("YAML reads `{raw}` as {}", node.sort());
                self.bag.report(
                    Diagnostic::error("Y008", message, node.span, label).help(format!("quote it: \"{raw}\"")),
                );
                None
            }
            _ => {
                self.wrong(node, expected);
                None
            }
        }
    }

    /// Reads a value that stands for itself.
    pub(super) fn literal(&mut self, node: &Node) -> Option<Spanned<serde_json::Value>> {
        let padded = node.style == Style::Plain && node.as_str().is_some_and(zero_padded);
        if padded {
            self.words(node, "a value");
            return None;
        }
        if node.style == Style::Absent {
            self.wrong(node, "a value");
            return None;
        }
        Some(Spanned { value: node.to_json(), span: node.span })
    }

    /// Returns a scalar as written.
    pub(super) fn raw(&self, node: &Node) -> &str {
        let text = self.bag.source(node.span.file).1;
        text.get(node.span.start as usize..node.span.end as usize).unwrap_or_default().trim()
    }

    /// Reads an expression: a text, or a number, boolean or null that stands for itself.
    pub(super) fn expression(&mut self, node: &Node) -> Option<Text> {
        match &node.tree {
            Tree::Bool(_) | Tree::Int(_) | Tree::Float(_) => {
                let raw = self.raw(node).to_owned();
                Some(Text::verbatim(&raw, node.span))
            }
            _ => {
                let text = self.text(node, EXPRESSION)?;
                self.pasted(&text, true)?;
                Some(text)
            }
        }
    }

    /// Refuses curly quotes and invisible spaces; in an expression they may stand within a text.
    fn pasted(&mut self, text: &Text, expression: bool) -> Option<()> {
        let (mut from, mut fine) = (0, true);
        while let Some((at, c, meant)) = surface::typography(&text.value[from..]) {
            let at = from + at;
            from = at + c.len_utf8();
            if !expression || text.value[..at].matches('\'').count().is_multiple_of(2) {
                let finding = surface::pasted(text.locate(at..from), c, meant);
                self.bag.report(finding);
                fine = false;
                // The quote that closes it is the same mistake.
                if surface::is_quote(c) {
                    let close = text.value[from..].char_indices().find(|(_, c)| surface::is_quote(*c));
                    from += close.map_or(0, |(at, c)| at + c.len_utf8());
                }
            }
        }
        fine.then_some(())
    }

    /// Refuses a value of which ` #` made a comment: something stands close behind it, as in `order #17`, or an
    /// expression leaves a quote or a bracket open.
    fn uncommented(&mut self, node: &Node, text: &Text, what: &str) -> Option<()> {
        let rest = self.bag.source(node.span.file).1.get(node.span.end as usize..).unwrap_or_default();
        let Some(comment) = rest.trim_start_matches(' ').strip_prefix('#') else { return Some(()) };
        let close = comment.starts_with(|c: char| !c.is_whitespace() && c != '#') && !self.bag.is_trusting();
        let open = what == "expression" && surface::opens(&text.value).is_some();
        if node.style != Style::Plain || !(close || open) {
            return Some(());
        }
        let gap = (rest.len() - rest.trim_start_matches(' ').len()) as u32;
        let span = Span { start: node.span.end + gap, end: node.span.end + gap + 1, ..node.span };
        let finding = Diagnostic::error(
            "Y006",
            format!("` #` cuts the {what}"),
            span,
            "YAML reads a comment from here on",
        );
        self.bag.report(finding.help(format!("put the whole {what} into double quotes")));
        None
    }

    /// Reads a name that stands for something defined elsewhere.
    pub(super) fn name(&mut self, node: &Node, what: &str) -> Option<Spanned<String>> {
        // No policy is called by a number: those that there are, are named where they are known.
        if what == "the name of a retry policy" && matches!(node.tree, Tree::Int(_) | Tree::Bool(_)) {
            return Some(Spanned { value: self.raw(node).to_owned(), span: node.span });
        }
        let text = self.words(node, what)?;
        if text.value.contains("{{") || text.value.contains("{%") {
            let finding =
                Diagnostic::error("E105", "braces in a name", text.span, format!("this key holds {what}"));
            self.bag.report(finding.help("names are fixed; choose between them with rules under `next`"));
            return None;
        }
        self.pasted(&text, false)?;
        Some(Spanned { value: text.value, span: text.span })
    }

    /// Checks a name that the author gives.
    pub(super) fn identifier(&mut self, name: &Spanned<String>, what: &str) -> bool {
        let text = name.value.as_str();
        let first = text.starts_with(|c: char| c.is_ascii_lowercase());
        let rest = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let finding = if !(first && rest) {
            let message = format!("`{text}` cannot be the name of {what}");
            let snake = snake_case(&our_letters(text));
            let label = look_alike(text).unwrap_or_else(|| "a name is a-z, then a-z, 0-9 or _".to_owned());
            let finding = Diagnostic::error("G106", message, name.span, label);
            if snake.is_empty() { finding } else { finding.help(format!("write `{snake}`")) }
        } else if what == "a node" && RESERVED.contains(&text) {
            Diagnostic::error(
                "G106",
                format!("`{text}` cannot be the name of {what}"),
                name.span,
                "this name is taken",
            )
            .help("choose another name")
        } else {
            return true;
        };
        self.bag.report(finding);
        false
    }

    /// Notes a name that cannot be read, as it is written and as it should be: who reads it is not blamed.
    pub(super) fn broken(name: String, broken: &mut Vec<String>) {
        let snake = snake_case(&our_letters(&name));
        let capital = |part: &str| part[..1].to_uppercase() + &part[1..];
        let camel: String = snake.split('_').filter(|part| !part.is_empty()).map(capital).collect();
        broken.extend([snake, camel].into_iter().filter(|meant| *meant != name));
        broken.push(name);
    }

    /// Says whether a value is `{secret: NAME}`.
    pub(super) fn is_secret(node: &Node) -> bool {
        match &node.tree {
            Tree::Map(entries) => match entries.as_slice() {
                [(key, value)] => {
                    let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
                    let name = value.as_str().is_some_and(|name| !name.is_empty() && name.bytes().all(upper));
                    key.as_str() == Some("secret") && name
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Reports a secret where none may stand.
    pub(super) fn no_secret(&mut self, node: &Node) {
        let message = "a secret outside of what signs a request in";
        let finding = Diagnostic::error("M505", message, node.span, "would be readable here");
        self.bag.report(finding.help("secrets go into `auth`, `api_key` and headers of their own"));
    }

    /// Reads `{secret: NAME}`.
    pub(super) fn secret(&mut self, node: &Node) -> Option<Spanned<String>> {
        if let Some(text) = node.as_str() {
            let variable = |text: &str| {
                let inner = text.trim_start_matches(['$', '{', ' ']).trim_end_matches(['}', ' ']);
                let name = inner.rsplit('.').next().unwrap_or_default();
                let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
                (!name.is_empty() && name.bytes().all(upper)).then(|| name.to_owned())
            };
            let meant = variable(text).unwrap_or_else(|| "NAME".to_owned());
            if text.starts_with("${") || text.contains("{{") {
                let finding = Diagnostic::error(
                    "E105",
                    "braces where a secret is due",
                    node.span,
                    "nothing is filled in here",
                );
                self.bag.report(finding.help(format!("write  {{secret: {meant}}}")));
            } else if meant == text {
                // It may be a name, and it may be the key itself: nothing shows it.
                let message = "the name of a secret stands in a map of its own";
                let finding = Diagnostic::error("M504", message, node.span, "taken for the key itself");
                self.bag.report(finding.help("write  {secret: NAME}  and set the variable NAME"));
                self.bag.mask(node.span);
            } else {
                let label = "everybody who reads the file has it";
                let finding = Diagnostic::error("M504", "a key in the file", node.span, label);
                self.bag.report(finding.help("write  {secret: NAME}  and set the variable NAME"));
                self.bag.mask(node.span);
            }
            return None;
        }
        let mut fields = self.fields(node, &grammar::SECRET, "a secret")?;
        let name = fields.require(self, "secret", "{secret: OPENAI_API_KEY}", node.span);
        let name = name.and_then(|name| self.name(name, "the name of a secret"));
        fields.finish(self, |_| None);
        let name = name?;
        let first = name.value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if first && name.value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Some(name);
        }
        let message = "this is no name of a secret";
        let finding = Diagnostic::error("M504", message, name.span, "a name is letters, digits and _");
        self.bag.report(finding.help("write the name of a variable, not the key itself:  {secret: NAME}"));
        self.bag.mask(name.span);
        None
    }

    /// Reads `allow: {CODE: "reason"}`.
    pub(super) fn allow(&mut self, node: Option<&Node>) -> Vec<String> {
        let Some(node) = node else { return Vec::new() };
        // What was meant to be silent is silent, also where the reasons are missing.
        if let Tree::Seq(items) = &node.tree {
            let finding = Diagnostic::error(
                "G105",
                "expected codes with reasons, found a list",
                node.span,
                "no reasons",
            );
            self.bag.report(finding.help("write  allow: {G203: \"why it is fine\"}"));
            return items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
        }
        let mut codes = Vec::new();
        for (code, reason) in self.names(node, "codes and reasons") {
            let at = reason.span;
            let reason = self.text(reason, "a reason").is_some_and(|reason| {
                let empty = reason.value.trim().is_empty() && !self.bag.is_trusting();
                if empty {
                    let finding = Diagnostic::error("G105", "an empty reason", at, "says nothing");
                    self.bag.report(finding.help("say why it is fine here"));
                }
                !empty
            });
            let finding = match code_info(&code.value) {
                Some(info) if info.can_be_allowed() => {
                    if reason {
                        codes.push(code.value);
                    }
                    continue;
                }
                Some(info) => {
                    let message = format!("`{}` cannot be allowed", code.value);
                    let (what, help) = match info.severity {
                        Severity::Error => ("an error", "only warnings and lints can be silenced"),
                        _ => ("told of what is stored", "no file has it, so none can silence it: remove it"),
                    };
                    let label = format!("{what}: {}", info.title);
                    Diagnostic::error("G105", message, code.span, label).help(help)
                }
                None => {
                    let message = format!("`{}` is no code of this build", code.value);
                    let finding = Diagnostic::error("G105", message, code.span, "a code is like `G216`");
                    let near = suggest(&code.value, CODES.iter().map(|info| info.code));
                    finding.help_maybe(near.map(|near| format!("did you mean `{near}`?")))
                }
            };
            self.bag.report(finding);
        }
        codes
    }
}

/// Says what is wrong with a name that somebody wants to give: `what` is `a node`, `a type` and the like.
pub fn check_name(name: &str, what: &str) -> Option<String> {
    let mut bag = Bag::default();
    let span = Span { file: bag.add_source("", name), start: 0, end: name.len() as u32 };
    let name = Spanned { value: name.to_owned(), span };
    let mut reader = Reader { bag: &mut bag };
    let fits = if what == "a type" { reader.type_name(&name) } else { reader.identifier(&name, what) };
    (!fits).then(|| bag.findings().first().map_or_else(|| "not a name".to_owned(), Diagnostic::sentence))
}

/// Says whether a text is digits of which the first is a zero.
fn zero_padded(text: &str) -> bool {
    let digits = text.trim_start_matches(['-', '+']);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

/// Returns the name in the form that a name has; empty where nothing is left of it.
pub fn snake_case(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
        if c.is_ascii_alphanumeric() {
            out.push(c.to_ascii_lowercase());
        } else if !out.is_empty() && !out.ends_with('_') {
            out.push('_');
        }
    }
    let out = out.trim_end_matches('_');
    if out.starts_with(|c: char| c.is_ascii_lowercase()) { out.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_name_is_offered_in_snake_case() {
        for (text, expected) in
            [("findArticle", "find_article"), ("find-article", "find_article"), ("Ünter", "nter"), ("42", "")]
        {
            assert_eq!(snake_case(text), expected);
        }
    }
}
