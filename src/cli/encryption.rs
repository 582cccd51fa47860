//! `encryption`: what an operator does about the encryption of what is stored.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::Host;
use super::runs::{Format, pretty};
use crate::config::DatabaseFlag;
use crate::id::Part;
use crate::store::seal::{SealedStore, Status, new_master};
use crate::store::sql::SqlStore;

/// How long processes without the key are given to notice that encryption begins: two heartbeats, and what they have begun.
const NOTICE: Duration = Duration::from_secs(15);

/// The flags of `encryption`.
// The database may be named behind the action, too.
#[derive(Debug, Args)]
#[command(mut_arg("database_url", |flag| flag.global(true)))]
pub(super) struct EncryptionFlags {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(super) database: DatabaseFlag,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Makes a master key, for a secret that the settings name under [encryption]
    NewKey,
    /// Says how encryption stands, and which master keys are needed
    Status {
        /// What is printed
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Encrypts what was stored before, and what is under older data keys, under the newest
    ///
    /// To turn encryption on, stop the service, name a master key in the settings, and run this. Stopped in the middle, it
    /// goes on where it was. Once encryption is on, the service may run meanwhile.
    Apply {
        /// Takes also what stands in the clear though encryption is on; only where you know who put it there
        #[arg(long)]
        clear: bool,
    },
    /// Wraps all data keys by the first master key of the settings, so that the others are not needed any more
    Rewrap,
    /// Makes a new data key for a tenant; what is stored stays under the older ones until `apply`
    Renew {
        /// The tenant
        tenant: Part,
    },
}

pub(super) async fn encryption(flags: &EncryptionFlags, host: &Host) -> Result<ExitCode> {
    if matches!(flags.action, Action::NewKey) {
        return super::print(&(new_master()? + "\n"));
    }
    let url = host.file.database_url(&flags.database);
    if url == "memory:" {
        bail!("`memory:` keeps nothing beyond its process");
    }
    let connect = async |url: &str| SqlStore::connect(url).await.context("cannot open the database");
    if let Action::Status { format } = flags.action {
        let status = SealedStore::status(&connect(&super::to_read(&url)).await?).await?;
        return super::print(&if format == Format::Json { json(&status)? } else { text(&status) });
    }
    let masters = host.masters()?.context(
        "the settings name no master key: `graphloom encryption new-key` makes one, and [encryption] names the secret \
         that holds it",
    )?;
    let store = SealedStore::new(connect(&url).await?, masters);
    match &flags.action {
        Action::Apply { clear } => {
            let told = |tenant: &str, values: u64| {
                let whose = if tenant == "*" { "the graphs".to_owned() } else { format!("tenant {tenant}") };
                // Nothing can be done about a closed standard error.
                let _closed =
                    writeln!(std::io::stderr(), "{whose}: {}", super::count(values as usize, "value"));
            };
            let sealed = store.apply(*clear, NOTICE, told).await?;
            super::print(&format!("All is encrypted; {} changed.\n", super::count(sealed as usize, "value")))
        }
        Action::Rewrap => {
            let wrapped = store.rewrap().await?;
            super::print(&format!(
                "The first master key wraps all data keys; {} changed.\n",
                super::count(wrapped, "key")
            ))
        }
        Action::Renew { tenant } => {
            store.renew(tenant).await?;
            super::print(&format!("Tenant {tenant} has a new data key.\n"))
        }
        Action::NewKey | Action::Status { .. } => Ok(ExitCode::SUCCESS),
    }
}

fn word(status: &Status) -> &'static str {
    match (status.on, status.converting) {
        (false, _) => "off",
        (true, true) => "not all encrypted yet: run `graphloom encryption apply` again",
        (true, false) => "on",
    }
}

fn text(status: &Status) -> String {
    let mut text = format!("Encryption: {}.\n", word(status));
    if status.on {
        text += &format!("Data keys: of {}.\n", super::count(status.tenants, "tenant"));
    }
    for (master, keys) in &status.masters {
        text += &format!("Master key {master}: wraps {}.\n", super::count(*keys, "data key"));
    }
    text
}

fn json(status: &Status) -> Result<String> {
    let word = match (status.on, status.converting) {
        (false, _) => "off",
        (true, true) => "converting",
        (true, false) => "on",
    };
    pretty(&json!({"encryption": word, "tenants": status.tenants, "master_keys": status.masters}))
}
