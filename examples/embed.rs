//! A program of its own with graphloom inside: a type in Rust that a model calls as a tool, a function that is a node, and an
//! answer that is read as it comes.
//!
//! ```sh
//! cargo run --example embed                                  # talks to the graph below
//! cargo run --example embed -- registry > registry.json      # as `graphloom`, with these functions:
//! cargo run --example embed -- serve --graphs my-graphs      # serve, check, test, chat, …
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this program talks to whoever runs it")]

use std::io::Write;
use std::process::ExitCode;

use graphloom::{App, Body, Context, ErrorKind, Failure, Function, Registry, cli};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

const PROJECT: &str = r"
format: 1
models: {demo: {provider: demo}}
default_model: demo
types:
  Ticket: {id: string, queue: string}
tools:
  open_ticket: {custom: 'tickets::open', description: Opens a ticket at the help desk.}
";

const DESK: &str = r#"
format: 1
state:
  messages: messages
  weight: {type: integer, default: 0}
  ticket: Ticket?
start: weigh
nodes:
  weigh: {kind: custom, use: 'words::weigh', with: {text: run.user_text}, into: weight, next: answer}
  answer:
    kind: llm
    text: Answer the customer.
    reply: true
    next:
      - when: state.weight > 3
        to: open
      - else: end
  open:
    kind: tool
    tool: open_ticket
    with: {subject: run.user_text, urgent: state.weight > 8}
    into: ticket
    next: tell
  tell: {kind: say, text: "{{ state.ticket.id }} is with the desk, {{ state.ticket.queue }}.", next: end}
"#;

/// What a ticket needs. The comments of the fields are what models read of them.
#[derive(Deserialize, JsonSchema)]
struct OpenTicket {
    /// What it is about, in a few words.
    subject: String,
    /// Somebody has to look at it today.
    #[serde(default)]
    urgent: bool,
}

#[derive(Serialize, JsonSchema)]
struct Ticket {
    id: String,
    queue: String,
}

/// The help desk: what it needs is its own, such as a client or a pool of connections.
struct Desk {
    urgent_queue: &'static str,
}

impl Function for Desk {
    const NAME: &'static str = "tickets::open";
    type Args = OpenTicket;
    type Output = Ticket;

    async fn call(&self, args: OpenTicket, context: Context) -> Result<Ticket, Failure> {
        if args.subject.trim().is_empty() {
            return Err(Failure::new(ErrorKind::Tool, "a ticket needs a subject"));
        }
        // The same key over all attempts: a desk that knows it opens one ticket.
        let id = format!("{}-{}", context.tenant(), &context.idempotency_key[..8]);
        Ok(Ticket { id, queue: if args.urgent { self.urgent_queue } else { "soon" }.into() })
    }
}

#[derive(Deserialize, JsonSchema)]
struct Text {
    text: String,
}

async fn weigh(args: Text, context: Context) -> Result<u32, Failure> {
    let words = args.text.split_whitespace().count();
    context.emit("weighed", json!({"words": words}));
    u32::try_from(words).map_err(|_| Failure::new(ErrorKind::Schema, "too many words"))
}

fn registry() -> Registry {
    Registry::new().function(Desk { urgent_queue: "today" }).custom("words::weigh", weigh)
}

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        return cli::main_with(registry());
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    match runtime.block_on(talk()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn talk() -> Result<(), Box<dyn std::error::Error>> {
    let app = App::builder()
        .file("project.yaml", PROJECT)
        .file("desk.yaml", DESK)
        .registry(registry())
        .store("memory:")
        .build()
        .await?;
    let thread = app.thread("acme", "ada", "desk")?;
    let mut turn = thread.start("desk", "My printer is on fire").await?;
    while let Some(event) = turn.next().await {
        match event?.body {
            Body::Custom { name, data } => println!("[{name}: {data}]"),
            Body::MessageDelta { delta, .. } => {
                print!("{delta}");
                std::io::stdout().flush()?;
            }
            Body::MessageFinished { .. } => println!(),
            Body::ToolFinished { tool, .. } => println!("[{tool}]"),
            _ => {}
        }
    }
    let finished = turn.finish().await?;
    println!("{:?} after {} model call", finished.status, finished.usage.model_calls);
    app.close().await;
    Ok(())
}
