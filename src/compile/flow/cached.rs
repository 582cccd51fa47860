//! Keys by which results are found again: they have to tell apart whatever the work tells apart.

use std::collections::{BTreeMap, BTreeSet};

use super::Flow;
use super::access::{Access, Site};
use crate::compile::calls::within;
use crate::diagnostic::{Bag, Diagnostic, Span};
use crate::expr::{Expr, Read};
use crate::spec::{CacheSpec, ExprSpec, KindSpec};

/// What the user said last: the graphs of a run all read the same.
const USER_TEXT: &str = "run.user_text";

impl Flow<'_> {
    /// Reports keys of caches that leave out what the work reads: the result for one would be taken for another's.
    pub(super) fn check_keys(&self, bag: &mut Bag) {
        for vertex in self.cfg.nodes() {
            let Some(spec) = self.cfg.spec(vertex) else { continue };
            let access = &self.accesses[vertex - 1];
            let (sites, items) = (&access.sites[..access.work.0], &access.items[..access.work.1]);
            if let Some((cache, key)) = keyed(spec.cache.as_ref()) {
                // The items are of the list, which is read.
                let local = |name: &str| access.locals().iter().any(|(local, _)| local == name);
                let mut due = self.due(access, &spec.body, cache.at, sites.iter().chain(items));
                due.retain(|name, _| !local(name));
                check_key(&due, cache, key, bag);
            }
            let KindSpec::Map(map) = &spec.body else { continue };
            let Some(body) = &map.body else { continue };
            if let Some((cache, key)) = keyed(body.cache.as_ref()) {
                check_key(&self.due(access, &body.body, cache.at, items.iter()), cache, key, bag);
            }
        }
    }

    /// Returns what a key has to read, each name with a place where the work reads it.
    fn due<'s, 'a: 's>(
        &self,
        access: &Access<'_>,
        body: &KindSpec,
        at: Span,
        sites: impl Iterator<Item = &'s Site<'a>>,
    ) -> BTreeMap<String, Span> {
        let mut due = BTreeMap::new();
        for site in sites {
            match site {
                Site::Expr(text, _) => {
                    let reads = Expr::parse(&text.value).map(|expr| expr.reads().to_vec());
                    let reads = reads.unwrap_or_default();
                    let named = reads.iter().filter_map(|read| Some((name(read)?, read)));
                    named.for_each(|(name, read)| {
                        due.entry(name).or_insert(text.locate(read.range.clone()));
                    });
                }
                Site::Template(text, _) => {
                    for name in self.prompts.reads_of(&text.value).iter().filter_map(name) {
                        due.entry(name).or_insert(text.span);
                    }
                }
                Site::Read(path, span, _) => {
                    due.entry(path.clone()).or_insert(*span);
                }
            }
        }
        if let Some(channel) = self.messages.filter(|_| access.converses) {
            due.entry(format!("state.{channel}")).or_insert(at);
        }
        let within = within(body, &self.shared.folder.graphs, self.shared.project);
        let hears = |graph: &&crate::spec::Graph| graph.tree.to_json().to_string().contains("user_text");
        if within.graphs.iter().any(hears) {
            due.entry(USER_TEXT.to_owned()).or_insert(at);
        }
        due
    }
}

/// Reports a key that leaves out one of these.
fn check_key(due: &BTreeMap<String, Span>, cache: &CacheSpec, key: &ExprSpec, bag: &mut Bag) {
    let mut has = BTreeSet::new();
    key.for_each_text(&mut |text| {
        let reads = Expr::parse(&text.value).map(|expr| expr.reads().to_vec()).unwrap_or_default();
        has.extend(reads.iter().filter_map(name));
    });
    let whole = |due: &str| due.split_once('.').is_some_and(|(root, _)| has.contains(root));
    let Some((name, at)) = due.iter().find(|(due, _)| !has.contains(*due) && !whole(due)) else { return };
    let message = format!("the key of the cache leaves out `{name}`");
    let finding = Diagnostic::error("M518", message, key.span(), "the same for different values of it");
    let finding = if *at == cache.at { finding } else { finding.related(*at, "read here") };
    bag.report(finding.help(format!(
        "add it:  key: [{name}, …] , or remove `key`: then it is all that the node would send"
    )));
}

/// Returns a cache with its key.
fn keyed(cache: Option<&CacheSpec>) -> Option<(&CacheSpec, &ExprSpec)> {
    cache.and_then(|cache| Some((cache, cache.key.as_ref()?)))
}

/// Returns the name that a key has to read too: a channel, an input, an item, an error, or what the user said. Other
/// facts of a run are different each time, and nobody wants those in a key.
fn name(read: &Read) -> Option<String> {
    match (read.root.as_str(), read.path.first()) {
        ("run", Some(field)) if field == "user_text" => Some(USER_TEXT.to_owned()),
        ("run" | "env", _) => None,
        (root @ ("state" | "input"), Some(field)) => Some(format!("{root}.{field}")),
        (root, _) => Some(root.to_owned()),
    }
}
