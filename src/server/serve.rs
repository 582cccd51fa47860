//! The accept loop: connections come, are answered, and end.
//!
//! Invariant: a body that failed is never ended as if it were whole, and nothing outlives the stop.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use poem::http::uri::Scheme;
use poem::http::{Request, Response};
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Endpoint, EndpointExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::tcp::Connection;

/// How long the head of a request may take, and how long a connection may be idle: longer than the minute
/// that load balancers wait, so that it is they who hang up.
const HEAD: Duration = Duration::from_secs(75);
/// The most bytes of a head.
const HEAD_BYTES: u32 = 16 * 1024;
/// The most streams of one HTTP/2 connection.
const STREAMS: u32 = 200;
/// How long to wait when the system has no room for another connection.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Answers on a listener, bound to this address, until `stop`, then lets what is under way come to its end, until `cut`.
pub(super) async fn serve(
    listener: TcpListener,
    local: SocketAddr,
    endpoint: impl Endpoint + 'static,
    stop: CancellationToken,
    cut: CancellationToken,
) {
    let endpoint = Arc::new(endpoint.map_to_response());
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(64 * 1024)
        .max_headers(100)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_BYTES)
        .max_pending_accept_reset_streams(20)
        .keep_alive_interval(Duration::from_secs(30));
    let builder = Arc::new(builder);
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (stop, cut) = (stop.clone(), cut.clone());
                let work = connection(stream, (local, peer), endpoint.clone(), builder.clone(), stop);
                connections.spawn(async move { cut.run_until_cancelled(work).await });
            }
            Err(error) => {
                // Without a pause the loop would spin until the machine has room again.
                warn!(%error, "A connection was not accepted.");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn connection(
    stream: TcpStream,
    (local, peer): (SocketAddr, SocketAddr),
    endpoint: Arc<impl Endpoint<Output = poem::Response> + 'static>,
    builder: Arc<Builder<TokioExecutor>>,
    stop: CancellationToken,
) {
    // Tokens are small and each matters now: with Nagle's delay they wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        warn!(%error, "A connection does without TCP_NODELAY.");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let endpoint = endpoint.clone();
        async move {
            let request = (request, LocalAddr(local.into()), RemoteAddr(peer.into()), Scheme::HTTP);
            Ok::<Response<_>, Infallible>(endpoint.get_response(request.into()).await.into())
        }
    });
    let io = TokioIo::new(Connection::new(stream));
    let mut connection = pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A connection that ended is never polled again: after a failed body that would write the end of
    // the body, and the client would take the half for the whole.
    if let Err(error) = ended {
        debug!(error, %peer, "A connection ended early.");
    }
}
