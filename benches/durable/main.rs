//! What a turn costs over a real database: time, CPU, stored bytes, transactions, round trips. One line of JSON for each
//! stretch of turns on one thread, so that growth shows. Round trips to PostgreSQL are counted at the wire: how often
//! a connection speaks after the server did. With `--nodes`, what a superstep costs: runs of so many nodes in a row,
//! each of which writes 200 bytes, on `--threads` threads at once. `peer.py` measures the same of LangGraph.
//!
//! ```text
//! cargo run --release --example durable -- --database-url postgres://postgres@127.0.0.1/bench --turns 1000
//! cargo run --release --example durable -- --database-url postgres://postgres@127.0.0.1/bench --nodes 20 --threads 16
//! ```
//!
//! The database must be empty: the program counts whole tables.

#![expect(clippy::print_stdout, reason = "what it measured is its output")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use graphloom::compile::{Providers, compile};
use graphloom::diagnostic::{Bag, render_text};
use graphloom::engine::{Breakpoints, Engine, Settings, Start};
use graphloom::id::{Owner, Seq};
use graphloom::model::scripted::{Entry, Scripted};
use graphloom::spec::{Files, load_files};
use graphloom::store::sql::SqlStore;
use graphloom::store::{OnBusy, Store};
use sqlx::{AnyPool, Row};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Parser)]
struct Flags {
    /// An empty database
    #[arg(long)]
    database_url: String,
    /// Turns on one thread
    #[arg(long, default_value_t = 1000)]
    turns: u32,
    /// Measure supersteps: the nodes of a run
    #[arg(long)]
    nodes: Option<u32>,
    /// Threads at once, each with one run after the other
    #[arg(long, default_value_t = 1, requires = "nodes")]
    threads: u32,
    /// Runs on each thread
    #[arg(long, default_value_t = 20, requires = "nodes")]
    runs: u32,
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
    let graph = flags.nodes.map_or_else(|| GRAPH.to_owned(), row);
    let files = Files::from([
        ("chat.yaml".to_owned(), graph.into()),
        ("project.yaml".to_owned(), "format: 1\nmodels: {m: {provider: demo}}\ndefault_model: m\n".into()),
    ]);
    let mut bag = Bag::default();
    let folder = load_files("bench", files, &mut bag);
    let catalog = compile(&folder, &providers, &mut bag).with_context(|| render_text(&bag, false))?;
    let trips = Arc::new(AtomicU64::new(0));
    let url = if flags.nodes.is_some() {
        flags.database_url.clone()
    } else {
        counted(&flags.database_url, &trips).await?
    };
    let store = Arc::new(SqlStore::connect(&url).await?);
    store.migrate().await?;
    let settings = Settings { poll: Duration::from_hours(1), ..Settings::new("bench".into()) };
    let engine = Engine::open(store, catalog, providers, settings).await?;
    if let Some(nodes) = flags.nodes {
        return supersteps(&engine, &flags, nodes).await;
    }
    sqlx::any::install_default_drivers();
    let probe = AnyPool::connect(&flags.database_url).await?;
    let mut before = count(&probe, &flags.database_url).await?;
    let (mut begun, mut cpu, mut from) = (Instant::now(), cpu_seconds()?, 0);
    let mut trips_before = trips.load(Ordering::Relaxed);
    for turn in 1..=flags.turns {
        run(&engine, "bench", Some(format!("{turn:0200}"))).await?;
        if [1, 10, 100, 200, 500, 1000].contains(&turn) || turn == flags.turns {
            let turns = f64::from(turn - from);
            let (took, used) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
            let round_trips = (trips.load(Ordering::Relaxed) - trips_before) as f64;
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
                    "round_trips_per_turn": round_trips / turns,
                })
            );
            before = count(&probe, &flags.database_url).await?;
            (begun, cpu, from) = (Instant::now(), cpu_seconds()?, turn);
            trips_before = trips.load(Ordering::Relaxed);
        }
    }
    Ok(())
}

/// A graph of so many nodes in a row.
fn row(nodes: u32) -> String {
    let mut text = "format: 1\nstate: {value: {type: string, default: ''}}\noutput: [value]\n\
        limits: {steps: 1000}\nstart: n1\nnodes:\n"
        .to_owned();
    for n in 1..=nodes {
        let next = if n == nodes { "end".to_owned() } else { format!("n{}", n + 1) };
        text += &format!("  n{n}: {{kind: set, set: {{value: \"'{n:0200}'\"}}, next: {next}}}\n");
    }
    text
}

/// Prints what a superstep costs when all threads are at work.
async fn supersteps(engine: &Engine, flags: &Flags, nodes: u32) -> anyhow::Result<()> {
    run(engine, "first", None).await?;
    let (begun, cpu) = (Instant::now(), cpu_seconds()?);
    futures_util::future::try_join_all((0..flags.threads).map(async |thread| {
        for _ in 0..flags.runs {
            run(engine, &format!("bench{thread}"), None).await?;
        }
        anyhow::Ok(())
    }))
    .await?;
    let (took, used) = (begun.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let steps = f64::from(flags.threads * flags.runs * nodes);
    println!(
        "{}",
        serde_json::json!({
            "nodes": nodes,
            "threads": flags.threads,
            "supersteps_per_second": steps / took,
            "cpu_us_per_superstep": used / steps * 1e6,
        })
    );
    Ok(())
}

/// Accepts a run and reads its stream to the end.
async fn run(engine: &Engine, session: &str, message: Option<String>) -> anyhow::Result<()> {
    let owner = Owner { tenant: "bench".parse()?, user: "bench".parse()? };
    let start = Start {
        graph: "chat".into(),
        session: session.parse()?,
        message: message.map(Into::into),
        input: serde_json::Map::new(),
        on_busy: OnBusy::Enqueue,
        durability: None,
        breakpoints: Breakpoints::default(),
        delay: None,
        wishes: graphloom::engine::Wishes::default(),
        idempotency: None,
    };
    let started = engine.start(&owner, start).await?;
    let mut follower = engine.follower(&owner, &started.run, Seq::default(), false);
    while let Some(frame) = follower.next().await {
        frame?;
    }
    Ok(())
}

/// Puts a relay before a PostgreSQL server that counts round trips; returns the URL to it. SQLite has no wire.
async fn counted(url: &str, trips: &Arc<AtomicU64>) -> anyhow::Result<String> {
    let Some(server) = url.strip_prefix("postgres://").and_then(|rest| rest.split('@').next_back()) else {
        return Ok(url.to_owned());
    };
    let server = server.split('/').next().unwrap_or_default().to_owned();
    let address = if server.contains(':') { server.clone() } else { format!("{server}:5432") };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let relay = url.replacen(&server, &listener.local_addr()?.to_string(), 1);
    let trips = trips.clone();
    spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let Ok(far) = TcpStream::connect(&address).await else { continue };
            let answered = Arc::new(AtomicBool::new(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let (trips, asked) = (trips.clone(), answered.clone());
            spawn(pass(near_in, far_out, move || {
                trips.fetch_add(u64::from(asked.swap(false, Ordering::Relaxed)), Ordering::Relaxed);
            }));
            spawn(pass(far_in, near_out, move || answered.store(true, Ordering::Relaxed)));
        }
    });
    Ok(relay)
}

#[expect(clippy::disallowed_methods, reason = "the relay ends with the program")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut note: impl FnMut()) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        note();
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
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
