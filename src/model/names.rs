//! The names of tools as providers take them.
//!
//! Invariant: outside of what is sent and read, a tool has one name.

use std::borrow::Cow;

use futures_util::stream::{BoxStream, StreamExt};

use super::{Chunk, ModelError, ToolSpec};

/// The longest name of a tool that providers take.
pub const MAX_TOOL_NAME: usize = 64;

/// Returns the name of a tool as providers take it: letters, digits, `_` and `-`. A tool of an MCP server,
/// `docs.search`, is `docs__search` to them.
#[must_use]
pub fn wire_name(name: &str) -> Cow<'_, str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.chars().all(plain) {
        return Cow::Borrowed(name);
    }
    let (server, tool) = name.split_once('.').map_or(("", name), |(server, tool)| (server, tool));
    let join = if server.is_empty() { "" } else { "__" };
    let tool: String = tool.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    Cow::Owned(format!("{server}{join}{tool}"))
}

/// Gives the calls of an answer the names that the tools have here.
pub(super) fn own_names(
    answer: BoxStream<'static, Result<Chunk, ModelError>>,
    tools: &[ToolSpec],
) -> BoxStream<'static, Result<Chunk, ModelError>> {
    let other = tools.iter().map(|tool| &tool.name).filter(|name| wire_name(name) != name.as_str());
    let names: Vec<(String, String)> =
        other.map(|name| (wire_name(name).into_owned(), name.clone())).collect();
    if names.is_empty() {
        return answer;
    }
    let own = move |chunk| match chunk {
        Ok(Chunk::ToolCall { index, id, name }) => {
            let own = names.iter().find(|(sent, _)| *sent == name).map(|(_, own)| own.clone());
            Ok(Chunk::ToolCall { index, id, name: own.unwrap_or(name) })
        }
        other => other,
    };
    answer.map(own).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tool_of_a_server_is_sent_under_a_name_that_providers_take_and_comes_back_under_its_own() {
        for (own, sent) in [
            ("search_kb", "search_kb"),
            ("docs.search", "docs__search"),
            ("docs.get-sum", "docs__get-sum"),
            ("docs.a.b/c d", "docs__a_b_c_d"),
        ] {
            assert_eq!(wire_name(own), sent);
            let spec = |name: &str| ToolSpec {
                name: name.to_owned(),
                description: String::new(),
                parameters: serde_json::Value::Null,
            };
            let chunk = |name: &str| Chunk::ToolCall { index: 0, id: "c".to_owned(), name: name.to_owned() };
            let answer = futures_util::stream::iter([Ok(chunk(sent)), Ok(chunk("other"))]).boxed();
            let read: Vec<_> = own_names(answer, &[spec("a"), spec(own)]).collect().await;
            assert_eq!(read, [Ok(chunk(own)), Ok(chunk("other"))]);
        }
    }
}
