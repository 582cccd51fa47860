//! Reads booleans, numbers, durations and words of closed lists.

use std::time::Duration;

use super::reader::Reader;
use super::tree::{Node, Style, Tree};
use crate::diagnostic::{Diagnostic, Spanned, suggest};

/// The largest amount of money, in US dollars.
const MOST_USD: f64 = 1e6;

impl Reader<'_> {
    /// Reads a boolean.
    pub(super) fn boolean(&mut self, node: &Node) -> Option<bool> {
        if let Tree::Bool(value) = node.tree {
            return Some(value);
        }
        let meant = node.as_str().and_then(|word| match word.to_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Some("true"),
            "false" | "no" | "off" | "n" => Some("false"),
            _ => None,
        });
        match meant {
            Some(meant) => {
                let label = "found a text";
                let finding =
                    Diagnostic::error("G105", "expected `true` or `false`, found a text", node.span, label);
                self.bag.report(finding.help(format!("write  {meant}  without quotes")));
            }
            None => self.wrong(node, "`true` or `false`"),
        }
        None
    }

    /// Reads a whole number of at least `least`.
    pub(super) fn count(&mut self, node: &Node, least: u64) -> Option<Spanned<u64>> {
        match node.tree {
            Tree::Int(n) if u64::try_from(n).is_ok_and(|n| n >= least) => {
                Some(Spanned { value: n.unsigned_abs(), span: node.span })
            }
            Tree::Str(ref text) => {
                let due = format!("a whole number of {least} or more");
                let finding = match thousands(text) {
                    Some(number) => {
                        let message = format!("`{text}` is not a number");
                        Diagnostic::error("M511", message, node.span, format!("{due} is due"))
                            .help(format!("write  {number}"))
                    }
                    None => {
                        let message = format!("expected {due}, found a text");
                        let finding = Diagnostic::error("G105", message, node.span, "found a text");
                        let number = text.parse::<u64>().ok().map(|n| format!("write  {n}  without quotes"));
                        finding.help_maybe(number)
                    }
                };
                self.bag.report(finding);
                None
            }
            Tree::Int(_) | Tree::Float(_) => {
                let raw = self.raw(node).to_owned();
                let message = format!("expected a whole number of {least} or more, found {raw}");
                let finding = Diagnostic::error("G105", message, node.span, format!("found {raw}"));
                self.bag.report(finding.help(format!("write  {least}  or more")));
                None
            }
            _ => {
                self.wrong(node, &format!("a whole number of {least} or more"));
                None
            }
        }
    }

    /// Reads a number.
    pub(super) fn number(&mut self, node: &Node) -> Option<Spanned<f64>> {
        match node.tree {
            Tree::Int(n) => Some(Spanned { value: n as f64, span: node.span }),
            Tree::Float(x) if x.is_finite() => Some(Spanned { value: x, span: node.span }),
            _ => {
                self.wrong(node, "a number");
                None
            }
        }
    }

    /// Reads an amount of money.
    pub(super) fn amount(&mut self, node: &Node) -> Option<Spanned<f64>> {
        let amount = self.number(node)?;
        if (0.0..=MOST_USD).contains(&amount.value) {
            return Some(amount);
        }
        let message = format!("{} is outside 0 to a million", amount.value);
        let finding = Diagnostic::error("M511", message, node.span, "no amount of US dollars");
        self.bag.report(finding.help("write a number of US dollars, such as 0.5"));
        None
    }

    /// Reads a duration such as `30s`.
    pub(super) fn duration(&mut self, node: &Node) -> Option<Duration> {
        if let Some(duration) = node.as_str().and_then(parse_duration) {
            return Some(duration);
        }
        match &node.tree {
            Tree::Null | Tree::Seq(_) | Tree::Map(_) => self.wrong(node, "a duration like `30s`"),
            _ => {
                let raw = self.raw(node).to_owned();
                let finding = Diagnostic::error(
                    "M511",
                    format!("`{raw}` is not a duration"),
                    node.span,
                    "a number and a unit is due",
                );
                self.bag.report(finding.help("write it like `500ms`, `30s`, `5m`, `2h` or `7d`"));
            }
        }
        None
    }

    /// Reads a duration that is longer than nothing.
    pub(super) fn time(&mut self, node: &Node) -> Option<Duration> {
        let duration = self.duration(node)?;
        if duration.is_zero() {
            let finding = Diagnostic::error("M511", "no time at all", node.span, "nothing can be done in it");
            self.bag.report(finding.help("write a longer time, or remove the key"));
            return None;
        }
        Some(duration)
    }

    /// Reads one of a closed list of words.
    pub(super) fn word(&mut self, node: &Node, words: &[&'static str]) -> Option<Spanned<&'static str>> {
        let list = words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ");
        // Written as the others are, YAML makes nothing of this word.
        if node.tree == Tree::Null
            && node.style == Style::Plain
            && let Some(null) = words.iter().find(|word| **word == "null")
        {
            return Some(Spanned { value: null, span: node.span });
        }
        if node.as_str().is_none() {
            self.wrong(node, &format!("one of {list}"));
            return None;
        }
        let text = self.words(node, &format!("one of {list}"))?;
        if let Some(word) = words.iter().find(|w| **w == text.value) {
            return Some(Spanned { value: word, span: text.span });
        }
        let message = format!("expected one of {list}, found `{}`", text.value);
        let finding = Diagnostic::error("G105", message, text.span, "not one of them");
        let near = suggest(&text.value, words.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        let example = || words.first().map(|first| format!("write one of them, such as  {first}"));
        self.bag.report(finding.help_maybe(near.or_else(example)));
        None
    }
}

/// Reads a number with a letter for thousands, as other tools take it.
fn thousands(text: &str) -> Option<u64> {
    let (digits, factor) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1000),
        None => (text.strip_suffix(['m', 'M'])?, 1_000_000),
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..unit].parse().ok()?;
    let millis = match &text[unit..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // Ten years are longer than anything that runs.
    number.checked_mul(millis).filter(|ms| *ms <= 315_360_000_000).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, expected) in
            [("500ms", Some(500)), ("2s", Some(2000)), ("1m", Some(60_000)), ("1h", Some(3_600_000))]
        {
            assert_eq!(parse_duration(text), expected.map(Duration::from_millis), "{text}");
        }
        for text in ["", "s", "5", "5 s", "-5s", "1.5s", "5x", "99999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
