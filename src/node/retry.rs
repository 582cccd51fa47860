//! How often a failed attempt is made again.

use std::time::Duration;

use super::Failure;

/// The longest wait that another side can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);

/// A retry policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// The most attempts, the first one included.
    pub attempts: u32,
    /// The longest wait before the second attempt.
    pub first: Duration,
    /// By what the wait grows.
    pub factor: f64,
    /// The longest wait before any attempt.
    pub max: Duration,
    /// The names of the error kinds that are tried again; `any` names all.
    pub kinds: Vec<String>,
}

impl Default for Retry {
    /// Tries once: what a failed call did outside is not known.
    fn default() -> Self {
        Self {
            attempts: 1,
            first: Duration::from_millis(500),
            factor: 2.0,
            max: Duration::from_secs(10),
            kinds: Vec::new(),
        }
    }
}

impl Retry {
    /// Returns how long to wait after `attempt` failed, or nothing when it was the last. `random` is in 0..1:
    /// full jitter spreads the attempts of many runs.
    pub fn delay(&self, attempt: u32, failure: &Failure, random: f64) -> Option<Duration> {
        if attempt >= self.attempts || !self.kinds.iter().any(|kind| failure.is(kind)) {
            return None;
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        let most = (self.first.as_secs_f64() * self.factor.powi(exponent)).min(self.max.as_secs_f64());
        let jittered = Duration::try_from_secs_f64(most * random).unwrap_or(self.max);
        Some(failure.retry_after.map_or(jittered, |asked| asked.min(MAX_RETRY_AFTER).max(jittered)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::ErrorKind;

    #[test]
    fn the_wait_grows_to_its_bound_and_honours_what_the_other_side_asks() {
        let retry = Retry { attempts: 4, kinds: vec!["rate_limit".into()], ..Retry::default() };
        let slow = Failure::new(ErrorKind::RateLimit, "slow down");
        assert_eq!(retry.delay(1, &slow, 1.0), Some(Duration::from_millis(500)));
        assert_eq!(retry.delay(3, &slow, 1.0), Some(Duration::from_secs(2)));
        assert_eq!(retry.delay(3, &slow, 0.0), Some(Duration::ZERO));
        assert_eq!(retry.delay(4, &slow, 1.0), None);
        let asked = Failure { retry_after: Some(Duration::from_mins(10)), ..slow };
        assert_eq!(retry.delay(1, &asked, 1.0), Some(MAX_RETRY_AFTER));
        assert_eq!(retry.delay(1, &Failure::new(ErrorKind::Schema, ""), 1.0), None);
    }
}
