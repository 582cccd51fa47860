//! Watches the project folder.
//!
//! Invariant: whoever writes a file is given the time to write it whole.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::watch;
use tracing::warn;

/// So long nothing may change before the folder is read: editors write a file in several steps, and several files.
const QUIET: Duration = Duration::from_millis(200);
/// How often it is looked whether another folder has taken the place of the one that is watched.
const LOOK: Duration = Duration::from_secs(2);

/// A watched folder.
pub(super) struct Watch {
    folder: PathBuf,
    watcher: RecommendedWatcher,
    /// Which folder that is, on which device; nothing when it is not there.
    place: Option<(u64, u64)>,
    events: watch::Receiver<()>,
}

impl Watch {
    /// Begins to watch a folder and all below it.
    pub(super) fn new(folder: PathBuf) -> notify::Result<Self> {
        let (told, events) = watch::channel(());
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // To read a file is no change; an error may hide one.
            if event.is_ok_and(|event| only_read(event.kind) || only_database(&event.paths)) {
                return;
            }
            told.send_replace(());
        })?;
        watcher.watch(&folder, RecursiveMode::Recursive)?;
        Ok(Self { place: place(&folder), folder, watcher, events })
    }

    /// Waits for a change, and then until there is none for a moment.
    pub(super) async fn settled(&mut self) {
        loop {
            tokio::select! {
                // The sender lives as long as the watcher.
                _ = self.events.changed() => break,
                () = tokio::time::sleep(LOOK) => if self.moved() { break },
            }
        }
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
