//! Where names and their fields were declared, so that a finding can point at both ends of a disagreement.

use std::collections::BTreeMap;

use crate::diagnostic::{Span, Spanned};
use crate::spec::{Base, Project, TypeSpec};

/// The places of declarations, by path: `state.triage.intent`. The values of an enum have the path of the enum with
/// `=` and the value.
#[derive(Debug, Default)]
pub(super) struct Declared(BTreeMap<String, Span>);

/// How many fields deep places are kept.
const DEEPEST: usize = 6;

impl Declared {
    /// Returns the place of a path.
    pub(super) fn get(&self, path: &str) -> Option<Span> {
        self.0.get(path).copied()
    }

    /// Adds names that stand below a root, such as `state`; none: they are roots themselves.
    pub(super) fn add(
        &mut self,
        root: Option<&str>,
        specs: &[(Spanned<String>, TypeSpec)],
        project: &Project,
    ) {
        for (name, spec) in specs {
            let path = root.map_or_else(|| name.value.clone(), |root| format!("{root}.{}", name.value));
            self.0.insert(path.clone(), name.span);
            self.below(&path, spec, project, &mut Vec::new(), DEEPEST);
        }
    }

    /// Adds one name with its place.
    pub(super) fn insert(&mut self, path: String, at: Span) {
        self.0.insert(path, at);
    }

    /// `open` are the named types around: where one comes round within itself, its places are known already.
    fn below<'p>(
        &mut self,
        path: &str,
        spec: &'p TypeSpec,
        project: &'p Project,
        open: &mut Vec<&'p str>,
        depth: usize,
    ) {
        let Some(depth) = depth.checked_sub(1) else { return };
        match spec {
            TypeSpec::Name { name, .. } => {
                if let Some((_, named)) = project.types.iter().find(|(known, _)| known.value == name.value)
                    && !open.contains(&name.value.as_str())
                {
                    open.push(&name.value);
                    self.below(path, named, project, open, depth);
                    open.pop();
                }
            }
            TypeSpec::List(..) => {}
            TypeSpec::Record(fields, _) => self.fields(path, fields, project, open, depth),
            TypeSpec::Descriptor(descriptor) => match &descriptor.base {
                Base::Type(spec) => self.below(path, spec, project, open, depth),
                Base::Fields(fields) => self.fields(path, fields, project, open, depth),
                Base::Schema(_) => {}
                Base::Enum(values) => {
                    self.0.extend(values.iter().map(|value| (format!("{path}={}", value.value), value.span)));
                }
            },
        }
    }

    fn fields<'p>(
        &mut self,
        path: &str,
        fields: &'p [(Spanned<String>, TypeSpec)],
        project: &'p Project,
        open: &mut Vec<&'p str>,
        depth: usize,
    ) {
        for (name, spec) in fields {
            let path = format!("{path}.{}", name.value);
            self.0.insert(path.clone(), name.span);
            self.below(&path, spec, project, open, depth);
        }
    }
}
