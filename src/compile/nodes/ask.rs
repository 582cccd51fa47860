//! `ask`: a question to a person.

use super::{AskDraft, Body, Gives, Scene, Step, rules_of, taken_type};
use crate::compile::prompts::Prompts;
use crate::diagnostic::{Bag, Diagnostic, Span, Spanned};
use crate::plan::{Form, OnMessage};
use crate::spec::AskSpec;
use crate::state::Type;

impl Scene<'_> {
    pub(super) fn ask(
        &mut self,
        step: &Step<'_>,
        ask: &AskSpec,
        prompts: &mut Prompts,
        bag: &mut Bag,
    ) -> (Option<Body>, Gives) {
        let agent = ask.who.as_ref().is_some_and(|who| who.value == "agent");
        let messages = if agent {
            Some(None)
        } else {
            self.conversation("a question to the user", step.kind.span, bag).map(Some)
        };
        let question = ask.question.as_ref().and_then(|text| self.text(step, "question", text, prompts, bag));
        let mut fine = true;
        if agent && !step.taken && !step.partial {
            let message = format!("nobody takes the answer of `{}`", step.name.value);
            let finding = Diagnostic::error("G221", message, step.name.span, "`into` is missing");
            bag.report(
                finding.help("an agent's answer is no turn of the conversation: add  into: <channel>"),
            );
            fine = false;
        }
        let timeout = match (&ask.timeout, &ask.on_timeout) {
            (Some((_, time)), Some(to)) => match self.edges.target(to, bag) {
                Some(to) => Some((*time, to)),
                None => {
                    fine = false;
                    None
                }
            },
            (None, None) => None,
            (Some((at, _)), None) => {
                fine = false;
                half(step, *at, "timeout", "on_timeout", bag);
                None
            }
            (None, Some(to)) => {
                fine = false;
                half(step, to.span, "on_timeout", "timeout", bag);
                None
            }
        };
        let form = match (&ask.options, &ask.schema) {
            (Some((_, options)), _) => {
                Some(Form::Options(options.iter().map(|option| option.value.clone()).collect()))
            }
            (None, Some((_, spec))) => self.shared.types.field(spec, bag).map(|field| Form::Type(field.ty)),
            // An answer that the channel would not take is refused to the one who gives it.
            (None, None) => Some(self.held(step).map_or(Form::Text, Form::Type)),
        };
        let gives = match &form {
            Some(Form::Options(options)) => Gives::of(Type::Enum(options.clone()), "the answer"),
            Some(Form::Type(ty)) => Gives::of(ty.clone(), "the answer"),
            // What cannot be read may be what it is.
            Some(Form::Text) if step.partial => Gives::unknown(),
            Some(Form::Text) => Gives::of(Type::STRING, "the answer"),
            None => Gives::unknown(),
        };
        if let (Some((at, options)), Some(channel)) = (&ask.options, step.channel) {
            fine &= self.options_fit(*at, options, channel, bag);
        }
        let on_message = match ask.on_message.as_ref().map(|word| word.value) {
            Some("answer") => OnMessage::Answer,
            Some("refuse") => OnMessage::Refuse,
            Some("restart") => OnMessage::Restart,
            _ if agent => OnMessage::Refuse,
            _ => OnMessage::Answer,
        };
        let draft =
            || Some(AskDraft { question: question?, messages: messages?, form: form?, timeout, on_message });
        let body = draft().filter(|_| fine).map(Body::Ask);
        (body, gives)
    }

    /// Returns the type of the texts that the channel of an answer takes, if it has rules for them.
    fn held(&self, step: &Step<'_>) -> Option<Type> {
        let due = taken_type(self.channels.get(&step.channel?.value)?);
        (matches!(due, Type::String { .. }) && rules_of(&due).is_some()).then_some(due)
    }

    /// Holds the answers that there are against the channel that takes one.
    fn options_fit(
        &self,
        at: Span,
        options: &[Spanned<String>],
        channel: &Spanned<String>,
        bag: &mut Bag,
    ) -> bool {
        let Some(target) = self.channels.get(&channel.value).filter(|_| !bag.is_trusting()) else {
            return true;
        };
        let ty = taken_type(target);
        let declared = self.names.declared(&format!("state.{}", channel.value));
        let told = |finding: Diagnostic| match declared {
            Some(declared) => finding.related(declared, format!("`{}` holds {ty}", channel.value)),
            None => finding,
        };
        match &ty {
            Type::Any => true,
            Type::String { .. } => {
                let mut fine = true;
                for option in options {
                    if let Err(wrong) = ty.check(&option.value.clone().into()) {
                        let message =
                            format!("the answer `{}` does not fit `{}`", option.value, channel.value);
                        bag.report(told(Diagnostic::error("M512", message, option.span, wrong.why)));
                        fine = false;
                    }
                }
                fine
            }
            Type::Enum(values) => {
                let odd = options.iter().filter(|option| !values.contains(&option.value));
                let odd: Vec<_> = odd.collect();
                for option in &odd {
                    let message = format!("the answer `{}` does not fit `{}`", option.value, channel.value);
                    let finding =
                        Diagnostic::error("M512", message, option.span, "not a value of the channel");
                    let near =
                        crate::diagnostic::did_you_mean(&option.value, values.iter().map(String::as_str));
                    bag.report(told(finding).help_maybe(near));
                }
                odd.is_empty()
            }
            _ => {
                let message = format!("the answers do not fit `{}`", channel.value);
                let finding = Diagnostic::error("M512", message, at, "these are texts");
                let help = "take a channel of texts, or write  schema:  with the type of the answer";
                bag.report(told(finding).help(help));
                false
            }
        }
    }
}

/// Reports one of two keys that belong together.
fn half(step: &Step<'_>, at: Span, has: &str, lacks: &str, bag: &mut Bag) {
    if step.partial {
        return;
    }
    let message = format!("node `{}` has `{has}` but no `{lacks}`", step.name.value);
    let finding = Diagnostic::error("G206", message, at, format!("`{lacks}` is missing"));
    bag.report(finding.help(match lacks {
        "timeout" => "add  timeout: 2d",
        _ => "add  on_timeout: <node>",
    }));
}
