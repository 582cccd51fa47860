//! Signs what is sent to webhooks, as Standard Webhooks has it (version 1, symmetric).
//!
//! Invariant: a key is never printed, and what is signed is what is sent.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Bytes that a key may have.
const LENGTHS: std::ops::RangeInclusive<usize> = 24..=64;

/// A key that both sides know, written `whsec_` and Base64.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// A text that is no key. It says nothing of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret of webhooks is `whsec_` and the Base64 of 24 to 64 random bytes")]
pub struct NoKey;

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(…)")
    }
}

impl FromStr for SigningKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let bytes = text.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        let bytes = bytes.filter(|bytes| LENGTHS.contains(&bytes.len())).ok_or(NoKey)?;
        Hmac::new_from_slice(&bytes).map(Self).map_err(|_| NoKey)
    }
}

impl SigningKey {
    fn sign(&self, id: &str, at: i64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{at}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// Returns the signatures of all keys, so that a receiver may know the old one or the new one.
#[must_use]
pub fn signatures(keys: &[SigningKey], id: &str, at: i64, body: &[u8]) -> String {
    keys.iter().map(|key| key.sign(id, at, body)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let key: SigningKey = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let (id, at) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330);
        let signed = signatures(&[key.clone(), key], id, at, b"{\"test\": 2432232314}");
        let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(signed, format!("{one} {one}"));
    }

    #[test]
    fn a_key_has_its_prefix_and_enough_bytes_and_is_never_printed() {
        for bad in [
            "",
            "whsec_",
            "whsec_AAAA",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS",
        ] {
            assert_eq!(bad.parse::<SigningKey>().unwrap_err(), NoKey, "{bad}");
        }
        let key: SigningKey = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        assert_eq!(format!("{key:?}"), "SigningKey(…)");
    }
}
