//! Text from outside in the instructions of a model: it may pass for an instruction itself.

use std::collections::BTreeSet;

use super::Flow;
use super::access::{Access, Site, Spoken};
use crate::compile::names::Names;
use crate::diagnostic::{Bag, Diagnostic, Span};
use crate::expr::{Expr, Facts, Root, Roots, Slot};
use crate::plan::Effects;
use crate::spec::{ExprSpec, KindSpec, LlmSpec};

impl Flow<'_> {
    /// Hints at text from outside in system messages.
    pub(super) fn check_trust(&self, bag: &mut Bag) {
        let names = self.tainted();
        for vertex in self.cfg.nodes() {
            let access = &self.accesses[vertex - 1];
            let within = inner(access, &names);
            for site in access.sites.iter().chain(&access.items) {
                let Site::Template(text, Spoken::System) = site else { continue };
                let names = &within;
                let found = self.prompts.find_types(&text.value, &names.roots, &Facts::default(), "S402");
                for (_, range) in found.untrusted.into_iter().filter(|(part, _)| part.is_none()) {
                    bag.report(finding(text.locate(range), None));
                }
            }
            let Some(spec) = self.cfg.spec(vertex) else { continue };
            let body = match &spec.body {
                KindSpec::Map(map) => map.body.as_ref().map(|body| &body.body),
                body => Some(body),
            };
            if let Some(KindSpec::Llm(llm)) = body {
                let within = inner(&self.accesses[vertex - 1], &names);
                self.check_prompt(llm, &within, vertex, bag);
            }
            self.check_tools(&self.accesses[vertex - 1], &names, bag);
        }
    }

    /// Hints at tools with effects that a model can be talked into calling.
    fn check_tools(&self, access: &Access<'_>, names: &Names, bag: &mut Bag) {
        if access.tools.is_empty() || !self.reads_untrusted(access, names) {
            return;
        }
        for name in access.tools {
            let Some(tool) = self.shared.tools.known.get(&name.value) else { continue };
            if tool.approval || tool.reach.unasked == Effects::None {
                continue;
            }
            let message = format!("a text from outside can make the model call `{}`", name.value);
            let finding = Diagnostic::lint("M509", message, name.span, "has effects, and nobody is asked");
            let finding = finding.related(tool.name.span, "declared here");
            let to = if tool.of_mcp().is_some() { "its server" } else { "the tool" };
            bag.report(
                finding
                    .help(format!("add  approval: always  to {to}, or  effects: none  where it only reads")),
            );
        }
    }

    fn check_prompt(&self, llm: &LlmSpec, names: &Names, vertex: usize, bag: &mut Bag) {
        let Some(wanted) = &llm.prompt else { return };
        let Some(prompt) = self.prompts.known(&wanted.value) else { return };
        // Without a conversation a prompt without roles is what the user would say.
        if prompt.plain && self.messages.is_none() {
            return;
        }
        let mut roots = prompt.names.roots.clone();
        let mut any = false;
        for (input, root) in &mut roots {
            let untrusted = match llm.with.iter().find(|(with, _)| with.value == *input) {
                Some((_, value)) => names.type_of_spec(value, &Facts::default()).untrusted,
                None if self.channels.contains_key(input) => is_untrusted(&names.roots, "state", Some(input)),
                None => false,
            };
            if let Root::Value(slot) = root {
                slot.untrusted = untrusted;
                any |= untrusted;
            }
        }
        if !any {
            return;
        }
        let node = self.cfg.name(vertex).unwrap_or_default();
        for part in &prompt.systems {
            let source = prompt.body.value.get(part.clone()).unwrap_or_default();
            let found = self.prompts.find_types(source, &roots, &Facts::default(), "T302");
            for (_, range) in found.untrusted.into_iter().filter(|(file, _)| file.is_none()) {
                let span = prompt.body.locate(range.start + part.start..range.end + part.start);
                bag.report(finding(span, Some((wanted.span, node))));
            }
        }
    }

    /// Returns the names with those marked whose texts come from outside, directly or through a model.
    fn tainted(&self) -> Names {
        let mut names = self.names.clone();
        loop {
            let mut more = BTreeSet::new();
            for access in &self.accesses {
                let answer = access.outside || self.reads_untrusted(access, &names);
                for write in &access.writes {
                    let untrusted = match write.value {
                        None => answer,
                        Some(value) => {
                            let typed = names.type_of_spec(value, &Facts::default());
                            typed.untrusted || answer && mentions_result(value)
                        }
                    };
                    if untrusted && !is_untrusted(&names.roots, "state", Some(&write.channel.value)) {
                        more.insert(write.channel.value.clone());
                    }
                }
            }
            if more.is_empty() {
                return names;
            }
            if let Some(Root::Fields(fields)) = names.roots.get_mut("state") {
                for name in more {
                    if let Some(slot) = fields.get_mut(&name) {
                        slot.untrusted = true;
                    }
                }
            }
        }
    }

    fn reads_untrusted(&self, access: &Access<'_>, names: &Names) -> bool {
        let within = inner(access, names);
        let roots = &within.roots;
        let reads = |source: &str, template: bool| {
            let reads = if template {
                self.prompts.reads_of(source)
            } else {
                Expr::parse(source).map(|expr| expr.reads().to_vec()).unwrap_or_default()
            };
            reads.iter().any(|read| is_untrusted(roots, &read.root, read.path.first()))
        };
        access.converses
            || access.sites.iter().chain(&access.items).any(|site| match site {
                Site::Expr(text, _) => reads(&text.value, false),
                Site::Template(text, _) => reads(&text.value, true),
                Site::Read(path, ..) => reads(path, false),
            })
    }
}

/// Adds the names that are there for an item of a list.
fn inner(access: &Access<'_>, names: &Names) -> Names {
    let names = access.with_locals(names.clone());
    let Some(over) = access.over else { return names };
    let untrusted = names.type_of_spec(over, &Facts::default()).untrusted;
    access
        .locals()
        .iter()
        .fold(names, |names, (name, ty)| names.with_slot(name, Slot { untrusted, ..Slot::of(ty.clone()) }))
}

fn is_untrusted(roots: &Roots, root: &str, field: Option<&String>) -> bool {
    match (roots.get(root), field) {
        (Some(Root::Fields(fields)), Some(name)) => fields.get(name).is_some_and(|slot| slot.untrusted),
        (Some(Root::Fields(fields)), None) => fields.values().any(|slot| slot.untrusted),
        (Some(Root::Value(slot)), _) => slot.untrusted,
        (None, _) => false,
    }
}

fn mentions_result(value: &ExprSpec) -> bool {
    let mut found = false;
    value.for_each_text(&mut |text| {
        found |=
            Expr::parse(&text.value).is_ok_and(|expr| expr.reads().iter().any(|read| read.root == "result"));
    });
    found
}

fn finding(span: Span, bound: Option<(Span, &str)>) -> Diagnostic {
    let message = "text from outside in the system message";
    let finding =
        Diagnostic::lint("T310", message, span, "comes from outside, or from a model that read what does");
    let finding = finding.help("move it to `@user`, or fence it with `| quoted`");
    match bound {
        Some((at, node)) => finding.related(at, format!("bound here, in node `{node}`")),
        None => finding,
    }
}
