//! `audit`: what was done, by whom and when.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::Args;
use serde_json::{Value as Json, json};

use super::Host;
use super::runs::{Format, pretty};
use crate::config::DatabaseFlag;
use crate::store::{AuditFilter, Noted};

/// The flags of `audit`.
#[derive(Debug, Args)]
pub(super) struct AuditFlags {
    /// Only what concerns this tenant; `*` is what belongs to all: graphs, and tenants that were erased
    #[arg(long)]
    tenant: Option<String>,
    /// Only from then on (RFC 3339: `2026-11-27T08:00:00Z`)
    #[arg(long, value_name = "TIME")]
    since: Option<DateTime<Utc>>,
    /// Only what was done to this, or by this user: the id of a run or a question, TENANT:USER:SESSION, TENANT:USER, TENANT, or a
    /// hash as it is printed
    #[arg(long, value_name = "NAME")]
    of: Option<String>,
    /// So many at most
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// What is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

pub(super) async fn audit(flags: &AuditFlags, host: &Host) -> Result<ExitCode> {
    let url = host.file.database_url(&flags.database);
    if url == "memory:" {
        bail!("`memory:` keeps nothing beyond its process");
    }
    let AuditFlags { tenant, since, of, limit, format, .. } = flags;
    let filter = AuditFilter { tenant: tenant.clone(), since: *since, of: of.clone() };
    let notes = host.open_to_read(&url).await?.audit(&filter, *limit).await?;
    super::print(&match format {
        Format::Json => pretty(&json!({"notes": notes.iter().map(told).collect::<Vec<_>>()}))?,
        Format::Text if notes.is_empty() => "There is nothing.\n".into(),
        Format::Text => notes.iter().fold(String::new(), |mut text, note| {
            // Writing into memory cannot fail.
            let _infallible = writeln!(text, "{}  {}", note.id, line(note));
            text
        }),
    })
}

fn detail(note: &Noted) -> Json {
    note.detail.as_ref().and_then(|detail| serde_json::from_str(detail).ok()).unwrap_or_default()
}

fn told(note: &Noted) -> Json {
    json!({
        "id": note.id,
        "at": note.at.to_rfc3339_opts(SecondsFormat::Millis, true),
        "tenant": note.tenant,
        "act": note.act,
        "actor": note.actor,
        "subject": note.subject,
        "detail": detail(note),
    })
}

/// Tells a note in one line.
pub(super) fn line(note: &Noted) -> String {
    let mut text = format!(
        "{}  {:<17}  {}  {}  by {}",
        note.at.to_rfc3339_opts(SecondsFormat::Secs, true),
        note.act,
        note.tenant,
        note.subject,
        note.actor
    );
    for (name, value) in detail(note).as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Writing into memory cannot fail.
        let _infallible = write!(text, "  {name} {value}");
    }
    text
}
