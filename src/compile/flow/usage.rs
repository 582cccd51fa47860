//! What is written and read, by whom, and what runs at the same time.

use std::collections::{BTreeMap, BTreeSet};

use super::Flow;
use super::access::{Site, output};
use super::beside::Beside;
use super::cfg::{Edge, Sort};
use crate::diagnostic::{Bag, Diagnostic, Spanned};
use crate::expr::{Expr, Read};
use crate::state::Merge;

impl Flow<'_> {
    /// Reports what must not run in one superstep.
    pub(super) fn check_together(&self, beside: &Beside, bag: &mut Bag) {
        for &(a, b) in &beside.pairs {
            self.check_writers(a, b, bag);
            self.check_speakers(a, b, bag);
        }
        for &vertex in &beside.twice {
            if let (Some(here), Some(name)) = (self.accesses[vertex - 1].streams, self.place(vertex)) {
                let message = format!("two runs of `{}` can reply in one superstep", name.value);
                let finding = Diagnostic::error("G213", message, here, "their words would mix");
                bag.report(match self.cfg.spec(vertex).and_then(|spec| spec.join.as_ref()) {
                    _ if self.cfg.is_handler(vertex) => finding.help(
                        "it runs once for each failure: write what it is about, and reply where the branches have joined",
                    ),
                    Some(join) if join.value == "each" => finding
                        .related(join.span, "runs once for each arrival")
                        .help("let the node join its arrivals: remove `join: each`"),
                    _ => finding.help(
                        "a node before it runs several times: reply where the branches have joined, or use `say`",
                    ),
                });
            }
            for write in self.accesses[vertex - 1].writes.iter().filter(|write| self.replaces(write.channel))
            {
                let Some(spec) = self.cfg.spec(vertex) else { continue };
                if self.cfg.is_handler(vertex) {
                    let message =
                        format!("the handler of two failures can write `{}` twice", write.channel.value);
                    let finding =
                        Diagnostic::warning("G226", message, write.channel.span, "the last one wins");
                    bag.report(self.at_channel(finding, write.channel).help(MERGES));
                    continue;
                }
                let message =
                    format!("two runs of one node can write `{}` in one superstep", write.channel.value);
                let finding =
                    Diagnostic::error("G219", message, write.channel.span, "each arrival writes it");
                let finding = match &spec.join {
                    Some(join) => finding.related(join.span, "runs once for each arrival"),
                    None => finding,
                };
                bag.report(self.at_channel(finding, write.channel).help(MERGES));
            }
        }
        for &(a, b) in &beside.deadlocks {
            let (Some(first), Some(second)) = (self.place(a), self.place(b)) else { continue };
            let message = format!("`{}` and `{}` can wait only for one another", first.value, second.value);
            let label = format!("waits for the branch that waits at `{}`", second.value);
            let finding = Diagnostic::warning("G225", message, first.span, label);
            let finding =
                finding.related(second.span, format!("waits for the branch that waits at `{}`", first.value));
            bag.report(finding.help("they run together then; write `join: each` where a node need not wait"));
        }
    }

    fn check_writers(&self, a: usize, b: usize, bag: &mut Bag) {
        for first in self.accesses[a - 1].writes.iter().filter(|write| self.replaces(write.channel)) {
            let name = &first.channel.value;
            let second = self.accesses[b - 1].writes.iter().find(|write| write.channel.value == *name);
            let Some(second) = second else { continue };
            let (first, second) = if first.channel.span.start <= second.channel.span.start {
                (first.channel, second.channel)
            } else {
                (second.channel, first.channel)
            };
            if self.cfg.is_handler(a) && self.cfg.is_handler(b) {
                let message = format!("the handlers of two failures can both write `{name}`");
                let finding = Diagnostic::warning("G226", message, second.span, "the last one wins")
                    .related(first.span, "the other one that writes");
                bag.report(self.at_channel(finding, first).help(MERGES));
                continue;
            }
            let message = format!("two nodes can write `{name}` in one superstep");
            let finding = Diagnostic::error("S406", message, second.span, "the second writer")
                .related(first.span, "the first writer");
            bag.report(self.at_channel(finding, first).help(MERGES));
        }
    }

    fn check_speakers(&self, a: usize, b: usize, bag: &mut Bag) {
        let (Some(here), Some(there)) = (self.accesses[a - 1].streams, self.accesses[b - 1].streams) else {
            return;
        };
        let (Some(first), Some(second)) = (self.place(a), self.place(b)) else { return };
        let message = format!("`{}` and `{}` can reply in one superstep", first.value, second.value);
        let finding = Diagnostic::error("G213", message, there, "its words would mix with the other's")
            .related(here, "the other one that replies");
        bag.report(finding.help("let one node reply after the branches have joined, or use `say`"));
    }

    fn replaces(&self, channel: &Spanned<String>) -> bool {
        self.channels.get(&channel.value).is_some_and(|channel| channel.merge == Merge::Replace)
    }

    fn at_channel(&self, finding: Diagnostic, channel: &Spanned<String>) -> Diagnostic {
        match self.names.declared(&format!("state.{}", channel.value)) {
            Some(at) => finding.related(at, "holds one value: `merge: replace`"),
            None => finding,
        }
    }

    /// Returns the name of a node, at its place.
    pub(super) fn place(&self, vertex: usize) -> Option<&Spanned<String>> {
        let name = self.cfg.name(vertex)?;
        self.graph.nodes.iter().map(|(name, _)| name).find(|known| known.value == name)
    }

    /// Warns of channels that nobody writes, or nobody reads; true when there are some.
    pub(super) fn check_usage(&self, bag: &mut Bag) -> bool {
        let mut read: BTreeSet<String> = BTreeSet::new();
        let mut all = false;
        for (_, path) in self.read_paths() {
            match path {
                Some(channel) => drop(read.insert(channel)),
                None => all = true,
            }
        }
        let written: BTreeSet<&str> = self
            .accesses
            .iter()
            .flat_map(|access| access.writes.iter().map(|write| write.channel.value.as_str()))
            .collect();
        let mut found = false;
        for (name, _) in
            self.graph.state.iter().filter(|(name, _)| Some(name.value.as_str()) != self.messages)
        {
            let Some(channel) = self.channels.get(&name.value) else { continue };
            let written = written.contains(name.value.as_str()) || channel.field.default.is_some();
            let read = all || read.contains(&name.value);
            let unset = self.unset.borrow().contains(&format!("state.{}", name.value));
            let (what, label, help) = match (written, read) {
                (true, true) => continue,
                // Told where it is read.
                (false, true) if unset => continue,
                (true, false) => {
                    ("never read", "nobody reads it", "list it under `output`, read it, or remove it")
                }
                (false, true) => (
                    "never written",
                    "nobody writes it",
                    "write it in a node, give it a `default`, or remove it",
                ),
                (false, false) => ("never used", "nobody writes or reads it", "use it, or remove it"),
            };
            let message = format!("channel `{}` is {what}", name.value);
            bag.report(Diagnostic::warning("S405", message, name.span, label).help(help));
            found = true;
        }
        found
    }

    /// Returns every read of a channel with its vertex; no channel: the whole state is read.
    fn read_paths(&self) -> Vec<(usize, Option<String>)> {
        let mut reads = Vec::new();
        for vertex in self.cfg.nodes() {
            for site in self.accesses[vertex - 1].all() {
                reads.extend(self.channels_of(site).into_iter().map(|channel| (vertex, channel)));
            }
        }
        for condition in &self.cfg.conditions {
            let site = Site::Expr(condition.text, None);
            reads.extend(self.channels_of(&site).into_iter().map(|channel| (condition.from, channel)));
        }
        for site in output(self.graph) {
            reads.extend(self.channels_of(&site).into_iter().map(|channel| (self.cfg.end, channel)));
        }
        reads
    }

    fn channels_of(&self, site: &Site<'_>) -> Vec<Option<String>> {
        let of = |reads: &[Read]| -> Vec<Option<String>> {
            reads.iter().filter(|read| read.root == "state").map(|read| read.path.first().cloned()).collect()
        };
        match site {
            Site::Expr(text, _) => Expr::parse(&text.value).map(|expr| of(expr.reads())).unwrap_or_default(),
            Site::Template(text, _) => of(&self.prompts.reads_of(&text.value)),
            Site::Read(path, ..) => {
                path.strip_prefix("state.").map(|channel| Some(channel.to_owned())).into_iter().collect()
            }
        }
    }

    /// Hints at values that the next write replaces before anybody could read them. Beside other branches this cannot be
    /// told from the edges alone.
    pub(super) fn check_overwritten(&self, bag: &mut Bag) {
        // A limit can be used up anywhere, and whoever handles that may read.
        if !self.cfg.fans.is_empty() || self.graph.on_limit.is_some() {
            return;
        }
        let mut reads: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        let mut asked: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for vertex in self.cfg.nodes() {
            for site in self.accesses[vertex - 1].all() {
                for channel in self.channels_of(site) {
                    let Some(channel) = channel else { return };
                    reads.entry(channel).or_default().insert(vertex);
                }
            }
        }
        for condition in &self.cfg.conditions {
            for channel in self.channels_of(&Site::Expr(condition.text, None)) {
                let Some(channel) = channel else { return };
                // Asked after the node's own write.
                asked.entry(channel).or_default().insert(condition.from);
            }
        }
        let nobody = BTreeSet::new();
        for vertex in self.cfg.nodes() {
            for write in self.accesses[vertex - 1].writes.iter().filter(|write| self.replaces(write.channel))
            {
                let name = &write.channel.value;
                let reads = reads.get(name).unwrap_or(&nobody);
                if asked.get(name).is_some_and(|asked| asked.contains(&vertex)) {
                    continue;
                }
                if let Some(second) = self.replaced_by(vertex, name, reads, asked.get(name)) {
                    let message = format!("`{name}` is overwritten before anybody reads it");
                    let finding = Diagnostic::lint("S416", message, write.channel.span, "written here");
                    let finding = finding.related(second.span, "and again here, on every way");
                    bag.report(finding.help("remove the first write, or read it in between"));
                }
            }
        }
    }

    /// Returns the write that replaces a value on every way on, before it is read and before the run ends.
    fn replaced_by(
        &self,
        from: usize,
        channel: &str,
        reads: &BTreeSet<usize>,
        asked: Option<&BTreeSet<usize>>,
    ) -> Option<&Spanned<String>> {
        let mut second = None;
        let mut seen = BTreeSet::new();
        // Where it failed, or had no answer, it has written nothing.
        let goes_on = |edge: &&Edge| !matches!(edge.sort, Sort::Error | Sort::Timeout);
        let edges = |vertex: usize| self.cfg.out[vertex].iter().map(|&edge| &self.cfg.edges[edge]);
        let mut todo: Vec<usize> = edges(from).filter(goes_on).map(|edge| edge.to).collect();
        if todo.is_empty() {
            return None;
        }
        while let Some(vertex) = todo.pop() {
            // A condition after it may ask for the value.
            let read = reads.contains(&vertex) || asked.is_some_and(|asked| asked.contains(&vertex));
            if vertex == self.cfg.end || vertex == from || read {
                return None;
            }
            if !seen.insert(vertex) {
                continue;
            }
            let access = self.accesses.get(vertex.checked_sub(1)?)?;
            if let Some(write) = access.writes.iter().find(|write| write.channel.value == channel) {
                // A visit too many leaves by `on_max` without writing, and so does a failure.
                todo.extend(edges(vertex).filter(|edge| edge.sort != Sort::Next).map(|edge| edge.to));
                second = Some(write.channel);
                continue;
            }
            let mut next = self.cfg.after(vertex).peekable();
            // A node that fails ends the run.
            next.peek()?;
            todo.extend(next);
        }
        second
    }
}

/// What to do about two writers.
const MERGES: &str = "say how the writes join:  merge: append | add | union | first";
