//! Golden files: objects in, resources out. A file holds the objects, then
//! `# Output`, then what is sent for them and what is said about them.
//! `UPDATE_GOLDEN=1 cargo test` rewrites the second part.
//!
//! Each file is replayed in several orders; all must end alike.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value as Json;

use super::*;
use crate::admin::render;
use crate::api::{Change, Inputs, Kind, Object, ObjectKey};
use crate::model::Settings;
use crate::source::documents::{Document, read};

/// A graph with everything that ztunnel is told.
pub(crate) struct World {
    pub(crate) graph: Graph,
    pub(crate) inputs: Inputs,
    pub(crate) resources: Resources,
    layers: [Layer; 2],
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        let mut graph = Graph::new();
        let inputs = Inputs::new(&mut graph);
        let model = Model::new(&mut graph, inputs, Arc::new(settings));
        let resources = resources(&mut graph, &model);
        Self { graph, inputs, resources, layers: Default::default() }
    }

    pub(crate) fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.inputs.apply(&mut self.graph, change);
        }
        self.graph.commit();
        let tables = [&self.resources.addresses, &self.resources.authorizations];
        for (layer, tables) in self.layers.iter_mut().zip(tables) {
            if let Some(newer) = tables.update(&self.graph) {
                *layer = newer;
            }
        }
    }

    /// Everything that is sent, by type and name.
    pub(crate) fn sent(&self) -> BTreeMap<(ResourceType, String), Resource> {
        let types = [ResourceType::Address, ResourceType::Authorization].into_iter().zip(&self.layers);
        let all = types.flat_map(|(ty, layer)| layer.iter().map(move |one| ((ty, one.name().to_owned()), one)));
        all.collect()
    }

    /// What is sent and said, for people.
    fn text(&self) -> String {
        let mut text = String::new();
        for ((ty, name), resource) in self.sent() {
            if let Ok(message) = fairway_proto::workload::Address::decode(resource.message(ty))
                && let Some(proto::address::Type::Workload(workload)) = message.r#type
            {
                assert_eq!(name, workload.uid, "a workload is kept under its uid");
            }
            text += &format!("{} {name}:\n", ty.label());
            yaml_lines(&mut text, 1, &render::resource(ty, &resource));
        }
        for diagnostic in self.graph.diagnostics() {
            text += &format!("{:?}: {diagnostic}\n", diagnostic.severity);
        }
        text
    }
}

/// YAML enough to read and to compare.
fn yaml_lines(text: &mut String, depth: usize, json: &Json) {
    let indent = "  ".repeat(depth);
    let Json::Object(fields) = json else { return };
    for (key, value) in fields {
        match value {
            Json::Object(inner) if inner.is_empty() => *text += &format!("{indent}{key}: {{}}\n"),
            Json::Object(_) => {
                *text += &format!("{indent}{key}:\n");
                yaml_lines(text, depth + 1, value);
            }
            Json::Array(items) if items.iter().any(Json::is_object) => {
                *text += &format!("{indent}{key}:\n");
                for item in items {
                    *text += &format!("{indent}- {item}\n");
                }
            }
            scalar => *text += &format!("{indent}{key}: {scalar}\n"),
        }
    }
}

fn objects(text: &str) -> Vec<Object> {
    let each = |document| match document {
        Document::Object(object) => object,
        other => panic!("golden files hold objects that are read: {other:?}"),
    };
    read(text).into_iter().map(each).collect()
}

fn key(object: &Object) -> (Kind, ObjectKey) {
    (object.kind(), object.meta().key())
}

fn settings(text: &str) -> Settings {
    let mut settings = Settings::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("# Settings: ")) {
        match line {
            "dry-run policies" => settings.dry_run_policies = true,
            "revision canary" => settings.revision = "canary".into(),
            "domain example.org" => settings.domain = "example.org".into(),
            other => panic!("unknown setting {other}"),
        }
    }
    settings
}

#[test]
fn golden_files() {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/workload/golden"));
    let files = std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    files.sort();
    assert!(files.len() > 20, "golden files are found");
    let wrong: Vec<_> = files.iter().filter_map(|path| check(path).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn check(path: &PathBuf) -> Result<(), String> {
    let text = std::fs::read_to_string(path).expect("readable");
    let (input, expected) = text.split_once("# Output\n").unwrap_or((&text, ""));
    let settings = settings(input);
    let objects = objects(input);

    let mut world = World::new(settings.clone());
    world.apply(objects.iter().cloned().map(Change::Put));
    let output = world.text();
    let origin = |place: &str, world: &World| match world.text() == output {
        true => Ok(()),
        false => Err(format!("{}: {place} ends differently:\n{}", path.display(), difference(&output, &world.text()))),
    };

    let mut reversed = World::new(settings.clone());
    reversed.apply(objects.iter().rev().cloned().map(Change::Put));
    origin("reversed", &reversed)?;

    let mut one_by_one = World::new(settings.clone());
    objects.iter().for_each(|object| one_by_one.apply([Change::Put(object.clone())]));
    origin("one by one", &one_by_one)?;

    let mut backwards = World::new(settings.clone());
    objects.iter().rev().for_each(|object| backwards.apply([Change::Put(object.clone())]));
    origin("one by one, reversed", &backwards)?;

    // Each object goes and comes back while the others stay.
    for object in &objects {
        let (kind, name) = key(object);
        world.apply([Change::Delete(kind, name)]);
        world.apply([Change::Put(object.clone())]);
    }
    origin("each deleted and added again", &world)?;
    objects.iter().for_each(|object| {
        let (kind, name) = key(object);
        world.apply([Change::Delete(kind, name)]);
    });
    if !world.sent().is_empty() {
        return Err(format!("{}: something is left when every object is gone", path.display()));
    }
    let mut kinds: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
    objects.iter().for_each(|object| kinds.entry(object.kind()).or_default().push(object.clone()));
    world.apply(kinds.into_iter().map(|(kind, objects)| Change::Reset(kind, objects)));
    origin("listed again", &world)?;

    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, format!("{input}# Output\n{output}")).expect("writable");
    } else if output != expected {
        return Err(format!("{}:\n{}", path.display(), difference(expected, &output)));
    }
    Ok(())
}

/// The lines that differ, as a person would look for them.
fn difference(expected: &str, output: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (expected.lines().collect(), output.lines().collect());
    let gone = old.iter().filter(|line| !new.contains(line)).map(|line| format!("- {line}"));
    let came = new.iter().filter(|line| !old.contains(line)).map(|line| format!("+ {line}"));
    gone.chain(came).collect::<Vec<_>>().join("\n")
}
