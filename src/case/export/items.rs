//! What the items of a list came to.

use serde_json::{Value as Json, json};

use super::calls::{Came, Part, Walk};
use super::heard::Fault;
use super::into::{Found, Lost, Parts};
use crate::engine::step::{Doing, Going, Item, ItemStage};
use crate::event::Scope;
use crate::plan::Work;

impl Walk<'_, '_, '_> {
    /// The items of a list.
    pub(super) fn items(&mut self, part: &Part<'_>, items: &[(Item, Option<Doing>)], came: &Came<'_>) {
        let Work::Map(each) = &part.job.work else { return };
        let next = match came {
            Came::Going(Going::Map(next)) => Some(next),
            _ => None,
        };
        // What is left of the list when its values go to the items.
        let mut list = match came {
            Came::Done(Ok(Found { value: Json::Array(list), .. })) => Some(list.iter()),
            _ => None,
        };
        let due = |(item, doing): &&(Item, Option<Doing>)| {
            doing.is_some() || matches!(item.stage, ItemStage::Done(_))
        };
        // So many failed and were left out; which of them is not stored.
        let mut gone =
            list.as_ref().map_or(0, |list| items.iter().filter(due).count().saturating_sub(list.len()));
        let only = items.len() == 1;
        for (index, (item, doing)) in items.iter().enumerate() {
            let value =
                |value: &Json| if each.job.kind == "http" { json!({"body": value}) } else { value.clone() };
            let Some(doing) = doing else {
                if matches!(item.stage, ItemStage::Done(_))
                    && let Some(list) = &mut list
                {
                    list.next();
                }
                continue;
            };
            let left = items[index..].iter().filter(due).count();
            let came = match (came, next.and_then(|next| next.get(index))) {
                (_, Some(after)) => match &after.stage {
                    ItemStage::Going(going) => Came::Going(going),
                    ItemStage::Done(done) => Came::Done(part.beside(&value(done))),
                    ItemStage::Skipped => Came::Failed(Fault::default()),
                    ItemStage::Due => Came::Again(part.job),
                },
                (Came::Failed(fault), None) if only => Came::Failed(fault.clone()),
                (Came::Done(Err(why)), None) => Came::Done(Err(*why)),
                (Came::Done(Ok(_)), None) => match &mut list {
                    // Those at the end are taken for the ones that failed: the list is the same.
                    Some(_) if left <= gone => {
                        gone -= 1;
                        Came::Failed(Fault::default())
                    }
                    Some(list) => match list.next() {
                        Some(Json::Null) if each.job.kind != "custom" => Came::Failed(Fault::default()),
                        Some(found) => Came::Done(Ok(Found { value: value(found), parts: Parts::All })),
                        None => Came::Failed(Fault::default()),
                    },
                    None => Came::Done(Err(Lost::Through)),
                },
                _ => Came::Done(Err(Lost::Cut)),
            };
            let mut place = Scope { item: Some(index as u64), ..part.place.clone() };
            place.task_id = item.task.clone();
            let begins = matches!(item.stage, ItemStage::Due);
            self.part(&Part { job: &each.job, place, begins, shown: part.shown }, doing, came);
        }
    }
}
