//! Brings the state of an older version to a plan.
//!
//! Invariant: pure and the same each time, so what is found out before a run is accepted holds when it begins.

use super::heads::Head;
use crate::expr::Scope;
use crate::plan::Plan;
use crate::state::{Change, Delta, State};

/// Returns the part of a plan's hash that checkpoints carry.
pub(super) fn short(plan: &Plan) -> &str {
    plan.hash.get(..12).unwrap_or(&plan.hash)
}

/// Returns the state at a head as a run of this plan takes it, with what that changes; or why it cannot take it.
pub(super) fn take(plan: &Plan, head: &Head) -> Result<(State, Delta), String> {
    if head.checkpoint.is_none() || head.frontier.plan == short(plan) {
        return Ok((head.state.clone(), Delta::new()));
    }
    let delta = changes(plan, &head.state)?;
    let mut state = head.state.clone();
    state.apply(&delta);
    match incompatible(plan, &state) {
        None => Ok((state, delta)),
        Some(why) => Err(why),
    }
}

/// Applies the rules of `migrate`: renames, then drops, then defaults. Each changes names that no other one changes.
fn changes(plan: &Plan, old: &State) -> Result<Delta, String> {
    let migration = &plan.migration;
    let mut delta = Delta::new();
    let mut state = old.clone();
    for (old, new) in &migration.renames {
        // What the channel was given in the meantime stays, and the value of old is kept aside.
        if state.is_written(new) {
            continue;
        }
        let Some(value) = state.json(old) else { continue };
        let value = if state.is_written(old) { Change::Set(value) } else { Change::Start(value) };
        let moved = Delta::from([(old.clone(), Change::Unset), (new.clone(), value)]);
        state.apply(&moved);
        delta.extend(moved);
    }
    let drops = migration.drops.iter().filter(|name| state.get(name).is_some());
    let drops: Delta = drops.map(|name| (name.clone(), Change::Unset)).collect();
    state.apply(&drops);
    delta.extend(drops);
    // What is read of a channel that is new is what it begins with.
    let new = plan.channels.iter().filter(|(name, _)| state.get(name).is_none());
    let mut seen = state.clone();
    let starts = new.filter_map(|(name, channel)| Some((name.clone(), Change::Start(channel.start()?))));
    seen.apply(&starts.collect());
    let scope = Scope::new().state(seen);
    for (name, value) in &migration.defaults {
        let Some(channel) = plan.channels.get(name).filter(|_| state.get(name).is_none()) else { continue };
        let cannot = |why: String| format!("`migrate` finds no value for the thread's `{name}`: {why}");
        let mut value = value.eval(&scope).map_err(|error| cannot(error.to_string()))?;
        channel.field.ty.check(&value).map_err(|mismatch| cannot(mismatch.to_string()))?;
        channel.field.ty.fill(&mut value);
        delta.insert(name.clone(), Change::Start(value));
    }
    Ok(delta)
}

/// Says why a state does not fit the channels of a plan. What each run begins anew need not fit.
fn incompatible(plan: &Plan, state: &State) -> Option<String> {
    plan.channels.iter().filter(|(_, channel)| !channel.per_run).find_map(|(name, channel)| {
        let value = state.json(name)?;
        let mismatch = channel.check_held(&value).err()?;
        Some(format!("the thread's `{name}` does not fit the graph of today: {}", mismatch.why))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::compile::{Providers, compile};
    use crate::diagnostic::{Bag, render_text};
    use crate::id::CheckpointId;
    use crate::spec::{Files, load_files};

    fn plan(rules: &str) -> std::sync::Arc<Plan> {
        let graph = format!(
            "format: 1\nstate:\n  topic: string\n  notes: {{type: [string], merge: append}}\n  \
             first: {{type: string, merge: first}}\n  \
             now: {{type: string, keep: run}}\n  loose: any\n  size: integer?\nmigrate: {rules}\nstart: a\n\
             nodes: {{a: {{kind: route, next: end}}}}\n"
        );
        let mut bag = Bag::default();
        let folder = load_files("", Files::from([("g.yaml".to_owned(), graph.into_bytes())]), &mut bag);
        let catalog = compile(&folder, &Providers::without_secrets().unwrap(), &mut bag);
        catalog.unwrap_or_else(|| panic!("{}", render_text(&bag, false))).graphs["g"].plan.clone()
    }

    /// What the rules make of a state whose channels in `written` were written.
    fn taken(rules: &str, values: &Json, written: &Json) -> Result<Json, String> {
        let bytes = json!({"values": values, "written": written}).to_string();
        let state = State::decode(&[&[1], bytes.as_bytes()].concat()).unwrap();
        let mut head = Head { checkpoint: Some(CheckpointId::new()), state, ..Head::default() };
        let plan = plan(rules);
        let (state, delta) = take(&plan, &head)?;
        // A later build reads only the delta.
        head.state.apply(&delta);
        assert_eq!(head.state, state);
        head.frontier.plan = short(&plan).to_owned();
        assert_eq!(take(&plan, &head).unwrap().1, Delta::new(), "only once");
        let stored: Json = serde_json::from_slice(&state.encode()[1..]).unwrap();
        Ok(json!([stored["values"], stored["written"]]))
    }

    #[test]
    fn rules_apply_in_their_order_and_each_name_changes_once() {
        let rename = "[{rename: {subject: topic}}]";
        let two = "[{rename: {subject: topic}}, {rename: {theme: topic}}]";
        let default = "[{rename: {old: notes}}, {drop: theme}, {default: {topic: \"state.notes | join('+')\", size: 3}}]";
        for (rules, values, written, expected) in [
            (rename, json!({"subject": "x"}), json!(["subject"]), json!([{"topic": "x"}, ["topic"]])),
            // It was a start value, so it is one.
            (rename, json!({"subject": "x"}), json!([]), json!([{"topic": "x"}, []])),
            (rename, json!({"other": 1}), json!(["other"]), json!([{"other": 1}, ["other"]])),
            // What was written under the new name stays; what was only started does not.
            (
                rename,
                json!({"subject": "x", "topic": "y"}),
                json!(["subject", "topic"]),
                json!([{"subject": "x", "topic": "y"}, ["subject", "topic"]]),
            ),
            (
                rename,
                json!({"subject": "x", "topic": "y"}),
                json!(["subject"]),
                json!([{"topic": "x"}, ["topic"]]),
            ),
            (
                two,
                json!({"subject": "x", "theme": "z"}),
                json!(["subject", "theme"]),
                json!([{"theme": "z", "topic": "x"}, ["theme", "topic"]]),
            ),
            (two, json!({"theme": "z"}), json!(["theme"]), json!([{"topic": "z"}, ["topic"]])),
            (
                "[{drop: subject}, {rename: {subject: topic}}, {drop: gone}]",
                json!({"subject": "x", "gone": 1}),
                json!(["subject"]),
                json!([{"topic": "x"}, ["topic"]]),
            ),
            (
                default,
                json!({"old": ["a", "b"], "theme": 1}),
                json!(["old"]),
                json!([{"notes": ["a", "b"], "size": 3, "topic": "a+b"}, ["notes"]]),
            ),
            // A channel that is new is read as what it begins with.
            (
                "[{default: {size: state.notes | length}}]",
                json!({"topic": "x"}),
                json!([]),
                json!([{"size": 0, "topic": "x"}, []]),
            ),
            (
                default,
                json!({"topic": "kept", "size": null, "notes": [], "now": 7}),
                json!([]),
                json!([{"notes": [], "now": 7, "size": null, "topic": "kept"}, []]),
            ),
        ] {
            assert_eq!(taken(rules, &values, &written), Ok(expected), "{rules} {values}");
        }
    }

    #[test]
    fn a_state_that_no_rule_makes_fit_is_told_by_its_channel() {
        for (rules, values, told) in [
            (
                "[{drop: x}]",
                json!({"topic": 1}),
                "the thread's `topic` does not fit the graph of today: expected a text",
            ),
            ("[{rename: {old: topic}}]", json!({"old": ["x"]}), "the thread's `topic` does not fit"),
            (
                "[{default: {size: 1 // (state.notes | length)}}]",
                json!({"topic": "x"}),
                "`migrate` finds no value for the thread's `size`: ",
            ),
            (
                "[{default: {size: state.loose | default(1)}}]",
                json!({"loose": "x"}),
                "`migrate` finds no value for the thread's `size`: expected an integer, found a text",
            ),
        ] {
            let found = taken(rules, &values, &json!([])).unwrap_err();
            assert!(found.starts_with(told), "{rules} {values}: {found}");
        }
    }
}
