//! Questions about the control plane, and who is answered.

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::protobuf::Any;
use wire::DiscoveryResponse;

use super::*;
use crate::xds::server::inquiry::{Answers, Inquiry, Told};

/// Answers with who asked what.
struct Echo;

impl Answers for Echo {
    fn answer(&self, inquiry: Inquiry) -> BoxFuture<'static, Result<Vec<Told>, Status>> {
        let Inquiry { type_url, names, caller } = inquiry;
        async move {
            let told = |name: Arc<str>| {
                let value = format!("{} asks for {name}", caller.identities[0]).into_bytes();
                Told { name: name.to_string(), message: Any { type_url: type_url.clone(), value } }
            };
            Ok(names.into_iter().map(told).collect())
        }
        .boxed()
    }
}

/// Asks as istioctl does: as a sidecar, with a nonce that means nothing.
struct Asking {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
}

impl Asking {
    async fn new(mesh: &Mesh, token: Option<&str>) -> Self {
        let (requests, receiver) = mpsc::channel(100);
        let mut call = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let id = "sidecar~10.0.0.9~test-1.istio-system~istio-system.svc.cluster.local".into();
        let node = Some(WireNode { id, ..Default::default() });
        let first = DiscoveryRequest { node, ..Default::default() };
        let mut client = mesh.connect().await;
        let asking = client.stream_aggregated_resources(call);
        // The node may come with a request that means nothing.
        requests.send(DiscoveryRequest { type_url: "istio.io/nothing".into(), ..first }).await.unwrap();
        let responses = asking.await.unwrap().into_inner();
        Self { requests, responses }
    }

    async fn ask(&self, type_url: &str, name: &str, nonce: &str) {
        let (type_url, response_nonce) = (type_url.into(), nonce.into());
        let resource_names = vec![name.to_owned()];
        let request = DiscoveryRequest { type_url, resource_names, response_nonce, ..Default::default() };
        self.requests.send(request).await.unwrap();
    }

    async fn next(&mut self) -> Result<DiscoveryResponse, Status> {
        timeout(Duration::from_secs(10), self.responses.message()).await.unwrap().map(Option::unwrap)
    }
}

fn text(response: &DiscoveryResponse) -> &str {
    let [resource] = &response.resources[..] else { panic!("one resource") };
    std::str::from_utf8(&resource.value).unwrap()
}

#[tokio::test]
async fn who_has_proved_who_it_is_is_answered_once() {
    let mesh = Mesh::new(true, Layer::default(), options()).await;
    mesh.xds.answer_with(Arc::new(Echo));
    let mut asking = Asking::new(&mesh, Some("istio-system/default")).await;
    asking.ask("istio.io/debug", "syncz", "2026-01-01 00:00:00 +0000 UTC").await;
    let response = asking.next().await.unwrap();
    assert_eq!(text(&response), "spiffe://cluster.local/ns/istio-system/sa/default asks for syncz");
    assert_eq!(response.type_url, "istio.io/debug");
    assert_eq!(response.control_plane.as_ref().unwrap().identifier, options().control_plane);
    // Whoever acknowledges has the answer.
    asking.ask("istio.io/debug", "syncz", &response.nonce).await;
    asking.ask("istio.io/debug/config_dump", "a.b", "").await;
    let response = asking.next().await.unwrap();
    assert_eq!(response.type_url, "istio.io/debug/config_dump");
    assert!(text(&response).ends_with("asks for a.b"));
}

#[tokio::test]
async fn cve_2026_31838_nobody_else_is() {
    let mesh = Mesh::new(false, Layer::default(), Options { authenticate_plaintext: true, ..options() }).await;
    mesh.xds.answer_with(Arc::new(Echo));
    for (type_url, token) in
        [("istio.io/debug", "istio-system/default"), ("istio.io/debug/syncz", "istio-system/default")]
    {
        let mut asking = Asking::new(&mesh, Some(token)).await;
        asking.ask(type_url, "syncz", "").await;
        let refused = asking.next().await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "in plaintext, whoever asks");
    }
    let mesh = Mesh::new(true, Layer::default(), Options { authenticate_encrypted: false, ..options() }).await;
    mesh.xds.answer_with(Arc::new(Echo));
    let mut asking = Asking::new(&mesh, None).await;
    asking.ask("istio.io/debug/syncz", "", "").await;
    assert_eq!(
        asking.next().await.unwrap_err().code(),
        Code::Unauthenticated,
        "without proof, whatever is asked for it"
    );
}

#[tokio::test]
async fn what_only_looks_like_a_question_is_an_unknown_type() {
    let mesh = Mesh::new(false, Layer::default(), options()).await;
    mesh.xds.answer_with(Arc::new(Echo));
    let mut asking = Asking::new(&mesh, None).await;
    asking.ask("istio.io/debugging", "syncz", "").await;
    asking.ask(Authorization.type_url(), "*", "").await;
    assert_eq!(asking.next().await.unwrap().type_url, Authorization.type_url());
}

#[tokio::test]
async fn a_proxy_has_settled_when_it_has_judged_everything() {
    let mesh = Mesh::new(false, (0..3).map(|number| workload(number, 10)).collect(), options()).await;
    let mut client = mesh.open(&[Address]).await;
    let settled = |mesh: &Mesh| mesh.xds.connections().statuses().first().map_or(0, |status| status.settled);
    let response = timeout(Duration::from_secs(10), client.responses.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(settled(&mesh), 0, "it has not answered");
    let (type_url, response_nonce) = (response.type_url, response.nonce);
    client.requests.send(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }).await.unwrap();
    mesh.until(|mesh| settled(mesh) == 1).await;
    // What does not concern it needs no answer.
    mesh.publish((0..3).map(|number| workload(number, 10)).collect());
    mesh.until(|mesh| settled(mesh) == 2).await;
    mesh.publish((0..4).map(|number| workload(number, 10)).collect());
    client.next().await;
    mesh.until(|mesh| settled(mesh) == 3).await;
}
