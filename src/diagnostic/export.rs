//! Findings for the tools around a repository: SARIF for code scanning, workflow commands for GitHub's checks.
//!
//! Invariant: nothing that a file holds can end a command or a property early.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::{Bag, CODES, Diagnostic, Label, Lines, Severity, code_info};

/// Returns the findings as a SARIF 2.1.0 log (OASIS). Columns count UTF-16 code units from 1.
pub fn render_sarif(bag: &Bag) -> Json {
    let used: Vec<&'static str> = CODES
        .iter()
        .map(|info| info.code)
        .filter(|code| bag.findings.iter().any(|f| f.code == *code))
        .collect();
    let rule = |code: &&'static str| {
        let (title, page) = code_info(code).map_or(("", ""), |info| (info.title, info.page));
        json!({"id": code, "shortDescription": {"text": title}, "help": {"text": page, "markdown": page}})
    };
    let place = |label: &Label| {
        let (file, text) = bag.source(label.span.file);
        let lines = Lines::of(text);
        // Here both count from 1.
        let at = |byte: u32| {
            let (line, column) = lines.utf16(byte as usize);
            (line + 1, column + 1)
        };
        let ((line, column), (end_line, end_column)) = (at(label.span.start), at(label.span.end));
        let region =
            json!({"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column});
        let mut location =
            json!({"physicalLocation": {"artifactLocation": {"uri": uri(file)}, "region": region}});
        if !label.text.is_empty() {
            location["message"] = json!({"text": label.text});
        }
        location
    };
    let result = |f: &Diagnostic| {
        let level = match f.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Lint => "note",
        };
        json!({
            "ruleId": f.code,
            "ruleIndex": used.iter().position(|code| *code == f.code),
            "level": level,
            "message": {"text": f.sentence()},
            "locations": [place(&f.label)],
            "relatedLocations": f.related.iter().map(place).collect::<Vec<_>>(),
        })
    };
    let driver = json!({
        "name": "graphloom",
        "version": env!("CARGO_PKG_VERSION"),
        "rules": used.iter().map(rule).collect::<Vec<_>>(),
    });
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": driver},
            "columnKind": "utf16CodeUnits",
            "results": bag.findings.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

/// Returns the findings as workflow commands, one a line, which GitHub shows beside the lines that they are about.
pub fn render_github(bag: &Bag) -> String {
    let mut out = String::new();
    for f in &bag.findings {
        let command = match f.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Lint => "notice",
        };
        let place = bag.place(f.label.span);
        let file = property(bag.source(f.label.span.file).0);
        let message = data(&f.sentence());
        let _infallible = writeln!(
            out,
            "::{command} file={file},line={},endLine={},col={},endColumn={},title={}::{message}",
            place.line, place.end_line, place.column, place.end_column, f.code,
        );
    }
    out
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Writes a path as a relative URI reference (RFC 3986).
fn uri(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(byte as char);
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    fn bag() -> Bag {
        let mut bag = Bag::default();
        let text = "a: 🦀 anwser\nb: x\n";
        let file = bag.add_source("my graphs/a,b:c.yaml", text);
        let start = text.find("anwser").unwrap() as u32;
        let at = Span { file, start, end: start + 6 };
        let other = Span { file, start: start + 7, end: start + 8 };
        let finding = Diagnostic::error("G201", "unknown node `anwser`", at, "100 % unknown");
        bag.report(finding.related(other, "defined\nhere").help("did you mean `answer`?"));
        bag
    }

    #[test]
    fn a_workflow_command_is_one_line_whatever_a_finding_says() {
        let expected = "::error file=my graphs/a%2Cb%3Ac.yaml,line=1,endLine=1,col=6,endColumn=12,title=G201\
                        ::unknown node `anwser`: 100 %25 unknown%0Adid you mean `answer`?\n";
        assert_eq!(render_github(&bag()), expected);
    }

    #[test]
    fn a_sarif_log_counts_utf16_and_names_its_rules() {
        let log = render_sarif(&bag());
        let run = &log["runs"][0];
        assert_eq!(run["tool"]["driver"]["rules"][0]["id"], "G201");
        let result = &run["results"][0];
        assert_eq!((&result["ruleIndex"], &result["level"]), (&json!(0), &json!("error")));
        let place = &result["locations"][0]["physicalLocation"];
        assert_eq!(place["artifactLocation"]["uri"], "my%20graphs/a%2Cb%3Ac.yaml");
        let region = json!({"startLine": 1, "startColumn": 7, "endLine": 1, "endColumn": 13});
        assert_eq!(place["region"], region);
        assert_eq!(result["relatedLocations"][0]["message"]["text"], "defined\nhere");
    }
}
