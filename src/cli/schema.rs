//! `schema`: the JSON Schemas of the files, for editors.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::spec::SchemaFile;

#[derive(Debug, clap::Args)]
pub(super) struct SchemaFlags {
    /// Whose schema is printed
    #[arg(value_enum, required_unless_present = "write")]
    file: Option<Name>,
    /// Writes graph.json, project.json, prompt.json and test.json into a folder instead
    #[arg(long, value_name = "DIR", conflicts_with = "file")]
    write: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// A graph
    Graph,
    /// project.yaml
    Project,
    /// The front-matter of a prompt file
    Prompt,
    /// The cases of a graph
    Test,
}

pub(super) fn schema(flags: &SchemaFlags) -> Result<ExitCode> {
    if let Some(folder) = &flags.write {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
        for file in SchemaFile::ALL {
            let path = folder.join(file.name());
            std::fs::write(&path, file.text())
                .with_context(|| format!("cannot write `{}`", path.display()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    super::print(&match flags.file {
        Some(Name::Project) => SchemaFile::Project.text(),
        Some(Name::Prompt) => SchemaFile::Prompt.text(),
        Some(Name::Test) => SchemaFile::Test.text(),
        _ => SchemaFile::Graph.text(),
    })
}
