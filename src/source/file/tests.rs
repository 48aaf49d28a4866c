use std::fs;
use std::os::unix::fs::symlink;

use super::*;

struct World {
    dir: tempfile::TempDir,
    folder: Folder,
    problems: Problems,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let problems = Problems::default();
        let folder = Folder::new(dir.path().to_path_buf(), problems.clone());
        Self { dir, folder, problems }
    }

    fn write(&self, name: &str, text: &str) {
        // Renamed into place, as careful tools do; the inode tells the files
        // apart even when time and length do not.
        let staging = self.dir.path().join(".staging");
        fs::write(&staging, text).unwrap();
        fs::rename(staging, self.dir.path().join(name)).unwrap();
    }

    fn scan(&mut self) -> Vec<String> {
        self.look(Announced::Everything)
    }

    /// Reads what is announced.
    fn hear(&mut self, names: &[&str]) -> Vec<String> {
        let paths = names.iter().map(|name| self.dir.path().join(name)).collect();
        self.look(Announced::Files(paths))
    }

    fn look(&mut self, at: Announced) -> Vec<String> {
        let said = |change| match change {
            Change::Put(object) => format!("put {}", object.meta().name),
            Change::Delete(_, key) => format!("delete {}", key.name),
            Change::Reset(..) => "reset".into(),
            Change::Unreadable(_, key, Some(_)) => format!("unreadable {}", key.name),
            Change::Unreadable(_, key, None) => format!("mended {}", key.name),
        };
        let mut changes = Vec::new();
        self.folder
            .look(at, |part| {
                changes.extend(part);
                true
            })
            .unwrap();
        let mut said: Vec<_> = changes.into_iter().map(said).collect();
        said.sort();
        said
    }

    fn places(&self) -> Vec<String> {
        let prefix = format!("{}/", self.dir.path().display());
        self.problems.list().into_iter().map(|problem| problem.place.replace(&prefix, "")).collect()
    }
}

fn pod(name: &str, sa: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{serviceAccountName: {sa}}}\n---\n")
}

#[test]
fn a_folder_is_said_as_differences() {
    let mut world = World::new();
    world.write("a.yaml", &(pod("a", "x") + &pod("b", "x")));
    world.write("ignored.txt", "nonsense");
    world.write(".hidden.yaml", "nonsense");
    fs::create_dir(world.dir.path().join("sub")).unwrap();
    world.write("sub/c.yml", &pod("c", "x"));
    assert_eq!(world.scan(), ["put a", "put b", "put c"]);
    assert!(world.scan().is_empty());

    world.write("a.yaml", &(pod("a", "y") + &pod("d", "x")));
    assert_eq!(world.scan(), ["delete b", "put a", "put d"]);
    fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    assert_eq!(world.scan(), ["delete a", "delete d"]);
}

#[test]
fn only_files_that_are_announced_are_looked_at() {
    let mut world = World::new();
    world.write("a.yaml", &pod("a", "x"));
    assert_eq!(world.hear(&["b.yaml"]), ["put a"], "the first time, everything is read");
    world.write("a.yaml", &pod("a", "y"));
    world.write("b.yaml", &pod("b", "x"));
    fs::create_dir(world.dir.path().join("d.yaml")).unwrap();
    assert_eq!(world.hear(&["b.yaml", "c.yaml", "d.yaml"]), ["put b"]);
    assert_eq!(world.hear(&["b.yaml"]), [""; 0]);
    assert_eq!(world.hear(&["a.yaml"]), ["put a"]);
    fs::remove_file(world.dir.path().join("b.yaml")).unwrap();
    assert_eq!(world.hear(&["a.yaml"]), [""; 0]);
    assert_eq!(world.hear(&["b.yaml"]), ["delete b"]);
    world.write("b.yaml", &pod("b", "z"));
    assert_eq!(world.scan(), ["put b"], "what was not announced");
    let elsewhere = world.dir.path().with_extension("elsewhere");
    fs::rename(world.dir.path(), &elsewhere).unwrap();
    let file = world.dir.path().join("a.yaml");
    assert!(world.folder.look(Announced::Files([file].into()), |_| true).is_err(), "nothing is gone");
    fs::rename(&elsewhere, world.dir.path()).unwrap();
    assert_eq!(world.scan(), [""; 0]);
}

#[test]
fn a_broken_document_keeps_its_last_good_version() {
    let mut world = World::new();
    world.write("a.yaml", &(pod("a", "x") + &pod("b", "x")));
    world.scan();
    world.write("a.yaml", &(pod("a", "{}") + &pod("b", "changed")));
    assert_eq!(world.scan(), ["put b", "unreadable a"], "the broken one is kept, its neighbour goes on");
    assert_eq!(world.scan(), [""; 0]);
    assert_eq!(world.places(), ["a.yaml:1 (Pod default/a)"]);
    let problem = &world.problems.list()[0];
    assert_eq!(problem.field, "spec.serviceAccountName");

    // Not even a name: any of the earlier objects may be meant.
    world.write("a.yaml", &("{broken\n---\n".to_string() + &pod("b", "again")));
    assert_eq!(world.scan(), ["put b"]);
    world.write("a.yaml", &pod("b", "again"));
    assert_eq!(world.scan(), ["delete a", "mended a"], "mended, and without it");
    assert!(world.places().is_empty());
}

/// From the first reading on, as a cluster says it.
#[test]
fn what_cannot_be_read_is_said_by_its_name() {
    let mut world = World::new();
    world.write("a.yaml", &(pod("a", "{}") + &pod("b", "x")));
    world.write("b.yaml", &pod("c", "{}"));
    assert_eq!(world.scan(), ["put b", "unreadable a", "unreadable c"]);
    world.write("a.yaml", &(pod("a", "{}") + &pod("b", "y")));
    assert_eq!(world.scan(), ["put b"]);
    // It may still be that one.
    world.write("a.yaml", &("{broken\n---\n".to_string() + &pod("b", "z")));
    assert_eq!(world.scan(), ["put b"]);
    world.write("a.yaml", &(pod("a", "x") + &pod("b", "z")));
    assert_eq!(world.scan(), ["mended a", "put a"]);
    fs::remove_file(world.dir.path().join("b.yaml")).unwrap();
    assert_eq!(world.scan(), ["mended c"]);
}

#[test]
fn of_two_files_with_one_object_the_first_counts() {
    let mut world = World::new();
    world.write("a.yaml", &pod("a", "first"));
    world.write("b.yaml", &pod("a", "second"));
    // Said as they are read, and in the end as it counts.
    let mut account = String::new();
    let say = |changes: Vec<Change>| {
        for change in changes {
            let Change::Put(Object::Pod(pod)) = change else { panic!("{change:?}") };
            account = pod.spec.template.service_account_name.to_string();
        }
        true
    };
    world.folder.scan(say).unwrap();
    assert_eq!(account, "first");
    fs::remove_file(world.dir.path().join("a.yaml")).unwrap();
    assert_eq!(world.scan(), ["put a"], "now the other one");
    fs::remove_file(world.dir.path().join("b.yaml")).unwrap();
    assert_eq!(world.scan(), ["delete a"]);
}

#[test]
fn a_mounted_config_map_is_swapped_at_once() {
    let mut world = World::new();
    let path = |name: &str| world.dir.path().join(name);
    for (version, sa) in [("..v1", "x"), ("..v2", "y")] {
        fs::create_dir(path(version)).unwrap();
        fs::write(path(version).join("a.yaml"), pod("a", sa)).unwrap();
    }
    symlink("..v1", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    let (data, staging) = (path("..data"), path("..staging"));
    assert_eq!(world.scan(), ["put a"]);
    symlink("..v2", &staging).unwrap();
    fs::rename(&staging, &data).unwrap();
    assert_eq!(world.scan(), ["put a"]);
    assert!(world.scan().is_empty());
}

#[test]
fn an_unreadable_file_and_a_lost_folder_withdraw_nothing() {
    let mut world = World::new();
    world.write("a.yaml", &pod("a", "x"));
    world.scan();
    let broken = [0xff, 0xfe, 0x00];
    fs::write(world.dir.path().join("a.yaml"), broken).unwrap();
    assert!(world.scan().is_empty());
    assert_eq!(world.places(), ["a.yaml:0"]);
    fs::remove_dir_all(world.dir.path()).unwrap();
    assert!(world.folder.scan(|_| true).is_err());
    fs::create_dir(world.dir.path()).unwrap();
    world.write("a.yaml", &pod("a", "y"));
    assert_eq!(world.scan(), ["put a"]);
}

#[tokio::test]
async fn a_running_source_says_everything_once_and_then_what_changes() {
    let world = World::new();
    world.write("a.yaml", &pod("a", "x"));
    let (sender, mut events) = crate::source::channel();
    let source = tokio::spawn(run(world.dir.path().to_path_buf(), sender, world.problems.clone()));
    let mut wait = async || tokio::time::timeout(Duration::from_secs(20), events.recv()).await.unwrap().unwrap();
    assert!(matches!(wait().await, Event::Changes(changes) if changes.len() == 1));
    assert!(matches!(wait().await, Event::Synced(kinds) if kinds == Kind::ALL));
    world.write("b.yaml", &pod("b", "x"));
    assert!(matches!(wait().await, Event::Changes(changes) if changes.len() == 1));
    drop(events);
    tokio::time::timeout(Duration::from_secs(20), source).await.unwrap().unwrap().unwrap();
}

#[test]
fn many_objects_in_many_files_and_pieces_are_all_said_once() {
    let mut world = World::new();
    // More than a piece in one file, and files around it.
    let large: String = (0..30_000).map(|at| pod(&format!("large-{at}"), "x")).collect();
    assert!(large.len() > 2 << 20);
    world.write("b.yaml", &large);
    for at in 0..20 {
        world.write(&format!("a-{at}.yaml"), &pod(&format!("small-{at}"), "x"));
    }
    let said = world.scan();
    assert_eq!(said.len(), 30_020);
    assert!(said.windows(2).all(|pair| pair[0] != pair[1]));
    world.write("b.yaml", &large.replacen("large-7}", "other}", 1));
    assert_eq!(world.scan(), ["delete large-7", "put other"]);
}

#[test]
fn who_hears_no_more_is_told_no_more() {
    let mut world = World::new();
    for at in 0..50 {
        world.write(&format!("{at}.yaml"), &pod(&format!("{at}"), "x"));
    }
    let mut parts = 0;
    let say = |_| {
        parts += 1;
        false
    };
    world.folder.scan(say).unwrap();
    assert_eq!(parts, 1);
}
