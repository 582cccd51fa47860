//! Puts calls of tools together from the pieces that servers send.
//!
//! Invariant: a call begins once, with its name and an id of its own, and calls are counted in the order in which they
//! begin. No piece is lost: a call that never gets a name is an error.

use std::collections::VecDeque;

use serde_json::Value as Json;

use super::wire::WireCall;
use crate::model::sse::schema;
use crate::model::{Chunk, ModelError, ids::Ids};

/// The most calls of tools in one answer.
const CALL_LIMIT: usize = 128;
/// The most bytes of the arguments of one call.
const ARGUMENTS_LIMIT: usize = 4 * 1024 * 1024;

/// The calls of an answer.
pub(super) struct Calls {
    all: Vec<Call>,
    ids: Ids,
    /// How many have begun.
    begun: usize,
}

/// A call of which something came.
struct Call {
    /// What the server counts it by.
    key: Option<u64>,
    /// The server's id.
    id: Option<String>,
    name: Option<String>,
    arguments: String,
    /// What the server wants back with it.
    extra: Option<Json>,
    /// How far the arguments have been looked at.
    depth: Depth,
    /// Which of the calls that have begun it is.
    at: Option<usize>,
}

/// How deep a JSON text is at its end. It is kept with the text, so that a server that repeats a name with every piece
/// does not have the whole text read again each time.
#[derive(Default)]
struct Depth {
    open: u64,
    in_text: bool,
    escaped: bool,
    /// An object or a list has ended, and nothing but space followed.
    closed: bool,
}

impl Depth {
    fn read(&mut self, piece: &str) {
        for byte in piece.bytes() {
            if self.in_text {
                self.in_text = self.escaped || byte != b'"';
                self.escaped = !self.escaped && byte == b'\\';
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => self.open += 1,
                b'}' | b']' => self.open = self.open.saturating_sub(1),
                _ if byte.is_ascii_whitespace() => continue,
                _ => {}
            }
            self.closed = self.open == 0 && matches!(byte, b'}' | b']');
        }
    }
}

impl Call {
    /// Says whether nothing can be added to the arguments, which are an object.
    fn is_whole(&self) -> bool {
        self.depth.closed
    }
}

/// A piece of a call, each part only when there is some.
struct Piece {
    key: Option<u64>,
    id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    extra: Option<Json>,
    /// Others stand before it in the same list.
    follows: bool,
}

impl Calls {
    pub(super) fn new(seed: &str) -> Self {
        Self { all: Vec::new(), ids: Ids::new(seed), begun: 0 }
    }

    /// Takes the pieces of one event.
    pub(super) fn take(
        &mut self,
        pieces: Vec<WireCall>,
        chunks: &mut VecDeque<Chunk>,
    ) -> Result<(), ModelError> {
        for (nth, mut piece) in pieces.into_iter().enumerate() {
            let (key, extra) = (piece.index, piece.extra_content.take());
            let (id, name, arguments) = piece.into_parts();
            self.add(Piece { key, id, name, arguments, extra, follows: nth > 0 }, chunks)?;
        }
        Ok(())
    }

    fn add(&mut self, piece: Piece, chunks: &mut VecDeque<Chunk>) -> Result<(), ModelError> {
        let found = self.find(&piece);
        let Piece { key, id, name, arguments, extra, .. } = piece;
        if found.is_none() {
            if id.is_none() && name.is_none() && arguments.is_none() {
                return Ok(());
            }
            if self.all.len() == CALL_LIMIT {
                return Err(schema("the provider calls more than 128 tools at once"));
            }
            self.all.push(Call {
                key,
                id: None,
                name: None,
                arguments: String::new(),
                extra: None,
                depth: Depth::default(),
                at: None,
            });
        }
        let begun = self.begun;
        let place = found.unwrap_or(self.all.len() - 1);
        let Some(call) = self.all.get_mut(place) else { return Ok(()) };
        call.id = call.id.take().or(id);
        call.extra = call.extra.take().or(extra);
        let added = arguments.unwrap_or_default();
        if call.arguments.len() + added.len() > ARGUMENTS_LIMIT {
            return Err(schema("the provider's call of a tool is longer than 4 MiB"));
        }
        call.arguments.push_str(&added);
        call.depth.read(&added);
        let (index, delta) = match (call.at, name) {
            (Some(at), _) => (at, added),
            (None, None) => return Ok(()),
            (None, Some(name)) => {
                let id = self.ids.own(call.id.as_deref());
                self.begun += 1;
                call.at = Some(begun);
                call.name = Some(name.clone());
                chunks.push_back(Chunk::ToolCall { index: begun, id, name });
                // Arguments may come before the name.
                (begun, call.arguments.clone())
            }
        };
        if !delta.is_empty() {
            chunks.push_back(Chunk::ToolArgs { index, delta });
        }
        Ok(())
    }

    /// Finds the call that a piece belongs to. Servers count calls by `index`; those that do not, or that give all calls
    /// one, tell them apart by their ids, and a piece with neither belongs to the last call. A name that comes again
    /// is the next call where nothing can be added to this one.
    fn find(&self, piece: &Piece) -> Option<usize> {
        let last = self.all.len().checked_sub(1);
        let place = match (piece.key, &piece.id) {
            (Some(_), Some(_)) => {
                let same = |call: &Call| call.key == piece.key && call.id == piece.id;
                let known = self.all.iter().rposition(same);
                known.or_else(|| self.all.iter().rposition(|call| call.key == piece.key))
            }
            (Some(_), None) => self.all.iter().rposition(|call| call.key == piece.key),
            (None, Some(_)) => {
                let known = self.all.iter().rposition(|call| call.id == piece.id);
                known.or_else(|| last.filter(|_| piece.name.is_none()))
            }
            (None, None) => last,
        }?;
        let call = self.all.get(place)?;
        let new = match (&piece.id, &call.id) {
            (Some(id), Some(of)) => id != of,
            _ => match (&piece.name, &call.name) {
                (Some(name), Some(of)) => {
                    name != of
                        || (piece.key.is_none() && piece.follows)
                        || (piece.arguments.is_some() && call.is_whole())
                }
                _ => false,
            },
        };
        (!new).then_some(place)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun == 0
    }

    /// Returns what the server wants back with each call, in the order in which they began.
    pub(super) fn extras(&self) -> Vec<Option<Json>> {
        let mut extras = vec![None; self.begun];
        for call in &self.all {
            if let Some(extra) = call.at.and_then(|at| extras.get_mut(at)) {
                extra.clone_from(&call.extra);
            }
        }
        extras
    }

    /// Checks that no piece is left over; the end of an answer that was cut at its limit may be.
    pub(super) fn end(&self, truncated: bool) -> Result<(), ModelError> {
        if truncated || self.all.iter().all(|call| call.at.is_some()) {
            return Ok(());
        }
        Err(schema("the provider calls a tool without its name"))
    }
}
