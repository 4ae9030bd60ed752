//! The last good snapshot on disk, for a restart without controllers.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message as _;
use snapshot::proto::{State, Upsert};
use snapshot::{Hash, Hashed, ResourceId, Snapshot};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The file in the state directory. It holds private keys: nobody else may read it.
const FILE: &str = "snapshot.pb";
const MODE: u32 = 0o600;

/// At least so long between two writes; what lies between is skipped.
const INTERVAL: Duration = Duration::from_secs(1);

/// What helps when the volume is full.
const FULL: &str = ": the volume needs room for two of them, which the chart's value dataplane.stateSizeLimit gives it";

/// Keeps the newest snapshot, in the background until dropped.
#[derive(Debug)]
pub(super) struct Keeper {
    path: PathBuf,
    newest: watch::Sender<Snapshot>,
    task: AbortHandle,
}

impl Keeper {
    /// A keeper in this directory, which must exist.
    pub(super) fn new(directory: &Path) -> Self {
        let path = directory.join(FILE);
        let newest = watch::Sender::new(Snapshot::default());
        let task = tokio::spawn(write_newest(path.clone(), newest.subscribe())).abort_handle();
        Self { path, newest, task }
    }

    /// What was kept; `None` when there is nothing or it is damaged, which is logged.
    pub(super) fn load(&self) -> Option<Snapshot> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot read the kept snapshot");
                return None;
            }
        };
        let snapshot = decode(&bytes);
        match &snapshot {
            Some(snapshot) => tracing::info!(resources = snapshot.len(), "serves the kept snapshot"),
            None => tracing::warn!(path = %self.path.display(), "the kept snapshot is damaged and ignored"),
        }
        snapshot
    }

    /// Keeps this one in place of the last.
    pub(super) fn keep(&self, snapshot: &Snapshot) {
        self.newest.send_replace(snapshot.clone());
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn write_newest(path: PathBuf, mut newest: watch::Receiver<Snapshot>) {
    while newest.changed().await.is_ok() {
        let snapshot = newest.borrow_and_update().clone();
        let target = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&target, &encode(&snapshot))).await;
        if let Ok(Err(error)) = written {
            let remedy = match error.kind() {
                io::ErrorKind::StorageFull => FULL,
                _ => "",
            };
            tracing::warn!(path = %path.display(), %error, "cannot keep the snapshot, the one kept before stays{remedy}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Replaces the file as a whole: a reader finds the old or the new one. Nothing else is left behind.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => (),
    }
    let written = write_new(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new); // a part of it would only take room; the error that is told is the first one
    }
    written
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Encodes resources anew. One that a newer controller sent with more than is known here gets another hash this way, so that a newer
/// data plane that starts with this file is sent the whole resource again.
fn encode(snapshot: &Snapshot) -> Vec<u8> {
    let upsert = |(id, resource): (&ResourceId, &Hashed)| Upsert {
        name: Some(id.into()),
        resource: resource.resource().encode(),
    };
    let resources: Vec<Upsert> = snapshot.iter().map(upsert).collect();
    let version = version(&resources).into();
    State { resources, version }.encode_to_vec()
}

fn decode(bytes: &[u8]) -> Option<Snapshot> {
    let state = State::decode(bytes).ok()?;
    if Hash::try_from(state.version.as_slice()) != Ok(version(&state.resources)) {
        return None;
    }
    let mut snapshot = Snapshot::default();
    for upsert in state.resources {
        // One that another version kept and this one cannot read is not held, and will be sent again.
        if let Ok((id, resource)) = <(ResourceId, Hashed)>::try_from(upsert) {
            snapshot.insert_hashed(id, resource);
        }
    }
    Some(snapshot)
}

fn version(resources: &[Upsert]) -> Hash {
    snapshot::version(resources.iter().map(|upsert| {
        let (kind, name) = upsert.name.as_ref().map_or((0, ""), |name| (name.kind, name.name.as_str()));
        (kind, name, Hash::of(&upsert.resource))
    }))
}

#[cfg(test)]
mod tests {
    use snapshot::{Endpoints, Resource};

    use super::*;

    #[test]
    fn a_write_that_fails_leaves_what_was_there_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        fs::create_dir_all(path.join("no-file-can-replace-this")).unwrap();
        write(&path, b"new").unwrap_err();
        let entries: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(entries, std::slice::from_ref(&path));

        fs::remove_dir_all(&path).unwrap();
        write(&path, b"new").unwrap();
        write(&path, b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
    }

    #[test]
    fn damage_anywhere_is_noticed() {
        let mut snapshot = Snapshot::default();
        snapshot.insert("a", Resource::Endpoints(Endpoints::Dns { name: "a.example".into(), port: 80 }));
        snapshot.insert("b", Resource::Endpoints(Endpoints::Dns { name: "b.example".into(), port: 80 }));
        let bytes = encode(&snapshot);
        assert_eq!(decode(&bytes), Some(snapshot));
        for length in 0..bytes.len() {
            assert_eq!(decode(&bytes[..length]), None, "cut to {length}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(&damaged), None, "bit flipped at {at}");
        }
    }
}
