//! Requests to the API server, and the shapes of its answers.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/>

use std::time::Duration;

use http::{Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::api::kinds::decode_meta;
use crate::api::meta::ResourceVersion;
use crate::api::{Kind, Meta};

use super::backoff::jittered;
use super::failure::{Failure, Status};
use super::lines::Lines;

/// The API server ends all requests but watches after a minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many objects a page has.
const PAGE: usize = 500;
/// How long a watch is open at most. Like client-go, we ask for 5 to 10
/// minutes, so that watches spread over API servers that come and go.
const WATCH: Duration = Duration::from_secs(580);

/// Which objects are read.
#[derive(Clone, Debug)]
pub struct Selection {
    /// Their kind.
    pub kind: Kind,
    /// Their namespace, if it is only one.
    pub namespace: Option<Box<str>>,
    /// Their name, if it is only one.
    pub name: Option<Box<str>>,
}

impl Selection {
    /// What is read of a kind, by the table of kinds.
    pub fn of(kind: Kind, system_namespace: &str) -> Self {
        let namespace = kind.info().system_only.then(|| system_namespace.into());
        Self { kind, namespace, name: None }
    }

    /// The path of the objects in a version of their group.
    fn path(&self, version: &str) -> String {
        let info = self.kind.info();
        let root = if info.group.is_empty() { "/api" } else { "/apis/" };
        let namespace = self.namespace.as_ref().map(|namespace| format!("/namespaces/{namespace}"));
        format!("{root}{}/{version}{}/{}", info.group, namespace.unwrap_or_default(), info.plural)
    }
}

/// Where objects are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place(String);

impl Place {
    /// Finds the version of a kind that is served; none means that discovery
    /// says there is none. A kind that is part of Kubernetes is always there.
    pub async fn find(client: &kube::Client, selection: &Selection) -> Result<Option<Self>, Failure> {
        let info = selection.kind.info();
        if info.builtin {
            return Ok(info.versions.first().map(|version| Self(selection.path(version))));
        }
        let Some(group) = discover::<Group>(client, &format!("/apis/{}", info.group)).await? else { return Ok(None) };
        for version in info.versions {
            if !group.versions.iter().any(|served| served.version == *version) {
                continue;
            }
            let resources = discover::<Resources>(client, &format!("/apis/{}/{version}", info.group)).await?;
            if resources.is_some_and(|list| list.resources.iter().any(|resource| resource.name == info.plural)) {
                return Ok(Some(Self(selection.path(version))));
            }
        }
        Ok(None)
    }

    fn uri(&self, selection: &Selection, query: &str) -> String {
        match &selection.name {
            Some(name) => format!("{}?fieldSelector=metadata.name%3D{name}&{query}", self.0),
            None => format!("{}?{query}", self.0),
        }
    }

    /// Opens a watch that begins with all objects.
    pub async fn stream(&self, client: &kube::Client, selection: &Selection) -> Result<Lines, Failure> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds={}",
            jittered(WATCH).as_secs()
        );
        Ok(Lines::new(send(client, self.uri(selection, &query), 0).await?))
    }

    /// Opens a watch that continues from a version.
    pub async fn watch(&self, client: &kube::Client, selection: &Selection, version: u64) -> Result<Lines, Failure> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={}",
            jittered(WATCH).as_secs()
        );
        Ok(Lines::new(send(client, self.uri(selection, &query), version).await?))
    }

    /// Gets a page of a list, as text.
    pub async fn page(&self, client: &kube::Client, selection: &Selection, token: &str) -> Result<String, Failure> {
        let mut query = format!("limit={PAGE}");
        if !token.is_empty() {
            // Tokens are base64 for URLs, without characters to escape.
            query = format!("{query}&continue={token}");
        }
        get(client, self.uri(selection, &query)).await
    }

    /// The newest version of the objects, at the price of one object.
    pub async fn newest(&self, client: &kube::Client, selection: &Selection) -> Result<u64, Failure> {
        let text = get(client, self.uri(selection, "limit=1")).await?;
        Ok(Page::read(&text)?.metadata.version())
    }
}

/// Sends a request, and waits for the beginning of the answer.
async fn send(client: &kube::Client, uri: String, version: u64) -> Result<Body, Failure> {
    // A watch that is compressed holds events back until a block is full.
    let request = Request::get(uri).header(header::ACCEPT_ENCODING, "identity").body(Body::empty());
    let request = request.map_err(|error| Failure::Garbled(error.to_string()))?;
    let sent = timeout(PATIENCE, client.send(request)).await;
    let answer = sent.map_err(|_| Failure::Silent(PATIENCE))?.map_err(Failure::unreachable)?;
    let (parts, body) = answer.into_parts();
    if parts.status.is_success() {
        return Ok(body);
    }
    let mut failure = Status::read(parts.status.as_u16(), &text(body).await?).failure(version);
    let asked = parts.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    if let (Failure::Refused { retry_after, .. }, Some(seconds)) = (&mut failure, asked) {
        *retry_after = Some(Duration::from_secs(seconds));
    }
    Err(failure)
}

async fn get(client: &kube::Client, uri: String) -> Result<String, Failure> {
    text(send(client, uri, 0).await?).await
}

async fn text(body: Body) -> Result<String, Failure> {
    let collected = timeout(PATIENCE, body.collect()).await.map_err(|_| Failure::Silent(PATIENCE))?;
    let bytes = collected.map_err(Failure::unreachable)?.to_bytes();
    String::from_utf8(bytes.into()).map_err(|error| Failure::Garbled(error.to_string()))
}

/// Reads a discovery document; none means that it is not there.
async fn discover<T: serde::de::DeserializeOwned>(client: &kube::Client, path: &str) -> Result<Option<T>, Failure> {
    match get(client, path.to_owned()).await {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(garbled),
        Err(Failure::Refused { code: 404, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn garbled(error: serde_json::Error) -> Failure {
    Failure::Garbled(error.to_string())
}

#[derive(Deserialize)]
struct Group {
    versions: Vec<GroupVersion>,
}

#[derive(Deserialize)]
struct GroupVersion {
    version: String,
}

#[derive(Deserialize)]
struct Resources {
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

/// A page of a list.
#[derive(Deserialize)]
pub struct Page<'a> {
    /// About the list as a whole.
    pub metadata: ListMeta<'a>,
    /// The objects, not decoded yet.
    #[serde(borrow, default)]
    pub items: Option<Vec<&'a RawValue>>,
}

impl<'a> Page<'a> {
    /// Reads a page.
    pub fn read(text: &'a str) -> Result<Self, Failure> {
        serde_json::from_str(text).map_err(garbled)
    }
}

/// The metadata of a list.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListMeta<'a> {
    resource_version: Option<&'a str>,
    /// Where the next page begins; empty on the last.
    #[serde(rename = "continue")]
    pub token: Option<&'a str>,
}

impl ListMeta<'_> {
    /// The version of the whole list.
    pub fn version(&self) -> u64 {
        self.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0)
    }
}

/// What matters of a bookmark. Its annotation is Kubernetes' own, which
/// [`Meta`] drops.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct BookmarkMeta {
    resource_version: ResourceVersion,
    annotations: BookmarkAnnotations,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BookmarkAnnotations {
    #[serde(rename = "k8s.io/initial-events-end")]
    initial_end: Option<serde::de::IgnoredAny>,
}

/// A line of a watch.
#[derive(Debug)]
pub enum Frame<'a> {
    /// An object was created or changed, or was there from the beginning.
    Put(&'a str),
    /// An object was deleted; this is its metadata.
    Delete(Meta),
    /// Everything up to a version has been said.
    Bookmark {
        /// The version.
        version: u64,
        /// Whether this ends the objects that were there from the beginning.
        initial_end: bool,
    },
    /// Something we need not know of.
    Other,
}

/// The object in a line that says that one was created or changed, as the API
/// server writes it. Only who decodes the object to its last byte knows that
/// the line is in order; else it is for [`Frame::read`], which costs a second
/// pass over the object.
pub fn usual_put(line: &str) -> Option<&str> {
    let object = line
        .strip_prefix(r#"{"type":"ADDED","object":"#)
        .or_else(|| line.strip_prefix(r#"{"type":"MODIFIED","object":"#))?;
    object.strip_suffix('}')
}

impl<'a> Frame<'a> {
    /// Reads a line of a watch that began at a version. An error that the API
    /// server reports inside the watch is a failure.
    pub fn read(line: &'a str, version: u64) -> Result<Self, Failure> {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(rename = "type")]
            kind: &'a str,
            #[serde(borrow)]
            object: &'a RawValue,
        }
        let raw: Raw<'a> = serde_json::from_str(line).map_err(garbled)?;
        let json = raw.object.get();
        match raw.kind {
            "ADDED" | "MODIFIED" => Ok(Self::Put(json)),
            "DELETED" => decode_meta(json)
                .map(Self::Delete)
                .ok_or_else(|| Failure::Garbled("the metadata of a deleted object is broken".into())),
            "BOOKMARK" => {
                let meta: BookmarkMeta = decode_meta(json).unwrap_or_default();
                Ok(Self::Bookmark {
                    version: meta.resource_version.0,
                    initial_end: meta.annotations.initial_end.is_some(),
                })
            }
            "ERROR" => Err(serde_json::from_str::<Status>(json).map_err(garbled)?.failure(version)),
            _ => Ok(Self::Other),
        }
    }
}
