//! Master keys: they wrap the data keys of tenants, and nothing else.
//!
//! Invariant: a master key is known by its name, and the first one wraps.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

use super::place::{DEPLOYMENT, Place};
use super::value::{Cipher, KEY, Raw, random};
use crate::store::sql::keys::KeyRow;
use crate::store::{Result, StoreError};

/// The master keys of a deployment, the one that wraps new data keys first.
#[derive(Debug)]
pub struct Masters {
    first: Master,
    /// Those that data keys may still be wrapped by.
    older: Vec<Master>,
}

#[derive(Debug)]
struct Master {
    name: String,
    cipher: Cipher,
}

fn refused(why: String) -> StoreError {
    StoreError::Config(why)
}

/// Reads the 32 bytes of a key.
fn raw(name: &str, text: &str) -> Result<Raw> {
    let wrong = |found: &str| {
        refused(format!(
            "the master key `{name}` {found}; expected 32 bytes in base64, as `graphloom encryption new-key` makes them"
        ))
    };
    let mut bytes = STANDARD.decode(text.trim()).map_err(|_| wrong("is not base64"))?;
    let raw = <[u8; KEY]>::try_from(&bytes[..]).map(Zeroizing::new);
    let found = bytes.len();
    bytes.zeroize();
    raw.map_err(|_| wrong(&format!("is {found} bytes")))
}

/// Makes a master key, as the settings take it.
pub fn new_master() -> Result<String> {
    let mut raw = Raw::default();
    random(&mut raw[..])?;
    Ok(STANDARD.encode(&raw[..]))
}

impl Masters {
    /// Takes master keys, each a name and 32 bytes in base64. The first one wraps.
    pub fn new<'a>(keys: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self> {
        let mut masters: Vec<Master> = Vec::new();
        for (name, text) in keys {
            if masters.iter().any(|master| master.name == name) {
                return Err(refused(format!("the master key `{name}` is named twice")));
            }
            masters.push(Master { name: name.to_owned(), cipher: Cipher::new(&raw(name, text)?) });
        }
        if masters.is_empty() {
            return Err(refused("encryption takes one master key at least".into()));
        }
        Ok(Self { first: masters.remove(0), older: masters })
    }

    /// Returns the name of the one that wraps.
    pub(super) fn name(&self) -> &str {
        &self.first.name
    }

    /// Makes a data key, and what is stored of it.
    pub(super) fn make(&self, tenant: &str) -> Result<(Raw, KeyRow)> {
        let mut raw = Raw::default();
        random(&mut raw[..])?;
        let row = self.wrap(tenant, Uuid::now_v7(), &raw)?;
        Ok((raw, row))
    }

    /// Wraps a data key.
    pub(super) fn wrap(&self, tenant: &str, key: Uuid, raw: &Raw) -> Result<KeyRow> {
        let Master { name, cipher } = &self.first;
        let bound = Place::wrapped(tenant, key, name).bound(&[]);
        let wrapped = cipher.hide(Vec::new(), &bound, &raw[..])?;
        Ok(KeyRow { key, master: name.clone(), wrapped, converting: false })
    }

    /// Takes a data key out of what is stored of it.
    pub(super) fn unwrap(&self, tenant: &str, row: &KeyRow) -> Result<Raw> {
        let whose =
            if tenant == DEPLOYMENT { "the database".to_owned() } else { format!("tenant `{tenant}`") };
        let master = std::iter::once(&self.first).chain(&self.older).find(|master| master.name == row.master);
        let Some(master) = master else {
            return Err(refused(format!(
                "{whose} is encrypted under the master key `{0}`, which the settings do not name: name `{0}` among the \
                 keys under [encryption]; without it nothing of {whose} can be read",
                row.master
            )));
        };
        let bound = Place::wrapped(tenant, row.key, &row.master).bound(&[]);
        let plain = master.cipher.show(&bound, &row.wrapped).map(Zeroizing::new);
        let raw = plain.and_then(|plain| <[u8; KEY]>::try_from(&plain[..]).ok()).map(Zeroizing::new);
        raw.ok_or_else(|| {
            refused(format!(
                "the master key `{}` is not the one that {whose} is encrypted under: another key has its name, or the \
                 row of `data_key` is damaged",
                row.master
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_key_is_32_bytes_under_a_name_of_its_own() {
        let good = new_master().unwrap();
        assert_ne!(good, new_master().unwrap());
        for (keys, why) in [
            (vec![], "one master key at least"),
            (vec![("A", good.as_str()), ("A", good.as_str())], "`A` is named twice"),
            (vec![("A", "secret!")], "`A` is not base64"),
            (vec![("A", good.as_str()), ("B", "c2hvcnQ=")], "`B` is 5 bytes"),
        ] {
            let error = Masters::new(keys).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains(&good), "{error}");
        }
    }

    #[test]
    fn a_data_key_is_unwrapped_for_its_tenant_by_its_master_key_alone() {
        let (one, two) = (new_master().unwrap(), new_master().unwrap());
        let masters = |keys: &[(&str, &str)]| Masters::new(keys.iter().copied()).unwrap();
        let old = masters(&[("ONE", &one)]);
        let (raw, row) = old.make("acme").unwrap();
        let both = masters(&[("TWO", &two), ("ONE", &one)]);
        assert_eq!(*both.unwrap("acme", &row).unwrap(), *raw);
        let row = both.wrap("acme", row.key, &raw).unwrap();
        assert_eq!(*masters(&[("TWO", &two)]).unwrap("acme", &row).unwrap(), *raw);
        let other = KeyRow { key: Uuid::now_v7(), ..row.clone() };
        let short = KeyRow { wrapped: row.wrapped[..20].to_vec(), ..row.clone() };
        for (masters, tenant, row, why) in [
            (&old, "acme", &row, "`TWO`, which the settings do not name"),
            (&masters(&[("TWO", &one)]), "acme", &row, "is not the one that tenant `acme`"),
            (&both, "bolt", &row, "is not the one that tenant `bolt`"),
            (&both, "acme", &other, "is not the one"),
            (&both, "acme", &short, "is not the one"),
        ] {
            let error = masters.unwrap(tenant, row).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
