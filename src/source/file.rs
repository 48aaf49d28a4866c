//! A folder of YAML as a source.
//!
//! Files that are announced to have changed are read again, or the folder if
//! more is, and compared with what was in them before. Files may be replaced by
//! renaming, and the folder may be a mounted ConfigMap, whose files are links
//! into a hidden directory that is swapped. A file that cannot be read, or a
//! document in it, keeps its last good objects; a file that is gone takes its
//! objects with it.
//!
//! The first reading says objects as they are found, so that a large folder
//! passes through and is never here as a whole. Later ones say all that changed
//! at once.

mod announced;
mod objects;
mod parallel;
mod pieces;

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};
use rapidhash::{RapidHashMap, RapidHashSet};
use tokio::sync::mpsc;

use crate::api::kinds::DecodeError;
use crate::api::{Change, Kind, Object, ObjectKey};

use super::documents::Document;
use super::{Event, Problem, Problems, Sender};
use announced::{Announced, Gathering, is_hidden, is_read};
use objects::{KeyHash, Objects};
use parallel::read_files;

/// How long nothing must change before the folder is read: whoever copies
/// files in should be done.
const QUIET: Duration = Duration::from_millis(50);
/// How long changes may go on before the folder is read all the same.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the folder is looked at where changes are not announced.
const POLL: Duration = Duration::from_secs(5);

/// A folder as it was last read.
pub struct Folder {
    path: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Whether it was read before.
    read: bool,
    problems: Problems,
}

/// A file as it was last read.
struct File {
    stamp: Stamp,
    objects: Objects,
    broken: Broken,
}

/// Objects that cannot be read, as far as their names can.
type Broken = Vec<(Kind, ObjectKey, DecodeError)>;

/// Changes when the content may have changed. It is that of the file itself,
/// past all links, so that it also changes when a link leads elsewhere.
#[derive(Clone, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    modified: Option<SystemTime>,
    length: u64,
}

impl Stamp {
    fn new(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), modified: meta.modified().ok(), length: meta.len() }
    }

    /// That of a file, if there is one.
    fn of_file(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        (!meta.is_dir()).then(|| Self::new(&meta))
    }
}

/// Why a folder cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// It is not there, or not readable.
    #[error("cannot read folder {path}")]
    Read {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Changes in it cannot be watched.
    #[error("cannot watch folder {path}")]
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
        Self { path, files: BTreeMap::new(), read: false, problems }
    }

    /// Reads what has changed, and says the difference to the last time. The
    /// first time that is everything, in many parts; `say` tells whether to go
    /// on.
    pub fn scan(&mut self, say: impl FnMut(Vec<Change>) -> bool) -> Result<(), FolderError> {
        self.look(Announced::Everything, say)
    }

    /// The same, of what is announced to have changed.
    fn look(&mut self, at: Announced, mut say: impl FnMut(Vec<Change>) -> bool) -> Result<(), FolderError> {
        let mut found = BTreeMap::new();
        let lost = |source| FolderError::Read { path: self.path.clone(), source };
        let gone: Vec<_> = match at {
            Announced::Files(paths) if self.read => {
                // In a folder that is lost, files are not gone.
                std::fs::metadata(&self.path).map_err(lost)?;
                // An entry that cannot be looked at is not listed either.
                found.extend(paths.iter().filter_map(|path| Some((path.clone(), Stamp::of_file(path)?))));
                paths.into_iter().filter(|path| self.files.contains_key(path) && !found.contains_key(path)).collect()
            }
            _ => {
                list(&self.path, &mut found).map_err(lost)?;
                self.files.keys().filter(|path| !found.contains_key(*path)).cloned().collect()
            }
        };
        let changed = found.into_iter().filter_map(|(path, stamp)| {
            let same = self.files.get(&path).is_some_and(|file| file.stamp == stamp);
            (!same).then_some((path, stamp))
        });
        let (changed, stamps): (Vec<_>, Vec<_>) = changed.unzip();
        if !std::mem::replace(&mut self.read, true) {
            self.read_first(&changed, stamps, say);
            return Ok(());
        }
        let mut admitted = BTreeMap::new();
        read_files(&changed, |at, documents| {
            let path = &changed[at];
            let (objects, broken) = admit(&self.problems, path, documents, self.files.get(path));
            admitted.insert(path.clone(), File { stamp: stamps[at].clone(), objects, broken });
            true
        });
        // Only objects of files that changed can be said differently now.
        let mut keys = Keys::default();
        for path in gone.iter().chain(&changed) {
            let (old, new) = (self.files.get(path), admitted.get(path));
            keys.extend(old.into_iter().chain(new).flat_map(|file| file.objects.iter()));
        }
        for path in &gone {
            self.problems.retain(&format!("{}:", path.display()), &[]);
        }
        let said_broken = gone.iter().chain(&changed).filter_map(|path| self.files.get(path));
        let broken = said_broken.chain(admitted.values()).any(|file| !file.broken.is_empty());
        let broken_before = if broken { self.broken() } else { BTreeMap::new() };
        let before = self.said(&keys);
        self.files.retain(|path, _| !gone.contains(path));
        self.files.extend(admitted);
        let now = self.said(&keys);
        let mut changes = Vec::with_capacity(keys.exact.len());
        for key in keys.exact {
            match (before.get(&key), now.get(&key)) {
                (Some(old), Some(new)) if old == new => {}
                (_, Some(new)) => changes.push(Change::Put(new.clone())),
                (Some(_), None) => changes.push(Change::Delete(key.0, key.1)),
                (None, None) => {}
            }
        }
        if broken {
            let broken_now = self.broken();
            let mended = broken_before.keys().filter(|key| !broken_now.contains_key(*key));
            changes.extend(mended.map(|(kind, key)| Change::Unreadable(*kind, key.clone(), None)));
            let news = broken_now.into_iter().filter(|(key, error)| broken_before.get(key) != Some(error));
            changes.extend(news.map(|((kind, key), error)| Change::Unreadable(kind, key, Some(error))));
        }
        if !changes.is_empty() {
            say(changes);
        }
        Ok(())
    }

    /// The first reading, when nothing has been said.
    fn read_first(&mut self, paths: &[PathBuf], stamps: Vec<Stamp>, mut say: impl FnMut(Vec<Change>) -> bool) {
        // Files are not done in their order. An object that is in two is said
        // as it came first, and in the end once more as it counts.
        let (mut seen, mut twice) = (RapidHashSet::<KeyHash>::default(), RapidHashSet::<KeyHash>::default());
        read_files(paths, |at, documents| {
            let (objects, broken) = admit(&self.problems, &paths[at], documents, None);
            let mut changes = Vec::new();
            for (hash, object) in objects.iter() {
                match seen.insert(*hash) {
                    true => changes.push(Change::Put(object.clone())),
                    false => drop(twice.insert(*hash)),
                }
            }
            self.files.insert(paths[at].clone(), File { stamp: stamps[at].clone(), objects, broken });
            changes.is_empty() || say(changes)
        });
        let mut keys = Keys::default();
        keys.extend(self.files.values().flat_map(|file| file.objects.iter()).filter(|(hash, _)| twice.contains(hash)));
        let mut changes: Vec<_> = self.said(&keys).into_values().map(Change::Put).collect();
        let broken = self.broken().into_iter();
        changes.extend(broken.map(|((kind, key), error)| Change::Unreadable(kind, key, Some(error))));
        if !changes.is_empty() {
            say(changes);
        }
    }

    /// The objects that some file has and that cannot be read there.
    fn broken(&self) -> BTreeMap<(Kind, ObjectKey), DecodeError> {
        let all = self.files.values().flat_map(|file| &file.broken);
        all.map(|(kind, key, error)| ((*kind, key.clone()), error.clone())).collect()
    }

    /// Of the objects with these keys, those that are said. Of two files with
    /// the same object, the first by name counts.
    fn said(&self, keys: &Keys) -> RapidHashMap<(Kind, ObjectKey), Object> {
        let mut said = RapidHashMap::default();
        if keys.exact.is_empty() {
            return said;
        }
        let mut say = |path: &Path, object: &Object| {
            let key = (object.kind(), object.meta().key());
            let first = said.entry(key).or_insert_with(|| object.clone());
            if !std::ptr::eq(first.meta(), object.meta()) {
                let (kind, object) = (object.kind().info().kind, object.meta().key());
                tracing::debug!(file = %path.display(), kind, %object, "is in an earlier file too, which counts");
            }
        };
        // A few keys are looked for, many are compared with all there is.
        let all: usize = self.files.values().map(|file| file.objects.len()).sum();
        let few = keys.exact.len().saturating_mul(self.files.len()) < all;
        for (path, file) in &self.files {
            if few {
                let found = keys.exact.iter().filter_map(|(kind, key)| file.objects.get(*kind, key));
                found.for_each(|object| say(path, object));
                continue;
            }
            // The hash spares us to look at most objects.
            let likely = file.objects.iter().filter(|(hash, _)| keys.hashes.contains(hash));
            let exact = |object: &&Object| keys.exact.contains(&(object.kind(), object.meta().key()));
            likely.map(|(_, object)| object).filter(exact).for_each(|object| say(path, object));
        }
        said
    }
}

/// Kinds and keys of objects.
#[derive(Default)]
struct Keys {
    exact: RapidHashSet<(Kind, ObjectKey)>,
    hashes: RapidHashSet<KeyHash>,
}

impl Keys {
    fn extend<'a>(&mut self, objects: impl Iterator<Item = &'a (KeyHash, Object)>) {
        for (hash, object) in objects {
            self.hashes.insert(*hash);
            self.exact.insert((object.kind(), object.meta().key()));
        }
    }
}

/// What a file says now: its good documents, and the last good version of
/// those that are broken; and which those are.
fn admit(
    problems: &Problems,
    path: &Path,
    read: Result<Vec<Document>, std::io::Error>,
    before: Option<&File>,
) -> (Objects, Broken) {
    let none = Objects::default();
    let old = before.map_or(&none, |file| &file.objects);
    let place = |line: usize| format!("{}:{line}", path.display());
    let documents = match read {
        Ok(documents) => documents,
        Err(error) => {
            let problem = Problem { place: place(0), field: String::new(), reason: error.to_string() };
            problems.open(place(0), problem);
            return (old.clone(), before.map(|file| file.broken.clone()).unwrap_or_default());
        }
    };
    let (mut objects, mut open, mut nameless) = (Vec::with_capacity(documents.len()), Vec::new(), false);
    let mut broken = Broken::new();
    for document in documents {
        match document {
            Document::Object(object) => {
                // One that has not changed need not be there twice.
                let same = old.get(object.kind(), &object.meta().key()).filter(|old| **old == object);
                objects.push(same.cloned().unwrap_or(object));
            }
            Document::Other { kind } => tracing::debug!(file = %path.display(), kind, "kind is not read"),
            Document::Broken { line, object, error } => {
                let place = place(line);
                let named = object.as_ref().map(|(kind, key)| format!(" ({} {key})", kind.info().kind));
                let problem = Problem {
                    place: place.clone() + &named.unwrap_or_default(),
                    field: error.field.clone(),
                    reason: error.reason.clone(),
                };
                problems.open(place.clone(), problem);
                open.push(place);
                match object {
                    Some((kind, key)) => {
                        objects.extend(old.get(kind, &key).cloned());
                        broken.push((kind, key, error));
                    }
                    // It may be any of the objects that are missing now.
                    None => nameless = true,
                }
            }
        }
    }
    problems.retain(&format!("{}:", path.display()), &open);
    if nameless {
        let unsaid = |kind: Kind, key: &ObjectKey, objects: &[Object], broken: &Broken| {
            !objects.iter().any(|object| object.kind() == kind && object.meta().key() == *key)
                && !broken.iter().any(|one| (one.0, &one.1) == (kind, key))
        };
        let older = before.into_iter().flat_map(|file| &file.broken);
        let older: Broken = older.filter(|one| unsaid(one.0, &one.1, &objects, &broken)).cloned().collect();
        broken.extend(older);
        // What the file still says comes later, hence counts.
        objects.splice(0..0, old.iter().map(|(_, object)| object.clone()));
    }
    (Objects::new(objects), broken)
}

/// Finds the files of a folder, by path.
fn list(folder: &Path, found: &mut BTreeMap<PathBuf, Stamp>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(is_hidden) {
            continue;
        }
        // An entry may vanish while we look.
        let Ok(meta) = std::fs::metadata(&path) else { continue };
        if meta.is_dir() {
            list(&path, found)?;
        } else if is_read(&path) {
            found.insert(path, Stamp::new(&meta));
        }
    }
    Ok(())
}

/// The files of a folder that are read, in the order in which they count.
pub(super) fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    list(folder, &mut found)?;
    Ok(found.into_keys().collect())
}

/// Serves a folder until the receiver is gone. Fails only before the first
/// reading; after that, losing the folder withdraws nothing.
pub async fn run(path: PathBuf, sender: Sender, problems: Problems) -> Result<(), FolderError> {
    let (wake, mut woken) = mpsc::channel(1);
    let gathering = Gathering::new(&path);
    let gathered = gathering.clone();
    let watched = notify::recommended_watcher(move |event| {
        if gathered.note(event) {
            // Full means that a reading is due already.
            let _ = wake.try_send(());
        }
    });
    let watch = |source| FolderError::Watch { path: path.clone(), source };
    let mut watcher = watched.map_err(watch)?;
    watcher.watch(&path, RecursiveMode::Recursive).map_err(watch)?;

    let mut folder = Folder::new(path.clone(), problems.clone());
    let (first, returned) = look(folder, Announced::Everything, sender.clone()).await;
    folder = returned;
    first?;
    if sender.send(Event::Synced(Kind::ALL.to_vec())).await.is_err() {
        return Ok(());
    }
    loop {
        tokio::select! {
            () = sender.closed() => return Ok(()),
            waited = tokio::time::timeout(POLL, quiet(&mut woken)) => {
                if waited.is_err() {
                    gathering.everything();
                }
            }
        }
        let (scanned, returned) = look(folder, gathering.take(), sender.clone()).await;
        folder = returned;
        let key = path.display().to_string();
        match scanned {
            Ok(()) => problems.close(&key),
            Err(error) => {
                // What was to be looked at was not.
                gathering.everything();
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                let problem = Problem { place: key.clone(), field: String::new(), reason: format!("{error}{cause}") };
                problems.open(key, problem);
            }
        }
    }
}

/// Reading and decoding take CPU time and must not hold up a runtime thread.
async fn look(mut folder: Folder, at: Announced, sender: Sender) -> (Result<(), FolderError>, Folder) {
    let fallback = Folder::new(folder.path.clone(), folder.problems.clone());
    // Without a receiver there is no reason to go on.
    let say = move |changes| sender.blocking_send(Event::Changes(changes)).is_ok();
    let task = tokio::task::spawn_blocking(move || (folder.look(at, say), folder));
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
