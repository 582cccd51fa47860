//! Finds the files of a project, and claims each by one rule.
//!
//! Invariant: nothing outside the folder is read, and a file that no rule claims is reported.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::graph::Graph;
use super::json::JsonFile;
use super::mcp::McpTools;
use super::parse::{MAX_BYTES, parse};
use super::project::Project;
use super::prompt::PromptFile;
use super::reader::Reader;
use super::test::TestFile;
use super::text::Text;
use crate::diagnostic::{Bag, Diagnostic, FileId, Span};

/// The most files of a project.
const MAX_FILES: usize = 10_000;
/// The most bytes of a project.
const MAX_PROJECT: u64 = 64 * 1024 * 1024;
/// The most folders of a project. Each is looked at, also those that links lead to more than once.
const MAX_FOLDERS: usize = 1_000;
/// The deepest folder.
const MAX_DEPTH: usize = 16;

/// The files of a project: path within the folder, with `/`, and content.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A project as written.
#[derive(Debug, Clone, Default)]
pub struct Folder {
    /// project.yaml; the default when there is none.
    pub project: Project,
    /// The graphs by id.
    pub graphs: BTreeMap<String, Graph>,
    /// The prompts by name: `chat/answer` of prompts/chat/answer.md.
    pub prompts: BTreeMap<String, PromptFile>,
    /// Templates for including only, by path below prompts/.
    pub partials: BTreeMap<String, Text>,
    /// The JSON Schema files by path: `schemas/order.json`.
    pub schemas: BTreeMap<String, JsonFile>,
    /// What the tools of MCP servers are, by the name of the server: of `mcp/docs.json`.
    pub mcp: BTreeMap<String, (JsonFile, McpTools)>,
    /// The tests by path: `tests/chat.test.yaml`.
    pub tests: BTreeMap<String, TestFile>,
    /// Files that no rule claims, by path.
    pub unread: Vec<String>,
    /// Graphs that are there but cannot be read.
    pub broken_graphs: Vec<String>,
    /// Prompts that are there but cannot be read.
    pub broken_prompts: Vec<String>,
    /// JSON Schema files that are there but cannot be read.
    pub broken_schemas: Vec<String>,
    /// MCP servers whose file is there but cannot be read.
    pub broken_mcp: Vec<String>,
    /// The files as they are, for storing a version.
    pub files: Files,
}

/// Reads a project folder. Nothing: the folder cannot be read; the bag says why.
pub fn load(root: &Path, bag: &mut Bag) -> Option<Folder> {
    load_over(root, Files::new(), bag)
}

/// Reads a project folder of which some files are at hand: they take the place of those on the disk.
pub fn load_over(root: &Path, mut open: Files, bag: &mut Bag) -> Option<Folder> {
    let mut walk = Walk {
        root,
        bag,
        found: Vec::new(),
        bytes: 0,
        folders: 0,
        around: Vec::new(),
        left_out: Vec::new(),
        refused: false,
    };
    // What is open may not be stored yet.
    if open.is_empty() || root.is_dir() {
        walk.folder(root, root.canonicalize().unwrap_or_else(|_| root.to_owned()));
    }
    let mut files = walk.read()?;
    let mut left_out = walk.left_out;
    left_out.retain(|path| !open.contains_key(path));
    files.append(&mut open);
    let shown = root.display().to_string();
    let mut folder = load_files(&shown, files, bag);
    for path in left_out {
        folder.note_broken(claim(&path));
    }
    Some(folder)
}

struct Walk<'a> {
    root: &'a Path,
    bag: &'a mut Bag,
    /// The files by name. None is read before all are known to be few and small enough.
    found: Vec<(String, PathBuf)>,
    bytes: u64,
    folders: usize,
    /// The folders around the one that is looked at, as they are without links.
    around: Vec<PathBuf>,
    /// Files that are there but are not read; the bag says why.
    left_out: Vec<String>,
    refused: bool,
}

impl Walk<'_> {
    /// Looks into a folder; `real` is the same without links.
    fn folder(&mut self, folder: &Path, real: PathBuf) {
        self.folders += 1;
        if self.folders > MAX_FOLDERS {
            return self.refuse("M516", folder, "is one folder too many: a project has at most 1 000");
        }
        let entries = match std::fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.refuse("M516", folder, &format!("cannot be read: {error}")),
        };
        let mut paths: Vec<PathBuf> = entries.filter_map(Result::ok).map(|entry| entry.path()).collect();
        paths.sort();
        let depth = self.around.len();
        self.around.push(real);
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            let shown = name.to_string_lossy();
            if self.refused || shown.is_empty() || shown.starts_with('.') || shown.starts_with("README") {
                continue;
            }
            if name.to_str().is_none() {
                let shown = path.display().to_string();
                let file = self.bag.add_source(shown.clone(), "");
                let span = Span { file, start: 0, end: 0 };
                let message = format!("`{shown}` is not read");
                let finding = Diagnostic::warning("G108", message, span, "its name is not UTF-8");
                self.bag.report(finding.help("rename it, or take it out of the project"));
                continue;
            }
            let Ok(kind) = std::fs::symlink_metadata(&path) else { continue };
            let target = if kind.is_symlink() {
                path.canonicalize().ok()
            } else {
                Some(self.around[depth].join(name))
            };
            let Some(target) = target.filter(|target| target.starts_with(&self.around[0])) else {
                self.refuse("T305", &path, "is a link that leaves the project");
                continue;
            };
            if path.is_dir() {
                if self.around.iter().any(|outer| outer.starts_with(&target)) {
                    self.refuse("T305", &path, "is a link that leads back to a folder around it");
                } else if depth < MAX_DEPTH {
                    self.folder(&path, target);
                } else {
                    self.refuse("M516", &path, &format!("is nested deeper than {MAX_DEPTH} folders"));
                }
            } else if path.is_file() {
                self.file(path);
            } else {
                self.refuse("M516", &path, "is no ordinary file");
            }
        }
        self.around.pop();
    }

    fn file(&mut self, path: PathBuf) {
        let Ok(relative) = path.strip_prefix(self.root) else { return };
        let parts: Vec<&str> = relative.components().filter_map(|c| c.as_os_str().to_str()).collect();
        let name = parts.join("/");
        let length = std::fs::metadata(&path).map_or(0, |meta| meta.len());
        if length > MAX_BYTES {
            self.left_out.push(name);
            return self.refuse("Y007", &path, &format!("has {} KiB; the limit is 1024 KiB", length / 1024));
        }
        self.bytes += length;
        if self.bytes > MAX_PROJECT || self.found.len() >= MAX_FILES {
            return self.refuse("M516", &path, "is too much: a project has at most 10 000 files and 64 MiB");
        }
        self.found.push((name, path));
    }

    /// Reads what was found. Nothing: the folder cannot be read; the bag says why.
    fn read(&mut self) -> Option<Files> {
        let mut files = Files::new();
        for (name, path) in std::mem::take(&mut self.found) {
            if self.refused {
                break;
            }
            match std::fs::read(&path) {
                Ok(content) => drop(files.insert(name, content)),
                Err(error) => self.refuse("M516", &path, &format!("cannot be read: {error}")),
            }
        }
        (!self.refused).then_some(files)
    }

    fn refuse(&mut self, code: &'static str, path: &Path, why: &str) {
        let shown = path.display().to_string();
        let file = self.bag.add_source(shown.clone(), "");
        let span = Span { file, start: 0, end: 0 };
        self.bag.report(Diagnostic::error(code, format!("`{shown}` {why}"), span, "this file"));
        self.refused = code != "Y007" && code != "T305";
    }
}

/// What a file of a project is.
enum Claim {
    Project,
    Graph(String),
    Prompt(String),
    Partial(String),
    Test(String),
    Schema(String),
    /// The tools of an MCP server.
    Mcp(String),
    /// Read by other commands.
    Other,
    /// By no rule, with the name that would be read.
    Nothing(Option<String>),
}

fn claim(path: &str) -> Claim {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["project.yaml"] => Claim::Project,
        [name] if name.ends_with(".test.yaml") || name.ends_with(".tests.yaml") => {
            Claim::Nothing(Some(format!("tests/{}", name.replace(".tests.yaml", ".test.yaml"))))
        }
        [name] => match (name.strip_suffix(".yaml"), name.strip_suffix(".yml")) {
            (Some(id), _) => graph(id),
            (None, Some(stem)) => Claim::Nothing(Some(format!("{stem}.yaml"))),
            (None, None) => Claim::Nothing(None),
        },
        ["prompts", rest @ ..] if rest.iter().any(|part| matches!(*part, "_partials" | "_macros")) => {
            Claim::Partial(rest.join("/"))
        }
        ["prompts", rest @ ..] => {
            let name = rest.join("/");
            name.strip_suffix(".md").map_or(Claim::Nothing(None), |name| Claim::Prompt(name.to_owned()))
        }
        ["prompt", rest @ ..] => Claim::Nothing(Some(format!("prompts/{}", rest.join("/")))),
        ["schemas", .., name] if name.strip_suffix(".json").is_some() => Claim::Schema(path.to_owned()),
        ["mcp", name] => match name.strip_suffix(".json") {
            Some(server) => Claim::Mcp(server.to_owned()),
            None => Claim::Nothing(None),
        },
        ["tests", "snapshots", ..] => Claim::Other,
        ["tests", .., name] => match (name.strip_suffix(".test.yaml"), name.strip_suffix(".tests.yaml")) {
            (Some(_), _) => Claim::Test(path.to_owned()),
            (None, Some(stem)) => Claim::Nothing(Some(format!("{stem}.test.yaml"))),
            (None, None) => Claim::Nothing(None),
        },
        _ => Claim::Nothing(None),
    }
}

/// Claims a graph, or offers the id that its file should have.
fn graph(id: &str) -> Claim {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
    if id.starts_with(|c: char| c.is_ascii_lowercase()) && id.bytes().all(rest) {
        return Claim::Graph(id.to_owned());
    }
    let lower = id.to_lowercase().replace([' ', '.'], "_");
    Claim::Nothing(Some(format!("{lower}.yaml")))
}

/// Reads a project from its files. `shown` is the folder's name in messages.
pub fn load_files(shown: &str, mut files: Files, bag: &mut Bag) -> Folder {
    let mut folder = Folder::default();
    // A checkout with line ends of Windows is the same project, with the same hash. What is stored stays as it is.
    if !bag.is_trusting() {
        files.values_mut().filter(|content| content.windows(2).any(|two| two == b"\r\n")).for_each(unify);
    }
    let shown = shown.trim_end_matches('/');
    for (path, content) in &files {
        let full = if shown.is_empty() { path.clone() } else { format!("{shown}/{path}") };
        match claim(path) {
            Claim::Other => {}
            Claim::Nothing(meant) => {
                let file = bag.add_source(full, "");
                let span = Span { file, start: 0, end: 0 };
                let finding = Diagnostic::warning(
                    "G108",
                    format!("`{path}` is not read"),
                    span,
                    "no rule claims this file",
                );
                folder.unread.push(path.clone());
                bag.report(finding.help_maybe(meant.map(|meant| format!("rename it to `{meant}`"))));
            }
            claim => {
                if let Some(file) = decode(full, content, bag) {
                    read(&mut folder, claim, file, bag);
                } else {
                    folder.note_broken(claim);
                }
            }
        }
    }
    folder.project.add_mcp_tools(&folder.mcp);
    folder.files = files;
    folder
}

/// Makes a line end of Windows one of all others.
fn unify(content: &mut Vec<u8>) {
    let mut lines: Vec<&[u8]> = content.split(|byte| *byte == b'\n').collect();
    let last = lines.pop();
    let ended = lines.into_iter().map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    *content = ended.chain(last).collect::<Vec<_>>().join(&b'\n');
}

impl Folder {
    /// Returns the folder as if it had a project.yaml that cannot be read.
    pub(crate) fn without_project(&self) -> Self {
        let mut folder = self.clone();
        folder.project.unread();
        folder
    }

    fn note_broken(&mut self, claim: Claim) {
        match claim {
            Claim::Graph(id) => self.broken_graphs.push(id),
            Claim::Prompt(name) => self.broken_prompts.push(name),
            Claim::Schema(path) => self.broken_schemas.push(path),
            Claim::Mcp(server) => self.broken_mcp.push(server),
            Claim::Project => self.project.unread(),
            _ => {}
        }
    }
}

/// Registers a file as text.
fn decode(path: String, content: &[u8], bag: &mut Bag) -> Option<FileId> {
    match std::str::from_utf8(content) {
        Ok(text) => {
            let bom = text.starts_with('\u{feff}');
            // A byte order mark is kept in the source, so that places stay true.
            let file = bag.add_source(path, text);
            if bom {
                let span = Span { file, start: 0, end: 3 };
                bag.report(Diagnostic::lint("Y007", "a byte order mark", span, "not needed in UTF-8"));
            }
            Some(file)
        }
        Err(error) => {
            let file = bag.add_source(path, String::from_utf8_lossy(content));
            let start = error.valid_up_to() as u32;
            let span = Span { file, start, end: start + 3 };
            let finding = Diagnostic::error("Y007", "the file is not UTF-8", span, "this byte is not UTF-8");
            bag.report(finding.help("save the file as UTF-8"));
            None
        }
    }
}

fn read(folder: &mut Folder, claim: Claim, file: FileId, bag: &mut Bag) {
    super::secrets::mask(file, bag);
    let source = bag.source(file).1.to_owned();
    let base = if source.starts_with('\u{feff}') { 3 } else { 0 };
    // YAML refuses it by itself.
    if let Claim::Prompt(_) | Claim::Partial(_) = claim
        && let Some(at) = source.find('\0')
    {
        let span = Span { file, start: at as u32, end: at as u32 + 1 };
        let finding = Diagnostic::error("Y007", "the character U+0000", span, "no text holds it");
        bag.report(finding.help("take it out"));
    }
    match claim {
        Claim::Project => match parse(&source[base..], file, base, bag) {
            Some(tree) => folder.project = Reader { bag }.project(file, tree),
            None => folder.project.unread(),
        },
        Claim::Graph(id) => {
            let tree = parse(&source[base..], file, base, bag);
            match tree.and_then(|tree| Reader { bag }.graph(&id, file, &tree)) {
                Some(graph) => drop(folder.graphs.insert(id, graph)),
                None => folder.broken_graphs.push(id),
            }
        }
        Claim::Prompt(name) => match (Reader { bag }).prompt(file) {
            Some(prompt) => drop(folder.prompts.insert(name, prompt)),
            None => folder.broken_prompts.push(name),
        },
        Claim::Schema(path) => match JsonFile::parse(file, "the schema", &source[base..], base, bag) {
            Some(json) => drop(folder.schemas.insert(path, json)),
            None => folder.broken_schemas.push(path),
        },
        Claim::Mcp(server) => {
            let json = JsonFile::parse(file, "the list of tools", &source[base..], base, bag);
            match json.and_then(|json| McpTools::read(&json, bag).map(|tools| (json, tools))) {
                Some(known) => drop(folder.mcp.insert(server, known)),
                None => folder.broken_mcp.push(server),
            }
        }
        Claim::Test(path) => {
            let tree = parse(&source[base..], file, base, bag);
            if let Some(test) = tree.and_then(|tree| Reader { bag }.test(file, &tree)) {
                folder.tests.insert(path, test);
            }
        }
        Claim::Partial(name) => {
            let span = Span { file, start: base as u32, end: source.len() as u32 };
            let text = Text::verbatim(&source[base..], span);
            if text.value.lines().next().is_some_and(|line| line.trim_end() == "---") {
                let at = Span { file, start: base as u32, end: base as u32 + 3 };
                let finding = Diagnostic::error("T306", "front-matter in a partial", at, "it begins here");
                bag.report(
                    finding.help("the file that includes it has the inputs: take the front-matter out"),
                );
            }
            folder.partials.insert(name, text);
        }
        Claim::Other | Claim::Nothing(_) => {}
    }
}
