//! What somebody who wrote a name most likely meant.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// Letters of other scripts that look like one of ours.
const LOOK_LOOKALIKE: [(char, char); 26] = [
    ('а', 'a'),
    ('с', 'c'),
    ('ԁ', 'd'),
    ('е', 'e'),
    ('һ', 'h'),
    ('і', 'i'),
    ('ј', 'j'),
    ('о', 'o'),
    ('р', 'p'),
    ('ѕ', 's'),
    ('у', 'y'),
    ('х', 'x'),
    ('ν', 'v'),
    ('ο', 'o'),
    ('α', 'a'),
    ('ι', 'i'),
    ('ı', 'i'),
    ('ɡ', 'g'),
    ('А', 'A'),
    ('В', 'B'),
    ('Е', 'E'),
    ('К', 'K'),
    ('М', 'M'),
    ('О', 'O'),
    ('Р', 'P'),
    ('Т', 'T'),
];

/// Returns the candidate that somebody who wrote `name` most likely meant.
pub fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = folded(name);
    let length = wanted.chars().count();
    let mut best: BTreeMap<usize, &str> = BTreeMap::new();
    for candidate in candidates {
        let offered = folded(candidate);
        let distance = strsim::osa_distance(&wanted, &offered);
        let near = distance <= (length.max(offered.chars().count()) / 3).max(1);
        let contained =
            name.len() >= 4 && candidate.len() >= 4 && (candidate.contains(name) || name.contains(candidate));
        // Of two letters or fewer nearly everything is near, but for a word of three that lost one.
        let shortened = length == 2 && distance == 1 && offered.chars().count() == 3;
        let long = length > 2 || distance == 0 || shortened;
        if long && (near || contained) {
            best.entry(distance).or_insert(candidate);
        }
    }
    best.into_values().next()
}

/// Returns `did you mean …`, or the list of what there is.
pub fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(candidate) = suggest(name, candidates.clone()) {
        let letters = look_alike(name).map_or_else(String::new, |why| format!(" ({why})"));
        return Some(format!("did you mean `{candidate}`?{letters}"));
    }
    let all: Vec<String> = candidates.into_iter().take(12).map(|c| format!("`{c}`")).collect();
    (!all.is_empty()).then(|| format!("there are: {}", all.join(", ")))
}

/// Names the first letter of a name that only looks like one of ours.
pub fn look_alike(name: &str) -> Option<String> {
    name.chars().find_map(|c| {
        let (_, ours) = LOOK_LOOKALIKE.iter().find(|(other, _)| *other == c)?;
        Some(format!("`{c}` is U+{:04X}, not the letter `{ours}`", c as u32))
    })
}

/// Replaces letters that look like one of ours by it.
pub fn our_letters(name: &str) -> String {
    let ours = |c: char| LOOK_LOOKALIKE.iter().find(|(other, _)| *other == c).map_or(c, |(_, ours)| *ours);
    name.chars().map(ours).collect()
}

/// Drops what people mix up: case, dashes, and letters that look alike.
fn folded(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        return Cow::Borrowed(name);
    }
    let folded = our_letters(name).to_lowercase().replace(['-', ' '], "_");
    Cow::Owned(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggestion_is_near_or_nothing() {
        let known = ["answer", "classify", "find_articles"];
        for (name, expected) in [
            ("anwser", Some("answer")),
            ("find_article", Some("find_articles")),
            ("Classify", Some("classify")),
            ("аnswer", Some("answer")),
            ("refund", None),
            ("x", None),
        ] {
            assert_eq!(suggest(name, known), expected, "{name}");
        }
    }

    #[test]
    fn a_letter_of_another_script_is_named() {
        let said = did_you_mean("\u{430}nswer", ["answer"]).unwrap();
        assert_eq!(said, "did you mean `answer`? (`\u{430}` is U+0430, not the letter `a`)");
        assert_eq!(look_alike("answer"), None);
    }
}
