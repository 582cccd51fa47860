//! Seals what a write brings along.
//!
//! Invariant: a value is sealed for the place where the write puts it.

use super::place::{Column, Place};
use super::value::DataKey;
use crate::id::{Owner, RunId, ThreadId};
use crate::store::{Answer, Branch, Checkpoint, Commit, EventBatch, Origin, Question, Result};

/// Seals the batch of events of a run.
pub(super) fn events(key: &DataKey, owner: &Owner, run: RunId, batch: &mut EventBatch) -> Result<()> {
    let place = Place::event(owner, run, (batch.fence, batch.first, batch.last));
    batch.data = key.seal(&place, &batch.data)?;
    Ok(())
}

/// Seals the word that a run was ended from outside.
pub(super) fn end(key: &DataKey, owner: &Owner, result: &mut Vec<u8>, events: &mut EventBatch) -> Result<()> {
    let place = Place::end(owner);
    *result = key.seal(&place, result)?;
    events.data = key.seal(&place, &events.data)?;
    Ok(())
}

fn checkpoint(key: &DataKey, owner: &Owner, thread: ThreadId, c: &mut Checkpoint) -> Result<()> {
    let place = |c: &Checkpoint, column| Place::checkpoint(owner, thread, c, column);
    c.delta = key.seal(&place(c, Column::Delta), &c.delta)?;
    c.frontier = key.seal(&place(c, Column::Frontier), &c.frontier)?;
    if let Some(snapshot) = &c.snapshot {
        c.snapshot = Some(key.seal(&place(c, Column::Snapshot), snapshot)?);
    }
    Ok(())
}

fn questions(
    key: &DataKey,
    owner: &Owner,
    (thread, run): (ThreadId, RunId),
    questions: &mut [Question],
) -> Result<()> {
    for question in questions {
        let place = Place::question(owner, thread, run, &question.id);
        question.data = key.seal(&place, &question.data)?;
    }
    Ok(())
}

pub(super) fn branch(key: &DataKey, branch: &mut Branch) -> Result<()> {
    let (owner, run, thread) = (&branch.key.owner, branch.run, branch.thread);
    branch.input = key.seal(&Place::input(&branch.key, run), &branch.input)?;
    if let Some(result) = &branch.result {
        branch.result = Some(key.seal(&Place::result(owner, run), result)?);
    }
    checkpoint(key, owner, thread, &mut branch.checkpoint)?;
    events(key, owner, run, &mut branch.events)?;
    questions(key, owner, (thread, run), &mut branch.questions)?;
    if let Origin::Head { result, events, .. } = &mut branch.origin {
        end(key, owner, result, events)?;
    }
    Ok(())
}

pub(super) fn commit(key: &DataKey, commit: &mut Commit) -> Result<()> {
    // All of it is named, so that whoever adds to it thinks of it.
    let Commit {
        owner,
        thread,
        run,
        fence: _,
        step: _,
        checkpoints,
        questions: asked,
        closed: _,
        pending: _,
        cached,
        events: told,
        appended: _,
        next,
        notice,
        stopped: _,
        lease: _,
    } = commit;
    let (thread, run) = (*thread, *run);
    for c in checkpoints {
        checkpoint(key, owner, thread, c)?;
    }
    questions(key, owner, (thread, run), asked)?;
    for entry in cached {
        entry.data = key.seal(&Place::cached(&owner.tenant, &entry.key), &entry.data)?;
    }
    if let Some(batch) = told {
        events(key, owner, run, batch)?;
    }
    if let Some((_, Some(result))) = next {
        *result = key.seal(&Place::result(owner, run), result)?;
    }
    // The result of an end is told as it is stored; so a notice stands in the place of one.
    if let Some(notice) = notice {
        *notice = key.seal(&Place::result(owner, run), notice)?;
    }
    Ok(())
}

pub(super) fn answer(key: &DataKey, answer: &mut Answer) -> Result<()> {
    let thread = &answer.key;
    for (id, said) in &mut answer.answers {
        *said = key.seal(&Place::answer(&thread.owner, answer.run, id), said)?;
    }
    if let Some(input) = &mut answer.input {
        *input = key.seal(&Place::input(thread, answer.run), input)?;
    }
    Ok(())
}
