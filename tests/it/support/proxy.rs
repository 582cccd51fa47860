//! A way to a server that can fall silent.

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Passes connections on, until they hang.
pub(crate) struct Proxy {
    /// Where it listens: `host:port`.
    pub(crate) address: String,
    hung: Arc<watch::Sender<Hang>>,
    /// How many connections are passed on.
    passing: Arc<watch::Sender<usize>>,
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
        let (server, state, count) = (server.to_owned(), hung.clone(), passing.clone());
        let listen = async move {
            while let Ok((near, _)) = listener.accept().await {
                spawn(pass(near, server.clone(), state.subscribe(), count.clone()));
            }
        };
        spawn(listen);
        Self { address, hung, passing }
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
) {
    let since = state.wait_for(|hang| !hang.all).await.unwrap().times;
    let mut far = TcpStream::connect(server).await.unwrap();
    count.send_modify(|count| *count += 1);
    let hangs = tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
        _ = state.wait_for(|hang| hang.times > since) => true,
    };
    count.send_modify(|count| *count -= 1);
    if !hangs {
        return;
    }
    std::future::pending::<()>().await;
}
