//! `explain`: what a code means, and what expressions can use.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::diagnostic::{CODES, Severity, code_info, suggest};
use crate::expr::{Builtin, FILTERS, FUNCTIONS, TEMPLATE_FUNCTIONS, TESTS};

/// The flags of `explain`.
#[derive(Debug, Args)]
pub(super) struct ExplainFlags {
    /// A code such as `G201`, `codes` for the list of all, or `expressions` for the filters, tests and functions
    topic: String,
}

pub(super) fn explain(flags: &ExplainFlags) -> Result<ExitCode> {
    match flags.topic.as_str() {
        "codes" => return super::print(&codes()),
        "expressions" => return super::print(&expressions()),
        _ => {}
    }
    let code = flags.topic.to_uppercase();
    let Some(info) = code_info(&code) else {
        let near = suggest(&code, CODES.iter().map(|info| info.code));
        let near = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
        bail!("there is no code `{}`{near} (`graphloom explain codes` lists them)", flags.topic);
    };
    super::print(info.page)
}

fn codes() -> String {
    CODES.iter().fold(String::new(), |mut out, info| {
        let weight = |severity| match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Lint => "lint",
        };
        let lighter = info.lighter.map_or_else(String::new, |lighter| format!(" or {}", weight(lighter)));
        // Writing to a `String` cannot fail.
        let _infallible = writeln!(
            out,
            "{}  {:<16}  {}",
            info.code,
            format!("{}{lighter}", weight(info.severity)),
            info.title
        );
        out
    })
}

fn expressions() -> String {
    let words = |table: &[Builtin]| {
        let names = table.iter().map(|builtin| builtin.name);
        names.filter(|name| name.starts_with(char::is_alphabetic)).collect::<Vec<_>>().join(" ")
    };
    format!(
        "Names       state.CHANNEL  input.NAME  run.id run.step run.attempt run.steps_left run.user_text run.now\n\
         \x20           result (under `into` and `emit`)  item index (in a `map`, or the name that `as` gives)\n\
         \x20           error.kind error.message error.node error.code (in handlers)\n\
         \x20           args.NAME (in tools)  env.NAME (in tools and http nodes)\n\
         Operators   == != < <= > >=  + - * / // % **  ~ (texts)  and or not  in, not in  is, is not  x if c else y\n\
         Literals    'text'  1  1.5  true  false  none  [1, 2]  {{'a': 1}}\n\
         Filters     {}\n\
         Tests       {}\n\
         Functions   {}\n\
         In templates also: {}\n",
        words(FILTERS),
        words(TESTS),
        words(FUNCTIONS),
        words(TEMPLATE_FUNCTIONS),
    )
}
