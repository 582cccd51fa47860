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
    ];
    let fields = channels.map(|(name, ty)| (name.to_owned(), Slot::of(ty)));
    Roots::from([("state".to_owned(), Root::Fields(fields.into()))])
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
        ("state.xs[state.n]", "integer"),
        ("state.xs[state.s]", "S403"),
        ("state.xs[1.5]", "S403"),
        ("{'a': 1}[state.n]", "S403"),
        ("state.xs['a':]", "S403"),
        ("state.said[-1].role", "string"),
        ("state.said[0].tool_calls", "S404"),
        ("(state.said | last).tool_calls | default([])", "[any]"),
        ("(state.said | last).tool_call_id is defined", "boolean"),
        ("state.said[0].tool", "S402"),
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
        ("state.xs | map('int', 0)", "[any]"),
        ("state.xs | zip(3)", "S403"),
        ("state.xs | zip(state.xs)", "[any]"),
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
