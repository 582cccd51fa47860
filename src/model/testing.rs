//! Providers of a few bytes, for the tests of those who speak to them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use futures_util::StreamExt as _;
use serde_json::json;

use super::*;

pub(super) const HEAD: &str =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

pub(super) fn request() -> Request {
    Request {
        node: "answer".to_owned(),
        model: "m".to_owned(),
        turns: vec![Turn::new(Role::User, json!("hi"))],
        tools: Arc::default(),
        output: None,
        params: Params::default(),
        timeouts: Timeouts::default(),
        idempotency_key: "task-1".to_owned(),
        attempt: 2,
    }
}

/// Reads one request with its body.
pub(super) fn read_request(socket: &mut TcpStream) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let n = socket.read(&mut buffer).unwrap();
        all.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&all).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return text;
        }
    }
}

/// Serves one connection per answer and closes it; sends the requests it read.
pub(super) fn serve(answers: Vec<Vec<u8>>) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, requests) = mpsc::channel();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut socket, _) = listener.accept().unwrap();
            // The test may be over before it reads the requests.
            let _ignored = send.send(read_request(&mut socket));
            let _ignored = socket.write_all(&answer);
        }
    });
    (address, requests)
}

/// Calls once; an error before the stream is the only item.
pub(super) async fn call(model: &dyn ChatModel, request: Request) -> Vec<Result<Chunk, ModelError>> {
    match model.stream(request).await {
        Ok(stream) => stream.collect().await,
        Err(error) => vec![Err(error)],
    }
}

pub(super) fn text(items: &[Result<Chunk, ModelError>]) -> String {
    items.iter().map(|item| if let Ok(Chunk::Text(text)) = item { text } else { "" }).collect()
}

pub(super) fn error(mut items: Vec<Result<Chunk, ModelError>>) -> ModelError {
    items.pop().unwrap().unwrap_err()
}

/// Accepts one call, sends `bytes`, and tells when the peer has closed the connection.
pub(super) fn until_closed(bytes: &'static str) -> (String, mpsc::Receiver<Instant>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, closed) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        read_request(&mut socket);
        socket.write_all(bytes.as_bytes()).unwrap();
        // Blocks until the peer closes or resets.
        let _ignored = socket.read(&mut [0; 16]);
        send.send(Instant::now()).unwrap();
    });
    (address, closed)
}
