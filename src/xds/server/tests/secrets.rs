//! Who gets secrets over the wire.

use envoy_types::pb::envoy::config::core::v3::Node as WireNode;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};

use super::*;
use crate::credential::Place;
use crate::proxy::Scope;
use crate::xds::secret::tests::{item, there};
use crate::xds::secret::{Accounts, Content};
use ResourceType::Secret;

/// A server with secrets, and what it has been asked to look up.
struct Opened {
    mesh: Mesh,
    vault: watch::Sender<Arc<Vault>>,
    asked: watch::Receiver<crate::xds::demand::Wanted<Want>>,
}

fn gateway() -> WireNode {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
    let labels = Struct { fields: [("gateway.networking.k8s.io/gateway-name".into(), text("wp"))].into() };
    let labels = Value { kind: Some(Kind::StructValue(labels)) };
    let fields = [("LABELS".into(), labels), ("SERVICE_ACCOUNT".into(), text("gw"))];
    WireNode {
        id: "waypoint~1.1.1.1~wp.ns~ns.svc.cluster.local".into(),
        metadata: Some(Struct { fields: fields.into() }),
        ..Default::default()
    }
}

fn vault(content: Content) -> Arc<Vault> {
    let items = [("ns", "a"), ("far", "a")].map(|(ns, name)| (Place::secret(ns, name), item(content.clone(), &[])));
    Arc::new(Vault { revision: 1, items: items.into_iter().collect(), accounts: Accounts::All })
}

impl Opened {
    async fn new(encrypted: bool, options: Options) -> Self {
        let (vault, vaults) = watch::channel(vault(there(10)));
        let secrets = Secrets { vault: vaults, asked: Arc::default() };
        let asked = secrets.asked.follow();
        let mesh = Mesh::with_secrets(encrypted, Layer::default(), options, secrets).await;
        let scope = Scope::of(&Node::parse(&gateway()).unwrap()).unwrap();
        let views = Views::new(2, Layer::default(), Layer::default());
        mesh.publisher.send_replace(Arc::new(views.with_scopes([(scope, Arc::default())].into_iter().collect())));
        Self { mesh, vault, asked }
    }

    /// What a caller with a token is told of some names.
    async fn ask(&self, token: Option<&str>, names: &[&str]) -> Client {
        let (requests, receiver) = mpsc::channel(100);
        let resource_names_subscribe = names.iter().map(ToString::to_string).collect();
        let request = DeltaDiscoveryRequest { node: Some(gateway()), resource_names_subscribe, ..delta(Secret) };
        requests.send(request).await.unwrap();
        let mut call = tonic::Request::new(ReceiverStream::new(receiver));
        if let Some(token) = token {
            call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let responses = self.mesh.connect().await.delta_aggregated_resources(call).await.unwrap().into_inner();
        Client { requests, responses }
    }

    async fn told(&self, token: Option<&str>, names: &[&str]) -> (Vec<String>, Vec<String>) {
        let response = self.ask(token, names).await.next().await;
        (response.resources.into_iter().map(|one| one.name).collect(), response.removed_resources)
    }
}

const OWN: &str = "kubernetes://a";
const FAR: &str = "kubernetes://far/a";

#[tokio::test]
async fn a_proxy_gets_its_own_and_no_other() {
    let opened = Opened::new(true, options()).await;
    let mut client = opened.ask(Some("ns/gw"), &[OWN, FAR]).await;
    let response = client.next().await;
    assert_eq!(response.resources.len(), 1);
    assert_eq!(response.resources[0].name, OWN);
    assert_eq!(response.resources[0].resource.as_ref().unwrap().value, b"\x0a\x0ekubernetes://a\x12\x01x");
    assert_eq!(response.removed_resources, [FAR]);
    assert_eq!(opened.mesh.metric("pilot_sds_certificate_errors_total"), "1");
    // It is woken when there is another.
    opened.vault.send_replace(vault(there(11)));
    let response = client.next().await;
    assert_eq!(response.resources[0].version, format!("{:016x}", 11));
    let asked: Vec<_> = opened.asked.borrow().keys().cloned().collect();
    assert_eq!(asked, [Want::Place(Place::secret("ns", "a"))]);
    drop(client);
    opened.mesh.until(|_| opened.asked.borrow().is_empty()).await;
}

/// Plaintext is for everybody on the way to read, whoever is calling.
#[tokio::test]
async fn nobody_gets_secrets_over_plaintext() {
    for (authenticate_plaintext, token) in [(false, None), (false, Some("ns/gw")), (true, Some("ns/gw"))] {
        let opened = Opened::new(false, Options { authenticate_plaintext, ..options() }).await;
        let (sent, removed) = opened.told(token, &[OWN, "kubernetes://a-cacert"]).await;
        assert_eq!((sent.len(), removed.len()), (0, 2), "{token:?}");
        assert!(opened.asked.borrow().is_empty(), "nothing is looked up for them");
    }
}

/// Who does not have to prove who it is has not proved it.
#[tokio::test]
async fn nobody_gets_secrets_without_authentication() {
    let opened = Opened::new(true, Options { authenticate_encrypted: false, ..options() }).await;
    let (sent, _) = opened.told(Some("ns/gw"), &[OWN]).await;
    assert_eq!(sent, [""; 0]);
}

/// CVE-2021-34824, and what its like would be where identities are not checked:
/// the node that a client says it is gives it nothing.
#[tokio::test]
async fn cve_2021_34824_saying_who_one_is_gives_nothing() {
    let opened = Opened::new(true, Options { check_identity: false, ..options() }).await;
    // First one that may, so that there is something to be kept.
    assert_eq!(opened.told(Some("ns/gw"), &[OWN]).await.0, [OWN]);
    for token in ["far/gw", "ns/other", "other/gw"] {
        let (sent, removed) = opened.told(Some(token), &[OWN, FAR]).await;
        assert_eq!((sent.len(), removed.len()), (0, 2), "{token}");
    }
    assert_eq!(opened.told(Some("ns/gw"), &[OWN]).await.0, [OWN]);
}

#[tokio::test]
async fn nothing_of_a_secret_is_logged_or_shown() {
    let opened = Opened::new(true, options()).await;
    let mut client = opened.ask(Some("ns/gw"), &[OWN]).await;
    client.next().await;
    opened.mesh.until(|mesh| mesh.metric("pilot_xds_pushes{type=\"SDS\"}") == "1").await;
    let shown = serde_json::to_string(&opened.mesh.xds.connections().statuses()).unwrap();
    assert!(shown.contains("SDS") && !shown.contains(OWN), "{shown}");
}
