use serde_json::json;

use super::*;
use crate::state::{Change, Delta, State};

fn scope() -> Scope {
    let mut state = State::default();
    state.apply(&Delta::from([
        ("triage".to_owned(), Change::Set(json!({"intent": "billing", "confidence": 0.5, "order_id": null}))),
        ("log".to_owned(), Change::Set(json!(["a", "b", "c"]))),
        ("hits".to_owned(), Change::Set(json!([{"id": "x", "n": [1, 2]}, {"id": "y", "n": []}]))),
        ("n".to_owned(), Change::Set(json!(3))),
        ("open".to_owned(), Change::Set(json!(true))),
    ]));
    Scope::new()
        .state(state)
        .value("input", json!({"word": "hi", "docs": false, "any": {"deep": [{"k": "v"}]}}))
}

/// Evaluates an expression; an error shows its kind and message.
fn eval(source: &str) -> Result<Json, String> {
    let expr = Expr::parse(source).unwrap_or_else(|e| panic!("{source}: {e:?}"));
    expr.eval(&scope()).map_err(|e| {
        assert!(e.range.is_some_and(|range| range.end <= source.len()), "{source}");
        format!("{:?}: {}", e.kind, e.message)
    })
}

/// Returns each error as `code place: message (help)`.
fn errors(source: &str) -> Vec<String> {
    Expr::parse(source)
        .err()
        .unwrap_or_else(|| panic!("{source} is right"))
        .into_iter()
        .map(|e| {
            let place = &source[e.range];
            let help = e.help.map(|help| format!(" ({help})")).unwrap_or_default();
            format!("{} {place}: {}{help}", e.code, e.message)
        })
        .collect()
}

#[test]
fn expressions_give_values() {
    for (source, expected) in [
        ("state.triage.intent", json!("billing")),
        ("state['triage']['confidence'] < 0.6 and not input.docs", json!(true)),
        ("state.triage.intent in ['billing', 'refund']", json!(true)),
        ("state.triage.intent not in ['refund']", json!(true)),
        ("'order_id' in state.triage", json!(true)),
        ("'ill' in state.triage.intent", json!(true)),
        ("state.triage.order_id is none", json!(true)),
        ("state.triage.order_id == 'x'", json!(false)),
        ("state.missing is defined", json!(false)),
        ("state.triage.nope.x is defined", json!("error")),
        ("state.missing | default('d')", json!("d")),
        ("state.triage.order_id | default('d')", json!("d")),
        ("state.triage.order_id | default(none)", json!(null)),
        ("state.triage.order_id.x | default('d')", json!("d")),
        ("state.missing | d", json!("")),
        ("'' | default('d', true)", json!("d")),
        ("'' | default('d', boolean=true)", json!("d")),
        ("state.log", json!(["a", "b", "c"])),
        ("state.log | length", json!(3)),
        ("state.log | last", json!("c")),
        ("[] | first", json!(null)),
        ("[] | last", json!(null)),
        ("[] | max", json!(null)),
        ("[] | min", json!(null)),
        ("range(3) | last", json!(2)),
        ("'aaa' | replace('a', 'b', 2)", json!("bba")),
        ("'aaa' | replace('a', 'b', count=1)", json!("baa")),
        ("[] | last_text", json!("")),
        ("'a\nb' | indent(width=2)", json!("a\n  b")),
        ("'a\nb' | indent(2, first=true)", json!("  a\n  b")),
        ("'' | first", json!("")),
        ("'äb' | first", json!("ä")),
        ("'äb' | last", json!("b")),
        ("state.log[7] | default('d')", json!("d")),
        ("state.log[1]", json!("b")),
        ("state.log[-1]", json!("c")),
        ("state.log[1:]", json!(["b", "c"])),
        ("state.log[::-1]", json!(["c", "b", "a"])),
        ("state.log + ['d']", json!(["a", "b", "c", "d"])),
        ("state.hits[0].n", json!([1, 2])),
        ("state.hits | map(attribute='id') | join(', ')", json!("x, y")),
        ("state.hits | selectattr('id', '==', 'y') | first", json!({"id": "y", "n": []})),
        ("state.hits | map(attribute='id')", json!(["x", "y"])),
        ("input.any.deep[0].k", json!("v")),
        ("input.any", json!({"deep": [{"k": "v"}]})),
        ("{'z': state.n, 'a': [input.word, none]}", json!({"z": 3, "a": ["hi", null]})),
        ("state.n + 1", json!(4)),
        ("state.n / 2", json!(1.5)),
        ("state.n // 2", json!(1)),
        ("-state.n ** 2", json!(9)),
        ("2 < state.n <= 3", json!(true)),
        ("'n is ' ~ state.n ~ ', ' ~ true", json!("n is 3, true")),
        ("'yes' if state.open else 'no'", json!("yes")),
        ("state.open or state.missing", json!(true)),
        ("state.n == 3.0", json!(true)),
        ("range(3)", json!([0, 1, 2])),
        ("dict(a=1)", json!({"a": 1})),
        ("state.triage | tojson", json!(r#"{"intent":"billing","confidence":0.5,"order_id":null}"#)),
        ("'<a & b>' | tojson", json!(r#""<a & b>""#)),
        ("'a b/ü' | urlencode", json!("a%20b%2F%C3%BC")),
        ("[true, 1, 'x'] | join('-')", json!("true-1-x")),
        ("true | string", json!("true")),
        (
            "[{'role': 'user', 'content': [{'type': 'text', 'text': 'a'}, {'type': 'image'}, {'type': 'text', 'text': 'b'}]}] | last_text",
            json!("a\nb"),
        ),
        ("state.n is odd and state.n is not divisibleby(2)", json!(true)),
        ("'a' 'b'", json!("ab")),
        ("3", json!(3)),
        ("none", json!(null)),
    ] {
        if expected == json!("error") {
            assert!(eval(source).is_err(), "{source}");
        } else {
            assert_eq!(eval(source), Ok(expected), "{source}");
        }
    }
}

#[test]
fn what_depends_on_values_is_checked_when_it_is_evaluated() {
    for (source, expected) in [
        ("state.missing", "Undefined: `state.missing` has no value"),
        ("nope", "Undefined: `nope` has no value"),
        ("state.triage.nope.x", "Undefined: `state.triage.nope` has no value"),
        ("state.triage.nope.x | default('d')", "Undefined: `state.triage.nope` has no value"),
        ("state.log[9]", "Undefined: `state.log[9]` has no value"),
        ("[state.missing]", "Undefined: `state.missing` has no value"),
        ("state.missing | upper", "Undefined: `state.missing` has no value"),
        ("state.n and true", "Type: `state.n` is a number, expected `true` or `false`"),
        ("not state.log", "Type: `state.log` is a list, expected `true` or `false`"),
        (
            "1 if state.triage.intent else 2",
            "Type: `state.triage.intent` is a text, expected `true` or `false`",
        ),
        ("state.n > 'a'", "Type: `'a'` is a text, expected a number"),
        ("state.n == 'a'", "Type: `'a'` is a text, expected a number"),
        ("state.triage.order_id < 3", "Type: `state.triage.order_id` is null, expected a number or a text"),
        ("3 in state.triage.intent", "Type: `3` is a number, expected a text"),
        ("3 in state.log", "Type: `3` is a number, and the list holds nothing of that kind"),
        ("'x' in state.n", "Type: `state.n` is a number, expected a list, a text or an object"),
        ("state.n + 'a'", "Type: `'a'` is a text, expected a number"),
        ("state.triage.intent - 1", "Type: `state.triage.intent` is a text, expected a number"),
        (
            "'x' ~ state.triage.order_id",
            "Type: `state.triage.order_id` does not work: null is no text; use `default`",
        ),
        (
            "'x' ~ state.log",
            "Type: `state.log` does not work: a list or an object is no text; use `tojson` or one of its fields",
        ),
        (
            "state.triage.intent | round",
            "Type: `state.triage.intent | round` does not work on a value of this type",
        ),
        (
            "9223372036854775807 * 9",
            "Type: `9223372036854775807 * 9` does not work: the number needs more than 64 bits",
        ),
        ("state.n / 0", "Other: `state.n / 0` divides by zero"),
        ("5 % 0", "Other: `5 % 0` divides by zero"),
        ("'abc' | int", "Other: `'abc' | int` does not work on this value: the text is no number"),
        ("'' | float", "Other: `'' | float` does not work on this value: the text is no number"),
        (
            "[1] | batch(-1)",
            "Other: `[1] | batch(-1)` does not work on this value: the number is not one that it takes",
        ),
        ("[1] | batch(0)", "Other: `[1] | batch(0)` does not work on this value: the count is 0"),
        (
            "5 is divisibleby(0)",
            "Other: `5 is divisibleby(0)` does not work on this value: it divides by zero, or the number is too large",
        ),
        ("range(200000)", "Other: `range(200000)` does not work on this value: the range is too long"),
        ("'%s' | format", "Other: `'%s' | format` does not work on this value: the format takes more values"),
        ("range(100000) | list | list | list", "Limit: `range(100000) | list | list` does too much work"),
        ("'a' * 3", "Type: `'a'` is a text, expected a number"),
    ] {
        assert_eq!(eval(source), Err(expected.to_owned()), "{source}");
    }
}

#[test]
fn a_message_never_holds_a_value() {
    let secret = "s3cr3t";
    let scope = Scope::new().value("x", json!({"v": secret, "list": [secret]}));
    for source in [
        "x.v | int",
        "x.v | float + 1",
        "x.v | round",
        "x.v | abs",
        "x.v | format(1)",
        "x.v | sum",
        "x[x.v]",
        "x.v + 1",
        "x.v < 1",
        "x | items | first | int",
        "x.list | map('int') | list",
        "x.v | batch(1, 2) | first | int",
        "x.list | sort(attribute='a')",
        "x.v and true",
        "x.list | map(attribute='a.b') | join",
        "x | dictsort(by=x.v)",
        "range(x.v)",
        "x.v | indent(x.v)",
        "x.list | groupby(x.v)",
        "x.list | join(x)",
        "{x.v: 1}[x.v + x.v]",
    ] {
        if let Err(error) = Expr::parse(source).unwrap().eval(&scope) {
            assert!(!format!("{error:?}").contains(secret), "{source}: {error:?}");
        }
    }
}

#[test]
fn a_condition_gives_true_or_false() {
    let bool = |source: &str| Expr::parse(source).unwrap().eval_bool(&scope());
    assert_eq!(bool("state.n > 2"), Ok(true));
    let error = bool("state.n").unwrap_err();
    assert_eq!((error.kind, error.range), (EvalErrorKind::Type, Some(0..7)));
    assert_eq!(error.message, "`state.n` is a condition and must give `true` or `false`");
}

#[test]
fn errors_of_the_text_say_where_and_what_to_write() {
    for (source, expected) in [
        ("", vec!["E101 : an expression is missing"]),
        (
            "state.a contains 3",
            vec!["E101 contains: `contains` is not an operator here (write it the other way round:  y in x)"],
        ),
        ("state.a &&  state.b", vec!["E101 &&: `&&` is not an operator here (write `and`)"]),
        ("state.a || state.b", vec!["E101 ||: `||` is not an operator here (write `or`)"]),
        ("!state.a", vec!["E101 !: `!` is not an operator here (write `not`)"]),
        ("state.a = 'x'", vec!["E101 =: `=` is not an operator here (write `==`)"]),
        ("state.a === 'x'", vec!["E101 ===: `===` is not an operator here (write `==`)"]),
        (
            "state.a ? 'x' : 'y'",
            vec!["E101 ?: `?` is not an operator here (write `'x' if state.a else 'y'`)"],
        ),
        ("state.a AND state.b", vec!["E101 AND: `AND` is not an operator here (write `and`)"]),
        (
            "state.a == \u{2018}x\u{2019}",
            vec!["E101 \u{2018}: `\u{2018}` is not an operator here (write straight quotes: 'text')"],
        ),
        ("state.a ==", vec!["E101 ==: unexpected end of input, expected expression"]),
        (
            "'x' if state.a",
            vec!["E101 'x' if state.a: an `if` in an expression needs an `else` (write `x if c else y`)"],
        ),
        ("state.a == null", vec!["E102 null: unknown name `null` (write `none`)"]),
        (
            "{{ state.a }} < 0.6",
            vec!["E105 {{ state.a }} < 0.6: braces in an expression (write  state.a < 0.6)"],
        ),
        (
            "Hello {{ input.name }}!",
            vec![
                "E105 Hello {{ input.name }}!: braces in an expression (write  'Hello ' ~ input.name ~ '!')",
            ],
        ),
        (
            "'x' ~ ${KEY}",
            vec![
                "E105 ${KEY}: `${…}` in an expression (a secret is written {secret: NAME} where it is used; for a setting write env.NAME)",
            ],
        ),
        ("state.a | lenght", vec!["E103 lenght: unknown filter `lenght` (did you mean `length`?)"]),
        (
            "state.a | safe",
            vec!["E103 safe: unknown filter `safe` (drop it: nothing is escaped, prompts are not HTML)"],
        ),
        ("state.a is empty", vec!["E103 empty: unknown test `empty` (write `x | length == 0`)"]),
        ("state.a is null", vec!["E103 null: unknown test `null` (did you mean `none`?)"]),
        ("len(state.a) > 2", vec!["E103 len: unknown function `len` (write `state.a | length`)"]),
        ("rang(3)", vec!["E103 rang: unknown function `rang` (did you mean `range`?)"]),
        ("debug()", vec!["E103 debug: unknown function `debug` (there are: dict, range)"]),
        ("state.a.strip()", vec!["E103 .strip(): unknown function `strip` (write `state.a | trim`)"]),
        ("state.a | replace('x')", vec!["E103 replace: the filter `replace` takes 2 to 3 arguments, not 1"]),
        ("state.a | upper(1)", vec!["E103 upper: the filter `upper` takes no arguments, not 1"]),
        (
            "state.a | map('replace', 'T')",
            vec!["E103 'replace': the filter `replace` takes 2 to 3 arguments, not 1"],
        ),
        (
            "state.a | selectattr('x', 'divisibleby')",
            vec!["E103 'divisibleby': the test `divisibleby` takes one argument, not 0"],
        ),
        ("state.a | map('indent', width=2)", vec!["E103 map: `map` hands its arguments on by their places"]),
        ("state.a | map(state.b)", vec!["E103 state.b: `map` takes the name of a filter"]),
        (
            "state.a | map('upper', attribute='x')",
            vec!["E103 'upper': `map` takes a field or a filter, not both"],
        ),
        (
            "state.a | groupby(default='x')",
            vec![
                "E103 groupby: the filter `groupby` lacks its `attribute` (write  groupby(attribute='name'))",
            ],
        ),
        ("range(1, 2, 3, 4)", vec!["E103 range: the function `range` takes 1 to 3 arguments, not 4"]),
        ("state.a | map('uper')", vec!["E103 'uper': unknown filter `uper` (did you mean `upper`?)"]),
        (
            "state.a | selectattr('x', 'equal', 1)",
            vec!["E103 'equal': unknown test `equal` (did you mean `equalto`?)"],
        ),
        (
            "state.a == 'x' or 'y'",
            vec!["E104 'y': a condition is `true` or `false` (write `state.a in ['x', 'y']`)"],
        ),
        ("state.a | length and state.b", vec!["E104 state.a | length: a condition is `true` or `false`"]),
        ("not 'x'", vec!["E104 'x': a condition is `true` or `false`"]),
        (
            "state.a | foo and len(state.b) > 1",
            vec![
                "E103 foo: unknown filter `foo` (there are: abs, attr, batch, bool, capitalize, chain, count, d, default, dictsort, first, float, format, groupby, indent, int, items, join, last, last_text, length, lines, list, lower, map, max, min, quoted, reject, rejectattr, replace, reverse, round, select, selectattr, slice, sort, split, string, sum, title, tojson, trim, unique, upper, urlencode, zip)",
                "E103 len: unknown function `len` (write `state.b | length`)",
            ],
        ),
        (
            "f(*state.a)",
            vec![
                "E103 f: unknown function `f` (there are: dict, range)",
                "E101 state.a: arguments cannot be unpacked here",
            ],
        ),
    ] {
        assert_eq!(errors(source), expected, "{source}");
    }
}

#[test]
fn signs_within_texts_are_texts() {
    for source in ["'a && b'", "'{{ x }}'", r#""${X}""#, r"'it\'s ? '", "{'a': {'b': 1}}"] {
        assert!(Expr::parse(source).is_ok(), "{source}");
    }
}

#[test]
fn an_expression_that_nests_too_deeply_is_refused() {
    for source in [
        format!("{}1", "1+".repeat(1000)),
        format!("{}1{}", "(".repeat(500), ")".repeat(500)),
        format!("a{}", ".b".repeat(2000)),
        "a".repeat(9000),
    ] {
        assert_eq!(Expr::parse(&source).err().map(|e| e[0].code), Some("E101"));
    }
}

#[test]
fn an_expression_of_sixty_operands_is_evaluated() {
    let sum = format!("{}1", "1+".repeat(60));
    assert_eq!(eval(&sum), Ok(json!(61)));
    let nested = format!("{}1{}", "[".repeat(60), "]".repeat(60));
    assert!(eval(&nested).is_ok());
    let filters = format!("'a'{}", " | default('x')".repeat(60));
    assert_eq!(eval(&filters), Ok(json!("a")));
}

#[test]
fn an_expression_that_grows_without_end_is_stopped() {
    let grows = format!("'aaaa'{}", " | replace('a', 'aaaaaaaaaa')".repeat(60));
    assert!(eval(&grows).is_err_and(|e| e.starts_with("Limit")));
}

#[test]
fn reads_are_the_names_with_their_fixed_paths_and_places() {
    for (source, expected) in [
        ("state.triage.intent", vec!["state.triage.intent"]),
        ("state['a'].b[0].c", vec!["state.a.b.0.c = state['a'].b[0].c"]),
        ("state[input.key].x", vec!["state", "input.key"]),
        ("(state.a)[1:state.n]", vec!["state.a", "state.n"]),
        ("a.x if b.y and not c else d | default(e.z)", vec!["a.x", "b.y", "c", "d", "e.z"]),
        ("f.a is divisibleby(g.b) or h.c not in [i.d]", vec!["f.a", "g.b", "h.c", "i.d"]),
        ("{'k': a.b, c.d: 1} | join(e.f, attribute=g)", vec!["a.b", "c.d", "e.f", "g"]),
        ("state.items | first | attr('x')", vec!["state.items"]),
        ("1 + 2", vec![]),
    ] {
        let expr = Expr::parse(source).unwrap();
        let mut found: Vec<_> = expr
            .reads()
            .iter()
            .map(|read| {
                let name =
                    std::iter::once(&read.root).chain(&read.path).cloned().collect::<Vec<_>>().join(".");
                let text = &source[read.range.clone()];
                if name == text { name } else { format!("{name} = {text}") }
            })
            .collect();
        let mut expected: Vec<_> = expected.into_iter().map(str::to_owned).collect();
        if source.contains("c.d: 1") {
            // The parser keeps keys and values apart, so their order is that of the pairs.
            found.sort();
            expected.sort();
        }
        assert_eq!(found, expected, "{source}");
    }
}

#[test]
fn a_tree_evaluates_its_leaves_and_keeps_the_order_written() {
    let expr = |source: &str| ExprTree::Expr(Expr::parse(source).unwrap());
    let tree = ExprTree::Map(indexmap::IndexMap::from([
        ("z".to_owned(), expr("state.n")),
        ("a".to_owned(), ExprTree::List(vec![expr("input.word"), ExprTree::Const(json!(null))])),
    ]));
    assert_eq!(tree.eval(&scope()).unwrap().to_string(), r#"{"z":3,"a":["hi",null]}"#);
    let mut seen = Vec::new();
    tree.for_each_expr(&mut |expr| seen.push(expr.source()));
    assert_eq!(seen, ["state.n", "input.word"]);
}

#[test]
fn text_of_users_is_never_parsed() {
    for text in ["{{ 7*7 }}", "{% include 'x' %}", "${HOME}", "@system", "' ~ secrets ~ '"] {
        let scope = Scope::new().value("x", json!({"t": text}));
        for source in [
            "x.t",
            "x['t']",
            "[x.t] | first",
            "x | items | first | last",
            "'' ~ x.t",
            "x.t | string",
            "[x.t] | join('')",
        ] {
            assert_eq!(Expr::parse(source).unwrap().eval(&scope), Ok(json!(text)), "{source}");
        }
    }
}

#[test]
fn a_fence_is_longer_than_any_in_the_text() {
    let quote = |text: &str| Expr::parse("x | quoted").unwrap().eval(&Scope::new().value("x", text)).unwrap();
    assert_eq!(quote("a"), json!("```text\na\n```"));
    assert_eq!(quote("```\nb\n````\n"), json!("`````text\n```\nb\n````\n`````"));
}

#[test]
fn a_later_value_of_a_name_hides_an_earlier_one_and_debug_shows_names_only() {
    let scope = Scope::new().value("x", 1).value("y", "s3cr3t").value("x", 2);
    assert_eq!(Expr::parse("x").unwrap().eval(&scope), Ok(json!(2)));
    assert_eq!(format!("{scope:?}"), r#"{"y", "x"}"#);
}
