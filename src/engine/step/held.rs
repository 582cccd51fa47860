//! Tasks that are not done: what they go on with in a later superstep. It is stored with the frontier.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

use super::{Frontier, Worked};
use crate::event::{Interrupt, Scope as Place, Usage, Who};
use crate::id::{CacheKey, InterruptId, TaskId};
use crate::node::{self, Answered, Left};
use crate::plan::{Form, Job, OnMessage, Plan, Work};
use crate::state::{Delta, State, Write, fold, join};

/// A task that is not done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The task, as it began.
    pub task: TaskId,
    /// What it goes on with.
    pub going: Going,
    /// Tokens that it used so far.
    #[serde(default, skip_serializing_if = "Usage::is_none")]
    pub usage: Usage,
}

/// What a task goes on with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Going {
    /// A node that calls tools.
    Calls {
        /// What it left for itself.
        memo: Json,
        /// Its calls, in order.
        calls: Vec<Called>,
    },
    /// A question that is put.
    Question(Question),
    /// The call of a tool.
    Tool(Called),
    /// Another graph.
    Graph(Box<Frame>),
    /// The items of a list.
    Map(Vec<Item>),
    /// Any of these, whose result is kept when it is there.
    ToCache(CacheKey, Box<Going>),
}

/// A question that is put to a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Its id.
    pub id: InterruptId,
    /// Its text.
    pub text: String,
    /// When it can be answered no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// The call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Called {
    /// What the model calls it by; the task where no model calls.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// The call as a task.
    pub task: TaskId,
    /// The arguments.
    pub args: Arc<Json>,
    /// They are not those that the model wrote: a person changed them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub edited: bool,
    /// How far it is.
    pub stage: Stage,
}

/// How far the call of a tool is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// It is to be made.
    Due,
    /// A person is asked first.
    Asked(Question),
    /// The tool is a graph, which is under way.
    Graph(Box<Frame>),
    /// It gave this, or failed.
    Settled(Result<Json, String>),
}

/// A graph that another one calls, between two supersteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The graph, by its name among the children of the plan.
    pub graph: String,
    /// Its inputs.
    pub input: Arc<Json>,
    /// Its state.
    pub state: State,
    /// What runs next in it.
    pub frontier: Frontier,
    /// How often it failed and was tried again.
    #[serde(default)]
    pub failed: u32,
    /// The superstep that failed first, while it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// What was done in that superstep beside the failure.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub done: Arc<BTreeMap<TaskId, Worked>>,
}

fn is_empty(done: &Arc<BTreeMap<TaskId, Worked>>) -> bool {
    done.is_empty()
}

impl Frame {
    /// Makes a graph between two supersteps.
    pub(super) fn new(graph: &str, input: Arc<Json>, state: State, frontier: Frontier) -> Self {
        let (since, done) = (None, Arc::default());
        Self { graph: graph.to_owned(), input, state, frontier, failed: 0, since, done }
    }
}

/// An item of a list that is worked on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The work on it as a task.
    pub task: TaskId,
    /// The item.
    pub value: Arc<Json>,
    /// How far it is.
    pub stage: ItemStage,
    /// How often it failed and was tried again.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_zero(failed: &u32) -> bool {
    *failed == 0
}

/// How far the work on an item is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemStage {
    /// Nothing was done yet.
    Due,
    /// It goes on.
    Going(Going),
    /// It gave this.
    Done(Json),
    /// It failed, and is left out.
    Skipped,
}

/// The state of a graph that stays with its calling node.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Kept {
    /// The state.
    pub state: State,
    /// Those of the graphs that it calls itself, by node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kept: BTreeMap<String, Kept>,
}

/// What a person says to a question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The answer.
    Answer(Json),
    /// The question is cancelled.
    Dismissed,
}

/// The answers that are there, by question.
pub type Replies = BTreeMap<InterruptId, Reply>;

impl Held {
    /// Returns what the task has said and done, for the conversation, where it goes on no more.
    pub(super) fn left_behind(&self) -> Vec<Json> {
        let mut going = &self.going;
        while let Going::ToCache(_, inner) = going {
            going = inner;
        }
        let Going::Calls { memo, calls } = going else { return Vec::new() };
        let calls = calls.iter().map(|called| {
            let left = match &called.stage {
                Stage::Settled(result) => Left::Settled(called.edited.then_some(&*called.args), result),
                Stage::Asked(_) => Left::Asked,
                Stage::Due | Stage::Graph(_) => Left::Begun,
            };
            (called.id.as_str(), left)
        });
        node::left_behind(&self.task, memo, calls)
    }
}

impl Called {
    /// Returns what the node is told of it, when it is over.
    pub(super) fn answered(&self) -> Option<Answered> {
        let Stage::Settled(result) = &self.stage else { return None };
        let edited = self.edited.then(|| Arc::clone(&self.args));
        Some(Answered { id: self.id.clone(), tool: self.tool.clone(), edited, result: result.clone() })
    }
}

/// An open question, with what can be told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Open {
    /// The question.
    pub question: Question,
    /// Who asks.
    pub place: Place,
    /// Who is asked.
    pub who: Who,
    /// What an answer must be; the type of its arguments, where a call waits for approval.
    pub form: Form,
    /// What a plain message of the user does.
    pub on_message: OnMessage,
    /// The tool whose call waits for approval, with its arguments.
    pub call: Option<(String, Arc<Json>)>,
}

impl Open {
    /// Returns what readers are told of it.
    pub fn interrupt(&self) -> Interrupt {
        let schema = match (&self.form, &self.call) {
            (_, Some(_)) | (Form::Text, None) => None,
            (Form::Options(options), None) => Some(json!({"type": "string", "enum": options})),
            (Form::Type(ty), None) => Some(ty.json_schema()),
        };
        let options = match (&self.form, &self.call) {
            (Form::Options(options), None) => options.clone(),
            _ => Vec::new(),
        };
        Interrupt {
            interrupt_id: self.question.id.to_string(),
            node: self.place.node.clone(),
            path: self.place.path.clone(),
            item: self.place.item,
            who: self.who,
            question: self.question.text.clone(),
            options,
            schema,
            tool: self.call.as_ref().map(|(tool, _)| tool.clone()),
            args: self.call.as_ref().map(|(_, args)| Json::clone(args)),
            expires_at: self.question.expires_at,
        }
    }
}

/// Goes through what tasks go on with.
struct Walk<'a> {
    root: &'a Plan,
    open: Vec<Open>,
    tasks: BTreeSet<TaskId>,
}

/// A task, or an item of it.
struct At<'a> {
    job: &'a Job,
    place: Place,
}

impl Frontier {
    /// Adds to the conversation what tasks that go on no more have said and done.
    pub fn remembered(
        &self,
        plan: &Plan,
        (state, mut delta): (State, Delta),
        gone: impl Fn(&TaskId) -> bool,
    ) -> (State, Delta) {
        let Some(channel) = &plan.messages else { return (state, delta) };
        let held = self.tokens.iter().filter_map(|token| token.held.as_ref());
        let put = |turn| Write::Put { channel: channel.clone(), value: turn };
        let left = held
            .filter(|held| gone(&held.task))
            .map(|held| (held.task.clone(), held.left_behind().into_iter().map(put).collect::<Vec<_>>()));
        let left: Vec<_> = left.filter(|(_, writes)| !writes.is_empty()).collect();
        if left.is_empty() {
            return (state, delta);
        }
        match fold(&plan.channels, &state, &left) {
            Ok((state, later)) => {
                join(&mut delta, later);
                (state, delta)
            }
            // A conversation that takes no turn any more.
            Err(_) => (state, delta),
        }
    }

    /// Says whether a task goes on.
    pub fn is_holding(&self) -> bool {
        self.tokens.iter().any(|token| token.held.is_some())
    }

    /// Returns the questions that wait for an answer in a called graph.
    pub(super) fn open_in(&self, root: &Plan, plan: &Plan, path: &[String], item: Option<u64>) -> Vec<Open> {
        let mut walk = Walk { root, open: Vec::new(), tasks: BTreeSet::new() };
        walk.frontier(plan, self, path, item);
        walk.open
    }

    /// Returns the questions that wait for an answer, in the order of the branches, and the tasks that go on.
    pub fn held(&self, root: &Plan) -> (Vec<Open>, BTreeSet<TaskId>) {
        let mut walk = Walk { root, open: Vec::new(), tasks: BTreeSet::new() };
        walk.frontier(root, self, &[], None);
        (walk.open, walk.tasks)
    }
}

impl Walk<'_> {
    fn frontier(&mut self, plan: &Plan, frontier: &Frontier, path: &[String], item: Option<u64>) {
        for token in &frontier.tokens {
            let Some((held, node)) = token.held.as_ref().zip(plan.nodes.get(&token.at)) else { continue };
            let place = Place { path: path.to_vec(), item, ..Place::new(&*token.at, held.task.clone(), 1) };
            self.going(&At { job: &node.job, place }, &held.going);
        }
    }

    fn going(&mut self, at: &At<'_>, going: &Going) {
        self.tasks.insert(at.place.task_id.clone());
        match going {
            Going::ToCache(_, going) => self.going(at, going),
            Going::Calls { calls, .. } => calls.iter().for_each(|call| self.call(at, call)),
            Going::Tool(call) => self.call(at, call),
            Going::Graph(frame) => self.frame(at, frame),
            Going::Question(question) => {
                let Work::Ask(ask) = &at.job.work else { return };
                let who = if ask.messages.is_some() { Who::User } else { Who::Agent };
                self.open.push(Open {
                    question: question.clone(),
                    place: at.place.clone(),
                    who,
                    form: ask.form.clone(),
                    on_message: ask.on_message,
                    call: None,
                });
            }
            Going::Map(items) => {
                let Work::Map(each) = &at.job.work else { return };
                for (index, item) in items.iter().enumerate() {
                    let place =
                        Place { task_id: item.task.clone(), item: Some(index as u64), ..at.place.clone() };
                    if let ItemStage::Going(going) = &item.stage {
                        self.going(&At { job: &each.job, place }, going);
                    }
                }
            }
        }
    }

    fn call(&mut self, at: &At<'_>, call: &Called) {
        match &call.stage {
            Stage::Asked(question) => {
                let tool = match &at.job.work {
                    Work::Tool(tool, _) => Some(tool),
                    _ => at.job.tools.get(&call.tool),
                };
                let Some(tool) = tool else { return };
                self.open.push(Open {
                    question: question.clone(),
                    place: at.place.clone(),
                    who: Who::Agent,
                    form: Form::Type(tool.args.clone()),
                    on_message: OnMessage::Refuse,
                    call: Some((call.tool.clone(), Arc::clone(&call.args))),
                });
            }
            Stage::Graph(frame) => self.frame(at, frame),
            Stage::Due | Stage::Settled(_) => {}
        }
    }

    fn frame(&mut self, at: &At<'_>, frame: &Frame) {
        let root = self.root;
        let Some(plan) = root.children.get(&frame.graph) else { return };
        let mut path = at.place.path.clone();
        path.push(at.place.node.clone());
        self.frontier(plan, &frame.frontier, &path, at.place.item);
    }
}
