//! What is worth writing: the words of the language, from its own tables.

use std::sync::LazyLock;

use graphloom::expr::{FILTERS, FUNCTIONS, TEMPLATE_FUNCTIONS, TESTS};
use graphloom::spec::SchemaFile;
use serde_json::Value as Json;

/// Signs and values, which no table has.
const SIGNS: &[&str] = &[
    "{{ ",
    " }}",
    "{% if ",
    " %}",
    "{% else %}",
    "{% elif ",
    "{% endif %}",
    "{% for x in ",
    "{% endfor %}",
    "{% set x = ",
    "{% endset %}",
    "{% macro m(x) %}",
    "{% endmacro %}",
    "{% call m() %}",
    "{% endcall %}",
    "{% include \"_partials/a.md\" %}",
    "{% import \"_partials/a.md\" as a %}",
    "{% from \"_partials/a.md\" import m %}",
    "{% raw %}",
    "{% endraw %}",
    "{% with x = 1 %}",
    "{% endwith %}",
    "{% filter upper %}",
    "{% endfilter %}",
    "{% do ",
    "{# ",
    " #}",
    "{%- ",
    " -%}",
    "@system\n",
    "@user\n",
    "@assistant\n",
    "@messages messages\n",
    "---\n",
    "- ",
    ": ",
    "? ",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ", ",
    " | ",
    " and ",
    " or ",
    " not ",
    " in ",
    " is ",
    " if ",
    " else ",
    " == ",
    " != ",
    " <= ",
    " >= ",
    " < ",
    " > ",
    " ~ ",
    " + ",
    " - ",
    " * ",
    " / ",
    " // ",
    " % ",
    " ** ",
    "&a ",
    "*a",
    "<<",
    "!x ",
    "|\n",
    ">\n",
    "|-\n",
    "'",
    "\"",
    "''",
    "\\",
    "#",
    "%",
    "\t",
    "\r\n",
    "\u{feff}",
    "\u{e9}",
    "\u{1f600}",
    "\u{2019}",
    "\u{a0}",
    "\u{0}",
    "state.",
    "input.",
    "run.",
    "item",
    "index",
    "result",
    "error",
    "args.",
    "env.X",
    "end",
    "start",
    "null",
    "true",
    "false",
    "0",
    "1",
    "-1",
    "24",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551616",
    "1e308",
    "1e999",
    "-0.0",
    "0x10",
    "30s",
    "500ms",
    "1d",
    "99999999999999999999d",
    "string?",
    "[string]",
    "messages",
    "integer",
    "number",
    "boolean",
    "object",
    "any",
    "https://a.example/",
    "{secret: X}",
    "prompts/a.md",
    "schemas/a.json",
    "$ref",
    "#/$defs/a",
    "properties",
    "items",
    "type",
    "required",
    "additionalProperties",
    "anyOf",
    "loop.index",
    "caller()",
];

/// The words of the language.
pub static WORDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let mut words: Vec<String> = SIGNS.iter().map(|&sign| sign.to_owned()).collect();
    for file in SchemaFile::ALL {
        collect(&file.schema(), &mut words);
    }
    let builtins = [FILTERS, TESTS, FUNCTIONS, TEMPLATE_FUNCTIONS];
    words.extend(builtins.into_iter().flatten().map(|builtin| builtin.name.to_owned()));
    words.sort();
    words.dedup();
    words
});

/// Takes the keys and the closed lists out of a JSON Schema.
fn collect(schema: &Json, words: &mut Vec<String>) {
    match schema {
        Json::Array(parts) => parts.iter().for_each(|part| collect(part, words)),
        Json::Object(fields) => {
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("properties", Json::Object(keys)) => words.extend(keys.keys().cloned()),
                    ("enum", Json::Array(values)) => {
                        words.extend(values.iter().filter_map(Json::as_str).map(str::to_owned))
                    }
                    ("const", Json::String(value)) => words.push(value.clone()),
                    _ => {}
                }
                collect(value, words);
            }
        }
        _ => {}
    }
}
