//! The projects that are open: the files on the disk, with what an editor has open in their place.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Functions;
use super::index::{Callee, Index};
use super::kept::Kept;
use super::symbol::{Access, Mark, Sort, Symbol};
use crate::compile::{Function, Types};
use crate::diagnostic::Bag;
use crate::spec::{Base, TypeSpec};
use crate::state::{Channel, Field, Type};

/// A project folder.
#[derive(Debug)]
pub(super) struct Project {
    pub(super) root: PathBuf,
    /// Its files by their paths within the folder.
    pub(super) files: BTreeMap<String, Kept>,
    /// Also the files that nobody has open are known.
    pub(super) whole: bool,
    pub(super) functions: Functions,
}

/// A name somewhere in a project, with its place as it is now.
#[derive(Debug, Clone)]
pub(super) struct Found<'p> {
    pub(super) path: &'p str,
    pub(super) mark: &'p Mark,
    pub(super) range: Range<usize>,
    pub(super) extent: Range<usize>,
}

impl Project {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root, files: BTreeMap::new(), whole: false, functions: Functions::default() }
    }

    /// Returns the path of a file within the folder, with `/`.
    pub(super) fn relative(&self, file: &Path) -> Option<String> {
        relative(&self.root, file)
    }

    /// Returns the whole path of a file.
    pub(super) fn full(&self, path: &str) -> PathBuf {
        // Joined part by part, the separators are those of the system.
        path.split('/').fold(self.root.clone(), |full, part| full.join(part))
    }

    /// Takes in what was found on the disk. What is open stays as it is.
    pub(super) fn adopt(&mut self, disk: BTreeMap<String, (Arc<str>, Option<Index>)>) {
        self.whole = true;
        self.files.retain(|path, kept| kept.open || disk.contains_key(path));
        for (path, (text, index)) in disk {
            let kept = self.files.entry(path).or_default();
            if kept.open {
                kept.recall(index);
            } else {
                kept.adopt(text, index);
            }
        }
        self.link();
    }

    /// Makes indexes of what changed.
    pub(super) fn settle(&mut self) {
        let mut settled = false;
        for (path, kept) in self.files.iter_mut().filter(|(_, kept)| kept.open) {
            settled |= kept.settle(path);
        }
        if settled {
            self.link();
        }
    }

    /// Returns all names.
    pub(super) fn marks(&self) -> impl Iterator<Item = Found<'_>> {
        self.files.iter().flat_map(|(path, kept)| {
            kept.marks().map(|(mark, range, extent)| Found { path, mark, range, extent })
        })
    }

    /// Returns all places of a thing. A field is the same wherever its type is used.
    pub(super) fn places(&self, symbol: &Symbol) -> Vec<Found<'_>> {
        let owner = self.owner(symbol);
        let near = |found: &Found<'_>| {
            let other = &found.mark.symbol;
            other == symbol
                || (!symbol.fields.is_empty()
                    && other.fields.last() == symbol.fields.last()
                    && self.owner(other) == owner)
        };
        self.marks().filter(near).collect()
    }

    /// Returns where a thing is defined.
    pub(super) fn definition(&self, symbol: &Symbol) -> Option<Found<'_>> {
        let owner = self.owner(symbol);
        self.marks().find(|found| found.mark.access == Access::Define && found.mark.symbol == owner)
    }

    /// Returns the names of a sort; of names that belong to a file those of this one.
    pub(super) fn names(&self, sort: Sort, file: &str) -> Vec<String> {
        let from_files = |strip: &dyn Fn(&str) -> Option<String>| {
            self.files.keys().filter_map(|path| strip(path.strip_prefix("prompts/")?)).collect()
        };
        match sort {
            Sort::Prompt => {
                return from_files(&|path| {
                    (!is_partial(path)).then(|| path.strip_suffix(".md").map(str::to_owned))?
                });
            }
            Sort::Partial => return from_files(&|path| is_partial(path).then(|| path.to_owned())),
            Sort::Graph => {
                let stems = self.files.keys().filter_map(|path| path.strip_suffix(".yaml"));
                let graphs = stems.filter(|stem| !stem.contains('/') && *stem != "project");
                return graphs.map(str::to_owned).collect();
            }
            _ => {}
        }
        let scope = Symbol::new(sort, file, "").scope;
        let indexes = self.files.values().filter_map(Kept::index);
        let defined = indexes.flat_map(|index| &index.marks).filter(|mark| {
            let symbol = &mark.symbol;
            mark.access == Access::Define
                && symbol.sort == sort
                && symbol.scope == scope
                && symbol.fields.is_empty()
        });
        defined.map(|mark| mark.symbol.name.clone()).collect()
    }

    /// Returns the arguments of a tool.
    pub(super) fn arguments(&self, tool: &str) -> Vec<String> {
        let marks = self.files.values().filter_map(Kept::index).flat_map(|index| &index.marks);
        let is = |mark: &&Mark| {
            mark.access == Access::Define
                && mark.symbol.sort == Sort::Tool
                && mark.symbol.name == tool
                && mark.symbol.fields.len() == 1
        };
        let declared: Vec<String> =
            marks.filter(is).filter_map(|mark| mark.symbol.fields.first().cloned()).collect();
        if !declared.is_empty() {
            return declared;
        }
        self.function_of(tool).map(|function| function.args.keys().cloned().collect()).unwrap_or_default()
    }

    /// Returns the function that is called by a tool which does not say what its arguments are.
    fn function_of(&self, tool: &str) -> Option<&Function> {
        let index = self.files.get("project.yaml")?.index()?;
        match index.calls.get(tool)? {
            Callee::Function(name) => self.functions.get(name),
            _ => None,
        }
    }

    /// Returns the type of a thing as it is written.
    fn written(&self, symbol: &Symbol) -> Option<&TypeSpec> {
        let file = if symbol.scope.is_empty() { "project.yaml" } else { &symbol.scope };
        let types = &self.files.get(file)?.index()?.types;
        types.iter().find(|(name, _)| name == symbol).map(|(_, spec)| spec)
    }

    /// Returns the named types of the project.
    pub(super) fn types(&self) -> Types {
        let project = self.files.get("project.yaml").and_then(Kept::index);
        let types: Vec<_> = project
            .map(|index| &index.types[..])
            .unwrap_or_default()
            .iter()
            .filter(|(symbol, _)| symbol.sort == Sort::Type)
            .map(|(symbol, spec)| {
                let value = symbol.name.clone();
                (crate::diagnostic::Spanned { value, span: spec.span() }, spec.clone())
            })
            .collect();
        Types::resolve(
            &crate::spec::Project { types, ..crate::spec::Project::default() },
            &mut Bag::default(),
        )
    }

    /// Returns what a channel, an input, a type or a field of one holds.
    pub(super) fn field(&self, symbol: &Symbol, types: &Types) -> Option<Field> {
        // Of a tool the arguments have types.
        let own = usize::from(symbol.sort == Sort::Tool).min(symbol.fields.len());
        if symbol.sort == Sort::Tool
            && let Some(field) = self.signed(symbol)
        {
            return Some(field);
        }
        let spec = self.written(&Symbol { fields: symbol.fields[..own].to_vec(), ..symbol.clone() })?;
        symbol.fields[own..]
            .iter()
            .try_fold(types.field(spec, &mut Bag::default())?, |field, name| below(&field.ty, name))
    }

    /// Returns what a server, or a host program, says of a tool or of an argument.
    fn signed(&self, symbol: &Symbol) -> Option<Field> {
        let mut indexes = self.files.values().filter_map(Kept::index);
        let Some((name, rest)) = symbol.fields.split_first() else {
            return indexes.find_map(|index| index.signed.get(&symbol.name)).cloned();
        };
        let field = match indexes.find_map(|index| index.signed.get(&symbol.name)) {
            Some(Field { ty: Type::Record(fields), .. }) => fields.get(name)?.clone(),
            _ if self.written(&Symbol { fields: vec![name.clone()], ..symbol.clone() }).is_some() => {
                return None;
            }
            _ => self.function_of(&symbol.name)?.args.get(name)?.clone(),
        };
        rest.iter().try_fold(field, |field, name| below(&field.ty, name))
    }

    /// Returns a channel as it works.
    pub(super) fn channel(&self, symbol: &Symbol, types: &Types) -> Option<Channel> {
        let spec = self.written(symbol)?;
        let name = crate::diagnostic::Spanned { value: symbol.name.clone(), span: spec.span() };
        types.channel(&name, spec, &mut Bag::default())
    }

    /// Returns the thing that a field is a field of where it is written down: a named type, mostly.
    pub(super) fn owner(&self, symbol: &Symbol) -> Symbol {
        let mut owner = symbol.base();
        let Some(mut spec) = self.written(&owner) else { return symbol.clone() };
        for name in &symbol.fields {
            // As deep as names lead, and no deeper where they lead in a circle.
            for _ in 0..32 {
                match spec {
                    TypeSpec::List(item, _) => spec = item,
                    TypeSpec::Descriptor(descriptor) => match &descriptor.base {
                        Base::Type(inner) => spec = inner,
                        Base::Enum(_) | Base::Fields(_) | Base::Schema(_) => break,
                    },
                    TypeSpec::Name { name, .. } => {
                        let named = Symbol::new(Sort::Type, "", &name.value);
                        let Some(inner) = self.written(&named) else { return symbol.clone() };
                        (owner, spec) = (named, inner);
                    }
                    TypeSpec::Record(..) => break,
                }
            }
            let fields = match spec {
                TypeSpec::Record(fields, _) => fields,
                TypeSpec::Descriptor(descriptor) => match &descriptor.base {
                    Base::Fields(fields) => fields,
                    _ => return symbol.clone(),
                },
                _ => return symbol.clone(),
            };
            let Some((_, inner)) = fields.iter().find(|(field, _)| field.value == *name) else {
                return symbol.clone();
            };
            owner.fields.push(name.clone());
            spec = inner;
        }
        owner
    }
}

/// Returns a field of a type, also of the items of a list.
pub(super) fn below(ty: &Type, name: &str) -> Option<Field> {
    let mut ty = ty.opened();
    // A type can be a list of nothing but itself.
    for _ in 0..LISTS {
        match ty.non_null() {
            Type::List(item) => ty = item.opened(),
            Type::Record(fields) => {
                let field = fields.get(name)?;
                return Some(Field { ty: field.ty.opened(), ..field.clone() });
            }
            Type::Messages => {
                return match name {
                    "id" | "role" => Some(Field::of(Type::STRING)),
                    "content" => Some(Field::of(Type::Any)),
                    _ => None,
                };
            }
            _ => return None,
        }
    }
    None
}

/// The most lists around a record whose fields are looked at.
const LISTS: usize = 16;

/// Tells whether a path below `prompts/` is for including only.
pub(super) fn is_partial(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "_partials" | "_macros"))
}

/// Returns the path of a file within a folder, with `/`.
fn relative(root: &Path, file: &Path) -> Option<String> {
    let inside = file.strip_prefix(root).ok()?;
    let parts: Option<Vec<&str>> = inside.components().map(|part| part.as_os_str().to_str()).collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.join("/"))
}

/// Finds the project folder of a file: the nearest folder above it that holds a project.yaml, or is called `graphs`
/// as projects are that nobody names. Other folders are not looked through: they may be anything.
pub(super) fn root_of(file: &Path, project: &dyn Fn(&Path) -> Option<String>) -> Option<PathBuf> {
    let is_project = |folder: &&Path| {
        folder.ends_with("graphs") || project(&folder.join("project.yaml")).is_some_and(|text| is_ours(&text))
    };
    file.parent()?.ancestors().find(is_project).map(Path::to_owned)
}

/// Tells a project.yaml of ours from those of other programs.
fn is_ours(text: &str) -> bool {
    text.lines().any(|line| ["format:", "models:", "default_model:"].iter().any(|key| line.starts_with(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_within_a_type_that_contains_itself() {
        let text = "format: 1\ntypes:\n  Tree: {word: string, all: [Tree], up: 'Tree?'}\n  Nest: [Nest]\n";
        let files = [("project.yaml".to_owned(), text.as_bytes().to_vec())];
        let project = crate::spec::load_files("", files.into(), &mut Bag::default()).project;
        let types = Types::resolve(&project, &mut Bag::default());
        let of = |name: &str| {
            let (_, spec) = project.types.iter().find(|(known, _)| known.value == name).unwrap();
            types.field(spec, &mut Bag::default()).unwrap()
        };
        let mut field = of("Tree");
        for _ in 0..20 {
            field = below(&below(&field.ty, "all").unwrap().ty, "up").unwrap();
            assert_eq!(field.ty.to_string(), "{word: string, all: [Tree], up: Tree?}?");
        }
        assert_eq!(below(&of("Nest").ty, "word"), None);
    }

    #[test]
    fn a_file_belongs_to_the_nearest_project_above_it() {
        let project = |path: &Path| match path.to_str()? {
            "/w/desk/project.yaml" | "/w/desk/inner/project.yaml" => Some("format: 1\n".to_owned()),
            "/w/project.yaml" => Some("name: another program\n".to_owned()),
            _ => None,
        };
        for (file, expected) in [
            ("/w/desk/chat.yaml", Some("/w/desk")),
            ("/w/desk/prompts/a/b.md", Some("/w/desk")),
            ("/w/desk/project.yaml", Some("/w/desk")),
            ("/w/desk/inner/chat.yaml", Some("/w/desk/inner")),
            ("/w/graphs/prompts/a/b.md", Some("/w/graphs")),
            ("/w/compose.yaml", None),
            ("/w/prompts/a.md", None),
            ("/", None),
        ] {
            let found = root_of(Path::new(file), &project);
            assert_eq!(found, expected.map(PathBuf::from), "{file}");
        }
    }
}
