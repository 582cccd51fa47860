//! The YAML as written, field for field, with places.
//!
//! Invariant: decides nothing. Names are not resolved, expressions are not parsed, defaults are not filled in.

mod call;
mod fields;
pub mod grammar;
mod graph;
mod json;
mod keys;
mod llm;
mod load;
mod mcp;
mod migrate;
mod next;
mod node;
mod number;
mod on_error;
mod parse;
mod project;
mod prompt;
mod reader;
mod request;
mod scalar;
mod schema;
mod secrets;
mod slips;
mod surface;
mod text;
mod test;
mod tool;
mod tree;
mod types;
mod write;

pub use call::{AskSpec, BodySpec, CustomSpec, GraphNodeSpec, HttpSpec, MapSpec, ToolNodeSpec};
pub use graph::{ANY, DefaultsSpec, Graph, LimitsSpec, OutputSpec, TimeoutSpec};
pub use json::JsonFile;
pub use llm::{HistorySpec, IntoSpec, LlmSpec, ParamsSpec};
pub use load::{Files, Folder, load, load_files, load_over};
pub use mcp::{McpHints, McpReach, McpSignature, McpSpec, McpToolSpec, McpTools};
pub use migrate::MigrateSpec;
pub use next::{NextSpec, RuleSpec};
pub use node::{CacheSpec, KindSpec, NodeSpec};
pub use on_error::{CatchSpec, ErrorSpec, OnErrorSpec};
pub use project::{LineSpec, ModelSpec, Project, RetentionSpec, RetrySpec};
pub use prompt::PromptFile;
pub use reader::{check_name, snake_case};
pub use request::{AuthSpec, HeaderSpec, RequestSpec};
pub use schema::SchemaFile;
pub use test::{
    AnswerSpec, CallSpec, CaseSpec, EntrySpec, ExpectSpec, FailureSpec, GivenSpec, OpeningSpec, PathSpec,
    PromptSpec, ReplySpec, ResponseBody, ScriptSpec, SnapshotSpec, TestFile, TurnSpec, caller_name,
};
pub use text::{ExprSpec, Text};
pub use tool::{EnvSpec, HostSpec, ToolBodySpec, ToolSpec};
pub use tree::{Node, Tree};
pub use types::{Base, Descriptor, TypeSpec};
pub use write::{MAX_DEPTH, WriteError, Yaml, write};
