//! Tells when files below a folder change.

use std::path::Path;
use std::time::{Duration, Instant};

use notify::{EventKind, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// So long nothing may happen before the files are read: a save is several events.
const QUIET: Duration = Duration::from_millis(5);
/// They are read after this even if it never gets quiet.
const PATIENCE: Duration = Duration::from_millis(40);

/// Watches a folder and all below it.
pub struct Watcher {
    changes: mpsc::Receiver<()>,
    _watcher: notify::RecommendedWatcher,
}

impl Watcher {
    /// Begins to watch. Fails when the folder is absent or the system has no watches left.
    pub fn new(root: &Path) -> Result<Self, notify::Error> {
        // One waiting signal is enough: whoever takes it reads all that changed.
        let (sender, changes) = mpsc::channel(1);
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let relevant = !matches!(&event, Ok(event) if matches!(event.kind, EventKind::Access(_)));
            if relevant {
                let _ = sender.try_send(());
            }
        })?;
        watcher.watch(root, RecursiveMode::Recursive)?;
        Ok(Self { changes, _watcher: watcher })
    }

    /// Waits for changes to begin and settle; gives the time when they began. Cancel safe, save for the quiet time.
    pub async fn changed(&mut self) -> Option<Instant> {
        self.changes.recv().await?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            match tokio::time::timeout(QUIET, self.changes.recv()).await {
                Ok(Some(())) => {}
                Ok(None) | Err(_) => break,
            }
        }
        Some(began)
    }
}
