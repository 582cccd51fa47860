//! graphloom turns YAML graphs into a durable, streaming chat service.
//!
//! The modules stand in dependency order: one uses only those above it (`tests/it/tidy.rs` checks it).

pub mod id;
pub mod diagnostic;
pub mod state;
pub mod event;
pub mod model;
pub mod store;
