use indexmap::IndexMap;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::state::types::tests::list;
use crate::state::{Field, Type};

fn task(name: &str) -> TaskId {
    TaskId(name.into())
}

fn put(channel: &str, value: Json) -> Write {
    Write::Put { channel: channel.to_owned(), value }
}

fn clear(channel: &str) -> Write {
    Write::Clear { channel: channel.to_owned() }
}

fn channels() -> Channels {
    let record = Type::Record(IndexMap::from([
        ("a".to_owned(), Field::of(Type::STRING)),
        ("b".to_owned(), Field::of(Type::Nullable(Box::new(Type::INTEGER)))),
    ]));
    [
        ("word", Type::STRING, Merge::Replace, None),
        ("item", record.clone(), Merge::Replace, None),
        ("log", list(Type::INTEGER), Merge::Append, None),
        ("rows", list(list(Type::INTEGER)), Merge::Append, None),
        ("sum", Type::INTEGER, Merge::Add, None),
        ("cost", Type::NUMBER, Merge::Add, Some(json!(1.5))),
        ("tags", list(Type::Any), Merge::Union, None),
        ("doc", Type::Object, Merge::Merge, None),
        ("form", record, Merge::Merge, None),
        ("first", Type::STRING, Merge::First, Some(json!("default"))),
        ("max", Type::NUMBER, Merge::Max, None),
        ("min", Type::STRING, Merge::Min, None),
        ("chat", Type::Messages, Merge::Messages, None),
    ]
    .into_iter()
    .map(|(name, ty, merge, default)| {
        let field = Field { default, ..Field::of(ty) };
        (name.to_owned(), Channel { field, merge, private: false, per_run: false })
    })
    .collect()
}

/// Folds the writes of each superstep in turn, every write a task of its own, and returns the channel
/// or the last error.
#[track_caller]
fn check(channel: &str, supersteps: &[Vec<Write>], expected: Result<Json, &str>) {
    let channels = channels();
    let mut state = State::initial(&channels);
    let mut failed = None;
    for writes in supersteps {
        let tasks: Vec<_> =
            writes.iter().enumerate().map(|(n, w)| (task(&format!("t{n}")), vec![w.clone()])).collect();
        match fold(&channels, &state, &tasks) {
            Ok((new, delta)) => {
                state.apply(&delta);
                assert_eq!(state, new);
            }
            Err(error) => failed = Some(error.to_string()),
        }
    }
    let found = match failed {
        Some(error) => Err(error),
        None => state.json(channel).ok_or_else(|| "unset".to_owned()),
    };
    assert_eq!(found, expected.map_err(str::to_owned));
}

#[test]
fn every_merge_joins_as_the_language_says() {
    let user = |id: &str, text: &str| json!({"id": id, "role": "user", "content": text});
    for (channel, values, expected) in [
        ("word", vec![json!("a")], Ok(json!("a"))),
        ("word", vec![json!(1)], Err("a write to `word` does not fit: expected a text, found an integer")),
        ("word", vec![json!("a"), json!("a")], Err("two writes to `word` in one superstep")),
        ("word", vec![], Err("unset")),
        ("item", vec![json!({"a": "x"})], Ok(json!({"a": "x", "b": null}))),
        ("log", vec![json!([1, 2]), json!(3), json!([])], Ok(json!([1, 2, 3]))),
        ("log", vec![json!("x")], Err("a write to `log` does not fit: expected an integer, found a text")),
        ("rows", vec![json!([[1], [2]]), json!([[]])], Ok(json!([[1], [2], []]))),
        ("rows", vec![json!([1, 2]), json!([[3], [4]])], Ok(json!([[1, 2], [3], [4]]))),
        (
            "rows",
            vec![json!(["x"])],
            Err("a write to `rows` does not fit: at `/0`: expected a list, found a text"),
        ),
        ("rows", vec![json!(1)], Err("a write to `rows` does not fit: expected a list, found an integer")),
        ("sum", vec![json!(2), json!(-5)], Ok(json!(-3))),
        (
            "sum",
            vec![json!(i64::MAX), json!(1)],
            Err("a write to `sum` does not fit: the sum needs more than 64 bits"),
        ),
        ("sum", vec![json!(0.5)], Err("a write to `sum` does not fit: expected an integer, found a number")),
        ("cost", vec![json!(2), json!(0.25)], Ok(json!(3.75))),
        ("tags", vec![json!(["b", "a"]), json!("b"), json!(["c", "a", "c"])], Ok(json!(["b", "a", "c"]))),
        ("doc", vec![json!({"x": {"y": 1}, "z": 1}), json!({"x": 2})], Ok(json!({"x": 2, "z": 1}))),
        ("doc", vec![json!([])], Err("a write to `doc` does not fit: expected an object, found a list")),
        ("form", vec![json!({"b": 1})], Ok(json!({"b": 1}))),
        ("form", vec![json!({"c": 1})], Err("a write to `form` does not fit: there is no field `c`")),
        (
            "form",
            vec![json!({"b": "x"})],
            Err("a write to `form` does not fit: at `/b`: expected an integer, found a text"),
        ),
        ("first", vec![json!("a"), json!("b")], Ok(json!("a"))),
        ("first", vec![], Ok(json!("default"))),
        (
            "first",
            vec![json!("a"), json!(1)],
            Err("a write to `first` does not fit: expected a text, found an integer"),
        ),
        ("max", vec![json!(2), json!(2.5), json!(-1)], Ok(json!(2.5))),
        ("min", vec![json!("b"), json!("a"), json!("c")], Ok(json!("a"))),
        (
            "chat",
            vec![user("1", "a"), json!([user("2", "b"), user("1", "c")])],
            Ok(json!([user("1", "c"), user("2", "b")])),
        ),
        ("chat", vec![user("1", "a"), json!({"remove": "1"})], Ok(json!([]))),
        ("chat", vec![user("1", "a"), json!([{"remove": "*"}, user("2", "b")])], Ok(json!([user("2", "b")]))),
        ("chat", vec![json!({"remove": "9"})], Err("`chat` has no message `9` to remove")),
        ("chat", vec![json!("hi")], Err("a write to `chat` does not fit: expected a message, found a text")),
    ] {
        let writes: Vec<_> = values.into_iter().map(|value| put(channel, value)).collect();
        check(channel, &[writes], expected);
    }
    check("nope", &[vec![put("nope", json!(1))]], Err("there is no channel `nope`"));
}

#[test]
fn clears_come_before_all_puts_of_the_superstep() {
    check("log", &[vec![put("log", json!(1))], vec![put("log", json!(2)), clear("log")]], Ok(json!([2])));
    check("cost", &[vec![put("cost", json!(1))], vec![clear("cost")]], Ok(json!(1.5)));
    check("word", &[vec![put("word", json!("a"))], vec![clear("word")]], Err("unset"));
    check("max", &[vec![put("max", json!(9))], vec![clear("max"), put("max", json!(1))]], Ok(json!(1)));
}

#[test]
fn the_first_write_ever_counts_also_where_it_says_what_the_default_says() {
    check(
        "first",
        &[vec![put("first", json!("default"))], vec![put("first", json!("b"))]],
        Ok(json!("default")),
    );
    check(
        "first",
        &[vec![put("first", json!("a"))], vec![clear("first")], vec![put("first", json!("b"))]],
        Ok(json!("b")),
    );
}

#[test]
fn one_task_may_write_a_replace_channel_twice_and_the_last_wins() {
    let channels = channels();
    let writes = [put("word", json!("a")), put("word", json!("b"))];
    let state = overlay(&channels, &State::initial(&channels), &task("t"), &writes).unwrap();
    assert_eq!(state.json("word"), Some(json!("b")));
}

#[test]
fn a_delta_holds_no_more_than_what_changed() {
    let channels = channels();
    let old = State::initial(&channels);
    let start =
        [put("log", json!([1, 2])), put("tags", json!("a")), put("word", json!("w")), put("sum", json!(1))];
    let (state, _) = fold(&channels, &old, &[(task("a"), start.to_vec())]).unwrap();
    let next =
        [put("log", json!(3)), put("tags", json!(["a"])), put("word", json!("w")), put("sum", json!(0))];
    let (_, delta) = fold(&channels, &state, &[(task("b"), next.to_vec())]).unwrap();
    assert_eq!(delta, Delta::from([("log".to_owned(), Change::Extend(vec![json!(3)]))]));
    let message = json!({"id": "1", "role": "user", "content": "a"});
    let again = json!({"id": "1", "role": "user", "content": "b"});
    let puts = vec![put("chat", message), put("chat", again.clone())];
    let (_, delta) = fold(&channels, &state, &[(task("c"), puts)]).unwrap();
    assert_eq!(delta, Delta::from([("chat".to_owned(), Change::Extend(vec![again]))]));
}

#[test]
fn a_message_without_an_id_gets_one_that_a_second_fold_repeats() {
    let channels = channels();
    let turn = json!({"role": "user", "content": "a"});
    let tasks = [(task("t"), vec![put("chat", turn.clone()), put("chat", json!([turn, turn]))])];
    let (state, _) = fold(&channels, &State::initial(&channels), &tasks).unwrap();
    let ids: Vec<_> =
        state.json("chat").unwrap().as_array().unwrap().iter().map(|m| m["id"].clone()).collect();
    assert_eq!(ids, ["t-0", "t-1", "t-2"]);
    assert_eq!(fold(&channels, &State::initial(&channels), &tasks).unwrap().0, state);
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        (-1e9..1e9f64).prop_map(Json::from),
        "[a-c]{0,2}".prop_map(Json::from),
    ];
    leaf.prop_recursive(2, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Json::from),
            prop::collection::btree_map("[a-c]", inner, 0..3)
                .prop_map(|m| Json::Object(m.into_iter().collect())),
        ]
    })
}

/// Writes that fit, so that most folds succeed.
fn any_write() -> impl Strategy<Value = Write> {
    let word = || "[a-d]{0,2}".prop_map(Json::from);
    let turn =
        ("[a-c]", "[a-z]{0,3}").prop_map(|(id, text)| json!({"id": id, "role": "user", "content": text}));
    let fresh = "[a-z]{0,3}".prop_map(|text| json!({"role": "assistant", "content": text}));
    let typed = prop_oneof![
        (Just("log"), prop::collection::vec(any::<i32>(), 0..4).prop_map(Json::from)),
        (Just("log"), any::<i32>().prop_map(Json::from)),
        (Just("sum"), any::<i32>().prop_map(Json::from)),
        (Just("cost"), (-1e6..1e6f64).prop_map(Json::from)),
        (Just("tags"), any_json()),
        (
            Just("doc"),
            prop::collection::btree_map("[a-c]", any_json(), 0..3)
                .prop_map(|m| Json::Object(m.into_iter().collect()))
        ),
        (Just("first"), word()),
        (Just("max"), any::<i32>().prop_map(Json::from)),
        (Just("min"), word()),
        (Just("chat"), prop_oneof![turn, fresh, Just(json!({"remove": "*"}))]),
    ];
    prop_oneof![
        9 => typed.prop_map(|(channel, value)| put(channel, value)),
        1 => prop::sample::select(vec!["log", "sum", "tags", "doc", "first", "chat", "max"]).prop_map(clear),
    ]
}

fn any_tasks() -> impl Strategy<Value = Vec<(TaskId, Vec<Write>)>> {
    prop::collection::vec(prop::collection::vec(any_write(), 0..5), 0..4).prop_map(|tasks| {
        tasks.into_iter().enumerate().map(|(n, writes)| (task(&format!("t{n}")), writes)).collect()
    })
}

/// A state that nests deeper than its reader goes could be stored and never be read again.
#[test]
fn a_value_that_nests_too_deeply_is_refused() {
    let nested = |depth| (0..depth).fold(json!(1), |inner, _| json!({ "a": inner }));
    check("doc", &[vec![put("doc", nested(64))]], Ok(nested(64)));
    check(
        "doc",
        &[vec![put("doc", nested(65))]],
        Err("a write to `doc` does not fit: more than 64 lists and objects within each other"),
    );
    let channels = channels();
    let state =
        overlay(&channels, &State::initial(&channels), &task("t"), &[put("doc", nested(64))]).unwrap();
    assert_eq!(State::decode(&state.encode()).unwrap(), state);
}

proptest! {
    #[test]
    fn a_delta_applied_to_the_old_state_gives_the_new_one(steps in prop::collection::vec(any_tasks(), 1..5)) {
        let channels = channels();
        let mut state = State::initial(&channels);
        for tasks in &steps {
            let (new, delta) = fold(&channels, &state, tasks).unwrap();
            let mut replayed = state.clone();
            replayed.apply(&delta);
            prop_assert_eq!(&replayed, &new);
            prop_assert_eq!(replayed.encode(), new.encode());
            for (name, change) in &delta {
                let moved = state.get(name) != new.get(name) || state.is_written(name) != new.is_written(name);
                prop_assert!(moved, "{} did not change: {:?}", name, change);
            }
            state = new;
        }
    }

    #[test]
    fn changes_in_a_row_join_into_one(steps in prop::collection::vec(any_tasks(), 1..5)) {
        let mut channels = channels();
        for name in ["log", "chat", "sum"] {
            channels.get_mut(name).unwrap().per_run = true;
        }
        let old = overlay(&channels, &State::initial(&channels), &task("t"), &[put("log", json!([1]))]).unwrap();
        let mut state = old.clone();
        let mut joined = state.begin_run(&channels);
        for tasks in &steps {
            let (new, delta) = fold(&channels, &state, tasks).unwrap();
            for (name, change) in delta {
                let change = match joined.remove(&name) {
                    Some(earlier) => earlier.then(change),
                    None => change,
                };
                joined.insert(name, change);
            }
            state = new;
        }
        let mut replayed = old;
        replayed.apply(&joined);
        prop_assert_eq!(replayed, state);
    }

    #[test]
    fn a_stored_state_reads_back(tasks in any_tasks()) {
        let channels = channels();
        let (state, delta) = fold(&channels, &State::initial(&channels), &tasks).unwrap();
        let read = State::decode(&state.encode()).unwrap();
        prop_assert_eq!(&read, &state);
        prop_assert_eq!(read.encode(), state.encode());
        let stored = serde_json::to_vec(&delta).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Delta>(&stored).unwrap(), delta);
    }

    #[test]
    fn a_fold_depends_on_the_order_given_and_not_on_who_wrote(tasks in any_tasks()) {
        let channels = channels();
        let old = State::initial(&channels);
        let one = vec![(task("t"), tasks.iter().flat_map(|(_, writes)| writes.clone()).collect::<Vec<_>>())];
        let (joined, _) = fold(&channels, &old, &one).unwrap();
        let (split, _) = fold(&channels, &old, &tasks).unwrap();
        for name in channels.keys().filter(|name| *name != "chat") {
            prop_assert_eq!(joined.get(name), split.get(name));
        }
    }

    #[test]
    fn a_wrong_value_is_refused_and_never_stored(channel in "[a-z]{3,5}", value in any_json()) {
        let channels = channels();
        let names: Vec<_> = channels.keys().cloned().collect();
        let name = &names[channel.len() % names.len()];
        let writes = [put(name, value)];
        if let Ok(state) = overlay(&channels, &State::initial(&channels), &task("t"), &writes)
            && let Some(held) = state.json(name)
        {
            prop_assert_eq!(channels[name].check_held(&held), Ok(()));
        }
    }
}
