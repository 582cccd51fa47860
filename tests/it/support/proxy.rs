//! A way to a server that can fall silent, and counts what it passes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on, until they hang.
pub(crate) struct Proxy {
    /// Where it listens: `host:port`.
    pub(crate) address: String,
    hung: Arc<watch::Sender<Hang>>,
    /// How many connections are passed on.
    passing: Arc<watch::Sender<usize>>,
    trips: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Default, PartialEq)]
struct Hang {
    /// How often it hung.
    times: u32,
    /// New connections hang too.
    all: bool,
}

impl Proxy {
    /// Listens in front of a server.
    pub(crate) async fn to(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let hung = Arc::new(watch::Sender::new(Hang::default()));
        let passing = Arc::new(watch::Sender::new(0));
        let trips = Arc::new(AtomicU64::new(0));
        let (server, state, count) = (server.to_owned(), hung.clone(), passing.clone());
        let counted = trips.clone();
        let listen = async move {
            while let Ok((near, _)) = listener.accept().await {
                spawn(pass(near, server.clone(), state.subscribe(), count.clone(), counted.clone()));
            }
        };
        spawn(listen);
        Self { address, hung, passing, trips }
    }

    /// Returns how many round trips there were: how often somebody spoke after the server did.
    pub(crate) fn trips(&self) -> u64 {
        self.trips.load(Ordering::SeqCst)
    }

    /// Holds whatever comes, on connections old and new, without closing any; returns when all are held.
    pub(crate) async fn hang(&self) {
        self.hung.send_modify(|hang| *hang = Hang { times: hang.times + 1, all: true });
        self.passing.subscribe().wait_for(|count| *count == 0).await.unwrap();
    }

    /// Passes new connections on again; the old ones stay silent, as those to a host that is gone.
    pub(crate) fn replace(&self) {
        self.hung.send_modify(|hang| hang.all = false);
    }
}

#[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
fn spawn(work: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(work);
}

async fn pass(
    mut near: TcpStream,
    server: String,
    mut state: watch::Receiver<Hang>,
    count: Arc<watch::Sender<usize>>,
    trips: Arc<AtomicU64>,
) {
    let since = state.wait_for(|hang| !hang.all).await.unwrap().times;
    let mut far = TcpStream::connect(server).await.unwrap();
    count.send_modify(|count| *count += 1);
    let hangs = tokio::select! {
        () = both(&mut near, &mut far, &trips) => false,
        _ = state.wait_for(|hang| hang.times > since) => true,
    };
    count.send_modify(|count| *count -= 1);
    if !hangs {
        return;
    }
    std::future::pending::<()>().await;
}

/// Passes on what two sides say until one of them ends.
async fn both(near: &mut TcpStream, far: &mut TcpStream, trips: &AtomicU64) {
    let answered = AtomicBool::new(true);
    let ((near_in, near_out), (far_in, far_out)) = (near.split(), far.split());
    let asks = copy(near_in, far_out, || {
        trips.fetch_add(u64::from(answered.swap(false, Ordering::SeqCst)), Ordering::SeqCst);
    });
    let answers = copy(far_in, near_out, || answered.store(true, Ordering::SeqCst));
    tokio::select! {
        () = asks => {}
        () = answers => {}
    }
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, heard: impl Fn()) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        heard();
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
