//! What a name in a file stands for, and where names stand.

use std::ops::Range;

use crate::spec::grammar::Named;

/// What a name is the name of. A new sort of names needs a line here and its `Named` in the table of the language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    Node,
    Channel,
    /// Of a graph or of a prompt; the scope tells which.
    Input,
    Type,
    Prompt,
    Partial,
    Model,
    Retry,
    /// A tool; its fields are its arguments.
    Tool,
    Graph,
    Setting,
}

/// A thing with a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Symbol {
    pub(super) sort: Sort,
    /// The file that the name is known in, by its path within the project; empty: everywhere.
    pub(super) scope: String,
    pub(super) name: String,
    /// The fields below it that are meant; none: the thing itself.
    pub(super) fields: Vec<String>,
}

/// How a place uses a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Define,
    Read,
    Write,
}

/// A name at a place.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// The bytes of the name.
    pub(super) range: Range<usize>,
    /// Where it is defined: the bytes of the whole definition.
    pub(super) extent: Range<usize>,
    pub(super) symbol: Symbol,
    pub(super) access: Access,
    /// The node that the place is in.
    pub(super) within: Option<String>,
}

impl Sort {
    /// Returns the sort of a name of the language, when an editor can follow it.
    pub(super) fn of(named: Named) -> Option<Self> {
        Some(match named {
            Named::Node => Self::Node,
            Named::Channel => Self::Channel,
            Named::Input => Self::Input,
            Named::Type => Self::Type,
            Named::Prompt => Self::Prompt,
            Named::Model => Self::Model,
            Named::Retry => Self::Retry,
            Named::Tool => Self::Tool,
            Named::Graph => Self::Graph,
            Named::Setting => Self::Setting,
            _ => return None,
        })
    }

    /// Tells whether the names are known in one file only.
    pub(super) fn is_local(self) -> bool {
        matches!(self, Self::Node | Self::Channel | Self::Input)
    }

    /// Names the sort for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Channel => "channel",
            Self::Input => "input",
            Self::Type => "type",
            Self::Prompt => "prompt",
            Self::Partial => "partial",
            Self::Model => "model",
            Self::Retry => "retry policy",
            Self::Tool => "tool",
            Self::Graph => "graph",
            Self::Setting => "setting",
        }
    }

    /// Says what a new name has to be, in the words of the checker; nothing: it cannot be renamed here.
    pub(super) fn rule(self) -> Option<&'static str> {
        match self {
            Self::Node => Some("a node"),
            Self::Channel => Some("a channel"),
            Self::Type => Some("a type"),
            Self::Model => Some("a model"),
            Self::Retry => Some("a retry policy"),
            Self::Input | Self::Prompt | Self::Partial | Self::Tool | Self::Graph | Self::Setting => None,
        }
    }
}

impl Symbol {
    /// Names a thing; `file` counts only where names belong to a file.
    pub(super) fn new(sort: Sort, file: &str, name: &str) -> Self {
        let scope = if sort.is_local() { file.to_owned() } else { String::new() };
        Self { sort, scope, name: name.to_owned(), fields: Vec::new() }
    }

    /// Returns the thing without its fields.
    pub(super) fn base(&self) -> Self {
        Self { fields: Vec::new(), ..self.clone() }
    }

    /// Returns the file that defines it, for what is a file.
    pub(super) fn file(&self) -> Option<String> {
        match self.sort {
            Sort::Prompt => Some(format!("prompts/{}.md", self.name)),
            Sort::Partial => Some(format!("prompts/{}", self.name)),
            Sort::Graph => Some(format!("{}.yaml", self.name)),
            _ => None,
        }
    }
}
