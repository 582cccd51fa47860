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
