//! Finds what looks like a key or a password in a file, before anything can print it.

use std::sync::LazyLock;

use regex::Regex;

use crate::diagnostic::{Bag, Diagnostic, FileId, Span};

/// What keys look like: by the marks that their makers put on them, and passwords within addresses.
static KEYS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let marks = [
        r"\b(?:sk|pk)-[A-Za-z0-9_-]*[0-9][A-Za-z0-9_-]{8,}",
        r"gh[opsur]_[A-Za-z0-9]{20,}",
        r"github_pat_[A-Za-z0-9_]{20,}",
        r"glpat-[A-Za-z0-9_-]{16,}",
        r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
        r"gsk_[A-Za-z0-9]{20,}",
        r"hf_[A-Za-z0-9]{20,}",
        r"AKIA[0-9A-Z]{16}",
        r"AIza[0-9A-Za-z_-]{35}",
        r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*",
        r"(?s:-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\z))",
        r"(?P<address>[a-z][a-z0-9+.-]*://[^\s/:@{}$]+:)(?P<password>[^\s/@{}$]+)@",
    ];
    Regex::new(&marks.join("|")).ok()
});

/// Reports and hides the keys and passwords of a file.
pub(super) fn mask(file: FileId, bag: &mut Bag) {
    let Some(keys) = KEYS.as_ref().filter(|_| !bag.is_trusting()) else { return };
    let text = bag.source(file).1.to_owned();
    for found in keys.captures_iter(&text) {
        let password = found.name("password");
        let Some(secret) = password.or_else(|| found.get(0)) else { continue };
        let span = Span { file, start: secret.start() as u32, end: secret.end() as u32 };
        let (message, label) = match password {
            Some(_) => ("a password in an address", "everybody who reads the file has it"),
            None => ("a key in the file", "everybody who reads the file has it"),
        };
        bag.report(
            Diagnostic::error("M504", message, span, label)
                .help("write  {secret: NAME}  where a key is due, and set the variable NAME; change this one, it is known now"),
        );
        bag.mask(span);
    }
}
