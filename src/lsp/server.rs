//! What the server knows of its editor: what is open, what is being checked, what was said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use gen_lsp_types as lsp;
use lsp_server::{ErrorCode, Message, Notification, Request, RequestId, Response, ResponseError};
use serde::de::DeserializeOwned;
use serde_json::{Value as Json, json};

use super::answer;
use super::check::{Checked, Job};
use super::place::{edit, path, unified, uri};
use super::project::{Project, root_of};
use super::{Functions, hand_over};

/// How long an editor must be still before its project is checked.
const PAUSE: Duration = Duration::from_millis(120);

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Fresh,
    Running,
    Down,
}

/// A text that the editor has open.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) uri: lsp::Uri,
    pub(super) version: i32,
    pub(super) text: Arc<str>,
    /// Its project.
    pub(super) root: Option<PathBuf>,
}

/// A project that is open, and its checks.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) project: Project,
    /// Counts the changes.
    change: u64,
    /// When it is to be checked.
    due: Option<Instant>,
    /// A check of it is under way.
    running: bool,
    /// What the editor shows, by file.
    shown: BTreeMap<PathBuf, Vec<lsp::Diagnostic>>,
}

/// A server and its editor.
pub(super) struct Server {
    send: Box<dyn Fn(Message) + Send>,
    jobs: Sender<Job>,
    phase: Phase,
    /// The editor tells of changes on the disk when it is asked to.
    watches: bool,
    /// The editor takes edits with the versions of the texts that they are for.
    pub(super) versioned: bool,
    functions: Functions,
    /// Requests that wait until their project is read.
    waiting: Vec<Request>,
    pub(super) documents: BTreeMap<PathBuf, Document>,
    pub(super) projects: BTreeMap<PathBuf, Open>,
}

/// Why a request gets no answer.
pub(super) type Refusal = (ErrorCode, String);

impl Server {
    pub(super) fn new(send: Box<dyn Fn(Message) + Send>, jobs: Sender<Job>, functions: Functions) -> Self {
        Self {
            send,
            jobs,
            phase: Phase::Fresh,
            watches: false,
            versioned: false,
            functions,
            waiting: Vec::new(),
            documents: BTreeMap::new(),
            projects: BTreeMap::new(),
        }
    }

    /// Takes in a message. A value: the connection is over, `true` when the editor had announced it.
    pub(super) fn hear(&mut self, message: Message) -> Option<bool> {
        match message {
            Message::Request(request) => self.request(request, false),
            Message::Notification(note) if note.method == "exit" => return Some(self.phase == Phase::Down),
            Message::Notification(note) if self.phase == Phase::Running => {
                self.note(note);
                self.go_on(false);
            }
            // Answers are to what is only asked for its effect.
            Message::Notification(_) | Message::Response(_) => {}
        }
        None
    }

    /// Answers what waited, as far as it need not wait longer.
    fn go_on(&mut self, all: bool) {
        for request in std::mem::take(&mut self.waiting) {
            self.request(request, all);
        }
    }

    /// Says whether a request is about names of a project that is still being read, which is soon over.
    fn is_early(&mut self, request: &Request) -> bool {
        if !matches!(request.method.as_str(), "textDocument/rename" | "textDocument/prepareRename") {
            return false;
        }
        let uri = request.params.pointer("/textDocument/uri").cloned();
        let file = uri.and_then(|uri| path(&serde_json::from_value(uri).ok()?));
        let root = file.and_then(|file| self.documents.get(&file)?.root.clone());
        let Some(open) = root.and_then(|root| self.projects.get_mut(&root)) else { return false };
        if open.project.whole {
            return false;
        }
        open.due = open.due.map(|_| Instant::now());
        true
    }

    /// Answers a request; one that comes too early waits, unless it is to be answered `now`.
    fn request(&mut self, request: Request, now: bool) {
        if self.phase == Phase::Running && request.method == "shutdown" {
            self.go_on(true);
        }
        if self.phase == Phase::Running && !now && self.is_early(&request) {
            self.waiting.push(request);
            return;
        }
        let Request { id, method, params } = request;
        let answer = match (self.phase, method.as_str()) {
            (Phase::Fresh, "initialize") => Ok(self.initialize(&params)),
            (Phase::Fresh, _) => {
                Err((ErrorCode::ServerNotInitialized, "`initialize` comes first".to_owned()))
            }
            (Phase::Down, _) => Err((ErrorCode::InvalidRequest, "the server was shut down".to_owned())),
            (Phase::Running, "initialize") => {
                Err((ErrorCode::InvalidRequest, "`initialize` comes once".to_owned()))
            }
            (Phase::Running, "shutdown") => {
                self.phase = Phase::Down;
                Ok(Json::Null)
            }
            (Phase::Running, method) => {
                // A mistake of ours in one answer must not end the server.
                let work = std::panic::AssertUnwindSafe(|| {
                    for open in self.projects.values_mut() {
                        open.project.settle();
                    }
                    answer::answer(self, method, params)
                });
                std::panic::catch_unwind(work).unwrap_or_else(|_| {
                    Err((ErrorCode::InternalError, "the server made a mistake".to_owned()))
                })
            }
        };
        self.respond(id, answer);
    }

    fn respond(&self, id: RequestId, answer: Result<Json, Refusal>) {
        let response_result =
            answer.map_err(|(code, message)| ResponseError { code: code as i32, message, data: None });
        (self.send)(Message::Response(Response { id, response_result }));
    }

    fn initialize(&mut self, params: &Json) -> Json {
        let can = |pointer: &str| params.pointer(pointer) == Some(&Json::Bool(true));
        self.watches = can("/capabilities/workspace/didChangeWatchedFiles/dynamicRegistration");
        self.versioned = can("/capabilities/workspace/workspaceEdit/documentChanges");
        self.phase = Phase::Running;
        json!({
            "capabilities": answer::capabilities(),
            "serverInfo": {"name": "graphloom", "version": env!("CARGO_PKG_VERSION")},
        })
    }

    fn note(&mut self, note: Notification) {
        match note.method.as_str() {
            "initialized" if self.watches => self.watch(),
            "textDocument/didOpen" => {
                if let Some(lsp::DidOpenTextDocumentParams { text_document: opened }) = read(note) {
                    self.open(opened.uri, opened.version, unified(opened.text).into());
                }
            }
            "textDocument/didChange" => {
                if let Some(changed) = read::<lsp::DidChangeTextDocumentParams>(note) {
                    self.change(changed);
                }
            }
            "textDocument/didClose" => {
                if let Some(closed) = read::<lsp::DidCloseTextDocumentParams>(note)
                    && let Some(file) = path(&closed.text_document.uri)
                {
                    self.close(&file);
                }
            }
            "textDocument/didSave" => {
                if let Some(saved) = read::<lsp::DidSaveTextDocumentParams>(note)
                    && let Some(file) = path(&saved.text_document.uri)
                {
                    self.touch(&[file]);
                }
            }
            "workspace/didChangeWatchedFiles" => {
                if let Some(changed) = read::<lsp::DidChangeWatchedFilesParams>(note) {
                    let files: Vec<_> = changed.changes.iter().filter_map(|event| path(&event.uri)).collect();
                    self.touch(&files);
                }
            }
            _ => {}
        }
    }

    /// Asks the editor to tell of changes on the disk.
    fn watch(&self) {
        let watchers = ["**/*.yaml", "**/*.yml", "**/prompts/**", "**/schemas/**"];
        let watchers: Vec<Json> = watchers.iter().map(|glob| json!({"globPattern": glob})).collect();
        let registration = json!({
            "id": "files",
            "method": "workspace/didChangeWatchedFiles",
            "registerOptions": {"watchers": watchers},
        });
        (self.send)(Message::Request(Request {
            id: RequestId::from("watch".to_owned()),
            method: "client/registerCapability".to_owned(),
            params: json!({"registrations": [registration]}),
        }));
    }

    fn open(&mut self, uri: lsp::Uri, version: i32, text: Arc<str>) {
        let Some(file) = path(&uri) else { return };
        self.documents.insert(file.clone(), Document { uri, version, text, root: None });
        // A new project.yaml may take files from the project around it.
        self.assign();
    }

    fn change(&mut self, changed: lsp::DidChangeTextDocumentParams) {
        let Some(file) = path(&changed.text_document.text_document_identifier.uri) else { return };
        let Some(document) = self.documents.get_mut(&file) else { return };
        document.version = changed.text_document.version;
        document.text = edit(document.text.to_string(), changed.content_changes).into();
        if document.root.is_none() && file.ends_with("project.yaml") {
            // It may have become one of ours.
            self.assign();
        }
        self.take_in(&file);
    }

    /// Brings the text of a document into its project.
    fn take_in(&mut self, file: &Path) {
        let Some(document) = self.documents.get(file) else { return };
        let Some(open) = document.root.as_ref().and_then(|root| self.projects.get_mut(root)) else { return };
        if let Some(path) = open.project.relative(file) {
            open.project.files.entry(path).or_default().set(Arc::clone(&document.text), true);
            open.mark_due();
        }
    }

    fn close(&mut self, file: &Path) {
        let Some(document) = self.documents.remove(file) else { return };
        if let Some(open) = document.root.as_ref().and_then(|root| self.projects.get_mut(root)) {
            if let Some(kept) = open.project.relative(file).and_then(|path| open.project.files.get_mut(&path))
            {
                kept.open = false;
            }
            // What is on the disk counts again.
            open.mark_due();
        }
        self.assign();
    }

    /// Notes that files changed on the disk.
    fn touch(&mut self, files: &[PathBuf]) {
        if files.iter().any(|file| file.ends_with("project.yaml")) {
            self.assign();
        }
        for open in self.projects.values_mut() {
            if files.iter().any(|file| file.starts_with(&open.project.root)) {
                open.mark_due();
            }
        }
    }

    /// Finds the project of each document. A project is open while one of its files is.
    fn assign(&mut self) {
        let documents = &self.documents;
        let project = |path: &Path| match documents.get(path) {
            Some(document) => Some(document.text.to_string()),
            None => std::fs::read_to_string(path).ok(),
        };
        let roots: Vec<(PathBuf, Option<PathBuf>)> =
            documents.keys().map(|file| (file.clone(), root_of(file, &project))).collect();
        let mut moved = Vec::new();
        for (file, root) in roots {
            let Some(document) = self.documents.get_mut(&file) else { continue };
            if document.root == root {
                continue;
            }
            let before = std::mem::replace(&mut document.root, root.clone());
            if let Some(open) = before.and_then(|root| self.projects.get_mut(&root)) {
                let path = open.project.relative(&file);
                path.map(|path| open.project.files.remove(&path));
                open.mark_due();
            }
            if let Some(root) = root {
                self.projects.entry(root.clone()).or_insert_with(|| Open::new(root, &self.functions));
                moved.push(file);
            }
        }
        for file in moved {
            self.take_in(&file);
        }
        let used = |root: &PathBuf| self.documents.values().any(|doc| doc.root.as_ref() == Some(root));
        let unused: Vec<PathBuf> = self.projects.keys().filter(|root| !used(root)).cloned().collect();
        for root in unused {
            for file in self.projects.remove(&root).into_iter().flat_map(|open| open.shown.into_keys()) {
                self.publish(&file, None, Vec::new());
            }
        }
    }

    /// Returns when the next check is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.projects.values().filter(|open| !open.running).filter_map(|open| open.due).min()
    }

    /// Hands what is due to the checker.
    pub(super) fn start_checks(&mut self, now: Instant) {
        for open in self.projects.values_mut() {
            if !open.running && open.due.is_some_and(|due| due <= now) {
                (open.running, open.due) = (true, None);
                let kept = open.project.files.iter().filter(|(_, kept)| kept.open);
                let texts = kept.map(|(path, kept)| (path.clone(), Arc::clone(&kept.text)));
                let root = open.project.root.clone();
                hand_over(&self.jobs, Job { root, open: texts.collect(), change: open.change });
            }
        }
    }

    /// Takes in what the checker found.
    pub(super) fn adopt(&mut self, checked: Checked) {
        let failed = checked.failed;
        self.take_over(checked);
        self.go_on(failed);
    }

    fn take_over(&mut self, checked: Checked) {
        let Some(open) = self.projects.get_mut(&checked.root) else { return };
        open.running = false;
        if checked.failed {
            return;
        }
        open.project.adopt(checked.files);
        if checked.change != open.change {
            // The next check is due already; places of this one may be wrong by now.
            return;
        }
        let before = std::mem::replace(&mut open.shown, checked.findings);
        let mended = before
            .keys()
            .filter(|file| !open.shown.contains_key(*file))
            .map(|file| (file.clone(), Vec::new()));
        let fresh = open.shown.iter().filter(|(file, found)| before.get(*file) != Some(*found));
        let news: Vec<_> = mended.chain(fresh.map(|(file, found)| (file.clone(), found.clone()))).collect();
        for (file, found) in news {
            self.publish(&file, self.documents.get(&file).map(|document| document.version), found);
        }
    }

    fn publish(&self, file: &Path, version: Option<i32>, found: Vec<lsp::Diagnostic>) {
        let Some(uri) = self.uri(file) else { return };
        let params = lsp::PublishDiagnosticsParams { uri, version, diagnostics: found };
        let method = "textDocument/publishDiagnostics".to_owned();
        // What is made of plain values becomes JSON.
        let Ok(params) = serde_json::to_value(params) else { return };
        (self.send)(Message::Notification(Notification { method, params }));
    }

    /// Returns what the editor shows of a file.
    pub(super) fn shown(&self, file: &Path) -> &[lsp::Diagnostic] {
        let shown = self.projects.values().find_map(|open| open.shown.get(file));
        shown.map(Vec::as_slice).unwrap_or_default()
    }

    /// Names a file as the editor does.
    pub(super) fn uri(&self, file: &Path) -> Option<lsp::Uri> {
        self.documents.get(file).map(|document| document.uri.clone()).or_else(|| uri(file))
    }
}

impl Open {
    fn new(root: PathBuf, functions: &Functions) -> Self {
        let project = Project { functions: Arc::clone(functions), ..Project::new(root) };
        Self { project, change: 0, due: None, running: false, shown: BTreeMap::new() }
    }

    /// Notes a change.
    fn mark_due(&mut self) {
        self.change += 1;
        self.due = Some(Instant::now() + PAUSE);
    }
}

/// Reads what came with a notification; what cannot be read is passed over, as nobody waits for an answer.
fn read<T: DeserializeOwned>(note: Notification) -> Option<T> {
    serde_json::from_value(note.params).ok()
}
