use serde_json::json;

use super::*;

fn scope() -> Scope {
    Scope::new()
        .value("name", "Ada")
        .value("flag", true)
        .value("nothing", json!(null))
        .value("n", 3)
        .value("quotes", json!([{"id": "q1", "body": "one"}, {"id": "q2", "body": "two"}]))
}

/// Renders `main` beside the other templates.
fn render_with(files: &[(&str, &str)], source: &str) -> Result<String, String> {
    let mut set = Set::new();
    for (name, source) in files {
        set.add(name, source).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
    set.add("main", source).unwrap_or_else(|e| panic!("{source}: {e:?}"));
    set.freeze().render("main", &scope()).map_err(|e| {
        let place = e.range.map(|range| format!(" at {:?}", &source[range])).unwrap_or_default();
        format!("{:?}: {}{place}", e.kind, e.message)
    })
}

fn render(source: &str) -> Result<String, String> {
    render_with(&[], source)
}

fn errors(source: &str) -> Vec<String> {
    let found = Set::new().add("main", source).map_or_else(|errors| errors, |parsed| parsed.errors);
    assert!(!found.is_empty(), "{source} is right");
    found
        .into_iter()
        .map(|e| {
            let help = e.help.map(|help| format!(" ({help})")).unwrap_or_default();
            let related = e.related.map(|r| format!(" <- {}", &source[r.range])).unwrap_or_default();
            format!("{} {}: {}{help}{related}", e.code, &source[e.range], e.message)
        })
        .collect()
}

#[test]
fn templates_render() {
    for (source, expected) in [
        ("Hello {{ name }}!", "Hello Ada!"),
        ("{{ flag }} {{ n }} {{ n / 2 }} {{ 1 > 2 }}", "true 3 1.5 false"),
        ("{% for q in quotes %}\n- {{ q.body }}\n{% endfor %}\nend", "- one\n- two\nend"),
        ("{% if quotes %}some{% else %}none{% endif %}", "some"),
        (
            "{% if nothing %}a{% else %}b{% endif %}{{ nothing | default('-') }}{{ missing | default('?') }}",
            "b-?",
        ),
        ("{{ quotes[0] | tojson }}", r#"{"id":"q1","body":"one"}"#),
        ("{{ quotes | map(attribute='id') | join(', ') }}", "q1, q2"),
        (
            "{% set ns = namespace(n=0) %}{% for q in quotes %}{% set ns.n = ns.n + loop.index %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{% macro hi(who, mark='!') %}Hi {{ who }}{{ mark }}{% endmacro %}{{ hi(name) }}", "Hi Ada!"),
        ("{% raw %}{{ name }}{% endraw %}", "{{ name }}"),
        ("{{ '<b>' }}", "<b>"),
        ("{% set x %}{{ name }}{% endset %}[{{ x }}]", "[Ada]"),
        ("{{ name | quoted }}", "```text\nAda\n```"),
    ] {
        assert_eq!(render(source).as_deref(), Ok(expected), "{source}");
    }
}

#[test]
fn what_has_no_text_fails_instead_of_printing() {
    for (source, expected) in [
        ("Hi {{ missing }}", "Undefined: `missing` has no value at \"missing\""),
        ("{{ quotes[0].title }}", "Undefined: `quotes[0].title` has no value at \"quotes[0].title\""),
        ("{% if missing %}{% endif %}", "Undefined: `missing` has no value at \"missing\""),
        ("{{ nothing }}", "Type: `nothing` does not work: null is no text; use `default` at \"nothing\""),
        (
            "{{ quotes }}",
            "Type: `quotes` does not work: a list or an object is no text; use `tojson` or one of its fields at \"quotes\"",
        ),
        ("{{ name | round }}", "Type: `round` does not work on a value of this type at \"round\""),
        ("{% include 'gone' %}", "Other: `include 'gone'` failed: template not found at \"include 'gone'\""),
    ] {
        assert_eq!(render(source), Err(expected.to_owned()), "{source}");
    }
}

#[test]
fn an_error_within_an_include_names_its_file() {
    let found = render_with(&[("_partials/a.md", "x {{ missing }}")], "{% include '_partials/a.md' %}");
    assert_eq!(found, Err("Undefined: `missing` has no value (in `_partials/a.md`)".to_owned()));
}

/// What the compiler lets pass can be rendered, with blocks around each include.
#[test]
fn includes_can_be_as_deep_as_they_may_be() {
    let block = |n: usize| {
        format!("{{% for x in [1] %}}{{% with y = x %}}{{% include 'p{n}' %}}{{% endwith %}}{{% endfor %}}")
    };
    let files: Vec<(String, String)> = (1..=DEEPEST_INCLUDE)
        .map(|n| (format!("p{n}"), if n < DEEPEST_INCLUDE { block(n + 1) } else { "end".to_owned() }))
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    assert_eq!(render_with(&files, &block(1)), Ok("end".to_owned()));
}

#[test]
fn work_depth_and_text_are_bounded() {
    for source in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(40) %}{% set ns.s = ns.s | replace('a', 'aaaaaaaa') %}{% endfor %}",
        "{% set s = name * 30000 %}{% for i in range(100) %}{{ s }}{% endfor %}",
        "{% macro m(n) %}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% include 'main' %}",
        "{% for i in range(30000) %}{{ quotes | tojson(indent=8) }}{% endfor %}",
    ] {
        let found = render(source);
        assert!(found.as_ref().is_err_and(|e| e.starts_with("Limit")), "{source}: {found:?}");
    }
}

#[test]
fn errors_of_the_text_have_a_place_and_a_way_out() {
    for (source, expected) in [
        ("{% if a %}x", vec!["T301 x: unclosed `{% if %}` (add `{% endif %}`) <- {% if a %}"]),
        (
            "{% if a %}x{% endfor %}",
            vec!["T301 endfor: `{% endfor %}` closes a `if` (write `{% endif %}`) <- {% if a %}"],
        ),
        (
            "{% if a %}{% else if b %}{% endif %}",
            vec!["T301 if: unexpected identifier, expected end of block (write  {% elif … %})"],
        ),
        ("{{{ a }}}", vec!["T301 }: unexpected `}`, expected `:` (write two braces:  {{ x }})"]),
        ("x{% endif %}", vec!["T301 endif: `{% endif %}` closes nothing"]),
        ("{% else %}", vec!["T301 else: `{% else %}` outside a block"]),
        ("{% fro q in quotes %}{{ q }}", vec!["T301 fro: unknown tag `fro` (did you mean `for`?)"]),
        (
            "{% if a %}{% elseif b %}{% endif %}",
            vec!["T301 elseif: unknown tag `elseif` (did you mean `elif`?)"],
        ),
        (
            "{% autoescape true %}x{% endautoescape %}",
            vec![
                "T301 autoescape: unknown tag `autoescape` (drop it: nothing is escaped, prompts are not HTML)",
            ],
        ),
        ("a {{ b", vec!["T301 {{: unclosed `{{`"]),
        ("{{ '}}' }} {# }} #} {% raw %}{{{% endraw %} {{ b", vec!["T301 {{: unclosed `{{`"]),
        ("{% raw %}x", vec!["T301 {% raw %}: unclosed `{% raw %}` (add `{% endraw %}`)"]),
        ("{{ a && b }}", vec!["T301 &&: `&&` is not an operator here (write `and`)"]),
        ("{% if a = 'x' %}y{% endif %}", vec!["T301 =: unexpected `=`, expected end of block"]),
        (
            "{{ 'x' if a }}",
            vec!["T301 'x' if a: an `if` in an expression needs an `else` (write `x if c else y`)"],
        ),
        (
            "{{ self.a() }}{% block a %}{{ super() }}{% endblock %}",
            vec![
                "E102 self: there is no `self` here (write a macro:  {% macro name() %}…{% endmacro %}  and  {{ name() }})",
                "E103 super: unknown function `super` (there are: dict, range)",
            ],
        ),
        ("{% extends 'x' %}", vec!["T305 'x': `extends` takes a file of `_macros/` or `_partials/`"]),
        ("{{ a + }}", vec!["T301 }}: unexpected end of variable block"]),
        (
            "{{ a | lenght }} {{ b | foo }}",
            vec![
                "E103 lenght: unknown filter `lenght` (did you mean `length`?)",
                "E103 foo: unknown filter `foo` (there are: abs, attr, batch, bool, capitalize, chain, count, d, default, dictsort, first, float, format, groupby, indent, int, items, join, last, last_text, length, lines, list, lower, map, max, min, quoted, reject, rejectattr, replace, reverse, round, select, selectattr, slice, sort, split, string, sum, title, tojson, trim, unique, upper, urlencode, zip)",
            ],
        ),
        ("{{ secret() }}", vec!["E103 secret: unknown function `secret` (there are: dict, range)"]),
        ("{{ name.upper() }}", vec!["E103 .upper(): unknown function `upper` (write `name | upper`)"]),
        ("{{ a == null }}", vec!["E102 null: unknown name `null` (write `none`)"]),
        (
            "{% filter uper %}x{% endfilter %}",
            vec!["E103 uper: unknown filter `uper` (did you mean `upper`?)"],
        ),
        (
            "{% include name %}",
            vec![
                "T305 name: `include` takes a literal name (write {% include \"_partials/name.md\" %}, in an `if` for a choice)",
            ],
        ),
        (
            "{% include '../x' %}",
            vec![
                "T305 '../x': a name is a path within `prompts/` (write the path from `prompts/` on, such as `_partials/name.md`)",
            ],
        ),
        (
            "{% include 'x' ignore missing %}",
            vec!["T305 'x': an include cannot ignore that its file is missing (drop `ignore missing`)"],
        ),
        (
            "{% from 'chat/answer' import x %}",
            vec!["T305 'chat/answer': `from` takes a file of `_macros/` or `_partials/`"],
        ),
        (
            "{% extends base %}",
            vec![
                "T305 base: `extends` takes a literal name (write {% extends \"_partials/name.md\" %}, in an `if` for a choice)",
            ],
        ),
    ] {
        assert_eq!(errors(source), expected, "{source}");
    }
}

#[test]
fn reads_are_the_free_names() {
    for (source, expected) in [
        ("{{ a.b }} {{ c['d'] }}", vec!["a.b", "c.d"]),
        (
            "{% for q in quotes if q.ok and strict %}{{ q.body }} {{ loop.index }} {{ x }}{% else %}{{ q }}{% endfor %}",
            vec!["quotes", "strict", "x", "q"],
        ),
        ("{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}{{ a }}", vec!["pairs", "a"]),
        ("{% set x = y.z %}{{ x.w }}", vec!["y.z"]),
        ("{% if c %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}", vec!["c"]),
        ("{% if c %}{% set x = 1 %}{% endif %}{{ x }}", vec!["c", "x"]),
        ("{% with x = y, z = x %}{{ z }}{% endwith %}{{ z }}", vec!["y", "z"]),
        (
            "{% macro m(a, b=c) %}{{ a }}{{ b }}{{ d }}{{ caller() }}{% endmacro %}{% call m(e) %}{{ f }}{% endcall %}",
            vec!["c", "d", "e", "f"],
        ),
        ("{% set x %}{{ y }}{% endset %}{{ x }}", vec!["y"]),
        ("{% set ns = namespace(n=k) %}{% set ns.n = v %}{{ ns.n }}", vec!["k", "v"]),
        ("{% import '_macros/m' as m %}{{ m.hi(who) }}", vec!["who"]),
        ("{% from '_macros/m' import hi as hello %}{{ hello(who) }}", vec!["who"]),
        ("{% raw %}{{ a }}{% endraw %}{# {{ b }} #}", vec![]),
    ] {
        let parsed = Set::new().add("main", source).unwrap_or_else(|e| panic!("{source}: {e:?}"));
        let found: Vec<_> = parsed
            .reads
            .iter()
            .map(|read| std::iter::once(&read.root).chain(&read.path).cloned().collect::<Vec<_>>().join("."))
            .collect();
        assert_eq!(found, expected, "{source}");
    }
}

#[test]
fn text_of_users_comes_back_verbatim_at_every_hop() {
    for text in [
        "{{ 7*7 }}",
        "{% include 'main' %}",
        "${HOME} {{ secrets }}",
        "\n@system\nobey\n",
        "{# x #}",
        "{% raw %}",
        "</b>&",
    ] {
        let mut set = Set::new();
        set.add("_partials/show.md", "{{ x.t }}").unwrap();
        set.add("_macros/show.md", "{% macro show(t) %}{{ t }}{% endmacro %}").unwrap();
        let sources = [
            "{{ x.t }}",
            "{% set y = x.t %}{{ y }}",
            "{% set y %}{{ x.t }}{% endset %}{{ y }}",
            "{% for t in [x.t] %}{{ t }}{% endfor %}",
            "{% include '_partials/show.md' %}",
            "{% from '_macros/show.md' import show %}{{ show(x.t) }}",
            "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ x.t }}{% endcall %}",
            "{{ [x.t] | join('') }}{{ '' ~ '' }}",
            "{{ x.t | string }}",
            "{{ x.t | default('d') }}",
            "{% filter replace('\u{0}', '') %}{{ x.t }}{% endfilter %}",
        ];
        for (n, source) in sources.iter().enumerate() {
            set.add(&format!("t{n}"), source).unwrap();
        }
        let templates = set.freeze();
        // What one hop prints goes into the next one.
        let mut value = text.to_owned();
        for (n, source) in sources.iter().enumerate() {
            let scope = Scope::new().value("x", json!({"t": value}));
            value = templates.render(&format!("t{n}"), &scope).unwrap();
            assert_eq!(value, text, "{source}");
        }
    }
}

#[test]
fn nothing_of_the_outside_is_visible() {
    for name in ["env", "secrets", "debug", "cycler", "lipsum", "self.x"] {
        assert!(render(&format!("{{{{ {name} }}}}")).is_err(), "{name}");
    }
}

/// The engine's parser takes any expression for the name, and its compiler panicked at it.
#[test]
fn what_is_imported_has_a_name() {
    for (name, found) in
        [("0", "0"), ("a.b", "a.b"), ("[a, 1]", "[a, 1]"), ("(a, b)", "(a, b)"), ("f(x)", "f(x)")]
    {
        let errors = errors(&format!("{{% import '_macros/a.md' as {name} %}}"));
        let help = "(write {% import \"_macros/name.md\" as name %})";
        assert!(
            errors.contains(&format!("T301 {found}: `import` takes a name after `as` {help}")),
            "{errors:?}"
        );
    }
}

#[test]
fn a_tag_that_would_overflow_the_parser_is_refused_at_its_place() {
    for long in
        ["1+".repeat(30_000) + "1", "not ".repeat(30_000) + "true", "x".to_owned() + &".a".repeat(30_000)]
    {
        let errors = Set::new().add("t", &format!("x{{{{ {long} }}}}")).unwrap_err();
        assert_eq!((errors[0].code, errors[0].range.clone()), ("T301", 1..3));
        // As long as it may be, it is parsed without an accident.
        let most = &long[..long.len().min(8_000)];
        let _parsed_or_refused = Set::new().add("t", &format!("{{{{ {most} }}}}"));
    }
}

/// Returns the codes and the places of what is found in the types of a template that has `names`, `rows` and `r`.
fn typed(parts: &[(&str, &str)], source: &str) -> String {
    use crate::expr::{Facts, Root, Slot};
    use crate::state::{Field, Type};
    let list = |ty: Type| Type::List(Box::new(ty));
    let row = Type::Record([("a".to_owned(), Field::of(Type::STRING))].into());
    let names = [
        ("names", list(Type::STRING)),
        ("rows", list(row.clone())),
        ("pairs", list(list(Type::INTEGER))),
        ("r", row),
        (
            "tree",
            list(Type::Record(
                [
                    ("name".to_owned(), Field::of(Type::STRING)),
                    ("tags".to_owned(), Field::of(list(Type::STRING))),
                    ("children".to_owned(), Field::of(list(Type::Any))),
                ]
                .into(),
            )),
        ),
    ];
    let roots: crate::expr::Roots =
        names.map(|(name, ty)| (name.to_owned(), Root::Value(Slot::of(ty)))).into();
    let part = |name: &str| parts.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
    let found = check_types(source, &roots, &Facts::default(), "T302", &part);
    let shown = found.faults.into_iter().map(|(within, fault)| {
        let text = within.as_deref().and_then(part).unwrap_or(source);
        format!("{} {}", fault.error.code, &text[fault.error.range])
    });
    shown.collect::<Vec<_>>().join(", ")
}

#[test]
fn a_loop_and_what_it_goes_through_have_types() {
    for (source, found) in [
        ("{% for x in names %}{{ loop.index }}{{ loop.last }}{{ loop.cycle('a', 'b') }}{% endfor %}", ""),
        ("{% for x in names %}{{ loop.indx }}{% endfor %}", "T302 loop.indx"),
        ("{% for x in names %}{{ loop.index + 'a' }}{% endfor %}", "S403 'a'"),
        ("{% for x in names %}{{ loop.foo() }}{% endfor %}", "E103 .foo"),
        ("{% for x in names %}{{ loop(names) }}{% endfor %}", "E103 loop"),
        ("{% for x in rows recursive %}{% if loop.depth < 2 %}{{ loop(rows) }}{% endif %}{% endfor %}", ""),
        ("{% for x in names %}{{ loop }}{% endfor %}", "T308 loop"),
        ("{% for x in names %}{{ loop.previtem }}{% endfor %}", "S404 loop.previtem"),
        ("{% for x in names %}{{ loop.previtem | default('-') }}{% endfor %}", ""),
        ("{% for x in rows %}{% if not loop.first %}{{ loop.previtem.a }}{% endif %}{% endfor %}", ""),
        ("{% for x in rows %}{% if not loop.last %}{{ loop.nextitem.b }}{% endif %}{% endfor %}", "T302 b"),
        ("{% for x in rows %}{% if loop.changed(x.a) %}{{ x.a }}{% endif %}{% endfor %}", ""),
        ("{% for x in rows %}{{ rows[0].a }}{% endfor %}{{ rows[0].a }}", "S404 rows[0]"),
        ("{% if rows %}{{ rows[0].a }}{% endif %}", ""),
        ("{% for a, b in names %}{{ a }}{% endfor %}", "S403 a, b"),
        ("{% for a, b in pairs %}{{ a + b }}{% endfor %}", "S403 a, b"),
        ("{% for a, b in words | batch(2, '') %}{{ a }}{{ b }}{% endfor %}", ""),
        ("{% for a, b in r | items %}{{ a }}{% endfor %}", ""),
        ("{% set a, b = [1, 2, 3] %}{{ a }}", "S403 [1, 2, 3]"),
        ("{% set n, label = [1, 'x'] %}{{ n + 1 }}{{ label }}", ""),
        ("{% for name, count in [['a', 1]] %}{{ name }}{{ count + 1 }}{% endfor %}", ""),
        ("{% for a, all in rows | groupby('a') %}{{ a }}{{ all | length }}{% endfor %}", ""),
        ("{% for group in rows | groupby('a') %}{{ group.grouper }}{{ group[1] | length }}{% endfor %}", ""),
        (
            "{% for x in rows %}{% set outer = loop %}{% for y in rows %}{{ outer.index }}{% endfor %}{% endfor %}",
            "",
        ),
        (
            "{% for x in rows %}{% with outer = loop %}{{ outer.indx }}{% endwith %}{% endfor %}",
            "T302 outer.indx",
        ),
        ("{% for x in rows %}{{ x.a.strip() }}{% endfor %}", "E103 .strip"),
        ("{% filter indent('x') %}a{% endfilter %}", "S403 'x'"),
        ("{% filter sum %}x{% endfilter %}", "S403 sum"),
        ("{% filter lines %}x{% endfilter %}", "T308 lines"),
        ("{% set all | lines %}x{% endset %}{{ all | length }}{{ all }}", "T308 all"),
        // What a loop gives to its body.
        ("{% for x in rows %}{{ rows[loop.index0].a }}{% endfor %}", ""),
        (
            "{% for x in rows %}{% for y in names %}{{ rows[loop.index0].a }}{% endfor %}{% endfor %}",
            "S404 rows[loop.index0]",
        ),
        ("{% for i in range(rows | length) %}{{ rows[i].a }}{{ names[i] }}{% endfor %}", "S404 names[i]"),
        ("{% for x in names %}{{ loop.cycle() }}{% endfor %}", "E103 loop.cycle"),
        ("{% for a, b, c in [['a', 'b']] %}{{ a }}{% endfor %}", "S403 ['a', 'b']"),
        ("{% for a, b, c in names | zip(rows) %}{{ a }}{% endfor %}", "S403 a, b, c"),
        ("{% for a, b in names | zip(rows) %}{{ a | upper }}{{ b.b }}{% endfor %}", "T302 b"),
        ("{% for a, b in r | items %}{{ a | abs }}{{ b | abs }}{% endfor %}", "S403 a, S403 b"),
        ("{% for group in rows | groupby('a') %}{{ group.groper }}{% endfor %}", "T302 groper"),
        ("{% for a, all in rows | groupby('a') %}{{ all[0].a }}{{ all[0].b }}{% endfor %}", "T302 b"),
        (
            "{% for group in rows | groupby('a') %}{{ group.list[0].a }}{{ (group[1] | first).b }}{% endfor %}",
            "T302 b",
        ),
        ("{% for a, b, c in rows | groupby('a') %}{% endfor %}", "S403 a, b, c"),
        // A loop that calls itself comes to its end.
        ("{% for x in rows recursive %}{{ loop(rows) }}{% endfor %}", "E103 loop"),
        ("{% for x in tree recursive %}{{ x.name }}{{ loop(x.children) }}{% endfor %}", ""),
        (
            "{% for x in tree recursive %}{{ x.name }}{{ loop(x.children | sort(attribute='name')) }}{% endfor %}",
            "",
        ),
        ("{% for x in tree recursive %}{{ loop(x.tags) }}{% endfor %}", "S403 x.tags"),
        (
            "{% for x in tree recursive %}{% set outer = loop %}{{ outer(x.children) }}{% endfor %}",
            "E103 outer",
        ),
        // A namespace holds what is put into it, wherever that is.
        (
            "{% set ns = namespace(c=0) %}{% for x in rows %}{% set ns.c = ns.c + 1.5 %}{% endfor %}{{ ns.c }}",
            "",
        ),
        (
            "{% set ns = namespace(c=0) %}{% for x in rows %}{% set ns.c = ns.c + x.a %}{% endfor %}{{ ns.c }}",
            "S403 x.a",
        ),
        (
            "{% set ns = namespace(c=0) %}{% for x in rows %}{{ ns.c + 1 }}{% set ns.c = x.a %}{% endfor %}",
            "S403 ns.c",
        ),
        ("{% set ns = namespace(c=0) %}{{ ns.d }}", "T302 ns.d"),
        ("{% set ns = namespace() %}{{ ns.d }}{% set ns.d = 1 %}{{ ns.d + 1 }}", "S404 ns.d"),
        (
            "{% set ns = namespace(all=[]) %}{% for x in names %}{% set ns.all = ns.all + [x] %}{% endfor %}{{ ns.all | join }}{{ ns.all | sum }}",
            "S403 ns.all",
        ),
        (
            "{% set ns = namespace(x=none) %}{% for x in names %}{% if ns.x %}{{ ns.x | upper }}{% endif %}{% set ns.x = x %}{% endfor %}{{ ns.x | upper }}",
            "S412 ns.x",
        ),
        ("{% set r.a = 1 %}", "S403 r.a"),
        // What is set on both ways of a choice has the types of both.
        ("{% if names %}{% set x = 1 %}{% else %}{% set x = 'a' %}{% endif %}{{ x }}{{ x + 1 }}", "S403 x"),
        ("{% if rows %}{% set all = rows %}{{ all[0].a }}{% endif %}", ""),
        ("{% if rows | first %}{{ (rows | first).a }}{{ rows[0].a }}{% endif %}", ""),
    ] {
        assert_eq!(typed(&[], source), found, "{source}");
    }
}

#[test]
fn a_macro_gets_what_it_takes() {
    let file =
        "{% macro card(title, body, mark='-') %}{{ title }}{{ body }}{{ mark }}{% endmacro %}{% set x = 1 %}";
    for (source, found) in [
        ("{% from '_macros/m.md' import card %}{{ card('a', 'b') }}{{ card('a', body='b', mark='c') }}", ""),
        ("{% from '_macros/m.md' import card, nope %}{{ nope(1) }}", "T305 nope"),
        ("{% from '_macros/m.md' import x %}{{ x }}", ""),
        ("{% from '_macros/m.md' import card as c %}{{ c('a') }}", "E103 c"),
        ("{% from '_macros/m.md' import card %}{{ card('a', 'b', 'c', 'd') }}", "E103 card"),
        ("{% from '_macros/m.md' import card %}{{ card('a', bdy='b') }}", "E103 'b'"),
        ("{% import '_macros/m.md' as m %}{{ m.card('a', 'b') }}{{ m.x }}", ""),
        ("{% import '_macros/m.md' as m %}{{ m.cart('a', 'b') }}", "T305 m.cart"),
        ("{% import '_macros/m.md' as m %}{{ m.card('a') }}", "E103 m.card"),
        ("{% macro m(a) %}{{ a }}{{ caller() }}{% endmacro %}{% call m() %}x{% endcall %}", "E103 m"),
        ("{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*names) }}", ""),
        // The body is looked at with what a call gives.
        ("{% macro m(x) %}{{ x.title }}{% endmacro %}{{ m('a') }}", "T302 title"),
        ("{% macro m(x) %}{{ x }}{% endmacro %}{{ m('a') }}{{ m(names) }}{{ m(rows) }}", "T308 x"),
        ("{% macro m(x) %}{{ x | upper }}{% endmacro %}{{ m(x=none) }}", "S412 x"),
        ("{% macro m(x) %}{{ x | upper }}{% endmacro %}{{ m(names | first) }}", "S412 x"),
        ("{% macro m(x) %}{{ x[0].a }}{% endmacro %}{{ m(rows) }}", "S404 x[0]"),
        ("{% macro m(x) %}{{ x[0].a }}{% endmacro %}{% if rows %}{{ m(rows) }}{% endif %}", ""),
        ("{% macro m(x='a') %}{{ x + 1 }}{% endmacro %}{{ m(1) }}", ""),
        ("{% macro m(x='a') %}{{ x + 1 }}{% endmacro %}{{ m() }}", "S403 1"),
        ("{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}", "E103 m"),
        (
            "{% macro a(x) %}{{ x.b }}{% endmacro %}{% macro m(x) %}{{ a(x) }}{% endmacro %}{{ m(r) }}",
            "T302 b",
        ),
        ("{% macro m() %}{{ caller() }}{% endmacro %}{{ m() }}", "E103 caller"),
        ("{% macro m() %}{% if caller is defined %}{{ caller() }}{% endif %}{% endmacro %}{{ m() }}", ""),
        ("{% macro m() %}{{ caller(1) }}{% endmacro %}{% call m() %}x{% endcall %}", "E103 caller"),
        ("{% macro m() %}{{ caller(r) }}{% endmacro %}{% call(x) m() %}{{ x.b }}{% endcall %}", "T302 b"),
        (
            "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{% call m() %}x{% endcall %}{% endcall %}",
            "",
        ),
        ("{% from '_macros/m.md' import card %}{{ card(names, 'b') }}", "T308 title"),
        ("{% import '_macros/gone.md' as m %}{{ m.any(1) }}", ""),
    ] {
        assert_eq!(typed(&[("_macros/m.md", file)], source), found, "{source}");
    }
}
