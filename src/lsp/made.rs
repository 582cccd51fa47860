//! What nodes and tools give, as far as their files tell.

use indexmap::IndexMap;

use super::project::Project;
use super::symbol::{Sort, Symbol};
use crate::compile::Types;
use crate::diagnostic::Bag;
use crate::spec::{KindSpec, ToolBodySpec, ToolSpec, TypeSpec};
use crate::state::{Field, Type};

/// What something gives. What names stand for is looked up when somebody asks.
#[derive(Debug)]
pub(super) enum Made {
    Type(Type),
    Written(TypeSpec),
    Tool(String),
    Graph(String),
    Function(String),
    /// A response, and the type of its body.
    Response(Option<TypeSpec>),
    List(Box<Made>),
}

/// How deep graphs and lists are looked into.
const DEEPEST: usize = 8;

impl Made {
    /// Returns what a node gives.
    pub(super) fn by_node(kind: &KindSpec) -> Option<Self> {
        let written = |ty: &TypeSpec| Self::Written(ty.clone());
        Some(match kind {
            KindSpec::Llm(llm) => llm.output.as_ref().map_or(Self::Type(Type::STRING), |(_, ty)| written(ty)),
            KindSpec::Tool(tool) => Self::Tool(tool.tool.as_ref()?.value.clone()),
            KindSpec::Http(http) => Self::Response(http.response.clone()),
            KindSpec::Ask(ask) => match (&ask.options, &ask.schema) {
                (Some((_, options)), _) => {
                    Self::Type(Type::Enum(options.iter().map(|option| option.value.clone()).collect()))
                }
                (None, Some((_, ty))) => written(ty),
                (None, None) => Self::Type(Type::STRING),
            },
            KindSpec::Map(map) => {
                let item = match &map.body.as_ref()?.body {
                    // An item of a request is its body.
                    KindSpec::Http(http) => http.response.as_ref().map_or(Self::Type(Type::Any), written),
                    kind => Self::by_node(kind)?,
                };
                Self::List(Box::new(item))
            }
            KindSpec::Graph(graph) => Self::Graph(graph.graph.as_ref()?.value.clone()),
            KindSpec::Custom(custom) => Self::Function(custom.name.as_ref()?.value.clone()),
            KindSpec::Say { .. } | KindSpec::Set { .. } | KindSpec::Route | KindSpec::Fail { .. } => {
                return None;
            }
        })
    }

    /// Returns what a tool of project.yaml gives.
    pub(super) fn by_tool(tool: &ToolSpec) -> Option<Self> {
        Some(match (&tool.result, &tool.body) {
            (Some(ty), _) => Self::Written(ty.clone()),
            (None, ToolBodySpec::Custom(name)) => Self::Function(name.value.clone()),
            (None, ToolBodySpec::Graph(graph)) => Self::Graph(graph.value.clone()),
            (None, ToolBodySpec::Http(_) | ToolBodySpec::Mcp(_)) => return None,
        })
    }
}

impl Project {
    /// Returns the type of what a node gives.
    pub(super) fn given(&self, file: &str, node: &str, types: &Types) -> Option<Type> {
        self.made(self.files.get(file)?.index()?.made.get(node)?, types, 0)
    }

    fn made(&self, made: &Made, types: &Types, depth: usize) -> Option<Type> {
        if depth > DEEPEST {
            return None;
        }
        let written = |spec: &TypeSpec| Some(types.field(spec, &mut Bag::default())?.ty);
        Some(match made {
            Made::Type(ty) => ty.clone(),
            Made::Written(spec) => written(spec)?,
            Made::Tool(tool) => {
                let mut indexes = self.files.values().filter_map(super::kept::Kept::index);
                self.made(indexes.find_map(|index| index.tools.get(tool))?, types, depth + 1)?
            }
            Made::Graph(graph) => self.outcome(&format!("{graph}.yaml"), types)?,
            Made::Function(name) => self.functions.get(name)?.result.clone(),
            Made::Response(body) => {
                let body = body.as_ref().and_then(written).unwrap_or(Type::Any);
                let fields = [("status", Type::INTEGER), ("headers", Type::Object), ("body", body)];
                Type::Record(fields.map(|(name, ty)| (name.to_owned(), Field::of(ty))).into())
            }
            Made::List(item) => Type::List(Box::new(self.made(item, types, depth + 1)?)),
        })
    }

    /// Returns what a graph gives. Of what it makes by expressions the names are known.
    fn outcome(&self, file: &str, types: &Types) -> Option<Type> {
        let index = self.files.get(file)?.index()?;
        if let Some(names) = &index.outputs {
            let any = |name: &String| (name.clone(), Field::of(Type::Any));
            return Some(Type::Record(names.iter().map(any).collect()));
        }
        let all = self.names(Sort::Channel, file);
        let field = |name: String| {
            let symbol = Symbol::new(Sort::Channel, file, &name);
            let channel = self.channel(&symbol, types);
            let public = channel.is_none_or(|channel| !channel.private && channel.field.ty != Type::Messages);
            let told = index.listed.as_ref().map_or(public, |listed| listed.contains(&name));
            let field = self.field(&symbol, types).unwrap_or_else(|| Field::of(Type::Any));
            told.then_some((name, field))
        };
        Some(Type::Record(all.into_iter().filter_map(field).collect::<IndexMap<_, _>>()))
    }
}
