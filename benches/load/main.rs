//! Loads a running service with chats and prints what came of it as one line of JSON.
//!
//! ```text
//! cargo run --release --example load -- --url http://127.0.0.1:8080 --graph chat --clients 64 --runs 1000 \
//!     --pid $(pgrep graphloom) --message '[[tokens=50]]'
//! ```
//!
//! Plain sockets and no JSON parser, so that the client costs as little as possible of the cores it shares.

#![expect(clippy::print_stdout, reason = "what it measured is its output")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Debug, Clone, Parser)]
struct Flags {
    /// Where the service listens
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// The graph
    #[arg(long, default_value = "chat")]
    graph: String,
    /// Chats at once
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// Chats in all
    #[arg(long, default_value_t = 1000)]
    runs: u64,
    /// The user's message
    #[arg(long, default_value = "[[tokens=50]]")]
    message: String,
    /// Turns on one thread instead of one turn on each
    #[arg(long)]
    one_thread: bool,
    /// Asks an OpenAI-compatible server itself: what it takes alone, a run adds to
    #[arg(long)]
    model: bool,
    /// The process whose CPU time is read from /proc
    #[arg(long)]
    pid: Option<u32>,
}

#[derive(Debug, Default)]
struct Seen {
    first: Vec<Duration>,
    total: Vec<Duration>,
    gaps: Vec<Duration>,
    failed: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Arc::new(Flags::parse());
    let address = flags.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let cpu = || flags.pid.map(cpu_seconds).transpose();
    let (before, begun) = (cpu()?, Instant::now());
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..flags.clients {
        let (flags, address, next) = (flags.clone(), address.clone(), next.clone());
        clients.spawn(async move {
            let mut seen = Seen::default();
            let mut socket = None;
            loop {
                let run = next.fetch_add(1, Ordering::Relaxed);
                if run >= flags.runs {
                    return seen;
                }
                if chat(&flags, &address, run, begun, &mut socket, &mut seen).await.is_err() {
                    seen.failed += 1;
                    socket = None;
                }
            }
        });
    }
    let mut all = Seen::default();
    while let Some(seen) = clients.join_next().await {
        let seen = seen?;
        all.first.extend(seen.first);
        all.total.extend(seen.total);
        all.gaps.extend(seen.gaps);
        all.failed += seen.failed;
    }
    let took = begun.elapsed().as_secs_f64();
    let used = cpu()?.zip(before).map(|(after, before)| after - before);
    let done = all.total.len() as f64;
    let millis = |values: &mut Vec<Duration>, share: f64| {
        values.sort();
        let at = ((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1));
        values.get(at).map(|d| d.as_secs_f64() * 1000.0)
    };
    println!(
        "{}",
        serde_json::json!({
            "clients": flags.clients,
            "runs": all.total.len(),
            "failed": all.failed,
            "seconds": took,
            "runs_per_second": done / took,
            "cpu_seconds_per_1000_runs": used.map(|used| used / done * 1000.0),
            "first_token_ms": {"p50": millis(&mut all.first, 0.5), "p99": millis(&mut all.first, 0.99)},
            "total_ms": {"p50": millis(&mut all.total, 0.5), "p99": millis(&mut all.total, 0.99)},
            "gap_ms": {"p50": millis(&mut all.gaps, 0.5), "p99": millis(&mut all.gaps, 0.99)},
        })
    );
    Ok(())
}

/// One chat over a kept connection.
async fn chat(
    flags: &Flags,
    address: &str,
    run: u64,
    epoch: Instant,
    kept: &mut Option<TcpStream>,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let session =
        if flags.one_thread { "load".to_owned() } else { format!("s{run}-{}", epoch.elapsed().as_nanos()) };
    let (path, body) = if flags.model {
        let messages = [serde_json::json!({"role": "user", "content": flags.message})];
        let body = serde_json::json!({"model": "mock", "stream": true, "messages": messages});
        ("/v1/chat/completions".to_owned(), body.to_string())
    } else {
        let body = serde_json::json!({"session_id": session, "message": flags.message});
        (format!("/v1/graphs/{}/chat", flags.graph), body.to_string())
    };
    let (piece, end): (&[u8], &[u8]) = if flags.model {
        (b"\"content\":\"", b"[DONE]")
    } else {
        (b"event: message.delta", b"\"status\":\"completed\"")
    };
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-user-id: u{}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        if flags.one_thread { 0 } else { run % 1000 },
        body.len()
    );
    let mut socket = match kept.take() {
        Some(socket) => socket,
        None => {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            socket
        }
    };
    let begun = Instant::now();
    socket.write_all(request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(32 * 1024);
    let (mut first, mut last) = (None, None);
    while !answer.ends_with(b"0\r\n\r\n") {
        let from = answer.len().saturating_sub(32);
        anyhow::ensure!(socket.read_buf(&mut answer).await? > 0, "the connection was cut");
        let now = Instant::now();
        if contains(&answer[from..], piece) {
            first.get_or_insert(now);
            if let Some(last) = last.replace(now) {
                seen.gaps.push(now - last);
            }
        }
    }
    anyhow::ensure!(contains(&answer, end), "the run did not complete");
    if let Some(first) = first {
        seen.first.push(first - begun);
    }
    seen.total.push(begun.elapsed());
    *kept = Some(socket);
    Ok(())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Returns user and system time of a process with all its threads, in seconds.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks(11) + ticks(12)) / 100.0)
}
