//! The language server: the checker behind an editor, over standard input and output.
//!
//! Invariant: decides nothing about the language. Findings are the compiler's, names and places come from the spec,
//! keys and their documentation from its table. One thread answers, another checks; the first never waits for the
//! second.

mod answer;
mod check;
mod complete;
mod cursor;
mod hover;
mod index;
mod kept;
mod made;
mod offer;
mod place;
mod project;
mod reads;
mod rename;
mod server;
mod symbol;
mod told;
mod under;
mod walk;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Instant;

use lsp_server::{Connection, Message};

use crate::compile::{Function, Providers, functions};
use check::{Checked, Job, check};
use server::Server;

/// Room for deeply nested files, wherever the threads run.
const STACK: usize = 32 * 1024 * 1024;

/// What a host program has registered.
type Functions = Arc<BTreeMap<String, Function>>;

/// What the server hears of.
#[derive(Debug)]
enum Event {
    /// From the editor.
    Message(Message),
    /// From the checker.
    Checked(Box<Checked>),
    /// The editor is gone.
    Closed,
}

/// Serves an editor until it says `exit`. Returns whether it had said `shutdown` before.
pub fn serve(providers: Providers) -> io::Result<bool> {
    let (connection, threads) = Connection::stdio();
    let clean = run(connection, providers)?;
    // The reader ends with `exit` or with its input; it says what it could not read.
    threads.join()?;
    Ok(clean)
}

/// Serves one connection.
fn run(connection: Connection, providers: Providers) -> io::Result<bool> {
    let (events, heard) = sync_channel(64);
    let (jobs, todo) = channel();
    let Connection { sender, receiver } = connection;
    let done = events.clone();
    let functions: Functions = Arc::new(functions(&providers));
    thread::Builder::new()
        .name("lsp-check".to_owned())
        .stack_size(STACK)
        .spawn(move || check_all(&todo, &done, &providers))?;
    thread::Builder::new().name("lsp-read".to_owned()).spawn(move || {
        for message in receiver {
            if events.send(Event::Message(message)).is_err() {
                return;
            }
        }
        let _gone = events.send(Event::Closed);
    })?;
    let send = move |message| {
        // An editor that is gone needs no answer; `Closed` follows.
        let _gone = sender.send(message);
    };
    let main = thread::Builder::new().name("lsp".to_owned()).stack_size(STACK);
    let main = main.spawn(move || answer_all(&heard, Server::new(Box::new(send), jobs, functions)))?;
    main.join().map_err(|_| io::Error::other("the language server stopped"))
}

/// Checks one project after another.
fn check_all(todo: &Receiver<Job>, done: &SyncSender<Event>, providers: &Providers) {
    for job in todo {
        let (root, change) = (job.root.clone(), job.change);
        // A mistake of ours in one check must not end the server.
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(job, providers)));
        let checked = checked.unwrap_or_else(|_| Checked::nothing(root, change));
        if done.send(Event::Checked(Box::new(checked))).is_err() {
            return;
        }
    }
}

/// Answers until the end, and starts checks when they are due.
fn answer_all(heard: &Receiver<Event>, mut server: Server) -> bool {
    loop {
        let event = match server.due() {
            Some(due) => heard.recv_timeout(due.saturating_duration_since(Instant::now())),
            None => heard.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match event {
            Ok(Event::Message(message)) => {
                if let Some(clean) = server.hear(message) {
                    return clean;
                }
            }
            Ok(Event::Checked(checked)) => server.adopt(*checked),
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => return false,
        }
        server.start_checks(Instant::now());
    }
}

/// Hands a project to the checker.
fn hand_over(jobs: &Sender<Job>, job: Job) {
    // The checker ends after the server.
    let _gone = jobs.send(job);
}

#[cfg(test)]
mod tests;
