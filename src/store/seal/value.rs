//! A sealed value: what leads it, and what it is bound to.
//!
//! `MARK | format | bond | id of the data key (16) | nonce (24) | ciphertext | tag (16)`. All but the nonce and what follows
//! is authenticated together with the place. Invariant: a value opens only at the place that it was sealed for; whatever
//! else is there is an error that says where, never a guess.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::place::Place;
use crate::store::{Result, StoreError};

/// Begins a sealed value; no text does, so nothing that the engine encodes.
pub(in crate::store) const MARK: u8 = 0xfa;
/// The format that this build writes.
const FORMAT: u8 = 1;
/// What is before the nonce.
const HEAD: usize = 3 + 16;
const NONCE: usize = 24;
const TAG: usize = 16;
/// The bytes of a key.
pub(super) const KEY: usize = 32;

/// The bytes of a key, which are wiped when they are let go.
pub(super) type Raw = Zeroizing<[u8; KEY]>;

/// What a value is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bond {
    /// The row and the column.
    Row = 0,
    /// The owner: the word that a run was ended from outside. Which run that ends, and under which fence, is found by the
    /// statement that stores it; it says nothing but that.
    Owner = 1,
}

/// Fills bytes from the generator of the system.
pub(super) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| StoreError::Unavailable(format!("the system gives no random numbers: {error}")))
}

/// A key, ready for use. It is wiped when it is let go.
pub(super) struct Cipher(XChaCha20Poly1305);

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cipher(..)")
    }
}

impl Cipher {
    pub(super) fn new(raw: &Raw) -> Self {
        Self(XChaCha20Poly1305::new((&**raw).into()))
    }

    /// Appends to `out` a nonce, and what is to be read by nobody.
    pub(super) fn hide(&self, mut out: Vec<u8>, bound: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        random(&mut nonce)?;
        out.reserve_exact(NONCE + plain.len() + TAG);
        out.extend_from_slice(&nonce);
        let from = out.len();
        out.extend_from_slice(plain);
        let hidden = InOutBuf::from(&mut out[from..]);
        let too_long = |_| StoreError::Config("a value is too long to be encrypted".into());
        let tag = self.0.encrypt_inout_detached(&XNonce::from(nonce), bound, hidden).map_err(too_long)?;
        out.extend_from_slice(&tag);
        Ok(out)
    }

    /// Returns what was hidden; nothing when it is not what was hidden with this key for `bound`.
    pub(super) fn show(&self, bound: &[u8], hidden: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = hidden.split_first_chunk::<NONCE>()?;
        let (hidden, tag) = rest.split_last_chunk::<TAG>()?;
        let mut plain = hidden.to_vec();
        let (nonce, tag) = (XNonce::from(*nonce), Tag::from(*tag));
        self.0.decrypt_inout_detached(&nonce, bound, InOutBuf::from(&mut plain[..]), &tag).ok()?;
        Some(plain)
    }
}

/// A data key of a tenant.
#[derive(Debug)]
pub(super) struct DataKey {
    pub(super) id: Uuid,
    cipher: Cipher,
}

impl DataKey {
    pub(super) fn new(id: Uuid, raw: &Raw) -> Self {
        Self { id, cipher: Cipher::new(raw) }
    }

    /// Seals a value for its place.
    pub(super) fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>> {
        let mut head = Vec::with_capacity(HEAD + NONCE + plain.len() + TAG);
        head.extend_from_slice(&[MARK, FORMAT, place.bond() as u8]);
        head.extend_from_slice(self.id.as_bytes());
        let bound = place.bound(&head);
        self.cipher.hide(head, &bound, plain)
    }

    /// Opens a value that this key sealed.
    pub(super) fn open(&self, place: &Place, sealed: &Sealed<'_>) -> Result<Vec<u8>> {
        let plain = self.cipher.show(&place.bound(sealed.head), sealed.hidden);
        plain.ok_or_else(|| place.broken("is damaged, or was sealed for another place"))
    }
}

/// A sealed value as it is stored.
#[derive(Debug)]
pub(super) struct Sealed<'a> {
    pub(super) key: Uuid,
    pub(super) bond: Bond,
    head: &'a [u8],
    hidden: &'a [u8],
}

impl<'a> Sealed<'a> {
    /// Reads what leads a value that stands at this place.
    pub(super) fn read(place: &Place, bytes: &'a [u8]) -> Result<Self> {
        if bytes.first() != Some(&MARK) {
            return Err(place.broken("is not encrypted, and the settings say that all is"));
        }
        let Some((head, hidden)) = bytes.split_at_checked(HEAD) else {
            return Err(place.broken("ends too early"));
        };
        if head[1] != FORMAT {
            return Err(
                place.broken(&format!("has the encryption format {}, which this build cannot read", head[1]))
            );
        }
        let bond = match head[2] {
            0 => Bond::Row,
            1 => Bond::Owner,
            other => return Err(place.broken(&format!("is bound in the unknown way {other}"))),
        };
        let mut key = [0; 16];
        key.copy_from_slice(&head[3..]);
        Ok(Self { key: Uuid::from_bytes(key), bond, head, hidden })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{Owner, RunId};

    fn key(n: u8) -> DataKey {
        DataKey::new(Uuid::from_bytes([n; 16]), &Zeroizing::new([n; KEY]))
    }

    fn place(user: &str, n: u64) -> Place {
        let owner = Owner { tenant: "acme".parse().unwrap(), user: user.parse().unwrap() };
        Place::event(&owner, RunId(Uuid::nil()), (1, n, n))
    }

    fn open(key: &DataKey, place: &Place, bytes: &[u8]) -> Result<Vec<u8>> {
        key.open(place, &Sealed::read(place, bytes)?)
    }

    proptest! {
        #[test]
        fn a_value_opens_at_its_place_with_its_key_and_nowhere_else(plain: Vec<u8>, at in 0_usize..4096, bit in 0_u8..8) {
            let (mine, here) = (key(1), place("ann", 7));
            let sealed = mine.seal(&here, &plain).unwrap();
            prop_assert_eq!(open(&mine, &here, &sealed).unwrap(), plain.clone());
            prop_assert!(plain.len() < 8 || !sealed.windows(plain.len()).any(|window| window == plain));
            for (key, place) in [(&key(2), &here), (&mine, &place("ann", 8)), (&mine, &place("bob", 7))] {
                prop_assert!(open(key, place, &sealed).is_err());
            }
            let mut flipped = sealed.clone();
            let at = at % flipped.len();
            flipped[at] ^= 1 << bit;
            prop_assert!(open(&mine, &here, &flipped).is_err());
            prop_assert!(open(&mine, &here, &sealed[..at]).is_err());
        }

        #[test]
        fn whatever_is_stored_is_opened_or_refused_with_its_place(mut bytes: Vec<u8>, marked: bool) {
            if marked {
                bytes.splice(0..bytes.len().min(3), [MARK, FORMAT, 0]);
            }
            let error = open(&key(1), &place("ann", 7), &bytes).unwrap_err().to_string();
            prop_assert!(error.contains("`event.data`") && error.contains("fence 1"), "{error}");
        }
    }
}
