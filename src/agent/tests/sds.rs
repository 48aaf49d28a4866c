//! What Envoy is told over the socket of secrets.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use envoy_types::pb::google::protobuf::Any;
use envoy_types::pb::google::rpc;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;

use super::own_certificate;
use super::server::connect;
use crate::agent::certificate::Workload;
use crate::agent::sds::Sds;
use crate::agent::secrets::{FileSecret, Secrets};
use crate::agent::socket;

struct Agent {
    secrets: Secrets,
    folder: TempDir,
    _tasks: [AbortOnDropHandle<()>; 2],
}

fn agent() -> Agent {
    let (secrets, folder) = (Secrets::default(), tempfile::tempdir().unwrap());
    let listener = socket::bind(&folder.path().join("SDS")).unwrap();
    let server = tonic::transport::Server::builder().add_service(Sds::server(secrets.clone()));
    let serve = async move { server.serve_with_incoming(UnixListenerStream::new(listener)).await.unwrap() };
    let tasks = [tokio::spawn(serve), tokio::spawn(secrets.clone().follow_files())].map(AbortOnDropHandle::new);
    Agent { secrets, folder, _tasks: tasks }
}

/// A stream: what to ask, and what is answered.
type Talk<Q, A> = (mpsc::Sender<Q>, Streaming<A>);

async fn whole(agent: &Agent, first: &[&str]) -> Talk<DiscoveryRequest, DiscoveryResponse> {
    let (sender, requests) = mpsc::channel(8);
    sender.send(ask(first, "")).await.unwrap();
    let channel = connect(&agent.folder.path().join("SDS")).await;
    let answer = SecretDiscoveryServiceClient::new(channel).stream_secrets(ReceiverStream::new(requests)).await;
    (sender, answer.unwrap().into_inner())
}

async fn delta(agent: &Agent, first: DeltaDiscoveryRequest) -> Talk<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
    let (sender, requests) = mpsc::channel(8);
    sender.send(first).await.unwrap();
    let channel = connect(&agent.folder.path().join("SDS")).await;
    let answer = SecretDiscoveryServiceClient::new(channel).delta_secrets(ReceiverStream::new(requests)).await;
    (sender, answer.unwrap().into_inner())
}

fn ask(names: &[&str], nonce: &str) -> DiscoveryRequest {
    let resource_names = names.iter().map(ToString::to_string).collect();
    DiscoveryRequest { resource_names, response_nonce: nonce.into(), ..Default::default() }
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
    DeltaDiscoveryRequest { resource_names_subscribe, ..Default::default() }
}

async fn answer<T>(stream: &mut Streaming<T>) -> T {
    let next = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
    next.expect("an answer in time").unwrap().expect("an answer")
}

async fn silent<T: std::fmt::Debug>(stream: &mut Streaming<T>) {
    let next = tokio::time::timeout(Duration::from_millis(200), stream.message()).await;
    assert!(next.is_err(), "{next:?}");
}

/// The name of a secret, and its certificates and key as texts.
fn read(resource: &Any) -> (String, String, String) {
    let secret = Secret::decode(resource.value.as_slice()).unwrap();
    let text = |source: Option<_>| match source {
        Some(envoy_types::pb::envoy::config::core::v3::DataSource {
            specifier: Some(Specifier::InlineBytes(bytes)),
            ..
        }) => String::from_utf8(bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    match secret.r#type.unwrap() {
        secret::Type::TlsCertificate(pair) => (secret.name, text(pair.certificate_chain), text(pair.private_key)),
        secret::Type::ValidationContext(roots) => (secret.name, text(roots.trusted_ca), String::new()),
        other => panic!("{other:?}"),
    }
}

fn workload(version: &str) -> Workload {
    Workload {
        chain: format!("chain {version}").into_bytes(),
        key: format!("key {version}").into_bytes(),
        roots: b"roots".to_vec(),
        identity: "spiffe://a/ns/b/sa/c".into(),
        expires: jiff::Timestamp::now(),
    }
}

fn certificate_of(version: &str) -> (String, String, String) {
    ("default".into(), format!("chain {version}"), format!("key {version}"))
}

fn roots() -> (String, String, String) {
    ("ROOTCA".into(), "roots".into(), String::new())
}

#[tokio::test]
async fn a_certificate_is_sent_when_there_is_one_and_when_it_is_renewed() {
    let agent = agent();
    let (ask_for, mut answers) = whole(&agent, &["default"]).await;
    silent(&mut answers).await;
    agent.secrets.set_workload(&workload("1"));
    let first = answer(&mut answers).await;
    assert_eq!(first.resources.iter().map(read).collect::<Vec<_>>(), [certificate_of("1")]);
    ask_for.send(ask(&["default"], &first.nonce)).await.unwrap();
    silent(&mut answers).await;
    agent.secrets.set_workload(&workload("2"));
    let second = answer(&mut answers).await;
    assert_eq!(second.resources.iter().map(read).collect::<Vec<_>>(), [certificate_of("2")]);
    assert_ne!((&first.nonce, &first.version_info), (&second.nonce, &second.version_info));
    // The socket is for the owner.
    let mode = std::fs::metadata(agent.folder.path().join("SDS")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn names_are_added_and_taken_away() {
    let agent = agent();
    agent.secrets.set_workload(&workload("1"));
    let (ask_for, mut answers) = whole(&agent, &["default"]).await;
    let first = answer(&mut answers).await;
    ask_for.send(ask(&["default", "ROOTCA"], &first.nonce)).await.unwrap();
    let second = answer(&mut answers).await;
    assert_eq!(second.resources.iter().map(read).collect::<Vec<_>>(), [roots(), certificate_of("1")]);
    // As if it had been sent before the second answer arrived.
    ask_for.send(ask(&["ROOTCA"], &first.nonce)).await.unwrap();
    silent(&mut answers).await;
    agent.secrets.set_workload(&workload("2"));
    silent(&mut answers).await;
}

#[tokio::test]
async fn increments_carry_what_changed() {
    let agent = agent();
    agent.secrets.set_workload(&workload("1"));
    let (ask_for, mut answers) = delta(&agent, subscribe(&["default", "ROOTCA"])).await;
    let first = answer(&mut answers).await;
    let held: Vec<_> = first.resources.iter().map(|one| read(one.resource.as_ref().unwrap())).collect();
    assert_eq!(held, [roots(), certificate_of("1")]);
    agent.secrets.set_workload(&workload("2"));
    let second = answer(&mut answers).await;
    assert_eq!(second.resources.len(), 1, "the roots are the same");
    assert_eq!(read(second.resources[0].resource.as_ref().unwrap()), certificate_of("2"));

    let rejected = rpc::Status { message: "no".into(), ..Default::default() };
    let nack =
        DeltaDiscoveryRequest { response_nonce: second.nonce, error_detail: Some(rejected), ..Default::default() };
    ask_for.send(nack).await.unwrap();
    silent(&mut answers).await;
    ask_for.send(subscribe(&["ROOTCA"])).await.unwrap();
    let again = answer(&mut answers).await;
    assert_eq!(read(again.resources[0].resource.as_ref().unwrap()), roots());

    let (_ask, mut resumed) = delta(
        &agent,
        DeltaDiscoveryRequest {
            initial_resource_versions: [("ROOTCA".to_string(), again.resources[0].version.clone())].into(),
            ..subscribe(&["ROOTCA", "default"])
        },
    )
    .await;
    let missing = answer(&mut resumed).await;
    assert_eq!(missing.resources.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["default"]);
}

#[tokio::test]
async fn unknown_names_get_nothing() {
    let agent = agent();
    agent.secrets.set_workload(&workload("1"));
    for name in ["", "DEFAULT", "kubernetes://credential", "file-cert:only", "file-root:", "default~x"] {
        let (_ask, mut answers) = whole(&agent, &[name]).await;
        silent(&mut answers).await;
    }
    let (_ask, mut answers) = delta(&agent, subscribe(&["kubernetes://credential", "ROOTCA"])).await;
    let known = answer(&mut answers).await;
    assert_eq!(known.resources.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["ROOTCA"]);
    assert!(known.removed_resources.is_empty());
}

#[tokio::test]
async fn files_are_followed_and_half_written_ones_are_not_sent() {
    let agent = agent();
    let path = |name: &str| agent.folder.path().join(name).display().to_string();
    let ((first, first_key), (second, second_key)) = (own_certificate("one"), own_certificate("two"));
    let name = format!("file-cert:{}~{}", path("cert"), path("key"));
    let root_name = format!("file-root:{}", path("cert"));
    std::fs::write(path("cert"), &first).unwrap();
    // The key of another.
    std::fs::write(path("key"), &second_key).unwrap();
    let (_ask, mut answers) = delta(&agent, subscribe(&[&name])).await;
    silent(&mut answers).await;
    std::fs::write(path("key"), &first_key).unwrap();
    let held = answer(&mut answers).await;
    assert_eq!(read(held.resources[0].resource.as_ref().unwrap()), (name.clone(), first.clone(), first_key));

    let (_ask, mut roots) = whole(&agent, &[&root_name]).await;
    assert_eq!(read(&answer(&mut roots).await.resources[0]), (root_name.clone(), first, String::new()));
    std::fs::write(path("key"), &second_key).unwrap();
    std::fs::write(path("cert"), &second).unwrap();
    let renewed = answer(&mut answers).await;
    assert_eq!(read(renewed.resources[0].resource.as_ref().unwrap()), (name, second.clone(), second_key));
    assert_eq!(read(&answer(&mut roots).await.resources[0]), (root_name, second, String::new()));
}

#[test]
fn names_of_files() {
    assert_eq!(FileSecret::parse("file-cert:/a~/b"), Some(FileSecret::Certificate("/a".into(), "/b".into())));
    assert_eq!(FileSecret::parse("file-root:/a"), Some(FileSecret::Roots("/a".into())));
    for name in ["file-cert:/a", "file-cert:~/b", "file-cert:/a~", "file-root:", "/a", "default"] {
        assert_eq!(FileSecret::parse(name), None, "{name}");
    }
}
