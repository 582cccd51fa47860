//! Reads `[[name=value name …]]`.
//!
//! | directive | what the mock does |
//! |---|---|
//! | `tokens=50` | answers with so many tokens (16) |
//! | `first=200ms`, `delay=20ms` | waits before the first and before each further token (0) |
//! | `reasoning=5` | thinks so many tokens first |
//! | `[[say=…]]` | answers with the rest of the block, word by word |
//! | `echo` | answers with the list of messages as JSON |
//! | `usage`, `no_usage` | reports token counts unasked, or not at all |
//! | `length` | ends for want of tokens |
//! | `split=1` | writes every byte alone |
//! | `status=429 retry_after=1` | refuses |
//! | `cut_after=5` | breaks the connection after so many tokens |
//! | `malformed=3`, `error_in_stream=3` | sends garbage, or an error, after so many tokens |
//! | `no_done` | leaves `[DONE]` out |
//! | `hang`, `hang_after=2` | says nothing at all, or nothing more |
//! | `fail_call=3`, `fail_first=2` | limits the faults above to that call, or to the first calls; `status=500` without one |
//! | `key=x` | counts these calls under this name instead of the text of the directives |

use std::collections::BTreeMap;
use std::time::Duration;

/// The names of faults, which `fail_call` and `fail_first` switch on and off.
const FAULTS: &[&str] =
    &["status", "cut_after", "malformed", "error_in_stream", "no_done", "hang", "hang_after"];

/// The directives of one call; a later source replaces an earlier one name by name.
#[derive(Debug, Default)]
pub(crate) struct Directives {
    values: BTreeMap<String, String>,
    source: String,
}

impl Directives {
    /// Reads all blocks of a text.
    pub(crate) fn read(&mut self, text: &str) {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("[[") {
            let Some((block, after)) = after.split_once("]]") else { return };
            rest = after;
            self.source.push_str(block);
            if let Some(said) = block.trim_start().strip_prefix("say=") {
                self.values.insert("say".to_owned(), said.to_owned());
                continue;
            }
            for word in block.split_whitespace() {
                let (name, value) = word.split_once('=').unwrap_or((word, ""));
                self.values.insert(name.to_owned(), value.to_owned());
            }
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.text(name)?.parse().ok()
    }

    /// Reads `20ms`, `1.5s` or milliseconds.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        let text = self.text(name).unwrap_or_default();
        let (number, factor) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
            (Some(number), _) => (number, 0.001),
            (None, Some(number)) => (number, 1.0),
            (None, None) => (text, 0.001),
        };
        Duration::try_from_secs_f64(number.parse().unwrap_or(0.0) * factor).unwrap_or_default()
    }

    /// Returns the name under which this call is counted, when its number matters.
    pub(crate) fn counted_key(&self) -> Option<&str> {
        let counted = self.has("fail_call") || self.has("fail_first");
        counted.then(|| self.text("key").unwrap_or(&self.source))
    }

    /// Keeps the faults when call number `call` is one that shall fail, and drops them otherwise.
    pub(crate) fn choose(&mut self, call: usize) {
        let fails =
            self.number("fail_call") == Some(call) || self.number("fail_first").is_some_and(|n| call <= n);
        if !fails {
            self.values.retain(|name, _| !FAULTS.contains(&name.as_str()));
        } else if !FAULTS.iter().any(|fault| self.has(fault)) {
            self.values.insert("status".to_owned(), "500".to_owned());
        }
    }
}
