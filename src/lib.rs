//! graphloom turns YAML graphs into a durable, streaming chat service.
//!
//! # In a program of your own
//!
//! [`App`] runs a project inside a program: [`App::builder`] says what it is made of, [`Thread::start`] runs a graph, and the
//! [`Turn`] that comes of it is a stream of what happens. Functions in Rust become tools and nodes of the graphs by
//! [`Builder::custom`], types of your own by [`Builder::function`], with arguments that are checked against the YAML before
//! anything runs. [`cli::main_with`] makes a binary of them that has all commands of `graphloom`.
//!
//! What stands on this page is the interface. The modules that it comes from are the house itself: they are public for its
//! tests, are not shown here, and may change with every version.

// The modules stand in dependency order: one uses only those above it (`tests/it/tidy.rs` checks it).
#[doc(hidden)]
pub mod id;
#[doc(hidden)]
pub mod diagnostic;
#[doc(hidden)]
pub mod state;
#[doc(hidden)]
pub mod expr;
#[doc(hidden)]
pub mod template;
#[doc(hidden)]
pub mod spec;
#[doc(hidden)]
pub mod event;
#[doc(hidden)]
pub mod egress;
#[doc(hidden)]
pub mod trace;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod failure;
#[doc(hidden)]
pub mod tool;
#[doc(hidden)]
pub mod node;
#[doc(hidden)]
pub mod plan;
#[doc(hidden)]
pub mod compile;
#[doc(hidden)]
pub mod diff;
#[doc(hidden)]
pub mod store;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod case;
#[doc(hidden)]
pub mod render;
#[doc(hidden)]
pub mod server;
#[doc(hidden)]
pub mod app;
#[doc(hidden)]
pub mod config;
#[doc(hidden)]
pub mod lsp;
pub mod cli;

pub use app::{App, BuildError, Builder, Findings, Fork, Request, Resume, Thread, Turn, Update};
pub use egress::{Error as EgressError, Secret, Target};
pub use engine::record::RunError;
pub use engine::step::Child;
pub use engine::{Aborted, AnswerError, CheckpointView, Finished, Message, StartError, ThreadView};
pub use event::{Body, Event, Group, Interrupt, NodeStatus, PatchOp, RunStatus, Scope, Usage, Who};
pub use failure::{ErrorKind, Failure};
pub use id::{CheckpointId, InterruptId, Owner, Part, PartError, RunId, Seq, TaskId, ThreadKey};
pub use plan::Durability;
pub use server::{ApiKey, ApiKeys, Auth, AuthError, Drain, Network, ServeError, Settings, Word};
pub use state::Mismatch;
pub use store::{OnBusy, RunState, StoreError};
pub use tool::custom::{Context, Function, Registry, RegistryError};
