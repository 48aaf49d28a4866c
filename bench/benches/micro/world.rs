//! Meshes in a graph, published as the writer does it, without its thread.

use std::sync::Arc;

use fairway::api::{Change, Inputs, Object};
use fairway::graph::Graph;
use fairway::model::{Model, Settings};
use fairway::proxy::Scope;
use fairway::source::documents::{Document, read};
use fairway::translation::Translation;
use fairway::workload::{self, Resources};
use fairway::xds::resource::ResourceType;
use fairway::xds::view::{Layer, Views};
use fairway_bench::mesh::{Kind, Mesh, PodState, Size, mark};

/// Everything that ztunnels are told of a mesh.
pub struct World {
    /// What there is.
    pub mesh: Mesh,
    graph: Graph,
    inputs: Inputs,
    resources: Resources,
    /// What was published last.
    pub views: Arc<Views>,
}

impl World {
    /// A mesh that has just been read.
    pub fn new(pods: usize, services: usize) -> Self {
        let mesh = Mesh::new(Size { pods, services, namespaces: 50, compact: true });
        let mut graph = Graph::new();
        let inputs = Inputs::new(&mut graph);
        let model = Model::new(&mut graph, inputs, Arc::new(Settings::default()));
        let resources = workload::resources(&mut graph, &model);
        let views = Arc::new(Views::new(0, Layer::default(), Layer::default()));
        let mut world = Self { mesh, graph, inputs, resources, views };
        for kind in Kind::ALL {
            for at in 0..kind.count(world.mesh.size) {
                for object in objects(&world.mesh.object(kind, at)) {
                    world.inputs.apply(&mut world.graph, Change::Put(object));
                }
            }
        }
        world.publish();
        assert_eq!(world.views.addresses.len(), world.mesh.size.addresses());
        world
    }

    /// A pod with another version.
    pub fn revised(&mut self, pod: usize, change: usize) -> Object {
        self.mesh.changed.insert(pod, PodState { revision: mark(change), ..PodState::default() });
        let mut objects = objects(&self.mesh.object(Kind::Pod, pod));
        objects.pop().expect("a pod is one object")
    }

    /// Applies objects, commits and publishes.
    pub fn commit(&mut self, objects: impl IntoIterator<Item = Object>) {
        for object in objects {
            self.inputs.apply(&mut self.graph, Change::Put(object));
        }
        self.publish();
    }

    fn publish(&mut self) {
        assert!(self.graph.commit(), "something has changed");
        let addresses = self.resources.addresses.update(&self.graph);
        let authorizations = self.resources.authorizations.update(&self.graph);
        let addresses = addresses.unwrap_or_else(|| self.views.addresses.clone());
        let authorizations = authorizations.unwrap_or_else(|| self.views.authorizations.clone());
        self.views = Arc::new(Views::new(self.graph.revision(), addresses, authorizations));
        self.graph.settle();
    }
}

/// What Envoys are told, published as for them, without their streams.
pub struct Envoys {
    translation: Translation,
    views: Arc<Views>,
}

impl Envoys {
    /// A mesh that has just been read, with a proxy of each scope.
    pub fn new(scopes: impl IntoIterator<Item = Scope>, texts: impl IntoIterator<Item = String>) -> Self {
        let mut translation = Translation::new(Arc::new(Settings::default()));
        translation.want(scopes);
        for text in texts {
            objects(&text).into_iter().for_each(|object| translation.apply(Change::Put(object)));
        }
        translation.commit();
        let views = translation.published().expect("there is something to tell");
        Self { translation, views }
    }

    /// Applies changes, commits, and finds what has changed of one resource, as
    /// the first stream does that needs it.
    pub fn commit(&mut self, changes: impl IntoIterator<Item = Change>, ty: ResourceType, scope: &Scope) {
        changes.into_iter().for_each(|change| self.translation.apply(change));
        self.translation.commit();
        let new = self.translation.published().expect("something has changed");
        self.translation.graph.settle();
        let old = self.views.layer(ty, Some(scope));
        let step = new.step(ty, Some(scope), old).expect("both were published");
        assert_eq!(step.upserts.len(), 1);
        std::hint::black_box(step.frames(32 << 10));
        self.views = new;
    }
}

/// The objects in a text.
pub fn objects(text: &str) -> Vec<Object> {
    let object = |document| match document {
        Document::Object(object) => object,
        other => panic!("the mesh has an object that is not read: {other:?}"),
    };
    read(text).into_iter().map(object).collect()
}
