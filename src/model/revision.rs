//! Which revision of the control plane takes care of what. The label `istio.io/rev`
//! names a revision, or a tag that stands for one: a Service `istio.io/tag` in the
//! namespace of the control plane, which says for which with its own `istio.io/rev`.
//! <https://istio.io/latest/docs/setup/upgrade/canary/#stable-revision-labels>
//!
//! A name means one revision at any time, also where a tag is called like another
//! revision, so two revisions do not take themselves for the owner of one object.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api::{Inputs, Meta, ObjectKey, intern};
use crate::graph::{Collection, Ctx, Graph};

use super::Settings;

/// The label that names a revision.
pub const REVISION: &str = "istio.io/rev";
/// The label that makes a Service a tag.
pub const TAG: &str = "istio.io/tag";
/// What the revision without a name is called. It takes care of what has no label.
pub const DEFAULT: &str = "default";

/// A tag, as one Service says it.
#[derive(Clone, Debug, PartialEq)]
struct Tag {
    name: Arc<str>,
    revision: Arc<str>,
    /// Of two that say the same, the older counts.
    created: u32,
}

/// The tags there are, with the revisions that they stand for.
#[derive(Clone, Copy)]
pub struct Tags(Collection<Arc<str>, Arc<str>>);

impl Tags {
    /// Finds them among Services.
    pub fn new(graph: &mut Graph, inputs: Inputs, settings: &Settings) -> Self {
        let namespace = settings.system_namespace.clone();
        let said = graph.derive("revision_tag_services", inputs.services, move |_, key: &ObjectKey, service| {
            let meta = (key.namespace == namespace).then_some(&service.meta)?;
            let named = |label| meta.label(label).filter(|name| !name.is_empty()).map(intern);
            let tag = Tag { name: named(TAG)?, revision: named(REVISION)?, created: meta.created };
            Some((key.clone(), tag))
        });
        let by_name = graph.index(said, |_: &ObjectKey, tag: &Tag, keys| keys.push(tag.name.clone()));
        Self(graph.group("revision_tags", by_name, move |cx, name| {
            let said = cx.fetch(by_name, name);
            said.min_by_key(|(key, tag)| (tag.created, *key)).map(|(_, tag)| tag.revision.clone())
        }))
    }

    /// Whether a name means this revision.
    pub(super) fn mean(self, cx: &Ctx<'_>, name: &str, own: &str) -> bool {
        is_meant(name, cx.get(self.0, &intern(name)), own_name(own))
    }
}

/// Whether a name means a revision, as a tag that stands for it, or as its own.
fn is_meant(name: &str, tag: Option<&Arc<str>>, revision: &str) -> bool {
    tag.map_or(name, |stands_for| stands_for) == revision
}

/// What a revision is called that may be empty.
fn own_name(revision: &str) -> &str {
    if revision.is_empty() { DEFAULT } else { revision }
}

/// What decides which revision takes care of an object, for those who write to
/// the API server.
#[derive(Clone, Debug, PartialEq)]
pub struct Revisions {
    own: Arc<str>,
    /// What tags stand for.
    tags: BTreeMap<Arc<str>, Arc<str>>,
    /// What namespaces are labelled with.
    namespaces: BTreeMap<Arc<str>, Arc<str>>,
}

impl Default for Revisions {
    fn default() -> Self {
        Self::new(DEFAULT)
    }
}

impl Revisions {
    /// Without tags.
    pub fn new(own: &str) -> Self {
        Self { own: own_name(own).into(), tags: BTreeMap::new(), namespaces: BTreeMap::new() }
    }

    /// The same with one tag more.
    #[cfg(test)]
    pub fn tagged(&self, tag: &str, revision: &str) -> Self {
        let mut known = self.clone();
        known.tags.insert(tag.into(), revision.into());
        known
    }

    /// Whether the last commit may have changed them.
    pub fn changed(graph: &Graph, inputs: Inputs, tags: Tags) -> bool {
        !graph.changes(tags.0).is_empty() || !graph.changes(inputs.namespaces).is_empty()
    }

    /// The same revision with what is known now.
    pub fn with(&self, graph: &Graph, inputs: Inputs, tags: Tags) -> Self {
        let label = |meta: &Meta| meta.label(REVISION).filter(|name| !name.is_empty()).map(intern);
        let namespaces = graph.rows(inputs.namespaces);
        Self {
            own: self.own.clone(),
            tags: graph.rows(tags.0).map(|(name, revision)| (name.clone(), (**revision).clone())).collect(),
            namespaces: namespaces
                .filter_map(|(key, namespace)| Some((key.name.clone(), label(&namespace.meta)?)))
                .collect(),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.own
    }

    /// Whether it takes care of what has no label.
    pub fn is_default(&self) -> bool {
        self.mean(DEFAULT)
    }

    /// Whether a name means this revision.
    pub fn mean(&self, name: &str) -> bool {
        is_meant(name, self.tags.get(name), &self.own)
    }

    /// Whether an object is this revision's to speak about, and to act for: by its
    /// own label, that of its namespace, or as the default revision. Unlike that,
    /// what has no label is read by all revisions.
    pub fn own(&self, label: Option<&str>, namespace: &str) -> bool {
        let of_namespace = || self.namespaces.get(namespace).map(|name| &**name);
        self.mean(own_name(label.or_else(of_namespace).unwrap_or_default()))
    }
}
