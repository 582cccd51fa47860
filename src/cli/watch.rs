//! Watches the project folder.
//!
//! Invariant: whoever writes a file is given the time to write it whole.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tracing::warn;

/// So long nothing may change before the folder is read: editors write a file in several steps, and several files.
const QUIET: Duration = Duration::from_millis(200);
/// So long a file that is being written may stay open: who writes it may wait for something else.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether another folder has taken the place of the one that is watched.
const LOOK: Duration = Duration::from_secs(2);

/// A watched folder.
pub(super) struct Watch {
    folder: PathBuf,
    watcher: RecommendedWatcher,
    /// Which folder that is, on which device; nothing when it is not there.
    place: Option<(u64, u64)>,
    events: watch::Receiver<()>,
    written: Written,
}

/// The files that are being written, where the system tells when one is closed.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<BTreeSet<PathBuf>>>);

impl Written {
    fn files(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_empty(&self) -> bool {
        self.files().is_empty()
    }

    fn note(&self, event: &notify::Event) {
        // Elsewhere nobody would say that a file is whole.
        if !cfg!(any(target_os = "linux", target_os = "android")) {
            return;
        }
        for path in &event.paths {
            match event.kind {
                EventKind::Modify(ModifyKind::Data(_)) if is_ours(path) => {
                    self.files().insert(path.clone());
                }
                EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(_))
                | EventKind::Remove(_) => {
                    self.files().remove(path);
                }
                _ => {}
            }
        }
    }
}

impl Watch {
    /// Begins to watch a folder and all below it.
    pub(super) fn new(folder: PathBuf) -> notify::Result<Self> {
        let (told, events) = watch::channel(());
        let written = Written::default();
        let noted = written.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // To read a file is no change; an error may hide one.
            if event.is_ok_and(|event| {
                noted.note(&event);
                only_read(event.kind) || only_database(&event.paths)
            }) {
                return;
            }
            told.send_replace(());
        })?;
        watcher.watch(&folder, RecursiveMode::Recursive)?;
        Ok(Self { place: place(&folder), folder, watcher, events, written })
    }

    /// Waits for a change, and then until there is none for a moment and no file is half written.
    pub(super) async fn settled(&mut self) {
        loop {
            tokio::select! {
                // The sender lives as long as the watcher.
                _ = self.events.changed() => break,
                () = tokio::time::sleep(LOOK) => if self.moved() { break },
            }
        }
        self.quiet().await;
        let whole = async {
            while !self.written.is_empty() && self.events.changed().await.is_ok() {
                self.quiet().await;
            }
        };
        if tokio::time::timeout(PATIENCE, whole).await.is_err() {
            // What is still open is not waited for again, until it is written again.
            self.written.files().clear();
        }
    }

    async fn quiet(&mut self) {
        while matches!(tokio::time::timeout(QUIET, self.events.changed()).await, Ok(Ok(()))) {}
    }

    /// Says whether something has changed since it was settled.
    pub(super) fn stirred(&self) -> bool {
        self.events.has_changed().unwrap_or(false)
    }

    /// Watches the folder that has taken the place of the former one; says whether there is one.
    fn moved(&mut self) -> bool {
        let place = place(&self.folder);
        if place == self.place {
            return false;
        }
        if place.is_some() {
            // The former one may be gone for good.
            let _gone = self.watcher.unwatch(&self.folder);
            if let Err(error) = self.watcher.watch(&self.folder, RecursiveMode::Recursive) {
                warn!(%error, "The project folder cannot be watched.");
                return false;
            }
        }
        self.place = place;
        true
    }
}

/// Says whether a file may be one of the project.
fn is_ours(path: &Path) -> bool {
    let ending = path.extension().and_then(|end| end.to_str());
    ending.is_some_and(|end| ["yaml", "yml", "md", "json"].contains(&end))
}

/// Says whether only a database was written, which may lie in the folder and is no part of the project.
fn only_database(paths: &[PathBuf]) -> bool {
    const ENDINGS: [&str; 6] = ["db", "db-wal", "db-shm", "db-journal", "sqlite", "sqlite-wal"];
    let is = |path: &PathBuf| {
        path.extension().and_then(|end| end.to_str()).is_some_and(|end| ENDINGS.contains(&end))
    };
    !paths.is_empty() && paths.iter().all(is)
}

fn only_read(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

fn place(folder: &Path) -> Option<(u64, u64)> {
    let meta = std::fs::metadata(folder).ok()?;
    Some((meta.dev(), meta.ino()))
}
