//! Scripts of tests: whom they stand for, and whether what they answer fits.

use serde_json::Value as Json;

use super::places::Places;
use super::{Scene, check_value, known_node};
use crate::diagnostic::{Bag, Diagnostic, Spanned, did_you_mean, suggest};
use crate::model::Kind;
use crate::plan::{Ask, Job, Plan, ToolPlan, Work};
use crate::spec::{AnswerSpec, EntrySpec, ExpectSpec, PathSpec, ScriptSpec, caller_name};
use crate::state::Type;

/// Checks the script of a caller.
pub(super) fn check_script(scene: &Scene<'_>, expect: &ExpectSpec, script: &ScriptSpec, bag: &mut Bag) {
    let Scene { plan, case, places, .. } = scene;
    let name = &script.node;
    let Some(role) = role(plan, name, bag) else { return };
    for entry in &script.entries {
        let key = entry.answer.key();
        if !role.keys().contains(&key) {
            let message = format!("`{}` is no answer to {}", key, role.what());
            let at = places.key(entry.span, key).unwrap_or(entry.span);
            let finding = Diagnostic::error("M514", message, at, format!("`{}` calls it", name.value));
            let finding = places.of_node(finding, &name.value, "this node");
            let keys: Vec<String> = role.keys().iter().map(|key| format!("`{key}`")).collect();
            bag.report(finding.help(format!("it is answered by {}", keys.join(", "))));
        }
        check_fits(&role, name, entry, *places, bag);
    }
    for error in script.entries.iter().filter_map(|entry| entry.error()) {
        check_error(&role, error, bag);
    }
    let why = match (&case.only, &expect.path) {
        (Some(only), _) if only.value != outer(&name.value) => Some((only.span, "only this node runs")),
        (_, Some(PathSpec::Exact(span, steps)))
            if scene.begins && !steps.iter().flatten().any(|step| step.value == outer(&name.value)) =>
        {
            Some((*span, "the path does not lead there"))
        }
        (_, Some(PathSpec::Part { never, .. })) => never
            .iter()
            .find(|never| never.value == outer(&name.value))
            .map(|never| (never.span, "never, it says here")),
        _ => None,
    };
    if let Some((span, why)) = why {
        let message = format!("the script of `{}` is never used", name.value);
        let finding = Diagnostic::warning("M514", message, name.span, "no call takes it");
        bag.report(finding.related(span, why).help("remove it, or mend the path"));
    }
}

/// Whom a script stands for.
pub(super) enum Role<'p> {
    /// A model, and what its node gives besides texts.
    Model(&'p Job),
    /// A tool.
    Tool(&'p ToolPlan),
    Request,
    Graph,
    /// A function of the host program, and what its node gives.
    Custom(&'p Job),
    /// A person who is asked.
    Person(&'p Ask),
}

impl Role<'_> {
    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Model(_) => "a model",
            Self::Tool(_) => "a tool",
            Self::Request => "a request",
            Self::Graph => "a graph",
            Self::Custom(_) => "a function",
            Self::Person(_) => "a question",
        }
    }

    /// Returns the keys of the answers that it takes.
    fn keys(&self) -> &'static [&'static str] {
        match self {
            Self::Model(_) => &["text", "output", "calls", "error"],
            Self::Tool(_) | Self::Custom(_) => &["result", "error"],
            Self::Request => &["status", "text", "error"],
            Self::Graph => &["output", "error"],
            // What is answered begins a turn of its own.
            Self::Person(_) => &["error"],
        }
    }
}

/// Checks the kind of an error that a call is to fail with.
fn check_error(role: &Role<'_>, error: &Spanned<String>, bag: &mut Bag) {
    let kinds = ["timeout", "connection", "rate_limit", "server_error", "schema"];
    let (message, help) = match role {
        Role::Person(ask) if error.value == "timeout" && ask.timeout.is_none() => (
            "the question has no time limit".to_owned(),
            "add  timeout: 2d  and  on_timeout: <node>  to the node".to_owned(),
        ),
        Role::Person(_) if ["timeout", "dismissed"].contains(&error.value.as_str()) => return,
        Role::Person(_) => (
            format!("a question cannot end with `{}`", error.value),
            "there are: `timeout`, when nobody answers, and `dismissed`, when it is cancelled".to_owned(),
        ),
        _ => {
            let of_tool = error.value == "tool" && !matches!(role, Role::Model(_));
            if of_tool || Kind::named(&error.value).is_some() {
                return;
            }
            let message = match role {
                Role::Model(_) => format!("a call to a model cannot fail with `{}`", error.value),
                _ => format!("a call cannot fail with `{}`", error.value),
            };
            let digits: String = error.value.chars().filter(char::is_ascii_digit).collect();
            let status = format!("http_{digits}");
            let near = match Kind::named(&status) {
                Some(_) => Some(status.as_str()),
                None => suggest(&error.value, kinds),
            };
            let near = near.map(|near| format!("did you mean `{near}`?"));
            let all = || format!("there are: {}, and `http_` with a status", kinds.join(", "));
            (message, near.unwrap_or_else(all))
        }
    };
    let finding = Diagnostic::error("M514", message, error.span, "no kind of its errors");
    bag.report(finding.help(help));
}

/// Returns the node of the graph under test that a name of a script belongs to.
pub(super) fn outer(name: &str) -> &str {
    name.split(['/', '[']).next().unwrap_or(name)
}

/// Finds whom a script stands for: `node`, `node/tool`, `caller/node`, `list[0]`.
pub(super) fn role<'p>(plan: &'p Plan, name: &Spanned<String>, bag: &mut Bag) -> Option<Role<'p>> {
    let mut level = plan;
    let caller = caller_name(&name.value);
    let (path, of_item) = match caller.split_once('[') {
        Some((path, _)) => (path, true),
        None => (caller.as_str(), false),
    };
    let mut parts = path.split('/').peekable();
    loop {
        let part = parts.next()?;
        let shown = Spanned { value: part.to_owned(), span: name.span };
        known_node(level, &shown, bag)?;
        let node = level.nodes.get(part)?;
        let job = match &node.job.work {
            Work::Map(each) if of_item || parts.peek().is_some() => &each.job,
            _ => &node.job,
        };
        let Some(next) = parts.peek() else {
            return match &job.work {
                Work::Tool(tool, _) => Some(Role::Tool(tool)),
                Work::Graph(_) => Some(Role::Graph),
                Work::Ask(ask) => Some(Role::Person(ask)),
                Work::Node(_) if job.kind == "llm" => Some(Role::Model(job)),
                Work::Node(_) if job.kind == "http" => Some(Role::Request),
                Work::Node(_) if job.kind == "custom" => Some(Role::Custom(job)),
                Work::Map(_) => {
                    let message = format!("the items of `{}` are answered one by one", name.value);
                    let finding = Diagnostic::error("M514", message, name.span, "a list");
                    bag.report(finding.help(format!(
                        "script them as  {{items: [first, second]}} ; one of them is  \"{}[0]\"",
                        name.value
                    )));
                    None
                }
                Work::Node(_) => {
                    let message = format!("`{}` calls nothing that could be scripted", name.value);
                    let label = format!("a node of kind `{}`", job.kind);
                    let finding = Diagnostic::error("M514", message, name.span, label);
                    bag.report(finding.help(
                        "scripts are for `llm`, `tool`, `http`, `graph`, `custom`, `map` and `ask` nodes",
                    ));
                    None
                }
            };
        };
        if let Work::Graph(call) = &job.work {
            level = plan.children.get(&call.graph)?;
            continue;
        }
        if let Some(tool) = job.tools.get(*next) {
            return Some(Role::Tool(tool));
        }
        let message = format!("`{part}` has no tool `{next}`");
        let finding = Diagnostic::error("M514", message, name.span, "no such tool");
        bag.report(finding.help_maybe(did_you_mean(next, job.tools.keys().map(String::as_str))));
        return None;
    }
}

/// Checks a scripted value against what is declared.
fn check_fits(role: &Role<'_>, node: &Spanned<String>, entry: &EntrySpec, places: Places<'_>, bag: &mut Bag) {
    let mismatch = match (role, &entry.answer) {
        (Role::Tool(tool), AnswerSpec::Result(value)) => tool.result.check(value).err(),
        (Role::Custom(job), AnswerSpec::Result(value)) => {
            job.answer.as_ref().and_then(|ty| ty.check(value).err())
        }
        (Role::Model(job), AnswerSpec::Output(value)) => match &job.answer {
            Some(ty) => ty.check(value).err(),
            None => {
                let message = "the node answers with a text";
                let at = places.key(entry.span, "output").unwrap_or(entry.span);
                let finding = Diagnostic::error("M514", message, at, "it has no `output`");
                let finding = places.of_node(finding, &node.value, "this node");
                bag.report(finding.help("write the text alone, or give the node an  output:  type"));
                None
            }
        },
        (Role::Model(job), AnswerSpec::Calls(_, calls)) => {
            for (name, args) in calls {
                match job.tools.get(name) {
                    Some(tool) => check_args(tool, name, args, entry, places, bag),
                    None => {
                        let message = format!("the node has no tool `{name}`");
                        let at = places.call(entry.span, name, None).unwrap_or(entry.span);
                        let finding = Diagnostic::error("M514", message, at, "called here");
                        let finding = places.of_node(finding, &node.value, "this node");
                        let known = job.tools.keys().map(String::as_str);
                        bag.report(finding.help_maybe(did_you_mean(name, known)));
                    }
                }
            }
            None
        }
        _ => None,
    };
    if let Some(why) = mismatch {
        let message = format!("this is no answer of {}", role.what());
        let at = places.misfit(entry.span, entry.answer.key(), &why);
        let label = if at.is_some() { why.why.clone() } else { why.to_string() };
        let finding = Diagnostic::error("M514", message, at.unwrap_or(entry.span), label);
        bag.report(places.of_output(finding, &node.value));
    }
}

/// Warns of a scripted call that the engine answers with what is wrong: a model may call like this, but mostly the test is
/// what is wrong.
fn check_args(
    tool: &ToolPlan,
    name: &str,
    args: &Json,
    entry: &EntrySpec,
    places: Places<'_>,
    bag: &mut Bag,
) {
    let Err(wrong) = tool.args.check(args) else { return };
    let message = format!("`{name}` is called with wrong arguments");
    let at = places.call(entry.span, name, Some(&wrong));
    let label = if at.is_some() { wrong.why.clone() } else { wrong.to_string() };
    let finding = Diagnostic::warning("M514", message, at.unwrap_or(entry.span), label);
    let given = args.as_object().into_iter().flat_map(|args| args.keys());
    let known = match &tool.args {
        Type::Record(fields) => fields.keys().map(String::as_str).collect(),
        _ => Vec::new(),
    };
    let odd = given.into_iter().find(|arg| !known.contains(&arg.as_str()));
    let help = odd.and_then(|arg| did_you_mean(arg, known.iter().copied()));
    bag.report(finding.help_maybe(help));
}

/// What a test can tell of what a model is called with, besides what is `extra`.
const PARAMETERS: [&str; 7] =
    ["model", "temperature", "top_p", "max_tokens", "seed", "stop", "reasoning_effort"];

/// What a request has that a test can tell.
const REQUEST: [&str; 4] = ["method", "url", "headers", "body"];

/// Checks what a test says of what calls are made with.
pub(super) fn check_sent(
    role: &Role<'_>,
    name: &Spanned<String>,
    with: &[(Spanned<String>, Spanned<Json>)],
    places: Places<'_>,
    bag: &mut Bag,
) {
    let unknown = |key: &Spanned<String>, known: &[&str], bag: &mut Bag| {
        let message = format!("{} has no `{}`", role.what(), key.value);
        let finding = Diagnostic::error("M514", message, key.span, format!("`{}` calls it", name.value));
        bag.report(finding.help_maybe(did_you_mean(&key.value, known.iter().copied())));
    };
    for (key, value) in with {
        match role {
            // What a server takes besides is its matter, but not what is nearly one of ours.
            Role::Model(_) => {
                let key_name = key.value.as_str();
                if !PARAMETERS.contains(&key_name) && suggest(key_name, PARAMETERS).is_some() {
                    unknown(key, &PARAMETERS, bag);
                }
            }
            Role::Custom(_) => {}
            Role::Tool(tool) => {
                let Type::Record(fields) = &tool.args else { continue };
                match fields.get(&key.value) {
                    Some(field) => {
                        let checked = field.ty.check(&value.value);
                        bag.report_maybe(check_value(&key.value, value, checked, places));
                    }
                    None if tool.schema.is_some() => {}
                    None => unknown(key, &fields.keys().map(String::as_str).collect::<Vec<_>>(), bag),
                }
            }
            Role::Request if REQUEST.contains(&key.value.as_str()) => {}
            Role::Request => unknown(key, &REQUEST, bag),
            Role::Graph | Role::Person(_) => {
                let message = format!("nothing is known of what {} is called with", role.what());
                let finding = Diagnostic::error("M514", message, key.span, "cannot be told");
                bag.report(finding.help("write  times: 1  alone"));
                return;
            }
        }
    }
}
