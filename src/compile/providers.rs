//! Builds chat models from their entries in `project.yaml`.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value as Json, json};

use super::custom::Unregistered;
use crate::diagnostic::Severity;
use crate::egress::{self, Client, Secret, Tape, Target};
use crate::failure::{ErrorKind, Failure};
use crate::model::anthropic::Anthropic;
use crate::model::demo::Demo;
use crate::model::lines::Lines;
use crate::model::openai::OpenAi;
use crate::model::scripted::{Entry, Scripted};
use crate::model::slots::Slots;
use crate::model::{ChatModel, Kind};
use crate::spec::{AnswerSpec, EntrySpec, ModelSpec};
use crate::tool::Tool;
use crate::tool::custom::Registry;
use crate::tool::http::{Caller, Request, Response};
use crate::tool::mcp;

/// Returns where a model is called; nothing for one that is not called over HTTP.
pub(super) fn url_of(spec: &ModelSpec) -> Option<&str> {
    let default = match spec.provider.value {
        "openai" => OpenAi::URL,
        "anthropic" => Anthropic::URL,
        _ => return None,
    };
    Some(spec.base_url.as_ref().map_or(default, |url| url.value.as_str()))
}

/// Returns what a model says by a script.
pub(crate) fn entry_of(spec: &EntrySpec) -> Entry {
    let words = |text: &str| Entry::chunks(text.split_inclusive(' ').collect::<Vec<_>>());
    let entry = match &spec.answer {
        // The check knows all names of kinds; what it does not know is no kind.
        AnswerSpec::Error(kind) => Entry::error(Kind::named(&kind.value).unwrap_or(Kind::Schema)),
        AnswerSpec::Text(text) => words(text),
        // What is no object is the field `value` of one, since providers take objects only.
        AnswerSpec::Output(value @ Json::Object(_)) => Entry::text(value.to_string()),
        AnswerSpec::Output(value) => Entry::text(json!({"value": value}).to_string()),
        AnswerSpec::Calls(text, calls) => words(text.as_deref().unwrap_or_default()).and_calls(calls.clone()),
        AnswerSpec::Result(_) | AnswerSpec::Response { .. } => Entry::text(""),
    };
    entry.after(spec.after.unwrap_or_default())
}

/// Finds a secret by its name.
type Secrets = Box<dyn Fn(&str) -> Option<Secret> + Send + Sync>;
/// The same, shared by all clones.
type SharedSecrets = Arc<dyn Fn(&str) -> Option<Secret> + Send + Sync>;
/// Finds a setting by its name.
type Settings = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;
/// The same, shared by all clones.
type SharedSettings = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What compiling needs from outside: the HTTP client of the models, and their secrets. Cheap to clone.
#[derive(Clone)]
pub struct Providers {
    client: Client,
    secrets: Option<SharedSecrets>,
    settings: Option<SharedSettings>,
    /// Sends requests in the place of the client.
    caller: Option<Arc<dyn Caller>>,
    /// What the host program has registered; nothing where no program and no file tells of it.
    registry: Option<Registry>,
    /// Is called in the place of what is registered.
    function: Option<Arc<dyn Tool>>,
    /// What a missing secret is.
    missing: Severity,
    /// Stands in the place of every model.
    stand_in: Option<Arc<dyn ChatModel>>,
    /// The MCP servers that are connected.
    mcp: mcp::Servers,
    /// How many calls of models are made at once; nothing where any number may be.
    slots: Option<Slots>,
}

/// Sends no request.
#[derive(Debug)]
struct Nobody;

#[async_trait]
impl Caller for Nobody {
    async fn send(&self, from: &str, _request: Request) -> Result<Response, Failure> {
        Err(Failure::new(ErrorKind::Failed, format!("no script answers the request of `{from}`")))
    }
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Providers").finish_non_exhaustive()
    }
}

impl Providers {
    /// Builds models whose secrets must be there.
    pub fn new(secrets: Secrets) -> Result<Self, egress::Error> {
        Ok(Self {
            client: Client::new(egress::Settings::default()),
            secrets: Some(Arc::from(secrets)),
            settings: None,
            caller: None,
            registry: None,
            function: None,
            missing: Severity::Error,
            stand_in: None,
            mcp: mcp::Servers::default(),
            slots: None,
        })
    }

    /// Builds models to look at, not to call: a missing secret is a warning.
    pub fn lenient(secrets: Secrets) -> Result<Self, egress::Error> {
        Ok(Self { missing: Severity::Warning, ..Self::new(secrets)? })
    }

    /// Builds models without looking for secrets.
    pub fn without_secrets() -> Result<Self, egress::Error> {
        let client = Client::new(egress::Settings::default());
        Ok(Self {
            client,
            secrets: None,
            settings: None,
            caller: None,
            registry: None,
            function: None,
            missing: Severity::Warning,
            stand_in: None,
            mcp: mcp::Servers::default(),
            slots: None,
        })
    }

    /// Puts a script in the place of every model.
    pub fn scripted(script: Scripted) -> Result<Self, egress::Error> {
        Self::stand_in(Arc::new(script))
    }

    /// Puts one model in the place of every model.
    pub fn stand_in(model: Arc<dyn ChatModel>) -> Result<Self, egress::Error> {
        Ok(Self { stand_in: Some(model), ..Self::without_secrets()? })
    }

    /// Takes the settings of projects from the environment.
    #[must_use]
    pub fn with_settings(self, settings: Settings) -> Self {
        Self { settings: Some(Arc::from(settings)), ..self }
    }

    /// Puts somebody in the place of the world, to whom all requests of nodes and tools go.
    #[must_use]
    pub fn with_caller(self, caller: Arc<dyn Caller>) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// Takes what the host program has registered.
    #[must_use]
    pub fn with_registry(self, registry: Option<Registry>) -> Self {
        Self { registry, ..self }
    }

    /// Puts somebody in the place of all that is registered.
    #[must_use]
    pub fn with_function(self, function: Arc<dyn Tool>) -> Self {
        Self { function: Some(function), ..self }
    }

    /// Bounds how many calls of models are made at once.
    #[must_use]
    pub fn with_slots(self, slots: Slots) -> Self {
        Self { slots: Some(slots), ..self }
    }

    /// Lets requests go to hosts that are not public, which the operator names.
    #[must_use]
    pub fn with_private(self, allowed: Vec<Target>) -> Self {
        let client = allowed.into_iter().fold(self.client, |client, target| client.allowing(target));
        Self { client, ..self }
    }

    /// Records all calls of models, nodes and tools, or plays them from a tape. Secrets are kept out of it.
    #[must_use]
    pub fn taped(self, tape: Tape) -> Self {
        let secrets = self.secrets.map(|secrets| {
            let tape = tape.clone();
            let hiding = move |name: &str| secrets(name).inspect(|secret| tape.hide(secret));
            Arc::new(hiding) as SharedSecrets
        });
        Self { client: self.client.taped(tape), secrets, ..self }
    }

    /// Returns who sends the requests of nodes and tools, to these ports besides the usual ones. Beside a model that
    /// stands in, nobody does.
    pub(super) fn caller(&self, ports: impl IntoIterator<Item = Target>) -> Arc<dyn Caller> {
        match (&self.caller, &self.stand_in) {
            (Some(caller), _) => Arc::clone(caller),
            (None, None) => Arc::new(self.client.listing(ports)),
            (None, Some(_)) => Arc::new(Nobody),
        }
    }

    /// Returns what the host program has registered.
    pub(super) fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Returns what is called for a registered name. Beside a model that stands in, nothing is.
    pub(super) fn function(&self, name: &str, registered: Option<&Arc<dyn Tool>>) -> Arc<dyn Tool> {
        let own = registered.filter(|_| self.stand_in.is_none());
        self.function
            .as_ref()
            .or(own)
            .map_or_else(|| Arc::new(Unregistered(name.to_owned())) as _, Arc::clone)
    }

    /// Returns why requests to a target would be refused, and how much that weighs: nothing where nobody looks, or where
    /// none is sent.
    pub(super) fn private(&self, target: &Target) -> Option<(&'static str, Severity)> {
        let severity = self.missing().filter(|_| self.caller.is_none() && self.stand_in.is_none())?;
        Some((self.client.private(target)?, severity))
    }

    /// Makes the clients, so that no first call waits for that within its own time.
    pub fn prepare(&self) -> Result<(), egress::Error> {
        self.client.prepare()
    }

    /// Closes the connections with MCP servers.
    pub async fn close(&self) {
        self.mcp.close().await;
    }

    /// Returns the client of models and servers.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Says whether scripts stand in the place of the world.
    pub(super) fn is_scripted(&self) -> bool {
        self.stand_in.is_some()
    }

    /// Returns the MCP servers that are connected.
    pub(super) fn mcp(&self) -> &mcp::Servers {
        &self.mcp
    }

    /// Returns a setting of the environment.
    pub(super) fn setting(&self, name: &str) -> Option<String> {
        self.settings.as_ref()?(name)
    }

    /// Returns how much it weighs when something is missing; nothing where nobody looks.
    pub(super) fn missing(&self) -> Option<Severity> {
        self.secrets.is_some().then_some(self.missing)
    }

    /// The same for a setting. Where scripts stand in for models it is needed as well.
    pub(super) fn missing_setting(&self) -> Option<Severity> {
        self.missing().or(self.stand_in.as_ref().map(|_| Severity::Warning))
    }

    /// Says whether what is missing keeps a graph from running.
    pub(super) fn is_strict(&self) -> bool {
        self.missing == Severity::Error
    }

    /// Returns a secret, or how much its absence weighs.
    pub(super) fn secret(&self, name: &str) -> Result<Option<Secret>, Severity> {
        match &self.secrets {
            None => Ok(None),
            Some(secrets) => secrets(name).map(Some).ok_or(self.missing),
        }
    }

    /// Builds a model; the provider's name is known to be one of these.
    pub(super) fn model(
        &self,
        spec: &ModelSpec,
        key: Option<Secret>,
    ) -> Result<Arc<dyn ChatModel>, egress::Error> {
        if let Some(model) = &self.stand_in {
            return Ok(Arc::clone(model));
        }
        let Some(url) = url_of(spec) else {
            let lines = spec.script.iter().map(|line| (line.contains.clone(), entry_of(&line.entry)));
            return Ok(match spec.provider.value {
                "scripted" => Arc::new(Lines::new(lines)),
                _ => Arc::new(Demo::default()),
            });
        };
        let model = spec.model.clone().unwrap_or_default();
        let schemas = spec.supports.as_ref().is_none_or(|words| words.contains(&"json_schema"));
        Ok(match spec.provider.value {
            "anthropic" => self.limited(url, Anthropic::new(&self.client, url, model, key, schemas)?),
            _ => self.limited(url, OpenAi::new(&self.client, url, model, key, schemas)?),
        })
    }

    fn limited(&self, url: &str, model: impl ChatModel) -> Arc<dyn ChatModel> {
        match &self.slots {
            Some(slots) => Arc::new(slots.around(url, model)),
            None => Arc::new(model),
        }
    }
}
