//! A server that takes traces as a collector does, and answers other requests with a little JSON.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[derive(Default)]
struct Seen {
    spans: Vec<Span>,
    /// The attributes of the last sender.
    resource: Vec<(String, String)>,
    /// What was exported, as it came over the wire.
    bytes: Vec<u8>,
    /// Heads of all that was no export.
    heads: Vec<String>,
}

/// What came.
#[derive(Clone)]
pub(crate) struct Collector {
    /// `http://127.0.0.1:PORT`.
    pub(crate) base: String,
    seen: Arc<Mutex<Seen>>,
}

impl Collector {
    /// Starts one; where it is `mute`, it takes spans and never answers.
    pub(crate) async fn start(mute: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::<Mutex<Seen>>::default();
        let own = seen.clone();
        let serve = async move {
            while let Ok((socket, _)) = listener.accept().await {
                #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
                tokio::spawn(answer(socket, own.clone(), mute));
            }
        };
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(serve);
        Self { base, seen }
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        self.seen.lock().unwrap().spans.clone()
    }

    pub(crate) fn resource(&self) -> Vec<(String, String)> {
        self.seen.lock().unwrap().resource.clone()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.seen.lock().unwrap().bytes.clone()
    }

    pub(crate) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }
}

async fn answer(mut socket: TcpStream, seen: Arc<Mutex<Seen>>, mute: bool) {
    let mut read = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        while read.len() < end + length {
            if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body: Vec<u8> = read.drain(..end + length).skip(end).collect();
        let reply = if head.starts_with("post /v1/traces ") {
            assert!(head.contains("content-type: application/x-protobuf"), "{head}");
            let export = ExportTraceServiceRequest::decode(&*body).unwrap();
            let mut seen = seen.lock().unwrap();
            seen.bytes.extend(body);
            for sender in export.resource_spans {
                let attributes = sender.resource.unwrap_or_default().attributes;
                seen.resource = attributes.into_iter().map(|pair| (pair.key, shown(pair.value))).collect();
                seen.spans.extend(sender.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
            if mute {
                continue;
            }
            "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n".to_owned()
        } else {
            seen.lock().unwrap().heads.push(head);
            let json = "{\"count\": 123}";
            let length = json.len();
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{json}"
            )
        };
        if socket.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn shown(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    }
}

/// Returns an attribute of a span, or nothing as an empty text.
pub(crate) fn attribute(span: &Span, name: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == name);
    found.map(|pair| shown(pair.value.clone())).unwrap_or_default()
}

/// Returns bytes as traces are written.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
