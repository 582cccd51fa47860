//! What a turn costs over a real database: time, CPU, stored bytes, transactions. One line of JSON for each
//! stretch of turns on one thread, so that growth shows.
//!
//! ```text
//! cargo run --release --example durable -- --database-url postgres://postgres@127.0.0.1/bench --turns 1000
//! ```
//!
//! The database must be empty: the program counts whole tables.

#![expect(clippy::print_stdout, reason = "what it measured is its output")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::Bag;
use graphloom::engine::{Engine, Settings, Start};
use graphloom::id::{Owner, Seq};
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::sql::SqlStore;
use graphloom::store::{OnBusy, Store};
use sqlx::{AnyPool, Row};

#[derive(Debug, Parser)]
struct Flags {
    /// An empty database
    #[arg(long)]
    database_url: String,
    /// Turns on one thread
    #[arg(long, default_value_t = 1000)]
    turns: u32,
}

const GRAPH: &str = "format: 1
state: {messages: messages}
start: answer
nodes:
  answer: {kind: llm, text: You answer., history: {last: 10}, reply: true, next: end}
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let words: Vec<String> = (0..50).map(|n| format!("word{n:02} ")).collect();
    let providers = Providers::scripted(Scripted::always(Entry::chunks(words)))?;
    let files = Files::from([
        ("chat.yaml".to_owned(), GRAPH.into()),
        ("project.yaml".to_owned(), "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n".into()),
    ]);
    let mut bag = Bag::default();
    let folder = load_files("bench", files, &mut bag);
    let catalog = compile(&folder, &providers, &mut bag).context("the graph has errors")?;
    let store = Arc::new(SqlStore::connect(&flags.database_url).await?);
    store.migrate().await?;
    let settings = Settings { poll: Duration::from_hours(1), ..Settings::new("bench".into()) };
    let engine = Engine::open(store, catalog, providers, settings).await?;
    sqlx::any::install_default_drivers();
    let probe = AnyPool::connect(&flags.database_url).await?;
    let owner = Owner { tenant: "bench".parse()?, user: "bench".parse()? };
    let mut before = count(&probe, &flags.database_url).await?;
    let (mut begun, mut cpu, mut from) = (Instant::now(), cpu_seconds()?, 0);
    for turn in 1..=flags.turns {
        let start = Start {
            graph: "chat".into(),
            session: "bench".parse()?,
            message: Some(format!("{turn:0200}").into()),
            input: serde_json::Map::new(),
            on_busy: OnBusy::Enqueue,
            idempotency: None,
        };
        let started = engine.start(&owner, start).await?;
        let mut follower = engine.follower(&owner, &started.run, Seq::default(), false);
        while let Some(frame) = follower.next().await {
            frame?;
        }
        if [1, 10, 100, 200, 500, 1000].contains(&turn) || turn == flags.turns {
            let turns = f64::from(turn - from);
            let (took, used) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
            // Statistics arrive with a delay of up to a second.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let after = count(&probe, &flags.database_url).await?;
            let per_turn = |a: i64, b: i64| (b - a) as f64 / turns;
            println!(
                "{}",
                serde_json::json!({
                    "turns": format!("{}..{turn}", from + 1),
                    "ms_per_turn": took / turns * 1000.0,
                    "cpu_ms_per_turn": used / turns * 1000.0,
                    "row_bytes_per_turn": per_turn(before.0, after.0),
                    "transactions_per_turn": per_turn(before.1, after.1),
                })
            );
            before = count(&probe, &flags.database_url).await?;
            (begun, cpu, from) = (Instant::now(), cpu_seconds()?, turn);
        }
    }
    Ok(())
}

/// Returns the bytes in all rows, and the transactions so far; SQLite does not count the latter.
async fn count(probe: &AnyPool, url: &str) -> anyhow::Result<(i64, i64)> {
    let tables = ["thread", "run", "checkpoint", "event", "idempotency", "pending_write", "blob"];
    let mut bytes = 0;
    if url.starts_with("postgres") {
        for table in tables {
            let sql = format!("select coalesce(sum(pg_column_size(t.*)), 0)::bigint from {table} t");
            bytes += sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_one(probe).await?.get::<i64, _>(0);
        }
        let sql = "select xact_commit from pg_stat_database where datname = current_database()";
        return Ok((bytes, sqlx::query(sql).fetch_one(probe).await?.get(0)));
    }
    let pages: i64 = sqlx::query("pragma page_count").fetch_one(probe).await?.get(0);
    let size: i64 = sqlx::query("pragma page_size").fetch_one(probe).await?.get(0);
    Ok((pages * size, 0))
}

/// Returns user and system time of this process, in seconds.
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / 100.0)
}
