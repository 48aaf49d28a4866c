//! A mesh in a graph, published as the writer does it, without its thread.

use std::sync::Arc;

use fairway::api::{Change, Inputs, Object};
use fairway::graph::Graph;
use fairway::model::{Model, Settings};
use fairway::source::documents::{Document, read};
use fairway::workload::{self, Resources};
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

/// The objects in a text.
pub fn objects(text: &str) -> Vec<Object> {
    let object = |document| match document {
        Document::Object(object) => object,
        other => panic!("the mesh has an object that is not read: {other:?}"),
    };
    read(text).into_iter().map(object).collect()
}
