//! What went over the wire, kept in a file without secrets, and played back without a network.
//!
//! Invariant: headers of requests are never kept, and no secret that was given out stands in a file. A player never opens a
//! connection: a request that is not on its tape fails.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Error, Method, Secret, Url};

/// The format of tapes that this build writes and reads.
const FORMAT: u32 = 1;
/// The most characters of a value that a difference shows.
const SHOWN: usize = 80;

/// Why a tape cannot be put in or taken out.
#[derive(Debug, thiserror::Error)]
pub enum TapeError {
    /// There is none.
    #[error("there is no recording `{}`: `graphloom test --record` makes it", .0.display())]
    Missing(PathBuf),
    /// It cannot be read or written.
    #[error("the recording `{}` cannot be read or written: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not understood.
    #[error("the recording `{}` is not understood: {why}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A recorder or a player, with the tape that is in it. Clones are one.
#[derive(Debug, Clone)]
pub struct Tape(Arc<Mutex<Deck>>);

#[derive(Debug)]
struct Deck {
    plays: bool,
    secrets: Vec<Secret>,
    path: PathBuf,
    /// Which of the tapes is in.
    nth: u64,
    calls: Vec<Taped>,
    /// Which calls were played.
    used: Vec<bool>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct File {
    format: u32,
    calls: Vec<Taped>,
}

/// A call.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Taped {
    request: Asked,
    response: Answered,
}

/// A request as it is compared: without headers, which hold keys and change with every run, and with the keys of its body
/// sorted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    method: String,
    url: String,
    body: Json,
}

/// An answer as it came.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) headers: IndexMap<String, String>,
    frames: Vec<Frame>,
    /// The connection was cut before the end of the body.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
}

/// A piece of a body.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Frame {
    Text(String),
    Bytes { base64: String },
}

impl Frame {
    fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { base64: STANDARD.encode(bytes) },
        }
    }

    fn bytes(&self) -> Result<Bytes, String> {
        Ok(match self {
            Self::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Self::Bytes { base64 } => STANDARD.decode(base64).map_err(|e| e.to_string())?.into(),
        })
    }
}

impl Asked {
    /// Names a call that is no request.
    fn named(what: &str, asked: &Json) -> Self {
        Self { method: "CALL".to_owned(), url: what.to_owned(), body: canonical(asked.clone()) }
    }

    pub(super) fn new(method: &Method, url: &Url, body: &[u8]) -> Self {
        let body = serde_json::from_slice(body)
            .unwrap_or_else(|_| Json::String(String::from_utf8_lossy(body).into_owned()));
        Self { method: method.to_string(), url: url.to_string(), body: canonical(body) }
    }
}

/// Sorts the keys, and replaces ids that are made up anew in each run.
fn canonical(json: Json) -> Json {
    match json {
        Json::Object(object) => {
            let mut entries: Vec<(String, Json)> =
                object.into_iter().map(|(key, value)| (key, canonical(value))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(entries.into_iter().collect())
        }
        Json::Array(items) => items.into_iter().map(canonical).collect(),
        Json::String(text) => Json::String(made_up(&text).unwrap_or(text)),
        other => other,
    }
}

/// Returns an id of a call that was made up (see `model::ids`) without the part that differs from run to run.
fn made_up(text: &str) -> Option<String> {
    let (seed, number) = text.strip_prefix("call_")?.split_once('_')?;
    let hex = seed.len() == 16 && seed.bytes().all(|b| b.is_ascii_hexdigit());
    (hex && number.bytes().all(|b| b.is_ascii_digit())).then(|| format!("call_*_{number}"))
}

impl Tape {
    fn new(plays: bool) -> Self {
        Self(Arc::new(Mutex::new(Deck {
            plays,
            secrets: Vec::new(),
            path: PathBuf::new(),
            nth: 0,
            calls: Vec::new(),
            used: Vec::new(),
            problems: Vec::new(),
        })))
    }

    /// Makes a recorder: calls are made, and kept.
    #[must_use]
    pub fn recorder() -> Self {
        Self::new(false)
    }

    /// Makes a player: calls are answered from the tape.
    #[must_use]
    pub fn player() -> Self {
        Self::new(true)
    }

    fn deck(&self) -> MutexGuard<'_, Deck> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plays(&self) -> bool {
        self.deck().plays
    }

    /// Keeps a secret out of every tape.
    pub fn hide(&self, secret: &Secret) {
        let mut deck = self.deck();
        if !secret.expose().is_empty() && !deck.secrets.contains(secret) {
            deck.secrets.push(secret.clone());
        }
    }

    /// Puts a tape in: one to be written, or one to be played.
    pub fn insert(&self, path: &Path) -> Result<(), TapeError> {
        let mut deck = self.deck();
        (deck.calls, deck.used, deck.problems) = (Vec::new(), Vec::new(), Vec::new());
        path.clone_into(&mut deck.path);
        deck.nth += 1;
        if !deck.plays {
            return Ok(());
        }
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(TapeError::Missing(path.to_owned()));
            }
            Err(source) => return Err(TapeError::Io { path: path.to_owned(), source }),
        };
        let wrong = |why: String| TapeError::Format { path: path.to_owned(), why };
        let file: File = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if file.format != FORMAT {
            return Err(wrong(format!("its format is {}, this build knows {FORMAT}", file.format)));
        }
        deck.used = vec![false; file.calls.len()];
        deck.calls = file.calls;
        Ok(())
    }

    /// Takes the tape out, and tells what was wrong: calls that are not on it, or that nobody made.
    pub fn eject(&self) -> Result<Vec<String>, TapeError> {
        let mut deck = self.deck();
        let mut problems = std::mem::take(&mut deck.problems);
        let calls = std::mem::take(&mut deck.calls);
        if deck.plays {
            let left = deck.used.iter().filter(|used| !**used).count();
            if left > 0 && problems.is_empty() {
                problems.push(format!("{left} of {} recorded calls were not made", deck.used.len()));
            }
            return Ok(problems);
        }
        let calls = calls.into_iter().map(|call| hidden(call, &deck.secrets)).collect();
        let path = deck.path.clone();
        drop(deck);
        let io = |source| TapeError::Io { path: path.clone(), source };
        let mut text = serde_json::to_string_pretty(&File { format: FORMAT, calls })
            .map_err(|error| TapeError::Format { path: path.clone(), why: error.to_string() })?;
        text.push('\n');
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        std::fs::write(&path, text).map_err(io)?;
        Ok(problems)
    }

    /// Answers a call that is no request from the tape; nothing where the tape records.
    pub fn played(&self, what: &str, asked: &Json) -> Option<Result<Json, Error>> {
        if !self.plays() {
            return None;
        }
        let answer = self.play(&Asked::named(what, asked)).and_then(|(_, frames)| {
            let pieces: Vec<Bytes> = frames.into_iter().collect::<Result<_, _>>()?;
            serde_json::from_slice(&pieces.concat()).map_err(|_| Error::Unrecorded)
        });
        Some(answer)
    }

    /// Keeps a call that is no request, with what came of it; where the tape plays, nothing.
    pub fn keep(&self, what: &str, asked: &Json, answer: &Json) {
        if !self.plays() {
            self.record(Asked::named(what, asked)).piece(&Ok(Bytes::from(answer.to_string())));
        }
    }

    /// Begins to keep a call.
    pub(super) fn record(&self, request: Asked) -> Recording {
        let mut deck = self.deck();
        deck.calls.push(Taped { request, response: Answered::default() });
        let place = (deck.nth, deck.calls.len() - 1);
        Recording { tape: self.clone(), place }
    }

    /// Answers a call from the tape, with the pieces of the body as they came.
    pub(super) fn play(&self, request: &Asked) -> Result<(Answered, Vec<Result<Bytes, Error>>), Error> {
        let mut deck = self.deck();
        let deck = &mut *deck;
        let free = |nth: &usize| !deck.used[*nth];
        let same = (0..deck.calls.len()).filter(free).find(|nth| deck.calls[*nth].request == *request);
        let Some(nth) = same else {
            let near = |nth: &usize| deck.calls[*nth].request.url == request.url;
            let all = || (0..deck.calls.len()).filter(free);
            let told = match all().find(near).or_else(|| all().next()) {
                None => format!("all of the {} recorded calls are used up", deck.calls.len()),
                Some(nth) => difference(&deck.calls[nth].request, request),
            };
            let problem = format!("`{} {}` is not recorded: {told}", request.method, request.url);
            deck.problems.push(problem);
            return Err(Error::Unrecorded);
        };
        deck.used[nth] = true;
        let answer = deck.calls[nth].response.clone();
        let mut frames = Vec::with_capacity(answer.frames.len() + 1);
        for frame in &answer.frames {
            frames.push(Ok(frame.bytes().map_err(|_| Error::Unrecorded)?));
        }
        if answer.cut {
            frames.push(Err(Error::Cut));
        }
        Ok((answer, frames))
    }
}

/// A call that is being kept.
#[derive(Debug)]
pub(super) struct Recording {
    tape: Tape,
    /// The tape, and the call on it.
    place: (u64, usize),
}

impl Recording {
    fn with(&self, change: impl FnOnce(&mut Answered)) {
        let (tape, nth) = self.place;
        let mut deck = self.tape.deck();
        // A call that outlives its case is on no other tape.
        if deck.nth == tape
            && let Some(call) = deck.calls.get_mut(nth)
        {
            change(&mut call.response);
        }
    }

    /// Keeps the head of the answer, without what tells who asked.
    pub(super) fn head(&self, status: u16, headers: IndexMap<String, String>) {
        let private = ["cookie", "auth", "key", "token", "organization", "account", "project"];
        let shown = headers.into_iter().filter(|(name, _)| !private.iter().any(|part| name.contains(part)));
        self.with(|answer| (answer.status, answer.headers) = (status, shown.collect()));
    }

    /// Keeps a piece of the body.
    pub(super) fn piece(&self, piece: &Result<Bytes, Error>) {
        self.with(|answer| match piece {
            Ok(bytes) => answer.frames.push(Frame::of(bytes)),
            Err(_) => answer.cut = true,
        });
    }

    /// Notes that no answer came.
    pub(super) fn failed(&self, why: &str) {
        let mut deck = self.tape.deck();
        deck.problems.push(format!("a call cannot be recorded: {why}"));
    }
}

/// Removes secrets from a call.
fn hidden(mut call: Taped, secrets: &[Secret]) -> Taped {
    for secret in secrets.iter().map(Secret::expose) {
        let hide = |text: &mut String| {
            if text.contains(secret) {
                *text = text.replace(secret, "***");
            }
        };
        hide(&mut call.request.url);
        each_text(&mut call.request.body, &hide);
        call.response.headers.values_mut().for_each(hide);
        let bytes: Vec<u8> =
            call.response.frames.iter().filter_map(|frame| frame.bytes().ok()).flatten().collect();
        let mut whole = String::from_utf8_lossy(&bytes).into_owned();
        // It may stand across two pieces, so they are not kept apart where one is.
        if whole.contains(secret) {
            hide(&mut whole);
            call.response.frames = vec![Frame::Text(whole)];
        }
    }
    call
}

fn each_text(json: &mut Json, change: &impl Fn(&mut String)) {
    match json {
        Json::String(text) => change(text),
        Json::Array(items) => items.iter_mut().for_each(|item| each_text(item, change)),
        Json::Object(object) => object.values_mut().for_each(|value| each_text(value, change)),
        _ => {}
    }
}

/// Tells where two requests differ.
fn difference(recorded: &Asked, made: &Asked) -> String {
    if (&recorded.method, &recorded.url) != (&made.method, &made.url) {
        return format!("the recording has `{} {}`", recorded.method, recorded.url);
    }
    let mut place = String::new();
    let (recorded, made) = narrowed(&recorded.body, &made.body, &mut place);
    let place = if place.is_empty() { "in the body".to_owned() } else { format!("at `{place}`") };
    let shown = |value: Option<&Json>| match value {
        None => "nothing".to_owned(),
        Some(value) => {
            let text = value.to_string();
            let mut short: String = text.chars().take(SHOWN).collect();
            if short.len() < text.len() {
                short.push('…');
            }
            short
        }
    };
    format!("{place} the recording has {}, this call has {}", shown(recorded), shown(made))
}

/// Goes down to the first place where two values differ.
fn narrowed<'a>(
    recorded: &'a Json,
    made: &'a Json,
    place: &mut String,
) -> (Option<&'a Json>, Option<&'a Json>) {
    let (key, inner) = match (recorded, made) {
        (Json::Object(old), Json::Object(new)) => {
            let mut keys = old.keys().chain(new.keys().filter(|key| !old.contains_key(*key)));
            let key = keys.find(|key| old.get(*key) != new.get(*key));
            let escaped = |key: &String| key.replace('~', "~0").replace('/', "~1");
            (key.map(escaped), key.map(|key| (old.get(key), new.get(key))))
        }
        (Json::Array(old), Json::Array(new)) => {
            let nth = (0..old.len().max(new.len())).find(|nth| old.get(*nth) != new.get(*nth));
            (nth.map(|nth| nth.to_string()), nth.map(|nth| (old.get(nth), new.get(nth))))
        }
        _ => (None, None),
    };
    let (Some(key), Some(inner)) = (key, inner) else { return (Some(recorded), Some(made)) };
    // Writing to a text does not fail.
    let _written = write!(place, "/{key}");
    match inner {
        (Some(recorded), Some(made)) => narrowed(recorded, made, place),
        differs => differs,
    }
}

#[cfg(test)]
mod tests;
