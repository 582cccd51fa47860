//! A stand-in for a model provider, run as a process of its own by tests and benches.
//!
//! It speaks `POST /v1/chat/completions` and `POST /v1/messages`, and does what the directives in the last user message or in the
//! model's name ask (`directives.rs` lists them). `GET /calls` tells what happened, `GET /count` only how
//! many calls came and how many are open, `POST /reset` forgets it all.
//!
//! Options: `--port N` (0 picks one; the first line of stdout is `listening on http://127.0.0.1:PORT`),
//! `--default "[[…]]"` (directives of every call), `--with-parent` (ends when stdin is closed).

mod dialect;
mod directives;
mod log;
mod plan;
mod playback;
mod socket;

use std::io::{self, Write as _};
use std::sync::Arc;

use poem::http::StatusCode;
use poem::web::Data;
use poem::{Body, EndpointExt as _, Request, Response, Route, Server, get, handler, post};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::io::AsyncReadExt as _;

use self::dialect::Dialect;
use self::directives::Directives;
use self::log::{Live, Log};
use self::playback::Playback;
use self::socket::{Sockets, Watched};

/// The part of a request that decides the answer.
#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    model: String,
    #[serde(default)]
    messages: Vec<Json>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// What all calls share.
struct Shared {
    log: Log,
    sockets: Sockets,
    default: String,
}

/// Returns the text of a message, be it a text or a list of parts.
fn text(message: &Json) -> String {
    match &message["content"] {
        Json::String(text) => text.clone(),
        Json::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => String::new(),
    }
}

fn error(status: u16, message: &str, retry_after: Option<&str>) -> Response {
    let body = json!({"error": {"message": message, "type": "mock", "code": status}});
    let mut response = Response::builder()
        .status(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        .content_type("application/json");
    if let Some(wait) = retry_after {
        response = response.header("retry-after", wait);
    }
    response.body(body.to_string())
}

#[handler]
async fn chat(request: &Request, body: Body, Data(shared): Data<&Arc<Shared>>) -> Response {
    answer(request, body, shared, Dialect::Completions).await
}

#[handler]
async fn messages(request: &Request, body: Body, Data(shared): Data<&Arc<Shared>>) -> Response {
    answer(request, body, shared, Dialect::Messages).await
}

async fn answer(request: &Request, body: Body, shared: &Arc<Shared>, dialect: Dialect) -> Response {
    let body = body.into_bytes().await.unwrap_or_default();
    let mut live = Live::begin(shared.log.add(request.headers(), body.clone()));
    let Ok(asked) = serde_json::from_slice::<Asked>(&body) else {
        live.finish(400);
        return error(400, "the body is no chat completion request", None);
    };
    let last = asked.messages.iter().rev().find(|message| message["role"] == "user").map(text);
    let mut wanted = Directives::default();
    for source in [&shared.default, &asked.model, &last.unwrap_or_default()] {
        wanted.read(source);
    }
    if let Some(key) = wanted.counted_key() {
        let call = shared.log.count(key);
        wanted.choose(call);
    }
    if let Some(status) = wanted.number("status") {
        let status = status as u16;
        live.finish(status);
        return error(status, "the mock was told to fail", wanted.text("retry_after"));
    }
    if wanted.has("hang") {
        shared.sockets.link(request.remote_addr()).closed().await;
        return error(500, "nobody listens any more", None);
    }
    let usage = !wanted.has("no_usage")
        && (wanted.has("usage")
            || dialect == Dialect::Messages
            || asked.stream_options.is_some_and(|options| options.include_usage));
    let prompt = asked.messages.iter().map(|message| text(message).split_whitespace().count()).sum();
    let answer = plan::Answer::new(&wanted, &asked.messages);
    if asked.stream {
        let link = shared.sockets.link(request.remote_addr());
        let steps = plan::steps(&wanted, &answer, usage.then_some(prompt), dialect);
        return Response::builder()
            .content_type("text/event-stream")
            .header("cache-control", "no-cache")
            .body(Body::from_bytes_stream(Playback::new(steps, live, link)));
    }
    tokio::time::sleep(plan::duration(&wanted, &answer)).await;
    live.finish(200);
    let body = plan::whole(&answer, prompt);
    Response::builder().content_type("application/json").body(body.to_string())
}

#[handler]
fn calls(Data(shared): Data<&Arc<Shared>>) -> Response {
    Response::builder().content_type("application/json").body(shared.log.to_json().to_string())
}

#[handler]
fn count(Data(shared): Data<&Arc<Shared>>) -> Response {
    let (all, open) = shared.log.totals();
    Response::builder().content_type("application/json").body(json!({"calls": all, "open": open}).to_string())
}

#[handler]
fn reset(Data(shared): Data<&Arc<Shared>>) -> StatusCode {
    shared.log.reset();
    StatusCode::NO_CONTENT
}

/// What the command line asks for.
#[derive(Default)]
struct Options {
    port: u16,
    default: String,
    with_parent: bool,
}

impl Options {
    fn read(mut args: impl Iterator<Item = String>) -> io::Result<Self> {
        let wrong =
            |arg: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("`{arg}` is not understood"));
        let mut options = Self::default();
        while let Some(arg) = args.next() {
            match (arg.as_str(), arg.as_str() != "--with-parent") {
                ("--with-parent", _) => options.with_parent = true,
                (_, true) => {
                    let value = args.next().unwrap_or_default();
                    match arg.as_str() {
                        "--port" => options.port = value.parse().map_err(|_| wrong(&value))?,
                        "--default" => options.default = value,
                        _ => return Err(wrong(&arg)),
                    }
                }
                _ => return Err(wrong(&arg)),
            }
        }
        Ok(options)
    }
}

/// Waits until stdin is closed, which happens when the parent is gone.
async fn parent_gone() {
    let mut stdin = tokio::io::stdin();
    while stdin.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> io::Result<()> {
    let options = Options::read(std::env::args().skip(1))?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", options.port)).await?;
    writeln!(io::stdout(), "listening on http://{}", listener.local_addr()?)?;
    io::stdout().flush()?;
    let sockets = Sockets::default();
    let acceptor = Watched::new(listener, sockets.clone())?;
    let shared = Arc::new(Shared { log: Log::default(), sockets, default: options.default });
    let routes = Route::new()
        .at("/v1/chat/completions", post(chat))
        .at("/v1/messages", post(messages))
        .at("/calls", get(calls))
        .at("/count", get(count))
        .at("/reset", post(reset))
        .data(shared);
    let server = Server::new_with_acceptor(acceptor).run(routes);
    if options.with_parent {
        tokio::select! {
            result = server => result,
            () = parent_gone() => Ok(()),
        }
    } else {
        server.await
    }
}
