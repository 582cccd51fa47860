//! `test`: runs the cases beside graphs.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Host, count};
use crate::case::{self, Bench, Chosen, Coverage, Report, Stage, Verdict};
use crate::compile::{self, Providers};
use crate::diagnostic::{self, Bag};
use crate::egress::{Secret, Tape};
use crate::spec;

/// The flags of `test`.
#[derive(Debug, Args)]
pub(super) struct TestFlags {
    /// Runs only the cases of these graphs or test files
    #[arg(value_name = "GRAPH|FILE")]
    targets: Vec<String>,
    /// Runs only cases with this text in their names
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Writes a report as JUnit XML, for CI servers
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Fails when fewer of the edges are taken
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_edges: Option<u8>,
    /// Fails when fewer of the nodes are run
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_nodes: Option<u8>,
    /// Writes the snapshots of prompts anew
    #[arg(long, conflicts_with = "live")]
    update: bool,
    /// Asks the models of project.yaml instead of the scripts; looks only at what does not depend on these
    #[arg(long)]
    live: bool,
    /// Asks real models as `--live` does, and keeps what they and other services answer, one file a case, without secrets
    #[arg(long, value_name = "DIR", conflicts_with_all = ["update", "replay"])]
    record: Option<PathBuf>,
    /// Plays what was recorded, without a network and without secrets; a request that differs fails its case
    #[arg(long, value_name = "DIR", conflicts_with_all = ["update", "live"])]
    replay: Option<PathBuf>,
    /// How the report is printed
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Exit codes: 0 passed, 1 a case failed or too little is covered, 2 the project or a target cannot be read.
pub(super) async fn test(host: &Host, wanted: &TestFlags) -> Result<ExitCode> {
    let root = host.file.graphs(&host.flags);
    if let Err(error) = std::fs::read_dir(&root) {
        return unreadable(&format!("cannot read the project `{}`: {error}", root.display()));
    }
    let tape = match (&wanted.record, &wanted.replay) {
        (Some(folder), _) => Some((Tape::recorder(), folder.clone())),
        (None, Some(folder)) => Some((Tape::player(), folder.clone())),
        (None, None) => None,
    };
    let stage = (!wanted.live && tape.is_none()).then(Stage::default);
    let mut providers = match &stage {
        Some(stage) => host.scripted(stage)?,
        None if wanted.replay.is_some() => {
            // Nobody hears them, so any will do.
            host.set_up(Providers::new(Box::new(|_| Some(Secret::new("replayed"))))?)
        }
        None => host.set_up(Providers::new(host.file.environment(&host.flags).secrets())?),
    };
    if let Some((tape, _)) = &tape {
        providers = providers.taped(tape.clone());
    }
    let mut bag = Bag::default();
    let folder = spec::load(&root, &mut bag);
    let catalog = folder.as_ref().and_then(|folder| compile::compile(folder, &providers, &mut bag));
    bag.sort();
    bag.drop_lints();
    let text = diagnostic::render_text(&bag, super::coloured(&std::io::stderr()));
    std::io::stderr().write_all(text.as_bytes())?;
    let Some((folder, catalog)) = folder.zip(catalog) else {
        return unreadable(&format!("the graphs in `{}` have errors", root.display()));
    };
    if folder.tests.is_empty() {
        return unreadable(&format!("there is no test in `{}`", root.join("tests").display()));
    }
    let chosen = Chosen { targets: wanted.targets.clone(), filter: wanted.filter.clone() };
    let bench = Bench { catalog, providers, stage, root, update: wanted.update, store: None, tape };
    let report = case::run(&bench, &folder, &chosen, &bag).await?;
    if let Some(target) = report.unknown.first() {
        return unreadable(&format!("`{target}` is no graph and no test file of the project"));
    }
    if report.cases.is_empty() {
        return unreadable("no case fits");
    }
    if let Some(path) = &wanted.junit {
        let xml = case::junit(&report, &bag)?;
        if let Err(error) = std::fs::write(path, xml) {
            return unreadable(&format!("cannot write `{}`: {error}", path.display()));
        }
    }
    let low = low(wanted, &report);
    match wanted.format {
        Format::Text => {
            let mut text = lines(&report, &bag, super::coloured(&std::io::stdout()));
            text += &low.iter().map(|line| format!("{line}\n")).collect::<String>();
            super::print(&text)?;
        }
        Format::Json => {
            super::print(&(serde_json::to_string_pretty(&report.json(&bag))? + "\n"))?;
            for line in &low {
                writeln!(std::io::stderr(), "{line}")?;
            }
        }
    }
    let (_, failed, _) = report.counts();
    Ok(if failed > 0 || !low.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn unreadable(why: &str) -> Result<ExitCode> {
    writeln!(std::io::stderr(), "error: {why}")?;
    Ok(ExitCode::from(2))
}

/// Says of what too little was run through.
fn low(flags: &TestFlags, report: &Report) -> Vec<String> {
    let wanted = [
        ("nodes", flags.min_nodes, Coverage::nodes_of(&report.coverage)),
        ("edges", flags.min_edges, Coverage::edges_of(&report.coverage)),
    ];
    let short = |(what, least, share): (&str, Option<u8>, case::Share)| {
        let least = least.filter(|least| share.percent() < usize::from(*least))?;
        Some(format!("too little is tested: {} % of the {what}, {least} % are due", share.percent()))
    };
    wanted.into_iter().filter_map(short).collect()
}

/// Writes the report for people.
fn lines(report: &Report, bag: &Bag, color: bool) -> String {
    let mut text = String::new();
    for ran in &report.cases {
        let (word, why) = match &ran.verdict {
            Verdict::Passed => ("ok  ", String::new()),
            Verdict::Failed(_) => ("FAIL", String::new()),
            Verdict::Skipped(why) => ("skip", format!(": {why}")),
        };
        text += &format!("{word} {}: {}{why}\n", ran.graph, ran.name);
    }
    text += "\n";
    for ran in &report.cases {
        if let Verdict::Failed(failures) = &ran.verdict {
            text += &failures.iter().map(|f| diagnostic::render_one(bag, f, color)).collect::<String>();
        }
    }
    for covered in &report.coverage {
        let (nodes, edges) = (covered.nodes(), covered.edges());
        text += &format!(
            "{}: {} of {} nodes run, {} of {} edges taken\n",
            covered.graph, nodes.part, nodes.all, edges.part, edges.all
        );
        text += &covered.nodes_left().map(|node| format!("  never run: {node}\n")).collect::<String>();
        text += &covered.edges_left().map(|edge| format!("  never taken: {edge}\n")).collect::<String>();
    }
    let (passed, failed, skipped) = report.counts();
    text += &format!("{} passed, {failed} failed", count(passed, "case"));
    if skipped > 0 {
        text += &format!(", {skipped} skipped");
    }
    let (nodes, edges) = (Coverage::nodes_of(&report.coverage), Coverage::edges_of(&report.coverage));
    text += &format!("; {} % of the nodes, {} % of the edges\n", nodes.percent(), edges.percent());
    text
}
