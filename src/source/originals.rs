//! Objects as they were written, for people who ask. Nothing is kept of those
//! but what is read, so they are looked up where they are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::api::kinds::DecodeError;
use crate::api::{Kind, Object, ObjectKey};

use super::documents;
use super::file::files;
use super::kube::failure::Failure;
use super::kube::requests::{Place, Selection};

/// Where objects are.
#[derive(Clone)]
pub enum Originals {
    /// In the files of a folder.
    Folder(PathBuf),
    /// Behind an API server.
    Cluster {
        /// Its client.
        client: kube::Client,
        /// The namespace of the control plane.
        system_namespace: Arc<str>,
    },
}

/// An object as it was written.
#[derive(Clone, Debug)]
pub struct Original {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name; empty if those cannot be read.
    pub key: ObjectKey,
    /// All of it.
    pub written: Value,
    /// What is read of it, or why nothing can be.
    pub read: Result<Object, DecodeError>,
}

/// Why there are no originals.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The folder or a file in it cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API server does not say.
    #[error(transparent)]
    Server(#[from] Failure),
    /// The reading was given up, as the process ends.
    #[error("given up")]
    GivenUp,
}

impl Originals {
    /// The objects of some kinds, in no particular order. Of two with the same
    /// kind and name there is the one that counts.
    pub async fn of(&self, kinds: &[Kind]) -> Result<Vec<Original>, Unavailable> {
        match self {
            Self::Folder(folder) => {
                let (folder, kinds) = (folder.clone(), kinds.to_vec());
                let read = tokio::task::spawn_blocking(move || in_folder(folder, &kinds));
                read.await.map_err(|_| Unavailable::GivenUp)?
            }
            Self::Cluster { client, system_namespace } => {
                let mut found = Vec::new();
                for &kind in kinds {
                    let selection = Selection::of(kind, system_namespace);
                    // A kind that is not served has no objects.
                    let Some(place) = Place::find(client, &selection).await? else { continue };
                    let written = place.originals(client, &selection).await?;
                    found.extend(written.into_iter().map(|written| listed(kind, written)));
                }
                Ok(found)
            }
        }
    }
}

fn in_folder(folder: PathBuf, kinds: &[Kind]) -> Result<Vec<Original>, Unavailable> {
    let failed = |path: &PathBuf| {
        let path = path.clone();
        |source| Unavailable::File { path, source }
    };
    let (mut found, mut nameless) = (BTreeMap::new(), Vec::new());
    for path in files(&folder).map_err(failed(&folder))? {
        let text = std::fs::read_to_string(&path).map_err(failed(&path))?;
        // In a file the last of two counts, and of two files the first.
        let mut in_file = BTreeMap::new();
        for original in documents::originals(&text, |kind| kinds.contains(&kind)) {
            match original.key.name.is_empty() {
                true => nameless.push(original),
                false => _ = in_file.insert((original.kind, original.key.clone()), original),
            }
        }
        for (key, original) in in_file {
            found.entry(key).or_insert(original);
        }
    }
    Ok(found.into_values().chain(nameless).collect())
}

/// An object of a list, in which those of Kubernetes itself say no kind.
fn listed(kind: Kind, mut written: Value) -> Original {
    if let Some(fields) = written.as_object_mut() {
        fields.entry("apiVersion").or_insert_with(|| kind.info().api_version().into());
        fields.entry("kind").or_insert_with(|| kind.info().kind.into());
    }
    let text = |field: &str| written["metadata"][field].as_str().unwrap_or_default();
    let key = ObjectKey::new(text("namespace"), text("name"));
    Original { kind, key, read: kind.decode_json(&written.to_string()), written }
}
