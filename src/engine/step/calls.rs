//! The calls of tools within a task: which are made in a superstep, and which wait for a person.
//!
//! Invariant: whatever comes of one call, the others are made: a leaf that was begun gives a result, which must be taken.

use std::sync::Arc;

use serde_json::Value as Json;

use super::begin::{
    Beginning, Begun, Calling, Doing, LeafWork, Level, Making, Part, Planner, dismissed, fit,
};
use super::held::{Called, Going, Question, Reply, Stage};
use crate::event::Body;
use crate::failure::{ErrorKind, Failure};
use crate::id::InterruptId;
use crate::node::{Back, Node};
use crate::plan::{ToolBody, ToolPlan, Work};

impl<'a> Planner<'a> {
    pub(super) fn tool(
        &mut self,
        level: &Level<'a>,
        part: &Part<'a, '_>,
        tool: &Arc<ToolPlan>,
        with: &indexmap::IndexMap<String, crate::expr::ExprTree>,
    ) -> Result<Doing, Failure> {
        let scope = self.scope(level, part);
        let args = with
            .iter()
            .map(|(name, tree)| Ok((name.clone(), tree.eval(&scope)?)))
            .collect::<Result<serde_json::Map<_, _>, Failure>>()?;
        let mut args = Json::Object(args);
        fit(&tool.args, &mut args)?;
        let called = Called {
            id: part.task.to_string(),
            tool: tool.name.clone(),
            // One call a task: it is known by the same in every attempt.
            task: part.task.part(0, &tool.name, 0),
            args: Arc::new(args),
            edited: false,
            stage: Stage::Due,
        };
        let making = match approval(tool, &called) {
            Some(question) => Making::Asks(question),
            None => self.make(level, part, tool, &called)?,
        };
        Ok(Doing::Tool(Calling { called, making }))
    }

    /// Begins a call that nothing stands in the way of.
    fn make(
        &mut self,
        level: &Level<'a>,
        part: &Part<'a, '_>,
        tool: &Arc<ToolPlan>,
        called: &Called,
    ) -> Result<Making, Failure> {
        match &tool.body {
            ToolBody::Call(_) => {
                let work = LeafWork::Tool(Arc::clone(tool), called.clone());
                self.leaf(level, part, &called.task, work);
                Ok(Making::Leaf)
            }
            ToolBody::Graph(graph) => {
                let frame = self.frame(graph, Json::clone(&called.args), None)?;
                // Before what happens in it.
                let (call_id, tool, args) = (called.id.clone(), tool.name.clone(), Json::clone(&called.args));
                let what = Beginning::Tool(Body::ToolCalled { call_id, tool, args });
                self.begun.push(Begun { place: Self::place(level, part, &part.task), what });
                Ok(match self.graph(level, part, &called.task, Box::new(frame)) {
                    Doing::Graph(frame, step) => Making::Graph(frame, step),
                    Doing::Fails(failure) => Making::Fails(failure),
                    _ => Making::Rests,
                })
            }
        }
    }

    pub(super) fn going_tool(&mut self, level: &Level<'a>, part: &Part<'a, '_>, called: Called) -> Doing {
        let Work::Tool(tool, _) = &part.job.work else { return Doing::Waits(Going::Tool(called)) };
        let calling = self.calling(level, part, tool, called);
        match calling.making {
            Making::Fails(failure) => Doing::Fails(failure),
            Making::Rests => Doing::Waits(Going::Tool(calling.called)),
            _ => Doing::Tool(calling),
        }
    }

    /// Plans how a call goes on.
    fn calling(
        &mut self,
        level: &Level<'a>,
        part: &Part<'a, '_>,
        tool: &Arc<ToolPlan>,
        mut called: Called,
    ) -> Calling {
        let fails = |called, failure| Calling { called, making: Making::Fails(failure) };
        match called.stage.clone() {
            Stage::Settled(_) => return Calling { called, making: Making::Rests },
            Stage::Asked(question) => match self.world.replies.get(&question.id) {
                None => return Calling { called, making: Making::Rests },
                Some(Reply::Dismissed) => return fails(called, dismissed()),
                Some(Reply::Answer(answer)) => match approved(answer, tool) {
                    Ok(None) => called.stage = Stage::Due,
                    Ok(Some(args)) => {
                        called.edited = *called.args != args;
                        (called.stage, called.args) = (Stage::Due, Arc::new(args));
                    }
                    Err(why) => return Calling { called, making: Making::Refused(why) },
                },
            },
            Stage::Graph(frame) => {
                return match self.graph(level, part, &called.task.clone(), frame) {
                    Doing::Graph(frame, step) => Calling { called, making: Making::Graph(frame, step) },
                    Doing::Fails(failure) => fails(called, failure),
                    _ => Calling { called, making: Making::Rests },
                };
            }
            Stage::Due => {}
        }
        match self.make(level, part, tool, &called) {
            Ok(making) => Calling { called, making },
            Err(failure) => fails(called, failure),
        }
    }

    pub(super) fn calls(
        &mut self,
        level: &Level<'a>,
        part: &Part<'a, '_>,
        node: &Arc<dyn Node>,
        memo: Json,
        calls: Vec<Called>,
    ) -> Doing {
        if let Some(answers) = calls.iter().map(Called::answered).collect::<Option<Vec<_>>>() {
            let back = Some(Back { memo, answers });
            self.leaf(level, part, &part.task, LeafWork::Node(Arc::clone(node), back));
            return Doing::Works;
        }
        let calling = |called: Called| match (&called.stage, part.job.tools.get(&called.tool)) {
            (Stage::Settled(_), _) => Calling { called, making: Making::Rests },
            (_, Some(tool)) => self.calling(level, part, tool, called),
            (_, None) => {
                let why = Failure::new(ErrorKind::Tool, format!("there is no tool `{}`", called.tool));
                Calling { called, making: Making::Fails(why) }
            }
        };
        let making: Vec<Calling> = calls.into_iter().map(calling).collect();
        if making.iter().any(|calling| calling.making != Making::Rests) {
            return Doing::Calls { memo, calls: making };
        }
        let calls = making.into_iter().map(|calling| calling.called).collect();
        Doing::Waits(Going::Calls { memo, calls })
    }
}

/// Returns the question that stands before a call.
pub(super) fn approval(tool: &ToolPlan, called: &Called) -> Option<Question> {
    tool.approval.then(|| Question {
        id: InterruptId::of(&called.task),
        text: format!("May `{}` be called?", tool.name),
        expires_at: None,
    })
}

/// Reads what a person says to a call: other arguments, or why it must not be made.
fn approved(answer: &Json, tool: &ToolPlan) -> Result<Option<Json>, String> {
    match answer {
        Json::String(word) if word == "approve" => Ok(None),
        Json::Object(map) => match (map.get("edit"), map.get("reject")) {
            (Some(args), None) => {
                let mut args = args.clone();
                fit(&tool.args, &mut args).map_err(|failure| failure.message)?;
                Ok(Some(args))
            }
            (None, Some(Json::String(why))) => Err(format!("a person refused the call: {why}")),
            _ => Err("a person refused the call".into()),
        },
        _ => Err("a person refused the call".into()),
    }
}
