//! The codes that this build can report.

use super::Severity::{self, Error, Lint, Warning};

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeInfo {
    /// The stable code.
    pub code: &'static str,
    /// The most that it can weigh.
    pub severity: Severity,
    /// What it weighs in lighter cases.
    pub lighter: Option<Severity>,
    /// What is wrong, in a few words.
    pub title: &'static str,
    /// Why, and how it is mended: Markdown, with a wrong and a right project.
    pub page: &'static str,
}

macro_rules! page {
    ($code:literal) => {
        include_str!(concat!("../../docs/src/codes/", $code, ".md"))
    };
}

/// A code of one weight. Its page is part of the build: a code without one does not compile.
macro_rules! row {
    ($code:literal, $severity:ident, $title:literal) => {
        CodeInfo { code: $code, severity: $severity, lighter: None, title: $title, page: page!($code) }
    };
}

/// A code that is an error, and something lighter in lighter cases.
macro_rules! both {
    ($code:literal, $lighter:ident, $title:literal) => {
        CodeInfo { code: $code, severity: Error, lighter: Some($lighter), title: $title, page: page!($code) }
    };
}

/// Every code, sorted.
pub const CODES: &[CodeInfo] = &[
    row!("E101", Error, "an expression that cannot be read"),
    row!("E102", Error, "an unknown name at the root of an expression"),
    row!("E103", Error, "an unknown filter, test or function, or too many arguments"),
    row!("E104", Error, "a condition that is not boolean"),
    both!("E105", Lint, "braces where none belong"),
    row!("E106", Error, "a comparison of different types"),
    row!("E107", Error, "a name that is not available here"),
    row!("G101", Error, "a missing or unknown `format`"),
    row!("G102", Error, "an unknown key"),
    row!("G103", Error, "an unknown kind"),
    row!("G104", Error, "a missing key"),
    row!("G105", Error, "a value of the wrong shape"),
    row!("G106", Error, "a name that is not an identifier, or is taken"),
    row!("G107", Error, "a graph, a schema file or project.yaml that is missing"),
    row!("G108", Warning, "a file that no rule claims"),
    row!("G201", Error, "an unknown node"),
    row!("G202", Error, "a node without `next`"),
    row!("G203", Warning, "a node that nothing reaches"),
    row!("G204", Error, "a node from which no path ends"),
    row!("G205", Error, "a cycle without a bound"),
    row!("G206", Error, "one of two keys that belong together"),
    row!("G207", Error, "rules that may not match, without `else`"),
    both!("G208", Warning, "a rule that is never reached"),
    row!("G209", Error, "a case that the value cannot have"),
    row!("G210", Error, "a `match` with values missing"),
    row!("G211", Error, "a `match` whose values cannot be listed, without `else`"),
    row!("G212", Warning, "a loop that changes nothing"),
    row!("G213", Error, "two replies at once"),
    row!("G214", Error, "graphs that call each other without a way out"),
    row!("G215", Error, "the body of a `map` that is more than one step"),
    row!("G216", Warning, "a graph that never replies"),
    row!("G217", Error, "errors that lead round in a circle"),
    row!("G218", Error, "a limit below what the graph needs"),
    row!("G219", Error, "runs of one node that write one channel"),
    row!("G220", Error, "a list of names as `next`"),
    row!("G221", Error, "a result that nobody takes"),
    row!("G222", Error, "structured output that is said to the user"),
    row!("G223", Error, "a reply without a conversation, or two conversations"),
    row!("G224", Lint, "a key that has no effect here"),
    row!("G225", Warning, "joins that wait for each other"),
    row!("G226", Warning, "handlers of several failures that write one channel"),
    row!("M501", Error, "an unknown model or retry policy"),
    row!("M502", Error, "a parameter that is unknown or out of range"),
    both!("M503", Warning, "a secret or a setting that is missing"),
    row!("M504", Error, "a key written in a file"),
    row!("M505", Error, "a secret where it does not belong"),
    both!("M506", Lint, "an unknown tool, or one that nobody registered"),
    row!("M507", Error, "a tool that is called with the wrong arguments"),
    row!("M508", Error, "a model that cannot do what is asked of it"),
    row!("M509", Lint, "a tool with effects that a text from outside can set off"),
    both!("M510", Warning, "an address that may not be called"),
    row!("M511", Error, "a duration or a size without a unit"),
    row!("M512", Error, "answers that do not fit where they go"),
    row!("M513", Error, "an error that is never caught"),
    both!("M514", Warning, "a test that does not fit its graph"),
    row!("M515", Warning, "runs that wait on a version that is gone"),
    row!("M516", Error, "a project that is too large"),
    row!("M517", Warning, "an entry that nobody uses"),
    row!("M518", Error, "a result that cannot be kept"),
    row!("S401", Error, "an unknown channel or input"),
    row!("S402", Error, "an unknown field"),
    row!("S403", Error, "a value of the wrong type"),
    row!("S404", Error, "a value that may be unset"),
    row!("S405", Warning, "a channel that nobody writes, or nobody reads"),
    row!("S406", Error, "two nodes that write one channel at once"),
    row!("S407", Error, "a merge that the type does not have"),
    row!("S408", Error, "a default that the type refuses"),
    row!("S409", Error, "an unknown type, or one that holds itself"),
    row!("S410", Error, "a JSON Schema file that cannot be used"),
    row!("S411", Error, "an answer that no provider can be held to"),
    row!("S412", Error, "a value that may be null"),
    row!("S413", Error, "a `map` over what is no list"),
    row!("S414", Error, "a graph that is called with the wrong inputs"),
    row!("S416", Lint, "a value that is overwritten before anybody reads it"),
    row!("T301", Error, "a template that cannot be read"),
    row!("T302", Error, "a name that the prompt does not declare"),
    row!("T303", Error, "an input without a value"),
    both!("T304", Warning, "an input that nobody declares, or nobody uses"),
    row!("T305", Error, "a prompt or a part that is missing or out of bounds"),
    row!("T306", Error, "front-matter or a sample that does not fit"),
    row!("T307", Error, "a role marker in the wrong place"),
    row!("T308", Error, "a list or an object printed as it is"),
    row!("T309", Warning, "a prompt or a part that nobody uses"),
    row!("T310", Lint, "text from outside in the system message"),
    row!("T312", Lint, "a word of the prompt that is nearly a value of the answer"),
    row!("Y001", Error, "text that is not YAML"),
    row!("Y002", Error, "a key that is there twice"),
    row!("Y003", Error, "braces outside quotes"),
    row!("Y004", Error, "a YAML tag"),
    row!("Y005", Error, "an anchor, an alias or a merge key"),
    row!("Y006", Error, "a value that is cut, or empty"),
    both!("Y007", Lint, "several documents, another encoding, or too much"),
    both!("Y008", Lint, "a number or a boolean where a text is due"),
];

/// Told by `serve` of what is stored: no file has it, so none can silence it.
const OF_THE_STORE: [&str; 1] = ["M515"];

impl CodeInfo {
    /// Says whether `allow` can silence the code, at least where it weighs less.
    pub fn can_be_allowed(&self) -> bool {
        let light = self.severity != Error || self.lighter.is_some();
        light && !OF_THE_STORE.contains(&self.code)
    }
}

/// Returns what a code stands for.
pub fn code_info(code: &str) -> Option<&'static CodeInfo> {
    CODES.iter().find(|info| info.code == code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sorted_and_each_is_there_once() {
        assert!(CODES.windows(2).all(|pair| pair[0].code < pair[1].code));
    }
}
