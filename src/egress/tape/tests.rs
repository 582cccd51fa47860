use serde_json::json;

use super::*;

fn asked(body: &Json) -> Asked {
    let url = Url::parse("https://api.example.com/v1/messages").unwrap();
    Asked::new(&Method::POST, &url, body.to_string().as_bytes())
}

#[test]
fn a_difference_is_told_at_its_place() {
    let messages = |text: &str| json!({"messages": [{"role": "user", "content": text}], "n": 1});
    for (a, b, expected) in [
        (
            messages("a"),
            messages("b"),
            r#"at `/messages/0/content` the recording has "a", this call has "b""#,
        ),
        (messages("a"), json!({"messages": [], "n": 1}), "at `/messages/0` the recording has {\"content\":"),
        (json!({"a/b": 1}), json!({}), "at `/a~1b` the recording has 1, this call has nothing"),
        (json!("x"), json!({}), "in the body the recording has \"x\", this call has {}"),
    ] {
        let told = difference(&asked(&a), &asked(&b));
        assert!(told.starts_with(expected), "{told}");
    }
    let id = |seed: &str| json!({"id": format!("call_{seed}_0")});
    assert_eq!(asked(&id("0123456789abcdef")), asked(&id("fedcba9876543210")), "ids are made up anew");
    assert_ne!(asked(&id("x")), asked(&id("y")));
}

#[test]
fn a_secret_is_hidden_wherever_it_stands_even_across_two_pieces() {
    let frames = ["data: sk-se", "cret!"].map(|text| Frame::of(text.as_bytes())).to_vec();
    let headers = [("x-echo".to_owned(), "sk-secret".to_owned())].into_iter().collect();
    let call = Taped {
        request: Asked { url: "https://x/?k=sk-secret".into(), ..asked(&json!({"a": ["sk-secret"]})) },
        response: Answered { status: 200, headers, frames, cut: false },
    };
    let text = serde_json::to_string(&hidden(call, &[Secret::new("sk-secret")])).unwrap();
    assert_eq!((text.contains("sk-se"), text.matches("***").count()), (false, 4), "{text}");
}

#[test]
fn a_piece_of_any_bytes_comes_back_as_it_was() {
    for bytes in [&b"data: x\n\n"[..], "世".as_bytes(), &"世".as_bytes()[..2], b"\x00\xff"] {
        let text = serde_json::to_string(&Frame::of(bytes)).unwrap();
        let frame: Frame = serde_json::from_str(&text).unwrap();
        assert_eq!(frame.bytes().unwrap(), bytes);
    }
}

#[test]
fn a_call_that_outlives_its_case_is_on_no_other_tape() {
    let tape = Tape::recorder();
    tape.insert(Path::new("first.json")).unwrap();
    let old = tape.record(asked(&json!(1)));
    tape.insert(Path::new("second.json")).unwrap();
    let new = tape.record(asked(&json!(2)));
    new.piece(&Ok(Bytes::from_static(b"new")));
    old.piece(&Ok(Bytes::from_static(b"old")));
    old.head(500, IndexMap::new());
    let kept = serde_json::to_value(&tape.deck().calls).unwrap();
    assert_eq!(kept[0]["response"], json!({"status": 0, "headers": {}, "frames": ["new"]}));
}
