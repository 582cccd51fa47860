//! `webhooks`: what an operator sees and does of what is told of the ends of runs.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use super::Host;
use super::runs::{Format, pretty};
use crate::config::DatabaseFlag;
use crate::egress::Url;
use crate::id::{HookId, Part};
use crate::store::{Hook, HookFilter, HookState};

/// The flags of `webhooks`.
// The database may be named behind the action, too.
#[derive(Debug, Args)]
#[command(mut_arg("database_url", |flag| flag.global(true)))]
pub(super) struct WebhooksFlags {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists what is still to be told, and what was given up, newest first
    List {
        /// Only what is in this state; may be given again
        #[arg(long, value_enum)]
        state: Vec<State>,
        /// Only what is told of runs of this tenant
        #[arg(long)]
        tenant: Option<Part>,
        /// So many at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// What is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Has it told from now on, with all tries, what was given up or waits for its next try
    Retry {
        /// Its id
        webhook: HookId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    Queued,
    Delivered,
    Failed,
}

impl From<State> for HookState {
    fn from(state: State) -> Self {
        match state {
            State::Queued => Self::Queued,
            State::Delivered => Self::Delivered,
            State::Failed => Self::Failed,
        }
    }
}

pub(super) async fn webhooks(flags: &WebhooksFlags, host: &Host) -> Result<ExitCode> {
    let url = host.file.database_url(&flags.database);
    if url == "memory:" {
        bail!("`memory:` keeps nothing beyond its process");
    }
    match &flags.action {
        Action::List { state, tenant, limit, format } => {
            let states = match state.as_slice() {
                [] => vec![State::Queued, State::Failed],
                some => some.to_vec(),
            };
            let states = states.into_iter().map(Into::into).collect();
            let filter = HookFilter { states, tenant: tenant.clone(), id: None };
            let hooks = host.open_to_read(&url).await?.hooks(&filter, *limit).await?;
            super::print(&match format {
                Format::Text => table(&hooks),
                Format::Json => pretty(&json!({"webhooks": hooks.iter().map(told).collect::<Vec<_>>()}))?,
            })
        }
        Action::Retry { webhook } => {
            let store = host.open_store(&url).await?;
            if let Some(hook) = store.retry_hook(*webhook).await? {
                return super::print(&format!("{} is told from now on.\n", hook.id));
            }
            let filter = HookFilter { id: Some(*webhook), ..HookFilter::default() };
            match store.hooks(&filter, 1).await?.pop() {
                Some(_) => bail!("webhook {webhook} stays as it is: it was told"),
                None => bail!("there is no webhook {webhook}"),
            }
        }
    }
}

/// Returns where it is told; a path or a query may hold a secret of the user's.
fn place(hook: &Hook) -> String {
    match Url::parse(&hook.url) {
        Ok(url) => url.origin().ascii_serialization(),
        Err(_) => "?".to_owned(),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn told(hook: &Hook) -> Json {
    let mut json = json!({
        "webhook_id": hook.id.to_string(),
        "state": hook.state.name(),
        "run_id": hook.run.run.to_string(),
        "tenant": hook.run.key.owner.tenant.as_str(),
        "to": place(hook),
        "attempts": hook.attempts,
        "created_at": time(hook.created_at),
    });
    if hook.state == HookState::Queued {
        json["due_at"] = time(hook.due_at).into();
    }
    if let Some(error) = &hook.error {
        json["error"] = error.as_str().into();
    }
    if let Some(at) = hook.finished_at {
        json["finished_at"] = time(at).into();
    }
    json
}

fn table(hooks: &[Hook]) -> String {
    if hooks.is_empty() {
        return "There are no such webhooks.\n".to_owned();
    }
    let mut text = String::new();
    for hook in hooks {
        let (at, state) = (hook.created_at.to_rfc3339_opts(SecondsFormat::Secs, true), hook.state.name());
        // Writing into memory cannot fail.
        let _infallible = writeln!(
            text,
            "{}  {state:<9}  {at}  tries {:<2} {}  run {}  {}",
            hook.id,
            hook.attempts,
            place(hook),
            hook.run.run,
            hook.error.as_deref().unwrap_or_default()
        );
    }
    text
}
