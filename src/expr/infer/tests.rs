use super::*;

fn roots() -> Roots {
    let maybe = |ty: Type| Type::Nullable(Box::new(ty));
    let channels = [
        ("b", Type::Boolean),
        ("n", Type::INTEGER),
        ("s", Type::STRING),
        ("o", maybe(Type::STRING)),
        ("xs", Type::List(Box::new(Type::INTEGER))),
        ("any", Type::Any),
        ("said", Type::Messages),
        ("f", Type::NUMBER),
        (
            "rows",
            Type::List(Box::new(Type::Record(
                [("a", Type::STRING), ("o", maybe(Type::STRING)), ("n", maybe(Type::NUMBER))]
                    .map(|(name, ty)| (name.to_owned(), Field::of(ty)))
                    .into(),
            ))),
        ),
    ];
    let fields = |all: &[(&str, Type)]| {
        Root::Fields(all.iter().map(|(name, ty)| ((*name).to_owned(), Slot::of(ty.clone()))).collect())
    };
    Roots::from([("state".to_owned(), fields(&channels)), ("turn".to_owned(), fields(&[("t", turn())]))])
}

#[test]
fn a_branch_keeps_its_type() {
    for (expression, found) in [
        ("'a' if state.b else 0", "enum(a) or integer"),
        ("state.n if state.b else 1.5", "number"),
        ("'a' if state.b else state.any", "enum(a) or any"),
        ("(1 if state.b else 'a') if state.b else none", "integer or enum(a) or null"),
        ("[1, 'a', 2, 'b']", "[integer or enum(a, b)]"),
        ("[[1], ['a']]", "[[integer or enum(a)]]"),
        ("state.o | default(0)", "string or integer"),
        ("[] if state.b else state.n", "[any] or integer"),
        ("[] if state.b else state.xs", "[integer]"),
        ("[{'a': 1}, {'a': 'x'}]", "[{a: integer or enum(x)}]"),
        ("[{'a': 1}, {'b': 1}]", "[{a: integer} or {b: integer}]"),
        ("({'a': 1} if state.b else {'a': 'x'}).a", "integer or enum(x)"),
        ("({'a': 1} if state.b else {'b': 'x'}).a", "S402"),
        ("[{'a': 1}, {'b': 1}] | map(attribute='a') | list", "S402"),
        ("(1 if state.b else 'a').x", "S402"),
        ("(1 if state.b else 'a') + 1", "S403"),
        ("-(1 if state.b else 'a')", "S403"),
        ("(1 if state.b else state.any) * 2", "number"),
        ("(1 if state.b else 'a') == 1", "E106"),
        ("(1 if state.b else 'a') == none", "boolean"),
        ("(1 if state.b else 'a') < 2", "E106"),
        ("(1 if state.b else 'a') ~ 'x'", "string"),
        ("(1 if state.b else [1]) ~ 'x'", "S403"),
        ("(1 if state.b else 'a') | upper", "string"),
        ("(1 if state.b else [1]) | length", "S403"),
        ("('a' if state.b else [1]) | length", "integer"),
        ("[1, 'a'] | sum", "S403"),
        ("[1, 'a'] | max", "S403"),
        ("[1, 'a'] | join(',')", "string"),
        ("[1, 'a'] | select('string') | list", "[enum(a)]"),
        ("not (true if state.b else 1)", "E104"),
        ("not (true if state.b else state.any)", "boolean"),
        ("'a' in [1, 'a']", "boolean"),
        ("true in [1, 'a']", "E106"),
        ("'a' in [1, 2]", "E106"),
        ("1 in ([1] if state.b else ['a'])", "E106"),
        ("(1 if state.b else 'a') in [1, 2]", "E106"),
        ("(1 if state.b else 'a') in [1, 'b']", "E106"),
        // A list that is written out has items.
        ("[state.n, 2] | max", "integer"),
        ("[state.n, none] | first", "integer?"),
        ("[3, 1] | sort | last", "integer"),
        ("([1] if state.b else [2, 3]) | first", "integer"),
        ("(state.xs + [1]) | last", "integer"),
        ("state.xs | max", "integer?"),
        ("[] | first", "any"),
        // An item of a list may not be there.
        ("state.xs[0]", "S404"),
        ("state.xs[-1] + 1", "S404"),
        ("state.xs[0] | default(1)", "integer"),
        ("state.xs[0] is defined", "boolean"),
        ("state.xs[0] is defined and state.xs[0] > 1", "boolean"),
        ("state.xs | length > 0 and state.xs[0] > 1", "boolean"),
        ("state.xs | length > 0 and state.xs[1] > 1", "S404"),
        ("state.xs | length > 1 and state.xs[1] > state.xs[-2]", "boolean"),
        ("[1, 2][1]", "integer"),
        ("[1, 2][2]", "S404"),
        ("(state.xs | sort)[0] | default(0)", "integer"),
        ("state.xs[state.n]", "S404"),
        ("state.xs[state.n] | default(0)", "integer"),
        ("state.xs[state.n] is defined and state.xs[state.n] > 1", "boolean"),
        ("state.n < state.xs | length and state.xs[state.n] > 1", "S404"),
        ("state.n >= 0 and state.n < state.xs | length and state.xs[state.n] > 1", "boolean"),
        ("state.n < 0 or state.n >= state.xs | length or state.xs[state.n] > 1", "boolean"),
        ("0 <= state.n < state.xs | length and state.xs[state.n] > 1", "boolean"),
        ("state.xs | length > state.n and state.n > -1 and state.xs[state.n] > 1", "boolean"),
        ("0 <= state.n and state.xs[state.n] > 1", "S404"),
        ("state.n < state.xs | length and state.xs[state.n + 1] > 1", "S404"),
        ("state.xs[state.f]", "S403"),
        ("state.xs[none]", "S412"),
        ("state.s[0]", "S404"),
        ("state.s[0] | default('')", "string"),
        ("state.s != '' and state.s[0] == 'a'", "boolean"),
        ("'abc'[2]", "string"),
        ("'abc'[3]", "S404"),
        ("state.n[0]", "S403"),
        ("state.b[0]", "S403"),
        ("state.xs[::0]", "S403"),
        ("state.xs[:state.f]", "S403"),
        ("state.xs[:none]", "[integer]"),
        ("state.xs[state.s]", "S403"),
        ("state.xs[1.5]", "S403"),
        ("{'a': 1}[state.n]", "S403"),
        ("{'a': 1}[state.s]", "S404"),
        ("{'a': 1}[state.s] | default(0)", "any or integer"),
        ("state.s in {'a': 1}", "boolean"),
        ("state.xs['a':]", "S403"),
        // A conversation is empty in a graph that another one calls, and when it was cleared.
        ("state.said[-1].role", "S404"),
        ("(state.said | last).role", "S412"),
        ("(state.said | last) is not none and (state.said | last).role == 'user'", "boolean"),
        ("state.said | length > 0 and state.said[-1].role == 'user'", "boolean"),
        ("[turn.t][0].tool_calls", "S404"),
        ("turn.t.tool_calls | default([])", "[any]"),
        ("turn.t.tool_call_id is defined", "boolean"),
        ("turn.t.tool", "S402"),
        // Its content is a text, or a list of parts.
        ("turn.t.content", "string or [any]"),
        ("turn.t.content | upper", "S403"),
        ("turn.t.content | upper if turn.t.content is string else ''", "string"),
        ("[] if turn.t.content is string else turn.t.content", "[any]"),
        ("[turn.t] | last_text", "string"),
        ("state.said | map(attribute='content') | join(' ')", "S403"),
        ("state.said | map(attribute='content') | select('string') | join(' ')", "string"),
        // Arguments have types, too.
        ("state.xs | join(3)", "S403"),
        ("state.xs | join(d=3)", "S403"),
        ("state.xs | join(state.o)", "string"),
        ("state.s | indent('x')", "S403"),
        ("state.n | round('x')", "S403"),
        ("state.xs | batch('x')", "S403"),
        ("state.xs | batch(0)", "S403"),
        ("state.xs | sort(reverse='x')", "S403"),
        ("state.xs | sort(foo=true)", "E103"),
        ("state.xs | sort(true)", "E103"),
        ("state.xs | zip(3)", "S403"),
        ("state.xs | zip([state.s])", "[[integer or string]]"),
        // A filter or a test of each item takes what the items are.
        ("state.xs | map('int', 0)", "[integer]"),
        ("state.xs | map('string')", "[string]"),
        ("state.xs | map('first')", "S403"),
        ("state.rows | map(attribute='o') | map('upper')", "S412"),
        ("state.rows | map(attribute='o') | reject('none') | map('upper')", "[string]"),
        ("state.rows | map(attribute='o') | map('default', '-')", "[string]"),
        ("state.rows | map('upper')", "S403"),
        ("state.rows | map('tojson')", "[string]"),
        ("state.rows | map(attribute='a') | map('int')", "S403"),
        ("state.rows | map(attribute='a') | map('int', 0)", "[integer]"),
        ("state.rows | map(attribute='a') | map('indent', -1)", "S403"),
        ("state.xs | select('odd')", "[integer]"),
        ("state.rows | map(attribute='a') | select('odd')", "S403"),
        ("state.rows | selectattr('a', 'divisibleby', 2)", "S403"),
        ("state.rows | selectattr('o', 'eq', 'x') | map(attribute='o')", "[string]"),
        ("state.rows | selectattr('o', 'ne', 'x') | map(attribute='o')", "[string?]"),
        ("state.rows | selectattr('a', 'in', ['x'])", "[{a: string, o: string?, n: number?}]"),
        ("state.rows | sum(attribute='n')", "S412"),
        ("state.rows | selectattr('n') | sum(attribute='n')", "number"),
        ("state.rows | sort(attribute='a, o')", "[{a: string, o: string?, n: number?}]"),
        ("state.rows | batch(2, 0)", "[[{a: string, o: string?, n: number?} or integer]]"),
        // What other filters take and give.
        ("state.s | int", "S403"),
        ("state.s | int(0)", "integer"),
        ("state.s | int(none)", "S403"),
        ("state.s | float(state.o)", "S403"),
        ("[state.s] | map('float', none)", "S403"),
        ("state.f | int(none)", "integer"),
        // A field has a text for its name, and has to be there.
        ("{1: 2}", "S403"),
        ("{state.n: 1}", "S403"),
        ("{state.o: 1}", "S412"),
        ("{state.s: 1}", "any"),
        ("{'a': 1} | attr('a')", "integer"),
        ("{'a': 1} | attr(state.s)", "S404"),
        ("{'a': 1} | attr(state.s) | default(0)", "any or integer"),
        ("state.any | attr(state.s)", "any"),
        ("[state.xs] | map(attribute=0)", "S404"),
        ("[state.xs] | map(attribute='0')", "S404"),
        ("[{'kids': state.xs}] | map(attribute='kids.0')", "S404"),
        ("[state.xs] | map(attribute=0, default='x')", "[integer or enum(x)]"),
        ("state.xs | zip([state.s]) | map(attribute=1)", "[string]"),
        ("state.rows | map(attribute=0)", "S402"),
        // Null has no field, not even one that is null.
        ("[state.rows] | map('first') | map(attribute='a')", "S412"),
        ("[state.rows] | map('first') | reject('none') | map(attribute='a')", "[string]"),
        ("(state.rows | groupby('a'))[0][1] | length", "S404"),
        ("state.s | float('-')", "number or enum(-)"),
        ("'5' | int + 1", "integer"),
        ("state.f | int", "integer"),
        ("state.s | replace('a', 'b', 1)", "string"),
        ("state.s | indent(-1)", "S403"),
        ("'%s %d' | format(state.s, state.n)", "string"),
        ("'%d' | format(state.f)", "S403"),
        ("'%.1f' | format(state.f)", "string"),
        ("'%s' | format", "S403"),
        ("'%d' | format(state.s)", "S403"),
        ("'%s' | format(state.o)", "S412"),
        ("'100 %' | format", "S403"),
        ("state.s | format(1)", "S403"),
        ("state.f | round(1, 'down')", "S403"),
        ("state.f | round(1, 'floor')", "number"),
        ("state.rows | last_text", "S403"),
        ("state.any | last_text", "string"),
        ("{'a': 'x'} | items", "[[string]]"),
        ("{'a': 1} | items | map('first')", "[string]"),
        ("{'a': 1} | dictsort | first", "[string or integer]?"),
        ("{'a': [1]} | urlencode", "S403"),
        (
            "state.rows | groupby('a') | first",
            "{grouper: string, list: [{a: string, o: string?, n: number?}]}?",
        ),
        ("dict(a=1).a", "integer"),
        ("dict(a=1).b", "S402"),
        ("dict({'a': 1}, b='x').b", "enum(x)"),
        ("dict(state.s)", "S403"),
        ("range(1.5)", "S403"),
        ("range(0, 10, 0)", "S403"),
        ("range(100000)", "[integer]"),
        ("range(100001)", "S403"),
        ("range(10, 0, -1)", "[integer]"),
        ("range(0, -200000)", "[integer]"),
        ("2 ** 62", "integer"),
        ("2 ** 200", "S403"),
        // One finding for one mistake.
        ("state.rows | max | upper", "S403"),
        ("state.s | items | first | upper", "S403"),
        ("state.xs | map(attribute='x')", "S402"),
        ("state.xs | groupby('x')", "S402"),
        ("range(state.s)", "S403"),
        ("state.n is divisibleby('x')", "S403"),
        ("state.n is divisibleby(0)", "S403"),
        ("state.s is startingwith(3)", "S403"),
        ("state.n / 0", "S403"),
        ("state.n % 0", "S403"),
        ("state.any | join(state.any)", "string"),
    ] {
        let roots = roots();
        let (typed, faults) = infer(expression, &roots, &Facts::default());
        let codes: Vec<&str> = faults.iter().map(|fault| fault.error.code).collect();
        let shown = if codes.is_empty() { typed.ty.to_string() } else { codes.join(" ") };
        assert_eq!(shown, found, "{expression}: {faults:?}");
    }
}

#[test]
fn the_part_that_does_not_fit_is_found() {
    let list = Type::List(Box::new(Type::INTEGER));
    for (expression, due, found) in [
        ("'a' if state.b else 0", &Type::INTEGER, "'a': the text 'a'"),
        ("1 if state.b else (2 if state.b else state.s)", &Type::INTEGER, "state.s: string"),
        ("state.o | default(0)", &Type::INTEGER, "state.o: string"),
        ("state.o | default(0)", &Type::STRING, "0: integer"),
        ("[1, state.s]", &list, "state.s: string"),
        ("[1, 2] if state.b else [1, 'x' if state.b else 2]", &list, "'x': the text 'x'"),
        ("state.s", &Type::INTEGER, ""),
    ] {
        let fits = |typed: &Typed| due.accepts(&typed.ty);
        let odd = odd_part(expression, &roots(), due, &fits);
        let shown = odd.map_or_else(String::new, |(range, typed)| format!("{}: {typed}", &expression[range]));
        assert_eq!(shown, found, "{expression}");
    }
}

#[test]
fn a_finding_says_what_can_be_written_as_it_stands() {
    for (expression, place, help) in [
        (
            "(state.s | split(' '))[0]",
            "(state.s | split(' '))[0]",
            "guard it with  state.s | split(' ') | length > 0  or give a value instead:  (state.s | split(' '))[0] | default(…)",
        ),
        (
            "(state.rows | first).a",
            "state.rows | first",
            "give a value for null:  state.rows | first | default(…)  or guard it with  state.rows | length > 0",
        ),
        ("state.rows | map('upper')", "state.rows", "name a field:  state.rows | map(attribute='a')"),
        (
            "state.rows | map(attribute='o') | map('upper')",
            "state.rows | map(attribute='o')",
            "leave null out:  state.rows | map(attribute='o') | reject('none') | map('upper')",
        ),
        (
            "(state.o if state.b else none) ~ ''",
            "state.o if state.b else none",
            "give a value for null:  (state.o if state.b else none) | default(…)",
        ),
        ("state.s | int", "state.s", "say what to take then:  state.s | int(0)"),
        (
            "turn.t.content ~ ''",
            "turn.t.content",
            "for its text write  [turn.t] | last_text  or ask before  turn.t.content is string",
        ),
    ] {
        let roots = roots();
        let (_, faults) = infer(expression, &roots, &Facts::default());
        let [fault] = faults.as_slice() else { panic!("{expression}: {faults:?}") };
        let shown = (&expression[fault.error.range.clone()], fault.error.help.as_deref());
        assert_eq!(shown, (place, Some(help)), "{expression}");
    }
}
