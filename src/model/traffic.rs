//! What real providers streamed, cut wherever a connection may end, for the tests of those who read it.
//!
//! `tests/traffic/fetch.py` brings the answers.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use serde_json::Value as Json;

use super::testing::text;
use super::{Chunk, Kind, ModelError};

type Items = Vec<Result<Chunk, ModelError>>;

/// An answer as its frames say it, without any of the rules of a stream.
#[derive(Debug, Default, Clone)]
pub(super) struct Plain {
    pub(super) text: String,
    pub(super) reasoning: String,
    /// The arguments of each call, by the number that the provider gives it.
    pub(super) args: BTreeMap<u64, String>,
    /// The arguments with which a call began.
    pub(super) given: BTreeMap<u64, Json>,
    /// The provider gave a reason for the end.
    pub(super) finished: bool,
    /// The answer is none: the provider refused, failed, or waits for something.
    pub(super) failed: bool,
}

/// Holds what is read of every recorded answer against its frames: as a whole, a frame at a time, and cut behind each.
pub(super) async fn recorded(
    protocol: &str,
    decode: impl AsyncFn(Vec<Bytes>) -> Items,
    take: impl Fn(&mut Plain, &Json),
) {
    let folder = Path::new("tests/traffic/recorded").join(protocol);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| {
        panic!("{}: {error}; `python3 tests/traffic/fetch.py` brings it", folder.display())
    });
    let mut count = 0;
    for file in files {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let whole = Bytes::from(std::fs::read(&path).unwrap());
        let ends = ends(&whole);
        let mut from = 0;
        let frames = ends.iter().map(|&end| whole.slice(std::mem::replace(&mut from, end)..end)).collect();
        let said = decode(vec![whole.clone()]).await;
        assert_eq!(decode(frames).await, said, "{name}, a frame at a time");
        let (mut plain, mut from) = (Plain::default(), 0);
        check(&decode(Vec::new()).await, &plain, &format!("{name}, cut before its first frame"));
        for end in ends {
            let frame = std::str::from_utf8(&whole[from..end]).unwrap();
            let data: String = frame.lines().filter_map(|line| line.strip_prefix("data:")).collect();
            if let Ok(data) = serde_json::from_str(&data)
                && !plain.failed
            {
                take(&mut plain, &data);
            }
            from = end;
            check(&decode(vec![whole.slice(..end)]).await, &plain, &format!("{name}, cut at byte {end}"));
        }
        check(&said, &plain, &name);
        count += 1;
    }
    assert!(count >= 5, "{count} answers of `{protocol}`");
}

/// Returns where the frames of a stream end.
fn ends(whole: &[u8]) -> Vec<usize> {
    let text = std::str::from_utf8(whole).unwrap();
    let behind = |blank: &'static str| text.match_indices(blank).map(move |(at, _)| at + blank.len());
    let mut ends: Vec<usize> = behind("\n\n").chain(behind("\r\n\r\n")).collect();
    ends.push(whole.len());
    ends.sort_unstable();
    ends.dedup();
    ends
}

/// Nothing is lost and nothing is there twice, and the end is what the frames say.
fn check(items: &Items, plain: &Plain, what: &str) {
    assert_eq!(text(items), plain.text, "{what}");
    let (mut reasoning, mut args) = (String::new(), BTreeMap::<usize, String>::new());
    for item in items {
        match item {
            Ok(Chunk::Reasoning(more)) => reasoning.push_str(more),
            Ok(Chunk::ToolCall { index, .. }) => {
                assert!(args.insert(*index, String::new()).is_none(), "{what}");
            }
            Ok(Chunk::ToolArgs { index, delta }) => args.get_mut(index).unwrap().push_str(delta),
            _ => {}
        }
    }
    assert_eq!(reasoning, plain.reasoning, "{what}");
    assert_eq!(args.values().collect::<Vec<_>>(), plain.args.values().collect::<Vec<_>>(), "{what}");
    let (last, before) = items.split_last().unwrap();
    assert!(before.iter().all(|item| !matches!(item, Err(_) | Ok(Chunk::End { .. }))), "{what}");
    match last {
        Ok(Chunk::End { .. }) => assert!(plain.finished && !plain.failed, "{what}"),
        Err(error) if plain.failed => assert_ne!(error.kind, Kind::Connection, "{what}"),
        Err(error) => assert!(!plain.finished && error.kind == Kind::Connection, "{what}: {error:?}"),
        other => panic!("{what}: {other:?}"),
    }
}
