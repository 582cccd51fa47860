//! What calls of models use: of those that succeed, and of those that fail or are cut off, which cost as much.

use std::sync::{Arc, Mutex, PoisonError};

use tracing::Span;

use crate::event::Usage;
use crate::trace;

/// Sums up what the attempts at a task use. Clones are one meter.
#[derive(Debug, Clone, Default)]
pub struct Meter(Arc<Mutex<Usage>>);

impl Meter {
    /// Adds what was used.
    pub fn add(&self, usage: Usage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += usage;
    }

    /// Returns what was used.
    pub fn total(&self) -> Usage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What tokens cost, in US dollars for a million.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Price {
    /// Of prompts.
    pub input: f64,
    /// Of answers.
    pub output: f64,
    /// Of prompts that are in the provider's cache.
    pub cache_read: f64,
    /// Of prompts that it puts there.
    pub cache_write: f64,
}

impl Price {
    /// Returns what was used with what it cost.
    pub fn of(&self, usage: Usage) -> Usage {
        let cached = usage.cache_read_tokens.saturating_add(usage.cache_write_tokens);
        let sum = [
            (usage.input_tokens.saturating_sub(cached), self.input),
            (usage.output_tokens, self.output),
            (usage.cache_read_tokens, self.cache_read),
            (usage.cache_write_tokens, self.cache_write),
        ];
        // A dollar for a million is a thousand billionths for one.
        let nano: f64 = sum.iter().map(|(tokens, price)| *tokens as f64 * price * 1000.0).sum();
        Usage { cost_nano_usd: nano.round() as u64, ..usage }
    }
}

/// What one call uses. It is counted when the call is over, however it ends: a call that is cancelled or cut is paid for,
/// too. Where the provider has not said how much by then, it is guessed from the bytes, four of which are about a token.
pub(super) struct Tally<'a> {
    /// The model, for metrics.
    pub(super) model: &'a str,
    pub(super) meter: &'a Meter,
    pub(super) price: Option<Price>,
    /// What the provider said.
    pub(super) said: Usage,
    /// Bytes of the prompt.
    pub(super) sent: usize,
    /// Bytes of the answer.
    pub(super) received: usize,
    /// The call in traces.
    pub(super) span: Span,
    /// The answer is whole, so what the provider said is all; if it said anything.
    pub(super) whole: bool,
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let mut usage = Usage { model_calls: 1, ..self.said };
        let unsaid = usage.input_tokens == 0 && usage.output_tokens == 0;
        if self.received > 0 && (!self.whole || unsaid) {
            if usage.input_tokens == 0 {
                usage.input_tokens = self.sent as u64 / 4;
            }
            usage.output_tokens = usage.output_tokens.max(self.received as u64 / 4);
        }
        let model = self.model.to_owned();
        let outcome = if self.whole { "whole" } else { "failed" };
        metrics::counter!("graphloom_model_calls_total", "model" => model.clone(), "outcome" => outcome)
            .increment(1);
        for (kind, tokens) in [("input", usage.input_tokens), ("output", usage.output_tokens)] {
            metrics::counter!("graphloom_model_tokens_total", "model" => model.clone(), "kind" => kind)
                .increment(tokens);
        }
        trace::used(&self.span, &usage);
        let usage = self.price.map_or(usage, |price| price.of(usage));
        metrics::counter!("graphloom_model_cost_nano_usd_total", "model" => model)
            .increment(usage.cost_nano_usd);
        self.meter.add(usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_exact_to_a_billionth_and_cached_tokens_have_their_own() {
        let price = Price { input: 3.0, output: 15.0, cache_read: 0.3, cache_write: 3.75 };
        let usage = |input_tokens, output_tokens, cache_read_tokens, cache_write_tokens| {
            let usage = Usage { input_tokens, output_tokens, ..Usage::default() };
            Usage { cache_read_tokens, cache_write_tokens, ..usage }
        };
        for (usage, nano) in [
            (usage(1_000_000, 0, 0, 0), 3_000_000_000),
            (usage(0, 1, 0, 0), 15_000),
            (usage(330, 42, 300, 20), 10 * 3_000 + 42 * 15_000 + 300 * 300 + 20 * 3_750),
            (usage(u64::MAX, u64::MAX, u64::MAX, u64::MAX), u64::MAX),
        ] {
            assert_eq!(price.of(usage).cost_nano_usd, nano, "{usage:?}");
        }
    }

    #[test]
    fn a_cost_is_written_in_dollars_and_read_back_as_it_was() {
        let usage = Usage { cost_nano_usd: 1_234_567_890_123, model_calls: 1, ..Usage::default() };
        let json = serde_json::to_value(usage).unwrap();
        assert_eq!(json["cost_usd"], 1_234.567_890_123);
        assert_eq!(serde_json::from_value::<Usage>(json).unwrap(), usage);
        let old = r#"{"input_tokens":1,"output_tokens":2,"model_calls":3}"#;
        let old: Usage = serde_json::from_str(old).unwrap();
        assert_eq!(serde_json::to_value(old).unwrap().as_object().unwrap().len(), 3, "nothing is added");
    }
}
