//! Tells when files below a folder change.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// So long nothing may happen before the files are read: a save is several events.
const QUIET: Duration = Duration::from_millis(5);
/// They are read after this even if it never gets quiet.
const PATIENCE: Duration = Duration::from_millis(40);
/// The files are read so often even if nothing is told: not every file system tells, and what is not seen is never mended.
const BACKSTOP: Duration = Duration::from_secs(1);
/// How often a folder that went is looked for.
const ABSENT: Duration = Duration::from_millis(50);

/// Watches a folder and all below it, and whatever takes the folder's place.
pub struct Watcher {
    root: PathBuf,
    sender: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
    /// What is watched; `None` while the folder is absent.
    watched: Option<(Identity, notify::RecommendedWatcher)>,
}

/// Tells a folder from another one of the same name, even if it got the number of its inode.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    born: Option<SystemTime>,
}

impl Identity {
    pub(super) fn of(folder: &Path) -> std::io::Result<Self> {
        let metadata = std::fs::metadata(folder)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), born: metadata.created().ok() })
    }
}

impl Watcher {
    /// Begins to watch. Fails when the folder is absent or the system has no watches left.
    pub fn new(root: &Path) -> Result<Self, notify::Error> {
        // One waiting signal is enough: whoever takes it reads all that changed.
        let (sender, changes) = mpsc::channel(1);
        let mut watcher = Self { root: root.to_owned(), sender, changes, watched: None };
        let identity = Identity::of(root).map_err(notify::Error::io)?;
        watcher.watched = Some((identity, watcher.watch()?));
        Ok(watcher)
    }

    /// Waits for changes to begin and settle, or for the time of a look without any; gives the time when they began.
    /// Cancel safe, save for the quiet time.
    pub async fn changed(&mut self) -> Option<Instant> {
        let patience = if self.watched.is_some() { BACKSTOP } else { ABSENT };
        if let Ok(told) = tokio::time::timeout(patience, self.changes.recv()).await {
            told?;
        }
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            match tokio::time::timeout(QUIET, self.changes.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => break,
            }
        }
        self.follow();
        Some(began)
    }

    /// Watches what has the folder's name by now. What cannot be watched is still looked at now and then.
    fn follow(&mut self) {
        let identity = Identity::of(&self.root).ok();
        if identity == self.watched.as_ref().map(|(watched, _)| *watched) {
            return;
        }
        self.watched = identity.and_then(|identity| Some((identity, self.watch().ok()?)));
    }

    fn watch(&self) -> Result<notify::RecommendedWatcher, notify::Error> {
        let sender = self.sender.clone();
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if relevant {
                let _ = sender.try_send(());
            }
        })?;
        watcher.watch(&self.root, RecursiveMode::Recursive)?;
        Ok(watcher)
    }
}
