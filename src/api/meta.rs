//! What every object has: its name, labels, and the pieces of `metadata` that
//! carry meaning for a mesh.

use std::fmt;
use std::sync::Arc;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::compact::Uid;
use super::intern::{Interned, interned};
use crate::intern::{Pool, intern};

/// An object's namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ObjectKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl ObjectKey {
    /// The key of an object in a namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: intern(namespace), name: name.into() }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.is_empty() {
            true => f.write_str(&self.name),
            false => write!(f, "{}/{}", self.namespace, self.name),
        }
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The slim form of `ObjectMeta`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The name.
    #[serde(deserialize_with = "nullable")]
    pub name: Arc<str>,
    /// The namespace; empty for cluster-scoped kinds.
    #[serde(deserialize_with = "interned")]
    pub namespace: Arc<str>,
    /// Tells an object from an earlier one of the same name.
    pub uid: Uid,
    /// The labels.
    pub labels: Labels,
    /// The annotations of Istio, and the class of Ingresses; all others are
    /// dropped.
    pub annotations: Annotations,
    /// Seconds since the epoch, up to 2106; decides who was first.
    #[serde(rename = "creationTimestamp", deserialize_with = "seconds")]
    pub created: u32,
    /// Whether the object is being deleted.
    #[serde(rename = "deletionTimestamp", deserialize_with = "present")]
    pub deleting: bool,
    /// Whether the name was generated, as for pods of a controller.
    #[serde(rename = "generateName", deserialize_with = "present")]
    pub generated_name: bool,
    /// The owner that controls the object.
    #[serde(rename = "ownerReferences", deserialize_with = "controller")]
    pub controller: Option<Arc<Owner>>,
    /// The state of the object on the API server.
    pub resource_version: ResourceVersion,
    /// Which of the user's changes this is.
    pub generation: Generation,
}

impl Meta {
    /// The object's key.
    pub fn key(&self) -> ObjectKey {
        ObjectKey { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.0.get(key)
    }
}

/// The controlling owner of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its kind, such as `ReplicaSet`.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// The API server's version of an object. It orders the states of one object
/// and says nothing about its content, so it never makes objects differ.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResourceVersion(pub u64);

impl PartialEq for ResourceVersion {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<'de> Deserialize<'de> for ResourceVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Ok(Self(text.and_then(|text| text.parse().ok()).unwrap_or(0)))
    }
}

/// The end of an object's `metadata.generation`, which counts changes of its
/// spec. That is enough to tell whether what was judged is what the API server
/// has now, and has room between the other fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generation(u16);

impl Generation {
    /// The end of a number.
    pub const fn of(number: i64) -> Self {
        Self(number as u16)
    }

    /// What is kept of the number.
    pub const fn end(self) -> u16 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::of(Option::deserialize(deserializer)?.unwrap_or_default()))
    }
}

/// Labels, sorted by key. They are shared between objects: keys, values and
/// the whole set. There is one for each object, hence the narrow pointer; it
/// is none if there are no labels.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Option<Arc<Vec<(Arc<str>, Arc<str>)>>>);

static LABELS: Pool<Vec<(Arc<str>, Arc<str>)>> = Pool::new();
static OWNERS: Pool<Owner> = Pool::new();

impl Labels {
    /// From pairs in any order; the first of two values for one key counts.
    fn new(mut labels: Vec<(Arc<str>, Arc<str>)>) -> Self {
        labels.sort_by(|a, b| a.0.cmp(&b.0));
        labels.dedup_by(|a, b| a.0 == b.0);
        Self((!labels.is_empty()).then(|| LABELS.shared(&labels, |labels| Arc::new(labels.clone()))))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let pairs = self.pairs();
        let at = pairs.binary_search_by(|(other, _)| (**other).cmp(key)).ok()?;
        Some(&pairs[at].1)
    }

    /// Whether there are no labels.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// All labels, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs().iter().map(|(key, value)| (&**key, &**value))
    }

    /// All labels as they are shared, in the order of their keys.
    pub fn pairs(&self) -> &[(Arc<str>, Arc<str>)] {
        self.0.as_ref().map_or(&[], |pairs| &**pairs)
    }

    /// Whether these labels, taken as a selector, are all among `labels`. An
    /// empty selector selects everything.
    pub fn select(&self, labels: &Labels) -> bool {
        self.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// These labels with those of `other` on top.
    pub fn overlaid(&self, other: &Labels) -> Labels {
        other.iter().chain(self.iter()).collect()
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Labels {
    /// The first of two values for one key counts.
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(labels: I) -> Self {
        Self::new(labels.into_iter().map(|(key, value)| (intern(key), intern(value))).collect())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_option(TextMap { keep: |_| true })
    }
}

/// Annotations whose key is Istio's, and the class of Ingresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(Labels);

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_option(TextMap { keep: |key| key.contains("istio.io/") || key == INGRESS_CLASS })
            .map(Self)
    }
}

/// The class of an Ingress, before it had a field.
/// <https://kubernetes.io/docs/concepts/services-networking/ingress/#deprecated-annotation>
pub const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

struct TextMap {
    keep: fn(&str) -> bool,
}

impl<'de> Visitor<'de> for TextMap {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of texts")
    }

    fn visit_none<E>(self) -> Result<Labels, E> {
        Ok(Labels::default())
    }

    fn visit_unit<E>(self) -> Result<Labels, E> {
        Ok(Labels::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Labels, D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        let mut labels = Vec::new();
        while let Some(Interned(key)) = map.next_key()? {
            if (self.keep)(&key) {
                labels.push((key, map.next_value::<Interned>()?.0));
            } else {
                map.next_value::<serde::de::IgnoredAny>()?;
            }
        }
        Ok(Labels::new(labels))
    }
}

/// For `#[serde(deserialize_with)]`: `null` is the default.
pub(super) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// For `#[serde(deserialize_with)]`: whether the field is there at all.
pub(super) fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<serde::de::IgnoredAny>::deserialize(deserializer)?.is_some())
}

/// For `#[serde(deserialize_with)]`: a time, in seconds since the epoch. It is
/// a number in protobuf and RFC 3339 elsewhere. YAML may have a time that is
/// not quoted, which arrives as text too.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Time;

    impl<'de> Visitor<'de> for Time {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a time")
        }

        fn visit_none<E>(self) -> Result<u32, E> {
            Ok(0)
        }

        fn visit_unit<E>(self) -> Result<u32, E> {
            Ok(0)
        }

        fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
            deserializer.deserialize_str(self)
        }

        fn visit_i64<E>(self, seconds: i64) -> Result<u32, E> {
            Ok(u32::try_from(seconds.max(0)).unwrap_or(u32::MAX))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<u32, E> {
            let time: jiff::Timestamp = text.parse().map_err(E::custom)?;
            self.visit_i64(time.as_second())
        }
    }

    deserializer.deserialize_option(Time)
}

fn controller<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<Owner>>, D::Error> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Reference {
        #[serde(deserialize_with = "nullable")]
        controller: bool,
        #[serde(deserialize_with = "interned")]
        kind: Arc<str>,
        #[serde(deserialize_with = "interned")]
        name: Arc<str>,
    }
    let references: Vec<Reference> = nullable(deserializer)?;
    let controller = references.into_iter().find(|reference| reference.controller);
    let controller = controller.map(|Reference { kind, name, .. }| Owner { kind, name });
    Ok(controller.map(|owner| OWNERS.shared(&owner, |owner| Arc::new(owner.clone()))))
}
