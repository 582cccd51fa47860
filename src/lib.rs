//! graphloom turns YAML graphs into a durable, streaming chat service.
//!
//! # In a program of your own
//!
//! [`App`] runs a project inside a program: [`App::builder`] says what it is made of, [`Thread::start`] runs a graph, and the
//! [`Turn`] that comes of it is a stream of what happens. Functions in Rust become tools and nodes of the graphs by
//! [`Builder::custom`], with types that are checked against the YAML before anything runs. [`cli::main_with`] makes a binary
//! of them that has all commands of `graphloom`.
//!
//! These, what they name, and [`Failure`] are the interface. All else is the house itself, documented for those who work on
//! it: it may change with every version.
//!
//! # The house
//!
//! The modules stand in dependency order: one uses only those above it (`tests/it/tidy.rs` checks it).

pub mod id;
pub mod diagnostic;
pub mod state;
pub mod expr;
pub mod template;
pub mod spec;
pub mod event;
pub mod egress;
pub mod model;
pub mod failure;
pub mod tool;
pub mod node;
pub mod plan;
pub mod compile;
pub mod diff;
pub mod store;
pub mod engine;
pub mod case;
pub mod render;
pub mod server;
pub mod app;
pub mod config;
pub mod lsp;
pub mod cli;

pub use app::{App, BuildError, Builder, Findings, Request, Thread, Turn};
pub use engine::{Finished, Message};
pub use failure::{ErrorKind, Failure};
pub use tool::custom::{Context, Registry, RegistryError};
