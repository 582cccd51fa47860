//! graphloom turns YAML graphs into a durable, streaming chat service.
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
pub mod config;
pub mod lsp;
pub mod cli;
