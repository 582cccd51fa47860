//! The service over real connections.

use futures_util::stream;

use super::*;

#[tokio::test]
async fn settings_that_would_be_open_to_everybody_are_refused() {
    let bind = |address: &str, auth| Settings::new(address.parse().unwrap(), auth);
    let error = Server::bind(bind("0.0.0.0:0", Auth::None)).await.err().unwrap();
    assert!(matches!(error, ServeError::Exposed(_)), "{error}");
    let error = Server::bind(bind("127.0.0.1:0", Auth::Proxy(Vec::new()))).await.err().unwrap();
    assert!(matches!(error, ServeError::NoPeers), "{error}");
    for origin in ["*", "app.example.org", "https://app.example.org/", "null"] {
        let mut settings = bind("127.0.0.1:0", Auth::None);
        settings.cors_origins = vec![origin.into()];
        let error = Server::bind(settings).await.err().unwrap();
        assert!(matches!(error, ServeError::Origin(_)), "{error}");
    }
}

/// Serves over a real connection while the client does its part.
async fn serve<T>(
    settings: Settings,
    permits: usize,
    client: impl AsyncFnOnce(SocketAddr, CancellationToken) -> T,
) -> T {
    let engine = open(&Arc::new(Semaphore::new(permits)), &Arc::default()).await;
    let server = Server::bind(settings).await.unwrap();
    let (address, stop) = (server.address(), CancellationToken::new());
    let words = stream::once(Box::pin(stop.clone().cancelled_owned())).map(|()| Word::Terminate);
    let words = words.chain(stream::pending());
    let client = async {
        let seen = client(address, stop.clone()).await;
        stop.cancel();
        seen
    };
    tokio::join!(client, server.run(engine, words)).0
}

fn loopback(auth: Auth) -> Settings {
    let drain = Drain { notice: Duration::ZERO, runs: Duration::ZERO, exit: Duration::from_secs(5) };
    Settings { drain, ..Settings::new(SocketAddr::from(([127, 0, 0, 1], 0)), auth) }
}

#[tokio::test]
async fn a_proxy_is_believed_by_its_address() {
    let status = async |networks: &str| {
        let settings = loopback(Auth::Proxy(vec![networks.parse().unwrap()]));
        serve(settings, 0, async |address, _| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /v1/threads HTTP/1.1\r\nHost: x\r\nX-Tenant-Id: t\r\nX-User-Id: u\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut seen = String::new();
            stream.read_to_string(&mut seen).await.unwrap();
            seen[9..12].to_owned()
        })
        .await
    };
    assert_eq!(status("127.0.0.1").await, "200");
    assert_eq!(status("10.0.0.0/8").await, "401");
}

/// Opens a chat and reads until the first word.
async fn chat(address: SocketAddr) -> (TcpStream, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = turn("s").to_string();
    let request = format!(
        "POST /v1/graphs/hello/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains("message.delta") {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
    }
    (stream, seen)
}

/// Reads to the end of the connection, which comes with an error or not, but not with the end of a body.
async fn broken((mut stream, mut seen): (TcpStream, Vec<u8>)) {
    while stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {}
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
    assert!(!seen.contains("[DONE]") && !seen.ends_with("0\r\n\r\n"), "{seen}");
}

/// A stop breaks the open streams without their end, and the process is done within its grace. poem's own server
/// polled a connection again after its body had failed, and that wrote the end of the body: clients took a stream
/// that was cut for one that was whole.
#[tokio::test]
async fn a_stop_breaks_the_streams_so_that_clients_come_back() {
    serve(loopback(Auth::None), 1, async |address, stop| {
        let open = chat(address).await;
        stop.cancel();
        broken(open).await;
    })
    .await;
}

#[tokio::test]
async fn a_deleted_thread_ends_its_streams_as_whole() {
    let text = serve(loopback(Auth::None), 1, async |address, _| {
        let (mut stream, mut seen) = chat(address).await;
        let mut other = TcpStream::connect(address).await.unwrap();
        let request = b"DELETE /v1/threads/s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        other.write_all(request).await.unwrap();
        let mut answer = String::new();
        other.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        while !String::from_utf8_lossy(&seen).contains("[DONE]") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        String::from_utf8(seen).unwrap()
    })
    .await;
    assert!(text.contains("event: thread.deleted\n"), "{text}");
    assert!(text.contains(r#""type":"run.finished","status":"cancelled""#), "{text}");
}

#[tokio::test]
async fn a_whole_stream_has_the_end_of_its_body() {
    let text = serve(loopback(Auth::None), 2, async |address, stop| {
        let (mut stream, mut seen) = chat(address).await;
        while !String::from_utf8_lossy(&seen).contains("[DONE]") {
            assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0);
        }
        stop.cancel();
        while stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {}
        String::from_utf8(seen).unwrap()
    })
    .await;
    assert!(text.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{text}");
}
