//! What can be written in a test: names of the graph that it is of.

use super::At;
use crate::event::NAMES;
use crate::lsp::cursor::Cursor;
use crate::lsp::index::Callee;
use crate::lsp::offer::{Offer, What};
use crate::lsp::symbol::Sort;
use crate::lsp::told::{Spot, plain};
use crate::spec::grammar::Named;

impl At<'_> {
    /// Offers names of a sort in a test.
    pub(super) fn told(&self, named: Named, cursor: &Cursor<'_>, text: &str) -> Vec<Offer> {
        let Some(graph) = Cursor::value_in(text, "tests") else { return Vec::new() };
        let file = format!("{graph}.yaml");
        match named {
            Named::Node => self.told_nodes(graph, cursor),
            Named::Channel => self.symbols(Sort::Channel, &file),
            Named::Input => self.symbols(Sort::Input, &file),
            Named::Output => match self.project.outputs(&file) {
                Some(fields) => fields.iter().map(|name| Offer::new(name, What::Variable)).collect(),
                None => self.symbols(Sort::Channel, &file),
            },
            Named::Tool => self.symbols(Sort::Tool, &file),
            Named::Argument => {
                let spot = self.project.spot(graph, way(cursor));
                let tool = spot.and_then(|spot| self.project.tool_at(&spot));
                tool.map(|tool| self.arguments(&tool)).unwrap_or_default()
            }
            Named::Event => NAMES.iter().map(|name| Offer::new(*name, What::Value)).collect(),
            _ => Vec::new(),
        }
    }

    /// Offers nodes, behind `caller/` those of the graph that is called, or the tools of the model.
    fn told_nodes(&self, graph: &str, cursor: &Cursor<'_>) -> Vec<Offer> {
        let typed = cursor.typed.trim_start().trim_start_matches(['"', '\'']);
        let written = typed.rsplit_once('/').map(|(before, _)| before);
        let way =
            way(cursor).into_iter().chain(written.into_iter().flat_map(|way| way.split('/')).map(plain));
        let callee = match self.project.spot(graph, way) {
            Some(Spot::Graph(file)) => return self.symbols(Sort::Node, &file),
            Some(Spot::Node(file, node)) => self.project.callee(&file, &node),
            _ => None,
        };
        match callee {
            Some(Callee::Graph(graph)) => self.symbols(Sort::Node, &format!("{graph}.yaml")),
            Some(Callee::Model) => self.symbols(Sort::Tool, ""),
            _ => Vec::new(),
        }
    }
}

/// Returns the nodes around a place, from one graph into the next, and the tool whose arguments it stands in.
fn way<'t>(cursor: &Cursor<'t>) -> Vec<&'t str> {
    // The last key is the place itself where nothing is below it.
    let below = cursor.path.windows(2).filter(|pair| ["script", "nodes", "calls"].contains(&pair[0].name));
    below.flat_map(|pair| pair[1].name.split('/')).map(plain).collect()
}
