//! The resolver that refuses names which lead to private addresses.
//!
//! Invariant: the socket gets exactly the addresses that were checked, so a second DNS answer changes nothing.

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::refused_address;

/// Turns a name into addresses.
pub(super) type Lookup = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// Returns the lookup of the operating system.
pub(super) fn system() -> Lookup {
    Arc::new(|name| Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) }))
}

/// A name that leads to an address which may not be called.
#[derive(Debug, thiserror::Error)]
#[error("the name leads to a refused address: {what}")]
struct Refusal {
    what: &'static str,
}

/// Returns what was refused, when a refusal is the reason of `error`.
pub(super) fn refusal(error: &reqwest::Error) -> Option<&'static str> {
    let first: &(dyn StdError + 'static) = error;
    std::iter::successors(Some(first), |&error| error.source())
        .find_map(|error| error.downcast_ref::<Refusal>())
        .map(|refusal| refusal.what)
}

/// Checks every address of an answer.
pub(super) struct Guard {
    lookup: Lookup,
}

impl Guard {
    pub(super) fn new(lookup: Lookup) -> Self {
        Self { lookup }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let answer = (self.lookup)(name.as_str().to_owned());
        Box::pin(async move {
            let found = answer.await?;
            // One private address among public ones is an attack or a mistake, so the whole answer goes.
            match found.iter().find_map(|address| refused_address(address.ip())) {
                Some(what) => Err(Refusal { what }.into()),
                None => Ok(Box::new(found.into_iter()) as Addrs),
            }
        })
    }
}
