//! The service over real sockets, and bytes no client would send.

mod inquiries;
mod secrets;

use std::net::SocketAddr;
use std::sync::Weak;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3 as wire;
use fairway_proto::workload::{Address as WireAddress, Workload as WireWorkload, address};
use futures::StreamExt;
use http::HeaderMap;
use http_body_util::{BodyExt, Full};
use jiff::SignedDuration;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Server};
use tower::Service;
use wire::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use wire::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};

use super::*;
use crate::ca::authenticate::{Denial, Proof};
use crate::xds::resource::{Keys, Resource, ResourceType};
use crate::xds::stream::tests::node;
use crate::xds::verdict;
use crate::xds::view::Layer;
use ResourceType::{Address, Authorization, Workload};

/// Accepts `Bearer <namespace>/<service account>`.
struct Tokens;

impl Authenticate for Tokens {
    fn authenticate<'a>(&'a self, _: &'a Peer, headers: &'a HeaderMap) -> BoxFuture<'a, Result<Caller, Denial>> {
        let token = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let identity =
            token.and_then(|token| format!("spiffe://cluster.local/ns/{}", token.replace('/', "/sa/")).parse().ok());
        let caller = identity.map(|identity| Caller { identities: vec![identity], proof: Proof::Jwt, pod: None });
        async move { caller.ok_or_else(|| Denial("no token".into())) }.boxed()
    }
}

/// A server with a publisher.
struct Mesh {
    xds: Xds,
    publisher: watch::Sender<Arc<Views>>,
    drain: CancellationToken,
    registry: Registry,
    url: String,
}

/// A workload whose encoding has about `size` bytes.
fn workload(number: usize, size: usize) -> Resource {
    let uid = format!("cluster1//Pod/default/w{number:05}");
    let name = "x".repeat(size);
    let workload = WireWorkload { uid: uid.clone(), name, namespace: "default".into(), ..Default::default() };
    let message = WireAddress { r#type: Some(address::Type::Workload(workload)) }.encode_to_vec();
    let keys = Keys { aliases: Box::new([format!("/10.0.0.{number}").into()]), ..Default::default() };
    Resource::new(Address, &uid, &message, &keys)
}

impl Mesh {
    async fn new(encrypted: bool, addresses: Layer, options: Options) -> Self {
        Self::with_secrets(encrypted, addresses, options, Secrets::default()).await
    }

    async fn with_secrets(encrypted: bool, addresses: Layer, options: Options, secrets: Secrets) -> Self {
        let (publisher, views) = watch::channel(Arc::new(Views::new(1, addresses, Layer::default())));
        let (drain, mut registry) = (CancellationToken::new(), Registry::default());
        let xds = Xds::new(
            views,
            Arc::new(Tokens),
            options,
            (Arc::default(), verdict::channel().0),
            secrets,
            drain.clone(),
            &mut registry,
        );
        let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let url = format!("http://{}", incoming.local_addr().unwrap());
        let peer = tower::util::MapRequestLayer::new(move |mut request: http::Request<_>| {
            let address = Some(SocketAddr::from(([10, 0, 0, 1], 1)));
            request.extensions_mut().insert(Peer { encrypted, address, ..Peer::default() });
            request
        });
        tokio::spawn(Server::builder().layer(peer).add_service(xds.server()).serve_with_incoming(incoming));
        Self { xds, publisher, drain, registry, url }
    }

    fn publish(&self, addresses: Layer) {
        let revision = self.publisher.borrow().revision + 1;
        self.publisher.send_replace(Arc::new(Views::new(revision, addresses, Layer::default())));
    }

    async fn connect(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        let channel = Channel::from_shared(self.url.clone()).unwrap().connect().await.unwrap();
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(200 << 20)
    }

    /// Opens a delta stream for these types.
    async fn open(&self, types: &[ResourceType]) -> Client {
        let (requests, receiver) = mpsc::channel(100);
        for ty in types {
            requests.send(DeltaDiscoveryRequest { node: Some(node()), ..delta(*ty) }).await.unwrap();
        }
        let mut client = self.connect().await;
        let responses = client.delta_aggregated_resources(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Client { requests, responses }
    }

    fn metric(&self, name: &str) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        line.map(|line| line[name.len()..].trim().to_owned()).unwrap_or_default()
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        for _ in 0..500 {
            if condition(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not within 5 s");
    }
}

struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Client {
    /// The next response, acknowledged.
    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let response = timeout(Duration::from_secs(10), self.responses.message()).await.unwrap().unwrap().unwrap();
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        let ack = DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() };
        self.requests.send(ack).await.unwrap();
        response
    }

    async fn end(&mut self) -> Status {
        timeout(Duration::from_secs(10), self.responses.message()).await.unwrap().unwrap_err()
    }
}

fn delta(ty: ResourceType) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: ty.type_url().into(), ..Default::default() }
}

fn options() -> Options {
    Options { control_plane: r#"{"Component":"istiod"}"#.into(), ..Options::default() }
}

#[tokio::test]
async fn cold_sync_and_changes_decode_everywhere() {
    let mut layer: Layer = (0..5_000).map(|number| workload(number, 1_000)).collect();
    // One frame larger than any chunk, in the middle.
    layer.upsert(workload(2_500, 200_000));
    let mesh = Mesh::new(false, layer.clone(), options()).await;
    let mut client = mesh.open(&[Address, Authorization, Workload]).await;
    let mut first: Vec<_> = Vec::new();
    for _ in 0..3 {
        first.push(client.next().await);
    }
    first.sort_by_key(|response| response.type_url.clone());
    let [authorization, address, workloads] = &first[..] else { panic!("three types") };
    assert!(authorization.resources.is_empty());
    assert_eq!(address.resources.len(), 5_000);
    assert_eq!(workloads.resources.len(), 5_000);
    assert_eq!(address.control_plane.as_ref().unwrap().identifier, options().control_plane);
    assert_eq!(address.system_version_info, "1");
    for ((resource, sent), inner) in layer.iter().zip(&address.resources).zip(&workloads.resources) {
        assert_eq!(resource.name(), sent.name);
        assert_eq!(resource.version().to_string(), sent.version);
        assert_eq!(resource.message(Address), sent.resource.as_ref().unwrap().value);
        assert_eq!(resource.message(Workload), inner.resource.as_ref().unwrap().value);
    }

    layer.upsert(workload(7, 10));
    layer.remove("cluster1//Pod/default/w00001");
    mesh.publish(layer);
    for _ in 0..2 {
        let response = client.next().await;
        assert_eq!(response.resources.len(), 1);
        assert_eq!(response.removed_resources, ["cluster1//Pod/default/w00001"]);
    }
    mesh.until(|mesh| mesh.metric("pilot_xds_pushes{type=\"Address\"}") == "2").await;
    assert_eq!(mesh.metric("pilot_xds{version=\"unknown\"}"), "1");
}

#[tokio::test]
async fn slow_reader_costs_little_and_delays_nobody() {
    let large = |content: usize| (0..5_000).map(|number| workload(number, 2_000 + content)).collect::<Layer>();
    let mesh = Mesh::new(false, large(0), options()).await;
    // It never reads; flow control stops its stream within the first response.
    let _stuck = mesh.open(&[Address]).await;
    mesh.until(|mesh| mesh.xds.connections().len() == 1).await;
    let mut healthy = mesh.open(&[Address]).await;
    healthy.next().await;
    let mut published: Vec<Weak<Views>> = Vec::new();
    for round in 1..20 {
        mesh.publish(large(round % 2));
        published.push(Arc::downgrade(&mesh.publisher.borrow()));
        let response = timeout(Duration::from_secs(10), healthy.next()).await.unwrap();
        assert_eq!(response.resources.len(), 5_000);
    }
    // Of all those views only the latest ones are still alive.
    let alive = published.iter().filter(|views| views.strong_count() > 0).count();
    assert!(alive <= 3, "{alive} of {} views are kept", published.len());
    assert_eq!(mesh.metric("pilot_xds_pushes{type=\"Address\"}"), "20");
}

#[tokio::test]
async fn disconnect_frees_the_connection() {
    let mesh = Mesh::new(false, Layer::default(), options()).await;
    let mut client = mesh.open(&[Address]).await;
    client.next().await;
    mesh.until(|mesh| mesh.xds.connections().statuses().iter().any(|status| status.types[0].progress.acked.is_some()))
        .await;
    let [status] = &mesh.xds.connections().statuses()[..] else { panic!("one connection") };
    assert_eq!(status.connection, "zt.istio-system-1");
    let json = serde_json::to_value(status).unwrap();
    assert_eq!(json["types"][0]["ty"], "Address");
    assert_eq!(json["node"]["kind"], "ztunnel");
    drop(client);
    mesh.until(|mesh| mesh.xds.connections().is_empty()).await;
    assert_eq!(mesh.metric("pilot_xds{version"), "");
}

#[tokio::test]
async fn sotw_answers_and_ends_when_the_client_is_done() {
    let mesh = Mesh::new(false, [workload(1, 1), workload(2, 1)].into_iter().collect(), options()).await;
    let request = DiscoveryRequest { node: Some(node()), type_url: Address.type_url().into(), ..Default::default() };
    let response = mesh.connect().await.stream_aggregated_resources(futures::stream::iter([request])).await.unwrap();
    let responses: Vec<_> = response.into_inner().map(|response| response.unwrap()).collect().await;
    let [response] = &responses[..] else { panic!("one response and then the end") };
    assert_eq!(response.version_info, "1");
    let mut sent: Vec<_> = response.resources.iter().map(|resource| resource.value.clone()).collect();
    sent.sort();
    assert_eq!(sent, [workload(1, 1), workload(2, 1)].map(|resource| resource.message(Address)));
}

#[tokio::test]
async fn callers_on_tls_must_authenticate() {
    let mesh = Mesh::new(true, Layer::default(), options()).await;
    for (token, namespace, account, expected) in [
        (None, None, None, Code::Unauthenticated),
        (Some("nonsense"), None, None, Code::Unauthenticated),
        (Some("istio-system/ztunnel"), None, None, Code::Ok),
        (Some("istio-system/ztunnel"), None, Some("ztunnel"), Code::Ok),
        (Some("istio-system/ztunnel"), None, Some("other"), Code::PermissionDenied),
        (Some("istio-system/ztunnel"), Some("default"), None, Code::PermissionDenied),
        (Some("default/ztunnel"), None, None, Code::PermissionDenied),
    ] {
        let mut node = node();
        let fields = &mut node.metadata.get_or_insert_default().fields;
        for (key, value) in [("NAMESPACE", namespace), ("SERVICE_ACCOUNT", account)] {
            use envoy_types::pb::google::protobuf::{Value, value::Kind};
            let kind = value.map(|value| Kind::StringValue(value.into()));
            fields.insert(key.into(), Value { kind });
        }
        let (requests, receiver) = mpsc::channel(1);
        requests.send(DeltaDiscoveryRequest { node: Some(node), ..delta(Address) }).await.unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let code = match mesh.connect().await.delta_aggregated_resources(request).await {
            Ok(response) => response.into_inner().message().await.map_or_else(|status| status.code(), |_| Code::Ok),
            Err(status) => status.code(),
        };
        assert_eq!(code, expected, "{token:?} {namespace:?} {account:?}");
    }
    assert_eq!(mesh.metric("pilot_xds_unauthenticated"), "2");
}

#[tokio::test]
async fn ztunnels_are_refused_without_ambient() {
    let mesh = Mesh::new(false, Layer::default(), Options { ambient: false, ..options() }).await;
    assert_eq!(mesh.open(&[Address]).await.end().await.code(), Code::FailedPrecondition);
    mesh.until(|mesh| mesh.xds.connections().is_empty()).await;
}

#[tokio::test]
async fn drain_and_age_end_streams_as_unavailable() {
    let mesh = Mesh::new(false, Layer::default(), options()).await;
    let mut client = mesh.open(&[Address]).await;
    client.next().await;
    mesh.drain.cancel();
    let status = client.end().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "transport is closing"));

    // Until a stream's turn comes it is told what is new.
    let options = Options { drain: Duration::from_secs(3600), ..options() };
    let mesh = Mesh::new(false, Layer::default(), options).await;
    let mut client = mesh.open(&[Address]).await;
    client.next().await;
    mesh.drain.cancel();
    mesh.publish([workload(1, 10)].into_iter().collect());
    assert_eq!(client.next().await.resources.len(), 1);

    let options = Options { max_age: Some(Duration::from_millis(50)), ..super::tests::options() };
    let mesh = Mesh::new(false, Layer::default(), options).await;
    let mut client = mesh.open(&[Address]).await;
    client.next().await;
    assert_eq!(client.end().await.message(), "transport is closing");
}

#[tokio::test]
async fn some_streams_are_sent_elsewhere() {
    let mesh = Mesh::new(false, Layer::default(), options()).await;
    let mut clients = vec![];
    for _ in 0..5 {
        let mut client = mesh.open(&[Address]).await;
        client.next().await;
        clients.push(client);
    }
    let connections = mesh.xds.connections().clone();
    assert_eq!(connections.shed(3, SignedDuration::from_hours(1)), 0, "they have just come");
    assert_eq!(connections.shed(2, SignedDuration::ZERO), 2);
    assert_eq!(connections.shed(9, SignedDuration::ZERO), 3, "those that leave are not counted twice");
    for client in &mut clients {
        assert_eq!(client.end().await.message(), "transport is closing");
    }
    mesh.until(|mesh| mesh.xds.connections().is_empty()).await;
}

#[tokio::test]
async fn rejections_are_counted_and_shown() {
    let mesh = Mesh::new(false, Layer::default(), options()).await;
    let mut client = mesh.open(&[Address]).await;
    let response_nonce = client.responses.message().await.unwrap().unwrap().nonce;
    let error_detail = Some(envoy_types::pb::google::rpc::Status { message: "é".repeat(5_000), ..Default::default() });
    client.requests.send(DeltaDiscoveryRequest { response_nonce, error_detail, ..delta(Address) }).await.unwrap();
    let stale = DeltaDiscoveryRequest { response_nonce: "old".into(), ..delta(Address) };
    client.requests.send(stale).await.unwrap();
    mesh.until(|mesh| mesh.metric("pilot_xds_expired_nonce{type=\"Address\"}") == "1").await;
    assert_eq!(mesh.metric("pilot_total_xds_rejects{type=\"Address\"}"), "1");
    let error = mesh.xds.connections().statuses()[0].types[0].progress.error.clone().unwrap();
    assert_eq!(error.len(), 4096);
}

/// What the service answers to these bytes, without a transport.
async fn answer(path: &str, peer: Option<Peer>, body: Vec<u8>) -> (Option<HeaderMap>, Bytes) {
    let views = watch::channel(Arc::new(Views::new(1, Layer::default(), Layer::default())));
    let options = Options { max_message: 1 << 16, max_message_unauthenticated: 1 << 10, ..options() };
    let drain = CancellationToken::new();
    let xds = Xds::new(
        views.1,
        Arc::new(Tokens),
        options,
        (Arc::default(), verdict::channel().0),
        Secrets::default(),
        drain,
        &mut Registry::default(),
    );
    let mut server = xds.server();
    let mut request = http::Request::post(path).body(Full::new(Bytes::from(body))).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let response = server.call(request).await.unwrap();
    let headers = response.headers().clone();
    let collected = response.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned().or(headers.contains_key("grpc-status").then_some(headers));
    (trailers, collected.to_bytes())
}

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

fn framed(message: &[u8]) -> Vec<u8> {
    [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

#[tokio::test]
async fn wrong_calls_get_a_status() {
    let plaintext = Some(Peer::default());
    let no_node = framed(&delta(Address).encode_to_vec());
    let two = [no_node.clone(), no_node.clone()].concat();
    for (path, peer, body, expected) in [
        ("/envoy.service.discovery.v3.AggregatedDiscoveryService/Other", plaintext.clone(), vec![], "12"),
        // Nothing is known about the connection.
        (DELTA, None, no_node.clone(), "16"),
        (DELTA, plaintext.clone(), vec![], "0"),
        (DELTA, plaintext.clone(), no_node, "3"),
        (DELTA, plaintext.clone(), two, "3"),
        (DELTA, plaintext.clone(), framed(&[0x0a, 0x7f]), "3"),
        // Cut short, compressed, and too long: refused by the prefix alone.
        (DELTA, plaintext.clone(), vec![0, 0, 0], "13"),
        (DELTA, plaintext.clone(), vec![1, 0, 0, 0, 0], "12"),
        (DELTA, plaintext.clone(), vec![0, 0xff, 0xff, 0xff, 0xff], "8"),
        (DELTA, plaintext.clone(), vec![0, 0, 0, 4, 1], "8"),
    ] {
        let (trailers, _) = answer(path, peer, body.clone()).await;
        assert_eq!(trailers.unwrap()["grpc-status"], expected, "{path} {body:?}");
    }
}

proptest::proptest! {
    #[test]
    fn cve_2022_23635_hostile_bytes_get_a_status(
        body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
        frame: bool,
        after_first: bool,
    ) {
        let first = DeltaDiscoveryRequest { node: Some(node()), ..delta(Address) };
        let first = if after_first { framed(&first.encode_to_vec()) } else { Vec::new() };
        let body = [first, if frame { framed(&body) } else { body }].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (trailers, _) = runtime.block_on(answer(DELTA, Some(Peer::default()), body));
        assert!(trailers.unwrap().contains_key("grpc-status"));
    }
}
