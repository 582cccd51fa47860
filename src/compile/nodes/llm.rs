//! `llm` nodes: prompt, history, model, parameters, and where the answer goes.

use std::sync::Arc;
use std::time::Duration;

use super::misfit::misfit;
use super::turns::{check_images, check_order};
use super::words::check_words;
use super::{Gives, LlmDraft, Model, Scene, Step};
use crate::compile::models::{JsonBy, all_fit, chain};
use crate::compile::prompts::{Part, Prompt, Prompts};
use crate::diagnostic::{Bag, Diagnostic, Severity, Span, Spanned, UNTAKEN, did_you_mean};
use crate::expr::{Expr, ExprTree, Facts, Typed};
use crate::model::{MAX_TOOL_NAME, OutputSchema, Params, Role, Timeouts, wire_name};
use crate::node::{Bind, Clip, Link, Output, Piece};
use crate::spec::{HistorySpec, LlmSpec, ParamsSpec, TimeoutSpec};
use crate::state::Type;

/// How often a model may ask for tools where nothing is said.
const TOOL_ROUNDS: u64 = 8;

/// The bag says what is wrong.
struct Reported;

impl Scene<'_> {
    pub(super) fn llm(
        &mut self,
        step: &Step<'_>,
        llm: &LlmSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> (Option<LlmDraft>, Gives) {
        let name = step.name;
        let replies = llm.reply.as_ref().is_some_and(|reply| reply.value);
        if let (Some((at, _)), false) = (&llm.output, step.taken || step.partial) {
            let message = format!("nobody takes the output of `{}`", name.value);
            let finding = Diagnostic::error("G221", message, *at, "`into` is missing");
            bag.report(finding.help("add  into: <channel>  to keep it"));
        } else if !step.taken && !replies && !step.partial {
            let message = format!("nobody takes the answer of `{}`", name.value);
            let (label, help) = if step.item {
                ("the list goes nowhere", "add  into: <channel>  beside `over`")
            } else {
                ("neither `reply` nor `into`", "add  reply: true  to say it, or  into: <channel>  to keep it")
            };
            bag.report(Diagnostic::error("G221", message, name.span, label).help(help));
        }
        let model = self.model(llm, step, bag);
        let output = self.output(name, llm, model.as_ref(), bag);
        let gives = match &output {
            // Perhaps `output` is what is wrong with it.
            Ok(None) if step.partial => Gives::unknown(),
            Ok(None) => Gives::of(Type::STRING, "the answer of a model"),
            Ok(Some(output)) => Gives::of(output.ty.clone(), "the output"),
            // A type that cannot be read takes every channel.
            Err(Reported) => Gives::unknown(),
        };
        if let (Some((at, _)), Ok(Some(output))) = (&llm.output, &output) {
            let file = llm.prompt.as_ref().and_then(|wanted| prompts.known(&wanted.value));
            if let Some(prompt) = file.map(|prompt| &prompt.body).or(llm.text.as_ref()) {
                check_words(&output.ty, *at, prompt, bag);
            }
        }
        let draft = self.asked(step, llm, model, output, prompts, bag);
        (draft, gives)
    }

    /// Checks what is sent to the model, and how.
    fn asked(
        &mut self,
        step: &Step<'_>,
        llm: &LlmSpec,
        model: Option<Model>,
        output: Result<Option<Output>, Reported>,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> Option<LlmDraft> {
        let name = step.name;
        let replies = llm.reply.as_ref().is_some_and(|reply| reply.value);
        let reply = match &llm.reply {
            Some(reply) if reply.value => Some(self.conversation("`reply`", reply.span, bag)),
            _ => None,
        };
        let due = output.as_ref().ok().and_then(Option::as_ref).map(|output| &output.ty);
        let tools = self.tools(llm, model.as_ref(), due, bag);
        let mut params = ParamsSpec::default();
        let prompted = if let Some(wanted) = &llm.prompt {
            let prompt = prompts.find(&wanted.value, wanted.span, bag);
            prompt.and_then(|prompt| {
                self.used.insert(format!("{}.md", wanted.value));
                self.used.extend(prompt.includes.iter().cloned());
                let binds = self.binds(wanted, llm, prompt, step.partial, bag).filter(|_| prompt.sound)?;
                let pieces = prompt
                    .parts
                    .iter()
                    .map(|part| self.piece(part, prompt.plain))
                    .collect::<Option<Vec<_>>>()?;
                Some((pieces, Some(binds)))
            })
        } else if let Some(text) = &llm.text {
            for (with, _) in &llm.with {
                let finding = Diagnostic::error("T304", "`with` without a prompt file", with.span, UNTAKEN);
                bag.report(finding.help("a `text` reads `state`, `input` and `run` itself"));
            }
            self.text(step, "text", text, prompts, bag).map(|template| {
                let pieces = match self.messages {
                    Some(channel) => {
                        vec![Piece::Turn(Role::System, template), Piece::Conversation(channel.to_owned())]
                    }
                    None => vec![Piece::Turn(Role::User, template)],
                };
                (pieces, None)
            })
        } else {
            None
        };
        if let Some(file) = llm.prompt.as_ref().and_then(|wanted| prompts.params(&wanted.value)) {
            params = file.clone();
        }
        let model = model?;
        let chain = chain(&model, self.shared.models);
        let fits = all_fit(&chain, &llm.params, bag) & all_fit(&chain, &params, bag);
        let links = chain.iter().map(|model| Link {
            name: model.name.value.clone(),
            model: Arc::clone(&model.chat),
            params: merge_params([&llm.params, &params, &model.params]),
            timeouts: timeouts(&[step.timeout, self.graph.defaults.timeout, model.timeout]),
            price: model.price,
            in_words: model.json == JsonBy::Words,
        });
        let links = links.collect();
        let sends = check_images(self.names, llm, &chain, bag);
        let (pieces, binds) = prompted?;
        let at = llm.prompt.as_ref().map(|prompt| prompt.span).or(llm.text.as_ref().map(|text| text.span));
        let fits = fits & sends & check_order(&pieces, at.unwrap_or(name.span), &chain, bag);
        if (!step.taken && !replies) || !tools || !fits {
            return None;
        }
        Some(LlmDraft {
            links,
            pieces,
            binds,
            clip: match llm.history {
                None => Clip::All,
                Some(HistorySpec::Last(n)) => Clip::Last(n as usize),
                Some(HistorySpec::Tokens(n)) => Clip::Tokens(n as usize),
            },
            output: output.ok()?,
            reply: match reply {
                Some(channel) => Some(channel?),
                None => None,
            },
            stream: llm.stream.as_ref().is_none_or(|stream| stream.value == "tokens"),
            max_rounds: llm.max_tool_rounds.as_ref().map_or(TOOL_ROUNDS, |rounds| rounds.value),
        })
    }

    /// Checks the tools that the model may call, and that what ends its work is of the type of its answer; false when
    /// something was reported, or is told elsewhere.
    fn tools(&self, llm: &LlmSpec, model: Option<&Model>, due: Option<&Type>, bag: &mut Bag) -> bool {
        let mut fine = true;
        for name in &llm.tools {
            self.shared.used_tools.borrow_mut().insert(name.value.clone());
            let tool = self.shared.tools.find(name, self.shared.project.unsure, bag);
            fine &= tool.is_some();
            if let (Some(tool), Some(due)) = (tool.filter(|tool| tool.is_final), due)
                && !due.accepts(&tool.result)
                && !bag.is_trusting()
            {
                let message = format!("`{}` ends the work with another type than `output`", name.value);
                let label = format!("its result is {}, the output is {due}", tool.result);
                let finding = Diagnostic::error("S403", message, name.span, label);
                let finding = match &llm.output {
                    Some((at, _)) => finding.related(*at, "the output is declared here"),
                    None => finding,
                };
                bag.report(finding.help("make both one type, or take `final: true` away from the tool"));
                fine = false;
            }
        }
        fine &= names_fit(&llm.tools, bag);
        let Some(model) = model else { return fine };
        let chain = chain(model, self.shared.models);
        let lacks = chain.iter().position(|model| !model.tools);
        if let (Some(first), Some(lacks)) = (llm.tools.first(), lacks) {
            let message = match lacks {
                0 => "the model calls no tools".to_owned(),
                nth => format!("`{}`, which stands in for the model, calls no tools", chain[nth].name.value),
            };
            let finding = Diagnostic::error("M508", message, first.span, "its `supports` lacks `tools`");
            bag.report(finding.help("choose another model, or add `tools` to its `supports`"));
            fine = false;
        } else if let (Some(first), Some((at, _)), true) =
            (llm.tools.first(), &llm.output, chain.iter().any(|model| model.json == JsonBy::Tool))
        {
            let message = "the model answers in JSON only by a tool of its own";
            let finding = Diagnostic::error("M508", message, first.span, "there can be no others beside it");
            let finding = finding.related(*at, "asks for JSON");
            bag.report(
                finding.help("choose another model, add `json_schema` to its `supports`, or use two nodes"),
            );
            fine = false;
        }
        fine
    }

    pub(super) fn piece(&self, part: &Part, plain: bool) -> Option<Piece> {
        Some(match part {
            // Without a conversation a prompt without roles is what the user would say.
            Part::Turn(Role::System, template) if plain && self.messages.is_none() => {
                Piece::Turn(Role::User, template.clone())
            }
            Part::Turn(role, template) => Piece::Turn(*role, template.clone()),
            Part::Messages(input) => Piece::Messages(ExprTree::Expr(Expr::parse(input).ok()?)),
            Part::Conversation => Piece::Conversation(self.messages.unwrap_or_default().to_owned()),
        })
    }

    pub(super) fn model(&self, llm: &LlmSpec, step: &Step<'_>, bag: &mut Bag) -> Option<Model> {
        let name = step.name;
        let Some(wanted) = self.model_name(llm) else {
            if self.shared.project.unsure || step.partial {
                return None;
            }
            if self.shared.unread.iter().any(|path| path == "project.yml") {
                bag.retract("G108", "project.yml");
                let message = format!("node `{}` has no model", name.value);
                let finding = Diagnostic::error("G104", message, name.span, "`model` is missing");
                bag.report(finding.help("project.yml is there: rename it to project.yaml"));
                return None;
            }
            self.shared.modelless.borrow_mut().push(name.clone());
            return None;
        };
        self.shared.used_models.borrow_mut().insert(wanted.value.clone());
        if let Some(model) = self.shared.models.get(&wanted.value) {
            let chain = chain(model, self.shared.models);
            self.shared.used_models.borrow_mut().extend(chain.iter().map(|model| model.name.value.clone()));
            return Some(model.clone());
        }
        // A wrong default is reported once, where it is written.
        let is_default = self.shared.default_model.is_some_and(|default| default.span == wanted.span);
        let broken = self.shared.project.unsure || self.shared.broken_models.contains(&wanted.value);
        if !broken && !is_default {
            let finding = Diagnostic::error(
                "M501",
                format!("unknown model `{}`", wanted.value),
                wanted.span,
                "project.yaml declares no such model",
            );
            bag.report(
                finding
                    .help_maybe(did_you_mean(&wanted.value, self.shared.models.keys().map(String::as_str))),
            );
        }
        None
    }

    /// Checks the type of an answer: it must not be said, and the provider must be able to express it.
    fn output(
        &self,
        name: &Spanned<String>,
        llm: &LlmSpec,
        model: Option<&Model>,
        bag: &mut Bag,
    ) -> Result<Option<Output>, Reported> {
        let Some((at, spec)) = &llm.output else { return Ok(None) };
        let ty = self.shared.types.field(spec, bag).ok_or(Reported)?.ty;
        if let Some(reply) = llm.reply.as_ref().filter(|reply| reply.value) {
            let message = "structured output is not said to the user";
            let finding = Diagnostic::error("G222", message, reply.span, "would show JSON");
            bag.report(
                finding.related(*at, "asks for JSON").help("keep it with `into`, and `say` a part of it"),
            );
            return Err(Reported);
        }
        let chain = model.map(|model| chain(model, self.shared.models)).unwrap_or_default();
        let schema = match ty.answer_schema() {
            Ok(schema) => schema,
            // A part of the type that cannot be read is told, and not what is made of it.
            Err(_) if self.shared.project.unsure || self.has_broken_types(spec.span(), bag) => {
                return Err(Reported);
            }
            Err(loose) => {
                let message = format!("no provider holds an answer to `{}`", loose.what);
                let label = match loose.path.join(".") {
                    path if path.is_empty() => "anything would fit".to_owned(),
                    path => format!("anything would fit `{path}`"),
                };
                let finding = Diagnostic::error("S411", message, spec.span(), label);
                bag.report(finding.help("write its fields out, or take a `string`"));
                return Err(Reported);
            }
        };
        if ty.is_recursive()
            && let Some(model) =
                chain.iter().find(|model| model.provider == "anthropic" && model.json == JsonBy::Schema)
        {
            let message = "the provider takes no type that contains itself";
            let label = format!("`{}` is a model of `{}`", model.name.value, model.provider);
            let finding = Diagnostic::error("S411", message, spec.span(), label);
            bag.report(finding.help(
                "leave `json_schema` out of its `supports`, so that it answers by the call of a tool, or take a type \
                 that is written out",
            ));
            return Err(Reported);
        }
        let wrapped = !matches!(ty, Type::Record(_));
        let bounded = ty.bounded_schema();
        let schema = Arc::new(OutputSchema { name: name.value.clone(), schema, bounded });
        Ok(Some(Output { ty, schema, wrapped }))
    }

    /// Says whether a type may be another one than it seems, because what declares it cannot be read.
    fn has_broken_types(&self, at: Span, bag: &Bag) -> bool {
        let here = |file| file == at.file || Some(file) == self.shared.project.file;
        let unread = |code: &str| code.starts_with('Y') || matches!(code, "G102" | "G105" | "G106" | "S409");
        bag.findings()
            .iter()
            .any(|f| f.severity == Severity::Error && here(f.label.span.file) && unread(f.code))
    }

    /// Finds a value for each input of a prompt: `with`, then a channel, then an input of the run, then its default.
    pub(super) fn binds(
        &self,
        prompt: &Spanned<String>,
        llm: &LlmSpec,
        wanted: &Prompt,
        partial: bool,
        bag: &mut Bag,
    ) -> Option<Vec<Bind>> {
        let inputs = &wanted.inputs;
        let inputs_at = |name: &str| wanted.names.declared(name);
        let mut fine = true;
        for (with, _) in llm.with.iter().filter(|(with, _)| !inputs.contains_key(&with.value)) {
            if wanted.names.lacks(&with.value) {
                continue;
            }
            let message = format!("prompt `{}` has no input `{}`", prompt.value, with.value);
            let finding = Diagnostic::error("T304", message, with.span, UNTAKEN);
            bag.report(finding.help_maybe(did_you_mean(&with.value, inputs.keys().map(String::as_str))));
            fine = false;
        }
        let mut binds = Vec::new();
        for (name, field) in inputs {
            let given = llm.with.iter().find(|(with, _)| with.value == *name);
            let (value, ty, span) = if let Some((with, spec)) = given {
                let Some(tree) = self.names.tree(spec, bag) else {
                    fine = false;
                    continue;
                };
                let ty = match &tree {
                    ExprTree::Const(value) => {
                        if let Err(mismatch) = field.ty.check(value) {
                            let message = format!("input `{name}` is {}", field.ty);
                            bag.report(Diagnostic::error("S403", message, with.span, mismatch.why));
                            fine = false;
                        }
                        None
                    }
                    tree => {
                        Some(self.names.type_of_tree(tree, &Facts::default())).filter(|typed| !typed.null)
                    }
                };
                let span = spec.span();
                (tree, ty.map(|typed| typed.ty), span)
            } else if let Some(channel) = self.channels.get(name) {
                (read("state", name)?, Some(channel.field.ty.clone()), prompt.span)
            } else if let Some(input) = self.input.get(name) {
                (read("input", name)?, Some(input.ty.clone()), prompt.span)
            } else if field.may_be_left_out() {
                (ExprTree::Const(field.default.clone().unwrap_or_default()), None, prompt.span)
            } else {
                // A `with` that nothing takes may be the one that is missing.
                let conversation = matches!(field.ty.non_null(), Type::Messages) && self.is_silent();
                if !self.is_broken(name) && fine && !conversation && !partial {
                    let message = format!("input `{name}` of prompt `{}` has no value", prompt.value);
                    let finding = Diagnostic::error(
                        "T303",
                        message,
                        prompt.span,
                        format!("no channel and no input is called `{name}`"),
                    );
                    self.names.miss(name, finding.help(format!("add  with: {{{name}: …}}")));
                }
                fine = false;
                continue;
            };
            // Whether it may be null here is a matter of the way that leads here: see `flow`.
            if let Some(ty) =
                ty.filter(|ty| !field.ty.non_null().accepts(ty.non_null()) && !bag.is_trusting())
            {
                let message = format!("input `{name}` of prompt `{}` is {}", prompt.value, field.ty);
                let typed = Typed::of(ty);
                let fits = |typed: &Typed| typed.null || field.ty.non_null().accepts(typed.ty.non_null());
                let (at, label) = match given {
                    Some((_, spec)) => misfit(self.names, spec, &typed, &field.ty, &fits),
                    None => {
                        let how = field.ty.differs(&typed.ty).map(|(_, how)| how);
                        (span, how.unwrap_or_else(|| format!("this is {typed}")))
                    }
                };
                let finding = Diagnostic::error("S403", message, at, label);
                bag.report(match inputs_at(name) {
                    Some(at) => finding.related(at, "the prompt declares it here"),
                    None => finding,
                });
                fine = false;
            }
            binds.push(Bind { name: name.clone(), value });
        }
        fine.then_some(binds)
    }
}

/// Checks that providers can tell the tools of a node apart by names that they take.
fn names_fit(tools: &[Spanned<String>], bag: &mut Bag) -> bool {
    let mut fine = true;
    for (n, tool) in tools.iter().enumerate() {
        let sent = wire_name(&tool.value);
        if sent.len() > MAX_TOOL_NAME && sent != tool.value {
            let message = "the name of a tool is too long for providers";
            let label = format!("`{sent}` has {} characters", sent.len());
            let finding = Diagnostic::error("M507", message, tool.span, label);
            bag.report(finding.help(format!("{MAX_TOOL_NAME} are taken: give its server a shorter name")));
            fine = false;
        }
        let same = |other: &&Spanned<String>| other.value != tool.value && wire_name(&other.value) == sent;
        if let Some(first) = tools[..n].iter().find(same) {
            let message = format!("to providers, two tools are called `{sent}`");
            let finding = Diagnostic::error("M507", message, tool.span, "the second one");
            bag.report(finding.related(first.span, "the first one").help("give one of them another name"));
            fine = false;
        }
    }
    fine
}

/// Merges parameters, the first that says something wins.
fn merge_params(layers: [&ParamsSpec; 3]) -> Params {
    let mut extra = serde_json::Map::new();
    for layer in layers.iter().rev() {
        extra.extend(layer.extra.clone());
    }
    Params {
        temperature: layers.iter().find_map(|p| p.temperature.as_ref()).map(|t| t.value),
        top_p: layers.iter().find_map(|p| p.top_p.as_ref()).map(|t| t.value),
        max_tokens: layers.iter().find_map(|p| p.max_tokens),
        seed: layers.iter().find_map(|p| p.seed.as_ref()).map(|seed| seed.value),
        stop: layers.iter().find(|p| !p.stop.is_empty()).map(|p| p.stop.clone()).unwrap_or_default(),
        reasoning_effort: layers.iter().find_map(|p| p.reasoning_effort.as_ref()).map(|e| e.value.clone()),
        extra,
    }
}

fn timeouts(layers: &[TimeoutSpec; 3]) -> Timeouts {
    let default = Timeouts::default();
    let pick = |of: fn(&TimeoutSpec) -> Option<Duration>, or| layers.iter().find_map(of).unwrap_or(or);
    Timeouts {
        first: pick(|t| t.first, default.first),
        idle: pick(|t| t.idle, default.idle),
        total: pick(|t| t.total, default.total),
    }
}

fn read(root: &str, name: &str) -> Option<ExprTree> {
    Expr::parse(&format!("{root}.{name}")).ok().map(ExprTree::Expr)
}
