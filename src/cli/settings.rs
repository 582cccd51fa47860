//! From the settings as written to those that the server takes.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::config::{AuthMode, File, KeyFile, Role, ServeFlags};
use crate::id::Part;
use crate::server::{ApiKey, ApiKeys, Auth, Network, Settings};

/// How long a stop may take before the process ends anyway.
const GRACE: Duration = Duration::from_secs(20);

pub(super) fn server(serve: &ServeFlags, file: &File) -> Result<Settings> {
    let auth = match file.auth.mode {
        AuthMode::None => Auth::None,
        AuthMode::ApiKeys => {
            let keys = file.auth.keys.iter().map(key).collect::<Result<Vec<_>>>()?;
            Auth::ApiKeys(ApiKeys::new(keys).context("the settings under [auth] cannot work")?)
        }
        AuthMode::Proxy => {
            let peers = file.auth.peers.iter().map(|peer| peer.parse::<Network>());
            Auth::Proxy(peers.collect::<Result<_, _>>().context("the settings under [auth] cannot work")?)
        }
    };
    let mut settings = Settings::new(file.bind(serve), auth);
    settings.body_limit = file.limits.body_bytes;
    settings.streams = file.limits.streams;
    settings.cors_origins.clone_from(&file.cors_origins);
    settings.grace = GRACE;
    Ok(settings)
}

fn key(key: &KeyFile) -> Result<ApiKey> {
    let tenant: Part = key.tenant.parse().with_context(|| format!("the tenant of key `{}`", key.id))?;
    let user: Option<Part> = key
        .user
        .as_deref()
        .map(str::parse)
        .transpose()
        .with_context(|| format!("the user of key `{}`", key.id))?;
    let agent = key.roles.contains(&Role::Agent);
    ApiKey::new(&key.id, &key.hash, tenant, user, key.expires)
        .map(|key| key.as_agent(agent))
        .context("the settings under [auth] cannot work")
}
