//! What there is to serve at one moment.
//!
//! A [`Layer`] is an immutable, name-ordered set of resources. Layers share
//! structure: the next one costs what changed, and the difference between two
//! of them is found without visiting what they share. That is why a stream can
//! remember everything it has sent as one handle. [`Views`] is one consistent
//! picture of all layers; whoever computes it publishes it through a `watch`
//! channel, so a slow reader sees the latest and never a queue.

use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::resource::{Framing, Resource, ResourceType};

/// The layers of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Workloads and services.
    Addresses,
    /// L4 authorization policies.
    Authorizations,
}

/// Everything that is served at one moment, each layer consistent with the
/// others.
#[derive(Debug)]
pub struct Views {
    /// Grows with every publication; orders views, and nothing else.
    pub revision: u64,
    /// When it was published, for the convergence metric only.
    pub published: Instant,
    /// Workloads and services.
    pub addresses: Layer,
    /// L4 authorization policies.
    pub authorizations: Layer,
}

impl Views {
    /// The view published now.
    pub fn new(revision: u64, addresses: Layer, authorizations: Layer) -> Self {
        Self { revision, published: Instant::now(), addresses, authorizations }
    }

    /// The layer a type is served from.
    pub fn layer(&self, ty: ResourceType) -> &Layer {
        match ty.layer() {
            LayerKind::Addresses => &self.addresses,
            LayerKind::Authorizations => &self.authorizations,
        }
    }
}

/// A name-ordered set of resources that is cheap to clone, change and compare.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    resources: OrdMap<Arc<str>, Arc<Resource>>,
    /// (relation, key, name), so that one range finds all names of a key.
    index: OrdSet<(Relation, Arc<str>, Arc<str>)>,
    sizes: [Size; ResourceType::ALL.len()],
}

/// What a key says about the resource it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Relation {
    Alias,
    Related,
    Node,
}

/// The encoded size of a layer as one type, known without visiting it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    count: usize,
    delta: usize,
    sotw: usize,
}

/// One difference between two layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference<'a> {
    /// Only the new layer has it.
    Added(&'a Arc<Resource>),
    /// Both have it, with different content or keys.
    Updated {
        /// What the old layer has.
        old: &'a Arc<Resource>,
        /// What the new layer has.
        new: &'a Arc<Resource>,
    },
    /// Only the old layer has it.
    Removed(&'a Arc<Resource>),
}

impl Layer {
    /// Adds or replaces a resource. Returns whether subscribers could notice:
    /// an equal resource only has its origin replaced.
    pub fn upsert(&mut self, resource: Arc<Resource>) -> bool {
        let old = self.resources.get(resource.name()).cloned();
        match &old {
            Some(old) if **old == *resource && old.origin() == resource.origin() => return false,
            Some(old) if **old == *resource => {}
            Some(old) => {
                self.unindex(old);
                self.index(&resource);
            }
            None => self.index(&resource),
        }
        let changed = old.is_none_or(|old| *old != *resource);
        self.resources.insert(resource.name().clone(), resource);
        changed
    }

    /// Removes a resource. Returns whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(old) = self.resources.remove(name) else { return false };
        self.unindex(&old);
        true
    }

    /// The resource of exactly this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)
    }

    /// The number of resources.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there are no resources.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// All resources, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// The resources whose names follow `after`, ordered by name; all of them
    /// if it is `None`.
    pub fn range_after(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Resource>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.resources.range::<_, str>((start, Bound::Unbounded)).map(|(_, resource)| resource)
    }

    /// How many resources subscribers of a type are sent.
    pub fn count(&self, ty: ResourceType) -> usize {
        self.sizes[ty as usize].count
    }

    /// The length of all resources that `ty` carries, encoded in a response.
    pub fn encoded_len(&self, ty: ResourceType, framing: Framing) -> usize {
        match framing {
            Framing::Delta => self.sizes[ty as usize].delta,
            Framing::Sotw => self.sizes[ty as usize].sotw,
            Framing::DeltaWithAliases => {
                let carried = self.iter().filter(|resource| ty.carries(resource));
                carried.map(|resource| resource.encoded_len(ty, framing)).sum()
            }
        }
    }

    /// What changed since `old`, ordered by name. Costs what changed if the
    /// two layers are versions of one another.
    pub fn diff<'a>(&'a self, old: &'a Layer) -> impl Iterator<Item = Difference<'a>> {
        old.resources.diff(&self.resources).map(|item| match item {
            DiffItem::Add(_, new) => Difference::Added(new),
            DiffItem::Update { old: (_, old), new: (_, new) } => Difference::Updated { old, new },
            DiffItem::Remove(_, old) => Difference::Removed(old),
        })
    }

    /// What a subscription to `key` is answered with: the resources of that
    /// name or alias, followed by those that they are of no use without.
    pub fn lookup(&self, key: &str) -> Vec<Arc<Resource>> {
        let mut found: Vec<_> = self.get(key).into_iter().chain(self.indexed(Relation::Alias, key)).cloned().collect();
        for direct in 0..found.len() {
            let name = found[direct].name().clone();
            found.extend(self.indexed(Relation::Related, &name).cloned());
        }
        found
    }

    /// The resources that run on a node.
    pub fn on_node(&self, node: &str) -> impl Iterator<Item = &Arc<Resource>> {
        self.indexed(Relation::Node, node)
    }

    /// Whether both are the same layer, found without looking inside.
    pub fn same_as(&self, other: &Self) -> bool {
        self.resources.ptr_eq(&other.resources)
    }

    fn indexed(&self, relation: Relation, key: &str) -> impl Iterator<Item = &Arc<Resource>> {
        let key: Arc<str> = key.into();
        let start = (relation, key.clone(), Arc::from(""));
        self.index
            .range(start..)
            .take_while(move |(r, k, _)| *r == relation && *k == key)
            .filter_map(|(_, _, name)| self.resources.get(name))
    }

    fn index(&mut self, resource: &Resource) {
        for entry in entries(resource) {
            self.index.insert(entry);
        }
        self.resize(resource, |total, part| *total += part);
    }

    fn unindex(&mut self, resource: &Resource) {
        for entry in entries(resource) {
            self.index.remove(&entry);
        }
        self.resize(resource, |total, part| *total -= part);
    }

    fn resize(&mut self, resource: &Resource, change: impl Fn(&mut usize, usize)) {
        if resource.is_stub() {
            return;
        }
        for ty in ResourceType::ALL.into_iter().filter(|ty| ty.carries(resource)) {
            let size = &mut self.sizes[ty as usize];
            change(&mut size.count, 1);
            change(&mut size.delta, resource.encoded_len(ty, Framing::Delta));
            change(&mut size.sotw, resource.encoded_len(ty, Framing::Sotw));
        }
    }
}

impl FromIterator<Arc<Resource>> for Layer {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut layer = Self::default();
        for resource in resources {
            layer.upsert(resource);
        }
        layer
    }
}

/// The index entries of one resource.
fn entries(resource: &Resource) -> impl Iterator<Item = (Relation, Arc<str>, Arc<str>)> {
    let keys = resource.keys();
    let aliases = keys.aliases.iter().map(|key| (Relation::Alias, key));
    let related = keys.related.iter().map(|key| (Relation::Related, key));
    let node = keys.node.iter().map(|key| (Relation::Node, key));
    let name = resource.name();
    aliases.chain(related).chain(node).map(|(relation, key)| (relation, key.clone(), name.clone()))
}

#[cfg(test)]
mod tests;
