//! Who asks: tenant, user and role, by API key, from a trusted proxy, or from nobody on loopback.
//!
//! Invariant: an identity comes from here and from nowhere else; no body and no query can set it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use poem::http::{HeaderMap, header};
use poem::{FromRequest, Request, RequestBody};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::problem::{Code, Problem};
use crate::id::{Owner, Part};

const TENANT: &str = "X-Tenant-Id";
const USER: &str = "X-User-Id";
const API_KEY: &str = "X-API-Key";
const ROLES: &str = "X-Roles";
/// The role of those who answer what is asked of agents.
const AGENT: &str = "agent";
/// The tenant and the user of a caller who names none, in mode `none`.
const NOBODY: &str = "dev";

/// How callers are identified.
///
/// ```
/// use graphloom::Auth;
///
/// let behind_a_proxy = Auth::Proxy(vec!["10.0.0.0/8".parse()?]);
/// # Ok::<(), graphloom::AuthError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Not at all: only for loopback. The caller may name tenant and user in the headers.
    #[default]
    None,
    /// By a key in `Authorization: Bearer` or `X-API-Key`.
    ApiKeys(ApiKeys),
    /// By `X-Tenant-Id`, `X-User-Id` and `X-Roles`, believed from these peers only.
    Proxy(Vec<Network>),
}

/// Settings of authentication that cannot work.
///
/// ```
/// use graphloom::{ApiKeys, AuthError};
///
/// assert!(matches!(ApiKeys::new([]), Err(AuthError::Nobody(_))));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A hash is not a SHA-256 in hex.
    #[error("the hash of key `{0}` is not 64 hex digits")]
    Hash(String),
    /// An id would make keys that cannot be taken apart.
    #[error("the key id `{0}` may hold only letters, digits and `-`, 1 to 64 of them")]
    Id(String),
    /// Two keys have one id.
    #[error("two keys have the id `{0}`")]
    Twice(String),
    /// A text is no address and no network.
    #[error("`{0}` is not an address like `10.0.0.7` or a network like `10.0.0.0/8`")]
    Network(String),
    /// Nobody could ask anything.
    #[error("{0}")]
    Nobody(&'static str),
}

/// One API key, of which only the hash is kept. The key itself is `gl_<id>_<secret>`.
///
/// ```
/// use graphloom::ApiKey;
///
/// // `graphloom key` makes one: the key for its owner, the hash of its secret for the settings.
/// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// let key = ApiKey::new("bot", hash, "acme".parse()?, Some("bot".parse()?), None)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ApiKey {
    id: String,
    hash: [u8; 32],
    tenant: Part,
    user: Option<Part>,
    expires: Option<DateTime<Utc>>,
    agent: bool,
}

impl ApiKey {
    /// Makes a key from its visible id and the hex SHA-256 of its secret. Without a user, the caller
    /// names the user in `X-User-Id`.
    ///
    /// ```
    /// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    /// let key = graphloom::ApiKey::new("desk", hash, "acme".parse()?, None, None)?;
    /// assert!(graphloom::ApiKey::new("desk", "secret", "acme".parse()?, None, None).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(
        id: &str,
        hash: &str,
        tenant: Part,
        user: Option<Part>,
        expires: Option<DateTime<Utc>>,
    ) -> Result<Self, AuthError> {
        if !(1..=64).contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            return Err(AuthError::Id(id.to_owned()));
        }
        let hash = unhex(hash).ok_or_else(|| AuthError::Hash(id.to_owned()))?;
        Ok(Self { id: id.to_owned(), hash, tenant, user, expires, agent: false })
    }

    /// Gives the key the role `agent`: it answers what is asked of agents of its tenant.
    ///
    /// ```
    /// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    /// let agent = graphloom::ApiKey::new("desk", hash, "acme".parse()?, None, None)?.as_agent(true);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn as_agent(self, agent: bool) -> Self {
        Self { agent, ..self }
    }
}

/// The keys that are valid, by id.
///
/// ```
/// use graphloom::{ApiKey, ApiKeys, Auth};
///
/// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// let key = ApiKey::new("bot", hash, "acme".parse()?, Some("bot".parse()?), None)?;
/// let auth = Auth::ApiKeys(ApiKeys::new([key])?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct ApiKeys(BTreeMap<String, ApiKey>);

impl ApiKeys {
    /// Collects keys; their ids must differ, and there must be one.
    ///
    /// ```
    /// let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    /// let key = graphloom::ApiKey::new("bot", hash, "acme".parse()?, None, None)?;
    /// assert!(graphloom::ApiKeys::new([key.clone(), key]).is_err(), "two keys of one id");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Result<Self, AuthError> {
        let mut by_id = BTreeMap::new();
        for key in keys {
            if let Some(former) = by_id.insert(key.id.clone(), key) {
                return Err(AuthError::Twice(former.id));
            }
        }
        if by_id.is_empty() {
            return Err(AuthError::Nobody("mode `api_keys` needs at least one key"));
        }
        Ok(Self(by_id))
    }

    fn find(&self, text: &str, now: DateTime<Utc>) -> Option<&ApiKey> {
        let (id, secret) = text.strip_prefix("gl_").and_then(|rest| rest.split_once('_')).unwrap_or_default();
        let key = self.0.get(id);
        // An unknown id costs the same as a wrong secret, so that time does not tell which ids exist.
        let expected = key.map_or([0; 32], |key| key.hash);
        let same: bool = Sha256::digest(secret.as_bytes()).as_slice().ct_eq(&expected).into();
        key.filter(|key| same && key.expires.is_none_or(|end| now < end))
    }
}

/// An address or a network of peers.
///
/// ```
/// use graphloom::Network;
///
/// assert!("10.0.0.0/8".parse::<Network>().is_ok() && "10.0.0.0/33".parse::<Network>().is_err());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl FromStr for Network {
    type Err = AuthError;

    fn from_str(text: &str) -> Result<Self, AuthError> {
        let wrong = || AuthError::Network(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| wrong())?;
        if bits > most { Err(wrong()) } else { Ok(Self { address, bits }) }
    }
}

impl Network {
    /// Says whether an address belongs to the network.
    ///
    /// ```
    /// let inside: graphloom::Network = "10.0.0.0/8".parse()?;
    /// assert!(inside.contains("10.1.2.3".parse()?) && !inside.contains("192.0.2.1".parse()?));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn contains(&self, address: IpAddr) -> bool {
        // A dual-stack socket shows IPv4 peers as `::ffff:a.b.c.d`.
        let same = |a: u128, b: u128, width: u32| {
            let shift = width - u32::from(self.bits);
            a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => same(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}

impl Auth {
    /// Finds out who sent a request with these headers from this address.
    pub(super) fn identify(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Caller, Problem> {
        let known = self.known(peer, headers);
        if known.as_ref().is_err_and(|problem| problem.code == Code::Unauthorized) {
            metrics::counter!("graphloom_unauthorized_total").increment(1);
        }
        known
    }

    fn known(&self, peer: Option<IpAddr>, headers: &HeaderMap) -> Result<Caller, Problem> {
        match self {
            Self::None => {
                let or_nobody = |name| match part(headers, name)? {
                    Some(part) => Ok(part),
                    None => NOBODY.parse().map_err(|_| Problem::internal()),
                };
                Ok(Caller {
                    owner: Owner { tenant: or_nobody(TENANT)?, user: or_nobody(USER)? },
                    agent: true,
                })
            }
            Self::ApiKeys(keys) => {
                let text = credentials(headers)?.ok_or_else(unauthorized)?;
                let key = keys.find(text, Utc::now()).ok_or_else(unauthorized)?;
                let user = match &key.user {
                    Some(user) => user.clone(),
                    None => part(headers, USER)?.ok_or_else(|| {
                        Problem::new(Code::InvalidIdentity, format!("this key needs the user in `{USER}`"))
                    })?,
                };
                Ok(Caller { owner: Owner { tenant: key.tenant.clone(), user }, agent: key.agent })
            }
            Self::Proxy(peers) => {
                let believed = peer.is_some_and(|peer| peers.iter().any(|network| network.contains(peer)));
                if !believed {
                    return Err(unauthorized());
                }
                let named = |name| part(headers, name)?.ok_or_else(unauthorized);
                let roles = one(headers, ROLES)?.unwrap_or_default();
                let agent = roles.split(',').any(|role| role.trim() == AGENT);
                Ok(Caller { owner: Owner { tenant: named(TENANT)?, user: named(USER)? }, agent })
            }
        }
    }
}

/// Who sent a request, as the front door found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    /// The tenant and the user.
    pub(super) owner: Owner,
    /// The role `agent`.
    pub(super) agent: bool,
}

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        // Whoever did not come through the front door is nobody.
        Ok(request.data::<Self>().cloned().ok_or_else(unauthorized)?)
    }
}

fn unauthorized() -> Problem {
    // One text for every reason: which part was wrong is nobody's business.
    Problem::new(
        Code::Unauthorized,
        "send a valid key as `Authorization: Bearer` or `X-API-Key`, or come through the proxy",
    )
}

/// Returns the key of a request, from either header but not from both.
fn credentials(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let bearer = match one(headers, header::AUTHORIZATION.as_str())? {
        Some(text) => match text.split_once(' ') {
            Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Some(key.trim()),
            _ => return Err(unauthorized()),
        },
        None => None,
    };
    match (bearer, one(headers, API_KEY)?) {
        (Some(a), Some(b)) if a != b => Err(Problem::new(
            Code::InvalidHeader,
            format!("`Authorization` and `{API_KEY}` hold different keys; send one of them"),
        )),
        (a, b) => Ok(a.or(b)),
    }
}

/// Returns the only value of a header.
pub(super) fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Code::InvalidHeader, format!("`{name}` is there more than once")));
    }
    let wrong =
        |_| Problem::new(Code::InvalidHeader, format!("`{name}` may hold only visible ASCII characters"));
    value.to_str().map(Some).map_err(wrong)
}

fn part(headers: &HeaderMap, name: &str) -> Result<Option<Part>, Problem> {
    let Some(text) = one(headers, name)? else { return Ok(None) };
    let wrong = |error| Problem::new(Code::InvalidIdentity, format!("`{name}`: {error}"));
    text.parse().map(Some).map_err(wrong)
}

/// Says whether a `Host` (or `:authority`) names this machine, whatever the port. A page of another
/// site that resolves its own name to 127.0.0.1 is refused by this.
pub(super) fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _port)) => address,
        None => host.split_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use poem::http::{HeaderName, HeaderValue};

    use super::*;
    use crate::id::sha256_hex;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    fn keys() -> Auth {
        let key = |id: &str, secret: &str, user: Option<&str>, expires| {
            let user = user.map(|user| user.parse().unwrap());
            ApiKey::new(id, &sha256_hex(secret.as_bytes()), "acme".parse().unwrap(), user, expires).unwrap()
        };
        let past = Utc::now() - TimeDelta::seconds(1);
        let list = [
            key("a1", "top_secret", Some("ann"), None),
            key("b2", "other", None, None),
            key("d4", "desk", Some("dan"), None).as_agent(true),
            key("c3", "old", Some("ann"), Some(past)),
        ];
        Auth::ApiKeys(ApiKeys::new(list).unwrap())
    }

    fn who(auth: &Auth, peer: &str, pairs: &[(&str, &str)]) -> Result<String, &'static str> {
        let peer = Some(peer.parse().unwrap());
        match auth.identify(peer, &headers(pairs)) {
            Ok(Caller { owner, agent }) => {
                let role = if agent { " agent" } else { "" };
                Ok(format!("{}:{}{role}", owner.tenant, owner.user))
            }
            Err(problem) => Err(problem.code.name()),
        }
    }

    #[test]
    fn a_key_is_taken_from_either_header_and_its_tenant_cannot_be_overridden() {
        let auth = keys();
        let ask = |pairs: &[(&str, &str)]| who(&auth, "192.0.2.1", pairs);
        assert_eq!(ask(&[("authorization", "Bearer gl_a1_top_secret")]), Ok("acme:ann".into()));
        assert_eq!(ask(&[("authorization", "bearer gl_a1_top_secret")]), Ok("acme:ann".into()));
        let spoofed = [("x-api-key", "gl_a1_top_secret"), ("x-tenant-id", "evil"), ("x-user-id", "eve")];
        assert_eq!(ask(&spoofed), Ok("acme:ann".into()));
        assert_eq!(ask(&[("x-api-key", "gl_b2_other"), ("x-user-id", "bob")]), Ok("acme:bob".into()));
        // Only the key's own line gives the role.
        let claimed = [("x-api-key", "gl_b2_other"), ("x-user-id", "bob"), ("x-roles", "agent")];
        assert_eq!(ask(&claimed), Ok("acme:bob".into()));
        assert_eq!(ask(&[("x-api-key", "gl_d4_desk")]), Ok("acme:dan agent".into()));
        assert_eq!(ask(&[("x-api-key", "gl_b2_other")]), Err("invalid_identity"));
        assert_eq!(ask(&[("x-api-key", "gl_b2_other"), ("x-user-id", "a:b")]), Err("invalid_identity"));
    }

    #[test]
    fn whatever_is_wrong_with_a_key_the_answer_is_the_same() {
        let auth = keys();
        let texts =
            ["gl_a1_wrong", "gl_zz_top_secret", "gl_c3_old", "gl_a1_", "top_secret", "", "gl_", "gl_a1"];
        let mut details = Vec::new();
        for text in texts {
            let problem = auth.identify(None, &headers(&[("x-api-key", text)])).unwrap_err();
            assert_eq!(problem.code, Code::Unauthorized, "{text}");
            details.push(problem.detail);
        }
        details.dedup();
        assert_eq!(details.len(), 1);
        assert_eq!(who(&auth, "192.0.2.1", &[]), Err("unauthorized"));
        assert_eq!(who(&auth, "192.0.2.1", &[("authorization", "Basic YTpi")]), Err("unauthorized"));
        let two = [("authorization", "Bearer gl_a1_top_secret"), ("x-api-key", "gl_b2_other")];
        assert_eq!(who(&auth, "192.0.2.1", &two), Err("invalid_header"));
    }

    #[test]
    fn a_proxy_is_believed_only_from_its_networks() {
        let auth = Auth::Proxy(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::7".parse().unwrap()]);
        let named = [("x-tenant-id", "acme"), ("x-user-id", "ann")];
        assert_eq!(who(&auth, "10.200.3.4", &named), Ok("acme:ann".into()));
        assert_eq!(who(&auth, "::ffff:10.1.1.1", &named), Ok("acme:ann".into()));
        assert_eq!(who(&auth, "2001:db8::7", &named), Ok("acme:ann".into()));
        for (roles, role) in [("agent", " agent"), ("user, agent", " agent"), ("agents", ""), ("", "")] {
            let with = [named[0], named[1], ("x-roles", roles)];
            assert_eq!(who(&auth, "10.0.0.1", &with), Ok(format!("acme:ann{role}")), "{roles}");
        }
        let roles = ("x-roles", "agent");
        assert_eq!(who(&auth, "10.0.0.1", &[named[0], named[1], roles, roles]), Err("invalid_header"));
        assert_eq!(who(&auth, "11.0.0.1", &[named[0], named[1], roles]), Err("unauthorized"));
        assert_eq!(who(&auth, "11.0.0.1", &named), Err("unauthorized"));
        assert_eq!(who(&auth, "2001:db8::8", &named), Err("unauthorized"));
        assert_eq!(who(&auth, "10.0.0.1", &named[..1]), Err("unauthorized"));
        let twice = [named[0], named[0], named[1]];
        assert_eq!(who(&auth, "10.0.0.1", &twice), Err("invalid_header"));
    }

    #[test]
    fn without_authentication_the_headers_name_the_caller_or_nobody_does() {
        // Whoever works on this machine plays every part.
        assert_eq!(who(&Auth::None, "127.0.0.1", &[]), Ok("dev:dev agent".into()));
        assert_eq!(who(&Auth::None, "127.0.0.1", &[("x-user-id", "ann")]), Ok("dev:ann agent".into()));
        assert_eq!(who(&Auth::None, "127.0.0.1", &[("x-tenant-id", "a b")]), Err("invalid_identity"));
    }

    #[test]
    fn only_names_of_this_machine_pass_as_loopback() {
        for good in ["localhost", "LOCALHOST:8080", "127.0.0.1:80", "127.8.8.8", "[::1]:8080", "[::1]"] {
            assert!(is_loopback_name(good), "{good}");
        }
        for bad in
            ["", "evil.example", "localhost.evil.example", "10.0.0.1:80", "127.0.0.1.evil.example", "[::2]"]
        {
            assert!(!is_loopback_name(bad), "{bad}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("example.org".parse::<Network>().is_err());
        assert!("0.0.0.0/0".parse::<Network>().unwrap().contains("203.0.113.9".parse().unwrap()));
        let part: Part = "acme".parse().unwrap();
        assert!(ApiKey::new("a_b", &"0".repeat(64), part.clone(), None, None).is_err());
        assert!(ApiKey::new("ab", "zz", part.clone(), None, None).is_err());
        let key = ApiKey::new("ab", &"0".repeat(64), part, None, None).unwrap();
        assert_eq!(ApiKeys::new([key.clone(), key]).unwrap_err(), AuthError::Twice("ab".into()));
        assert!(ApiKeys::new([]).is_err());
    }
}
