//! Who is told: an HTTP server that answers as it is told, and checks signatures from the text of the specification.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Came {
    pub(crate) path: String,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Came {
    /// Returns a header.
    pub(crate) fn header(&self, name: &str) -> String {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        let mut found =
            lines.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned());
        found.next_back().unwrap_or_else(|| panic!("no {name}: {}", self.head))
    }

    pub(crate) fn json(&self) -> Json {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Panics unless each key has signed what came, and just now.
    pub(crate) fn check(&self, keys: &[&str]) {
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let age = chrono::Utc::now().timestamp() - at.parse::<i64>().unwrap();
        assert!((-5..60).contains(&age), "{age}");
        let signed = [format!("{id}.{at}.").as_bytes(), &self.body].concat();
        let due = keys.iter().map(|key| {
            let key = STANDARD.decode(key.strip_prefix("whsec_").unwrap()).unwrap();
            format!("v1,{}", STANDARD.encode(hmac(&key, &signed)))
        });
        assert_eq!(self.header("webhook-signature").split(' ').collect::<Vec<_>>(), due.collect::<Vec<_>>());
    }
}

/// HMAC-SHA256 as RFC 2104 writes it; keys here are no longer than a block.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let pad = |with: u8| {
        let mut block = [with; 64];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().to_vec()
}

/// A receiver on loopback. A path says what is answered: `/500/1/x` answers 500 the first time, then 200; `/302/0/x` always
/// 302, to `/stolen`; `/hang/1/x` does not answer the first time.
pub(crate) struct Receiver {
    pub(crate) address: String,
    came: Arc<Mutex<Vec<Came>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let came: Arc<Mutex<Vec<Came>>> = Arc::default();
        let all = came.clone();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, all.clone()));
            }
        });
        Self { address, came, task }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns all that came.
    pub(crate) fn all(&self) -> Vec<Came> {
        self.came.lock().unwrap().clone()
    }

    /// Waits until so many came to a path, and returns them.
    pub(crate) async fn wait(&self, path: &str, count: usize) -> Vec<Came> {
        let patience = Instant::now() + Duration::from_mins(1);
        loop {
            let found: Vec<Came> = self.all().into_iter().filter(|came| came.path == path).collect();
            if found.len() >= count {
                return found;
            }
            assert!(Instant::now() < patience, "{path}: {found:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn serve(mut stream: TcpStream, all: Arc<Mutex<Vec<Came>>>) {
    let mut bytes = Vec::new();
    loop {
        let head = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let text = String::from_utf8(bytes[..head].to_vec()).unwrap();
        let path = text.split(' ').nth(1).unwrap().to_owned();
        let came = Came { path: path.clone(), head: text, body: Vec::new() };
        let length: usize = came.header("content-length").parse().unwrap();
        while bytes.len() < head + 4 + length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = bytes[head + 4..head + 4 + length].to_vec();
        bytes.drain(..head + 4 + length);
        let before = {
            let mut all = all.lock().unwrap();
            all.push(Came { body, ..came });
            all.iter().filter(|came| came.path == path).count() - 1
        };
        let parts: Vec<&str> = path.split('/').collect();
        let answer = match parts.as_slice() {
            ["", word, times, ..] if times.parse().is_ok_and(|times: usize| times == 0 || before < times) => {
                *word
            }
            _ => "200",
        };
        if answer == "hang" {
            return std::future::pending().await;
        }
        let text = format!("HTTP/1.1 {answer} X\r\ncontent-length: 0\r\nlocation: /stolen\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
    }
}
