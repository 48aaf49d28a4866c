use futures::StreamExt;
use tonic::transport::{Channel, Server};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::*;

async fn ask(served: Served, requests: &[MessageRequest]) -> Vec<ServerReflectionResponse> {
    let incoming = tonic::transport::server::TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", incoming.local_addr().unwrap());
    let server = Server::builder().add_service(v1(served).unwrap()).add_service(v1alpha(served).unwrap());
    tokio::spawn(server.serve_with_incoming(incoming));
    let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
    let requests = requests.iter().cloned();
    let requests: Vec<_> = requests
        .map(|request| ServerReflectionRequest { host: String::new(), message_request: Some(request) })
        .collect();
    let mut client = ServerReflectionClient::new(channel);
    let responses = client.server_reflection_info(futures::stream::iter(requests)).await.unwrap();
    responses.into_inner().map(Result::unwrap).collect().await
}

#[tokio::test]
async fn services_are_listed_and_resources_described() {
    let symbol = |name: &str| MessageRequest::FileContainingSymbol(name.into());
    let requests = [
        MessageRequest::ListServices(String::new()),
        symbol("envoy.service.discovery.v3.AggregatedDiscoveryService"),
        symbol("istio.workload.Address"),
        symbol("istio.security.Authorization"),
        symbol("grpc.health.v1.Health"),
    ];
    for (served, certificates) in [(Served::Discovery, false), (Served::DiscoveryAndCertificates, true)] {
        let responses = ask(served, &requests).await;
        let Some(MessageResponse::ListServicesResponse(list)) = &responses[0].message_response else {
            panic!("no list: {responses:?}")
        };
        let names: Vec<_> = list.service.iter().map(|service| &*service.name).collect();
        assert!(names.contains(&crate::xds::server::NAME), "{names:?}");
        assert_eq!(names.contains(&"istio.v1.auth.IstioCertificateService"), certificates);
        for response in &responses[1..] {
            let described = matches!(response.message_response, Some(MessageResponse::FileDescriptorResponse(_)));
            assert!(described, "{response:?}");
        }
    }
}
