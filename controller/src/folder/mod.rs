//! A folder of manifests in place of a cluster: loaded into [`Resources`], and loaded again as its files change.
//!
//! An object keeps its last good version while its file is broken; an object that is no longer in any file is gone.

mod defaults;
mod finding;
mod object;
mod refuse;
mod typed;
mod watch;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use translate::{Kind, ObjectKey, Problem, Resources, Severity, Translation};

pub use finding::Finding;
pub use watch::{Edits, Watcher};

use object::{Manifest, Object};
use watch::Identity;
use yaml::Position;

/// Folders nested deeper than this are not read: a link that leads back up would never end.
const MAX_DEPTH: usize = 16;

/// A file that held something must be empty for so long before that is believed: it may just be about to be written.
const EMPTY_BELIEVED: Duration = Duration::from_millis(500);

/// A file that looks half written must stay so for so long before that is believed.
const HALF_BELIEVED: Duration = Duration::from_millis(100);

/// How many bytes tell whether a file ends as it did before.
const TAIL: usize = 64;

/// A folder of manifests and what it holds.
pub struct Folder {
    root: PathBuf,
    settings: translate::Settings,
    files: BTreeMap<PathBuf, File>,
    /// What files hold that is not believed yet, and since when they have held it. What they held before stays.
    doubted: BTreeMap<PathBuf, (Vec<u8>, Instant)>,
    /// What is in `resources`, by file or by default.
    objects: BTreeMap<(Kind, ObjectKey), Held>,
    duplicates: Vec<Finding>,
    resources: Resources,
}

#[derive(Default)]
struct File {
    text: Vec<u8>,
    manifests: Vec<Manifest>,
    findings: Vec<Finding>,
}

struct Held {
    object: Object,
    place: Option<(PathBuf, Arc<yaml::Node>)>,
}

/// What a reload changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Objects that are new, different or gone, for example `Ingress shop/web`.
    pub objects: BTreeSet<String>,
    /// Whether any file differs.
    pub files: bool,
}

impl Folder {
    /// Reads every manifest below `root`. Files that cannot be used are [`Folder::findings`]; only a folder that cannot be
    /// listed is an error. `settings` name the classes that are added where the folder has none.
    pub fn open(root: &Path, settings: &translate::Settings) -> io::Result<Self> {
        let mut folder = Self {
            root: root.to_owned(),
            settings: settings.clone(),
            files: BTreeMap::new(),
            doubted: BTreeMap::new(),
            objects: BTreeMap::new(),
            duplicates: Vec::new(),
            resources: Resources::default(),
        };
        folder.reload()?;
        Ok(folder)
    }

    /// Reads again what changed on disk. On an error nothing has changed.
    pub fn reload(&mut self) -> io::Result<Change> {
        self.reload_after(&Edits::default())
    }

    /// The same when these edits are known: files that were renamed into their place are complete.
    pub fn reload_after(&mut self, edits: &Edits) -> io::Result<Change> {
        let mut files = false;
        let first = self.files.is_empty();
        let texts = self.texts()?;
        self.doubted.retain(|path, _| texts.contains_key(path));
        let gone: Vec<_> = self.files.keys().filter(|path| !texts.contains_key(*path)).cloned().collect();
        for path in gone {
            self.files.remove(&path);
            files = true;
        }
        for (path, text) in texts {
            if let Ok(text) = &text {
                let old = self.files.get(&path).map(|old| old.text.as_slice());
                if old == Some(text) {
                    self.doubted.remove(&path);
                    continue;
                }
                if let Some(patience) = doubt(old, text).filter(|_| !first && !edits.is_complete(&path)) {
                    let seen = self.doubted.entry(path.clone()).or_insert_with(|| (text.clone(), Instant::now()));
                    if seen.0 != *text {
                        *seen = (text.clone(), Instant::now());
                    }
                    if seen.1.elapsed() < patience {
                        continue;
                    }
                }
            }
            self.doubted.remove(&path);
            let readable = text.is_ok();
            let old = self.files.get(&path);
            let file = load(&path, text, old.map(|old| old.manifests.clone()).unwrap_or_default());
            if readable || old.is_none_or(|old| old.findings != file.findings) {
                files = true;
                self.files.insert(path, file);
            }
        }
        Ok(if files { self.settle() } else { Change::default() })
    }

    /// Whether the files look like an edit in progress: one that was there is missing, as some editors leave it for a
    /// moment while they save.
    pub fn mid_edit(&self) -> bool {
        self.files.keys().any(|path| !path.exists())
    }

    /// Whether a file looks half written, so that it has to be looked at again soon.
    pub fn is_doubted(&self) -> bool {
        !self.doubted.is_empty()
    }

    /// The objects.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// See [`Resources::accept`].
    pub fn accept(&mut self, translation: &Translation) {
        self.resources.accept(translation);
    }

    /// What is wrong with the files themselves, in the order of the files.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<_> =
            self.files.values().flat_map(|file| &file.findings).chain(&self.duplicates).cloned().collect();
        findings.sort();
        findings.dedup();
        findings
    }

    /// A problem that translation found, with its place in the files.
    pub fn place(&self, problem: &Problem) -> Finding {
        self.finding(problem.kind, &problem.object, &problem.field, problem.reason, &problem.message, problem.severity)
    }

    /// Something wrong with an object, with its place in the files.
    pub fn finding(
        &self,
        kind: Kind,
        key: &ObjectKey,
        field: &str,
        reason: &str,
        message: &str,
        severity: Severity,
    ) -> Finding {
        let place = self.objects.get(&(kind, key.clone())).and_then(|held| held.place.as_ref());
        let (file, position) = match place {
            Some((file, node)) => (file.clone(), node.locate(field)),
            None => (PathBuf::new(), Position::START),
        };
        let finding = Finding::new(file, position, reason, message).of(kind, key).field(field);
        Finding { severity, ..finding }
    }

    /// One notice for each class whose Ingresses or Gateways are not served here, at the first of them.
    pub fn unserved(&self, translation: &Translation) -> Vec<Finding> {
        let (resources, statuses) = (&self.resources, &translation.statuses);
        let mut classes: BTreeMap<_, Vec<&ObjectKey>> = BTreeMap::new();
        for (key, entry) in resources.ingresses.iter().filter(|(key, _)| !statuses.ingresses.contains_key(*key)) {
            let class = entry.current.spec.as_ref().and_then(|spec| spec.ingress_class_name.clone());
            let annotated = || entry.current.metadata.annotations.as_ref()?.get("kubernetes.io/ingress.class").cloned();
            classes.entry((Kind::Ingress, class.or_else(annotated))).or_default().push(key);
        }
        for (key, entry) in resources.gateways.iter().filter(|(key, _)| !statuses.gateways.contains_key(*key)) {
            let class = Some(entry.current.spec.gateway_class_name.clone());
            classes.entry((Kind::Gateway, class)).or_default().push(key);
        }
        let notice = |((kind, class), keys): ((Kind, Option<String>), Vec<&ObjectKey>)| {
            let (field, plural) =
                if kind == Kind::Ingress { ("spec.ingressClassName", "es") } else { ("spec.gatewayClassName", "s") };
            let (plural, are) = if keys.len() == 1 { ("", "is") } else { (plural, "are") };
            let of = format!("{} {kind}{plural}", keys.len());
            let message = match class {
                Some(class) => {
                    format!("{of} of class {class} {are} not served here; --class {class} takes in what has this class")
                }
                None => format!("{of} without a class {are} not served here; add `{field}`"),
            };
            Some(self.finding(kind, keys.first()?, field, "OtherClass", &message, Severity::Notice))
        };
        classes.into_iter().filter_map(notice).collect()
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// How many objects the files hold.
    pub fn len(&self) -> usize {
        self.objects.values().filter(|held| held.place.is_some()).count()
    }

    /// Whether the files hold no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of every manifest. An error when the folder itself went or was replaced meanwhile: files that are missing
    /// then tell nothing.
    fn texts(&self) -> io::Result<BTreeMap<PathBuf, io::Result<Vec<u8>>>> {
        let folder = Identity::of(&self.root)?;
        let mut texts = BTreeMap::new();
        list(&self.root, MAX_DEPTH, &mut |path| {
            match std::fs::read(&path) {
                // It went between listing and reading.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                text => {
                    texts.insert(path, text);
                }
            }
        })?;
        if Identity::of(&self.root)? != folder {
            return Err(io::Error::other("it is being replaced"));
        }
        Ok(texts)
    }

    /// Brings `resources` to what the files say.
    fn settle(&mut self) -> Change {
        let mut objects: BTreeMap<(Kind, ObjectKey), Held> = BTreeMap::new();
        self.duplicates.clear();
        for (path, file) in &self.files {
            for manifest in &file.manifests {
                let id = (manifest.kind, manifest.key.clone());
                if let Some((first, node)) = objects.get(&id).and_then(|held| held.place.as_ref()) {
                    let message = format!(
                        "{}:{} holds the same object and is used; remove one of the two",
                        first.display(),
                        node.position.line
                    );
                    let finding = Finding::new(path, manifest.node.position, "DuplicateObject", message);
                    self.duplicates.push(finding.of(manifest.kind, &manifest.key));
                    continue;
                }
                let place = Some((path.clone(), manifest.node.clone()));
                objects.insert(id, Held { object: defaults::adopted(&manifest.object, &self.settings), place });
            }
        }
        for (id, object) in defaults::missing(objects.keys(), &self.settings) {
            objects.insert(id, Held { object, place: None });
        }
        if let Some(class) = defaults::default_class(objects.values().map(|held| &held.object)) {
            objects.values_mut().for_each(|held| defaults::give_class(&mut held.object, &class));
        }
        let mut change = Change { files: true, ..Change::default() };
        for ((kind, key), _) in self.objects.iter().filter(|(id, _)| !objects.contains_key(*id)) {
            object::remove_from(&mut self.resources, *kind, key);
            change.objects.insert(format!("{kind} {key}"));
        }
        for (id, held) in &objects {
            if self.objects.get(id).is_none_or(|old| old.object != held.object) {
                held.object.insert_into(&mut self.resources);
                change.objects.insert(format!("{} {}", id.0, id.1));
            }
        }
        self.objects = objects;
        change
    }
}

/// How long a text has to stay as it is before it is believed, where it may be the beginning of what is being written. `old` is what
/// the file held before. `None` where nothing speaks for that.
fn doubt(old: Option<&[u8]>, text: &[u8]) -> Option<Duration> {
    let Some(old) = old else { return (!text.ends_with(b"\n")).then_some(HALF_BELIEVED) };
    if text.is_empty() {
        return Some(EMPTY_BELIEVED);
    }
    let tail = &old[old.len().saturating_sub(TAIL)..];
    (text.len() < old.len() && !text.ends_with(tail)).then_some(HALF_BELIEVED)
}

/// Reads a file. What its broken parts held before (`kept`) stays, since nobody can tell what they were to become.
fn load(path: &Path, text: io::Result<Vec<u8>>, kept: Vec<Manifest>) -> File {
    let mut file = File::default();
    let mut broken = false;
    match text {
        Err(error) => {
            let message = format!("the file cannot be read: {error}");
            file.findings.push(Finding::new(path, Position::START, "UnreadableFile", message));
            broken = true;
        }
        Ok(text) => {
            match std::str::from_utf8(&text) {
                Err(error) => {
                    let line = text[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
                    let position = Position { line: u32::try_from(line + 1).unwrap_or(u32::MAX), column: 1 };
                    file.findings.push(Finding::new(
                        path,
                        position,
                        "InvalidYaml",
                        "the file is not UTF-8 text; save it as UTF-8",
                    ));
                    broken = true;
                }
                Ok(text) => {
                    for document in yaml::documents(text) {
                        match document {
                            Ok(node) => object::read_document(path, node, &mut file.manifests, &mut file.findings),
                            Err(error) => {
                                let message = format!("not valid YAML: {}", error.message);
                                file.findings.push(Finding::new(path, error.position, "InvalidYaml", message));
                            }
                        }
                    }
                    broken |= file.findings.iter().any(Finding::unusable);
                }
            }
            file.text = text;
        }
    }
    if broken {
        let held =
            |manifest: &Manifest| file.manifests.iter().any(|new| new.kind == manifest.kind && new.key == manifest.key);
        let missing: Vec<_> = kept.into_iter().filter(|manifest| !held(manifest)).collect();
        file.manifests.extend(missing);
    }
    file
}

/// Calls `found` with every manifest file below `folder`, hidden ones left out.
fn list(folder: &Path, depth: usize, found: &mut impl FnMut(PathBuf)) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth > 0 => match list(&path, depth - 1, found) {
                // It went between listing and reading.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                listed => listed?,
            },
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => found(path),
            _ => {}
        }
    }
    Ok(())
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

#[cfg(test)]
mod tests;
