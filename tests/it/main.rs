//! The integration tests, in one binary, so that they link once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a failed test shows what its processes said")]

mod branches;
mod breakpoints;
mod cache;
mod bombs;
mod cases;
mod cases_questions;
#[path = "../chaos/mod.rs"]
mod chaos;
mod commands;
mod corpus;
mod database;
mod drawing;
mod embed;
mod encryption;
mod engine;
mod exports;
mod following;
mod fuzz;
mod guide;
mod handlers;
mod language;
mod mcp;
mod models;
mod old;
mod openapi;
mod parity;
mod people;
mod property;
mod recursive;
mod requests;
mod resume;
mod schemas;
mod service;
mod service_clients;
mod service_faults;
mod service_hooks;
mod service_later;
mod service_load;
mod service_people;
mod service_poison;
mod service_pooled;
mod service_refusals;
mod service_reload;
mod service_requests;
mod service_stream;
mod service_versions;
mod store;
mod support;
mod tapes;
mod tidy;
mod traces;
mod versions;
