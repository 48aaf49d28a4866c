use std::collections::BTreeMap;

use futures::future::{BoxFuture, FutureExt};
use http::HeaderMap;
use openssl::x509::X509PurposeId;
use prost_types::{Struct, Value};
use tonic::Code;

use super::*;
use crate::ca::authenticate::{PodBinding, Proof};
use crate::ca::bundle::CaBundle;
use crate::ca::handover::Pace;
use crate::ca::node::{PodFacts, Pods};
use crate::ca::self_signed::{self, RootPolicy};
use crate::ca::testing::*;

/// Callers say who they are in the `authorization` header.
struct Trusting;

impl Authenticate for Trusting {
    fn authenticate<'a>(&'a self, _: &'a Peer, headers: &'a HeaderMap) -> BoxFuture<'a, Result<Caller, Denial>> {
        async move {
            let says = headers.get("authorization").ok_or_else(|| Denial("secret reason".into()))?;
            let identities = says.to_str().unwrap().split(' ').map(id).collect();
            let pod = Some(PodBinding { name: "zt".into(), uid: "u".into() });
            Ok(Caller { identities, proof: Proof::KubernetesToken, pod })
        }
        .boxed()
    }
}

struct OneNode;

impl Pods for OneNode {
    fn pod(&self, _: &str, name: &str) -> Option<PodFacts> {
        let facts = PodFacts { uid: "u".into(), service_account: "ztunnel".into(), node: "n1".into(), terminal: false };
        (name == "zt").then_some(facts)
    }

    fn runs_on(&self, node: &str, namespace: &str, service_account: &str) -> bool {
        (node, namespace, service_account) == ("n1", "default", "alice")
    }
}

const ALICE: &str = "spiffe://cluster.local/ns/default/sa/alice";
const ZTUNNEL: &str = "spiffe://cluster.local/ns/istio-system/sa/ztunnel";

fn service_with(bundle: CaBundle) -> CertificateService {
    let nodes = NodeAuthorizer::new(vec!["istio-system/ztunnel".parse().unwrap()], trust_domains(), Arc::new(OneNode));
    let authority = Arc::new(Authority::new(bundle, Pace::default()));
    let (metrics, denials) = (CaMetrics::default(), Denials::default());
    CertificateService::new(authority, Arc::new(Trusting), Some(nodes), Lifetimes::default(), metrics, denials)
}

fn request(caller: &str, csr: &str) -> Request<IstioCertificateRequest> {
    let mut request =
        Request::new(IstioCertificateRequest { csr: csr.into(), validity_duration: 3600, metadata: None });
    request.extensions_mut().insert(Peer { encrypted: true, ..Peer::default() });
    if !caller.is_empty() {
        request.metadata_mut().insert("authorization", caller.parse().unwrap());
    }
    request
}

fn impersonating(caller: &str, kind: Kind) -> Request<IstioCertificateRequest> {
    let mut request = request(caller, &csr(&p256()));
    let fields = BTreeMap::from([("ImpersonatedIdentity".to_owned(), Value { kind: Some(kind) })]);
    request.get_mut().metadata = Some(Struct { fields });
    request
}

async fn issued_to(service: &CertificateService, request: Request<IstioCertificateRequest>) -> Vec<String> {
    let chain = service.create_certificate(request).await.unwrap().into_inner().cert_chain;
    names(&verify(&chain, X509PurposeId::SSL_CLIENT, now()))
}

async fn refused(service: &CertificateService, request: Request<IstioCertificateRequest>, code: Code, message: &str) {
    let status = service.create_certificate(request).await.unwrap_err();
    let (said, id) = match status.message().split_once(" (id ") {
        Some((said, id)) => (said, id.strip_suffix(')')),
        None => (status.message(), None),
    };
    assert_eq!((status.code(), said), (code, message));
    // Whoever may look finds out why by what the caller was told.
    let explained = service.denials.list(id).into_iter().next();
    assert_eq!(explained.is_some(), code == Code::Unauthenticated, "{explained:?}");
    assert_eq!(explained.map(|denied| denied.id).as_deref(), id);
}

#[tokio::test]
async fn a_caller_gets_its_own_identity() {
    let service = service_with(root_bundle());
    assert_eq!(issued_to(&service, request(ALICE, &csr(&p256()))).await, [format!("URI:{ALICE}")]);
    assert_eq!((service.metrics.requests.get(), service.metrics.issued.get()), (1, 1));
    let issuers = service.authority.report(Timestamp::now()).issuers;
    assert_eq!(issuers.iter().map(|issuer| (issuer.signs, issuer.certificates)).collect::<Vec<_>>(), [(true, 1)]);
}

#[tokio::test]
async fn a_node_gets_the_identities_of_its_pods_and_no_others() {
    let service = service_with(root_bundle());
    let ask = |caller, identity: &str| impersonating(caller, Kind::StringValue(identity.into()));
    assert_eq!(issued_to(&service, ask(ZTUNNEL, ALICE)).await, [format!("URI:{ALICE}")]);
    let bob = "spiffe://cluster.local/ns/default/sa/bob";
    for (caller, kind) in [
        (ZTUNNEL, Kind::StringValue(bob.into())),
        (ALICE, Kind::StringValue(bob.into())),
        (ZTUNNEL, Kind::StringValue(String::new())),
        (ZTUNNEL, Kind::StringValue(format!("{ALICE},URI:{bob}"))),
        (ZTUNNEL, Kind::StringValue("spiffe://evil/ns/default/sa/alice".into())),
        (ZTUNNEL, Kind::NumberValue(1.0)),
    ] {
        let message = "request impersonation authentication failure";
        refused(&service, impersonating(caller, kind), Code::Unauthenticated, message).await;
    }
    assert_eq!(service.metrics.authentication_failures.get(), 6);
}

#[tokio::test]
async fn a_refused_caller_learns_nothing() {
    let service = service_with(root_bundle());
    let message = "request authenticate failure";
    refused(&service, request("", &csr(&p256())), Code::Unauthenticated, message).await;
    let mut plain = request(ALICE, &csr(&p256()));
    plain.extensions_mut().insert(Peer::default());
    refused(&service, plain, Code::Unauthenticated, message).await;
    let mut unknown = request(ALICE, &csr(&p256()));
    unknown.extensions_mut().remove::<Peer>();
    refused(&service, unknown, Code::Unauthenticated, message).await;
    refused(&service, request(&format!("{ALICE} {ZTUNNEL}"), &csr(&p256())), Code::Unauthenticated, message).await;
    assert_eq!((service.metrics.authentication_failures.get(), service.metrics.identity_errors.get()), (4, 1));
}

#[tokio::test]
async fn a_bad_request_is_told_what_is_wrong_with_it() {
    let service = service_with(root_bundle());
    let weak = csr(&rsa_key(1024));
    let message = "CSR signing error (CSR key is RSA of 1024 bits, not 2048 to 8192)";
    refused(&service, request(ALICE, &weak), Code::InvalidArgument, message).await;
    let mut long = request(ALICE, &csr(&p256()));
    long.get_mut().validity_duration = i64::MAX;
    let message =
        "CSR signing error (requested TTL 9223372036854775807 s is greater than the max allowed TTL 7776000 s)";
    refused(&service, long, Code::InvalidArgument, message).await;
    let errors = |error| service.metrics.sign_errors.get_or_create(&SignErrorLabels { error }).get();
    assert_eq!((errors("CSR_ERROR"), errors("TTL_ERROR"), service.metrics.parse_errors.get()), (1, 1, 1));
}

#[tokio::test]
async fn an_expired_signer_is_unavailable() {
    let made = later(-7200);
    let policy = RootPolicy { ttl: std::time::Duration::from_secs(3600), ..RootPolicy::default() };
    let files = self_signed::create(&trust_domain(), policy, made).unwrap();
    let service = service_with(CaBundle::verified(&files, made).unwrap());
    let message = "CSR signing error (the CA is not ready)";
    refused(&service, request(ALICE, &csr(&p256())), Code::Unavailable, message).await;
}

/// Prints what the service manages on this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_at_once() {
    let service = Arc::new(service_with(root_bundle()));
    let (count, text) = (1000, csr(&p256()));
    let start = std::time::Instant::now();
    let requests = (0..count).map(|_| {
        let (service, request) = (service.clone(), request(ALICE, &text));
        tokio::spawn(async move { service.create_certificate(request).await.map(drop) })
    });
    for answer in futures::future::join_all(requests).await {
        answer.unwrap().unwrap();
    }
    println!("{:.0} CSR/s", f64::from(count) / start.elapsed().as_secs_f64());
    assert_eq!(service.metrics.issued.get(), i64::from(count));
}
