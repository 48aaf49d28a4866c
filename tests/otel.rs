//! Traces, as a collector gets them: of a change of a folder, over its commit, to
//! the acknowledgement of a ztunnel.
#![allow(clippy::unwrap_used, reason = "whatever fails here fails a test")]

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use http::HeaderMap;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
const PATIENCE: Duration = Duration::from_secs(20);

// What is looked at of OTLP's messages.

#[derive(Clone, PartialEq, Message)]
struct Export {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(int64, optional, tag = "3")]
    number: Option<i64>,
    #[prost(message, optional, tag = "5")]
    array: Option<ArrayValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ArrayValue {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|one| one.key == key).and_then(|one| one.value.clone());
    value.and_then(|value| value.text).unwrap_or_else(|| panic!("{key} is not in {attributes:?}"))
}

impl Span {
    fn number(&self, key: &str) -> i64 {
        let value = self.attributes.iter().find(|one| one.key == key).and_then(|one| one.value.clone());
        value.and_then(|value| value.number).unwrap_or_else(|| panic!("{key} is not in {self:?}"))
    }
}

/// Takes spans, and says what else was told of whom.
async fn collector() -> (SocketAddr, mpsc::UnboundedReceiver<ResourceSpans>) {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let sender = sender.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let sender = sender.clone();
                async move {
                    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    for resource in Export::decode(&body[5..]).unwrap().resources {
                        // The test may have seen enough.
                        let _ = sender.send(resource);
                    }
                    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                    let frames = [Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)];
                    let body = StreamBody::new(futures::stream::iter(frames.map(Ok::<_, Infallible>)));
                    let answer = Response::builder().header("content-type", "application/grpc").body(body);
                    Ok::<_, Infallible>(answer.unwrap())
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, received)
}

fn free_address() -> String {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().to_string()
}

/// A control plane of a folder, and a ztunnel that is connected to it.
struct Pair {
    fairway: Child,
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Pair {
    async fn start(folder: &Path, variables: &[(&str, &str)]) -> Self {
        let (objects, state) = (folder.join("objects"), folder.join("state"));
        std::fs::create_dir_all(&objects).unwrap();
        write(&objects, "one", "10.1.0.1");
        let grpc = free_address();
        let mut command = Command::new(env!("CARGO_BIN_EXE_fairway"));
        command.args(["discovery", "--grpcAddr", &grpc]).arg("--configDir").arg(&objects);
        command.arg("--stateDir").arg(&state);
        for flag in ["--secureGRPCAddr", "--httpAddr", "--httpsAddr", "--monitoringAddr"] {
            command.args([flag, &free_address()]);
        }
        let log = std::fs::File::create(folder.join("log")).unwrap();
        command.envs(variables.iter().copied()).env("OTEL_BSP_SCHEDULE_DELAY", "50").env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let mut fairway = command.spawn().unwrap();
        let channel = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Ok(channel) = Channel::from_shared(format!("http://{grpc}")).unwrap().connect().await {
                    return channel;
                }
                let ended = fairway.try_wait().unwrap();
                assert!(ended.is_none(), "{}", std::fs::read_to_string(folder.join("log")).unwrap());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut client = Grpc::new(channel.await.expect("a connection"));
        let (requests, stream) = mpsc::channel(4);
        let node = Node { id: "ztunnel~127.0.0.1~z.istio-system~x".into(), ..Node::default() };
        let first = DeltaDiscoveryRequest { node: Some(node), type_url: ADDRESS.into(), ..Default::default() };
        requests.send(first).await.unwrap();
        client.ready().await.unwrap();
        let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources".parse().unwrap();
        let stream = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(stream));
        let codec = ProstCodec::<DeltaDiscoveryRequest, DeltaDiscoveryResponse>::default();
        let responses = client.streaming(stream, path, codec).await.unwrap().into_inner();
        let mut pair = Self { fairway, requests, responses };
        pair.told("one", None).await;
        pair
    }

    /// Waits for a response that has somebody's address, and answers it.
    async fn told(&mut self, name: &str, error: Option<&str>) {
        let response = tokio::time::timeout(PATIENCE, self.responses.message()).await.expect("a response in time");
        let response = response.unwrap().unwrap();
        assert!(response.resources.iter().any(|resource| resource.name.contains(name)), "{response:?}");
        let answer = DeltaDiscoveryRequest {
            type_url: ADDRESS.into(),
            response_nonce: response.nonce,
            error_detail: error.map(|message| envoy_types::pb::google::rpc::Status {
                code: 3,
                message: message.into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        self.requests.send(answer).await.unwrap();
    }
}

/// Puts a service into the folder in one step.
fn write(objects: &Path, name: &str, address: &str) {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{hosts: [{name}.example.com], addresses: [{address}], ports: [{{number: 80, name: http, protocol: HTTP}}], \
         resolution: STATIC, endpoints: [{{address: 10.2.0.1}}]}}\n"
    );
    let unseen = objects.parent().unwrap().join(name);
    std::fs::write(&unseen, text).unwrap();
    std::fs::rename(unseen, objects.join(format!("{name}.yaml"))).unwrap();
}

async fn next_with(spans: &mut mpsc::UnboundedReceiver<ResourceSpans>, name: &str) -> (Resource, Vec<Span>) {
    let mut seen = vec![];
    let wait = async {
        loop {
            let batch = spans.recv().await.unwrap();
            seen.extend(batch.scopes.into_iter().flat_map(|scope| scope.spans));
            if seen.iter().any(|span| span.name == name) {
                return batch.resource.unwrap();
            }
        }
    };
    let resource = tokio::time::timeout(PATIENCE, wait).await;
    (resource.unwrap_or_else(|_| panic!("no {name} among {seen:?}")), seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_seen_up_to_its_acknowledgement() {
    let folder = tempfile::tempdir().unwrap();
    let (address, mut spans) = collector().await;
    let endpoint = format!("http://{address}");
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_SERVICE_NAME", "mine")];
    let mut pair = Pair::start(folder.path(), &variables).await;
    write(&folder.path().join("objects"), "two", "10.1.0.2");
    pair.told("two", None).await;
    let (resource, seen) = next_with(&mut spans, "push").await;
    assert_eq!(text(&resource.attributes, "service.name"), "mine");

    let push = seen.iter().find(|span| span.name == "push").unwrap();
    let commit = seen.iter().find(|span| span.id == push.parent).unwrap();
    let change = seen.iter().find(|span| span.id == commit.parent).unwrap();
    assert_eq!((commit.name.as_str(), change.name.as_str()), ("commit", "change"));
    assert!(change.parent.is_empty());
    assert!(push.trace == commit.trace && commit.trace == change.trace, "one trace: {push:?} {commit:?} {change:?}");
    assert!(change.start <= commit.start && commit.start <= commit.end && commit.end <= change.end);
    assert!(commit.end <= push.start && push.start <= push.end);
    assert_eq!(text(&push.attributes, "fairway.proxy"), "z.istio-system");
    assert_eq!(text(&push.attributes, "fairway.type"), "Address");
    assert_eq!(text(&push.attributes, "fairway.answer"), "ACK");
    // The service and its endpoint.
    assert_eq!(push.number("fairway.resources"), 2);
    assert!(push.number("fairway.bytes") > 100, "{push:?}");
    assert_eq!(change.number("fairway.events"), 1);
    assert!(commit.number("fairway.rows") >= 3, "{commit:?}");
    assert_eq!(commit.number("fairway.revision"), change.number("fairway.revision"));

    write(&folder.path().join("objects"), "three", "10.1.0.3");
    pair.told("three", Some("not that one")).await;
    let (_, seen) = next_with(&mut spans, "push").await;
    let rejected = seen.iter().find(|span| span.name == "push").unwrap();
    assert_eq!(text(&rejected.attributes, "fairway.answer"), "NACK");
    assert_eq!(rejected.status.as_ref().unwrap().message, "not that one");
    assert_ne!(rejected.trace, push.trace);
}

/// One that takes connections and says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_does_not_answer_delays_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    // Two spans of each change are one too many for the queue.
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_BSP_MAX_QUEUE_SIZE", "1")];
    let mut pair = Pair::start(folder.path(), &variables).await;
    for number in 0..5 {
        let name = format!("next{number}");
        let written = std::time::Instant::now();
        write(&folder.path().join("objects"), &name, "10.1.0.2");
        pair.told(&name, None).await;
        // A batch that is not taken has five.
        assert!(written.elapsed() < Duration::from_secs(4), "{name} took {:?}", written.elapsed());
    }
    let process = rustix::process::Pid::from_raw(pair.fairway.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    drop((pair.requests, pair.responses));
    let ended = tokio::time::timeout(Duration::from_secs(10), pair.fairway.wait()).await.expect("it ends");
    assert!(ended.unwrap().success());
}
