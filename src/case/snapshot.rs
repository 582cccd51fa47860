//! Prompts as files, to be read by people and compared by machines.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::model::{Request, Role};

/// A snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the snapshot `{}` cannot be used: {why}", path.display())]
pub struct SnapshotError {
    path: PathBuf,
    why: std::io::Error,
}

/// Writes the prompts of calls as a prompt file shows them.
pub(super) fn prompt_text<'r>(requests: impl IntoIterator<Item = &'r Request>) -> String {
    let mut text = String::new();
    for (n, request) in requests.into_iter().enumerate() {
        if n > 0 {
            text += &format!("---- call {} ----\n", n + 1);
        }
        for turn in &request.turns {
            text += match turn.role {
                Role::System => "@system\n",
                Role::User => "@user\n",
                Role::Assistant => "@assistant\n",
                Role::Tool => "@tool\n",
            };
            match &turn.content {
                Json::String(content) => text += content,
                parts => text += &parts.to_string(),
            }
            text += "\n";
            for call in &turn.tool_calls {
                text += &format!("call {}({})\n", call.name, call.arguments);
            }
        }
    }
    text
}

/// Returns the path of a snapshot below the project's folder.
pub(super) fn path_of(root: &Path, name: &str) -> PathBuf {
    let file = format!("{name}.md");
    file.split('/').fold(root.join("tests").join("snapshots"), |path, part| path.join(part))
}

/// Makes a name of words of the author's choice.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.to_lowercase().chars() {
        if c.is_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

/// Reads a snapshot; nothing when there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, SnapshotError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(SnapshotError { path: path.to_owned(), why }),
    }
}

/// Writes a snapshot, when it is another one.
pub(super) fn write(path: &Path, text: &str) -> Result<(), SnapshotError> {
    let failed = |why| SnapshotError { path: path.to_owned(), why };
    if read(path)?.as_deref() == Some(text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    std::fs::write(path, text).map_err(failed)
}

/// Says where two texts part: the first line that differs, as it is in both.
pub(super) fn first_difference(expected: &str, found: &str) -> (usize, String, String) {
    let (mut left, mut right) = (expected.lines(), found.lines());
    for line in 1.. {
        match (left.next(), right.next()) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return (line, "the end".into(), "the end".into()),
            (a, b) => {
                let shown = |line: Option<&str>| line.map_or("the end".into(), |line| format!("`{line}`"));
                return (line, shown(a), shown(b));
            }
        }
    }
    (0, String::new(), String::new())
}
