//! From the settings as written to those that the server takes.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::config::{AuthMode, DrainFile, File, Flags, KeyFile, Role, ServeFlags};
use crate::egress::SigningKey;
use crate::engine;
use crate::id::Part;
use crate::server::{ApiKey, ApiKeys, Auth, Drain, Network, Settings};

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
    settings.drain = drain(&file.drain)?;
    Ok(settings)
}

/// Returns the settings of the engine.
pub(super) fn engine(serve: &ServeFlags, flags: &Flags, file: &File) -> Result<engine::Settings> {
    let mut settings = engine::Settings::new(file.instance(serve));
    settings.queue_limit = file.limits.thread_queue;
    settings.runs = file.limits.runs;
    if file.limits.crashes < 3 {
        bail!(
            "`crashes` under [limits] is at least 3: a run works beside others until its process has died twice"
        );
    }
    settings.crashes = file.limits.crashes;
    settings.memory = file.limits.memory_bytes.map(std::num::NonZeroU64::get);
    settings.process.tenant_runs = file.limits.tenant_runs.map(std::num::NonZeroU32::get);
    settings.process.tenant_queue = file.limits.tenant_queue;
    if file.limits.unread_seconds == 0 {
        bail!("`unread_seconds` under [limits] is at least 1: clients need time to come back");
    }
    settings.unread = Duration::from_secs(file.limits.unread_seconds);
    let environment = file.environment(flags);
    for name in &file.webhooks.secrets {
        let secret = environment.secret(name);
        let secret =
            secret.with_context(|| format!("[webhooks] names the secret `{name}`, which is not there"))?;
        let key = secret.expose().parse::<SigningKey>();
        settings
            .webhook_keys
            .push(key.with_context(|| format!("the secret `{name}` of [webhooks] cannot work"))?);
    }
    Ok(settings)
}

fn drain(file: &DrainFile) -> Result<Drain> {
    let DrainFile { notice_seconds, runs_seconds, exit_seconds } = *file;
    if notice_seconds > runs_seconds || runs_seconds > exit_seconds {
        bail!(
            "the settings under [drain] cannot work: all are counted from the word to stop, so `notice_seconds` is at \
             most `runs_seconds`, and that at most `exit_seconds`"
        );
    }
    let [notice, runs, exit] = [notice_seconds, runs_seconds, exit_seconds].map(Duration::from_secs);
    Ok(Drain { notice, runs, exit })
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
