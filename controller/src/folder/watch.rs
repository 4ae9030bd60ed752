//! Tells when files below a folder change.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{ModifyKind, RenameMode};
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
    edits: Arc<Mutex<Edits>>,
    /// What is watched; `None` while the folder is absent.
    watched: Option<(Identity, notify::RecommendedWatcher)>,
}

/// How files came to be as they are, as far as that is known.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Files and folders that were renamed into their place.
    renamed: BTreeSet<PathBuf>,
    /// Those that were written in their place.
    written: BTreeSet<PathBuf>,
}

impl Edits {
    /// Whether the file was complete when it came to its place: by itself, or with the folder that the file is in.
    pub(super) fn is_complete(&self, file: &Path) -> bool {
        !self.written.contains(file)
            && (self.renamed.contains(file) || self.renamed.iter().any(|renamed| renamed.is_dir()))
    }

    /// Adds what an event tells; `place` gives the path by which a file is read.
    fn add(&mut self, event: &notify::Event, place: impl Fn(&Path) -> PathBuf) {
        let renamed = match event.kind {
            EventKind::Modify(ModifyKind::Name(RenameMode::To)) => event.paths.first(),
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => event.paths.get(1),
            EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(_) => {
                self.written.extend(event.paths.iter().map(|path| place(path)));
                None
            }
            _ => None,
        };
        if let Some(path) = renamed.map(|path| place(path)) {
            self.written.remove(&path);
            self.renamed.insert(path);
        }
    }
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
        let edits = Arc::default();
        let mut watcher = Self { root: root.to_owned(), sender, changes, edits, watched: None };
        let identity = Identity::of(root).map_err(notify::Error::io)?;
        watcher.watched = Some((identity, watcher.watch()?));
        Ok(watcher)
    }

    /// Waits for changes to begin and settle, or for the time of a look without any; gives the time when they began
    /// and how files came to be as they are. Cancel safe, save for the quiet time.
    pub async fn changed(&mut self) -> Option<(Instant, Edits)> {
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
        Some((began, std::mem::take(&mut self.edits.lock().unwrap_or_else(PoisonError::into_inner))))
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
        let (sender, edits, root) = (self.sender.clone(), self.edits.clone(), self.root.clone());
        // Events have absolute paths.
        let absolute = std::path::absolute(&root).unwrap_or_else(|_| root.clone());
        let place =
            move |path: &Path| path.strip_prefix(&absolute).map_or_else(|_| path.to_owned(), |rest| root.join(rest));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if let Ok(event) = &event {
                edits.lock().unwrap_or_else(PoisonError::into_inner).add(event, &place);
            }
            if relevant {
                let _ = sender.try_send(());
            }
        })?;
        watcher.watch(&self.root, RecursiveMode::Recursive)?;
        Ok(watcher)
    }
}
