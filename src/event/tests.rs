use super::*;

fn event(n: u64, node: Option<&str>, body: Body) -> Event {
    let scope = node.map(|node| Scope::new(node, TaskId("t".into()), 1));
    Event {
        seq: Seq { fence: 2, n },
        at: DateTime::from_timestamp_millis(1_700_000_000_123).unwrap(),
        scope,
        body,
    }
}

fn delta(n: u64, node: &str, id: &str, delta: &str) -> Event {
    event(n, Some(node), Body::MessageDelta { message_id: id.into(), delta: delta.into() })
}

#[test]
fn a_batch_reads_back_event_by_event_and_interleaved_deltas_keep_their_place() {
    let events = vec![
        event(1, Some("a"), Body::NodeStarted { step: 1, kind: "llm".into(), resumed: false }),
        delta(2, "a", "m1", "Hel"),
        Event {
            at: DateTime::from_timestamp_millis(1_700_000_000_150).unwrap(),
            ..delta(3, "a", "m1", "lo")
        },
        delta(4, "b", "m2", "x"),
        delta(5, "a", "m1", "!"),
        event(6, None, Body::ended(RunStatus::Completed, Usage::default())),
    ];
    let data = encode(&events);
    assert_eq!(decode(2, &data).unwrap(), events);
    assert_eq!(String::from_utf8(data).unwrap().matches("deltas").count(), 3);
}

#[test]
fn events_of_the_state_are_stored_by_their_checkpoint_alone() {
    let id = CheckpointId::new();
    let (state, patch) = (Json::Null, Vec::new());
    let saved = |step| Body::CheckpointSaved { checkpoint_id: id, step };
    let events = vec![
        event(1, None, Body::StateSnapshot { checkpoint_id: None, state }),
        event(2, None, Body::StatePatch { checkpoint_id: id, patch: patch.clone() }),
        event(3, None, saved(0)),
        event(4, None, Body::StatePatch { checkpoint_id: id, patch }),
        event(6, None, saved(1)),
    ];
    let data = encode(&events);
    assert_eq!(decode(2, &data).unwrap(), events);
    assert_eq!(String::from_utf8(data).unwrap().matches(&id.to_string()).count(), 3);
}

#[test]
fn the_wire_form_is_one_line_that_begins_with_the_type() {
    let json = delta(17, "answer", "m1", "line\nline\r\u{2028}").to_json(RunId::default());
    let text = std::str::from_utf8(&json).unwrap();
    assert!(text.starts_with(r#"{"type":"message.delta","message_id":"m1","#), "{text}");
    assert!(!text.contains('\n') && !text.contains('\r'), "{text}");
    assert!(text.contains(r#""epoch":2,"seq":17,"ts":"2023-11-14T22:13:20.123Z""#), "{text}");
}

#[test]
fn a_batch_of_a_newer_format_is_refused() {
    assert!(decode(1, br#"{"v":2,"e":[]}"#).unwrap_err().to_string().contains("newer"));
}
