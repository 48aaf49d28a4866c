//! Requests to the API server, and the shapes of its answers.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/>

use std::time::Duration;

use http::{Request, header};
use http_body_util::BodyExt;
use kube::client::Body;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::api::kinds::{self, DecodeError};
use crate::api::meta::ResourceVersion;
use crate::api::protobuf::{self, Message};
use crate::api::{Kind, Meta, Object};
use crate::wire::{Fields, Value};

use super::backoff::jittered;
use super::failure::{Failure, Status};
use super::frames::{Frames, Framing, ListPart};

/// The API server ends all requests but watches after a minute.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many objects are asked for at a time in JSON, where an answer is read
/// when it is complete.
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
    /// Whether nothing is read of them but their metadata.
    pub metadata_only: bool,
}

/// Types of Secrets that are never read: there are many, they are large, and
/// nothing refers to them. Istio leaves out the same.
pub const NOT_READ: [&str; 2] = ["helm.sh/release.v1", "kubernetes.io/service-account-token"];

impl Selection {
    /// What is read of a kind, by the table of kinds.
    pub fn of(kind: Kind, system_namespace: &str) -> Self {
        let namespace = kind.info().system_only.then(|| system_namespace.into());
        Self { kind, namespace, name: None, metadata_only: false }
    }

    /// The metadata of all objects of a kind.
    pub fn metadata_of(kind: Kind) -> Self {
        Self { kind, namespace: None, name: None, metadata_only: true }
    }

    /// One object.
    pub fn named(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: Some(name.into()), metadata_only: false }
    }

    /// What restricts them besides, as a query.
    fn restriction(&self) -> String {
        match (&self.name, self.kind) {
            (Some(name), _) => format!("fieldSelector=metadata.name%3D{name}&"),
            (None, Kind::Secret) => {
                let types = NOT_READ.map(|kind| format!("type%21%3D{}", kind.replace('/', "%2F")));
                format!("fieldSelector={}&", types.join("%2C"))
            }
            (None, _) => String::new(),
        }
    }

    /// Whether the API server has the objects in protobuf, too.
    fn in_protobuf(&self) -> bool {
        Message::of(self.kind).is_some()
    }

    /// What answers may be in that are objects, or a list of them.
    fn accept(&self, list: bool) -> &'static str {
        match (self.in_protobuf(), self.metadata_only, list) {
            (false, ..) => self.accept_json(),
            (true, false, _) => "application/vnd.kubernetes.protobuf, application/json",
            (true, true, false) => concat!(
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, ",
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
            ),
            (true, true, true) => concat!(
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, ",
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            ),
        }
    }

    /// The same for a list, where it has to be text.
    fn accept_json(&self) -> &'static str {
        match self.metadata_only {
            true => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            false => JSON,
        }
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
        format!("{}?{}{query}", self.0, selection.restriction())
    }

    /// The only object of a selection, which has a name, of a kind that is part
    /// of Kubernetes; none if it is not there.
    pub async fn object(client: &kube::Client, selection: &Selection) -> Result<Option<Object>, Failure> {
        let (info, name) = (selection.kind.info(), selection.name.as_deref().unwrap_or_default());
        let Some(version) = info.versions.first().filter(|_| !name.is_empty()) else { return Ok(None) };
        let uri = format!("{}/{name}", selection.path(version));
        let (encoding, body) = match send(client, uri, selection.accept(false), 0).await {
            Ok(answer) => answer,
            Err(Failure::Refused { code: 404, .. }) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let body = collect(body).await?;
        let encoded = match encoding {
            Encoding::Json => Encoded::Json(std::str::from_utf8(&body).map_err(garbled)?),
            Encoding::Protobuf => Encoded::Protobuf(protobuf::unwrap(&body).map_err(garbled)?),
        };
        encoded.decode(selection.kind).map(Some).map_err(garbled)
    }

    /// Opens a watch that continues from a version.
    pub async fn watch(&self, client: &kube::Client, selection: &Selection, version: u64) -> Result<Watch, Failure> {
        let query = format!(
            "watch=true&allowWatchBookmarks=true&resourceVersion={version}&timeoutSeconds={}",
            jittered(WATCH).as_secs()
        );
        let (encoding, body) = send(client, self.uri(selection, &query), selection.accept(false), version).await?;
        let framing = match encoding {
            Encoding::Json => Framing::Lines,
            Encoding::Protobuf => Framing::Lengths,
        };
        Ok(Watch { encoding, frames: Frames::new(body, framing) })
    }

    /// Lists the newest objects, or continues a list with its token. What can
    /// be read while it arrives comes in one piece: an API server has it in
    /// memory, and encodes it as it sends it.
    pub async fn list(&self, client: &kube::Client, selection: &Selection, token: &str) -> Result<List, Failure> {
        let mut query = if selection.in_protobuf() { String::new() } else { format!("limit={PAGE}") };
        if !token.is_empty() {
            // Tokens are base64 for URLs, without characters to escape.
            query = format!("{query}&continue={token}");
        }
        let uri = self.uri(selection, query.trim_start_matches('&'));
        let (encoding, body) = send(client, uri, selection.accept(true), 0).await?;
        match encoding {
            Encoding::Json => Ok(List::Json(text(body).await?)),
            Encoding::Protobuf => Ok(List::Protobuf(Frames::new(body, Framing::List(ListPart::Head)))),
        }
    }

    /// All objects as they are written, in JSON whatever their kind.
    pub async fn originals(&self, client: &kube::Client, selection: &Selection) -> Result<Vec<Json>, Failure> {
        #[derive(Deserialize)]
        struct Written {
            metadata: ListMeta,
            #[serde(default)]
            items: Option<Vec<Json>>,
        }
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let query = format!("limit={PAGE}&continue={token}");
            let uri = self.uri(selection, query.trim_end_matches("&continue="));
            let text = text(send(client, uri, JSON, 0).await?.1).await?;
            let page: Written = serde_json::from_str(&text).map_err(garbled)?;
            found.extend(page.items.unwrap_or_default());
            match page.metadata.token.filter(|token| !token.is_empty()) {
                Some(next) => token = next,
                None => return Ok(found),
            }
        }
    }

    /// The newest version of the objects, at the price of one object.
    pub async fn newest(&self, client: &kube::Client, selection: &Selection) -> Result<u64, Failure> {
        let uri = self.uri(selection, "limit=1");
        let text = text(send(client, uri, selection.accept_json(), 0).await?.1).await?;
        Ok(Page::read(&text)?.metadata.resource_version.0)
    }
}

const JSON: &str = "application/json";

/// How the API server has encoded an answer.
#[derive(Clone, Copy, Debug)]
enum Encoding {
    Json,
    Protobuf,
}

/// Sends a request, and waits for the beginning of the answer.
async fn send(
    client: &kube::Client,
    uri: String,
    accept: &'static str,
    version: u64,
) -> Result<(Encoding, Body), Failure> {
    // A watch that is compressed holds events back until a block is full.
    let request = Request::get(uri).header(header::ACCEPT_ENCODING, "identity").header(header::ACCEPT, accept);
    let request = request.body(Body::empty()).map_err(|error| Failure::Garbled(error.to_string()))?;
    let sent = timeout(PATIENCE, client.send(request)).await;
    let answer = sent.map_err(|_| Failure::Silent(PATIENCE))?.map_err(Failure::unreachable)?;
    let (parts, body) = answer.into_parts();
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let protobuf = |kind: &str| kind.starts_with("application/vnd.kubernetes.protobuf");
    let encoding = match header(header::CONTENT_TYPE).is_some_and(protobuf) {
        true => Encoding::Protobuf,
        false => Encoding::Json,
    };
    if parts.status.is_success() {
        return Ok((encoding, body));
    }
    let mut failure = read_status(encoding, parts.status.as_u16(), &collect(body).await?).failure(version);
    let asked = header(header::RETRY_AFTER).and_then(|value| value.parse().ok());
    if let (Failure::Refused { retry_after, .. }, Some(seconds)) = (&mut failure, asked) {
        *retry_after = Some(Duration::from_secs(seconds));
    }
    Err(failure)
}

/// Reads why a request was refused.
fn read_status(encoding: Encoding, code: u16, body: &[u8]) -> Status {
    match encoding {
        Encoding::Json => Status::read(code, &String::from_utf8_lossy(body)),
        Encoding::Protobuf => {
            let status = protobuf::unwrap(body).and_then(protobuf::status);
            status.unwrap_or_else(|error| Status::read(code, &error.to_string()))
        }
    }
}

async fn get(client: &kube::Client, uri: String) -> Result<String, Failure> {
    text(send(client, uri, JSON, 0).await?.1).await
}

async fn text(body: Body) -> Result<String, Failure> {
    String::from_utf8(collect(body).await?).map_err(|error| Failure::Garbled(error.to_string()))
}

async fn collect(body: Body) -> Result<Vec<u8>, Failure> {
    let collected = timeout(PATIENCE, body.collect()).await.map_err(|_| Failure::Silent(PATIENCE))?;
    Ok(collected.map_err(Failure::unreachable)?.to_bytes().into())
}

/// Reads a discovery document; none means that it is not there.
async fn discover<T: serde::de::DeserializeOwned>(client: &kube::Client, path: &str) -> Result<Option<T>, Failure> {
    match get(client, path.to_owned()).await {
        Ok(text) => serde_json::from_str(&text).map(Some).map_err(garbled),
        Err(Failure::Refused { code: 404, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn garbled(error: impl std::fmt::Display) -> Failure {
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

/// An object as it came.
#[derive(Clone, Copy, Debug)]
pub enum Encoded<'a> {
    /// In JSON.
    Json(&'a str),
    /// In protobuf, without its envelope.
    Protobuf(&'a [u8]),
}

impl Encoded<'_> {
    /// Decodes an object of a kind.
    pub fn decode(self, kind: Kind) -> Result<Object, DecodeError> {
        match self {
            Self::Json(text) => kind.decode_json(text),
            Self::Protobuf(bytes) => kind.decode_protobuf(bytes),
        }
    }

    /// The least that can be read of an object that does not decode.
    pub fn meta<T: serde::de::DeserializeOwned>(self) -> Option<T> {
        match self {
            Self::Json(text) => kinds::decode_meta(text),
            Self::Protobuf(bytes) => protobuf::decode_meta(bytes),
        }
    }
}

/// A list, or a part of one.
pub enum List {
    /// A [`Page`].
    Json(String),
    /// [`Item`]s.
    Protobuf(Frames),
}

/// A page of a list in JSON.
#[derive(Deserialize)]
pub struct Page<'a> {
    /// About the list as a whole.
    pub metadata: ListMeta,
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
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The version of the whole list.
    pub resource_version: ResourceVersion,
    /// Where the next page begins; none on the last.
    #[serde(rename = "continue")]
    pub token: Option<String>,
}

/// A field of a list in protobuf.
#[derive(Debug)]
pub enum Item<'a> {
    /// About the list as a whole.
    Meta(ListMeta),
    /// One of the objects.
    Object(Encoded<'a>),
    /// Something we need not know of.
    Other,
}

impl<'a> Item<'a> {
    /// Reads a field.
    pub fn read(field: &'a [u8]) -> Result<Self, Failure> {
        match Fields::new(field).next().transpose().map_err(garbled)? {
            Some((1, Value::Bytes(meta))) => Ok(Self::Meta(protobuf::list_meta(meta).map_err(garbled)?)),
            Some((2, Value::Bytes(object))) => Ok(Self::Object(Encoded::Protobuf(object))),
            _ => Ok(Self::Other),
        }
    }
}

/// An open watch.
pub struct Watch {
    encoding: Encoding,
    frames: Frames,
}

impl Watch {
    /// Waits for events, and takes all that are there already. False is the
    /// end.
    pub async fn wait(&mut self, patience: Duration) -> Result<bool, Failure> {
        self.frames.wait(patience).await
    }

    /// The next of the events that are there. An error that the API server
    /// reports inside a watch is a failure; the watch has come to `version`.
    pub fn next_event(&mut self, version: u64) -> Result<Option<Event<'_>>, Failure> {
        let Some(frame) = self.frames.next_frame()? else { return Ok(None) };
        let (kind, object) = match self.encoding {
            Encoding::Json => {
                let raw: RawEvent<'_> = serde_json::from_slice(frame).map_err(garbled)?;
                (raw.kind, Encoded::Json(raw.object.get()))
            }
            Encoding::Protobuf => {
                let (mut kind, mut object) = (&[][..], &[][..]);
                for field in Fields::new(frame) {
                    match field.map_err(garbled)? {
                        (1, Value::Bytes(bytes)) => kind = bytes,
                        (2, Value::Bytes(bytes)) => object = bytes,
                        _ => {}
                    }
                }
                let kind = std::str::from_utf8(kind).map_err(garbled)?;
                let Some(Value::Bytes(object)) = protobuf::field(object, 1).map_err(garbled)? else {
                    return Ok(Some(Event::Other));
                };
                (kind, Encoded::Protobuf(protobuf::unwrap(object).map_err(garbled)?))
            }
        };
        match (kind, object) {
            ("ADDED" | "MODIFIED", object) => Ok(Some(Event::Put(object))),
            ("DELETED", object) => match object.meta() {
                Some(meta) => Ok(Some(Event::Delete(meta))),
                None => Err(Failure::Garbled("the metadata of a deleted object is broken".into())),
            },
            ("BOOKMARK", object) => {
                let meta: Meta = object.meta().unwrap_or_default();
                Ok(Some(Event::Bookmark(meta.resource_version.0)))
            }
            ("ERROR", Encoded::Json(json)) => {
                Err(serde_json::from_str::<Status>(json).map_err(garbled)?.failure(version))
            }
            ("ERROR", Encoded::Protobuf(bytes)) => {
                Err(protobuf::status::<Status>(bytes).map_err(garbled)?.failure(version))
            }
            _ => Ok(Some(Event::Other)),
        }
    }
}

/// A line of a watch in JSON.
#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// What a watch says.
#[derive(Debug)]
pub enum Event<'a> {
    /// An object was created or changed.
    Put(Encoded<'a>),
    /// An object was deleted; this is its metadata.
    Delete(Meta),
    /// Everything up to this version has been said.
    Bookmark(u64),
    /// Something we need not know of.
    Other,
}
