//! A way to PostgreSQL that reads along, so that faults come at named places of a commit.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// What only the statement of a barrier says.
const BARRIER: &str = "set step = step + 1";
/// Codes of the protocol's first message that ask for encryption.
const ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// Where the commit of a superstep is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The statement never reaches the database.
    Unsent,
    /// The database has committed, and its answer never arrives.
    Unanswered,
    /// The answer has just arrived, and nobody was told yet.
    Untold,
}

/// What waits for a barrier.
struct Trap {
    stage: Stage,
    /// The connection stays open and silent; else it is closed.
    hold: bool,
    fired: oneshot::Sender<()>,
}

/// What all connections obey.
#[derive(Default)]
struct Faults {
    latency: AtomicU64,
    /// The port of the server.
    server: AtomicU16,
    trap: Mutex<Option<Trap>>,
    /// Counts how often all connections were cut.
    cuts: watch::Sender<u64>,
}

impl Faults {
    fn take(&self) -> Option<Trap> {
        self.trap.lock().unwrap().take()
    }
}

/// Passes connections on to PostgreSQL, until told otherwise.
#[derive(Clone)]
pub(crate) struct Wire {
    /// The port that it listens on.
    pub(crate) port: u16,
    faults: Arc<Faults>,
}

impl Wire {
    pub(crate) async fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let faults = Arc::new(Faults { server: server.into(), ..Faults::default() });
        let shared = faults.clone();
        super::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let faults = shared.clone();
                super::spawn(async move {
                    let mut cuts = faults.cuts.subscribe();
                    cuts.mark_unchanged();
                    tokio::select! {
                        // A connection that breaks is an everyday thing here.
                        _ = pass(near, &faults) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { port, faults }
    }

    /// Makes every round trip take so much longer.
    pub(crate) fn slow(&self, by: Duration) {
        self.faults.latency.store(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// Lets new connections lead to another server.
    pub(crate) fn lead(&self, server: u16) {
        self.faults.server.store(server, Ordering::Relaxed);
    }

    /// Closes every connection.
    pub(crate) fn cut(&self) {
        self.faults.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Sets a trap for the next barrier; what is returned comes when it has closed.
    pub(crate) fn trap(&self, stage: Stage, hold: bool) -> oneshot::Receiver<()> {
        let (fired, seen) = oneshot::channel();
        *self.faults.trap.lock().unwrap() = Some(Trap { stage, hold, fired });
        seen
    }
}

/// Passes one connection on until one side closes it.
async fn pass(near: TcpStream, faults: &Faults) -> std::io::Result<()> {
    near.set_nodelay(true)?;
    let far = TcpStream::connect(("127.0.0.1", faults.server.load(Ordering::Relaxed))).await?;
    far.set_nodelay(true)?;
    let (near_in, mut near_out) = near.into_split();
    let (far_in, mut far_out) = far.into_split();
    let (mut near_in, mut far_in) = (BufReader::new(near_in), BufReader::new(far_in));
    loop {
        let length = near_in.read_u32().await?;
        let mut body = vec![0; length.saturating_sub(4) as usize];
        near_in.read_exact(&mut body).await?;
        far_out.write_u32(length).await?;
        far_out.write_all(&body).await?;
        let code = body.first_chunk().map(|code| u32::from_be_bytes(*code));
        if !code.is_some_and(|code| ENCRYPTION.contains(&code)) {
            break;
        }
        near_out.write_u8(far_in.read_u8().await?).await?;
    }
    let trapped = Mutex::new(None);
    tokio::select! {
        done = ask(near_in, far_out, faults, &trapped) => done,
        done = answer(far_in, near_out, &trapped) => done,
    }
}

/// One message: its kind, its length and its content.
async fn message(from: &mut BufReader<OwnedReadHalf>) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = from.read_u8().await?;
    let length = from.read_u32().await?;
    let mut body = vec![0; length.saturating_sub(4) as usize];
    from.read_exact(&mut body).await?;
    Ok((kind, body))
}

async fn put(to: &mut OwnedWriteHalf, kind: u8, body: &[u8]) -> std::io::Result<()> {
    let mut whole = Vec::with_capacity(body.len() + 5);
    whole.push(kind);
    whole.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    whole.extend_from_slice(body);
    to.write_all(&whole).await
}

/// Reads a text that ends with a NUL, and what follows.
fn text(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body.iter().position(|byte| *byte == 0).unwrap_or(body.len());
    (&body[..end], body.get(end + 1..).unwrap_or_default())
}

async fn ask(
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    faults: &Faults,
    trapped: &Mutex<Option<Trap>>,
) -> std::io::Result<()> {
    // The names under which this connection has prepared a barrier.
    let mut barriers: Vec<Vec<u8>> = Vec::new();
    loop {
        let (kind, body) = message(&mut from).await?;
        let is_barrier = match kind {
            b'P' => {
                let (name, rest) = text(&body);
                barriers.retain(|known| known != name);
                if String::from_utf8_lossy(text(rest).0).contains(BARRIER) {
                    barriers.push(name.to_vec());
                }
                false
            }
            // Name of the portal, name of the statement.
            b'B' => barriers.iter().any(|known| known == text(text(&body).1).0),
            _ => false,
        };
        if is_barrier && let Some(trap) = faults.take() {
            if trap.stage == Stage::Unsent {
                return close(trap).await;
            }
            *trapped.lock().unwrap() = Some(trap);
        }
        // Once a round trip, not once a message.
        if matches!(kind, b'S' | b'Q') {
            tokio::time::sleep(Duration::from_millis(faults.latency.load(Ordering::Relaxed))).await;
        }
        put(&mut to, kind, &body).await?;
    }
}

async fn answer(
    mut from: BufReader<OwnedReadHalf>,
    mut to: OwnedWriteHalf,
    trapped: &Mutex<Option<Trap>>,
) -> std::io::Result<()> {
    loop {
        let (kind, body) = message(&mut from).await?;
        let stage = trapped.lock().unwrap().as_ref().map(|trap| trap.stage);
        if stage != Some(Stage::Unanswered) {
            put(&mut to, kind, &body).await?;
        }
        // Ready for the next query: the transaction has ended.
        if kind == b'Z' {
            let trap = trapped.lock().unwrap().take();
            if let Some(trap) = trap {
                return close(trap).await;
            }
        }
    }
}

async fn close(trap: Trap) -> std::io::Result<()> {
    // Nobody waits for it any more.
    let _ignored = trap.fired.send(());
    if trap.hold {
        std::future::pending::<()>().await;
    }
    Ok(())
}
