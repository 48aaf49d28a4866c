//! What the agent asks a CA for, and which answers it takes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fairway_proto::auth::istio_certificate_service_server::{IstioCertificateService, IstioCertificateServiceServer};
use fairway_proto::auth::{IstioCertificateRequest, IstioCertificateResponse};
use openssl::pkey::PKey;
use openssl::x509::X509Req;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::server::control_plane;
use super::{certificate, key, own_certificate};
use crate::agent::certificate::{Identity, request, workload};
use crate::agent::upstream::{Roots, Upstream, chain};

/// A CA that takes one token, and remembers what it was asked.
#[derive(Clone, Default)]
struct Ca(Arc<Mutex<Vec<i64>>>);

#[tonic::async_trait]
impl IstioCertificateService for Ca {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let header = |name: &str| request.metadata().get(name).and_then(|value| value.to_str().ok().map(String::from));
        if header("authorization").as_deref() != Some("Bearer first") || header("clusterid").as_deref() != Some("east")
        {
            return Err(Status::unauthenticated("who is it?"));
        }
        let message = request.into_inner();
        self.0.lock().unwrap().push(message.validity_duration);
        let csr = X509Req::from_pem(message.csr.as_bytes()).unwrap();
        let public = csr.public_key().unwrap();
        assert!(csr.verify(&public).unwrap());
        let id = "spiffe://cluster.local/ns/shop/sa/waypoint";
        let leaf = certificate(&public, &key(), |names| _ = names.uri(id), 3600);
        let (root, _) = own_certificate("root");
        Ok(Response::new(IstioCertificateResponse { cert_chain: vec![leaf, root.clone(), root] }))
    }
}

fn identity() -> Identity {
    Identity { trust_domain: "cluster.local".into(), namespace: "shop".into(), service_account: "waypoint".into() }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_certificate_is_issued_for_a_new_key() {
    let ca = Ca::default();
    let plane = control_plane(Routes::new(IstioCertificateServiceServer::new(ca.clone()))).await;
    let first = request(&plane.upstream, &identity(), HOUR).await.unwrap();
    let second = request(&plane.upstream, &identity(), HOUR).await.unwrap();
    assert_eq!(first.identity, "spiffe://cluster.local/ns/shop/sa/waypoint");
    assert_ne!(first.key, second.key);
    PKey::private_key_from_pem(&first.key).unwrap();
    let count = |pem: &[u8]| String::from_utf8_lossy(pem).matches("BEGIN CERTIFICATE").count();
    // The root is not part of what is shown to peers.
    assert_eq!((count(&first.chain), count(&first.roots)), (2, 1));
    let left = first.expires.duration_since(jiff::Timestamp::now()).as_secs();
    assert!((3500..=3600).contains(&left), "{left}");
    assert_eq!(*ca.0.lock().unwrap(), [3600, 3600]);
}

async fn fails(upstream: &Upstream, part: &str) {
    let error = chain(&request(upstream, &identity(), HOUR).await.unwrap_err());
    assert!(error.contains(part), "{error}");
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let plane = control_plane(Routes::new(IstioCertificateServiceServer::new(Ca::default()))).await;
    let upstream = &plane.upstream;
    std::fs::write(&plane.token, "second").unwrap();
    fails(upstream, "Unauthenticated: who is it?").await;
    std::fs::write(&plane.token, " \n").unwrap();
    fails(upstream, "has no token").await;
    std::fs::remove_file(&plane.token).unwrap();
    fails(upstream, "cannot read").await;
    std::fs::write(&plane.token, "first").unwrap();

    fails(&Upstream { server_name: Some("istiod.other".into()), ..upstream.clone() }, "istiod.other").await;
    fails(&Upstream { roots: Some(Roots::System), ..upstream.clone() }, "handshake").await;
    fails(&Upstream { address: "127.0.0.1:1".into(), ..upstream.clone() }, "127.0.0.1:1").await;
    fails(&Upstream { address: "nowhere".into(), ..upstream.clone() }, "host:port").await;
    std::fs::write(&plane.roots, "no certificate").unwrap();
    fails(upstream, "no usable certificates").await;
}

#[test]
fn answers_that_are_of_no_use_are_refused() {
    let key = key();
    let public = PKey::public_key_from_pem(&key.public_key_to_pem().unwrap()).unwrap();
    let leaf = certificate(&public, &key, |names| _ = names.uri("spiffe://a/ns/b/sa/c"), 60);
    let (root, _) = own_certificate("root");
    let refused = |chain: &[&str]| {
        let chain: Vec<_> = chain.iter().map(ToString::to_string).collect();
        workload(&key, &chain).unwrap_err().to_string()
    };
    assert!(refused(&[]).contains("empty"));
    assert!(refused(&[&leaf]).contains("no root"));
    assert!(refused(&[&root, &root]).contains("another key"));
    assert!(refused(&["x", &root]).contains("certificate is broken"));
    assert!(refused(&[&leaf, "x"]).contains("roots are broken"));
    assert!(workload(&key, &[leaf, root]).is_ok());
}
