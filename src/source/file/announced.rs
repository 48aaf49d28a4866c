//! What of a folder has to be looked at, as the system announces it. Large
//! folders are changed a file at a time, and to look at each file for that
//! costs more than all that follows from the change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode, Event, EventKind};

/// More files than these are looked for in the folder.
const FEW: usize = 1000;

/// What may have changed since a folder was last read.
#[derive(Debug, PartialEq)]
pub enum Announced {
    /// Anything.
    Everything,
    /// These files, which may be gone.
    Files(BTreeSet<PathBuf>),
}

impl Default for Announced {
    fn default() -> Self {
        Self::Files(BTreeSet::new())
    }
}

/// Gathers what is announced until somebody looks.
#[derive(Clone)]
pub struct Gathering {
    /// The folder as it was named, and as the system names it.
    folder: PathBuf,
    absolute: PathBuf,
    announced: Arc<Mutex<Announced>>,
}

impl Gathering {
    /// Nothing of a folder.
    pub fn new(folder: &Path) -> Self {
        let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        Self { folder: folder.to_owned(), absolute, announced: Arc::default() }
    }

    /// Notes what is announced. Returns whether there is something to look at.
    pub fn note(&self, event: notify::Result<Event>) -> bool {
        let files = match event {
            // To read the folder is to open it, which is announced as well.
            // Without this, every reading would be the reason for the next.
            Ok(event) if event.kind.is_access() && event.kind != WRITTEN => return false,
            // With a rename the other name may be unknown, so both come with one
            // event or with one each.
            Ok(event) if !event.need_rescan() && !event.paths.is_empty() => {
                event.paths.iter().map(|path| self.file(path)).collect()
            }
            Ok(_) | Err(_) => None,
        };
        self.add(files);
        true
    }

    /// Notes that anything may have changed.
    pub fn everything(&self) {
        self.add(None);
    }

    /// What has been noted since this was last asked.
    pub fn take(&self) -> Announced {
        std::mem::take(&mut *self.announced.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, files: Option<BTreeSet<PathBuf>>) {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *announced, files) {
            (Announced::Files(all), Some(files)) if all.len() + files.len() <= FEW => all.extend(files),
            _ => *announced = Announced::Everything,
        }
    }

    /// A file of the folder as reading the folder would name it. What is hidden
    /// may be where links lead, and what has no ending may be a folder.
    fn file(&self, path: &Path) -> Option<PathBuf> {
        let within = path.strip_prefix(&self.absolute).ok()?;
        (is_read(within) && !within.iter().any(is_hidden)).then(|| self.folder.join(within))
    }
}

/// A file was written and closed.
const WRITTEN: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));

/// Whether a file is of a kind that is read.
pub fn is_read(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml" || ending == "json")
}

/// Whether an entry is hidden, as editors' temporary files and the versions of
/// ConfigMaps are.
pub fn is_hidden(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, Flag, ModifyKind, RenameMode};

    use super::*;

    fn noted(events: impl IntoIterator<Item = Event>) -> Announced {
        let gathering = Gathering::new(Path::new("/etc/mesh"));
        for event in events {
            gathering.note(Ok(event));
        }
        gathering.take()
    }

    fn event(kind: EventKind, path: &str) -> Event {
        Event::new(kind).add_path(path.into())
    }

    const CREATED: EventKind = EventKind::Create(CreateKind::File);

    #[test]
    fn files_are_named_and_all_else_is_everything() {
        let files = |names: &[&str]| Announced::Files(names.iter().map(PathBuf::from).collect());
        let renamed = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        assert_eq!(noted([]), files(&[]));
        assert_eq!(noted([event(CREATED, "/etc/mesh/a.yaml")]), files(&["/etc/mesh/a.yaml"]));
        assert_eq!(
            noted([event(renamed, "/etc/mesh/x/a.json"), event(WRITTEN, "/etc/mesh/b.yml")]),
            files(&["/etc/mesh/b.yml", "/etc/mesh/x/a.json"])
        );
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Read));
        assert_eq!(noted([event(opened, "/etc/mesh/a.yaml")]), files(&[]));
        for other in ["/etc/mesh/..data", "/etc/mesh/.x/a.yaml", "/etc/mesh/folder", "/etc/other/a.yaml", "/etc/mesh"] {
            assert_eq!(noted([event(CREATED, other)]), Announced::Everything, "{other}");
        }
        let lost = event(EventKind::Other, "/etc/mesh/a.yaml").set_flag(Flag::Rescan);
        assert_eq!(noted([lost]), Announced::Everything, "events were lost");
        assert_eq!(noted([Event::new(EventKind::Any)]), Announced::Everything, "of nothing in particular");
        let many = (0..=FEW).map(|at| event(CREATED, &format!("/etc/mesh/{at}.yaml")));
        assert_eq!(noted(many), Announced::Everything);
    }

    #[test]
    fn a_folder_that_is_named_from_here_names_its_files_so() {
        let gathering = Gathering::new(Path::new("mesh"));
        let path = std::env::current_dir().unwrap().join("mesh/a.yaml");
        assert!(gathering.note(Ok(Event::new(CREATED).add_path(path))));
        assert_eq!(gathering.take(), Announced::Files(["mesh/a.yaml".into()].into()));
        assert_eq!(gathering.take(), Announced::default(), "once");
    }
}
