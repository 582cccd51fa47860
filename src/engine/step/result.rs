//! What the tasks of a superstep came to: done, failed, or not done yet.
//!
//! Invariant: every result is taken, in the order of the leaves, also when one before it is a failure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::begin::{Calling, Level, Making};
use super::cache::Fresh;
use super::calls::approval;
use super::held::{Called, Frame, Going, Item, ItemStage, Kept, Question, Stage};
use super::{Doing, Ended, Step, Taken, Worked, World, output};
use crate::event::{Body, Scope as Place, Usage};
use crate::failure::{ErrorKind, Failure};
use crate::id::TaskId;
use crate::node::{Done, Outcome, Round, assistant_turn};
use crate::plan::{Each, Effects, ItemError, Job, ToolPlan, Work};
use crate::state::Write;

/// A barrier, while the results of its tasks are taken.
pub(super) struct Results<'a> {
    pub(super) world: World<'a>,
    pub(super) ended: std::vec::IntoIter<Ended>,
    pub(super) usage: Usage,
    pub(super) wait: Duration,
    /// The ends of what failed in called graphs.
    pub(super) failed: Vec<(Place, Body)>,
    /// The tasks whose time is over, and whether a call may have been made that must not be made twice.
    pub(super) late: BTreeMap<TaskId, bool>,
    /// The tasks that are tried again.
    pub(super) again: BTreeSet<TaskId>,
    /// How many of the tasks around may be tried again.
    pub(super) retries: u32,
    /// What leaves came to since the outermost of them.
    pub(super) done: Vec<(TaskId, Worked)>,
    /// A call failed that must not be made again.
    pub(super) spoiled: bool,
    /// One was made.
    pub(super) made: bool,
    /// The results to keep.
    pub(super) to_cache: Vec<Fresh>,
}

/// What becomes visible with a part of a barrier.
#[derive(Default)]
pub(super) struct Told {
    pub(super) events: Vec<(Place, Body)>,
    pub(super) edges: Vec<Taken>,
    /// Turns that join the conversation.
    pub(super) said: Vec<Json>,
}

impl Told {
    fn take(&mut self, other: Self) {
        self.events.extend(other.events);
        self.edges.extend(other.edges);
    }
}

/// What a task, or an item of it, came to.
pub(super) enum Came {
    /// It is done.
    Done { result: Json, writes: Vec<Write>, kept: Option<Kept>, told: Told },
    /// It failed.
    Failed(Failure),
    /// Its question was not answered in time.
    Late,
    /// It goes on.
    Still(Going, Told),
    /// It was stopped.
    Cut,
}

/// A task, or an item of it.
pub(super) struct Part<'a, 'l> {
    pub(super) level: &'l Level<'a>,
    pub(super) job: &'a Job,
    pub(super) place: Place,
    /// The model that was asked last.
    pub(super) model: Option<String>,
    /// Its result was kept from before.
    pub(super) cached: bool,
}

impl<'a, 'l> Part<'a, 'l> {
    pub(super) fn new(level: &'l Level<'a>, job: &'a Job, place: Place) -> Self {
        Self { level, job, place, model: None, cached: false }
    }
}

impl<'a> Results<'a> {
    /// Takes what a part did.
    pub(super) fn part(&mut self, part: &mut Part<'a, '_>, doing: Doing) -> Came {
        match doing {
            Doing::Fails(failure) => Came::Failed(failure),
            Doing::Waits(going) => Came::Still(going, Told::default()),
            Doing::Works => self.worked(part),
            Doing::Asks(question) => Self::asked(part, question),
            Doing::Answered(_, answer) => Self::answered(part, answer),
            Doing::Late => Came::Late,
            Doing::Calls { memo, calls } => self.calls(part, memo, calls),
            Doing::Tool(calling) => self.tool(part, calling),
            Doing::Graph(frame, step) => self.graph(part, *frame, *step),
            Doing::Map(items) => self.map(part, items),
            Doing::Cached(result) => {
                part.cached = true;
                let (result, told) = (Json::clone(&result), Told::default());
                Came::Done { result, writes: Vec::new(), kept: None, told }
            }
            Doing::ToCache(key, doing) => self.fresh(part, key, *doing),
        }
    }

    /// Takes what the next leaf came to; nothing: it was stopped.
    fn next(&mut self, task: &TaskId, effects: Effects) -> Option<Worked> {
        let worked = self.ended.next().flatten()?;
        if let (Some(task), Err(failure)) = (&worked.late, &worked.result) {
            *self.late.entry(task.clone()).or_default() |= failure.uncertain;
        }
        if self.retries > 0 {
            let once = effects == Effects::AtMostOnce;
            match &worked.result {
                Ok(_) => {
                    self.made |= once;
                    let mut done = worked.clone();
                    // Its tokens are counted now.
                    done.forget_usage();
                    self.done.push((task.clone(), done));
                }
                Err(failure) => self.spoiled |= once && !failure.is_undone(),
            }
        }
        Some(worked)
    }

    fn worked(&mut self, part: &mut Part<'a, '_>) -> Came {
        let Some(worked) = self.next(&part.place.task_id.clone(), part.job.effects) else { return Came::Cut };
        part.place.attempt = worked.attempt;
        part.model = worked.model.or(part.model.take());
        self.usage += worked.usage;
        let at = |events: Vec<Body>| events.into_iter().map(|body| (part.place.clone(), body)).collect();
        match worked.result {
            Err(failure) => Came::Failed(failure),
            Ok(Outcome::Done(Done { result, said, writes, events, usage })) => {
                self.usage += usage;
                let told = Told { events: at(events), said, ..Told::default() };
                Came::Done { result, writes, kept: None, told }
            }
            Ok(Outcome::More(round)) => {
                let calls = Self::wanted(part, &round);
                let told = Told { events: at(round.events), ..Told::default() };
                Came::Still(Going::Calls { memo: round.memo, calls }, told)
            }
        }
    }

    /// Takes the calls that a node wants.
    fn wanted(part: &Part<'a, '_>, round: &Round) -> Vec<Called> {
        let call = |(rank, wanted): (usize, &crate::node::Wanted)| {
            let task = part.place.task_id.part(part.level.number, &wanted.tool, rank as u64);
            let (args, stage) = match (&wanted.args, part.job.tools.get(&wanted.tool)) {
                (Err(why), _) => (Json::Null, Stage::Settled(Err(why.clone()))),
                (Ok(args), Some(_)) => (args.clone(), Stage::Due),
                (Ok(args), None) => {
                    (args.clone(), Stage::Settled(Err(format!("there is no tool `{}`", wanted.tool))))
                }
            };
            let (id, tool) = (wanted.id.clone(), wanted.tool.clone());
            let mut called = Called { id, tool, task, args: Arc::new(args), edited: false, stage };
            if called.stage == Stage::Due
                && let Some(tool) = part.job.tools.get(&called.tool)
                && let Some(question) = approval(tool, &called)
            {
                called.stage = Stage::Asked(question);
            }
            called
        };
        round.calls.iter().enumerate().map(call).collect()
    }

    fn asked(part: &Part<'a, '_>, question: Question) -> Came {
        let Work::Ask(ask) = &part.job.work else { return Came::Cut };
        let mut told = Told::default();
        if ask.messages.is_some() {
            let message_id = format!("m_{}", part.place.task_id);
            let said = [
                Body::MessageStarted { message_id: message_id.clone(), role: "assistant".into() },
                Body::MessageDelta { message_id: message_id.clone(), delta: question.text.clone() },
                Body::MessageFinished {
                    message_id: message_id.clone(),
                    content: Some(question.text.clone()),
                    truncated: false,
                },
            ];
            told.events.extend(said.map(|body| (part.place.clone(), body)));
            told.said.push(assistant_turn(&message_id, &question.text));
        }
        Came::Still(Going::Question(question), told)
    }

    fn answered(part: &Part<'a, '_>, answer: Json) -> Came {
        let mut told = Told::default();
        if let Work::Ask(ask) = &part.job.work
            && ask.messages.is_some()
        {
            let id = format!("u_{}", part.place.task_id);
            let content = match &answer {
                Json::String(text) => text.clone(),
                other => other.to_string(),
            };
            told.said.push(json!({"id": id, "role": "user", "content": content}));
        }
        Came::Done { result: answer, writes: Vec::new(), kept: None, told }
    }

    fn calls(&mut self, part: &mut Part<'a, '_>, memo: Json, calls: Vec<Calling>) -> Came {
        let mut told = Told::default();
        let mut came = Vec::with_capacity(calls.len());
        let (mut failed, mut cut) = (None, false);
        for calling in calls {
            match self.call(part, calling, &mut told) {
                Ok((called, failure)) => {
                    if failed.is_none() && part.job.fails_by_tools {
                        failed = failure;
                    }
                    came.push(called);
                }
                Err(Some(failure)) => failed = failed.or(Some(failure)),
                Err(None) => cut = true,
            }
        }
        match failed {
            _ if cut => Came::Cut,
            Some(failure) => Came::Failed(failure),
            None => Came::Still(Going::Calls { memo, calls: came }, told),
        }
    }

    fn tool(&mut self, part: &mut Part<'a, '_>, calling: Calling) -> Came {
        let mut told = Told::default();
        match self.call(part, calling, &mut told) {
            Ok((_, Some(failure))) | Err(Some(failure)) => Came::Failed(failure),
            Ok((Called { stage: Stage::Settled(Ok(result)), .. }, None)) => {
                Came::Done { result, writes: Vec::new(), kept: None, told }
            }
            Ok((Called { stage: Stage::Settled(Err(why)), .. }, None)) => {
                Came::Failed(Failure::new(ErrorKind::Tool, why))
            }
            Ok((called, None)) => Came::Still(Going::Tool(called), told),
            Err(None) => Came::Cut,
        }
    }

    /// Takes what a call came to, with its failure; no call: the whole task failed, or was stopped.
    fn call(
        &mut self,
        part: &mut Part<'a, '_>,
        calling: Calling,
        told: &mut Told,
    ) -> Result<(Called, Option<Failure>), Option<Failure>> {
        let Calling { mut called, making } = calling;
        let mut failure = None;
        match making {
            Making::Rests => {}
            // A question that was cancelled, or a limit, is not the model's to deal with.
            Making::Fails(why) if why.kind == ErrorKind::Dismissed || !why.can_be_caught() => {
                return Err(Some(why));
            }
            Making::Fails(why) => {
                told.events.push(finished(part, &called, Err(&why.message)));
                called.stage = Stage::Settled(Err(why.message.clone()));
                failure = Some(why);
            }
            Making::Refused(why) => {
                told.events.push(finished(part, &called, Err(&why)));
                called.stage = Stage::Settled(Err(why));
            }
            Making::Asks(question) => called.stage = Stage::Asked(question),
            Making::Leaf => {
                let effects =
                    tool_of(part.job, &called.tool).map_or_else(Effects::default, |tool| tool.effects);
                let Some(worked) = self.next(&called.task.clone(), effects) else { return Err(None) };
                self.usage += worked.usage;
                called.stage = Stage::Settled(match worked.result {
                    Ok(Outcome::Done(done)) => {
                        self.usage += done.usage;
                        Ok(done.result)
                    }
                    Ok(Outcome::More(_)) => Err("the tool did not end".into()),
                    Err(why) => {
                        failure = Some(why.clone());
                        Err(why.message)
                    }
                });
            }
            Making::Graph(frame, step) => {
                called.stage = match self.step_of(part, *frame, *step) {
                    Stepped::Over { result, told: inner, .. } => {
                        told.take(inner);
                        told.events.push(finished(part, &called, Ok(&result)));
                        Stage::Settled(Ok(result))
                    }
                    Stepped::On(frame, inner) => {
                        told.take(inner);
                        Stage::Graph(frame)
                    }
                    Stepped::Failed(_, why, events) => {
                        self.failed.extend(events);
                        self.failed.push(finished(part, &called, Err(&why.message)));
                        if !why.can_be_caught() {
                            return Err(Some(why));
                        }
                        failure = Some(why.clone());
                        Stage::Settled(Err(why.message))
                    }
                    Stepped::Cut => return Err(None),
                };
            }
        }
        Ok((called, failure))
    }

    /// Takes what a task came to that may be tried again: after how long, and with what of it done.
    fn retried(
        &mut self,
        job: &Job,
        failed: u32,
        work: impl FnOnce(&mut Self) -> Stepped,
    ) -> (Stepped, Option<Again>) {
        let may = failed + 1 < job.retry.attempts;
        let (mark, spoiled) = (self.done.len(), std::mem::take(&mut self.spoiled));
        self.retries += u32::from(may);
        let stepped = work(self);
        self.retries -= u32::from(may);
        let again = match &stepped {
            Stepped::Failed(_, failure, _) if may && !self.spoiled => {
                let delay = job.retry.delay(failed + 1, failure, 1.0);
                delay.map(|delay| Again { delay, done: self.done[mark..].iter().cloned().collect() })
            }
            _ => None,
        };
        self.spoiled |= spoiled;
        if self.retries == 0 {
            self.done.clear();
        }
        (stepped, again)
    }

    fn graph(&mut self, part: &mut Part<'a, '_>, frame: Frame, step: Step) -> Came {
        let Work::Graph(call) = &part.job.work else { return Came::Cut };
        let since = frame.since.or(Some(step.number));
        // What a handler within made of it does not count: the time is over for all of it.
        let before = (part.job.timeout < Duration::MAX).then(|| Box::new(frame.clone()));
        let (stepped, again) = self.retried(part.job, frame.failed, |results| {
            let stepped = results.step_of(part, frame, step);
            let Some((before, uncertain)) = before.zip(results.late.get(&part.place.task_id).copied()) else {
                return stepped;
            };
            let late = late(part.job, uncertain);
            match stepped {
                Stepped::On(..) | Stepped::Over { .. } => Stepped::Failed(before, late, Vec::new()),
                Stepped::Failed(_, _, events) => Stepped::Failed(before, late, events),
                Stepped::Cut => Stepped::Cut,
            }
        });
        match (stepped, again) {
            (Stepped::Over { result, kept, told }, _) => {
                Came::Done { result, writes: Vec::new(), kept: call.keeps.then_some(kept), told }
            }
            (Stepped::On(frame, told), _) => Came::Still(Going::Graph(frame), told),
            // It goes on where it failed: what its other nodes did before is not done again.
            (Stepped::Failed(frame, failure, events), Some(Again { delay, done })) => {
                self.failed.extend(events);
                self.failed.push((part.place.clone(), retrying(delay, &failure)));
                self.wait = self.wait.max(delay);
                self.again.insert(part.place.task_id.clone());
                let (failed, done) = (frame.failed + 1, Arc::new(done));
                Came::Still(Going::Graph(Box::new(Frame { failed, since, done, ..*frame })), Told::default())
            }
            (Stepped::Failed(_, failure, events), None) => {
                self.failed.extend(events);
                Came::Failed(failure)
            }
            (Stepped::Cut, _) => Came::Cut,
        }
    }

    /// Takes the superstep of a called graph.
    fn step_of(&mut self, part: &Part<'a, '_>, frame: Frame, step: Step) -> Stepped {
        let root: &'a crate::plan::Plan = self.world.root;
        let Some(plan) = root.children.get(&frame.graph) else { return Stepped::Cut };
        let level = part.level.inner(&part.place.node, part.place.item, plan, &frame);
        let framed = match self.frame(&level, &frame.frontier, step) {
            Ok(framed) => framed,
            Err(super::barrier::Dropped::Cut) => return Stepped::Cut,
            Err(super::barrier::Dropped::Failed { failure, events, .. }) => {
                return Stepped::Failed(Box::new(frame), failure, events);
            }
        };
        let mut told = framed.told;
        // What a caller hears are replies; how they came about stays inside.
        told.said.retain(|turn| turn["role"] != "tool" && turn.get("tool_calls").is_none());
        if !framed.frontier.tokens.is_empty() {
            let frame = Frame::new(&frame.graph, frame.input, framed.state, framed.frontier);
            return Stepped::On(Box::new(frame), told);
        }
        match output(plan, &framed.state, &frame.input, self.world.facts) {
            Ok(result) => {
                let kept = Kept { state: framed.state, kept: framed.frontier.kept };
                Stepped::Over { result, kept, told }
            }
            Err(failure) => Stepped::Failed(Box::new(frame), failure, told.events),
        }
    }

    fn map(&mut self, part: &mut Part<'a, '_>, items: Vec<(Item, Option<Doing>)>) -> Came {
        let Work::Map(each) = &part.job.work else { return Came::Cut };
        let each: &'a Each = each;
        let mut told = Told::default();
        let mut left = Vec::with_capacity(items.len());
        let (mut failed, mut cut) = (None, false);
        let may = u32::from(part.job.retry.attempts > 1);
        for (index, (mut item, doing)) in items.into_iter().enumerate() {
            if let Some(doing) = doing {
                let place =
                    Place { task_id: item.task.clone(), item: Some(index as u64), ..part.place.clone() };
                let mut inner = Part::new(part.level, &each.job, place);
                let before = (std::mem::take(&mut self.spoiled), std::mem::take(&mut self.made));
                self.retries += may;
                let came = self.part(&mut inner, doing);
                self.retries -= may;
                let is_late = self.late.contains_key(&part.place.task_id);
                item.stage = match came {
                    Came::Done { result, told: inner, .. } => {
                        told.take(inner);
                        ItemStage::Done(of_item(&each.job, result))
                    }
                    Came::Still(going, inner) => {
                        told.take(inner);
                        ItemStage::Going(going)
                    }
                    Came::Failed(failure) => match each.on_error {
                        ItemError::Skip if failure.can_be_caught() && !is_late => ItemStage::Skipped,
                        ItemError::Null if failure.can_be_caught() && !is_late => ItemStage::Done(Json::Null),
                        _ => {
                            // It is tried again from where it was, with the others that failed, if all of them may be.
                            let delay = part.job.retry.delay(item.failed + 1, &failure, 1.0);
                            let delay = delay.filter(|_| !self.spoiled && !self.made);
                            failed = match (failed, delay) {
                                (None, delay) => Some((failure, delay)),
                                (Some((first, Some(before))), Some(delay)) => {
                                    Some((first, Some(before.max(delay))))
                                }
                                (Some((first, _)), _) => Some((first, None)),
                            };
                            item.failed += 1;
                            item.stage
                        }
                    },
                    Came::Late | Came::Cut => {
                        cut = true;
                        ItemStage::Skipped
                    }
                };
                part.model = inner.model.or(part.model.take());
                self.spoiled |= before.0;
                self.made |= before.1;
            }
            left.push(item);
        }
        if self.retries == 0 {
            self.done.clear();
        }
        match failed {
            _ if cut => Came::Cut,
            Some((failure, Some(delay))) => {
                self.failed.push((part.place.clone(), retrying(delay, &failure)));
                self.wait = self.wait.max(delay);
                self.again.insert(part.place.task_id.clone());
                Came::Still(Going::Map(left), told)
            }
            Some((failure, None)) => Came::Failed(match self.late.get(&part.place.task_id) {
                Some(uncertain) => late(part.job, *uncertain),
                None => failure,
            }),
            None if left.iter().any(|item| matches!(item.stage, ItemStage::Going(_) | ItemStage::Due)) => {
                Came::Still(Going::Map(left), told)
            }
            None => {
                let done = left.into_iter().filter_map(|item| match item.stage {
                    ItemStage::Done(value) => Some(value),
                    ItemStage::Due | ItemStage::Going(_) | ItemStage::Skipped => None,
                });
                Came::Done { result: done.collect(), writes: Vec::new(), kept: None, told }
            }
        }
    }
}

/// Tells that a task is tried again.
fn retrying(delay: Duration, failure: &Failure) -> Body {
    let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
    Body::NodeRetrying { delay_ms, reason: failure.message.clone(), model: None }
}

/// Says that the time of a task is over.
fn late(job: &Job, uncertain: bool) -> Failure {
    let message = format!("the node takes longer than {} s", job.timeout.as_secs_f64());
    Failure { uncertain, ..Failure::new(ErrorKind::Timeout, message) }
}

/// Finds a tool that a part may call.
fn tool_of<'j>(job: &'j Job, name: &str) -> Option<&'j ToolPlan> {
    match &job.work {
        Work::Tool(tool, _) => Some(tool),
        _ => job.tools.get(name).map(|tool| &**tool),
    }
}

/// Tells the end of a call that no leaf told.
fn finished(part: &Part<'_, '_>, called: &Called, result: Result<&Json, &String>) -> (Place, Body) {
    let (call_id, tool) = (called.id.clone(), called.tool.clone());
    let (result, error) = (result.ok().cloned(), result.err().cloned());
    (part.place.clone(), Body::ToolFinished { call_id, tool, result, error })
}

/// How a called graph is tried again.
struct Again {
    delay: Duration,
    /// What is not done again.
    done: BTreeMap<TaskId, Worked>,
}

/// What a superstep of a called graph came to.
enum Stepped {
    Over { result: Json, kept: Kept, told: Told },
    On(Box<Frame>, Told),
    Failed(Box<Frame>, Failure, Vec<(Place, Body)>),
    Cut,
}

/// Of a request, an item is worth its body.
fn of_item(job: &Job, result: Json) -> Json {
    match result {
        Json::Object(mut answer) if job.kind == "http" => answer.remove("body").unwrap_or(Json::Null),
        result => result,
    }
}
