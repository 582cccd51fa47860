//! Bodies of JSON: how they are taken out of a request, and how their mistakes are told.
//!
//! Invariant: a field that nobody knows is refused, and every mistake has its place.

use std::str::FromStr;
use std::sync::Arc;

use poem::{Request, RequestBody};
use poem_openapi::registry::{MetaMediaType, MetaRequest, Registry};
use poem_openapi::types::Type;
use poem_openapi::{ApiExtractor, ApiExtractorType, Enum, ExtractParamOptions, Union};
use serde_json::{Map, Value as Json};

use super::App;
use super::json::{self, escape};
use super::problem::{Code, Problem, ProblemAt};
use super::sse::Groups;
use crate::diagnostic::suggest;
use crate::engine::{Breakpoints, Wishes};
use crate::id::sha256_hex;
use crate::plan::Durability;
use crate::state::kind;

/// The most names in a list of a body.
const MOST_NAMES: usize = 1_000;

/// What a body can be read as.
pub(super) trait Parsed: Sized + Send {
    /// How the document describes it.
    type Schema: Type;

    /// Takes it apart.
    fn parse(body: Json) -> Result<Self, Problem>;
}

/// The body of a request.
pub(super) struct Body<T>(pub(super) T);

impl<'a, T: Parsed> ApiExtractor<'a> for Body<T> {
    const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::RequestObject];
    type ParamType = ();
    type ParamRawType = ();

    fn register(registry: &mut Registry) {
        T::Schema::register(registry);
    }

    fn request_meta() -> Option<MetaRequest> {
        let content = MetaMediaType { content_type: "application/json", schema: T::Schema::schema_ref() };
        Some(MetaRequest { description: None, content: vec![content], required: true })
    }

    async fn from_request(
        request: &'a Request,
        body: &mut RequestBody,
        _options: ExtractParamOptions<()>,
    ) -> poem::Result<Self> {
        let app = request.data::<Arc<App>>().ok_or_else(Problem::internal)?;
        Ok(Self(T::parse(json::read(request, body, app.settings.body_limit).await?)?))
    }
}

/// When supersteps are stored.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "lowercase", rename = "Durability")]
pub(super) enum DurabilityChoice {
    /// Each before the next one begins.
    Sync,
    /// Each while the next one works. A crash can cost one superstep more.
    Async,
    /// All together, when the run ends or waits for a person. A crash costs all since then; events other than the pieces of
    /// messages come at the end.
    Exit,
}

/// A group of events. The run's own events and errors are always sent.
#[derive(Debug, Clone, Copy, Enum)]
#[oai(rename_all = "lowercase")]
pub(super) enum EventGroup {
    /// Messages and reasoning.
    Messages,
    /// Nodes.
    Nodes,
    /// Tools.
    Tools,
    /// Edges.
    Edges,
    /// The public state.
    State,
    /// Checkpoints.
    Checkpoints,
    /// Logs; this version sends none.
    Debug,
}

/// Nodes at which a run stops.
#[derive(Debug, Union)]
#[oai(one_of)]
pub(super) enum Stops {
    /// At every node of the graph.
    Every(Every),
    /// At these: by name, those of a called graph behind the node that calls it (`caller/inner`), `*` for all of a graph.
    Nodes(Vec<String>),
}

/// Every node of the graph.
#[derive(Debug, Clone, Copy, Enum)]
pub(super) enum Every {
    /// Every node.
    #[oai(rename = "*")]
    Node,
}

/// The fields of a body, and what is wrong with them.
#[derive(Debug)]
pub(super) struct Fields {
    /// Those that were not taken out.
    left: Map<String, Json>,
    wrong: Vec<ProblemAt>,
    /// The SHA-256 of the canonical body.
    pub(super) hash: String,
}

impl Fields {
    /// Takes a body apart that has only these fields.
    pub(super) fn of(body: Json, known: &[&str]) -> Result<Self, Problem> {
        let mut canonical = String::new();
        json::canonical(&body, &mut canonical);
        let Json::Object(fields) = body else {
            return Err(Problem::at(Code::InvalidRequest, "", expected("an object", &body)));
        };
        let mut all = Self { wrong: Vec::new(), hash: sha256_hex(canonical.as_bytes()), left: fields };
        let strange: Vec<String> =
            all.left.keys().filter(|name| !known.contains(&name.as_str())).cloned().collect();
        for name in strange {
            all.note(&format!("/{}", escape(&name)), unknown(&name, known));
        }
        Ok(all)
    }

    /// Takes a field out.
    pub(super) fn take(&mut self, name: &str) -> Option<Json> {
        self.left.remove(name)
    }

    /// Takes a field out that is an object.
    pub(super) fn object(&mut self, name: &str) -> Map<String, Json> {
        match self.take(name) {
            None => Map::new(),
            Some(Json::Object(object)) => object,
            Some(other) => self.add(&format!("/{name}"), expected("an object", &other)).unwrap_or_default(),
        }
    }

    /// Takes the groups of events out.
    pub(super) fn include(&mut self) -> Groups {
        let Some(list) = self.take("include") else { return Groups::default() };
        let Json::Array(items) = list else {
            return self.add("/include", expected("a list of groups", &list)).unwrap_or_default();
        };
        let mut names = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let at = format!("/include/{i}");
            match item.as_str().map(|name| (name, Groups::parse([name]))) {
                Some((name, Ok(_))) => names.push(name),
                Some((name, Err(_))) => self.note(&at, Groups::unknown(name)),
                None => self.note(&at, expected("the name of a group", item)),
            }
        }
        Groups::parse(names).unwrap_or_default()
    }

    /// Takes a text out that has a form.
    pub(super) fn parsed<T: FromStr + ToString>(&mut self, field: &str, due: &str) -> Option<T> {
        let at = format!("/{field}");
        match self.take(field)? {
            // In the one form that is also written, so that one thing has one name.
            Json::String(text) => match text.parse::<T>().ok().filter(|read| read.to_string() == text) {
                None => self.add(&at, format!("{due} is due here")),
                read => read,
            },
            other => self.add(&at, expected(due, &other)),
        }
    }

    /// Takes out where a run is to stop; nothing when neither field is there.
    pub(super) fn breakpoints(&mut self) -> Option<Breakpoints> {
        let (before, after) =
            (self.names("interrupt_before", Some("*")), self.names("interrupt_after", Some("*")));
        (before.is_some() || after.is_some())
            .then(|| Breakpoints { before: before.unwrap_or_default(), after: after.unwrap_or_default() })
    }

    /// Takes out when supersteps are stored.
    pub(super) fn durability(&mut self) -> Option<Durability> {
        let due = "`sync`, `async` or `exit`";
        match self.take("durability")? {
            Json::String(text) => {
                Durability::named(&text).or_else(|| self.add("/durability", format!("send {due}")))
            }
            other => self.add("/durability", expected(due, &other)),
        }
    }

    /// Takes out what is to come of a run besides.
    pub(super) fn wishes(&mut self) -> Wishes {
        let wanted = "`continue` or `cancel`";
        let needs_reader = match self.take("on_disconnect") {
            None => false,
            Some(Json::String(text)) if text == "continue" => false,
            Some(Json::String(text)) if text == "cancel" => true,
            Some(Json::String(_)) => self.add("/on_disconnect", format!("send {wanted}")).unwrap_or_default(),
            Some(other) => self.add("/on_disconnect", expected(wanted, &other)).unwrap_or_default(),
        };
        let webhook = match self.take("webhook") {
            None => None,
            Some(Json::String(text)) => Some(text),
            Some(other) => self.add("/webhook", expected("an address", &other)),
        };
        Wishes { needs_reader, webhook }
    }

    /// Takes a list of nodes out, in the place of which this text may stand.
    pub(super) fn names(&mut self, field: &str, or: Option<&str>) -> Option<Vec<String>> {
        let at = format!("/{field}");
        let items = match self.take(field)? {
            Json::String(text) if or == Some(text.as_str()) => return Some(vec![text]),
            Json::Array(items) if items.len() > MOST_NAMES => {
                return self.add(&at, format!("at most {MOST_NAMES} are taken, found {}", items.len()));
            }
            Json::Array(items) => items,
            other => {
                let due = if or.is_some() { "`*` or a list of nodes" } else { "a list of nodes" };
                return self.add(&at, expected(due, &other));
            }
        };
        let mut names = Vec::new();
        for (i, item) in items.into_iter().enumerate() {
            match item {
                Json::String(name) => names.push(name),
                other => self.note(&format!("{at}/{i}"), expected("the name of a node", &other)),
            }
        }
        Some(names)
    }

    /// Notes a mistake.
    pub(super) fn note(&mut self, pointer: &str, detail: impl Into<String>) {
        self.wrong.push(ProblemAt { pointer: pointer.to_owned(), detail: detail.into() });
    }

    /// Notes a mistake, in place of the value that is missing for it.
    pub(super) fn add<T>(&mut self, pointer: &str, detail: impl Into<String>) -> Option<T> {
        self.note(pointer, detail);
        None
    }

    /// Returns what was read, when nothing was wrong.
    pub(super) fn end<T>(self, read: Option<T>) -> Result<T, Problem> {
        match read {
            Some(read) if self.wrong.is_empty() => Ok(read),
            _ => Err(Problem::places(Code::InvalidRequest, self.wrong)),
        }
    }
}

/// Says what was due and what kind of value was found; never the value.
pub(super) fn expected(due: &str, found: &Json) -> String {
    format!("{due} is due here, not {}", kind(found))
}

fn unknown(name: &str, known: &[&str]) -> String {
    if ["tenant", "tenant_id", "user", "user_id", "owner"].contains(&name) {
        return "tenant and user come from authentication, never from a body".into();
    }
    match suggest(name, known.iter().copied()) {
        Some(field) => format!("there is no such field; did you mean `{field}`?"),
        None => format!("there is no such field; the fields are {}", known.join(", ")),
    }
}
