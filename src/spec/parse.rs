//! From the parser's events to a tree with exact places.
//!
//! Invariant: a file with a mistake that changes what YAML means gives no tree, and every such mistake of
//! the file up to the first syntax error is reported.

use std::collections::BTreeMap;

use serde_yaml::granit_parser::{
    self as granit, Event, Parser, ScalarStyle, ScanError, Span as At, StrInput, StructureStyle,
};

use super::grammar::KINDS;
use super::number::number;
use super::surface;
use super::tree::{Node, Style, Tree};
use crate::diagnostic::{Bag, Diagnostic, FileId, Span};

/// The most bytes of a file.
pub(super) const MAX_BYTES: u64 = 1024 * 1024;
/// The most values of a file, keys included.
const MAX_NODES: usize = 250_000;
/// The deepest nesting.
pub(super) const MAX_DEPTH: usize = 24;

/// Parses a text that stands in the file from byte `base` on. Its mistakes go to the bag.
pub(super) fn parse(text: &str, file: FileId, base: usize, bag: &mut Bag) -> Option<Node> {
    let source = Source { text, file, base };
    if text.len() as u64 > MAX_BYTES {
        let label = format!("{} KiB; the limit is 1024 KiB", text.len() / 1024);
        let finding = Diagnostic::error("Y007", "the file is too large", source.span(0, 0), label);
        bag.report(finding.help("split the graph"));
        return None;
    }
    if let Some(finding) = surface::before_parsing(&source) {
        bag.report(finding);
        return None;
    }
    let options = granit::options! {
        disallow_directives: true,
        emit_comments: false,
        emit_anchor_events: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    };
    let parser = Parser::new_from_str_with_options(text, options);
    let mut build =
        Build { source, parser, bag, last: 0, count: 0, spoilt: 0, odd: 0, anchored: false, undashed: false };
    match build.document() {
        Ok(node) if build.spoilt == 0 => Some(node),
        Ok(_) | Err(Stop::Reported) => None,
        Err(Stop::Syntax(error)) => {
            // What was found before explains the error better than the parser does.
            if build.spoilt == 0 {
                let mut after = build.last;
                if build.odd == 0 {
                    let finding = surface::explain(&build.source, &error, build.last);
                    after = (finding.label.span.end as usize).saturating_sub(base);
                    build.bag.report(finding);
                }
                surface::more_quotes(&build.source, after).for_each(|finding| build.bag.report(finding));
            }
            None
        }
    }
}

/// The text that is parsed.
pub(super) struct Source<'t> {
    pub(super) text: &'t str,
    pub(super) file: FileId,
    pub(super) base: usize,
}

impl Source<'_> {
    /// Returns the place in the file of bytes of the text.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, start: (self.base + start) as u32, end: (self.base + end) as u32 }
    }

    /// Returns where the line ends that holds a byte.
    pub(super) fn line_end(&self, at: usize) -> usize {
        self.text[at..].find(['\n', '\r']).map_or(self.text.len(), |end| at + end)
    }
}

/// Why there is no tree.
enum Stop {
    /// The bag says it.
    Reported,
    /// The parser says it.
    Syntax(ScanError),
}

struct Build<'t, 'b> {
    source: Source<'t>,
    parser: Parser<'t, StrInput<'t>>,
    bag: &'b mut Bag,
    /// Where the last scalar or bracket ended.
    last: usize,
    /// How many values there were.
    count: usize,
    /// How much was found that changes what the file means.
    spoilt: usize,
    /// How many values are not what was meant.
    odd: usize,
    /// An anchor was found.
    anchored: bool,
    /// A dash without a space was found.
    undashed: bool,
}

/// After so much the rest of a file is not looked at.
const MAX_SPOILT: usize = 20;

impl<'t> Build<'t, '_> {
    fn event(&mut self) -> Result<(Event<'t>, At), Stop> {
        if self.spoilt + self.odd > MAX_SPOILT {
            return Err(Stop::Reported);
        }
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(Stop::Syntax(error)),
            None => Err(Stop::Reported),
        }
    }

    fn spoil(&mut self, finding: Diagnostic) {
        self.bag.report(finding);
        self.spoilt += 1;
    }

    /// Reports a value that is not what was meant; the rest of the file can be read.
    fn odd(&mut self, finding: Diagnostic, value: (usize, usize)) {
        self.bag.report_whole(finding, self.source.span(value.0, value.1));
        self.odd += 1;
    }

    fn bytes(at: &At) -> (usize, usize) {
        at.byte_range().map_or((0, 0), |range| (range.start, range.end))
    }

    fn document(&mut self) -> Result<Node, Stop> {
        let mut root = None;
        loop {
            let (event, at) = self.event()?;
            let (start, end) = Self::bytes(&at);
            match event {
                Event::StreamEnd => break,
                Event::DocumentStart(..) if root.is_some() => {
                    let span = self.source.span(start, end);
                    let finding =
                        Diagnostic::error("Y007", "the file holds several documents", span, "a second one");
                    self.spoil(finding.help("one graph a file: remove the `---`"));
                    return Err(Stop::Reported);
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                event => root = Some(self.node(event, &at, (0, 0), 1)?),
            }
        }
        let absent = Node { span: self.source.span(0, 0), tree: Tree::Null, style: Style::Absent };
        Ok(root.unwrap_or(absent))
    }

    /// Builds the value that begins with an event. `owner` is shown for a value that is not written.
    fn node(&mut self, event: Event<'t>, at: &At, owner: (usize, usize), depth: usize) -> Result<Node, Stop> {
        let (start, end) = Self::bytes(at);
        self.last = self.last.max(end);
        self.count += 1;
        if self.count > MAX_NODES {
            let span = self.source.span(start, end);
            let finding =
                Diagnostic::error("Y007", "the file holds too many values", span, "one value too many");
            self.spoil(finding.help(format!("a file holds at most {MAX_NODES} values")));
            return Err(Stop::Reported);
        }
        let tag = match &event {
            Event::Scalar(.., tag) | Event::SequenceStart(.., tag) | Event::MappingStart(.., tag) => {
                tag.is_some()
            }
            _ => false,
        };
        if tag {
            self.tag(at, owner, matches!(event, Event::Scalar(..)));
        }
        let anchored = match &event {
            Event::Scalar(_, _, id, _) | Event::SequenceStart(_, id, _) | Event::MappingStart(_, id, _) => {
                *id != 0
            }
            _ => false,
        };
        if anchored {
            let (_, anchor) = self.event()?;
            self.anchor(&anchor);
        }
        if depth > MAX_DEPTH {
            let span = self.source.span(start, end);
            let finding =
                Diagnostic::error("Y007", "the file is nested too deeply", span, "one level too many");
            self.spoil(finding.help(format!("nest at most {MAX_DEPTH} levels")));
            return Err(Stop::Reported);
        }
        match event {
            Event::Scalar(value, style, ..) => Ok(self.scalar(&value, style, (start, end), owner)),
            Event::SequenceStart(style, ..) => self.seq(style, (start, end), depth),
            Event::MappingStart(style, ..) => self.map(style, (start, end), depth),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.anchor(at);
                Ok(Node { span: self.source.span(start, end), tree: Tree::Null, style: Style::Plain })
            }
            _ => Err(Stop::Reported),
        }
    }

    fn tag(&mut self, at: &At, owner: (usize, usize), scalar: bool) {
        let whole = Self::bytes(at);
        let (start, end) = at.tag_span().as_ref().map_or(Self::bytes(at), Self::bytes);
        let tag = &self.source.text[start..end];
        let span = self.source.span(start, end);
        let finding =
            Diagnostic::error("Y004", format!("`{tag}` is a YAML tag"), span, "the value would be empty");
        let word = tag.trim_start_matches('!');
        let help = format!("in a condition write `not {word}`; quote a text that begins with `!`");
        if scalar {
            let from = if owner == (0, 0) { start } else { owner.0 };
            self.odd(finding.help(help), (from, end.max(whole.1)));
        } else {
            self.spoil(finding.help(help));
        }
    }

    fn anchor(&mut self, at: &At) {
        // An anchor and its aliases are one idea.
        if std::mem::replace(&mut self.anchored, true) {
            self.spoilt += 1;
            return;
        }
        let (start, end) = Self::bytes(at);
        let span = self.source.span(start, end);
        let label = "anchors are not supported";
        let finding =
            Diagnostic::error("Y005", "anchors, aliases and merge keys are not supported", span, label);
        self.spoil(
            finding
                .help("name a type, a retry policy or a prompt and use its name; quote a text like `*this*`"),
        );
    }

    fn scalar(&mut self, value: &str, style: ScalarStyle, at: (usize, usize), owner: (usize, usize)) -> Node {
        let (start, end) = at;
        if style == ScalarStyle::Plain && start == end {
            let span = self.source.span(owner.0, owner.1);
            return Node { span, tree: Tree::Null, style: Style::Absent };
        }
        let (tree, style) = match style {
            ScalarStyle::Plain => (self.plain(value, at), Style::Plain),
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                (Tree::Str(value.to_owned()), Style::Quoted)
            }
            ScalarStyle::Literal | ScalarStyle::Folded => (Tree::Str(value.to_owned()), Style::Lines),
        };
        Node { span: self.source.span(start, end), tree, style }
    }

    /// Says what a word without quotes is, by the core schema of YAML 1.2.
    fn plain(&mut self, value: &str, at: (usize, usize)) -> Tree {
        match value {
            "~" | "null" | "Null" | "NULL" => return Tree::Null,
            "true" | "True" | "TRUE" => return Tree::Bool(true),
            "false" | "False" | "FALSE" => return Tree::Bool(false),
            _ => {}
        }
        let span = self.source.span(at.0, at.1);
        if ["yes", "no", "on", "off"].iter().any(|word| value.eq_ignore_ascii_case(word)) {
            let finding =
                Diagnostic::lint("Y008", format!("`{value}` without quotes"), span, "a text in YAML 1.2");
            self.bag.report(
                finding.note("many editors read this as a boolean").help(format!("write \"{value}\"")),
            );
        } else if let Some((offset, c, meant)) =
            surface::typography(value).filter(|(offset, c, _)| *offset == 0 && surface::is_quote(*c))
        {
            let finding = surface::pasted(span.part(offset..offset + c.len_utf8()), c, meant);
            self.odd(finding, at);
        }
        match number(value) {
            Some(Ok(tree)) => tree,
            Some(Err(())) => {
                let finding = Diagnostic::error(
                    "Y008",
                    format!("`{value}` is out of range"),
                    span,
                    "not a number here",
                );
                self.spoil(finding.help("quote it when it is a text"));
                Tree::Null
            }
            None => Tree::Str(value.to_owned()),
        }
    }

    fn seq(&mut self, style: StructureStyle, at: (usize, usize), depth: usize) -> Result<Node, Stop> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            let (event, here) = self.event()?;
            let (start, end) = Self::bytes(&here);
            if matches!(event, Event::SequenceEnd) {
                self.last = self.last.max(end);
                if style == StructureStyle::Flow {
                    self.cut(items.iter().zip(items.iter().skip(1)), |next| {
                        next.as_str().is_some_and(|text| surface::opens(text) == Some(')'))
                    });
                }
                return Ok(self.container(style, at, end, Tree::Seq(items)));
            }
            // An item that is not written is shown by its dash.
            let dash = match style {
                StructureStyle::Flow => None,
                StructureStyle::Block => self.source.text[..start].rfind('-'),
            };
            let dash = dash.map_or((start, start), |dash| (dash, dash + 1));
            items.push(self.node(event, &here, dash, depth + 1)?);
        }
    }

    fn map(&mut self, style: StructureStyle, at: (usize, usize), depth: usize) -> Result<Node, Stop> {
        let mut entries: Vec<(Node, Node)> = Vec::new();
        let mut names: BTreeMap<String, Span> = BTreeMap::new();
        // From here on it is another node, whose name is missing.
        let mut another = false;
        loop {
            let (event, here) = self.event()?;
            let (start, end) = Self::bytes(&here);
            if matches!(event, Event::MappingEnd) {
                self.last = self.last.max(end);
                if style == StructureStyle::Flow {
                    let pairs = entries.iter().zip(entries.iter().skip(1));
                    let pairs = pairs.filter(|(_, (_, value))| value.style == Style::Absent);
                    self.cut(pairs.map(|((_, value), (key, _))| (value, key)), |_| true);
                }
                return Ok(self.container(style, at, end, Tree::Map(entries)));
            }
            let odd = self.odd;
            let key = self.node(event, &here, (start, start), depth + 1)?;
            self.spoilt += self.odd - odd;
            let (event, here) = self.event()?;
            let shown =
                (key.span.start as usize - self.source.base, key.span.end as usize - self.source.base);
            let value = self.node(event, &here, shown, depth + 1)?;
            if another {
                continue;
            }
            if self.key(&key, style, at.0, &mut names) {
                entries.push((key, value));
            } else if key.as_str() == Some("kind")
                && value.as_str().is_some_and(|text| KINDS.iter().any(|kind| kind.name == text))
            {
                another = style == StructureStyle::Block;
            } else if let Tree::Map(more) = value.tree
                && let Some((_, Node { tree: Tree::Map(first), .. })) =
                    entries.iter_mut().find(|(known, _)| known.key_text() == key.key_text())
            {
                // What a second block of one name declares is known to its users.
                let known: Vec<String> = first.iter().map(|(key, _)| key.key_text()).collect();
                first.extend(more.into_iter().filter(|(key, _)| !known.contains(&key.key_text())));
            }
        }
    }

    /// Judges a key. A second key of one name is left out.
    fn key(
        &mut self,
        key: &Node,
        style: StructureStyle,
        start: usize,
        names: &mut BTreeMap<String, Span>,
    ) -> bool {
        match &key.tree {
            Tree::Map(_) if style == StructureStyle::Flow => self.spoil(surface::braces(&self.source, start)),
            Tree::Map(_) | Tree::Seq(_) => {
                let message = format!("a key is a name, found {}", key.sort());
                let finding = Diagnostic::error("Y001", message, key.span, "not a name");
                self.spoil(finding.help("put it into quotes when it is a text"));
            }
            Tree::Str(text) if text == "<<" && key.style == Style::Plain && self.anchored => self.spoilt += 1,
            Tree::Str(text) if text == "<<" && key.style == Style::Plain => {
                let label = "merge keys are not supported";
                let finding = Diagnostic::error(
                    "Y005",
                    "anchors, aliases and merge keys are not supported",
                    key.span,
                    label,
                );
                self.spoil(finding.help("write the keys out, or name a type or a retry policy"));
            }
            Tree::Str(text)
                if key.style == Style::Plain
                    && text
                        .strip_prefix('-')
                        .is_some_and(|rest| rest.starts_with(|c: char| c.is_alphabetic())) =>
            {
                let first = !std::mem::replace(&mut self.undashed, true);
                let finding =
                    Diagnostic::error("Y001", "no space after the dash", key.span, "YAML reads one word");
                if !first {
                    return true;
                }
                self.spoil(finding.help(format!("write  - {}", &text[1..])));
            }
            Tree::Str(_) if key.style == Style::Plain => {
                // In the file, not in the value: one on several lines is not as long.
                let at = |place: u32| place as usize - self.source.base;
                let written = &self.source.text[at(key.span.start)..at(key.span.end)];
                if let Some((offset, c, meant)) = surface::typography(written) {
                    let finding = surface::pasted(key.span.part(offset..offset + c.len_utf8()), c, meant);
                    self.spoil(finding);
                }
            }
            _ => {}
        }
        let name = key.key_text();
        let Some(first) = names.get(&name) else {
            names.insert(name, key.span);
            return true;
        };
        let message = format!("`{name}` is defined twice");
        let finding = Diagnostic::error("Y002", message, key.span, format!("`{name}` defined again"));
        let help = match (name.as_str(), style) {
            ("kind", StructureStyle::Block) => {
                "write the name of the next node above it, or keep one of them"
            }
            _ => "keep one of them",
        };
        self.bag.report(finding.related(*first, "first definition").help(help));
        false
    }

    /// Finds an expression that a comma cut in two: it opens a bracket or a quote, and what follows is no
    /// value of its own.
    fn cut<'n>(&mut self, pairs: impl Iterator<Item = (&'n Node, &'n Node)>, rest: impl Fn(&Node) -> bool) {
        let mut found = None;
        for (node, next) in pairs {
            let open = node.style == Style::Plain
                && node.as_str().and_then(surface::opens).is_some_and(|c| c != ')');
            if open && rest(next) && found.is_none() {
                found = Some(Span { end: next.span.end, ..node.span });
            }
        }
        if let Some(span) = found {
            let finding = Diagnostic::error(
                "Y006",
                "a comma cuts the expression",
                span,
                "YAML ends the value at the comma",
            );
            self.spoil(finding.help("put the whole expression into double quotes"));
        }
    }

    fn container(&self, style: StructureStyle, at: (usize, usize), end: usize, tree: Tree) -> Node {
        let (start, token) = at;
        if style == StructureStyle::Flow {
            let end =
                self.source.text[start..end].find(['\n', '\r']).map_or(end, |line| start + line).max(token);
            return Node { span: self.source.span(start, end), tree, style: Style::Flow };
        }
        let span = match &tree {
            Tree::Map(entries) => entries.first().map(|(key, _)| key.span),
            // An entry of a list in lines begins with its dash.
            Tree::Seq(items) => items.first().map(|_| {
                let dash = if self.source.text[start..].starts_with('-') {
                    start
                } else {
                    self.source.text[..start].rfind('-').unwrap_or(start)
                };
                self.source.span(dash, dash + 1)
            }),
            _ => None,
        };
        Node { span: span.unwrap_or_else(|| self.source.span(start, token)), tree, style: Style::Block }
    }
}
