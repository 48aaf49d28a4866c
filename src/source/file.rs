//! A folder of YAML as a source.
//!
//! The folder is read again whenever something in it changes, and compared
//! with what it held before. Files may be replaced by renaming, and the folder
//! may be a mounted ConfigMap, whose files are links into a hidden directory
//! that is swapped. A file that cannot be read, or a document in it, keeps its
//! last good objects; a file that is gone takes its objects with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{RecursiveMode, Watcher};
use rapidhash::{RapidHashMap, RapidHashSet};
use tokio::sync::mpsc;

use crate::api::{Change, Kind, Object, ObjectKey};

use super::documents::{Document, read};
use super::{Event, Problem, Problems, Sender};

/// How long nothing must change before the folder is read: whoever copies
/// files in should be done.
const QUIET: Duration = Duration::from_millis(50);
/// How long changes may go on before the folder is read all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the folder is looked at where changes are not announced.
const POLL: Duration = Duration::from_secs(5);

/// Objects by kind and key.
type Objects = BTreeMap<(Kind, ObjectKey), Object>;

/// A folder as it was last read.
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    problems: Problems,
}

/// A file as it was last read.
struct File {
    stamp: Stamp,
    objects: Objects,
}

/// Changes when the content may have changed.
#[derive(Clone, PartialEq)]
struct Stamp {
    /// The file itself, past all links.
    target: PathBuf,
    modified: Option<SystemTime>,
    length: u64,
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is not there, or not readable.
    #[error("cannot read folder {path}: {source}")]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Changes in it cannot be watched.
    #[error("cannot watch folder {path}: {source}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: notify::Error,
    },
}

impl Folder {
    /// A folder that has not been read yet.
    pub fn new(path: PathBuf, problems: Problems) -> Self {
        Self { path, files: BTreeMap::new(), problems }
    }

    /// Reads what has changed, and returns the difference to the last time.
    pub fn scan(&mut self) -> Result<Vec<Change>, FolderError> {
        let mut paths = BTreeSet::new();
        list(&self.path, &mut paths).map_err(|source| FolderError::Read { path: self.path.clone(), source })?;
        let gone: Vec<_> = self.files.keys().filter(|path| !paths.contains(*path)).cloned().collect();
        let changed: Vec<_> = paths
            .into_iter()
            .filter_map(|path| {
                let stamp = stamp(&path)?;
                let same = self.files.get(&path).is_some_and(|file| file.stamp == stamp);
                (!same).then_some((path, stamp))
            })
            .collect();
        // Only objects of files that changed can be said differently now.
        let mut keys: RapidHashSet<(Kind, ObjectKey)> = RapidHashSet::default();
        let mut admitted = Vec::with_capacity(changed.len());
        for (path, stamp, documents) in read_all(changed) {
            let old = self.files.get(&path).map(|file| file.objects.clone()).unwrap_or_default();
            keys.extend(old.keys().cloned());
            let objects = self.admit(&path, documents, old);
            keys.extend(objects.keys().cloned());
            admitted.push((path, File { stamp, objects }));
        }
        for path in &gone {
            keys.extend(self.files.get(path).iter().flat_map(|file| file.objects.keys().cloned()));
            self.problems.retain(&format!("{}:", path.display()), &[]);
        }
        if keys.is_empty() && gone.is_empty() && admitted.is_empty() {
            return Ok(Vec::new());
        }
        let before = self.said(&keys);
        self.files.retain(|path, _| !gone.contains(path));
        self.files.extend(admitted);
        let now = self.said(&keys);
        let mut changes = Vec::with_capacity(keys.len());
        for key in keys {
            match (before.get(&key), now.get(&key)) {
                (Some(old), Some(new)) if old == new => {}
                (_, Some(new)) => changes.push(Change::Put(new.clone())),
                (Some(_), None) => changes.push(Change::Delete(key.0, key.1)),
                (None, None) => {}
            }
        }
        Ok(changes)
    }

    /// Of the objects with these keys, those that are said. Of two files with
    /// the same object, the first by name counts.
    fn said(&self, keys: &RapidHashSet<(Kind, ObjectKey)>) -> RapidHashMap<(Kind, ObjectKey), Object> {
        let mut said = RapidHashMap::default();
        for (path, file) in &self.files {
            for (key, object) in file.objects.iter().filter(|(key, _)| keys.contains(key)) {
                let first = said.entry(key.clone()).or_insert_with(|| object.clone());
                if !std::ptr::eq(first.meta(), object.meta()) {
                    let (kind, object) = (key.0.info().kind, &key.1);
                    tracing::debug!(file = %path.display(), kind, %object, "is in an earlier file too, which counts");
                }
            }
        }
        said
    }

    /// What a file says now: its good documents, and the last good version of
    /// those that are broken.
    fn admit(&self, path: &Path, read: Result<Vec<Document>, std::io::Error>, mut old: Objects) -> Objects {
        let place = |line: usize| format!("{}:{line}", path.display());
        let documents = match read {
            Ok(documents) => documents,
            Err(error) => {
                let problem = Problem { place: place(0), field: String::new(), reason: error.to_string() };
                self.problems.open(place(0), problem);
                return old;
            }
        };
        let (mut objects, mut open, mut nameless) = (Objects::new(), Vec::new(), false);
        for document in documents {
            match document {
                Document::Object(object) => {
                    objects.insert((object.kind(), object.meta().key()), object);
                }
                Document::Other { kind } => tracing::debug!(file = %path.display(), kind, "kind is not read"),
                Document::Broken { line, object, error } => {
                    let place = place(line);
                    let named = object.as_ref().map(|(kind, key)| format!(" ({} {key})", kind.info().kind));
                    let problem = Problem {
                        place: place.clone() + &named.unwrap_or_default(),
                        field: error.field,
                        reason: error.reason,
                    };
                    self.problems.open(place.clone(), problem);
                    open.push(place);
                    match object {
                        Some(key) => objects.extend(old.remove_entry(&key)),
                        // It may be any of the objects that are missing now.
                        None => nameless = true,
                    }
                }
            }
        }
        self.problems.retain(&format!("{}:", path.display()), &open);
        if nameless {
            for (key, object) in old {
                objects.entry(key).or_insert(object);
            }
        }
        objects
    }
}

/// Reads and decodes files, on as many threads as there are cores.
fn read_all(files: Vec<(PathBuf, Stamp)>) -> Vec<(PathBuf, Stamp, Result<Vec<Document>, std::io::Error>)> {
    let one = |(path, stamp): (PathBuf, Stamp)| {
        let documents = std::fs::read_to_string(&path).map(|text| read(&text));
        (path, stamp, documents)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(files.len().max(1));
    let queue = std::sync::Mutex::new(files.into_iter());
    // Each takes the next file; big and small ones even out.
    let work = || {
        let next = || queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
        std::iter::from_fn(next).map(one).collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_default()).collect()
    })
}

fn list(folder: &Path, found: &mut BTreeSet<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // Hidden entries are editors' temporary files and ConfigMap versions.
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
            continue;
        }
        // An entry may vanish while we look.
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.is_dir() {
            list(&path, found)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json") {
            found.insert(path);
        }
    }
    Ok(())
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some(Stamp { target: path.canonicalize().ok()?, modified: meta.modified().ok(), length: meta.len() })
}

/// Serves a folder until the receiver is gone. Fails only before the first
/// reading; after that, losing the folder withdraws nothing.
pub async fn run(path: PathBuf, sender: Sender, problems: Problems) -> Result<(), FolderError> {
    let (wake, mut woken) = mpsc::channel(1);
    let watched = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        // To read the folder is to open it, which is announced as well. Without
        // this, every reading would be the reason for the next.
        let written = EventKind::Access(AccessKind::Close(AccessMode::Write));
        if event.is_ok_and(|event| event.kind.is_access() && event.kind != written) {
            return;
        }
        // Full means that a reading is due already.
        let _ = wake.try_send(());
    });
    let watch = |source| FolderError::Watch { path: path.clone(), source };
    let mut watcher = watched.map_err(watch)?;
    watcher.watch(&path, RecursiveMode::Recursive).map_err(watch)?;

    let mut folder = Folder::new(path.clone(), problems.clone());
    let (first, returned) = scan(folder).await;
    folder = returned;
    let events = [Event::Changes(first?), Event::Synced(Kind::ALL.to_vec())];
    for event in events {
        if sender.send(event).await.is_err() {
            return Ok(());
        }
    }
    loop {
        tokio::select! {
            () = sender.closed() => return Ok(()),
            _ = tokio::time::timeout(POLL, quiet(&mut woken)) => {}
        }
        let (changes, returned) = scan(folder).await;
        folder = returned;
        let key = path.display().to_string();
        match changes {
            Ok(changes) => {
                problems.close(&key);
                if !changes.is_empty() && sender.send(Event::Changes(changes)).await.is_err() {
                    return Ok(());
                }
            }
            Err(error) => {
                let problem = Problem { place: key.clone(), field: String::new(), reason: error.to_string() };
                problems.open(key, problem);
            }
        }
    }
}

/// Reading and decoding take CPU time and must not hold up a runtime thread.
async fn scan(mut folder: Folder) -> (Result<Vec<Change>, FolderError>, Folder) {
    let fallback = Folder::new(folder.path.clone(), folder.problems.clone());
    let task = tokio::task::spawn_blocking(move || (folder.scan(), folder));
    match task.await {
        Ok(done) => done,
        Err(error) => {
            let path = fallback.path.clone();
            (Err(FolderError::Read { path, source: std::io::Error::other(error) }), fallback)
        }
    }
}

/// Returns when something has changed and then nothing for a while.
async fn quiet(woken: &mut mpsc::Receiver<()>) {
    if woken.recv().await.is_none() {
        return std::future::pending().await;
    }
    let settled = async { while tokio::time::timeout(QUIET, woken.recv()).await.is_ok_and(|one| one.is_some()) {} };
    let _ = tokio::time::timeout(PATIENCE, settled).await;
}

#[cfg(test)]
mod tests;
