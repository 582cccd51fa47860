//! What is sent to a tool, and what its answer is worth.

use std::collections::HashSet;

use rmcp::model::{CallToolResponse, CallToolResult, ContentBlock, ResourceContents};
use serde_json::{Map, Value as Json};

use crate::failure::{ErrorKind, Failure};
use crate::state::Type;

/// The largest result that is taken, in bytes.
const MAX_RESULT: usize = 1024 * 1024;
/// How deep a value is looked through.
const DEEPEST: usize = 64;

/// Returns arguments as a server takes them: what need not be there and has no value is left out, because to many a
/// server null is another thing than nothing.
pub(super) fn sendable(args: &Json, schema: &Map<String, Json>) -> Map<String, Json> {
    let root = Json::Object(schema.clone());
    let mut args = args.clone();
    thin(&mut args, &[&root], &root, DEEPEST);
    match args {
        Json::Object(args) => args,
        _ => Map::new(),
    }
}

/// Leaves out what schemas declare and none of them asks for.
fn thin(value: &mut Json, schemas: &[&Json], root: &Json, deep: usize) {
    let Some(deep) = deep.checked_sub(1) else { return };
    let parts = flatten(schemas, root);
    let all = |keyword: &'static str| parts.iter().filter_map(move |part| part.get(keyword));
    let declared = |name: &str| all("properties").filter_map(|fields| fields.get(name)).collect::<Vec<_>>();
    match value {
        Json::Object(fields) => {
            let due =
                |name: &str| all("required").filter_map(Json::as_array).flatten().any(|due| due == name);
            fields.retain(|name, value| !value.is_null() || due(name) || declared(name).is_empty());
            for (name, value) in fields {
                thin(value, &declared(name), root, deep);
            }
        }
        Json::Array(items) => {
            let inner: Vec<&Json> = all("items").collect();
            for item in items {
                thin(item, &inner, root, deep);
            }
        }
        _ => {}
    }
}

/// Gathers schemas and what they are made of besides: what they refer to, and their branches.
fn flatten<'s>(schemas: &[&'s Json], root: &'s Json) -> Vec<&'s Json> {
    let (mut parts, mut known) = (Vec::new(), HashSet::new());
    let mut due = schemas.to_vec();
    while let Some(schema) = due.pop() {
        if !known.insert(std::ptr::from_ref(schema)) {
            continue;
        }
        parts.push(schema);
        let named = schema.get("$ref").and_then(Json::as_str).and_then(|name| name.strip_prefix('#'));
        due.extend(named.and_then(|pointer| root.pointer(pointer)));
        let branches = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema.get(key)?.as_array());
        due.extend(branches.flatten());
    }
    parts
}

/// Reads an answer: the value that is due, or a text.
pub(super) fn read(answer: CallToolResponse, structured: bool, ty: &Type) -> Result<Json, Failure> {
    let CallToolResponse::Complete(answer) = answer else {
        let message = "it wants to be asked again, or asks back, which nobody does here";
        return Err(Failure::new(ErrorKind::Tool, message));
    };
    let CallToolResult { content, structured_content, is_error, .. } = answer;
    let said = || content.iter().map(text).collect::<Vec<_>>().join("\n");
    if is_error == Some(true) {
        let said = said();
        let message =
            if said.trim().is_empty() { "it failed, and does not say why".to_owned() } else { said };
        return Err(Failure::new(ErrorKind::Tool, message));
    }
    let result = match structured_content {
        Some(mut value) if structured => {
            trim(&mut value, ty);
            value
        }
        None if structured => {
            let message = "it gave a text where a value is due";
            return Err(Failure::new(ErrorKind::Schema, message));
        }
        Some(value) if content.is_empty() => Json::String(value.to_string()),
        _ => Json::String(said()),
    };
    let bytes = match &result {
        Json::String(text) => text.len(),
        value => value.to_string().len(),
    };
    if bytes > MAX_RESULT {
        return Err(Failure::new(ErrorKind::Schema, "its result is larger than 1 MiB"));
    }
    Ok(result)
}

/// Drops the fields that nobody declared: a schema allows them, unless it says otherwise.
fn trim(value: &mut Json, ty: &Type) {
    match (ty.non_null(), value) {
        (Type::Record(fields), Json::Object(found)) => {
            found.retain(|name, _| fields.contains_key(name));
            for (name, value) in found {
                if let Some(field) = fields.get(name) {
                    trim(value, &field.ty);
                }
            }
        }
        (Type::List(item), Json::Array(items)) => {
            for value in items {
                trim(value, item);
            }
        }
        _ => {}
    }
}

/// Returns a block as a text. What is none is named: a state is no place for pictures.
fn text(block: &ContentBlock) -> String {
    let named = |what: &str, kind: Option<&str>, base64: &str| {
        let bytes = base64.len() / 4 * 3;
        format!("[{what} {} of {bytes} bytes]", kind.unwrap_or("of unknown type"))
    };
    match block {
        ContentBlock::Text(block) => block.text.clone(),
        ContentBlock::Image(block) => named("image", Some(&block.mime_type), &block.data),
        ContentBlock::Audio(block) => named("audio", Some(&block.mime_type), &block.data),
        ContentBlock::ResourceLink(link) => link.uri.clone(),
        ContentBlock::Resource(block) => match &block.resource {
            ResourceContents::TextResourceContents { text, .. } => text.clone(),
            ResourceContents::BlobResourceContents { uri, mime_type, blob, .. } => {
                format!("{uri} {}", named("file", mime_type.as_deref(), blob))
            }
            _ => "[something else]".to_owned(),
        },
        _ => "[something else]".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::state::Field;

    fn object(json: Json) -> Map<String, Json> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn what_has_no_value_and_need_not_be_there_is_not_sent() {
        let item = json!({"type": "object", "properties": {"x": {}, "y": {}}, "required": ["y"]});
        let schema = object(json!({
            "type": "object",
            "properties": {
                "q": {"type": "string"},
                "limit": {"type": "integer"},
                "due": {"type": ["string", "null"]},
                "items": {"type": "array", "items": {"$ref": "#/$defs/item"}},
                "one": {"anyOf": [{"$ref": "#/$defs/item"}, {"type": "null"}]},
                "free": {"type": "object"},
            },
            "required": ["q", "due"],
            "$defs": {"item": item},
        }));
        let both = json!({"x": null, "y": null});
        let args =
            json!({"q": "a", "limit": null, "due": null, "items": [both, null], "one": both, "free": both});
        let thin = json!({"y": null});
        let sent = json!({"q": "a", "due": null, "items": [thin, null], "one": thin, "free": both});
        assert_eq!(sendable(&args, &schema), object(sent));
        let links = (0..40_000).map(|n| (n.to_string(), json!({"$ref": format!("#/$defs/{}", n + 1)})));
        let chain = object(json!({"$ref": "#/$defs/0", "$defs": Json::Object(links.collect())}));
        assert_eq!(sendable(&json!({"a": 1}), &chain), object(json!({"a": 1})));
        let round = object(json!({"$ref": "#", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]}));
        assert_eq!(sendable(&json!({"a": 1}), &round), object(json!({"a": 1})));
    }

    #[test]
    fn an_answer_is_the_value_that_is_due_or_a_text() {
        let ty = Type::Record([("n".to_owned(), Field::of(Type::INTEGER))].into_iter().collect());
        let of = |answer: Json, structured| {
            let answer: CallToolResult = serde_json::from_value(answer).unwrap();
            let ty = if structured { &ty } else { &Type::STRING };
            read(CallToolResponse::Complete(answer), structured, ty).map_err(|f| (f.kind, f.message))
        };
        let block = |text: &str| json!({"type": "text", "text": text});
        let image = json!({"type": "image", "data": "QUJD", "mimeType": "image/png"});
        let file = json!({"type": "resource", "resource": {"uri": "f:a", "text": "A"}});
        for (answer, structured, expected) in [
            (json!({"content": [block("a"), block("b")]}), false, Ok(json!("a\nb"))),
            (json!({"content": [image, file]}), false, Ok(json!("[image image/png of 3 bytes]\nA"))),
            (json!({"content": []}), false, Ok(json!(""))),
            (json!({"content": [], "structuredContent": {"n": 1}}), false, Ok(json!("{\"n\":1}"))),
            (json!({"content": [], "structuredContent": {"n": 1, "m": 2}}), true, Ok(json!({"n": 1}))),
            (
                json!({"content": [block("1")]}),
                true,
                Err((ErrorKind::Schema, "it gave a text where a value is due".to_owned())),
            ),
            (
                json!({"content": [block("no such order")], "isError": true}),
                true,
                Err((ErrorKind::Tool, "no such order".to_owned())),
            ),
            (
                json!({"content": [block(&"x".repeat(MAX_RESULT + 1))]}),
                false,
                Err((ErrorKind::Schema, "its result is larger than 1 MiB".to_owned())),
            ),
        ] {
            assert_eq!(of(answer.clone(), structured), expected, "{answer:.80}");
        }
    }
}
