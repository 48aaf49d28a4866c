//! Envoy's stream through the agent to a control plane.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use futures::{Stream, StreamExt};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::Routes;
use tonic::{Code, Request, Response, Status, Streaming};

use super::server::{connect, control_plane};
use crate::agent::upstream::Upstream;
use crate::agent::{socket, xds_proxy};

/// A control plane that answers each request with its type, and ends the
/// stream when asked for `end`.
#[derive(Clone, Default)]
struct Ads(Arc<Mutex<Vec<(Option<String>, Option<String>)>>>);

impl Ads {
    fn note<T>(&self, request: &Request<T>) {
        let header = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_string());
        self.0.lock().unwrap().push((header("authorization"), header("clusterid")));
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.note(&request);
        let answers = request.into_inner().map(|request| {
            let type_url = request?.type_url;
            Ok(DiscoveryResponse { type_url, ..Default::default() })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.note(&request);
        if request.metadata().get("authorization").is_some_and(|token| token == "Bearer stranger") {
            return Err(Status::unauthenticated("who is it?"));
        }
        let answers = request.into_inner().map(|request| match request?.type_url {
            end if end == "end" => Err(Status::resource_exhausted("enough")),
            type_url => Ok(DeltaDiscoveryResponse { type_url, ..Default::default() }),
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

struct Agent {
    socket: PathBuf,
    _folder: TempDir,
    _task: AbortOnDropHandle<()>,
}

fn agent(upstream: Upstream) -> Agent {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("XDS");
    let listener = socket::bind(&path).unwrap();
    let serve = async move { xds_proxy::serve(listener, Arc::new(upstream)).await.unwrap() };
    Agent { socket: path, _folder: folder, _task: AbortOnDropHandle::new(tokio::spawn(serve)) }
}

impl Agent {
    async fn delta(&self) -> (mpsc::Sender<DeltaDiscoveryRequest>, Result<Streaming<DeltaDiscoveryResponse>, Status>) {
        let (sender, requests) = mpsc::channel(8);
        let mut client = AggregatedDiscoveryServiceClient::new(connect(&self.socket).await);
        let answers = client.delta_aggregated_resources(ReceiverStream::new(requests)).await;
        (sender, answers.map(Response::into_inner))
    }
}

fn delta(type_url: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { type_url: type_url.into(), ..Default::default() }
}

#[tokio::test]
async fn messages_pass_both_ways_with_the_token_of_the_moment() {
    let ads = Ads::default();
    let plane = control_plane(Routes::new(AggregatedDiscoveryServiceServer::new(ads.clone()))).await;
    let agent = agent(plane.upstream.clone());
    let (ask, answers) = agent.delta().await;
    let mut answers = answers.unwrap();
    // Longer than any window, so that flow control has to work.
    let long = "x".repeat(3 << 20);
    for type_url in ["one", &long, "two"] {
        ask.send(delta(type_url)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().type_url, type_url);
    }
    std::fs::write(&plane.token, "second").unwrap();
    let (second_ask, second) = agent.delta().await;
    second_ask.send(delta("end")).await.unwrap();
    let ended = second.unwrap().message().await.unwrap_err();
    assert_eq!((ended.code(), ended.message()), (Code::ResourceExhausted, "enough"));
    // The other stream has a connection of its own.
    ask.send(delta("three")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().type_url, "three");
    let seen = |token: &str| (Some(format!("Bearer {token}")), Some("east".to_string()));
    assert_eq!(*ads.0.lock().unwrap(), [seen("first"), seen("second")]);
}

#[tokio::test]
async fn state_of_the_world_passes_too_and_ends_when_envoy_ends_it() {
    let plane = control_plane(Routes::new(AggregatedDiscoveryServiceServer::new(Ads::default()))).await;
    let agent = agent(plane.upstream.clone());
    let (sender, requests) = mpsc::channel(8);
    let mut client = AggregatedDiscoveryServiceClient::new(connect(&agent.socket).await);
    sender.send(DiscoveryRequest { type_url: "one".into(), ..Default::default() }).await.unwrap();
    let answers = client.stream_aggregated_resources(ReceiverStream::new(requests)).await.unwrap();
    let mut answers = answers.into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().type_url, "one");
    drop(sender);
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn refusals_reach_envoy_as_they_are() {
    let plane = control_plane(Routes::new(AggregatedDiscoveryServiceServer::new(Ads::default()))).await;
    std::fs::write(&plane.token, "stranger").unwrap();
    let refused = agent(plane.upstream.clone()).delta().await.1.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Unauthenticated, "who is it?"));
    std::fs::remove_file(&plane.token).unwrap();
    let refused = agent(plane.upstream.clone()).delta().await.1.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("cannot read"), "{refused:?}");
    let nowhere = Upstream { address: "127.0.0.1:1".into(), roots: None, ..plane.upstream.clone() };
    let refused = agent(nowhere).delta().await.1.unwrap_err();
    assert!(refused.code() == Code::Unavailable && refused.message().contains("cannot connect"), "{refused:?}");
}

#[tokio::test]
async fn a_control_plane_that_breaks_off_is_unavailable() {
    let plane = control_plane(Routes::new(AggregatedDiscoveryServiceServer::new(Ads::default()))).await;
    // Plaintext to a port that wants TLS: the connection ends without a word.
    let agent = agent(Upstream { roots: None, ..plane.upstream.clone() });
    let (_ask, answers) = agent.delta().await;
    assert_eq!(answers.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn only_ads_is_forwarded() {
    let plane = control_plane(Routes::new(AggregatedDiscoveryServiceServer::new(Ads::default()))).await;
    let agent = agent(plane.upstream.clone());
    let mut client = SecretDiscoveryServiceClient::new(connect(&agent.socket).await);
    let refused = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
}

#[test]
fn a_token_does_not_go_where_it_can_be_read() {
    let upstream = Upstream {
        address: "127.0.0.1:15010".into(),
        server_name: None,
        roots: None,
        token_file: "/dev/null/none".into(),
        headers: Default::default(),
    };
    assert!(upstream.call_headers().unwrap().is_empty());
}
