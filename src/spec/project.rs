//! project.yaml as written.

use std::time::Duration;

use super::fields::Fields;
use super::grammar;
use super::graph::{ANY, LimitsSpec, TimeoutSpec};
use super::llm::ParamsSpec;
use super::mcp::McpSpec;
use super::reader::Reader;
use super::test::EntrySpec;
use super::tool::{EnvSpec, HostSpec, ToolSpec};
use super::tree::{Node, Tree};
use super::types::TypeSpec;
use crate::diagnostic::{Diagnostic, FileId, Span, Spanned};

/// What all graphs of a folder share.
#[derive(Debug, Clone, Default)]
pub struct Project {
    /// The file, when there is one.
    pub file: Option<FileId>,
    /// The whole tree, for the version hash.
    pub tree: Option<Node>,
    /// The chat models.
    pub models: Vec<(Spanned<String>, ModelSpec)>,
    /// Names of models whose body cannot be read.
    pub broken_models: Vec<String>,
    /// The model of nodes that name none.
    pub default_model: Option<Spanned<String>>,
    /// The retry policies.
    pub retries: Vec<(Spanned<String>, RetrySpec)>,
    /// Named types: records or descriptors.
    pub types: Vec<(Spanned<String>, TypeSpec)>,
    /// The tools.
    pub tools: Vec<(Spanned<String>, ToolSpec)>,
    /// Names of tools that are there but cannot be read.
    pub broken_tools: Vec<String>,
    /// The MCP servers.
    pub mcp: Vec<(Spanned<String>, McpSpec)>,
    /// Names of MCP servers that are there but cannot be read.
    pub broken_mcp: Vec<String>,
    /// Where requests may go.
    pub hosts: Vec<HostSpec>,
    /// A host cannot be read: one that is not listed may be it.
    pub broken_hosts: bool,
    /// The place of the word `hosts`.
    pub hosts_key: Option<Span>,
    /// Where secrets may go.
    pub secrets: Vec<(Spanned<String>, Vec<HostSpec>)>,
    /// The settings.
    pub env: Vec<(Spanned<String>, EnvSpec)>,
    /// Names of settings that are there but cannot be read.
    pub broken_env: Vec<String>,
    /// What stops runs of graphs that do not say otherwise.
    pub limits: LimitsSpec,
    /// How long what is over is kept.
    pub retention: RetentionSpec,
    /// Codes that are silenced in this file.
    pub allow: Vec<String>,
    /// Names of types and retry policies that are there but cannot be read.
    pub broken: Vec<String>,
    /// A part of the file cannot be read: an unknown name may be declared there.
    pub unsure: bool,
}

/// How long what is over is kept; for ever where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionSpec {
    /// Checkpoints that no thread stands on.
    pub checkpoints: Option<Duration>,
    /// Events of runs.
    pub events: Option<Duration>,
    /// Notes of acts.
    pub audit: Option<Duration>,
}

/// A chat model.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// `openai`, `anthropic`, `demo` or `scripted`.
    pub provider: Spanned<&'static str>,
    /// The provider's name of the model.
    pub model: Option<String>,
    /// Where an OpenAI-compatible server listens.
    pub base_url: Option<Spanned<String>>,
    /// The name of the secret with the key.
    pub api_key: Option<Spanned<String>>,
    /// What it can do besides text; nothing where that is not said.
    pub supports: Option<Vec<&'static str>>,
    /// Parameters of every call.
    pub params: ParamsSpec,
    /// How long it may be silent.
    pub timeout: TimeoutSpec,
    /// The name of a retry policy.
    pub retry: Option<Spanned<String>>,
    /// The models that stand in for it, in order.
    pub fallback: Vec<Spanned<String>>,
    /// What its tokens cost.
    pub price: Option<PriceSpec>,
    /// What a `scripted` one says.
    pub script: Vec<LineSpec>,
}

/// A line of a scripted model.
#[derive(Debug, Clone)]
pub struct LineSpec {
    /// What was said last has this in it.
    pub contains: Option<String>,
    /// What it says.
    pub entry: EntrySpec,
}

/// What tokens cost, in US dollars for a million.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PriceSpec {
    /// Of prompts.
    pub input: f64,
    /// Of answers.
    pub output: f64,
    /// Of prompts in the provider's cache.
    pub cache_read: Option<f64>,
    /// Of prompts that it puts there.
    pub cache_write: Option<f64>,
}

/// A retry policy.
#[derive(Debug, Clone)]
pub struct RetrySpec {
    /// The most attempts, the first one included.
    pub attempts: u64,
    /// The longest wait before the second attempt.
    pub first: Option<Duration>,
    /// By what the wait grows.
    pub factor: Option<f64>,
    /// The longest wait before any attempt.
    pub max: Option<Duration>,
    /// The error kinds that are tried again.
    pub kinds: Vec<Spanned<String>>,
}

impl Project {
    /// Notes that the file cannot be read: whatever is named may be declared there.
    pub(super) fn unread(&mut self) {
        self.unsure = true;
        self.broken_env.push(ANY.to_owned());
    }
}

impl Reader<'_> {
    /// Reads project.yaml.
    pub(super) fn project(&mut self, file: FileId, tree: Node) -> Project {
        let top = Span { file, start: 0, end: 0 };
        let mut project = Project { file: Some(file), ..Project::default() };
        if let Some(mut fields) = self.fields(&tree, &grammar::PROJECT, "the project") {
            self.format(&mut fields, top);
            let sections = ["models", "default_model", "retries", "types", "tools", "mcp", "env"];
            let broken = |fields: &Fields<'_>, key: &str| match (key, fields.look(key)) {
                (_, None) => false,
                ("default_model", Some(node)) => node.as_str().is_none(),
                (_, Some(node)) => !matches!(node.tree, Tree::Map(_)),
            };
            if fields.is_odd() && fields.look("env").is_none() {
                project.broken_env.push(ANY.to_owned());
            }
            project.unsure = fields.is_odd() || sections.iter().any(|key| broken(&fields, key));
            for (name, node) in fields.take("models").map(|n| self.names(n, "models")).unwrap_or_default() {
                let fits = self.identifier(&name, "a model");
                match self.model(&name, node) {
                    Some(model) if fits => project.models.push((name, model)),
                    _ => Self::broken(name.value, &mut project.broken_models),
                }
            }
            project.default_model =
                fields.take("default_model").and_then(|n| self.name(n, "the name of a model"));
            for (name, node) in
                fields.take("retries").map(|n| self.names(n, "retry policies")).unwrap_or_default()
            {
                let fits = self.identifier(&name, "a retry policy");
                match self.retry(&name, node) {
                    Some(retry) if fits => project.retries.push((name, retry)),
                    _ => Self::broken(name.value, &mut project.broken),
                }
            }
            if let Some(types) = fields.take("types") {
                project.types = self.typed(types, "a type", false, &mut project.broken);
            }
            self.outside(&mut fields, &mut project);
            project.limits = fields.take("limits").map(|node| self.limits(node)).unwrap_or_default();
            if let Some(node) = fields.take("retention") {
                project.retention = self.retention(node);
            }
            project.allow = self.allow(fields.take("allow"));
            fields.finish(self, |_| None);
        } else {
            project.unread();
        }
        project.tree = Some(tree);
        project
    }

    /// Checks the name of a type.
    pub(super) fn type_name(&mut self, name: &Spanned<String>) -> bool {
        let text = name.value.as_str();
        let fits = text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_alphanumeric());
        if !fits {
            let finding = Diagnostic::error(
                "G106",
                format!("`{text}` cannot be the name of a type"),
                name.span,
                "a type is A-Z, then letters and digits",
            );
            self.bag.report(finding.help("write it like `Triage`"));
        }
        fits
    }

    fn model(&mut self, name: &Spanned<String>, node: &Node) -> Option<ModelSpec> {
        let mut fields = self.fields(node, &grammar::MODEL, format!("model `{}`", name.value))?;
        let provider = fields.require(self, "provider", "provider: openai", name.span);
        let provider =
            provider.and_then(|node| self.word(node, &["openai", "anthropic", "demo", "scripted"]));
        let model = fields.take("model").and_then(|node| self.text(node, "the provider's name of a model"));
        let base_url = fields.take("base_url").and_then(|node| self.url(node));
        let api_key = fields.take("api_key").and_then(|node| self.secret(node));
        let params = self.params(&mut fields);
        let supports = fields.take("supports").map(|node| {
            let words = self.list(node, "words").iter();
            words
                .filter_map(|item| self.word(item, &["tools", "json_schema", "images"]))
                .map(|word| word.value)
                .collect()
        });
        let timeout = fields.take("timeout").map(|node| self.timeout(node)).unwrap_or_default();
        let retry = fields.take("retry").and_then(|node| self.name(node, "the name of a retry policy"));
        let fallback = fields.take("fallback").map(|node| {
            let items = self.filled(node, "names of models");
            items.iter().filter_map(|item| self.name(item, "the name of a model")).collect()
        });
        let price = fields.take_entry("price").and_then(|(at, node)| self.price(at, node));
        let script = fields.take_entry("script").map(|(at, node)| (at, self.lines(node)));
        let odd = fields.is_odd();
        fields.finish(self, |_| None);
        let provider = provider?;
        let script = match (provider.value, script) {
            ("scripted", Some((_, lines))) => lines?,
            ("scripted", None) => {
                if !odd {
                    let message = "a `scripted` model needs `script`";
                    let finding = Diagnostic::error("G104", message, name.span, "`script` is missing");
                    self.bag.report(finding.help("write  script: [{text: Hello}]"));
                }
                return None;
            }
            (_, Some((at, _))) => {
                let finding = Diagnostic::error(
                    "G105",
                    "only a `scripted` model has a `script`",
                    at,
                    "nobody reads it",
                );
                self.bag.report(
                    finding
                        .related(provider.span, "the provider")
                        .help("remove it, or write  provider: scripted"),
                );
                return None;
            }
            (_, None) => Vec::new(),
        };
        if matches!(provider.value, "openai" | "anthropic") && model.is_none() {
            if !odd {
                let (message, help) = match provider.value {
                    "openai" => ("an `openai` model needs `model`", "write  model: gpt-5"),
                    _ => ("an `anthropic` model needs `model`", "write  model: claude-sonnet-5"),
                };
                let finding = Diagnostic::error("G104", message, name.span, "`model` is missing");
                self.bag.report(finding.help(help));
            }
            return None;
        }
        let model = model.map(|text| text.value);
        let fallback = fallback.unwrap_or_default();
        Some(ModelSpec {
            provider,
            model,
            base_url,
            api_key,
            supports,
            params,
            timeout,
            retry,
            fallback,
            price,
            script,
        })
    }

    /// Reads what a scripted model says.
    fn lines(&mut self, node: &Node) -> Option<Vec<LineSpec>> {
        let lines: Vec<Option<LineSpec>> =
            self.filled(node, "lines").iter().map(|line| self.line(line)).collect();
        lines.into_iter().collect::<Option<Vec<_>>>().filter(|lines| !lines.is_empty())
    }

    fn line(&mut self, node: &Node) -> Option<LineSpec> {
        let mut fields = self.fields(node, &grammar::LINE, "a line")?;
        let odd = fields.is_odd();
        if !odd && !["text", "output", "calls", "error"].iter().any(|key| fields.look(key).is_some()) {
            let message = "a line needs `text`, `output`, `calls` or `error`";
            let finding = Diagnostic::error("G104", message, node.span, "says nothing");
            self.bag.report(finding.help("write  {text: Hello}"));
            return None;
        }
        let contains = fields.take("contains").map(|node| self.text(node, "a text"));
        let mut entry = node.clone();
        if let Tree::Map(entries) = &mut entry.tree {
            entries.retain(|(key, _)| key.as_str() != Some("contains"));
        }
        for key in ["text", "output", "calls", "error", "after"] {
            fields.take(key);
        }
        fields.finish(self, |_| None);
        if odd {
            return None;
        }
        let entry = self.entry(&entry)?;
        let contains = match contains {
            Some(text) => Some(text?.value),
            None => None,
        };
        Some(LineSpec { contains, entry })
    }

    /// Reads what tokens cost.
    fn price(&mut self, at: Span, node: &Node) -> Option<PriceSpec> {
        let mut fields = self.fields(node, &grammar::PRICE, "the price")?;
        let input = fields.require(self, "input", "input: 3", at);
        let output = fields.require(self, "output", "output: 15", at);
        let mut amount =
            |node: Option<&Node>| node.and_then(|node| self.amount(node)).map(|amount| amount.value);
        let (input, output) = (amount(input), amount(output));
        let cache_read = amount(fields.take("cache_read"));
        let cache_write = amount(fields.take("cache_write"));
        fields.finish(self, |_| None);
        Some(PriceSpec { input: input?, output: output?, cache_read, cache_write })
    }

    /// Reads the address of a model, which is fixed.
    fn url(&mut self, node: &Node) -> Option<Spanned<String>> {
        let text = self.text(node, "a URL")?;
        if text.value.contains("{{") || text.value.contains("${") {
            let message = "the address of a model is fixed";
            let finding = Diagnostic::error("M510", message, text.span, "nothing is filled in here");
            self.bag.report(finding.help("write the whole URL, like  https://api.openai.com/v1"));
            return None;
        }
        Some(Spanned { value: text.value, span: text.span })
    }

    /// Reads an error kind; a status alone is one of them.
    fn error_kind(&mut self, node: &Node) -> Option<Spanned<String>> {
        if let Tree::Int(status) = node.tree {
            let message = format!("unknown error kind `{status}`");
            let finding = Diagnostic::error("M513", message, node.span, "no error has this kind");
            self.bag.report(finding.help(format!("write `http_{status}`")));
            return None;
        }
        self.name(node, "an error kind")
    }

    /// Reads by what the wait grows.
    fn factor(&mut self, node: &Node) -> Option<f64> {
        let factor = self.number(node)?;
        if factor.value >= 1.0 {
            return Some(factor.value);
        }
        let finding = Diagnostic::error("G105", "a factor below 1", factor.span, "the wait would shrink");
        self.bag.report(finding.help("write 1 for waits of one length, 2 to double them"));
        None
    }

    fn retention(&mut self, node: &Node) -> RetentionSpec {
        let Some(mut fields) = self.fields(node, &grammar::RETENTION, "`retention`") else {
            return RetentionSpec::default();
        };
        let spec = RetentionSpec {
            checkpoints: fields.take("checkpoints").and_then(|node| self.time(node)),
            events: fields.take("events").and_then(|node| self.time(node)),
            audit: fields.take("audit").and_then(|node| self.time(node)),
        };
        fields.finish(self, |_| None);
        spec
    }

    fn retry(&mut self, name: &Spanned<String>, node: &Node) -> Option<RetrySpec> {
        let mut fields = self.fields(node, &grammar::RETRY, format!("retry policy `{}`", name.value))?;
        let attempts = fields.require(self, "attempts", "attempts: 3", name.span);
        let attempts = attempts.and_then(|node| self.count(node, 1));
        let spec = (
            fields.take("first").and_then(|node| self.duration(node)),
            fields.take("factor").and_then(|node| self.factor(node)),
            fields.take("max").and_then(|node| self.duration(node)),
        );
        let kinds =
            fields.require(self, "for", "for: [timeout, rate_limit, server_error, connection]", name.span);
        let kinds = kinds.map(|node| {
            let items = self.list(node, "error kinds");
            items.iter().filter_map(|item| self.error_kind(item)).collect()
        });
        fields.finish(self, |_| None);
        let (first, factor, max) = spec;
        Some(RetrySpec { attempts: attempts?.value, first, factor, max, kinds: kinds? })
    }
}
