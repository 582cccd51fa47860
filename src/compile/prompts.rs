//! Prompt files and text keys become templates.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::Value as Json;

use super::declared::Declared;
use super::includes::{Sum, Weight, Weights};
use super::names::{BY_FLOW, Names, report_template};
use super::types::Types;
use super::unused::Used;
use crate::diagnostic::{Bag, Diagnostic, Span, did_you_mean};
use crate::expr::{Facts, Read, Roots, Scope};
use crate::model::Role;
use crate::spec::{Folder, ParamsSpec, Project, PromptFile, Text, Tree};
use crate::state::{Field, Type};
use crate::template::prompt::{Section, SectionRole, check_partial, split};
use crate::template::{DEEPEST_INCLUDE, Found, Parsed, Set, Templates, check_types, unbraced};

/// The chat turns of prompts with the values of their samples; nothing of those that have none.
pub(super) type Previews = BTreeMap<String, Option<Vec<Json>>>;

/// A part of a prompt file.
#[derive(Debug, Clone)]
pub(super) enum Part {
    /// A turn, by the name of its template.
    Turn(Role, String),
    /// The turns of an input.
    Messages(String),
    /// The graph's conversation.
    Conversation,
}

/// A checked prompt file.
#[derive(Debug)]
pub(super) struct Prompt {
    /// Its inputs.
    pub(super) inputs: IndexMap<String, Field>,
    /// Its parts.
    pub(super) parts: Vec<Part>,
    /// No role was written: one system message, then the conversation.
    pub(super) plain: bool,
    /// The partials that it includes, directly or through others.
    pub(super) includes: BTreeSet<String>,
    /// Its text, and the parts of it that are system messages.
    pub(super) body: Text,
    pub(super) systems: Vec<Range<usize>>,
    /// Where each of its templates begins in its text.
    starts: BTreeMap<String, usize>,
    /// What its templates can read, and where that is declared.
    pub(super) names: Names,
    /// Parameters of calls with it.
    params: ParamsSpec,
    /// Where its name is shown.
    pub(super) top: Span,
    used: std::cell::Cell<bool>,
    /// Nothing in its text is wrong.
    pub(super) sound: bool,
}

/// All templates of a project while it is compiled.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    set: Set,
    known: BTreeMap<String, Prompt>,
    /// Files that no rule claims.
    unread: Vec<String>,
    /// Prompts that are there but wrong.
    broken: Vec<String>,
    partials: BTreeMap<String, Parsed>,
    partial_texts: BTreeMap<String, Text>,
    broken_partials: BTreeSet<String>,
    weights: Weights,
    included: BTreeSet<String>,
}

impl Prompts {
    /// Reads all prompt files and partials of a project.
    pub(super) fn read(folder: &Folder, types: &Types, bag: &mut Bag) -> Self {
        let mut prompts = Self {
            broken: folder.broken_prompts.clone(),
            partial_texts: folder.partials.clone(),
            unread: folder.unread.clone(),
            ..Self::default()
        };
        for (name, text) in &folder.partials {
            let wrong = check_partial(&text.value);
            if !wrong.is_empty() {
                prompts.broken_partials.insert(name.clone());
            }
            report_template(wrong, text, 0, bag);
            match prompts.set.add(name, &text.value) {
                Ok(mut parsed) => {
                    if !parsed.errors.is_empty() {
                        prompts.broken_partials.insert(name.clone());
                    }
                    report_template(std::mem::take(&mut parsed.errors), text, 0, bag);
                    prompts.partials.insert(name.clone(), parsed);
                }
                Err(errors) => {
                    report_template(errors, text, 0, bag);
                    prompts.broken_partials.insert(name.clone());
                }
            }
        }
        prompts.check_partials(folder, bag);
        for (name, file) in &folder.prompts {
            match prompts.prompt(name, file, types, &folder.project, bag) {
                Some(prompt) => drop(prompts.known.insert(name.clone(), prompt)),
                None => prompts.broken.push(name.clone()),
            }
        }
        prompts
    }

    /// Checks that partials include what exists, not themselves, and not too much.
    fn check_partials(&mut self, folder: &Folder, bag: &mut Bag) {
        self.weights = Weights::of(&self.partials);
        let bounded = !bag.is_trusting();
        let mut told = BTreeSet::new();
        for (name, parsed) in &self.partials {
            let Some(text) = folder.partials.get(name) else { continue };
            let mut sum = Sum::of_partial();
            for (included, range) in &parsed.includes {
                let span = text.locate(range.clone());
                if !self.include_exists(included, span, bag) {
                    continue;
                }
                let wrong = if let Some(circle) = self.weights.leads_back(name, included) {
                    self.broken_partials.insert(name.clone());
                    // A circle is told once, at the first of its files.
                    told.insert(circle).then(|| {
                        let message = format!("`{name}` includes itself");
                        let finding = Diagnostic::error("T305", message, span, "leads back here");
                        finding.help("take one of the includes out")
                    })
                } else {
                    match self.weights.get(included) {
                        Some(weight) if bounded && weight.fits() => sum.add(weight, span),
                        // It is told of the partial itself.
                        _ => None,
                    }
                };
                if let Some(wrong) = wrong {
                    bag.report(wrong);
                    self.broken_partials.insert(name.clone());
                }
            }
            if bounded && !self.weights.get(name).is_some_and(Weight::fits) {
                self.broken_partials.insert(name.clone());
            }
        }
    }

    fn include_exists(&self, name: &str, span: Span, bag: &mut Bag) -> bool {
        if self.partials.contains_key(name) || self.broken_partials.contains(name) {
            return true;
        }
        if bag.is_full(span.file) {
            return false;
        }
        let finding = Diagnostic::error(
            "T305",
            format!("there is no partial `{name}`"),
            span,
            format!("looked for prompts/{name}"),
        );
        bag.report(finding.help_maybe(did_you_mean(name, self.partials.keys().map(String::as_str))));
        false
    }

    /// Returns a partial with all that it includes.
    fn closure(&self, name: &str) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            if seen.insert(name.clone())
                && let Some(parsed) = self.partials.get(&name)
            {
                todo.extend(parsed.includes.iter().map(|(name, _)| name.clone()));
            }
        }
        seen
    }

    fn prompt(
        &mut self,
        name: &str,
        file: &PromptFile,
        types: &Types,
        project: &Project,
        bag: &mut Bag,
    ) -> Option<Prompt> {
        let mut inputs = IndexMap::new();
        let mut broken = file.broken.clone();
        for (input, spec) in &file.inputs {
            match types.field(spec, bag) {
                Some(field) => drop(inputs.insert(input.value.clone(), field)),
                None => broken.push(input.value.clone()),
            }
        }
        let sections = match split(&file.body.value) {
            Ok(sections) => sections,
            Err(errors) => {
                report_template(errors, &file.body, 0, bag);
                return None;
            }
        };
        let inputs_known = broken.is_empty();
        let mut sound = inputs_known;
        let mut declared = Declared::default();
        declared.add(None, &file.inputs, project);
        let names = Names::of_prompt(&inputs, broken, declared);
        let mut pieces = Vec::new();
        let mut read = BTreeSet::new();
        let mut includes = BTreeSet::new();
        let mut plain = false;
        let mut systems = Vec::new();
        let mut starts = BTreeMap::new();
        for (n, section) in sections.iter().enumerate() {
            match section {
                Section::Text { role, range } => {
                    let template = format!("prompts/{name}.md#{n}");
                    let text = file.body.value.get(range.clone()).unwrap_or_default();
                    match self.set.add(&template, text) {
                        Ok(mut parsed) => {
                            sound &= parsed.errors.is_empty();
                            report_template(std::mem::take(&mut parsed.errors), &file.body, range.start, bag);
                            sound &= self.check(
                                &parsed,
                                &file.body,
                                range.start,
                                &names,
                                true,
                                &mut read,
                                &mut includes,
                                bag,
                            );
                        }
                        Err(errors) => {
                            report_template(errors, &file.body, range.start, bag);
                            sound = false;
                        }
                    }
                    if *role == SectionRole::System {
                        systems.push(range.clone());
                    }
                    let role = match role {
                        SectionRole::System => Role::System,
                        SectionRole::User => Role::User,
                        SectionRole::Assistant => Role::Assistant,
                    };
                    starts.insert(template.clone(), range.start);
                    pieces.push(Part::Turn(role, template));
                }
                Section::Messages { name: None, .. } => {
                    plain = true;
                    pieces.push(Part::Conversation);
                }
                Section::Messages { name: Some(input), range } => {
                    read.insert(input.clone());
                    let span = file.body.locate(range.clone());
                    match inputs.get(input).map(|field| field.ty.non_null()) {
                        Some(ty) if holds_turns(ty) => {
                            pieces.push(Part::Messages(input.clone()));
                        }
                        Some(ty) => {
                            let message = format!("`{input}` is no conversation");
                            bag.report(Diagnostic::error("T302", message, span, format!("this is {ty}")));
                            sound = false;
                        }
                        None if names.may_be(input) => sound = false,
                        None => {
                            let message = format!("`{input}` is not an input of this prompt");
                            let finding =
                                Diagnostic::error("T302", message, span, "not declared under `inputs`");
                            let near = crate::diagnostic::suggest(input, inputs.keys().map(String::as_str));
                            let help = near.map_or_else(
                                || format!("declare it:  inputs: {{{input}: messages}}"),
                                |near| format!("did you mean `{near}`?"),
                            );
                            names.miss(input, finding.help(help));
                            sound = false;
                        }
                    }
                }
            }
        }
        names.report_lacks(bag);
        if sound {
            for (input, _) in file.inputs.iter().filter(|(input, _)| !read.contains(&input.value)) {
                let message = format!("input `{}` is never read", input.value);
                bag.report(Diagnostic::warning(
                    "T304",
                    message,
                    input.span,
                    "no line of the prompt reads it",
                ));
            }
        }
        self.included.extend(includes.iter().cloned());
        let top = Span { file: file.file, start: 0, end: 0 };
        // Of one whose text is wrong the inputs are known.
        inputs_known.then_some(Prompt {
            inputs,
            parts: pieces,
            plain,
            includes,
            body: file.body.clone(),
            systems,
            starts,
            names,
            params: file.params.clone(),
            top,
            used: false.into(),
            sound,
        })
    }

    /// Checks what a template reads and includes; what partials read is checked where they are included.
    #[expect(clippy::too_many_arguments, reason = "the two sets collect over the parts of one file")]
    fn check(
        &self,
        parsed: &Parsed,
        text: &Text,
        from: usize,
        names: &Names,
        prompt: bool,
        read: &mut BTreeSet<String>,
        includes: &mut BTreeSet<String>,
        bag: &mut Bag,
    ) -> bool {
        let shifted: Vec<_> = parsed
            .reads
            .iter()
            .cloned()
            .map(|mut read| {
                read.range = read.range.start + from..read.range.end + from;
                read
            })
            .collect();
        let mut fine = names.reads(&shifted, text, prompt, bag);
        read.extend(shifted.into_iter().map(|read| read.root));
        let mut sum = Sum::default();
        for ((name, range), bound) in parsed.includes.iter().zip(&parsed.bound) {
            let span = text.locate(range.start + from..range.end + from);
            if !self.include_exists(name, span, bag) || self.broken_partials.contains(name) {
                fine = false;
                continue;
            }
            let weight = self.weights.get(name).filter(|_| !bag.is_trusting());
            if let Some(wrong) = weight.and_then(|weight| sum.add(weight, span)) {
                bag.report(wrong);
                return false;
            }
            for included in self.closure(name) {
                let reads = self.partials.get(&included).map(|part| part.reads.as_slice());
                read.extend(reads.unwrap_or_default().iter().map(|inner| inner.root.clone()));
                includes.insert(included);
            }
            if !bag.is_trusting() {
                fine &= self.reads_within(name, bound, span, names, prompt, 0, bag);
            }
        }
        self.types(text, from..from + parsed.len, names, prompt, bag) && fine
    }

    /// Checks what a partial reads where it is included, and what it includes itself; `bound` are the names around it.
    #[expect(clippy::too_many_arguments, reason = "what is around the place")]
    fn reads_within(
        &self,
        name: &str,
        bound: &[String],
        include: Span,
        names: &Names,
        prompt: bool,
        depth: usize,
        bag: &mut Bag,
    ) -> bool {
        let (Some(part), Some(text)) = (self.partials.get(name), self.partial_texts.get(name)) else {
            return false;
        };
        if depth > DEEPEST_INCLUDE {
            return false;
        }
        let free: Vec<Read> = part.reads.iter().filter(|read| !bound.contains(&read.root)).cloned().collect();
        let mut fine = names.reads_at(&free, text, prompt, Some(include), bag);
        for ((inner, _), own) in part.includes.iter().zip(&part.bound) {
            let bound: Vec<String> = bound.iter().chain(own).cloned().collect();
            fine &= self.reads_within(inner, &bound, include, names, prompt, depth + 1, bag);
        }
        fine
    }

    /// Checks the types of a part of a text. In a text of a graph, what depends on the way that leads there is left to
    /// `flow`.
    fn types(&self, text: &Text, part: Range<usize>, names: &Names, prompt: bool, bag: &mut Bag) -> bool {
        let source = text.value.get(part.clone()).unwrap_or_default();
        let no_field = if prompt { "T302" } else { "S402" };
        let found = self.find_types(source, &names.roots, &Facts::default(), no_field);
        let wanted = |code: &str| prompt || !BY_FLOW.contains(&code);
        self.report_types(found, wanted, text, part.start, names, bag)
    }

    /// Returns what a text of a graph reads, itself and in what it includes.
    pub(super) fn reads_of(&self, source: &str) -> Vec<Read> {
        let Ok(parsed) = crate::template::reads(source) else { return Vec::new() };
        let mut reads = parsed.reads;
        for (name, _) in &parsed.includes {
            for included in self.closure(name) {
                reads.extend(
                    self.partials.get(&included).into_iter().flat_map(|part| part.reads.iter().cloned()),
                );
            }
        }
        reads
    }

    /// Looks at the types of a template.
    pub(super) fn find_types(
        &self,
        source: &str,
        roots: &Roots,
        facts: &Facts,
        no_field: &'static str,
    ) -> Found {
        // One that was not understood is looked at no further.
        let known = |name: &str| self.partial_texts.get(name).filter(|_| self.partials.contains_key(name));
        let part = |name: &str| known(name).map(|text| text.value.as_str());
        check_types(source, roots, facts, no_field, &part)
    }

    /// Reports what is wrong with the types of a text, and of what it includes; false when something was reported.
    pub(super) fn report_types(
        &self,
        found: Found,
        wanted: impl Fn(&str) -> bool,
        text: &Text,
        from: usize,
        names: &Names,
        bag: &mut Bag,
    ) -> bool {
        let mut fine = true;
        for (part, fault) in found.faults {
            let place = |range: Range<usize>| self.place(part.as_deref(), range, text, from);
            fine &= names.faults(vec![fault], &wanted, place, bag);
        }
        fine
    }

    /// Returns a place in a text, or in a partial that it includes; `from` is where its template begins.
    pub(super) fn place(&self, part: Option<&str>, range: Range<usize>, text: &Text, from: usize) -> Span {
        match part.and_then(|name| self.partial_texts.get(name)) {
            Some(partial) => partial.locate(range),
            None => text.locate(range.start + from..range.end + from),
        }
    }

    /// Adds the text of a node under a name of its own.
    pub(super) fn text(
        &mut self,
        name: &str,
        text: &Text,
        names: &Names,
        bag: &mut Bag,
    ) -> Option<(String, BTreeSet<String>)> {
        match self.set.add(name, &text.value) {
            Ok(mut parsed) => {
                let mut includes = BTreeSet::new();
                let known = parsed.errors.is_empty();
                report_template(std::mem::take(&mut parsed.errors), text, 0, bag);
                let fine =
                    self.check(&parsed, text, 0, names, false, &mut BTreeSet::new(), &mut includes, bag)
                        && known;
                self.included.extend(includes.iter().cloned());
                if let Some((range, fixed)) = unbraced(&text.value) {
                    // What other tools take from the environment is a setting here.
                    let variable = text.value.get(range.clone()).and_then(|shown| {
                        let name = shown.strip_prefix("${")?.strip_suffix('}')?.trim();
                        let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
                        (names.roots.contains_key("env") && name.bytes().all(upper)).then_some(name)
                    });
                    let fixed = variable.map_or(fixed, |name| format!("{{{{ env.{name} }}}}"));
                    let message = "an expression without double braces";
                    let finding = Diagnostic::lint("E105", message, text.locate(range), "printed as it is");
                    bag.report(finding.help(format!("to fill it in write  {fixed}")));
                }
                fine.then(|| (name.to_owned(), includes))
            }
            Err(errors) => {
                report_template(errors, text, 0, bag);
                None
            }
        }
    }

    /// Returns a prompt that is fine.
    pub(super) fn known(&self, name: &str) -> Option<&Prompt> {
        self.known.get(name)
    }

    /// Returns the parameters of a prompt's front-matter.
    pub(super) fn params(&self, name: &str) -> Option<&ParamsSpec> {
        self.known.get(name).map(|prompt| &prompt.params)
    }

    /// Finds a prompt by its name. Nothing: it is reported, here or where it is wrong.
    pub(super) fn find(&self, name: &str, span: Span, bag: &mut Bag) -> Option<&Prompt> {
        if let Some(prompt) = self.known.get(name) {
            prompt.used.set(true);
            return Some(prompt);
        }
        if !self.broken.iter().any(|broken| broken == name) {
            let finding = Diagnostic::error(
                "T305",
                format!("there is no prompt `{name}`"),
                span,
                format!("looked for prompts/{name}.md"),
            );
            let bare = name.trim_start_matches("prompts/").trim_end_matches(".md");
            // The file may be there under another ending.
            let stem = format!("prompts/{name}.");
            if let Some(sibling) = self.unread.iter().find(|path| path.starts_with(&stem)) {
                bag.retract("G108", sibling);
                bag.report(finding.help(format!("`{sibling}` is there: rename it to `{name}.md`")));
                return None;
            }
            let help = if self.known.contains_key(bare) {
                Some(format!("write `{bare}`: without the folder and the ending"))
            } else {
                did_you_mean(name, self.known.keys().map(String::as_str))
            };
            bag.report(finding.help_maybe(help));
        }
        None
    }

    /// Reports what nothing uses.
    pub(super) fn report_unused(&self, folder: &Folder, used: &Used, bag: &mut Bag) {
        let unused = self.known.iter().filter(|(_, prompt)| !prompt.used.get());
        for (name, prompt) in unused.filter(|(name, _)| !used.mentioned(name, 0)) {
            let message = format!("prompt `{name}` is not used");
            bag.report(Diagnostic::warning("T309", message, prompt.top, "no node names it"));
        }
        let unused = folder.partials.iter().filter(|(name, _)| !self.included.contains(*name));
        for (name, text) in unused.filter(|(name, _)| !used.mentioned(name, 0)) {
            let span = Span { end: text.span.start, ..text.span };
            bag.report(Diagnostic::warning(
                "T309",
                format!("partial `{name}` is not used"),
                span,
                "nothing includes it",
            ));
        }
    }

    /// Closes the set, and renders every prompt that has a sample: also returns the chat turns that come of it.
    pub(super) fn freeze(self, folder: &Folder, bag: &mut Bag) -> (Templates, Previews) {
        let templates = self.set.freeze();
        let mut previews = Previews::new();
        for (name, prompt) in &self.known {
            let Some(sample) = folder.prompts.get(name).and_then(|file| file.sample.as_ref()) else {
                previews.insert(name.clone(), None);
                continue;
            };
            let Tree::Map(entries) = &sample.tree else {
                bag.report(Diagnostic::error(
                    "T306",
                    "the sample is not a map",
                    sample.span,
                    format!("found {}", sample.sort()),
                ));
                continue;
            };
            let mut scope = Scope::new();
            let mut values = BTreeMap::new();
            let mut fine = true;
            for (key, value) in entries {
                let input = key.key_text();
                let Some(field) = prompt.inputs.get(&input) else {
                    if prompt.names.lacks(&input) {
                        continue;
                    }
                    let finding = Diagnostic::error(
                        "T306",
                        format!("`{input}` is not an input"),
                        key.span,
                        "not declared",
                    );
                    bag.report(
                        finding.help_maybe(did_you_mean(&input, prompt.inputs.keys().map(String::as_str))),
                    );
                    fine = false;
                    continue;
                };
                let mut json = value.to_json();
                if let Err(mismatch) = field.ty.check(&json) {
                    let message = format!("the sample of `{input}` does not fit {}", field.ty);
                    bag.report(Diagnostic::error("T306", message, value.span, mismatch.why));
                    fine = false;
                }
                field.ty.fill(&mut json);
                values.insert(input, Arc::new(json));
            }
            for (input, field) in &prompt.inputs {
                if entries.iter().any(|(key, _)| key.as_str() == Some(input)) {
                    continue;
                }
                if field.may_be_left_out() {
                    values.insert(input.clone(), Arc::new(field.default.clone().unwrap_or_default()));
                } else if fine {
                    let message = format!("the sample lacks `{input}`");
                    let finding =
                        Diagnostic::error("T306", message, sample.span, "this input has no default");
                    bag.report(finding.help(format!("add a value for `{input}`, or remove the sample")));
                    fine = false;
                }
            }
            for (input, value) in &values {
                scope = scope.json(input, Arc::clone(value));
            }
            let mut turns = Vec::new();
            for part in prompt.parts.iter().filter(|_| fine && prompt.sound) {
                let (role, template) = match part {
                    Part::Turn(role, template) => (role, template),
                    Part::Messages(input) => {
                        turns.extend(
                            values
                                .get(input)
                                .and_then(|turns| turns.as_array())
                                .into_iter()
                                .flatten()
                                .cloned(),
                        );
                        continue;
                    }
                    Part::Conversation => continue,
                };
                match templates.render(template, &scope) {
                    Ok(text) => turns.push(serde_json::json!({"role": role, "content": text.trim()})),
                    Err(error) => {
                        let message = "the prompt cannot be rendered with its sample";
                        let finding = Diagnostic::error("T306", message, sample.span, error.to_string());
                        let from = prompt.starts.get(template).copied().unwrap_or_default();
                        let at = error.range.map(|at| prompt.body.locate(at.start + from..at.end + from));
                        bag.report(match at {
                            Some(at) => finding.related(at, "this fails"),
                            None => finding,
                        });
                    }
                }
            }
            if fine && prompt.sound {
                previews.insert(name.clone(), Some(turns));
            }
        }
        (templates, previews)
    }
}

/// Says whether values of the type can be chat turns.
fn holds_turns(ty: &Type) -> bool {
    match ty {
        Type::Messages | Type::Any => true,
        Type::List(item) => {
            matches!(item.opened().non_null(), Type::Any | Type::Object | Type::Record(_))
        }
        _ => false,
    }
}
