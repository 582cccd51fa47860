//! Words of a prompt that are nearly values of the answer: a model that is told `Refund` writes `Refund`, and the enum
//! has `refund`.

use std::ops::Range;

use crate::diagnostic::{Bag, Diagnostic, Span};
use crate::spec::Text;
use crate::state::{Named, Type};

/// The shortest value that is looked for.
const SHORTEST: usize = 3;

/// Hints at words that differ from a value of the answer only by case or spaces. A prompt that names the value itself
/// somewhere is fine.
pub(super) fn check_words(output: &Type, at: Span, prompt: &Text, bag: &mut Bag) {
    let mut values = Vec::new();
    enums(output, &mut values, &mut Vec::new());
    let words = words(&prompt.value);
    for value in values.into_iter().filter(|value| value.chars().count() >= SHORTEST) {
        let wanted = plain(&value);
        let most = value.split([' ', '_', '-']).count() + 1;
        let same =
            |range: &Range<usize>| prompt.value.get(range.clone()).is_some_and(|text| plain(text) == wanted);
        let found: Vec<Range<usize>> = words
            .iter()
            .enumerate()
            .flat_map(|(n, first)| words[n..].iter().take(most).map(move |last| first.start..last.end))
            .filter(same)
            .collect();
        let exact = |range: &Range<usize>| prompt.value.get(range.clone()) == Some(value.as_str());
        let Some(first) = found.first().filter(|_| !found.iter().any(exact)) else { continue };
        let word = prompt.value.get(first.clone()).unwrap_or_default();
        let message = format!("`{word}` is nearly the value `{value}` of the answer");
        let finding = Diagnostic::lint(
            "T312",
            message,
            prompt.locate(first.clone()),
            "the model may write it like this",
        );
        bag.report(finding.related(at, "the answer").help(format!("write `{value}`")));
    }
}

/// Collects the values of all enums; `seen` are the types that were opened.
fn enums(ty: &Type, values: &mut Vec<String>, seen: &mut Vec<Named>) {
    match ty {
        Type::Enum(own) => {
            let more: Vec<String> = own.iter().filter(|value| !values.contains(value)).cloned().collect();
            values.extend(more);
        }
        Type::List(inner) | Type::Nullable(inner) => enums(inner, values, seen),
        Type::Record(fields) => fields.values().for_each(|field| enums(&field.ty, values, seen)),
        Type::Named(named) if !seen.contains(named) => {
            seen.push(named.clone());
            enums(&named.open(), values, seen);
        }
        _ => {}
    }
}

fn plain(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, ' ' | '_' | '-' | '\n')).flat_map(char::to_lowercase).collect()
}

/// Returns the words of a template outside of what is filled in.
fn words(text: &str) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let (mut start, mut skip_to) = (None, 0);
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        if at < skip_to {
            continue;
        }
        let close = [("{{", "}}"), ("{%", "%}"), ("{#", "#}")]
            .into_iter()
            .find(|(open, _)| text[at..].starts_with(open))
            .map(|(_, close)| close);
        let part = c.is_alphanumeric() || c == '_' || c == '-';
        match (start, part && close.is_none()) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                words.push(from..at);
                start = None;
            }
            _ => {}
        }
        if let Some(close) = close {
            skip_to = text[at..].find(close).map_or(text.len(), |end| at + end + 2);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stand_outside_of_what_is_filled_in() {
        let text = "Is {{ state.Refund }} a re-fund? {% if x %}Yes{% endif %}";
        let found: Vec<&str> = words(text).into_iter().map(|range| &text[range]).collect();
        assert_eq!(found, ["Is", "a", "re-fund", "Yes"]);
    }
}
