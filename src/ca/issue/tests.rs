use std::time::Instant;

use openssl::x509::X509PurposeId;
use openssl::x509::extension::SubjectAlternativeName;
use proptest::prelude::*;

use super::*;
use crate::ca::bundle::CaBundle;
use crate::ca::files::CaFiles;
use crate::ca::self_signed::{self, RootKey, RootPolicy};
use crate::ca::testing::*;
use crate::ca::timestamp;

const DAY: i64 = 24 * 3600;

fn alice() -> SpiffeId {
    id("spiffe://cluster.local/ns/default/sa/alice")
}

fn issued(bundle: &CaBundle, csr: &str, ttl: i64, at: Timestamp) -> Result<Vec<String>, IssueError> {
    bundle.workload_chain(&Csr::parse(csr).unwrap(), &alice(), ttl, Lifetimes::default(), at)
}

/// A request that asks for everything it must not get.
fn hostile() -> String {
    let builder = X509Builder::new().unwrap();
    let mut names = SubjectAlternativeName::new();
    names.uri("spiffe://cluster.local/ns/kube-system/sa/admin").dns("istiod.istio-system.svc").ip("10.0.0.1");
    let extensions = vec![
        names.build(&builder.x509v3_context(None, None)).unwrap(),
        BasicConstraints::new().critical().ca().build().unwrap(),
        KeyUsage::new().critical().key_cert_sign().build().unwrap(),
        ExtendedKeyUsage::new().code_signing().build().unwrap(),
    ];
    csr_with(&p256(), extensions)
}

#[test]
fn a_leaf_says_what_we_say_and_nothing_of_the_request() {
    for bundle in [root_bundle(), made_bundle("ec"), made_bundle("rsa")] {
        let at = now();
        let chain = issued(&bundle, &hostile(), 3600, at).unwrap();
        for purpose in [X509PurposeId::SSL_CLIENT, X509PurposeId::SSL_SERVER] {
            let leaf = verify(&chain, purpose, at);
            assert_eq!(names(&leaf), ["URI:spiffe://cluster.local/ns/default/sa/alice"]);
            assert_eq!(leaf.subject_name().entries().count(), 0);
            let text = text(&leaf);
            for line in [
                "X509v3 Subject Alternative Name: critical\n",
                "X509v3 Basic Constraints: critical\n                CA:FALSE",
                "X509v3 Key Usage: critical\n                Digital Signature, Key Encipherment\n",
                "TLS Web Client Authentication, TLS Web Server Authentication\n",
                "X509v3 Subject Key Identifier",
                "X509v3 Authority Key Identifier",
            ] {
                assert!(text.contains(line), "{line:?} is not in {text}");
            }
            assert!(!text.contains("Code Signing") && !text.contains("Certificate Sign") && !text.contains("admin"));
        }
    }
}

#[test]
fn the_chain_is_leaf_then_intermediates_then_roots() {
    let at = now();
    let chain = issued(&root_bundle(), &csr(&p256()), 0, at).unwrap();
    assert_eq!(chain.len(), 2, "a self-signed root has no intermediates");
    let bundle = made_bundle("ec");
    let chain = issued(&bundle, &csr(&p256()), 0, at).unwrap();
    let subjects: Vec<_> =
        chain[1..].iter().map(|pem| format!("{:?}", X509::from_pem(pem.as_bytes()).unwrap().subject_name())).collect();
    assert!(
        subjects[0].contains("Intermediate") && subjects[1].contains("Root") && subjects.len() == 2,
        "{subjects:?}"
    );
}

#[test]
fn every_signing_key_signs() {
    for policy_key in [RootKey::P256, RootKey::Rsa(2048)] {
        let policy = RootPolicy { key: policy_key, ..RootPolicy::default() };
        let files = self_signed::create(&trust_domain(), policy, Timestamp::now()).unwrap();
        let bundle = CaBundle::verified(&files, now()).unwrap();
        for key in [p256(), rsa_key(2048), ec_key(Nid::SECP384R1), PKey::generate_ed25519().unwrap()] {
            verify(&issued(&bundle, &csr(&key), 0, now()).unwrap(), X509PurposeId::SSL_CLIENT, now());
        }
    }
}

#[test]
fn the_lifetime_is_what_was_asked_within_bounds() {
    let bundle = root_bundle();
    let at = now();
    let lifetime = |ttl| {
        let leaf = verify(&issued(&bundle, &csr(&p256()), ttl, at).unwrap(), X509PurposeId::SSL_CLIENT, at);
        let seconds = |time| timestamp(time).unwrap().as_second() - at.as_second();
        (seconds(leaf.not_before()), seconds(leaf.not_after()))
    };
    assert_eq!(lifetime(0), (-120, DAY));
    assert_eq!(lifetime(-1), (-120, DAY));
    assert_eq!(lifetime(i64::MIN), (-120, DAY));
    assert_eq!(lifetime(3600), (-120, 3600));
    assert_eq!(lifetime(90 * DAY), (-120, 90 * DAY));
    // Half of it must lie ahead.
    assert_eq!(lifetime(16), (-4, 16));
    assert_eq!(lifetime(480), (-120, 480));
    for ttl in [90 * DAY + 1, i64::MAX] {
        assert!(matches!(issued(&bundle, &csr(&p256()), ttl, at), Err(IssueError::Ttl { .. })));
    }
}

#[test]
fn no_leaf_outlives_its_issuers() {
    let policy = RootPolicy { ttl: Duration::from_secs(100), ..RootPolicy::default() };
    let files = self_signed::create(&trust_domain(), policy, Timestamp::now()).unwrap();
    let bundle = CaBundle::verified(&files, now()).unwrap();
    let leaf = verify(&issued(&bundle, &csr(&p256()), DAY, now()).unwrap(), X509PurposeId::SSL_CLIENT, now());
    assert_eq!(timestamp(leaf.not_after()).unwrap(), bundle.not_after());
    for at in [later(100), later(DAY)] {
        assert!(matches!(issued(&bundle, &csr(&p256()), DAY, at), Err(IssueError::Expired(_))));
    }
}

#[test]
fn serials_are_random() {
    let serials: std::collections::HashSet<_> = (0..1000)
        .map(|_| serial().unwrap().to_bn().unwrap())
        .map(|serial| {
            assert!(!serial.is_negative());
            serial.to_vec()
        })
        .collect();
    assert_eq!(serials.len(), 1000);
}

#[test]
fn a_server_certificate_is_for_servers() {
    let bundle = made_bundle("ec");
    let names_wanted = [ServerName::new("istiod.istio-system.svc"), ServerName::new("127.0.0.1")];
    let (cert, _) = bundle.serving_pair(&names_wanted, Duration::from_secs(60), now()).unwrap();
    assert_eq!(names(&cert), ["DNS:istiod.istio-system.svc", "IP:127.0.0.1"]);
    let text = text(&cert);
    assert!(text.contains("TLS Web Server Authentication") && !text.contains("Client") && text.contains("CA:FALSE"));
}

/// Prints what a request costs; `cargo test -- --nocapture` shows it. The bound
/// is what a debug build of ours on a busy machine still keeps: OpenSSL itself
/// is always optimised.
#[test]
fn a_request_costs_little() {
    let bundle = root_bundle();
    let csr = csr(&p256());
    let count = 500;
    let start = Instant::now();
    for _ in 0..count {
        issued(&bundle, &csr, 0, now()).unwrap();
    }
    let each = start.elapsed() / count;
    println!("P-256 CSR parsed, verified and signed in {each:?}");
    assert!(each < Duration::from_millis(5), "{each:?}");
}

proptest! {
    #[test]
    fn validity_stays_in_its_bounds(ttl in 1..100_000_000_u64, end in 0..4_000_000_000_i64, now in 0..4_000_000_000_i64) {
        let (end, now) = (Timestamp::from_second(end).unwrap(), Timestamp::from_second(now).unwrap());
        match validity(Duration::from_secs(ttl), end, now) {
            Ok((not_before, not_after)) => {
                prop_assert!(not_after <= end && not_after > now && not_before <= now);
                let half = not_before + not_after.duration_since(not_before) / 2;
                prop_assert!(half > now, "ztunnel would refresh at once");
                prop_assert!(not_after.duration_since(now) <= SignedDuration::from_secs(ttl as i64));
            }
            Err(IssueError::Expired(_)) => prop_assert!(end <= now),
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}

#[test]
fn the_same_files_make_the_same_bundle() {
    let files: CaFiles = root();
    let bundle = CaBundle::verified(&files, now()).unwrap();
    assert!(bundle.is_from(&files) && !bundle.is_from(&root()));
}
